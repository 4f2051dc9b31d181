"""What vendors answer is kept only when it is signed, in date, and what was asked for."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds import amd, intel
from tee_worlds.endorsements import answers_of, pem, run, seeds, worlds

from gateway.errors import FormatError
from gateway.verify.tee import pcs
from gateway.verify.tee.endorsements import Checked, check_part, roles_of
from gateway.verify.tee.needs import AmdChain, AmdKey, AmdNeed, IntelNeed, need_of
from gateway.verify.tee.roots import VENDOR_ROOTS, TrustRoots
from gateway.verify.tee.vendor_answers import MAX_ANSWER_BYTES, amd_chain_of, envelope_of

DAY, NOW = intel.DAY, intel.NOW
TDX = IntelNeed("tdx", "10a06f000000", "platform")


def check_intel(
    collateral: bytes, need: IntelNeed = TDX, world: intel.World | None = None, now: float = NOW
) -> Checked:
    roots = (world or intel.World()).roots
    return check_part(need, {"collateral": collateral}, {}, roots=roots, now=now)


def reason(check: Callable[[], object]) -> str | None:
    with pytest.raises(FormatError) as caught:
        check()
    return caught.value.reason


# --- Intel


def test_good_collateral_says_when_it_ends_and_its_evaluation() -> None:
    """The end is the earliest of all members; the number is the lower of the two documents; the root is a test's."""
    world = intel.World()
    said = (NOW - DAY,) * 4
    assert check_intel(world.collateral()) == Checked(NOW + 29 * DAY, 20, True, said)
    early = world.qe_identity(nextUpdate=intel.iso(NOW + 3 * DAY), tcbEvaluationDataNumber=18)
    assert check_intel(world.collateral(qe_identity=early)) == Checked(NOW + 3 * DAY, 18, True, said)
    assert check_intel(world.collateral(crl_ends=NOW + DAY)).expires == NOW + DAY
    assert check_intel(world.collateral(crl_begins=NOW - 9)).said == (NOW - DAY, NOW - DAY, NOW - 9, NOW - 9)
    sgx = IntelNeed("sgx", "10a06f000000", "platform")
    assert check_intel(world.collateral(sgx=True), sgx).evaluation == 20
    processor = intel.World(processor=True)
    assert (
        check_intel(processor.collateral(), IntelNeed("tdx", "10a06f000000", "processor"), processor).evaluation == 20
    )


def bad_intel() -> dict[str, tuple[str, bytes]]:
    """name -> reason, collateral."""
    world, other = intel.World(), intel.World(seed="another")
    fields = json.loads(world.collateral())
    foreign = json.loads(other.collateral())

    def mixed(**members: str) -> bytes:
        return json.dumps({**fields, **members}).encode()

    def dated(kind: str, **dates: float) -> bytes:
        document = getattr(world, kind)(**{name: intel.iso(at) for name, at in dates.items()})
        return world.collateral(**{kind: document})

    lone = intel.pem(world.signer)
    crossed = intel.pem(world.ca, world.root)
    stray = intel.certificate(
        "Intel Something CA", world.ca_key, world.root, world.root_key, begins=0, ends=2e9, ca=True
    )
    return {
        "not json": ("collateral_malformed", b"<html>"),
        "unsigned tcb info": ("tcb_bad_signature", mixed(tcb_info=fields["tcb_info"].replace("20", "21"))),
        "unsigned identity": ("qe_bad_signature", mixed(qe_identity=fields["qe_identity"] + " ")),
        "foreign root": ("chain_untrusted_root", other.collateral()),
        "two roots": ("chain_untrusted_root", mixed(pck_crl_issuer_chain=foreign["pck_crl_issuer_chain"])),
        "short chain": ("chain_broken", mixed(tcb_info_issuer_chain=lone)),
        "no list chain": ("chain_broken", mixed(pck_crl_issuer_chain="")),
        "broken list chain": ("collateral_malformed", mixed(pck_crl_issuer_chain="-----BEGIN CERTIFICATE-----")),
        "ca signs documents": ("cert_wrong_role", mixed(tcb_info_issuer_chain=crossed)),
        "tcb expired": ("tcb_expired", dated("tcb_info", nextUpdate=NOW - 1)),
        "tcb of the future": ("tcb_not_yet_valid", dated("tcb_info", issueDate=NOW + 1)),
        "identity expired": ("qe_expired", dated("qe_identity", nextUpdate=NOW - 1)),
        "identity of the future": ("qe_not_yet_valid", dated("qe_identity", issueDate=NOW + 1)),
        "other platform": ("collateral_of_another", world.collateral(tcb_info=world.tcb_info(fmspc="20A06F000000"))),
        "other tee": ("collateral_of_another", world.collateral(sgx=True)),
        "identity of another": ("collateral_of_another", world.collateral(qe_identity=world.qe_identity(sgx=True))),
        "list expired": ("crl_expired", world.collateral(crl_ends=NOW - 1)),
        "list of the future": ("crl_not_yet_valid", world.collateral(crl_begins=NOW + 1)),
        "lists swapped": ("root_no_crl", mixed(root_ca_crl=fields["pck_crl"])),
        "root list twice": ("pck_no_crl", mixed(pck_crl=fields["root_ca_crl"])),
        "unsigned list": ("crl_bad_signature", mixed(pck_crl=foreign["pck_crl"])),
        "list of no pck ca": ("pck_malformed", mixed(pck_crl_issuer_chain=intel.pem(stray, world.root))),
        "list of the other ca": (
            "pck_no_crl",
            mixed(pck_crl_issuer_chain=json.loads(intel.World(processor=True).collateral())["pck_crl_issuer_chain"]),
        ),
        "signer revoked": ("tcb_signer_revoked", world.collateral(revoked=[world.signer])),
        "ca revoked": ("pck_revoked", world.collateral(revoked=[world.ca])),
        "root revoked": ("root_revoked", world.collateral(revoked=[world.root])),
    }


