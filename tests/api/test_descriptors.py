"""Open files: the soft limit is raised as far as the hard one lets it, and what is lacking is said."""

from __future__ import annotations

import resource

import pytest

from gateway.api.limits import Limits, raise_descriptor_limit

ALL = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("before", "after", "short"),
    [
        ((1024, 4096), (1500, 4096), 0),
        ((1024, ALL), (1500, ALL), 0),
        ((2000, 4096), (2000, 4096), 0),
        ((ALL, ALL), (ALL, ALL), 0),
        ((256, 1024), (1024, 1024), 476),
    ],
)
def test_the_soft_limit_is_raised_as_far_as_the_hard_one(monkeypatch: pytest.MonkeyPatch, before, after, short) -> None:
    """1000 connections beside 500 other files ask for 1500."""
    held = [before]
    monkeypatch.setattr(resource, "getrlimit", lambda _: held[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: held.append(limits))
    assert raise_descriptor_limit(Limits(connections=1000), reserve=500) == short
    assert held[-1] == after
