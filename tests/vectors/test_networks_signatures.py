"""Signatures, preimages and bindings against what the networks themselves published or sent."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import cbor2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from tee_worlds.keys import claims

from gateway.crypto.algorithms import Alg, verify
from gateway.crypto.certificates import load_pem_chain
from gateway.crypto.keccak import keccak256
from gateway.crypto.secp256k1 import address, eip191_digest, recover
from gateway.crypto.x509 import spki_sha256
from gateway.model.tee import BindingStatus, Platform
from gateway.verify.preimages import PreimageRule, preimage
from gateway.verify.signed_text import judge_signed_text, parse_signed_text
from gateway.verify.tee.bindings import BindingInputs, BindingRule, bind

FOLDER = Path(__file__).parents[2].parent / "shared/vectors"
NETWORKS, TEE, OPENGRADIENT = FOLDER / "networks", FOLDER / "tee", FOLDER / "opengradient"

pytestmark = pytest.mark.skipif(not NETWORKS.is_dir(), reason=f"the networks' vectors are not at {NETWORKS}")

BOUND, UNBOUND, MISMATCH = BindingStatus.BOUND, BindingStatus.UNBOUND, BindingStatus.MISMATCH
CHAT = "near-ai/signed-chat-2026-06-qwen35-3part"
OLD = "near-ai/signed-chat-2025-09-llama-inconsistent"
ALONE = "near-ai/signature-only-2025"


def load(path: str) -> Any:
    return json.loads((NETWORKS / path).read_bytes())


def manifest(name: str) -> dict[str, Any]:
    """What the collection's own manifest says of one vector."""
    (found,) = [v for v in load("manifest.json")["vectors"] if v["id"] == name]
    return found


def report_data(quote: bytes) -> bytes:
    """report_data of a TDX quote, version 4."""
    assert quote[:2] == b"\4\0"
    return quote[568:632]


# Signatures


def test_near_chat() -> None:
    """The captured stream: its three-part text follows from the wire bytes, and its address signed it."""
    expected = manifest(CHAT)
    assert expected["expected"]["response_evidence"] == "valid"
    request, response = ((NETWORKS / CHAT / name).read_bytes() for name in ("request.json", "response.sse"))
    signed = parse_signed_text((NETWORKS / CHAT / "signature.json").read_bytes())
    said = preimage(PreimageRule.NEAR, request, response, {"model": json.loads(request)["model"]})
    assert "0x" + signed.signer.hex() == expected["verified_by_us"]["eip191_recovers"]
    assert judge_signed_text(signed, said, signed.signer) is None
    assert response.endswith(b"\n\n")
    cut = preimage(PreimageRule.NEAR, request, response[:-1], {"model": json.loads(request)["model"]})
    assert judge_signed_text(signed, cut, signed.signer) == "response_hash_mismatch"
    other = preimage(PreimageRule.NEAR, request, response, {"model": "Qwen/Qwen3"})
    assert judge_signed_text(signed, other, signed.signer) == "model_mismatch"


def test_near_signature_alone() -> None:
    """A signature whose exchange is not there holds over its own text, and over no exchange."""
    assert manifest(ALONE)["expected"]["signature"] == "valid"
    signed = parse_signed_text((NETWORKS / ALONE / "signature.json").read_bytes())
    assert verify(signed.signer, signed.alg, signed.text.encode(), signed.signature)
    said = preimage(PreimageRule.DSTACK, b"", b"", {})
    assert judge_signed_text(signed, said, signed.signer) == "request_hash_mismatch"


@pytest.mark.parametrize("body", ["request.printed.json", "request.compact.json"])
def test_near_inconsistent_sample(body: str) -> None:
    """The published sample that does not verify: another address signed, and the request's hash is of no body shown."""
    expected = manifest(OLD)
    assert expected["expected"]["response_evidence"] == "invalid"
    signed = parse_signed_text((NETWORKS / OLD / "signature.json").read_bytes())
    assert not verify(signed.signer, signed.alg, signed.text.encode(), signed.signature)
    r, s = (int.from_bytes(signed.signature[i : i + 32], "big") for i in (0, 32))
    key = recover(eip191_digest(signed.text.encode()), (r, s), signed.signature[64] - 27)
    assert key is not None
    assert "0x" + (address(key) or b"").hex() == expected["verified_by_us"]["eip191_recovers"]
    request, response = ((NETWORKS / OLD / name).read_bytes() for name in (body, "response.sse"))
    said = preimage(PreimageRule.DSTACK, request, response, {})
    assert judge_signed_text(signed, said, signed.signer) == "request_hash_mismatch"
    assert signed.text.split(":")[1] == said.message.decode().split(":")[1]


