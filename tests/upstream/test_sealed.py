"""Sealed exchanges over loopback: a relay that sees ciphertext, an enclave made on pyhpke behind it, and their lies."""

import asyncio
import json

import pytest
from ohttp_kit import EPHEMERAL, PRIVATE, Enclave, key_config, length, raw_public
from support_peer import peer, read_request

from gateway.crypto.hpke import is_weak_x25519
from gateway.crypto.ohttp_keys import KeyConfig, parse_key_config
from gateway.upstream.errors import ChannelClosed, ChannelError, ChannelTimeout, NotReached, SealBroken, SealRefused
from gateway.upstream.limits import Deadlines
from gateway.upstream.sealed import SealedConnection, SealedRoute

TEE_ID = "0x" + "ab" * 32
ROUTE = SealedRoute(
    b"/api/v1/chat/ohttp", parse_key_config(key_config()), TEE_ID, b"Bearer relay-token", ((b"x-extra", b"1"),)
)
CHAT = b"/v1/chat/completions"
PROMPT = b"the secret of the agent"
BODY = b'{"model":"m","messages":[{"role":"user","content":"' + PROMPT + b'"}]}'
STREAM = BODY[:-1] + b',"stream":true}'
ANSWER = b'{"id":"a","choices":[]}'
EVENTS = [b"data: one\n\n", b"data: two\n\n", b"data: [DONE]\n\n"]
PATIENT = Deadlines(first_byte_s=10, idle_s=10, total_s=20)
JSON, WHOLE, CHUNKED = b"application/json", b"message/ohttp-res", b"message/ohttp-chunked-res"


def http(body, media=WHOLE, status=b"200 OK", extra=b""):
    return b"HTTP/1.1 %b\r\nContent-Type: %b\r\n%bContent-Length: %d\r\n\r\n%b" % (
        status,
        media,
        extra,
        len(body),
        body,
    )


def http_chunks(pieces, media=CHUNKED, end=b"0\r\n\r\n"):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % media
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + end


def relay(*replies):
    """Answers request n with what `replies[n]` makes of the enclave's side of it: bytes, or a list with pauses between."""

    async def script(node, reader, writer):
        for reply in replies:
            if not await read_request(node, reader):
                return
            wire = node.requests[-1].partition(b"\r\n\r\n")[2]
            made = reply(Enclave(wire)) if callable(reply) else reply
            for part in made if isinstance(made, list) else [made]:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.02 if isinstance(made, list) else 0)
        await read_request(node, reader)

    return script


def honest(enclave):
    """What an enclave answers to the request: whole or chunked, as it was asked."""
    if json.loads(enclave.plaintext).get("stream"):
        return http_chunks(enclave.chunked(*EVENTS))
    return http(enclave.whole(ANSWER))


async def wrapped(pool, node, route=ROUTE, **how):
    return SealedConnection(await pool.acquire(node.origin, None, 2.0), route, **how)


async def ask(pool, node, body=BODY, target=CHAT, deadlines=PATIENT, read=None, route=ROUTE, **how):
    """One exchange: the head, the answer, and the connection."""
    connection = await wrapped(pool, node, route)
    try:
        head = await connection.request(b"POST", target, [(b"x-own", b"secret-header")], body, deadlines, **how)
        return head, await connection.read_all(read), connection
    finally:
        connection.release(pool)


async def refusal(pool, reply, body=BODY, **how):
    """The reason of an exchange that must fail, once it is sure that the connection is gone from the pool."""
    async with peer(relay(reply)) as node:
        with pytest.raises(ChannelError) as caught:
            await ask(pool, node, body, **how)
        assert caught.value.sent
        assert pool.idle_count(node.origin) == 0
        assert isinstance(caught.value, SealBroken) or caught.value.reason in {"too_large", "truncated"}
        return caught.value.reason


# ------------------------------------------------------------------------------------------------------------- honestly


async def test_a_prompt_leaves_sealed_and_its_answer_comes_back(pool):
    """The enclave gets the caller's body byte for byte, the caller the enclave's answer, the relay neither."""
    async with peer(relay(honest, honest)) as node:
        head, body, connection = await ask(pool, node)
        assert (head.status, head.headers, body) == (200, [(b"content-type", JSON)], ANSWER)
        assert head.content_length == len(ANSWER)
        assert connection.opened
        assert connection.outer.get(b"content-type") == WHOLE
        head, _, wire = node.requests[0].partition(b"\r\n\r\n")
        assert Enclave(wire).plaintext == BODY
        assert (await ask(pool, node))[1] == ANSWER
        assert node.connections == 1
        assert node.requests[0] != node.requests[1]


