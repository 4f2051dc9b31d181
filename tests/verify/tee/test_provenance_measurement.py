"""Measurements: fingerprints, which kinds compare with which, and the list of hardware platforms."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from gateway.model.provenance import HardwareMeasurement, Measurement
from gateway.verify.provenance.measurement import (
    MULTIPLATFORM,
    RTMR3_ZERO,
    SEV,
    TDX,
    compare,
    fingerprint,
    match_hardware,
    read_hardware,
    read_measurement,
)
from gateway.verify.tee.findings import NotAuthentic

A, B, C, D, E = (letter * 96 for letter in "abcde")


def made(kind: str, *registers: str) -> Measurement:
    return read_measurement({"type": kind, "registers": list(registers)})


BUILD = made(MULTIPLATFORM, A, B, C)
GUEST = made(TDX, D, E, B, C, RTMR3_ZERO)


def refusal(call: Any, *arguments: Any) -> str | None:
    with pytest.raises(NotAuthentic) as refused:
        call(*arguments)
    return refused.value.reason


def test_fingerprints() -> None:
    """One register is its own fingerprint; several are hashed with their type, in lower case."""
    assert fingerprint(made(SEV, A.upper())) == A
    assert fingerprint(made(MULTIPLATFORM, A.upper(), B, C)) == fingerprint(BUILD)
    assert fingerprint(BUILD) == hashlib.sha256((MULTIPLATFORM + A + B + C).encode()).hexdigest()
    assert fingerprint(GUEST) != fingerprint(made(TDX, D, E, B, C, A))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (made(SEV, A), made(SEV, A.upper())),
        (GUEST, GUEST),
        (made(TDX, D, E, B, C, A), made(TDX, D, E, B, C, A)),  # RTMR3 is not held to zero between equals
        (BUILD, BUILD),
        (BUILD, GUEST),
        (GUEST, BUILD),
        (BUILD, made(SEV, A)),
        (made(SEV, A), BUILD),
    ],
)
def test_the_same_build_compares_equal(source: Measurement, target: Measurement) -> None:
    """Equal kinds compare register by register, a multi-platform build with either guest, in either order."""
    compare(source, target)


@pytest.mark.parametrize(
    ("source", "target", "reason"),
    [
        (made(SEV, A), made(SEV, B), "measurement_mismatch"),
        (GUEST, made(TDX, A, E, B, C, RTMR3_ZERO), "measurement_mismatch"),
        (BUILD, made(SEV, B), "measurement_mismatch"),
        (BUILD, made(TDX, D, E, A, C, RTMR3_ZERO), "measurement_mismatch"),
        (BUILD, made(TDX, D, E, B, A, RTMR3_ZERO), "measurement_mismatch"),
        (made(TDX, D, E, C, B, RTMR3_ZERO), BUILD, "measurement_mismatch"),  # swapped
        (BUILD, made(TDX, D, E, B, C, "1" + RTMR3_ZERO[1:]), "measurement_rtmr3_nonzero"),
        (made(TDX, D, E, B, C, A), BUILD, "measurement_rtmr3_nonzero"),
        (GUEST, made(SEV, A), "measurement_type_combination_unsupported"),
        (made(SEV, A), GUEST, "measurement_type_combination_unsupported"),
    ],
)
def test_another_build_does_not(source: Measurement, target: Measurement, reason: str) -> None:
    """Any differing register, anything loaded later, and kinds that do not compare are refused."""
    assert refusal(compare, source, target) == reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "measurement_type_unknown"),
        ({"type": SEV}, "measurement_type_unknown"),
        ({"type": "other", "registers": [A]}, "measurement_type_unknown"),
        ({"type": SEV, "registers": []}, "measurement_register_count_invalid"),
        ({"type": TDX, "registers": [A] * 4}, "measurement_register_count_invalid"),
        ({"type": SEV, "registers": [A[:-1]]}, "measurement_register_invalid"),
        ({"type": SEV, "registers": [A + "\n"]}, "measurement_register_invalid"),
        ({"type": SEV, "registers": ["g" * 96]}, "measurement_register_invalid"),
    ],
)
def test_measurements_of_another_form(value: Any, reason: str) -> None:
    """An unknown kind, another number of registers, and registers that are not 96 hex digits are refused."""
    assert refusal(read_measurement, value) == reason


KNOWN = read_hardware([{"id": "one@x", "mrtd": A, "rtmr0": B}, {"id": "two@x", "mrtd": D.upper(), "rtmr0": E}])


def test_the_platform_with_both_registers_is_found() -> None:
    """MRTD and RTMR0 must both be the platform's, in any case."""
    assert match_hardware(GUEST, KNOWN) == HardwareMeasurement("two@x", D, E)


@pytest.mark.parametrize(
    ("enclave", "reason"),
    [
        (made(TDX, D, B, B, C, RTMR3_ZERO), "hardware_no_match"),
        (made(TDX, A, E, B, C, RTMR3_ZERO), "hardware_no_match"),
        (made(SEV, A), "enclave_measurement_type_invalid"),
    ],
)
def test_an_unknown_platform_is_refused(enclave: Measurement, reason: str) -> None:
    """One register of a platform and one of another is no platform; only TDX guests have these registers."""
    assert refusal(match_hardware, enclave, KNOWN) == reason


@pytest.mark.parametrize(
    "values",
    [
        None,
        [{"id": "a", "mrtd": A}],
        [{"id": "", "mrtd": A, "rtmr0": B}],
        [{"id": "\x1b", "mrtd": A, "rtmr0": B}],
        [{"id": "a" * 257, "mrtd": A, "rtmr0": B}],
        [{"id": "a", "mrtd": "", "rtmr0": B}],
    ],
)
def test_hardware_lists_of_another_form(values: Any) -> None:
    """A list whose entries lack a register or a plain name is refused."""
    assert refusal(read_hardware, values) == "hardware_measurement_invalid"
