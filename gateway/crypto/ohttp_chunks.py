"""Chunked Oblivious HTTP responses (draft-ietf-ohai-chunked-ohttp-08 section 6), sealed and opened as they come.

    response nonce | (length | sealed chunk) ... | 0 | sealed last chunk, up to the end

Lengths are variable-length integers (RFC 9000 section 16), here in their shortest form only. Chunk n is sealed under
the nonce XOR n; the last one with "final" as associated data, so an answer that was cut, reordered, repeated or joined
does not open. What `feed` gives out is authentic piece by piece; that it is the whole answer is known when `finish`
returns, and not before.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.errors import FormatError

from .hpke import TAG_SIZE, Cipher, counter_nonce, open_aead

MAX_CHUNK = 16 * 1024 * 1024
MAX_TOTAL = 64 * 1024 * 1024
FINAL = b"final"

#: From a response nonce to the cipher and the first chunk's nonce.
Derive = Callable[[bytes], tuple[Cipher, bytes]]


class ChunkOpener:
    """Opens one chunked response. `max_chunk` and `max_total` cap sealed bytes: of one chunk, and of all of them.

    After a `FormatError` every later call raises it again.
    """

    __slots__ = (
        "_buffer",
        "_cipher",
        "_counter",
        "_derive",
        "_failure",
        "_final",
        "_max_chunk",
        "_max_total",
        "_nonce",
        "_nonce_size",
        "_total",
    )

    def __init__(
        self, derive: Derive, nonce_size: int, *, max_chunk: int = MAX_CHUNK, max_total: int = MAX_TOTAL
    ) -> None:
        self._derive, self._nonce_size = derive, nonce_size
        self._max_chunk, self._max_total = max_chunk, max_total
        self._buffer = bytearray()
        self._cipher: Cipher | None = None
        self._nonce = b""
        self._counter = self._total = 0
        self._final = False
        self._failure: FormatError | None = None

    def feed(self, data: bytes) -> list[bytes]:
        """The plaintexts of the chunks that `data` completes, in order; any cut of the response will do.

        Raises `FormatError`: ohttp_decrypt, ohttp_malformed, ohttp_too_large.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._feed(data)
        except FormatError as error:
            raise self._failed(error) from None

    def finish(self) -> bytes:
        """The last chunk's plaintext, once the response's last byte was fed.

        Raises `FormatError` ohttp_truncated when the last chunk did not come, ohttp_decrypt when it does not open.
        """
        if self._failure is not None:
            raise self._failure
        try:
            if not self._final or len(self._buffer) < TAG_SIZE:
                raise FormatError("the response ended before its last chunk", reason="ohttp_truncated")
            last = self._open(bytes(self._buffer), FINAL)
        except FormatError as error:
            raise self._failed(error) from None
        self._failure = FormatError("the response has ended", reason="ohttp_malformed")
        return last

    def _failed(self, error: FormatError) -> FormatError:
        self._failure = error
        self._buffer.clear()
        return error

    def _feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        opened: list[bytes] = []
        if self._cipher is None:
            if len(self._buffer) < self._nonce_size:
                return opened
            self._cipher, self._nonce = self._derive(bytes(self._buffer[: self._nonce_size]))
            del self._buffer[: self._nonce_size]
        at = 0
        while not self._final:
            found = _read_length(self._buffer, at)
            if found is None:
                break
            size, start = found
            if size == 0:
                self._final = True
                at = start
                break
            self._check(size)
            if len(self._buffer) < start + size:
                break
            at = start + size
            self._total += size
            opened.append(self._open(bytes(self._buffer[start:at]), b""))
        del self._buffer[:at]
        if self._final:
            self._check(max(TAG_SIZE, len(self._buffer)))
        return opened

    def _check(self, size: int) -> None:
        """Refuse a chunk by its size, before its bytes are waited for."""
        if size < TAG_SIZE:
            raise FormatError(f"a sealed chunk of {size} bytes has no room for its tag", reason="ohttp_malformed")
        if size > self._max_chunk or self._total + size > self._max_total:
            raise FormatError("the response is larger than the cap", reason="ohttp_too_large")

    def _open(self, sealed: bytes, aad: bytes) -> bytes:
        assert self._cipher is not None  # there is no chunk before the nonce
        opened = open_aead(self._cipher, counter_nonce(self._nonce, self._counter), sealed, aad)
        if opened is None:
            raise FormatError(f"chunk {self._counter} of the response doesn't open", reason="ohttp_decrypt")
        self._counter += 1
        return opened


class ChunkSealer:
    """The enclave's side: `head` first, then every chunk in order, the last one with `final`."""

    __slots__ = ("_cipher", "_counter", "_nonce", "head")

    def __init__(self, derive: Derive, response_nonce: bytes) -> None:
        self.head = response_nonce
        self._cipher, self._nonce = derive(response_nonce)
        self._counter = 0

    def seal(self, plaintext: bytes) -> bytes:
        """One chunk, behind its length."""
        sealed = self._seal(plaintext, b"")
        return encode_length(len(sealed)) + sealed

    def final(self, plaintext: bytes) -> bytes:
        """The last chunk; `plaintext` may be empty. Nothing may be sealed after it."""
        return encode_length(0) + self._seal(plaintext, FINAL)

    def _seal(self, plaintext: bytes, aad: bytes) -> bytes:
        sealed = self._cipher.encrypt(counter_nonce(self._nonce, self._counter), plaintext, aad)
        self._counter += 1
        return sealed


def encode_length(value: int) -> bytes:
    """`value` (0 to 2**62 - 1) as the shortest variable-length integer of RFC 9000 section 16."""
    for prefix, size in enumerate((1, 2, 4, 8)):
        if value < 1 << (8 * size - 2):
            return (value | prefix << (8 * size - 2)).to_bytes(size, "big")
    raise ValueError(f"{value} is no variable-length integer")


def _read_length(data: bytearray, at: int) -> tuple[int, int] | None:
    """The variable-length integer at `at` and where it ends; None when more bytes are needed."""
    if at >= len(data):
        return None
    prefix = data[at] >> 6
    size = 1 << prefix
    if len(data) < at + size:
        return None
    value = int.from_bytes(data[at : at + size], "big") & (1 << (8 * size - 2)) - 1
    if prefix and value < 1 << (8 * (size >> 1) - 2):  # two spellings of one length: refused
        raise FormatError("a chunk's length is not in its shortest form", reason="ohttp_malformed")
    return value, at + size
