"""Control traffic: the httpx API over the same connections, with the same rules."""

import asyncio

import httpx
import pytest
from support_peer import answers, peer, pieces
from support_tls import self_signed

from gateway.upstream.limits import Deadlines
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.transport import control_client, dangerous_any_key, reason_of

OK = b"HTTP/1.1 200 OK\r\n"
HELLO = OK + b"Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
SHORT = Deadlines(0.2, 0.2, 0.5)


def url(node, path="/a?b=c"):
    return f"{node.origin.scheme}://127.0.0.1:{node.port}{path}"


async def failing(pool, blob, kind, reason, **how):
    """Assert that the answer `blob` raises httpx's `kind` with our `reason`."""
    async with peer(answers(blob)) as node, control_client(pool, allow_private=True, **how) as client:
        with pytest.raises(kind) as caught:
            await client.get(url(node))
        assert reason_of(caught.value) == reason
        assert pool.idle_count(node.origin) == 0


async def test_httpx_calls_go_through_the_pool(pool):
    """Method, target, headers and body arrive; the connection is kept for the next call."""
    async with peer(answers(HELLO, HELLO)) as node, control_client(pool, allow_private=True) as client:
        response = await client.get(url(node), headers={"x-a": "1"})
        assert (response.status_code, response.text, response.headers["content-type"]) == (200, "hello", "text/plain")
        assert response.extensions["peer_spki"] is None
        await client.post(url(node), json={"n": 1})
        assert node.connections == 1
        assert node.requests[0].startswith(b"GET /a?b=c HTTP/1.1\r\nhost: " + node.origin.authority)
        assert node.requests[0].count(b"accept-encoding: identity") == 1
        assert b"gzip" not in node.requests[0]
        assert b"x-a: 1\r\n" in node.requests[0]
        assert node.requests[1].endswith(b'\r\n\r\n{"n":1}')


async def test_the_key_that_answered_is_told(pool, tmp_path):
    """Fetching evidence under any key reports which one it was."""
    leaf = self_signed()
    async with peer(answers(HELLO), leaf.server_context(tmp_path)) as node:
        async with control_client(pool, allow_private=True, pins=dangerous_any_key) as client:
            response = await client.get(url(node))
            assert response.extensions["peer_spki"] == leaf.spki
        async with control_client(pool, allow_private=True, pins=lambda origin: frozenset({b"x" * 32})) as client:
            with pytest.raises(httpx.ConnectError) as caught:
                await client.get(url(node))
            assert reason_of(caught.value) == "channel_bound"


async def test_e14_the_clients_cookie_jar_stays_empty(pool):
    """Set-Cookie never reaches httpx, and a cookie given by hand is not sent."""
    async with (
        peer(answers(OK + b"Set-Cookie: a=b\r\nContent-Length: 0\r\n\r\n", HELLO)) as node,
        control_client(pool, allow_private=True) as client,
    ):
        response = await client.get(url(node))
        assert not response.cookies
        assert not client.cookies
        client.cookies.set("c", "d")
        await client.get(url(node))
        assert b"cookie" not in node.requests[1].lower()


async def test_e13_e18_redirects_are_not_followed(pool):
    """The redirect comes back; nothing goes to where it points."""
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n"
    async with peer(answers(answer)) as node, control_client(pool, allow_private=True) as client:
        assert (await client.get(url(node))).status_code == 302
        assert node.connections == 1


@pytest.mark.parametrize("location", [b"https://xn--a/", b"javascript:1", b"http://[/", b"\xff"])
async def test_e18_a_location_that_is_no_url_is_never_parsed(pool, location):
    """The redirect comes back without its Location, which httpx would parse, though it follows none."""
    answer = b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\nContent-Length: 0\r\n\r\n"
    async with peer(answers(answer)) as node, control_client(pool, allow_private=True) as client:
        response = await client.get(url(node))
        assert (response.status_code, "location" in response.headers) == (302, False)


