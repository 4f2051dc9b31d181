"""Pinned circuits, read from an operator's directory: one folder each, `circuit.toml` and the files that it pins.

The first powers of the public KZG ceremony, which circuits with `srs = "public-kzg-k1"` are verified against, come with
this package: `public_kzg_k1.srs`, 516 bytes, made by the perpetual powers of tau ceremony and published by halo2 and
ezkl (`tests/assets/kzg1.srs`). Its hash is the one that ezkl itself pins for k = 1.
"""

from __future__ import annotations

from pathlib import Path

from gateway.errors import PolicyError
from gateway.verify.proofs.zk_circuit import MAX_FILE, SRS, Circuit, file_names, hold_files
from gateway.verify.proofs.zk_manifest import MAX_BYTES, PUBLIC_SRS, parse_manifest

MANIFEST = "circuit.toml"
_PUBLIC_SRS = Path(__file__).with_name("public_kzg_k1.srs")


def load_circuit(folder: Path) -> Circuit:
    """The circuit in `folder`. Raises `PolicyError` that names the file at fault."""
    source = str(folder / MANIFEST)
    manifest = parse_manifest(source, _read(folder / MANIFEST, MAX_BYTES))
    paths = {name: folder / name for name in file_names(manifest)}
    if manifest.srs == PUBLIC_SRS:
        paths[SRS] = _PUBLIC_SRS
    try:
        return hold_files(manifest, {name: _read(path, MAX_FILE[name]) for name, path in paths.items()})
    except PolicyError as error:
        raise PolicyError(error.message, where=error.where or source, key=error.key) from None


def load_circuits(folder: Path) -> dict[str, Circuit]:
    """Every circuit in the folders of `folder`, by id. Raises `PolicyError`, also for one that stands there twice."""
    found: dict[str, Circuit] = {}
    for path in sorted(folder.glob(f"*/{MANIFEST}")):
        circuit = load_circuit(path.parent)
        if circuit.manifest.id in found:
            raise PolicyError(f"the circuit {circuit.manifest.id} stands in two folders", where=str(path))
        found[circuit.manifest.id] = circuit
    return found


def _read(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise PolicyError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if len(data) > limit:
        raise PolicyError(f"has more than {limit} bytes", where=str(path))
    return data
