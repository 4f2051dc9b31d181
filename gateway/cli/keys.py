"""Create, list and revoke API keys. A running gateway takes a change over within half a second, and logs it.

examples:
  veriroute keys create --name agent-1 --json               # prints the key, once; only its digest is stored
  veriroute keys create --name agent-2 --policy strict
  veriroute keys create --name ops --scope admin            # for the terminal UI and /metrics
  veriroute keys list                                       # revoked ones too; never the keys themselves
  veriroute keys revoke key_3f9c2a71d04b
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from pathlib import Path

from gateway.api.auth import SCOPES, key_digest, new_key
from gateway.entropy import fresh
from gateway.errors import ConfigError
from gateway.model.receipt import instant
from gateway.policy_files import read_policies
from gateway.settings import Settings
from gateway.storage.engine import database_path, require_file
from gateway.storage.reads import ApiKey, Reader
from gateway.storage.writes import AdminWriter, stored_digest
from gateway.text import plain

from .actor import actor
from .serve import add_config, settings_of

HELP = "create, list and revoke API keys"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|revoke")
    create = actions.add_parser("create", help="make a key and print it once")
    create.add_argument("--name", required=True, help="who or what will use it; stands in lists, never in receipts")
    create.add_argument("--policy", help="the policy that governs this key (default: policy.default of the settings)")
    create.add_argument("--scope", action="append", choices=SCOPES, help="repeatable; default: inference")
    listing = actions.add_parser("list", help="all keys, revoked ones too")
    revoke = actions.add_parser("revoke", help="end a key for good")
    revoke.add_argument("id", metavar="ID", help="the key's id, as `list` shows it")
    for action in (create, listing, revoke):
        action.add_argument("--json", action="store_true", help="JSON instead of text")
        add_config(action)


def run(args: argparse.Namespace) -> int:
    settings = settings_of(args)
    path = database_path(settings.storage.url)
    if args.action == "create":
        return _create(args, settings, path)
    if args.action == "revoke":
        return _revoke(args, path)
    return _list(args, path)


def _create(args: argparse.Namespace, settings: Settings, path: str) -> int:
    if not args.name or len(args.name) > 100 or plain(args.name) != args.name:
        raise ConfigError("--name must be 1 to 100 printable characters")
    policies = read_policies(Path(settings.policy.dir) if settings.policy.dir else None)
    if args.policy is not None and args.policy not in policies:
        raise ConfigError(f"there is no policy {args.policy!r}; there are: {', '.join(sorted(policies))}")
    text = new_key(fresh(32))
    now = time.time_ns() // 1_000_000
    scopes = tuple(dict.fromkeys(args.scope or ["inference"]))
    key = ApiKey(
        id=f"key_{secrets.token_hex(6)}",
        name=args.name,
        digest=key_digest(text.encode()),
        policy=args.policy,
        scopes=scopes,
        created_ms=now,
        revoked_ms=None,
        last4=text[-4:],
    )
    event = {
        "act": "create", "keyId": key.id, "policy": key.policy, "scopes": list(scopes), "timeMs": now,
        "actor": actor(), "row": {"sha256": stored_digest(key)},
    }  # fmt: skip
    made = "" if Path(path).exists() else ", made now"  # in another folder than the gateway's it serves nobody
    with AdminWriter(path) as writer:
        _tell(writer.notices)
        writer.add_key(key, event=_document(event))
    if args.json:
        values = {"id": key.id, "name": key.name, "key": text, "policy": key.policy, "scopes": list(scopes)}
        shown = json.dumps(values) + "\n"
    else:
        shown = (
            f"{text}\n\nid      {key.id}\nname    {key.name}\npolicy  {key.policy or plain(settings.policy.default)}\n"
            f"scopes  {', '.join(scopes)}\nstored  {plain(str(Path(path).absolute()), 400)}{made}\n\n"
            "The key is shown this once; only its digest is stored.\n"
        )
    try:
        sys.stdout.write(shown)
        sys.stdout.flush()
    except OSError:
        raise ConfigError(
            f"the key could not be shown, and {key.id} is in force; end it with `veriroute keys revoke {key.id}`"
        ) from None
    return 0


def _revoke(args: argparse.Namespace, path: str) -> int:
    require_file(path)  # the writer would make one, and so hide that the settings name another
    now = time.time_ns() // 1_000_000
    with AdminWriter(path) as writer:
        event = _document({"act": "revoke", "keyId": args.id, "timeMs": now, "actor": actor()})
        done = args.id.isascii() and writer.revoke_key(args.id, now, event=event)  # no other id was ever given out
    if not done:
        raise ConfigError(f"there is no key {args.id!r} in force; `veriroute keys list` shows them")
    sys.stdout.write(json.dumps({"id": args.id, "revoked": True}) + "\n" if args.json else f"{args.id} is revoked\n")
    return 0


def _list(args: argparse.Namespace, path: str) -> int:
    with Reader(path) as reader:
        keys = reader.api_keys()
    if args.json:
        rows = [
            {
                "id": k.id, "name": k.name, "policy": k.policy, "scopes": list(k.scopes), "ends_in": k.last4,
                "created": _when(k.created_ms), "revoked": _when(k.revoked_ms) if k.revoked_ms else None,
            }
            for k in keys
        ]  # fmt: skip
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    if not keys:
        sys.stdout.write("no keys yet; make one with `veriroute keys create --name NAME`\n")
        return 0
    sys.stdout.write(f"{'id':<18}{'name':<22}{'policy':<12}{'scopes':<18}{'ends in':<9}{'created':<26}state\n")
    for k in keys:
        state = f"revoked {_when(k.revoked_ms)}" if k.revoked_ms else "in force"
        # All of it is plain by `create`; a database that somebody changed may hold anything.
        sys.stdout.write(
            f"{plain(k.id):<18}{plain(k.name, 20):<22}{plain(k.policy or '(default)'):<12}"
            f"{plain(','.join(k.scopes)):<18}…{plain(k.last4):<8}{_when(k.created_ms):<26}{state}\n"
        )
    return 0


def _when(ms: int) -> str:
    try:
        return instant(ms)
    except OverflowError:  # a time that no calendar has
        return f"{ms} ms"


def _document(event: dict[str, object]) -> bytes:
    # The leaf is public and names nothing, but what it digests must not be guessable.
    return json.dumps({**event, "nonce": fresh(16).hex()}).encode()


def _tell(notices: list[str]) -> None:
    for notice in notices:
        sys.stderr.write(f"note: {plain(notice, 400)}\n")
