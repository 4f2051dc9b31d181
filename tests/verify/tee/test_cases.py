"""Folders of cases: reading the manifest, changing the bytes, holding the result against what is expected."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from gateway.errors import FormatError
from gateway.model.tee import Platform, Root, TcbStatus, TeeResult
from gateway.verify.tee import cases, kinds
from gateway.verify.tee.cases import apply_mutation, parse_manifest, run_case
from gateway.verify.tee.findings import Findings, NotAuthentic, examine
from gateway.verify.tee.roots import Anchor, TrustRoots

GOOD = b"genuine"
PLAN = ("tee_format", "tee_chain")


def fake(blobs: Any, params: Any, roots: TrustRoots, now: float) -> TeeResult:
    """A family of evidence made for this test: authentic when it says `genuine` and its root is trusted."""

    def look(found: Findings) -> None:
        with found.step("tee_format"):
            if blobs["report"] != GOOD:
                raise NotAuthentic("it does not say genuine", reason="fake_word")
        with found.step("tee_chain"):
            root = roots.find("amd", blobs["root:ours"])
            if root is None:
                raise NotAuthentic("an unknown root", reason="chain_untrusted_root")
        found.set(root=root, debug=params.get("debug", False), tcb_status=TcbStatus.NOT_APPLICABLE, product="Genoa")
        found.set(raw={"word": "genuine", "debug": "as the manifest has it"})

    return examine(Platform.AMD_SEV_SNP, blobs["report"], now, PLAN, look)


@pytest.fixture(autouse=True)
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds.Kind, "verify", lambda self, *args: fake(*args))


FILES = {"a.bin": GOOD, "root.der": b"root"}


def manifest(case: dict[str, Any], **more: Any) -> cases.Manifest:
    document = {
        "kind": "snp",
        "roots": {"ours": "root.der"},
        "files": {"a.bin": {"sha256": hashlib.sha256(GOOD).hexdigest()}},
        "cases": [{"id": "c", "inputs": {"report": "a.bin"}, "evaluation_time": 5, **case}],
        **more,
    }
    return parse_manifest(json.dumps(document).encode())


def ran(case: dict[str, Any], **more: Any) -> cases.Ran:
    folder = manifest(case, **more)
    return run_case(folder, folder.cases[0], FILES.__getitem__)


OK = {"authentic": True, "default_policy": {"accept": True, "violations": []}}


def test_a_case_that_is_as_expected_has_no_problems() -> None:
    """Authenticity, the policy's verdict and the claims are as the manifest says; raw claims win by name."""
    found = ran(
        {"expected": {**OK, "claims": {"word": "genuine", "product": "Genoa", "debug": "as the manifest has it"}}}
    )
    assert found.problems == ()
    assert found.result is not None
    assert found.result.claims.root == Root("ours", hashlib.sha256(b"root").hexdigest(), test=True)
    assert found.result.claims.evaluated_at == 5


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"expected": {"authentic": False, "reject_code": "x"}}, "authentic True (None), expected False"),
        ({"expected": {"authentic": True, "claims": {"product": "Milan"}}}, "claim product"),
        ({"expected": {"authentic": True, "claims": {"nothing": 1}}}, "claim nothing"),
        ({"expected": OK, "params": {"debug": True}}, "policy: debug, expected accept True"),
        ({"expected": {"authentic": True, "default_policy": {"accept": False}}}, "policy: accepts, expected accept False"),
        ({"expected": OK, "mutations": [{"target": "report", "op": "xor", "offset": 0, "mask": 1}]}, "authentic False (fake_word)"),
        ({"expected": OK, "mutations": [{"target": "ek", "op": "xor", "offset": 0, "mask": 1}]}, "does not have"),
        ({"expected": OK, "mutations": [{"target": "report", "op": "xor", "offset": 99, "mask": 1}]}, "cannot be applied"),
    ],
)  # fmt: skip
def test_what_is_not_as_expected_is_named(case: dict[str, Any], words: str) -> None:
    """Each difference is a problem of the case, and none passes in silence."""
    assert any(words in problem for problem in ran(case).problems)


def test_a_file_that_was_changed_is_refused() -> None:
    """A file whose digest is not the manifest's is not appraised."""
    found = ran({"expected": OK}, files={"a.bin": {"sha256": "00" * 32}})
    assert found.result is None
    assert "not the one that the manifest names" in found.problems[0]


def test_a_key_set_that_the_folder_gives_is_trusted_for_the_folder() -> None:
    """An input `jwks` is an anchor of the case by its digest, as a pinned key set would be."""
    folder = manifest({"inputs": {"report": "a.bin", "jwks": "root.der"}, "expected": OK}, kind="nvidia_nras")
    blobs = {"jwks": b"keys", "root:ours": b"root"}
    anchors = cases._anchors(folder, kinds.kind_of("nvidia_nras"), blobs)
    assert anchors.find("nvidia_nras", b"keys") is not None


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"op": "xor", "offset": 1, "mask": 3}, b'{!a":1}'),
        ({"op": "write", "offset": 2, "hex": "6262"}, b'{"bb:1}'),
        ({"op": "truncate", "length": 2}, b'{"'),
        ({"op": "append", "hex": "00"}, b'{"a":1}\0'),
        ({"op": "replace_text", "old": "1", "new": "22"}, b'{"a":22}'),
        ({"op": "json_set", "field": "a", "value": [2]}, b'{"a":[2]}'),
    ],
)
def test_mutations(step: dict[str, Any], expected: bytes) -> None:
    """Each operation changes the bytes as the manifest format says."""
    assert apply_mutation(b'{"a":1}', step) == expected


@pytest.mark.parametrize(
    ("data", "step"),
    [
        (b"", {"op": "nothing"}),
        (b"", {}),
        (b"", {"op": "write", "offset": 0, "hex": "xx"}),
        (b"a", {"op": "replace_text", "old": "b", "new": "c"}),
        (b"a", {"op": "replace_text", "old": 1, "new": "c"}),
        (b"a", {"op": ["xor"]}),
        (b"a", {"op": "xor", "offset": 1, "mask": 1}),
        (b"a", {"op": "xor", "offset": 0, "mask": 256}),
        (b"a", {"op": "truncate", "length": "1"}),
        (b"[]", {"op": "json_set", "field": "a", "value": 1}),
        (b"{", {"op": "json_set", "field": "a", "value": 1}),
    ],
)
def test_mutations_that_cannot_be_applied_are_refused(data: bytes, step: dict[str, Any]) -> None:
    """An operation that is unknown, or does not fit the bytes, is an error of the manifest."""
    with pytest.raises(FormatError):
        apply_mutation(data, step)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"kind":1}', b'{"kind":"snp","cases":[{"id":"a"}]}'])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    """A manifest is JSON with a kind and cases."""
    with pytest.raises(FormatError):
        parse_manifest(data)


def test_an_unknown_kind_names_those_that_there_are() -> None:
    """A kind that is not in the registry is refused by name."""
    found = ran({"expected": OK}, kind="sgz")
    assert "no kind of evidence 'sgz'" in found.problems[0]
    assert "nitro" in found.problems[0]


def test_pitfall_a_folder_makes_no_vendors_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """A root that a folder brings is a test's, whatever the folder calls it, unless it is the vendor's own."""
    digest = hashlib.sha256(b"root").hexdigest()
    for vendor, test in (("amd", False), ("intel", True)):
        monkeypatch.setattr(cases, "VENDOR_ROOTS", TrustRoots((Anchor(vendor, "theirs", digest),)))
        found = ran({"expected": OK})
        assert found.result is not None
        assert found.result.claims.root == Root("ours", digest, test=test)
