"""Test material: the event log, the registers and the app-compose document of a dstack guest that never was.

    log = Log().boot(0, b"firmware").boot(1, b"kernel").boot(2, b"cmdline").system(compose_sha256)
    log.json(), log.rtmrs()

Nothing here calls the code that it is there to test: digests are hashlib's.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

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
