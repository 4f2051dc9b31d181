"""The trusted references: servers of the operator's that compute a model themselves, and what was measured with them.

A question is one POST over the project's own transport: no redirects, no proxies from the environment, bounded in time
and bytes. The API key comes from an environment variable and goes to its reference alone. One reference takes so many
questions at once; one that cannot be reached is not asked again for a while, so that not every exchange waits for it.

`ServiceError` with `reason` one of reference_unreachable, reference_timeout, reference_refused, reference_cut,
reference_oversize; `ConfigError` for calibrations and keys that cannot be used.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import httpx
import msgspec

from .errors import ConfigError, FormatError, ServiceError
from .settings import Reference
from .upstream.errors import ChannelTimeout, NotReached
from .upstream.limits import Deadlines
from .upstream.pool import UpstreamPool
from .upstream.transport import control_client, reason_of
from .verify.proofs.answer import read_object
from .verify.proofs.ask import Ask
from .verify.proofs.calibration import MAX_DOCUMENT, Calibration, Statistic, parse_calibration
from .verify.proofs.toploc_judge import ToplocCalibration, parse_toploc_calibration

_C = TypeVar("_C", Calibration, ToplocCalibration)
#: Scores of 4,096 tokens with twenty alternatives have 6 MB.
MAX_ANSWER = 32 * 1024 * 1024
#: Seconds for which a reference that failed is left alone: doubled each time it fails again.
LEAST_PAUSE, LONGEST_PAUSE = 5.0, 60.0
#: Answers in a row that did not come in time before it is left alone; an agent may have asked for one that is long.
LATE_IN_A_ROW = 3


class Calibrations(msgspec.Struct, frozen=True):
    """What honest answers score, by the calibration's id."""

    reexec: Mapping[str, Calibration] = {}
    toploc: Mapping[str, ToplocCalibration] = {}

    def quantiles(
        self, statistic: Statistic, reference: Reference, model: str, allowed: Collection[str] | None
    ) -> Calibration | None:
        """The newest of this statistic, reference and model among those allowed (None: all)."""
        return _newest(
            (c for c in self.reexec.values() if c.statistic == statistic and _of(c, reference, model)), allowed
        )

    def limits(self, reference: Reference, model: str, allowed: Collection[str] | None) -> ToplocCalibration | None:
        """The newest TOPLOC limits of this reference and model among those allowed (None: all)."""
        return _newest((c for c in self.toploc.values() if _of(c, reference, model)), allowed)


class References:
    """The configured references. Belongs to one event loop; close it with `close`. The pool stays its maker's."""

    def __init__(
        self,
        references: Sequence[Reference],
        pool: UpstreamPool,
        *,
        keys: Mapping[str, str] | None = None,
        calibrations: Calibrations | None = None,
        allow_http: bool = False,
        mono: Callable[[], float] = time.monotonic,
    ) -> None:
        self.calibrations = calibrations or Calibrations()
        keys = keys or {}
        self._servers = {
            reference.id: _Server(reference, pool, keys.get(reference.id), allow_http, mono) for reference in references
        }

    def of(self, model: str, allowed: Collection[str] | None) -> tuple[Reference, ...]:
        """The references that compute `model` and are among those allowed (None: all), in the order of the settings."""
        found = (server.reference for server in self._servers.values())
        return tuple(r for r in found if model in r.models and (allowed is None or r.id in allowed))

    async def ask(self, reference: Reference, question: Ask, until: float) -> bytes:
        """The body of the answer, complete before `until` (the event loop's time)."""
        return await self._servers[reference.id].ask(question, until)

    async def close(self) -> None:
        for server in self._servers.values():
            await server.close()


