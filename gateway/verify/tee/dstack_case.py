"""What the checks of a dstack guest share: the reference values, and what has been proved so far."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.model.tee import Golden, TeeClaims

from .app_compose import AppCompose
from .rtmr import EventLog


class OsImage(msgspec.Struct, frozen=True):
    """A reviewed guest image, measured for one shape of machine: lower-case hex of MRTD and RTMR0 to RTMR2.

    `image_hash` is what the image says of itself as `os-image-hash`; `development` marks an image with a way in.
    """

    name: str
    mrtd: str
    rtmr0: str
    rtmr1: str
    rtmr2: str
    image_hash: str | None = None
    development: bool = False


class KeyProvider(msgspec.Struct, frozen=True):
    """Who derives the guest's keys: `name` is kms|local-sgx|tpm|none, `id` the provider's key or measurement, hex."""

    name: str
    id: str


class References(msgspec.Struct, frozen=True):
    """Reference values of RFC 9334: what was reviewed. Hashes and identities in lower-case hex."""

    os_images: tuple[OsImage, ...] = ()
    compose_hashes: frozenset[str] = frozenset()
    scripts: frozenset[str] = frozenset()
    envs: frozenset[str] = frozenset()
    app_ids: frozenset[str] = frozenset()
    instance_ids: frozenset[str] = frozenset()
    key_providers: tuple[KeyProvider, ...] = ()


class Case(msgspec.Struct):
    """What the checks hand to each other; a member is set only once it is proved."""

    claims: TeeClaims
    references: References
    log: EventLog | None = None
    app: AppCompose | None = None
    raw: dict[str, Any] = msgspec.field(default_factory=dict)
    golden: tuple[Golden, ...] = ()
