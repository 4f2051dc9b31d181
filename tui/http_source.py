"""A running gateway as a source, through its admin API."""

from __future__ import annotations

from array import array
from collections.abc import AsyncIterator

from gateway.admin_client import AdminClient
from gateway.errors import FormatError, NotFound, ServiceError

from .filters import Filter
from .source import NO_GATEWAY, PAGE, Info, NodeView, Page, Row, select


class HttpSource:
    """The gateway at `address`. Filters run at the gateway as far as it can, and here for the rest."""

    synthetic = False
    no_tail: str | None = None

    def __init__(self, address: str, key: str, *, clear_text: bool = False, client: AdminClient | None = None) -> None:
        self._client = client or AdminClient(address, key, clear_text=clear_text)
        self.name = address.removeprefix("http://").rstrip("/")

    async def info(self) -> Info:
        try:
            return await self._client.info()
        except (FormatError, NotFound) as error:
            raise ServiceError(str(error), reason=NO_GATEWAY) from error

    async def page(self, chosen: Filter, *, before: int | None = None, limit: int = PAGE) -> Page:
        verdict = chosen.verdicts[0].value if len(chosen.verdicts) == 1 else None
        page = await self._client.receipts(before=before, limit=limit, verdict=verdict, node=chosen.exact("node"))
        return select(chosen, sorted(page.rows, key=lambda row: -row.index), page.next)

    async def indexes(self, chosen: Filter) -> array[int] | None:
        return None

    async def bundle(self, receipt_id: str) -> bytes:
        return await self._client.bundle(receipt_id)

    async def nodes(self) -> tuple[NodeView, ...]:
        return await self._client.nodes()

    def tail(self) -> AsyncIterator[Row]:
        return self._client.live()

    async def close(self) -> None:
        await self._client.close()
