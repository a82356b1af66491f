"""The loss of a step against the same sums written out with the models' own logits and hidden states."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from orchestrator.config.models import StudentTemplate
from orchestrator.config.objectives import HiddenStatesObjective, Objective, SoftTargetsObjective
from orchestrator.records import StateKey
from orchestrator.students.batch import Batch
from orchestrator.students.objective import micro_batch
from tests.students.bench import CPU, Bench, make_bench, step
from tests.students.tiny import ALL, HIDDEN, MASKED_LM, SOFT, World

COSINE = HiddenStatesObjective(type="hidden-states", distance="cosine", map="last", weight=0.7)
SHARP = SoftTargetsObjective(type="soft-targets", k=12, weight=0.5, tail="renormalise")


def written_out(bench: Bench, batch: Batch) -> dict[str, tuple[Tensor, int]]:
    """(sum, count) of each term, from the Hugging Face model's full logits, with dense distributions."""
    encoder, projections = bench.built.module.encoder("s"), bench.built.module.projections
    output = encoder.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, output_hidden_states=True)
    logits = output.logits.flatten(0, 1)[batch.masked_positions].double()
    found: dict[str, tuple[Tensor, int]] = {}
    for term in bench.terms:
        objective = term.objective
        if isinstance(objective, SoftTargetsObjective):
            found[term.name] = dense_soft_targets(objective, logits, batch)
        elif isinstance(objective, HiddenStatesObjective):
            total, count = torch.zeros((), dtype=torch.float64), 0
            for (mine, theirs), projection in zip(term.pairs, term.projections, strict=True):
                states = output.hidden_states[mine].flatten(0, 1)[batch.token_positions]
                states = states if projection is None else projections[projection.key](states)
                target = batch.states[StateKey("hidden", theirs)]
                if objective.distance == "mse":
                    total = total + (states - target).double().square().mean(-1).sum()
                else:
                    total = total + (1 - F.cosine_similarity(states.double(), target.double())).sum()
                count += len(target)
            found[term.name] = (total, count)
        else:
            total = F.cross_entropy(logits, batch.labels, ignore_index=-1, reduction="sum")
            found[term.name] = (total, int((batch.labels >= 0).sum()))
    return found


def dense_soft_targets(objective: SoftTargetsObjective, logits: Tensor, batch: Batch) -> tuple[Tensor, int]:
    """Position by position: kept mass by student id, and what is left of the teacher in one bucket or nowhere."""
    T, total, count = objective.temperature, torch.zeros((), dtype=torch.float64), 0
    log_p = (logits / T).log_softmax(-1)
    nothing = torch.zeros(len(logits), dtype=torch.float64)  # at T = 1 neither partition is asked for
    partition_1, partition_t = (batch.targets.log_partition.get(t, nothing).double() for t in (1.0, T))
    for m in range(len(logits)):
        ids = batch.targets.topk_ids[m, : objective.k]
        if (ids < 0).all():
            continue
        count += 1
        masses: dict[int, float] = {}
        for student_id, log_prob in zip(ids.tolist(), batch.targets.topk_logprobs[m].tolist(), strict=False):
            if student_id >= 0:
                mass = float(torch.exp((log_prob + partition_1[m]) / T - partition_t[m]))
                masses[student_id] = masses.get(student_id, 0.0) + mass
        kept = torch.tensor(list(masses))
        t = torch.tensor(list(masses.values()), dtype=torch.float64)
        if objective.tail == "renormalise":
            t = t / t.sum()
        kl = (t * (t.log() - log_p[m, kept])).sum()
        if objective.tail == "ghost":
            rest = 1 - t.sum()
            kl = kl + rest * (rest.log() - torch.log1p(-log_p[m, kept].exp().sum()))
        total = total + T**2 * kl
    return total, count


@pytest.mark.parametrize(
    ("language", "teacher", "vocabulary", "objectives"),
    [
        ("aa", "mixed", "aa", ALL),
        ("bb", "mixed", "aa", (*ALL, COSINE)),  # a vocabulary that lacks many labels and kept ids
        ("bb", "other", "union", (SHARP, HIDDEN)),
        ("aa", "mixed", "both", (MASKED_LM,)),
        ("aa", "mixed", "both", (HIDDEN, COSINE)),
    ],
)
def test_a_step_is_the_weighted_mean_over_valid_elements(
    world: World, tmp_path: Path, language: str, teacher: str, vocabulary: str, objectives: tuple[Objective, ...]
) -> None:
    bench = make_bench(world, tmp_path, *objectives, language=language, teacher=teacher, vocabulary=vocabulary)
    micro = bench.micro(*range(0, 30, 2))
    expected = written_out(bench, micro.batch)
    assert {name: count for name, (_, count) in expected.items()} == micro.counts
    loss = sum(bench.weights[term.name] * expected[term.name][0] / expected[term.name][1] for term in bench.terms)
    assert isinstance(loss, Tensor)
    bench.built.module.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {n: p.grad.clone() for n, p in bench.built.module.trained().items() if p.grad is not None}

    value, terms, found = step(bench, micro)
    assert value == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, (total, count) in expected.items():
        assert terms[name] == pytest.approx(float(total.detach()) / count, rel=1e-4, abs=1e-6)
    assert found.keys() == gradients.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-3, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_a_step_does_not_depend_on_how_it_is_cut(world: World, tmp_path: Path) -> None:
    bench = make_bench(world, tmp_path, *ALL, COSINE, language="bb", vocabulary="aa")
    rows = list(range(40))
    whole = step(bench, bench.micro(*rows))
    for pieces in ([rows[:20], rows[20:]], [rows[:3], rows[3:4], rows[4:]], [rows[20:], rows[:20]]):
        loss, terms, gradients = step(bench, *(bench.micro(*piece) for piece in pieces))
        assert loss == pytest.approx(whole[0], rel=1e-5)
        assert terms == pytest.approx(whole[1], rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, whole[2][name], rtol=1e-4, atol=1e-6)


