"""The bookkeeping of the experiment on recipes: ends of training, means, the table, and that its runs are valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.loading import load_config
from orchestrator.config.setups import expand
from orchestrator.records import MetricRow
from tests.experiments.measuring import Row, first_and_last, scores, speed
from tests.experiments.plans import CONTROLS, RECIPES, Plan, configuration, together
from tests.experiments.table import markdown


def test_terms_are_compared_within_their_phase() -> None:
    metrics: list[dict[str, object]] = [
        {"phase": "a", "terms": {"x": 30.0 - step}, "tokens": 100 * step, "tokens_per_second": 50.0}
        for step in range(1, 21)
    ]
    metrics += [{"phase": "b", "terms": {"x": float(step), "y": 1.0}, "tokens": 2000 + step} for step in (1, 2)]
    assert first_and_last(metrics) == {"a/x": (28.5, 10.5), "b/x": (1.0, 2.0), "b/y": (1.0, 1.0)}
    assert speed(metrics[:20]) == pytest.approx(50.0)
    assert Row("r", 1, 5, terms=first_and_last(metrics)).fell == (1, 3)


def test_scores_are_means_over_languages_and_the_best_layer_is_found() -> None:
    def row(metric: str, value: float, split: str = "held_out", layer: int | None = None) -> MetricRow:
        return MetricRow("m", "student", "en", metric, value, 1, 1, split=split, layer=layer)

    found = scores(
        [
            row("masked_lm_accuracy", 0.2),
            row("masked_lm_accuracy", 0.4),
            row("masked_lm_accuracy", 0.9, split="train"),
            row("retrieval_csls", 0.1, "parallel:ntrex", 0),
            row("retrieval_csls", 0.5, "parallel:ntrex", 1),
            row("retrieval_csls", 0.3, "parallel:ntrex", 1),
            row("retrieval_csls", 0.2, "parallel:ntrex", 2),
            row("retrieval_cosine", 1.0, "parallel:ntrex", 2),
        ]
    )
    assert found["accuracy"] == pytest.approx(0.3)
    assert (found["retrieval_last"], found["best_layer"]) == (0.2, 1)
    assert found["retrieval_best"] == pytest.approx(0.4)
    assert found["kl"] is None


def test_the_table_has_means_spreads_and_the_best_in_bold() -> None:
    rows = [
        Row("hinton", 1, 9, accuracy=0.30, bits_per_character=2.0, terms={"all/soft-targets": (4.0, 2.0)}),
        Row("hinton", 2, 9, accuracy=0.32, bits_per_character=2.2, terms={"all/soft-targets": (4.0, 3.0)}),
        Row("minilm", 1, 9, accuracy=0.10, bits_per_character=1.0, terms={"all/relations": (1.0, 2.0)}),
        Row("teacher", 1, 0, accuracy=0.9),
    ]
    lines = markdown(rows).splitlines()
    assert "| hinton | **31.0** ± 1.4 | 2.100 ± 0.141 | – |" in "\n".join(lines)
    assert "| *teacher* | 90.0 ± 0.0 | – |" in "\n".join(lines)
    assert next(line for line in lines if line.startswith("| minilm")).endswith("| 0 of 1 |")
    assert "- hinton: soft-targets 4 → 2.5" in lines


@pytest.mark.parametrize("name", [*CONTROLS, *RECIPES])
def test_every_row_is_a_valid_configuration_of_one_student(tmp_path: Path, name: str) -> None:
    import yaml

    plan = Plan(out=tmp_path, steps=20, max_texts=None, max_pairs=9, threads=1, tokens_per_batch=512)
    path = tmp_path / "orch.yaml"
    path.write_text(yaml.safe_dump(configuration(plan, name, seed=3)), encoding="utf-8")
    run = expand(load_config(path))
    assert [student.name for student in run.students] == ["student"]
    assert run.config.run.seed == 3
    path.write_text(yaml.safe_dump(together(plan, [name], seed=3)), encoding="utf-8")
    wanted = {objective.type for objective in run.students[0].objectives}
    assert {objective.type for objective in load_config(path).objectives} == wanted
