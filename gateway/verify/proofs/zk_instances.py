"""Between JSON and instances: the request's numbers as the circuit takes them, the proven ones as an answer has them.

A circuit computes with integers: an input is the number, rounded to the width that the settings name, times 2**scale,
rounded half away from zero (Rust's `f64::round`), modulo the field's order. The inputs of a proof are computed here
from the request that was sent, never taken from the node: a proof of another input is a proof of another answer.
"""

from __future__ import annotations

import struct

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError

from . import field, pointer
from .features import FEATURES
from .zk_manifest import Flag, Input, Manifest, Number, OnRelease, Output, Visibility

MAX_DOCUMENT = 16 * 1024 * 1024
Values = tuple[tuple[float, ...], ...]


class Hashed(msgspec.Struct, frozen=True):
    """Instance `index` must be the Poseidon hash of `values`; computed by whoever verifies the proof."""

    index: int
    values: tuple[int, ...]


class Bound(msgspec.Struct, frozen=True):
    """What the request, and the manifest, say about the instances: `public` by index, and the hashed ones."""

    public: dict[int, int]
    hashed: tuple[Hashed, ...]


def bind(manifest: Manifest, request: bytes) -> Bound:
    """The instances that `request`, a JSON body, decides. Raises `FormatError` with the reason input_unbindable.

    The request is not read at all when the circuit has no public or hashed input; nothing of it is bound then.
    """
    public = {entry.offset: field.from_hex(entry.value) for entry in manifest.fixed}
    hashed: list[Hashed] = []
    try:
        document = strict_json(request, max_bytes=MAX_DOCUMENT) if manifest.inputs else None
        for entry in manifest.inputs:
            values = tuple(quantise(x, entry) for x in _given(document, entry))
            if entry.visibility is Visibility.HASHED:
                hashed.append(Hashed(entry.offset, values))
            else:
                public.update(enumerate(values, entry.offset))
    except FormatError as error:
        raise FormatError(error.message, reason="input_unbindable") from None
    return Bound(public, tuple(hashed))


def quantise(x: float, entry: Input) -> int:
    """`x` as an instance of `entry`. Raises `FormatError` for what the circuit's integers do not hold."""
    if abs(x) > field.EXACT:
        raise FormatError("a number of the request is too large for the circuit")
    rounded = float(x) if entry.number is Number.F64 else float(struct.unpack("<f", struct.pack("<f", x))[0])
    scaled = abs(rounded) * (1 << entry.scale)  # exact: a power of two
    if scaled > field.EXACT:
        raise FormatError("a number of the request is too large for the circuit")
    whole = int(scaled)
    whole += scaled - whole >= 0.5  # floor(x + 0.5) would round 0.49999999999999994 up
    return (whole if rounded >= 0 else -whole) % field.R


def proven(manifest: Manifest, instances: tuple[int, ...]) -> Values:
    """The numbers that the instances prove, for each output. Raises `FormatError` with output_out_of_range."""
    return tuple(
        tuple(_number(instances[index], output) for index in range(output.offset, output.offset + output.count))
        for output in manifest.outputs
    )


def _number(instance: int, output: Output) -> float:
    value = field.signed(instance)
    if abs(value) > field.EXACT:
        raise FormatError("a proven number is beyond what a double holds exactly", reason="output_out_of_range")
    return value / (1 << output.scale)


def release(manifest: Manifest, outputs: Values, response: bytes) -> bytes:
    """The answer to release: `response` with the proven numbers in place where the manifest says `replace`.

    Where it says `compare`, each number of the response has to be within the tolerance, and each flag has to follow.
    Bytes are those of `response` when nothing had to be replaced. Raises `FormatError` with the reason
    response_malformed, output_absent or output_mismatch.
    """
    try:
        document = strict_json(response, max_bytes=MAX_DOCUMENT)
    except FormatError as error:
        raise FormatError(error.message, reason="response_malformed") from None
    released = document
    try:
        for output, values in zip(manifest.outputs, outputs, strict=True):
            released = _output(document, released, output, list(values))
        by_index = _by_index(manifest, outputs)
        for flag in manifest.flags:
            held = any(by_index[index] > flag.above for index in range(flag.offset, flag.offset + flag.count))
            released = _flag(document, released, flag, held)
    except FormatError as error:
        raise FormatError(error.message, reason=error.reason or "output_absent") from None
    return response if released is document else msgspec.json.encode(released)


def _output(document: object, released: object, output: Output, values: list[float]) -> object:
    found = _numbers(document, output)
    if output.on_release is OnRelease.REPLACE:
        if found == values:
            return released  # the node's bytes, which its signature covers, can stay
        scalar = not isinstance(pointer.resolve(document, output.pointer), list)
        return pointer.replaced(released, output.pointer, values[0] if scalar else values)
    if any(not abs(a - b) <= output.tolerance for a, b in zip(found, values, strict=True)):
        raise FormatError("a number of the answer is not the proven one", reason="output_mismatch")
    return released


def _flag(document: object, released: object, flag: Flag, held: bool) -> object:
    found = pointer.resolve(document, flag.pointer)
    if not isinstance(found, bool):
        raise FormatError("there is no boolean at the pointer")
    if found is held:
        return released
    if flag.on_release is OnRelease.REPLACE:
        return pointer.replaced(released, flag.pointer, held)
    raise FormatError("the answer does not follow from the proven numbers", reason="output_mismatch")


def _by_index(manifest: Manifest, outputs: Values) -> dict[int, float]:
    """The proven numbers, by the instance that proves each."""
    found: dict[int, float] = {}
    for output, values in zip(manifest.outputs, outputs, strict=True):
        found.update(enumerate(values, output.offset))
    return found


def _given(document: object, entry: Input) -> list[float]:
    """The numbers that the circuit takes: those at the pointer, or the features of what stands there."""
    if entry.features is None:
        return _numbers(document, entry)
    return FEATURES[entry.features].compute(pointer.resolve(document, entry.pointer))


def _numbers(document: object, entry: Input | Output) -> list[float]:
    """The numbers at `entry.pointer`: a flat list of exactly `count`, or one number where `count` is 1."""
    value = pointer.resolve(document, entry.pointer)
    found = value if isinstance(value, list) else [value]
    numbers = [float(x) for x in found if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(found) != entry.count or len(numbers) != entry.count:
        raise FormatError(f"there are not exactly {entry.count} numbers at the pointer")
    return numbers
