"""From policy files to policies. Pure: names and bytes in, policies or `PolicyError`s with `file:line` out.

Everything that could be understood in two ways is an error: an unknown or repeated key, a value of another type, an
empty requirement, a name with a pattern in it, a tab, an invisible character. A policy file is read by people who sign
it off, so what they see must be what is enforced.

The file's digest is the SHA-256 of its bytes: a receipt names it, and a reviewer can compute it with `sha256sum`.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
import unicodedata
from collections.abc import Mapping
from typing import cast

import msgspec

from gateway.errors import PolicyError
from gateway.verify.tee.rules import BOOTED, STATED

from .advisories import Advisories, read_advisories
from .build import compile_policy, guards_prompt
from .document import Document
from .key import Scalar
from .lines import key_lines
from .parse_tree import parse_tree
from .proof_terms import look_at_proofs
from .schema import BY_PATH, IDENTITY, SECTIONS, CompiledPolicy, PolicyRef, digest_of
from .values import parse_value

MAX_BYTES = 256 * 1024
MAX_LINE = 2_000
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
#: Words that a caller could take for the absence of a policy.
_RESERVED = frozenset({"none", "off", "default", "null", "true", "false"})
_TOML_LINE = re.compile(r" *\(at (?:line (\d+), column \d+|end of document)\)")


class Beside(msgspec.Struct, frozen=True):
    """What policies may refer to: files of advisories by path, and when their age counts (Unix seconds;
    None: it does not)."""

    advisories: Mapping[str, bytes] = {}
    at: float | None = None


_NOTHING = Beside()
#: Where the files that come with the gateway stand, for a policy that has none of that name beside it.
_BUILT_IN = "policies/"


def load_policies(
    files: Mapping[str, bytes], builtin: Mapping[str, bytes] | None = None, beside: Beside = _NOTHING
) -> dict[str, CompiledPolicy]:
    """The policies of `builtin` and `files` (file name to bytes) by policy name, sorted.

    A file may not stand in place of a built-in policy of the same name unless it says `replaces = "builtin"`. Raises
    `PolicyError` for the first problem; `inspect_policies` gives all of them.
    """
    policies, problems = inspect_policies(files, builtin, beside)
    if problems:
        raise problems[0]
    return policies


def inspect_policies(
    files: Mapping[str, bytes], builtin: Mapping[str, bytes] | None = None, beside: Beside = _NOTHING
) -> tuple[dict[str, CompiledPolicy], tuple[PolicyError, ...]]:
    """The policies that can be used, and every problem of those that cannot, in the order of the files."""
    found: dict[str, CompiledPolicy] = {}
    problems: list[PolicyError] = []
    builtin = builtin or {}
    for source, data in builtin.items():
        policy, bad = inspect_policy(source, data, beside=beside)
        problems += bad
        if policy is not None:
            found[policy.name] = policy
    ours = frozenset(found)
    seen: dict[str, str] = {}
    for source, data in files.items():
        policy, bad = inspect_policy(source, data, builtin=ours, beside=beside)
        problems += bad
        if policy is None:
            continue
        if policy.name in seen:
            problems.append(PolicyError(f"the policy {policy.name!r} is in {seen[policy.name]} too", where=source))
            continue
        seen[policy.name] = source
        found[policy.name] = policy
    return dict(sorted(found.items())), tuple(problems)


def parse_policy(source: str, data: bytes, beside: Beside = _NOTHING) -> CompiledPolicy:
    """The one policy of `data`; `source` is its file name. Raises `PolicyError` for the first problem."""
    policy, problems = inspect_policy(source, data, beside=beside)
    if policy is None:
        raise problems[0]
    return policy


def inspect_policy(
    source: str, data: bytes, *, builtin: frozenset[str] | None = None, beside: Beside = _NOTHING
) -> tuple[CompiledPolicy | None, tuple[PolicyError, ...]]:
    """The policy of one file, None with its problems when there are any, in the order of its lines.

    `builtin` are the names that this file may not take without saying so; None when that is not asked.
    """
    try:
        document = _read(source, data)
    except PolicyError as error:
        return None, (error,)
    policy, others = _compile(document, data, builtin, beside)
    problems = (*document.sorted(), *others)
    return (None if problems else policy), problems


def _read(source: str, data: bytes) -> Document:
    """`data` as a TOML document. Raises `PolicyError` for what cannot be read at all."""
    if len(data) > MAX_BYTES:
        raise PolicyError(f"the file has {len(data)} bytes; a policy has at most {MAX_BYTES}", where=source)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError(f"byte {error.start} is not UTF-8", where=f"{source}:{line}") from None
    for number, line_text in enumerate(text.split("\n"), 1):
        _look(line_text, f"{source}:{number}")
    try:
        values = tomllib.loads(text)
    except RecursionError:
        raise PolicyError("the file is nested too deeply", where=source) from None
    except ValueError as error:  # tomllib's own error is one, and so is that of a number with too many digits
        match = _TOML_LINE.search(str(error))
        last = text.rstrip("\n").count("\n") + 1
        where = f"{source}:{match[1] if match and match[1] else last}"
        raise PolicyError(f"not TOML: {_TOML_LINE.sub('', str(error)).strip()}", where=where) from None
    return Document(source, values, key_lines(text))


def _look(line: str, where: str) -> None:
    if len(line) > MAX_LINE:
        raise PolicyError(f"the line has {len(line)} characters; nobody reads past {MAX_LINE}", where=where)
    if line.isascii() and line.isprintable():
        return
    for character in line.removesuffix("\r"):
        if character == "\t":
            raise PolicyError("a tab; use spaces", where=where)
        if _invisible(character):
            raise PolicyError(f"the invisible character U+{ord(character):04X}; remove it", where=where)


def _invisible(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Co", "Cn", "Zl", "Zp")


def _compile(
    document: Document, data: bytes, builtin: frozenset[str] | None, beside: Beside
) -> tuple[CompiledPolicy | None, tuple[PolicyError, ...]]:
    """The policy of `document`, whose every problem is noted there; None when there is one. Then the problems of the
    file of advisories that it names."""
    values = _values(document)
    stated = frozenset(values)
    advisories, problems = _advisories(document, values, beside)
    name = _identity(document, builtin)
    version = document.get("version")
    if type(version) is not int or version < 1:
        document.note(("version",), "version must be a whole number from 1; raise it with every change")
    summary = document.get("summary", "")
    if not isinstance(summary, str) or len(summary) > 300 or any(map(_invisible, summary)):
        # an escape in the file can write what may not stand there, and `policy show` would print it as its own words
        document.note(("summary",), "summary must be one sentence of at most 300 characters, all of them visible")
    if "require" not in document.values:
        document.note((), "there is no require; a policy must require something, for example require.all = [...]")
        return None, problems
    require = parse_tree(document, ("require",), document.get("require"))
    if require is None:
        return None, problems
    if values.get("on_failure") != "flag" and not guards_prompt(require):
        document.note(
            ("require",),
            "nothing is required of the node itself, so the prompt would leave before anything is shown; add "
            "`evidence` and `key_bound`, or a proof of the answer",
        )
    look_at_proofs(document, values, require)
    _look_at_measurements(document, values)
    if values.get("retry_after_send") and values.get("on_failure") != "next_node":
        document.note(("retry_after_send",), 'has a meaning only with on_failure = "next_node"')
    if document.problems or problems or not isinstance(version, int) or not isinstance(summary, str):
        return None, problems
    refs: tuple[PolicyRef, ...] = (PolicyRef(name, version, hashlib.sha256(data).hexdigest()),)
    if advisories is not None:
        refs = (*refs, advisories.ref)
        listed = cast("tuple[str, ...]", values.get("tee.advisories_deny", ()))
        values["tee.advisories_deny"] = tuple(sorted({*listed, *advisories.ids}))
    return compile_policy(refs, digest_of(refs), document.source, summary, require, values, stated), ()


def _look_at_measurements(document: Document, values: Mapping[str, Scalar]) -> None:
    """Note a set that believes what a system states of itself without saying which system."""
    for item in cast("tuple[str, ...]", values.get("tee.measurements", ())):
        named = {part.partition(":")[0] for part in item.split("/")}
        if named & STATED and not named >= BOOTED:
            stated, missing = ", ".join(sorted(named & STATED)), ", ".join(sorted(BOOTED - named))
            document.note(
                ("tee", "measurements"),
                f"{stated} is the guest's own word, which counts for a known system alone; add {missing} to the set",
            )


def _advisories(
    document: Document, values: Mapping[str, Scalar], beside: Beside
) -> tuple[Advisories | None, tuple[PolicyError, ...]]:
    """The advisories that the policy names, from beside it or else from among the built-in ones. What is wrong with the
    name or the age is noted in the policy, what is wrong in the file is returned."""
    key = ("tee", "advisories_file")
    if "tee.advisories_file" not in values:
        if "tee.advisories_max_age_days" in values:
            document.note(("tee", "advisories_max_age_days"), "there is no tee.advisories_file whose age this could be")
        return None, ()
    (name,) = cast("tuple[str, ...]", values["tee.advisories_file"])
    folder = document.source[: document.source.rfind(_stem(document.source))]
    source = next((path for path in (folder + name, _BUILT_IN + name) if path in beside.advisories), None)
    if source is None:
        document.note(key, f"there is no file {folder + name}, and none of that name comes with the gateway")
        return None, ()
    data = beside.advisories[source]
    try:
        found, problems = read_advisories(name, data, _read(source, data))
    except PolicyError as error:
        return None, (error,)
    if found is not None and beside.at is not None:
        age, most = found.age_days(beside.at), values.get("tee.advisories_max_age_days")
        if age < -1:
            document.note(key, f"{source} is of the future")
        elif isinstance(most, int) and age > most:
            document.note(key, f"{source} is {age:.0f} days old; tee.advisories_max_age_days is {most}")
    return found, problems


def _stem(source: str) -> str:
    return re.split(r"[/\\:]", source)[-1]


def _identity(document: Document, builtin: frozenset[str] | None) -> str:
    name = document.get("name")
    if not isinstance(name, str) or _NAME.fullmatch(name) is None or name in _RESERVED:
        document.note(("name",), "name must be 1 to 64 of a-z, 0-9, - and _, begin with a letter, and not mean nothing")
        return ""
    stem = _stem(document.source).removesuffix(".toml")
    if name != stem:
        document.note(("name",), f"name is {name!r}, but the file is {stem!r}; they must be the same")
    replaces = document.get("replaces")
    if replaces not in (None, "builtin"):
        document.note(("replaces",), 'replaces may only be "builtin"')
    elif builtin is not None and replaces is None and name in builtin:
        document.note(
            ("name",),
            f'{name!r} is a built-in policy; take another name, or write replaces = "builtin" to stand in its place',
        )
    elif builtin is not None and replaces == "builtin" and name not in builtin:
        document.note(("replaces",), f"there is no built-in policy {name!r} to replace")
    return name


def _values(document: Document) -> dict[str, Scalar]:
    """The values of all keys of `KEYS` that the document states, by path."""
    values: dict[str, Scalar] = {}
    top = [path for path in BY_PATH if "." not in path]
    for name, value in document.values.items():
        if name in SECTIONS:
            if not isinstance(value, dict):
                document.note((name,), f"{name} must be a table: write [{name}]")
                continue
            inner = [path.split(".", 1)[1] for path in BY_PATH if path.startswith(name + ".")]
            for key in value:
                if document.known((name, key), inner):
                    _value(document, values, f"{name}.{key}", value[key])
        elif document.known((name,), [*IDENTITY, *top, *SECTIONS]) and name in top:
            _value(document, values, name, value)
    return values


def _value(document: Document, values: dict[str, Scalar], path: str, value: object) -> None:
    try:
        values[path] = parse_value(BY_PATH[path], value)
    except ValueError as error:
        document.note(tuple(path.split(".")), f"{path} {error}")
