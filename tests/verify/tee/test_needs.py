"""What evidence says that it has to be held against."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tee_worlds import amd, intel
from tee_worlds.endorsements import seeds

from gateway.errors import FormatError
from gateway.verify.tee.needs import AmdChain, AmdKey, AmdNeed, IntelNeed, need_of

LEVELS = (("bl", 4), ("tee", 0), ("snp", 24), ("ucode", 219))


def refused(kind: str, blobs: dict[str, bytes]) -> str | None:
    with pytest.raises(FormatError) as caught:
        need_of(kind, blobs)
    return caught.value.reason


@pytest.mark.parametrize(("processor", "ca"), [(False, "platform"), (True, "processor")])
def test_a_quote_names_tee_platform_and_pck_authority(processor: bool, ca: str) -> None:
    """FMSPC and issuer are the PCK certificate's, the TEE is the quote's."""
    world = intel.World(processor=processor, fmspc="00A06D080000")
    tdx = need_of("tdx", {"quote": world.quote()})
    assert tdx == IntelNeed("tdx", "00a06d080000", ca)
    assert need_of("tdx", {"quote": world.sgx_quote()}) == IntelNeed("sgx", "00a06d080000", ca)
    assert isinstance(tdx, IntelNeed)
    assert tdx.name == f"intel-tdx-00a06d080000-{ca}"


def test_a_quote_whose_chain_says_nothing_is_refused() -> None:
    """No chain, a chain of one, a PCK of another authority, a leaf without the extension: no platform is made up."""
    world = intel.World()
    other = intel.certificate("Another CA", world.ca_key, world.root, world.root_key, begins=0, ends=2e9, ca=True)
    stray = intel.certificate(intel.PCK, world.pck_key, other, world.ca_key, begins=0, ends=2e9)
    for chain in ((world.pck,), (stray, other, world.root), (world.ca, world.root)):
        assert refused("tdx", {"quote": world.sign_quote(intel.td_report(), chain=chain)}) == "pck_malformed"
    broken = world.sign_quote(intel.td_report(), chain_text=b"-----BEGIN CERTIFICATE-----")
    assert refused("tdx", {"quote": broken}) == "pck_malformed"
    assert refused("tdx", {"quote": b""}) == "quote_too_short"


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_a_report_names_product_chip_and_tcb(product: str) -> None:
    """The product follows from the CPUID; Turin's chip has 8 bytes and its TCB an FMC."""
    world = amd.World(product)
    need = need_of("snp", {"report": world.report(version=5)})
    turin = product == "Turin"
    assert isinstance(need, AmdNeed)
    assert (need.products, need.role, need.chip_id) == ((product,), "vcek", world.chip.hex())
    chip = (world.chip[:8] if turin else world.chip).hex()
    key = need.key(product)
    assert key == AmdKey(product, "vcek", chip, (("fmc", 1), *LEVELS) if turin else LEVELS)
    assert key.chain == need.chain(product) == AmdChain(product, "vcek")
    levels = "fmc1-bl4-tee0-snp24-ucode219" if turin else "bl4-tee0-snp24-ucode219"
    assert key.name == f"amd-{product}-vcek-{chip}-{levels}"
    assert need.name == f"amd-{product}-vcek-{world.chip.hex()}-{world.tcb(world.levels).hex()}-0"


def test_a_report_of_version_2_may_be_of_two_products() -> None:
    """It holds no CPUID, so both are named, unless an endorsement key came along and says it."""
    world = amd.World("Genoa")
    report = world.report(version=2)
    need = need_of("snp", {"report": report})
    assert isinstance(need, AmdNeed)
    assert need.products == ("Milan", "Genoa")
    given = need_of("snp", {"report": report, "ek": world.ek})
    assert isinstance(given, AmdNeed)
    assert (given.products, given.key("Genoa")) == (("Genoa",), None)


def test_a_vlek_hides_the_chip() -> None:
    """What is asked for depends on the TCB alone."""
    need = need_of("snp", {"report": amd.World(vlek=True).report()})
    assert isinstance(need, AmdNeed)
    assert need.key("Genoa") == AmdKey("Genoa", "vlek", "", LEVELS)
    assert need.chain("Genoa").name == "amd-Genoa-vlek-chain"


def test_a_report_that_nobody_can_endorse_is_refused() -> None:
    """Unsigned, of an unknown product, of a hidden chip, with a TCB that is none: nothing is asked for."""
    world = amd.World()
    hidden = {"patch": {0x1A0: bytes(64)}}
    assert refused("snp", {"report": world.report(flags=7 << 2)}) == "snp_unsigned"
    assert refused("snp", {"report": world.report(cpuid=(0x17, 1, 1))}) == "snp_cpuid_mismatch"
    assert refused("snp", {"report": world.report(**hidden)}) == "chip_hidden"
    assert refused("snp", {"report": world.report(patch={0x182: b"\1"})}) == "snp_reserved_nonzero"
    assert need_of("snp", {"report": world.report(**hidden), "ek": world.ek}) is not None
    strange = amd.World(amd={"2": amd.tlv(0x16, b"Venice")})
    assert refused("snp", {"report": world.report(), "ek": strange.ek}) == "snp_bad_extension"
    nameless = amd.World(amd={"2": None})
    assert refused("snp", {"report": world.report(), "ek": nameless.ek}) == "snp_bad_extension"


def test_kinds_that_bring_everything_need_nothing() -> None:
    """Nothing is fetched for a Nitro document; a kind that there is not is an error."""
    assert need_of("nitro", {}) is None
    assert need_of("gcs", {"token": b"x"}) is None
    assert refused("tdx", {}) == refused("snp", {}) == "input_missing"
    with pytest.raises(FormatError):
        need_of("abacus", {})


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([seed[1:] for seed in seeds() if seed[:1] in b"qr"]), st.data())
def test_changed_evidence_gives_a_need_or_our_error(seed: bytes, data: st.DataObject) -> None:
    """Whatever the bytes, nothing but a need, None or `FormatError` comes back."""
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(0, 3))):
        changed[data.draw(st.integers(0, len(seed) - 1))] ^= data.draw(st.integers(1, 255))
    cut = bytes(changed[: data.draw(st.integers(0, len(seed)) | st.just(len(seed)))])
    for kind, role in (("tdx", "quote"), ("snp", "report")):
        try:
            need = need_of(kind, {role: cut})
        except FormatError:
            continue
        assert need is not None
        assert need.name.isascii()
        assert "/" not in need.name
