"""What the Board wants done, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from presence_operator.core.facts import Claim, ClaimStatus, Session, SessionStatus


class Priority(IntEnum):
    """Which of two actions goes first."""

    URGENT = 0
    """Somebody waits: a claim begins or ends."""
    NORMAL = 1
    """A promise is extended, a conflict shown."""
    LOW = 2
    """Housekeeping: counts, mirror conditions, old objects."""


@dataclass(frozen=True, slots=True)
class WriteClaimStatus:
    """Write this status, provided that the claim still is as it was decided upon (uid and resourceVersion)."""

    claim: Claim
    status: ClaimStatus
    deadline: float
    attempt: int = 0

    @property
    def began(self) -> bool:
        """True when this write grants the claim or ends it before it was ever shown as granted."""
        return self.claim.status.granted_at is None and self.status.granted_at is not None

    @property
    def ended(self) -> bool:
        """True when this write ends the claim."""
        return self.status.ended and not self.claim.status.ended


@dataclass(frozen=True, slots=True)
class GrantExclusive:
    """Let the Lease of the resource name this claim, then write this status with the fencing token of that grant.

    Provided that the claim still is as it was decided upon (uid and resourceVersion), and that whoever the Lease names
    is over. See `core.granting`.
    """

    claim: Claim
    status: ClaimStatus
    deadline: float
    attempt: int = 0

    @property
    def began(self) -> bool:
        """True: it grants the claim."""
        return True

    @property
    def ended(self) -> bool:
        """False: it does not end the claim."""
        return False


@dataclass(frozen=True, slots=True)
class FreeLease:
    """Blank the Lease of a resource that nobody holds or waits for, provided that it still names this uid."""

    namespace: str
    resource: str
    holder: str
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class WriteSessionStatus:
    """Write this status, provided that the session still is as it was decided upon (uid and resourceVersion)."""

    session: Session
    status: SessionStatus
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class DeleteObject:
    """Delete an ended object, provided that it still is as it was decided upon (uid and resourceVersion)."""

    target: Claim | Session
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class VerifySessions:
    """Read these sessions of a namespace again, linearizably.

    A claim is ended for silence only after such a read that began after its deadline: a heartbeat that the watch has
    not told yet still counts. `names` are object names; a name that does not exist is an answer too. `uids` are those
    of the known objects among them. `sessions_there` is the number of known sessions, for choosing between single
    reads and a list.
    """

    namespace: str
    names: tuple[str, ...]
    uids: frozenset[str]
    session_ids: tuple[str, ...]
    sessions_there: int
    attempt: int = 0


@dataclass(frozen=True, slots=True)
class EmitEvent:
    """Tell people through a Kubernetes Event on the object. Never repeated, and nothing depends on it."""

    target: Claim | Session
    reason: str
    note: str
    warning: bool = False


Action = WriteClaimStatus | GrantExclusive | FreeLease | WriteSessionStatus | DeleteObject | VerifySessions


@dataclass(frozen=True, slots=True)
class Done:
    """The write succeeded; `fact` is the object as the API server answered, if it did."""

    fact: Claim | Session | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """The object does not exist any more."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Nothing was written; decide again in `retry_in` seconds, from `fact` if it was read meanwhile."""

    retry_in: float
    fact: Claim | Session | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """Not granted: the resource's Lease names this claim, or it holds the resource, and it is not over."""

    by: Claim


@dataclass(frozen=True, slots=True)
class Verified:
    """The sessions as read by requests that began at `since` or later, by the server's clock."""

    since: float
    found: tuple[Session, ...]
    unparsable: frozenset[str] = frozenset()
    """Names of those that exist, but cannot be understood."""


Outcome = Done | Gone | Failed | Held | Verified
