"""Connections against scripted peers on loopback: reuse, ends, deadlines, back-pressure, what was sent."""

import asyncio
import contextlib
import errno
import os
import random
import socket
import time
from typing import Any

import pytest
from support_peer import answers, peer, pieces, read_request

from gateway.clock import lease_clock
from gateway.upstream.address import dial
from gateway.upstream.connection import Connection, State
from gateway.upstream.errors import (
    AnswerRefused,
    ChannelClosed,
    ChannelError,
    ChannelTimeout,
    ConnectFailed,
    ConnectTimeout,
    TooManyConnections,
)
from gateway.upstream.limits import Deadlines, Limits
from gateway.upstream.origin import parse_origin
from gateway.upstream.pool import UpstreamPool

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
QUICK = Deadlines(first_byte_s=0.25, idle_s=0.25, total_s=0.6)
PATIENT = Deadlines(first_byte_s=10, idle_s=10, total_s=20)  # for exchanges that must end by themselves


async def ask(pool, node, deadlines=PATIENT, body=b'{"n":1}', **how):
    """One whole exchange: status and body."""
    connection = await pool.acquire(node.origin, None, 2.0)
    try:
        head = await connection.request(b"POST", b"/v1/x", [(b"x-a", b"1")], body, deadlines, **how)
        return head.status, await connection.read_all()
    finally:
        pool.release(connection)


async def drain(connection, seen):
    """Read to the end, keeping in `seen` what came before it or before the error."""
    async for chunk in connection.chunks():
        seen += chunk


async def refusal(pool, node, **how):
    """The error of an exchange that must fail, once it is sure that the connection is gone from the pool."""
    with pytest.raises(ChannelError) as caught:
        await ask(pool, node, **how)
    assert pool.idle_count(node.origin) == 0
    return caught.value


async def test_a_request_leaves_exactly_as_it_was_given(pool):
    """One head with our framing fields, the caller's fields in order, and the body byte for byte."""
    async with peer(answers(HELLO)) as node:
        assert await ask(pool, node, body=b'{ "a" : 1 }\r\n\x00') == (200, b"hello")
    authority = node.origin.authority
    assert node.requests == [
        b"POST /v1/x HTTP/1.1\r\nhost: " + authority + b"\r\naccept-encoding: identity\r\nx-a: 1\r\n"
        b'content-length: 14\r\n\r\n{ "a" : 1 }\r\n\x00'
    ]


async def test_a_large_body_leaves_whole(pool):
    """Four megabytes go out unchanged."""
    body = bytes(range(256)) * 16384
    async with peer(answers(HELLO)) as node:
        assert await ask(pool, node, body=body, deadlines=Deadlines()) == (200, b"hello")
        assert node.requests[0].endswith(b"\r\n\r\n" + body)


async def test_a_get_without_body_has_no_content_length(pool):
    """Only requests with a body, or whose method expects one, say its length."""
    async with peer(answers(HELLO, HELLO)) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"GET", b"/", [])
        await connection.read_all()
        pool.release(connection)
        await ask(pool, node, body=b"")
        assert b"content-length" not in node.requests[0]
        assert b"content-length: 0\r\n" in node.requests[1]


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        (b"POST", b"/a b", []),
        (b"POST", b"", []),
        (b"POST", b"/\r\nx: y", []),
        (b"PO ST", b"/", []),
        (b"HEAD", b"/", []),
        (b"CONNECT", b"/", []),
        (b"POST", b"/", [(b"x", b"a\r\nhost: evil")]),
        (b"POST", b"/", [(b"x", b"a\nb")]),
        (b"POST", b"/", [(b"x", b"a\x00")]),
        (b"POST", b"/", [(b"x: y\r\nz", b"a")]),
        (b"POST", b"/", [(b"x y", b"a")]),
        (b"POST", b"/", [(b"", b"a")]),
        (b"POST", b"/", [(b"Host", b"evil")]),
        (b"POST", b"/", [(b"Transfer-Encoding", b"chunked")]),
        (b"POST", b"/", [(b"content-length", b"0")]),
        (b"POST", b"/", [(b"Cookie", b"a=b")]),
        (b"POST", b"/", [(b"accept-encoding", b"gzip")]),
    ],
)
async def test_a_request_that_would_not_stay_one_is_not_sent(pool, method, target, headers):
    """Injection and framing fields are refused before a byte leaves, and the connection stays good."""
    async with peer(answers(HELLO)) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        with pytest.raises(ValueError, match="cannot be sent"):
            await connection.request(method, target, headers, b"{}")
        assert not connection.sent
        pool.release(connection)
        assert await ask(pool, node) == (200, b"hello")
        assert node.connections == 1
        assert len(node.requests) == 1


async def test_connections_are_reused_last_in_first_out(pool):
    """A clean exchange leaves the connection for the next; of several the warmest is taken."""
    async with peer(answers(HELLO, HELLO, HELLO)) as node:
        for _ in range(2):
            assert await ask(pool, node) == (200, b"hello")
        assert node.connections == 1
        first = await pool.acquire(node.origin, None, 2.0)
        second = await pool.acquire(node.origin, None, 2.0)
        assert node.connections == 2 or second is not first
        pool.release(first)
        pool.release(second)
        pool.release(second)  # twice does no harm
        assert pool.idle_count(node.origin) == 2
        assert await pool.acquire(node.origin, None, 2.0) is second


