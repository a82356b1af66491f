"""Our relation loss, on queries, keys and values taken by hooks, against the whole MiniLMv2 loss of bertdistiller."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from orchestrator.losses.attention import attention_kl, attention_pairs, attention_scores, relation_kl

trainer = pytest.importorskip(
    "bertdistiller.distillation.minilm.trainer", reason="bertdistiller is not installed", exc_type=ImportError
)


def model(seed: int, *, width: int, heads: int, layers: int) -> BertModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=50,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=2 * width,
            architectures=["BertForMaskedLM"],
            initializer_range=0.5,
        )
        return BertModel(config).eval()


def projections(encoder: BertModel, layer: int, inputs: dict[str, Tensor]) -> list[Tensor]:
    """Queries, keys and values of one layer, counted from 1."""
    found: list[Tensor] = []
    attention = encoder.encoder.layer[layer - 1].attention.self
    handles = [
        part.register_forward_hook(lambda _module, _inputs, output: found.append(output))
        for part in (attention.query, attention.key, attention.value)
    ]
    encoder(**inputs)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("lengths", [[6, 6, 6], [4]])
def test_minilmv2(lengths: list[int]) -> None:
    """Theirs averages over sequences first, so equal lengths are compared, with and without padding after them."""
    teacher, student = model(0, width=24, heads=2, layers=3), model(1, width=16, heads=4, layers=2)
    teacher.requires_grad_(False)
    ids = torch.randint(5, 50, (len(lengths), 6), generator=torch.Generator().manual_seed(2))
    valid = torch.arange(6) < torch.tensor(lengths).unsqueeze(-1)
    inputs = {"input_ids": ids, "attention_mask": valid.long()}
    # (1, 1), (2, 2), (3, 3) are QQ, KK and VV; (1, 2) is QK, ordinary attention with relation heads.
    reference = object.__new__(trainer.MiniLMTrainer)
    reference.args = SimpleNamespace(
        teacher_layer=2,
        student_layer=2,
        num_relation_heads=8,
        relations={(1, 1): 1.0, (2, 2): 1.0, (3, 3): 1.0, (1, 2): 1.0},
    )
    reference.teacher = teacher
    reference.attention_extractor = trainer.BertAttentionExtractor()
    reference.kl_loss = torch.nn.KLDivLoss(reduction="sum")
    theirs = reference.compute_loss(student, inputs)

    ours, theirs_too = projections(student, 2, inputs), projections(teacher, 2, inputs)
    pairs = attention_pairs(valid)
    losses = [relation_kl(s, t, num_relation_heads=8, pairs=pairs) for s, t in zip(ours, theirs_too, strict=True)]
    scores = [attention_scores(query, key, num_heads=8) for query, key, _ in (ours, theirs_too)]
    losses.append(attention_kl(scores[0], scores[1], pairs=pairs))
    total = torch.stack([loss.total / loss.count for loss in losses]).sum()
    torch.testing.assert_close(total, theirs, atol=1e-5, rtol=1e-5)
    parameters = [student.encoder.layer[1].attention.self.value.weight, student.encoder.layer[0].output.dense.weight]
    for mine, other in zip(
        torch.autograd.grad(total, parameters), torch.autograd.grad(theirs, parameters), strict=True
    ):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)
