"""Reading beside the writer: pages, proofs for any size, tiles, and a database that was tampered with."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from storage_kit import filled, opened, receipt, record, ulid

from gateway.crypto.merkle import leaf_hash, node_hash, subtree_root, verify_consistency, verify_inclusion
from gateway.errors import BadRequest, LogRefused, LogUnavailable, NotFound, ProofError
from gateway.log.tiles import decode_bundle, decode_tile, tiles_at
from gateway.storage.reads import Reader

SIZE = 600


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    directory = tmp_path_factory.mktemp("reads")

    async def fill() -> None:
        log = await opened(directory)
        verdicts = ("affirming", "affirming", "warning", "none")
        futures = [log.append(record("start", 99_999))]
        futures += [
            log.append(
                receipt(
                    n,
                    key_id=f"key_{n % 3}",
                    verdict=verdicts[n % 4],
                    node=None if n % 5 == 0 else f"node-{n % 5}",
                    client_request_id=f"mine-{n % 7}" if n % 2 else None,
                )
            )
            for n in range(1, SIZE)
        ]
        await asyncio.gather(*futures)
        await log.close()

    asyncio.run(fill())
    with Reader(f"{directory}/log.db") as reader:
        yield reader


def test_single_receipts(reader: Reader) -> None:
    """A receipt is found by its id, and for a key only when it is that key's."""
    entry = receipt(5)
    assert reader.receipt(ulid(5)) == entry.document == reader.receipt(ulid(5), key_id="key_2")
    assert reader.receipt(ulid(5), key_id="key_1") is reader.receipt("nothing") is None
    row = reader.row(ulid(5), key_id="key_2")
    assert row is not None
    assert (row.index, row.id, row.stream, row.node, row.client_request_id) == (5, ulid(5), True, None, "mine-5")
    assert reader.row(ulid(5), key_id="key_0") is reader.row("nothing") is None
    assert reader.document(5).envelope == entry.document  # type: ignore[union-attr]
    assert reader.document(SIZE) is None


def test_a_key_sees_its_own_receipts_page_by_page(reader: Reader) -> None:
    """Pages of a key's receipts, newest first, cover each of them once and nobody else's."""
    seen, after = [], None
    while page := reader.rows_of_key("key_1", limit=37, after=after):
        seen += [row.index for row in page]
        after = page[-1].id
    assert seen == [n for n in range(SIZE - 1, 0, -1) if n % 3 == 1]
    found = reader.rows_of_key("key_1", client_request_id="mine-3")
    assert [row.index for row in found] == [n for n in range(SIZE - 1, 0, -1) if n % 3 == 1 and n % 7 == 3 and n % 2]
    assert reader.rows_of_key("key_1' OR '1'='1") == []


def test_g08_anothers_cursor_is_unknown(reader: Reader) -> None:
    """A cursor of another key is refused exactly like one that never existed."""
    for cursor in (ulid(2), ulid(10**6), "%", "'; --"):
        with pytest.raises(BadRequest) as refused:
            reader.rows_of_key("key_1", after=cursor)
        assert (str(refused.value), refused.value.param) == (
            "there is no receipt of yours with the id given as `after`",
            "after",
        )


def test_all_receipts_by_index_verdict_and_node(reader: Reader) -> None:
    """The operator's pages run down from `before`, or are the nearest above `after`, and can be filtered."""
    every = [row.index for row in reader.rows(limit=10**6)]
    assert every == list(range(SIZE - 1, 0, -1))
    assert [row.index for row in reader.rows(before=100, limit=3)] == [99, 98, 97]
    assert [row.index for row in reader.rows(after=100, limit=3)] == [103, 102, 101]
    assert [row.index for row in reader.rows(after=100, before=104, limit=9)] == [103, 102, 101]
    assert {row.verdict for row in reader.rows(verdict="warning")} == {"warning"}
    assert [row.index for row in reader.rows(verdict="affirming", node="node-1", limit=2)] == [
        n for n in range(SIZE - 1, 0, -1) if n % 5 == 1 and n % 4 < 2
    ][:2]
    assert reader.rows(limit=0) == reader.rows(limit=-1) == reader.rows(node="nobody") == []


