"""Byte-level byte-pair tokens: every text has tokens, and tokens joined give back exactly its UTF-8 bytes.

Token numbers: 0-255 the bytes, then the merges in the order they were learned, then the special tokens. Special tokens
have no text: nothing that a caller writes can become one, so a message cannot forge the end of its own turn.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise

#: Words with the blank before them, single digits, runs of signs, single white space. Together they cover every text.
PIECES = re.compile(r" ?[^\W\d_]+| ?\d| ?[^\w\s]+|_+|\s")

SPECIALS = ("<start>", "<system>", "<user>", "<assistant>", "<call>", "<tool>", "<text>", "<end>")


class Tokenizer:
    """`merges` are pairs of token numbers; merge number `i` makes token `256 + i`."""

    def __init__(self, merges: Sequence[tuple[int, int]]) -> None:
        self._rank = {tuple(pair): number for number, pair in enumerate(merges)}
        self.bytes_of: list[bytes] = [bytes([b]) for b in range(256)]
        for left, right in merges:
            self.bytes_of.append(self.bytes_of[left] + self.bytes_of[right])
        self.special = {name: len(self.bytes_of) + number for number, name in enumerate(SPECIALS)}
        self.longest = max(map(len, self.bytes_of))  #: bytes that one token can have
        self.text_size = len(self.bytes_of)  #: tokens below this number have text
        self.size = self.text_size + len(SPECIALS)
        self._piece = lru_cache(maxsize=16384)(self._merge)

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`. A lone surrogate, which UTF-8 cannot hold, becomes `?`."""
        out: list[int] = []
        for match in PIECES.finditer(text):
            out += self._piece(match.group().encode("utf-8", "replace"))
        return out

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes of `tokens`; special tokens add nothing. A token may end inside a letter."""
        return b"".join(self.bytes_of[t] for t in tokens if t < self.text_size)

    def decode(self, tokens: Iterable[int]) -> str:
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def shown(self, token: int) -> bytes:
        """How a list of tokens shows `token`: its bytes, or the name of a special one, which is no text."""
        return self.bytes_of[token] if token < self.text_size else SPECIALS[token - self.text_size].encode()

    def _merge(self, piece: bytes) -> tuple[int, ...]:
        parts = list(piece)
        rank = self._rank
        while len(parts) > 1:
            best = min(pairwise(parts), key=lambda pair: rank.get(pair, 1 << 30))
            if best not in rank:
                break
            made, merged, i = 256 + rank[best], [], 0
            while i < len(parts):
                if i + 1 < len(parts) and (parts[i], parts[i + 1]) == best:
                    merged.append(made)
                    i += 2
                else:
                    merged.append(parts[i])
                    i += 1
            parts = merged
        return tuple(parts)
