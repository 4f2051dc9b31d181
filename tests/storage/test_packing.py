"""Packed documents: what goes in comes out, dictionaries are learnt and durable before use, damage is never an error."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import sys
from asyncio import Future
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from storage_kit import RECEIPT_KEY, check_log, filled, opened, receipt, ulid

from gateway.errors import Busy, LogRefused, LogUnavailable
from gateway.log.dsse import Sealed, parse_envelope, seal, wrap
from gateway.log.receipt import leaf_of
from gateway.model.entry import Entry
from gateway.model.receipt import PAYLOAD_TYPE
from gateway.storage import schema
from gateway.storage.packing import FIRST_LOOK, LONGEST, MAX_BYTES, Packer, Unpacker, keep, newest
from gateway.storage.reads import Reader
from gateway.storage.sequencer import Sequencer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def document(n: int) -> Sealed:
    """A signed document of about a kilobyte, alike but for two places."""
    claims = [{"name": f"claim_{i}", "status": "asserted", "source": "verifier_derived"} for i in range(12)]
    payload = {"n": n, "digest": os.urandom(32).hex(), "claims": claims}
    return seal(json.dumps(payload).encode(), PAYLOAD_TYPE, RECEIPT_KEY)


class Shelf:
    """A database with nothing but dictionaries, and a packer that stores in it once `let` is called."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.execute(schema.DICTIONARY)
        self.unpack = Unpacker(self.connection)
        self.waiting: list[tuple[int, bytes, Future[object]]] = []
        self.refuses: Exception | None = None
        self.packer = self.open()

    def open(self) -> Packer:
        return Packer(*newest(self.connection), self.store)

    def store(self, number: int, dictionary: bytes) -> Future[object]:
        if self.refuses is not None:
            raise self.refuses
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((number, dictionary, future))
        return future

    async def let(self, error: Exception | None = None) -> None:
        for number, dictionary, future in self.waiting:
            if error is None:
                keep(number, dictionary)(self.connection)
                future.set_result(None)
            else:
                future.set_exception(error)
        self.waiting.clear()
        await asyncio.sleep(0)


@pytest.fixture
def shelf() -> Iterator[Shelf]:
    made = Shelf()
    yield made
    made.connection.close()


PLAIN = Packer(0, b"", lambda *_: pytest.fail("nothing is to be stored"))


