"""What leaves training: ordinary Hugging Face folders that say where they came from."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from orchestrator.config.models import ShareSection
from orchestrator.errors import StoreError
from orchestrator.storage import hash_file
from orchestrator.students.job import RECEIPT, GroupJob, GroupResult
from orchestrator.students.loop import train_group
from orchestrator.students.worker import StudentWorker
from tests.students.tiny import STUDENT, World, make_job, student
from vocab_tools.mapping import open_vocabulary

ROUTES = {"aa": "mixed", "bb": "other"}


def jobs(world: World, root: Path) -> Mapping[str, GroupJob]:
    untied = STUDENT.model_copy(update={"tie_head": False, "architecture": "roberta"})
    pair = (student("ann", "aa"), student("bob", "bb"))
    share = ShareSection(parts=("embedding", "head"))
    return {
        "shared": make_job(world, root, *pair, share=share, steps=2),
        "union": make_job(world, root, student("ann", "aa", "bb", teachers=ROUTES, template=untied), steps=2),
    }


@pytest.mark.parametrize("kind", ["shared", "union"])
def test_an_exported_student_is_the_trained_module(world: World, tmp_path: Path, kind: str) -> None:
    job = jobs(world, tmp_path)[kind]
    result = StudentWorker().run(pickle.loads(pickle.dumps(job)))
    assert pickle.loads(pickle.dumps(result)) == result
    built, _ = train_group(job)  # from the last checkpoint: nothing is left to do
    for one in job.group.students:
        final = job.folder(one.name) / "final"
        model = AutoModelForMaskedLM.from_pretrained(final).eval()
        tokenizer = AutoTokenizer.from_pretrained(final)
        texts = [text for language in one.languages for text in world.corpus.texts(language, "held_out", 0, 3)]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, truncation=True, max_length=30)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        assert int(mask.sum()) > 3 * len(texts)
        encoder = built.module.encoder(one.name).eval()
        with torch.no_grad():
            exported = model(input_ids=ids, attention_mask=mask).logits
            embedded = torch.nn.functional.embedding(ids, built.module.embedding_weight(one.name))
            output = encoder(None, mask, states=(), inputs_embeds=embedded)
            trained = torch.nn.functional.linear(
                encoder.head_states(output.last), encoder.decoder_weight, encoder.decoder_bias
            )
        torch.testing.assert_close(exported[mask == 1], trained[mask == 1], rtol=1e-4, atol=1e-5)
        assert model.config.vocab_size == open_vocabulary(job.vocabularies[one.origin]).size == len(tokenizer)
        assert not any("projection" in name for name in model.state_dict())
        assert "eager" not in (final / "config.json").read_text()


def test_the_receipt_says_where_a_student_came_from(world: World, tmp_path: Path) -> None:
    job = jobs(world, tmp_path)["shared"]
    result = StudentWorker().run(job)
    for one in job.group.students:
        folder = job.folder(one.name)
        receipt = json.loads((folder / "final" / RECEIPT).read_text())
        assert receipt["fingerprint"] == job.fingerprint
        assert (receipt["student"], receipt["languages"]) == (one.name, list(one.languages))
        assert receipt["group"] == ["ann", "bob"]
        assert [objective["type"] for objective in receipt["objectives"]] == [o.type for o in one.objectives]
        assert (receipt["steps"], receipt["tokens"]) == (2, result.tokens[one.name])
        files = {
            path.relative_to(folder / "final").as_posix() for path in (folder / "final").rglob("*") if path.is_file()
        }
        assert set(receipt["files"]) == files - {RECEIPT}
        assert all(hash_file(folder / "final" / name) == known for name, known in receipt["files"].items())
        model = AutoModelForMaskedLM.from_pretrained(folder / "final")
        assert receipt["parameters"] == sum(parameter.numel() for parameter in model.parameters())
        assert not (folder / "final.partial").exists()


def test_a_student_of_several_teachers_has_a_tokenizer_per_language(world: World, tmp_path: Path) -> None:
    job = jobs(world, tmp_path)["union"]
    StudentWorker().run(job)
    final = job.folder("ann") / "final"
    vocabulary = open_vocabulary(job.vocabularies["ann"])
    for language, teacher in ROUTES.items():
        text = world.corpus.texts(language, "held_out", 0, 1)[0]
        tokenizer = AutoTokenizer.from_pretrained(final / "tokenizers" / language)
        own = AutoTokenizer.from_pretrained(world.facts[teacher].section.model)
        expected = vocabulary.map(teacher)[own(text)["input_ids"]]
        assert tokenizer(text)["input_ids"] == [i if i >= 0 else vocabulary.special["unk"] for i in expected.tolist()]


def test_an_export_that_a_kill_left_half_done_is_made_anew(world: World, tmp_path: Path) -> None:
    job = make_job(world, tmp_path, student("ann", "aa"), steps=1)
    partial = job.folder("ann") / "final.partial"
    partial.mkdir(parents=True)
    (partial / "config.json").write_text("{")
    (partial / "stray").write_text("x")
    first = StudentWorker().run(job)
    final = job.folder("ann") / "final"
    before = {path.name: path.read_bytes() for path in final.iterdir() if path.suffix == ".safetensors"}
    (final / RECEIPT).unlink()
    again = StudentWorker().run(job)
    assert isinstance(first, GroupResult)
    assert again.tokens == first.tokens
    assert not (final / "stray").exists()
    assert (final / RECEIPT).exists()
    for name, data in before.items():
        assert (final / name).read_bytes() == data


def test_a_damaged_vocabulary_is_named(world: World, tmp_path: Path) -> None:
    copied = tmp_path / "vocab"
    shutil.copytree(world.vocabularies["aa"], copied)
    flipped = copied / "maps" / "mixed.npy"
    flipped.write_bytes(flipped.read_bytes()[:-1] + b"\x01")
    job = replace(make_job(world, tmp_path, student("ann", "aa")), vocabularies={"ann": copied})
    with pytest.raises(StoreError, match=str(flipped)):
        StudentWorker().run(job)
