"""How far a node's key is shown to live in its enclave, and every way in which it is not."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from og_identity_kit import (
    KNOWN,
    NODE,
    NONCE,
    NOW,
    PCRS,
    REGISTERED,
    SPKI_PIN,
    THEN,
    VERSION,
    WORLD,
    appraise,
    claimed,
    live,
    ohttp,
    pcr_hash_of,
    record,
    registered,
    rsa_spki,
    said,
    tls_certificate,
    user_data,
)

from gateway.crypto.keccak import keccak256
from gateway.errors import FormatError
from gateway.model.tee import BindingStatus, FreshnessClass
from gateway.model.verdict import Outcome
from gateway.testing.tee.nitro import DROP, debug_pcrs
from gateway.verify.checks import CHECKS, CLAIM_SOURCES, CLAIMS, Phase
from gateway.verify.opengradient.dossier import Live
from gateway.verify.opengradient.identity_claims import grade
from gateway.verify.opengradient.registry import tee_id_of
from gateway.verify.tee.roots import VENDOR_ROOTS

OK = ("affirming", None)
IDS = ["evidence", "key_bound", "key_weak", "keyset_valid", "fresh", "channel_bound", "tee_rules"]
OTHER = rsa_spki(number=1)
TEE_ID = keccak256(rsa_spki()).hex()
REVOKED = {pcr_hash_of(PCRS): msgspec.structs.replace(VERSION, status="revoked")}


def con(reason: str) -> tuple[str, str]:
    return ("contraindicated", reason)


def none(reason: str) -> tuple[str, str]:
    return ("none", reason)


def test_a_node_that_has_everything_is_live_attested() -> None:
    """With a record, its registration and a live document under a trusted root, every check but policy's affirms."""
    result, session = appraise()
    assert [check.id for check in result.checks] == IDS
    assert said(result.checks) == {**dict.fromkeys(IDS, OK), "tee_rules": none("left_to_policy")}
    assert grade(result.claims) == "live-attested"
    claims = claimed(result.claims)
    for name in ("identity_live", "identity_calldata", "identity_registry", "key_bound", "fresh", "channel_bound"):
        assert claims[name] == ("asserted", None)
    assert claims["tee_attested"] == ("asserted", "root=TEST")
    assert claims["executed_in_tee"] == ("refuted", "relayed_to_provider")
    assert claims["host_trust"] == ("asserted", "hyperscaler_attested")
    assert claims["pcr_known"] == ("asserted", "publisher: a build")
    assert session.outcome is Outcome.AFFIRMING


def test_the_session_holds_the_attested_keys_and_ends_with_the_attestation() -> None:
    """The session's key, pin, times, evidence and claims are those of the documents that held."""
    _, session = appraise(evidence_digest="aa" * 32)
    (key,) = session.keys
    assert (key.key_id, key.alg, key.public_key) == ("0x" + TEE_ID, "rsa-pss-sha256", rsa_spki())
    assert session.spki_pins == (SPKI_PIN,)
    assert (session.established, session.expires) == (NOW, NOW + 3600)
    assert session.evidence_digest == "aa" * 32
    assert session.keyset_digest == "sha256:" + hashlib.sha256(rsa_spki()).hexdigest()
    (tee,) = session.tee
    assert tee.binding.status is BindingStatus.BOUND
    assert tee.freshness.kind is FreshnessClass.CHALLENGE
    assert session.id == appraise(evidence_digest="aa" * 32)[1].id != appraise()[1].id
    assert appraise(lifetime_s=60.0)[1].expires == NOW + 60
    # the leaf of the document lives for three hours, however long the attestation is to last
    assert appraise(attestation_ttl_s=1e6)[1].expires == NOW + 3 * 3600
    assert appraise(live=None, attestation_ttl_s=1e6)[1].expires == NOW + 1e6
    assert appraise(live=None)[1].evidence_digest != appraise()[1].evidence_digest


def test_every_word_is_of_the_closed_vocabulary() -> None:
    """Checks, claims and sources are registered, each claim stands once, whatever is missing."""
    cases: list[dict[str, Any]] = [{}, {"live": None}, {"registration": None}, {"record": None, "registration": None}]
    for case in cases:
        result, _ = appraise(**case)
        assert [check.id for check in result.checks] == IDS
        assert all(Phase.NODE in CHECKS[check.id].phases for check in result.checks)
        names = [claim.name for claim in result.claims]
        assert len(names) == len(set(names))
        assert set(names) <= CLAIMS.keys()
        assert {claim.source for claim in result.claims} <= {*CLAIM_SOURCES, None}
        assert all(check.reason for check in result.checks if check.outcome is not Outcome.AFFIRMING)


