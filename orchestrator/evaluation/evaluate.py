"""The measures of a run, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from orchestrator.corpus.store import open_corpus
from orchestrator.evaluation.alignment import alignment_rows
from orchestrator.evaluation.job import EvaluationJob
from orchestrator.evaluation.masked_lm import masked_lm_rows
from orchestrator.evaluation.parts import Parts
from orchestrator.models.devices import torch_threads
from orchestrator.records import MetricRow


def evaluate(job: EvaluationJob, *, kept_in: Path | None = None) -> Iterator[MetricRow]:
    """Measure every model of `job`, yielding rows as they are known.

    `kept_in`: a file that keeps finished parts; those that it has are not measured again.

    | metric | what `value` is; `n` counts the masked tokens, the pairs of sentences or the test sentences |
    |---|---|
    | masked_lm_accuracy, masked_lm_nats | share right, cross-entropy per masked token |
    | bits_per_character | bits per masked token × tokens per character: comparable across vocabularies |
    | unknown_share | masked tokens that the vocabulary lacks, charged as [UNK] and 8 bits per byte of their surface |
    | teacher_agreement, teacher_kl | the same first choice, KL(teacher ‖ model) in nats, on the same positions |
    | teacher_kl_shared | the part of that KL within the tokens that both have |
    | teacher_mass_outside | the teacher's mass on tokens that the model lacks |
    | retrieval_cosine, retrieval_csls, retrieval_chance | share of translations found, by layer and direction |
    | cka, cka_shuffled | of both sides, by layer, and with the pairs shuffled |
    | neuron_correlation, neuron_correlation_shuffled | mean over neurons of the correlation across translations |
    | head_swap_accuracy, head_swap_chance | of a probe fitted on `language`, tested on `other_language`, by layer |

    Raises:
        DataError: text, a tokenizer or a checkpoint cannot be used; the text names it.
        StoreError: an id map is missing or belongs to another student.
    """
    with torch_threads(job.threads):
        parts = Parts(job, path=kept_in)
        yield from masked_lm_rows(job, open_corpus(job.corpus_folder), parts)
        yield from alignment_rows(job, parts)
