"""What a policy asks of a machine: claims in, one check for each rule out. Only here is evidence called acceptable.

    checks = judge(claims, rules)          # every rule, each affirming, contraindicated, or none with a reason
    violations(checks)                     # ["debug", "tcb_status:OutOfDate"], () when every rule is met

Authentic evidence can be worthless: a debug enclave, a platform years behind, a machine in the hands of whoever wants
to know the prompt. And what was not shown is never good: a claim that a rule needs and that is absent contraindicates,
with a reason that ends in `_unknown`. A rule that asks for nothing (no allow-list given) is `none` with the reason
`not_asked`, so that the list is always the same list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from gateway.model.tee import BindingStatus, FreshnessClass, HostTrust, Platform, Root, TcbStatus, TeeClaims
from gateway.model.verdict import Check, Outcome

from .bindings import GPU_OF_THIS_MACHINE

#: rule id -> what is true when it is met.
RULES = {
    "tee_authentic": "Every mandatory check of the evidence holds",
    "tee_root": "The evidence chains to a vendor's root, not to one made for tests",
    "tee_platform": "The kind of environment is one that policy takes",
    "tee_tcb_status": "The platform's security version has a status that policy takes",
    "tee_advisories": "No advisory that policy refuses is open on the platform",
    "tee_evaluation": "The vendor's evaluation is not older than policy asks",
    "tee_minimum_svn": "Firmware and microcode are at least at the versions that policy names",
    "tee_debug": "The environment cannot be looked into by its host",
    "tee_configuration": "The environment is configured so that its host cannot weaken it",
    "tee_measurements": "What was measured at its start is a set of values that policy names",
    "tee_machine": "The machine is one of those that policy names",
    "tee_host": "Who holds the machine is somebody that policy takes",
    "tee_product": "The processor generation has no break that firmware cannot mend",
    "tee_freshness": "The evidence is fresh in a way that policy takes",
    "tee_binding": "The evidence is tied to the key, channel or nonce that it was shown for",
    "tee_revocation": "Revocation of the certificates was looked at",
    "tee_gpu": "The accelerators are attested, and tied to this machine",
}


class TeeRules(msgspec.Struct, frozen=True, kw_only=True):
    """The `[tee]` section of a policy. None asks for nothing; an empty set of what is taken takes nothing.

    `measurements`: sets of values, one of which must be met whole; each maps measurement names to lower-case hex.
    `minimum_svn`: component name (as in the claims' `tcb.svn`) -> least value. `milan`: AMD's first generation, whose
    root secrets can be read out by software of the machine's owner: refuse, hosted (a cloud's machine only) or allow.
    `test_roots` and `unknown` are not for policy files: they loosen what a folder of cases is asked. A gateway names
    the test roots that its settings do, by fingerprint.
    """

    platforms: frozenset[str] | None = None
    tcb_status: frozenset[str] = frozenset((TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING, TcbStatus.NOT_APPLICABLE))
    advisories_deny: frozenset[str] = frozenset()
    minimum_evaluation: int = 0
    minimum_svn: Mapping[str, int] = msgspec.field(default_factory=dict)
    debug: str = "refuse"
    configuration: str = "refuse"
    alias_check: str = "any"
    provisional_firmware: str = "allow"
    measurements: tuple[Mapping[str, str], ...] | None = None
    machines: frozenset[str] | None = None
    host_trust: frozenset[str] | None = None
    milan: str = "hosted"
    freshness: frozenset[str] | None = None
    max_age_s: float | None = None
    binding: str = "required"
    revocation: str = "when_given"
    gpu: str = "any"
    test_roots: str | frozenset[str] = "refuse"
    unknown: str = "refuse"


#: What is asked when there is no policy: of the evidence itself, nothing of what it is for.
BASELINE = TeeRules(milan="allow", binding="any")

#: For folders of cases, which bring their own roots: what is known to be bad, not what a format does not state.
CASES = msgspec.structs.replace(BASELINE, test_roots="allow", unknown="allow")

#: Measurements that a guest's own system states, in an event log that replays (`dstack`).
STATED = frozenset(("app_id", "compose_hash"))
#: What says which system that is. Any other may state whatever it likes, so a policy names these beside `STATED`.
BOOTED = frozenset(("mr_td", "rtmr0", "rtmr1", "rtmr2"))

_GPUS = (Platform.NVIDIA_GPU, Platform.NVIDIA_SWITCH)
_INTEL = (Platform.INTEL_TDX, Platform.INTEL_SGX)

#: Claims' flags that weaken an environment: flag -> (the value that is good, the violation).
_FLAGS: Mapping[str, tuple[bool | int, str]] = {
    "sept_ve_disable": (True, "sept_ve_disable"),
    "migratable": (False, "migratable"),
    "service_td": (False, "service_td"),
    "service_td_ext": (False, "service_td"),
    "unnamed_attributes": (False, "unnamed_attributes"),  # what a bit without a name weakens, nobody can say
    "vmpl": (0, "vmpl"),
}


def judge(claims: TeeClaims, rules: TeeRules) -> tuple[Check, ...]:
    """Every rule, in the order of `RULES`. Total for any claims; what is not authentic is asked nothing else."""
    if not claims.authentic:
        reached = Check(
            "tee_authentic", Outcome.CONTRAINDICATED, "not_authentic", claims.reject_code, over=claims.platform.value
        )
        rest = tuple(Check(rule, Outcome.NONE, "not_reached") for rule in RULES if rule != "tee_authentic")
        return (reached, *rest)
    checks = (Check("tee_authentic", Outcome.AFFIRMING), *(ask(claims, rules) for ask in _ASK))
    if rules.unknown == "allow":
        return tuple(_unasked(c.id, c.found) if (c.reason or "").endswith("_unknown") else c for c in checks)
    return checks


def violations(checks: Iterable[Check]) -> tuple[str, ...]:
    """The reasons of the rules that are not met; with the status, where the status is what is wrong."""
    bad = [check for check in checks if check.outcome is Outcome.CONTRAINDICATED]
    return tuple(f"{c.reason}:{c.found}" if c.reason == "tcb_status" else str(c.reason) for c in bad)


def accepted(checks: Iterable[Check]) -> bool:
    """Whether no rule contraindicates."""
    return not violations(checks)


def _good(rule: str, found: str | None = None, expected: str | None = None) -> Check:
    return Check(rule, Outcome.AFFIRMING, None, found, expected)


def _bad(rule: str, reason: str, found: str | None = None, expected: str | None = None) -> Check:
    return Check(rule, Outcome.CONTRAINDICATED, reason, found, expected)


def _unasked(rule: str, found: str | None = None) -> Check:
    return Check(rule, Outcome.NONE, "not_asked", found)


def _listed(values: Iterable[str]) -> str:
    return ", ".join(sorted(values))[:200]


def _records(claims: TeeClaims) -> Iterator[TeeClaims]:
    """The record and all that stand under it: hardware under a virtual TPM, devices under a machine."""
    yield claims
    for child in claims.children:
        yield from _records(child)


def _root(claims: TeeClaims, rules: TeeRules) -> Check:
    # Each part rests on a root of its own; one that was made for tests speaks for the whole.
    roots = [record.root for record in _records(claims) if record.authentic]
    if None in roots:
        return _bad("tee_root", "root_unknown")
    tests = [root for root in roots if root is not None and root.test]
    if strangers := [root for root in tests if not _is_known(root, rules)]:
        return _bad("tee_root", "test_root", f"root=TEST ({strangers[0].name})")
    if tests:
        return _good("tee_root", f"root=TEST ({tests[0].name})")
    return _good("tee_root", roots[0].name if roots[0] else None)


def _is_known(root: Root, rules: TeeRules) -> bool:
    if isinstance(rules.test_roots, frozenset):
        return root.fingerprint in rules.test_roots
    return rules.test_roots == "allow"


def _platform(claims: TeeClaims, rules: TeeRules) -> Check:
    found = claims.platform.value
    if rules.platforms is None:
        return _unasked("tee_platform", found)
    if found not in rules.platforms:
        return _bad("tee_platform", "platform", found, _listed(rules.platforms))
    return _good("tee_platform", found, _listed(rules.platforms))


def _tcb_status(claims: TeeClaims, rules: TeeRules) -> Check:
    if claims.tcb_status is None:
        return _bad("tee_tcb_status", "tcb_status_unknown", None, _listed(rules.tcb_status))
    found = claims.tcb_status.value
    if found not in rules.tcb_status:
        return _bad("tee_tcb_status", "tcb_status", found, _listed(rules.tcb_status))
    return _good("tee_tcb_status", found, _listed(rules.tcb_status))


def _advisories(claims: TeeClaims, rules: TeeRules) -> Check:
    found = _listed(claims.advisory_ids) or "none"
    if not rules.advisories_deny:
        return _unasked("tee_advisories", found)
    if denied := rules.advisories_deny.intersection(claims.advisory_ids):
        return _bad("tee_advisories", "advisory", _listed(denied))
    return _good("tee_advisories", found)


def _evaluation(claims: TeeClaims, rules: TeeRules) -> Check:
    # Intel's quote may stand under another record, as on an Azure machine; the lowest number counts.
    stated = [record.tcb.get("eval_number") for record in _records(claims) if record.platform in _INTEL]
    numbers = [number for number in stated if isinstance(number, int)]
    number = min(numbers, default=None)
    if not rules.minimum_evaluation or not stated:
        return _unasked("tee_evaluation", None if number is None else str(number))
    if number is None or len(numbers) < len(stated):
        return _bad("tee_evaluation", "evaluation_unknown", None, f"at least {rules.minimum_evaluation}")
    if number < rules.minimum_evaluation:
        return _bad("tee_evaluation", "evaluation_old", str(number), f"at least {rules.minimum_evaluation}")
    return _good("tee_evaluation", str(number), f"at least {rules.minimum_evaluation}")


def _minimum_svn(claims: TeeClaims, rules: TeeRules) -> Check:
    if not rules.minimum_svn:
        return _unasked("tee_minimum_svn")
    svn: Any = claims.tcb.get("svn")
    have: Mapping[str, Any] = svn if isinstance(svn, Mapping) else {}
    for name, least in sorted(rules.minimum_svn.items()):
        value = have.get(name)
        if not isinstance(value, int):
            return _bad("tee_minimum_svn", "svn_unknown", name, f"at least {least}")
        if value < least:
            return _bad("tee_minimum_svn", "svn_low", f"{name} {value}", f"at least {least}")
    return _good("tee_minimum_svn", ", ".join(f"{name} {have[name]}" for name in sorted(rules.minimum_svn)))


def _debug(claims: TeeClaims, rules: TeeRules) -> Check:
    if claims.debug is None:
        return _bad("tee_debug", "debug_unknown")
    on = any(record.debug for record in _records(claims))
    if on and rules.debug != "allow":
        return _bad("tee_debug", "debug", "on", "off")
    return _good("tee_debug", "on" if on else "off")


def _configuration(claims: TeeClaims, rules: TeeRules) -> Check:
    if rules.alias_check == "required" and (bad := _amd_flag(claims, "alias_check", good=True)):
        return bad
    if rules.provisional_firmware == "refuse" and (bad := _amd_flag(claims, "provisional_firmware", good=False)):
        return bad
    if rules.configuration == "allow":
        return _unasked("tee_configuration")
    for name, (good, reason) in _FLAGS.items():
        value = claims.flags.get(name)
        if value is not None and value != good:
            return _bad("tee_configuration", reason, f"{name} {value}".lower(), f"{name} {good}".lower())
    return _good("tee_configuration")


def _amd_flag(claims: TeeClaims, name: str, *, good: bool) -> Check | None:
    """The violation, when a report of AMD's does not state that `name` is `good`; it may stand under another record."""
    for record in _records(claims):
        value = record.flags.get(name)
        if record.platform is Platform.AMD_SEV_SNP and value is not good:
            reason = f"{name}_unknown" if value is None else name
            return _bad("tee_configuration", reason, f"{name} {value}".lower(), f"{name} {good}".lower())
    return None


