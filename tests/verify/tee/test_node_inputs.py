"""The kinds that take a node's whole report: quotes without collateral, logs, accelerators, envelopes, histories."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tee_worlds import amd, dstack, intel, nitro, nodes, nvidia

from gateway.crypto.ec_keys import spki_der
from gateway.errors import FormatError
from gateway.model.tee import BindingStatus, FreshnessClass, Platform, TeeResult
from gateway.model.verdict import Outcome
from gateway.verify.tee import dstack_inputs, nitro_history, secretvm_inputs
from gateway.verify.tee.bindings import BindingInputs, BindingRule
from gateway.verify.tee.intel import PLAN
from gateway.verify.tee.node_report import is_envelope, read_envelope, read_report
from gateway.verify.tee.outcomes import contradicted
from gateway.verify.tee.quote_alone import verify_quote_alone
from gateway.verify.tee.roots import TrustRoots
from gateway.verify.tee.rules import BASELINE, judge, violations
from gateway.verify.tee.tied import certificate_digests, tied

NOW = nodes.NOW
BY_COLLATERAL = {"tee_collateral", "tee_revocation", "tee_identity", "tee_tcb"}


def reasons(result: TeeResult) -> dict[str, str | None]:
    return {check.id: check.reason for check in result.checks}


def outcomes(result: TeeResult) -> dict[str, Outcome]:
    return {check.id: check.outcome for check in result.checks}


# -- a quote alone


def alone(quote: bytes, *, now: float = NOW, roots: TrustRoots | None = None) -> TeeResult:
    return verify_quote_alone(quote, roots=nodes.roots() if roots is None else roots, now=now)


def test_a_quote_alone_is_signed_and_not_authentic() -> None:
    """Form, chain and signatures hold; what needs collateral is `none`, and the claims say so."""
    result = alone(nodes.quote())
    assert tuple(check.id for check in result.checks) == PLAN
    assert {i for i, o in outcomes(result).items() if o is Outcome.NONE} == BY_COLLATERAL
    assert {reasons(result)[i] for i in BY_COLLATERAL} == {"no_collateral"}
    claims = result.claims
    assert (claims.authentic, claims.reject_code, claims.tcb_status) == (False, "no_collateral", None)
    assert (claims.product, claims.machine_id_kind) == ("10A06F000000", "ppid")
    assert claims.root is not None
    assert claims.root.test
    assert violations(judge(claims, BASELINE)) == ("not_authentic",)


def test_an_sgx_quote_alone() -> None:
    """It is the same for SGX."""
    claims = alone(nodes.machine().sgx_quote()).claims
    assert (claims.platform, claims.reject_code) == (Platform.INTEL_SGX, "no_collateral")


def _unnamed() -> bytes:
    return nodes.machine().sign_quote(intel.td_report(), chain_text=b"nothing")


@pytest.mark.parametrize(
    ("quote", "now", "reason", "check"),
    [
        (b"", NOW, "quote_too_short", "tee_format"),
        (nodes.quote() + b"x", NOW, "quote_trailing_bytes", "tee_format"),
        (_unnamed(), NOW, "chain_empty", "tee_chain"),
        (nodes.machine().sign_quote(intel.td_report(), chain_text=b"-----BEGIN CERTIFICATE-----"), NOW, "pck_malformed",
         "tee_format"),
        (intel.World(seed="another").quote(), NOW, "chain_untrusted_root", "tee_chain"),
        (nodes.quote(), NOW + 5000 * 86400, "cert_expired_or_not_yet_valid", "tee_chain"),
        (nodes.machine().sign_quote(intel.td_report(), chain=(nodes.machine().signer, nodes.machine().root)), NOW,
         "cert_wrong_role", "tee_chain"),
        (nodes.machine().sign_quote(intel.td_report(), signed=b"\4" + bytes(631)), NOW, "quote_unsupported_key_type",
         "tee_format"),
        (nodes.machine().sign_quote(intel.td_report(), pck_key=intel.key_of("x")), NOW, "qe_report_bad_signature",
         "tee_signature"),
        (intel.World(extension=b"\x30\x00").quote(), NOW, "pck_malformed", "tee_identity"),
    ],
)  # fmt: skip
def test_a_quote_that_fails_alone(quote: bytes, now: float, reason: str, check: str) -> None:
    """What needs no collateral is refused with the reason that it has with collateral."""
    result = alone(quote, now=now)
    assert (result.claims.authentic, result.claims.reject_code) == (False, reason)
    assert outcomes(result)[check] is Outcome.CONTRAINDICATED


# -- a report's parts


def test_a_report_is_taken_apart() -> None:
    """The parts are found under the names that the networks give them, outermost first."""
    node = nodes.guest()
    found = read_report(nodes.as_json(nodes.report()))
    assert (found.quote, found.event_log, found.app_compose) == (nodes.quote(), node.log.json(), node.app_compose)
    assert found.nvidia_payload == nodes.gpus()
    inner = {"app_compose": node.app_compose.decode(), "event_log": json.loads(node.log.json())}
    for document in (
        {"quote": "0x" + nodes.quote().hex(), "tcb_info": json.dumps(inner)},
        {"intel_attestation_report": nodes.quote().hex(), "info": {"tcb_info": inner}},
        {"attestation": {"evidence": {"quote": nodes.quote().hex(), **inner}}},
        {"quote": nodes.quote().hex(), "intel_quote": nodes.quote().hex().upper(), **inner},
    ):
        again = read_report(nodes.as_json(document))
        assert (again.quote, again.app_compose, again.event_log) == (nodes.quote(), node.app_compose, node.log.json())


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"{", "report_malformed"),
        (b"[]", "report_malformed"),
        (b"{}", "report_malformed"),
        (b'{"quote":7}', "report_malformed"),
        (b'{"quote":"0x0"}', "report_malformed"),
        (b'{"quote":"00","tcb_info":"{"}', None),
        (b'{"quote":"00","intel_quote":"01"}', "report_ambiguous"),
        (b'{"quote":"00","attestation":{"evidence":{"quote":"01"}}}', "report_ambiguous"),
    ],
)
def test_reports_that_cannot_be_read(document: bytes, reason: str | None) -> None:
    """A report without one quote is none; text that is no JSON where an object may stand is just not looked into."""
    if reason is None:
        assert read_report(document).app_compose is None
        return
    with pytest.raises(FormatError) as refused:
        read_report(document)
    assert refused.value.reason == reason


@pytest.mark.parametrize("size", [0, 63, 64, 16383, 16384])
def test_an_envelope_is_taken_apart(size: int) -> None:
    """Evidence of any size, counted in each of SCALE's modes."""
    data = b"\0\2" + nodes.counted(b"e" * size)
    assert is_envelope(data)
    assert read_envelope(data).evidence == b"e" * size
    found = read_envelope(b"\0\3" + nodes.counted(b"e" * size) + b"\0" + nodes.counted(b"m" * size))
    assert (found.platform, found.evidence, found.mr_config) == ("snp", b"e" * size, b"m" * size)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "envelope_unsupported"),
        (b"\0", "envelope_unsupported"),
        (b"\1\2\0", "envelope_unsupported"),
        (b"\0\4\0", "envelope_unsupported"),
        (b"\0\2", "envelope_malformed"),
        (b"\0\2\3", "envelope_malformed"),
        (b"\0\2\1", "envelope_malformed"),
        (b"\0\2\x08e", "envelope_malformed"),
        (b"\0\3\x04e", "envelope_malformed"),
        (b"\0\3\x04e\x04c", "envelope_unsupported"),
        (bytes((1 << 20) + 1), "envelope_malformed"),
    ],
)
def test_envelopes_that_cannot_be_read(data: bytes, reason: str) -> None:
    """Another version or platform is told from a broken count."""
    with pytest.raises(FormatError) as refused:
        read_envelope(data)
    assert refused.value.reason == reason


