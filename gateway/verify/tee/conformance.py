"""Tinfoil's public conformance suite as a folder: one case's files in, whether we judge it as the suite expects out.

    STAGE/ID/input.json      what is judged (`tinfoil_suite.judge`)
    STAGE/ID/manifest.yaml   stage, exit code (0 accept, 10 reject, 30 malformed) and rejection code
    STAGE/ID/expected.json   the same as JSON, with the outputs of an accepted input; not every case has one

`CODES` maps our reasons to the suite's words for them. Two things are told apart from plain agreement:

- `cut`: the suite's real quote carries 39 bytes that nobody signed. We refuse every quote with such bytes
  (docs/verification.md). For this suite alone they are cut off, the rest is judged, and the case says so.
- `earlier`: we refuse for a reason that comes before the suite's question. Such a case is not counted as agreement.
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.crypto.encoding import unb64
from gateway.errors import FormatError

from . import intel, snp
from .roots import VENDOR_ROOTS, TrustRoots
from .tinfoil_suite import Families, Judgement, judge
from .vendor_chains import AMD_GENOA_ARK, AMD_GENOA_ASK, INTEL_PCK_CHAIN_PEM, INTEL_ROOT_PEM, INTEL_TCB_CHAIN_PEM
from .yaml_tree import Mapping as YamlMapping
from .yaml_tree import Node, Scalar, read_yaml

MAX_CASE_BYTES = 4 << 20
#: The suite's exit codes.
ACCEPT, REJECT, MALFORMED = "0", "10", "30"

#: Our reasons and the suite's codes for the same. Every other reason is the suite's code in lower case.
CODES: Mapping[str, tuple[str, ...]] = {
    "malformed": ("REPORT_FORMAT_UNSUPPORTED", "QUOTE_FORMAT_UNSUPPORTED"),
    "snp_bad_length": ("REPORT_TRUNCATED", "REPORT_FORMAT_UNSUPPORTED"),
    "snp_bad_version": ("REPORT_FORMAT_UNSUPPORTED",),
    "snp_bad_signature": ("REPORT_SIGNATURE_INVALID",),
    "snp_ek_not_issued_by_ask": ("VCEK_CHAIN_INVALID",),
    "snp_policy_bit17_clear": ("GUEST_POLICY_RESERVED_BIT_SET",),
    "snp_reserved_nonzero": ("GUEST_POLICY_RESERVED_BIT_SET",),
    "snp_tcb_cert_mismatch": ("VCEK_TCB_MISMATCH",),
    "snp_chip_id_mismatch": ("VCEK_HWID_MISMATCH",),
    "quote_bad_version_tee": ("QUOTE_FORMAT_UNSUPPORTED", "WRONG_TEE_TYPE"),
    "quote_bad_qe_vendor": ("QE_VENDOR_UNKNOWN",),
    "quote_too_short": ("QUOTE_TRUNCATED",),
    "quote_truncated": ("QUOTE_TRUNCATED",),
    "quote_bad_cert_data": ("QUOTE_FORMAT_UNSUPPORTED",),
    "quote_bad_signature": ("QUOTE_SIGNATURE_INVALID",),
    "qe_report_data_mismatch": ("AK_BINDING_INVALID",),
    "chain_broken": ("PCK_CHAIN_INVALID",),
    "chain_untrusted_root": ("ROOT_CA_UNTRUSTED", "TCB_INFO_CHAIN_INVALID"),
    "crl_expired": ("PCK_CRL_EXPIRED", "ROOT_CRL_EXPIRED"),
    "pck_revoked": ("PCK_REVOKED", "INTERMEDIATE_REVOKED"),
    "pck_malformed": ("PCK_CHAIN_INVALID",),
    "cert_expired_or_not_yet_valid": ("PCK_EXPIRED",),
    "tcb_bad_signature": ("TCB_INFO_SIGNATURE_INVALID",),
    "tcb_expired": ("TCB_INFO_EXPIRED",),
    "qe_expired": ("QE_IDENTITY_EXPIRED",),
    "qe_bad_signature": ("QE_IDENTITY_SIGNATURE_INVALID",),
    "qe_identity_mismatch": ("QE_IDENTITY_FIELD_MISMATCH", "QE_IDENTITY_ID_INVALID"),
    "qe_malformed": ("QE_IDENTITY_VERSION_INVALID",),
}
#: Reasons with which we refuse before the suite's question is reached, and why.
EARLIER: Mapping[str, str] = {
    "quote_bad_auth_data": "a quote without the QE's authentication data is not read",
    "pck_malformed": "the PCK certificate lacks members of Intel's SGX extension",
}
#: Names of a stage that `judge` knows by another.
_STAGES = {"verify-ehbp-key-binding": "ehbp-key-binding"}
#: Members of an expected output that say how the suite serialises, not what was found.
_NOT_COMPARED = frozenset(("body_fields",))


class Agreement(enum.StrEnum):
    """How our judgement stands to the suite's."""

    AGREES = "agrees"
    CUT = "cut"
    EARLIER = "earlier"
    DIFFERS = "differs"


class Expectation(msgspec.Struct, frozen=True):
    """What the suite asks for. `codes` is empty where any refusal will do; `outputs` are the members that it pins."""

    stage: str
    accepted: bool
    codes: tuple[str, ...] = ()
    refused_at: str | None = None
    outputs: Mapping[str, Any] = {}


class Ran(msgspec.Struct, frozen=True):
    """What became of one case: our answer, how it stands, and one line for a person when there is something to say."""

    expected: Expectation
    answer: Judgement
    agreement: Agreement
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.agreement in (Agreement.AGREES, Agreement.CUT)


