"""Who is calling: one id that stays the same over every call of a session, and what others see of it.

The id comes from the first of: `--session`, `PRESENCE_SESSION`, `CLAUDE_CODE_SESSION_ID`, `CLAUDE_SESSION_ID`, the
variables of a pipeline, and else an id that is remembered for the login. It is checked by no one: sessions trust each
other, and RBAC decides who may write to the board at all.
"""

from __future__ import annotations

import os

from presence.errors import UsageError
from presence.model.kinds import (
    AGENT,
    AGENT_MAX,
    DEFAULT_AGENT,
    HOST_MAX,
    HUMAN,
    PIPELINE,
    SESSION_MAX,
    URL_MAX,
    USER_MAX,
)

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Mapping

MODEL_MAX = 128
PROJECT_MAX = 1024
_FROM_ENV = ("PRESENCE_SESSION", "CLAUDE_CODE_SESSION_ID", "CLAUDE_SESSION_ID")
_NO_LOGIN = "4294967295"


class Identity:
    """The caller, as the board shows it. `source` says where the id comes from."""

    __slots__ = ("agent", "host", "kind", "model", "project", "session", "source", "url", "user")

    def __init__(self, session: str, source: str, kind: str) -> None:
        self.session = session
        self.source = source
        self.kind = kind
        self.user = ""
        self.host = ""
        self.agent = ""
        self.model = ""
        self.project = ""
        self.url = ""


class Pipeline:
    """The run of a pipeline that the environment describes."""

    __slots__ = ("agent", "project", "session", "url", "user")

    def __init__(self, session: str, agent: str, project: str, url: str, user: str) -> None:
        self.session = session
        self.agent = agent
        self.project = project
        # What the pipeline's software says is taken if it can be shown; a claim must not fail for it.
        self.url = url if len(url) <= URL_MAX and _is_address(url) else ""
        self.user = _plain(user)[:USER_MAX]


def find_identity(
    env: Mapping[str, str],
    *,
    session: str | None = None,
    agent: str | None = None,
    model: str | None = None,
    project: str | None = None,
    url: str | None = None,
    kind: str | None = None,
    directory: str | None = None,
) -> Identity:
    """The identity of this call; arguments given on the command line win over the environment.

    The project is looked for from `directory` upwards, the working directory when it is None.

    Raises:
        UsageError: an id, address or name is too long or not printable.
    """
    pipeline = find_pipeline(env)
    chosen, source = find_session(env, session, pipeline)
    if kind is None:
        from_agent = source in ("CLAUDE_CODE_SESSION_ID", "CLAUDE_SESSION_ID")
        remembered = source == "login"
        kind = AGENT if from_agent else PIPELINE if pipeline else HUMAN if remembered else AGENT
    identity = Identity(chosen, source, kind)
    identity.user = (pipeline.user if pipeline and kind == PIPELINE else "") or _user(env)
    identity.host = short_host()
    automatic = pipeline.agent if pipeline and kind == PIPELINE else "human" if kind == HUMAN else DEFAULT_AGENT
    identity.agent = _checked("--agent", agent or env.get("PRESENCE_AGENT") or automatic, AGENT_MAX)
    identity.model = _checked("--model", model or env.get("PRESENCE_MODEL") or "", MODEL_MAX)
    given = project or env.get("PRESENCE_PROJECT") or ""
    identity.project = _checked("--project", given, PROJECT_MAX) or _project(pipeline, directory)
    identity.url = _address(url or env.get("PRESENCE_URL") or "") or (pipeline.url if pipeline else "")
    return identity


def _project(pipeline: Pipeline | None, directory: str | None) -> str:
    found = pipeline.project if pipeline else git_toplevel(directory or _working_directory())
    return _plain(found)[:PROJECT_MAX]


def _address(text: str) -> str:
    if text and not _is_address(text):
        raise UsageError(f"--url {text[:80]!r} is no address; write for example https://ci.example.org/run/12")
    return _checked("--url", text, URL_MAX)


