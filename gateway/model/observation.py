"""What was seen in an answer while it passed: facts about its form, unjudged."""

from __future__ import annotations

from typing import Any

import msgspec


def server_tools(server: str, names: list[Any] | None) -> list[str]:
    """How the tools of an MCP server are declared: those of `names`, or, where it is None, whichever the server has.

    The server's name stands in quotes: without them, tool `b` of `a` would be the server `a/b`.
    """
    whole = f"mcp:{server!r}"
    return [whole] if names is None else [f"{whole}/{name}" for name in names]


class Call(msgspec.Struct, frozen=True):
    """One executable member: its kind (`tool_calls`, `custom`, `function_call`, `tool_use`, …), name, arguments text or
    None; and the MCP server that has the tool, if one does."""

    kind: str
    name: str
    arguments: str | None
    server: str | None = None

    def declared(self, tools: frozenset[str]) -> bool:
        """Whether a request with `tools` declared what is called."""
        if self.server is None:
            return self.name in tools
        return not tools.isdisjoint((*server_tools(self.server, None), *server_tools(self.server, [self.name])))


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
