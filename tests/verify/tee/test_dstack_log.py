"""Event logs: what replays, which names are believed, and each way in which a log can lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds.dstack import APP_ID, RUNTIME, Guest, Log, booted, runtime_digest, sha384

from gateway.errors import FormatError
from gateway.model.verdict import Outcome
from gateway.verify.tee import rtmr
from gateway.verify.tee.rtmr import compare_registers, event_digest, parse_event_log, replay

HASH = bytes(32)


def refusal(data: bytes | Log) -> FormatError:
    with pytest.raises(FormatError) as caught:
        parse_event_log(data if isinstance(data, bytes) else data.json())
    return caught.value


def test_a_log_replays_to_the_registers_of_the_guest() -> None:
    """Each register is extended by its own entries, in their order, from zero."""
    log = booted().system(HASH)
    assert list(replay(parse_event_log(log.json()))) == log.rtmrs()
    assert len(set(log.rtmrs())) == 4


def test_order_matters() -> None:
    """Two entries of one register in another order give another value."""
    there = Log().boot(0, b"a").boot(0, b"b")
    back = Log().boot(0, b"b").boot(0, b"a")
    assert replay(parse_event_log(there.json())) != replay(parse_event_log(back.json()))


@pytest.mark.parametrize(
    "write",
    [
        lambda log: log.json(),
        lambda log: json.dumps(log.entries, indent=2).encode(),
        lambda log: json.dumps(log.json().decode()).encode(),
        lambda log: json.dumps([dict(reversed(e.items())) for e in log.entries]).encode(),
        lambda log: json.dumps([{**e, "version": 1} for e in log.entries]).encode(),
    ],
    ids=["compact", "spaced", "json_in_a_string", "members_in_another_order", "version_named"],
)
def test_every_spelling_of_a_log_reads_the_same(write: Callable[[Log], bytes]) -> None:
    """A list, a spaced list and a JSON string that holds a list are one log."""
    log = booted().system(HASH)
    assert parse_event_log(write(log)) == parse_event_log(log.json())


def test_digests_of_both_versions() -> None:
    """The digest of a named event is the one that dstack's source gives, for either version and no other."""
    assert event_digest("app-id", b"\xde\xad", 1) == sha384(b"\x01\x00\x00\x08:app-id:\xde\xad")
    assert event_digest("compose-hash", b"\xab\xcd", 2) == sha384(
        b'{"name":"compose-hash","payload":"abcd","type":134217729}'
    )
    with pytest.raises(FormatError, match="version 1 or 2"):
        event_digest("app-id", b"", 3)


@pytest.mark.parametrize("version", [1, 2])
def test_a_stated_digest_says_its_version_itself(version: int) -> None:
    """A log whose digests are of version 2 needs nobody to say so."""
    log = Log(version).system(HASH)
    assert list(replay(parse_event_log(log.json()))) == log.rtmrs()


@pytest.mark.parametrize("version", [1, 2])
def test_empty_digests_are_computed(version: int) -> None:
    """A `tdx-lite` log leaves its digests empty; they are computed by the version that is named, and counted."""
    log = Log(version, empty_digests=True).system(HASH)
    parsed = parse_event_log(log.json(), version=version)
    assert list(replay(parsed)) == log.rtmrs()
    assert parsed.computed == 9
    assert list(replay(parse_event_log(log.json(), version=3 - version))) != log.rtmrs()
    entries = [{**e, "version": version} for e in log.entries]
    assert list(replay(parse_event_log(json.dumps(entries).encode(), version=3 - version))) == log.rtmrs()


def test_pitfall_relabelled_event() -> None:
    """An entry of another type that carries a name is refused, although the registers replay."""
    log = booted().system(HASH)
    entry = next(e for e in log.entries if e["event"] == "os-image-hash")
    entry |= {"event_type": 1, "event_payload": "11" * 32}
    error = refusal(log)
    assert error.reason == "event_relabelled"
    assert error.found == "event 10 of type 0x1 os-image-hash"  # type: ignore[attr-defined]


def test_pitfall_hidden_system_ready() -> None:
    """An entry of RTMR3 of another type is refused without a name too: it could be the hidden `system-ready`."""
    log = booted().system(HASH).runtime("compose-hash", b"\1" * 32)
    for entry in log.entries:
        if entry["event"] in ("system-ready", "compose-hash") and entry["event_payload"] != "01" * 32:
            entry |= {"event_type": 1, "event": "", "event_payload": ""}
    assert refusal(log).reason == "event_relabelled"


def test_pitfall_name_on_a_boot_register() -> None:
    """A boot entry with a name is refused, whatever register it extends."""
    log = booted()
    log.entries[0]["event"] = "compose-hash"
    assert refusal(log).reason == "event_relabelled"


