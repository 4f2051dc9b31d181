"""Whether the tokens that evidence is about spell the text that an agent will read.

Log-probs stand beside the text, not in it: a node could run the right model, send its tokens for the appraisal, and put
another text into `message.content`. So the tokens are put together again and have to be that text, byte for byte. Three
liberties, all of what honest servers do: the last token may be a stop token that is not shown, known by its angle
brackets, for leaving out just any last token could turn 100 into 10; the text may end before one of the request's own
stop strings, which the last token completes; and reasoning that a server moved into a member of its own may stand
before the text, with nothing but whitespace and think tags between.

All else that an agent might read as the answer would be words that no token spells. Reasoning told twice, and the text
of a completion beside a chat message, differ, whatever the content is. A refusal, or a member of the message that is
not known here, makes the whole unknown: honest servers have such, and nothing says how they are spelled. Tool calls are
passed over; what covers those is not decided here.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping, Sequence

from .tokens import Position

_BETWEEN = re.compile(r"(?:\s|</?think>)*")
_CLOSED = "</think>"
_STOP = re.compile(r"<[^<>\s]{1,40}>")
_REPLACED = "\ufffd"
#: Members of a message that are compared here, that say nothing of the answer's words, or that others judge.
_COMPARED = frozenset({"content", "reasoning", "reasoning_content"})
_PASSED_OVER = frozenset({"role", "tool_calls", "function_call"})
#: Stop strings that are looked at; servers take four, or sixteen.
_MAX_STOPS = 64


class Spelling(enum.StrEnum):
    """`UNKNOWN`: a token is a piece of a character and its bytes were not told, there is no text to compare, or more
    than a text, or nothing says where reasoning ends."""

    SAME = "same"
    DIFFERS = "text_not_tokens"
    UNKNOWN = "spelling_unknown"


def stops_of(request: Mapping[str, object]) -> tuple[str, ...]:
    """The stop strings that `request`, as JSON, asks for."""
    stop = request.get("stop")
    listed = stop if isinstance(stop, list) else [stop]
    return tuple(text for text in listed[:_MAX_STOPS] if isinstance(text, str) and text)


def spelling(texts: Sequence[str], choice: Mapping[str, object], stops: Sequence[str] = ()) -> Spelling:
    """Whether `texts`, one for each token, spell the message of a chat `choice` (or the text of a completion's), which
    ends where one of `stops` came."""
    if _told_twice(choice):
        return Spelling.DIFFERS
    content, reasoning = _shown_text(choice)
    if content is None:
        return Spelling.UNKNOWN
    whole = "".join(texts)
    found = [_spells(whole, content, reasoning)]
    if texts and _STOP.fullmatch(texts[-1]):
        found.append(_spells("".join(texts[:-1]), content, reasoning))
    if texts and not reasoning and any(_stopped(whole, content, stop, len(texts[-1])) for stop in stops):
        found.append(Spelling.SAME)
    if Spelling.SAME in found:
        return Spelling.SAME
    return Spelling.UNKNOWN if Spelling.UNKNOWN in found or _REPLACED in whole else Spelling.DIFFERS


def _stopped(whole: str, content: str, stop: str, last: int) -> bool:
    """Whether `content` is what is left of `whole` once `stop` came in its last token, `last` characters long.

    Had it come earlier, the server would have ended there: tokens after it are written by nobody who is honest. Some
    servers can be asked to leave the stop string in the text.
    """
    until = content if content.endswith(stop) else content + stop
    return whole.startswith(until) and len(whole) - last < len(until)


def position_texts(positions: Sequence[Position]) -> list[str]:
    """What each position adds to the text; where all tell their bytes, those are joined before they are decoded."""
    raws = [p.raw for p in positions]
    told = [raw for raw in raws if raw is not None]
    if not positions or len(told) != len(raws):
        return [p.token for p in positions]
    head = b"".join(told[:-1]).decode("utf-8", "replace")
    whole = b"".join(told).decode("utf-8", "replace")
    # A last token that completes a character cannot be taken away alone; then there is one text, not two.
    return [head, whole.removeprefix(head)] if whole.startswith(head) else [whole]


def _told_twice(choice: Mapping[str, object]) -> bool:
    """Whether there are two answers in `choice`: which one an agent reads, its library decides."""
    message = choice.get("message")
    if not isinstance(message, Mapping):
        return False
    reasoned = [message[name] for name in ("reasoning_content", "reasoning") if message.get(name)]
    return bool(choice.get("text")) or (len(reasoned) > 1 and reasoned[0] != reasoned[1])


def _shown_text(choice: Mapping[str, object]) -> tuple[str | None, str]:
    message = choice.get("message")
    if not isinstance(message, Mapping):
        text = choice.get("text")
        return (text, "") if isinstance(text, str) else (None, "")
    content = message.get("content")
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    if not isinstance(content, str) or not isinstance(reasoning, str):
        return None, ""
    if any(value for name, value in message.items() if name not in _COMPARED and name not in _PASSED_OVER):
        return None, ""
    return content, reasoning


def _spells(text: str, content: str, reasoning: str) -> Spelling:
    if not reasoning:
        return Spelling.SAME if text == content else Spelling.DIFFERS
    content, reasoning = content.strip(), reasoning.strip()
    start = text.find(reasoning)
    end = text.rfind(content)
    between = text[start + len(reasoning) : end]
    if start < 0 or end < start + len(reasoning) or text[end + len(content) :].strip():
        return Spelling.DIFFERS
    if not all(_BETWEEN.fullmatch(part) for part in (text[:start], between)):
        return Spelling.DIFFERS
    # "Do not" and "pay." spell what "Do not pay." does, and read otherwise: only a tag says that the model parted them.
    return Spelling.SAME if _CLOSED in between else Spelling.UNKNOWN
