from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy.policy_strategies import NAMES

from gateway.errors import PolicyError
from gateway.policy import Beside, inspect_policies, inspect_policy, load_policies, parse_policy
from gateway.policy.load import MAX_BYTES
from gateway.policy.schema import KEYS
from gateway.policy.tree import All, Any, AtLeast, Leaf
from gateway.verify.checks import CHECKS, PROOFS

HEAD = 'name = "p"\nversion = 1\n'
REQUIRE = '[require]\nall = ["evidence", "key_bound"]\n'
PROVEN = f"[require]\nall = {['evidence', *sorted(PROOFS)]}\n"
GOOD = HEAD + REQUIRE


def problems(text: str | bytes, source: str = "p.toml") -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    policy, found = inspect_policy(source, data)
    assert (policy is None) == bool(found)
    return [str(problem) for problem in found]


def only(text: str | bytes) -> str:
    found = problems(text)
    assert len(found) == 1, found
    return found[0]


def test_smallest_policy_has_safe_defaults() -> None:
    """A policy that states only what it requires refuses, buffers and is durable."""
    policy = parse_policy("dir/p.toml", GOOD.encode())
    assert (policy.name, policy.version, policy.source) == ("p", 1, "dir/p.toml")
    assert policy.digest == hashlib.sha256(GOOD.encode()).hexdigest()
    assert policy.require == All((Leaf(check="evidence"), Leaf(check="key_bound")))
    assert (policy.on_failure, policy.retry_after_send) == ("refuse", False)
    assert policy.release.stream == ("buffer",)
    assert (policy.audit.durability, policy.audit.on_log_failure) == ("durable", "refuse")
    assert policy.networks.allow is None
    assert policy.stated == frozenset()
    assert [(ref.name, ref.version, ref.digest) for ref in policy.refs] == [("p", 1, policy.digest)]


def test_every_key_can_be_stated() -> None:
    """Each key of the vocabulary is read at its path, and its value is in force."""
    sections: dict[str, list[str]] = {}
    for key in KEYS:
        section, _, name = key.path.rpartition(".")
        value = {
            "choice": lambda key: f'"{key.choices[0]}"',
            "flag": lambda key: "true",
            "seconds": lambda key: "7.5" if key.low < 60 else "61.5",
            "count": lambda key: "9",
            "number": lambda key: str(key.high),
            "names": lambda key: json.dumps(list(key.choices[:2] or NAMES.get(key.path, ("b", "a")))),
            "modes": lambda key: '["window", "buffer"]',
            "file": lambda key: '"advisories/a.toml"',
        }[key.kind](key)
        sections.setdefault(section, []).append(f"{name} = {value}")
    sections[""][sections[""].index('on_failure = "flag"')] = 'on_failure = "next_node"'
    sections["release"].remove('stream = ["window", "buffer"]')
    sections["release"].append('stream = ["buffer"]')
    require = f"[require]\nall = {['evidence', *sorted(PROOFS)]}\n"
    text = HEAD + "\n".join(sections.pop("")) + "\n" + require
    text += "".join(f"[{name}]\n" + "\n".join(lines) + "\n" for name, lines in sections.items())
    listed = b'as_of = "2026-11-01"\nsource = "s"\n[[advisory]]\nid = "INTEL-SA-00001"\nseverity = "low"\nnote = "n"\n'
    policy = parse_policy("p.toml", text.encode(), Beside({"advisories/a.toml": listed}))
    assert policy.stated == {key.path for key in KEYS}
    assert (policy.on_failure, policy.retry_after_send) == ("next_node", True)
    assert policy.networks.allow == policy.nodes.deny == {"a", "b"}
    assert policy.deadlines.total_s == policy.freshness.response_skew_s == 7.5
    assert policy.audit.retention_min_days == policy.release.window_ms == 9
    assert policy.release.stream == ("buffer",)
    assert (policy.quorum.n, policy.quorum.m, policy.quorum.tau, policy.quorum.delta) == (9, 9, 1, 0.5)
    assert policy.reexec.references == {"a", "b"}
    assert policy.reexec.calibrations == policy.toploc.calibrations == {"a" * 64, "b" * 64}
    assert policy.zk.circuits == {"sha256:" + "a" * 64, "sha256:" + "b" * 64}
    assert (policy.proofs.on_inconclusive, policy.proofs.timeout_s, policy.logprob.min_tokens) == ("warn", 7.5, 9)
    assert (policy.sampled.rate, policy.sampled.epoch_s, policy.sampled.delay_max_s) == (1, 61.5, 7.5)
    assert policy.plan.proofs == PROOFS
    assert policy.tee_rules.minimum_svn == {"ucode": 9, "snp": 3}
    assert policy.tee_rules.measurements == ({"launch": "dd"}, {"mr_td": "aa"}, {"mr_td": "bb", "rtmr0": "cc"})
    assert policy.tee_rules.max_age_s == policy.freshness.evidence_max_age_s
    assert policy.tee_rules.platforms == {"intel-tdx", "intel-sgx"}


