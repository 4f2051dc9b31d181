"""The circuit manifest: what an operator pins of a circuit before any proof of it means something.

A proof shows that instances satisfy *some* circuit. Which circuit, what its numbers mean, and where they stand in a
request and an answer are not in the proof, and the verifying library takes them from files that anyone could have
written: of ezkl's settings it checks next to nothing. So all of it is pinned here, by hash, never taken from a node:

    id = "sha256:308d…"               # the SHA-256 of the verifying key is the circuit's name
    system = "ezkl"                   # or groth16-bn254, which has none of ezkl_version, settings_sha256 and srs
    ezkl_version = "23.0.5"
    proof_len = 3072                  # bytes, exactly: a proof with trailing bytes verifies too
    n_instances = 7
    vk_sha256 = "308d…"
    settings_sha256 = "89b2…"
    srs = "sha256:c3bd…"              # or public-kzg-k1, the first powers of the public ceremony

    [[inputs]]                        # instances 0 to 3 are these numbers of the request
    pointer = "/input_data/0"
    offset = 0
    count = 4
    scale = 7                         # an instance is the number times 2**scale, rounded half away from zero
    visibility = "public"             # hashed: one instance, the Poseidon hash of the scaled numbers

    [[outputs]]                       # instances 4 to 6 are these numbers of the answer
    pointer = "/output/0"
    offset = 4
    count = 3
    scale = 7
    tolerance = 0.00390625
    on_release = "replace"            # or compare, within the tolerance

Every instance is covered by exactly one input, output or `[[fixed]]` value (`offset`, `value` in hex: the hash of
hashed parameters, for one), so that no public value of a proof is left for a node to choose. `[migration]` names the
`ezkl_version` that reads the settings when it is another than the one that wrote them, and the hash of the migrated
settings (`zk_settings`).

An input with `features = "veriroute-text-v1"` is no list of numbers in the request but what that function (`features`)
makes of the value at the pointer. What an answer concludes from proven numbers is bound by

    [[flags]]                         # true if and only if one of instances 128 to 130 proves more than 0.5
    pointer = "/results/0/flagged"
    offset = 128                      # within the outputs, whose scales hold
    count = 3
    above = 0.5
    on_release = "compare"
"""

from __future__ import annotations

import enum
import math
import tomllib
from collections.abc import Iterator
from typing import Annotated

import msgspec

from gateway.errors import FormatError, PolicyError

from . import pointer
from .features import FEATURES
from .field import from_hex

MAX_BYTES = 64 * 1024
MAX_INSTANCES = 16_384
MAX_PROOF_LEN = 8_192
#: The version whose verifier is run; manifests of another need a migration to it.
EZKL_VERSION = "23.0.5"
GROTH16_PROOF_LEN = 256
PUBLIC_SRS = "public-kzg-k1"
#: SHA-256 of the first two powers of the public KZG ceremony (halo2's file for k = 1, 516 bytes).
PUBLIC_SRS_SHA256 = "cafb2aa72c200ddc4e28aacabb8066e829207e2484b8d17059a566232f8a297b"

Sha256 = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
SrsName = Annotated[str, msgspec.Meta(pattern=rf"\A(sha256:[0-9a-f]{{64}}|{PUBLIC_SRS})\Z")]
_Offset = Annotated[int, msgspec.Meta(ge=0, lt=MAX_INSTANCES)]
_Count = Annotated[int, msgspec.Meta(ge=1, le=MAX_INSTANCES)]
_Scale = Annotated[int, msgspec.Meta(ge=0, le=30)]
_Version = Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}\Z")]


class System(enum.StrEnum):
    """The proof systems that are verified."""

    EZKL = "ezkl"
    GROTH16 = "groth16-bn254"


class Visibility(enum.StrEnum):
    """How the request's numbers stand among the instances: themselves, or as one hash."""

    PUBLIC = "public"
    HASHED = "hashed"


class Number(enum.StrEnum):
    """The width to which a circuit's runtime rounds an input before it scales it (`input_types` of the settings)."""

    F32 = "f32"
    F64 = "f64"


class OnRelease(enum.StrEnum):
    """What becomes of the answer's own numbers: the proven ones stand in their place, or they must agree."""

    REPLACE = "replace"
    COMPARE = "compare"


