"""The channel is bound before the first byte: keys, chains, versions, and an environment that has no say."""

import asyncio
import ssl

import pytest
from support_peer import answers, peer, read_request
from support_tls import Authority, dangerous_limit_to_tls11, self_signed

from gateway.errors import ConfigError
from gateway.upstream.connection import DANGEROUS_ANY_KEY
from gateway.upstream.errors import ChannelClosed, ChannelRefused, TlsFailed
from gateway.upstream.limits import Deadlines
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.tls import peer_key, pinned_context, web_context

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
PROMPT = b"the prompt, which is secret"


async def ask(pool, origin, pins):
    connection = await pool.acquire(origin, pins, 10.0)
    try:
        await connection.request(b"POST", b"/v1/x", [], PROMPT, Deadlines(10, 10, 20))
        return await connection.read_all(), connection
    finally:
        pool.release(connection)


async def test_e22_the_pinned_key_passes_whatever_the_certificate_says(pool, tmp_path):
    """A self-signed leaf for another name serves when its key is pinned, and the connection tells its key."""
    leaf = self_signed("somebody.else")
    async with peer(answers(HELLO, HELLO), leaf.server_context(tmp_path)) as node:
        body, connection = await ask(pool, node.origin, frozenset({b"x" * 32, leaf.spki}))
        assert body == b"hello"
        assert connection.spki == leaf.spki
        assert PROMPT in node.requests[0]
        await ask(pool, node.origin, frozenset({leaf.spki}))
        assert node.connections == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_e22_a_wrong_key_never_receives_a_byte_of_the_request(pool, tmp_path, version):
    """The key differs, and the application data that the peer got stays empty; under the right key it is the request.

    With TLS 1.2 the peer's side of the handshake completes too; with 1.3 the connection is gone before it does.
    """
    leaf = self_signed()
    context = leaf.server_context(tmp_path)
    context.maximum_version = version
    received = []

    async def script(node, reader, writer):
        data = b"-"
        while data:
            try:
                data = await reader.read(100_000)
            except OSError:
                data = b""
            received.append(data)

    async with peer(script, context) as node:
        for pins in (frozenset({b"x" * 32}), frozenset({leaf.spki[:31]}), frozenset({leaf.spki.hex().encode()})):
            with pytest.raises(ChannelRefused) as caught:
                await ask(pool, node.origin, pins)
            assert (caught.value.reason, caught.value.sent) == ("channel_bound", False)
        await asyncio.sleep(0.1)
        assert set(received) <= {b""}
        if version is ssl.TLSVersion.TLSv1_2:
            async with asyncio.timeout(10):
                while len(received) < 3:
                    await asyncio.sleep(0.01)
            assert (received, node.connections) == ([b""] * 3, 3)
        assert pool.open_count == 0
        asking = asyncio.create_task(ask(pool, node.origin, frozenset({leaf.spki})))
        async with asyncio.timeout(10):
            while PROMPT not in b"".join(received):
                await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait({asking})


async def test_pins_without_tls_and_empty_pins_are_refused_before_connecting(pool, tmp_path):
    """No pins at all is not the same as an empty set of them, and plain HTTP has no key."""
    async with peer(answers(HELLO), self_signed().server_context(tmp_path)) as node:
        with pytest.raises(ChannelRefused, match="no key is pinned"):
            await ask(pool, node.origin, frozenset())
        assert node.connections == 0
    async with peer(answers(HELLO)) as node:
        with pytest.raises(ChannelRefused, match="without TLS"):
            await ask(pool, node.origin, frozenset({b"x" * 32}))
        assert node.connections == 0


async def test_a_kept_connection_is_not_handed_out_when_its_key_is_no_longer_pinned(pool, tmp_path):
    """After a rotation the old connection is closed, and the new one is checked against the new pins."""
    old = self_signed()
    async with peer(answers(HELLO, HELLO), old.server_context(tmp_path)) as node:
        await ask(pool, node.origin, frozenset({old.spki}))
        assert pool.idle_count(node.origin) == 1
        with pytest.raises(ChannelRefused):
            await ask(pool, node.origin, frozenset({b"n" * 32}))
        assert pool.idle_count(node.origin) == 0
        assert len(node.requests) == 1


async def test_a_channel_trusted_in_one_way_is_not_used_for_the_other(tmp_path):
    """A connection under a pin was never checked by the web's rules, so those make their own, and fail here."""
    leaf = self_signed(addresses=["127.0.0.1"])
    pool = UpstreamPool(roots=Authority().roots(tmp_path))
    async with peer(answers(HELLO), leaf.server_context(tmp_path)) as node:
        await ask(pool, node.origin, frozenset({leaf.spki}))
        with pytest.raises(TlsFailed):
            await ask(pool, node.origin, None)
        assert len(node.requests) == 1
    await pool.close()