def test_tree_forms() -> None:
    """Strings, check tables, claims and nested groups are read; order and nesting of `all` do not matter."""
    text = (
        HEAD
        + """
[[require.all]]
check = "evidence"
[[require.all]]
all = ["fresh", {any = ["channel_bound", "key_weak"]}]
[[require.all]]
at_least = 2
of = ["signature", "replay", {claim = "tee_attested", source = ["verifier_derived", "hardware_proven"]}]
"""
    )
    policy = parse_policy("p.toml", text.encode())
    tee = Leaf(claim="tee_attested", status="asserted", sources=("hardware_proven", "verifier_derived"))
    expected = {
        Leaf(check="evidence"),
        Leaf(check="fresh"),
        Any((Leaf(check="key_weak"), Leaf(check="channel_bound"))),
        AtLeast(2, (Leaf(check="signature"), Leaf(check="replay"), tee)),
    }
    assert isinstance(policy.require, All)
    assert set(policy.require.of) == expected


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ('name = "p"\nversion = 1\non_failuer = "refuse"\n' + REQUIRE, ":3", "did you mean 'on_failure'"),
        (HEAD + "[freshnes]\nx = 1\n" + REQUIRE, ":3", "did you mean 'freshness'"),
        (HEAD + REQUIRE + "[audit]\nstore_paylod = 1\n", ":6", "did you mean 'store_payload'"),
        (HEAD + REQUIRE + "[release]\nxyz = 1\n", ":6", "unknown key 'xyz' in [release]; one of stream"),
        (HEAD + "audit = 3\n" + REQUIRE, ":3", "must be a table: write [audit]"),
        (HEAD + REQUIRE + "[audit]\ndurability = 'duarble'\n", ":6", "did you mean 'durable'"),
        (HEAD + REQUIRE + "[audit]\ndurability = true\n", ":6", "must be one of async, durable, witnessed, not True"),
        (HEAD + REQUIRE + "[replay]\njournal = 'yes'\n", ":6", "must be true or false"),
        (HEAD + REQUIRE + "[replay]\njournal = 1\n", ":6", "must be true or false"),
        (HEAD + REQUIRE + "[deadlines]\ntotal_s = '60'\n", ":6", "must be a number of seconds"),
        (HEAD + REQUIRE + "[deadlines]\ntotal_s = true\n", ":6", "must be a number of seconds"),
        (HEAD + REQUIRE + "[deadlines]\ntotal_s = nan\n", ":6", "must be 0.1 to 86400"),
        (HEAD + REQUIRE + "[deadlines]\ntotal_s = 0\n", ":6", "must be 0.1 to 86400"),
        (HEAD + REQUIRE + "[release]\nwindow_ms = 1.5\n", ":6", "must be a whole number"),
        (HEAD + REQUIRE + "[release]\nstream = 'buffer'\n", ":6", "must be a list of texts"),
        (HEAD + REQUIRE + "[release]\nstream = []\n", ":6", "is empty"),
        (HEAD + REQUIRE + "[release]\nstream = ['bufer']\n", ":6", "did you mean 'buffer'"),
        (HEAD + REQUIRE + "[release]\nstream = ['buffer', 'buffer']\n", ":6", "names something twice"),
        (
            HEAD + REQUIRE + "[tee]\nmeasurements = ['mr_td:aa', 'compose_hash:bb']\n",
            ":6",
            "compose_hash is the guest's own",
        ),
        (
            HEAD + REQUIRE + "[tee]\nmeasurements = ['app_id:aa/mr_td:bb/rtmr1:cc/rtmr2:dd']\n",
            ":6",
            "add rtmr0 to the set",
        ),
        (HEAD + REQUIRE + "[release]\nstream = ['buffer', 1]\n", ":6", "must be a list of texts"),
        (HEAD + REQUIRE + "[networks]\nallow = []\n", ":6", "would refuse every network"),
        (HEAD + REQUIRE + "[tee]\nplatforms = []\n", ":6", "would refuse everything"),
        (HEAD + REQUIRE + "[tee]\nplatforms = ['intel-tdz']\n", ":6", "did you mean 'intel-tdx'"),
        (HEAD + REQUIRE + "[tee]\nminimum_svn = ['ucode']\n", ":6", "not of the form name:number"),
        (HEAD + REQUIRE + "[tee]\nmeasurements = ['mr_td:AA']\n", ":6", "not of the form name:hex"),
        (HEAD + REQUIRE + "[tee]\nmeasurements = ['mr_td:aa/mr_td:bb']\n", ":6", "names something twice"),
        (HEAD + REQUIRE + "[tee]\nmachines = ['m1']\n", ":6", "not of the form 64"),
        (HEAD + PROVEN + "[quorum]\ntau = '0.2'\n", ":6", "must be a number, not '0.2'"),
        (HEAD + PROVEN + "[quorum]\ntau = true\n", ":6", "must be a number, not True"),
        (HEAD + PROVEN + "[quorum]\ntau = nan\n", ":6", "must be 0 to 1, not nan"),
        (HEAD + PROVEN + "[quorum]\ntau = inf\n", ":6", "must be 0 to 1, not inf"),
        (HEAD + PROVEN + "[quorum]\ntua = 1\n", ":6", "did you mean 'tau'"),
        (HEAD + PROVEN + "[quorum]\nn = 2.0\n", ":6", "must be a whole number"),
        (HEAD + PROVEN + "[quorum]\nn = 1\n", ":6", "must be 2 to 12"),
        (HEAD + PROVEN + "[quorum]\nn = 4\n", ":6", "quorum.m is 3 and must be at least quorum.n, which is 4"),
        (HEAD + PROVEN + "[quorum]\nn = 4\nm = 3\n", ":7", "quorum.m is 3 and must be at least quorum.n"),
        (HEAD + PROVEN + "[reexec]\nclaims = []\n", ":6", "is empty, which would refuse everything"),
        (HEAD + PROVEN + "[reexec]\nclaims = ['greddy']\n", ":6", "did you mean 'greedy'"),
        (HEAD + PROVEN + "[reexec]\nreferences = []\n", ":6", "is empty, which would refuse everything"),
        (HEAD + PROVEN + "[reexec]\ncalibrations = ['A']\n", ":6", "not of the form 64 lower-case hex digits"),
        (HEAD + PROVEN + "[toploc]\ncalibrations = ['a']\n", ":6", "not of the form 64 lower-case hex digits"),
        (HEAD + PROVEN + "[zk]\ncircuits = ['" + "a" * 64 + "']\n", ":6", "not of the form sha256:"),
        (HEAD + PROVEN + "[proofs]\nrequest = 'complet'\n", ":6", "did you mean 'complete'"),
        (HEAD + PROVEN + "[release]\nstream = ['chained', 'buffer']\n", ":6", "of a whole answer"),
        (HEAD + REQUIRE + "[sampled]\nrate = 1.5\n", ":6", "must be 0 to 1"),
        (HEAD + REQUIRE + "[sampled]\nrate = 1e-10\n", ":6", "at most nine decimals"),
        (HEAD + REQUIRE + "[sampled]\nrate = 0.5\ndelay_min_s = 9\ndelay_max_s = 8\n", ":8", "at least sampled.delay"),
        (HEAD + REQUIRE + "[sampled]\nepoch_s = 60\n", ":5", "only with sampled.rate over 0"),
        (HEAD + REQUIRE + "[sampled]\nrate = 0\nepoch_s = 60\n", ":5", "only with sampled.rate over 0"),
        (HEAD + REQUIRE + "[proofs]\ntimeout_s = 5\n", ":5", "only where require names one of proof_logprob or"),
        (HEAD + REQUIRE + "[quorum]\nn = 2\n", ":5", "only where require names proof_quorum"),
        (HEAD + REQUIRE + "[reexec]\nmin_tokens = 9\n", ":5", "or proof_toploc, or with sampled.rate over 0"),
        (HEAD + REQUIRE + "[logprob]\nmin_tokens = 9\n", ":5", "only where require names proof_logprob"),
        (HEAD + REQUIRE + "[toploc]\ncalibrations = ['" + "a" * 64 + "']\n", ":5", "names proof_toploc"),
        (HEAD + REQUIRE + "[zk]\ncircuits = ['sha256:" + "a" * 64 + "']\n", ":5", "names proof_zk"),
        (HEAD + "retry_after_send = true\n" + REQUIRE, ":3", 'only with on_failure = "next_node"'),
        ('version = 1\nname = "Signed"\n' + REQUIRE, ":2", "name must be"),
        ('version = 1\nname = "none"\n' + REQUIRE, ":2", "name must be"),
        ("version = 1\n" + REQUIRE, ":1", "name must be"),
        ('version = 1\nname = "q"\n' + REQUIRE, ":2", "the file is 'p'"),
        ('name = "p"\nversion = true\n' + REQUIRE, ":2", "version must be"),
        ('name = "p"\nversion = 0\n' + REQUIRE, ":2", "version must be"),
        ('name = "p"\n' + REQUIRE, ":1", "version must be"),
        (HEAD + "summary = 1\n" + REQUIRE, ":3", "summary must be"),
        (HEAD + 'summary = "all\\nis shown"\n' + REQUIRE, ":3", "all of them visible"),
        (HEAD + 'summary = "\\u001b[2J"\n' + REQUIRE, ":3", "all of them visible"),
        (HEAD + 'summary = "\\u202eon"\n' + REQUIRE, ":3", "all of them visible"),
        (HEAD + "replaces = 'signed'\n" + REQUIRE, ":3", 'may only be "builtin"'),
        (HEAD, ":1", "there is no require"),
        ("", ":1", "there is no require"),
    ],
)
def test_h04_what_cannot_be_used_is_named_with_its_line(text: str, where: str, words: str) -> None:
    """A misspelt key or value is refused with file, line and a suggestion."""
    found = [line for line in problems(text) if words in line]
    assert len(found) == 1, problems(text)
    assert found[0].startswith(f"p.toml{where}: ")


