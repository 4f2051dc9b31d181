from __future__ import annotations

from gateway.policy import demand_verified, tighten
from gateway.policy_files import read_policies
from gateway.recorder import PolicyUse

POLICIES = read_policies()


def test_receipt_names_the_policy_and_the_files_it_comes_from() -> None:
    """One file is named once; a tightened policy is named first, then every file, so that each can be looked up."""
    signed, strict = POLICIES["signed"], POLICIES["strict"]
    alone = PolicyUse.of(signed).verifier.policies
    assert [(ref.name, ref.digest.sha256) for ref in alone] == [("signed", signed.digest)]
    together = PolicyUse.of(tighten(signed, strict)).verifier.policies
    assert [ref.name for ref in together] == ["signed+strict", "signed", "strict"]
    assert [ref.digest.sha256 for ref in together[1:]] == [signed.digest, strict.digest]
    verified = PolicyUse.of(demand_verified(POLICIES["observe"])).verifier.policies
    assert verified[0].digest.sha256 != verified[1].digest.sha256 == POLICIES["observe"].digest
