"""Students held together at the tokens that they have in common: which, how far, to what effect, and after a stop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from orchestrator.config.loading import parse_config
from orchestrator.config.objectives import AnchorsObjective, WindowSection
from orchestrator.config.setups import ExpandedRun, expand
from orchestrator.errors import ConfigError
from orchestrator.students.anchors import ANCHORS, find_anchors
from orchestrator.students.build import BuiltGroup, build_group
from orchestrator.students.group import StudentGroup
from orchestrator.students.loop import train_group
from tests.students.test_resume import digests
from tests.students.tiny import MASKED_LM, SOFT, World, make_job, student
from vocab_tools.mapping import open_vocabulary

TOGETHER = AnchorsObjective(type="anchors", weight=3.0)
STRONG = AnchorsObjective(type="anchors", weight=50.0)
BOTH = (MASKED_LM, TOGETHER)
ROUTES = {"aa": "mixed", "bb": "other"}


def spread(group: StudentGroup, rows: dict[str, dict[str, int]], name: str) -> Tensor:
    """½‖e − ē‖², mean over a student's anchors, token by token; the middle is nobody's to move."""
    found = []
    for token, index in rows[name].items():
        all_rows = [group.embedding_weight(other)[own[token]] for other, own in rows.items() if token in own]
        if len(all_rows) > 1:
            middle = torch.stack(all_rows).mean(0).detach()
            found.append(0.5 * (group.embedding_weight(name)[index] - middle).square().sum())
    return torch.stack(found).mean()


def evenly(group: StudentGroup) -> dict[str, dict[str, float]]:
    return {name: {"anchors": 1.0} for name in group.names}


def three(world: World, root: Path) -> tuple[BuiltGroup, dict[str, dict[str, int]]]:
    """Students of different vocabularies: a language each, and one of two teachers."""
    students = (
        student("ann", "aa", objectives=BOTH),
        student("bob", "bb", objectives=BOTH),
        student("cyd", "aa", "bb", objectives=BOTH, teachers=ROUTES),
    )
    built = build_group(make_job(world, root, *students))
    rows = {
        name: {token: index for index, token in enumerate(of.tokens) if index not in of.special.values()}
        for name, of in built.vocabularies.items()
    }
    return built, rows


def test_anchors_are_the_ordinary_tokens_of_two_students_or_more(world: World) -> None:
    vocabularies = {name: open_vocabulary(world.vocabularies[name]) for name in ("aa", "bb", "union")}
    found = find_anchors(vocabularies)
    sets = {name: set(of.tokens[5:]) for name, of in vocabularies.items()}
    one, two, three = sets.values()
    assert set(found.tokens) == (one & two) | (one & three) | (two & three)
    assert {"▁tami", "▁12"} & set(found.tokens)
    assert not {"[MASK]", "[CLS]"} & set(found.tokens)
    for name, vocabulary in vocabularies.items():
        own = [vocabulary.tokens[index] for index in found.ids[name].tolist()]
        assert own == [found.tokens[place] for place in found.places[name].tolist()]
        assert len(set(own)) == len(own) < len(sets[name]) + 1


def test_value_and_gradient_are_those_of_the_formula(world: World, tmp_path: Path) -> None:
    built, rows = three(world, tmp_path)
    group = built.module
    with torch.no_grad():
        for index, name in enumerate(group.names):
            group.embedding_weight(name).normal_(generator=torch.Generator().manual_seed(index))
    terms = {name: phases[0][ANCHORS] for name, phases in built.terms.items()}
    assert [term.name for term in terms["cyd"]] == ["anchors"]  # once, though it has two teachers
    assert all(
        "anchors" not in [t.name for t in of[0][key]] for of in built.terms.values() for key in of[0].keys() - {ANCHORS}
    )
    weights = {"ann": {"anchors": 2.0}, "bob": {"anchors": 0.5}, "cyd": {"anchors": 0.0}}
    values = {name: (value, raw) for name, value, raw in built.anchors.backward(group, terms, weights=weights)}
    assert values.keys() == {"ann", "bob"}
    found = {name: group.embedding_weight(name).grad for name in group.names}
    assert found["cyd"] is None
    for name in values:
        goal = spread(group, rows, name)
        count = built.anchors.counts(name, terms[name])["anchors"]
        assert float(values[name][0]) == pytest.approx(weights[name]["anchors"] * float(goal.detach()), rel=1e-5)
        assert float(values[name][1]["anchors"]) / count == pytest.approx(float(goal.detach()), rel=1e-5)
        (expected,) = torch.autograd.grad(weights[name]["anchors"] * goal, [group.embedding_weight(name)])
        torch.testing.assert_close(found[name], expected)


def test_the_gradient_of_two_is_that_of_their_common_distance(world: World, tmp_path: Path) -> None:
    """With the middle detached nothing is lost: it is the gradient of Σ ½‖e − ē‖² over both."""
    students = [student(name, language, objectives=BOTH) for name, language in (("ann", "aa"), ("bob", "bb"))]
    built = build_group(make_job(world, tmp_path, *students))
    group, anchors = built.module, built.anchors
    terms = {name: phases[0][ANCHORS] for name, phases in built.terms.items()}
    list(anchors.backward(group, terms, weights=evenly(group)))
    found = [group.embedding_weight(name).grad for name in group.names]
    one, two = (group.embedding_weight(name)[anchors.ids[name]] for name in group.names)
    middle = (one + two) / 2
    total = 0.5 * ((one - middle).square().sum() + (two - middle).square().sum()) / len(anchors.tokens)
    for own, expected in zip(
        found, torch.autograd.grad(total, [group.embedding_weight(n) for n in group.names]), strict=True
    ):
        torch.testing.assert_close(own, expected)


def test_equal_students_have_nothing_to_pay(world: World, tmp_path: Path) -> None:
    students = [student(name, "aa", objectives=(TOGETHER,)) for name in ("ann", "bob")]
    built = build_group(make_job(world, tmp_path, *students))
    group = built.module
    with torch.no_grad():
        group.embedding_weight("bob").copy_(group.embedding_weight("ann"))
    terms = {name: phases[0][ANCHORS] for name, phases in built.terms.items()}
    for name, value, _ in built.anchors.backward(group, terms, weights=evenly(group)):
        assert float(value) == 0.0
        assert not group.embedding_weight(name).grad.any()


def logged(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_training_draws_them_together_and_logs_it(world: World, tmp_path: Path) -> None:
    last = {}
    for name, objectives in (("apart", (MASKED_LM,)), ("together", (MASKED_LM, STRONG))):
        students = [student("ann", "aa", objectives=objectives), student("bob", "bb", objectives=objectives)]
        options = {"steps": 30, "log_every": 10, "checkpoint_seconds": 1000.0, "learning_rate": 1e-2}
        job = make_job(world, tmp_path / name, *students, **options)
        built, _ = train_group(job)
        anchors = find_anchors(built.vocabularies)
        one, two = (built.module.embedding_weight(n)[anchors.ids[n]] for n in ("ann", "bob"))
        last[name] = float((one - two).detach().norm(dim=-1).mean())
        if name == "together":
            values = [row["terms"]["anchors"] for row in logged(job.folder("ann"))]  # type: ignore[index]
            assert values == [row["terms"]["anchors"] for row in logged(job.folder("bob"))]  # type: ignore[index]
    assert last["together"] < 0.8 * last["apart"]


def test_a_weight_of_nothing_leaves_training_as_it_is(world: World, tmp_path: Path) -> None:
    late = AnchorsObjective(type="anchors", weight=WindowSection(schedule="window", first_step=5))
    found = {}
    for name, objectives in (("without", (MASKED_LM, SOFT)), ("late", (MASKED_LM, SOFT, late))):
        students = [student("ann", "aa", objectives=objectives), student("bob", "bb", objectives=objectives)]
        job = make_job(world, tmp_path / name, *students, keep_checkpoints=9)
        train_group(job)
        folders = [job.folder(n) / "checkpoints" for n in ("ann", "bob")]
        found[name] = [
            [(folder / f"step-{step:08d}" / "model.safetensors").read_bytes() for folder in folders] for step in (4, 5)
        ]
    assert found["without"][0] == found["late"][0]
    assert found["without"][1] != found["late"][1]


def test_stopped_and_gone_on_it_is_the_same_to_the_bit(world: World, tmp_path: Path) -> None:
    students = [student("ann", "aa", objectives=BOTH), student("bob", "aa", "bb", objectives=BOTH, teachers=ROUTES)]
    whole = make_job(world, tmp_path / "whole", *students, accumulation=2, keep_checkpoints=9)
    train_group(whole)
    stopped = make_job(world, tmp_path / "stopped", *students, accumulation=2, keep_checkpoints=9)
    train_group(stopped)
    for name in ("ann", "bob"):
        for step in (4, 5, 6):
            (stopped.folder(name) / "checkpoints" / f"step-{step:08d}" / "state.json").unlink()
    train_group(stopped)
    assert digests(stopped) == digests(whole)


def test_a_frozen_embedding_is_measured_and_not_moved(world: World, tmp_path: Path) -> None:
    students = []
    for name, language in (("ann", "aa"), ("bob", "bb")):
        one = student(name, language, objectives=BOTH)
        students.append(replace(one, phases=(replace(one.phases[0], freeze=("embedding",)),)))
    job = make_job(world, tmp_path, *students)
    train_group(job)
    values = [row["terms"]["anchors"] for row in logged(job.folder("ann"))]  # type: ignore[index]
    assert len(set(values)) == 1


def test_students_with_no_token_in_common_are_told_so(world: World) -> None:
    vocabularies = {name: open_vocabulary(world.vocabularies[name]) for name in ("aa", "bb")}
    vocabularies["bb"].__dict__["tokens"] = tuple(f"{token}'" for token in vocabularies["bb"].tokens)
    with pytest.raises(ConfigError, match="no token of student 'aa' is in the vocabulary of another student"):
        find_anchors(vocabularies)


def opened(setup: str, **changes: object) -> ExpandedRun:
    tree: dict[str, object] = {
        "corpus": {"languages": {"en": "en.txt", "de": "de.txt"}},
        "teachers": {"big": {"model": "m", "languages": ["en", "de"]}},
        "student": {"layers": 2, "hidden_size": 8, "heads": 2},
        "objectives": [{"type": "masked-lm"}, {"type": "anchors"}],
    }
    return expand(parse_config(tree | changes, where="test"), setup=setup)  # type: ignore[arg-type]


def test_students_that_share_nothing_become_one_group() -> None:
    run = opened("one-to-many")
    assert [[student.name for student in group.students] for group in run.groups] == [["en", "de"]]  # and no twin


WIDE = {"languages": ["de"], "hidden_size": 16}


@pytest.mark.parametrize(
    ("setup", "changes", "sentence"),
    [
        ("one-to-one", {}, "in group 'student' only 'student' has it"),
        ("one-to-many", {"share": {"parts": ["embedding"]}}, "a token has one row for all students"),
        (
            "explicit",
            {"students": {"a": {"languages": ["en"], "group": "x"}, "b": {"languages": ["de"], "group": "y"}}},
            "in group 'x' only 'a' has it",
        ),
        (
            "explicit",
            {
                "students": {
                    "a": {"languages": ["en"]},
                    "b": {"languages": ["de"], "objectives": [{"type": "masked-lm"}]},
                }
            },
            "only 'a' has it",
        ),
        ("explicit", {"students": {"a": {"languages": ["en"]}, "b": WIDE}}, "of a, b, which differ in hidden_size"),
    ],
)
def test_what_cannot_be_held_together_is_refused(setup: str, changes: dict[str, object], sentence: str) -> None:
    students = changes.get("students")
    if isinstance(students, dict):
        shape = {"layers": 2, "hidden_size": 8, "heads": 2}
        changes = {"students": {name: shape | section for name, section in students.items()}}
    with pytest.raises(ConfigError) as caught:
        opened(setup, **changes)
    assert sentence in str(caught.value)
