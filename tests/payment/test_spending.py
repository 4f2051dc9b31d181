"""The section [payment] of the settings: what may be spent is read exactly, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ConfigError
from gateway.settings import load
from gateway.spending import open_payer, read, rules_of

ASSET = {
    "network": "eip155:8453",
    "address": "0x" + "ab" * 20,
    "decimals": 18,
    "unit": "OPG",
    "per_request": "0.1",
    "per_key_day": "2",
    "per_node_day": "5.5",
    "global_day": "10",
}
TABLE: dict[str, Any] = {
    "wallet_env": "WALLET",
    "networks": ["eip155:8453"],
    "schemes": ["upto"],
    "assets": [ASSET],
}


def test_caps_are_exact() -> None:
    """Amounts of units become atomic ones without a rounding."""
    rules = rules_of(read({**TABLE, "facilitators": ["0x" + "fa" * 20], "pay_to": ["0x" + "9d" * 20]}))
    caps = rules.assets[0].caps
    assert (caps.per_request, caps.per_node_day, caps.global_day) == (10**17, 55 * 10**17, 10**19)
    assert (rules.pay_to, rules.settlement) == (("0x" + "9d" * 20,), "private")
    assert rules_of(read(TABLE)).pay_to == "registry"
    long = "12345678901.123456789012345678"  # more digits than Decimal keeps by itself
    (asset,) = rules_of(read({**TABLE, "assets": [{**ASSET, "global_day": long}]})).assets
    assert asset.caps.global_day == 12345678901123456789012345678


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wallet_file": "x"}, "one of wallet_file and wallet_env"),
        ({"wallet_env": None}, "one of wallet_file and wallet_env"),
        ({"wallet_env": "ab" * 32}, "wallet_env is the name of an environment variable, in capitals"),
        ({"wallet_env": None, "wallet_file": "0x" + "ab" * 32}, "wallet_file is the name of a file: the key itself"),
        ({"wallet_env": None, "wallet_file": "ab" * 32 + "\n"}, "wallet_file is the name of a file: the key itself"),
        ({"unsettled": "maybe"}, "unsettled"),
        ({"more": 1}, "unknown field `more`"),
        ({"assets": [{**ASSET, "per_request": "1e-19"}]}, "OPG per_request is not an amount with at most 18 decimals"),
        ({"assets": [{**ASSET, "per_request": "-1"}]}, "is not an amount"),
        ({"assets": [{**ASSET, "per_request": "123456789012345678901234567890.1234567890123456789"}]}, "not an amount"),
        ({"assets": [{**ASSET, "per_request": "0." + "1" * 250}]}, "is not an amount"),
        ({"assets": [{**ASSET, "per_request": "1e999999"}]}, "is not an amount"),
        ({"assets": [{**ASSET, "global_day": "NaN"}]}, "is not an amount"),
        ({"assets": [{**ASSET, "global_day": "lots"}]}, "is not an amount"),
        ({"assets": [{**ASSET, "decimals": 99}]}, "is not an amount"),
        ({"assets": [{**ASSET, "per_request": 0.1}]}, "Expected `str`"),
        ({"offer_keys": {"k": "zz"}}, "no hex"),
    ],
)
def test_what_cannot_be_meant_is_refused(change: dict[str, Any], words: str) -> None:
    """The error names the key; no amount is guessed."""
    with pytest.raises(ConfigError, match=words) as caught:
        rules_of(read({**TABLE, **change}))
    assert "abab" not in str(caught.value)


def test_offer_keys_are_bytes() -> None:
    """Keys of signed offers are given in hex."""
    assert rules_of(read({**TABLE, "offer_keys": {"k": "0x0102"}})).offer_keys == {"k": b"\x01\x02"}


async def test_without_the_section_nobody_is_paid(tmp_path: Path) -> None:
    """No wallet is looked for, no ledger is made."""
    settings = load(f'[storage]\nurl = "sqlite:///{tmp_path}/a.db"\n')
    assert open_payer(settings) is None
    assert list(tmp_path.iterdir()) == []


async def test_a_payer_is_opened_with_its_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wallet comes from the place that is named; a failure leaves no ledger open."""
    text = f"""
[storage]
url = "sqlite:///{tmp_path}/a.db"
[payment]
wallet_env = "WALLET"
networks = ["eip155:8453"]
schemes = ["upto"]
settlement = "batch"
[[payment.assets]]
network = "eip155:8453"
address = "0x{"ab" * 20}"
decimals = 18
unit = "OPG"
per_request = "0.1"
per_key_day = "2"
per_node_day = "5"
global_day = "10"
"""
    settings = load(text)
    with pytest.raises(ConfigError, match="WALLET"):
        open_payer(settings)
    monkeypatch.setenv("WALLET", "11" * 32)
    for _ in range(2):
        found = open_payer(settings)
        assert found is not None
        payer, ledger = found
        assert payer.settlement == "batch"
        ledger.close()
    wallet = tmp_path / "wallet"
    wallet.write_text("22" * 32)
    wallet.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        open_payer(load(text.replace('wallet_env = "WALLET"', f'wallet_file = "{wallet}"')))
