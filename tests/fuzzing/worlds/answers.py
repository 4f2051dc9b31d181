"""What comes over the wire: a caller's request, a node's HTTP answer, its JSON, its stream of events."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from gateway.errors import BadRequest, FormatError
from gateway.exchange.answer import read_answer
from gateway.exchange.head import Head, parse_head
from gateway.exchange.stream import StreamReader, UpstreamError, Wire
from gateway.upstream.answer import AnswerReader
from gateway.upstream.errors import ChannelError
from gateway.upstream.limits import Limits

_ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
_WIRE = Wire(b"aci.receipt", b"aci.chain")
_REQUEST = (
    b'{"model":"m","messages":[{"role":"user","content":"2+2?"}],"stream":true,"n":1,"max_tokens":5,'
    b'"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"provider":{"policy":"signed"}}'
)
_CHAT = (
    b'{"id":"c1","object":"chat.completion","created":1764000000,"model":"m","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"4","tool_calls":[{"id":"t","type":"function","function":{"name":"f","arguments":'
    b'"{}"}}]},"finish_reason":"stop"}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}'
)
_RESPONSES = (
    b'{"id":"r","object":"response","model":"m","status":"completed","output":[{"type":"message","role":"assistant",'
    b'"content":[{"type":"output_text","text":"4"}]},{"type":"function_call","call_id":"t","name":"f","arguments":"{}"}]}'
)
_MESSAGES = (
    b'{"id":"m1","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"4"},'
    b'{"type":"tool_use","id":"t","name":"f","input":{}}],"stop_reason":"end_turn"}'
)
_STREAMS = (
    b'data: {"id":"c1","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":"4"}}]}\n\n'
    b'data: {"id":"c1","model":"m","choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"t","function":'
    b'{"name":"f","arguments":"{}"}}]}}]}\n\n: aci.chain 1 00\n\nevent: aci.receipt\ndata: {}\n\n'
    b'data: {"id":"c1","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n',
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"r","model":"m"}}\n\n'
    b'event: response.output_item.added\ndata: {"type":"response.output_item.added","output_index":0,"item":{"type":'
    b'"function_call","id":"i","call_id":"t","name":"f","arguments":""}}\n\n'
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"4"}\n\n'
    b'event: response.completed\ndata: {"type":"response.completed","response":{"id":"r","model":"m","output":[]}}\n\n',
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"m1","model":"m"}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"tool_use",'
    b'"id":"t","name":"f","input":{}}}\n\nevent: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"input_json_delta","partial_json":"{}"}}\n\nevent: content_block_stop\ndata: '
    b'{"type":"content_block_stop","index":0}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n',
)
_HTTP = (
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-type: text/plain\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nx: y\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
)


def _head(endpoint: str) -> Head:
    return Head(endpoint, "m", False, 1, frozenset({"f"}))


def _stream(endpoint: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        reader = StreamReader(_head(endpoint), _WIRE, b"salt", max_event=1 << 16)
        with suppress(UpstreamError, FormatError):
            for at in range(0, len(data), 97):
                reader.feed(data[at : at + 97])
            reader.finish()
        reader.observation()

    return read


def _answer(endpoint: str) -> Callable[[bytes], None]:
    return lambda data: read_answer(_head(endpoint), data) and None


def _http(data: bytes) -> None:
    reader, taken = AnswerReader(Limits(), 1 << 20), 0
    with suppress(ChannelError):
        for at in range(0, len(data), 61):
            reader.feed(data[at : at + 61])
            taken += len(reader.take())
            if reader.done:
                break
        reader.eof(clean=True)
    assert taken <= len(data)


def _request(endpoint: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        with suppress(BadRequest):
            parse_head(endpoint, data)

    return read


_READERS = (*map(_request, _ENDPOINTS), *map(_answer, _ENDPOINTS), *map(_stream, _ENDPOINTS), _http)
_ITEMS = ((0, _REQUEST), (1, _REQUEST), (2, _REQUEST), (3, _CHAT), (4, _RESPONSES), (5, _MESSAGES))
_ITEMS += tuple((6 + at, stream) for at, stream in enumerate(_STREAMS)) + tuple((9, one) for one in _HTTP)


def seeds() -> list[bytes]:
    """One item for each reader, behind the byte that `run` chooses it by."""
    return [bytes((kind,)) + item for kind, item in _ITEMS]


def run(data: bytes) -> None:
    """Read `data`. Each reader raises its own refusal or nothing."""
    _READERS[(data[0] if data else 0) % len(_READERS)](data[1:])