@pytest.mark.parametrize("name", list(bad_intel()))
def test_bad_collateral_is_not_kept(name: str) -> None:
    """Each lie and each mistake has its reason."""
    expected, collateral = bad_intel()[name]
    assert reason(lambda: check_intel(collateral)) == expected


def test_test_collateral_is_nothing_under_the_vendors_roots() -> None:
    """What a test root signed is not believed where that root is not named."""
    collateral = intel.World().collateral()
    assert reason(lambda: check_part(TDX, {"collateral": collateral}, {}, roots=VENDOR_ROOTS, now=NOW)) == (
        "chain_untrusted_root"
    )


def test_an_odd_name_in_a_list_is_no_warning() -> None:
    """The library warns of a country of 25 letters; whoever reads lists from outside is not warned for them."""
    world = intel.World()
    with pytest.warns(UserWarning, match="length"):
        odd = x509.Name([x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "x" * 25, _validate=False)])
    moment = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    builder = x509.CertificateRevocationListBuilder(odd, moment, moment + datetime.timedelta(days=1))
    der = builder.sign(world.root_key, hashes.SHA256()).public_bytes(Encoding.DER)
    assert pcs.load_crl(der).next_update == NOW + DAY


# --- AMD


def amd_parts(world: amd.World) -> tuple[AmdChain, AmdKey, dict[str, bytes]]:
    need = need_of("snp", {"report": world.report()})
    assert isinstance(need, AmdNeed)
    key = need.key(world.product)
    assert key is not None
    return key.chain, key, {"ask": world.ask, "root:ark": world.ark, "crl": world.crl()}


@pytest.mark.parametrize(("product", "vlek"), [("Milan", False), ("Genoa", False), ("Turin", False), ("Genoa", True)])
def test_a_good_chain_and_key_are_kept(product: str, vlek: bool) -> None:
    """The chain ends with its list, the key with its certificate."""
    world = amd.World(product, vlek=vlek)
    chain, key, blobs = amd_parts(world)
    assert check_part(chain, blobs, {}, roots=world.roots, now=amd.NOW) == Checked(amd.NOW + 29 * DAY, None, True)
    ek = check_part(key, {"ek": world.ek}, blobs, roots=world.roots, now=amd.NOW)
    assert ek == Checked(amd.NOW + 2000 * DAY)


