"""Where the mirror's database is: `mysql://user:password@host:port/database`."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

_EXAMPLE = "write mysql://<user>:<password>@<host>:3306/<database>"
_SCHEMES = ("mysql", "mariadb", "dolt")
_TLS = ("off", "verify", "insecure")


class DsnError(ValueError):
    """The text names no database; the message says what to write instead and never holds the password."""


@dataclass(frozen=True, slots=True)
class Dsn:
    """A database on a server that speaks the MySQL protocol. Its text form hides the password."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    database: str
    tls: str = "off"
    """`off`, `verify` (certificate and host name are checked) or `insecure` (encrypted, not checked)."""
    ca: str | None = None
    """File with the certificates to trust instead of the system's."""

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"mysql://{self.user}@{host}:{self.port}/{self.database}"

    @classmethod
    def parse(cls, text: str) -> Dsn:
        """The database that `text` names; see `parse_dsn`.

        Raises:
            DsnError: the text names no database.
        """
        return parse_dsn(text)

    def ssl_context(self) -> ssl.SSLContext | None:
        """The TLS settings, None for a plain connection.

        Raises:
            DsnError: the file of certificates cannot be read.
        """
        if self.tls == "off":
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise DsnError(f"the mirror's address: ca={self.ca} cannot be used: {error}") from None
        if self.tls == "insecure":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def parse_dsn(text: str) -> Dsn:
    """The database that `text` names. User, password and database are percent-decoded; the port defaults to 3306.

    Options after `?`: `tls=off|verify|insecure` and `ca=<file>` (which means `tls=verify`).

    Raises:
        DsnError: the text names no database.
    """
    # urlsplit takes `/` and `#` in a password for the end of the address; find the password first, so that a password
    # that was not percent-encoded is not told in the error.
    match = re.fullmatch(r"(?P<scheme>[A-Za-z+]+)://(?:(?P<login>.*)@)?(?P<rest>[^@]*)", text.strip())
    if match is None or match["scheme"].lower() not in _SCHEMES:
        raise DsnError(f"the mirror's address must begin with mysql://: {_EXAMPLE}")
    user, _, password = (match["login"] or "").partition(":")
    try:
        parts = urlsplit(f"mysql://{match['rest']}")
        port = 3306 if parts.port is None else parts.port
    except ValueError:
        raise DsnError(f"the mirror's address has no right host and port: {_EXAMPLE}") from None
    host, database = parts.hostname or "", unquote(parts.path.lstrip("/"))
    for what, value in (("user", user), ("host", host), ("database", database)):
        if not value:
            raise DsnError(f"the mirror's address names no {what}: {_EXAMPLE}")
    if not 0 < port < 65536:
        raise DsnError(f"the mirror's address has port {port}; a port is a number from 1 to 65535")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    ca = options.pop("ca", None)
    tls = options.pop("tls", "verify" if ca else "off")
    if options:
        raise DsnError(f"the mirror's address has the unknown option {min(options)!r}; known are tls and ca")
    if tls not in _TLS:
        raise DsnError(f"the mirror's address has tls={tls!r}; write one of {', '.join(_TLS)}")
    if ca is not None and not Path(ca).is_file():
        raise DsnError(f"the mirror's address has ca={ca}, which is no file")
    return Dsn(host, port, unquote(user), unquote(password), database, tls, ca)
