"""Each check of a bundle, by what breaks it and nothing before it; and the mistakes that other verifiers made."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID
from tee_worlds import sigstore as world
from tee_worlds.sigstore import Leaf

from gateway.errors import FormatError
from gateway.model.verdict import Outcome
from gateway.verify.provenance.measurement import HARDWARE, MULTIPLATFORM
from gateway.verify.provenance.verify import PLAN, IdentityPolicy, from_inputs

T0 = int(world.SIGNED.timestamp())


def entry(bundle: dict[str, Any]) -> dict[str, Any]:
    return bundle["verificationMaterial"]["tlogEntries"][0]


def proof(bundle: dict[str, Any]) -> dict[str, Any]:
    return entry(bundle)["inclusionProof"]


def edited(change: Callable[[dict[str, Any]], object], **options: Any) -> dict[str, Any]:
    bundle = copy.deepcopy(world.make_bundle(**options))
    change(bundle)
    return bundle


def policy(**changes: Any) -> IdentityPolicy:
    return msgspec.structs.replace(world.POLICY, **changes)


def refused(result: Any, check: str, reason: str) -> None:
    """The result is a refusal at `check` for `reason`; all before it hold, all after it were not reached."""
    at = PLAN.index(check)
    assert not result.claims.authentic
    assert result.claims.reject_code == reason
    assert result.claims.reject_detail
    assert [c.outcome for c in result.checks[:at]] == [Outcome.AFFIRMING] * at
    assert (result.checks[at].outcome, result.checks[at].reason) == (Outcome.CONTRAINDICATED, reason)
    assert {c.outcome for c in result.checks[at + 1 :]} <= {Outcome.NONE}


def test_a_genuine_bundle_gives_every_claim() -> None:
    """Who built what, from which commit, when it was logged, and the measurements of the build."""
    result = world.verify(world.make_bundle())
    claims = result.claims
    assert claims.authentic
    assert {c.outcome for c in result.checks} == {Outcome.AFFIRMING}
    assert (claims.issuer, claims.repository, claims.ref) == (world.GITHUB, world.REPOSITORY, world.REF)
    assert (claims.signer, claims.commit) == (world.SIGNER, world.COMMIT)
    assert (claims.signed_at, claims.log_index, claims.log_entries, claims.scts) == (T0, 1000, 1, 1)
    assert claims.log_id == world.log_id(world.LOG).hex()
    assert (claims.artifact_sha256, claims.subject_name) == (world.ARTIFACT, "release.json")
    assert claims.measurement is not None
    assert claims.measurement.registers == (world.SNP, world.RTMR1, world.RTMR2)
    assert len(claims.signer_chain) == 3
    assert claims.evaluated_at == world.NOW


def test_the_verdict_is_the_same_years_later() -> None:
    """The certificate is judged at the log's time, so an archived bundle still holds when everything has expired."""
    assert world.verify(world.make_bundle(), now=world.NOW + 30 * 365 * 86_400).claims.authentic


