"""Canaries in the environment, the configuration and the command line of a real run: none of them is in any output."""

from __future__ import annotations

import html
import json
import logging
import os
from pathlib import Path

import pytest

from orchestrator.cluster.units import Host
from orchestrator.credentials import holds_credentials, without_credentials
from orchestrator.errors import DataError
from orchestrator.logs import logging_to
from orchestrator.records import MetricRow
from orchestrator.report.making import Making
from orchestrator.report.page import render
from tests.e2e.command import orch
from tests.e2e.project import write_config

CANARIES = {
    "HF_TOKEN": "hf_CanaryCanaryCanaryCanary01",
    "AWS_SECRET_ACCESS_KEY": "CanaryKey/Number+Two=abcdefghij",
    "AWS_SESSION_TOKEN": "canary-number-three-0123456789",
    "WANDB_API_KEY": "canary4canary4canary4canary4",
    "GITHUB_TOKEN": "ghp_CanaryFiveCanaryFiveCanary",
    "DATABASE_PASSWORD": "canary six with spaces",
}
#: In a URL, as --set, --config and --address may have them.
URL_CANARY = "CanarySeven/inAUrl"


def traces(folder: Path, *texts: str) -> list[str]:
    """Where any canary stands: as it is, in HTML, or in JSON."""
    found = []
    words = [*CANARIES.values(), URL_CANARY]
    forms = {form for word in words for form in (word, html.escape(word), json.dumps(word)[1:-1])}
    for place, text in [*((str(one), one.read_bytes()) for one in folder.rglob("*") if one.is_file())]:
        found += [f"{place}: {form}" for form in forms if form.encode() in text]
    found += [f"output: {form}" for text in texts for form in forms if form in text]
    return found


