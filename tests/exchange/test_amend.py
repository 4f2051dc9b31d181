"""What a proof needs of a request, and putting it in."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.exchange.amend import amend, completed, needed, unprovable

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
Q, R, L, T, Z = "proof_quorum", "proof_reexec", "proof_logprob", "proof_toploc", "proof_zk"
SCORED = {"logprobs": True, "top_logprobs": 5}
IDS = {"return_token_ids": True}


def policy(request: str = "complete", *claims: str) -> Any:
    return SimpleNamespace(
        proofs=SimpleNamespace(request=request), reexec=SimpleNamespace(claims=frozenset(claims or ("greedy",)))
    )


def body(**members: Any) -> bytes:
    return json.dumps({"model": "m", "messages": []} | members).encode()


@pytest.mark.parametrize(
    ("given_", "expected", "names"),
    [
        (b"{}", b'{"temperature":0,"toploc":true}', ("temperature", "toploc")),
        (b' { \n } \n', b' {"temperature":0,"toploc":true \n } \n', ("temperature", "toploc")),
        (b'{"a":1}', b'{"a":1,"temperature":0,"toploc":true}', ("temperature", "toploc")),
        (b'{"a": {"toploc":1} \n}\n', b'{"a": {"toploc":1},"temperature":0,"toploc":true \n}\n', ("temperature", "toploc")),
        (b'{"a":"}"}', b'{"a":"}","temperature":0,"toploc":true}', ("temperature", "toploc")),
        (b'{"temperature":null,"a":[]}', b'{"temperature":null,"a":[],"toploc":true}', ("toploc",)),
        (b'{"t\\u0065mperature":1}', b'{"t\\u0065mperature":1,"toploc":true}', ("toploc",)),
        (b'{"toploc":false,"temperature":0.5}', b'{"toploc":false,"temperature":0.5}', ()),
    ],
)  # fmt: skip
def test_amend(given_: bytes, expected: bytes, names: tuple[str, ...]) -> None:
    """Members that are left out stand behind the last one; all other bytes, and members that are there, stay."""
    assert amend(given_, {"temperature": 0, "toploc": True}) == (expected, names)


@pytest.mark.parametrize("given_", [b"", b"[]", b"{", b"{}}", b"{} {}", b'"}"', b"null", b"\xff", b'{"a":' + b"[" * 5000, b"\xef\xbb\xbf{}"])  # fmt: skip
def test_what_is_no_object(given_: bytes) -> None:
    """A body that is not one JSON object is refused, never patched up."""
    with pytest.raises(FormatError):
        amend(given_, {"temperature": 0})


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.dictionaries(st.text(max_size=6) | st.sampled_from(["a", "b"]), _json, max_size=5),
    st.sampled_from([None, 1, 2]),
    st.sampled_from(["", " ", "\n\t"]),
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), _json, max_size=4),
)
def test_amended_bodies_say_both(
    document: dict[str, Any], indent: int | None, white: str, members: dict[str, Any]
) -> None:
    """However the body is written, the amended one is strict JSON, holds both, and holds no member twice."""
    text = (white + json.dumps(document, indent=indent) + white).encode()
    found, names = amend(text, members)
    assert strict_json(found, max_bytes=1 << 20, max_depth=256) == members | document
    assert set(names) == members.keys() - document.keys()
    assert len(found) >= len(text)


@given(st.binary(max_size=40))
def test_bytes_of_anybody(data: bytes) -> None:
    """Of any bytes comes an amended object or our own error."""
    try:
        found, _ = amend(data, {"zzz": 0})
    except FormatError:
        return
    assert json.loads(found)["zzz"] == 0 or b"zzz" in data


@pytest.mark.parametrize(
    ("kinds", "endpoint", "seeded", "expected"),
    [
        ({Q}, CHAT, False, {"temperature": 0, **SCORED}),
        ({R}, CHAT, False, {"temperature": 0, **SCORED, **IDS}),
        ({R}, CHAT, True, IDS),
        ({R}, COMPLETIONS, False, {"temperature": 0, **IDS}),
        ({L}, CHAT, False, {**SCORED, **IDS}),
        ({R, L}, CHAT, True, {**SCORED, **IDS}),
        ({T}, COMPLETIONS, False, {**IDS, "toploc": True}),
        ({Q, R}, CHAT, True, {"temperature": 0, **SCORED, **IDS}),
        ({Z}, CHAT, False, {}),
        ({Q, L}, COMPLETIONS, False, {}),
        ({Q, R, L, T, Z}, RESPONSES, False, {}),
        ({"proof_drift"}, CHAT, False, {}),
    ],
)  # fmt: skip
def test_needed(kinds: set[str], endpoint: str, seeded: bool, expected: dict[str, Any]) -> None:
    """Each kind's members, where it can be judged at all."""
    assert needed(kinds, endpoint, seeded=seeded) == expected


