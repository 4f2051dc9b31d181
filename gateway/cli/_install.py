"""Whether the packages that Python finds by our names, which are common ones, are ours."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from gateway.errors import ConfigError


def check_install(*packages: str) -> None:
    """Raise `ConfigError` when another distribution's package stands before ours; by default, as serving needs them."""
    home = Path(__file__).resolve().parent.parent.parent
    for package in packages or ("adapters", "policies"):
        spec = find_spec(package)
        if spec is None or spec.origin is None or Path(spec.origin).resolve().parent.parent != home:
            raise ConfigError(
                f"the package {package!r} that Python finds is not veriroute's ({spec.origin if spec else 'none'}). "
                "Install veriroute in an environment of its own: pipx, `uv tool install`, or a container"
            )
