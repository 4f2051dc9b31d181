"""How documents lie in the database: packed, a tenth of their envelopes' size. So does what nodes sent as evidence.

    document  01 || number of the dictionary (4 bytes, big-endian; 0: none) || one zstd frame (RFC 8878), which holds
              key id LF signature (64 bytes; key id and signature may both be empty) payload
    evidence  02 || number of the dictionary || one zstd frame, which holds the bytes as they came

Receipts of one gateway are much alike, so each is packed against a dictionary: a few payloads that came before, kept
in the table `dictionary`. `Packer` makes a new one when that would save a fifth, and uses it once it is durable. Only
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
#: Fast, and on small documents that are alike as good as higher ones.
LEVEL = -1
#: A dictionary and a document fit; what is set aside for more is memory that nobody uses.
WINDOW_LOG = 17
#: Of each size of payload (to a power of two, so receipts apart from intents) as many go into a new dictionary as it
#: is tried on.
SAMPLES = 2
#: A new dictionary is looked for after so many documents, then after eight times as many, and so on.
FIRST_LOOK, LATER = 16, 8
#: Longer payloads go into no dictionary.
LONGEST = 16 << 10
#: What the new one has to save.
WORTH = 0.8
#: zstd takes none that is shorter.
LEAST = 8
_SIGNATURE = 64
_KINDS = (b"\x01", b"\x02")

Compress = Callable[[bytes], bytes]
#: Stores a dictionary under its number; the future resolves when it is durable.
Store = Callable[[int, bytes], "Future[object]"]


class Packer:
    """Packs what one gateway writes. For one thread; `number` and `dictionary` are the newest stored, or 0 and b""."""

    def __init__(self, number: int, dictionary: bytes, store: Store) -> None:
        self._number = number if len(dictionary) >= LEAST else 0
        self._last = number
        self._compress = _compressor(dictionary)
        self._store = store
        self._recent: dict[int, deque[bytes]] = {}
        self._seen, self._look = 0, FIRST_LOOK

    def pack(self, sealed: Sealed) -> bytes:
        """`sealed` as it is stored."""
        if (
            sealed.payload_type != PAYLOAD_TYPE
            or len(sealed.signature) != (_SIGNATURE if sealed.keyid else 0)
            or "\n" in sealed.keyid
            or len(sealed.payload) > MAX_BYTES >> 1
        ):
            return sealed.envelope
        packed = self._pack(DOCUMENT, b"%b\n%b%b" % (sealed.keyid.encode(), sealed.signature, sealed.payload))
        if len(sealed.payload) <= LONGEST:
            self._remember(sealed.payload)
        return packed

    def pack_evidence(self, evidence: bytes) -> bytes:
        """What a node sent for one answer, as it is stored."""
        return evidence if len(evidence) > MAX_BYTES >> 1 else self._pack(EVIDENCE, evidence)

    def _pack(self, kind: int, inner: bytes) -> bytes:
        return b"%c%b%b" % (kind, self._number.to_bytes(4, "big"), self._compress(inner))

    def _remember(self, payload: bytes) -> None:
        size = len(payload).bit_length()
        recent = self._recent.get(size)
        if recent is None:
            recent = self._recent[size] = deque(maxlen=2 * SAMPLES)
        recent.append(payload)
        self._seen += 1
        if self._seen == self._look:
            self._look *= LATER
            self._learn()

    def _learn(self) -> None:
        """Store a dictionary of what came last, where it packs better; used when it is durable, else forgotten."""
        samples = [list(recent) for recent in self._recent.values()]
        tried = [payload for recent in samples for payload in recent[SAMPLES:]]
        dictionary = b"".join(payload for recent in samples for payload in recent[:SAMPLES])
        compress = _compressor(dictionary)
        if sum(len(compress(p)) for p in tried) > WORTH * sum(len(self._compress(p)) for p in tried):
            return
        number = self._last + 1
        try:
            future = self._store(number, dictionary)
        except VerirouteError:  # the log takes nothing; there will be another look
            return
        self._last = number
        future.add_done_callback(partial(self._stored, number, compress))

    def _stored(self, number: int, compress: Compress, future: Future[object]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._number, self._compress = number, compress


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
            self._known[number] = zstd.ZstdDict(row[0], is_raw=True)
        return self._known[number]


def newest(connection: sqlite3.Connection) -> tuple[int, bytes]:
    """The dictionary that was stored last, with its number; 0 and b"" where there is none."""
    found = connection.execute("SELECT id, CAST(bytes AS BLOB) FROM dictionary ORDER BY id DESC LIMIT 1").fetchone()
    return (0, b"") if found is None else (int(found[0]), found[1])


def keep(number: int, dictionary: bytes) -> Callable[[sqlite3.Connection], object]:
    """The job that stores a dictionary."""
    return lambda connection: connection.execute("INSERT INTO dictionary VALUES (?, ?)", (number, dictionary))


def _compressor(dictionary: bytes) -> Compress:
    options = {zstd.CompressionParameter.compression_level: LEVEL, zstd.CompressionParameter.window_log: WINDOW_LOG}
    raw = zstd.ZstdDict(dictionary, is_raw=True).as_digested_dict if len(dictionary) >= LEAST else None
    compressor, whole = zstd.ZstdCompressor(options=options, zstd_dict=raw), zstd.ZstdCompressor.FLUSH_FRAME
    return lambda data: compressor.compress(data, whole)
