"""Where endorsements come from: Intel's, AMD's and NVIDIA's services over HTTPS, and a folder that the operator filled.

Each source has one method, `bring(part)`: the bytes of one part by role, unjudged. `Unavailable` says that they cannot
be had, `FormatError` that what came is not of its form. The service beside it (`collateral`) judges.

    Intel PCS version 4   {intel_url}/{tdx|sgx}/certification/v4/tcb?fmspc=…        TCB-Info-Issuer-Chain
                          {intel_url}/{tdx|sgx}/certification/v4/qe/identity        SGX-Enclave-Identity-Issuer-Chain
                          {intel_url}/sgx/certification/v4/pckcrl?ca=…&encoding=der SGX-PCK-CRL-Issuer-Chain
                          {intel_crl_url}                                           the root's list
    AMD KDS               {amd_url}/{vcek|vlek}/v1/{product}/cert_chain, …/crl, /vcek/v1/{product}/{chip}?blSPL=…
    NVIDIA                {nvidia_rim_url}/v1/rim/{id}; POST {nvidia_ocsp_url} (RFC 6960 appendix A);
                          {nvidia_nras_url}/.well-known/jwks.json

    {supplied}/intel/<tdx|sgx>-<fmspc>-<platform|processor>.json     QuoteCollateralV3
    {supplied}/amd/<product>/ark.der  ask.der  vcek.crl              VCEK: chain and list
    {supplied}/amd/<product>/ark.der  asvk.der vlek.crl              VLEK: chain and list
    {supplied}/amd/<product>/vcek-<chip>-<tcb>.der                   <tcb>: bl4-tee0-snp24-ucode219, Turin fmc1-bl4-…
    {supplied}/amd/<product>/vlek-<tcb>.der
    {supplied}/nvidia/<id>.xml  nvidia/ocsp-<sha256 of the certificate>.der  nvidia/jwks.json

All that comes is signed by the vendor, so TLS (the web's rules) protects availability and what is asked for, no more;
but for NVIDIA's key set, which is signed by nobody, and which no verifier believes without a ground of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import httpx

from gateway.upstream.transport import reason_of
from gateway.verify.tee.needs import AmdChain, AmdKey, IntelNeed, NrasKeys, OcspNeed, Part, RimNeed
from gateway.verify.tee.vendor_answers import PcsAnswers, amd_chain_of, envelope_of, manifest_of, ocsp_request

Blobs = Mapping[str, bytes]
#: The largest file of the operator's that is read.
MAX_FILE_BYTES = 524_288


class Unavailable(Exception):
    """A part could not be had. The message is short and ours."""


class Source(Protocol):
    """One place that parts come from."""

    name: str

    async def bring(self, part: Part) -> Blobs:
        """The part's bytes by role. Raises `Unavailable` or `FormatError`."""

    async def close(self) -> None:
        """Let go of what is held open."""


