"""Settings: one frozen value, read from a TOML file, then from the environment.

`load(text, where, environ)` is pure over what it is given; `read(path, environ)` opens the file. An unknown key, a
wrong type or an unsafe combination is a `ConfigError` that names the file and line. `REFERENCE` documents every key;
`veriroute config reference` prints it and docs/configuration.md repeats it.

    VERIROUTE_SERVER_PORT=9000 veriroute serve --config veriroute.toml      # the environment wins over the file
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from .errors import ConfigError
from .model.names import is_hex_key, is_variable
from .model.node import ENDPOINTS, Node
from .upstream.origin import parse_origin, told

PREFIX = "VERIROUTE_"
#: Sections that one variable replaces as a whole.
_WHOLE = {
    "nodes": "list of node tables",
    "networks": "object with a table for each network",
    "payment": "object with the keys of the section [payment]",
    "references": "list of reference tables",
}
#: Sections that are lists of tables.
LISTS = ("references", "nodes")
#: Settings that count something, and those that are seconds, each above nothing; `server.drain_s` may be 0 besides.
_COUNTS = {
    "server": ("max_body_bytes", "max_body_memory_bytes", "max_connections", "max_in_flight"),
    "upstream": ("max_response_bytes", "max_event_bytes"),
}
_SECONDS = {
    "server": ("write_s",),
    "upstream": ("refresh_s",),
    "collateral": ("refresh_s", "timeout_s"),
    "proofs": ("zk_seconds",),
}
#: Thirty years: timers take no infinity.
_MOST_S = 1_000_000_000
#: Bytes of a settings file: a thousand times what any has.
_LONGEST = 16 << 20
#: Where in the document a message of msgspec's points to: the section, the table's number in it, the key.
_AT = re.compile(r"`\$\.(\w+)(?:\[(\d+)\])?(?:\.(\w+))?")
#: A line of TOML that begins a table, and one that begins with a key.
_HEADER = re.compile(r"\s*\[{1,2}([^\[\]]+)\]")
_KEY = re.compile(r"\s*([\w.\s\"'-]+?)\s*=")
_PIN = re.compile(r"(sha256:|0x)[0-9a-f]{64}")
#: Scheme and host of an address, around a user's name and password, and what is behind them.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)(?:[^/?#]*@)?([^/?#]*)(.*)", re.DOTALL)


class Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: int = 8080
    allowed_hosts: tuple[str, ...] = ()
    drain_s: float = 30.0
    max_body_bytes: int = 32 * 1024 * 1024
    max_body_memory_bytes: int = 512 * 1024 * 1024
    max_connections: int = 1024
    max_in_flight: int = 512
    write_s: float = 30.0


class Storage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    url: str = "sqlite:///veriroute.db"


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    origin: str = "veriroute.local/log"
    keys: str | None = None
    memory: str | None = None


class Auth(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    mode: str = "keys"


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    default: str = "signed"
    dir: str | None = None


class Upstream(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    max_response_bytes: int = 32 * 1024 * 1024
    max_event_bytes: int = 4 * 1024 * 1024
    allow_private: bool = True
    allow_http: bool = False
    refresh_s: float = 240.0


class Collateral(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    directory: str | None = None
    offline: bool = False
    intel_url: str = "https://api.trustedservices.intel.com"
    intel_crl_url: str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    amd_url: str = "https://kdsintf.amd.com"
    nvidia_rim_url: str = "https://rim.attestation.nvidia.com"
    nvidia_ocsp_url: str = "https://ocsp.ndis.nvidia.com"
    nvidia_nras_url: str = "https://nras.attestation.nvidia.com"
    refresh_s: float = 43200.0
    timeout_s: float = 20.0


class Tee(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dangerous_test_roots: tuple[str, ...] = ()
    dangerous_allow_test_roots: bool = False


class Proofs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    calibrations: str | None = None
    circuits: str | None = None
    zk_workers: int = 1
    zk_memory_bytes: int = 1024 * 1024 * 1024
    zk_seconds: float = 10.0


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A trusted server of the operator's that computes a model itself, to hold answers against."""

    id: str
    base_url: str
    models: tuple[str, ...]
    revision: str = ""
    api_key_env: str | None = None
    connect_s: float = 5.0
    timeout_s: float = 20.0
    max_in_flight: int = 4


