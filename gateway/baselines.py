"""Baselines of canaries: what each model at each node answered when it was first asked, kept beside the database.

    <folder>/<sha256 of node and model>.json      one `Baseline`

A file is written beside its place, flushed, and moved there. One that cannot be read is no reason to begin anew, since
whoever could damage it could hide a change: it stays, and its model is not judged, until somebody resets it.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from .durable import write_durably
from .errors import FormatError

#: Further models of nodes have no baseline.
MAX_BASELINES = 256
MAX_FILE = 4 << 20
MIN_SAMPLES, MAX_SAMPLES = 5, 50

#: What comparing with the baseline found: nothing was compared yet, no change, or a change.
State = Literal["set", "stable", "changed"]
_Ms = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
_Sample = Annotated[dict[str, float], msgspec.Meta(min_length=1, max_length=20)]


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The samples of `model` at `node`, and what came of the last comparison with them. Times are milliseconds.

    `keyset` is the node's at that time and `prompt` what it is asked. The last `runs` comparisons, since `since_ms`,
    found `state`; the newest of them, at `last_ms`, with the p-value `p`, under another keyset if `rekeyed`.
    """

    node: str
    model: str
    keyset: str
    prompt: Annotated[str, msgspec.Meta(min_length=1, max_length=16)]
    set_ms: _Ms
    samples: Annotated[tuple[_Sample, ...], msgspec.Meta(min_length=MIN_SAMPLES, max_length=MAX_SAMPLES)]
    state: State = "set"
    since_ms: _Ms
    last_ms: _Ms
    runs: _Ms = 0
    p: float | None = None
    rekeyed: bool = False


class Baselines:
    """A folder of this gateway's own. Every call blocks, none for long."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, node: str, model: str) -> Baseline | None:
        """The baseline, None where there is none yet. Raises `FormatError` for a file that is there and is not one."""
        path = self._path(node, model)
        try:
            found = _read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FormatError(f"{path} cannot be read: {error.strerror}") from None
        if (found.node, found.model) != (node, model):
            raise FormatError(f"{path} is the baseline of another model or node")
        return found

    def full(self) -> bool:
        """Whether there are as many as are kept."""
        return sum(1 for _ in self.folder.glob("*.json")) >= MAX_BASELINES

    def begin(self, baseline: Baseline) -> bool:
        """Keep a first baseline; False where there are as many as are kept. Raises `OSError`."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.full():
            return False
        self._write(baseline)
        return True

    def update(self, baseline: Baseline) -> bool:
        """Keep what came of a comparison; False when that baseline was reset meanwhile, and stays gone."""
        before = self.read(baseline.node, baseline.model)
        if before is None or before.set_ms != baseline.set_ms:
            return False
        self._write(baseline)
        return True

    def all(self) -> list[Baseline]:
        """Every baseline that can be read, by node and model."""
        found = []
        for path in sorted(self.folder.glob("*.json"))[:MAX_BASELINES]:
            with contextlib.suppress(OSError, FormatError):
                found.append(_read(path))
        return sorted(found, key=lambda b: (b.node, b.model))

    def reset(self, node: str, models: list[str]) -> list[str]:
        """Forget the baselines of `models` at `node`, damaged ones too; those that there were. Raises `OSError`."""
        gone = []
        for model in models:
            path = self._path(node, model)
            if path.exists():
                path.unlink()
                gone.append(model)
        return gone

    def _path(self, node: str, model: str) -> Path:
        # Names of nodes and models are not made to be file names; a length keeps two pairs from being one text.
        name = f"{len(node)}:{node}:{model}".encode("utf-8", "surrogatepass")
        return self.folder / f"{hashlib.sha256(name).hexdigest()}.json"

    def _write(self, baseline: Baseline) -> None:
        write_durably(self._path(baseline.node, baseline.model), msgspec.json.encode(baseline))


def _read(path: Path) -> Baseline:
    """The baseline in `path`. Raises `OSError` and `FormatError`."""
    with path.open("rb") as stream:
        data = stream.read(MAX_FILE + 1)
    try:
        if len(data) <= MAX_FILE:
            return msgspec.json.decode(data, type=Baseline)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    raise FormatError(f"{path} is no baseline; `veriroute nodes baseline reset` begins anew")
