"""SPDM reports of GPUs and switches: their form, their device, their manifests."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tee_worlds import nvidia as w
from tee_worlds.tokens import rsa_key

from gateway.errors import FormatError
from gateway.model.tee import BindingStatus, FreshnessClass, Platform, Root, TeeResult
from gateway.model.verdict import Check, Outcome
from gateway.verify.tee import nvidia_gpu, nvidia_payload, spdm
from gateway.verify.tee.findings import NotAuthentic
from gateway.verify.tee.roots import Anchor, TrustRoots

CHAIN = w.device_chain()
PEM = w.pem_of(CHAIN)
REPORT = w.report()
DRIVER_RIM = w.signed(w.manifest())
VBIOS_RIM = w.signed(w.manifest(w.VBIOS, (2, 6)))


def verify(report: bytes = REPORT, chain: bytes = PEM, **more: Any) -> TeeResult:
    given = {"roots": w.roots(), "now": w.NOW, "nonce": w.NONCE} | more
    return nvidia_gpu.verify_spdm(report, chain, **given)


def code(*args: Any, **more: Any) -> str | None:
    claims = verify(*args, **more).claims
    assert claims.authentic is (claims.reject_code is None)
    return claims.reject_code


def check_of(result: TeeResult, check_id: str) -> Check:
    return next(check for check in result.checks if check.id == check_id)


def test_a_genuine_device_with_all_collateral() -> None:
    """Report, chain, nonce, manifests and OCSP: every check of the plan is affirming, in order."""
    responses = [w.ocsp_response(CHAIN, place) for place in (1, 2, 3)]
    result = verify(rims=[DRIVER_RIM, VBIOS_RIM], ocsp=responses)
    assert [(c.id, c.outcome) for c in result.checks] == [(i, Outcome.AFFIRMING) for i in nvidia_gpu.PLAN]
    claims = result.claims
    assert (claims.platform, claims.product, claims.debug) == (Platform.NVIDIA_GPU, "GH100", None)
    assert claims.freshness.kind is FreshnessClass.CHALLENGE
    assert (claims.revocation.ocsp, len(claims.revocation.checked)) == ("ok", 3)
    assert [(g.kind, g.matched, g.mismatched) for g in claims.golden] == [
        (f"driver:{w.DRIVER}", 3, ()),
        (f"vbios:{w.VBIOS}", 2, ()),
    ]
    assert claims.flags == {"nvdec0_enabled": False, "protected_pcie": True}
    assert claims.collateral.expires == w.NOW + w.DAY  # the responses': sooner than chain and manifests
    assert verify(rims=[DRIVER_RIM, VBIOS_RIM]).claims.collateral.expires == w.SIGNER_UNTIL
    assert verify(ocsp=responses[:1]).claims.collateral.expires == w.NOW + w.DAY
    assert claims.root is not None
    assert claims.root.test


def test_what_is_not_given_is_none() -> None:
    """Without nonce, OCSP and manifests the device is authentic, of any age, and three checks say so."""
    result = verify(nonce=None)
    found = {c.id: (c.outcome, c.reason) for c in result.checks}
    assert result.claims.authentic
    assert found["tee_nonce"] == (Outcome.NONE, "nonce_not_given")
    assert found["tee_revocation"] == (Outcome.NONE, "ocsp_missing")
    assert found["tee_collateral"] == found["tee_tcb"] == (Outcome.NONE, "rim_missing")
    assert result.claims.freshness.kind is FreshnessClass.UNDATED


def test_the_machine_is_the_devices_key() -> None:
    """Two reports of one device have one machine id, another device another."""
    other = w.device_chain(serial="device 2")
    second = verify(w.report(serial="device 2"), w.pem_of(other)).claims
    first = verify().claims
    assert (first.machine_id_kind, second.authentic) == ("device_key", True)
    assert first.machine_id == verify(w.report({1: bytes(48)})).claims.machine_id != second.machine_id


def record(*blocks: bytes) -> bytes:
    return w.assemble(b"".join(blocks), len(blocks), b"")


ONE = w.block(1, bytes(48))


@pytest.mark.parametrize(
    ("reason", "report"),
    [
        ("nv_too_short", b""),
        ("nv_too_short", REPORT[:170]),
        ("nv_too_short", REPORT + bytes(70_000)),
        ("nv_bad_request", b"\x10" + REPORT[1:]),
        ("nv_bad_response", w.assemble(ONE, 1, b"", response=b"\x11\x7f\x00\x00")),
        ("nv_truncated", w.assemble(ONE, 1, b"")[:180]),
        ("nv_bad_block", w.assemble(ONE + b"\x02\x01\x03", 2, b"")),
        ("nv_bad_block", record(b"\x01\x02" + ONE[2:])),
        ("nv_bad_block", record(ONE[:5] + b"\x2f\x00" + ONE[7:])),
        ("nv_bad_block", record(struct.pack("<BBHBH", 1, 1, 60, 1, 57) + bytes(48))),
        ("nv_duplicate_block", record(ONE, ONE)),
        ("nv_block_count", w.assemble(ONE, 2, b"")),
        ("nv_bad_opaque", w.assemble(ONE, 1, b"\x03\x00\x01")),
        ("nv_bad_opaque", w.assemble(ONE, 1, struct.pack("<HH", 3, 2) + b"x")),
        ("nv_bad_opaque", w.assemble(ONE, 1, struct.pack("<HH", 3, 0) * 2)),
        ("nonce_mismatch", w.report(nonce=bytes(32))),
        ("nv_bad_signature", w.report(serial="somebody")),
        ("nv_bad_signature", REPORT[:-96] + bytes(96)),
        ("nv_fwid_mismatch", w.report(opaque=w.opaque_of(f20=bytes(48)))),
    ],
)
def test_reports_that_do_not_hold(reason: str, report: bytes) -> None:
    """Each fault alone is found, under its own code."""
    assert code(report) == reason


def test_the_examples_of_the_form_are_signed_by_the_device() -> None:
    """A minimal report of the same making is genuine, so the form alone is what is refused above."""
    assert code(w.assemble(ONE, 1, b"")) is None


def test_pitfall_trailing_bytes_move_the_signature() -> None:
    """Junk behind the signature, with or without a signature of its own, is refused; so is a cut."""
    assert code(REPORT + b"\0") == "nv_trailing_bytes"
    assert code(REPORT[:-1]) == "nv_trailing_bytes"
    again = REPORT + b"junk"
    assert code(again + w.raw_signature("device 1", again)) == "nv_trailing_bytes"


def test_pitfall_the_json_nonce_is_compared_and_not_the_signed_one() -> None:
    """A payload whose JSON says our nonce holds a report for another one: refused."""
    foreign = w.report(nonce=bytes(32))
    result = nvidia_payload.verify_payload(
        w.payload((foreign, PEM), nonce=w.NONCE), roots=w.roots(), now=w.NOW, nonce=w.NONCE
    )
    assert result.claims.reject_code == "nonce_mismatch"


# ------------------------------------------------------------------ chains
@pytest.mark.parametrize(
    ("reason", "chain"),
    [
        ("chain_empty", b""),
        ("malformed", b"-----BEGIN CERTIFICATE-----\n!"),
        ("chain_broken", w.pem_of(CHAIN[1:] + CHAIN[:1])),
        ("nv_bad_signature", w.pem_of(CHAIN[1:])),
        ("nv_bad_signature", w.pem_of(w.device_chain(serial="device 2"))),
        ("nv_bad_fwid", w.pem_of(w.device_chain(extensions=(w.fwid_extension(b"\x04\x20" + bytes(48)),)))),
        ("nv_bad_fwid", w.pem_of(w.device_chain(extensions=(w.fwid_extension(b"short"),)))),
        ("nv_not_a_device", w.pem_of(w.device_chain(ca=True))),
    ],
)
def test_chains_that_do_not_hold(reason: str, chain: bytes) -> None:
    """Order, signer, role and firmware of the chain."""
    assert code(chain=chain) == reason


def test_the_root_must_be_pinned_for_devices() -> None:
    """Not known, or known as another vendor's, is not pinned."""
    assert code(roots=TrustRoots()) == "chain_untrusted_root"
    assert code(roots=TrustRoots((w.anchor("nvidia_rim", CHAIN[-1]),))) == "chain_untrusted_root"