async def test_the_state_says_how_far_it_came(pool):
    """unsent, sent, answered; and the next exchange starts at unsent again."""
    go = asyncio.Event()

    async def script(node, reader, writer):
        while await read_request(node, reader):
            await go.wait()
            writer.write(HELLO)

    async with peer(script) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        assert (connection.state, connection.sent) == (State.UNSENT, False)
        task = asyncio.create_task(connection.request(b"POST", b"/", [], b"{}"))
        await asyncio.sleep(0.02)
        assert (connection.state, connection.sent) == (State.SENT, True)
        go.set()
        await task
        assert connection.state is State.ANSWERED
        assert await connection.read_all() == b"hello"
        assert connection.complete
        assert connection.received == 5
        pool.release(connection)
        again = await pool.acquire(node.origin, None, 2.0)
        assert again is connection
        assert (again.state, again.sent, again.received, again.complete) == (State.UNSENT, False, 0, False)


async def test_a_connection_carries_one_exchange_at_a_time(pool):
    """A second request before the release, and reading before any request, are refused."""
    async with peer(answers(HELLO)) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        with pytest.raises(ChannelClosed, match="nothing was asked"):
            await connection.read_some()
        await connection.request(b"POST", b"/", [])
        with pytest.raises(ChannelClosed):
            await connection.request(b"POST", b"/", [])
        pool.release(connection)
        assert len(node.requests) == 1


# ---------------------------------------------------------------------------------------------------- what is not sent


async def test_i01_a_refused_connection_sent_nothing(pool):
    """Nobody listens: `connect_failed`, nothing sent, another node may be tried."""
    async with peer(answers(HELLO)) as node:
        origin = node.origin
    with pytest.raises(ConnectFailed) as caught:
        await pool.acquire(origin, None, 2.0)
    assert (caught.value.reason, caught.value.sent, caught.value.retryable) == ("connect_failed", False, True)
    assert pool.open_count == 0


async def test_i01_the_next_address_of_a_name_is_tried():
    """Where the first address refuses, the second serves."""

    async def resolve(host, port):
        return ["127.0.0.2", "127.0.0.1"]

    async with peer(answers(HELLO)) as node:
        pool = UpstreamPool(resolver=resolve)
        connection = await pool.acquire(node.at("localhost"), None, 2.0)
        assert (await connection.request(b"GET", b"/", [])).status == 200
        await pool.close()


async def test_an_address_that_does_not_answer_gets_its_share_of_the_time_only():
    """A hanging first address leaves time for the second; where all hang it is a connect timeout."""

    async def resolve(host, port):
        return addresses

    async with peer(answers(HELLO)) as node:
        pool = UpstreamPool(resolver=resolve)
        with contextlib.ExitStack() as stack:
            full = stack.enter_context(socket.socket())
            full.bind(("127.0.0.2", node.port))
            full.listen(0)
            for _ in range(4):  # fill the backlog: the kernel then leaves further attempts unanswered
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(("127.0.0.2", node.port))
            addresses = ["127.0.0.2", "127.0.0.1"]
            connection = await pool.acquire(node.at("localhost"), None, 0.4)
            assert (await connection.request(b"GET", b"/", [])).status == 200
            addresses = ["127.0.0.2"]
            start = time.monotonic()
            with pytest.raises(ConnectTimeout):
                await pool.acquire(node.at("localhost"), None, 0.1)
            assert time.monotonic() - start < 1
        await pool.close()


def refuse_sockets(monkeypatch, number, families):
    """Have the system answer `number` to whoever asks for a new socket of `families`."""

    class Refused(socket.socket):
        def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
            if fileno is None and family in families:
                raise OSError(number, os.strerror(number))
            super().__init__(family, type, proto, fileno)

    monkeypatch.setattr(socket, "socket", Refused)


async def test_an_address_of_a_family_that_the_machine_has_not_is_passed_over(monkeypatch):
    """Where IPv6 is off, a name with both kinds of address is reached by the other, and ::1 alone by none."""

    async def resolve(host, port):
        return addresses

    async with peer(answers(HELLO)) as node:
        refuse_sockets(monkeypatch, errno.EAFNOSUPPORT, {socket.AF_INET6})
        pool = UpstreamPool(resolver=resolve)
        addresses = ["::1", "127.0.0.1"]
        connection = await pool.acquire(node.at("localhost"), None, 2.0)
        assert (await connection.request(b"GET", b"/", [])).status == 200
        addresses = ["::1"]
        with pytest.raises(ConnectFailed):
            await pool.acquire(node.at("localhost"), None, 2.0)
        await pool.close()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
async def test_out_of_file_descriptors_is_our_own_limit(pool, monkeypatch, number):
    """Nothing left and no node is to blame: the same error as for the pool's own limits, and no place is kept."""
    async with peer(answers(HELLO)) as node:
        with monkeypatch.context() as patch:
            refuse_sockets(patch, number, {socket.AF_INET, socket.AF_INET6})
            with pytest.raises(TooManyConnections) as caught:
                await pool.acquire(node.origin, None, 2.0)
        assert (caught.value.reason, caught.value.sent, pool.open_count) == ("busy", False, 0)
        assert await ask(pool, node) == (200, b"hello")


async def test_a_name_that_never_resolves_is_a_connect_timeout():
    """The connect deadline covers the resolver."""

    async def resolve(host, port):
        await asyncio.sleep(60)

    pool = UpstreamPool(resolver=resolve)
    with pytest.raises(ConnectTimeout) as caught:
        await pool.acquire(parse_origin("https://node.example"), None, 0.05)
    assert (caught.value.reason, caught.value.sent) == ("timeout_connect", False)
    assert pool.open_count == 0


