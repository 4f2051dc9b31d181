"""`veriroute audit epochs`: were the audits held that had to be, recomputed from a stored log."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gateway.log.audit import Progress, audit
from gateway.log.audit_rows import Report, check_rows
from gateway.model.line import Line, exit_code
from gateway.model.verdict import Outcome
from gateway.offline.epochs import Epochs
from gateway.storage.scan import Scan
from gateway.text import plain

from .audit_files import ACCEPT, MEMORY, Usage, database, outside, stored_roots
from .terminal import as_document, show

RUN = 1000

_ABOUT = """Recompute from the log which answers had to be audited, and compare that with the audits that it has.

An epoch's seed is committed to in the log before the first request, and revealed after the last audit. The seed and a
request's receipt id decide whether its answer is audited. So anybody who has the log can tell which audits are missing.
The log itself is checked first, as `veriroute audit verify` does; then for every epoch, each as a line:

  commitment   the log had it before the first request that was taken under it; its reveal is due in bounded time
  reveal       the seed was revealed, it is the one committed to, and nothing was taken under it afterwards
  selection    exactly the answers that the seed selects were audited: none missing, extra, or of no released answer;
               each was drawn under the epoch that was in force, and at the one rate of its policy
  audits       what they found; a failed one without its alarm is contraindicated, one with it is a warning

Exit code: 0 all that was asked for is affirming, or a warning; 1 something is contraindicated; 2 usage; 3
something could not be decided."""
_EXAMPLES = """examples:
  veriroute audit epochs veriroute.db --trust gateway.trust --kept yesterday.checkpoint
  veriroute audit epochs veriroute.db --trust-stored-keys --epoch 01K9ZQ4V5R8S3T6W7X8Y9ZABCD --json"""


def configure(commands: Any) -> None:
    parser: argparse.ArgumentParser = commands.add_parser(
        "epochs",
        help="check sampled audits",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("database", metavar="DB", help="the database file, or its sqlite:/// URL")
    parser.add_argument("--epoch", metavar="ID", help="this epoch alone")
    parser.add_argument("--trust", metavar="FILE", help="your trust roots (tlog-policy with #!receipt lines)")
    parser.add_argument("--trust-stored-keys", action="store_true", help=ACCEPT)
    parser.add_argument("--memory", metavar="FILE", help=MEMORY)
    parser.add_argument(
        "--kept",
        metavar="FILE",
        action="append",
        default=[],
        help="a checkpoint, tlog-proof or bundle that somebody kept",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of lines")


def run(args: argparse.Namespace) -> int:
    """Check and show; the exit code."""
    path = database(args.database)
    roots, standing = stored_roots(path, args.trust, accept=args.trust_stored_keys)
    kept = outside(path, args.kept, args.memory, accept=args.trust_stored_keys)
    epochs = Epochs()
    with Scan(path) as scan:
        reports = _watched(scan, None if roots is None else roots.receipt_key_map or None, epochs)
        steps = audit(scan, reports, roots=roots, standing=standing, outside=kept)
        lines = [item for item in steps if not isinstance(item, Progress)]
        size, origin = scan.size, scan.origin
    if args.epoch is not None and args.epoch not in epochs.ids():
        raise Usage(f"the log has no epoch {plain(args.epoch)}; it has {len(epochs.ids())}")
    lines += epochs.lines(time.time_ns() // 1_000_000, args.epoch) or [_NONE]
    code = exit_code(lines)
    if args.json:
        found = [msgspec.to_builtins(summary) for summary in epochs.summaries(args.epoch)]
        document = {"database": path, "origin": origin, "size": size, "exit": code, "epochs": found}
        sys.stdout.write(json.dumps({**document, "lines": [as_document(line) for line in lines]}, indent=1) + "\n")
    else:
        show(f"{path}: log {origin}, {size} entries, {len(epochs.ids())} epochs", lines, code)
    return code


_NONE = Line("epochs", Outcome.NONE, "the log has no epoch: nothing was to be audited by sample", claimed=False)


def _watched(scan: Scan, keys: Mapping[str, bytes] | None, epochs: Epochs) -> Iterator[Report]:
    """The reports on all rows in the order of the log; `epochs` sees the same rows."""
    expected, after = 0, 0
    while rows := scan.rows(after, scan.size, RUN):
        for row in rows:
            epochs.take(row)
        yield check_rows(rows, expected, keys)
        expected = after = rows[-1].place + 1
