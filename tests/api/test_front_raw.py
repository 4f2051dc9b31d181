"""The front under raw sockets: adversarial cases F01–F12, F16–F18 and F20–F25, variants written out byte by byte."""

from __future__ import annotations

import gzip
import select
import socket
import time
from collections.abc import Iterator

import msgspec
import pytest
from raw_front import Front, read_replies, wait_for

from gateway.api.limits import Limits

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\n"
JSON = b"Content-Type: application/json\r\n"
HIDDEN = b"GET /healthz HTTP/1.1\r\nHost: %HOST%\r\n\r\n"
QUICK = Limits(connections=48, header_s=0.5, idle_s=0.8, body_s=0.5, write_s=0.5, linger_s=0.3, body_rate=1 << 20)


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    with Front(QUICK) as running:
        yield running


def refused(front: Front, raw: bytes, *statuses: int) -> dict:
    """`raw` gets exactly one answer, an OpenAI-shaped error with one of `statuses`; the connection ends; no call."""
    before = len(front.app.calls)
    replies = front.exchange(raw.replace(b"%HOST%", front.host))
    assert len(replies) == 1, (replies.statuses, replies.rest[:200])
    (reply,) = replies
    assert reply.status in statuses
    assert replies.closed
    assert replies.rest == b""
    assert reply.headers[b"content-type"] == b"application/json"
    assert reply.headers[b"connection"] == b"close"
    assert {"message", "type", "param", "code"} <= set(reply.error)
    assert reply.error["code"]
    assert not any(name.startswith(b"access-control-") for name in reply.names)
    assert len(front.app.calls) == before
    return reply.error


def post(head: bytes, body: bytes = b"{}") -> bytes:
    return CHAT + b"Host: %HOST%\r\n" + JSON + head + b"\r\n" + body


SMUGGLED = b"0\r\n\r\n" + HIDDEN
F01 = {
    "cl_te": b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
    "te_cl": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "te_cl_zero": b"Transfer-Encoding: chunked\r\nContent-Length: 0\r\n",
    "two_cl": b"Content-Length: 5\r\nContent-Length: 6\r\n",
    "two_equal_cl": b"Content-Length: 5\r\nContent-Length: 5\r\n",
    "cl_list": b"Content-Length: 5, 5\r\n",
    "cl_plus": b"Content-Length: +5\r\n",
    "cl_hex": b"Content-Length: 0x10\r\n",
    "cl_underscore": b"Content-Length: 1_0\r\n",
    "cl_minus": b"Content-Length: -1\r\n",
    "cl_empty": b"Content-Length: \r\n",
    "cl_space_inside": b"Content-Length: 1 0\r\n",
    "cl_float": b"Content-Length: 5.0\r\n",
    "cl_exponent": b"Content-Length: 5e0\r\n",
    "cl_arabic_digit": b"Content-Length: \xd9\xa5\r\n",
    "cl_overflow": b"Content-Length: 18446744073709551621\r\n",
    "cl_2_to_63": b"Content-Length: 9223372036854775813\r\n",
    "cl_quoted": b'Content-Length: "5"\r\n',
    "cl_folded": b"Content-Length:\r\n 5\r\n",
    "cl_nul": b"Content-Length: 5\x00\r\n",
}


@pytest.mark.parametrize("name", F01)
def test_f01_a_request_with_two_readings_of_its_length_is_refused(front: Front, name: str) -> None:
    """Conflicting or malformed lengths get 400 and the hidden request behind them is not answered."""
    refused(front, post(F01[name], SMUGGLED), 400)


F02 = {
    "identity_chunked": b"Transfer-Encoding: identity, chunked\r\n",
    "identity": b"Transfer-Encoding: identity\r\n",
    "gzip_chunked": b"Transfer-Encoding: gzip, chunked\r\n",
    "chunked_gzip": b"Transfer-Encoding: chunked, gzip\r\n",
    "xchunked": b"Transfer-Encoding: xchunked\r\n",
    "chunkedx": b"Transfer-Encoding: chunkedx\r\n",
    "chunked_twice": b"Transfer-Encoding: chunked, chunked\r\n",
    "two_te": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
    "two_te_identity_first": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
    "vertical_tab": b"Transfer-Encoding: \x0bchunked\r\n",
    "nbsp": b"Transfer-Encoding: \xa0chunked\r\n",
    "empty": b"Transfer-Encoding: \r\n",
    "parameter": b"Transfer-Encoding: chunked;q=1\r\n",
    "trailing_comma": b"Transfer-Encoding: chunked,\r\n",
    "quoted": b'Transfer-Encoding: "chunked"\r\n',
    "space_colon": b"Transfer-Encoding : chunked\r\n",
    "folded": b"Transfer-Encoding:\r\n chunked\r\n",
}


@pytest.mark.parametrize("name", F02)
def test_f02_the_only_transfer_coding_is_chunked(front: Front, name: str) -> None:
    """Any other spelling of Transfer-Encoding gets 400 and the connection ends."""
    refused(front, post(F02[name], SMUGGLED), 400)


def test_f02_chunked_on_http_1_0_is_refused(front: Front) -> None:
    """HTTP/1.0 has no chunked coding, so its claim to one gets 400."""
    raw = post(b"Transfer-Encoding: chunked\r\n", b"2\r\n{}\r\n0\r\n\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")
    refused(front, raw, 400)


F03 = {
    "hex_prefix": b"0x2\r\n{}\r\n0\r\n\r\n",
    "underscore": b"0_2\r\n{}\r\n0\r\n\r\n",
    "plus": b"+2\r\n{}\r\n0\r\n\r\n",
    "minus": b"-2\r\n{}\r\n0\r\n\r\n",
    "overflow": b"ffffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    "overflow_to_two": b"10000000000000002\r\n{}\r\n0\r\n\r\n",
    "empty_size": b"\r\n{}\r\n0\r\n\r\n",
    "lf_only": b"2\n{}\n0\n\n",
    "lf_after_size": b"2\n{}\r\n0\r\n\r\n",
    "lf_after_data": b"2\r\n{}\n0\r\n\r\n",
    "wrong_terminator": b"2\r\n{}XX0\r\n\r\n",
    "short_size": b"1\r\n{}\r\n0\r\n\r\n",
    "lf_in_extension": b"2;a=\nb\r\n{}\r\n0\r\n\r\n",
    "cr_in_extension": b"2;a=\rb\r\n{}\r\n0\r\n\r\n",
    "space_before_size": b" 2\r\n{}\r\n0\r\n\r\n",
    "nul_in_size": b"2\x00\r\n{}\r\n0\r\n\r\n",
    "letters": b"zz\r\n{}\r\n0\r\n\r\n",
    "bad_last_line": b"2\r\n{}\r\n0\r\nX",
}


