"""What public verifiers forgot, row by row: the test that shows that it isn't forgotten here, or why there is none.

The rows are those of two studies of public verifiers: T1 to T12 of evidence formats, N1 to N22 of the networks' own
clients. Where a family's own tests already show it, `SHOWN` names them and a test here holds the names to the files. What
spans families is tested below, under the mistake's name. `ELSEWHERE` says what cannot be shown without a network.
"""

from __future__ import annotations

import ast
import base64
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tee_worlds import amd, azure, cca, intel, keys, nitro, nvidia, tokens
from tee_worlds.keys import ec_key

from gateway.crypto.signatures import Ed25519Signer
from gateway.errors import FormatError
from gateway.model.tee import Binding, BindingStatus, Platform, TcbStatus, TeeResult
from gateway.model.verdict import Outcome
from gateway.verify.preimages import PreimageRule, preimage
from gateway.verify.signed_text import judge_signed_text, parse_signed_text
from gateway.verify.tee.bindings import BindingInputs, BindingRule, bind
from gateway.verify.tee.cca import verify_cca
from gateway.verify.tee.gcs import verify_gcs
from gateway.verify.tee.intel import verify_intel
from gateway.verify.tee.maa import verify_maa
from gateway.verify.tee.nitro import verify_nitro
from gateway.verify.tee.nras import verify_nras
from gateway.verify.tee.nvidia_gpu import verify_spdm
from gateway.verify.tee.rules import BASELINE, TeeRules, accepted, judge, violations

TESTS = Path(__file__).resolve().parents[2]
HERE = "verify/tee/test_others_mistakes.py::"
TEE = "verify/tee/test_"

