from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_strategies import MACHINE_VALUES, NODE_RESULTS, RESPONSE_RESULTS, TREES, policies

from gateway.errors import PolicyLoosens
from gateway.model.node import AttestedSession, SigningKey
from gateway.model.tee import (
    Binding,
    BindingStatus,
    Freshness,
    FreshnessClass,
    HostTrust,
    Platform,
    Revocation,
    Root,
    TcbStatus,
    TeeClaims,
)
from gateway.model.verdict import AttestationResult, Check, Outcome
from gateway.policy import (
    CompiledPolicy,
    Phase,
    decide,
    demand_verified,
    loosens,
    meet,
    parse_policy,
    prospect,
    tighten,
)
from gateway.policy.build import IDLE, compile_policy, value_of
from gateway.policy.proof_keys import READ_BY
from gateway.policy.proven import with_proofs
from gateway.policy.schema import BY_PATH, MODES, PolicyRef
from gateway.policy.tree import All, Any, AtLeast, Leaf, Tree, both, implies, leaves, normal
from gateway.policy_files import read_policies
from gateway.routing import stream_mode
from gateway.verify.checks import PROOFS
from gateway.verify.proofs.calibration import Calibration, Quantiles, Statistic
from gateway.verify.proofs.evidence import Subject
from gateway.verify.proofs.reexec import Terms, judge_reexec
from gateway.verify.proofs.spelling import Spelling
from gateway.verify.tee.rules import accepted, judge, violations

BUILTIN = read_policies()
REQUIRE = '[require]\nall = ["evidence", "signature"]\n'


PROVEN = f"[require]\nall = {['evidence', *sorted(PROOFS)]}\n"


def policy_of(more: str = "", require: str = REQUIRE, top: str = "", name: str = "p") -> CompiledPolicy:
    return parse_policy(f"{name}.toml", f'name = "{name}"\nversion = 1\n{top}\n{require}{more}'.encode())


@pytest.mark.parametrize(
    ("base", "asked", "allowed"),
    [
        ("observe", "signed", True),
        ("observe", "strict", True),
        ("observe", "regulated", True),
        ("signed", "strict", True),
        ("signed", "regulated", True),
        ("regulated", "strict", True),
        ("signed", "observe", False),
        ("strict", "signed", False),
        ("strict", "regulated", False),
        ("regulated", "signed", False),
        ("observe", "audited", True),
        ("signed", "audited", True),
        ("audited", "regulated", True),
        ("audited", "observe", False),
        ("signed", "quorum", False),
        ("quorum", "signed", False),
        ("quorum", "reexec", False),
    ],
)
def test_h01_built_in_policies_tighten_one_way(base: str, asked: str, allowed: bool) -> None:
    """Each built-in policy may be asked for on top of a looser one, and on top of no stricter one."""
    if allowed:
        result = tighten(BUILTIN[base], BUILTIN[asked])
        assert result.name == "+".join(sorted((base, asked)))
        assert {ref.name for ref in result.refs} == {base, asked}
        assert loosens(BUILTIN[base], result) == loosens(BUILTIN[asked], result) == ()
    else:
        with pytest.raises(PolicyLoosens, match=f"{asked!r} is looser than {base!r} in ") as caught:
            tighten(BUILTIN[base], BUILTIN[asked])
        assert caught.value.status == 400
        assert caught.value.reason in (*BY_PATH, "require")