@pytest.mark.parametrize("name", F03)
def test_f03_a_malformed_chunk_is_400_and_never_500(front: Front, name: str) -> None:
    """Chunk framing that RFC 9112 does not know gets 400 before the application turns to a node."""
    body = F03[name] + (b": \x00\r\n\r\n" if name == "bad_last_line" else b"")
    refused(front, post(b"Transfer-Encoding: chunked\r\n", body), 400)


F04 = {
    "space_before_colon": b"X-A : 1\r\n",
    "leading_space": b" X-A: 1\r\n",
    "folded": b"X-A: 1\r\n 2\r\n",
    "empty_name": b": 1\r\n",
    "no_colon": b"X-A\r\n",
    "nul_in_value": b"X-A: a\x00b\r\n",
    "nul_in_name": b"X\x00A: 1\r\n",
    "bare_cr": b"X-A: a\rb\r\n",
    "bare_lf": b"X-A: a\nX-B: b\r\n",
    "escape": b"X-A: \x1b[2J\r\n",
    "delete": b"X-A: \x7f\r\n",
    "vertical_tab": b"X-A: a\x0bb\r\n",
    "name_high_byte": b"X-\xe9: 1\r\n",
    "name_parenthesis": b"X(A): 1\r\n",
    "name_bracket": b"X[A]: 1\r\n",
}


@pytest.mark.parametrize("name", F04)
def test_f04_header_lines_out_of_grammar_are_refused(front: Front, name: str) -> None:
    """A header line that RFC 9110 does not know gets 400."""
    refused(front, post(F04[name] + b"Content-Length: 2\r\n"), 400)


GET = b"GET /healthz HTTP/1.1\r\nHost: %HOST%\r\n\r\n"
F05 = {
    "no_host": (GET.replace(b"Host: %HOST%\r\n", b""), 400),
    "two_hosts": (GET.replace(b"Host: %HOST%", b"Host: %HOST%\r\nHost: %HOST%"), 400),
    "two_different_hosts": (GET.replace(b"Host: %HOST%", b"Host: %HOST%\r\nHost: evil"), 400),
    "empty_host": (GET.replace(b"%HOST%", b""), 400),
    "http_0_9": (b"GET /healthz\r\n\r\n", 400, 505),
    "http_2_7": (GET.replace(b"1.1", b"2.7"), 400, 505),
    "http_2_0": (GET.replace(b"1.1", b"2.0"), 400, 505),
    "http_1_2": (GET.replace(b"1.1", b"1.2"), 400, 505),
    "http_lower": (GET.replace(b"HTTP", b"http"), 400),
    "no_version": (GET.replace(b" HTTP/1.1", b" "), 400, 505),
    "lf_only": (GET.replace(b"\r\n", b"\n"), 400),
    "lower_post": (post(b"Content-Length: 2\r\n").replace(b"POST", b"post"), 400),
    "lower_get": (GET.replace(b"GET", b"get"), 400),
    "trace": (GET.replace(b"GET", b"TRACE"), 405),
    "connect": (GET.replace(b"GET /healthz", b"CONNECT 127.0.0.1:22"), 405),
    "connect_path": (GET.replace(b"GET", b"CONNECT"), 405, 400),
    "propfind": (GET.replace(b"GET", b"PROPFIND"), 405),
    "unknown_method": (GET.replace(b"GET", b"HACK"), 400),
    "tls_hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, 400),
}


@pytest.mark.parametrize("name", F05)
def test_f05_what_is_not_one_plain_http_1_1_request_is_refused(front: Front, name: str) -> None:
    """Missing or doubled Host, other versions and methods get a 4xx or 505 and reach nothing."""
    raw, *statuses = F05[name]
    refused(front, raw, *statuses)


F06 = {
    "two_authorization": b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
    "same_twice": b"Authorization: Bearer a\r\nAuthorization: Bearer a\r\n",
    "authorization_and_api_key": b"Authorization: Bearer a\r\napi-key: b\r\n",
    "authorization_and_x_api_key": b"x-api-key: b\r\nAuthorization: Bearer a\r\n",
    "two_api_keys": b"api-key: a\r\nx-api-key: a\r\n",
    "two_content_types": JSON,
    "two_origins": b"Origin: http://a\r\nOrigin: http://b\r\n",
}


@pytest.mark.parametrize("name", F06)
def test_f06_two_credentials_are_refused(front: Front, name: str) -> None:
    """A credential, type or origin that stands twice leaves a choice to the reader, and gets 400."""
    error = refused(front, post(F06[name] + b"Content-Length: 2\r\n"), 400)
    assert error["param"]


def test_f07_pipelined_requests_are_answered_in_order(front: Front) -> None:
    """Eight requests in one segment get eight answers, in the order they were asked."""
    raw = b"".join(front.request(body=b'{"user": %d}' % i) for i in range(8))
    replies = front.exchange(raw, 8)
    assert replies.statuses == [200] * 8
    assert [reply.body.split(b'"user": ')[1] for reply in replies] == [b"%d}" % i for i in range(8)]


def test_f07_a_refusal_stays_behind_the_answers_before_it(front: Front) -> None:
    """A malformed request behind two good ones is refused after their answers, not amid them."""
    raw = (
        front.request(body=b'{"user": 1}') + front.request(body=b'{"user": 2}') + b"BAD \x00\r\n\r\n" + front.request()
    )
    replies = front.exchange(raw)
    assert replies.statuses == [200, 200, 400]
    assert replies.closed


