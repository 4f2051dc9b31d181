"""Every async test of the channel runs on both event loops: the standard one, and the one that the service runs on."""

import asyncio

import uvloop


def pytest_asyncio_loop_factories(config, item):
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