# -- dstack


def appraise(document: object = None, params: dict[str, Any] | None = None, **blobs: bytes) -> TeeResult:
    report = nodes.as_json(nodes.report() if document is None else document)
    given = {"report": report, "collateral": nodes.collateral(), **blobs}
    return dstack_inputs.from_inputs(given, params or {}, nodes.roots(), NOW)


def references() -> bytes:
    node = nodes.guest()
    image = dstack.os_image(node.log, image_hash=dstack.OS_IMAGE_HASH.hex())
    return nodes.as_json(
        {
            "os_images": [{name: getattr(image, name) for name in image.__struct_fields__}],
            "compose_hashes": [node.hash.hex()],
            "app_ids": [dstack.APP_ID.hex()],
            "key_providers": [{"name": "kms", "id": "3059301306072a"}],
        }
    )


def test_a_whole_node() -> None:
    """Quote, log, document, references and accelerators: one list of checks, one record."""
    result = appraise(references=references())
    assert {i: r for i, r in reasons(result).items() if r} == {"gpu_policy": "no_gpu_policy"}
    claims = result.claims
    assert claims.authentic
    assert claims.raw["dstack"]["os_image"] == "synthetic-1.0"
    (gpu,) = claims.children
    assert (gpu.authentic, gpu.binding.status) == (True, BindingStatus.BOUND)
    assert (violations(judge(claims, BASELINE)), contradicted(result)) == (("test_root",), ())


