"""The classifier as an ONNX file, the form in which ezkl takes a model: the few messages of the format that it needs.

Field numbers are those of onnx.proto3 (IR version 8, operators of version 13). The same weights give the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

_FLOAT = 1  # TensorProto.DataType


def model(
    inputs: int,
    outputs: int,
    layers: Sequence[tuple[str, Sequence[Sequence[float]]]],
    nodes: Iterable[tuple[str, tuple[str, ...], str]],
) -> bytes:
    """The file of a graph from `x` (1 by `inputs`) to `y` (1 by `outputs`).

    `layers` are constants by name, as rows; `nodes` operators with the names of what they take and what they give.
    """
    graph = b"".join(
        [
            *(_part(1, _node(*node)) for node in nodes),
            _part(2, b"classifier"),
            *(_part(5, _tensor(name, rows)) for name, rows in layers),
            _part(11, _value("x", inputs)),
            _part(12, _value("y", outputs)),
        ]
    )
    return _number(1, 8) + _part(2, b"veriroute") + _part(7, graph) + _part(8, _number(2, 13))


def _node(operator: str, takes: tuple[str, ...], gives: str) -> bytes:
    return b"".join(_part(1, name.encode()) for name in takes) + _part(2, gives.encode()) + _part(4, operator.encode())


def _tensor(name: str, rows: Sequence[Sequence[float]]) -> bytes:
    data = b"".join(struct.pack(f"<{len(row)}f", *row) for row in rows)
    shape = _number(1, len(rows)) + _number(1, len(rows[0]))
    return shape + _number(2, _FLOAT) + _part(8, name.encode()) + _part(9, data)


def _value(name: str, size: int) -> bytes:
    shape = b"".join(_part(1, _number(1, n)) for n in (1, size))
    return _part(1, name.encode()) + _part(2, _part(1, _number(1, _FLOAT) + _part(2, shape)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _part(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*parts, value))
