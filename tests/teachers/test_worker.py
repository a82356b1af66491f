"""A worker turns units into shards that a store accepts, the same bytes every time, for several teachers."""

from __future__ import annotations

import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.config.models import TeacherSection
from orchestrator.corpus.mask import mask_rows
from orchestrator.corpus.tokenise import tokenise
from orchestrator.errors import ConfigError, DataError
from orchestrator.models.building import build_encoder
from orchestrator.models.export import export_student
from orchestrator.models.tokenizers import load_tokenizer, special_ids
from orchestrator.records import BatchPlan, SignalRequest, SpecialIds, Unit
from orchestrator.signals.draws import decode_draws
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.schema import TeacherSizes
from orchestrator.signals.store import Store
from orchestrator.signals.topk import decode_topk
from orchestrator.teachers.fingerprint import fingerprint_parts
from orchestrator.teachers.units import plan_units
from orchestrator.teachers.worker import PrecomputeJob, TeacherTask, TeacherWorker
from tests.models.tiny import template
from tests.signals.samples import hidden
from tests.teachers.conftest import LANGUAGES, SPECIAL_TOKENS, WORDS, TinyRun

PLAN = BatchPlan(tokens_per_batch=64, threads=1, dtype="float32")
REQUEST = SignalRequest(top_k=4, draws=9, states=hidden(0, 3))
KNOWN = len(SPECIAL_TOKENS + WORDS)
SIZES = TeacherSizes(width=32, head_width=32, vocab_size=KNOWN + 3)


def _job(
    run: TinyRun, folder: Path, *, request: SignalRequest = REQUEST, teachers: dict[str, TeacherSection] | None = None
) -> PrecomputeJob:
    tasks = {}
    for name, section in (teachers or {"big": run.teacher}).items():
        parts = fingerprint_parts(section, run.corpus, run.corpus_section, seed=3, codec="fp16", plan=PLAN)
        store = Store.create(
            folder / name,
            teacher=name,
            fingerprint=Fingerprint(parts),
            request=request,
            codec="fp16",
            sizes=None if section.model is None else SIZES,
            languages=list(LANGUAGES),
            units=plan_units(
                run.corpus,
                name,
                section,
                tokens_per_character=dict.fromkeys(LANGUAGES, 0.3),
                bytes_per_token=100.0,
                shard_bytes=20_000,
                copies=2,
            ),
        )
        tasks[name] = TeacherTask(section, PLAN, store.request, "fp16", store.folder)
    return PrecomputeJob(tasks, run.corpus.folder, run.corpus_section, seed=3)


def _missing(job: PrecomputeJob) -> list[Unit]:
    stores = [Store.open(task.store) for task in job.teachers.values() if task.store is not None]
    return [unit for store in stores for unit in store.missing()]


def test_a_whole_store(tiny_run: TinyRun, tmp_path: Path) -> None:
    job = pickle.loads(pickle.dumps(_job(tiny_run, tmp_path)))
    worker = TeacherWorker(job)
    units = _missing(job)
    assert {unit.language for unit in units} == set(LANGUAGES)
    receipts = [worker.run(unit) for unit in units]
    assert [receipt.unit for receipt in receipts] == units
    store = Store.open(tmp_path / "big")
    store.finish()
    assert store.verify() == []
    for unit in units:
        tables = store.shard(unit.index)
        first, end = unit.first_text, unit.first_text + unit.num_texts
        assert set(tables["texts"]["row_id"] >> 16) == set(range(first, end))
        assert set(tables["texts"]["copy"]) == {0, 1}
        assert (decode_topk(tables["topk_004"])[0] < KNOWN).all()
        ids, _ = decode_draws(tables["draws_009"]["distinct"], tables["drawn_009"]["code"], draws=9)
        assert ids.max() < KNOWN


def test_the_rows_are_those_of_the_corpus(tiny_run: TinyRun, tmp_path: Path) -> None:
    job = _job(tiny_run, tmp_path)
    unit = next(unit for unit in _missing(job) if unit.language == "sw")
    tables = TeacherWorker(job).signals(unit)
    tokenizer = load_tokenizer(tiny_run.teacher.tokenizer_path)
    texts = tiny_run.corpus.texts("sw", "train", unit.first_text, unit.num_texts)
    rows = tokenise(texts, first_text=unit.first_text, tokenizer=tokenizer, max_length=24, packing=False)
    expected = mask_rows(
        rows,
        language=1,
        special=special_ids(tokenizer),
        vocab_ids=np.arange(5, KNOWN, dtype=np.int32),
        masking=tiny_run.corpus_section.masking,
        seed=3,
        copies=range(2),
    )
    assert np.array_equal(tables["tokens"]["input_id"], expected.input_id)
    assert np.array_equal(tables["masked"]["label_id"], expected.label_id)
    assert (tables["texts"]["language"] == 1).all()


def test_a_unit_that_runs_again_gives_the_same_bytes(tiny_run: TinyRun, tmp_path: Path) -> None:
    job = _job(tiny_run, tmp_path)
    units = _missing(job)
    first = TeacherWorker(job).run(units[0])
    contents = {path.name: path.read_bytes() for path in (tmp_path / "big/shards/000000").iterdir()}
    shutil.rmtree(tmp_path / "big/shards")
    other = TeacherWorker(job)
    for unit in reversed(units):  # by another worker, after other units
        last = other.run(unit)
    assert last == first
    assert {path.name: path.read_bytes() for path in (tmp_path / "big/shards/000000").iterdir()} == contents