class Canaries(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    every_s: float = 0.0
    samples: int = 10
    models: tuple[str, ...] = ()
    policy: str | None = None


class _NodeTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    models: tuple[str, ...]
    base_url: str = ""
    network: str = "aci"
    pin: str | None = None
    operator: str | None = None
    endpoints: tuple[str, ...] = ENDPOINTS


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The effective settings. Paths are kept as written; `database` and `keys_dir` say where they lead."""

    server: Server = Server()
    storage: Storage = Storage()
    log: Log = Log()
    auth: Auth = Auth()
    policy: Policy = Policy()
    upstream: Upstream = Upstream()
    collateral: Collateral = Collateral()
    tee: Tee = Tee()
    canaries: Canaries = Canaries()
    networks: dict[str, dict[str, Any]] = {}
    payment: dict[str, Any] = {}
    proofs: Proofs = Proofs()
    references: tuple[Reference, ...] = ()
    nodes: tuple[_NodeTable, ...] = ()

    @property
    def node_values(self) -> tuple[Node, ...]:
        return tuple(Node(**msgspec.structs.asdict(n)) for n in self.nodes)


#: key -> what it means. The order is the order of the file.
REFERENCE: dict[str, str] = {
    "server.host": 'Address to bind. A non-loopback address needs auth.mode = "keys".',
    "server.port": "Port to bind; 0 takes a free one (the ready line says which).",
    "server.allowed_hosts": "Host header values accepted beside the loopback names and the bound address.",
    "server.drain_s": "Seconds that running exchanges may take to end after SIGTERM.",
    "server.max_body_bytes": "Largest request body; a larger one is 413 before it is read.",
    "server.max_body_memory_bytes": "Bytes of all request bodies held at once, of those that still come too; what goes "
    "beyond is 503 busy with Retry-After. At least server.max_body_bytes.",
    "server.max_connections": "Connections held at once; further ones are refused.",
    "server.max_in_flight": "Exchanges at once, at one node at most 256; further ones are 503 with Retry-After.",
    "server.write_s": "Seconds in which a caller must take some of its answer; one that does not read is cut off.",
    "storage.url": "Where receipts and the log live: sqlite:///relative/path or sqlite:////absolute/path.",
    "log.origin": "The log's origin line and key name (C2SP tlog-checkpoint). Choose a name you own; it never changes.",
    "log.keys": "Folder of the log key and the receipt key; made on the first start. Default: <database>.keys.",
    "log.memory": "File that remembers the newest checkpoint outside the database, so that a restored backup is "
    "noticed. Put it on another disk where you can. Default: <database>.checkpoint.",
    "auth.mode": '"keys": every caller has an API key. "none": any local caller; loopback only.',
    "policy.default": "Policy of a caller whose key names none.",
    "policy.dir": "Folder of further policy files (*.toml).",
    "upstream.max_response_bytes": "Largest answer taken from a node.",
    "upstream.max_event_bytes": "Largest single event of a stream taken from a node.",
    "upstream.allow_private": "Whether a node's name may resolve to a loopback, private or link-local address.",
    "upstream.allow_http": "Whether a node beyond loopback may be reached without TLS, so without channel binding.",
    "upstream.refresh_s": "Seconds between attestations of a node. Let it be shorter than the policies' evidence "
    "age: else requests have to wait for evidence.",
    "collateral.directory": "Folder of the vendors' documents that hardware evidence is held against; its folder "
    "supplied is yours to fill. Default: <database>.collateral.",
    "collateral.offline": "Whether only that folder is used and no vendor is asked.",
    "collateral.intel_url": "Intel's provisioning certification service (PCS version 4), or your own mirror of it.",
    "collateral.intel_crl_url": "The revocation list of Intel's root: DER, or DER in hex as a mirror gives it.",
    "collateral.amd_url": "AMD's key distribution service, or your own mirror of it.",
    "collateral.nvidia_rim_url": "NVIDIA's service of reference manifests, or your own mirror of it.",
    "collateral.nvidia_ocsp_url": "NVIDIA's OCSP responder for the certificates of accelerators and manifests.",
    "collateral.nvidia_nras_url": "NVIDIA's attestation service, of which only the key set is asked for.",
    "collateral.refresh_s": "Most seconds after which a vendor is asked for something newer; never later than half of "
    "what is left.",
    "collateral.timeout_s": "Seconds that a vendor may take to bring one platform's documents.",
    "tee.dangerous_test_roots": "Certificates (DER files) that are believed as every vendor's root. Whoever has such a "
    "root's key can make any evidence.",
    "tee.dangerous_allow_test_roots": "Has to be true beside them. Even so every node must be on a loopback or private "
    "address, written as such.",
    "proofs.calibrations": "Folder of calibrations (*.json) as the command calibrate makes them; without one "
    "re-execution and TOPLOC decide nothing.",
    "proofs.circuits": "Folder of pinned circuits, one folder each; without one no zero-knowledge proof is verified.",
    "proofs.zk_workers": "Processes that verify zero-knowledge proofs, 1 to 64; started when first needed.",
    "proofs.zk_memory_bytes": "Address space of each of them; a circuit of 2^19 rows needs about 500 MiB.",
    "proofs.zk_seconds": "Seconds that the verification of one proof may take.",
    "references.id": "Name of the reference in calibrations and receipts; unique, at most 80 printable characters.",
    "references.base_url": "Its address without /v1: https://, or http:// on this machine.",
    "references.models": "Model ids that it computes; exact match.",
    "references.revision": "Which weights it runs. Where it is given, only calibrations that say the same are used.",
    "references.api_key_env": "Environment variable that holds its API key.",
    "references.connect_s": "Seconds to reach it.",
    "references.timeout_s": "Seconds for each of its answers.",
    "references.max_in_flight": "Questions to it at once, 1 to 256; further ones wait.",
    "canaries.every_s": "Seconds between two drift runs at a node, jittered by a quarter; 0: no canaries are sent.",
    "canaries.samples": "Requests of one token in each run: 8 to 50.",
    "canaries.models": "Chat models that are asked for, at every node that offers them at /v1/chat/completions.",
    "canaries.policy": "Policy that these exchanges are under. Default: policy.default.",
    "nodes.id": "Name of the node in receipts; unique, at most 80 printable characters.",
    "nodes.network": "The adapter that speaks to it: aci (ACI aci/1 direct services, our reference node among them), "
    "openai (any server of OpenAI's API, without evidence), or opengradient (OpenGradient's LLM enclaves).",
    "nodes.base_url": "Origin, and path prefix if any, without /v1: http://127.0.0.1:9001. Left out where the "
    "network has a registry, which then says.",
    "nodes.models": "Model ids that are routed to it; exact match.",
    "nodes.pin": "sha256:<hex> of the node's keyset, or 0x<hex> where the network names nodes so. "
    "Without it key_bound is none, and only observe accepts the node.",
    "nodes.operator": "Who runs it; a quorum counts operators, and leaves out nodes without one; policies can deny an "
    "operator.",
    "nodes.endpoints": "Paths that it offers. Default: all.",
}


def load(text: str, *, where: str = "veriroute.toml", environ: Mapping[str, str] | None = None) -> Settings:
    """Settings from TOML `text` and `environ`. Raises `ConfigError`."""
    try:
        table = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply; `veriroute config reference` shows each key") from None
    except ValueError as error:  # tomllib's own error is one, and so is that of a number with too many digits
        raise ConfigError(f"{where} is not TOML: {error}; `veriroute config reference` shows each key") from None
    ours = [(key, value) for key, value in (environ or {}).items() if key.startswith(PREFIX)]
    variables = [key for key, value in ours if _overlay(table, key, value)]
    _without_empty(table)
    try:
        return _settings(table, text, where)
    except ConfigError as error:
        if not variables:  # one of them may have set the value
            raise ConfigError(_with_line(str(error), where, text)) from None
        raise ConfigError(f"{error}; the environment sets {', '.join(sorted(variables))}") from None


def _settings(table: dict[str, Any], text: str, where: str) -> Settings:
    """The settings that `table` holds; lines are those of `text`, which is the file."""
    try:
        settings = msgspec.convert(table, Settings)
    except msgspec.ValidationError as error:
        found = f"{where}{_line(text, str(error))}: {error}{_meant(str(error))}"
        raise ConfigError(f"{found} `veriroute config reference` lists every key") from None
    _judge(settings, where, text)
    for node in settings.nodes:
        if node.base_url:  # where it is left out, the network's adapter knows whether it may be
            _judge_address(
                node.base_url, settings.upstream, f"{where}{_line_of(text, 'id', node.id)}: node {node.id!r}"
            )
    _judge_proofs(settings, where, text)
    return settings


def read(path: str | None, environ: Mapping[str, str]) -> Settings:
    """Settings from the file at `path` (none: defaults and environment alone)."""
    if path is None:
        return load("", where="environment", environ=environ)
    try:
        with open(path, "rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read(_LONGEST + 1)
        text = data.decode()
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"the settings file {path} is not UTF-8 (byte {error.start})") from None
    if len(data) > _LONGEST:
        raise ConfigError(f"{path} is no settings file: it has more than {_LONGEST >> 20} MiB")
    settings = load(text, where=path, environ=environ)
    if stat.S_ISREG(mode) and mode & 0o007:
        _judge_secrecy(text, path, stat.S_IMODE(mode))
    return settings


def _judge_secrecy(text: str, path: str, mode: int) -> None:
    """Refuse the file at `path`, which anybody can read, for what looks like a key in an address."""
    for value in _texts(tomllib.loads(text)):
        address = _ADDRESS.fullmatch(value)
        if address is None or address[1].lower() not in ("http://", "https://"):
            continue  # of a database, it is a path
        if any(map(_like_a_key, re.split("[^A-Za-z0-9]", address[3]))):
            line = next((f":{n}" for n, line in enumerate(text.split("\n"), 1) if value in line), "")
            raise ConfigError(
                f"{path}{line}: an address here holds what looks like a provider's key, and every user can read the "
                f"file (mode {mode:04o}); run: chmod o= {path}"
            )


def _like_a_key(part: str) -> bool:
    """Whether a piece of a path or query is long enough for a key, and is no word. Names of models and deployments have
    dashes, so that their pieces are short."""
    return len(part) >= 16 and any(map(str.isdigit, part)) and any(map(str.isalpha, part))


def _texts(value: object) -> Iterator[str]:
    """Every text in `value`, which TOML holds."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)


def database(settings: Settings) -> str:
    """The path behind storage.url. Raises `ConfigError` for anything but SQLite."""
    url = settings.storage.url
    if not url.startswith("sqlite:///") or len(url) == len("sqlite:///"):
        raise ConfigError(f"storage.url must be sqlite:///path, not {url!r}; PostgreSQL is not supported yet")
    return url[len("sqlite:///") :]


def keys_dir(settings: Settings) -> str:
    return settings.log.keys or database(settings) + ".keys"


def memory_path(settings: Settings) -> str:
    return settings.log.memory or database(settings) + ".checkpoint"


def collateral_dir(settings: Settings) -> str:
    return settings.collateral.directory or database(settings) + ".collateral"


def canaries_dir(settings: Settings) -> str:
    return database(settings) + ".canaries"


def is_loopback(host: str) -> bool:
    """Whether `host` names only this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_local(url: str) -> bool:
    """Whether the host of `url` is localhost, or written as a loopback or private address. Names are not resolved."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_private and not address.is_unspecified  # loopback and link-local are among the private ones


def dump(settings: Settings) -> dict[str, Any]:
    """The effective settings as plain values, for screens and for the log's `start` entries. They hold no secret: keys
    live in files and variables that are only named here, and what networks' tables may hold of one is left out."""
    value = msgspec.to_builtins(settings)
    assert isinstance(value, dict)
    return value | {name: _shown(name, value[name]) for name in ("networks", "payment")}


def _shown(name: str, value: Any) -> Any:
    """`value` of the key `name` without what may be a secret: of an address, all but scheme and host (services sell
    paths and queries that are the key), and what stands where a variable's or file's name belongs and is none."""
    if isinstance(value, dict):
        return {key: _shown(key, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shown(name, item) for item in value]
    if not isinstance(value, str):
        return value
    if (name.endswith("_env") and not is_variable(value)) or (name.startswith("wallet") and is_hex_key(value)):
        return "…"
    found = _ADDRESS.fullmatch(value)
    return value if found is None else found[1] + found[2] + ("/…" if found[3].strip("/") else found[3])


def _overlay(table: dict[str, Any], key: str, value: str) -> bool:
    """Put the variable `key` into `table`; whether it is a setting."""
    name = key[len(PREFIX) :].lower()
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"{key} is not UTF-8, and the log has to hold the settings") from None
    if name in _WHOLE:
        try:
            table[name] = json.loads(value)
        except ValueError as error:
            raise ConfigError(f"{key} must hold a JSON {_WHOLE[name]}: {error}") from None
        return True
    section, _, option = name.partition("_")
    if section not in Settings.__struct_fields__:
        if not _near(name, _variables(), _MISSPELT):
            return False  # VERIROUTE_ADMIN_KEY and the like belong to other commands
        raise ConfigError(f"{key} is no setting{_nearest(name, section)} `veriroute config reference` lists every key")
    if f"{section}.{option}" not in REFERENCE or section in _WHOLE:
        raise ConfigError(f"{key} is no setting{_nearest(name, section)} `veriroute config reference` lists every key")
    kind = Settings().__getattribute__(section).__getattribute__(option)
    parsed: Any = value
    if isinstance(kind, bool):
        if value.lower() not in ("true", "false"):
            raise ConfigError(f"{key} must be true or false, not {value!r}")
        parsed = value.lower() == "true"
    elif isinstance(kind, int | float):
        try:
            parsed = type(kind)(value)
        except ValueError:
            raise ConfigError(f"{key} must be a number, not {value!r}") from None
    elif isinstance(kind, tuple):
        parsed = [part.strip() for part in value.split(",") if part.strip()]
    table.setdefault(section, {})
    if not isinstance(table[section], dict):
        raise ConfigError(f"[{section}] must be a table")
    table[section][option] = parsed
    return True


def _without_empty(table: dict[str, Any]) -> None:
    """Where none is the default, empty text is none: a variable that a supervisor sets to nothing takes back what the
    file says, and is not the working directory."""
    for section, values in table.items():
        defaults = getattr(Settings(), section, None)
        if isinstance(defaults, msgspec.Struct) and isinstance(values, dict):
            for name in [name for name, value in values.items() if value == "" and getattr(defaults, name, "") is None]:
                del values[name]


#: How near to a setting's a variable's name is that must be meant as it: POLCY_DEFAULT (0.96) and NODE (0.89), but not
#: the SERVICE_PORT (0.87) that Kubernetes sets beside a service of the name veriroute.
_MISSPELT = 0.88


def _variables() -> list[str]:
    return [*(key.replace(".", "_") for key in REFERENCE if key.split(".")[0] not in _WHOLE), *_WHOLE]


def _near(name: str, options: Sequence[str], cutoff: float = 0.6) -> list[str]:
    from difflib import get_close_matches

    return get_close_matches(name, options, n=1, cutoff=cutoff)


def _nearest(name: str, section: str) -> str:
    found = [section] if section in _WHOLE else _near(name, _variables())
    return f"; did you mean {PREFIX}{found[0].upper()}?" if found else "."


def _meant(message: str) -> str:
    """The end of msgspec's sentence about an unknown key of the file: the nearest key of its table, if one is near."""
    unknown = re.search(r"unknown field `([^`]*)`(?: - at `\$\.(\w+)(?:\[\d+\])?`)?$", message)
    if unknown is None:
        return "."
    name, section = unknown.groups()
    keys = [key.split(".")[1] for key in REFERENCE if key.split(".")[0] == section]
    found = _near(name, keys if section else Settings.__struct_fields__)
    return f"; did you mean {found[0]}?" if found else "."


def _line(text: str, message: str) -> str:
    """`:<line>` of the key that a msgspec message names, or of the table that lacks it or has it inline; or nothing."""
    unknown, at = re.search("unknown field `([^`]*)`", message), _AT.search(message)
    parts = [*(at.group(1, 3) if at else ()), unknown and unknown[1]]
    wanted = ".".join(part for part in parts if part)
    nth = int(at[2] or 0) if at else 0
    around = ""
    for number, table, key in _keys(text):
        if key == wanted or key.startswith(wanted + "."):
            if table == nth:
                return f":{number}"
        elif table == nth and wanted.startswith(key + "."):
            around = f":{number}"
    return around


def _keys(text: str) -> Iterator[tuple[int, int, str]]:
    """Each table and key of the file: its line, the number of its table among those of its name, its name with dots."""
    tables: Counter[str] = Counter()
    inside = ""
    for number, line in enumerate(text.split("\n"), 1):
        header, key = _HEADER.match(line), _KEY.match(line)
        if header:
            inside = re.sub(r"[\s\"']", "", header[1])
            tables[inside] += 1
            yield number, tables[inside] - 1, inside
        elif key:
            name = re.sub(r"[\s\"']", "", key[1])
            yield number, max(tables[inside] - 1, 0), f"{inside}.{name}" if inside else name


def _line_of(text: str, key: str, value: str) -> str:
    """`:<line>` where the file gives `key` this value, or nothing."""
    line = re.compile(rf"\s*{key}\s*=\s*[\"']{re.escape(value)}[\"']")
    return next((f":{number}" for number, found in enumerate(text.split("\n"), 1) if line.match(found)), "")


def _with_line(message: str, where: str, text: str) -> str:
    """`message` with the line of the value in the file, if it begins with the name of one."""
    rest = message.removeprefix(f"{where}: ")
    named = re.match(r"(\w+\.\w+):? ", rest)
    return f"{where}{_line(text, f'at `$.{named[1]}`')}: {rest}" if named else message


def _judge(settings: Settings, where: str, text: str) -> None:
    database(settings)
    if settings.auth.mode not in ("keys", "none"):
        raise ConfigError(f'{where}: auth.mode must be "keys" or "none", not {settings.auth.mode!r}')
    if settings.auth.mode == "none" and not is_loopback(settings.server.host):
        raise ConfigError(
            f'{where}: auth.mode = "none" serves any caller, so server.host must be a loopback address, '
            f'not {settings.server.host!r}. Set auth.mode = "keys" and make a key with `veriroute keys create`'
        )
    if not 0 <= settings.server.port <= 65535:
        raise ConfigError(f"{where}: server.port must be 0 to 65535")
    _judge_bounds(settings, where)
    if settings.server.max_body_memory_bytes < settings.server.max_body_bytes:
        raise ConfigError(
            f"{where}: server.max_body_memory_bytes must be at least server.max_body_bytes, "
            f"{settings.server.max_body_bytes}: no body as large as that could ever be read"
        )
    # The files of both keys, which hold this name, are ASCII.
    if not re.fullmatch(r"[!-*,-~]+", settings.log.origin):
        raise ConfigError(f"{where}: log.origin must be a name in plain ASCII, without white space or '+'")
    _judge_collateral(settings, where)
    _judge_canaries(settings.canaries, where)
    seen: set[str] = set()
    for node in settings.nodes:
        place = f"{where}{_line_of(text, 'id', node.id)}"
        _judge_name(node.id, seen, place, "node")
        if not node.models:
            raise ConfigError(f"{place}: node {node.id!r} names no models")
        unknown = [e for e in node.endpoints if e not in ENDPOINTS]
        if unknown:
            raise ConfigError(
                f"{place}: node {node.id!r}: unknown endpoint {unknown[0]!r}; known: {', '.join(ENDPOINTS)}"
            )
        if node.pin is not None and not _is_pin(node.pin):
            raise ConfigError(
                f"{place}: node {node.id!r}: pin must be sha256:<64 lower-case hex digits>, or 0x<64 of them>"
            )


def _judge_bounds(settings: Settings, where: str) -> None:
    """Of a limit that lets nothing through, and of a time without beginning or end, nobody means what it would do."""
    for section, names in _COUNTS.items():
        for name in names:
            if not 1 <= getattr(getattr(settings, section), name) < 2**53:
                raise ConfigError(f"{where}: {section}.{name} must be a whole number from 1 on, below 2^53")
    for section, names in _SECONDS.items():
        for name in names:
            _seconds(where, f"{section}.{name}", getattr(getattr(settings, section), name))
    if settings.server.drain_s != 0:
        _seconds(where, "server.drain_s", settings.server.drain_s, "0 or a number of seconds above it")


def _judge_name(name: str, seen: set[str], where: str, what: str) -> None:
    # Receipts and records name it, and take no other names.
    if not 0 < len(name) <= 80 or not name.isprintable():
        raise ConfigError(f"{where}: a {what} has an id of 1 to 80 printable characters, not {name!r}")
    if name in seen:
        raise ConfigError(f"{where}: two {what}s have the id {name!r}")
    seen.add(name)


def _judge_address(base_url: str, upstream: Upstream, where: str) -> None:
    if base_url.rstrip("/").endswith("/v1"):
        raise ConfigError(f"{where}: base_url ends in /v1, which the paths of the API begin with; leave that out")
    granted = {"allow_http": upstream.allow_http, "allow_private": upstream.allow_private}
    refusal = _refusal(base_url, granted)
    if refusal is None:
        return
    for name in granted:
        if _refusal(base_url, {**granted, name: True}) != refusal:
            raise ConfigError(f"{where}: {refusal} (set upstream.{name} = true)")
    raise ConfigError(f"{where}: {refusal}")


def _refusal(base_url: str, granted: Mapping[str, bool]) -> str | None:
    try:
        parse_origin(base_url, **granted)
    except ConfigError as error:
        return str(error)
    return None


def _judge_collateral(settings: Settings, where: str) -> None:
    collateral, tee = settings.collateral, settings.tee
    asked = () if collateral.offline else Collateral.__struct_fields__  # nobody is asked
    for name in (field for field in asked if field.endswith("_url")):
        refusal = _refusal(getattr(collateral, name), {"allow_private": True})
        if refusal is not None:
            raise ConfigError(f"{where}: collateral.{name}: {refusal.removeprefix('base_url').lstrip(': ')}")
    if not tee.dangerous_test_roots:
        return
    # Two settings and an address, so that a file copied from a test bed does not go into production as it is.
    if not tee.dangerous_allow_test_roots:
        raise ConfigError(
            f"{where}: tee.dangerous_test_roots makes forged evidence look genuine. For tests set "
            "tee.dangerous_allow_test_roots = true beside it; otherwise remove it"
        )
    for node in settings.nodes:
        named = not node.base_url and node.network in settings.networks  # by a registry: the fleet holds it to this
        if not named and not is_local(node.base_url):
            raise ConfigError(
                f"{where}: node {node.id!r} is not on a loopback or private address, and tee.dangerous_test_roots "
                "would let anybody forge its evidence"
            )


def _judge_proofs(settings: Settings, where: str, text: str) -> None:
    proofs = settings.proofs
    if not 1 <= proofs.zk_workers <= 64:
        raise ConfigError(f"{where}: proofs.zk_workers must be 1 to 64")
    if not 64 * 1024 * 1024 <= proofs.zk_memory_bytes < 2**53:
        raise ConfigError(f"{where}: proofs.zk_memory_bytes must be at least 67108864 (64 MiB)")
    seen: set[str] = set()
    for reference in settings.references:
        _judge_name(reference.id, seen, where, "reference")
        place = f"{where}{_line_of(text, 'id', reference.id)}: reference {reference.id!r}"
        _judge_reference(reference, place, settings.upstream.allow_http)


def _judge_reference(reference: Reference, where: str, allow_http: bool) -> None:
    if not reference.models:
        raise ConfigError(f"{where} names no models")
    if not 1 <= reference.max_in_flight <= 256:
        raise ConfigError(f"{where}: max_in_flight must be 1 to 256")
    _seconds(where, "connect_s", reference.connect_s)
    _seconds(where, "timeout_s", reference.timeout_s)
    try:
        parts = urlsplit(reference.base_url)
        host = parts.hostname or ""
    except ValueError as error:
        raise ConfigError(f"{where}: base_url: {error}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ConfigError(f"{where}: base_url must be an http:// or https:// address, not {told(reference.base_url)!r}")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(f"{where}: base_url holds more than scheme, host, port and path; a key has its variable")
    if parts.path.rstrip("/").endswith("/v1"):
        raise ConfigError(f"{where}: base_url must be given without /v1")
    if reference.api_key_env is not None and not is_variable(reference.api_key_env):
        raise ConfigError(
            f"{where}: api_key_env is the name of an environment variable, in capitals: the key itself must not stand "
            "in the file"
        )
    if parts.scheme == "http" and not is_loopback(host):
        if reference.api_key_env is not None:
            raise ConfigError(f"{where}: its API key would travel in clear text; use https://")
        if not allow_http:
            raise ConfigError(f"{where}: prompts and its word would travel in clear text; use https://")


def _seconds(where: str, name: str, value: float, meant: str = "a number of seconds above 0") -> None:
    if not 0 < value < _MOST_S:
        raise ConfigError(f"{where}: {name} must be {meant}, and less than {_MOST_S}")


def _judge_canaries(canaries: Canaries, where: str) -> None:
    if canaries.every_s != 0 and not 1 <= canaries.every_s < float("inf"):
        raise ConfigError(f"{where}: canaries.every_s must be 0, or a number of seconds from 1 on")
    # With fewer, even samples that have nothing in common are not rare enough among their rearrangements for 1 %.
    if not 8 <= canaries.samples <= 50:
        raise ConfigError(f"{where}: canaries.samples must be 8 to 50")
    if canaries.every_s and not canaries.models:  # a model that does no chat would answer with errors
        raise ConfigError(f"{where}: canaries.models must name the chat models that canaries ask for")


def _is_pin(pin: str) -> bool:
    return _PIN.fullmatch(pin) is not None
