"""GPU evidence that the networks' nodes gave: what the shared network vectors expect, as far as public keys allow."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from tee_worlds.nvidia_vectors import SHARED

from gateway.crypto.jose import read_compact
from gateway.model.tee import Platform
from gateway.verify.tee.nras import verify_nras
from gateway.verify.tee.nvidia_payload import verify_payload
from gateway.verify.tee.roots import VENDOR_ROOTS

NETWORKS = SHARED / "networks"
if not NETWORKS.exists():
    pytest.skip("the shared vectors are not beside this checkout (networks)", allow_module_level=True)
NOW = 1776000000.0
OG = NETWORKS / "0g/llm-report-phala-vllm-proxy/llm_attestation_report.json"
SECRET = NETWORKS / "secret/secretai-tdx-and-gpu"
FOREIGN = NETWORKS / "dstack/mutant-foreign-gpu-evidence/report.json"


def test_the_gpus_of_a_vllm_proxy_report() -> None:
    """Every device of the report is genuine and answered the nonce of the request."""
    report = json.loads(OG.read_text())
    nonce = bytes.fromhex(report["request_nonce"])
    result = verify_payload(report["nvidia_payload"].encode(), roots=VENDOR_ROOTS, now=NOW, nonce=nonce)
    assert result.claims.authentic, result.checks
    assert len(result.claims.children) == len(json.loads(report["nvidia_payload"])["evidence_list"])
    assert {child.platform for child in result.claims.children} == {Platform.NVIDIA_GPU}


def test_the_gpu_that_a_cpu_quote_commits_to() -> None:
    """SecretVM's GPU answered the second half of the CPU quote's report data."""
    quote = bytes.fromhex((SECRET / "cpu.txt").read_text().strip())
    committed = quote[48 + 520 + 32 : 48 + 520 + 64]
    payload = (SECRET / "gpu.json").read_bytes()
    result = verify_payload(payload, roots=VENDOR_ROOTS, now=NOW, nonce=committed)
    assert result.claims.authentic, result.checks
    assert result.claims.machine_id_kind == "device_key"


def test_the_json_nonce_is_not_the_signed_nonce() -> None:
    """Another network's genuine GPU, with the JSON nonce set to look right, is refused for the nonce that was signed."""
    report = json.loads(FOREIGN.read_text())
    payload = report["nvidia_payload"].encode()
    assert json.loads(payload)["nonce"] == report["request_nonce"]
    nonce = bytes.fromhex(report["request_nonce"])
    assert verify_payload(payload, roots=VENDOR_ROOTS, now=NOW, nonce=nonce).claims.reject_code == "nonce_mismatch"
    assert verify_payload(payload, roots=VENDOR_ROOTS, now=NOW).claims.authentic


@pytest.mark.parametrize("name", ["near-ai/nras-eat-2025-08", "phala/nras-sample-response"])
def test_an_nras_answer_whose_keys_are_gone(name: str) -> None:
    """The digests of the parts hold, and without the key of that day the bundle is refused, not believed."""
    bundle = (NETWORKS / name / "nras_response.json").read_bytes()
    (_, overall), devices = json.loads(bundle)
    claims = read_compact(overall.encode(), algs=("ES384",)).claims
    stated = {
        device: ["DIGEST", ["SHA-256", hashlib.sha256(text.encode()).hexdigest()]] for device, text in devices.items()
    }
    assert claims["submods"] == stated
    found = verify_nras(bundle, b'{"keys":[]}', roots=VENDOR_ROOTS, now=float(claims["iat"]) + 60)  # type: ignore[arg-type]
    assert found.claims.reject_code == "jwt_unknown_kid"


def test_the_vectors_are_where_they_are_expected() -> None:
    """The files that this module reads are there once the folder is."""
    assert all(isinstance(path, Path) and path.exists() for path in (OG, SECRET, FOREIGN))