def test_maple_pcr_history() -> None:
    """Every entry of the signed history holds over its PCR0 in hex, and over no other of its members."""
    entries = load("opensecret-maple/pcrProdHistory/pcrProdHistory.json")
    key = base64.b64decode((NETWORKS / "opensecret-maple/pcrProdHistory/public_key.b64").read_text())
    said = manifest("opensecret-maple/pcrProdHistory")["verified_by_us"]
    assert len(entries) == said["entries"] == said["valid"]
    for entry in entries:
        signature = base64.b64decode(entry["signature"])
        assert verify(key, Alg.ES384, entry["PCR0"].encode(), signature)
        assert not verify(key, Alg.ES384, entry["PCR1"].encode(), signature)


def test_aci_receipt() -> None:
    """The specification's receipt: its signed form follows from its request and response, and its key signed it."""
    spec = NETWORKS / "aci/spec-vectors"
    expected = json.loads((spec / "expected.json").read_bytes())
    request, response = ((spec / name).read_bytes().strip() for name in ("request.json", "response.json"))
    text = (spec / "receipt.json").read_text()
    said = preimage(PreimageRule.ACI, request, response, {"model": "demo-model", "receipt": text})
    assert said.message == (spec / "receipt_signing_input.json").read_bytes().strip()
    key = bytes.fromhex(expected["receipt_public_key_ed25519"])
    assert verify(key, Alg.ED25519, said.message, bytes.fromhex(json.loads(text)["signature"]))


def opengradient_cases(name: str) -> list[dict[str, Any]]:
    path = OPENGRADIENT / name
    return json.loads(path.read_bytes())["cases"] if path.is_file() else []


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c["name"]) for c in opengradient_cases("responses.json") if c.get("signed")]
)
def test_opengradient_keys_and_signatures(case: dict[str, Any]) -> None:
    """The tee id is Keccak-256 of the key; the PSS signature of an accepted response holds over its message hash."""
    spki = base64.b64decode(case["trusted"]["signing_key_spki_b64"])
    assert "0x" + keccak256(spki).hex() == case["trusted"]["tee_id"]
    raw, signed = base64.b64decode(case["response_raw_b64"]), case["signed"]
    found = re.findall(rb'"tee_signature": ?"([A-Za-z0-9+/=]{344})"', raw)
    if case["expect"]["strict"] == "accept":
        hashes = [bytes.fromhex(signed[k].removeprefix("0x")) for k in ("request_hash", "output_hash")]
        message = keccak256(b"".join(hashes) + int(signed["timestamp"]).to_bytes(32, "big"))
        assert verify(spki, Alg.PS256, message, base64.b64decode(found[-1]))
        assert not verify(spki, Alg.RS256, message, base64.b64decode(found[-1]))


# Bindings


def test_dstack_report_of_a_0g_node() -> None:
    """The captured quote is bound to its signing address and nonce, and to no other of either."""
    report = load("0g/llm-report-phala-vllm-proxy/llm_attestation_report.json")
    said = claims(report_data=report_data(bytes.fromhex(report["intel_quote"])).hex())
    key, nonce = bytes.fromhex(report["signing_address"][2:]), bytes.fromhex(report["request_nonce"])
    assert bind(BindingRule.DSTACK, said, BindingInputs(signing_key=key, nonce=nonce)).status is BOUND
    assert bind(BindingRule.DSTACK, said, BindingInputs(signing_key=key[::-1], nonce=nonce)).status is MISMATCH
    assert bind(BindingRule.DSTACK, said, BindingInputs(signing_key=key, nonce=nonce[::-1])).status is MISMATCH
    assert bind(BindingRule.ZERO_G_TAPP, said, BindingInputs(signing_key=key)).status is MISMATCH
    gpu = json.loads(report["nvidia_payload"])["nonce"]
    assert (
        bind(BindingRule.GPU_NONCE, claims(Platform.NVIDIA_GPU, nonce=gpu), BindingInputs(nonce=nonce)).status is BOUND
    )


def test_0g_broker() -> None:
    """The broker's quote is bound to its address as text, and has no room for a nonce."""
    report = load("0g/broker-report-dstack/broker_attestation_report.json")
    data = report_data(bytes.fromhex(report["quote"]))
    key = bytes.fromhex(manifest("0g/broker-report-dstack")["verified_by_us"]["ascii"][2:])
    said = claims(report_data=data.hex())
    assert bind(BindingRule.ZERO_G_ASCII, said, BindingInputs(signing_key=key)).status is BOUND
    assert bind(BindingRule.DSTACK, said, BindingInputs(signing_key=key, nonce=b"\1" * 32)).status is MISMATCH


