"""One honest node for all tests that only ask it things, and one engine for those that need no server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from node_kit import Running, node

from adapters.selfhosted.lm.engine import Engine
from adapters.selfhosted.lm.model import Weights


@pytest.fixture(scope="session")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    identity: Path = tmp_path_factory.mktemp("node") / "identity.json"
    with node("--identity", str(identity), "--model-name", "house-model") as running:
        yield running


@pytest.fixture(scope="session")
def engine() -> Engine:
    return Engine(Weights.open())
