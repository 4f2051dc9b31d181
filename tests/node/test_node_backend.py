"""In front of a backend the node passes bytes untouched, signs what passes, and closes what it opened."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest
from node_kit import HELLO, MODEL, NONCE, Running, ask, node, problems, report, start

from adapters.selfhosted.backend import BackendSource, _BackendStream
from adapters.selfhosted.identity import ephemeral
from adapters.selfhosted.node import Node
from gateway.errors import ConfigError

ODD_JSON = b'{ "id" : "chatcmpl-ORIG",\n  "model":"m", "x_unknown": 1.50, "choices":[], "usage":null }\n'
ODD_SSE = (
    b'data: {"id":"chatcmpl-SSE","model":"m","choices":[{"index":0,"delta":{"content":"a"}}], "x":1.0}\n\n'
    b": a comment of the backend\n\n"
    b"event: odd\r\ndata: {}\r\n\r\n"
    b'data: {"id":"chatcmpl-SSE","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


class Backend:
    """A scripted HTTP server on a thread of its own: each request is kept, each answer is raw bytes, in parts."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.script: Callable[[asyncio.StreamWriter], object] | None = None
        self.left = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(5)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next((int(v) for n, v in _fields(head) if n == b"content-length"), 0)
            self.requests.append(head + await reader.readexactly(length))
            assert self.script is not None
            await self.script(writer)  # type: ignore[misc]
            await writer.drain()
        writer.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(5)

    def says(self, status: str, kind: str, *parts: bytes, extra: str = "", length: int | None = None) -> None:
        """Answer every request so; each part is a write of its own."""

        async def script(writer: asyncio.StreamWriter) -> None:
            size = sum(map(len, parts)) if length is None else length
            writer.write(f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\n{extra}content-length: {size}\r\n\r\n".encode())
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.02)

        self.script = script


def _fields(head: bytes) -> list[tuple[bytes, bytes]]:
    lines = [line.partition(b":") for line in head.split(b"\r\n")[1:] if line]
    return [(name.lower(), value.strip()) for name, _, value in lines]


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    backend = Backend()
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def front(backend: Backend) -> Iterator[Running]:
    arguments = ("--backend", backend.url, "--model-name", "m", "--backend-key-env", "BACKEND_KEY")
    with node(*arguments, env={"BACKEND_KEY": "sk-backend"}) as running:
        yield running


def test_in_front_of_another_node(honest: Running) -> None:
    """A node in front of a node: the models are the backend's, the answers too, the signature its own."""
    with node("--backend", honest.url) as outer:
        known = report(outer.url)
        assert MODEL in known.models
        assert known.keyset.digest == outer.pin != honest.pin
        whole = ask(outer.url, HELLO)
        assert problems(whole, known) == set()
        assert "Hello" in whole.document["choices"][0]["message"]["content"]
        stream = ask(outer.url, {**HELLO, "stream": True}, chained=True)
        assert problems(stream, known) == set()
        assert stream.links
        forwarded = whole.receipt.receipt.body_hash("request.forwarded")  # type: ignore[union-attr]
        assert forwarded == "sha256:" + hashlib.sha256(whole.request).hexdigest()
        assert ask(outer.url, {"model": "nope", "messages": []}).status == 404


def test_bytes_pass_untouched(backend: Backend, front: Running) -> None:
    """Odd spacing, unknown members and number spellings arrive as they were sent, both ways."""
    backend.says("200 OK", "application/json", ODD_JSON)
    request = b'{"model":"m",  "messages":[], "x_more": 1.0 }\n'
    answer = ask(front.url, request, headers={"authorization": "Bearer sk-client", "cookie": "a=b"})
    assert answer.body == ODD_JSON
    head, _, body = backend.requests[-1].partition(b"\r\n\r\n")
    assert body == request
    sent = dict(_fields(head))
    assert head.startswith(b"POST /v1/chat/completions ")
    assert sent[b"authorization"] == b"Bearer sk-backend"
    assert sent[b"accept-encoding"] == b"identity"
    assert b"cookie" not in sent
    assert not any(name.startswith(b"x-aci") for name in sent)
    assert problems(answer, report(front.url), model="m") == set()
    assert answer.receipt is not None
    assert answer.receipt.receipt.chat_id == "chatcmpl-ORIG"


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_streams_pass_untouched(backend: Backend, front: Running, size: int, chained: bool) -> None:
    """However the backend's stream is cut, the covered bytes are exactly its bytes, signed only after whole events."""
    parts = [ODD_SSE[i : i + size] for i in range(0, len(ODD_SSE), size)] if size > 1 else [ODD_SSE[:1], ODD_SSE[1:]]
    backend.says("200 OK", "text/event-stream", *parts)
    answer = ask(front.url, {"model": "m", "messages": [], "stream": True}, chained=chained)
    assert answer.covered == ODD_SSE
    assert problems(answer, report(front.url), model="m") == set()
    assert bool(answer.links) == chained
    assert answer.receipt is not None
    assert answer.receipt.receipt.chat_id == "chatcmpl-SSE"


