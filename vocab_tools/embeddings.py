"""Carry the teachers' embedding rows into the student's vocabulary and width.

V student ids, V_t ids of one teacher, D student width, D_t teacher width, S tokens shared by teachers, U unknown rows.

One teacher: D_t = D copies its rows. D_t > D keeps the D leading right singular directions of its matrix (Eckart &
Young 1936; XtremeDistil, Mukherjee & Awadallah 2020). D_t < D embeds it isometrically along random orthonormal axes.

Several teachers: the first in priority sets the space. Each further one is brought to at most D by its own singular
directions, then shifted, scaled and rotated onto the tokens that already have a row: W = U Vᵀ of the SVD of XᵀY, the
orthogonal Procrustes solution (Schönemann 1966) for the centred rows X of the teacher and Y of the student. The scale
makes both clouds equally wide. Where teachers share a token, its row is that of the first in priority.

A token that no teacher has, but one can cut into pieces, gets the mean of their rows, moved like the others.
Rows without any source are drawn from the normal distribution with the mean and covariance of the known rows.
Everything runs in blocks of rows: beside the inputs and the result, memory stays below 200 MB at D = 1 024.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vocab_tools.errors import VocabularyError
from vocab_tools.union import Int32

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

_BLOCK = 8192
_SAMPLE = 65_536  # rows are enough for a covariance
_FIRST_SCALE = 0.02  # of random rows where nothing at all is known, as BERT starts


@dataclass(frozen=True)
class _Affine:
    """x -> (x - centre) @ weight + shift, from width D_t to D."""

    centre: Float32
    weight: Float32 | None  # None: the identity
    shift: Float32

    def __call__(self, rows: Float32) -> Float32:
        if self.weight is None:
            return rows
        moved: Float32 = np.matmul(rows - self.centre, self.weight, dtype=np.float32)
        moved += self.shift
        return moved


def carry_embeddings(
    matrices: Mapping[str, npt.NDArray[np.floating]],
    maps: Mapping[str, Int32],
    *,
    size: int,
    width: int,
    seed: int,
    priority: Sequence[str],
    pieces: Mapping[str, Mapping[int, Sequence[int]]] | None = None,
) -> Float32:
    """Embedding rows of a student, float32 [V = size, D = width].

    `matrices` are the teachers' embeddings [V_t, D_t], float16 or wider, memory-mapped if you like; `maps` int32 [V_t]
    as build_vocabulary writes them (-1: no student id). A map may be longer than its matrix and the other way round.
    `priority` names every teacher once, first the one whose space and rows win. `pieces` gives, per teacher, the ids
    into which it cuts student tokens that nobody has (pieces.py): their row is the mean of these ids' rows.
    The result depends on nothing else. Raises VocabularyError with one sentence.
    """
    _check(matrices, maps, size, width, priority)
    generator = np.random.default_rng(seed)
    result = np.zeros((size, width), dtype=np.float32)
    known = np.zeros(size, dtype=np.bool_)
    moves: dict[str, _Affine] = {}
    for name in priority:
        matrix = matrices[name]
        old, new = _mapped(maps[name], len(matrix))
        if not len(old):
            continue
        shared = known[new]
        move = _into_width(matrix, old, width, generator)
        if known.any():
            move = _onto_known(matrix, old, move, result, new, shared, known)
        for block in _blocks(np.flatnonzero(~shared)):
            result[new[block]] = move(_rows(matrix, old[block], name))
        known[new] = True
        moves[name] = move
    for name in (name for name in priority if name in moves):
        cut = {new: ids for new, ids in (pieces or {}).get(name, {}).items() if ids and not known[new]}
        for block in _blocks(np.array(list(cut), dtype=np.int64)):
            result[block] = moves[name](mean_over_pieces(matrices[name], [cut[new] for new in block.tolist()]))
            known[block] = True
    _draw_unknown(result, known, generator)
    return result


def carry_bias(
    biases: Mapping[str, npt.NDArray[np.floating]],
    maps: Mapping[str, Int32],
    *,
    size: int,
    priority: Sequence[str],
    pieces: Mapping[str, Mapping[int, Sequence[int]]] | None = None,
) -> Float32:
    """The decoder's bias of a student, float32 [V = size]: to each token that of the row which it got.

    `biases` [V_t] are the teachers' decoders'; everything else is as in `carry_embeddings`. A softmax does not feel a
    constant, so each further teacher is shifted to agree with the tokens that have a value already, on those that it
    shares or else on all. Tokens of nobody get the mean of the others.
    """
    result = np.zeros(size, dtype=np.float32)
    known = np.zeros(size, dtype=np.bool_)
    shifts: dict[str, float] = {}
    for name in priority:
        old, new = _mapped(maps[name], len(biases[name]))
        if not len(old):
            continue
        values = np.asarray(biases[name][old], dtype=np.float64)
        shared = known[new]
        if shared.any():
            shifts[name] = float(result[new[shared]].mean() - values[shared].mean())
        else:
            shifts[name] = float(result[known].mean() - values.mean()) if known.any() else 0.0
        result[new[~shared]] = values[~shared] + shifts[name]
        known[new] = True
    for name, shift in shifts.items():
        for token, ids in (pieces or {}).get(name, {}).items():
            if ids and not known[token]:
                result[token] = np.asarray(biases[name][list(ids)], dtype=np.float64).mean() + shift
                known[token] = True
    if known.any():
        result[~known] = result[known].mean()
    return result


def mean_over_pieces(matrix: npt.NDArray[np.floating], pieces: Sequence[Sequence[int]]) -> Float32:
    """For each token that a teacher cuts into pieces, the mean of their rows: float32 [len(pieces), D_t].

    `pieces` are ids into `matrix` [V_t, D_t]; every token needs one at least.
    """
    lengths = np.array([len(ids) for ids in pieces], dtype=np.int64)
    if not len(lengths):
        return np.zeros((0, matrix.shape[1]), dtype=np.float32)
    if lengths.min() == 0:
        raise VocabularyError(f"token {int(lengths.argmin())} has no piece to take a mean over")
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    flat = np.concatenate([np.asarray(ids, dtype=np.int64) for ids in pieces])
    sums: Float32 = np.add.reduceat(_rows(matrix, flat, "the teacher"), starts, axis=0)
    sums /= lengths[:, None]
    return sums


def _into_width(matrix: npt.NDArray[np.floating], old: Int64, width: int, generator: np.random.Generator) -> _Affine:
    teacher_width = matrix.shape[1]
    none = np.zeros(teacher_width, dtype=np.float32)
    shift = np.zeros(width, dtype=np.float32)
    if teacher_width == width:
        return _Affine(none, None, shift)
    if teacher_width < width:
        axes, _ = np.linalg.qr(generator.standard_normal((width, teacher_width)))
        return _Affine(none, axes.T.astype(np.float32), shift)
    gram = np.zeros((teacher_width, teacher_width))
    for block in _blocks(old):
        rows = _rows(matrix, block, "the teacher")
        gram += rows.T @ rows
    _, vectors = np.linalg.eigh(gram)  # eigenvalues ascend
    leading = vectors[:, ::-1][:, :width]
    signs = np.sign(leading[np.abs(leading).argmax(axis=0), np.arange(width)])  # eigh leaves the sign open
    return _Affine(none, (leading * signs).astype(np.float32), shift)


def _onto_known(
    matrix: npt.NDArray[np.floating],
    old: Int64,
    move: _Affine,
    result: Float32,
    new: Int64,
    shared: npt.NDArray[np.bool_],
    known: npt.NDArray[np.bool_],
) -> _Affine:
    """Follow `move` by the shift, scale and rotation that lay this teacher's shared rows onto the student's."""
    width = result.shape[1]
    rotation = np.eye(width)
    if shared.any():
        places = np.flatnonzero(shared)
        x_mean, y_mean = _mean(matrix, old[places], move), _mean(result, new[places], None)
        x_centre, y_centre = x_mean.astype(np.float32), y_mean.astype(np.float32)
        cross = np.zeros((width, width))
        x_power = y_power = 0.0
        for block in _blocks(places):
            x = move(_rows(matrix, old[block], "the teacher")) - x_centre
            y = result[new[block]] - y_centre
            cross += x.T @ y
            x_power += float(np.square(x, dtype=np.float64).sum())
            y_power += float(np.square(y, dtype=np.float64).sum())
        left, _, right = np.linalg.svd(cross)
        rotation = left @ right
    else:  # nothing in common: only the centre and the width of the clouds can be matched
        x_mean, y_mean = _mean(matrix, old, move), _mean(result, np.flatnonzero(known), None)
        x_power = _power(matrix, old, move, x_mean) / len(old)
        y_power = _power(result, np.flatnonzero(known), None, y_mean) / int(known.sum())
    scale = np.sqrt(y_power / x_power) if x_power > 0 and y_power > 0 else 1.0
    base = np.eye(width) if move.weight is None else move.weight.astype(np.float64)
    weight = base @ rotation * scale
    shift = y_mean - (move.centre @ base + x_mean - move.shift) @ rotation * scale
    return _Affine(np.zeros_like(move.centre), weight.astype(np.float32), shift.astype(np.float32))


def _draw_unknown(result: Float32, known: npt.NDArray[np.bool_], generator: np.random.Generator) -> None:
    unknown, width = np.flatnonzero(~known), result.shape[1]
    if not len(unknown):
        return
    if not known.any():
        result[:] = generator.standard_normal(result.shape, dtype=np.float32) * _FIRST_SCALE
        return
    places = np.flatnonzero(known)
    places = places[:: -(-len(places) // _SAMPLE)]
    mean = _mean(result, places, None).astype(np.float32)
    covariance = np.zeros((width, width))
    for block in _blocks(places):
        rows = result[block] - mean
        covariance += rows.T @ rows
    covariance /= len(places)
    covariance[np.diag_indices(width)] += 1e-6 * covariance.trace() / width + 1e-12  # rows may span less than all axes
    root = np.linalg.cholesky(covariance).T.astype(np.float32)
    for block in _blocks(unknown):
        result[block] = mean + generator.standard_normal((len(block), width), dtype=np.float32) @ root


def _mean(matrix: npt.NDArray[np.floating], places: Int64, move: _Affine | None) -> Float64:
    width = matrix.shape[1] if move is None or move.weight is None else move.weight.shape[1]
    total = np.zeros(width)
    for block in _blocks(places):
        rows = _rows(matrix, block, "the teacher")
        total += (rows if move is None else move(rows)).sum(axis=0, dtype=np.float64)
    mean: Float64 = total / len(places)
    return mean


def _power(matrix: npt.NDArray[np.floating], places: Int64, move: _Affine | None, mean: Float64) -> float:
    total = 0.0
    for block in _blocks(places):
        rows = _rows(matrix, block, "the teacher")
        total += float(np.square((rows if move is None else move(rows)) - mean).sum())
    return total


def _mapped(table: Int32, rows: int) -> tuple[Int64, Int64]:
    """Teacher ids with a row and a student id, and those student ids; the first of several teacher ids counts."""
    old = np.flatnonzero(table[:rows] >= 0)
    new, first = np.unique(table[old].astype(np.int64), return_index=True)
    return old[first], new


def _blocks(places: Int64) -> Iterator[Int64]:
    for start in range(0, len(places), _BLOCK):
        yield places[start : start + _BLOCK]


def _rows(matrix: npt.NDArray[np.floating], places: Int64, name: str) -> Float32:
    rows = np.asarray(matrix[places], dtype=np.float32)
    if not np.isfinite(rows).all():
        bad = int(places[~np.isfinite(rows).all(axis=1)][0])
        raise VocabularyError(f"row {bad} of the embedding of {name} is not finite; the checkpoint is damaged")
    return rows


def _check(
    matrices: Mapping[str, npt.NDArray[np.floating]],
    maps: Mapping[str, Int32],
    size: int,
    width: int,
    priority: Sequence[str],
) -> None:
    if size < 1 or width < 1:
        raise VocabularyError(f"an embedding of {size} rows and width {width} cannot be made")
    if sorted(priority) != sorted(matrices) or set(maps) < set(matrices):
        raise VocabularyError(
            f"priority must name each teacher once and each needs a map; priority {sorted(priority)},"
            f" matrices {sorted(matrices)}, maps {sorted(maps)}"
        )
    for name in priority:
        if matrices[name].ndim != 2:
            raise VocabularyError(f"the embedding of '{name}' has {matrices[name].ndim} axes; expected rows and width")
        if maps[name].size and int(maps[name].max()) >= size:
            raise VocabularyError(f"the map of '{name}' points to id {int(maps[name].max())}, but size is {size}")
