"""The sources agree: a gateway, its database file, and the demo."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace

import httpx
import msgspec
import pytest
from tui_kit import NOON_MS, WIDE, dump, ready, row, until

from gateway.admin_client import AdminClient
from gateway.errors import ConfigError, LogRefused, NotFound
from gateway.log.bundle import parse_bundle
from gateway.log.dsse import sign_envelope
from gateway.log.note import NoteSigner
from gateway.log.receipt import leaf
from gateway.log.trust import parse_trust
from gateway.model.admin import Page
from gateway.model.entry import Entry, Opening, ReceiptRow
from gateway.model.receipt import PAYLOAD_TYPE
from gateway.model.ulid import UlidFactory
from gateway.storage.startup import open_log
from tui import file_source
from tui.app import VerirouteApp
from tui.demo_exchanges import ORIGIN, make
from tui.demo_source import DemoSource, demo_pins
from tui.feed import Feed
from tui.file_source import FileSource
from tui.filters import Filter, parse_filter
from tui.http_source import HttpSource
from tui.reverify import Pins, reverify
from tui.source import Source

LOG = NoteSigner(ORIGIN, b"a key for a test's log, no trust")
RECEIPTS = NoteSigner("test.invalid/receipts", b"a key for a test's receipts, too")


async def _write(path: Path, count: int) -> None:
    """A gateway's database with `count` demo exchanges in it."""
    ulids = UlidFactory()
    log = await open_log(f"sqlite:///{path}", LOG, ORIGIN, str(path) + ".memory", now=lambda: NOON_MS / 1000)
    try:
        waiting = []
        for number in range(count):
            made = make(number, NOON_MS + number, ulids)
            fields = {name: getattr(made.row, name) for name in ReceiptRow.__struct_fields__}
            waiting.append(
                log.append(
                    Entry(
                        "receipt",
                        made.row.id,
                        leaf("receipt", PAYLOAD_TYPE, made.payload),
                        sign_envelope(made.payload, PAYLOAD_TYPE, RECEIPTS),
                        ReceiptRow(**fields),
                        Opening(made.row.id, made.seed, made.openings["request.body"]),
                    )
                )
            )
        await asyncio.gather(*waiting)
    finally:
        await log.close()


async def _all(source: Source, chosen: Filter) -> list[str]:
    feed = Feed(source, chosen)
    await feed.open()
    while not feed.complete:
        await feed.want(0, len(feed) + 1)
    return [found.id for position in range(len(feed)) if (found := feed.at(position)) is not None]


@pytest.mark.parametrize(
    "wanted", ["", "verdict:fail", "verdict:problem", "node:demo-node-a", "node:demo-* model:*70b*"]
)
async def test_file_gateway_and_demo_agree(tmp_path: Path, wanted: str) -> None:
    """The same exchanges, asked for in three ways, give the same rows in the same order."""
    chosen = parse_filter(wanted, NOON_MS)
    path = tmp_path / "gateway.db"
    await _write(path, 30)
    file = FileSource(path)

    def answer(request: httpx.Request) -> httpx.Response:
        asked = {name: request.url.params.get(name) for name in ("before", "limit", "verdict", "node")}
        found = file._reader.rows(
            before=int(asked["before"]) if asked["before"] else None,
            limit=7,
            verdict=asked["verdict"],
            node=asked["node"],
        )
        return httpx.Response(
            200, content=msgspec.json.encode(Page(tuple(found), found[-1].index if len(found) == 7 else None))
        )

    client = AdminClient("http://127.0.0.1:1", "k", transport=httpx.MockTransport(answer))
    gateway = HttpSource("http://127.0.0.1:1", "k", client=client)
    demo = DemoSource(30, now_ms=NOON_MS, live=False)
    same = {found.client_request_id for found in (await demo.page(chosen)).rows}
    try:
        ids = await _all(file, chosen)
        assert len(ids) == len(same)
        assert await _all(gateway, chosen) == ids
    finally:
        await file.close()
        await gateway.close()


