"""The board in the Kubernetes API: requests about claims and sessions, and what their answers mean.

`now` is the API server's clock, taken from the `Date` header of its latest answer: whole seconds, rounded down. That
is exact enough, because deadlines fall on whole seconds too.
"""

from __future__ import annotations

from time import time

from presence.errors import BoardError, BoardFullError, DeniedError, NotInstalledError, ServerError, UsageError
from presence.model.deadlines import has_ended, is_live, last_sign_of_life, make_honest, ttl_of
from presence.model.durations import format_duration
from presence.model.kinds import (
    API_VERSION,
    CLAIM_KIND,
    CLAIM_PLURAL,
    CLI_MANAGER,
    COMPLETED,
    DEFAULT_TTL,
    ENDED_SESSION_PHASES,
    HEARTBEAT_ANNOTATION,
    HEARTBEAT_MANAGER,
    SESSION_KIND,
    SESSION_PLURAL,
    SHARED,
    TTL_ANNOTATION,
)
from presence.model.times import format_micro_time, parse_time
from presence.transport import quote

TYPE_CHECKING = False  # importing typing costs 3 ms
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Any

    from presence.identity import Identity
    from presence.transport import Connection, Response

    Object = dict[str, Any]

MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

#: The oldest version there is: any state that the API server has at hand is not older.
CACHED = "0"

_PAGE = 500
_RESTARTS = 5
#: A watch is asked to end after so many seconds, so that a load balancer in between does not have to.
_WATCH_SECONDS = 290
#: Rounds in which writers of the same object may get into each other's way.
ATTEMPTS = 6
#: More sessions than this are fetched with one list instead of one by one.
_SINGLE_GETS = 6
_NOT_RELEASED = "status.phase!=Released"
_LIVE_PHASES = "status.phase!=Expired,status.phase!=Released"


def claim_name(session: str, resource: str) -> str:
    """See `presence.model.names`, which is imported on first use: hashing costs 3 ms, and a list needs no names."""
    from presence.model import names

    return names.claim_name(session, resource)


def session_name(session: str) -> str:
    """See `presence.model.names`."""
    from presence.model import names

    return names.session_name(session)


class GoneError(Exception):
    """The object changed or vanished since it was read: read again, and decide again."""


