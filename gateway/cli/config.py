"""Show the effective settings, or document every one.

examples:
  veriroute config show --config veriroute.toml     # file, then environment; holds no secret
  veriroute config reference                        # every key: default, environment variable, meaning
"""

from __future__ import annotations

import argparse
import json
import re
import sys

from gateway.settings import LISTS, PREFIX, REFERENCE, Settings, dump

from .serve import add_config, settings_of

#: Sections whose keys stand on pages of their own.
ELSEWHERE = {
    "networks.<name>": "What the adapter of a network has to know; docs/networks lists every key.",
    "payment": "Whether nodes are paid, and within which rules; docs/payment.md lists every key.",
}
HELP = "show the effective settings, or document every one"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=["show", "reference"])
    parser.add_argument("--json", action="store_true", help="JSON instead of text")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    if args.action == "reference":
        sys.stdout.write(_reference(args.json))
        return 0
    settings = dump(settings_of(args))
    if args.json:
        sys.stdout.write(json.dumps(settings, indent=2) + "\n")
        return 0
    for section, values in settings.items():
        if section in LISTS:
            for table in values:
                sys.stdout.write(f"\n[[{section}]]\n" + "".join(_line(k, v) for k, v in table.items() if v is not None))
            continue
        if section == "networks":
            for name, table in values.items():
                sys.stdout.write(f"\n[networks.{_key(name)}]\n" + "".join(_line(k, v) for k, v in table.items()))
            continue
        sys.stdout.write(f"\n[{section}]\n" + "".join(_line(k, v) for k, v in values.items() if v is not None))
    return 0


def _line(key: str, value: object) -> str:
    return f"{_key(key)} = {json.dumps(value)}\n"


def _key(name: str) -> str:
    """The name of a key or table as TOML has it: bare, or quoted. Those of `networks` and `payment` may be any text."""
    return name if re.fullmatch("[A-Za-z0-9_-]+", name) else json.dumps(name)


def _reference(as_json: bool) -> str:
    rows = []
    for key, meaning in REFERENCE.items():
        section, _, option = key.partition(".")
        default = None if section in LISTS else getattr(getattr(Settings(), section), option)
        variable = f"{PREFIX}{section}".upper() + (" (JSON list)" if section in LISTS else f"_{option}".upper())
        rows.append({"key": key, "default": default, "environment": variable, "meaning": meaning})
    for key, meaning in ELSEWHERE.items():
        variable = f"{PREFIX}{key.partition('.')[0]}".upper() + " (JSON object)"
        rows.append({"key": key, "default": None, "environment": variable, "meaning": meaning})
    if as_json:
        return json.dumps(rows, indent=2) + "\n"
    blocks = []
    for row in rows:
        default = "" if row["default"] is None else f" = {json.dumps(row['default'])}"
        blocks.append(f"{row['key']}{default}\n    {row['environment']}\n    {row['meaning']}\n")
    return "\n".join(blocks)
