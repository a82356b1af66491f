"""Heads that are swapped, beside scikit-learn used by hand, and tables that no head can be fitted on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score

from orchestrator.config.run import EvaluationSection
from orchestrator.errors import DataError
from orchestrator.evaluation.probing import Probe, head_swaps, majority_share, read_probes

LABELS = ("a", "b", "c")


def read(folder: Path, columns: dict[str, list[str]], **options: object) -> Probe:
    pq.write_table(pa.table(columns), folder / "topics.parquet")
    task = {"kind": "sentence", "files": str(folder / "topics.parquet"), "label": "topic", **options}
    (probe,) = read_probes(EvaluationSection.model_validate({"probes": {"topic": task}}))
    return probe


def table(*, per_language: int = 40) -> dict[str, list[str]]:
    rows = [(lang, split, i) for lang in ("xx", "yy") for split in ("train", "test") for i in range(per_language)]
    return {
        "lang": [lang for lang, _, _ in rows],
        "split": [split for _, split, _ in rows],
        "text": [f"{lang} {split} {i}" for lang, split, i in rows],
        "topic": [LABELS[i % 4 % 3] for _, _, i in rows],  # "a" is half of all
    }


def states(probe: Probe, part: str, *, depth: int = 2, width: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    """Vectors in which labels lie apart, alike in both languages, the more the higher the layer."""
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(9).normal(size=(len(LABELS), width))
    sides = probe.train if part == "train" else probe.test
    return {
        language: np.stack(
            [
                layer * centres[[LABELS.index(label) for label in found.labels]]
                + random.normal(size=(len(found), width))
                for layer in range(depth + 1)
            ]
        ).astype(np.float32)
        for language, found in sides.items()
    }


def test_tables_by_language(tmp_path: Path) -> None:
    probe = read(tmp_path, table(), max_train=7, max_test=4)
    assert {lang: len(found) for lang, found in probe.train.items()} == {"xx": 7, "yy": 7}
    assert probe.test["yy"].texts == ("yy test 0", "yy test 10", "yy test 20", "yy test 30")
    assert probe.test["yy"].labels.tolist() == ["a", "c", "a", "c"]


def test_the_figures_of_scikit_learn_by_hand(tmp_path: Path) -> None:
    probe = read(tmp_path, table())
    train, test = states(probe, "train"), states(probe, "test", seed=1)
    found = {(swap.fitted, swap.tested, swap.layer): swap for swap in head_swaps(probe, train, test)}
    assert set(found) == {(a, b, layer) for a in ("xx", "yy") for b in ("xx", "yy") for layer in range(3)}
    for (fitted, tested, layer), swap in found.items():
        x = train[fitted][layer].astype(np.float64)
        mean, deviation = x.mean(axis=0), x.std(axis=0)
        head = LogisticRegression(max_iter=1000).fit((x - mean) / deviation, probe.train[fitted].labels)
        expected = accuracy_score(probe.test[tested].labels, head.predict((test[tested][layer] - mean) / deviation))
        assert swap.accuracy == pytest.approx(expected, abs=1 / 40)
        assert swap.n == 40
    assert found["xx", "yy", 2].accuracy > 0.8
    assert majority_share(probe, "xx", "yy") == 0.5


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    probe = read(tmp_path, table())
    train, test = states(probe, "train"), states(probe, "test", seed=1)
    assert list(head_swaps(probe, train, test)) == list(head_swaps(probe, train, test))


def test_layers_of_other_depths_and_widths(tmp_path: Path) -> None:
    """The last layers alone where depths differ, none where widths do; each at home as ever."""
    probe = read(tmp_path, table())
    train, test = states(probe, "train"), states(probe, "test")
    deep, wide = states(probe, "test", depth=4), states(probe, "test", width=6)
    found = [(s.fitted, s.tested, s.layer) for s in head_swaps(probe, train, {"xx": test["xx"], "yy": deep["yy"]})]
    assert found == [(a, b, layer) for a in ("xx", "yy") for b, layer in (("xx", 0), ("xx", 1), ("xx", 2), ("yy", 2))]
    found = [(s.fitted, s.tested) for s in head_swaps(probe, train, {"xx": test["xx"], "yy": wide["yy"]})]
    assert set(found) == {("xx", "xx"), ("yy", "xx")}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"max_train": 1},
            "evaluation.probes.topic: all 1 training sentences in 'xx' are 'a'; a probe needs two labels",
        ),
        ({"test": {"split": "tst"}}, "evaluation.probes.topic.test lets no row through"),
        ({"label": "topics"}, "no column 'topics'; did you mean 'topic'"),
        ({"files": "nowhere.parquet"}, "does not exist"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, options: dict[str, object], said: str) -> None:
    with pytest.raises(DataError) as raised:
        read(tmp_path, table(), **options)
    assert said in str(raised.value)