class Board:
    """The claims and sessions of one namespace."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        self._connection = connection
        self.namespace = namespace
        #: The API server's time of its latest answer, in seconds since the epoch.
        self.now = time()
        base = f"/apis/{API_VERSION}/namespaces/{quote(namespace)}"
        self._paths = {CLAIM_PLURAL: f"{base}/{CLAIM_PLURAL}", SESSION_PLURAL: f"{base}/{SESSION_PLURAL}"}

    def limit(self, seconds: float) -> None:
        """Give what follows so many seconds altogether."""
        from presence.deadline import Deadline

        self._connection.limit(Deadline(seconds))

    def close(self) -> None:
        """End the connection; the next request makes a new one."""
        self._connection.close()

    # Reading

    def claims(
        self,
        *,
        session: str | None = None,
        resource: str | None = None,
        ended: bool = False,
        expired: bool = False,
        not_older_than: str | None = None,
    ) -> list[Object]:
        """Claims as the API server has them now, those that ended (by their phase) only when asked for.

        `ended` asks for all of them, `expired` for those that were not released: they may still block the resource.

        A list of the very latest state makes the API server wait until its cache has caught up with the whole of etcd:
        up to 100 ms whenever anything else was written. With `not_older_than`, a resourceVersion, it answers as soon
        as its cache has come that far. The version of one's own write is enough to see all that was written before it;
        `CACHED` takes what is there, which may lack the last moments.
        """
        wanted = []
        if session is not None:
            wanted.append(f"spec.session={escape(session)}")
        if resource is not None:
            wanted.append(f"spec.resource={escape(resource)}")
        if not ended:
            wanted.append(_NOT_RELEASED if expired else _LIVE_PHASES)
        found = self._list(CLAIM_PLURAL, ",".join(wanted), not_older_than)
        # A server that cannot select by field has sent them all.
        return [
            claim
            for claim in found
            if (session is None or claim["spec"]["session"] == session)
            and (resource is None or claim["spec"]["resource"] == resource)
        ]

    def claim(self, session: str, resource: str) -> Object | None:
        """The claim that `session` has on `resource`, ended or not."""
        path = f"{self._paths[CLAIM_PLURAL]}/{claim_name(session, resource)}"
        response = self._ask("GET", path)
        if response.status == 404:
            return None
        found = self._body(response)
        check_claim(found, session, resource)
        return found

    def named_claim(self, name: str) -> Object | None:
        """The claim object of this name."""
        response = self._ask("GET", f"{self._paths[CLAIM_PLURAL]}/{quote(name)}")
        return None if response.status == 404 else self._body(response)

    def follow(self, name: str, not_older_than: str, silence: float) -> Iterator[Object | None]:
        """The claim of this name as it is, and again whenever it changes; None when it does not exist.

        The iterator ends when the watch ends, as watches do: begin again, not older than what was seen last. It ends
        too when nothing was heard for `silence` seconds.

        Raises:
            BoardError: the board cannot be asked, or refuses.
        """
        selector = f"metadata.name={name}"
        query: dict[str, str | int] = {
            "fieldSelector": selector,
            "resourceVersion": not_older_than,
            "resourceVersionMatch": "NotOlderThan",
        }
        listed = self._body(self._ask("GET", self._paths[CLAIM_PLURAL], query))
        # A list of one name, unlike the object itself, has a version that a watch can begin at, however old the object.
        yield next(iter(listed["items"]), None)
        query = {
            "fieldSelector": selector,
            "resourceVersion": listed["metadata"]["resourceVersion"],
            "watch": "true",
            "allowWatchBookmarks": "true",
            "timeoutSeconds": _WATCH_SECONDS,
        }
        response = self._connection.open_stream(self._paths[CLAIM_PLURAL], query)
        if response.status == 410:
            return
        if response.status != 200 or response.body is not None:
            raise _problem(response, self.namespace)
        import json

        while True:
            line = self._connection.next_line(silence)
            if line is None:
                return
            try:
                event = json.loads(line)
                kind, item = event["type"], event["object"]
            except (ValueError, KeyError, TypeError):
                return
            if kind == "BOOKMARK":
                continue
            if kind == "DELETED":
                yield None
            elif kind in ("ADDED", "MODIFIED"):
                yield item
            else:
                return  # an error, mostly that the version is too old

    def sessions(self) -> list[Object]:
        """All sessions."""
        return self._list(SESSION_PLURAL, "")

    def session(self, session: str) -> Object | None:
        """The AgentSession with this id."""
        response = self._ask("GET", f"{self._paths[SESSION_PLURAL]}/{session_name(session)}")
        if response.status == 404:
            return self.session_by_hand(session)
        found = self._body(response)
        # Another session whose name has the same hash says nothing about this one.
        return found if found["spec"].get("sessionId") == session else None

    def session_by_hand(self, session: str, *, not_older_than: str | None = None) -> Object | None:
        """The AgentSession with this id that was made under another name than `presence` gives; a living one first."""
        name = session_name(session)
        found = [
            item
            for item in self._list(SESSION_PLURAL, f"spec.sessionId={escape(session)}", not_older_than)
            if item["spec"].get("sessionId") == session and item["metadata"]["name"] != name
        ]
        return max(found, key=lambda item: (not session_over(item), last_sign_of_life(item)), default=None)

    def live(
        self, claims: Iterable[Object], *, exact: bool = False, known: Object | None = None
    ) -> list[tuple[Object, Object | None]]:
        """Those of `claims` that are held now, each with its session where that had to be looked at.

        With `exact` every session is looked at, so that the deadlines are to the second; otherwise only those of claims
        whose promise has passed or was never made. `known` is a session that the caller has just read or written.
        """
        now = self.now
        standing = [claim for claim in claims if not has_ended(claim)]
        unsure = {claim["spec"]["session"] for claim in standing if exact or not _promised(claim, now)}
        sessions = {} if known is None else {known["spec"]["sessionId"]: known}
        sessions.update(self.sessions_of(unsure - sessions.keys()))
        found = []
        for claim in standing:
            session = sessions.get(claim["spec"]["session"])
            if is_live(claim, now, session):
                found.append((claim, session))
        return found

    def sessions_of(self, ids: Iterable[str]) -> dict[str, Object]:
        """The AgentSessions with these ids, as far as they exist."""
        wanted = set(ids)
        if len(wanted) > _SINGLE_GETS:
            every = {item["spec"].get("sessionId"): item for item in self.sessions()}
            return {session: every[session] for session in wanted if session in every}
        known = {}
        for session in wanted:
            found = self.session(session)
            if found is not None:
                known[session] = found
        return known

    # Writing

    def beat(self, identity: Identity, known: Object | None, ttl: float = 0.0) -> Object:
        """Renew the session with one write; `known` is its object when there is one, and lives for `ttl` at least.

        Raises:
            GoneError: it was replaced or removed since it was read.
        """
        if known is None:
            return self.apply_session(identity)
        path = f"{self._paths[SESSION_PLURAL]}/{known['metadata']['name']}"
        metadata = {"uid": known["metadata"]["uid"], "annotations": {HEARTBEAT_ANNOTATION: _stamp()}}
        if ttl > ttl_of(known):
            metadata["annotations"][TTL_ANNOTATION] = format_duration(ttl)
        return self._changed(
            self._ask("PATCH", path, {"fieldManager": HEARTBEAT_MANAGER}, {"metadata": metadata}, MERGE_PATCH)
        )

    def apply_session(self, identity: Identity, ttl: float = DEFAULT_TTL, *, beat_every: int | None = None) -> Object:
        """Create the session, or bring it up to date and renew it: one write either way.

        It lives for `ttl` seconds after its last heartbeat, at least for the usual time. `beat_every` is how often it
        means to beat, in seconds.
        """
        name = session_name(identity.session)
        spec: dict[str, Any] = {"sessionId": identity.session, "kind": identity.kind}
        for field in ("user", "host", "agent", "model", "project", "url"):
            value = getattr(identity, field)
            if value:
                spec[field] = value
        if beat_every is not None:
            spec["heartbeatSeconds"] = beat_every
        annotations = {HEARTBEAT_ANNOTATION: _stamp()}
        if ttl > DEFAULT_TTL:
            annotations[TTL_ANNOTATION] = format_duration(ttl)
        body = {
            "apiVersion": API_VERSION,
            "kind": SESSION_KIND,
            "metadata": {"name": name, "annotations": annotations},
            "spec": spec,
        }
        query = {"fieldManager": HEARTBEAT_MANAGER, "force": "true"}
        response = self._ask("PATCH", f"{self._paths[SESSION_PLURAL]}/{name}", query, body, APPLY_PATCH)
        if response.status == 422 and "never changes" in _message(response):
            raise UsageError(
                f"session id {identity.session!r} and another one on this board share the name {name};"
                " take another id with --session"
            )
        return self._body(response)

    def replace_session(self, old: Object, identity: Identity, ttl: float = DEFAULT_TTL) -> Object:
        """Put a new session in the place of one that has ended.

        Ended sessions never live again, so the object is deleted and made anew. Claims of the old one are detached
        first: Kubernetes would collect them with their owner, and some may outlive it. Those of a completed session are
        over, and stay so.
        """
        uid = old["metadata"]["uid"]
        completed = COMPLETED in (old["spec"].get("state"), (old.get("status") or {}).get("phase"))
        detached = []
        for claim in self.claims(session=identity.session, ended=True):
            owners = claim["metadata"].get("ownerReferences") or []
            rest = [owner for owner in owners if owner.get("uid") != uid]
            over = completed and not has_ended(claim)
            if over or len(rest) != len(owners):
                change: dict[str, Any] = {"metadata": {"ownerReferences": rest or None}}
                if over:
                    change["spec"] = {"released": True}
                try:
                    changed = self.patch_claim(claim, change)
                except GoneError:
                    continue
                if not has_ended(changed):
                    detached.append(changed)
        self.delete(SESSION_PLURAL, old)
        fresh = self.apply_session(identity, ttl)
        for claim in detached:
            try:
                self.patch_claim(claim, {"metadata": {"ownerReferences": [owner_of(fresh)]}})
            except GoneError:
                continue
        return fresh

    def complete_session(self, session: Object) -> None:
        """End the session, and with it all of its claims; fine when it is gone already."""
        path = f"{self._paths[SESSION_PLURAL]}/{session['metadata']['name']}"
        change = {"metadata": {"uid": session["metadata"]["uid"]}, "spec": {"state": COMPLETED}}
        response = self._ask("PATCH", path, {"fieldManager": CLI_MANAGER}, change, MERGE_PATCH)
        if response.status not in (404, 409) and not _is_another(response):
            self._body(response)

    def create_claim(
        self,
        identity: Identity,
        owner: Object,
        resource: str,
        purpose: str,
        ttl: str | None,
        *,
        mode: str = SHARED,
        on_expiry: str | None = None,
        priority: int | None = None,
    ) -> Object:
        """Put a claim on the board.

        Raises:
            GoneError: one of the same name is there already.
            UsageError: the API server refuses its content.
            NotInstalledError: its definitions know no exclusive claims.
        """
        metadata: dict[str, Any] = {
            "name": claim_name(identity.session, resource),
            "ownerReferences": [owner_of(owner)],
        }
        if ttl is not None:
            metadata["annotations"] = {TTL_ANNOTATION: ttl}
        spec: dict[str, Any] = {
            "resource": resource,
            "session": identity.session,
            "holder": holder_of(identity),
            "purpose": purpose,
        }
        if mode != SHARED:
            spec["mode"] = mode
        if on_expiry is not None:
            spec["onExpiry"] = on_expiry
        if priority is not None:
            spec["priority"] = priority
        body = {"apiVersion": API_VERSION, "kind": CLAIM_KIND, "metadata": metadata, "spec": spec}
        response = self._ask("POST", self._paths[CLAIM_PLURAL], {"fieldManager": CLI_MANAGER}, body)
        if response.status == 409:
            raise GoneError
        made = self._body(response)
        if made["spec"].get("mode", SHARED) != mode:
            self.delete(CLAIM_PLURAL, made)
            raise NotInstalledError(
                "the API server's definitions know no exclusive claims; bring them up to date with"
                " kubectl apply -k crds/"
            )
        return made

    def renew_claim(self, claim: Object, change: dict[str, Any]) -> Object:
        """Change exactly this claim and renew it.

        Raises:
            GoneError: it is another one by now.
        """
        metadata = dict(change.get("metadata", {}))
        metadata["annotations"] = {**metadata.get("annotations", {}), HEARTBEAT_ANNOTATION: _stamp()}
        return self.patch_claim(claim, {**change, "metadata": metadata}, manager=HEARTBEAT_MANAGER)

    def patch_claim(
        self, claim: Object, change: dict[str, Any], *, unchanged: bool = False, manager: str = CLI_MANAGER
    ) -> Object:
        """Change exactly this claim; with `unchanged` only when nobody else changed it since it was read.

        Raises:
            GoneError: it is another one by now, or changed.
        """
        metadata = {**change.get("metadata", {}), "uid": claim["metadata"]["uid"]}
        if unchanged:
            metadata["resourceVersion"] = claim["metadata"]["resourceVersion"]
        path = f"{self._paths[CLAIM_PLURAL]}/{claim['metadata']['name']}"
        body = {**change, "metadata": metadata}
        return self._changed(self._ask("PATCH", path, {"fieldManager": manager}, body, MERGE_PATCH))

    def release(self, session: str, resource: str, *, by_hand: bool = True) -> list[Object]:
        """Let go of `resource`; the claims that were not released before.

        With `by_hand` whatever their objects are called, else the one only that bears the usual name.
        """
        path = f"{self._paths[CLAIM_PLURAL]}/{claim_name(session, resource)}"
        # The tests make this safe against another claim of the same name without reading first.
        change = [
            {"op": "test", "path": "/spec/session", "value": session},
            {"op": "test", "path": "/spec/resource", "value": resource},
            {"op": "test", "path": "/spec/released", "value": None},
            {"op": "add", "path": "/spec/released", "value": True},
        ]
        response = self._ask("PATCH", path, {"fieldManager": CLI_MANAGER}, change, JSON_PATCH)
        released = []
        version = None
        if response.status == 422:
            self.claim(session, resource)
        elif response.status != 404:
            released.append(self._body(response))
            version = released[0]["metadata"]["resourceVersion"]
            if not by_hand:
                return released
        # Claims that were made by hand have names of their own.
        for claim in self.claims(session=session, resource=resource, not_older_than=version):
            if has_ended(claim):
                continue
            try:
                released.append(self.patch_claim(claim, {"spec": {"released": True}}))
            except GoneError:
                continue
        return released

    def delete(self, plural: str, item: Object) -> None:
        """Delete exactly this object; fine when it is gone already."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": item["metadata"]["uid"]},
            "propagationPolicy": "Background",
        }
        response = self._ask("DELETE", f"{self._paths[plural]}/{item['metadata']['name']}", None, body)
        if response.status not in (404, 409):
            self._body(response)

    # The wire

    def _list(self, plural: str, selector: str, not_older_than: str | None = None) -> list[Object]:
        for _ in range(_RESTARTS):
            query: dict[str, str | int] = {"limit": _PAGE}
            if not_older_than is not None:
                query.update(resourceVersion=not_older_than, resourceVersionMatch="NotOlderThan")
            if selector:
                query["fieldSelector"] = selector
            items: list[Object] = []
            while True:
                response = self._ask("GET", self._paths[plural], query)
                if response.status == 410:
                    break  # the pages are too old to go on with: begin again
                if response.status == 400 and selector and "field label" in _message(response):
                    selector = ""  # before Kubernetes 1.31 custom resources cannot be selected by field
                    break
                body = self._body(response)
                items.extend(body["items"])
                token = body["metadata"].get("continue")
                if not token:
                    return items
                # The token knows the version; naming another one is refused.
                query = {name: value for name, value in query.items() if not name.startswith("resourceVersion")}
                query["continue"] = token
        raise ServerError("the list of claims changes faster than it can be read; try again")

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | int] | None = None,
        body: Any = None,
        kind: str = "application/json",
    ) -> Response:
        response = self._connection.request(method, path, query, body, kind)
        date = response.headers.get("date")
        if date:
            moment = parse_http_date(date)
            if moment is not None:
                self.now = moment
        if response.status == 404:
            self._check_installed(response)
        return response

    def _check_installed(self, response: Response) -> None:
        body = response.body if isinstance(response.body, dict) else {}
        details = body.get("details") or {}
        if details.get("kind") == "namespaces":
            raise NotInstalledError(
                f"there is no namespace {self.namespace!r}; create it, or name the board's namespace with --namespace"
            )
        if body.get("kind") != "Status" or not details.get("name"):
            raise NotInstalledError(
                f"the API server knows no {API_VERSION}; install its definitions with kubectl apply -k crds/"
            )

    def _changed(self, response: Response) -> Object:
        if response.status in (404, 409) or _is_another(response):
            raise GoneError
        return self._body(response)

    def _body(self, response: Response) -> Object:
        body = response.body
        if response.status < 300 and isinstance(body, dict):
            for item in body.get("items", (body,) if "metadata" in body else ()):
                make_honest(item, self.now)
            return body
        raise _problem(response, self.namespace)


