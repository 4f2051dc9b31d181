"""The columns of the traffic list at each width, and how a row fills them.

Each column has a fixed number of cells, so no text can push another column aside, and the verdict column is filled
from the closed set of outcomes and from nothing else: a node called `✓ affirming` is a name in the node column.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from gateway.model.admin import Row
from gateway.model.verdict import Outcome

from .text import clean, fit
from .verdicts import MARKS, mark, outcome

Cell = tuple[str, str]


class Column(NamedTuple):
    """`cells` wide, with its heading; `grow` is its share of what the screen has left over."""

    title: str
    cells: int
    text: Callable[[Row], object]
    grow: int = 0
    right: bool = False
    style: str = ""


def clock(ms: int, *, millis: bool = True) -> str:
    """Local time of day; a dash where the calendar has no such day."""
    try:
        moment = datetime.fromtimestamp(ms / 1000).astimezone()
    except (OverflowError, ValueError, OSError):
        return "–"
    text = moment.strftime("%H:%M:%S")
    return f"{text}.{ms % 1000:03d}" if millis else text


def short_id(receipt_id: str) -> str:
    """The last six digits of a receipt id: the random part, so neighbours differ."""
    return receipt_id[-6:].lower()


def number(value: float) -> str:
    """Thousands apart by a thin space: `1 910`."""
    return f"{value:,.0f}".replace(",", " ")


def _verdict(row: Row) -> str:
    return ""  # drawn by `fill`, which alone knows the outcome


def _reason(row: Row) -> str:
    """Why it was not released; of what was, whether a later audit of the node put it in doubt."""
    return row.reason or ("doubted" if row.doubted else "")


WIDE = (
    Column("time", 12, lambda row: clock(row.created_ms)),
    Column("receipt", 7, lambda row: short_id(row.id), style="line--dim"),
    Column("verdict", 7, _verdict),
    Column("release", 9, lambda row: row.release),
    Column("agent", 16, lambda row: row.key_id),
    Column("model", 18, lambda row: row.model or "–", grow=2),
    Column("node", 12, lambda row: row.node or "–", grow=1),
    Column("reason", 16, _reason, grow=1),
    Column("ms", 7, lambda row: number(row.latency_ms), right=True),
)
NARROW = (
    Column("time", 8, lambda row: clock(row.created_ms, millis=False)),
    Column("receipt", 7, lambda row: short_id(row.id), style="line--dim"),
    Column("verdict", 7, _verdict),
    Column("model", 16, lambda row: row.model or "–", grow=2),
    Column("node", 11, lambda row: row.node or "–", grow=1),
    Column("reason", 15, _reason, grow=1),
    Column("ms", 6, lambda row: number(row.latency_ms), right=True),
)
WIDE_FROM = 115


def columns_for(width: int) -> tuple[Column, ...]:
    """The columns that fit `width`, with what is left over given to those that grow."""
    chosen = WIDE if width >= WIDE_FROM else NARROW
    left = width - sum(column.cells + 1 for column in chosen) - 1
    shares = sum(column.grow for column in chosen)
    if left <= 0:
        return chosen
    return tuple(column._replace(cells=column.cells + left * column.grow // shares) for column in chosen)


def heading(columns: tuple[Column, ...]) -> str:
    """The line above the list."""
    return " " + " ".join(fit(column.title, column.cells, right=column.right) for column in columns)


def fill(row: Row, columns: tuple[Column, ...], *, ascii_only: bool = False) -> list[Cell]:
    """One row as (clean text, style) cells."""
    found = outcome(row.verdict)
    cells: list[Cell] = [(" ", "")]
    for column in columns:
        if column.text is _verdict:
            text = mark(found, ascii_only=ascii_only)
            cells += [(text, MARKS[found].style), (" " * (column.cells + 1 - len(text)), "")]
            continue
        style = column.style
        if column.title == "reason" and (found is not Outcome.AFFIRMING or row.doubted):
            style = "line--strong"
        cells.append((fit(column.text(row), column.cells, right=column.right) + " ", style))
    return cells


def where(row: Row) -> str:
    """`node (network)`, cleaned."""
    if not row.node:
        return "no node"
    return clean(f"{row.node} ({row.network})" if row.network else row.node)
