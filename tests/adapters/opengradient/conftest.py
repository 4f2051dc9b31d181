"""One test network for all that do not change it for good."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opengradient_world import Network


@pytest.fixture(scope="module")
def shared() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture
def network(shared: Network) -> Iterator[Network]:
    """The one network, without faults before and after."""
    yield shared
    shared.faults.clear()
    shared.paid = False
    shared.enclave.profile = "v3"
