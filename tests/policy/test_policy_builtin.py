from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

from gateway.errors import PolicyError
from gateway.policy import Phase, parse_policy
from gateway.policy.decide import PRECEDENCE
from gateway.policy.explain import as_values, explain, shown
from gateway.policy.schema import BY_PATH, IDENTITY, KEYS, MODES
from gateway.policy.tree import leaves
from gateway.policy_files import builtin_files, directory_files, read_file, read_policies
from gateway.routing import REASONS
from gateway.verify.checks import CHECKS, CLAIM_SOURCES, CLAIMS, title_of

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "policy.md"
POLICIES = read_policies()


def test_the_seven_built_in_policies_load() -> None:
    """Seven policies are there, named by the SHA-256 of their files."""
    assert list(POLICIES) == ["audited", "observe", "quorum", "reexec", "regulated", "signed", "strict"]
    for source, data in builtin_files().items():
        policy = parse_policy(source, data)
        assert policy == POLICIES[policy.name]
        assert policy.digest == hashlib.sha256((ROOT / source).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["signed", "strict", "regulated", "audited"])
def test_policies_that_guard_ask_for_node_and_answer(name: str) -> None:
    """Every built-in policy that holds back requires the whole chain from pinned key to delivered bytes."""
    policy = POLICIES[name]
    assert policy.plan.node_ids >= {"evidence", "key_bound", "keyset_valid", "fresh"}
    assert policy.plan.response_ids >= {
        "signature", "key_bound", "request_bound", "response_bound", "replay", "model_echo", "malformed", "shape",
        "stream_grammar", "executable_uncovered", "tool_undeclared",
    }  # fmt: skip
    assert policy.on_failure in ("refuse", "next_node")
    assert policy.retry_after_send is False
    assert (policy.audit.durability, policy.audit.on_log_failure) == ("durable", "refuse")
    assert set(policy.release.stream) <= {"chained", "buffer"}


def test_what_tells_the_built_in_policies_apart() -> None:
    """observe flags and streams, strict asks for attested hardware, regulated keeps records for six months."""
    assert POLICIES["observe"].on_failure == "flag"
    assert POLICIES["observe"].release.stream[0] == "optimistic"
    strict = POLICIES["strict"]
    assert {"channel_bound", "tee_attested"} <= {leaf.id for leaf in leaves(strict.require)}
    assert (strict.release.stream, strict.output.text_as_tool_call) == (("buffer",), "refuse")
    regulated = POLICIES["regulated"]
    assert (regulated.audit.store_payload, regulated.audit.retention_min_days) == ("salted", 184)
    assert regulated.attach == "full"


@pytest.mark.parametrize(("name", "proof"), [("quorum", "proof_quorum"), ("reexec", "proof_reexec")])
def test_policies_for_nodes_that_sign_nothing(name: str, proof: str) -> None:
    """quorum and reexec ask nothing of the node, one proof of the answer, and hold everything back until it is there."""
    policy = POLICIES[name]
    assert (policy.plan.node_ids, policy.plan.node, policy.plan.unasked) == (frozenset(), (), True)
    assert policy.plan.proofs == {proof}
    assert policy.plan.response_ids == {
        proof, "model_echo", "malformed", "shape", "stream_grammar", "executable_uncovered", "tool_undeclared",
        "tool_arguments",
    }  # fmt: skip
    assert (policy.on_failure, policy.proofs.on_inconclusive, policy.release.stream) == (
        "refuse",
        "refuse",
        ("buffer",),
    )
    assert (policy.quorum.n, policy.quorum.m) == (2, 3)


def test_audited_is_signed_and_sampled() -> None:
    """audited requires what signed does, gathers no proof before the release, and audits three of a hundred."""
    audited, signed = POLICIES["audited"], POLICIES["signed"]
    assert (audited.require, audited.release) == (signed.require, signed.release)
    assert audited.plan.proofs == frozenset()
    sampled = audited.sampled
    assert (sampled.rate, sampled.epoch_s, sampled.on_fail) == (0.03, 3600, "quarantine")
    assert (sampled.delay_min_s, sampled.delay_max_s) == (60, 3600)
    assert all(POLICIES[name].sampled.rate == 0 for name in POLICIES if name != "audited")


def test_explanation_of_proofs() -> None:
    """What proofs cost, what an undecided one is, and that the node is not asked, is said where it is so."""
    words = explain(POLICIES["quorum"])
    assert "The prompt goes to 2 nodes, and to 3 at most while they do not agree.\n" in words
    assert "did not decide is not shown; one that fails contraindicates.\n" in words
    assert "Nothing is required of a node before it gets the prompt: a proof is of the answer.\n" in words
    assert "The prompt goes to" not in explain(POLICIES["reexec"])
    assert "3 % of the released answers are run again afterwards, within 3600 s.\n" in explain(POLICIES["audited"])
    assert "proof" not in explain(POLICIES["signed"]).split("In force")[0]
    text = 'name = "p"\nversion = 1\n[require]\nall = ["evidence", "proof_zk"]\n[proofs]\non_inconclusive = "warn"\n'
    words = explain(parse_policy("p.toml", text.encode()))
    assert "did not decide is a warning;" in words
    assert "Nothing is required of a node" not in words
    numbers = {0.03: "0.03", 1e-09: "0.000000001", 0.123456789: "0.123456789", 0: "0", 1.0: "1"}
    assert {value: shown(BY_PATH["sampled.rate"], value) for value in numbers} == numbers


def test_explanation_names_every_required_check_by_its_title() -> None:
    """The words for a policy hold the title of each check, each value in force and the digest."""
    for policy in POLICIES.values():
        text = explain(policy)
        for leaf in leaves(policy.require):
            assert (title_of(leaf.id) if leaf.check else CLAIMS[leaf.id].title) in text
        assert all(re.search(rf"^  [* ] {re.escape(key.path)} ", text, re.MULTILINE) for key in KEYS)
        assert policy.digest in text


