"""Appraisal of a dstack guest: from the registers of a genuine TDX quote to the containers that it runs.

Takes the claims of a quote whose signature, chain and TCB another verifier has already established, and adds what the
event log and the app-compose document can prove on top. What has to be shown, each as one check, in this order:

 1. rtmr_log       the event log holds together (`rtmr`), and the guest had finished starting
 2. rtmr_replay    replaying it gives the registers of the quote
 3. os_image       MRTD and RTMR0 to RTMR2 are those of a reviewed image; else a kernel that nobody knows wrote the rest
 4. compose_bound  SHA-256 of app-compose is the `compose-hash` event, and what MR_CONFIG_ID commits to when it is set
 5. compose_known  that hash is on the list of reviewed documents
 6. image_pinned   every image that it runs is named by digest (`compose`)
 7. scripts_known  every script that runs beside the containers is reviewed
 8. envs_known     every environment variable that the operator may set, unmeasured, is reviewed
 9. app_identity   app-id and instance-id are those expected
10. key_provider   the guest's keys come from a provider that is trusted with them
11. gpu_policy     the policy for GPUs was measured once, in its place, and is the one of app-compose

Each needs what stands above it: nothing is read from a log that does not replay, nor from a document that is not bound.
A check whose input or reference value is missing is `none` with the reason, never a pass. References are lists of
values that somebody reviewed; an empty list is not "anything goes" but "nothing to compare with".
See docs/verification.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gateway.crypto.canonical import strict_json
from gateway.errors import FormatError
from gateway.model.tee import Golden, Platform, TeeClaims, TeeResult
from gateway.model.verdict import Check, Outcome
from gateway.text import plain

from .dstack_case import Case, KeyProvider, OsImage, References, parse_references
from .dstack_compose import SHOWN, compose_bound, compose_known, envs_known, image_pinned, scripts_known
from .outcomes import fails, holds, refused, unknown
from .rtmr import EventLog, compare_registers, parse_event_log, replay
from .rules import STATED

__all__ = ["PLAN", "KeyProvider", "OsImage", "References", "appraise_dstack", "parse_references"]

PLAN = (
    "rtmr_log",
    "rtmr_replay",
    "os_image",
    "compose_bound",
    "compose_known",
    "image_pinned",
    "scripts_known",
    "envs_known",
    "app_identity",
    "key_provider",
    "gpu_policy",
)

#: How many event names the claims show.
MAX_SHOWN_EVENTS = 64
#: Names that only the system writes, and the length of their payloads in bytes; an instance may have no id.
LENGTHS: Mapping[str, tuple[int, ...]] = {
    "app-id": (20,),
    "compose-hash": (32,),
    "instance-id": (0, 20),
    "mr-kms": (32,),
    "os-image-hash": (32,),
    "gpu-policy-hash": (32,),
    "init-script-hash": (32,),
}


def appraise_dstack(
    claims: TeeClaims,
    event_log: bytes | None,
    app_compose: bytes | None,
    *,
    references: References = References(),  # noqa: B008  (frozen)
    mr_config: bytes | None = None,
    log_version: int = 1,
) -> TeeResult:
    """Appraise the guest behind `claims`, a record of `Platform.INTEL_TDX`.

    `event_log` is the report's `event_log` (its text, a JSON list or a JSON string), `app_compose` the verbatim text of
    `tcb_info.app_compose`, `mr_config` the document that MR_CONFIG_ID of version 3 commits to. Total: the result lists
    every check of `PLAN`, and the claims with what was proved under `raw["dstack"]`.
    """
    if not claims.authentic or claims.platform is not Platform.INTEL_TDX:
        reason = "platform_unsupported" if claims.authentic else "quote_not_authentic"
        return TeeResult(tuple(unknown(i, reason) for i in PLAN), claims)
    case = Case(claims, references)
    checks = [
        *_log_checks(case, event_log, log_version),
        _os_image(case),
        compose_bound(case, app_compose, mr_config),
        known := compose_known(case),
        image_pinned(case),
        scripts_known(case, known),
        envs_known(case),
        _app_identity(case),
        _key_provider(case),
        _gpu_policy(case),
    ]
    found = msgspec.structs.replace(
        claims,
        raw={**claims.raw, "dstack": case.raw},
        measurements={**claims.measurements, **_measured(case.log)},
        golden=claims.golden + case.golden,
    )
    return TeeResult(tuple(checks), found)


def _measured(log: EventLog | None) -> Mapping[str, str]:
    """What the guest's own system measured by name, before any application ran; nothing of a log that is not bound."""
    payloads = {name: log.payload(name.replace("_", "-")) for name in sorted(STATED)} if log else {}
    return {name: payload.hex() for name, payload in payloads.items() if payload is not None}


# 1, 2


def _log_checks(case: Case, event_log: bytes | None, version: int) -> tuple[Check, Check]:
    if event_log is None:
        return unknown("rtmr_log", "no_event_log"), unknown("rtmr_replay", "no_event_log")
    try:
        log = parse_event_log(event_log, version=version)
        _payload_lengths(log)
    except FormatError as error:
        return refused("rtmr_log", error), unknown("rtmr_replay", "log_not_read")
    if not log.ready:  # nothing separates the system's events from an application's
        check = fails("rtmr_log", "system_not_ready", f"{len(log.system)} events", "system-ready")
        return check, unknown("rtmr_replay", "log_not_read")
    found = f"{len(log.events)} entries, {len(log.system)} of the system, {len(log.application)} after system-ready"
    replayed = compare_registers(case.claims.measurements, replay(log), log.registers_named())
    if replayed.outcome in (Outcome.AFFIRMING, Outcome.WARNING):
        case.log = log
        _record_log(case, log)
    return holds("rtmr_log", found), replayed


