"""What of its vendor's a piece of evidence has to be held against, read from the evidence itself, before any check.

    need_of("tdx", {"quote": quote})      IntelNeed: TCB info and QE identity of one FMSPC, and the lists of one PCK CA
    need_of("snp", {"report": report})    AmdNeed: the chain and list of a product, and the endorsement key of one chip
    need_of("nvidia_nras", {})            NrasKeys: the key set of NVIDIA's service
    need_of("nitro", {"doc": document})   None: the evidence brings all that there is

Nothing here is believed. Evidence that lies about its platform gets another platform's documents, which do not fit it
when it is verified. `Part` is what is fetched, kept and refreshed by itself; its `name` is safe as a file name.
docs/verification.md, Endorsements.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence

import msgspec
from cryptography import x509

from gateway.crypto.certificates import der_of
from gateway.errors import FormatError

from .amd_certificates import PRODUCT, parse_certificate
from .kinds import kind_of
from .pck import read_pck
from .pcs import PCK_CA_NAMES, load_chain, malformed
from .quote import parse_quote
from .snp import cpuid_product
from .snp_report import SnpReport, parse_snp_report, tcb_parts

_MILAN, _GENOA, _TURIN = "Milan", "Genoa", "Turin"
TURIN_HWID_BYTES = 8
#: The first certificate of a device's chain that NVIDIA issued. The one before it, the leaf, the device's boot ROM made
#: for the firmware that it loaded: no responder knows it (NVIDIA's own verifier asks about none), and it ends with that
#: of the boot ROM.
FIRST_ISSUED = 1
_RIM_ID = re.compile(r"NV_[A-Z]+_[A-Z]+_[A-Za-z0-9._-]{1,96}")


class IntelNeed(msgspec.Struct, frozen=True):
    """One collateral envelope. `tee` is tdx|sgx, `fmspc` 12 lower-case hex digits, `ca` platform|processor."""

    tee: str
    fmspc: str
    ca: str

    @property
    def name(self) -> str:
        return f"intel-{self.tee}-{self.fmspc}-{self.ca}"


class AmdChain(msgspec.Struct, frozen=True):
    """ASK (or ASVK), ARK and the ARK's revocation list of one product. `role` is vcek|vlek."""

    product: str
    role: str

    @property
    def name(self) -> str:
        return f"amd-{self.product}-{self.role}-chain"


class AmdKey(msgspec.Struct, frozen=True):
    """The endorsement key of one chip at one TCB. `chip` is the certified identity in hex; "" for a VLEK."""

    product: str
    role: str
    chip: str
    tcb: tuple[tuple[str, int], ...]

    @property
    def chain(self) -> AmdChain:
        return AmdChain(self.product, self.role)

    @property
    def name(self) -> str:
        levels = "-".join(f"{part}{level}" for part, level in self.tcb)
        return "-".join(part for part in ("amd", self.product, self.role, self.chip, levels) if part)


class AmdNeed(msgspec.Struct, frozen=True):
    """A chain and, unless the evidence brought its own, an endorsement key.

    `products` are those that the report may be of, likeliest first: a report of version 2 does not say. `chip_id` is
    64 bytes in hex, empty for a VLEK; `tcb` holds REPORTED_TCB, 8 bytes; both are as the report has them.
    """

    products: tuple[str, ...]
    role: str
    chip_id: str
    tcb: bytes
    key_given: bool = False

    @property
    def name(self) -> str:
        return f"amd-{'-'.join(self.products)}-{self.role}-{self.chip_id}-{self.tcb.hex()}-{self.key_given:d}"

    def chain(self, product: str) -> AmdChain:
        return AmdChain(product, self.role)

    def key(self, product: str) -> AmdKey | None:
        """The key that is needed when the report is of `product`. Raises `FormatError` for a TCB that is not its."""
        if self.key_given:
            return None
        turin = product == _TURIN
        chip = self.chip_id[: 2 * TURIN_HWID_BYTES] if turin else self.chip_id
        return AmdKey(product, self.role, chip, tuple(tcb_parts(self.tcb, turin=turin).items()))


