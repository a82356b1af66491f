"""What docs/scaling.md rests on, each part for itself: `python -m tests.benchmarks.scaling PART [--json FILE]`.

    scheduler   the scheduler against fake actors, without Ray
    actors      actors that do nothing, on a Ray that is started here: `--count 200`
    manifest    a store of 10 000 shards
    rows        a shard of a million rows
    host        what a teacher's process does beside the model; the corpus (needs the data beside the project)

A part prints its figures, and with --json puts them into FILE under its name. Each wants a process of its own, since
memory is what the process has grown by. Seconds are those of the processor, which a busy machine does not stretch much;
for actors those of the clock.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from orchestrator.records import SignalRequest, Unit

if TYPE_CHECKING:
    from orchestrator.signals.schema import TeacherSizes
    from orchestrator.signals.store import Store

Figures = dict[str, float]

SHARED = Path(__file__).resolve().parents[3] / "shared"
RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "scaling.json"
WIDTH, KEPT, VOCABULARY = 768, 64, 250_002


def main() -> None:
    parts: dict[str, Callable[[argparse.Namespace], Figures]] = {
        "scheduler": scheduler,
        "actors": actors,
        "manifest": manifest,
        "rows": rows,
        "host": host,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--count", type=int, help="actors, shards or rows")
    parser.add_argument("--json", type=Path, nargs="?", const=RESULTS, help="default: docs/results/scaling.json")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    figures = parts[arguments.part](arguments)
    for name, value in figures.items():
        print(f"{name}: {value:,.6g}")
    if arguments.json is not None:
        _keep(arguments.json, arguments.part, figures, load)


def _keep(path: Path, part: str, figures: Figures, load: float) -> None:
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    command = f"python -m tests.benchmarks.scaling {part}"
    machine = f"{os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB, Python {platform.python_version()}"
    known[part] = {"command": command, "machine": machine, "load before": load, "figures": figures}
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


class Clock:
    """Processor seconds and growth in memory (MB) of blocks, by name."""

    def __init__(self) -> None:
        self.figures: Figures = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        gc.collect()
        before, started = _megabytes(), time.process_time()
        yield
        self.figures[f"{name}, s"] = round(time.process_time() - started, 4)
        gc.collect()
        self.figures[f"{name}, MB more"] = round(_megabytes() - before, 1)


def _megabytes() -> float:
    return float(psutil.Process().memory_info().rss) / 1e6


class Nothing:
    """A worker of no cost."""

    def run(self, unit: int) -> int:
        return unit


# ---- scheduler


def scheduler(arguments: argparse.Namespace) -> Figures:
    """Units per second of the scheduler itself, by the number of actors, and what it keeps of 100 000 units."""
    figures: Figures = {}
    for count in (10, 100, 500, 1000) if arguments.count is None else (arguments.count,):
        figures[f"units/s with {count} actors"] = round(_drive(count, 20_000))
    clock = Clock()
    with clock("100 000 units on 500 actors"):
        _drive(500, 100_000)
    return figures | clock.figures


def _drive(num_actors: int, num_units: int) -> float:
    from orchestrator.cluster import Need
    from orchestrator.cluster.scheduler import Scheduler
    from orchestrator.cluster.units import Work

    units = range(num_units)
    work = Work(Nothing, units, Need(1.0), num_actors, num_actors, 3600.0, 3, str, False)
    started = time.process_time()
    done = sum(outcome.result is not None for outcome in Scheduler(work, _FakeActors()).outcomes())
    assert done == num_units
    return num_units / (time.process_time() - started)


class _FakeActors:
    """Whose calls end at once, in the order in which they can."""

    def __init__(self) -> None:
        self._made = 0
        self._lines: dict[int, deque[tuple[int, int]]] = {}  # actor -> its calls that have not ended
        self._arguments: dict[tuple[int, int], object] = {}
        self._order: deque[int] = deque()

    def new(self) -> int:
        self._made += 1
        self._lines[self._made] = deque()
        return self._made

    def call(self, actor: int, method: str, argument: object) -> tuple[int, int]:
        ref = (actor, len(self._arguments))
        self._arguments[ref] = argument
        self._lines[actor].append(ref)
        self._order.append(actor)
        return ref

    def wait(self, refs: list[tuple[int, int]], timeout_seconds: float | None) -> tuple[int, int] | None:
        return self._lines[self._order.popleft()].popleft()

    def reply(self, ref: tuple[int, int]) -> object:
        from orchestrator.cluster.units import Reply

        argument = self._arguments[ref]
        return Reply(argument if isinstance(argument, int) else None)

    def end(self, actor: int) -> None:
        del self._lines[actor]


# ---- actors on Ray


class Gathering:
    """Waits at its first unit until all actors have come; the others cost nothing."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._count, self._waits = folder, count, True

    def run(self, unit: int) -> int:
        if self._waits:
            (self._folder / str(os.getpid())).touch()
            while sum(1 for _ in self._folder.iterdir()) < self._count:
                time.sleep(1.0)
            self._waits = False
        return unit


