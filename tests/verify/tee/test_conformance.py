"""Cases in the form of Tinfoil's conformance suite, made here: what agrees, what differs, and what is told apart."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tee_worlds import intel, nodes

from gateway.errors import FormatError
from gateway.verify.tee.conformance import CODES, EARLIER, Agreement, read_expectation, run_case
from gateway.verify.tee.vendor_chains import INTEL_ROOT_PEM

KEYS = {"schema_version": "1", "report_data_hex": "11" * 32 + "22" * 32, "offered_hpke_public_key_hex": "22" * 32}
OTHER = {**KEYS, "offered_hpke_public_key_hex": "33" * 32}


def manifest(exit_code: int = 0, code: str = "", stage: str = "verify-ehbp-key-binding") -> bytes:
    rejection = f'  rejection_code: "{code}"\n' if code else ""
    return f"id: x\nstage: {stage}\nexpects:\n  exit_code: {exit_code}\n{rejection}".encode()


def as_json(document: object) -> bytes:
    return json.dumps(document).encode()


def agreement(given: object, *files: Any) -> Agreement:
    return run_case(as_json(given), *(files if len(files) == 2 else (*files, None))).agreement


@pytest.mark.parametrize(
    ("given", "manifest_file", "expected", "agreement_"),
    [
        (KEYS, manifest(), None, "agrees"),
        (KEYS, manifest(), {"outputs": {"tls_fingerprint_hex": "11" * 32, "body_fields": 1}}, "agrees"),
        (KEYS, manifest(), {"outputs": {"tls_fingerprint_hex": "22" * 32}}, "differs"),
        (KEYS, manifest(), {"outputs": {"unheard_of": 1}}, "differs"),
        (OTHER, manifest(10, "EHBP_KEY_BINDING_MISMATCH"), None, "agrees"),
        (OTHER, manifest(10), None, "agrees"),
        (OTHER, manifest(10, "ANOTHER"), None, "differs"),
        (OTHER, manifest(10), {"rejection": {"code": ["A", "EHBP_KEY_BINDING_MISMATCH"]}}, "agrees"),
        (OTHER, manifest(10), {"rejection": {"stage": "verify-sigstore"}}, "differs"),
        (OTHER, manifest(), None, "differs"),
        (OTHER, manifest(), {"accepted": False, "rejection": None}, "agrees"),
        (KEYS, manifest(10), None, "differs"),
        ({**KEYS, "report_data_hex": "11"}, manifest(30), None, "agrees"),
        ({**KEYS, "report_data_hex": "11"}, manifest(10, "ANOTHER"), None, "differs"),
        ({}, manifest(30, stage="verify-nothing"), None, "agrees"),
    ],
)
def test_a_case(given: object, manifest_file: bytes, expected: object, agreement_: str) -> None:
    """Verdict, code, stage and pinned outputs all have to be the suite's."""
    ran = run_case(as_json(given), manifest_file, None if expected is None else as_json(expected))
    assert ran.agreement == agreement_, ran
    assert ran.passed is (agreement_ == "agrees")
    assert bool(ran.note) is (agreement_ == "differs")


TDX = "verify-attestation-tdx"


def test_a_quote_with_unsigned_bytes_behind_it_is_cut_and_counted_apart() -> None:
    """What the product refuses is judged without them here, and the case says how many they were."""
    clean = run_case(as_json(nodes.suite_input(nodes.machine().quote())), manifest(stage=TDX), None)
    assert clean.agreement is Agreement.AGREES
    cut = run_case(as_json(nodes.suite_input(nodes.machine().quote() + b"junk")), manifest(stage=TDX), None)
    assert (cut.agreement, cut.passed) == (Agreement.CUT, True)
    assert cut.note == "judged without 4 unsigned bytes behind its quote"
    wrong = run_case(as_json(nodes.suite_input(nodes.machine().quote() + b"junk")), manifest(10, "ANOTHER", TDX), None)
    assert (wrong.agreement, wrong.passed) == (Agreement.DIFFERS, False)


def test_a_nested_quote_with_unsigned_bytes_is_not_cut() -> None:
    """Only an input that is a quote itself is cut; inside another stage the refusal stands."""
    whole = {
        "schema_version": "1",
        "mode": "pinned",
        "pinned_measurement": {},
        "attestation_tdx": nodes.suite_input(nodes.machine().quote() + b"junk"),
    }
    ran = run_case(
        as_json(whole), manifest(10, "QUOTE_TRAILING_BYTES", "verify-full"), as_json({"rejection": {"stage": TDX}})
    )
    assert (ran.answer.reason, ran.agreement) == ("quote_trailing_bytes", Agreement.AGREES)


def test_a_refusal_before_the_suites_question_is_no_agreement() -> None:
    """It is neither a pass nor a failure, and its line says what is asked earlier here."""
    bare = intel.World(extension=b"\x30\x00")
    given = nodes.suite_input(bare.quote())
    ran = run_case(as_json(given), manifest(10, "QUOTE_SIGNATURE_INVALID", TDX), None)
    assert (ran.answer.reason, ran.agreement, ran.passed) == ("pck_malformed", Agreement.EARLIER, False)
    assert EARLIER["pck_malformed"] in ran.note


def test_the_vendors_chain_is_known_without_being_given() -> None:
    """Inputs without chains are judged under Intel's own, which a synthetic quote does not end in."""
    given = nodes.suite_input(nodes.machine().quote())
    given["collateral"] = {name: text for name, text in given["collateral"].items() if not name.endswith("_pem")}
    ran = run_case(as_json(given), manifest(10, stage=TDX), None)
    assert (ran.answer.accepted, ran.agreement) == (False, Agreement.AGREES)
    assert INTEL_ROOT_PEM.count("-----BEGIN CERTIFICATE-----") == 1


@pytest.mark.parametrize(
    ("manifest_file", "expected"),
    [
        (b"\xff", None),
        (b"- a", None),
        (b"expects: 0", None),
        (manifest(11), None),
        (manifest(), b"[]"),
        (manifest(), b"{"),
    ],
)
def test_files_that_are_no_case(manifest_file: bytes, expected: bytes | None) -> None:
    """A case without a known expectation is an error, and not a pass."""
    with pytest.raises(FormatError):
        read_expectation(manifest_file, expected)


def test_an_input_that_is_no_object() -> None:
    """It cannot be judged at all."""
    with pytest.raises(FormatError):
        run_case(b"[]", manifest(), None)


def test_codes_are_the_suites_words() -> None:
    """Every reason is one of ours in lower case, and every code in upper case."""
    assert all(reason == reason.lower() and codes for reason, codes in CODES.items())
    assert all(code == code.upper() for codes in CODES.values() for code in codes)