@pytest.mark.parametrize(
    ("require", "words"),
    [
        ("", "require must hold one of"),
        ("all = []", "all of nothing requires nothing"),
        ("any = []", "any of nothing requires nothing"),
        ('at_least = 0\nof = ["evidence"]', "at_least must be 1 to 1"),
        ('at_least = 2\nof = ["evidence"]', "at_least must be 1 to 1"),
        ('at_least = true\nof = ["evidence"]', "at_least must be 1 to 1"),
        ('at_least = 1.0\nof = ["evidence"]', "at_least must be 1 to 1"),
        ("at_least = 1\nof = []", "of of nothing"),
        ("at_least = 1", "together"),
        ('of = ["evidence"]', "together"),
        ('all = ["evidence"]\nany = ["evidence"]', "all, any together"),
        ('all = "evidence"', "all must be a list"),
        ('not = ["evidence"]', "there is no `not`"),
        ('all = ["evidence", {not = ["signature"]}]', "there is no `not`"),
        ('all = ["evidence", {any = [{none = ["signature"]}]}]', "there is no `none`"),
        ('all = ["evidence", {any = []}]', "any of nothing"),
        ('all = ["evidence", {}]', "an empty requirement"),
        ('all = ["evidence", 1]', "must be a check id or a table"),
        ('all = ["evidence", ["signature"]]', "must be a check id or a table"),
        ('all = ["evidence", {chekc = "fresh"}]', "did you mean 'check'"),
        ('all = ["evidence", "signatur"]', "did you mean 'signature'"),
        ('all = ["evidence", "Signature"]', "unknown check 'Signature'"),
        ('all = ["evidence", "sıgnature"]', "unknown check 's\\u0131gnature'"),
        ('all = ["evidence", {check = 1}]', "unknown check 1"),
        ('all = ["evidence", {check = "fresh", source = ["hardware_proven"]}]', "a check stands alone"),
        ('all = ["evidence", "tee_attested"]', "it is a claim: write"),
        ('all = ["evidence", "evidence"]', "lists something twice"),
        ('all = ["evidence", {all = ["evidence"]}]', "lists something twice"),
        ('all = ["evidence", {at_least = 2, of = ["fresh", {check = "fresh"}]}]', "count it twice"),
        ('all = ["evidence", {any = ["fresh", "tool_undeclared"]}]', "cannot stand in for another"),
        (
            'all = ["evidence", {at_least = 1, of = ["fresh", {all = ["stream_grammar"]}]}]',
            "cannot stand in for another",
        ),
        ('all = ["evidence", {claim = "tee_atested", source = ["hardware_proven"]}]', "did you mean 'tee_attested'"),
        ('all = ["evidence", {claim = 1, source = ["hardware_proven"]}]', "unknown claim 1"),
        ('all = ["evidence", {claim = "tee_attested"}]', "whose word is enough"),
        ('all = ["evidence", {claim = "tee_attested", source = []}]', "whose word is enough"),
        ('all = ["evidence", {claim = "tee_attested", source = "hardware_proven"}]', "whose word is enough"),
        ('all = ["evidence", {claim = "tee_attested", source = ["hardware"]}]', "unknown source 'hardware'"),
        (
            'all = ["evidence", {claim = "tee_attested", source = ["hardware_proven", "hardware_proven"]}]',
            "whose word is enough",
        ),
        (
            'all = ["evidence", {claim = "tee_attested", status = "unknown", source = ["hardware_proven"]}]',
            "unknown is never a pass",
        ),
        ('all = ["signature"]', "nothing is required of the node"),
        ('any = ["signature", "replay"]', "nothing is required of the node"),
        ('any = ["channel_bound", "signature"]', "nothing is required of the node"),
    ],
)
def test_h10_what_requires_nothing_is_refused(require: str, words: str) -> None:
    """An empty, negated, doubled or misspelt requirement is refused when the file is read."""
    assert words in only(f"{HEAD}[require]\n{require}\n")


