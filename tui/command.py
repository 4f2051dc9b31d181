"""`veriroute tui`: look at live exchanges, and at one exchange's provenance.

Textual is imported when the command runs, not when it is listed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import ConfigError

if TYPE_CHECKING:
    from .reverify import Pins
    from .source import Source

DEFAULT_ADDRESS = "http://127.0.0.1:8080"
KEY_VARIABLE = "VERIROUTE_ADMIN_KEY"


class TuiCommand:
    """Look at live exchanges, and at one exchange's provenance.

    examples:
      veriroute tui                                  # the gateway on this machine (key from VERIROUTE_ADMIN_KEY)
      veriroute tui https://gateway.example          # another gateway
      veriroute tui /var/lib/veriroute/gateway.db    # its database file, read-only, also while the gateway runs
      veriroute tui --trust trust.txt                # check receipts against keys that you had from elsewhere
      veriroute tui --demo                           # synthetic data, no gateway needed

    Keys of the keyboard are listed by `?` inside, and in docs/tui.md.
    """

    HELP = "look at live exchanges and at one exchange's provenance"

    @staticmethod
    def configure(parser: argparse.ArgumentParser) -> None:
        """The arguments."""
        parser.add_argument("source", nargs="?", metavar="URL|DB", help=f"gateway or file (default {DEFAULT_ADDRESS})")
        parser.add_argument(
            "--key", metavar="K", help=f"admin key; better in ${KEY_VARIABLE}, where other users cannot list it"
        )
        parser.add_argument("--trust", metavar="FILE", help="trust file: the keys that receipts are checked with here")
        parser.add_argument("--demo", action="store_true", help="synthetic data, marked as such on every screen")
        parser.add_argument("--ascii", action="store_true", help="no signs beyond ASCII for verdicts and guides")
        parser.add_argument("--clear-text", action="store_true", help="allow http:// to another machine: shows the key")

    @staticmethod
    def run(args: argparse.Namespace) -> int:
        """Run until quit. 0, or 1 when the source could never be reached."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):  # Textual draws on standard error
            raise ConfigError("the TUI needs a terminal; `veriroute audit` and `veriroute verify` do without one")
        source, pins = open_source(args)
        from .app import VerirouteApp

        return VerirouteApp(source, pins=pins, ascii_only=args.ascii).run() or 0


command = TuiCommand()
command.__doc__ = TuiCommand.__doc__


def open_source(args: argparse.Namespace) -> tuple[Source, Pins]:
    """The source that the arguments name, and the trust roots; ConfigError or NotFound when they name none."""
    from .reverify import load_pins

    if args.demo:
        if args.source:
            raise ConfigError("--demo invents its data; leave out the address or file")
        from .demo_source import DemoSource, demo_pins

        return DemoSource(), load_pins(args.trust) if args.trust else demo_pins()
    pins = load_pins(args.trust)
    named = args.source or DEFAULT_ADDRESS
    if "://" in named:
        from .http_source import HttpSource

        key = args.key or os.environ.get(KEY_VARIABLE, "")
        if not key:
            raise ConfigError(
                f"no admin key: set {KEY_VARIABLE} or give --key;"
                " `veriroute keys create --name tui --scope admin` makes one, `veriroute tui --demo` needs none"
            )
        return HttpSource(named, key, clear_text=args.clear_text), pins
    if re.fullmatch(r"[^/]+:\d+/?", named) and not Path(named).exists():
        raise ConfigError(f"there is no file {named}; did you mean http://{named}?")
    from .file_source import FileSource

    return FileSource(Path(named)), pins
