"""What `orch plan --nodes` prints."""

from __future__ import annotations

from rich.markup import escape

from orchestrator.display import console, plain_table, say
from orchestrator.scaling.times import Demand, ScalePlan


def print_scale_plan(plan: ScalePlan) -> None:
    """What is stored, how long each phase takes, what it waits for."""
    job, machines = plan.job, plan.machines
    kind = f"{machines.gpus} GPUs each" if machines.gpus else "no GPUs"
    nodes = "1 node" if machines.nodes == 1 else f"{machines.nodes} nodes"
    say(f"[bold]{nodes}[/], {kind}, {machines.network_gbit:g} Gbit/s; signals {job.mode}")
    teachers = plain_table(words=("teacher",), numbers=("tokens", "FLOP/token", "bytes/token", "stored"))
    for one in job.teachers:
        teachers.add_row(
            escape(one.name),
            _number(one.tokens),
            _number(one.flops_per_token),
            f"{sum(one.tables.values()):.0f}",
            _bytes(one.num_bytes),
        )
    console.print(teachers)
    for one in job.teachers:
        parts = " + ".join(f"{table} {_bytes(size * one.tokens)}" for table, size in one.tables.items())
        how = "" if job.mode == "cache" else ", of which only texts, tokens and masked are stored at once"
        say(f"[dim]{escape(one.name)}, by table{how}: {parts}[/]")
    console.print()
    students = plain_table(words=("student", "group"), numbers=("tokens", "FLOP/token", "read", "parameters"))
    for group in job.groups:
        for student in group.students:
            students.add_row(
                escape(student.name),
                escape(group.name),
                _number(student.tokens),
                _number(student.flops_per_token),
                _bytes(student.tokens * student.read_per_token),
                f"{student.parameters / 1e6:.0f} M",
            )
    console.print(students)
    console.print()
    phases = plain_table(words=("phase", "needs", "of"), numbers=("bytes", "time"))
    for phase in plan.phases:
        for demand in phase.demands:
            binds = demand is phase.bottleneck
            cells = (phase.name, demand.resource, demand.detail, _moved(demand), span(demand.seconds))
            phases.add_row(*(f"[bold]{escape(cell)}[/]" if binds and cell else escape(cell) for cell in cells))
    console.print(phases)
    say("[dim]Bold: what each phase waits for.[/]")
    spent = ", ".join(f"{who} {seconds / 3600:,.1f}" for who, seconds in plan.device_seconds.items())
    device = "GPU" if machines.gpus else "Node"
    say(f"{device} hours: {spent}. {plan.units:,} shards, {_bytes(plan.driver_bytes)} of the driver's memory.")
    if plan.has_too_many_shards:
        say("[red]More shards than a store may have[/] (a million): raise signals.shard_megabytes, or split the job.")
    slowest = plan.bottleneck
    share = slowest.seconds / plan.seconds if plan.seconds else 0.0
    say(
        f"Time: {span(plan.seconds)}, of which {slowest.name} {share:.0%}; bottleneck: {slowest.bottleneck.resource}. "
        "Evaluation is extra."
    )


def span(seconds: float) -> str:
    """12 s, 3.4 min, 5.6 h, 7.8 days."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


def _moved(demand: Demand) -> str:
    return _bytes(demand.num_bytes) if demand.num_bytes is not None else ""


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} PB"


def _number(value: float) -> str:
    """1.0e9 as 1 G."""
    for unit in ("", " k", " M", " G"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:,.3g} T"