#: Row -> the tests that show it, as `path under tests::function`.
SHOWN: dict[str, tuple[str, ...]] = {
    "T1 QE identity signature unchecked": (TEE + "intel.py::test_pitfall_qe_identity_signature_unchecked",),
    "T2 status ignored": (
        TEE + "intel.py::test_pitfall_status_ignored",
        HERE + "test_mistake_out_of_date_is_fine_by_default",
    ),
    "T3 old, validly signed collateral replayed": (TEE + "intel.py::test_pitfall_old_collateral_replayed",),
    "T4 chip-id check never runs": (TEE + "snp.py::test_pitfall_chip_compared_with_the_wrong_name",),
    "T5 Turin layout, 8-byte hwID": (TEE + "snp.py::test_pitfall_turin_layout",),
    "T6 VLEK unsupported or taken for VCEK": (TEE + "snp.py::test_pitfall_vlek_taken_for_vcek",),
    "T7 clock not injectable": (
        TEE + "intel.py::test_pitfall_clock_not_injectable",
        TEE + "snp.py::test_pitfall_clock_is_given",
        HERE + "test_mistake_the_clock_is_the_machines",
    ),
    "T8 trailing or unsigned bytes accepted": (
        TEE + "intel.py::test_pitfall_trailing_bytes_accepted",
        TEE + "intel.py::test_pitfall_raw_quote_as_replay_key",
        TEE + "snp.py::test_pitfall_trailing_and_unsigned_bytes",
        TEE + "snp.py::test_pitfall_hash_of_a_report_as_replay_key",
        TEE + "nvidia_gpu.py::test_pitfall_trailing_bytes_move_the_signature",
        HERE + "test_mistake_trailing_bytes_are_accepted",
    ),
    "T9 debug documents used as samples": (
        TEE + "intel.py::test_pitfall_debug_taken_for_production",
        TEE + "nitro.py::test_debug_documents_are_genuine_and_say_debug",
        HERE + "test_mistake_debug_evidence_is_taken_for_production",
    ),
    "T10 alg none, staging issuer, dropped GPU": (
        TEE + "nras.py::test_pitfall_the_header_chooses_the_algorithm",
        TEE + "nras.py::test_pitfall_the_staging_service_is_taken_for_the_service",
        TEE + "nras.py::test_pitfall_a_dropped_gpu_goes_unnoticed",
        HERE + "test_mistake_alg_none_is_a_signature",
    ),
    "T11 evidence not bound to the channel": (
        TEE + "intel.py::test_pitfall_report_data_free",
        HERE + "test_mistake_genuine_is_taken_for_bound",
    ),
    "T12 JWKS key trusted without chain; key set not archived": (
        TEE + "nras.py::test_pitfall_a_key_set_is_trusted_without_a_chain",
        TEE + "nras.py::test_the_signing_key_and_its_chain_are_archived",
        TEE + "maa.py::test_pitfall_the_key_set_of_the_header_is_fetched",
    ),
    "N1 body hashes not compared, or mismatch not fatal": (
        "verify/test_signed_text.py::test_the_bytes_are_compared_though_the_signature_holds",
        HERE + "test_mistake_a_hash_mismatch_is_printed_and_passed",
    ),
    "N2 the attestation is of another signing address": (
        "verify/test_signed_text.py::test_the_attestation_must_be_of_this_signer",
        HERE + "test_mistake_the_first_attestation_of_a_list_is_taken",
    ),
    "N3 RTMR3 names from any entry, after system-ready, last wins": (
        TEE + "dstack_log.py::test_pitfall_relabelled_event",
        TEE + "dstack_log.py::test_pitfall_hidden_system_ready",
        TEE + "dstack_log.py::test_pitfall_application_events",
        TEE + "dstack_log.py::test_pitfall_last_wins",
        TEE + "dstack.py::test_nothing_is_read_from_a_log_that_does_not_hold",
    ),
    "N4 MRTD and RTMR0-2 not pinned": (TEE + "dstack.py::test_pitfall_self_reported_image_hash",),
    "N5 development images and the debug bit": (
        TEE + "secretvm.py::test_pitfall_development_image_with_production_registers",
        HERE + "test_mistake_debug_evidence_is_taken_for_production",
    ),
    "N6 OutOfDate fine by default": (HERE + "test_mistake_out_of_date_is_fine_by_default",),
    "N7 NRAS token decoded without its signature, iss, exp, digests, nonce": (
        TEE + "nras.py::test_pitfall_the_token_is_decoded_and_not_verified",
        TEE + "nras.py::test_pitfall_the_staging_service_is_taken_for_the_service",
        TEE + "nras.py::test_pitfall_a_dropped_gpu_goes_unnoticed",
    ),
    "N8 the JSON nonce compared, not the signed one": (
        TEE + "nvidia_gpu.py::test_pitfall_the_json_nonce_is_compared_and_not_the_signed_one",
        TEE + "bindings.py::test_the_json_nonce_beside_the_evidence_is_not_read",
    ),
    "N9 a shared nonce claimed to be more": (
        TEE + "nvidia_gpu.py::test_pitfall_a_shared_nonce_is_taken_for_a_binding",
    ),
    "N10 images behind tags, environment unreviewed": (
        TEE + "dstack.py::test_pitfall_images_behind_tags",
        TEE + "dstack.py::test_pitfall_environment_is_not_measured",
    ),
    "N11 Sigstore by a link to a search page": (
        TEE + "provenance_checks.py::test_a_link_to_a_log_is_not_a_verified_bundle",
        TEE + "provenance_checks.py::test_builders_that_the_rule_does_not_name",
    ),
    "N12 the SPKI of another connection": (
        "upstream/test_upstream_tls.py::test_a_kept_connection_is_not_handed_out_when_its_key_is_no_longer_pinned",
        "verify/test_appraise_node.py::test_the_pin_and_the_channel",
    ),
    "N13 the model in the text dropped": (
        "verify/test_preimages.py::test_two_parts_leave_the_model_unbound",
        HERE + "test_mistake_the_model_in_the_text_is_dropped",
    ),
    "N14 a request hash that the caller supplied": (
        "verify/test_preimages.py::test_a_hash_of_the_callers_is_never_used",
    ),
    "N15 Chutes: half of report_data compared": (
        TEE + "bindings.py::test_chutes_binds_the_certificate_too",
        TEE + "bindings.py::test_every_byte_counts",
    ),
    "N16 encryption taken for attestation": (HERE + "test_mistake_encryption_to_a_key_is_taken_for_attestation",),
    "N19 archived evidence judged at today's time": (
        TEE + "nitro.py::test_a_historical_examination_says_so_and_claims_no_freshness",
        TEE + "provenance_checks.py::test_the_verdict_is_the_same_years_later",
        HERE + "test_mistake_archived_evidence_is_judged_by_todays_clock",
    ),
    "N20 v5 quotes, trailing bytes, version 4, CCEL, event digests": (
        TEE + "intel.py::test_pitfall_only_version_4_read",
        TEE + "snp.py::test_pitfall_report_version_4",
        TEE + "dstack_ccel.py::test_a_log_replays_with_any_filling",
        TEE + "dstack_log.py::test_digests_of_both_versions",
        TEE + "dstack_log.py::test_empty_digests_are_computed",
    ),
    "N21 not_after without sanity": ("verify/test_appraise_node.py::test_each_fault_fails_its_check",),
    "N22 nilAI: key unbound, fields swapped, nonce ignored": (
        "verify/test_preimages.py::test_nilai_end_to_end",
        "verify/test_preimages.py::test_nilai_of_what_is_none",
        HERE + "test_mistake_a_key_that_nothing_binds_is_believed",
    ),
}

