"""What the checks of a dstack guest share: the reference values, and what has been proved so far."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.model.tee import Golden, TeeClaims
from gateway.text import plain

from .app_compose import AppCompose
from .rtmr import EventLog

MAX_REFERENCES_BYTES = 4 << 20

# The patterns are looked at when reference values are read from a file: one that can never match is a mistake there.
_Register = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{96}\Z")]
_Hash = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
_Id = Annotated[str, msgspec.Meta(pattern=r"\A([0-9a-f]{40})?\Z")]


class OsImage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reviewed guest image, measured for one shape of machine: lower-case hex of MRTD and RTMR0 to RTMR2.

    `image_hash` is what the image says of itself as `os-image-hash`; `development` marks an image with a way in.
    """

    name: str
    mrtd: _Register
    rtmr0: _Register
    rtmr1: _Register
    rtmr2: _Register
    image_hash: _Hash | None = None
    development: bool = False


class KeyProvider(msgspec.Struct, frozen=True):
    """Who derives the guest's keys: `name` is kms|local-sgx|tpm|none, `id` the provider's key or measurement, hex."""

    name: str
    id: str


class References(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Reference values of RFC 9334: what was reviewed. Hashes and identities in lower-case hex."""

    os_images: tuple[OsImage, ...] = ()
    compose_hashes: frozenset[_Hash] = frozenset()
    scripts: frozenset[_Hash] = frozenset()
    envs: frozenset[str] = frozenset()
    app_ids: frozenset[_Id] = frozenset()
    instance_ids: frozenset[_Id] = frozenset()
    key_providers: tuple[KeyProvider, ...] = ()


def parse_references(data: bytes) -> References:
    """Reference values from a JSON object with the members of `References`.

    Raises `FormatError` for a member that is not known, or a value that nothing could ever equal.
    """
    value = strict_json(data, max_bytes=MAX_REFERENCES_BYTES)
    try:
        return msgspec.convert(value, References)
    except msgspec.ValidationError as error:
        raise FormatError(f"reference values: {plain(str(error), 100)}") from None


class Case(msgspec.Struct):
    """What the checks hand to each other; a member is set only once it is proved."""

    claims: TeeClaims
    references: References
    log: EventLog | None = None
    app: AppCompose | None = None
    raw: dict[str, Any] = msgspec.field(default_factory=dict)
    golden: tuple[Golden, ...] = ()
