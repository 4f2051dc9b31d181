"""What can be derived from the code is held against what the documents say of it."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from hashlib import sha256

import docs_kit as kit
import msgspec
import pytest

from gateway import errors, logs, settings
from gateway.api import health, reads
from gateway.api.errors import error_object
from gateway.cli import main
from gateway.exchange.render import Verification
from gateway.fleet.attest import _own_words
from gateway.log.bundle import _WireBundle
from gateway.model import admin
from gateway.model.entry import KINDS
from gateway.model.node import ENDPOINTS, Node
from gateway.model.receipt import CODE, Receipt
from gateway.model.verdict import Outcome, Release
from gateway.policy.schema import IDENTITY, KEYS
from gateway.policy_files import builtin_files
from gateway.routing import REASONS as ROUTING_REASONS
from gateway.upstream.errors import REASONS as CHANNEL_REASONS
from gateway.verify import response
from gateway.verify.appraise import appraise_node
from gateway.verify.checks import CHECKS, CLAIMS
from gateway.verify.no_evidence import NO_EVIDENCE
from gateway.verify.proofs.sampling import Audit

API, ERRORS, CONFIGURATION = (kit.text(f"docs/{name}.md") for name in ("api", "errors", "configuration"))
POLICY, RECEIPTS, VERIFICATION = (kit.text(f"docs/{name}.md") for name in ("policy", "receipts", "verification"))
PAYMENT, OPENGRADIENT = kit.text("docs/payment.md"), kit.text("docs/networks/opengradient.md")
PROOFS = kit.text("docs/proofs.md")
DIGEST = "0" * 64


def setting_fields() -> set[str]:
    """Every key that a settings file may hold, from the types that it is read into."""
    found = set()
    for part in msgspec.structs.fields(settings.Settings):
        if part.name in ("networks", "payment"):  # documented on pages of their own
            continue
        lists = {"nodes": settings._NodeTable, "references": settings.Reference}
        inner = lists.get(part.name) or type(part.default)
        found |= {f"{part.name}.{field.name}" for field in msgspec.structs.fields(inner)}
    return found


def test_the_reference_has_every_setting_and_no_other() -> None:
    """Each field of the settings has its sentence, and each sentence its field."""
    assert set(settings.REFERENCE) == setting_fields()


def test_every_setting_is_documented_as_it_is() -> None:
    """docs/configuration.md has a row for each key: default, environment variable, and the reference's sentence."""
    table = {row[0].strip("`"): row[1:] for row in kit.rows(CONFIGURATION, "## Every setting") if row[0] != "key"}
    assert list(table) == list(settings.REFERENCE)
    for key, meaning in settings.REFERENCE.items():
        default, variable, said = table[key]
        assert said.replace("`", "") == meaning, key
        part, _, option = key.partition(".")
        if part in settings.LISTS:
            assert variable == f"`VERIROUTE_{part}`".upper()
            continue
        assert variable == f"`VERIROUTE_{part}_{option}`".upper()
        value = getattr(getattr(settings.Settings(), part), option)
        assert default == ("none" if value is None else f"`{json.dumps(value)}`"), key


@pytest.mark.parametrize("key", [key for key in settings.REFERENCE if key.split(".")[0] not in settings.LISTS])
def test_every_environment_variable_works(key: str) -> None:
    """The variable that the table names sets the key, in the form that the page describes."""
    part, _, option = key.partition(".")
    values = {
        "auth.mode": "none",
        "storage.url": "sqlite:///other.db",
        "log.origin": "log.example.org/x",
        "server.port": "0",
        "server.host": "localhost",
        "proofs.zk_memory_bytes": "536870912",
        "server.max_body_memory_bytes": "33554432",
        "server.allowed_hosts": "one.example, two.example:8443",
    }
    default = getattr(getattr(settings.Settings(), part), option)
    fallback = {bool: str(not default).lower(), int: "17", float: "1.5"}.get(type(default), "https://elsewhere")
    # Some settings are refused without the other that belongs to them.
    beside = {"VERIROUTE_TEE_DANGEROUS_ALLOW_TEST_ROOTS": "true"} if key == "tee.dangerous_test_roots" else {}
    beside |= {"VERIROUTE_CANARIES_MODELS": "m"} if key == "canaries.every_s" else {}
    loaded = settings.load("", environ={**beside, f"VERIROUTE_{part}_{option}".upper(): values.get(key, fallback)})
    assert getattr(getattr(loaded, part), option) != default


