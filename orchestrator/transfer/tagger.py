"""An encoder with a linear head for a task.

Shape legend: B sentences, L tokens, P units (sentences or words) of a batch, C classes, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from orchestrator.models.encoder import Encoder
from orchestrator.transfer.tokens import Batch


def make_head(width: int, num_classes: int, *, seed: int) -> nn.Linear:
    """D -> C, a function of the sizes and the seed; the global random state is left as it was."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(width, num_classes, device="meta").to_empty(device="cpu")  # which draws no random number
    with torch.no_grad():
        head.weight.normal_(0.0, 0.02, generator=generator)
        head.bias.zero_()
    return head


class Tagger(nn.Module):
    """Class scores of words, from the state of their first sub-token, or of sentences, from their mean state."""

    def __init__(self, encoder: Encoder, head: nn.Linear) -> None:
        """`head` may belong to several taggers."""
        super().__init__()
        self.encoder = encoder
        self.head = head

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.head.weight.device

    def forward(self, batch: Batch) -> Tensor:
        """Logits float32 [P, C]."""
        states = self.encoder(batch.ids, batch.attention, states=()).last
        if batch.column is None:
            weight = (batch.attention / batch.attention.sum(dim=1, keepdim=True)).to(states.dtype)
            units = torch.einsum("bl,bld->bd", weight, states)
        else:
            units = states[batch.row, batch.column]
        logits: Tensor = self.head(units.float())
        return logits
