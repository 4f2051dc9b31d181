"""The client of the admin API: what it sends, how it decodes, and which error each failure becomes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

import httpx
import msgspec
import pytest

from gateway.admin_client import MAX_EVENT, AdminClient, check_address
from gateway.errors import ConfigError, FormatError, InvalidKey, NotFound, ScopeDenied, ServiceError
from gateway.model.admin import Info, Nodes, NodeView, Page, Row, SessionView
from gateway.model.verdict import Check, Claim, Outcome

ROW = Row(
    id="01M7Q4VDS8N7HEDZ2550DEKXGJ", key_id="agent", client_request_id=None, created_ms=1, verdict="affirming",
    release="released", reason=None, policy="strict", network="aci", node="n", model="m", endpoint="/v1/embeddings",
    stream=False, status=200, latency_ms=1.5, index=7,
)  # fmt: skip
INFO = Info(
    version="1", origin="o", size=9, healthy=True, policy_default="strict", nodes=1, counts={"affirming": 9}, time_ms=5
)
NODE = NodeView(
    id="n", network="aci", state="ready", models=("m",),
    session=SessionView(
        id="s", established=1.0, expires=2.0, outcome="affirming", checks=(Check("evidence", Outcome.AFFIRMING),),
        claims=(Claim("fresh", "asserted"),),
    ),
)  # fmt: skip

Answer = Callable[[httpx.Request], httpx.Response]


def _client(answer: Answer, **settings: object) -> AdminClient:
    return AdminClient("http://127.0.0.1:1", "k-1", transport=httpx.MockTransport(answer), **settings)  # type: ignore[arg-type]


def _says(status: int, body: bytes) -> Answer:
    return lambda request: httpx.Response(status, content=body)


async def test_it_asks_with_the_key_and_decodes() -> None:
    """Each call goes to its path with the bearer key, and gives typed values."""
    seen: list[httpx.Request] = []
    answers = {
        "/admin/v1/info": msgspec.json.encode(INFO),
        "/admin/v1/receipts": msgspec.json.encode(Page((ROW,), 7)),
        "/admin/v1/receipts/a%2Fb": b"{bundle}",
        "/admin/v1/nodes": msgspec.json.encode(Nodes((NODE,))),
    }

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=answers[request.url.raw_path.decode().partition("?")[0]])

    async with _client(answer) as admin:
        assert await admin.info() == INFO
        assert await admin.receipts(before=9, limit=5000, verdict="warning", node="n") == Page((ROW,), 7)
        assert await admin.bundle("a/b") == b"{bundle}"
        assert await admin.nodes() == (NODE,)
    assert {request.headers["authorization"] for request in seen} == {"Bearer k-1"}
    assert dict(seen[1].url.params) == {"before": "9", "limit": "1000", "verdict": "warning", "node": "n"}


@pytest.mark.parametrize(
    ("status", "error", "reason"),
    [
        (401, InvalidKey, None),
        (403, ScopeDenied, None),
        (404, NotFound, None),
        (500, ServiceError, "status"),
        (302, ServiceError, "status"),
    ],
)
async def test_each_refusal_has_its_error(status: int, error: type[Exception], reason: str | None) -> None:
    """A refusal becomes our error, with the gateway's sentence where it gave one; redirects are not followed."""
    for body, sentence in ((b'{"error":{"message":"not today"}}', "not today"), (b"<html>", "."), (b"\xff", ".")):
        async with _client(_says(status, body)) as admin:
            with pytest.raises(error, match=sentence) as caught:
                await admin.info()
            assert getattr(caught.value, "reason", None) == reason


@pytest.mark.parametrize("body", [b"", b"[]", b'{"version":1}', b"\xff\xfe", b"[" * 100_000])
async def test_what_is_no_admin_api_is_named(body: bytes) -> None:
    """Some other server behind the address is a format error, not a crash."""
    async with _client(_says(200, body)) as admin:
        with pytest.raises(FormatError, match="admin API"):
            await admin.info()


@pytest.mark.parametrize(
    ("name", "number"),
    [("index", 2**64), ("index", -(2**64)), ("created_ms", 10**400), ("status", 10**400)],
)
async def test_a_number_that_no_log_has_is_named(name: str, number: int) -> None:
    """A row that no database could hold is no answer of an admin API."""
    page = msgspec.json.decode(msgspec.json.encode(Page((ROW,))))
    page["rows"][0][name] = number
    body = json.dumps(page).encode()
    with pytest.raises(FormatError, match="not the answer of a veriroute admin API"):
        await _client(_says(200, body)).receipts()


