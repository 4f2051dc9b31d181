"""Checking an export's folder: the manifest, the files, and the entries against the signed log. Streams."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from hashlib import sha256

from gateway.crypto.merkle import leaf_hash
from gateway.errors import FormatError, ProofError
from gateway.log.checkpoint import Checkpoint, parse_checkpoint
from gateway.log.dsse import Envelope, parse_envelope, verify_envelope
from gateway.log.export import (
    PAYLOAD_TYPE,
    EntryLine,
    ExportFile,
    Manifest,
    RangeRoot,
    parse_entry_line,
    parse_manifest,
)
from gateway.log.note import parse_note
from gateway.log.trust import TrustPolicy, open_with_trust, witnessed_line
from gateway.model.line import Line, not_run
from gateway.model.verdict import Outcome

from .audit_files import Usage, read

#: The steps, in order: the manifest's signature, its checkpoint and who cosigned that, the files as bytes, the entries,
#: the range's root.
STEPS = ("manifest", "checkpoint", "witnessed", "files", "entries", "range")
SIGNED, UNSIGNED = "manifest.dsse.json", "manifest.json"
MAX_LINE = 8 << 20
_BLOCK = 1 << 20


def check_export(folder: str, trust: TrustPolicy | None, progress: Callable[[int, int], None]) -> list[Line]:
    """One line for each of `STEPS`. Raises `Usage` when there is no export to look at.

    `progress` is told how many of how many entries have been looked at.
    """
    names = _names(folder)
    found = next((name for name in (SIGNED, UNSIGNED) if os.path.isfile(os.path.join(folder, name))), None)
    if found is None:
        raise Usage(f"{folder} holds no manifest: it is no export, or one that was never finished")
    manifest, first = _manifest(folder, found, trust)
    if manifest is None:
        return [first, *not_run(STEPS[1:], "the manifest does not hold")]
    head, logged = _checkpoint(manifest, trust)
    files = _files(folder, names, manifest)
    shown = [first, *logged, files]
    if files.outcome is not Outcome.AFFIRMING:
        return [*shown, *not_run(STEPS[4:], "the files are not those of the manifest")]
    if manifest.format == "csv":
        why = "columns hold no signed documents; export jsonl to show what the log holds"
        return [*shown, *(Line(step, Outcome.NONE, why, claimed=False) for step in STEPS[4:])]
    return [*shown, *_entries(folder, manifest, head, trust, progress)]


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError as error:
        raise Usage(f"cannot read {folder}: {error.strerror}") from None


def _manifest(folder: str, name: str, trust: TrustPolicy | None) -> tuple[Manifest | None, Line]:
    data = read(os.path.join(folder, name))
    try:
        if name == UNSIGNED:
            line = Line("manifest", Outcome.NONE, "THE MANIFEST IS NOT SIGNED: whoever changed a file could change it")
            return parse_manifest(data), line
        envelope = parse_envelope(data)
        line = _signed(envelope, trust)
        if envelope.payload_type != PAYLOAD_TYPE:
            raise FormatError(f"the payload's type is {envelope.payload_type!a}")
        return parse_manifest(envelope.payload) if line.outcome is not Outcome.CONTRAINDICATED else None, line
    except FormatError as error:
        return None, Line("manifest", Outcome.CONTRAINDICATED, "the manifest is malformed", detail=str(error))


def _signed(envelope: Envelope, trust: TrustPolicy | None) -> Line:
    keys = {} if trust is None else trust.receipt_key_map
    try:
        names = ", ".join(verify_envelope(envelope, keys))
        return Line("manifest", Outcome.AFFIRMING, "a receipt key of your trust file signed the manifest", detail=names)
    except ProofError as error:
        known = any(s.keyid in keys for s in envelope.signatures)
        outcome = Outcome.CONTRAINDICATED if known else Outcome.NONE
        sentence = str(error) if known else "signed by no receipt key that you trust"
        return Line("manifest", outcome, sentence, detail=", ".join(s.keyid for s in envelope.signatures))


def _checkpoint(manifest: Manifest, trust: TrustPolicy | None) -> tuple[Checkpoint | None, list[Line]]:
    note = manifest.checkpoint.encode("utf-8", "surrogatepass")
    try:
        if trust is None:
            head = parse_checkpoint(parse_note(note)[0])
            line = Line("checkpoint", Outcome.NONE, "no trust file: the tree head's signature is not decided")
            return head, [line, *not_run(["witnessed"], "no trust file")]
        cosigned = open_with_trust(note, trust, manifest.origin)
    except FormatError as error:
        line = Line("checkpoint", Outcome.CONTRAINDICATED, "the tree head does not hold", detail=str(error))
        return None, [line, *not_run(["witnessed"], "the tree head does not hold")]
    head = cosigned.checkpoint
    detail = f"log {head.origin}, size {head.size}, root {head.root.hex()}"
    line = Line("checkpoint", Outcome.AFFIRMING, "a trusted log key signed the tree head", detail=detail)
    return head, [line, witnessed_line(cosigned, trust)]


def _files(folder: str, names: list[str], manifest: Manifest) -> Line:
    wanted = {file.name for file in manifest.files}
    strange = [name for name in names if name not in wanted and name not in (SIGNED, UNSIGNED)]
    if strange or (SIGNED in names and UNSIGNED in names):
        sentence = f"the folder holds what the manifest does not name: {', '.join(strange) or UNSIGNED}"
        return Line("files", Outcome.CONTRAINDICATED, sentence)
    for file in manifest.files:
        problem = _file_problem(os.path.join(folder, file.name), file)
        if problem is not None:
            return Line("files", Outcome.CONTRAINDICATED, f"{file.name}: {problem}")
    if sum(file.count for file in manifest.files) != manifest.count:
        return Line("files", Outcome.CONTRAINDICATED, "the files' counts do not add up to the manifest's")
    number = "1 file" if len(wanted) == 1 else f"{len(wanted)} files"
    sentence = f"{number}, byte for byte as the manifest says, {manifest.count} records"
    return Line("files", Outcome.AFFIRMING, sentence)


def _file_problem(path: str, file: ExportFile) -> str | None:
    digest, length = sha256(), 0
    if not os.path.isfile(path):  # or a pipe, or a link to a device, and reading never ends
        return "is not there as a file"
    try:
        with open(path, "rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
                length += len(block)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if length != file.bytes:
        return f"has {length} bytes, the manifest says {file.bytes}"
    return None if digest.hexdigest() == file.sha256 else "its bytes are not those that the manifest names"


def _entries(
    folder: str,
    manifest: Manifest,
    head: Checkpoint | None,
    trust: TrustPolicy | None,
    progress: Callable[[int, int], None],
) -> list[Line]:
    span = manifest.range
    keys = {} if trust is None else trust.receipt_key_map
    damaged: list[int] = []
    at = span.first
    try:
        left, right = manifest.covers()
        tree = RangeRoot(span.first, left)
        for line in _lines(folder, manifest):
            entry = _entry(line, keys)
            if entry.envelope is None:
                damaged.append(at)
            tree.add(leaf_hash(entry.leaf))
            at += 1
            if at - span.first <= manifest.count:  # there may be more lines than it says
                progress(at - span.first, manifest.count)
    except FormatError as error:
        bad = Line("entries", Outcome.CONTRAINDICATED, f"entry {at} does not hold: {error}")
        return [bad, *not_run(STEPS[5:], "an entry does not hold")]
    return [_entries_line(manifest, at - span.first, damaged, bool(keys)), _range(manifest, head, tree, right, at)]


def _lines(folder: str, manifest: Manifest) -> Iterator[bytes]:
    for file in manifest.files:  # all of them: what is called part of the export has to be part of the log
        with open(os.path.join(folder, file.name), "rb") as stream:
            while line := stream.readline(MAX_LINE):
                yield line


def _entry(line: bytes, keys: dict[str, bytes]) -> EntryLine:
    if not line.endswith(b"\n"):
        raise FormatError("the line has no end")
    entry = parse_entry_line(line[:-1])
    # An intent is signed by nobody: that the range leads to the signed root vouches for it.
    vouched = entry.kind == "intent" and entry.envelope is not None and not entry.envelope.signatures
    if keys and entry.envelope is not None and not vouched:
        verify_envelope(entry.envelope, keys)
    return entry


def _entries_line(manifest: Manifest, count: int, damaged: list[int], signed: bool) -> Line:
    if count != manifest.count:
        sentence = f"the file has {count} entries, the manifest says {manifest.count}"
        return Line("entries", Outcome.CONTRAINDICATED, sentence)
    if damaged:
        sentence = f"entry {damaged[0]} was damaged in the database already and is exported as such"
        return Line("entries", Outcome.CONTRAINDICATED, sentence, detail=f"{len(damaged)} such entries")
    if not signed:
        return Line("entries", Outcome.NONE, f"{count} entries; no receipt key to check their signatures with")
    return Line("entries", Outcome.AFFIRMING, f"{count} entries, each signed by a trusted receipt key")


def _range(manifest: Manifest, head: Checkpoint | None, tree: RangeRoot, right: list[bytes], at: int) -> Line:
    span = manifest.range
    if head is None:
        return Line("range", Outcome.NONE, "not looked at: the tree head does not hold")
    if at != span.end:
        return Line("range", Outcome.CONTRAINDICATED, f"the entries end at {at}, the manifest says {span.end}")
    try:
        root = tree.close(right, head.size)
    except FormatError as error:
        return Line("range", Outcome.CONTRAINDICATED, "the manifest's hashes do not fit the range", detail=str(error))
    if root != head.root:
        sentence = "the entries are not those that the tree head was signed over"
        return Line("range", Outcome.CONTRAINDICATED, sentence, detail=f"found root {root.hex()}")
    return Line(
        "range", Outcome.AFFIRMING, f"they are the entries [{span.first}, {span.end}) of the {head.size} signed"
    )