def _measurements(claims: TeeClaims, rules: TeeRules) -> Check:
    if rules.measurements is None:
        return _unasked("tee_measurements")
    near: tuple[int, str, str] | None = None
    for wanted in rules.measurements:
        wrong = [name for name, value in sorted(wanted.items()) if claims.measurements.get(name) != value]
        if wanted and not wrong:
            return _good("tee_measurements", _listed(wanted))
        if wanted and (near is None or len(wrong) < near[0]):
            near = len(wrong), wrong[0], wanted[wrong[0]]
    if near is None:  # sets that name nothing are met by everything, so they are met by nothing
        return _bad("tee_measurements", "measurements_empty")
    _, name, value = near
    found = claims.measurements.get(name)
    reason = "measurement_unknown" if found is None else "measurement"
    return _bad("tee_measurements", reason, f"{name} {found or ''}".strip(), f"{name} {value}")


def _machine(claims: TeeClaims, rules: TeeRules) -> Check:
    if rules.machines is None:
        return _unasked("tee_machine", claims.machine_id)
    if claims.machine_id is None:
        return _bad("tee_machine", "machine_unknown")
    if claims.machine_id not in rules.machines:
        return _bad("tee_machine", "machine", claims.machine_id)
    return _good("tee_machine", claims.machine_id)


