"""The corpus on disk: the right texts in the right split, found again without reading, refused when damaged."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.config.corpus import CorpusSection
from orchestrator.corpus import store
from orchestrator.corpus.read import read_texts
from orchestrator.corpus.store import Corpus, build_corpus, open_corpus
from orchestrator.errors import DataError, StoreError
from orchestrator.storage import local as storage

TEXTS = [f"Satz Nummer {number} mit Übermaß" for number in range(1000)]


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return str(path)


def section(**languages: object) -> CorpusSection:
    return CorpusSection(languages=languages, held_out_share=0.1)


def build(root: Path, wanted: CorpusSection, *, seed: int = 0) -> Corpus:
    return build_corpus(wanted, root=root, seed=seed)


def split(corpus: Corpus, language: str, name: store.Split) -> list[str]:
    return corpus.texts(language, name, 0, corpus.info(language, name).num_texts)


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_FILE_BYTES", 4000)
    monkeypatch.setattr(store, "_BATCH_BYTES", 500)


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the sources are read")

    monkeypatch.setattr(store, "read_texts", refuse)
    yield
    monkeypatch.setattr(store, "read_texts", read_texts)


def test_splits_share_nothing_and_lose_nothing(tmp_path: Path, small_files: None) -> None:
    corpus = build(tmp_path / "run", section(de=write(tmp_path / "de.txt", TEXTS)))
    train, held_out = split(corpus, "de", "train"), split(corpus, "de", "held_out")
    assert sorted(train + held_out) == sorted(TEXTS)
    assert not set(train) & set(held_out)
    assert 60 < len(held_out) < 140
    assert held_out == sorted(held_out, key=TEXTS.index)
    assert corpus.info("de", "train") == store.SplitInfo(num_texts=len(train), num_characters=sum(map(len, train)))
    assert corpus.dropped_from_train("de") == 0
    assert len(list((corpus.folder / "de" / "train").iterdir())) > 5


def test_any_slice_is_read_across_files(tmp_path: Path, small_files: None) -> None:
    corpus = build(tmp_path / "run", section(de=write(tmp_path / "de.txt", TEXTS)))
    train = split(corpus, "de", "train")
    for first, count in [(0, 0), (0, 1), (17, 400), (len(train) - 1, 1), (len(train) - 3, 99), (5000, 3)]:
        assert corpus.texts("de", "train", first, count) == train[first : first + count]
    for count in (1, 7, 40, 333, 5000):
        sample = corpus.sample("de", count)
        assert sample == corpus.sample("de", count)
        assert len(set(sample)) == len(sample) == min(count, len(train))
        assert set(sample) <= set(train)


def test_duplicates_do_not_straddle_and_are_counted(tmp_path: Path) -> None:
    doubled = TEXTS + TEXTS[::-1] + [f"  {text} " for text in TEXTS]
    corpus = build(tmp_path / "run", section(de=write(tmp_path / "de.txt", doubled)))
    train, held_out = split(corpus, "de", "train"), split(corpus, "de", "held_out")
    assert not set(train) & set(held_out)
    assert len(set(held_out)) == len(held_out)
    assert len(train) + len(held_out) + corpus.dropped_from_train("de") == 3000
    written = json.loads((corpus.folder / "corpus.json").read_text())
    assert written["languages"]["de"]["dropped_from_train"] == corpus.dropped_from_train("de") >= 2 * len(held_out)


def test_given_held_out_text_is_taken_out_of_training(tmp_path: Path) -> None:
    files = {"train": {"files": write(tmp_path / "a.txt", TEXTS)}}
    files["held_out"] = {"files": write(tmp_path / "b.txt", [" Satz Nummer 7 mit Übermaß", "neu"])}
    corpus = build(tmp_path / "run", section(de=files))
    assert split(corpus, "de", "held_out") == ["Satz Nummer 7 mit Übermaß", "neu"]
    assert split(corpus, "de", "train") == TEXTS[:7] + TEXTS[8:]
    assert corpus.dropped_from_train("de") == 1


def test_it_is_found_again_without_reading(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    wanted = section(de=write(tmp_path / "de.txt", TEXTS), en=write(tmp_path / "en.txt", ["one", "two"]))
    first = build(tmp_path / "run", wanted)
    request.getfixturevalue("no_reading")
    again = build(tmp_path / "run", wanted)
    assert (again.folder, again.fingerprint, again.languages) == (first.folder, first.fingerprint, ("de", "en"))
    assert again.folder.parent == tmp_path / "run" / "corpus"
    sent = pickle.loads(pickle.dumps(again))
    assert sent.texts("en", "train", 0, 1) == first.texts("en", "train", 0, 1)


def test_the_folder_follows_the_inputs_and_the_fingerprint_the_texts(tmp_path: Path) -> None:
    path = write(tmp_path / "de.txt", TEXTS)
    root = tmp_path / "run"
    first = build(root, section(de=path))
    write(tmp_path / "copy.txt", TEXTS)
    copied = build(root, section(de=str(tmp_path / "copy.txt")))
    assert (copied.folder != first.folder, copied.fingerprint) == (True, first.fingerprint)
    other_seed = build(root, section(de=path), seed=1)
    assert other_seed.folder != first.folder
    assert other_seed.fingerprint != first.fingerprint
    assert sorted(split(other_seed, "de", "train") + split(other_seed, "de", "held_out")) == sorted(TEXTS)
    masked = CorpusSection(languages={"de": path}, held_out_share=0.1, max_length=64, masking={"copies": 3})
    assert build(root, masked).folder == first.folder
    write(tmp_path / "de.txt", [*TEXTS, "mehr"])
    assert build(root, section(de=path)).fingerprint != first.fingerprint


def test_file_sizes_do_not_change_the_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = section(de=write(tmp_path / "de.txt", TEXTS))
    large = build(tmp_path / "a", wanted)
    monkeypatch.setattr(store, "_FILE_BYTES", 3000)
    monkeypatch.setattr(store, "_BATCH_BYTES", 700)
    assert build(tmp_path / "b", wanted).fingerprint == large.fingerprint


def test_progress_tells_how_far_it_is(tmp_path: Path, small_files: None) -> None:
    told: list[tuple[str, str, int]] = []
    build_corpus(
        section(de=write(tmp_path / "de.txt", TEXTS)),
        root=tmp_path / "run",
        seed=0,
        on_progress=lambda language, part, count: told.append((language, part, count)),
    )
    counts = [count for _, part, count in told if part == "train"]
    assert counts == sorted(counts)
    assert len(counts) > 10
    assert told[-1][:2] == ("de", "held_out")


def test_a_stop_in_the_middle_leaves_no_corpus(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "de.txt", TEXTS), tmp_path / "en.txt"
    bad.write_bytes(b"fine\n\xff\n")
    root = tmp_path / "run"
    with pytest.raises(DataError, match=r"corpus\.languages\.en\.train: .*en\.txt, line 2 is not UTF-8"):
        build(root, section(de=good, en=str(bad)))
    (folder,) = (root / "corpus").iterdir()
    assert not (folder / "corpus.json").exists()
    with pytest.raises(StoreError, match="holds no finished corpus"):
        open_corpus(folder)
    write(bad, ["fine", "better", "best"])
    assert build(root, section(de=good, en=str(bad))).info("en", "train").num_texts == 2
    assert storage.remove_temporaries(root) == 0


def test_damage_is_found_at_first_use(tmp_path: Path) -> None:
    corpus = build(tmp_path / "run", section(de=write(tmp_path / "de.txt", TEXTS)))
    assert corpus.verify() == []
    path = corpus.folder / "de" / "train" / "00000.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match=rf"{path} of the corpus is damaged; delete .* and run again"):
        open_corpus(corpus.folder).texts("de", "train", 0, 1)
    (corpus.folder / "de" / "held_out" / "00000.arrow").unlink()
    damaged, missing = open_corpus(corpus.folder).verify()
    assert "damaged" in damaged
    assert "missing" in missing
    (corpus.folder / "corpus.json").write_text('{"format": 2}')
    with pytest.raises(StoreError, match=r"corpus\.json is damaged or of another version \(at 'format'\)"):
        open_corpus(corpus.folder)


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    blank = write(tmp_path / "blank.txt", ["", "   "])
    with pytest.raises(DataError, match=r"corpus\.languages\.de\.train: no text is left from .*blank\.txt"):
        build(tmp_path / "run", section(de=blank))
    one = write(tmp_path / "one.txt", ["only"])
    with pytest.raises(DataError, match=r"corpus\.languages\.de\.train: no text is left"):
        build(tmp_path / "run", section(de={"train": {"files": one}, "held_out": {"files": one}}))
    with pytest.raises(DataError, match=r"corpus\.languages\.de\.held_out: no text is left from .*blank\.txt"):
        build(tmp_path / "run", section(de={"train": {"files": one}, "held_out": {"files": blank}}))


def test_an_unknown_language_is_named(tmp_path: Path) -> None:
    corpus = build(tmp_path / "run", section(de=write(tmp_path / "de.txt", TEXTS)))
    with pytest.raises(DataError, match="the corpus has no language 'fr'; it has de"):
        corpus.info("fr", "train")


def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    path = tmp_path / "large.txt"
    with path.open("w") as file:
        file.writelines(f"{number} " + "x" * 2000 + "\n" for number in range(10_000))  # 20 MB
    tracemalloc.start()
    try:
        build(tmp_path / "run", CorpusSection(languages={"de": str(path)}, held_out_share=0.01))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8e6


@pytest.mark.shared
def test_real_text(tmp_path: Path) -> None:
    data = Path(__file__).resolve().parents[3] / "shared" / "data" / "mono"
    if not data.is_dir():
        pytest.skip("the data beside the project is not there")
    source = str(data / "tr.parquet")
    corpus = build(
        tmp_path,
        section(
            tr={
                "train": {"files": source, "where": {"split": "train"}},
                "held_out": {"files": source, "where": {"split": "test"}},
            }
        ),
    )
    assert corpus.info("tr", "train").num_texts == 9730
    assert corpus.info("tr", "held_out").num_texts == 1106
    assert corpus.dropped_from_train("tr") == 0
