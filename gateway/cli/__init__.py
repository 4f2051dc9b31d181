"""The `veriroute` command: lazy dispatch, so that each command imports only what it needs.

A command is a module with three names: `HELP` (one line), `configure(parser)` and `run(args) -> int`. Ours stand in
`COMMANDS`; other packages add theirs through the entry-point group `gateway.commands`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import inspect
import io
import os
import sys
from types import ModuleType
from typing import Any, NoReturn, TextIO

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
#: 128 and the number of the signal, as of a program that a signal ends: SIGINT, and SIGPIPE, which Python ignores.
EXIT_INTERRUPTED, EXIT_NO_READER = 130, 141


def main(argv: list[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 refuted or failed, 2 usage, settings or output that cannot be written,
    3 could not be decided; 130 interrupted, 141 nobody reads the output any more.
    """
    if sys.stdout is None:  # `>&-`: what is printed would go into the next file that is opened, the database it may be
        _say("veriroute: standard output is closed; /dev/null takes what nobody wants")
        return EXIT_USAGE
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a sign that the terminal lacks is no reason to end
    try:
        try:
            return _run(sys.argv[1:] if argv is None else argv)
        finally:  # after argparse's help too; what stands in the buffer has reached nobody
            sys.stdout.flush()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        code = EXIT_NO_READER
    except OSError as error:
        where = f" ({error.filename!a})" if error.filename else ""
        _say(f"veriroute: cannot read or write: {error.strerror or error}{where}")
        code = EXIT_USAGE
    _drop(sys.stdout, sys.stderr)
    return code


def _run(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview())
        return EXIT_OK if args else EXIT_USAGE
    if args[0] in ("-V", "--version"):
        sys.stdout.write(f"veriroute {__version__}\n")
        return EXIT_OK
    try:
        command = _find(args[0])
    except VerirouteError as error:
        return _refused(args[0], error)
    if command is None:
        _say(f"veriroute: there is no command {args[0]!r}; `veriroute --help` lists them")
        return EXIT_USAGE
    about = inspect.cleandoc(getattr(command, "__doc__", None) or command.HELP)
    parser = _Parser(
        prog=f"veriroute {args[0]}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.configure(parser)
    _help_acts(parser, about)
    try:
        return int(command.run(parser.parse_args(args[1:])))
    except VerirouteError as error:
        return _refused(args[0], error)


def _refused(command: str, error: VerirouteError) -> int:
    from gateway.text import plain

    # A message may name a file as a document from outside calls it.
    _say(f"veriroute {command}: " + "\n".join(plain(line) for line in str(error).split("\n")))
    return EXIT_USAGE


class _Parser(argparse.ArgumentParser):
    """A usage error says where the help is; so do those of a command's acts, which are parsers of this class too.

    A value that is empty is a variable that was not set. Read as an option that is not there, it would ask for less:
    `--policy "$POLICY"` for no policy. Only in lists, as of operators, may one mean something.
    """

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        others = (argparse._AppendAction, argparse._SubParsersAction)  # an act's own parser looks at what it is given
        if arg_string == "" and not isinstance(action, others):
            raise argparse.ArgumentError(action, "the value is empty")
        return super()._get_value(action, arg_string)

    def error(self, message: str) -> NoReturn:
        from gateway.text import plain

        # It repeats arguments, and a shell's `*` makes arguments of the names of files.
        super().error(f"{plain(message)}; `{self.prog} --help` explains")


def _help_acts(parser: argparse.ArgumentParser, about: str) -> None:
    """Give each act of a command, `keys create`, the help that it lacks: its sentence, and its examples of `about`."""
    for acts in parser._actions:
        if not isinstance(acts, argparse._SubParsersAction):
            continue
        sentences = {choice.dest: choice.help or "" for choice in acts._choices_actions}
        for name, act in acts.choices.items():
            act.formatter_class = argparse.RawDescriptionHelpFormatter
            sentence = sentences.get(name, "")
            act.description = inspect.cleandoc(act.description or f"{sentence[:1].upper()}{sentence[1:]}.")
            if act.epilog is None and (examples := _examples(act.prog, about)):
                act.epilog = "examples:\n" + examples
            _help_acts(act, about)


def _examples(prog: str, about: str) -> str:
    """The lines of `about` that show `prog`, with those that a backslash carries on to."""
    shown: list[str] = []
    for line in about.split("\n"):
        if line.strip().startswith(prog + " ") or (shown and shown[-1].endswith("\\")):
            shown.append(("  " if line.strip().startswith(prog) else "      ") + line.strip())
    return "\n".join(shown)


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr)
    except OSError:  # the exit code has to do
        _drop(sys.stderr)


def _drop(*streams: TextIO) -> None:
    """Lead what could not be written nowhere: the interpreter's own try at its end would end in a code of its own."""
    with open(os.devnull, "wb") as nowhere:
        for stream in streams:
            with contextlib.suppress(OSError, AttributeError):  # no file behind it, or none at all
                os.dup2(nowhere.fileno(), stream.fileno())


def _find(name: str) -> ModuleType | Any | None:
    if name in COMMANDS:
        return importlib.import_module(COMMANDS[name][0])
    from importlib.metadata import entry_points

    for point in entry_points(group="gateway.commands", name=name):
        if point.dist is not None and point.dist.name == "veriroute":
            from ._install import check_install

            check_install(point.module.partition(".")[0])
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