def test_quotes_that_bind_nothing() -> None:
    """A filler is a mismatch, zeros are unbound, under every rule that reads report_data."""
    filler = bytes.fromhex(manifest("phala/vllm-proxy-sample-info-and-quote")["verified_by_us"]["tdx"]["report_data"])
    inputs = BindingInputs(
        signing_key=b"\1" * 20, nonce=b"\1" * 32, spki_sha256=b"\1" * 32, public_key=b"\1" * 31 + b"\2"
    )
    assert bind(BindingRule.DSTACK, claims(report_data=filler.hex()), inputs).status is MISMATCH
    assert bind(BindingRule.TINFOIL, claims(report_data=filler.hex()), inputs).status is MISMATCH
    assert manifest("openpcc/gce-tdx")["expected"]["key_binding"] == "none: report_data is zero"
    text = (NETWORKS / "openpcc/gce-tdx/gce_tdx_report.txt").read_text()
    quote = base64.b64decode(text.split("BEGIN REPORT-----")[1].split("-----END")[0])
    assert bind(BindingRule.DSTACK, claims(report_data=report_data(quote).hex()), inputs).status is UNBOUND


def test_tinfoil_router() -> None:
    """The captured report is bound to the certificate's key and to the HPKE key that the certificate names."""
    bundle = load("tinfoil/atc-bundle-router-2026-01/attestation-bundle.json")
    report = gzip.decompress(base64.b64decode(bundle["enclaveAttestationReport"]["body"]))
    certificate = load_pem_chain(bundle["enclaveCert"].encode())[0]

    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
        x509.DNSName
    )
    parts = sorted(n.split(".")[0] for n in names if n.endswith(".hpke.tinfoil.sh"))
    text = "".join(part[2:] for part in parts).upper()
    hpke = base64.b32decode(text + "=" * (-len(text) % 8))
    said = claims(Platform.AMD_SEV_SNP, report_data=report[0x50:0x90].hex())
    spki = spki_sha256(certificate.public_bytes(Encoding.DER))
    found = bind(BindingRule.TINFOIL, said, BindingInputs(spki_sha256=spki, public_key=hpke))
    assert (found.status, found.key_spki_sha256) == (BOUND, spki.hex())
    assert bind(BindingRule.TINFOIL, said, BindingInputs(spki_sha256=hpke, public_key=spki)).status is MISMATCH


def test_secret_gpu_link() -> None:
    """The captured CPU quote commits to the nonce of the captured GPU evidence, and to a channel that is not there."""
    cpu = claims(report_data=manifest("secret/secretai-tdx-and-gpu")["verified_by_us"]["tdx"]["report_data"])
    gpu = claims(Platform.NVIDIA_GPU, nonce=load("secret/secretai-tdx-and-gpu/gpu.json")["nonce"])
    assert bind(BindingRule.GPU_SECRETVM, gpu, BindingInputs(cpu=cpu)).status is BOUND
    assert bind(BindingRule.GPU_CHUTES, gpu, BindingInputs(cpu=cpu)).status is MISMATCH
    assert (
        bind(BindingRule.SECRETVM_GPU, cpu, BindingInputs(gpu_nonce=bytes.fromhex(gpu.nonce or ""))).status is UNBOUND
    )
    channel = bytes.fromhex((cpu.report_data or "")[:64])
    inputs = BindingInputs(spki_sha256=channel, gpu_nonce=bytes.fromhex(gpu.nonce or ""))
    assert bind(BindingRule.SECRETVM_GPU, cpu, inputs).status is BOUND
    assert bind(BindingRule.SECRETVM, cpu, inputs).status is MISMATCH


@pytest.mark.parametrize(("name", "how"), [("secret/tdx-workload", "tdx"), ("secret/snp-plain", None)])
def test_secret_without_gpu(name: str, how: str | None) -> None:
    """A machine without a GPU has a channel's digest and zeros."""
    said = manifest(name)["verified_by_us"]
    data = (said[how] if how else said)["report_data"]
    inputs = BindingInputs(spki_sha256=bytes.fromhex(data[:64]))
    assert bind(BindingRule.SECRETVM, claims(report_data=data), inputs).status is BOUND
    assert bind(BindingRule.TINFOIL, claims(report_data=data), inputs).status is UNBOUND


def test_nillion() -> None:
    """The captured report: a version byte, a digest, zeros."""
    data = load("nillion/snp-report-json-1/report.json")["report_data"]
    said, key = claims(Platform.AMD_SEV_SNP, report_data=data), bytes.fromhex(data[2:66])
    assert bind(BindingRule.NILCC, said, BindingInputs(spki_sha256=key)).status is BOUND
    assert bind(BindingRule.SECRETVM, said, BindingInputs(spki_sha256=key)).status is MISMATCH


