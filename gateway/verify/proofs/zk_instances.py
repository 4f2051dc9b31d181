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
from .zk_manifest import Input, Manifest, Number, OnRelease, Output, Visibility

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
            values = tuple(quantise(x, entry) for x in _numbers(document, entry))
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

    Where it says `compare`, each number of the response has to be within the tolerance. Bytes are those of `response`
    when nothing is replaced. Raises `FormatError` with the reason response_malformed, output_absent or output_mismatch.
    """
    try:
        document = strict_json(response, max_bytes=MAX_DOCUMENT)
    except FormatError as error:
        raise FormatError(error.message, reason="response_malformed") from None
    released = document
    for output, values in zip(manifest.outputs, outputs, strict=True):
        try:
            found = _numbers(document, output)
        except FormatError as error:
            raise FormatError(error.message, reason="output_absent") from None
        if output.on_release is OnRelease.REPLACE:
            scalar = not isinstance(pointer.resolve(document, output.pointer), list)
            released = pointer.replaced(released, output.pointer, values[0] if scalar else list(values))
        elif any(not abs(a - b) <= output.tolerance for a, b in zip(found, values, strict=True)):
            raise FormatError("a number of the answer is not the proven one", reason="output_mismatch")
    return response if released is document else msgspec.json.encode(released)


def _numbers(document: object, entry: Input | Output) -> list[float]:
    """The numbers at `entry.pointer`: a flat list of exactly `count`, or one number where `count` is 1."""
    value = pointer.resolve(document, entry.pointer)
    found = value if isinstance(value, list) else [value]
    numbers = [float(x) for x in found if isinstance(x, int | float) and not isinstance(x, bool)]
    if len(found) != entry.count or len(numbers) != entry.count:
        raise FormatError(f"there are not exactly {entry.count} numbers at the pointer")
    return numbers
