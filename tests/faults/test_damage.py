"""One flipped bit anywhere, a file cut short, missing, in another's place or too many: noticed, and named."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from orchestrator.errors import OrchError
from orchestrator.signals import Store
from orchestrator.students import checkpoint as checkpoints
from tests.faults.conftest import Note
from tests.faults.figures import SEED, size
from tests.signals.samples import full_store
from tests.students import test_checkpoint as samples
from tests.vocab_tools.tiny import make_tokenizer
from vocab_tools.build import VocabularySource, build_vocabulary
from vocab_tools.errors import VocabularyError
from vocab_tools.mapping import open_vocabulary

pytestmark = pytest.mark.timeout(1800)  # seconds when nobody else computes

_clock = itertools.count(1)


@dataclass(frozen=True)
class Kept:
    """Files that are kept, and who reads them; `read` gives every sentence of complaint."""

    folder: Path
    files: tuple[str, ...]
    read: Callable[[], list[str]]


def complaints(*readers: Callable[[], object]) -> list[str]:
    found = []
    for reader in readers:
        try:
            said = reader()
        except (OrchError, VocabularyError) as error:
            found.append(str(error))
        else:
            found += [str(line) for line in said] if isinstance(said, list) else []
    return found


def stored(folder: Path, *files: str) -> Kept:
    made = full_store(folder).folder
    return Kept(made, files, lambda: complaints(lambda: Store.open(made).verify()))


def saved(folder: Path) -> Kept:
    samples.save(folder, 7)
    files = tuple(f"step-00000007/{name}" for name in ("model.safetensors", "optimizer.safetensors", "state.json"))
    return Kept(folder, files, lambda: complaints(lambda: checkpoints.load(folder, 7, fingerprint="f")))


def mapped(folder: Path) -> Kept:
    folder.mkdir()
    teacher = make_tokenizer("wordpiece-cased", folder / "teacher")
    build_vocabulary([VocabularySource("teacher", teacher)], folder / "vocabulary")
    made = folder / "vocabulary"
    return Kept(
        made,
        ("mapping.json", "vocab.json", "maps/teacher.npy", "tokenizers/teacher/tokenizer.json"),
        lambda: complaints(lambda: open_vocabulary(made).verify()),
    )


KINDS: dict[str, Callable[[Path], Kept]] = {
    "shard": lambda folder: stored(
        folder, *(f"shards/000001/{table}.arrow" for table in ("texts", "tokens", "masked", "topk_004", "hidden_03"))
    ),
    "receipt": lambda folder: stored(folder, *(f"shards/00000{index}.json" for index in range(4))),
    "manifest": lambda folder: stored(folder, "manifest.json"),
    "checkpoint": saved,
    "mapping": mapped,
}


def alter(path: Path, data: bytes) -> None:
    """Overwrite, with a time that no earlier version had."""
    path.write_bytes(data)
    os.utime(path, ns=(0, next(_clock) * 10**9))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_flipped_bit_is_noticed_and_its_file_named(tmp_path: Path, note: Note, kind: str) -> None:
    kept = KINDS[kind](tmp_path / "kept")
    assert kept.read() == []
    random = np.random.default_rng([SEED, len(kind)])
    contents = {name: (kept.folder / name).read_bytes() for name in kept.files}
    unseen, num_flips = [], size(40, 2000)
    for flip in range(num_flips):
        name = kept.files[flip % len(kept.files)]
        data = bytearray(contents[name])
        at, bit = int(random.integers(len(data))), int(random.integers(8))
        data[at] ^= 1 << bit
        alter(kept.folder / name, bytes(data))
        if not any(str(kept.folder / name) in line for line in kept.read()):
            unseen.append((name, at, bit))
        alter(kept.folder / name, contents[name])
    assert unseen == []
    assert kept.read() == []
    note("every damage is noticed", f"{kind}: {num_flips} of {num_flips} flipped bits noticed, the file named")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_files_cut_missing_or_swapped_are_noticed(tmp_path: Path, note: Note, kind: str) -> None:
    """Extra files: tests/signals/test_damage.py; a checkpoint or vocabulary lists its files and reads no other."""
    kept = KINDS[kind](tmp_path / "kept")
    others = [*kept.files[1:], kept.files[0]]
    num_damages = 0
    for name, other in zip(kept.files, others, strict=True):
        path = kept.folder / name
        sound = path.read_bytes()
        damages = [sound[:-1], sound[: len(sound) // 2], b"", None, sound + b"\0"]
        for damage in [*damages, (kept.folder / other).read_bytes()] if other != name else damages:
            path.unlink() if damage is None else alter(path, damage)
            assert any(str(path) in line or str(path.parent) in line for line in kept.read()), (name, damage)
            alter(path, sound)
            num_damages += 1
    assert kept.read() == []
    note("every damage is noticed", f"{kind}: {num_damages} of {num_damages} cuts, losses and swaps noticed")


def test_two_checkpoints_in_each_others_place_are_noticed(tmp_path: Path) -> None:
    samples.save(tmp_path, 1, 2)
    for source, target in (("1", "aside"), ("2", "1"), ("aside", "2")):
        shutil.move(tmp_path / f"step-0000000{source}", tmp_path / f"step-0000000{target}")
    for step in (1, 2):
        (line,) = complaints(lambda step=step: checkpoints.load(tmp_path, step, fingerprint="f"))
        assert str(tmp_path / f"step-0000000{step}") in line