async def test_a_file_gives_bundles_that_verify(tmp_path: Path) -> None:
    """A bundle from the file holds under the keys of its gateway, openings included."""
    path = tmp_path / "gateway.db"
    await _write(path, 12)

    source = FileSource(path)
    info = await source.info()
    assert (info.size, sum(info.counts.values()), info.origin) == (12, 12, ORIGIN)
    rows = (await source.page(Filter())).rows
    data = await source.bundle(rows[-5].id)
    assert "request.body" in parse_bundle(data).openings
    trust = parse_trust(f"log {LOG.vkey}\n#!receipt {RECEIPTS.vkey}\nquorum none\n")
    assert reverify(data, rows[-5], Pins(trust, "t"), NOON_MS / 1000 + 60).holds is True
    assert reverify(data, rows[-5], demo_pins(), NOON_MS / 1000 + 60).holds is not True
    with pytest.raises(NotFound):
        await source.bundle("01M7Q4QBX0D78M3GH913VXWK8S")
    await source.close()


async def test_a_file_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that the gateway writes appear in the tail of its file."""
    monkeypatch.setattr(file_source, "POLL_S", 0.02)
    path = tmp_path / "gateway.db"
    await _write(path, 2)
    source = FileSource(path)
    tail = source.tail()
    first = asyncio.ensure_future(anext(tail))  # type: ignore[arg-type]
    await asyncio.sleep(0.2)
    log = await open_log(f"sqlite:///{path}", LOG, ORIGIN, str(path) + ".memory", now=lambda: NOON_MS / 1000)
    made = make(77, NOON_MS, UlidFactory())
    fields = {name: getattr(made.row, name) for name in ReceiptRow.__struct_fields__}
    entry = Entry("receipt", made.row.id, leaf("receipt", PAYLOAD_TYPE, made.payload), b"{}", ReceiptRow(**fields))
    await log.append(entry)
    await log.close()
    assert (await asyncio.wait_for(first, 10)).id == made.row.id
    await tail.aclose()  # type: ignore[attr-defined]
    await source.close()


async def test_a_file_that_is_replaced_is_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log begun anew under the same name is shown in place of the old one, which nobody writes any more."""
    monkeypatch.setattr(file_source, "POLL_S", 0.05)
    path = tmp_path / "gateway.db"
    await _write(path, 12)
    await _write(tmp_path / "new.db", 5)
    app = VerirouteApp(FileSource(path))
    async with app.run_test(size=WIDE):
        await ready(app)
        await until(lambda: "1 of 12" in dump(app))
        (tmp_path / "new.db").replace(path)
        await until(lambda: "1 of 5" in dump(app))


async def test_what_is_no_database_is_said(tmp_path: Path) -> None:
    """A file that is absent, empty or something else is named, and why."""
    with pytest.raises(NotFound, match="nowhere"):
        await FileSource(tmp_path / "nowhere").info()
    other = tmp_path / "other.db"
    other.write_bytes(b"not a database, whatever its name may say" * 100)
    with pytest.raises((LogRefused, ConfigError), match=r"other\.db"):
        await FileSource(other).info()


async def test_pages_stop_where_the_time_does() -> None:
    """A filter by time does not read the whole log of the gateway."""

    async def receipts(**_: object) -> Page:
        return Page((row(created_ms=0, index=3),), 3)

    source = HttpSource("http://127.0.0.1:1", "k", client=SimpleNamespace(receipts=receipts))  # type: ignore[arg-type]
    page = await source.page(parse_filter("since:1h", NOON_MS))
    assert page == Page((), None)
    assert await source.indexes(Filter()) is None


async def test_pages_of_a_file_stop_where_the_time_does(tmp_path: Path) -> None:
    """Nor does it read the whole database: behind the first page there is none where all of it is too old."""
    await _write(tmp_path / "log.db", 4)
    source = FileSource(tmp_path / "log.db")
    later = parse_filter("since:1h", NOON_MS + 24 * 3_600_000)
    try:
        assert await source.page(later, limit=2) == Page((), None)
        assert (await source.page(parse_filter("since:1h", NOON_MS), limit=2)).next is not None
    finally:
        await source.close()
