"""What NVIDIA's services answer is held to NVIDIA before it is kept, and asked for by genuine devices alone."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds import nvidia, tokens

from gateway.errors import FormatError
from gateway.model.verdict import Outcome
from gateway.verify.tee.endorsements import Checked, check_part, roles_of
from gateway.verify.tee.needs import NrasKeys, NvidiaPart, OcspNeed, RimNeed, need_of, ocsp_needs
from gateway.verify.tee.nvidia_gpu import verify_spdm
from gateway.verify.tee.nvidia_needs import MAX_QUESTIONS, device_needs, signer_needs
from gateway.verify.tee.nvidia_payload import verify_payload
from gateway.verify.tee.roots import TrustRoots
from gateway.verify.tee.vendor_answers import MAX_ANSWER_BYTES, manifest_of, ocsp_request

NOW, DAY = nvidia.NOW, nvidia.DAY
DRIVER = f"NV_GPU_DRIVER_GH100_{nvidia.DRIVER}"
VBIOS = "NV_GPU_VBIOS_G520_0200_885_9600A50001"
CHAIN = nvidia.device_chain()
RIM_CHAIN = nvidia.rim_chain()
REVOKED = ocsp.OCSPCertStatus.REVOKED


def check(part: NvidiaPart, data: bytes, now: float = NOW, roots: TrustRoots | None = None) -> Checked:
    return check_part(part, {part.role: data}, {}, roots=roots or nvidia.roots(), now=now)


def reason(call: Callable[[], object]) -> str | None:
    with pytest.raises(FormatError) as caught:
        call()
    return caught.value.reason


def vbios(indices: tuple[int, ...] = (20, 21)) -> bytes:
    return nvidia.signed(nvidia.manifest(nvidia.VBIOS, indices))


def rim_answer(**changes: Any) -> bytes:
    """An OCSP response about the signer of manifests."""
    return nvidia.ocsp_response(RIM_CHAIN, 0, issuer_key="rim root", **changes)


# --- Manifests


def test_a_manifest_ends_with_its_signer() -> None:
    """The one of a driver and the one of a firmware are kept under their names, until the signer runs out."""
    assert check(RimNeed(DRIVER), nvidia.signed(nvidia.manifest())) == Checked(nvidia.SIGNER_UNTIL, None, True)
    assert check(RimNeed(VBIOS), vbios()).expires == nvidia.SIGNER_UNTIL
    assert roles_of(RimNeed(DRIVER)) == (f"rim:{DRIVER}",)


def test_a_manifest_of_a_later_chip_is_kept_under_its_name() -> None:
    """After Hopper the names of drivers' manifests begin otherwise."""
    blackwell = nvidia.signed(nvidia.manifest(product="GB100"))
    assert check(RimNeed("NV_GPU_CC_DRIVER_GB100_590.12"), blackwell).expires == nvidia.SIGNER_UNTIL
    assert reason(lambda: check(RimNeed("NV_GPU_CC_DRIVER_GB202_590.12"), blackwell)) == "rim_of_another"