def test_a_page_by_node_looks_through_so_much_and_no_more(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """No index has nodes: a page of one ends after `LOOKED` places, and the next goes on there until all are seen."""
    monkeypatch.setattr("gateway.storage.reads.LOOKED", 100)
    wanted = [row.index for row in reader.rows(node="node-1", limit=SIZE)]
    found, before, pages = [], None, 0
    while pages == 0 or before is not None:
        rows, before = reader.page(node="node-1", limit=SIZE, before=before)
        assert not rows or rows[0].index - rows[-1].index < 100
        found += [row.index for row in rows]
        pages += 1
    assert found == wanted
    assert pages == -(-SIZE // 100)
    assert reader.page(node="nobody", before=250) == ([], 150)
    assert reader.page(node="nobody", before=1 << 52) == ([], SIZE - 100)
    assert reader.page(node="nobody", before=90) == reader.page(node="nobody", before=0) == ([], None)
    rows, before = reader.page(node="node-1", limit=2)
    assert ([row.index for row in rows], before) == (wanted[:2], wanted[1])


def test_a_page_of_all_nodes_goes_on_below_its_last_row(reader: Reader) -> None:
    """Where nothing is looked through in vain, a page is full, or the last."""
    rows, before = reader.page(limit=3)
    assert ([row.index for row in rows], before) == ([SIZE - 1, SIZE - 2, SIZE - 3], SIZE - 3)
    assert reader.page(before=1) == ([], None)
    assert reader.page(limit=SIZE)[1] is None


def test_what_other_keys_call_their_requests_costs_a_key_nothing(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request id is looked for among the key's own, in the order in which the page is."""
    plans: list[str] = []
    seen = Reader._all

    def listening(self: Reader, sql: str, *parameters: object) -> list[object]:
        plans.extend(row[3] for row in seen(self, f"EXPLAIN QUERY PLAN {sql}", *parameters))
        return seen(self, sql, *parameters)

    monkeypatch.setattr(Reader, "_all", listening)
    found = reader.rows_of_key("key_1", client_request_id="mine-3")
    assert {(row.key_id, row.client_request_id) for row in found} == {("key_1", "mine-3")}
    by = "SEARCH receipt USING INDEX receipt_request (client_request_id=? AND key_id=?"
    assert plans[0] == f"{by})"
    plans.clear()
    assert reader.rows_of_key("key_1", client_request_id="mine-3", after=found[0].id) == found[1:]
    assert f"{by} AND rowid<?)" in plans
    assert not any("TEMP B-TREE" in step for step in plans)


def test_counts(reader: Reader) -> None:
    """Receipts are counted by verdict; other entries are not."""
    counted = reader.counts()
    assert counted == {"affirming": 299, "warning": 150, "none": 150}


async def test_receipts_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came in since is added; the first count reads narrow indexes alone, a later one what is new alone; and
    another file of the same name is counted from its beginning."""
    asked: list[str] = []
    seen = Reader._all

    def listening(self: Reader, sql: str, *parameters: object) -> list[object]:
        asked[:] = [row[3] for row in seen(self, f"EXPLAIN QUERY PLAN {sql}", *parameters)]
        return seen(self, sql, *parameters)

    monkeypatch.setattr(Reader, "_all", listening)
    log = await opened(tmp_path)
    with Reader(f"{tmp_path}/log.db") as reader:
        assert (reader.counts(), reader.counts()) == ({}, {})
        await log.append(receipt(1))
        await log.append(receipt(2, verdict="warning"))
        assert reader.counts() == {"affirming": 1, "warning": 1}
        assert {step for step in asked if "receipt" in step} == {
            "SCAN receipt USING COVERING INDEX receipt_key", "SCAN receipt USING COVERING INDEX receipt_verdict",
        }  # fmt: skip
        await log.append(receipt(3, verdict="none"))
        await log.append(receipt(4))
        assert reader.counts() == {"affirming": 2, "warning": 1, "none": 1} == reader.counts()
        assert asked[0] == "SEARCH receipt USING INTEGER PRIMARY KEY (rowid>?)"
        await log.close()
        reader.close()
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        await filled(tmp_path, 3)
        assert reader.counts() == {"affirming": 3}


def test_every_proof_verifies(reader: Reader) -> None:
    """Roots, inclusion and consistency proofs can be had for every size, and hold."""
    leaves = [leaf_hash(leaf) for leaf in reader.leaves(0, SIZE)]
    roots = {size: subtree_root(leaves[:size]) for size in (1, 2, 3, 255, 256, 257, 511, 512, 513, 599, 600)}
    for size, root in roots.items():
        assert reader.root(size) == root
        for index in {0, size // 2, size - 1, min(255, size - 1), min(256, size - 1)}:
            verify_inclusion(leaves[index], index, size, reader.inclusion(index, size), root)
        for old, old_root in roots.items():
            if old <= size:
                verify_consistency(old, size, reader.consistency(old, size), old_root, root)
    assert reader.node_hash(1, 3) == node_hash(leaves[6], leaves[7])
    for impossible in (lambda: reader.root(601), lambda: reader.node_hash(8, 2), lambda: reader.inclusion(0, 10**9)):
        with pytest.raises(NotFound):
            impossible()
    with pytest.raises(ProofError):
        reader.inclusion(5, 5)


def test_every_tile_is_served(reader: Reader) -> None:
    """All tiles and bundles of the log, at every width, are what the leaves make of them; beyond there is nothing."""
    leaves = reader.leaves(0, SIZE)
    hashes = [leaf_hash(leaf) for leaf in leaves]
    roots = [subtree_root(hashes[at : at + 256]) for at in (0, 256)]
    for tile in tiles_at(SIZE):
        level, index, width = tile.level, tile.index, tile.width
        data = reader.tile(level, index, width)
        assert data is not None
        if level == -1:
            assert decode_bundle(data, width) == tuple(leaves[index * 256 : index * 256 + width])
        else:
            row = hashes if level == 0 else roots
            assert decode_tile(data, width) == tuple(row[index * 256 : index * 256 + width])
        assert reader.tile(level, index, width + 1) is None
        assert reader.tile(level, index, 1) == (data[:32] if level >= 0 else reader.bundle(index, 1))
    for nothing in ((0, 3, 1), (2, 0, 1), (-2, 0, 1), (8, 0, 1), (0, -1, 1), (0, 1 << 60, 1), (0, 0, 0), (-1, -1, 1)):
        assert reader.tile(*nothing) is None


def test_checkpoints(reader: Reader) -> None:
    """The newest checkpoint, and those signed before, can be had; no other."""
    assert reader.checkpoint() == reader.checkpoint(SIZE)
    assert reader.checkpoint(0) is not None
    assert reader.checkpoint(SIZE + 1) is None
    assert (reader.size(), reader.origin()) == (SIZE, "log.example/veriroute")
    assert str(reader.vkey()).startswith("log.example/veriroute+")


def test_threads_have_connections_of_their_own(reader: Reader) -> None:
    """Many threads read at once."""
    wrong: list[object] = []

    def read() -> None:
        for n in range(1, 60):
            if reader.receipt(ulid(n)) is None or reader.root(n * 10) is None:
                wrong.append(n)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


async def test_reading_while_writing(tmp_path: Path) -> None:
    """A reader beside the writer sees whole batches: leaves, documents and head always fit together."""
    log = await opened(tmp_path)
    done = threading.Event()
    sizes = []

    def watch() -> None:
        with Reader(f"{tmp_path}/log.db") as reader:
            while not done.is_set():
                note = reader.checkpoint()
                size = reader.size()
                assert note is not None
                assert all(document.envelope for document in reader.documents(0, size))
                sizes.append(size)

    watcher = asyncio.create_task(asyncio.to_thread(watch))
    for at in range(0, 600, 20):
        await asyncio.gather(*[log.append(receipt(at + n)) for n in range(20)])
    done.set()
    await watcher
    assert sizes == sorted(sizes)
    await log.close()


async def test_a_closed_reader_opens_again(tmp_path: Path) -> None:
    """Closing frees the file; the next call opens it anew."""
    await filled(tmp_path, 2)
    reader = Reader(f"{tmp_path}/log.db")
    assert reader.size() == 2
    reader.close()
    assert reader.size() == 2
    reader.close()


async def test_a_tampered_database_is_reported(tmp_path: Path) -> None:
    """Wrong types, missing rows and damaged pages give errors of ours or nothing, never a foreign exception."""
    await filled(tmp_path, 300)
    connection = sqlite3.connect(tmp_path / "log.db", isolation_level=None)
    connection.execute("UPDATE receipt SET created_ms = 'soon' WHERE idx = 5")
    connection.execute("UPDATE receipt SET envelope = 'text', model = CAST(x'ff' AS TEXT) WHERE idx = 6")
    connection.execute("UPDATE leaf SET leaf = 'text', hash = 7 WHERE idx = 7")
    connection.execute("DELETE FROM leaf WHERE idx = 8")
    connection.execute("DELETE FROM receipt WHERE idx = 9")
    connection.close()
    with Reader(f"{tmp_path}/log.db") as reader:
        with pytest.raises(LogUnavailable, match="receipt 5 "):
            reader.row(ulid(5))
        row = reader.row(ulid(6))
        assert row is not None
        assert row.model == "\ufffd"
        assert reader.receipt(ulid(6)) == b"text"
        documents = {document.index: document for document in reader.documents()}
        assert len(documents) == 299
        assert (documents[7].leaf, documents[7].kind) == (b"text", "")
        assert (documents[9].envelope, documents[9].id) == (None, None)
        assert len(reader.leaves(0, 300)) == 8
        assert reader.tile(0, 0) is None
        assert reader.tile(0, 0, 5) is not None
    damaged = tmp_path / "damaged.db"
    shutil.copy(tmp_path / "log.db", damaged)
    with damaged.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 400_000)
    with pytest.raises((LogUnavailable, LogRefused)), Reader(str(damaged)) as reader:
        list(reader.documents())


async def test_a_reader_may_be_closed_under_a_read(tmp_path: Path) -> None:
    """The read fails at once, the process goes on, and the same thread reads again."""
    await filled(tmp_path, 1)
    begun = threading.Event()
    ended: list[BaseException | int] = []
    with Reader(f"{tmp_path}/log.db") as reader:

        def read() -> None:
            reader.size()
            reader._local.opened._connection.set_progress_handler(begun.set, 1_000)
            try:
                reader._all("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n")
            except LogUnavailable as error:
                ended.append(error)
            ended.append(reader.size())

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        assert await asyncio.to_thread(begun.wait, 10)
        await asyncio.to_thread(reader.close)
        await asyncio.to_thread(thread.join, 10)
        assert [str(ended[0]).rpartition(": ")[2], *ended[1:]] == ["interrupted", 1]
