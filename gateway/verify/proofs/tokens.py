"""The tokens of an answer and their log-probs, as the OpenAI API gives them, read strictly.

    choices[i].logprobs.content[] = {"token": str, "logprob": number, "bytes": [0..255] | null,
                                     "top_logprobs": [{"token", "logprob", "bytes"}, …]}

Numbers are finite by the time they get here (JSON that spells NaN or an infinity is refused) and are at most zero, save
for rounding. Servers write "not computed" as -9999.0 or as the lowest float there is: everything below `FLOOR` counts
as `FLOOR`, so that no sum can overflow. Whether there were log-probs at all is an outcome of its own (`Presence`):
an answer without them, an empty one and one of a single token show nothing by themselves, and nobody should have to
find that out from an average of nothing.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError

MAX_BODY = 64 * 1024 * 1024
#: Longer answers than any network gives today; a token costs about 300 bytes with five alternatives.
MAX_TOKENS = 131_072
MAX_TOP = 128
MAX_TOKEN_CHARS = 1024
#: What vLLM writes for a token that was not computed. Lower values are read as this one.
FLOOR = -9999.0
#: A log-prob is never positive; rounding of float32 makes it so by less than this.
_ROUNDING = 1e-3
#: How servers write a token as its id (`return_tokens_as_token_ids`).
TOKEN_ID = "token_id:"  # noqa: S105
_MAX_ID = 2**31 - 1


class Presence(enum.StrEnum):
    """Whether an answer has log-probs to look at."""

    SCORED = "scored"
    ABSENT = "logprobs_absent"
    EMPTY = "empty_answer"
    ONE_TOKEN = "one_token"  # noqa: S105


class Position(msgspec.Struct, frozen=True):
    """One token: its text, its natural-log probability, its bytes where given, and the log-probs of alternatives.

    `top` maps token text to log-prob and may or may not hold the token itself. Of alternatives with the same text,
    which servers do send for pieces of a character, the likeliest counts.
    """

    token: str
    logprob: float
    top: Mapping[str, float]
    raw: bytes | None = None


class Scored(msgspec.Struct, frozen=True):
    """The tokens of one choice in order, and whether there are any. `positions` is empty unless scored or one token."""

    presence: Presence
    positions: tuple[Position, ...] = ()


def read_choice(body: bytes) -> tuple[Mapping[str, object], Scored]:
    """The one choice of a chat completion's `body`, as JSON, and its tokens.

    Raises `FormatError` for a body that is not strict JSON, has not exactly one choice (another would be released and
    compared with nothing), or whose log-probs are not of the OpenAI form or over the limits of this module.
    """
    document = strict_json(body, max_bytes=MAX_BODY)
    choices = document.get("choices") if isinstance(document, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise FormatError("the answer has not exactly one choice")
    return choices[0], read_logprobs(choices[0].get("logprobs"))


def read_logprobs(logprobs: object) -> Scored:
    """The tokens in the member `logprobs` of a choice. Raises `FormatError` for what is not of the OpenAI form."""
    if logprobs is None:
        return Scored(Presence.ABSENT)
    if not isinstance(logprobs, dict):
        raise FormatError("logprobs is not an object")
    content = logprobs.get("content")
    if content is None:
        return Scored(Presence.ABSENT)
    if not isinstance(content, list) or len(content) > MAX_TOKENS:
        raise FormatError(f"logprobs.content is not a list of at most {MAX_TOKENS} tokens")
    positions = tuple(_position(entry, index) for index, entry in enumerate(content))
    return Scored(_presence(len(positions)), positions)


def token_ids(positions: tuple[Position, ...], choice: Mapping[str, object]) -> tuple[int, ...] | None:
    """The ids of the tokens that were given out, None where the node did not tell them.

    From vLLM's `choices[].token_ids` (`return_token_ids`), else from tokens written `token_id:N`
    (`return_tokens_as_token_ids`). Raises `FormatError` for ids that are no ids, or not as many as there are tokens.
    """
    listed = choice.get("token_ids")
    if listed is not None:
        if not isinstance(listed, list) or len(listed) > MAX_TOKENS or not all(_is_id(i) for i in listed):
            raise FormatError("token_ids is not a list of token ids")
        if positions and len(positions) != len(listed):
            raise FormatError(f"there are {len(listed)} token_ids and {len(positions)} log-probs")
        return tuple(listed)
    if not positions or not all(p.token.startswith(TOKEN_ID) for p in positions):
        return None
    return tuple(_spelled_id(p.token) for p in positions)


def is_piece(token: str) -> bool:
    """Whether `token` may be a piece of a character, which servers write each in its own way: as U+FFFD, as `bytes:…`,
    or as nothing, with the whole character at the token that completes it."""
    return not token or "\ufffd" in token or token.startswith("bytes:")


def number(value: object, what: str) -> float:
    """`value` as a finite float of at most 10**6, with everything below `FLOOR` read as `FLOOR`.

    Raises `FormatError` naming `what` for another type (a bool is no number), NaN, infinities and larger numbers.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not -math.inf < value <= 1e6:
        raise FormatError(f"{what} is not a finite number")
    return float(max(value, FLOOR))  # in this order: an integer may be beyond any float


