"""Appraisal of a node's evidence: each way of being wrong fails its own check."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.crypto.canonical import jcs
from gateway.crypto.signatures import Ed25519Signer
from gateway.errors import FormatError
from gateway.model.node import Node
from gateway.model.verdict import Outcome
from gateway.policy import parse_policy
from gateway.policy.decide import Decision, decide
from gateway.verify import aci
from gateway.verify.appraise import LONGEST_KEYSET_S, appraise_node, attested_session
from gateway.verify.checks import CHECKS, Phase

NOW = 1_800_000_000.0
NONCE = "ab" * 32
SIGNER = Ed25519Signer(b"\7" * 32)
SPKI = b"\5" * 32


def keyset(**members: Any) -> dict[str, Any]:
    return {
        "subject": "test",
        "not_after": int(NOW) + 86400,
        "receipt_signing_keys": [{"key_id": "k1", "algo": "ed25519", "public_key": SIGNER.public_key.hex()}],
        "e2ee_public_keys": [],
        "tls_public_keys": [{"spki_sha256": SPKI.hex()}],
        **members,
    }


def report(keys: dict[str, Any] | None = None, nonce: str = NONCE, **attestation: Any) -> dict[str, Any]:
    keys = keys or keyset()
    digest = "sha256:" + hashlib.sha256(jcs(keys)).hexdigest()
    statement = aci.statement(digest, nonce)
    return {
        "api_version": "aci/1",
        "workload_keyset_digest": digest,
        "attestation": {
            "tee_type": "none",
            "workload_keyset": keys,
            "report_data": aci.report_data(statement).hex(),
            "evidence": {
                "platform": "software",
                "statement": statement.decode(),
                "signature": SIGNER.sign(statement).hex(),
            },
            **attestation,
        },
        "service_capabilities": {"serving": "direct", "extensions": ["chained"], "models": ["m"]},
    }


def node(pin: str | None = "own") -> Node:
    if pin == "own":
        pin = report()["workload_keyset_digest"]
    return Node("n", "aci", "https://n.example", ("m",), pin)


def outcomes(document: Any, of: Node | None = None, **more: Any) -> dict[str, tuple[Outcome, str | None]]:
    raw = json.dumps(document).encode() if not isinstance(document, bytes) else document
    arguments: dict[str, Any] = {"now": NOW, "spki": SPKI, "tls": True, **more}
    result, _ = appraise_node(of or node(), raw, None, NONCE, **arguments)
    assert all(c.id in CHECKS for c in result.checks)
    assert all(c.outcome is Outcome.AFFIRMING or c.reason for c in result.checks)
    return {c.id: (c.outcome, c.reason) for c in result.checks}


def test_a_good_report_affirms_everything() -> None:
    """A pinned keyset, a fresh signed statement and the named TLS key affirm every check; no TEE is claimed."""
    found = outcomes(report())
    assert found.pop("tee_rules") == (Outcome.NONE, "no_tee_evidence")
    assert {o for o, _ in found.values()} == {Outcome.AFFIRMING}
    result, parsed = appraise_node(node(), json.dumps(report()).encode(), None, NONCE, now=NOW, spki=SPKI, tls=True)
    assert parsed is not None
    claims = {c.name: c.status for c in result.claims}
    assert claims["tee_attested"] == claims["executed_in_tee"] == "refuted"
    assert claims["key_bound"] == claims["fresh"] == claims["channel_bound"] == "asserted"
    assert claims["model_weights_provenance"] == "unknown"


@pytest.mark.parametrize(("count", "outcome"), [(1024, Outcome.AFFIRMING), (1025, Outcome.CONTRAINDICATED)])
def test_a_node_may_front_hundreds_of_models(count: int, outcome: Outcome) -> None:
    """A report lists every model that a node's backend has, which are more than there are ever keys."""
    document = report()
    document["service_capabilities"]["models"] = [f"model-{n}" for n in range(count)]
    assert outcomes(document)["evidence"][0] is outcome


def wrong_digest() -> dict[str, Any]:
    return {**report(), "workload_keyset_digest": "sha256:" + "0" * 64}


def unsigned() -> dict[str, Any]:
    document = report()
    document["attestation"]["evidence"]["signature"] = "00" * 64
    return document


def not_hex() -> dict[str, Any]:
    document = report()
    document["attestation"]["evidence"]["signature"] = "zz"
    return document


def nameless() -> dict[str, Any]:
    document = report()
    del document["attestation"]["evidence"]["signature"]
    return document


def other_platform(name: str = "sgx") -> dict[str, Any]:
    document = report()
    document["attestation"]["evidence"] = {"quote": "00"}
    document["attestation"]["tee_type"] = name
    return document


WEAK = keyset(receipt_signing_keys=[{"key_id": "w", "algo": "ed25519", "public_key": "01" + "00" * 31}])