def test_each_mutated_part_of_the_log_entry_is_refused() -> None:
    """Promise, checkpoint and inclusion each protect their part, and each failure has its own reason."""
    note = proof(world.make_bundle())["checkpoint"]["envelope"]
    text = note.split("\n\n")[0] + "\n"
    unsigned = lambda b: proof(b)["checkpoint"].update(envelope=f"{text}\n— log.example {world.b64(bytes(70))}\n")  # noqa: E731
    foreign = world.checkpoint(11, bytes(32), world.STRANGER)
    cases: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
        ("observer_timestamp_insufficient", lambda b: entry(b).pop("inclusionPromise")),
        ("observer_timestamp_insufficient", lambda b: entry(b).pop("integratedTime")),
        ("rekor_set_invalid", lambda b: entry(b).update(integratedTime=str(T0 + 1))),
        ("rekor_set_invalid", lambda b: entry(b).update(logIndex="1001")),
        ("rekor_set_invalid", lambda b: entry(b)["inclusionPromise"].update(signedEntryTimestamp="AAAA")),
        ("rekor_key_not_trusted", lambda b: entry(b)["logId"].update(keyId=world.b64(bytes(32)))),
        ("rekor_key_not_trusted", lambda b: entry(b).update(integratedTime="1")),  # before the key was in use
        ("rekor_key_not_trusted", lambda b: entry(b).update(integratedTime=str(2**40))),  # after
        ("rekor_inclusion_invalid", unsigned),
        ("rekor_inclusion_invalid", lambda b: proof(b)["checkpoint"].update(envelope=foreign)),
        ("rekor_inclusion_invalid", lambda b: proof(b)["checkpoint"].update(envelope="nothing")),
        ("rekor_inclusion_invalid", lambda b: proof(b)["checkpoint"].update(envelope=text + "\nx\n")),
        ("rekor_inclusion_invalid", lambda b: proof(b)["checkpoint"].update(envelope=text + "\n— log.example !\n")),
        ("rekor_inclusion_invalid", lambda b: proof(b)["checkpoint"].update(envelope="\x1b" + note)),
        ("rekor_inclusion_invalid", lambda b: proof(b)["checkpoint"].update(envelope=note + "— a AA==\n" * 16)),
        ("checkpoint_root_mismatch", lambda b: proof(b).update(rootHash=world.b64(bytes(32)))),
        ("checkpoint_root_mismatch", lambda b: proof(b).update(treeSize="12")),
        ("rekor_inclusion_invalid", lambda b: proof(b).update(logIndex="1")),
        ("rekor_inclusion_invalid", lambda b: proof(b).update(logIndex="11")),
        ("rekor_inclusion_invalid", lambda b: proof(b)["hashes"].pop()),
        ("rekor_inclusion_invalid", lambda b: proof(b)["hashes"].append(world.b64(bytes(32)))),
        ("rekor_inclusion_invalid", lambda b: proof(b)["hashes"].reverse()),
    ]
    for reason, change in cases:
        refused(world.verify(edited(change)), "provenance_log", reason)


def noted(change: Callable[[str], str]) -> Any:
    """The verdict over a bundle whose checkpoint was changed as text."""
    return world.verify(
        edited(lambda b: proof(b)["checkpoint"].update(envelope=change(proof(b)["checkpoint"]["envelope"])))
    )


def forged(note: str) -> str:
    """The same text under the log's key hint, and a signature that is not the log's."""
    text = note.split("\n\n")[0] + "\n"
    payload = world.log_id(world.LOG)[:4] + world.sign(world.STRANGER, text.encode())
    return f"{text}\n— log.example {world.b64(payload)}\n"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(forged, id="the log's hint, another's signature"),
        pytest.param(lambda note: note.replace("— ", "- "), id="another dash"),
        pytest.param(lambda note: note.replace("— log", "— l\x1bog"), id="a control character"),
        pytest.param(lambda note: note + "— a AAAAAAAA\n" * 16, id="too many lines"),
        pytest.param(lambda note: note + "\n", id="another blank line"),
    ],
)
def test_checkpoints_that_are_not_the_logs_note(change: Callable[[str], str]) -> None:
    """A hint is no signature, and a genuine signature in another form of note is not read."""
    refused(noted(change), "provenance_log", "rekor_inclusion_invalid")


def test_other_signatures_beside_the_logs_are_passed_over() -> None:
    """A checkpoint may carry cosignatures, 16 lines in all."""
    assert noted(lambda note: note + "— witness AAAAAAAA\n" * 15).claims.authentic


@pytest.mark.parametrize("text", ["log.example - 42\n", "log.example - 42\nx\n", "log.example - 42\n11\nAAAA\n"])
def test_a_signed_checkpoint_without_size_and_root(text: str) -> None:
    """A note that the log signed and that is no checkpoint shows nothing."""
    line = world.b64(world.log_id(world.LOG)[:4] + world.sign(world.LOG, text.encode()))
    bundle = edited(lambda b: proof(b)["checkpoint"].update(envelope=f"{text}\n— log.example {line}\n"))
    refused(world.verify(bundle), "provenance_log", "rekor_inclusion_invalid")


