"""What students of a group share, and what they do not."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from orchestrator.config.models import ShareSection, StudentTemplate
from orchestrator.records import StateKey
from orchestrator.students.build import BuiltGroup, build_group, build_streams
from orchestrator.students.group import StudentGroup
from orchestrator.students.job import GroupJob
from orchestrator.students.objective import backward, micro_batch, total_counts
from orchestrator.students.optimising import make_optimiser
from tests.students.tiny import ALL, STUDENT, World, make_job, student, whole
from vocab_tools.mapping import open_vocabulary

ARCHITECTURES = ("bert", "roberta", "distilbert", "electra", "modernbert")


def make_group(
    world: World, root: Path, share: ShareSection, template: StudentTemplate = STUDENT
) -> tuple[GroupJob, BuiltGroup]:
    students = (student("ann", "aa", template=template), student("bob", "bb", template=template))
    job = make_job(world, root, *students, share=share)
    return job, build_group(job)


def gradients(job: GroupJob, built: BuiltGroup, *names: str) -> dict[str, Tensor]:
    """Gradients of one step of these students, under the parameters' names."""
    group = built.module
    group.zero_grad(set_to_none=True)
    streams = build_streams(job, built.vocabularies, cursors={})
    for name in names:
        [batch] = streams[name].step(1)
        micro = micro_batch(built.terms[name][0][batch.language], batch, device=torch.device("cpu"))
        backward(
            group,
            name,
            micro,
            denominators=total_counts([micro]),
            weights={term.name: 1.0 for term in micro.terms},
            known={},
            autocast=torch.autocast("cpu", torch.bfloat16, enabled=False),
        )
    return {name: p.grad.clone() for name, p in group.trained().items() if p.grad is not None}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("part", ["layer-2", "head"])
def test_a_shared_part_is_one_module(world: World, tmp_path: Path, architecture: str, part: str) -> None:
    template = STUDENT.model_copy(update={"architecture": architecture})
    _, built = make_group(world, tmp_path, ShareSection(parts=(part,)), template)
    ann, bob = (built.module.encoder(name) for name in ("ann", "bob"))
    if part == "head":
        paths = (ann.architecture.head.dense, ann.architecture.head.norm)
        shared = [(ann.model.get_submodule(path), bob.model.get_submodule(path)) for path in paths]
        assert ann.layers[1] is not bob.layers[1]
    else:
        shared = [(ann.layers[1], bob.layers[1])]
        assert ann.layers[0] is not bob.layers[0]
    assert all(mine is theirs for mine, theirs in shared)
    inside = {id(parameter) for module, _ in shared for parameter in module.parameters()}
    together = built.module.parts()[("ann", "bob")]
    assert {id(parameter) for parameter in together.values()} == inside
    assert len(built.module.trained()) == sum(len(names) for names in built.module.parts().values())


def test_parts_hold_every_trained_parameter_once(world: World, tmp_path: Path) -> None:
    _, apart = make_group(world, tmp_path, ShareSection())
    assert apart.module.parts().keys() == {("ann",), ("bob",)}
    _, built = make_group(world, tmp_path, ShareSection(parts=("embedding", "layer-1"), projections=True))
    parts = built.module.parts()
    assert parts.keys() == {("ann",), ("bob",), ("ann", "bob")}
    names = [name for part in parts.values() for name in part]
    assert sorted(names) == sorted(built.module.trained())
    shared = parts[("ann", "bob")]
    assert "embedding" in shared
    assert sum(name.startswith("projections.") for name in shared) == 3
    assert not any("word_embeddings" in name for name in names)


@pytest.mark.parametrize("part", ["embedding", "layer-1", "head", "projections"])
def test_a_shared_part_gets_the_gradients_of_all_and_is_stepped_once(world: World, tmp_path: Path, part: str) -> None:
    share = ShareSection(projections=True) if part == "projections" else ShareSection(parts=(part,))
    job, built = make_group(world, tmp_path, share)
    shared = built.module.parts()[("ann", "bob")]
    anns, bobs = gradients(job, built, "ann"), gradients(job, built, "bob")
    both = gradients(job, built, "ann", "bob")
    for name in shared:
        assert not torch.equal(anns[name], bobs[name])
        torch.testing.assert_close(both[name], anns[name] + bobs[name], rtol=1e-5, atol=1e-8)
    for name in both.keys() - shared.keys():
        mine = anns.get(name, torch.zeros(()))
        torch.testing.assert_close(both[name], mine + bobs.get(name, torch.zeros(())), rtol=1e-5, atol=1e-8)
    optimiser = make_optimiser(built.module.trained().values(), job.training)
    held = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert len(held) == len(set(held)) == len(built.module.trained())


