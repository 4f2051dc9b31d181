"""The stored Intel quotes, real and mutated: verdict, reason and every expected claim; and three verifiers side by side."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import dcap_qvl
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.crypto.certificates import der_of, fingerprint
from gateway.errors import FormatError
from gateway.model.tee import TeeResult
from gateway.verify.tee import pcs
from gateway.verify.tee.intel import from_inputs, verify_intel
from gateway.verify.tee.pck import read_pck
from gateway.verify.tee.quote import INTEL_QE_VENDOR, parse_quote
from gateway.verify.tee.roots import VENDOR_ROOTS, Anchor, TrustRoots

SHARED = Path(__file__).parents[2].parent / "shared/vectors"
FOLDER = SHARED / "tee/tdx"
REFERENCE = SHARED / "tee/synth/refverify.py"
NETWORKS = SHARED / "networks"
CONFORMANCE = NETWORKS / "tinfoil/conformance/attestation-tdx"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the Intel vectors are not at {FOLDER}")

MANIFEST: dict[str, Any] = (
    json.loads((FOLDER / "manifest.json").read_text("utf-8")) if FOLDER.is_dir() else {"cases": []}
)
CASES: list[dict[str, Any]] = MANIFEST["cases"]
#: Words with which dcap-qvl refuses what the manifest calls authentic: rules that cannot be turned off.
RULES = {"Debug mode is enabled", "Invalid MR service TD"}


def mutate(data: bytes, mutation: dict[str, Any]) -> bytes:
    match mutation["op"]:
        case "xor":
            at = mutation["offset"]
            return data[:at] + bytes([data[at] ^ mutation["mask"]]) + data[at + 1 :]
        case "write":
            new = bytes.fromhex(mutation["hex"])
            return data[: mutation["offset"]] + new + data[mutation["offset"] + len(new) :]
        case "truncate":
            return data[: mutation["length"]]
        case "append":
            return data + bytes.fromhex(mutation["hex"])
        case "replace_text":
            assert mutation["old"].encode() in data
            return data.replace(mutation["old"].encode(), mutation["new"].encode(), 1)
        case "json_set":
            return json.dumps({**json.loads(data), mutation["field"]: mutation["value"]}).encode()
    raise AssertionError(f"no mutation {mutation['op']}")


def blobs_of(case: dict[str, Any]) -> dict[str, bytes]:
    blobs = {}
    for role, name in case["inputs"].items():
        blobs[role] = (FOLDER / name).read_bytes()
        assert hashlib.sha256(blobs[role]).hexdigest() == MANIFEST["files"][name]["sha256"]
    for mutation in case.get("mutations", ()):
        blobs[mutation["target"]] = mutate(blobs[mutation["target"]], mutation)
    roots = {f"root:{name}": (FOLDER / path).read_bytes() for name, path in MANIFEST["roots"].items()}
    return {**blobs, **roots}


def judge(case: dict[str, Any]) -> TeeResult:
    return from_inputs(blobs_of(case), case.get("params") or {}, VENDOR_ROOTS, case["evaluation_time"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_every_case(case: dict[str, Any]) -> None:
    """Verdict and reason are the manifest's, and each expected claim stands in the record or in raw."""
    claims = msgspec.to_builtins(judge(case).claims)
    expected = case["expected"]
    assert (claims["authentic"], claims["reject_code"]) == (expected["authentic"], expected.get("reject_code"))
    for name, value in expected.get("claims", {}).items():
        found = claims["raw"].get(name, claims.get(name))
        assert json.loads(json.dumps(found)) == value, name


def test_all_cases_are_there() -> None:
    """The manifest has the 37 cases that the figures in the documents speak of."""
    assert len(CASES) == 37
    assert sum(case["expected"]["authentic"] for case in CASES) == 13


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_dcap_qvl_agrees(case: dict[str, Any]) -> None:
    """Live, dcap-qvl gives its recorded verdict, and ours differs from it only by its rules and our trailing bytes."""
    blobs, recorded, result = blobs_of(case), case["dcap_qvl_0_7_0"], judge(case).claims
    handed = dcap_qvl.QuoteCollateralV3.from_json(blobs["collateral"].decode())
    try:
        report = dcap_qvl.verify(blobs["quote"], handed, case["evaluation_time"])
    except ValueError as error:
        words = str(error).split("\n")[0].removeprefix("Verification failed: ")
        assert (recorded["verdict"], recorded["message"]) == ("error", words)
        assert not result.authentic or words in RULES
        return
    assert (recorded["verdict"], recorded["status"]) == ("ok", report.status)
    if result.authentic:
        assert result.tcb_status == report.status
        assert sorted(result.advisory_ids) == sorted(report.advisory_ids) == sorted(recorded["advisory_ids"])
    else:
        assert result.reject_code == "quote_trailing_bytes"


