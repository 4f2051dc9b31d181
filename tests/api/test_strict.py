"""The strict rules as functions, and the body reader, without sockets."""

from __future__ import annotations

import asyncio
import urllib.parse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.limits import BodyMemory
from gateway.api.strict import (
    Rules,
    Strict,
    check_framing,
    check_path,
    host_allowed,
    read_body,
)
from gateway.errors import BadRequest, BodyTooLarge, Busy, ConfigError, NotFound, RequestError, RequestTimeout

OURS = ("127.0.0.1", 4000)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        (b"gw.example", True),
        (b"gw.example:1", True),
        (b"GW.example:4000", True),
        (b"api.example:8443", True),
        (b"api.example", False),
        (b"api.example:4000", False),
        (b"localhost:4000", True),
        (b"localhost", False),
        (b"sub.gw.example", False),
        (b"gw.example.", False),
    ],
)
def test_a_configured_name_without_a_port_is_ours_at_any_port(host: bytes, allowed: bool) -> None:
    """`name` in the settings means any port, `name:port` that one; the loopback names keep the port listened on."""
    assert host_allowed(host, OURS, Rules.of(["GW.example", "api.example:8443"])) is allowed


@pytest.mark.parametrize(
    ("host", "server", "allowed"),
    [
        (b"10.0.0.5:4000", ("10.0.0.5", 4000), True),
        (b"10.0.0.6:4000", ("10.0.0.5", 4000), False),
        (b"[fd00::5]:4000", ("fd00::5", 4000), True),
        (b"localhost", ("127.0.0.1", 80), True),
        (b"localhost", None, True),
        (b"evil.example", None, False),
        (b"localhost", ("/run/gateway.sock", None), True),
    ],
)
def test_the_address_connected_to_is_ours(host: bytes, server, allowed: bool) -> None:
    """An address literal cannot be rebound, so the one that the connection reached is a name of ours."""
    assert host_allowed(host, server, Rules()) is allowed


@pytest.mark.parametrize("host", ["", "a b", "*.example", "http://a", "a:0", "a:123456", "é.example"])
def test_settings_that_no_host_header_could_equal_are_refused(host: str) -> None:
    """A misspelt allowed host is an error at start, not a 421 later."""
    with pytest.raises(ConfigError, match=r"^server\.allowed_hosts: "):
        Rules.of([host])


@pytest.mark.parametrize("origin", ["example", "https://a/b", "ftp://a", "null"])
def test_settings_that_no_origin_header_could_equal_are_refused(origin: str) -> None:
    """A misspelt origin is an error at start."""
    with pytest.raises(ConfigError):
        Rules.of([], [origin])


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/v1/chat/completions",
        b"/v1/receipts/01ARZ3NDEKTSV4RRFFQ69G5FAV/",
        b"/log/tile/0/x001/067.p/8",
        b"/v1/aci/sessions/sha256:ab",
        b"/v1/aci/sessions/sha256%3Aab",
        b"/v1/models/org%40name",
        b"/v1/models/org%2Fname",
        b"/...",
        b"/.well-known/x",
    ],
)
def test_plain_paths_pass(path: bytes) -> None:
    """Paths of ours, and escapes of bytes that mean nothing to a router, pass."""
    check_path(path, b"a=1&b=%20")


@pytest.mark.parametrize(
    "path",
    [
        b"/log%2Fcheckpoint", b"/v1%2Fmodels/m", b"/v1/models%2Fm", b"/v1/models/..%2Freceipts", b"/v1/models/a%2F..%2Fb",
        b"/v1/models/a%2f%2Fb", b"/v1/models/%252F", b"/v1/models/a%5cb", b"/v1/models/a%00",
    ],
)  # fmt: skip
def test_a_slash_is_escaped_in_the_names_of_models_alone(path: bytes) -> None:
    """And there it is a slash to every rule."""
    with pytest.raises(NotFound):
        check_path(path)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30).map(lambda tail: b"/" + tail))