def test_two_entries_must_both_hold() -> None:
    """Two entries are fine; the same one twice counts as cheating, and a bad second one is not passed over."""
    two = world.make_bundle(at=(T0, T0 + 1))
    assert world.verify(two).claims.log_entries == 2
    twice = copy.deepcopy(two)
    entries = twice["verificationMaterial"]["tlogEntries"]
    entries[1] = entries[0]
    refused(world.verify(twice), "provenance_log", "tlog_count_out_of_range")
    bad = copy.deepcopy(two)
    bad["verificationMaterial"]["tlogEntries"][1]["integratedTime"] = str(T0 + 2)
    refused(world.verify(bad), "provenance_log", "rekor_set_invalid")


@pytest.mark.parametrize(("least", "most", "count"), [(2, None, 1), (1, 1, 2), (0, None, 0)])
def test_the_number_of_entries_is_within_the_rule(least: int, most: int | None, count: int) -> None:
    """Too few, too many, and none at all even where a rule asks for none, are refused."""
    bundle = world.make_bundle(at=range(T0, T0 + count))
    rule = policy(entries_min=least, entries_max=most)
    refused(world.verify(bundle, policy=rule), "provenance_log", "tlog_count_out_of_range")


def test_no_log_key_is_trusted_where_there_is_none() -> None:
    """An empty list of logs is a trust root that trusts no log."""
    result = world.verify(world.make_bundle(), world.make_trust_root(tlogs=[]))
    refused(result, "provenance_log", "rekor_key_not_trusted")


MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        (Leaf(end=world.SIGNED - MINUTE), "cert_expired"),
        (Leaf(start=world.SIGNED + MINUTE), "cert_expired"),
        (Leaf(issuer=world.STRANGER), "fulcio_chain_invalid"),
        (Leaf(issuer=world.ROOT), "fulcio_chain_invalid"),  # by the root itself, past the intermediate
        (Leaf(ca=True), "cert_usage_invalid"),
        (Leaf(digital_signature=False), "cert_usage_invalid"),
        (Leaf(usage=ExtendedKeyUsageOID.SERVER_AUTH), "cert_usage_invalid"),
        (Leaf(usage=None), "cert_usage_invalid"),
        (Leaf(curve=ec.SECP521R1), "cert_usage_invalid"),
        (Leaf(public_key=ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()), "cert_usage_invalid"),
    ],
)
def test_certificates_that_may_not_sign(leaf: Leaf, reason: str) -> None:
    """Expired at the log's time, of another CA, a CA itself, or for another use: each is refused."""
    refused(world.verify(world.make_bundle(leaf)), "provenance_certificate", reason)


def test_an_authority_counts_only_in_its_time() -> None:
    """A CA whose period in the trust root had ended when the bundle was signed is none."""
    root = world.make_trust_root()
    root["certificateAuthorities"][0]["validFor"] = {"start": "2025-01-01T00:00:00Z", "end": "2025-12-31T00:00:00Z"}
    refused(world.verify(world.make_bundle(), root), "provenance_certificate", "fulcio_chain_invalid")


def test_the_logs_time_may_be_a_little_ahead_and_no_more() -> None:
    """Five minutes of difference between the log's clock and ours are borne; more is a time yet to come."""
    bundle = world.make_bundle()
    assert world.verify(bundle, now=T0 - 300).claims.authentic
    refused(world.verify(bundle, now=T0 - 301), "provenance_certificate", "observer_timestamp_in_future")


def test_a_p384_signer() -> None:
    """A signer's key may be on P-384, with SHA-384."""
    assert world.verify(world.make_bundle(Leaf(curve=ec.SECP384R1))).claims.authentic


ENTRY = b"\0" * 40


