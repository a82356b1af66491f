"""Figures by hand, and against torchmetrics."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch

from orchestrator.transfer.scoring import METRICS, score
from orchestrator.transfer.tasks import Examples


def told(*labels: list[int]) -> Examples:
    first = np.cumsum([0, *map(len, labels)])
    return Examples(tuple(tuple("w" * len(row)) for row in labels), np.array([*chain(*labels)]), first, "hash")


def test_words_against_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

    random = np.random.default_rng(0)
    truth, predicted = random.integers(5, size=200), random.integers(5, size=200)
    found = score(predicted, told(truth.tolist()), tuple("abcde"), kind="words")
    tensors = torch.from_numpy(predicted), torch.from_numpy(truth)
    assert found["accuracy"] == pytest.approx(multiclass_accuracy(*tensors, num_classes=5, average="micro").item())
    assert found["macro_f1"] == pytest.approx(multiclass_f1_score(*tensors, num_classes=5).item())
    assert tuple(found) == METRICS["words"]


def test_no_answer_is_wrong() -> None:
    found = score(np.array([0, -1, 1, 1]), told([0, 0], [1, 1]), ("a", "b"), kind="sentence")
    assert found["accuracy"] == 0.75
    assert found["macro_f1"] == pytest.approx((2 / 3 + 1) / 2)


def test_entities_count_whole() -> None:
    labels = ("B-PER", "I-PER", "B-LOC", "O")
    examples = told([0, 1, 3, 2], [0, 1])
    # of three entities one is right, one has the wrong end, one was never answered
    found = score(np.array([0, 1, 3, -1, 0, 3]), examples, labels, kind="entities")
    assert found == {"entity_f1": pytest.approx(0.4), "entity_precision": 0.5, "entity_recall": pytest.approx(1 / 3)}
    assert score(np.full(6, -1), examples, labels, kind="entities")["entity_f1"] == 0.0
    # an entity ends with its sentence
    assert score(np.array([3, 0]), told([3], [1]), labels, kind="entities")["entity_f1"] == 1.0