async def test_a_peer_that_does_not_answer_the_handshake_is_a_connect_timeout():
    """TCP without TLS behind it: the connect deadline ends it."""
    held = []

    async def silent(node, reader, writer):
        held.append(await reader.read(3))
        await reader.read()

    async with peer(silent) as node:
        pool = UpstreamPool()
        origin = parse_origin(f"https://127.0.0.1:{node.port}", allow_private=True)
        with pytest.raises(ConnectTimeout):
            await pool.acquire(origin, frozenset({b"x" * 32}), 0.1)
        await asyncio.wait_for(node.closed.wait(), 2)
        assert held[0][:1] == b"\x16"
        assert pool.open_count == 0
        await pool.close()


async def test_i02_a_peer_that_closes_after_the_request_says_sent(pool):
    """Nothing was answered, but the request had left: `closed`, sent, one call upstream."""
    async with peer(pieces()) as node:
        error = await refusal(pool, node)
        assert isinstance(error, ChannelClosed)
        assert (error.reason, error.sent, error.retryable) == ("closed", True, False)
        assert len(node.requests) == 1


async def test_i02_a_peer_that_closes_on_reuse_before_a_byte_says_sent(pool):
    """The second request on a kept connection that is then closed unanswered is not sent again by itself."""

    async def script(node, reader, writer):
        await read_request(node, reader)
        writer.write(HELLO)
        await read_request(node, reader)

    async with peer(script) as node:
        assert await ask(pool, node) == (200, b"hello")
        error = await refusal(pool, node)
        assert (error.reason, error.sent) == ("closed", True)
        assert node.connections == 1
        assert len(node.requests) == 2


async def test_i03_e15_an_error_status_is_a_plain_answer(pool):
    """A 500 comes back as it is, once; what it means is the caller's business."""
    answer = b"HTTP/1.1 500 Oops\r\nRetry-After: 99999999\r\nContent-Length: 6\r\n\r\nsecret"
    async with peer(answers(answer)) as node:
        assert await ask(pool, node) == (500, b"secret")
        assert len(node.requests) == 1


async def test_i04_a_timeout_after_the_request_discards_the_late_answer(pool):
    """The connection is gone at the deadline; the next request, on a new one, gets its own answer."""
    count = 0

    async def script(node, reader, writer):
        nonlocal count
        count += 1
        mine = count
        await read_request(node, reader)
        if mine == 1:
            await asyncio.sleep(0.4)
        writer.write(OK + b"Content-Length: 1\r\n\r\n%d" % mine)
        await reader.read()

    async with peer(script) as node:
        error = await refusal(pool, node, deadlines=QUICK)
        assert isinstance(error, ChannelTimeout)
        assert (error.reason, error.sent) == ("timeout_first_byte", True)
        assert await ask(pool, node) == (200, b"2")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_e13_redirects_are_not_followed(pool, status):
    """A redirect is a plain answer, and there is no second connection or request."""
    async with peer(
        answers(b"HTTP/1.1 %d X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n" % status)
    ) as node:
        assert await ask(pool, node) == (status, b"")
        assert (node.connections, len(node.requests)) == (1, 1)


async def test_e14_cookies_are_not_kept(pool):
    """What one answer sets, the next request does not carry."""
    async with peer(answers(OK + b"Set-Cookie: id=1\r\nContent-Length: 0\r\n\r\n", HELLO)) as node:
        await ask(pool, node)
        await ask(pool, node)
        assert b"cookie" not in node.requests[1].lower()


# ---------------------------------------------------------------------------------------------- surplus and stale ones


SECOND = OK + b"Content-Length: 6\r\n\r\nforged"


