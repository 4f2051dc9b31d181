from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model.node import AttestedSession, SigningKey
from gateway.model.verdict import AttestationResult, Check, Claim, Outcome
from gateway.policy import CompiledPolicy, Decision, Phase, decide, parse_policy, tighten
from gateway.policy_files import read_policies
from gateway.routing import REASONS, Health, NodeView, Routing, candidates, drop_reason, stream_mode

A, N, C = Outcome.AFFIRMING, Outcome.NONE, Outcome.CONTRAINDICATED
NOW = 1_000.0
MODEL, CHAT = "org/Model-1", "/v1/chat/completions"
BUILTIN = read_policies()
SIGNED = BUILTIN["signed"]
KEYS = (SigningKey("k", "ed25519", b"\1" * 32),)
NODE_IDS = ("evidence", "key_bound", "key_weak", "keyset_valid", "fresh", "channel_bound")


def session(
    name: str = "s", *claims: Claim, capabilities: str = "request-nonce chained", **other: Outcome
) -> AttestedSession:
    checks = tuple(Check(i, other.get(i, A), None if other.get(i, A) is A else "because") for i in NODE_IDS)
    return AttestedSession(
        name, name, "net", "https://x", "d", KEYS, (), "e", 0, 0, A, checks, claims, frozenset(capabilities.split())
    )


def node(name: str = "n", **fields: object) -> NodeView:
    given = {
        "network": "net",
        "models": frozenset({MODEL}),
        "endpoints": frozenset({CHAT}),
        "session": session(f"session-{name}"),
        "appraised_at": NOW - 10,
        "lease_until": NOW + 100,
        **fields,
    }
    return NodeView(id=name, **given)  # type: ignore[arg-type]


def route(
    *views: NodeView, model: str = MODEL, endpoint: str = CHAT, policy: CompiledPolicy = SIGNED, **more: object
) -> Routing:
    return candidates(views, model, endpoint, policy, NOW, 0.0, **more)  # type: ignore[arg-type]


def policy_of(more: str, top: str = "", require: str = '["evidence", "key_bound"]') -> CompiledPolicy:
    return parse_policy("p.toml", f'name = "p"\nversion = 1\n{top}\n[require]\nall = {require}\n{more}'.encode())


def test_an_eligible_node_is_kept() -> None:
    """A node with a session in date that policy permits is used."""
    view = node()
    assert route(view) == Routing((view,), ())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"models": frozenset({"other"})}, "model"),
        ({"endpoints": frozenset({"/v1/embeddings"})}, "endpoint"),
        ({"session": None}, "session_missing"),
        ({"session": None, "absent": "evidence"}, "evidence"),
        ({"session": None, "absent": "evidence", "health": Health(quarantined_until=NOW + 1)}, "quarantined"),
        ({"session": None, "absent": "evidence", "health": Health(quarantined_until=NOW)}, "evidence"),
        ({"lease_until": NOW}, "session_expired"),
        ({"lease_until": -math.inf}, "session_expired"),
        ({"appraised_at": NOW - 601}, "fresh"),
        ({"session": session(evidence=N)}, "evidence"),
        ({"session": session(key_bound=C)}, "key_bound"),
        ({"session": session(key_weak=C)}, "key_weak"),
        ({"session": session(keyset_valid=C)}, "keyset_valid"),
        ({"session": session(fresh=C, keyset_valid=C)}, "fresh"),
        ({"session": session(channel_bound=C)}, "channel_bound"),
        ({"health": Health(quarantined_until=NOW + 0.1)}, "quarantined"),
        ({"health": Health(circuit_until=NOW + 0.1, failures=5, opened=1)}, "circuit_open"),
        ({"health": Health(circuit_until=NOW - 1, probe_until=NOW + 1, failures=5, opened=1)}, "circuit_open"),
    ],
)
def test_each_reason_for_leaving_a_node_out(fields: dict[str, object], reason: str) -> None:
    """A node that must not serve is dropped with the one reason, and no other node hides it."""
    bad, good = node("bad", **fields), node("good")
    routing = route(bad, good)
    assert routing.order == (good,)
    assert routing.dropped == ((bad, reason),)
    assert routing.error is None
    alone = route(bad)
    assert alone.error == {"model": "model_unknown", "endpoint": "endpoint_unknown"}.get(reason, "no_eligible_node")


