"""The one module for durable writes: what it leaves on disk when all goes well, and when the disk refuses."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import StorageError
from orchestrator.storage import local as storage


class Recorder(storage.Disk):
    """Notes the order of calls, and takes at most `most` bytes per write, as a real disk may."""

    def __init__(self, most: int = 1 << 30) -> None:
        self.calls: list[str] = []
        self.most = most

    def write(self, descriptor: int, data: memoryview) -> int:
        self.calls.append("write")
        return super().write(descriptor, data[: self.most])

    def sync(self, descriptor: int) -> None:
        self.calls.append("sync")
        super().sync(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        assert source.parent == target.parent, "a rename across folders may not be atomic"
        self.calls.append("rename")
        super().rename(source, target)

    def sync_folder(self, folder: Path) -> None:
        self.calls.append("sync_folder")
        super().sync_folder(folder)


class Refusing(storage.Disk):
    """Raises `code` from the method called `method`."""

    def __init__(self, method: str, code: int) -> None:
        def refuse(*_: object) -> int:
            raise OSError(code, os.strerror(code))

        setattr(self, method, refuse)


def test_a_commit_is_write_fsync_rename_fsync_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(storage, "disk", recorder)
    storage.write_bytes(tmp_path / "a", b"text")
    assert recorder.calls == ["write", "sync", "rename", "sync_folder"]
    assert (tmp_path / "a").read_bytes() == b"text"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "disk", Recorder(most=3))
    storage.write_bytes(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


@given(st.lists(st.binary(max_size=50), max_size=8))
@settings(max_examples=30, deadline=None)
def test_the_running_hash_is_that_of_the_file(tmp_path_factory: pytest.TempPathFactory, parts: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("hash") / "a"
    with storage.open_write(path) as file:
        for part in parts:
            assert file.write(part) == len(part)
    whole = b"".join(parts)
    assert (file.num_bytes, path.read_bytes()) == (len(whole), whole)
    assert file.hash == storage.hash_file(path) == storage.hash_bytes(whole) == xxhash.xxh3_128_hexdigest(whole)


def test_buffers_of_any_shape_and_type_are_written_as_they_lie_in_memory(tmp_path: Path) -> None:
    import numpy as np

    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    with storage.open_write(tmp_path / "a") as file:
        file.write(values.data)
    assert np.array_equal(np.fromfile(tmp_path / "a", np.float32).reshape(3, 4), values)
    assert file.num_bytes == 48


def test_missing_folders_are_made_durably_and_the_file_mode_follows_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(storage, "disk", recorder)
    path = tmp_path / "a/b/c"
    storage.write_bytes(path, b"1")
    assert recorder.calls == ["sync_folder"] * 2 + ["write", "sync", "rename", "sync_folder"]
    mask = os.umask(0)
    os.umask(mask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("before", [None, b"old"])
def test_a_block_that_raises_leaves_what_was_there(tmp_path: Path, before: bytes | None) -> None:
    path = tmp_path / "a"
    if before is not None:
        path.write_bytes(before)

    def write_half() -> None:
        with storage.open_write(path) as file:
            file.write(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        write_half()
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([] if before is None else [before])


@pytest.mark.parametrize("method", ["open", "write", "sync", "close", "rename"])
@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "the disk is full (0.0 MB free); make room and run the same command again"),
        (errno.EIO, "check the disk, then run the same command again"),
        (errno.EROFS, "choose another folder"),
    ],
)
def test_a_refusal_keeps_the_old_file_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, code: int, advice: str
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(storage, "disk", Refusing(method, code))
    monkeypatch.setattr(storage, "free_bytes", lambda _: 0)
    with pytest.raises(StorageError) as caught:
        storage.write_bytes(path, b"new")
    assert str(path) in str(caught.value)
    assert advice in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"old"]


def test_a_folder_where_a_file_stands_is_an_error_for_people(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(StorageError, match=r"a cannot be made: "):
        storage.write_bytes(tmp_path / "a" / "b", b"")


def test_read_bytes_keeps_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert storage.read_bytes(path, max_bytes=5) == b"12345"
    assert storage.read_bytes(path, max_bytes=1 << 50) == b"12345"  # the limit itself takes no memory
    with pytest.raises(StorageError, match="a has 5 bytes where at most 4 are expected"):
        storage.read_bytes(path, max_bytes=4)
    with pytest.raises(StorageError, match="b cannot be read: there is no such file"):
        storage.read_bytes(tmp_path / "b", max_bytes=4)
    with pytest.raises(StorageError, match="there is no such file"):
        storage.hash_file(tmp_path / "b")


def test_lines_are_added_whole_and_a_torn_one_spoils_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "metrics.jsonl"
    storage.append_line(path, "one")
    storage.append_line(path, "zwei – ")
    path.write_bytes(path.read_bytes() + b'{"torn": 1')
    storage.append_line(path, "three")
    assert path.read_text(encoding="utf-8").split("\n") == ["one", "zwei – ", '{"torn": 1', "three", ""]
    with pytest.raises(AssertionError):
        storage.append_line(path, "a\nb")


def test_what_a_kill_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "shards/000001").mkdir(parents=True)
    keep = ["manifest.json", "a.tmp-1", "a.tmp-x-00000000", "shards/000001/tokens.arrow"]
    left = ["manifest.json.tmp-12-0123abcd", "shards/000001/tokens.arrow.tmp-7-ffffffff"]
    for name in keep + left:
        (tmp_path / name).write_bytes(b"")
    assert storage.remove_temporaries(tmp_path) == 2
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == sorted(keep)
    assert storage.remove_temporaries(tmp_path / "nothing here") == 0


def test_a_file_state_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert storage.file_state(path) is None
    path.write_bytes(b"12")
    before = storage.file_state(path)
    assert before is not None
    assert (before.path, before.num_bytes, before) == (path, 2, storage.file_state(path))
    os.utime(path, ns=(0, before.modified_ns + 1))
    assert storage.file_state(path) != before


def test_free_bytes_of_a_path_yet_to_be_made(tmp_path: Path) -> None:
    assert storage.free_bytes(tmp_path / "x" / "y") > 0
