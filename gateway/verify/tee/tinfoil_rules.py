"""The policy members of Tinfoil's conformance suite, over claims: pins, minima and the defaults of its specification.

Each pin is a row: the policy's member, where the claim stands, and the reason of a mismatch. A claim that is missing
never matches. Values are compared as lower-case hex. Called with claims that are authentic already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from gateway.model.tee import TcbStatus, TeeClaims
from gateway.text import plain

from .findings import NotAuthentic


class Pin(NamedTuple):
    """One member of the policy, and the claim that it is compared with: a measurement's name, or a name of `raw`."""

    member: str
    claim: str
    reason: str


class SevPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be asked of an SNP report. A member that is not known here is refused: ignoring it would loosen it."""

    enforce_spec_defaults: bool = True  # the defaults always apply here
    expected_measurement_hex: str | None = None
    expected_host_data_hex: str | None = None
    expected_id_key_digest_hex: str | None = None
    expected_author_key_digest_hex: str | None = None
    expected_family_id_hex: str | None = None
    expected_image_id_hex: str | None = None
    min_tcb_bl_spl: int | None = None
    min_tcb_tee_spl: int | None = None
    min_tcb_snp_spl: int | None = None
    min_tcb_ucode_spl: int | None = None


class TdxPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What may be asked of a TDX quote; as `SevPolicy`. The defaults are by choice: older quotes break them."""

    enforce_spec_defaults: bool = False
    tcb_evaluation_required: bool = True
    accepted_qv_results: tuple[str, ...] | None = None
    min_tcb_evaluation_data_number: int | None = None
    expected_mrseam_allowlist: tuple[str, ...] | None = None
    expected_xfam_hex: str | None = None
    expected_td_attributes_hex: str | None = None
    expected_mr_td_hex: str | None = None
    expected_mr_signer_seam_hex: str | None = None
    expected_seam_attributes_hex: str | None = None
    expected_mr_config_id_hex: str | None = None
    expected_mr_owner_hex: str | None = None
    expected_mr_owner_config_hex: str | None = None
    expected_fmspc_hex: str | None = None
    expected_qe_vendor_id_hex: str | None = None


SEV_PINS = (
    Pin("expected_measurement_hex", "launch", "measurement_mismatch"),
    Pin("expected_host_data_hex", "host_data", "host_data_mismatch"),
    Pin("expected_id_key_digest_hex", "id_key_digest", "id_key_digest_mismatch"),
    Pin("expected_author_key_digest_hex", "author_key_digest", "author_key_digest_mismatch"),
    Pin("expected_family_id_hex", "family_id", "family_id_mismatch"),
    Pin("expected_image_id_hex", "image_id", "image_id_mismatch"),
)
TDX_PINS = (
    Pin("expected_xfam_hex", "xfam", "xfam_mismatch"),
    Pin("expected_td_attributes_hex", "td_attributes", "td_attributes_mismatch"),
    Pin("expected_mr_td_hex", "mr_td", "mr_td_mismatch"),
    Pin("expected_mr_signer_seam_hex", "mr_signer_seam", "mr_signer_seam_mismatch"),
    Pin("expected_seam_attributes_hex", "seam_attributes", "seam_attributes_mismatch"),
    Pin("expected_mr_config_id_hex", "mr_config_id", "mr_config_id_mismatch"),
    Pin("expected_mr_owner_hex", "mr_owner", "mr_owner_mismatch"),
    Pin("expected_mr_owner_config_hex", "mr_owner_config", "mr_owner_config_mismatch"),
    Pin("expected_fmspc_hex", "fmspc", "pck_fmspc_mismatch"),
    Pin("expected_qe_vendor_id_hex", "qe_vendor_id", "qe_vendor_id_mismatch"),
)
#: Policy member → component of the current TCB.
SEV_MINIMA = {f"min_tcb_{part}_spl": part for part in ("bl", "tee", "snp", "ucode")}

#: Guest policy bits that have a meaning (ABI 1.58); the others must be zero. Bit 17 must be one.
SEV_POLICY_BITS = (1 << 26) - 1
#: TD attributes that may be set: debug, SEPT_VE_DISABLE, PKS, PERFMON (the suite's FIXED0).
TD_ATTRIBUTES = 1 << 0 | 1 << 28 | 1 << 30 | 1 << 63
#: XFAM bits that must be set: x87 and SSE.
XFAM_REQUIRED = 0b11
QV_RESULTS = {
    TcbStatus.UP_TO_DATE: "OK",
    TcbStatus.SW_HARDENING: "SW_HARDENING_NEEDED",
    TcbStatus.CONFIGURATION: "CONFIG_NEEDED",
    TcbStatus.CONFIGURATION_SW_HARDENING: "CONFIG_AND_SW_HARDENING_NEEDED",
}
QV_ACCEPTED = ("OK", "SW_HARDENING_NEEDED", "CONFIG_NEEDED", "CONFIG_AND_SW_HARDENING_NEEDED")