@pytest.mark.parametrize("first", [HELLO, CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"])
@pytest.mark.parametrize("gap", [None, 0.0, 0.03])
async def test_e17_a_second_answer_never_answers_the_next_request(first, gap):
    """Surplus in the same read, right behind, or while idle: connection closed, alarm once, the next one asks anew."""
    alarms = []
    own = OK + b"Content-Length: 3\r\n\r\nown"
    turns = iter([[first + SECOND] if gap is None else [first, SECOND], [own]])

    async def script(node, reader, writer):
        blobs = next(turns)
        await read_request(node, reader)
        for blob in blobs:
            writer.write(blob)
            await writer.drain()
            await asyncio.sleep(gap or 0)
        await reader.read()

    pool = UpstreamPool(on_surplus=alarms.append)
    async with peer(script) as node:
        assert await ask(pool, node) == (200, b"hello")
        if gap is not None:
            await asyncio.sleep(0.1)
        assert pool.idle_count(node.origin) == 0
        assert await ask(pool, node) == (200, b"own")
        assert node.connections == 2
        assert alarms == [node.origin]
        assert pool.surplus_count == 1
    await pool.close()


async def test_e11_junk_behind_the_end_fails_the_exchange_and_raises_the_alarm():
    """A body longer than its Content-Length is refused, not cut to size."""
    alarms = []
    pool = UpstreamPool(on_surplus=alarms.append)
    async with peer(answers(OK + b"Content-Length: 5\r\n\r\nhello world")) as node:
        error = await refusal(pool, node)
        assert error.reason == "bad_framing"
        assert alarms == [node.origin]
    await pool.close()


async def test_bytes_before_any_request_close_the_connection():
    """A peer that speaks first is not listened to; nothing of the prompt goes there."""
    alarms = []

    async def script(node, reader, writer):
        writer.write(SECOND)
        await read_request(node, reader)

    async def speak(node):
        connection = await pool.acquire(node.origin, None, 2.0)
        try:
            await asyncio.sleep(0.05)
            await connection.request(b"POST", b"/", [], b"prompt")
        finally:
            pool.release(connection)

    pool = UpstreamPool(on_surplus=alarms.append)
    async with peer(script) as node:
        with pytest.raises((ChannelClosed, ConnectFailed)) as caught:  # as soon as the loop sees it
            await speak(node)
        assert not caught.value.sent
        assert node.requests == []
        assert alarms == [node.origin]
    await pool.close()


@pytest.mark.parametrize("wait", [0.0, 0.05])
async def test_a_connection_that_the_peer_closed_while_idle_is_not_handed_out(pool, wait):
    """A stale connection is dropped, noticed by the loop or not yet, and the request goes out on a fresh one."""

    async def script(node, reader, writer):
        await read_request(node, reader)
        writer.write(HELLO)
        await writer.drain()

    async with peer(script) as node:
        for expected in (1, 2, 3):
            assert await ask(pool, node) == (200, b"hello")
            if wait:
                await asyncio.sleep(wait)
                assert pool.idle_count(node.origin) == 0
            else:
                time.sleep(0.03)  # the peer's end reaches the socket while no loop runs
                await asyncio.sleep(0)
            assert node.connections == expected


async def test_what_reached_the_socket_but_not_the_loop_is_seen_before_reuse(pool):
    """A premature second answer that nobody read yet keeps the connection from being handed out."""
    async with peer(answers(HELLO)) as node:
        assert await ask(pool, node) == (200, b"hello")
        (connection,) = pool._all
        assert connection.untouched()
        connection._transport.pause_reading()  # as if the loop had not come to it yet
        (task,) = [t for t in asyncio.all_tasks() if "handle" in repr(t)]
        writer = task.get_coro().cr_frame.f_locals["writer"]
        writer.write(SECOND)
        await asyncio.sleep(0.03)
        assert not connection.untouched()
        # Who asks for no look is given it, and has to look.
        assert (await pool.acquire(node.origin, None, 2.0, look=False)) is connection
        pool.release(connection)
        assert (await pool.acquire(node.origin, None, 2.0)) is not connection


async def test_an_answer_that_ends_its_connection_is_not_pooled(pool):
    """`Connection: close` and HTTP/1.0 answers are whole, and their connection is closed by us."""
    blobs = (
        OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    )
    for blob in blobs:
        async with peer(answers(blob)) as node:
            assert await ask(pool, node) == (200, b"hi")
            assert pool.idle_count(node.origin) == 0
            await asyncio.wait_for(node.closed.wait(), 2)


async def test_an_answer_before_the_request_was_written_out_is_not_pooled(pool):
    """An early answer while our body still waits to be sent leaves a connection nobody may use again."""

    async def script(node, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(5)

    async with peer(script) as node:
        status, _ = await ask(pool, node, body=b"x" * 60_000_000, deadlines=Deadlines())
        assert status == 413
        assert pool.idle_count(node.origin) == 0


# -------------------------------------------------------------------------------------------------- endings and caps


@pytest.mark.parametrize("blob", [OK + b"Content-Length: 10\r\n\r\nhello", CHUNKED + b"5\r\nhello\r\n", CHUNKED])
@pytest.mark.parametrize("reset", [False, True])
async def test_d03_an_answer_cut_short_is_truncated(pool, blob, reset):
    """A close or a reset before the framing's end is an error, with what came before it still readable."""
    async with peer(pieces(blob, gap_s=0.05, reset=reset)) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"POST", b"/", [], b"{}", QUICK)
        seen = bytearray()
        with pytest.raises(ChannelClosed) as caught:
            await drain(connection, seen)
        assert (caught.value.reason, caught.value.sent) == ("truncated", True)
        assert seen == (b"hello" if b"hello" in blob else b"")
        assert connection.received == len(seen)
        pool.release(connection)
        assert pool.idle_count(node.origin) == 0


async def test_e10_an_end_by_close_is_an_end_and_a_reset_is_not(pool):
    """Without a length: a clean close completes the flagged answer, a reset truncates it."""
    async with peer(pieces(OK + b"\r\n", b"hello", gap_s=0.03)) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        head = await connection.request(b"GET", b"/", [])
        assert head.delimited_by_close
        assert await connection.read_all() == b"hello"
        pool.release(connection)
    async with peer(pieces(OK + b"\r\nhello", gap_s=0.05, reset=True)) as node:
        error = await refusal(pool, node)
        assert error.reason == "truncated"


@pytest.mark.parametrize(
    ("blob", "reason"),
    [
        (OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", "content_encoding"),
        (OK + b"X: " + b"a" * 100_000, "header_too_large"),
        (OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", "bad_framing"),
        (b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "status"),
        (b"HTTP/2.0 200 OK\r\n\r\n", "bad_framing"),
        (OK + b"Content-Length: 99999999999\r\n\r\n", "too_large"),
        (CHUNKED + b"5;" + b"x" * 200_000, "bad_framing"),
    ],
)
async def test_e01_e12_a_hostile_answer_ends_the_connection_at_once(pool, blob, reason):
    """What the reader refuses closes the connection, says so with `sent`, and is not in the pool."""
    async with peer(answers(blob)) as node:
        error = await refusal(pool, node, deadlines=Deadlines())
        assert isinstance(error, AnswerRefused)
        assert (error.reason, error.sent) == (reason, True)
        await asyncio.wait_for(node.closed.wait(), 2)


async def test_d17_d18_an_endless_answer_ends_at_the_cap(pool):
    """Content without end stops at the caller's cap, streamed or collected, and the peer sees the connection go."""

    async def script(node, reader, writer):
        await read_request(node, reader)
        writer.write(CHUNKED)
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()

    async with peer(script) as node:
        assert (await refusal(pool, node, max_body=1_000_000)).reason == "too_large"
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"POST", b"/", [], b"", max_body=500_000)
        seen = bytearray()
        with pytest.raises(AnswerRefused):
            await drain(connection, seen)
        assert len(seen) <= 500_000
        pool.release(connection)
        await asyncio.wait_for(node.closed.wait(), 2)


async def test_a_declared_length_beyond_the_readers_cap_is_refused_before_reading(pool):
    """`read_all(max_bytes)` judges by the head alone, and by what came where there is no length."""
    async with peer(answers(OK + b"Content-Length: 50\r\n\r\n", OK + b"Content-Length: 50\r\n\r\n")) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"GET", b"/", [])
        with pytest.raises(AnswerRefused) as caught:
            await connection.read_all(49)
        assert caught.value.reason == "too_large"
        pool.release(connection)


# --------------------------------------------------------------------------------------------------------- deadlines


async def timed(pool, node, deadlines, reason):
    start = time.monotonic()
    error = await refusal(pool, node, deadlines=deadlines)
    took = time.monotonic() - start
    assert isinstance(error, ChannelTimeout)
    assert (error.reason, error.sent, error.status) == (reason, True, 504)
    await asyncio.wait_for(node.closed.wait(), 2)
    return took


async def test_d20_no_first_byte_is_a_timeout(pool):
    """Silence ends at the first-byte deadline."""
    async with peer(answers(b"")) as node:
        assert 0.1 <= await timed(pool, node, Deadlines(0.1, 5, 5), "timeout_first_byte") < 1


async def test_d20_a_head_dribbled_byte_by_byte_does_not_evade_the_first_byte_deadline(pool):
    """The deadline is for the whole head, interim answers included."""
    blobs = [bytes([byte]) for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"x-a: b\r\n" * 20]
    async with peer(pieces(*blobs, gap_s=0.01)) as node:
        assert 0.19 <= await timed(pool, node, Deadlines(0.2, 5, 5), "timeout_first_byte") < 1


async def test_d20_a_body_that_stops_is_an_idle_timeout(pool):
    """Silence in the middle ends at the idle deadline, counted from the last byte."""
    async with peer(pieces(CHUNKED, b"1\r\na\r\n", b"1\r\na\r\n", b"", gap_s=0.1)) as node:
        error = await refusal(pool, node, deadlines=Deadlines(5, 0.05, 5))
        assert error.reason == "timeout_idle"
    async with peer(answers(CHUNKED + b"1\r\na\r\n")) as node:
        assert 0.15 <= await timed(pool, node, Deadlines(5, 0.15, 5), "timeout_idle") < 1


async def test_d20_one_byte_at_a_time_ends_at_the_total_deadline(pool):
    """Bytes that keep coming do not evade the total deadline."""
    async with peer(pieces(CHUNKED, *[b"1\r\na\r\n"] * 200, gap_s=0.02)) as node:
        assert 0.3 <= await timed(pool, node, Deadlines(5, 5, 0.3), "timeout_total") < 1


async def test_small_pieces_gather_and_the_last_one_does_not_wait(pool):
    """With `gather_s` pieces come together, the first and the last at once, and no byte is lost or moved."""
    letters = [bytes([n]) for n in range(65, 85)]
    sent = [b"1\r\n" + letter + b"\r\n" for letter in letters]
    ended = 0.0

    async def script(*node: Any) -> None:
        nonlocal ended
        await pieces(CHUNKED, *sent, gap_s=0.02)(*node)
        ended = time.monotonic()
        node[-1].write(b"0\r\n\r\n")

    async with peer(script) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"POST", b"/", [], b"")
        assert await connection.read_some(0.15) == b"A"
        found, last = [], 0.0
        while data := await connection.read_some(0.15):
            found.append(data)
            last = time.monotonic()
        pool.release(connection)
        assert b"A" + b"".join(found) == b"".join(letters)
        assert 2 <= len(found) <= 6
        assert all(len(data) > 1 for data in found)
        assert last - ended < 0.1  # the end of the body woke the reader, not the alarm
        assert pool.idle_count(node.origin) == 1


async def test_gathering_ends_with_the_connection_and_with_a_full_buffer(pool):
    """A peer that goes, and one that sends more than is held, are not waited for."""
    async with peer(answers(CHUNKED + b"1\r\na\r\n")) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"POST", b"/", [], b"")
        assert await connection.read_some(30.0) == b"a"
        reader = asyncio.create_task(connection.read_some(30.0))
        await asyncio.sleep(0.01)
        connection.abort()
        with pytest.raises(ChannelClosed):
            await asyncio.wait_for(reader, 1)
        pool.release(connection)
    async with peer(
        pieces(CHUNKED + b"1\r\na\r\n", *[b"%x\r\n%b\r\n" % (1 << 20, b"x" * (1 << 20))] * 3, b"0\r\n\r\n", gap_s=0.02)
    ) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"POST", b"/", [], b"")
        assert await connection.read_some(30.0) == b"a"
        got = 0
        while data := await asyncio.wait_for(connection.read_some(30.0), 2):
            got += len(data)
        assert got == 3 << 20
        pool.release(connection)