def test_the_command_names_every_section(capsys: pytest.CaptureFixture[str]) -> None:
    """`veriroute config reference` has each setting, and of the sections with pages of their own, which page."""
    assert main(["config", "reference", "--json"]) == 0
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    sections = {key.split(".")[0] for key in rows}
    assert set(settings.REFERENCE) < set(rows)
    assert sections == {field.name for field in msgspec.structs.fields(settings.Settings)}
    assert rows["payment"]["environment"] == "VERIROUTE_PAYMENT (JSON object)"
    for key in set(rows) - set(settings.REFERENCE):
        assert (kit.ROOT / rows[key]["meaning"].split("; ")[1].split()[0]).exists()


def test_no_reason_of_a_check_stands_twice() -> None:
    """A reader who looks one up finds all that is said of it in one row."""
    rows = [(row[0], row[1]) for row in kit.rows(ERRORS, "## Reasons inside checks")]
    assert len(set(rows)) == len(rows)


def test_the_examples_are_settings() -> None:
    """Every settings file in the documents loads, once the places that the reader fills in are filled in."""
    files = [*kit.blocks(CONFIGURATION, "toml"), *kit.blocks(kit.text("README.md"), "toml")]
    assert len(files) == 2
    for body in files:
        assert settings.load(body.replace("sha256:…", f"sha256:{DIGEST}")).nodes
    line = re.search(r"VERIROUTE_NODES='(.*)'", CONFIGURATION)
    assert line is not None
    nodes = line[1].replace("sha256:…", f"sha256:{DIGEST}")
    assert settings.load("", environ={"VERIROUTE_NODES": nodes}).nodes[0].id == "n1"


def test_the_systemd_unit_leaves_time_to_drain() -> None:
    """The unit in docs/configuration.md waits longer for the stop than the gateway for its exchanges."""
    (unit,) = kit.blocks(CONFIGURATION, "ini")
    waits = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert waits is not None
    assert int(waits[1]) > settings.Settings().server.drain_s


def subclasses(base: type[errors.VerirouteError]) -> set[type[errors.VerirouteError]]:
    """All classes below `base` that gateway.errors defines."""
    found = {cls for cls in base.__subclasses__() if cls.__module__ == errors.__name__}
    return found.union(*(subclasses(cls) for cls in found))


def test_every_error_code_is_documented_as_it_is() -> None:
    """The table of codes has a row for each class that reaches a caller, with status, type and retry, and no other."""
    bases = {errors.RequestError, errors.ServiceError}
    told = set().union(*(subclasses(base) for base in bases))
    expected = {(cls.code, str(cls.status), cls.type, "yes" if cls.retryable else "no") for cls in told}
    table = kit.rows(kit.section(ERRORS, "## Codes").split("On the command line")[0])[1:]
    assert {tuple(cell.strip("`") for cell in row[:4]) for row in table} == expected
    assert all(row[4] and row[5] for row in table)
    other = subclasses(errors.VerirouteError) - told - bases
    rest = kit.rows(kit.section(ERRORS, "## Codes").split("On the command line")[1])[1:]
    assert {row[0].strip("`") for row in rest} == {cls.code for cls in other}


def test_every_member_of_an_error_is_documented() -> None:
    """What an error body may hold stands in docs/errors.md."""

    shown = error_object(errors.Busy("…", reason="r"), "01J", {})
    words = kit.ticked(ERRORS)
    assert shown.keys() <= words
    extra = set(re.findall(r'(?:extra=\{|details\[)"(\w+)"', kit.text("gateway/relay/ends.py")))
    assert {"nodes", "checks"} <= extra
    assert extra <= words