def test_a_shared_embedding_has_one_row_per_token_of_the_group(world: World, tmp_path: Path) -> None:
    _, built = make_group(world, tmp_path, ShareSection(parts=("embedding",)))
    _, apart = make_group(world, tmp_path, ShareSection())
    tokens = {name: built.vocabularies[name].tokens for name in ("ann", "bob")}
    together = set(tokens["ann"]) | set(tokens["bob"])
    assert len(together) < len(tokens["ann"]) + len(tokens["bob"])
    group = built.module
    assert group.embedding is not None
    assert group.embedding.shape == (len(together), STUDENT.hidden_size)
    weights = {name: group.embedding_weight(name) for name in ("ann", "bob")}
    for number, token in enumerate(tokens["bob"]):
        if token in tokens["ann"]:
            assert torch.equal(weights["bob"][number], weights["ann"][tokens["ann"].index(token)])
        else:
            assert torch.equal(weights["bob"][number], apart.module.embedding_weight("bob")[number])
    assert torch.equal(weights["ann"], apart.module.embedding_weight("ann"))


def test_a_shared_embedding_is_trained_as_input_and_as_output(world: World, tmp_path: Path) -> None:
    """Its gradient is the sum of those that each student alone would give its own tied matrix."""
    job, built = make_group(world, tmp_path, ShareSection(parts=("embedding",)))
    apart_job, apart = make_group(world, tmp_path, ShareSection())
    with torch.no_grad():
        for name in ("ann", "bob"):
            apart.module.embedding_weight(name).copy_(built.module.embedding_weight(name))
    alone = gradients(apart_job, apart, "ann", "bob")
    assert built.module.embedding is not None
    expected = torch.zeros_like(built.module.embedding)
    for number in range(2):
        [own] = [gradient for key, gradient in alone.items() if f"encoders.{number}." in key and "word_embed" in key]
        expected.index_add_(0, built.module.get_buffer(f"slice_{number}"), own)
    torch.testing.assert_close(gradients(job, built, "ann", "bob")["embedding"], expected, rtol=1e-4, atol=1e-7)


def test_students_of_one_vocabulary_read_the_shared_embedding_itself(world: World, tmp_path: Path) -> None:
    """A slice that is the whole matrix costs no copy in each step; one in another order does."""
    _, built = make_group(world, tmp_path, ShareSection())
    ann, bob = (built.module.encoder(name) for name in ("ann", "bob"))
    rows = min(ann.vocab_size, bob.vocab_size)
    tokens = [f"t{number}" for number in range(rows)]
    for own in (tokens, tokens[::-1]):
        group = StudentGroup(
            {"ann": copy.deepcopy(ann), "bob": copy.deepcopy(bob)},
            share=ShareSection(parts=("embedding",)),
            tokens={"ann": tokens, "bob": own},
            projections={"ann": {}, "bob": {}},
        )
        assert group.embedding is not None
        assert group.embedding_weight("ann") is group.embedding
        assert (group.embedding_weight("bob") is group.embedding) == (own == tokens)
        torch.testing.assert_close(group.embedding_weight("bob"), group.embedding[[tokens.index(t) for t in own]])


