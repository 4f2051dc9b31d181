"""Appraisal of a dstack guest: every check holds for a sound one, and fails alone for each way of being wrong."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds import dstack as world
from tee_worlds.dstack import APP_ID, COMPOSE, DIGEST, Guest, Log, app_compose, booted, os_image

from gateway.crypto.canonical import jcs
from gateway.errors import FormatError
from gateway.model.tee import Golden, Platform, TeeResult
from gateway.model.verdict import Check, Outcome
from gateway.verify.tee.dstack import PLAN, KeyProvider, References, appraise_dstack, parse_references

ROOT = Path(__file__).resolve().parents[3]
GUEST = Guest()
SOUND = {**dict.fromkeys(PLAN, None), "gpu_policy": "no_gpu_policy"}


def check(result: TeeResult, name: str) -> Check:
    assert tuple(c.id for c in result.checks) == PLAN
    return next(c for c in result.checks if c.id == name)


def outcome(result: TeeResult, name: str) -> tuple[Outcome, str | None]:
    found = check(result, name)
    return found.outcome, found.reason


def reasons(result: TeeResult) -> dict[str, str | None]:
    return {c.id: c.reason for c in result.checks}


def references(**members: Any) -> References:
    return msgspec.structs.replace(GUEST.references(), **members)


def test_a_sound_guest() -> None:
    """Every check affirms, but the one on GPUs, which this guest has none of; and the claims say what was proved."""
    result = GUEST.appraise()
    assert reasons(result) == SOUND
    assert {c.outcome for c in result.checks if c.reason is None} == {Outcome.AFFIRMING}
    raw = result.claims.raw["dstack"]
    assert raw["compose_hash"] == GUEST.hash.hex()
    assert raw["compose_bound_by"] == ["rtmr3", "mr_config_id"]
    assert raw["os_image"] == "synthetic-1.0"
    assert raw["key_provider"] == {"name": "kms", "id": "3059301306072a"}
    assert raw["images"] == [
        {"service": "model", "image": f"registry.example:5000/team/model:1.0@{DIGEST}", "pinned": True, "reason": None}
    ]
    assert result.claims.golden == (Golden("dstack-os-image", 4),)
    assert json.loads(msgspec.json.encode(result.claims))["raw"]["dstack"] == raw


def test_claims_of_the_quote_are_kept() -> None:
    """What the quote's verifier found stays in the record, beside what is added."""
    before = GUEST.claims(raw={"identity": "x"}, golden=(Golden("other", 1),))
    after = GUEST.appraise(claims=before).claims
    assert after.raw["identity"] == "x"
    assert [g.kind for g in after.golden] == ["other", "dstack-os-image"]
    stated = {"app_id": APP_ID.hex(), "compose_hash": GUEST.hash.hex()}
    assert after.measurements == {**before.measurements, **stated}
    unread = GUEST.appraise(claims=before, event_log=GUEST.log.json().replace(b"compose-hash", b"compose-hasH"))
    assert unread.claims.measurements == before.measurements


@pytest.mark.parametrize(
    ("members", "reason"),
    [({"authentic": False}, "quote_not_authentic"), ({"platform": Platform.AMD_SEV_SNP}, "platform_unsupported")],
)
def test_nothing_is_proved_without_a_genuine_quote(members: dict[str, Any], reason: str) -> None:
    """Without a genuine TDX quote every check is open, and the claims are as they were."""
    before = GUEST.claims(**members)
    result = GUEST.appraise(claims=before)
    assert {(c.outcome, c.reason) for c in result.checks} == {(Outcome.NONE, reason)}
    assert result.claims == before


def test_nothing_given_is_nothing_shown() -> None:
    """Without log, document and references every check is listed and none affirms."""
    result = appraise_dstack(GUEST.claims(), None, None)
    assert tuple(c.id for c in result.checks) == PLAN
    assert {c.outcome for c in result.checks} == {Outcome.NONE}
    assert result.claims.raw["dstack"] == {}


