"""What a policy asks of a machine."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.model.tee import (
    Binding,
    BindingStatus,
    Freshness,
    FreshnessClass,
    Golden,
    HostTrust,
    Platform,
    Revocation,
    Root,
    TcbStatus,
    TeeClaims,
)
from gateway.model.verdict import Check, Outcome
from gateway.verify.tee.rules import BASELINE, RULES, TeeRules, accepted, judge, violations

MACHINE = "ab" * 32


def claims(**changes: Any) -> TeeClaims:
    """A quote that meets every rule that can be asked of it."""
    good = TeeClaims(
        platform=Platform.INTEL_TDX,
        evidence_sha256="00" * 32,
        product="00906ED50000",
        authentic=True,
        tcb_status=TcbStatus.UP_TO_DATE,
        tcb={"eval_number": 18, "svn": {"pce": 11, "tdx": 6}},
        advisory_ids=("INTEL-SA-00837",),
        debug=False,
        flags={"sept_ve_disable": True, "migratable": False, "service_td": False},
        measurements={"mr_td": "aa", "rtmr0": "bb"},
        binding=Binding(BindingStatus.BOUND, "aci-statement"),
        freshness=Freshness(FreshnessClass.CHALLENGE),
        machine_id=MACHINE,
        root=Root("Intel SGX Root CA", "44" * 32),
        revocation=Revocation(crl="ok"),
        evaluated_at=0.0,
    )
    return msgspec.structs.replace(good, **changes)


def gpu(**changes: Any) -> TeeClaims:
    return claims(platform=Platform.NVIDIA_GPU, **changes)


ASKING = TeeRules(
    platforms=frozenset(("intel-tdx", "amd-sev-snp")),
    tcb_status=frozenset(("UpToDate", "NotApplicable")),
    advisories_deny=frozenset(("INTEL-SA-00001",)),
    minimum_evaluation=17,
    minimum_svn={"pce": 11, "tdx": 5},
    measurements=({"mr_td": "cc"}, {"mr_td": "aa", "rtmr0": "bb"}),
    machines=frozenset((MACHINE,)),
    host_trust=frozenset(("hyperscaler_attested", "known_machine")),
    milan="refuse",
    freshness=frozenset(("challenge", "dated")),
    max_age_s=600.0,
    revocation="required",
    gpu="required",
)
replace = msgspec.structs.replace
LINKED = gpu(
    binding=Binding(BindingStatus.BOUND, "gpu-nonce-of-cpu-secretvm"), revocation=Revocation(crl="absent", ocsp="ok")
)


def outcome_of(rule: str, found: TeeClaims, rules: TeeRules) -> Check:
    checks = judge(found, rules)
    assert [check.id for check in checks] == list(RULES)
    assert all(check.reason for check in checks if check.outcome is not Outcome.AFFIRMING)
    return next(check for check in checks if check.id == rule)


def test_what_meets_everything_is_affirmed_everywhere() -> None:
    """Evidence that meets each rule is affirming in each, but those that do not concern its kind."""
    checks = judge(claims(children=(LINKED,)), ASKING)
    assert accepted(checks)
    assert {c.id for c in checks if c.outcome is not Outcome.AFFIRMING} == {"tee_product"}


def test_what_is_not_asked_is_not_affirmed() -> None:
    """Without an allow-list a rule is `none`, and evidence that was never looked at for it is not called good."""
    checks = {c.id: c for c in judge(claims(), TeeRules(configuration="allow", binding="any"))}
    unasked = {name for name, check in checks.items() if check.reason == "not_asked"}
    assert unasked == {
        "tee_platform", "tee_advisories", "tee_evaluation", "tee_minimum_svn", "tee_configuration", "tee_measurements",
        "tee_machine", "tee_host", "tee_product", "tee_freshness", "tee_gpu",
    }  # fmt: skip
    assert all(checks[name].outcome is Outcome.NONE for name in unasked)


@pytest.mark.parametrize(
    ("rule", "reason", "changes"),
    [
        ("tee_root", "root_unknown", {"root": None}),
        ("tee_root", "test_root", {"root": Root("ours", "00" * 32, test=True)}),
        ("tee_platform", "platform", {"platform": Platform.INTEL_SGX}),
        ("tee_tcb_status", "tcb_status_unknown", {"tcb_status": None}),
        ("tee_tcb_status", "tcb_status", {"tcb_status": TcbStatus.OUT_OF_DATE}),
        ("tee_advisories", "advisory", {"advisory_ids": ("INTEL-SA-00001",)}),
        ("tee_evaluation", "evaluation_unknown", {"tcb": {"svn": {"pce": 11, "tdx": 6}}}),
        ("tee_evaluation", "evaluation_old", {"tcb": {"eval_number": 16}}),
        ("tee_minimum_svn", "svn_unknown", {"tcb": {"eval_number": 18}}),
        ("tee_minimum_svn", "svn_low", {"tcb": {"svn": {"pce": 10, "tdx": 6}}}),
        ("tee_debug", "debug_unknown", {"debug": None}),
        ("tee_debug", "debug", {"debug": True}),
        ("tee_configuration", "sept_ve_disable", {"flags": {"sept_ve_disable": False}}),
        ("tee_configuration", "migratable", {"flags": {"migratable": True}}),
        ("tee_configuration", "service_td", {"flags": {"service_td": True}}),
        ("tee_configuration", "vmpl", {"flags": {"vmpl": 2}}),
        ("tee_measurements", "measurement", {"measurements": {"mr_td": "aa", "rtmr0": "b0"}}),
        ("tee_measurements", "measurement_unknown", {"measurements": {"rtmr0": "bb"}}),
        ("tee_machine", "machine_unknown", {"machine_id": None}),
        ("tee_machine", "machine", {"machine_id": "cd" * 32}),
        ("tee_host", "host_trust", {"machine_id": None}),
        ("tee_product", "milan", {"platform": Platform.AMD_SEV_SNP, "product": "Milan-B0"}),
        ("tee_product", "product_unknown", {"platform": Platform.AMD_SEV_SNP, "product": None}),
        ("tee_freshness", "freshness", {"freshness": Freshness(FreshnessClass.UNDATED)}),
        ("tee_freshness", "too_old", {"freshness": Freshness(FreshnessClass.DATED, 0.0, 601.0)}),
        ("tee_freshness", "age_unknown", {"freshness": Freshness(FreshnessClass.DATED)}),
        ("tee_binding", "unbound", {"binding": Binding()}),
        ("tee_binding", "mismatch", {"binding": Binding(BindingStatus.MISMATCH, "aci-statement")}),
        ("tee_revocation", "revocation_unknown", {"revocation": Revocation()}),
        ("tee_revocation", "revocation_stale", {"revocation": Revocation(crl="stale", ocsp="ok")}),
        ("tee_gpu", "gpu_unknown", {"children": ()}),
        ("tee_gpu", "gpu_not_authentic", {"children": (LINKED, gpu(authentic=False, reject_code="nv_bad_signature"))}),
        ("tee_gpu", "gpu_unlinked", {"children": (LINKED, gpu(binding=Binding()))}),
        ("tee_gpu", "gpu_unlinked", {"children": (gpu(binding=Binding(BindingStatus.BOUND, "gpu-nonce")),)}),
        ("tee_gpu", "gpu_mismatch", {"children": (replace(LINKED, golden=(Golden("driver:1", 3, ("gpu_m2",)),)),)}),
        (
            "tee_gpu",
            "gpu_mismatch",
            {"children": (replace(LINKED, children=(gpu(golden=(Golden("driver:1", 3, ("gpu_m2",)),)),)),)},
        ),
        ("tee_root", "test_root", {"children": (replace(LINKED, root=Root("ours", "00" * 32, test=True)),)}),
        ("tee_root", "root_unknown", {"children": (replace(LINKED, root=None),)}),
        ("tee_debug", "debug", {"children": (replace(LINKED, debug=True),)}),
        ("tee_configuration", "service_td", {"flags": {"service_td_ext": True}}),
        ("tee_configuration", "unnamed_attributes", {"flags": {"unnamed_attributes": True}}),
    ],
)
def test_each_rule_refuses_what_it_is_for(rule: str, reason: str, changes: dict[str, Any]) -> None:
    """One thing wrong contradicts its rule, with its reason, and makes the evidence unacceptable."""
    found = claims(**{"children": (LINKED,), **changes})
    check = outcome_of(rule, found, ASKING)
    assert (check.outcome, check.reason) == (Outcome.CONTRAINDICATED, reason)
    checks = judge(found, ASKING)
    assert not accepted(checks)
    assert reason in {violation.partition(":")[0] for violation in violations(checks)}


def test_the_status_stands_in_the_violation() -> None:
    """Which status was refused is part of what is reported."""
    assert violations(judge(claims(tcb_status=TcbStatus.OUT_OF_DATE), BASELINE)) == ("tcb_status:OutOfDate",)


def test_what_is_not_authentic_is_asked_nothing() -> None:
    """A forged quote's claims are not judged: they are somebody's words."""
    checks = judge(claims(authentic=False, reject_code="quote_bad_signature", debug=False), ASKING)
    assert violations(checks) == ("not_authentic",)
    assert checks[0].found == "quote_bad_signature"
    assert {c.reason for c in checks[1:]} == {"not_reached"}


def test_sets_of_measurements_are_met_whole() -> None:
    """Values of two accepted machines do not make a third: a set is met by all of its values or not at all."""
    sets = ({"mr_td": "aa", "rtmr0": "bb"}, {"mr_td": "cc", "rtmr0": "dd"})
    mixed = claims(measurements={"mr_td": "aa", "rtmr0": "dd"})
    assert violations(judge(mixed, TeeRules(measurements=sets))) == ("measurement",)
    assert accepted(judge(claims(measurements={"mr_td": "cc", "rtmr0": "dd"}), TeeRules(measurements=sets)))


def test_a_gpus_own_devices_are_no_linked_gpus() -> None:
    """The rule is about a CPU's GPUs: evidence of a GPU is not asked for another, whatever stands under it."""
    check = outcome_of("tee_gpu", gpu(children=(gpu(authentic=False),)), ASKING)
    assert (check.outcome, check.reason) == (Outcome.NONE, "not_asked")


