"""Measurements as Tinfoil publishes them: their form, fingerprint, and when two of different kinds are the same build.

    sev-snp-guest/v2         [launch measurement]
    tdx-guest/v2             [MRTD, RTMR0, RTMR1, RTMR2, RTMR3]
    snp-tdx-multiplatform/v1 [SNP launch measurement, RTMR1, RTMR2]: one build, for either kind of machine

MRTD and RTMR0 come from the machine's firmware, not from the build: they are compared with a signed list of hardware
measurements, separately. RTMR3 must be zero: nothing may have been loaded after the measured boot. Registers are
compared as lower-case hex. docs/verification.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import msgspec

from gateway.model.provenance import HardwareMeasurement, Measurement
from gateway.verify.tee.findings import NotAuthentic

SEV = "https://tinfoil.sh/predicate/sev-snp-guest/v2"
TDX = "https://tinfoil.sh/predicate/tdx-guest/v2"
MULTIPLATFORM = "https://tinfoil.sh/predicate/snp-tdx-multiplatform/v1"
HARDWARE = "https://tinfoil.sh/predicate/hardware-measurements/v1"

#: How many registers each kind has.
REGISTERS = {SEV: 1, TDX: 5, MULTIPLATFORM: 3}
RTMR3_ZERO = "0" * 96
_REGISTER = re.compile(r"[0-9a-fA-F]{96}")
MAX_HARDWARE = 1024
_MAX_ID = 256


class _Form(msgspec.Struct, frozen=True):
    type: str
    registers: list[str]


class _HardwareForm(msgspec.Struct, frozen=True):
    id: str
    mrtd: str
    rtmr0: str


def register(text: object, reason: str) -> str:
    """One SHA-384 register in lower case; `NotAuthentic` with `reason` for anything else."""
    if not isinstance(text, str) or not _REGISTER.fullmatch(text):
        raise NotAuthentic("a measurement register is not 96 hex digits", reason=reason)
    return text.lower()


def make_measurement(kind: str, registers: Iterable[object]) -> Measurement:
    """A measurement of `kind`, its registers checked and in lower case.

    `NotAuthentic` with measurement_type_unknown, measurement_register_count_invalid or measurement_register_invalid.
    """
    count = REGISTERS.get(kind)
    values = tuple(registers)
    if count is None:
        raise NotAuthentic("there is no such kind of measurement", reason="measurement_type_unknown")
    if len(values) != count:
        raise NotAuthentic(
            "a measurement has the wrong number of registers",
            reason="measurement_register_count_invalid",
            found=str(len(values)),
            expected=str(count),
        )
    return Measurement(kind, tuple(register(value, "measurement_register_invalid") for value in values))


def read_measurement(value: object) -> Measurement:
    """`{"type": ..., "registers": [...]}` as a measurement; `NotAuthentic` as `make_measurement` says."""
    try:
        form = msgspec.convert(value, _Form)
    except msgspec.ValidationError:
        raise NotAuthentic("not a measurement", reason="measurement_type_unknown") from None
    return make_measurement(form.type, form.registers)


def read_hardware(values: object) -> tuple[HardwareMeasurement, ...]:
    """A list of `{"id", "mrtd", "rtmr0"}`; `NotAuthentic` with hardware_measurement_invalid for anything else."""
    try:
        forms = msgspec.convert(values, list[_HardwareForm])
    except msgspec.ValidationError:
        raise NotAuthentic("not a list of hardware measurements", reason="hardware_measurement_invalid") from None
    return tuple(make_hardware(form.id, form.mrtd, form.rtmr0) for form in forms)


def make_hardware(identifier: str, mrtd: object, rtmr0: object) -> HardwareMeasurement:
    """One platform's measurements, checked and in lower case."""
    if not 0 < len(identifier) <= _MAX_ID or not identifier.isprintable():
        raise NotAuthentic("a platform's id is not plain text", reason="hardware_measurement_invalid")
    reason = "hardware_measurement_invalid"
    return HardwareMeasurement(identifier, register(mrtd, reason), register(rtmr0, reason))


def fingerprint(measurement: Measurement) -> str:
    """The register itself where there is one, else hex SHA-256 of the type and the registers, joined."""
    if len(measurement.registers) == 1:
        return measurement.registers[0]
    return hashlib.sha256("".join([measurement.type, *measurement.registers]).encode()).hexdigest()


def compare(source: Measurement, target: Measurement) -> None:
    """Show that both are of the same build; `NotAuthentic` with measurement_mismatch, measurement_rtmr3_nonzero or
    measurement_type_combination_unsupported. The order of the two does not matter."""
    if target.type == MULTIPLATFORM and source.type != MULTIPLATFORM:
        source, target = target, source
    if source.type == target.type:
        pairs = list(zip(source.registers, target.registers, strict=True))
    elif source.type == MULTIPLATFORM and target.type == SEV:
        pairs = [(source.registers[0], target.registers[0])]
    elif source.type == MULTIPLATFORM:
        pairs = [(source.registers[1], target.registers[2]), (source.registers[2], target.registers[3])]
    else:
        raise NotAuthentic(
            "measurements of these two kinds cannot be compared", reason="measurement_type_combination_unsupported"
        )
    for expected, found in pairs:
        if expected != found:
            raise NotAuthentic("the measurements differ", reason="measurement_mismatch", found=found, expected=expected)
    if source.type != target.type and target.type == TDX and target.registers[4] != RTMR3_ZERO:
        raise NotAuthentic(
            "RTMR3 is not zero: something was loaded after the measured boot",
            reason="measurement_rtmr3_nonzero",
            found=target.registers[4],
        )


def match_hardware(enclave: Measurement, known: Iterable[HardwareMeasurement]) -> HardwareMeasurement:
    """The first platform of `known` whose MRTD and RTMR0 are both the enclave's; `NotAuthentic` when there is none."""
    if enclave.type != TDX:
        raise NotAuthentic("only TDX guests have hardware measurements", reason="enclave_measurement_type_invalid")
    for platform in known:
        if (platform.mrtd, platform.rtmr0) == enclave.registers[:2]:
            return platform
    raise NotAuthentic(
        "no known platform has this MRTD and RTMR0", reason="hardware_no_match", found=enclave.registers[0]
    )