@pytest.mark.parametrize(
    ("key", "strict", "loose"),
    [
        ("retry_after_send", "false", "true"),
        ("warnings", '"refuse"', '"accept"'),
        ("freshness.evidence_max_age_s", "10", "20"),
        ("freshness.response_skew_s", "10", "20"),
        ("replay.nonce", '"required"', '"offered"'),
        ("replay.journal", "true", "false"),
        ("release.stream", '["buffer"]', '["chained", "buffer"]'),
        ("release.stream", '["chained"]', '["window", "buffer"]'),
        ("release.stream", '["window"]', '["optimistic", "buffer"]'),
        ("release.window_events", "9", "8"),
        ("release.window_ms", "900", "800"),
        ("release.gather_ms", "8", "9"),
        ("audit.durability", '"durable"', '"async"'),
        ("audit.durability", '"witnessed"', '"durable"'),
        ("audit.on_log_failure", '"refuse"', '"degrade"'),
        ("audit.store_payload", '"salted"', '"none"'),
        ("audit.retention_min_days", "9", "8"),
        ("executables.undeclared", '"refuse"', '"flag"'),
        ("executables.arguments", '"refuse"', '"flag"'),
        ("output.text_as_tool_call", '"refuse"', '"warn"'),
        ("output.uncovered", '"withhold"', '"label"'),
        ("request.unsupported", '"refuse"', '"list"'),
        ("payment.settlement", '["private"]', '["private", "individual"]'),
        ("networks.allow", '["a"]', '["a", "b"]'),
        ("tee.platforms", '["intel-tdx"]', '["intel-tdx", "aws-nitro"]'),
        ("tee.tcb_status", '["UpToDate"]', '["OutOfDate", "UpToDate"]'),
        ("tee.minimum_evaluation", "19", "18"),
        ("tee.debug", '"refuse"', '"allow"'),
        ("tee.configuration", '"refuse"', '"allow"'),
        ("tee.measurements", '["mr_td:aa"]', '["mr_td:aa", "mr_td:bb"]'),
        ("tee.machines", f'["{"a" * 64}"]', f'["{"a" * 64}", "{"b" * 64}"]'),
        ("tee.host_trust", '["known_machine"]', '["known_machine", "unknown_operator"]'),
        ("tee.milan", '"refuse"', '"hosted"'),
        ("tee.freshness", '["challenge"]', '["challenge", "undated"]'),
        ("tee.binding", '"required"', '"any"'),
        ("tee.alias_check", '"required"', '"any"'),
        ("tee.provisional_firmware", '"refuse"', '"allow"'),
        ("tee.revocation", '"required"', '"when_given"'),
        ("tee.gpu", '"required"', '"any"'),
        ("tee.gpu", '"measured"', '"required"'),
        ("deadlines.connect_s", "1", "2"),
        ("deadlines.first_byte_s", "1", "2"),
        ("deadlines.idle_s", "1", "2"),
        ("deadlines.total_s", "1", "2"),
        ("proofs.on_inconclusive", '"refuse"', '"warn"'),
        ("proofs.timeout_s", "10", "11"),
        ("quorum.n", "3", "2"),
        ("quorum.m", "3", "4"),
        ("quorum.tau", "0.1", "0.2"),
        ("quorum.delta", "0.01", "0.02"),
        ("quorum.min_prefix", "9", "8"),
        ("quorum.min_share", "0.5", "0.25"),
        ("reexec.references", '["a"]', '["a", "b"]'),
        ("reexec.calibrations", f'["{"a" * 64}"]', f'["{"a" * 64}", "{"b" * 64}"]'),
        ("reexec.claims", '["greedy"]', '["greedy", "seeded"]'),
        ("reexec.min_tokens", "17", "16"),
        ("reexec.max_mean_margin", "0.0", "0.01"),
        ("logprob.min_similarity", "0.995", "0.99"),
        ("logprob.min_tokens", "9", "8"),
        ("toploc.calibrations", f'["{"a" * 64}"]', f'["{"a" * 64}", "{"b" * 64}"]'),
        ("zk.circuits", f'["sha256:{"a" * 64}"]', f'["sha256:{"a" * 64}", "sha256:{"b" * 64}"]'),
        ("sampled.rate", "0.5", "0.25"),
        ("sampled.epoch_s", "600", "700"),
        ("sampled.delay_min_s", "70", "60"),
        ("sampled.delay_max_s", "600", "700"),
        ("sampled.on_fail", '"quarantine"', '"report"'),
        ("on_failure", '"refuse"', '"flag"'),
        ("on_failure", '"next_node"', '"flag"'),
    ],
)
def test_h01_every_key_may_be_tightened_and_not_loosened(key: str, strict: str, loose: str) -> None:
    """For each key, the stricter value is granted and in force; the looser one is refused and named."""

    def stating(value: str, name: str) -> CompiledPolicy:
        section, _, last = key.rpartition(".")
        top = f"{last} = {value}" if not section else ""
        if key == "retry_after_send":
            top += '\non_failure = "next_node"'
        more = f"[{section}]\n{last} = {value}\n" if section else ""
        if section == "sampled" and last != "rate":
            more += "rate = 0.125\n"
        proven = section in ("proofs", *READ_BY)
        return policy_of(more, require=PROVEN if proven else REQUIRE, top=top, name=name)

    tight, wide = stating(strict, "tight"), stating(loose, "wide")
    granted = tighten(wide, tight)
    if key == "release.stream":
        # A mode of the other list that is stricter still may stay as a second choice.
        assert granted.release.stream[0] == tight.release.stream[0]
        assert loosens(tight, granted) == ()
    else:
        assert value_of(granted, key) == value_of(tight, key)
    assert loosens(tight, wide) == (key,)
    with pytest.raises(PolicyLoosens, match=key):
        tighten(tight, wide)


