"""The section [payment] of the settings: whether this gateway pays nodes, with what wallet, and within which rules.

    [payment]
    wallet_file = "wallet.hex"                 # or wallet_env = "NAME"; 64 hex digits, mode 0600
    networks = ["eip155:8453"]
    schemes = ["upto"]
    facilitators = ["0x…"]

    [[payment.assets]]
    network = "eip155:8453"
    address = "0x…"
    decimals = 18
    unit = "OPG"
    per_request = "0.1"                        # in units, as text; days are of UTC
    per_key_day = "2"
    per_node_day = "5"
    global_day = "10"

Without the section nothing is ever paid: a node that answers 402 has failed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from decimal import Context, Decimal, DecimalException, Inexact, InvalidOperation
from typing import Any

import msgspec

from .entropy import fresh
from .errors import ConfigError
from .model.names import is_hex_key, is_variable
from .payer import Payer
from .payment.policy import Asset, Caps, SpendingRules, check_rules
from .settings import Settings
from .storage.ledger import Ledger, ledger_path
from .wallet import Wallet, wallet_from_environment, wallet_from_file

#: Enough digits for any amount below 2**256 with 77 decimals; one that has more is refused, and none is rounded.
_EXACT = Context(prec=200, traps=[Inexact, InvalidOperation])
_CAPS = ("per_request", "per_key_day", "per_node_day", "global_day")


class AssetTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One token that may be paid, and how much of it. Caps are decimal numbers of units, written as text."""

    network: str
    address: str
    decimals: int
    unit: str
    per_request: str
    per_key_day: str
    per_node_day: str
    global_day: str


class PaymentTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every key has its sentence in docs/payment.md."""

    networks: tuple[str, ...]
    schemes: tuple[str, ...]
    assets: tuple[AssetTable, ...]
    wallet_file: str | None = None
    wallet_env: str | None = None
    pay_to: tuple[str, ...] = ()
    facilitators: tuple[str, ...] = ()
    max_timeout_s: int = 120
    settlement: str = "private"
    require_offer: bool = False
    unsettled: str = "spent"
    offer_keys: dict[str, str] = {}


def open_payer(settings: Settings) -> tuple[Payer, Ledger] | None:
    """The payer, and its ledger for the caller to close; None where the settings pay nobody. Raises `ConfigError`."""
    found = rules_and_wallet(settings)
    if found is None:
        return None
    rules, wallet = found
    ledger = Ledger(ledger_path(settings.storage.url), unsettled=rules.unsettled)
    try:
        return Payer(rules, wallet, ledger, time.time, fresh), ledger
    except BaseException:
        ledger.close()
        raise


def rules_and_wallet(settings: Settings) -> tuple[SpendingRules, Wallet] | None:
    """What the section says, without opening the ledger. Raises `ConfigError`."""
    if not settings.payment:
        return None
    table = read(settings.payment)
    rules = rules_of(table)
    check_rules(rules)
    if table.wallet_file is not None:
        return rules, wallet_from_file(table.wallet_file)
    return rules, wallet_from_environment(table.wallet_env or "")


def read(table: Mapping[str, Any]) -> PaymentTable:
    """The section as values. Raises `ConfigError` that names the key."""
    try:
        found = msgspec.convert(dict(table), PaymentTable)
    except msgspec.ValidationError as error:
        raise ConfigError(f"[payment]: {error}. docs/payment.md lists every key") from None
    if (found.wallet_file is None) == (found.wallet_env is None):
        raise ConfigError("[payment]: set one of wallet_file and wallet_env")
    if found.wallet_env is not None and not is_variable(found.wallet_env):
        raise ConfigError(
            "[payment]: wallet_env is the name of an environment variable, in capitals: the key itself must not stand "
            "in the settings"
        )
    if found.wallet_file is not None and is_hex_key(found.wallet_file):
        raise ConfigError("[payment]: wallet_file is the name of a file: the key itself must not stand in the settings")
    if found.unsettled not in ("spent", "released"):
        raise ConfigError('[payment]: unsettled is "spent" or "released"')
    return found


def rules_of(table: PaymentTable) -> SpendingRules:
    """The spending rules of a section. Raises `ConfigError` for an amount or key that is none."""
    return SpendingRules(
        networks=table.networks,
        schemes=table.schemes,
        assets=tuple(map(_asset, table.assets)),
        pay_to=table.pay_to or "registry",
        facilitators=table.facilitators,
        max_timeout_s=table.max_timeout_s,
        settlements=(table.settlement,),
        settlement=table.settlement,
        require_offer=table.require_offer,
        unsettled=table.unsettled,  # type: ignore[arg-type]  # looked at in `read`
        offer_keys={name: _key(text) for name, text in table.offer_keys.items()},
    )


def _asset(table: AssetTable) -> Asset:
    caps = {name: _atomic(getattr(table, name), table.decimals, f"{table.unit} {name}") for name in _CAPS}
    return Asset(table.network, table.address, table.decimals, table.unit, Caps(**caps))


def _atomic(text: str, decimals: int, what: str) -> int:
    """An amount of units in atomic ones, exactly."""
    try:
        amount = Decimal(text)
        atomic = amount.scaleb(decimals, _EXACT) if 0 <= decimals <= 77 and amount.is_finite() else Decimal("NaN")
        if not atomic.is_finite() or atomic < 0 or atomic != atomic.to_integral_value():
            raise InvalidOperation
    except DecimalException:
        raise ConfigError(f"[payment]: {what} is not an amount with at most {decimals} decimals") from None
    return int(atomic)


def _key(text: str) -> bytes:
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        raise ConfigError("[payment]: offer_keys holds something that is no hex") from None