async def test_any_key_serves_for_evidence_and_is_named(pool, tmp_path):
    """Fetching evidence takes any key and reports it; a prompt may then reuse that very connection under its pin."""
    leaf = self_signed()
    async with peer(answers(HELLO, HELLO), leaf.server_context(tmp_path)) as node:
        _, connection = await ask(pool, node.origin, DANGEROUS_ANY_KEY)
        assert connection.spki == leaf.spki
        _, again = await ask(pool, node.origin, frozenset({leaf.spki}))
        assert again is connection
    async with peer(answers(HELLO)) as node:
        _, connection = await ask(pool, node.origin, DANGEROUS_ANY_KEY)
        assert connection.spki is None


async def test_the_webs_rules_hold_without_pins(tmp_path):
    """A chain to a trusted root with the right name, or address, passes."""
    authority = Authority()
    leaf = authority.issue("localhost", addresses=["127.0.0.1"])
    pool = UpstreamPool(roots=authority.roots(tmp_path))
    async with peer(answers(HELLO), leaf.server_context(tmp_path)) as node:
        for host in ("localhost", "127.0.0.1"):
            body, connection = await ask(pool, node.at(host), None)
            assert body == b"hello"
            assert connection.spki == leaf.spki
    await pool.close()


@pytest.mark.parametrize("fault", ["expired", "not yet valid", "wrong host", "self-signed", "another root"])
async def test_e22_a_bad_certificate_without_a_pin_is_refused(tmp_path, fault):
    """Expired, future, misnamed, self-signed and foreign certificates end in `tls_failed`, with nothing sent."""
    authority = Authority()
    leaf = {
        "expired": lambda: authority.issue("localhost", start=-10, days=5),
        "not yet valid": lambda: authority.issue("localhost", start=2),
        "wrong host": lambda: authority.issue("node.example"),
        "self-signed": lambda: self_signed("localhost"),
        "another root": lambda: Authority().issue("localhost"),
    }[fault]()
    pool = UpstreamPool(roots=authority.roots(tmp_path))
    async with peer(answers(HELLO), leaf.server_context(tmp_path)) as node:
        with pytest.raises(TlsFailed) as caught:
            await ask(pool, node.at("localhost"), None)
        assert (caught.value.reason, caught.value.sent) == ("tls_failed", False)
        assert node.requests == []
    assert pool.open_count == 0
    await pool.close()


async def test_e22_tls_1_1_is_refused_even_with_the_right_key(pool, tmp_path):
    """A peer that speaks TLS 1.1 alone is refused; a client that allows it shows that the peer does speak it."""
    leaf = self_signed()
    async with peer(answers(HELLO), leaf.tls11_context(tmp_path)) as node:
        lax = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        lax.check_hostname, lax.verify_mode = False, ssl.CERT_NONE
        dangerous_limit_to_tls11(lax)
        _, writer = await asyncio.open_connection("127.0.0.1", node.port, ssl=lax)
        assert writer.get_extra_info("ssl_object").version() == "TLSv1.1"
        writer.close()
        with pytest.raises(TlsFailed) as caught:
            await ask(pool, node.origin, frozenset({leaf.spki}))
        assert not caught.value.sent
        assert node.requests == []


async def test_a_peer_that_does_not_speak_tls_is_refused(pool):
    """Plain text in place of a handshake is `tls_failed`."""

    async def script(node, reader, writer):
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()

    async with peer(script) as node:
        node.tls = True
        for pins in (frozenset({b"x" * 32}), DANGEROUS_ANY_KEY):
            with pytest.raises(TlsFailed):
                await ask(pool, node.origin, pins)