@pytest.mark.parametrize("sets", [(), ({},)])
def test_an_empty_list_takes_nothing(sets: tuple[dict[str, str], ...]) -> None:
    """No sets, or sets that name nothing, are met by nothing."""
    assert violations(judge(claims(), TeeRules(measurements=sets))) == ("measurements_empty",)
    assert violations(judge(claims(), TeeRules(machines=frozenset()))) == ("machine",)


def test_milan_is_taken_from_a_cloud_only() -> None:
    """AMD's first generation is refused from whoever owns the machine, and taken from a cloud, unless policy says else."""
    own = claims(platform=Platform.AMD_SEV_SNP, product="Milan-B0", tcb_status=TcbStatus.NOT_APPLICABLE)
    hosted = msgspec.structs.replace(own, host_trust=HostTrust.HYPERSCALER)
    assert violations(judge(own, TeeRules())) == ("milan",)
    assert accepted(judge(hosted, TeeRules()))
    assert violations(judge(hosted, TeeRules(milan="refuse"))) == ("milan",)
    assert accepted(judge(own, TeeRules(milan="allow")))
    assert accepted(judge(msgspec.structs.replace(own, product="Genoa"), TeeRules(milan="refuse")))


def azure(hardware: TeeClaims, **changes: Any) -> TeeClaims:
    """A virtual TPM over `hardware`, which it repeats as the verifier does."""
    same = {name: getattr(hardware, name) for name in ("product", "tcb_status", "tcb", "debug")}
    return claims(platform=Platform.AZURE_VTPM, **same, flags={}, children=(hardware,), **changes)