def test_cases_cover_every_ordered_key() -> None:
    """The table above has a row for every key that can loosen."""
    marks = test_h01_every_key_may_be_tightened_and_not_loosened.pytestmark  # type: ignore[attr-defined]
    assert {row[0] for row in marks[0].args[1]} | {
        "attach", "proofs.request", "networks.deny", "operators.deny", "nodes.deny", "tee.advisories_deny", "tee.minimum_svn",
        "tee.advisories_file", "tee.advisories_max_age_days",
    } == set(BY_PATH)  # fmt: skip


def test_a_key_that_is_not_written_has_no_opinion() -> None:
    """A default of the requested policy does not count as asking for it, and still never loosens what is in force."""
    base = policy_of("[deadlines]\ntotal_s = 900\n[audit]\nstore_payload = 'full'\n", name="base")
    asked = policy_of("[replay]\nnonce = 'required'\n", name="asked")
    result = tighten(base, asked)
    assert (result.audit.store_payload, result.replay.nonce) == ("full", "required")
    assert result.deadlines.total_s == 600


def test_next_node_is_no_looser_than_refuse() -> None:
    """Either releases nothing that failed; together they refuse."""
    refuse, next_node = (
        policy_of(top='on_failure = "refuse"', name="r"),
        policy_of(top='on_failure = "next_node"', name="n"),
    )
    assert tighten(refuse, next_node).on_failure == tighten(next_node, refuse).on_failure == "refuse"


def test_h09_denied_names_add_up_and_deny_wins() -> None:
    """Both lists of denied names hold; what one allows and the other denies stays denied."""
    left = policy_of("[networks]\nallow = ['a', 'b']\ndeny = ['x']\n[nodes]\ndeny = ['n']\n", name="l")
    right = policy_of("[networks]\nallow = ['a']\ndeny = ['a', 'y']\n[operators]\ndeny = ['o']\n", name="r")
    result = tighten(left, right)
    assert result.networks.allow == {"a"}
    assert result.networks.deny == {"a", "x", "y"}
    assert (result.nodes.deny, result.operators.deny) == ({"n"}, {"o"})
    assert meet(left, policy_of(name="q")).networks.allow == {"a", "b"}
    assert meet(policy_of(name="q"), left).networks.allow == {"a", "b"}


def test_attach_is_a_matter_of_form() -> None:
    """Asking for less or more to be attached loosens nothing; the fuller form is sent."""
    none, full = policy_of(top='attach = "none"', name="a"), policy_of(top='attach = "full"', name="b")
    assert tighten(full, none).attach == tighten(none, full).attach == "full"


