"""Synthetic dstack guests: the logs and documents of `gateway.testing.tee.dstack`, claims, and binary CCELs.

Nothing here calls the code that it is there to test: digests are hashlib's. `seeds` and `run` are for long fuzzing.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

from gateway.errors import FormatError
from gateway.model.tee import Platform, TeeClaims, TeeResult
from gateway.model.verdict import Outcome
from gateway.testing.tee.dstack import *  # noqa: F403
from gateway.testing.tee.dstack import (
    APP_ID,
    COMPOSE,
    INSTANCE_ID,
    MRTD,
    OS_IMAGE_HASH,
    Log,
    app_compose,
    booted,
    replay,
    sha384,
)
from gateway.verify.tee import ccel, dstack, rtmr, secretvm
from gateway.verify.tee.app_compose import parse_app_compose
from gateway.verify.tee.compose import read_compose


def claims(rtmrs: list[bytes], mr_config_id: bytes = bytes(48), **members: Any) -> TeeClaims:
    """The record of a genuine quote with these registers."""
    measurements = {"mr_td": MRTD, "mr_config_id": mr_config_id.hex()}
    measurements |= {f"rtmr{i}": register.hex() for i, register in enumerate(rtmrs)}
    return TeeClaims(
        **{
            "platform": Platform.INTEL_TDX,
            "evidence_sha256": "00" * 32,
            "authentic": True,
            "debug": False,
            "evaluated_at": 1_800_000_000.0,
            "measurements": measurements,
            **members,
        }
    )


def os_image(log: Log, **members: Any) -> dstack.OsImage:
    """The reference values that the guest of `log` has."""
    rtmrs = [register.hex() for register in log.rtmrs()]
    return dstack.OsImage(
        **{"name": "synthetic-1.0", "mrtd": MRTD, "rtmr0": rtmrs[0], "rtmr1": rtmrs[1], "rtmr2": rtmrs[2], **members}
    )


class Guest:
    """A whole guest: its documents, its registers and the references that it meets in every point."""

    def __init__(self, document: bytes | None = None, log: Log | None = None, **payloads: bytes) -> None:
        self.app_compose = app_compose() if document is None else document
        self.hash = hashlib.sha256(self.app_compose).digest()
        self.log = booted().system(self.hash, **payloads) if log is None else log
        self.mr_config_id = b"\1" + self.hash + bytes(15)

    def claims(self, **members: Any) -> TeeClaims:
        return claims(self.log.rtmrs(), self.mr_config_id, **members)

    def references(self) -> dstack.References:
        return dstack.References(
            os_images=(os_image(self.log, image_hash=OS_IMAGE_HASH.hex()),),
            compose_hashes=frozenset({self.hash.hex()}),
            app_ids=frozenset({APP_ID.hex()}),
            instance_ids=frozenset({INSTANCE_ID.hex()}),
            key_providers=(dstack.KeyProvider("kms", "3059301306072a"),),
        )

    def appraise(self, **members: Any) -> TeeResult:
        """The appraisal, with any of `claims`, `event_log`, `app_compose` and the keyword arguments replaced."""
        given = {"claims": self.claims(), "event_log": self.log.json(), "app_compose": self.app_compose, **members}
        given = {"references": self.references(), **given}
        first = [given.pop(name) for name in ("claims", "event_log", "app_compose")]
        return dstack.appraise_dstack(*first, **given)


ALGORITHMS = ((0x000C, 48),)


class Ccel:
    """A binary log in the making."""

    def __init__(self, algorithms: tuple[tuple[int, int], ...] = ALGORITHMS) -> None:
        header = b"Spec ID Event03\0" + bytes(4) + b"\0\2\0\2" + struct.pack("<I", len(algorithms))
        header += b"".join(struct.pack("<HH", *a) for a in algorithms) + b"\0"
        self.data = struct.pack("<II", 1, 3) + bytes(20) + struct.pack("<I", len(header)) + header
        self.digests: list[tuple[int, bytes]] = []
        self.algorithms = algorithms

    def event(self, index: int, kind: int, data: bytes, digest: bytes | None = None) -> Ccel:
        digest = sha384(data) if digest is None else digest
        self.data += struct.pack("<III", index, kind, len(self.algorithms))
        for algorithm, size in self.algorithms:
            self.data += struct.pack("<H", algorithm) + (digest if algorithm == 0x000C else bytes(size))
        self.data += struct.pack("<I", len(data)) + data
        if kind != 3:
            self.digests.append((index - 1, digest))
        return self

    def fill(self, byte: bytes = b"\xff", count: int = 512) -> bytes:
        return self.data + byte * count

    def rtmrs(self) -> list[bytes]:
        return [replay([d for i, d in self.digests if i == register]) for register in range(4)]


def ccel_log() -> Ccel:
    log = (
        Ccel()
        .event(0, 3, b"StartupLocality")
        .event(1, 0x80000001, b"SecureBoot")
        .event(1, 0xA, b"ACPI DATA", bytes(48))
    )
    return log.event(2, 0x80000003, b"kernel", b"\7" * 48).event(3, 0xD, b"grub").event(4, 0xD, b"start_app")


def seeds() -> list[bytes]:
    """Genuine items of every format that is read here, each behind the byte that `run` chooses its reader by."""
    guest = Guest()
    return [
        b"\0" + guest.log.json(),
        b"\0" + json.dumps(guest.log.json().decode()).encode(),
        b"\1" + ccel_log().fill(),
        b"\2" + COMPOSE.encode(),
        b"\2x-c: &c\n  restart: always\nservices:\n  a: {<<: *c, image: alpine}\n  b:\n    build: .\n",
        b"\3" + guest.app_compose,
        b"\4" + guest.log.json(),
    ]


def run(data: bytes) -> None:
    """Give hostile bytes to a reader. Nothing but `FormatError` may come out of a parser, and nothing of an appraisal."""
    which, body = data[:1], data[1:]
    guest = Guest()
    try:
        if which == b"\0":
            rtmr.replay(rtmr.parse_event_log(body))
        elif which == b"\1":
            ccel.replay_ccel(ccel.parse_ccel(body))
        elif which == b"\2":
            read_compose(body.decode(errors="surrogateescape"))
        elif which == b"\3":
            parse_app_compose(body)
    except FormatError:
        pass
    if holds(guest.appraise(event_log=body)):
        log, own = rtmr.parse_event_log(body), rtmr.parse_event_log(guest.log.json())
        assert (log.system, log.application) == (own.system, own.application), "it holds, and nobody measured it"
    assert not holds(guest.appraise(app_compose=body)) or body == guest.app_compose, "it holds, and nobody measured it"
    document = app_compose(body.decode(errors="replace"))
    Guest(document).appraise()
    secretvm.appraise_secretvm(guest.claims(), body, registry=())


def holds(result: TeeResult) -> bool:
    """Whether every check affirms, but for a policy of GPUs where none is asked for."""
    return all(check.outcome is Outcome.AFFIRMING for check in result.checks if check.reason != "no_gpu_policy")