@pytest.mark.parametrize(
    ("document", "check", "outcome", "reason"),
    [
        (wrong_digest(), "key_bound", Outcome.CONTRAINDICATED, "digest_misstated"),
        (report(keyset(subject="other")), "key_bound", Outcome.CONTRAINDICATED, "keyset_not_pinned"),
        (report(WEAK), "key_weak", Outcome.CONTRAINDICATED, "weak_key"),
        (
            report(keyset(receipt_signing_keys=[{"key_id": "p", "algo": "ecdsa", "public_key": "04"}])),
            "key_weak",
            Outcome.NONE,
            "no_ed25519_key",
        ),
        (report(keyset(not_after=int(NOW))), "keyset_valid", Outcome.CONTRAINDICATED, "keyset_expired"),
        (report(keyset(not_after=2**53 - 1)), "keyset_valid", Outcome.WARNING, "no_expiry"),
        (report(nonce="cd" * 32), "fresh", Outcome.CONTRAINDICATED, "nonce_mismatch"),
        (unsigned(), "fresh", Outcome.CONTRAINDICATED, "statement_signature"),
        (not_hex(), "fresh", Outcome.CONTRAINDICATED, "statement_signature"),
        (nameless(), "fresh", Outcome.CONTRAINDICATED, "statement_signature"),
        (other_platform(), "fresh", Outcome.NONE, "platform_unsupported"),
        (other_platform(), "evidence", Outcome.NONE, "platform_unsupported"),
        (other_platform(), "tee_rules", Outcome.NONE, "no_evidence"),
        (other_platform("tdx"), "fresh", Outcome.NONE, "no_evidence"),
        (other_platform("tdx"), "evidence", Outcome.NONE, "collateral_unavailable"),
        (other_platform("tdx"), "tee_rules", Outcome.NONE, "no_evidence"),
        (report(keyset(tls_public_keys=[])), "channel_bound", Outcome.NONE, "no_tls_key"),
    ],
)
def test_each_fault_fails_its_check(document: Any, check: str, outcome: Outcome, reason: str) -> None:
    """What is wrong with the evidence is said by the check that it concerns."""
    assert outcomes(document)[check] == (outcome, reason)


def test_b32_a_keyset_is_small() -> None:
    """One of 64 KiB is read; a larger one is malformed before its canonical form, which takes long, is written."""
    spare = aci.MAX_KEYSET - len(msgspec.json.encode(keyset(more="")))
    assert outcomes(report(keyset(more="a" * spare)))["evidence"][0] is Outcome.AFFIRMING
    assert outcomes(report(keyset(more="a" * (spare + 1))))["evidence"] == (Outcome.CONTRAINDICATED, "malformed")


ASKS_MACHINES = b"""
name = "asks-machines"
version = 1
[require]
all = ["key_bound", "tee_rules", "signature", "request_bound", "response_bound"]
[tee]
platforms = ["intel-tdx"]
"""


@pytest.mark.parametrize("problem", [None, "collateral_unavailable", "collateral_invalid"])
@pytest.mark.parametrize("platform", ["tdx", "sgx", "quantum"])
def test_a_machine_that_nobody_judged_meets_no_rule(platform: str, problem: str | None) -> None:
    """A policy that asks something of machines is not met by one whose evidence could not be checked; software is."""
    policy = parse_policy("asks-machines.toml", ASKS_MACHINES)

    def decided(document: dict[str, Any]) -> Decision:
        raw = json.dumps(document).encode()
        result, _ = appraise_node(node(), raw, problem, NONCE, now=NOW, spki=SPKI, tls=True)
        return decide(result, policy, Phase.NODE)

    refused = decided(other_platform(platform))
    assert (refused.permit, refused.reason) == (False, "tee_rules")
    assert decided(report()).permit


def test_the_pin_and_the_channel() -> None:
    """Without a pin nothing binds the key; another TLS key, none known, and plain HTTP are told apart."""
    assert outcomes(report(), node(None))["key_bound"] == (Outcome.NONE, "no_pin")
    assert outcomes(report(), spki=b"\6" * 32)["channel_bound"] == (Outcome.CONTRAINDICATED, "spki_mismatch")
    assert outcomes(report(), spki=None)["channel_bound"] == (Outcome.NONE, "spki_unknown")
    assert outcomes(report(), tls=False)["channel_bound"] == (Outcome.NONE, "no_tls")


@pytest.mark.parametrize(
    ("document", "pin"),
    [
        (report(), None),
        (report(), "sha256:" + "0" * 64),
        (report(tee_type="tdx", evidence={"platform": "tdx", "quote": "00"}), None),
    ],
)
def test_a_keyset_of_nobody_binds_no_channel(document: Any, pin: str | None) -> None:
    """Whoever stands in between makes a keyset that names his own TLS key: without a pin, or evidence, it says nothing."""
    raw = json.dumps(document).encode()
    result, _ = appraise_node(node(pin), raw, "collateral_unavailable", NONCE, now=NOW, spki=SPKI, tls=True)
    checks = {check.id: (check.outcome, check.reason) for check in result.checks}
    claims = {claim.name: (claim.status, claim.reason) for claim in result.claims}
    assert checks["channel_bound"] == (Outcome.NONE, "key_bound")
    assert claims["channel_bound"] == ("unknown", "key_bound")


