"""The 402 and the settlement are parsed strictly, and nothing but `TermsError` comes out of bad ones."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from payment_kit import NETWORK, TOKEN, URL, b64json, headers, offer, offers, receipt, required, requirement, settlement

from gateway.errors import FormatError
from gateway.payment.evm import address, chain_id, checksummed
from gateway.payment.terms import Extra, TermsError, parse_settlement, parse_terms


def test_terms_of_version_2_are_read() -> None:
    """Every member that a payment needs comes out typed, and what goes back stands as it came."""
    asked = requirement(extra={"name": "Coin", "version": "2", "assetTransferMethod": "permit2", "other": [1]})
    terms = parse_terms(headers(required(asked, extensions=offers(offer()))), b"ignored")
    (found,) = terms.requirements
    assert (terms.version, found.scheme, found.network, found.asset, found.amount) == (2, "exact", NETWORK, TOKEN, 400)
    assert (found.max_timeout_s, found.resource) == (60, URL)
    assert found.extra == Extra("Coin", "2", "permit2", None)
    assert json.loads(found.accepted) == asked
    assert list(json.loads(found.accepted)) == list(asked)
    assert json.loads(terms.resource or b"") == {"url": URL}
    assert json.loads(terms.extensions or b"") == offers(offer())
    assert [o.format for o in terms.offers] == ["eip712"]


def test_terms_without_optional_members_are_read() -> None:
    """`extra`, `resource` and `extensions` may be absent; an extension that is not ours is left alone."""
    terms = parse_terms(headers(required(requirement(extra=None), resource=None, extensions={"mine": 1})), b"")
    assert terms.requirements[0].extra == Extra()
    assert terms.requirements[0].resource is None
    assert (terms.resource, terms.offers) == (None, ())
    for extensions in ({"offer-receipt": {}}, {"offer-receipt": {"info": {}}}, None):
        assert parse_terms(headers(required(extensions=extensions)), b"").offers == ()


def test_terms_of_version_1_are_read() -> None:
    """Version 1 stands in the body and names chains in its own way."""
    item = {**requirement(network="base-sepolia", amount=None), "maxAmountRequired": "7", "resource": URL}
    terms = parse_terms([], b" \n" + json.dumps({"x402Version": 1, "accepts": [item]}).encode())
    (found,) = terms.requirements
    assert (terms.version, found.network, found.amount, found.resource) == (1, "eip155:84532", 7, URL)


def changed(**changes: Any) -> dict[str, Any]:
    return required(requirement(**changes))


MALFORMED = {
    "amount_negative": changed(amount="-1"),
    "amount_exponent": changed(amount="1e4"),
    "amount_number": changed(amount=400),
    "amount_nothing": changed(amount="0"),
    "amount_leading_zero": changed(amount="0400"),
    "amount_plus": changed(amount="+4"),
    "amount_2_256": changed(amount=str(2**256)),
    "amount_long": changed(amount="9" * 5000),
    "amount_other_digits": changed(amount="٤"),
    "amount_absent": changed(amount=None),
    "timeout_zero": changed(maxTimeoutSeconds=0),
    "timeout_text": changed(maxTimeoutSeconds="60"),
    "timeout_true": changed(maxTimeoutSeconds=True),
    "timeout_float": changed(maxTimeoutSeconds=60.0),
    "timeout_huge": changed(maxTimeoutSeconds=2**41),
    "scheme_number": changed(scheme=1),
    "scheme_empty": changed(scheme=""),
    "scheme_control": changed(scheme="ex\nact"),
    "network_long": changed(network="e" * 129),
    "pay_to_absent": changed(payTo=None),
    "extra_list": changed(extra=[]),
    "extra_name_number": changed(extra={"name": 1}),
    "extra_name_control": changed(extra={"name": "a\x1b[0m"}),
    "extra_name_long": changed(extra={"name": "n" * 257}),
    "version_1": required(x402Version=1),
    "version_true": required(x402Version=True),
    "version_absent": required(x402Version=None),
    "accepts_empty": {**required(), "accepts": []},
    "accepts_many": required(*[requirement()] * 17),
    "accepts_object": {**required(), "accepts": {}},
    "accepts_text": {**required(), "accepts": ["exact"]},
    "resource_text": required(resource=URL),
    "resource_without_url": required(resource={}),
    "resource_url_long": required(resource={"url": "h" * 2049}),
    "extensions_list": required(extensions=[]),
    "offers_object": required(extensions={"offer-receipt": {"info": {"offers": {}}}}),
    "offers_many": required(extensions=offers(*[offer()] * 17)),
    "offer_text": required(extensions={"offer-receipt": {"info": {"offers": ["x"]}}}),
    "offer_payload_list": required(extensions=offers({**offer(), "payload": []})),
    "offer_without_signature": required(extensions=offers({"format": "eip712"})),
    "info_list": required(extensions={"offer-receipt": {"info": [1]}}),
    "list": [],
    "deep": required(extensions=json.loads("[" * 20 + "]" * 20)),
}


@pytest.mark.parametrize("case", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_terms_are_refused(case: object) -> None:
    """Anything that could be read in two ways, or is no requirement, is malformed."""
    with pytest.raises(TermsError) as caught:
        parse_terms(headers(case), b"")
    assert caught.value.reason == "malformed"
    assert len(caught.value.message) < 160


@pytest.mark.parametrize(
    "value",
    [b"%%%", b"", b"eyJ9", b"\xff", b64json(required()) + b"=", b64json(required())[:-4] + b"!!!!", b"A" * 40000,
     base64.b64encode(b'{"a":1,"a":2}'), base64.b64encode(b"{} "  b"x")],
)  # fmt: skip
def test_headers_that_are_no_base64_json_are_refused(value: bytes) -> None:
    """The header is canonical base64 of one strict JSON document below a size."""
    with pytest.raises(TermsError) as caught:
        parse_terms([(b"payment-required", value)], json.dumps({"x402Version": 1}).encode())
    assert caught.value.reason == "malformed"


def test_two_headers_are_refused() -> None:
    """Two sets of terms are none."""
    with pytest.raises(TermsError, match="2 headers"):
        parse_terms(headers(required()) * 2, b"")


@pytest.mark.parametrize(
    ("found", "body", "reason"),
    [
        ([], b"", "terms_absent"),
        ([], b"pay me", "terms_absent"),
        ([], b"{", "malformed"),
        ([], b"{}", "malformed"),
        ([], b'{"x402Version":2,"accepts":[]}', "malformed"),
        ([], b"{" + b" " * 70000, "malformed"),
        ([(b"www-authenticate", b"Basic realm=x")], b"", "terms_absent"),
        ([(b"WWW-Authenticate", b'Payment id="1"')], b"{}", "scheme_unsupported"),
        ([(b"WWW-Authenticate", b'L402 macaroon="x"')], b"", "scheme_unsupported"),
    ],
)
def test_other_ways_to_ask_have_their_reason(found: list[tuple[bytes, bytes]], body: bytes, reason: str) -> None:
    """A 402 without terms, or with terms of another scheme, says which."""
    with pytest.raises(TermsError) as caught:
        parse_terms(found, body)
    assert caught.value.reason == reason


@pytest.mark.parametrize("name", [b"PAYMENT-RESPONSE", b"x-payment-response"])
def test_settlements_are_read(name: bytes) -> None:
    """Both versions tell of a settlement in a header of their own."""
    told = settlement(amount="5", extensions={"offer-receipt": {"info": {"receipt": receipt()}}})
    found = parse_settlement(headers(told, name))
    assert found is not None
    assert (found.success, found.network, found.transaction, found.amount) == (True, NETWORK, "0x" + "ab" * 32, 5)
    assert found.receipt is not None
    assert json.loads(found.receipt.payload or b"") == receipt()["payload"]


def test_failed_settlements_are_read() -> None:
    """A failure has a reason, made inert; its empty transaction is none."""
    told = {"success": False, "transaction": "", "network": "base", "errorReason": "no\x1b" + "x" * 200, "payer": ""}
    found = parse_settlement(headers(told, b"payment-response"))
    assert found is not None
    assert (found.success, found.network, found.transaction, found.payer) == (False, "eip155:8453", None, None)
    assert found.error is not None
    assert found.error.startswith("no\\x1bx")
    assert len(found.error) <= 80
    odd = parse_settlement(headers({**told, "errorReason": {"a": 1}}, b"payment-response"))
    assert odd is not None
    assert odd.error == "not a text"


def test_no_header_is_no_settlement() -> None:
    """An answer that says nothing of a settlement has none."""
    assert parse_settlement([(b"content-type", b"text/plain")]) is None


@pytest.mark.parametrize(
    "told",
    [
        settlement(success="true"), settlement(success=None), settlement(network=None), settlement(amount="1.5"),
        settlement(amount=5), settlement(transaction="t" * 129), settlement(payer=3), [], settlement(extensions=[]),
        settlement(extensions={"offer-receipt": {"info": {"receipt": []}}}),
    ],
)  # fmt: skip
def test_malformed_settlements_are_refused(told: object) -> None:
    """A settlement with members of another type is malformed."""
    with pytest.raises(TermsError):
        parse_settlement(headers(told, b"payment-response"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    *required(),
                    *requirement(),
                    "info",
                    "offers",
                    "offer-receipt",
                    "format",
                    "payload",
                    "signature",
                    "url",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        json_values.map(lambda value: msgspec.json.encode(value)),
        st.tuples(st.sampled_from(sorted(required(extensions=1))), json_values).map(
            lambda c: msgspec.json.encode({**required(), c[0]: c[1]})
        ),
        st.tuples(st.sampled_from(sorted(requirement())), json_values).map(
            lambda c: msgspec.json.encode(required({**requirement(), c[0]: c[1]}))
        ),
        st.binary(max_size=100),
    )
)
def test_any_terms_are_read_or_refused(data: bytes) -> None:
    """Whatever stands in a 402 or a settlement, it is read or raises `TermsError`."""
    header = base64.b64encode(data)
    for found, body in (([(b"payment-required", header)], b""), ([], data), ([(b"payment-required", data)], b"")):
        try:
            terms = parse_terms(found, body)
        except TermsError:
            continue
        assert all(0 < one.amount < 2**256 for one in terms.requirements)
    with contextlib.suppress(TermsError):
        parse_settlement([(b"payment-response", header)])


@pytest.mark.parametrize(
    "text",
    ["", "0x", "0x" + "0" * 39, "0x" + "0" * 41, "0X" + "00" * 20, "00" * 21, "0x" + "g0" * 20, "0x" + "00" * 20 + "\n",
     "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAeD"[:-1] + "d".upper().lower().replace("d", "e")],
)  # fmt: skip
def test_other_texts_are_no_addresses(text: str) -> None:
    """An address has one length, hexadecimal digits, and a checksum that holds where its case claims one."""
    with pytest.raises(FormatError):
        address(text, "payTo")


@pytest.mark.parametrize(
    "text", ["0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"]
)
def test_checksums_are_those_of_erc_55(text: str) -> None:
    """The examples of ERC-55 come out in its case, and are read in any case that is one."""
    value = bytes.fromhex(text[2:])
    assert checksummed(value) == text
    assert address(text, "a") == address(text.lower(), "a") == address("0x" + text[2:].upper(), "a") == value
    wrong = (
        text[:-1] + (text[-1].upper() if text[-1].islower() else text[-1].lower())
        if text[-1].isalpha()
        else text[:2] + text[2:].swapcase()
    )
    with pytest.raises(FormatError, match="checksum"):
        address(wrong, "a")


@pytest.mark.parametrize(("text", "chain"), [("eip155:1", 1), ("eip155:8453", 8453)])
def test_chains_are_named_by_caip_2(text: str, chain: int) -> None:
    """A network of the EVM names its chain id."""
    assert chain_id(text) == chain


@pytest.mark.parametrize(
    "text", ["eip155:0", "eip155:01", "solana:x", "base", "eip155:", "eip155:" + "9" * 19, "eip155:1\n"]
)
def test_other_networks_have_no_chain_id(text: str) -> None:
    """Only eip155 with a plain number is a chain."""
    with pytest.raises(FormatError):
        chain_id(text)
