"""Tensors of OpenGradient's ONNX inferences: fixed-point numbers, texts and JSON, read exactly.

    (value, decimals) is value / 10**decimals           int128 both, decimals not negative
    number tensor (name, (value, decimals)[], shape)    as many values as the shape has places
    string tensor (name, text[])                        the result document adds a shape, the chain has none
    JSON tensor   (name, JSON text)                     in outputs alone

The network's own client turns numbers into 32-bit floats; here they stay what was written, for a digest of rounded
numbers binds nothing. The digest of inputs and outputs is keccak256 over their canonical ABI encoding, which a contract
can compute as well. The shape of a string tensor is outside it, since it is not on the chain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.crypto.keccak import keccak256
from gateway.errors import FormatError

from . import abi
from .abi_layout import Record, Sequence, spelled

_NUMBERS = Sequence(Record(("string", Sequence(Record(("int128", "int128"))), Sequence("uint32"))))
_STRINGS = Sequence(Record(("string", Sequence("string"))))
_JSONS = Sequence(Record(("string", "string")))
#: What is handed to a model, and what comes out of it.
INPUT = Record((_NUMBERS, _STRINGS))
OUTPUT = Record((_NUMBERS, _STRINGS, _JSONS, "bool"))

#: The shortest text of the smallest double has 341 places after the point.
MAX_DECIMALS = 400
#: The most dimensions of a tensor.
MAX_RANK = 32
MAX_JSON = 1024 * 1024
_JSON_DEPTH = 32


class Number(msgspec.Struct, frozen=True, array_like=True):
    """`value / 10**decimals`, exactly. |value| < 2**127, 0 <= decimals <= `MAX_DECIMALS`."""

    value: int
    decimals: int

    def __str__(self) -> str:
        """Plain decimal notation with every digit, zeros at the end too: `Number(-150, 2)` is -1.50."""
        sign, digits = ("-" if self.value < 0 else ""), str(abs(self.value))
        if not self.decimals:
            return sign + digits
        digits = digits.rjust(self.decimals + 1, "0")
        return f"{sign}{digits[: -self.decimals]}.{digits[-self.decimals :]}"


class NumberTensor(msgspec.Struct, frozen=True):
    name: str
    values: tuple[Number, ...]
    shape: tuple[int, ...]


class StringTensor(msgspec.Struct, frozen=True):
    """`shape` is None where the source has none."""

    name: str
    values: tuple[str, ...]
    shape: tuple[int, ...] | None = None


class JsonTensor(msgspec.Struct, frozen=True):
    """`value` is one strict JSON document, as it was written."""

    name: str
    value: str


class ModelInput(msgspec.Struct, frozen=True):
    numbers: tuple[NumberTensor, ...] = ()
    strings: tuple[StringTensor, ...] = ()


class ModelOutput(msgspec.Struct, frozen=True):
    """`simulated`: the chain says that this is a stand-in and no model's output."""

    numbers: tuple[NumberTensor, ...] = ()
    strings: tuple[StringTensor, ...] = ()
    jsons: tuple[JsonTensor, ...] = ()
    simulated: bool = False

    @property
    def empty(self) -> bool:
        """Whether no tensor stands here: the chain's way to say that the result is to be had elsewhere."""
        return not (self.numbers or self.strings or self.jsons)


def input_of(fields: tuple[Any, ...]) -> ModelInput:
    """The input of decoded ABI values. Raises `FormatError`."""
    numbers, strings = fields
    found = ModelInput(tuple(map(_number_tensor, numbers)), tuple(map(_string_tensor, strings)))
    _distinct(found.numbers, found.strings)
    return found


def output_of(fields: tuple[Any, ...]) -> ModelOutput:
    """The output of decoded ABI values. Raises `FormatError`."""
    numbers, strings, jsons, simulated = fields
    found = ModelOutput(
        tuple(map(_number_tensor, numbers)),
        tuple(map(_string_tensor, strings)),
        tuple(_json_tensor(name, value) for name, value in jsons),
        simulated,
    )
    _distinct(found.numbers, found.strings, found.jsons)
    return found


def input_digest(tensors: ModelInput) -> str:
    """`keccak256:` and the hex digest of the ABI encoding."""
    return _digest(INPUT, (_plain_numbers(tensors.numbers), _plain_strings(tensors.strings)))


def output_digest(tensors: ModelOutput) -> str:
    """`keccak256:` and the hex digest of the ABI encoding."""
    jsons = [(tensor.name, tensor.value) for tensor in tensors.jsons]
    numbers, strings = _plain_numbers(tensors.numbers), _plain_strings(tensors.strings)
    return _digest(OUTPUT, (numbers, strings, jsons, tensors.simulated))