def test_a_node_without_collateral_is_never_authentic() -> None:
    """The log replays against signed registers, and the whole stays refused, its accelerators tied to nothing."""
    report = nodes.as_json(nodes.report())
    result = dstack_inputs.from_inputs({"report": report}, {}, nodes.roots(), NOW)
    assert (reasons(result)["rtmr_replay"], reasons(result)["compose_bound"]) == (None, None)
    assert (result.claims.authentic, result.claims.reject_code) == (False, "no_collateral")
    assert "dstack" in result.claims.raw
    assert outcomes(result)["gpu_evidence"] is Outcome.AFFIRMING
    assert result.claims.children[0].binding.status is BindingStatus.UNBOUND
    assert contradicted(result) == ()


def test_parts_by_themselves() -> None:
    """A quote needs no report around it, and a part that is given stands before the report's."""
    node = nodes.guest()
    blobs = {"quote": nodes.quote(), "event_log": node.log.json(), "collateral": nodes.collateral()}
    result = dstack_inputs.from_inputs(blobs, {}, nodes.roots(), NOW)
    assert (result.claims.authentic, reasons(result)["rtmr_replay"]) == (True, None)
    assert reasons(result)["gpu_evidence"] == "no_gpu_evidence"
    assert reasons(appraise(app_compose=b"{}"))["compose_bound"] == "compose_mismatch"


def test_a_nodes_words_are_not_inputs() -> None:
    """A report that cannot be read, or a quote that is none, is a refusal and not an error of the caller."""
    unread = appraise([])
    assert (unread.claims.authentic, unread.claims.reject_code) == (False, "report_malformed")
    stub = appraise(nodes.report(intel_quote="00" * 47))
    assert stub.claims.reject_code == "quote_too_short"
    assert {reasons(stub)["rtmr_log"], reasons(stub)["gpu_evidence"]} == {"quote_not_authentic"}


def test_a_log_that_does_not_replay_refuses_a_genuine_quote() -> None:
    """The quote is authentic, and what runs behind it is contradicted: that refuses too."""
    other = dstack.booted().system(b"\1" * 32)
    result = appraise(nodes.report(event_log=other.json().decode()))
    assert result.claims.authentic
    assert contradicted(result) == ("replay_mismatch",)


