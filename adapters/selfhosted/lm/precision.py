"""The same model as deployments would run it: in bfloat16, with coarser weights, or not the same model at all.

    bf16              weights and activations in bfloat16, sums in float32: what an honest accelerator does
    int8, int4, int3  besides, every weight matrix on a grid of 8, 4 or 3 bits with one scale per output channel

Attention's scores and softmax stay in float32, as fused kernels keep them. `other_model` is another model of the same
shape under the same name: what a node that saves on the model, or swaps it, would serve.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .model import F32, Layer, Weights

PRECISIONS = ("fp32", "bf16", "int8", "int4", "int3")
_MATRICES = ("wqkv", "wo", "w1", "w2")
_OTHER_SEED, _OTHER_SHARE = 2, 0.3  # how far the other model is off: noise of this part of each channel's spread


def bf16(x: F32) -> F32:
    """`x` rounded to bfloat16, to nearest and ties to even, as float32. Finite numbers only."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) & np.uint32(0xFFFF0000)
    return np.asarray(rounded).view(np.float32)


def bf16_bits(x: F32) -> npt.NDArray[np.uint16]:
    """The 16 bits of each number of `x` in bfloat16: sign, eight of exponent, seven of mantissa."""
    return (bf16(x).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def at_precision(weights: Weights, precision: str) -> Weights:
    """`weights` as a deployment of this precision (one of `PRECISIONS`) computes with them. The given ones stay."""
    if precision == "fp32":
        return weights
    coarse = {"bf16": bf16, "int8": _on_grid(8), "int4": _on_grid(4), "int3": _on_grid(3)}[precision]
    made = _changed(weights, coarse)
    made.layers = [replace(layer, gain1=bf16(layer.gain1), gain2=bf16(layer.gain2)) for layer in made.layers]
    made.smear, made.gain = bf16(weights.smear), bf16(weights.gain)
    made.unembed = coarse(weights.unembed)
    made.embed = np.ascontiguousarray(made.unembed.T)
    made.round = bf16
    return made


def other_model(weights: Weights) -> Weights:
    """A model of the same shape, size and tokenizer that answers differently. Always the same one."""
    drawn = np.random.default_rng(_OTHER_SEED)

    def moved(matrix: F32) -> F32:
        spread = matrix.std(axis=0, keepdims=True) * np.float32(_OTHER_SHARE)
        return np.asarray(matrix + spread * drawn.standard_normal(matrix.shape, np.float32))

    return _changed(weights, moved)


def _changed(weights: Weights, change: Callable[[F32], F32]) -> Weights:
    made = copy.copy(weights)
    made.layers = [_each(layer, change) for layer in weights.layers]
    return made


def _each(layer: Layer, change: Callable[[F32], F32]) -> Layer:
    return replace(layer, **{name: change(getattr(layer, name)) for name in _MATRICES})


def _on_grid(bits: int) -> Callable[[F32], F32]:
    """Symmetric rounding of a matrix (in, out) to 2^bits - 1 steps per output channel, read back in bfloat16."""
    most = np.float32((1 << (bits - 1)) - 1)

    def grid(matrix: F32) -> F32:
        scale = np.abs(matrix).max(axis=0, keepdims=True) / most
        return bf16(np.round(matrix / scale) * scale)

    return grid