DEPENDENTS = {
    "compose_bound": "log_not_bound",
    "compose_known": "compose_not_bound",
    "image_pinned": "compose_not_bound",
    "scripts_known": "compose_not_bound",
    "envs_known": "compose_not_bound",
    "app_identity": "log_not_bound",
    "key_provider": "log_not_bound",
    "gpu_policy": "log_not_bound",
}


@pytest.mark.parametrize(
    ("log", "first", "second"),
    [
        (b"x", "malformed", "log_not_read"),
        (booted().runtime("app-id", APP_ID).json(), "system_not_ready", "log_not_read"),
        (booted().system(GUEST.hash, app_id=b"x").json(), "event_payload", "log_not_read"),
        (booted().boot(0, b"more").system(GUEST.hash).json(), None, "replay_mismatch"),
        (booted().system(GUEST.hash).runtime("more").json(), None, "replay_mismatch"),
    ],
)
def test_nothing_is_read_from_a_log_that_does_not_hold(log: bytes, first: str | None, second: str) -> None:
    """A log that is malformed, unfinished or replays to other registers proves nothing, and names nothing."""
    result = GUEST.appraise(event_log=log)
    found = reasons(result)
    assert (found["rtmr_log"], found["rtmr_replay"]) == (first, second)
    assert {name: found[name] for name in DEPENDENTS} == DEPENDENTS
    assert result.claims.raw["dstack"] == {"os_image": "synthetic-1.0"}  # the registers themselves are the quote's


def test_a_log_without_boot_entries_is_a_warning() -> None:
    """A log of RTMR3 alone still proves its names; RTMR0 to RTMR2 are left to the reference values."""
    short = Log().system(GUEST.hash)
    result = GUEST.appraise(event_log=short.json())
    assert outcome(result, "rtmr_replay") == (Outcome.WARNING, "boot_log_missing")
    assert outcome(result, "compose_bound") == (Outcome.AFFIRMING, None)


def test_other_versions_of_digests() -> None:
    """Version 2 digests, and empty ones, replay when the version is named."""
    log = Log(2, empty_digests=True).boot(0, b"f").boot(1, b"k").boot(2, b"c").system(GUEST.hash)
    guest = Guest(log=log)
    assert outcome(guest.appraise(log_version=2), "rtmr_replay") == (Outcome.AFFIRMING, None)
    assert outcome(guest.appraise(), "rtmr_replay") == (Outcome.CONTRAINDICATED, "replay_mismatch")
    assert guest.appraise(log_version=2).claims.raw["dstack"]["digests_computed"] == 9


@pytest.mark.parametrize(
    ("claims", "given", "expected"),
    [
        ({"debug": True}, {}, (Outcome.CONTRAINDICATED, "td_debug")),
        ({"debug": None}, {}, (Outcome.NONE, "debug_unknown")),
        ({"measurements": {"mr_td": world.MRTD}}, {}, (Outcome.NONE, "no_registers")),
        ({}, {"os_images": ()}, (Outcome.NONE, "no_reference")),
        ({}, {"os_images": (os_image(GUEST.log, rtmr0="00" * 48),)}, (Outcome.CONTRAINDICATED, "os_image_unknown")),
        ({}, {"os_images": (os_image(GUEST.log, rtmr1="00" * 48),)}, (Outcome.CONTRAINDICATED, "os_image_unknown")),
        ({}, {"os_images": (os_image(GUEST.log, rtmr2="00" * 48),)}, (Outcome.CONTRAINDICATED, "os_image_unknown")),
        ({}, {"os_images": (os_image(GUEST.log, mrtd="00" * 48),)}, (Outcome.CONTRAINDICATED, "os_image_unknown")),
        ({}, {"os_images": (os_image(GUEST.log, image_hash="00" * 32),)}, (Outcome.CONTRAINDICATED, "os_image_misstated")),
        ({}, {"os_images": (os_image(GUEST.log, development=True),)}, (Outcome.CONTRAINDICATED, "os_image_development")),
        ({}, {"os_images": (os_image(GUEST.log, mrtd=""), os_image(GUEST.log))}, (Outcome.AFFIRMING, None)),
    ],
)  # fmt: skip
def test_os_image(claims: dict[str, Any], given: dict[str, Any], expected: tuple[Outcome, str | None]) -> None:
    """MRTD and RTMR0 to RTMR2 must all be one reviewed image's, of a guest that cannot be looked into."""
    result = GUEST.appraise(claims=GUEST.claims(**claims), references=references(**given))
    assert outcome(result, "os_image") == expected


