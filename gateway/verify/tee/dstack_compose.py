"""The checks of a dstack guest on what it runs: the document, its images, its scripts, its environment.

    MR_CONFIG_ID   00 × 48                                     unset, which is legal: then RTMR3 alone carries the hash
                   01 || compose hash 32 || 00 × 15
                   03 || SHA-256("dstack-mr-config-v3:" || 00 || document) 32 || 00 × 15

Version 2 is Keccak-256 over the compose hash, the app-id and the key provider; it is not read, and says so.
docs/verification.md; dstack `dstack-types/src/mr_config.rs`.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.model.verdict import Check, Outcome
from gateway.text import plain

from .app_compose import COMPOSE_RUNNERS, AppCompose, compose_hash, parse_app_compose
from .compose import Compose, read_compose
from .dstack_case import Case
from .outcomes import fails, holds, refused, unknown, warns
from .rtmr import EventLog

SHOWN = 80
_MR_CONFIG_V3 = b"dstack-mr-config-v3:\0"
_REST = "00" * 15


def compose_bound(case: Case, app_compose: bytes | None, mr_config: bytes | None) -> Check:
    if case.log is None:
        return unknown("compose_bound", "log_not_bound")
    if app_compose is None:
        return unknown("compose_bound", "no_app_compose")
    event = case.log.payload("compose-hash")
    if event is None:
        return fails("compose_bound", "compose_event_missing", "no event compose-hash")
    found = compose_hash(app_compose)
    if event.hex() != found:
        return fails("compose_bound", "compose_mismatch", f"{found[:16]}…", f"{event.hex()[:16]}…", "app_compose")
    problem = _mr_config(case, found, mr_config)
    if problem is not None:
        return problem
    try:
        app = parse_app_compose(app_compose)
        _init_scripts(case.log, app)
    except FormatError as error:
        return refused("compose_bound", error)
    case.app = app
    by = ["rtmr3"] if _is_zero(case.claims.measurements["mr_config_id"]) else ["rtmr3", "mr_config_id"]
    case.raw |= {"compose_bound_by": by, "public_logs": app.public_logs}
    case.raw["scripts"] = [msgspec.to_builtins(s) for s in app.scripts]
    case.raw["allowed_envs"] = [plain(name, SHOWN) for name in app.allowed_envs]
    return holds("compose_bound", f"{found[:16]}… by {' and '.join(by)}", "app_compose")


def _is_zero(register: str) -> bool:
    return not register.strip("0")


def _mr_config(case: Case, compose: str, document: bytes | None) -> Check | None:
    """None where MR_CONFIG_ID is all zero, which is legal, or commits to this compose hash; else what is wrong."""
    value = case.claims.measurements.get("mr_config_id")
    if value is None:
        return unknown("compose_bound", "no_registers")
    if _is_zero(value) or value == f"01{compose}{_REST}":
        return None
    if value.startswith("01"):
        return _mismatch(value, f"01{compose}")
    if value.startswith("03"):
        return unknown("compose_bound", "no_mr_config") if document is None else _v3(case, value, compose, document)
    return unknown("compose_bound", "mr_config_unsupported", f"version {value[:2]}", "00, 01 or 03")


def _v3(case: Case, value: str, compose: str, document: bytes) -> Check | None:
    """Version 3 commits to a document, and the document to the compose hash and, optionally, to more."""
    committed = f"03{hashlib.sha256(_MR_CONFIG_V3 + document).hexdigest()}{_REST}"
    if value != committed:
        return _mismatch(value, committed)
    try:
        stated = strict_json(document, max_bytes=64 * 1024)
    except FormatError as error:
        return refused("compose_bound", error)
    members = stated if isinstance(stated, dict) else {}
    if members.get("compose_hash") != compose:
        return fails("compose_bound", "mr_config_mismatch", "compose_hash of the mr_config document", compose[:16])
    for member in ("app_id", "instance_id", "gpu_policy_hash"):
        if members.get(member) and members[member] != case.raw.get(member):
            return fails("compose_bound", "mr_config_mismatch", f"{member} of the mr_config document")
    return None


def _mismatch(value: str, committed: str) -> Check:
    return fails("compose_bound", "mr_config_mismatch", f"{value[:18]}…", f"{committed[:18]}…", "MR_CONFIG_ID")


def _init_scripts(log: EventLog, app: AppCompose) -> None:
    """Guests that measure their init scripts one by one measure those of the document, in its order."""
    measured = [payload.hex() for payload in log.payloads("init-script-hash")]
    if measured and measured != [s.sha256 for s in app.scripts if s.member == "init_script"]:
        raise FormatError("the measured init scripts are not those of app-compose", reason="init_script_mismatch")


def compose_known(case: Case) -> Check:
    if case.app is None:
        return unknown("compose_known", "compose_not_bound")
    if not case.references.compose_hashes:
        return unknown("compose_known", "no_reference", f"{case.app.sha256[:16]}…")
    if case.app.sha256 not in case.references.compose_hashes:
        return fails("compose_known", "compose_unknown", f"{case.app.sha256[:16]}…")
    return holds("compose_known", f"{case.app.sha256[:16]}…")


def image_pinned(case: Case) -> Check:
    if case.app is None:
        return unknown("image_pinned", "compose_not_bound")
    if case.app.runner not in COMPOSE_RUNNERS or case.app.docker_compose is None:
        return unknown("image_pinned", "runner_unknown", plain(case.app.runner, 40))
    try:
        compose = read_compose(case.app.docker_compose)
    except FormatError as error:
        return refused("image_pinned", error)
    case.raw["images"] = [_image(i.service, i.reference, i.reason) for i in compose.images]
    case.raw["variables"] = list(compose.variables)
    return image_check(compose)


def image_check(compose: Compose) -> Check:
    """The check `image_pinned` for a compose file: affirming only when every image is one exact digest."""
    loose = [i for i in compose.images if not i.pinned]
    if compose.pinned:
        return holds("image_pinned", f"{len(compose.images)} by digest")
    if loose:
        found = f"{plain(loose[0].service, 24)}: {plain(loose[0].reference or '', 40)}"
        more = f" and {len(loose) - 1} more" if len(loose) > 1 else ""
        return fails("image_pinned", str(loose[0].reason), found + more, "name@sha256:…")
    return fails("image_pinned", "compose_unresolved", plain(", ".join(compose.unresolved) or "no service", SHOWN))


def _image(service: str, reference: str | None, reason: str | None) -> dict[str, Any]:
    shown = None if reference is None else plain(reference, 256)
    return {"service": plain(service, SHOWN), "image": shown, "pinned": reason is None, "reason": reason}


def scripts_known(case: Case, known: Check) -> Check:
    if case.app is None:
        return unknown("scripts_known", "compose_not_bound")
    loose = [s for s in case.app.scripts if s.sha256 not in case.references.scripts]
    if not case.app.scripts:
        return holds("scripts_known", "none")
    if not loose or known.outcome is Outcome.AFFIRMING:
        return holds("scripts_known", f"{len(case.app.scripts)} reviewed")
    found = ", ".join(f"{s.member} {s.sha256[:16]}…" for s in loose[:2])
    return warns("scripts_known", "script_unreviewed", found)


def envs_known(case: Case) -> Check:
    """Names are measured, values are not: the operator sets them after everything was measured."""
    if case.app is None:
        return unknown("envs_known", "compose_not_bound")
    loose = [name for name in case.app.allowed_envs if name not in case.references.envs]
    if loose:
        return warns("envs_known", "envs_unmeasured", plain(", ".join(loose), SHOWN))
    return holds("envs_known", f"{len(case.app.allowed_envs)} reviewed" if case.app.allowed_envs else "none")
