"""Sections of the settings that one variable of the environment replaces as a whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

import docs_kit as kit
import pytest

from gateway import settings, spending
from gateway.errors import ConfigError

FILE = """
[networks.opengradient]
rpc = ["https://file.example"]

[payment]
wallet_file = "file.hex"
max_timeout_s = 7

[[nodes]]
id = "file"
network = "opengradient"
models = ["m"]
"""
PAYMENT = {"wallet_file": "other.hex", "networks": ["eip155:8453"], "assets": []}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("networks", {"opengradient": {"rpc": ["https://other.example"]}}),
        ("networks", {}),
        ("payment", PAYMENT),
        ("payment", {}),
    ],
)
def test_one_variable_replaces_a_section(name: str, value: dict[str, object]) -> None:
    """What the file says of the section is gone, key by key; other sections stay."""
    loaded = settings.load(FILE, environ={f"VERIROUTE_{name}".upper(): json.dumps(value)})
    unchanged = settings.load(FILE)
    assert getattr(loaded, name) == value != getattr(unchanged, name)
    other = "payment" if name == "networks" else "networks"
    assert getattr(loaded, other) == getattr(unchanged, other)
    assert loaded.nodes == unchanged.nodes


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SERVER_PORT", "70000", "x.toml: server.port must be 0 to 65535"),
        ("NODES", '[{"id": "n"}]', "x.toml: Object missing required field `models` - at `$.nodes[0]`. .* every key"),
        ("SERVER_DRAIN_S", "nan", "x.toml: server.drain_s must be .*"),
    ],
)
def test_an_error_says_what_the_environment_set(name: str, value: str, said: str) -> None:
    """What the file says is not what is in force, so the error does not leave the reader with the file alone."""
    environ = {f"VERIROUTE_{name}": value, "VERIROUTE_ADMIN_KEY": "vr-…", "HOME": "/"}
    said = said.replace("[", r"\[").replace("$", r"\$")
    with pytest.raises(ConfigError, match=f"^{said}; the environment sets VERIROUTE_{name}$"):
        settings.load("[server]\nport = 8080", where="x.toml", environ=environ)
    with pytest.raises(ConfigError, match=r"server\.port must be 0 to 65535$"):
        settings.load("[server]\nport = 70000", environ={"VERIROUTE_ADMIN_KEY": "vr-…"})


@pytest.mark.parametrize(
    "key",
    ["log.keys", "log.memory", "policy.dir", "collateral.directory", "proofs.calibrations", "proofs.circuits", "canaries.policy"],
)  # fmt: skip
def test_an_empty_text_is_none_where_that_is_the_default(key: str) -> None:
    """In the file, and in a variable, which then takes back what the file says; nowhere is it the working directory."""
    section, _, name = key.partition(".")
    variable = f"VERIROUTE_{section}_{name}".upper()
    for text, environ in ((f'{key} = ""', {}), (f'{key} = "x"', {variable: ""})):
        assert getattr(getattr(settings.load(text, environ=environ), section), name) is None
    with pytest.raises(ConfigError, match="unknown field `x`"):
        settings.load('[policy]\nx = ""')


def test_nodes_of_the_environment_replace_those_of_the_file() -> None:
    """The list of the variable is all the nodes that there are."""
    (node,) = settings.load(FILE, environ={"VERIROUTE_NODES": '[{"id": "n", "models": ["m"]}]'}).nodes
    assert node.id == "n"


@pytest.mark.parametrize("name", ["NODES", "NETWORKS", "PAYMENT"])
def test_what_is_not_json_is_refused(name: str) -> None:
    """The error names the variable and says what it has to hold."""
    with pytest.raises(ConfigError, match=f"VERIROUTE_{name} must hold a JSON (list|object)"):
        settings.load("", environ={f"VERIROUTE_{name}": "wallet.hex"})


@pytest.mark.parametrize(
    ("name", "value"), [("NODES", "{}"), ("NETWORKS", "[]"), ("PAYMENT", "[]"), ("PAYMENT", "null")]
)
def test_json_of_another_type_is_refused(name: str, value: str) -> None:
    """A list is no section, and an object no list."""
    with pytest.raises(ConfigError, match=rf"Expected `(array|object)`.*\$\.{name.lower()}"):
        settings.load("", environ={f"VERIROUTE_{name}": value})


def test_the_page_s_example_of_a_section_pays_nobody() -> None:
    """The variable as docs/configuration.md shows it takes the section away."""
    shown = re.search(r"^VERIROUTE_PAYMENT='(.*)' veriroute serve", kit.text("docs/configuration.md"), re.MULTILINE)
    assert shown is not None
    loaded = settings.load(FILE, environ={"VERIROUTE_PAYMENT": shown[1]})
    assert spending.open_payer(loaded) is None


@pytest.mark.parametrize("id", ["", "n" * 81, "a\tb", "a\x1b[0m"])
def test_nodes_have_names_that_receipts_take(id: str) -> None:
    """A name that a receipt would have to cut, or a screen to clean, is refused at the start."""
    table = {"id": id, "network": "aci", "models": ["m"], "base_url": "http://127.0.0.1:1"}
    with pytest.raises(ConfigError, match="a node has an id of 1 to 80 printable characters, not "):
        settings.load("", environ={"VERIROUTE_NODES": json.dumps([table])})
    with pytest.raises(ConfigError, match="two nodes have the id 'n'"):
        settings.load("", environ={"VERIROUTE_NODES": json.dumps([{**table, "id": "n"}] * 2)})


REFERENCE = '[[references]]\nid = "ref"\nmodels = ["m"]\nbase_url = "https://ref.example"\n'


def test_references_of_the_environment_replace_those_of_the_file() -> None:
    """The list of the variable is all the references that there are."""
    listed = '[{"id": "r", "models": ["m"], "base_url": "http://127.0.0.1:1"}]'
    loaded = settings.load(REFERENCE, environ={"VERIROUTE_REFERENCES": listed})
    assert [reference.id for reference in loaded.references] == ["r"]
    assert settings.load(REFERENCE).references[0].timeout_s == 20.0
    with pytest.raises(ConfigError, match="VERIROUTE_REFERENCES must hold a JSON list of reference tables"):
        settings.load("", environ={"VERIROUTE_REFERENCES": "r"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (REFERENCE + "api_key = 's'", r"x\.toml:5: .*unknown field `api_key`"),
        (REFERENCE + REFERENCE, "two references have the id 'ref'"),
        (REFERENCE.replace('"ref"', '""'), "an id of 1 to 80 printable"),
        (REFERENCE.replace('"ref"', f'"{"r" * 81}"'), "an id of 1 to 80 printable"),
        (REFERENCE.replace('"ref"', '"a\\tb"'), "an id of 1 to 80 printable"),
        ("\n" + REFERENCE.replace('["m"]', "[]"), r"x\.toml:3: reference 'ref' names no models"),
        (REFERENCE + "max_in_flight = 0", r"x\.toml:2: .*max_in_flight must be 1 to 256"),
        (REFERENCE + "connect_s = 0", "connect_s must be a number of seconds above 0"),
        (REFERENCE + "timeout_s = inf", "timeout_s must be a number of seconds above 0"),
        (REFERENCE.replace("https://ref.example", "ref.example"), "must be an http:// or https:// address"),
        (REFERENCE.replace("https://ref.example", "https://"), "must be an http:// or https:// address"),
        (REFERENCE.replace("https://ref.example", "http://[::1"), "base_url: Invalid IPv6 URL"),
        (REFERENCE.replace("ref.example", "a:b@ref.example"), "a key has its variable"),
        (REFERENCE.replace("ref.example", "ref.example?a=1"), "a key has its variable"),
        (REFERENCE.replace("ref.example", "ref.example/v1/"), "must be given without /v1"),
        (REFERENCE.replace("https", "http") + 'api_key_env = "K"', "API key would travel in clear text"),
        (REFERENCE + "api_key_env = 'gsk_abc'", "api_key_env is the name of an environment variable"),
        (REFERENCE.replace("https", "http"), "would travel in clear text"),
        ('[upstream]\nallow_http = true\n' + REFERENCE.replace("https", "http") + 'api_key_env = "K"', "API key would travel"),
        ("[proofs]\nzk_workers = 0", "proofs.zk_workers must be 1 to 64"),
        ("[proofs]\nzk_memory_bytes = 1", "proofs.zk_memory_bytes must be at least"),
        ("[server]\nmax_body_bytes = 100\nmax_body_memory_bytes = 99", "must be at least server.max_body_bytes, 100"),
        ("[proofs]\nzk_seconds = nan", "proofs.zk_seconds must be a number"),
    ],
)  # fmt: skip
def test_references_that_cannot_be_used(text: str, said: str) -> None:
    """Each is refused at the start, with the line where there is one."""
    with pytest.raises(ConfigError, match=said):
        settings.load(text, where="x.toml")


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        *[(f"server.{name}", ("0", "-1", str(2**53)), "must be a whole number from 1 on, below 2^53")
          for name in ("max_body_bytes", "max_connections", "max_in_flight")],
        ("server.max_body_memory_bytes", (str(2**53),), "must be a whole number from 1 on, below 2^53"),
        *[(f"upstream.{name}", ("0", "-1", str(2**53)), "must be a whole number from 1 on, below 2^53")
          for name in ("max_response_bytes", "max_event_bytes")],
        *[(key, ("0.0", "-1.0", "nan", "inf", "1e300"), "must be a number of seconds above 0, and less than 1000000000")
          for key in ("server.write_s", "upstream.refresh_s")],
        ("server.drain_s", ("-1.0", "nan", "inf", "1e300"), "must be 0 or a number of seconds above it"),
        ("log.origin", ('""', '"a b"', '"a+b"', '"ä"', '"a\\u0007"'), "must be a name in plain ASCII"),
    ],
)  # fmt: skip
def test_what_no_gateway_could_serve_with_is_refused(key: str, values: tuple[str, ...], said: str) -> None:
    """A limit that lets nothing through, a time without end, a name that no key file can hold: refused by name."""
    section, _, name = key.partition(".")
    for value in values:
        with pytest.raises(ConfigError, match=re.escape(f"x.toml:3: {key} {said}")):
            settings.load(f"\n[{section}]\n{name} = {value}", where="x.toml")


def test_a_stop_may_wait_for_nothing() -> None:
    """server.drain_s = 0 is meant as it is written."""
    assert settings.load("[server]\ndrain_s = 0").server.drain_s == 0


@pytest.mark.parametrize(
    "text",
    [
        REFERENCE + 'api_key_env = "K"',
        REFERENCE.replace("https://ref.example", "http://127.0.0.1:9/tenant") + 'api_key_env = "K"',
        "[upstream]\nallow_http = true\n" + REFERENCE.replace("https", "http"),
    ],
)
def test_references_that_can_be_used(text: str) -> None:
    """TLS, this machine, or clear text where the operator says so and there is no key."""
    assert settings.load(text).references


def test_what_is_shown_of_settings_holds_no_secret() -> None:
    """Networks' tables and the wallet's: of addresses scheme and host are shown, of a name that is none, nothing."""
    key = "ab" * 32
    rpc = [f"https://u:{key}@rpc.example", f"https://rpc.example:8/v2/{key}?k={key}#{key}", "https://rpc.example/"]
    table = {"rpc": rpc, "relay_token_env": key.upper(), "nodes": {"n": {"api_key_env": "A_KEY", "n": 1}}}
    text = f"[payment]\nwallet_env = '{key}'\nwallet_file = '0x{key}'\nwallet_key = '{key} '\n"
    shown = settings.dump(settings.load(text, environ={"VERIROUTE_NETWORKS": json.dumps({"x": table})}))
    assert key not in json.dumps(shown).lower()
    assert shown["networks"]["x"] == {
        "rpc": ["https://rpc.example", "https://rpc.example:8/…", "https://rpc.example/"],
        "relay_token_env": "…",
        "nodes": {"n": {"api_key_env": "A_KEY", "n": 1}},
    }
    assert shown["payment"] == {"wallet_env": "…", "wallet_file": "…", "wallet_key": "…"}


NODE = '[[nodes]]\nid = "a"\nmodels = ["m"]\nbase_url = "https://node.example"\n'


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9001/v1", "base_url ends in /v1, which the paths of the API begin with; leave that out"),
        ("https://node.example/tenant/v1/", "base_url ends in /v1, .* leave that out"),
        ("http://10.0.0.5:9001", r"http is allowed to loopback only; .* \(set upstream.allow_http = true\)$"),
        ("127.0.0.1:9001", r"base_url '127.0.0.1:9001': must start with https:// \(or http:// [^()]*\)$"),
        ("http://no_host:port", "base_url 'http://no_host:port': Port could not be cast"),
        ("http://-:9001", "not a host name$"),
        ("https://node.example/x?key=SECRET", r"base_url 'https://node.example/x\?…': no query"),
        ("https://node.example/x#SECRET", "no query and no fragment"),
        ("ftp://u:SECRET@node.example", "base_url 'ftp://…@node.example': must start with https://"),
        ("u:SECRET@node.example/x", "base_url '…@node.example/x': must start with https://"),
        ("https://node.example/a b?SECRET\\n", "only plain ASCII is allowed"),
    ],
)
def test_nodes_whose_address_cannot_be_used(url: str, said: str) -> None:
    """Each is refused when the settings are read, by file, line and node, with the setting that allows it.

    What may be a key in it is not repeated.
    """
    with pytest.raises(ConfigError, match=rf"^x\.toml:2: node 'a': .*{said}") as caught:
        settings.load(NODE.replace("https://node.example", url), where="x.toml")
    assert "SECRET" not in str(caught.value)


def test_the_permission_that_an_address_lacks_is_named() -> None:
    """The two are told apart, one at a time; with both the address is taken."""
    text = NODE.replace("https://node.example", "http://10.0.0.5:9001")
    for upstream, wanted in (("", "allow_http"), ("allow_http = true\n", "allow_private")):
        with pytest.raises(ConfigError, match=rf"\(set upstream.{wanted} = true\)$"):
            settings.load(f"[upstream]\nallow_private = false\n{upstream}" + text)
    assert settings.load("[upstream]\nallow_http = true\n" + text).nodes


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("VERIROUTE_SERVER_PROT", "; did you mean VERIROUTE_SERVER_PORT?"),
        ("VERIROUTE_UPSTREAM_ALOW_HTTP", "; did you mean VERIROUTE_UPSTREAM_ALLOW_HTTP?"),
        ("VERIROUTE_NODES_PIN", "; did you mean VERIROUTE_NODES?"),
        ("VERIROUTE_PAYMENT_WALLET_FILE", "; did you mean VERIROUTE_PAYMENT?"),
        ("VERIROUTE_TEE", "."),
        ("VERIROUTE_POLCY_DEFAULT", "; did you mean VERIROUTE_POLICY_DEFAULT?"),
        ("VERIROUTE_NODE", "; did you mean VERIROUTE_NODES?"),
    ],
)
def test_a_misspelt_setting_of_the_environment_is_refused(name: str, nearest: str) -> None:
    """A variable that begins with a section's name, or is all but one of ours, is meant as a setting; the nearest that
    there is is named."""
    with pytest.raises(ConfigError) as refused:
        settings.load("", environ={name: "secret"})
    assert str(refused.value) == f"{name} is no setting{nearest} `veriroute config reference` lists every key"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server]\nprot = 1\n", ":2: Object contains unknown field `prot` - at `$.server`; did you mean port?"),
        ("[srever]\nport = 1\n", ":1: Object contains unknown field `srever`; did you mean server?"),
        (NODE + "bas_url = 'x'\n", "`bas_url` - at `$.nodes[0]`; did you mean base_url?"),
        ("[server]\nzzzz = 1\n", ":2: Object contains unknown field `zzzz` - at `$.server`."),
        ("[server]\nport = 'x'\n", ":2: Expected `int`, got `str` - at `$.server.port`."),
    ],
)
def test_a_misspelt_key_of_the_file_is_refused_with_the_nearest(text: str, said: str) -> None:
    """The sentence names the line and, where one is near, the key that was meant."""
    with pytest.raises(ConfigError) as refused:
        settings.load(text, where="x.toml")
    assert str(refused.value).endswith(f"{said} `veriroute config reference` lists every key")


def test_a_file_that_cannot_be_read_is_named_once(tmp_path: Path) -> None:
    """The reason is a sentence, without the numbers and representations of the library."""
    (tmp_path / "bytes.toml").write_bytes(b"a\xff")
    for name, why in (("none.toml", ": No such file or directory"), ("bytes.toml", " is not UTF-8 (byte 1)")):
        with pytest.raises(ConfigError) as refused:
            settings.read(str(tmp_path / name), {})
        assert str(refused.value).endswith(f"the settings file {tmp_path / name}{why}")


@pytest.mark.parametrize(
    "name", ["ADMIN_KEY", "KEY", "OPENGRADIENT_TOKEN", "TEST_KEY", "SERVERS", "PORT", "SERVICE_PORT", "NODE_KEY", ""]
)
def test_other_variables_are_not_settings(name: str) -> None:
    """What begins with no section's name, and is near to no setting's, belongs to other commands, or to the operator."""
    assert settings.load("", environ={f"VERIROUTE_{name}": "x"}) == settings.load("")


def test_a_file_that_is_no_toml_is_told_with_where_the_keys_are() -> None:
    """The place of the mistake, and the command that shows every key."""
    with pytest.raises(ConfigError, match=r"^here\.toml is not TOML: .*line 1.*; `veriroute config reference` shows"):
        settings.load("[server\n", where="here.toml")


@pytest.mark.parametrize(
    ("text", "said"), [("a = " + "[" * 50_000, "nested too deeply"), ("a = " + "1" * 5_000, "TOML")]
)
def test_a_file_beyond_what_is_read_is_refused(text: str, said: str) -> None:
    """Neither nesting nor a number without end is a failure of the program."""
    with pytest.raises(ConfigError, match=said):
        settings.load(text)


def test_a_variable_that_is_no_utf8_is_refused() -> None:
    """The start entry of the log holds the settings, and could not be written."""
    with pytest.raises(ConfigError, match="VERIROUTE_STORAGE_URL is not UTF-8"):
        settings.load("", environ={"VERIROUTE_STORAGE_URL": "sqlite:///caf\udce9/log.db"})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("# \u2028 no line ends\n[server]\nprot = 1\n", 3),
        ("[server]\nport = 1\n[log]\nport = 2\n", 4),
        ("[server]\r\n'port' = 'x'\r\n", 2),
        (NODE + NODE.replace('["m"]', "3"), 2 * NODE.count("\n") - NODE[NODE.index("models") :].count("\n") + 1),
        (NODE + NODE + "pinn = 1\n", 2 * NODE.count("\n") + 1),
        (NODE + "\n[[nodes]]\nid = 'b'\n", NODE.count("\n") + 2),
        ("server = 3\n", 1),
        ("\nserver.port = 'x'\n", 2),
        ("\nserver = { port = 'x' }\n", 2),
        ("\n[ 'sevrer' ]\nport = 1\n", 2),
        ("[upstream]\n[server]\nport = 70000\n", 3),
        ("\nserver = { port = 70000 }\n", 2),
        ("\n[storage]\nurl = 'postgres://'\n", 3),
        ("\n[auth]\nmode = 'x'\n", 3),
        ("\n[collateral]\nintel_url = 'x'\n", 3),
        (NODE + NODE.replace('"a"', '"b"').replace('["m"]', "[]"), NODE.count("\n") + 2),
    ],
)
def test_l06_an_error_names_the_line_of_the_very_key(text: str, line: int) -> None:
    """Not that of another table's key of the same name, and counted as editors count."""
    with pytest.raises(ConfigError, match=rf"^x\.toml:{line}: "):
        settings.load(text, where="x.toml")


