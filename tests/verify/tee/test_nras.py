"""NRAS bundles: whose key, for which devices, found how."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tee_worlds import tokens as w
from tee_worlds.nvidia import NOW, anchor, certificate, der_of, key_of, name_of

from gateway.errors import FormatError
from gateway.model.tee import FreshnessClass, Platform, TeeResult
from gateway.model.verdict import Outcome
from gateway.verify.tee import nras
from gateway.verify.tee.roots import TrustRoots


def verify(bundle: bytes, jwks: bytes | None = None, **more: Any) -> TeeResult:
    given = {"roots": w.nras_roots(), "now": NOW, "nonce": w.NONCE} | more
    return nras.verify_nras(bundle, w.nras_key_set() if jwks is None else jwks, **given)


def test_a_genuine_bundle() -> None:
    """Every check of the plan holds, in its order, and the devices become children."""
    result = verify(w.bundle())
    assert [(check.id, check.outcome) for check in result.checks] == [(i, Outcome.AFFIRMING) for i in nras.PLAN]
    claims = result.claims
    assert (claims.authentic, claims.evidence_format, claims.product) == (True, "nras-eat-v3", "GH100")
    assert (claims.debug, claims.nonce, claims.freshness.kind) == (False, w.NONCE, FreshnessClass.CHALLENGE)
    assert claims.machine_id_kind == claims.children[0].machine_id_kind == "ueid"
    assert claims.root is not None
    assert claims.root.test


@pytest.mark.parametrize(
    ("version", "form"), [("2.0", "nras-eat-v2"), ("", "nras-eat"), (3, "nras-eat"), ("\u0663.0", "nras-eat")]
)
def test_the_version_of_the_claims(version: Any, form: str) -> None:
    """A version that is none is not shown."""
    assert verify(w.bundle(**{"x-nvidia-ver": version})).claims.evidence_format == form


def test_the_signing_key_and_its_chain_are_archived() -> None:
    """The JWK with its x5c is in raw: two days later nobody else has it."""
    raw = verify(w.bundle()).claims.raw
    assert raw["signing_jwk"]["kid"] == w.KID
    assert len(raw["signing_jwk"]["x5c"]) == 2


def test_a_bundle_that_nobody_asked_for() -> None:
    """Without a nonce of ours the check is none and the bundle is dated, not fresh."""
    result = verify(w.bundle(), nonce=None)
    check = next(c for c in result.checks if c.id == "tee_nonce")
    assert (check.outcome, check.reason) == (Outcome.NONE, "nonce_not_given")
    assert result.claims.authentic
    assert result.claims.freshness.kind is FreshnessClass.DATED


def test_switches_and_nameless_devices() -> None:
    """A switch is a switch; a device without model or ueid has neither product nor machine id."""
    devices = {"SWITCH-0": w.device_claims(hwmodel=3, ueid=None), "GPU-1": w.device_claims(ueid="2")}
    claims = verify(w.bundle(devices)).claims
    assert [child.platform for child in claims.children] == [Platform.NVIDIA_SWITCH, Platform.NVIDIA_GPU]
    assert (claims.children[0].product, claims.children[0].machine_id) == (None, None)
    assert claims.machine_id is None


NAN_BUNDLE = b'[["JWT", NaN], {}]'
PLAIN = json.loads(w.bundle())


@pytest.mark.parametrize(
    ("reason", "bundle", "more"),
    [
        ("malformed", NAN_BUNDLE, {}),
        ("nras_bad_bundle", b"{}", {}),
        ("nras_bad_bundle", b"[[]]", {}),
        ("nras_bad_bundle", json.dumps([["JWS", "x"], {"GPU-0": "x"}]).encode(), {}),
        ("nras_bad_bundle", json.dumps([["JWT", 1], {"GPU-0": "x"}]).encode(), {}),
        ("nras_bad_bundle", json.dumps([PLAIN[0], {}]).encode(), {}),
        ("nras_bad_bundle", json.dumps([PLAIN[0], []]).encode(), {}),
        ("nras_bad_bundle", json.dumps([PLAIN[0], {"GPU-0": 1}]).encode(), {}),
        ("nras_bad_bundle", json.dumps([PLAIN[0], {"": "x"}]).encode(), {}),
        ("nras_bad_bundle", json.dumps([PLAIN[0], {f"GPU-{i}": "x" for i in range(65)}]).encode(), {}),
        ("jwt_unknown_kid", w.bundle(kid="other"), {}),
        ("jwt_bad_signature", w.bundle(key=key_of("somebody")), {}),
        ("jwt_bad_iss", w.bundle(iss="https://nras.attestation-stg.nvidia.com"), {}),
        ("jwt_expired", w.bundle(), {"now": NOW + 4000}),
        ("jwt_not_yet_valid", w.bundle(nbf=int(NOW) + 600), {}),
        ("jwt_from_future", w.bundle(iat=int(NOW) + 600), {}),
        ("jwt_too_old", w.bundle(), {"now": NOW + 300, "max_age": 100}),
        ("nonce_mismatch", w.bundle(), {"nonce": "00" * 32}),
        ("nonce_mismatch", w.bundle(eat_nonce=...), {"nonce": None}),
        ("nras_overall_false", w.bundle(**{"x-nvidia-overall-att-result": False}), {}),
        ("nras_overall_false", w.bundle(**{"x-nvidia-overall-att-result": "true"}), {}),
        ("nras_submods_mismatch", w.bundle(submods=[]), {}),
        ("nras_submods_mismatch", w.bundle(submods={}), {}),
        ("nras_digest_mismatch", w.bundle(submods={"GPU-0": ["DIGEST", ["SHA-256", "00" * 32]]}), {}),
        ("nras_digest_mismatch", w.bundle(submods={"GPU-0": 1}), {}),
        ("jwt_unknown_kid", w.bundle(device_header={"alg": "ES384", "kid": "other"}), {}),
        ("jwt_bad_signature", w.bundle(device_key=key_of("somebody")), {}),
        ("jwt_bad_iss", w.bundle({"GPU-0": w.device_claims(iss="x")}), {}),
        ("jwt_expired", w.bundle({"GPU-0": w.device_claims(**w.times(NOW - 9000))}), {}),
        ("nras_submod_nonce", w.bundle({"GPU-0": w.device_claims(eat_nonce="00")}), {}),
        ("nras_measres", w.bundle({"GPU-0": w.device_claims(measres="fail")}), {}),
        ("nras_debug_or_no_secboot", w.bundle({"GPU-0": w.device_claims(dbgstat="enabled")}), {}),
        ("nras_debug_or_no_secboot", w.bundle({"GPU-0": w.device_claims(secboot=False)}), {}),
        ("nras_finding_false", w.bundle({"GPU-0": w.device_claims(**{"x-nvidia-gpu-arch-check": False})}), {}),
        (
            "nras_cert_status",
            w.bundle(
                {
                    "GPU-0": w.device_claims(
                        **{
                            "x-nvidia-gpu-driver-rim-cert-chain": {
                                "x-nvidia-cert-status": "valid",
                                "x-nvidia-cert-ocsp-status": "revoked",
                            }
                        }
                    )
                }
            ),
            {},
        ),
    ],
)
def test_what_is_refused(reason: str, bundle: bytes, more: dict[str, Any]) -> None:
    """Each fault alone is found, under its own code."""
    claims = verify(bundle, **more).claims
    assert (claims.authentic, claims.reject_code) == (False, reason)


# ------------------------------------------------------------------ the mistakes of public verifiers, by name
@pytest.mark.parametrize("alg", ["none", "HS256", "ES256"])
def test_pitfall_the_header_chooses_the_algorithm(alg: str) -> None:
    """A token that names another algorithm than the pinned one is refused before any key is looked for."""
    key = object() if alg == "none" else key_of("nras signer")
    assert verify(w.bundle(alg=alg, key=key)).claims.reject_code == "jwt_bad_alg"


def test_pitfall_the_staging_service_is_taken_for_the_service() -> None:
    """NVIDIA's staging service signs with keys of the same make; only `iss` tells."""
    staging = "https://nras.attestation-stg.nvidia.com"
    bundle = w.bundle({"GPU-0": w.device_claims(iss=staging)}, iss=staging)
    assert verify(bundle).claims.reject_code == "jwt_bad_iss"
    assert verify(bundle, issuer=staging).claims.authentic


