"""The load generator against small servers: what it counts is what happened."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from benchmarks.http_load import (
    ClosedLoop,
    Kind,
    Load,
    LoadResult,
    OpenLoop,
    loading,
    measure,
    run_load,
)
from benchmarks.http_wire import make_request, read_answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Respond = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]

GOOD_KIND = Kind("good", make_request("/", b"image", "image/jpeg"))


def answer(status: int, body: bytes = b"{}", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def ok(_body: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(answer(200))


async def start_server(respond: Respond) -> asyncio.Server:
    """A server that reads each request and leaves the answer to ``respond``."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = int(head.lower().partition("content-length:")[2].partition("\r\n")[0])
                await respond(await reader.readexactly(length), writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    return await asyncio.start_server(serve, "127.0.0.1", 0)


def load_server(
    respond: Respond,
    arrivals: ClosedLoop | OpenLoop = ClosedLoop(2),  # noqa: B008 - an immutable value
    *,
    seconds: float = 0.1,
    kinds: Sequence[Kind] = (GOOD_KIND,),
    **options: float | bytes | str,
) -> LoadResult:
    async def run() -> LoadResult:
        server = await start_server(respond)
        port: int = server.sockets[0].getsockname()[1]
        result = await run_load(Load(port, kinds, arrivals, seconds, **options))  # type: ignore[arg-type]
        server.close()
        return result

    return asyncio.run(run())


def test_answers_are_counted_by_their_status_and_the_kind_of_request() -> None:
    kinds = [
        Kind(name, make_request("/", name.encode(), "text/plain"), weight)
        for name, weight in (("200", 3), ("422", 1), ("503", 1))
    ]
    seen: list[str] = []

    async def echo(body: bytes, writer: asyncio.StreamWriter) -> None:
        seen.append(body.decode())
        writer.write(answer(int(body), b"why"))

    result = load_server(echo, kinds=kinds)
    assert result.counts() == {name: seen.count(name) for name in ("200", "422", "503")}
    assert result.counts("422") == {"422": seen.count("422")}
    assert result.examples == {"422": "why", "503": "why"}
    assert result.unknown_statuses([200, 503]) == ["422"]


def test_requests_are_drawn_by_weight() -> None:
    kinds = [Kind(name, make_request("/", b"", "text/plain"), weight) for name, weight in (("often", 9), ("rare", 1))]
    result = load_server(ok, OpenLoop(2000), kinds=kinds, seconds=0.2)
    assert sum(result.counts("rare").values()) / sum(result.counts().values()) == pytest.approx(0.1, abs=0.05)


def test_each_client_of_a_closed_loop_has_one_request_in_work() -> None:
    in_work: list[int] = [0]
    most: list[int] = []

    async def slow(_body: bytes, writer: asyncio.StreamWriter) -> None:
        in_work[0] += 1
        most.append(in_work[0])
        await asyncio.sleep(0.02)
        in_work[0] -= 1
        writer.write(answer(200))

    result = load_server(slow, ClosedLoop(3))
    assert max(most) == 3
    assert 0 < result.good_rate() <= 3 / 0.02
    assert result.latency(50) >= 0.02


def test_an_open_loop_keeps_its_rate_whether_answers_come_or_not() -> None:
    async def slow(_body: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        writer.write(answer(200))

    result = load_server(slow, OpenLoop(200, is_even=True), seconds=0.3)
    assert result.counts()["200"] == pytest.approx(60, abs=1)
    assert load_server(ok, OpenLoop(600), seconds=0.3).counts()["200"] == pytest.approx(180, abs=60)


def test_what_finds_no_connection_within_the_bound_is_counted() -> None:
    async def slow(_body: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.5)
        writer.write(answer(200))

    result = load_server(slow, OpenLoop(100, is_even=True, max_connections=4), seconds=0.1)
    assert result.counts()["200"] == 4
    assert result.counts()["no_connection"] == pytest.approx(6, abs=1)


def test_the_time_of_an_answer_counts_from_when_its_request_was_due() -> None:
    async def stand_still(_body: bytes, writer: asyncio.StreamWriter) -> None:
        time.sleep(0.1)  # the client in the same loop stands still too
        writer.write(answer(200))

    result = load_server(stand_still, OpenLoop(20, is_even=True), seconds=0.2)
    assert result.latency(100) > 0.15


def test_clients_that_abort_are_counted_and_close_their_connection() -> None:
    closed: list[bool] = []

    async def never(_body: bytes, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        closed.append(writer.transport.is_closing())

    result = load_server(never, OpenLoop(100, is_even=True), seconds=0.1, abort_share=1.0)
    assert result.counts() == {"aborted": pytest.approx(10, abs=1)}
    assert all(closed)


def test_a_share_of_the_clients_aborts() -> None:
    result = load_server(ok, OpenLoop(2000), seconds=0.2, abort_share=0.3)
    counts = result.counts()
    assert set(counts) == {"200", "aborted"}
    assert counts["aborted"] / sum(counts.values()) == pytest.approx(0.3, abs=0.1)


def test_a_server_that_does_not_answer_is_a_timeout() -> None:
    async def never(_body: bytes, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    result = load_server(never, ClosedLoop(2), seconds=0.1, timeout_s=0.15)
    assert result.counts() == {"timeout": 2}


def test_a_connection_that_breaks_is_an_error_and_the_client_makes_another() -> None:
    async def break_off(_body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200)[:20])
        writer.close()

    result = load_server(break_off, ClosedLoop(1), seconds=0.3)
    assert set(result.counts()) == {"connection_error"}
    assert result.counts()["connection_error"] >= 2


def test_a_server_that_is_not_there_is_an_error() -> None:
    result = asyncio.run(run_load(Load(1, [GOOD_KIND], ClosedLoop(1), 0.1)))
    assert set(result.counts()) == {"connection_error"}


def test_connections_are_kept_until_the_server_closes_them() -> None:
    connections: set[int] = set()

    async def note(_body: bytes, writer: asyncio.StreamWriter) -> None:
        connections.add(id(writer))
        writer.write(answer(200))

    assert load_server(note, ClosedLoop(2)).counts()["200"] > 10
    assert len(connections) == 2

    async def close(_body: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, b"{}", "Connection: close"))
        writer.close()

    assert set(load_server(close, ClosedLoop(2)).counts()) == {"200"}


def test_a_value_in_the_answers_is_kept() -> None:
    count = [0]

    async def change(_body: bytes, writer: asyncio.StreamWriter) -> None:
        count[0] += 1
        writer.write(answer(200, b'{"model":{"fingerprint":"%s"}}' % (b"a" if count[0] <= 5 else b"b")))

    result = load_server(change, ClosedLoop(1), tag=b'"fingerprint":"')
    assert result.has_tag("a").sum() == 5
    assert result.has_tag("b").sum() == count[0] - 5
    assert result.ended[result.has_tag("a")].max() < result.ended[result.has_tag("b")].min()


def test_the_warm_up_is_not_counted() -> None:
    count = [0]

    async def note(_body: bytes, writer: asyncio.StreamWriter) -> None:
        count[0] += 1
        writer.write(answer(200))

    result = load_server(note, ClosedLoop(1), warm_up_s=0.1)
    assert 0 < result.counts()["200"] < count[0]
    assert result.ended.min() >= 0


def test_it_runs_in_a_process_of_its_own() -> None:
    async def run() -> LoadResult:
        server = await start_server(ok)
        port: int = server.sockets[0].getsockname()[1]
        load = Load(port, [GOOD_KIND], ClosedLoop(2), 0.2)
        result = await asyncio.to_thread(measure, load)
        server.close()
        return result

    result = asyncio.run(run())
    assert set(result.counts()) == {"200"}
    assert 0 < result.cpu_share <= 1.1


def test_connections_come_from_the_address_that_is_asked_for() -> None:
    addresses: set[str] = set()

    async def note(_body: bytes, writer: asyncio.StreamWriter) -> None:
        addresses.add(writer.get_extra_info("peername")[0])
        writer.write(answer(200))

    assert set(load_server(note, source="127.0.0.66").counts()) == {"200"}
    assert addresses == {"127.0.0.66"}


def test_it_can_be_stopped_before_its_time() -> None:
    async def run() -> LoadResult:
        server = await start_server(ok)
        port: int = server.sockets[0].getsockname()[1]

        def stop_soon() -> LoadResult:
            with loading(Load(port, [GOOD_KIND], ClosedLoop(2), 60)) as loaded:
                time.sleep(0.5)
                loaded.stop()
                return loaded.wait()

        result = await asyncio.to_thread(stop_soon)
        server.close()
        return result

    assert asyncio.run(run()).seconds < 20


CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5\r\nhello\r\n7;name=value\r\n, world\r\n0\r\nTrailer: one\r\n\r\n"
)


def test_chunked_answers_are_read_to_their_end() -> None:
    complete = read_answer(CHUNKED)
    assert complete is not None
    assert (complete.status, complete.body, complete.is_last) == (200, b"hello, world", False)
    assert all(read_answer(CHUNKED[:n]) is None for n in range(len(CHUNKED)))


def test_a_chunked_answer_in_pieces_is_one_answer() -> None:
    async def in_pieces(_body: bytes, writer: asyncio.StreamWriter) -> None:
        for at in range(0, len(CHUNKED), 30):
            writer.write(CHUNKED[at : at + 30])
            await writer.drain()
            await asyncio.sleep(0.001)

    assert set(load_server(in_pieces).counts()) == {"200"}


def test_an_answer_is_read_only_when_it_is_whole() -> None:
    whole = answer(422, b"reason")
    assert all(read_answer(whole[:n]) is None for n in range(len(whole)))
    found = read_answer(b"HTTP/1.1 100 Continue\r\n\r\n" + whole)
    assert found is not None
    assert (found.status, found.body) == (422, b"reason")


def test_the_end_of_the_connection_ends_a_body_of_unknown_length() -> None:
    received = b"HTTP/1.1 200 OK\r\n\r\nuntil the end"
    assert read_answer(received) is None
    found = read_answer(received, is_end=True)
    assert found is not None
    assert (found.body, found.is_last) == (b"until the end", True)


def test_what_is_no_http_is_refused() -> None:
    with pytest.raises(ValueError, match="not HTTP"):
        read_answer(b"SSH-2.0-OpenSSH_9.2\r\n")