def test_labels_of_acpi_entries_are_passed_over() -> None:
    """Newer guests label the ACPI entries of RTMR0: those labels alone, there alone, are no lie, and no names."""
    log = booted().boot(0, b"another", 0xA).system(HASH)
    before = parse_event_log(log.json())
    acpi = [entry for entry in log.entries if entry["event_type"] == 0xA]
    for entry, label in zip(acpi, ("acpi-loader", "acpi-tables"), strict=True):
        entry["event"] = label
    assert parse_event_log(log.json()) == before
    for change in ({"event": "app-id"}, {"imr": 1}, {"event_type": 1}, {"imr": 3}):
        other = Log()
        other.entries = [{**acpi[0], **change}]
        assert refusal(other).reason == "event_relabelled"


@pytest.mark.parametrize("empty_digests", [False, True])
def test_preimages_have_to_give_their_digests(empty_digests: bool) -> None:
    """Newer guests show what the digest of an event of version 2 is over; other bytes contradict it."""
    log = Log(2, empty_digests=empty_digests).system(HASH)
    for entry in log.entries:
        document = {"name": entry["event"], "payload": entry["event_payload"], "type": RUNTIME}
        entry |= {"version": 2, "preimage": json.dumps(document, separators=(",", ":")).encode().hex()}
    assert list(replay(parse_event_log(log.json()))) == log.rtmrs()
    log.entries[2]["preimage"] = log.entries[1]["preimage"]
    assert refusal(log).reason == "event_digest"
    log.entries[2]["preimage"] = "XY"
    assert "lower-case hex" in str(refusal(log))


def test_pitfall_last_wins() -> None:
    """A name that the system measured twice is refused, so that neither the first nor the last can win."""
    log = Log().runtime("compose-hash", HASH).runtime("compose-hash", b"\1" * 32).runtime("system-ready")
    error = refusal(log)
    assert (error.reason, error.found) == ("event_twice", "compose-hash")  # type: ignore[attr-defined]


def test_init_scripts_may_repeat() -> None:
    """The guest writes one `init-script-hash` a script, in order."""
    log = Log().runtime("init-script-hash", b"\1" * 32).runtime("init-script-hash", b"\2" * 32).runtime("system-ready")
    assert parse_event_log(log.json()).payloads("init-script-hash") == (b"\1" * 32, b"\2" * 32)


def test_pitfall_application_events() -> None:
    """What follows the first `system-ready` is the application's, and no name is read from it."""
    log = booted().system(HASH).runtime("compose-hash", b"\1" * 32).runtime("system-ready").runtime("mr-none", b"x")
    parsed = parse_event_log(log.json())
    assert parsed.payload("compose-hash") == HASH
    assert parsed.payload("mr-none") is None
    assert [e.name for e in parsed.application] == ["compose-hash", "system-ready", "mr-none"]
    assert parsed.ready
    assert list(replay(parsed)) == log.rtmrs()


def test_a_log_without_system_ready_is_not_ready() -> None:
    """Without the line nothing separates the system's events, and no log at all is not ready either."""
    assert not parse_event_log(Log().runtime("app-id", APP_ID).json()).ready
    assert not parse_event_log(b"[]").ready


def test_pitfall_named_events_of_other_registers() -> None:
    """A runtime event that extends another register than RTMR3 replays there, and its name is not read."""
    log = Log().runtime("compose-hash", b"\1" * 32, imr=0).system(HASH)
    parsed = parse_event_log(log.json())
    assert parsed.payload("compose-hash") == HASH
    assert list(replay(parsed)) == log.rtmrs()


def test_pitfall_payload_not_bound_to_its_digest() -> None:
    """A runtime event whose payload or name is not what its digest says is refused, though the registers replay."""
    for member, value in (("event_payload", "11" * 32), ("event", "compose-hash2")):
        log = booted().system(HASH)
        next(e for e in log.entries if e["event"] == "compose-hash")[member] = value
        assert refusal(log).reason == "event_digest"


def test_pitfall_name_cut_elsewhere() -> None:
    """In version 1 `a:b` + `c` and `a` + `b:c` have one digest, so a name with a colon is refused."""
    assert runtime_digest("a:b", b"c") == runtime_digest("a", b"b:c")
    assert refusal(Log().runtime("a:b", b"c")).reason == "event_name"
    assert refusal(Log(2).runtime("a:b", b"c")).reason == "event_name"
    assert refusal(Log().runtime("", b"c")).reason == "event_name"


