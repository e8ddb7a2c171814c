"""The one error that callers of this package catch."""


class DevclusterError(Exception):
    """Something the user can act on; the message says what to do."""
