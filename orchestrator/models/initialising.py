"""Start a student's layers from its teacher's.

Shape legend: L positions, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError
from orchestrator.models.encoder import Encoder


@torch.no_grad()
def initialise_layers(student: Encoder, teacher: Encoder, map: Mapping[int, int]) -> None:
    """Copy layers by `map`, and what surrounds them: positions, embedding LayerNorm, final norm, head transform.

    Layers go between BERT, RoBERTa, ELECTRA and DistilBERT alike, and from ModernBERT to ModernBERT. Of the
    surroundings each part is copied when both models have it in the same shape, positions as far as both reach. What
    belongs to single tokens (word embeddings, decoder, decoder bias) is left alone.

    Args:
        student: changed in place.
        teacher: of the same width, number of heads and feed-forward width.
        map: {student layer: teacher layer}, counted from 1; see `layer_map`.

    Raises:
        ConfigError: the sizes or the kinds of layer differ.
    """
    _check_sizes(student, teacher)
    for student_layer, teacher_layer in map.items():
        _copy_layer(student, teacher, student_layer, teacher_layer)
    mine, theirs = student.architecture.base, teacher.architecture.base
    _copy_positions(student, teacher)
    _copy_if_alike(_part(student.base, mine.embedding_norm), _part(teacher.base, theirs.embedding_norm))
    _copy_if_alike(_part(student.base, mine.final_norm), _part(teacher.base, theirs.final_norm))
    if student.has_head and teacher.has_head:
        my_head, their_head = student.architecture.head, teacher.architecture.head
        _copy_if_alike(_part(student.model, my_head.dense), _part(teacher.model, their_head.dense))
        _copy_if_alike(_part(student.model, my_head.norm), _part(teacher.model, their_head.norm))


def _check_sizes(student: Encoder, teacher: Encoder) -> None:
    mine, theirs = student.architecture.config, teacher.architecture.config
    differing = [
        f"{option} {student_size} against {teacher_size}"
        for option, my_key, their_key in (
            ("hidden_size", mine.width, theirs.width),
            ("heads", mine.heads, theirs.heads),
            ("intermediate_size", mine.intermediate, theirs.intermediate),
        )
        if (student_size := getattr(student.model.config, my_key))
        != (teacher_size := getattr(teacher.model.config, their_key))
    ]
    if differing:
        raise ConfigError(
            f"initialisation.layers: layers cannot be copied because the student differs from its teacher in"
            f" {', '.join(differing)}; give the student the teacher's sizes, or set 'layers: random'"
        )


def _copy_layer(student: Encoder, teacher: Encoder, student_layer: int, teacher_layer: int) -> None:
    mine, theirs = _layer_weights(student, student_layer), _layer_weights(teacher, teacher_layer)
    optional = student.architecture.absent_in_first_layer
    unpaired = [name for name in mine.keys() ^ theirs.keys() if optional is None or not name.startswith(optional)]
    if unpaired:
        raise ConfigError(
            f"initialisation.layers: a {student.model_type} student cannot start from the layers of a"
            f" {teacher.model_type} teacher ('{min(unpaired)}' is on one side only); choose the teacher's architecture"
            " for the student, or set 'layers: random'"
        )
    for name in mine.keys() & theirs.keys():
        mine[name].copy_(theirs[name])


def _layer_weights(encoder: Encoder, layer: int) -> dict[str, Tensor]:
    """Weights of one layer under the names of a BERT layer where the architecture gives them."""
    renamed = encoder.architecture.layer_names
    weights: dict[str, Tensor] = {}
    for name, weight in encoder.layers[layer - 1].state_dict().items():
        prefix = next((p for p in renamed if name.startswith(p)), None)
        weights[name if prefix is None else renamed[prefix] + name.removeprefix(prefix)] = weight
    return weights


def _copy_positions(student: Encoder, teacher: Encoder) -> None:
    """Copy position embeddings and the first token type, which every token gets, from where each model counts."""
    mine, theirs = _positions(student), _positions(teacher)
    if mine is None or theirs is None or mine.shape[1] != theirs.shape[1]:
        return
    reach = min(len(mine), len(theirs))
    mine[:reach].copy_(theirs[:reach])
    my_type, their_type = _first_token_type(student), _first_token_type(teacher)
    if my_type is not None:
        my_type.copy_(their_type if their_type is not None else torch.zeros_like(my_type))
    elif their_type is not None:
        mine.add_(their_type)


def _positions(encoder: Encoder) -> Tensor | None:
    """[L, D] from the first position that a token can have, a view of the weights; None with rotary positions."""
    base = encoder.architecture.base
    embedding = _part(encoder.base, base.position_embeddings)
    if not isinstance(embedding, nn.Embedding):
        return None
    first = encoder.model.config.pad_token_id + 1 if base.positions_follow_pad else 0
    return embedding.weight[first:]


def _first_token_type(encoder: Encoder) -> Tensor | None:
    embedding = _part(encoder.base, encoder.architecture.base.token_type_embeddings)
    return embedding.weight[0] if isinstance(embedding, nn.Embedding) else None


def _part(module: nn.Module, path: str | None) -> nn.Module | None:
    return None if path is None else module.get_submodule(path)


def _copy_if_alike(mine: nn.Module | None, theirs: nn.Module | None) -> None:
    if mine is None or theirs is None:
        return
    target, source = mine.state_dict(), theirs.state_dict()
    if {name: w.shape for name, w in target.items()} == {name: w.shape for name, w in source.items()}:
        mine.load_state_dict(source)