def quorum(n: int, m: int, name: str) -> CompiledPolicy:
    return policy_of(f"[quorum]\nn = {n}\nm = {m}\n", require=PROVEN, name=name)


@pytest.mark.parametrize(
    ("base", "asked", "met"),
    [
        ((2, 3), (3, 3), (3, 3)),
        ((2, 3), (2, 2), (2, 2)),
        ((2, 3), (5, 5), (5, 5)),  # no fewer can be asked where five have to agree
        ((4, 4), (4, 4), (4, 4)),
        ((2, 3), (3, 4), None),  # of three that agree among four, one may contradict: not so among three
        ((2, 3), (2, 4), None),
        ((3, 3), (2, 3), None),
    ],
)
def test_more_have_to_agree_among_no_more_than_before(
    base: tuple[int, int], asked: tuple[int, int], met: tuple[int, int] | None
) -> None:
    """n rises and m falls, and m is never less than n; asking more nodes than n of them need is looser."""
    left, right = quorum(*base, name="l"), quorum(*asked, name="r")
    lower = meet(left, right)
    assert lower == meet(right, left)
    assert 2 <= lower.quorum.n <= lower.quorum.m
    if met is None:
        with pytest.raises(PolicyLoosens):
            tighten(left, right)
        assert lower.quorum.m == max(lower.quorum.n, min(base[1], asked[1]))
    else:
        terms = tighten(left, right).quorum
        assert (terms.n, terms.m) == met


def test_audits_are_no_later_than_expectedand_no_earlier_than_either() -> None:
    """The longer least delay holds, and the shorter longest one as far as that lets it."""

    def delays(least: int, most: int, name: str) -> CompiledPolicy:
        return policy_of(f"[sampled]\nrate = 0.5\ndelay_min_s = {least}\ndelay_max_s = {most}\n", name=name)

    one = meet(delays(0, 30, "l"), delays(90, 300, "r")).sampled
    assert (one.delay_min_s, one.delay_max_s) == (90, 90)
    other = meet(delays(0, 600, "l"), delays(90, 300, "r")).sampled
    assert (other.delay_min_s, other.delay_max_s) == (90, 300)


def test_what_is_sent_as_it_came_stays_so() -> None:
    """Whether a request is completed for its proofs is a matter of form, and leaving it as it is wins."""
    complete, as_sent = (
        policy_of(f'[proofs]\nrequest = "{form}"\n', require=PROVEN, name=form) for form in ("complete", "as_sent")
    )
    assert tighten(complete, as_sent).proofs.request == tighten(as_sent, complete).proofs.request == "as_sent"


def test_the_meet_gathers_the_proofs_of_both() -> None:
    """A proof that either names is named by the meet, and what one asks of the node is asked."""
    both = meet(BUILTIN["quorum"], BUILTIN["reexec"])
    assert (both.plan.proofs, both.plan.unasked) == ({"proof_quorum", "proof_reexec"}, True)
    signed = meet(BUILTIN["quorum"], BUILTIN["signed"])
    assert (signed.plan.proofs, signed.plan.unasked) == ({"proof_quorum"}, False)
    assert signed.release.stream == ("buffer",)