def test_evidence_that_could_not_be_had() -> None:
    """No document: every check is there and none affirms; the reason is the fetch's."""
    result, parsed = appraise_node(node(), None, "timeout_connect", NONCE, now=NOW, spki=None, tls=True)
    assert parsed is None
    assert {c.outcome for c in result.checks} == {Outcome.NONE}
    assert result.checks[0].reason == "timeout_connect"
    assert {c.status for c in result.claims} == {"unknown"}


BAD = [
    b"",
    b"[]",
    b"{",
    b'{"api_version":"aci/2"}',
    b'{"api_version":"aci/1"}',
    b'{"api_version":"aci/1","api_version":"aci/1"}',
]


@pytest.mark.parametrize("raw", BAD)
def test_malformed_reports(raw: bytes) -> None:
    """A report that does not parse contradicts itself; every other check is none."""
    found = outcomes(raw)
    assert found["evidence"] == (Outcome.CONTRAINDICATED, "malformed")
    assert found["key_bound"] == (Outcome.NONE, "no_evidence")


def test_other_malformed_members() -> None:
    """Each member that we read has its form; a wrong one is malformed, never an exception."""
    changes: list[tuple[tuple[str, ...], Any]] = [
        (("attestation",), []),
        (("attestation", "report_data"), "abc"),
        (("attestation", "report_data"), "ab"),
        (("attestation", "report_data"), 7),
        (("attestation", "evidence"), None),
        (("attestation", "tee_type"), "x" * 600),
        (("attestation", "workload_keyset"), None),
        (("attestation", "workload_keyset", "subject"), 7),
        (("attestation", "workload_keyset", "not_after"), -1),
        (("attestation", "workload_keyset", "not_after"), True),
        (("attestation", "workload_keyset", "not_after"), 1.5),
        (("attestation", "workload_keyset", "receipt_signing_keys"), {}),
        (("attestation", "workload_keyset", "receipt_signing_keys"), [{}] * 65),
        (("attestation", "workload_keyset", "receipt_signing_keys"), [keyset()["receipt_signing_keys"][0]] * 2),
        (("attestation", "workload_keyset", "tls_public_keys"), [{"spki_sha256": "ab"}]),
        (("service_capabilities",), 3),
        (("service_capabilities", "extensions"), "chained"),
    ]
    for path, value in changes:
        document = report()
        target: Any = document
        for name in path[:-1]:
            target = target[name]
        target[path[-1]] = value
        assert outcomes(document)["evidence"] == (Outcome.CONTRAINDICATED, "malformed"), path


def test_the_session_lasts_no_longer_than_its_keyset() -> None:
    """A session is content-addressed, holds only sound keys, and ends with its keyset at the latest."""
    short = report(keyset(not_after=int(NOW) + 10))
    of = node(short["workload_keyset_digest"])
    raw = json.dumps(short).encode()
    result, parsed = appraise_node(of, raw, None, NONCE, now=NOW, spki=SPKI, tls=True)
    assert parsed is not None
    first = attested_session(of, parsed, result, evidence_digest="e" * 64, established=NOW, lifetime_s=600)
    again = attested_session(of, parsed, result, evidence_digest="e" * 64, established=NOW, lifetime_s=600)
    later = attested_session(of, parsed, result, evidence_digest="e" * 64, established=NOW + 1, lifetime_s=600)
    assert first.expires == NOW + 10
    assert first.id == again.id != later.id
    assert (first.outcome, first.capabilities, first.spki_pins) == (Outcome.AFFIRMING, {"chained"}, (SPKI,))
    assert [k.key_id for k in first.keys] == ["k1"]
    assert LONGEST_KEYSET_S > 3 * 365 * 86400


def test_a_keyset_need_not_name_its_subject() -> None:
    """A keyset without a subject is read, and its digest is another one."""
    whole = keyset()
    nameless = {name: value for name, value in whole.items() if name != "subject"}
    assert aci.parse_keyset(whole).subject == "test"
    assert aci.parse_keyset(nameless).subject is None
    assert aci.parse_keyset(nameless).digest != aci.parse_keyset(whole).digest


def test_weak_keys_do_not_enter_the_session() -> None:
    """A key that verifies anything never gets to verify something."""
    weak = report(WEAK)
    of = node(weak["workload_keyset_digest"])
    result, parsed = appraise_node(of, json.dumps(weak).encode(), None, NONCE, now=NOW, spki=SPKI, tls=True)
    assert parsed is not None
    session = attested_session(of, parsed, result, evidence_digest="e" * 64, established=NOW, lifetime_s=600)
    assert session.keys == ()


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_result(raw: bytes) -> None:
    """No document makes the appraisal raise, and none affirms."""
    assert outcomes(raw)["evidence"][0] is Outcome.CONTRAINDICATED


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_parsers_raise_only_format_errors(raw: bytes) -> None:
    """Receipts, chain comments and inline forms of any bytes parse or are refused."""
    for parse in (aci.parse_receipt, aci.decode_inline, aci.parse_report, aci.parse_chain):
        try:
            parse(raw)
        except FormatError:
            continue
