"""What the demo prints: text for a person, or one JSON object a line.

Both have the same methods, in the order in which they are called. What a model or a node said is made inert.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from gateway.model.verdict import Outcome
from gateway.text import plain

from .terminal import mark, printable, wants_colour

if TYPE_CHECKING:
    from gateway.model.receipt import Rejected

    from ._demo_children import Child
    from ._demo_story import Row
    from ._demo_world import World

_WIDTHS = (19, 4, 17, 8, 14, 9, 5)
_HEAD = ("request", "HTTP", "verdict", "release", "reason", "node", "ms")
_BOLD, _DIM, _YELLOW = "1", "2", "33"


class Show(Protocol):
    def starting(self, folder: Path) -> None: ...
    def started(self, world: World, size: int) -> None: ...
    def heading(self, text: str) -> None: ...
    def row(self, row: Row) -> None: ...
    def verified(self, world: World, bundle: Path, code: int, lines: Sequence[dict[str, Any]]) -> None: ...
    def ready(self, world: World, bundle: Path, rows: Sequence[Row], size: int) -> None: ...
    def staying(self) -> None: ...
    def lost(self, child: Child) -> None: ...
    def stopping(self) -> None: ...
    def stopped(self, folder: Path) -> None: ...


class JsonShow:
    """One event a line; the last one before the demo stays up or ends is `ready`."""

    def starting(self, folder: Path) -> None:
        self._put("starting", folder=str(folder))

    def started(self, world: World, size: int) -> None:
        for node in world.nodes:
            self._put("node", name=node.plan.name, url=node.url, pin=node.pin, models=node.plan.models)
        self._put("gateway", url=world.url, log_size=size)

    def heading(self, text: str) -> None:
        pass

    def row(self, row: Row) -> None:
        self._put("row", **msgspec.to_builtins(row))

    def verified(self, world: World, bundle: Path, code: int, lines: Sequence[dict[str, Any]]) -> None:
        self._put("verified", file=str(bundle), trust=str(world.trust), exit=code, checks=len(lines))

    def ready(self, world: World, bundle: Path, rows: Sequence[Row], size: int) -> None:
        self._put(
            "ready",
            base_url=f"{world.url}/v1",
            api_key=world.keys["agent"],
            admin_key=world.keys["ops"],
            config=str(world.config),
            trust=str(world.trust),
            log_size=size,
            as_expected=all(row.expected is None for row in rows),
        )

    def staying(self) -> None:
        pass

    def lost(self, child: Child) -> None:
        self._put("lost", name=child.name, exit=child.process.returncode)

    def stopping(self) -> None:
        pass

    def stopped(self, folder: Path) -> None:
        self._put("stopped", folder=str(folder))

    def _put(self, event: str, **values: object) -> None:
        sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
        sys.stdout.flush()


class TextShow:
    """For a person. With `recipes`, how to go on is said too."""

    def __init__(self, *, recipes: bool) -> None:
        self._recipes = recipes
        self._width = min(shutil.get_terminal_size((100, 24)).columns, 120) if sys.stdout.isatty() else 100
        self._titled = False

    def starting(self, folder: Path) -> None:
        self._put(f"starting three nodes and the gateway; everything is kept in {short(folder)}")

    def started(self, world: World, size: int) -> None:
        self._put("")
        width = max(len(url) for url in (world.url, *(node.url for node in world.nodes))) + 3
        for node in world.nodes:
            lies = "   changes what it signed" if "--dishonest" in node.plan.arguments else ""
            self._put(f"  {node.plan.name:<11}{node.url:<{width}}{', '.join(node.plan.models)}{lies}")
        self._put(f"  {'gateway':<11}{world.url:<{width}}policy signed; the log has {size} entries")

    def heading(self, text: str) -> None:
        if not self._titled:
            self._titled = True
            self._put("")
            self._put(_cells(_HEAD), _BOLD)
        self._put("")
        self._put(text)

    def row(self, row: Row) -> None:
        verdict = mark(Outcome(row.verdict), sys.stdout) if row.verdict else ""
        reason, node = plain(row.reason or "", _WIDTHS[4]), plain(row.node or "", _WIDTHS[5])
        self._put(_cells([row.request, str(row.status), verdict, row.release or "", reason, node, f"{row.ms:.0f}"]))
        told = f"{row.error} {row.code}: {row.said}" if row.error else row.said
        for left, line in zip_longest([row.receipt or "no receipt: not accepted"], self._told(row, told), fillvalue=""):
            self._put(f"    {left:<26}  {line}".rstrip(), _DIM)
        if row.expected is not None:
            wanted = " ".join(str(part) for part in row.expected if part is not None)
            self._put(f"    ! this had to end with {wanted}", _YELLOW)

    def _told(self, row: Row, told: str) -> list[str]:
        """What the agent got, in one line, or for an error in as many as it needs; and who was passed over for it."""
        lines = textwrap.wrap(
            plain(told),
            self._width - 33,
            max_lines=4 if row.error else 1,
            placeholder=" …",
            break_on_hyphens=False,
        )
        if row.asked:
            lines.append("asked: " + ", ".join(f"{plain(a.node)} ({plain(a.outcome)})" for a in row.asked))
        if row.passed_over and not row.error:
            lines.append("passed over: " + ", ".join(map(_passed_over, row.passed_over)))
        return lines

    def verified(self, world: World, bundle: Path, code: int, lines: Sequence[dict[str, Any]]) -> None:
        self._put("")
        self._put("the first receipt, checked offline against the gateway's public keys", _BOLD)
        for line in verify_lines(world, bundle):
            self._put("  " + line)
        for line in lines:
            if code != 0 and line["outcome"] != "affirming":
                self._put(f"    {mark(Outcome(line['outcome']), sys.stdout)}  {plain(line['sentence'])}")
        count = Counter(line["outcome"] for line in lines)
        sign = mark(Outcome.AFFIRMING if code == 0 else Outcome.CONTRAINDICATED, sys.stdout)
        self._put(
            f"  {sign}  exit {code}: {count['affirming']} lines affirming, {count['contraindicated']} contraindicated, "
            f"{count['none']} none (not in the file)"
        )

    def ready(self, world: World, bundle: Path, rows: Sequence[Row], size: int) -> None:
        wrong = sum(row.expected is not None for row in rows)
        self._put("")
        if wrong:
            self._put(f"{wrong} of {len(rows)} requests did not end as they have to", _YELLOW)
        if self._recipes:
            self._how_to_go_on(world, bundle)
        self._put(f"keys, settings, logs, and the log of {size} entries: {short(world.folder)}")

    def _how_to_go_on(self, world: World, bundle: Path) -> None:
        self._put(f"base_url  {world.url}/v1")
        self._put(f"api key   {world.keys['agent']}")
        for name, lines in _recipes(world, bundle):
            self._put("")
            self._put(name, _BOLD)
            for line in lines:
                self._put("  " + line)
        self._put("")

    def staying(self) -> None:
        self._put("the gateway stays up; Ctrl-C stops everything", _BOLD)

    def lost(self, child: Child) -> None:
        self._put(f"node {child.name} has stopped (exit {child.process.returncode}); the others go on")

    def stopping(self) -> None:
        self._put("")
        self._put("stopping")

    def stopped(self, folder: Path) -> None:
        self._put(f"stopped; the next run continues the log in {short(folder)}")

    def _put(self, text: str, style: str = "") -> None:
        text = printable(text, sys.stdout)
        sys.stdout.write((f"\x1b[{style}m{text}\x1b[0m" if style and wants_colour(sys.stdout) else text) + "\n")
        sys.stdout.flush()


def _cells(texts: Sequence[str]) -> str:
    """A row of the table; the last column is of numbers. A coloured text is of its column's width already."""
    row = [f"{text:<{width}}" for text, width in zip(texts, _WIDTHS, strict=True)]
    row[-1] = f"{texts[-1]:>{_WIDTHS[-1]}}"
    return "  " + "  ".join(row)


