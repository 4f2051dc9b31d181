"""Only what the operator's rules name is paid; everything else is refused with its reason."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from payment_kit import (
    ASSET,
    CAPS,
    FACILITATOR,
    NETWORK,
    NOW,
    PAYEE,
    RULES,
    STRANGER,
    TOKEN,
    URL,
    address,
    headers,
    offer,
    offers,
    required,
    requirement,
    upto,
)

from gateway.errors import ConfigError
from gateway.payment.policy import Caps, Chosen, Refused, SpendingRules, check_rules, choose
from gateway.payment.terms import parse_terms


def decide(
    asked: dict[str, Any], rules: SpendingRules = RULES, *, payee: str | None = address(PAYEE), url: str = URL
) -> Chosen | Refused:
    return choose(parse_terms(headers(asked), b""), rules, node_pay_to=payee, url=url, now=NOW)


def with_rules(**changes: Any) -> SpendingRules:
    return msgspec.structs.replace(RULES, **changes)


def permit2(**extra: Any) -> dict[str, Any]:
    return requirement(extra={"assetTransferMethod": "permit2", **extra})


@pytest.mark.parametrize(
    ("asked", "method", "facilitator"),
    [
        (requirement(), "eip3009", None),
        (requirement(extra={"name": "C", "version": "1", "assetTransferMethod": "eip3009"}), "eip3009", None),
        (permit2(), "permit2", None),
        (upto(), "permit2", bytes.fromhex(address(FACILITATOR)[2:])),
        (requirement(asset=TOKEN.upper().replace("0X", "0x")), "eip3009", None),
    ],
)
def test_terms_within_the_rules_are_chosen(asked: dict[str, Any], method: str, facilitator: bytes | None) -> None:
    """What is allowed comes back with the bytes that a signature binds."""
    found = decide(required(asked))
    assert isinstance(found, Chosen)
    assert (found.method, found.facilitator, found.chain) == (method, facilitator, 4242)
    assert found.pay_to == bytes.fromhex(address(PAYEE)[2:])
    assert found.token == bytes.fromhex(TOKEN[2:])
    assert found.asset == ASSET
    assert found.offer == "absent"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "scheme": (requirement(scheme="deferred"), "scheme"),
    "network": (requirement(network="eip155:1"), "network"),
    "network_other_kind": (requirement(network="solana:abc"), "network"),
    "asset": (requirement(asset="0x" + "66" * 20), "asset"),
    "asset_no_address": (requirement(asset="gold"), "malformed"),
    "method": (requirement(extra={"name": "C", "version": "1", "assetTransferMethod": "magic"}), "transfer_method"),
    "upto_by_transfer": (upto(extra={"name": "C", "version": "1"}), "transfer_method"),
    "no_domain_name": (requirement(extra={"version": "1"}), "malformed"),
    "no_domain_version": (requirement(extra={"name": "C"}), "malformed"),
    "payee": (requirement(payTo=address(STRANGER)), "pay_to_not_pinned"),
    "payee_no_address": (requirement(payTo="me"), "malformed"),
    "facilitator": (
        upto(extra={"assetTransferMethod": "permit2", "facilitatorAddress": address(STRANGER)}),
        "facilitator",
    ),
    "no_facilitator": (upto(extra={"assetTransferMethod": "permit2"}), "malformed"),
    "timeout": (requirement(maxTimeoutSeconds=86_401), "max_timeout"),
    "cap": (requirement(amount="1001"), "cap"),
    "cap_2_255": (requirement(amount=str(2**255)), "cap"),
}


@pytest.mark.parametrize(("asked", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_terms_outside_the_rules_are_refused(asked: dict[str, Any], reason: str) -> None:
    """Each rule that is not kept has its own reason."""
    found = decide(required(asked))
    assert isinstance(found, Refused)
    assert found.reason == reason
    assert len(found.found) <= 80


def test_the_first_terms_that_are_allowed_are_chosen() -> None:
    """Terms that are refused do not stand in the way of later ones; when all are, the first says why."""
    found = decide(required(requirement(scheme="deferred"), requirement(amount="7"), requirement(amount="5")))
    assert isinstance(found, Chosen)
    assert found.requirement.amount == 7
    refused = decide(required(requirement(network="eip155:1"), requirement(amount="1001"), requirement(asset="gold")))
    assert isinstance(refused, Refused)
    assert refused.reason == "network"
    assert choose(
        msgspec.structs.replace(parse_terms(headers(required()), b""), requirements=()),
        RULES,
        node_pay_to=None,
        url=URL,
        now=NOW,
    ) == Refused("terms_absent", "no requirement")


def test_version_1_is_not_paid() -> None:
    """Terms of version 1 are read, and refused by name."""
    item = {**requirement(amount=None), "maxAmountRequired": "7", "resource": URL}
    terms = parse_terms([], msgspec.json.encode({"x402Version": 1, "accepts": [item]}))
    assert choose(terms, RULES, node_pay_to=address(PAYEE), url=URL, now=NOW) == Refused("version", "x402 version 1")


@pytest.mark.parametrize(
    ("named", "called", "same"),
    [
        (URL, URL, True),
        ("http://node.example/v1/chat/completions", URL, True),
        ("http://node.example:80/v1/chat/completions", URL, True),
        ("https://NODE.example:443/v1/chat/completions?x=1", URL, True),
        ("http://node.example", "http://node.example/", True),
        (URL, "http://node.example/v1/chat/completions", False),
        ("https://node.example/v1/completions", URL, False),
        ("https://node.example:8443/v1/chat/completions", URL, False),
        ("https://node.example.evil/v1/chat/completions", URL, False),
        ("https://a@node.example/v1/chat/completions", URL, False),
        ("https://node.example:x/v1/chat/completions", URL, False),
        ("http://[::1/v1", URL, False),
        ("/v1/chat/completions", URL, False),
        ("ftp://node.example/v1/chat/completions", URL, False),
        (None, URL, False),
        (URL, "not a url", False),
    ],
)
def test_terms_are_for_the_url_that_was_called(named: str | None, called: str, same: bool) -> None:
    """Host, port and path agree; only the scheme may be the plain one behind a proxy of the node's."""
    found = decide(required(resource=None if named is None else {"url": named}), url=called)
    assert (found.reason if isinstance(found, Refused) else None) == (None if same else "resource_mismatch")


