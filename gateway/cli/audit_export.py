"""`veriroute audit export` and `verify-export`: files, atomically; what is in them is `gateway.log.export`'s.

An export is a folder: `entries.jsonl` or `receipts.csv`, and the manifest (`manifest.dsse.json` signed with the receipt
key, `manifest.json` unsigned). It is written under a temporary name beside the final one and renamed when everything is
on disk, so under the final name there is a whole export or nothing. What exists is never overwritten.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from typing import IO, Any

import msgspec

from gateway.csv_cells import cell
from gateway.entropy import fresh
from gateway.log.checkpoint import parse_checkpoint
from gateway.log.dsse import sign_envelope
from gateway.log.export import (
    PAYLOAD_TYPE,
    ExportFile,
    Manifest,
    Range,
    cover_hashes,
    damaged_line,
    entry_line,
    format_manifest,
)
from gateway.log.note import NoteSigner, parse_note
from gateway.model.line import exit_code
from gateway.model.receipt import instant
from gateway.storage.engine import require_file
from gateway.storage.reads import Reader
from gateway.storage.scan import RECEIPT_COLUMNS, Scan
from gateway.storage.writes import AdminWriter
from gateway.text import plain

from .actor import actor
from .audit_files import Usage, database, signing_key, trust_file
from .export_check import check_export
from .terminal import Progress as Bar
from .terminal import as_document, show

PAGE = 500


def configure(commands: Any) -> None:
    export_ = commands.add_parser("export", help="write a range of the log to files", description=export.__doc__)
    export_.add_argument("database", metavar="DB", help="the database file, or its sqlite:/// URL")
    export_.add_argument(
        "--format",
        choices=["jsonl", "csv"],
        default="jsonl",
        help="jsonl: every entry, signed, with proofs and audits; csv: columns of receipts",
    )
    export_.add_argument(
        "--from", dest="first", type=_place, default=0, metavar="A", help="first log index, or a time (default 0)"
    )
    export_.add_argument(
        "--to", dest="end", type=_place, metavar="B", help="first index left out, or a time (default: all signed)"
    )
    export_.add_argument("--out", required=True, metavar="DIR", help="folder to make; it must not exist")
    export_.add_argument("--key", metavar="FILE", help="the receipt key (default: DB.keys/receipt.key)")
    export_.add_argument("--unsigned", action="store_true", help="write the manifest without a signature")
    export_.add_argument("--unrecorded", action="store_true", help="ask for no export entry in the log")
    export_.add_argument("--progress", action="store_true", help="say how far it is, also where that is no terminal")
    export_.add_argument("--json", action="store_true", help="print the manifest's range, counts and digests as JSON")
    check = commands.add_parser("verify-export", help="check an export", description=verify_export.__doc__)
    check.add_argument("folder", metavar="DIR", help="the export")
    check.add_argument("--trust", metavar="FILE", help="your trust roots (tlog-policy with #!receipt lines)")
    check.add_argument("--progress", action="store_true", help="say how far it is, also where that is no terminal")
    check.add_argument("--json", action="store_true", help="one JSON document instead of lines")


def _place(text: str) -> int | datetime:
    """A log index, or a time: `2026-11-01` (midnight UTC), `2026-11-01T08:00:00Z`, with any offset."""
    if text.isascii() and text.removeprefix("-").isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!a} is neither a log index nor a time like 2026-11-01 or 2026-11-01T08:00:00Z"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _indexed(args: argparse.Namespace, reader: Reader, size: int) -> None:
    """Turn times into indexes: that of the first entry that became durable at or after the moment, `size` at most.

    A gateway may write on, and what it has written since the tree head of `size` was read is not under that.
    """
    for name in ("first", "end"):
        value = getattr(args, name)
        if isinstance(value, datetime):
            setattr(args, name, min(reader.size_before(int(value.timestamp() * 1000)), size))


def export(args: argparse.Namespace) -> int:
    """Write the entries [A, B) of the log, with a signed manifest, to a new folder.

    A and B are log indexes, or times: `--from 2026-11-01 --to 2026-12-01` is November in UTC, by the moment at which an
    entry became durable.

    jsonl holds every entry of every kind as its signed DSSE envelope, one a line, in log order, without loss. csv holds
    the columns of receipts; its cells are inert in spreadsheet programs and read back by the rule of docs/audit.md. The
    export itself is recorded in the log by the gateway that serves the database, now or when it next starts.
    """
    path = database(args.database)
    final = os.path.abspath(args.out)
    if os.path.lexists(final):
        raise Usage(f"{plain(args.out)} exists already; nothing is overwritten")
    require_file(path)  # before the key, which is looked for beside it
    signer = _signer(args, path)
    with Reader(path) as reader, Scan(path) as scan, _staged(final) as (folder, publish):
        note, size = _head(reader)
        _indexed(args, reader, size)
        span = _span(args, size)
        bar = Bar("entries", always=args.progress)
        file = (_write_jsonl if args.format == "jsonl" else _write_csv)(folder, reader, scan, span, bar)
        bar.clear()
        manifest = Manifest(
            origin=reader.origin() or "",
            range=span,
            count=file.count,
            format=args.format,
            time_created=instant(time.time_ns() // 1_000_000),
            checkpoint=note.decode(),
            left=cover_hashes(0, span.first, reader.node_hash),
            right=cover_hashes(span.end, size, reader.node_hash),
            files=(file,),
        )
        written = _write_manifest(folder, manifest, signer)
        if not args.unrecorded:
            _record(path, manifest, written)
        publish()
    _report(args, final, manifest, signed=signer is not None)
    return 0


def _report(args: argparse.Namespace, final: str, manifest: Manifest, *, signed: bool) -> None:
    span, file = manifest.range, manifest.files[0]
    if args.json:
        values = {"out": final, "from": span.first, "to": span.end, "count": manifest.count, "signed": signed}
        sys.stdout.write(json.dumps({**values, "file": file.name, "sha256": file.sha256}, indent=1) + "\n")
        return
    word = "signed" if signed else "UNSIGNED"
    sys.stdout.write(
        f"{plain(final)}: {file.count} records of the entries [{span.first}, {span.end}), manifest {word}\n"
        f"check it with: veriroute audit verify-export {plain(args.out)} --trust FILE\n"
    )


def verify_export(args: argparse.Namespace) -> int:
    """Check an export: manifest, files, entries, and that together they are that part of the signed log."""
    trust = None if args.trust is None else trust_file(args.trust)
    bar = Bar("entries", always=args.progress)
    lines = check_export(args.folder, trust, bar.update)
    bar.clear()
    code = exit_code(lines)
    if args.json:
        document = {"folder": args.folder, "exit": code, "lines": [as_document(line) for line in lines]}
        sys.stdout.write(json.dumps(document, indent=1) + "\n")
    else:
        show(f"{args.folder}: export", lines, code)
    return code


def _signer(args: argparse.Namespace, path: str) -> NoteSigner | None:
    if args.unsigned:
        if args.key is not None:
            raise Usage("--unsigned and --key exclude each other")
        return None
    try:
        return signing_key(args.key or os.path.join(path + ".keys", "receipt.key"))
    except Usage as error:
        raise Usage(f"{error}. The manifest is signed with the receipt key: give --key, or --unsigned") from None


def _head(reader: Reader) -> tuple[bytes, int]:
    note = reader.checkpoint()
    if note is None:
        raise Usage("the database holds no checkpoint, so there is nothing that an export could be shown to be part of")
    return note, parse_checkpoint(parse_note(note)[0]).size


def _span(args: argparse.Namespace, size: int) -> Range:
    end = size if args.end is None else args.end
    if not 0 <= args.first < end <= size:
        raise Usage(f"the range [{args.first}, {end}) is empty or not within the {size} entries that are signed")
    return Range(args.first, end)


@contextmanager
def _staged(final: str) -> Iterator[tuple[str, Callable[[], None]]]:
    """A temporary folder beside `final`, and the act that gives it the final name. Whatever fails leaves neither."""
    parent = os.path.dirname(final)
    try:
        folder = tempfile.mkdtemp(prefix=".export-", dir=parent)
    except FileNotFoundError:
        raise Usage(f"there is no folder {plain(parent)} to put the export into: make it first") from None
    except OSError as error:
        raise Usage(f"cannot write beside {plain(final)}: {error.strerror}") from None

    def publish() -> None:
        _sync_folder(folder)
        os.rename(folder, final)  # onto an empty folder or a fresh name only; anything else refuses
        _sync_folder(os.path.dirname(final))

    try:
        yield folder, publish
    except OSError as error:
        raise Usage(f"cannot write the export: {error.strerror}; nothing is left of it") from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync_folder(folder: str) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _File:
    """A file being written: digest, length and count of what went in."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = sha256()
        self.bytes = 0
        self.count = 0

    def write(self, text: str) -> int:
        """For `csv.writer`, which makes a row a call."""
        self.put(text.encode())
        return len(text)

    def put(self, data: bytes) -> None:
        self._stream.write(data)
        self._digest.update(data)
        self.bytes += len(data)

    def done(self, name: str) -> ExportFile:
        self._stream.flush()
        os.fsync(self._stream.fileno())
        return ExportFile(name, self._digest.hexdigest(), self.bytes, self.count)