@lru_cache(maxsize=1)
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("refverify", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(not REFERENCE.is_file(), reason=f"the reference verifier is not at {REFERENCE}")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_reference_agrees(case: dict[str, Any]) -> None:
    """The reference verifier, written apart from this one, gives the same verdict, code, status and advisories."""
    blobs, claims, ref = blobs_of(case), judge(case).claims, reference()
    root = x509.load_der_x509_certificate(blobs["root:intel_sgx_root_ca"])
    try:
        found = ref.dcap_verify(blobs["quote"], json.loads(blobs["collateral"]), root, case["evaluation_time"])
    except ref.Reject as refused:
        found = {"code": refused.code}
    if "code" in found:
        assert (claims.authentic, claims.reject_code) == (False, found["code"])
        return
    assert claims.authentic
    assert (claims.tcb_status, list(claims.advisory_ids)) == (found["tcb_status"], found["advisory_ids"])
    assert claims.raw["collateral_expires"] == found["collateral_expires"]


def test_old_and_new_evaluation_of_one_platform() -> None:
    """A caller that remembers evaluation 18 refuses the same platform's collateral of evaluation 17."""
    case = next(case for case in CASES if case["id"] == "alibaba_tdx_v5_servicetd__eval17_2025-09-29")
    result = from_inputs(blobs_of(case), {"lowest_evaluation": 18}, VENDOR_ROOTS, case["evaluation_time"])
    assert (judge(case).claims.authentic, result.claims.reject_code) == (True, "tcb_evaluation_too_low")


# --- Quotes of networks: no collateral of their time is stored with most, so only their form can be held


def quotes_in(value: object) -> list[bytes]:
    """Every quote that a JSON value holds in hex or base64, known by the QE vendor id in it."""
    if isinstance(value, dict):
        return [quote for item in value.values() for quote in quotes_in(item)]
    if isinstance(value, list):
        return [quote for item in value for quote in quotes_in(item)]
    if not isinstance(value, str) or len(value) < 1200:
        return []
    for decode in (bytes.fromhex, lambda text: base64.b64decode(text, validate=True)):
        try:
            data = decode(value.strip().removeprefix("0x"))
        except ValueError:
            continue
        if data[12:28] == INTEL_QE_VENDOR:
            return [data]
    try:
        return quotes_in(json.loads(value))
    except ValueError:
        return []


def network_quotes() -> list[Any]:
    """The stored quotes of networks, Tinfoil's conformance cases apart: those are judged below."""
    found = []
    for path in sorted(NETWORKS.rglob("*")):
        if path.suffix not in (".json", ".txt") or path.name == "manifest.json" or path.is_relative_to(CONFORMANCE):
            continue
        text = path.read_text("utf-8", errors="replace")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        name = str(path.relative_to(NETWORKS))
        found += [pytest.param(quote, id=f"{name}-{place}") for place, quote in enumerate(quotes_in(value))]
    return found


@pytest.mark.parametrize("quote", network_quotes())
def test_quotes_of_networks_have_their_form(quote: bytes) -> None:
    """Every stored network quote parses to the last byte, and its signatures reach up to a PCK that has its extension."""
    parsed = parse_quote(quote)
    assert parsed.tee == "tdx"
    assert not any(quote[len(parsed.data) :])
    chain = pcs.load_chain(parsed.pck_chain)
    pcs.check_roles(chain, pcs.PCK_CHAIN)
    pcs.check_held(chain, chain[0].not_valid_before_utc.timestamp())
    assert VENDOR_ROOTS.find("intel", der_of(chain[-1])) is not None
    assert len(read_pck(chain[0]).ppid) == 16
    assert pcs.p256_holds(chain[0].public_key(), parsed.qe_report_signature, parsed.qe_report.raw)
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + parsed.attestation_key)
    assert pcs.p256_holds(key, parsed.signature, parsed.signed)


# --- Tinfoil's conformance cases, with the collateral that they carry

