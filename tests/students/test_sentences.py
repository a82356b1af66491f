"""Parallel sentences: the rows of a pair, the teacher's vectors, the places, and a student that learns from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel

from orchestrator.config.corpus import CorpusSection, ParallelText
from orchestrator.config.models import StudentTemplate
from orchestrator.config.objectives import MaskedLMObjective, SentenceVectorsObjective
from orchestrator.config.phases import PhaseSpec
from orchestrator.corpus.parallel import read_parallel
from orchestrator.models.tokenizers import load_tokenizer
from orchestrator.records import BatchPlan, SignalRequest, Unit
from orchestrator.signals.fingerprint import Fingerprint
from orchestrator.signals.schema import TeacherSizes
from orchestrator.signals.store import Store
from orchestrator.students.build import build_group, build_streams
from orchestrator.students.job import GroupJob, SentenceFacts
from orchestrator.students.loop import train_group
from orchestrator.students.sentences import SentenceReader, sentence_key
from orchestrator.teachers.worker import PrecomputeJob, TeacherTask, TeacherWorker
from tests.students.tiny import STUDENT, World, make_job, student
from vocab_tools.mapping import open_vocabulary

KEY = sentence_key("pairs", "aa")
TO_VECTORS = SentenceVectorsObjective(type="sentence-vectors", pivot="aa")


@pytest.fixture(scope="module")
def facts(world: World, tmp_path_factory: pytest.TempPathFactory) -> SentenceFacts:
    """60 pairs, of which one sentence is far too long, and what teacher `mixed` says of those in aa."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = {name: (world.root / f"{name}.txt").read_text(encoding="utf-8").splitlines()[:60] for name in ("aa", "bb")}
    lines["bb"][7] = " ".join(lines["bb"][:20])
    rows = [{"aa": a, "bb": b} for a, b in zip(lines["aa"], lines["bb"], strict=True)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    text = ParallelText(name="pairs", files=(str(folder / "pairs.jsonl"),), columns={"aa": "aa", "bb": "bb"})
    teacher = world.facts["mixed"]
    assert teacher.info is not None
    store = Store.create(
        folder / "store",
        teacher="mixed.pairs.aa",
        fingerprint=Fingerprint({"text": "pairs"}),
        request=SignalRequest(sentence_vectors=True),
        codec="fp16",
        sizes=TeacherSizes(teacher.info.width, teacher.info.embedding_width, teacher.info.vocab_size),
        languages=list(teacher.section.languages),
        units=[Unit("mixed.pairs.aa", i, "aa", 40 * i, 40 - 20 * i) for i in range(2)],
    )
    plan = BatchPlan(tokens_per_batch=256, threads=1, dtype="float32")
    task = TeacherTask(teacher.section, plan, store.request, "fp16", store.folder, text)
    section = CorpusSection.model_validate({"languages": {"aa": str(world.root / "aa.txt")}, "max_length": 24})
    worker = TeacherWorker(PrecomputeJob({"mixed.pairs.aa": task}, world.corpus.folder, section, seed=3))
    for unit in store.units:
        worker.run(unit)
    store.finish()
    return SentenceFacts(text, "aa", "mixed", store.folder)


def job_of(
    world: World,
    root: Path,
    facts: SentenceFacts,
    *languages: str,
    template: StudentTemplate = STUDENT,
    vocabulary: str | None = None,
) -> GroupJob:
    spec = student("s", *languages, objectives=(TO_VECTORS,), template=template)
    job = make_job(world, root, spec, vocabulary=vocabulary, steps=8)
    return GroupJob(**{**job.__dict__, "sentences": {"s": (facts,)}})


def test_vectors_are_the_mean_of_the_teachers_last_states(world: World, facts: SentenceFacts) -> None:
    path = world.facts["mixed"].section.model
    assert path is not None
    model, tokenizer = AutoModel.from_pretrained(path, add_pooling_layer=False).eval(), load_tokenizer(path)
    lines = (world.root / "aa.txt").read_text(encoding="utf-8").splitlines()[:60]
    store = Store.open(facts.store)
    values = np.concatenate([store.shard(i)["sentence_vectors"]["values"] for i in range(2)])
    for line, vector in zip(lines, values, strict=True):
        with torch.no_grad():
            inputs = tokenizer(line, return_tensors="pt", truncation=True, max_length=24)
            expected = model(inputs["input_ids"], inputs["attention_mask"]).last_hidden_state[0].mean(0)
        torch.testing.assert_close(torch.tensor(vector.astype(np.float32)), expected, rtol=2e-3, atol=2e-3)


def test_a_step_has_a_sentence_and_its_pivot_with_one_vector(
    world: World, tmp_path: Path, facts: SentenceFacts
) -> None:
    job = job_of(world, tmp_path, facts, "aa", "bb")
    built = build_group(job)
    stream = build_streams(job, built.vocabularies, cursors={})["s"]
    masked, bb, aa = stream.step(1)
    assert masked.vectors is None
    assert (bb.language, aa.language, bb.key, aa.key) == ("bb", "aa", KEY, KEY)
    assert bb.vectors is not None
    assert torch.equal(bb.vectors, aa.vectors)
    tokenizer = load_tokenizer(str(open_vocabulary(job.vocabularies["s"]).tokenizer_folder("mixed")))
    rows = [json.loads(line) for line in Path(facts.text.files[0]).read_text(encoding="utf-8").splitlines()]
    lines = {name: [row[name] for row in rows] for name in ("aa", "bb")}
    for batch in (aa, bb):
        known = [tokenizer(line, truncation=True, max_length=24)["input_ids"] for line in lines[batch.language]]
        for row, mask in zip(batch.input_ids.tolist(), batch.attention_mask.tolist(), strict=True):
            assert row[: sum(mask)] in known
        assert batch.input_ids.numel() <= 160
    assert [term.name for term in built.terms["s"][0][KEY]] == ["sentence-vectors"]
    assert built.terms["s"][0]["aa"] == ()


def test_every_pair_is_read_once_in_an_epoch(world: World, tmp_path: Path, facts: SentenceFacts) -> None:
    job = job_of(world, tmp_path, facts, "bb")
    built = build_group(job)
    stream = build_streams(job, built.vocabularies, cursors={})["s"].sentences[0]
    seen: list[tuple[float, ...]] = []
    step = 0
    while stream.places[f"{KEY}~bb"][0] == 0 and len(seen) < 60:
        step += 1
        (batch,) = stream.step(step)
        assert batch.vectors is not None
        seen += [tuple(row) for row in batch.vectors.tolist()]
    assert len(seen) == len(set(seen)) == 60
    halfway = build_streams(job, built.vocabularies, cursors={"s": {"bb": (0, 0, 0), f"{KEY}~bb": (0, 0, 3)}})["s"]
    fresh = build_streams(job, built.vocabularies, cursors={})["s"]
    for number in range(1, 4):
        fresh.sentences[0].step(number)
    assert torch.equal(halfway.sentences[0].step(4)[0].input_ids, fresh.sentences[0].step(4)[0].input_ids)


@pytest.mark.parametrize("distance", ["mse", "contrastive"])
def test_a_student_comes_nearer_to_the_vectors(
    world: World, tmp_path: Path, facts: SentenceFacts, distance: str
) -> None:
    objective = SentenceVectorsObjective.model_validate(
        {"type": "sentence-vectors", "pivot": "aa", "distance": distance}
    )
    phases = (
        PhaseSpec("text", 1, 4, (MaskedLMObjective(type="masked-lm"),)),
        PhaseSpec("sentences", 5, 60, (objective,)),
    )
    job = make_job(world, tmp_path, student("s", "aa", "bb", phases=phases), steps=60, log_every=4)
    job = GroupJob(**{**job.__dict__, "sentences": {"s": (facts,)}})
    built, result = train_group(job)
    rows = [json.loads(line) for line in (job.folder("s") / "metrics.jsonl").read_text().splitlines()]
    values = [row["terms"]["sentence-vectors"] for row in rows if "sentence-vectors" in row["terms"]]
    assert len(values) == 14
    assert np.mean(values[-3:]) < 0.8 * np.mean(values[:3])
    assert result.tokens["s"] > 0
    assert built.module.projections


def test_a_copy_of_the_teacher_is_at_its_own_vectors(world: World, tmp_path: Path, facts: SentenceFacts) -> None:
    copy = StudentTemplate.model_validate(
        STUDENT.model_dump()
        | {"layers": 4, "hidden_size": 32, "intermediate_size": 64, "initialisation": {"layers": "teacher"}}
    )
    job = job_of(world, tmp_path, facts, "aa", template=copy, vocabulary="full")
    built = build_group(job)
    vocabulary = built.vocabularies["s"]
    reader = SentenceReader(
        read_parallel(facts.text),
        Store.open(facts.store),
        pivot="aa",
        tokenizers={"aa": load_tokenizer(str(vocabulary.tokenizer_folder("mixed")))},
        max_length=24,
        pad=vocabulary.special["pad"],
    )
    numbers, _ = reader.lengths("aa")
    batch = reader.batch("aa", numbers)
    with torch.no_grad():
        output = built.module.eval().run("s", batch, states=(), head_at=None)
    mean = (output.last * batch.attention_mask.unsqueeze(-1)).sum(1) / batch.attention_mask.sum(1, keepdim=True)
    torch.testing.assert_close(mean, batch.vectors, rtol=5e-3, atol=5e-3)
