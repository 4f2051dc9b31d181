"""Dossiers have one meaning for each byte, and come back as they were written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError
from gateway.verify.opengradient.dossier import (
    MAX_DOSSIER_BYTES,
    Answer,
    Dossier,
    Live,
    Read,
    Registration,
    parse_dossier,
    write_dossier,
)

WHOLE: dict[str, Any] = {
    "schema": "opengradient-dossier/1",
    "chain_id": 10740,
    "registry": "0x" + "70" * 20,
    "tee_type": 0,
    "tee_id": "0x" + "fe" * 32,
    "block": {"number": 16, "hash": "0x" + "ab" * 32},
    "reads": [
        {
            "to": "0x" + "70" * 20,
            "data": "0x4b6014da",
            "answers": [
                {"rpc": "a", "result": "0x01"},
                {"rpc": "b", "result": "0x01"},
                {"rpc": "c", "result": "0x02"},
                {"rpc": "d", "error": "timeout"},
            ],
            "agreed": "0x01",
        },
        {"to": "0x" + "70" * 20, "data": "0x", "answers": [], "agreed": None},
    ],
    "registration": {"tx": "0x" + "cd" * 32, "block": 3, "input": "0x15c9bdb4"},
    "live": {"nonce": "ab" * 20, "document": "aGk="},
    "ohttp_config": "e30=",
    "problems": {"registration": "no_log"},
}
BARE = {**WHOLE, "reads": [], "registration": None, "live": None, "ohttp_config": None, "problems": {}}


def data(document: Any) -> bytes:
    return json.dumps(document).encode()


def test_every_member_is_read() -> None:
    """What was fetched is there, as bytes and numbers."""
    assert parse_dossier(data(WHOLE)) == Dossier(
        chain_id=10740,
        registry=b"\x70" * 20,
        tee_type=0,
        tee_id=b"\xfe" * 32,
        block_number=16,
        block_hash=b"\xab" * 32,
        reads=(
            Read(
                b"\x70" * 20,
                bytes.fromhex("4b6014da"),
                (Answer("a", b"\1"), Answer("b", b"\1"), Answer("c", b"\2"), Answer("d", None, "timeout")),
                b"\1",
            ),
            Read(b"\x70" * 20, b"", (), None),
        ),
        registration=Registration(b"\xcd" * 32, 3, bytes.fromhex("15c9bdb4")),
        live=Live(b"\xab" * 20, b"hi"),
        ohttp_config=b"{}",
        problems={"registration": "no_log"},
    )


def test_votes_and_dissent_are_counted_by_result() -> None:
    """Who gave exactly the agreed result agrees, who gave another dissents, who gave none does neither."""
    read, nobody = parse_dossier(data(WHOLE)).reads
    assert (read.votes, read.dissent) == (("a", "b"), ("c",))
    assert (nobody.votes, nobody.dissent) == ((), ())


@pytest.mark.parametrize("document", [WHOLE, BARE], ids=["whole", "bare"])
def test_a_dossier_comes_back_as_it_was_written(document: Any) -> None:
    """Writing and reading are each other's inverse, and writing is stable."""
    dossier = parse_dossier(data(document))
    written = write_dossier(dossier)
    assert json.loads(written) == document
    assert parse_dossier(written) == dossier


def changed(path: str, value: Any) -> dict[str, Any]:
    copy = json.loads(json.dumps(WHOLE))
    at: Any = copy
    *steps, last = path.split(".")
    for step in steps:
        at = at[int(step)] if step.isdigit() else at[step]
    if value is ...:
        del at[last]
    else:
        at[int(last) if last.isdigit() else last] = value
    return copy


