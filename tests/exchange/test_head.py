"""Reading the head of a request: strict where we rely on it, silent elsewhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.exchange.head import LARGEST, MOST_CHOICES, MOST_MEMBERS, MOST_SESSIONS, clean_request_id, parse_head

CHAT = "/v1/chat/completions"


def body(**members: object) -> bytes:
    return json.dumps({"model": "m", "messages": [], **members}).encode()


def test_reads_what_routing_needs() -> None:
    """Model, stream, n, tools and ACI's constraints are read; everything else is left alone."""
    head = parse_head(
        CHAT,
        body(
            stream=True,
            n=2,
            tools=[
                {"type": "function", "function": {"name": "f"}},
                {"type": "custom", "custom": {"name": "c"}},
                {"type": "web_search"},
            ],
            functions=[{"name": "g"}],
            provider={"aci_verified": True, "aci_session_ids": ["s1"]},
            x_unknown={"deep": [1, {"model": "not ours"}]},
        ),
    )
    assert (head.model, head.stream, head.n) == ("m", True, 2)
    assert (head.tools, head.custom) == ({"c", "f", "g", "web_search"}, {"c"})
    assert head.aci_verified is True
    assert head.aci_session_ids == ("s1",)


@pytest.mark.parametrize(
    ("tool", "names"),
    [
        ({"type": "web_search_preview"}, {"web_search_preview", "web_search"}),
        ({"type": "web_search_preview_2025_03_11"}, {"web_search_preview_2025_03_11", "web_search"}),
        ({"type": "web_search_2025_08_26"}, {"web_search_2025_08_26", "web_search"}),
        ({"type": "computer_use_preview", "display_width": 1}, {"computer_use_preview", "computer"}),
        ({"type": "code_interpreter"}, {"code_interpreter"}),
        ({"type": "web_search_20250305", "name": "web_search"}, {"web_search"}),
        (
            {"type": "code_execution_20250825", "name": "code_execution"},
            {"code_execution", "bash_code_execution", "text_editor_code_execution"},
        ),
        ({"name": "code_execution", "input_schema": {}}, {"code_execution"}),
        ({"type": "function", "name": "web_search_preview"}, {"web_search_preview"}),
        ({"type": "namespace", "name": "crm", "tools": [{"type": "function", "name": "f"}]}, {"f"}),
        ({"type": "namespace", "name": "crm"}, set()),
        ({"type": "function", "name": "f", "tools": 1, "server_label": 2}, {"f"}),
        ({"type": "mcp", "server_label": "s"}, {"mcp:'s'"}),
        ({"type": "mcp", "server_label": "s", "allowed_tools": ["a", "b"]}, {"mcp:'s'/a", "mcp:'s'/b"}),
        ({"type": "mcp", "server_label": "s", "allowed_tools": {"tool_names": ["a"]}}, {"mcp:'s'/a"}),
        ({"type": "mcp", "server_label": "s", "allowed_tools": {"read_only": True}}, {"mcp:'s'"}),
        ({"type": "mcp_toolset", "mcp_server_name": "s"}, {"mcp:'s'"}),
        ({"type": "mcp"}, {"mcp"}),
    ],
)
def test_a_tool_is_declared_by_what_it_is_called(tool: dict[str, object], names: set[str]) -> None:
    """A built-in tool by its type without the edition, one with parts by theirs, those of a namespace or server by it."""
    assert parse_head("/v1/responses", body(tools=[tool])).tools == names


def test_a_namespace_is_read_like_the_list_of_tools() -> None:
    """What is not valid in it is the caller's mistake; a custom tool in it is one."""
    inside = {"type": "custom", "name": "sh"}
    assert parse_head("/v1/responses", body(tools=[{"type": "namespace", "tools": [inside]}])).custom == {"sh"}
    with pytest.raises(BadRequest, match="tools is not valid") as refused:
        parse_head("/v1/responses", body(tools=[{"type": "namespace", "tools": [{"name": 1}]}]))
    assert refused.value.param == "tools"


