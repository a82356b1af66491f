"""A whole job on small models: a teacher, students with vocabularies of their own, and figures computed another way."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import log_softmax, softmax
from transformers import AutoModelForMaskedLM

from orchestrator.config.corpus import CorpusSection, ParallelSource
from orchestrator.config.run import EvaluationSection
from orchestrator.config.transfer import TaskSection
from orchestrator.corpus.store import build_corpus, open_corpus
from orchestrator.errors import DataError, StoreError
from orchestrator.evaluation.evaluate import evaluate
from orchestrator.evaluation.job import EvaluatedModel, EvaluationJob
from orchestrator.evaluation.masked_text import mask_texts
from orchestrator.models.tokenizers import load_tokenizer
from orchestrator.records import MetricRow

from .tiny import SPECIAL, WORDS, sentences, write_model, write_pair, write_tokenizer

PAIRS = 40


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> EvaluationJob:
    """A teacher of both languages, a student of both in its ids, and a student per language that lacks two words."""
    root = tmp_path_factory.mktemp("run")
    files = {}
    for language in WORDS:
        files[language] = root / f"{language}.txt"
        files[language].write_text("\n".join(sentences(language, 200, seed=1)) + "\n", encoding="utf-8")
    corpus = CorpusSection.model_validate(
        {
            "languages": {language: str(path) for language, path in files.items()},
            "held_out_share": 0.2,
            "max_length": 16,
            "masking": {"probability": 0.3},
        }
    )
    folder = build_corpus(corpus, root=root, seed=0).folder
    pq.write_table(
        pa.table({language: sentences(language, PAIRS, seed=2) for language in WORDS}), root / "pairs.parquet"
    )

    texts = {language: sentences(language, 60, seed=4) for language in WORDS}
    labelled = [
        {"lang": language, "split": "test" if i % 3 else "train", "text": text, "long": str(len(text.split()) > 7)}
        for language in WORDS
        for i, text in enumerate(texts[language])
    ]
    pq.write_table(pa.Table.from_pylist(labelled), root / "labelled.parquet")

    both = WORDS["xx"] + WORDS["yy"]
    teacher = write_pair(root / "teacher", both, layers=3)
    models = [
        EvaluatedModel("big", "teacher", str(teacher), ("xx", "yy")),
        EvaluatedModel(
            "one-to-one/student",
            "student",
            str(write_pair(root / "both", both, seed=1)),
            ("xx", "yy"),
            teachers={"xx": "big", "yy": "big"},
        ),
    ]
    for seed, language in enumerate(WORDS):
        kept = WORDS[language][2:]
        id_map = np.full(len(SPECIAL) + len(both), -1, np.int32)
        id_map[: len(SPECIAL)] = range(len(SPECIAL))
        id_map[[len(SPECIAL) + both.index(word) for word in kept]] = len(SPECIAL) + np.arange(len(kept))
        np.save(root / f"{language}.npy", id_map)
        models.append(
            EvaluatedModel(
                f"one-to-many/{language}",
                "student",
                str(write_model(root / language, vocab_size=len(SPECIAL) + len(kept), seed=seed)),
                (language,),
                tokenizers={language: str(write_tokenizer(root / f"{language}-tokenizer", kept))},
                teachers={language: "big"},
                maps={language: str(root / f"{language}.npy")},
            )
        )
    return EvaluationJob(
        models=tuple(reversed(models)),  # the order of a job must not matter
        corpus_folder=folder,
        corpus=corpus,
        evaluation=EvaluationSection(
            max_texts=25,
            parallel=(
                ParallelSource(name="ours", files=(str(root / "pairs.parquet"),), columns={"xx": "xx", "yy": "yy"}),
            ),
            probes={"long": TaskSection(kind="sentence", files=(str(root / "labelled.parquet"),), label="long")},
        ),
        systems={"one-to-many": ("one-to-many/xx", "one-to-many/yy")},
        seed=3,
        threads=1,
        dtype="float32",
    )


@pytest.fixture(scope="module")
def rows(job: EvaluationJob) -> list[MetricRow]:
    return list(evaluate(job))


def find(rows: list[MetricRow], **wanted: object) -> list[MetricRow]:
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def value(rows: list[MetricRow], **wanted: object) -> float:
    (row,) = find(rows, **wanted)
    return row.value


def reference_logits(folder: Path | str, rows: list[list[int]]) -> np.ndarray:
    """Logits at every token of every row, one row at a time, by transformers alone."""
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        return np.concatenate([model(torch.tensor([row])).logits[0].double().numpy() for row in rows])


def test_every_figure_is_there_once(job: EvaluationJob, rows: list[MetricRow]) -> None:
    keys = [(r.model, r.language, r.other_language, r.split, r.metric, r.layer) for r in rows]
    assert len(set(keys)) == len(keys)
    assert {row.seed for row in rows} == {3}
    assert all(math.isfinite(row.value) and row.n > 0 for row in rows)
    for model in job.models:
        for language in model.languages:
            metrics = {row.metric for row in find(rows, model=model.name, language=language, split="held_out")}
            alone = {"masked_lm_accuracy", "masked_lm_nats", "bits_per_character", "unknown_share"}
            compared = {"teacher_agreement", "teacher_kl", "teacher_kl_shared", "teacher_mass_outside"}
            assert metrics == (alone if model.role == "teacher" else alone | compared)
            assert len(find(rows, model=model.name, language=language, split="train")) == len(metrics)


@pytest.mark.parametrize("language", ["xx", "yy"])
def test_figures_of_a_trimmed_student_computed_token_by_token(
    job: EvaluationJob, rows: list[MetricRow], language: str
) -> None:
    corpus = open_corpus(job.corpus_folder)
    teacher, student = job.model("big"), job.model(f"one-to-many/{language}")
    num_texts = corpus.info(language, "held_out").num_texts
    count = min(25, num_texts)
    texts = [corpus.texts(language, "held_out", i * num_texts // count, 1)[0] for i in range(count)]
    text = mask_texts(texts, tokenizer=load_tokenizer(teacher.tokenizer(language)), section=job.corpus)
    id_map = np.load(student.maps[language])

    in_teacher = [text.rows.ids[f : f + n].tolist() for f, n in zip(text.rows.first, text.rows.length, strict=True)]
    in_student = [[int(id_map[i]) if id_map[i] >= 0 else 1 for i in row] for row in in_teacher]
    teacher_probs = softmax(reference_logits(teacher.folder, in_teacher), axis=-1)[text.masked]
    student_log_probs = log_softmax(reference_logits(student.folder, in_student), axis=-1)[text.masked]

    right = agreed = unknown = 0
    bits = divergence = within = outside = 0.0
    for label, p, log_q in zip(text.label_ids, teacher_probs, student_log_probs, strict=True):
        target = int(id_map[label])
        if target < 0:
            unknown += 1
            bits -= log_q[1] / math.log(2) - 8 * len(f"x{label - len(SPECIAL)}" if language == "xx" else "y0")
        else:
            right += int(log_q.argmax() == target)
            bits -= log_q[target] / math.log(2)
        agreed += int(id_map[p.argmax()] == log_q.argmax())
        shared = [t for t in range(len(p)) if id_map[t] >= 0 and t != 1]
        rest = 1 - sum(p[t] for t in shared)
        own_rest = 1 - sum(math.exp(log_q[id_map[t]]) for t in shared)
        divergence += sum(p[t] * (math.log(p[t]) - log_q[id_map[t]]) for t in shared)
        divergence += rest * math.log(rest / own_rest)
        for t in shared:
            within += p[t] * (math.log(p[t] / (1 - rest)) - (log_q[id_map[t]] - math.log(1 - own_rest)))
        outside += rest

    n = len(text.masked)
    expected = {
        "masked_lm_accuracy": right / n,
        "masked_lm_nats": bits * math.log(2) / n,
        "bits_per_character": bits / n * sum(len(t.split()) for t in texts) / sum(map(len, texts)),
        "unknown_share": unknown / n,
        "teacher_agreement": agreed / n,
        "teacher_kl": divergence / n,
        "teacher_kl_shared": within / n,
        "teacher_mass_outside": outside / n,
    }
    assert unknown > 0
    for metric, wanted in expected.items():
        found = find(rows, model=student.name, language=language, split="held_out", metric=metric)
        assert [row.n for row in found] == [n]
        assert found[0].value == pytest.approx(wanted, rel=1e-3, abs=1e-5), metric


def test_a_student_in_its_teachers_ids_meets_the_same_positions(rows: list[MetricRow]) -> None:
    for language in WORDS:
        held_out = find(rows, language=language, split="held_out", metric="masked_lm_accuracy")
        assert len(held_out) == 3
        assert len({row.n for row in held_out}) == 1


def test_a_student_that_is_its_teacher_follows_it_entirely(job: EvaluationJob) -> None:
    twin = replace(job.model("one-to-one/student"), folder=job.model("big").folder)
    alone = replace(job, models=(twin, job.model("big")), systems={}, evaluation=EvaluationSection(max_texts=10))
    found = list(evaluate(alone))
    for language in WORDS:
        chosen = find(found, model=twin.name, language=language, split="held_out")
        assert value(chosen, metric="teacher_agreement") == 1.0
        assert value(chosen, metric="teacher_kl") == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize(("system", "depth"), [("big", 3), ("one-to-one/student", 2), ("one-to-many", 2)])
def test_retrieval_rows(rows: list[MetricRow], system: str, depth: int) -> None:
    found = find(rows, model=system, split="parallel:ours")
    for metric in ("retrieval_cosine", "retrieval_csls"):
        for language, other in (("xx", "yy"), ("yy", "xx")):
            chosen = find(found, metric=metric, language=language, other_language=other)
            assert [row.layer for row in chosen] == list(range(depth + 1))
            assert all(row.n == PAIRS and 0 <= row.value <= 1 for row in chosen)
    assert [row.value for row in find(found, metric="retrieval_chance")] == [1 / PAIRS, 1 / PAIRS]
    for metric in ("cka", "neuron_correlation"):
        for chosen in (find(found, metric=metric), find(found, metric=f"{metric}_shuffled")):
            assert [row.layer for row in chosen] == list(range(depth + 1))
            assert all((row.language, row.other_language, row.n) == ("xx", "yy", PAIRS) for row in chosen)
    assert {row.role for row in found} == {"teacher" if system == "big" else "student"}


def test_students_that_differ_in_name_alone_find_every_translation(job: EvaluationJob) -> None:
    """The same weights under two vocabularies in which translations have the same id: the two spaces are one."""
    one, two = job.model("one-to-many/xx"), job.model("one-to-many/yy")
    same = replace(job, models=(job.model("big"), one, replace(two, folder=one.folder)))
    found = find(list(evaluate(same)), model="one-to-many", layer=2)
    assert value(found, metric="retrieval_cosine", language="xx") > 0.9  # sentences of the two lost words may tie
    assert value(found, metric="cka") == pytest.approx(1.0, abs=1e-3)
    assert abs(value(found, metric="cka_shuffled")) < 0.3
    assert value(found, metric="neuron_correlation") == pytest.approx(1.0, abs=1e-3)
    assert abs(value(found, metric="neuron_correlation_shuffled")) < 0.3
    # the head of the one is the head of the other
    home, away = (value(found, metric="head_swap_accuracy", language="xx", other_language=o) for o in ("xx", "yy"))
    assert home == away


@pytest.mark.parametrize(("system", "depth"), [("big", 3), ("one-to-one/student", 2), ("one-to-many", 2)])
def test_head_swap_rows(rows: list[MetricRow], system: str, depth: int) -> None:
    found = find(rows, model=system, split="probe:long")
    assert {row.metric for row in found} == {"head_swap_accuracy", "head_swap_chance"}
    for language, other in product(WORDS, WORDS):
        chosen = find(found, metric="head_swap_accuracy", language=language, other_language=other)
        assert [row.layer for row in chosen] == list(range(depth + 1))
        assert all(row.n == 40 for row in chosen)
        assert value(found, metric="head_swap_chance", language=language, other_language=other) == 0.425
    assert {row.role for row in found} == {"teacher" if system == "big" else "student"}


def test_every_layer_beside_transformers_and_numpy(job: EvaluationJob, rows: list[MetricRow]) -> None:
    """Correlations of neurons from mean states that transformers gives one sentence at a time."""
    big = job.model("big")
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(big.folder).eval(), load_tokenizer(str(big.folder))
    sides = []
    for language in WORDS:
        with torch.inference_mode():
            states = [
                model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
                for text in sentences(language, PAIRS, seed=2)
            ]
        sides.append(np.array([[layer[0].mean(dim=0).double().numpy() for layer in one] for one in states]))
    for layer in range(4):
        expected = np.mean([np.corrcoef(*(side[:, layer, d] for side in sides))[0, 1] for d in range(16)])
        found = value(rows, model="big", split="parallel:ours", metric="neuron_correlation", layer=layer)
        assert found == pytest.approx(expected, abs=1e-4)


def test_layers_of_students_of_different_depth_or_width(job: EvaluationJob, tmp_path: Path) -> None:
    two = job.model("one-to-many/yy")
    size = len(SPECIAL) + len(WORDS["yy"]) - 2
    deeper = replace(two, folder=str(write_model(tmp_path / "deep", vocab_size=size, layers=3)))
    wider = replace(two, folder=str(write_model(tmp_path / "wide", vocab_size=size, width=32)))
    for other, metrics, layers in (
        (deeper, {"retrieval_cosine", "retrieval_csls", "cka", "cka_shuffled"}, {2}),
        (wider, {"cka", "cka_shuffled"}, {0, 1, 2}),
    ):
        models = (job.model("big"), job.model("one-to-many/xx"), other)
        found = find(list(evaluate(replace(job, models=models))), model="one-to-many", split="parallel:ours")
        assert {row.metric for row in found} - {"retrieval_chance"} == metrics
        assert {row.layer for row in found} - {None} == layers


def test_without_teachers(job: EvaluationJob) -> None:
    found = list(evaluate(replace(job, evaluation=job.evaluation.model_copy(update={"teachers": False}))))
    assert not find(found, role="teacher")
    assert {row.metric for row in find(found, split="held_out")} == {
        "masked_lm_accuracy",
        "masked_lm_nats",
        "bits_per_character",
        "unknown_share",
    }


def test_a_tokenizer_alone_decides_the_tokens(job: EvaluationJob, rows: list[MetricRow]) -> None:
    """Pre-training without a teacher: the figures of the student are those beside a teacher with that tokenizer."""
    big = job.model("big")
    alone = replace(big, folder=None, tokenizers=dict.fromkeys(big.languages, str(big.folder)))
    models = tuple(alone if model is big else model for model in job.models)
    found = list(evaluate(replace(job, models=models)))
    assert not find(found, role="teacher")
    wanted = {"model": "one-to-many/xx", "split": "held_out", "metric": "bits_per_character"}
    assert value(found, **wanted) == pytest.approx(value(rows, **wanted), rel=1e-6)


def test_parallel_text_that_nothing_serves_is_said(job: EvaluationJob, caplog: pytest.LogCaptureFixture) -> None:
    list(evaluate(replace(job, models=(job.model("big"), job.model("one-to-many/xx")), systems={})))
    assert not caplog.records
    alone = replace(job.model("big"), languages=("xx",))
    list(evaluate(replace(job, models=(alone,), systems={})))
    assert "evaluation.parallel 'ours': no model or setup serves two of its languages" in caplog.text


def test_a_job_travels(job: EvaluationJob) -> None:
    assert pickle.loads(pickle.dumps(job)) == job


def test_threads_are_given_back(job: EvaluationJob) -> None:
    before = torch.get_num_threads()
    list(evaluate(replace(job, models=(), systems={}, threads=before + 1)))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), (np.zeros(3), "is no id map"), (np.full(45, 99, np.int32), "id 99 is outside")],
)
def test_a_map_that_does_not_fit(job: EvaluationJob, tmp_path: Path, content: np.ndarray | None, said: str) -> None:
    path = tmp_path / "map.npy"
    if content is not None:
        np.save(path, content)
    student = replace(job.model("one-to-many/xx"), maps={"xx": str(path)})
    with pytest.raises(StoreError, match=said):
        list(evaluate(replace(job, models=(job.model("big"), student), systems={})))


def test_a_model_that_is_not_there(job: EvaluationJob) -> None:
    gone = replace(job.model("big"), folder="/nowhere/model", tokenizers={})
    with pytest.raises(DataError, match="/nowhere/model"):
        list(evaluate(replace(job, models=(gone,), systems={})))
