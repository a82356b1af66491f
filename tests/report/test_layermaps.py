"""Which layers meet, told from an expanded configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config.loading import parse_config
from orchestrator.config.setups import expand
from orchestrator.models.checkpoints import CheckpointInfo
from orchestrator.report.layers import layer_diagrams
from orchestrator.report.making import EMBEDDING, HEAD, LayerMap, Link
from orchestrator.run import Run
from orchestrator.steps.layermaps import layer_maps

INFO = CheckpointInfo("bert", 12, 384, 12, 1000, True, 1, 384, (None,) * 12)


def maps(monkeypatch: pytest.MonkeyPatch, root: Path, **sections: object) -> list[LayerMap]:
    tree: dict[str, object] = {
        "run": {"root": str(root), "setup": "one-to-many"},
        "corpus": {"languages": {"en": "en.txt", "de": "de.txt"}},
        "teachers": {"big": {"model": "m", "languages": ["en", "de"]}},
        "student": {"layers": 4, "hidden_size": 8, "heads": 2, "initialisation": {"layers": "teacher", "map": "top"}},
        "training": {"steps": 40},
    }
    run = Run(expand(parse_config(tree | sections, where="test")), None)
    monkeypatch.setattr(Run, "checkpoints", {"big": INFO})
    return layer_maps(run)


def test_students_that_learn_alike_are_one_map(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    objectives = [{"type": "masked-lm"}, {"type": "soft-targets"}, {"type": "hidden-states", "map": "uniform"}]
    (one,) = maps(monkeypatch, tmp_path, objectives=objectives)
    assert (one.teacher, one.students) == ("big", ("en", "de"))
    (stage,) = one.stages
    matched = [Link("hidden-states", 3 * layer, layer) for layer in (1, 2, 3, 4)]
    assert list(stage.links) == [Link("masked-lm", None, HEAD), Link("soft-targets", HEAD, HEAD), *matched]
    assert one.starts == (Link("start", EMBEDDING, EMBEDDING), *(Link("start", n + 8, n) for n in (1, 2, 3, 4)))
    (row,) = layer_diagrams([one])
    assert row.panels[0].svg.count("<path") == 6 + 5
    assert row.panels[0].svg.count("<rect") == 14 + 6


def test_phases_that_differ_are_stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hidden = {"type": "hidden-states"}
    phases = [
        {"name": "up", "share": 0.4, "progress": "layer-by-layer", "objectives": [hidden]},
        {"name": "soft", "share": 0.3, "objectives": [{"type": "soft-targets"}]},
        {"name": "more", "share": 0.3, "objectives": [{"type": "soft-targets", "weight": 2.0}]},
    ]
    (one,) = maps(monkeypatch, tmp_path, phases=phases)
    assert [stage.phases for stage in one.stages] == [("up-1",), ("up-2",), ("up-3",), ("up-4",), ("soft", "more")]
    assert one.stages[1].links == (Link("hidden-states", 6, 2),)
    assert one.stages[1].frozen == {EMBEDDING, 1}
    assert (one.stages[-1].first_step, one.stages[-1].last_step) == (17, 40)
