"""The top line of every screen: where you are, what you are connected to, how it fares."""

from __future__ import annotations

from time import monotonic

from textual.content import Content
from textual.widget import Widget

from gateway.model.verdict import Outcome
from tui.source import Info
from tui.text import clean, line
from tui.verdicts import COLOURS, glyph

_ORDER = (Outcome.AFFIRMING, Outcome.WARNING, Outcome.CONTRAINDICATED, Outcome.NONE)


class Pulse:
    """What is known of the source: its last answer, and since when it has been silent. Times are monotonic seconds."""

    def __init__(self, name: str, *, synthetic: bool = False) -> None:
        self.name = name
        self.synthetic = synthetic
        self.info: Info | None = None
        self.offline_since: float | None = None
        self.why: str = ""
        self.retry_at: float | None = None
        self.rate = 0.0
        self.logs = 0  # how often the source had another log than before: none loses entries
        self.skew_ms = 0.0  # by how much the source's clock is ahead of ours
        self._counted: tuple[float, int] | None = None

    def beat(self, info: Info, now: float, wall_ms: float) -> None:
        """The source answered."""
        total = sum(info.counts.values())
        if self._counted is not None and now > self._counted[0]:
            self.rate = max(0.0, (total - self._counted[1]) / (now - self._counted[0]))
        self._counted = (now, total)
        self.logs += self.info is not None and info.size < self.info.size
        self.info, self.offline_since, self.retry_at, self.why = info, None, None, ""
        self.skew_ms = info.time_ms - wall_ms

    def lost(self, why: str, now: float, retry_at: float) -> None:
        """The source did not answer; the next try is at `retry_at`."""
        if self.offline_since is None:
            self.offline_since = now
        self.why, self.retry_at, self.rate = why, retry_at, 0.0
        self._counted = None


class StatusBar(Widget):
    """One line. Widths: everything from 100 columns on, the essential below."""

    DEFAULT_CSS = """
    StatusBar { height: 1; dock: top; background: $panel; color: $text; }
    """

    def __init__(self, pulse: Pulse, title: str, *, ascii_only: bool = False) -> None:
        super().__init__()
        self.pulse = pulse
        self.title = title
        self.ascii_only = ascii_only

    def on_mount(self) -> None:
        self.set_interval(1.0, self.refresh)

    def render(self) -> Content:
        wide = self.size.width >= 100
        left = [(f" {self.title}", "bold"), ("  ", "")]
        if self.pulse.synthetic:
            left += [(" DEMO: synthetic data ", "reverse bold"), ("  ", "")]
        right = self._state(wide)
        content, end = line(*left), line(*right, (" ", ""))
        gap = self.size.width - content.cell_length - end.cell_length
        return content + Content(" " * max(1, gap)) + end

    def _state(self, wide: bool) -> list[tuple[str, str]]:
        pulse = self.pulse
        if pulse.offline_since is not None:
            return self._offline(wide)
        if pulse.info is None:
            return [("connecting…", "$text-muted")]
        info = pulse.info
        parts: list[tuple[str, str]] = []
        if not info.healthy:
            parts += [(" UNHEALTHY: the log does not take entries ", "$error bold reverse"), (" ", "")]
        if abs(pulse.skew_ms) > 2000:
            parts += [(f"clock {pulse.skew_ms / 1000:+.0f} s", "$text-warning"), ("  ", "")]
        parts += [("● ", "$text-success"), (clean(pulse.name, 24), ""), ("  ", "")]
        parts += [(f"{pulse.rate:.0f}/s  ", "")] if pulse.rate >= 0.5 or wide else []
        parts += self._shares(info, wide)
        if wide:
            parts.append((f"log {info.size:,}".replace(",", " "), ""))
        return parts

    def _offline(self, wide: bool) -> list[tuple[str, str]]:
        pulse, now = self.pulse, monotonic()
        seconds = int(now - (pulse.offline_since or now))
        parts = [("○ offline", "$text-error bold"), (f" {seconds // 60:02d}:{seconds % 60:02d}  ", "")]
        if pulse.retry_at is not None and wide:
            parts.append((f"next try in {max(0, round(pulse.retry_at - now))} s  ", "$text-muted"))
        parts.append((clean(pulse.name, 24), ""))
        return parts

    def _shares(self, info: Info, wide: bool) -> list[tuple[str, str]]:
        total = sum(info.counts.values())
        shown = _ORDER if wide else (Outcome.CONTRAINDICATED,)
        parts: list[tuple[str, str]] = []
        for tier in shown:
            share = 100 * info.counts.get(tier.value, 0) / total if total else 0.0
            parts += [(f"{glyph(tier, ascii_only=self.ascii_only)} ", COLOURS[tier]), (f"{share:.1f} %  ", "")]
        return parts
