"""Policy files for tests: the built-in `signed`, but for what a test wants otherwise."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path


def write_policy(folder: Path, name: str, **keys: str) -> Path:
    """Write `name`.toml into `folder`; `keys` are keys of the file (the last part of their path) with TOML values."""
    text = (resources.files("policies") / "signed.toml").read_text("utf-8")
    for key, value in {"name": f'"{name}"', **keys}.items():
        text, found = re.subn(rf"^{key} = .*$", f"{key} = {value}", text, count=1, flags=re.MULTILINE)
        assert found, f"signed.toml does not write {key}"
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(text, "utf-8")
    return path
