"""The check `tee_rules`: one session, and what each policy makes of its machine."""

from __future__ import annotations

import msgspec
import pytest

from gateway.model.node import AttestedSession
from gateway.model.tee import Binding, BindingStatus, Platform, Root, TcbStatus, TeeClaims
from gateway.model.verdict import AttestationResult, Check, Claim, Outcome
from gateway.policy import decide, demand_verified, parse_policy, tighten
from gateway.policy.build import with_test_roots
from gateway.policy.machine import under
from gateway.policy.schema import CompiledPolicy
from gateway.verify.checks import Phase

NODE = ("evidence", "key_bound", "fresh")


def policy(rules: str) -> CompiledPolicy:
    text = f'name = "p"\nversion = 1\n[require]\nall = ["evidence", "key_bound", "fresh"]\n[tee]\n{rules}\n'
    return parse_policy("p.toml", text.encode())


def machine(*, debug: bool | None = False) -> TeeClaims:
    return TeeClaims(
        platform=Platform.AWS_NITRO,
        evidence_sha256="00" * 32,
        authentic=True,
        tcb_status=TcbStatus.NOT_APPLICABLE,
        debug=debug,
        binding=Binding(BindingStatus.BOUND, "nitro-user-data"),
        root=Root("aws.nitro-enclaves", "64" * 32),
        evaluated_at=0.0,
    )


def session(*tee: TeeClaims) -> AttestedSession:
    reason = "left_to_policy" if tee else "no_tee_evidence"
    checks = (*(Check(name, Outcome.AFFIRMING) for name in NODE), Check("tee_rules", Outcome.NONE, reason))
    return AttestedSession(
        "s", "n", "aci", "http://n", "sha256:00", (), (), "00", 0.0, 1.0, Outcome.AFFIRMING, checks,
        (Claim("tee_attested", "asserted", "hardware_proven"),), tee=tee,
    )  # fmt: skip


def test_one_session_is_judged_by_each_policy() -> None:
    """A debug enclave is refused by the policy that forbids it and served under the one that allows it."""
    found = session(machine(debug=True))
    refused = decide(found, policy(""), Phase.NODE)
    assert (refused.verdict, refused.reason, refused.permit) == (Outcome.CONTRAINDICATED, "tee_rules", False)
    assert decide(found, policy('debug = "allow"'), Phase.NODE).verdict is Outcome.AFFIRMING


def test_the_answer_names_the_rule() -> None:
    """The check says which rule was not met, what was found, and what policy expected."""
    answer = under(session(machine(debug=True)), policy(""))[-1]
    assert (answer.id, answer.outcome, answer.reason) == ("tee_rules", Outcome.CONTRAINDICATED, "debug")
    assert (answer.found, answer.expected, answer.over) == ("on", "off", "tee_debug")
    good = under(session(machine()), policy(""))[-1]
    assert (good.outcome, good.reason) == (Outcome.AFFIRMING, None)


def test_every_item_of_evidence_counts() -> None:
    """One bad item among several makes the machine unacceptable."""
    assert decide(session(machine(), machine(debug=None)), policy(""), Phase.NODE).reason == "tee_rules"


def test_without_evidence_there_is_nothing_to_ask() -> None:
    """A node that never claimed to be in a TEE is not refused for what it is not; requiring one is for `require`."""
    assert decide(session(), policy(""), Phase.NODE).verdict is Outcome.AFFIRMING
    assert under(session(), policy("")) == session().checks


def test_the_answer_of_such_a_node_is_judged_with_its_machine() -> None:
    """What policy asks of the machine stands when the answer is judged too."""

    answer = AttestationResult((Check("key_bound", Outcome.AFFIRMING), Check("fresh", Outcome.AFFIRMING)))
    bad = decide(answer, policy(""), Phase.RESPONSE, node=session(machine(debug=True)))
    assert (bad.verdict, bad.failing) == (Outcome.CONTRAINDICATED, ("tee_rules",))
    assert decide(answer, policy(""), Phase.RESPONSE, node=session(machine())).verdict is Outcome.AFFIRMING


def test_the_answer_is_never_lost() -> None:
    """A session whose list has no place for the answer is refused all the same."""
    found = session(machine(debug=True))
    bare = msgspec.structs.replace(found, checks=found.checks[:-1])
    assert under(bare, policy(""))[-1].reason == "debug"
    assert decide(bare, policy(""), Phase.NODE).reason == "tee_rules"


TEST, OTHER = Root("TEST ab", "ab" * 32, test=True), Root("TEST cd", "cd" * 32, test=True)


@pytest.mark.parametrize(
    ("known", "root", "device", "outcome"),
    [
        ((), TEST, None, Outcome.CONTRAINDICATED),
        ((TEST,), TEST, None, Outcome.AFFIRMING),
        ((TEST,), OTHER, None, Outcome.CONTRAINDICATED),
        ((TEST, OTHER), TEST, OTHER, Outcome.AFFIRMING),
        ((TEST,), TEST, OTHER, Outcome.CONTRAINDICATED),
        ((TEST,), Root("aws.nitro-enclaves", "64" * 32), OTHER, Outcome.CONTRAINDICATED),
        ((), Root("aws.nitro-enclaves", "64" * 32), None, Outcome.AFFIRMING),
    ],
)
def test_a_test_root_is_taken_only_where_the_settings_name_it(
    known: tuple[Root, ...], root: Root, device: Root | None, outcome: Outcome
) -> None:
    """By its fingerprint, for the machine and everything below it; a name or the mark alone does not do."""
    rules = with_test_roots(policy(""), frozenset(r.fingerprint for r in known))
    below = () if device is None else (msgspec.structs.replace(machine(), root=device),)
    answer = under(session(msgspec.structs.replace(machine(), root=root, children=below)), rules)[-1]
    assert answer.outcome is outcome
    assert answer.reason == ("test_root" if outcome is Outcome.CONTRAINDICATED else None)


def test_test_roots_outlive_a_tightening_and_are_never_added_by_one() -> None:
    """Where both sides have a root it stays, as under `aci_verified`; one side's alone is taken away."""
    ours = with_test_roots(policy(""), frozenset((TEST.fingerprint,)))
    flagging = msgspec.structs.replace(ours, on_failure="flag")
    other = with_test_roots(
        parse_policy("q.toml", b'name = "q"\nversion = 1\n[require]\nall = ["evidence", "key_bound", "fresh"]'),
        frozenset((TEST.fingerprint, OTHER.fingerprint)),
    )
    assert tighten(ours, other).tee_rules.test_roots == {TEST.fingerprint}
    assert tighten(policy(""), other).tee_rules.test_roots == frozenset()
    assert demand_verified(flagging).tee_rules.test_roots == {TEST.fingerprint}
    assert (ours.digest, ours.refs) == (policy("").digest, policy("").refs)
    loose = msgspec.structs.replace(policy(""), tee_rules=msgspec.structs.replace(ours.tee_rules, test_roots="allow"))
    assert tighten(ours, msgspec.structs.replace(loose, refs=other.refs)).tee_rules.test_roots == frozenset()