class VendorServices:
    """The vendors' own services, or mirrors of the same shape at the URLs of the settings."""

    name = "service"

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        intel_url: str,
        intel_crl_url: str,
        amd_url: str,
        nvidia_rim_url: str,
        nvidia_ocsp_url: str,
        nvidia_nras_url: str,
    ) -> None:
        """URLs that the settings let be: https, or http to this machine, without query."""
        self._client = client
        self._rim, self._ocsp = nvidia_rim_url.rstrip("/"), nvidia_ocsp_url
        self._nras = nvidia_nras_url.rstrip("/")
        self._intel, self._intel_crl, self._amd = intel_url.rstrip("/"), intel_crl_url, amd_url.rstrip("/")

    async def bring(self, part: Part) -> Blobs:
        """The part's bytes by role. Raises `Unavailable` or `FormatError`."""
        if isinstance(part, IntelNeed):
            return {"collateral": await self._collateral(part)}
        if isinstance(part, AmdChain):
            return await self._chain(part)
        if isinstance(part, AmdKey):
            return {"ek": await self._key(part)}
        if isinstance(part, RimNeed):
            return {part.role: manifest_of((await self._get(f"{self._rim}/v1/rim/{part.id}")).content)}
        if isinstance(part, OcspNeed):
            return {part.role: await self._answer(part)}
        return {part.role: (await self._get(f"{self._nras}/.well-known/jwks.json")).content}

    async def close(self) -> None:
        """Let go of the client."""
        await self._client.aclose()

    async def _collateral(self, need: IntelNeed) -> bytes:
        base = f"{self._intel}/{need.tee}/certification/v4"
        # One after the other: four requests a day are no reason to open four connections.
        info = await self._get(f"{base}/tcb?fmspc={need.fmspc.upper()}")
        identity = await self._get(f"{base}/qe/identity")
        pck = await self._get(f"{self._intel}/sgx/certification/v4/pckcrl?ca={need.ca}&encoding=der")
        root = await self._get(self._intel_crl)
        return envelope_of(
            PcsAnswers(
                tcb=info.content,
                tcb_chain=info.headers.get("tcb-info-issuer-chain", ""),
                qe=identity.content,
                qe_chain=identity.headers.get("sgx-enclave-identity-issuer-chain", ""),
                pck_crl=pck.content,
                pck_crl_chain=pck.headers.get("sgx-pck-crl-issuer-chain", ""),
                root_crl=root.content,
            )
        )

    async def _chain(self, part: AmdChain) -> Blobs:
        base = f"{self._amd}/{part.role}/v1/{part.product}"
        ask, ark = amd_chain_of((await self._get(f"{base}/cert_chain")).content)
        return {"ask": ask, "root:ark": ark, "crl": (await self._get(f"{base}/crl")).content}

    async def _key(self, part: AmdKey) -> bytes:
        if part.role == "vlek":
            raise Unavailable("AMD gives VLEK certificates to the cloud that owns them and to nobody else")
        levels = "&".join(f"{name}SPL={level:02d}" for name, level in part.tcb)
        return (await self._get(f"{self._amd}/vcek/v1/{part.product}/{part.chip}?{levels}")).content

    async def _answer(self, need: OcspNeed) -> bytes:
        headers = {"content-type": "application/ocsp-request", "accept": "application/ocsp-response"}
        return (await self._send("POST", self._ocsp, headers, ocsp_request(need))).content

    async def _get(self, url: str) -> httpx.Response:
        return await self._send("GET", url)

    async def _send(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> httpx.Response:
        try:
            response = await self._client.request(method, url, headers=headers, content=content)
        except httpx.HTTPError as error:
            raise Unavailable(reason_of(error)) from None
        if response.status_code != 200:
            raise Unavailable(f"status {response.status_code}")
        return response


#: Manifests of accelerators that are read: one driver and one firmware for each of the kinds that a fleet has.
MAX_MANIFESTS = 64


class SuppliedFolder:
    """Endorsements that the operator put into a folder, for a gateway that reaches no vendor."""

    name = "folder"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def bring(self, part: Part) -> Blobs:
        """The part's bytes by role. Raises `Unavailable` when one of its files is not there."""
        return await asyncio.to_thread(self._read, part)

    async def close(self) -> None:
        """Nothing is held open."""

    def manifests(self) -> Blobs:
        """The reference manifests of accelerators, `nvidia/<NVIDIA's name>.xml`, as `rim:<name>`; none is no error.

        Reads files. What cannot be read is passed over: the report is then held to fewer reference values, and says so.
        """
        found: dict[str, bytes] = {}
        for path in sorted((self.folder / "nvidia").glob("*.xml"))[:MAX_MANIFESTS]:
            with contextlib.suppress(Unavailable):
                found[f"rim:{path.stem}"] = _read_file(path)
        return found

    def _read(self, part: Part) -> Blobs:
        return {role: _read_file(self.folder / file) for role, file in files_of(part).items()}


def files_of(part: Part) -> dict[str, str]:
    """Role -> path below the folder."""
    if isinstance(part, IntelNeed):
        return {"collateral": f"intel/{part.tee}-{part.fmspc}-{part.ca}.json"}
    if isinstance(part, RimNeed):
        return {part.role: f"nvidia/{part.id}.xml"}
    if isinstance(part, OcspNeed):
        return {part.role: f"nvidia/ocsp-{part.digest}.der"}
    if isinstance(part, NrasKeys):
        return {part.role: "nvidia/jwks.json"}
    below = f"amd/{part.product}/"
    if isinstance(part, AmdChain):
        ask = "ask.der" if part.role == "vcek" else "asvk.der"
        return {"ask": below + ask, "root:ark": below + "ark.der", "crl": f"{below}{part.role}.crl"}
    return {"ek": below + part.name.removeprefix(f"amd-{part.product}-") + ".der"}


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Unavailable(f"{path.name}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise Unavailable(f"{path.name}: more than {MAX_FILE_BYTES} bytes")
    return data
