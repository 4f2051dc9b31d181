"""Check the stored audit log, and the sampled audits in it; export a part of it, and check such an export.

`verify` reads a database, also while a gateway serves from it, and shows whether it is the one log that was signed,
whole: entries, tree, checkpoints, documents, signatures, intents, columns, openings, archive, API keys and acts of the
command line, each as a line that names the first bad one. A log that was cut at its tail agrees with itself: only a
checkpoint or proof that somebody kept, or a checkpoint memory that lies elsewhere, shows it. Give them with --kept and
--memory; without any, the answer is 3.

Trust roots come from --trust. Without it the trust.txt beside the database's keys is used. Whoever changed the database
could have changed that too, and the checkpoint memory beside it: the answer is 3, unless --trust-stored-keys accepts
both.

Exit code: 0 all that was asked for is affirming, or a warning; 1 something is contraindicated; 2 usage; 3
something could not be decided.

examples:
  veriroute audit verify veriroute.db --trust gateway.trust --kept answer.tlog-proof --kept yesterday.checkpoint
  veriroute audit verify veriroute.db --trust gateway.trust --memory /var/lib/veriroute-memory/checkpoint
  veriroute audit epochs veriroute.db --trust gateway.trust --kept yesterday.checkpoint
  veriroute audit export veriroute.db --from 0 --to 5000 --format jsonl --out export-2026-11
  veriroute audit export veriroute.db --from 2026-11-01 --to 2026-12-01 --format csv --out columns-2026-11
  veriroute audit verify-export export-2026-11 --trust gateway.trust
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

from gateway.log.audit import Progress, audit
from gateway.log.audit_rows import Report, check_rows
from gateway.model.line import Line, exit_code
from gateway.storage.scan import Scan

from . import audit_epochs, audit_export
from .audit_files import ACCEPT, MEMORY, database, outside, stored_roots
from .terminal import Progress as Bar
from .terminal import as_document, show

HELP = "export and verify the audit log"

#: Entries that are checked at a time, and from how many on other processes are worth their start.
RUN = 1000
MANY = 20_000


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="act", required=True, metavar="verify|epochs|export|verify-export")
    verify = commands.add_parser("verify", help="check a stored log", description="Check a stored log.")
    verify.add_argument("database", metavar="DB", help="the database file, or its sqlite:/// URL")
    verify.add_argument("--trust", metavar="FILE", help="your trust roots (tlog-policy with #!receipt lines)")
    verify.add_argument("--trust-stored-keys", action="store_true", help=ACCEPT)
    verify.add_argument("--memory", metavar="FILE", help=MEMORY)
    verify.add_argument(
        "--kept",
        metavar="FILE",
        action="append",
        default=[],
        help="a checkpoint, tlog-proof or bundle that somebody kept",
    )
    verify.add_argument("--jobs", type=int, default=0, metavar="N", help="processes to use (default: one a processor)")
    verify.add_argument("--progress", action="store_true", help="say how far it is, also where that is no terminal")
    verify.add_argument("--json", action="store_true", help="one JSON document instead of lines")
    audit_epochs.configure(commands)
    audit_export.configure(commands)


def run(args: argparse.Namespace) -> int:
    if args.act == "verify":
        return _verify(args)
    if args.act == "epochs":
        return audit_epochs.run(args)
    return audit_export.export(args) if args.act == "export" else audit_export.verify_export(args)


def _verify(args: argparse.Namespace) -> int:
    path = database(args.database)
    roots, standing = stored_roots(path, args.trust, accept=args.trust_stored_keys)
    kept = outside(path, args.kept, args.memory, accept=args.trust_stored_keys)
    keys = None if roots is None else roots.receipt_key_map
    bar = Bar("entries", always=args.progress)
    lines: list[Line] = []
    with Scan(path) as scan:
        reports = _reports(scan, path, keys or None, args.jobs or os.cpu_count() or 1)
        for item in audit(scan, reports, roots=roots, standing=standing, outside=kept):
            if isinstance(item, Progress):
                bar.update(item.done, item.total)
            else:
                lines.append(item)
        size, origin = scan.size, scan.origin
    bar.clear()
    code = exit_code(lines)
    if args.json:
        document = {"database": path, "origin": origin, "size": size, "exit": code}
        sys.stdout.write(json.dumps({**document, "lines": [as_document(line) for line in lines]}, indent=1) + "\n")
    else:
        show(f"{path}: log {origin}, {size} entries", lines, code)
    return code


def _reports(scan: Scan, path: str, keys: Mapping[str, bytes] | None, jobs: int) -> Iterator[Report]:
    """Reports of all rows in the order of the log, from other processes when that is worth it."""
    if jobs > 1 and scan.size >= MANY and scan.is_dense():
        yield from _parallel(scan.size, path, keys, jobs)
        return
    expected, after = 0, 0
    while rows := scan.rows(after, scan.size, RUN):
        yield check_rows(rows, expected, keys)
        expected = after = rows[-1].place + 1


def _parallel(size: int, path: str, keys: Mapping[str, bytes] | None, jobs: int) -> Iterator[Report]:
    with ProcessPoolExecutor(jobs, get_context("spawn"), _open, (path, keys)) as pool:
        waiting: deque[Future[Report]] = deque()
        try:
            for first in range(0, size, RUN):
                waiting.append(pool.submit(_check, first, min(first + RUN, size)))
                if len(waiting) >= 4 * jobs:  # bounds what lies finished and unread
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


_worker: tuple[Scan, Mapping[str, bytes] | None] | None = None


def _open(path: str, keys: Mapping[str, bytes] | None) -> None:
    global _worker  # one connection for each process of the pool
    _worker = (Scan(path), keys)


def _check(first: int, end: int) -> Report:
    assert _worker is not None
    scan, keys = _worker
    return check_rows(scan.rows(first, end), first, keys)