#: Row -> why no test here can show it.
ELSEWHERE: dict[str, str] = {
    "N15 Chutes: the runtime RTMR3 and each instance": "what an instance measures comes with the adapter; its binding is above",
    "N17 plaintext fallback in encrypted streams, unauthenticated end": "no adapter that decrypts streams exists",
    "N18 non-TEE instances behind the same API": "which instance answered is the adapter's to ask, for each answer",
}


def test_every_row_has_its_test_or_its_reason() -> None:
    """Twelve rows of formats and twenty-two of networks are accounted for, and none twice over."""
    rows = {row.split()[0] for row in (*SHOWN, *ELSEWHERE)}
    assert rows == {f"T{n}" for n in range(1, 13)} | {f"N{n}" for n in range(1, 23)}
    assert all(ELSEWHERE.values())


@pytest.mark.parametrize("test_id", sorted({one for ids in SHOWN.values() for one in ids}))
def test_the_test_that_is_named_exists(test_id: str) -> None:
    """Each test that a row leans on is a function of the file that is named."""
    path, _, name = test_id.partition("::")
    tree = ast.parse((TESTS / path).read_text("utf-8"))
    assert name in {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}


# --- Mistakes that span families


def _intel(data: bytes, now: float) -> TeeResult:
    world = intel.World()
    return verify_intel(data or world.quote(report_data=b"a"), world.collateral(), roots=world.roots, now=now)


def _nitro(data: bytes, now: float) -> TeeResult:
    world = nitro.World()
    return verify_nitro(data or world.document(nonce=b"n"), roots=world.roots, now=now, max_age_s=300)


def _spdm(data: bytes, now: float) -> TeeResult:
    chain = nvidia.pem_of(nvidia.device_chain())
    return verify_spdm(data or nvidia.report(), chain, nonce=nvidia.NONCE, roots=nvidia.roots(), now=now)


def _snp(data: bytes, now: float) -> TeeResult:
    world = amd.World("Genoa")
    return world.verify(data or world.report(), now=now)


def _azure(data: bytes, now: float) -> TeeResult:
    world = azure.AzureWorld()
    return world.verify(data or world.evidence(), now=now)


def _nras(data: bytes, now: float) -> TeeResult:
    return verify_nras(data or tokens.bundle(), tokens.nras_key_set(), roots=tokens.nras_roots(), now=now)


def _gcs(data: bytes, now: float) -> TeeResult:
    return verify_gcs(data or tokens.gcs_token(), roots=tokens.gcs_roots(), now=now, audience=tokens.AUDIENCE)


def _maa(data: bytes, now: float) -> TeeResult:
    jwks = tokens.maa_key_set()
    roots = tokens.pinned_set("maa", jwks)
    return verify_maa(data or tokens.maa_token(), jwks, roots=roots, now=now, issuer=tokens.PROVIDER)


def _cca(data: bytes, now: float) -> TeeResult:
    world = cca.World()
    return verify_cca(data or world.token(), world.platform_key_sec1, roots=world.roots, now=now)


