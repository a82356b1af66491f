"""What befell a run: written as it happens, read back whatever a kill left."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import events, meters
from orchestrator.cluster import InProcess, Need
from orchestrator.errors import StorageError
from orchestrator.events import Event, Trouble, history
from orchestrator.steps.incidents import noted


class Picky:
    def run(self, unit: int) -> int:
        if unit == 2:
            raise ValueError("no such row")
        return unit


def test_an_event_comes_back_and_a_torn_line_does_not(tmp_path: Path) -> None:
    first = Event("retried", subjects=("teacher big",), unit="shard 1", attempt=1, error="it died")
    second = Event("joined", links={"metrics": ("http://a:1/metrics", "http://b:1/metrics")})
    for event in (first, second):
        events.record(tmp_path, event)
    with events.path_of(tmp_path).open("a", encoding="utf-8") as file:
        file.write('{"kind": "ret')
    assert events.read(tmp_path) == [first, second]


def test_nothing_was_ever_done(tmp_path: Path) -> None:
    assert history(events.read(tmp_path)) == history([])
    assert (history([]).troubles, history([]).links, history([]).error) == ({}, {}, "")


def test_a_disk_that_refuses_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise StorageError("no space is left")

    monkeypatch.setattr(events, "append_line", refuse)
    events.record(tmp_path, Event("started"))


def test_retries_are_counted_and_the_last_error_is_kept_for_whom_it_befell() -> None:
    lost = [Event("retried", ("student de", "student en"), error=f"lost {n}", time=float(n)) for n in (1, 2)]
    found = history([*lost, Event("given-up", ("student en",), error="given up", time=3.0)])
    assert found.troubles == {"student de": Trouble(2, "lost 2", 2.0), "student en": Trouble(2, "given up", 3.0)}


def test_links_and_the_error_of_the_end_are_those_of_the_last_driver() -> None:
    before = [Event("started"), Event("joined", links={"dashboard": ("http://a",)}), Event("ended", error="no disk")]
    assert (history(before).error, history(before).links) == ("no disk", {"dashboard": ("http://a",)})
    after = history([*before, Event("started")])
    assert (after.error, after.links) == ("", {})


def test_a_unit_that_raises_is_an_event_at_once(tmp_path: Path) -> None:
    outcomes = InProcess().run_units(
        Picky,
        [1, 2, 3],
        need=Need(1.0),
        workers=1,
        deadline_seconds=9.0,
        max_attempts=3,
        label=str,
        on_incident=noted(tmp_path, lambda unit: f"unit {unit}", lambda unit: ["teacher big"]),
    )
    assert [next(outcomes).unit, next(outcomes).unit] == [1, 2]
    (event,) = events.read(tmp_path)
    assert (event.kind, event.unit, event.attempt, event.error) == ("given-up", "unit 2", 1, "ValueError: no such row")
    assert event.subjects == ("teacher big",)


class Counted:
    """Keeps what is counted."""

    def __init__(self) -> None:
        self.sums: dict[tuple[str, ...], float] = {}

    def add(self, name: str, value: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(meters.METERS[name].tags)
        key = (name, *tags.values())
        self.sums[key] = self.sums.get(key, 0.0) + value


def test_units_are_counted_for_whoever_collects() -> None:
    counted = Counted()
    meters.collect_with(counted)
    try:
        options = {"need": Need(1.0), "workers": 1, "deadline_seconds": 9.0, "max_attempts": 3, "label": str}
        list(InProcess().run_units(Picky, [1, 2, 3], **options))
    finally:
        meters.collect_with(None)
    list(InProcess().run_units(Picky, [1], **options))
    assert counted.sums["units", "done"] == 2
    assert counted.sums["units", "failed"] == 1
