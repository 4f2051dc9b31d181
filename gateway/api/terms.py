"""Which policy governs a request: the key's, tightened by what the request asks for. Worked out once, then kept."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.errors import BadRequest, ConfigError
from gateway.exchange.head import Head
from gateway.policy import CompiledPolicy, demand_verified, requested_policy, tighten
from gateway.recorder import PolicyUse
from gateway.relay import Terms


class TermsBook:
    """All policies of this gateway. `replace` swaps them at once; an exchange keeps the terms it started with."""

    def __init__(self, policies: Mapping[str, CompiledPolicy], default: str) -> None:
        self.policies: Mapping[str, CompiledPolicy] = {}
        self.default = default
        self._made: dict[tuple[str, str | None, bool], Terms] = {}
        self.replace(policies)

    def replace(self, policies: Mapping[str, CompiledPolicy]) -> None:
        """Raises `ConfigError` when the default is not among them or can't be kept here."""
        if self.default not in policies:
            known = ", ".join(sorted(policies))
            raise ConfigError(f"policy.default names {self.default!r}, which there is not; there are: {known}")
        if policies[self.default].audit.durability == "witnessed":
            raise ConfigError(f"policy {self.default!r} asks for witnesses, and this version has none to ask")
        self.policies = dict(policies)
        self._made = {}

    def resolve(self, base: str | None, headers: list[bytes], head: Head) -> Terms:
        """The terms of one request. Raises `BadRequest` or `PolicyLoosens`; a caller can only tighten."""
        requested = requested_policy(headers, self.policies) if headers else None
        key = (base or self.default, requested.name if requested else None, head.aci_verified is True)
        terms = self._made.get(key)
        if terms is None:
            terms = self._make(key[0], requested, key[2])
            if len(self._made) < 1024:
                self._made[key] = terms
        if head.aci_session_ids is not None:
            return Terms(terms.policy, terms.use, head.aci_session_ids)
        return terms

    def _make(self, base: str, requested: CompiledPolicy | None, verified: bool) -> Terms:
        policy = self.policies.get(base)
        if policy is None:
            raise BadRequest(f"this key's policy {base!r} is not among this gateway's policies", param="policy")
        if requested is not None:
            policy = tighten(policy, requested)
        if verified:
            policy = demand_verified(policy)
        if policy.audit.durability == "witnessed":
            raise BadRequest(f"policy {policy.name!r} asks for witnesses, and this gateway has none", param="policy")
        return Terms(policy, PolicyUse.of(policy))