def _is_another(response: Response) -> bool:
    """True when the object was replaced by one of the same name while the API server was at it.

    A uid that was wrong from the start is a conflict (409).
    """
    if response.status != 422 or not isinstance(response.body, dict):
        return False
    causes = (response.body.get("details") or {}).get("causes") or ()
    return bool(causes) and all(cause.get("field") == "metadata.uid" for cause in causes)


def _problem(response: Response, namespace: str) -> BoardError | UsageError:
    message = _message(response)
    if response.status == 401:
        return DeniedError(
            "the API server does not accept these credentials; log in again, or check the kubeconfig's user"
        )
    if response.status == 403 and "exceeded quota" in message:
        return BoardFullError(f"{_quota(message)}; let go of claims, or ask for a larger quota")
    if response.status == 403:
        return DeniedError(f"not allowed: {message}; ask for a role on namespace {namespace!r}")
    if response.status in (400, 422):
        return UsageError(_rejection(response))
    return ServerError(f"the API server answered HTTP {response.status}: {message}; try again")


def _quota(message: str) -> str:
    # 'presenceclaims.presence.dev "stack-x" is forbidden: exceeded quota: claims, requested: count/...=1, used: ...'
    return "exceeded quota" + message.partition("exceeded quota")[2]


def _message(response: Response) -> str:
    body = response.body
    text = body.get("message") if isinstance(body, dict) else body
    return " ".join(str(text or "no reason given").split())[:400]