def test_pitfall_a_dropped_gpu_goes_unnoticed() -> None:
    """Two devices named, one given: refused, and so is one more than named."""
    two = {"GPU-0": w.device_claims(), "GPU-1": w.device_claims(ueid="2")}
    assert verify(w.bundle(two)).claims.authentic
    assert verify(w.bundle(two, drop="GPU-1")).claims.reject_code == "nras_submods_mismatch"
    more = json.loads(w.bundle())
    more[1]["GPU-1"] = more[1]["GPU-0"]
    assert verify(json.dumps(more).encode()).claims.reject_code == "nras_submods_mismatch"


def test_pitfall_one_gpu_is_counted_twice() -> None:
    """The same ueid under two names is one device, whatever the service says."""
    twice = {"GPU-0": w.device_claims(), "GPU-1": w.device_claims()}
    assert verify(w.bundle(twice)).claims.reject_code == "nras_duplicate_device"


def test_pitfall_the_token_is_decoded_and_not_verified() -> None:
    """One changed character of the overall token's claims and the signature no longer holds."""
    document = json.loads(w.bundle())
    header, claims, signature = document[0][1].split(".")
    edited = w.b64url(w.base64.urlsafe_b64decode(claims + "==").replace(b"GPU-0", b"GPU-1"))
    document[0][1] = f"{header}.{edited}.{signature}"
    assert verify(json.dumps(document).encode()).claims.reject_code == "jwt_bad_signature"


