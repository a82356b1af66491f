"""Hooks that keep what a transformer's layers compute during one forward pass, gradients included.

Shape legend: B rows, L tokens, D width of all heads together, H heads, d width of a head.

Queries and keys are taken as the attention multiplies them: where positions are rotated (RoFormer, Su et al. 2021),
after the rotation that their own layer was given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from orchestrator.models.architectures import FusedProjection, Projections
from orchestrator.records import StateKey, StateKind

Kept: TypeAlias = dict[StateKey, Tensor]

_FUSED_ORDER: tuple[StateKind, ...] = ("query", "key", "value")


@contextmanager
def keep_states(layers: nn.ModuleList, projections: Projections, wanted: Collection[StateKey]) -> Iterator[Kept]:
    """Fill the dictionary with the `wanted` states [B, L, D] of the forward passes that run inside.

    Layer 0 is what enters the first of `layers`, layer i the output of number i, before any norm that follows.
    """
    kept: Kept = {}
    handles: list[RemovableHandle] = []
    for number in sorted({key.layer for key in wanted}):
        keys = [key for key in wanted if key.layer == number]
        for key in keys:
            if key == StateKey("hidden", 0):
                handles.append(layers[0].register_forward_pre_hook(_keep_input(kept, key)))
            elif key.kind == "hidden":
                handles.append(layers[number - 1].register_forward_hook(_keep_output(kept, key)))
            elif not isinstance(projections, FusedProjection):
                module = layers[number - 1].get_submodule(getattr(projections, key.kind))
                handles.append(module.register_forward_hook(_keep_output(kept, key)))
        projected = [key for key in keys if key.kind != "hidden"]
        if projected and isinstance(projections, FusedProjection):
            handles += _keep_fused(kept, projected, layers[number - 1], projections)
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _keep_input(kept: Kept, key: StateKey) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept[key] = inputs[0]

    return hook


def _keep_output(
    kept: Kept, key: StateKey
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor | tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        # Some releases of transformers return a tuple from a layer.
        kept[key] = output if isinstance(output, torch.Tensor) else output[0]

    return hook


def _keep_fused(
    kept: Kept, keys: Collection[StateKey], layer: nn.Module, fused: FusedProjection
) -> list[RemovableHandle]:
    """The attention is called with the cosines and sines of its layer's rotation; its projection runs after that."""
    rotation: list[tuple[Tensor, Tensor]] = []

    def before(_module: nn.Module, _inputs: tuple[Tensor, ...], options: dict[str, tuple[Tensor, Tensor]]) -> None:
        rotation[:] = [options["position_embeddings"]]

    def after(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        parts = dict(zip(_FUSED_ORDER, output.chunk(3, dim=-1), strict=True))
        for key in keys:
            part = parts[key.kind]
            kept[key] = part if key.kind == "value" else _rotated(part, *rotation[0])

    return [
        layer.get_submodule(fused.attention).register_forward_pre_hook(before, with_kwargs=True),
        layer.get_submodule(fused.projection).register_forward_hook(after),
    ]


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Each head of `states` [B, L, D] turned by the angles of its position; cos and sin [1 or B, L, d]."""
    heads = states.reshape(*states.shape[:2], -1, cos.shape[-1]).float()
    first, second = heads.chunk(2, dim=-1)
    turned = heads * cos.unsqueeze(2) + torch.cat([-second, first], dim=-1) * sin.unsqueeze(2)
    return turned.flatten(-2).to(states.dtype)
