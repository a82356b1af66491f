"""Step: one page with everything that was measured in a run, and the model cards brought up to date."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from orchestrator import costs
from orchestrator.run import Run
from orchestrator.steps.exports import write_cards


def write_report(run: Run) -> Path:
    """Write the report of the whole run folder; returns the page."""
    from orchestrator.report.page import write_report as write_page

    write_cards(run)
    return write_page(run.root, facts=_facts(run))


def _facts(run: Run) -> dict[str, str]:
    """Costs in words: what each teacher's pass took, and what it left on disk."""
    facts: dict[str, str] = {}
    units: dict[str, list[costs.UnitCost]] = defaultdict(list)
    for cost in costs.read(run.stores):
        units[cost.teacher].append(cost)
    for teacher, found in units.items():
        tokens, seconds = sum(cost.tokens for cost in found), sum(cost.seconds for cost in found)
        num_bytes = sum(cost.num_bytes for cost in found)
        facts[f"pass of teacher {teacher}"] = (
            f"{tokens:,} tokens in {seconds / 60:.1f} worker minutes ({tokens / max(seconds, 1e-9):,.0f} tokens/s each)"
        )
        facts[f"signals of teacher {teacher}"] = (
            f"{num_bytes / 1e6:,.1f} MB, {num_bytes / max(tokens, 1):.0f} bytes per token"
        )
    return facts