class RimNeed(msgspec.Struct, frozen=True):
    """A reference manifest under the name `id` that NVIDIA has for it (`golden.rim_ids`). Raises `FormatError` for a
    name of another form: it becomes part of a path and of a file's name."""

    id: str

    def __post_init__(self) -> None:
        if _RIM_ID.fullmatch(self.id) is None or ".." in self.id:
            raise FormatError("the name is none of a manifest's", reason="rim_bad_name")

    @property
    def role(self) -> str:
        return f"rim:{self.id}"

    @property
    def name(self) -> str:
        return f"nvidia-rim-{self.id}"


class OcspNeed(msgspec.Struct, frozen=True):
    """What the responder says of one certificate; both are DER."""

    certificate: bytes
    issuer: bytes

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.certificate).hexdigest()

    @property
    def role(self) -> str:
        return f"ocsp:{self.digest}"

    @property
    def name(self) -> str:
        return f"nvidia-ocsp-{self.digest}"


class NrasKeys(msgspec.Struct, frozen=True):
    """The key set that NVIDIA's attestation service publishes."""

    role = "jwks"
    name = "nvidia-nras-jwks"


NvidiaPart = RimNeed | OcspNeed | NrasKeys
Need = IntelNeed | AmdNeed | NvidiaPart
Part = IntelNeed | AmdChain | AmdKey | NvidiaPart


def ocsp_needs(chain: Sequence[x509.Certificate]) -> tuple[OcspNeed, ...]:
    """The answers that a chain (leaf first, root last) needs: one for each certificate but the root."""
    return tuple(OcspNeed(der_of(own), der_of(by)) for own, by in itertools.pairwise(chain))


def need_of(kind: str, blobs: Mapping[str, bytes]) -> Need | None:
    """What evidence of `kind` (a name of `kinds`) has to be held against; None when nothing is fetched for it.

    `blobs` maps roles to bytes, as a verifier takes them; an `ek` among them is not asked for again. Raises
    `FormatError` for evidence that is not of its form, with the reason `input_missing` where there is none.
    """
    first = kind_of(kind).inputs[0]
    if kind == "nvidia_nras":
        return NrasKeys()
    if kind not in ("tdx", "snp"):
        return None
    if first not in blobs:
        raise FormatError(f"the input {first} is missing", reason="input_missing")
    return _intel(blobs[first]) if kind == "tdx" else _amd(blobs[first], blobs.get("ek"))


def _intel(data: bytes) -> IntelNeed:
    quote = parse_quote(data)
    with malformed("pck_malformed"):
        chain = load_chain(quote.pck_chain)
    if len(chain) < 2:
        raise FormatError("the quote brings no PCK chain", reason="pck_malformed")
    return IntelNeed(quote.tee, read_pck(chain[0]).fmspc.hex(), pck_authority(chain[0].issuer))


def pck_authority(name: x509.Name) -> str:
    """Which of Intel's two PCK CAs `name` is: platform|processor. Raises `FormatError` (`pck_malformed`)."""
    found = [attribute.value for attribute in name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]
    for common_name, authority in zip(PCK_CA_NAMES, ("platform", "processor"), strict=True):
        if found == [common_name]:
            return authority
    raise FormatError("the PCK certificate is of neither PCK CA", reason="pck_malformed")


def _amd(data: bytes, ek: bytes | None) -> AmdNeed:
    report = parse_snp_report(data)
    role = report.signing_key.lower()
    if role not in ("vcek", "vlek"):
        raise FormatError("no key signed this report", reason="snp_unsigned")
    chip = "" if role == "vlek" else report.chip_id.hex()
    if role == "vcek" and ek is None and not any(report.chip_id):
        raise FormatError("the report hides its chip, so that nobody can be asked for its key", reason="chip_hidden")
    need = AmdNeed(_products(report, ek), role, chip, report.reported_tcb, ek is not None)
    for product in need.products:
        need.key(product)  # a TCB with a reserved byte is no TCB; told here and nowhere later
    return need


def _products(report: SnpReport, ek: bytes | None) -> tuple[str, ...]:
    if ek is not None:
        stated = (parse_certificate(ek).text(PRODUCT) or "").partition("-")[0]
        if stated not in (_MILAN, _GENOA, _TURIN):
            raise FormatError("the endorsement key is of a product that is not known", reason="snp_bad_extension")
        return (stated,)
    if report.cpuid is None:  # version 2; Turin writes version 3 and later
        return (_MILAN, _GENOA)
    product = cpuid_product(report.cpuid)
    if product is None:
        raise FormatError("the report is of a product that is not known", reason="snp_cpuid_mismatch")
    return (product,)