def output_from_json(value: object) -> ModelOutput:
    """The output that a result document states as `model_output`. Raises `FormatError`.

    Numbers are JSON integers or decimal texts, nothing else; members that are not known are malformed.
    """
    members = _members(value, "model_output", {"numbers", "strings", "jsons", "is_simulation_result"})
    simulated = members.get("is_simulation_result", False)
    if not isinstance(simulated, bool):
        raise FormatError("is_simulation_result is not a boolean")
    found = ModelOutput(
        tuple(map(_json_numbers, _list(members.get("numbers", []), "numbers"))),
        tuple(map(_json_strings, _list(members.get("strings", []), "strings"))),
        tuple(map(_json_json, _list(members.get("jsons", []), "jsons"))),
        simulated,
    )
    _distinct(found.numbers, found.strings, found.jsons)
    return found


def _json_numbers(value: object) -> NumberTensor:
    members = _members(value, "a number tensor", {"name", "values", "shape"})
    pairs = [_members(pair, "a number", {"value", "decimals"}) for pair in _list(members.get("values"), "values")]
    numbers = [(_integer(pair.get("value")), _integer(pair.get("decimals"))) for pair in pairs]
    return _number_tensor((_text(members.get("name")), numbers, _shape(members.get("shape"))))


def _json_strings(value: object) -> StringTensor:
    members = _members(value, "a string tensor", {"name", "values", "shape"})
    shape = _shape(members["shape"]) if "shape" in members else None
    texts = tuple(map(_text, _list(members.get("values"), "values")))
    if shape is not None:
        _fits(shape, len(texts))
    return StringTensor(_name(_text(members.get("name"))), texts, shape)


def _json_json(value: object) -> JsonTensor:
    members = _members(value, "a JSON tensor", {"name", "value"})
    return _json_tensor(_text(members.get("name")), _text(members.get("value")))


def _number_tensor(fields: tuple[str, Iterable[tuple[int, int]], tuple[int, ...]]) -> NumberTensor:
    name, pairs, shape = fields
    values = tuple(_number(value, decimals) for value, decimals in pairs)
    _fits(shape, len(values))
    return NumberTensor(_name(name), values, shape)


def _number(value: int, decimals: int) -> Number:
    if not 0 <= decimals <= MAX_DECIMALS:
        raise FormatError(f"a number has fewer than 0 or more than {MAX_DECIMALS} decimals", reason="decimals_range")
    if not -(2**127) <= value < 2**127:
        raise FormatError("a number's value is beyond 128 bits")
    return Number(value, decimals)


def _string_tensor(fields: tuple[str, tuple[str, ...]]) -> StringTensor:
    return StringTensor(_name(fields[0]), fields[1])


def _json_tensor(name: str, value: str) -> JsonTensor:
    strict_json(value.encode(), max_bytes=MAX_JSON, max_depth=_JSON_DEPTH)
    return JsonTensor(_name(name), value)


def _fits(shape: tuple[int, ...], count: int) -> None:
    # Clients reshape: another count crashes them, or moves numbers to places where they do not belong.
    if len(shape) > MAX_RANK or math.prod(shape) != count:
        raise FormatError(f"{count} values do not fit a shape of {len(shape)} dimensions", reason="shape_mismatch")


def _distinct(*groups: Iterable[NumberTensor | StringTensor | JsonTensor]) -> None:
    names = [tensor.name for group in groups for tensor in group]
    if len(set(names)) != len(names):  # clients keep tensors by name, so one would hide the other
        raise FormatError("two tensors have the same name", reason="tensor_repeated")


def _name(name: str) -> str:
    return abi.text(name, "a tensor's name")


def _members(value: object, what: str, known: set[str]) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise FormatError(f"{what} is not an object")
    if not value.keys() <= known:
        raise FormatError(f"{what} has members that are not known: {_shown(value.keys() - known)}")
    return value


def _shown(names: Iterable[str]) -> str:
    return ascii(", ".join(sorted(names)))[1:-1][:80]


def _list(value: object, what: str) -> list[object]:
    if not isinstance(value, list):
        raise FormatError(f"{what} is not a list")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise FormatError("a name or a text is not a string")
    return value


def _integer(value: object) -> int:
    """A JSON integer, or its digits as text, as a writer does whose numbers may pass 64 bits."""
    if type(value) is int:
        return value
    if isinstance(value, str) and len(value) <= 40 and value.isascii():
        digits = value.removeprefix("-")
        if digits.isdigit() and (digits[0] != "0" or value == "0"):
            return int(value)
    raise FormatError("a number is not an integer or its digits")


def _shape(value: object) -> tuple[int, ...]:
    found = _list(value, "shape")
    for size in found:
        if type(size) is not int or not 0 <= size < 2**32:
            raise FormatError("a shape is made of numbers of 32 bits")
    return tuple(found)  # type: ignore[arg-type]


def _plain_numbers(tensors: Iterable[NumberTensor]) -> list[tuple[object, ...]]:
    return [(t.name, [(n.value, n.decimals) for n in t.values], t.shape) for t in tensors]


def _plain_strings(tensors: Iterable[StringTensor]) -> list[tuple[object, ...]]:
    return [(tensor.name, tensor.values) for tensor in tensors]


def _digest(kind: Record, values: object) -> str:
    return "keccak256:" + keccak256(abi.encode([spelled(kind)], [values])).hex()