@pytest.mark.parametrize(
    ("require", "inconclusive"),
    [('["proof_reexec"]', "warn"), ('[{ any = ["proof_reexec", "channel_bound"] }]', "refuse")],
)
def test_pitfall_narrower_terms_let_nothing_pass_that_was_found_false(require: str, inconclusive: str) -> None:
    """An answer that a policy's own terms convict is not released because a caller's leave it undecided."""
    text = f'[require]\nall = {require}\n[proofs]\non_inconclusive = "{inconclusive}"\n'
    base, asked = (policy_of(f"[reexec]\nmin_tokens = {n}\n", text, name=f"least{n}") for n in (16, 4096))
    subject = Subject("0" * 64, "1" * 64, reference_id="ref")
    honest = (Quantiles(16, 100, 0.0, 0.0, 0.002),)
    calibration = Calibration(1, "reexec", Statistic.GREEDY_MARGIN, "ref", "m", "n", "2026-01-31", (), honest)
    node = AttestationResult((Check("channel_bound", Outcome.AFFIRMING),))

    def permitted(policy: CompiledPolicy) -> bool:
        terms = Terms(min_tokens=policy.reexec.min_tokens)
        record = judge_reexec([9.0] * 100, Spelling.SAME, calibration, "m", terms, subject)
        result = with_proofs(AttestationResult(()), [record], policy, "1" * 64)
        return decide(result, policy, Phase.RESPONSE, node=node).permit

    assert (permitted(base), permitted(asked)) == (False, True)
    assert not permitted(tighten(base, asked))


def test_a_proof_inside_any_stays_there_where_its_terms_stay() -> None:
    """What a caller asks for beside a proof's terms does not make the proof required."""
    text = '[require]\nall = [{ any = ["proof_reexec", "channel_bound"] }, "evidence"]\n'
    base, asked = policy_of("", text, name="base"), policy_of('[tee]\ngpu = "required"\n', text, name="asked")
    assert tighten(base, asked).require == base.require


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (["chained"], ["buffer"], ("buffer",)),
        (["chained"], ["chained", "buffer"], ("chained",)),
        (["chained", "optimistic"], ["chained"], ("chained",)),
        (["chained", "optimistic"], ["optimistic"], ("chained", "optimistic")),
        (["chained", "buffer"], ["optimistic", "chained", "buffer"], ("chained", "buffer")),
        (["window", "buffer"], ["chained", "buffer"], ("chained", "buffer")),
        (["window", "buffer"], ["buffer", "chained"], ("buffer",)),
        (["window"], ["optimistic"], ("window",)),
        (["optimistic", "buffer"], ["optimistic", "buffer"], ("optimistic", "buffer")),
    ],
)
def test_release_modes_meet_node_by_node(left: list[str], right: list[str], expected: tuple[str, ...]) -> None:
    """For nodes that chain and for those that do not, the stricter one of the modes that a stream gets is left."""
    one, other = (policy_of(f"[release]\nstream = {names}\n", name="-".join(("m", *names))) for names in (left, right))
    assert meet(one, other).release.stream == meet(other, one).release.stream == expected
    assert loosens(one, meet(one, other)) == loosens(other, meet(one, other)) == ()


MODE_LISTS = [order for size in range(1, len(MODES) + 1) for order in itertools.permutations(MODES, size)]
STREAMS = [policy_of(f"[release]\nstream = {list(names)}\n", name="-".join(("m", *names))) for names in MODE_LISTS]


def test_pitfall_a_mode_that_no_stream_gets_cannot_be_asked_for() -> None:
    """For all lists of modes, what is granted on top gives no stream a looser mode than it has without."""
    for base, asked in itertools.product(STREAMS, STREAMS):
        if loosens(base, asked):
            continue
        granted = tighten(base, asked)
        for policy, capabilities in itertools.product((base, asked), (frozenset[str](), frozenset(("chained",)))):
            before, after = (stream_mode(p, capabilities) for p in (policy, granted))
            # Where a node that does not chain was not used, it may be at best for what leaves in one piece.
            assert after is None or MODES.index(after) >= MODES.index(before or "buffer")
    behind = policy_of('[release]\nstream = ["buffer", "optimistic"]\n', name="behind")
    assert loosens(behind, policy_of('[release]\nstream = ["optimistic"]\n', name="fast")) == ("release.stream",)


def test_tightening_with_what_is_in_force_changes_nothing() -> None:
    """A caller that names its key's own policy, or one that is in force already, gets the same object."""
    signed, strict = BUILTIN["signed"], BUILTIN["strict"]
    assert tighten(signed, signed) is signed
    together = tighten(signed, strict)
    assert tighten(together, strict) is together