def run_case(given: bytes, manifest: bytes, expected: bytes | None) -> Ran:
    """Judge one case: its input.json, manifest.yaml, and expected.json if there is one.

    Raises `FormatError` for files that are no case at all; a hostile input of a case is judged.
    """
    asked = read_expectation(manifest, expected)
    document = _object(given, "input.json")
    answer = judge(asked.stage, document, _families())
    if answer.reason != "quote_trailing_bytes" or "quote_b64" not in document:
        return Ran(asked, answer, *_compare(asked, answer))
    shorter, count = _without_trailing_bytes(document)
    answer = judge(asked.stage, shorter, _families())
    agreement, note = _compare(asked, answer)
    if agreement is Agreement.AGREES:
        return Ran(asked, answer, Agreement.CUT, f"judged without {count} unsigned bytes behind its quote")
    return Ran(asked, answer, agreement, note)


def read_expectation(manifest: bytes, expected: bytes | None) -> Expectation:
    """What a case asks for: expected.json's word where it says so, else the manifest's. Raises `FormatError`."""
    stated = _stated(manifest)
    exit_code, code = stated["exit_code"], stated["rejection_code"]
    if exit_code not in (ACCEPT, REJECT, MALFORMED):
        raise FormatError("the manifest of a case expects no exit code that is known")
    if exit_code == MALFORMED and not code:
        code = "INPUT_MALFORMED"
    stage = _STAGES.get(stated["stage"], stated["stage"])
    document = {} if expected is None else _object(expected, "expected.json")
    rejection = document.get("rejection") or {}
    codes = rejection.get("code") or code or ()
    return Expectation(
        stage,
        bool(document.get("accepted", exit_code == ACCEPT)),
        (codes,) if isinstance(codes, str) else tuple(codes),
        rejection.get("stage"),
        {name: value for name, value in (document.get("outputs") or {}).items() if name not in _NOT_COMPARED},
    )


def _stated(manifest: bytes) -> dict[str, str]:
    try:
        tree = read_yaml(manifest.decode())
    except UnicodeDecodeError:
        raise FormatError("the manifest of a case is not UTF-8") from None
    pairs = _pairs(tree)
    expects = _pairs(pairs.get("expects"))
    return {
        "stage": _scalar(pairs.get("stage")),
        "exit_code": _scalar(expects.get("exit_code")),
        "rejection_code": _scalar(expects.get("rejection_code")),
    }


def _pairs(node: Node | None) -> dict[str, Node]:
    return node.pairs if isinstance(node, YamlMapping) else {}


def _scalar(node: Node | None) -> str:
    return node.value if isinstance(node, Scalar) else ""


def _object(data: bytes, name: str) -> dict[str, Any]:
    document = strict_json(data, max_bytes=MAX_CASE_BYTES)
    if not isinstance(document, dict):
        raise FormatError(f"{name} of a case is no JSON object")
    return document


def _compare(asked: Expectation, answer: Judgement) -> tuple[Agreement, str]:
    if answer.accepted and asked.accepted:
        wrong = [name for name, value in asked.outputs.items() if _plain(answer.outputs.get(name)) != value]
        return (Agreement.DIFFERS, f"another {', '.join(wrong)}") if wrong else (Agreement.AGREES, "")
    if not answer.accepted and not asked.accepted and _same_refusal(asked, answer):
        return Agreement.AGREES, ""
    if answer.reason is not None and answer.reason in EARLIER:
        return Agreement.EARLIER, f"refused earlier than the suite asks: {EARLIER[answer.reason]}"
    wanted = "accepted" if asked.accepted else f"refused: {' or '.join(asked.codes) or 'any code'}"
    return Agreement.DIFFERS, f"expected {wanted}"


def _same_refusal(asked: Expectation, answer: Judgement) -> bool:
    reason = answer.reason or ""
    ours = CODES.get(reason, (reason.upper(),))
    return (not asked.codes or not set(asked.codes).isdisjoint(ours)) and answer.stage == (
        asked.refused_at or asked.stage
    )


def _plain(value: object) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value))


def _without_trailing_bytes(document: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The input with its version 4 TDX quote as long as it says it is, and how many bytes went."""
    data = unb64(document["quote_b64"], "the quote")  # `judge` has read it so far
    length = 48 + 584 + 4 + int.from_bytes(data[632:636], "little")
    return {**document, "quote_b64": base64.b64encode(data[:length]).decode()}, len(data) - length


def _intel(blobs: Mapping[str, bytes], params: Mapping[str, Any], roots: TrustRoots, now: float) -> Any:
    """Our own reading alone: dcap-qvl refuses the suite's synthetic revocation lists for want of extensions."""
    return intel.verify_intel(blobs["quote"], blobs["collateral"], roots=roots, now=now, second_opinion=False)


def _families() -> Families:
    """The verifiers under the vendors' own roots, with the chains that the suite expects a verifier to have."""
    return Families(
        snp=snp.from_inputs,
        intel=_intel,
        roots=VENDOR_ROOTS,
        sev_chain={"ask": AMD_GENOA_ASK, "root:ark_genoa": AMD_GENOA_ARK},
        tdx_chain={
            "intel_root_ca_pem": INTEL_ROOT_PEM,
            "pck_crl_issuer_chain_pem": INTEL_PCK_CHAIN_PEM,
            "tcb_info_issuer_chain_pem": INTEL_TCB_CHAIN_PEM,
            "qe_identity_issuer_chain_pem": INTEL_TCB_CHAIN_PEM,
        },
    )
