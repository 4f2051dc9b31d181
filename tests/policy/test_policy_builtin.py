from __future__ import annotations

import hashlib
import re
import tomllib
from pathlib import Path

import pytest

from gateway.errors import PolicyError
from gateway.policy import Phase, parse_policy
from gateway.policy.explain import as_values, explain, shown
from gateway.policy.schema import BY_PATH, IDENTITY, KEYS, MODES
from gateway.policy.tree import leaves
from gateway.policy_files import builtin_files, directory_files, read_file, read_policies
from gateway.routing import REASONS
from gateway.verify.checks import CHECKS, CLAIM_SOURCES, CLAIMS, title_of

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "policy.md"
POLICIES = read_policies()


def test_the_four_built_in_policies_load() -> None:
    """observe, signed, strict and regulated are there, named by the SHA-256 of their files."""
    assert list(POLICIES) == ["observe", "regulated", "signed", "strict"]
    for source, data in builtin_files().items():
        policy = parse_policy(source, data)
        assert policy == POLICIES[policy.name]
        assert policy.digest == hashlib.sha256((ROOT / source).read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["signed", "strict", "regulated"])
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
        if key.kind in ("seconds", "count"):
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
    assert found >= 3