def test_a_chain_out_of_date() -> None:
    """NVIDIA's device certificates end in 9999; a time before they begin is refused."""
    assert code(now=w.NOW - 500 * w.DAY) == "cert_expired_or_not_yet_valid"


def leaf_with(key: object) -> tuple[x509.Certificate, ...]:
    name = CHAIN[0].subject
    return (w.certificate(name, key, CHAIN[1].subject, w.key_of("device brom"), ca=False), *CHAIN[1:])


@pytest.mark.parametrize("key", [ec.derive_private_key(7, ec.SECP256R1()), rsa_key("device")], ids=["P-256", "RSA"])
def test_a_device_signs_with_p384(key: object) -> None:
    """A certified key of another kind is no device's."""
    assert code(chain=w.pem_of(leaf_with(key))) == "nv_key_not_p384"


def test_pitfall_another_certificate_of_the_line_signs() -> None:
    """A CA of the line, whose key signed the report, is not a device: four certificates, or a CA as the leaf."""
    as_brom = w.report(serial="device brom")
    assert code(as_brom, w.pem_of(CHAIN[1:])) == "nv_not_a_device"


@pytest.mark.parametrize(
    ("extensions", "opaque"),
    [((), w.opaque_of()), (None, {k: v for k, v in w.opaque_of().items() if k != spdm.FWID})],
    ids=["Blackwell", "old driver"],
)
def test_a_firmware_digest_on_one_side_only(extensions: Any, opaque: dict[int, bytes]) -> None:
    """Blackwell's leaf lacks the extension, old drivers the opaque field: nothing to compare, and the check says so."""
    chain = w.device_chain(extensions=extensions)
    result = verify(w.report(opaque=opaque), w.pem_of(chain))
    assert result.claims.authentic
    assert check_of(result, "tee_identity").found == "FWID not in both"


