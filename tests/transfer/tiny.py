"""A tiny run as it stands after training: students with vocabularies of their own, a teacher, and labelled text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from orchestrator.config.loading import parse_config
from orchestrator.config.transfer import TaskSection
from orchestrator.run import Run, make_run
from orchestrator.transfer.tasks import Task, read_task
from tests.evaluation.tiny import write_pair

LANGUAGES = ("xx", "yy")
WORDS = {language: [f"{language}{number}" for number in range(12)] for language in LANGUAGES}
#: Names that both languages have.
COMMON = ["ada", "bob"]
KINDS = ("words", "sentence", "entities")


def vocabulary(*languages: str) -> list[str]:
    """The tokens of a student of these languages, in an order of its own."""
    words = [word for language in languages for word in WORDS[language]]
    return [*words, *COMMON] if languages == ("xx",) else [*COMMON, *words]


def _sentence(language: str, random: np.random.Generator) -> list[str]:
    return [str(word) for word in random.choice([*WORDS[language], *COMMON], size=random.integers(2, 7))]


def _tag(word: str) -> str:
    """A name, or the parity of a word's number."""
    return "NAME" if word in COMMON else ("EVEN" if int(word[2:]) % 2 == 0 else "ODD")


def write_tables(folder: Path, *, train: int = 24, test: int = 10) -> Path:
    """Three tables, one per kind of task; training sentences in xx, test sentences in both."""
    random = np.random.default_rng(3)
    rows = [("xx", "train", _sentence("xx", random)) for _ in range(train)]
    rows += [(language, "test", _sentence(language, random)) for language in LANGUAGES for _ in range(test)]
    languages, splits, sentences = zip(*rows, strict=True)
    common = {"lang": languages, "split": splits}
    tags = [[_tag(word) for word in sentence] for sentence in sentences]
    entities = [["B-PER" if tag == "NAME" else "O" for tag in sentence] for sentence in tags]
    topics = [max(sentence, key=sentence.count) for sentence in tags]
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**common, "tokens": sentences, "upos": tags}), folder / "words.parquet")
    pq.write_table(pa.table({**common, "tokens": sentences, "ner": entities}), folder / "entities.parquet")
    texts = [" ".join(sentence) for sentence in sentences]
    pq.write_table(pa.table({**common, "text": texts, "category": topics}), folder / "sentence.parquet")
    return folder


def sections(folder: Path) -> dict[str, dict[str, object]]:
    """Each kind of task, under its kind as name."""
    label = {"words": "upos", "sentence": "category", "entities": "ner"}
    return {kind: {"kind": kind, "files": str(folder / f"{kind}.parquet"), "label": label[kind]} for kind in KINDS}


def tiny_task(folder: Path, kind: str, **options: object) -> Task:
    """Read from freshly written tables."""
    section = TaskSection.model_validate({**sections(write_tables(folder))[kind], **options})
    return read_task(section, name=kind, source="xx")


def tiny_run(folder: Path, *, setup: str = "one-to-many", untrained: Sequence[str] = ()) -> Run:
    """A run whose students look trained: their folders are there, with a receipt."""
    write_tables(folder / "tables")
    write_pair(folder / "teacher", vocabulary("xx", "yy"), layers=3, seed=1)
    config = {
        "run": {"root": str(folder / "run"), "seed": 5, "setup": setup},
        "corpus": {"max_length": 32, "languages": {language: f"{folder}/{language}.txt" for language in LANGUAGES}},
        "teachers": {"big": {"model": str(folder / "teacher"), "languages": list(LANGUAGES)}},
        "student": {"layers": 2, "hidden_size": 16, "heads": 2, "max_positions": 64},
        "objectives": [{"type": "soft-targets", "k": 4}],
        "transfer": {
            "steps": 3,
            "batch_size": 8,
            "adapter_width": 4,
            "threads": 1,
            "device": "cpu",
            "tasks": sections(folder / "tables"),
        },
    }
    run = make_run(parse_config(config, where="test"), setup=setup)
    for number, student in enumerate(run.expanded.students):
        if student.name not in untrained:
            final = run.students_folder / student.name / "final"
            write_pair(final, vocabulary(*student.languages), seed=10 + number)
            (final / "training.json").write_text(json.dumps({"fingerprint": student.name}))
    return run
