"""Nitro documents: a genuine one to claims, and every way in which one can fail to be."""

from __future__ import annotations

import hashlib
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds import nitro as worlds
from tee_worlds.nitro import DAY, DROP, HOUR, World, debug_pcrs, default_pcrs, der, ec_key, indefinite_map

from gateway.errors import FormatError
from gateway.model.tee import FreshnessClass, HostTrust, TcbStatus, TeeResult
from gateway.model.verdict import Outcome
from gateway.verify.tee.nitro import PLAN, from_inputs, verify_nitro
from gateway.verify.tee.roots import VENDOR_ROOTS, TrustRoots

NONCE = b"0123456789abcdef"


@pytest.fixture(scope="module")
def world() -> World:
    return World()


def examine(world: World, document: bytes, **how: Any) -> TeeResult:
    return verify_nitro(document, roots=how.pop("roots", world.roots), now=how.pop("now", world.now), **how)


def outcomes(result: TeeResult) -> dict[str, str]:
    return {check.id: check.reason or check.outcome.value for check in result.checks}


def failed_at(result: TeeResult, check_id: str, reason: str) -> bool:
    """Whether the result is a refusal at this check, with every later one not reached."""
    before, after = PLAN[: PLAN.index(check_id)], PLAN[PLAN.index(check_id) + 1 :]
    found = outcomes(result)
    return (
        not result.claims.authentic
        and result.claims.reject_code == reason
        and found[check_id] == reason
        and tuple(found) == PLAN
        and all(found[name] in ("affirming", "nonce_not_demanded") for name in before)
        and all(found[name] == "not_reached" for name in after)
    )


def test_a_genuine_document_becomes_claims(world: World) -> None:
    """Every check is affirmed, and each member of the document is where a policy looks for it."""
    document = world.document(nonce=NONCE, public_key=b"key", user_data=b"data", timestamp=world.now - 7)
    result = examine(world, document, nonce=NONCE, max_age_s=300)
    assert [check.outcome for check in result.checks] == [Outcome.AFFIRMING] * len(PLAN)
    assert tuple(check.id for check in result.checks) == PLAN
    claims = result.claims
    assert claims.authentic
    assert claims.reject_code is None
    assert claims.evidence_sha256 == hashlib.sha256(document).hexdigest()
    assert claims.tcb_status is TcbStatus.NOT_APPLICABLE
    assert claims.debug is False
    assert claims.measurements == {f"pcr{i}": value.hex() for i, value in default_pcrs().items()}
    assert claims.nonce == NONCE.hex()
    assert (claims.freshness.kind, claims.freshness.issued_at) == (FreshnessClass.CHALLENGE, world.now - 7)
    assert claims.freshness.age_s == 7
    assert claims.machine_id == hashlib.sha256(b"i-0123456789abcdef0").hexdigest()
    assert claims.machine_id_kind == "module_id"
    assert claims.host_trust is HostTrust.HYPERSCALER
    chain = [world.leaf, world.host, world.zone, world.region, world.root]
    assert claims.signer_chain == tuple(hashlib.sha256(der(c)).hexdigest() for c in chain)
    assert claims.collateral.expires == world.now + 3 * HOUR
    assert claims.root is not None
    assert claims.root.test
    assert claims.raw == {
        "module_id": worlds.MODULE_ID,
        "timestamp_ms": round((world.now - 7) * 1000),
        "public_key": b"key".hex(),
        "user_data": b"data".hex(),
        "chain": list(claims.signer_chain),
        "collateral_expires": int(world.now + 3 * HOUR),
        "other_members": [],
        "historical": False,
    }


@pytest.mark.parametrize("indefinite", [True, False])
@pytest.mark.parametrize("tag", [None, 18])
@pytest.mark.parametrize("absent", [None, DROP], ids=["null", "left out"])
def test_each_spelling_that_hypervisors_use_is_read(
    world: World, indefinite: bool, tag: int | None, absent: object
) -> None:
    """Maps of either length, with the tag or without, absent members null or left out: all are one document."""
    change = dict.fromkeys(("public_key", "user_data", "nonce"), absent)
    result = examine(world, world.document(indefinite=indefinite, tag=tag, change=change))
    assert result.claims.authentic
    assert result.claims.nonce is None
    assert result.claims.raw["public_key"] is None
    assert result.claims.raw["user_data"] is None


