"""What a node hands over as a proof, parsed; and the name by which a proof is known.

Of ezkl's proof.json two members are read: `proof`, a list of byte values, and `instances`, a list of one list of hex.
`pretty_public_inputs` (numbers for people), `hex_proof`, `version` and `timestamp` are written by the node and checked
by nobody: a proof verifies whatever they say, so nothing here reads them. A proof also verifies with bytes appended,
so its length is pinned, and its name is a hash of the part that counts:

    identity = SHA-256(proof[:proof_len] || instances, 32 bytes each, least significant byte first)

A Groth16 proof comes as `{"proof": 512 hex digits, "public": decimal strings}`, and nothing besides.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError

from . import field
from .zk_manifest import Manifest, System

MAX_PROOF = 64 * 1024
MAX_PER_INSTANCE = 160
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,76}")
_HEX = re.compile(r"(?:[0-9a-f]{2})+")
_BYTES = frozenset(range(256))


class ZkProof(msgspec.Struct, frozen=True):
    """A well-formed proof: exactly the pinned number of bytes and of instances, each below the field's order."""

    proof: bytes
    instances: tuple[int, ...]

    @property
    def identity(self) -> bytes:
        """The SHA-256 by which the proof is known, for records and for finding one that was seen before."""
        return hashlib.sha256(self.proof + b"".join(map(field.to_bytes, self.instances))).digest()


def parse_proof(manifest: Manifest, data: bytes) -> ZkProof:
    """The proof in `data`. Raises `FormatError` with the reason proof_oversize, proof_malformed, proof_length,
    instance_count or instance_not_canonical.
    """
    limit = MAX_PROOF + MAX_PER_INSTANCE * manifest.n_instances
    if len(data) > limit:
        raise FormatError(f"a proof of this circuit has at most {limit} bytes", reason="proof_oversize")
    try:
        document = strict_json(data, max_bytes=limit, max_depth=8)
    except FormatError as error:
        raise FormatError(error.message, reason="proof_malformed") from None
    if not isinstance(document, dict):
        raise _malformed("a proof is a JSON object")
    found = _ezkl(document) if manifest.system is System.EZKL else _groth16(document)
    if len(found.proof) != manifest.proof_len:
        raise FormatError(f"a proof of this circuit has {manifest.proof_len} bytes", reason="proof_length")
    if len(found.instances) != manifest.n_instances:
        raise FormatError(f"the circuit has {manifest.n_instances} instances", reason="instance_count")
    return found


def _ezkl(document: dict[str, object]) -> ZkProof:
    proof, instances = document.get("proof"), document.get("instances")
    # `True` is an int to Python, and a float may be whole. By sets, which take a third of a loop's time: this runs on
    # the event loop.
    if not isinstance(proof, list) or set(map(type, proof)) - {int} or not _BYTES.issuperset(proof):
        raise _malformed("`proof` is a list of byte values")
    if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], list):
        raise _malformed("`instances` is a list of one list")
    return ZkProof(bytes(proof), tuple(map(field.from_hex, instances[0])))


def _groth16(document: dict[str, object]) -> ZkProof:
    proof, public = document.get("proof"), document.get("public")
    if document.keys() != {"proof", "public"} or not isinstance(proof, str) or _HEX.fullmatch(proof) is None:
        raise _malformed("a Groth16 proof has `proof` in lower-case hex, `public`, and nothing besides")
    if not isinstance(public, list):
        raise _malformed("`public` is a list")
    return ZkProof(bytes.fromhex(proof), tuple(map(_decimal, public)))


def _decimal(text: object) -> int:
    if not isinstance(text, str) or _DECIMAL.fullmatch(text) is None:
        raise _malformed("a public value is a decimal number, as a string")
    value = int(text)
    if value >= field.R:
        raise FormatError("an instance is not below the field's order", reason="instance_not_canonical")
    return value


def _malformed(message: str) -> FormatError:
    return FormatError(message, reason="proof_malformed")
