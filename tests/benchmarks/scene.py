"""The real text and teacher that most figures share: a corpus, a store of signals, jobs of students."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from orchestrator.config.loading import parse_config
from orchestrator.config.setups import Setup, expand
from orchestrator.corpus.store import build_corpus
from orchestrator.models.tokenizers import load_tokenizer
from orchestrator.records import BatchPlan, MaskedRows, SignalRequest, StateKey, Unit
from orchestrator.run import Run
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.schema import ROW_TABLES, TeacherSizes
from orchestrator.signals.store import Store
from orchestrator.students.job import GroupJob, TeacherFacts
from orchestrator.teachers.worker import PrecomputeJob, TeacherTask, TeacherWorker
from vocab_tools.build import VocabularySource, build_vocabulary

SHARED = Path(__file__).resolve().parents[3] / "shared"
TEACHER = SHARED / "models" / "multilingual-mlm-12x384"
SIZES = TeacherSizes(width=384, head_width=384, vocab_size=56_796)
LANGUAGES = ("de", "en", "fi", "ru")
TEXTS = 600
PLAN = BatchPlan(tokens_per_batch=4096, threads=1, dtype="bfloat16")
REQUEST = SignalRequest(top_k=64, states=(StateKey("hidden", 12),))
OBJECTIVES = [
    {"type": "soft-targets"},
    {"type": "masked-lm"},
    {"type": "hidden-states", "distance": "cosine", "map": "last"},
]


class Scene:
    """One teacher, `languages` of it, and a student of four layers for each, whose vocabulary is the teacher's."""

    def __init__(self, root: Path, *, languages: tuple[str, ...] = LANGUAGES, texts: int = TEXTS) -> None:
        self.root, self.languages = root, languages
        tree: dict[str, object] = {
            "run": {"root": str(root)},
            "corpus": {
                "languages": {
                    language: {
                        "train": {
                            "files": str(SHARED / "data" / "mono" / f"{language}.parquet"),
                            "where": {"split": "train", "source": ["lohelp", "ntrex"]},
                            "max_texts": texts,
                        }
                    }
                    for language in languages
                }
            },
            "teachers": {"big": {"model": str(TEACHER), "languages": list(languages)}},
            "student": {
                "layers": 4,
                "hidden_size": 384,
                "heads": 12,
                "initialisation": {"layers": "teacher", "embedding": "teacher"},
                "vocabulary": {"keep": "full"},
            },
            "objectives": OBJECTIVES,
            "training": {"steps": 100_000, "tokens_per_batch": 2048},
        }
        self.config = parse_config(tree, where="the benchmark")
        self.corpus = build_corpus(self.config.corpus, root=root, seed=0)
        self.tokenizer = load_tokenizer(str(TEACHER))
        self.units = [
            Unit("big", index, language, 0, self.corpus.info(language, "train").num_texts)
            for index, language in enumerate(languages)
        ]

    def store(self, name: str, request: SignalRequest = REQUEST) -> Store:
        """An empty store of this name, or the one that is there."""
        return Store.create(
            self.root / name,
            teacher="big",
            fingerprint=Fingerprint({"name": name}),
            request=request,
            codec="int8",
            sizes=SIZES,
            languages=list(self.languages),
            units=self.units,
        )

    def worker(self, name: str, request: SignalRequest = REQUEST, plan: BatchPlan = PLAN) -> TeacherWorker:
        """Who fills the store of this name."""
        task = TeacherTask(self.config.teachers["big"], plan, request, "int8", self.store(name, request).folder)
        return TeacherWorker(
            PrecomputeJob(
                teachers={"big": task}, corpus_folder=self.corpus.folder, corpus=self.config.corpus, seed=0
            )
        )

    def filled(self, name: str, request: SignalRequest = REQUEST) -> Store:
        """The store of this name with all its shards."""
        store = self.store(name, request)
        worker = self.worker(name, request)
        for unit in store.missing():
            worker.run(unit)
        return store

    def rows(self, store: Store, unit: Unit) -> MaskedRows:
        """The masked rows of a unit that is there."""
        tables = store.shard(unit.index)
        columns = {name: tables["texts"][name] for name in ROW_TABLES["texts"]}
        return MaskedRows(
            **columns,  # type: ignore[arg-type]
            input_id=tables["tokens"]["input_id"],
            masked_token=tables["masked"]["token"],
            label_id=tables["masked"]["label_id"],
        )

    def vocabulary(self) -> Path:
        """The teacher's own, as a student has it."""
        folder = self.root / "vocabulary"
        if not folder.exists():
            build_vocabulary([VocabularySource("big", TEACHER)], folder)
        return folder

    def job(self, store: Store, *, steps: int = 100_000, distilled: bool = True, setup: Setup = "one-to-one") -> GroupJob:
        """The training of the first group of a setup, on the signals of the store or (not `distilled`) on its text."""
        training = self.config.training.model_copy(update={"steps": steps, "threads": 1})
        config = self.config.model_copy(update={"training": training})
        run = Run(expand(config, setup=setup), None)
        group = run.expanded.groups[0 if distilled else -1]
        request = REQUEST if distilled else SignalRequest()
        return GroupJob(
            group=group,
            setup=setup,
            root=self.root,
            seed=0,
            training=training,
            share=config.share,
            alpha=0.7,
            max_epochs=1000.0,
            max_length=config.corpus.max_length,
            teachers={"big": TeacherFacts(config.teachers["big"], store.folder, run.checkpoints["big"])},
            vocabularies={student.origin: self.vocabulary() for student in group.students},
            requests={student.name: {"big": request} for student in group.students},
            fingerprint="0" * 16,
            threads=1,
        )


@contextmanager
def scene(**options: object) -> Iterator[Scene]:
    """A scene in a folder of its own, with one thread of torch."""
    if not TEACHER.is_dir():
        raise SystemExit(f"{TEACHER} is not there; these figures need the checkpoints beside the project")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            yield Scene(Path(folder), **options)  # type: ignore[arg-type]
    finally:
        torch.set_num_threads(before)


__all__ = ["LANGUAGES", "OBJECTIVES", "PLAN", "REQUEST", "SIZES", "TEACHER", "Scene", "scene"]
