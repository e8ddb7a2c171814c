"""What can go wrong, and the exit code of each.

    PresenceError              1
    ├── UsageError             2   the call itself is wrong
    ├── HeldByAnotherError     3   with --strict, or with an exclusive claim: another session holds the resource
    ├── WaitTimedOutError      4   it took longer than the caller would wait
    ├── ClaimLostError         5   with --strict: a claim ran out before it was renewed
    └── BoardError            69   the board could not be asked; without --strict the exit code is 0
        ├── ConfigError            no usable kubeconfig, context or credentials
        ├── UnreachableError       no answer in time, or no connection
        ├── DeniedError            credentials or RBAC refuse
        ├── BoardFullError         a ResourceQuota refuses one more claim or session
        ├── NotInstalledError      the custom resource definitions or the namespace are missing
        └── ServerError            an answer that makes no sense, or too much contention

Every message is one line: the cause, then what to do about it.
"""


class PresenceError(Exception):
    """Base of all expected failures; `str(error)` is one line for the user."""

    exit_code = 1


class UsageError(PresenceError):
    """The call is wrong; the message says what to write instead."""

    exit_code = 2


class HeldByAnotherError(PresenceError):
    """Another session holds the resource."""

    exit_code = 3


class WaitTimedOutError(PresenceError):
    """It took longer than the caller would wait."""

    exit_code = 4


class ClaimLostError(PresenceError):
    """A claim ended before it was renewed."""

    exit_code = 5


class BoardError(PresenceError):
    """The board could not be asked. Callers go on without it unless --strict was given."""

    exit_code = 69
    #: What its line begins with.
    what = "board unreachable"


class ConfigError(BoardError):
    """No usable kubeconfig, context or credentials."""


class UnreachableError(BoardError):
    """No connection, or no answer in time."""


class DeniedError(BoardError):
    """The API server refuses these credentials, or RBAC refuses the action."""


class BoardFullError(BoardError):
    """A ResourceQuota of the namespace refuses one more object."""

    what = "board full"


class NotInstalledError(BoardError):
    """The custom resource definitions or the namespace are missing."""


class ServerError(BoardError):
    """The API server answered with something that does not help: a fault of its own, or lasting contention."""
