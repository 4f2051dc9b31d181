"""Folders of cases for `veriroute appraise`: ours (a manifest.json), and Tinfoil's conformance suite."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gateway.errors import FormatError
from gateway.model.verdict import Outcome
from gateway.text import plain
from gateway.verify.tee import conformance
from gateway.verify.tee.cases import Manifest, Ran, parse_manifest, run_case
from gateway.verify.tee.conformance import Agreement
from gateway.verify.tee.findings import MANDATORY
from gateway.verify.tee.kinds import BEHIND
from gateway.verify.tee.outcomes import contradicted
from gateway.verify.tee.rules import CASES, RULES, judge, violations

from ._appraise_inputs import Usage, read
from ._appraise_show import check_rows
from .terminal import Progress, mark

Answer = tuple[int, list[str], dict[str, Any]]


def manifest_folder(folder: Path, wanted: list[str]) -> Answer:
    """Run the cases of a manifest, all or those `wanted`: the exit code, the lines, and the same as JSON."""
    manifest = parse_manifest(read(folder / "manifest.json"))
    cases = [case for case in manifest.cases if not wanted or case.id in wanted]
    missing = sorted(set(wanted) - {case.id for case in cases})
    if missing:
        raise Usage(f"there is no case {missing[0]!r} in {folder / 'manifest.json'}")
    progress = Progress("cases")
    ran = []
    for number, case in enumerate(cases, 1):
        ran.append(run_case(manifest, case, lambda name: _inside(folder, name)))
        progress.update(number, len(cases))
    progress.clear()
    failed = sum(1 for one in ran if one.problems)
    document = {
        "kind": manifest.kind,
        "passed": len(ran) - failed,
        "failed": failed,
        "cases": [_case_document(one) for one in ran],
    }
    rows = [row for one in ran for row in _case_rows(manifest, one, bool(wanted))]
    return 1 if failed else 0, [*rows, f"{len(ran) - failed} passed, {failed} failed"], document


def _case_rows(manifest: Manifest, one: Ran, detailed: bool) -> list[str]:
    rows = [_line(not one.problems, f"{manifest.kind}/{plain(one.case.id, 80)}", _said(one))]
    rows += [f"       {plain(problem, 300)}" for problem in one.problems]
    if detailed and one.result is not None:
        rows += check_rows(one.result.checks, {**MANDATORY, **BEHIND})
        rows += check_rows(judge(one.result.claims, CASES), RULES)
    return rows


def _line(good: bool, name: str, said: str) -> str:
    outcome = Outcome.AFFIRMING if good else Outcome.CONTRAINDICATED
    return f"{mark(outcome, sys.stdout).split()[0]} {'ok' if good else 'FAIL':<5}{name:<62} {said}"


def _said(one: Ran) -> str:
    if one.result is None:
        return "not appraised"
    if not one.result.claims.authentic:
        return f"not authentic: {one.result.claims.reject_code}"
    bad = _refusals(one)
    root = " (root=TEST)" if one.result.claims.root and one.result.claims.root.test else ""
    return ("authentic, refused: " + ", ".join(bad) if bad else "authentic, accepted") + root


def _refusals(one: Ran) -> list[str]:
    assert one.result is not None  # asked of a case that was appraised
    return [*violations(judge(one.result.claims, CASES)), *contradicted(one.result)]


def _case_document(one: Ran) -> dict[str, Any]:
    claims = one.result.claims if one.result else None
    return {
        "id": one.case.id,
        "passed": not one.problems,
        "problems": list(one.problems),
        "authentic": claims.authentic if claims else None,
        "reject_code": claims.reject_code if claims else None,
        "violations": _refusals(one) if claims else None,
    }


def _inside(folder: Path, name: str) -> bytes:
    """A file of the folder; a manifest cannot name one outside of it."""
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError):  # a loop of links; a name with a zero byte
        raise FormatError(f"the manifest names no file: {name[:80]!r}") from None
    if not path.is_relative_to(folder.resolve()):
        raise FormatError(f"the manifest names a file outside of its folder: {name[:80]!r}")
    return read(path)


# -- Tinfoil's suite --------------------------------------------------------------------------------------------------


def conformance_folder(folder: Path, wanted: list[str]) -> Answer:
    """Run the cases of the suite: STAGE/ID folders, or the ID folders of one stage. As `manifest_folder`."""
    found = sorted({path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/input.json")})
    cases = [case for case in found if not wanted or {case.name, _name(folder, case)} & set(wanted)]
    if not cases:
        asked = f"no case {wanted[0]!r}" if wanted else "no case (a folder with an input.json)"
        raise Usage(f"there is {asked} in {folder}")
    progress = Progress("cases")
    rows, documents, counts = [], [], Counter[str]()
    for number, case in enumerate(cases, 1):
        ran = _conform(case)
        counts[ran["agreement"]] += 1
        rows.append(_conformance_row(_name(folder, case), ran))
        documents.append({"id": _name(folder, case), **ran})
        progress.update(number, len(cases))
    progress.clear()
    cut, earlier = counts[Agreement.CUT], counts[Agreement.EARLIER]
    passed, failed = counts[Agreement.AGREES] + cut, counts[Agreement.DIFFERS]
    total = f"{passed} passed, {failed} failed, {earlier} refused earlier than the suite asks"
    rows.append(total)
    if cut:
        rows.append(f"{cut} of those that passed were judged without the unsigned bytes behind their quote")
    document = {"passed": passed, "failed": failed, "earlier": earlier, "cut": cut, "cases": documents}
    return 1 if failed else 0, rows, document


def _name(folder: Path, case: Path) -> str:
    return case.relative_to(folder).as_posix()


def _conform(case: Path) -> dict[str, Any]:
    expected = case / "expected.json"
    try:
        ran = conformance.run_case(
            read(case / "input.json"),
            read(case / "manifest.yaml"),
            read(expected) if expected.exists() else None,
        )
    except (FormatError, Usage) as error:
        return {"agreement": Agreement.DIFFERS.value, "accepted": None, "reason": None, "note": f"{error}"}
    return {
        "agreement": ran.agreement.value,
        "accepted": ran.answer.accepted,
        "reason": ran.answer.reason,
        "note": ran.note,
    }


def _conformance_row(name: str, ran: dict[str, Any]) -> str:
    said = "not judged" if ran["accepted"] is None else "accepted" if ran["accepted"] else f"refused: {ran['reason']}"
    note = f" ({plain(ran['note'], 200)})" if ran["note"] else ""
    if ran["agreement"] == Agreement.EARLIER:
        sign = mark(Outcome.WARNING, sys.stdout).split()[0]
        return f"{sign} {'early':<6}{plain(name, 80):<61} {said}{note}"
    return _line(ran["agreement"] != Agreement.DIFFERS, plain(name, 80), said + note)


__all__: Sequence[str] = ("conformance_folder", "manifest_folder")
