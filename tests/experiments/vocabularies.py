"""Does it matter how a union is made, and which tokenizer reads the text? Many-to-one students on held-out text.

    python -m tests.experiments.vocabularies run --folder runs/vocabularies --seeds 1 2 3
    python -m tests.experiments.vocabularies table --folder runs/vocabularies

English text goes to an English WordPiece teacher, German, Finnish and Russian to a multilingual SentencePiece one. For
each seed one student is trained over their union by canonical form and one by surface form: same text, masks, order of
batches and seed of the weights. Each then fills held-out text that is cut by the routed tokenizers, and by the merged
one. Goes on where it stopped: what is in `rows.jsonl` is not measured again, what orch has done it does not do again.

R rows, L tokens.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

import numpy as np
import numpy.typing as npt
import yaml

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
ROUTES = {"en": "english", "de": "multilingual", "fi": "multilingual", "ru": "multilingual"}
SOURCES = ("lohelp", "ntrex", "sib200")
MERGES = ("canonical", "surface")
PER_SOURCE = {"train": 1000, "test": 100}
MEASURED = 30  # texts of each source that are measured here
GROUPS = 7
LONGEST = 300  # characters

Masking = Literal["tokens", "words"]
Bools = npt.NDArray[np.bool_]
Int64 = npt.NDArray[np.int64]
_log = logging.getLogger("vocabularies")


@dataclass(frozen=True)
class Row:
    """One figure: `bits` is per character of the text, `tokens` too; `lower` says that the text was lower-cased."""

    seed: int
    merge: str
    segmentation: str  # routed | merged
    masking: str  # tokens | words
    language: str
    lower: bool
    bits: float
    tokens: float
    unknown: float  # share of tokens
    characters: int
    vocabulary: int


@dataclass(frozen=True)
class Cut:
    """Texts as one tokenizer cuts them, special tokens aside: for each row its ids, and the word each token is of."""

    ids: list[Int64]
    words: list[Int64]
    surfaces: list[Int64]  # UTF-8 bytes of the text behind each token


def write_texts(folder: Path) -> None:
    """One file per language and split, a text a line, evenly from each source."""
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    for language, split in itertools.product(ROUTES, PER_SOURCE):
        rows = parquet.read_table(SHARED / f"data/mono/{language}.parquet").to_pylist()
        lines: list[str] = []
        for source in SOURCES:
            texts = [" ".join(r["text"].split()) for r in rows if r["source"] == source and r["split"] == split]
            count = min(PER_SOURCE[split], len(texts))
            lines += [texts[i * len(texts) // count] for i in range(count)]
        (folder / f"{language}.{split}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def configuration(root: Path, texts: Path, *, seed: int, merge: str, steps: int) -> dict[str, object]:
    """The orch.yaml of one student."""
    models = SHARED / "models"
    return {
        "run": {"root": str(root), "seed": seed, "setup": "many-to-one"},
        "corpus": {
            "max_length": 128,
            "languages": {
                language: {
                    "train": {"files": str(texts / f"{language}.train.txt")},
                    "held_out": {"files": str(texts / f"{language}.test.txt")},
                }
                for language in ROUTES
            },
        },
        "teachers": {
            "multilingual": {"model": str(models / "multilingual-mlm-12x384"), "languages": ["de", "fi", "ru"]},
            "english": {"model": str(models / "english-mlm-6x384"), "languages": ["en"]},
        },
        "student": {
            "layers": 4,
            "hidden_size": 384,
            "heads": 12,
            "vocabulary": {"merge": merge},
            "initialisation": {
                "layers": "teacher",
                "map": "uniform",
                "embedding": "teacher",
                "teacher": "multilingual",
            },
        },
        "objectives": [{"type": "soft-targets", "k": 64}, {"type": "masked-lm"}],
        "training": {
            "steps": steps,
            "tokens_per_batch": 1024,
            "learning_rate": 4.0e-4,
            "threads": 1,
            "baseline": False,
        },
        "evaluation": {"max_texts": 300, "teachers": False},
        "cluster": {"address": "in-process"},
    }


def train(folder: Path, *, seed: int, merge: str, steps: int) -> Path:
    """Train one student through the command line; both merges of a seed read the same corpus and signals."""
    root = folder / f"{merge}-{seed}"
    root.mkdir(parents=True, exist_ok=True)
    if merge != MERGES[0]:
        for name in ("corpus", "signals"):
            if not (root / name).exists():
                (root / name).symlink_to((folder / f"{MERGES[0]}-{seed}" / name).resolve())
    config = folder / f"{merge}-{seed}.yaml"
    tree = configuration(root, folder / "texts", seed=seed, merge=merge, steps=steps)
    config.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "orchestrator.cli", "run", "-c", str(config)], check=True)
    return root


def measure(root: Path, texts: Path, *, seed: int, merge: str) -> Iterator[Row]:
    """Every segmentation, masking and language of one student."""
    import torch

    torch.set_num_threads(1)
    (vocabulary,) = (root / "vocab").iterdir()
    model = _Model(root / "students/many-to-one/student/final")
    for language in ROUTES:
        lines = (texts / f"{language}.test.txt").read_text(encoding="utf-8").splitlines()
        per_source = len(lines) // len(SOURCES)
        lines = [line[:LONGEST] for i in range(len(SOURCES)) for line in lines[i * per_source :][:MEASURED]]
        for segmentation, lower in (("routed", False), ("merged", False), ("merged", True)):
            if lower and language != "en":  # only the English teacher lower-cases
                continue
            shown = [line.lower() for line in lines] if lower else lines
            folder = vocabulary / "tokenizers" / (language if segmentation == "routed" else "merged")
            cut = cut_texts(folder, shown)
            num_tokens, characters = sum(map(len, cut.ids)), sum(map(len, shown))
            for masking in ("tokens", "words"):
                bits = model.bits(cut, masking)
                unknown = sum(int((ids == model.unk).sum()) for ids in cut.ids) / num_tokens
                yield Row(
                    seed, merge, segmentation, masking, language, lower,
                    bits / characters, num_tokens / characters, unknown, characters, model.size,
                )  # fmt: skip


def cut_texts(tokenizer_folder: Path, texts: Sequence[str]) -> Cut:
    """Cut texts, and find the word (between spaces) that each token is of: that of its last character."""
    from transformers import AutoTokenizer

    backend = AutoTokenizer.from_pretrained(tokenizer_folder).backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    cut = Cut([], [], [])
    for text, encoding in zip(texts, backend.encode_batch(list(texts), add_special_tokens=False), strict=True):
        starts = [i for i, c in enumerate(text) if not c.isspace() and (i == 0 or text[i - 1].isspace())]
        last = np.array([max(begin, end - 1) for begin, end in encoding.offsets], dtype=np.int64)
        last += np.array([text[i].isspace() if i < len(text) else 0 for i in last], dtype=np.int64)  # a lone word mark
        cut.ids.append(np.array(encoding.ids, dtype=np.int64))
        cut.words.append(np.maximum(np.searchsorted(starts, last, side="right") - 1, 0))
        cut.surfaces.append(np.array([len(text[b:e].encode()) for b, e in encoding.offsets], dtype=np.int64))
    return cut


class _Model:
    """An exported student, asked for the price of every token of a text, a seventh of it hidden at a time."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForMaskedLM

        self._torch = torch
        self._model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._chosen = torch.zeros(0, dtype=torch.bool)
        self._model.base_model.register_forward_hook(self._keep_chosen)
        self.size = int(self._model.config.vocab_size)
        self.pad, self.unk, self.cls, self.sep, self.mask = range(5)  # of every vocabulary of vocab_tools

    def _keep_chosen(self, _module: object, _inputs: object, output: object) -> object:
        output.last_hidden_state = output.last_hidden_state[self._chosen][None]  # type: ignore[attr-defined]
        return output

    def bits(self, cut: Cut, masking: Masking) -> float:
        """Bits of all texts: every token predicted once; an unknown one costs the UTF-8 bytes of its text instead."""
        groups = [_groups(words, masking, row) for row, words in enumerate(cut.words)]
        order = sorted(range(len(cut.ids)), key=lambda row: len(cut.ids[row]))
        nats, unknown_bytes = 0.0, 0
        for start in range(0, len(order), 32):
            rows = order[start : start + 32]
            length = max(len(cut.ids[row]) for row in rows) + 2
            ids = np.full((len(rows), length), self.pad, dtype=np.int64)
            group = np.full(ids.shape, -1, dtype=np.int64)
            for place, row in enumerate(rows):
                size = len(cut.ids[row])
                ids[place, : size + 2] = [self.cls, *cut.ids[row], self.sep]
                group[place, 1 : size + 1] = groups[row]
                unknown_bytes += int(cut.surfaces[row][cut.ids[row] == self.unk].sum())
            group[ids == self.unk] = -1
            for which in range(GROUPS):
                nats += self._price(ids, group == which)
        return nats / math.log(2) + 8 * unknown_bytes

    def _price(self, ids: Int64, hidden: Bools) -> float:
        torch = self._torch
        some = hidden.any(axis=1)
        if not some.any():
            return 0.0
        ids, hidden = ids[some], hidden[some]
        self._chosen = torch.from_numpy(hidden)
        with torch.inference_mode():
            shown = torch.from_numpy(np.where(hidden, self.mask, ids))
            logits = self._model(input_ids=shown, attention_mask=torch.from_numpy(ids != self.pad).long()).logits[0]
            return float(torch.nn.functional.cross_entropy(logits, torch.from_numpy(ids[hidden]), reduction="sum"))


