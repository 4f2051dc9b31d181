"""The screen of nodes, and what canaries found of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import msgspec
import pytest
from hostile_source import HostileSource, hostile_node
from tui_kit import HOSTILE, NARROW, NOON_MS, WIDE, dump, ready, until

from gateway.admin_client import AdminClient
from gateway.errors import NotFound, ServiceError
from gateway.model.admin import CanaryView, Nodes, NodeView, SessionView
from gateway.model.verdict import Check, Outcome
from tui.app import VerirouteApp
from tui.chain import Line, problems
from tui.demo_nodes import demo_nodes
from tui.demo_source import DemoSource
from tui.file_source import FileSource
from tui.http_source import HttpSource
from tui.nodes import canary_line, moment, node_line, nodes_tree
from tui.screens.nodes import NodesScreen
from tui.screens.receipt import ReceiptScreen
from tui.screens.traffic import TrafficScreen
from tui.widgets.explain_pane import ExplainPane, explanation
from tui.widgets.provenance_tree import ProvenanceTree

CANARY = CanaryView(
    model="m", state="changed", reason="baseline_changed", baseline_ms=NOON_MS - 9, since_ms=NOON_MS, last_ms=NOON_MS,
    runs=2, samples=10, p=0.002,
)  # fmt: skip


class Late(DemoSource):
    """Its nodes arrive when the screen that asked for them is half gone."""

    screen: NodesScreen | None = None

    async def nodes(self) -> tuple[NodeView, ...]:
        while self.screen is not None and self.screen.query("#nodes-note"):
            await asyncio.sleep(0)
        return await super().nodes()


async def test_nodes_that_arrive_for_a_screen_that_was_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving the nodes while they are being read again ends the reading, and not the application."""
    monkeypatch.setattr("tui.screens.nodes.READ_S", 0.0)
    source = Late(5, now_ms=NOON_MS, live=False)
    app = VerirouteApp(source)
    async with app.run_test(size=NARROW) as pilot:
        await ready(app)
        await pilot.press("2")
        await until(lambda: "as the gateway sees them now" in dump(app))
        assert isinstance(app.screen, NodesScreen)
        source.screen = app.screen
        await asyncio.sleep(0.02)
        await pilot.press("1", "slash")
        await until(lambda: source.screen is not None and not source.screen.query("#nodes-note"))
        await asyncio.sleep(0.02)
        assert app.is_running


def said(line: Line) -> str:
    return " ".join(explanation(line, 400).plain.split())


@pytest.mark.parametrize(
    ("changes", "text", "told"),
    [
        ({}, "BASELINE CHANGED at 2026-11-20 12:00:00  p 0.002", "2 with this finding"),
        ({"state": "stable", "reason": "baseline_unchanged", "p": 1.0}, "stable since 2026-11-20 12:00:00  p 1", "10 s"),
        ({"reason": "connect_failed"}, "p 0.002  (connect_failed)", "newest run connect_failed"),
        ({"rekeyed": True}, "BASELINE CHANGED", "keyset another than the baseline's"),
        ({"state": "set", "reason": None, "p": None}, "baseline set 2026-11-20", "newest run set the baseline"),
        ({"state": "waiting", "reason": "logprobs_absent", "p": None, "since_ms": None, "samples": 0},
         "no baseline yet  (logprobs_absent)", "accuses nobody"),
        ({"state": "waiting", "reason": None, "p": None, "since_ms": None, "samples": 0}, "no baseline yet", "run –"),
    ],
)  # fmt: skip
def test_what_canaries_found(changes: dict[str, object], text: str, told: str) -> None:
    """Since when, by which p-value, and why the newest run shows nothing; a fact, and never an outcome."""
    line = canary_line(msgspec.structs.replace(CANARY, **changes))
    assert text in line.text
    assert told in said(line)
    assert line.judged is None


def test_a_changed_baseline_is_no_problem() -> None:
    """`n` does not walk to it, and the node has the outcome of its session alone."""
    tree = nodes_tree(demo_nodes(NOON_MS))
    assert "1 baseline changed" in tree.text
    assert problems(tree) == []
    assert [line.outcome for line in tree.below] == [Outcome.AFFIRMING] * 3


def test_a_node_without_a_session_shows_nothing() -> None:
    """It is `none`, with the reason; one with a failed check has the check below it."""
    absent = node_line(NodeView(id="n", network="aci", state="unattested", reason="evidence"))
    assert (absent.outcome, absent.text) == (Outcome.NONE, "unattested (evidence)  aci")
    assert absent.below == []
    down = node_line(NodeView(id="n", network="aci", state="unattested", reason="session_missing", cause="closed"))
    assert down.text == "unattested (session_missing: closed)  aci"
    assert down.facts[0] == ("state", "unattested (session_missing: closed)")
    caught = node_line(NodeView(id="n", network="aci", state="quarantined", reason="quarantined", cause="signature"))
    assert caught.text == "quarantined (signature)  aci"
    session = SessionView(id="s", established=0, expires=1, outcome="contraindicated", checks=(Check("fresh", Outcome.CONTRAINDICATED, "old"),))  # fmt: skip
    failed = node_line(NodeView(id="n", network="aci", state="circuit_open", session=session, circuit="open"))
    assert (failed.outcome, [line.key for line in failed.below]) == (Outcome.CONTRAINDICATED, ["session"])
    assert problems(failed)[0].key == "fresh"
    assert ("circuit", "open") in failed.facts