BAD = [
    *[(name, ...) for name in WHOLE],
    ("extra", 1),
    ("schema", "opengradient-dossier/2"),
    ("chain_id", True),
    ("chain_id", -1),
    ("chain_id", 1.0),
    ("chain_id", 2**53),
    ("tee_type", 256),
    ("registry", "0x" + "70" * 19),
    ("registry", "70" * 20),
    ("tee_id", "0x" + "FE" * 32),
    ("tee_id", "0x" + "fe" * 31 + "f"),
    ("tee_id", None),
    ("block", 16),
    ("block.number", "0x10"),
    ("block.hash", "0x"),
    ("reads", None),
    ("reads", [WHOLE["reads"][1]] * 65),
    ("reads.0", []),
    ("reads.0.to", "0x"),
    ("reads.0.agreed", "0x03"),
    ("reads.1.agreed", "0x"),
    ("reads.0.answers", [{"rpc": str(n), "result": "0x01"} for n in range(17)]),
    ("reads.0.answers.1.rpc", "a"),
    ("reads.0.answers.1.rpc", "A\x1b"),
    ("reads.0.answers.1.rpc", ""),
    ("reads.0.answers.1.error", "both"),
    ("reads.0.answers.1.result", None),
    ("reads.0.answers.3.error", "Timed out!"),
    ("reads.0.answers.3.error", ...),
    ("reads.0.answers.0", "0x01"),
    ("registration.tx", "0x00"),
    ("registration.block", None),
    ("registration.more", 1),
    ("live.nonce", "ab" * 19),
    ("live.nonce", 7),
    ("live.document", "aGk"),
    ("live.document", "aGl="),
    ("live.document", 7),
    ("live", {}),
    ("ohttp_config", "e30=\n"),
    ("ohttp_config", 1),
    ("problems", []),
    ("problems", {"the weather": "rain"}),
    ("problems", {"live": "It rains"}),
    ("problems", {"live": None}),
]


@pytest.mark.parametrize(("path", "value"), BAD, ids=[f"{path} {str(value)[:20]}" for path, value in BAD])
def test_any_other_form_is_refused(path: str, value: Any) -> None:
    """A member that is missing, more, or spelled in another way makes it no dossier."""
    with pytest.raises(FormatError) as caught:
        parse_dossier(data(changed(path, value)))
    assert caught.value.reason == "dossier_malformed"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"null",
        data(WHOLE) + b" x",
        data(WHOLE).replace(b'"tee_type": 0', b'"tee_type": 0, "tee_type": 0'),
        b"[" * 100_000,
        b" " * (MAX_DOSSIER_BYTES + 1),
    ],
)
def test_bytes_that_are_no_strict_json_are_refused(raw: bytes) -> None:
    """Two keys of one name, trailing bytes, endless nesting, too many bytes."""
    with pytest.raises(FormatError) as caught:
        parse_dossier(raw)
    assert caught.value.reason == "dossier_malformed"


def test_what_would_not_read_back_is_not_written() -> None:
    """A dossier that its own reader refuses, or reads as another one, is refused by its writer."""
    good = parse_dossier(data(BARE))
    two_sided = Read(b"\0" * 20, b"", (Answer("a", b"\1", "timeout"),), None)
    for bad in (
        Dossier(good.chain_id, b"short", 0, good.tee_id, 1, good.block_hash),
        Dossier(good.chain_id, good.registry, 0, good.tee_id, 1, good.block_hash, reads=(two_sided,)),
    ):
        with pytest.raises(FormatError) as caught:
            write_dossier(bad)
        assert caught.value.reason == "dossier_malformed"


SEED = data(WHOLE)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_bytes_are_a_dossier_or_refused(drawn: st.DataObject) -> None:
    """Mutated dossiers parse or raise `FormatError`, and what parses writes and reads back as itself."""
    raw = bytearray(SEED)
    for _ in range(drawn.draw(st.integers(1, 4))):
        at = drawn.draw(st.integers(0, len(raw) - 1))
        raw[at : at + drawn.draw(st.integers(0, 3))] = drawn.draw(st.binary(max_size=3))
    try:
        dossier = parse_dossier(bytes(raw))
    except FormatError:
        return
    assert parse_dossier(write_dossier(dossier)) == dossier