@pytest.mark.parametrize(
    ("behind", "reason"),
    [
        ([b"1\r\nb\r\n", b"0\r\n", b"\r\n"], None),  # an end in two parts is found when the peer closes
        ([b"1\r\nb\r\n", b"1\r\nc\r\n"], "truncated"),
        ([b"1\r\nb\r\n", b"1\r\nc"], "truncated"),
        ([b"1\r\nb\r\n", b"no size\r\n"], "bad_framing"),
        ([b"1\r\nb\r\n", b"0\r\n\r\nmore"], "bad_framing"),
    ],
)
async def test_what_gathers_is_read_before_the_connections_end(pool, behind, reason):
    """What came while a reader gathers is read, and judged, when the peer closes: nothing of it is lost or let pass."""
    async with peer(pieces(CHUNKED + b"1\r\na\r\n", *behind, gap_s=0.02)) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"POST", b"/", [], b"")
        assert await connection.read_some(30.0) == b"a"
        found = bytearray()

        async def read():
            while data := await connection.read_some(30.0):
                found.extend(data)

        if reason is None:
            await asyncio.wait_for(read(), 2)
            assert found == b"b"
        else:
            with pytest.raises(ChannelError) as caught:
                await asyncio.wait_for(read(), 2)
            assert caught.value.reason == reason
            if reason == "truncated":
                assert found == b"b" + behind[1][3:4]
        pool.release(connection)