def bad_chains() -> dict[str, tuple[str, dict[str, bytes]]]:
    world, milan, vlek = amd.World(), amd.World("Milan"), amd.World(vlek=True)
    other = amd.rsa_key("another ask")
    impostor = amd.certificate(world.ask_name, amd.spki(other), world.ark_name, other, extensions=[amd.CA])
    plain = world.issuer(world.ask_name, world.ask_key, extensions=[], serial=1)
    old = world.issuer(world.ask_name, world.ask_key, serial=1, not_after=amd.NOW - 1)
    return {
        "foreign root": ("snp_untrusted_root", {"root:ark": milan.ark}),
        "not a root": ("snp_untrusted_root", {"root:ark": b"-"}),
        "other role": ("snp_ask_role_mismatch", {"ask": vlek.ask}),
        "other product": ("snp_ask_role_mismatch", {"ask": milan.ask}),
        "impostor": ("snp_ask_not_issued_by_ark", {"ask": impostor}),
        "no ca": ("snp_ask_not_issued_by_ark", {"ask": plain}),
        "expired": ("cert_expired_or_not_yet_valid", {"ask": old}),
        "foreign list": ("snp_crl_bad_signature", {"crl": world.crl(key=other)}),
        "stale list": ("snp_crl_stale", {"crl": world.crl(next_update=amd.NOW - 1)}),
        "endless list": ("snp_crl_stale", {"crl": world.crl(next_update=None)}),
        "ask revoked": ("snp_ask_revoked", {"crl": world.crl([65537])}),
        "ark revoked": ("snp_ark_revoked", {"crl": world.crl([65536])}),
    }


@pytest.mark.parametrize("name", list(bad_chains()))
def test_a_bad_chain_is_not_kept(name: str) -> None:
    """Each lie and each mistake has its reason."""
    expected, changes = bad_chains()[name]
    world = amd.World()
    chain, _, blobs = amd_parts(world)
    assert reason(lambda: check_part(chain, blobs | changes, {}, roots=world.roots, now=amd.NOW)) == expected


def test_a_bad_key_is_not_kept() -> None:
    """Of another chip, TCB, role, product or issuer, or out of date."""
    world = amd.World()
    _, key, chain = amd_parts(world)
    stranger = world.endorsement(key=amd.rsa_key("another ask"))

    def of(ek: bytes, beside: dict[str, bytes] = chain) -> str | None:
        return reason(lambda: check_part(key, {"ek": ek}, beside, roots=world.roots, now=amd.NOW))

    assert of(amd.World(label="other").ek) == "snp_chip_id_mismatch"
    assert of(world.endorsement(amd={"4": None})) == "snp_chip_id_mismatch"
    assert of(world.endorsement(amd={"3.3": amd.integer(23)})) == "snp_tcb_cert_mismatch"
    assert of(world.endorsement(amd={"3.3": None})) == "snp_tcb_cert_mismatch"
    assert of(world.endorsement(common_name="SEV-VLEK")) == "snp_product_root_mismatch"
    assert of(world.endorsement(amd={"2": amd.tlv(0x16, b"Milan-B0")})) == "snp_product_root_mismatch"
    assert of(world.endorsement(not_after=amd.NOW - 1)) == "cert_expired_or_not_yet_valid"
    assert of(stranger) == "snp_ek_not_issued_by_ask"
    assert of(world.ek, {}) == "input_missing"


def test_every_role_of_a_part_is_needed() -> None:
    """A part with a role missing is not a part."""
    world = amd.World()
    chain, key, blobs = amd_parts(world)
    for part, whole in ((chain, blobs), (key, {"ek": world.ek}), (TDX, {"collateral": intel.World().collateral()})):
        assert set(roles_of(part)) == set(whole)
        for role in whole:
            less = {name: data for name, data in whole.items() if name != role}
            assert reason(lambda p=part, b=less: check_part(p, b, blobs, roots=world.roots, now=NOW)) == "input_missing"


# --- The services' answers


def test_the_signed_text_is_cut_out_as_it_stands() -> None:
    """White space, order and escapes within the document survive, or its signature would not hold."""
    world = intel.World()
    odd = json.dumps(world.tcb_info(), indent=1).replace("TDX_01", "\\u0054DX_01")
    made = world.collateral(tcb_info=odd)
    envelope = envelope_of(answers_of(made))
    assert json.loads(envelope) == json.loads(made)
    assert json.loads(envelope)["tcb_info"] == odd
    assert check_intel(envelope).evaluation == 20


