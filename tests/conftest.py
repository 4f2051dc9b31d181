"""Stands here so that helper modules of this folder can be imported from every test below it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
import structlog

# As `veriroute node` has it: the model's products are small, and BLAS threads would only fight over the cores. Before
# NumPy is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

# structlog's own default draws an exception with the local variables of each frame, which takes seconds of a test.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """While tests are collected next to nothing becomes garbage: the collector need not look through what grows."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_finish() -> None:
    """What was collected stays until the end: the collector of garbage need not look through it after every test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command sets logging up for its process; a test that runs one in this process leaves the next what it found."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)