def test_pitfall_a_virtual_tpm_hides_no_milan() -> None:
    """Milan's keys can be read out under a virtual TPM too: the hardware's own record says who holds the machine."""
    own = claims(platform=Platform.AMD_SEV_SNP, product="Milan-B0", tcb_status=TcbStatus.NOT_APPLICABLE, flags={})
    cloud = azure(own, host_trust=HostTrust.HYPERSCALER)
    assert violations(judge(cloud, TeeRules(milan="refuse"))) == ("milan",)
    assert violations(judge(cloud, TeeRules())) == ("milan",)
    assert accepted(judge(cloud, TeeRules(milan="allow")))
    assert accepted(judge(azure(replace(own, product="Genoa")), TeeRules(milan="refuse")))
    assert violations(judge(azure(replace(own, product=None)), TeeRules())) == ("product_unknown",)


def test_pitfall_old_collateral_under_a_virtual_tpm() -> None:
    """The evaluation of Intel's documents is asked for where the quote stands under another record."""
    rules = TeeRules(minimum_evaluation=18)
    assert accepted(judge(azure(claims()), rules))
    assert violations(judge(azure(claims(tcb={"eval_number": 17})), rules)) == ("evaluation_old",)
    assert violations(judge(azure(claims(tcb={})), rules)) == ("evaluation_unknown",)
    assert accepted(judge(claims(platform=Platform.AWS_NITRO), rules))


def test_a_listed_machine_is_a_known_one() -> None:
    """A machine on the list counts as known to whoever wrote the list; a cloud's stays a cloud's."""
    rules = TeeRules(machines=frozenset((MACHINE,)), host_trust=frozenset(("known_machine",)))
    assert accepted(judge(claims(), rules))
    assert violations(judge(claims(host_trust=HostTrust.HYPERSCALER), rules)) == ("host_trust",)