def test_pitfall_self_reported_image_hash() -> None:
    """The `os-image-hash` that a guest writes itself proves nothing, and is shown as what it is."""
    result = GUEST.appraise(references=references(os_images=()))
    assert outcome(result, "os_image") == (Outcome.NONE, "no_reference")
    assert str(check(result, "os_image").found).endswith("which proves nothing")
    stranger = references(os_images=(os_image(GUEST.log, mrtd="00" * 48, image_hash=world.OS_IMAGE_HASH.hex()),))
    assert outcome(GUEST.appraise(references=stranger), "os_image") == (Outcome.CONTRAINDICATED, "os_image_unknown")


def test_image_without_a_log() -> None:
    """Registers can be compared without a log; there is only nothing that the guest says of itself."""
    result = GUEST.appraise(event_log=None)
    assert outcome(result, "os_image") == (Outcome.AFFIRMING, None)
    unknown = GUEST.appraise(event_log=None, references=references(os_images=(os_image(GUEST.log, mrtd=""),)))
    assert str(check(unknown, "os_image").found).startswith("MRTD ")


def bound(mr_config_id: bytes | None, **members: Any) -> Check:
    claims = GUEST.claims()
    measurements = {k: v for k, v in claims.measurements.items() if k != "mr_config_id"}
    if mr_config_id is not None:
        measurements["mr_config_id"] = mr_config_id.hex()
    return check(
        GUEST.appraise(claims=msgspec.structs.replace(claims, measurements=measurements), **members), "compose_bound"
    )


def v3(document: bytes) -> bytes:
    return b"\3" + hashlib.sha256(b"dstack-mr-config-v3:\0" + document).digest() + bytes(15)


MR_CONFIG = {
    "app_id": APP_ID.hex(), "compose_hash": GUEST.hash.hex(), "instance_id": world.INSTANCE_ID.hex(),
    "key_provider": "kms", "version": 3,
}  # fmt: skip


def document(**members: Any) -> bytes:
    return jcs({k: v for k, v in {**MR_CONFIG, **members}.items() if v is not None})


@pytest.mark.parametrize(
    ("value", "given", "reason", "found"),
    [
        (bytes(48), None, None, "by rtmr3"),
        (b"\1" + GUEST.hash + bytes(15), None, None, "by rtmr3 and mr_config_id"),
        (b"\1" + bytes(47), None, "mr_config_mismatch", "01"),
        (b"\1" + GUEST.hash + bytes(14) + b"\1", None, "mr_config_mismatch", "01"),
        (b"\2" + bytes(47), None, "mr_config_unsupported", "version 02"),
        (b"\0" + GUEST.hash + bytes(15), None, "mr_config_unsupported", "version 00"),
        (None, None, "no_registers", None),
        (v3(document()), document(), None, "by rtmr3 and mr_config_id"),
        (v3(document(app_id=None, instance_id="")), document(app_id=None, instance_id=""), None, "by rtmr3"),
        (v3(document()), None, "no_mr_config", None),
        (v3(document()), document() + b" ", "mr_config_mismatch", "03"),
        (v3(document(compose_hash="00" * 32)), document(compose_hash="00" * 32), "mr_config_mismatch", "compose_hash"),
        (v3(document(app_id="00" * 20)), document(app_id="00" * 20), "mr_config_mismatch", "app_id"),
        (v3(document(instance_id="00" * 20)), document(instance_id="00" * 20), "mr_config_mismatch", "instance_id"),
        (
            v3(document(gpu_policy_hash="00" * 32)),
            document(gpu_policy_hash="00" * 32),
            "mr_config_mismatch",
            "gpu_policy",
        ),
        (v3(b"[]"), b"[]", "mr_config_mismatch", "compose_hash"),
        (v3(b"{"), b"{", "malformed", "JSON"),
    ],
)
def test_mr_config_id(value: bytes | None, given: bytes | None, reason: str | None, found: str | None) -> None:
    """MR_CONFIG_ID is unset, or commits to the same compose hash; a version that cannot be read is not a pass."""
    result = bound(value, mr_config=given)
    assert result.reason == reason
    assert (result.outcome is Outcome.AFFIRMING) == (reason is None)
    assert found is None or found in str(result.found)