async def test_no_plaintext_is_on_the_wire(pool):
    """Neither the prompt, nor a piece of it, nor the caller's headers are among the bytes that the relay gets."""
    async with peer(relay(honest, honest)) as node:
        await ask(pool, node)
        await ask(pool, node, STREAM)
        for request in node.requests:
            assert all(PROMPT[at : at + 5] not in request for at in range(len(PROMPT) - 4))
            assert b"secret" not in request
            assert CHAT not in request


async def test_what_the_relay_is_told(pool):
    """Target, media types, TEE id, authorization and the mark of a stream are the relay's; there is nothing else."""
    async with peer(relay(honest, honest)) as node:
        await ask(pool, node)
        await ask(pool, node, STREAM)
    for request, media, mark in ((0, WHOLE, []), (1, CHUNKED, [b"x-ohttp-stream: true"])):
        line, *fields = node.requests[request].partition(b"\r\n\r\n")[0].split(b"\r\n")
        assert line == b"POST /api/v1/chat/ohttp HTTP/1.1"
        assert fields[2:-1] == [
            b"content-type: message/ohttp-req",
            b"accept: " + media,
            b"x-tee-id: " + TEE_ID.encode(),
            *mark,
            b"authorization: Bearer relay-token",
            b"x-extra: 1",
        ]
    bare = SealedRoute(b"/x", ROUTE.key, TEE_ID)
    async with peer(relay(honest)) as node:
        await ask(pool, node, route=bare)
    assert b"authorization" not in node.requests[0]


async def test_a_stream_comes_event_by_event(pool):
    """Each event is handed out when its sealed chunk is there, before the next one left; then the end."""
    more = asyncio.Event()

    async def script(node, reader, writer):
        await read_request(node, reader)
        pieces = Enclave(node.requests[0].partition(b"\r\n\r\n")[2]).chunked(*EVENTS)
        writer.write(http_chunks(pieces[:2], end=b""))
        await more.wait()
        writer.write(http_chunks(pieces[2:]).partition(b"\r\n\r\n")[2])
        await read_request(node, reader)

    async with peer(script) as node:
        connection = await wrapped(pool, node)
        head = await connection.request(b"POST", CHAT, [], STREAM, PATIENT)
        assert (head.status, head.headers, head.content_length) == (
            200,
            [(b"content-type", b"text/event-stream")],
            None,
        )
        assert await connection.read_some() == EVENTS[0]
        connection.progress()
        more.set()
        assert b"".join([chunk async for chunk in connection.chunks()]) == EVENTS[1] + EVENTS[2]
        assert await connection.read_some() == b""
        assert await connection.read_all() == b""
        connection.release(pool)
        assert pool.idle_count(node.origin) == 1


@pytest.mark.parametrize("gather_s", [0.0, 0.05])
async def test_a_stream_in_pieces_of_any_size(pool, gather_s):
    """Chunks that come byte by byte, with empty ones among them, give the same events."""

    def dribbled(enclave):
        stream = b"".join(enclave.chunked(EVENTS[0], b"", EVENTS[1], b""))
        return http_chunks([stream[at : at + 3] for at in range(0, len(stream), 3)])

    async with peer(relay(dribbled)) as node:
        connection = await wrapped(pool, node)
        await connection.request(b"POST", CHAT, [], STREAM, PATIENT)
        found = []
        while data := await connection.read_some(gather_s):
            found.append(data)
        assert b"".join(found) == EVENTS[0] + EVENTS[1]
        connection.release(pool)
        assert pool.idle_count(node.origin) == 1


async def test_a_stream_can_be_read_whole(pool):
    """`read_all` gives all events in one piece."""
    async with peer(relay(honest)) as node:
        assert (await ask(pool, node, STREAM))[1] == b"".join(EVENTS)


