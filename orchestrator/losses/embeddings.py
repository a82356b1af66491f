"""Distances between embedding matrices: a student's and its teacher's at the tokens of a batch, or those of students.

Shape legend: N tokens, V vocabulary, E width of an embedding (S student's, T teacher's), G anchors, A a student's.

Of a batch the rows are looked up per token, so that frequent tokens weigh more; a token that either vocabulary lacks
(id -1) is not counted. With equal vocabularies both lists of ids are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding

from orchestrator.losses.base import LossSum, masked_sum, widen
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


def anchor_spread(student: Tensor, centres: Tensor, *, student_ids: Tensor, anchors: Tensor) -> LossSum:
    """How far a student's embeddings of the tokens that others have too are from the middle.

    Formula: Σ_anchors ½‖e_S − ē‖², a sum over the width. `centres` is detached: the gradient e_S − ē is also that of
    the sum over all students, since their distances from their mean add up to zero.

    Inputs: student [V_S, E] float; centres [G, E] float, of `anchor_centres`; student_ids int64 [A], anchors int64 [A],
    the student's ids of the anchors that it has, and which these are.

    Example: anchor_spread(torch.ones(3, 2), torch.zeros(4, 2), student_ids=torch.tensor([0]),
    anchors=torch.tensor([3])) -> total 1, count 1
    """
    rows, middle = embedding(student_ids, student), embedding(anchors, centres.detach())
    return masked_sum(0.5 * (widen(rows) - widen(middle)).square().sum(-1), None)


@torch.no_grad()
def anchor_centres(
    students: Sequence[Tensor], *, student_ids: Sequence[Tensor], anchors: Sequence[Tensor], count: int
) -> Tensor:
    """The mean of each anchor's embedding over the students that have it: [G, E], zero where none has it.

    Inputs: of every student its matrix [V_S, E] float, and student_ids and anchors int64 [A] as in `anchor_spread`,
    each anchor once; `count` is G.

    Example: anchor_centres([torch.zeros(1, 2), torch.ones(1, 2)], student_ids=[torch.tensor([0])] * 2,
    anchors=[torch.tensor([0])] * 2, count=1) -> [[0.5, 0.5]]
    """
    total = widen(students[0]).new_zeros(count, students[0].shape[-1])
    users = total.new_zeros(count, 1)
    for matrix, ids, places in zip(students, student_ids, anchors, strict=True):
        total.index_add_(0, places, widen(embedding(ids, matrix)))
        users.index_add_(0, places, users.new_ones(len(places), 1))
    return total / users.clamp_min(1.0)


def _rows(student: Tensor, teacher: Tensor, student_ids: Tensor, teacher_ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    valid = (student_ids >= 0) & (teacher_ids >= 0)
    return (
        embedding(student_ids.clamp_min(0), student),
        embedding(teacher_ids.clamp_min(0), teacher.detach()),
        valid,
    )