def test_f07_a_malformed_body_of_a_queued_request_is_refused_in_its_turn(front: Front) -> None:
    """The first request is answered, the second's bad chunk gets the one 400, and no node is called for it."""
    before = len(front.app.calls)
    bad = post(b"Transfer-Encoding: chunked\r\n", b"zz\r\n").replace(b"%HOST%", front.host)
    replies = front.exchange(front.request() + bad)
    assert replies.statuses == [200, 400]
    assert len(front.app.calls) == before + 1


def test_f07_a_flood_of_pipelined_requests_is_bounded(front: Front) -> None:
    """Beyond the limit of waiting requests the rest is turned away with 503."""
    replies = front.exchange(front.request(b"GET", b"/healthz") * 400)
    assert replies.closed
    assert replies.statuses[-1] == 503
    assert set(replies.statuses[:-1]) == {200}
    assert len(replies) <= QUICK.pipelined + 2


def test_f07_nothing_is_served_after_connection_close(front: Front) -> None:
    """A request behind one that said `Connection: close` is not answered."""
    raw = front.request(b"GET", b"/healthz", b"Connection: close") + front.request(b"GET", b"/healthz")
    replies = front.exchange(raw)
    assert replies.statuses == [200]
    assert replies.closed


def test_f08_an_expectation_is_met_once_and_its_silence_ends_in_408(front: Front) -> None:
    """`Expect: 100-continue` gets 100, then 408 when the body never comes."""
    replies = front.exchange(post(b"Expect: 100-continue\r\nContent-Length: 2\r\n", b"").replace(b"%HOST%", front.host))
    assert replies.statuses == [100, 408]
    assert replies.closed


def test_f08_http_1_0_gets_no_interim_answer(front: Front) -> None:
    """A client of HTTP/1.0 that expects 100-continue is answered once, when its body has come."""
    raw = post(b"Expect: 100-continue\r\nContent-Length: 2\r\n").replace(b"HTTP/1.1", b"HTTP/1.0")
    with front.connect() as sock:
        sock.sendall(raw.replace(b"%HOST%", front.host)[:-2])
        time.sleep(0.1)
        sock.sendall(b"{}")
        assert read_replies(sock).statuses == [200]


def test_f08_a_refused_request_is_not_asked_to_continue(front: Front) -> None:
    """Too large a declared body gets 413 at once, with no 100 before it."""
    refused(front, post(b"Expect: 100-continue\r\nContent-Length: 99000000000\r\n", b""), 413)


def test_f08_another_expectation_is_refused(front: Front) -> None:
    """The only expectation we can meet is 100-continue."""
    refused(front, post(b"Expect: 200-ok\r\nContent-Length: 2\r\n"), 400, 417)


@pytest.mark.parametrize("token", [b"h2c", b"websocket", b"TLS/1.2"])
def test_f09_an_upgrade_is_ignored(front: Front, token: bytes) -> None:
    """An Upgrade header changes nothing: both requests get HTTP/1.1 answers, and no 101."""
    upgrade = front.request(b"GET", b"/healthz", b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + token)
    replies = front.exchange(upgrade + front.request(b"GET", b"/healthz"), 2)
    assert replies.statuses == [200, 200]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("step", [1 << 20, 1])
