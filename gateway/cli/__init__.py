"""The `veriroute` command: lazy dispatch, so that each command imports only what it needs.

A command is a module with three names: `HELP` (one line), `configure(parser)` and `run(args) -> int`. Ours stand in
`COMMANDS`; other packages add theirs through the entry-point group `gateway.commands`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from types import ModuleType
from typing import Any

from gateway import __version__
from gateway.errors import VerirouteError

#: name -> (module, one line). The line stands here too so that `veriroute --help` imports nothing.
COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("gateway.cli.serve", "run the gateway"),
    "demo": ("gateway.cli.demo", "three nodes (one dishonest), the gateway, and real requests through the openai SDK"),
    "verify": ("gateway.cli.verify", "check a receipt bundle, or a receipt with its proof, offline"),
    "appraise": ("gateway.cli.appraise", "appraise evidence of a trusted execution environment, offline"),
    "proof": ("gateway.cli.proof", "judge proofs, re-executions and quorums of saved answers"),
    "calibrate": ("gateway.cli.calibrate", "measure what honest answers score against a reference"),
    "nodes": ("gateway.cli.nodes", "show which nodes a network has now, and what canaries found of them"),
    "doctor": (
        "gateway.cli.doctor",
        "check a network: registry, nodes, evidence; print each check with what was found",
    ),
    "keys": ("gateway.cli.keys", "create, list and revoke API keys"),
    "policy": ("gateway.cli.policy", "check and show policies"),
    "audit": ("gateway.cli.audit", "export and verify the audit log"),
    "config": ("gateway.cli.config", "show the effective settings, or document every one"),
}
EXTERNAL = {
    "node": "run the reference node: serve a model, or front a backend, and sign what passes",
    "ml": "check an ONNX inference of OpenGradient against the chain",
    "tui": "look at live exchanges and at one exchange's provenance",
}

EXIT_OK, EXIT_REJECTED, EXIT_USAGE, EXIT_UNDECIDED = 0, 1, 2, 3


def main(argv: list[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 refuted or failed, 2 usage or settings, 3 could not be decided."""
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview())
        return EXIT_OK if args else EXIT_USAGE
    if args[0] in ("-V", "--version"):
        sys.stdout.write(f"veriroute {__version__}\n")
        return EXIT_OK
    command = _find(args[0])
    if command is None:
        sys.stderr.write(f"veriroute: there is no command {args[0]!r}; `veriroute --help` lists them\n")
        return EXIT_USAGE
    parser = argparse.ArgumentParser(
        prog=f"veriroute {args[0]}",
        description=getattr(command, "__doc__", None) or command.HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.configure(parser)
    try:
        return int(command.run(parser.parse_args(args[1:])))
    except VerirouteError as error:
        from gateway.text import plain

        from .terminal import printable

        # A message may name a file as a document from outside calls it.
        words = "\n".join(plain(line) for line in str(error).split("\n"))
        sys.stderr.write(printable(f"veriroute {args[0]}: {words}", sys.stderr) + "\n")
        return EXIT_USAGE
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_REJECTED
    except KeyboardInterrupt:
        return 130


def _find(name: str) -> ModuleType | Any | None:
    if name in COMMANDS:
        return importlib.import_module(COMMANDS[name][0])
    from importlib.metadata import entry_points

    for point in entry_points(group="gateway.commands", name=name):
        return point.load()
    return None


def _overview() -> str:
    lines = [
        "usage: veriroute COMMAND [options]",
        "",
        "Verifies the evidence of an inference network before an agent relies on the answer.",
        "",
    ]
    width = max(map(len, [*COMMANDS, *EXTERNAL])) + 2
    for name, line in [*((n, c[1]) for n, c in COMMANDS.items()), *EXTERNAL.items()]:
        lines.append(f"  {name:<{width}}{line}")
    lines += ["", "`veriroute COMMAND --help` explains a command and shows examples.", ""]
    return "\n".join(lines)