def test_requirement_of_another_type_is_refused() -> None:
    """`require` must be a table of one group."""
    assert "p.toml:3: require must hold" in only(HEAD + 'require = ["evidence"]\n')


@pytest.mark.parametrize(
    "require",
    [
        'all = ["proof_quorum"]',
        'all = ["signature", {any = ["proof_reexec", "proof_zk"]}]',
        'any = ["channel_bound", "proof_reexec"]',
        'at_least = 1\nof = ["proof_reexec", {claim = "tee_attested", source = ["hardware_proven"]}]',
    ],
)
def test_a_proof_of_the_answer_is_enough_to_ask_for(require: str) -> None:
    """Where a part can be met by proofs alone, or by what a node shows, nothing else need be asked of the node."""
    text = f"{HEAD}[require]\n{require}\n"
    assert problems(text) == []
    assert parse_policy("p.toml", text.encode()).plan.unasked


@pytest.mark.parametrize("require", ['any = ["signature", "proof_reexec"]', 'all = ["signature", "replay"]'])
def test_what_a_node_says_of_its_answer_is_not_a_proof(require: str) -> None:
    """A part that a signature alone would meet does not make up for asking nothing of the node."""
    assert "or a proof of the answer" in only(f"{HEAD}[require]\n{require}\n")