@pytest.mark.parametrize("line", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("before", [b"", b": odd\r", b"id: 7\n"], ids=["alone", "cr", "lf"])
def test_the_backend_cannot_speak_for_the_node(backend: Backend, front: Running, line: bytes, before: bytes) -> None:
    """Chain comments and receipt events of a backend are taken out, however their lines end."""
    forged = before + b": aci.chain 1 " + b"0" * 128 + line * 2
    receipt = before + b"event: aci.receipt" + line + b"data: e30=" + line * 2
    backend.says(
        "200 OK",
        "text/event-stream",
        b"\xef\xbb\xbf" + forged.removeprefix(before),
        ODD_SSE[:100] + ODD_SSE[100:].replace(b"data: [DONE]", forged + receipt + b"data: [DONE]"),
    )
    answer = ask(front.url, {"model": "m", "messages": [], "stream": True})
    assert answer.covered == ODD_SSE
    assert answer.links == ()
    assert problems(answer, report(front.url), model="m") == set()


@pytest.mark.parametrize(("status", "retry"), [("429 Too Many Requests", "7"), ("500 Internal Server Error", "3")])
def test_errors_pass_with_a_receipt(backend: Backend, front: Running, status: str, retry: str) -> None:
    """A backend's error keeps status, body and Retry-After, and is signed like any answer."""
    body = b'{"error":{"message":"slow down","type":"x_type","code":"x_code"}}'
    backend.says(status, "application/json", body, extra=f"retry-after: {retry}\r\n")
    answer = ask(front.url, {"model": "m", "messages": []})
    assert (answer.status, answer.body) == (int(status[:3]), body)
    assert answer.headers["retry-after"] == retry
    assert problems(answer, report(front.url), model="m") == set()


@pytest.mark.parametrize("status", ["999 Odd", "600 Odd"])
def test_a_status_beyond_http_is_an_error(backend: Backend, front: Running, status: str) -> None:
    """A status that no server can pass on is a signed 502, and its connection is given back."""
    backend.says(status, "application/json", ODD_JSON)
    answer = ask(front.url, {"model": "m", "messages": []})
    assert (answer.status, answer.document["error"]["code"]) == (502, "upstream_failed")
    assert problems(answer, report(front.url), model="m") == set()


def test_a_model_name_too_long_for_a_receipt_stays_here(backend: Backend, front: Running) -> None:
    """A name that no header could hold is refused with a receipt, and the backend is not asked."""
    asked = len(backend.requests)
    answer = ask(front.url, {"model": "n" * 100_000, "messages": []})
    assert (answer.status, answer.document["error"]["param"]) == (400, "model")
    assert problems(answer, report(front.url), model="") == set()
    assert len(backend.requests) == asked


def test_a_cut_answer_is_an_error(backend: Backend, front: Running) -> None:
    """A whole answer that breaks off, or never begins, is a signed error that says that the request had left."""
    backend.says("200 OK", "application/json", ODD_JSON, length=len(ODD_JSON) + 50)
    broken = ask(front.url, {"model": "m", "messages": []})

    async def nothing(writer: asyncio.StreamWriter) -> None:
        writer.close()

    backend.script = nothing
    for answer in (broken, ask(front.url, {"model": "m", "messages": []})):
        assert (answer.status, answer.document["error"]["code"]) == (502, "upstream_failed")
        assert problems(answer, report(front.url), model="m") == set()
        assert answer.receipt is not None
        forwarded = answer.receipt.receipt.body_hash("request.forwarded")
        assert forwarded == "sha256:" + hashlib.sha256(answer.request).hexdigest()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    ("status", "body", "whole"),
    [
        pytest.param(200, ODD_JSON, True, id="whole"),
        pytest.param(200, ODD_JSON[:-9], False, id="cut"),
        pytest.param(429, b'{"error":{"message":"slow down"}}', True, id="whole error"),
        pytest.param(429, b'{"error":{"mess', False, id="cut error"),
        pytest.param(200, b"", False, id="nothing"),
        pytest.param(200, b"[" * 100_000, False, id="deep"),
    ],
)
def test_what_only_the_end_of_the_connection_ends(
    backend: Backend, front: Running, version: str, status: int, body: bytes, whole: bool
) -> None:
    """An answer without a length passes when it is whole JSON; any other may have been cut, and is a signed error."""

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/{version} {status} X\r\ncontent-type: application/json\r\n\r\n".encode() + body)

    backend.script = script
    answer = ask(front.url, {"model": "m", "messages": []})
    assert problems(answer, report(front.url), model="m") == set()
    if whole:
        assert (answer.status, answer.body) == (status, body)
    else:
        assert (answer.status, answer.document["error"]["code"]) == (502, "upstream_failed")


