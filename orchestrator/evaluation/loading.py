"""The models of a job, loaded one at a time, and the id maps that tie their vocabularies."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from orchestrator.errors import StoreError
from orchestrator.evaluation.job import EvaluatedModel, EvaluationJob
from orchestrator.models.devices import pick_device, pick_dtype
from orchestrator.models.encoder import Encoder, freeze
from orchestrator.models.loading import load_encoder
from orchestrator.models.tokenizers import load_tokenizer
from orchestrator.records import Int32
from vocab_tools.errors import VocabularyError
from vocab_tools.files import read_map


def load_model(model: EvaluatedModel, job: EvaluationJob) -> Encoder:
    """The encoder of a model, frozen, with its head where it has one; raises DataError when it cannot be loaded."""
    assert model.folder is not None, f"{model.name} is a tokenizer alone"
    device = pick_device(job.device)
    dtype = pick_dtype(job.dtype, device=device)
    encoder = load_encoder(model.folder, revision=model.revision, dtype=dtype, device=device, need_head=False)
    return freeze(encoder)


@lru_cache(maxsize=4)
def _tokenizer_at(path: str, revision: str | None) -> PreTrainedTokenizerFast:
    return load_tokenizer(path, revision=revision)


def tokenizer_of(model: EvaluatedModel, language: str) -> PreTrainedTokenizerFast:
    """What emits a model's ids for `language`; a large one takes a second to load, so the latest few are kept."""
    return _tokenizer_at(model.tokenizer(language), model.revision)


def load_id_map(path: Path, *, size: int, vocabulary: int) -> Int32:
    """A map of teacher ids, int32 [at least `size`] (more ids than it has go nowhere, -1), into `vocabulary` ids.

    Raises:
        StoreError: the file is missing, no int32 list, or names an id outside the vocabulary.
    """
    try:
        id_map = read_map(path)
    except VocabularyError as error:
        raise StoreError(f"{error}.") from None
    if len(id_map) and (id_map.max() >= vocabulary or id_map.min() < -1):
        raise StoreError(
            f"{path}: id {id_map.max()} is outside the model's vocabulary of {vocabulary}; the map belongs to another "
            "student, build the vocabulary again."
        )
    return np.concatenate([id_map, np.full(max(0, size - len(id_map)), -1, np.int32)])


def same_ids(size: int, *, vocabulary: int) -> Int32:
    """The map of a model that uses its teacher's ids as they are; ids beyond its vocabulary go nowhere."""
    ids = np.arange(size, dtype=np.int32)
    return np.where(ids < vocabulary, ids, np.int32(-1))


def float_head(encoder: Encoder) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The decoder in float32, weight [V, W] and bias [V]: log-probabilities of a few digits decide agreement."""
    bias = encoder.decoder_bias
    return encoder.decoder_weight.detach().float(), None if bias is None else bias.detach().float()