def test_compose_that_is_not_the_measured_one() -> None:
    """Another document, by one byte, is not the one that runs, and nothing is read from it."""
    result = GUEST.appraise(app_compose=GUEST.app_compose + b" ")
    assert outcome(result, "compose_bound") == (Outcome.CONTRAINDICATED, "compose_mismatch")
    assert outcome(result, "image_pinned") == (Outcome.NONE, "compose_not_bound")
    assert "images" not in result.claims.raw["dstack"]


def test_pitfall_compose_of_a_later_event() -> None:
    """A `compose-hash` that the application wrote after `system-ready` binds nothing."""
    other = app_compose(name="other")
    guest = Guest(log=booted().system(GUEST.hash).runtime("compose-hash", hashlib.sha256(other).digest()))
    assert outcome(guest.appraise(app_compose=other), "compose_bound") == (Outcome.CONTRAINDICATED, "compose_mismatch")
    assert outcome(guest.appraise(), "compose_bound") == (Outcome.AFFIRMING, None)


@pytest.mark.parametrize(
    ("log", "name", "reason"),
    [
        (booted().runtime("app-id", APP_ID).runtime("system-ready"), "compose_bound", "compose_event_missing"),
        (booted().runtime("app-id", APP_ID).runtime("system-ready"), "key_provider", "key_provider_missing"),
        (booted().runtime("compose-hash", GUEST.hash).runtime("system-ready"), "app_identity", "app_event_missing"),
        (booted().system(GUEST.hash, key_provider=b"{}"), "key_provider", "malformed"),
        (booted().system(GUEST.hash, key_provider=b"kms"), "key_provider", "malformed"),
        (booted().system(GUEST.hash, key_provider=b'{"name":"kms","id":"00"}'), "key_provider", "key_provider_unknown"),
        (booted().system(GUEST.hash, key_provider=b'{"name":"none","id":""}'), "key_provider", "key_provider_unknown"),
        (booted().system(GUEST.hash, app_id=bytes(20)), "app_identity", "app_unknown"),
        (booted().system(GUEST.hash, instance_id=b""), "app_identity", "app_unknown"),
    ],
)
def test_what_the_log_says(log: Log, name: str, reason: str) -> None:
    """A measured event that is missing, malformed or not the expected one fails the check that it is for."""
    assert outcome(Guest(log=log).appraise(), name) == (Outcome.CONTRAINDICATED, reason)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("compose_known", {"compose_hashes": frozenset()}, (Outcome.NONE, "no_reference")),
        ("compose_known", {"compose_hashes": frozenset({"00" * 32})}, (Outcome.CONTRAINDICATED, "compose_unknown")),
        ("app_identity", {"app_ids": frozenset(), "instance_ids": frozenset()}, (Outcome.NONE, "no_reference")),
        ("app_identity", {"app_ids": frozenset()}, (Outcome.AFFIRMING, None)),
        ("app_identity", {"instance_ids": frozenset()}, (Outcome.AFFIRMING, None)),
        ("app_identity", {"instance_ids": frozenset({"00" * 20})}, (Outcome.CONTRAINDICATED, "app_unknown")),
        ("key_provider", {"key_providers": ()}, (Outcome.NONE, "no_reference")),
        ("key_provider", {"key_providers": (KeyProvider("tpm", "3059301306072a"),)}, (Outcome.CONTRAINDICATED, "key_provider_unknown")),
    ],
)  # fmt: skip
def test_references(name: str, given: dict[str, Any], expected: tuple[Outcome, str | None]) -> None:
    """An empty list of reference values is nothing to compare with, never a pass."""
    assert outcome(GUEST.appraise(references=references(**given)), name) == expected