def test_no_passed_path_has_a_second_spelling(path: bytes) -> None:
    """A path that passes decodes to segments that are plain: no empty one, no dots, no separator from an escape."""

    try:
        check_path(path)
    except (BadRequest, NotFound):
        return
    decoded = urllib.parse.unquote_to_bytes(path)
    assert decoded.count(b"/") == path.count(b"/")
    assert b"%" not in decoded
    inner = decoded.split(b"/")[1:-1]
    assert b"" not in inner
    assert not {b".", b".."} & set(decoded.split(b"/"))
    assert not set(decoded) & set(b"\\;\x00\r\n ?#")


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([b"content-length", b"transfer-encoding"]), st.binary(max_size=12)))
def test_framing_has_one_reading(found: dict[bytes, bytes]) -> None:
    """What passes is a plain decimal length, or exactly chunked, and never both."""
    try:
        length = check_framing(found, "1.1")
    except BadRequest:
        return
    if b"transfer-encoding" in found:
        assert length is None
        assert found[b"transfer-encoding"].lower() == b"chunked"
        assert b"content-length" not in found
    elif found:
        assert str(length).encode() == found[b"content-length"].lstrip(b"0").rjust(1, b"0")


async def test_the_middleware_turns_away_websockets() -> None:
    """A scope that is neither HTTP nor lifespan reaches nobody."""

    async def app(scope, receive, send) -> None:
        raise AssertionError("reached")

    await Strict(app)({"type": "websocket"}, None, None)


def feeder(*messages: dict):
    """A `receive` that hands out `messages` and then waits for ever."""
    waiting = list(messages)

    async def receive():
        if waiting:
            return waiting.pop(0)
        await asyncio.Event().wait()

    return receive


def piece(body: bytes, more: bool = True) -> dict:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_in_pieces_is_joined() -> None:
    """The pieces come back as one, in order; a single piece as it is."""
    assert await read_body(feeder(piece(b"ab"), piece(b"c", False)), 3, 5.0) == b"abc"
    assert await read_body(feeder(piece(b"abc", False)), 3, 5.0) == b"abc"


async def test_a_declared_body_over_the_limit_is_refused_unread() -> None:
    """With the declared length over the limit, `receive` is never called."""

    async def receive():
        raise AssertionError("read")

    with pytest.raises(BodyTooLarge):
        await read_body(receive, 3, 5.0, declared=4)


async def test_a_body_is_refused_at_the_cap() -> None:
    """The first piece that goes over the limit ends the reading."""
    with pytest.raises(BodyTooLarge):
        await read_body(feeder(piece(b"ab"), piece(b"cd")), 3, 5.0)
    with pytest.raises(BodyTooLarge):
        await read_body(feeder(piece(b"abcd", False)), 3, 5.0)


async def test_a_body_that_does_not_come_is_a_timeout() -> None:
    """At the deadline the reading ends with 408."""
    with pytest.raises(RequestTimeout):
        await read_body(feeder(piece(b"a")), 3, 0.02)


async def test_a_client_that_leaves_ends_the_reading() -> None:
    """A disconnect before the end is an error of the request."""
    with pytest.raises(RequestError):
        await read_body(feeder(piece(b"a"), {"type": "http.disconnect"}), 3, 5.0)


async def test_a_body_that_comes_is_taken_of_the_memory_and_given_back() -> None:
    """While it is read its bytes count, and whatever ends the reading, none is left behind."""
    memory = BodyMemory(5)
    held = []

    async def receive():
        held.append(memory.held)
        return piece(b"ab", more=len(held) < 2)

    assert await read_body(receive, 9, 5.0, memory=memory) == b"abab"
    assert (held, memory.held) == ([0, 2], 0)
    for messages, error in (
        ([piece(b"abc"), piece(b"abc", False)], Busy),
        ([piece(b"abc"), piece(b"abcdefgh")], BodyTooLarge),
        ([piece(b"abc"), {"type": "http.disconnect"}], BadRequest),
        ([piece(b"abc")], RequestTimeout),
    ):
        with pytest.raises(error):
            await read_body(feeder(*messages), 9, 0.02, memory=memory)
        assert memory.held == 0


async def test_no_timer_is_set_when_the_body_is_known_to_be_here() -> None:
    """A `receive` of a cycle that has everything is read without the deadline, even one that has passed."""

    class Cycle:
        more_body = False

        async def receive(self):
            return piece(b"abc", False)

    assert await read_body(Cycle().receive, 3, 0.0) == b"abc"
