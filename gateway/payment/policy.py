"""The operator's spending rules, and the one place that says which of a node's terms may be paid.

    found = choose(terms, rules, node_pay_to=..., url=..., now=...)      Chosen, or Refused with a reason

Nothing is allowed that is not named: networks, schemes, assets, payees, facilitators. The payee is the one that the
node's own record names (`pay_to="registry"`) or stands in a list. Caps over time are the ledger's; a cap on one request
is looked at here as well, before anything is written. x402 version 1 is read and not paid.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import SplitResult, urlsplit

import msgspec

from gateway.errors import ConfigError, FormatError

from .evm import address, chain_id
from .receipts import KeySet, check_offer
from .terms import Artifact, Requirement, Terms

#: A node that asks to hold an authorization longer than this is refused; below it the rules' own limit is signed.
LONGEST_ASK_S = 86_400
SCHEMES = ("exact", "upto")
#: How a node may settle; `individual` publishes the prompt and the answer in plain text.
SETTLEMENTS = ("private", "batch", "individual")
_PORTS = {"http": 80, "https": 443}


class Caps(msgspec.Struct, frozen=True):
    """How much may be spent, in atomic units of one asset; a day is one of UTC."""

    per_request: int
    per_key_day: int
    per_node_day: int
    global_day: int


class Asset(msgspec.Struct, frozen=True):
    """A token that may be paid: `address` on `network` (CAIP-2). `decimals`, `unit`: for whoever shows an amount."""

    network: str
    address: str
    decimals: int
    unit: str
    caps: Caps

    @property
    def id(self) -> str:
        """`network/address`, in one spelling."""
        return f"{self.network}/{self.address.lower()}"


class SpendingRules(msgspec.Struct, frozen=True):
    """What the operator lets a node be paid. `pay_to` is `registry`, or the addresses that may be paid.

    `max_timeout_s`: the longest an authorization is valid. `settlement`: the X-SETTLEMENT-TYPE that is asked for, one
    of `settlements`. `unsettled`: what an authorization without settlement counts as once it is no longer valid,
    `spent` (nobody can prove that it was not) or `released`. `offer_keys`: keys of offers and receipts in JWS form.
    """

    networks: tuple[str, ...]
    schemes: tuple[str, ...]
    assets: tuple[Asset, ...]
    pay_to: Literal["registry"] | tuple[str, ...] = "registry"
    facilitators: tuple[str, ...] = ()
    max_timeout_s: int = 120
    settlements: tuple[str, ...] = ("private", "batch")
    settlement: str = "batch"
    require_offer: bool = False
    unsettled: Literal["spent", "released"] = "spent"
    offer_keys: KeySet = {}


class Chosen(msgspec.Struct, frozen=True):
    """Terms that may be paid. `method` is how the asset moves; `facilitator` only where the scheme names one."""

    requirement: Requirement
    asset: Asset
    chain: int
    token: bytes
    pay_to: bytes
    method: Literal["eip3009", "permit2"]
    facilitator: bytes | None
    offer: Literal["absent", "valid", "unchecked"]


class Refused(msgspec.Struct, frozen=True):
    """Terms that are not paid. `reason` is a stable code, `found` what was asked, for a person."""

    reason: str
    found: str


class _Refusal(Exception):
    def __init__(self, reason: str, found: str) -> None:
        super().__init__(reason)
        self.refused = Refused(reason, found)


def check_rules(rules: SpendingRules) -> None:
    """Raises `ConfigError` for rules that cannot be meant: a name nobody knows, a cap below nothing, a bad address."""
    _known(rules.schemes, SCHEMES, "schemes")
    _known((*rules.settlements, rules.settlement), SETTLEMENTS, "settlements")
    if rules.settlement not in rules.settlements:
        raise ConfigError(f"payment.settlement {rules.settlement!r} is not one of payment.settlements")
    if not 1 <= rules.max_timeout_s <= LONGEST_ASK_S:
        raise ConfigError(f"payment.max_timeout_s must be from 1 to {LONGEST_ASK_S}")
    pinned = () if rules.pay_to == "registry" else rules.pay_to
    try:
        for network in rules.networks:
            chain_id(network)
        for text in (*pinned, *rules.facilitators, *(asset.address for asset in rules.assets)):
            address(text, f"the address {text!a:.60}")
    except FormatError as error:
        raise ConfigError(f"payment: {error.message}") from None
    for asset in rules.assets:
        _check_asset(asset, rules.networks)
    if len({asset.id for asset in rules.assets}) != len(rules.assets):
        raise ConfigError("payment.assets names one asset twice")


def _known(found: tuple[str, ...], known: tuple[str, ...], what: str) -> None:
    for name in found:
        if name not in known:
            raise ConfigError(f"payment.{what}: {name!a:.60} is none of {', '.join(known)}")


def _check_asset(asset: Asset, networks: tuple[str, ...]) -> None:
    caps = asset.caps
    if asset.network not in networks:
        raise ConfigError(f"payment.assets: {asset.id} is on a network that payment.networks does not name")
    if not 0 <= asset.decimals <= 77:
        raise ConfigError(f"payment.assets: {asset.id} cannot have {asset.decimals} decimals")
    if not all(0 <= cap < 2**256 for cap in (caps.per_request, caps.per_key_day, caps.per_node_day, caps.global_day)):
        raise ConfigError(f"payment.assets: a cap of {asset.id} is no amount")


def choose(terms: Terms, rules: SpendingRules, *, node_pay_to: str | None, url: str, now: float) -> Chosen | Refused:
    """The first of the terms, in the node's order, that the rules allow; else why the first of them was refused.

    `node_pay_to` is the payee in the node's own record (None: it has none), `url` the one that was asked, `now` Unix
    seconds. Reasons: version, resource_mismatch, scheme, network, asset, transfer_method, pay_to_not_pinned,
    facilitator, max_timeout, cap, offer_mismatch, offer_absent, malformed.
    """
    if terms.version != 2:
        return Refused("version", f"x402 version {terms.version}")
    refused: Refused | None = None
    for requirement in terms.requirements:
        try:
            return _judge(requirement, terms, rules, node_pay_to, url, now)
        except _Refusal as refusal:
            refused = refused or refusal.refused
        except FormatError as error:
            refused = refused or Refused("malformed", error.message)
    return refused or Refused("terms_absent", "no requirement")


def _judge(
    asked: Requirement, terms: Terms, rules: SpendingRules, node_pay_to: str | None, url: str, now: float
) -> Chosen:
    _same_resource(asked.resource, url)
    _demand(asked.scheme in rules.schemes, "scheme", asked.scheme)
    _demand(asked.network in rules.networks, "network", asked.network)
    token, payee = address(asked.asset, "asset"), address(asked.pay_to, "payTo")
    asset = _asset(asked.network, token, rules)
    method = _method(asked)
    _demand(payee in _payees(rules, node_pay_to), "pay_to_not_pinned", asked.pay_to)
    facilitator = _facilitator(asked, rules)
    _demand(asked.max_timeout_s <= LONGEST_ASK_S, "max_timeout", f"{asked.max_timeout_s} s")
    _demand(asked.amount <= asset.caps.per_request, "cap", str(asked.amount))
    offer = _offer(asked, terms.offers, rules, payee, now)
    return Chosen(asked, asset, chain_id(asked.network), token, payee, method, facilitator, offer)


def _demand(holds: bool, reason: str, found: str) -> None:
    if not holds:
        raise _Refusal(reason, found[:80])


def _same_resource(named: str | None, url: str) -> None:
    """The terms are for the URL that was asked. A node behind a proxy of its own may say http where https was used."""
    here, there = _place(url), _place(named or "")
    if here is None or there is None or here[1:] != there[1:] or there[0] not in (here[0], "http"):
        raise _Refusal("resource_mismatch", (named or "no resource")[:80])


def _place(url: str) -> tuple[str, str, int | None, str] | None:
    """Scheme, host, port where it is not the scheme's own, and path."""
    try:
        parts: SplitResult = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in _PORTS or not parts.hostname or parts.username is not None:
        return None
    return parts.scheme, parts.hostname, None if port == _PORTS[parts.scheme] else port, parts.path or "/"


