"""Run once, by hand: every tokenizer on all text beside the project, and the tables of docs/vocabularies.md.

python -m tests.vocab_tools.whole_corpus union            sizes, overlaps, time and memory
python -m tests.vocab_tools.whole_corpus round-trips      each (or those named) in a union of all, on all text
python -m tests.vocab_tools.whole_corpus merged           routed against merged tokenizers, several unions
python -m tests.vocab_tools.whole_corpus unicode          each in a union of all, on Unicode that hypothesis makes
python -m tests.vocab_tools.whole_corpus embeddings       500,000 rows of width 1,024 carried over, time and memory
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.memory import peak_resident_bytes
from tests.vocab_tools.shared import LANGUAGES, SHARED, made_up_texts, texts_of, tokenizer_folders
from vocab_tools import VocabularySource, build_vocabulary, carry_embeddings, open_vocabulary
from vocab_tools.check import compare
from vocab_tools.corpus import count_ids, split_for_measure
from vocab_tools.read import read_tokenizer
from vocab_tools.report import read_report

NINE = (
    "xlm-roberta-base", "bert-base-multilingual-cased", "gpt2", "t5-small", "bert-base-cased", "bert-base-uncased",
    "roberta-base", "xlnet-base-cased", "bert-japanese-tohoku",
)  # fmt: skip
MERGED = {
    "English WordPiece (uncased) + multilingual unigram": {
        language: "english-mlm-6x384" if language == "en" else "multilingual-mlm-12x384" for language in LANGUAGES
    },
    "bert-base-cased + mBERT": {
        "en": "bert-base-cased", **dict.fromkeys(("de", "fr", "ru", "sw", "zh"), "bert-base-multilingual-cased")
    },
    "gpt2 + mBERT + XLM-R": {
        "en": "gpt2", **dict.fromkeys(("de", "fr", "zh"), "bert-base-multilingual-cased"),
        **dict.fromkeys(("fi", "ru", "sw"), "xlm-roberta-base"),
    },
}  # fmt: skip


def union(folder: Path) -> None:
    """The nine and the seventeen tokenizers."""
    paths = {path.name: path for path in tokenizer_folders()}
    started, cpu = time.perf_counter(), time.process_time()
    report = build_vocabulary([VocabularySource(name, paths[name]) for name in NINE], folder / "nine")
    seconds, memory = time.perf_counter() - started, peak_resident_bytes() / 2**20
    print(f"nine: {report.size:,} tokens, {seconds:.1f} s, {time.process_time() - cpu:.1f} s of CPU, {memory:,.0f} MiB")
    for merge in ("canonical", "surface"):
        sources = [VocabularySource(name, path) for name, path in paths.items()]
        report = build_vocabulary(sources, folder / merge, merge=merge)
        before = sum(one.kept for one in report.sources)
        print(f"{merge}: {report.size:,} of {before:,}; shared {report.shared:,}, by form {report.merged_by_form:,}")
    print("| | " + " | ".join(paths) + " |\n|" + "---|" * (len(paths) + 1))
    overlap = {(pair.first, pair.second): pair for pair in read_report(folder / "canonical").pairs}
    for row in paths:
        cells = []
        for column in paths:
            pair = overlap.get((row, column)) or overlap.get((column, row))
            cells.append("" if pair is None else f"{pair.raw if row < column else pair.canonical:,}")
        print(f"| {row} | " + " | ".join(cells) + " |")


def round_trips(folder: Path) -> None:
    """One union of all, every student tokenizer on all text."""
    paths = {path.name: path for path in tokenizer_folders()}
    build_vocabulary([VocabularySource(name, path) for name, path in paths.items()], folder / "all")
    vocabulary = open_vocabulary(folder / "all")
    print("| tokenizer | texts | tokens | different |\n|---|---|---|---|")
    for name in sys.argv[2:] or paths:
        teacher = vocabulary.require_teacher(name, paths[name])
        texts = tokens = wrong = 0
        for language in LANGUAGES:
            found = compare(teacher, vocabulary.tokenizer_folder(name), vocabulary.map(name), texts_of(language))
            texts, tokens, wrong = texts + found.texts, tokens + found.tokens, wrong + found.wrong + found.finer
        print(f"| {name} | {texts:,} | {tokens:,} | {wrong} |", flush=True)


def merged(folder: Path) -> None:
    """How far the merged tokenizer is from the routed ones, on held-out text."""
    paths = {path.name: path for path in tokenizer_folders()}
    for title, routes in MERGED.items():
        split = {language: split_for_measure(texts_of(language, 4000)) for language in routes}
        for restricted in (True, False):
            sources = []
            for name in sorted(set(routes.values())):
                languages = tuple(language for language, owner in routes.items() if owner == name)
                teacher = read_tokenizer(paths[name])
                counts = sum(count_ids(teacher, split[language][0]) for language in languages) if restricted else None
                sources.append(VocabularySource(name, paths[name], counts, tokenizer_names=languages))
            texts = {language: parts[1] for language, parts in split.items()}
            report = build_vocabulary(sources, folder / "merged", texts=texts)
            cells = ", ".join(f"{one.language} {100 * (one.merged_disagreement or 0):.1f}" for one in report.texts)
            print(
                f"{title}, {'what 4 000 texts use' if restricted else 'whole'}: {report.size:,} tokens: {cells}",
                flush=True,
            )


def unicode(folder: Path) -> None:
    """One union of all, every student tokenizer on texts that hypothesis makes."""
    paths = {path.name: path for path in tokenizer_folders()}
    build_vocabulary([VocabularySource(name, path) for name, path in paths.items()], folder / "all")
    vocabulary = open_vocabulary(folder / "all")
    texts = made_up_texts(20_000)
    print("| tokenizer | texts | tokens | different |\n|---|---|---|---|")
    for name in sys.argv[2:] or paths:
        teacher = vocabulary.require_teacher(name, paths[name])
        found = compare(teacher, vocabulary.tokenizer_folder(name), vocabulary.map(name), texts)
        print(f"| {name} | {found.texts:,} | {found.tokens:,} | {found.wrong + found.finer} |", flush=True)


def embeddings(_: Path) -> None:
    """Two teachers of different widths; the first has the student's, 200,000 tokens are shared."""
    generator = np.random.default_rng(0)
    matrices = {"a": (500_000, 1024), "b": (250_000, 768)}
    rows = {name: generator.standard_normal(shape, dtype=np.float32) for name, shape in matrices.items()}
    maps = {"a": np.arange(500_000, dtype=np.int32), "b": np.arange(300_000, 550_000, dtype=np.int32)}
    before = peak_resident_bytes()
    started, cpu = time.perf_counter(), time.process_time()
    result = carry_embeddings(rows, maps, size=600_000, width=1024, seed=0, priority=["a", "b"])
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    beside = (peak_resident_bytes() - before - result.nbytes) / 2**20
    inputs = sum(one.nbytes for one in rows.values()) / 2**20
    print(f"inputs {inputs:,.0f} MiB, result {result.nbytes / 2**20:,.0f} MiB, beside these {beside:,.0f} MiB")
    print(f"{seconds:.1f} s, {cpu:.1f} s of CPU")


if __name__ == "__main__":
    assert SHARED.is_dir()
    commands = {
        "union": union, "round-trips": round_trips, "merged": merged, "unicode": unicode, "embeddings": embeddings
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        commands[sys.argv[1]](Path(temporary))
