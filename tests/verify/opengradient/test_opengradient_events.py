"""The registry's events."""

from __future__ import annotations

import contextlib

import pytest
from eth_abi import encode
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError
from gateway.verify.opengradient.registry_events import EVENTS, TOPICS, Log, decode_event, topic

ID = b"i" * 32


def log(name: str, *indexed: bytes, data: bytes = b"") -> Log:
    return Log("0x" + "11" * 20, (topic(name), *indexed), data, 7, 2, b"t" * 32)


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def test_topics_are_the_contracts() -> None:
    """Each is the keccak256 of the declaration, and those that are known start and end as they should."""
    known = {
        "TEERegistered": ("97d0af70", "4931"),
        "PCRApproved": ("98c6d69c", "f2fe"),
        "PCRRevoked": ("d5a6741f", "c2fb"),
        "TEEDisabled": ("01c23533", "36b6"),
        "AWSCertificateUpdated": ("378c4547", "f4cb"),
        "OHTTPConfigUpdated": ("270cbcca", "cb1e"),
    }
    for name, (start, end) in known.items():
        assert (topic(name).hex()[:8], topic(name).hex()[-4:]) == (start, end), name
    assert {topic(name): name for name in EVENTS} == TOPICS
    assert topic("TEEEnabled") == keccak(b"TEEEnabled(bytes32)")


@pytest.mark.parametrize(
    ("found", "arguments"),
    [
        (log("TEERegistered", ID, word(0x24), data=word(0)), ("0x" + "00" * 19 + "24", 0)),
        (log("PCRApproved", ID, word(1), data=encode(["string"], ["v1"])), (1, "v1")),
        (log("PCRApproved", ID, data=encode(["uint8", "string"], [1, "v1"])), (1, "v1")),
        (log("PCRRevoked", ID, word(3)), (3,)),
        (log("PCRRevoked", ID, data=word(3)), (3,)),
        (log("TEEDisabled", ID), ()),
        (log("AWSCertificateUpdated", ID), ()),
        (log("HeartbeatReceived", ID, data=word(1_790_000_000)), (1_790_000_000,)),
        (
            log(
                "OHTTPConfigUpdated",
                ID,
                data=encode(
                    ["uint8", "uint16", "uint16", "uint16", "bytes32", "bytes32"], [1, 32, 1, 3, b"p" * 32, b"c" * 32]
                ),
            ),
            (1, 32, 1, 3, b"p" * 32, b"c" * 32),
        ),
    ],
)
def test_events_are_read_however_their_arguments_are_divided(found: Log, arguments: tuple[object, ...]) -> None:
    """Indexed or not, the arguments arrive in the order of the declaration, with the place of the log."""
    event = decode_event(found)
    assert (event.subject, event.arguments) == (ID, arguments)
    assert (event.block, event.index, event.tx) == (7, 2, b"t" * 32)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (Log("0x" + "11" * 20, (), b"", 7, 2, b"t" * 32), "event_unknown"),
        (Log("0x" + "11" * 20, (ID,), b"", 7, 2, b"t" * 32), "event_unknown"),
        (log("TEEDisabled"), "abi_malformed"),
        (log("TEEDisabled", data=ID), "abi_malformed"),
        (log("TEEDisabled", ID, ID), "abi_malformed"),
        (log("TEEDisabled", ID, data=word(0)), "abi_malformed"),
        (log("PCRApproved", ID, word(1), ID), "abi_malformed"),
        (log("PCRApproved", ID, word(256), data=encode(["string"], ["v1"])), "abi_malformed"),
        (log("PCRApproved", ID, word(1), data=b""), "abi_malformed"),
        (log("TEERegistered", ID, data=b"short"), "abi_malformed"),
    ],
)
def test_what_is_no_event_of_the_registry_is_refused(found: Log, reason: str) -> None:
    """Unknown topics, too few and too many of them, and data that does not fit."""
    with pytest.raises(FormatError) as caught:
        decode_event(found)
    assert caught.value.reason == reason


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(EVENTS)),
    st.lists(st.binary(min_size=32, max_size=32), max_size=3),
    st.binary(max_size=200),
)
def test_hostile_logs_give_events_or_our_error(name: str, indexed: list[bytes], data: bytes) -> None:
    """Nothing but `FormatError` is raised."""
    with contextlib.suppress(FormatError):
        assert decode_event(log(name, *indexed, data=data)).name == name