def test_members_that_nobody_knows_are_named_and_ignored(world: World) -> None:
    """A member that a later hypervisor may add doesn't make a document malformed, and is listed."""
    result = examine(world, world.document(change={"a\x1b[31m": 1, 7: None}))
    assert result.claims.authentic
    assert result.claims.raw["other_members"] == ["'a\\x1b[31m'", "7"]


# --- form -----------------------------------------------------------------------------------------------------------

LONG = b"x" * 1025
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "no module_id": ({"change": {"module_id": DROP}}, "nitro_missing_field"),
    "no digest": ({"change": {"digest": DROP}}, "nitro_missing_field"),
    "no timestamp": ({"change": {"timestamp": DROP}}, "nitro_missing_field"),
    "no pcrs": ({"change": {"pcrs": DROP}}, "nitro_missing_field"),
    "no certificate": ({"change": {"certificate": DROP}}, "nitro_missing_field"),
    "no cabundle": ({"change": {"cabundle": DROP}}, "nitro_missing_field"),
    "empty module_id": ({"change": {"module_id": ""}}, "nitro_bad_module_id"),
    "module_id as bytes": ({"change": {"module_id": b"i-0"}}, "nitro_bad_module_id"),
    "module_id with an escape": ({"change": {"module_id": "i-0\x1b[2J"}}, "nitro_bad_module_id"),
    "module_id that is not ASCII": ({"change": {"module_id": "i-0é"}}, "nitro_bad_module_id"),
    "module_id of 257 characters": ({"change": {"module_id": "i" * 257}}, "nitro_bad_module_id"),
    "digest SHA256": ({"change": {"digest": "SHA256"}}, "nitro_bad_digest"),
    "digest as bytes": ({"change": {"digest": b"SHA384"}}, "nitro_bad_digest"),
    "timestamp 0": ({"change": {"timestamp": 0}}, "nitro_bad_timestamp"),
    "timestamp negative": ({"change": {"timestamp": -1}}, "nitro_bad_timestamp"),
    "timestamp true": ({"change": {"timestamp": True}}, "nitro_bad_timestamp"),
    "timestamp as text": ({"change": {"timestamp": "1790000000000"}}, "nitro_bad_timestamp"),
    "timestamp after the year 9999": ({"change": {"timestamp": 253_402_300_800_000}}, "nitro_bad_timestamp"),
    "timestamp of 64 bits": ({"change": {"timestamp": 2**64 - 1}}, "nitro_bad_timestamp"),
    "pcrs as an array": ({"change": {"pcrs": [bytes(48)]}}, "nitro_bad_pcrs"),
    "no register": ({"change": {"pcrs": {}}}, "nitro_bad_pcrs"),
    "33 registers": ({"change": {"pcrs": {i: bytes(48) for i in range(33)}}}, "nitro_bad_pcrs"),
    "register 32": ({"change": {"pcrs": {32: bytes(48)}}}, "nitro_bad_pcr"),
    "register -1": ({"change": {"pcrs": {-1: bytes(48)}}}, "nitro_bad_pcr"),
    "register by name": ({"change": {"pcrs": {"0": bytes(48)}}}, "nitro_bad_pcr"),
    "register of 47 bytes": ({"change": {"pcrs": {0: bytes(47)}}}, "nitro_bad_pcr"),
    "register as text": ({"change": {"pcrs": {0: "0" * 48}}}, "nitro_bad_pcr"),
    "empty certificate": ({"change": {"certificate": b""}}, "nitro_bad_cert_len"),
    "long certificate": ({"change": {"certificate": LONG}}, "nitro_bad_cert_len"),
    "certificate as text": ({"change": {"certificate": "x"}}, "nitro_bad_cert_len"),
    "empty cabundle": ({"change": {"cabundle": []}}, "nitro_bad_cabundle"),
    "cabundle as bytes": ({"change": {"cabundle": b"x"}}, "nitro_bad_cabundle"),
    "cabundle of ten": ({"change": {"cabundle": [b"x"] * 10}}, "nitro_bad_cabundle"),
    "cabundle with an empty certificate": ({"change": {"cabundle": [b"x", b""]}}, "nitro_bad_cert_len"),
    "cabundle with a long certificate": ({"change": {"cabundle": [LONG]}}, "nitro_bad_cert_len"),
    "long public_key": ({"public_key": LONG}, "nitro_bad_public_key"),
    "long user_data": ({"user_data": LONG}, "nitro_bad_user_data"),
    "long nonce": ({"nonce": LONG}, "nitro_bad_nonce"),
    "nonce as text": ({"change": {"nonce": "n"}}, "nitro_bad_nonce"),
    "user_data false": ({"change": {"user_data": False}}, "nitro_bad_user_data"),
    "tag 97": ({"tag": 97}, "nitro_bad_tag"),
    "ES256 in the header": ({"protected": bytes.fromhex("a10126")}, "nitro_bad_protected_header"),
    "no algorithm": ({"protected": b"\xa0"}, "nitro_bad_protected_header"),
    "header unprotected": ({"unprotected": {1: -35}}, "nitro_unprotected_header"),
}


