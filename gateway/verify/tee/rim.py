"""NVIDIA's reference integrity manifests: the golden values of a driver, a VBIOS or a switch's BIOS.

A RIM is a SWID tag (ISO/IEC 19770-2 with the TCG's RIM attributes) in XML with an enveloped signature:

    SoftwareIdentity/Meta      colloquialVersion (which driver or firmware), edition, product (GH100, LS10)
    SoftwareIdentity/Payload   Resource type="Measurement" index, active, alternatives, Hash0..Hash<n-1> (SHA-384)
    Signature                  gateway.crypto.xmldsig; the chain ends in NVIDIA's CoRIM signing root

RIM index i speaks of measurement block i+1. An active index matches when the block is one of its alternatives.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence

import msgspec
from cryptography import x509

from gateway.crypto.certificates import ChainError, check_chain, der_of, expires
from gateway.crypto.xml import Element, parse_xml
from gateway.crypto.xmldsig import check_enveloped
from gateway.errors import FormatError
from gateway.model.tee import Golden, Root

from .findings import NotAuthentic
from .roots import TrustRoots

SWID = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
SHA384_ATTRIBUTES = "http://www.w3.org/2001/04/xmlenc#sha384"
MAX_INDEX = 254
MAX_ALTERNATIVES = 64
#: The video decoder's measurement, which is not made while the decoder is switched off.
NVDEC0_INDEX = 35

_DIGEST = re.compile(r"[0-9a-fA-F]{96}")
_INDEX = re.compile(r"0|[1-9][0-9]{0,2}")


class Rim(msgspec.Struct, frozen=True):
    """A manifest taken apart: `values` are the alternatives of each active index, lower-case hex."""

    version: str
    product: str
    edition: str
    tag: str
    values: Mapping[int, tuple[str, ...]]
    sha256: str
    document: Element


class SignedRim(msgspec.Struct, frozen=True):
    """A manifest whose signature holds and whose signer chains to `root`. `expired`: the signer was in date once, and
    is not at the time of evaluation."""

    rim: Rim
    chain: tuple[x509.Certificate, ...]
    root: Root
    expired: bool


def parse_rim(data: bytes) -> Rim:
    """Take a manifest apart. Raises `NotAuthentic` rim_malformed."""
    try:
        document = parse_xml(data)
        if (document.uri, document.local) != (SWID, "SoftwareIdentity"):
            raise FormatError("the document is no software identity tag")
        meta, payload = _only(document, "Meta"), _only(document, "Payload")
        return Rim(
            version=_attribute(meta, "colloquialVersion"),
            product=_attribute(meta, "product"),
            edition=_attribute(meta, "edition"),
            tag=_attribute(document, "tagId"),
            values=_values(payload),
            sha256=hashlib.sha256(data).hexdigest(),
            document=document,
        )
    except FormatError as error:
        raise NotAuthentic(f"a manifest: {error.message}", reason="rim_malformed") from None


def _only(document: Element, name: str) -> Element:
    found = [child for child in document.elements() if (child.uri, child.local) == (SWID, name)]
    if len(found) != 1:
        raise FormatError(f"there is not exactly one {name}")
    return found[0]


def _attribute(element: Element, name: str) -> str:
    value = element.get(name)
    if value is None or not value.isascii() or not value.isprintable() or not 0 < len(value) <= 128:
        raise FormatError(f"{name} is absent or not short printable text")
    return value


def _values(payload: Element) -> dict[int, tuple[str, ...]]:
    values: dict[int, tuple[str, ...]] = {}
    seen: set[int] = set()
    for resource in payload.elements():
        if (resource.uri, resource.local) != (SWID, "Resource") or resource.get("type") != "Measurement":
            raise FormatError("the payload has something else than measurements")
        index = _attribute(resource, "index")
        if _INDEX.fullmatch(index) is None or int(index) > MAX_INDEX or int(index) in seen:
            raise FormatError("a measurement's index is no number up to 254, or comes twice")
        seen.add(int(index))
        if _is_active(resource):
            values[int(index)] = _alternatives(resource)
    if not values:
        raise FormatError("no measurement is active")
    return values


def _is_active(resource: Element) -> bool:
    active = resource.get("active")
    if active not in ("True", "False"):
        raise FormatError("a measurement is neither active nor inactive")
    return active == "True"


def _alternatives(resource: Element) -> tuple[str, ...]:
    hashes = {local: value for (uri, local), value in resource.attributes.items() if uri == SHA384_ATTRIBUTES}
    wanted = [f"Hash{place}" for place in range(len(hashes))]
    if not 1 <= len(hashes) <= MAX_ALTERNATIVES or set(hashes) != set(wanted):
        raise FormatError("a measurement's alternatives are not Hash0, Hash1 and so on")
    if resource.get("alternatives") != str(len(hashes)) or not all(map(_DIGEST.fullmatch, hashes.values())):
        raise FormatError("a measurement has not as many SHA-384 digests as it says")
    return tuple(hashes[name].lower() for name in wanted)


def check_rim(rim: Rim, roots: TrustRoots, now: float) -> SignedRim:
    """Hold a manifest to its signature and its signer to a pinned `nvidia_rim` root.

    Signers live two years and manifests are not signed anew, nor do they say when they were signed. So a chain that is
    out of date at `now` is held at the last moment when all of it was in date, and the answer says `expired`.
    Raises `XmlSignatureError`, `ChainError`.
    """
    chain = check_enveloped(rim.document)
    root = roots.find("nvidia_rim", der_of(chain[-1]))
    if root is None:
        raise ChainError("a manifest's signer chains to nothing that is pinned", reason="chain_untrusted_root")
    expired = now > expires(chain)
    check_chain(chain, expires(chain) if expired else now)
    return SignedRim(rim, chain, root, expired)


def compare(rim: Rim, kind: str, blocks: Mapping[int, bytes], *, skip: Sequence[int] = ()) -> Golden:
    """Each active index of the manifest against measurement block index + 1. A block that is absent does not match."""
    matched = 0
    mismatched = []
    for index in sorted(rim.values.keys() - set(skip)):
        block = blocks.get(index + 1)
        if block is not None and block.hex() in rim.values[index]:
            matched += 1
        else:
            mismatched.append(f"gpu_m{index + 1}")
    return Golden(f"{kind}:{rim.version}", matched, tuple(mismatched))


def check_no_conflict(rims: Sequence[Rim]) -> None:
    """No index is active in two manifests: each has one author. Raises `NotAuthentic` rim_index_conflict."""
    seen: set[int] = set()
    for rim in rims:
        if both := seen & rim.values.keys():
            raise NotAuthentic(f"two manifests speak of index {min(both)}", reason="rim_index_conflict")
        seen |= rim.values.keys()
