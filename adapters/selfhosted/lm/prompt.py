"""Conversations as tokens: ``<start>`` and then, for each turn, ``<role> text <end>``.

Roles are special tokens, so no text can open or close a turn. The model answers after an open ``<assistant>``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .tokenizer import Tokenizer

ROLES = ("system", "user", "assistant", "call", "tool", "text")
Turn = tuple[str, str]


def encode_turns(tokenizer: Tokenizer, turns: Iterable[Turn]) -> list[int]:
    """The tokens of a whole document. `turns` are (role of `ROLES`, text)."""
    end = tokenizer.special["<end>"]
    out = [tokenizer.special["<start>"]]
    for role, text in turns:
        out.append(tokenizer.special[f"<{role}>"])
        out += tokenizer.encode(text)
        out.append(end)
    return out


def encode_open(tokenizer: Tokenizer, turns: Sequence[Turn]) -> list[int]:
    """The tokens of a conversation whose last turn is not ended, and goes on. There is at least one turn."""
    return encode_turns(tokenizer, turns)[:-1]


def encode_prompt(
    tokenizer: Tokenizer, turns: Sequence[Turn], answer_as: str = "assistant", opening: str = ""
) -> list[int]:
    """The tokens of a conversation that waits for a turn of `answer_as`, which begins with `opening`."""
    return [*encode_turns(tokenizer, turns), tokenizer.special[f"<{answer_as}>"], *tokenizer.encode(opening)]
