"""What can be set when the operator starts: flags, environment, defaults, and the check of them all.

A flag wins over its variable, a variable over the default. Everything is checked before anything starts, and every
fault is reported at once with what to write instead. Passwords come from the environment or a file, never from a flag:
flags are seen by everybody who may list processes.
"""

from __future__ import annotations

import os
import re
import socket
import uuid
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from presence.model.durations import DurationError, format_duration, parse_duration
from presence.model.kinds import DEFAULT_BOARD, MAX_TTL, MIN_TTL
from presence_operator.mirror.dsn import Dsn, DsnError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_DNS_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class SettingsError(ValueError):
    """The settings cannot be used; `errors` has one line for each fault, saying what to write instead."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("; ".join(errors))
        self.errors = tuple(errors)


def load_dsn(path: str | None, environ: Mapping[str, str]) -> Dsn | None:
    """The mirror's address from the file `path` (a flag), PRESENCE_DSN_FILE or PRESENCE_DSN; None when nothing is set.

    Raises:
        SettingsError: the address or its file cannot be used, or both variables are set.
    """
    from_flag = path is not None
    file = path if from_flag else environ.get("PRESENCE_DSN_FILE")
    inline = environ.get("PRESENCE_DSN")
    if file and inline and not from_flag:
        raise SettingsError(["PRESENCE_DSN and PRESENCE_DSN_FILE are both set: set one of them"])
    if file:
        source = f"{'--dsn-file' if from_flag else 'PRESENCE_DSN_FILE'} {file}"
        try:
            text = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise SettingsError([f"{source}: cannot be read ({reason}): mount the Secret there"]) from None
        if not text:
            raise SettingsError(
                [f"{source}: the file is empty: write mysql://<user>:<password>@<host>:3306/<database> into it"]
            )
    elif inline and inline.strip():
        source, text = "PRESENCE_DSN", inline
    else:
        return None
    try:
        return Dsn.parse(text)
    except DsnError as error:
        raise SettingsError([f"{source}: {error}"]) from None


@dataclass(frozen=True, slots=True)
class Option:
    """How one field is set. `parse` raises ValueError with what to write instead."""

    flag: str
    env: str
    value: str
    parse: Callable[[str], Any]
    default: str
    help: str
    reason: str
    implied: str | None = None
    """The value of a flag given without one."""


def _option(
    parse: Callable[[str], T],
    flag: str,
    value: str,
    default: T,
    help: str,  # noqa: A002 - the word argparse uses
    reason: str,
    *,
    env: str | None = None,
    shown: str | None = None,
    implied: str | None = None,
) -> T:
    name = env or "PRESENCE_" + flag.removeprefix("--").replace("-", "_").upper()
    if shown is None:
        shown = format_duration(default) if isinstance(default, float) and default == int(default) else str(default)
    option = Option(flag, name, value, parse, shown, help, reason, implied)
    spec: Any = field(default=default, metadata={"option": option})
    chosen: T = spec
    return chosen


def _text(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("is empty or has unprintable characters")
    return text.strip()


def _namespaces(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        _namespace(name)
    return names


def _namespace(text: str) -> str:
    if not _DNS_LABEL.fullmatch(text):
        raise ValueError(
            f"{text[:70]!r} is no namespace: write lower-case letters, digits and - (at most 63), for example presence"
        )
    return text


def _object_name(text: str) -> str:
    if not _DNS_NAME.fullmatch(text):
        raise ValueError(f"{text[:70]!r} is no object name: write lower-case letters, digits, - and .")
    return text


def _seconds(lowest: float, highest: float, *, whole: bool = False) -> Callable[[str], float]:
    def parse(text: str) -> float:
        wanted = text.strip()
        try:
            seconds = parse_duration(wanted)
        except DurationError as error:
            decimal = re.fullmatch(r"(\d{1,9}(?:\.\d{1,6})?)s?", wanted)
            if not decimal:
                raise ValueError(str(error)) from None
            seconds = float(decimal[1])
        if whole and seconds != int(seconds):
            raise ValueError(f"{text!r} has a fraction: write whole seconds, for example {max(1, round(seconds))}s")
        if not lowest <= seconds <= highest:
            raise ValueError(f"{text!r} is not within {_plain(lowest)} to {_plain(highest)}")
        return seconds

    return parse


def _number(lowest: float, highest: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        if not re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text.strip()) or not lowest <= float(text) <= highest:
            raise ValueError(f"{text[:40]!r} is no number within {lowest:g} to {highest:g}")
        return float(text)

    return parse


def _count(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,9}", text.strip()) or not lowest <= int(text) <= highest:
            raise ValueError(f"{text[:40]!r} is no whole number within {lowest} to {highest}")
        return int(text)

    return parse


def _switch(text: str) -> bool:
    lowered = text.strip().lower()
    if lowered in ("true", "yes", "on", "1"):
        return True
    if lowered in ("false", "no", "off", "0"):
        return False
    raise ValueError(f"{text[:40]!r} is neither yes nor no: write true or false")


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        lowered = text.strip().lower()
        if lowered not in allowed:
            raise ValueError(f"{text[:40]!r} is unknown: write {' or '.join(allowed)}")
        return lowered

    return parse


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, `:port` (every interface) or `[IPv6]:port`.

    Raises:
        ValueError: the text has another shape.
    """
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%a-z]+)\]|([^\[\]:/\s]*)):(\d{1,5})", text.strip())
    if not match or int(match[3]) > 65_535:
        raise ValueError(
            f"{text[:80]!r} is no address: write for example 0.0.0.0:8080, :8080, [::1]:8080 or 127.0.0.1:0"
        )
    return match[1] or match[2] or "", int(match[3])


