"""Model files: the ones that ship, the card inside each, and what its spread and confidence mean (calibration)."""

from octamark.models.calibration import Calibration
from octamark.models.cards import (
    FACE_UNITS,
    LAYOUT_KEY,
    METADATA_KEY,
    Arithmetic,
    Card,
    CropRule,
    ModelCard,
    RegionCard,
    RegionRule,
    check_graph,
    layout_of,
    parse_card,
    parse_region_card,
)
from octamark.models.registry import REGIONS, REGIONS_MODEL, available, blobs, read
from octamark.models.sources import SET_TERMS, Role, Source, commercial_use, merged, terms_of

__all__ = [
    "FACE_UNITS",
    "LAYOUT_KEY",
    "METADATA_KEY",
    "REGIONS",
    "REGIONS_MODEL",
    "SET_TERMS",
    "Arithmetic",
    "Calibration",
    "Card",
    "CropRule",
    "ModelCard",
    "RegionCard",
    "RegionRule",
    "Role",
    "Source",
    "available",
    "blobs",
    "check_graph",
    "commercial_use",
    "layout_of",
    "merged",
    "parse_card",
    "parse_region_card",
    "read",
    "terms_of",
]
