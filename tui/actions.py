"""The one table of what keys do: footer, help, palette and the tests are made from it.

An action belongs to a context: `app` everywhere, `list` wherever a list of lines has the focus, or one screen. Ids are
stable, so a keymap can move any of them.
"""

from __future__ import annotations

from typing import NamedTuple

from textual.binding import Binding, BindingType


class Action(NamedTuple):
    """One action: the keys that do it, the Textual action, a title for the footer and a sentence for the help."""

    id: str
    context: str
    keys: tuple[str, ...]
    action: str
    title: str
    tooltip: str
    show: bool = False


#: How keys are written in help and footer, where Textual's name is not what is printed on the key.
KEY_NAMES = {
    "enter": "⏎",
    "escape": "esc",
    "slash": "/",
    "question_mark": "?",
    "colon": ":",
    "left_square_bracket": "[",
    "right_square_bracket": "]",
    "space": "space",
    "pageup": "pgup",
    "pagedown": "pgdn",
    "up": "↑",
    "down": "↓",
    "left": "←",
    "right": "→",
}

ACTIONS: tuple[Action, ...] = (
    Action("app.traffic", "app", ("1",), "app.traffic", "Traffic", "go to the live exchanges"),
    Action("app.nodes", "app", ("2",), "app.nodes", "Nodes", "go to the nodes, their state and their canaries"),
    Action("app.palette", "app", ("colon", "ctrl+p"), "app.command_palette", "Palette", "find any action by its name"),
    Action("app.help", "app", ("question_mark",), "app.help", "Help", "every key of this screen", show=True),
    Action("app.theme", "app", ("t",), "app.next_theme", "Theme", "dark, light, terminal palette, high contrast"),
    Action("app.quit", "app", ("q", "ctrl+c"), "app.quit", "Quit", "leave; nothing of the gateway stops", show=True),
    Action("list.up", "list", ("k", "up"), "move(-1)", "Up", "one line up"),
    Action("list.down", "list", ("j", "down"), "move(1)", "Down", "one line down"),
    Action("list.half_down", "list", ("ctrl+d",), "page(0.5)", "Half down", "half a page down"),
    Action("list.half_up", "list", ("ctrl+u",), "page(-0.5)", "Half up", "half a page up"),
    Action("list.page_down", "list", ("pagedown",), "page(1)", "Page down", "a page down"),
    Action("list.page_up", "list", ("pageup",), "page(-1)", "Page up", "a page up"),
    Action("list.first", "list", ("g", "home"), "first", "First", "to the first line"),
    Action("list.last", "list", ("G", "end"), "last", "Last", "to the last line"),
    Action("list.choose", "list", ("enter",), "choose", "Open", "open what the cursor stands on", show=True),
    Action("traffic.filter", "traffic", ("slash",), "filter", "Filter", "choose rows, as in verdict:fail", show=True),
    Action("traffic.pause", "traffic", ("space",), "pause", "Pause", "hold the list still, or go on", show=True),
    Action("traffic.follow", "traffic", ("f",), "follow", "Newest", "jump to the newest and follow", show=True),
    Action("traffic.next", "traffic", ("n",), "problem(1)", "Next ✗", "the next older one not affirmed", show=True),
    Action("traffic.previous", "traffic", ("N",), "problem(-1)", "Previous ✗", "the next newer one not affirmed"),
    Action("traffic.copy", "traffic", ("y",), "copy", "Copy id", "copy the receipt id"),
    Action("traffic.back", "traffic", ("escape",), "back", "Clear", "stop searching, or clear the filter"),
    Action("receipt.back", "receipt", ("escape",), "back", "Back", "back to the traffic", show=True),
    Action("receipt.next", "receipt", ("n",), "problem(1)", "Next ✗", "the next problem: ✗, then !, then ?", show=True),
    Action("receipt.previous", "receipt", ("N",), "problem(-1)", "Previous ✗", "to the previous problem"),
    Action("receipt.verify", "receipt", ("v",), "verify", "Re-verify", "check the evidence again, here", show=True),
    Action("receipt.fold", "receipt", ("space",), "fold", "Fold", "open or close what the cursor stands on", show=True),
    Action("receipt.close", "receipt", ("h", "left"), "fold_to(True)", "Close", "close, or go to the line above"),
    Action("receipt.open", "receipt", ("l", "right"), "fold_to(False)", "Open", "open"),
    Action("receipt.older", "receipt", ("right_square_bracket",), "step(1)", "Older", "the next older receipt"),
    Action("receipt.newer", "receipt", ("left_square_bracket",), "step(-1)", "Newer", "the next newer receipt"),
    Action("receipt.words_down", "receipt", ("J",), "words(1)", "Words down", "scroll the words about the line"),
    Action("receipt.words_up", "receipt", ("K",), "words(-1)", "Words up", "scroll them back"),
    Action("receipt.copy", "receipt", ("y",), "copy", "Copy", "copy the line's digest or id", show=True),
    Action("receipt.raw", "receipt", ("x",), "raw", "Raw", "the stored bytes, hidden until now", show=True),
    Action("nodes.back", "nodes", ("escape",), "back", "Back", "to what lies below this screen", show=True),
    Action("nodes.next", "nodes", ("n",), "problem(1)", "Next ✗", "the next check not affirmed", show=True),
    Action("nodes.previous", "nodes", ("N",), "problem(-1)", "Previous ✗", "the previous check not affirmed"),
    Action("nodes.fold", "nodes", ("space",), "fold", "Fold", "open or close the line under the cursor", show=True),
    Action("nodes.close", "nodes", ("h", "left"), "fold_to(True)", "Close", "close it, or go to the line above"),
    Action("nodes.open", "nodes", ("l", "right"), "fold_to(False)", "Open", "open it"),
    Action("nodes.again", "nodes", ("r",), "again", "Read again", "ask the gateway now", show=True),
    Action("nodes.words_down", "nodes", ("J",), "words(1)", "Words down", "scroll the words about the line"),
    Action("nodes.words_up", "nodes", ("K",), "words(-1)", "Words up", "scroll them back"),
    Action("nodes.copy", "nodes", ("y",), "copy", "Copy", "copy the node's or the session's id", show=True),
    Action("raw.back", "raw", ("escape", "x"), "back", "Back", "back to the receipt", show=True),
    Action("raw.next", "raw", ("l", "right", "tab"), "part(1)", "Next part", "the next stored part", show=True),
    Action("raw.previous", "raw", ("h", "left", "shift+tab"), "part(-1)", "Previous", "the previous part", show=True),
    Action("raw.hex", "raw", ("space",), "hex", "Hex/text", "hexadecimal, or lines of text", show=True),
    Action("trouble.retry", "trouble", ("r", "enter"), "retry", "Try again", "try the same source again", show=True),
    Action("help.back", "help", ("escape", "question_mark", "enter"), "back", "Close", "close the help", show=True),
)  # fmt: skip


def of(context: str) -> tuple[Action, ...]:
    """The actions of one context."""
    return tuple(action for action in ACTIONS if action.context == context)


def bindings(context: str) -> list[BindingType]:
    """Textual bindings of one context. The first key carries the footer entry, the others are silent twins."""
    made: list[BindingType] = []
    for action in of(context):
        for number, key in enumerate(action.keys):
            made.append(
                Binding(
                    key,
                    action.action,
                    action.title,
                    show=action.show and number == 0,
                    key_display=key_name(key),
                    priority=key == "ctrl+c",
                    tooltip=action.tooltip,
                    id=action.id if number == 0 else f"{action.id}.{number}",
                )
            )
    return made


def key_name(key: str) -> str:
    """The key as it is printed on a keyboard."""
    return KEY_NAMES.get(key, key)
