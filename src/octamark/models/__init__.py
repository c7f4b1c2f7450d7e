"""Model files: the ones that ship, the card inside each, and what its spread and confidence mean (calibration)."""

from octamark.models.calibration import CONFIDENCE_SHARE, Calibration
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

__all__ = [
    "CONFIDENCE_SHARE",
    "FACE_UNITS",
    "LAYOUT_KEY",
    "METADATA_KEY",
    "REGIONS",
    "REGIONS_MODEL",
    "Arithmetic",
    "Calibration",
    "Card",
    "CropRule",
    "ModelCard",
    "RegionCard",
    "RegionRule",
    "available",
    "blobs",
    "check_graph",
    "layout_of",
    "parse_card",
    "parse_region_card",
    "read",
]
