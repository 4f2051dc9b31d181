"""Fixtures: a log with its auditor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from audit_kit import Desk


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Callable[..., Desk]]:
    """Makes desks, and ends those that a test left open."""
    made: list[Desk] = []

    def make(*policies: Any, **options: Any) -> Desk:
        made.append(Desk(tmp_path, *policies, **options))
        return made[-1]

    yield make
    for one in made:
        if hasattr(one, "log") and one.log.healthy:
            await one.crash()
        if hasattr(one, "reader"):
            one.reader.close()  # a test that looks after the end opens it again