def entry(**members: Any) -> bytes:
    sound = {"imr": 0, "event_type": 4, "digest": "00" * 48, "event": "", "event_payload": ""}
    return json.dumps([{**sound, **members}]).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "JSON"),
        (b"{}", "Expected `array`"),
        (b'"[]', "JSON"),
        (b'"{}"', "Expected `array`"),
        (b'"\\"[]\\""', "Expected `array`"),
        (b"[1]", "Expected `object`"),
        (b"[{}]", "missing required field `imr`"),
        (b"\xff", "UTF-8"),
        (b"[" * 100_000, "nested deeper"),
        (entry(imr=4), "<= 3"),
        (entry(imr=-1), ">= 0"),
        (entry(imr=True), "got `bool`"),
        (entry(imr="0"), "got `str`"),
        (entry(event_type=1 << 32), "<= 4294967295"),
        (entry(event_type=1.5), "got `float`"),
        (entry(digest="00" * 47), "47 bytes, not 48"),
        (entry(digest="00" * 49), "at most 48"),
        (entry(digest="AA" * 48), "lower-case hex"),
        (entry(digest="0x" + "00" * 47), "lower-case hex"),
        (entry(digest=" " + "00" * 48), "lower-case hex"),
        (entry(digest=None), "got `null`"),
        (entry(digest=""), "a boot event has no digest"),
        (entry(event="x" * 129), "length <= 128"),
        (entry(event_payload="0"), "lower-case hex"),
        (entry(event_payload="00" * (rtmr.MAX_PAYLOAD + 1)), "at most 65536"),
        (entry(version=3), "<= 2"),
        (entry(unknown=1), "unknown field `unknown`"),
        (entry()[:-2] + b',"imr":1}]', "twice"),
        (b"[" + b",".join([entry()[1:-1]] * (rtmr.MAX_EVENTS + 1)) + b"]", "2049 entries"),
        (b" " * (rtmr.MAX_LOG_BYTES + 1), "over the limit"),
    ],
)
def test_malformed(data: bytes, message: str) -> None:
    """Anything that is no strict list of entries within the limits is malformed, and says why."""
    error = refusal(data)
    assert error.reason is None
    assert message in error.message


def test_errors_show_no_raw_text() -> None:
    """What a hostile log wrote reaches an error only escaped and cut."""
    log = Log().add(0, RUNTIME, bytes(48), "\x1b]0;owned\x07" + "x" * 90, b"")
    error = refusal(log)
    assert error.reason == "event_digest"
    assert "\x1b" not in str(error.found)  # type: ignore[attr-defined]
    assert len(str(error.found)) < 80  # type: ignore[attr-defined]


REGISTERS = tuple(bytes([i]) * 48 for i in range(4))
MEASURED = {f"rtmr{i}": value.hex() for i, value in enumerate(REGISTERS)}
ALL = frozenset(range(4))


@pytest.mark.parametrize(
    ("changed", "named", "outcome", "reason"),
    [
        ({}, ALL, Outcome.AFFIRMING, None),
        ({"rtmr0": "ff" * 48}, ALL, Outcome.CONTRAINDICATED, "replay_mismatch"),
        ({"rtmr3": "ff" * 48}, ALL, Outcome.CONTRAINDICATED, "replay_mismatch"),
        ({"rtmr3": "ff" * 48}, frozenset(), Outcome.CONTRAINDICATED, "replay_mismatch"),
        ({"rtmr0": "ff" * 48, "rtmr1": "ff" * 48}, frozenset({3}), Outcome.WARNING, "boot_log_missing"),
        ({"rtmr0": "ff" * 48, "rtmr1": "ff" * 48}, frozenset({1, 3}), Outcome.CONTRAINDICATED, "replay_mismatch"),
    ],
)
def test_registers(changed: dict[str, str], named: frozenset[int], outcome: Outcome, reason: str | None) -> None:
    """Every register that the log has entries for must be the quote's, and RTMR3 always."""
    check = compare_registers(MEASURED | changed, REGISTERS, named)
    assert (check.outcome, check.reason) == (outcome, reason)


def test_registers_that_are_missing_are_not_compared() -> None:
    """Claims without all four registers leave the question open."""
    check = compare_registers({"rtmr3": "00" * 48}, REGISTERS, ALL)
    assert (check.outcome, check.reason) == (Outcome.NONE, "no_registers")


GUEST = Guest()
GENUINE = GUEST.log.json()


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
def test_no_mutation_proves_anything_else(data: bytes) -> None:
    """Whatever a log was turned into, it is refused, fails to replay, or proves exactly what the genuine one proves.

    The type and payload of a boot entry are not measured, so they may differ; nothing is read from them.
    """
    result, genuine = GUEST.appraise(event_log=data), GUEST.appraise()
    assert [c.id for c in result.checks] == [c.id for c in genuine.checks]
    if result.checks[1].outcome is Outcome.AFFIRMING:
        assert result.claims.raw == genuine.claims.raw
        assert parse_event_log(data).system == parse_event_log(GENUINE).system
