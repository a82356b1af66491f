"""Every recipe that ships is read, says what it is, and asks the teachers for what its head promises."""

from __future__ import annotations

import pytest

from orchestrator.config.loading import parse_config
from orchestrator.config.objectives import SentenceVectorsObjective
from orchestrator.config.recipes import Recipe, merged, read_recipe, shipped_recipes
from orchestrator.config.run import RunConfig
from orchestrator.config.setups import expand
from orchestrator.models.checkpoints import CheckpointInfo
from orchestrator.records import SignalRequest
from orchestrator.resources import configs_folder
from orchestrator.students.requests import requested_signals

NAMES = {
    "hard-labels",
    "logit-matching",
    "hinton",
    "fitnets",
    "pkd",
    "sid",
    "distilbert",
    "tinybert",
    "mobilebert",
    "minilm",
    "minilmv2",
    "xtremedistil",
    "softmax-regression",
    "multilingual-sentence",
    "mergedistill",
    "monoshot",
    "monoalignment",
}
RECIPES = shipped_recipes()
every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


def configured(recipe: Recipe, *, hidden_size: int = 384, heads: int = 12, layers: int = 4) -> RunConfig:
    tree: dict[str, object] = {
        "corpus": {"languages": {"en": "en.txt", "de": "de.txt"}},
        "teachers": {
            "big": {"model": "some/model", "languages": ["en", "de"]},
            "english": {"model": "other/model", "languages": ["en"]},
        },
        "routes": {"en": "english"},
        "student": {"layers": layers, "hidden_size": hidden_size, "heads": heads},
        "run": {"teacher": "big"},
        "training": {"steps": 100},
    }
    return parse_config(merged(tree, recipe.tree), where=recipe.name)


def test_all_of_them_are_there() -> None:
    assert {recipe.name for recipe in RECIPES} == NAMES
    assert [recipe.name for recipe in RECIPES] == sorted(NAMES)


@every_recipe
def test_the_head_names_the_paper_and_says_what_it_does(recipe: Recipe) -> None:
    assert recipe.cited[-4:].isdigit()
    assert 40 < len(recipe.summary) < 140
    lines = recipe.text.splitlines()
    assert max(map(len, lines)) <= 120
    assert sum(bool(line) and not line.startswith("#") for line in lines) <= 25


@every_recipe
def test_it_is_a_part_of_a_configuration_and_its_setup_expands(recipe: Recipe) -> None:
    config = configured(recipe)
    run = expand(config)
    assert config.run.setup == run.setup
    students = [student for student in run.students if student.role == "student"]
    assert len(students) == (2 if recipe.name.startswith("mono") else 1)
    for student in students:
        assert student.phases[-1].last_step == 100
        assert {o.type for o in student.objectives} == {o.type for o in recipe.objectives}


@every_recipe
def test_what_it_asks_of_a_teacher_is_what_the_list_says(recipe: Recipe) -> None:
    config = configured(recipe)
    assert config.student is not None
    request = requested_signals(recipe.objectives, config.student, teacher="big", info=teacher())
    for objective in recipe.objectives:
        if isinstance(objective, SentenceVectorsObjective):
            request |= SignalRequest(sentence_vectors=True)
    kinds = {key.kind for key in request.states}
    words = {"hidden": "hidden states", "query": "queries", "key": "keys", "value": "values"}
    expected = {words[kind] for kind in kinds}
    at = " at all tokens" if request.at_all_tokens else ""
    expected |= {f"top {request.top_k}{at}"} if request.top_k else set()
    expected |= {f"head states{at}"} if request.head_states else set()
    expected |= {"sentence vectors"} if request.sentence_vectors else set()
    assert set(recipe.signals) == expected


@every_recipe
def test_it_works_with_a_narrower_student_whatever_the_depths(recipe: Recipe) -> None:
    for layers in (2, 3, 5):
        config = configured(recipe, hidden_size=96, layers=layers)
        assert config.student is not None
        requested_signals(recipe.objectives, config.student, teacher="big", info=teacher())


def teacher() -> CheckpointInfo:
    """Of the sizes of BERT-base; the student of `configured` has as many heads."""
    return CheckpointInfo(
        architecture="bert",
        depth=12,
        width=768,
        heads=12,
        embedding_width=768,
        num_parameters=110_000_000,
        vocab_size=30_000,
        has_head=True,
        windows=(None,) * 12,
    )


def test_the_parsed_form_of_multilingual_sentence() -> None:
    config = configured(read_recipe("multilingual-sentence"))
    assert config.objectives == (SentenceVectorsObjective(type="sentence-vectors", pivot="en", distance="mse"),)
    assert config.student is not None
    assert config.student.initialisation.layers == "teacher"


def test_the_folder_ships_with_the_package() -> None:
    assert {path.stem for path in (configs_folder() / "recipes").iterdir()} == NAMES