def _is_address(text: str) -> bool:
    rest = text.partition("://")[2]
    return (
        text.startswith(("http://", "https://"))
        and bool(rest)
        and text.isascii()
        and text.isprintable()
        and " " not in text
    )


def find_session(env: Mapping[str, str], given: str | None, pipeline: Pipeline | None = None) -> tuple[str, str]:
    """The session id, and where it comes from.

    Raises:
        UsageError: the id given cannot be one.
    """
    if given is not None:
        return check_session(given, "--session"), "--session"
    for name in _FROM_ENV:
        if env.get(name):
            return check_session(env[name], name), name
    pipeline = pipeline or find_pipeline(env)
    if pipeline:
        return pipeline.session, "pipeline"
    return remembered_session(env), "login"


def check_session(text: str, source: str) -> str:
    """Return `text` when it can be a session id.

    Raises:
        UsageError: it is empty, too long or not printable.
    """
    if not text.strip():
        raise UsageError(f"{source} is empty; give the session a name such as user@host@1a2b3c4d")
    if len(text) > SESSION_MAX:
        raise UsageError(f"{source} has {len(text)} characters; a session id has at most {SESSION_MAX}")
    if not text.isprintable() or text != text.strip():
        raise UsageError(
            f"{source} {text!r} holds blanks at an end, or characters that cannot be printed; leave them out"
        )
    return text


def find_pipeline(env: Mapping[str, str]) -> Pipeline | None:
    """The run of a pipeline, when the variables of Woodpecker, GitHub or GitLab are there."""
    if env.get("CI_REPO") and env.get("CI_PIPELINE_NUMBER"):
        number = env["CI_PIPELINE_NUMBER"]
        workflow = env.get("CI_WORKFLOW_NAME", "")
        session = _bounded(f"woodpecker:{env['CI_REPO']}#{number}" + (f"/{workflow}" if workflow else ""))
        url = env.get("CI_PIPELINE_URL", "")
        return Pipeline(session, "woodpecker", env["CI_REPO"], url, env.get("CI_PIPELINE_AUTHOR", ""))
    if env.get("GITHUB_REPOSITORY") and env.get("GITHUB_RUN_ID"):
        repository, run = env["GITHUB_REPOSITORY"], env["GITHUB_RUN_ID"]
        attempt, job = env.get("GITHUB_RUN_ATTEMPT", ""), env.get("GITHUB_JOB", "")
        session = f"github:{repository}#{run}" + (f".{attempt}" if attempt else "") + (f"/{job}" if job else "")
        server = env.get("GITHUB_SERVER_URL", "https://github.com")
        url = f"{server}/{repository}/actions/runs/{run}" + (f"/attempts/{attempt}" if attempt else "")
        return Pipeline(_bounded(session), "github-actions", repository, url, env.get("GITHUB_ACTOR", ""))
    if env.get("CI_PROJECT_PATH") and env.get("CI_PIPELINE_ID"):
        path, number, job = env["CI_PROJECT_PATH"], env["CI_PIPELINE_ID"], env.get("CI_JOB_NAME", "")
        session = f"gitlab:{path}#{number}" + (f"/{job}" if job else "")
        url = env.get("CI_JOB_URL") or env.get("CI_PIPELINE_URL", "")
        return Pipeline(_bounded(session), "gitlab-ci", path, url, env.get("GITLAB_USER_LOGIN", ""))
    return None


def remembered_session(env: Mapping[str, str]) -> str:
    """The id of this login, `<user>@<short host>@<8 hex>`: made once, then the same on every call.

    A login is what the kernel's audit session or the login manager calls one. Not the terminal's process group: tools
    that give every command a session of its own would get a new id each time, and could release nothing. Where neither
    exists, all calls of a user on a host are one login.

    Where nothing can be stored the digits are computed from user, host and login instead.
    """
    user, host, login = _user(env), short_host(), _login(env)
    prefix = f"{user}@{host}@"
    digest = _sha256(f"{os.getuid()}\0{host}\0{login}")
    stored = _remember(_state_directory(env), f"session-{digest[:16]}", prefix)
    return stored or prefix + digest[-8:]


