"""The signed statement: an in-toto Statement whose first subject is the artefact, with a predicate of measurements.

    {"_type", "subject": [{"name", "digest": {"sha256"}}, ...], "predicateType", "predicate"}

Only the first subject counts: a statement about the wrong artefact does not become one about the right artefact because
a second subject was added. Members that in-toto does not have are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.model.provenance import HardwareMeasurement, Measurement
from gateway.verify.tee.findings import NotAuthentic

from .bundle import MAX_BUNDLE_BYTES
from .measurement import HARDWARE, MAX_HARDWARE, MULTIPLATFORM, make_hardware, make_measurement

_REASON = "predicate_measurement_invalid"


class _Subject(msgspec.Struct, frozen=True):
    digest: dict[str, str]
    name: str = ""


class Statement(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """A parsed statement, for a reader who knows its signature to hold."""

    subject: list[_Subject]
    predicate_type: str
    predicate: Any
    kind: str = msgspec.field(name="_type")

    @property
    def sha256(self) -> str | None:
        """The digest of the first subject."""
        return self.subject[0].digest.get("sha256") if self.subject else None


def parse_statement(payload: bytes) -> Statement:
    """The statement in `payload`; `NotAuthentic` with the reason `bundle_malformed` for anything else."""
    try:
        return msgspec.convert(strict_json(payload, max_bytes=MAX_BUNDLE_BYTES, max_depth=32), Statement)
    except msgspec.ValidationError:
        why = "a member is missing, unknown or of another type"
    except FormatError as error:
        why = error.message
    raise NotAuthentic(f"the payload is not an in-toto statement: {why}", reason="bundle_malformed")


def read_predicate(statement: Statement) -> tuple[Measurement | None, tuple[HardwareMeasurement, ...]]:
    """The measurements that the predicate gives: of a build, or of hardware. Both are empty for any other predicate.

    `NotAuthentic` with predicate_measurement_invalid when a register is missing: fewer registers compare more easily.
    """
    if statement.predicate_type not in (MULTIPLATFORM, HARDWARE):
        return None, ()
    predicate = _object(statement.predicate)
    try:
        if statement.predicate_type == HARDWARE:
            return None, _hardware(predicate, statement.sha256)
        tdx = _object(predicate.get("tdx_measurement"))
        registers = (predicate.get("snp_measurement"), tdx.get("rtmr1"), tdx.get("rtmr2"))
        return make_measurement(MULTIPLATFORM, registers), ()
    except NotAuthentic as refused:
        raise NotAuthentic(refused.message, reason=_REASON) from None


def _hardware(predicate: Mapping[str, object], digest: str | None) -> tuple[HardwareMeasurement, ...]:
    if len(predicate) > MAX_HARDWARE:
        raise NotAuthentic(f"there are more than {MAX_HARDWARE} platforms", reason=_REASON)
    return tuple(
        make_hardware(f"{name}@{digest}", _object(values).get("mrtd"), _object(values).get("rtmr0"))
        for name, values in predicate.items()
    )


def _object(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise NotAuthentic("a member of the predicate is not an object", reason=_REASON)
    return value