@pytest.mark.parametrize(
    "leaf",
    [
        Leaf(scts=()),
        Leaf(no_sct_extension=True),
        Leaf(scts=((world.STRANGER, 0),)),
        Leaf(scts=((world.CT, -2 * 365 * 86_400),)),  # before that log was trusted
        Leaf(sct_list=world.listed(world.sct(ENTRY, world.CT, T0, signature=bytes(71)))),
        Leaf(sct_list=world.listed(world.sct(ENTRY, world.CT, T0))),
        Leaf(sct_list=world.listed(world.sct(ENTRY, world.CT, 2**53))),
    ],
    ids=["none", "no extension", "unknown log", "too early", "bad signature", "other certificate", "absurd time"],
)
def test_certificates_that_no_trusted_log_saw(leaf: Leaf) -> None:
    """No promise, one of another log, time or certificate: fewer than the rule asks for, so refused."""
    refused(world.verify(world.make_bundle(leaf)), "provenance_sct", "sct_insufficient")
    assert world.verify(world.make_bundle(leaf), policy=policy(scts_min=0)).claims.scts == 0


def test_one_log_that_promises_twice_counts_once() -> None:
    """Two promises of one certificate log are one log's word."""
    bundle = world.make_bundle(Leaf(scts=((world.CT, 0), (world.CT, 1))))
    assert world.verify(bundle).claims.scts == 1
    refused(world.verify(bundle, policy=policy(scts_min=2)), "provenance_sct", "sct_insufficient")


def test_a_signature_of_another_key_or_payload() -> None:
    """The certificate's key must have signed this payload, as this type."""
    check, reason = "provenance_signature", "dsse_signature_invalid"
    refused(world.verify(world.make_bundle(signer=world.key(world.STRANGER))), check, reason)
    other = world.b64(json.dumps(world.statement(predicate={})).encode())
    refused(world.verify(edited(lambda b: b["dsseEnvelope"].update(payload=other))), check, reason)
    refused(world.verify(edited(lambda b: b["dsseEnvelope"].update(payloadType="text/plain"))), check, reason)


def spec(body: dict[str, Any]) -> dict[str, Any]:
    return body["spec"]


def with_spec(**members: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {**body, "spec": {**body["spec"], **members}}


def with_signature(**members: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda body: {**body, "spec": {**spec(body), "signatures": [{**spec(body)["signatures"][0], **members}]}}


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda body: [], id="no object"),
        pytest.param(lambda body: {**body, "kind": "hashedrekord"}, id="kind"),
        pytest.param(lambda body: {**body, "apiVersion": "0.0.2"}, id="version"),
        pytest.param(with_spec(payloadHash={"algorithm": "sha256", "value": "00" * 32}), id="another payload"),
        pytest.param(with_spec(payloadHash={"algorithm": "sha1", "value": "00" * 20}), id="another hash"),
        pytest.param(with_spec(signatures=[]), id="no signature"),
        pytest.param(with_signature(signature="AAAA"), id="another signature"),
        pytest.param(with_signature(signature="*"), id="signature not base64"),
        pytest.param(with_signature(verifier="AAAA"), id="no certificate"),
        pytest.param(
            with_signature(
                verifier=world.b64(
                    world.root_certificate().public_bytes(world.serialization.Encoding.PEM),
                )
            ),
            id="another certificate",
        ),
    ],
)
def test_a_log_entry_about_something_else(change: Callable[[dict[str, Any]], Any]) -> None:
    """An entry that is in the log and names another payload, signature or certificate shows nothing of this one."""
    refused(world.verify(world.make_bundle(change_body=change)), "provenance_entry", "rekor_entry_mismatch")


def test_a_genuine_entry_of_another_bundle_does_not_serve() -> None:
    """The log entry of somebody else's bundle, however genuine, is refused beside this one."""
    other = world.make_bundle(payload=json.dumps(world.statement(predicate={"snp_measurement": "00" * 48})).encode())
    bundle = edited(
        lambda b: b["verificationMaterial"].update(tlogEntries=other["verificationMaterial"]["tlogEntries"])
    )
    refused(world.verify(bundle), "provenance_entry", "rekor_entry_mismatch")


def ext(**values: bytes | None) -> Leaf:
    return Leaf(extensions={int(name[1:]): value for name, value in values.items()})


TROJAN = b"refs/heads/main@refs/tags/v1"