async def test_a_stream_may_be_answered_whole(pool):
    """An answer that is no stream is taken for what it is, read in one piece and then ended."""
    async with peer(relay(lambda enclave: http(enclave.whole(ANSWER)))) as node:
        connection = await wrapped(pool, node)
        head = await connection.request(b"POST", CHAT, [], STREAM, PATIENT)
        assert head.get(b"content-type") == JSON
        assert [await connection.read_some(), await connection.read_some()] == [ANSWER, b""]
        connection.release(pool)


@pytest.mark.parametrize("body", [STREAM, BODY])
async def test_an_error_inside_the_seal_has_its_status(pool, body):
    """The enclave's `{"status","body"}` becomes the answer that it would have been in the open."""
    inner = b'{"status":451,"body":{"error":"no"}}'
    async with peer(relay(lambda enclave: http(enclave.whole(inner)))) as node:
        head, found, connection = await ask(pool, node, body)
        assert (head.status, found, connection.opened) == (451, b'{"error":"no"}', True)
        assert pool.idle_count(node.origin) == 1


@pytest.mark.parametrize(
    "inner",
    [
        b'{"status":400}', b'{"body":{}}', b'{"status":400,"body":{},"id":"x"}', b'{"status":"400","body":{}}', b"",
        b'{"id":1,"status":400,"body":{}}', b"[]", b"\xff", b"{" * 5000, b'{"status":1e3,"body":{}}x',
    ],
)  # fmt: skip
async def test_only_that_form_is_an_error(pool, inner):
    """What is not exactly of the error's form is the answer itself, for its reader to judge."""
    async with peer(relay(lambda enclave: http(enclave.whole(inner)))) as node:
        head, found, _ = await ask(pool, node)
        assert (head.status, found) == (200, inner)


@pytest.mark.parametrize("status", [200, 299, 302, 399, 600, 0, -1])
async def test_a_wrapped_success_is_no_answer(pool, status):
    """A sealed document of the error's form with another status than an error's is refused."""
    inner = b'{"status":%d,"body":{"choices":[]}}' % status
    assert await refusal(pool, lambda enclave: http(enclave.whole(inner))) == "ohttp_malformed"


async def test_a_service_is_meant_by_path_and_body_alike(pool):
    """A search is sealed when both the path and the body say so."""
    body = b'{"endpoint":"web_search","query":"q"}'
    async with peer(relay(honest)) as node:
        assert (await ask(pool, node, body, target=b"/base/v1/web_search"))[1] == ANSWER


# ------------------------------------------------------------------------------------------------------------ in the open


async def test_a_price_passes_in_the_open(pool):
    """A plaintext 402 comes with its headers and body, and is not taken for the enclave's."""
    priced = http(b'{"x402Version":2}', JSON, b"402 Payment Required", b"Payment-Required: abc\r\n")
    async with peer(relay(priced)) as node:
        head, body, connection = await ask(pool, node)
        assert (head.status, head.get(b"payment-required"), body) == (402, b"abc", b'{"x402Version":2}')
        assert not connection.opened
        assert connection.outer is head
        assert pool.idle_count(node.origin) == 1


OTHER_ERRORS = [
    (b"401 No", http(b'{"detail":"token expired"}', JSON, b"401 No")),
    (b"429 No", http(b"", JSON, b"429 No", b"Retry-After: 3\r\n")),
    (b"500 No", http(b'{"error":"malformed encapsulated request"}', JSON, b"500 No")),
    (b"400 No", http(b'{"error":"empty body"}', JSON, b"400 No")),
    (b"400 No", http(b"not JSON", b"text/plain", b"400 No")),
    (b"400 No", http(b"[" * 3000, JSON, b"400 No")),
    (b"422 No", http(b'{"type":"about:blank"}', b"application/problem+json", b"422 No")),
    (b"400 No", http(b'{"error":"malformed encapsulated request"}' + b" " * 4096, JSON, b"400 No")),
    (b"400 No", b"HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"),
    (b"201 No", http(ANSWER, JSON, b"201 No")),
    (b"201 No", http(ANSWER, WHOLE, b"201 No")),
]


@pytest.mark.parametrize(("status", "reply"), OTHER_ERRORS, ids=range(len(OTHER_ERRORS)))
async def test_errors_of_the_relay_keep_their_status(pool, status, reply):
    """A status of the relay's own is passed on, its body too, and never as an opened answer."""
    async with peer(relay(reply)) as node:
        head, body, connection = await ask(pool, node)
        assert head.status == int(status[:3])
        assert not connection.opened
        assert body == (b"{}" if b"chunked" in reply else reply.partition(b"\r\n\r\n")[2])


