"""The application: one source, the screens over it, and the pulse that says whether the source is there.

Nothing here waits for the source: it is asked by workers, and every screen lives on without it.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, ClassVar

from textual import events
from textual.app import App, SystemCommand
from textual.await_complete import AwaitComplete
from textual.binding import BindingType
from textual.command import CommandPalette
from textual.screen import Screen
from textual.theme import Theme
from textual.widgets import Input
from textual.worker import ResultType, Worker, WorkType

from gateway.errors import InvalidKey, ScopeDenied, VerirouteError

from .actions import ACTIONS, bindings, key_name
from .reverify import Pins
from .screens.help import HelpScreen
from .screens.nodes import NodesScreen
from .screens.traffic import TrafficScreen
from .screens.trouble import TroubleScreen
from .source import Source
from .text import clean
from .widgets.status_bar import Pulse

BEAT_S = 2.0
_BACK_OFF = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)

HIGH_CONTRAST = Theme(
    name="high-contrast",
    primary="#00ffff",
    secondary="#ffffff",
    foreground="#ffffff",
    background="#000000",
    surface="#000000",
    panel="#000000",
    success="#00ff00",
    warning="#ffff00",
    error="#ff6060",
    dark=True,
    variables={"text-muted": "#ffffff", "block-cursor-blurred-background": "#303030"},
)
THEMES = ("textual-dark", "textual-light", "ansi-dark", "high-contrast")


class Palette(CommandPalette):
    """Textual's, but neither a page key before its list is laid out nor a letter that arrives as it is left ends the
    application."""

    def run_worker(self, work: WorkType[ResultType], *args: Any, **options: Any) -> Worker[ResultType]:
        """A search; over before it begins when the palette has been left, whose list would be gone when it ends."""
        search = super().run_worker(work, *args, **options)
        if self not in self.app.screen_stack:
            search.cancel()
        return search

    def _action_command_list(self, action: str) -> None:
        with suppress(KeyError):
            super()._action_command_list(action)


class VerirouteApp(App[int]):
    """`veriroute tui`. Exit code 0, or 1 when the source could never be reached; 128 and the number of a signal."""

    CSS_PATH = "app.tcss"
    TITLE = "veriroute"
    BINDINGS: ClassVar[list[BindingType]] = bindings("app")

    def __init__(self, source: Source, *, pins: Pins | None = None, ascii_only: bool = False) -> None:
        super().__init__()
        self.source = source
        self.pins = pins or Pins()
        self.ascii_only = ascii_only
        self.pulse = Pulse(source.name, synthetic=source.synthetic)
        self.back_online = asyncio.Event()
        self._woken = asyncio.Event()

    async def on_mount(self) -> None:
        self.register_theme(HIGH_CONTRAST)
        if (
            not self.is_headless
        ):  # ended by the signal itself, the terminal would stay drawn over, raw, with its mouse on
            for number in (signal.SIGTERM, signal.SIGHUP):
                asyncio.get_running_loop().add_signal_handler(number, self.exit, 128 + number)
        await self.push_screen(TrafficScreen())
        self.run_worker(self._beat(), group="pulse", exclusive=True)

    async def on_unmount(self) -> None:
        await self.source.close()

    # --- screens and keys

    def pop_screen(self) -> AwaitComplete:
        """Leave the screen on top, but never the traffic: the palette, answered twice, asks for that too.

        What the screen asked for ends first: Textual would end that only after its widgets went.
        """
        if len(self.screen_stack) <= 2:
            return AwaitComplete()
        self.workers.cancel_node(self.screen)
        return super().pop_screen()

    async def on_event(self, event: events.Event) -> None:
        """Let each key act before the next one is looked at, on a screen that is there.

        Textual sends a key to what has the focus and looks for its action when it comes back. Of `/req`, typed ahead of
        a busy terminal, every key would go to the list: `q` would quit. Only a box that takes text has its keys first.
        """
        if not isinstance(event, events.Key) or event.is_forwarded:
            await super().on_event(event)
        elif self.screen_stack and self.screen.is_mounted:
            if isinstance(self.focused, Input):
                await super().on_event(event)
            elif not await self._check_bindings(event.key, priority=True):
                await self._check_bindings(event.key)

    # --- the pulse

    async def _beat(self) -> None:
        """Ask the source how it is, for as long as the application runs; after a failure less and less often."""
        failures = 0
        while True:
            try:
                info = await self.source.info()
            except VerirouteError as error:
                wait = _BACK_OFF[min(failures, len(_BACK_OFF) - 1)]
                failures += 1
                now = time.monotonic()
                self.pulse.lost(str(error), now, now + wait)
                if self.pulse.info is None or isinstance(error, InvalidKey | ScopeDenied):
                    self._trouble(error)
            else:
                wait, failures = BEAT_S, 0
                first = self.pulse.info is None
                silent = self.pulse.offline_since is not None
                self.pulse.beat(info, time.monotonic(), time.time() * 1000)
                if isinstance(self.screen, TroubleScreen):
                    self.pop_screen()
                if first or silent:
                    self.back_online.set()
            self._woken.clear()
            try:
                await asyncio.wait_for(self._woken.wait(), wait)
            except TimeoutError:
                continue

    async def until_back(self, rest_s: float) -> None:
        """Wait until the pulse finds the source again, and `rest_s` seconds."""
        self.wake()
        if self.pulse.offline_since is not None:
            self.back_online.clear()
            await self.back_online.wait()
        await asyncio.sleep(rest_s)

    def wake(self) -> None:
        """Ask the source now instead of when it is due."""
        self._woken.set()

    def _trouble(self, error: VerirouteError) -> None:
        if isinstance(self.screen, TroubleScreen):
            self.screen.tell(error)
        else:
            self.push_screen(TroubleScreen(self.source.name, error))

    # --- actions

    def action_traffic(self) -> None:
        """Back to the first screen, whatever lies on top of it."""
        while len(self.screen_stack) > 2:
            self.pop_screen()

    async def action_nodes(self) -> None:
        """To the nodes, which lie on top of the traffic."""
        self.action_traffic()
        await self.push_screen(NodesScreen())

    async def action_help(self) -> None:
        if not isinstance(self.screen, HelpScreen):
            await self.push_screen(HelpScreen(getattr(self.screen, "CONTEXTS", ("app",))))

    async def action_command_palette(self) -> None:
        if not isinstance(self.screen, CommandPalette):
            await self.push_screen(Palette())

    def action_next_theme(self) -> None:
        names = list(THEMES)
        at = names.index(self.theme) if self.theme in names else -1
        self.theme = names[(at + 1) % len(names)]
        self.say(f"theme {self.theme}")

    async def action_quit(self) -> None:
        self.exit(0 if self.pulse.info is not None else 1)

    def say(self, message: str, *, severity: str = "information") -> None:
        """A short notice. Never parsed as markup."""
        level = "error" if severity == "error" else "warning" if severity == "warning" else "information"
        self.notify(clean(message, 300), severity=level, markup=False, timeout=4)  # type: ignore[arg-type]

    def copy(self, text: str) -> None:
        """Put exactly `text`, cleaned, on the clipboard (OSC 52, base64, so that no terminal obeys it)."""
        self.copy_to_clipboard(clean(text))
        self.say(f"copied {text}")

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """The palette lists the same actions as the help."""
        contexts = getattr(screen, "CONTEXTS", ("app",))
        for action in ACTIONS:
            if action.context in contexts and action.id != "app.palette":
                keys = "/".join(key_name(key) for key in action.keys)
                run = action.action if action.action.startswith("app.") else f"screen.{action.action}"
                if action.context != "list":
                    yield SystemCommand(
                        f"{action.title} ({keys})",
                        action.tooltip,
                        lambda run=run: self.run_action(run),
                    )
