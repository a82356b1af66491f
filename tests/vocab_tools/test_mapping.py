"""A vocabulary folder is there whole or not at all, and is refused when it no longer fits its hashes or its teacher."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest

from tests.vocab_tools.tiny import make_tokenizer
from vocab_tools import VocabularyError, VocabularySource, build_vocabulary, files, open_vocabulary


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> list[VocabularySource]:
    root = tmp_path_factory.mktemp("teachers")
    return [
        VocabularySource("uni", make_tokenizer("unigram", root / "uni"), tokenizer_names=("de", "fr")),
        VocabularySource("word", make_tokenizer("wordpiece-cased", root / "word"), tokenizer_names=("en", "word")),
    ]


@pytest.fixture
def folder(teachers: list[VocabularySource], tmp_path: Path) -> Path:
    build_vocabulary(teachers, tmp_path / "out")
    return tmp_path / "out"


def test_everything_promised_is_there(folder: Path) -> None:
    vocabulary = open_vocabulary(folder)
    assert vocabulary.names == ("uni", "word")
    assert sorted(path.name for path in (folder / "tokenizers").iterdir()) == [
        "de",
        "en",
        "fr",
        "merged",
        "uni",
        "word",
    ]
    assert {path.name for path in folder.iterdir()} == {
        "vocab.json", "maps", "tokenizers", "mapping.json", "report.json", "report.html", "merged.tsv"
    }  # fmt: skip
    assert [path for path in folder.parent.iterdir() if ".tmp-" in path.name] == []
    tokens = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    assert list(tokens) == [str(index) for index in range(vocabulary.size)]
    assert vocabulary.map("uni").dtype == np.int32
    assert not vocabulary.map("uni").flags.writeable
    assert (folder / "tokenizers/de/tokenizer.json").read_bytes() == (
        folder / "tokenizers/uni/tokenizer.json"
    ).read_bytes()
    vocabulary.verify()


@pytest.mark.parametrize("file", ["vocab.json", "maps/uni.npy"])
def test_changed_maps_are_refused_at_once(folder: Path, file: str) -> None:
    data = bytearray((folder / file).read_bytes())
    data[-3] ^= 1
    (folder / file).write_bytes(data)
    with pytest.raises(VocabularyError, match="was changed"):
        open_vocabulary(folder)


def test_changed_tokenizers_are_refused_when_used(folder: Path) -> None:
    (folder / "tokenizers/de/tokenizer_config.json").write_text("{}")
    vocabulary = open_vocabulary(folder)
    with pytest.raises(VocabularyError, match="was changed"):
        vocabulary.tokenizer_folder("de")
    with pytest.raises(VocabularyError, match="was changed"):
        vocabulary.verify()
    vocabulary.tokenizer_folder("fr")


def test_missing_damaged_and_future_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(VocabularyError, match="no vocabulary folder"):
        open_vocabulary(tmp_path / "nothing")
    document = json.loads((folder / "mapping.json").read_text())
    (folder / "maps/uni.npy").unlink()
    with pytest.raises(VocabularyError, match="cannot be read"):
        open_vocabulary(folder)
    for content, message in (
        ("{", "damaged"),
        ("{}", "damaged"),
        (json.dumps({**document, "format": 99}), "format 99"),
    ):
        (folder / "mapping.json").write_text(content)
        with pytest.raises(VocabularyError, match=message):
            open_vocabulary(folder)


def test_another_teacher_and_unknown_names_are_refused(folder: Path, teachers: list[VocabularySource]) -> None:
    vocabulary = open_vocabulary(folder)
    vocabulary.require_teacher("uni", teachers[0].tokenizer)
    with pytest.raises(VocabularyError, match="another tokenizer"):
        vocabulary.require_teacher("uni", teachers[1].tokenizer)
    with pytest.raises(VocabularyError, match="knows no 'it'; it has"):
        vocabulary.tokenizer_folder("it")
    with pytest.raises(VocabularyError, match="knows no 'de'"):
        vocabulary.map("de")


def test_a_vocabulary_is_replaced_and_anything_else_is_not(teachers: list[VocabularySource], folder: Path) -> None:
    build_vocabulary(teachers[:1], folder)
    assert open_vocabulary(folder).names == ("uni",)
    other = folder.parent / "precious"
    other.mkdir()
    (other / "thesis.tex").write_text("...")
    with pytest.raises(VocabularyError, match="is no vocabulary"):
        build_vocabulary(teachers, other)
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


def test_a_failure_leaves_the_old_folder_and_nothing_else(
    teachers: list[VocabularySource], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_flush", full_disk)
    with pytest.raises(VocabularyError, match=r"No space left on device .* MiB are free"):
        build_vocabulary(teachers[:1], folder)
    with pytest.raises(VocabularyError, match="No space left"):
        build_vocabulary(teachers[:1], folder.parent / "new")
    assert open_vocabulary(folder).names == ("uni", "word")
    assert [path.name for path in folder.parent.iterdir()] == ["out"]


def test_a_failure_between_the_two_renames_brings_the_old_folder_back(
    teachers: list[VocabularySource], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def once(self: Path, target: Path) -> Path:
        if Path(target) == folder and "old" not in self.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(VocabularyError, match="Input/output error"):
        build_vocabulary(teachers[:1], folder)
    assert open_vocabulary(folder).names == ("uni", "word")
