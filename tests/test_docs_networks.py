"""What docs/networks and docs/payment.md say of settings, policies, reasons and headers is what the code has."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

import docs_kit as kit
import msgspec
import pytest

from adapters.opengradient import rpc_errors
from adapters.opengradient.settings import Table, read
from adapters.opengradient.watch import ALARMS
from gateway import settings, spending
from gateway.adapter import GROUP, NODE_RULES
from gateway.exchange.opengradient_request import left_out
from gateway.policy.load import parse_policy
from gateway.verify.opengradient.identity_claims import GRADES

PAGE, PAYMENT = kit.text("docs/networks/opengradient.md"), kit.text("docs/payment.md")
VERIFICATION = kit.section(kit.text("docs/verification.md"), "## OpenGradient")
SETTINGS, POLICIES = [], []
for block in (*kit.blocks(PAGE, "toml"), *kit.blocks(PAYMENT, "toml")):
    (SETTINGS if block.startswith("# veriroute.toml") else POLICIES).append(block)


def told(table: list[list[str]]) -> dict[str, str]:
    """Key -> default as a table of settings writes it; keys that stand together get the same one."""
    keys = [([key.strip("`") for key in row[0].split(", ")], row[1].strip("`")) for row in table if row[0] != "key"]
    return {key: default for names, default in keys for key in names}


def defaults(table: type[msgspec.Struct]) -> dict[str, str]:
    """Key -> default as it should be written: JSON, `none`, or `required`."""
    return {field.name: _written(field) for field in msgspec.structs.fields(table)}


def _written(field: msgspec.structs.FieldInfo) -> str:
    value: Any = field.default
    if value is msgspec.NODEFAULT:
        if field.default_factory is msgspec.NODEFAULT:
            return "required"
        value = field.default_factory()
    return "none" if value is None else json.dumps(value)


def test_every_setting_of_opengradient_is_documented_as_it_is() -> None:
    """The page has a row for each key of [networks.opengradient] with its default, in order, and no other row."""
    said = told(kit.rows(PAGE, "### Every setting"))
    assert list(said.items()) == list(defaults(Table).items())


def test_every_setting_of_payment_is_documented_as_it_is() -> None:
    """docs/payment.md has each key of [payment] with its default, and each key of one of its assets."""
    rows = kit.rows(PAYMENT, "## Every setting")
    split = next(i for i, row in enumerate(rows) if i and row[0] == "key")
    assert told(rows[:split]) == defaults(spending.PaymentTable)
    assert list(told(rows[split:])) == [field.name for field in msgspec.structs.fields(spending.AssetTable)]


@pytest.mark.parametrize("text", SETTINGS)
def test_the_examples_are_settings(text: str) -> None:
    """A settings file that a page shows loads, and so does each table of a network or of payments in it."""
    loaded = settings.load(text)
    for table in loaded.networks.values():
        assert read(table, "example").rpc
    if loaded.payment:
        assert spending.rules_of(spending.read(loaded.payment)).assets
    assert loaded.networks or loaded.payment


@pytest.mark.parametrize("text", POLICIES)
def test_the_examples_are_policies(text: str) -> None:
    """A policy that a page shows is one, and is named as the file that it is said to be."""
    named = re.match(r"# policies\.d/(\w+)\.toml\n", text)
    assert named is not None
    policy = parse_policy(f"{named[1]}.toml", text.encode())
    assert policy.name == named[1]
    assert {"identity_live", "pcr_known"} <= {claim.id for claim in policy.plan.claims or ()}


def test_there_are_examples() -> None:
    """Both ways of travelling, the test network, one way of paying, and a policy are shown."""
    assert (len(SETTINGS), len(POLICIES)) == (4, 1)


def test_every_network_is_in_the_index() -> None:
    """docs/networks/README.md has a row for each adapter that comes along, which leads to a page."""
    rows = kit.rows(kit.text("docs/networks/README.md"))[1:]
    assert {row[0].strip("`") for row in rows} == {point.name for point in entry_points(group=GROUP)}
    assert len(rows) == len(NODE_RULES)
    assert all("](" in row[-1] for row in rows)


def test_the_settings_name_every_network() -> None:
    """The sentence of nodes.network has the name of each adapter that comes along."""
    named = settings.REFERENCE["nodes.network"]
    assert all(re.search(rf"\b{point.name} \(", named) for point in entry_points(group=GROUP))


def test_every_alarm_is_documented() -> None:
    """The table of alarms has each kind with its severity."""
    said = {row[0].strip("`"): row[1] for row in kit.rows(PAGE, "### Alarms")[1:]}
    expected = {kind: severity.value for kind, severity in ALARMS.values()}
    assert expected.items() <= said.items()
    source = kit.text("adapters/opengradient/watch.py") + kit.text("adapters/opengradient/adapter.py")
    others = {"rpc_dissent", "event_unreadable", "events_unread", "events_gap", "registry_record_unreadable"}
    assert said.keys() - expected.keys() == others
    assert all(f'"{kind}"' in source for kind in others)


def errors_below(base: type[rpc_errors.RpcError]) -> set[type[rpc_errors.RpcError]]:
    found = set(base.__subclasses__())
    return found.union({base}, *map(errors_below, found))


def test_every_failure_of_an_endpoint_is_documented() -> None:
    """docs/verification.md has the reason of each class of failure, and those that its tree names besides."""
    assert rpc_errors.__doc__ is not None
    named = set(re.findall(r"\b(?:rpc|registration)_[a-z_]+", rpc_errors.__doc__))
    reasons = {error.default for error in errors_below(rpc_errors.RpcError)} | named
    assert len(reasons) > 15
    assert reasons <= {row[0].strip("`") for row in kit.rows(VERIFICATION)}


def words(part: str) -> set[str]:
    """Every code between backticks of the tables of `part`."""
    return {word for row in kit.rows(part) for cell in row for word in re.findall(r"`([a-z_0-9]+)`", cell)}


def test_every_reason_of_an_identity_is_documented() -> None:
    """Each reason that stands in an identity's sources as a constant is in a table of the section."""
    given = set()
    for name in ("identity_checks", "identity_claims", "attested"):
        source = kit.text(f"gateway/verify/opengradient/{name}.py")
        given |= set(re.findall(r'"((?:tee|pcr|tls|registry|heartbeat|registration|debug|user)_[a-z_]+)"', source))
    assert {"heartbeat_future", "tee_disabled", "pcr_revoked"} <= given
    known = words(VERIFICATION) | {"registry_claimed"}
    assert given <= known


