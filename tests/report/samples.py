"""A run that was never run: rows and logs of all three setups with plausible figures."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np

from orchestrator.records import MetricRow, TransferRow
from orchestrator.report.making import EMBEDDING, HEAD, LayerMap, Link, Making, ModelSize, Stage, TeacherPass

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
            for layer in range(depth + 1) if one < two else ():
                rising = quality * (0.4 + 0.5 * layer / depth)
                for metric, value in (("cka", rising), ("cka_shuffled", 0.003), ("neuron_correlation", rising / 2)):
                    yield MetricRow(model, role, here, metric, value, 400, 0, f"parallel:{source}", there, layer)


def probe_rows(model: str, role: Role, quality: float, *, depth: int) -> Iterator[MetricRow]:
    """A head fitted on each language and tested on every other, by layer."""
    for here in LANGUAGES:
        for there in LANGUAGES:
            for layer in range(depth + 1):
                value = 0.5 + quality * (0.2 if here == there else 0.1) * layer / depth
                yield MetricRow(model, role, here, "head_swap_accuracy", value, 90, 0, "probe:topic", there, layer)
            yield MetricRow(model, role, here, "head_swap_chance", 0.25, 90, 0, "probe:topic", there)


def transfer_rows(model: str, role: Role, quality: float, *, seeds: int = 2) -> Iterator[TransferRow]:
    """Two modes from English into every language."""
    for mode, lift in (("full-src", 0.0), ("sft", 0.05)):
        for target in LANGUAGES:
            for seed in range(seeds):
                value = quality + lift + 0.01 * seed - (0 if target == "en" else 0.1)
                cell = f"{model} {mode} {target} {seed}"
                for metric, shown in (("accuracy", value), ("macro_f1", value / 2), ("trained_parameters", 12345.0)):
                    yield TransferRow(
                        model, role, target, metric, shown, 90, seed, "test", "en", task="pos", mode=mode, cell=cell
                    )


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
    rows += probe_rows("multilingual", "teacher", 1.0, depth=12)
    rows += probe_rows("one-to-many", "student", 0.6, depth=4)
    return rows


def full_transfer() -> list[TransferRow]:
    """A teacher, the students and their twins."""
    return [
        *transfer_rows("multilingual", "teacher", 0.8),
        *transfer_rows("one-to-many", "student", 0.7),
        *transfer_rows("one-to-many-no-teacher", "baseline", 0.5),
    ]


def making() -> Making:
    """One teacher of four layers, students of two, in two stages."""
    links = (Link("hidden-states", 2, 1), Link("attention-probabilities", 2, 1), Link("hidden-states", 4, 2))
    stages = (
        Stage(("up",), 1, 50, links, frozenset({EMBEDDING, 1})),
        Stage(("out",), 51, 100, (Link("soft-targets", HEAD, HEAD), Link("masked-lm", None, HEAD))),
    )
    starts = (Link("start", EMBEDDING, EMBEDDING), Link("start", 2, 1), Link("start", 4, 2))
    return Making(
        passes=[TeacherPass("multilingual", 1000, 2.0, 900, {"hidden_02": 5000, "hidden_04": 5000, "topk_064": 700})],
        models=[
            ModelSize("multilingual", "teacher", 4, 384, 50_000, 40_000_000),
            ModelSize("one-to-many/en", "student", 2, 384, 900, 7_000_000),
        ],
        layer_maps=[LayerMap("multilingual", ("en", "de"), 4, 2, starts, "", stages)],
    )


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
                "phase": "up" if step <= steps // 2 else "out",
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
    (root / "transfer").mkdir()
    lines = (json.dumps(asdict(row)) for row in full_transfer())
    (root / "transfer" / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (root / "config.yaml").write_text(CONFIG, encoding="utf-8")
    students = [("one-to-one", "student"), *(("one-to-many", language) for language in LANGUAGES)]
    for seed, (setup, student) in enumerate(students):
        write_log(root, setup, student, seed=seed)
        write_log(root, setup, f"{student}-no-teacher", seed=seed + 100)
