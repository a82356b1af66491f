"""The real text and teacher that most figures share: a corpus, a store of signals, jobs of students."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from orchestrator.config.loading import parse_config
from orchestrator.config.setups import Setup, expand
from orchestrator.corpus.store import build_corpus
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
    """Teachers by name with their languages, and a student of four layers whose vocabulary is the teachers' own.

    All teachers are one checkpoint, so that only how many there are is compared.
    """

    def __init__(self, root: Path, *, teachers: Mapping[str, Sequence[str]], texts: int = TEXTS) -> None:
        self.root = root
        self.languages = [language for own in teachers.values() for language in own]
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
                    for language in self.languages
                }
            },
            "teachers": {name: {"model": str(TEACHER), "languages": list(own)} for name, own in teachers.items()},
            "student": {
                "layers": 4,
                "hidden_size": 384,
                "heads": 12,
                "initialisation": {"layers": "teacher", "embedding": "teacher", "teacher": next(iter(teachers))},
                "vocabulary": {"keep": "full"},
            },
            "objectives": OBJECTIVES,
            "training": {"steps": 100_000, "tokens_per_batch": 2048, "threads": 1},
        }
        self.config = parse_config(tree, where="the benchmark")
        self.corpus = build_corpus(self.config.corpus, root=root, seed=0)
        self.units = {
            name: [
                Unit(name, index, language, 0, self.corpus.info(language, "train").num_texts)
                for index, language in enumerate(own)
            ]
            for name, own in teachers.items()
        }

    def store(self, kind: str, teacher: str, request: SignalRequest = REQUEST) -> Store:
        """A store of this kind of a teacher, empty or as it was left."""
        return Store.create(
            self.root / kind / teacher,
            teacher=teacher,
            fingerprint=Fingerprint({"name": kind}),
            request=request,
            codec="int8",
            sizes=SIZES,
            languages=list(self.config.teachers[teacher].languages),
            units=self.units[teacher],
        )

    def worker(self, kind: str, request: SignalRequest = REQUEST, plan: BatchPlan = PLAN) -> TeacherWorker:
        """Who fills the stores of this kind."""
        tasks = {
            name: TeacherTask(section, plan, request, "int8", self.store(kind, name, request).folder)
            for name, section in self.config.teachers.items()
        }
        return TeacherWorker(
            PrecomputeJob(teachers=tasks, corpus_folder=self.corpus.folder, corpus=self.config.corpus, seed=0)
        )

    def fill(self, kind: str, request: SignalRequest = REQUEST) -> None:
        """Every shard of every store of this kind."""
        worker = self.worker(kind, request)
        for teacher in self.units:
            for unit in self.store(kind, teacher, request).missing():
                worker.run(unit)

    def rows(self, kind: str, unit: Unit) -> MaskedRows:
        """The masked rows of a unit that is there."""
        tables = self.store(kind, unit.teacher).shard(unit.index)
        columns = {name: tables["texts"][name] for name in ROW_TABLES["texts"]}
        return MaskedRows(
            **columns,  # type: ignore[arg-type]
            input_id=tables["tokens"]["input_id"],
            masked_token=tables["masked"]["token"],
            label_id=tables["masked"]["label_id"],
        )

    def jobs(self, kind: str, setup: Setup, *, steps: int = 100_000, name: str = "all") -> list[GroupJob]:
        """The training of every group of a setup, those without a teacher last, on the stores of this kind."""
        training = self.config.training.model_copy(update={"steps": steps})
        config = self.config.model_copy(update={"training": training})
        run = Run(expand(config, setup=setup), None)
        stores = {teacher: self.store(kind, teacher).folder for teacher in self.units}
        return [
            GroupJob(
                group=group,
                setup=setup,
                root=self.root / name,
                seed=0,
                training=training,
                share=config.share,
                alpha=0.7,
                max_epochs=1000.0,
                max_length=config.corpus.max_length,
                teachers={
                    teacher: TeacherFacts(section, stores[teacher], run.checkpoints[teacher])
                    for teacher, section in config.teachers.items()
                },
                vocabularies={student.origin: self._vocabulary() for student in group.students},
                requests={
                    student.name: dict.fromkeys(
                        student.teachers.values(), REQUEST if student.name == student.origin else SignalRequest()
                    )
                    for student in group.students
                },
                fingerprint="0" * 16,
                threads=1,
            )
            for group in run.expanded.groups
        ]

    def _vocabulary(self) -> Path:
        folder = self.root / "vocabulary"
        if not folder.exists():
            build_vocabulary([VocabularySource(name, TEACHER) for name in self.units], folder)
        return folder


@contextmanager
def scene(teachers: Mapping[str, Sequence[str]], *, texts: int = TEXTS) -> Iterator[Scene]:
    """A scene in a folder of its own, with one thread of torch."""
    if not TEACHER.is_dir():
        raise SystemExit(f"{TEACHER} is not there; these figures need the checkpoints beside the project")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            yield Scene(Path(folder), teachers=teachers, texts=texts)
    finally:
        torch.set_num_threads(before)
