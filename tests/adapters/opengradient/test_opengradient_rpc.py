"""One JSON-RPC endpoint, honest or hostile: every outcome is a value or an error with a stable reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opengradient_world.evm import error_string
from support_peer import Peer, peer, pieces, read_request

from adapters.opengradient import hexed, rpc
from adapters.opengradient.rpc import Block, RpcClient, Transaction
from adapters.opengradient.rpc_errors import (
    NoContract,
    Reverted,
    RpcError,
    RpcMalformed,
    RpcRefused,
    RpcRejected,
    RpcTimeout,
    RpcUnreachable,
    WrongChain,
)
from gateway.errors import ConfigError
from gateway.upstream.limits import Deadlines
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.transport import control_client
from gateway.verify.opengradient.registry_events import Log

TO = "0x" + "ab" * 20
HASH, TX, TOPIC = b"h" * 32, b"t" * 32, b"p" * 32
Answering = Callable[[dict[str, Any]], httpx.Response]


def client(answer: Answering | bytes | dict[str, Any], *, name: str = "a") -> RpcClient:
    """A client whose endpoint gives `answer`: bytes as they are, members beside the right id, or a function."""

    def handle(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        assert (request.method, asked["jsonrpc"]) == ("POST", "2.0")
        if isinstance(answer, bytes):
            return httpx.Response(200, content=answer)
        if isinstance(answer, dict):
            return httpx.Response(200, json={"jsonrpc": "2.0", "id": asked["id"], **answer})
        return answer(asked)

    http = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    return RpcClient(http, name, "https://rpc.example/v1", chain_id=10740, timeout_s=2)


Ask = Callable[[RpcClient], Awaitable[Any]]
ASKS: dict[str, Ask] = {
    "chain": lambda c: c.connect(),
    "height": lambda c: c.block_number(),
    "block": lambda c: c.block(7),
    "code": lambda c: c.code(TO, 7),
    "call": lambda c: c.call(TO, b"\1\2\3\4", 7),
    "logs": lambda c: c.logs(TO, [[TOPIC], [HASH]], 5, 9),
    "tx": lambda c: c.transaction(TX),
}
BLOCK = {"number": "0x7", "hash": hexed.ox(HASH), "timestamp": "0x6b01481c", "miner": TO}
FOUND = {"hash": hexed.ox(TX), "to": TO.upper().replace("0X", "0x"), "input": "0x0102", "blockNumber": "0x7"}
LOG = {
    "address": TO,
    "topics": [hexed.ox(TOPIC), hexed.ox(HASH)],
    "data": "0x00",
    "blockNumber": "0x7",
    "logIndex": "0x1",
    "transactionHash": hexed.ox(TX),
    "removed": False,
}
READ = Log(TO, (TOPIC, HASH), b"\0", 7, 1, TX)


@pytest.mark.parametrize(
    ("ask", "result", "expected"),
    [
        ("chain", "0x29f4", None),
        ("height", "0x0", 0),
        ("height", "0x7fffffffffffffff", 2**63 - 1),
        ("block", BLOCK, Block(7, HASH, 0x6B01481C)),
        ("code", "0x60", b"\x60"),
        ("call", "0xAbcd", b"\xab\xcd"),
        ("logs", [], ()),
        ("logs", [LOG, {**LOG, "logIndex": "0x2"}], (READ, Log(TO, (TOPIC, HASH), b"\0", 7, 2, TX))),
        ("logs", [{**LOG, "topics": [*LOG["topics"], hexed.ox(TX)]}], (Log(TO, (TOPIC, HASH, TX), b"\0", 7, 1, TX),)),
        ("tx", FOUND, Transaction(TX, TO, b"\1\2", 7)),
        ("tx", {**FOUND, "to": None}, Transaction(TX, None, b"\1\2", 7)),
    ],
)
async def test_answers_become_values(ask: str, result: object, expected: object) -> None:
    """Hex is read, addresses are in lower case, members that are not asked for are left."""
    assert await ASKS[ask](client({"result": result})) == expected


async def test_requests_are_what_the_methods_take() -> None:
    """Blocks are named by number, never `latest`, and each request has an id of its own."""
    asked = []

    def answer(request: dict[str, Any]) -> httpx.Response:
        asked.append((request["id"], request["method"], request["params"]))
        result = [] if request["method"] == "eth_getLogs" else "0x01"
        return httpx.Response(200, json={"jsonrpc": "2.0", "id": request["id"], "result": result})

    rpc_client = client(answer)
    await rpc_client.call(TO, b"\1\2", 300)
    await rpc_client.code(TO, 300)
    await rpc_client.logs(TO, [[TOPIC]], 5, 16)
    query = {"address": TO, "topics": [[hexed.ox(TOPIC)]], "fromBlock": "0x5", "toBlock": "0x10"}
    assert asked == [
        (1, "eth_call", [{"to": TO, "data": "0x0102"}, "0x12c"]),
        (2, "eth_getCode", [TO, "0x12c"]),
        (3, "eth_getLogs", [query]),
    ]


@pytest.mark.parametrize(
    ("ask", "result"),
    [
        *[
            ("height", bad)
            for bad in ("0x", "0x00", "0x01", "1", "0xg", "0x8000000000000000", "0x1" + "0" * 16, 1, None, "0x1\n")
        ],
        *[("call", bad) for bad in ("", "00", "0x0", "0xzz", "0X00", 5, None, [], "0x00\n", "0x 0")],
        *[("block", bad) for bad in (None, [], "0x7", {}, {**BLOCK, "number": "0x8"}, {**BLOCK, "hash": "0x00"})],
        *[("block", {**BLOCK, "timestamp": bad}) for bad in (None, 5, "0x")],
        *[("tx", bad) for bad in (None, {**FOUND, "hash": hexed.ox(HASH)}, {**FOUND, "blockNumber": None})],
        *[("tx", {**FOUND, "to": bad}) for bad in ("0x", 5, TO + "00")],
        *[("logs", bad) for bad in (None, {}, [None], [{}], [LOG, LOG], [{**LOG, "logIndex": "0x2"}, LOG])],
        *[("logs", [{**LOG, "topics": bad}]) for bad in (None, [], [hexed.ox(TOPIC)], [hexed.ox(TOPIC)] * 5, ["0x"])],
        *[("logs", [{**LOG, "topics": bad}]) for bad in ([hexed.ox(HASH)] * 2, [hexed.ox(TOPIC)] * 2)],
        *[("logs", [{**LOG, "blockNumber": bad}]) for bad in ("0x4", "0xa", None)],
        *[("logs", [{**LOG, "removed": bad}]) for bad in (True, None, 0)],
        ("logs", [{**LOG, "address": "0x" + "ac" * 20}]),
        ("logs", [{**LOG, "transactionHash": "0x00"}]),
    ],
)
async def test_what_the_method_does_not_give_is_malformed(ask: str, result: object) -> None:
    """Other types, other hex, other blocks, logs and transactions than those asked for."""
    with pytest.raises(RpcMalformed) as caught:
        await ASKS[ask](client({"result": result}))
    assert caught.value.reason == "rpc_malformed"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"<html>",
        b'{"jsonrpc":"2.0","id":1}',
        b'{"jsonrpc":"2.0","id":1,"result":"0x1","error":null}',
        b'{"jsonrpc":"2.0","id":1,"result":"0x1","result":"0x2"}',
        b'{"jsonrpc":"1.0","id":1,"result":"0x1"}',
        b'{"id":1,"result":"0x1"}',
        b'{"jsonrpc":"2.0","id":2,"result":"0x1"}',
        b'{"jsonrpc":"2.0","id":"1","result":"0x1"}',
        b'{"jsonrpc":"2.0","id":1.0,"result":"0x1"}',
        b'{"jsonrpc":"2.0","id":true,"result":"0x1"}',
        b'{"jsonrpc":"2.0","id":null,"result":"0x1"}',
        b'[{"jsonrpc":"2.0","id":1,"result":"0x1"}]',
        b'{"jsonrpc":"2.0","id":1,"error":null}',
        b'{"jsonrpc":"2.0","id":1,"error":{"message":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":3.5,"message":"x"}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":3}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":3,"message":"x","data":"zz"}}',
        b'{"jsonrpc":"2.0","id":1,"result":"0x1"} ' + b"x",
        b"[" * 100_000,
    ],
)
async def test_what_is_not_json_rpc_is_malformed(body: bytes) -> None:
    """Another version, another id, both or neither of result and error, and what is no JSON."""
    with pytest.raises(RpcMalformed):
        await client(body).block_number()


@pytest.mark.parametrize(
    ("error", "text", "data"),
    [
        (
            {"code": 3, "message": "execution reverted: no", "data": "0x" + error_string("no").hex()},
            "no",
            error_string("no"),
        ),
        ({"code": 3, "message": "execution reverted", "data": "0x01020304"}, "", b"\1\2\3\4"),
        ({"code": 3, "message": "execution reverted", "data": "0x"}, "", b""),
        ({"code": 3, "message": "x"}, "", b""),
        ({"code": -32000, "message": "Execution reverted"}, "", b""),
        ({"code": 3, "message": "x", "data": "0x08c379a0ff"}, "", bytes.fromhex("08c379a0ff")),
        (
            {"code": 3, "message": "x", "data": "0x" + error_string("\x1b[31m").hex()},
            "\\x1b[31m",
            error_string("\x1b[31m"),
        ),
    ],
)
async def test_a_revert_is_told_apart(error: dict[str, Any], text: str, data: bytes) -> None:
    """What the contract says is taken out and made inert; other errors are the endpoint's."""
    with pytest.raises(Reverted) as caught:
        await client({"error": error}).call(TO, b"", 7)
    assert (caught.value.reason, caught.value.text, caught.value.data) == ("reverted", text, data)


