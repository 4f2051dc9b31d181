"""docs/receipts.md and docs/audit.md name every member, step, kind and form that there is."""

import argparse
from pathlib import Path

import msgspec
import pytest

from gateway.cli import audit, verify
from gateway.cli.export_check import STEPS as EXPORT_STEPS
from gateway.log.audit import STEPS as AUDIT_STEPS
from gateway.log.export import Manifest
from gateway.model import receipt
from gateway.model.entry import KINDS
from gateway.model.verdict import Check, Claim, Outcome, Release
from gateway.offline import STEPS

DOCS = Path(__file__).parent.parent / "docs"
RECEIPTS, AUDIT = (DOCS / "receipts.md").read_text(), (DOCS / "audit.md").read_text()
SHAPES = (
    *(receipt.Statement, receipt.Receipt, receipt.Verifier, receipt.PolicyRef, receipt.RequestPart, receipt.Forwarded),
    *(receipt.Caller, receipt.Served, receipt.Route, receipt.Rejected, receipt.Delivery, receipt.EvidenceRef),
    *(receipt.Timings, receipt.Usage, receipt.LogRef, Check, Claim),
    *(receipt.ProofPart, receipt.ProofAnswer, receipt.AuditPart),
)


def members(shape: type[msgspec.Struct]) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(shape)]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: s.__name__)
def test_every_member_of_a_receipt_is_documented(shape: type[msgspec.Struct]):
    """Each member's wire name stands in docs/receipts.md as code."""
    missing = [name for name in members(shape) if f"`{name}`" not in RECEIPTS]
    assert missing == []


def test_every_step_kind_form_and_value_is_documented():
    """Steps of verify, kinds of entries, forms of subjects, outcomes and releases stand in the tables."""
    forms = [receipt.FORM_BYTES, receipt.FORM_SSE, receipt.FORM_UTF8, receipt.FORM_TOOLCALLS]
    names = [receipt.REQUEST_BODY, receipt.RESPONSE_BODY, receipt.RESPONSE_CONTENT, receipt.RESPONSE_TOOLCALLS]
    wanted = [*STEPS, *KINDS, *names, *(f.replace("||", "\\|\\|") for f in forms), *Outcome, *Release]
    assert [word for word in wanted if f"`{word}`" not in RECEIPTS] == []


def test_every_step_and_member_of_audits_is_documented():
    """Steps of audit verify and verify-export, and the manifest's members, stand in docs/audit.md."""
    wanted = [*AUDIT_STEPS, *EXPORT_STEPS, *members(Manifest)]
    assert [word for word in wanted if f"`{word}`" not in AUDIT] == []


@pytest.mark.parametrize(("command", "text"), [(verify, RECEIPTS), (audit, AUDIT)], ids=["verify", "audit"])
def test_flags_with_a_meaning_of_their_own_are_documented(command: object, text: str):
    """Every flag that changes an answer stands in the page or in the command's own help."""
    parser = argparse.ArgumentParser()
    command.configure(parser)  # type: ignore[attr-defined]
    flags: set[str] = set()
    parsers = [parser]
    while parsers:
        for action in parsers.pop()._actions:
            flags |= {o for o in action.option_strings if o.startswith("--")}
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    ordinary = {"--help", "--json", "--progress", "--proof", "--trust-bundle-keys", "--memory"}
    page = text + (command.__doc__ or "")
    assert [flag for flag in sorted(flags - ordinary) if flag not in page] == []
