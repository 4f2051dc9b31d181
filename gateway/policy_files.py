"""Reads policy files: the built-in ones from the package `policies`, an operator's from a directory.

Thin on purpose: what the bytes mean is for `gateway.policy`, which opens nothing.
"""

from __future__ import annotations

import time
from importlib import resources
from pathlib import Path

from gateway.errors import PolicyError
from gateway.policy import Beside, CompiledPolicy, load_policies, parse_policy
from gateway.policy.load import MAX_BYTES


def builtin_files() -> dict[str, bytes]:
    """The policy files that come with the gateway: `policies/<name>.toml` to bytes, sorted."""
    return _packaged("policies")


def _packaged(folder: str) -> dict[str, bytes]:
    first, *below = folder.split("/")
    found = [item for item in resources.files(first).joinpath(*below).iterdir() if item.name.endswith(".toml")]
    return {f"{folder}/{item.name}": item.read_bytes() for item in sorted(found, key=lambda item: item.name)}


def files_beside(*directories: Path) -> Beside:
    """The files of advisories that come with the gateway, and those in the folder `advisories` of each directory, with
    the time of now. A directory without that folder has none. Raises `PolicyError` for what cannot be read."""
    files = _packaged("policies/advisories")
    for directory in directories:
        if (directory / "advisories").is_dir():
            files.update(directory_files(directory / "advisories"))
    return Beside(files, time.time())


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
    if directory is None:
        return load_policies({}, builtin_files(), files_beside())
    return load_policies(directory_files(directory), builtin_files(), files_beside(directory))


def read_policy(path: Path) -> CompiledPolicy:
    """The one policy of a file, with the advisories beside it. Raises `PolicyError`."""
    return parse_policy(str(path), read_file(path), files_beside(path.parent))
