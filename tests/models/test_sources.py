"""Sources: what cards conclude from them, the sentence about their terms, and the cards that older versions wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from octamark import models
from octamark.datasets import FORMATS
from octamark.inference.landmarker import Landmarker
from octamark.inference.refiner import Refiner
from octamark.models import SET_TERMS, ModelCard, Source, commercial_use, merged, parse_card, terms_of

README = Path(__file__).parent.parent.parent / "README.md"
LONDON = Source(
    name="London", role="labels", terms="CC-BY 4.0, L. DeBruine and B. Jones", commercial_use=True, faces=51
)
HEADS = Source(name="heads", role="labels", terms="MIT, USC ICT", commercial_use=True)
PARENT = Source(name="parent", role="initial weights", terms="any use; attribution to x", commercial_use=True)
RESEARCH = Source(name="300W", role="labels", terms=SET_TERMS["300w"], commercial_use=False)
UNKNOWN = Source(name="own pictures", role="unlabelled")


def card(*sources: Source) -> ModelCard:
    """The card of a model that learned from these, on pictures of one's own."""
    nano = Landmarker("nano", refine="never").card
    return nano.model_copy(update={"recipe": {"data": [{"format": "folder"}]}, "sources": sources})


@pytest.mark.parametrize(
    ("sources", "allowed"),
    [
        ((), None),
        ((LONDON, HEADS), True),
        ((LONDON, UNKNOWN), None),
        ((LONDON, UNKNOWN, RESEARCH), False),
        ((RESEARCH,), False),
    ],
)
def test_all_sources_must_allow_it(sources: tuple[Source, ...], allowed: bool | None) -> None:
    assert commercial_use(sources) is allowed
    assert card(*sources).commercial_use is allowed


def test_the_sentence_names_what_decides() -> None:
    assert terms_of([]) == ""
    assert terms_of([LONDON, HEADS, PARENT]) == (
        "any use; attribution to London (CC-BY 4.0, L. DeBruine and B. Jones); heads (MIT, USC ICT)"
    )
    held_out = HEADS.model_copy(update={"name": "more heads", "role": "validation"})
    assert terms_of([HEADS, LONDON, held_out]) == (
        "any use; attribution to heads, more heads (MIT, USC ICT); London (CC-BY 4.0, L. DeBruine and B. Jones)"
    )
    assert terms_of([PARENT]) == "any use; attribution to parent (any use; attribution to x)"
    assert terms_of([LONDON, RESEARCH, UNKNOWN]) == f"no commercial use: 300W ({SET_TERMS['300w']})"
    assert terms_of([LONDON, UNKNOWN]) == (
        "nobody stated whether commercial use is allowed: own pictures (no terms given)"
    )


def test_duplicates_are_removed_but_other_terms_and_roles_stay() -> None:
    fewer, nameless = LONDON.model_copy(update={"faces": 40}), LONDON.model_copy(update={"faces": None})
    held_out = LONDON.model_copy(update={"role": "validation"})
    assert merged([nameless, HEADS, LONDON, fewer, held_out]) == (LONDON, HEADS, held_out)
    other = LONDON.model_copy(update={"commercial_use": None})
    assert merged([LONDON, other]) == (LONDON, other)


def test_a_source_says_what_it_is_and_nothing_else() -> None:
    with pytest.raises(ValidationError, match="role"):
        Source(name="x", role="inspiration")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="name"):
        Source(name="", role="labels")


def test_sources_are_kept_in_the_card() -> None:
    before = card(LONDON, UNKNOWN)
    assert parse_card(before.model_dump_json(), "x").sources == (LONDON, UNKNOWN)


@pytest.mark.parametrize("name", [*models.available(), models.REGIONS])
def test_what_ships_without_sources_is_for_research(name: str) -> None:
    """Cards of older versions: their recipe says that they learned from 300W."""
    shipped = Refiner(name).card if name == models.REGIONS else Landmarker(name, refine="never").card
    if not shipped.sources:
        assert shipped.commercial_use is False


def test_sources_written_by_hand_do_not_free_a_model_of_300w() -> None:
    nano = Landmarker("nano", refine="never").card
    table = json.loads(nano.model_dump_json()) | {"sources": [LONDON.model_dump()]}
    assert parse_card(json.dumps(table), "x").commercial_use is False


def test_every_public_set_has_terms() -> None:
    assert set(SET_TERMS) == {name for name, form in FORMATS.items() if form.layout is not None}


def test_the_readme_says_of_each_model_what_its_card_says() -> None:
    rows = [line for line in README.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    stated = {row.split("|")[1].strip(" `"): row.split("|")[-3].strip() for row in rows}
    words = {True: "yes", False: "no", None: "not stated"}
    cards = {name: Landmarker(name, refine="never").card for name in models.available()}
    assert stated == {name: words[each.commercial_use] for name, each in cards.items()}