@pytest.mark.parametrize(("how", "reason"), FORMS.values(), ids=FORMS.keys())
def test_a_document_of_another_form_is_refused_though_signed(world: World, how: dict[str, Any], reason: str) -> None:
    """Each rule of the form is held to, whoever signed, and nothing of such a document becomes a claim."""
    result = examine(world, world.document(**how))
    assert failed_at(result, "tee_format", reason)
    assert result.claims.raw == {}
    assert result.claims.measurements == {}
    assert result.claims.host_trust is HostTrust.UNKNOWN_OPERATOR


def test_the_limits_themselves_are_accepted(world: World) -> None:
    """1024 bytes in each optional member, 32 registers of every length, and 256 characters of module id are fine."""
    pcrs = {i: bytes((32, 48, 64)[i % 3]) for i in range(32)}
    full = b"x" * 1024
    document = world.document(pcrs=pcrs, public_key=full, user_data=full, nonce=full, change={"module_id": "i" * 256})
    result = examine(world, document, nonce=full)
    assert result.claims.authentic
    assert len(result.claims.measurements) == 32
    nonce_check = result.checks[PLAN.index("tee_nonce")]
    assert nonce_check.found is not None
    assert len(nonce_check.found) == 80


def test_bytes_that_are_no_document_are_refused(world: World) -> None:
    """Cut, extended, oversized and foreign bytes each have a reason."""
    good = world.document()
    array = cbor2.loads(good)
    cases = {
        b"": "nitro_bad_cbor",
        good[:-1]: "nitro_bad_cbor",
        good + b"\x00": "nitro_trailing_bytes",
        good + good: "nitro_trailing_bytes",
        b"\x00" * 32_769: "nitro_too_big",
        cbor2.dumps({}): "nitro_not_cose_sign1",
        cbor2.dumps(array[:3]): "nitro_not_cose_sign1",
        cbor2.dumps([array[0], {}, None, array[3]]): "nitro_bad_types",
        cbor2.dumps([array[0], {}, array[2], array[3][:95]]): "nitro_bad_length",
        cbor2.dumps([array[0], {}, bytes(16_385), array[3]]): "nitro_bad_length",
        world.sign(b"\xff"): "nitro_bad_cbor",
        world.sign(array[2] + b"\x00"): "nitro_trailing_bytes",
        world.sign(cbor2.dumps([1])): "nitro_missing_field",
        world.sign(cbor2.dumps(None)): "nitro_missing_field",
    }
    for data, reason in cases.items():
        assert failed_at(examine(world, data), "tee_format", reason), reason


def test_a_member_that_stands_twice_is_refused(world: World) -> None:
    """A document that means one thing to who takes the first and another to who takes the last means nothing."""
    members = list(world.members().items())
    twice = indefinite_map([*members, ("pcrs", debug_pcrs())])
    assert failed_at(examine(world, world.sign(twice)), "tee_format", "nitro_bad_cbor")


def test_evidence_over_the_common_limit_is_refused(world: World) -> None:
    """A megabyte is not looked at."""
    assert not examine(world, bytes((1 << 20) + 1)).claims.authentic


# --- chain ----------------------------------------------------------------------------------------------------------