def test_terms_that_are_read_are_no_problem() -> None:
    """Sampled audits read [reexec] and [proofs]; a rate of 0 may be written down."""
    terms = "[proofs]\ntimeout_s = 5\n[reexec]\nreferences = ['a']\n"
    assert problems(GOOD + terms + "[sampled]\nrate = 0.5\n") == []
    assert problems(GOOD + "[sampled]\nrate = 0.0\n") == []
    policy = parse_policy("p.toml", (GOOD + "[sampled]\nrate = 0.000000001\n").encode())
    assert policy.sampled.rate == 1e-9
    assert (policy.reexec.claims, policy.reexec.references) == ({"greedy"}, None)


def test_what_only_looks_may_ask_nothing_of_the_node() -> None:
    """A policy that flags may require answer checks alone."""
    assert problems(HEAD + 'on_failure = "flag"\n[require]\nall = ["signature"]\n') == []


def test_the_line_inside_a_nested_tree_is_found() -> None:
    """A problem deep in a tree is reported on its own line, not on that of the tree."""
    text = HEAD + '[require]\nall = [\n  "evidence",\n  # more\n  {any = [\n    "fresh",\n    "signatur",\n  ]},\n]\n'
    assert only(text).startswith("p.toml:9: unknown check")


def test_all_problems_are_reported_in_the_order_of_lines() -> None:
    """One reading finds every problem of the keys."""
    found = problems('name = "p"\nversion = 0\nx = 1\n[audit]\ny = 1\n[require]\nall = ["z"]\n')
    assert [line.split(":")[1] for line in found] == ["2", "3", "5", "7"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (GOOD + 'name = "p"\n', None),
        ('name = "p"\nname = "p"\n', "p.toml:2: not TOML: Cannot overwrite a value"),
        (HEAD + REQUIRE + REQUIRE, "p.toml:5: not TOML: Cannot declare ('require',) twice"),
        ("base: &x\n  all: [signature]\np:\n  <<: *x\n", "p.toml:1: not TOML"),
        (HEAD + "retry_after_send = yes\n" + REQUIRE, "p.toml:3: not TOML"),
        (HEAD + "retry_after_send = on\n" + REQUIRE, "p.toml:3: not TOML"),
        ("!!python/object:os.system x\n", "p.toml:1: not TOML"),
        (HEAD + "[require]\n\tall = ['evidence']\n", "p.toml:4: a tab"),
        (b"\xff\xfe" + GOOD.encode(), "p.toml:1: byte 0 is not UTF-8"),
        (GOOD.encode() + b"# \xc3\n", "p.toml:5: byte"),
        ("\ufeff" + GOOD, "p.toml:1: the invisible character U+FEFF"),
        (GOOD + "# \u202eevil\n", "p.toml:5: the invisible character U+202E"),
        (GOOD + "# a\x0bb\n", "p.toml:5: the invisible character U+000B"),
        (b"x" * (MAX_BYTES + 1), "a policy has at most 262144"),
        (GOOD + "#" + "x" * 2_000, "nobody reads past"),
        ("x = [" + "\n[" * 20_000, "nested too deeply"),
        (HEAD + "\n".join(["x = ", *["{a ="] * 3000]), "p.toml"),
        (GOOD + "[deadlines]\nconnect_s = " + "9" * 1_900 + "\n", "connect_s must be 0.1 to 60"),
        ("x = 1\x00\n", "U+0000"),
    ],
)
def test_h05_what_is_not_plain_toml_is_refused(data: str | bytes, words: str | None) -> None:
    """Doubled keys, YAML, tabs, invisible characters, huge or deep files are refused, never guessed at."""
    found = problems(data)
    assert found
    assert words is None or any(words in line for line in found), found