@pytest.mark.parametrize(
    ("members", "reason", "found"),
    [
        (
            {"docker_compose": COMPOSE.replace("@" + DIGEST, "")},
            "image_by_tag",
            "model: registry.example:5000/team/model:1.0",
        ),
        ({"docker_compose": COMPOSE + "  b: {image: $X}\n  c: {build: .}\n"}, "image_interpolated", "b: $X and 1 more"),
        ({"docker_compose": COMPOSE + "include: [x]\n"}, "compose_unresolved", "include"),
        ({"docker_compose": "services: {}"}, "compose_unresolved", "no service"),
        ({"docker_compose": "["}, "malformed", "YAML is malformed"),
    ],
)
def test_pitfall_images_behind_tags(members: dict[str, Any], reason: str, found: str) -> None:
    """A document that is bound and reviewed may still name images that anyone can replace."""
    result = Guest(app_compose(**members)).appraise()
    assert outcome(result, "compose_known") == (Outcome.AFFIRMING, None)
    assert outcome(result, "image_pinned") == (Outcome.CONTRAINDICATED, reason)
    assert str(check(result, "image_pinned").found).startswith(found)


@pytest.mark.parametrize("members", [{"runner": "bash"}, {"docker_compose": None}])
def test_other_runners(members: dict[str, Any]) -> None:
    """A guest that runs no compose file shows no images."""
    assert outcome(Guest(app_compose(**members)).appraise(), "image_pinned") == (Outcome.NONE, "runner_unknown")


def test_scripts() -> None:
    """A script counts as reviewed by its own digest, or with the whole document; else it is a warning."""
    guest = Guest(app_compose(pre_launch_script="curl x | sh"))
    digest = hashlib.sha256(b"curl x | sh").hexdigest()
    assert outcome(guest.appraise(), "scripts_known") == (Outcome.AFFIRMING, None)
    unreviewed = msgspec.structs.replace(guest.references(), compose_hashes=frozenset())
    assert outcome(guest.appraise(references=unreviewed), "scripts_known") == (Outcome.WARNING, "script_unreviewed")
    alone = msgspec.structs.replace(unreviewed, scripts=frozenset({digest}))
    assert outcome(guest.appraise(references=alone), "scripts_known") == (Outcome.AFFIRMING, None)
    assert guest.appraise().claims.raw["dstack"]["scripts"] == [{"member": "pre_launch_script", "sha256": digest}]


def test_pitfall_environment_is_not_measured() -> None:
    """Names that the operator may set are a warning until they are reviewed: their values are in no register."""
    guest = Guest(app_compose(allowed_envs=["TOKEN", "\x1b[2J"]))
    result = guest.appraise()
    assert outcome(result, "envs_known") == (Outcome.WARNING, "envs_unmeasured")
    assert check(result, "envs_known").found == "TOKEN, \\x1b[2J"
    reviewed = msgspec.structs.replace(guest.references(), envs=frozenset({"TOKEN", "\x1b[2J"}))
    assert outcome(guest.appraise(references=reviewed), "envs_known") == (Outcome.AFFIRMING, None)


def test_a_bound_document_that_cannot_be_read() -> None:
    """A text that is measured and still no app-compose is refused, not skipped."""
    result = Guest(b"not JSON").appraise()
    assert outcome(result, "compose_bound") == (Outcome.CONTRAINDICATED, "malformed")
    assert outcome(result, "compose_known") == (Outcome.NONE, "compose_not_bound")


INIT = app_compose(init_script=["one", "two"])
ONE, TWO = hashlib.sha256(b"one").digest(), hashlib.sha256(b"two").digest()
POLICY = hashlib.sha256(b"{}").digest()


def started(*events: tuple[str, bytes], document: bytes = INIT) -> Guest:
    log = booted().runtime("app-id", APP_ID)
    for name, payload in events:
        log.runtime(name, payload)
    return Guest(document, log.runtime("system-ready"))