def _rejection(response: Response) -> str:
    """The API server's reasons to refuse an object, without the words around them."""
    body = response.body if isinstance(response.body, dict) else {}
    causes = (body.get("details") or {}).get("causes") or ()
    reasons = [
        f"{cause.get('field', '')}: {_after_value(str(cause.get('message', '')))}"
        for cause in causes
        if cause.get("message")
    ]
    return " ".join("; ".join(reasons).split())[:600] or _message(response)


def _after_value(message: str) -> str:
    # "Invalid value: \"x\": what to write instead"
    head, separator, tail = message.rpartition('": ')
    return tail if separator and head.startswith("Invalid value") else message.removeprefix("Invalid value: ")


def check_claim(claim: Object, session: str, resource: str) -> None:
    """Make sure that this is the claim of `session` on `resource`.

    Raises:
        UsageError: it is another one whose name has the same hash.
    """
    spec = claim["spec"]
    if spec.get("session") != session or spec.get("resource") != resource:
        raise UsageError(
            f"the name {claim['metadata']['name']} is taken by another claim (session {str(spec.get('session'))!r},"
            f" resource {str(spec.get('resource'))!r}); take another session id with --session"
        )


def session_over(session: Object) -> bool:
    """True when this session has ended for good."""
    phase = (session.get("status") or {}).get("phase")
    return phase in ENDED_SESSION_PHASES or session["spec"].get("state") == COMPLETED