@pytest.mark.parametrize(
    ("members", "params", "reason"),
    [
        ({}, {}, None),
        ({}, {"nonce": nodes.NONCE.hex()}, None),
        ({"nvidia_payload": None}, {}, "no_gpu_evidence"),
        ({"nvidia_payload": "{}"}, {}, "malformed"),
        ({"nvidia_payload": nodes.gpus(b"\7" * 32).decode()}, {}, "nonce_mismatch"),
        ({"nvidia_payload": nodes.gpus(b"\7" * 32).decode()}, {"nonce": "07" * 32}, "cpu_nonce_mismatch"),
        ({"intel_quote": nodes.quote(nodes.KEY).hex()}, {}, "cpu_commits_to_nothing"),
        ({"intel_quote": nodes.quote(nodes.KEY.ljust(32, b"\0") + hashlib.sha256(nodes.NONCE).digest()).hex()},
         {"nonce": nodes.NONCE.hex()}, None),
    ],
)  # fmt: skip
def test_accelerators(members: dict[str, Any], params: dict[str, Any], reason: str | None) -> None:
    """GPU evidence counts when it answers what the CPU's report data commits to; the JSON's nonce counts for nothing."""
    result = appraise(nodes.report(**members), params)
    assert reasons(result)["gpu_evidence"] == reason
    if reason is None:
        assert result.claims.children[0].binding.status is BindingStatus.BOUND
        assert "gpu_unlinked" not in violations(judge(result.claims, BASELINE))


@pytest.mark.parametrize(
    ("blobs", "params", "words"),
    [
        ({}, {}, "no report and no quote"),
        ({"report": b"{}", "references": b"["}, {}, "JSON"),
        ({"report": b"{}"}, {"nonce": "xyz"}, "nonce"),
    ],
)
def test_what_the_caller_gives_is_an_error(blobs: dict[str, bytes], params: dict[str, Any], words: str) -> None:
    """References, parameters and missing roles are the caller's, and raise."""
    with pytest.raises(FormatError, match=words):
        dstack_inputs.from_inputs(blobs, params, nodes.roots(), NOW)


def test_an_envelope_with_a_nitro_document() -> None:
    """It is appraised as a Nitro document."""
    world = nitro.World()
    result = dstack_inputs.from_inputs(
        {"report": b"\0\2" + nodes.counted(world.document())}, {}, world.roots, world.now
    )
    assert (result.claims.platform, result.claims.authentic) == (Platform.AWS_NITRO, True)


@pytest.mark.parametrize(
    ("envelope", "blobs", "reason"),
    [
        ({}, {}, None),
        ({}, {"mr_config": b"another"}, "mr_config_mismatch"),
        ({"document": b""}, {}, "no_mr_config"),
        ({"document": nodes.MR_CONFIG + b" "}, {}, "mr_config_mismatch"),
        ({"algorithm": 2}, {}, "quote_not_authentic"),
    ],
)
def test_an_envelope_with_an_snp_report(envelope: dict[str, Any], blobs: dict[str, bytes], reason: str | None) -> None:
    """HOST_DATA is held to the document beside the report, or to the one that the caller has."""
    world = nodes.tinfoil_world()
    given = world.inputs(nodes.snp_envelope(world, **envelope))
    result = dstack_inputs.from_inputs({**given, **blobs}, {}, world.roots, amd.NOW)
    assert result.claims.platform is Platform.AMD_SEV_SNP
    assert reasons(result)["mr_config_bound"] == reason
    assert (contradicted(result) == ("mr_config_mismatch",)) is (reason == "mr_config_mismatch")


def test_an_envelope_needs_amds_certificates() -> None:
    """They are the caller's to give; an envelope that is cut short is the node's."""
    world = nodes.tinfoil_world()
    with pytest.raises(FormatError) as missing:
        dstack_inputs.from_inputs({"report": nodes.snp_envelope(world)}, {}, world.roots, amd.NOW)
    assert missing.value.reason == "input_missing"
    cut = dstack_inputs.from_inputs({"report": b"\0\3\1"}, {}, world.roots, amd.NOW)
    assert cut.claims.reject_code == "envelope_malformed"


# -- SecretVM


