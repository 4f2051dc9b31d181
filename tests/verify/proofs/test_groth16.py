"""Groth16 over BN254: the equation, and every point that must not get that far."""

from __future__ import annotations

import builtins
import json
import sys
from typing import Any

import pytest
import zk_kit
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigError, FormatError, PolicyError
from gateway.verify.proofs import field, groth16
from gateway.verify.proofs.zk_circuit import hold_files
from gateway.verify.proofs.zk_manifest import parse_manifest

zk_kit.need_py_ecc()


@pytest.fixture(scope="module")
def world() -> zk_kit.Groth16:
    return zk_kit.Groth16()


@pytest.fixture(scope="module")
def key(world: zk_kit.Groth16) -> groth16.Key:
    return groth16.parse_key(world.key())


def test_a_proof_holds_for_its_statement_alone(world: zk_kit.Groth16, key: groth16.Key) -> None:
    """A proof of 12 is no proof of 13, nor of 12 with another A."""
    proof = world.proof(12)
    assert groth16.verify(key, proof, (12,))
    assert not groth16.verify(key, proof, (13,))
    assert not groth16.verify(key, world.proof(12, a=20)[:64] + proof[64:], (12,))


def test_two_proofs_of_one_statement_hold(world: zk_kit.Groth16, key: groth16.Key) -> None:
    """A statement has many proofs: a proof is no name for it."""
    assert groth16.verify(key, world.proof(12, a=2, b=3), (12,))


def test_instances_may_add_up_to_infinity(world: zk_kit.Groth16, key: groth16.Key) -> None:
    """A statement whose combined point is the neutral element is a statement like any other."""
    public = -world.IC[0] * pow(world.IC[1], -1, field.R) % field.R
    assert groth16.verify(key, world.proof(public), (public,))
    assert not groth16.verify(key, world.proof(public), (public - 1,))


