"""A dated file of advisories: strictly read, joined to what the policy denies, named by receipts, and refused when old."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cli import main
from gateway.errors import PolicyError
from gateway.policy import Beside, CompiledPolicy, inspect_policies, parse_policy, tighten
from gateway.policy_files import files_beside, read_policies, read_policy
from gateway.recorder import PolicyUse

NOV = 1_793_491_200.0  # 2026-11-01
DAY = 86_400.0
REQUIRE = '[require]\nall = ["evidence"]\n'
GOOD = """\
as_of = "2026-11-01"
source = "vendors"

[[advisory]]
id = "INTEL-SA-00001"
severity = "high"
note = "first"

[[advisory]]
id = "AMD-SB-3019"
severity = "unrated"
note = "second"
"""


def policy(
    tee: str = 'advisories_file = "advisories/a.toml"\n', files: dict[str, str] | None = None, now: float | None = None,
    name: str = "p", folder: str = "d/",
) -> CompiledPolicy:  # fmt: skip
    text = f'name = "{name}"\nversion = 3\n{REQUIRE}[tee]\n{tee}'
    files = {"d/advisories/a.toml": GOOD} if files is None else files
    return parse_policy(f"{folder}{name}.toml", text.encode(), Beside({k: v.encode() for k, v in files.items()}, now))


def test_the_files_ids_join_those_of_the_policy() -> None:
    """Both lists are denied; what the policy states is told apart from what came along."""
    both = policy('advisories_deny = ["INTEL-SA-00009"]\nadvisories_file = "advisories/a.toml"\n')
    assert both.tee_rules.advisories_deny == {"INTEL-SA-00001", "AMD-SB-3019", "INTEL-SA-00009"}
    assert policy().tee.advisories_deny == {"INTEL-SA-00001", "AMD-SB-3019"}
    assert policy().stated == {"tee.advisories_file"}
    assert policy("").tee.advisories_deny == frozenset()


def test_a_receipt_names_the_file() -> None:
    """Policy and file stand in the refs by the digests of their bytes, and another file makes another digest."""
    found = policy()
    digest = hashlib.sha256(GOOD.encode()).hexdigest()
    assert [(ref.name, ref.version, ref.digest) for ref in found.refs][1] == ("advisories/a", 20261101, digest)
    assert (found.name, found.version, found.refs[0].version) == ("p", 3, 3)
    other = policy(files={"d/advisories/a.toml": GOOD + "\n"})
    assert (other.refs[0], other.digest != found.digest) == (found.refs[0], True)
    named = {(ref.name, ref.digest.sha256) for ref in PolicyUse.of(found).verifier.policies}
    assert ("advisories/a", digest) in named
    assert ("p", found.digest) in named


def test_the_one_beside_the_policy_comes_before_the_one_that_comes_along() -> None:
    """And without one beside it, that of the gateway is taken."""
    ours = GOOD.replace("INTEL-SA-00001", "INTEL-SA-00002")
    both = {"d/advisories/a.toml": GOOD, "policies/advisories/a.toml": ours}
    assert "INTEL-SA-00001" in policy(files=both).tee.advisories_deny
    assert "INTEL-SA-00002" in policy(files={"policies/advisories/a.toml": ours}).tee.advisories_deny
    assert "INTEL-SA-00001" in policy(files={"advisories/a.toml": GOOD}, folder="").tee.advisories_deny


def test_tightening_joins_two_lists() -> None:
    """A caller's policy adds its file to the one in force, and neither is lost from the refs."""
    wide, asked = policy(), policy(name="q", files={"d/advisories/a.toml": GOOD.replace("00001", "00002")})
    granted = tighten(wide, asked)
    assert granted.tee_rules.advisories_deny == {"INTEL-SA-00001", "INTEL-SA-00002", "AMD-SB-3019"}
    assert {ref.digest for ref in granted.refs} == {ref.digest for ref in (*wide.refs, *asked.refs)}
    assert (granted.name, granted.version) == ("p+q", 3)
    assert granted.summary == "In every point the stricter of p and q."
    assert tighten(asked, wide) == granted
    assert tighten(granted, wide) is granted
    # The same policy file beside another list is not the policy in force.
    again = policy(files={"d/advisories/a.toml": GOOD.replace("00001", "00003")})
    assert "INTEL-SA-00003" in tighten(wide, again).tee_rules.advisories_deny
    assert tighten(wide, policy("")).tee_rules.advisories_deny >= wide.tee_rules.advisories_deny