class Input(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`count` numbers of the request, at `pointer`, as `width` instances from `offset` on.

    With `features` they are what the function of that name makes of the value there.
    """

    pointer: str
    offset: _Offset
    count: _Count
    scale: _Scale
    visibility: Visibility
    number: Number = Number.F32
    features: str | None = None

    @property
    def width(self) -> int:
        """How many instances the numbers take."""
        return 1 if self.visibility is Visibility.HASHED else self.count


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`count` numbers of the answer, at `pointer`, that the instances from `offset` on prove."""

    pointer: str
    offset: _Offset
    count: _Count
    scale: _Scale
    tolerance: float
    on_release: OnRelease


class Flag(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A boolean of the answer, at `pointer`: whether one of the `count` proven numbers from `offset` on is `above`."""

    pointer: str
    offset: _Offset
    count: _Count
    above: float
    on_release: OnRelease


class Fixed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One instance that has the same value in every proof of the circuit; 64 hex digits, as ezkl writes it."""

    offset: _Offset
    value: str


class Migration(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The version that reads the settings, and the SHA-256 of what it reads."""

    ezkl_version: _Version
    settings_sha256: Sha256


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One circuit, pinned. Made by `parse_manifest`, which also holds the parts against each other.

    `models` are those that the circuit is, so that a node cannot answer for one with the circuit of another; none: any.
    """

    id: str
    system: System
    proof_len: Annotated[int, msgspec.Meta(ge=1, le=MAX_PROOF_LEN)]
    n_instances: Annotated[int, msgspec.Meta(ge=1, le=MAX_INSTANCES)]
    vk_sha256: Sha256
    outputs: Annotated[tuple[Output, ...], msgspec.Meta(min_length=1, max_length=64)]
    inputs: Annotated[tuple[Input, ...], msgspec.Meta(max_length=64)] = ()
    fixed: Annotated[tuple[Fixed, ...], msgspec.Meta(max_length=64)] = ()
    flags: Annotated[tuple[Flag, ...], msgspec.Meta(max_length=64)] = ()
    ezkl_version: _Version | None = None
    settings_sha256: Sha256 | None = None
    srs: SrsName | None = None
    migration: Migration | None = None
    models: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()


def parse_manifest(source: str, data: bytes) -> Manifest:
    """The manifest of `data`, a TOML file named `source`. Raises `PolicyError` for the first thing wrong with it."""
    if len(data) > MAX_BYTES:
        raise PolicyError(f"a circuit manifest has at most {MAX_BYTES} bytes", where=source)
    try:
        manifest = msgspec.convert(tomllib.loads(data.decode()), Manifest)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError, ValueError) as error:
        # A TOML integer of thousands of digits and a date that does not exist are ValueErrors of their own.
        raise PolicyError(ascii(str(error))[1:-1][:200], where=source) from None
    for key, problem in _problems(manifest):
        raise PolicyError(problem, where=source, key=key)
    return manifest


def _problems(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if manifest.id != f"sha256:{manifest.vk_sha256}":
        yield "id", "id must be sha256: and vk_sha256, for the verifying key is the circuit"
    yield from _ezkl(manifest) if manifest.system is System.EZKL else _groth16(manifest)
    yield from _pointers(manifest)
    for output in manifest.outputs:
        if not (math.isfinite(output.tolerance) and output.tolerance >= 0):
            yield "outputs.tolerance", "tolerance must be a number that is not negative"
    yield from _features(manifest)
    yield from _flags(manifest)
    yield from _covered(manifest)


def _ezkl(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for key in ("ezkl_version", "settings_sha256", "srs"):
        if getattr(manifest, key) is None:
            yield key, f"a circuit of ezkl needs {key}"
    runs = manifest.migration.ezkl_version if manifest.migration else manifest.ezkl_version
    if runs != EZKL_VERSION:
        yield "ezkl_version", f"version {EZKL_VERSION} verifies here; settings of another need a [migration] to it"
    if manifest.migration and manifest.ezkl_version == EZKL_VERSION:
        yield "migration", f"settings of version {EZKL_VERSION} need no migration"


def _groth16(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for key in ("ezkl_version", "settings_sha256", "srs", "migration"):
        if getattr(manifest, key) is not None:
            yield key, f"{key} is a matter of ezkl"
    if manifest.proof_len != GROTH16_PROOF_LEN:
        yield "proof_len", f"a Groth16 proof over BN254 has {GROTH16_PROOF_LEN} bytes"
    if any(entry.visibility is Visibility.HASHED for entry in manifest.inputs):
        yield "inputs.visibility", "which hash a Groth16 circuit uses is not known here"


def _pointers(manifest: Manifest) -> Iterator[tuple[str, str]]:
    found: list[tuple[str, ...]] = []
    places: dict[str, tuple[Input | Output | Flag, ...]] = {
        "inputs.pointer": manifest.inputs,
        "outputs.pointer": manifest.outputs,
        "flags.pointer": manifest.flags,
    }
    for key, entries in places.items():
        for entry in entries:
            try:
                found.append(pointer.tokens(entry.pointer))
            except FormatError as error:
                yield key, error.message
    outputs = found[len(manifest.inputs) :]
    for index, path in enumerate(outputs):
        if any(path[: len(other)] == other or other[: len(path)] == path for other in outputs[:index]):
            yield "outputs.pointer", "two outputs or flags share a place in the answer"


def _features(manifest: Manifest) -> Iterator[tuple[str, str]]:
    for entry in manifest.inputs:
        if entry.features is None:
            continue
        known = FEATURES.get(entry.features)
        if known is None:
            yield "inputs.features", f"there are the features {', '.join(FEATURES)}"
        elif known.count != entry.count:
            yield "inputs.count", f"{entry.features} has {known.count} numbers"


def _flags(manifest: Manifest) -> Iterator[tuple[str, str]]:
    covered = {i for output in manifest.outputs for i in range(output.offset, output.offset + output.count)}
    for flag in manifest.flags:
        if not math.isfinite(flag.above):
            yield "flags.above", "above must be a finite number"
        if not covered.issuperset(range(flag.offset, flag.offset + flag.count)):
            yield "flags.offset", "a flag is about proven numbers of the outputs"


def _covered(manifest: Manifest) -> Iterator[tuple[str, str]]:
    times = [0] * manifest.n_instances
    spans = [(entry.offset, entry.width) for entry in manifest.inputs]
    spans += [(entry.offset, entry.count) for entry in manifest.outputs]
    spans += [(entry.offset, 1) for entry in manifest.fixed]
    for offset, width in spans:
        if offset + width > manifest.n_instances:
            yield "n_instances", f"{offset} + {width} is past the last of {manifest.n_instances} instances"
        for index in range(offset, min(offset + width, manifest.n_instances)):
            times[index] += 1
    for index, count in enumerate(times):
        if count != 1:
            yield "n_instances", f"instance {index} is covered {count} times; each must be covered once"
    for entry in manifest.fixed:
        try:
            from_hex(entry.value)
        except FormatError as error:
            yield "fixed.value", error.message
