"""When there is nothing to show: one sentence, the cause, and the next command to type."""

from __future__ import annotations

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Static

from gateway.errors import ConfigError, FormatError, InvalidKey, LogRefused, NotFound, ScopeDenied, VerirouteError
from tui.actions import bindings
from tui.source import NO_GATEWAY
from tui.text import line, lines


class Advice:
    """What to say about one failure: the sentence, and the commands that lead on."""

    def __init__(self, sentence: str, *commands: tuple[str, str]) -> None:
        self.sentence = sentence
        self.commands = commands


def advise(error: VerirouteError) -> Advice:
    """The sentence and the next commands for `error`, met while opening a source."""
    if isinstance(error, InvalidKey):
        return Advice(
            "The gateway does not know this key.",
            ("veriroute keys create --name tui --scope admin", "make an admin key on the gateway's machine"),
            ("export VERIROUTE_ADMIN_KEY=…", "then start the TUI again"),
        )
    if isinstance(error, ScopeDenied):
        return Advice(
            "The key is known, and may not look at other people's exchanges.",
            ("veriroute keys create --name tui --scope admin", "make a key that has the admin scope"),
        )
    if isinstance(error, ConfigError):
        return Advice("The source cannot be used as it was given.", ("veriroute tui --help", "shows how to name one"))
    if isinstance(error, NotFound):
        return Advice(
            "There is no such source.",
            ("ls -l", "is the file where you think it is?"),
            ("veriroute tui --demo", "look around with synthetic data meanwhile"),
        )
    if isinstance(error, FormatError | LogRefused):
        return Advice(
            "There is something there, and it is not a veriroute log.",
            ("veriroute tui http://127.0.0.1:8080", "name the gateway's address, or its database file"),
        )
    if error.reason == NO_GATEWAY:
        return Advice(
            "Something answers there, and it is not a veriroute gateway. Is it a node's port?",
            ("veriroute tui http://127.0.0.1:8080", "name the gateway's own address, as its ready line says it"),
        )
    return Advice(
        "The gateway cannot be reached.",
        ("veriroute serve", "start a gateway here"),
        ("veriroute demo", "or start one together with three nodes"),
        ("veriroute tui --demo", "or look around with synthetic data"),
    )


class TroubleScreen(Screen[None]):
    """Shown until the source answers; it goes away by itself when it does."""

    CONTEXTS = ("trouble", "app")
    BINDINGS: ClassVar[list[BindingType]] = bindings("trouble")

    def __init__(self, source: str, error: VerirouteError) -> None:
        super().__init__()
        self._source = source
        self._error = error

    def compose(self) -> ComposeResult:
        with Vertical(id="trouble"):
            yield Static(self._content(), id="trouble-text", markup=False)
        yield Footer(compact=True, show_command_palette=False)

    def tell(self, error: VerirouteError) -> None:
        """The newest failure."""
        self._error = error
        for text in self.query("#trouble-text").results(Static):  # none yet while the screen is only coming
            text.update(self._content())

    def _content(self) -> Content:
        advice = advise(self._error)
        rows = [
            line(("veriroute", "bold")),
            line(("", "")),
            line((advice.sentence, "bold $text-error")),
            line(("", "")),
            line(("source   ", "$text-muted"), (self._source, "")),
            line(("cause    ", "$text-muted"), (str(self._error), "")),
            line(("", "")),
        ]
        for command, why in advice.commands:
            rows += [line(("  $ ", "$text-muted"), (command, "bold")), line(("    " + why, "$text-muted"))]
        rows += [
            line(("", "")),
            line(("Tried again by itself; ", "$text-muted"), ("r", "bold"), (" tries now.", "$text-muted")),
        ]
        return lines(rows)

    def action_retry(self) -> None:
        self.app.wake()  # type: ignore[attr-defined]