KEYED = "[networks.og]\n\nrpc = ['https://rpc.example', 'https://rpc.example/v2/4f0c2a9be77d41d0']\n"


@pytest.mark.parametrize(
    "address", ["https://rpc.example/v2/4f0c2a9be77d41d0", "https://rpc.example/?k=Ab_CdEfGh0123456789"]
)
def test_l06_a_key_in_a_file_that_everybody_can_read_is_refused(address: str, tmp_path: Path) -> None:
    """With file and line, and without a word of the key; for its owner, and the service's group, it may stand there."""
    path = tmp_path / "x.toml"
    path.write_text(KEYED.replace("https://rpc.example/v2/4f0c2a9be77d41d0", address), "utf-8")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match=r"x\.toml:3: an address here .*\(mode 0644\); run: chmod o= /") as caught:
        settings.read(str(path), {})
    assert "0123456789" not in str(caught.value)
    assert "4f0c" not in str(caught.value)
    path.chmod(0o640)
    assert settings.read(str(path), {}).networks["og"]["rpc"][1] == address


@pytest.mark.parametrize(
    "address",
    [
        "https://rpc.example/some/rather-long-path-of-words",
        "https://rpc.example/v2",
        "https://models.example/deployments/gpt-4o-mini-2024-07-18/1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed",
        "x/y1234567890123456",
        "sqlite:////tmp/app-4f0c2a9be77d41d0/x.db",
    ],
)
def test_what_is_no_key_may_be_read_by_everybody(address: str, tmp_path: Path) -> None:
    """Words, versions, names of deployments, and what is no address."""
    path = tmp_path / "x.toml"
    path.write_text(KEYED.replace("https://rpc.example/v2/4f0c2a9be77d41d0", address), "utf-8")
    path.chmod(0o644)
    assert settings.read(str(path), {}).networks["og"]["rpc"][1] == address


def test_a_file_without_an_end_is_no_settings_file() -> None:
    """A device is not read until the memory is full."""
    with pytest.raises(ConfigError, match="has more than 16 MiB"):
        settings.read("/dev/zero", {})


OPEN = "[auth]\nmode = 'none'\n[server]\nhost = '{}'\n"


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "[::]",
        "",
        "0",
        "*",
        "::ffff:0.0.0.0",
        "10.0.0.1",
        "2130706433",
        "127.1",
        "127.0.0.1.example",
        "gateway",
    ],
)
def test_l01_without_keys_no_other_machine_is_served(host: str) -> None:
    """Unless an address is plainly of this machine alone, callers need keys."""
    with pytest.raises(ConfigError, match=r"server\.host must be a loopback address"):
        settings.load(OPEN.format(host))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_l01_without_keys_this_machine_is_served(host: str) -> None:
    """Loopback in any spelling of it."""
    assert settings.load(OPEN.format(host)).server.host == host