def test_schemas_of_tools_may_have_any_integer() -> None:
    """The largest of an unsigned type is beyond what other readers of numbers agree on; a name twice is none the less."""
    for limit in (2**64 - 1, 2**63, -(2**63) - 1, 10**30):
        schema = {"type": "object", "properties": {"seed": {"type": "integer", "maximum": limit}}}
        assert parse_head(
            CHAT, body(tools=[{"type": "function", "function": {"name": "f", "parameters": schema}}])
        ).tools
        twice = json.dumps(schema).replace('"type"', '"x": 1, "x"', 1)
        with pytest.raises(BadRequest, match="key 'x' twice"):
            parse_head(CHAT, b'{"model":"m","tools":[{"name":"f","parameters":' + twice.encode() + b"}]}")


@pytest.mark.parametrize(
    ("prompt", "n", "choices"),
    [
        ("a", None, 1),
        (["a"], 2, 2),
        (["a", "b"], None, 2),
        (["a", "b"], 2, 4),
        ([1, 2, 3], None, 1),
        ([[1, 2], [3]], None, 2),
        ([], None, 1),
        ({"a": 1}, None, 1),
        (None, None, 1),
        (["a" * LARGEST, "b"], None, 1),
    ],
)
def test_completions_have_choices_for_each_prompt(prompt: object, n: int | None, choices: int) -> None:
    """A list of texts, or of lists of token ids, is so many prompts; a list of token ids is one."""
    assert parse_head("/v1/completions", body(prompt=prompt, n=n)).n == choices
    assert parse_head(CHAT, body(prompt=prompt, n=n)).n == (n or 1)


def test_completions_ask_for_a_number_of_choices_that_can_be_counted() -> None:
    """More than that are the caller's mistake; and a second `prompt` would be other prompts to another reader."""
    assert parse_head("/v1/completions", body(prompt=["a"] * 128, n=128)).n == MOST_CHOICES
    for bad in (body(prompt=["a"] * 129, n=128), b'{"model":"m","prompt":["a"],"prompt":"b"}'):
        with pytest.raises(BadRequest) as refused:
            parse_head("/v1/completions", bad)
        assert refused.value.param == "prompt"


def test_defaults() -> None:
    """Without stream, n and tools there is one unstreamed choice and no tool."""
    head = parse_head("/v1/messages", body(stream=None, n=None, tools=None))
    assert (head.stream, head.n, head.tools, head.aci_verified) == (False, 1, frozenset(), None)