@pytest.mark.parametrize(
    ("policy", "reason"),
    [("quorum", None), ("reexec", None), ("signed", "evidence"), ("audited", "evidence"), ("observe", None)],
)
def test_a_node_without_evidence_serves_where_its_answers_are_to_be_proven(policy: str, reason: str | None) -> None:
    """Policies that ask for a proof of the answer use a node that shows nothing; those that ask it for more do not."""
    bare = node(session=session(**dict.fromkeys(NODE_IDS, N)))
    contradicted = node("bad", session=session(**{**dict.fromkeys(NODE_IDS, N), "channel_bound": C}))
    routing = route(bare, policy=BUILTIN[policy])
    assert (routing.order, routing.dropped) == (((bare,), ()) if reason is None else ((), ((bare, reason),)))
    if policy != "observe":
        assert route(contradicted, policy=BUILTIN[policy]).dropped == ((contradicted, "channel_bound"),)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("[networks]\ndeny = ['net']\n", "network_denied"),
        ("[networks]\nallow = ['other']\n", "network_denied"),
        ("[networks]\nallow = ['net']\ndeny = ['net']\n", "network_denied"),
        ("[networks]\nallow = ['NET']\n", "network_denied"),
        ("[nodes]\ndeny = ['n']\n", "node_denied"),
        ("[operators]\ndeny = ['op']\n", "operator_denied"),
        ("[operators]\ndeny = ['0xa1']\n", "operator_denied"),
        ("[networks]\nallow = ['net']\n[nodes]\ndeny = ['N']\n[operators]\ndeny = ['Op']\n", None),
    ],
)
def test_h09_what_policy_denies(more: str, reason: str | None) -> None:
    """Networks, nodes, operators and accounts are denied by exact name, and deny wins over allow."""
    routing = route(node(operator="op", owner="0xa1"), policy=policy_of(more))
    assert [why for _, why in routing.dropped] == ([reason] if reason else [])


def test_node_without_operator_is_not_denied_by_operator() -> None:
    """A list of operators says nothing of a node whose operator is unknown."""
    assert route(node(), policy=policy_of("[operators]\ndeny = ['op']\n")).error is None


@pytest.mark.parametrize(
    "model",
    [
        "org/model-1", "ORG/MODEL-1", " org/Model-1", "org/Model-1 ", "org/Model-1.", "org/Model-１", "оrg/Model-1",
        "../org/Model-1", "org/Model-1/..", "org//Model-1", "*", "org/*", "org/Model-?", "Model-1", "", "x" * 300,
        "org/Model-1\x00", "org/Model-1\n", "org/Model-1\u200b",
    ],
)  # fmt: skip
def test_a21_no_near_match(model: str) -> None:
    """A model id in another case, padded, patterned or with look-alikes is unknown, never a near match."""
    routing = route(node("a"), node("b"), model=model)
    assert (routing.order, routing.error) == ((), "model_unknown")


def test_the_three_errors_differ() -> None:
    """Nobody has the model, nobody has it here, and nobody may serve it are three answers."""
    chat = node("chat")
    other = node("other", models=frozenset({"m2"}), endpoints=frozenset({"/v1/embeddings"}))
    assert route().error == "model_unknown"
    assert route(chat, other, model="nobody's").error == "model_unknown"
    assert route(chat, other, endpoint="/v1/embeddings").error == "endpoint_unknown"
    assert route(node("x", session=None), other).error == "no_eligible_node"
    assert route(node("x", session=None), chat, endpoint="/v1/embeddings").error == "endpoint_unknown"


