"""The loop: only what a mode trains changes, joint is the sum of both, and a teacher's logits pull."""

from __future__ import annotations

import copy
import json
from itertools import chain
from pathlib import Path

import pytest
import torch

from orchestrator.config.transfer import TransferSection
from orchestrator.models.encoder import Encoder
from orchestrator.models.loading import load_encoder
from orchestrator.models.tokenizers import load_tokenizer
from orchestrator.transfer.job import Student, Training
from orchestrator.transfer.parts import Parts, prepare
from orchestrator.transfer.tagger import Tagger, make_head
from orchestrator.transfer.tasks import Task
from orchestrator.transfer.tokens import encode
from orchestrator.transfer.tuning import batches, logits_of, tune
from tests.evaluation.tiny import write_pair
from tests.transfer.tiny import tiny_task, vocabulary

OPTIONS = TransferSection(steps=4, batch_size=8, adapter_width=4, learning_rate=1e-2, light_learning_rate=1e-2)
Case = tuple[Task, Path]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    folder = tmp_path_factory.mktemp("tuning")
    student = write_pair(folder / "student", vocabulary("xx"))
    config = json.loads((student / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # two students would draw two masks
    (student / "config.json").write_text(json.dumps(config))
    return tiny_task(folder / "tables", "words"), student


def tuned(
    case: Case,
    what: str,
    *,
    copies: int = 1,
    top: int = 0,
    options: TransferSection = OPTIONS,
    teacher: torch.Tensor | None = None,
) -> tuple[Tagger, Parts, Encoder]:
    """The first tagger after training, what was trained, and the encoder as it was."""
    task, folder = case
    encoders = [load_encoder(str(folder), need_head=False) for _ in range(copies)]
    before, state = copy.deepcopy(encoders[0]), torch.random.get_rng_state()
    head = make_head(encoders[0].width, task.num_classes, seed=0)
    taggers = [Tagger(encoder, head) for encoder in encoders]
    training = Training(what, (Student("one", "one"),), 0, top=top)  # type: ignore[arg-type]
    parts = prepare(encoders, training, adapter_width=4)
    encoded = encode(task.train, load_tokenizer(str(folder)), kind="words", max_length=32)
    tune(
        taggers,
        [encoded] * copies,
        parts,
        examples=task.train,
        options=options,
        seed=0,
        teacher_logits=teacher,
        on_step=lambda tokens: None,
    )
    assert torch.equal(torch.random.get_rng_state(), state)  # of the whole process, left as it was
    return taggers[0], parts, before


def changed(after: Encoder, before: Encoder) -> set[str]:
    """Names of the original weights that are not what they were."""
    now = {name.replace("parametrizations.", "").removesuffix(".original"): w for name, w in after.named_parameters()}
    return {name for name, weight in before.named_parameters() if not torch.equal(now[name], weight)}


def test_full_changes_the_encoder_and_not_the_language_model_head(case: Case) -> None:
    tagger, _, before = tuned(case, "full")
    names = changed(tagger.encoder, before)
    assert any("layer.0." in name for name in names)
    assert any("word_embeddings" in name for name in names)
    assert not any("cls." in name for name in names)


@pytest.mark.parametrize(("top", "layers"), [(0, set()), (1, {"1"}), (2, {"0", "1"})])
def test_freeze_changes_the_top_alone(case: Case, top: int, layers: set[str]) -> None:
    tagger, _, before = tuned(case, "freeze", top=top)
    names = changed(tagger.encoder, before)
    assert all("encoder.layer." in name for name in names)
    assert {name.partition("layer.")[2][0] for name in names} == layers
    fresh = make_head(tagger.encoder.width, tagger.head.out_features, seed=0)
    assert not torch.equal(tagger.head.weight, fresh.weight)


@pytest.mark.parametrize("what", ["adapter", "bitfit"])
def test_small_parts_leave_every_weight_as_it_was(case: Case, what: str) -> None:
    tagger, parts, before = tuned(case, what)
    assert changed(tagger.encoder, before) == set()
    assert any(parameter.abs().max() > 0 for parameter in parts.light)


def test_the_same_seed_gives_the_same_numbers(case: Case) -> None:
    first, _, _ = tuned(case, "full")
    torch.manual_seed(10)  # which has no say
    again, _, _ = tuned(case, "full")
    assert torch.equal(first.head.weight, again.head.weight)
    assert changed(first.encoder, again.encoder) == set()


@pytest.mark.parametrize("what", ["adapter", "bitfit"])
def test_joint_of_two_equal_students_is_one_student(case: Case, what: str) -> None:
    one, parts, _ = tuned(case, what)
    joint, shared, _ = tuned(case, what, copies=2)
    for ours, theirs in zip(parts.light, shared.light, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one.head.weight, joint.head.weight, rtol=1e-3, atol=1e-4)


def test_it_learns(case: Case) -> None:
    task, folder = case
    options = OPTIONS.model_copy(update={"steps": 150, "learning_rate": 3e-3})
    tagger, _, _ = tuned(case, "full", options=options)
    encoded = encode(task.train, load_tokenizer(str(folder)), kind="words", max_length=32)
    logits = logits_of(tagger, encoded, num_units=len(task.train.label))
    assert (logits.argmax(dim=1).numpy() == task.train.label).mean() > 0.9


def test_a_teachers_logits_pull(case: Case) -> None:
    task, folder = case
    options = OPTIONS.model_copy(update={"steps": 40, "distil_weight": 50.0})
    wanted = torch.zeros(len(task.train.label), task.num_classes)
    wanted[:, 1] = 3.0  # whatever the truth is
    encoded = encode(task.train, load_tokenizer(str(folder)), kind="words", max_length=32)
    tagger, _, _ = tuned(case, "full", options=options, teacher=wanted)
    logits = logits_of(tagger, encoded, num_units=len(wanted))
    assert (logits - wanted).square().mean() < 0.5
    silent, _, _ = tuned(case, "full", teacher=torch.full_like(wanted, torch.nan))
    plain, _, _ = tuned(case, "full")
    assert torch.equal(silent.head.weight, plain.head.weight)


def test_every_sentence_comes_once_an_epoch_and_seeds_differ(case: Case) -> None:
    examples = case[0].train
    steps = [batch.tolist() for batch in batches(examples, size=5, steps=10, seed=1)]
    epoch = len(examples) // 5 + 1
    assert sorted(chain(*steps[:epoch])) == list(range(len(examples)))
    assert sorted(chain(*steps[epoch : 2 * epoch])) == list(range(len(examples)))
    assert steps != [batch.tolist() for batch in batches(examples, size=5, steps=10, seed=2)]
    assert len(steps) == 10
