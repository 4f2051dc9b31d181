"""How documents lie in the database: packed, a tenth of their envelopes' size. So does what nodes sent as evidence.

    document  01 || number of the dictionary (4 bytes, big-endian; 0: none) || one zstd frame (RFC 8878), which holds
              key id LF signature (64 bytes; key id and signature may both be empty) payload
    evidence  02 || number of the dictionary || one zstd frame, which holds the bytes as they came

Receipts of one gateway are much alike, so each is packed against a dictionary (RFC 8878 section 5): a few payloads that
came before, kept in the table `dictionary` behind the tables of codes that suit them, which then need not be made for
each document. `Packer` makes a new one when that would save a fifth, and uses it once it is durable. Only
payloads go into one: they say nothing of a prompt once its seed is erased, and evidence might. What comes out again is
the envelope, byte for byte. An envelope that is not of this form, or was stored before there was this, lies there as it
is: JSON begins with another byte.
"""

from __future__ import annotations

import sqlite3
import sys
from asyncio import Future
from collections import deque
from collections.abc import Callable
from functools import partial

from gateway.errors import FormatError, VerirouteError
from gateway.log.dsse import Sealed, write_envelope
from gateway.model.receipt import PAYLOAD_TYPE

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

DOCUMENT, EVIDENCE = 1, 2
#: The largest document that is packed, and that is unpacked: a small frame could hold gigabytes.
MAX_BYTES = 1 << 20
#: Fast, and on small documents that are alike nearly as good as higher ones.
LEVEL = -3
#: A dictionary and a document fit; what is set aside for more is memory that nobody uses.
WINDOW_LOG = 17
#: Of each size of payload (to a power of two, so receipts apart from intents) as many go into a new dictionary as it
#: is tried on.
SAMPLES = 1
#: A new dictionary is looked for after so many documents, then after eight times as many, and so on.
FIRST_LOOK, LATER = 16, 8
#: It is made of what came last, and only so many documents before it are kept for it.
SEEN_LAST = 64
#: Longer payloads go into no dictionary.
LONGEST = 16 << 10
#: What the new one has to save.
WORTH = 0.8
_SIGNATURE = 64
_MAGIC = b"\x37\xa4\x30\xec"
#: Room for a dictionary's tables of codes.
_TABLES = 4096
_KINDS = (b"\x01", b"\x02")

Compress = Callable[[bytes], bytes]
#: Stores a dictionary under its number; the future resolves when it is durable.
Store = Callable[[int, bytes], "Future[object]"]


