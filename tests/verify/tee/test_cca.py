"""Arm CCA tokens: a genuine one to claims, and every way in which one can fail to be."""

from __future__ import annotations

import hashlib
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds import cca as worlds
from tee_worlds.cca import CHALLENGE, World, cose_key, sec1
from tee_worlds.nitro import DROP, ec_key

from gateway.errors import FormatError
from gateway.model.tee import FreshnessClass, HostTrust, TeeResult
from gateway.model.verdict import Outcome
from gateway.verify.tee.cca import PLAN, from_inputs, verify_cca
from gateway.verify.tee.roots import TrustRoots
from gateway.verify.tee.rules import TeeRules, judge, violations


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def examine(world: World, token: bytes, **how: Any) -> TeeResult:
    key = how.pop("key", world.platform_key_sec1)
    return verify_cca(token, key, roots=how.pop("roots", world.roots), now=world.now, **how)


def outcomes(result: TeeResult) -> dict[str, str]:
    return {check.id: check.reason or check.outcome.value for check in result.checks}


def failed_at(result: TeeResult, check_id: str, reason: str) -> bool:
    found = outcomes(result)
    after = PLAN[PLAN.index(check_id) + 1 :]
    return (
        not result.claims.authentic
        and result.claims.reject_code == reason
        and found[check_id] == reason
        and tuple(found) == PLAN
        and all(found[name] == "not_reached" for name in after)
    )


def test_a_genuine_token_becomes_claims(world: World) -> None:
    """Every check is affirmed, and what both tokens say is where a policy looks for it."""
    token = world.token()
    result = examine(world, token, challenge=CHALLENGE)
    assert [check.outcome for check in result.checks] == [Outcome.AFFIRMING] * len(PLAN)
    claims = result.claims
    assert claims.authentic
    assert claims.debug is False
    assert claims.report_data == claims.nonce == CHALLENGE.hex()
    assert claims.freshness.kind is FreshnessClass.CHALLENGE
    assert claims.freshness.age_s is None
    assert claims.measurements["rim"] == hashlib.sha512(b"rim").hexdigest()
    assert set(claims.measurements) == {"rim", "rpv", "rem0", "rem1", "rem2", "rem3"}
    instance = b"\x01" + hashlib.sha256(b"instance").digest()
    assert claims.machine_id == hashlib.sha256(instance).hexdigest()
    assert claims.machine_id_kind == "instance_id"
    assert claims.host_trust is HostTrust.UNKNOWN_OPERATOR
    assert claims.root is not None
    assert claims.root.name == "test platform"
    assert claims.raw["instance_id"] == instance.hex()
    assert claims.raw["lifecycle"] == 0x3003
    assert claims.raw["sw_components"][0] == {
        "1": "BL1",
        "2": hashlib.sha256(b"bl1").hexdigest(),
        "4": "1.0",
        "5": hashlib.sha256(b"signer").hexdigest(),
    }
    assert claims.raw["verification_service"] is None


def test_without_a_challenge_nothing_says_how_old_a_token_is(world: World) -> None:
    """A token carries no time: unchallenged, it is undated."""
    result = examine(world, world.token())
    assert result.claims.authentic
    assert outcomes(result)["tee_nonce"] == "nonce_not_demanded"
    assert result.claims.freshness.kind is FreshnessClass.UNDATED
    assert result.claims.nonce is None


def test_pitfall_a_platform_key_that_is_not_pinned_is_no_root(world: World) -> None:
    """A key that was merely named leaves the chain unshown and no root, so not even a policy for tests takes it."""
    result = examine(world, world.token(), roots=TrustRoots())
    assert result.claims.authentic
    chain = result.checks[PLAN.index("tee_chain")]
    assert (chain.outcome, chain.reason) == (Outcome.NONE, "platform_key_not_pinned")
    assert result.claims.root is None
    assert len(result.claims.signer_chain) == 1
    lenient = TeeRules(binding="any", test_roots="allow")
    assert violations(judge(result.claims, lenient)) == ("root_unknown",)


