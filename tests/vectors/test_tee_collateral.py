"""Real quotes, reports, certificates and collateral: what each needs is read from it; what the vendor gave is kept."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import FormatError
from gateway.verify.tee.endorsements import check_part
from gateway.verify.tee.intel import verify_intel
from gateway.verify.tee.needs import AmdNeed, IntelNeed, need_of
from gateway.verify.tee.roots import VENDOR_ROOTS

VECTORS = Path(__file__).parents[2].parent / "shared/vectors/tee"

pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"the evidence vectors are not at {VECTORS}")


def cases(kind: str) -> list[dict[str, Any]]:
    """The cases without mutations: genuine bytes, whatever their verdict."""
    path = VECTORS / kind / "manifest.json"
    listed = json.loads(path.read_text("utf-8"))["cases"] if path.is_file() else []
    return [case for case in listed if not case.get("mutations")]


def blobs(kind: str, case: dict[str, Any]) -> dict[str, bytes]:
    return {role: (VECTORS / kind / file).read_bytes() for role, file in case["inputs"].items()}


def attempt(what: Callable[[], Any]) -> tuple[Any, str | None]:
    """What it gives, or the reason for which it does not."""
    try:
        return what(), None
    except FormatError as error:
        return None, error.reason


@pytest.mark.parametrize("case", cases("tdx"), ids=lambda case: case["id"])
def test_intels_own_collateral_is_kept_for_the_quote_that_needs_it(case: dict[str, Any]) -> None:
    """Where the verdict does not rest on the collateral, it passes; end and evaluation number are the verifier's."""
    inputs, now = blobs("tdx", case), float(case["evaluation_time"])
    collateral = {"collateral": inputs["collateral"]}
    claims = verify_intel(inputs["quote"], inputs["collateral"], roots=VENDOR_ROOTS, now=now).claims
    need, refused = attempt(lambda: need_of("tdx", inputs))
    if refused is not None:
        assert refused == claims.reject_code
        return
    assert isinstance(need, IntelNeed)
    checked, refused = attempt(lambda: check_part(need, collateral, {}, roots=VENDOR_ROOTS, now=now))
    if refused is not None:
        assert not claims.authentic
        assert refused in (claims.reject_code, "collateral_of_another")
        return
    assert not checked.test
    if claims.collateral.expires is None:
        assert claims.reject_code == "cert_expired_or_not_yet_valid"  # the quote's own chain, not the collateral's
        return
    assert checked.expires >= claims.collateral.expires  # which counts the quote's chain too
    assert checked.evaluation == min(claims.raw["tcb_eval"], claims.raw["qe_eval"])
    assert need.fmspc == claims.raw.get("fmspc", need.fmspc).lower()


@pytest.mark.parametrize("case", cases("snp"), ids=lambda case: case["id"])
def test_amds_own_key_is_kept_for_the_report_that_needs_it(case: dict[str, Any]) -> None:
    """Chip, TCB, product and role that the report states are those of its genuine certificate, and of no other."""
    inputs, now = blobs("snp", case), float(case["evaluation_time"])
    need, refused = attempt(lambda: need_of("snp", {"report": inputs["report"]}))
    if refused is not None:
        assert not case["expected"]["authentic"]
        return
    assert isinstance(need, AmdNeed)
    kept = []
    for product in need.products:
        key = need.key(product)
        assert key is not None
        ek, ask = {"ek": inputs["ek"]}, {"ask": inputs["ask"]}
        _, refused = attempt(lambda: check_part(key, ek, ask, roots=VENDOR_ROOTS, now=now))  # noqa: B023
        kept += [product] if refused is None else []
    if case["expected"]["authentic"]:
        assert kept == [case["expected"]["claims"]["product"].partition("-")[0]]
    given = need_of("snp", inputs)
    assert isinstance(given, AmdNeed)
    assert all(given.key(product) is None for product in given.products)
