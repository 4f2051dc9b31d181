"""The node's TOPLOC encoder against proofs that other implementations made, read beside the repository."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from adapters.selfhosted.lm.toploc import TOP_K, Batch, P, prove

VECTORS = Path(__file__).parents[2].parent / "shared/vectors/proofs/toploc/vectors.json"
pytestmark = pytest.mark.skipif(
    not VECTORS.is_file(), reason="the proof vectors are not beside this checkout (../shared/vectors/proofs)"
)
CASES = (
    json.loads(VECTORS.read_text("utf-8"))
    if VECTORS.is_file()
    else {"vectors": [], "library_format": {"proofs_b64": []}}
)


def stated(proof: bytes, indices: list[int]) -> list[int]:
    """The bits that a proof states for these places, by its definition."""
    modulus, *coefficients = (int.from_bytes(proof[i : i + 2], "big") for i in range(0, len(proof), 2))
    return [sum(c * pow(i % modulus, k, P) for k, c in enumerate(coefficients)) % P for i in indices]


def compared(proof: bytes, case: dict) -> dict:
    """The figures of the vectors: exponents that differ, mantissas of the others, signs."""
    pairs = list(zip(stated(proof, case["verifier_indices"]), case["verifier_bf16_bits"], strict=True))
    errors = sorted(abs((a & 0x7F) - (b & 0x7F)) for a, b in pairs if a >> 7 & 0xFF == b >> 7 & 0xFF)
    return {
        "exp_mismatches": sum(a >> 7 & 0xFF != b >> 7 & 0xFF for a, b in pairs),
        "mant_err_mean": sum(errors) / len(errors),
        "sign_mismatches": sum(a >> 15 != b >> 15 for a, b in pairs),
    }


@pytest.mark.parametrize("case", CASES["vectors"], ids=lambda case: case["prover"])
def test_the_same_polynomial(case: dict) -> None:
    """From the points that a proof goes through, the encoder makes that proof, byte for byte."""
    proof = bytes.fromhex(case["proof_hex"])
    points = case["verifier_indices"]
    assert len(points) == TOP_K
    assert prove(Batch(tuple(points), tuple(stated(proof, points)))) == proof
    assert prove(Batch(tuple(reversed(points)), tuple(stated(proof, points[::-1])))) == proof


@pytest.mark.parametrize("case", CASES["vectors"], ids=lambda case: case["prover"])
def test_an_own_proof_is_judged_alike(case: dict) -> None:
    """A proof of the verifier's own values differs from them in nothing, and the vector's proof as the vector says."""
    own = prove(Batch(tuple(case["verifier_indices"]), tuple(case["verifier_bf16_bits"])))
    assert compared(own, case) == {"exp_mismatches": 0, "mant_err_mean": 0, "sign_mismatches": 0}
    found = compared(bytes.fromhex(case["proof_hex"]), case)
    assert found == pytest.approx({name: case["expect"][name] for name in found})


@pytest.mark.parametrize("proof", [base64.b64decode(p) for p in CASES["library_format"]["proofs_b64"]], ids=bytes.hex)
def test_proofs_of_the_library(proof: bytes) -> None:
    """Proofs in the published library's documentation are made again from four of their points."""
    points = [3, 70, 4000, 60000]
    assert prove(Batch(tuple(points), tuple(stated(proof, points)))) == proof
