"""The head of a request: the few fields we must read from its body. The bytes themselves travel untouched.

Reading is strict where we rely on a field and silent elsewhere: unknown members are not looked at, but a body that is
not one well-formed UTF-8 JSON object, or that repeats a member that we read, is refused and names the place.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import BadRequest, FormatError
from gateway.model.observation import server_tools

#: Members that we read, so that a second copy of one would let two readers see two requests.
READ = ("model", "stream", "n", "tools", "functions", "provider", "prompt")
READ_OF_PROVIDER = ("aci_verified", "aci_session_ids")

#: Bytes that what we read of a body may take, and a body that has to be read twice. Of either, Python's objects are
#: made: in fifty times the memory, and a tenth of a second in which nobody else is served. Tools of a mebibyte are a
#: quarter of a million tokens; a model has hardly room for a conversation beside them.
LARGEST = 1 << 20

#: Members of all objects of a body that is longer. For each of its own Python makes two objects; a conversation of
#: 32 MiB has some ten thousand in its messages, and texts without end.
MOST_MEMBERS = 250_000

#: Choices that one answer may have, of completions of several prompts.
MOST_CHOICES = 16_384

#: Sessions that a request may name: more than a gateway has nodes.
MOST_SESSIONS = 1024

#: What stands behind the name of a built-in tool in its type: `web_search_preview_2025_03_11` is called `web_search`.
_EDITION = re.compile(r"(_use)?(_preview)?(_[0-9]{4}_[0-9]{2}_[0-9]{2})?$")
#: A tool of Anthropic's that is called by the names of its parts.
_PARTS = {"code_execution": ("bash_code_execution", "text_editor_code_execution")}

_AT = re.compile(r" - at `\$\.?([^`]*)`$")


class Head(msgspec.Struct, frozen=True):
    """What the route, the policy and the appraisal need to know of a request.

    `n` is how many choices an answer has to have, which of completions are as many for each prompt; `tools` are the
    names of the tools that it declares, `custom` those of them that take a text as it is, and no JSON; `aci_verified`
    and `aci_session_ids` are ACI's constraints.
    """

    endpoint: str
    model: str
    stream: bool
    n: int
    tools: frozenset[str]
    aci_verified: bool | None = None
    aci_session_ids: tuple[str, ...] | None = None
    custom: frozenset[str] = frozenset()


class _Function(msgspec.Struct):
    name: str | None = None


class _Tool(msgspec.Struct):
    type: str | None = None
    name: str | None = None
    function: _Function | None = None
    custom: _Function | None = None
    server_label: Any = None
    mcp_server_name: Any = None
    allowed_tools: Any = None
    tools: Any = None


class _Provider(msgspec.Struct, forbid_unknown_fields=True):
    # `None` is no value of theirs: the sentinel keeps an explicit null an error.
    aci_verified: bool = msgspec.field(default=None)  # type: ignore[assignment]
    aci_session_ids: Annotated[list[str], msgspec.Meta(max_length=MOST_SESSIONS)] = msgspec.field(default=None)  # type: ignore[arg-type]


class _Body(msgspec.Struct):
    model: str
    stream: bool | None = None
    n: int | None = None
    tools: msgspec.Raw = msgspec.Raw()  # empty: absent
    functions: msgspec.Raw = msgspec.Raw()
    provider: _Provider | msgspec.UnsetType = msgspec.UNSET
    # Not used, but a wrong type here is the caller's mistake and better said by name than by the node.
    seed: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None


_decode = msgspec.json.Decoder(_Body).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_each = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_NO_TOOLS: frozenset[str] = frozenset()


def parse_head(endpoint: str, body: bytes) -> Head:
    """The head of `body`, sent to `endpoint`. Raises `BadRequest` naming the field or the byte."""
    try:
        if not body.isascii():
            body.decode()
        if len(body) > LARGEST and body.count(b":") > MOST_MEMBERS:
            _refuse_crowd(body)
        members = _members(body)
        # Only what we read is looked into, and no conversation of megabytes.
        ours = _encode({name: members[name] for name in _Body.__struct_fields__ if name in members})
        if len(ours) > LARGEST:
            raise _too_large(members)
        parsed = _decode(ours)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None
    except UnicodeDecodeError as error:
        raise BadRequest(f"the body is not UTF-8 (byte {error.start})") from None
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body is not one JSON object: {error if body else 'it is empty'}") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    _refuse_seconds(body, members, READ)
    if not parsed.model or len(parsed.model) > 256:
        raise BadRequest("model must be a text of 1 to 256 characters", param="model")
    n = 1 if parsed.n is None else parsed.n
    if not 1 <= n <= 128:
        raise BadRequest("n must be 1 to 128", param="n")
    if endpoint == "/v1/completions" and "prompt" in members:
        n *= _prompts(bytes(members["prompt"]))
        if n > MOST_CHOICES:
            raise BadRequest(f"prompt and n ask for more than {MOST_CHOICES} choices", param="prompt")
    provider = parsed.provider
    verified: bool | None = None
    sessions: tuple[str, ...] | None = None
    if isinstance(provider, _Provider):
        raw = bytes(members["provider"])
        _refuse_seconds(raw, _members(raw), READ_OF_PROVIDER)
        verified = provider.aci_verified
        sessions = tuple(provider.aci_session_ids) if provider.aci_session_ids is not None else None
    tools, custom = _tools(parsed)
    return Head(endpoint, parsed.model, bool(parsed.stream), n, tools, verified, sessions, custom)


def clean_request_id(value: bytes) -> str | None:
    """A caller's request id when it is made of `[A-Za-z0-9._-]`, 1 to 128 of them; None otherwise."""
    if re.fullmatch(rb"[A-Za-z0-9._-]{1,128}", value) is None:
        return None
    return value.decode()


