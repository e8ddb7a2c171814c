"""The running operator and its mirror: what kubectl shows, what SQL shows, and what outages cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from support.dolt import Database, Server, dump
from support.kube import ApiError, Board, condition, phase_of
from support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.operator import OperatorProcess

    Operators = Callable[..., OperatorProcess]


def _address(database: Database) -> str:
    dsn = database.dsn
    return f"mysql://{dsn.user}:{dsn.password}@{dsn.host}:{dsn.port}/{dsn.database}"


def _events(database: Database) -> list[tuple[Any, ...]]:
    return database.rows("SELECT session_id, resource_label, kind FROM presence_events ORDER BY at, kind")


def _is_gone(board: Board, name: str) -> bool:
    try:
        board.get(name)
    except ApiError as error:
        return error.status == 404
    return False


def test_a_claim_is_a_row_while_it_lives_and_history_after(
    board: Board, operator_process: Operators, dolt_tables: Database
) -> None:
    operator_process(dsn=_address(dolt_tables)).start()
    name = board.claim("stack:vault", "wizard@devvm@a1b2c3d4", purpose="rotate the keys")["metadata"]["name"]
    eventually(lambda: dump(dolt_tables, "session_id, resource_label, purpose, host, user") == [
        ("wizard@devvm@a1b2c3d4", "stack:vault", "rotate the keys", "testhost", "tester")
    ], "its row")  # fmt: skip
    board.until(name, lambda body: condition(body, "Mirrored")["status"] == "True", "the condition Mirrored")
    board.release(name)
    eventually(lambda: dump(dolt_tables) == [], "the row goes")
    assert [kind for _, _, kind in _events(dolt_tables)] == ["claimed", "granted", "released"]
    # The time in the table is the time on the object, to the second.
    stamps = dolt_tables.rows("SELECT at FROM presence_events WHERE kind = 'released'")
    assert stamps[0][0].strftime("%Y-%m-%dT%H:%M:%SZ") == board.get(name)["status"]["endedAt"]


def test_a_session_that_is_deleted_is_over_in_the_table_too(
    board: Board, operator_process: Operators, dolt_tables: Database
) -> None:
    operator_process(dsn=_address(dolt_tables)).start()
    board.session("s1")
    query = "SELECT phase, ended_at IS NULL FROM presence_sessions WHERE session_id = 's1'"
    eventually(lambda: dolt_tables.rows(query) == [("Active", 1)], "its row")
    board.delete_session("s1")
    eventually(lambda: dolt_tables.rows(query) == [("Deleted", 0)], "the row says that it ended")


def test_what_happened_while_the_operator_was_dead_is_right_in_the_tables_afterwards(
    board: Board, operator_process: Operators, dolt_tables: Database
) -> None:
    operator = operator_process(dsn=_address(dolt_tables)).start()
    names = {
        resource: board.claim(resource, "s1", ttl="60s")["metadata"]["name"]
        for resource in ("stack:deleted", "stack:released", "stack:stays")
    }
    eventually(lambda: len(dump(dolt_tables)) == 3, "three rows")
    operator.kill()
    board.delete(names["stack:deleted"])
    board.release(names["stack:released"])
    board.claim("stack:new", "s1", ttl="60s")
    operator.start()
    eventually(lambda: dump(dolt_tables, "resource_label") == [("stack:new",), ("stack:stays",)], "the rows are right")
    assert ("s1", "stack:deleted", "deleted") in _events(dolt_tables)
    assert ("s1", "stack:released", "released") in _events(dolt_tables)


def test_while_dolt_is_dead_claims_are_served_and_no_end_is_lost(
    board: Board, operator_process: Operators, own_dolt: Server
) -> None:
    with own_dolt.database() as database:
        database.migrate()
        operator = operator_process("--retention", "1s", dsn=_address(database)).start()
        ends = board.claim("stack:ends", "s1", ttl="60s")["metadata"]["name"]
        eventually(lambda: len(dump(database)) == 1, "its row")
        own_dolt.kill()
        made = board.claim("stack:made", "s2", ttl="60s")["metadata"]["name"]
        board.until_phase(made, "Active")
        board.release(ends)
        board.until_phase(ends, "Released")
        board.until(
            ends, lambda body: condition(body, "Mirrored")["reason"] == "MirrorUnavailable", "the condition Mirrored"
        )
        # Its retention is over, but its end is nowhere else yet.
        eventually(lambda: operator.metric("presence_mirror_lag_seconds") > 2, "the outage lasts")
        assert phase_of(board.get(ends)) == "Released"
        own_dolt.start()
        eventually(lambda: dump(database, "resource_label") == [("stack:made",)], "the difference is written")
        assert ("s1", "stack:ends", "released") in _events(database)
        eventually(lambda: _is_gone(board, ends), "the ended claim is collected")
        board.until(made, lambda body: condition(body, "Mirrored")["status"] == "True", "the condition Mirrored")
        eventually(lambda: operator.metric("presence_mirror_lag_seconds") == 0, "no lag")


def test_a_missing_schema_is_shown_on_the_claims_and_caught_up_once_it_is_there(
    board: Board, operator_process: Operators, dolt_empty: Database
) -> None:
    operator = operator_process(dsn=_address(dolt_empty)).start()
    name = board.claim("stack:vault", "s1", ttl="60s")["metadata"]["name"]
    board.until_phase(name, "Active")
    said = board.until(name, lambda body: condition(body, "Mirrored")["status"] == "False", "the condition Mirrored")
    assert condition(said, "Mirrored")["reason"] == "SchemaBehind"
    assert "presence-operator migrate" in condition(said, "Mirrored")["message"]
    assert operator.metric("presence_mirror_schema_state", state="behind") == 1
    dolt_empty.migrate()
    eventually(lambda: len(dump(dolt_empty)) == 1, "its row")
    board.until(name, lambda body: condition(body, "Mirrored")["status"] == "True", "the condition Mirrored")
