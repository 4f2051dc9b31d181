"""Tensors and the layout of ABI data: exact numbers, one spelling, and no offset that is followed."""

from __future__ import annotations

import contextlib
import copy
from decimal import Decimal
from typing import Any

import og_ml_kit as kit
import pytest
from eth_abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FormatError
from gateway.verify.opengradient import tensors
from gateway.verify.opengradient.abi_layout import Record, Sequence, check_layout, spelled
from gateway.verify.opengradient.tensors import Number, input_of, output_digest, output_from_json, output_of

KINDS = ("string", tensors.INPUT)
GOOD = bytes(encode(["string", kit.INPUT], [kit.MODEL, kit.GIVEN]))


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def test_types_are_spelled_as_in_a_signature() -> None:
    """Input and output read as the contract declares them."""
    assert (spelled(tensors.INPUT), spelled(tensors.OUTPUT)) == (kit.INPUT, kit.OUTPUT)


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0, 0, "0"),
        (25, 2, "0.25"),
        (-1, 3, "-0.001"),
        (-150, 2, "-1.50"),
        (12345, 4, "1.2345"),
        (2**127 - 1, 0, "170141183460469231731687303715884105727"),
        (-(2**127), 38, "-1.70141183460469231731687303715884105728"),
        (1, 400, "0." + "0" * 399 + "1"),
    ],
)
def test_numbers_keep_every_digit(value: int, decimals: int, text: str) -> None:
    """The text of a number is its exact value, not a float's."""
    assert str(Number(value, decimals)) == text


@settings(max_examples=300, deadline=None)
@given(st.integers(-(2**127), 2**127 - 1), st.integers(0, 400))
def test_a_number_is_what_decimal_makes_of_it(value: int, decimals: int) -> None:
    """For every number the text has the value that `decimal` computes."""
    assert Decimal(str(Number(value, decimals))) == Decimal(
        (int(value < 0), tuple(map(int, str(abs(value)))), -decimals)
    )


@pytest.mark.parametrize(
    ("numbers", "reason"),
    [
        ([("x", [(1, -1)], [1])], "decimals_range"),
        ([("x", [(1, 401)], [1])], "decimals_range"),
        ([("x", [(1, 2**127 - 1)], [1])], "decimals_range"),
        ([("x", [(1, 0)], [2])], "shape_mismatch"),
        ([("x", [], [])], "shape_mismatch"),
        ([("x", [(1, 0)], [1] * 33)], "shape_mismatch"),
        ([("x", [], [2**32 - 1] * 3)], "shape_mismatch"),
        ([("x", [(1, 0)], [1]), ("x", [(2, 0)], [1])], "tensor_repeated"),
        ([("n" * 2049, [(1, 0)], [1])], "field_too_long"),
    ],
)
def test_tensors_that_cannot_be_are_refused(numbers: Any, reason: str) -> None:
    """Decimals out of range, values that do not fit the shape, and names used twice each have their reason."""
    for read in (lambda: input_of((numbers, [])), lambda: output_of((numbers, [], [], False))):
        with pytest.raises(FormatError) as caught:
            read()
        assert caught.value.reason == reason


@pytest.mark.parametrize(
    "fields",
    [
        ([], [("a", []), ("a", [])], [], False),
        ([("a", [(1, 0)], [])], [("a", ["t"])], [], False),
        ([], [("a", [])], [("a", "1")], False),
    ],
)
def test_names_are_distinct_over_all_kinds(fields: Any) -> None:
    """A string tensor cannot take the name of a number tensor, nor a JSON tensor that of either."""
    with pytest.raises(FormatError, match="same name"):
        output_of(fields)


@pytest.mark.parametrize("value", ["", "{", '{"a":1,"a":2}', "[" * 40 + "]" * 40, "NaN", "1 2"])
def test_json_tensors_are_strict_json(value: str) -> None:
    """A JSON tensor that two readers could read in two ways is malformed."""
    with pytest.raises(FormatError):
        output_of(([], [], [("j", value)], False))


def test_a_scalar_and_an_empty_tensor() -> None:
    """No dimensions are one value, and a dimension of zero is none."""
    found = output_of(([("s", ((5, 1),), ()), ("e", (), (0, 3))], (), (), False))
    assert [len(tensor.values) for tensor in found.numbers] == [1, 0]
    assert not found.empty
    assert output_of(kit.NOTHING).empty


def test_a_document_s_output_is_the_chain_s() -> None:
    """The same tensors from ABI and from JSON have one digest, and each changed part has another."""
    from_chain = output_of(kit.MADE)
    assert output_digest(output_from_json(kit.model_output())) == output_digest(from_chain)
    assert output_digest(from_chain) == "keccak256:" + kit.keccak(encode([kit.OUTPUT], [kit.MADE])).hex()
    for place, changed in enumerate((([("y", [(15, 1)], [1])]), [("label", ["dog"])], [("about", '{"p":0.5}')], True)):
        made = [*kit.MADE]
        made[place] = changed
        assert output_digest(output_of(tuple(made))) != output_digest(from_chain)


