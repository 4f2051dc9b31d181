"""Tool calls, JSON and labels are equal in canonical form, or differ."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import FormatError
from gateway.verify.proofs import structured
from gateway.verify.proofs.structured import Form, canonical, form_of

TEXT, JSON, LABEL = Form.TEXT, Form.JSON, Form.LABEL


def said(content: object, **more: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": content} | more}


def call(arguments: object, name: object = "pay", content: object = None) -> dict[str, Any]:
    return said(
        content, tool_calls=[{"id": "call_x", "type": "function", "function": {"name": name, "arguments": arguments}}]
    )


#: A call with an innocent function beside the one that its type names.
CUSTOM = {
    "type": "custom",
    "function": {"name": "pay", "arguments": "{}"},
    "custom": {"name": "shell", "input": "rm -rf ~"},
}


@pytest.mark.parametrize(
    ("a", "b", "form"),
    [
        (call('{"to":"a","sum":1}'), call(' {"sum": 1.0, "to": "\\u0061"}'), TEXT),
        (call(""), call("{}"), TEXT),
        (call("{}", content=""), call("{}"), TEXT),
        (said(None, function_call={"name": "pay", "arguments": "[1,2]"}), said(None, function_call={"name": "pay", "arguments": "[1, 2]"}), TEXT),
        (said('{"a":1,"b":[1,2]}'), said('{ "b" : [1,2], "a": 1 }'), JSON),
        (said("yes\n"), said(" yes"), LABEL),
    ],
)  # fmt: skip
def test_equal(a: dict[str, Any], b: dict[str, Any], form: Form) -> None:
    """The order of members, white space, and the spelling of numbers and letters make no difference."""
    assert canonical(a, form) == canonical(b, form) is not None


@pytest.mark.parametrize(
    ("a", "b", "form"),
    [
        (call('{"sum":1}'), call('{"sum":2}'), TEXT),
        (call('{"sum":1}'), call('{"sum":"1"}'), TEXT),
        (call("{}"), call("{}", name="refund"), TEXT),
        (call("{}"), call("{}", content="I pay."), TEXT),
        (call("{}"), said("pay({})"), TEXT),
        (said("[1,2]"), said("[2,1]"), JSON),
        (said("1"), said("1"), None),
        (said("yes"), said("Yes"), LABEL),
    ],
)
def test_different(a: dict[str, Any], b: dict[str, Any], form: Form | None) -> None:
    """Another value, type, name, order of a list or text beside a call is another answer."""
    if form is None:
        assert canonical(a, JSON) != canonical(b, LABEL)
    else:
        assert canonical(a, form) != canonical(b, form)


def test_text_has_no_canonical_form() -> None:
    """Free text is not compared by value, even where it is JSON; an empty list of calls is none."""
    assert canonical(said('{"a":1}'), TEXT) is None
    assert canonical(said("x", tool_calls=[]), TEXT) is None
    assert canonical(said(None), TEXT) is None


@pytest.mark.parametrize(
    ("choice", "form", "reason"),
    [
        ({}, TEXT, None),
        ({"message": "x"}, TEXT, None),
        (said(5), TEXT, None),
        (said(""), JSON, "empty_answer"),
        (said(" \n"), LABEL, "empty_answer"),
        (said(None), LABEL, "empty_answer"),
        (said('{"a":1,"a":2}'), JSON, None),
        (said("{} {}"), JSON, None),
        (said("[NaN]"), JSON, None),
        (said("9007199254740993"), JSON, None),
        (said('"\ud800"'), JSON, None),
        (call('{"a":1,"a":2}'), TEXT, None),
        (call({}), TEXT, None),
        (call("{}", name=None), TEXT, None),
        (said(None, tool_calls={"0": 1}), TEXT, None),
        (said(None, tool_calls=["x"]), TEXT, None),
        (said(None, tool_calls=[{"function": "x"}]), TEXT, None),
        (said(None, tool_calls=[{}], function_call={}, **{}), TEXT, None),
        (said(None, tool_calls=[1], function_call={"name": "a"}), TEXT, None),
        (said("no", refusal="I will not"), TEXT, "not_comparable"),
        (said("no", audio={"data": "x"}), TEXT, "not_comparable"),
        (said('{"a":1}', parsed={"a": 2}), JSON, "not_comparable"),
        (said(None, tool_calls=[CUSTOM]), TEXT, "not_comparable"),
        (said(None, tool_calls=[CUSTOM | {"type": "function"}]), TEXT, "not_comparable"),
        (said(None, tool_calls=[{"type": "custom", "function": CUSTOM["function"]}]), TEXT, "not_comparable"),
    ],
    ids=lambda x: ascii(x)[:60],
)
def test_refused(choice: dict[str, Any], form: Form, reason: str | None) -> None:
    """What two readers could read differently, or what no comparison looks at, has no canonical form."""
    with pytest.raises(FormatError) as caught:
        canonical(choice, form)
    assert caught.value.reason == reason


def test_calls_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of tool calls is refused."""
    monkeypatch.setattr(structured, "MAX_CALLS", 0)
    with pytest.raises(FormatError, match="at most 0 calls"):
        canonical(call("{}"), TEXT)


@pytest.mark.parametrize(
    ("request_", "form"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, JSON),
        ({"response_format": {"type": "json_object"}}, JSON),
        ({"response_format": {"type": "text"}}, TEXT),
        ({"response_format": "json_object"}, TEXT),
        ({}, TEXT),
        ([], TEXT),
    ],
)
def test_form_of_a_request(request_: object, form: Form) -> None:
    """A request for JSON is answered in JSON; anything else is text."""
    assert form_of(request_) is form
