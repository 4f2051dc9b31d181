"""The dstack app-compose document: what a guest was told to run.

The compose hash is SHA-256 of the document's text exactly as it was given to the guest, so the text is hashed before
anything is read out of it, and never written again. Strict JSON: of a key that stands twice, the guest and we could
read different ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.crypto.canonical import jcs, strict_json
from gateway.errors import FormatError

MAX_BYTES = 512 * 1024
MAX_ENVS = 512
#: Each stands with its hash in the session's document, where it takes 25 times the room that it may take here.
MAX_SCRIPTS = 512
#: Scripts that the guest runs itself, as root and before any container; each is part of the hashed text.
SCRIPTS = ("init_script", "pre_launch_script", "bash_script")
COMPOSE_RUNNERS = ("docker-compose", "nerdctl-compose")


class Script(msgspec.Struct, frozen=True):
    """One script: the member that holds it, and the SHA-256 of its UTF-8 text."""

    member: str
    sha256: str


class AppCompose(msgspec.Struct, frozen=True):
    """The members that an appraisal reads. `sha256` is the compose hash; `gpu_policy` SHA-256 of its JCS form."""

    sha256: str
    runner: str
    docker_compose: str | None
    scripts: tuple[Script, ...]
    allowed_envs: tuple[str, ...]
    gpu_policy: str
    public_logs: bool


def compose_hash(text: bytes) -> str:
    """SHA-256 of the verbatim text, in hex (docs/verification.md)."""
    return hashlib.sha256(text).hexdigest()


def parse_app_compose(text: bytes) -> AppCompose:
    """Read an app-compose document. Raises `FormatError`."""
    value = strict_json(text, max_bytes=MAX_BYTES)
    if not isinstance(value, dict):
        raise FormatError("an app-compose is a JSON object")
    return AppCompose(
        compose_hash(text),
        _text(value, "runner") or "",
        _text(value, "docker_compose_file"),
        tuple(s for member in SCRIPTS for s in _scripts(member, value.get(member))),
        _names(value.get("allowed_envs")),
        _gpu_policy(value.get("requirements")),
        value.get("public_logs") is not False,  # shown as public unless it says that it is not
    )


def _text(value: Mapping[str, Any], member: str) -> str | None:
    found = value.get(member)
    if found is not None and not isinstance(found, str):
        raise FormatError(f"app-compose: {member} is not a text")
    return found


def _scripts(member: str, value: object) -> list[Script]:
    """A script, or a list of scripts; an empty one runs nothing."""
    texts = value if isinstance(value, list) else [] if value is None else [value]
    if len(texts) > MAX_SCRIPTS:
        raise FormatError(f"app-compose: {member} has more than {MAX_SCRIPTS} scripts")
    scripts = []
    for text in texts:
        if not isinstance(text, str):
            raise FormatError(f"app-compose: {member} is neither a text nor a list of texts")
        if text:
            scripts.append(Script(member, compose_hash(text.encode())))
    return scripts


def _names(value: object) -> tuple[str, ...]:
    names = [] if value is None else value
    if not isinstance(names, list) or len(names) > MAX_ENVS or not all(isinstance(n, str) for n in names):
        raise FormatError(f"app-compose: allowed_envs is not a list of at most {MAX_ENVS} names")
    return tuple(names)


def _gpu_policy(requirements: object) -> str:
    """What `gpu-policy-hash` measures: SHA-256 of the policy's canonical JSON, of `{}` where there is none."""
    if requirements is not None and not isinstance(requirements, dict):
        raise FormatError("app-compose: requirements is not an object")
    return compose_hash(jcs((requirements or {}).get("gpu_policy", {})))
