"""The vocabulary of a policy file, and a policy as a value.

`KEYS` is the one table of what may be written: the loader parses by it, `tighten` compares by it, `veriroute policy
show` explains by it, and docs/policy.md is tested against it. A key that is not in it is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from gateway.model.tee import FreshnessClass, HostTrust, Platform, TcbStatus
from gateway.model.verdict import Outcome
from gateway.verify.tee.rules import TeeRules

from .key import Key, Order, seconds
from .proof_keys import (
    PROOF_KEYS,
    LogprobTerms,
    ProofRules,
    QuorumTerms,
    ReexecTerms,
    SampledTerms,
    ToplocTerms,
    ZkTerms,
)
from .tree import Leaf, Tree

#: Release modes, loosest first. `buffer`: nothing leaves before the verdict. `chained`: what the node's running
#: signature covers leaves. `window`: the last events are held back. `optimistic`: text leaves at once.
MODES = ("optimistic", "window", "chained", "buffer")

KEYS: tuple[Key, ...] = (
    Key(
        "on_failure",
        "choice",
        "refuse",
        "what follows when a node or an answer is not shown to be what policy requires: refuse, try the next node, or "
        "release it with its true verdict (flag)",
        choices=("flag", "next_node", "refuse"),
    ),
    Key(
        "retry_after_send",
        "flag",
        False,
        "with next_node: also after the prompt was sent, which discloses it to a second node and may pay twice",
        Order.LOWER,
    ),
    Key(
        "warnings",
        "choice",
        "accept",
        "whether a required check that is in the tier `warning` counts as met",
        choices=("accept", "refuse"),
    ),
    Key(
        "attach",
        "choice",
        "summary",
        "how much of the verification goes into the answer's body",
        Order.FREE,
        choices=("none", "summary", "full"),
    ),
    seconds("freshness.evidence_max_age_s", 600, 1, 86_400, "age after which a node's evidence is asked for anew"),
    seconds("freshness.response_skew_s", 120, 1, 3_600, "how far an answer's signed time may be from ours"),
    Key(
        "replay.nonce",
        "choice",
        "offered",
        "whether the signed answer must hold our request's nonce, or only where the node can",
        choices=("offered", "required"),
    ),
    Key(
        "replay.journal",
        "flag",
        True,
        "whether signed statements are remembered, so that one shown twice is known",
        Order.HIGHER,
    ),
    Key(
        "release.stream",
        "modes",
        ("buffer",),
        "how a stream may be released, in order of preference; a node that can do none of them is not used",
        Order.MODES,
        choices=MODES,
    ),
    Key("release.window_events", "count", 8, "events held back in the mode window", Order.HIGHER, low=1, high=4_096),
    Key(
        "release.window_ms",
        "count",
        500,
        "milliseconds for which an event is held back in the mode window",
        Order.HIGHER,
        low=1,
        high=60_000,
    ),
    Key(
        "release.gather_ms",
        "count",
        30,
        "milliseconds for which events may gather under one check of a running signature, in the mode chained; the "
        "first event and the last never wait",
        Order.LOWER,
        low=0,
        high=1_000,
    ),
    Key(
        "audit.durability",
        "choice",
        "durable",
        "what must have happened to the receipt before the answer leaves: queued (async), on disk (durable), or "
        "cosigned by a quorum of witnesses too (witnessed: this version has none, and serves nothing under it)",
        choices=("async", "durable", "witnessed"),
    ),
    Key(
        "audit.on_log_failure",
        "choice",
        "refuse",
        "what follows when the log cannot be written: refuse, or serve with the level `degraded`",
        choices=("degrade", "refuse"),
    ),
    Key(
        "audit.store_payload",
        "choice",
        "none",
        "what is kept beside the receipt: nothing, the salts with which somebody who holds prompt and answer can show "
        "that they are the ones (salted), or prompt and answer too (full)",
        choices=("none", "salted", "full"),
    ),
    Key(
        "audit.retention_min_days",
        "count",
        0,
        "days for which receipts must be kept; a statement for auditors: nothing in this version deletes a receipt",
        Order.HIGHER,
        low=0,
        high=36_500,
    ),
    Key(
        "executables.undeclared",
        "choice",
        "refuse",
        "a call to a tool that the request did not declare",
        choices=("flag", "refuse"),
    ),
    Key(
        "executables.arguments",
        "choice",
        "refuse",
        "a call whose arguments are not one strict JSON object",
        choices=("flag", "refuse"),
    ),
    Key(
        "output.text_as_tool_call",
        "choice",
        "warn",
        "text that reads as a list of tool calls",
        choices=("warn", "refuse"),
    ),
    Key(
        "output.uncovered",
        "choice",
        "withhold",
        "parts of an answer that could be content and that no signature covers (images, citations, text beside tool "
        "calls): kept back, or released and named (label)",
        choices=("label", "withhold"),
    ),
    Key(
        "request.unsupported",
        "choice",
        "refuse",
        "a request with members that the network would drop or change: sent all the same, and the answer names them "
        "(list), or not sent to that network",
        choices=("list", "refuse"),
    ),
    Key(
        "payment.settlement",
        "names",
        ("batch", "private"),
        "how a paid network may record what was paid for; individual publishes prompt and answer for everybody to read",
        Order.FEWER,
        choices=("batch", "individual", "private"),
    ),
    Key("networks.allow", "names", None, "the only networks to use; absent means any", Order.FEWER),
    Key("networks.deny", "names", (), "networks never to use; deny wins over allow", Order.MORE),
    Key("operators.deny", "names", (), "operators, and accounts of a registry, whose nodes are never used", Order.MORE),
    Key("nodes.deny", "names", (), "nodes never to use, by id", Order.MORE),
    Key(
        "tee.platforms",
        "names",
        None,
        "kinds of environment whose evidence is taken; absent means any",
        Order.FEWER,
        choices=tuple(m.value for m in Platform),
    ),
    Key(
        "tee.tcb_status",
        "names",
        ("NotApplicable", "SWHardeningNeeded", "UpToDate"),
        "statuses of a platform's security version that are taken",
        Order.FEWER,
        choices=tuple(m.value for m in TcbStatus),
    ),
    Key("tee.advisories_deny", "names", (), "vendor's advisories that may not be open on a platform", Order.MORE),
    Key(
        "tee.advisories_file",
        "file",
        (),
        "dated file of further advisories that may not be open, beside the policy or among the built-in ones",
        Order.MORE,
        pattern=r"advisories/[a-z0-9][a-z0-9_-]{0,63}\.toml",
        form="advisories/name.toml",
    ),
    Key(
        "tee.advisories_max_age_days",
        "count",
        36_500,
        "days after its date from which that file is refused when the policy is loaded",
        Order.LOWER,
        low=1,
        high=36_500,
    ),
    Key(
        "tee.minimum_evaluation",
        "count",
        0,
        "least number of Intel's evaluation data; older collateral is refused, however validly signed",
        Order.HIGHER,
        low=0,
        high=10_000,
    ),
    Key(
        "tee.minimum_svn",
        "names",
        (),
        "least versions of firmware and microcode, as name:number with the names of the claims' tcb.svn",
        Order.MORE,
        pattern=r"[a-z][a-z0-9_.]{0,63}:[0-9]{1,9}",
        form="name:number",
    ),
    Key("tee.debug", "choice", "refuse", "an environment that its host may look into", choices=("allow", "refuse")),
    Key(
        "tee.configuration",
        "choice",
        "refuse",
        "an environment whose host can weaken it: migration, a service domain, SEPT_VE on, another VMPL than 0, an "
        "attribute without a name",
        choices=("allow", "refuse"),
    ),
    Key(
        "tee.alias_check",
        "choice",
        "any",
        "whether AMD's firmware must have found no memory that answers at two addresses (BadRAM) since it started",
        choices=("any", "required"),
    ),
    Key(
        "tee.provisional_firmware",
        "choice",
        "allow",
        "AMD firmware that runs and is not committed, so that its host can go back to the one before",
        choices=("allow", "refuse"),
    ),
    Key(
        "tee.measurements",
        "names",
        None,
        "sets of measured values, one of which must be met whole: name:hex joined by /; absent means any",
        Order.FEWER,
        pattern=r"[a-z][a-z0-9_]{0,31}:[0-9a-f]{2,128}(/[a-z][a-z0-9_]{0,31}:[0-9a-f]{2,128}){0,31}",
        form="name:hex, several joined by /",
    ),
    Key(
        "tee.machines",
        "names",
        None,
        "the only machines to take, by machine_id (64 hex digits); absent means any",
        Order.FEWER,
        pattern=r"[0-9a-f]{64}",
        form="64 lower-case hex digits",
    ),
    Key(
        "tee.host_trust",
        "names",
        None,
        "who may hold the machine; absent means anybody",
        Order.FEWER,
        choices=tuple(m.value for m in HostTrust),
    ),
    Key(
        "tee.milan",
        "choice",
        "hosted",
        "AMD's Milan, whose root secrets its owner's software can read out: never, in a cloud's hands only, or always",
        choices=("allow", "hosted", "refuse"),
    ),
    Key(
        "tee.freshness",
        "names",
        None,
        "how evidence may show that it is fresh; absent means any way",
        Order.FEWER,
        choices=tuple(m.value for m in FreshnessClass),
    ),
    Key(
        "tee.binding",
        "choice",
        "required",
        "whether evidence must be tied to the key, channel or nonce that it was shown for",
        choices=("any", "required"),
    ),
    Key(
        "tee.revocation",
        "choice",
        "when_given",
        "whether revocation lists must have been looked at, or only those that there are",
        choices=("when_given", "required"),
    ),
    Key(
        "tee.gpu",
        "choice",
        "any",
        "whether accelerators must be attested and tied to the machine, and measured as NVIDIA's manifests say",
        choices=("any", "required", "measured"),
    ),
    *PROOF_KEYS,
    seconds("deadlines.connect_s", 5, 0.1, 60, "to reach the node"),
    seconds("deadlines.first_byte_s", 60, 0.1, 3_600, "from the request's last byte to the answer's first"),
    seconds("deadlines.idle_s", 60, 0.1, 3_600, "between two pieces of an answer"),
    seconds(
        "deadlines.total_s",
        600,
        0.1,
        86_400,
        "from the choice of a node to the last byte of an answer, however many nodes are tried",
    ),
)

BY_PATH = {key.path: key for key in KEYS}
SECTIONS = tuple(dict.fromkeys(key.path.split(".")[0] for key in KEYS if "." in key.path))

#: Keys that say what a file is; `require` says what it asks. They have no default and no order.
IDENTITY = {
    "name": "the policy's name: that of the file, in lower case",
    "version": "a whole number that rises with every change",
    "summary": "one sentence for a reader",
    "replaces": '"builtin" in a file that is meant to stand in place of the built-in policy of its name',
    "require": "the tree of checks and claims: one of all, any, at_least with of",
}


class Freshness(msgspec.Struct, frozen=True):
    evidence_max_age_s: float
    response_skew_s: float


class Replay(msgspec.Struct, frozen=True):
    nonce: str
    journal: bool


class ReleaseRules(msgspec.Struct, frozen=True):
    stream: tuple[str, ...]
    window_events: int
    window_ms: int
    gather_ms: int


class Audit(msgspec.Struct, frozen=True):
    durability: str
    on_log_failure: str
    store_payload: str
    retention_min_days: int


class Executables(msgspec.Struct, frozen=True):
    undeclared: str
    arguments: str


class Output(msgspec.Struct, frozen=True):
    text_as_tool_call: str
    uncovered: str


class Request(msgspec.Struct, frozen=True):
    unsupported: str


class Payment(msgspec.Struct, frozen=True):
    settlement: frozenset[str]


class Networks(msgspec.Struct, frozen=True):
    """`allow` None means any network; `deny` wins."""

    allow: frozenset[str] | None
    deny: frozenset[str]


class Denied(msgspec.Struct, frozen=True):
    deny: frozenset[str]


class Tee(msgspec.Struct, frozen=True):
    """As written; `CompiledPolicy.tee_rules` is what it comes to."""

    platforms: frozenset[str] | None
    tcb_status: frozenset[str]
    advisories_deny: frozenset[str]
    advisories_file: frozenset[str]
    advisories_max_age_days: int
    minimum_evaluation: int
    minimum_svn: frozenset[str]
    debug: str
    configuration: str
    alias_check: str
    provisional_firmware: str
    measurements: frozenset[str] | None
    machines: frozenset[str] | None
    host_trust: frozenset[str] | None
    milan: str
    freshness: frozenset[str] | None
    binding: str
    revocation: str
    gpu: str


class Deadlines(msgspec.Struct, frozen=True):
    connect_s: float
    first_byte_s: float
    idle_s: float
    total_s: float


class PolicyRef(msgspec.Struct, frozen=True, order=True):
    """A file by name, version and the SHA-256 (hex) of its bytes: what a receipt names. One of advisories has its path
    for a name and its date for a version (20261101); no policy's name has a slash."""

    name: str
    version: int
    digest: str

    @property
    def is_policy(self) -> bool:
        return "/" not in self.name


