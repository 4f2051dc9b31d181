"""Tinfoil's bundle: the report, the build that it must have come from, and the key of its certificate."""

from __future__ import annotations

from typing import Any

import pytest
from tee_worlds import amd, intel, nodes, sigstore

from gateway.errors import FormatError
from gateway.model.tee import BindingStatus, Golden, Platform, TeeResult
from gateway.model.verdict import Outcome
from gateway.verify.provenance.measurement import HARDWARE
from gateway.verify.tee.bindings import BindingInputs, BindingRule
from gateway.verify.tee.outcomes import contradicted
from gateway.verify.tee.roots import TrustRoots
from gateway.verify.tee.tied import tied
from gateway.verify.tee.tinfoil_bundle import from_inputs

WORLD = nodes.tinfoil_world()
REPOSITORY = {"repository": sigstore.REPOSITORY}


def appraise(
    document: object = None, params: dict[str, Any] = REPOSITORY, *, without: tuple[str, ...] = (), **blobs: bytes
) -> TeeResult:
    given = {
        "bundle": nodes.as_json(nodes.tinfoil() if document is None else document),
        "trust_root": sigstore.genuine()[1],
        "ask": WORLD.ask,
        "root:ark": WORLD.ark,
        **blobs,
    }
    roots = TrustRoots((*WORLD.roots.anchors, *nodes.roots().anchors))
    return from_inputs({role: blob for role, blob in given.items() if role not in without}, params, roots, amd.NOW)


def reasons(result: TeeResult) -> list[str | None]:
    assert [check.id for check in result.checks[-3:]] == ["build_attested", "build_measured", "channel_key"]
    return [check.reason for check in result.checks[-3:]]


def test_a_sound_bundle() -> None:
    """The report is genuine, has its build's measurement, and commits to the certificate's key."""
    result = appraise()
    assert reasons(result) == [None, None, None]
    claims = result.claims
    assert (claims.authentic, claims.golden) == (True, (Golden("sigstore", 1, ()),))
    assert claims.raw["tinfoil"]["repository"] == sigstore.REPOSITORY
    assert claims.binding.status is BindingStatus.UNBOUND  # the certificate is the bundle's own


def test_the_connections_key_binds_it() -> None:
    """Held to the keys of a connection, the report is bound; the bundle's certificate alone never binds it."""
    _, spki = nodes.certificate()
    bound = tied(appraise(), BindingRule.TINFOIL, BindingInputs(spki_sha256=spki, public_key=nodes.HPKE))
    assert bound.claims.binding.status is BindingStatus.BOUND


@pytest.mark.parametrize(
    ("bundle", "options", "expected"),
    [
        ({}, {"without": ("trust_root",)}, ["no_trust_root", "build_not_attested", None]),
        ({}, {"params": {}}, ["no_repository", "build_not_attested", None]),
        ({}, {"params": {"repository": "someone/else"}}, ["oidc_workflow_repo_mismatch", "build_not_attested", None]),
        ({"digest": "00" * 32}, {}, ["digest_mismatch", "build_not_attested", None]),
        ({"enclaveCert": "no certificate"}, {}, [None, None, "malformed"]),
        ({"enclaveCert": intel.pem(nodes.machine().root)}, {}, [None, None, "tls_key_mismatch"]),
        ({"evidence": WORLD.report(report_data=nodes.certificate()[1])}, {}, [None, "measurement_mismatch", None]),
        ({"vcek": nodes.tinfoil()["vcek"][:-8] + "AAAAAAAA"}, {}, [None, "quote_not_authentic", "quote_not_authentic"]),
    ],
)
def test_parts_that_do_not_belong_together(
    bundle: dict[str, Any], options: dict[str, Any], expected: list[str | None]
) -> None:
    """Each part is told apart, and what could not be shown is no pass."""
    result = appraise(nodes.tinfoil(**bundle), **options)
    found = reasons(result)
    if expected[0] not in (None, "no_trust_root", "no_repository"):
        assert found[0] is not None
        assert found[1:] == expected[1:]
    else:
        assert found == expected
    assert result.claims.authentic is ("vcek" not in bundle)
    if result.claims.authentic and expected[2] is not None:
        assert contradicted(result) == (expected[2],)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "bundle_malformed"),
        ({}, "bundle_malformed"),
        (nodes.tinfoil(kind="other"), "format_unsupported"),
        (nodes.tinfoil(vcek=None), "bundle_malformed"),
        (nodes.tinfoil(vcek="?"), "malformed"),
        (nodes.tinfoil(enclaveAttestationReport={"format": "https://tinfoil.sh/predicate/tdx-guest/v2", "body": "?"}),
         "malformed"),
    ],
)  # fmt: skip
def test_bundles_that_cannot_be_read(document: object, reason: str) -> None:
    """A bundle of another form is a refusal, not an error."""
    claims = appraise(document).claims
    assert (claims.authentic, claims.reject_code) == (False, reason)