def test_strict_leaves_out_software_nodes_by_name_of_the_claim() -> None:
    """Under strict, a node without a trusted execution environment is dropped for tee_attested."""
    software = session("s", Claim("tee_attested", "refuted", "verifier_derived", "platform: software"), channel_bound=N)
    assert route(node(session=software), policy=BUILTIN["strict"]).dropped[0][1] == "tee_attested"
    tee = session("s", Claim("tee_attested", "asserted", "hardware_proven"))
    assert route(node(session=tee), policy=BUILTIN["strict"]).error is None


def test_observe_uses_a_node_with_bad_evidence() -> None:
    """A policy that only looks keeps a node whose evidence fails; a node without a session is still left out."""
    observe = BUILTIN["observe"]
    assert route(node(session=session(evidence=C)), policy=observe).error is None
    assert route(node(session=None), policy=observe).dropped[0][1] == "session_missing"


def test_cached_decision_is_used_for_its_policy_alone() -> None:
    """A decision kept under one policy's digest is not taken for another policy's."""
    view = node()
    view.decisions[SIGNED.digest] = Decision(C, False, "evidence", ("evidence",))
    assert route(view).dropped[0][1] == "evidence"
    assert route(view, policy=tighten(SIGNED, BUILTIN["regulated"])).error is None
    assert decide(session(), SIGNED, Phase.NODE).permit


def test_refusal_without_a_reason_still_refuses() -> None:
    """A decision that names nothing leaves the node out all the same."""
    view = node()
    view.decisions[SIGNED.digest] = Decision(N, False)
    assert route(view).dropped[0][1] == "session_missing"


def test_session_ids_of_the_caller() -> None:
    """With ACI's list of sessions, only nodes whose session is listed are used."""
    one, two = node("one"), node("two")
    routing = route(one, two, session_ids=frozenset({"session-two"}))
    assert routing.order == (two,)
    assert routing.dropped == ((one, "session_not_listed"),)
    assert route(one, two, session_ids=frozenset()).error == "no_eligible_node"


def test_release_mode_that_a_node_lacks() -> None:
    """A stream needs a mode that both policy and node know; what is no stream does not."""
    chained = policy_of("[release]\nstream = ['chained']\n")
    plain = node(session=session(capabilities="request-nonce"))
    assert route(plain, policy=chained, stream=True).dropped[0][1] == "release_mode"
    assert route(plain, policy=chained).error is None
    assert route(node(), policy=chained, stream=True).error is None
    assert route(plain, stream=True).error is None


def test_stream_mode_takes_the_first_that_works() -> None:
    """Modes are tried in the order of the policy; only chained asks something of the node."""
    assert stream_mode(SIGNED, frozenset({"chained"})) == "chained"
    assert stream_mode(SIGNED, frozenset()) == "buffer"
    assert stream_mode(BUILTIN["observe"], frozenset()) == "optimistic"
    assert stream_mode(policy_of("[release]\nstream = ['chained']\n"), frozenset()) is None


def test_required_nonce_leaves_out_nodes_that_cannot_sign_it() -> None:
    """With replay.nonce = required, a node that does not sign our nonce is known to fail before it is paid."""
    needs = policy_of("[replay]\nnonce = 'required'\n")
    plain = node(session=session(capabilities="chained"))
    assert route(plain, policy=needs).dropped[0][1] == "replay"
    assert route(node(), policy=needs).error is None
    looks = policy_of("[replay]\nnonce = 'required'\n", top='on_failure = "flag"')
    assert route(plain, policy=looks).error is None


