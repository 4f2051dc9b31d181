"""Check policy files, list the policies, and say in words what one of them asks for.

examples:
  veriroute policy check                         # the built-in policies
  veriroute policy check policies.d/             # every *.toml there, as the gateway would load them
  veriroute policy check ours.toml --json
  veriroute policy list --dir policies.d/
  veriroute policy show strict
  veriroute policy show signed --tighten strict  # as when a caller asks for it
  veriroute policy show ./ours.toml --json

Exit codes: 0 everything is usable, 1 a policy has problems or would loosen another, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gateway.errors import PolicyError, PolicyLoosens
from gateway.policy import CompiledPolicy, inspect_policies, load_policies, tighten
from gateway.policy.explain import as_values, explain
from gateway.policy_files import builtin_files, directory_files, files_beside, read_file, read_policy
from gateway.text import plain

HELP = "check and show policies"


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="check|list|show")
    check = actions.add_parser("check", help="check policy files; every problem is shown as file:line")
    check.add_argument("paths", nargs="*", metavar="FILE|DIR", help="policy files or folders (default: the built-in)")
    listing = actions.add_parser("list", help="list the policies by name")
    show = actions.add_parser("show", help="show one policy in words, with every value in force")
    show.add_argument("policy", metavar="NAME|FILE", help="a policy's name, or a path that ends in .toml")
    show.add_argument("--tighten", metavar="NAME|FILE", help="as a caller asks for this one on top")
    for action in (listing, show):
        action.add_argument("--dir", type=Path, help="a folder of further policy files, as policy.dir in the settings")
    for action in (check, listing, show):
        action.add_argument("--json", action="store_true", help="JSON on standard output")


def run(args: argparse.Namespace) -> int:
    if args.action == "check":
        return _check(args.paths, args.json)
    try:
        files = directory_files(args.dir) if args.dir else {}
    except PolicyError as error:
        sys.stderr.write(f"veriroute policy: {plain(str(error))}\n")
        return 2
    try:
        policies = load_policies(files, builtin_files(), files_beside(*([args.dir] if args.dir else [])))
        if args.action == "list":
            return _list(policies, args.json)
        policy = _find(args.policy, policies)
        if args.tighten:
            policy = tighten(policy, _find(args.tighten, policies))
    except (PolicyError, PolicyLoosens) as error:
        sys.stderr.write(plain(str(error)) + "\n")
        return 1
    except _Unknown as error:
        sys.stderr.write(f"veriroute policy: {error}\n")
        return 2
    sys.stdout.write(_json(as_values(policy)) if args.json else explain(policy))
    return 0


class _Unknown(Exception):
    """The command line names something that does not exist."""


def _check(paths: list[str], as_json: bool) -> int:
    files: dict[str, bytes] = {}
    try:
        for path in map(Path, paths):
            if path.is_dir():
                inside = directory_files(path)
                if not inside:
                    raise PolicyError("there is no *.toml in this folder", where=str(path))
                files.update(inside)
            else:
                files[str(path)] = read_file(path)
        beside = files_beside(*{path if path.is_dir() else path.parent for path in map(Path, paths)})
    except PolicyError as error:
        sys.stderr.write(f"veriroute policy: {plain(str(error))}\n")
        return 2
    builtin = builtin_files()
    policies, problems = inspect_policies(files, builtin, beside)
    checked = files or builtin
    good = [policy for policy in policies.values() if policy.source in checked]
    if as_json:
        sys.stdout.write(
            _json(
                {
                    "files": len(checked),
                    "policies": [_row(policy) for policy in good],
                    "problems": [
                        {"where": problem.where, "key": problem.key, "message": str(problem)} for problem in problems
                    ],
                }
            )
        )
    else:
        for problem in problems:
            sys.stdout.write(plain(str(problem)) + "\n")
        for policy in good:
            sys.stdout.write(f"{plain(policy.source)}: {policy.name} {policy.version} sha256:{policy.digest}\n")
    return 1 if problems else 0


def _list(policies: dict[str, CompiledPolicy], as_json: bool) -> int:
    if as_json:
        sys.stdout.write(_json([_row(policy) for policy in policies.values()]))
        return 0
    width = max(map(len, policies))
    for policy in policies.values():
        sys.stdout.write(f"{policy.name:<{width}}  {policy.version:>3}  {policy.digest[:12]}  {policy.summary}\n")
    return 0


def _find(name: str, policies: dict[str, CompiledPolicy]) -> CompiledPolicy:
    if name.endswith(".toml"):
        path = Path(name)
        if not path.is_file():
            raise _Unknown(f"there is no file {plain(name)}")
        return read_policy(path)
    if name not in policies:
        raise _Unknown(f"there is no policy {plain(name)!r}; there are {', '.join(policies)}")
    return policies[name]


def _row(policy: CompiledPolicy) -> dict[str, object]:
    return {
        "name": policy.name,
        "version": policy.version,
        "digest": policy.digest,
        "source": policy.source,
        "summary": policy.summary,
    }


def _json(value: object) -> str:
    # In ASCII: a file's name may hold what steers a terminal, and need not be UTF-8.
    return json.dumps(value, indent=2) + "\n"
