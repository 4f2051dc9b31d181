"""Commands, links and paths in the documents are real ones."""

from __future__ import annotations

import argparse
import re
import shlex
from pathlib import Path

import docs_kit as kit
import pytest

from gateway.cli import COMMANDS, EXIT_OK, EXIT_REJECTED, EXIT_UNDECIDED, EXIT_USAGE, EXTERNAL, main
from gateway.cli._demo_world import NODES

CLI, README = kit.text("docs/cli.md"), kit.text("README.md")
ALL = kit.commands()


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_option_of_a_command_is_documented(name: str) -> None:
    """docs/cli.md has each option, positional and act of the command below its heading, and no option it has not."""
    part = kit.section(CLI, f"## veriroute {name}")
    made = kit.parser(name, ALL[name])
    options: set[str] = set()
    words = " ".join(kit.ticked(part))
    for inner, action in kit.flat(made):
        options |= set(action.option_strings)
        assert inner.prog in f"veriroute {name}" or f"`{inner.prog}" in part, inner.prog
        for spelling in action.option_strings:
            assert re.search(rf"(?<![\w-]){spelling}(?![\w-])", words), f"{inner.prog} {spelling}"
        if not action.option_strings:
            shown = str(action.metavar or action.dest).split("|")
            assert all(word in words for word in shown if word.isupper()), f"{inner.prog} {shown}"
        if action.choices is not None and action.dest not in ("scope", "log_level"):
            assert {str(choice) for choice in action.choices} <= set(re.findall(r"[\w-]+", words)), action.dest
    assert set(re.findall(r"(?<![\w-])--[a-z-]+", words)) <= options


def test_every_command_is_listed() -> None:
    """README, docs/cli.md and `veriroute --help` know the same commands."""
    listed = [row[0].strip("`").removeprefix("veriroute ") for row in kit.rows(README, "## Commands")[1:]]
    assert sorted(listed) == sorted(ALL) == sorted({**COMMANDS, **EXTERNAL})
    assert sorted(re.findall(r"^## veriroute (\w+)$", CLI, re.MULTILINE)) == sorted(ALL)


def test_help_says_what_the_overview_says() -> None:
    """The one line of a command is the same in the overview and in its own module."""
    overview = {name: line for name, (_, line) in COMMANDS.items()} | EXTERNAL
    assert {name: command.HELP for name, command in ALL.items()} == overview


def test_exit_codes_are_documented() -> None:
    """The four exit codes are in docs/cli.md as the program has them."""
    assert (EXIT_OK, EXIT_REJECTED, EXIT_USAGE, EXIT_UNDECIDED) == (0, 1, 2, 3)
    assert "0 done, 1 refuted or failed, 2 wrong usage or settings, 3 could not be decided" in " ".join(CLI.split())


#: `veriroute serve`, with variables before it or not, or `make demo`; and not `veriroute serve: …`, which is output.
_SHOWN = re.compile(r"(?:[A-Z_]+=\S+ )*veriroute (?![a-z]+:)[a-z]|make [a-z]")


def shown_commands() -> list[tuple[str, str]]:
    """Every line of a document's shell block that begins with a command of ours, or with make."""
    found = []
    for path in kit.pages():
        for body in kit.blocks(path.read_text("utf-8"), "", "sh"):
            for raw in body.replace("\\\n", " ").split("\n"):
                line = re.sub(r"\s#\s.*$", "", raw.removeprefix("$ ").strip())
                line = line.rsplit(" && ", 1)[0] if line.startswith("make") else line.rsplit(" | ", 1)[-1]
                if _SHOWN.match(line):
                    found.append((str(path.relative_to(kit.ROOT)), line))
    return found


def test_there_are_commands_to_check() -> None:
    """The documents show commands, the README first of all."""
    assert len(shown_commands()) > 25
    shown = {line for page, line in shown_commands() if page == "README.md"}
    assert {"make demo", "make test", "make install", "veriroute serve"} <= shown


@pytest.mark.parametrize(("page", "line"), sorted(set(shown_commands())))
def test_shown_commands_parse(page: str, line: str) -> None:
    """A command line that a document shows is one that the program, or the Makefile, takes."""
    words = shlex.split(re.sub(r"^(?:[A-Z_]+=\S+ )*", "", line).split(" > ")[0].removesuffix(" &"))
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", kit.text("Makefile"), re.MULTILINE), line
        return
    assert words[1] in ALL, line
    try:
        kit.parser(words[1], ALL[words[1]]).parse_args([word for word in words[2:] if word not in ("…", "...")])
    except SystemExit as stopped:
        raise AssertionError(f"{page} shows {line!r}, which is refused") from stopped