@pytest.mark.parametrize(
    ("raw", "param", "says"),
    [
        (b"", None, "not one JSON object: it is empty"),
        (b"[]", None, "object"),
        (b"{", None, "not one JSON object"),
        (b'{"model":"m"} {}', None, "trailing"),
        (b'\xef\xbb\xbf{"model":"m"}', None, "not one JSON object"),
        ('{"model":"m"}'.encode("utf-16"), None, ""),
        (b'{"model":"m","x":"\xff"}', None, "UTF-8"),
        (b'{"model":"m","x":NaN}', None, "not one JSON object"),
        (b'{"model":"m","x":"\\ud800"}', None, "not one JSON object"),
        (b'{"model":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", None, "nested"),
        (b'{"messages":[]}', "model", "missing"),
        (b'{"model":7}', "model", "Expected"),
        (b'{"model":null}', "model", "Expected"),
        (b'{"model":""}', "model", "1 to 256"),
        (b'{"model":"' + b"m" * 257 + b'"}', "model", "1 to 256"),
        (b'{"model":"m","stream":"yes"}', "stream", "Expected"),
        (b'{"model":"m","n":0}', "n", "1 to 128"),
        (b'{"model":"m","n":1e9}', "n", ""),
        (b'{"model":"m","n":' + b"9" * 6000 + b"}", "n", "range"),
        (b'{"model":"m","seed":' + b"9" * 6000 + b"}", "seed", "range"),
        (b'{"model":"m","temperature":"hot"}', "temperature", "Expected"),
        (b'{"model":"m","tools":{}}', "tools", "Expected"),
        (b'{"model":"m","tools":[3]}', "tools", "Expected"),
        (b'{"model":"m","provider":{"aci_verified":"false"}}', "provider.aci_verified", "Expected"),
        (b'{"model":"m","provider":{"aci_verified":0}}', "provider.aci_verified", "Expected"),
        (b'{"model":"m","provider":{"aci_verified":null}}', "provider.aci_verified", "Expected"),
        (b'{"model":"m","provider":{"aci_verified":[]}}', "provider.aci_verified", "Expected"),
        (b'{"model":"m","provider":{"loose":true}}', "provider", "unknown"),
        (b'{"model":"a","model":"b"}', "model", "twice"),
        (b'{"model":"a","\\u006dodel":"b"}', "model", "twice"),
        (b'{"model":"a","stream":true,"stream":false}', "stream", "twice"),
        (b'{"model": "a", "model": "b"}', "model", "twice"),
        (b'{"x:y":1,"n":1,"x\\u003ay":{":":1},"n":2, "model":"a"}', "n", "twice"),
        (b'{"model":"a","provider":{},"provider":{"aci_verified":true}}', "provider", "twice"),
        (b'{"model":"a","x":{"model":"b"},"model":"c","x":{"n":1,"n":1}}', "model", "twice"),
        (b'{"model":"a","provider":{"aci_verified":true,"aci_verified":false}}', "aci_verified", "twice"),
        (b'{"model":"a","tools":[{"name":"f","name":"g"}]}', "tools", "not well-formed"),
        (b'{"model":"a","functions":[{"name":"f","name":"g"}]}', "functions", "not well-formed"),
    ],
)
def test_refuses_and_names_the_place(raw: bytes, param: str | None, says: str) -> None:
    """A body that two readers could read differently, or of a wrong type, is refused and the field is named."""
    with pytest.raises(BadRequest) as caught:
        parse_head(CHAT, raw)
    assert says in str(caught.value)
    assert caught.value.param == param


def filled(unit: bytes, before: bytes, after: bytes, size: int = LARGEST) -> bytes:
    """A little more than `size` bytes: a good model, `before`, many of `unit` with commas between, `after`."""
    return b'{"model":"m",' + before + b",".join([unit] * (size // (len(unit) + 1) + 2)) + after + b"}"


@pytest.mark.parametrize(
    ("before", "unit", "after", "param"),
    [
        (b'"tools":[', b"[]", b"]", "tools"),
        (b'"stream":true,"functions":[', b"{}", b"]", "functions"),
        (b'"tools":[{}],"provider":{"aci_session_ids":[', b'"s"', b"]}", "provider"),
        (b'"provider":{"', b"k" * 1000, b'":1}', "provider"),
        (b'"seed":1', b"0" * LARGEST, b"", "seed"),
    ],
)
def test_what_is_read_of_a_body_is_bounded(before: bytes, unit: bytes, after: bytes, param: str) -> None:
    """Too large a member is refused by its size, before an object is made of it; the message has name and bound."""
    raw = filled(unit, before, after) if param != "seed" else b'{"model":"m",' + before + unit + b"}"
    with pytest.raises(BadRequest) as caught:
        parse_head(CHAT, raw)
    assert caught.value.param == param
    assert caught.value.message.startswith(f"{param} is too large: ")
    assert f"may take {LARGEST} bytes" in caught.value.message


def test_tools_below_the_bound_and_a_conversation_beyond_it_are_read() -> None:
    """Half a mebibyte of tools beside megabytes of messages is an ordinary request."""
    tools = [{"type": "function", "function": {"name": f"f{i}", "description": "x" * 4000}} for i in range(128)]
    head = parse_head(CHAT, body(tools=tools, messages=[{"role": "user", "content": "y" * 3 * LARGEST}]))
    assert len(head.tools) == 128


def test_the_sessions_that_a_request_names_are_counted() -> None:
    """As many as are allowed are taken, and one more is refused by the member's name."""
    ids = [f"s{i}" for i in range(MOST_SESSIONS + 1)]
    head = parse_head(CHAT, body(provider={"aci_session_ids": ids[1:]}))
    assert head.aci_session_ids == tuple(ids[1:])
    with pytest.raises(BadRequest, match="1024") as caught:
        parse_head(CHAT, body(provider={"aci_session_ids": ids}))
    assert caught.value.param == "provider.aci_session_ids"


@pytest.mark.parametrize(
    "spelled", [b'"\\u003a": 1, ', b'"x\\u003Ay": 1, ', b'"\\\\\\u003a": 1, ', b'"x": 1, "x": 1, ']
)
def test_a_large_body_is_not_read_twice(spelled: bytes) -> None:
    """Where only a second reading could tell whether a member stands twice, a large body is refused and told why."""
    with pytest.raises(BadRequest, match="must have each member once, and no colon written as an escape"):
        parse_head(CHAT, filled(b"[]", spelled + b'"messages":[', b"]"))
    assert parse_head(CHAT, filled(b"[]", spelled + b'"messages":[', b"]", 1000)).model == "m"


@pytest.mark.parametrize("spelled", [rb"\u003c", rb"\u003e", rb"\\u003a", rb"\\\u003c", rb"\u00e9:", rb"\\\\u003A"])
def test_a_large_body_with_other_escapes_is_read(spelled: bytes) -> None:
    """Escapes as ordinary encoders write them, and texts about escapes, need no second reading."""
    raw = filled(b'"' + spelled + b'"', b'"messages": [', b"]", 3 * LARGEST)
    assert parse_head(CHAT, raw).model == "m"


@pytest.mark.parametrize("form", ['"%d":1', '"%d" :1', '"%d"\n:\t1', '"\\\\%d\\\\":1', '"\\"%d\\"":{"a":1}'])
@pytest.mark.parametrize("inside", [False, True])
def test_a_large_body_has_not_any_number_of_members(form: str, inside: bool) -> None:
    """Each would cost its share of a second in which nobody else is served, however it is spelled; texts do not count."""

    def crowd(count: int) -> bytes:
        spelled = ",".join([form % at for at in range(count // form.count(":"))])
        rest = '"z":{' + spelled + "}" if inside else spelled
        return f'{{"model":"m","messages":"{"x" * LARGEST}",{rest}}}'.encode()

    with pytest.raises(BadRequest, match=f"may have {MOST_MEMBERS} members, of all objects together"):
        parse_head(CHAT, crowd(MOST_MEMBERS))
    assert parse_head(CHAT, crowd(MOST_MEMBERS - 3)).model == "m"


@pytest.mark.parametrize("text", [r"\":", ": ", r"\\\" :", r"\"\\:"])
def test_a_text_of_colons_has_no_members(text: str) -> None:
    """As quoted JSON and code have them."""
    raw = '{"model":"m","messages":"%s"}' % (text * (LARGEST // 2))
    assert parse_head(CHAT, raw.encode()).model == "m"


@pytest.mark.parametrize("name", ["k" * 5000, "missing required field `model`" + "k" * 5000])
def test_a_long_name_is_cut_in_the_message(name: str) -> None:
    """What a caller chose to name a member does not come back whole."""
    with pytest.raises(BadRequest, match="unknown field") as caught:
        parse_head(CHAT, body(provider={name: 1}))
    assert len(caught.value.message) < 300
    assert caught.value.param == "provider"


def test_a_second_model_inside_a_message_is_nobodys_business() -> None:
    """The word "model" may stand in the conversation, also as a member of something deeper."""
    raw = b'{"model":"m","messages":[{"role":"user","content":"\\"model\\": x"}],"meta":{"model":"other"}}'
    assert parse_head(CHAT, raw).model == "m"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","x":1,"x":2}',
        b'{"model": "m", "x": 1, "x": 2}',
        b'{"model":"m","messages":[{"n":1,"n":2,"model":"a","model":"b"}]}',
        b'{"model":"m","tools":[{"type":"function","function":{"name":"f","parameters":{"n":{},"m":{"n":{}}}}}]}',
        b'{"model":"m","a:b":1,"a\\u003ab":2}',
        b' {"model" : "m" , "x":"\\u003a" } ',
    ],
)
def test_what_is_not_read_may_stand_twice(raw: bytes) -> None:
    """Members that we do not read, and those of objects inside, are the node's business."""
    assert parse_head(CHAT, raw).model == "m"


_ESCAPES = (r'"\u003A"', r'"\u003c"', r'"\\u003a"', r'"\\\u003a"', r'{"\u003a": 1}', r'"\\"')
_NAMES = st.sampled_from(["model", "n", "x", "a:b", "é", 'q"', "stream", "\x01", "\\:", "<"])
_VALUES = st.sampled_from(
    ['"m"', "1", "null", "true", '{"model":"a","model":"b"}', '[":"]', '"\\u003a"', '{"n": 1 }', *_ESCAPES]
)


def _spelled(name: str, how: int) -> str:
    return json.dumps(name, ensure_ascii=how == 1) if how < 2 else '"' + "".join(f"\\u{ord(c):04x}" for c in name) + '"'


@given(
    st.lists(st.tuples(_NAMES, st.integers(0, 2), _VALUES), max_size=5),
    st.sampled_from([("", ""), (" ", "  "), ("\n", "")]),
)
@settings(max_examples=1000, deadline=None)
def test_a_second_of_what_is_read_is_found_however_it_is_written(
    members: list[tuple[str, int, str]], space: tuple[str, str]
) -> None:
    """Whatever stands around it, however the names are spelled: refused as twice exactly when one of ours is."""
    parts = ['"model":"m"', *(f"{_spelled(name, how)}{space[0]}:{space[1]}{value}" for name, how, value in members)]
    raw = ("{" + f"{space[1]},".join(parts) + "}").encode()
    names = ["model", *(name for name, _, _ in members)]
    twice = any(names.count(name) > 1 for name in ("model", "n", "stream"))
    said = None
    try:
        parse_head(CHAT, raw)
    except BadRequest as refusal:
        said = str(refusal)
    assert said is not None or not twice
    assert twice or "twice" not in (said or "")  # a wrong type may be found first


def test_a_wide_number_in_an_unread_member_travels() -> None:
    """What we don't read is the node's business, whatever it is."""
    assert parse_head(CHAT, b'{"model":"m","x":' + b"1" * 6000 + b',"y":"\\u0041"}').model == "m"


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_head_or_a_refusal(raw: bytes) -> None:
    """No input raises anything but BadRequest."""
    try:
        parse_head(CHAT, raw)
    except BadRequest:
        return


@given(st.text(max_size=40), st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_the_model_is_read_as_written(model: str, other: str) -> None:
    """A model id comes through exactly, whatever stands beside it."""
    raw = json.dumps({"x": other, "model": model, "messages": [{"content": other}]}).encode("utf-8", "surrogatepass")
    try:
        assert parse_head(CHAT, raw).model == model
    except BadRequest:
        assert not model or any(0xD800 <= ord(c) < 0xE000 for c in model + other)


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b"abc-123_X.y", True),
        (b"a" * 128, True),
        (b"a" * 129, False),
        (b"", False),
        (b"a b", False),
        (b"a\r\nb", False),
        (b"\x1b[2J", False),
        (b"caf\xc3\xa9", False),
        (b"a\n", False),
    ],
)
def test_only_clean_request_ids_are_kept(value: bytes, kept: bool) -> None:
    """A caller's request id is kept when it is plain, dropped otherwise, and never cleaned into something else."""
    assert clean_request_id(value) == (value.decode() if kept else None)


def test_nesting_is_refused_at_every_depth() -> None:
    """Both looks at a body have a depth at which they give up, and between the two it is nested too deeply as well."""
    said = set()
    for depth in range(700, 1100):
        data = b'{"model":"m","model":"m","x":' + b"[" * depth + b"]" * depth + b"}"
        with pytest.raises(BadRequest) as caught:
            parse_head(CHAT, data)
        said.add(caught.value.message)
    assert said <= {"the member 'model' stands twice in the body", "the body is nested too deeply"}
    assert "the body is nested too deeply" in said
