"""The selected row of the traffic list, in more words. Everything in it is what the gateway claims."""

from __future__ import annotations

from textual.content import Content
from textual.widget import Widget

from tui.columns import number, short_id, where
from tui.source import Row
from tui.text import line, lines
from tui.verdicts import COLOURS, mark, outcome, released, verdict_sentence


class ExchangePane(Widget):
    """A few lines about one row."""

    def __init__(self, *, ascii_only: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self.row: Row | None = None
        self.ascii_only = ascii_only

    def show(self, row: Row | None) -> None:
        """Show `row`, or that there is none."""
        self.row = row
        self.refresh()

    def render(self) -> Content:
        row = self.row
        if row is None:
            return line(("  no exchange selected", "$text-muted"))
        found = outcome(row.verdict)
        stream = "stream" if row.stream else "one body"
        rows = [
            line(
                (f" {short_id(row.id)}  ", "bold"),
                (mark(found, ascii_only=self.ascii_only), COLOURS[found]),
                (f"  {verdict_sentence(found)}", ""),
                ("   claimed by the gateway", "$text-muted"),
            ),
            _fact("receipt", row.id),
            _fact("agent", row.key_id, f"  {row.endpoint}  {stream}  HTTP {row.status}  {number(row.latency_ms)} ms"),
            _fact("own id", row.client_request_id or "–", "  (what the agent calls this request)"),
            _fact("node", where(row), f"  model {row.model or '–'}"),
            _fact("policy", row.policy),
            _fact("answer", released(row.release), f"   reason: {row.reason}" if row.reason else ""),
            line(("", "")),
            line(("  Enter opens the provenance and verifies it here", "$text-muted")),
        ]
        return lines(rows)


def _fact(name: str, value: str, more: str = "") -> Content:
    return line((f"  {name:<10}", "$text-muted"), (value, ""), (more, "$text-muted"))