def _prompts(raw: bytes) -> int:
    """How many prompts `raw` is, in JSON: a text or a list of token ids is one, a list of texts or of such lists has as
    many as it has items. One that is too large to be looked into counts as one."""
    if raw[:1] != b"[" or len(raw) > LARGEST or raw[1:].lstrip()[:1] not in (b'"', b"["):
        return 1
    return len(_each(raw))


def _tools(parsed: _Body) -> tuple[frozenset[str], frozenset[str]]:
    """The names of the tools that are declared, and of the custom ones among them."""
    if not parsed.tools and not parsed.functions:
        return _NO_TOOLS, _NO_TOOLS
    names, custom = set(), set()
    for tool in _list("tools", parsed.tools, list[_Tool]):
        for one in _grouped(tool):
            called = _called(one)
            names.update(called)
            if one.type == "custom":
                custom.update(called)
    for function in _list("functions", parsed.functions, list[_Function]):
        names.add(function.name or "")
    names.discard("")
    return frozenset(names), frozenset(custom)


def _grouped(tool: _Tool) -> list[_Tool]:
    """The tools of a namespace, which are called by their own names; any other tool by itself."""
    if tool.type != "namespace":
        return [tool]
    try:
        return msgspec.convert(tool.tools or [], list[_Tool])
    except msgspec.ValidationError as error:
        raise BadRequest(f"tools is not valid: {error}", param="tools") from None


def _called(tool: _Tool) -> list[str]:
    """The names by which answers call `tool`. Those of an MCP server begin with `mcp:` and the server's (`server_tools`
    of `gateway.model.observation`)."""
    server = tool.server_label if tool.type == "mcp" else tool.mcp_server_name if tool.type == "mcp_toolset" else None
    if isinstance(server, str):
        allowed = tool.allowed_tools
        if isinstance(allowed, dict):
            allowed = allowed.get("tool_names")
        return server_tools(server, allowed if isinstance(allowed, list) else None)
    # Chat completions nest the name under `function` or `custom`; responses and messages have it on the tool.
    name = (tool.function or tool.custom or tool).name
    if name:
        return [name, *(_PARTS.get(name, ()) if (tool.type or "").startswith(f"{name}_") else ())]
    kind = tool.type or ""
    return [kind, _EDITION.sub("", kind, count=1)]


