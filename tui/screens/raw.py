"""The stored bytes of one exchange: receipt, proof, evidence, and the bodies where they were kept.

This is the only screen that shows a prompt or a completion, and only after a key was pressed for it. What is drawn is
cleaned like everything else; what was stored stays in the bundle.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from rich.cells import chop_cells
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Footer, Static

from gateway.errors import FormatError
from gateway.log.dsse import parse_envelope
from tui.actions import bindings
from tui.columns import number, short_id
from tui.reverify import Findings
from tui.source import Row
from tui.text import clean, fit, line, lines
from tui.widgets.line_view import LineView
from tui.widgets.status_bar import Pulse, StatusBar

if TYPE_CHECKING:
    from tui.app import VerirouteApp

_PER_LINE = 16
_ESCAPE = 10  # what one character becomes at most, `\\U0010ffff`


class Part(NamedTuple):
    """One stored thing."""

    name: str
    data: bytes
    text: bool


def parts_of(data: bytes, findings: Findings) -> list[Part]:
    """What a bundle holds, the receipt first and the whole file last."""
    bundle = findings.bundle
    if bundle is None:
        return [Part("bundle (unreadable)", data, False)]
    parts: list[Part] = []
    with suppress(FormatError):  # the envelope below shows what there is
        parts.append(Part("receipt payload", parse_envelope(bundle.receipt).payload, True))
    parts.append(Part("receipt envelope", bundle.receipt, True))
    parts.append(Part("proof", bundle.proof.encode("utf-8", "surrogatepass"), True))
    parts += [Part(f"evidence {blob.name}", blob.data, _is_text(blob.data)) for blob in bundle.evidence]
    parts += [Part(f"opening {name}", opened.data, _is_text(opened.data)) for name, opened in bundle.openings.items()]
    if bundle.policy is not None:
        parts.append(Part(f"policy {bundle.policy.name}", bundle.policy.data, True))
    if bundle.session is not None:
        parts.append(Part("session", bundle.session, True))
    if bundle.intent is not None:
        parts.append(Part("intent envelope", bundle.intent.envelope, True))
    return [*parts, Part("whole bundle", data, True)]


class BytesView(LineView):
    """Bytes as lines: hexadecimal with characters beside it, or text wrapped at the width."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.data = b""
        self.hex = True
        self._lines: list[str] = []

    def show(self, data: bytes, *, hexadecimal: bool) -> None:
        self.data, self.hex = data, hexadecimal
        self.cursor = 0
        self.resized()
        self.jump(0)

    def resized(self) -> None:
        self._lines = [] if self.hex else _wrapped(self.data, max(self.across - 2, 20))
        super().resized()

    def length(self) -> int:
        return -(-len(self.data) // _PER_LINE) if self.hex else len(self._lines)

    def draw(self, line: int, width: int) -> list[tuple[str, str]]:
        if not self.hex:
            return [(" ", ""), (fit(self._lines[line], width - 1), "")]
        chunk = self.data[line * _PER_LINE : (line + 1) * _PER_LINE]
        pairs = chunk.hex(" ")
        shown = "".join(chr(byte) if 0x20 <= byte < 0x7F else "·" for byte in chunk)
        return [
            (f" {line * _PER_LINE:08x}  ", "line--dim"),
            (f"{pairs:<{3 * _PER_LINE}} ", ""),
            (fit(shown, _PER_LINE), "line--dim"),
        ]


class RawScreen(Screen[None]):
    """Walk the parts with the arrow keys."""

    app: VerirouteApp

    CONTEXTS = ("raw", "list", "app")
    BINDINGS: ClassVar[list[BindingType]] = bindings("raw")

    def __init__(self, row: Row, parts: list[Part], pulse: Pulse) -> None:
        super().__init__()
        self._row = row
        self._parts = parts
        self._pulse = pulse
        self._at = 0

    def compose(self) -> ComposeResult:
        yield StatusBar(self._pulse, "STORED BYTES", ascii_only=self.app.ascii_only)
        yield Static("", id="part", markup=False)
        yield BytesView(id="bytes")
        yield Footer(compact=True, show_command_palette=False)

    def on_mount(self) -> None:
        self.bytes_view.focus()
        self._show(hexadecimal=not self._parts[0].text)

    @property
    def bytes_view(self) -> BytesView:
        return self.query_one("#bytes", BytesView)

    def _show(self, *, hexadecimal: bool) -> None:
        part = self._parts[self._at]
        self.bytes_view.show(part.data, hexadecimal=hexadecimal)
        self.query_one("#part", Static).update(self._title(part))

    def _title(self, part: Part) -> Content:
        digest = hashlib.sha256(part.data).hexdigest()
        return lines(
            [
                line(
                    (f" {short_id(self._row.id)}  ", "bold"),
                    (f"{self._at + 1} of {len(self._parts)}  ", "$text-muted"),
                    (part.name, "bold"),
                ),
                line((f" {number(len(part.data))} B  sha256 {digest}", "$text-muted")),
            ]
        )

    def action_part(self, step: int) -> None:
        self._at = (self._at + step) % len(self._parts)
        self._show(hexadecimal=not self._parts[self._at].text)

    def action_hex(self) -> None:
        self._show(hexadecimal=not self.bytes_view.hex)

    def action_back(self) -> None:
        self.dismiss()


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _wrapped(data: bytes, width: int) -> list[str]:
    """Text lines of at most `width` cells, cleaned; nothing is cut away. Bytes that are no UTF-8 show as escapes."""
    found: list[str] = []
    for raw in data.decode("utf-8", "backslashreplace").split("\n"):
        for start in range(0, max(len(raw), 1), width):
            shown = clean(raw[start : start + width], limit=_ESCAPE * width)
            found += [shown] if shown.isascii() and len(shown) <= width else chop_cells(shown, width)
    return found
