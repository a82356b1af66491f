"""What a job takes on many machines: the formulas of docs/scaling.md by hand, the command on a job without files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config.loading import load_config, parse_config
from orchestrator.config.setups import ExpandedRun, expand
from orchestrator.costs import UnitCost, record
from orchestrator.errors import ConfigError
from orchestrator.resources import configs_folder
from orchestrator.scale_planning import ScaleOptions, make_scale_plan
from orchestrator.scale_table import span
from orchestrator.scaling.jobs import given_tokens
from orchestrator.scaling.times import (
    CORPUS_BYTES_PER_SECOND,
    DRIVER_UNITS_PER_SECOND,
    HOST_TOKENS_PER_SECOND,
    Machines,
    Rates,
    ScalePlan,
    scale,
)
from tests.e2e.command import orch

REAL = configs_folder() / "public" / "xlmr-cc100.yaml"
MACHINES = Machines(nodes=2, gpus=4, network_gbit=10.0, storage_gbit=40.0)


def small(**sections: object) -> ExpandedRun:
    tree: dict[str, object] = {
        "corpus": {"max_length": 128, "languages": {"en": "en.txt", "de": "de.txt"}},
        "teachers": {"big": {"model": "nowhere", "languages": ["en", "de"]}},
        "student": {"layers": 2, "hidden_size": 8, "heads": 2, "vocabulary": {"max_size": 100}},
        "objectives": [{"type": "soft-targets", "k": 4}, {"type": "hidden-states", "map": "last"}],
        "training": {"steps": 100, "tokens_per_batch": 1000, "accumulation": 2, "baseline": False},
        "plan": {"teachers": {"big": {"layers": 4, "hidden_size": 64, "heads": 4, "vocab_size": 1000}}},
        "run": {"setup": "one-to-many"},
    }
    return expand(parse_config(tree | sections, where="test"))


def planned(expanded: ExpandedRun, machines: Machines = MACHINES, **options: float) -> ScalePlan:
    return make_scale_plan(expanded, ScaleOptions(machines, **{"tokens": 1e9, "teraflops": 100.0} | options))


def demand(plan: ScalePlan, phase: str, resource: str) -> float:
    (found,) = [one for part in plan.phases if part.name == phase for one in part.demands if one.resource == resource]
    return found.seconds


class TestFormulas:
    def test_the_teacher_by_hand(self) -> None:
        plan = planned(small())
        (teacher,) = plan.job.teachers
        layers = 4 * (4 * 64 * 64 + 2 * 64 * 256)
        assert teacher.flops_per_token == 2 * (layers + 64 * 64) + 2 * 0.15 * 64 * 1000
        assert teacher.tokens == 1e9
        tables = teacher.tables
        assert tables["topk_004"] == pytest.approx(0.15 * (4 * 3 + 4))
        assert tables["hidden_04"] == 64 + 2  # int8, one float16 scale for 64 values
        seconds = 1e9 * (teacher.flops_per_token / 50e12 + 1 / HOST_TOKENS_PER_SECOND)
        assert plan.device_seconds["teachers"] == pytest.approx(seconds)
        assert demand(plan, "teachers", "teacher devices") == pytest.approx(seconds / 8)
        stored = 1e9 * sum(tables.values())
        assert teacher.num_bytes == pytest.approx(stored)
        assert demand(plan, "teachers", "network") == pytest.approx(8 * stored / (2 * 10e9))
        assert demand(plan, "teachers", "storage") == pytest.approx(8 * stored / 40e9)
        assert demand(plan, "teachers", "driver") == pytest.approx(plan.units / DRIVER_UNITS_PER_SECOND)
        assert demand(plan, "text", "driver") == pytest.approx(1e9 * 5.0 / CORPUS_BYTES_PER_SECOND)

    def test_several_actors_on_a_gpu_hide_what_each_does_beside_the_model(self) -> None:
        alone, shared = planned(small()), planned(small(cluster={"gpus_per_teacher": 0.25}))
        assert shared.device_seconds["teachers"] == pytest.approx(alone.device_seconds["teachers"] / 4)
        most = planned(small(cluster={"gpus_per_teacher": 1e-4})).device_seconds["teachers"]
        assert most == pytest.approx(1e9 * alone.job.teachers[0].flops_per_token / 50e12)  # the model's own time

    def test_the_students_by_hand(self) -> None:
        plan = planned(small(), student_rate=1e6)
        english, german = (student for group in plan.job.groups for student in group.students)
        assert english.tokens == german.tokens == 100 * 2 * 1000
        assert english.parameters == 2 * 8 * (4 * 8 + 2 * 32) + 100 * 8
        assert english.flops_per_token == 6 * (2 * 8 * (4 * 8 + 2 * 32) + 0.15 * 100 * 8)
        # two groups on eight devices: four each, but two micro-batches in a step
        assert demand(plan, "students", "student devices") == pytest.approx(200_000 / 1e6 / 2)
        assert plan.device_seconds["students"] == pytest.approx(2 * 200_000 / 1e6)
        assert demand(plan, "students", "network") == pytest.approx(
            8 * 2 * 200_000 * english.read_per_token / 10e9  # four of the devices have work, those of one node
        )

    def test_gradients_cross_the_network_when_a_group_is_on_several_nodes(self) -> None:
        wide = {"steps": 100, "tokens_per_batch": 1000, "accumulation": 16, "baseline": False}
        one = small(training=wide, run={"setup": "one-to-one"})
        within = planned(one, replace(MACHINES, nodes=1, gpus=8), student_rate=1e6)
        across = planned(one, replace(MACHINES, nodes=2, gpus=4), student_rate=1e6)
        parameters = across.job.groups[0].parameters
        more = 100 * 2 * 7 / 8 * 4 * parameters * 8 / 10e9
        assert demand(across, "students", "student devices") == pytest.approx(
            demand(within, "students", "student devices") + more
        )

    def test_students_read_their_text_so_often(self) -> None:
        plan = planned(small(), epochs=3.0)
        assert [student.tokens for group in plan.job.groups for student in group.students] == [1.5e9, 1.5e9]

    def test_live_stores_masked_text_alone_and_teachers_answer_as_often_as_is_read(self) -> None:
        live = planned(small(signals={"mode": "live"}), epochs=2.0)
        (teacher,) = live.job.teachers
        assert teacher.tokens == pytest.approx(2e9)
        assert teacher.stored_per_token < 10
        assert [phase.name for phase in live.phases] == ["text", "teachers and students"]
        assert all(student.stored_per_token < 10 for group in live.job.groups for student in group.students)
        both = live.phases[1]
        assert both.seconds == max(one.seconds for one in both.demands)

    def test_more_devices_never_take_longer(self) -> None:
        times = [planned(small(), Machines(nodes, 4)).seconds for nodes in (1, 2, 3, 5, 8, 64)]
        assert times == sorted(times, reverse=True)

    def test_twice_the_text_takes_twice_as_long(self) -> None:
        one, two = (planned(small(), tokens=tokens, epochs=1.0) for tokens in (1e9, 2e9))
        assert two.seconds == pytest.approx(2 * one.seconds, rel=1e-3)

    def test_a_phase_takes_as_long_as_its_bottleneck(self) -> None:
        plan = planned(small())
        assert plan.seconds == sum(max(one.seconds for one in phase.demands) for phase in plan.phases)

    def test_nothing_to_do_takes_no_time(self) -> None:
        assert scale(replace(planned(small()).job, text_bytes=0.0, teachers=()), MACHINES, Rates(1e12)).units == 0


class TestWhatIsKnown:
    def test_text_by_language(self) -> None:
        config = small(plan={"text_gigabytes": {"en": 3, "de": 1}, "bytes_per_token": 4.0}).config
        assert given_tokens(config, total=None) == {"en": 0.75e9, "de": 0.25e9}
        assert given_tokens(config, total=100.0) == {"en": 75.0, "de": 25.0}

    def test_a_language_without_text_is_named(self) -> None:
        config = small(plan={"text_gigabytes": {"en": 3}}).config
        with pytest.raises(ConfigError, match="text_gigabytes says nothing of de"):
            given_tokens(config, total=1e9)

    def test_a_gpu_that_is_not_here_has_to_be_described(self) -> None:
        with pytest.raises(ConfigError, match="--device-tflops"):
            make_scale_plan(small(), ScaleOptions(MACHINES, tokens=1e9))

    def test_rates_that_are_given_are_used(self) -> None:
        plan = make_scale_plan(small(), ScaleOptions(MACHINES, tokens=1e9, teacher_rate=2e5, student_rate=1e5))
        assert plan.device_seconds["teachers"] == pytest.approx(1e9 / 2e5)

    def test_rates_that_this_run_measured_are_used_for_machines_like_this_one(self, tmp_path: Path) -> None:
        expanded = small(run={"root": str(tmp_path), "setup": "one-to-many"})
        for shard in range(3):
            record(
                tmp_path,
                UnitCost("big", "en", shard, 5000, 700, 1, seconds=10.0, attempts=1, finished=10.0 + 10 * shard),
            )
        for student, speed in (("en", 100.0), ("de", 300.0)):
            path = tmp_path / "students" / "one-to-many" / student / "metrics.jsonl"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps({"step": 1, "tokens": 9, "tokens_per_second": speed}) + "\n", encoding="utf-8")
        plan = make_scale_plan(expanded, ScaleOptions(Machines(nodes=3, gpus=0), tokens=1e6))
        assert plan.device_seconds["teachers"] == pytest.approx(1e6 / 500.0)
        assert plan.device_seconds["students"] == pytest.approx(2 * 200_000 / 200.0)


class TestTheRealJob:
    def test_a_hundred_languages_and_six_students_without_any_file(self) -> None:
        expanded = expand(load_config(REAL))
        assert len(expanded.config.corpus.languages) == len(expanded.config.plan.text_gigabytes) == 100
        assert len(expanded.students) == len(expanded.groups) == 6
        plan = planned(expanded, Machines(8, 8), tokens=1e12, epochs=1.0, teraflops=400.0)
        (teacher,) = plan.job.teachers
        assert teacher.tokens == pytest.approx(1e12)
        assert sum(student.tokens for group in plan.job.groups for student in group.students) == pytest.approx(1e12)
        assert plan.has_too_many_shards

    def test_the_command_prints_it(self, tmp_path: Path) -> None:
        options = ("--nodes", "8", "--gpus", "8", "--tokens", "1e9", "--epochs", "1", "--device-tflops", "400")
        result = orch("plan", "-c", str(REAL), *options, folder=tmp_path)
        assert (result.status, result.err) == (0, "")
        assert "bottleneck: driver" in result.out
        assert "teacher devices" in result.out
        assert not list(tmp_path.iterdir())  # nothing is read and nothing is written

    @pytest.mark.parametrize("option", [("--tokens", "1e9"), ("--gpus", "8"), ("--network-gbit", "100")])
    def test_its_options_alone_are_refused(self, option: tuple[str, str], tmp_path: Path) -> None:
        result = orch("plan", "-c", str(REAL), *option, folder=tmp_path)
        assert result.status == 1
        assert "give --nodes too" in result.err


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (89, "89 s"), (90, "1.5 min"), (7200, "2.0 h"), (864000, "10.0 days")]
)
def test_a_span_is_easy_to_read(seconds: float, text: str) -> None:
    assert span(seconds) == text