def _trust(claims: TeeClaims, rules: TeeRules) -> HostTrust:
    """A machine on the list is a known one, whoever holds it."""
    known = claims.machine_id is not None and claims.machine_id in (rules.machines or ())
    if known and claims.host_trust is HostTrust.UNKNOWN_OPERATOR:
        return HostTrust.KNOWN_MACHINE
    return claims.host_trust


def _host(claims: TeeClaims, rules: TeeRules) -> Check:
    found = _trust(claims, rules).value
    if rules.host_trust is None:
        return _unasked("tee_host", found)
    if found not in rules.host_trust:
        return _bad("tee_host", "host_trust", found, _listed(rules.host_trust))
    return _good("tee_host", found, _listed(rules.host_trust))


def _product(claims: TeeClaims, rules: TeeRules) -> Check:
    amd = [record for record in _records(claims) if record.platform is Platform.AMD_SEV_SNP or _is_milan(record)]
    if not amd:
        return _unasked("tee_product", claims.product)
    if not all(record.product for record in amd):
        return _bad("tee_product", "product_unknown")
    # Asked of the report's own record: what stands above it can only repeat what the report says.
    hosted = all(record.host_trust is HostTrust.HYPERSCALER for record in amd if _is_milan(record))
    milan = next((record.product for record in amd if _is_milan(record)), None)
    if milan and (rules.milan == "refuse" or (rules.milan == "hosted" and not hosted)):
        return _bad("tee_product", "milan", milan)
    return _good("tee_product", amd[0].product)