@pytest.mark.parametrize(
    "name", ["opensecret-maple/nitro-attestation-2024-10", "marlin/nitro-2024-08", "marlin/nitro-2025-04-pcr16"]
)
def test_nitro_slots(name: str) -> None:
    """The captured documents are bound to the key in their public_key slot, and to a nonce where they have one."""
    said = manifest(name)["verified_by_us"]
    document = claims(Platform.AWS_NITRO, raw={k: said[k] for k in ("public_key", "user_data", "nonce")})
    key = bytes.fromhex(said["public_key"])
    assert bind(BindingRule.NITRO_PUBLIC_KEY, document, BindingInputs(public_key=key)).status is BOUND
    assert bind(BindingRule.NITRO_PUBLIC_KEY, document, BindingInputs(public_key=key[:-1])).status is MISMATCH
    uuid = bytes.fromhex(said["nonce"] or "00")
    both = bind(BindingRule.NITRO_PUBLIC_KEY_NONCE, document, BindingInputs(public_key=key, nonce=uuid))
    assert both.status is (BOUND if said["nonce"] else UNBOUND)


@pytest.mark.parametrize("case", [pytest.param(c, id=c["name"]) for c in opengradient_cases("attestation.json")])
def test_opengradient_user_data(case: dict[str, Any]) -> None:
    """Documents of another signing key or TLS certificate are a mismatch; the rest are bound, whatever else ails them."""
    payload = cbor2.loads(cbor2.loads(base64.b64decode(case["document_b64"]))[2])
    document = claims(
        Platform.AWS_NITRO, raw={"user_data": payload["user_data"].hex(), "nonce": payload["nonce"].hex()}
    )
    inputs = BindingInputs(
        certificate_sha256=hashlib.sha256(base64.b64decode(case["tls_cert_der_b64"])).digest(),
        signing_spki_sha256=hashlib.sha256(base64.b64decode(case["signing_key_spki_b64"])).digest(),
        nonce=bytes.fromhex(case["expected_nonce_hex"]),
    )
    foreign = case.get("reason") in ("signing_key_binding", "tls_binding")
    assert bind(BindingRule.OPENGRADIENT, document, inputs).status is (MISMATCH if foreign else BOUND)
    stale = case.get("reason") == "nonce_mismatch"
    assert bind(BindingRule.NITRO_NONCE, document, inputs).status is (MISMATCH if stale else BOUND)


def test_aci_statements() -> None:
    """The specification's report_data values are bound to its keyset digest, with and without the nonce."""
    expected = load("aci/spec-vectors/expected.json")
    digest, nonce = expected["workload_keyset_digest"], bytes(range(32))
    for rule, name in ((BindingRule.ACI, "report_data_nonce"), (BindingRule.ACI_NO_NONCE, "report_data_null")):
        said = claims(report_data=expected[name] + "00" * 32)
        assert bind(rule, said, BindingInputs(keyset_digest=digest, nonce=nonce)).status is BOUND
        assert bind(rule, said, BindingInputs(keyset_digest="sha256:" + "0" * 64, nonce=nonce)).status is MISMATCH


@pytest.mark.skipif(not TEE.is_dir(), reason=f"the TEE vectors are not at {TEE}")
@pytest.mark.parametrize(
    ("kind", "rule", "platform"),
    [
        ("azure_vtpm", BindingRule.VTPM, Platform.AZURE_VTPM),
        ("nvidia_spdm", BindingRule.GPU_NONCE, Platform.NVIDIA_GPU),
        ("nvidia_nras", BindingRule.GPU_NONCE, Platform.NVIDIA_GPU),
        ("gcs", BindingRule.GCS, Platform.GCP_CONFIDENTIAL_SPACE),
    ],
)
def test_nonces_of_the_tee_vectors(kind: str, rule: BindingRule, platform: Platform) -> None:
    """Authentic evidence with a nonce is bound to it, and to its audience, and not to another."""
    seen = 0
    for case in json.loads((TEE / kind / "manifest.json").read_bytes())["cases"]:
        said, params = case["expected"].get("claims") or {}, case.get("params") or {}
        nonce = said.get("eat_nonce") or params.get("nonce")
        if not case["expected"]["authentic"] or not nonce:
            continue
        names = ("extra_data", "eat_nonce", "aud")
        evidence = claims(platform, nonce=said.get("nonce"), raw={k: said[k] for k in names if k in said})
        inputs = BindingInputs(nonce=bytes.fromhex(nonce), audience=params.get("aud"))
        assert bind(rule, evidence, inputs).status is BOUND, case["id"]
        other = BindingInputs(nonce=bytes.fromhex(nonce)[::-1], audience=params.get("aud"))
        assert bind(rule, evidence, other).status is MISMATCH, case["id"]
        seen += 1
    assert seen