@pytest.mark.parametrize(
    "reply",
    [
        http(b'{"error":"malformed encapsulated request"}', JSON, b"400 Bad Request"),
        http(b'{"type":"https://iana.org/assignments/http-problem-types#ohttp-key","title":"x"}', JSON, b"400 No"),
        http(b'{"type":"https://iana.org/assignments/http-problem-types#ohttp-key"}', JSON, b"422 No"),
    ],
)
async def test_a_rotated_key_is_said_to_be_one(pool, reply):
    """The enclave's word for a request that it cannot open has a reason of its own, so that the key is asked for again."""
    assert await refusal(pool, reply) == "ohttp_key_rotated"


@pytest.mark.parametrize("body", [BODY, STREAM])
@pytest.mark.parametrize(
    ("media", "expected"),
    [
        (b"application/json", "ohttp_plaintext"),
        (b"text/event-stream; charset=utf-8", "ohttp_plaintext"),
        (b"text/html", "ohttp_media_type"),
        (b"message/ohttp-req", "ohttp_media_type"),
        (b"message/ohttp-res2", "ohttp_media_type"),
        (b"", "ohttp_media_type"),
    ],
)
async def test_a_relay_that_answers_itself_is_refused(pool, body, media, expected):
    """A 200 in the open is no answer, however well it reads."""
    assert await refusal(pool, http(ANSWER, media), body) == expected


async def test_chunks_for_who_asked_for_none(pool):
    """A chunked answer to a request for a whole one is refused."""
    assert await refusal(pool, lambda enclave: http_chunks(enclave.chunked(ANSWER))) == "ohttp_media_type"


# ------------------------------------------------------------------------------------------------------------- broken seals


def flipped(data, at):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def of_another(enclave):
    """An enclave with the right key that answers some other request."""
    from gateway.crypto.ohttp import encapsulate

    return Enclave(encapsulate(ROUTE.key, BODY, EPHEMERAL).wire)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (lambda e: http(flipped(e.whole(ANSWER), 0)), "ohttp_decrypt"),
        (lambda e: http(flipped(e.whole(ANSWER), 59)), "ohttp_decrypt"),
        (lambda e: http(of_another(e).whole(ANSWER)), "ohttp_decrypt"),
        (lambda e: http(e.whole(ANSWER)[:-1]), "ohttp_decrypt"),
        (lambda e: http(e.whole(ANSWER) + b"x"), "ohttp_decrypt"),
        (lambda e: http(b"x" * 47), "ohttp_malformed"),
        (lambda e: http(b""), "ohttp_malformed"),
        (lambda e: http(b"".join(e.chunked(ANSWER))), "ohttp_decrypt"),
        (lambda e: http(e.whole(ANSWER))[:-3] , "truncated"),
    ],
)  # fmt: skip
async def test_whole_answers_that_do_not_open(pool, reply, expected):
    """A changed, foreign, cut or short answer is refused with its reason, and the connection is gone."""

    async def script(node, reader, writer):
        await read_request(node, reader)
        writer.write(reply(Enclave(node.requests[0].partition(b"\r\n\r\n")[2])))
        await writer.drain()

    async with peer(script) as node:
        with pytest.raises(ChannelError) as caught:
            await ask(pool, node)
        assert (caught.value.reason, caught.value.sent) == (expected, True)
        assert pool.idle_count(node.origin) == 0


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (lambda e: e.chunked(*EVENTS)[:-1], "ohttp_truncated"),
        (lambda e: e.chunked(*EVENTS, final=False), "ohttp_truncated"),
        (lambda e: e.chunked(*EVENTS)[:1], "ohttp_truncated"),
        (lambda e: [], "ohttp_truncated"),
        (lambda e: [*e.chunked(*EVENTS)[:-1], e.chunked(*EVENTS)[-1][:-1]], "ohttp_decrypt"),
        (lambda e: [*e.chunked(*EVENTS), b"x"], "ohttp_decrypt"),
        (lambda e: [e.chunked(*EVENTS)[n] for n in (0, 2, 1, 3)], "ohttp_decrypt"),
        (lambda e: [e.chunked(*EVENTS)[n] for n in (0, 1, 1, 2, 3)], "ohttp_decrypt"),
        (lambda e: [e.chunked(*EVENTS)[0], flipped(e.chunked(*EVENTS)[1], 9), *e.chunked(*EVENTS)[2:]], "ohttp_decrypt"),
        (lambda e: of_another(e).chunked(*EVENTS), "ohttp_decrypt"),
        (lambda e: [b"n" * 32 + length(3) + b"abc"], "ohttp_malformed"),
        (lambda e: [b"n" * 32 + length(2**62 - 1)], "too_large"),
    ],
)  # fmt: skip
async def test_streams_that_do_not_open(pool, pieces, expected):
    """A stream that is cut between chunks, reordered, changed or foreign fails, though its HTTP ended cleanly."""
    reason = await refusal(pool, lambda enclave: http_chunks(p for p in pieces(enclave) if p), STREAM)
    assert reason == expected