def test_a_switch() -> None:
    """A switch has no driver, a textual BIOS version, and one manifest."""
    chain = w.device_chain("LS_10 A01 FSP FMC LF", "switch")
    opaque = {6: b"96.10.55.00.01", 22: bytes(8)}
    rim = w.signed(w.manifest("96.10.55.00.01", product="LS10"))
    result = verify(w.report(opaque=opaque, serial="switch"), w.pem_of(chain), rims=[rim])
    assert (result.claims.platform, result.claims.product) == (Platform.NVIDIA_SWITCH, "LS10")
    assert check_of(result, "tee_tcb").outcome is Outcome.AFFIRMING
    assert result.claims.raw["driver_version"] is None
    assert result.claims.raw["rim_ids"] == ["NV_SWITCH_BIOS_5612_0002_890_9610550001"]


def test_the_names_of_a_devices_manifests() -> None:
    """As NVIDIA's service keeps them; what the device does not state is not asked for."""
    assert verify().claims.raw["rim_ids"] == ["NV_GPU_DRIVER_GH100_590.12", "NV_GPU_VBIOS_G520_0200_885_9600A50001"]
    opaque = {k: v for k, v in w.opaque_of(driver=None).items() if k != spdm.PROJECT}
    assert verify(w.report(opaque=opaque)).claims.raw["rim_ids"] == []


@pytest.mark.parametrize(
    ("stated", "chip"), [({}, "GB100"), ({"f35": b"GB202\0\0"}, "GB202"), ({"f35": b"\xff"}, "GB100")]
)
def test_the_names_of_a_later_chips_manifests(stated: dict[str, bytes], chip: str) -> None:
    """NVIDIA names a Blackwell driver's otherwise, by the chip that the report states, or else the certificate."""
    pem = w.pem_of(w.device_chain("GB100 A01 GSP FMC LF", "device 9"))
    signed = w.report(serial="device 9", opaque=w.opaque_of(**stated))
    rim = w.signed(w.manifest(product=chip))
    result = verify(signed, pem, rims=[rim])
    assert result.claims.raw["rim_ids"] == [
        f"NV_GPU_CC_DRIVER_{chip}_590.12",
        "NV_GPU_VBIOS_G520_0200_885_9600A50001",
    ]
    assert [(golden.kind, golden.mismatched) for golden in result.claims.golden] == [("driver:590.12", ())]
    assert code(signed, pem, rims=[w.signed(w.manifest(product="GH100"))]) == "rim_for_another_device"