def test_digest_of_a_tightened_policy_names_expectedfiles() -> None:
    """The digest in force is another one than that of either file, and the same whichever came first."""
    one, other = meet(BUILTIN["signed"], BUILTIN["strict"]), meet(BUILTIN["strict"], BUILTIN["signed"])
    assert one.digest == other.digest
    assert one.digest not in (BUILTIN["signed"].digest, BUILTIN["strict"].digest)


def test_h03_aci_verified_can_only_tighten() -> None:
    """`aci_verified: true` makes a policy that flags refuse, under another digest; others stay as they are."""
    observe = BUILTIN["observe"]
    asked = demand_verified(observe)
    assert (asked.on_failure, asked.refs) == ("refuse", observe.refs)
    assert asked.digest != observe.digest
    assert demand_verified(asked) is asked
    for name in ("signed", "strict", "regulated", "quorum", "reexec", "audited"):
        assert demand_verified(BUILTIN[name]) is BUILTIN[name]


FLAGS = b'name = "flags"\nversion = 1\non_failure = "flag"\n[require]\nall = ["signature", "request_bound"]\n'
PROVES = FLAGS.replace(b'"signature"', b'"proof_reexec"')


def test_h03_aci_verified_asks_the_node_first() -> None:
    """Where a policy that flags asks nothing of the node, the node has to show itself before a prompt leaves."""
    asked = demand_verified(parse_policy("flags.toml", FLAGS))
    assert {leaf.id for leaf in leaves(asked.require)} == {"evidence", "key_bound", "signature", "request_bound"}
    shown = AttestedSession(
        id="s", node="n", network="aci", endpoint="http://n", keyset_digest="", evidence_digest="", spki_pins=(),
        keys=(SigningKey("k", "ed25519", b"\1" * 32),), established=0.0, expires=600.0, outcome=Outcome.AFFIRMING,
        checks=(Check("evidence", Outcome.AFFIRMING), Check("key_bound", Outcome.AFFIRMING)), claims=(),
    )  # fmt: skip
    nothing = msgspec.structs.replace(shown, checks=(Check("evidence", Outcome.NONE, "evidence_fetch"),))
    assert prospect(shown, asked).permit
    refused = prospect(nothing, asked)
    assert (refused.permit, refused.reason) == (False, "evidence")
    proves = parse_policy("flags.toml", PROVES)
    assert demand_verified(proves).require == proves.require


def test_h07_a_policy_cannot_be_changed() -> None:
    """A policy is a value: what was pinned at the start of an exchange is what governs its end."""
    with pytest.raises(AttributeError):
        BUILTIN["signed"].on_failure = "flag"  # type: ignore[misc]


@settings(max_examples=100, deadline=None)
@given(policies(), policies())
def test_meet_is_commutative_and_idempotent(left: CompiledPolicy, right: CompiledPolicy) -> None:
    """The meet of two policies is the same from either side, that of one with itself is itself."""
    assert meet(left, right) == meet(right, left)
    assert meet(left, left) == left
    once = meet(left, right)
    assert meet(once, right) == once


@settings(max_examples=100, deadline=None)
@given(policies(), policies())
def test_meet_is_below_expectedand_tighten_agrees(left: CompiledPolicy, right: CompiledPolicy) -> None:
    """What tighten grants is the meet and loosens neither; what it refuses has a reason."""
    lower = meet(left, right)
    assert loosens(left, lower) == loosens(right, lower) == ()
    looser = loosens(left, right)
    if looser and right.refs != left.refs:
        with pytest.raises(PolicyLoosens, match=looser[0]):
            tighten(left, right)
    else:
        assert tighten(left, right) == lower


