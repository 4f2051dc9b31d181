"""Event-stream framing by bytes."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError
from gateway.exchange.sse import Framer, format_event, parse_block

SAMPLE = (
    b"data: one\n\n: comment\n\nevent: x\ndata: two\n\nid: 7\ndata: three\n\ndata: a\ndata: b\n\n"
    b"data:tight\n\nretry: 5\n\ndata\n\n"
)


def blocks(data: bytes, *, max_event: int = 1000) -> list[tuple[bytes | None, bytes, bool]]:
    framer = Framer(max_event)
    return [(b.data, b.event, b.plain) for b in framer.feed(data)]


def test_reads_fields_by_the_rules() -> None:
    """data, event and comments are read as the standard says; only one-data-line blocks are plain."""
    assert blocks(SAMPLE) == [
        (b"one", b"", True),
        (None, b"", False),
        (b"two", b"x", True),
        (b"three", b"", False),
        (b"a\nb", b"", False),
        (b"tight", b"", False),
        (None, b"", False),
        (None, b"", False),
    ]


@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_other_line_ends_say_the_same_and_are_not_plain(end: bytes) -> None:
    """CRLF and CR end lines too; such blocks are re-written rather than passed on."""
    found = blocks(SAMPLE.replace(b"\n", end) + b"x" + end)
    assert [b[0] for b in found] == [b[0] for b in blocks(SAMPLE)]
    assert not any(b[2] for b in found)


def test_a_byte_order_mark_is_skipped() -> None:
    """A BOM at the start is not part of the first field name, and the block is not plain."""
    assert blocks(b"\xef\xbb\xbfdata: x\n\n") == [(b"x", b"", False)]


def test_a_cr_at_the_end_may_be_half_of_a_crlf() -> None:
    """Where a read ends in a CR, what follows decides where the block ends."""
    framer = Framer(1000)
    assert framer.feed(b"data: a\r\r") == []
    assert [block.raw for block in framer.feed(b"data: b\r\n\r")] == [b"data: a\r\r"]
    assert [block.raw for block in framer.feed(b"\n")] == [b"data: b\r\n\r\n"]


_LINE = st.lists(
    st.sampled_from([b"data", b"event", b"id", b": ", b":", b" ", b"x", b"\n", b"\xef\xbb\xbf", b"\xff"]), max_size=8
).map(b"".join)


@given(st.lists(_LINE, max_size=6))
@settings(max_examples=500, deadline=None)
def test_the_short_way_says_what_the_long_one_says(lines: list[bytes]) -> None:
    """Blocks of one line, read in passing, are what `parse_block` makes of them."""
    framer = Framer(1000)
    framer.feed(b": first\n\n")
    found = framer.feed(b"".join(line + b"\n\n" for line in lines))
    assert found == [parse_block(block.raw) for block in found]


_PIECES = st.sampled_from([b"\n", b"\n", b"\r", b"\r\n", b"data: x", b": c", b"event: e", b"x", b"\xef\xbb\xbf"])


@given(st.lists(_PIECES, max_size=40).map(b"".join) | st.just(SAMPLE), st.lists(st.integers(0, 9), max_size=60))
@settings(max_examples=1000, deadline=None)
@example(SAMPLE.replace(b"\n", b"\r\n"), [1] * 200)
@example(b"x\r\r\n\n\r\n\r\n\r\r\r\n\n\nx", [1] * 20)
def test_cutting_changes_nothing(data: bytes, cuts: list[int]) -> None:
    """Where the network cuts the stream makes no difference to its blocks, nor to what is unfinished."""
    whole, cut = Framer(1000), Framer(1000)
    expected = whole.feed(data)
    found, at = [], 0
    for length in [*cuts, len(data)]:
        found += cut.feed(data[at : at + length])
        at += length
    assert b"".join(block.raw for block in found) + cut.rest == data
    assert (found, cut.rest) == (expected, whole.rest)


@pytest.mark.parametrize("filler", [b"x", b"\nx", b"\rx", b"\r\nx"])
def test_a_long_event_in_many_reads_costs_its_length(filler: bytes) -> None:
    """Every further byte of an unfinished event costs the same, be ten bytes there already or two million."""

    def seconds(length: int) -> float:
        framer = Framer(1 << 22)
        framer.feed(b"data: " + filler * (length // len(filler)))
        begun = time.process_time()
        for _ in range(500):
            assert framer.feed(b"x") == []
        return time.process_time() - begun

    assert min(seconds(1 << 21) for _ in range(3)) < 50 * min(seconds(10) for _ in range(3))


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_byte_is_lost(data: bytes) -> None:
    """Raw blocks and the rest are the stream, whatever it holds."""
    framer = Framer(10_000)
    assert b"".join(b.raw for b in framer.feed(data)) + framer.rest == data


@pytest.mark.parametrize("data", [b"data: " + b"x" * 200, b"data: " + b"x" * 200 + b"\n\n"])
def test_an_event_over_the_limit_is_refused(data: bytes) -> None:
    """One event cannot take more memory than the limit, whether or not it ends."""
    with pytest.raises(FormatError, match="over the limit of 100"):
        Framer(100).feed(data)


@pytest.mark.parametrize("line", [b"data: x\n", b":\r", b"\rx"])
def test_an_event_of_very_many_lines_is_refused(line: bytes) -> None:
    """An event may have many lines, and not so many that to read them would hold up everything else."""
    few = Framer(1 << 20).feed(b"data: x" + line * 9_990 + b"x\n\n")
    assert few[0].raw == b"data: x" + line * 9_990 + b"x\n\n"
    with pytest.raises(FormatError, match="more than 10000 lines"):
        Framer(1 << 20).feed(b"data: x" + line * 10_001 + b"x\n\n")


def test_written_events_read_back() -> None:
    """What format_event writes is plain and says the same."""
    for data, event in ((b"{}", b""), (b"{}", b"name")):
        block = parse_block(format_event(data, event))
        assert (block.data, block.event, block.plain) == (data, event, True)
    assert parse_block(format_event(b"a\nb")).data == b"a\nb"


def test_a_carriage_return_at_the_end_waits() -> None:
    """A CR that ends a read may be half of a line end: the block comes with what follows, once."""
    framer = Framer(1000)
    assert framer.feed(b"data: x\r\n\r") == []
    assert [b.data for b in framer.feed(b"\ndata: y\r\n\r\n")] == [b"x", b"y"]


@pytest.mark.parametrize("block", [b"\n\n", b":\n\n", b": ping\n\n", b"\r\r", b"data: {}\n\n"])
def test_d19_short_blocks_without_end_are_refused(block: bytes) -> None:
    """10,000 keep-alives are taken, and as many more as longer events come with them; a flood of them is refused."""
    event = b"data: " + b"x" * 92 + b"\n\n"
    framer = Framer(1000)
    for _ in range(100):
        framer.feed(block * 100 + event * 50)
    for _ in range(1000):
        framer.feed(block + event)
    with pytest.raises(FormatError, match="events and comments in"):
        framer.feed(block * 40_000)