def test_lists_may_come_as_hex() -> None:
    """A caching mirror gives revocation lists as hex."""
    answers = answers_of(intel.World().collateral())
    quoted = b'"' + answers.root_crl.hex().encode() + b'"\n'
    hexed = msgspec.structs.replace(answers, root_crl=quoted, pck_crl=answers.pck_crl.hex().encode())
    assert envelope_of(hexed) == envelope_of(answers)


@pytest.mark.parametrize(
    "change",
    [
        {"tcb": b"<html>not json</html>"},
        {"tcb": b""},
        {"tcb": b'{"enclaveIdentity":{},"signature":""}'},
        {"tcb": b'{"tcbInfo":{},"signature":"","more":1}'},
        {"tcb": b'{"tcbInfo":{},"signature":1}'},
        {"tcb": b'{"tcbInfo":"\xff","signature":""}'},
        {"tcb": b" " * (MAX_ANSWER_BYTES + 1)},
        {"tcb": b"[" * 100_000},
        {"qe": b'{"tcbInfo":{},"signature":""}'},
        {"tcb_chain": ""},
        {"qe_chain": "x" * 200_000},
        {"pck_crl_chain": ""},
        {"pck_crl": b"-----BEGIN X509 CRL-----"},
        {"root_crl": b"\xff"},
    ],
    ids=lambda change: "-".join(f"{k} {str(v)[:24]}" for k, v in change.items()),
)
def test_an_answer_of_another_form_is_malformed(change: dict[str, Any]) -> None:
    """A proxy's error page, a swapped document, a missing header: refused before anything is verified."""
    answers = msgspec.structs.replace(answers_of(intel.World().collateral()), **change)
    assert reason(lambda: envelope_of(answers)) == "collateral_malformed"


def test_a_chain_of_amds_has_two_certificates() -> None:
    """ASK, then ARK."""
    world = amd.World()
    assert amd_chain_of(pem(world.ask, world.ark)) == (world.ask, world.ark)
    assert reason(lambda: amd_chain_of(pem(world.ark))) == "collateral_malformed"
    with pytest.raises(FormatError):
        amd_chain_of(b"-----BEGIN CERTIFICATE-----")


# --- Fuzz


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64) | st.sampled_from(seeds()), st.data())
def test_changed_answers_give_nothing_but_our_error(seed: bytes, data: st.DataObject) -> None:
    """Bit flips, cuts and splices of good answers, and noise, never raise anything else."""
    changed = bytearray(seed)
    if len(changed) > 1:
        for _ in range(data.draw(st.integers(0, 4))):
            changed[data.draw(st.integers(1, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
        if data.draw(st.booleans()):
            at = data.draw(st.integers(1, len(changed)))
            changed[at:at] = data.draw(st.binary(max_size=16))
        if data.draw(st.booleans()):
            del changed[data.draw(st.integers(1, len(changed))) :]
    run(bytes(changed))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["tcb", "qe"]), st.data())
def test_a_changed_signed_byte_is_never_kept(member: str, data: st.DataObject) -> None:
    """Whatever byte of a signed document changes, the envelope is refused."""
    w = worlds()
    answer = getattr(w.answers, member)
    at = data.draw(st.integers(answer.index(b":") + 1, answer.rindex(b',"signature"') - 1))
    changed = answer[:at] + bytes([answer[at] ^ data.draw(st.integers(1, 127))]) + answer[at + 1 :]

    def keep() -> None:
        envelope = envelope_of(msgspec.structs.replace(w.answers, **{member: changed}))
        check_part(w.intel_need, {"collateral": envelope}, {}, roots=w.intel.roots, now=intel.NOW)

    with pytest.raises(FormatError):
        keep()


def test_no_root_no_collateral() -> None:
    """An empty set of roots believes nobody."""
    world = amd.World()
    chain, _, blobs = amd_parts(world)
    assert reason(lambda: check_part(chain, blobs, {}, roots=TrustRoots(), now=amd.NOW)) == "snp_untrusted_root"
