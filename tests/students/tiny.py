"""A small real world: text in two made-up languages, two teachers of different kinds, stores, vocabularies, jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast, RobertaConfig, RobertaForMaskedLM

from orchestrator.config.corpus import CorpusSection
from orchestrator.config.models import ShareSection, StudentTemplate, TeacherSection
from orchestrator.config.objectives import (
    HiddenStatesObjective,
    MaskedLMObjective,
    Objective,
    SoftTargetsObjective,
)
from orchestrator.config.phases import PhaseSpec, whole_training
from orchestrator.config.run import TrainingSection
from orchestrator.config.setups import GroupSpec, StudentSpec
from orchestrator.corpus.store import Corpus, build_corpus
from orchestrator.models.checkpoints import describe_checkpoint
from orchestrator.models.quiet import quiet_transformers
from orchestrator.records import BatchPlan, HiddenCodec, SignalRequest, StateKey, StateKind, Unit
from orchestrator.signals.counting import token_counts
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.schema import TeacherSizes
from orchestrator.signals.store import Store
from orchestrator.students.batches import BatchReader
from orchestrator.students.job import GroupJob, TeacherFacts
from orchestrator.students.requests import requested_signals
from orchestrator.students.rows import Window
from orchestrator.teachers.worker import PrecomputeJob, TeacherTask, TeacherWorker
from vocab_tools.build import VocabularySource, build_vocabulary

LANGUAGES = ("aa", "bb")
NUM_TEXTS = 160
TEXTS_PER_UNIT = 60
MAX_LENGTH = 24
TOP_K, DRAWS = 12, 20
TRAINED = Path(__file__).with_name("tokenizers")
KINDS: tuple[StateKind, ...] = ("hidden", "query", "key", "value")
SYLLABLES = {
    "aa": ("ka", "lo", "mi", "ne", "su", "ta", "ri", "vo"),
    "bb": ("sch", "ung", "ein", "kat", "lor", "brü", "ta", "mi"),
}

MASKED_LM = MaskedLMObjective(type="masked-lm")
SOFT = SoftTargetsObjective(type="soft-targets", k=8, temperature=2.0)
HIDDEN = HiddenStatesObjective(type="hidden-states", embeddings=True)
ALL = (MASKED_LM, SOFT, HIDDEN)

STUDENT = StudentTemplate.model_validate({"layers": 2, "hidden_size": 16, "heads": 2, "max_positions": 32})
TRAINING = TrainingSection(
    steps=6,
    tokens_per_batch=160,
    learning_rate=3e-3,
    precision="fp32",
    device="cpu",
    threads=1,
    log_every=2,
    checkpoint_seconds=1e-9,
)


@dataclass(frozen=True)
class World:
    """What the steps before training leave behind."""

    root: Path
    corpus: Corpus
    facts: Mapping[str, TeacherFacts]
    stores: Mapping[str, Store]
    vocabularies: Mapping[str, Path]  # "aa", "bb", "both" of teacher `mixed`; "union" of both teachers; "full" of mixed


def make_world(root: Path) -> World:
    """Everything, in a few seconds; the same bytes every time."""
    sentences = {language: _sentences(language) for language in LANGUAGES}
    for language, lines in sentences.items():
        (root / f"{language}.txt").write_text("\n".join(lines), encoding="utf-8")
    section = CorpusSection.model_validate(
        {
            "languages": {language: str(root / f"{language}.txt") for language in LANGUAGES},
            "max_length": MAX_LENGTH,
            "packing": False,
            "masking": {"probability": 0.3, "copies": 2},
        }
    )
    corpus = build_corpus(section, root=root, seed=0)
    mixed = _write_mixed(root / "mixed", sentences["aa"] + sentences["bb"])
    other = _write_other(root / "other", sentences["bb"])
    teachers = {
        "mixed": TeacherFacts(
            TeacherSection(languages=LANGUAGES, model=str(mixed), device="cpu"),
            root / "signals/mixed",
            describe_checkpoint(str(mixed)),
        ),
        "other": TeacherFacts(
            TeacherSection(languages=("bb",), model=str(other), device="cpu"),
            root / "signals/other",
            describe_checkpoint(str(other)),
        ),
    }
    codecs: dict[str, HiddenCodec] = {"mixed": "fp16", "other": "int8"}
    stores = {name: _listen(name, facts, corpus, section, codecs[name]) for name, facts in teachers.items()}
    return World(root, corpus, teachers, stores, _build_vocabularies(root / "vocab", stores, mixed, other))


def student(
    name: str,
    *languages: str,
    objectives: Sequence[Objective] = ALL,
    phases: Sequence[PhaseSpec] = (),
    teachers: Mapping[str, str] | None = None,
    template: StudentTemplate = STUDENT,
    origin: str | None = None,
) -> StudentSpec:
    """A student of teacher `mixed`, unless `teachers` says otherwise; `phases` in place of `objectives`."""
    return StudentSpec(
        name=name,
        role="student",
        template=template,
        languages=languages,
        teachers=dict(teachers) if teachers is not None else dict.fromkeys(languages, "mixed"),
        phases=tuple(phases) or (whole_training(objectives, TRAINING),),
        origin=origin or name,
    )


def make_job(
    world: World,
    root: Path,
    *students: StudentSpec,
    vocabulary: str | None = None,
    share: ShareSection | None = None,
    fingerprint: str = "0123456789abcdef",
    seed: int = 5,
    **training: object,
) -> GroupJob:
    """A group's job; `vocabulary` None takes that of each student's languages. Further options are of `training`."""
    section = TrainingSection.model_validate(TRAINING.model_dump() | training)
    students = tuple(_trained_for(section.steps, one) for one in students)
    names = sorted({name for one in students for name in one.teachers.values()})
    return GroupJob(
        group=GroupSpec("group", students),
        setup="explicit",
        root=root,
        seed=seed,
        training=section,
        share=share or ShareSection(),
        alpha=0.7,
        max_epochs=100.0,
        max_length=MAX_LENGTH,
        teachers={name: world.facts[name] for name in names},
        vocabularies={one.origin: world.vocabularies[vocabulary or _usual_vocabulary(one)] for one in students},
        requests={one.name: {name: request_of(world, one, name) for name in names} for one in students},
        fingerprint=fingerprint,
        threads=1,
    )


def request_of(world: World, one: StudentSpec, teacher: str) -> SignalRequest:
    """What a student asks of a teacher."""
    return requested_signals(one.objectives, one.template, teacher=teacher, info=world.facts[teacher].info)


def whole(reader: BatchReader) -> Window:
    """All units of a reader's language as one window, in the order of the store."""
    return reader.open([reader.ask(size.index) for size in reader.sizes])