def test_pitfall_a_shared_nonce_is_taken_for_a_binding() -> None:
    """A GPU that answered our nonce is bound to nothing: any GPU of the world may answer it."""
    assert verify().claims.binding.status is BindingStatus.UNBOUND


def test_a_certificate_without_a_name_has_no_product() -> None:
    """Then no manifest is for it."""
    leaf = w.certificate(x509.Name([]), w.key_of("device 1"), CHAIN[1].subject, w.key_of("device brom"), ca=False)
    chain = w.pem_of((leaf, *CHAIN[1:]))
    assert verify(chain=chain).claims.product is None
    assert verify(chain=chain).claims.raw["rim_ids"] == ["NV_GPU_VBIOS_G520_0200_885_9600A50001"]
    assert code(chain=chain, rims=[DRIVER_RIM]) == "rim_for_another_device"


@pytest.mark.parametrize("value", [b"\x1b[2J", b"\xff", b"a" * 65])
def test_text_from_the_device_is_printable_or_none(value: bytes) -> None:
    """A driver version that is no short printable text is not shown."""
    opaque = w.opaque_of(driver=None, f3=value)
    assert verify(w.report(opaque=opaque)).claims.raw["driver_version"] is None


def test_a_device_without_a_firmware_version() -> None:
    """The version is then absent, not empty."""
    opaque = {k: v for k, v in w.opaque_of().items() if k != spdm.VBIOS_VERSION}
    assert verify(w.report(opaque=opaque)).claims.raw["vbios_version"] is None


# ------------------------------------------------------------------ manifests
def test_a_measurement_that_no_manifest_knows_is_a_warning() -> None:
    """The device stays authentic; the mismatch is named, for policy to judge."""
    altered = w.values() | {5: hashlib.sha384(b"other").digest()}
    result = verify(w.report(altered), rims=[DRIVER_RIM, VBIOS_RIM])
    check = check_of(result, "tee_tcb")
    assert (check.outcome, check.reason) == (Outcome.WARNING, "rim_mismatch")
    assert result.claims.authentic
    assert [g.mismatched for g in result.claims.golden] == [("gpu_m5",), ()]


def test_a_measurement_that_is_absent_is_a_mismatch() -> None:
    """A device that leaves out a block does not match at it."""
    fewer = {i: v for i, v in w.values().items() if i != 10}
    assert verify(w.report(fewer), rims=[DRIVER_RIM]).claims.golden[0].mismatched == ("gpu_m10",)


def test_one_manifest_of_two_leaves_the_check_open() -> None:
    """A GPU's firmware without a manifest is not shown."""
    check = check_of(verify(rims=[DRIVER_RIM]), "tee_tcb")
    assert (check.outcome, check.reason) == (Outcome.NONE, "rim_missing")


@pytest.mark.parametrize(("status", "mismatched"), [(b"\x55", ()), (b"\xaa", ("gpu_m36",)), (b"", ("gpu_m36",))])
def test_the_video_decoders_measurement(status: bytes, mismatched: tuple[str, ...]) -> None:
    """Index 35 is left out while the decoder is off, and only then."""
    rim = w.signed(w.document(w.resource(35, [hashlib.sha384(b"x").digest()]) + w.resource(1, [w.values()[2]])))
    golden = verify(w.report(opaque=w.opaque_of(f11=status)), rims=[rim]).claims.golden[0]
    assert (golden.matched, golden.mismatched) == (1, mismatched)