@pytest.mark.parametrize(
    ("stream", "length"),
    [
        pytest.param(ODD_SSE[:120], 5000, id="connection lost"),
        pytest.param(ODD_SSE[:-14], None, id="no terminator"),
        pytest.param(ODD_SSE[:-3], None, id="inside an event"),
    ],
)
def test_a_cut_stream_is_cut(backend: Backend, front: Running, stream: bytes, length: int | None) -> None:
    """A stream that breaks off, or ends before its terminator, ends without receipt and without a proper end."""
    backend.says("200 OK", "text/event-stream", stream, length=length)
    with pytest.raises(httpx.RemoteProtocolError):
        ask(front.url, {"model": "m", "messages": [], "stream": True})

    async def without_length(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + stream)

    backend.script = without_length
    with pytest.raises(httpx.RemoteProtocolError):
        ask(front.url, {"model": "m", "messages": [], "stream": True})


def test_a_compressed_stream_is_refused(backend: Backend, front: Running) -> None:
    """Events cannot be told apart in a stream that the backend compressed unasked: a signed error says so."""
    backend.says("200 OK", "text/event-stream", gzip.compress(ODD_SSE), extra="content-encoding: gzip\r\n")
    answer = ask(front.url, {"model": "m", "messages": [], "stream": True}, chained=True)
    assert (answer.status, answer.document["error"]["code"]) == (502, "upstream_failed")
    assert problems(answer, report(front.url), model="m") == set()