def _list(member: str, raw: msgspec.Raw, kind: Any) -> Any:
    """A list of tools, read exactly: a tool named twice over could be declared under one name and called by another.

    Of integers none is read, and schemas have some beyond 63 bits: the largest of an unsigned type.
    """
    data = bytes(raw)
    if not data:
        return ()
    try:
        value = strict_json(data, max_bytes=len(data), max_depth=128, any_integer=True)
        return () if value is None else msgspec.convert(value, kind)
    except FormatError as error:
        raise BadRequest(f"{member} is not well-formed: {error}", param=member) from None
    except msgspec.ValidationError as error:
        raise BadRequest(f"{member} is not valid: {error}", param=member) from None


def _refuse_crowd(body: bytes) -> None:
    """Refuse a body of too many members, counted by what each has and no text can hold: a quote before a colon."""
    dense = body.translate(None, b" \t\r\n").replace(rb"\\", b"")
    if dense.count(b'":') - dense.count(rb"\":") > MOST_MEMBERS:
        raise BadRequest(
            f"a body of more than {LARGEST} bytes may have {MOST_MEMBERS} members, of all objects together"
        )


def _too_large(members: dict[str, msgspec.Raw]) -> BadRequest:
    sizes = {name: len(bytes(members[name])) for name in _Body.__struct_fields__ if name in members}
    name = max(sizes, key=sizes.__getitem__)
    together = " and ".join(sizes)
    return BadRequest(f"{name} is too large: {together} may take {LARGEST} bytes together", param=name)


def _invalid(error: msgspec.ValidationError) -> BadRequest:
    text = str(error)
    if text.startswith("Object missing required field"):  # there is one
        # Of the client APIs, OpenAI's moderations leave it out: there is one service behind those.
        return BadRequest("model is missing: it says which nodes may answer", param="model")
    match = _AT.search(text)
    if len(text) > 300:  # it quotes a name that the caller chose
        text = f"{text[:120]}…{text[-60:]}"
    return BadRequest(f"the body is not valid: {text}", param=(match and match[1]) or None)


def _refuse_seconds(data: bytes, members: dict[str, msgspec.Raw], names: tuple[str, ...]) -> None:
    """Refuse the object `data`, which was read as `members`, when one of `names` stands in it twice.

    Objects inside of it may do as they like: we do not read them.
    """
    if _has_each_once(data, members):
        return
    if len(data) > LARGEST:
        raise BadRequest(
            f"a body of more than {LARGEST} bytes must have each member once, and no colon written as an escape"
        )
    outermost: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> None:
        outermost[:] = [name for name, _ in items]  # of objects the outermost ends last

    try:
        json.loads(data, object_pairs_hook=pairs, parse_int=str, parse_float=str)
    except ValueError:  # pragma: no cover - no text is known that the decoder takes and this one does not
        raise BadRequest("the body is not one JSON object") from None
    except RecursionError:
        raise BadRequest("the body is nested too deeply") from None
    for name in names:
        if outermost.count(name) > 1:
            raise BadRequest(f"the member {name!r} stands twice in the body", param=name)


def _has_each_once(data: bytes, members: dict[str, msgspec.Raw]) -> bool:
    """Whether the object `data` is quickly seen to have no member twice; False where it takes a closer look.

    Of members that stand twice the decoder keeps one, and what it keeps of each is its bytes. Written again they are
    never longer than they were, so as many bytes mean that none was dropped. Where there was space between members, as
    many colons mean it: each member has one, and every other stands in a text, unless it was spelled as an escape.
    """
    again = _encode(members)
    if len(again) == len(data):
        return True
    return again.count(b":") == data.count(b":") and (rb"\u003" not in data or not _escapes_a_colon(data))


def _escapes_a_colon(data: bytes) -> bool:
    r"""Whether a text of the JSON document `data` spells a colon as an escape, and not `\\u003a`, which is none."""
    escapes = data.replace(rb"\\", b"")
    return rb"\u003a" in escapes or rb"\u003A" in escapes
