"""Places by URL against an S3 server on loopback: commits, leases, copies within a limit, and what goes wrong."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest

from orchestrator import storage
from orchestrator.config.loading import parse_section
from orchestrator.config.run import RunSection
from orchestrator.errors import ClusterError, ConfigError, StorageError, StoreError
from orchestrator.locking import lock_run, writer_of
from orchestrator.records import SignalRequest
from orchestrator.signals import Store, store_folder
from orchestrator.signals.manifest import read_receipt
from orchestrator.storage import CacheOptions, RemotePath, cache, leases, local, remote
from tests.faults.disks import Crash, FaultyDisk
from tests.s3_server import BUCKET, S3Server, damage, objects, serving
from tests.signals.samples import FINGERPRINT, contents, full_store, hidden, make_store, make_tables, units

SMALL = SignalRequest(top_k=4, states=hidden(3))
PLAN = units(texts=1, per_shard=1)  # one shard of each of two languages


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with pytest.MonkeyPatch.context() as patch, serving(patch, tmp_path_factory.mktemp("cache")) as server:
        yield server


@pytest.fixture
def server(running: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    running.reset()
    monkeypatch.setenv("ORCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(local, "disk", FaultyDisk())  # no real fsync
    return running


@pytest.fixture
def root(server: S3Server) -> RemotePath:
    found = storage.place(f"s3://{BUCKET}/some/prefix/")
    assert isinstance(found, RemotePath)
    return found


def put(path: RemotePath, data: bytes) -> str:
    """An object that is in no cache, and its hash."""
    storage.write_bytes(path, data)
    return storage.hash_bytes(data)


def read(path: RemotePath, size: int, expected: str) -> bytes:
    return storage.use_local(path, Path.read_bytes, num_bytes=size, hash=expected)


def cached(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "files").iterdir())


def test_places(tmp_path: Path) -> None:
    assert storage.place(f"file://{tmp_path}/a") == tmp_path / "a"
    assert storage.place("runs/mine") == Path("runs/mine")
    place = storage.place("s3://bucket//a/b/")
    assert isinstance(place, RemotePath)
    assert (str(place), str(place.parent), place.name) == ("s3://bucket/a/b", "s3://bucket/a", "b")
    assert pickle.loads(pickle.dumps(place)) == place
    assert str((place / "c/000001.json").with_suffix("")) == "s3://bucket/a/b/c/000001"
    for wrong in ("ftp://bucket/a", "s3://", "file://host/a", "s3://bucket/a?b=1"):
        with pytest.raises(StorageError, match=r"is no place for files; write file:///folder, s3://bucket/prefix"):
            storage.place(wrong)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(StorageError) as refused:
        storage.place("s3://user:hidden@bucket/a")
    assert "hidden" not in str(refused.value)
    for key in ("stores", "root"):
        with pytest.raises(ConfigError, match=f"{key}: give") as refused_config:
            parse_section(RunSection, {key: "s3://user:hidden@bucket/a"}, where="orch.yaml")
        assert "hidden" not in str(refused_config.value)


def test_the_run_itself_is_on_this_machine() -> None:
    with pytest.raises(ConfigError, match=r"root: give a folder of this machine; only run\.stores can be on an object"):
        parse_section(RunSection, {"root": "s3://bucket/a"}, where="orch.yaml")
    for good in ("s3://bucket", "gs://bucket/a/b", "file:///a", "runs/mine"):
        assert parse_section(RunSection, {"stores": good}, where="orch.yaml").stores == good


def test_an_object_appears_whole_or_not_at_all(root: RemotePath, tmp_path: Path) -> None:
    def stop() -> None:
        with storage.open_write(root / "a") as file:
            file.write(b"half")
            raise Crash

    with pytest.raises(Crash):
        stop()
    assert objects() == {}
    with storage.open_write(root / "a") as file:
        file.write(b"whole")
    assert objects() == {"some/prefix/a": b"whole"}
    assert (file.num_bytes, file.hash) == (5, storage.hash_bytes(b"whole"))
    assert not list((tmp_path / "cache" / "partial").iterdir())


def test_a_large_object_is_put_in_parts_that_appear_together(
    root: RemotePath, server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s3fs.core.calculate_chunksize", lambda size, chunksize=None: 5 << 20)
    data = os.urandom(11 << 20)
    with storage.open_write(root / "large") as file:
        file.write(data)
    assert sum(method == "PUT" for method, _ in server.requests) == 3
    assert objects()["some/prefix/large"] == data
    server.before = lambda method, path: "403 Forbidden" if method == "PUT" else None
    with pytest.raises(StorageError, match="access is denied"), storage.open_write(root / "other") as file:
        file.write(data)
    assert list(objects()) == ["some/prefix/large"]


def test_looking_around(root: RemotePath, server: S3Server) -> None:
    for name in ("a/x.json", "a/y.arrow", "b/deep/z.arrow", "c"):
        storage.write_bytes(root / name, b"1")

    def look() -> list[object]:
        assert storage.file_state(root / "none") is None
        return [
            [path.name for path in root.iterdir()],
            [str(path) for path in storage.matching(root, "*/*.arrow")],
            [str(path) for path in storage.matching(root, "**/*")],
            [(root / name).exists() for name in ("a", "c", "none", "a/x.json")],
            [(root / name).is_dir() for name in ("a", "c", "none")],
            storage.file_state(root / "c"),
        ]

    seen = look()
    assert seen[0] == ["a", "b", "c"]
    assert seen[1] == [f"{root}/a/y.arrow"]
    assert seen[2] == [f"{root}/{name}" for name in ("a/x.json", "a/y.arrow", "b/deep/z.arrow", "c")]
    assert seen[3] == [False, True, False, True]
    assert seen[4] == [True, False, False]
    with storage.listed(root):
        server.requests.clear()
        assert look() == seen
        assert server.requests == []


def test_a_log_is_an_object_per_line(root: RemotePath) -> None:
    assert storage.read_lines(root / "log") == []
    for text in ("one", "two", "three"):
        storage.append_line(root / "log", text)
    assert storage.read_lines(root / "log") == ["one", "two", "three"]


def test_a_folder_is_there_when_its_list_is(root: RemotePath, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("vocab.json", "maps/a.npy"):
        storage.write_bytes(source / name, name.encode())
    storage.put_folder(source, root / "v")
    assert storage.has_folder(root / "v")
    storage.fetch_folder(root / "v", tmp_path / "target")
    assert contents(tmp_path / "target") == contents(source)
    damage("some/prefix/v/maps/a.npy")
    with pytest.raises(StoreError, match=r"v/maps/a\.npy is damaged"):
        storage.fetch_folder(root / "v", tmp_path / "again")
    assert list(storage.folder_problems(root / "v")) != []
    assert not list(tmp_path.glob("again*"))
    storage.write_bytes(root / "v" / "folder.json", b'{"files": {"../../leak": "00"}}')
    with pytest.raises(StoreError, match="leads out of it"):
        storage.fetch_folder(root / "v", tmp_path / "again")


class TestStore:
    """A signal store on the server."""

    def test_is_the_store_on_a_disk(self, root: RemotePath, tmp_path: Path) -> None:
        full_store(tmp_path / "disk", SMALL)
        store = full_store(root, SMALL)  # type: ignore[arg-type]
        found = {key.removeprefix("some/prefix/"): data for key, data in objects().items()}
        assert found == contents(tmp_path / "disk")
        assert store.verify() == []

    def test_replaced_tables_go_when_all_larger_ones_are_there(self, root: RemotePath, tmp_path: Path) -> None:
        for place in (root, tmp_path / "disk"):
            full_store(place, SMALL)  # type: ignore[arg-type]
            full_store(place, SignalRequest(top_k=8, states=hidden(3)))  # type: ignore[arg-type]
        found = {key.removeprefix("some/prefix/"): data for key, data in objects().items()}
        assert found == contents(tmp_path / "disk")
        assert not any("topk_004" in key for key in found)

    def test_what_is_in_the_cache_is_read_without_a_request(self, root: RemotePath, server: S3Server) -> None:
        store = Store.open(full_store(root, SMALL).folder)  # type: ignore[arg-type]
        first = [store.shard(unit.index) for unit in store.units]
        server.requests.clear()
        for unit, tables in zip(store.units, first, strict=True):
            again = store.shard(unit.index)
            assert all(np.array_equal(again[t][c], tables[t][c]) for t in tables for c in tables[t])
        assert server.requests == []

    def test_receipts_are_read_together(self, root: RemotePath, server: S3Server) -> None:
        store = full_store(root, SMALL)  # type: ignore[arg-type]
        read_receipt.cache_clear()
        together = Barrier(len(store.units))

        def wait_for_the_others(method: str, path: str) -> None:
            if method == "GET" and "/shards/0" in path:
                together.wait(30)

        server.before = wait_for_the_others
        assert len(Store.open(store.folder).receipts()) == len(store.units) == 4

    def test_missing_asks_once_for_all(self, root: RemotePath, server: S3Server) -> None:
        store = full_store(root, SMALL)  # type: ignore[arg-type]
        server.requests.clear()
        assert store.missing() == []
        assert len(server.requests) == 1

    @pytest.mark.parametrize("by", ["the service", "a stranger"])
    def test_a_flipped_bit_is_noticed_and_named(
        self, root: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
    ) -> None:
        store = full_store(root, SMALL)  # type: ignore[arg-type]
        path = store.table_path(1, "tokens")
        key = str(path).removeprefix(f"s3://{BUCKET}/")
        damage(key)
        if by == "a stranger":  # whose object has the right checksum of the service
            storage.write_bytes(path, objects()[key])
        assert any(str(path) in problem and "damaged" in problem for problem in store.verify())
        monkeypatch.setenv("ORCH_CACHE", str(tmp_path / "empty"))
        with pytest.raises(StoreError, match=rf"{path} is damaged"):
            Store.open(store.folder).shard(1)

    @pytest.mark.slow
    def test_a_crash_at_any_request_loses_nothing_and_shows_no_half_shard(
        self, root: RemotePath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Killed before or after any request that writes: what has a receipt is whole, and a new start completes."""
        expected = contents_of(lambda: write_all(tmp_path / "disk"), tmp_path / "disk")
        connect, num_crashes = remote._file_system, 0
        for at in range(1000):
            place = root / f"{at}"
            crashing = Crashing(at)
            monkeypatch.setattr(remote, "_file_system", lambda path, crashing=crashing: crashing.over(connect(path)))
            try:
                write_all(place)
            except Crash:
                num_crashes += 1
            monkeypatch.setattr(remote, "_file_system", connect)
            check_shards(place)
            write_all(place)
            prefix = f"some/prefix/{at}/"
            assert {k.removeprefix(prefix): v for k, v in objects().items() if k.startswith(prefix)} == expected
            if not crashing.happened:
                break
        assert num_crashes > 20