async def test_a_stream_that_failed_gives_nothing_more(pool):
    """Events before the failure came out; after it every read fails."""

    def reply(enclave):
        head, first, second, _ = enclave.chunked(*EVENTS)
        return [http_chunks([head, first], end=b""), b"%x\r\n%b\r\n0\r\n\r\n" % (len(second), flipped(second, 5))]

    async with peer(relay(reply)) as node:
        connection = await wrapped(pool, node)
        await connection.request(b"POST", CHAT, [], STREAM, PATIENT)
        assert await connection.read_some() == EVENTS[0]
        for _ in range(2):
            with pytest.raises(ChannelError):
                await connection.read_some()
        with pytest.raises(ChannelError):
            await connection.read_all()
        connection.release(pool)
        assert pool.idle_count(node.origin) == 0


async def test_sizes_are_capped(pool):
    """`max_body` caps what crosses the wire, `read_all`'s cap what came out of the seal."""
    whole = lambda enclave: http(enclave.whole(b"x" * 1000))  # noqa: E731
    assert await refusal(pool, whole, max_body=1047) == "too_large"
    assert await refusal(pool, whole, read=999) == "too_large"
    assert await refusal(pool, honest, STREAM, max_body=60) == "too_large"
    assert await refusal(pool, honest, STREAM, read=20) == "too_large"
    async with peer(relay(whole)) as node:
        assert (await ask(pool, node, max_body=1048, read=1000))[1] == b"x" * 1000


# ---------------------------------------------------------------------------------------------------------- not sealed


WEAK = SealedRoute(b"/x", KeyConfig(1, bytes(32), ((1, 3),)), TEE_ID)
OTHER_SUITE = SealedRoute(b"/x", KeyConfig(1, raw_public(PRIVATE), ((1, 1),)), TEE_ID)


@pytest.mark.parametrize(
    ("method", "target", "body", "route"),
    [
        (b"POST", CHAT, BODY[:-1] + b',"endpoint":"web_search"}', ROUTE),
        (b"POST", CHAT, BODY[:-1] + b',"end\\u0070oint":"web_search"}', ROUTE),
        (b"POST", CHAT, BODY[:-1] + b',"endpoint":null}', ROUTE),
        (b"POST", CHAT, BODY[:-1] + b',"stream":"yes"}', ROUTE),
        (b"POST", b"/v1/web_search", BODY, ROUTE),
        (b"POST", b"/v1/completions", BODY, ROUTE),
        (b"POST", b"/v1/embeddings", BODY, ROUTE),
        (b"GET", CHAT, BODY, ROUTE),
        (b"POST", CHAT, b"", ROUTE),
        (b"POST", CHAT, b"[]", ROUTE),
        (b"POST", CHAT, b"\xff", ROUTE),
        (b"POST", CHAT, b"{" * 5000, ROUTE),
        (b"POST", CHAT, BODY + b"x", ROUTE),
        (b"POST", CHAT, BODY, WEAK),
        (b"POST", CHAT, BODY, OTHER_SUITE),
    ],
)
async def test_what_cannot_be_sealed_does_not_leave(pool, method, target, body, route):
    """Another service, a body that means another one, or a key that hides nothing: not one byte reaches the relay."""
    async with peer(relay(honest)) as node:
        connection = await wrapped(pool, node, route)
        with pytest.raises(SealRefused) as caught:
            await connection.request(method, target, [], body, PATIENT)
        assert (caught.value.reason, caught.value.sent, caught.value.retryable) == ("ohttp_unsealable", False, False)
        assert isinstance(caught.value, NotReached)
        assert not connection.sent
        connection.release(pool)
        assert pool.idle_count(node.origin) == 1
        assert node.requests == []