def _remember(directory: str, name: str, prefix: str) -> str | None:
    path = f"{directory}/{name}"
    known = _read_remembered(path, prefix)
    if known:
        return known
    wanted = prefix + os.urandom(4).hex()
    draft = f"{path}.{os.getpid()}.{os.urandom(4).hex()}"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError:
        return None
    try:
        os.write(descriptor, wanted.encode())
        os.close(descriptor)
        # A link appears whole or not at all, and only for the first of two calls at once.
        os.link(draft, path)
    except FileExistsError:
        found = _read_remembered(path, prefix)
        if found:
            return found
        os.replace(draft, path)
        return _read_remembered(path, prefix)
    except OSError:
        return None
    finally:
        try:
            os.unlink(draft)
        except OSError:
            pass
    return wanted


def _read_remembered(path: str, prefix: str) -> str | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        if os.fstat(descriptor).st_uid != os.getuid():
            return None
        text = os.read(descriptor, 4 * SESSION_MAX).decode("utf-8", "replace")
    except OSError:
        return None
    finally:
        os.close(descriptor)
    digits = text.removeprefix(prefix)
    return text if text.startswith(prefix) and len(digits) == 8 and digits.isalnum() else None


def _state_directory(env: Mapping[str, str]) -> str:
    runtime = env.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isabs(runtime) and os.path.isdir(runtime):
        return f"{runtime}/presence"
    cache = env.get("XDG_CACHE_HOME")
    if cache and os.path.isabs(cache):
        return f"{cache}/presence"
    return f"{env.get('HOME') or os.path.expanduser('~')}/.cache/presence"


def _login(env: Mapping[str, str]) -> str:
    try:
        with open("/proc/self/sessionid", "rb") as file:
            audit = file.read(16).decode().strip()
    except OSError:
        audit = _NO_LOGIN
    if audit and audit != _NO_LOGIN:
        return f"audit {audit}"
    return f"seat {env['XDG_SESSION_ID']}" if env.get("XDG_SESSION_ID") else ""


def _user(env: Mapping[str, str]) -> str:
    import pwd  # POSIX only, and so is this program

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = env.get("LOGNAME") or env.get("USER") or f"uid{os.getuid()}"
    return _plain(name)[:USER_MAX] or f"uid{os.getuid()}"


def short_host() -> str:
    """This machine's name up to the first dot."""
    return _plain(os.uname().nodename.partition(".")[0])[:HOST_MAX] or "localhost"


def git_toplevel(directory: str) -> str:
    """The directory that holds `.git`, from `directory` upwards; empty when there is none."""
    at = directory
    while at:
        if os.path.exists(f"{at}/.git"):
            return at
        parent = os.path.dirname(at)
        if parent == at:
            return ""
        at = parent
    return ""


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _plain(text: str) -> str:
    return "".join(letter for letter in text if letter.isprintable()).strip()


def _bounded(session: str) -> str:
    plain = _plain(session)
    if len(plain) <= SESSION_MAX:
        return plain
    return plain[: SESSION_MAX - 9] + "~" + _sha256(plain)[:8]


def _sha256(text: str) -> str:
    import hashlib  # costs 3 ms, and most calls have an id without it

    return hashlib.sha256(text.encode()).hexdigest()


def _checked(option: str, text: str, longest: int) -> str:
    if len(text) > longest:
        raise UsageError(f"{option} has {len(text)} characters; at most {longest} fit")
    if not text.isprintable():
        raise UsageError(f"{option} {text[:80]!r} holds characters that cannot be printed; leave them out")
    return text
