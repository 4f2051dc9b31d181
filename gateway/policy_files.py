"""Reads policy files: the built-in ones from the package `policies`, an operator's from a directory.

Thin on purpose: what the bytes mean is for `gateway.policy`, which opens nothing.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from gateway.errors import PolicyError
from gateway.policy import CompiledPolicy, load_policies
from gateway.policy.load import MAX_BYTES


def builtin_files() -> dict[str, bytes]:
    """The policy files that come with the gateway: `policies/<name>.toml` to bytes, sorted."""
    folder = resources.files("policies")
    found = [item for item in folder.iterdir() if item.name.endswith(".toml")]
    return {f"policies/{item.name}": item.read_bytes() for item in sorted(found, key=lambda item: item.name)}


def reference_values(name: str) -> bytes:
    """The reference values that come with the gateway: the bytes of `policies/reference_values/<name>.json`."""
    return resources.files("policies").joinpath("reference_values", f"{name}.json").read_bytes()


def directory_files(directory: Path) -> dict[str, bytes]:
    """The `*.toml` files directly in `directory`, by path, sorted. Raises `PolicyError` when it cannot be read."""
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix == ".toml")
    except OSError as error:
        raise PolicyError(f"the policy directory cannot be read: {error.strerror}", where=str(directory)) from None
    return {str(path): read_file(path) for path in paths}


def read_file(path: Path) -> bytes:
    """The bytes of one policy file, at most one more than a policy may have. Raises `PolicyError`."""
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyError(f"the policy file cannot be read: {error.strerror}", where=str(path)) from None


def read_policies(directory: Path | None = None) -> dict[str, CompiledPolicy]:
    """Every policy in force: the built-in ones, overlaid with those of `directory`. Raises `PolicyError`."""
    return load_policies(directory_files(directory) if directory is not None else {}, builtin_files())
