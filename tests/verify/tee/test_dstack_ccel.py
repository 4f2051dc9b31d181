"""Binary event logs (CCEL): exact layout, bounded reading, and a replay that reads no names."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds.dstack import Ccel, ccel_log, claims

from gateway.errors import FormatError
from gateway.model.verdict import Outcome
from gateway.verify.tee import ccel
from gateway.verify.tee.ccel import appraise_ccel, parse_ccel, replay_ccel

LOG = ccel_log()


def header(
    *, index: int = 1, kind: int = 3, digest: bytes = bytes(20), size: int | None = None, signature: bytes = b"Spec ID Event03\0",
    algorithms: bytes = struct.pack("<IHH", 1, 12, 48), vendor: bytes = b"\0",
) -> bytes:  # fmt: skip
    body = signature + bytes(8) + algorithms + vendor
    return struct.pack("<II", index, kind) + digest + struct.pack("<I", len(body) if size is None else size) + body


def event(
    index: int = 1, kind: int = 4, digests: bytes = struct.pack("<IH", 1, 12) + bytes(48), data: bytes = b""
) -> bytes:
    return struct.pack("<II", index, kind) + digests + struct.pack("<I", len(data)) + data


@pytest.mark.parametrize("rest", [b"", b"\xff" * 4, b"\xff" * 4096, bytes(4096), b"\0"])
def test_a_log_replays_with_any_filling(rest: bytes) -> None:
    """The log ends where the filling of the ACPI area begins, or with the bytes."""
    events = parse_ccel(LOG.data + rest)
    assert list(replay_ccel(events)) == LOG.rtmrs()
    assert len(events) == 6


def test_informative_events_extend_nothing() -> None:
    """EV_NO_ACTION carries a digest and leaves every register as it was."""
    assert parse_ccel(LOG.data)[0].register is None
    log = Ccel().event(1, 3, b"StartupLocality")
    assert replay_ccel(parse_ccel(log.data)) == (bytes(48),) * 4


def test_event_bytes_are_measured_only_with_their_own_digest() -> None:
    """The bytes beside a digest count as measured only where the digest is theirs."""
    assert [e.measured for e in parse_ccel(LOG.data)] == [False, True, False, False, True, True]


def test_other_algorithms_are_skipped_by_their_declared_size() -> None:
    """A log with SHA-256 and SHA-384 digests replays by the latter."""
    log = Ccel(((0x000B, 32), (0x000C, 48))).event(1, 4, b"x").event(4, 13, b"y")
    assert list(replay_ccel(parse_ccel(log.fill()))) == log.rtmrs()


BOTH = struct.pack("<IHHHH", 2, 12, 48, 11, 32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends inside a field"),
        (header(index=2), "begins with"),
        (header(kind=4), "begins with"),
        (header(digest=b"\1" + bytes(19)), "begins with"),
        (header(size=1 << 31), "ends inside a field"),
        (header(size=8), "ends inside a field"),
        (header(signature=b"Spec ID Event02\0"), "Spec ID Event03"),
        (header(algorithms=struct.pack("<I", 9)), "9 algorithms"),
        (header(algorithms=struct.pack("<IHH", 1, 12, 47)), "digests of 47 bytes"),
        (header(algorithms=struct.pack("<IHH", 1, 0x7777, 48)), "0x7777"),
        (header(algorithms=struct.pack("<IHHHH", 2, 12, 48, 12, 48)), "0xc twice"),
        (header(algorithms=struct.pack("<IHH", 1, 11, 32)), "no SHA-384"),
        (header(vendor=b"\0\0"), "left over"),
        (header(vendor=b"\5"), "ends inside a field"),
        (header() + event(index=0), "extends register 0"),
        (header() + event(index=5), "extends register 5"),
        (header() + event(digests=struct.pack("<I", 2)), "2 digests"),
        (header() + event(digests=struct.pack("<I", 0)), "no SHA-384 digest"),
        (header() + event(digests=struct.pack("<IH", 1, 11)), "0xb"),
        (header(algorithms=BOTH) + event(digests=struct.pack("<IH", 2, 12) + bytes(48) + b"\x0c\0"), "0xc twice"),
        (header(algorithms=BOTH) + event(digests=struct.pack("<IH", 1, 11) + bytes(32)), "no SHA-384 digest"),
        (header() + event()[:-4] + struct.pack("<I", ccel.MAX_EVENT_BYTES + 1), "bytes in an event"),
        (header() + event()[:-4] + struct.pack("<I", 1), "ends inside a field"),
        (header() + event() + b"\1\0\0", "behind its end"),
        (header() + event() + b"\xff" * 16 + b"\0", "behind its end"),
        (header() + bytes(16) + b"\1", "behind its end"),
        (header() + event() * (ccel.MAX_EVENTS + 1), "more than 4096 events"),
        (bytes(ccel.MAX_BYTES + 1), "over the limit"),
    ],
)
def test_malformed(data: bytes, message: str) -> None:
    """Each departure from the layout is refused with its own words."""
    with pytest.raises(FormatError) as caught:
        parse_ccel(data)
    assert message in caught.value.message


def test_appraisal() -> None:
    """A log that replays the quote's registers is affirmed; one that does not, is malformed or missing, is not."""
    good = claims(LOG.rtmrs())
    read, replayed = appraise_ccel(good, LOG.fill())
    assert (read.outcome, replayed.outcome) == (Outcome.AFFIRMING, Outcome.AFFIRMING)
    assert read.found == "6 events, 3 with their own digest"
    read, replayed = appraise_ccel(claims([bytes(48)] * 4), LOG.fill())
    assert (read.outcome, replayed.outcome, replayed.reason) == (
        Outcome.AFFIRMING,
        Outcome.CONTRAINDICATED,
        "replay_mismatch",
    )
    read, replayed = appraise_ccel(good, b"x")
    assert (read.outcome, read.reason, replayed.outcome) == (Outcome.CONTRAINDICATED, "malformed", Outcome.NONE)
    assert [c.reason for c in appraise_ccel(good, None)] == ["no_event_log", "no_event_log"]


GENUINE = LOG.fill(count=64)


def mutated() -> st.SearchStrategy[bytes]:
    at = st.integers(0, len(GENUINE) - 1)
    return st.one_of(
        st.binary(max_size=200),
        st.builds(lambda i, b: GENUINE[:i] + bytes([GENUINE[i] ^ b]) + GENUINE[i + 1 :], at, st.integers(1, 255)),
        st.builds(lambda i: GENUINE[:i], at),
        st.builds(lambda i, j: GENUINE[:i] + GENUINE[j:], at, at),
    )


@settings(max_examples=300, deadline=None)
@given(mutated())
def test_no_mutation_replays_with_other_digests(data: bytes) -> None:
    """Whatever a log was turned into, it affirms only with the genuine digests in the genuine registers."""
    _, replayed = appraise_ccel(claims(LOG.rtmrs()), data)
    if replayed.outcome is Outcome.AFFIRMING:
        extended = [(e.register, e.digest) for e in parse_ccel(data) if e.register is not None]
        assert extended == [(e.register, e.digest) for e in parse_ccel(GENUINE) if e.register is not None]


def test_pitfall_registers_of_a_refused_quote() -> None:
    """Registers that nobody signed are compared with nothing."""
    good = claims(LOG.rtmrs())
    assert appraise_ccel(good, LOG.data)[1].outcome is Outcome.AFFIRMING
    for check in appraise_ccel(msgspec.structs.replace(good, authentic=False), LOG.data):
        assert (check.outcome, check.reason) == (Outcome.NONE, "quote_not_authentic")
