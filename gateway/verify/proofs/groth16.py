"""Groth16 over BN254: the check that RISC Zero, SP1 and circom proofs end in on Ethereum (EIP-196, EIP-197).

    e(A, B) = e(alpha, beta) * e(IC[0] + sum(x_i IC[i+1]), gamma) * e(C, delta)       (Groth 2016, section 3.2)

A proof is 256 bytes, eight coordinates of 32 bytes, most significant byte first:

    A.x A.y B.x.im B.x.re B.y.im B.y.re C.x C.y

Every coordinate is below the field's modulus, every point on its curve and not at infinity, and those of G2 in the
subgroup of order `R`: the twist has points outside it, over which the equation says nothing. The arithmetic is that of
py_ecc, which takes about 0.6 s and is loaded on first use.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import ConfigError, FormatError

from .field import R
from .zk_manifest import GROTH16_PROOF_LEN, MAX_INSTANCES

#: The modulus of the curve's base field.
Q = 21888242871839275222246405745257275088696311157297823662689037894645226208583
MAX_KEY = 4 * 1024 * 1024
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,76}")

G1 = tuple[int, int]
#: Each coordinate as (real, imaginary).
G2 = tuple[tuple[int, int], tuple[int, int]]


class Key(msgspec.Struct, frozen=True):
    """A verifying key, its coordinates below the modulus; `ic` has one point more than there are instances."""

    alpha: G1
    beta: G2
    gamma: G2
    delta: G2
    ic: tuple[G1, ...]


def parse_key(data: bytes) -> Key:
    """The key in `data`: JSON with alpha, beta, gamma, delta and IC, coordinates as decimal strings.

    Raises `FormatError` for any other members, shapes or spellings.
    """
    document = strict_json(data, max_bytes=MAX_KEY, max_depth=8)
    if not isinstance(document, dict) or document.keys() != {"alpha", "beta", "gamma", "delta", "IC"}:
        raise FormatError("a Groth16 key has alpha, beta, gamma, delta and IC, and nothing besides")
    points = document["IC"]
    if not isinstance(points, list) or not 2 <= len(points) <= MAX_INSTANCES + 1:
        raise FormatError("IC is a list of one point more than there are instances")
    beta, gamma, delta = (_g2(document[name]) for name in ("beta", "gamma", "delta"))
    return Key(_pair(document["alpha"]), beta, gamma, delta, tuple(map(_pair, points)))


def _g2(value: object) -> G2:
    if not isinstance(value, list) or len(value) != 2:
        raise FormatError("a point of G2 is two pairs of coordinates")
    return _pair(value[0]), _pair(value[1])


def _pair(value: object) -> tuple[int, int]:
    if not isinstance(value, list) or len(value) != 2:
        raise FormatError("a pair of coordinates has two members")
    return _coordinate(value[0]), _coordinate(value[1])


def _coordinate(text: object) -> int:
    if not isinstance(text, str) or _DECIMAL.fullmatch(text) is None or int(text) >= Q:
        raise FormatError("a coordinate is a decimal number below the modulus, as a string")
    return int(text)


def parse_points(proof: bytes) -> tuple[G1, G2, G1]:
    """The points A, B and C of `proof`. Raises `FormatError` for another length or a coordinate not below `Q`."""
    if len(proof) != GROTH16_PROOF_LEN:
        raise FormatError(f"a Groth16 proof over BN254 has {GROTH16_PROOF_LEN} bytes", reason="proof_length")
    at = [int.from_bytes(proof[start : start + 32], "big") for start in range(0, GROTH16_PROOF_LEN, 32)]
    if max(at) >= Q:
        raise FormatError("a coordinate of the proof is not below the modulus", reason="proof_malformed")
    return (at[0], at[1]), ((at[3], at[2]), (at[5], at[4])), (at[6], at[7])


def verify(key: Key, proof: bytes, instances: tuple[int, ...]) -> bool:
    """Whether `proof` holds under `key` for `instances`, in order. 0.6 s of CPU.

    Raises `FormatError` for a proof that is malformed, another number of instances than the key's, an instance not
    below `R`, or a point that is not in its group; `ConfigError` when py_ecc is not installed.
    """
    a, b, c = parse_points(proof)
    if len(instances) != len(key.ic) - 1:
        raise FormatError(f"the key is for {len(key.ic) - 1} instances", reason="instance_count")
    if not all(0 <= value < R for value in instances):
        raise FormatError("an instance is not below the field's order", reason="instance_not_canonical")
    return _Curve().holds(key, a, b, c, instances)


class _Curve:
    """py_ecc's curve, behind the four operations that are needed. Its types are loose, hence `Any`."""

    def __init__(self) -> None:
        limit = sys.getrecursionlimit()
        try:
            from py_ecc import optimized_bn128
        except ImportError:
            raise ConfigError("Groth16 proofs need py_ecc; install veriroute with the extra [zk]") from None
        finally:
            # Importing py_ecc raises the limit to 100,000, at which deep input would overflow the stack of the process.
            sys.setrecursionlimit(limit)
        self.lib: Any = optimized_bn128

    def holds(self, key: Key, a: G1, b: G2, c: G1, instances: tuple[int, ...]) -> bool:
        lib = self.lib
        total = self.g1(key.ic[0])
        for value, point in zip(instances, key.ic[1:], strict=True):
            total = lib.add(total, lib.multiply(self.g1(point), value))
        product = self.pair(self.g2(b), lib.neg(self.g1(a)))
        product *= self.pair(self.g2(key.beta), self.g1(key.alpha))
        product *= self.pair(self.g2(key.gamma), total)
        product *= self.pair(self.g2(key.delta), self.g1(c))
        return bool(lib.final_exponentiate(product) == lib.FQ12.one())

    def pair(self, g2: Any, g1: Any) -> Any:
        return self.lib.pairing(g2, g1, final_exponentiate=False)

    def g1(self, point: G1) -> Any:
        lib = self.lib
        found = (lib.FQ(point[0]), lib.FQ(point[1]), lib.FQ(1))
        if not lib.is_on_curve(found, lib.b):  # (0, 0), which stands for infinity elsewhere, is not
            raise FormatError("a point is not on the curve", reason="point_not_on_curve")
        return found

    def g2(self, point: G2) -> Any:
        lib = self.lib
        found = (lib.FQ2(list(point[0])), lib.FQ2(list(point[1])), lib.FQ2([1, 0]))
        if not lib.is_on_curve(found, lib.b2):
            raise FormatError("a point is not on the curve", reason="point_not_on_curve")
        if not lib.is_inf(lib.multiply(found, R)):
            raise FormatError("a point is not in the subgroup", reason="point_not_in_subgroup")
        return found