def test_what_policy_allows_is_said_and_taken() -> None:
    """A debug environment, a weak configuration and a test root pass only where a rule says so, and are named."""
    rules = TeeRules(debug="allow", configuration="allow", test_roots="allow", max_age_s=60.0)
    weak = claims(
        debug=True,
        flags={"migratable": True},
        root=Root("ours", "00" * 32, test=True),
        freshness=Freshness(FreshnessClass.DATED, 0.0, 59.0),
    )
    checks = {c.id: c for c in judge(weak, rules)}
    assert accepted(checks.values())
    assert checks["tee_root"].found == "root=TEST (ours)"
    assert checks["tee_debug"].found == "on"


@pytest.mark.parametrize(
    ("golden", "met"),
    [
        ((), False),
        ((Golden("driver:1", 3),), False),
        ((Golden("driver:1", 3), Golden("vbios:1", 0)), False),
        ((Golden("driver:1", 3), Golden("vbios:1", 2)), True),
    ],
)
def test_accelerators_can_be_asked_to_be_measured(golden: tuple[Golden, ...], met: bool) -> None:
    """With `measured` every device needs values of driver and VBIOS compared; `required` takes one that has none."""
    whole = claims(children=(replace(LINKED, children=(gpu(golden=golden),)),))
    check = outcome_of("tee_gpu", whole, TeeRules(gpu="measured"))
    assert (check.reason is None) is met
    assert met or check.reason == "gpu_unmeasured"
    assert outcome_of("tee_gpu", whole, TeeRules(gpu="required")).reason is None
    switch = replace(LINKED, platform=Platform.NVIDIA_SWITCH, golden=(Golden("vbios:1", 2),))
    assert outcome_of("tee_gpu", claims(children=(switch,)), TeeRules(gpu="measured")).reason is None


@pytest.mark.parametrize(
    ("device", "reason"),
    [
        ({}, None),
        ({"revocation": Revocation()}, "gpu_revocation_unknown"),
        ({"revocation": Revocation(), "evidence_format": "nras-eat-device"}, None),
    ],
)
def test_with_revocation_required_accelerators_are_asked_after_too(device: dict[str, Any], reason: str | None) -> None:
    """Where the machine's lists must have been looked at, so must its devices' certificates, unless NVIDIA's service
    speaks for the device; devices under one record count each for itself."""
    for found in (
        replace(LINKED, **device),
        replace(LINKED, revocation=Revocation(), children=(replace(LINKED, **device),)),
    ):
        check = outcome_of("tee_gpu", claims(children=(found,)), ASKING)
        assert check.reason == reason
        relaxed = replace(ASKING, revocation="when_given")
        assert outcome_of("tee_gpu", claims(children=(found,)), relaxed).outcome is Outcome.AFFIRMING


@pytest.mark.parametrize("under_another", [False, True])
@pytest.mark.parametrize(
    ("rule", "flags", "reason"),
    [
        ({}, {}, None),
        ({}, {"alias_check": False, "provisional_firmware": True}, None),
        ({"alias_check": "required"}, {"alias_check": True}, None),
        ({"alias_check": "required"}, {"alias_check": False}, "alias_check"),
        ({"alias_check": "required"}, {"alias_check": 1}, "alias_check"),
        ({"alias_check": "required"}, {}, "alias_check_unknown"),
        ({"provisional_firmware": "refuse"}, {"provisional_firmware": False}, None),
        ({"provisional_firmware": "refuse"}, {"provisional_firmware": True}, "provisional_firmware"),
        ({"provisional_firmware": "refuse"}, {}, "provisional_firmware_unknown"),
    ],
)
@pytest.mark.parametrize("configuration", ["allow", "refuse"])
def test_what_amd_says_of_memory_and_firmware(
    rule: dict[str, str], flags: dict[str, Any], reason: str | None, under_another: bool, configuration: str
) -> None:
    """Asked only where policy does, of AMD's report itself or of one that stands under another record, whatever
    policy says of the host's configuration; what the report does not state is refused."""
    amd = claims(platform=Platform.AMD_SEV_SNP, flags=flags)
    found = claims(platform=Platform.AZURE_VTPM, children=(amd,)) if under_another else amd
    rules = replace(TeeRules(), configuration=configuration, **rule)
    check = outcome_of("tee_configuration", found, rules)
    unasked = reason is None and configuration == "allow"
    assert check.reason == ("not_asked" if unasked else reason)
    assert check.outcome is (Outcome.NONE if unasked else Outcome.CONTRAINDICATED if reason else Outcome.AFFIRMING)


def test_other_platforms_are_not_asked_about_amds_firmware() -> None:
    """They have no such flags, and lack nothing by it."""
    rules = replace(TeeRules(), alias_check="required", provisional_firmware="refuse")
    assert outcome_of("tee_configuration", claims(platform=Platform.INTEL_TDX), rules).outcome is Outcome.AFFIRMING