async def test_a_peer_that_falls_silent_loses_nothing_that_gathered(pool):
    """The idle deadline ends the gathering; what came before it can still be read, then the deadline is told."""
    async with peer(pieces(CHUNKED + b"1\r\na\r\n", b"1\r\nb\r\n", *[b""] * 50, gap_s=0.02)) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"POST", b"/", [], b"", Deadlines(5, 0.2, 5))
        assert await connection.read_some(30.0) == b"a"
        assert await asyncio.wait_for(connection.read_some(30.0), 2) == b"b"
        with pytest.raises(ChannelTimeout) as caught:
            await connection.read_some(30.0)
        assert caught.value.reason == "timeout_idle"
        pool.release(connection)


async def test_the_total_deadline_can_count_from_before_the_request(pool):
    """`started` charges what earlier attempts took."""
    async with peer(answers(b"")) as node:
        started = asyncio.get_running_loop().time() - 0.9
        start = time.monotonic()
        error = await refusal(pool, node, deadlines=Deadlines(5, 5, 1.0), started=started)
        assert error.reason == "timeout_total"
        assert time.monotonic() - start < 0.6


async def test_d19_a_flood_of_comments_ends_at_the_progress_deadline(pool):
    """Bytes without use end it unless the caller says that something of use came."""

    async def read(progressing):
        connection = await pool.acquire(node.origin, None, 2.0)
        try:
            await connection.request(b"POST", b"/", [], b"", Deadlines(5, 5, 5, progress_s=0.25))
            async for _ in connection.chunks():
                if progressing:
                    connection.progress()
        finally:
            pool.release(connection)

    async with peer(pieces(CHUNKED, *[b"7\r\n: ping\n\r\n"] * 20, b"0\r\n\r\n", gap_s=0.03)) as node:
        with pytest.raises(ChannelTimeout) as caught:
            await read(progressing=False)
        assert caught.value.reason == "timeout_progress"
        await read(progressing=True)


async def test_d23_the_progress_deadline_does_not_count_what_the_consumer_takes(pool):
    """An agent that takes longer over a chunk than the progress deadline is not charged to the node."""
    async with peer(pieces(CHUNKED, *[b"7\r\n: ping\n\r\n"] * 90, b"0\r\n\r\n", gap_s=0.03)) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"POST", b"/", [], b"", Deadlines(5, 5, 10, progress_s=0.25))
        await asyncio.sleep(0.4)
        for _ in range(2):
            assert await connection.read_some()
            connection.progress()
            await asyncio.sleep(0.4)
        with pytest.raises(ChannelTimeout) as caught:
            await drain(connection, bytearray())
        assert caught.value.reason == "timeout_progress"
        pool.release(connection)