def test_f09_an_upgrade_with_a_body_is_ignored(front: Front, chunked: bool, step: int) -> None:
    """A POST that asks for h2c, as some clients' every request does, is answered as the POST it is, body and all."""
    lines = [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAB"]
    raw = front.request(b"POST", b"/v1/chat/completions", *lines, body=b'{"user":7}')
    if chunked:
        raw = raw.replace(b"Content-Length: 10", b"Transfer-Encoding: chunked")
        raw = raw.replace(b'{"user":7}', b'a\r\n{"user":7}\r\n0\r\n\r\n')
    raw += front.request(body=b'{"user":8}')
    with front.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(0, len(raw), step):
            sock.sendall(raw[i : i + step])
        replies = read_replies(sock, 2)
    assert replies.statuses == [200, 200]
    assert [b'"user": 7' in replies[0].body, b'"user": 8' in replies[1].body] == [True, True]


def test_f09_an_upgrade_hides_no_second_request(front: Front) -> None:
    """The body of a request that asks for an upgrade is its body, never the next request."""
    lines = [b"Connection: Upgrade", b"Upgrade: websocket"]
    hidden = HIDDEN.replace(b"%HOST%", front.host)
    replies = front.exchange(front.request(b"POST", b"/v1/chat/completions", *lines, body=hidden))
    assert replies.statuses == [400]
    assert replies[0].error["param"] == "body"


@pytest.mark.parametrize(
    "coding", [b"identity", b"x", b"gzip, chunked", b"chunked, identity", b"chunked\r\nContent-Length: 2"]
)
def test_f09_an_upgrade_with_framing_out_of_grammar_is_refused(
    front: Front, coding: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It gets the one 400 that it gets without an upgrade, and nothing is logged as our failure."""
    head = b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: " + coding + b"\r\n"
    refused(front, post(head, SMUGGLED), 400)
    assert not caplog.records


def test_f09_a_malformed_upgrade_does_not_cut_the_exchange_before_it(front: Front) -> None:
    """The request under way is answered, and then the one behind it is refused."""
    head = b"Connection: Upgrade\r\nUpgrade: h2c\r\nTransfer-Encoding: identity\r\n"
    with front.connect() as sock:
        sock.sendall(front.request(b"GET", b"/wait"))
        time.sleep(0.1)
        sock.sendall(post(head).replace(b"%HOST%", front.host))
        replies = read_replies(sock)
    assert replies.statuses == [200, 400]
    assert replies[0].body == b'{"left": false}'


def test_f09_the_http_2_preface_is_refused(front: Front) -> None:
    """HTTP/2 with prior knowledge gets 505."""
    refused(front, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", 505)


F10 = {
    "double_slash": b"//v1/chat/completions",
    "inner_double_slash": b"/v1//chat/completions",
    "dot_dot": b"/v1/../admin",
    "dot": b"/v1/./chat/completions",
    "dot_dot_end": b"/v1/chat/completions/..",
    "encoded_slash": b"/v1%2fchat/completions",
    "encoded_slash_upper": b"/v1%2Fchat/completions",
    "encoded_dots": b"/v1/%2e%2e/admin",
    "half_encoded_dots": b"/v1/.%2e/admin",
    "encoded_letter": b"/v1/ch%61t/completions",
    "double_encoded": b"/v1/%252e%252e/admin",
    "encoded_nul": b"/v1/chat/completions%00",
    "encoded_newline": b"/v1/chat/completions%0d%0a",
    "encoded_backslash": b"/v1%5cchat",
    "overlong_utf8": b"/v1/%c0%ae%c0%ae/admin",
    "bad_escape": b"/v1/%zz",
    "cut_escape": b"/v1/%",
    "parameter": b"/v1/chat/completions;a=b",
    "encoded_semicolon": b"/v1/chat/completions%3ba=b",
    "backslash": b"/v1\\chat\\completions",
    "trailing_dot": b"/v1/chat/completions.",
    "trailing_slash": b"/v1/chat/completions/",
    "upper": b"/V1/CHAT/COMPLETIONS",
    "absolute": b"http://evil.example/v1/chat/completions",
    "absolute_ours": b"http://127.0.0.1/v1/chat/completions",
    "star": b"*",
    "no_slash": b"v1/chat/completions",
    "fragment": b"/v1/chat/completions#x",
    "high_byte": b"/v1/chat/completions\xff",
    "control": b"/v1/chat/completions\x01",
    "tab": b"/v1/chat\tcompletions",
    "quote": b'/v1/"chat"',
    "query_high_byte": b"/v1/chat/completions?\xff",
}


@pytest.mark.parametrize("name", F10)
def test_f10_a_path_has_one_spelling(front: Front, name: str) -> None:
    """Every other spelling of a path is 404 or 400, so that what is authorised is what is routed."""
    raw = CHAT.replace(b"/v1/chat/completions", F10[name]) + b"Host: %HOST%\r\n" + JSON + b"Content-Length: 2\r\n\r\n{}"
    refused(front, raw, 400, 404)


F11 = {
    "empty": b"",
    "not_json": b"hello",
    "array": b"[]",
    "string": b'"x"',
    "bom": b"\xef\xbb\xbf{}",
    "utf_16": '{"model":"m"}'.encode("utf-16"),
    "utf_32": '{"model":"m"}'.encode("utf-32-le"),
    "bad_utf_8": b'{"model":"\xff"}',
    "surrogate_bytes": b'{"model":"\xed\xa0\x80"}',
    "lone_surrogate": b'{"model":"\\ud800"}',
    "duplicate_key": b'{"model":"a","model":"b"}',
    "duplicate_key_escaped": b'{"model":"a","mod\\u0065l":"b"}',
    "nan": b'{"temperature":NaN}',
    "infinity": b'{"temperature":Infinity}',
    "huge_float": b'{"temperature":1e999}',
    "deep_array": b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "deep_object": b'{"a":' * 5000 + b"1" + b"}" * 5000,
    "long_integer": b'{"n":' + b"9" * 6000 + b"}",
    "two_documents": b"{}{}",
    "trailing_comma": b'{"a":1,}',
    "cut": b'{"model":"m"',
    "comment": b"{/**/}",
    "nul": b"{}\x00",
    "single_quotes": b"{'a':1}",
}


@pytest.mark.parametrize("name", F11)
def test_f11_a_body_that_is_not_one_strict_json_object_is_400(front: Front, name: str) -> None:
    """The error names the place, and nothing is forwarded."""
    body = F11[name]
    error = refused(front, post(b"Content-Length: %d\r\n" % len(body), body), 400)
    assert error["code"] == "bad_request"
    assert error["param"] == "body"


F12 = {
    "gzip": (b"Content-Encoding: gzip\r\n" + JSON, gzip.compress(b"{}")),
    "gzip_bomb": (b"Content-Encoding: gzip\r\n" + JSON, gzip.compress(b" " * (8 << 20))),
    "identity_coding": (b"Content-Encoding: identity\r\n" + JSON, b"{}"),
    "deflate": (b"Content-Encoding: deflate\r\n" + JSON, b"{}"),
    "multipart": (b"Content-Type: multipart/form-data; boundary=x\r\n", b"--x--\r\n"),
    "form": (b"Content-Type: application/x-www-form-urlencoded\r\n", b"a=1"),
    "text": (b"Content-Type: text/plain\r\n", b"{}"),
    "none": (b"", b"{}"),
    "utf_16": (b"Content-Type: application/json; charset=utf-16\r\n", b"{}"),
    "latin_1": (b"Content-Type: application/json; charset=iso-8859-1\r\n", b"{}"),
    "other_parameter": (b"Content-Type: application/json; boundary=x\r\n", b"{}"),
    "json_like": (b"Content-Type: application/jsonp\r\n", b"{}"),
    "json_list": (b"Content-Type: application/json, text/plain\r\n", b"{}"),
    "json_suffix": (b"Content-Type: application/vnd.api+json\r\n", b"{}"),
}


@pytest.mark.parametrize("name", F12)
def test_f12_a_body_is_plain_json_and_says_so(front: Front, name: str) -> None:
    """Encodings and other media types get 415, which names the header, without being read."""
    head, body = F12[name]
    raw = CHAT + b"Host: %HOST%\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    error = refused(front, raw, 415)
    assert error["param"] in error["message"].replace(" ", "-")


@pytest.mark.parametrize(
    "kind",
    [b"application/json", b"Application/JSON", b"application/json;charset=utf-8", b'application/json; charset="UTF-8"'],
)
def test_f12_json_in_utf_8_is_taken_in_its_spellings(front: Front, kind: bytes) -> None:
    """The media type is matched without case, with or without its one charset."""
    raw = post(b"Content-Length: 2\r\n").replace(b"application/json", kind).replace(b"%HOST%", front.host)
    assert front.exchange(raw, 1).statuses == [200]


@pytest.mark.parametrize(
    "header",
    [
        b"X-Forwarded-For: 10.0.0.1",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Host: evil.example",
        b"Forwarded: for=10.0.0.1;proto=https;host=evil.example",
        b"X-Real-IP: 10.0.0.1",
        b"x_forwarded_for: 10.0.0.1",
        b"x_forwarded_proto: https",
    ],
)
def test_f16_proxy_headers_mean_nothing(front: Front, header: bytes) -> None:
    """Client address, scheme and host are those of the connection."""
    assert front.exchange(front.request(b"GET", b"/healthz", header), 1).statuses == [200]
    scope = front.app.scopes[-1]
    assert scope["client"][0] == "127.0.0.1"
    assert scope["scheme"] == "http"
    assert scope["server"] == ("127.0.0.1", front.port)


def test_f16_trailers_do_not_join_the_headers(front: Front) -> None:
    """A credential in the trailer section of a chunked request is never seen by the application."""
    body = b"2\r\n{}\r\n0\r\nAuthorization: Bearer a\r\nHost: evil\r\n\r\n"
    raw = post(b"Transfer-Encoding: chunked\r\n", body).replace(b"%HOST%", front.host)
    assert front.exchange(raw, 1).statuses == [200]
    names = [name for name, _ in front.app.scopes[-1]["headers"]]
    assert b"authorization" not in names
    assert names.count(b"host") == 1


@pytest.mark.parametrize(
    "start", [b"", b"GET /", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: a\r\nX-A"]
)
def test_f17_headers_that_never_end_meet_their_deadline(front: Front, start: bytes) -> None:
    """A byte now and then does not extend the header deadline; where a request was begun the end is a 408."""
    begun = time.monotonic()
    with front.connect() as sock:
        sock.sendall(start)
        for _ in range(30):
            try:
                sock.sendall(b"\r\n" if not start else b"a")
            except OSError:
                break
            time.sleep(0.03)
        replies = read_replies(sock)
    assert replies.statuses == ([408] if start else [])
    assert replies.closed
    assert time.monotonic() - begun < 2.5


def test_f17_a_connection_on_which_nothing_is_sent_is_closed(front: Front) -> None:
    """Opening a connection and staying silent holds it for the header deadline only."""
    begun = time.monotonic()
    with front.connect() as sock:
        assert sock.recv(1) == b""
    assert 0.3 < time.monotonic() - begun < 2.5


def test_f17_a_kept_connection_is_closed_when_idle(front: Front) -> None:
    """After an answer the connection is kept for the idle time and then closed without a word."""
    with front.connect() as sock:
        sock.sendall(front.request())
        replies = read_replies(sock)
    assert replies.statuses == [200]
    assert replies.closed


@pytest.mark.parametrize("framing", [b"Content-Length: 100000\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_f17_a_dripping_body_meets_its_deadline(front: Front, framing: bytes) -> None:
    """A body of a byte now and then gets 408, and no node is called."""
    before = len(front.app.calls)
    begun = time.monotonic()
    with front.connect() as sock:
        sock.sendall(post(framing, b"").replace(b"%HOST%", front.host))
        for _ in range(40):
            try:
                sock.sendall(b"1\r\na\r\n" if b"chunked" in framing else b"a")
            except OSError:
                break
            time.sleep(0.03)
        replies = read_replies(sock)
    assert replies.statuses == [408]
    assert time.monotonic() - begun < 3
    assert len(front.app.calls) == before


def test_f17_slow_connections_leave_good_traffic_unharmed(front: Front) -> None:
    """With most of the connection limit held by silent clients, requests on another are answered at once."""
    socks = []
    try:
        for _ in range(QUICK.connections - 8):
            sock = socket.create_connection(("127.0.0.1", front.port), timeout=5)
            sock.sendall(b"GET /healthz HTTP/1.1\r\nX-")
            socks.append(sock)
        begun = time.monotonic()
        assert front.exchange(front.request(), 1).statuses == [200]
        assert time.monotonic() - begun < 0.5
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.parametrize("begun", [b"", b"GET /x", b"GET /x HTTP/1.1\r\nX-A: b\r\n"])
def test_f17_a_client_that_leaves_behind_a_request_is_noticed(front: Front, begun: bytes) -> None:
    """Whether or not it began a next request, its exchange ends within a moment of its going."""
    before = front.app.events.count("left")
    with front.connect() as sock:
        sock.sendall(front.request(b"GET", b"/wait") + begun)
        time.sleep(0.1)
        sock.shutdown(socket.SHUT_WR)
        time.sleep(0.05)
    wait_for(lambda: front.app.events.count("left") > before, 3)


@pytest.mark.parametrize("size", [70_000, 300_000, 1 << 20])
def test_f17_a_client_that_leaves_behind_a_large_body_is_noticed(front: Front, size: int) -> None:
    """However much of its body waited to be read when reading paused, its going is seen while the answer is made."""
    before = front.app.events.count("left")
    with front.connect() as sock:
        sock.sendall(front.request(b"POST", b"/wait", body=b" " * size))
        time.sleep(0.3)
    wait_for(lambda: front.app.events.count("left") > before, 1)


@pytest.mark.parametrize("begun", [b"", b"GET /x", b"GET /x HTTP/1.1\r\nX-A: b\r\n"])
def test_f17_a_client_that_shuts_its_sending_side_is_answered(front: Front, begun: bytes) -> None:
    """Whether or not it began a next request, the whole one before is served, and then the connection ends."""
    with front.connect() as sock:
        sock.sendall(front.request(b"GET", b"/wait") + begun)
        sock.shutdown(socket.SHUT_WR)
        replies = read_replies(sock)
    assert [status for status in replies.statuses if status != 100] == [200]
    assert replies[-1].body == b'{"left": false}'
    assert replies.closed


def test_f18_a_declared_giant_is_refused_before_it_is_read(front: Front) -> None:
    """99 GB declared gets 413 although no byte of it was sent."""
    refused(front, post(b"Content-Length: 99000000000\r\n", b""), 413)


def test_f18_a_body_is_refused_at_the_cap(front: Front) -> None:
    """40 MB in chunks get 413 at the application's cap; the answer survives the unread rest."""
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    before = len(front.app.calls)
    with front.connect() as sock:
        sock.sendall(post(b"Transfer-Encoding: chunked\r\n", b"").replace(b"%HOST%", front.host))
        sent = 0
        try:
            while sent < 40 << 20:
                sock.sendall(chunk)
                sent += 65536
        except OSError:
            pass
        replies = read_replies(sock)
    assert sent < 40 << 20
    assert replies.statuses in ([413], [])  # the reset of a client that sends on regardless may overtake the answer
    assert len(front.app.calls) == before


def test_f18_a_client_that_stops_to_listen_reads_its_413(front: Front) -> None:
    """A client that sends a little over the cap and then reads gets the 413, not a reset."""
    body = b" " * ((1 << 20) + 70_000)
    refused(front, post(b"Content-Length: %d\r\n" % len(body), body), 413)


def test_f18_an_answer_before_the_body_ends_the_connection(front: Front) -> None:
    """When the application answers without reading, the unread body is not taken for the next request."""
    raw = front.request(b"POST", b"/early", body=HIDDEN.replace(b"%HOST%", front.host))
    with front.connect() as sock:
        sock.sendall(raw[:-20])
        time.sleep(0.1)
        sock.sendall(raw[-20:] + front.request())
        replies = read_replies(sock)
    assert replies.statuses == [200]
    assert replies.closed


def test_f20_a_client_that_never_reads_is_cut_at_the_write_deadline() -> None:
    """The application's `send` raises, its stream ends, and the connection is gone from the watch."""
    with Front(QUICK) as front:
        with front.connect(receive_buffer=4096) as sock:
            sock.sendall(front.request(b"GET", b"/endless"))
            wait_for(lambda: front.app.events, 8)
            assert front.app.events == ["gone"]
            assert front.watch.counts["cut"] == 1
        wait_for(lambda: not front.watch.connections)


def test_f20_a_slow_reader_that_makes_progress_is_kept(front: Front) -> None:
    """A client that reads steadily, if slowly, is not cut within several write deadlines."""
    before = len(front.app.events)
    with front.connect(receive_buffer=65536) as sock:
        sock.sendall(front.request(b"GET", b"/endless"))
        end = time.monotonic() + 4 * QUICK.write_s
        total = 0
        while time.monotonic() < end:
            total += len(sock.recv(65536))
            time.sleep(0.01)
        assert total > 1 << 20
        assert len(front.app.events) == before
    wait_for(lambda: len(front.app.events) > before)


@pytest.mark.parametrize("header", [(), (b"Connection: close",)])
def test_f20_a_slow_reader_gets_all_of_a_large_answer(front: Front, header: tuple[bytes, ...]) -> None:
    """A client that takes far more than `write_rate` is cut neither between two gulps of the kernel nor at the end."""
    got, begun = 0, time.monotonic()
    with front.connect(receive_buffer=8192) as sock:
        sock.sendall(front.request(b"GET", b"/large", *header))
        while got < 600_002 and (data := sock.recv(4096)):
            got += len(data)
            time.sleep(max(0.0, begun + got / 200_000 - time.monotonic()))
    assert got > 600_002  # the head besides


def test_f20_a_client_that_leaves_ends_the_stream(front: Front) -> None:
    """Closing the connection makes the application's next `send` raise."""
    before = len(front.app.events)
    with front.connect() as sock:
        sock.sendall(front.request(b"GET", b"/endless"))
        sock.recv(1000)
    wait_for(lambda: len(front.app.events) > before)
    assert front.app.events[-1] == "gone"


def test_f20_an_unfinished_answer_is_cut_without_its_terminator(front: Front) -> None:
    """When the application returns early the body ends without the zero chunk, so no client takes it for whole."""
    with front.connect() as sock:
        sock.sendall(front.request(b"GET", b"/cut"))
        data = b""
        while piece := sock.recv(65536):
            data += piece
    assert data.count(b"data: ") == 2
    assert not data.endswith(b"0\r\n\r\n")


def read_cut(front: Front, sock: socket.socket) -> None:
    """Ask for an answer that is cut, and read until its last event is whole."""
    sock.sendall(front.request(b"GET", b"/cut"))
    data = b""
    while not (data.count(b"data: ") == 2 and data.endswith(b"\n\n\r\n")):
        piece = sock.recv(65536)
        assert piece
        data += piece


def test_f20_a_cut_answer_ends_a_moment_behind_its_last_event(front: Front) -> None:
    """`fetch` loses the events that its reader has not taken when the end comes, so it comes later, and as no reset."""
    calls = len(front.app.calls)
    with front.connect() as sock:
        read_cut(front, sock)
        sock.sendall(front.request())
        sock.settimeout(QUICK.cut_s / 2)
        with pytest.raises(TimeoutError):
            sock.recv(1)
        sock.settimeout(5)
        assert sock.recv(1) == b""
    assert len(front.app.calls) == calls


def test_f20_neither_a_client_that_has_read_why_nor_a_stop_waits_for_the_end_of_a_cut_answer() -> None:
    """A client that hangs up is forgotten at once, and a server that stops ends the connection."""
    with Front(msgspec.structs.replace(QUICK, cut_s=60.0)) as front:
        with front.connect() as sock:
            read_cut(front, sock)
            assert front.watch.connections
        wait_for(lambda: not front.watch.connections, 1)
        with front.connect() as last:
            read_cut(front, last)
            front.server.should_exit = True
            assert last.recv(1) == b""


@pytest.mark.parametrize("method", [b"GET", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"HEAD"])
def test_f21_other_methods_are_refused_without_effect(front: Front, method: bytes) -> None:
    """Only POST reaches the chat endpoint; HEAD is answered without a body."""
    before = len(front.app.calls)
    with front.connect() as sock:
        sock.sendall(front.request(method, b"/v1/chat/completions"))
        head, _, body = b"".join(iter(lambda: sock.recv(65536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert (body == b"") == (method == b"HEAD")
    assert len(front.app.calls) == before


def test_f21_head_is_answered_with_the_length_and_no_body(front: Front) -> None:
    """HEAD on a readable path says the length that GET would have, and keeps the connection in step."""
    with front.connect() as sock:
        sock.sendall(front.request(b"HEAD", b"/healthz") + front.request(b"GET", b"/healthz"))
        data = b"".join(iter(lambda: sock.recv(65536), b""))
    assert data.count(b"HTTP/1.1 200 OK") == 2
    assert data.count(b'{"ok": true}') == 1


F22 = {
    "many_headers": (b"".join(b"X-%d: 1\r\n" % i for i in range(5000)), 431),
    "101_headers": (b"".join(b"X-%d: 1\r\n" % i for i in range(101)), 431),
    "one_large_header": (b"X-A: " + b"a" * 65536 + b"\r\n", 431),
    "large_name": (b"a" * 65536 + b": 1\r\n", 431),
    "just_over": (b"X-A: " + b"a" * 16384 + b"\r\n", 431),
    "one_megabyte": (b"X-A: " + b"a" * (1 << 20) + b"\r\n", 431),
    "many_trailers": (None, 431),
}


@pytest.mark.parametrize("name", F22)
def test_f22_header_sections_are_bounded(front: Front, name: str) -> None:
    """Too many or too large headers get 431."""
    head, status = F22[name]
    if head is None:
        body = b"2\r\n{}\r\n0\r\n" + b"".join(b"X-%d: 1\r\n" % i for i in range(101)) + b"\r\n"
        refused(front, post(b"Transfer-Encoding: chunked\r\n", body), status)
    else:
        refused(front, post(head + b"Content-Length: 2\r\n"), status)


def test_f22_a_head_that_begins_behind_another_request_is_counted_whole(front: Front) -> None:
    """Two thirds of a head that is too large come in the segment that ends the body before it: 200, then 431."""
    small = front.request()
    large = front.request(b"GET", b"/healthz", b"X-A: " + b"a" * 12_000, b"X-B: " + b"b" * 6_000)
    cut = large.index(b"X-B")
    with front.connect() as sock:
        for part in (small[:-1], small[-1:] + large[:cut], large[cut:]):
            sock.sendall(part)
            time.sleep(0.05)
        replies = read_replies(sock)
    assert replies.statuses == [200, 431]


def test_f22_a_header_that_never_ends_is_refused_by_size(front: Front) -> None:
    """64 KiB of one header value, sent in pieces and never finished, get 431 before the deadline."""
    with front.connect() as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nX-A: ")
        try:
            for _ in range(16):
                sock.sendall(b"a" * 4096)
                time.sleep(0.002)
        except OSError:
            pass
        replies = read_replies(sock)
    assert replies.statuses == [431]


ENDLESS = {
    "trailer": b"0\r\nX-A: ",
    "trailer_name": b"0\r\n",
    "many_lines": b"0\r\n" + b"X-A: a\r\n" * 50 + b"X-B: ",
    "extension": b"2;",
    "chunk_size": b"0",
}


@pytest.mark.parametrize("name", ENDLESS)
@pytest.mark.parametrize("size", [2, 128_000])
def test_f22_framing_that_never_ends_is_refused_by_size(front: Front, name: str, size: int) -> None:
    """A trailer or chunk extension that goes on gets a refusal after a few bytes, however large the body before it."""
    body = b'{"user": "%b"}' % (b"x" * size)
    before = len(front.app.calls)
    with front.connect() as sock:
        sock.sendall(post(b"Transfer-Encoding: chunked\r\n", b"").replace(b"%HOST%", front.host))
        sock.sendall(b"%x\r\n%b\r\n" % (len(body), body) + ENDLESS[name])
        for _ in range(100):
            if select.select([sock], [], [], 0.002)[0]:
                break
            sock.sendall(b"0" * 4096)
        replies = read_replies(sock)
    assert replies.statuses == [431]
    assert "16384 bytes" in replies[0].error["message"]
    assert len(front.app.calls) == before


def test_f22_a_long_chunk_extension_in_one_write_is_refused(front: Front) -> None:
    """300 kB of an extension are refused by their size, whatever segments they come in."""
    refused(front, post(b"Transfer-Encoding: chunked\r\n", b"2;" + b"a" * 300_000 + b"\r\n{}\r\n0\r\n\r\n"), 400, 431)


def test_f22_many_small_chunks_and_a_trailer_are_served(front: Front) -> None:
    """Chunks of one byte with their extensions, sent one by one, and a trailer of 10 kB are no offence."""
    chunks = [b"1;a=%b\r\n%c\r\n" % (b"b" * 300, byte) for byte in b'{"user": "%b"}' % (b"x" * 90)]
    with front.connect() as sock:
        sock.sendall(post(b"Transfer-Encoding: chunked\r\n", b"").replace(b"%HOST%", front.host))
        for part in (*chunks, b"0\r\nX-A: ", *[b"a" * 1000] * 10, b"\r\n\r\n"):
            sock.sendall(part)
        replies = read_replies(sock, 1)
    assert replies.statuses == [200]


@pytest.mark.parametrize("cut", [b"GET ", b"Content-Type", b"xxxx"])
def test_f22_large_pipelined_bodies_do_not_count_for_the_next_request(front: Front, cut: bytes) -> None:
    """Two large bodies and the beginning of a third request in one write are three good requests."""
    large = front.request(body=b'{"user": "%b"}' % (b"x" * 60_000))
    last = front.request(b"GET", b"/healthz") if cut == b"GET " else large
    raw, at = large * 2 + last, 2 * len(large) + last.index(cut) + 4
    with front.connect() as sock:
        for part in (raw[:at], raw[at:]):
            sock.sendall(part)
            time.sleep(0.1)
        replies = read_replies(sock, 3)
    assert replies.statuses == [200, 200, 200]


@pytest.mark.parametrize("size", [8193, 65536, 1 << 20])
def test_f22_a_long_uri_is_414(front: Front, size: int) -> None:
    """A request URI over 8 KiB gets 414."""
    refused(front, GET.replace(b"/healthz", b"/healthz?" + b"a" * size), 414, 431)


def test_f22_what_is_within_the_bounds_is_served(front: Front) -> None:
    """A hundred headers and a header of 12 KiB are no offence."""
    lines = [b"X-%d: 1" % i for i in range(97)]
    assert front.exchange(front.request(b"GET", b"/healthz", *lines), 1).statuses == [200]
    assert front.exchange(front.request(b"GET", b"/healthz", b"X-A: " + b"a" * 12288), 1).statuses == [200]


F23 = {
    "simple_post": (b"Origin: https://evil.example\r\nContent-Type: text/plain\r\n", b"POST", 403, 415),
    "json_post": (b"Origin: https://evil.example\r\n" + JSON, b"POST", 403),
    "null_origin": (b"Origin: null\r\n" + JSON, b"POST", 403),
    "other_local_port": (b"Origin: http://127.0.0.1:1\r\n" + JSON, b"POST", 403),
    "prefix_of_ours": (b"Origin: http://%HOST%.evil.example\r\n" + JSON, b"POST", 403),
    "other_scheme": (b"Origin: https://%HOST%\r\n" + JSON, b"POST", 403),
    "empty_origin": (b"Origin: \r\n" + JSON, b"POST", 403),
    "extension": (b"Origin: chrome-extension://abc\r\n" + JSON, b"POST", 403),
    "preflight": (
        b"Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n"
        b"Access-Control-Request-Headers: authorization, content-type\r\n",
        b"OPTIONS",
        403,
    ),
    "private_network_preflight": (
        b"Origin: https://evil.example\r\nAccess-Control-Request-Private-Network: true\r\n",
        b"OPTIONS",
        403,
    ),
    "get": (b"Origin: https://evil.example\r\n", b"GET", 403),
}


@pytest.mark.parametrize("name", F23)
def test_f23_pages_of_other_origins_get_nothing(front: Front, name: str) -> None:
    """A foreign page is refused and no CORS header is ever sent."""
    head, method, *statuses = F23[name]
    raw = CHAT.replace(b"POST", method) + b"Host: %HOST%\r\n" + head
    refused(front, raw + (b"Content-Length: 2\r\n\r\n{}" if method == b"POST" else b"\r\n"), *statuses)


def test_f23_our_own_pages_are_served(front: Front) -> None:
    """The origin that equals the Host header is ours."""
    replies = front.exchange(front.request(b"GET", b"/healthz", b"Origin: http://" + front.host), 1)
    assert replies.statuses == [200]
    assert not any(name.startswith(b"access-control-") for name in replies[0].names)


F24 = {
    "foreign": b"evil.example",
    "foreign_our_port": b"evil.example:%PORT%",
    "other_port": b"127.0.0.1:1",
    "no_port": b"127.0.0.1",
    "suffix": b"localhost.evil.example:%PORT%",
    "trailing_dot": b"localhost.:%PORT%",
    "user": b"localhost@evil.example:%PORT%",
    "short_loopback": b"127.1:%PORT%",
    "decimal_loopback": b"2130706433:%PORT%",
    "zero": b"0.0.0.0:%PORT%",
    "list": b"127.0.0.1:%PORT%, evil.example",
    "port_zero_padded": b"127.0.0.1:0%PORT%",
    "port_plus": b"127.0.0.1:+%PORT%",
    "two_ports": b"127.0.0.1:%PORT%:%PORT%",
    "path": b"127.0.0.1:%PORT%/x",
    "bare_ipv6": b"::1",
}


@pytest.mark.parametrize("name", F24)
def test_f24_a_foreign_host_is_misdirected(front: Front, name: str) -> None:
    """A Host that is not one of ours gets 421, which ends DNS rebinding."""
    host = F24[name].replace(b"%PORT%", b"%d" % front.port)
    refused(front, GET.replace(b"%HOST%", host), 421)


@pytest.mark.parametrize("host", [b"127.0.0.1", b"localhost", b"LOCALHOST", b"[::1]"])
def test_f24_loopback_names_with_the_port_are_ours(front: Front, host: bytes) -> None:
    """The loopback names are served with the port that is listened on."""
    raw = GET.replace(b"%HOST%", host + b":%d" % front.port)
    assert front.exchange(raw, 1).statuses == [200]


def test_f25_cookies_authenticate_nobody(front: Front) -> None:
    """A page that reads receipts without a key gets 401, whatever cookies the browser adds; none is ever set."""
    path = b"/v1/receipts/01ARZ3NDEKTSV4RRFFQ69G5FAV"
    replies = front.exchange(front.request(b"GET", path, b"Cookie: session=a; api-key=b; Authorization=Bearer c"))
    assert replies.statuses == [401]
    assert replies[0].error["code"] == "invalid_key"
    assert b"set-cookie" not in replies[0].names


def test_an_application_error_is_an_openai_shaped_500_without_detail(front: Front) -> None:
    """What went wrong stands in the log; the caller gets `internal_error` and is told not to retry."""
    replies = front.exchange(front.request(b"GET", b"/boom"))
    assert replies.statuses == [500]
    assert replies[0].error["code"] == "internal_error"
    assert replies[0].headers[b"x-should-retry"] == b"false"
    assert b"caller's business" not in replies[0].body


def test_f19_connections_beyond_the_limit_are_turned_away_and_none_leaks() -> None:
    """The limit holds, what is beyond it reads 503, and every descriptor comes back."""
    limits = Limits(connections=8, header_s=5)
    with Front(limits) as front:
        held = [socket.create_connection(("127.0.0.1", front.port), timeout=5) for _ in range(8)]
        wait_for(lambda: len(front.watch.connections) == 8)
        for _ in range(200):
            with front.connect() as sock:
                replies = read_replies(sock)
                assert replies.closed
                assert replies.statuses == [503]
                assert replies[0].headers[b"retry-after"] == b"1"
        assert len(front.watch.connections) == 8
        for sock in held:
            sock.close()
        wait_for(lambda: not front.watch.connections)
        assert front.exchange(front.request(), 1).statuses == [200]