def test_each_encoding_of_keys_and_each_tag_is_read(world: World) -> None:
    """The realm key is hashed in the encoding that it came in; both tags, tagged and untagged parts are read."""
    encoded = cose_key(world.realm_key)
    for how in ({}, {"tag": 907}, {"part_tag": None}, {"realm_key": encoded}):
        assert examine(world, world.token(**how), key=cose_key(world.platform_key)).claims.authentic


@pytest.mark.parametrize(
    ("curve", "protected", "digest"),
    [(ec.SECP256R1(), "a10126", hashes.SHA256()), (ec.SECP521R1(), "a1013823", hashes.SHA512())],
    ids=["ES256", "ES512"],
)
def test_realm_keys_of_other_curves_are_read(world: World, curve: Any, protected: str, digest: Any) -> None:
    """The realm's algorithm goes with its curve."""
    key = ec_key("realm other", curve)
    how: dict[str, Any] = {"realm_key": cose_key(key), "sign_realm": key}
    good = world.token(**how, realm_protected=bytes.fromhex(protected), realm_digest=digest)
    assert examine(world, good).claims.authentic


@pytest.mark.parametrize("name", ["sha-256", "sha-384", "sha-512"])
def test_the_realm_keys_digest_has_the_name_that_the_realm_gives(world: World, name: str) -> None:
    """Each digest that the token may name binds the key."""
    digest = hashlib.new(name.replace("-", ""), world.realm_key_sec1).digest()
    assert examine(world, world.token(platform={10: digest}, realm={44240: name})).claims.authentic


@pytest.mark.parametrize(
    ("lifecycle", "debug"),
    [(0x3000, False), (0x30FF, False), (0x2FFF, True), (0x3100, True), (0, True), (0x4003, True)],
)
def test_only_the_secured_lifecycle_is_no_debug(world: World, lifecycle: int, debug: bool) -> None:
    """A platform in any other state is genuine and may be looked into."""
    result = examine(world, world.token(platform={2395: lifecycle}))
    assert result.claims.authentic
    assert result.claims.debug is debug


def test_a_verification_service_is_reported(world: World) -> None:
    """The optional claim is kept under its own name."""
    result = examine(world, world.token(platform={2400: "https://service.invalid"}))
    assert result.claims.raw["verification_service"] == "https://service.invalid"


