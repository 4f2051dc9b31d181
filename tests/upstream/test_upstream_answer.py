"""What a node may send, byte for byte: the reader without a socket."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.upstream.answer import AnswerReader
from gateway.upstream.errors import REASONS, AnswerRefused, ChannelClosed, ChannelError
from gateway.upstream.limits import Limits

LIMITS = Limits()
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


def read(data, *, step=0, limits=LIMITS, max_body=1 << 20, eof=None):
    """Feed `data` whole or cut every `step` bytes; returns the reader and the body."""
    reader = AnswerReader(limits, max_body)
    body = []
    for start in range(0, len(data), step or len(data)):
        if reader.done:
            reader.surplus = True  # the connection's rule: bytes behind the end, in a read of their own
            break
        reader.feed(data[start : start + (step or len(data))])
        body.append(reader.take())
    if eof is not None:
        reader.eof(clean=eof)
    return reader, b"".join(body)


def refused(data, reason, **how):
    """Assert that `data` is refused for `reason`, whole and byte by byte."""
    for step in (0, 1, 7) if len(data) < 5000 else (0, 4096):
        with pytest.raises(ChannelError) as caught:
            read(data, step=step, **how)
        assert caught.value.reason == reason, (step, caught.value)
        assert caught.value.sent


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (OK + b"Content-Length: 5\r\n\r\nhello", b"hello"),
        (OK + b"Content-Length: 0\r\n\r\n", b""),
        (OK + b"Content-Length:5 \r\n\r\nhello", b"hello"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (CHUNKED + b"005\r\nhello\r\n1\r\n!\r\n0\r\n\r\n", b"hello!"),
        (CHUNKED + b"5;name=value\r\nhello\r\n0\r\n\r\n", b"hello"),
        (OK + b"Transfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 200\r\nContent-Length: 5\r\nContent-Encoding: identity\r\n\r\nhello", b"hello"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    ],
)
@pytest.mark.parametrize("step", [0, 1, 3])
def test_d08_an_honest_answer_reads_the_same_however_it_is_cut(data, body, step):
    """Head and body come out the same for any cut of the bytes, and nothing is left over."""
    reader, got = read(data, step=step)
    assert got == body
    assert reader.done
    assert not reader.surplus
    assert reader.received == len(body)


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"zstd", b"gzip, gzip, gzip", b"identity, gzip", b""])
def test_e01_e02_e03_a_compressed_answer_is_refused_by_its_head(coding):
    """Nothing is ever inflated: any Content-Encoding but identity ends the answer before its body."""
    refused(OK + b"Content-Encoding: " + coding + b"\r\nContent-Length: 3\r\n\r\nabc", "content_encoding")


def test_e04_a_head_without_end_is_refused_at_the_cap():
    """A 4 MB header, and one that trickles, stop at 64 KiB."""
    refused(OK + b"X: " + b"a" * 4_000_000, "header_too_large")
    refused(OK + b"X: " + b"a" * 4_000_000 + b"\r\n\r\n", "header_too_large")
    refused(OK + b"a: b\r\n" * 20_000, "header_too_large")


def test_e04_too_many_fields_are_refused():
    """100 header fields pass, 101 do not."""
    fields = b"".join(b"x-%d: 1\r\n" % n for n in range(99))
    assert read(OK + fields + b"content-length: 0\r\n\r\n")[0].done
    refused(OK + fields + b"x: 1\r\ncontent-length: 0\r\n\r\n", "header_too_large")
    refused(OK + b"a: b\r\n" * 20_000 + b"\r\n", "header_too_large")


def test_e04_a_giant_chunk_extension_is_refused():
    """Chunk extensions, leading zeros and trailers share one allowance of 64 KiB."""
    refused(CHUNKED + b"5;" + b"x" * 1_000_000 + b"\r\nhello\r\n0\r\n\r\n", "bad_framing")
    refused(CHUNKED + b"0" * 200_000 + b"5\r\nhello\r\n0\r\n\r\n", "bad_framing")
    refused(CHUNKED + b"5\r\nhello\r\n0\r\nx: " + b"y" * 200_000 + b"\r\n\r\n", "bad_framing")
    refused(CHUNKED + b"1;" + b"x" * 400 + b"\r\na\r\n" + (b"1;" + b"x" * 400 + b"\r\na\r\n") * 300, "bad_framing")


@pytest.mark.parametrize("then", [b"0\r\nX-T: ", b"1;e="], ids=["trailer", "extension"])
def test_e04_small_chunks_pay_for_no_trailer(then):
    """What small chunks leave of their share of framing is not saved up: the allowance stays 64 KiB."""
    reader = AnswerReader(LIMITS, 1 << 20)
    reader.feed(CHUNKED + b"1\r\na\r\n" * 20_000)
    reader.feed(then + b"x" * (LIMITS.chunk_overhead - 16))
    with pytest.raises(AnswerRefused) as caught:
        reader.feed(b"x" * 17)
    assert caught.value.reason == "bad_framing"


def test_small_chunks_are_no_attack():
    """100,000 chunks of one byte need five times their size in framing and pass."""
    reader, body = read(CHUNKED + b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n", step=65536)
    assert body == b"a" * 100_000
    assert reader.done


@pytest.mark.parametrize(
    "line",
    [
        b"X: a\x00b",
        b"X: a\rb",
        b"X: a\nb",
        b"X: a\x1b[0m",
        b"X: a\r\n b",
        b"X: a\r\n\tb",
        b"X : a",
        b" X: a",
        b": a",
        b"X",
        b"X\xff: a",
        b"X(y): a",
    ],
)
def test_e05_a_malformed_header_line_is_refused(line):
    """NUL, bare CR or LF, escape codes, folded lines and bad names never reach anyone."""
    refused(OK + line + b"\r\nContent-Length: 0\r\n\r\n", "bad_framing")


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 3\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 3",
        b"Content-Length: 3\r\nContent-Length: 3",
        b"Content-Length: 3\r\nContent-Length: 4",
        b"Content-Length: 3, 3",
        b"Content-Length: +3",
        b"Content-Length: -3",
        b"Content-Length: 0x3",
        b"Content-Length: 3_0",
        b"Content-Length: 3.0",
        b"Content-Length:",
        b"Content-Length: 18446744073709551619",
    ],
)
def test_e06_ambiguous_lengths_are_refused(framing):
    """Length and coding together, two lengths, lists, signs, hex and overflow are all refused."""
    refused(OK + framing + b"\r\n\r\nabc", "bad_framing")


@pytest.mark.parametrize("size", [b"+3", b"-3", b"0x3", b"3_0", b" 3", b"g", b"", b"f" * 17])
def test_e06_a_malformed_chunk_size_is_refused(size):
    """Chunk sizes are hexadecimal digits and nothing else."""
    refused(CHUNKED + size + b"\r\nabc\r\n0\r\n\r\n", "bad_framing")


@pytest.mark.parametrize("ending", [b"3\nabc\n0\n\n", b"3\r\nabcXX0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n"])
def test_e06_chunks_end_where_they_say(ending):
    """Bare line feeds and chunks that are longer than their size are refused."""
    refused(CHUNKED + ending, "bad_framing")


@pytest.mark.parametrize(
    "coding",
    [
        b"chunked, chunked",
        b"gzip, chunked",
        b"chunked, gzip",
        b"gzip",
        b"identity",
        b"xchunked",
        b"chunked;q=1",
        b'"chunked"',
    ],
)
def test_e07_any_coding_but_exactly_chunked_is_refused(coding):
    """What the parser would read as chunked, or until the connection ends, is refused by its name."""
    refused(OK + b"Transfer-Encoding: " + coding + b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n", "bad_framing")


def test_e07_a_repeated_coding_is_refused():
    """Two Transfer-Encoding lines are refused, and chunked in HTTP/1.0."""
    refused(OK + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", "bad_framing")
    refused(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "bad_framing")


def test_e08_a_few_interim_answers_are_dropped_with_their_headers():
    """Eight 100s and 103s pass unseen; the headers of a 103 never show up in the final head."""
    early = b"HTTP/1.1 103 Early Hints\r\nx-receipt-id: forged\r\nset-cookie: a=b\r\n\r\n"
    for step in (0, 1, 50):
        reader, body = read(
            early * 4 + b"HTTP/1.1 100 Continue\r\n\r\n" * 4 + OK + b"Content-Length: 2\r\n\r\nhi", step=step
        )
        assert body == b"hi"
        assert reader.head.headers == [(b"content-length", b"2")]


def test_e08_a_flood_of_interim_answers_is_refused():
    """The ninth interim answer ends it, and 200,000 cost no more."""
    refused(b"HTTP/1.1 100 Continue\r\n\r\n" * 9 + OK + b"Content-Length: 0\r\n\r\n", "status")
    refused(b"HTTP/1.1 100 Continue\r\n\r\n" * 200_000, "status")
    refused((b"HTTP/1.1 103 X\r\nlink: " + b"x" * 15_000 + b"\r\n\r\n") * 8, "header_too_large")


@pytest.mark.parametrize("status", [b"101", b"102", b"199", b"999", b"600", b"099", b"000"])
def test_e08_e12_a_status_that_cannot_be_an_answer_is_refused(status):
    """101 and every status outside 200-599 but 100 and 103 is refused."""
    upgrade = b"Upgrade: x\r\nConnection: upgrade\r\n"
    refused(b"HTTP/1.1 " + status + b" X\r\nContent-Length: 0\r\n\r\n", "status")
    refused(b"HTTP/1.1 " + status + b" X\r\n" + upgrade + b"\r\n", "status")


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/2.0 200 OK",
        b"HTTP/1.2 200 OK",
        b"HTTP/0.9 200 OK",
        b"HTTP/1.10 200 OK",
        b"HTTP/1.1  200 OK",
        b"HTTP/1.1 2000 OK",
        b"HTTP/1.1 20 OK",
        b"HTTP/1.1",
        b"http/1.1 200 OK",
        b"ICE/1.0 200 OK",
        b"\r\nHTTP/1.1 200 OK",
        b"<html>hello</html>",
        b'{"choices":[]}',
    ],
)
def test_e12_anything_but_an_http_1_status_line_is_refused(line):
    """HTTP/2.0, HTTP/0.9 and answers without a head are refused, at once and not at a deadline."""
    refused(line + b"\r\nContent-Length: 0\r\n\r\n", "bad_framing")


def test_e12_a_head_with_bare_line_feeds_is_refused_at_its_first_line():
    """It would otherwise never be complete."""
    refused(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "bad_framing")


@pytest.mark.parametrize("status", [b"204", b"304"])
def test_e12_a_body_where_there_can_be_none_is_refused(status):
    """204 and 304 with a length, a coding, or bytes behind the head."""
    refused(b"HTTP/1.1 " + status + b" X\r\nContent-Length: 5\r\n\r\nhello", "status")
    refused(b"HTTP/1.1 " + status + b" X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "status")
    with pytest.raises(AnswerRefused, match="after the answer's end"):
        read(b"HTTP/1.1 " + status + b" X\r\n\r\nhello")


def test_e09_trailers_are_dropped():
    """Trailers named like a signature or a content type change nothing of the head."""
    trailers = b"x-signature: forged\r\ncontent-type: text/html\r\nset-cookie: a=b\r\n"
    for step in (0, 1, 5):
        reader, body = read(CHUNKED + b"2\r\nhi\r\n0\r\n" + trailers + b"\r\n", step=step)
        assert body == b"hi"
        assert reader.head.headers == [(b"transfer-encoding", b"chunked")]
        assert reader.done
    refused(CHUNKED + b"2\r\nhi\r\n0\r\ncontent-length: 9\r\n\r\n", "bad_framing")


def test_e10_an_answer_delimited_by_close_says_so():
    """Without length and coding the end of the connection is the end, flagged, never kept alive; a reset is a cut."""
    reader, body = read(OK + b"\r\nhello", step=3, eof=True)
    assert body == b"hello"
    assert reader.done
    assert reader.head.delimited_by_close
    assert not reader.head.keep_alive
    with pytest.raises(ChannelClosed) as caught:
        read(OK + b"\r\nhello", eof=False)
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "closed"),
        (OK, "closed"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "closed"),
        (OK + b"Content-Length: 10\r\n\r\nhello", "truncated"),
        (OK + b"Content-Length: 10\r\n\r\n", "truncated"),
        (CHUNKED + b"5\r\nhello\r\n", "truncated"),
        (CHUNKED + b"5\r\nhello\r\n0\r\n", "truncated"),
        (CHUNKED, "truncated"),
    ],
)
@pytest.mark.parametrize("clean", [True, False])
def test_e11_an_end_before_the_framings_own_is_a_cut(data, reason, clean):
    """Before a head the connection is `closed`, behind it the answer is `truncated`, closed or reset."""
    reader = AnswerReader(LIMITS, 1000)
    if data:
        reader.feed(data)
    with pytest.raises(ChannelClosed) as caught:
        reader.eof(clean=clean)
    assert caught.value.reason == reason


@pytest.mark.parametrize("junk", [b"x", b"\r\n", b"\n", b"0\r\n\r\n", b"HTML", b"H!", b"\x00" * 9])
@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
def test_e11_junk_behind_the_end_refuses_the_answer(junk, connection):
    """Bytes behind the declared end that are no second answer mean that the framing lied."""
    close = b"Connection: " + connection + b"\r\n"
    for message in (
        OK + close + b"Content-Length: 5\r\n\r\nhello",
        OK + close + b"Content-Length: 0\r\n\r\n",
        OK + close + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ):
        reader = AnswerReader(LIMITS, 1000)
        with pytest.raises(AnswerRefused) as caught:
            reader.feed(message + junk)
        assert caught.value.reason == "bad_framing"


@pytest.mark.parametrize(
    "second", [OK + b"Content-Length: 6\r\n\r\nforged", b"HTTP/1.1 500 X\r\n\r\n", b"HTTP/1.", b"HTT"]
)
def test_e17_a_second_answer_is_dropped_and_marked(second):
    """The first answer stays exactly itself; the surplus is flagged and none of it becomes body or header."""
    for first in (OK + b"Content-Length: 5\r\n\r\nhello", CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"):
        if b"chunked" in first and second == b"HTT":
            continue
        reader = AnswerReader(LIMITS, 1000)
        reader.feed(first + second)
        assert reader.take() == b"hello"
        assert reader.done
        assert reader.surplus
        assert reader.head.status == 200


def test_a_second_answer_behind_trailers_is_marked():
    """The end of a chunked body is behind its trailers, not before."""
    reader, body = read(CHUNKED + b"5\r\nhello\r\n0\r\na: b\r\n\r\n" + OK + b"Content-Length: 3\r\n\r\nbad")
    assert body == b"hello"
    assert reader.surplus


def test_d17_d18_a_body_beyond_the_cap_is_refused_however_it_is_framed():
    """A declared length is refused by the head alone, an undeclared one at the cap."""
    refused(OK + b"Content-Length: 1001\r\n\r\n", "too_large", max_body=1000)
    refused(CHUNKED + b"3e9\r\n" + b"x" * 1001 + b"\r\n", "too_large", max_body=1000)
    refused(OK + b"\r\n" + b"x" * 1001, "too_large", max_body=1000)
    assert read(OK + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000, max_body=1000)[0].done
    reader = AnswerReader(LIMITS, 1000)
    reader.feed(OK + b"Content-Length: 600\r\n\r\n")
    with pytest.raises(AnswerRefused):
        reader.check_cap(599)


def test_a_header_that_comes_with_two_values_has_none():
    """`get` gives a value only where it is unambiguous."""
    head = read(OK + b"X-A: 1\r\nX-a: 2\r\nX-B: 3\r\nx-b: 3\r\nContent-Length: 0\r\n\r\n")[0].head
    assert head.get(b"x-a") is None
    assert head.get(b"x-b") == b"3"
    assert head.get(b"x-c") is None
    assert repr(head) == "ResponseHead(200, 5 headers, length)"


@pytest.mark.parametrize(
    ("data", "keep"),
    [
        (OK + b"Content-Length: 0\r\n\r\n", True),
        (OK + b"Content-Length: 0\r\nConnection: keep-alive\r\n\r\n", True),
        (OK + b"Content-Length: 0\r\nConnection: Close\r\n\r\n", False),
        (OK + b"Content-Length: 0\r\nConnection: x, close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", False),
    ],
)
def test_only_an_http_1_1_answer_without_close_may_be_kept_alive(data, keep):
    """HTTP/1.0 and `close`, in any case and list, end the connection."""
    assert read(data)[0].head.keep_alive is keep


def test_every_reason_is_described_and_fits_its_error():
    """`REASONS` is the closed list: an unknown reason cannot be raised."""
    for reason, text in REASONS.items():
        assert str(ChannelError(reason)) == text
    assert str(ChannelError("closed", "detail")).endswith(": detail")
    with pytest.raises(KeyError):
        ChannelError("no such reason")


PARTS = st.sampled_from(
    [
        OK, b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 204 No\r\n", b"HTTP/1.0 200 OK\r\n",
        b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n", b"\r\n", b"hello", b"5\r\n",
        b"0\r\n", b"\r", b"\n", b":", b" ", b"\x00", b"ffffffff\r\n", b"a: b\r\n",
        b"Upgrade: x\r\nConnection: upgrade\r\n",
        b"HTTP/1.1 101 S\r\n",
    ]
)  # fmt: skip
STREAMS = st.one_of(
    st.lists(st.one_of(PARTS, st.binary(max_size=12)), max_size=24).map(b"".join),
    st.binary(max_size=300),
    st.lists(st.one_of(PARTS, st.binary(max_size=12)), max_size=24).map(lambda parts: CHUNKED + b"".join(parts)),
)


@settings(max_examples=250, deadline=None)
@given(STREAMS, st.lists(st.integers(1, 40), min_size=1, max_size=30), st.booleans())
def test_fuzz_any_bytes_in_any_cut_give_an_answer_or_our_error(data, cuts, clean):
    """Random streams never raise anything but our errors, never yield more than came, and always come to an end."""
    reader = AnswerReader(LIMITS, 4096)
    at = taken = 0
    error = None
    try:
        for cut in cuts * len(data):
            if at >= len(data) or reader.done:
                break
            reader.feed(data[at : at + cut])
            at += cut
            taken += len(reader.take())
        reader.eof(clean=clean)
    except ChannelError as caught:
        error = caught
    assert reader.done if error is None else (error.sent and error.reason in REASONS)
    assert taken <= len(data)


@settings(max_examples=100, deadline=None)
@given(STREAMS, st.integers(1, 20))
def test_fuzz_the_verdict_on_a_stream_does_not_depend_on_its_cuts(data, step):
    """An answer read whole and one read in pieces are the same answer, or both are refused or incomplete."""

    def outcome(step):
        reader = AnswerReader(LIMITS, 4096)
        body = b""
        try:
            for start in range(0, len(data), step):
                reader.feed(data[start : start + step])
                body += reader.take()
                if reader.done:
                    return (reader.head.status, reader.head.headers, body), bool(data[start + step :]) or reader.surplus
            reader.eof(clean=True)
        except ChannelError:
            return None, False
        return (reader.head.status, reader.head.headers, body), False

    (whole, _), (cut, surplus) = outcome(max(1, len(data))), outcome(step)
    # Junk in the same read as the end refuses the answer; in a read of its own it can only mark the connection.
    assert whole == cut or (whole is None and surplus)