@settings(max_examples=180, deadline=None)
@given(policies(), policies(), NODE_RESULTS, RESPONSE_RESULTS)
def test_what_one_refuses_the_meet_refuses(
    left: CompiledPolicy, right: CompiledPolicy, node: AttestationResult, response: AttestationResult
) -> None:
    """For any result, the meet permits nothing that either policy refuses, and its verdict is no better."""
    lower = meet(left, right)
    rank = [Outcome.AFFIRMING, Outcome.WARNING, Outcome.NONE, Outcome.CONTRAINDICATED].index
    for policy in (left, right):
        for phase in Phase:
            result = node if phase is Phase.NODE else response
            one = decide(result, policy, phase, node=node)
            below = decide(result, lower, phase, node=node)
            assert one.permit or not below.permit
            # A policy that only looks may leave everything open for a node; the other one then decides.
            undecided = one.verdict is Outcome.NONE and set(one.missing) <= set(IDLE)
            assert undecided or rank(below.verdict) >= rank(one.verdict)


LEAF = {name: Leaf(check=name) for name in ("evidence", "key_bound", "fresh", "signature")}
A, B, C, D = LEAF.values()


@pytest.mark.parametrize(
    ("strong", "weak", "expected"),
    [
        (A, A, True),
        (A, B, False),
        (All((A, B)), A, True),
        (A, All((A, B)), False),
        (A, Any((A, B)), True),
        (Any((A, B)), A, False),
        (Any((A, B)), Any((A, B, C)), True),
        (Any((A, B, C)), Any((A, B)), False),
        (All((A, Any((B, C)))), Any((B, C, D)), True),
        (All((A, B)), AtLeast(2, (A, B, C)), True),
        (All((A, B)), AtLeast(3, (A, B, C)), False),
        (AtLeast(2, (A, B, C)), AtLeast(1, (A, B, C)), True),
        (AtLeast(2, (A, B, C)), Any((A, B, C)), True),
        (AtLeast(2, (A, B, C)), AtLeast(2, (A, B, C, D)), True),
        (AtLeast(2, (A, B, C)), AtLeast(2, (A, B, D)), False),
        (AtLeast(2, (A, B, C)), A, False),
        (AtLeast(3, (A, B, C)), A, True),
        (AtLeast(3, (A, B, C)), All((A, C)), True),
        (AtLeast(2, (A, B, C)), Any((A, D)), False),
        (AtLeast(2, (A, B)), AtLeast(2, (A, B)), True),
    ],
)
def test_implication_of_trees(strong: Tree, weak: Tree, expected: bool) -> None:
    """Whether one requirement contains another is seen through groups and quorums."""
    assert implies(strong, weak) is expected


def test_claim_with_fewer_sources_is_stronger() -> None:
    """A claim that takes the word of fewer implies the same claim that takes that of more, never the reverse."""
    few = Leaf(claim="tee_attested", status="asserted", sources=("hardware_proven",))
    many = Leaf(claim="tee_attested", status="asserted", sources=("hardware_proven", "operator_asserted"))
    assert implies(few, many)
    assert not implies(many, few)
    assert not implies(A, few)


def test_a_claim_that_is_not_looked_at_is_not_implied() -> None:
    """`any` of a check and a claim fails on the refuted claim, so the check alone does not imply it."""
    claim = Leaf(claim="tee_attested", status="asserted", sources=("hardware_proven",))
    assert not implies(A, Any((A, claim)))
    assert implies(All((A, claim)), Any((A, claim)))


@settings(max_examples=180, deadline=None)
@given(TREES, TREES, st.booleans(), NODE_RESULTS, RESPONSE_RESULTS)
def test_implication_is_sound(
    one: Tree, other: Tree, joined: bool, node: AttestationResult, response: AttestationResult
) -> None:
    """When one tree implies another, no result satisfies the first and not the second."""
    strong = both(one, other) if joined else one
    assert implies(strong, strong)
    assert implies(both(one, other), normal(other)) or any(leaf.claim for leaf in leaves(other))
    if implies(strong, normal(other)) and not all(leaf.id in IDLE for leaf in leaves(other)):
        met = [
            decide(response, _with(tree), Phase.RESPONSE, node=node).verdict in (Outcome.AFFIRMING, Outcome.WARNING)
            for tree in (strong, other)
        ]
        assert met[1] or not met[0]


