"""Evidence about an inference that no hardware vouches for: what each kind shows, and what it does not.

    quorum   N distinct operators gave the same answer, within what honest numerics differ by.
             Not that it is right: operators that collude, or resell one backend, agree for free.
    reexec   the tokens are those that a reference model, run by somebody trusted, would have picked, within noise.
             Nothing for sampling without a shared seed, beyond that the tokens are plausible.
    logprob  the node's log-probs are those of the reference model. Nothing about how tokens were picked from them.
    toploc   the hidden states behind the tokens are the model's. Nothing about sampling.
    zk       the outputs are those of one pinned circuit on these inputs. The only kind that is a proof.
    drift    a node answers otherwise than it used to. A reason to calibrate anew, never a reason to accuse.

Only `zk` is cryptographic. The others are statistics: they hold up to an error rate that a calibration measured, and
nothing here calls them proofs. Every judgement is a `ProofRecord` with one of four verdicts, of which only `pass`
speaks for an answer; what could not be decided is `inconclusive`, what was not there is `absent`.
"""
