"""Names of the API: group, kinds, annotations, field managers, phases and their limits.

The custom resource definitions in `crds/` state the same limits; a test compares the two.
"""

GROUP = "presence.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

CLAIM_KIND = "PresenceClaim"
CLAIM_PLURAL = "presenceclaims"
SESSION_KIND = "AgentSession"
SESSION_PLURAL = "agentsessions"

#: The shared board: nodes and stacks belong to no one's current namespace.
DEFAULT_BOARD = "presence"

#: How long a claim or session lives after its last sign of life, as a duration such as `15m`.
TTL_ANNOTATION = f"{GROUP}/ttl"
#: A renewal. Its value is for people to read; only the API server's time of the change counts.
HEARTBEAT_ANNOTATION = f"{GROUP}/heartbeat"
#: Written by a renewing holder whose claim had already run out: the deadline it missed (RFC 3339).
#: It keeps an expired claim expired when nobody was there to write that down at the time.
LAPSED_ANNOTATION = f"{GROUP}/lapsed"

#: Field manager of every renewal. Its `managedFields` time is the trusted time of the heartbeat.
HEARTBEAT_MANAGER = "presence-heartbeat"
#: Field manager of what the command line writes otherwise.
CLI_MANAGER = "presence-cli"
#: Field manager of the operator's status writes.
OPERATOR_MANAGER = "presence-operator"

# Phases of a claim.
PENDING = "Pending"
ACTIVE = "Active"
EXPIRED = "Expired"
RELEASED = "Released"
#: A claim in one of these phases never lives again.
ENDED_PHASES = frozenset({EXPIRED, RELEASED})

# Phases of a session. Expired and Completed are final.
STALE = "Stale"
PAUSED = "Paused"
COMPLETED = "Completed"
ENDED_SESSION_PHASES = frozenset({EXPIRED, COMPLETED})

# Wanted states of a session (`spec.state`).
RUNNING = "Running"

# Kinds of a session (`spec.kind`).
AGENT = "Agent"
PIPELINE = "Pipeline"
HUMAN = "Human"

# Modes of a claim (`spec.mode`).
SHARED = "Shared"
EXCLUSIVE = "Exclusive"

# What becomes of the resource when an exclusive claim expires (`spec.onExpiry`).
ON_EXPIRY_RELEASE = "Release"
ON_EXPIRY_HOLD = "Hold"

# Annotations of the Lease by which exclusive claims are granted.
RESOURCE_ANNOTATION = f"{GROUP}/resource"
CLAIM_ANNOTATION = f"{GROUP}/claim"
SESSION_ANNOTATION = f"{GROUP}/session"
#: The number of the latest exclusive grant of the resource.
FENCING_TOKEN_ANNOTATION = f"{GROUP}/fencing-token"
#: On a Lease that was made anew, until the grants that began under an older one are fenced off.
UNFENCED_ANNOTATION = f"{GROUP}/unfenced"

#: Seconds a claim or session lives without a sign of life when it says nothing itself.
DEFAULT_TTL = 900.0
#: Seconds; bounds of a ttl unless the operator is configured otherwise.
MIN_TTL = 5.0
MAX_TTL = 86_400.0
#: Seconds between two heartbeats of a session that says nothing itself.
DEFAULT_HEARTBEAT_SECONDS = 30
#: A session is stale after this many missed heartbeats.
MISSED_BEATS = 3

# Lengths in characters.
RESOURCE_MAX = 255
SESSION_MAX = 128
PURPOSE_MAX = 1024
#: `spec.priority` of a claim is within minus this and this.
PRIORITY_MAX = 1000
USER_MAX = 64
HOST_MAX = 128
AGENT_MAX = 64
URL_MAX = 1024
REASON_MAX = 1024

DEFAULT_AGENT = "claude-code"