async def test_e20_hostile_bodies_end_at_the_cap(pool):
    """512 MB announced, or endless, is refused at four megabytes, or at the cap that was given."""
    too_large = OK + b"Content-Length: 536870912\r\n\r\n"
    await failing(pool, too_large, httpx.RemoteProtocolError, "too_large")
    endless = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n"
    await failing(pool, endless, httpx.RemoteProtocolError, "too_large", max_body=1000)


async def test_e01_e20_compressed_bodies_are_never_inflated(pool):
    """A gzip answer is an error before httpx could decode it."""
    answer = OK + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"
    await failing(pool, answer, httpx.RemoteProtocolError, "content_encoding")


async def test_e20_slow_and_silent_hosts_meet_the_deadlines(pool):
    """Silence is a ReadTimeout with our reason."""
    await failing(pool, b"", httpx.ReadTimeout, "timeout_first_byte", deadlines=SHORT)
    await failing(pool, OK + b"Content-Length: 9\r\n\r\nx", httpx.ReadTimeout, "timeout_idle", deadlines=SHORT)


async def test_a_cut_body_is_an_error(pool):
    """A body that ends too early raises instead of being short."""
    async with (
        peer(pieces(OK + b"Content-Length: 9\r\n\r\nhello")) as node,
        control_client(pool, allow_private=True) as client,
    ):
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await client.get(url(node))
        assert reason_of(caught.value) == "truncated"


@pytest.mark.parametrize(
    ("target", "how"),
    [
        ("http://169.254.169.254/latest", {}),
        ("http://10.0.0.1/", {"allow_http": True}),
        ("https://127.0.0.1/", {}),
        ("http://node.example/", {"allow_private": True}),
        ("ftp://node.example/", {}),
        ("https://user:secret@127.0.0.1/", {}),
    ],
)
async def test_e18_e19_addresses_that_were_not_allowed_are_not_connected_to(pool, target, how):
    """Metadata, private and loopback addresses, plain HTTP and other schemes are refused without a connection."""
    async with control_client(pool, **how) as client:
        with pytest.raises(httpx.TransportError) as caught:
            await client.get(target)
        assert reason_of(caught.value) in ("address_refused", "connect_failed")
    assert pool.open_count == 0


async def test_e19_a_name_that_resolves_inside_is_refused():
    """Rebinding: the name is public in the URL, its address is not."""

    async def resolve(host, port):
        return ["127.0.0.1"]

    pool = UpstreamPool(resolver=resolve)
    async with control_client(pool) as client:
        with pytest.raises(httpx.ConnectError) as caught:
            await client.get("https://registry.example/")
        assert reason_of(caught.value) == "address_refused"


async def test_e21_proxies_and_netrc_of_the_environment_are_ignored(pool, monkeypatch, tmp_path):
    """The request goes straight to the host, without credentials from a file."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    async with peer(answers(HELLO)) as node, control_client(pool, allow_private=True) as client:
        assert (await client.get(url(node))).text == "hello"
        assert b"authorization" not in node.requests[0].lower()


async def test_a_streamed_response_gives_its_connection_back(pool):
    """Read to the end it is kept, left in the middle it is closed."""
    chunked = OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"
    async with (
        peer(answers(chunked + b"0\r\n\r\n", chunked)) as node,
        control_client(pool, allow_private=True) as client,
    ):
        async with client.stream("GET", url(node)) as response:
            assert [part async for part in response.aiter_raw()] == [b"hi"]
        assert pool.idle_count(node.origin) == 1
        async with client.stream("GET", url(node)) as response:
            assert response.status_code == 200
        assert pool.idle_count(node.origin) == 0
        await asyncio.wait_for(node.closed.wait(), 1)


async def test_a_request_that_cannot_be_sent_is_a_local_error(pool):
    """What the connection refuses to write is httpx's LocalProtocolError."""
    async with peer(answers(HELLO)) as node, control_client(pool, allow_private=True) as client:
        with pytest.raises(httpx.LocalProtocolError):
            await client.head(url(node))
        assert node.requests == []
        assert reason_of(httpx.LocalProtocolError("x")) == "closed"
