"""A secret that is made once and then kept: a JSON file of mode 0600, whole or not there at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.durable import sync_folder


def make(path: Path, document: Mapping[str, Any]) -> None:
    """Write `document` where nothing is yet, and flush it: a node goes by it only once it is kept.

    What fails midway, or is interrupted, leaves nothing behind that the next start would take for a damaged file.
    Raises `FileExistsError`, and `OSError` when it cannot be written.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