@pytest.mark.parametrize("blank", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n"])
def test_a_stream_is_whole_however_its_lines_end(backend: Backend, front: Running, blank: bytes) -> None:
    """A blank line ends an event in each of its spellings, mixed ones too."""
    stream = b'data: {"id":"c"}' + blank + b"data: [DONE]\n\ndata: {}" + blank
    backend.says("200 OK", "text/event-stream", stream)
    answer = ask(front.url, {"model": "m", "messages": [], "stream": True})
    assert answer.body.startswith(stream + b"event: aci.receipt\n")


def test_a_long_event_is_searched_once() -> None:
    """An event that comes in many parts is looked through once, and a blank line cut by parts is found."""
    parts = [b"data: ", *[b"x" * 1000] * 2000, b"\r\n", b"\r", b"\n", b"data: [DONE]\n", b"\n"]

    class Response:
        async def aiter_raw(self) -> AsyncIterator[bytes]:
            for part in parts:
                yield part

        async def aclose(self) -> None:
            pass

    async def read() -> list[bytes]:
        return [chunk async for chunk in _BackendStream(Response()).chunks()]  # type: ignore[arg-type]

    began = time.process_time()
    chunks = asyncio.run(read())
    assert chunks == [b"".join(parts[:-2]), b"data: [DONE]\n\n"]
    assert time.process_time() - began < 5  # ten times as long when each part searches all before it


def streams_forever(backend: Backend) -> threading.Event:
    """Let `backend` stream without end; the event is set once its connection was closed."""
    gone = threading.Event()

    async def forever(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        event = b'data: {"id":"x"}\n\n'
        try:
            for _ in range(500):
                writer.write(b"%x\r\n%b\r\n" % (len(event), event))
                await writer.drain()
                await asyncio.sleep(0.01)
        except ConnectionError:
            gone.set()
            raise

    backend.script = forever
    return gone


def test_leaving_closes_the_backend(backend: Backend, front: Running) -> None:
    """When the client leaves a stream, the backend sees its connection close."""
    gone = streams_forever(backend)
    with (
        httpx.Client(trust_env=False) as client,
        client.stream("POST", f"{front.url}/v1/chat/completions", json={"model": "m", "stream": True}) as response,
    ):
        next(response.iter_raw())
        assert not gone.is_set()
    assert gone.wait(3)


def test_leaving_before_the_stream_began_closes_the_backend(backend: Backend) -> None:
    """A client that is gone as the first byte would leave for it holds no connection to the backend either."""
    gone = streams_forever(backend)
    parts = iter([{"type": "http.request", "body": b'{"model":"m","stream":true}', "more_body": False}])

    async def receive() -> dict[str, object]:
        return next(parts, None) or await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: object) -> None:
        raise ConnectionResetError

    async def run() -> None:
        source = BackendSource(backend.url, None, ("m",))
        await source.open()
        scope = {"type": "http", "path": "/v1/chat/completions", "method": "POST", "headers": []}
        with contextlib.suppress(ConnectionResetError):
            await Node(ephemeral(), source, fronts_backend=True)(scope, receive, send)
        assert await asyncio.to_thread(gone.wait, 3)  # and not because the source is closed
        await source.close()

    asyncio.run(run())


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/moderations"])
def test_a_stream_where_there_is_none_is_refused(backend: Backend, front: Running, path: str) -> None:
    """What has no terminator cannot be told to be whole: a signed error, and the backend's connection is closed."""
    gone = streams_forever(backend)
    answer = ask(front.url, {"model": "m", "input": "x"}, path)
    assert (answer.status, answer.document["error"]["code"]) == (502, "upstream_failed")
    assert problems(answer, report(front.url), model="m") == set()
    assert gone.wait(3)


def test_an_absent_backend(backend: Backend) -> None:
    """A backend that cannot be reached gives a signed 502, which forwarded nothing, and the node stays up."""
    with node("--backend", "http://127.0.0.1:9/v1", "--model-name", "m") as running:
        answer = ask(running.url, {"model": "m", "messages": []}, nonce=NONCE)
        assert (answer.status, json.loads(answer.body)["error"]["code"]) == (502, "upstream_failed")
        assert problems(answer, report(running.url), model="m") == set()
        assert answer.receipt is not None
        assert answer.receipt.receipt.body_hash("request.forwarded") is None


def test_a_backend_that_refuses_to_name_its_models(backend: Backend) -> None:
    """The start says which status came, not that the backend should be started."""
    backend.says("401 Unauthorized", "application/json", b'{"error":{"message":"no key"}}')
    process = start("--backend", backend.url)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out) == (2, "")
    assert "it answered 401; --backend-key-env" in errors


@pytest.mark.parametrize("body", [b"[" * 200_000, b"", b"[]", b'{"data":[5]}'], ids=["deep", "empty", "list", "number"])
def test_a_backend_that_names_its_models_oddly(backend: Backend, body: bytes) -> None:
    """What is no list of models is said, and what to do about it."""
    backend.says("200 OK", "application/json", body)

    async def run() -> None:
        source = BackendSource(backend.url, None, ())
        with pytest.raises(ConfigError, match=r"asking it for its models failed .*--model-name"):
            await source.open()
        await source.close()

    asyncio.run(run())


def test_no_own_model_is_loaded() -> None:
    """`--help` shows the examples; nothing heavy is needed for it."""
    process = start("--help")
    out, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert errors == ""
    assert "veriroute node --port 9001 --identity node.json" in out