#: name -> (what is different, the checks that differ from those of a node that has everything)
CASES: dict[str, tuple[dict[str, Any], dict[str, tuple[str, str | None]]]] = {
    "no registration": ({"registration": None}, {}),
    "no live document": (
        {"live": None},
        {"evidence": ("warning", "only_registered_attestation"), "fresh": none("no_attestation")},
    ),
    "live document not had": (
        {"live": None, "problems": {"live": "timeout"}},
        {"evidence": ("warning", "only_registered_attestation"), "fresh": none("timeout")},
    ),
    "the registry's word alone": (
        {"live": None, "registration": None},
        {
            "evidence": none("no_attestation"),
            "key_bound": none("registry_claim_only"),
            "fresh": none("no_attestation"),
            "channel_bound": none("registry_claim_only"),
            "keyset_valid": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "the registry's word and a pin": (
        {"live": None, "registration": None, "node": msgspec.structs.replace(NODE, pin="0x" + TEE_ID)},
        {
            "evidence": none("no_attestation"),
            "fresh": none("no_attestation"),
            "channel_bound": none("registry_claim_only"),
            "keyset_valid": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "no record": ({"record": None}, {"keyset_valid": none("no_registry_record")}),
    "no record, dated by its block": (
        {"record": None, "registration": registered(block_time=REGISTERED + 10)},
        {"keyset_valid": none("no_registry_record")},
    ),
    "nothing": (
        {"record": None, "registration": None, "problems": {"registry": "rpc_disagree"}},
        {
            **dict.fromkeys(IDS, none("no_evidence")),
            "evidence": none("rpc_disagree"),
            "keyset_valid": none("rpc_disagree"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "pin without 0x": ({"node": msgspec.structs.replace(NODE, pin=TEE_ID)}, {}),
    "pin in capitals": ({"node": msgspec.structs.replace(NODE, pin="0x" + TEE_ID.upper())}, {}),
    "another pin": (
        {"node": msgspec.structs.replace(NODE, pin="0x" + "00" * 32)},
        {"key_bound": con("keyset_not_pinned")},
    ),
    "no pin at all": (
        {"node": msgspec.structs.replace(NODE, pin="sha256:" + TEE_ID)},
        {"key_bound": con("pin_malformed")},
    ),
    "an id that is not the key's": ({"record": record(tee_id=b"\1" * 32)}, {"key_bound": con("tee_id_mismatch")}),
    "disabled": ({"record": record(enabled=False)}, {"keyset_valid": con("tee_disabled")}),
    "a validator": ({"record": record(tee_type=1)}, {"keyset_valid": con("tee_type_unexpected")}),
    "heartbeat too old": (
        {"record": record(last_heartbeat_at=int(NOW) - 1801)},
        {"keyset_valid": con("heartbeat_stale")},
    ),
    "heartbeat at the limit": ({"record": record(last_heartbeat_at=int(NOW) - 1800)}, {}),
    "heartbeat of zero": ({"record": record(last_heartbeat_at=0)}, {"keyset_valid": con("heartbeat_stale")}),
    "heartbeat from the future": (
        {"record": record(last_heartbeat_at=2**256 - 1)},
        {"keyset_valid": con("heartbeat_future")},
    ),
    "not approved on chain": ({"pcr_approved": False}, {"keyset_valid": con("pcr_not_approved")}),
    "approved on chain": ({"pcr_approved": True}, {}),
    "not in our table": ({"known_pcrs": {}}, {"keyset_valid": none("pcr_unknown")}),
    "not in our table, and pinned": (
        {"known_pcrs": {}, "node": msgspec.structs.replace(NODE, pin="0x" + TEE_ID)},
        {"keyset_valid": ("warning", "pcr_unknown")},
    ),
    "revoked by the registry's own word": (
        {"known_pcrs": REVOKED, "live": None, "registration": None},
        {
            "evidence": none("no_attestation"),
            "key_bound": none("registry_claim_only"),
            "keyset_valid": con("pcr_revoked"),
            "fresh": none("no_attestation"),
            "channel_bound": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "revoked in our table": (
        {"known_pcrs": REVOKED},
        {"keyset_valid": con("pcr_revoked")},
    ),
    "the record names another build": (
        {"record": record(pcr_hash=b"\2" * 32)},
        {"keyset_valid": con("pcr_mismatch")},
    ),
    "the record is not what was registered": (
        {"registration": registered(tee_type=1)},
        {"keyset_valid": con("registration_mismatch")},
    ),
    "another build runs": (
        {"live": live(pcrs={**PCRS, 0: b"\x11" * 48})},
        {"keyset_valid": con("pcr_mismatch")},
    ),
    "debug": (
        {"live": live(pcrs=debug_pcrs())},
        {
            "evidence": con("debug_enclave"),
            "key_bound": none("registry_claim_only"),
            "keyset_valid": con("pcr_mismatch"),
            "channel_bound": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "no PCR0": (
        {"live": live(pcrs={1: b"\1" * 48, 2: b"\2" * 48})},
        {
            "evidence": con("pcr_missing"),
            "key_bound": none("registry_claim_only"),
            "keyset_valid": con("pcr_mismatch"),
            "channel_bound": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "short PCR2": (
        {"live": live(pcrs={**PCRS, 2: b"\2" * 32})},
        {
            "evidence": con("pcr_missing"),
            "key_bound": none("registry_claim_only"),
            "keyset_valid": con("pcr_mismatch"),
            "channel_bound": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "another nonce": (
        {"live": live(nonce=b"\1" * 20)},
        {
            "evidence": con("nonce_mismatch"),
            "key_bound": none("registry_claim_only"),
            "fresh": con("nonce_mismatch"),
            "channel_bound": none("registry_claim_only"),
            "keyset_valid": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "an hour old": (
        {"live": live(timestamp=NOW - 3600)},
        {
            "evidence": con("nitro_stale"),
            "key_bound": none("registry_claim_only"),
            "fresh": con("nitro_stale"),
            "channel_bound": none("registry_claim_only"),
            "keyset_valid": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "another root": (
        {"roots": VENDOR_ROOTS},
        {
            "evidence": con("nitro_untrusted_root"),
            "key_bound": none("registry_claim_only"),
            "fresh": none("no_evidence"),
            "channel_bound": none("registry_claim_only"),
            "keyset_valid": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "no document": (
        {"live": Live(b"\0" * 20, b"not a document")},
        {
            "evidence": con("nitro_bad_cbor"),
            "key_bound": none("registry_claim_only"),
            "fresh": none("no_evidence"),
            "channel_bound": none("registry_claim_only"),
            "keyset_valid": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "another signing key": (
        {"live": live(user_data=user_data(spki=OTHER))},
        {
            "evidence": con("signing_key_binding"),
            "key_bound": con("signing_key_binding"),
            "channel_bound": none("registry_claim_only"),
            "keyset_valid": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "another TLS certificate": (
        {"live": live(user_data=user_data(tls=b"other"))},
        {
            "evidence": con("tls_binding"),
            "key_bound": con("tls_binding"),
            "channel_bound": con("tls_binding"),
            "keyset_valid": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "user data of another form": (
        {"live": live(user_data=user_data() + b"\0")},
        {
            "evidence": con("user_data_malformed"),
            "key_bound": con("user_data_malformed"),
            "channel_bound": none("registry_claim_only"),
            "keyset_valid": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "no user data": (
        {"live": live(user_data=DROP), "registration": None},
        {
            "evidence": con("user_data_malformed"),
            "key_bound": con("user_data_malformed"),
            "channel_bound": none("registry_claim_only"),
            "keyset_valid": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
    "registered for another key": (
        {"registration": registered(THEN.document(user_data=user_data(spki=OTHER)))},
        {"key_bound": con("signing_key_binding")},
    ),
    "registered for another certificate": (
        {"registration": registered(THEN.document(user_data=user_data(tls=b"other")))},
        {"key_bound": con("tls_binding"), "channel_bound": con("tls_binding")},
    ),
    "plain HTTP": ({"tls": False, "spki": None}, {"channel_bound": none("no_tls")}),
    "leaf not known": ({"spki": None}, {"channel_bound": none("spki_unknown")}),
    "another leaf": ({"spki": b"\3" * 32}, {"channel_bound": con("spki_mismatch")}),
    "certificate that is none": (
        {
            "record": record(tls_certificate=b"junk"),
            "registration": None,
            "live": live(user_data=user_data(tls=b"junk")),
        },
        {"channel_bound": con("tls_certificate_malformed")},
    ),
    "sealed to a signed key": ({"ohttp": ohttp(), "tls": False, "spki": None}, {}),
    "sealed, and the relay's leaf is its own": ({"ohttp": ohttp(), "spki": b"\3" * 32}, {}),
    "sealed to a key that nobody signed": (
        {"ohttp": ohttp("ohttp_config_signature")},
        {"channel_bound": con("ohttp_config_signature")},
    ),
    "sealed to a key of the registry's word": (
        {"ohttp": ohttp(), "live": None, "registration": None},
        {
            "evidence": none("no_attestation"),
            "key_bound": none("registry_claim_only"),
            "fresh": none("no_attestation"),
            "channel_bound": none("registry_claim_only"),
            "keyset_valid": none("registry_claim_only"),
            "tee_rules": none("no_evidence"),
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_fault_stands_in_its_own_check(name: str) -> None:
    """Every check is as for a sound node but those that the fault is about."""
    changes, differing = CASES[name]
    result, session = appraise(**changes)
    sound = {**dict.fromkeys(IDS, OK), "tee_rules": none("left_to_policy")}
    assert said(result.checks) == {**sound, **differing}
    worst = {outcome for check, (outcome, _) in {**sound, **differing}.items() if check != "tee_rules"}
    if session is not None and "contraindicated" in worst:
        assert session.outcome is Outcome.CONTRAINDICATED
    assert all(
        check.found is None or (check.found.isprintable() and len(check.found) <= 100) for check in result.checks
    )


#: name -> (what is different, claims that follow, the grade)
CLAIM_CASES: dict[str, tuple[dict[str, Any], dict[str, tuple[str, str | None]], str]] = {
    "registered alone": (
        {"live": None},
        {
            "identity_live": ("unknown", "no_attestation"),
            "tee_attested": ("asserted", "root=TEST"),
            "fresh": ("unknown", "no_attestation"),
        },
        "calldata-attested",
    ),
    "the registry alone": (
        {"live": None, "registration": None, "problems": {"registration": "no_log"}},
        {
            "identity_calldata": ("unknown", "no_log"),
            "identity_registry": ("asserted", None),
            "tee_attested": ("unknown", "no_evidence"),
            "pcr_known": ("unknown", "registry_claim_only"),
            "host_trust": ("unknown", "no_evidence"),
            "executed_in_tee": ("refuted", "relayed_to_provider"),
        },
        "registry-claimed",
    ),
    "nothing": (
        {"record": None, "registration": None},
        {"identity_registry": ("unknown", "no_registry_record"), "pcr_known": ("unknown", "no_evidence")},
        "none",
    ),
    "a live document that fails is not made good by the registered one": (
        {"live": live(nonce=b"\1" * 20)},
        {
            "identity_live": ("refuted", "nonce_mismatch"),
            "identity_calldata": ("asserted", None),
            "tee_attested": ("refuted", "nonce_mismatch"),
            "fresh": ("refuted", "nonce_mismatch"),
            "host_trust": ("unknown", "no_evidence"),
        },
        "calldata-attested",
    ),
    "a registered document that fails": (
        {"live": None, "registration": registered(b"junk")},
        {"identity_calldata": ("refuted", "nitro_bad_cbor"), "tee_attested": ("refuted", "nitro_bad_cbor")},
        "registry-claimed",
    ),
    "delisted": (
        {"record": record(enabled=False), "live": None, "registration": None},
        {"identity_registry": ("refuted", "tee_disabled")},
        "none",
    ),
    "another id": (
        {"record": record(tee_id=b"\1" * 32)},
        {"identity_registry": ("refuted", "tee_id_mismatch"), "key_bound": ("refuted", "tee_id_mismatch")},
        "live-attested",
    ),
    "unknown build": ({"known_pcrs": {}}, {"pcr_known": ("unknown", "pcr_unknown")}, "live-attested"),
    "revoked build": (
        {"known_pcrs": REVOKED},
        {"pcr_known": ("refuted", "pcr_revoked")},
        "live-attested",
    ),
}


@pytest.mark.parametrize("name", CLAIM_CASES)
def test_claims_follow_from_what_held(name: str) -> None:
    """Each claim is asserted, refuted or left open by its own evidence, and the grade is the strongest that holds."""
    changes, wanted, word = CLAIM_CASES[name]
    result, _ = appraise(**changes)
    claims = claimed(result.claims)
    assert {claim: claims[claim] for claim in wanted} == wanted
    assert grade(result.claims) == word


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"record": record(registered_at=int(REGISTERED) + 299)}, None),
        ({"record": record(registered_at=int(REGISTERED) + 301)}, "nitro_stale"),
        ({"record": record(registered_at=int(REGISTERED) - 59)}, None),
        (
            {
                "record": record(registered_at=int(REGISTERED) - 31),
                "registration": registered(THEN.document(user_data=user_data(), timestamp=REGISTERED + 30)),
            },
            "nitro_from_future",
        ),
        ({"record": record(registered_at=2**256 - 1)}, "cert_expired_or_not_yet_valid"),
        ({"record": record(registered_at=0)}, "cert_expired_or_not_yet_valid"),
        ({"registration": registered(block_time=REGISTERED + 301)}, "nitro_stale"),
        ({"record": None, "live": None}, None),
    ],
)
def test_a_registered_document_was_made_for_its_block(changes: dict[str, Any], reason: str | None) -> None:
    """At most 300 s before its block and 60 s after, held at the block's time; without one, at its own."""
    result, _ = appraise(**changes)
    status = "asserted" if reason is None else "refuted"
    assert claimed(result.claims)["identity_calldata"] == (status, reason)


def test_a_registered_document_is_never_young() -> None:
    """Claims from calldata are dated, historical, and their age counts to now and not to the block."""
    for case in ({"live": None}, {"live": None, "record": None}):
        _, session = appraise(**case)
        (tee,) = session.tee
        assert tee.freshness.kind is FreshnessClass.DATED
        assert tee.freshness.age_s == 7200
        assert tee.evaluated_at == NOW
        assert tee.raw["historical"] is True


def test_a_weak_key_signs_nothing() -> None:
    """A short modulus is named as such, and the session has no key to believe answers by."""
    weak = rsa_spki(1024)
    result, session = appraise(
        record=record(public_key=weak), registration=None, live=live(user_data=user_data(spki=weak))
    )
    assert said(result.checks)["key_weak"] == con("weak_key")
    assert said(result.checks)["key_bound"] == OK
    assert session.keys == ()


def test_without_a_key_there_is_no_session() -> None:
    """Nothing from registry or calldata: a list of checks, and nobody to talk to."""
    assert appraise(record=None, registration=None)[1] is None


def test_a_sealed_session_pins_no_tls_key() -> None:
    """Prompts that are sealed travel over the relay's own TLS, which the enclave's certificate says nothing of."""
    assert appraise(ohttp=ohttp())[1].spki_pins == ()


@pytest.mark.parametrize("nonce", ["", "ab" * 19, "zz" * 32, "ab" * 32 + "x"])
def test_a_nonce_of_ours_that_is_none_is_refused(nonce: str) -> None:
    """A short nonce would be met by whoever holds as little."""
    with pytest.raises(FormatError) as caught:
        appraise(nonce=nonce)
    assert caught.value.reason == "input_invalid"


def test_the_tee_id_is_the_keccak_of_the_key() -> None:
    """The id is Ethereum's keccak256 over the SubjectPublicKeyInfo, not SHA3-256."""
    assert tee_id_of(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_bytes_are_attested_that_nobody_signed(data: st.DataObject) -> None:
    """Whatever stands in place of documents, key and certificate: an answer, and never a live attestation."""
    genuine = live().document
    at = data.draw(st.integers(0, len(genuine) - 1))
    mask = data.draw(st.integers(1, 255))
    junk = data.draw(st.binary(max_size=200))
    document = data.draw(st.sampled_from([genuine[:at] + bytes([genuine[at] ^ mask]) + genuine[at + 1 :], junk]))
    certificate = data.draw(st.sampled_from([tls_certificate(), junk]))
    result, _ = appraise(
        live=Live(b"", document),
        registration=data.draw(st.sampled_from([None, registered(document)])),
        record=record(tls_certificate=certificate),
    )
    assert claimed(result.claims)["identity_live"][0] == "refuted"
    assert [check.id for check in result.checks] == IDS


def test_the_kit_is_what_it_says() -> None:
    """The nonce that the enclave was sent is the first 20 bytes of ours."""
    assert WORLD.roots.find("nitro", b"") is None
    assert len(bytes.fromhex(NONCE)) == 32
    assert list(KNOWN) == [pcr_hash_of(PCRS)]
