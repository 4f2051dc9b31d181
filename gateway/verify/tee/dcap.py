"""The second opinion on an Intel quote: dcap-qvl, asked the same question at the same time under the same root.

dcap-qvl refuses some quotes that are genuine, by rules that cannot be turned off: debug, profiling, SEPT_VE_DISABLE
off, migratable, a service TD or its extension, and TD attributes that it has no name for. It comes to these rules
after every signature, date and TCB level was checked, so such a refusal is still an opinion on all that. It counts as
one only where our own reading of the quote says that the rule applies; any other refusal contradicts us.
"""

from __future__ import annotations

from typing import Any

import dcap_qvl  # type: ignore[import-untyped]
import msgspec

from gateway.model.tee import TcbStatus
from gateway.text import plain

from .pcs import Collateral
from .quote import EnclaveReport, Quote, TdReport

VERSION = dcap_qvl.__version__
#: The root that is compiled into dcap-qvl.
BUILT_IN_ROOT = "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"


class Opinion(msgspec.Struct, frozen=True):
    """`status` and `advisories` when it accepts; `rule` when it refuses by one that we find to apply; else `no`."""

    status: TcbStatus | None = None
    advisories: frozenset[str] = frozenset()
    rule: str | None = None
    no: str | None = None

    @property
    def words(self) -> str:
        """The opinion in one line."""
        if self.status is not None:
            return self.status.value
        return f"refused by rule: {self.rule}" if self.rule else f"refused: {self.no}"


def opinion(quote: Quote, collateral: Collateral, root: bytes, root_sha256: str, now: float) -> Opinion:
    """What dcap-qvl says of `quote` at `now` under `root` (DER). Never raises for anything in quote or collateral."""
    try:
        report = _verify(quote.data, collateral, root, root_sha256, int(now))
        return Opinion(TcbStatus(report.status), frozenset(report.advisory_ids))
    except (ValueError, OverflowError) as error:
        return _refusal(str(error), quote.body)


def _verify(data: bytes, collateral: Collateral, root: bytes, root_sha256: str, now: int) -> Any:
    parts = collateral.members
    handed = dcap_qvl.QuoteCollateralV3(
        parts["pck_crl_issuer_chain"],
        collateral.root_crl.der,
        collateral.pck_crl.der,
        parts["tcb_info_issuer_chain"],
        parts["tcb_info"],
        collateral.tcb_info.signature,
        parts["qe_identity_issuer_chain"],
        parts["qe_identity"],
        collateral.qe_identity.signature,
    )
    if root_sha256 == BUILT_IN_ROOT:
        return dcap_qvl.verify(data, handed, now)
    return dcap_qvl.verify_with_root_ca(data, handed, root, now)


def _refusal(text: str, body: TdReport | EnclaveReport) -> Opinion:
    words = text.split("\n", 1)[0].removeprefix("Verification failed: ")
    if words in _rules(body):
        return Opinion(rule=words)
    return Opinion(no=plain(words, 80))


def _rules(body: TdReport | EnclaveReport) -> set[str]:
    """The words of the rules that apply to `body` by our own reading."""
    applies = {"Debug mode is enabled": body.debug}
    if isinstance(body, TdReport):
        applies["SEPT_VE_DISABLE is not enabled"] = not body.sept_ve_disable
        applies["Invalid MR service TD"] = body.service_td
        applies["TD profiling is enabled"] = body.profiling
        applies["SERVTD_EXT is enabled"] = body.service_td_ext
        applies["TD migration is enabled"] = body.migratable
        applies["Reserved bits in TD attributes are set"] = body.unnamed_attributes
    return {words for words, holds in applies.items() if holds}