def actors(arguments: argparse.Namespace) -> Figures:
    """Hundreds of actors without a cost: how fast they come, how fast units go, and what they and the driver take."""
    from orchestrator.cluster import Need, open_cluster

    count = arguments.count or 200
    per_actor, figures = 50, {"actors": float(count)}
    highest = _Highest()
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder) / "logs"
        (logs / "actors").mkdir(parents=True)
        (Path(folder) / "there").mkdir()
        before, started = _megabytes(), time.perf_counter()
        with open_cluster(None, object_store_bytes=100 << 20, log_folder=logs) as cluster:
            figures["Ray started, s"] = round(time.perf_counter() - started, 1)
            used = psutil.virtual_memory().used
            started = time.perf_counter()
            outcomes = cluster.run_units(
                partial(Gathering, Path(folder) / "there", count),
                range(count * per_actor),
                need=Need(0.001),
                workers=count,
                deadline_seconds=7200.0,
                max_attempts=3,
                label=str,
            )
            ends, failed = [], 0
            for outcome in outcomes:
                failed += outcome.result is None
                ends.append(time.perf_counter() - started)
                if len(ends) == 1 or len(ends) % 500 == 0:
                    highest.look(used)
            highest.look(used)
            driver = _megabytes() - before
        begun = len(list((logs / "actors").glob("*.jsonl")))
        written = sum(path.stat().st_size for path in (logs / "actors").iterdir())
    figures |= {
        "actors that did a unit": float(begun),
        "units": float(len(ends)),
        "units that failed": float(failed),
        "all actors there, s": round(ends[0], 1),
        "all units done, s": round(ends[-1], 1),
        "units/s, last half": round(len(ends) / 2 / (ends[-1] - ends[len(ends) // 2]), 1),
        "memory of the machine at most, MB more": highest.megabytes,
        "driver, Ray's part included, MB more": round(driver, 1),
        "log lines, bytes a unit": round(written / len(ends), 1),
    }
    return figures


class _Highest:
    """The most memory that the machine used beyond what it did at first."""

    def __init__(self) -> None:
        self.megabytes = 0.0

    def look(self, before: int) -> None:
        self.megabytes = max(self.megabytes, round((psutil.virtual_memory().used - before) / 1e6))


# ---- a store of many shards


def manifest(arguments: argparse.Namespace) -> Figures:
    """A store of 10 000 shards, three rows each, on a file system in memory: the files are small, the names many."""
    from orchestrator.signals.fingerprint import Fingerprint
    from orchestrator.signals.manifest import read_receipt
    from orchestrator.signals.schema import TeacherSizes
    from orchestrator.signals.store import Store

    count, clock = arguments.count or 10_000, Clock()
    units = [Unit("big", index, "de", 3 * index, 3) for index in range(count)]
    random = np.random.default_rng(1)
    request = SignalRequest(top_k=8)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        fingerprint = Fingerprint({"name": "scaling"})
        folder = Path(place) / f"big-{fingerprint.digest}"

        def create() -> Store:
            return Store.create(
                folder,
                teacher="big",
                fingerprint=fingerprint,
                request=request,
                codec="int8",
                sizes=TeacherSizes(WIDTH, head_width=WIDTH, vocab_size=VOCABULARY),
                languages=["de"],
                units=units,
            )

        with clock("plan: the manifest made and written"):
            store = create()
        with clock("list missing of an empty store"):
            assert len(store.missing()) == count
        started = time.process_time()
        for unit in units:
            store.write(unit, _tables(random, rows=3, first_row=unit.first_text, tokens_per_row=8, top_k=8))
        clock.figures["write a shard of three rows, ms"] = round((time.process_time() - started) / count * 1e3, 3)
        read_receipt.cache_clear()
        with clock("open"):
            store = Store.open(folder)
        with clock("list missing, receipts read for the first time"):
            assert not store.missing()
        with clock("list missing again"):
            assert not store.missing()
        with clock("finish: receipts listed in the manifest"):
            store.finish()
        clock.figures["manifest, MB"] = round((folder / "manifest.json").stat().st_size / 1e6, 2)
        with clock("open, finished"):
            store = Store.open(folder)
        with clock("counts by language"):
            store.counts()
        with clock("verify every byte"):
            assert store.verify() == []
        with clock("names of the receipts, as status looks"):
            assert sum(entry.name.endswith(".json") for entry in os.scandir(folder / "shards")) == count
    return clock.figures


def _tables(
    random: np.random.Generator, *, rows: int, first_row: int, tokens_per_row: int, top_k: int
) -> dict[str, dict[str, np.ndarray]]:
    """A shard of rows of about this length, every seventh token masked, with random top-k lists where asked."""
    lengths = random.integers(max(2, tokens_per_row // 2), tokens_per_row * 3 // 2 + 1, rows).astype(np.int32)
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1])
    token = np.arange(0, total, 7, dtype=np.int64)
    first_masked = np.searchsorted(token, ends - lengths)
    tables = {
        "texts": {
            "row_id": (np.arange(rows, dtype=np.int64) + first_row) << 16,
            "copy": np.zeros(rows, np.int16),
            "language": np.zeros(rows, np.int16),
            "first_token": ends - lengths,
            "num_tokens": lengths,
            "first_masked": first_masked.astype(np.int64),
            "num_masked": (np.searchsorted(token, ends) - first_masked).astype(np.int32),
        },
        "tokens": {"input_id": random.integers(5, VOCABULARY, total, dtype=np.int32)},
        "masked": {"token": token, "label_id": random.integers(5, VOCABULARY, len(token), dtype=np.int32)},
    }
    if top_k:
        logprobs = np.sort(random.random((len(token), top_k), dtype=np.float32), axis=1)[:, ::-1] - 9.0
        tables[f"topk_{top_k:03d}"] = {
            "topk_ids": random.integers(0, VOCABULARY, (len(token), top_k), dtype=np.int32),
            "topk_logprobs": logprobs.astype(np.float16),
        }
    return tables


# ---- a shard of many rows


def rows(arguments: argparse.Namespace) -> Figures:
    """One shard of a million rows of about 24 tokens: make it, index it, order an epoch, look rows up."""
    from orchestrator.records import SpecialIds
    from orchestrator.signals.fingerprint import Fingerprint
    from orchestrator.signals.store import Store
    from orchestrator.students.batches import BatchReader
    from orchestrator.students.ids import IdMap
    from orchestrator.students.rows import epoch_windows, window_batches
    from orchestrator.students.source import StoredSource

    count, clock = arguments.count or 1_000_000, Clock()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        unit = Unit("big", 0, "de", 0, count)
        store = Store.create(
            Path(place) / "store",
            teacher="big",
            fingerprint=Fingerprint({"name": "rows"}),
            request=SignalRequest(),
            codec="int8",
            sizes=None,
            languages=["de"],
            units=[unit],
        )
        tables = _tables(np.random.default_rng(2), rows=count, first_row=0, tokens_per_row=24, top_k=0)
        clock.figures["tokens, M"] = round(len(tables["tokens"]["input_id"]) / 1e6, 1)
        with clock("write, checks and hashes included"):
            store.write(unit, tables)
        del tables
        source = StoredSource(store)
        ids = IdMap(
            np.arange(VOCABULARY, dtype=np.int32),
            student_special=SpecialIds(pad=1, unk=3, mask=4),
            student_size=VOCABULARY,
            teacher_mask=4,
        )
        reader = BatchReader(source, "de", ids=ids, request=SignalRequest())
        with clock("windows of an epoch"):
            windows = epoch_windows(source.sizes("de"), seed=1, language="de", epoch=0)
        assert windows == [(0,)]
        with clock("open: hashes, validation, the index of all rows"):
            window = reader.open([reader.ask(0)])
        with clock("order of an epoch: all batches of all rows"):
            batches = window_batches(
                window.rows.num_tokens,
                tokens_per_batch=4096,
                seed=1,
                student="s",
                language="de",
                epoch=0,
                window=0,
            )
        assert sum(map(len, batches)) == count
        clock.figures["batches"] = float(len(batches))
        started = time.process_time()
        for batch in batches[:200]:
            reader.batch(window, batch)
        clock.figures["look up and gather a batch of 4 096 tokens, ms"] = round(
            (time.process_time() - started) / 200 * 1e3, 3
        )
    return clock.figures


# ---- what a teacher's process does beside its model


def host(arguments: argparse.Namespace) -> Figures:
    """Bytes of text that become a corpus in a second; tokens that are tokenised, masked and written, one thread."""
    from orchestrator.config.loading import parse_config
    from orchestrator.corpus.store import build_corpus
    from orchestrator.records import BatchPlan, StateKey
    from orchestrator.signals.codecs import encode_hidden
    from orchestrator.signals.schema import TeacherSizes
    from orchestrator.teachers.worker import PrecomputeJob, TeacherTask, TeacherWorker

    teacher = SHARED / "models" / "multilingual-mlm-12x384"
    languages = ["de", "en", "ru", "tr"]
    tree: dict[str, object] = {
        "corpus": {
            "max_length": 256,
            "languages": {lang: str(SHARED / "data" / "mono" / f"{lang}.parquet") for lang in languages},
        },
        "teachers": {"big": {"tokenizer": str(teacher), "languages": languages}},
        "student": {"layers": 1, "hidden_size": 8, "heads": 1},
        "objectives": [{"type": "masked-lm"}],
    }
    config = parse_config(tree, where="the benchmark")
    figures: Figures = {}
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        started = time.process_time()
        corpus = build_corpus(config.corpus, root=Path(place), seed=0)
        seconds = time.process_time() - started
        texts = {lang: corpus.texts(lang, "train", 0, corpus.info(lang, "train").num_texts) for lang in languages}
        size = sum(len(text.encode()) for many in texts.values() for text in many)
        figures |= {"text, MB": round(size / 1e6, 2), "corpus, MB of text/s": round(size / 1e6 / seconds, 2)}
        units = [Unit("big", i, lang, 0, len(texts[lang])) for i, lang in enumerate(languages)]
        store = _store(Path(place) / "masked", SignalRequest(), None, languages, units)
        task = TeacherTask(config.teachers["big"], BatchPlan(4096, 1, "float32"), SignalRequest(), "int8", store.folder)
        worker = TeacherWorker(PrecomputeJob({"big": task}, corpus.folder, config.corpus, 0))
        worker.signals(replace(units[0], num_texts=10))  # loads the tokenizer
        started = time.process_time()
        tokens = sum(worker.run(unit).num_tokens for unit in units)
        masking = (time.process_time() - started) / tokens
        figures |= {"tokens": float(tokens), "bytes of text a token": round(size / tokens, 2)}
        figures["tokenised, masked and written, tokens/s"] = round(1 / masking)

        unit = Unit("big", 0, "de", 0, 512)
        request = SignalRequest(top_k=KEPT, states=(StateKey("hidden", 12),))
        sizes = TeacherSizes(WIDTH, head_width=WIDTH, vocab_size=VOCABULARY)
        said = _tables(np.random.default_rng(3), rows=512, first_row=0, tokens_per_row=200, top_k=KEPT)
        states = np.random.default_rng(4).normal(size=(len(said["tokens"]["input_id"]), WIDTH)).astype(np.float32)
        started = time.process_time()
        said["hidden_12"] = encode_hidden(states, "int8")
        coding = (time.process_time() - started) / len(states)
        store = _store(Path(place) / "said", request, sizes, ["de"], [unit])
        started = time.process_time()
        receipt = store.write(unit, said)
        writing = (time.process_time() - started) / receipt.num_tokens
        figures |= {
            "states of one layer coded as int8, tokens/s": round(1 / coding),
            "top-64 and one layer written, tokens/s": round(1 / writing),
            "all of it, tokens/s": round(1 / (masking + coding + writing)),
            "a student reads, tokens/s": round(_reading(store)),
        }
    return figures


def _reading(store: Store) -> float:
    """Tokens per second that become batches of top-64 and one layer of 768."""
    from orchestrator.records import SpecialIds
    from orchestrator.students.batches import BatchReader
    from orchestrator.students.ids import IdMap
    from orchestrator.students.rows import window_batches
    from orchestrator.students.source import StoredSource

    ids = IdMap(
        np.where(np.arange(VOCABULARY) % 4, -1, np.arange(VOCABULARY) // 4).astype(np.int32),
        student_special=SpecialIds(pad=1, unk=3, mask=4),
        student_size=VOCABULARY // 4 + 1,
        teacher_mask=4,
    )
    reader = BatchReader(StoredSource(store), "de", ids=ids, request=store.request)
    window = reader.open([reader.ask(0)])
    batches = window_batches(
        window.rows.num_tokens, tokens_per_batch=4096, seed=1, student="s", language="de", epoch=0, window=0
    )
    started = time.process_time()
    for batch in batches:
        reader.batch(window, batch)
    return float(window.rows.num_tokens.sum()) / (time.process_time() - started)


def _store(
    folder: Path, request: SignalRequest, sizes: TeacherSizes | None, languages: list[str], units: list[Unit]
) -> Store:
    from orchestrator.signals.fingerprint import Fingerprint
    from orchestrator.signals.store import Store

    return Store.create(
        folder,
        teacher="big",
        fingerprint=Fingerprint({"name": folder.name}),
        request=request,
        codec="int8",
        sizes=sizes,
        languages=languages,
        units=units,
    )


if __name__ == "__main__":
    main()
