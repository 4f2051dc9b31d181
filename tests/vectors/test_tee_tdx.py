"""The stored Intel quotes, real and mutated: verdict, reason and every expected claim; and three verifiers side by side."""

from __future__ import annotations

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

from gateway.model.tee import TeeResult
from gateway.verify.tee.intel import from_inputs
from gateway.verify.tee.quote import parse_quote
from gateway.verify.tee.roots import VENDOR_ROOTS

SHARED = Path(__file__).parents[2].parent / "shared/vectors"
FOLDER = SHARED / "tee/tdx"
REFERENCE = SHARED / "tee/synth/refverify.py"
NETWORKS = SHARED / "networks"

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"the Intel vectors are not at {FOLDER}")

MANIFEST: dict[str, Any] = json.loads((FOLDER / "manifest.json").read_text("utf-8")) if FOLDER.is_dir() else {"cases": []}
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
    pytest.importorskip("cbor2")
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
        assert (claims.authentic, claims.reject_code) == (False, refused.code)
        return
    assert claims.authentic
    assert (claims.tcb_status, list(claims.advisory_ids)) == (found["tcb_status"], found["advisory_ids"])
    assert claims.raw["collateral_expires"] == found["collateral_expires"]


def test_old_and_new_evaluation_of_one_platform() -> None:
    """A caller that remembers evaluation 18 refuses the same platform's collateral of evaluation 17."""
    case = next(case for case in CASES if case["id"] == "alibaba_tdx_v5_servicetd__eval17_2025-09-29")
    result = from_inputs(blobs_of(case), {"lowest_evaluation": 18}, VENDOR_ROOTS, case["evaluation_time"])
    assert (judge(case).claims.authentic, result.claims.reject_code) == (True, "tcb_evaluation_too_low")


# --- Quotes of networks: no collateral of their time is stored with them, so only their form and chains can be held


def quotes_in(value: object) -> list[bytes]:
    """Every TDX or SGX quote that a JSON value holds, in hex or base64, by the QE vendor id in it."""
    import base64
    import binascii

    if isinstance(value, dict):
        return [quote for item in value.values() for quote in quotes_in(item)]
    if isinstance(value, list):
        return [quote for item in value for quote in quotes_in(item)]
    if not isinstance(value, str) or len(value) < 1200:
        return []
    for decode in (bytes.fromhex, lambda text: base64.b64decode(text, validate=True)):
        try:
            data = decode(value.strip().removeprefix("0x"))
        except (ValueError, binascii.Error):
            continue
        if data[12:28].hex() == "939a7233f79c4ca9940a0db3957f0607":
            return [data]
    try:
        return quotes_in(json.loads(value))
    except ValueError:
        return []


def network_quotes() -> list[Any]:
    found = []
    for path in sorted(NETWORKS.rglob("*")):
        if path.suffix not in (".json", ".txt") or path.name == "manifest.json":
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
    """Every stored network quote parses to the last byte."""
    parsed = parse_quote(quote)
    assert parsed.tee == "tdx"
    assert parsed.data == quote[: len(parsed.data)]