def given_reasons() -> set[str]:
    """Every reason that the source writes down as a constant."""
    found: set[str] = set()
    place = {
        "Check": 2,
        "fails": 1,
        "unknown": 1,
        "warns": 1,
        "Claim": 3,
        "Sealed": 1,
        "RawEvidence": 1,
        "upstream": 1,
        "_failure": 1,
        "_against": 1,
        "_unknown": 1,
        "_refuted": 1,
        "OhttpKey": 1,
        "Next": 0,
        "setdefault": 1,
    }
    for folder in ("gateway", "adapters/aci.py", "adapters/openai", "adapters/opengradient"):
        for name, call in kit.calls(folder):
            for keyword in call.keywords:
                if keyword.arg == "reason":
                    found |= kit.constants(keyword.value)
            if name in place and len(call.args) > place[name]:
                found |= kit.constants(call.args[place[name]])
            if name in ("failed", "contradicted", "_Next") and call.args:
                found |= kit.constants(call.args[0])
        for _, tree in kit.modules(folder):
            for node in ast.walk(tree):
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "attr", "") == "broken":
                    found |= kit.constants(node.value)
    return found


def test_every_reason_is_documented() -> None:
    """Each reason code of checks, routing, channel, relay and log stands in docs/errors.md, with its words; those of
    evidence in docs/verification.md, those of proofs in docs/proofs.md, those of payments in docs/payment.md, there with
    `payment_` before them."""
    of_clients = {"unreachable", "timeout", "cut"}  # gateway.admin_client, for those who use it
    codes = {reason for reason in given_reasons() if re.fullmatch(r"[a-z][a-z0-9_]+", reason)} - of_clients
    assert {"no_pin", "truncated", "crash", "rolled_back", "chain_order", "no_receipt"} <= codes
    assert set(CHECKS) <= kit.ticked(kit.section(ERRORS, "## Reasons"))
    table = {cell.strip("`"): row[-1] for row in kit.rows(ERRORS) for cell in row[0].split(", ")}
    paid = kit.ticked(PAYMENT) | {word.removeprefix("payment_") for word in kit.ticked(PAYMENT)}
    known = table.keys() | kit.ticked(VERIFICATION) | codes_of(PROOFS) | paid
    assert (codes | set(ROUTING_REASONS) | {"chain_absent"}) - set(CHECKS) <= known
    for reason, meaning in CHANNEL_REASONS.items():
        assert any(row[1].startswith(meaning) for row in kit.rows(ERRORS) if row[0] == f"`{reason}`"), reason


def test_every_problem_of_our_own_is_told_as_it_is() -> None:
    """What the gateway and its own adapters give in place of evidence is no stranger's word, and every reason a code."""
    given: set[str] = set()
    for folder in ("gateway", "adapters"):
        for name, call in kit.calls(folder):
            if name == "RawEvidence" and len(call.args) > 1:
                given |= kit.constants(call.args[1])
    assert {"tee_not_registered", "content_type"} <= given
    told = given | CHANNEL_REASONS.keys() | {NO_EVIDENCE, "status_404"}
    assert [problem for problem in sorted(told) if _own_words(problem) is not None] == []
    assert _own_words("status_0404") == "status_0404"
    assert [code for code in {*CHECKS, *CLAIMS, *ROUTING_REASONS, *told} if not re.match(CODE, code)] == []


def codes_of(page: str) -> set[str]:
    """The codes in the first cells of the tables below the heading Reasons."""
    return {code for row in kit.rows(page, "## Reasons") for code in re.findall(r"`([a-z][a-z0-9_]+)`", row[0])}


def proof_reasons() -> tuple[set[str], set[str]]:
    """What functions of the proofs' modules and commands give or return as a reason, and every text in them."""
    given: set[str] = set()
    texts: set[str] = set()
    place = {"Pair": 1, "Ran": 1, "ZkResult": 1, "record": 2, "_none": 1, "_all": 1}
    own = (
        "gateway/verify/proofs",
        "gateway/prover",
        "gateway/proofs",
        "gateway/references.py",
        "gateway/exchange/amend.py",
    )
    for folder in (*own, "gateway/cli"):
        for name, tree in kit.modules(folder):
            if folder == "gateway/cli" and not re.search(r"proof|calibrate", str(name)):
                continue
            for node in ast.walk(tree):
                texts |= kit.constants(node) if isinstance(node, ast.Constant) else set()
                if isinstance(node, ast.Return):
                    last = node.value.elts[-1:] if isinstance(node.value, ast.Tuple) else [node.value]
                    given |= set().union(*map(kit.constants, last))
                elif isinstance(node, ast.Call):
                    at = place.get(getattr(node.func, "attr", getattr(node.func, "id", "")), len(node.args))
                    given |= set().union(*map(kit.constants, node.args[at : at + 1]))
                    given |= set().union(*(kit.constants(k.value) for k in node.keywords if k.arg == "reason"))
    return {text for text in given if re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)+", text)}, texts


