"""The model card: a head that the hub reads, no path of the maker's machine, and only the figures that matter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from orchestrator.config.run import RunConfig
from orchestrator.config.setups import StudentSpec, expand
from orchestrator.records import MetricRow
from orchestrator.report.card import model_card
from orchestrator.report.reading import TrainingLog

from .samples import full_run, masked_rows

LOG = TrainingLog(
    setup="one-to-many",
    student="de",
    steps=np.array([10, 20]),
    loss=np.ones(2),
    terms={},
    tokens=np.array([60_000, 120_000]),
    tokens_per_second=np.array([1000.0, 1000.0]),
    data_wait_share=np.zeros(2),
    phases=("all", "all"),
)


@pytest.fixture
def config() -> RunConfig:
    return RunConfig.model_validate(
        {
            "corpus": {
                "languages": {
                    "de": "/home/somebody/secret/de.txt",
                    "en": "text/en.txt",
                    "fi": {"train": {"dataset": "wikimedia/wikipedia", "dataset_config": "20231101.fi"}},
                    "ru": "text/ru.txt",
                }
            },
            "teachers": {
                "multilingual": {
                    "languages": ["de", "en", "fi", "ru"],
                    "model": "FacebookAI/xlm-roberta-base",
                    "revision": "e73636d",
                }
            },
            "student": {"layers": 4, "hidden_size": 256, "heads": 4},
            "objectives": [
                {"type": "masked-lm"},
                {"type": "soft-targets", "k": 32, "temperature": 2.0},
                {"type": "hidden-states", "weight": 0.5},
            ],
        }
    )


def spec(config: RunConfig, name: str) -> StudentSpec:
    return next(student for student in expand(config, setup="one-to-many").students if student.name == name)


def card(config: RunConfig, name: str = "de", rows: list[MetricRow] | None = None, **options: object) -> str:
    rows = full_run() if rows is None else rows
    return model_card(spec(config, name), setup="one-to-many", config=config, rows=rows, **options)  # type: ignore[arg-type]


def head(text: str) -> dict[str, object]:
    _, between, _ = text.split("---\n", 2)
    read = yaml.safe_load(between)
    assert isinstance(read, dict)
    return read


def test_the_head_is_what_the_hub_reads(config: RunConfig) -> None:
    read = head(card(config))
    assert read["language"] == ["de"]
    assert read["base_model"] == ["FacebookAI/xlm-roberta-base"]
    assert read["library_name"] == "transformers"
    assert read["pipeline_tag"] == "fill-mask"
    assert "knowledge-distillation" in read["tags"]  # type: ignore[operator]


def test_norwegian_stays_a_language(config: RunConfig) -> None:
    tree = config.model_dump(mode="json", exclude_unset=True)
    tree["corpus"]["languages"] = {"no": tree["corpus"]["languages"]["de"], "en": tree["corpus"]["languages"]["en"]}
    tree["teachers"]["multilingual"]["languages"] = ["no", "en"]
    assert head(card(RunConfig.model_validate(tree), "no"))["language"] == ["no"]


def test_recipe_data_and_training(config: RunConfig) -> None:
    text = card(config, log=LOG, parameters=12_345_678)
    assert "4 layers of width 256 and 12.3 million parameters for de, distilled from `multilingual`" in text
    assert "- soft-targets, weight 1 (signal top-k, k 32, temperature 2.0, tail ghost, positions masked)" in text
    assert "- hidden-states, weight 0.5 (" in text
    assert "| multilingual | de | `FacebookAI/xlm-roberta-base` | e73636d |" in text
    assert "- 120,000 tokens read in 2.0 minutes" in text
    assert "15% of the tokens masked, in 1 copy" in text
    assert "data set `wikimedia/wikipedia`, 20231101.fi, split train" in card(config, "fi")


def test_phases_are_told_one_by_one(config: RunConfig) -> None:
    tree = config.model_dump(mode="json", exclude_unset=True)
    ramp = {"schedule": "cosine", "last_step": 50}
    hidden = {"type": "hidden-states", "weight": ramp}
    window = {"schedule": "window", "first_step": 2, "value": 3.0}
    tree |= {
        "objectives": [],
        "phases": [
            {"name": "up", "share": 0.5, "progress": "bottom-up", "objectives": [hidden], "learning_rate": 0.001},
            {"name": "out", "share": 0.5, "objectives": [{"type": "masked-lm", "weight": window}], "freeze": ["head"]},
        ],
    }
    tree["student"]["layers"] = 2
    tree["student"]["initialisation"] = {"layers": "teacher", "embedding": "svd", "checkpoint": "/home/me/older"}
    lines = card(RunConfig.model_validate(tree)).splitlines()
    first = lines.index("- phase up-1, steps 1 to 250, matching layers 0 and 1, peak learning rate 0.001:")
    assert lines[first + 1].startswith("  - hidden-states, weight 0 to 1, cosine, over steps 1 to 50 (")
    assert "- phase up-2, steps 251 to 500, matching layers 0, 1 and 2, peak learning rate 0.001:" in lines
    last = lines.index("- phase out, steps 501 to 1,000, head frozen:")
    assert lines[last + 1] == "  - masked-lm, weight 3 at steps 2 to the last"
    assert lines[last + 2] == "- starts with layers from `older` (uniform map), embedding from `older` (svd)"


def test_no_path_of_this_machine_is_told(config: RunConfig, tmp_path: Path) -> None:
    teacher = config.teachers["multilingual"].model_copy(update={"model": str(tmp_path / "my-teacher")})
    local = config.model_copy(update={"teachers": {"multilingual": teacher}})
    text = card(local)
    assert "somebody" not in text
    assert str(tmp_path) not in text
    assert "`my-teacher`" in text
    assert "`de.txt`" in text
    assert "base_model" not in head(text)


def test_figures_of_the_student_its_teacher_and_its_twin(config: RunConfig) -> None:
    text = card(config)
    table = [line for line in text.splitlines() if line.startswith("| de |")]
    assert [line.split(" | ")[1] for line in table] == ["multilingual", "one-to-many/de", "one-to-many/de-no-teacher"]
    assert "one-to-one" not in text
    systems = [line.split(" | ")[1] for line in text.splitlines() if line.startswith("| ntrex |")]
    assert systems == ["multilingual", "one-to-many", "one-to-many-no-teacher"]


def test_before_anything_is_measured(config: RunConfig) -> None:
    assert "Not measured yet." in card(config, rows=[])


def test_without_parallel_text(config: RunConfig) -> None:
    assert "Retrieval" not in card(config, rows=list(masked_rows("one-to-many/de", "student", "de", 0.3)))


def test_a_baseline_says_that_it_had_no_teacher(config: RunConfig) -> None:
    text = card(config, "de-no-teacher")
    assert "trained by masked-language modelling alone" in text
    assert "None: the teachers below gave their tokenizers" in text
    assert "base_model" not in head(text)
    assert "random layers, embedding random" in text
