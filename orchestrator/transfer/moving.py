"""Bring what was trained in one student into another.

Shape legend: V vocabulary, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from orchestrator.errors import DataError
from orchestrator.models.encoder import Encoder
from orchestrator.transfer.parts import Parts, attach, base_weights, top_weights


def move_parts(trained: Parts, source: Encoder, target: Encoder, *, top: int) -> None:
    """Put the `top` layers of `source` into `target` by their distance from the head, and adapters and offsets onto it.

    Raises:
        DataError: the two students are of different shapes.
    """
    if trained.weights:
        moved = top_weights(source, top).values()
        own = top_weights(target, top)
        _check(list(own), [tuple(weight.shape) for weight in moved], [tuple(weight.shape) for weight in own.values()])
        with torch.no_grad():
            for weight, value in zip(own.values(), moved, strict=True):
                weight.copy_(value)
    attach(target, trained)


def add_difference(
    *,
    tuned: Encoder,
    base: Encoder,
    target: Encoder,
    source_tokens: Mapping[str, int],
    target_tokens: Mapping[str, int],
) -> None:
    """target += tuned − base, weight by weight (SFT): a task as a direction in weight space.

    `base` is `tuned` as it was before fine-tuning. Vocabularies may differ: word vectors [V, D] of tokens that both
    have move as those of the source did, the others stay.

    Raises:
        DataError: the two students are of different shapes.
    """
    before, after, own = base_weights(base), base_weights(tuned), base_weights(target)
    words = next(name for name, weight in own.items() if weight is target.word_embeddings.weight)
    shapes = [[tuple(weights[name].shape) for name in weights if name != words] for weights in (before, own)]
    _check([name for name in own if name != words], *shapes)
    with torch.no_grad():
        for name, weight in own.items():
            difference = after[name] - before[name]
            if name == words:
                _add_rows(weight, difference, source_tokens, target_tokens)
            else:
                weight.add_(difference)


def _add_rows(weight: Tensor, difference: Tensor, source: Mapping[str, int], target: Mapping[str, int]) -> None:
    if weight.shape[1] != difference.shape[1]:
        raise DataError("Mode sft: the word vectors of the two students differ in width; use the mode full-trg.")
    common = [token for token in target if token in source]
    to = torch.tensor([target[token] for token in common], device=weight.device)
    of = torch.tensor([source[token] for token in common], device=weight.device)
    weight.index_add_(0, to, difference[of])


def _check(names: list[str], source: list[tuple[int, ...]], target: list[tuple[int, ...]]) -> None:
    if source == target:
        return
    pairs = zip(names, source, target, strict=False)
    where = next((f", as '{name}' shows: {ours} and {theirs}" for name, ours, theirs in pairs if ours != theirs), "")
    raise DataError(
        f"Source and target student are of different shapes{where}; weights move between students of one shape alone, "
        "so use a mode that ends in -trg."
    )
