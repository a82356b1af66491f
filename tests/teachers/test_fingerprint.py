"""Whatever decides a store's bytes is in its fingerprint; what is kept of a teacher is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.errors import DataError
from orchestrator.records import BatchPlan
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.teachers.fingerprint import fingerprint_parts
from tests.teachers.conftest import TinyRun

PLAN = BatchPlan(tokens_per_batch=64, threads=1, dtype="float32")


def _digest(run: TinyRun, **changes: object) -> str:
    options: dict[str, object] = {"seed": 0, "codec": "int8", "plan": PLAN} | changes
    parts = fingerprint_parts(run.teacher, run.corpus, run.corpus_section, **options)  # type: ignore[arg-type]
    return Fingerprint(parts).digest


def test_parts_are_in_clear(tiny_run: TinyRun) -> None:
    parts = fingerprint_parts(
        tiny_run.teacher, tiny_run.corpus, tiny_run.corpus_section, seed=7, codec="int8", plan=PLAN
    )
    assert list(parts) == [
        "format", "teacher_weights", "tokenizer", "corpus", "languages", "texts", "max_length", "packing", "masking",
        "seed", "hidden_codec", "tokens_per_batch", "threads", "dtype",
    ]  # fmt: skip
    assert parts["seed"] == 7
    assert parts["masking"] == {"probability": 0.15, "whole_word": False, "copies": 2}
    assert parts["corpus"] == tiny_run.corpus.fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"codec": "fp16"},
        {"plan": replace(PLAN, tokens_per_batch=65)},
        {"plan": replace(PLAN, threads=2)},
        {"plan": replace(PLAN, dtype="bfloat16")},
    ],
)
def test_another_input_is_another_store(tiny_run: TinyRun, changes: dict[str, object]) -> None:
    assert _digest(tiny_run, **changes) != _digest(tiny_run)


def test_another_masking_or_corpus_is_another_store(tiny_run: TinyRun) -> None:
    section = tiny_run.corpus_section
    for update in (
        {"max_length": 30},
        {"packing": True},
        {"masking": section.masking.model_copy(update={"copies": 3})},
    ):
        other = replace(tiny_run, corpus_section=section.model_copy(update=update))
        assert _digest(other) != _digest(tiny_run)


def test_a_tokenizer_alone_has_no_weights(tiny_run: TinyRun) -> None:
    alone = tiny_run.teacher.model_copy(update={"model": None, "tokenizer": tiny_run.teacher.model})
    parts = fingerprint_parts(alone, tiny_run.corpus, tiny_run.corpus_section, seed=0, codec="int8", plan=PLAN)
    assert parts["teacher_weights"] is None


def test_a_missing_teacher_is_named(tiny_run: TinyRun, tmp_path: Path) -> None:
    gone = tiny_run.teacher.model_copy(update={"model": str(tmp_path / "gone")})
    with pytest.raises(DataError, match="gone: there is no such folder"):
        _digest(replace(tiny_run, teacher=gone))