@pytest.mark.parametrize("ms", [None, 2**62, -(2**62), float("inf")])
def test_a_time_that_no_calendar_has(ms: float | None) -> None:
    """It is a dash."""
    assert moment(ms) == "–"
    session = SessionView(id="s", established=1e308, expires=-1e308, outcome="affirming")
    node = node_line(NodeView(id="n", network="aci", state="ok", session=session))
    assert node.below[0].facts[1:3] == [("established", "–"), ("expires", "–")]


@pytest.mark.parametrize("size", [WIDE, NARROW])
async def test_the_screen_reads_and_goes(app: VerirouteApp, size: tuple[int, int]) -> None:
    """`2` shows the nodes, keys walk and fold the tree, a new reading keeps what is open, escape goes back."""
    async with app.run_test(size=size) as pilot:
        await ready(app)
        await pilot.press("2")
        await until(lambda: "may serve" in dump(app))
        screen = app.screen
        assert isinstance(screen, NodesScreen)
        await pilot.press("j", "j", "space", "j")
        tree = screen.tree_view
        assert tree.selected is not None
        assert tree.selected.title == "Does it answer as it used to?"
        before, length = tree.selected, tree.length()
        await pilot.press("r")
        await until(lambda: tree.selected is not before)
        assert tree.selected.key == before.key
        assert tree.length() == length
        assert screen.query_one("#explain", ExplainPane)._item is tree.selected
        await pilot.press("h", "h")
        assert tree.length() == length - 3
        await pilot.press("enter", "l", "y")
        assert app.clipboard == "demo-node-b"
        await pilot.press("j", "y", "n")
        assert app.clipboard == "demo-node-b"
        await pilot.press("2")
        await until(lambda: isinstance(app.screen, NodesScreen) and app.screen is not screen)
        assert len(app.screen_stack) == 3
        await pilot.press("escape")
        await until(lambda: isinstance(app.screen, TrafficScreen))


async def test_from_a_receipt_to_the_nodes(app: VerirouteApp) -> None:
    """`2` works from every screen, and `1` leads back to the traffic."""
    async with app.run_test(size=WIDE) as pilot:
        await ready(app)
        await pilot.press("enter")
        await until(lambda: isinstance(app.screen, ReceiptScreen))
        await pilot.press("2")
        await until(lambda: isinstance(app.screen, NodesScreen))
        await pilot.press("1")
        await until(lambda: isinstance(app.screen, TrafficScreen))


class Failing(DemoSource):
    """A source whose second reading fails, and whose third is of a node that fails a check."""

    readings = 0

    async def nodes(self) -> tuple[NodeView, ...]:
        self.readings += 1
        if self.readings == 2:
            raise ServiceError("nothing answers", reason="unreachable")
        nodes = await super().nodes()
        checks = (Check("fresh", Outcome.CONTRAINDICATED, "old"),)
        session = SessionView(id="s", established=0, expires=1, outcome="contraindicated", checks=checks)
        return nodes if self.readings == 1 else (*nodes, NodeView(id="z", network="aci", state="ok", session=session))


async def test_a_source_that_goes_away() -> None:
    """The nodes stay, the cause is said, and reading goes on; a new problem opens nothing by itself."""
    app = VerirouteApp(Failing(20, now_ms=NOON_MS, live=False))
    async with app.run_test(size=WIDE) as pilot:
        await ready(app)
        await pilot.press("2")
        await until(lambda: "may serve" in dump(app))
        await pilot.press("r")
        await until(lambda: "nothing answers" in dump(app))
        assert "demo-node-a" in dump(app)
        await pilot.press("r")
        await until(lambda: "4 known" in dump(app))
        assert "fresh" not in dump(app)
        await pilot.press("n")
        await until(lambda: "fresh" in dump(app))


async def test_a_file_knows_no_nodes(tmp_path: Path) -> None:
    """A database file says so, in words that name the way on."""
    with pytest.raises(NotFound, match="gateway's address"):
        await FileSource(tmp_path / "x.db").nodes()


async def test_a_gateway_is_asked() -> None:
    """Over the admin API come the same nodes, their canaries with them."""
    nodes = demo_nodes(NOON_MS)

    def admin(request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/admin/v1/nodes"
        return httpx.Response(200, content=msgspec.json.encode(Nodes(nodes)))

    address = "http://127.0.0.1:1"
    source = HttpSource(address, "k", client=AdminClient(address, "k", transport=httpx.MockTransport(admin)))
    assert await source.nodes() == nodes
    await source.close()


async def test_hostile_nodes() -> None:
    """Nodes that attack with every string are lines of the right width, and none of them forges an outcome."""
    for number, text in enumerate(HOSTILE[:8]):
        assert node_line(hostile_node(text, number)).outcome is Outcome.NONE
    app = VerirouteApp(HostileSource())
    async with app.run_test(size=WIDE) as pilot:
        await ready(app)
        await pilot.press("2")
        await until(lambda: isinstance(app.screen, NodesScreen) and app.screen.tree_view.root is not None)
        tree = app.screen.query_one("#tree", ProvenanceTree)
        for line in range(tree.length()):
            tree.move_to(line)
            tree.fold(False)
        for line in range(0, tree.length(), 3):
            tree.move_to(line)
            await asyncio.sleep(0)
        await pilot.pause()
        for strip in app.screen._compositor.render_strips():
            assert strip.text.isprintable() or not strip.text
            assert strip.cell_length == app.size.width
