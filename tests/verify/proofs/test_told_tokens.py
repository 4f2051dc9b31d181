"""What an exchange tells of its tokens."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proofs_kit import body

from gateway.errors import FormatError
from gateway.verify.proofs.answer import prompt_token_ids, read_object, read_told


def test_an_answer_that_tells_all() -> None:
    """Ids come from the choice, those of the prompt from the top of the body."""
    document = json.loads(body("a b", token_ids=[1, 2])) | {"prompt_token_ids": [9, 8, 7]}
    told = read_told(json.dumps(document).encode())
    assert (told.ids, told.prompt_ids) == ((1, 2), (9, 8, 7))
    assert told.document == document
    assert told.choice == document["choices"][0]


def test_an_answer_that_tells_nothing() -> None:
    """What was not told is None, never empty."""
    told = read_told(body("a b"))
    assert (told.ids, told.prompt_ids) == (None, None)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"prompt_token_ids": [1, 2]}, (1, 2)),
        ({"choices": [{"prompt_token_ids": [3]}]}, (3,)),
        ({"prompt_token_ids": [1], "choices": [{"prompt_token_ids": [3]}]}, (1,)),
        ({}, None),
        ({"choices": []}, None),
        ({"choices": [None]}, None),
        ({"choices": {}}, None),
        ({"prompt_token_ids": []}, None),
        ({"prompt_token_ids": [1, True]}, None),
        ({"prompt_token_ids": [1.0]}, None),
        ({"prompt_token_ids": [-1]}, None),
        ({"prompt_token_ids": [2**31]}, None),
        ({"prompt_token_ids": [0] * 131_073}, None),
        ({"prompt_token_ids": "12"}, None),
    ],
)
def test_the_prompts_ids(document: dict[str, Any], expected: tuple[int, ...] | None) -> None:
    """A list of token ids at the top, else in the first choice; anything else was not told."""
    assert prompt_token_ids(document) == expected


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'{"a":1,"a":2}', b"{} {}", b'{"a":NaN}'])
def test_no_object(data: bytes) -> None:
    """A body that is no strict JSON object is refused."""
    with pytest.raises(FormatError):
        read_object(data)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.integers() | st.sampled_from(["", "x"]), lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["choices", "token_ids", "prompt_token_ids", "logprobs", "content"]), inner),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
@settings(max_examples=300)
def test_any_bytes(data: bytes) -> None:
    """Any bytes are an answer or a `FormatError`."""
    try:
        read_told(data)
    except FormatError:
        return
