"""Tool calls and structured answers keep to their schemas, whatever the model would rather say."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.selfhosted.lm.engine import CallOpen, CallPart, Done, Engine, Job, Text, Tool, Usage, named
from adapters.selfhosted.lm.generate import Limits
from adapters.selfhosted.lm.sampling import Sampling
from adapters.selfhosted.lm.schema import Builder, Unsatisfiable, conforms, spans, words
from gateway.errors import BadRequest


def calls(engine: Engine, text: str, *tools: Tool, **job: Any) -> list[tuple[str, Any]]:
    """The calls that are made, their arguments decoded."""
    found: dict[int, list[str]] = {}
    for event in engine.run(Job(turns=(("user", text),), tools=tools, sampling=Sampling(temperature=0.0), **job)):
        if isinstance(event, CallOpen):
            found[event.number] = [event.name, ""]
        elif isinstance(event, CallPart):
            found[event.number][1] += event.text
        elif isinstance(event, Done) and found:
            assert event.reason == "tool_calls"
    return [(name, json.loads(arguments)) for name, arguments in found.values()]


def obj(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required or list(properties)}


TEXT = {"type": "string"}
WEATHER = Tool("get_weather", obj(["city"], city=TEXT, unit={"type": "string", "enum": ["celsius", "fahrenheit"]}))
ADD = Tool("add", obj(a={"type": "integer"}, b={"type": "integer"}))


@pytest.mark.parametrize(
    ("text", "tool", "expected"),
    [
        ("What is the weather in Paris?", WEATHER, {"city": "Paris"}),
        ("Use get_weather for Brno", WEATHER, {"city": "Brno"}),
        ("How is the weather in Tokyo in celsius?", WEATHER, {"city": "Tokyo", "unit": "celsius"}),
        ("Add 17 and 25", ADD, {"a": 17, "b": 25}),
        ("add two and three", ADD, {"a": 2, "b": 3}),
        ('Call read_file with "/etc/hosts"', Tool("read_file", obj(path=TEXT)), {"path": "/etc/hosts"}),
        ("read the file notes.txt please", Tool("read_file", obj(path=TEXT)), {"path": "notes.txt"}),
    ],
)
def test_a_named_tool_is_called(engine: Engine, text: str, tool: Tool, expected: dict[str, Any]) -> None:
    """A prompt that names a tool gets a call of it, with arguments taken from the prompt."""
    assert calls(engine, text, tool) == [(tool.name, expected)]


def test_no_tool_without_a_reason(engine: Engine) -> None:
    """A prompt that names no tool, or a choice of none, gets text."""
    assert calls(engine, "What is attestation?", WEATHER, ADD) == []
    assert calls(engine, "What is the weather in Paris?", WEATHER, choose="none") == []
    assert calls(engine, "Hello") == []


def test_forced_tools(engine: Engine) -> None:
    """`required` calls some tool, a name calls that one, each with arguments that fit."""
    ((name, arguments),) = calls(engine, "Hello there", WEATHER, ADD, choose="required")
    assert conforms(arguments, {"get_weather": WEATHER, "add": ADD}[name].parameters)
    ((name, arguments),) = calls(engine, "Hello there", WEATHER, ADD, choose="add")
    assert name == "add"
    assert conforms(arguments, ADD.parameters)


def test_several_tools_in_order(engine: Engine) -> None:
    """Several named tools are called in the order of mention, or only the first when calls may not be parallel."""
    text = "First call add with 1 and 2, then get_weather for Rome"
    assert [name for name, _ in calls(engine, text, WEATHER, ADD)] == ["add", "get_weather"]
    assert [name for name, _ in calls(engine, text, WEATHER, ADD, parallel=False)] == ["add"]


def test_after_a_result_it_speaks(engine: Engine) -> None:
    """With the tool's result in the conversation the answer is text about it."""
    turns = (
        ("user", "What is the weather in Paris?"),
        ("call", '{"name": "get_weather", "arguments": {"city": "Paris"}}'),
        ("tool", "17 degrees and sunny"),
    )
    events = list(engine.run(Job(turns=turns, tools=(WEATHER,), sampling=Sampling(temperature=0.0))))
    assert not any(isinstance(e, CallOpen) for e in events)
    assert "sunny" in "".join(e.piece.text for e in events if isinstance(e, Text))


