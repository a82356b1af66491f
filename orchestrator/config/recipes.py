"""Recipes: published methods as parts of a configuration, which `recipe: NAME` puts under what a user wrote."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from orchestrator.config.base import nearest
from orchestrator.config.objectives import (
    AttentionProbabilitiesObjective,
    AttentionScoresObjective,
    HardLabelsObjective,
    HiddenStatesObjective,
    LogitMatchingObjective,
    Objective,
    RelationsObjective,
    SentenceVectorsObjective,
    SoftmaxRegressionObjective,
    SoftTargetsObjective,
)
from orchestrator.config.reading import Tree, read_mapping, read_text
from orchestrator.config.run import PhaseSection
from orchestrator.errors import ConfigError
from orchestrator.resources import configs_folder

#: The keys of which a configuration has one; a user's replaces whichever the recipe has.
OBJECTIVES = ("objectives", "phases")

_SUFFIXES = (".yaml", ".yml")
_CITATION = re.compile(r"(?P<authors>.+?) \((?P<year>\d{4})\): ")


@dataclass(frozen=True)
class Recipe:
    """One file: its head says of which paper it is and what it does; below is a part of a configuration."""

    name: str
    text: str
    tree: Tree

    @property
    def paper(self) -> str:
        """The first paragraph of the head: authors, year, title, where it appeared."""
        return self._head[0]

    @property
    def cited(self) -> str:
        """The paper in short, as in "Sun et al. 2019"."""
        found = _CITATION.match(self.paper)
        if found is None:
            return self.paper
        authors = [name for name in re.split(r", | & ", found["authors"]) if name]
        return f"{authors[0]} et al. {found['year']}" if len(authors) > 2 else f"{' & '.join(authors)} {found['year']}"

    @property
    def summary(self) -> str:
        """The first sentence of the second paragraph: what the method does."""
        return (self._head[1].partition(". ")[0] if len(self._head) > 1 else "").rstrip(".")

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives of all phases, in order."""
        try:
            whole = _OBJECTIVES.validate_python(self.tree.get("objectives", ()))
            phases = _PHASES.validate_python(self.tree.get("phases", ()))
            return (*whole, *(objective for phase in phases for objective in phase.objectives))
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(map(str, detail["loc"]))
            raise ConfigError(f"The recipe {self.name} is not valid: {where}: {detail['msg']}.") from None

    @property
    def signals(self) -> tuple[str, ...]:
        """What its objectives need of a teacher, in words."""
        return tuple(dict.fromkeys(word for objective in self.objectives for word in _signals(objective)))

    @property
    def _head(self) -> list[str]:
        lines: list[str] = []
        for line in self.text.splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.removeprefix("#").strip())
        return [part.replace("\n", " ") for part in "\n".join(lines).split("\n\n")]


_OBJECTIVES: TypeAdapter[tuple[Objective, ...]] = TypeAdapter(tuple[Objective, ...])
_PHASES: TypeAdapter[tuple[PhaseSection, ...]] = TypeAdapter(tuple[PhaseSection, ...])


def shipped_recipes() -> tuple[Recipe, ...]:
    """The recipes that come with orch, by name."""
    return tuple(read_recipe(name) for name in _shipped())


def read_recipe(name: object) -> Recipe:
    """A recipe that ships with orch, or a file of one's own when `name` is a path to a YAML.

    Raises:
        ConfigError: there is none of that name; the text has the nearest.
    """
    if not isinstance(name, str):
        raise ConfigError(f"recipe: the name of a recipe, or a path to one, was expected, found {name!r}.")
    path = Path(name)
    if path.suffix not in _SUFFIXES:
        known = _shipped()
        if name not in known:
            raise ConfigError(f"There is no recipe '{name}': {nearest(name, known)} (`orch recipes` shows them all)")
        path = _folder() / f"{name}.yaml"
    text = read_text(path, what="recipe")
    tree = read_mapping(text, where=str(path))
    if "recipe" in tree:
        raise ConfigError(f"{path} is a recipe, and cannot name another one; write out what it takes from it.")
    return Recipe(name=path.stem, text=text, tree=tree)


def merged(tree: Tree, recipe: Tree, *, given: Collection[str] = ()) -> Tree:
    """`recipe` below `tree`: sections are joined key by key, and wherever both have a value `tree` keeps its own.

    Lists are values. `given`: more keys that the user sets later on. When the user has objectives or phases, the
    recipe's are left out, so that a run never trains for a mixture of the two.
    """
    if any(key in tree or key in given for key in OBJECTIVES):
        recipe = {key: value for key, value in recipe.items() if key not in OBJECTIVES}
    return _below(tree, recipe)


def _below(upper: Mapping[str, object], lower: Mapping[str, object]) -> Tree:
    joined: Tree = {**lower, **upper}
    for key, value in upper.items():
        under = lower.get(key)
        if isinstance(value, dict) and isinstance(under, dict):
            joined[key] = _below(value, under)
    return joined


def _signals(objective: Objective) -> tuple[str, ...]:
    match objective:
        case HardLabelsObjective():
            return (_at("top 1", objective.positions),)
        case SoftTargetsObjective(signal="top-k"):
            return (_at(f"top {objective.k}", objective.positions),)
        case SoftTargetsObjective(signal="sampled"):
            return (_at(f"{objective.draws} draws", objective.positions),)
        case SoftTargetsObjective() | LogitMatchingObjective() | SoftmaxRegressionObjective():
            return (_at("head states", objective.positions),)
        case HiddenStatesObjective():
            return ("hidden states",)
        case AttentionScoresObjective() | AttentionProbabilitiesObjective():
            return ("queries", "keys")
        case RelationsObjective():
            plural = {"query": "queries", "key": "keys", "value": "values"}
            return tuple(plural[kind] for kind in objective.of)
        case SentenceVectorsObjective():
            return ("sentence vectors",)
        case _:
            return ()  # the text alone, or the teacher's embedding matrix


def _at(signal: str, positions: str) -> str:
    return signal if positions == "masked" else f"{signal} at all tokens"


def _folder() -> Path:
    return configs_folder() / "recipes"


def _shipped() -> list[str]:
    return sorted(path.stem for path in _folder().glob("*.yaml"))