def test_a_root_that_signs_itself_is_not_thereby_ours(world: World) -> None:
    """A whole chain of somebody else's, with the right names, ends in a root that nobody pinned."""
    impostor = World(seed="nitro ")
    assert impostor.root.public_key() != world.root.public_key()
    for roots in (world.roots, VENDOR_ROOTS, TrustRoots()):
        assert failed_at(examine(world, impostor.document(), roots=roots), "tee_chain", "nitro_untrusted_root")


def test_an_anchor_of_another_vendor_is_no_root_here(world: World) -> None:
    """A root that is pinned for one vendor is not one for Nitro."""
    anchor = world.roots.anchors[0]
    foreign = TrustRoots((type(anchor)("amd", anchor.name, anchor.sha256),))
    assert failed_at(examine(world, world.document(), roots=foreign), "tee_chain", "nitro_untrusted_root")


def test_the_bundle_is_read_root_first(world: World) -> None:
    """A bundle the other way round begins with no root of ours; one out of order is no chain."""
    reverse = world.document(cabundle=[world.host, world.zone, world.region, world.root])
    assert failed_at(examine(world, reverse), "tee_chain", "nitro_untrusted_root")
    swapped = world.document(cabundle=[world.root, world.zone, world.region, world.host])
    assert failed_at(examine(world, swapped), "tee_chain", "chain_broken")
    missing = world.document(cabundle=[world.root, world.region, world.host])
    assert failed_at(examine(world, missing), "tee_chain", "chain_broken")


def test_bytes_that_are_no_certificate_are_refused(world: World) -> None:
    """What stands in a certificate's place must parse, the root having been recognised by its digest."""
    assert failed_at(examine(world, world.document(change={"certificate": b"x"})), "tee_chain", "malformed")
    bundle = [der(world.root), b"\x30\x00"]
    assert failed_at(examine(world, world.document(change={"cabundle": bundle})), "tee_chain", "malformed")


def test_a_chain_holds_only_while_every_certificate_does(world: World) -> None:
    """Four hours later the leaf has run out, two minutes earlier it was not yet made, next year nothing holds."""
    document = world.document()
    for now in (world.now + 4 * HOUR, world.now - 120, world.now + 365 * DAY, 0.0, -1.0, 1e18):
        assert failed_at(examine(world, document, now=now), "tee_chain", "cert_expired_or_not_yet_valid"), now
    assert examine(world, document, now=world.now + 3 * HOUR).claims.authentic


def leaf(world: World, issuer: str = "host", **how: Any) -> x509.Certificate:
    return world.certificate("leaf", issuer, ca=how.pop("ca", False), **how)


def host(world: World, **how: Any) -> x509.Certificate:
    return world.certificate("host", "zone", end=DAY, path_length=how.pop("path_length", 0), **how)


def test_an_issuer_must_be_allowed_to_issue(world: World) -> None:
    """CA bit, keyCertSign, path length and unknown critical extensions of every issuer are held to."""
    critical = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    short = world.certificate("zone", "region", path_length=0, end=DAY)
    cases: list[tuple[list[x509.Certificate], str]] = [
        ([world.root, world.region, world.zone, host(world, ca=False, path_length=None)], "issuer_not_ca"),
        ([world.root, world.region, world.zone, host(world, ca=None, path_length=None)], "issuer_not_ca"),
        ([world.root, world.region, world.zone, host(world, cert_sign=False)], "nitro_ca_key_usage"),
        ([world.root, world.region, world.zone, host(world, usage=False)], "nitro_ca_key_usage"),
        ([world.root, world.region, world.zone, host(world, extra=critical)], "nitro_critical_extension"),
        ([world.root, world.region, short, world.host], "nitro_path_len"),
    ]
    for bundle, reason in cases:
        result = examine(world, world.document(cabundle=bundle))
        assert failed_at(result, "tee_chain", reason), (reason, outcomes(result))


def test_a_leaf_cannot_issue_a_leaf(world: World) -> None:
    """Whoever holds an enclave's document key cannot certify another with it."""
    forged = world.certificate("host", "leaf", ca=False, key=ec_key("forged"))
    bundle = [world.root, world.region, world.zone, world.host, world.leaf]
    document = world.document(leaf=forged, cabundle=bundle, leaf_key=ec_key("forged"))
    assert failed_at(examine(world, document), "tee_chain", "issuer_not_ca")