def _address(text: str) -> str:
    split_address(text)
    return text.strip()


def _file(text: str) -> Path:
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise ValueError(f"the directory of {text!r} does not exist")
    return path


def _limits_file(text: str) -> Path:
    from presence_operator.limits_file import LimitsError, read_limits

    try:
        read_limits(Path(text))
    except LimitsError as error:
        raise ValueError("; ".join(error.errors)) from None
    return Path(text)


def _kubeconfig(text: str) -> str:
    files = [part for part in text.split(os.pathsep) if part]
    if not any(Path(part).expanduser().is_file() for part in files):
        raise ValueError(
            f"{text!r} does not exist: write the path of a kubeconfig, or leave it out inside of a cluster"
        )
    return text


def _plain(seconds: float) -> str:
    return format_duration(seconds) if seconds == int(seconds) else f"{seconds:g}s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of `presence-operator run`. Durations are in seconds."""

    namespaces: tuple[str, ...] = _option(
        _namespaces,
        "--namespace",
        "NAME",
        (),
        "Look after the boards in these namespaces only; may be repeated or separated by commas.",
        "All, because a board is any namespace with claims in it; naming them needs fewer rights.",
        env="PRESENCE_NAMESPACES",
        shown="all of them",
    )
    kubeconfig: str | None = _option(
        _kubeconfig,
        "--kubeconfig",
        "FILE",
        None,
        "The kubeconfig to connect with.",
        "Inside of a cluster the Pod's service account is used.",
        env="KUBECONFIG",
        shown="the service account, else `~/.kube/config`",
    )
    context: str | None = _option(
        _text,
        "--context",
        "NAME",
        None,
        "The context of the kubeconfig to connect with.",
        "The same one that kubectl would use.",
        shown="the current one",
    )
    mirror_dsn: Dsn | None = None
    mirror_dsn_file: str | None = None
    """The file that `mirror_dsn` was read from, which may get another password; None when it came from PRESENCE_DSN."""
    mirror_namespace: str = _option(
        _namespace,
        "--mirror-namespace",
        "NAME",
        DEFAULT_BOARD,
        "The board that is mirrored into the database.",
        "The mirrored table has no column for a namespace, so it can hold one board only.",
        shown=f"the only `--namespace`, else `{DEFAULT_BOARD}`",
    )
    limits_file: Path | None = _option(  # noqa: RUF009 - a field(), like all the others
        _limits_file,
        "--limits-file",
        "FILE",
        None,
        "The YAML file with limits on how many claims may be Active at once; it is read again when it changes.",
        "Without one, nothing is limited.",
        shown="no limits",
    )
    min_ttl: float = _option(
        _seconds(1, MAX_TTL, whole=True),
        "--min-ttl",
        "DURATION",
        MIN_TTL,
        "The shortest ttl that a claim or session gets, whatever its annotation says.",
        "Shorter ones cost a write every few seconds and expire on any hiccup of the network.",
    )
    max_ttl: float = _option(
        _seconds(1, 30 * 86_400, whole=True),
        "--max-ttl",
        "DURATION",
        MAX_TTL,
        "The longest ttl that a claim or session gets.",
        "A forgotten claim must not block the others for longer than a day.",
    )
    retention: float = _option(
        _seconds(0, 30 * 86_400),
        "--retention",
        "DURATION",
        3600.0,
        "How long an ended claim or session stays visible before it is deleted.",
        "Long enough to see what just happened; the history proper is in the mirror.",
    )
    resync_interval: float = _option(
        _seconds(5, 86_400),
        "--resync-interval",
        "DURATION",
        300.0,
        "Time between two full comparisons with the API server.",
        "A broken watch may lose deletions; a paged list every few minutes finds them and costs little.",
    )
    coalesce: float = _option(
        _seconds(0, 60),
        "--coalesce",
        "DURATION",
        1.0,
        "How long news for claims that already conflict are gathered before they are written.",
        "A hundred newcomers on one resource cost each of the others one write instead of a hundred.",
    )
    workers: int = _option(
        _count(1, 256),
        "--workers",
        "COUNT",
        16,
        "Requests to the API server at the same time.",
        "Enough to keep one core busy; the API server's priority and fairness stay polite.",
    )
    event_rate: float = _option(
        _number(0, 1000),
        "--event-rate",
        "PER_SECOND",
        10.0,
        "Kubernetes Events recorded per second at most; 0 records none.",
        "Events are for people; when thousands of claims expire at once the metrics tell the story.",
        shown="10",
    )
    listen: str = _option(
        _address,
        "--listen",
        "HOST:PORT",
        "0.0.0.0:8080",
        "Where `/metrics`, `/healthz`, `/readyz` and `/version` are served; port 0 takes a free one.",
        "Probes and Prometheus come from outside of the Pod. `[::]:8080` serves IPv6 too.",
    )
    listen_file: Path | None = _option(  # noqa: RUF009 - a field(), like all the others
        _file,
        "--listen-file",
        "FILE",
        None,
        "Write the address that was bound to this file.",
        "It is the way to learn the port after `--listen 127.0.0.1:0`.",
        shown="no file",
    )
    liveness_limit: float = _option(
        _seconds(30, 3600),
        "--liveness-limit",
        "DURATION",
        120.0,
        "`/healthz` fails when the scheduler has not moved for this long.",
        "It moves every few seconds; the rest is patience with a busy or paused machine.",
    )
    leader_elect: bool = _option(
        _switch,
        "--leader-elect",
        "true|false",
        False,
        "Act only while holding the Lease; needed for more than one replica.",
        "One replica needs no election, and starts acting a moment sooner without.",
        shown="false",
        implied="true",
    )
    lease_name: str = _option(
        _object_name,
        "--lease-name",
        "NAME",
        "presence-operator",
        "Name of the Lease of the election.",
        "Operators for different boards in one namespace need different ones.",
    )
    lease_namespace: str = _option(
        _namespace,
        "--lease-namespace",
        "NAME",
        DEFAULT_BOARD,
        "Namespace of the Lease of the election.",
        "The operator's own namespace is where it may write Leases.",
        shown=f"`POD_NAMESPACE`, else the service account's, else the first `--namespace`, else `{DEFAULT_BOARD}`",
    )
    lease_duration: float = _option(
        _seconds(1, 3600, whole=True),
        "--lease-duration",
        "DURATION",
        10.0,
        "How long the others wait after the last renewal before they take over.",
        "Another one acts at most 15 s after the last sign of life, with time left to look and to list.",
    )
    renew_deadline: float = _option(
        _seconds(0.5, 3600),
        "--renew-deadline",
        "DURATION",
        7.0,
        "How long the leader acts after its last successful renewal.",
        "Shorter than the lease, so that two never act at once even when clocks run at slightly different speeds.",
    )
    retry_period: float = _option(
        _seconds(0.1, 3600),
        "--retry-period",
        "DURATION",
        1.0,
        "Time between two renewals, and between two looks whether the Lease is free.",
        "Six chances to renew before the deadline; a Lease that is given back is taken within a second.",
    )
    identity: str = _option(
        _text,
        "--identity",
        "TEXT",
        "",
        "Name of this operator in the Lease.",
        "Unique for each process, so that a restarted Pod is not taken for its predecessor.",
        shown="host name and a random part",
    )
    log_format: str = _option(
        _one_of("text", "json"),
        "--log-format",
        "text|json",
        "text",
        "One line per record, for people or for a log store.",
        "Text is readable with `kubectl logs`.",
    )
    log_level: str = _option(
        _one_of("debug", "info", "warning", "error"),
        "--log-level",
        "LEVEL",
        "info",
        "The least important records shown: debug, info, warning or error.",
        "Info tells each decision that changes who holds what.",
    )
    shutdown_timeout: float = _option(
        _seconds(0.5, 60),
        "--shutdown-timeout",
        "DURATION",
        5.0,
        "How long running writes may take to end after SIGTERM.",
        "Well within the 30 s that Kubernetes gives a Pod.",
    )

    @classmethod
    def load(cls, flags: Mapping[str, str | Sequence[str] | None], environ: Mapping[str, str]) -> Settings:
        """Settings from `flags` (text by flag such as `--min-ttl`; also `--dsn-file`) and `environ`.

        Raises:
            SettingsError: with every fault of every flag and variable.
        """
        values: dict[str, Any] = {}
        errors: list[str] = []
        for name, option in options().items():
            given = flags.get(option.flag)
            source = option.flag
            if given is None:
                # A variable that is set to nothing is how manifests and shells say "not set".
                given, source = environ.get(option.env) or None, option.env
            if given is None:
                continue
            try:
                values[name] = option.parse(given if isinstance(given, str) else ",".join(given))
            except ValueError as error:
                errors.append(f"{source}: {error}")
        file = flags.get("--dsn-file")
        try:
            values["mirror_dsn"] = load_dsn(file if isinstance(file, str) else None, environ)
            values["mirror_dsn_file"] = file if isinstance(file, str) else environ.get("PRESENCE_DSN_FILE") or None
        except SettingsError as error:
            errors += error.errors
        settings = cls(**values)
        errors += settings._contradictions(set(values))
        if errors:
            raise SettingsError(errors)
        return settings._completed(set(values), environ)

    def _contradictions(self, given: set[str]) -> list[str]:
        errors = []
        if self.min_ttl > self.max_ttl:
            errors.append(
                f"--min-ttl {_plain(self.min_ttl)} is above --max-ttl {_plain(self.max_ttl)}: swap them or move one"
            )
        if self.renew_deadline >= self.lease_duration:
            errors.append(
                f"--renew-deadline {_plain(self.renew_deadline)} is not below --lease-duration "
                f"{_plain(self.lease_duration)}: two operators could act at once; lower it to two thirds of that"
            )
        if self.retry_period * 2 > self.renew_deadline:
            errors.append(
                f"--retry-period {_plain(self.retry_period)} leaves no second chance to renew before "
                f"--renew-deadline {_plain(self.renew_deadline)}: lower it to at most half of that"
            )
        if self.namespaces and "mirror_namespace" in given and self.mirror_namespace not in self.namespaces:
            errors.append(
                f"--mirror-namespace {self.mirror_namespace} is not among --namespace {', '.join(self.namespaces)}: "
                "add it there or mirror one of those"
            )
        unclear = len(self.namespaces) > 1 and DEFAULT_BOARD not in self.namespaces
        if self.mirror_dsn and unclear and "mirror_namespace" not in given:
            errors.append(f"which board is mirrored? write --mirror-namespace with one of {', '.join(self.namespaces)}")
        return errors

    def _completed(self, given: set[str], environ: Mapping[str, str]) -> Settings:
        """These settings with what follows from others and from the surroundings filled in."""
        filled: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        if "mirror_namespace" not in given and len(self.namespaces) == 1:
            filled["mirror_namespace"] = self.namespaces[0]
        if "lease_namespace" not in given:
            filled["lease_namespace"] = (
                environ.get("POD_NAMESPACE") or _own_namespace() or (*self.namespaces, DEFAULT_BOARD)[0]
            )
        if "identity" not in given:
            filled["identity"] = f"{socket.gethostname()}_{uuid.uuid4().hex[:8]}"
        return Settings(**filled)


def options() -> dict[str, Option]:
    """The options by the name of their field, in the order in which they are documented."""
    return {each.name: each.metadata["option"] for each in fields(Settings) if "option" in each.metadata}


def _own_namespace() -> str:
    try:
        return _OWN_NAMESPACE.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