async def test_the_progress_deadline_does_not_run_while_a_whole_body_is_read(pool):
    """A body that is read whole may take longer than the progress deadline, as long as its bytes keep coming."""
    async with peer(pieces(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n", *[b" "] * 12, gap_s=0.03)) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"POST", b"/", [], b"", Deadlines(5, 0.2, 5, progress_s=0.2))
        assert await connection.read_all() == b" " * 12
        pool.release(connection)


async def test_the_timer_of_one_exchange_does_not_end_the_next(pool):
    """A kept connection lives beyond the deadlines of its earlier exchanges, and keeps those of the later ones."""
    slow = Deadlines(0.4, 0.4, 0.4)

    async def script(node, reader, writer):
        while await read_request(node, reader):
            await asyncio.sleep(0.1)
            writer.write(HELLO)

    async with peer(script) as node:
        for _ in range(5):
            assert await ask(pool, node, deadlines=slow) == (200, b"hello")
        await asyncio.sleep(0.5)
        assert await ask(pool, node, deadlines=slow) == (200, b"hello")
        assert node.connections == 1
        assert (await refusal(pool, node, deadlines=Deadlines(0.02, 1, 1))).reason == "timeout_first_byte"


# ------------------------------------------------------------------------------------------------------ back-pressure


async def test_d23_a_slow_reader_makes_the_peer_wait(pool):
    """Unread bytes stay bounded, the peer is stopped by TCP, its idle clock stands still, and every byte arrives."""
    total, written = 32 * 1024 * 1024, 0
    piece = bytes(range(256)) * 256

    async def script(node, reader, writer):
        nonlocal written
        await read_request(node, reader)
        writer.write(OK + b"Content-Length: %d\r\n\r\n" % total)
        while written < total:
            writer.write(piece)
            await writer.drain()
            written += len(piece)
        await read_request(node, reader)

    async with peer(script) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"POST", b"/", [], b"", Deadlines(5, 0.25, 30), max_body=total)
        await asyncio.sleep(0.6)  # two idle deadlines
        held = connection._answer.buffered
        assert pool.limits.high_water <= held <= pool.limits.high_water + 512 * 1024
        assert written < 16 * 1024 * 1024
        seen, most = 0, 0
        while chunk := await connection.read_some():
            assert chunk[:1] == bytes([seen % 256])
            seen += len(chunk)
            most = max(most, len(chunk))
        assert seen == total
        assert most <= pool.limits.high_water + 512 * 1024
        pool.release(connection)
        assert pool.idle_count(node.origin) == 1


async def test_d23_a_stopped_peer_still_meets_the_total_deadline(pool):
    """A reader that never reads does not hold the connection for ever."""
    async with peer(pieces(OK + b"Content-Length: 99999999\r\n\r\n" + b"x" * 40_000_000, gap_s=5)) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"POST", b"/", [], b"", Deadlines(5, 0.05, 0.3), max_body=1 << 30)
        await asyncio.wait_for(node.closed.wait(), 2)
        with pytest.raises(ChannelTimeout) as caught:
            await drain(connection, bytearray())
        assert caught.value.reason == "timeout_total"
        pool.release(connection)


async def test_collecting_after_back_pressure_reads_on(pool):
    """`read_all` lets a stopped peer go on and returns the whole body."""
    body = b"y" * 3_000_000
    async with peer(answers(OK + b"Content-Length: 3000000\r\n\r\n" + body)) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"POST", b"/", [], b"", Deadlines())
        await asyncio.sleep(0.1)
        assert await connection.read_all() == body
        pool.release(connection)
        assert pool.idle_count(node.origin) == 1


# ------------------------------------------------------------------------------------------------- leaving, and limits


async def test_i11_abort_closes_at_once_and_wakes_the_reader(pool):
    """The client leaves: the peer sees the end right away, a waiting reader gets `closed`, twice does no harm."""
    async with peer(answers(CHUNKED + b"1\r\na\r\n")) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await connection.request(b"POST", b"/", [], b"")
        assert await connection.read_some() == b"a"
        reader = asyncio.create_task(connection.read_some())
        await asyncio.sleep(0.01)
        connection.abort()
        connection.abort()
        with pytest.raises(ChannelClosed) as caught:
            await reader
        assert caught.value.sent
        await asyncio.wait_for(node.closed.wait(), 1)
        pool.release(connection)


async def test_i11_releasing_in_the_middle_of_an_answer_closes_it(pool):
    """A cancelled reader's `finally: release` ends the upstream exchange."""
    async with peer(answers(CHUNKED + b"1\r\na\r\n")) as node:
        task = asyncio.create_task(ask(pool, node, deadlines=Deadlines()))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(node.closed.wait(), 1)
        assert pool.idle_count(node.origin) == 0


async def test_e23_one_origin_cannot_take_more_than_its_share():
    """The per-origin limit refuses the next connection there, with nothing sent, and others are untouched."""
    pool = UpstreamPool(Limits(connections_per_origin=2))
    async with peer(answers(b"")) as hung, peer(answers(HELLO)) as good:
        held = [await pool.acquire(hung.origin, None, 2.0) for _ in range(2)]
        with pytest.raises(TooManyConnections) as caught:
            await pool.acquire(hung.origin, None, 2.0)
        assert (caught.value.reason, caught.value.sent) == ("busy", False)
        assert await ask(pool, good) == (200, b"hello")
        pool.release(held.pop())
        pool.release(held.pop())
        await pool.close()


async def test_idle_connections_make_room_when_the_pool_is_full():
    """At the overall limit the longest idle connection goes; without an idle one the next is refused."""
    pool = UpstreamPool(Limits(connections=2))
    async with peer(answers(HELLO)) as one, peer(answers(HELLO)) as two, peer(answers(HELLO)) as three:
        await ask(pool, one)
        await ask(pool, two)
        held = await pool.acquire(three.origin, None, 2.0)
        await asyncio.wait_for(one.closed.wait(), 1)
        assert (pool.idle_count(one.origin), pool.idle_count(two.origin)) == (0, 1)
        taken = await pool.acquire(two.origin, None, 2.0)
        with pytest.raises(TooManyConnections):
            await pool.acquire(one.origin, None, 2.0)
        pool.release(held)
        pool.release(taken)
        await pool.close()


async def test_idle_connections_are_closed_after_their_time_and_beyond_their_number():
    """Neither age nor number of idle connections grows without bound."""
    pool = UpstreamPool(Limits(keepalive_s=0.1, idle_per_origin=1))
    async with peer(answers(HELLO)) as node:
        held = [await pool.acquire(node.origin, None, 2.0) for _ in range(2)]
        for connection in held:
            pool.release(connection)
        assert pool.idle_count(node.origin) == 1
        await asyncio.sleep(0.3)
        assert pool.idle_count(node.origin) == 0
        assert pool.open_count == 0
        assert pool._sites == {}
        await pool.close()


