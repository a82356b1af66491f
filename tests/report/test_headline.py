"""The headline: which figures are best, what may be compared, means, and the Markdown of it all."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.records import MetricRow
from orchestrator.report.headline import (
    MEAN,
    alignment,
    alignment_table,
    decimal,
    group_of,
    headline,
    markdown_table,
    means,
    percent,
)

from .samples import LANGUAGES, full_run, masked_rows, parallel_rows


def test_teachers_then_students_then_baselines_of_each_language() -> None:
    rows = headline(full_run())
    assert [row.model for row in rows if row.language == "fi"] == [
        "multilingual",
        "one-to-one/student",
        "one-to-many/fi",
        "one-to-one/student-no-teacher",
        "one-to-many/fi-no-teacher",
    ]
    assert list(dict.fromkeys(row.language for row in rows)) == list(LANGUAGES)


def test_values_come_from_their_metrics() -> None:
    row = next(row for row in headline(full_run()) if row.model == "one-to-many/en")
    assert row.figures.accuracy == pytest.approx(0.322)
    assert row.figures.kl == pytest.approx(2.4 - 3 * 0.322)
    assert row.tokens == 4321
    assert next(r for r in headline(full_run()) if r.role == "teacher").figures.agreement is None


def test_the_best_is_found_among_the_small_models_alone() -> None:
    rows = {row.model: row for row in headline(full_run()) if row.language == "en"}
    assert rows["one-to-many/en"].best == {"accuracy", "bits_per_character", "agreement", "kl"}
    assert all(not row.best for name, row in rows.items() if name != "one-to-many/en")


def test_a_baseline_that_wins_is_marked() -> None:
    rows = [*masked_rows("a", "student", "en", 0.2), *masked_rows("a-no-teacher", "baseline", "en", 0.3)]
    marked = {row.model: "accuracy" in row.best for row in headline(rows)}
    assert marked == {"a": False, "a-no-teacher": True}


def test_accuracy_is_compared_at_the_same_positions_only() -> None:
    rows = [
        *masked_rows("a", "student", "en", 0.2, tokens=100),
        *masked_rows("b", "student", "en", 0.25, tokens=100),
        *masked_rows("c", "student", "en", 0.4, tokens=90),
    ]
    best = {row.model: row.best for row in headline(rows)}
    assert best["b"] == {"accuracy", "agreement", "kl"}
    assert best["c"] == {"bits_per_character"}  # which every tokenizer shares


def test_one_student_alone_is_not_called_the_best() -> None:
    rows = [*masked_rows("t", "teacher", "en", 0.4), *masked_rows("a", "student", "en", 0.2)]
    assert all(not row.best for row in headline(rows))


@given(st.integers(0, 1000))
def test_the_order_of_rows_changes_only_the_order_of_languages(seed: int) -> None:
    rows = full_run()
    shuffled = random.Random(seed).sample(rows, len(rows))

    def key(row: object) -> str:
        return repr(row)

    assert sorted(headline(shuffled), key=key) == sorted(headline(rows), key=key)


def test_means_over_the_languages_of_a_setup() -> None:
    found = {(row.model, row.role): row for row in means(headline(full_run()))}
    assert set(found) == {
        ("multilingual", "teacher"),
        ("one-to-one", "student"),
        ("one-to-many", "student"),
        ("one-to-one", "baseline"),
        ("one-to-many", "baseline"),
    }
    assert found["one-to-one", "student"].figures.accuracy == pytest.approx(0.30)
    assert found["one-to-many", "student"].best == {"accuracy", "bits_per_character", "agreement", "kl"}
    assert {row.language for row in found.values()} == {MEAN}
    assert means(headline(list(masked_rows("a", "student", "en", 0.2)))) == []


@pytest.mark.parametrize(
    ("model", "group"),
    [("one-to-many/de", "one-to-many"), ("one-to-many-no-teacher", "one-to-many"), ("mbert", "mbert")],
)
def test_groups(model: str, group: str) -> None:
    assert group_of(model) == group


def test_alignment_takes_the_last_layer_and_all_directions() -> None:
    (row,) = alignment(parallel_rows("one-to-many", "student", 0.6, depth=4, languages=("de", "en")))
    assert (row.layer, row.directions, row.source) == (4, 2, "ntrex")
    assert row.csls == pytest.approx(0.6 * 0.94 - 0.01)
    assert (row.cka, row.chance) == (pytest.approx(0.54), pytest.approx(1 / 400))


def test_a_system_without_retrieval_is_left_out() -> None:
    rows = [MetricRow("s", "student", "de", "cka", 0.5, 400, 0, "parallel:ntrex", "en", 4)]
    assert alignment(rows) == []


def test_markdown() -> None:
    rows = [
        *masked_rows("big", "teacher", "en", 0.4),
        *masked_rows("a", "student", "en", 0.3),
        *masked_rows("a-no-teacher", "baseline", "en", 0.2),
    ]
    lines = markdown_table(headline(rows)).splitlines()
    assert lines[0].startswith("| language | model | role | accuracy |")
    assert lines[2] == "| en | big | teacher | 40.0 % | 1.86 | – | – | 4321 |"
    assert lines[3] == "| en | a | student | **30.0 %** | **2.12** | **45.0 %** | **1.50** | 4321 |"
    assert lines[4].startswith("| en | a-no-teacher | no teacher | 20.0 % |")
    assert {line.count("|") for line in lines} == {9}


def test_markdown_of_a_name_with_a_bar_stays_a_table() -> None:
    source = "a|b\nc"
    table = alignment_table(alignment(parallel_rows("s", "student", 0.6, depth=2, source=source)))
    assert "| a\\|b c | s | student | 2 |" in table
    assert len(table.splitlines()) == 3


@pytest.mark.parametrize(("value", "words"), [(None, "–"), (0.12345, "12.3 %"), (1.0, "100.0 %")])
def test_percent(value: float | None, words: str) -> None:
    assert percent(value) == words


def test_decimal() -> None:
    assert (decimal(None), decimal(1.005), decimal(-0.004)) == ("–", "1.00", "0.00")


def test_a_language_with_two_students_counts_once_in_the_mean() -> None:
    rows = [
        *masked_rows("set/en", "student", "en", 0.2),
        *masked_rows("set/both", "student", "en", 0.4),
        *masked_rows("set/both", "student", "de", 0.5),
    ]
    (mean,) = means(headline(rows))
    assert mean.figures.accuracy == pytest.approx((0.3 + 0.5) / 2)