def test_the_slices_are_written_into_the_encoders_for_export(world: World, tmp_path: Path) -> None:
    job, built = make_group(world, tmp_path, ShareSection(parts=("embedding",)))
    group = built.module
    assert group.embedding is not None
    with torch.no_grad():
        group.embedding.normal_()
    group.settle()
    streams = build_streams(job, built.vocabularies, cursors={})
    for name in ("ann", "bob"):
        encoder = group.encoder(name).eval()
        assert torch.equal(encoder.word_embeddings.weight, group.embedding_weight(name))
        assert encoder.decoder_weight is encoder.word_embeddings.weight
        [batch] = streams[name].step(1)
        with torch.no_grad():
            output = group.run(name, batch, states=(), head_at="masked")
            model = encoder.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        assert output.head_states is not None
        logits = torch.nn.functional.linear(output.head_states, output.decoder_weight, output.decoder_bias)
        torch.testing.assert_close(logits, model.logits.flatten(0, 1)[batch.masked_positions], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eager", [False, True], ids=["fused", "eager"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_forward_pass_is_the_models_own(world: World, tmp_path: Path, architecture: str, eager: bool) -> None:
    """Positions, padding and head as in the exported model, in every architecture and either kind of attention."""
    job, built = make_group(world, tmp_path, ShareSection(), STUDENT.model_copy(update={"architecture": architecture}))
    reader = build_streams(job, built.vocabularies, cursors={})["bob"].readers["bb"]
    batch = reader.batch(whole(reader), np.arange(12))
    assert int(batch.attention_mask.sum()) < batch.attention_mask.numel()
    encoder = built.module.encoder("bob").eval()
    with torch.no_grad():
        model = encoder.model(batch.input_ids, batch.attention_mask, output_hidden_states=True)
        if eager:
            built.module.attend_eagerly()
        keys = tuple(StateKey("hidden", layer) for layer in (0, 1, 2))
        output = built.module.run("bob", batch, states=keys, head_at="masked")
    assert output.head_states is not None
    logits = torch.nn.functional.linear(output.head_states, output.decoder_weight, output.decoder_bias)
    torch.testing.assert_close(logits, model.logits.flatten(0, 1)[batch.masked_positions], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        everywhere = built.module.run("bob", batch, states=(), head_at="all")
    torch.testing.assert_close(everywhere.head_states_at("masked", batch), output.head_states, rtol=1e-4, atol=1e-5)
    for layer, states in enumerate(model.hidden_states):
        last, expected = (s.flatten(0, 1)[batch.token_positions] for s in (output.states["hidden", layer], states))
        torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
    assert built.module.run("bob", batch, states=(), head_at=None).head_states is None


def test_what_a_student_starts_with_does_not_depend_on_the_others(world: World, tmp_path: Path) -> None:
    both = build_group(make_job(world, tmp_path, student("ann", "aa"), student("bob", "bb"))).module
    alone = build_group(make_job(world, tmp_path, student("bob", "bb"))).module
    other_seed = build_group(make_job(world, tmp_path, student("bob", "bb"), seed=6)).module
    for name, tensor in alone.encoder("bob").state_dict().items():
        assert torch.equal(tensor, both.encoder("bob").state_dict()[name]), name
    mine, theirs = both.encoder("ann").layers[0].state_dict(), both.encoder("bob").layers[0].state_dict()
    assert not torch.equal(mine["attention.self.query.weight"], theirs["attention.self.query.weight"])
    changed = other_seed.encoder("bob").layers[0].state_dict()["attention.self.query.weight"]
    assert not torch.equal(changed, theirs["attention.self.query.weight"])
    for key, projection in alone.projections.items():
        assert torch.equal(projection.weight, both.projections[key].weight)


def test_a_twin_starts_with_the_weights_of_its_origin(world: World, tmp_path: Path) -> None:
    template = STUDENT.model_copy(
        update={"initialisation": STUDENT.initialisation.model_copy(update={"embedding": "random"})}
    )
    origin = build_group(make_job(world, tmp_path, student("ann", "aa", template=template))).module
    named = student("ann-no-teacher", "aa", template=template, origin="ann", objectives=ALL[:1])
    twin = build_group(make_job(world, tmp_path, named)).module
    assert len(twin.projections) == 0
    for name, tensor in origin.encoder("ann").state_dict().items():
        assert torch.equal(tensor, twin.encoder("ann-no-teacher").state_dict()[name])


def test_embedding_rows_come_from_the_teacher_through_the_map(world: World, tmp_path: Path) -> None:
    template = STUDENT.model_copy(update={"hidden_size": 32})
    built = build_group(make_job(world, tmp_path, student("ann", "aa", template=template)))
    from transformers import AutoModelForMaskedLM

    teacher = AutoModelForMaskedLM.from_pretrained(world.facts["mixed"].section.model)
    matrix = teacher.get_input_embeddings().weight
    table = torch.from_numpy(open_vocabulary(world.vocabularies["aa"]).map("mixed").astype(np.int64))
    torch.testing.assert_close(built.module.embedding_weight("ann")[table[table >= 0]], matrix[table >= 0])