@pytest.mark.parametrize(
    ("top", "require", "dropped"),
    [
        ('warnings = "refuse"', '["evidence", "replay"]', True),
        ('warnings = "refuse"', '["evidence", {all = ["signature", "replay"]}]', True),
        ('warnings = "refuse"', '["evidence", {at_least = 2, of = ["signature", "replay"]}]', True),
        ('warnings = "refuse"', '["evidence", {at_least = 1, of = ["signature", "replay"]}]', False),
        ('warnings = "refuse"', '["evidence", {at_least = 2, of = ["signature", "key_bound", "replay"]}]', False),
        ('warnings = "refuse"', '["evidence", {any = ["signature", "replay"]}]', False),
        ('warnings = "refuse"', '["evidence", {any = ["replay", {all = ["signature", "replay"]}]}]', True),
        ('warnings = "refuse"', '["evidence", "signature"]', False),
        ('warnings = "accept"', '["evidence", "replay"]', False),
        ('warnings = "refuse"\non_failure = "flag"', '["evidence", "replay"]', False),
    ],
)
def test_a_warning_that_nobody_takes_leaves_out_nodes_that_sign_no_nonce(top: str, require: str, dropped: bool) -> None:
    """Where every answer without our nonce would be withheld for the warning of `replay`, no prompt leaves for one."""
    policy = policy_of("", top=top, require=require)
    plain = node(session=session(capabilities="chained"))
    assert route(plain, policy=policy).dropped == (((plain, "replay"),) if dropped else ())
    assert route(node(), policy=policy).error is None


@pytest.mark.parametrize("require", ['["evidence", "replay"]', '["evidence", {any = ["signature", "replay"]}]'])
def test_a_node_is_left_out_for_its_nonce_exactly_where_no_answer_could_pass(require: str) -> None:
    """What routing drops in advance is what the decision about the best possible answer refuses."""
    policy = policy_of("", top='warnings = "refuse"', require=require)
    plain = session(capabilities="")
    best = AttestationResult((Check("signature", A), Check("replay", Outcome.WARNING, "no_nonce")), ())
    taken = decide(best, policy, Phase.RESPONSE, node=plain).permit
    assert taken is (route(node(session=plain), policy=policy).error is None)


def test_only_one_reason_in_a_fixed_order() -> None:
    """What a node offers comes before what policy forbids, that before evidence, and that before behaviour."""
    sick = Health(quarantined_until=NOW + 9, circuit_until=NOW + 9)
    view = node(session=session(fresh=C), health=sick)
    denied = policy_of("[nodes]\ndeny = ['n']\n")
    assert drop_reason(view, "other", CHAT, denied, NOW) == "model"
    assert drop_reason(view, MODEL, CHAT, denied, NOW) == "node_denied"
    assert drop_reason(view, MODEL, CHAT, SIGNED, NOW) == "fresh"
    assert drop_reason(node(health=sick), MODEL, CHAT, SIGNED, NOW) == "quarantined"


def test_better_of_two_goes_first() -> None:
    """Of two nodes the one with the lower latency times load leads, whatever the random number."""
    fast = node("fast", health=Health(ewma_ms=50.0, heard_at=NOW), in_flight=1)
    slow = node("slow", health=Health(ewma_ms=150.0, heard_at=NOW))
    for number in (0.0, 0.49, 0.5, 0.999999):
        assert candidates([slow, fast], MODEL, CHAT, SIGNED, NOW, number).order == (fast, slow)
    fast.in_flight = 3
    assert candidates([slow, fast], MODEL, CHAT, SIGNED, NOW, 0.3).order == (slow, fast)


def test_failures_and_missing_measurements_weigh() -> None:
    """A node that just failed, and one that was never measured, come after a measured healthy one."""
    healthy = node("a", health=Health(ewma_ms=150.0, heard_at=NOW))
    failed = node("b", health=Health(ewma_ms=120.0, heard_at=NOW, failures=1))
    new = node("c", health=Health(heard_at=NOW))
    assert candidates([new, failed, healthy], MODEL, CHAT, SIGNED, NOW, 0.0).order[0] is healthy
    assert candidates([new, failed, healthy], MODEL, CHAT, SIGNED, NOW, 0.0).order[1:] == (new, failed)


