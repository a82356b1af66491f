"""A run that was never run: rows and logs of all three setups with plausible figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np

from orchestrator.records import MetricRow

LANGUAGES = ("de", "en", "fi", "ru")
CONFIG = "run:\n  root: runs/sample\ncorpus:\n  languages:\n    en: {train: {files: [text/en.txt]}}\n"

Role = Literal["student", "teacher", "baseline"]


def masked_rows(model: str, role: Role, language: str, accuracy: float, *, tokens: int = 4321) -> Iterator[MetricRow]:
    """Held-out and training rows of one model on one language."""
    for split, extra in (("held_out", 0.0), ("train", 0.03)):
        figures = {
            "masked_lm_accuracy": accuracy + extra,
            "masked_lm_nats": 6.0 - 6.0 * accuracy,
            "bits_per_character": 2.9 - 2.6 * accuracy,
            "unknown_share": 0.004,
        }
        if role != "teacher":
            figures |= {"teacher_agreement": accuracy + 0.15, "teacher_kl": 2.4 - 3.0 * accuracy}
            figures |= {"teacher_kl_shared": 2.0 - 2.5 * accuracy, "teacher_mass_outside": 0.02}
        for metric, value in figures.items():
            yield MetricRow(model, role, language, metric, value, tokens, 0, split)


def parallel_rows(
    model: str, role: Role, quality: float, *, depth: int, languages: tuple[str, ...] = LANGUAGES, source: str = "ntrex"
) -> Iterator[MetricRow]:
    """Retrieval of every pair by layer, best at the last."""
    for one, here in enumerate(languages):
        for two, there in enumerate(languages):
            if here == there:
                continue
            for layer in range(depth + 1):
                value = quality * (0.35 + 0.65 * layer / depth) * (1 - 0.06 * abs(one - two)) - 0.02 * one
                for metric, shift in (("retrieval_cosine", -0.04), ("retrieval_csls", 0.0)):
                    yield MetricRow(
                        model, role, here, metric, max(0.0, value + shift), 400, 0, f"parallel:{source}", there, layer
                    )
            yield MetricRow(model, role, here, "retrieval_chance", 1 / 400, 400, 0, f"parallel:{source}", there)
            if one < two:
                for metric, value in (("cka", quality * 0.9), ("cka_shuffled", 0.003)):
                    yield MetricRow(model, role, here, metric, value, 400, 0, f"parallel:{source}", there, depth)


def full_run() -> list[MetricRow]:
    """A teacher, one student of all languages, a student per language, and every one's no-teacher twin."""
    rows: list[MetricRow] = []
    for number, language in enumerate(LANGUAGES):
        shift = -0.02 * number
        rows += masked_rows("multilingual", "teacher", language, 0.41 + shift)
        rows += masked_rows("one-to-one/student", "student", language, 0.33 + shift)
        rows += masked_rows("one-to-one/student-no-teacher", "baseline", language, 0.27 + shift)
        rows += masked_rows(f"one-to-many/{language}", "student", language, 0.35 + 1.4 * shift)
        rows += masked_rows(f"one-to-many/{language}-no-teacher", "baseline", language, 0.29 + 1.4 * shift)
    rows += parallel_rows("multilingual", "teacher", 0.93, depth=12)
    rows += parallel_rows("one-to-one/student", "student", 0.74, depth=4)
    rows += parallel_rows("one-to-one/student-no-teacher", "baseline", 0.21, depth=4)
    rows += parallel_rows("one-to-many", "student", 0.62, depth=4)
    rows += parallel_rows("one-to-many-no-teacher", "baseline", 0.05, depth=4)
    return rows


def write_metrics(root: Path, rows: list[MetricRow]) -> None:
    """evaluation/metrics.jsonl as the pipeline leaves it."""
    path = root / "evaluation" / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(asdict(row))}\n" for row in rows), encoding="utf-8")


def write_log(root: Path, setup: str, student: str, *, seed: int = 0, steps: int = 400) -> None:
    """students/<setup>/<student>/metrics.jsonl with falling, noisy terms."""
    random = np.random.default_rng(seed)
    terms = ["masked-lm"] if student.endswith("-no-teacher") else ["masked-lm", "soft-targets", "hidden-states"]
    folder = root / "students" / setup / student
    folder.mkdir(parents=True)
    with (folder / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for step in range(10, steps + 1, 10):
            values = {
                term: float((8 - 2 * at) * np.exp(-step / 150) + 3 - at + random.normal(scale=0.12))
                for at, term in enumerate(terms)
            }
            row = {
                "step": step,
                "student": student,
                "loss": sum(values.values()),
                "terms": values,
                "tokens": step * 4000,
                "tokens_per_second": 5200 + float(random.normal(scale=200)),
                "data_wait_share": 0.012,
                "learning_rate": 5e-4,
            }
            file.write(f"{json.dumps(row)}\n")


def write_full_run(root: Path) -> None:
    """Everything that a report can show."""
    write_metrics(root, full_run())
    (root / "config.yaml").write_text(CONFIG, encoding="utf-8")
    students = [("one-to-one", "student"), *(("one-to-many", language) for language in LANGUAGES)]
    for seed, (setup, student) in enumerate(students):
        write_log(root, setup, student, seed=seed)
        write_log(root, setup, f"{student}-no-teacher", seed=seed + 100)
