"""What must hold of a log whatever was done to the gateway, checked on the stored log and by `veriroute audit verify`.

Every accepted request has exactly one receipt, every intent is closed by one, indices are dense, and no prompt reached
a node without a receipt that says so.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from agents import prompt_of
from running import Gateway
from scripted import ScriptedNode

from gateway.storage.packing import Unpacker


class Row(NamedTuple):
    index: int
    id: str
    client: str | None
    release: str
    verdict: str
    reason: str | None
    status: int
    intent: int | None
    envelope: bytes

    @property
    def predicate(self) -> dict[str, Any]:
        return predicate(self.envelope)


class Event(NamedTuple):
    """An entry of the log that is no receipt. An intent's `id` is its receipt's."""

    index: int
    kind: str
    id: str
    envelope: bytes

    @property
    def predicate(self) -> dict[str, Any]:
        return predicate(self.envelope)


class Ledger:
    """The stored log as of now."""

    def __init__(self, database: Path) -> None:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=30)) as connection:
            connection.create_function("unpacked", 1, Unpacker(connection))
            connection.execute("BEGIN")
            self.size, self.highest = connection.execute("SELECT count(*), max(idx) FROM leaf").fetchone()
            self.receipts = [
                Row(*row)
                for row in connection.execute(
                    "SELECT idx, id, client_request_id, release, verdict, reason, status, intent, unpacked(envelope)"
                    " FROM receipt ORDER BY idx"
                )
            ]
            self.events = [
                Event(*row)
                for row in connection.execute("SELECT idx, kind, id, unpacked(envelope) FROM record ORDER BY idx")
            ]

    def of(self, client: str) -> Row:
        """The one receipt of the request that a client called `client`."""
        found = [row for row in self.receipts if row.client == client]
        assert len(found) == 1, f"{len(found)} receipts for {client}"
        return found[0]

    def kind(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    def alarms(self, name: str) -> list[dict[str, Any]]:
        return [event.predicate for event in self.kind("alarm") if event.predicate["alarm"] == name]

    def check(self) -> Ledger:
        """The invariants of a log in which nothing is under way."""
        assert self.highest == self.size - 1, "indices are not dense"
        places = sorted([row.index for row in self.receipts] + [event.index for event in self.events])
        assert places == list(range(self.size)), "a leaf without its document, or twice"
        once("receipt", [row.id for row in self.receipts])
        once("request", [row.client for row in self.receipts if row.client is not None])
        intents = {event.id: event.index for event in self.kind("intent")}
        once("intent", [event.id for event in self.kind("intent")])
        receipts = {row.id: row for row in self.receipts}
        assert not intents.keys() - receipts.keys(), "an intent without its receipt"
        for row in self.receipts:
            assert row.intent == intents.get(row.id), "a receipt that does not name its intent"
            assert row.intent is None or row.intent < row.index, "a receipt before its intent"
            if row.intent is None:
                assert "forwarded" not in row.predicate["request"], "a prompt that left without an intent"
        return self


def once(what: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    assert not twice, f"a {what} stands twice: {twice[:5]}"


def predicate(envelope: bytes) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(json.loads(envelope)["payload"]))["predicate"])


def exactly_one_each(gateway: Gateway, *nodes: ScriptedNode, before: int = 0) -> Ledger:
    """Wait until nothing is under way; then every accepted request has its one receipt, and so has every prompt.

    `before` is how many receipts the log held when this gateway started.
    """
    settled(gateway)
    ledger = Ledger(gateway.database).check()
    accepted = metric(gateway, "veriroute_accepted_total")
    assert metric(gateway, "veriroute_log_unrecorded_total") == 0
    assert len(ledger.receipts) - before == accepted, f"{len(ledger.receipts)} receipts for {accepted} requests"
    assert metrics_sum(gateway, "veriroute_exchanges_total") == accepted
    clients = {row.client for row in ledger.receipts}
    for node in nodes:
        assert {prompt_of(received) for received in node.received} <= clients, "a prompt without a receipt"
    return ledger


def settled(gateway: Gateway, within_s: float = 20.0) -> None:
    """Until no exchange runs and the log is owed nothing."""
    names = ("veriroute_in_flight", "veriroute_log_backlog", "veriroute_log_queue")
    deadline = time.monotonic() + within_s
    while any(metric(gateway, name) for name in names):
        assert time.monotonic() < deadline, metrics(gateway)
        time.sleep(0.05)


def metrics(gateway: Gateway) -> dict[str, float]:
    with gateway.http(gateway.admin_key) as client:
        text = client.get("/metrics").text
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def metric(gateway: Gateway, name: str) -> float:
    return metrics(gateway)[name]


def metrics_sum(gateway: Gateway, name: str) -> float:
    return sum(value for key, value in metrics(gateway).items() if key.partition("{")[0] == name)


def audited(gateway: Gateway) -> None:
    """`veriroute audit verify` finds nothing wrong."""
    command = [sys.executable, "-m", "gateway", "audit", "verify", str(gateway.database), "--trust", str(gateway.trust)]
    command += ["--memory", f"{gateway.database}.checkpoint"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
