"""Hardware evidence inside a node's report: read, verified, bound to the keyset and our nonce, and appraised."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from tee_worlds import nvidia
from tee_worlds.intel import NOW, World
from tee_worlds.reports import NONCE, Keyset

from gateway.crypto.certificates import fingerprint
from gateway.errors import FormatError
from gateway.model.node import Node
from gateway.model.tee import BindingStatus, FreshnessClass, HostTrust, TcbStatus, TeeResult
from gateway.model.verdict import Outcome
from gateway.verify import aci
from gateway.verify.appraise import appraise_node, attested_session
from gateway.verify.node_evidence import platform_of, read_evidence, verify_evidence
from gateway.verify.tee.roots import TrustRoots
from gateway.verify.tee.rules import TeeRules, judge, violations

W = World()
KEYSET = Keyset()
DIGEST, BOUND = KEYSET.digest, KEYSET.bound
ROOTS = TrustRoots((*W.roots.anchors, *nvidia.roots().anchors))


def document(
    evidence: Mapping[str, Any] | None = None,
    *,
    data: bytes = BOUND,
    tee_type: str = "tdx",
    capabilities: Mapping[str, Any] | None = None,
    **quote: Any,
) -> bytes:
    shown = {"platform": "tdx", "quote": W.quote(report_data=data, **quote).hex()} if evidence is None else evidence
    return KEYSET.report(shown, tee_type, **(capabilities or {}))


def verified(raw: bytes, *, roots: TrustRoots = ROOTS, **more: Any) -> TeeResult:
    item = read_evidence(aci.parse_report(raw))
    assert item is not None
    return verify_evidence(
        item, {"collateral": W.collateral(**more)}, keyset_digest=DIGEST, nonce=NONCE, roots=roots, now=NOW
    )


def appraised(raw: bytes, tee: TeeResult | None, problem: str | None = None, pin: str | None = None) -> Any:
    node = Node("n", "aci", "https://n.example", ("m",), pin)
    return appraise_node(node, raw, problem, NONCE, now=NOW, spki=None, tls=False, tee=tee)


def told(result: Any) -> tuple[dict[str, tuple[Outcome, str | None]], dict[str, tuple[str, str | None]]]:
    checks = {c.id: (c.outcome, c.reason) for c in result.checks}
    assert len(result.claims) == len({c.name for c in result.claims})
    return checks, {c.name: (c.status, c.source) for c in result.claims}


def test_a_machine_whose_quote_names_our_nonce_and_its_keys() -> None:
    """Evidence, keys and freshness are affirmed by the hardware, without a pin; the machine is left to policy."""
    raw = document()
    result, report = appraised(raw, tee := verified(raw))
    checks, claims = told(result)
    assert [checks[name][0] for name in ("evidence", "key_bound", "fresh")] == [Outcome.AFFIRMING] * 3
    assert checks["tee_rules"] == (Outcome.NONE, "left_to_policy")
    assert claims["tee_attested"] == ("asserted", "hardware_proven")
    assert claims["tcb_up_to_date"] == ("asserted", "verifier_derived")
    assert claims["executed_in_tee"] == ("asserted", "provider_asserted")
    assert claims["host_trust"][0] == "unknown"
    assert tee.claims.freshness.kind is FreshnessClass.CHALLENGE
    assert "root=TEST" in str(result.checks[0].found)
    assert next(c.reason for c in result.claims if c.name == "tee_attested") == "root=TEST"
    session = attested_session(
        Node("n", "aci", "https://n.example", ("m",)), report, result, evidence_digest="00", established=NOW,
        lifetime_s=1e9, tee=tee.claims,
    )  # fmt: skip
    assert session.tee == (tee.claims,)
    assert session.expires == min(tee.claims.collateral.expires or 0, KEYSET.document["not_after"])


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (bytes(64), BindingStatus.UNBOUND),
        (aci.report_data(aci.statement(DIGEST, "cd" * 32)), BindingStatus.MISMATCH),
        (aci.report_data(aci.statement("sha256:" + "00" * 32, NONCE)), BindingStatus.MISMATCH),
        (BOUND[:32] + b"\1" * 32, BindingStatus.MISMATCH),
    ],
)
def test_a_genuine_quote_that_speaks_for_nobody_here(data: bytes, status: BindingStatus) -> None:
    """A quote over nothing, another nonce or another keyset is never fresh, binds no key, and attests no machine."""
    raw = document(data=data)
    tee = verified(raw)
    assert (tee.claims.authentic, tee.claims.binding.status) == (True, status)
    checks, claims = told(appraised(raw, tee)[0])
    assert checks["fresh"] == (Outcome.CONTRAINDICATED, "unbound")
    assert checks["key_bound"] == (Outcome.NONE, "no_pin")
    assert claims["tee_attested"][0] != "asserted"


@pytest.mark.parametrize(
    ("capabilities", "claim"),
    [
        ({"fronts_backend": False}, ("asserted", "provider_asserted")),
        ({"fronts_backend": True}, ("refuted", "provider_asserted")),
        ({"fronts_backend": "no"}, ("refuted", "provider_asserted")),  # anything but a plain no
        ({"serving": "aggregator"}, ("unknown", None)),
    ],
)
def test_an_environment_that_only_relays_did_not_run_the_model(
    capabilities: dict[str, Any], claim: tuple[str, str | None]
) -> None:
    """Genuine hardware in front of an ordinary backend attests the relay, and refutes that the model ran in it."""
    raw = document(capabilities=capabilities)
    _, claims = told(appraised(raw, verified(raw))[0])
    assert claims["tee_attested"] == ("asserted", "hardware_proven")
    assert claims["executed_in_tee"] == claim


def test_a_forged_quote() -> None:
    """What does not verify contraindicates the evidence with the verifier's reason, and refutes the claim."""
    quote = bytearray(W.quote(report_data=BOUND))
    quote[200] ^= 1
    raw = document({"platform": "tdx", "quote": quote.hex()})
    checks, claims = told(appraised(raw, verified(raw))[0])
    assert checks["evidence"] == (Outcome.CONTRAINDICATED, "quote_bad_signature")
    assert checks["fresh"] == (Outcome.NONE, "no_evidence")
    assert claims["tee_attested"] == ("refuted", "verifier_derived")
    assert claims["tcb_up_to_date"][0] == "unknown"


