"""Which key or nonce evidence is tied to: bound to the last byte, or not at all."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds.keys import claims

from gateway.errors import FormatError
from gateway.model.tee import Binding, BindingStatus, Platform, TeeClaims
from gateway.verify.tee import bindings, commitments
from gateway.verify.tee.bindings import BindingInputs, BindingRule, bind
from gateway.verify.tee.commitments import bind_v1

BOUND, UNBOUND, MISMATCH = BindingStatus.BOUND, BindingStatus.UNBOUND, BindingStatus.MISMATCH
R = BindingRule
P = Platform


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


SPKI, CERT, NONCE, GPU = sha(b"spki"), sha(b"certificate"), sha(b"nonce"), sha(b"gpu")
ADDRESS, EDWARDS, HPKE, SIGNING_SPKI = sha(b"address")[:20], sha(b"ed25519"), sha(b"hpke"), sha(b"signing")
DIGEST = "sha256:" + sha(b"keyset").hex()
STATEMENT = f'{{"keyset_digest":"{DIGEST}","nonce":"{NONCE.hex()}","purpose":"aci.report_data.v1"}}'.encode()
NULL_STATEMENT = f'{{"keyset_digest":"{DIGEST}","nonce":null,"purpose":"aci.report_data.v1"}}'.encode()
E2E_KEY = hashlib.shake_256(b"ml-kem-768").digest(1184)
E2E = base64.b64encode(E2E_KEY).decode()
OURS = hashlib.sha512(b"veriroute-bind-v1" + b"near" + NONCE + SPKI).digest()
MULTI = b"\x12\x20" + CERT + b"\x12\x20" + SIGNING_SPKI
CHUTES = sha(NONCE.hex().encode() + E2E.encode())
CPU_OF_GPU = claims(report_data=(CHUTES + GPU).hex())
ALL = BindingInputs(
    spki_sha256=SPKI,
    certificate_sha256=CERT,
    signing_key=ADDRESS,
    signing_spki_sha256=SIGNING_SPKI,
    public_key=HPKE,
    nonce=NONCE,
    nonce_text=NONCE.hex(),
    e2e_key_text=E2E,
    keyset_digest=DIGEST,
    audience="https://gateway.example",
    adapter="near",
    gpu_nonce=GPU,
    cpu=CPU_OF_GPU,
)

#: rule -> (platform, what genuine evidence says, the inputs that the rule needs)
TABLE: dict[BindingRule, tuple[Platform, dict[str, Any], tuple[str, ...]]] = {
    R.BIND_V1: (P.AMD_SEV_SNP, {"report_data": OURS}, ("adapter", "nonce", "spki_sha256")),
    R.DSTACK: (P.INTEL_TDX, {"report_data": ADDRESS + bytes(12) + NONCE}, ("signing_key", "nonce")),
    R.DSTACK_TLS: (P.INTEL_TDX, {"report_data": sha(ADDRESS + SPKI) + NONCE}, ("signing_key", "spki_sha256", "nonce")),
    R.DSTACK_NONCE_SHA256: (P.INTEL_TDX, {"report_data": ADDRESS + bytes(12) + sha(NONCE)}, ("signing_key", "nonce")),
    R.ACI: (P.INTEL_TDX, {"report_data": sha(STATEMENT) + bytes(32)}, ("keyset_digest", "nonce")),
    R.ACI_NO_NONCE: (P.INTEL_TDX, {"report_data": sha(NULL_STATEMENT) + bytes(32)}, ("keyset_digest",)),
    R.ZERO_G_ASCII: (P.INTEL_TDX, {"report_data": b"0x" + ADDRESS.hex().encode() + bytes(22)}, ("signing_key",)),
    R.ZERO_G_TAPP: (P.INTEL_TDX, {"report_data": ADDRESS + bytes(44)}, ("signing_key",)),
    R.TINFOIL: (P.AMD_SEV_SNP, {"report_data": SPKI + HPKE}, ("spki_sha256", "public_key")),
    R.SECRETVM: (P.AMD_SEV_SNP, {"report_data": SPKI + bytes(32)}, ("spki_sha256",)),
    R.SECRETVM_GPU: (P.INTEL_TDX, {"report_data": SPKI + GPU}, ("spki_sha256", "gpu_nonce")),
    R.SECRETVM_CERT: (P.AMD_SEV_SNP, {"report_data": CERT + bytes(32)}, ("certificate_sha256",)),
    R.SECRETVM_CERT_GPU: (P.INTEL_TDX, {"report_data": CERT + GPU}, ("certificate_sha256", "gpu_nonce")),
    R.CHUTES: (P.INTEL_TDX, {"report_data": CHUTES + SPKI}, ("nonce_text", "e2e_key_text", "spki_sha256")),
    R.NILCC: (P.AMD_SEV_SNP, {"report_data": b"\0" + SPKI + bytes(31)}, ("spki_sha256",)),
    R.NITRO_PUBLIC_KEY: (P.AWS_NITRO, {"public_key": HPKE}, ("public_key",)),
    R.NITRO_NONCE: (P.AWS_NITRO, {"nonce": NONCE}, ("nonce",)),
    R.NITRO_PUBLIC_KEY_NONCE: (P.AWS_NITRO, {"public_key": HPKE, "nonce": NONCE}, ("public_key", "nonce")),
    R.OPENGRADIENT: (P.AWS_NITRO, {"user_data": MULTI}, ("certificate_sha256", "signing_spki_sha256")),
    R.GCS: (P.GCP_CONFIDENTIAL_SPACE, {"eat_nonce": NONCE.hex(), "aud": "https://gateway.example"}, ("nonce", "audience")),
    R.VTPM: (P.AZURE_VTPM, {"extra_data": NONCE}, ("nonce",)),
    R.GPU_NONCE: (P.NVIDIA_GPU, {"nonce": NONCE}, ("nonce",)),
    R.GPU_SECRETVM: (P.NVIDIA_GPU, {"nonce": GPU}, ("cpu",)),
    R.GPU_CHUTES: (P.NVIDIA_SWITCH, {"nonce": CHUTES}, ("cpu",)),
    R.GPU_SHA256: (P.NVIDIA_GPU, {"nonce": b"gpu"}, ("cpu",)),
}  # fmt: skip
ROWS = [pytest.param(rule, id=rule) for rule in TABLE]


def evidence(rule: BindingRule, **changes: Any) -> TeeClaims:
    """Genuine claims that the rule binds, some slots changed; None takes a slot away."""
    platform, slots, _ = TABLE[rule]
    slots = slots | {k: v for k, v in changes.items() if k not in ("authentic", "platform")}
    said = {k: v.hex() if isinstance(v, bytes) else v for k, v in slots.items()}
    members = {k: said.pop(k) for k in ("report_data", "nonce") if k in said}
    return claims(changes.get("platform", platform), authentic=changes.get("authentic", True), raw=said, **members)


def only(rule: BindingRule, **changes: Any) -> BindingInputs:
    """The inputs that the rule needs and no other, some changed."""
    return BindingInputs(**({name: getattr(ALL, name) for name in TABLE[rule][2]} | changes))


def slots_of(rule: BindingRule) -> list[str]:
    return list(TABLE[rule][1])


def test_the_registry_is_closed() -> None:
    """Every rule has its function and its row here."""
    assert set(bindings._RULES) == set(TABLE) == set(BindingRule)


@pytest.mark.parametrize("rule", ROWS)
def test_bound(rule: BindingRule) -> None:
    """Evidence that commits to exactly what follows from the inputs is bound, by the rule's name."""
    found = bind(rule, evidence(rule), only(rule))
    assert (found.status, found.kind, found.detail) == (BOUND, rule, None)
    assert found.key_spki_sha256 in (None, SPKI.hex())
    assert (found.key_spki_sha256 is not None) == ("spki_sha256" in TABLE[rule][2])
    assert bind(rule, evidence(rule), ALL) == found


