"""Collateral services over stand-ins for the vendors, with a clock that the test moves."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tee_worlds.vendors import Vendors

from gateway.adapter import Alarm
from gateway.fleet.collateral import CollateralService, open_collateral
from gateway.settings import Settings, load
from gateway.upstream.pool import UpstreamPool
from gateway.verify.tee.roots import TrustRoots


class CollateralBench:
    """`service` stands for the vendors; what is kept lies in `folder`; `addresses` are settings that name them."""

    def __init__(
        self, service: Vendors, folder: Path, roots: TrustRoots, now: float, addresses: dict[str, str]
    ) -> None:
        self.vendors, self.folder, self.roots, self.now = service, folder, roots, now
        self._addresses = addresses
        self.pools: list[UpstreamPool] = []
        self.services: list[CollateralService] = []
        self.alarms: list[Alarm] = []

    def settings(self, **changes: Any) -> Settings:
        table = {"directory": str(self.folder / "kept"), "timeout_s": 2.0, **self._addresses, **changes}
        return load("[collateral]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items()))

    def open(self, **changes: Any) -> CollateralService:
        pool = UpstreamPool()
        self.pools.append(pool)
        settings = self.settings(**changes)
        made = open_collateral(settings, pool, roots=self.roots, now=lambda: self.now, alarm=self.alarms.append)
        self.services.append(made)
        return made

    async def close(self) -> None:
        for service in self.services:
            await service.close()
        for pool in self.pools:
            await pool.close()


async def settled(service: CollateralService) -> None:
    """Wait for the flights under way."""
    while service._flights:
        await asyncio.sleep(0.005)
