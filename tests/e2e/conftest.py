"""Fixtures: real nodes and real gateways, as subprocesses on loopback."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running import Gateway, Process, node_table


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One honest reference node for all tests."""
    folder = tmp_path_factory.mktemp("node")
    process = Process(["node", "--port", "0", "--identity", str(folder / "id.json"), "--json"], cwd=folder)
    yield process
    process.stop()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory, node: Process) -> Iterator[Gateway]:
    """One gateway before the honest node, for tests that change nothing."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"), [node_table(node, "honest")]).start()
    yield gateway
    assert gateway.stop() == 0


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Makes gateways of a test's own; stops those still running."""
    made: list[Gateway] = []

    def make(nodes: list[dict[str, Any]], **settings: Any) -> Gateway:
        folder = tmp_path / f"gateway-{len(made)}"
        folder.mkdir()
        made.append(Gateway(folder, nodes, **settings))
        return made[-1]

    yield make
    for gateway in made:
        if gateway.process is not None:
            with contextlib.suppress(AssertionError):
                gateway.stop()


@pytest.fixture
def run_node(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts nodes of a test's own."""
    started: list[Process] = []

    def run(*arguments: str) -> Process:
        identity = tmp_path / f"node-{len(started)}.json"
        started.append(
            Process(["node", "--port", "0", "--identity", str(identity), "--json", *arguments], cwd=tmp_path)
        )
        return started[-1]

    yield run
    for process in started:
        process.stop()
