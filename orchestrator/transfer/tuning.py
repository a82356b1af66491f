"""The loop that fine-tunes: one student, or two that share what is trained.

Shape legend: E sentences, U units with a label, P units of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.config.transfer import TransferSection
from orchestrator.records import Int64
from orchestrator.transfer.parts import Parts
from orchestrator.transfer.tagger import Tagger
from orchestrator.transfer.tasks import Examples
from orchestrator.transfer.tokens import EncodedExamples

#: Batches whose sentences are sorted by length together.
_WINDOW = 16

#: Told after each step how many tokens it read.
OnStep = Callable[[int], None]


def tune(
    taggers: Sequence[Tagger],
    encoded: Sequence[EncodedExamples],
    parts: Parts,
    *,
    examples: Examples,
    options: TransferSection,
    seed: int,
    teacher_logits: Tensor | None = None,
    on_step: OnStep,
) -> None:
    """Train `parts` and the head on the examples; every tagger reads each batch in its own ids, their losses are added.

    The loss of a step is the mean cross-entropy of its units, and with `teacher_logits` [U, C] (NaN where the teacher
    had no place for a unit) plus `distil_weight` times the mean squared distance to them (Ba & Caruana 2014).
    The result is a function of the arguments; the global random state is left as it was.
    """
    head = taggers[0].head
    trained = [*parts.weights.values(), *parts.light, *head.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": list(parts.weights.values()), "lr": options.learning_rate},
            {"params": [*parts.light, *head.parameters()], "lr": options.light_learning_rate},
        ],
        weight_decay=options.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _rate(options))
    label = torch.from_numpy(examples.label).to(taggers[0].device)
    for tagger in taggers:
        tagger.train()
    devices = [taggers[0].device] if taggers[0].device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)  # dropout
        for sentences in batches(examples, size=options.batch_size, steps=options.steps, seed=seed):
            optimizer.zero_grad(set_to_none=True)
            total, count, tokens = torch.zeros((), device=taggers[0].device), 0, 0
            for tagger, own in zip(taggers, encoded, strict=True):
                batch = own.batch(sentences, tagger.device)
                unit = torch.from_numpy(batch.unit).to(tagger.device)
                loss = _loss(tagger(batch), label[unit], _of(teacher_logits, unit), options.distil_weight)
                total, count, tokens = total + loss, count + len(unit), tokens + batch.num_tokens
            (total / max(1, count)).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, options.clip_norm)
            optimizer.step()
            schedule.step()
            on_step(tokens)
    for tagger in taggers:
        tagger.eval()


def batches(examples: Examples, *, size: int, steps: int, seed: int) -> Iterator[Int64]:
    """Numbers of the sentences of each step: epoch after epoch in random order, sentences of similar length together.

    Length is counted in characters, so that students with different tokenizers see the same batches.
    """
    random = np.random.default_rng(seed)
    length = np.array([sum(map(len, words)) for words in examples.words], np.int64)
    done = 0
    while True:
        order = random.permutation(len(examples))
        for start in range(0, len(order), size * _WINDOW):
            window = order[start : start + size * _WINDOW]
            window = window[np.argsort(length[window], kind="stable")]
            cut = np.split(window, range(size, len(window), size))
            for number in random.permutation(len(cut)):
                yield cut[number]
                done += 1
                if done == steps:
                    return


@torch.inference_mode()
def logits_of(tagger: Tagger, encoded: EncodedExamples, *, num_units: int) -> Tensor:
    """Logits float32 [U, C] of every unit on the CPU, NaN where one has no place."""
    tagger.eval()
    logits = torch.full((num_units, tagger.head.out_features), torch.nan)
    for batch in encoded.test_batches(tagger.device):
        logits[torch.from_numpy(batch.unit)] = tagger(batch).cpu()
    return logits


def _loss(logits: Tensor, label: Tensor, teacher: Tensor | None, weight: float) -> Tensor:
    """The sum over the P units of what is to become a mean."""
    loss = nn.functional.cross_entropy(logits, label, reduction="sum")
    if teacher is not None:
        teacher = teacher.to(logits.device)
        known = ~teacher[:, 0].isnan()
        squared = (logits[known] - teacher[known]).square().mean(dim=1).sum()
        loss = loss + weight * squared * (len(label) / known.sum().clamp(min=1))
    return loss


def _of(logits: Tensor | None, unit: Tensor) -> Tensor | None:
    return None if logits is None else logits[unit.cpu()]


def _rate(options: TransferSection) -> Callable[[int], float]:
    warmup = max(1, round(options.warmup_share * options.steps))

    def rate(step: int) -> float:
        return (step + 1) / warmup if step < warmup else (options.steps - step) / max(1, options.steps - warmup)

    return rate
