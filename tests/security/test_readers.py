"""What readers refuse, by name: bombs, foreign code, paths that lead out, pipes, and files that only look small."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from orchestrator.arrow import read_batches
from orchestrator.config.loading import load_config
from orchestrator.config.reading import read_mapping, read_value, read_yaml
from orchestrator.errors import ConfigError, DataError, OrchError, StorageError, StoreError
from orchestrator.models.checkpoints import describe_checkpoint, weights_folder
from orchestrator.models.loading import load_encoder
from orchestrator.models.tokenizers import load_tokenizer
from orchestrator.storage import file_state, hash_bytes, hash_file, read_bytes
from orchestrator.students import checkpoint as checkpoints
from tests.students.test_checkpoint import save
from vocab_tools.errors import VocabularyError
from vocab_tools.files import hash_file as hash_of_vocabulary
from vocab_tools.files import read_map

# --- YAML ----------------------------------------------------------------------------------------------------------

LAUGHS = "a: &a [ha, ha, ha, ha, ha, ha, ha, ha, ha]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]\n" for last, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{last}'] * 9)}], y{name}: 1}}\n"
    for last, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LAUGHS, "more than 10,000 values"),
        (MERGES, "more than 10,000 values"),
        ("a: &a [*a]", "stands within what it names"),
        ("a: " + "[" * 40_000, "nested too deeply"),
        ("a: " + "9" * 5000, "is not YAML"),
        ("a: !!int many", "is not YAML"),
        ("a: 2001-99-99", "is not YAML"),
        ("? [a, b]\n: 1", "a key must be one word"),
        ("a: !!python/object/apply:os.system [touch pwned]", "could not determine a constructor"),
        ("a: !!python/name:os.system", "could not determine a constructor"),
        ("a: s3://AKIAIOSFODNN7EXAMPLE:wJalrXUtnFEMI/K7MDENG@bucket/x", "holds a password"),
        ("a: {b: ['s3://bucket/x?secret_key=wJalrXUtnFEMI']}", "holds a password"),
    ],
)
def test_yaml_that_is_refused(text: str, reason: str) -> None:
    for read in (lambda: read_mapping(text, where="orch.yaml"), lambda: read_value(text, where="--set a")):
        with pytest.raises(ConfigError) as caught:
            read()
        assert reason in str(caught.value) or "the value is not YAML" in str(caught.value)
        assert "wJalrXUtnFEMI" not in str(caught.value)


def test_a_few_aliases_are_what_they_are_for(tmp_path: Path) -> None:
    assert read_mapping("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]", where="x") == {
        "a": {"x": 1},
        "b": {"x": 1, "y": 2},
        "c": [{"x": 1}, {"x": 1}],
    }


def test_a_configuration_is_small_and_finite(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    large.write_text("# " + "x" * 300_000)
    with pytest.raises(ConfigError, match="at most 262144"):
        read_yaml(large)
    config = tmp_path / "nan.yaml"
    config.write_text("corpus: {languages: {en: a.txt}}\nteachers: {t: {model: m, languages: [en]}}\n")
    for value in (".nan", ".inf", "1e999"):
        with pytest.raises(ConfigError, match="learning_rate"):
            load_config(config, overrides=["objectives=[{type: masked-lm}]", f"training.learning_rate={value}"])


# --- Arrow ---------------------------------------------------------------------------------------------------------

_SCHEMA = pa.schema([pa.field("values", pa.list_(pa.field("item", pa.int8(), nullable=False), 64), nullable=False)])


def test_a_compressed_file_is_refused_before_it_is_unpacked() -> None:
    """A gigabyte of zeros in a few kilobytes."""
    flat = pa.array(np.zeros(1 << 30, np.int8))
    batch = pa.record_batch([pa.FixedSizeListArray.from_arrays(flat, type=_SCHEMA.field(0).type)], schema=_SCHEMA)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, _SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(batch)
    del flat, batch
    file = sink.getvalue()
    assert file.size < 1 << 18
    before = pa.total_allocated_bytes()
    with pytest.raises(ValueError, match="compressed"):
        read_batches(file, _SCHEMA)
    assert pa.total_allocated_bytes() - before < 1 << 20


def test_text_that_is_none_is_refused() -> None:
    """Arrow itself reads offsets beyond the text; they would crash whoever touches it."""
    schema = pa.schema([pa.field("text", pa.string(), nullable=False)])
    for offsets, text in (([0, 4, 1 << 30], b"abcd"), ([0, 2, 1], b"abcd"), ([0, 2, 4], b"ab\xff\xfe")):
        buffers = [None, pa.py_buffer(np.array(offsets, np.int32)), pa.py_buffer(text)]
        sink = pa.BufferOutputStream()
        try:
            array = pa.Array.from_buffers(pa.string(), 2, buffers)
            with pa.ipc.new_file(sink, schema) as writer:
                writer.write_batch(pa.record_batch([array], schema=schema))
        except pa.ArrowException:
            continue  # so wrong that it cannot even be written
        with pytest.raises(ValueError, match=r"."):
            read_batches(sink.getvalue(), schema)


# --- checkpoints: no pickle, no code -------------------------------------------------------------------------------


def test_a_checkpoint_of_pickles_is_refused_in_one_sentence(made_project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(made_project / "teachers" / "english", folder)
    (folder / "model.safetensors").unlink()
    torch.save({"x": _Pickled(tmp_path / "ran")}, folder / "pytorch_model.bin")
    for read in (describe_checkpoint, weights_folder, lambda path: load_encoder(path, need_head=True)):
        with pytest.raises(DataError, match="has no safetensors weights") as caught:
            read(str(folder))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


class _Pickled:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_code_that_a_checkpoint_names_is_not_run(made_project: Path, tmp_path: Path) -> None:
    """`auto_map`, and Python files beside it, are left alone: the architecture is one of ours, or it is refused."""
    folder = tmp_path / "teacher"
    shutil.copytree(made_project / "teachers" / "english", folder)
    (folder / "modeling_evil.py").write_text(f"import pathlib; pathlib.Path({str(tmp_path / 'ran')!r}).touch()\n")
    code = {"AutoModelForMaskedLM": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"}
    for file, auto_map in (
        ("config.json", code),
        ("tokenizer_config.json", {"AutoTokenizer": ["modeling_evil.Evil", "modeling_evil.Evil"]}),
    ):
        path = folder / file
        path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))
    assert load_encoder(str(folder), need_head=True).has_head
    assert load_tokenizer(str(folder)).mask_token == "[MASK]"
    (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": code}))
    with pytest.raises(DataError, match="model_type 'evil', which is not supported"):
        load_encoder(str(folder), need_head=True)
    assert not (tmp_path / "ran").exists()


def test_no_source_unpickles_or_trusts() -> None:
    """By the source itself: no pickle, no `torch.load`, no code of strangers, no YAML but the safe one."""
    root = Path(__file__).resolve().parents[2]
    sources = {
        path: path.read_text(encoding="utf-8")
        for path in [*root.glob("orchestrator/**/*.py"), *root.glob("vocab_tools/**/*.py")]
    }
    words = ("import pickle", "torch.load(", "allow_pickle=True", "trust_remote_code=True", "import dill", "joblib")
    words += ("yaml.unsafe", "yaml.FullLoader", "os.system(", "shell=True", "exec(", "weights_only=False")
    for path, text in sources.items():
        assert not [word for word in words if word in text], path
        for number, line in enumerate(text.splitlines(), 1):
            if "Auto" in line and ".from_pretrained(" in line and "folder)" not in line:
                following = "\n".join(text.splitlines()[number - 1 : number + 8])
                assert "trust_remote_code=False" in following, f"{path}, line {number}"


# --- files that lead elsewhere -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../outside.safetensors", "/outside.safetensors", "a/../../b.safetensors"])
def test_a_checkpoint_names_no_file_elsewhere(tmp_path: Path, name: str) -> None:
    save(tmp_path, 7)
    path = tmp_path / "step-00000007" / "state.json"
    tree = json.loads(path.read_text()) | {"checksum": ""}
    tree["files"] = {name: hash_file(tmp_path / "step-00000007" / "model.safetensors")}
    tree["checksum"] = hash_bytes(json.dumps(tree, separators=(",", ":")).encode())
    path.write_text(json.dumps(tree))
    with pytest.raises(StoreError, match=r"state\.json is damaged"):
        checkpoints.load(tmp_path, 7, fingerprint="f")


def test_an_index_of_weights_names_no_file_elsewhere(made_project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(made_project / "teachers" / "english", folder)
    (folder / "model.safetensors").rename(tmp_path / "other.safetensors")
    index = {"weight_map": {"bert.x": "../other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"names the file '../other.safetensors'"):
        describe_checkpoint(str(folder))


def test_reading_ends(tmp_path: Path) -> None:
    """Pipes and devices have no end."""
    pipe, device = tmp_path / "pipe", tmp_path / "device"
    os.mkfifo(pipe)
    device.symlink_to("/dev/zero")
    for path in (pipe, device, tmp_path):
        for read in (hash_file, file_state, partial(read_bytes, max_bytes=10)):
            with pytest.raises(StorageError, match="no ordinary file"):
                read(path)
        with pytest.raises(VocabularyError, match="no ordinary file"):
            hash_of_vocabulary(path)


def test_a_map_that_promises_more_than_it_has(tmp_path: Path) -> None:
    path = tmp_path / "map.npy"
    np.save(path, np.arange(10, dtype=np.int32))
    assert read_map(path).tolist() == list(range(10))
    data = path.read_bytes()
    path.write_bytes(data.replace(b"(10,), }        ", b"(1000000000000,)"))
    with pytest.raises(VocabularyError, match="is no id map"):
        read_map(path)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(VocabularyError, match="is no id map"):
        read_map(path)


def test_errors_stay_sentences() -> None:
    """What a stranger's file says reaches a terminal as words, not as commands to it."""
    from orchestrator.commands import _CONTROLS

    assert "\x1b[31mred\x07\n".translate(_CONTROLS) == "\ufffd[31mred\ufffd\n"
    assert str(OrchError("at https://me:secret@host")) == "at https://***@host"
