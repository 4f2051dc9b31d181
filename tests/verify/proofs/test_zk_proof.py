"""Proofs as nodes hand them over, the instances that a request decides, and the verdict on an answer."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import pytest
import zk_kit
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError
from gateway.verify.proofs import field
from gateway.verify.proofs.zk import Ran, Statement, ZkResult, ZkVerdict, conclude, prepare
from gateway.verify.proofs.zk_instances import MAX_DOCUMENT, quantise
from gateway.verify.proofs.zk_manifest import Input, Manifest, Number, Visibility, parse_manifest
from gateway.verify.proofs.zk_proof import parse_proof

PASSED = Ran(ZkVerdict.PASS)
OUTPUT = {"pointer": "/output/0", "offset": 4, "count": 3, "scale": 7, "tolerance": 0.0078125, "on_release": "compare"}
PUBLIC_BOUND = {"pointer": "/input_data/0", "offset": 0, "count": 4, "scale": 7, "visibility": "public"}


def prepared(evidence: bytes | None = None, request: bytes = zk_kit.REQUEST, **changes: Any) -> Statement | ZkResult:
    return prepare(zk_kit.circuit(**changes), request, zk_kit.proof_json() if evidence is None else evidence)


def statement(**changes: Any) -> Statement:
    found = prepared(**changes)
    assert isinstance(found, Statement)
    return found


def reason(found: Statement | ZkResult) -> str | None:
    assert isinstance(found, ZkResult)
    assert found.verdict is ZkVerdict.FAIL
    assert found.response is None
    return found.reason


def test_a_proof_of_our_request_is_a_statement() -> None:
    """The statement has the proof's bytes, and instances whose inputs are those of the request."""
    found = statement()
    assert (found.proof, found.instances, found.hashed) == (zk_kit.PROOF, zk_kit.INSTANCES, ())


def test_what_nobody_checks_is_not_read() -> None:
    """Members beside `proof` and `instances` change neither the statement nor its identity."""
    lies = zk_kit.proof_json(
        pretty_public_inputs={"rescaled_outputs": [["9"]]}, hex_proof="0x00", version=7, timestamp=-1
    )
    assert prepared(lies) == prepared()


def test_the_identity_is_of_proof_and_instances() -> None:
    """Another proof byte or instance is another proof; the file's spelling is not."""
    base = statement().identity
    spaced = json.dumps(json.loads(zk_kit.proof_json()), indent=3).encode()
    assert base == statement(evidence=spaced).identity
    assert base != statement(evidence=zk_kit.proof_json(proof=bytes(16))).identity
    assert base != statement(evidence=zk_kit.proof_json((*zk_kit.INSTANCES[:-1], 20))).identity
    assert base.hex() == zk_kit.sha(zk_kit.PROOF + b"".join(n.to_bytes(32, "little") for n in zk_kit.INSTANCES))


def test_no_proof_is_absent() -> None:
    """An answer without a proof is told from one with a bad proof."""
    found = prepare(zk_kit.circuit(), zk_kit.REQUEST, None)
    assert isinstance(found, ZkResult)
    assert (found.verdict, found.reason) == (ZkVerdict.ABSENT, "proof_absent")


HEX = [field.to_bytes(value).hex() for value in zk_kit.INSTANCES]
BYTES = list(zk_kit.PROOF)


def raw(instances: object) -> bytes:
    return json.dumps({"instances": instances, "proof": BYTES}).encode()