@pytest.mark.parametrize(("name", "number"), [("time_ms", 10**400), ("size", -1), ("counts", {"affirming": 10**400})])
async def test_a_count_without_end_is_named(name: str, number: object) -> None:
    """Shares and rates are computed from these numbers."""
    body = json.dumps({**msgspec.to_builtins(INFO), name: number}).encode()
    with pytest.raises(FormatError):
        await _client(_says(200, body)).info()


async def test_an_endless_answer_is_cut() -> None:
    """An answer larger than any of ours is refused while it is read."""
    async with _client(_says(200, b"x" * (8 * 1024 * 1024 + 1))) as admin:
        with pytest.raises(ServiceError, match="larger"):
            await admin.info()


@pytest.mark.parametrize("status", [200, 500])
async def test_a_compressed_answer_is_not_unpacked(status: int) -> None:
    """A few bytes could be gigabytes, twice compressed; calls and the live feed refuse them unread."""

    class Unread(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            raise AssertionError("the body is read")
            yield b""

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "identity"
        return httpx.Response(status, headers={"content-encoding": "gzip, gzip"}, stream=Unread())

    async with _client(answer) as admin:
        with pytest.raises(ServiceError, match="compressed"):
            await admin.info()
        with pytest.raises(ServiceError, match="compressed"):
            await anext(aiter(admin.live()))


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (httpx.ConnectError("refused"), "unreachable"),
        (httpx.ReadTimeout("slow"), "timeout"),
        (httpx.RemoteProtocolError("cut"), "cut"),
    ],
)
async def test_no_answer_says_how(failure: httpx.HTTPError, reason: str) -> None:
    """Nobody there, too slow, and cut off are told apart, for calls and for the live feed."""

    def answer(request: httpx.Request) -> httpx.Response:
        raise failure

    async with _client(answer) as admin:
        with pytest.raises(ServiceError) as caught:
            await admin.info()
        assert caught.value.reason == reason
        with pytest.raises(ServiceError):
            await anext(aiter(admin.live()))


class Pieces(httpx.AsyncByteStream):
    """A body in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            yield piece


async def _live(*pieces: bytes) -> list[Row]:
    async with _client(lambda request: httpx.Response(200, stream=Pieces(*pieces))) as admin:
        return [row async for row in admin.live()]


async def test_live_rows_survive_any_cut() -> None:
    """Events are found wherever the bytes were cut, with comments, CRLF, and line separators inside strings."""
    odd = msgspec.structs.replace(ROW, node="a\u2028b\x85c")
    body = b": hello\n\n" + b"".join(
        b"event: row\r\ndata: " + msgspec.json.encode(row) + b"\r\n\r\n" for row in (ROW, odd)
    )
    assert await _live(body) == [ROW, odd]
    assert await _live(*(body[n : n + 1] for n in range(len(body)))) == [ROW, odd]
    half = msgspec.json.encode(ROW)
    assert await _live(b"data: " + half[:1] + b"\ndata:" + half[1:] + b"\n\n") == [ROW]


async def test_live_refuses_what_has_no_end() -> None:
    """An event that never ends, or is no row, ends the feed with an error."""
    with pytest.raises(FormatError, match="larger"):
        await _live(b"data: " + b"x" * MAX_EVENT)
    with pytest.raises(FormatError):
        await _live(b"data: {}\n\n")
    async with _client(_says(403, b"")) as admin:
        with pytest.raises(ScopeDenied):
            await anext(aiter(admin.live()))


@pytest.mark.parametrize(
    "address",
    [
        "ftp://x",
        "127.0.0.1:8080",
        "http://",
        "http://u:p@127.0.0.1",
        "http://127.0.0.1/?a=b",
        "http://example.org",
        "http://[::1",
    ],
)
def test_addresses_that_are_refused(address: str) -> None:
    """No scheme, somebody's password, or clear text to another machine: refused before anything is sent."""
    with pytest.raises(ConfigError):
        check_address(address)


def test_addresses_that_may_be_used() -> None:
    """Loopback in clear text, anything over TLS, and the rest when it is asked for by name."""
    assert check_address("http://127.0.0.1:8080/") == "http://127.0.0.1:8080"
    assert check_address("http://[::1]:8080") == "http://[::1]:8080"
    assert check_address("http://localhost") == "http://localhost"
    assert check_address("https://gateway.example/base/") == "https://gateway.example/base"
    assert check_address("http://gateway:8080", clear_text=True) == "http://gateway:8080"


@pytest.mark.parametrize("key", ["", "bad\nkey", "schlüssel", "vr-secret ", " vr-secret"])
def test_a_key_that_cannot_be_sent_is_refused(key: str) -> None:
    """An empty key, or one that would not fit a header, says how to make one, and does not repeat it."""
    with pytest.raises(ConfigError, match="keys create") as refused:
        AdminClient("http://127.0.0.1", key)
    assert "vr-secret" not in str(refused.value)
