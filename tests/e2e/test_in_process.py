"""The whole job from a YAML in all three setups, and every file that others build on."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from orchestrator import pipeline
from orchestrator.config.loading import load_config
from orchestrator.signals.store import Store
from orchestrator.signals.topk import decode_topk
from tests.e2e.command import Result, orch
from tests.e2e.conftest import copy_of
from tests.e2e.project import CONFIG, LANGUAGES, write_config

pytestmark = pytest.mark.timeout(900)  # seconds when nobody else computes

SETUPS = ("one-to-one", "many-to-one", "one-to-many")
STUDENTS = {"one-to-one": {"student": LANGUAGES}, "many-to-one": {"student": LANGUAGES}} | {
    "one-to-many": {language: (language,) for language in LANGUAGES}
}
HASH = "[0-9a-f]{16}"


@pytest.fixture(scope="module")
def finished(made_project: Path, shelf: Path) -> tuple[Path, dict[str, Result]]:
    """A project whose three setups were run, one after another, and what each said."""
    folder = copy_of(made_project, shelf)
    return folder, {setup: orch("run", "--setup", setup, folder=folder) for setup in SETUPS}


@pytest.fixture(scope="module")
def root(finished: tuple[Path, dict[str, Result]]) -> Path:
    return finished[0] / "run"


def students() -> list[tuple[str, str]]:
    return [(setup, name) for setup in SETUPS for name in STUDENTS[setup]]


def rows_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def only(paths: list[Path]) -> Path:
    (path,) = paths
    return path


def test_every_setup_runs_to_its_end(finished: tuple[Path, dict[str, Result]]) -> None:
    folder, results = finished
    for setup, result in results.items():
        assert (result.status, result.err) == (0, ""), setup
        assert f"{setup}/" in result.out
        assert (folder / "run" / "report" / "index.html").as_uri() in result.out
        table = result.out.partition("language  model")[2].splitlines()[:-2]
        assert 0 < max(map(len, table)) <= 80


@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_has_nothing_to_do_imports_no_models(
    finished: tuple[Path, dict[str, Result]], shelf: Path, command: str
) -> None:
    """torch and transformers take seconds to import; a build of torch with GPUs has to be asked for them."""
    code = (
        "import sys\nfrom orchestrator.cli import main\ntry: main()\nexcept SystemExit: print('LOADED', *sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, command, "--setup", "many-to-one"],
        cwd=copy_of(finished[0], shelf),
        env={key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "ORCH_"))}
        | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        check=True,
        capture_output=True,
        text=True,
    )
    loaded = {name.partition(".")[0] for name in ended.stdout.rpartition("LOADED")[2].split()}
    assert "pyarrow" in loaded
    assert not loaded & {"transformers", "ray"}
    assert ("torch" in loaded) == (torch.version.cuda is not None or torch.version.hip is not None)


def test_the_stores_hold_what_the_teacher_says(root: Path, made_project: Path) -> None:
    folders = sorted((root / "signals").iterdir())
    assert [re.sub(HASH, "#", path.name) for path in folders] == ["english-#", "multilingual-#"]
    store = Store.open(folders[1])
    assert store.finished
    assert set(store.schema) == {"texts", "tokens", "masked", "topk_008", "hidden_02"}
    model = AutoModelForMaskedLM.from_pretrained(made_project / "teachers" / "multilingual").eval()
    tables = store.shard(0)
    texts, masked = tables["texts"], tables["masked"]
    topk_ids, topk_logprobs = decode_topk(tables["topk_008"])
    for row in range(3):
        begin, length = int(texts["first_token"][row]), int(texts["num_tokens"][row])
        ids = tables["tokens"]["input_id"][begin : begin + length]
        first, count = int(texts["first_masked"][row]), int(texts["num_masked"][row])
        positions = masked["token"][first : first + count] - begin
        with torch.no_grad():
            output = model(torch.tensor(ids[None].astype(np.int64)), output_hidden_states=True)
        expected = torch.log_softmax(output.logits[0, positions], dim=-1)
        top = expected.topk(8)
        np.testing.assert_allclose(topk_logprobs[first : first + count], top.values, atol=0.02)
        stored = torch.from_numpy(topk_ids[first : first + count])
        torch.testing.assert_close(expected.gather(1, stored), top.values, atol=0.01, rtol=0)
    counts = store.counts()
    share = sum(found.masked for found in counts.values()) / sum(found.tokens for found in counts.values())
    assert 0.1 < share < 0.2


def test_only_what_a_student_listens_to_is_computed(root: Path) -> None:
    english = Store.open(only(list((root / "signals").glob("english-*"))))
    assert {unit.language for unit in english.units} == {"en"}
    costs = rows_of(root / "logs" / "costs.jsonl")
    assert len(costs) == len({(cost["teacher"], cost["shard"]) for cost in costs})


@pytest.mark.parametrize(("setup", "student"), students())
def test_a_vocabulary_maps_teacher_ids_to_student_ids(root: Path, setup: str, student: str, made_project: Path) -> None:
    teachers = {"multilingual", "english"} if setup == "many-to-one" else {"multilingual"}
    folder = vocabulary_of(root, setup, student)
    tokens = list(json.loads((folder / "vocab.json").read_text(encoding="utf-8")).values())
    assert {path.stem for path in (folder / "maps").iterdir()} == teachers
    for teacher in teachers:
        id_map = np.load(folder / "maps" / f"{teacher}.npy")
        assert id_map.dtype == np.int32
        there = id_map[id_map >= 0]
        assert id_map.min() >= -1
        assert there.max() < len(tokens)
        assert len(set(there.tolist())) == len(there)
        own = AutoTokenizer.from_pretrained(made_project / "teachers" / teacher)
        carried = AutoTokenizer.from_pretrained(folder / "tokenizers" / teacher)
        text = "God saw everything that he had made"
        mapped = id_map[own(text, add_special_tokens=False)["input_ids"]]
        if (mapped >= 0).all():  # a trimmed vocabulary may lack some
            assert carried(text, add_special_tokens=False)["input_ids"] == mapped.tolist()
    for language in STUDENTS[setup][student]:
        assert (folder / "tokenizers" / language / "tokenizer.json").exists()


def vocabulary_of(root: Path, setup: str, student: str) -> Path:
    """By the inputs that the student was made from."""
    inputs = json.loads((root / "students" / setup / student / "inputs.json").read_text())
    folder = root / "vocab" / inputs["students"][student]["vocabulary"]
    assert re.fullmatch(f"{student}-{HASH}", folder.name)
    return folder


@pytest.mark.parametrize(("setup", "student"), students())
@pytest.mark.parametrize("twin", ["", "-no-teacher"])
def test_a_student_is_an_ordinary_model(root: Path, setup: str, student: str, twin: str) -> None:
    folder = root / "students" / setup / f"{student}{twin}"
    model = AutoModelForMaskedLM.from_pretrained(folder / "final")
    tokenizer = AutoTokenizer.from_pretrained(folder / "final")
    vocabulary = json.loads((vocabulary_of(root, setup, student) / "vocab.json").read_text(encoding="utf-8"))
    assert model.config.vocab_size == len(vocabulary)
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (1, 32)
    logits = model(**tokenizer("In the beginning", return_tensors="pt")).logits
    assert torch.isfinite(logits).all()
    languages = [folder / "final" / "tokenizers" / language for language in LANGUAGES]
    assert [path.exists() for path in languages] == [setup == "many-to-one"] * 3
    card = (folder / "final" / "README.md").read_text(encoding="utf-8")
    assert "bits/character" in card
    assert f"{setup}/{student}{twin}" in card
    assert ("soft-targets" in card) == (not twin)


@pytest.mark.parametrize(("setup", "student"), students())
def test_training_is_logged(root: Path, setup: str, student: str) -> None:
    keys = {"step", "student", "loss", "terms", "tokens", "tokens_per_second", "data_wait_share"}
    for twin, terms in (("", {"soft-targets", "masked-lm", "hidden-states"}), ("-no-teacher", {"masked-lm"})):
        name = f"{student}{twin}"
        rows = rows_of(root / "students" / setup / name / "metrics.jsonl")
        assert [row["step"] for row in rows] == [2, 4, 6]
        for row in rows:
            assert keys <= row.keys()
            assert row["student"] == name
            assert row["terms"].keys() == terms  # type: ignore[attr-defined]
            assert np.isfinite([row["loss"], *row["terms"].values()]).all()  # type: ignore[attr-defined]
        tokens = [row["tokens"] for row in rows]
        assert tokens == sorted(set(tokens))
        folder = root / "students" / setup / name
        assert (folder / "final" / "training.json").exists()
        assert not (folder / "checkpoints").exists()  # nobody goes on from them any more


def test_twins_read_the_same_rows(root: Path) -> None:
    for setup, student in students():
        folders = [root / "students" / setup / f"{student}{twin}" for twin in ("", "-no-teacher")]
        own, twin = ([row["tokens"] for row in rows_of(folder / "metrics.jsonl")] for folder in folders)
        assert own == twin


def test_every_model_is_measured(root: Path) -> None:
    rows = rows_of(root / "evaluation" / "metrics.jsonl")
    keys = ["model", "role", "language", "other_language", "split", "metric", "layer", "value", "n", "seed"]
    assert all(sorted(row) == sorted(keys) for row in rows)
    assert all(np.isfinite(row["value"]) and row["n"] for row in rows)  # type: ignore[call-overload]
    found = {(row["model"], row["role"], row["language"], row["metric"]) for row in rows if row["split"] == "held_out"}
    for setup, student in students():
        for language in STUDENTS[setup][student]:
            for role, name in (("student", student), ("baseline", f"{student}-no-teacher")):
                for metric in ("masked_lm_accuracy", "bits_per_character", "teacher_agreement", "teacher_kl"):
                    assert (f"{setup}/{name}", role, language, metric) in found
    assert {model for model, role, _, _ in found if role == "teacher"} == {"multilingual", "english"}
    pairs = {
        (row["language"], row["other_language"])
        for row in rows
        if row["model"] == "one-to-many" and row["metric"] == "retrieval_cosine"
    }
    assert pairs == {(a, b) for a in LANGUAGES for b in LANGUAGES if a != b}  # across students
    figures = [
        (row["model"], row["language"], row["other_language"], row["split"], row["metric"], row["layer"])
        for row in rows
    ]
    assert len(set(figures)) == len(figures)


def test_the_report_names_every_model_and_needs_nothing_else(root: Path) -> None:
    page = (root / "report" / "index.html").read_text(encoding="utf-8")
    for setup, student in students():
        assert f"{setup}/{student}" in page
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", page)


def test_the_expanded_configuration_gives_the_run_again(root: Path) -> None:
    written = load_config(root / "config.yaml")
    original = load_config(root.parent / "orch.yaml", overrides=[f"run.setup={SETUPS[-1]}"])
    assert written == original


def test_the_log_says_what_was_done(root: Path) -> None:
    lines = (root / "logs" / "orch.log").read_text(encoding="utf-8").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO ", line) for line in lines)
    assert [line.partition("orch ")[2].partition(": ")[2] for line in lines if " INFO orch " in line] == [
        f"run --setup {setup}" for setup in SETUPS
    ]


def state(root: Path) -> dict[str, tuple[int, int]]:
    """Of every file but those that each start writes."""
    always = {".lock", "config.yaml", "logs", "report"}
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] not in always
    }


def test_running_again_does_nothing_and_starts_no_cluster(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = state(root)
    monkeypatch.setattr(pipeline, "open_cluster", None)
    for setup in SETUPS:
        result = orch("run", "--setup", setup, folder=root.parent)
        assert (result.status, result.err) == (0, "")
    assert state(root) == before


def test_onlookers_write_nothing(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert "0/" not in orch("status", folder=root.parent).out
    assert "9/9 shards" in orch("status", folder=root.parent).out
    assert orch("verify", folder=root.parent).out == "✓ Every checksum is right.\n"
    assert "multilingual · de · row 1" in orch("inspect", "--language", "de", "--row", "1", folder=root.parent).out
    assert "Time: about 0:00 for the teachers, 0:00 for the students" in orch("plan", folder=root.parent).out
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_student_of_other_inputs_is_refused_and_what_differs_is_named(root: Path) -> None:
    before = state(root)
    result = orch("train-students", "--set", "training.steps=8", folder=root.parent)
    assert result.status == 1
    assert "students/one-to-one/student holds a student that was made with training steps 6" in result.err
    assert "the configuration asks 8" in result.err
    result = orch("evaluate", "--set", "corpus.max_length=32", folder=root.parent)
    assert result.status == 1
    assert "was made with max_length 48, the configuration asks 32" in result.err
    assert state(root) == before


def test_a_changed_evaluation_is_measured_again_and_nothing_else(root: Path, shelf: Path) -> None:
    folder = copy_of(root.parent, shelf)
    orch("precompute-teacher", folder=folder)  # the text has moved, so it is read again; its content is the same
    before = state(folder / "run")
    result = orch("evaluate", "--set", "evaluation.max_texts=5", folder=folder)
    assert (result.status, result.err) == (0, "")
    changed = {path for path, was in state(folder / "run").items() if before.get(path) != was}
    relative = {str(Path(path).relative_to(folder / "run")) for path in changed}
    cards = {f"students/one-to-one/{name}/final/README.md" for name in ("student", "student-no-teacher")}
    assert relative == {"evaluation/metrics.jsonl", "evaluation/one-to-one.json"} | cards


def test_many_teachers_and_many_students_written_out(project: Path) -> None:
    shape = {"layers": 1, "hidden_size": 32, "heads": 2}
    written = {
        "west": {**shape, "languages": ["en", "de"], "teachers": {"en": "english", "de": "multilingual"}},
        "north": {
            **shape,
            "architecture": "distilbert",
            "languages": ["fi", "en"],
            "teachers": {"en": "multilingual"},
            "objectives": [{"type": "hidden-states", "map": "last"}, {"type": "masked-lm"}],
        },
    }
    training = {"steps": 3, "tokens_per_batch": 128, "baseline": False}
    write_config(project, {"students": written, "training": training, "share": {}, "student": None})
    result = orch("run", "--setup", "explicit", folder=project)
    assert (result.status, result.err) == (0, "")
    final = {name: project / "run" / "students" / "explicit" / name / "final" for name in written}
    west = vocabulary_of(project / "run", "explicit", "west")
    assert {path.stem for path in (west / "maps").iterdir()} == {"english", "multilingual"}
    assert AutoModelForMaskedLM.from_pretrained(final["north"]).config.model_type == "distilbert"
    rows = rows_of(project / "run" / "evaluation" / "metrics.jsonl")
    measured = {(row["model"], row["language"]) for row in rows if row["metric"] == "teacher_kl"}
    assert measured == {(f"explicit/{name}", language) for name in written for language in written[name]["languages"]}
    assert CONFIG["student"] is not None
