"""Tiny random models of all five architectures, in shapes that tell their parts apart."""

from __future__ import annotations

import torch
from torch import Tensor

from orchestrator.config.models import StudentTemplate
from orchestrator.models.building import build_encoder
from orchestrator.models.encoder import Encoder
from orchestrator.records import SpecialIds

ARCHITECTURES = ("bert", "roberta", "distilbert", "electra", "modernbert")
SPECIAL = SpecialIds(pad=1, unk=3, mask=4, cls=0, sep=2)
VOCAB_SIZE = 67


def template(architecture: str, **options: object) -> StudentTemplate:
    """3 layers of width 32; any field can be given instead."""
    sizes = {"layers": 3, "hidden_size": 32, "heads": 4, "intermediate_size": 48, "max_positions": 40}
    return StudentTemplate.model_validate(sizes | {"architecture": architecture} | options)


def build(architecture: str, *, seed: int = 0, **options: object) -> Encoder:
    """A tiny student in evaluation mode whose biases and norms are random too, so that none can hide."""
    encoder = build_encoder(template(architecture, **options), vocab_size=VOCAB_SIZE, special=SPECIAL, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return encoder.eval()


def padded_batch(*lengths: int) -> tuple[Tensor, Tensor]:
    """Ids [B, L] padded on the right, and their attention mask."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCAB_SIZE, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]
    return ids.masked_fill(~mask, SPECIAL.pad), mask.long()
