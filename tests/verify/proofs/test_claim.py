"""What a request claims about the choice of its answer's tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.verify.proofs.calibration import Statistic
from gateway.verify.proofs.claim import Claim, claim_of
from gateway.verify.proofs.reexec import Sampling

GREEDY = Claim(Statistic.GREEDY_MARGIN)
SEEDED = Claim(Statistic.SEEDED_MARGIN, Sampling(0.5), 7)
REASONS = {"malformed", "not_greedy", "not_seeded", "sampling_unsupported"}


@pytest.mark.parametrize(
    ("request_", "seeded", "expected"),
    [
        ({"temperature": 0}, False, GREEDY),
        ({"temperature": 0.0, "seed": 3, "top_p": 0.5, "top_k": 5}, False, GREEDY),  # the likeliest is the likeliest
        ({"temperature": 0, "n": 1, "logit_bias": {}, "presence_penalty": 0.0, "ignore_eos": False}, False, GREEDY),
        ({"temperature": 0, "response_format": {"type": "text"}, "tool_choice": "auto"}, False, GREEDY),
        ({"temperature": 0.5, "seed": 7}, True, SEEDED),
        ({"temperature": 0.5, "seed": 7, "top_p": 1, "top_k": -1, "min_p": 0}, True, SEEDED),
        ({}, False, "not_greedy"),
        ({"temperature": None}, False, "not_greedy"),
        ({"temperature": False}, False, "not_greedy"),
        ({"temperature": "0"}, False, "not_greedy"),
        ({"temperature": 1e-9}, False, "not_greedy"),
        ({}, True, "not_seeded"),
        ({"temperature": 1}, True, "not_seeded"),
        ({"temperature": 1, "seed": True}, True, "not_seeded"),
        ({"temperature": 1, "seed": 1.0}, True, "not_seeded"),
        ({"temperature": 0, "seed": 1}, True, "not_seeded"),
        ({"temperature": 2.1, "seed": 1}, True, "not_seeded"),
        ({"temperature": 1, "seed": 1, "top_p": 0.9}, True, "sampling_unsupported"),
        ({"temperature": 1, "seed": 1, "top_k": 40}, True, "sampling_unsupported"),
        ({"temperature": 1, "seed": 1, "min_p": 0.1}, True, "sampling_unsupported"),
        ({"temperature": 1, "seed": 1, "n": 2}, True, "sampling_unsupported"),
        ({"temperature": 0, "n": 2}, False, "sampling_unsupported"),
        ({"temperature": 0, "n": True}, False, "sampling_unsupported"),
        ({"temperature": 0, "presence_penalty": False}, False, "sampling_unsupported"),
        ({"temperature": 0, "frequency_penalty": 0.1}, False, "sampling_unsupported"),
        ({"temperature": 0, "logit_bias": {"5": -100}}, False, "sampling_unsupported"),
        ({"temperature": 0, "min_tokens": 4}, False, "sampling_unsupported"),
        ({"temperature": 0, "ignore_eos": True}, False, "sampling_unsupported"),
        ({"temperature": 0, "response_format": {"type": "json_object"}}, False, "sampling_unsupported"),
        ({"temperature": 0, "tool_choice": "required"}, False, "sampling_unsupported"),
        ({"temperature": 0, "guided_regex": ""}, False, "sampling_unsupported"),
        ({"temperature": 0, "echo": True}, False, "sampling_unsupported"),  # the answer begins with what nobody chose
        ({"temperature": 0, "suffix": "b"}, False, "sampling_unsupported"),
        ({"temperature": 0, "truncate_prompt_tokens": 8}, False, "sampling_unsupported"),
        ({"temperature": 0, "stop_token_ids": [5]}, False, "sampling_unsupported"),
        ({"temperature": 0, "include_reasoning": False}, False, "sampling_unsupported"),
        ({"temperature": 0, "a_member_of_tomorrow": 1}, False, "sampling_unsupported"),
        ({"temperature": 1, "seed": 1, "lora_path": "x"}, True, "sampling_unsupported"),
        ({"temperature": 0, "a_member_of_tomorrow": None, "skip_special_tokens": True, "user": "u"}, False, GREEDY),
        ([], False, "malformed"),
        (None, True, "malformed"),
    ],
)
def test_claims(request_: Any, seeded: bool, expected: Claim | str) -> None:
    """Only temperature 0, or a seed with a temperature over it, can be asked again, and nothing that bends the choice."""
    assert claim_of(request_, seeded=seeded) == expected


_VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["", "auto", "0"])
    | st.just({})
    | st.just([])
)


@given(st.dictionaries(st.sampled_from(["temperature", "seed", "n", "top_p", "min_p", "tool_choice"]), _VALUES))
@settings(max_examples=300)
def test_any_request(request_: dict[str, Any]) -> None:
    """Whatever the members hold, there is a claim or a reason; a claim's temperature is what the request says."""
    for seeded in (False, True):
        found = claim_of(request_, seeded=seeded)
        if isinstance(found, str):
            assert found in REASONS
        else:
            assert (found.sampling.temperature if found.sampling else 0) == request_["temperature"]