def test_a_manifest_whose_signer_has_run_out_is_held_for_a_month() -> None:
    """NVIDIA does not sign anew, so it is kept, and had again in thirty days."""
    later = nvidia.SIGNER_UNTIL + DAY
    assert check(RimNeed(DRIVER), nvidia.signed(nvidia.manifest()), later).expires == later + 30 * DAY


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        (DRIVER, nvidia.signed(nvidia.manifest()).replace(b"Hash0", b"Hash1", 1), "rim_malformed"),
        (DRIVER, nvidia.signed(nvidia.manifest()).replace(b'name="M1"', b'name="M2"', 1), "xml_digest_mismatch"),
        (DRIVER, nvidia.manifest().encode(), "xml_unsigned"),
        (DRIVER, nvidia.signed(nvidia.manifest(), key="another"), "xml_bad_signature"),
        (DRIVER, b"<html/>", "rim_malformed"),
        (DRIVER, b"", "rim_malformed"),
        ("NV_GPU_DRIVER_GH100_590.13", nvidia.signed(nvidia.manifest()), "rim_of_another"),
        ("NV_GPU_DRIVER_GB100_590.12", nvidia.signed(nvidia.manifest()), "rim_of_another"),
        ("NV_GPU_CC_DRIVER_GB100_590.12", nvidia.signed(nvidia.manifest()), "rim_of_another"),
        ("NV_GPU_VBIOS_G520_0200_885_9600A50002", vbios(), "rim_of_another"),
        (VBIOS, nvidia.signed(nvidia.manifest()), "rim_of_another"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_manifest_that_does_not_hold_is_not_kept(name: str, data: bytes, expected: str) -> None:
    """Altered, unsigned, of another signer, no manifest, or of another driver, chip or firmware."""
    assert reason(lambda: check(RimNeed(name), data)) == expected


def test_a_manifest_under_no_pinned_root_is_not_kept() -> None:
    """An empty set of roots believes nobody."""
    data = nvidia.signed(nvidia.manifest())
    assert reason(lambda: check(RimNeed(DRIVER), data, roots=TrustRoots())) == "chain_untrusted_root"


@pytest.mark.parametrize(
    "name", ["", "a", "NV_GPU_DRIVER_../x", "NV_GPU_DRIVER_a..b", "NV_GPU_DRIVER_" + "a" * 97, "x/y"]
)
def test_a_name_that_is_no_manifests_is_refused(name: str) -> None:
    """The name becomes part of a URL and of a file's name, and a device may state anything."""
    assert reason(lambda: RimNeed(name)) == "rim_bad_name"


# --- OCSP


def test_an_answer_ends_with_its_next_update() -> None:
    """When it was said is told too, so that a later word counts; so is that of a revoked certificate."""
    need = ocsp_needs(CHAIN)[0]
    good = nvidia.ocsp_response(CHAIN)
    assert check(need, good) == Checked(NOW + DAY, said=(NOW - DAY,))
    bad = nvidia.ocsp_response(CHAIN, status=REVOKED, since=NOW - 60)
    assert check(need, bad) == Checked(NOW + DAY, said=(NOW - 60,))
    assert roles_of(need) == (need.role,)


def test_each_certificate_but_the_root_is_asked_about() -> None:
    """Four of a device's five, each with the next as its issuer; names of parts differ."""
    needs = ocsp_needs(CHAIN)
    assert len({need.name for need in needs}) == 4
    assert [need.issuer for need in needs[:-1]] == [need.certificate for need in needs[1:]]


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (nvidia.ocsp_response(CHAIN, 1), "ocsp_foreign"),
        (nvidia.ocsp_response(CHAIN, until=NOW - 1), "ocsp_stale"),
        (nvidia.ocsp_response(CHAIN, status=ocsp.OCSPCertStatus.UNKNOWN), "ocsp_unknown"),
        (nvidia.ocsp_response(CHAIN, issuer_key="stranger"), "ocsp_bad_signature"),
        (b"<html>", "ocsp_malformed"),
        (ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER).public_bytes(nvidia.Encoding.DER), "ocsp_malformed"),
    ],
    ids=("foreign", "stale", "unknown", "bad signature", "malformed", "try later"),
)  # fmt: skip
def test_an_answer_that_does_not_hold_is_not_kept(response: bytes, expected: str) -> None:
    """About another certificate, out of date, without a word, of a stranger, or no answer at all."""
    assert reason(lambda: check(ocsp_needs(CHAIN)[0], response)) == expected


def test_a_request_names_the_certificate_and_its_issuer() -> None:
    """By serial number and SHA-384, without a nonce, so that an answer may be kept."""
    request = ocsp.load_der_ocsp_request(ocsp_request(ocsp_needs(CHAIN)[0]))
    assert (request.serial_number, request.hash_algorithm.name) == (CHAIN[0].serial_number, "sha384")
    assert list(request.extensions) == []
    with pytest.raises(FormatError):
        ocsp_request(OcspNeed(b"no", b"certificate"))


# --- Key sets


def test_a_key_set_is_held_for_a_day_at_most() -> None:
    """With certificates until the last of them ends, if that is sooner."""
    assert need_of("nvidia_nras", {}) == NrasKeys()
    assert roles_of(NrasKeys()) == ("jwks",)
    with_chain = tokens.nras_key_set()
    assert check(NrasKeys(), with_chain) == Checked(NOW + DAY)
    assert check(NrasKeys(), with_chain, NOW + 1.5 * DAY).expires == NOW + 2 * DAY
    bare = tokens.key_set(tokens.jwk_of(nvidia.key_of("k"), "a"))
    assert check(NrasKeys(), bare).expires == NOW + DAY


def test_with_a_pinned_root_one_key_has_to_be_believed() -> None:
    """Of several keys one is enough, since services keep old ones on; none is too few."""
    good = tokens.jwk_of(nvidia.key_of("nras signer"), tokens.KID, tokens.nras_chain()[:2])
    bare = tokens.jwk_of(nvidia.key_of("k"), "bare")
    roots = tokens.nras_roots()
    assert check(NrasKeys(), tokens.key_set(bare, good), roots=roots).expires == NOW + DAY
    assert reason(lambda: check(NrasKeys(), tokens.key_set(bare), roots=roots)) == "jwks_untrusted"