def secret(params: dict[str, Any] | None = None, **blobs: bytes) -> TeeResult:
    given = {"quote": nodes.secret_quote(), "compose": nodes.COMPOSE, "registry": nodes.registry(), **blobs}
    return secretvm_inputs.from_inputs(given, params or {}, nodes.roots(), NOW)


def test_a_secretvm() -> None:
    """Quote, workload by the registry, and accelerators that answered the quote's second half."""
    result = secret(collateral=nodes.collateral(), payload=nodes.gpus())
    assert {i: r for i, r in reasons(result).items() if r} == {}
    assert result.claims.authentic
    assert result.claims.raw["secretvm"]["workload"] == "authentic_match"
    assert reasons(secret(compose=b"x"))["compose_bound"] == "compose_mismatch"
    assert secret().claims.reject_code == "no_collateral"


def test_a_secretvm_without_anything_to_compare() -> None:
    """Without registry and compose text, what runs is not known."""
    blobs = {"quote": nodes.secret_quote()}
    result = secretvm_inputs.from_inputs(blobs, {"app_id": "00" * 20, "docker_files_sha256": None}, nodes.roots(), NOW)
    assert (reasons(result)["os_image"], reasons(result)["compose_bound"]) == ("no_reference", "no_app_compose")


@pytest.mark.parametrize(
    ("blobs", "params", "reason"),
    [
        ({}, {}, "input_missing"),
        ({"quote": b""}, {"app_id": "00"}, "param_malformed"),
        ({"quote": b""}, {"app_id": 7}, "param_malformed"),
        ({"quote": b""}, {"docker_files_sha256": "x"}, "param_malformed"),
    ],
)
def test_a_secretvms_inputs(blobs: dict[str, bytes], params: dict[str, Any], reason: str) -> None:
    """A missing quote and parameters of another form are errors of the caller."""
    with pytest.raises(FormatError) as refused:
        secretvm_inputs.from_inputs(blobs, params, nodes.roots(), NOW)
    assert refused.value.reason == reason


# -- Nitro with a history

PUBLISHER = nitro.ec_key("publisher")


def _entry(pcr0: str, **change: Any) -> dict[str, Any]:
    signature = base64.b64encode(nitro.sign_rs(PUBLISHER, pcr0.encode())).decode()
    return {"PCR0": pcr0, "PCR1": "00" * 48, "PCR2": "00" * 48, "signature": signature, **change}


def test_a_document_in_its_publishers_history() -> None:
    """The PCR0 is looked up among the signed entries; what is not signed is told apart."""
    world = nitro.World()
    pcr0 = nitro.default_pcrs()[0].hex()

    def look(history: bytes, document: bytes | None = None, key: Any = PUBLISHER) -> TeeResult:
        blobs = {
            "doc": world.document() if document is None else document,
            "history": history,
            "publisher_key": spki_der(key.public_key()),
        }
        return nitro_history.from_inputs(blobs, {}, world.roots, world.now)

    found = look(nodes.as_json([_entry(pcr0), _entry("11" * 48, signature=_entry(pcr0)["signature"])]))
    check = found.checks[-1]
    assert (check.id, check.outcome, check.reason) == ("pcr_history", Outcome.AFFIRMING, None)
    assert check.found == "PCR0 among 1 signed entries, 1 not signed by the publisher; its unsigned pcr1, pcr2 differ"
    assert (found.claims.golden[0].matched, found.claims.golden[0].mismatched) == (1, ("pcr1", "pcr2"))
    agreed = nodes.as_json(
        [_entry(pcr0, PCR1=nitro.default_pcrs()[1].hex(), PCR2=nitro.default_pcrs()[2].hex(), timestamp=1)]
    )
    assert look(agreed).checks[-1].found == "PCR0 among 1 signed entries"
    assert contradicted(look(nodes.as_json([_entry("11" * 48)]))) == ("pcr_history_no_entry",)
    assert contradicted(look(b"{}")) == ("pcr_history_malformed",)
    assert look(b"[]", key=ec.generate_private_key(ec.SECP256R1())).checks[-1].outcome is Outcome.CONTRAINDICATED
    assert look(b"[]", b"no document").checks[-1].reason == "document_not_authentic"
    for role in ("history", "publisher_key"):
        given = {name: b"" for name in ("doc", "history", "publisher_key") if name != role}
        with pytest.raises(FormatError) as missing:
            nitro_history.from_inputs(given, {}, world.roots, 0.0)
        assert missing.value.reason == "input_missing"


