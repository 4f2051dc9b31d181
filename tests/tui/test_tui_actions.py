"""The table of actions, and what is made from it."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from tui.actions import ACTIONS, bindings, key_name, of
from tui.app import VerirouteApp
from tui.screens.help import HelpScreen, help_content
from tui.screens.nodes import NodesScreen
from tui.screens.raw import RawScreen
from tui.screens.receipt import ReceiptScreen
from tui.screens.traffic import TrafficScreen
from tui.screens.trouble import TroubleScreen
from tui.widgets.line_view import LineView

OWNERS = {
    "app": VerirouteApp,
    "list": LineView,
    "traffic": TrafficScreen,
    "receipt": ReceiptScreen,
    "nodes": NodesScreen,
    "raw": RawScreen,
    "trouble": TroubleScreen,
    "help": HelpScreen,
}


def test_ids_are_unique_and_say_their_context() -> None:
    """A keymap can name each action."""
    ids = [action.id for action in ACTIONS]
    assert len(set(ids)) == len(ids)
    assert all(action.id.startswith(f"{action.context}.") for action in ACTIONS)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_every_action_exists(action) -> None:  # type: ignore[no-untyped-def]
    """What a key promises, the screen that owns it can do; every action has its sentence."""
    name = action.action.removeprefix("app.").partition("(")[0]
    owner = VerirouteApp if action.action.startswith("app.") else OWNERS[action.context]
    assert callable(inspect.getattr_static(owner, f"action_{name}", None) or getattr(owner, f"action_{name}"))
    assert action.tooltip
    assert action.title


@pytest.mark.parametrize("screen", [TrafficScreen, ReceiptScreen, NodesScreen, RawScreen, TroubleScreen])
def test_no_key_means_two_things_on_a_screen(screen) -> None:  # type: ignore[no-untyped-def]
    """Within a screen's contexts each key is bound once; enter belongs to the list."""
    keys = [key for context in screen.CONTEXTS for action in of(context) for key in action.keys]
    assert sorted(keys) == sorted(set(keys))


@pytest.mark.parametrize("screen", [TrafficScreen, ReceiptScreen, NodesScreen, RawScreen])
def test_the_footer_fits_eighty_columns(screen) -> None:  # type: ignore[no-untyped-def]
    """What the footer shows fits the narrow screen."""
    shown = [action for context in screen.CONTEXTS for action in of(context) if action.show]
    assert sum(len(key_name(action.keys[0])) + 1 + len(action.title) + 1 for action in shown) <= 80


def test_help_names_every_key() -> None:
    """The help is the table."""
    text = help_content(TrafficScreen.CONTEXTS).plain
    for context in TrafficScreen.CONTEXTS:
        for action in of(context):
            assert action.tooltip in text


def test_bindings_carry_ids() -> None:
    """Each key is a binding of its own, with a stable id."""
    made = bindings("list")
    assert len({binding.id for binding in made}) == len(made)  # type: ignore[union-attr]


def test_the_manual_lists_every_action() -> None:
    """docs/tui.md names each key with its sentence."""
    manual = (Path(__file__).parents[2] / "docs" / "tui.md").read_text()
    for action in ACTIONS:
        assert action.tooltip in manual, action.id
