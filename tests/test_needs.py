"""What teachers and students take of clusters of all kinds, chosen and as the configuration says."""

from __future__ import annotations

import pytest

from orchestrator.cluster import Machine, Need
from orchestrator.config.loading import parse_config
from orchestrator.config.setups import expand
from orchestrator.errors import ClusterError, ConfigError
from orchestrator.run import Run
from orchestrator.steps.needs import Room, share_out, teacher_actors, teacher_need
from tests.pretended import Pretended


def a_run(*, threads: int = 1, groups: int = 1, mode: str = "cache", **cluster: object) -> Run:
    languages = ["en", "de", "fi", "ru"][:groups]
    tree = {
        "run": {"setup": "one-to-many" if groups > 1 else "one-to-one"},
        "corpus": {"languages": {language: f"{language}.txt" for language in languages}},
        "teachers": {"t": {"model": "somewhere", "languages": languages, "threads": threads}},
        "student": {"layers": 1, "hidden_size": 8, "heads": 2},
        "objectives": [{"type": "masked-lm"}],
        "training": {"baseline": False},
        "signals": {"mode": mode},
        "cluster": cluster,
    }
    return Run(expand(parse_config(tree, where="test")), None)


LAPTOP, NODE, GPUS = Machine(8.0), Machine(4.0), Machine(16.0, 4.0)


class TestTeachers:
    @pytest.mark.parametrize(
        ("cluster", "machines", "need", "actors"),
        [
            ({}, [LAPTOP], Need(1.0), (8, 8)),
            ({"threads": 3}, [LAPTOP], Need(3.0), (2, 2)),
            ({"threads": 3}, [NODE, NODE], Need(3.0), (2, 2)),  # five CPUs in all would not make a third
            ({}, [GPUS], Need(1.0, 1.0), (4, 4)),
            ({"gpus_per_teacher": 0.25}, [GPUS], Need(1.0, 0.25), (16, 16)),
            ({"gpus_per_teacher": 0}, [GPUS], Need(1.0), (16, 16)),
            ({"teacher_actors": 3}, [LAPTOP], Need(1.0), (3, 3)),
            ({"teacher_actors": {"max": 2}}, [LAPTOP], Need(1.0), (2, 2)),
            ({"teacher_placement": "spread"}, [NODE, NODE], Need(1.0, spread=True), (8, 8)),
            (
                {"resources_per_teacher": {"fast": 1}},
                [NODE, Machine(4.0, 0.0, {"fast": 2.0})],
                Need(1.0, resources={"fast": 1.0}),
                (2, 2),
            ),
        ],
    )
    def test_on_machines_that_stay(
        self, cluster: dict[str, object], machines: list[Machine], need: Need, actors: tuple[int, int]
    ) -> None:
        run, there = a_run(**cluster), Pretended(*machines)  # type: ignore[arg-type]
        assert teacher_need(run, there) == need
        assert teacher_actors(run, there, need) == actors

    def test_a_joined_cluster_has_no_end_and_may_begin_empty(self) -> None:
        empty, some = Pretended(Machine(0.0), is_joined=True), Pretended(NODE, is_joined=True)
        assert teacher_actors(a_run(), some, Need(1.0)) == (4, None)
        assert teacher_actors(a_run(), empty, Need(1.0)) == (1, None)
        assert teacher_actors(a_run(teacher_actors={"min": 6, "max": 20}), empty, Need(1.0)) == (6, 20)

    def test_tokenising_takes_no_gpu(self) -> None:
        assert teacher_need(a_run(), Pretended(GPUS), runs_model=False) == Need(1.0)


class TestBesideStudents:
    @pytest.mark.parametrize(
        ("cluster", "machines", "student"),
        [
            ({"groups": 2}, [LAPTOP], Need(4.0)),
            ({"groups": 3}, [LAPTOP], Need(2.0)),
            ({"groups": 2}, [NODE, NODE], Need(4.0)),
            ({"groups": 1}, [NODE, NODE], Need(4.0)),  # no machine has eight
            ({"groups": 3}, [NODE, NODE], Need(2.0)),
            ({"groups": 4}, [Machine(2.0)], Need(1.0)),  # two by two
            ({"groups": 4}, [GPUS], Need(4.0, 1.0)),
            ({"groups": 4}, [Machine(8.0, 2.0)], Need(2.0, 0.5)),
            ({"groups": 2, "student_workers": 4}, [GPUS], Need(2.0, 1.0)),  # NCCL: a GPU each
            ({"groups": 1, "student_placement": "spread"}, [NODE], Need(4.0, spread=True)),
        ],
    )
    def test_students_alone(self, cluster: dict[str, object], machines: list[Machine], student: Need) -> None:
        run = a_run(**cluster)  # type: ignore[arg-type]
        assert share_out(run, Pretended(*machines), answers=False).student == student

    def test_teachers_that_answer_leave_half(self) -> None:
        run = a_run(groups=2, mode="live")
        assert share_out(run, Pretended(LAPTOP), answers=True) == Room(4, Need(1.0), Need(2.0))
        assert share_out(run, Pretended(GPUS), answers=True) == Room(2, Need(1.0, 1.0), Need(7.0, 1.0))
        assert share_out(run, Pretended(Machine(4.0, 1.0)), answers=True) == Room(1, Need(1.0, 0.5), Need(1.0, 0.25))

    def test_what_leaves_no_room_is_refused(self) -> None:
        run = a_run(mode="live", teacher_actors=8)
        with pytest.raises(ClusterError, match="8 teachers with 1 CPUs and 0 GPUs each leave 0 CPUs"):
            share_out(run, Pretended(LAPTOP), answers=True)


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"teacher_actors": {"min": 3, "max": 2}}, "min 3 is more than max 2"),
        ({"gpus_per_teacher": 1.5}, r"1\.5 GPUs: give a part of one GPU"),
        ({"resources_per_student": {"GPU": 1}}, "'GPU' is not a resource of one's own"),
        ({"resources_per_student": {"fast": 0}}, "greater than 0"),
        ({"student_workers": 2, "gpus_per_student": 0.5}, "need a GPU each; give 1, or 0"),
        ({"student_placement": "heap"}, "'pack' or 'spread'"),
    ],
)
def test_what_cannot_be_is_refused(cluster: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        a_run(**cluster)  # type: ignore[arg-type]