def test_every_reason_of_a_proof_is_documented() -> None:
    """docs/proofs.md has each reason that statistics, proofs and their workers give, and none that none of them has."""
    given, texts = proof_reasons()
    assert {
        "one_token",
        "near_tie",
        "empty_answer",
        "verifier_busy",
        "proof_absent",
        "toploc_count",
        "no_quorum",
    } <= given
    assert given <= codes_of(PROOFS)
    audits = {f"audit_{state}" for state in Audit}
    assert codes_of(PROOFS) - texts <= audits


def test_the_example_of_references_is_settings() -> None:
    """The settings in docs/proofs.md load, and name a reference and both folders."""
    (body,) = [body for body in kit.blocks(PROOFS, "toml") if "[[references]]" in body]
    loaded = settings.load(body)
    assert [reference.id for reference in loaded.references] == ["ref-1"]
    assert None not in (loaded.proofs.calibrations, loaded.proofs.circuits)


def test_shown_digests_of_built_in_policies_are_theirs() -> None:
    """Where a document shows a built-in policy with its digest, it is the one of the file that comes along."""
    shown = [
        found
        for page in ("README.md", "docs/api.md")
        for found in re.findall(r'"name": ?"([a-z]+)", ?"digest": ?"([0-9a-f]+)', kit.text(page))
    ]
    assert len(shown) == 2
    for name, digest in shown:
        assert sha256(builtin_files()[f"policies/{name}.toml"]).hexdigest().startswith(digest), name


def test_the_shown_numbers_of_checks_are_those_that_are_made() -> None:
    """What the README's picture and the terminal's say of an aci node under `signed` is what the code does."""
    nothing, _ = appraise_node(Node("n", "aci", "", ()), None, None, "", now=0.0, spki=None, tls=False)
    node, answer = len(nothing.checks), len(response._PASS)
    assert f" {node + answer} checks over these very bytes " in kit.text("README.md")
    page = kit.text("docs/tui.md")
    assert f"(aci)  {node} checks " in page
    assert f"nothing left for the agent  {answer} checks " in page
    assert set(response._PASS) <= set(re.findall(r"[├└]─ [✓✗·?] (\w+)", page))
    assert f" signed@{tomllib.loads(kit.text('policies/signed.toml'))['version']} " in page


def test_every_check_claim_and_policy_key_is_documented() -> None:
    """docs/policy.md knows each id of the registries and each key of the vocabulary."""
    words = kit.ticked(POLICY)
    assert {*CHECKS, *CLAIMS, *ROUTING_REASONS, *IDENTITY, *(key.path for key in KEYS)} <= words


def test_every_kind_of_entry_is_documented() -> None:
    """docs/receipts.md names each kind of log entry, and each member of a receipt."""
    assert set(KINDS) <= kit.ticked(RECEIPTS)
    members = {field.encode_name for field in msgspec.structs.fields(Receipt)}
    assert members <= {word.rstrip("?") for word in kit.ticked(RECEIPTS)}


def test_every_path_is_documented() -> None:
    """Each path that the gateway answers on stands in docs/api.md."""
    paths = set(ENDPOINTS)
    for _, tree in kit.modules("gateway/api"):
        for node in ast.walk(tree):
            if isinstance(node, ast.AsyncFunctionDef):
                for decorator in node.decorator_list:
                    if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "get":
                        paths |= kit.constants(decorator.args[0])
    assert len(paths) > 15
    overview = API.split("\n## ")[0]
    listed = {word.split(" ")[-1] for row in kit.rows(overview)[1:] for word in re.findall(r"`([^`]+)`", row[0])}
    assert {
        path.replace("{receipt_id:str}", "{id}").replace("{tile:path}", "{…}").replace("{model:path}", "{model}")
        for path in paths
    } == listed


