"""The prompts of a calibration: a file's lines, or made-up ones; which of them follows from a seed.

No prompt is asked twice: the answer would be the same, and a percentile of copies is none.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from gateway.text import plain
from gateway.verify.proofs.draws import below, shuffled

from ._appraise_inputs import Usage
from ._proof_answer import read_file

MAX_COUNT = 100_000
BUILTIN = "builtin"
_FRAMES = (
    "Tell me a story about a {0} and a {1}.",
    "Write a story about the {0} in the {1}.",
    "Tell me a long story about a {0}, a {1} and a {2}.",
    "What would a {0} say to a {1} about the {2}?",
    "Describe the {0} beside the {1}.",
)
_WORDS = (  # noqa: SIM905 - read as text
    "acorn badger beetle bell boat bottle bridge broom butcher camel carpet castle cherry clock cloud compass "
    "crow curtain dancer door dragon drum eagle falcon fence ferry fiddle fisherman flute fountain gardener "
    "gate ghost glove hammer harp hat hedgehog hill horn hound island king knot lamp lantern lemon lizard loaf "
    "map market meadow miller monkey moon mountain needle nest oak otter owl painter pear pony queen rabbit "
    "raven rider river road robin rooster rose sailor salmon shepherd ship shoe shore sparrow spider spoon "
    "star stone storm stove swan tailor thief tiger tower train tree turtle valley violin wagon wall weaver "
    "well whale wheel willow window wizard"
).split()


def prompts(source: str, count: int, seed: int) -> list[str]:
    """`count` different prompts from `source`, a path or `builtin`. Raises `Usage` where there are not so many."""
    key = hashlib.sha256(f"veriroute calibration prompts {seed}".encode()).digest()
    if source == BUILTIN:
        return _made(count, key)
    lines = _lines(Path(source))
    if len(lines) < count:
        raise Usage(f"{plain(source)} has {len(lines)} different prompts, one a line, and {count} are to be asked")
    order, _ = shuffled(len(lines), key, 0)
    return [lines[place] for place in order[:count]]


def _made(count: int, key: bytes) -> list[str]:
    found: dict[str, None] = {}
    place = 0
    while len(found) < count:
        chosen = []
        for bound in (len(_FRAMES), *[len(_WORDS)] * 3):
            number, place = below(bound, key, place)
            chosen.append(number)
        found[_FRAMES[chosen[0]].format(*(_WORDS[number] for number in chosen[1:]))] = None
    return list(found)


def _lines(path: Path) -> list[str]:
    try:
        text = read_file(path).decode()
    except UnicodeDecodeError:
        raise Usage(f"{plain(str(path))} is no UTF-8 text") from None
    return list(dict.fromkeys(line.strip() for line in text.split("\n") if line.strip()))