def test_a_manifest_that_compares_nothing_is_no_match() -> None:
    """All that is active is left out on this device: zero equal measurements are not agreement."""
    rim = w.signed(w.document(w.resource(35, [bytes(48)])))
    check = check_of(verify(rims=[rim]), "tee_tcb")
    assert (check.outcome, check.reason) == (Outcome.WARNING, "rim_mismatch")


def test_pitfall_index_i_is_block_i() -> None:
    """RIM index i is block i+1: a manifest shifted by one does not match."""
    own = w.values()
    shifted = w.signed(w.document("".join(w.resource(i, [own[i]]) for i in (1, 2, 3))))
    assert len(verify(rims=[shifted]).claims.golden[0].mismatched) == 3


@pytest.mark.parametrize(
    ("reason", "rims"),
    [
        ("rim_malformed", [b""]),
        ("rim_malformed", [DRIVER_RIM] * 5),
        ("xml_unsigned", [w.manifest().encode()]),
        ("xml_digest_mismatch", [DRIVER_RIM.replace(b'tagId="tag-1"', b'tagId="tag-2"')]),
        ("xml_bad_signature", [w.signed(w.manifest(), key="somebody")]),
        ("chain_untrusted_root", [w.signed(w.manifest(), (w.rim_chain()[0], CHAIN[-1]))]),
        ("chain_broken", [w.signed(w.manifest(), (CHAIN[0], w.rim_chain()[1]), key="device 1")]),
        ("cert_expired_or_not_yet_valid", [w.signed(w.manifest(), w.rim_chain(w.NOW + 5, w.NOW + 50))]),
        ("rim_for_another_device", [w.signed(w.manifest("1.2.3"))]),
        ("rim_for_another_device", [w.signed(w.manifest(product="GB100"))]),
        ("rim_duplicate", [DRIVER_RIM, DRIVER_RIM]),
        ("rim_index_conflict", [DRIVER_RIM, w.signed(w.manifest(w.VBIOS, (2, 4)))]),
    ],
)
def test_manifests_that_are_no_reference(reason: str, rims: list[bytes]) -> None:
    """Unsigned, foreign, doubled or contradictory manifests fail the examination: they are never compared with."""
    result = verify(rims=rims)
    assert (result.claims.authentic, result.claims.reject_code) == (False, reason)
    assert result.claims.golden == ()


def test_a_signer_out_of_date_is_a_warning() -> None:
    """Manifests are not signed anew: held at the last moment when the chain was in date, and said."""
    rim = w.signed(w.manifest(), w.rim_chain(w.NOW - 300 * w.DAY, w.NOW - 10))
    result = verify(rims=[rim])
    check = check_of(result, "tee_collateral")
    assert (check.outcome, check.reason) == (Outcome.WARNING, "rim_signer_expired")
    assert result.claims.golden[0].mismatched == ()
    assert result.claims.collateral.expires == w.FOREVER


# ------------------------------------------------------------------ payloads and inputs
def several(*devices: tuple[bytes, bytes], **more: Any) -> TeeResult:
    given = {"roots": w.roots(), "now": w.NOW, "nonce": w.NONCE} | more
    return nvidia_payload.verify_payload(w.payload(*devices), **given)


def device(serial: str, nonce: bytes = w.NONCE) -> tuple[bytes, bytes]:
    return w.report(serial=serial, nonce=nonce), w.pem_of(w.device_chain(serial=serial))


def test_eight_devices() -> None:
    """Each is a child with its own machine id; the whole is authentic."""
    result = several(*(device(f"device {i}") for i in range(8)), rims=[DRIVER_RIM])
    assert [(c.id, c.outcome) for c in result.checks] == [(i, Outcome.AFFIRMING) for i in nvidia_payload.PLAN]
    assert len({child.machine_id for child in result.claims.children}) == 8
    assert (result.claims.machine_id, result.claims.product) == (None, "GH100")