@pytest.mark.parametrize(
    ("code", "reason"), [(-32601, "rpc_method_missing"), (-32000, "rpc_error"), (-32005, "rpc_error")]
)
async def test_an_error_is_the_endpoints(code: int, reason: str) -> None:
    """A missing method has its own reason; messages are inert and short."""
    with pytest.raises(RpcRejected) as caught:
        await client({"error": {"code": code, "message": "\x1b]0;owned\x07" + "é" * 500}}).block_number()
    assert (caught.value.reason, caught.value.rpc_code) == (reason, code)
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 160


@pytest.mark.parametrize("ask", ["call", "code"])
async def test_nothing_is_no_answer(ask: str) -> None:
    """`0x` means that there is no contract; it is never read as false or empty."""
    with pytest.raises(NoContract) as caught:
        await ASKS[ask](client({"result": "0x"}))
    assert caught.value.reason == "no_contract"


async def test_another_chain_is_told() -> None:
    """An endpoint of another chain is not used."""
    with pytest.raises(WrongChain, match="a serves chain 1, not 10740"):
        await client({"result": "0x1"}).connect()


@pytest.mark.parametrize(
    ("ask", "result", "limit"),
    [
        ("call", "0x" + "00" * (1024 * 1024 + 1), "the answer has"),
        ("logs", [LOG] * 4097, "more than 4096 logs"),
        ("logs", [{**LOG, "data": "0x" + "00" * (1024 * 1024 + 1)}], "a log is too long"),
    ],
)
async def test_answers_have_limits(ask: str, result: object, limit: str) -> None:
    """Beyond what is ever decoded, an answer is refused."""
    with pytest.raises(RpcRefused, match=limit) as caught:
        await ASKS[ask](client({"result": result}))
    assert caught.value.reason == "rpc_too_large"


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (httpx.Response(300), "rpc_redirect"),
        (httpx.Response(199), "rpc_status"),
        (httpx.Response(400), "rpc_status"),
        (httpx.Response(301, headers={"location": "https://evil.example"}), "rpc_redirect"),
        (httpx.Response(307, headers={"location": "/"}), "rpc_redirect"),
        (httpx.Response(204), "rpc_status"),
        (httpx.Response(429, text="slow down"), "rpc_status"),
        (httpx.Response(500, json={"jsonrpc": "2.0", "id": 1, "result": "0x1"}), "rpc_status"),
        (httpx.Response(200, headers={"content-encoding": "gzip"}, content=b""), "rpc_encoding"),
    ],
)
async def test_http_answers_that_are_none(response: httpx.Response, reason: str) -> None:
    """Redirects are not followed, other statuses are not read, nothing is decompressed."""
    with pytest.raises(RpcRefused) as caught:
        await client(lambda request: response).block_number()
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("", "https://a.example"),
        ("x" * 65, "https://a.example"),
        ("a\n", "https://a.example"),
        ("é", "https://a.example"),
        ("a", "ftp://a.example"),
        ("a", "https://"),
        ("a", "https://user@a.example"),
        ("a", "https://a.example:99999"),
        ("a", "https://[::1"),
        ("a", "https://é.example"),
    ],
)
def test_an_endpoint_that_cannot_be_is_a_setting_to_change(name: str, url: str) -> None:
    """Names are short and printable, URLs are http(s) without user."""
    with pytest.raises(ConfigError):
        RpcClient(
            httpx.AsyncClient(transport=httpx.MockTransport(lambda r: httpx.Response(200))), name, url, chain_id=1
        )