COMPOSE_EVENT = ("compose-hash", hashlib.sha256(INIT).digest())
SCRIPT_EVENTS = (("init-script-hash", ONE), ("init-script-hash", TWO))
GPU_EVENT = ("gpu-policy-hash", POLICY)


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ((COMPOSE_EVENT,), None),
        ((COMPOSE_EVENT, *SCRIPT_EVENTS), None),
        ((COMPOSE_EVENT, *reversed(SCRIPT_EVENTS)), "init_script_mismatch"),
        ((COMPOSE_EVENT, SCRIPT_EVENTS[0]), "init_script_mismatch"),
    ],
)
def test_init_scripts(events: tuple[tuple[str, bytes], ...], reason: str | None) -> None:
    """Init scripts that are measured one by one are those of the document, in its order."""
    assert reasons(started(*events).appraise())["compose_bound"] == reason


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ((COMPOSE_EVENT, GPU_EVENT), (Outcome.AFFIRMING, None)),
        ((COMPOSE_EVENT, *SCRIPT_EVENTS, GPU_EVENT), (Outcome.AFFIRMING, None)),
        ((COMPOSE_EVENT,), (Outcome.NONE, "no_gpu_policy")),
        ((GPU_EVENT, COMPOSE_EVENT), (Outcome.CONTRAINDICATED, "gpu_policy_position")),
        ((COMPOSE_EVENT, ("instance-id", b""), GPU_EVENT), (Outcome.CONTRAINDICATED, "gpu_policy_position")),
        ((COMPOSE_EVENT, ("gpu-policy-hash", bytes(32))), (Outcome.CONTRAINDICATED, "gpu_policy_mismatch")),
    ],
)
def test_gpu_policy(events: tuple[tuple[str, bytes], ...], expected: tuple[Outcome, str | None]) -> None:
    """The policy for GPUs is measured directly after the document and its scripts, and is the document's."""
    assert outcome(started(*events).appraise(), "gpu_policy") == expected


def test_gpu_policy_first_of_all() -> None:
    """A policy that was measured before anything else is not in its place either."""
    log = booted().runtime("gpu-policy-hash", POLICY).system(GUEST.hash)
    assert outcome(Guest(log=log).appraise(), "gpu_policy") == (Outcome.CONTRAINDICATED, "gpu_policy_position")


def test_gpu_policy_needs_the_document() -> None:
    """Without the document there is nothing to hold the policy to."""
    result = started(COMPOSE_EVENT, GPU_EVENT).appraise(app_compose=None)
    assert outcome(result, "gpu_policy") == (Outcome.NONE, "compose_not_bound")
    assert outcome(result, "compose_bound") == (Outcome.NONE, "no_app_compose")


def test_pitfall_gpu_policy_of_the_application() -> None:
    """A policy that stands after `system-ready` is the application's word, and counts as none."""
    guest = Guest(log=booted().system(GUEST.hash).runtime("gpu-policy-hash", POLICY))
    assert outcome(guest.appraise(), "gpu_policy") == (Outcome.NONE, "no_gpu_policy")


def test_two_gpu_policies() -> None:
    """Two policies are one too many: the log is refused."""
    assert reasons(started(COMPOSE_EVENT, GPU_EVENT, GPU_EVENT).appraise())["rtmr_log"] == "event_twice"


@pytest.mark.parametrize("hostile", ["\x1b]0;x\x07", "\u202eabc", "x" * 128])
def test_text_from_the_guest_is_inert(hostile: str) -> None:
    """Names and ids from the guest reach checks and claims only escaped and cut."""
    provider = json.dumps({"name": hostile, "id": hostile}).encode()
    log = booted().runtime(hostile).system(GUEST.hash, key_provider=provider)
    result = Guest(
        app_compose(f'services: {{"{hostile.encode("unicode_escape").decode()}": {{image: x}}}}'), log
    ).appraise()
    shown = [str(c.found) for c in result.checks] + result.claims.raw["dstack"]["events"]
    assert all(text.isprintable() and len(text) <= 120 for text in shown)
    assert result.claims.raw["dstack"]["key_provider"]["name"].isprintable()


def flips(data: bytes) -> st.SearchStrategy[bytes]:
    at = st.integers(0, len(data) - 1)
    return st.one_of(
        st.builds(lambda i, b: data[:i] + bytes([data[i] ^ b]) + data[i + 1 :], at, st.integers(1, 255)),
        st.builds(lambda i: data[:i], at),
    )