def test_a_root_that_nobody_trusts() -> None:
    """The same quote under the vendors' roots alone is not evidence."""
    raw = document()
    checks, _ = told(appraised(raw, verified(raw, roots=TrustRoots()))[0])
    assert checks["evidence"] == (Outcome.CONTRAINDICATED, "chain_untrusted_root")


def test_without_the_vendors_documents_nothing_is_shown() -> None:
    """Evidence that could not be looked at is `none` with the reason, never a pass and never a lie of the node's."""
    raw = document()
    checks, claims = told(appraised(raw, None, "collateral_unavailable")[0])
    assert checks["evidence"] == (Outcome.NONE, "collateral_unavailable")
    assert checks["tee_rules"] == (Outcome.NONE, "no_evidence")
    assert claims["tee_attested"][0] == "unknown"
    item = read_evidence(aci.parse_report(raw))
    assert item is not None
    with pytest.raises(FormatError) as caught:
        verify_evidence(item, {}, keyset_digest=DIGEST, nonce=NONCE, roots=ROOTS, now=NOW)
    assert caught.value.reason == "input_missing"


def test_a_pin_stands_beside_the_hardware() -> None:
    """A keyset that is not the pinned one is refused, however well the hardware vouches for it."""
    raw = document()
    checks, _ = told(appraised(raw, verified(raw), pin="sha256:" + "11" * 32)[0])
    assert checks["key_bound"] == (Outcome.CONTRAINDICATED, "keyset_not_pinned")
    checks, _ = told(appraised(raw, verified(raw), pin=DIGEST)[0])
    assert checks["key_bound"] == (Outcome.AFFIRMING, None)