def bad_key_sets() -> dict[str, tuple[str, bytes]]:
    """name -> reason, key set."""
    key, chain = nvidia.key_of("nras signer"), tokens.nras_chain()[:2]
    good = tokens.jwk_of(key, "a")
    malformed = "jwks_malformed"
    return {
        "html": (malformed, b"<html>"),
        "list": (malformed, b"[]"),
        "no keys": (malformed, b'{"keys":[]}'),
        "too many": (malformed, tokens.key_set(*[{**good, "kid": str(n)} for n in range(1025)])),
        "no object": (malformed, b'{"keys":[1]}'),
        "no id": (malformed, tokens.key_set({k: v for k, v in good.items() if k != "kid"})),
        "empty id": (malformed, tokens.key_set({**good, "kid": ""})),
        "same ids": (malformed, tokens.key_set(good, good)),
        "no point": ("jwk_bad_key", tokens.key_set({**good, "x": "AAAA"})),
        "for encryption": ("jwk_bad_key", tokens.key_set({**good, "use": "enc"})),
        "chain of nothing": ("jwk_bad_x5c", tokens.key_set({**good, "x5c": []})),
        "of another": ("jwk_x5c_mismatch", tokens.key_set(tokens.jwk_of(nvidia.key_of("k"), "a", chain))),
        "ended": ("jwks_nothing_in_date", tokens.nras_key_set(tokens.nras_chain(until=NOW - 1)[:2])),
    }


@pytest.mark.parametrize("name", list(bad_key_sets()))
def test_a_key_set_that_is_none_is_not_kept(name: str) -> None:
    """A proxy's page, an empty or ambiguous set, a key that is none, a certificate of another key."""
    expected, data = bad_key_sets()[name]
    assert reason(lambda: check(NrasKeys(), data)) == expected


def test_a_part_that_is_not_there_is_missing() -> None:
    """Each part has one role."""
    for part in (RimNeed(DRIVER), ocsp_needs(CHAIN)[0], NrasKeys()):
        assert reason(lambda part=part: check_part(part, {}, {}, roots=nvidia.roots(), now=NOW)) == "input_missing"


# --- The RIM service's answer


def test_the_manifest_is_taken_out_of_its_answer() -> None:
    """Other members are not read."""
    body = json.dumps({"rim": base64.b64encode(b"<a/>").decode(), "id": 1, "sha256": "0"}).encode()
    assert manifest_of(body) == b"<a/>"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"[]", b"{}", b'{"rim":1}', b'{"rim":""}', b'{"rim":"*"}', b'{"rim":"YQ==","rim":"YQ=="}',
     b"[" * 100_000, b" " * (MAX_ANSWER_BYTES + 1)],
    ids=lambda body: str(body[:24]),
)  # fmt: skip
def test_an_answer_without_a_manifest_is_malformed(body: bytes) -> None:
    """A proxy's error page, another document, a member twice: refused before anything is verified."""
    assert reason(lambda: manifest_of(body)) == "collateral_malformed"


# --- What is asked for


def payload(*serials: str, **report: Any) -> bytes:
    devices = [
        (nvidia.report(serial=s, **report), nvidia.pem_of(nvidia.device_chain(serial=s)))
        for s in serials or ("device 1",)
    ]
    return nvidia.payload(*devices)


def test_genuine_devices_are_asked_about() -> None:
    """The manifests that the device names, then a word on each certificate that NVIDIA issued; not on the leaf."""
    needs = device_needs(payload(), nvidia.roots(), NOW)
    assert needs == (RimNeed(DRIVER), RimNeed(VBIOS), *ocsp_needs(CHAIN[1:]))
    assert len(device_needs(payload("device 1", "device 2"), nvidia.roots(), NOW)) == 2 + 3


def test_a_payload_that_does_not_hold_asks_nothing() -> None:
    """Nobody makes us ask NVIDIA with bytes that anybody can write."""
    assert device_needs(payload(), TrustRoots(), NOW) == ()
    assert device_needs(b"{}", nvidia.roots(), NOW) == ()


def test_a_name_that_is_none_is_not_asked_for() -> None:
    """A genuine device that states an odd driver is asked about without it."""
    odd = payload(opaque=nvidia.opaque_of(driver="a/../b"))
    assert [need for need in device_needs(odd, nvidia.roots(), NOW) if isinstance(need, RimNeed)] == [RimNeed(VBIOS)]


def test_no_more_is_asked_than_the_limit() -> None:
    """Sixty-four devices of as many drivers have more questions than that."""
    devices = []
    for n in range(64):
        told = nvidia.report(serial=f"device {n}", opaque=nvidia.opaque_of(driver=f"590.{n}"))
        devices.append((told, nvidia.pem_of(nvidia.device_chain(serial=f"device {n}"))))
    assert len(device_needs(nvidia.payload(*devices), nvidia.roots(), NOW)) == MAX_QUESTIONS