# --- the leaf's role ------------------------------------------------------------------------------------------------


def test_the_leaf_may_sign_documents_and_nothing_else(world: World) -> None:
    """A CA, a key without digitalSignature, a key on another curve and an unknown critical extension are refused."""
    critical = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
    p256 = ec_key("leaf 256", ec.SECP256R1())
    cases = [
        (leaf(world, ca=True), "nitro_leaf_is_ca"),
        (leaf(world, digital_signature=False), "nitro_leaf_key_usage"),
        (leaf(world, usage=False), "nitro_leaf_key_usage"),
        (leaf(world, key=p256), "nitro_leaf_bad_key"),
        (leaf(world, extra=critical), "nitro_critical_extension"),
    ]
    for certificate, reason in cases:
        result = examine(world, world.document(leaf=certificate))
        assert failed_at(result, "tee_identity", reason), (reason, outcomes(result))
    assert examine(world, world.document(leaf=leaf(world, ca=None))).claims.authentic
    optional = leaf(world, extra=critical, critical=False)
    assert examine(world, world.document(leaf=optional)).claims.authentic


def test_an_intermediate_signs_no_document(world: World) -> None:
    """The host's own certificate in the leaf's place is a CA, whatever it signs."""
    document = world.document(leaf=world.host, cabundle=[world.root, world.region, world.zone], leaf_key=world.host_key)
    assert failed_at(examine(world, document), "tee_identity", "nitro_leaf_is_ca")


# --- signature ------------------------------------------------------------------------------------------------------


def test_only_the_leafs_key_signs(world: World) -> None:
    """A document under another key, or whose payload was written again, is refused."""
    assert failed_at(examine(world, world.document(leaf_key=world.host_key)), "tee_signature", "nitro_bad_signature")
    protected, unprotected, payload, signature = cbor2.loads(world.document())
    rewritten = cbor2.dumps([protected, unprotected, cbor2.dumps(cbor2.loads(payload)), signature])
    assert failed_at(examine(world, rewritten), "tee_signature", "nitro_bad_signature")


def test_a_debug_document_cannot_be_made_to_look_otherwise(world: World) -> None:
    """Registers that were changed after signing are refused, in either direction."""
    for pcrs, other in ((debug_pcrs(), default_pcrs()), (default_pcrs(), debug_pcrs())):
        document = world.document(pcrs=pcrs)
        assert len(pcrs[0]) == len(other[0])
        forged = document.replace(pcrs[0], other[0], 1)
        assert forged != document
        assert failed_at(examine(world, forged), "tee_signature", "nitro_bad_signature")


# --- nonce and age --------------------------------------------------------------------------------------------------


def test_a_long_nonce_is_shown_cut(world: World) -> None:
    """A person sees at most 80 characters of a nonce, and where something was cut."""
    for size, shown in ((40, "ab" * 40), (41, "ab" * 39 + "a…")):
        nonce = b"\xab" * size
        result = examine(world, world.document(nonce=nonce), nonce=nonce)
        assert result.checks[PLAN.index("tee_nonce")].found == shown


@pytest.mark.parametrize("inside", [None, b"", b"other", NONCE[:-1], NONCE + b"\x00"])
def test_another_nonce_is_refused(world: World, inside: bytes | None) -> None:
    """A nonce that is absent, empty, shorter or longer is not ours."""
    result = examine(world, world.document(nonce=inside), nonce=NONCE)
    assert failed_at(result, "tee_nonce", "nonce_mismatch")
    assert result.claims.freshness.kind is FreshnessClass.DATED


def test_an_empty_nonce_is_not_an_absent_one(world: World) -> None:
    """Who asks for the empty nonce is not served by a document without one."""
    assert failed_at(examine(world, world.document(), nonce=b""), "tee_nonce", "nonce_mismatch")


def test_a_nonce_that_nobody_asked_for_proves_nothing(world: World) -> None:
    """Without a demand the check is `none`, and freshness is only the document's date."""
    result = examine(world, world.document(nonce=NONCE), max_age_s=300)
    assert outcomes(result)["tee_nonce"] == "nonce_not_demanded"
    assert result.checks[PLAN.index("tee_nonce")].outcome is Outcome.NONE
    assert result.claims.freshness.kind is FreshnessClass.DATED