def test_every_header_is_documented() -> None:
    """Each header of ours or of the SDKs that the source reads or sets is explained."""
    sources = "".join(p.read_text("utf-8") for p, _ in kit.modules("gateway"))
    ours = set(re.findall(r"\bx-veriroute-[a-z-]+", sources)) - {"x-veriroute-"}
    set_or_read = set(re.findall(r'b"(x-[a-z-]+)"', sources)) - {"x-veriroute-"}
    assert {"x-veriroute-policy", "x-veriroute-receipt", "x-should-retry", "x-api-key"} <= ours | set_or_read
    words = " ".join(kit.ticked(API))
    for header in ours | set_or_read:
        assert re.search(rf"(?<![\w-]){header}(?![\w-])", words), header
    adapter = set(re.findall(r'b"(x-[a-z-]+)"', kit.text("adapters/aci.py")))
    assert adapter
    profile = " ".join(kit.ticked(kit.text("docs/node-profile.md")))
    for header in adapter:
        assert header in profile, header


@pytest.mark.parametrize(
    ("struct", "heading"),
    [
        (Verification, "### `verification`"),
        (reads.ReceiptRow, "## Receipts"),
        (reads.ReceiptList, "## Receipts"),
        (admin.Info, "## The admin API"),
        (admin.Page, "## The admin API"),
        (admin.NodeView, "## The admin API"),
        (admin.SessionView, "## The admin API"),
    ],
)
def test_every_member_of_an_answer_is_documented(struct: type[msgspec.Struct], heading: str) -> None:
    """Each member of what the API gives out stands below its heading in docs/api.md."""
    part = kit.section(API, heading)
    for field in msgspec.structs.fields(struct):
        assert re.search(rf"[`\"]{field.encode_name}[`\"]", part), field.encode_name


def test_the_proof_document_is_documented() -> None:
    """The members of a proof in JSON are those of the table."""
    (tree,) = (tree for path, tree in kit.modules("gateway/api/reads.py"))
    (proof,) = (n for n in ast.walk(tree) if isinstance(n, ast.AsyncFunctionDef) and n.name == "proof")
    (document,) = (n for n in ast.walk(proof) if isinstance(n, ast.Dict))
    members = set().union(*map(kit.constants, document.keys))
    assert len(members) == 6
    assert members <= kit.ticked(kit.section(API, "## Receipts"))


def test_verdicts_and_releases_are_documented() -> None:
    """Every value of both enumerations is named where rows are explained."""
    assert {*Outcome, *Release} <= kit.ticked(kit.section(API, "## Receipts"))


def test_every_metric_is_documented() -> None:
    """The table of metrics is what /metrics gives: names and kinds."""
    source = kit.text("gateway/api/health.py")
    given = set(re.findall(r'put\(\s*"(veriroute_[a-z_]+)",\s*"(counter|gauge)"', source))
    assert health.HANDLERS
    assert {(row[0].strip("`"), row[1]) for row in kit.rows(API, "## Metrics")[1:]} == given


def test_every_log_event_is_documented() -> None:
    """Each event that the gateway logs stands in docs/configuration.md."""
    given = set()
    for name, call in kit.calls("gateway"):
        if name in ("debug", "info", "warning", "error") and call.args:
            given |= {event for event in kit.constants(call.args[0]) if "." in event and " " not in event}
    assert {"log.opened", "node.quarantined"} <= given
    assert given <= kit.ticked(kit.section(CONFIGURATION, "## Running it for real"))


def test_every_field_of_an_event_is_written() -> None:
    """What the gateway says with an event is in the list of fields; what is not is dropped from the line."""
    written = logs.FIELDS | {"exc_info"}
    for name, call in kit.calls("gateway"):
        event = kit.constants(call.args[0]) if call.args else set()
        if name in ("debug", "info", "warning", "error") and any("." in text and " " not in text for text in event):
            assert {str(keyword.arg) for keyword in call.keywords} <= written, event


def test_bundle_members_are_documented() -> None:
    """docs/api.md names each member of a bundle."""

    members = {field.encode_name for field in msgspec.structs.fields(_WireBundle)}
    assert members <= kit.ticked(kit.section(API, "## Receipts"))
