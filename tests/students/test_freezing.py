"""Every parameter belongs to one part, and what is frozen wants no gradient, for all that share it."""

from __future__ import annotations

import pytest

from orchestrator.config.models import ShareSection, StudentTemplate
from orchestrator.models.building import build_encoder
from orchestrator.models.encoder import Encoder
from orchestrator.records import SpecialIds
from orchestrator.students.freezing import encoder_parts, freeze_parts
from orchestrator.students.group import StudentGroup

ARCHITECTURES = ("bert", "roberta", "distilbert", "electra", "modernbert")
SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)


def encoder(architecture: str = "bert", *, layers: int = 3, tie_head: bool = True) -> Encoder:
    template = StudentTemplate.model_validate(
        {"architecture": architecture, "layers": layers, "hidden_size": 8, "heads": 2, "tie_head": tie_head}
    )
    return build_encoder(template, vocab_size=11, special=SPECIAL, seed=0)


def group(*, share: tuple[str, ...] = ()) -> StudentGroup:
    tokens = {"ann": [f"t{i}" for i in range(11)], "bob": [f"t{i}" for i in range(4, 15)]}
    return StudentGroup(
        {name: encoder() for name in tokens},
        share=ShareSection(parts=share),
        tokens=tokens,
        projections={name: {} for name in tokens},
    )


@pytest.mark.parametrize("tie_head", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_is_in_one_part(architecture: str, tie_head: bool) -> None:
    built = encoder(architecture, tie_head=tie_head)
    parts = encoder_parts(built)
    assert list(parts) == ["layer-1", "layer-2", "layer-3", "embedding", "head"]
    found = [id(parameter) for part in parts.values() for parameter in part]
    assert len(found) == len(set(found))
    assert set(found) == {id(parameter) for parameter in built.parameters()}
    owner = {id(parameter): name for name, part in parts.items() for parameter in part}
    names = {name: owner[id(parameter)] for name, parameter in built.named_parameters()}
    assert {part for name, part in names.items() if "embeddings" in name} <= {"embedding"}
    assert owner[id(built.word_embeddings.weight)] == "embedding"
    assert owner[id(built.decoder.weight)] == ("embedding" if tie_head else "head")
    assert owner[id(built.decoder.bias)] == "head"
    if architecture == "modernbert":
        assert names["model.model.final_norm.weight"] == "layer-3"


def wanting(built: StudentGroup) -> set[str]:
    return {name for name, parameter in built.named_parameters() if parameter.requires_grad}


def test_freezing_is_undone_by_freezing_less() -> None:
    built = group()
    trained = built.trained()
    everything = wanting(built)
    freeze_parts(built, {"ann": ("embedding", "layer-1"), "bob": ("head",)}, trained=trained)
    frozen = everything - wanting(built)
    assert {name.split(".")[1] for name in frozen if ".layer.0." in name or ".embeddings." in name} == {"0"}
    assert {name.split(".")[1] for name in frozen if ".cls." in name} == {"1"}
    assert not any(".layer.1." in name for name in frozen)
    freeze_parts(built, {"ann": (), "bob": ()}, trained=trained)
    assert wanting(built) == everything


def test_a_shared_part_is_frozen_for_all() -> None:
    built = group(share=("embedding", "layer-2"))
    trained = built.trained()
    assert "embedding" in trained
    freeze_parts(built, {"ann": ("layer-2",), "bob": ("embedding",)}, trained=trained)
    now = wanting(built)
    assert "embedding" not in now
    for name in ("ann", "bob"):
        assert not any(parameter.requires_grad for parameter in built.encoder(name).layers[1].parameters())
        assert all(parameter.requires_grad for parameter in built.encoder(name).layers[0].parameters())
    freeze_parts(built, {"ann": (), "bob": ()}, trained=trained)
    assert not built.encoder("ann").word_embeddings.weight.requires_grad  # the shared matrix stands in for it
    assert set(built.trained()) == set(trained)