@pytest.mark.parametrize(
    ("leaf", "reason"),
    [
        (ext(_8=world.utf8("https://gitlab.example")), "oidc_issuer_mismatch"),  # the first form still says GitHub
        (ext(_1=None, _8=None), "oidc_issuer_mismatch"),
        (ext(_5=b"evil/router", _12=world.utf8("https://github.com/evil/router")), "workflow_repository_mismatch"),
        (ext(_5=b"evil/router"), "workflow_repository_mismatch"),  # the two forms disagree
        (ext(_12=world.utf8("https://github.com/evil/router")), "workflow_repository_mismatch"),
        (ext(_5=None, _12=None), "workflow_repository_mismatch"),
        (ext(_6=b"refs/heads/main", _14=world.utf8("refs/heads/main")), "workflow_ref_prefix_mismatch"),
        (ext(_6=TROJAN, _14=world.utf8(TROJAN.decode())), "workflow_ref_prefix_mismatch"),
        (ext(_14=world.utf8("refs/heads/main")), "workflow_ref_prefix_mismatch"),  # the two forms disagree
        (ext(_6=None, _14=None), "workflow_ref_prefix_mismatch"),
        (ext(_8=b"not DER"), "bundle_malformed"),
        (ext(_8=b"\x0c\x05four"), "bundle_malformed"),
        (ext(_8=b"\x0c"), "bundle_malformed"),
        (ext(_8=b"\x16" + world.utf8(world.GITHUB)[1:]), "bundle_malformed"),  # an IA5String
        (ext(_1=b"\xff\xfe"), "bundle_malformed"),
        (ext(_5=b"example/\x1b[2Jrouter"), "bundle_malformed"),
        (ext(_5=b"a" * 3000), "bundle_malformed"),
    ],
)
def test_builders_that_the_rule_does_not_name(leaf: Leaf, reason: str) -> None:
    """Another issuer, repository or ref, two that disagree, or text that is none: each is refused."""
    refused(world.verify(world.make_bundle(leaf)), "provenance_identity", reason)


def test_either_form_of_the_identity_serves() -> None:
    """Certificates with only Fulcio's older, or only its newer extensions are read."""
    old = world.verify(world.make_bundle(ext(_8=None, _12=None, _13=None, _14=None))).claims
    assert (old.authentic, old.repository, old.commit) == (True, world.REPOSITORY, world.COMMIT)
    new = world.make_bundle(ext(_1=None, _3=None, _5=None, _6=None))
    rule = policy(repository=f"https://github.com/{world.REPOSITORY}")
    claims = world.verify(new, policy=rule).claims
    assert (claims.authentic, claims.ref, claims.commit) == (True, world.REF, world.COMMIT)


def test_a_long_extension_is_read() -> None:
    """A UTF8String of 128 bytes and more has its length in a further byte."""
    ref = "refs/tags/" + "v" * 150
    leaf = ext(_6=ref.encode(), _14=world.utf8(ref))
    assert world.verify(world.make_bundle(leaf)).claims.ref == ref


def test_the_prefix_of_a_ref_is_a_prefix() -> None:
    """A longer prefix still holds, an empty one holds for any ref, and a substring is not a prefix."""
    bundle = world.make_bundle()
    assert world.verify(bundle, policy=policy(ref_prefix="refs/tags/v1.")).claims.authentic
    assert world.verify(bundle, policy=policy(ref_prefix="")).claims.authentic
    refused(
        world.verify(bundle, policy=policy(ref_prefix="tags/")), "provenance_identity", "workflow_ref_prefix_mismatch"
    )


@pytest.mark.parametrize(
    "names", [(), (world.SIGNER, "https://other.example/"), ("https://evil.example/x",), (world.SIGNER + "\x1b",)]
)
def test_the_signing_workflow_may_be_pinned(names: tuple[str, ...]) -> None:
    """Where the rule names the workflow, the certificate must be for exactly one URI, which begins so."""
    rule = policy(signer_prefix=f"https://github.com/{world.REPOSITORY}/.github/workflows/build.yml@")
    assert world.verify(world.make_bundle(), policy=rule).claims.authentic
    bundle = world.make_bundle(Leaf(names=names))
    refused(world.verify(bundle, policy=rule), "provenance_identity", "workflow_signer_mismatch")
    assert world.verify(bundle).claims.authentic  # and where it does not, the SAN decides nothing