def _write_jsonl(folder: str, reader: Reader, scan: Scan, span: Range, bar: Bar) -> ExportFile:
    name = "entries.jsonl"
    with open(os.path.join(folder, name), "xb") as stream:
        file = _File(stream)
        after = span.first
        while after < span.end:
            rows = scan.rows(after, min(after + PAGE, span.end), PAGE)
            if [row.place for row in rows] != list(range(after, min(after + PAGE, span.end))):
                raise Usage(f"entries are missing from {after} on; `veriroute audit verify` says which")
            for row in rows:
                line = None if row.envelope is None else entry_line(row.envelope)
                file.put(line or damaged_line(row.place, row.leaf, row.envelope))
                file.count += 1
            after = rows[-1].place + 1
            bar.update(after - span.first, span.end - span.first)
        return file.done(name)


def _write_csv(folder: str, reader: Reader, scan: Scan, span: Range, bar: Bar) -> ExportFile:
    name = "receipts.csv"
    with open(os.path.join(folder, name), "xb") as stream:
        file = _File(stream)
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow([*RECEIPT_COLUMNS, "leaf"])
        for row in scan.receipts(span.first, span.end):
            writer.writerow([_cell(value) for value in row])
            file.count += 1
            bar.update(int(row[0]) + 1 - span.first, span.end - span.first)  # type: ignore[call-overload]
        return file.done(name)


def _cell(value: object) -> str:
    if isinstance(value, bytes):  # the entry, one line of text
        return cell(value.decode("utf-8", "surrogateescape").removesuffix("\n"))
    if isinstance(value, (int, float)):
        return cell(repr(value)) if value < 0 else repr(value)
    return cell(value if value is None else str(value))


def _write_manifest(folder: str, manifest: Manifest, signer: NoteSigner | None) -> bytes:
    data = format_manifest(manifest)
    name = "manifest.json"
    if signer is not None:
        name, data = "manifest.dsse.json", sign_envelope(data, PAYLOAD_TYPE, signer)
    with open(os.path.join(folder, name), "xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return data


def _record(path: str, manifest: Manifest, written: bytes) -> None:
    """Ask the gateway for an `export` entry: who took what out (PCI DSS 10.2.1.3, HIPAA 164.312(b))."""
    document = {
        "timeCreated": manifest.time_created,
        "nonce": fresh(16).hex(),
        "actor": actor(),
        "range": manifest.range,
        "format": manifest.format,
        "count": manifest.count,
        "manifest": {"sha256": sha256(written).hexdigest()},
    }
    with AdminWriter(path) as writer:
        writer.add_event("export", msgspec.json.encode(document), time.time_ns() // 1_000_000)