# ------------------------------------------------------------------ the ground of a key
def test_pitfall_a_key_set_is_trusted_without_a_chain() -> None:
    """A key without x5c is refused unless its set is pinned; then the root says which set."""
    bare = w.nras_key_set(())
    assert verify(w.bundle(), bare).claims.reject_code == "jwk_without_chain"
    claims = verify(w.bundle(), bare, roots=w.pinned_set("nvidia_nras", bare)).claims
    assert claims.authentic
    assert claims.root is not None
    assert (claims.root.name, claims.signer_chain, claims.collateral.expires) == ("pinned key set", (), None)


def test_an_unpinned_chain_is_refused_and_a_pinned_set_with_a_chain_is_believed() -> None:
    """The chain of a pinned set must still hold, and its root is the set."""
    jwks = w.nras_key_set()
    assert verify(w.bundle(), roots=TrustRoots()).claims.reject_code == "chain_untrusted_root"
    pinned = verify(w.bundle(), jwks, roots=w.pinned_set("nvidia_nras", jwks)).claims
    assert pinned.root is not None
    assert (pinned.authentic, pinned.root.name, len(pinned.signer_chain)) == (True, "pinned key set", 2)


@pytest.mark.parametrize(
    ("place", "sent", "extra", "length"),
    [(1, 2, (), 2), (2, 3, (), 3), (2, 2, (2,), 3), (0, 2, (), 1)],
    ids=["intermediate", "root sent", "root beside", "leaf"],
)
def test_where_the_chain_may_be_pinned(place: int, sent: int, extra: tuple[int, ...], length: int) -> None:
    """At any certificate of it, or at a root that lies beside the evidence; it is held up to there."""
    jwks = w.nras_key_set(w.nras_chain()[:sent])
    given = tuple(der_of(w.nras_chain()[i]) for i in extra)
    claims = verify(w.bundle(), jwks, roots=w.nras_roots(place=place), extra_roots=given).claims
    assert claims.authentic
    assert len(claims.signer_chain) == length


def test_roots_beside_the_evidence_are_not_believed_for_being_there() -> None:
    """A root that is not pinned, or that issued nothing of the chain, changes nothing."""
    other = certificate(name_of("other"), key_of("other"), name_of("other"), key_of("other"), ca=True)
    root = der_of(w.nras_chain()[2])
    pinned_other = TrustRoots((anchor("nvidia_nras", other),))
    assert verify(w.bundle(), roots=TrustRoots(), extra_roots=(root,)).claims.reject_code == "chain_untrusted_root"
    assert (
        verify(w.bundle(), roots=pinned_other, extra_roots=(der_of(other),)).claims.reject_code
        == "chain_untrusted_root"
    )


@pytest.mark.parametrize(
    ("reason", "chain"),
    [
        ("nras_foreign_signer", w.nras_chain(organisation="Somebody")[:2]),
        ("cert_expired_or_not_yet_valid", w.nras_chain(until=NOW - 1)[:2]),
        ("jwk_x5c_mismatch", w.nras_chain(leaf="another leaf")[:2]),
        ("chain_broken", (w.nras_chain()[0], w.nras_chain()[2], w.nras_chain()[1])),
        ("jwk_bad_x5c", ()),
    ],
)
def test_chains_that_do_not_hold(reason: str, chain: tuple[Any, ...]) -> None:
    """The leaf must be the key's, NVIDIA's, in date, and issued by the next."""
    jwks = w.nras_key_set(chain) if chain else w.nras_key_set((), x5c=["AA=="])
    assert verify(w.bundle(), jwks).claims.reject_code == reason


def test_an_issuer_that_is_no_ca() -> None:
    """A leaf may not issue another leaf."""
    chain = w.nras_chain(ca=False)
    roots = TrustRoots((anchor("nvidia_nras", chain[2]),))
    assert verify(w.bundle(), w.nras_key_set(chain), roots=roots).claims.reject_code == "issuer_not_ca"


def test_a_key_set_given_with_the_evidence_is_believed_only_when_it_is_named() -> None:
    """A set that comes with the evidence vouches for nothing; the same set among the roots does."""
    bare = w.nras_key_set(())
    blobs = {"bundle": w.bundle(), "jwks": bare}
    params = {"nonce": w.NONCE}
    assert nras.from_inputs(blobs, params, w.pinned_set("nvidia_nras", bare), NOW).claims.authentic
    assert not nras.from_inputs(blobs, params, TrustRoots(), NOW).claims.authentic
    for role in blobs:
        with pytest.raises(FormatError) as refused:
            nras.from_inputs({k: v for k, v in blobs.items() if k != role}, {}, TrustRoots(), NOW)
        assert refused.value.reason == "input_missing"


def test_from_inputs_prefers_a_ground_of_its_own() -> None:
    """With the intermediate pinned for real, the root is that and no test."""
    real = TrustRoots(tuple(type(a)(a.vendor, a.name, a.sha256) for a in w.nras_roots().anchors))
    claims = nras.from_inputs({"bundle": w.bundle(), "jwks": w.nras_key_set()}, {}, real, NOW).claims
    assert claims.root is not None
    assert not claims.root.test