@pytest.mark.parametrize(
    "evidence",
    [
        {"platform": "tdx"},
        {"platform": "tdx", "quote": 1},
        {"platform": "tdx", "quote": "zz"},
        {"platform": "nitro", "document": "***"},
        {"platform": "snp", "report": "0" * (1 << 22)},
    ],
)
def test_evidence_that_is_no_text_of_its_form(evidence: dict[str, Any]) -> None:
    """A member that is absent, too large or of another encoding makes the evidence malformed."""
    raw = document(evidence)
    with pytest.raises(FormatError):
        read_evidence(aci.parse_report(raw))
    checks, _ = told(appraised(raw, None, "malformed")[0])
    assert checks["evidence"] == (Outcome.CONTRAINDICATED, "malformed")


def test_platforms_by_their_names() -> None:
    """The platform is the evidence's, or the report's where the evidence names none; other names are the same."""

    def named(evidence: dict[str, Any], tee_type: str) -> str:
        return platform_of(aci.parse_report(document(evidence, tee_type=tee_type)))

    assert named({"platform": "snp"}, "tdx") == "snp"
    assert named({}, "sev-snp") == "snp"
    assert named({"platform": "x" * 99}, "tdx") == "x" * 40
    software = aci.parse_report(document({"platform": "software"}))
    assert read_evidence(software) is None
    nitro = read_evidence(
        aci.parse_report(document({"platform": "nitro", "document": base64.b64encode(b"d").decode()}))
    )
    assert nitro is not None
    assert (nitro.kind, nitro.role, nitro.data) == ("nitro", "doc", b"d")


def test_a_status_that_is_behind_refutes_being_up_to_date() -> None:
    """The claim says what the vendor says; a platform that it lists no levels for is unknown, not up to date."""
    raw = document()
    good = verified(raw)
    for status, expected in (
        (TcbStatus.OUT_OF_DATE, "refuted"), (TcbStatus.NOT_APPLICABLE, "unknown"), (None, "unknown")
    ):  # fmt: skip
        tee = TeeResult(good.checks, msgspec.structs.replace(good.claims, tcb_status=status))
        assert told(appraised(raw, tee)[0])[1]["tcb_up_to_date"][0] == expected
    hosted = TeeResult(good.checks, msgspec.structs.replace(good.claims, host_trust=HostTrust.HYPERSCALER))
    assert told(appraised(raw, hosted)[0])[1]["host_trust"][0] == "asserted"


def test_evidence_whose_signer_nobody_vouches_for_is_not_shown() -> None:
    """Structure and signature alone, without a root, attest nothing."""
    raw = document()
    good = verified(raw)
    rootless = TeeResult(good.checks, msgspec.structs.replace(good.claims, root=None))
    checks, claims = told(appraised(raw, rootless)[0])
    assert checks["evidence"] == (Outcome.NONE, "root_unknown")
    assert checks["fresh"][0] is Outcome.CONTRAINDICATED
    assert claims["tee_attested"][0] == "unknown"


@pytest.mark.parametrize(("nonce", "linked"), [(BOUND[:32], True), (b"\1" * 32, False)])
def test_accelerators_are_linked_by_the_nonce_of_the_machine(nonce: bytes, linked: bool) -> None:
    """A GPU report over the nonce that the quote commits to belongs to this machine; another one is borrowed."""
    payload = json.loads(
        nvidia.payload((nvidia.report(nonce=nonce), nvidia.pem_of(nvidia.device_chain())), nonce=nonce)
    )
    raw = document({"platform": "tdx", "quote": W.quote(report_data=BOUND).hex(), "nvidia_payload": payload})
    tee = verified(raw)
    assert tee.claims.authentic
    (gpu,) = tee.claims.children
    assert (gpu.authentic and gpu.binding.status is BindingStatus.BOUND) is linked
    _, claims = told(appraised(raw, tee)[0])
    assert (claims["gpu_attested"][0] == "asserted") is linked
    assert (claims.get("gpu_linked", ("unknown", None))[0] == "asserted") is linked