def _payload_lengths(log: EventLog) -> None:
    for event in log.system:
        lengths = LENGTHS.get(event.name)
        if lengths is not None and len(event.payload) not in lengths:
            raise FormatError(
                f"the event {event.name} has {len(event.payload)} bytes, not {lengths[-1]}", reason="event_payload"
            )


def _record_log(case: Case, log: EventLog) -> None:
    case.raw["events"] = [plain(e.name, SHOWN) for e in log.system[:MAX_SHOWN_EVENTS]]
    case.raw["application_events"] = len(log.application)
    case.raw["digests_computed"] = log.computed
    for name in ("app-id", "instance-id", "compose-hash", "mr-kms", "os-image-hash", "gpu-policy-hash"):
        payload = log.payload(name)
        if payload is not None:
            case.raw[name.replace("-", "_")] = payload.hex()


# 3


def _os_image(case: Case) -> Check:
    if case.claims.debug is not False:  # the host of a debug TD may write its memory, whatever was measured
        if case.claims.debug is None:
            return unknown("os_image", "debug_unknown")
        return fails("os_image", "td_debug", "TD attribute DEBUG")
    stated = case.log.payload("os-image-hash") if case.log else None
    claimed = f"it calls itself {stated.hex()[:16]}…, which proves nothing" if stated else None
    measured = {name: case.claims.measurements.get(name) for name in ("mr_td", "rtmr0", "rtmr1", "rtmr2")}
    if None in measured.values():
        return unknown("os_image", "no_registers")
    if not case.references.os_images:
        return unknown("os_image", "no_reference", claimed)
    image = next((i for i in case.references.os_images if _is_image(i, measured)), None)
    if image is None:
        return fails("os_image", "os_image_unknown", claimed or f"MRTD {str(measured['mr_td'])[:16]}…")
    case.raw["os_image"] = image.name
    case.golden = (Golden("dstack-os-image", 4),)
    if stated is not None and image.image_hash is not None and stated.hex() != image.image_hash:
        return fails("os_image", "os_image_misstated", f"{stated.hex()[:16]}…", f"{image.image_hash[:16]}…")
    if image.development:
        return fails("os_image", "os_image_development", plain(image.name, SHOWN))
    return holds("os_image", plain(image.name, SHOWN), over="MRTD, RTMR0 to RTMR2")


def _is_image(image: OsImage, measured: Mapping[str, str | None]) -> bool:
    return (image.mrtd, image.rtmr0, image.rtmr1, image.rtmr2) == tuple(measured.values())


# 9, 10, 11


def _app_identity(case: Case) -> Check:
    if case.log is None:
        return unknown("app_identity", "log_not_bound")
    app = case.raw.get("app_id")
    if app is None:
        return fails("app_identity", "app_event_missing", "no event app-id")
    wanted = {"app_id": case.references.app_ids, "instance_id": case.references.instance_ids}
    if not any(wanted.values()):
        return unknown("app_identity", "no_reference", f"app-id {app}")
    for name, allowed in wanted.items():
        if allowed and case.raw.get(name) not in allowed:
            return fails("app_identity", "app_unknown", f"{name} {case.raw.get(name)}")
    return holds("app_identity", f"app-id {app}")


def _key_provider(case: Case) -> Check:
    if case.log is None:
        return unknown("key_provider", "log_not_bound")
    payload = case.log.payload("key-provider")
    if payload is None:
        return fails("key_provider", "key_provider_missing", "no event key-provider")
    try:
        provider = _read_provider(payload)
    except FormatError as error:
        return refused("key_provider", error)
    case.raw["key_provider"] = msgspec.to_builtins(provider)
    found = f"{plain(provider.name, 16)} {provider.id[-16:]}".rstrip()
    if not case.references.key_providers:
        return unknown("key_provider", "no_reference", found)
    if provider not in case.references.key_providers:
        return fails("key_provider", "key_provider_unknown", found)
    return holds("key_provider", found)


def _read_provider(payload: bytes) -> KeyProvider:
    value = strict_json(payload, max_bytes=4096)
    try:
        provider = msgspec.convert(value, KeyProvider)
    except msgspec.ValidationError:
        raise FormatError("the event key-provider is not an object with a name and an id") from None
    return KeyProvider(plain(provider.name, SHOWN), plain(provider.id, 1024))


def _gpu_policy(case: Case) -> Check:
    """Exactly one, directly after `compose-hash` and the init scripts: later, other things could have come before."""
    if case.log is None:
        return unknown("gpu_policy", "log_not_bound")
    names = [e.name for e in case.log.system if e.name != "init-script-hash"]
    if "gpu-policy-hash" not in names:
        return unknown("gpu_policy", "no_gpu_policy")
    at = names.index("gpu-policy-hash")
    if names[:at][-1:] != ["compose-hash"]:
        return fails("gpu_policy", "gpu_policy_position", "gpu-policy-hash", "directly after compose-hash")
    if case.app is None:
        return unknown("gpu_policy", "compose_not_bound")
    if case.raw["gpu_policy_hash"] != case.app.gpu_policy:
        found, expected = f"{case.raw['gpu_policy_hash'][:16]}…", f"{case.app.gpu_policy[:16]}…"
        return fails("gpu_policy", "gpu_policy_mismatch", found, expected, "requirements.gpu_policy")
    return holds("gpu_policy", f"{case.app.gpu_policy[:16]}…")