def test_padding_changes_nothing(world: World, tmp_path: Path) -> None:
    """A short row alone, and beside a long one whose terms do not count."""
    bench = make_bench(world, tmp_path, *ALL)
    short, long = bench.batch(0), bench.batch(1)
    for row in range(60):
        batch = bench.batch(row)
        short = batch if batch.num_tokens < short.num_tokens else short
        long = batch if batch.num_tokens > long.num_tokens else long
    assert short.num_tokens < long.num_tokens
    wide = short.input_ids.new_full((1, long.num_tokens), 7)
    wide[0, : short.num_tokens] = short.input_ids[0]
    mask = torch.zeros_like(wide)
    mask[0, : short.num_tokens] = 1
    padded = replace(short, input_ids=wide, attention_mask=mask)
    alone = step(bench, micro_batch(bench.terms, short, device=CPU))
    beside = step(bench, micro_batch(bench.terms, padded, device=CPU))
    assert beside[0] == pytest.approx(alone[0], rel=1e-5)
    for name, gradient in alone[2].items():
        torch.testing.assert_close(beside[2][name], gradient, rtol=1e-4, atol=1e-6)


def test_gradients_reach_the_student_and_its_projections_and_nothing_else(world: World, tmp_path: Path) -> None:
    bench = make_bench(world, tmp_path, *ALL)
    micro = bench.micro(*range(20))
    _, _, gradients = step(bench, micro)
    trained = bench.built.module.trained()
    assert gradients.keys() == trained.keys()
    assert all(bool((gradient != 0).any()) for gradient in gradients.values())
    assert sum(name.startswith("projections.") for name in gradients) == 3
    assert micro.batch.targets is not None
    told = [
        micro.batch.targets.topk_logprobs,
        *micro.batch.targets.log_partition.values(),
        *micro.batch.states.values(),
    ]
    assert not any(tensor.requires_grad or tensor.grad is not None for tensor in told)


def test_a_batch_without_any_valid_element_costs_nothing(world: World, tmp_path: Path) -> None:
    bench = make_bench(world, tmp_path, MASKED_LM, SOFT)
    batch = bench.batch(0)
    nothing = replace(batch, labels=torch.full_like(batch.labels, -1))
    nothing.targets.topk_ids.fill_(-1)
    silent = micro_batch(bench.terms, nothing, device=CPU)
    assert silent.counts == {"masked-lm": 0, "soft-targets": 0}
    loss, terms, gradients = step(bench, silent)
    assert loss == 0.0
    assert terms == {"masked-lm": 0.0, "soft-targets": 0.0}
    assert all(bool((gradient == 0).all()) for gradient in gradients.values())
    assert step(bench, bench.micro(0, 1), silent)[0] == step(bench, bench.micro(0, 1))[0]


def test_a_row_without_masked_positions_is_read(world: World, tmp_path: Path) -> None:
    bench = make_bench(world, tmp_path, *ALL)
    batch = bench.batch(0)
    none = slice(0, 0)
    bare = replace(
        batch,
        labels=batch.labels[none],
        masked_positions=batch.masked_positions[none],
        masked_tokens=batch.masked_tokens[none],
        targets=batch.targets.each(lambda values: values[none]),
    )
    loss, terms, _ = step(bench, micro_batch(bench.terms, bare, device=CPU))
    assert terms["masked-lm"] == terms["soft-targets"] == 0.0
    assert loss == pytest.approx(terms["hidden-states"], rel=1e-5)


@pytest.mark.parametrize("tail", ["ghost", "renormalise"])
def test_a_copy_of_the_teacher_has_nothing_to_learn_from_it(world: World, tmp_path: Path, tail: str) -> None:
    twin = StudentTemplate.model_validate(
        {
            "layers": 4,
            "hidden_size": 32,
            "heads": 2,
            "intermediate_size": 64,
            "max_positions": 32,
            "initialisation": {"layers": "teacher"},
        }
    )
    soft = SoftTargetsObjective.model_validate({"type": "soft-targets", "k": 12, "temperature": 2.0, "tail": tail})
    bench = make_bench(world, tmp_path, soft, HIDDEN, COSINE, vocabulary="full", template=twin)
    _, terms, _ = step(bench, bench.micro(*range(40)))
    assert terms["hidden-states"] < 1e-6
    assert terms["hidden-states-2"] < 1e-6
    if tail == "ghost":
        assert 0.0 <= terms["soft-targets"] + 1e-5 < 1e-4
    else:
        assert terms["soft-targets"] > 1e-3  # cut off and scaled up, the list is no longer what the teacher thinks
