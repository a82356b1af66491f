"""Jobs that cannot be built are refused in one sentence."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

from orchestrator.config.models import InitialisationSection, ShareSection, StudentTemplate
from orchestrator.errors import ConfigError
from orchestrator.models.encoder import Encoder
from orchestrator.models.loading import load_encoder
from orchestrator.models.quiet import quiet_transformers
from orchestrator.students.build import build_group, build_streams
from orchestrator.students.worker import StudentWorker
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
    [of_phase] = built.terms["ann"]
    assert {tuple(term.name for term in terms) for terms in of_phase.values()} == {
        ("masked-lm", "soft-targets", "hidden-states")
    }
    pairs = {language: terms[2].pairs for language, terms in of_phase.items()}
    assert pairs == {"aa": ((0, 0), (1, 2), (2, 4)), "bb": ((0, 0), (1, 2), (2, 3))}  # depths 4 and 3
    shapes = {key.split("/")[1]: tuple(module.weight.shape) for key, module in built.module.projections.items()}
    assert shapes == {"mixed": (32, 32), "other": (24, 32)}
    unnamed = student("ann", "aa", "bb", teachers=routes, template=starting())
    with pytest.raises(ConfigError, match=r"'ann'.*without saying which.*mixed, other.*initialisation\.teacher"):
        build_group(make_job(world, tmp_path, unnamed))


def logits(encoder: Encoder, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        states = encoder.head_states(encoder.eval()(ids, torch.ones_like(ids), states=()).last)
        return torch.nn.functional.linear(states, encoder.decoder_weight, encoder.decoder_bias)


def with_biases(folder: Path, source: str | None, *, tied: bool = True) -> str:
    """A copy of a teacher whose decoder says something of its own, as trained ones do."""
    assert source is not None
    shutil.copytree(source, folder)
    random = torch.Generator().manual_seed(1)
    with quiet_transformers(), torch.random.fork_rng():
        config = AutoConfig.from_pretrained(folder, tie_word_embeddings=tied)
        model = AutoModelForMaskedLM.from_config(config)
        with torch.no_grad():
            model.get_output_embeddings().bias.normal_(generator=random)
        model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_a_whole_copy_says_what_its_teacher_says(world: World, tmp_path: Path, tied: bool) -> None:
    """Rows of the input and the decoder, and its bias, through the id map."""
    model = with_biases(tmp_path / "teacher", world.facts["mixed"].section.model, tied=tied)
    facts = replace(world.facts["mixed"], section=world.facts["mixed"].section.model_copy(update={"model": model}))
    template = starting().model_copy(update={"layers": 4, "tie_head": tied})
    built = build_group(
        replace(make_job(world, tmp_path, student("ann", "aa", template=template)), teachers={"mixed": facts})
    )
    teacher = load_encoder(model, need_head=True)
    assert (teacher.decoder_weight is teacher.word_embeddings.weight) == tied
    table = torch.from_numpy(built.vocabularies["ann"].map("mixed").astype("int64"))
    kept = (table >= 0).nonzero().squeeze(-1)
    assert 20 < len(kept) < len(table)
    ids = kept[torch.randint(len(kept), (3, 9), generator=torch.Generator().manual_seed(0))]
    said = logits(built.module.encoder("ann"), table[ids])
    torch.testing.assert_close(said[..., table[kept]], logits(teacher, ids)[..., kept], rtol=1e-5, atol=1e-5)


def test_a_student_starts_as_the_checkpoint_that_it_is_given(world: World, tmp_path: Path) -> None:
    small = STUDENT.model_copy(update={"initialisation": InitialisationSection(embedding="random")})
    first = make_job(world, tmp_path, student("ann", "aa", "bb", template=small), steps=3)
    StudentWorker().run(first)
    final = str(first.folder("ann") / "final")
    start = InitialisationSection(layers="teacher", embedding="copy", map="bottom", checkpoint=final)
    again = STUDENT.model_copy(update={"initialisation": start})
    built = build_group(make_job(world, tmp_path, student("bob", "aa", "bb", template=again)))
    expected = load_encoder(final, need_head=True)
    assert torch.equal(built.module.encoder("bob").word_embeddings.weight, expected.word_embeddings.weight)
    ids = torch.arange(built.vocabularies["bob"].size).reshape(1, -1)[:, :30]
    torch.testing.assert_close(logits(built.module.encoder("bob"), ids), logits(expected, ids), rtol=0, atol=1e-6)


def test_of_a_checkpoint_with_another_tokenizer_the_rows_of_common_tokens_are_taken(
    world: World, tmp_path: Path
) -> None:
    stranger = world.facts["other"].section.model
    assert stranger is not None
    wide = STUDENT.model_copy(
        update={"hidden_size": 24, "initialisation": InitialisationSection(embedding="copy", checkpoint=stranger)}
    )
    job = make_job(world, tmp_path, student("cat", "bb", template=wide))
    mine = build_group(job)
    theirs, matrix = AutoTokenizer.from_pretrained(stranger), load_encoder(stranger, need_head=True)
    tokens = mine.vocabularies["cat"].tokens
    both = [(number, theirs.get_vocab()[token]) for number, token in enumerate(tokens) if token in theirs.get_vocab()]
    assert len(both) > 10
    for own, other in both:
        weight = mine.module.encoder("cat").word_embeddings.weight
        assert torch.equal(weight[own], matrix.word_embeddings.weight[other])


def test_tokens_that_the_teacher_only_has_in_pieces_start_as_their_mean(world: World, tmp_path: Path) -> None:
    routes = {"aa": "mixed", "bb": "other"}
    template = starting(layers="random", embedding="mean", teacher="mixed")
    job = make_job(world, tmp_path, student("ann", "aa", "bb", teachers=routes, template=template))
    built = build_group(job)
    vocabulary, encoder = built.vocabularies["ann"], built.module.encoder("ann")
    model = world.facts["mixed"].section.model
    assert model is not None
    teacher, tokenizer = load_encoder(model, need_head=True), AutoTokenizer.from_pretrained(model)
    known = vocabulary.support("mixed")
    cut = 0
    for number, token in enumerate(vocabulary.tokens):
        ids = tokenizer(token.removeprefix("▁"), add_special_tokens=False)["input_ids"]
        if not known[number] and ids and tokenizer.unk_token_id not in ids:
            expected = teacher.word_embeddings.weight[ids].mean(0)
            torch.testing.assert_close(encoder.word_embeddings.weight[number], expected)
            cut += 1
    assert cut > 5
    unnamed = student("ann", "aa", "bb", teachers=routes, template=starting(layers="random", embedding="mean"))
    with pytest.raises(ConfigError, match=r"'ann' starts from the pieces of a teacher without saying which"):
        build_group(make_job(world, tmp_path, unnamed))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (STUDENT.model_copy(update={"initialisation": InitialisationSection(embedding="copy")}), "cannot be copied"),
        (starting(layers="random", embedding="svd"), "svd cuts rows down"),
    ],
)
def test_rows_of_widths_that_do_not_fit_are_refused(
    world: World, tmp_path: Path, template: StudentTemplate, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_group(make_job(world, tmp_path, student("ann", "aa", template=template)))


def test_svd_keeps_the_leading_directions_of_the_rows(world: World, tmp_path: Path) -> None:
    template = STUDENT.model_copy(update={"initialisation": InitialisationSection(embedding="svd")})
    job = make_job(world, tmp_path, student("ann", "aa", template=template), vocabulary="full")
    built = build_group(job)
    model = world.facts["mixed"].section.model
    assert model is not None
    rows = load_encoder(model, need_head=True).word_embeddings.weight.detach()
    left, values, _ = torch.linalg.svd(rows, full_matrices=False)
    expected = left[:, :16] * values[:16]
    table = torch.from_numpy(built.vocabularies["ann"].map("mixed").astype("int64"))
    found = built.module.encoder("ann").word_embeddings.weight.detach()[table]
    torch.testing.assert_close(found @ found.T, expected @ expected.T, rtol=0, atol=1e-3)


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
