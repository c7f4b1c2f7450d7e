"""Sources: what the numbers of a weight file were learned from, and whether its terms allow commercial use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from octamark.errors import listed

Role = Literal[
    "labels", "validation", "unlabelled", "teacher", "initial weights", "global model", "crop rule", "label convention"
]
"""What a source gave to the weights."""

SET_TERMS: Mapping[str, str] = {
    "300w": "research use only, non-commercial: C. Sagonas et al., 300 Faces In-the-Wild; AFW, HELEN, LFPW likewise",
    "wflw": "research use only, non-commercial: W. Wu et al., Look at Boundary; pictures of WIDER FACE",
    "cofw": "published for research, no terms that allow commercial use are known: X. Burgos-Artizzu et al., COFW",
    "aflw19": "research use only, non-commercial: M. Koestinger et al., AFLW; S. Zhu et al., AFLW-19",
    "webcaricature": "research use only, non-commercial: J. Huo et al., WebCaricature",
    "cariface": "published for research, no terms that allow commercial use are known: H. Cai et al., CariFace",
}
"""Terms of the public sets, by the name of their format (octamark.datasets.FORMATS). None allows commercial use."""


_MODELS: tuple[Role, ...] = ("teacher", "initial weights", "global model", "label convention")
_BEGINNINGS = {
    True: "any use; attribution to ",
    False: "no commercial use: ",
    None: "nobody stated whether commercial use is allowed: ",
}


class Source(BaseModel):
    """One thing that a network learned from.

    Attributes:
        name: what it is: a set of pictures, or a model.
        role: what it gave to the weights.
        terms: its licence, and whom to name.
        commercial_use: whether the terms allow it; None if nobody stated it.
        faces: number of faces; None if it is unknown, or for a model.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1)
    role: Role
    terms: str = ""
    commercial_use: bool | None = None
    faces: int | None = Field(None, ge=0)

    def __str__(self) -> str:
        return f"{self.role}: {self.name} ({self.terms or 'no terms given'})"


def commercial_use(sources: Iterable[Source]) -> bool | None:
    """Whether all sources allow commercial use; None if nobody stated it of some, or if there are no sources."""
    stated = {source.commercial_use for source in sources}
    if False in stated:
        return False
    return True if stated == {True} else None


def terms_of(sources: Sequence[Source]) -> str:
    """One sentence about the terms of weights that learned from these sources; empty without any."""
    if not sources:
        return ""
    allowed = commercial_use(sources)
    chosen = [source for source in sources if source.commercial_use is allowed]
    # a model in the chain is left out where what it learned from is listed
    chosen = [source for source in chosen if source.role not in _MODELS] or chosen
    names: dict[str, list[str]] = {}  # sources of the same terms are named together
    for source in chosen:
        of_terms = names.setdefault(source.terms or "no terms given", [])
        if source.name not in of_terms:
            of_terms.append(source.name)
    return _BEGINNINGS[allowed] + "; ".join(f"{listed(named)} ({terms})" for terms, named in names.items())


def merged(sources: Iterable[Source]) -> tuple[Source, ...]:
    """The sources without duplicates, in their order; where only numbers of faces differ, the largest stays."""
    kept: dict[Source, Source] = {}
    for source in sources:
        key = source.model_copy(update={"faces": None})
        before = kept.get(key)
        if before is None or (source.faces or -1) > (before.faces or -1):
            kept[key] = source
    return tuple(kept.values())


def learns_from_known_set(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe names a public set of ``SET_TERMS`` among its data; for cards without sources."""
    data = recipe.get("data")
    sections = [data] if isinstance(data, Mapping) else data if isinstance(data, list | tuple) else []
    return any(isinstance(section, Mapping) and section.get("format", "300w") in SET_TERMS for section in sections)