def test_explanation_of_groups_and_consequences() -> None:
    """Groups are said in words, and so is what follows from a failure."""
    text = """name = "p"
version = 1
on_failure = "next_node"
retry_after_send = true
[require]
all = ["evidence", {any = ["fresh", "channel_bound"]},
  {at_least = 2, of = ["key_weak", "keyset_valid", {all = ["key_bound", "replayed_nonce"]}]}]
[nodes]
deny = ["n1", "n2"]
"""
    policy = parse_policy("p.toml", text.encode())
    words = explain(policy)
    assert "one of these, and none contraindicated:" in words
    assert "at least 2 of these 3, and none contraindicated:" in words
    assert "all of these:" in words
    assert "for the next one, also after the prompt was sent." in words
    assert "while the prompt has not left" in explain(POLICIES["strict"])
    assert "This policy only looks." in explain(POLICIES["observe"])
    assert "n1, n2" in words
    values = as_values(policy)
    assert values["require"]["all"][1] == {"any": ["fresh", "channel_bound"]}
    assert values["require"]["all"][2]["at_least"] == 2
    assert values["nodes"] == {"deny": ["n1", "n2"]}
    assert shown(BY_PATH["deadlines.connect_s"], 0.5) == "0.5 s"


def test_values_written_back_are_the_same_policy() -> None:
    """The tree that `as_values` gives is the tree that the file format reads."""
    for policy in POLICIES.values():
        assert as_values(policy)["require"]["all"] == [
            leaf.check or {"claim": leaf.claim, "status": "asserted", "source": list(leaf.sources)}
            for leaf in leaves(policy.require)
        ]


def test_directory_overlays_the_built_in_policies(tmp_path: Path) -> None:
    """An operator's folder adds policies, replaces one only when it says so, and other files are not read."""
    signed = builtin_files()["policies/signed.toml"]
    (tmp_path / "ours.toml").write_bytes(signed.replace(b'name = "signed"', b'name = "ours"'))
    (tmp_path / "README.md").write_text("not a policy")
    assert set(read_policies(tmp_path)) == {*POLICIES, "ours"}
    (tmp_path / "signed.toml").write_bytes(signed.replace(b"version = 2", b"version = 3"))
    with pytest.raises(PolicyError, match=r"signed\.toml:3: 'signed' is a built-in policy"):
        read_policies(tmp_path)
    (tmp_path / "signed.toml").write_bytes(b'replaces = "builtin"\n' + signed.replace(b"version = 2", b"version = 3"))
    assert read_policies(tmp_path)["signed"].version == 3


def test_unreadable_places_are_named(tmp_path: Path) -> None:
    """A folder or file that cannot be read is a policy error that says where."""
    with pytest.raises(PolicyError, match="the policy directory cannot be read"):
        directory_files(tmp_path / "nowhere")
    with pytest.raises(PolicyError, match="the policy file cannot be read"):
        read_file(tmp_path)


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    """Of a file that is larger than a policy may be, one byte more than that is read."""
    (tmp_path / "huge.toml").write_bytes(b"#" * 1_000_000)
    assert len(read_file(tmp_path / "huge.toml")) == 256 * 1024 + 1
    with pytest.raises(PolicyError, match="a policy has at most 262144"):
        read_policies(tmp_path)


def test_every_key_is_documented() -> None:
    """docs/policy.md has a row for every key with its default and its choices, and no row for a key that is not."""
    rows = {}
    vocabulary = DOC.read_text(encoding="utf-8").split("\n## Vocabulary\n")[1].split("\n## ")[0]
    for line in vocabulary.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 4 and re.fullmatch(r"`[a-z_.]+`", cells[0]):
            rows[cells[0].strip("`")] = cells
    assert set(rows) == set(BY_PATH)
    for key in KEYS:
        default = "any" if key.default is None else shown(key, key.default)
        assert rows[key.path][2] == default, key.path
        for choice in key.choices:
            assert f"`{choice}`" in rows[key.path][1], key.path
        if key.kind in ("seconds", "count", "number"):
            assert f"{key.low:g} to {key.high:g}" in rows[key.path][1], key.path


def test_every_word_is_documented() -> None:
    """docs/policy.md explains every identity key, check, claim, source, mode and routing reason."""
    text = DOC.read_text(encoding="utf-8")
    for word in (*IDENTITY, *CHECKS, *CLAIMS, *CLAIM_SOURCES, *MODES, *REASONS):
        assert f"`{word}`" in text, word
    for entry in CHECKS.values():
        assert entry.title in text, entry.id
        phases = {(Phase.NODE,): "node", (Phase.RESPONSE,): "answer"}.get(entry.phases, "both")
        assert f"| `{entry.id}` | {phases} |" in text
    for claim in CLAIMS.values():
        assert claim.title in text, claim.name


def test_examples_in_the_documents_are_usable_policies() -> None:
    """Every whole policy in docs/policy.md and policies/README.md is read without a problem."""
    found = 0
    for path in (DOC, ROOT / "policies" / "README.md"):
        for block in re.findall(r"```toml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            name = tomllib.loads(block).get("name")
            if name is not None:
                parse_policy(f"{name}.toml", block.encode())
                found += 1
    assert found >= 8


def test_documented_order_of_reasons() -> None:
    """docs/policy.md names the first failure in the order of the code, as far as it goes."""
    told = DOC.read_text("utf-8").split("first failure in this order:")[1].split(", then the others")[0]
    names = re.findall(r"`(\w+)`", told)
    assert names == list(PRECEDENCE[: len(names)])
    assert names[-1] == "output_kind"
