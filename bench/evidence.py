"""Genuine evidence of every family for `bench/verify.py`: the test suite's own, under test roots, and real vectors.

Each function of `SYNTHETIC` makes the call to time, whose answer says whether the evidence was authentic. `real(kind)`
is the same for the first genuine case of a folder of vectors, or None where there is no such folder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from tee_worlds import amd, azure, cca, dstack, intel, nitro, nvidia, sigstore, tokens

from gateway.verify.tee import rtmr
from gateway.verify.tee.cases import Case, Manifest, parse_manifest
from gateway.verify.tee.cca import verify_cca
from gateway.verify.tee.gcs import verify_gcs
from gateway.verify.tee.intel import verify_intel
from gateway.verify.tee.kinds import kind_of
from gateway.verify.tee.maa import verify_maa
from gateway.verify.tee.nitro import verify_nitro
from gateway.verify.tee.nras import verify_nras
from gateway.verify.tee.nvidia_gpu import verify_spdm
from gateway.verify.tee.roots import Anchor, TrustRoots

Call = Callable[[], object]
VECTORS = Path(__file__).resolve().parents[2] / "shared/vectors/tee"


def tdx() -> Call:
    world = intel.World()
    quote, collateral = world.quote(report_data=b"bench"), world.collateral()
    return lambda: verify_intel(quote, collateral, roots=world.roots, now=world.now).claims.authentic


def sgx() -> Call:
    world = intel.World()
    quote, collateral = world.sgx_quote(), world.collateral(sgx=True)
    return lambda: verify_intel(quote, collateral, roots=world.roots, now=world.now).claims.authentic


def snp() -> Call:
    world = amd.World("Genoa")
    report = world.report()
    return lambda: world.verify(report).claims.authentic


def nitro_document() -> Call:
    world = nitro.World()
    document = world.document(nonce=b"nonce", public_key=b"k" * 32, user_data=b"u" * 68)
    return lambda: verify_nitro(document, roots=world.roots, now=world.now, max_age_s=300).claims.authentic


def spdm(*, rim: bool = False) -> Call:
    report, chain, roots = nvidia.report(), nvidia.pem_of(nvidia.device_chain()), nvidia.roots()
    rims = [nvidia.signed(nvidia.manifest())] if rim else []
    return lambda: (
        verify_spdm(report, chain, nonce=nvidia.NONCE, rims=rims, roots=roots, now=nvidia.NOW).claims.authentic
    )


def nras() -> Call:
    bundle, jwks, roots = tokens.bundle(), tokens.nras_key_set(), tokens.nras_roots()
    return lambda: verify_nras(bundle, jwks, roots=roots, now=tokens.NOW).claims.authentic


def gcs() -> Call:
    token, roots = tokens.gcs_token(), tokens.gcs_roots()
    return lambda: verify_gcs(token, roots=roots, now=tokens.NOW, audience=tokens.AUDIENCE).claims.authentic


def maa() -> Call:
    token, jwks = tokens.maa_token(), tokens.maa_key_set()
    roots = tokens.pinned_set("maa", jwks)
    return lambda: verify_maa(token, jwks, roots=roots, now=tokens.NOW, issuer=tokens.PROVIDER).claims.authentic


def azure_vtpm() -> Call:
    world = azure.AzureWorld()
    evidence = world.evidence()
    return lambda: world.verify(evidence).claims.authentic


def arm_cca() -> Call:
    world = cca.World()
    token = world.token()
    return lambda: verify_cca(token, world.platform_key_sec1, roots=world.roots, now=world.now).claims.authentic


def replay() -> Call:
    log = dstack.Guest().log.json()
    return lambda: rtmr.replay(rtmr.parse_event_log(log))


def guest() -> Call:
    made = dstack.Guest()
    return lambda: dstack.holds(made.appraise())


def sigstore_bundle() -> Call:
    bundle, root = sigstore.genuine()
    return lambda: sigstore.verify(bundle, root).claims.authentic


def real(kind_name: str) -> Callable[[], Call | None]:
    """The first genuine case of that kind of vectors, at its own time; None where the vectors are not."""

    def make() -> Call | None:
        folder = VECTORS / kind_name
        if not folder.is_dir():
            return None
        manifest = parse_manifest((folder / "manifest.json").read_bytes())
        case = next(case for case in manifest.cases if case.expected.authentic and not case.mutations)
        kind, blobs = kind_of(manifest.kind), _blobs(folder, manifest, case)
        trusted = [(name, blob) for name, blob in blobs.items() if name.startswith("root:") or name == "jwks"]
        roots = TrustRoots(
            tuple(Anchor(v, name, hashlib.sha256(blob).hexdigest()) for v in kind.vendors for name, blob in trusted)
        )
        return lambda: kind.verify(blobs, case.params, roots, case.evaluation_time).claims.authentic

    return make


def _blobs(folder: Path, manifest: Manifest, case: Case) -> dict[str, bytes]:
    named = {**case.inputs, **{f"root:{name}": path for name, path in manifest.roots.items()}}
    return {role: (folder / path).read_bytes() for role, path in named.items()}