def test_text_that_is_no_bundle() -> None:
    """Neither is text that is no JSON."""
    assert appraise(bundle=b"{").claims.reject_code == "bundle_malformed"


LISTED = {**REPOSITORY, "hardware_repository": sigstore.REPOSITORY}


def platforms(mrtd: str) -> bytes:
    """A signed list of one platform."""
    known = {"big-machine": {"mrtd": mrtd, "rtmr0": intel.mark("rtmr0").hex()}}
    statement = sigstore.statement(predicateType=HARDWARE, predicate=known)
    return nodes.as_json(sigstore.make_bundle(payload=nodes.as_json(statement)))


def on_tdx(document: object, world: intel.World, params: dict[str, Any], **blobs: bytes) -> TeeResult:
    given = {"bundle": nodes.as_json(document), "collateral": world.collateral(), "trust_root": sigstore.genuine()[1]}
    return from_inputs({**given, **blobs}, params, world.roots, amd.NOW)


def test_an_enclave_on_tdx() -> None:
    """A quote needs Intel's collateral, and its registers are compared with the build's."""
    _, spki = nodes.certificate()
    registers = [intel.mark("rtmr0"), bytes.fromhex(sigstore.RTMR1), bytes.fromhex(sigstore.RTMR2), bytes(48)]
    world = intel.World(now=amd.NOW)
    quote = world.quote(report_data=spki + nodes.HPKE, rtmrs=registers)
    document = nodes.tinfoil(quote, "tdx")
    result = appraise(document, collateral=world.collateral())
    assert (result.claims.platform, result.claims.authentic) == (Platform.INTEL_TDX, False)  # another world's root
    again = on_tdx(document, world, LISTED, hardware=platforms(intel.mark("mrtd").hex()))
    assert (again.claims.authentic, reasons(again)) == (True, [None, None, None])
    assert "big-machine@" in (again.checks[-2].found or "")
    alone = from_inputs({"bundle": nodes.as_json(document)}, {}, world.roots, amd.NOW)
    assert alone.claims.reject_code == "no_collateral"


@pytest.mark.parametrize(
    ("mrtd", "params", "reason", "outcome"),
    [
        ("mrtd", REPOSITORY, "no_hardware_list", Outcome.NONE),
        ("mrtd", {**LISTED, "hardware_repository": "somebody/else"}, "no_hardware_list", Outcome.NONE),
        ("firmware of somebody", LISTED, "hardware_no_match", Outcome.CONTRAINDICATED),
    ],
)
def test_pitfall_registers_that_unknown_firmware_wrote(
    mrtd: str, params: dict[str, Any], reason: str, outcome: Outcome
) -> None:
    """A TD of one's own firmware shows any RTMR1 to RTMR3: without known MRTD and RTMR0 they are no build's."""
    _, spki = nodes.certificate()
    registers = [intel.mark("rtmr0"), bytes.fromhex(sigstore.RTMR1), bytes.fromhex(sigstore.RTMR2), bytes(48)]
    world = intel.World(now=amd.NOW)
    quote = world.quote(report_data=spki + nodes.HPKE, rtmrs=registers, mrtd=intel.mark(mrtd))
    hardware = platforms(intel.mark("mrtd").hex())
    result = on_tdx(nodes.tinfoil(quote, "tdx"), world, params, hardware=hardware)
    assert (result.claims.authentic, reasons(result)) == (True, [None, reason, None])
    assert result.checks[-2].outcome is outcome


def test_an_sgx_quote_is_of_no_build() -> None:
    """Evidence of a platform that no build is measured for never matches."""
    world = intel.World(now=amd.NOW)
    document = nodes.tinfoil(world.sgx_quote(), "tdx")
    blobs = {
        "bundle": nodes.as_json(document),
        "collateral": world.collateral(sgx=True),
        "trust_root": sigstore.genuine()[1],
    }
    result = from_inputs(blobs, REPOSITORY, world.roots, amd.NOW)
    assert result.claims.authentic
    assert reasons(result)[1] == "measurement_type_unknown"


def test_amds_intermediate_is_known_without_being_given() -> None:
    """Without `ask` the Genoa chain that everybody has is used, and the pinned root alone is believed."""
    claims = appraise(without=("ask", "root:ark")).claims
    assert (claims.authentic, claims.reject_code) == (False, "snp_untrusted_root")


def test_what_the_caller_leaves_out() -> None:
    """A bundle, and the root of an intermediate that the caller names, must be given."""
    for without in (("bundle",), ("root:ark",)):
        with pytest.raises(FormatError) as missing:
            appraise(without=without)
        assert missing.value.reason == "input_missing"
