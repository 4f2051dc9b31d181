"""Imports go one way, and the pure half touches nothing outside itself."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest
from docs_kit import parsed

ROOT = Path(__file__).resolve().parent.parent

#: A module may import modules of a lower rank, and of its own package.
RANKS = {
    "gateway": 0,
    "gateway.errors": -1,
    "gateway.model": 0,
    "gateway.text": 0,
    "gateway.clock": 0,
    "gateway.entropy": 0,
    "gateway.csv_cells": 0,
    "gateway.crypto": 1,
    "gateway.aws_lc": 2,
    "gateway.settings": 1,
    "gateway.logs": 1,
    "gateway.verify": 2,
    "gateway.log": 2,
    "gateway.testing": 3,
    "gateway.policy": 3,
    "gateway.payment": 3,
    "gateway.exchange": 3,
    "gateway.routing": 4,
    "gateway.adapter": 4,
    "gateway.offline": 4,
    "gateway.durable": 4,
    "gateway.policy_files": 5,
    "gateway.keyfiles": 5,
    "gateway.storage": 5,
    "gateway.upstream": 4,
    "gateway.upstream.origin": 0,  # text in, value out; the settings are held to it
    "gateway.admin_client": 5,
    "gateway.prover": 5,
    "gateway.references": 5,
    "gateway.proofs": 6,
    "gateway.backlog": 5,
    "gateway.baselines": 5,
    "gateway.wallet": 5,
    "gateway.auditing": 6,
    "gateway.recorder": 6,
    "gateway.trust_file": 6,
    "gateway.payer": 6,
    "gateway.spending": 7,
    "gateway.fleet": 6,
    "gateway.relay": 7,
    "gateway.canaries": 8,
    "gateway.api": 8,
    "gateway.app": 9,
    "gateway.cli": 10,
    "gateway.__main__": 11,
}
PURE = (
    "errors", "model", "crypto", "verify", "log", "policy", "payment", "exchange", "routing", "offline", "text", "csv_cells",
)  # fmt: skip
FORBIDDEN_ROOTS = {
    "asyncio", "socket", "ssl", "httpx", "httpx2", "litestar", "uvicorn", "sqlmodel", "sqlalchemy", "sqlite3", "textual",
    "openai", "structlog", "threading", "subprocess", "pathlib", "tempfile", "random", "secrets", "time", "os", "adapters",
    "tui", "policies",
}  # fmt: skip
FORBIDDEN_CALLS = {"open", "print", "input", "exec", "eval"}
FORBIDDEN_ATTRIBUTES = {"now", "utcnow", "today", "environ", "urandom"}
ADAPTERS_MAY = (
    "gateway.errors",
    "gateway.model",
    "gateway.crypto",
    "gateway.verify",
    "gateway.adapter",
    "gateway.durable",
    "gateway.exchange.stream",
    "gateway.api.limits",  # the front alone, which knows nothing of exchanges: the reference node is served by it, too
    "gateway.api.protocol",
    "gateway.logs",  # the one form of log lines
    "gateway.policy_files",
    "gateway.testing",
)
TUI_MAY = (
    "gateway.errors", "gateway.model", "gateway.verify", "gateway.log", "gateway.policy", "gateway.admin_client",
    "gateway.storage", "gateway.text", "gateway.offline",
    "gateway.crypto.merkle",  # the log's own tree; it holds no key
)  # fmt: skip


@dataclass(frozen=True)
class Module:
    """One source file, read when a test first looks into it and once for all of them."""

    name: str
    path: Path

    @cached_property
    def imports(self) -> tuple[str, ...]:
        return tuple(_imports(self.name, self.path))


@cache
def modules(package: str) -> tuple[Module, ...]:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] == "__init__":
            parts.pop()
        found.append(Module(".".join(parts), path))
    return tuple(found)


def _imports(name: str, path: Path) -> Iterator[str]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                yield f"{base}.{alias.name}"


def test_only_the_reference_node_uses_test_material() -> None:
    """Nothing of the gateway imports `gateway.testing`, and of the adapters nothing but the node that needs it."""
    users = {
        module.name
        for package in ("gateway", "adapters", "tui")
        for module in modules(package)
        if any(target.startswith("gateway.testing") for target in module.imports)
    }
    assert {name for name in users if not name.startswith("gateway.testing.")} == {"adapters.selfhosted.machine"}


def rank_of(name: str) -> tuple[str, int]:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        if prefix in RANKS and (prefix != "gateway" or len(parts) <= 2):
            return prefix, RANKS[prefix]
    raise AssertionError(f"{name} has no rank: give it one in tests/test_layering.py")


@pytest.mark.parametrize("module", modules("gateway"), ids=lambda module: module.name)
def test_imports_go_down(module: Module) -> None:
    """Every import inside the gateway leads to a lower rank or stays in its own package."""
    name = module.name
    own, rank = rank_of(name)
    for target in module.imports:
        assert not target.startswith(("adapters", "tui")), f"{name} imports {target}"
        if target.split(".")[0] != "gateway" or target == "gateway.__version__":
            continue
        package, other = rank_of(target)
        assert package == own or other < rank, f"{name} (rank {rank}) imports {target} (rank {other})"


@pytest.mark.parametrize(
    "module",
    [m for m in modules("gateway") if m.name != "gateway" and m.name.split(".")[1] in PURE],
    ids=lambda module: module.name,
)
def test_the_pure_half_is_pure(module: Module) -> None:
    """No socket, file, clock, environment, thread or randomness in what an auditor reads."""
    name = module.name
    for target in module.imports:
        assert target.split(".")[0] not in FORBIDDEN_ROOTS, f"{name} imports {target}"
        assert not target.startswith(("importlib.util", "importlib.machinery")), f"{name} looks for modules on disk"
    for node in ast.walk(parsed(module.path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in FORBIDDEN_CALLS, f"{name}:{node.lineno} calls {node.func.id}"
        if isinstance(node, ast.Attribute):
            assert node.attr not in FORBIDDEN_ATTRIBUTES, f"{name}:{node.lineno} reads .{node.attr}"


@pytest.mark.parametrize(
    ("package", "allowed"), [("adapters", (*ADAPTERS_MAY, "gateway.cli")), ("tui", TUI_MAY)], ids=["adapters", "tui"]
)
def test_outer_packages_use_the_public_surface(package: str, allowed: tuple[str, ...]) -> None:
    """Adapters and the terminal UI import only what they are meant to; the terminal UI no cryptography."""
    for module in modules(package):
        for target in module.imports:
            if target.startswith("gateway.") and target != "gateway.__version__":
                assert target.startswith(allowed), f"{module.name} imports {target}"


def test_commands_do_no_cryptography() -> None:
    """A command calls what judges; it does not judge."""
    for module in modules("gateway/cli"):
        for target in module.imports:
            tree_hashes = target.startswith("gateway.crypto.merkle.")  # the log's format; it judges nothing
            assert tree_hashes or not target.startswith("gateway.crypto"), f"{module.name} imports {target}"


def test_only_the_gateway_lets_aws_lc_in() -> None:
    """What an auditor runs believes libsodium and nothing else: only the composition root accelerates."""
    found = set()
    for package in ("gateway", "adapters", "tui"):
        for module in modules(package):
            found |= {module.name for target in module.imports if target.endswith("signatures.accelerate")}
    assert found == {"gateway.app"}