def test_identity_claims_and_grades_are_documented() -> None:
    """The page has each identity claim and the grade that it gives."""
    claims = {row[0].strip("`") for row in kit.rows(PAGE, "## Who a node is")[1:]}
    assert claims == {claim for claim, _ in GRADES}
    assert {grade for _, grade in GRADES} | {"none"} <= kit.ticked(kit.section(PAGE, "## Who a node is"))


@pytest.mark.parametrize("folder", ["adapters/opengradient", "gateway/upstream/sealed.py"])
def test_every_header_is_documented(folder: str) -> None:
    """Each header that goes to the relay or an enclave stands in the page."""
    source = "".join(path.read_text("utf-8") for path, _ in kit.modules(folder))
    sent = set(re.findall(r'b"(x-[a-z-]+)"', source))
    assert sent <= kit.ticked(PAGE)
    assert sent or folder.startswith("adapters")


@pytest.mark.parametrize("member", ["top_p", "n", "seed", "max_completion_tokens", "stop", "tool_choice", "user"])
def test_what_is_said_to_be_dropped_is(member: str) -> None:
    """A member that the page says the network takes no notice of is one that policy is asked about."""
    part = kit.section(PAGE, "## What the network drops of a request")
    assert f"`{member}`" in part
    assert left_out("/v1/chat/completions", json.dumps({"model": "m", member: "x"}).encode()).dropped == (member,)


@pytest.mark.parametrize(
    "idle", [{"n": 1}, {"top_p": 1}, {"stop": []}, {"tool_choice": "auto"}, {"user": None}], ids=json.dumps
)
def test_what_is_said_to_ask_for_nothing_does(idle: Mapping[str, object]) -> None:
    """The values that the page calls absent lose nothing, and the temperature that is filled in is named."""
    found = left_out("/v1/chat/completions", json.dumps({"model": "m", **idle}).encode())
    assert found.dropped == ()
    assert found.defaulted == ("temperature=0.0",)
    assert all(
        name in kit.section(PAGE, "## What the network drops of a request") for name in (*idle, *found.defaulted)
    )