def test_signers_of_manifests_are_asked_about_while_they_are_in_date() -> None:
    """Once for several manifests; not for one that does not hold, nor when the signer has run out."""
    both = [nvidia.signed(nvidia.manifest()), vbios(), b"<a/>"]
    assert signer_needs(both, nvidia.roots(), NOW) == ocsp_needs(RIM_CHAIN)
    assert signer_needs(both, nvidia.roots(), nvidia.SIGNER_UNTIL + 1) == ()


# --- What is made of it


def answers(*needs_and_data: tuple[OcspNeed, bytes]) -> dict[str, bytes]:
    return {need.digest: data for need, data in needs_and_data}


def all_good() -> dict[str, bytes]:
    return answers(*[(need, nvidia.ocsp_response(CHAIN, place)) for place, need in enumerate(ocsp_needs(CHAIN))])


def test_a_payload_with_all_answers_is_covered() -> None:
    """Every device's chain has its own answers; what is about others is passed over."""
    held = all_good() | {"ab" * 32: b"of another"}
    claims = verify_payload(payload(), roots=nvidia.roots(), now=NOW, answers=held).claims
    assert (claims.authentic, claims.revocation.ocsp) == (True, "ok")
    assert len(claims.revocation.checked) == 4
    held.pop(ocsp_needs(CHAIN)[0].digest)  # nobody answers for the leaf
    without = verify_payload(payload(), roots=nvidia.roots(), now=NOW, answers=held).claims
    assert (without.revocation.ocsp, len(without.revocation.checked)) == ("ok", 3)
    held.pop(ocsp_needs(CHAIN)[1].digest)
    open_ = verify_payload(payload(), roots=nvidia.roots(), now=NOW, answers=held).claims
    assert (open_.authentic, open_.revocation.ocsp) == (True, "absent")


def test_a_revoked_device_is_refused() -> None:
    """A kept answer that a certificate is revoked takes the payload with it."""
    held = all_good() | answers((ocsp_needs(CHAIN)[0], nvidia.ocsp_response(CHAIN, status=REVOKED)))
    claims = verify_payload(payload(), roots=nvidia.roots(), now=NOW, answers=held).claims
    assert (claims.authentic, claims.reject_code) == (False, "ocsp_revoked")


def test_a_revoked_signer_of_a_manifest_is_refused() -> None:
    """Its manifest is no reference; a good word bounds how long the result holds."""
    (need,) = ocsp_needs(RIM_CHAIN)

    def result(**changes: Any) -> Any:
        held = answers((need, rim_answer(**changes)))
        return verify_spdm(
            nvidia.report(), nvidia.pem_of(CHAIN), roots=nvidia.roots(), now=NOW,
            rims=[nvidia.signed(nvidia.manifest())], answers=held,
        )  # fmt: skip

    good = result()
    assert good.claims.collateral.expires == NOW + DAY
    assert good.claims.revocation.ocsp == "absent"
    revoked = result(status=REVOKED)
    assert {c.id: c.reason for c in revoked.checks if c.outcome is Outcome.CONTRAINDICATED} == {
        "tee_collateral": "ocsp_revoked"
    }


# --- Fuzz


def seeds() -> list[tuple[NvidiaPart, bytes]]:
    return [
        (RimNeed(DRIVER), nvidia.signed(nvidia.manifest())),
        (ocsp_needs(CHAIN)[0], nvidia.ocsp_response(CHAIN)),
        (NrasKeys(), tokens.nras_key_set()),
    ]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(seeds()), st.data())
def test_changed_answers_are_kept_only_with_what_is_signed_in_them(seed: tuple[NvidiaPart, bytes], data: Any) -> None:
    """Bit flips, cuts and splices of good answers raise our error or leave what was signed as it was."""
    part, good = seed
    changed = bytearray(good)
    for _ in range(data.draw(st.integers(0, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed))) :]
    try:
        checked = check(part, bytes(changed))
    except FormatError:
        return
    assert checked == check(part, good)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200) | st.builds(lambda t: json.dumps({"rim": t}).encode(), st.text(max_size=40)))
def test_any_answer_of_the_service_is_a_manifest_or_our_error(body: bytes) -> None:
    """`manifest_of` raises nothing else."""
    with contextlib.suppress(FormatError):
        assert manifest_of(body) in body or base64.b64encode(manifest_of(body)) in body


def test_parts_are_values() -> None:
    """They are keys of what is in hand, and so compare by what they are of."""
    assert msgspec.structs.replace(RimNeed(DRIVER)) == RimNeed(DRIVER)
    assert len({NrasKeys(), NrasKeys(), RimNeed(DRIVER), RimNeed(DRIVER)}) == 2
