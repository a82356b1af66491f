"""Predictions against the truth: accuracy and macro F1 by scikit-learn, F1 of whole entities by seqeval.

Shape legend: U units with a label.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING

from orchestrator.config.transfer import TaskKind
from orchestrator.records import Int64

if TYPE_CHECKING:
    from orchestrator.transfer.tasks import Examples

#: The figure that a table shows of each kind of task.
MAIN_METRIC: Mapping[TaskKind, str] = {"sentence": "accuracy", "words": "accuracy", "entities": "entity_f1"}
METRICS: Mapping[TaskKind, tuple[str, ...]] = {
    "sentence": ("accuracy", "macro_f1"),
    "words": ("accuracy", "macro_f1"),
    "entities": ("entity_f1", "entity_precision", "entity_recall"),
}


def score(predicted: Int64, examples: Examples, labels: tuple[str, ...], *, kind: TaskKind) -> dict[str, float]:
    """Figures between 0 and 1; `predicted` [U] are indices of labels; -1, no answer, is wrong, or no entity."""
    if kind == "entities":
        return _entities(predicted, examples, labels)
    from sklearn.metrics import accuracy_score, f1_score

    there = sorted(set(examples.label.tolist()))
    return {
        "accuracy": float(accuracy_score(examples.label, predicted)),
        "macro_f1": float(f1_score(examples.label, predicted, labels=there, average="macro", zero_division=0)),
    }


def _entities(predicted: Int64, examples: Examples, labels: tuple[str, ...]) -> dict[str, float]:
    """Micro-averaged over entities, by the rules of CoNLL's own script."""
    from seqeval.metrics import f1_score, precision_score, recall_score

    def sentences(numbers: Int64) -> list[list[str]]:
        tags = [labels[number] if number >= 0 else "O" for number in numbers.tolist()]
        first = examples.first.tolist()
        return [tags[begin:end] for begin, end in pairwise(first)]

    truth, found = sentences(examples.label), sentences(predicted)
    return {
        "entity_f1": float(f1_score(truth, found, zero_division=0)),
        "entity_precision": float(precision_score(truth, found, zero_division=0)),
        "entity_recall": float(recall_score(truth, found, zero_division=0)),
    }