def digest_of(refs: Iterable[PolicyRef]) -> str:
    """The digest that stands for several files: of one, its own; of more, SHA-256 over their digests, sorted."""
    digests = sorted({ref.digest for ref in refs})
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(["veriroute policies v1", *digests, ""]).encode()).hexdigest()


class Plan(msgspec.Struct, frozen=True):
    """What `decide` needs, worked out once from the rest of the policy.

    `node` and `response` hold the parts of the tree that are judged in each phase. `node_ids` and `response_ids` are
    the check ids that must be affirming in the node's and in the answer's list; with `claims` (of a node:
    `node_claims`) they settle the matter alone. These two are None when they don't: the tree has groups, or asks
    nothing (of a node) but checks that may be idle. `adjust` says what an outcome of a check becomes under this policy.
    `nonce` says that no answer is taken whose signed statement holds no nonce of ours. `proofs` are the checks of the
    tree that are proofs: all of them are gathered, also those that stand inside `any`. `unasked` says that nothing is
    required of a node by itself and a proof of the answer is: whatever node may then get the prompt.
    """

    node: tuple[Tree, ...]
    response: tuple[Tree, ...]
    node_ids: frozenset[str]
    response_ids: frozenset[str]
    claims: tuple[Leaf, ...] | None
    node_claims: tuple[Leaf, ...] | None
    adjust: dict[tuple[str, Outcome], Outcome]
    nonce: bool
    proofs: frozenset[str]
    unasked: bool


class CompiledPolicy(msgspec.Struct, frozen=True):
    """A policy ready for use: immutable, total, and named by the digest of the bytes that it was read from.

    `stated` holds the paths that its file writes; the others have their defaults. `refs` names every file that it
    comes from: one, or several after `tighten`. `version` and `digest` of a tightened policy stand for all of them.
    """

    name: str
    version: int
    digest: str
    source: str
    summary: str
    refs: tuple[PolicyRef, ...]
    stated: frozenset[str]
    require: Tree
    plan: Plan
    on_failure: str
    retry_after_send: bool
    warnings: str
    attach: str
    freshness: Freshness
    replay: Replay
    release: ReleaseRules
    audit: Audit
    executables: Executables
    output: Output
    request: Request
    payment: Payment
    networks: Networks
    operators: Denied
    nodes: Denied
    tee: Tee
    proofs: ProofRules
    quorum: QuorumTerms
    reexec: ReexecTerms
    logprob: LogprobTerms
    toploc: ToplocTerms
    zk: ZkTerms
    sampled: SampledTerms
    deadlines: Deadlines
    tee_rules: TeeRules
