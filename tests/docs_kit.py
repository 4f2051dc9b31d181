"""Reads the documents and the source for the tests that hold the one against the other."""

from __future__ import annotations

import argparse
import ast
import functools
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def text(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def pages() -> list[Path]:
    """Every document of the repository, in a stable order."""
    whole = ("docs", "policies", "tools", "changelog.d")
    top = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "bench").glob("*.md"))]  # below, other people's programs may lie
    return [*top, *(p for folder in whole for p in sorted((ROOT / folder).rglob("*.md")))]


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of `page` that carry one of `languages`; "" is a block without one."""
    found = re.findall(r"^```([a-z]*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [body for language, body in found if language in languages]


def rows(page: str, heading: str | None = None) -> list[list[str]]:
    """The cells of every table row of `page`, or of the part below `heading` up to the next one of its level."""
    if heading is not None:
        page = section(page, heading)
    lines = [line for line in page.split("\n") if line.startswith("|") and not line.startswith("| ---")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def section(page: str, heading: str) -> str:
    """What stands below `heading` (`## Codes`) up to the next heading of the same or a higher level."""
    level = len(heading) - len(heading.lstrip("#"))
    found: list[str] = []
    inside = fenced = False
    for line in page.split("\n"):
        fenced ^= line.startswith("```")
        if not fenced and re.match(rf"#{{1,{level}}} ", line):
            inside = line == heading
        elif inside:
            found.append(line)
    assert found, f"there is nothing below a heading {heading!r}"
    return "\n".join(found)


def ticked(part: str) -> set[str]:
    """Everything that stands between backticks, code blocks aside."""
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", part, flags=re.MULTILINE | re.DOTALL)))


def anchors(page: str) -> set[str]:
    """The fragment of each heading, as the usual renderers write it."""
    return {
        re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        for heading in re.findall(r"^#{1,6} (.+)$", page, re.MULTILINE)
    }


@functools.cache
def parsed(path: Path) -> ast.Module:
    """The tree of a source file; whoever gets it only reads it."""
    return ast.parse(path.read_text("utf-8"))


@functools.cache
def modules(folder: str) -> tuple[tuple[Path, ast.Module], ...]:
    """Every module below `folder`, or the one that it names."""
    paths = sorted((ROOT / folder).rglob("*.py")) if (ROOT / folder).is_dir() else [ROOT / folder]
    return tuple((path, parsed(path)) for path in paths)


@functools.cache
def calls(folder: str) -> tuple[tuple[str, ast.Call], ...]:
    """Every call below `folder`, with the last part of what is called."""
    return tuple(
        (getattr(node.func, "attr", getattr(node.func, "id", "")), node)
        for _, tree in modules(folder)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
    )


def constants(node: ast.AST | None) -> set[str]:
    """The texts that an expression may come to: a constant, or either branch of `x or y`, `x if c else y`."""
    if isinstance(node, ast.Constant):
        return {node.value} if isinstance(node.value, str) else set()
    if isinstance(node, ast.BoolOp):
        return set().union(*map(constants, node.values))
    if isinstance(node, ast.IfExp):
        return constants(node.body) | constants(node.orelse)
    return set()


def commands() -> dict[str, Any]:
    """Every command by name: ours, and those of the entry points."""
    from importlib.metadata import entry_points

    from gateway.cli import COMMANDS, EXTERNAL

    found = {name: importlib.import_module(module) for name, (module, _) in COMMANDS.items()}
    external = {point.name: point.load() for point in entry_points(group="gateway.commands")}
    assert external.keys() >= EXTERNAL.keys()
    return {**found, **external}


def parser(name: str, command: Any) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog=f"veriroute {name}")
    command.configure(made)
    return made


def flat(made: argparse.ArgumentParser) -> Iterator[tuple[argparse.ArgumentParser, argparse.Action]]:
    """Every action of a parser and of its subparsers, with the parser that it belongs to."""
    for action in made._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from flat(inner)
        elif not isinstance(action, argparse._HelpAction):
            yield made, action