async def test_a_closed_pool_gives_no_connections():
    """After `close` everything held is ended and nothing new is made."""
    pool = UpstreamPool()
    async with peer(answers(b"")) as node:
        connection = await pool.acquire(node.origin, None, 2.0)
        await pool.close()
        with pytest.raises(ChannelClosed):
            await connection.request(b"GET", b"/", [])
        pool.release(connection)
        with pytest.raises(ConnectFailed):
            await pool.acquire(node.origin, None, 2.0)


async def test_a_pool_closed_while_connecting_gives_no_connection():
    """A connection that comes to be after `close` is ended at once, and nothing is sent on it."""

    async def resolve(host, port):
        await asyncio.sleep(0.05)
        return ["127.0.0.1"]

    pool = UpstreamPool(resolver=resolve)
    async with peer(answers(HELLO)) as node:
        task = asyncio.create_task(pool.acquire(node.at("localhost"), None, 2.0))
        await asyncio.sleep(0.01)
        await pool.close()
        with pytest.raises(ConnectFailed, match="pool is closed"):
            await task
        await asyncio.sleep(0.05)
        assert node.requests == []
        assert pool.open_count == 0


async def test_a_connection_of_before_the_machine_slept_is_not_used(pool, monkeypatch):
    """Its timers stood still with the machine, and its peer may have ended it long ago without our hearing of it."""
    async with peer(answers(HELLO, HELLO)) as node:
        for slept, connections in ((0.0, 1), (59.0, 1), (3600.0, 2)):
            monkeypatch.setattr("gateway.upstream.pool.lease_clock", lambda slept=slept: lease_clock() + slept)
            await ask(pool, node)
            assert node.connections == connections
            monkeypatch.setattr("gateway.upstream.pool.lease_clock", lease_clock)


async def test_a_connection_that_is_given_up_as_it_is_made_gives_its_place_back(pool, monkeypatch):
    """Of such a one uvloop never says that it was lost."""
    made = Connection.connection_made

    def given_up(self, transport):
        made(self, transport)
        waiting.cancel()

    monkeypatch.setattr(Connection, "connection_made", given_up)
    async with peer(answers(HELLO)) as node:
        waiting = asyncio.ensure_future(pool.acquire(node.origin, None, 5.0))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(0.01)
        assert pool.open_count == 0


async def test_a_cancelled_acquire_leaves_nothing_behind():
    """Cancelling while connecting gives the place back."""

    async def resolve(host, port):
        await asyncio.sleep(60)

    pool = UpstreamPool(resolver=resolve)
    task = asyncio.create_task(pool.acquire(parse_origin("https://node.example"), None, 30.0))
    await asyncio.sleep(0.01)
    assert pool.open_count == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert pool.open_count == 0


async def test_fuzz_no_stream_of_bytes_makes_an_exchange_hang_or_raise_anything_else(pool):
    """Sixty peers that send noise, cut anywhere, then close, reset or stay: each exchange ends by its deadlines."""
    parts = [
        OK,
        b"Content-Length: 5\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"\r\n",
        b"hello",
        b"5\r\n",
        b"0\r\n\r\n",
        b"\n",
    ]
    noise = random.Random(7)
    streams = [
        b"".join(noise.choice([*parts, noise.randbytes(9)]) for _ in range(noise.randrange(14))) for _ in range(60)
    ]
    turn = iter(streams)

    async def script(node, reader, writer):
        data = OK + next(turn) if node.connections % 2 else next(turn)
        await read_request(node, reader)
        cut = noise.randrange(len(data) + 1)
        for piece in (data[:cut], data[cut:]):
            writer.write(piece)
            await asyncio.sleep(0.01)
        if noise.random() < 0.5:
            await reader.read()

    async def one():
        try:
            return await ask(pool, node, QUICK)
        except ChannelError as error:
            return error.reason

    async with peer(script) as node:
        outcomes = await asyncio.wait_for(asyncio.gather(*(one() for _ in streams)), 5)
    assert len(outcomes) == 60
    assert {"bad_framing", "timeout_first_byte"} <= {outcome for outcome in outcomes if isinstance(outcome, str)}


async def test_many_exchanges_at_once_get_their_own_answers(pool):
    """Two hundred concurrent requests over reused connections: each gets the answer to its own body."""

    async def echo(node, reader, writer):
        while await read_request(node, reader):
            body = node.requests[-1].split(b"\r\n\r\n", 1)[1]
            writer.write(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    async with peer(echo) as node:

        async def worker(name):
            for n in range(10):
                body = b"%d-%d" % (name, n)
                assert await ask(pool, node, body=body, deadlines=Deadlines()) == (200, body)

        await asyncio.gather(*(worker(name) for name in range(20)))
        assert node.connections <= 20


async def test_a_connection_given_up_as_it_is_made_frees_its_descriptor_once(pool, monkeypatch):
    """Its socket is closed, and says so: one that took itself for open would later close another's descriptor."""
    sockets = []

    async def dialled(*to):
        sockets.append(await dial(*to))
        asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)  # as it becomes a transport
        return sockets[0]

    monkeypatch.setattr("gateway.upstream.pool.dial", dialled)
    async with peer(answers(HELLO)) as node:
        with pytest.raises(asyncio.CancelledError):
            await pool.acquire(node.origin, None, 5.0)
        await asyncio.sleep(0.05)
        assert sockets[0].fileno() == -1
    assert pool.open_count == 0
