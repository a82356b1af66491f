"""Distances between matched hidden states, token by token.

Shape legend: ... tokens in any layout ([N] gathered, [B, L], or [B] for [CLS] alone), D width. `valid` is bool over the
tokens, False at padding; what stands at padding, even NaN, touches neither the sum nor a gradient.

Learned projections to the teacher's width come before these functions. The sum over matched layers is the caller's:
totals and counts both add.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import layer_norm

from orchestrator.losses.base import LossSum, masked_sum, widen


def hidden_mse(student: Tensor, teacher: Tensor, *, valid: Tensor | None = None) -> LossSum:
    """Mean squared error of two hidden states: the mean over the width, summed over tokens.

    Formula: Σ_tokens (1/D)·‖h_S − h_T‖²; the count is the number of tokens, so total/count is the mean over all
    elements.

    Paper: FitNets (Romero et al. 2015) for one pair of layers; TinyBERT (Jiao et al. 2020) for all of them;
    XtremeDistil (Mukherjee & Awadallah 2020) after a GELU projection.

    Inputs: student [..., D] float, teacher [..., D] float, valid [...] bool or None.

    Related: `hidden_cosine`, `normalised_mse`, `layer_norm_mse`, `feature_kl`.

    Example: hidden_mse(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2)) -> total 5, count 1
    """
    student, teacher = _at_tokens(student, teacher, valid)
    return masked_sum((student - teacher).square().mean(-1), valid)


def hidden_cosine(student: Tensor, teacher: Tensor, *, valid: Tensor | None = None) -> LossSum:
    """One minus the cosine of the angle between two hidden states, summed over tokens.

    Formula: Σ_tokens 1 − ⟨h_S, h_T⟩ / (‖h_S‖·‖h_T‖). Where either vector is zero the angle is undefined: the token
    counts as orthogonal (1) and gets no gradient.

    Paper: DistilBERT (Sanh et al. 2019), on the last hidden state; SID (Aguilar et al. 2020), on [CLS] alone.

    Inputs: student [..., D] float, teacher [..., D] float, valid [...] bool or None.

    Related: `normalised_mse`, which is twice this where no vector is zero.

    Example: hidden_cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])) -> total 1, count 1
    """
    student, teacher = _at_tokens(student, teacher, valid)
    return masked_sum(1.0 - (unit(student) * unit(teacher)).sum(-1), valid)


def normalised_mse(student: Tensor, teacher: Tensor, *, valid: Tensor | None = None) -> LossSum:
    """Squared distance of two hidden states after both are scaled to length one; a sum over the width.

    Formula: Σ_tokens ‖h_S/‖h_S‖ − h_T/‖h_T‖‖². A zero vector stays zero and gets no gradient.

    Paper: PKD (Sun et al. 2019), on [CLS] of every matched layer but the last.

    Inputs: student [..., D] float, teacher [..., D] float, valid [...] bool or None; for PKD both [B, D], the states
    at position 0.

    Related: `hidden_cosine`.

    Example: normalised_mse(torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 2.0]])) -> total 2, count 1
    """
    student, teacher = _at_tokens(student, teacher, valid)
    return masked_sum((unit(student) - unit(teacher)).square().sum(-1), valid)


def layer_norm_mse(student: Tensor, teacher: Tensor, *, valid: Tensor | None = None) -> LossSum:
    """`hidden_mse` after a LayerNorm without scale and shift on either side, which takes out the layers' own scales.

    Formula: Σ_tokens (1/D)·‖LN(h_S) − LN(h_T)‖².

    Paper: MobileBERT (Sun et al. 2020), feature map transfer.

    Inputs: student [..., D] float, teacher [..., D] float, valid [...] bool or None.

    Related: `hidden_mse`.

    Example: layer_norm_mse(torch.tensor([[1.0, 3.0]]), torch.tensor([[10.0, 50.0]])) -> total about 0, count 1
    """
    student, teacher = _at_tokens(student, teacher, valid)
    difference = layer_norm(student, student.shape[-1:]) - layer_norm(teacher, teacher.shape[-1:])
    return masked_sum(difference.square().mean(-1), valid)


def feature_kl(student: Tensor, teacher: Tensor, *, valid: Tensor | None = None) -> LossSum:
    """KL between two hidden states read as distributions over their features, teacher first.

    Formula: Σ_tokens KL(softmax(h_T) ‖ softmax(h_S)), the softmax over the width. A divergence of the raw states is
    undefined, for they are negative too.

    Paper: XtremeDistil (Mukherjee & Awadallah 2020).

    Inputs: student [..., D] float, teacher [..., D] float, valid [...] bool or None.

    Related: `hidden_mse`, the default for the same purpose.

    Example: feature_kl(torch.zeros(1, 2), torch.tensor([[0.0, 1000.0]])) -> total log 2, count 1
    """
    student, teacher = _at_tokens(student, teacher, valid)
    log_p, log_t = student.log_softmax(-1), teacher.log_softmax(-1)
    return masked_sum((log_t.exp() * (log_t - log_p)).sum(-1), valid)


def unit(vectors: Tensor) -> Tensor:
    """Vectors [..., D] at length one; zero vectors stay zero and pass no gradient."""
    square = vectors.square().sum(-1, keepdim=True)
    zero = square == 0
    return (vectors * square.masked_fill(zero, 1.0).rsqrt()).masked_fill(zero, 0.0)


def _at_tokens(student: Tensor, teacher: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both widened, the teacher without gradient, and padding blanked out."""
    student, teacher = widen(student), widen(teacher.detach())
    if valid is None:
        return student, teacher
    padding = ~valid.unsqueeze(-1)
    return student.masked_fill(padding, 0.0), teacher.masked_fill(padding, 0.0)