def test_the_payee_is_the_one_of_the_record_or_of_the_list() -> None:
    """Without a record there is nobody to pay; a list of the operator's stands in for records."""
    nobody = decide(required(), payee=None)
    assert isinstance(nobody, Refused)
    assert nobody.reason == "pay_to_not_pinned"
    pinned = with_rules(pay_to=(address(STRANGER), address(PAYEE).lower()))
    assert isinstance(decide(required(), pinned, payee=None), Chosen)
    other = decide(required(), with_rules(pay_to=(address(STRANGER),)))
    assert isinstance(other, Refused)
    assert other.reason == "pay_to_not_pinned"
    broken = decide(required(), payee="0x12")
    assert isinstance(broken, Refused)
    assert broken.reason == "malformed"


def test_an_offer_must_be_for_what_is_asked() -> None:
    """With offers in the 402 one of them has to hold; without any, only where the rules demand one."""
    good = decide(required(extensions=offers(offer(STRANGER), offer())))
    assert isinstance(good, Chosen)
    assert good.offer == "valid"
    raised = decide(required(requirement(amount="500"), extensions=offers(offer())))
    assert isinstance(raised, Refused)
    assert raised.reason == "offer_mismatch"
    none = decide(required(), with_rules(require_offer=True))
    assert isinstance(none, Refused)
    assert none.reason == "offer_absent"


def test_an_offer_by_an_unknown_key_is_no_demanded_offer() -> None:
    """What cannot be judged does not count as an offer that holds."""
    from test_payment_receipts import jws_offer

    unknown = required(extensions=offers(jws_offer("EdDSA")))
    found = decide(unknown)
    assert isinstance(found, Chosen)
    assert found.offer == "unchecked"
    demanded = decide(unknown, with_rules(require_offer=True))
    assert isinstance(demanded, Refused)
    assert demanded.reason == "offer_mismatch"


def test_rules_that_can_be_meant_are_accepted() -> None:
    """The rules of these tests pass, with payees from a list as well."""
    check_rules(RULES)
    check_rules(with_rules(pay_to=(address(PAYEE),)))


@pytest.mark.parametrize(
    "changes",
    [
        {"schemes": ("exact", "deferred")},
        {"settlements": ("public",)},
        {"settlement": "individual"},
        {"settlement": "other"},
        {"max_timeout_s": 0},
        {"max_timeout_s": 86_401},
        {"networks": ("base",)},
        {"networks": ()},
        {"pay_to": ("0x12",)},
        {"facilitators": ("x",)},
        {"assets": (ASSET, msgspec.structs.replace(ASSET, address=TOKEN.upper().replace("0X", "0x")))},
        {"assets": (msgspec.structs.replace(ASSET, decimals=78),)},
        {"assets": (msgspec.structs.replace(ASSET, address="gold"),)},
        {"assets": (msgspec.structs.replace(ASSET, caps=msgspec.structs.replace(CAPS, global_day=-1)),)},
        {"assets": (msgspec.structs.replace(ASSET, caps=Caps(2**256, 1, 1, 1)),)},
    ],
)
def test_rules_that_cannot_be_meant_are_refused(changes: dict[str, Any]) -> None:
    """A name nobody knows, an impossible limit or a broken address stops the start."""
    with pytest.raises(ConfigError, match="payment"):
        check_rules(with_rules(**changes))


def test_publishing_settlement_has_to_be_named() -> None:
    """`individual`, which publishes prompts, is not among the default settlements and can be named."""
    assert "individual" not in RULES.settlements
    check_rules(with_rules(settlements=("individual",), settlement="individual"))


def test_an_asset_has_one_name() -> None:
    """The id of an asset does not depend on the case of its address."""
    assert (
        msgspec.structs.replace(ASSET, address=TOKEN.upper().replace("0X", "0x")).id == ASSET.id == f"{NETWORK}/{TOKEN}"
    )