def test_age_is_held_to_at_both_ends(world: World) -> None:
    """A document may be as old as the limit and as far ahead as the allowed skew, and no more."""
    cases = [
        (-300, {"max_age_s": 300}, None),
        (-301, {"max_age_s": 300}, "nitro_stale"),
        (-1, {"max_age_s": 0}, "nitro_stale"),
        (300, {}, None),
        (301, {}, "nitro_from_future"),
        (11, {"future_skew_s": 10}, "nitro_from_future"),
        (10, {"future_skew_s": 10, "max_age_s": 5}, None),
    ]
    for offset, how, reason in cases:
        result = examine(world, world.document(timestamp=world.now + offset), **how)
        if reason is None:
            assert result.claims.authentic, (offset, how)
        else:
            assert failed_at(result, "tee_age", reason), (offset, how)


def test_a_time_that_is_no_number_holds_nothing(world: World) -> None:
    """Not-a-number as our time or as a limit refuses, even where the chain is held at the document's own time."""
    nan = float("nan")
    document = world.document()
    for how in ({"now": nan, "historical": True}, {"max_age_s": nan}, {"future_skew_s": nan}):
        assert not examine(world, document, **how).claims.authentic


def test_age_without_a_limit_is_not_affirmed(world: World) -> None:
    """Without a limit the age is told and the check is `none`."""
    result = examine(world, world.document(timestamp=world.now - 30))
    check = result.checks[PLAN.index("tee_age")]
    assert (check.outcome, check.reason, check.found) == (Outcome.NONE, "age_not_limited", "30 s old")
    assert result.claims.authentic


# --- debug ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pcrs", "debug"),
    [
        (default_pcrs(), False),
        (debug_pcrs(), True),
        ({**default_pcrs(), 0: bytes(48)}, True),
        ({**default_pcrs(), 1: bytes(48), 2: bytes(48)}, False),
        ({4: b"x" * 48}, None),
    ],
    ids=["production", "debug", "PCR0 alone zero", "PCR0 alone set", "no PCR0"],
)
def test_debug_documents_are_genuine_and_say_debug(world: World, pcrs: dict[int, bytes], debug: bool | None) -> None:
    """A zero PCR0 is debug mode, a missing one is unknown; neither is a matter of the signature."""
    result = examine(world, world.document(pcrs=pcrs))
    assert result.claims.authentic
    assert result.claims.debug is debug


@pytest.mark.parametrize(
    ("module_id", "instance"),
    [("i-0abc-enc0123", "i-0abc"), ("i-0abc", "i-0abc"), ("-enc0123", "-enc0123"), ("i-0-enc1-enc2", "i-0")],
)
def test_the_machine_is_the_instance(world: World, module_id: str, instance: str) -> None:
    """Two enclaves of one instance are one machine."""
    result = examine(world, world.document(change={"module_id": module_id}))
    assert result.claims.machine_id == hashlib.sha256(instance.encode()).hexdigest()


# --- historical -----------------------------------------------------------------------------------------------------


def test_a_historical_examination_says_so_and_claims_no_freshness(world: World) -> None:
    """Years later the chain holds at the document's own time; the age is told, and no nonce makes it fresh."""
    document = world.document(nonce=NONCE)
    later = world.now + 3 * 365 * DAY
    assert not examine(world, document, now=later).claims.authentic
    result = examine(world, document, now=later, nonce=NONCE, historical=True)
    assert result.claims.authentic
    assert result.claims.raw["historical"] is True
    assert result.claims.evaluated_at == later
    assert result.claims.freshness.kind is FreshnessClass.DATED
    assert result.claims.freshness.age_s == later - world.now
    assert outcomes(result)["tee_age"] == "historical"
    assert result.checks[PLAN.index("tee_age")].outcome is Outcome.NONE


def test_a_historical_examination_is_no_way_round_anything_else(world: World) -> None:
    """Root, signature, nonce, an age that was asked for, the leaf's dates and the future are checked all the same."""
    later = world.now + 365 * DAY
    impostor = World(seed="impostor")
    cases = [
        (impostor.document(), {}, "nitro_untrusted_root"),
        (world.document(leaf_key=world.host_key), {}, "nitro_bad_signature"),
        (world.document(), {"nonce": NONCE}, "nonce_mismatch"),
        (world.document(), {"max_age_s": 300}, "nitro_stale"),
        (world.document(timestamp=world.now + 4 * HOUR), {}, "cert_expired_or_not_yet_valid"),
        (world.document(), {"now": world.now - DAY}, "nitro_from_future"),
    ]
    for document, how, reason in cases:
        result = examine(world, document, **{"now": later, "historical": True, **how})
        assert (result.claims.authentic, result.claims.reject_code) == (False, reason)


