"""What a policy file says of proofs, as a whole: terms that nothing reads or that cannot be met are problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from gateway.verify.checks import PROOFS

from .document import Document
from .key import Scalar
from .proof_keys import READ_BY
from .schema import BY_PATH
from .tree import Tree, leaves


def look_at_proofs(document: Document, values: Mapping[str, Scalar], require: Tree) -> None:
    """Note what cannot be meant: `values` are the file's own by path, `require` is its tree."""
    proofs = frozenset(leaf.id for leaf in leaves(require) if leaf.check in PROOFS)
    sampled = bool(values.get("sampled.rate"))
    _unread(document, values, proofs, sampled)
    for path, key in BY_PATH.items():
        if key.floor is not None and path.partition(".")[0] in _sections(values):
            _bounds(document, values, path, key.floor)
    if proofs and any(mode != "buffer" for mode in _names(values.get("release.stream", ()))):
        document.note(
            ("release", "stream"),
            'must be ["buffer"]: a proof is of a whole answer, so nothing of it may leave before',
        )


def _unread(document: Document, values: Mapping[str, Scalar], proofs: frozenset[str], sampled: bool) -> None:
    for section in _sections(values):
        if section == "sampled" and not sampled and set(_of(values, section)) != {"sampled.rate"}:
            document.note((section,), "[sampled] has a meaning only with sampled.rate over 0")
        elif section == "proofs" and not proofs and not sampled:
            document.note((section,), f"[proofs] has a meaning only where require names one of {_listed(PROOFS)}")
        elif section in READ_BY and not proofs & READ_BY[section] and not (section == "reexec" and sampled):
            more = ", or with sampled.rate over 0" if section == "reexec" else ""
            readers = _listed(READ_BY[section])
            document.note((section,), f"[{section}] has a meaning only where require names {readers}{more}")


def _bounds(document: Document, values: Mapping[str, Scalar], path: str, floor: str) -> None:
    least, most = (cast("float", values.get(one, BY_PATH[one].default)) for one in (floor, path))
    if most < least:
        said = path if path in values else floor
        document.note(tuple(said.split(".")), f"{path} is {most:g} and must be at least {floor}, which is {least:g}")


def _sections(values: Mapping[str, Scalar]) -> dict[str, None]:
    return dict.fromkeys(path.partition(".")[0] for path in values)


def _of(values: Mapping[str, Scalar], section: str) -> list[str]:
    return [path for path in values if path.startswith(section + ".")]


def _names(value: Scalar) -> tuple[str, ...]:
    return cast("tuple[str, ...]", value)  # the kind of the key says so


def _listed(checks: frozenset[str]) -> str:
    return " or ".join(sorted(checks))