def signed(**changes: Any) -> dict[str, Any]:
    return world.make_bundle(payload=json.dumps(world.statement(**changes)).encode())


OTHER = {"name": "x", "digest": {"sha256": "00" * 32}}
OURS = {"name": "release.json", "digest": {"sha256": world.ARTIFACT}}


@pytest.mark.parametrize(
    ("changes", "rule", "reason"),
    [
        ({"subject": [OTHER]}, {}, "subject_digest_mismatch"),
        ({"subject": [OTHER, OURS]}, {}, "subject_digest_mismatch"),
        ({"subject": []}, {}, "subject_digest_mismatch"),
        ({"subject": [{"digest": {"sha512": world.ARTIFACT}}]}, {}, "subject_digest_mismatch"),
        ({"predicateType": "https://other.example/v1"}, {}, "predicate_type_not_allowed"),
        ({}, {"predicate_types": ()}, "predicate_type_not_allowed"),
        ({}, {"statement_types": ()}, "in_toto_statement_type_not_allowed"),
        (
            {"_type": "https://in-toto.io/Statement/V1"},
            {"statement_types": ("https://in-toto.io/Statement/v1",)},
            "in_toto_statement_type_not_allowed",
        ),
        ({}, {"payload_type": "application/json"}, "payload_type_not_allowed"),
    ],
)
def test_statements_about_something_else(changes: dict[str, Any], rule: dict[str, Any], reason: str) -> None:
    """Another artefact, or a type that the rule does not list; an empty list allows nothing."""
    refused(world.verify(signed(**changes), policy=policy(**rule)), "provenance_statement", reason)


def test_a_type_on_the_list_is_allowed() -> None:
    """Each list allows what stands on it."""
    rule = policy(
        statement_types=("other", "https://in-toto.io/Statement/v1"), predicate_types=("other", MULTIPLATFORM)
    )
    assert world.verify(world.make_bundle(), policy=rule).claims.authentic


def test_a_refusal_says_what_was_found_and_expected() -> None:
    """What was compared stands in the check, escaped and cut; where nothing was, the sentence does."""
    checks = world.verify(world.make_bundle(), policy=policy(repository="\x1b" + "a" * 100)).checks
    (check,) = [c for c in checks if c.outcome is Outcome.CONTRAINDICATED]
    assert check.found == world.REPOSITORY
    assert check.expected is not None
    assert (check.expected[:5], len(check.expected)) == ("\\x1ba", 80)
    checks = world.verify(world.make_bundle(), world.make_trust_root(tlogs=[])).checks
    (check,) = [c for c in checks if c.outcome is Outcome.CONTRAINDICATED]
    assert check.found == "no key of the trust root is this log's at that time"
    checks = world.verify(world.make_bundle(), digest="00" * 32).checks
    (check,) = [c for c in checks if c.outcome is Outcome.CONTRAINDICATED]
    assert (check.found, check.expected) == (world.ARTIFACT, "00" * 32)


def test_without_a_digest_any_artefact_serves() -> None:
    """A list that is wanted for itself is held to no digest, but still must name one."""
    assert world.verify(world.make_bundle(), digest=None).claims.authentic
    refused(world.verify(signed(subject=[]), digest=None), "provenance_statement", "subject_digest_mismatch")


GOOD = world.statement()["predicate"]
HW = {"a": {"mrtd": "Aa" * 48, "rtmr0": "bb" * 48}, "b": {"mrtd": "cc" * 48, "rtmr0": "dd" * 48}}


