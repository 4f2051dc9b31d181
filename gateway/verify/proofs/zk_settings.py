"""ezkl's settings file: brought from one version's form to another's, and held against the manifest.

ezkl 23 cannot read the settings of ezkl 22, which lack two members; proof and verifying key are the same. The step is a
function of the pinned bytes alone, and the manifest records the hash of its result next to the hash of its input, so a
reviewer sees what the verifier was given.
"""

from __future__ import annotations

import json
import re

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError

from .zk_manifest import Manifest, Number

MAX_SETTINGS = 1024 * 1024
_FROM = re.compile(r"22\.[0-9]{1,3}\.[0-9]{1,3}")
_TYPES = {Number.F32: "F32", Number.F64: "F64"}


def migrate(settings: bytes) -> bytes:
    """Settings written by ezkl 22 in the form that ezkl 23 reads. Raises `FormatError` for any other."""
    document = strict_json(settings, max_bytes=MAX_SETTINGS)
    version = document.get("version") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(version, str) or _FROM.fullmatch(version) is None:
        raise FormatError("only settings of ezkl 22 are migrated")
    arguments = document.get("run_args")
    if not isinstance(arguments, dict) or "disable_freivalds" in arguments or "einsum_params" in document:
        raise FormatError("the settings are not as ezkl 22 writes them")
    # Circuits of ezkl 22 were laid out without Freivalds' check, so there are no einsums for it to know of.
    document["run_args"] = {**arguments, "disable_freivalds": True}
    document["einsum_params"] = {"equations": [], "total_einsum_col_size": 0}
    return json.dumps(document).encode()


def hold(settings: bytes, manifest: Manifest) -> None:
    """Raises `FormatError` where the pinned settings say another scale or number type than the manifest.

    The verifier does not read these members, so a mistake in the manifest would shift every number by a power of two.
    """
    document = strict_json(settings, max_bytes=MAX_SETTINGS)
    if not isinstance(document, dict):
        raise FormatError("the settings are not a JSON object")
    for entry in manifest.inputs:
        _listed(document, "model_input_scales", entry.scale)
        _listed(document, "input_types", _TYPES[entry.number])
    for output in manifest.outputs:
        _listed(document, "model_output_scales", output.scale)


def _listed(document: dict[str, object], member: str, value: object) -> None:
    found = document.get(member)
    if not isinstance(found, list) or value not in found:
        raise FormatError(f"the settings' {member} do not have the manifest's {value}")
