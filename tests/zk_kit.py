"""Circuits and proofs for tests: a manifest that fits, files that fit it, and a Groth16 setup whose secrets are known."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from typing import Any

import pytest

from gateway.verify.proofs import field
from gateway.verify.proofs.zk_circuit import Circuit, hold_files
from gateway.verify.proofs.zk_manifest import Manifest, parse_manifest

VK, SRS = b"a verifying key", b"the first powers"
SETTINGS = json.dumps(
    {
        "run_args": {},
        "einsum_params": {},
        "model_input_scales": [7],
        "model_output_scales": [7],
        "input_types": ["F32"],
        "version": "23.0.5",
    }
).encode()
REQUEST = b'{"input_data":[[0.25,-0.5,0.75,1.0]]}'
RESPONSE = b'{"output":[[0.0,-0.03,0.15]],"id":"x"}'
INSTANCES = (32, field.R - 64, 96, 128, 0, field.R - 4, 19)
PROOF = bytes(range(16))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def ezkl_toml(vk: bytes = VK, settings: bytes = SETTINGS, powers: bytes = SRS, **changes: Any) -> str:
    """The manifest of a circuit with four inputs and three outputs; a change of None leaves the key out."""
    head: dict[str, Any] = {
        "id": f"sha256:{sha(vk)}", "system": "ezkl", "ezkl_version": "23.0.5", "proof_len": 16, "n_instances": 7,
        "vk_sha256": sha(vk), "settings_sha256": sha(settings), "srs": f"sha256:{sha(powers)}",
    }  # fmt: skip
    tables = {
        "inputs": [{"pointer": "/input_data/0", "offset": 0, "count": 4, "scale": 7, "visibility": "public"}],
        "outputs": [
            {
                "pointer": "/output/0",
                "offset": 4,
                "count": 3,
                "scale": 7,
                "tolerance": 0.0078125,
                "on_release": "compare",
            }
        ],
        "fixed": [],
    }
    for key, value in changes.items():
        (tables if key in tables else head)[key] = value
    lines = [f"{key} = {toml(value)}" for key, value in head.items() if value is not None]
    for name, entries in tables.items():
        for entry in entries:
            lines += [f"[[{name}]]", *(f"{key} = {toml(value)}" for key, value in entry.items())]
    return "\n".join(lines)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value) if isinstance(value, str) else str(value).lower()


def manifest(**changes: Any) -> Manifest:
    return parse_manifest("circuit.toml", ezkl_toml(**changes).encode())


def circuit(**changes: Any) -> Circuit:
    return hold_files(manifest(**changes), {"vk.key": VK, "settings.json": SETTINGS, "verifier.srs": SRS})


def proof_json(instances: tuple[int, ...] = INSTANCES, proof: bytes = PROOF, **changes: Any) -> bytes:
    document = {"instances": [[field.to_bytes(value).hex() for value in instances]], "proof": list(proof), **changes}
    return json.dumps(document).encode()


class Groth16:
    """A setup made from known scalars, so that a proof of any statement is one multiplication."""

    ALPHA, BETA, GAMMA, DELTA, IC = 3, 5, 7, 11, (13, 17)

    def __init__(self) -> None:
        limit = sys.getrecursionlimit()
        from py_ecc import optimized_bn128 as lib

        sys.setrecursionlimit(limit)  # py_ecc raises it, and deep input would then overflow the stack

        self.lib = lib

    def g1(self, scalar: int) -> tuple[int, int]:
        x, y = self.lib.normalize(self.lib.multiply(self.lib.G1, scalar % field.R))
        return int(x.n), int(y.n)

    def g2(self, scalar: int) -> tuple[tuple[int, int], tuple[int, int]]:
        x, y = self.lib.normalize(self.lib.multiply(self.lib.G2, scalar % field.R))
        return (int(x.coeffs[0]), int(x.coeffs[1])), (int(y.coeffs[0]), int(y.coeffs[1]))

    def key_document(self) -> dict[str, Any]:
        def text(value: Any) -> Any:
            return str(value) if isinstance(value, int) else [text(item) for item in value]

        points = {"alpha": self.g1(self.ALPHA), "beta": self.g2(self.BETA), "gamma": self.g2(self.GAMMA)}
        points |= {"delta": self.g2(self.DELTA)}
        return {name: text(point) for name, point in points.items()} | {"IC": [text(self.g1(n)) for n in self.IC]}

    def key(self) -> bytes:
        return json.dumps(self.key_document()).encode()

    def proof(self, public: int, a: int = 19, b: int = 23) -> bytes:
        total = self.IC[0] + public * self.IC[1]
        c = (a * b - self.ALPHA * self.BETA - total * self.GAMMA) * pow(self.DELTA, -1, field.R)
        (bx, by), (ax, ay), (cx, cy) = self.g2(b), self.g1(a), self.g1(c)
        return b"".join(n.to_bytes(32, "big") for n in (ax, ay, bx[1], bx[0], by[1], by[0], cx, cy))


def groth16_toml(key: bytes, **changes: Any) -> str:
    output = {"pointer": "/c", "offset": 0, "count": 1, "scale": 0, "tolerance": 0.0, "on_release": "compare"}
    own = {
        "system": "groth16-bn254", "ezkl_version": None, "settings_sha256": None, "srs": None, "proof_len": 256,
        "n_instances": 1, "inputs": [], "outputs": [output],
    }  # fmt: skip
    return ezkl_toml(vk=key, **{**own, **changes})


def need_py_ecc(module: str = "py_ecc") -> Any:
    """`module` of py_ecc, or the test is skipped. Its import raises the recursion limit; the one before is kept."""
    limit = sys.getrecursionlimit()
    found = pytest.importorskip(module, reason="py_ecc is not installed (extra zk)")
    sys.setrecursionlimit(limit)
    return found


def missing(package: str) -> bool:
    """Whether `package`, one of the extra [zk], is not installed."""
    return importlib.util.find_spec(package) is None


class Two(Groth16):
    """A setup with two public values: the request's number, and the answer's."""

    IC = (13, 17, 29)  # type: ignore[assignment]

    def prove(self, x: int, c: int) -> dict[str, Any]:
        # The sum that is proven is IC[0] + x * IC[1] + c * IC[2]; the kit's own has one public value.
        self_, zk_ = self.IC, field.R
        public = (x * self_[1] + c * self_[2]) * pow(self_[1], -1, zk_) % zk_
        return {"proof": self.proof(public).hex(), "public": [str(x), str(c)]}