def test_pitfall_one_device_under_a_test_root() -> None:
    """A machine's devices are a test's as soon as one of them is, whichever comes first."""
    real = [Anchor(a.vendor, a.name, a.sha256) for a in w.roots().anchors]
    pair = [device("device 1"), device("device 2")]
    assert several(*pair, roots=TrustRoots(tuple(real))).claims.root == Root(real[0].name, real[0].sha256)
    children = several(*pair).claims.children
    mixed = [msgspec.structs.replace(children[0], root=Root("real", "00")), children[1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nvidia_payload, "verify_spdm", lambda *_, **__: TeeResult((), mixed.pop(0)))
        found = several(*pair).claims
    assert found.authentic
    assert found.root == children[1].root
    assert found.root.test


def test_one_device_without_a_question() -> None:
    """The nonce is then what the report says, and the check none."""
    result = several(device("device 1"), nonce=None)
    assert result.claims.authentic
    assert check_of(result, "tee_nonce").reason == "nonce_not_given"
    assert (result.claims.nonce, result.claims.machine_id_kind) == (w.NONCE.hex(), "device_key")


@pytest.mark.parametrize(
    ("reason", "devices", "nonce"),
    [
        ("nonce_mismatch", [device("device 1"), device("device 2", bytes(32))], w.NONCE),
        ("gpu_nonces_differ", [device("device 1"), device("device 2", bytes(32))], None),
        ("gpu_duplicate_device", [device("device 1"), device("device 1")], w.NONCE),
        ("nv_bad_signature", [device("device 1"), (REPORT, device("device 2")[1])], w.NONCE),
        ("malformed", [(REPORT, b"-----BEGIN CERTIFICATE-----")], w.NONCE),
    ],
)
def test_devices_that_do_not_belong_together(reason: str, devices: list[Any], nonce: bytes | None) -> None:
    """One GPU shown twice is not two; one answer to another question spoils the whole; one false device too."""
    assert several(*devices, nonce=nonce).claims.reject_code == reason


@pytest.mark.parametrize(
    "payload",
    [b"", b"[]", b"{}", b'{"evidence_list":[]}', b'{"evidence_list":[1]}', b'{"evidence_list":[{"evidence":"AA=="}]}',
     b'{"evidence_list":[{"evidence":"AB==","certificate":""}]}', b'{"evidence_list":' + str([0] * 65).encode() + b"}"],
)  # fmt: skip
def test_payloads_of_another_form(payload: bytes) -> None:
    """Refused as malformed, with every check listed."""
    result = nvidia_payload.verify_payload(payload, roots=w.roots(), now=w.NOW)
    assert (result.claims.reject_code, len(result.checks)) == ("malformed", 3)


def test_from_inputs() -> None:
    """The roles of a manifest; a missing one is input_missing, a nonce that is not hex malformed."""
    blobs = {"report": REPORT, "chain": PEM, "rim_driver": DRIVER_RIM, "ocsp_0": w.ocsp_response(CHAIN)}
    result = nvidia_gpu.from_inputs(blobs, {"nonce": w.NONCE.hex()}, w.roots(), w.NOW)
    assert result.claims.authentic
    assert check_of(result, "tee_collateral").outcome is Outcome.AFFIRMING
    payload = {"payload": w.payload((REPORT, PEM)), "rim": DRIVER_RIM}
    assert nvidia_payload.from_inputs(payload, {}, w.roots(), w.NOW).claims.authentic
    for function, given in ((nvidia_gpu.from_inputs, {"report": b""}), (nvidia_payload.from_inputs, {})):
        with pytest.raises(FormatError) as refused:
            function(given, {}, w.roots(), w.NOW)
        assert refused.value.reason == "input_missing"
    for nonce in ("xyz", 7):
        with pytest.raises(FormatError):
            nvidia_gpu.from_inputs(blobs, {"nonce": nonce}, w.roots(), w.NOW)


def test_evidence_over_the_limit() -> None:
    """More than the limit of all evidence is not looked at."""
    assert code(bytes((1 << 20) + 1)) == "malformed"


def test_the_parser_raises_one_kind_of_error() -> None:
    """Whatever is wrong, it is NotAuthentic with a code."""
    with pytest.raises(NotAuthentic):
        spdm.parse_report(bytes(500))