OLD = 'advisories_file = "advisories/a.toml"\nadvisories_max_age_days = 30\n'


@pytest.mark.parametrize(
    ("tee", "now", "message"),
    [
        (OLD, NOV + 30 * DAY, None),
        (OLD, NOV + 31 * DAY, r"d/p.toml:6: d/advisories/a.toml is 31 days old; tee.advisories_max_age_days is 30"),
        (OLD, None, None),
        ('advisories_file = "advisories/a.toml"\n', NOV + 10_000 * DAY, None),
        ('advisories_file = "advisories/a.toml"\n', NOV - DAY, None),
        ('advisories_file = "advisories/a.toml"\n', NOV - 2 * DAY, "d/p.toml:6: d/advisories/a.toml is of the future"),
        ("advisories_max_age_days = 30\n", NOV, "d/p.toml:6: there is no tee.advisories_file whose age"),
    ],
)
def test_a_file_that_is_too_old_refuses_the_policy(tee: str, now: float | None, message: str | None) -> None:
    """Where the policy says how old it may be; one from the future always; without a clock nothing is said of age."""
    if message is None:
        assert policy(tee, now=now).tee.advisories_deny
    else:
        with pytest.raises(PolicyError, match=message):
            policy(tee, now=now)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ('"advisories/b.toml"', "d/p.toml:6: there is no file d/advisories/b.toml, and none of that name comes with"),
        ('"../a.toml"', "must be a file's name of the form advisories/name.toml"),
        ('"advisories/../a.toml"', "must be a file's name"),
        ('"a.toml"', "must be a file's name"),
        ('["advisories/a.toml"]', "must be a file's name"),
        ("1", "must be a file's name"),
    ],
)
def test_a_name_that_is_none_has_its_line(value: str, message: str) -> None:
    """A file that is not there, and what is no name of one."""
    with pytest.raises(PolicyError, match=message):
        policy(f"advisories_file = {value}\n")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('as_of = "2026-11-01"', 'as_of = "2026-13-01"', "a.toml:1: as_of must be a date in quotes"),
        ('as_of = "2026-11-01"', "as_of = 2026-11-01", "a.toml:1: as_of must be a date in quotes"),
        ('as_of = "2026-11-01"\n', "", "a.toml:1: as_of must be a date in quotes"),
        ('source = "vendors"', 'source = ""', "a.toml:2: source must be a text of 1 to 300"),
        ('source = "vendors"', f'source = "{"x" * 301}"', "a.toml:2: source must be"),
        ('source = "vendors"', 'source = "vendors"\nsauce = 1', "a.toml:3: unknown key 'sauce'"),
        ('id = "AMD-SB-3019"', 'id = "INTEL-SA-00001"', "a.toml:10: INTEL-SA-00001 is listed twice"),
        ('id = "AMD-SB-3019"', 'id = "amd-sb-3019"', "a.toml:10: id must be an advisory's id"),
        ('id = "AMD-SB-3019"', "id = 3", "a.toml:10: id must be an advisory's id"),
        ('severity = "high"', 'severity = "bad"', "a.toml:6: severity must be one of unrated"),
        ('note = "second"', "note = 1", "a.toml:12: note must be a text"),
        ('note = "second"', 'note = "second"\nnota = "x"', "a.toml:13: unknown key 'nota'"),
        (GOOD[GOOD.index("[[") :], "", "there must be 1 to 1024 tables"),
        (GOOD[GOOD.index("[[") :], 'advisory = "x"', "a.toml:4: there must be 1 to 1024 tables"),
        (GOOD[GOOD.index("[[") :], "advisory = [1]", "a.toml:4: there must be 1 to 1024 tables"),
        ("vendors", "ven\tdors", "a.toml:2: a tab"),
        ("[[advisory]]", "[[advisory", "a.toml:4: not TOML"),
        ("vendors", "x" * 2_001, "a.toml:2: the line has"),
    ],
)
def test_a_file_that_is_not_strictly_of_its_form_refuses_the_policy(old: str, new: str, message: str) -> None:
    """The problem has the file of advisories and its line."""
    assert old in GOOD
    with pytest.raises(PolicyError, match=message):
        policy(files={"d/advisories/a.toml": GOOD.replace(old, new, 1)})


