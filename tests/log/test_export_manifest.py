"""The manifest of an export, and the root of a range."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from receipt_world import World, small_world

from gateway.crypto.encoding import b64
from gateway.crypto.merkle import leaf_hash, subtree_root
from gateway.errors import FormatError
from gateway.log.dsse import wrap
from gateway.log.export import (
    ExportFile,
    Manifest,
    Range,
    RangeRoot,
    cover,
    cover_hashes,
    damaged_line,
    entry_line,
    format_manifest,
    parse_entry_line,
    parse_manifest,
)
from gateway.log.receipt import event_statement
from gateway.model.receipt import PAYLOAD_TYPE, instant

MANIFEST = Manifest(
    origin="veriroute.test/log",
    range=Range(0, 3),
    count=3,
    format="jsonl",
    time_created=instant(0),
    checkpoint="x",
    left=(),
    right=(b64(b"h" * 32),),
    files=(ExportFile("entries.jsonl", "ab" * 32, 10, 3),),
)


def test_a_manifest_reads_back():
    """What is formatted is parsed to equal values, under the wire's names."""
    data = format_manifest(MANIFEST)
    assert parse_manifest(data) == MANIFEST
    assert json.loads(data)["range"] == {"from": 0, "to": 3}
    assert MANIFEST.covers() == ([], [b"h" * 32])


def changed(**members: object) -> bytes:
    return json.dumps({**json.loads(format_manifest(MANIFEST)), **members}).encode()


def file(name: str) -> dict[str, object]:
    return {"name": name, "sha256": "ab" * 32, "bytes": 0, "count": 0}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        changed(mediaType="text/plain"),
        changed(range={"from": 4, "to": 3}),
        changed(range={"from": -1, "to": 3}),
        changed(files=[file("a"), file("a")]),
        changed(files=[file("../a")]),
        changed(files=[file("/etc/passwd")]),
        changed(files=[file(".hidden")]),
        changed(files=[file("a\x1b")]),
        changed(files=[file("")]),
        changed(format="xml"),
        changed(count=2**53 + 1),
        format_manifest(MANIFEST)[:-1] + b',"count":9}',
    ],
)
def test_a_malformed_manifest_is_a_format_error(data: bytes):
    """Another type, a range backwards, or a file name that leads elsewhere is refused."""
    with pytest.raises(FormatError):
        parse_manifest(data)


def test_a_cover_that_is_no_hash_is_refused():
    """Hashes in the manifest have 32 bytes."""
    with pytest.raises(FormatError):
        parse_manifest(changed(left=["AAAA"])).covers()


LEAVES = [leaf_hash(b"%d" % i) for i in range(70)]


def read(level: int, index: int) -> bytes:
    return subtree_root(LEAVES[index << level : (index + 1) << level])


@given(st.integers(0, 70).flatmap(lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))))
def test_a_range_and_its_covers_give_the_root(bounds: tuple[int, int, int]):
    """For every range of every tree, covers and leaves give the tree's root, and a range apart does not."""
    first, end, size = sorted(bounds[:2])[0], sorted(bounds[:2])[1], bounds[2]
    left = [read(*place) for place in cover(0, first)]
    right = [read(*place) for place in cover(end, size)]

    def root(leaves: list[bytes]) -> bytes:
        tree = RangeRoot(first, left)
        for value in leaves:
            tree.add(value)
        return tree.close(right, size)

    assert root(LEAVES[first:end]) == subtree_root(LEAVES[:size])
    if end - first > 1:
        assert root(LEAVES[first:end][::-1]) != subtree_root(LEAVES[:size])
    if end < size:
        with pytest.raises(FormatError):
            root(LEAVES[first : end + 1] + LEAVES)


def test_covers_must_fit():
    """Too few or too many hashes, or a size below what is there, is refused."""
    with pytest.raises(FormatError):
        RangeRoot(3, [LEAVES[0]])
    tree = RangeRoot(0, [])
    tree.add(LEAVES[0])
    with pytest.raises(FormatError):
        tree.close([], 0)
    assert cover_hashes(0, 3, read) == (b64(read(1, 0)), b64(LEAVES[2]))


def test_an_entry_becomes_a_line_and_its_leaf_again():
    """From the line of a stored envelope its leaf is computed, for every kind."""
    world, intent, receipt = small_world()
    for index in (0, intent, receipt):
        line = entry_line(world.envelopes[index])
        assert line is not None
        read_back = parse_entry_line(line[:-1])
        assert (read_back.leaf, read_back.kind) == (world.leaves[index], world.kinds[index])


@pytest.mark.parametrize(
    "stored", [None, b"", b"\xff\x00", b"{\n}", b'{"payload":1}', "\ud800".encode("utf-8", "surrogatepass")]
)
def test_k11_what_is_no_line_is_exported_as_damaged(stored: bytes | None):
    """A stored document that is missing or not one line of JSON keeps its bytes and its leaf."""
    world = World()
    world.add_start()
    assert stored is None or entry_line(stored) is None
    line = damaged_line(7, world.leaves[0], stored)
    assert line.count(b"\n") == 1
    read_back = parse_entry_line(line[:-1])
    assert (read_back.leaf, read_back.envelope) == (world.leaves[0], None)


def test_an_envelope_over_several_lines_is_not_put_on_one():
    """A pretty-printed envelope is valid and does not fit a line: its bytes go into the damaged form."""
    world = World()
    world.add_start()
    pretty = json.dumps(json.loads(world.envelopes[0]), indent=1).encode()
    assert entry_line(pretty) is None


def test_lines_that_are_neither_form_are_refused():
    """A line of another kind, or that is no statement, is a FormatError."""
    world = World()
    world.add("start", event_statement("start", None, {}).replace(b"veriroute:start", b"veriroute:other"))
    world.add("start", b"[]")
    for envelope in world.envelopes:
        with pytest.raises(FormatError):
            parse_entry_line(envelope)
    for line in (b"", b'{"veriroute":"other"}', b'{"veriroute":"damaged-entry","index":1,"leaf":"!","envelope":null}'):
        with pytest.raises(FormatError):
            parse_entry_line(line)


@pytest.mark.parametrize(
    "line",
    [
        b'{"veriroute":"damaged-entry","index":0,"leaf":"\xff","envelope":null}',
        b'{"veriroute":"damaged-entry","x":' + b"[" * 100_000,
        wrap(b'{"predicateType":"\xff"}', PAYLOAD_TYPE).envelope,
        wrap(b'{"x":' + b"[" * 100_000, PAYLOAD_TYPE).envelope,
    ],
    ids=["bad text", "deep", "bad text inside", "deep inside"],
)
def test_bad_text_and_endless_nesting_are_refused(line: bytes):
    """What the JSON library reports in other words than its own errors is a FormatError too."""
    with pytest.raises(FormatError):
        parse_entry_line(line)