def _presence(tokens: int) -> Presence:
    if tokens == 0:
        return Presence.EMPTY
    return Presence.ONE_TOKEN if tokens == 1 else Presence.SCORED


def _position(entry: object, index: int) -> Position:
    where = f"logprobs.content[{index}]"
    token, logprob, raw = _token(entry, where)
    alternatives = entry.get("top_logprobs") if isinstance(entry, dict) else None
    alternatives = [] if alternatives is None else alternatives
    if not isinstance(alternatives, list) or len(alternatives) > MAX_TOP:
        raise FormatError(f"{where}.top_logprobs is not a list of at most {MAX_TOP} tokens")
    _same_text(token, raw, where)
    top: dict[str, float] = {}
    for alternative in alternatives:
        text, value, _ = _token(alternative, f"{where}.top_logprobs")
        top[text] = max(value, top.get(text, FLOOR))
    return Position(token, logprob, top, raw)


def _token(entry: object, where: str) -> tuple[str, float, bytes | None]:
    if not isinstance(entry, dict):
        raise FormatError(f"{where} is not an object")
    token = entry.get("token")
    if not isinstance(token, str) or len(token) > MAX_TOKEN_CHARS:
        raise FormatError(f"{where}.token is not a text of at most {MAX_TOKEN_CHARS} characters")
    logprob = number(entry.get("logprob"), f"{where}.logprob")
    if logprob > _ROUNDING:
        raise FormatError(f"{where}.logprob is positive")
    return token, logprob, _bytes(entry.get("bytes"), where)


def _bytes(value: object, where: str) -> bytes | None:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) > 4 * MAX_TOKEN_CHARS:
        raise FormatError(f"{where}.bytes is not a list of bytes")
    if not all(type(b) is int and 0 <= b <= 255 for b in value):
        raise FormatError(f"{where}.bytes is not a list of bytes")
    return bytes(value)


def _same_text(token: str, raw: bytes | None, where: str) -> None:
    """Refuse bytes that say something else than the token: one would be appraised, and the other spell the text."""
    if raw is None or token.startswith(TOKEN_ID) or raw.decode("utf-8", "replace") == token:
        return
    if not token.startswith("bytes:") or len(raw) > 8:  # OpenAI's way to write a piece of a character
        raise FormatError(f"{where}.bytes are not those of its token")


def _is_id(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MAX_ID


def _spelled_id(token: str) -> int:
    digits = token.removeprefix(TOKEN_ID)
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 10 or int(digits) > _MAX_ID:
        raise FormatError("a token is written token_id:N and N is no token id")
    return int(digits)
