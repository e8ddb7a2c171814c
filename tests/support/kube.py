"""A small synchronous client of the Kubernetes API for tests: bodies in, bodies out."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from presence.model import kinds
from presence.model.names import claim_name, session_name
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

Body = dict[str, Any]


class ApiError(Exception):
    """An answer of the API server that is no success."""

    def __init__(self, status: int, body: Body) -> None:
        super().__init__(f"{status}: {body.get('message', body)}")
        self.status = status
        self.body = body
        self.message: str = body.get("message", "")


class Kube:
    """Requests to one API server as one user. Safe to share between threads (a connection each)."""

    def __init__(self, url: str, token: str, ca_file: str) -> None:
        self._parts = urlsplit(url)
        self._token = token
        self._tls = ssl.create_default_context(cafile=ca_file)
        self._local = threading.local()
        self._opened: list[http.client.HTTPSConnection] = []

    def request(
        self, method: str, path: str, body: Body | None = None, content_type: str = "application/json", **query: Any
    ) -> Body:
        """One request; the parsed answer. Raises ApiError for answers of 400 and above."""
        if query:
            path += "?" + urlencode(query)
        data = None if body is None else json.dumps(body)
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": content_type}
        for attempt in (1, 2):
            connection = self._connection()
            try:
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                text = answer.read()
                break
            except (OSError, http.client.HTTPException):
                connection.close()
                self._local.connection = None
                # A kept-alive connection may have been closed by a server that was restarted.
                if attempt == 2:
                    raise
        try:
            parsed: Body = json.loads(text)
        except ValueError:
            parsed = {"message": text.decode(errors="replace")}
        if answer.status >= 400:
            raise ApiError(answer.status, parsed)
        return parsed

    def _connection(self) -> http.client.HTTPSConnection:
        connection: http.client.HTTPSConnection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = http.client.HTTPSConnection(
                self._parts.hostname or "", self._parts.port, context=self._tls, timeout=15
            )
            self._local.connection = connection
            self._opened.append(connection)
        return connection

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in self._opened:
            connection.close()


class Board:
    """One namespace as a board: claims and sessions as their users make them."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self.kube = kube
        self.namespace = namespace
        self._base = f"/apis/{kinds.API_VERSION}/namespaces/{namespace}"

    def claim(
        self,
        resource: str,
        session: str,
        *,
        ttl: str | None = None,
        purpose: str = "testing",
        annotations: dict[str, str] | None = None,
        name: str | None = None,
        **spec: Any,
    ) -> Body:
        """Create a claim as `kubectl create` would."""
        notes = dict(annotations or {})
        if ttl is not None:
            notes[kinds.TTL_ANNOTATION] = ttl
        return self.kube.request(
            "POST",
            f"{self._base}/{kinds.CLAIM_PLURAL}",
            {
                "apiVersion": kinds.API_VERSION,
                "kind": kinds.CLAIM_KIND,
                "metadata": {"name": name or claim_name(session, resource), "annotations": notes},
                "spec": {
                    "resource": resource,
                    "session": session,
                    "purpose": purpose,
                    "holder": {"user": "tester", "host": "testhost"},
                    **spec,
                },
            },
        )

    def session(self, session: str, *, ttl: str | None = None, **spec: Any) -> Body:
        """Create a session."""
        return self.kube.request(
            "POST",
            f"{self._base}/{kinds.SESSION_PLURAL}",
            {
                "apiVersion": kinds.API_VERSION,
                "kind": kinds.SESSION_KIND,
                "metadata": {
                    "name": session_name(session),
                    "annotations": {} if ttl is None else {kinds.TTL_ANNOTATION: ttl},
                },
                "spec": {"sessionId": session, "user": "tester", "host": "testhost", **spec},
            },
        )

    def beat(self, session: str) -> Body:
        """Renew a session with a heartbeat."""
        return self._annotate(kinds.SESSION_PLURAL, session_name(session))

    def beat_claim(self, name: str) -> Body:
        """Renew one claim with a heartbeat of its own."""
        return self._annotate(kinds.CLAIM_PLURAL, name)

    def _annotate(self, plural: str, name: str) -> Body:
        before = self.kube.request("GET", f"{self._base}/{plural}/{name}")
        value = (before["metadata"].get("annotations") or {}).get(kinds.HEARTBEAT_ANNOTATION, "0")
        return self.patch(
            plural,
            name,
            {"metadata": {"annotations": {kinds.HEARTBEAT_ANNOTATION: str(int(value) + 1)}}},
            manager=kinds.HEARTBEAT_MANAGER,
        )

    def patch(self, plural: str, name: str, body: Body, manager: str = "tests") -> Body:
        """Merge `body` into an object."""
        return self.kube.request(
            "PATCH", f"{self._base}/{plural}/{name}", body, "application/merge-patch+json", fieldManager=manager
        )

    def set_ttl(self, name: str, ttl: str) -> Body:
        """Change a claim's ttl as it stands."""
        return self.patch(kinds.CLAIM_PLURAL, name, {"metadata": {"annotations": {kinds.TTL_ANNOTATION: ttl}}})

    def release(self, name: str) -> Body:
        """Let a claim go."""
        return self.patch(kinds.CLAIM_PLURAL, name, {"spec": {"released": True}})

    def get(self, name: str) -> Body:
        """The claim of this object name."""
        return self.kube.request("GET", f"{self._base}/{kinds.CLAIM_PLURAL}/{name}")

    def get_session(self, session: str) -> Body:
        """The session of this session id."""
        return self.kube.request("GET", f"{self._base}/{kinds.SESSION_PLURAL}/{session_name(session)}")

    def claims(self) -> list[Body]:
        """All claims."""
        items: list[Body] = self.kube.request("GET", f"{self._base}/{kinds.CLAIM_PLURAL}")["items"]
        return items

    def sessions(self) -> list[Body]:
        """All sessions."""
        items: list[Body] = self.kube.request("GET", f"{self._base}/{kinds.SESSION_PLURAL}")["items"]
        return items

    def delete(self, name: str) -> Body:
        """Delete a claim."""
        return self.kube.request("DELETE", f"{self._base}/{kinds.CLAIM_PLURAL}/{name}")

    def delete_session(self, session: str) -> Body:
        """Delete a session."""
        return self.kube.request("DELETE", f"{self._base}/{kinds.SESSION_PLURAL}/{session_name(session)}")

    def events(self) -> list[Body]:
        """The Kubernetes Events of this namespace."""
        items: list[Body] = self.kube.request("GET", f"/api/v1/namespaces/{self.namespace}/events")["items"]
        return items

    def until(self, name: str, test: Callable[[Body], Any], what: str = "", timeout: float = 20.0) -> Body:
        """The claim as soon as `test` holds for it."""

        def look() -> Body | None:
            try:
                body = self.get(name)
            except (OSError, http.client.HTTPException, ApiError) as error:
                raise AssertionError(str(error)) from error
            if not test(body):
                raise AssertionError(json.dumps(body.get("status")))
            return body

        seen = eventually(look, what or f"claim {name}", timeout)
        assert seen is not None
        return seen

    def until_phase(self, name: str, phase: str, timeout: float = 20.0) -> Body:
        """The claim as soon as it is in `phase`."""
        return self.until(name, lambda body: phase_of(body) == phase, f"claim {name} {phase}", timeout)

    def until_session_phase(self, session: str, phase: str, timeout: float = 20.0) -> Body:
        """The session as soon as it is in `phase`."""

        def look() -> Body:
            body = self.get_session(session)
            assert phase_of(body) == phase, json.dumps(body.get("status"))
            return body

        return eventually(look, f"session {session} {phase}", timeout)


def phase_of(body: Body) -> str:
    """`status.phase`, empty when no operator has written one."""
    phase: str = (body.get("status") or {}).get("phase", "")
    return phase


def condition(body: Body, kind: str) -> Body:
    """The condition of this type; empty when it is absent."""
    conditions: list[Body] = (body.get("status") or {}).get("conditions") or []
    return next((item for item in conditions if item["type"] == kind), {})