def acts() -> list[str]:
    """Every command, and every act of one: `keys`, `keys create`, `nodes baseline reset`."""

    def below(made: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
        inner = [a for a in made._actions if isinstance(a, argparse._SubParsersAction)]
        return [made, *(p for action in inner for act in action.choices.values() for p in below(act))]

    return [made.prog for name in sorted(ALL) for made in below(kit.parser(name, ALL[name]))]


@pytest.mark.parametrize("prog", acts())
def test_help_has_examples_that_parse(prog: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` of each command and each of its acts says what it does, and shows lines that the program takes."""
    with pytest.raises(SystemExit) as stopped:
        main([*prog.split()[1:], "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert said.split("\n\n")[1][0].isupper()
    assert not re.search(r"[ \t]+$", said, re.MULTILINE)
    shown = re.findall(rf"^ .*?({prog}(?: .*)?)$", re.sub(r"\\\n\s*", "", said), re.MULTILINE)
    assert shown
    name = prog.split()[1]
    for line in shown:
        words = shlex.split(line.split(" | ")[0], comments=True)
        kit.parser(name, ALL[name]).parse_args(words[2:])


def test_samples_name_the_nodes_of_the_demo() -> None:
    """What documents show of an answer or an error can be found again in what `make demo` prints."""
    for page in ("README.md", "docs/api.md", "docs/errors.md"):
        shown = set(re.findall(r"\"node\": ?\"([^\"]+)|[Nn]ode (\S+) (?:was withheld|failed:)", kit.text(page)))
        assert {name for pair in shown for name in pair if name} <= {plan.name for plan in NODES}, page


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    """One screen after another, but not many; how to try it and how to test it are said."""
    assert len(README.splitlines()) <= 200
    assert "make test" in kit.section(README, "## Tests")
    assert "make demo" in kit.section(README, "## Five minutes")


def test_the_limits_stand_beside_the_claim() -> None:
    """The claim is not made anywhere in the README without what it does not say, directly below it."""
    part = kit.section(README, "## The claim, and its limits")
    assert "affirming" in part
    limits = ("`platform: software`", "`logged` is not `witnessed`", "operator's process", "`optimistic`", "Erasing")
    assert all(limit in part for limit in limits)


@pytest.mark.parametrize("path", kit.pages(), ids=lambda path: str(path.relative_to(kit.ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    """Every relative link is to a file that is there, and every fragment to a heading of it."""
    page = path.read_text("utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)):
        if target.startswith(("https://", "http://")):
            continue
        name, _, fragment = target.partition("#")
        other = (path.parent / name).resolve() if name else path
        assert other.exists(), target
        assert other.is_relative_to(kit.ROOT), target
        if fragment:
            assert fragment in kit.anchors(other.read_text("utf-8")), target


@pytest.mark.parametrize("path", kit.pages(), ids=lambda path: str(path.relative_to(kit.ROOT)))
def test_named_files_are_there(path: Path) -> None:
    """A file or folder of this repository that a document names in backticks exists."""
    roots = ("gateway/", "adapters/", "tui/", "policies/", "tests/", "bench/", "docs/", "tools/", "changelog.d/")
    made = ("bench/results", "bench/bin")
    for word in kit.ticked(path.read_text("utf-8")):
        if word.startswith(roots) and re.fullmatch(r"[\w./-]+", word) and not word.startswith(made):
            assert (kit.ROOT / word).exists(), word


def decisions() -> list[Path]:
    return sorted((kit.ROOT / "docs/decisions").glob("[0-9]*.md"))


def test_decisions_are_numbered_and_listed() -> None:
    """Numbers run from 1 without a gap, and the index has each file."""
    names = [path.name for path in decisions()]
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    index = kit.text("docs/decisions/README.md")
    assert re.findall(r"\]\(([^)]+)\)", index) == names


@pytest.mark.parametrize("path", decisions(), ids=lambda path: path.stem)
def test_a_decision_says_what_would_change_it(path: Path) -> None:
    """Context, choice, what would change our mind; about half a page."""
    page = path.read_text("utf-8")
    places = [page.index(f"\n**{word}.**") for word in ("Context", "Choice", "What would change our mind")]
    assert places == sorted(places)
    assert page.startswith(f"# {path.name[:4]} ")
    assert len(page) < 3500


def test_every_document_is_in_the_index() -> None:
    """docs/README.md leads to each page of docs/."""
    index = kit.text("docs/README.md")
    for path in (kit.ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"]({path.name})" in index, path.name


def test_changelog_fragments_are_plain() -> None:
    """A fragment is a few lines without a heading, so that a release can join them."""
    for path in (kit.ROOT / "changelog.d").glob("*.md"):
        page = path.read_text("utf-8")
        assert path.name == "README.md" or (page.strip() and not page.startswith("#") and page.count("\n") <= 12), path
