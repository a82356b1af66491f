"""`make bench`: teacher units against the bare forward pass, and a distillation step against a plain masked-LM step.

Both sides of every pair run the same rows, in turn, in one process; `--rounds N`, `--json FILE`.
The teacher is the multilingual checkpoint beside the project.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from orchestrator.config.loading import parse_config
from orchestrator.config.setups import expand
from orchestrator.corpus.store import build_corpus
from orchestrator.models.tokenizers import load_tokenizer
from orchestrator.records import BatchPlan, MaskedRows, SignalRequest, StateKey, Unit
from orchestrator.run import Run
from orchestrator.signals.counting import token_counts
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.schema import TeacherSizes
from orchestrator.signals.store import Store
from orchestrator.students.build import build_group, build_known, build_streams
from orchestrator.students.job import GroupJob, TeacherFacts
from orchestrator.students.objective import backward, micro_batch, total_counts
from orchestrator.students.optimising import make_optimiser
from orchestrator.teachers.batches import group_by_length, pad_rows
from orchestrator.teachers.worker import PrecomputeJob, TeacherTask, TeacherWorker
from tests.benchmarks.pairs import Pair, machine, measure
from vocab_tools.build import VocabularySource, build_vocabulary

SHARED = Path(__file__).resolve().parents[3] / "shared"
TEACHER = SHARED / "models" / "multilingual-mlm-12x384"
LANGUAGE = "de"
TEXTS = 1500
REQUEST = SignalRequest(top_k=64, states=(StateKey("hidden", 12),))
#: Every kind of signal, of two layers where it is one of layers.
EVERYTHING = SignalRequest(
    top_k=64,
    temperatures=(2.0,),
    draws=50,
    head_states=True,
    states=tuple(StateKey(kind, layer) for kind in ("hidden", "key", "query", "value") for layer in (6, 12)),
    sentence_vectors=True,
)
PLAN = BatchPlan(tokens_per_batch=4096, threads=1, dtype="bfloat16")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not TEACHER.is_dir():
        raise SystemExit(f"{TEACHER} is not there; these figures need the checkpoints beside the project")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = Bench(Path(folder)).run(arguments.rounds)
    pairs, facts = found
    print(" · ".join(f"{name} {value}" for name, value in machine().items()))
    print("| first ÷ second | first, s | second, s | ratio (lowest–highest) |\n|---|---|---|---|")
    for pair in pairs:
        print(pair.row())
    for name, value in facts.items():
        print(f"{name}: {value}")
    if arguments.json is not None:
        content = {"machine": machine(), "pairs": [asdict(pair) for pair in pairs], "facts": facts}
        arguments.json.write_text(json.dumps(content, indent=1))


class Bench:
    """One corpus, one store and one student for all figures."""

    def __init__(self, folder: Path) -> None:
        tree: dict[str, object] = {
            "run": {"root": str(folder)},
            "corpus": {
                "languages": {
                    LANGUAGE: {
                        "train": {
                            "files": str(SHARED / "data" / "mono" / f"{LANGUAGE}.parquet"),
                            "where": {"split": "train", "source": ["lohelp", "ntrex"]},
                            "max_texts": TEXTS,
                        }
                    }
                }
            },
            "teachers": {"big": {"model": str(TEACHER), "languages": [LANGUAGE]}},
            "student": {
                "layers": 4,
                "hidden_size": 384,
                "heads": 12,
                "initialisation": {"layers": "teacher", "embedding": "teacher"},
            },
            "objectives": [
                {"type": "soft-targets"},
                {"type": "masked-lm"},
                {"type": "hidden-states", "distance": "cosine", "map": "last"},
            ],
            "training": {"steps": 1000, "tokens_per_batch": 2048},
        }
        config = parse_config(tree, where="the benchmark")
        self.run_ = Run(expand(config), None)
        self.folder = folder
        self.corpus = build_corpus(config.corpus, root=folder, seed=0)
        self.tokenizer = load_tokenizer(str(TEACHER))
        self.unit = Unit("big", 0, LANGUAGE, 0, self.corpus.info(LANGUAGE, "train").num_texts)
        self.workers = {
            name: TeacherWorker(
                PrecomputeJob(
                    teachers={
                        "big": TeacherTask(
                            config.teachers["big"], PLAN, request, "int8", self._store(name, request).folder
                        )
                    },
                    corpus_folder=self.corpus.folder,
                    corpus=config.corpus,
                    seed=0,
                )
            )
            for name, request in (("a", REQUEST), ("every signal", EVERYTHING))
        }

    def run(self, rounds: int) -> tuple[list[Pair], dict[str, str]]:
        receipt, wide = (worker.run(self.unit) for worker in self.workers.values())
        tables = self.workers["a"].signals(self.unit, ())
        rows = MaskedRows(
            **{name: np.asarray(column) for name, column in tables["texts"].items()},
            input_id=np.asarray(tables["tokens"]["input_id"]),
            masked_token=np.asarray(tables["masked"]["token"]),
            label_id=np.asarray(tables["masked"]["label_id"]),
        )
        precompute = measure(
            "precompute unit (read … fsync) ÷ bare forward and head of the same rows",
            lambda: self._unit("a"),
            lambda: self._bare_forward(rows),
            rounds=rounds,
        )
        every = measure(
            "the same with every kind of signal ÷ bare forward and head",
            lambda: self._unit("every signal"),
            lambda: self._bare_forward(rows),
            rounds=rounds,
        )
        distil, plain = self._step(teacher=True), self._step(teacher=False)
        step = measure("distillation step from the store ÷ plain masked-LM step", distil, plain, rounds=4 * rounds)
        facts = {f"bytes per token, {t}": f"{e.num_bytes / receipt.num_tokens:.1f}" for t, e in wide.tables.items()}
        tokens = receipt.num_tokens
        facts["tokens per second, precompute"] = f"{tokens / float(np.median(precompute.first)):.0f}"
        facts["tokens per second, bare forward"] = f"{tokens / float(np.median(precompute.second)):.0f}"
        return [precompute, every, step], facts

    def _store(self, name: str, request: SignalRequest) -> Store:
        return Store.create(
            self.folder / name,
            teacher="big",
            fingerprint=Fingerprint({"name": name}),
            request=request,
            codec="int8",
            sizes=TeacherSizes(width=384, head_width=384, vocab_size=56_796),
            languages=[LANGUAGE],
            units=[self.unit],
        )

    def _unit(self, name: str) -> None:
        Store.open(self.folder / name).receipt_path(0).unlink()
        self.workers[name].run(self.unit)

    def _bare_forward(self, rows: MaskedRows) -> None:
        """Forward in the same batches, and the head at the masked positions as one matrix product per batch."""
        encoder = self.workers["a"]._host("big").encoder
        assert encoder is not None
        with torch.inference_mode():
            for chosen in group_by_length(rows.num_tokens, tokens_per_batch=PLAN.tokens_per_batch):
                batch = pad_rows(rows, chosen, pad_id=1)
                last = encoder(batch.input_ids, batch.attention_mask, states=()).last.flatten(0, 1)
                states = encoder.head_states(last[: max(1, round(0.15 * len(batch.tokens)))])
                torch.nn.functional.linear(states, encoder.decoder_weight, encoder.decoder_bias)

    def _step(self, *, teacher: bool):  # type: ignore[no-untyped-def]
        run = self.run_
        group = run.expanded.groups[0 if teacher else 1]
        vocabulary = self.folder / "vocab"
        if not vocabulary.exists():
            store = Store.open(self.folder / "a")
            counted = token_counts(store, [LANGUAGE], size=len(self.tokenizer))
            build_vocabulary([VocabularySource("big", TEACHER, counts=counted)], vocabulary)
        request = REQUEST if teacher else SignalRequest()
        job = GroupJob(
            group=group,
            setup="one-to-one",
            root=self.folder,
            seed=0,
            training=run.config.training,
            share=run.config.share,
            alpha=0.7,
            max_epochs=100.0,
            max_length=run.config.corpus.max_length,
            teachers={"big": TeacherFacts(run.config.teachers["big"], self.folder / "a", run.checkpoints["big"])},
            vocabularies={"student": vocabulary},
            requests={group.students[0].name: {"big": request}},
            fingerprint="0" * 16,
            threads=1,
        )
        built = build_group(job)
        name = group.students[0].name
        stream = build_streams(job, built.vocabularies, cursors={})[name]
        optimiser = make_optimiser(built.module.trained().values(), run.config.training)
        terms = built.terms[name][0][LANGUAGE]
        weights = dict.fromkeys((term.name for term in terms), 1.0)
        known = build_known(job, built.vocabularies, device="cpu")[name]
        numbers = iter(range(1, 10**9))

        def step() -> None:
            micro = [micro_batch(terms, batch, device=torch.device("cpu")) for batch in stream.step(next(numbers))]
            for one in micro:
                autocast = torch.autocast("cpu", torch.bfloat16)
                backward(
                    built.module,
                    name,
                    one,
                    denominators=total_counts(micro),
                    weights=weights,
                    known=known,
                    autocast=autocast,
                )
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

        return step


if __name__ == "__main__":
    main()