@pytest.mark.parametrize(("written", "value"), [(-7, -7), ("0", 0), ("-12", -12), (str(2**127 - 1), 2**127 - 1)])
def test_integers_of_a_document(written: object, value: int) -> None:
    """Numbers stand as integers, or as digits where they may be longer than 64 bits."""
    output = {"numbers": [{"name": "y", "values": [{"value": written, "decimals": "0"}], "shape": []}]}
    assert output_from_json(output).numbers[0].values[0] == Number(value, 0)


@pytest.mark.parametrize(
    "written", [True, 1.0, None, "", "-", "+1", "01", "-0", "1_0", " 1", "١", "1e3", "9" * 41, str(2**127), [1]]
)
def test_what_is_no_integer_is_refused(written: object) -> None:
    """Floats, booleans, other spellings and what is beyond 128 bits are malformed."""
    output = {"numbers": [{"name": "y", "values": [{"value": written, "decimals": 0}], "shape": []}]}
    with pytest.raises(FormatError):
        output_from_json(output)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ((), []),
        (("more",), 1),
        (("is_simulation_result",), 0),
        (("numbers",), None),
        (("numbers",), {}),
        (("numbers", 0), 1),
        (("numbers", 0, "unit"), "m"),
        (("numbers", 0, "name"), 1),
        (("numbers", 0, "name"), None),
        (("numbers", 0, "values"), None),
        (("numbers", 0, "values", 0), [150, 2]),
        (("numbers", 0, "values", 0, "scale"), 1),
        (("numbers", 0, "shape"), None),
        (("numbers", 0, "shape"), [True]),
        (("numbers", 0, "shape"), [-1]),
        (("numbers", 0, "shape"), [2**32]),
        (("strings", 0, "values"), [1]),
        (("strings", 0, "shape"), [2]),
        (("strings", 0, "shape"), None),
        (("jsons", 0, "value"), {"p": 0.5}),
    ],
)
def test_documents_of_another_shape_are_refused(path: tuple[Any, ...], value: object) -> None:
    """Each member has its one type, and there are no others."""
    output: Any = copy.deepcopy(kit.model_output())
    if not path:
        output = value
    else:
        at = output
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value
    with pytest.raises(FormatError):
        output_from_json(output)


def test_unknown_members_are_shown_inert() -> None:
    """A member's name that is not known comes back as printable ASCII, cut short."""
    with pytest.raises(FormatError) as caught:
        output_from_json({"\x1b[2J" + "é" * 500: 1})
    assert caught.value.message.isascii()
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 160


def test_string_tensors_may_lack_a_shape() -> None:
    """The chain has none for them, so a document may leave it out."""
    assert output_from_json({"strings": [{"name": "s", "values": ["a"]}]}).strings[0].shape is None
    assert output_from_json({"strings": [{"name": "s", "values": ["a"], "shape": [1, 1]}]}).strings[0].shape == (1, 1)


def test_the_one_layout_passes() -> None:
    """What Solidity writes is accepted, to the last byte."""
    check_layout(KINDS, GOOD)
    check_layout((Record(("int128", "int128")), "bool"), word(1) * 3)


@pytest.mark.parametrize(
    ("kinds", "data"),
    [
        (KINDS, GOOD + word(0)),
        (KINDS, GOOD[:-32]),
        (KINDS, GOOD[:-1]),
        (KINDS, b""),
        (KINDS, word(96) + GOOD[32:]),
        (("string",), word(32)),
        (("string",), word(32) + word(2**255)),
        (("string",), word(32) + word(33) + word(0)),
        (("string", "string"), word(64) + word(64) + word(0)),
        ((Sequence("uint32"),), word(32) + word(2**255)),
        ((Sequence("uint32"),), word(32) + word(2) + word(0)),
        ((Sequence("string"),), word(32) + word(2) + word(64) + word(64) + word(0)),
        ((Sequence(Record(("string",))),), word(32) + word(1) + word(0)),
        ((Sequence(Sequence("uint32")),), word(32) + word(3) + word(96) + word(96) + word(96) + word(0)),
    ],
)
def test_other_layouts_are_refused(kinds: Any, data: bytes) -> None:
    """Shared and shifted tails, gaps, lengths beyond the data and bytes after the end are malformed."""
    with pytest.raises(FormatError, match="malformed ABI data"):
        check_layout(kinds, data)


def test_a_long_answer_is_refused_unread() -> None:
    """Over the limit nothing is walked."""
    with pytest.raises(FormatError, match="over the limit") as caught:
        check_layout(("uint8",), bytes(1024 * 1024 + 32))
    assert caught.value.reason == "too_large"


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_raise_our_error_or_pass(data: st.DataObject) -> None:
    """No change of bytes makes the walker raise anything else."""
    changed = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        check_layout(KINDS, bytes(changed[: data.draw(st.integers(0, len(changed)))]))