def write_all(signals: object) -> None:
    """What a driver does: make the store, write what is missing, finish."""
    store = make_store(signals, SMALL, plan=PLAN)  # type: ignore[arg-type]
    for unit in store.missing():
        store.write(unit, make_tables(unit, SMALL))
    store.finish()


def contents_of(write: Callable[[], None], folder: Path) -> dict[str, bytes]:
    write()
    return contents(folder)


def check_shards(place: RemotePath) -> None:
    folder = store_folder(place, "bert", FINGERPRINT)
    try:
        store = Store.open(folder)
    except StoreError:
        return  # not even the manifest
    for index, receipt in store.receipts().items():
        shard = store.shard(index)
        expected = make_tables(store.units[index], SMALL)
        assert receipt.tables.keys() == shard.keys()
        assert all(np.array_equal(shard[t][c], expected[t][c]) for t in shard for c in shard[t])


class Crashing:
    """Ends the process, so to say, before (even) or after (odd) the writing request `at // 2`."""

    def __init__(self, at: int) -> None:
        self.at, self.num_calls, self.happened = at, 0, False

    def over(self, system: object) -> object:
        outer = self

        class Proxy:
            def __getattr__(self, name: str) -> object:
                real = getattr(system, name)
                if name not in {"pipe_file", "put_file", "rm_file"}:
                    return real

                def call(*args: object, **options: object) -> object:
                    number, outer.num_calls = outer.num_calls, outer.num_calls + 1
                    if outer.happened or number * 2 == outer.at:
                        outer.happened = True
                        raise Crash
                    result = real(*args, **options)
                    if number * 2 + 1 == outer.at:
                        outer.happened = True
                        raise Crash
                    return result

                return call

        return Proxy()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holders renew every second, so that who waits for them is refused as soon."""
    monkeypatch.setattr(leases, "_RENEWALS", leases.LEASE_SECONDS)


class TestLease:
    """One writer."""

    @pytest.mark.usefixtures("quick")
    def test_the_second_is_refused_and_told_who_is_first(self, root: RemotePath) -> None:
        with lock_run(root):
            with pytest.raises(
                ClusterError, match=rf"prefix is in use by '.*' \(process {os.getpid()} on .*run\.stores"
            ):
                lock_run(root).__enter__()
            with lock_run(root / "another"):
                pass
        with lock_run(root), pytest.raises(ClusterError):
            lock_run(root).__enter__()
        assert sum(name.startswith("some/prefix/.lock/") for name in objects()) == 1

    @pytest.mark.usefixtures("quick")
    def test_of_many_at_once_one_wins(self, root: RemotePath) -> None:
        took: list[int] = []
        refused: list[int] = []
        done: list[int] = []

        def work(number: int) -> None:
            try:
                with leases.hold(root / ".lock", holder=str(number)):
                    took.append(number)
                    while len(refused) < 4 and time.monotonic() < deadline:
                        time.sleep(0.05)
                    done.append(number)
            except leases.TakenError:
                refused.append(number)

        deadline = time.monotonic() + 120
        threads = [Thread(target=work, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(150)
        assert (len(took), len(refused), done) == (1, 4, took)

    def test_a_lease_that_nobody_renews_ends_and_is_waited_for(
        self, root: RemotePath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert remote.create(root / ".lock" / "000007", leases._record("the dead", "x", is_held=True))
        assert writer_of(root) == "the dead"
        monkeypatch.setattr(leases, "LEASE_SECONDS", 6.0)
        with lock_run(root):
            monkeypatch.setattr(leases, "LEASE_SECONDS", 60.0)
            assert [key for key in objects() if "/.lock/0" in key] == ["some/prefix/.lock/000008"]
            assert f"process {os.getpid()} on" in str(writer_of(root))
        assert "is held by the dead; waiting for at most 6 seconds" in caplog.text
        assert writer_of(root) is None

    def test_the_holder_renews(self, root: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(leases, "LEASE_SECONDS", 0.3)
        with leases.hold(root / ".lock", holder="me"):
            first = remote.modified(root / ".lock" / "000001")
            deadline = 100
            while remote.modified(root / ".lock" / "000001") == first and deadline:
                time.sleep(0.1)
                deadline -= 1
            assert deadline

    def test_a_service_without_conditions_is_refused(self, root: RemotePath, server: S3Server) -> None:
        server.ignores_conditions = True
        with pytest.raises(StorageError, match="ignores conditional puts"), lock_run(root):
            pass
        assert not any("/.lock/0" in key for key in objects())

    def test_a_stop_gives_it_back(self, root: RemotePath) -> None:
        with pytest.raises(KeyboardInterrupt), lock_run(root):
            raise KeyboardInterrupt
        with lock_run(root):
            pass


class TestCache:
    """Copies on this machine."""

    def test_what_is_written_here_is_read_without_a_request(self, root: RemotePath, server: S3Server) -> None:
        with storage.open_write(root / "a") as file:
            file.write(b"12345")
        server.requests.clear()
        assert read(root / "a", 5, file.hash) == b"12345"
        assert server.requests == []

    def test_the_limit_holds_and_what_was_used_last_stays(self, root: RemotePath, tmp_path: Path) -> None:
        small = RemotePath(root.url, CacheOptions(None, 3000))
        hashes = {name: put(small / name, name.encode() * 1000) for name in "abcd"}
        for name in "abc":
            read(small / name, 1000, hashes[name])
        read(small / "a", 1000, hashes["a"])
        read(small / "d", 1000, hashes["d"])
        names = [path.name.partition("-")[0] for path in cached(tmp_path)]
        assert sorted(names) == sorted(hashes[name] for name in "acd")
        with storage.open_write(small / "e") as file:
            file.write(b"e" * 2500)
        assert sum(path.stat().st_size for path in cached(tmp_path)) <= 3000
        with pytest.raises(StorageError, match=r"run\.cache_gigabytes"):
            read(small / "f", 3001, put(small / "f", b"f" * 3001))

    def test_a_file_that_is_mapped_can_be_read_after_it_was_dropped(self, root: RemotePath, tmp_path: Path) -> None:
        small = RemotePath(root.url, CacheOptions(None, 5000))
        first, second = put(small / "a", b"a" * 4000), put(small / "b", b"b" * 4000)
        mapped = storage.use_local(small / "a", lambda path: np.memmap(path, np.uint8, "r"), num_bytes=4000, hash=first)
        read(small / "b", 4000, second)
        assert [path.name.partition("-")[0] for path in cached(tmp_path)] == [second]
        assert bytes(mapped) == b"a" * 4000

    def test_a_file_that_is_dropped_before_it_is_opened_is_fetched_again(self, root: RemotePath) -> None:
        expected = put(root / "a", b"1234")
        calls: list[Path] = []

        def open_late(path: Path) -> bytes:
            calls.append(path)
            if len(calls) == 1:
                path.unlink()
            return path.read_bytes()

        assert storage.use_local(root / "a", open_late, num_bytes=4, hash=expected) == b"1234"
        assert len(calls) == 2

    def test_a_damaged_copy_is_fetched_once_more(
        self, root: RemotePath, server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        expected = put(root / "a", b"1234")
        read(root / "a", 4, expected)
        (path,) = cached(tmp_path)
        path.write_bytes(b"1235")
        cache._verified.clear()  # as in the next process
        server.requests.clear()
        assert read(root / "a", 4, expected) == b"1234"
        assert len(server.requests) == 1
        assert "is damaged and is fetched anew" in caplog.text
        path.write_bytes(b"1235")
        cache._verified.clear()
        damage("some/prefix/a")
        with pytest.raises(StoreError, match=r"prefix/a is damaged"):
            read(root / "a", 4, expected)

    def test_several_readers_share_it(self, root: RemotePath, tmp_path: Path) -> None:
        small = RemotePath(root.url, CacheOptions(None, 4000))
        hashes = [put(small / f"{number}", bytes([number]) * 1000) for number in range(8)]
        wrong: list[object] = []

        def work(seed: int) -> None:
            for number in np.random.default_rng(seed).integers(0, 8, 30):
                try:
                    if read(small / f"{number}", 1000, hashes[number]) != bytes([number]) * 1000:
                        wrong.append(number)
                except Exception as error:
                    wrong.append(error)

        threads = [Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert wrong == []
        read(small / "0", 1000, hashes[0])
        assert sum(path.stat().st_size for path in cached(tmp_path)) <= 4000


class TestErrors:
    """One sentence that says what to do."""

    def test_no_bucket(self, root: RemotePath) -> None:
        elsewhere = storage.place("s3://nobody/a")
        for touch in (
            lambda: storage.write_bytes(elsewhere / "a", b"1"),
            lambda: storage.matching(elsewhere, "*/*"),
            lambda: lock_run(elsewhere).__enter__(),
        ):
            with pytest.raises(StorageError, match=r"there is no bucket 'nobody'; make it, or mend run\.stores"):
                touch()

    def test_an_object_that_vanished(self, root: RemotePath) -> None:
        with pytest.raises(StorageError, match=r"prefix/a cannot be read: there is no such object"):
            read(root / "a", 4, "0" * 32)

    def test_a_service_that_recovers_is_waited_for(self, root: RemotePath, server: S3Server) -> None:
        storage.write_bytes(root / "a", b"1")
        failing = iter(["503 Slow Down"] * 2)
        server.before = lambda method, path: next(failing, None)
        assert storage.read_bytes(root / "a", max_bytes=1) == b"1"

    def test_no_right(self, root: RemotePath, server: S3Server) -> None:
        server.before = lambda method, path: "403 Forbidden"
        with pytest.raises(StorageError, match="access is denied") as refused:
            storage.write_bytes(root / "a", b"1")
        assert "hidden-word" not in str(refused.value)

    def test_no_credentials(self, root: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        with fresh_connection(), pytest.raises(StorageError, match="there are no credentials; set AWS_ACCESS_KEY_ID"):
            storage.read_bytes(root / "a", max_bytes=1)

    @pytest.mark.slow
    def test_no_network(self, root: RemotePath, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with fresh_connection(), pytest.raises(StorageError, match="cannot be reached; check the network"):
            storage.read_bytes(root / "a", max_bytes=1)

    @pytest.mark.parametrize(("scheme", "module"), [("s3", "s3fs"), ("gs", "gcsfs")])
    def test_a_library_that_is_not_installed(
        self, server: S3Server, monkeypatch: pytest.MonkeyPatch, scheme: str, module: str
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
        place = storage.place(f"{scheme}://bucket/a")
        with pytest.raises(StorageError, match=rf"run: pip install 'orch-distill\[{scheme}\]'"):
            place.exists()


class fresh_connection:  # noqa: N801 - a context manager
    """The connections that are kept are left aside for the block."""

    def __enter__(self) -> None:
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()

    def __exit__(self, *_: object) -> None:
        self.__enter__()
