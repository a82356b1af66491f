"""The commands on files as people have them; every failure is one sentence and a status."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.vocab_tools.test_mass import make_model
from tests.vocab_tools.tiny import SENTENCES, make_tokenizer
from vocab_tools import open_vocabulary
from vocab_tools.cli import app
from vocab_tools.corpus import read_texts, split_for_measure
from vocab_tools.read import read_tokenizer
from vocab_tools.report import read_report

ENGLISH = [f"{SENTENCES[0]} {SENTENCES[1]} {number}" for number in range(40)]
GERMAN = [f"{SENTENCES[2]} {number}" for number in range(40)]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_tokenizer("wordpiece-cased", tmp_path / "word")
    make_tokenizer("unigram", tmp_path / "uni")
    (tmp_path / "en.txt").write_text("\n".join(ENGLISH) + "\n\n", encoding="utf-8")
    (tmp_path / "de.txt").write_text("\n".join(GERMAN), encoding="utf-8")
    return tmp_path


def run(*arguments: str, fails: bool = False) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if fails:
        assert result.exit_code == 1
        assert result.stderr.startswith("vocab: ")
        assert result.stderr.count("\n") == 1
        return result.stderr
    assert result.exit_code == 0, result.output
    return result.stdout


def test_union_of_whole_vocabularies_then_show_and_check(work: Path) -> None:
    said = run("union", "word", "uni", "--out", "both")
    assert said == run("show", "both")
    assert "tokens of 2 teachers" in said
    checked = run("check", "both", "--text", "en.txt")
    assert checked.count("with the same ids and offsets") == 2
    assert "cut finer" not in checked


def test_union_routes_languages_and_measures(work: Path) -> None:
    said = run(
        "union",
        "word",
        "uni",
        "--out",
        "both",
        "--corpus",
        "en=en.txt",
        "--corpus",
        "de=de.txt",
        "--route",
        "de=uni",
        "--route",
        "en=word",
    )
    vocabulary = open_vocabulary(work / "both")
    assert vocabulary.tokenizers["de"] == "uni"
    assert vocabulary.tokenizers["en"] == "word"
    assert "merged differs" in said
    automatic = run("union", "word", "uni", "--out", "auto", "--corpus", "en=en.txt", "--max-size", "90")
    assert "merged differs" in automatic
    assert open_vocabulary(work / "auto").size <= 90


def test_trim_by_count_frequency_and_size(work: Path) -> None:
    sizes = []
    for options in ([], ["--min-count", "41"], ["--min-frequency", "0.03"], ["--max-size", "40"]):
        run("trim", "word", "--corpus", "en=en.txt", "--out", "small", *options)
        sizes.append(open_vocabulary(work / "small").size)
    assert sizes[0] == max(sizes)
    assert sizes[1] < sizes[0]
    assert sizes[2] < sizes[0]
    assert sizes[3] <= 40
    assert "cut finer" in run("check", "small", "--text", "de.txt")


def test_a_width_of_ones_own(work: Path) -> None:
    said = run("union", "word", "uni", "--out", "both", "--width", "100")
    size = open_vocabulary(work / "both").size
    assert said.splitlines()[-1].split() == ["100", f"{100 * size:,}"]
    assert run("show", "both", "--width", "3", "--width", "2").splitlines()[-1].split() == ["3", f"{3 * size:,}"]


def test_a_model_beside_the_tokenizer_is_asked_unless_told_not_to(work: Path) -> None:
    make_model(work / "word", rows=len(read_tokenizer(work / "word").tokens), tilt=0.0)
    asked = run("trim", "word", "--corpus", "en=en.txt", "--out", "small")
    mass = read_report(work / "small").texts[0].outside_teacher
    assert mass is not None
    assert f"{100 * mass:.3f} %" in asked
    run("trim", "word", "--corpus", "en=en.txt", "--out", "small", "--no-teacher-mass")
    assert read_report(work / "small").texts[0].outside_teacher is None
    (work / "word" / "model.safetensors").write_bytes(b"damaged")
    assert "cannot be opened" in run("trim", "word", "--corpus", "en=en.txt", "--out", "small", fails=True)


def test_a_teacher_without_text_is_named(work: Path) -> None:
    said = run("union", "word", "uni", "--out", "both", "--corpus", "en=en.txt", "--route", "en=word")
    assert "note: uni: no text of the corpus is read with it" in said


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_leaves_what_was_there_and_nothing_else(work: Path, stop: signal.Signals) -> None:
    run("union", "word", "uni", "--out", "both")
    before = {file: file.read_bytes() for file in (work / "both").rglob("*") if file.is_file()}
    (work / "long.txt").write_text("\n".join(f"{text} {n}" for n in range(4000) for text in ENGLISH), encoding="utf-8")
    command = [sys.executable, "-m", "vocab_tools", "trim", "word", "--corpus", "en=long.txt", "--out", "both"]
    root = str(Path(__file__).resolve().parents[2])
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": root},
        text=True,
        # what runs in the background starts with Ctrl-C ignored, and hands that on
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(2.0)
    process.send_signal(stop)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said in ("vocab: stopped; nothing was written or changed\n", "")
    assert {file: file.read_bytes() for file in (work / "both").rglob("*") if file.is_file()} == before
    assert not list(work.glob(".both*"))


def test_a_file_that_may_not_grow_is_one_sentence(work: Path) -> None:
    limit = "import resource, vocab_tools.cli as c; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); c.main()"
    command = [sys.executable, "-c", limit, "union", "word", "uni", "--out", "both"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=work)
    assert (found.returncode, found.stderr.count("\n")) == (1, 1)
    assert "cannot be written: File too large" in found.stderr
    assert not (work / "both").exists()
    assert not list(work.glob(".both*"))


def test_check_finds_a_moved_teacher_and_refuses_another(work: Path) -> None:
    run("trim", "word", "--corpus", "en=en.txt", "--out", "small")
    (work / "word").rename(work / "elsewhere")
    assert "does not exist" in run("check", "small", "--text", "en.txt", fails=True)
    assert "the same ids" in run("check", "small", "--text", "en.txt", "--teacher", "word=elsewhere")
    assert "--teacher names 'wrod'" in run("check", "small", "--text", "en.txt", "--teacher", "wrod=uni", fails=True)
    assert "another tokenizer" in run("check", "small", "--text", "en.txt", "--teacher", "word=uni", fails=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["union", "./nowhere", "--out", "x"], "does not exist"),
        (["union", "word", "word", "--out", "x"], "two tokenizers are called 'word'"),
        (["union", "word", "--out", "x", "--corpus", "en.txt"], "not of the form --corpus LANG=FILE"),
        (["union", "word", "--out", "x", "--corpus", "en=a", "--corpus", "en=b"], "given twice"),
        (["union", "word", "--out", "x", "--corpus", "en=missing.txt"], "missing.txt cannot be read"),
        (["union", "word", "--out", "x", "--corpus", "en=en.txt", "--route", "en=other"], "names 'other'"),
        (["union", "word", "--out", "x", "--max-size", "99"], "max_size needs counts"),
        (["trim", "word", "--out", "x"], "give --corpus"),
        (["trim", "word", "--out", "x", "--corpus", "en=en.txt", "--teacher-mass"], "needs a masked language model"),
        (["show", "word"], "no vocabulary folder"),
        (["check", "nothing", "--text", "en.txt"], "no vocabulary folder"),
    ],
)
def test_failures_are_one_sentence(work: Path, arguments: list[str], message: str) -> None:
    assert message in run(*arguments, fails=True)
    assert not (work / "x").exists()


def test_texts_come_from_lines_or_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"text": ["a", "", "b"], "id": [1, 2, 3]}), tmp_path / "t.parquet")
    assert read_texts(tmp_path / "t.parquet") == ["a", "b"]
    counted, measured = split_for_measure([str(number) for number in range(100)])
    assert (len(counted), measured) == (95, ["0", "20", "40", "60", "80"])
    assert split_for_measure(["a", "b"]) == (["a", "b"], ["a", "b"])
