"""Learn the merges of the tokenizer from texts: the most frequent pair first, ties to the smaller pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

from adapters.selfhosted.lm.tokenizer import PIECES


def learn(texts: Iterable[str], merges: int) -> list[tuple[int, int]]:
    words = Counter(m.group().encode() for text in texts for m in PIECES.finditer(text))
    split = {word: list(word) for word in words}
    learned: list[tuple[int, int]] = []
    while len(learned) < merges:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, parts in split.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        made = 256 + len(learned)
        learned.append(best)
        for word, parts in split.items():
            if best[0] in parts and len(parts) > 1:
                split[word] = _apply(parts, best, made)
    return learned


def _apply(parts: list[int], pair: tuple[int, int], made: int) -> list[int]:
    out: list[int] = []
    i = 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == pair:
            out.append(made)
            i += 2
        else:
            out.append(parts[i])
            i += 1
    return out
