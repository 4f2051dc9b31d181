"""What there is to fuzz: every module here and in `tee_worlds` that has `seeds()` and `run(data)`.

`seeds()` gives genuine items; `run(data)` gives `data` to the code under test, and raises only when something is wrong
there: an exception that its reader may not raise, or something that nobody signed and that came out as authentic.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

import fuzzing.worlds
import tee_worlds

PACKAGES = (tee_worlds, fuzzing.worlds)


class World(NamedTuple):
    name: str
    seeds: list[bytes]
    run: Callable[[bytes], Any]


def names() -> dict[str, str]:
    """Name of a world -> its module, for every module that has both functions."""
    found = {}
    for package in PACKAGES:
        for entry in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{entry.name}")
            if hasattr(module, "seeds") and hasattr(module, "run"):
                found[entry.name] = module.__name__
    return dict(sorted(found.items()))


def world(name: str) -> World:
    """The world called `name`, its genuine items made."""
    module = importlib.import_module(names()[name])
    return World(name, module.seeds(), module.run)