REFUSED: dict[str, tuple[bytes, str]] = {
    "trailing byte": (zk_kit.proof_json(proof=zk_kit.PROOF + b"\0"), "proof_length"),
    "byte short": (zk_kit.proof_json(proof=zk_kit.PROOF[:-1]), "proof_length"),
    "instance more": (zk_kit.proof_json((*zk_kit.INSTANCES, 0)), "instance_count"),
    "instance less": (zk_kit.proof_json(zk_kit.INSTANCES[:-1]), "instance_count"),
    "not canonical": (zk_kit.proof_json((*zk_kit.INSTANCES[:-1], field.R)), "instance_not_canonical"),
    "upper-case hex": (raw([[*HEX[:-1], "AB" * 32]]), "proof_malformed"),
    "prefixed hex": (raw([[*HEX[:-1], "0x" + "00" * 31]]), "proof_malformed"),
    "instance is a number": (raw([[*HEX[:-1], 19]]), "proof_malformed"),
    "two lists": (raw([HEX, []]), "proof_malformed"),
    "no list of lists": (raw(HEX), "proof_malformed"),
    "no instances": (json.dumps({"proof": BYTES}).encode(), "proof_malformed"),
    "no proof": (json.dumps({"instances": [HEX]}).encode(), "proof_malformed"),
    "true for a byte": (json.dumps({"instances": [HEX], "proof": [True, *BYTES[1:]]}).encode(), "proof_malformed"),
    "float for a byte": (json.dumps({"instances": [HEX], "proof": [0.0, *BYTES[1:]]}).encode(), "proof_malformed"),
    "256 for a byte": (json.dumps({"instances": [HEX], "proof": [256, *BYTES[1:]]}).encode(), "proof_malformed"),
    "key twice": (zk_kit.proof_json()[:-1] + b', "proof": []}', "proof_malformed"),
    "not JSON": (b"{", "proof_malformed"),
    "not an object": (b"[]", "proof_malformed"),
    "nested deep": (zk_kit.proof_json()[:-1] + b', "x": ' + b"[" * 9 + b"]" * 9 + b"}", "proof_malformed"),
    "too large": (zk_kit.proof_json() + b" " * (65_536 + 160 * 7), "proof_oversize"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_malformed_proof_fails(case: str) -> None:
    """Each way to be malformed has its reason, before anything native sees the bytes."""
    evidence, expected = REFUSED[case]
    assert reason(prepared(evidence)) == expected


FUZZED = st.binary(max_size=120) | st.builds(
    lambda proof, instances: json.dumps({"proof": proof, "instances": instances}).encode(),
    st.lists(st.integers(-1, 256), max_size=18) | st.none(),
    st.lists(st.lists(st.text("0123456789abcdefg", min_size=60, max_size=66), max_size=8), max_size=2),
)


@given(FUZZED, FUZZED)
@settings(max_examples=300, deadline=None)
def test_any_bytes_end_in_a_verdict(evidence: bytes, request: bytes) -> None:
    """Nothing that a node or a caller sends raises."""
    found = prepared(evidence, request)
    assert isinstance(found, ZkResult)
    assert found.verdict is ZkVerdict.FAIL
    assert found.reason


@pytest.mark.parametrize(
    ("request_body", "expected"),
    [
        (zk_kit.REQUEST.replace(b"0.25", b"0.26"), "binding_failed"),
        (zk_kit.REQUEST.replace(b"-0.5", b"0.5"), "binding_failed"),
        (zk_kit.REQUEST.replace(b",1.0", b""), "input_unbindable"),
        (zk_kit.REQUEST.replace(b"1.0", b"1.0,2"), "input_unbindable"),
        (zk_kit.REQUEST.replace(b"1.0", b"true"), "input_unbindable"),
        (zk_kit.REQUEST.replace(b"1.0", b'"1"'), "input_unbindable"),
        (zk_kit.REQUEST.replace(b"1.0", b"1e300"), "input_unbindable"),
        (zk_kit.REQUEST.replace(b"1.0", b"9007199254740992"), "input_unbindable"),
        (b'{"input_data":1}', "input_unbindable"),
        (b"{", "input_unbindable"),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else value,
)
def test_a_proof_of_another_request_fails(request_body: bytes, expected: str) -> None:
    """The inputs are computed from the request that was sent, and must be the proof's."""
    assert reason(prepared(request=request_body)) == expected


def test_a_change_too_small_for_the_circuit_is_no_change() -> None:
    """Numbers that the circuit's scale does not tell apart have the same proof."""
    assert isinstance(prepared(request=zk_kit.REQUEST.replace(b"0.25", b"0.2501")), Statement)


def test_a_fixed_value_is_bound() -> None:
    """An instance that the manifest fixes is not the node's to choose."""
    fixed = [{"offset": 7, "value": "01" + "00" * 31}]
    held = statement(evidence=zk_kit.proof_json((*zk_kit.INSTANCES, 1)), n_instances=8, fixed=fixed)
    assert held.instances[7] == 1
    assert reason(prepared(zk_kit.proof_json((*zk_kit.INSTANCES, 2)), n_instances=8, fixed=fixed)) == "binding_failed"


def test_hashed_inputs_are_left_to_the_hash() -> None:
    """A hashed input is handed on as values; its instance is the worker's to check."""
    hashed = {
        "inputs": [{**PUBLIC_BOUND, "visibility": "hashed"}],
        "outputs": [{**OUTPUT, "offset": 1}],
        "n_instances": 4,
    }
    found = statement(evidence=zk_kit.proof_json((99, *zk_kit.INSTANCES[4:])), **hashed)
    assert [(entry.index, entry.values) for entry in found.hashed] == [(0, zk_kit.INSTANCES[:4])]


def test_private_inputs_bind_nothing() -> None:
    """A circuit without public inputs passes for any request, and its result says so."""
    private = {"inputs": [], "outputs": [{**OUTPUT, "offset": 0}], "n_instances": 3}
    found = statement(evidence=zk_kit.proof_json(zk_kit.INSTANCES[4:]), request=b"not JSON", **private)
    result = conclude(zk_kit.manifest(**private), found, PASSED, zk_kit.RESPONSE)
    assert result.verdict is ZkVerdict.PASS
    assert not result.inputs_bound


def entry(scale: int = 7, number: Number = Number.F64) -> Input:
    return Input("", 0, 1, scale, Visibility.PUBLIC, number)


@pytest.mark.parametrize(
    ("x", "scale", "number", "expected"),
    [
        (0.49999999999999994, 0, Number.F64, 0),
        (0.5, 0, Number.F64, 1),
        (-0.5, 0, Number.F64, -1),
        (2.5, 0, Number.F64, 3),
        (-2.5, 0, Number.F64, -3),
        (-0.0, 7, Number.F64, 0),
        (5.5 / 128 - 1e-12, 7, Number.F64, 5),
        (5.5 / 128 - 1e-12, 7, Number.F32, 6),  # nearest single: exactly 5.5 / 128
        (3, 30, Number.F32, 3 << 30),
        (-(2**23), 30, Number.F32, -(2**53)),
    ],
)
def test_rounding_is_the_circuits(x: float, scale: int, number: Number, expected: int) -> None:
    """Numbers are rounded to their width first, then half away from zero."""
    assert quantise(x, entry(scale, number)) == expected % field.R


@given(st.floats(-(2.0**20), 2.0**20), st.integers(0, 30))
@settings(max_examples=300)
def test_rounding_agrees_with_exact_arithmetic(x: float, scale: int) -> None:
    """The instance is floor(|x| 2**scale + 1/2) with the sign of x, as fractions compute it."""
    exact = math.floor(abs(Fraction(x)) * 2**scale + Fraction(1, 2))
    assert field.signed(quantise(x, entry(scale))) == (exact if x >= 0 else -exact)


def test_numbers_beyond_the_circuit_are_refused() -> None:
    """Neither a huge number nor one that is huge once scaled is an instance."""
    for x in (1e300, 2.0**53 + 2, 2.0**24):
        with pytest.raises(FormatError):
            quantise(x, entry(30))


def test_an_answer_within_tolerance_is_released_as_it_is() -> None:
    """In compare mode the bytes are the node's, when every number is near enough."""
    result = conclude(zk_kit.manifest(), statement(), PASSED, zk_kit.RESPONSE)
    assert (result.verdict, result.response, result.inputs_bound) == (ZkVerdict.PASS, zk_kit.RESPONSE, True)
    assert result.outputs == ((0.0, -0.03125, 0.1484375),)


def test_an_answer_is_replaced_by_what_was_proven() -> None:
    """In replace mode the proven numbers stand in the answer, whatever the node wrote there."""
    liar = b'{"output":[[9,9,9]],"id":"x"}'
    result = conclude(zk_kit.manifest(outputs=[{**OUTPUT, "on_release": "replace"}]), statement(), PASSED, liar)
    assert result.response == b'{"output":[[0.0,-0.03125,0.1484375]],"id":"x"}'


def test_a_single_number_stays_a_number() -> None:
    """One proven number replaces a bare number by a bare number, and a list of one by a list of one."""
    outputs = [
        {**OUTPUT, "pointer": "/a", "offset": 4, "count": 1, "on_release": "replace"},
        {**OUTPUT, "pointer": "/b", "offset": 5, "count": 1, "on_release": "replace"},
        {**OUTPUT, "pointer": "/c", "offset": 6, "count": 1},
    ]
    result = conclude(zk_kit.manifest(outputs=outputs), statement(), PASSED, b'{"a":5,"b":[5],"c":0.15}')
    assert result.response == b'{"a":0.0,"b":[-0.03125],"c":0.15}'


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (zk_kit.RESPONSE.replace(b"0.15", b"0.16"), "output_mismatch"),
        (zk_kit.RESPONSE.replace(b"-0.03", b"0.03"), "output_mismatch"),
        (zk_kit.RESPONSE.replace(b"0.15", b'"0.15"'), "output_absent"),
        (zk_kit.RESPONSE.replace(b",0.15", b""), "output_absent"),
        (b"{}", "output_absent"),
        (b'{"output":[[0.0,-0.03,0.15]],"output":0}', "response_malformed"),
        (b" " * (MAX_DOCUMENT + 1), "response_malformed"),
    ],
    ids=["beyond tolerance", "sign", "text", "one short", "absent", "two answers", "too large"],
)
def test_an_answer_that_is_not_what_was_proven_fails(response: bytes, expected: str) -> None:
    """An answer whose numbers are missing or others than the proven ones is not released."""
    result = conclude(zk_kit.manifest(), statement(), PASSED, response)
    assert reason(result) == expected
    assert result.identity == statement().identity


def test_an_output_beyond_a_double_fails() -> None:
    """A proven number that no double holds exactly is not rounded for anyone."""
    huge = statement(evidence=zk_kit.proof_json((*zk_kit.INSTANCES[:-1], 2**60)))
    assert reason(conclude(zk_kit.manifest(), huge, PASSED, zk_kit.RESPONSE)) == "output_out_of_range"


@pytest.mark.parametrize(
    "ran", [Ran(ZkVerdict.FAIL, "proof_rejected"), Ran(ZkVerdict.INCONCLUSIVE, "verifier_timeout")]
)
def test_without_a_pass_nothing_is_released(ran: Ran) -> None:
    """The proof system's verdict stands, and there is no body."""
    result = conclude(zk_kit.manifest(), statement(), ran, zk_kit.RESPONSE)
    assert (result.verdict, result.reason, result.response) == (ran.verdict, ran.reason, None)


def groth16_manifest() -> Manifest:
    return parse_manifest("m", zk_kit.groth16_toml(b"{}").encode())


def groth16_json(**changes: Any) -> bytes:
    return json.dumps({"proof": "ab" * 256, "public": ["12"], **changes}).encode()


def test_a_groth16_proof_parses() -> None:
    """Its proof is hex, its instances are decimal."""
    found = parse_proof(groth16_manifest(), groth16_json())
    assert (found.proof, found.instances) == (b"\xab" * 256, (12,))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"proof": "AB" * 256}, "proof_malformed"),
        ({"proof": "abc"}, "proof_malformed"),
        ({"proof": 1}, "proof_malformed"),
        ({"proof": "ab" * 257}, "proof_length"),
        ({"public": "12"}, "proof_malformed"),
        ({"public": [12]}, "proof_malformed"),
        ({"public": ["012"]}, "proof_malformed"),
        ({"public": ["-1"]}, "proof_malformed"),
        ({"public": ["1" * 78]}, "proof_malformed"),
        ({"public": ["12", "13"]}, "instance_count"),
        ({"public": [str(field.R)]}, "instance_not_canonical"),
        ({"note": 1}, "proof_malformed"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_malformed_groth16_proof_fails(changes: dict[str, Any], expected: str) -> None:
    """Other spellings, lengths and members are refused."""
    with pytest.raises(FormatError) as caught:
        parse_proof(groth16_manifest(), groth16_json(**changes))
    assert caught.value.reason == expected
