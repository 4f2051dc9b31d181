"""N of M: the same request to nodes of different operators, and whether enough of them gave the same answer.

 1. read        each member's answer: its structured value, else its tokens and log-probs, which must spell its text
 2. compare     every pair: structured values for equality, free text by `agreement.compare`
 3. clique      the largest set of members that all agree pairwise, counted in distinct operators
 4. verdict     pass with N operators in it; fail when even the undecided pairs could not make N; else inconclusive

Nodes of one operator count once, and a node whose operator is not known not at all: it may be any of the others. A
member without an answer, without log-probs, or with a text that its tokens do not spell is missing, and an undecided
pair is no agreement. Where two cliques of the same size contradict each other there is no quorum. What is shown is that
N operators agree, as far as `tokens`; that they are right is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import msgspec

from gateway.errors import FormatError

from .agreement import Agreement, NearTie, Pair, compare
from .evidence import Artefact, Kind, ProofRecord, Subject, Verdict, shown
from .spelling import Spelling, position_texts, spelling
from .structured import Form, canonical
from .tokens import Position, Presence, read_choice

#: All subsets of the members are looked at.
MAX_MEMBERS = 12


class Terms(msgspec.Struct, frozen=True):
    """What a policy asks: agreement of `n` operators among at most `m` nodes, by these terms.

    `stops` are the request's stop strings, before which a text may end.
    """

    n: int = 2
    m: int = 3
    near_tie: NearTie = NearTie()
    form: Form = Form.TEXT
    stops: tuple[str, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """What one node gave. `body` is None when nothing came, with the reason in `problem` (timeout, …)."""

    node: str
    response_sha256: str | None = None
    body: bytes | None = None
    problem: str | None = None


class Compared(msgspec.Struct, frozen=True):
    """One pair of nodes and how their answers compare."""

    a: str
    b: str
    pair: Pair


class Quorum(msgspec.Struct, frozen=True):
    """The record, the nodes that agree (the first one's answer is released), and everything it was concluded from.

    `missing` maps a node that could not take part to why. `more` is how many further nodes may be asked by the terms:
    none once there is a quorum, one while there is none and fewer than M have been asked.
    """

    record: ProofRecord
    members: tuple[str, ...]
    pairs: tuple[Compared, ...]
    missing: Mapping[str, str]
    more: int


class _Read(msgspec.Struct, frozen=True):
    node: str
    value: bytes | None
    positions: tuple[Position, ...]


_Table = Mapping[tuple[str, str], Pair]
_Clique = tuple[_Read, ...]


def judge_quorum(answers: Sequence[Answer], operators: Mapping[str, str], terms: Terms, subject: Subject) -> Quorum:
    """Judge the answers, in the order of preference for release, with `operators` from node id to who runs it.

    `subject` says for which request; the response in the record is the one to release. Total for any bodies. Raises
    `FormatError` for terms that make no quorum (n < 2, n > m), more answers than `m`, and nodes named twice.
    """
    _refuse_senseless(answers, terms)
    # 1. read
    read, missing = _read_all(answers, terms)
    # 2. compare
    table = {(a.node, b.node): _compare(a, b, terms.near_tie) for a, b in combinations(read, 2)}
    # 3. clique
    cliques = _largest(read, operators, table, frozenset({Agreement.AGREE}))
    # 4. verdict
    verdict, reason = _verdict(cliques, operators, terms, table)
    if reason == "no_quorum" and not missing and len(answers) == terms.m:
        # Who runs them is left out: that an operator is not known is no evidence against anybody.
        alone = {r.node: r.node or "?" for r in read}
        hoped = _largest(read, alone, table, frozenset({Agreement.AGREE, Agreement.INCONCLUSIVE}))
        if _strength(hoped, alone) < terms.n:
            verdict = Verdict.FAIL
    best = cliques[0] if verdict is Verdict.PASS else ()
    record = _subject(subject, answers, best).record(
        Kind.QUORUM,
        verdict,
        reason,
        statistic=float(_strength(cliques, operators)),
        threshold=float(terms.n),
        tokens=_reach(best, table),
        culprits=_culprits(best, read, table),
    )
    pairs = tuple(Compared(a, b, pair) for (a, b), pair in table.items())
    more = 0 if best else min(max(terms.n - len(answers), 1), terms.m - len(answers))
    return Quorum(record, tuple(r.node for r in best), pairs, missing, more)


def _subject(subject: Subject, answers: Sequence[Answer], best: _Clique) -> Subject:
    """`subject` with the digest of every answer, and as its response the one that is to be released, if any."""
    digests = {a.node: a.response_sha256 for a in answers if a.response_sha256 is not None}
    artefacts = tuple(Artefact(_name(node), digest) for node, digest in digests.items())
    released = digests.get(best[0].node) if best else None
    return msgspec.structs.replace(subject, response_sha256=released, artefacts=subject.artefacts + artefacts)


def _refuse_senseless(answers: Sequence[Answer], terms: Terms) -> None:
    if not 2 <= terms.n <= terms.m <= MAX_MEMBERS:
        raise FormatError(f"no quorum is {terms.n} of {terms.m}: 2 to {MAX_MEMBERS}, and not more than are asked")
    if len(answers) > terms.m or len({a.node for a in answers}) != len(answers):
        raise FormatError(f"a quorum is judged over at most {terms.m} nodes, each named once")


def _read_all(answers: Sequence[Answer], terms: Terms) -> tuple[list[_Read], dict[str, str]]:
    read: list[_Read] = []
    missing: dict[str, str] = {}
    for answer in answers:
        found = _read(answer, terms)
        if isinstance(found, _Read):
            read.append(found)
        else:
            missing[answer.node] = found
    return read, missing


def _read(answer: Answer, terms: Terms) -> _Read | str:
    """What of an answer can be compared, or why nothing can."""
    if answer.body is None or answer.response_sha256 is None:
        return answer.problem or "no_answer"
    try:
        choice, scored = read_choice(answer.body)
        value = canonical(choice, terms.form)
    except FormatError as error:
        return error.reason or "malformed"
    if value is not None:
        return _Read(answer.node, value, ())
    if scored.presence in (Presence.ABSENT, Presence.EMPTY):
        return scored.presence.value
    spelt = spelling(position_texts(scored.positions), choice, terms.stops)
    return _Read(answer.node, None, scored.positions) if spelt is Spelling.SAME else spelt.value


def _compare(a: _Read, b: _Read, terms: NearTie) -> Pair:
    if a.value is None and b.value is None:
        return compare(a.positions, b.positions, terms)
    if a.value == b.value:
        return Pair(Agreement.AGREE, "same_value")
    return Pair(Agreement.DISAGREE, "value_differs")


def _largest(
    read: Sequence[_Read], operators: Mapping[str, str], table: _Table, accepted: frozenset[Agreement]
) -> list[_Clique]:
    """The cliques with the most operators, of those the ones with the most members, in the order of `read`."""
    best: list[_Clique] = []
    rank = (0, 0)
    for size in range(len(read), 0, -1):
        for group in combinations(read, size):
            own = (len(_distinct(group, operators)), size)
            if own < rank or any(table[a.node, b.node].agreement not in accepted for a, b in combinations(group, 2)):
                continue
            best, rank = ([group], own) if own > rank else ([*best, group], own)
    return best


def _distinct(group: Sequence[_Read], operators: Mapping[str, str]) -> set[str]:
    return {operators[r.node] for r in group if operators.get(r.node)}


def _strength(cliques: Sequence[_Clique], operators: Mapping[str, str]) -> int:
    return len(_distinct(cliques[0], operators)) if cliques else 0


def _verdict(
    cliques: Sequence[_Clique], operators: Mapping[str, str], terms: Terms, table: _Table
) -> tuple[Verdict, str]:
    count = _strength(cliques, operators)
    if count < terms.n:
        crowd = any(len(clique) >= terms.n for clique in cliques)
        return Verdict.INCONCLUSIVE, "operators_not_distinct" if crowd else "no_quorum"
    if any(_between(a, b, table) is Agreement.DISAGREE for other in cliques[1:] for a in cliques[0] for b in other):
        return Verdict.INCONCLUSIVE, "quorum_split"
    return Verdict.PASS, "agreed"


def _pair(a: _Read, b: _Read, table: _Table) -> Pair | None:
    return table.get((a.node, b.node)) or table.get((b.node, a.node))


def _between(a: _Read, b: _Read, table: _Table) -> Agreement | None:
    pair = _pair(a, b, table)
    return pair.agreement if pair is not None else None


def _reach(best: _Clique, table: _Table) -> int | None:
    """How many tokens the members have in common, None where values were compared."""
    if not best or best[0].value is not None:
        return None
    return min(table[a.node, b.node].prefix for a, b in combinations(best, 2))


def _culprits(best: _Clique, read: Sequence[_Read], table: _Table) -> tuple[str, ...]:
    """The nodes that contradict more of the quorum than they agree with. Without a quorum nobody is named."""
    named = []
    for node in read:
        said = [_between(node, member, table) for member in best]
        if said.count(Agreement.DISAGREE) > said.count(Agreement.AGREE):
            named.append(_name(node.node))
    return tuple(named)


def _name(node: str) -> str:
    return shown(node) or "?"
