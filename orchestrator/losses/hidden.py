"""Distances between matched hidden states, token by token.

Shape legend: ... tokens in any layout ([N] gathered, or [B, L]), D width. `valid` is bool over the tokens, False at
padding; what stands at padding, even NaN, touches neither the sum nor a gradient.
"""

from __future__ import annotations

from torch import Tensor

from orchestrator.losses.base import LossSum, masked_sum, widen


def hidden_mse(student: Tensor, teacher: Tensor, *, valid: Tensor | None = None) -> LossSum:
    """Mean squared error of two hidden states: the mean over the width, summed over tokens.

    Formula: Σ_tokens (1/D)·‖h_S − h_T‖²; the count is the number of tokens, so total/count is the mean over all
    elements. Projections to the teacher's width come before it.

    Paper: FitNets (Romero et al. 2015) for one pair of layers; TinyBERT (Jiao et al. 2020) for all of them.

    Inputs: student [..., D] float, teacher [..., D] float, valid [...] bool or None.

    Related: `hidden_cosine`.

    Example: hidden_mse(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)) -> total 5, count 1
    """
    difference = widen(student) - widen(teacher.detach())
    if valid is not None:
        difference = difference.masked_fill(~valid.unsqueeze(-1), 0.0)
    return masked_sum(difference.square().mean(-1), valid)


def hidden_cosine(student: Tensor, teacher: Tensor, *, valid: Tensor | None = None) -> LossSum:
    """One minus the cosine of the angle between two hidden states, summed over tokens.

    Formula: Σ_tokens 1 − ⟨h_S, h_T⟩ / (‖h_S‖·‖h_T‖). Where either vector is zero the angle is undefined: the token
    counts as orthogonal (1) and gets no gradient.

    Paper: DistilBERT (Sanh et al. 2019), on the last hidden state; SID (Aguilar et al. 2020), on [CLS] alone.

    Inputs: student [..., D] float, teacher [..., D] float, valid [...] bool or None.

    Related: `hidden_mse`.

    Example: hidden_cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])) -> total 1, count 1
    """
    student, teacher = widen(student), widen(teacher.detach())
    if valid is not None:
        padding = ~valid.unsqueeze(-1)
        student, teacher = student.masked_fill(padding, 0.0), teacher.masked_fill(padding, 0.0)
    student_square, teacher_square = student.square().sum(-1), teacher.square().sum(-1)
    zero = (student_square == 0) | (teacher_square == 0)
    scale = student_square.masked_fill(zero, 1.0).rsqrt() * teacher_square.masked_fill(zero, 1.0).rsqrt()
    cosine = ((student * teacher).sum(-1) * scale).masked_fill(zero, 0.0)
    return masked_sum(1.0 - cosine, valid)