@pytest.mark.parametrize(
    ("kinds", "terms", "request_", "expected"),
    [
        ({R}, policy(), {}, {"temperature": 0, **SCORED, **IDS}),
        ({R}, policy("as_sent"), {}, {}),
        ({R}, policy("complete", "greedy", "seeded"), {"seed": 4}, IDS),
        ({R}, policy("complete", "greedy", "seeded"), {}, {"temperature": 0, **SCORED, **IDS}),
        ({R}, policy("complete", "seeded"), {}, IDS),
        ({L}, policy(), {"logprobs": False}, IDS),
        ({L}, policy(), {"logprobs": True, "top_logprobs": 2}, IDS),
    ],
)
def test_completed(kinds: set[str], terms: Any, request_: dict[str, Any], expected: dict[str, Any]) -> None:
    """What the policy lets us add is added, and no alternatives to log-probs that were declined."""
    found, names = completed(kinds, terms, CHAT, body(**request_))
    assert json.loads(found) == {"model": "m", "messages": []} | expected | request_
    assert set(names) == expected.keys()


@pytest.mark.parametrize(
    ("kinds", "terms", "endpoint", "request_", "expected"),
    [
        ({Q, R, L, T, Z}, policy(), CHAT, {}, None),
        ({R, T, Z}, policy(), COMPLETIONS, {"prompt": "a"}, None),
        ({R}, policy(), COMPLETIONS, {"prompt": [1, 2]}, None),
        ({R}, policy(), COMPLETIONS, {"prompt": ["a", "b"]}, "more_choices"),
        ({R}, policy(), COMPLETIONS, {"prompt": [[1], [2]]}, "more_choices"),
        ({Q}, policy(), COMPLETIONS, {}, "endpoint_unsupported"),
        ({R}, policy(), RESPONSES, {}, "endpoint_unsupported"),
        ({"proof_drift"}, policy(), CHAT, {}, "endpoint_unsupported"),
        ({Z}, policy(), "/v1/moderations", {}, None),
        ({Z}, policy(), CHAT, {"stream": True}, "stream_unsupported"),
        ({R}, policy(), CHAT, {"stream": True}, None),
        ({Q}, policy(), CHAT, {"n": 2}, "more_choices"),
        ({T}, policy(), CHAT, {"best_of": 2}, "more_choices"),
        ({R}, policy(), CHAT, {"temperature": 0.7}, "not_greedy"),
        ({R}, policy(), CHAT, {"temperature": None}, "not_greedy"),
        ({R}, policy("as_sent"), CHAT, {}, "not_greedy"),
        ({R}, policy(), CHAT, {"logit_bias": {"3": 1}}, "sampling_unsupported"),
        ({R}, policy("complete", "greedy", "seeded"), CHAT, {"temperature": 1, "seed": 3}, None),
        ({R}, policy("complete", "greedy", "seeded"), CHAT, {"temperature": 1, "seed": 3, "top_p": 0.5}, "sampling_unsupported"),
        ({R}, policy("complete", "seeded"), CHAT, {}, "not_seeded"),
        ({R}, policy("as_sent"), CHAT, {"temperature": 0}, "token_ids_not_asked"),
        ({R}, policy(), CHAT, {"return_token_ids": False}, "token_ids_not_asked"),
        ({R}, policy("as_sent"), CHAT, {"temperature": 0, "logprobs": True, "return_tokens_as_token_ids": True}, None),
        ({Q}, policy(), CHAT, {"temperature": 1}, "not_greedy"),
        ({Q}, policy(), CHAT, {"logit_bias": {"3": 1}}, None),
        ({Q}, policy(), CHAT, {"logprobs": False}, "logprobs_not_asked"),
        ({Q}, policy(), CHAT, {"logprobs": False, "tools": [{}]}, None),
        ({Q}, policy(), CHAT, {"logprobs": None, "response_format": {"type": "json_object"}}, None),
        ({L}, policy(), CHAT, {"logprobs": False}, "logprobs_not_asked"),
        ({L}, policy(), CHAT, {"top_logprobs": 1}, "too_few_alternatives"),
        ({L}, policy(), CHAT, {"top_logprobs": True}, "too_few_alternatives"),
        ({L}, policy(), CHAT, {"temperature": 0.7, "seed": 1}, None),
        ({T}, policy(), CHAT, {"toploc": False}, "toploc_not_asked"),
        ({L}, policy(), CHAT, {"truncate_prompt_tokens": 8}, "sampling_unsupported"),
        ({T}, policy(), CHAT, {"stop_token_ids": [5]}, "sampling_unsupported"),
        ({T}, policy(), CHAT, {"return_token_ids": None}, "token_ids_not_asked"),
        ({L, R}, policy(), CHAT, {"temperature": 0.7}, "not_greedy"),
    ],
)  # fmt: skip
def test_unprovable(kinds: set[str], terms: Any, endpoint: str, request_: dict[str, Any], expected: str | None) -> None:
    """Before a prompt leaves it is known whether its answer can be judged, and if not, why."""
    assert unprovable(kinds, terms, endpoint, body(**request_)) == expected
    amended = completed(kinds, terms, endpoint, body(**request_))[0]
    assert unprovable(kinds, terms, endpoint, amended) == expected


@pytest.mark.parametrize("request_", [b"", b"[]", b'{"a":1,"a":2}', b'{"a":NaN}'])
def test_a_malformed_request(request_: bytes) -> None:
    """What two readers could read in two ways is not judged."""
    assert unprovable({R}, policy(), CHAT, request_) == "malformed"


def test_no_claims() -> None:
    """A policy that takes no claim lets nothing be re-executed."""
    none = SimpleNamespace(proofs=SimpleNamespace(request="complete"), reexec=SimpleNamespace(claims=frozenset()))
    assert unprovable({R}, none, CHAT, body()) == "not_greedy"