def test_a_document_in_a_given_form(engine: Engine) -> None:
    """An answer with a schema is one JSON document that keeps to it; its prose is the model's own answer."""
    schema = obj(answer=TEXT, confidence={"type": "number", "minimum": 0, "maximum": 1})
    job = Job(turns=(("user", "What is a nonce?"),), schema=schema, sampling=Sampling(temperature=0.0))
    text = "".join(e.piece.text for e in engine.run(job) if isinstance(e, Text))
    document = json.loads(text)
    assert conforms(document, schema)
    assert "nonce" in document["answer"]


def flat(_: str, options: Any) -> list[float]:
    """A model that finds everything equally likely."""
    return [0.0 for _ in options]


REFERENCE = {
    "type": "object",
    "properties": {"to": {"$ref": "#/$defs/address"}},
    "required": ["to"],
    "$defs": {"address": obj(street=TEXT, number={"type": "integer"})},
}

SCHEMAS: list[dict[str, Any]] = [
    obj(),
    {},
    {"type": "object"},
    obj(flag={"type": "boolean"}, nothing={"type": "null"}, fixed={"const": [1, {"a": None}]}),
    obj(level={"enum": [3, "high", None]}),
    obj(n={"type": "integer", "minimum": 5, "maximum": 7}),
    obj(n={"type": "integer", "exclusiveMinimum": 5}),
    obj(n={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
    obj(n={"type": "integer", "multipleOf": 7, "minimum": 20}),
    obj(n={"type": "integer", "maximum": -5}),
    obj(s={"type": "string", "minLength": 30}),
    obj(s={"type": "string", "maxLength": 2}),
    obj(s={"type": "string", "maxLength": 0}),
    obj(s={"type": "string", "pattern": "^[0-9]{4}$", "default": "2026"}),
    obj(s={"type": "string", "pattern": "^a+$", "minLength": 3}),
    obj(d={"type": "string", "format": "date"}, u={"type": "string", "format": "uuid"}),
    obj(e={"type": "string", "format": "email"}, w={"type": "string", "format": "uri"}),
    obj(items={"type": "array", "items": TEXT, "minItems": 3, "uniqueItems": True}),
    obj(items={"type": "array", "maxItems": 0}),
    obj(pair={"type": "array", "prefixItems": [TEXT, {"type": "integer"}], "minItems": 2}),
    obj(x={"anyOf": [{"type": "null"}, {"type": "string", "minLength": 1}]}),
    obj(x={"oneOf": [{"type": "integer"}, {"type": "string"}]}),
    obj(x={"type": ["null", "string"]}),
    obj(x={"allOf": [{"type": "integer"}, {"minimum": 3}]}),
    {**obj(a=TEXT), "additionalProperties": False},
    {"type": "object", "required": ["only_named"]},
    {"properties": {"optional": {"type": "string", "pattern": "(a+)+$"}, "sure": TEXT}, "required": ["sure"]},
    obj(deep=obj(deeper=obj(deepest={"type": "array", "items": obj(x={"type": "number"})}))),
    REFERENCE,
]


def test_a_document_is_cut_by_max_tokens(engine: Engine) -> None:
    """A document is cut after `max_tokens` tokens, and usage counts those that were sent."""
    job = Job(turns=(("user", "Hello"),), schema={"enum": ["hello world \u00fc\u00fc and more"]}, limits=Limits(3), n=2)
    events = list(engine.run(job))
    assert [e.reason for e in events if isinstance(e, Done)] == ["length", "length"]
    assert isinstance(events[-1], Usage)
    assert events[-1].completion == 6
    whole = list(engine.run(replace(job, limits=Limits(1000))))
    assert [e.reason for e in whole if isinstance(e, Done)] == ["stop", "stop"]


@pytest.mark.parametrize("schema", SCHEMAS, ids=json.dumps)
@pytest.mark.parametrize("text", ["", "Send 5 euros to Ada Lovelace at ada@example.org on 2026-05-01, please."])
def test_every_value_keeps_to_its_schema(schema: dict[str, Any], text: str) -> None:
    """Whatever the schema, with or without words to take from, what is built conforms and survives JSON."""
    value = Builder(text, flat).build(schema)
    assert conforms(value, schema)
    assert json.loads(json.dumps(value)) == value


def test_formats_are_found_in_the_text() -> None:
    """A date, an address or a link that the user wrote is preferred to a made-up one."""
    schema = obj(d={"type": "string", "format": "date"}, e={"type": "string", "format": "email"})
    assert Builder("Mail bo@x.org on 2027-02-03", flat).build(schema) == {"d": "2027-02-03", "e": "bo@x.org"}


def test_optional_members_when_spoken_of() -> None:
    """An optional member is filled when the user speaks of it, and left out otherwise."""
    schema = obj(["city"], city=TEXT, days={"type": "integer"})
    assert set(Builder("weather in Rome for 3 days", flat).build(schema)) == {"city", "days"}
    assert set(Builder("weather in Rome", flat).build(schema)) == {"city"}


@pytest.mark.parametrize(
    "schema",
    [
        obj(s={"type": "string", "pattern": "^Q[xyz]{7}$"}),
        obj(s={"type": "string", "pattern": "(a+)+$"}),
        obj(s={"type": "string", "pattern": "("}),
        obj(n={"type": "integer", "minimum": 3, "maximum": 2}),
        obj(x={"anyOf": [{"type": "integer", "minimum": 3, "maximum": 2}]}),
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        obj(x={"type": "array", "minItems": 2, "uniqueItems": True, "items": {"const": 1}}),
        {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
    ],
    ids=json.dumps,
)
def test_what_cannot_be_met_is_refused(schema: dict[str, Any]) -> None:
    """A schema that the model cannot meet is the caller's error, never an answer that breaks it."""
    with pytest.raises(Unsatisfiable):
        Builder("some words 9", flat).build(schema)


@pytest.mark.parametrize(
    "schema", [{"properties": ["a"]}, {"properties": 5}, {"required": 3}, {"type": "array", "minItems": "x"}]
)
def test_what_is_no_schema_is_refused(engine: Engine, schema: dict[str, Any]) -> None:
    """A document that is no JSON Schema is the caller's error."""
    with pytest.raises(BadRequest, match="response_format"):
        list(engine.run(Job(turns=(("user", "Hello"),), schema=schema)))


_LEAF = st.sampled_from(
    [
        TEXT,
        {"type": "integer"},
        {"type": "boolean"},
        {"enum": ["a", "b"]},
        {"type": "number", "minimum": 0},
        {"type": "null"},
    ]
)
_SCHEMA = st.recursive(
    _LEAF,
    lambda inner: st.one_of(
        st.dictionaries(st.text(min_size=1, max_size=8), inner, max_size=3).map(
            lambda p: {"type": "object", "properties": p, "required": list(p)}
        ),
        inner.map(lambda i: {"type": "array", "items": i, "minItems": 1}),
        st.lists(inner, min_size=1, max_size=2).map(lambda o: {"anyOf": o}),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(_SCHEMA, st.text(max_size=60))
def test_any_schema_any_text(schema: dict[str, Any], text: str) -> None:
    """Schemas of these words can always be met."""
    assert conforms(Builder(text, flat).build(schema), schema)


def test_conforms_refuses() -> None:
    """The check that guards what leaves refuses each kind of misfit."""
    for value, schema in [
        (1, TEXT),
        (True, {"type": "integer"}),
        (1.5, {"type": "integer"}),
        ("c", {"enum": ["a"]}),
        ({}, obj(a=TEXT)),
        ({"a": "x", "b": 1}, {**obj(a=TEXT), "additionalProperties": False}),
        ([1, 1], {"type": "array", "uniqueItems": True}),
        ([], {"type": "array", "minItems": 1}),
        ("abc", {"type": "string", "pattern": "^b"}),
        (3, {"oneOf": [{"type": "integer"}, {"type": "number"}]}),
        (3, {"multipleOf": 2}),
        ("x", {"format": "date"}),
        (None, False),
    ]:
        assert not conforms(value, schema), (value, schema)


def test_words_and_spans() -> None:
    """Identifiers fall into words; spans are runs of the text that begin and end with something."""
    assert words("get_userName HTTPServer 12") == ["get", "user", "name", "http", "server", "12"]
    found = spans("What is the weather in New York City?", 50)
    assert "New York City" in found
    assert "in New" not in found


def test_named_by_words() -> None:
    """A tool is named by its identifier, by the same words in order, or by the words that are its own."""
    tools = [WEATHER, Tool("createInvoice", {}), Tool("list_files", {})]
    assert [t.name for t in named(tools, "please create invoice 7")] == ["createInvoice"]
    assert [t.name for t in named(tools, "which file is there?")] == ["list_files"]
    assert named(tools, "nothing of that kind") == []