class _Server:
    """One reference: its client, its turnstile, and whether it is left alone."""

    def __init__(
        self, reference: Reference, pool: UpstreamPool, key: str | None, allow_http: bool, mono: Callable[[], float]
    ) -> None:
        self.reference = reference
        self._mono = mono
        self._url = reference.base_url.rstrip("/")
        self._headers = {"content-type": "application/json"}
        if key is not None:
            self._headers["authorization"] = f"Bearer {key}"
        limit = reference.timeout_s
        self._client = control_client(
            pool,
            allow_http=allow_http,
            allow_private=True,  # the operator wrote the address; references stand in private networks
            max_body=MAX_ANSWER,
            deadlines=Deadlines(first_byte_s=limit, idle_s=limit, total_s=limit),
            connect_s=reference.connect_s,
        )
        self._turns = asyncio.Semaphore(reference.max_in_flight)
        self._late = 0
        self._pause = 0.0
        self._again = 0.0
        self._why = ""

    async def ask(self, question: Ask, until: float) -> bytes:
        if self._mono() < self._again:
            raise self._error(self._why, "failed a moment ago")
        started: float | None = None
        try:
            async with asyncio.timeout_at(until), self._turns:
                started = self._mono()
                response = await self._post(question)
        except TimeoutError:
            # The exchange's own time may be short: what was hardly waited for says nothing of the reference.
            if started is not None and self._mono() - started >= self.reference.timeout_s / 2:
                self._failed("reference_timeout")
            raise self._error("reference_timeout", "did not answer in time") from None
        self._late, self._pause = 0, 0.0
        if response.status_code != 200:
            raise self._error("reference_refused", f"answered {response.status_code}")
        return response.content

    async def _post(self, question: Ask) -> httpx.Response:
        try:
            content = msgspec.json.encode(question.document)
            return await self._client.post(self._url + question.path, content=content, headers=self._headers)
        except httpx.HTTPError as error:
            reason = _reason(error)
            self._failed(reason)
            raise self._error(reason, reason_of(error)) from None

    def _failed(self, reason: str) -> None:
        """Leave it alone for a while: at once where nothing answers, after some in a row where answers are late."""
        if reason == "reference_oversize":
            return  # it answers; the question asked for too much
        self._late += 1
        if reason != "reference_unreachable" and self._late < LATE_IN_A_ROW:
            return
        self._pause = min(LONGEST_PAUSE, max(LEAST_PAUSE, 2 * self._pause))
        self._again, self._why = self._mono() + self._pause, reason

    def _error(self, reason: str, how: str) -> ServiceError:
        return ServiceError(f"the reference {self.reference.id} {how}", reason=reason)

    async def close(self) -> None:
        await self._client.aclose()


def load_calibrations(folder: str) -> Calibrations:
    """Every calibration (`*.json`) in `folder`. Raises `ConfigError` that names the file at fault."""
    reexec: dict[str, Calibration] = {}
    toploc: dict[str, ToplocCalibration] = {}
    for path in _files(folder):
        data = _read(path)
        try:
            if read_object(data).get("kind") == "toploc":
                limits = parse_toploc_calibration(data)
                toploc[limits.id] = limits
            else:
                margins = parse_calibration(data)
                reexec[margins.id] = margins
        except FormatError as error:
            raise ConfigError(f"{path}: {error.message}") from None
    return Calibrations(reexec, toploc)


def keys_of(references: Sequence[Reference], environ: Mapping[str, str]) -> dict[str, str]:
    """The API key of each reference that has one, by its id. Raises `ConfigError` for one that is not there."""
    found = {}
    for reference in references:
        if reference.api_key_env is None:
            continue
        key = environ.get(reference.api_key_env, "")
        if not key or not key.isascii() or not key.isprintable():
            raise ConfigError(
                f"reference {reference.id!r}: the environment variable {reference.api_key_env} holds no API key"
            )
        found[reference.id] = key
    return found


def _files(folder: str) -> list[Path]:
    if not Path(folder).is_dir():
        raise ConfigError(f"proofs.calibrations: there is no folder {folder}")
    return sorted(Path(folder).glob("*.json"))


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_DOCUMENT + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    if len(data) > MAX_DOCUMENT:
        raise ConfigError(f"{path} is over {MAX_DOCUMENT} bytes, so it is no calibration")
    return data


def _of(calibration: Calibration | ToplocCalibration, reference: Reference, model: str) -> bool:
    same = (calibration.reference, calibration.model) == (reference.id, model)
    return same and reference.revision in ("", calibration.revision)


def _newest(found: Iterable[_C], allowed: Collection[str] | None) -> _C | None:
    kept = [c for c in found if allowed is None or c.id in allowed]
    return max(kept, key=lambda c: (c.made, c.id), default=None)


def _reason(error: httpx.HTTPError) -> str:
    cause = error.__cause__
    if isinstance(cause, NotReached):
        return "reference_unreachable"
    if isinstance(cause, ChannelTimeout):
        return "reference_timeout"
    return "reference_oversize" if reason_of(error) == "too_large" else "reference_cut"
