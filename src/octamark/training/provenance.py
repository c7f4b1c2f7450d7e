"""Provenance: everything that a run's weights learn from, also through the checkpoints that it names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from octamark.datasets import FORMATS
from octamark.errors import ConfigError, WeightsError
from octamark.models import SET_TERMS, Card, Role, Source, commercial_use, merged, terms_of
from octamark.training import checkpoints
from octamark.training.recipe import Data, Recipe, parse
from octamark.training.starting import checkpoint_path

NOT_RECORDED = Source(
    name="faces without labels", role="crop rule", terms="not recorded by which rule they were cropped"
)
"""Stands for the crop rule of unlabelled faces that do not say where theirs comes from."""


def sources_of(
    recipe: Recipe,
    recorded: Sequence[Source] = (),
    faces: Mapping[str, tuple[int, int]] | None = None,
    *,
    seen: frozenset[Path] = frozenset(),
) -> tuple[Source, ...]:
    """All that a run of a recipe learns from: its sets, and the whole chain of the checkpoints that it names.

    Args:
        recorded: sources that are known otherwise, such as those in the run's checkpoint. What the recipe says is not
            replaced by them, with one exception: a checkpoint that the recipe names and that is no longer there.
        faces: numbers of training and of held-out faces by the title of each set.
        seen: checkpoints that are not followed again.

    A checkpoint without sources of its own, as older versions wrote, is judged by the recipe in it.
    """
    roles = {source.role for source in recorded}
    found = [source for section in recipe.data for source in set_sources(recipe, section, faces)]
    if recipe.unlabelled is not None:
        stated = {"terms": recipe.unlabelled.terms, "commercial_use": recipe.unlabelled.commercial_use}
        found.append(Source(name="pictures without labels", role="unlabelled", **stated))
        if "crop rule" not in roles:
            found.append(NOT_RECORDED)
    for name, role, argument, regional in _checkpoints(recipe):
        try:
            path = checkpoint_path(name, argument, regional=regional)
            meta = checkpoints.metadata(path)
        except WeightsError:
            if role not in roles:
                found.append(Source(name=name, role=role, terms="not known: there is no such checkpoint"))
            continue
        if path.resolve() in seen:
            continue
        inner_recipe = parse(meta["config"], str(path))
        inner = sources_of(inner_recipe, checkpoints.sources(meta, path), seen=seen | {path.resolve()})
        found += [model_source(inner_recipe.name, role, inner), *inner]
    return merged([*found, *recorded])


def set_sources(recipe: Recipe, section: Data, faces: Mapping[str, tuple[int, int]] | None = None) -> Iterator[Source]:
    """What one set of a recipe gives: labelled faces to learn from, and those that are held out of it."""
    form: str = section.format
    known = SET_TERMS.get(form)
    name = section.name or "own pictures"
    if known is not None:
        name = FORMATS[form].title.partition(":")[0]
    training, held_out = (faces or {}).get(section.title, (None, None))
    terms = known or section.terms
    allowed = False if known is not None else section.commercial_use
    if not section.held_out:
        yield Source(name=name, role="labels", terms=terms, commercial_use=allowed, faces=training)
    if section.validation is not None or len(recipe.data) == 1:
        yield Source(name=name, role="validation", terms=terms, commercial_use=allowed, faces=held_out)


def model_source(name: str, role: Role, sources: Sequence[Source]) -> Source:
    """A model in the chain as a source: its terms are those of what it learned from."""
    return Source(name=name, role=role, terms=terms_of(sources), commercial_use=commercial_use(sources))


def card_source(card: Card, role: Role) -> Source:
    """A model file in the chain as a source, by its card."""
    return Source(name=card.name, role=role, terms=card.terms, commercial_use=card.commercial_use)


def check_claim(recipe: Recipe, sources: Iterable[Source], place: str) -> None:
    """Check that every source of a run allows what its recipe claims with ``commercial_use = true``.

    Args:
        place: names the recipe or the run in the error.

    Raises:
        ConfigError: some do not, or nobody stated that they do; the message names each and its terms.
    """
    if not recipe.commercial_use:
        return
    refused = [source for source in sources if not source.commercial_use]
    if refused:
        parts = "; ".join(
            f"{source}: {'not stated' if source.commercial_use is None else 'no commercial use'}" for source in refused
        )
        raise ConfigError(
            f"{place}: claims commercial_use = true, which needs everything that it learns from to be stated to allow "
            f"it. These are not: {parts}"
        )


def _checkpoints(recipe: Recipe) -> Iterator[tuple[str, Role, str, bool | None]]:
    """The checkpoints that a recipe names: name, role, place in the recipe, and whether it must be a regional one."""
    if recipe.init is not None:
        yield recipe.init, "initial weights", "init", False if recipe.regional is None else None
    if recipe.distillation is not None:
        yield recipe.distillation.teacher, "teacher", "distillation.teacher", recipe.regional is not None
    for section in recipe.data:
        if section.convention is not None:
            yield section.convention, "label convention", f"data {section.title!r}: convention", False
    if recipe.regional is not None:
        yield recipe.regional.global_model, "global model", "regional.global_model", False