def _with(tree: Tree) -> CompiledPolicy:
    return compile_policy((PolicyRef("p", 1, "0"),), "0", "p.toml", "", tree, {}, frozenset())


def test_normal_form_ignores_order_and_nesting() -> None:
    """Trees that differ in order, repetition and nesting of `all` have one form."""
    for order in itertools.permutations((A, B, C)):
        assert normal(All((All(order), order[0]))) == normal(All((A, B, C)))
        assert normal(Any(order)) == normal(Any((A, B, C)))
        assert normal(AtLeast(2, order)) == normal(AtLeast(2, (A, B, C)))
    assert normal(All((Any((A,)),))) == normal(AtLeast(1, (A,))) == A


MACHINES = st.sampled_from(("a" * 64, "b" * 64, None))
RECORDS = st.builds(
    TeeClaims,
    platform=st.sampled_from(Platform),
    evidence_sha256=st.just("00"),
    authentic=st.just(True),
    evaluated_at=st.just(0.0),
    product=st.sampled_from((None, "Milan", "Genoa")),
    root=st.just(Root("r", "00")),
    tcb_status=st.sampled_from(TcbStatus),
    tcb=st.sampled_from(({}, {"eval_number": 40, "svn": {"ucode": 8, "snp": 3}}, {"eval_number": 99})),
    advisory_ids=st.sampled_from(((), ("a",), ("b", "c"))),
    debug=st.booleans(),
    flags=st.sampled_from(({}, {"migratable": True})),
    measurements=st.sampled_from(({}, {"mr_td": "aa"}, {"mr_td": "bb", "rtmr0": "cc"}, {"launch": "dd"})),
    machine_id=MACHINES,
    host_trust=st.sampled_from(HostTrust),
    freshness=st.builds(Freshness, st.sampled_from(FreshnessClass), st.none(), st.sampled_from((None, 5.0, 80.0))),
    binding=st.builds(Binding, st.sampled_from(BindingStatus)),
    revocation=st.builds(Revocation, st.sampled_from(("ok", "stale", "absent"))),
)


@given(policies(MACHINE_VALUES), policies(MACHINE_VALUES), RECORDS)
@settings(max_examples=400, deadline=None)
def test_what_the_meet_takes_of_a_machine_expectedtake(
    left: CompiledPolicy, right: CompiledPolicy, claims: TeeClaims
) -> None:
    """No machine is accepted under both policies together that one of them refuses."""
    if accepted(judge(claims, meet(left, right).tee_rules)):
        assert accepted(judge(claims, left.tee_rules))
        assert accepted(judge(claims, right.tee_rules))


def test_pitfall_asking_for_a_machine_makes_it_known_to_nobody_else() -> None:
    """A caller that lists a machine does not make it one that the policy of its key knows."""
    base = policy_of('[tee]\nbinding = "any"\nhost_trust = ["known_machine"]\n', name="base")
    asked = policy_of(f'[tee]\nbinding = "any"\nmachines = ["{"a" * 64}"]\n', name="asked")
    theirs = TeeClaims(
        platform=Platform.INTEL_TDX,
        evidence_sha256="00",
        authentic=True,
        tcb_status=TcbStatus.UP_TO_DATE,
        debug=False,
        machine_id="a" * 64,
        root=Root("r", "00"),
        evaluated_at=0.0,
    )
    assert violations(judge(theirs, base.tee_rules)) == ("host_trust",)
    assert violations(judge(theirs, tighten(base, asked).tee_rules)) == ("host_trust",)
    assert meet(base, asked).tee == meet(asked, base).tee