@pytest.mark.parametrize("rule", ROWS)
def test_nothing_given_is_unbound(rule: BindingRule) -> None:
    """Without the inputs, or any one of them, nothing is bound: never by default."""
    assert bind(rule, evidence(rule), BindingInputs()).status is UNBOUND
    for name in TABLE[rule][2]:
        found = bind(rule, evidence(rule), only(rule, **{name: None}))
        assert (found.status, found.key_spki_sha256) == (UNBOUND, None), name
        assert found.detail


@pytest.mark.parametrize("rule", ROWS)
def test_not_authentic_is_unbound(rule: BindingRule) -> None:
    """What evidence that does not hold says is nobody's word, however well it fits."""
    assert bind(rule, evidence(rule, authentic=False), only(rule)).status is UNBOUND


@pytest.mark.parametrize("rule", ROWS)
def test_other_platforms_are_unbound(rule: BindingRule) -> None:
    """A rule is for the platforms of its network alone."""
    allowed = bindings._RULES[rule].platforms
    for platform in set(Platform) - allowed:
        assert bind(rule, evidence(rule, platform=platform), only(rule)).status is UNBOUND, platform
    assert TABLE[rule][0] in allowed


@pytest.mark.parametrize("rule", ROWS)
def test_an_empty_slot_is_unbound(rule: BindingRule) -> None:
    """Evidence whose slot is absent, empty, zero or of another type commits to nothing."""
    for name in slots_of(rule):
        for value in (None, "xyz", "ABCD", 7, ["00" * 32], "0" * 9000):
            found = bind(rule, evidence(rule, **{name: value}), only(rule))
            expected = {UNBOUND, MISMATCH} if name in ("eat_nonce", "aud") and isinstance(value, str) else {UNBOUND}
            assert found.status in expected, (name, value)
    empty = {name: bytes(len(value)) if isinstance(value, bytes) else "" for name, value in TABLE[rule][1].items()}
    assert bind(rule, evidence(rule, **empty), only(rule)).status is UNBOUND
    assert bind(rule, claims(TABLE[rule][0]), only(rule)).status is UNBOUND