LONG = "x" * 257
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "no tag": ({"tag": None}, "cca_bad_collection"),
    "another tag": ({"tag": 18}, "cca_bad_collection"),
    "no realm": ({"collection": {44241: DROP}}, "cca_bad_collection"),
    "no platform": ({"collection": {44234: DROP}}, "cca_bad_collection"),
    "a third part": ({"collection": {1: b""}}, "cca_bad_collection"),
    "part as text": ({"collection": {44241: "x"}}, "cca_bad_collection"),
    "part that is no COSE": ({"collection": {44241: b"\x80"}}, "cca_not_cose_sign1"),
    "part cut": ({"collection": {44241: b"\x84"}}, "cca_not_cose_sign1"),
    "part with another tag": ({"part_tag": 98}, "cca_not_cose_sign1"),
    "profile missing": ({"platform": {265: DROP}}, "cca_bad_claims"),
    "profile long": ({"platform": {265: LONG}}, "cca_bad_claims"),
    "profile with an escape": ({"platform": {265: "\x1b[2J"}}, "cca_bad_claims"),
    "platform challenge of 31 bytes": ({"platform": {10: bytes(31)}}, "cca_bad_claims"),
    "instance id of 32 bytes": ({"platform": {256: bytes(32)}}, "cca_bad_claims"),
    "instance id of another type": ({"platform": {256: b"\x02" + bytes(32)}}, "cca_bad_claims"),
    "implementation id missing": ({"platform": {2396: DROP}}, "cca_bad_claims"),
    "lifecycle true": ({"platform": {2395: True}}, "cca_bad_claims"),
    "lifecycle negative": ({"platform": {2395: -1}}, "cca_bad_claims"),
    "lifecycle over 16 bits": ({"platform": {2395: 0x13003}}, "cca_bad_claims"),
    "configuration as text": ({"platform": {2401: "x"}}, "cca_bad_claims"),
    "hash name missing": ({"platform": {2402: DROP}}, "cca_bad_claims"),
    "service as bytes": ({"platform": {2400: b"x"}}, "cca_bad_claims"),
    "components missing": ({"platform": {2399: DROP}}, "cca_bad_claims"),
    "no component": ({"platform": {2399: []}}, "cca_bad_claims"),
    "65 components": ({"platform": {2399: [{1: "x"}] * 65}}, "cca_bad_claims"),
    "component as text": ({"platform": {2399: ["x"]}}, "cca_bad_claims"),
    "component with a named member": ({"platform": {2399: [{"x": 1}]}}, "cca_bad_claims"),
    "component with a list": ({"platform": {2399: [{1: []}]}}, "cca_bad_claims"),
    "component with an escape": ({"platform": {2399: [{1: "\x1b"}]}}, "cca_bad_claims"),
    "component true": ({"platform": {2399: [{1: True}]}}, "cca_bad_claims"),
    "realm challenge of 32 bytes": ({"challenge": bytes(32)}, "cca_bad_claims"),
    "personalisation missing": ({"realm": {44235: DROP}}, "cca_bad_claims"),
    "realm hash missing": ({"realm": {44236: DROP}}, "cca_bad_claims"),
    "realm key as text": ({"realm": {44237: "x"}}, "cca_bad_claims"),
    "key hash as bytes": ({"realm": {44240: b"sha-256"}}, "cca_bad_claims"),
    "initial measurement of 20 bytes": ({"realm": {44238: bytes(20)}}, "cca_bad_claims"),
    "three extensible measurements": ({"realm": {44239: [bytes(64)] * 3}}, "cca_bad_claims"),
    "extensible measurements as bytes": ({"realm": {44239: bytes(64)}}, "cca_bad_claims"),
    "extensible measurement of 20 bytes": ({"realm": {44239: [bytes(64)] * 3 + [bytes(20)]}}, "cca_bad_claims"),
    "extensible measurement as text": ({"realm": {44239: [bytes(64)] * 3 + ["x"]}}, "cca_bad_claims"),
}


@pytest.mark.parametrize(("how", "reason"), FORMS.values(), ids=FORMS.keys())
def test_a_token_of_another_form_is_refused_though_signed(world: World, how: dict[str, Any], reason: str) -> None:
    """Each rule of the form is held to, whoever signed, and nothing of such a token becomes a claim."""
    result = examine(world, world.token(**how))
    assert failed_at(result, "tee_format", reason)
    assert result.claims.raw == {}


def test_bytes_that_are_no_token_are_refused(world: World) -> None:
    """Cut, extended and oversized bytes, and payloads that are no claims, each have a reason."""
    good = world.token()
    part = worlds.sign1(world.realm_key, b"\xff")
    array = worlds.sign1(world.realm_key, cbor2.dumps([1]))
    cases = {
        b"": "cca_bad_collection",
        good[:-1]: "cca_bad_cbor",
        good + b"\x00": "cca_trailing_bytes",
        b"\x00" * 65_537: "cca_bad_cbor",
        cbor2.dumps(cbor2.CBORTag(399, [])): "cca_bad_collection",
        world.token(collection={44241: part}): "cca_bad_cbor",
        world.token(collection={44234: array}): "cca_bad_claims",
    }
    for data, reason in cases.items():
        assert failed_at(examine(world, data), "tee_format", reason), reason


def test_a_platform_key_that_is_none_is_refused(world: World) -> None:
    """What the caller names must be one public key."""
    for key in (b"", b"\x04" + bytes(96), b"{}"):
        assert failed_at(examine(world, world.token(), key=key), "tee_chain", "cca_bad_platform_key")


def test_both_signatures_are_held_to(world: World) -> None:
    """A token under another platform key, or a realm token under another realm key, is refused by its own reason."""
    other = ec_key("other")
    cases = [
        (world.token(sign_platform=other), "cca_platform_bad_signature"),
        (world.token(sign_realm=other), "cca_realm_bad_signature"),
        (world.token(realm_key=b"\x04" + bytes(96)), "cca_bad_realm_key"),
        (world.token(realm_key=sec1(ec_key("p256", ec.SECP256R1()))), "cca_realm_bad_signature"),
    ]
    for token, reason in cases:
        assert failed_at(examine(world, token), "tee_signature", reason), reason
    assert failed_at(examine(world, world.token(), key=sec1(other)), "tee_signature", "cca_platform_bad_signature")


