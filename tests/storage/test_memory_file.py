"""The memory's slots: what is written is read, and what is torn is seen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.storage.memory import SLOT, CheckpointMemory, Slot, decode_slot, encode_slot


@given(st.integers(0, 2**60), st.binary(max_size=3900))
def test_a_slot_reads_back(number: int, note: bytes) -> None:
    """Any number and note come back, also with what a longer note left behind after them."""
    data = encode_slot(Slot(number, note))
    assert decode_slot(data) == decode_slot(data.ljust(SLOT, b"#")) == Slot(number, note)


@given(st.binary(max_size=400), st.integers(1, 250), st.integers(0, 255))
def test_a_changed_slot_is_not_read(note: bytes, at: int, value: int) -> None:
    """A slot with one byte changed, or cut, is no slot; decoding never raises."""
    data = bytearray(encode_slot(Slot(7, note)))
    assert decode_slot(bytes(data[: len(data) - 1])) is None
    at %= len(data)
    if data[at] != value:
        data[at] = value
        assert decode_slot(bytes(data)) in (None, Slot(7, note))  # a leading zero of the length changes nothing
        if at > 31 + 64:
            assert decode_slot(bytes(data)) is None


@given(st.binary(max_size=300))
def test_garbage_is_no_slot(data: bytes) -> None:
    """Arbitrary bytes, behind the magic too, are not a slot."""
    assert decode_slot(data) is None
    assert decode_slot(b"veriroute checkpoint memory v1\n" + data) is None


def test_a_note_has_to_fit() -> None:
    """A checkpoint too long for a slot is a settings error, not a cut slot."""
    with pytest.raises(ConfigError, match=r"log\.origin is too long"):
        encode_slot(Slot(1, bytes(SLOT)))


def test_slots_take_turns(tmp_path: Path) -> None:
    """Each write leaves the one before in place; the newest is what is read, by number and not by content."""
    memory = CheckpointMemory(str(tmp_path / "m"))
    memory.load()
    assert (memory.note, memory.damaged) == (None, False)
    memory.open()
    for note in (b"one", b"two", b"three"):
        memory.write(note)
        again = CheckpointMemory(str(tmp_path / "m"))
        again.load()
        assert again.note == note
    memory.close()
    memory.close()
    data = (tmp_path / "m").read_bytes()
    assert b"two" in data
    assert len(data) == 2 * SLOT
    assert os.stat(tmp_path / "m").st_mode & 0o777 == 0o600
