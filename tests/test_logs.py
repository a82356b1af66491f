"""Each process' log as JSON lines, limited in size."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import logs
from orchestrator.logs import log_worker, logging_to, working_on

log = logging.getLogger("orchestrator.test")


@pytest.fixture(autouse=True)
def _own_handlers() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("orchestrator")
    before, level = [*root.handlers], own.level
    yield
    for handler in root.handlers:
        if handler not in before:
            handler.close()
    root.handlers[:] = before
    own.setLevel(level)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_line_says_who_did_what(tmp_path: Path) -> None:
    log_worker(tmp_path, worker="0123456789abcdef")
    with working_on("shard 3"):
        log.debug("begins")
    try:
        raise ValueError("zwei Zeilen,\nüber Umlaute")
    except ValueError:
        log.exception("after it")
    (path,) = tmp_path.glob("*-01234567.jsonl")
    first, second = lines(path)
    assert (first["unit"], first["message"], first["level"], first["worker"]) == (
        "shard 3",
        "begins",
        "DEBUG",
        "0123456789abcdef",
    )
    assert "trace" not in first
    assert second["unit"] == ""
    assert "ValueError: zwei Zeilen,\nüber Umlaute" in str(second["trace"])


def test_a_machine_without_the_folder_says_it_on_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_worker(tmp_path / "elsewhere", worker="a")
    log.info("here")
    assert json.loads(capsys.readouterr().err)["message"] == "here"
    assert not (tmp_path / "elsewhere").exists()


def test_the_driver_has_lines_too_and_its_text_is_shorter(tmp_path: Path) -> None:
    def work() -> None:
        with logging_to(tmp_path / "orch.log"):
            log.info("two of three")
            log.debug("a detail")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        work()
    messages = [line["message"] for line in lines(tmp_path / "actors" / "driver.jsonl")]
    assert messages == ["two of three", "a detail", "failed: no"]
    text = (tmp_path / "orch.log").read_text(encoding="utf-8")
    assert "two of three" in text
    assert "a detail" not in text
    assert "ValueError: no" in text


def test_a_log_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_MOST_BYTES", 4096)
    log_worker(tmp_path, worker="a")
    for number in range(500):
        log.info("line %d", number)
    paths = sorted(tmp_path.iterdir())
    assert len(paths) == 2
    assert all(path.stat().st_size <= 4096 for path in paths)
    assert lines(paths[0])[-1]["message"] == "line 499"