def with_gpu(
    *devices: tuple[bytes, bytes], manifests: Mapping[str, bytes] = {}, answers: Mapping[str, bytes] = {}
) -> TeeResult:
    own = (nvidia.report(nonce=BOUND[:32]), nvidia.pem_of(nvidia.device_chain()))
    payload = json.loads(nvidia.payload(*(devices or (own,)), nonce=BOUND[:32]))
    raw = document({"platform": "tdx", "quote": W.quote(report_data=BOUND).hex(), "nvidia_payload": payload})
    item = read_evidence(aci.parse_report(raw))
    assert item is not None
    nvidias = {"rim": manifests, "ocsp": answers}
    fetched = {f"{role}:{name}": data for role, named in nvidias.items() for name, data in named.items()}
    collateral = {"collateral": W.collateral(), **fetched}
    return verify_evidence(item, collateral, keyset_digest=DIGEST, nonce=NONCE, roots=ROOTS, now=NOW)


def golden(tee: TeeResult) -> tuple[Any, ...]:
    (gpu,) = tee.claims.children
    return gpu.children[0].golden if gpu.children else gpu.golden


def test_accelerators_are_held_to_the_manifests_on_hand() -> None:
    """A manifest under the name that the device gives is compared; another's is not; one that is unsigned fails."""
    name = f"NV_GPU_DRIVER_GH100_{nvidia.DRIVER}"
    good = nvidia.signed(nvidia.manifest())
    (driver,) = golden(with_gpu(manifests={name: good, "NV_GPU_DRIVER_GH100_1.2.3": b"of another driver"}))
    assert driver.matched
    assert driver.mismatched == ()
    assert golden(with_gpu(manifests={})) == ()
    broken = with_gpu(manifests={name: good.replace(b"Hash0", b"Hash1", 1)})
    assert not broken.claims.children[0].authentic


def test_pitfall_a_second_device_hides_the_first() -> None:
    """Each device is held to the manifests that it names itself: another beside it, of other firmware, changes nothing."""
    altered = nvidia.values() | {5: hashlib.sha384(b"other").digest()}
    other = nvidia.opaque_of(driver="591.0")
    first = nvidia.report(altered, nonce=BOUND[:32]), nvidia.pem_of(nvidia.device_chain())
    second = (
        nvidia.report(nonce=BOUND[:32], serial="device 2", opaque=other),
        nvidia.pem_of(nvidia.device_chain(serial="device 2")),
    )
    manifests = {
        f"NV_GPU_DRIVER_GH100_{nvidia.DRIVER}": nvidia.signed(nvidia.manifest()),
        "NV_GPU_DRIVER_GH100_591.0": nvidia.signed(nvidia.manifest("591.0")),
    }
    for devices in ([first], [first, second]):
        tee = with_gpu(*devices, manifests=manifests)
        assert violations(judge(tee.claims, TeeRules(test_roots="allow", gpu="required"))) == ("gpu_mismatch",)
    sound = tee.claims.children[0].children[1]
    assert [(golden.kind, golden.mismatched) for golden in sound.golden] == [("driver:591.0", ())]


def test_a_session_lasts_no_longer_than_what_its_accelerators_rest_on() -> None:
    """The responder's word about a device ends, and with it the session in which it was counted."""
    chain, until = nvidia.device_chain(), NOW + 60
    answer = {fingerprint(chain[0]): nvidia.ocsp_response(chain, until=until)}
    raw = document()
    for answers, expires in ((answer, until), ({}, KEYSET.document["not_after"])):
        tee = with_gpu(answers=answers)
        assert tee.claims.children[0].authentic
        result, report = appraised(raw, tee)
        session = attested_session(
            Node("n", "aci", "https://n.example", ("m",)), report, result, evidence_digest="00", established=NOW,
            lifetime_s=1e9, tee=tee.claims,
        )  # fmt: skip
        assert session.expires == expires


def test_a_device_that_differs_from_its_manifest_is_refused_by_policy() -> None:
    """Firmware that is not the published one is genuine, and no policy takes it."""
    rows = nvidia.resource(1, [b"\7" * 48])
    other = nvidia.signed(nvidia.document(rows))
    tee = with_gpu(manifests={f"NV_GPU_DRIVER_GH100_{nvidia.DRIVER}": other})
    assert tee.claims.children[0].authentic
    assert golden(tee)[0].mismatched
    rules = msgspec.structs.replace(TeeRules(), test_roots="allow")
    assert "gpu_mismatch" in violations(judge(tee.claims, rules))