def check_sev(claims: TeeClaims, policy: SevPolicy) -> None:
    """Show that SNP claims satisfy `policy`; `NotAuthentic` with the reason of the first member that they do not."""
    if claims.debug is not False:
        raise NotAuthentic("the guest may be debugged", reason="guest_policy_debug_set")
    if claims.raw.get("migratable") is not False:
        raise NotAuthentic("the guest may be migrated", reason="guest_policy_migrate_ma_set")
    bits = _number(claims.raw.get("policy"))
    if bits is None or bits & ~SEV_POLICY_BITS:
        raise NotAuthentic("a reserved bit of the guest policy is set", reason="guest_policy_reserved_bit_set")
    _pins(claims, policy, SEV_PINS)
    tcb = claims.raw.get("tcb")
    current = tcb.get("current") if isinstance(tcb, Mapping) else None
    for member, part in SEV_MINIMA.items():
        have = current.get(part) if isinstance(current, Mapping) else None
        _at_least(getattr(policy, member), have, "tcb_out_of_date", f"the {part} component is too old")


def check_tdx(claims: TeeClaims, policy: TdxPolicy) -> None:
    """Show that TDX claims satisfy `policy`; `NotAuthentic` as `check_sev` says."""
    if policy.enforce_spec_defaults:
        _td_defaults(claims)
    allowed = policy.expected_mrseam_allowlist
    if allowed is not None and _claim(claims, "mr_seam") not in {value.lower() for value in allowed}:
        raise NotAuthentic("the TDX module is not on the list", reason="mr_seam_not_allowed")
    _pins(claims, policy, TDX_PINS)
    _at_least(
        policy.min_tcb_evaluation_data_number,
        claims.raw.get("tcb_eval"),
        "tcb_eval_data_number_too_low",
        "the collateral is of an old evaluation",
    )
    if policy.tcb_evaluation_required:
        accepted = QV_ACCEPTED if policy.accepted_qv_results is None else policy.accepted_qv_results
        if claims.tcb_status is None or QV_RESULTS.get(claims.tcb_status) not in accepted:
            raise NotAuthentic(
                "the platform's security version is not accepted",
                reason="qv_result_not_accepted_by_policy",
                found=claims.tcb_status,
            )


def _at_least(least: int | None, have: object, reason: str, message: str) -> None:
    if least is not None and (not isinstance(have, int) or have < least):
        raise NotAuthentic(message, reason=reason, found=str(have), expected=str(least))


def _td_defaults(claims: TeeClaims) -> None:
    attributes, xfam = (_little(_claim(claims, name)) for name in ("td_attributes", "xfam"))
    if attributes is None or attributes & ~TD_ATTRIBUTES:
        raise NotAuthentic("a reserved TD attribute is set", reason="td_attributes_reserved_bit_set")
    if attributes & 1:
        raise NotAuthentic("the TD may be debugged", reason="td_attributes_debug_set")
    if xfam is None or xfam & XFAM_REQUIRED != XFAM_REQUIRED:
        raise NotAuthentic("XFAM lacks x87 or SSE", reason="xfam_required_bit_clear")


def _pins(claims: TeeClaims, policy: SevPolicy | TdxPolicy, pins: tuple[Pin, ...]) -> None:
    for pin in pins:
        expected = getattr(policy, pin.member)
        found = _claim(claims, pin.claim)
        if expected is not None and (found is None or found != expected.lower()):
            raise NotAuthentic(
                f"{pin.claim} is not the pinned value",
                reason=pin.reason,
                found=plain(found or "none", 80),
                expected=plain(expected, 80),
            )


def _claim(claims: TeeClaims, name: str) -> str | None:
    value = claims.measurements.get(name, claims.raw.get(name))
    return value.lower() if isinstance(value, str) else None


def _number(value: object) -> int | None:
    """A number, or the text "0x..." of one."""
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return int(value, 16)
        except ValueError:
            return None
    return value if isinstance(value, int) else None


def _little(text: str | None) -> int | None:
    """The number that little-endian hex spells."""
    try:
        return None if text is None else int.from_bytes(bytes.fromhex(text), "little")
    except ValueError:
        return None
