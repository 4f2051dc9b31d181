"""Tiles and bundles: paths with one spelling, widths that exist, bytes that read back."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError
from gateway.log.tiles import (
    ENTRIES,
    Tile,
    available_width,
    decode_bundle,
    decode_tile,
    encode_bundle,
    encode_tile,
    parse_tile_path,
    tile_path,
    tiles_at,
)

PATHS = [
    (Tile(0, 0), "tile/0/000"),
    (Tile(ENTRIES, 0, 1), "tile/entries/000.p/1"),
    (Tile(0, 999), "tile/0/999"),
    (Tile(0, 1000), "tile/0/x001/000"),
    (Tile(63, 1234067, 255), "tile/63/x001/x234/067.p/255"),
    (Tile(1, 2**63 - 1), "tile/1/x009/x223/x372/x036/x854/x775/807"),
]


@pytest.mark.parametrize(("tile", "path"), PATHS)
def test_a_tile_has_one_path(tile, path):
    """Path and tile lead to each other."""
    assert tile_path(tile.level, tile.index, tile.width) == path
    assert parse_tile_path(path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0",
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/0/x000/000",
        "tile/0/001/000",
        "tile/0/x001",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p",
        "tile/0/000/",
        "/tile/0/000",
        "tile/0/../000",
        "tile/Entries/000",
        "tile/0/٠٠٠",
        "tile/0/000\n",
        "tile/0/x009/x223/x372/x036/x854/x775/808",
        "tile/0/x001/x000/x000/x000/x000/x000/x000/000",
    ],
)
def test_other_spellings_are_no_paths(path):
    """Levels, groups and widths that are out of range or spelled otherwise are refused."""
    with pytest.raises(FormatError):
        parse_tile_path(path)


@pytest.mark.parametrize(
    ("level", "index", "width"), [(-2, 0, 1), (64, 0, 1), (0, -1, 1), (0, 2**63, 1), (0, 0, 0), (0, 0, 257)]
)
def test_there_are_no_such_tiles(level, index, width):
    """A tile out of range has no path."""
    with pytest.raises(FormatError, match="there is no tile"):
        tile_path(level, index, width)


def test_a_size_has_exactly_its_tiles():
    """The resources of a log of 70,000 leaves are those that the specification counts, and an empty log has none."""
    tiles = list(tiles_at(70_000))
    assert [tile for tile in tiles if tile.width < 256] == [
        Tile(ENTRIES, 273, 112),
        Tile(0, 273, 112),
        Tile(1, 1, 17),
        Tile(2, 0, 1),
    ]
    assert len(tiles) == 273 + 1 + 273 + 1 + 1 + 1 + 1
    assert list(tiles_at(256)) == [Tile(ENTRIES, 0), Tile(0, 0), Tile(1, 0, 1)]
    assert list(tiles_at(0)) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 200_000))
def test_widths_agree_with_the_list_of_tiles(size):
    """`available_width` gives each listed tile its width, and nothing past the last."""
    tiles = list(tiles_at(size))
    assert all(available_width(tile.level, tile.index, size) == tile.width for tile in tiles)
    for level in (ENTRIES, 0, 1, 2, 3):
        past = sum(tile.level == level for tile in tiles)
        assert available_width(level, past, size) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=20))
def test_bundles_read_back(entries):
    """A bundle of any entries, empty ones among them, reads back."""
    assert decode_bundle(encode_bundle(entries), len(entries)) == tuple(entries)


def test_bundles_reach_both_ends_of_their_length():
    """An entry may be empty or 65,535 bytes long, and a bundle holds 256 of them."""
    entries = (b"", bytes(65_535), *[b"x"] * 254)
    assert decode_bundle(encode_bundle(entries), 256) == entries
    assert encode_bundle([b"ab", b""]) == b"\0\2ab\0\0"


@pytest.mark.parametrize("entries", [[], [b""] * 257, [bytes(65_536)]])
def test_refuses_to_write_impossible_bundles(entries):
    """No entries, too many, or one too long make no bundle."""
    with pytest.raises(FormatError, match="a bundle has"):
        encode_bundle(entries)


@pytest.mark.parametrize(
    ("data", "width", "message"),
    [
        (b"", 1, "ends within entry 0 of 1"),
        (b"\0", 1, "ends within entry 0"),
        (b"\0\1", 1, "ends within entry 0"),
        (b"\0\1a\0", 2, "ends within entry 1 of 2"),
        (b"\0\1a\0\0", 1, "goes on after its 1"),
        (b"", 0, "1 to 256"),
        (b"\0\0" * 257, 257, "1 to 256"),
    ],
)
def test_refuses_bundles_of_another_length(data, width, message):
    """A bundle that ends early or goes on is refused."""
    with pytest.raises(FormatError, match=message):
        decode_bundle(data, width)


def test_tiles_read_back():
    """A tile is its hashes one after the other."""
    hashes = tuple(bytes([number]) * 32 for number in range(3))
    assert decode_tile(encode_tile(hashes), 3) == hashes
    for bad in ([], [bytes(32)] * 257, [bytes(31)]):
        with pytest.raises(FormatError, match="a tile has"):
            encode_tile(bad)
    for data, width in ((bytes(64), 3), (bytes(96), 2), (b"", 0), (bytes(257 * 32), 257)):
        with pytest.raises(FormatError, match="a tile of width"):
            decode_tile(data, width)


@settings(max_examples=200, deadline=None)
@given(st.text("tile/ntrsx.p0123456789-", max_size=30) | st.sampled_from(PATHS).map(lambda pair: pair[1] + "0"))
def test_path_parsing_raises_format_error_only(path):
    """Whatever the text, it is a path in its one spelling or a format error."""
    with contextlib.suppress(FormatError):
        tile = parse_tile_path(path)
        assert tile_path(tile.level, tile.index, tile.width) == path


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60), st.integers(-1, 300))
def test_decoding_raises_format_error_only(data, width):
    """Whatever the bytes, they are a bundle that encodes to itself or a format error."""
    with contextlib.suppress(FormatError):
        assert encode_bundle(decode_bundle(data, width)) == data
