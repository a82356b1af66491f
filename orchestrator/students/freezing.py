"""Parts of students that a phase does not train: no gradient is computed for them, and nothing steps or decays them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch.nn import Parameter

from orchestrator.models.encoder import Encoder
from orchestrator.students.group import StudentGroup


def freeze_parts(
    group: StudentGroup, frozen: Mapping[str, Collection[str]], *, trained: Mapping[str, Parameter]
) -> None:
    """Let exactly those of the `trained` parameters want a gradient that are in no frozen part of any student.

    Args:
        group: changed in place; what a frozen part shares with other students is frozen for them, too.
        frozen: student -> its parts: embedding, layer-1 …, head.
        trained: all parameters that are ever trained, as `StudentGroup.trained` gives them before anything is frozen.
    """
    held: set[int] = set()
    for student, names in frozen.items():
        parts = encoder_parts(group.encoder(student))
        held |= {id(parameter) for name in names for parameter in parts[name]}
        if "embedding" in names and group.embedding is not None:
            held.add(id(group.embedding))
    for parameter in trained.values():
        parameter.requires_grad_(id(parameter) not in held)


def encoder_parts(encoder: Encoder) -> dict[str, list[Parameter]]:
    """Every parameter of an encoder by its part, each once.

    `embedding` is all that lies before the first layer: words, positions, their LayerNorm, ELECTRA's projection. A
    norm behind the last layer belongs to that layer. `head` is the rest; a decoder that is tied to the embedding is
    part of the embedding.
    """
    parts = {f"layer-{number}": list(layer.parameters()) for number, layer in enumerate(encoder.layers, start=1)}
    if (norm := encoder.architecture.base.final_norm) is not None:
        parts[f"layer-{encoder.depth}"] += encoder.base.get_submodule(norm).parameters()
    seen = {id(parameter) for part in parts.values() for parameter in part}
    parts["embedding"] = [parameter for parameter in encoder.base.parameters() if id(parameter) not in seen]
    seen |= {id(parameter) for parameter in parts["embedding"]}
    parts["head"] = [parameter for parameter in encoder.model.parameters() if id(parameter) not in seen]
    return parts
