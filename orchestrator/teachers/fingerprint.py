"""What a teacher's signals depend on, as the parts of the fingerprint that names their store."""

from __future__ import annotations

from orchestrator.config.corpus import CorpusSection, ParallelText
from orchestrator.config.models import TeacherSection
from orchestrator.corpus.parallel import read_parallel
from orchestrator.corpus.store import Corpus
from orchestrator.models.checkpoints import tokenizer_hash, weights_hash
from orchestrator.records import BatchPlan, HiddenCodec
from orchestrator.signals.fingerprint import JSON

#: Of the store: the tables, their columns and what they mean.
_FORMAT = 2


def fingerprint_parts(
    section: TeacherSection,
    corpus: Corpus,
    corpus_section: CorpusSection,
    *,
    seed: int,
    codec: HiddenCodec,
    plan: BatchPlan,
) -> dict[str, JSON]:
    """Everything in clear that decides the bytes of a store; reads the teacher's files to hash them.

    What is asked of the teacher is not among it: a signal that is asked for later is a new table beside the old ones.
    Neither is how texts are cut into units, which depends on what is asked; a store keeps the units that it was made
    with.

    Raises:
        DataError: the teacher's weights or tokenizer are missing.
    """
    weights = None if section.model is None else weights_hash(section.model, revision=section.revision)
    return {
        "format": _FORMAT,
        "teacher_weights": weights,
        "tokenizer": tokenizer_hash(section.tokenizer_path, revision=section.revision),
        "corpus": corpus.fingerprint,
        "languages": list(section.languages),
        "texts": {language: corpus.info(language, "train").num_texts for language in section.languages},
        "max_length": corpus_section.max_length,
        "packing": corpus_section.packing,
        "masking": corpus_section.masking.model_dump(mode="json"),
        "seed": seed,
        "hidden_codec": codec,
        "tokens_per_batch": plan.tokens_per_batch,
        "threads": plan.threads,
        "dtype": plan.dtype,
    }


def sentence_parts(
    section: TeacherSection, text: ParallelText, language: str, *, max_length: int, plan: BatchPlan
) -> dict[str, JSON]:
    """The same of a store of sentence vectors; reads the text to hash it.

    Raises:
        DataError: the teacher's weights or tokenizer, or the text, are missing.
    """
    assert section.model is not None
    return {
        "format": _FORMAT,
        "teacher_weights": weights_hash(section.model, revision=section.revision),
        "tokenizer": tokenizer_hash(section.tokenizer_path, revision=section.revision),
        "sentences": read_parallel(text).content_hash(language),
        "language": language,
        "languages": list(section.languages),
        "max_length": max_length,
        "tokens_per_batch": plan.tokens_per_batch,
        "threads": plan.threads,
        "dtype": plan.dtype,
    }
