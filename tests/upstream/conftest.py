"""Every async test of the channel runs on both event loops: the standard one, and the one that the service runs on."""

import asyncio

import pytest
import uvloop

from gateway.upstream.pool import UpstreamPool


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def pool():
    """A pool that has to end without a connection."""
    pool = UpstreamPool()
    yield pool
    await pool.close()
    assert pool.open_count == 0
