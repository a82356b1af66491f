"""`orch plan --nodes`: a configuration, sizes that are given or read, rates that are given or were measured here."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator import costs
from orchestrator.config.setups import ExpandedRun
from orchestrator.errors import ConfigError
from orchestrator.planning import gemm_flops, language_tokens
from orchestrator.progress import last_rows
from orchestrator.run import Run, make_run
from orchestrator.scaling.jobs import describe_job, given_tokens
from orchestrator.scaling.times import Machines, Rates, ScalePlan, scale
from orchestrator.steps.signals import known_corpus, plan_stores


@dataclass(frozen=True)
class ScaleOptions:
    """What `orch plan --nodes` was given; None where it is to be found out.

    `tokens`: of all languages, one masked copy. Rates are tokens per second of one device; `teraflops` is what a big
    matrix product reaches there.
    """

    machines: Machines
    tokens: float | None = None
    epochs: float | None = None
    teacher_rate: float | None = None
    student_rate: float | None = None
    teraflops: float | None = None


def make_scale_plan(expanded: ExpandedRun, options: ScaleOptions) -> ScalePlan:
    """What a configuration takes on many machines; neither its text nor its teachers have to be there.

    Raises:
        ConfigError: something is neither given nor known here; the text says which option tells it.
    """
    config = expanded.config
    if options.tokens is not None or config.plan.text_gigabytes:
        tokens = given_tokens(config, total=options.tokens)
    else:
        tokens = _known_tokens(make_run(config, setup=expanded.setup))
    text_bytes = sum(tokens.values()) * config.plan.bytes_per_token
    job = describe_job(expanded, tokens=tokens, text_bytes=text_bytes, epochs=options.epochs)
    return scale(job, options.machines, _rates(Run(expanded, None), options))


def _known_tokens(run: Run) -> dict[str, float]:
    """Of each language of the corpus that is read, in the tokens of the teacher that says most of them."""
    tokens: dict[str, float] = {}
    for store in plan_stores(run, known_corpus(run)).values():
        for language, count in language_tokens(run, store).items():
            tokens[language] = max(count, tokens.get(language, 0.0))
    return tokens


def _rates(run: Run, options: ScaleOptions) -> Rates:
    """Those that were given; else those that this run measured of itself, where such a device did; else FLOP/s."""
    is_alike = has_gpu() == (options.machines.gpus > 0)
    teachers: dict[str, float] = {}
    if options.teacher_rate is not None:
        teachers = dict.fromkeys(run.teachers, options.teacher_rate)
    elif is_alike:
        spent = costs.read(run.stores)
        for name in run.teachers:
            units = [cost for cost in spent if cost.teacher == name]
            measured = costs.tokens_per_worker(units) if has_gpu() else costs.tokens_per_second(units)
            teachers |= {name: measured} if measured is not None else {}
    students = options.student_rate
    if students is None and is_alike:
        students = _group_speed(run)
    if options.teraflops is not None:
        return Rates(options.teraflops * 1e12, teachers, students)
    if len(teachers) == len(run.teachers) and students is not None:
        return Rates(0.0, teachers, students)
    if not is_alike:
        raise ConfigError(
            "This machine has no GPU to measure; give --device-tflops (what a big matrix product reaches on one), or "
            "--teacher-tokens-per-second and --student-tokens-per-second."
            if options.machines.gpus
            else "This machine has a GPU, and the nodes of the plan have none; give --gpus, or --device-tflops."
        )
    return Rates(gemm_flops(), teachers, students)


def _group_speed(run: Run) -> float | None:
    """Tokens per second of all students of a group together, mean over the groups that were trained."""
    speeds = []
    for group in run.expanded.groups:
        rows = [last_rows(run.students_folder / student.name / "metrics.jsonl") for student in group.students]
        own = [found[-1].get("tokens_per_second") for found in rows if found]
        speeds += [sum(speed for speed in own if isinstance(speed, float))] if own else []
    return sum(speeds) / len(speeds) if speeds else None


def has_gpu() -> bool:
    """Whether this machine has one that torch can use."""
    from orchestrator.models.devices import pick_device

    return pick_device("auto") == "cuda"