def test_crlf_and_letters_of_any_script_in_comments_are_fine() -> None:
    """Windows line ends and a comment in any language do not make a file unusable."""
    assert problems((GOOD + "# für später: 策略\n").replace("\n", "\r\n")) == []


@pytest.mark.parametrize("name", ["*", "near?", "ne ar", "n\u0435ar", "", "near.", "-near", "x" * 129, "a\nb", "[a]"])
def test_h08_names_are_not_patterns(name: str) -> None:
    """Wildcards, look-alikes, blanks and overlong names are refused where a name is due; a trailing dot is a name."""
    text = HEAD + REQUIRE + f"[networks]\ndeny = [{name!r}]\n".replace("'", '"')
    found = problems(text)
    assert found == [] if name == "near." else len(found) == 1 and "names are compared exactly" in found[0]


def test_too_many_leaves_are_refused() -> None:
    """A tree that nobody can survey is refused."""
    ids = sorted(set(CHECKS) - {"stream_grammar", "tool_undeclared", "tool_arguments", "tee_rules"})
    pairs = [f'{{any = ["{a}", "{b}"]}}' for a in ids for b in ids if a < b]
    assert "more than 100" in only(HEAD + "[require]\nall = [\n" + ",\n".join(pairs) + "\n]\n")


def test_too_many_levels_are_refused() -> None:
    """A tree of eight levels is refused."""
    tree = '"evidence"'
    for _ in range(8):
        tree = f"{{any = [{tree}]}}"
    assert "more than 6 levels" in only(HEAD + f"[require]\nall = [{tree}]\n")