@pytest.mark.parametrize("rule", ROWS)
def test_every_byte_counts(rule: BindingRule) -> None:
    """One bit of a slot, in any byte, padding included, and the evidence is tied to something else."""
    for name in slots_of(rule):
        value = TABLE[rule][1][name]
        whole = value if isinstance(value, bytes) else value.encode()
        for place in range(len(whole)):
            changed = bytearray(whole)
            changed[place] ^= 1
            said = bytes(changed) if isinstance(value, bytes) else changed.decode("latin-1")
            assert bind(rule, evidence(rule, **{name: said}), only(rule)).status is MISMATCH, (name, place)


@pytest.mark.parametrize("rule", ROWS)
def test_a_prefix_is_no_match(rule: BindingRule) -> None:
    """A slot that is shorter or longer than what follows from the inputs is not bound, whichever begins the other."""
    for name in slots_of(rule):
        value = TABLE[rule][1][name]
        tail = b"\0" if isinstance(value, bytes) else "\0"
        for changed in (value[:-1], value + tail, value[: len(value) // 2]):
            assert bind(rule, evidence(rule, **{name: changed}), only(rule)).status is not BOUND, (name, changed)


@pytest.mark.parametrize("rule", ROWS)
def test_another_key_or_nonce_is_a_mismatch(rule: BindingRule) -> None:
    """Held to another key, nonce or name of the right form, genuine evidence is a mismatch."""
    texts = {
        "nonce_text": "0" * 64,
        "e2e_key_text": base64.b64encode(E2E_KEY[::-1]).decode(),
        "keyset_digest": "sha256:" + "1" * 64,
        "audience": "other",
        "adapter": "far",
    }
    for name in TABLE[rule][2]:
        other: Any = texts.get(name) or claims(report_data="77" * 64)
        if isinstance(getattr(ALL, name), bytes):
            other = sha(b"another")[: len(getattr(ALL, name))]
        found = bind(rule, evidence(rule), only(rule, **{name: other}))
        assert (found.status, found.key_spki_sha256) == (MISMATCH, None), name
        assert found.detail


@pytest.mark.parametrize("rule", ROWS)
def test_inputs_that_are_none(rule: BindingRule) -> None:
    """An input of another length, or all zero, is nothing to hold evidence to."""
    free = {R.NITRO_PUBLIC_KEY, R.NITRO_NONCE, R.NITRO_PUBLIC_KEY_NONCE, R.VTPM}
    for name in TABLE[rule][2]:
        right = getattr(ALL, name)
        if isinstance(right, bytes):
            for wrong in (b"", bytes(len(right)), bytes(2000), *(() if rule in free else (right[:-1], right + b"\1"))):
                assert bind(rule, evidence(rule), only(rule, **{name: wrong})).status is UNBOUND, (name, wrong)
        if isinstance(right, str):
            for wrong_text in ("", "é", "\n", "x" * 5000):
                assert bind(rule, evidence(rule), only(rule, **{name: wrong_text})).status is UNBOUND, (
                    name,
                    wrong_text,
                )


def test_zeros_never_match_zeros() -> None:
    """report_data of 64 zero bytes, as one cloud's brokers give, is bound to nothing by any rule."""
    zeros = BindingInputs(
        **{n: bytes(len(getattr(ALL, n))) for n in ALL.__struct_fields__ if isinstance(getattr(ALL, n), bytes)}
    )
    for rule in BindingRule:
        for given_ in (ALL, zeros, BindingInputs()):
            for platform in Platform:
                assert bind(rule, claims(platform, report_data="00" * 64, nonce="00" * 32), given_).status is UNBOUND


def test_a_filler_is_a_mismatch() -> None:
    """report_data that is filled with a constant is tied to that, and not to our key."""
    assert bind(R.DSTACK, claims(report_data="01" * 64), only(R.DSTACK)).status is MISMATCH


def test_dstack_with_an_ed25519_key() -> None:
    """A 32-byte key fills its half; a 20-byte address is padded, and padding that is not zero is not it."""
    said = claims(report_data=(EDWARDS + NONCE).hex())
    assert bind(R.DSTACK, said, only(R.DSTACK, signing_key=EDWARDS)).status is BOUND
    assert bind(R.DSTACK, said, only(R.DSTACK, signing_key=EDWARDS[:20])).status is MISMATCH
    both = claims(report_data=(sha(EDWARDS + SPKI) + NONCE).hex())
    assert bind(R.DSTACK_TLS, both, only(R.DSTACK_TLS, signing_key=EDWARDS)).status is BOUND


def test_the_address_is_not_padded_inside_the_tls_digest() -> None:
    """SHA-256(address || SPKI digest) is over 52 bytes; with a padded address it is another value."""
    padded = claims(report_data=(sha(ADDRESS.ljust(32, b"\0") + SPKI) + NONCE).hex())
    assert bind(R.DSTACK_TLS, padded, only(R.DSTACK_TLS)).status is MISMATCH


def test_no_fall_back_from_tls_to_the_address_alone() -> None:
    """Evidence in the standard form does not pass for the form that binds the TLS key, nor the other way about."""
    assert bind(R.DSTACK_TLS, evidence(R.DSTACK), ALL).status is MISMATCH
    assert bind(R.DSTACK, evidence(R.DSTACK_TLS), ALL).status is MISMATCH


def test_a_nonce_that_is_not_there() -> None:
    """An address alone, its nonce half zero, is not fresh: one matching half binds nothing."""
    stale = bind(R.DSTACK, claims(report_data=(ADDRESS + bytes(44)).hex()), only(R.DSTACK))
    assert (stale.status, stale.detail) == (MISMATCH, "report_data differs in its second half")
    other = bind(
        R.DSTACK, claims(report_data=(ADDRESS + bytes(12) + NONCE).hex()), only(R.DSTACK, signing_key=b"\1" * 20)
    )
    assert other.detail == "report_data differs in its first half"


def test_a_nonce_by_its_digest_is_its_own_rule() -> None:
    """A nonce that one relay hashes is accepted under that relay's rule and no other."""
    assert bind(R.DSTACK, evidence(R.DSTACK_NONCE_SHA256), ALL).status is MISMATCH
    assert bind(R.DSTACK_NONCE_SHA256, evidence(R.DSTACK), ALL).status is MISMATCH


@pytest.mark.parametrize("text", ["0x{}", "0X{}", "0x{} ", "{}"])
def test_the_brokers_address_is_text(text: str) -> None:
    """The address may be in either case, as checksums write it; every other spelling is another."""
    for spelled in (ADDRESS.hex(), ADDRESS.hex().upper()):
        said = text.format(spelled).encode().ljust(64, b"\0")
        found = bind(R.ZERO_G_ASCII, claims(report_data=said.hex()), only(R.ZERO_G_ASCII))
        assert found.status is (BOUND if text == "0x{}" else MISMATCH), said
    raw = claims(report_data=(ADDRESS + bytes(44)).hex())
    assert bind(R.ZERO_G_ASCII, raw, only(R.ZERO_G_ASCII)).status is MISMATCH


def test_chutes_hashes_text() -> None:
    """The digest is over the spelled nonce and key; over the bytes that they spell it is another."""
    decoded = sha(NONCE + E2E_KEY) + SPKI
    assert bind(R.CHUTES, claims(report_data=decoded.hex()), only(R.CHUTES)).status is MISMATCH


@pytest.mark.parametrize(
    ("nonce", "key"),
    [
        (NONCE.hex()[:-1], NONCE.hex()[-1] + E2E),
        (NONCE.hex() + E2E[0], E2E[1:]),
        (NONCE.hex().upper(), E2E),
        (NONCE.hex(), E2E[:-4]),
        (NONCE.hex(), E2E + " "),
        (NONCE.hex(), E2E.rstrip("=")),
    ],
)
def test_chutes_texts_that_run_together(nonce: str, key: str) -> None:
    """A nonce and a key that only together spell what was hashed, or are spelled otherwise, are held to nothing."""
    data = sha((nonce + key).encode()) + SPKI
    found = bind(R.CHUTES, claims(report_data=data.hex()), only(R.CHUTES, nonce_text=nonce, e2e_key_text=key))
    assert found.status is UNBOUND


def test_chutes_binds_the_certificate_too() -> None:
    """Both halves count: evidence with the right key and another channel is a mismatch."""
    found = bind(R.CHUTES, claims(report_data=(CHUTES + sha(b"other")).hex()), only(R.CHUTES))
    assert (found.status, found.detail) == (MISMATCH, "report_data differs in its second half")


def test_a_gpu_is_linked_to_authentic_cpu_evidence_alone() -> None:
    """A GPU is held to the CPU's report_data only where that was verified, and is a CPU's."""
    for cpu in (
        claims(authentic=False, report_data=(CHUTES + GPU).hex()),
        claims(P.NVIDIA_GPU, report_data=(CHUTES + GPU).hex()),
        claims(),
        claims(report_data="ab"),
        claims(report_data=bytes(64).hex()),
    ):
        assert bind(R.GPU_SECRETVM, evidence(R.GPU_SECRETVM), only(R.GPU_SECRETVM, cpu=cpu)).status is UNBOUND
    other = claims(report_data=(GPU + CHUTES).hex())
    assert bind(R.GPU_SECRETVM, evidence(R.GPU_SECRETVM), only(R.GPU_SECRETVM, cpu=other)).status is MISMATCH


def test_the_json_nonce_beside_the_evidence_is_not_read() -> None:
    """The nonce of GPU evidence is the one in what the GPU signed, as the claims hold it; raw members don't replace it."""
    said = claims(P.NVIDIA_GPU, nonce=GPU.hex(), raw={"nonce": NONCE.hex()})
    assert bind(R.GPU_NONCE, said, only(R.GPU_NONCE)).status is MISMATCH


def test_nitro_nonce_under_raw() -> None:
    """A nonce that the record names only under raw is found there, a UUID in ASCII as well."""
    uuid = b"cc6b95ef-a0d7-477d-90f2-36c088d24490"
    said = claims(P.AWS_NITRO, raw={"nonce": uuid.hex()})
    assert bind(R.NITRO_NONCE, said, BindingInputs(nonce=uuid)).status is BOUND


def test_the_vtpm_nonce_may_be_under_either_name() -> None:
    """extra_data under raw, or the nonce of the record where raw has none."""
    assert bind(R.VTPM, claims(P.TPM2, nonce=NONCE.hex()), only(R.VTPM)).status is BOUND
    assert bind(R.VTPM, claims(P.TPM2, nonce=NONCE.hex(), raw={"extra_data": "00ff"}), only(R.VTPM)).status is MISMATCH
    assert bind(R.VTPM, claims(P.TPM2, nonce=NONCE.hex(), raw={"extra_data": None}), only(R.VTPM)).status is UNBOUND


def test_the_cloud_token_names_our_audience() -> None:
    """A token for somebody else's audience is not ours, though it holds our nonce."""
    assert bind(R.GCS, evidence(R.GCS, aud="https://sts.googleapis.com"), only(R.GCS)).status is MISMATCH
    assert bind(R.GCS, evidence(R.GCS, aud=["https://gateway.example"]), only(R.GCS)).status is UNBOUND


def test_our_own_rule() -> None:
    """The 64 bytes are SHA-512 over tag, adapter, nonce and digest; on Nitro they stand in user_data."""
    assert bind_v1("near", NONCE, SPKI) == OURS
    assert bind_v1("nea", NONCE, SPKI) != OURS
    assert bind(R.BIND_V1, claims(P.AWS_NITRO, raw={"user_data": OURS.hex()}), only(R.BIND_V1)).status is BOUND
    assert bind(R.BIND_V1, claims(P.AWS_NITRO, report_data=OURS.hex()), only(R.BIND_V1)).status is UNBOUND
    for adapter in ("-near", "near x", "Near"):
        assert bind(R.BIND_V1, evidence(R.BIND_V1), only(R.BIND_V1, adapter=adapter)).status is UNBOUND


@pytest.mark.parametrize(
    ("adapter", "nonce", "spki"),
    [("", NONCE, SPKI), ("Near", NONCE, SPKI), ("a" * 65, NONCE, SPKI), ("é", NONCE, SPKI), ("near", NONCE[1:], SPKI), ("near", NONCE, SPKI + b"\0"), ("near\n", NONCE, SPKI)],
)  # fmt: skip
def test_our_own_rule_refuses_other_lengths(adapter: str, nonce: bytes, spki: bytes) -> None:
    """Names and lengths that would let two inputs give the same bytes are refused."""
    with pytest.raises(FormatError):
        bind_v1(adapter, nonce, spki)


def test_keyset_digests_are_spelled_one_way() -> None:
    """A digest that is no `sha256:` and 64 lower-case digits would end up inside the statement's JSON."""
    for digest in ("sha256:" + "A" * 64, '","nonce":"', "sha512:" + "0" * 64):
        assert bind(R.ACI, evidence(R.ACI), only(R.ACI, keyset_digest=digest)).status is UNBOUND


def test_a_nonce_in_the_statement_is_not_optional() -> None:
    """A statement without a nonce passes under its own name alone."""
    assert bind(R.ACI, evidence(R.ACI_NO_NONCE), ALL).status is MISMATCH
    assert bind(R.ACI_NO_NONCE, evidence(R.ACI), ALL).status is MISMATCH


def test_a_binding_is_written_as_claims_are() -> None:
    """A binding is encoded with its rule's plain name."""
    assert (
        msgspec.json.decode(msgspec.json.encode(bind(R.DSTACK, evidence(R.DSTACK), ALL)), type=Binding).kind
        == "dstack-report-data"
    )


hexes = st.one_of(st.none(), st.text(max_size=140), st.binary(max_size=80).map(bytes.hex))
given_bytes = st.one_of(st.none(), st.binary(max_size=70), st.sampled_from([SPKI, ADDRESS, NONCE]))
raws = st.dictionaries(
    st.sampled_from(["public_key", "user_data", "nonce", "extra_data", "eat_nonce", "aud"]),
    st.one_of(hexes, st.integers(), st.lists(st.text(max_size=3), max_size=2)),
)
texts = st.one_of(st.none(), st.text(max_size=80))


@settings(max_examples=300, deadline=None)
@given(
    rule=st.sampled_from(list(BindingRule)),
    platform=st.sampled_from(list(Platform)),
    report_data=hexes,
    nonce=hexes,
    raw=raws,
    values=st.lists(given_bytes, min_size=7, max_size=7),
    said=st.lists(texts, min_size=5, max_size=5),
)
def test_any_claims_and_inputs_are_answered(
    rule: BindingRule, platform: Platform, report_data: Any, nonce: Any, raw: Any, values: Any, said: Any
) -> None:
    """Whatever claims and inputs hold, the answer is a binding, and bound only where the slot is the expected one."""
    names = (
        "spki_sha256",
        "certificate_sha256",
        "signing_key",
        "signing_spki_sha256",
        "public_key",
        "nonce",
        "gpu_nonce",
    )
    strings = ("nonce_text", "e2e_key_text", "keyset_digest", "audience", "adapter")
    what = claims(platform, report_data=report_data, nonce=nonce, raw=raw)
    inputs = BindingInputs(cpu=what, **dict(zip(names, values, strict=True)), **dict(zip(strings, said, strict=True)))
    found = bind(rule, what, inputs)
    if found.status is BOUND:
        assert bindings._slots(bindings._RULES[rule], what) == bindings._RULES[rule].expect(inputs)
    assert found.detail is None or found.detail.isprintable()


def test_the_module_says_what_it_builds() -> None:
    """Our own tag is the one that the documentation names."""
    assert commitments.BIND_V1 == b"veriroute-bind-v1"


@pytest.mark.parametrize("name", ["eat_nonce", "aud"])
@pytest.mark.parametrize("value", ["", "x" * 4097, None, 7])
def test_a_token_without_a_single_text(name: str, value: object) -> None:
    """A token whose nonce or audience is empty, over-long or no text commits to nothing."""
    assert bind(R.GCS, evidence(R.GCS, **{name: value}), only(R.GCS)).status is UNBOUND


@pytest.mark.parametrize(("length", "status"), [(0, UNBOUND), (1, BOUND), (1024, BOUND), (1025, UNBOUND)])
def test_how_long_a_free_slot_may_be(length: int, status: BindingStatus) -> None:
    """Slots without a length of their own hold 1 to 1024 bytes, as Nitro's do."""
    key = b"\7" * length
    found = bind(
        R.NITRO_PUBLIC_KEY, evidence(R.NITRO_PUBLIC_KEY, public_key=key or None), BindingInputs(public_key=key)
    )
    assert found.status is status


@pytest.mark.parametrize(("length", "status"), [(4096, MISMATCH), (4097, UNBOUND)])
def test_how_much_of_a_claim_is_read(length: int, status: BindingStatus) -> None:
    """A claim of more than 4096 bytes is not read."""
    said = evidence(R.NITRO_PUBLIC_KEY, public_key=b"\7" * length)
    assert bind(R.NITRO_PUBLIC_KEY, said, only(R.NITRO_PUBLIC_KEY)).status is status


@pytest.mark.parametrize("rule", list(BindingRule))
def test_pitfall_evidence_without_a_root_binds_nothing(rule: BindingRule) -> None:
    """Evidence whose parts fit together and end in no root can be made by anybody, and so speaks for no key."""
    rootless = msgspec.structs.replace(evidence(rule), root=None)
    assert bind(rule, evidence(rule), only(rule)).status is BOUND
    assert bind(rule, rootless, only(rule)).status is UNBOUND


def test_pitfall_a_gpu_of_rootless_cpu_evidence() -> None:
    """CPU evidence that ends in no root chose no nonce for anybody's GPU."""
    cpu = msgspec.structs.replace(CPU_OF_GPU, root=None)
    asked = evidence(BindingRule.GPU_CHUTES)
    assert bind(BindingRule.GPU_CHUTES, asked, BindingInputs(cpu=CPU_OF_GPU)).status is BOUND
    assert bind(BindingRule.GPU_CHUTES, asked, BindingInputs(cpu=cpu)).status is UNBOUND