def with_training(job: GroupJob, **training: object) -> GroupJob:
    """The same job with other options of `training`."""
    return replace(job, training=TrainingSection.model_validate(job.training.model_dump() | training))


def _trained_for(steps: int, one: StudentSpec) -> StudentSpec:
    """The student with its last phase ending where training ends."""
    return replace(one, phases=(*one.phases[:-1], replace(one.phases[-1], last_step=steps)))


def _usual_vocabulary(one: StudentSpec) -> str:
    if len(set(one.teachers.values())) > 1:
        return "union"
    return "both" if len(one.languages) > 1 else one.languages[0]


def _sentences(language: str) -> list[str]:
    """Distinct texts of 2 to 14 words; a few words and numbers are the same in both languages."""
    random = np.random.default_rng(sorted(SYLLABLES).index(language))
    syllables = SYLLABLES[language]
    words = ["".join(random.choice(syllables, random.integers(1, 4))) for _ in range(150)] + ["tami", "12", "7"]
    weights = 1 / np.arange(1, len(words) + 1)
    return [" ".join(random.choice(words, random.integers(2, 15), p=weights / weights.sum())) for _ in range(NUM_TEXTS)]


def _write_mixed(folder: Path, lines: list[str]) -> Path:
    """A BERT of 4 layers with WordPiece."""
    special = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=[*special.values()], show_progress=False)
    size = _finish_tokenizer(folder, backend, trainer, lines, special)
    config = BertConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
        pad_token_id=0,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(), quiet_transformers():
        torch.manual_seed(0)
        BertForMaskedLM(config).save_pretrained(folder)
    return folder


