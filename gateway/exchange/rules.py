"""The closed registry of response rules: how the answers of a network are read and what they are held against."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from .aci import AciRule
from .no_evidence import NoEvidenceRule
from .opengradient_rule import OpenGradientRule
from .reply import ResponseRule

RULES: Mapping[str, ResponseRule] = MappingProxyType(
    {"aci-receipt": AciRule(), "opengradient-statement": OpenGradientRule(), "none": NoEvidenceRule()}
)