def test_overlay_must_say_that_it_replaces() -> None:
    """A file of a built-in's name is refused unless it says so, and saying so needs a built-in to replace."""
    builtin = {"policies/p.toml": GOOD.encode()}
    silent = GOOD.replace("version = 1", "version = 2").encode()
    with pytest.raises(PolicyError, match=r"^own/p.toml:1: 'p' is a built-in policy"):
        load_policies({"own/p.toml": silent}, builtin)
    loud = b'replaces = "builtin"\n' + silent
    assert load_policies({"own/p.toml": loud}, builtin)["p"].version == 2
    with pytest.raises(PolicyError, match=r"own/p.toml:1: there is no built-in policy 'p' to replace"):
        load_policies({"own/p.toml": loud})


def test_two_files_of_one_name_are_refused() -> None:
    """A name that stands in two files is refused, whichever comes first."""
    policies, found = inspect_policies({"a/p.toml": GOOD.encode(), "b/p.toml": GOOD.encode()})
    assert policies["p"].source == "a/p.toml"
    assert [str(problem) for problem in found] == ["b/p.toml: the policy 'p' is in a/p.toml too"]


def test_problems_of_one_file_do_not_hide_the_others() -> None:
    """inspect_policies gives every usable policy and every problem."""
    policies, found = inspect_policies({"p.toml": GOOD.encode(), "q.toml": b""}, {"r.toml": b"x"})
    assert list(policies) == ["p"]
    assert {str(problem).split(":")[0] for problem in found} == {"q.toml", "r.toml"}
    with pytest.raises(PolicyError):
        load_policies({"q.toml": b""})
    with pytest.raises(PolicyError, match=r"p\.toml:1"):
        parse_policy("p.toml", b"x")


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_any_bytes_give_a_policy_or_problems(data: bytes) -> None:
    """Whatever the bytes are, reading them raises nothing and never gives both or neither."""
    policy, found = inspect_policy("p.toml", data)
    assert (policy is None) == bool(found)


WORDS = '[quorum]|n|m|[sampled]|rate|[release]|stream|"proof_quorum"|3|[require]|all|any|at_least|of|=|=|=|[|]|{|}|,|"evidence"|"fresh"|1|0|name|"p"|version|[audit]|durability|true'
FRAGMENTS = st.sampled_from([*WORDS.split("|"), "claim", "source", "#", ".", "'", '"', '"' * 3, "\n"])


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAGMENTS, max_size=40).map(" ".join))
def test_any_arrangement_of_the_vocabulary_gives_a_policy_or_problems(text: str) -> None:
    """Pieces of real policies in any order are read without an exception."""
    policy, found = inspect_policy("p.toml", (HEAD + text).encode())
    assert (policy is None) == bool(found)