def _passed_over(node: Rejected) -> str:
    """A node that was not used, with the reason and what is behind it."""
    why = f"{node.reason}: {node.cause}" if node.cause else node.reason
    return f"{plain(node.node)} ({plain(why)})"


def short(path: Path) -> str:
    """`path` as one would type it from here."""
    here = Path.cwd()
    return plain(str(path.relative_to(here) if path.is_relative_to(here) and path != here else path))


def program(name: str) -> str:
    """How one would type a program of this environment: its name where the shell finds that very one, else its path."""
    own = Path(sys.executable).parent / name
    found = shutil.which(name)
    if found is not None and Path(found).parent == own.parent:
        return name
    return shlex.quote(short(own)) if own.exists() else f"{shlex.quote(sys.executable)} -m gateway"


def verify_lines(world: World, bundle: Path) -> list[str]:
    return [f"{program('veriroute')} verify {_quoted(bundle)} \\", f"  --trust {_quoted(world.trust)}"]


def _recipes(world: World, bundle: Path) -> list[tuple[str, list[str]]]:
    """Lines to copy into a shell."""
    key, ops = world.keys["agent"], world.keys["ops"]
    ask = '{"model":"veriroute-lm-1","messages":[{"role":"user","content":"What is a receipt?"}]}'
    return [
        (
            "curl",
            [
                f"curl {world.url}/v1/chat/completions \\",
                f"  -H 'authorization: Bearer {key}' \\",
                "  -H 'content-type: application/json' \\",
                f"  -d '{ask}'",
            ],
        ),
        (
            "python, with the openai SDK",
            [
                f'{program(os.path.basename(sys.executable))} -c "from openai import OpenAI; \\',
                f"  sdk = OpenAI(base_url='{world.url}/v1', \\",
                f"    api_key='{key}'); \\",
                "  ask = [{'role': 'user', 'content': 'What is a receipt?'}]; \\",
                "  answer = sdk.chat.completions.create(model='veriroute-lm-1', messages=ask); \\",
                '  print(answer.choices[0].message.content)"',
            ],
        ),
        (
            "look at it: every exchange, and the provenance of one",
            [
                f"VERIROUTE_ADMIN_KEY={ops} \\",
                f"  {program('veriroute')} tui {world.url} --trust {_quoted(world.trust)}",
            ],
        ),
        ("check a receipt without the gateway", verify_lines(world, bundle)),
    ]


def _quoted(path: Path) -> str:
    return shlex.quote(short(path))
