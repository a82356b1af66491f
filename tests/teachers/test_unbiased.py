"""What a teacher's draws teach: on a flat distribution their mean gradient is the dense one, and top-k stays away."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from orchestrator.losses.output import soft_targets, sparse_kl
from orchestrator.losses.targets import sampled_targets, top_k_targets
from orchestrator.models.encoder import freeze
from orchestrator.records import BatchPlan, MaskedRows, SignalRequest
from orchestrator.signals.draws import decode_draws
from orchestrator.signals.topk import decode_topk
from orchestrator.teachers import head
from orchestrator.teachers.forward import compute_signals
from tests.models.tiny import SPECIAL, VOCAB_SIZE, build

COPIES, DRAWS, K = 20_000, 50, 12


@pytest.mark.parametrize("columns", [10**6, 20])
def test_the_mean_gradient_of_draws_is_the_dense_one(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row in 20,000 copies, drawn from by the teacher, packed, unpacked and put into the loss."""
    monkeypatch.setattr(head, "COLUMNS", columns)  # with 20 the vocabulary is cut into four
    encoder = freeze(build("bert"))
    rows = _copies()
    request = SignalRequest(top_k=K, draws=DRAWS)
    plan = BatchPlan(tokens_per_batch=4000, threads=1, dtype="float32")
    tables = compute_signals(encoder, rows, request, codec="fp16", plan=plan, pad_id=SPECIAL.pad, seed=0)
    with torch.no_grad():
        logits = encoder.model(input_ids=torch.from_numpy(rows.input_id[:4]).long()[None]).logits[:, 1]
    assert logits.softmax(-1).max() < 0.15
    student = torch.randn(1, VOCAB_SIZE, generator=torch.Generator().manual_seed(1)).requires_grad_()
    (dense,) = torch.autograd.grad(soft_targets(student, teacher_logits=logits).total, student)

    ids, counts = decode_draws(tables["draws_050"]["distinct"], tables["drawn_050"]["code"], draws=DRAWS)
    sampled = sampled_targets(torch.from_numpy(ids), counts=torch.from_numpy(counts))
    many = student.detach().expand(COPIES, -1).clone().requires_grad_()
    sparse_kl(many, sampled, temperature=1.0, tail="drop").total.backward()
    assert many.grad is not None
    mean = many.grad.mean(0)
    assert ((mean - dense[0]).norm() / dense.norm()).item() < 0.02

    for tail in ("renormalise", "ghost"):
        ids, log_probs = decode_topk(tables["topk_012"])
        kept = top_k_targets(
            torch.from_numpy(ids[:1]),
            log_probs=torch.from_numpy(log_probs[:1]),
            logsumexp=torch.logsumexp(logits, -1),
            logsumexp_t=None,
            temperature=1.0,
        )
        (biased,) = torch.autograd.grad(sparse_kl(student, kept, temperature=1.0, tail=tail).total, student)
        assert ((biased - dense).norm() / dense.norm()).item() > 0.2


def _copies() -> MaskedRows:
    first = np.arange(COPIES, dtype=np.int64)
    return MaskedRows(
        row_id=first // 100 << 16,
        copy=(first % 100).astype(np.int16),
        language=np.zeros(COPIES, np.int16),
        first_token=first * 4,
        num_tokens=np.full(COPIES, 4, np.int32),
        first_masked=first,
        num_masked=np.ones(COPIES, np.int32),
        input_id=np.tile(np.array([SPECIAL.cls, SPECIAL.mask, 20, SPECIAL.sep], np.int32), COPIES),
        masked_token=first * 4 + 1,
        label_id=np.full(COPIES, 30, np.int32),
    )
