"""The table of known builds, and the hash that a build goes by."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.crypto.keccak import keccak256
from gateway.errors import FormatError
from gateway.policy_files import reference_values
from gateway.verify.opengradient.pcrs import MAX_TABLE_BYTES, MAX_VERSIONS, parse_pcrs, pcr_hash

ROW: dict[str, Any] = {
    "pcr_hash": "0x" + "ab" * 32,
    "name": "a build",
    "repository": "https://example.org/x",
    "commit": "0123abc",
    "basis": "rebuilt",
    "status": "known",
}


def data(*rows: Any, **members: Any) -> bytes:
    return json.dumps({"schema": "opengradient-pcrs/1", "versions": list(rows or [ROW]), **members}).encode()


def test_versions_are_found_by_their_hash() -> None:
    """Each row stands under the 32 bytes that it spells, and says whether it is to be refused."""
    revoked = {**ROW, "pcr_hash": "0x" + "cd" * 32, "status": "revoked", "note": "a hole"}
    table = parse_pcrs(data(ROW, revoked))
    assert table.keys() == {b"\xab" * 32, b"\xcd" * 32}
    assert not table[b"\xab" * 32].revoked
    assert table[b"\xcd" * 32].revoked


@pytest.mark.parametrize(
    "bad",
    [
        b"",
        b"[]",
        data(schema="other/1"),
        data(extra=1),
        data(ROW, ROW),
        data({**ROW, "more": 1}),
        data({k: v for k, v in ROW.items() if k != "commit"}),
        data({**ROW, "pcr_hash": "ab" * 32}),
        data({**ROW, "pcr_hash": "0x" + "AB" * 32}),
        data({**ROW, "pcr_hash": "0x" + "ab" * 31}),
        data({**ROW, "name": ""}),
        data({**ROW, "name": "\x1b[2J"}),
        data({**ROW, "note": "x" * 257}),
        data({**ROW, "commit": "HEAD"}),
        data({**ROW, "basis": "hearsay"}),
        data({**ROW, "status": "good"}),
        data(*[{**ROW, "pcr_hash": f"0x{n:064x}"} for n in range(MAX_VERSIONS + 1)]),
        b" " * (MAX_TABLE_BYTES + 1),
    ],
)
def test_a_table_of_another_form_is_refused(bad: bytes) -> None:
    """Anything unknown, missing, twice there or not printable is refused."""
    with pytest.raises(FormatError) as caught:
        parse_pcrs(bad)
    assert caught.value.reason == "pcr_table_malformed"


def test_the_table_that_ships_names_the_published_build() -> None:
    """The one build whose measurements were published and read is there, and marked as the publisher's word."""
    table = parse_pcrs(reference_values("opengradient"))
    version = table[bytes.fromhex("b4c9585138438b60a72e11257b3c8a96d20c621e53d016f27657285361f77e87")]
    assert (version.commit, version.basis, version.status) == ("cb95a5c", "publisher", "known")


def test_a_build_goes_by_its_first_three_registers() -> None:
    """keccak256 over the 144 bytes of PCR0 to PCR2; other registers do not count."""
    registers = {f"pcr{i}": bytes([i]).hex() * 48 for i in range(4)}
    assert pcr_hash(registers) == keccak256(b"\0" * 48 + b"\1" * 48 + b"\2" * 48)


@pytest.mark.parametrize("change", [{"pcr1": ""}, {"pcr1": "00" * 32}, {"pcr1": "zz" * 48}])
def test_registers_of_another_form_have_no_hash(change: dict[str, str]) -> None:
    """A register that is missing, short or no hex leaves nothing to compare."""
    registers = {f"pcr{i}": "00" * 48 for i in range(3)}
    assert pcr_hash({**registers, **change}) is None
    assert pcr_hash({name: value for name, value in registers.items() if name not in change}) is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_are_a_table_or_refused(drawn: st.DataObject) -> None:
    """Mutated tables parse or raise `FormatError`."""
    raw = bytearray(data())
    for _ in range(drawn.draw(st.integers(1, 3))):
        at = drawn.draw(st.integers(0, len(raw) - 1))
        raw[at : at + drawn.draw(st.integers(0, 2))] = drawn.draw(st.binary(max_size=2))
    try:
        table = parse_pcrs(bytes(raw))
    except FormatError:
        return
    assert all(len(digest) == 32 for digest in table)
