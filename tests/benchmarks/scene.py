"""The real text and teacher that most figures share: a corpus, a store of signals, jobs of students."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from orchestrator.config.loading import parse_config
from orchestrator.config.models import ShareSection
from orchestrator.config.setups import Setup, expand
from orchestrator.corpus.store import build_corpus
from orchestrator.models.checkpoints import describe_checkpoint
from orchestrator.records import BatchPlan, MaskedRows, SignalRequest, StateKey, Unit
from orchestrator.run import Run
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.schema import ROW_TABLES, TeacherSizes
from orchestrator.signals.store import Store
from orchestrator.students.job import GroupJob, TeacherFacts
from orchestrator.students.source import Asking
from orchestrator.teachers.worker import PrecomputeJob, TeacherTask, TeacherWorker
from vocab_tools.build import VocabularySource, build_vocabulary

SHARED = Path(__file__).resolve().parents[3] / "shared"
TEACHER = SHARED / "models" / "multilingual-mlm-12x384"
LANGUAGES = ("de", "en", "fi", "ru")
TEXTS = 600
PLAN = BatchPlan(tokens_per_batch=4096, threads=1, dtype="bfloat16")
OBJECTIVES = [
    {"type": "soft-targets"},
    {"type": "masked-lm"},
    {"type": "hidden-states", "distance": "cosine", "map": "last"},
]


class Scene:
    """Teachers by name with their languages, and a student of four layers whose vocabulary is the teachers' own.

    Teachers say their top 64 and their last layer. All are one checkpoint, so that only how many there are is compared.
    Students start at random, since only speed is looked at.
    """

    def __init__(
        self,
        root: Path,
        *,
        teachers: Mapping[str, Sequence[str]],
        texts: int = TEXTS,
        units: int = 1,
        checkpoint: Path = TEACHER,
    ) -> None:
        """`texts` of each language, in so many `units`."""
        self.root, self.checkpoint = root, checkpoint
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
            "teachers": {name: {"model": str(checkpoint), "languages": list(own)} for name, own in teachers.items()},
            "student": {
                "layers": 4,
                "hidden_size": 384,
                "heads": 12,
                "initialisation": {"embedding": "random"},
                "vocabulary": {"keep": "full"},
            },
            "objectives": OBJECTIVES,
            "training": {"steps": 100_000, "tokens_per_batch": 2048, "threads": 1},
        }
        self.config = parse_config(tree, where="the benchmark")
        self.corpus = build_corpus(self.config.corpus, root=root, seed=0)
        self.units = {name: list(self._units(name, own, units)) for name, own in teachers.items()}
        info = describe_checkpoint(str(checkpoint))
        self.request = SignalRequest(top_k=64, states=(StateKey("hidden", info.depth),))
        self._sizes = TeacherSizes(info.width, head_width=info.embedding_width, vocab_size=info.vocab_size)

    def _units(self, teacher: str, languages: Sequence[str], count: int) -> Iterator[Unit]:
        index = 0
        for language in languages:
            ends = [self.corpus.info(language, "train").num_texts * part // count for part in range(count + 1)]
            for first, end in pairwise(ends):
                yield Unit(teacher, index, language, first, end - first)
                index += 1

    def store(self, kind: str, teacher: str, request: SignalRequest | None = None) -> Store:
        """A store of this kind of a teacher, empty or as it was left."""
        return Store.create(
            self.root / kind / teacher,
            teacher=teacher,
            fingerprint=Fingerprint({"name": kind}),
            request=self.request if request is None else request,
            codec="int8",
            sizes=self._sizes,
            languages=list(self.config.teachers[teacher].languages),
            units=self.units[teacher],
        )

    def work(self, kind: str | None, request: SignalRequest | None = None) -> PrecomputeJob:
        """What fills the stores of this kind; None: what is said is not stored."""
        folders = {name: None if kind is None else self.store(kind, name, request).folder for name in self.units}
        said = self.request if request is None else request
        tasks = {
            name: TeacherTask(section, PLAN, said, "int8", folders[name])
            for name, section in self.config.teachers.items()
        }
        return PrecomputeJob(teachers=tasks, corpus_folder=self.corpus.folder, corpus=self.config.corpus, seed=0)

    def worker(self, kind: str, request: SignalRequest | None = None) -> TeacherWorker:
        """Who fills the stores of this kind."""
        return TeacherWorker(self.work(kind, request))

    def fill(self, kind: str, request: SignalRequest | None = None) -> None:
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

    def jobs(
        self,
        kind: str,
        setup: Setup,
        *,
        steps: int = 100_000,
        name: str = "all",
        request: SignalRequest | None = None,
        live: Asking | None = None,
        shared: tuple[str, ...] = (),
    ) -> list[GroupJob]:
        """The training of every group of a setup, those without a teacher last, on the stores of this kind.

        `request`: what these hold; `live`: who is asked for the rest; `shared`: parts that students have in common.
        """
        training = self.config.training.model_copy(update={"steps": steps})
        config = self.config.model_copy(update={"training": training, "share": ShareSection(parts=shared)})
        run = Run(expand(config, setup=setup), None)
        stores = {teacher: self.store(kind, teacher, request).folder for teacher in self.units}
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
                    teacher: TeacherFacts(section, stores[teacher], run.checkpoints[teacher], live)
                    for teacher, section in config.teachers.items()
                },
                vocabularies={student.origin: self._vocabulary() for student in group.students},
                requests={
                    student.name: dict.fromkeys(
                        student.teachers.values(), self.request if student.name == student.origin else SignalRequest()
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
            build_vocabulary([VocabularySource(name, self.checkpoint) for name in self.units], folder)
        return folder


def of_size(layers: int, width: int, folder: Path) -> Path:
    """A checkpoint of a size that users distil, with weights of chance and the real teacher's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(TEACHER)
    tokenizer.save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


@contextmanager
def scene(
    teachers: Mapping[str, Sequence[str]],
    *,
    texts: int = TEXTS,
    units: int = 1,
    make_checkpoint: Callable[[Path], Path] | None = None,
) -> Iterator[Scene]:
    """A scene in a folder of its own, with one thread of torch; `make_checkpoint` makes the teachers' in a folder."""
    if not TEACHER.is_dir():
        raise SystemExit(f"{TEACHER} is not there; these figures need the checkpoints beside the project")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with TemporaryDirectory() as folder:
            root = Path(folder)
            checkpoint = TEACHER if make_checkpoint is None else make_checkpoint(root / "teacher")
            yield Scene(root, teachers=teachers, texts=texts, units=units, checkpoint=checkpoint)
    finally:
        torch.set_num_threads(before)
