"""Where rows and bundles come from, as one interface: a running gateway, a database file, or synthetic data.

A source never judges. Rows are the claims of whoever wrote them; a bundle is what `tui.reverify` checks.
"""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from gateway.model.admin import Info, NodeView, Page, Row

from .filters import Filter

__all__ = ["Filter", "Info", "NodeView", "Page", "Row", "Source"]

#: How many rows one page asks for.
PAGE = 500
#: The `reason` of a ServiceError: something answered, and it is no gateway.
NO_GATEWAY = "no_gateway"
#: Rows stand in the order of their receipts, and a slow exchange is logged long after it began.
_SLACK_MS = 3_600_000


def select(chosen: Filter, rows: Sequence[Row], following: int | None) -> Page:
    """The page of what `chosen` selects of `rows`, newest first, which are followed by those below `following`.

    It is the last one where all that follow are older than what is asked for.
    """
    found = tuple(row for row in rows if chosen.matches(row))
    over = rows and chosen.since_ms is not None and rows[-1].created_ms < chosen.since_ms - _SLACK_MS
    return Page(found, None if over else following)


class Source(Protocol):
    """Everything the screens ask for. Methods raise `gateway.errors` types and nothing else."""

    #: What the status bar calls it: an address, a file name, `DEMO`.
    name: str
    #: Whether everything in it is invented.
    synthetic: bool
    #: Why there is no live traffic; None where there is.
    no_tail: str | None

    async def info(self) -> Info:
        """The log and its counts now. Also the sign that the source is there."""
        ...

    async def page(self, chosen: Filter, *, before: int | None = None, limit: int = PAGE) -> Page:
        """Rows selected by `chosen` with a log index below `before`, newest first, and where the next page starts.

        A page may hold fewer than `limit` rows, even none, while `next` says that there is more to look through.
        """
        ...

    async def indexes(self, chosen: Filter) -> array[int] | None:
        """The log indexes of every row selected, rising; None where that cannot be had at once."""
        ...

    async def bundle(self, receipt_id: str) -> bytes:
        """The bundle of one receipt, as stored or sent."""
        ...

    async def nodes(self) -> tuple[NodeView, ...]:
        """Every node as it is now. Raises `NotFound` where the source knows of none."""
        ...

    def tail(self) -> AsyncIterator[Row]:
        """Rows as they are committed, unfiltered, in no promised order and possibly with gaps."""
        ...

    async def close(self) -> None:
        """Let go of connections and files."""
        ...
