"""What was seen in an answer while it passed: facts about its form, unjudged."""

from __future__ import annotations

import msgspec


class Call(msgspec.Struct, frozen=True):
    """One executable member: its kind (`tool_calls`, `custom`, `function_call`, `tool_use`, …), name, arguments text or
    None."""

    kind: str
    name: str
    arguments: str | None


class Observation(msgspec.Struct, frozen=True):
    """Facts about one answer. A `…_problem` is a sentence for a person, None when nothing is wrong. Of the tools that
    the request `declared`, the `custom` ones take a text as it is."""

    malformed: str | None = None
    shape: str | None = None
    stream_grammar: str | None = None
    models: tuple[str, ...] = ()
    answer_id: str | None = None
    calls: tuple[Call, ...] = ()
    declared: frozenset[str] | None = None
    custom: frozenset[str] = frozenset()
    text_is_call: bool = False
    stream: bool = False
    input_tokens: int | None = None
    output_tokens: int | None = None