def test_loading_the_library_leaves_the_recursion_limit(world: zk_kit.Groth16, key: groth16.Key) -> None:
    """py_ecc raises the limit when it is first imported; here it is put back."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "py_ecc"]:
        del sys.modules[name]
    sys.setrecursionlimit(before := 1000)
    groth16.verify(key, world.proof(1), (2,))
    assert sys.getrecursionlimit() == before


def words(proof: bytes, **at: int) -> bytes:
    """`proof` with the coordinates named w0 to w7 set."""
    found = [proof[start : start + 32] for start in range(0, 256, 32)]
    for name, value in at.items():
        found[int(name[1:])] = value.to_bytes(32, "big")
    return b"".join(found)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"w0": 1, "w1": 1}, "point_not_on_curve"),
        ({"w0": 0, "w1": 0}, "point_not_on_curve"),
        ({"w2": 1}, "point_not_on_curve"),
        ({"w2": 0, "w3": 0, "w4": 0, "w5": 0}, "point_not_on_curve"),
        ({"w6": 5, "w7": 5}, "point_not_on_curve"),
        ({"w0": groth16.Q + 1}, "proof_malformed"),
        ({"w7": 2**256 - 1}, "proof_malformed"),
    ],
    ids=str,
)
def test_a_point_elsewhere_is_refused(world: zk_kit.Groth16, key: groth16.Key, change: dict[str, int], expected: str) -> None:  # fmt: skip
    """Points off the curve, at infinity, or spelled with a coordinate past the modulus are refused."""
    with pytest.raises(FormatError) as caught:
        groth16.verify(key, words(world.proof(12), **change), (12,))
    assert caught.value.reason == expected


def square_root(lib: Any, value: Any) -> Any:
    """A root of `value` in GF(Q^2), or None; Q is 3 modulo 4 (Adj and Rodriguez-Henriquez, algorithm 9)."""
    one = lib.FQ2([1, 0])
    a1 = value ** ((groth16.Q - 3) // 4)
    x0 = a1 * value
    alpha = a1 * x0
    minus = lib.FQ2([groth16.Q - 1, 0])
    root = lib.FQ2([0, 1]) * x0 if alpha == minus else (one + alpha) ** ((groth16.Q - 1) // 2) * x0
    return root if root * root == value else None


def outside(lib: Any) -> tuple[int, int, int, int]:
    """A point of the twist that is not in the subgroup: nearly every one."""
    for n in range(1, 50):
        x = lib.FQ2([n, 1])
        y = square_root(lib, x * x * x + lib.b2)
        if y is not None and not lib.is_inf(lib.multiply((x, y, lib.FQ2([1, 0])), field.R)):
            return tuple(int(c) for c in (x.coeffs[1], x.coeffs[0], y.coeffs[1], y.coeffs[0]))  # type: ignore[return-value]
    raise AssertionError("no such point among the first fifty")


def test_a_point_outside_the_subgroup_is_refused(world: zk_kit.Groth16, key: groth16.Key) -> None:
    """A point on the twist, and not in the group that the pairing is about, is refused."""
    at = dict(zip(("w2", "w3", "w4", "w5"), outside(world.lib), strict=True))
    with pytest.raises(FormatError) as caught:
        groth16.verify(key, words(world.proof(12), **at), (12,))
    assert caught.value.reason == "point_not_in_subgroup"


@pytest.mark.parametrize(
    ("proof", "instances", "expected"),
    [
        (bytes(255), (12,), "proof_length"),
        (bytes(257), (12,), "proof_length"),
        (bytes(256), (), "instance_count"),
        (bytes(256), (1, 2), "instance_count"),
        (bytes(256), (field.R,), "instance_not_canonical"),
        (bytes(256), (-1,), "instance_not_canonical"),
    ],
    ids=["short", "long", "none", "two", "not canonical", "negative"],
)
def test_a_statement_of_another_shape_is_refused(
    key: groth16.Key, proof: bytes, instances: tuple[int, ...], expected: str
) -> None:
    """Length, count and range are looked at before any arithmetic."""
    with pytest.raises(FormatError) as caught:
        groth16.verify(key, proof, instances)
    assert caught.value.reason == expected


@given(st.binary(min_size=250, max_size=260), st.binary(max_size=100))
@settings(max_examples=300)
def test_any_bytes_are_points_or_refused(proof: bytes, document: bytes) -> None:
    """The readers of proofs and keys raise `FormatError` and nothing else."""
    try:
        a, b, c = groth16.parse_points(proof)
    except FormatError:
        pass
    else:
        assert all(n < groth16.Q for n in (*a, *b[0], *b[1], *c))
    with pytest.raises(FormatError):
        groth16.parse_key(document)


@pytest.mark.parametrize(
    "change",
    [
        {"alpha": ["1"]},
        {"alpha": ["1", 2]},
        {"alpha": ["1", "02"]},
        {"alpha": ["1", str(groth16.Q)]},
        {"beta": ["1", "2"]},
        {"gamma": [["1", "2"]]},
        {"IC": []},
        {"IC": [["1", "2"]]},
        {"IC": {}},
        {"more": 1},
        {"delta": None},
    ],
    ids=str,
)
def test_a_malformed_key_is_refused(world: zk_kit.Groth16, change: dict[str, Any]) -> None:
    """A key has its five members, in one spelling, and nothing else."""
    with pytest.raises(FormatError):
        groth16.parse_key(json.dumps({**world.key_document(), **change}).encode())


def test_a_key_is_pinned_with_its_circuit(world: zk_kit.Groth16) -> None:
    """The circuit's key is the one whose hash is its id, well formed and for its number of instances."""
    data = world.key()
    manifest = parse_manifest("m", zk_kit.groth16_toml(data).encode())
    assert hold_files(manifest, {"vk.json": data}).vk == data
    outputs = [{"pointer": "/c", "offset": 0, "count": 2, "scale": 0, "tolerance": 0.0, "on_release": "compare"}]
    for other, changes in ((b"{}", {}), (data, {"n_instances": 2, "outputs": outputs})):
        with pytest.raises(PolicyError) as caught:
            hold_files(parse_manifest("m", zk_kit.groth16_toml(other, **changes).encode()), {"vk.json": other})
        assert caught.value.key == "vk.json"


def test_without_the_library_it_says_what_to_install(
    world: zk_kit.Groth16, key: groth16.Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra, a proof is not judged; the error names the extra."""
    proof = world.proof(12)
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "py_ecc":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"\[zk\]"):
        groth16.verify(key, proof, (12,))