async def test_one_exchange_each(pool):
    """A wrapper carries one request: its ephemeral key would be the next one's too."""
    async with peer(relay(honest)) as node:
        connection = await wrapped(pool, node)
        await connection.request(b"POST", CHAT, [], BODY, PATIENT)
        with pytest.raises(ChannelClosed) as caught:
            await connection.request(b"POST", CHAT, [], BODY, PATIENT)
        assert caught.value.sent
        await connection.read_all()
        connection.release(pool)
        assert len(node.requests) == 1


async def test_every_exchange_has_a_key_of_its_own(pool):
    """The same prompt sealed twice shares no encapsulation and no ciphertext; the randomness is asked for 32 bytes."""
    async with peer(relay(*[honest] * 8)) as node:
        for _ in range(8):
            await ask(pool, node)
        wires = [request.partition(b"\r\n\r\n")[2] for request in node.requests]
        assert len({wire[7:39] for wire in wires}) == len({wire[39:55] for wire in wires}) == 8
        assert not any(is_weak_x25519(wire[7:39]) for wire in wires)
    asked = []
    async with peer(relay(honest)) as node:
        connection = await wrapped(pool, node, entropy=lambda n: asked.append(n) or EPHEMERAL)
        await connection.request(b"POST", CHAT, [], BODY, PATIENT)
        connection.release(pool)
        assert asked == [32]
        assert node.requests[0].partition(b"\r\n\r\n")[2][7:39] == raw_public(EPHEMERAL)


async def test_the_rest_is_the_inner_connections(pool):
    """What it knows of the channel, it asks of the connection that it wraps; ending it ends that."""
    async with peer(relay(lambda enclave: http_chunks(enclave.chunked(*EVENTS)[:2], end=b""))) as node:
        connection = await wrapped(pool, node)
        assert connection.untouched()
        assert not connection.sent
        assert connection.spki is None
        with pytest.raises(ChannelClosed):
            await connection.read_some()
        await connection.request(b"POST", CHAT, [], STREAM, PATIENT)
        assert connection.sent
        assert await connection.read_some() == EVENTS[0]
        waiting = asyncio.create_task(connection.read_some())
        await asyncio.sleep(0)
        connection.abort()
        with pytest.raises(ChannelClosed):
            await waiting
        assert not connection.untouched()
        assert not connection.inner.is_open
        connection.release(pool)


async def test_deadlines_hold_inside(pool):
    """A relay that stops in the middle of a chunk runs into the deadline of the caller."""
    cut = lambda enclave: http_chunks([b"".join(enclave.chunked(*EVENTS))[:-40]], end=b"")  # noqa: E731
    async with peer(relay(cut)) as node:
        with pytest.raises(ChannelTimeout) as caught:
            await ask(pool, node, STREAM, deadlines=Deadlines(first_byte_s=5, idle_s=0.2, total_s=5))
        assert caught.value.reason == "timeout_idle"


def test_a_route_keeps_its_token_to_itself():
    """Neither the authorization nor other headers show in `repr`."""
    assert repr(ROUTE) == f"SealedRoute(b'/api/v1/chat/ohttp', {TEE_ID}, key 1)"


async def test_progress_is_the_inner_connections(pool):
    """A stream whose consumer reports progress outlives the progress deadline; one without does not."""

    def slow(enclave):
        pieces = enclave.chunked(*[b"data: x\n\n"] * 30)
        rest = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces[1:]]
        return [http_chunks(pieces[:1], end=b""), *rest, b"0\r\n\r\n"]

    for reports in (True, False):
        async with peer(relay(slow)) as node:
            connection = await wrapped(pool, node)
            deadlines = Deadlines(first_byte_s=5, idle_s=5, total_s=10, progress_s=0.3)
            await connection.request(b"POST", CHAT, [], STREAM, deadlines)
            read = connection.read_some
            if reports:
                while await read():
                    connection.progress()
            else:
                with pytest.raises(ChannelTimeout) as caught:
                    await connection.read_all()
                assert caught.value.reason == "timeout_progress"
            connection.release(pool)
