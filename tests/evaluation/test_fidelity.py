"""The fidelity sums by hand, beside torch's own losses, and under everything that must not change them."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.evaluation import fidelity
from orchestrator.evaluation.fidelity import Labels, MaskedHead, MaskedScore, TeacherView, score

UNK = 1


def head(seed: int, *, positions: int = 9, width: int = 6, vocabulary: int = 12, scale: float = 1.0) -> MaskedHead:
    random = torch.Generator().manual_seed(seed)
    return MaskedHead(
        states=torch.randn(positions, width, generator=random) * scale,
        weight=torch.randn(vocabulary, width, generator=random),
        bias=torch.randn(vocabulary, generator=random),
    )


def labels(seed: int, *, positions: int = 9, vocabulary: int = 12) -> Labels:
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, vocabulary, (positions,), generator=random)
    return Labels(ids, torch.zeros(positions, dtype=torch.bool), torch.full((positions,), 3))


def from_probs(probs: list[list[float]]) -> MaskedHead:
    """A head whose log-probabilities are those of `probs`: the states are positions, the weight their logits."""
    logits = torch.tensor(probs).log()
    return MaskedHead(torch.eye(len(probs)), logits.T.contiguous(), None)


def test_by_hand() -> None:
    """Three positions over the ids pad, unk, a, b: right, wrong, and a token that the model lacks."""
    model = from_probs([[0.1, 0.1, 0.7, 0.1], [0.1, 0.1, 0.2, 0.6], [0.25, 0.25, 0.25, 0.25]])
    truth = Labels(torch.tensor([2, 2, UNK]), torch.tensor([False, False, True]), torch.tensor([1, 1, 4]))
    found = score(model, truth, unk=UNK)
    assert (found.count, found.correct, found.unknown) == (3, 1, 1)
    bits = -math.log2(0.7) - math.log2(0.2) - math.log2(0.25) + 8 * 4
    assert found.nats / math.log(2) == pytest.approx(bits, rel=1e-6)


def test_teacher_by_hand() -> None:
    """Teacher ids pad, unk, x, y, z go to 0, 1, 3, 2 and nowhere; the student's id 4 is nobody's."""
    teacher = TeacherView(
        from_probs([[0.05, 0.05, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1, 0.6]]), torch.tensor([0, 1, 3, 2, -1])
    )
    student = from_probs([[0.1, 0.1, 0.2, 0.4, 0.2], [0.2, 0.2, 0.2, 0.2, 0.2]])
    truth = Labels(torch.tensor([2, 3]), torch.zeros(2, dtype=torch.bool), torch.ones(2, dtype=torch.int64))
    found = score(student, truth, unk=UNK, teacher=teacher)
    assert found.agreed == 1  # x is 3; z has no id, so no choice agrees with it
    first = 0.05 * math.log(0.05 / 0.1) + 0.5 * math.log(0.5 / 0.4) + 0.25 * math.log(0.25 / 0.3)
    second = 3 * 0.1 * math.log(0.1 / 0.2) + 0.7 * math.log(0.7 / 0.4)
    assert found.divergence == pytest.approx(first + second, rel=1e-5)
    assert found.outside == pytest.approx(0.25 + 0.7, rel=1e-5)
    first_shared = 0.05 * math.log(0.05 / 0.1) + 0.5 * math.log(0.5 / 0.4) - 0.75 * math.log(0.75 / 0.7)
    assert found.shared_divergence == pytest.approx(first_shared, rel=1e-4)  # in the second, shares are as they should


def test_cross_entropy_and_divergence_of_torch() -> None:
    model, other, truth = head(0), head(1), labels(2)
    found = score(model, truth, unk=UNK, teacher=TeacherView(other, torch.arange(12)))
    logits = model.states @ model.weight.T + model.bias
    teacher_logits = other.states @ other.weight.T + other.bias
    expected = torch.nn.functional.cross_entropy(logits, truth.ids, reduction="sum")
    divergence = torch.nn.functional.kl_div(
        logits.log_softmax(-1), teacher_logits.log_softmax(-1), reduction="sum", log_target=True
    )
    assert found.nats == pytest.approx(float(expected), rel=1e-5)
    assert found.divergence == pytest.approx(float(divergence), rel=1e-4)
    assert found.agreed == int((logits.argmax(-1) == teacher_logits.argmax(-1)).sum())
    assert found.correct == int((logits.argmax(-1) == truth.ids).sum())


def test_a_teacher_agrees_with_itself() -> None:
    model = head(4)
    found = score(model, labels(4), unk=UNK, teacher=TeacherView(model, torch.arange(12)))
    assert found.agreed == 9
    assert found.divergence == pytest.approx(0.0, abs=1e-5)


def test_two_teacher_ids_of_one_token_are_added() -> None:
    teacher = TeacherView(from_probs([[0.1, 0.1, 0.4, 0.4]]), torch.tensor([0, 1, 2, 2]))
    student = from_probs([[0.1, 0.1, 0.8]])
    truth = Labels(torch.tensor([2]), torch.tensor([False]), torch.tensor([1]))
    found = score(student, truth, unk=UNK, teacher=teacher)
    assert (found.agreed, found.divergence) == (1, pytest.approx(0.0, abs=1e-6))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(2, 30))
def test_divergence_is_never_negative(seed: int, student_size: int, teacher_size: int) -> None:
    random = torch.Generator().manual_seed(seed)
    id_map = torch.randint(-1, student_size, (teacher_size,), generator=random)
    student, teacher = head(seed, vocabulary=student_size), head(seed + 1, vocabulary=teacher_size, scale=3.0)
    truth = Labels(torch.full((9,), UNK), torch.ones(9, dtype=torch.bool), torch.ones(9, dtype=torch.int64))
    found = score(student, truth, unk=UNK, teacher=TeacherView(teacher, id_map))
    assert found.divergence >= -1e-5
    assert -1e-4 <= found.shared_divergence <= found.divergence + 1e-4
    assert 0 <= found.outside <= 9 + 1e-4


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, truth, teacher = (
        head(0, positions=100),
        labels(1, positions=100),
        TeacherView(head(2, positions=100), torch.arange(12)),
    )
    whole = score(model, truth, unk=UNK, teacher=teacher)
    monkeypatch.setattr(fidelity, "_CHUNK_ELEMENTS", 1)
    parts = score(model, truth, unk=UNK, teacher=teacher)
    assert (parts.count, parts.correct, parts.agreed) == (whole.count, whole.correct, whole.agreed)
    assert parts.nats == pytest.approx(whole.nats, rel=1e-6)
    assert parts.divergence == pytest.approx(whole.divergence, rel=1e-5)


def test_scores_add_up() -> None:
    assert MaskedScore(2, 1, 0, 3.0) + MaskedScore(3, 1, 1, 4.5, 2) == MaskedScore(5, 2, 1, 7.5, 2)


def test_mass_on_many_tokens_that_a_model_lacks_loses_no_digits() -> None:
    """Of 40 000 ids 8 are shared; the same in float64, several students of one teacher."""
    teacher, student, truth = head(0, vocabulary=40_000), head(1), labels(2)
    id_map = torch.full((40_000,), -1)
    id_map[5:20_000:2_500] = torch.arange(2, 10)
    exact = MaskedHead(*(part.double() for part in (teacher.states, teacher.weight, teacher.bias) if part is not None))
    own = MaskedHead(*(part.double() for part in (student.states, student.weight, student.bias) if part is not None))
    expected = score(own, truth, unk=UNK, teacher=TeacherView(exact, id_map))
    for _ in range(2):
        found = score(student, truth, unk=UNK, teacher=TeacherView(teacher, id_map))
        assert found.divergence == pytest.approx(expected.divergence, rel=1e-6)
        assert found.outside == pytest.approx(expected.outside, rel=1e-6)