# --- inputs ---------------------------------------------------------------------------------------------------------


def test_inputs_come_in_by_their_roles(world: World) -> None:
    """The manifest's roles and parameters are those of the function; a root that travels along is not believed."""
    document = world.document(nonce=NONCE, timestamp=world.now - 20)
    blobs = {"doc": document, "root:any": der(world.root)}
    params = {"nonce": NONCE.hex(), "max_age_s": 30, "future_skew_s": 5}
    assert from_inputs(blobs, params, world.roots, world.now).claims.freshness.kind is FreshnessClass.CHALLENGE
    assert from_inputs(blobs, {}, TrustRoots(), world.now).claims.reject_code == "nitro_untrusted_root"
    assert from_inputs(blobs, {"max_age_s": 1e11}, world.roots, world.now).claims.authentic
    assert from_inputs(blobs, {"max_age_s": 10.0}, world.roots, world.now).claims.reject_code == "nitro_stale"
    later = world.now + DAY
    assert from_inputs(blobs, {"historical": True}, world.roots, later).claims.authentic
    assert not from_inputs(blobs, {"historical": 1}, world.roots, later).claims.authentic
    early = world.now - 30
    assert from_inputs(blobs, {}, world.roots, early).claims.authentic
    assert from_inputs(blobs, {"future_skew_s": 0}, world.roots, early).claims.reject_code == "nitro_from_future"


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"nonce": "xyz"}, "input_invalid"),
        ({"nonce": 7}, "input_invalid"),
        ({"max_age_s": "300"}, "input_invalid"),
        ({"max_age_s": True}, "input_invalid"),
        ({"max_age_s": -1}, "input_invalid"),
        ({"max_age_s": float("nan")}, "input_invalid"),
        ({"future_skew_s": 10**40}, "input_invalid"),
    ],
)
def test_parameters_of_another_kind_are_refused(world: World, params: dict[str, Any], reason: str) -> None:
    """A parameter that means nothing is an error of the caller's, not a demand that is dropped."""
    with pytest.raises(FormatError) as refused:
        from_inputs({"doc": world.document()}, params, world.roots, world.now)
    assert refused.value.reason == reason


def test_a_missing_input_is_an_error() -> None:
    """Without a document there is nothing to examine."""
    with pytest.raises(FormatError) as refused:
        from_inputs({}, {}, TrustRoots(), 0.0)
    assert refused.value.reason == "input_missing"


# --- hostile bytes --------------------------------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_documents_are_never_authentic(data: st.DataObject) -> None:
    """Flips, cuts and splices of genuine documents give a result, and not one that is authentic."""
    seeds = worlds.seeds()
    good = data.draw(st.sampled_from(seeds[:3]))
    kind = data.draw(st.sampled_from(["flip", "cut", "splice", "insert"]))
    place = data.draw(st.integers(0, len(good) - 1))
    if kind == "flip":
        bad = good[:place] + bytes((good[place] ^ data.draw(st.integers(1, 255)),)) + good[place + 1 :]
    elif kind == "cut":
        bad = good[:place]
    elif kind == "insert":
        bad = good[:place] + data.draw(st.binary(min_size=1, max_size=8)) + good[place:]
    else:
        other = data.draw(st.sampled_from(seeds))
        bad = good[:place] + other[data.draw(st.integers(0, len(other))) :]
    worlds.run(bad)
    if bad not in seeds:
        world = worlds._world[0]
        assert not verify_nitro(bad, roots=world.roots, now=world.now).claims.authentic


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_give_a_result(data: bytes) -> None:
    """Anything at all gives a list of every check and a refusal."""
    worlds.run(data)
    result = verify_nitro(data, roots=VENDOR_ROOTS, now=0.0)
    assert not result.claims.authentic
    assert tuple(check.id for check in result.checks) == PLAN