@pytest.fixture
def canaries(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("canaries")
def test_a_whole_run_shows_no_secret(project: Path) -> None:
    """Everything that a run leaves, its terminal included; the address that is given has a password."""
    write_config(project, {"training": {"steps": 2, "tokens_per_batch": 256, "log_every": 1, "baseline": False}})
    done = orch("run", "--verbose", "--set", "run.seed=3", folder=project)
    assert done.status == 0, done.err
    for command in (["report"], ["plan"], ["status"], ["verify"], ["config", "show"], ["inspect", "en"]):
        done_too = orch(*command, folder=project)
        done = type(done)(done_too.status, done.out + done_too.out, done.err + done_too.err)
    assert traces(project, done.out, done.err) == []
    assert (project / "run" / "report" / "index.html").is_file()


@pytest.mark.usefixtures("canaries")
@pytest.mark.parametrize(
    "change",
    [
        {"run": {"root": f"s3://key:{URL_CANARY}@bucket/run"}},
        {"corpus": {"languages": {"en": f"https://me:{URL_CANARY}@host/en.txt"}}},
        {"training": {"steps": f"s3://key:{URL_CANARY}@bucket"}},
        {f"s3://key:{URL_CANARY}@bucket": 1},
        {"cluster": {"address": CANARIES["AWS_SECRET_ACCESS_KEY"]}},
    ],
)
def test_credentials_in_a_configuration_are_refused_and_not_repeated(tmp_path: Path, change: dict[str, object]) -> None:
    write_config(tmp_path, change)
    done = orch("plan", "--verbose", folder=tmp_path)
    assert done.status == 1
    assert "holds a password, a key or a token" in done.err
    assert "orch.yaml, line" in done.err
    (tmp_path / "orch.yaml").unlink()
    assert traces(tmp_path, done.out, done.err) == []


@pytest.mark.usefixtures("canaries")
def test_credentials_on_the_command_line_are_not_repeated(project: Path) -> None:
    outputs = []
    for arguments in (
        ["plan", "--set", f"run.root=s3://key:{URL_CANARY}@bucket"],
        ["plan", "--set", f"s3://key:{URL_CANARY}@bucket"],
        ["plan", "--config", f"s3://key:{URL_CANARY}@bucket/orch.yaml"],
        ["train-students", "--verbose", "--address", f"ray://me:{URL_CANARY}@localhost:1"],
        ["transfer", "--verbose", "--source", "en", "--model", f"https://me:{URL_CANARY}@host/model"],
    ):
        done = orch(*arguments, folder=project)
        assert done.status != 0
        outputs += [done.out, done.err]
    assert traces(project, *outputs) == []
    assert (project / "run" / "logs" / "orch.log").is_file(), "some of them came as far as the log"


@pytest.mark.usefixtures("canaries")
def test_errors_and_tracebacks_are_masked_wherever_they_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A library that puts a secret into its message, in a worker and in the driver."""
    secret, token = CANARIES["DATABASE_PASSWORD"], CANARIES["HF_TOKEN"]

    class Careless:
        def run(self, unit: int) -> int:
            raise ValueError(f"401 for Authorization: Bearer {token} and {secret}")

    host: Host[int, int] = Host()
    host.start(Careless)
    reply = host.run(1)
    assert reply.failure is not None
    texts = [reply.failure, reply.trace, str(DataError(f"it says {secret} at https://a:{URL_CANARY}@b"))]
    with pytest.raises(ValueError, match="401"), logging_to(tmp_path / "orch.log"):
        Careless().run(1)
    with logging_to(tmp_path / "orch.log"):
        logging.getLogger("orchestrator.x").warning("asked with %s", token)
    assert "asked with ***" in (tmp_path / "orch.log").read_text()
    assert "Traceback" in (tmp_path / "orch.log").read_text()
    assert traces(tmp_path, *texts) == []


@pytest.mark.parametrize(
    "text",
    [
        "gs://anonymous@bucket/x",
        "abfs://container@account.dfs.core.windows.net/x",
        "hf://datasets/who/what@main/file",
        "s3://bucket/x?endpoint_override=localhost:9000&scheme=http&region=eu-north-1",
        "http://localhost:8080/a@b",
        "text/en-*.txt",
        "FacebookAI/xlm-roberta-base",
        "tokens_per_batch: 4096",
        "ray://10.0.0.1:10001",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert not holds_credentials(text)


def test_masking_takes_no_time_whatever_the_text() -> None:
    """Bounded repetitions: a stranger's error message cannot stop a run."""
    words = ("://", "://a:", "https://", "?token", "?token=", "Bearer ", "hf_", "-----BEGIN ", "&sig", "a:b@")
    began = os.times().user
    for word in words:
        without_credentials(word * (200_000 // len(word)))
    assert os.times().user - began < 20


# --- HTML and Markdown ---------------------------------------------------------------------------------------------

EVIL = "\"'><img src=x><script>alert()"


def test_the_report_escapes_whatever_it_shows() -> None:
    rows = [
        MetricRow(model=model, role=role, language=language, metric=metric, value=0.5, n=10, seed=0)
        for model, role in ((f"one-to-one/{EVIL}", "student"), (EVIL, "teacher"))
        for language in (EVIL, "en")
        for metric in ("masked_lm_accuracy", "top1_agreement", "kl", EVIL)
    ]
    page, _ = render(EVIL, rows=rows, logs=[], config=f"run: {EVIL}", making=Making())
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert()" in page


def test_names_that_are_markup_are_refused_where_they_begin(tmp_path: Path) -> None:
    for change in (
        {"teachers": {EVIL: {"model": "m", "languages": ["en"]}}},
        {"corpus": {"languages": {EVIL: "a.txt"}}},
        {"run": {"teacher": EVIL}},
    ):
        write_config(tmp_path, change)
        assert "String should match pattern" in orch("plan", folder=tmp_path).err


def test_the_card_shows_text_from_outside_as_code() -> None:
    from orchestrator.report.card import _code, _word

    assert _code("a`b|<b>\nnew line") == "`a'b\\|<b> new line`"
    assert (_word("train"), _word("<b>x</b>")) == ("train", "`<b>x</b>`")
