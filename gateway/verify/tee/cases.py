"""Folders of test evidence: a manifest with cases, what was done to their bytes, and what a verifier must say of them.

    {"kind": "snp", "roots": {"ark_milan": "roots/ark_milan.der"},
     "files": {"reports/a.bin": {"sha256": "…"}},
     "cases": [{"id": "a__bit", "inputs": {"report": "reports/a.bin", …}, "evaluation_time": 1700000000, "params": {},
                "mutations": [{"target": "report", "op": "xor", "offset": 80, "mask": 1}],
                "expected": {"authentic": false, "reject_code": "snp_bad_signature",
                             "default_policy": {"accept": false, "violations": ["not_authentic"]}}}]}

Each case is evaluated at its own time, and must give the expected authenticity, the expected verdict of `CASES`, and
every claim that it names. A verifier may have another word than `reject_code`; that it refuses is what counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.model.tee import TeeResult

from .kinds import Kind, kind_of
from .outcomes import contradicted
from .roots import VENDOR_ROOTS, Anchor, TrustRoots
from .rules import CASES, judge, violations

MAX_MANIFEST = 16 << 20


class Expected(msgspec.Struct, frozen=True):
    authentic: bool
    reject_code: str | None = None
    claims: dict[str, Any] = {}
    default_policy: dict[str, Any] | None = None


class Case(msgspec.Struct, frozen=True):
    id: str
    inputs: dict[str, str]
    evaluation_time: float
    expected: Expected
    mutations: tuple[dict[str, Any], ...] = ()
    params: dict[str, Any] = {}
    why: str = ""


class FileEntry(msgspec.Struct, frozen=True):
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """A folder of cases. `roots` maps names to files of DER certificates, which the cases trust."""

    kind: str
    cases: tuple[Case, ...]
    files: dict[str, FileEntry] = {}
    roots: dict[str, str] = {}


class Ran(msgspec.Struct, frozen=True):
    """What became of one case: the result, and what of it is not as expected (nothing, when it passed)."""

    case: Case
    result: TeeResult | None
    problems: tuple[str, ...]


def parse_manifest(data: bytes) -> Manifest:
    """A manifest from its JSON. Raises `FormatError`."""
    document = strict_json(data, max_bytes=MAX_MANIFEST)
    try:
        return msgspec.convert(document, Manifest)
    except msgspec.ValidationError as error:
        raise FormatError(f"not a manifest of cases: {error}") from None


def run_case(manifest: Manifest, case: Case, read: Callable[[str], bytes]) -> Ran:
    """Appraise one case and hold it against what it expects. `read` gives the bytes of a file named in the manifest."""
    try:
        kind = kind_of(manifest.kind)
        blobs = _blobs(manifest, case, read)
        anchors = _anchors(manifest, kind, blobs)
        result = kind.verify(blobs, case.params, anchors, case.evaluation_time)
    except FormatError as error:
        return Ran(case, None, (f"cannot be appraised: {error.message}",))
    return Ran(case, result, tuple(_problems(case.expected, result)))


def apply_mutation(data: bytes, step: Mapping[str, Any]) -> bytes:
    """`data` after one mutation: xor, write, truncate, append, replace_text or json_set. Raises `FormatError`."""
    try:
        operation = _OPERATIONS[step["op"]]
        return operation(data, step)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        raise FormatError(f"a mutation cannot be applied: {type(error).__name__} {str(error)[:60]}") from None


def _blobs(manifest: Manifest, case: Case, read: Callable[[str], bytes]) -> dict[str, bytes]:
    blobs = {role: _file(manifest, name, read) for role, name in case.inputs.items()}
    for step in case.mutations:
        target = step.get("target")
        if not isinstance(target, str) or target not in blobs:
            raise FormatError("a mutation names an input that the case does not have")
        blobs[target] = apply_mutation(blobs[target], step)
    for name, path in manifest.roots.items():
        blobs[f"root:{name}"] = _file(manifest, path, read)
    return blobs


def _file(manifest: Manifest, name: str, read: Callable[[str], bytes]) -> bytes:
    data = read(name)
    entry = manifest.files.get(name)
    if entry is not None and hashlib.sha256(data).hexdigest() != entry.sha256:
        raise FormatError(f"the file {name[:80]!r} is not the one that the manifest names (SHA-256)")
    return data


def _anchors(manifest: Manifest, kind: Kind, blobs: Mapping[str, bytes]) -> TrustRoots:
    """What the folder trusts: its own roots, for each vendor of its kind; a key set that it gives, for NRAS.

    What is no vendor's own root is a test's, whatever the folder calls it.
    """
    digests = [(name, hashlib.sha256(blobs[f"root:{name}"]).hexdigest()) for name in manifest.roots]
    if "jwks" in blobs:
        digests.append(("jwks", hashlib.sha256(blobs["jwks"]).hexdigest()))
    own = {(anchor.vendor, anchor.sha256) for anchor in VENDOR_ROOTS.anchors}
    return TrustRoots(
        tuple(
            Anchor(vendor, name, digest, test=(vendor, digest) not in own)
            for vendor in kind.vendors
            for name, digest in digests
        )
    )


def _problems(expected: Expected, result: TeeResult) -> list[str]:
    claims = result.claims
    problems = []
    if claims.authentic != expected.authentic:
        problems.append(f"authentic {claims.authentic} ({claims.reject_code}), expected {expected.authentic}")
    problems += [f"claim {name}" for name, value in expected.claims.items() if not _claimed(result, name, value)]
    want = (expected.default_policy or {}).get("accept")
    if isinstance(want, bool):  # null: the manifest leaves it open
        checks = judge(claims, CASES)
        bad = (*violations(checks), *contradicted(result))
        if (not bad) != want:
            problems.append(f"policy: {', '.join(bad) or 'accepts'}, expected accept {want}")
    return problems


def _claimed(result: TeeResult, name: str, value: Any) -> bool:
    record = msgspec.json.decode(msgspec.json.encode(result.claims))
    raw = record.pop("raw")
    found = raw[name] if name in raw else record.get(name)
    return bool(found == value)


def _xor(data: bytes, step: Mapping[str, Any]) -> bytes:
    changed = bytearray(data)
    changed[step["offset"]] ^= step["mask"]
    return bytes(changed)


def _write(data: bytes, step: Mapping[str, Any]) -> bytes:
    new = bytes.fromhex(step["hex"])
    return data[: step["offset"]] + new + data[step["offset"] + len(new) :]


def _replace_text(data: bytes, step: Mapping[str, Any]) -> bytes:
    old = step["old"].encode()
    if old not in data:
        raise ValueError("the text to replace is not there")
    return data.replace(old, step["new"].encode(), 1)


def _json_set(data: bytes, step: Mapping[str, Any]) -> bytes:
    document = strict_json(data, max_bytes=MAX_MANIFEST)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return msgspec.json.encode({**document, step["field"]: step["value"]})


_OPERATIONS: Mapping[str, Callable[[bytes, Mapping[str, Any]], bytes]] = {
    "xor": _xor,
    "write": _write,
    "truncate": lambda data, step: data[: step["length"]],
    "append": lambda data, step: data + bytes.fromhex(step["hex"]),
    "replace_text": _replace_text,
    "json_set": _json_set,
}
