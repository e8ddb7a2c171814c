"""Echoes of the operator's own writes are taken out of a watch; everything else passes, however it is cut."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, cast

from hypothesis import given
from hypothesis import strategies as st

from presence_operator.shell.watching import _WithoutEchoes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp


class Stream:
    def __init__(self, chunks: list[bytes]) -> None:
        self.chunks = chunks
        self.total_bytes = sum(map(len, chunks))

    async def iter_chunked(self, _size: int) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk


def line(kind: str, version: int, note: str = "") -> bytes:
    metadata = {"annotations": {"note": note}, "name": "a", "resourceVersion": str(version), "uid": "u"}
    return json.dumps({"type": kind, "object": {"metadata": metadata}}, separators=(",", ":")).encode() + b"\n"


def passed(stream: Stream, own: set[str]) -> list[tuple[str, str]]:
    async def read() -> bytes:
        filtered = _WithoutEchoes(cast("aiohttp.StreamReader", stream), lambda version: version in own)
        return b"".join([chunk async for chunk in filtered.iter_chunked(1024)])

    events: list[dict[str, Any]] = [json.loads(text) for text in asyncio.run(read()).splitlines()]
    return [(event["type"], event["object"]["metadata"]["resourceVersion"]) for event in events]


@given(st.data())
def test_only_echoes_are_missing_wherever_the_network_cuts(data: st.DataObject) -> None:
    notes = st.sampled_from(["", '"resourceVersion":"7","uid":"', "\n", "é"])
    events = data.draw(st.lists(st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]), notes)))
    own = {str(version) for version in data.draw(st.sets(st.integers(0, 20)))}
    text = b"".join(line(kind, version, note) for version, (kind, note) in enumerate(events))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))))
    chunks = [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    expected = [
        (kind, str(version)) for version, (kind, _) in enumerate(events) if str(version) not in own or kind == "DELETED"
    ]
    assert passed(Stream(chunks), own) == expected


def test_the_rest_of_the_stream_is_as_it_was() -> None:
    stream = Stream([b"abc"])
    assert _WithoutEchoes(cast("aiohttp.StreamReader", stream), lambda _: False).total_bytes == 3
