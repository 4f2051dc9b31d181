"""Synthetic dstack guests: event logs, registers, app-compose documents and binary CCELs, all made here.

    log = Log().boot(0, b"firmware").boot(1, b"kernel").boot(2, b"cmdline").system(compose_sha256)
    log.json(), log.rtmrs()

Nothing here calls the code that it is there to test: digests are hashlib's. `seeds` and `run` are for long fuzzing.
"""

from __future__ import annotations

import hashlib
import json
import struct
from typing import Any

from gateway.errors import FormatError
from gateway.model.tee import Platform, TeeClaims, TeeResult
from gateway.verify.tee import ccel, dstack, rtmr, secretvm
from gateway.verify.tee.app_compose import parse_app_compose
from gateway.verify.tee.compose import read_compose

RUNTIME = 0x08000001
MRTD = hashlib.sha384(b"synthetic MRTD").hexdigest()
APP_ID = bytes(range(20))
INSTANCE_ID = bytes(range(20, 40))
OS_IMAGE_HASH = hashlib.sha256(b"synthetic image").digest()
KEY_PROVIDER = b'{"name":"kms","id":"3059301306072a"}'
DIGEST = "sha256:" + "ab" * 32
COMPOSE = f"services:\n  model:\n    image: registry.example:5000/team/model:1.0@{DIGEST}\n"


def sha384(data: bytes) -> bytes:
    return hashlib.sha384(data).digest()


def replay(digests: list[bytes]) -> bytes:
    register = bytes(48)
    for digest in digests:
        register = sha384(register + digest)
    return register


def runtime_digest(name: str, payload: bytes, version: int = 1) -> bytes:
    if version == 2:
        return sha384(f'{{"name":"{name}","payload":"{payload.hex()}","type":134217729}}'.encode())
    return sha384(b"\x01\x00\x00\x08:" + name.encode() + b":" + payload)


class Log:
    """An event log in the making; every method returns the log."""

    def __init__(self, version: int = 1, *, empty_digests: bool = False) -> None:
        self.entries: list[dict[str, Any]] = []
        self.digests: list[tuple[int, bytes]] = []
        self.version, self.empty_digests = version, empty_digests

    def add(self, imr: int, kind: int, digest: bytes, name: str, payload: bytes, *, stated: bytes | None = None) -> Log:
        shown = digest if stated is None else stated
        self.digests.append((imr, digest))
        self.entries.append(
            {"imr": imr, "event_type": kind, "digest": shown.hex(), "event": name, "event_payload": payload.hex()}
        )
        return self

    def boot(self, imr: int, payload: bytes, kind: int = 0x80000007) -> Log:
        return self.add(imr, kind, sha384(payload), "", payload)

    def runtime(self, name: str, payload: bytes = b"", *, imr: int = 3) -> Log:
        digest = runtime_digest(name, payload, self.version)
        return self.add(imr, RUNTIME, digest, name, payload, stated=b"" if self.empty_digests else None)

    def system(self, compose_hash: bytes, **payloads: bytes) -> Log:
        """The events of a usual start, `system-ready` included; `payloads` replace those of the same name."""
        given = {name.replace("_", "-"): payload for name, payload in payloads.items()}
        for name, payload in (
            ("system-preparing", b""),
            ("app-id", APP_ID),
            ("compose-hash", compose_hash),
            ("instance-id", INSTANCE_ID),
            ("boot-mr-done", b""),
            ("mr-kms", bytes(32)),
            ("os-image-hash", OS_IMAGE_HASH),
            ("key-provider", KEY_PROVIDER),
            ("system-ready", b""),
        ):
            self.runtime(name, given.get(name, payload))
        return self

    def rtmrs(self) -> list[bytes]:
        return [replay([d for i, d in self.digests if i == imr]) for imr in range(4)]

    def json(self) -> bytes:
        return json.dumps(self.entries, separators=(",", ":")).encode()


def booted() -> Log:
    """A log with one or more entries in RTMR0 to RTMR2."""
    return Log().boot(0, b"firmware").boot(0, b"ACPI DATA", 0xA).boot(1, b"kernel").boot(2, b"command line")


def app_compose(docker_compose: str | None = COMPOSE, **members: Any) -> bytes:
    document = {
        "manifest_version": 2,
        "name": "synthetic",
        "runner": "docker-compose",
        "docker_compose_file": docker_compose,
        "public_logs": False,
        "allowed_envs": [],
        **members,
    }
    return json.dumps(document, indent=4).encode()


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
    guest.appraise(event_log=body)
    guest.appraise(app_compose=body)
    document = app_compose(body.decode(errors="replace"))
    Guest(document).appraise()
    secretvm.appraise_secretvm(guest.claims(), body, registry=())