# -- tied


def test_a_result_is_tied_to_key_and_nonce() -> None:
    """A binding that rests on the nonce makes the evidence fresh; one that does not leaves it as it was."""
    result = appraise()
    inputs = BindingInputs(signing_key=nodes.KEY, nonce=nodes.NONCE)
    bound = tied(result, BindingRule.DSTACK, inputs).claims
    assert (bound.binding.status, bound.freshness.kind) == (BindingStatus.BOUND, FreshnessClass.CHALLENGE)
    plain = nodes.quote(nodes.KEY.ljust(64, b"\0"))
    quoted = appraise(nodes.report(intel_quote=plain.hex()))
    tapp = tied(quoted, BindingRule.ZERO_G_TAPP, inputs).claims
    assert (tapp.binding.status, tapp.freshness.kind) == (BindingStatus.BOUND, FreshnessClass.UNDATED)
    other = tied(result, BindingRule.DSTACK, BindingInputs(signing_key=b"\1" * 20, nonce=nodes.NONCE)).claims
    assert (other.binding.status, other.freshness.kind) == (BindingStatus.MISMATCH, FreshnessClass.UNDATED)
    assert violations(judge(other, BASELINE)) == ("test_root", "mismatch")


def test_the_digests_of_a_certificate() -> None:
    """Of DER and of PEM alike; anything else is refused."""
    pem, spki = nodes.certificate()
    der = base64.b64decode("".join(pem.splitlines()[1:-1]))
    assert certificate_digests(pem.encode()) == certificate_digests(der) == (hashlib.sha256(der).digest(), spki)
    for data in (b"", b"-----BEGIN NOTHING-----"):
        with pytest.raises(FormatError):
            certificate_digests(data)


# -- hostile bytes

QUICK = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@QUICK
@given(st.sampled_from(nodes.seeds()), st.data())
def test_whatever_a_node_writes_a_result_comes_back(seed: bytes, data: st.DataObject) -> None:
    """Cuts, insertions and flips of every kind of report give a result."""
    at, cut = data.draw(st.integers(1, len(seed))), data.draw(st.integers(0, 40))
    assert isinstance(nodes.run(seed[:at] + data.draw(st.binary(max_size=8)) + seed[at + cut :]), TeeResult)


@QUICK
@given(st.sampled_from("resth"), st.binary(max_size=300))
def test_random_bytes_are_no_report(kind: str, data: bytes) -> None:
    """Random bytes are never authentic; with a publisher's history in their place nothing is found in it."""
    result = nodes.run(kind.encode() + data)
    assert not result.claims.authentic or result.checks[-1].outcome is Outcome.CONTRAINDICATED


@QUICK
@given(st.integers(0, 48 + 584 - 1), st.integers(1, 255))
def test_no_signed_byte_of_a_quote_can_be_changed(at: int, mask: int) -> None:
    """Not even to a quote that would then lack only its collateral."""
    quote = nodes.quote()
    changed = quote[:at] + bytes([quote[at] ^ mask]) + quote[at + 1 :]
    claims = alone(changed).claims
    assert (claims.authentic, claims.reject_code == "no_collateral") == (False, False)


def test_the_seeds_reach_deep() -> None:
    """Each seed is genuine in its place."""
    results = [nodes.run(seed) for seed in nodes.seeds()]
    assert [r.claims.authentic or r.claims.reject_code == "no_collateral" for r in results[:3]] == [True] * 3
    assert results[4].claims.reject_code == "no_collateral"
    assert (results[5].claims.authentic, contradicted(results[5])) == (True, ())
    assert nvidia.NOW == NOW