def _asset(network: str, token: bytes, rules: SpendingRules) -> Asset:
    wanted = f"{network}/0x{token.hex()}"
    for asset in rules.assets:
        if asset.id == wanted:
            return asset
    raise _Refusal("asset", wanted)


def _method(asked: Requirement) -> Literal["eip3009", "permit2"]:
    named = asked.extra.transfer_method
    if named == "permit2":
        return "permit2"
    _demand(named in (None, "eip3009") and asked.scheme == "exact", "transfer_method", named or "none")
    _demand(
        asked.extra.name is not None and asked.extra.version is not None, "malformed", "no name or version of asset"
    )
    return "eip3009"


def _payees(rules: SpendingRules, node_pay_to: str | None) -> set[bytes]:
    if rules.pay_to == "registry":
        return set() if node_pay_to is None else {address(node_pay_to, "the payee in the node's record")}
    return {address(text, "payment.pay_to") for text in rules.pay_to}


def _facilitator(asked: Requirement, rules: SpendingRules) -> bytes | None:
    """Who may settle, which `upto` signs; `exact` binds no facilitator."""
    if asked.scheme != "upto":
        return None
    named = asked.extra.facilitator
    found = address(named or "", "facilitatorAddress")
    allowed = {address(text, "payment.facilitators") for text in rules.facilitators}
    _demand(found in allowed, "facilitator", named or "none")
    return found


def _offer(
    asked: Requirement, offers: tuple[Artifact, ...], rules: SpendingRules, payee: bytes, now: float
) -> Literal["absent", "valid", "unchecked"]:
    """An offer, where there are any, must be for what is asked now; offers match by their fields, not by place."""
    if not offers:
        _demand(not rules.require_offer, "offer_absent", "no offer")
        return "absent"
    statuses = {check_offer(offer, asked, payee, rules.offer_keys, now).status for offer in offers}
    if "valid" in statuses:
        return "valid"
    _demand("unchecked" in statuses and not rules.require_offer, "offer_mismatch", "no offer holds for these terms")
    return "unchecked"
