"""The part of the vocabulary that is about proofs: what each has to show, and what follows when it decides nothing.

`require` says which proofs are asked for (the checks `proof_…`), these keys by what terms. The defaults are those of
the verifiers in `gateway.verify.proofs`, but for `reexec.max_mean_margin`: at 0 the calibration alone decides.
"""

from __future__ import annotations

import msgspec

from .key import Key, Order, seconds

_SHA256 = r"[0-9a-f]{64}"


def _count(path: str, default: int, low: int, high: int, meaning: str, order: Order = Order.HIGHER) -> Key:
    return Key(path, "count", default, meaning, order, low=low, high=high)


def _number(path: str, default: float, low: float, high: float, meaning: str, order: Order) -> Key:
    return Key(path, "number", default, meaning, order, low=low, high=high)


def _calibrations(path: str, meaning: str) -> Key:
    return Key(path, "names", None, meaning, Order.FEWER, pattern=_SHA256, form="64 lower-case hex digits")


PROOF_KEYS: tuple[Key, ...] = (
    Key(
        "proofs.request",
        "choice",
        "complete",
        "whether the gateway adds to a request what a proof needs and the request leaves out (temperature 0, "
        "log-probs, token ids), or sends it as it came",
        Order.FREE,
        choices=("complete", "as_sent"),
    ),
    Key(
        "proofs.on_inconclusive",
        "choice",
        "refuse",
        "a proof that was tried and did not decide: in the tier `warning`, or not shown",
        choices=("warn", "refuse"),
    ),
    seconds("proofs.timeout_s", 20, 0.1, 600, "to gather the proofs of an answer, from its last byte"),
    _count("quorum.n", 2, 2, 12, "how many distinct operators have to give the same answer"),
    Key(
        "quorum.m",
        "count",
        3,
        "among how many nodes at most, each of which gets the prompt and may be paid; never fewer than n",
        Order.LOWER,
        low=2,
        high=12,
        floor="quorum.n",
    ),
    _number("quorum.tau", 0.2, 0, 1, "nats within which two tokens count as a tie", Order.LOWER),
    _number(
        "quorum.delta",
        0.05,
        0,
        0.5,
        "nats that log-probs may differ by, in the mean over the common prefix",
        Order.LOWER,
    ),
    _count("quorum.min_prefix", 8, 1, 4_096, "tokens before which a near-tie decides nothing"),
    _number(
        "quorum.min_share",
        0,
        0,
        1,
        "share of the shorter answer that the common prefix has to be",
        Order.HIGHER,
    ),
    Key(
        "reexec.references",
        "names",
        None,
        "the only references whose word is taken, by id, for whatever a reference scores; absent means any in the "
        "settings",
        Order.FEWER,
    ),
    _calibrations("reexec.calibrations", "the only calibrations to judge by, by id; absent means any in the settings"),
    Key(
        "reexec.claims",
        "names",
        ("greedy",),
        "what a request may claim for its answer to be judged: temperature 0 (greedy), or draws with a shared seed",
        Order.FEWER,
        choices=("greedy", "seeded"),
    ),
    _count("reexec.min_tokens", 16, 1, 4_096, "answers with fewer tokens stay undecided"),
    _number(
        "reexec.max_mean_margin",
        0,
        0,
        0.5,
        "nats of mean margin that are always let be; at 0 the calibration alone decides",
        Order.LOWER,
    ),
    _number(
        "logprob.min_similarity",
        0.99,
        0.9,
        0.9999,
        "what the similarity of the node's log-probs to the reference's has to exceed",
        Order.HIGHER,
    ),
    _count("logprob.min_tokens", 8, 1, 4_096, "answers with fewer tokens stay undecided"),
    _calibrations(
        "toploc.calibrations",
        "the only TOPLOC calibrations to judge by, by id; absent means any in the settings, and without one nothing is "
        "decided",
    ),
    Key(
        "zk.circuits",
        "names",
        None,
        "the only circuits whose proofs are taken, by the SHA-256 of the verifying key; absent means any that the "
        "settings pin",
        Order.FEWER,
        pattern="sha256:" + _SHA256,
        form="sha256: and 64 lower-case hex digits",
    ),
    _number(
        "sampled.rate",
        0,
        0,
        1,
        "share of the released answers that is run again afterwards; 0 means none",
        Order.HIGHER,
    ),
    seconds("sampled.epoch_s", 3_600, 60, 86_400, "after which the seed that chose the audits is revealed"),
    Key(
        "sampled.delay_min_s",
        "seconds",
        60,
        "from an answer's release to its audit at the earliest, so that a node does not know a replay by its time",
        Order.HIGHER,
        low=0,
        high=86_400,
    ),
    Key(
        "sampled.delay_max_s",
        "seconds",
        3_600,
        "from an answer's release to its audit at the latest; never less than delay_min_s",
        Order.LOWER,
        low=0,
        high=86_400,
        floor="sampled.delay_min_s",
    ),
    Key(
        "sampled.on_fail",
        "choice",
        "quarantine",
        "what a failed audit does to the node: it is reported, or not used for a while as well",
        choices=("report", "quarantine"),
    ),
)

#: Section -> the checks whose terms it holds: keys of a section that nothing reads are an error. `reexec` says which
#: references are believed, whatever they score.
READ_BY = {
    "quorum": frozenset({"proof_quorum"}),
    "reexec": frozenset({"proof_reexec", "proof_logprob", "proof_toploc"}),
    "logprob": frozenset({"proof_logprob"}),
    "toploc": frozenset({"proof_toploc"}),
    "zk": frozenset({"proof_zk"}),
}


class ProofRules(msgspec.Struct, frozen=True):
    """The section `[proofs]`. `timeout_s` in seconds."""

    request: str
    on_inconclusive: str
    timeout_s: float


class QuorumTerms(msgspec.Struct, frozen=True):
    """The section `[quorum]`: 2 <= n <= m <= 12; `tau` and `delta` in nats, `min_prefix` in tokens."""

    n: int
    m: int
    tau: float
    delta: float
    min_prefix: int
    min_share: float


class ReexecTerms(msgspec.Struct, frozen=True):
    """The section `[reexec]`: None means any that the settings have; `max_mean_margin` in nats."""

    references: frozenset[str] | None
    calibrations: frozenset[str] | None
    claims: frozenset[str]
    min_tokens: int
    max_mean_margin: float


class LogprobTerms(msgspec.Struct, frozen=True):
    min_similarity: float
    min_tokens: int


class ToplocTerms(msgspec.Struct, frozen=True):
    calibrations: frozenset[str] | None


class ZkTerms(msgspec.Struct, frozen=True):
    """The section `[zk]`: circuits as `sha256:<hex>`; None means any that the settings pin."""

    circuits: frozenset[str] | None


class SampledTerms(msgspec.Struct, frozen=True):
    """The section `[sampled]`: `rate` from 0 (no audits) to 1, with up to nine decimals; times in seconds."""

    rate: float
    epoch_s: float
    delay_min_s: float
    delay_max_s: float
    on_fail: str