@pytest.mark.parametrize(
    ("kind", "predicate"),
    [
        (MULTIPLATFORM, []),
        (MULTIPLATFORM, {**GOOD, "snp_measurement": None}),
        (MULTIPLATFORM, {"tdx_measurement": GOOD["tdx_measurement"]}),
        (MULTIPLATFORM, {**GOOD, "tdx_measurement": {"rtmr1": world.RTMR1}}),
        (MULTIPLATFORM, {**GOOD, "tdx_measurement": {"rtmr2": world.RTMR2}}),
        (MULTIPLATFORM, {**GOOD, "tdx_measurement": 1}),
        (MULTIPLATFORM, {**GOOD, "snp_measurement": "zz" * 48}),
        (MULTIPLATFORM, {**GOOD, "snp_measurement": "aa" * 47}),
        (HARDWARE, {"a": {"mrtd": "aa" * 48}}),
        (HARDWARE, {"a": []}),
        (HARDWARE, {"\x1b": HW["a"]}),
        (HARDWARE, {f"p{n}": HW["a"] for n in range(1025)}),
    ],
)
def test_predicates_that_lack_a_register(kind: str, predicate: Any) -> None:
    """Every register of the kind must be there, as 96 hex digits: a measurement with fewer compares more easily."""
    bundle = signed(predicateType=kind, predicate=predicate)
    rule = policy(predicate_types=None)
    refused(world.verify(bundle, policy=rule), "provenance_predicate", "predicate_measurement_invalid")


def test_hardware_measurements_are_read() -> None:
    """A signed hardware list gives each platform with the release's digest, in lower case."""
    result = world.verify(signed(predicateType=HARDWARE, predicate=HW), policy=policy(predicate_types=(HARDWARE,)))
    first, second = result.claims.hardware
    assert (first.id, first.mrtd, first.rtmr0) == (f"a@{world.ARTIFACT}", "aa" * 48, "bb" * 48)
    assert second.id == f"b@{world.ARTIFACT}"
    assert result.claims.measurement is None


def test_a_predicate_of_another_kind_gives_no_measurement() -> None:
    """Where the rule allows any predicate, one without measurements is authentic and gives none."""
    bundle = signed(predicateType="https://slsa.dev/provenance/v1", predicate={"anything": 1})
    claims = world.verify(bundle, policy=policy(predicate_types=None)).claims
    assert claims.authentic
    assert (claims.measurement, claims.hardware) == (None, ())


def test_a_link_to_a_log_is_not_a_verified_bundle() -> None:
    """Only the whole chain counts; cut anywhere, nothing is authentic."""
    for cut in range(0, len(world.genuine()[0]), 97):
        assert not world.verify(world.genuine()[0][:cut]).claims.authentic


def test_another_leaf_key_with_the_same_name_is_refused() -> None:
    """A certificate that claims the identity and is signed by nobody trusted gets no further than its chain."""
    leaf = x509.load_der_x509_certificate(world.der(world.make_leaf(Leaf(issuer=world.STRANGER))))
    assert leaf.issuer == world.name("root")
    refused(
        world.verify(world.make_bundle(Leaf(issuer=world.STRANGER))), "provenance_certificate", "fulcio_chain_invalid"
    )


def test_inputs_by_role() -> None:
    """A manifest's roles and parameters are the function's arguments; a missing or unknown one is told."""
    bundle, root = world.genuine()
    blobs = {"bundle": bundle, "trust_root": root}
    params = {"repository": world.REPOSITORY, "predicate_types": [MULTIPLATFORM], "artifact_digest": world.ARTIFACT}
    assert from_inputs(blobs, params, world.NOW).claims.authentic
    other = from_inputs(blobs, {**params, "artifact_digest": "00" * 32}, world.NOW)
    assert other.claims.reject_code == "subject_digest_mismatch"
    for role in blobs:
        with pytest.raises(FormatError) as missing:
            from_inputs({k: v for k, v in blobs.items() if k != role}, params, world.NOW)
        assert missing.value.reason == "input_missing"
    for bad in ({}, {**params, "unheard_of": 1}, {**params, "entries_min": "1"}):
        with pytest.raises(FormatError) as malformed:
            from_inputs(blobs, bad, world.NOW)
        assert malformed.value.reason == "param_malformed"


def test_short_lived_certificates_are_judged_at_the_logs_time() -> None:
    """By the clock of whoever asks, every archived bundle would have expired."""
    leaf = Leaf(end=world.SIGNED + timedelta(seconds=1))
    assert world.verify(world.make_bundle(leaf), now=world.NOW + 10**8).claims.authentic
    refused(world.verify(world.make_bundle(leaf, at=(T0 + 2,)), now=T0), "provenance_certificate", "cert_expired")