def test_what_is_asked_for_later_joins_the_shard(tiny_run: TinyRun, tmp_path: Path) -> None:
    job = _job(tiny_run, tmp_path)
    unit = _missing(job)[0]
    TeacherWorker(job).run(unit)
    before = {path.name: path.read_bytes() for path in (tmp_path / "big/shards/000000").iterdir()}
    more = SignalRequest(temperatures=(2.0,), head_states=True, states=hidden(2), sentence_vectors=True)
    wider = _job(tiny_run, tmp_path, request=REQUEST | more)
    assert unit in _missing(wider)
    TeacherWorker(wider).run(unit)
    after = {path.name: path.read_bytes() for path in (tmp_path / "big/shards/000000").iterdir()}
    new = {"partition", "partition_t2", "head_states", "hidden_02", "sentence_vectors"}
    assert after.keys() - before.keys() == {f"{table}.arrow" for table in new}
    assert before.items() <= after.items()
    at_once = _job(tiny_run, tmp_path / "at once", request=REQUEST | more)
    TeacherWorker(at_once).run(unit)
    assert after == {path.name: path.read_bytes() for path in (tmp_path / "at once/big/shards/000000").iterdir()}


def test_a_job_that_stores_nothing_gives_the_same_tables(tiny_run: TinyRun, tmp_path: Path) -> None:
    job = _job(tiny_run, tmp_path)
    unit = _missing(job)[0]
    TeacherWorker(job).run(unit)
    stored = Store.open(tmp_path / "big").shard(unit.index)
    alone = replace(job, teachers={"big": replace(job.teachers["big"], store=None)})
    tables = TeacherWorker(alone).signals(unit)
    assert tables.keys() == stored.keys()
    for table, columns in tables.items():
        for name, column in columns.items():
            assert column.tobytes() == stored[table][name].tobytes()


def test_one_worker_hosts_several_teachers(tiny_run: TinyRun, tmp_path: Path) -> None:
    small = build_encoder(
        template("distilbert", layers=4), vocab_size=KNOWN + 3, special=SpecialIds(pad=1, unk=3, mask=4), seed=1
    )
    shutil.copytree(str(tiny_run.teacher.model), tmp_path / "small-model")
    export_student(small, tmp_path / "small-model")
    other = tiny_run.teacher.model_copy(update={"model": str(tmp_path / "small-model")})
    job = _job(tiny_run, tmp_path, teachers={"big": tiny_run.teacher, "small": other})
    worker = TeacherWorker(job)
    units = sorted(_missing(job), key=lambda unit: (unit.index, unit.teacher))
    for unit in units[:4]:
        assert worker.run(unit).unit.teacher == unit.teacher
    one, two = (Store.open(tmp_path / name).shard(0) for name in ("big", "small"))
    assert np.array_equal(one["masked"]["label_id"], two["masked"]["label_id"])
    assert not np.array_equal(one["topk_004"]["top"], two["topk_004"]["top"])


def test_a_tokenizer_alone_makes_masked_text(tiny_run: TinyRun, tmp_path: Path) -> None:
    alone = tiny_run.teacher.model_copy(update={"model": None, "tokenizer": tiny_run.teacher.model})
    job = _job(tiny_run, tmp_path, request=SignalRequest(), teachers={"none": alone})
    receipt = TeacherWorker(job).run(_missing(job)[0])
    assert set(receipt.tables) == {"texts", "tokens", "masked"}


def test_threads_are_set_for_the_unit_alone(tiny_run: TinyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = _job(tiny_run, tmp_path)
    seen: list[int] = []
    before = torch.get_num_threads()
    monkeypatch.setattr(
        "orchestrator.teachers.worker.compute_signals", lambda *_, **__: seen.append(torch.get_num_threads()) or {}
    )
    task = replace(job.teachers["big"], plan=replace(PLAN, threads=2 if before != 2 else 1))
    TeacherWorker(replace(job, teachers={"big": task})).signals(_missing(job)[0])
    assert seen == [task.plan.threads]
    assert torch.get_num_threads() == before


def test_a_teacher_that_reads_too_little(tiny_run: TinyRun, tmp_path: Path) -> None:
    job = _job(tiny_run, tmp_path)
    long = replace(job, corpus=tiny_run.corpus_section.model_copy(update={"max_length": 41}))
    with pytest.raises(ConfigError, match=r"corpus.max_length: 41 tokens are more than teacher 'big' can read \(40\)"):
        TeacherWorker(long).run(_missing(job)[0])


def test_a_tokenizer_of_another_model(tiny_run: TinyRun, tmp_path: Path) -> None:
    small = build_encoder(template("bert"), vocab_size=KNOWN - 1, special=SpecialIds(pad=1, unk=3, mask=4), seed=1)
    export_student(small, tmp_path / "model")
    section = tiny_run.teacher.model_copy(
        update={"model": str(tmp_path / "model"), "tokenizer": tiny_run.teacher.tokenizer_path}
    )
    job = _job(tiny_run, tmp_path, teachers={"big": section})
    with pytest.raises(DataError, match=f"ids up to {KNOWN - 1}, but the model's vocabulary ends at {KNOWN - 2}"):
        TeacherWorker(job).run(_missing(job)[0])
