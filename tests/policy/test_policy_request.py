from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.policy import requested_policy
from gateway.policy.request import header_values
from gateway.policy_files import read_policies

POLICIES = read_policies()


def test_no_header_asks_for_nothing() -> None:
    """Without the header, nothing is asked for."""
    assert requested_policy([], POLICIES) is None


def test_exact_name_is_found() -> None:
    """A name of a policy, byte for byte, gives that policy."""
    assert requested_policy([b"strict"], POLICIES) is POLICIES["strict"]


@pytest.mark.parametrize(
    "values",
    [
        [b"strict", b"strict"],
        [b"strict", b"signed"],
        [b""],
        [b"NONE"],
        [b"none"],
        [b"unknown"],
        [b"Strict"],
        [b"STRICT"],
        [b"strict\t"],
        [b" strict"],
        [b"strict,signed"],
        [b"strict\x00"],
        [b"signed+strict"],
        ["stríct".encode()],
        [b"s" * 8192],
        [b"../strict"],
    ],
)
def test_h02_anything_else_is_refused(values: list[bytes]) -> None:
    """A second, empty, unknown or differently spelled name is a bad request that does not repeat what was sent."""
    with pytest.raises(BadRequest) as caught:
        requested_policy(values, POLICIES)
    assert caught.value.param == "x-veriroute-policy"
    assert len(str(caught.value)) < 120
    assert "../" not in str(caught.value)


def test_every_value_of_the_header_is_looked_at() -> None:
    """Those of other headers are not, whatever stands in their names."""
    others = [(b"host", b"x"), (b"foo-x-veriroute-bar", b"y")]
    assert header_values([*others, (b"x-veriroute-policy", b"a"), (b"x-veriroute-policy", b"b")]) == [b"a", b"b"]
    assert header_values(others) == []


@pytest.mark.parametrize("name", [b"x-veriroute-polcy", b"x-veriroute-", b"x-veriroute-receipt", b"x-veriroute-\xff"])
def test_a_header_that_is_named_nearly_so_is_refused(name: bytes) -> None:
    """Somebody who misspelt it would believe in a stricter policy."""
    with pytest.raises(BadRequest, match=r"is no header of a request; x-veriroute-policy is the one") as caught:
        header_values([(b"x-veriroute-policy", b"strict"), (name, b"strict")])
    assert caught.value.param == name.decode("ascii", "backslashreplace")


@given(st.binary(max_size=80))
def test_h02_any_bytes_are_a_policy_or_a_bad_request(value: bytes) -> None:
    """No header value raises anything but BadRequest, and only exact names are found."""
    try:
        policy = requested_policy([value], POLICIES)
    except BadRequest:
        assert value.decode("latin-1") not in POLICIES
    else:
        assert policy is POLICIES[value.decode()]
