"""Jobs that cannot be built are refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from orchestrator.config.models import InitialisationSection, ShareSection, StudentTemplate
from orchestrator.errors import ConfigError
from orchestrator.students.build import build_group, build_streams
from tests.students.tiny import HIDDEN, STUDENT, World, make_job, student


def starting(**options: object) -> StudentTemplate:
    """A student of the teacher's width that starts from its layers."""
    start = InitialisationSection.model_validate({"layers": "teacher"} | options)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "initialisation": start}
    return STUDENT.model_copy(update=sizes)


def test_layers_are_copied_by_the_map(world: World, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    teacher = AutoModelForMaskedLM.from_pretrained(world.facts["mixed"].section.model)
    for named, source in (("uniform", (2, 4)), ("bottom", (1, 2))):
        template = starting(map=named)
        encoder = build_group(make_job(world, tmp_path, student("ann", "aa", template=template))).module.encoder("ann")
        for layer, number in zip(encoder.layers, source, strict=True):
            for name, tensor in teacher.bert.encoder.layer[number - 1].state_dict().items():
                assert torch.equal(layer.state_dict()[name], tensor)


def test_layers_of_one_of_several_teachers(world: World, tmp_path: Path) -> None:
    routes = {"aa": "mixed", "bb": "other"}
    named = student("ann", "aa", "bb", teachers=routes, template=starting(teacher="mixed"))
    built = build_group(make_job(world, tmp_path, named))
    assert {tuple(term.name for term in terms) for terms in built.terms["ann"].values()} == {
        ("masked-lm", "soft-targets", "hidden-states")
    }
    pairs = {language: terms[2].pairs for language, terms in built.terms["ann"].items()}
    assert pairs == {"aa": ((0, 0), (1, 2), (2, 4)), "bb": ((0, 0), (1, 2), (2, 3))}  # depths 4 and 3
    shapes = {key.split("/")[1]: tuple(module.weight.shape) for key, module in built.module.projections.items()}
    assert shapes == {"mixed": (32, 32), "other": (24, 32)}
    unnamed = student("ann", "aa", "bb", teachers=routes, template=starting())
    with pytest.raises(ConfigError, match=r"'ann'.*without saying which.*mixed, other.*initialisation\.teacher"):
        build_group(make_job(world, tmp_path, unnamed))


def test_a_start_that_is_not_possible_is_refused(world: World, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"teacher 'other'.*are: mixed;"):
        build_group(make_job(world, tmp_path, student("ann", "aa", template=starting(teacher="other"))))
    with pytest.raises(ConfigError, match=r"initialisation\.map.*layers are 1 to 4"):
        build_group(make_job(world, tmp_path, student("ann", "aa", template=starting(map={1: 9}))))
    narrow = STUDENT.model_copy(update={"initialisation": InitialisationSection(layers="teacher")})
    with pytest.raises(ConfigError, match=r"hidden_size 16 against 32"):
        build_group(make_job(world, tmp_path, student("ann", "aa", template=narrow)))


def test_projections_of_students_of_different_width_cannot_be_shared(world: World, tmp_path: Path) -> None:
    students = (
        student("ann", "aa", objectives=[HIDDEN]),
        student("bob", "bb", objectives=[HIDDEN], template=STUDENT.model_copy(update={"hidden_size": 24})),
    )
    with pytest.raises(ConfigError, match=r"share\.projections.*differ in hidden_size"):
        build_group(make_job(world, tmp_path, *students, share=ShareSection(projections=True)))
    assert len(build_group(make_job(world, tmp_path, *students)).module.projections) == 6


def test_batches_of_a_twin_are_those_of_its_origin(world: World, tmp_path: Path) -> None:
    origin = make_job(world, tmp_path, student("ann", "aa", "bb"))
    twin = make_job(world, tmp_path, student("ann-no-teacher", "aa", "bb", origin="ann"))
    streams = [build_streams(job, build_group(job).vocabularies, cursors={}) for job in (origin, twin)]
    for step in range(1, 6):
        [mine], [theirs] = streams[0]["ann"].step(step), streams[1]["ann-no-teacher"].step(step)
        assert mine.language == theirs.language
        assert torch.equal(mine.input_ids, theirs.input_ids)
        assert torch.equal(mine.labels, theirs.labels)