def _groups(words: Int64, masking: Masking, row: int) -> Int64:
    """Which of the seven times each token is hidden: drawn by token, or by word, and so the same in every cut."""
    generator = np.random.default_rng([row, 20_261_122])
    if masking == "tokens":
        return generator.permutation(len(words)) % GROUPS
    return (generator.permutation(words.max(initial=0) + 1) % GROUPS)[words]


def run(folder: Path, seeds: Sequence[int], merges: Sequence[str], steps: int) -> None:
    """All students, the seeds one after another."""
    texts, rows = folder / "texts", folder / "rows.jsonl"
    write_texts(texts)
    for seed, merge in itertools.product(seeds, merges):
        if any((row.seed, row.merge) == (seed, merge) for row in read(rows)):
            continue
        root = train(folder, seed=seed, merge=merge, steps=steps)
        _log.info("%s, seed %d: trained", merge, seed)
        measured = list(measure(root, texts, seed=seed, merge=merge))
        with rows.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(row)) + "\n" for row in measured)
        _log.info("%s, seed %d: measured", merge, seed)


def read(rows: Path) -> list[Row]:
    """The rows so far."""
    return [Row(**json.loads(line)) for line in rows.read_text(encoding="utf-8").splitlines()] if rows.exists() else []


def table(rows: Sequence[Row]) -> Iterator[str]:
    """Mean and spread over seeds, and of the paired differences, as Markdown."""
    done = [{row.seed for row in rows if row.merge == merge} for merge in MERGES]
    seeds = sorted(set.intersection(*done))
    value = {(r.merge, r.segmentation, r.masking, r.language, r.lower, r.seed): r for r in rows}

    def cell(figures: Sequence[float], sign: str = "") -> str:
        spread = f" ± {stdev(figures):.3f}" if len(figures) > 1 else ""
        return f"{mean(figures):{sign}.3f}{spread}"

    for masking in ("tokens", "words"):
        yield f"\nHidden {masking} at a time, seeds {seeds}, bits per character, mean ± standard deviation:\n"
        yield (
            "| text | tokens per character: routed | merged | canonical, routed | surface, routed | surface − canonical"
            " | canonical, merged | merged − routed | surface, merged |"
        )
        yield "|" + "---|" * 9
        for language, lower in [("en", False), ("en", True), ("de", False), ("fi", False), ("ru", False)]:
            routed = {m: [value[m, "routed", masking, language, False, s] for s in seeds] for m in MERGES}
            merged = {m: [value[m, "merged", masking, language, lower, s] for s in seeds] for m in MERGES}
            bits = {(m, n): [r.bits for r in g[m]] for m in MERGES for n, g in (("r", routed), ("m", merged))}
            yield "| " + " | ".join([
                language + ", lower-cased" * lower,
                f"{routed['canonical'][0].tokens:.3f}",
                f"{merged['canonical'][0].tokens:.3f}",
                cell(bits["canonical", "r"]),
                cell(bits["surface", "r"]),
                cell([s - c for c, s in zip(bits["canonical", "r"], bits["surface", "r"], strict=True)], "+"),
                cell(bits["canonical", "m"]),
                cell([m - r for r, m in zip(bits["canonical", "r"], bits["canonical", "m"], strict=True)], "+"),
                cell(bits["surface", "m"]),
            ]) + " |"  # fmt: skip
    sizes = {merge: sorted({row.vocabulary for row in rows if row.merge == merge}) for merge in MERGES}
    yield f"\nVocabularies: {sizes}"


def main() -> None:
    """Parse, then run or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--folder", type=Path, default=Path("runs/vocabularies"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--merges", nargs="+", choices=MERGES, default=list(MERGES), help="canonical goes first")
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.what == "table":
        print("\n".join(table(read(arguments.folder / "rows.jsonl"))))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        handlers=[logging.StreamHandler(), logging.FileHandler(arguments.folder / "experiment.log")],
    )
    run(arguments.folder, arguments.seeds, arguments.merges, arguments.steps)


if __name__ == "__main__":
    main()
