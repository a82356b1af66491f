"""What the recipes are compared on: one text, one teacher, one student, as many steps; each row a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config.reading import Tree
from orchestrator.config.recipes import read_recipe, shipped_recipes

SHARED = Path(__file__).resolve().parents[3] / "shared"
LANGUAGES = ("en", "de", "fi", "ru")
RECIPES = tuple(recipe.name for recipe in shipped_recipes())

#: Rows beside the recipes: masked LM from random weights (the student without a teacher), masked LM from the weights
#: that the recipes start with, and those weights as they are.
NO_TEACHER, MASKED_LM, UNTRAINED = "no-teacher", "masked-lm", "untrained"
CONTROLS = (NO_TEACHER, MASKED_LM, UNTRAINED)

#: How every student starts unless its recipe says otherwise.
INITIALISATION: Tree = {"layers": "teacher", "map": "uniform", "embedding": "teacher", "teacher": "multilingual"}
#: News and encyclopaedia, 276 000 tokens in the teacher's tokens (Finnish: news alone).
SOURCES = ["ntrex", "xquad"]


@dataclass(frozen=True)
class Plan:
    """The size of the experiment."""

    out: Path
    steps: int
    max_texts: int | None
    max_pairs: int
    threads: int
    tokens_per_batch: int

    def root(self, seed: int, name: str) -> Path:
        """The run of one row of one seed; `shared`: what all rows of the seed read."""
        return self.out / f"seed-{seed}" / name


def configuration(plan: Plan, name: str, *, seed: int) -> Tree:
    """The orch.yaml of a recipe or of a control."""
    tree = _base(plan, seed, plan.root(seed, name))
    if name in CONTROLS:
        initialisation = {
            **INITIALISATION,
            **({"layers": "random", "embedding": "random"} if name == NO_TEACHER else {}),
        }
        tree["objectives"] = [{"type": "masked-lm"}]
        if name == UNTRAINED:  # one step that is too short to move anything
            tree["training"] = {**_section(tree, "training"), "steps": 1, "learning_rate": 1e-12}
    else:
        tree["recipe"] = name
        initialisation = {**INITIALISATION, **_initialisation(name)}
        if name == "mergedistill":
            tree["run"] = {**_section(tree, "run"), "setup": "many-to-one"}
    tree["student"] = {**_section(tree, "student"), "initialisation": initialisation}
    return tree


def together(plan: Plan, names: Sequence[str], *, seed: int) -> Tree:
    """A run that is never trained, whose objectives are those of all recipes, so that the teacher says all at once."""
    tree = _base(plan, seed, plan.root(seed, "shared"))
    found: list[object] = []
    for name in names:
        for objective in read_recipe(name).objectives if name not in CONTROLS else ():
            written = objective.model_dump(mode="json", exclude_unset=True)
            if written not in found:
                found.append(written)
    tree["objectives"] = found or [{"type": "masked-lm"}]
    tree["student"] = {**_section(tree, "student"), "initialisation": INITIALISATION}
    return tree


def _base(plan: Plan, seed: int, root: Path) -> Tree:
    return {
        "run": {"root": str(root), "seed": seed, "setup": "one-to-one", "teacher": "multilingual"},
        "corpus": {
            "max_length": 128,
            "languages": {language: _text(plan, language) for language in LANGUAGES},
            "parallel": [
                {
                    "name": "ntrex",
                    "files": str(SHARED / "data" / "parallel" / "ntrex.parquet"),
                    "where": {"split": "train"},
                    "columns": dict(zip(LANGUAGES, LANGUAGES, strict=True)),
                    "max_pairs": 1063 if plan.max_texts is None else plan.max_texts,
                },
            ],
        },
        "teachers": {
            "multilingual": {"model": str(SHARED / "models" / "multilingual-mlm-12x384"), "languages": [*LANGUAGES]},
            "english": {"model": str(SHARED / "models" / "english-mlm-6x384"), "languages": ["en"]},
        },
        "routes": {"en": "english"},
        "student": {"layers": 4, "hidden_size": 384, "heads": 12, "vocabulary": {"keep": "trim"}},
        "training": {
            "steps": plan.steps,
            "tokens_per_batch": plan.tokens_per_batch,
            "learning_rate": 4e-4,
            "log_every": max(1, plan.steps // 50),
            "threads": plan.threads,
            "baseline": False,
        },
        "evaluation": {
            "max_texts": plan.max_texts or 100,
            "parallel": [
                {
                    "name": "ntrex",
                    "files": str(SHARED / "data" / "parallel" / "ntrex.parquet"),
                    "where": {"split": "test"},
                    "columns": dict(zip(LANGUAGES, LANGUAGES, strict=True)),
                    "max_pairs": plan.max_pairs,
                }
            ],
        },
    }


def _text(plan: Plan, language: str) -> Tree:
    files = str(SHARED / "data" / "mono" / f"{language}.parquet")
    limit = {} if plan.max_texts is None else {"max_texts": plan.max_texts}
    return {
        "train": {"files": files, "where": {"split": "train", "source": SOURCES}, **limit},
        "held_out": {"files": files, "where": {"split": "test", "source": SOURCES}},
    }


def _section(tree: Tree, name: str) -> Tree:
    section = tree[name]
    assert isinstance(section, dict)
    return section


def _initialisation(name: str) -> Tree:
    student = read_recipe(name).tree.get("student", {})
    assert isinstance(student, dict)
    found = student.get("initialisation", {})
    assert isinstance(found, dict)
    return found