#: Family -> (its verifier over given or genuine evidence, the time at which that is genuine, the genuine evidence).
Judge = Callable[[bytes, float], TeeResult]
FAMILIES: dict[str, tuple[Judge, float, Callable[[], bytes]]] = {
    "intel": (_intel, intel.World().now, lambda: intel.World().quote(report_data=b"a")),
    "snp": (_snp, amd.NOW, lambda: amd.World("Genoa").report()),
    "nitro": (_nitro, nitro.World().now, lambda: nitro.World().document(nonce=b"n")),
    "spdm": (_spdm, nvidia.NOW, nvidia.report),
    "azure": (_azure, amd.NOW, lambda: azure.AzureWorld().evidence()),
    "nras": (_nras, nvidia.NOW, tokens.bundle),
    "gcs": (_gcs, nvidia.NOW, tokens.gcs_token),
    "maa": (_maa, nvidia.NOW, tokens.maa_token),
    "cca": (_cca, cca.World().now, lambda: cca.World().token()),
}


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "cca"])  # nothing in a CCA token is dated
def test_mistake_the_clock_is_the_machines(family: str) -> None:
    """The verdict belongs to the time that is given: genuine then, out of date in 1970, whatever the clock says."""
    verify, now, _ = FAMILIES[family]
    assert verify(b"", now).claims.authentic
    past = verify(b"", 0.0).claims
    assert not past.authentic
    assert past.evaluated_at == 0.0


@pytest.mark.parametrize("family", FAMILIES)
def test_mistake_trailing_bytes_are_accepted(family: str) -> None:
    """One byte more, and genuine evidence is not what its format says; white space round JSON adds nothing to it."""
    verify, now, make = FAMILIES[family]
    evidence = make()
    assert verify(evidence, now).claims.authentic
    for more in (b"\1", b"x", evidence):
        assert not verify(evidence + more, now).claims.authentic


def _debug_evidence() -> dict[str, TeeResult]:
    world, enclave = amd.World("Genoa"), nitro.World()
    return {
        "snp": world.verify(world.report(debug=True)),
        "nitro": _nitro(enclave.document(nonce=b"n", pcrs=nitro.debug_pcrs()), enclave.now),
        "gcs": _gcs(tokens.gcs_token(dbgstat="enabled"), tokens.NOW),
    }


@pytest.mark.parametrize("family", ["snp", "nitro", "gcs"])
def test_mistake_debug_evidence_is_taken_for_production(family: str) -> None:
    """A debug environment's evidence is genuine, says so, and is refused by every default."""
    claims = _debug_evidence()[family].claims
    assert claims.authentic
    assert claims.debug is True
    assert "debug" in violations(judge(claims, BASELINE))
    assert "debug" in violations(judge(claims, TeeRules()))


@pytest.mark.parametrize("status", [TcbStatus.OUT_OF_DATE, TcbStatus.OUT_OF_DATE_CONFIGURATION, TcbStatus.REVOKED, TcbStatus.UNSUPPORTED, None])  # fmt: skip
def test_mistake_out_of_date_is_fine_by_default(status: TcbStatus | None) -> None:
    """A policy that says nothing of statuses refuses those that are stale, revoked or not known."""
    found = msgspec.structs.replace(_intel(b"", FAMILIES["intel"][1]).claims, tcb_status=status)
    assert found.authentic
    for rules in (TeeRules(), BASELINE):
        assert any(violation.startswith("tcb_status") for violation in violations(judge(found, rules)))


@pytest.mark.parametrize("alg", ["none", "None", "HS256", ""])
def test_mistake_alg_none_is_a_signature(alg: str) -> None:
    """A token whose header asks for no signature, or for one by a public secret, is refused."""
    for verify, token in ((_gcs, tokens.gcs_token()), (_maa, tokens.maa_token())):
        header, claims, signature = token.decode().split(".")
        named = json.loads(base64.urlsafe_b64decode(header + "=="))
        other = tokens.b64url(json.dumps({**named, "alg": alg}).encode())
        for end in ("", signature):
            found = verify(f"{other}.{claims}.{end}".encode(), tokens.NOW).claims
            assert (found.authentic, found.reject_code) == (False, "jwt_bad_alg")


@pytest.mark.parametrize("family", FAMILIES)
def test_mistake_genuine_is_taken_for_bound(family: str) -> None:
    """Genuine evidence that nobody tied to a key is `unbound`, and no policy takes that unless it says so."""
    verify, now, _ = FAMILIES[family]
    claims = verify(b"", now).claims
    assert claims.authentic
    assert claims.binding == Binding(BindingStatus.UNBOUND)
    checks = judge(claims, TeeRules(debug="allow", configuration="allow", test_roots="allow", milan="allow"))
    assert "unbound" in violations(checks)
    assert not accepted(checks)