def _is_milan(claims: TeeClaims) -> bool:
    return (claims.product or "").lower().startswith("milan")


def _freshness(claims: TeeClaims, rules: TeeRules) -> Check:
    found, age = claims.freshness.kind.value, claims.freshness.age_s
    if rules.freshness is not None and found not in rules.freshness:
        return _bad("tee_freshness", "freshness", found, _listed(rules.freshness))
    if rules.max_age_s is not None and claims.freshness.kind is FreshnessClass.DATED:
        if age is None:
            return _bad("tee_freshness", "age_unknown", found)
        if age > rules.max_age_s:
            return _bad("tee_freshness", "too_old", f"{age:.0f} s", f"at most {rules.max_age_s:.0f} s")
    elif rules.freshness is None:
        return _unasked("tee_freshness", found)
    return _good("tee_freshness", found)


def _binding(claims: TeeClaims, rules: TeeRules) -> Check:
    found = claims.binding.status
    if found is BindingStatus.MISMATCH:
        return _bad("tee_binding", "mismatch", claims.binding.kind)
    if found is BindingStatus.BOUND:
        return _good("tee_binding", claims.binding.kind)
    return _unasked("tee_binding", "unbound") if rules.binding == "any" else _bad("tee_binding", "unbound")


def _revocation(claims: TeeClaims, rules: TeeRules) -> Check:
    found = f"crl {claims.revocation.crl}, ocsp {claims.revocation.ocsp}"
    if "stale" in (claims.revocation.crl, claims.revocation.ocsp):
        return _bad("tee_revocation", "revocation_stale", found)
    if "ok" in (claims.revocation.crl, claims.revocation.ocsp):
        return _good("tee_revocation", found)
    return (
        _bad("tee_revocation", "revocation_unknown", found)
        if rules.revocation == "required"
        else _unasked("tee_revocation", found)
    )