async def test_a_cut_over_tls_is_a_cut(pool, tmp_path):
    """Truncation inside TLS, with and without an orderly end, is `truncated`."""
    leaf = self_signed()

    async def script(node, reader, writer):
        await read_request(node, reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello")
        await writer.drain()
        await asyncio.sleep(0.05)
        if node.connections == 1:
            writer.transport.abort()

    async with peer(script, leaf.server_context(tmp_path)) as node:
        for _ in range(2):
            with pytest.raises(ChannelClosed, match="ended before its own framing"):
                await ask(pool, node.origin, frozenset({leaf.spki}))


async def test_back_pressure_works_over_tls(pool, tmp_path):
    """A slow reader stops the peer through TLS too, and every byte arrives."""
    leaf = self_signed()
    body = bytes(range(256)) * 40_000
    async with peer(
        answers(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body), leaf.server_context(tmp_path)
    ) as node:
        connection = await pool.acquire(node.origin, frozenset({leaf.spki}), 2.0)
        await connection.request(b"POST", b"/", [], b"", Deadlines(5, 0.3, 30))
        await asyncio.sleep(0.7)
        assert connection._answer.buffered <= pool.limits.high_water + 512 * 1024
        seen = b"".join([chunk async for chunk in connection.chunks()])
        assert seen == body
        pool.release(connection)
        assert pool.idle_count(node.origin) == 1


async def test_a_second_answer_over_tls_poisons_the_connection(tmp_path):
    """Surplus inside TLS is seen like any other."""
    leaf = self_signed()
    alarms = []
    pool = UpstreamPool(on_surplus=alarms.append)
    async with peer(answers(HELLO + HELLO), leaf.server_context(tmp_path)) as node:
        body, connection = await ask(pool, node.origin, frozenset({leaf.spki}))
        assert body == b"hello"
        assert connection.surplus
        assert alarms == [node.origin]
        assert pool.idle_count(node.origin) == 0
    await pool.close()


async def test_sessions_are_not_resumed(pool, tmp_path):
    """Each connection makes a full handshake, so that each proves the key anew."""
    leaf = self_signed()
    reused = []

    async def script(node, reader, writer):
        reused.append(writer.get_extra_info("ssl_object").session_reused)
        await read_request(node, reader)
        writer.write(HELLO.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await read_request(node, reader)

    async with peer(script, leaf.server_context(tmp_path)) as node:
        for _ in range(3):
            await ask(pool, node.origin, frozenset({leaf.spki}))
        assert reused == [False, False, False]


async def test_e21_the_environment_has_no_say(monkeypatch, tmp_path):
    """Proxies, root files and key logs named in the environment are ignored."""
    authority, other = Authority(), Authority()
    leaf = authority.issue("localhost", addresses=["127.0.0.1"])
    log = tmp_path / "keys.log"
    (tmp_path / "env").mkdir()
    for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    monkeypatch.setenv("SSL_CERT_FILE", authority.roots(tmp_path / "env"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "env"))
    assert ssl.create_default_context().keylog_filename == str(log)  # what we must not use
    log.unlink(missing_ok=True)
    trusting, system = UpstreamPool(roots=authority.roots(tmp_path)), UpstreamPool()
    async with peer(answers(HELLO), leaf.server_context(tmp_path)) as node:
        body, _ = await ask(trusting, node.origin, None)
        assert body == b"hello"
        await ask(trusting, node.origin, frozenset({leaf.spki}))
        with pytest.raises(TlsFailed):  # the authority of SSL_CERT_FILE is not one of the system's
            await ask(system, node.origin, None)
    assert not log.exists()
    assert other.certificate != authority.certificate
    await trusting.close()
    await system.close()


def test_contexts_log_no_keys_and_ask_for_tls_1_2(monkeypatch, tmp_path):
    """Both contexts: no key log, TLS 1.2 at least, HTTP/1.1 only; only the pinned one leaves the chain to the pins."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    pinned, web = pinned_context(), web_context()
    for context in (pinned, web):
        assert context.keylog_filename is None
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_TICKET
    assert (pinned.verify_mode, pinned.check_hostname) == (ssl.CERT_NONE, False)
    assert (web.verify_mode, web.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_roots_that_cannot_be_read_are_a_config_error(tmp_path, monkeypatch):
    """A missing or senseless file of roots is named, and so is a system without any."""
    with pytest.raises(ConfigError, match="cannot load"):
        web_context(str(tmp_path / "absent.pem"))
    (tmp_path / "bad.pem").write_text("nothing")
    with pytest.raises(ConfigError, match="cannot load"):
        web_context(str(tmp_path / "bad.pem"))

    class Nowhere:
        openssl_cafile = openssl_capath = "/nonexistent"

    monkeypatch.setattr(ssl, "get_default_verify_paths", Nowhere)
    monkeypatch.setattr("gateway.upstream.tls._BUNDLES", ())
    with pytest.raises(ConfigError, match="no TLS root certificates"):
        web_context()
    monkeypatch.setattr(Nowhere, "openssl_capath", str(tmp_path))
    assert web_context().verify_mode is ssl.CERT_REQUIRED


def test_a_peer_without_a_readable_certificate_is_refused():
    """No certificate, and one that is no DER, are `tls_failed`."""
    for certificate in (None, b"", b"not DER"):
        with pytest.raises(TlsFailed):
            peer_key(certificate)