def holder_of(identity: Identity) -> dict[str, str]:
    """`spec.holder` of a claim that `identity` makes."""
    holder = {"user": identity.user, "host": identity.host, "agent": identity.agent, "url": identity.url}
    return {name: value for name, value in holder.items() if value}


def owner_of(session: Object) -> dict[str, str]:
    """The ownerReference of a claim to its session."""
    metadata = session["metadata"]
    return {"apiVersion": API_VERSION, "kind": SESSION_KIND, "name": metadata["name"], "uid": metadata["uid"]}


def escape(value: str) -> str:
    """`value` in a field selector."""
    return value.replace("\\", "\\\\").replace(",", "\\,").replace("=", "\\=")


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def parse_http_date(text: str) -> float | None:
    """Seconds since the epoch of an HTTP date (`Fri, 20 Nov 2026 10:00:00 GMT`); None when it is none."""
    parts = text.split()
    if len(parts) != 6 or parts[2] not in _MONTHS:
        return None
    try:
        return parse_time(f"{parts[3]}-{_MONTHS.index(parts[2]) + 1:02}-{parts[1]}T{parts[4]}Z")
    except ValueError:
        return None


def _promised(claim: Object, now: float) -> bool:
    promise = (claim.get("status") or {}).get("expiresAt")
    return promise is not None and parse_time(promise) > now


def _stamp() -> str:
    # Any new value makes the API server stamp the change; its text is for people only.
    return format_micro_time(time())