def _gpu(claims: TeeClaims, rules: TeeRules) -> Check:
    if claims.platform in _GPUS:  # whose children are its own devices
        return _unasked("tee_gpu", claims.platform.value)
    gpus = [child for child in claims.children if child.platform in _GPUS]
    if not gpus:
        return _unasked("tee_gpu", "none") if rules.gpu == "any" else _bad("tee_gpu", "gpu_unknown")
    if not all(gpu.authentic for gpu in gpus):
        return _bad("tee_gpu", "gpu_not_authentic", next(gpu.reject_code for gpu in gpus if not gpu.authentic))
    # Bound to our nonce is not enough: whoever can relay a nonce can have it answered by another machine's device.
    if not all(gpu.binding.status is BindingStatus.BOUND and gpu.binding.kind in GPU_OF_THIS_MACHINE for gpu in gpus):
        return _bad("tee_gpu", "gpu_unlinked", f"{len(gpus)} accelerators")
    devices = [device for gpu in gpus for device in _records(gpu)]  # those of one machine may stand under one record
    if differ := [golden.kind for device in devices for golden in device.golden if golden.mismatched]:
        return _bad("tee_gpu", "gpu_mismatch", _listed(differ))
    if rules.gpu == "measured" and not all(_measured(device) for device in devices if not device.children):
        return _bad("tee_gpu", "gpu_unmeasured", f"{len(gpus)} accelerators")
    if rules.revocation == "required" and not all(_asked_after(device) for device in devices if not device.children):
        return _bad("tee_gpu", "gpu_revocation_unknown", f"{len(gpus)} accelerators")
    return _good("tee_gpu", f"{len(gpus)} accelerators")


def _asked_after(device: TeeClaims) -> bool:
    """Whether the responder was asked about a device's certificates: by us, or by the service that speaks for it."""
    return device.revocation.ocsp == "ok" or (device.evidence_format or "").startswith("nras-")


def _measured(device: TeeClaims) -> bool:
    """Whether manifests for all of a device's firmware were compared: a GPU's driver and VBIOS, a switch's BIOS."""
    compared = {golden.kind.partition(":")[0] for golden in device.golden if golden.matched}
    return compared >= ({"driver", "vbios"} if device.platform is Platform.NVIDIA_GPU else {"vbios"})


_ASK: tuple[Callable[[TeeClaims, TeeRules], Check], ...] = (
    _root,
    _platform,
    _tcb_status,
    _advisories,
    _evaluation,
    _minimum_svn,
    _debug,
    _configuration,
    _measurements,
    _machine,
    _host,
    _product,
    _freshness,
    _binding,
    _revocation,
    _gpu,
)