@given(
    st.binary(max_size=3000),
    st.text(max_size=20),
    st.binary(min_size=64, max_size=64),
    st.sampled_from(["a/b", PAYLOAD_TYPE]),
)
@example(b"", "", b"", PAYLOAD_TYPE)
@example(b"\n", "key\nid", bytes(64), PAYLOAD_TYPE)
@example(b"{}", "key", b"short", PAYLOAD_TYPE)
@example(b"{}", "", bytes(64), PAYLOAD_TYPE)
@example(bytes(MAX_BYTES), "key", bytes(64), PAYLOAD_TYPE)
@example(os.urandom(MAX_BYTES // 2), "key", bytes(64), PAYLOAD_TYPE)
@example(b"\n" * 64, "", b"", PAYLOAD_TYPE)
def test_every_document_comes_back_byte_for_byte(payload: bytes, keyid: str, signature: bytes, kind: str) -> None:
    """Whatever is sealed is the same envelope after packing and unpacking; what has no packed form is stored plain."""
    sealed = Sealed(payload, kind, keyid, signature, b"")
    packer = Packer(0, b"", lambda *_: Future())
    stored = packer.pack(sealed)
    with sqlite3.connect(":memory:") as connection:
        assert Unpacker(connection)(stored) == sealed.envelope
    connection.close()
    packed = kind == PAYLOAD_TYPE and len(signature) == (64 if keyid else 0) and "\n" not in keyid
    assert (stored[:1] == b"\x01") is (packed and len(payload) <= MAX_BYTES // 2)
    assert stored[:1] in (b"\x01", b"{")


@given(st.binary(max_size=3000))
@example(b"\1\0\0\0\0")
@example(b"\2\0\0\0\0")
@example(bytes(MAX_BYTES))
@example(os.urandom(MAX_BYTES // 2))
def test_evidence_comes_back_byte_for_byte(evidence: bytes) -> None:
    """What nodes send may be anything, also something that looks packed."""
    stored = Packer(0, b"", lambda *_: Future()).pack_evidence(evidence)
    with sqlite3.connect(":memory:") as connection:
        assert Unpacker(connection)(stored) == evidence
    connection.close()


async def test_a_dictionary_is_learnt_and_used_once_durable(shelf: Shelf) -> None:
    """After some documents alike, each takes a fraction; until the dictionary is stored nothing is packed against it."""
    before = [(sealed, shelf.packer.pack(sealed)) for sealed in map(document, range(FIRST_LOOK + 3))]
    ((number, dictionary, _),) = shelf.waiting
    assert number == 1
    assert all(stored[1:5] == bytes(4) for _, stored in before)
    await shelf.let()
    after = [(sealed, shelf.packer.pack(sealed)) for sealed in map(document, range(5))]
    assert all(stored[1:5] == b"\0\0\0\1" for _, stored in after)
    assert max(len(stored) for _, stored in after) < 0.8 * min(len(stored) for _, stored in before)
    assert max(len(stored) for _, stored in after) < 0.25 * len(after[0][0].envelope)
    assert all(shelf.unpack(stored) == sealed.envelope for sealed, stored in before + after)
    again = shelf.open().pack(document(0))
    assert again[1:5] == b"\0\0\0\1"
    assert newest(shelf.connection) == (1, dictionary)


async def test_a_dictionary_of_bare_payloads_is_used_as_it_was(shelf: Shelf) -> None:
    """The first dictionaries had no tables of codes; what was packed against one is read, and so is what comes now."""
    sealed = document(0)
    content = sealed.payload
    inner = b"%b\n%b%b" % (sealed.keyid.encode(), sealed.signature, sealed.payload)
    stored = b"\1\0\0\0\7" + zstd.compress(inner, zstd_dict=zstd.ZstdDict(content, is_raw=True).as_digested_dict)
    keep(7, content)(shelf.connection)
    assert shelf.unpack(stored) == sealed.envelope
    again = shelf.open().pack(sealed)
    assert again[:5] == stored[:5]
    assert len(again) < 300
    assert shelf.unpack(again) == sealed.envelope


@pytest.mark.parametrize("damaged", [b"\x37\xa4\x30\xec", b"\x37\xa4\x30\xec" + bytes(300), b"short"])
async def test_a_damaged_dictionary_stops_nothing(shelf: Shelf, damaged: bytes) -> None:
    """With the newest dictionary damaged documents are packed without one, and the next gets a number of its own."""
    keep(3, damaged)(shelf.connection)
    packer = shelf.open()
    sealed = document(0)
    stored = packer.pack(sealed)
    assert stored[1:5] == bytes(4)
    assert shelf.unpack(stored) == sealed.envelope
    for n in range(FIRST_LOOK):
        packer.pack(document(n))
    assert [number for number, _, _ in shelf.waiting] == [4]


async def test_a_better_dictionary_takes_over(shelf: Shelf) -> None:
    """Documents of another kind are learnt later under the next number, and those before stay readable."""
    packed = [(sealed, shelf.packer.pack(sealed)) for sealed in map(document, range(FIRST_LOOK))]
    await shelf.let()
    words = [os.urandom(12).hex() for _ in range(40)]
    others = [seal(json.dumps([n, *words]).encode(), PAYLOAD_TYPE, RECEIPT_KEY) for n in range(8 * FIRST_LOOK)]
    packed += [(sealed, shelf.packer.pack(sealed)) for sealed in others]
    assert [number for number, _, _ in shelf.waiting] == [2]
    await shelf.let()
    packed += [(sealed, shelf.packer.pack(sealed)) for sealed in others[:3]]
    assert packed[-1][1][1:5] == b"\0\0\0\2"
    assert all(shelf.unpack(stored) == sealed.envelope for sealed, stored in packed)


@pytest.mark.parametrize("error", [LogUnavailable("disk full"), Busy("queue full")])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_log_that_takes_no_dictionary(shelf: Shelf, error: Exception, at_once: bool) -> None:
    """Documents go on being packed as before, and there is another look later."""
    shelf.refuses = error if at_once else None
    for n in range(FIRST_LOOK):
        shelf.packer.pack(document(n))
    await shelf.let(error)
    assert shelf.packer.pack(document(0))[1:5] == bytes(4)
    shelf.refuses = None
    for n in range(8 * FIRST_LOOK):
        shelf.packer.pack(document(n))
    await shelf.let()
    assert shelf.packer.pack(document(0))[1:5] == (b"\0\0\0\1" if at_once else b"\0\0\0\2")


async def test_evidence_is_never_learnt(shelf: Shelf) -> None:
    """A node's receipt has digests without a salt, which erasure must reach; so none of it goes into a dictionary."""
    for n in range(8 * FIRST_LOOK):
        shelf.packer.pack_evidence(b"a node's receipt over sha256:" + b"ab" * 32)
        if n < FIRST_LOOK:
            shelf.packer.pack(document(n))
    ((_, dictionary, _),) = shelf.waiting
    assert b"a node's receipt" not in dictionary


async def test_what_no_dictionary_helps(shelf: Shelf) -> None:
    """Noise is not learnt, nor are long documents."""
    for _ in range(FIRST_LOOK):
        shelf.packer.pack(seal(os.urandom(500), PAYLOAD_TYPE, RECEIPT_KEY))
    for _ in range(8 * FIRST_LOOK):
        shelf.packer.pack(seal(b"a" * (LONGEST + 1), PAYLOAD_TYPE, RECEIPT_KEY))
    assert shelf.waiting == []


async def test_damage_is_handed_on(shelf: Shelf) -> None:
    """A cut, changed, unknown or swollen document comes back as stored, for the checks to find; never as another's."""
    for n in range(FIRST_LOOK):
        shelf.packer.pack(document(n))
    await shelf.let()
    sealed = document(1)
    stored = shelf.packer.pack(sealed)
    for end in range(len(stored)):
        assert shelf.unpack(stored[:end]) == stored[:end]
    for place in range(5, len(stored)):
        changed = stored[:place] + bytes([stored[place] ^ 0x41]) + stored[place + 1 :]
        found = shelf.unpack(changed)
        assert isinstance(found, bytes)
        assert found == changed or found != sealed.envelope
    unknown = stored[:4] + b"\7" + stored[5:]
    swollen = b"\1" + bytes(4) + zstd.compress(b"key\n" + bytes(MAX_BYTES))
    behind = stored + b"{}"
    evidence = shelf.packer.pack_evidence(sealed.payload)
    assert (evidence[:5], shelf.unpack(evidence)) == (b"\2\0\0\0\1", sealed.payload)
    assert all(shelf.unpack(evidence[:end]) == evidence[:end] for end in range(len(evidence)))
    not_text = b"\1" + bytes(4) + zstd.compress(b"\xff\n" + bytes(64))
    for strange in (unknown, swollen, behind, not_text, b"", b"\1", b"{}", None, 7, 1.5, "text"):
        assert shelf.unpack(strange) == strange
    assert len(swollen) < 200
    shelf.connection.execute("UPDATE dictionary SET bytes = x'00'")
    assert Unpacker(shelf.connection)(stored) == stored
    assert shelf.open().pack(sealed)[1:5] == bytes(4)
    shelf.connection.execute("DROP TABLE dictionary")
    assert Unpacker(shelf.connection)(stored) == stored


async def write(log: Sequencer, start: int, count: int) -> list[Entry]:
    """Receipts in the form in which a gateway hands them over."""
    made = []
    for n in range(start, start + count):
        sealed = document(n)
        like = receipt(n)
        made.append(Entry("receipt", ulid(n), leaf_of("receipt", sealed.pae_sha256), log.packer.pack(sealed), like.row))
        await log.append(made[-1])
    return made


async def test_a_log_of_packed_documents(tmp_path: Path) -> None:
    """A dictionary goes into the database beside the log; a restart goes on with it, and every reader finds envelopes."""
    log = await opened(tmp_path)
    first = await write(log, 0, FIRST_LOOK + 8)
    await log.close()
    log = await opened(tmp_path)
    second = await write(log, 100, 2)
    assert second[0].document[1:5] == b"\0\0\0\1"
    with Reader(f"{tmp_path}/log.db") as reader:
        for entry in (*first, *second):
            envelope = reader.receipt(entry.id)
            assert envelope is not None
            assert envelope.startswith(b'{"payload":')
            assert len(entry.document) < len(envelope) / 2
    await log.close()
    assert len(check_log(tmp_path)) == FIRST_LOOK + 10


async def test_a_lost_dictionary_is_an_altered_log(tmp_path: Path) -> None:
    """Without it the documents cannot be read, and the gateway does not go on."""
    log = await opened(tmp_path)
    await write(log, 0, FIRST_LOOK + 8)
    await log.close()
    with sqlite3.connect(tmp_path / "log.db") as connection:
        connection.execute("DELETE FROM dictionary")
    connection.close()
    with pytest.raises(LogRefused, match="altered") as refused:
        await opened(tmp_path)
    assert refused.value.reason == "altered"


async def test_a_database_from_before(tmp_path: Path) -> None:
    """Version 1 has envelopes and no dictionaries. It is read as it is, and goes on as version 2, nothing rewritten."""
    await filled(tmp_path, 20)
    path = tmp_path / "log.db"

    def change(sql: str) -> list[object]:
        with sqlite3.connect(path) as connection:
            found = connection.execute(sql).fetchall()
        connection.close()
        return found

    change("DROP TABLE dictionary")
    change("PRAGMA user_version = 1")
    before = change("SELECT idx, envelope FROM receipt")
    assert len(check_log(tmp_path)) == 20
    assert change("PRAGMA user_version") == [(1,)]
    log = await opened(tmp_path)
    await write(log, 50, FIRST_LOOK + 8)
    await log.close()
    assert change("PRAGMA user_version") == [(schema.VERSION,)]
    assert change("SELECT idx, envelope FROM receipt WHERE idx < 20") == before
    assert len(check_log(tmp_path)) == 20 + FIRST_LOOK + 8


def test_unsigned_documents_have_no_signature_in_them() -> None:
    """An intent is signed by nobody, and stays so."""
    with sqlite3.connect(":memory:") as connection:
        found = Unpacker(connection)(PLAIN.pack(wrap(b"{}", PAYLOAD_TYPE)))
    connection.close()
    assert isinstance(found, bytes)
    assert parse_envelope(found, unsigned=True).signatures == ()
