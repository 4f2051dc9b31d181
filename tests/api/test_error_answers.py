"""How errors of our tree look to a caller."""

from __future__ import annotations

import json

import pytest

from gateway import errors
from gateway.api.errors import error_object, event, render


def every_error() -> list[type[errors.VerirouteError]]:
    found = [errors.VerirouteError]
    for cls in found:
        found += cls.__subclasses__()
    return [cls for cls in found if cls.__module__ == "gateway.errors"]


@pytest.mark.parametrize("cls", every_error())
def test_every_error_renders_in_openai_shape(cls: type[errors.VerirouteError]) -> None:
    """Status, code and type come from the class; the four members of the SDK's error object are always there."""
    status, headers, body = render(cls("What to do."))
    named = dict(headers)
    assert status == cls.status
    assert named[b"content-type"] == b"application/json"
    assert int(named[b"content-length"]) == len(body)
    error = json.loads(body)["error"]
    assert error == {"message": "What to do.", "type": cls.type, "param": None, "code": cls.code}


@pytest.mark.parametrize("cls", every_error())
def test_a_retry_is_invited_or_forbidden_never_left_to_the_sdk(cls: type[errors.VerirouteError]) -> None:
    """SDKs retry 5xx on their own, so each one says whether that helps."""
    _, headers, _ = render(cls("x"))
    named = dict(headers)
    assert (b"retry-after" in named) == cls.retryable
    assert (named.get(b"x-should-retry") == b"false") == (cls.status >= 500 and not cls.retryable)


@pytest.mark.parametrize(("seconds", "retry"), [(1, None), (60, None), (61, b"false"), (3600, b"false")])
def test_a_wait_that_no_sdk_has_is_told_and_not_invited(seconds: int, retry: bytes | None) -> None:
    """They would try again after a second or two instead, in vain."""
    error = errors.NoEligibleNode("x")
    error.retry_after_s = seconds
    named = dict(render(error)[1])
    assert (named[b"retry-after"], named.get(b"x-should-retry")) == (str(seconds).encode(), retry)


def test_what_a_path_takes_and_how_to_show_a_key_are_said() -> None:
    """405 carries Allow and 401 a challenge (RFC 9110 sections 15.5.6 and 15.5.2); no other error has either."""
    assert dict(render(errors.MethodNotAllowed("x", allow="POST"))[1])[b"allow"] == b"POST"
    assert dict(render(errors.InvalidKey("x"))[1])[b"www-authenticate"] == b"Bearer"
    for cls in {*every_error()} - {errors.MethodNotAllowed, errors.InvalidKey}:
        assert not {b"allow", b"www-authenticate"} & {name for name, _ in render(cls("x"))[1]}


@pytest.mark.parametrize("cls", [errors.EvidenceRejected, errors.EvidenceMissing, errors.UpstreamFailed])
def test_what_may_have_been_paid_for_is_not_retried(cls: type[errors.VerirouteError]) -> None:
    """Verdict refusals and failures after the request was sent carry `x-should-retry: false`."""
    assert dict(render(cls("x"))[1])[b"x-should-retry"] == b"false"


def test_details_stand_inside_the_error_object_and_replace_nothing() -> None:
    """Param, reason, receipt and extra members are where SDKs keep the body; `extra` cannot forge a code."""
    error = errors.NoEligibleNode("No node is left.", param="model", reason="evidence")
    _, headers, body = render(error, "01ARZ3NDEKTSV4RRFFQ69G5FAV", {"nodes": [{"node": "a"}], "code": "ok"}, close=True)
    found = json.loads(body)["error"]
    assert found["code"] == "no_eligible_node"
    assert (found["param"], found["reason"]) == ("model", "evidence")
    assert found["nodes"] == [{"node": "a"}]
    assert found["receipt"] == "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    assert dict(headers)[b"x-veriroute-receipt"] == b"01ARZ3NDEKTSV4RRFFQ69G5FAV"
    assert dict(headers)[b"connection"] == b"close"


@pytest.mark.parametrize(
    ("path", "beside"), [("/v1/messages", {"type": "error"}), ("/v1/chat/completions", {}), ("", {})]
)
def test_an_error_has_the_form_of_its_api(path: str, beside: dict[str, str]) -> None:
    """Anthropic's API says that a body is an error, OpenAI's does not; the error is the same."""
    error = errors.BadRequest("x", param="model")
    _, headers, body = render(error, path=path)
    assert json.loads(body) == {**beside, "error": error_object(error)}
    assert int(dict(headers)[b"content-length"]) == len(body)


def test_the_error_event_is_one_line_of_data() -> None:
    """A stream's last word is one event that every SDK raises on, whatever the message holds."""
    data = event(errors.EvidenceRejected("line\nbreak\r\n\u2028data: [DONE]"), "01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert data.startswith(b'data: {"error":')
    assert data.endswith(b"\n\n")
    assert data.count(b"\n") == 2
    assert b"\r" not in data
    assert json.loads(data[6:])["error"]["code"] == "evidence_rejected"
