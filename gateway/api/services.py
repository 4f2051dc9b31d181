"""What handlers may use, as one value. Made by the composition root; handlers take no decision with it."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gateway.backlog import Backlog
from gateway.fleet.fleet import Fleet
from gateway.keyfiles import Keys
from gateway.model.admin import CanaryView
from gateway.relay import Relay
from gateway.settings import Settings
from gateway.storage.reads import Reader
from gateway.storage.sequencer import Sequencer
from gateway.upstream.pool import UpstreamPool

from .auth import KeyRing
from .live import LiveFeed
from .openai import Inference
from .refusals import Refusals
from .terms import TermsBook


class Services(msgspec.Struct, frozen=True, kw_only=True):
    settings: Settings
    keys: KeyRing
    terms: TermsBook
    fleet: Fleet
    reader: Reader
    sequencer: Sequencer
    inference: Inference
    refusals: Refusals
    relay: Relay
    pool: UpstreamPool
    live: LiveFeed
    backlog: Backlog
    signers: Keys
    canaries: Callable[[str], tuple[CanaryView, ...]]