def test_problems_of_both_files_are_told() -> None:
    """Also when the policy itself has no requirement, or one that is none."""
    beside = Beside({"d/advisories/a.toml": b"as_of = 1"})
    for require in ("", "[require]\nall = []\n", REQUIRE):
        text = f'name = "p"\nversion = 0\n{require}[tee]\nadvisories_file = "advisories/a.toml"\n'
        policies, problems = inspect_policies({"d/p.toml": text.encode()}, {}, beside)
        assert policies == {}
        assert {str(problem.where).split(":")[0] for problem in problems} == {"d/p.toml", "d/advisories/a.toml"}


def write(folder: Path, max_age: int = 36_500) -> Path:
    (folder / "advisories").mkdir(parents=True)
    (folder / "advisories" / "a.toml").write_text(GOOD)
    text = f'name = "p"\nversion = 1\n{REQUIRE}[tee]\nadvisories_file = "advisories/a.toml"\n'
    (folder / "p.toml").write_text(f"{text}advisories_max_age_days = {max_age}\n")
    return folder


def test_files_are_found_beside_the_policies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In an operator's folder, by the path of one policy, and by the command; and are never taken for policies."""
    folder = write(tmp_path / "d")
    assert "INTEL-SA-00001" in read_policies(folder)["p"].tee.advisories_deny
    assert read_policy(folder / "p.toml") == read_policies(folder)["p"]
    assert main(["policy", "check", str(folder)]) == 0
    assert main(["policy", "check", str(folder / "p.toml")]) == 0
    assert main(["policy", "show", "p", "--dir", str(folder)]) == 0
    assert main(["policy", "show", str(folder / "p.toml")]) == 0
    out = capsys.readouterr().out
    assert "from    advisories/a 20261101 sha256:" in out
    assert "advisories/a.toml" in out
    (folder / "advisories" / "a.toml").write_text("as_of = 1")
    assert main(["policy", "check", str(folder)]) == 1
    assert "advisories/a.toml:1: as_of" in capsys.readouterr().out


def test_the_list_that_comes_along_is_one(tmp_path: Path) -> None:
    """It holds together, names Intel's and AMD's advisories, and no built-in policy depends on it."""
    (tmp_path / "p.toml").write_text(
        f'name = "p"\nversion = 1\n{REQUIRE}[tee]\nadvisories_file = "advisories/2026-11.toml"\n'
    )
    denied = read_policies(tmp_path)["p"].tee.advisories_deny
    assert {"INTEL-SA-00828", "AMD-SB-3019"} <= denied
    assert "INTEL-SA-00615" not in denied  # Intel names it for platforms that need no more than hardening
    assert all(not found.tee.advisories_file for found in read_policies().values())
    assert set(files_beside().advisories) == {"policies/advisories/2026-11.toml"}


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=120) | st.builds(lambda a, b: GOOD[:a] + b + GOOD[a:], st.integers(0, 200), st.text(max_size=8))
)
def test_any_file_is_read_or_refused(text: str) -> None:
    """Whatever stands in it, nothing but a problem with its place comes back."""
    with contextlib.suppress(PolicyError):
        assert policy(files={"d/advisories/a.toml": text}).tee.advisories_deny
