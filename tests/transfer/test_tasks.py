"""Labelled tables become examples; what does not fit is named."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from orchestrator.config.transfer import TaskSection
from orchestrator.errors import DataError
from orchestrator.transfer.tasks import Task, read_task
from tests.transfer.tiny import tiny_task


def read(folder: Path, columns: dict[str, object], *, kind: str = "words", **options: object) -> Task:
    path = folder / "table.parquet"
    pq.write_table(pa.table(columns), path)
    section = TaskSection.model_validate({"kind": kind, "files": str(path), "label": "tag", **options})
    return read_task(section, name="pos", source="en")


TABLE: dict[str, object] = {
    "lang": ["en", "en", "de", "de"],
    "split": ["train", "test", "test", "test"],
    "bank": ["a", "a", "a", "b"],
    "tokens": [["I", "go"], ["you"], ["wir", "gehen", "."], ["er"]],
    "tag": [["P", "V"], ["P"], ["P", "V", "."], ["P"]],
}


def test_words_and_labels(tmp_path: Path) -> None:
    task = read(tmp_path, TABLE)
    assert task.labels == ("P", "V", ".")  # what only a test has comes after the classes
    assert task.num_classes == 2
    assert (task.train.words, task.train.label.tolist()) == ((("I", "go"),), [0, 1])
    assert set(task.test) == {"de", "en"}
    assert task.test["de"].label.tolist() == [0, 1, 2, 0]
    assert task.test["de"].first.tolist() == [0, 3, 4]


def test_rows_are_chosen_and_spread(tmp_path: Path) -> None:
    assert len(read(tmp_path, TABLE, test={"split": "test", "bank": "b"}).test["de"]) == 1
    assert len(read(tmp_path, TABLE, max_test=1).test["de"]) == 1
    task = tiny_task(tmp_path / "tiny", "sentence", max_train=5)
    assert len(task.train) == 5
    assert all(len(words) == 1 and " " in words[0] for words in task.train.words)


def test_the_content_decides_the_hash(tmp_path: Path) -> None:
    first = read(tmp_path, TABLE)
    again = read(tmp_path, TABLE)
    other = read(tmp_path, TABLE | {"tag": [["P", "P"], ["P"], ["P", "V", "."], ["P"]]})
    assert first.train.content_hash == again.train.content_hash != other.train.content_hash
    assert first.test["de"].content_hash == other.test["de"].content_hash


def test_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no column 'tags'; did you mean 'tag'"):
        read(tmp_path, TABLE, label="tags")
    with pytest.raises(DataError, match=r"'wir gehen \.' \(de\) has 3 words and 2 labels"):
        read(tmp_path, TABLE | {"tag": [["P", "V"], ["P"], ["P", "V"], ["P"]]})
    with pytest.raises(DataError, match="no training sentences in 'en'; there are some in de"):
        read(tmp_path, TABLE | {"lang": ["de", "en", "de", "de"]})
    with pytest.raises(DataError, match="train lets no row through"):
        read(tmp_path, TABLE, train={"split": "learn"})
    with pytest.raises(DataError, match="hold something else than words"):
        read(tmp_path, TABLE, kind="sentence", text="tokens")
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path, TABLE, files="nowhere.parquet")
