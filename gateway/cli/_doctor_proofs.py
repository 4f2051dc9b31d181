"""What the proofs that a policy asks for need, and whether it is there: operators, references, calibrations, circuits.

No prompt is sent: a reference is asked for its list of models. A line whose subject (`about`) is a model and which is
contraindicated says that no answer of that model could be proven as the settings stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import httpx

from gateway.errors import ConfigError
from gateway.exchange.amend import QUORUM, REEXEC, TOPLOC, ZK
from gateway.model.line import Line
from gateway.model.node import Node
from gateway.model.verdict import Outcome
from gateway.policy import CompiledPolicy
from gateway.proofs import read_circuits
from gateway.proofs.scoring import KINDS
from gateway.references import Calibrations, References, keys_of, load_calibrations
from gateway.settings import Reference, Settings
from gateway.upstream.pool import UpstreamPool
from gateway.upstream.transport import control_client, reason_of
from gateway.verify.proofs.calibration import Statistic
from gateway.verify.proofs.zk_manifest import EZKL_VERSION

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_STATISTICS = {"greedy": Statistic.GREEDY_MARGIN, "seeded": Statistic.SEEDED_MARGIN}
_GOOD, _BAD, _WARN = Outcome.AFFIRMING, Outcome.CONTRAINDICATED, Outcome.WARNING


async def proof_lines(
    settings: Settings, policy: CompiledPolicy, nodes: Sequence[Node], pool: UpstreamPool, environ: Mapping[str, str]
) -> list[Line]:
    """A line for each thing that `policy` needs to have answers of `nodes` proven or audited; none where it asks for
    nothing. Raises `ConfigError` for folders that cannot be read, as the start of a gateway does."""
    asked = policy.plan.proofs
    lines = _operators(policy, nodes) if QUORUM in asked else []
    if asked & (KINDS.keys() - {ZK}) or policy.sampled.rate > 0:
        lines += await _Scoring(settings, policy, pool, environ).lines(_models(nodes, CHAT, COMPLETIONS))
    if ZK in asked:
        lines += _circuits(settings, policy, _models(nodes))
    return lines


def provable(lines: Iterable[Line], nodes: Iterable[Node]) -> bool:
    """Whether something of what `nodes` offer has nothing against it."""
    against = {line.about for line in lines if line.outcome is _BAD}
    return any(model not in against for node in nodes for model in node.models)


def _models(nodes: Iterable[Node], *endpoints: str) -> list[str]:
    """What the nodes offer at one of `endpoints`, or anywhere."""
    return sorted({m for n in nodes if not endpoints or {*n.endpoints} & {*endpoints} for m in n.models})


# -- quorum -----------------------------------------------------------------------------------------------------------


def _operators(policy: CompiledPolicy, nodes: Sequence[Node]) -> list[Line]:
    lines = []
    for model in _models(nodes, CHAT):
        having = [node for node in nodes if model in node.models and CHAT in node.endpoints]
        known = sorted({node.operator for node in having if node.operator})
        unknown = [node.id for node in having if not node.operator]
        named = f"{len(known)} known ({', '.join(known)})" if known else "none known"
        detail = f"without `operator`, so left out of every quorum: {', '.join(unknown)}" if unknown else None
        if len(known) >= policy.quorum.n:
            sentence = f"{named}; quorum.n asks for {policy.quorum.n}"
            lines.append(Line("operators", _WARN if unknown else _GOOD, sentence, model, detail))
        else:
            sentence = (
                f"{named}, and quorum.n asks for {policy.quorum.n}: say in [[nodes]] who runs each node (`operator`), "
                "or add nodes of others"
            )
            lines.append(Line("operators", _BAD, sentence, model, detail))
    return lines


# -- what a reference scores ------------------------------------------------------------------------------------------


class _Scoring:
    """References and calibrations, for proofs before the release and for audits after it."""

    def __init__(
        self, settings: Settings, policy: CompiledPolicy, pool: UpstreamPool, environ: Mapping[str, str]
    ) -> None:
        folder = settings.proofs.calibrations
        self._calibrations = load_calibrations(folder) if folder is not None else Calibrations()
        self._settings, self._policy, self._pool, self._environ = settings, policy, pool, environ
        self._references = References(settings.references, pool)
        kinds = policy.plan.proofs
        self._waits = bool(kinds & (KINDS.keys() - {ZK}))  # an answer waits for it; an audit does not hold it up
        self._margins = REEXEC in kinds or policy.sampled.rate > 0
        self._toploc = TOPLOC in kinds

    async def lines(self, models: Sequence[str]) -> list[Line]:
        try:
            of = {model: self._references.of(model, self._policy.reexec.references) for model in models}
        finally:
            await self._references.close()
        reached = {r.id: await self._reach(r) for r in dict.fromkeys(r for found in of.values() for r in found)}
        lines = list(reached.values())
        for model, found in of.items():
            usable = [r for r in found if reached[r.id].outcome is not _BAD]
            lines.append(self._reference(model, found, usable))
            if found and self._margins:
                lines += self._statistics(model, found)
            if found and self._toploc:
                limits = [self._calibrations.limits(r, model, self._policy.toploc.calibrations) for r in found]
                lines.append(
                    self._calibration(model, "toploc", [c.id for c in limits if c is not None], found, self._bad)
                )
        return lines

    @property
    def _bad(self) -> Outcome:
        return _BAD if self._waits else _WARN

    async def _reach(self, reference: Reference) -> Line:
        try:
            key = keys_of([reference], self._environ).get(reference.id)
        except ConfigError as error:
            return Line("reference", _BAD, error.message, reference.id)
        headers = {"authorization": f"Bearer {key}"} if key else {}
        client = control_client(
            self._pool,
            allow_http=self._settings.upstream.allow_http,
            allow_private=True,  # as when it is asked: the operator wrote the address
            connect_s=reference.connect_s,
        )
        async with client:
            try:
                status = (await client.get(f"{reference.base_url.rstrip('/')}/v1/models", headers=headers)).status_code
            except httpx.HTTPError as error:
                sentence = f"nothing usable at {reference.base_url} ({reason_of(error)})"
                return Line("reference", _BAD, sentence, reference.id)
        if status in (401, 403):
            sentence = f"{reference.base_url} refuses our key (HTTP status {status}); see `api_key_env`"
            return Line("reference", _BAD, sentence, reference.id)
        return Line("reference", _GOOD, f"{reference.base_url} answers", reference.id)

    def _reference(self, model: str, found: Sequence[Reference], usable: Sequence[Reference]) -> Line:
        if usable:
            return Line("references", _GOOD, ", ".join(r.id for r in usable), model)
        if found:
            return Line("references", self._bad, "none that can be asked now (`reference_unreachable`)", model)
        allowed = self._policy.reexec.references
        those = "" if allowed is None else f" among {', '.join(sorted(allowed))}, which the policy allows,"
        sentence = f"no [[references]]{those} names this model, so nothing is decided (`reference_absent`)"
        return Line("references", self._bad, sentence, model)

    def _statistics(self, model: str, found: Sequence[Reference]) -> list[Line]:
        had = {}
        for claim in self._policy.reexec.claims:
            each = [
                self._calibrations.quantiles(_STATISTICS[claim], r, model, self._policy.reexec.calibrations)
                for r in found
            ]
            had[claim] = [c.id for c in each if c is not None]
        # One claim without a calibration leaves the others decided.
        bad = _WARN if any(had.values()) else self._bad
        return [self._calibration(model, claim, ids, found, bad) for claim, ids in sorted(had.items())]

    def _calibration(self, model: str, what: str, ids: Sequence[str], found: Sequence[Reference], bad: Outcome) -> Line:
        if ids:
            return Line("calibration", _GOOD, f"{what} {', '.join(i[:12] + '…' for i in ids)}", model)
        option = {"seeded": " --seeded", "toploc": " --toploc"}.get(what, "")
        sentence = (
            f"{what}: none in proofs.calibrations for {', '.join(r.id for r in found)} and this model, so nothing is "
            "decided (`not_calibrated`)"
        )
        make = (
            f"veriroute calibrate --reference {found[0].base_url} --reference-id {found[0].id} --node URL "
            f"--model {model} --prompts builtin --count 200 --tokens 64{option} --out FILE.json"
        )
        return Line("calibration", bad, sentence, model, make)


# -- zero-knowledge proofs --------------------------------------------------------------------------------------------


def _circuits(settings: Settings, policy: CompiledPolicy, models: Sequence[str]) -> list[Line]:
    circuits = read_circuits(settings.proofs.circuits)
    allowed = policy.zk.circuits
    lines = []
    if any(circuit.manifest.ezkl_version for circuit in circuits.values()):
        lines.append(_verifier())
    for model in models:
        found = [
            i
            for i, circuit in circuits.items()
            if (allowed is None or i in allowed) and (not circuit.manifest.models or model in circuit.manifest.models)
        ]
        if found:
            lines.append(Line("circuits", _GOOD, ", ".join(i[:19] + "…" for i in found), model))
        else:
            sentence = (
                "no circuit of proofs.circuits is for this model and allowed by the policy, so no proof of it is taken "
                "(`circuit_not_pinned`)"
            )
            lines.append(Line("circuits", _BAD, sentence, model))
    return lines


def _verifier() -> Line:
    try:
        found = version("ezkl")
    except PackageNotFoundError:
        sentence = "ezkl is not installed: every proof stays undecided (`verifier_missing`); the extra is [zk]"
        return Line("verifier", _WARN, sentence)
    if found != EZKL_VERSION:
        return Line("verifier", _WARN, f"ezkl {found} is installed, and {EZKL_VERSION} is what is known here")
    return Line("verifier", _GOOD, f"ezkl {found}")