@pytest.mark.parametrize(
    ("before", "after_s"),
    [
        (Health(ewma_ms=30_000.0), 330.0),
        (Health(ewma_ms=1_000.0, failures=1), 20.0),
        (Health(ewma_ms=1_000.0, failures=5), 80.0),
        (Health(ewma_ms=5_000.0), 60.0),
    ],
)
def test_a_node_that_did_badly_once_gets_its_turn_again(before: Health, after_s: float) -> None:
    """One that is asked nothing because of what it did would else be asked nothing for ever, however it does now."""
    good = node("good", health=Health(ewma_ms=1_000.0, heard_at=NOW - 1))
    bad = node("bad", health=msgspec.structs.replace(before, heard_at=NOW - after_s / 2))
    assert candidates([bad, good], MODEL, CHAT, SIGNED, NOW, 0.0).order[0] is good
    bad.health = msgspec.structs.replace(before, heard_at=NOW - after_s)
    assert candidates([bad, good], MODEL, CHAT, SIGNED, NOW, 0.0).order[0] is bad
    bad.in_flight = 1  # then it is being tried, and one is enough
    assert candidates([bad, good], MODEL, CHAT, SIGNED, NOW, 0.0).order[0] is good


def test_a_node_that_was_never_asked_gets_its_turn() -> None:
    """Also beside one that is quicker than an unmeasured one is taken to be."""
    quick = node("quick", health=Health(ewma_ms=20.0, heard_at=NOW))
    new = node("new", health=Health(heard_at=NOW - 60))
    assert candidates([quick, new], MODEL, CHAT, SIGNED, NOW, 0.0).order[0] is quick
    new.health = Health(heard_at=NOW - 120)
    assert candidates([quick, new], MODEL, CHAT, SIGNED, NOW, 0.0).order[0] is new


def test_every_pair_is_drawn_equally_often() -> None:
    """Over all random numbers, the best node leads whenever it is drawn and the worst never does."""
    views = [
        node(name, health=Health(ewma_ms=ms, heard_at=NOW)) for name, ms in (("a", 10.0), ("b", 20.0), ("c", 30.0))
    ]
    firsts = [candidates(views, MODEL, CHAT, SIGNED, NOW, i / 600).order[0].id for i in range(600)]
    assert firsts.count("a") == 400
    assert firsts.count("b") == 200


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1, 1e4), st.integers(0, 9), st.sampled_from(["ok", "no"])), min_size=1, max_size=6),
    st.floats(0, 1, exclude_max=True),
)
def test_routing_is_stable_and_complete(nodes: list[tuple[float, int, str]], number: float) -> None:
    """Every node is kept or dropped once, and the same number gives the same order."""
    views = [
        node(str(i), health=Health(ewma_ms=ms, heard_at=NOW), in_flight=busy, session=session() if ok == "ok" else None)
        for i, (ms, busy, ok) in enumerate(nodes)
    ]
    first = candidates(views, MODEL, CHAT, SIGNED, NOW, number)
    assert first == candidates(views, MODEL, CHAT, SIGNED, NOW, number)
    assert sorted(v.id for v in (*first.order, *(v for v, _ in first.dropped))) == sorted(v.id for v in views)
    assert all(view.session for view in first.order)
    loads = [view.health.ewma_ms * (view.in_flight + 1) for view in first.order if view.health.ewma_ms]
    assert loads[1:] == sorted(loads[1:])


def test_reasons_are_codes() -> None:
    """The reasons that are no check ids are lower-case codes, each once."""
    assert len(set(REASONS)) == len(REASONS)
    assert all(reason.replace("_", "").isalpha() and reason.islower() for reason in REASONS)
    assert msgspec.structs.fields(Routing)[2].name == "error"


def test_a_probe_does_not_stand_in_its_own_way() -> None:
    """While it is under way nobody else is let in; the request that it is may be judged again."""
    probed = node(health=Health(failures=5, opened=1, circuit_until=NOW - 1, probe_until=NOW + 1))
    assert drop_reason(probed, MODEL, CHAT, SIGNED, NOW) == "circuit_open"
    assert drop_reason(probed, MODEL, CHAT, SIGNED, NOW, let_in=True) is None
    for sick in (Health(circuit_until=NOW + 1), Health(quarantined_until=NOW + 1)):
        assert drop_reason(node(health=sick), MODEL, CHAT, SIGNED, NOW, let_in=True) is not None
