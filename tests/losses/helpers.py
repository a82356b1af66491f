"""Small inputs for the tests of the losses, with a slow and obvious version of the sparse targets."""

from __future__ import annotations

import torch
from torch import Tensor


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def teacher_top_k(teacher_logits: Tensor, k: int, temperature: float) -> dict[str, Tensor]:
    """The signal as a store would keep it."""
    log_probs, ids = teacher_logits.log_softmax(-1).topk(k)
    return {
        "topk_ids": ids,
        "topk_logprobs": log_probs,
        "logsumexp": teacher_logits.logsumexp(-1),
        "logsumexp_t": (teacher_logits / temperature).logsumexp(-1),
    }


def slow_sparse_kl(logits: Tensor, ids: Tensor, probs: Tensor, tail: str, temperature: float) -> tuple[Tensor, int]:
    """Position by position, id by id; `probs` are the teacher's at this temperature."""
    total, count = logits.new_zeros(()), 0
    for row in range(len(logits)):
        masses: dict[int, float] = {}
        for token, mass in zip(ids[row].tolist(), probs[row].tolist(), strict=True):
            if token >= 0:
                masses[token] = masses.get(token, 0.0) + mass
        if not masses:
            continue
        count += 1
        p = (logits[row] / temperature).softmax(-1)
        a = sum(masses.values())
        scale = 1 / a if tail == "renormalise" else 1.0
        for token, mass in masses.items():
            total = total + mass * scale * (torch.log(torch.tensor(mass * scale)) - p[token].log())
        if tail == "ghost" and len(masses) < len(p):
            s = sum(p[token] for token in masses)
            total = total + (1 - a) * (torch.log(torch.tensor(1 - a)) - (1 - s).log())
    return total * temperature**2, count