def test_a_realm_of_another_platform_is_refused(world: World) -> None:
    """A realm token that its own key signed belongs to this platform only if the platform vouches for the key."""
    foreign = ec_key("foreign realm")
    genuine = hashlib.sha256(world.realm_key_sec1).digest()
    token = world.token(realm_key=sec1(foreign), sign_realm=foreign, platform={10: genuine})
    assert failed_at(examine(world, token), "tee_parts", "cca_realm_key_not_bound")
    prefix = hashlib.sha512(world.realm_key_sec1).digest()
    longer = world.token(platform={10: prefix[:32]}, realm={44240: "sha-512"})
    assert failed_at(examine(world, longer), "tee_parts", "cca_realm_key_not_bound")


def test_a_digest_of_no_known_name_is_refused(world: World) -> None:
    """A realm cannot choose how its key is bound beyond the three digests."""
    for name in ("md5", "sha-1", "SHA-256", ""):
        assert failed_at(examine(world, world.token(realm={44240: name})), "tee_parts", "cca_bad_hash_name")


@pytest.mark.parametrize("asked", [b"", CHALLENGE[:32], CHALLENGE + b"\x00", bytes(64)])
def test_another_challenge_is_refused(world: World, asked: bytes) -> None:
    """A prefix of our challenge is not our challenge."""
    result = examine(world, world.token(), challenge=asked)
    assert failed_at(result, "tee_nonce", "nonce_mismatch")
    assert result.claims.freshness.kind is FreshnessClass.UNDATED


def test_inputs_come_in_by_their_roles(world: World) -> None:
    """The manifest's roles are those of the function; what is missing or means nothing is an error of the caller's."""
    blobs = {"token": world.token(), "cpak": world.platform_key_sec1}
    result = from_inputs(blobs, {"nonce": CHALLENGE.hex()}, world.roots, world.now)
    assert result.claims.freshness.kind is FreshnessClass.CHALLENGE
    assert from_inputs(blobs, {}, TrustRoots(), world.now).claims.authentic
    for bad, params, reason in (
        ({"token": b""}, {}, "input_missing"),
        ({"cpak": b""}, {}, "input_missing"),
        (blobs, {"nonce": "x"}, "input_invalid"),
        (blobs, {"nonce": 1}, "input_invalid"),
    ):
        with pytest.raises(FormatError) as refused:
            from_inputs(bad, params, world.roots, world.now)
        assert refused.value.reason == reason


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_tokens_are_never_authentic(data: st.DataObject) -> None:
    """Flips, cuts, splices and insertions give a result, and not one that is authentic."""
    seeds = worlds.seeds()
    good = data.draw(st.sampled_from(seeds[:2]))
    place = data.draw(st.integers(0, len(good) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "splice", "insert", "random"]))
    if kind == "flip":
        bad = good[:place] + bytes((good[place] ^ data.draw(st.integers(1, 255)),)) + good[place + 1 :]
    elif kind == "cut":
        bad = good[:place]
    elif kind == "insert":
        bad = good[:place] + data.draw(st.binary(min_size=1, max_size=8)) + good[place:]
    elif kind == "random":
        bad = data.draw(st.binary(max_size=200))
    else:
        other = data.draw(st.sampled_from(seeds))
        bad = good[:place] + other[data.draw(st.integers(0, len(other))) :]
    worlds.run(bad)
    if bad not in seeds and not _only_another_tag(bad, seeds):
        world = worlds._world[0]
        assert not verify_cca(bad, world.platform_key_sec1, roots=world.roots, now=world.now).claims.authentic


def _only_another_tag(token: bytes, seeds: list[bytes]) -> bool:
    # 399 and 907 around the whole mean the same, and neither is signed.
    return token[:1] == b"\xd9" and any(token[3:] == seed[3:] for seed in seeds)
