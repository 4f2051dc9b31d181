"""NVIDIA GPUs and NVSwitches, offline: the device's own SPDM report, its certificate chain, manifests and OCSP.

In the order of NVIDIA's verifier, each with the check that shows it:

    tee_format      the report has its form, to the last byte                                    (spdm)
    tee_nonce       the request inside the signed bytes holds our nonce, whatever JSON around it says
    tee_chain       leaf .. NVIDIA Device Identity CA, each in date, each issuer a CA, the root pinned
    tee_signature   the leaf's key signed request and response
    tee_identity    the leaf is a device's (five certificates, no CA), its FWID the one that the report states
    tee_revocation  OCSP responses, when given, for every certificate that NVIDIA issued below the root
    tee_collateral  manifests (RIMs), when given, are signed by NVIDIA and for this driver and firmware
    tee_tcb         the measurements are those of the manifests; warning when not, for that is for policy to judge

None of it says anything of the CPU side: a genuine report of some other machine's GPU passes every check here. Only a
nonce that the CPU's evidence commits to ties the two (`bindings`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

from gateway.crypto.certificates import ChainError, check_chain, der_of, expires, fingerprint, is_ca, load_pem_chain
from gateway.errors import FormatError
from gateway.model.tee import Collateral, Freshness, FreshnessClass, Platform, Revocation, TeeResult
from gateway.text import plain

from . import spdm
from .findings import Findings, NotAuthentic, examine
from .golden import check_manifests, rim_ids
from .needs import FIRST_ISSUED
from .ocsp import covered
from .roots import TrustRoots
from .tokens import key_digest

PLAN = (
    "tee_format",
    "tee_nonce",
    "tee_chain",
    "tee_signature",
    "tee_identity",
    "tee_revocation",
    "tee_collateral",
    "tee_tcb",
)
CHAIN_LENGTH = 5
#: TCG DICE TcbInfo-like extension of the leaf; its last 48 bytes are the SHA-384 of the firmware (FWID).
FWID_EXTENSION = x509.ObjectIdentifier("2.23.133.5.4.1")
_FWID_HEADER = b"\x04\x30"  # OCTET STRING of 48 bytes
_SWITCHED = {b"\xaa": True, b"\x55": False}


def verify_spdm(
    report: bytes,
    chain_pem: bytes,
    *,
    roots: TrustRoots,
    now: float,
    nonce: bytes | None = None,
    rims: Sequence[bytes] = (),
    ocsp: Sequence[bytes] = (),
    answers: Mapping[str, bytes] = {},
    manifests: Mapping[str, bytes] = {},
) -> TeeResult:
    """One device's report (request and response) with its PEM chain, leaf first, root last.

    `nonce` is the 32 bytes that we asked with; without one the check is `none` and the report may be of any age.
    `rims` are manifests as XML, `ocsp` responses about its chain as DER, in any order. `answers`
    are OCSP responses by the SHA-256 of the certificate, of which those about this device and the manifests' signers
    are used, and `manifests` are by NVIDIA's name for them, of which those that this device names are. Total for any
    bytes.
    """
    return examine(
        Platform.NVIDIA_GPU,
        report,
        now,
        PLAN,
        lambda f: _verify(f, report, chain_pem, roots, nonce, rims, ocsp, answers, manifests),
    )


def _verify(
    f: Findings,
    data: bytes,
    chain_pem: bytes,
    roots: TrustRoots,
    nonce: bytes | None,
    rims: Sequence[bytes],
    ocsp: Sequence[bytes],
    answers: Mapping[str, bytes],
    manifests: Mapping[str, bytes],
) -> None:
    with f.step("tee_format") as step:
        report = spdm.parse_report(data)
        step.found = f"{len(data)} bytes, {len(report.blocks)} measurements"
        raw = _set_report(f, report)
    _check_nonce(f, report, nonce)
    with f.step("tee_chain") as step:
        chain = _chain(f, raw, chain_pem, roots)
        step.found = f"{len(chain)} certificates"
    with f.step("tee_signature") as step:
        _check_signature(report, chain[0])
        step.over = f"bytes 0 to {len(report.signed)}"
    with f.step("tee_identity") as step:
        step.found, product = _check_identity(f, raw, report, chain)
    raw["rim_ids"] = list(rim_ids(report, product))
    own = [answers[digest] for c in chain[:-1] if (digest := fingerprint(c)) in answers]
    ends = _check_ocsp(f, [*ocsp, *own], chain)
    named = [manifests[name] for name in raw["rim_ids"] if name in manifests]
    check_manifests(f, report, product, [*rims, *named], roots, ends, answers)


def _check_nonce(f: Findings, report: spdm.Report, nonce: bytes | None) -> None:
    if nonce is None:
        f.absent("tee_nonce", "nonce_not_given", report.nonce.hex())
        return
    with f.step("tee_nonce") as step:
        if report.nonce != nonce:
            raise NotAuthentic(
                "the report was made for another nonce",
                reason="nonce_mismatch",
                found=report.nonce.hex(),
                expected=nonce[:64].hex(),
            )
        step.found, step.over = report.nonce.hex(), "bytes 4 to 36"
        f.set(freshness=Freshness(FreshnessClass.CHALLENGE))


def _chain(f: Findings, raw: dict[str, Any], chain_pem: bytes, roots: TrustRoots) -> tuple[x509.Certificate, ...]:
    chain = load_pem_chain(chain_pem)
    check_chain(chain, f.evaluated_at)
    root = roots.find("nvidia_device", der_of(chain[-1]))
    if root is None:
        raise ChainError("the chain ends in a root that is not pinned", reason="chain_untrusted_root")
    prints = tuple(fingerprint(c) for c in chain)
    f.set(root=root, signer_chain=prints, collateral=Collateral(expires=expires(chain)))
    raw.update(chain=list(prints), collateral_expires=int(expires(chain)))
    return chain


def _check_signature(report: spdm.Report, leaf: x509.Certificate) -> None:
    key = leaf.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise NotAuthentic("the device's key is not on P-384", reason="nv_key_not_p384")
    r, s = int.from_bytes(report.signature[:48], "big"), int.from_bytes(report.signature[48:], "big")
    try:
        key.verify(utils.encode_dss_signature(r, s), report.signed, ec.ECDSA(hashes.SHA384()))
    except InvalidSignature:
        raise NotAuthentic("the report's signature does not hold", reason="nv_bad_signature") from None


def _check_identity(
    f: Findings, raw: dict[str, Any], report: spdm.Report, chain: tuple[x509.Certificate, ...]
) -> tuple[str, str | None]:
    leaf = chain[0]
    if len(chain) != CHAIN_LENGTH or is_ca(leaf):
        raise NotAuthentic("the signer is not a device's own certificate", reason="nv_not_a_device")
    stated, certified = report.opaque.get(spdm.FWID), _leaf_fwid(leaf)
    product = _set_device(f, raw, leaf, certified)
    if stated is not None and certified is not None and stated != certified:
        raise NotAuthentic("the report and the certificate state two firmwares", reason="nv_fwid_mismatch")
    return ("FWID not in both" if stated is None or certified is None else "FWID equal"), product


def _leaf_fwid(leaf: x509.Certificate) -> bytes | None:
    try:
        extension = leaf.extensions.get_extension_for_oid(FWID_EXTENSION).value
    except x509.ExtensionNotFound:
        return None
    value = extension.value if isinstance(extension, x509.UnrecognizedExtension) else b""
    if len(value) < 50 or value[-50:-48] != _FWID_HEADER:
        raise NotAuthentic("the certificate's FWID is malformed", reason="nv_bad_fwid")
    return value[-48:]


def _set_report(f: Findings, report: spdm.Report) -> dict[str, Any]:
    """Claims of the report itself; the dictionary that is `raw`, for later checks to add to."""
    switches = {"nvdec0_enabled": spdm.NVDEC0_STATUS, "protected_pcie": spdm.PROTECTED_PCIE}
    stated = {name: _SWITCHED.get(report.opaque.get(field, b"")) for name, field in switches.items()}
    f.set(
        evidence_format="nvidia-spdm-1.1",
        nonce=report.nonce.hex(),
        flags={name: value for name, value in stated.items() if value is not None},
        measurements={f"gpu_m{index}": value.hex() for index, value in sorted(report.blocks.items())},
    )
    raw: dict[str, Any] = {
        "driver_version": report.text(spdm.DRIVER_VERSION),
        "vbios_version": spdm.vbios_version(report),
        "vbios_version_raw": report.opaque.get(spdm.VBIOS_VERSION, b"")[::-1].hex().upper(),
        "project": report.text(spdm.PROJECT),
        "project_sku": report.text(spdm.PROJECT_SKU),
        "chip_sku": report.text(spdm.CHIP_SKU),
        "measurements": {f"m{index}": value.hex() for index, value in sorted(report.blocks.items())},
        "measurement_count": len(report.blocks),
        "fwid": report.opaque[spdm.FWID].hex() if spdm.FWID in report.opaque else None,
    }
    f.set(raw=raw)
    return raw


def _set_device(f: Findings, raw: dict[str, Any], leaf: x509.Certificate, certified: bytes | None) -> str | None:
    names = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    product = plain(str(names[0].value).split(" ", 1)[0].replace("_", ""), 32) if names else ""
    f.set(
        # NVIDIA's certificates name the chip: GH100, GB100, or LS_10 for the switch.
        platform=Platform.NVIDIA_SWITCH if product.startswith("LS") else Platform.NVIDIA_GPU,
        product=product or None,
        machine_id=key_digest(leaf),
        machine_id_kind="device_key",
    )
    # `platform` in the form of NVIDIA's device family, which a GPU and a switch share.
    raw.update(
        platform="nvidia-gpu-cc",
        device=plain(leaf.subject.rfc4514_string(), 256),
        leaf_fwid=certified.hex() if certified is not None else None,
    )
    return product or None


def _check_ocsp(f: Findings, responses: Sequence[bytes], chain: Sequence[x509.Certificate]) -> float:
    """Until when chain and responses hold, in Unix seconds."""
    if not responses:
        f.absent("tee_revocation", "ocsp_missing")
        return expires(chain)
    with f.step("tee_revocation") as step:
        good = covered(responses, chain, f.evaluated_at)
        asked = range(FIRST_ISSUED, len(chain) - 1)
        missing = [place for place in asked if place not in good]
        checked = tuple(f"ocsp:{fingerprint(chain[place])}" for place in sorted(good))
        step.found = f"{len(asked) - len(missing)} of {len(asked)} certificates good"
        ends = min(expires(chain), *good.values())
        f.set(
            revocation=Revocation(ocsp="absent" if missing else "ok", checked=checked),
            collateral=Collateral(expires=ends),
        )
    if missing:  # one certificate left open is a chain left open
        f.absent("tee_revocation", "ocsp_incomplete", step.found)
    return ends


def from_inputs(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> TeeResult:
    """`report` and `chain`; every role that begins with `rim` or `ocsp` is collateral. `params`: nonce (64 hex).

    Raises `FormatError` input_missing.
    """
    for role in ("report", "chain"):
        if role not in blobs:
            raise FormatError(f"there is no {role}", reason="input_missing")
    return verify_spdm(
        blobs["report"],
        blobs["chain"],
        roots=roots,
        now=now,
        nonce=nonce_of(params),
        rims=[blobs[role] for role in sorted(blobs) if role.startswith("rim")],
        ocsp=[blobs[role] for role in sorted(blobs) if role.startswith("ocsp")],
    )


def nonce_of(params: Mapping[str, Any]) -> bytes | None:
    """`params["nonce"]` as bytes. Raises `FormatError` for anything but hex."""
    text = params.get("nonce")
    if text is None:
        return None
    try:
        return bytes.fromhex(text)
    except (ValueError, TypeError):
        raise FormatError("the nonce is not hex") from None