@pytest.mark.parametrize("rule", list(BindingRule))
def test_mistake_encryption_to_a_key_is_taken_for_attestation(rule: BindingRule) -> None:
    """A key that an API returned, with no authentic evidence behind it, is bound by nothing, whatever it encrypts."""
    inputs = BindingInputs(
        signing_key=b"\1" * 20, spki_sha256=b"\2" * 32, nonce=b"\3" * 32, public_key=b"\4" * 32, e2e_key_text="k"
    )
    for platform in Platform:
        nothing = keys.claims(platform, authentic=False, report_data="01" * 64, raw={"public_key": "04" * 32})
        assert bind(rule, nothing, inputs).status is BindingStatus.UNBOUND


def _signed_text(text: str, key: keys.EcKey) -> bytes:
    return msgspec.json.encode(
        {
            "text": text,
            "signature": "0x" + key.personal_sign(text.encode()).hex(),
            "signing_address": "0x" + key.address.hex(),
            "signing_algo": "ecdsa",
        }
    )


ATTESTED, UNKNOWN = ec_key("secp256k1"), ec_key("secp256k1", 4711)


@pytest.mark.parametrize(("part", "reason"), [(0, "request_hash_mismatch"), (1, "response_hash_mismatch")])
def test_mistake_a_hash_mismatch_is_printed_and_passed(part: int, reason: str) -> None:
    """A signature that holds over other hashes than ours is a refusal."""
    expected = preimage(PreimageRule.DSTACK, b"request", b"response", {})
    pieces = expected.message.decode().split(":")
    pieces[part] = "00" * 32
    signed = parse_signed_text(_signed_text(":".join(pieces), ATTESTED))
    assert judge_signed_text(signed, expected, ATTESTED.address) == reason


def test_mistake_the_first_attestation_of_a_list_is_taken() -> None:
    """A signature by a key that some other node's evidence binds is no signature of this one."""
    expected = preimage(PreimageRule.DSTACK, b"request", b"response", {})
    signed = parse_signed_text(_signed_text(expected.message.decode(), UNKNOWN))
    assert judge_signed_text(signed, expected, UNKNOWN.address) is None
    assert judge_signed_text(signed, expected, ATTESTED.address) == "signing_address_mismatch"


def test_mistake_the_model_in_the_text_is_dropped() -> None:
    """A text that names another model is refused; one that names none does not pass for one that does."""
    expected = preimage(PreimageRule.NEAR, b"request", b"response", {"model": "big"})
    tail = expected.message.decode().partition(":")[2]
    for text, reason in (("small:" + tail, "model_mismatch"), (tail, "text_form_mismatch")):
        signed = parse_signed_text(_signed_text(text, ATTESTED))
        assert judge_signed_text(signed, expected, ATTESTED.address) == reason


def test_mistake_a_key_that_nothing_binds_is_believed() -> None:
    """A key that stands in a report's data has to be the one that was given; another is a mismatch, none is unbound."""
    key = Ed25519Signer(b"\6" * 32).public_key
    found = keys.claims(report_data="00" * 64)
    assert (
        bind(BindingRule.DSTACK, found, BindingInputs(signing_key=key, nonce=b"\3" * 32)).status
        is not BindingStatus.BOUND
    )


@pytest.mark.parametrize("family", ["intel", "nitro", "nras", "gcs", "maa"])
def test_mistake_archived_evidence_is_judged_by_todays_clock(family: str) -> None:
    """What was genuine when it was captured is so at that time for ever, and no longer years later."""
    verify, now, make = FAMILIES[family]
    evidence = make()
    then, later = verify(evidence, now), verify(evidence, now + 30 * 365 * 86400)
    again = verify(evidence, now)
    assert then.claims.authentic
    assert again.checks == then.checks
    assert not later.claims.authentic
    assert any(check.outcome is Outcome.CONTRAINDICATED for check in later.checks)


def test_mistake_an_unsigned_error_is_parsed_as_a_signature() -> None:
    """A gateway's `200` with an error code is no signature object (networks' error behaviour)."""
    with pytest.raises(FormatError) as refused:
        parse_signed_text(b'{"error_code":"NOT_SIGNED","text":"a:b","signature":"00"}')
    assert refused.value.reason == "response_unsigned"
