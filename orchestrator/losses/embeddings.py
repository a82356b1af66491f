"""Distances between the two embedding matrices at the tokens of a batch.

Shape legend: N tokens, V vocabulary, E width of an embedding (S student's, T teacher's).

The rows are looked up per token, so that frequent tokens weigh more; a token that either vocabulary lacks (id -1) is
not counted. With equal vocabularies both lists of ids are the same.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import embedding

from orchestrator.losses.base import LossSum
from orchestrator.losses.hidden import hidden_cosine, hidden_mse


def embedding_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    student_ids: Tensor,
    teacher_ids: Tensor,
    projection: Callable[[Tensor], Tensor] | None = None,
) -> LossSum:
    """Mean squared error between the projected student's and the teacher's embedding of each token.

    Formula: Σ_tokens (1/E_T)·‖e_S·W − e_T‖².

    Paper: TinyBERT (Jiao et al. 2020).

    Inputs: student [V_S, E_S] and teacher [V_T, E_T] float embedding matrices; student_ids and teacher_ids int64 [N],
    the same tokens in either vocabulary, -1 where one lacks it; projection [N, E_S] -> [N, E_T], or None.

    Related: `embedding_cosine`; layer 0 of the hidden states is the sum with positions, after LayerNorm.

    Example: embedding_mse(torch.ones(3, 2), torch.zeros(5, 2), student_ids=torch.tensor([0, -1]),
    teacher_ids=torch.tensor([4, 2])) -> total 1, count 1
    """
    rows, teacher_rows, valid = _rows(student, teacher, student_ids, teacher_ids)
    return hidden_mse(rows if projection is None else projection(rows), teacher_rows, valid=valid)


def embedding_cosine(
    student: Tensor,
    teacher: Tensor,
    *,
    student_ids: Tensor,
    teacher_ids: Tensor,
    projection: Callable[[Tensor], Tensor] | None = None,
) -> LossSum:
    """One minus the cosine between the (projected) student's and the teacher's embedding of each token.

    Formula: Σ_tokens 1 − cos(e_S·W, e_T).

    Paper: Bui 2022, cosine distance of embeddings in one-to-many distillation.

    Inputs, related: as `embedding_mse`.

    Example: embedding_cosine(torch.ones(3, 2), torch.ones(5, 2), student_ids=torch.tensor([0]),
    teacher_ids=torch.tensor([4])) -> total 0, count 1
    """
    rows, teacher_rows, valid = _rows(student, teacher, student_ids, teacher_ids)
    return hidden_cosine(rows if projection is None else projection(rows), teacher_rows, valid=valid)


def _rows(student: Tensor, teacher: Tensor, student_ids: Tensor, teacher_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    valid = (student_ids >= 0) & (teacher_ids >= 0)
    return (
        embedding(student_ids.clamp_min(0), student),
        embedding(teacher_ids.clamp_min(0), teacher.detach()),
        valid,
    )