class Packer:
    """Packs what one gateway writes. For one thread; `number` and `dictionary` are the newest stored, or 0 and b""."""

    def __init__(self, number: int, dictionary: bytes, store: Store) -> None:
        self._last = number
        try:
            self._use(number, _compressor(_read(dictionary)))
        except (zstd.ZstdError, ValueError):  # it is damaged: what comes is packed without
            self._use(0, _compressor(None))
        self._store = store
        self._recent: dict[int, deque[bytes]] = {}
        self._seen, self._look = 0, FIRST_LOOK

    def pack(self, sealed: Sealed) -> bytes:
        """`sealed` as it is stored."""
        payload, kind, keyid, signature, _ = sealed
        if (
            kind != PAYLOAD_TYPE
            or len(signature) != (_SIGNATURE if keyid else 0)
            or "\n" in keyid
            or len(payload) > MAX_BYTES >> 1
        ):
            return sealed.envelope
        packed = self._document + self._compress(b"".join((keyid.encode(), b"\n", signature, payload)))
        self._seen += 1
        if self._look - self._seen < SEEN_LAST:
            self._remember(payload)
        return packed

    def pack_evidence(self, evidence: bytes) -> bytes:
        """What a node sent for one answer, as it is stored."""
        return evidence if len(evidence) > MAX_BYTES >> 1 else self._evidence + self._compress(evidence)

    def _use(self, number: int, compress: Compress) -> None:
        self._compress = compress
        named = number.to_bytes(4, "big")
        self._document, self._evidence = bytes([DOCUMENT]) + named, bytes([EVIDENCE]) + named

    def _remember(self, payload: bytes) -> None:
        if len(payload) <= LONGEST:
            recent = self._recent.setdefault(len(payload).bit_length(), deque(maxlen=2 * SAMPLES))
            recent.append(payload)
        if self._seen == self._look:
            self._look *= LATER
            self._learn()

    def _learn(self) -> None:
        """Store a dictionary of what came last, where it packs better; used when it is durable, else forgotten."""
        samples = [list(recent) for recent in self._recent.values()]
        self._recent.clear()
        tried = [payload for recent in samples for payload in recent[SAMPLES:]]
        content = b"".join(payload for recent in samples for payload in recent[:SAMPLES])
        try:
            raw = zstd.ZstdDict(content, is_raw=True)
            dictionary = zstd.finalize_dict(raw, tried, len(content) + _TABLES, LEVEL)
        except (zstd.ZstdError, ValueError):  # nothing to learn from yet
            return
        compress = _compressor(dictionary)
        if sum(len(compress(p)) for p in tried) > WORTH * sum(len(self._compress(p)) for p in tried):
            return
        number = self._last + 1
        try:
            future = self._store(number, dictionary.dict_content)
        except VerirouteError:  # the log takes nothing; there will be another look
            return
        self._last = number
        future.add_done_callback(partial(self._stored, number, compress))

    def _stored(self, number: int, compress: Compress, future: Future[object]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._use(number, compress)


class Unpacker:
    """Unpacks what lies in the database behind `connection`; as the SQL function `unpacked` of each of ours."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._known: dict[int, zstd.ZstdDict | None] = {0: None}

    def __call__(self, stored: object) -> object:
        """The envelope or the evidence in a stored value.

        What is not packed, or is damaged, comes back as it is, for a check to find.
        """
        if type(stored) is not bytes or stored[:1] not in _KINDS:
            return stored
        try:
            return self._unpack(stored)
        except (zstd.ZstdError, FormatError, sqlite3.Error, ValueError):
            return stored

    def _unpack(self, stored: bytes) -> bytes:
        reader = zstd.ZstdDecompressor(zstd_dict=self._dictionary(int.from_bytes(stored[1:5], "big")))
        inner = reader.decompress(stored[5:], max_length=MAX_BYTES)
        if not reader.eof or reader.unused_data:
            raise FormatError("it is cut short, too long, or has something behind it")
        if stored[0] == EVIDENCE:
            return inner
        keyid, _, rest = inner.partition(b"\n")
        length = _SIGNATURE if keyid else 0
        return write_envelope(rest[length:], PAYLOAD_TYPE, keyid.decode(), rest[:length])

    def _dictionary(self, number: int) -> zstd.ZstdDict | None:
        if number not in self._known:
            found = self._connection.execute("SELECT CAST(bytes AS BLOB) FROM dictionary WHERE id = ?", (number,))
            row = found.fetchone()
            if row is None:
                raise FormatError(f"there is no dictionary {number}")
            self._known[number] = _read(row[0])
        return self._known[number]


def newest(connection: sqlite3.Connection) -> tuple[int, bytes]:
    """The dictionary that was stored last, with its number; 0 and b"" where there is none."""
    found = connection.execute("SELECT id, CAST(bytes AS BLOB) FROM dictionary ORDER BY id DESC LIMIT 1").fetchone()
    return (0, b"") if found is None else (int(found[0]), found[1])


def keep(number: int, dictionary: bytes) -> Callable[[sqlite3.Connection], object]:
    """The job that stores a dictionary."""
    return lambda connection: connection.execute("INSERT INTO dictionary VALUES (?, ?)", (number, dictionary))


def _read(stored: bytes) -> zstd.ZstdDict | None:
    """A stored dictionary; None where there is none. The first ones were nothing but payloads."""
    return zstd.ZstdDict(stored, is_raw=not stored.startswith(_MAGIC)) if stored else None


def _compressor(dictionary: zstd.ZstdDict | None) -> Compress:
    options = {zstd.CompressionParameter.compression_level: LEVEL, zstd.CompressionParameter.window_log: WINDOW_LOG}
    digested = None if dictionary is None else dictionary.as_digested_dict
    compressor, whole = zstd.ZstdCompressor(options=options, zstd_dict=digested), zstd.ZstdCompressor.FLUSH_FRAME
    return lambda data: compressor.compress(data, whole)
