"""Checkpoints are described, loaded and exported as transformers would, or refused in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM

from orchestrator.errors import DataError
from orchestrator.models.checkpoints import CheckpointInfo, describe_checkpoint, weights_hash
from orchestrator.models.export import export_student
from orchestrator.models.loading import load_encoder
from tests.models.tiny import ARCHITECTURES, VOCAB_SIZE, build, padded_batch

BATCH = padded_batch(9, 4, 7)
SHARED = Path(__file__).resolve().parents[2].parent / "shared"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    export_student(build("bert"), tmp_path / "bert")
    return tmp_path / "bert"


def _edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tie_head", [True, False])
@torch.no_grad()
def test_an_export_is_an_ordinary_checkpoint(architecture: str, tie_head: bool, tmp_path: Path) -> None:
    student = build(architecture, tie_head=tie_head)
    export_student(student, tmp_path)
    ids, mask = BATCH
    expected = student.model(input_ids=ids, attention_mask=mask).logits
    plain = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(plain(input_ids=ids, attention_mask=mask).logits, expected, rtol=0, atol=0)
    loaded = load_encoder(str(tmp_path), need_head=True)
    torch.testing.assert_close(loaded.model(input_ids=ids, attention_mask=mask).logits, expected, rtol=0, atol=0)
    assert not loaded.training
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_description_needs_no_loading(architecture: str, tmp_path: Path) -> None:
    student = build(architecture)
    export_student(student, tmp_path)
    info = describe_checkpoint(str(tmp_path))
    num_parameters = sum(p.numel() for p in student.parameters())
    width = student.word_embeddings.embedding_dim
    windows = tuple(student.window(layer) for layer in (1, 2, 3))
    assert info == CheckpointInfo(architecture, 3, 32, 4, VOCAB_SIZE, True, num_parameters, width, windows)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@torch.no_grad()
def test_a_checkpoint_without_head(architecture: str, tmp_path: Path) -> None:
    whole = build(architecture)
    bare = AutoModel.from_config(whole.model.config)
    bare.load_state_dict(whole.base.state_dict(), strict=False)
    bare.save_pretrained(tmp_path)
    assert not describe_checkpoint(str(tmp_path)).has_head
    with pytest.raises(DataError, match="has no masked-language-model head"):
        load_encoder(str(tmp_path), need_head=True)
    loaded = load_encoder(str(tmp_path), need_head=False)
    assert not loaded.has_head
    torch.testing.assert_close(loaded(*BATCH, states=()).last, whole(*BATCH, states=()).last, rtol=0, atol=0)


def test_a_head_that_lacks_only_its_decoder_is_noticed(tmp_path: Path) -> None:
    export_student(build("bert", tie_head=False), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["cls.predictions.decoder.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"it lacks 'cls.predictions.decoder.weight'"):
        load_encoder(str(tmp_path), need_head=True)


def test_a_lost_layer_is_noticed(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "layer.2." not in name}
    save_file(kept, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"lacks 16 weight\(s\) of its encoder, such as 'bert.encoder.layer.2"):
        load_encoder(str(checkpoint), need_head=False)


def test_number_formats(checkpoint: Path) -> None:
    loaded = load_encoder(str(checkpoint), dtype="bfloat16", need_head=True)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load_encoder(str(checkpoint), need_head=True).parameters()} == {torch.float32}


def test_nothing_is_printed(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    AutoModel.from_pretrained(checkpoint).save_pretrained(checkpoint / "bare")
    capfd.readouterr()
    load_encoder(str(checkpoint), need_head=True)
    load_encoder(str(checkpoint / "bare"), need_head=False)
    assert capfd.readouterr() == ("", "")


def test_weights_hash_is_of_the_content(checkpoint: Path, tmp_path: Path) -> None:
    first = weights_hash(str(checkpoint))
    export_student(build("bert"), tmp_path / "same")
    assert weights_hash(str(tmp_path / "same")) == first
    export_student(build("bert", seed=1), tmp_path / "other")
    assert weights_hash(str(tmp_path / "other")) != first
    _edit_config(checkpoint, layer_norm_eps=1e-3)
    assert weights_hash(str(checkpoint)) != first


def test_sharded_weights(checkpoint: Path, tmp_path: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(checkpoint)
    model.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert describe_checkpoint(str(tmp_path / "shards")) == describe_checkpoint(str(checkpoint))
    assert len(weights_hash(str(tmp_path / "shards"))) == 32
    load_encoder(str(tmp_path / "shards"), need_head=True)


def test_pickled_weights_are_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    torch.save({}, checkpoint / "pytorch_model.bin")
    for act in (lambda path: load_encoder(path, need_head=True), describe_checkpoint, weights_hash):
        with pytest.raises(DataError, match=r"has no safetensors weights \(model.safetensors\); load the model"):
            act(str(checkpoint))


def test_damaged_files(checkpoint: Path) -> None:
    weights = checkpoint / "model.safetensors"
    content = weights.read_bytes()
    for damaged in (content[:100], b"", b"\xff" * 64, content[:8] + b"[]" + content[10:]):
        weights.write_bytes(damaged)
        with pytest.raises(DataError, match="not a readable safetensors file"):
            load_encoder(str(checkpoint), need_head=True)
    weights.write_bytes(content[:-100])
    with pytest.raises(DataError, match="the checkpoint cannot be loaded"):
        load_encoder(str(checkpoint), need_head=True)
    weights.write_bytes(content)
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(DataError, match=r"config.json is not valid JSON"):
        describe_checkpoint(str(checkpoint))
    (checkpoint / "config.json").unlink()
    with pytest.raises(DataError, match=r"config.json is missing"):
        describe_checkpoint(str(checkpoint))


def test_sizes_that_contradict_the_weights(checkpoint: Path) -> None:
    _edit_config(checkpoint, intermediate_size=64)
    with pytest.raises(DataError, match="the checkpoint cannot be loaded"):
        load_encoder(str(checkpoint), need_head=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "model_type 'gpt2', which is not supported; supported are bert, camembert"),
        ({"hidden_size": "wide"}, "hidden_size = 'wide', expected a positive number"),
    ],
)
def test_unusable_configurations(checkpoint: Path, changes: dict[str, object], words: str) -> None:
    _edit_config(checkpoint, **changes)
    with pytest.raises(DataError, match=words):
        describe_checkpoint(str(checkpoint))


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such folder; give a folder with a model, or its name on the hub"):
        load_encoder(str(tmp_path / "nowhere"), need_head=True)


def test_a_hub_name_that_nobody_delivers(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    with pytest.raises(
        DataError, match="'someone/model' at revision 'abc' is neither a folder nor a model that the hub"
    ):
        load_encoder("someone/model", revision="abc", need_head=True)
    with pytest.raises(DataError, match="neither a folder nor"):
        weights_hash("someone/model")


def test_a_hub_name_is_its_cached_snapshot(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def cached(name: str, *, revision: str | None, local_files_only: bool) -> str:
        asked.append((name, revision, local_files_only))
        return str(checkpoint)

    monkeypatch.setattr("huggingface_hub.snapshot_download", cached)
    assert weights_hash("someone/model", revision="abc") == weights_hash(str(checkpoint))
    assert load_encoder("someone/model", revision="abc", need_head=True).depth == 3
    assert set(asked) == {("someone/model", "abc", True)}


def test_a_hub_model_is_described_from_headers_and_then_fetched(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    shutil.copy(checkpoint / "config.json", snapshot)

    def download(name: str, *, local_files_only: bool = False, **_: object) -> str:
        if not local_files_only:
            shutil.copy(checkpoint / "model.safetensors", snapshot)
        return str(snapshot)

    tensors = {
        name: SimpleNamespace(shape=list(weight.shape))
        for name, weight in load_file(checkpoint / "model.safetensors").items()
    }
    metadata = SimpleNamespace(files_metadata={"model.safetensors": SimpleNamespace(tensors=tensors)})
    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: str(snapshot / "config.json"))
    monkeypatch.setattr("huggingface_hub.get_safetensors_metadata", lambda *_, **__: metadata)
    assert describe_checkpoint("someone/model") == describe_checkpoint(str(checkpoint))
    assert not (snapshot / "model.safetensors").exists()
    assert load_encoder("someone/model", need_head=True).has_head


@pytest.mark.shared
@pytest.mark.skipif(not (SHARED / "models").is_dir(), reason="the checkpoints are not beside the project")
def test_real_checkpoints() -> None:
    path = str(SHARED / "models" / "english-mlm-6x384")
    expected = CheckpointInfo("bert", 6, 384, 12, 30_522, True, 22_744_506, 384, (None,) * 6)
    assert describe_checkpoint(path) == expected
    encoder = load_encoder(path, need_head=True)
    assert (encoder.depth, encoder.width, encoder.vocab_size, encoder.max_positions) == (6, 384, 30_522, 512)
    with torch.no_grad():
        ids, mask = torch.tensor([[101, 1996, 103, 2938, 2006, 1996, 13523, 102]]), torch.ones(1, 8)
        states = encoder.head_states(encoder(ids, mask, states=()).last)
        ours = torch.nn.functional.linear(states, encoder.decoder_weight, encoder.decoder_bias)
        torch.testing.assert_close(ours, encoder.model(input_ids=ids, attention_mask=mask).logits, rtol=0, atol=1e-4)
