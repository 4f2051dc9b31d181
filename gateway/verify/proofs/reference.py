"""What a reference model says of given tokens: vLLM's `prompt_logprobs`, read strictly.

A reference is handed prompt and answer as one list of token ids and returns, for every position, the log-probs (or
logits) of its own likeliest tokens and of the token that stands there:

    prompt_logprobs = [null, {"<token id>": {"logprob": x, "rank": r, "decoded_token": s}, …}, …]

at the top of a chat completion, in `choices[0]` of a completion; older servers write x in place of the object. Values
are any finite number, for a reference may return raw logits; only differences are ever used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError

from .tokens import MAX_BODY, MAX_TOKEN_CHARS, MAX_TOKENS, TOKEN_ID, Position, number

MAX_CANDIDATES = 2048
_MAX_ID = 2**31 - 1

#: Token id -> log-prob or logit, for the tokens that the reference told of one position.
Scores = Mapping[int, float]


class Reexecuted(msgspec.Struct, frozen=True):
    """The reference's scores at each position of the answer, and how it spells the tokens, None where it did not.

    `tops` are the same scores by the tokens' texts; of tokens with one text the likeliest counts, and those whose text
    it did not tell are left out.
    """

    scores: tuple[Scores, ...]
    texts: tuple[str, ...] | None
    tops: tuple[Mapping[str, float], ...] = ()


def read_reference(body: bytes, prompt: Sequence[int], answer: Sequence[int]) -> Reexecuted:
    """The scores for `answer`, given after `prompt`, both as token ids, in the `body` of the reference's response.

    Raises `FormatError` for a body that is no strict JSON or not of vLLM's form; with the reason
    `reference_incomplete` where it covers other positions than these tokens, or leaves out a token that stands there.
    """
    listed = _find(strict_json(body, max_bytes=MAX_BODY))
    if len(listed) != len(prompt) + len(answer) or len(listed) > 2 * MAX_TOKENS:
        raise FormatError(
            f"prompt_logprobs has {len(listed)} positions, not {len(prompt) + len(answer)}",
            reason="reference_incomplete",
        )
    scores, texts, tops = [], [], []
    for index, token in enumerate(answer, len(prompt)):
        found, text, top = _read(listed[index], token, index)
        if token not in found:
            raise FormatError(f"prompt_logprobs[{index}] leaves out its own token", reason="reference_incomplete")
        scores.append(found)
        texts.append(text)
        tops.append(top)
    spelled = [t for t in texts if t is not None]
    return Reexecuted(tuple(scores), tuple(spelled) if len(spelled) == len(texts) else None, tuple(tops))


def _find(document: object) -> list[object]:
    if not isinstance(document, dict):
        raise FormatError("the reference's response is not an object")
    listed = document.get("prompt_logprobs")
    if listed is None:
        choices = document.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        listed = first.get("prompt_logprobs") if isinstance(first, dict) else None
    if not isinstance(listed, list):
        raise FormatError("the reference's response has no prompt_logprobs", reason="reference_incomplete")
    return listed


def _read(entry: object, token: int, index: int) -> tuple[dict[int, float], str | None, dict[str, float]]:
    where = f"prompt_logprobs[{index}]"
    if not isinstance(entry, dict) or not 0 < len(entry) <= MAX_CANDIDATES:
        raise FormatError(f"{where} is not an object of at most {MAX_CANDIDATES} tokens")
    scores: dict[int, float] = {}
    top: dict[str, float] = {}
    text: str | None = None
    for key, value in entry.items():
        candidate = _id(key, where)
        spelled = value.get("decoded_token") if isinstance(value, dict) else None
        if spelled is not None and (not isinstance(spelled, str) or len(spelled) > MAX_TOKEN_CHARS):
            raise FormatError(f"{where}.decoded_token is not a text of at most {MAX_TOKEN_CHARS} characters")
        if candidate == token:
            text = spelled
        score = number(value.get("logprob") if isinstance(value, dict) else value, where)
        scores[candidate] = score
        if spelled is not None:
            top[spelled] = max(score, top.get(spelled, score))
    return scores, text, top


def positions(
    told: Reexecuted, answer: Sequence[int], alternatives: int, *, by_id: bool
) -> tuple[Position, ...] | None:
    """What the reference says of `answer` as an OpenAI API would, with so many alternatives to each token.

    For comparison with a node that tells as many: of more, those that it leaves out would count against it. `by_id`
    writes tokens as `token_id:N`, as servers do where they are asked to. None where the reference does not spell every
    token and has to.
    """
    if by_id:
        texts: tuple[str, ...] | None = tuple(f"{TOKEN_ID}{token}" for token in answer)
        tops: Sequence[Mapping[str, float]] = [
            {f"{TOKEN_ID}{token}": x for token, x in row.items()} for row in told.scores
        ]
    else:
        texts, tops = told.texts, told.tops
    if texts is None:
        return None
    rows = zip(texts, answer, told.scores, tops, strict=True)
    return tuple(Position(text, row[token], _best(top, alternatives)) for text, token, row, top in rows)


def _best(top: Mapping[str, float], count: int) -> dict[str, float]:
    return dict(sorted(top.items(), key=lambda item: (-item[1], item[0]))[:count])


def _id(key: str, where: str) -> int:
    if not (key.isascii() and key.isdigit()) or len(key) > 10 or (key[0] == "0" and key != "0") or int(key) > _MAX_ID:
        raise FormatError(f"{where} has a key that is no token id")
    return int(key)