def _write_other(folder: Path, lines: list[str]) -> Path:
    """A RoBERTa of 3 layers with a Unigram tokenizer."""
    special = {"cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>", "mask": "<mask>"}
    backend = Tokenizer(models.Unigram())
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=160, special_tokens=[*special.values()], unk_token="<unk>", show_progress=False
    )
    size = _finish_tokenizer(folder, backend, trainer, lines, special)
    config = RobertaConfig(
        vocab_size=size,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=40,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(), quiet_transformers():
        torch.manual_seed(1)
        RobertaForMaskedLM(config).save_pretrained(folder)
    return folder


def _finish_tokenizer(
    folder: Path, backend: Tokenizer, trainer: trainers.Trainer, lines: list[str], special: dict[str, str]
) -> int:
    backend = _trained(TRAINED / f"{folder.name}.json", backend, trainer, lines)
    cls, sep = special["cls"], special["sep"]
    ends = [(token, backend.token_to_id(token)) for token in (cls, sep)]
    backend.post_processor = processors.TemplateProcessing(single=f"{cls} $A {sep}", special_tokens=ends)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, **{f"{role}_token": token for role, token in special.items()}
    )
    tokenizer.save_pretrained(folder)
    return len(tokenizer)


def _trained(path: Path, backend: Tokenizer, trainer: trainers.Trainer, lines: list[str]) -> Tokenizer:
    """As it was trained once, since each process settles ties in another way; delete the file to train anew."""
    if not path.exists():
        backend.train_from_iterator(lines, trainer)
        path.parent.mkdir(exist_ok=True)
        backend.save(str(path), pretty=False)
    return Tokenizer.from_file(str(path))


def _listen(name: str, facts: TeacherFacts, corpus: Corpus, section: CorpusSection, codec: HiddenCodec) -> Store:
    """Run the teacher over all its texts, through its worker; the last language comes first in the shards."""
    units: list[Unit] = []
    for language in reversed(facts.section.languages):
        total = corpus.info(language, "train").num_texts
        for first in range(0, total, TEXTS_PER_UNIT):
            units.append(Unit(name, len(units), language, first, min(TEXTS_PER_UNIT, total - first)))
    info = facts.info
    assert info is not None
    layers = range(1, info.depth + 1)
    states = [StateKey(kind, layer) for kind in KINDS for layer in layers] + [StateKey("hidden", 0)]
    store = Store.create(
        facts.store,
        teacher=name,
        fingerprint=Fingerprint({"corpus": corpus.fingerprint, "teacher": name}),
        request=SignalRequest(
            top_k=TOP_K,
            temperatures=(2.0,),
            draws=DRAWS,
            head_states=True,
            at_all_tokens=True,
            states=tuple(sorted(states)),
        ),
        codec=codec,
        sizes=TeacherSizes(width=info.width, head_width=info.embedding_width, vocab_size=info.vocab_size),
        languages=list(facts.section.languages),
        units=units,
    )
    plan = BatchPlan(tokens_per_batch=512, threads=1, dtype="float32")
    task = TeacherTask(facts.section, plan, store.request, codec, facts.store)
    worker = TeacherWorker(PrecomputeJob({name: task}, corpus.folder, section, seed=3))
    for unit in units:
        worker.run(unit)
    store.finish()
    return store


def _build_vocabularies(folder: Path, stores: Mapping[str, Store], mixed: Path, other: Path) -> dict[str, Path]:
    def source(name: str, tokenizer: Path, *languages: str) -> VocabularySource:
        size = len(PreTrainedTokenizerFast.from_pretrained(tokenizer))
        counts = token_counts(stores[name], languages, size=size) if languages else None
        return VocabularySource(name, tokenizer, counts, min_count=3 if languages else 1)

    build_vocabulary([source("mixed", mixed)], folder / "full")
    build_vocabulary([source("mixed", mixed, "aa")], folder / "aa")
    build_vocabulary([source("mixed", mixed, "bb")], folder / "bb")
    build_vocabulary([source("mixed", mixed, "aa", "bb")], folder / "both")
    build_vocabulary([source("mixed", mixed, "aa"), source("other", other, "bb")], folder / "union")
    return {name: folder / name for name in ("full", "aa", "bb", "both", "union")}