@settings(max_examples=300, deadline=None)
@given(flips(GUEST.app_compose))
def test_no_other_document_is_bound(data: bytes) -> None:
    """Any change of a measured document is seen."""
    assert outcome(GUEST.appraise(app_compose=data), "compose_bound") == (Outcome.CONTRAINDICATED, "compose_mismatch")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_a_measured_document_of_any_bytes_is_appraised(data: bytes) -> None:
    """A guest may measure any bytes as its document; the appraisal lists every check all the same."""
    result = Guest(data).appraise()
    assert tuple(c.id for c in result.checks) == PLAN
    assert check(result, "image_pinned").outcome is not Outcome.AFFIRMING


@pytest.mark.parametrize("seed", world.seeds(), ids=[str(i) for i in range(len(world.seeds()))])
def test_the_long_fuzz_target_takes_its_seeds(seed: bytes) -> None:
    """Each seed, and each with its middle cut out, passes through the target without an exception."""
    world.run(seed)
    world.run(seed[: len(seed) // 2])


def test_genuine_seeds_are_read() -> None:
    """The seeds are what they say: a mutation starts from something that a reader takes."""
    readers: dict[int, Callable[[bytes], Any]] = {
        0: world.rtmr.parse_event_log,
        1: world.ccel.parse_ccel,
        2: lambda data: world.read_compose(data.decode()),
        3: world.parse_app_compose,
        4: world.rtmr.parse_event_log,
    }
    for seed in world.seeds():
        readers[seed[0]](seed[1:])


def test_reference_values_from_a_file() -> None:
    """Reference values that were written as JSON are those that were written."""
    assert parse_references(msgspec.json.encode(GUEST.references())) == GUEST.references()
    assert parse_references(b"{}") == References()
    assert parse_references(b'{"instance_ids": [""]}').instance_ids == {""}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[]", "object"),
        (b"", "JSON"),
        (b'{"os_image": []}', "unknown field"),
        (b'{"compose_hashes": ["00"]}', "matching regex"),
        (b'{"compose_hashes": ["' + b"AB" * 32 + b'"]}', "matching regex"),
        (b'{"compose_hashes": ["' + b"ab" * 32 + b'\\n"]}', "matching regex"),
        (b'{"app_ids": ["0x' + b"00" * 19 + b'"]}', "matching regex"),
        (b'{"os_images": [{"name": "x"}]}', "mrtd"),
        (b'{"os_images": [{"name": "x", "mrtd": "00"}]}', "matching regex"),
    ],
)
def test_reference_values_that_could_never_match(data: bytes, message: str) -> None:
    """A misspelt member, or a value of another form than the measured ones, is an error and not a silent mismatch."""
    with pytest.raises(FormatError, match=message):
        parse_references(data)


def given_reasons() -> set[str]:
    """Every reason that the modules of this family write down."""
    found: set[str] = set()
    for name in ("rtmr", "ccel", "compose", "dstack", "dstack_compose", "secretvm"):
        tree = ast.parse((ROOT / f"gateway/verify/tee/{name}.py").read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", "")
                given = [k.value for k in node.keywords if k.arg == "reason"]
                given += node.args[1:2] if called in ("fails", "unknown", "warns") else []
                found |= {g.value for g in given if isinstance(g, ast.Constant)}
            elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "reason":
                found |= {c.value for c in ast.walk(node.value) if isinstance(c, ast.Constant)}
            elif isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and name == "compose":
                found.add(node.value.value)
    return {reason for reason in found if isinstance(reason, str)}


def test_every_reason_is_documented() -> None:
    """Each reason of this family is explained in the documents."""
    documented = "".join(path.read_text("utf-8") for path in (ROOT / "docs").glob("*.md"))
    reasons = given_reasons()
    assert {"event_digest", "image_by_tag", "no_reference", "envs_unmeasured", "td_debug"} <= reasons
    assert not {reason for reason in reasons if f"`{reason}`" not in documented}