#: Folder number -> our reason and status. `policy` cases are refused there by a policy, here by what the evidence is.
#: `verifiers_disagree` are cases whose made-up revocation lists lack the extensions without which dcap-qvl reads none;
#: our own status stands beside it. 349 has version 3 of a QE identity, which no genuine collateral here has.
TINFOIL = {
    "300": ("tcb_not_supported", "Unsupported"), "310": ("quote_bad_version_tee", None),
    "311": ("quote_bad_version_tee", None), "313": ("quote_bad_qe_vendor", None), "314": ("quote_too_short", None),
    "315": ("quote_bad_cert_data", None), "321": ("chain_broken", None), "322": ("chain_untrusted_root", None),
    "323": ("pck_malformed", None), "324": ("cert_expired_or_not_yet_valid", None),
    "325": ("tcb_not_supported", "Unsupported"), "328": ("crl_expired", None), "329": ("crl_expired", None),
    "331": ("quote_bad_signature", None), "333": ("quote_bad_signature", None), "334": ("pck_revoked", None),
    "335": ("chain_untrusted_root", None), "337": ("qe_identity_mismatch", None), "338": ("qe_expired", None),
    "340": ("tcb_bad_signature", None), "341": ("tcb_expired", None), "342": ("qe_bad_signature", None),
    "343": ("tcb_expired", None), "344": ("tcb_bad_signature", None), "345": ("qe_bad_signature", None),
    "346": ("tcb_evaluation_too_low", None), "347": ("qe_report_data_mismatch", None),
    "348": ("qe_identity_mismatch", None), "349": ("qe_malformed", None),
    "360": ("verifiers_disagree", "SWHardeningNeeded"),
    "362": ("verifiers_disagree", "ConfigurationAndSWHardeningNeeded"), "363": ("verifiers_disagree", "OutOfDate"),
    "364": ("verifiers_disagree", "OutOfDateConfigurationNeeded"),
    "365": ("verifiers_disagree", "SWHardeningNeeded"), "368": ("tcb_revoked", "Revoked"),
    "390": ("verifiers_disagree", "UpToDate"), "402": ("verifiers_disagree", "UpToDate"),
    "404": ("verifiers_disagree", "UpToDate"), "410": ("tcb_not_supported", "Unsupported"),
    "412": ("verifiers_disagree", "UpToDate"), "420": ("tcb_not_supported", "Unsupported"),
    "421": ("tcb_not_supported", "Unsupported"), "430": ("tcb_not_supported", "Unsupported"),
    "470": ("tcb_not_supported", "Unsupported"), "472": ("tcb_not_supported", "Unsupported"),
    "490": ("tcb_not_supported", "Unsupported"),
}  # fmt: skip


def signed_part(document: str) -> tuple[str, str]:
    """Intel's answer holds the signed document and its signature; the document's text must stay as it is."""
    begins = document.index("{", 1)
    _, ends = json.JSONDecoder().raw_decode(document, begins)
    return document[begins:ends], json.loads(document)["signature"]


def conformance(folder: Path) -> tuple[bytes, bytes, TrustRoots, dict[str, Any]]:
    case = json.loads((folder / "input.json").read_text("utf-8"))
    parts = {**case, **case.get("collateral", {})}
    envelope = json.loads((FOLDER / "collateral/50806F000000_tdx_eval15_2023-06-18.json").read_text("utf-8"))
    for name in ("tcb_info", "qe_identity"):
        envelope[name], envelope[f"{name}_signature"] = signed_part(parts[f"{name}_json"])
    envelope["pck_crl"] = base64.b64decode(parts["pck_crl_der_b64"]).hex()
    envelope["root_ca_crl"] = base64.b64decode(parts["root_crl_der_b64"]).hex()
    roots = VENDOR_ROOTS
    if "intel_root_ca_pem" in parts:
        envelope |= {name: parts[f"{name}_pem"] for name in envelope if name.endswith("_chain")}
        root = x509.load_pem_x509_certificate(parts["intel_root_ca_pem"].encode())
        roots = TrustRoots((Anchor("intel", "test", fingerprint(root), test=True),))
    quote = base64.b64decode(parts["quote_b64"])
    if len(quote) > 636:  # the sample has 39 bytes of junk behind it, which is another test's business
        quote = quote[: 636 + int.from_bytes(quote[632:636], "little")]
    return quote, json.dumps(envelope).encode(), roots, case


@pytest.mark.skipif(not CONFORMANCE.is_dir(), reason=f"the conformance cases are not at {CONFORMANCE}")
@pytest.mark.parametrize("folder", sorted(CONFORMANCE.glob("*")), ids=lambda folder: folder.name)
def test_conformance_cases_of_tinfoil(folder: Path) -> None:
    """What Tinfoil's suite rejects is refused for the same thing, and its levels get the status that it names."""
    quote, collateral, roots, case = conformance(folder)
    lowest = case.get("policy", {}).get("min_tcb_evaluation_data_number")
    claims = verify_intel(
        quote, collateral, roots=roots, now=case["expiration_check_date_unix"], lowest_evaluation=lowest
    ).claims
    assert (claims.reject_code, claims.tcb_status) == TINFOIL[folder.name[:3]]


@pytest.mark.skipif(not CONFORMANCE.is_dir(), reason=f"the conformance cases are not at {CONFORMANCE}")
def test_the_conformance_sample_as_it_is_stored() -> None:
    """With its 39 bytes of junk the same sample is no quote at all."""
    case = json.loads((CONFORMANCE / "300-tdx-v4-happy/input.json").read_text("utf-8"))
    with pytest.raises(FormatError) as caught:
        parse_quote(base64.b64decode(case["quote_b64"]))
    assert caught.value.reason == "quote_trailing_bytes"