# On sockets, through the gateway's own control client and through httpx alone.


@pytest.fixture(params=["control", "httpx"])
async def http(request: pytest.FixtureRequest) -> AsyncIterator[httpx.AsyncClient]:
    pool = UpstreamPool()
    made = (
        control_client(pool, allow_private=True, deadlines=Deadlines(0.3, 0.3, 1.0))
        if request.param == "control"
        else httpx.AsyncClient(trust_env=False)
    )
    async with made:
        yield made
    await pool.close()


async def hang(node: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_request(node, reader)
    await asyncio.sleep(60)


async def flood(node: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A gigabyte of one answer, as fast as it is taken."""
    await read_request(node, reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000000000\r\n\r\n")
    sent = 0
    while sent < 10**9:
        writer.write(b" " * 65536)
        sent += 65536
        await writer.drain()
        node.requests[0] = b"%d" % sent


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "


@pytest.mark.parametrize(
    ("script", "kind", "reason"),
    [
        (hang, RpcTimeout, "rpc_timeout"),
        (pieces(HEAD + b"100\r\n\r\n", *[b" "] * 60, gap_s=0.02), RpcTimeout, "rpc_timeout"),
        (flood, RpcRefused, "rpc_too_large"),
        (pieces(HEAD + b"100\r\n\r\n{"), RpcUnreachable, "rpc_unreachable"),
        (pieces(b"nonsense\r\n\r\n"), RpcUnreachable, "rpc_unreachable"),
        (
            pieces(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"),
            RpcRefused,
            "rpc_redirect",
        ),
    ],
    ids=["hang", "drip", "flood", "cut", "no-http", "redirect"],
)
async def test_hostile_endpoints(http: httpx.AsyncClient, script: Any, kind: type[RpcError], reason: str) -> None:
    """Endpoints that hang, drip, flood, break off or redirect cost one bounded request and give one reason."""
    async with peer(script) as node:
        endpoint = RpcClient(http, "a", f"http://127.0.0.1:{node.port}/", chain_id=1, timeout_s=1.0)
        with pytest.raises(kind) as caught:
            await endpoint.block_number()
        assert caught.value.reason == reason
        if script is flood:
            assert int(node.requests[0] or b"0") < 64 * 1024 * 1024


async def test_nobody_there(http: httpx.AsyncClient) -> None:
    """A closed port is `rpc_unreachable`."""
    async with peer(hang) as node:
        port = node.port
    with pytest.raises(RpcUnreachable, match=r"a cannot be reached \((connect_failed|ConnectError)\)"):
        await RpcClient(http, "a", f"http://127.0.0.1:{port}/", chain_id=1).block_number()


async def test_a_compressed_answer_is_refused_by_the_channel() -> None:
    """The control client's own refusal keeps its meaning."""
    pool = UpstreamPool()
    script = pieces(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 0\r\n\r\n")
    async with peer(script) as node, control_client(pool, allow_private=True) as made:
        with pytest.raises(RpcRefused) as caught:
            await RpcClient(made, "a", node_url(node), chain_id=1).block_number()
    assert caught.value.reason == "rpc_encoding"
    await pool.close()


@pytest.mark.parametrize("location", [b"https://xn--a/", b"javascript:1"])
async def test_a_redirect_to_no_url_is_a_redirect(location: bytes) -> None:
    """What an endpoint writes into its Location is not read, so that it cannot end a round of the others."""
    pool = UpstreamPool()
    script = pieces(b"HTTP/1.1 302 Found\r\nlocation: " + location + b"\r\ncontent-length: 0\r\n\r\n")
    async with peer(script) as node, control_client(pool, allow_private=True) as made:
        with pytest.raises(RpcRefused) as caught:
            await RpcClient(made, "a", node_url(node), chain_id=1).block_number()
    assert caught.value.reason == "rpc_redirect"
    await pool.close()


def node_url(node: Peer) -> str:
    return f"http://127.0.0.1:{node.port}/"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.sampled_from(["0x", "0x1", "0x00", hexed.ox(TX), TO, "é"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*LOG, *BLOCK, *FOUND, "code", "message"]), inner, max_size=6)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(ASKS)), st.sampled_from(["result", "error"]), JSON)
def test_hostile_answers_give_values_or_our_error(ask: str, member: str, value: Any) -> None:
    """Whatever JSON comes, nothing but `RpcError` is raised."""

    async def one() -> None:
        try:
            await ASKS[ask](client({member: value}))
        except RpcError as error:
            assert error.reason  # noqa: PT017

    asyncio.run(one())


def test_limits_leave_room_for_what_is_decoded() -> None:
    """The body's limit holds the longest answer in hex."""
    assert rpc.MAX_BODY > 2 * 1024 * 1024 + 1024
