"""`python -m tests.experiments.recipes --out DIR --seeds 1 2 3 --steps N`: every recipe on the same student and text.

The teacher is the multilingual checkpoint beside the project (mergedistill: the English one for English), the student
four layers of its width. Every recipe is an ordinary run of orch under DIR/seed-S/NAME, with its orch.yaml beside it;
the runs of a seed share corpus, signals and vocabularies through links to DIR/seed-S/shared, where the teacher says
once what all of them ask. All read the same rows in the same order for the same number of steps, and start with the
same weights (four of the teacher's layers), unless the recipe says how a student starts (pkd: the lowest layers;
xtremedistil: layers at random). monoshot and monoalignment are trained as one student of all languages, so that they
can be compared.

Start it again after a stop: it goes on. When the students of a seed are trained they are measured together, in one
pass of the teacher. Every row of the table is a line of `docs/results/recipes.jsonl`; the table is beside it.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
import yaml

from orchestrator import pipeline
from orchestrator.evaluation.evaluate import evaluate
from orchestrator.evaluation.job import EvaluatedModel
from orchestrator.records import MetricRow
from orchestrator.run import Run, open_run
from orchestrator.steps.evaluating import _job as evaluation_job
from tests.experiments.measuring import Row, first_and_last, read_training, scores, signal_bytes, speed
from tests.experiments.plans import CONTROLS, RECIPES, Plan, configuration, together
from tests.experiments.table import markdown

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
TEACHER = "multilingual"
#: Parts of a run's folder that the runs of a seed have in common.
COMMON = ("corpus", "signals", "vocab")

_log = logging.getLogger("experiments")


def main() -> None:
    arguments = _arguments()
    plan = Plan(
        out=arguments.out.resolve(),
        steps=arguments.steps,
        max_texts=arguments.max_texts,
        max_pairs=arguments.max_pairs,
        threads=arguments.threads,
        tokens_per_batch=arguments.tokens_per_batch,
    )
    plan.out.mkdir(parents=True, exist_ok=True)
    _log_to(plan.out / "progress.log")
    torch.set_num_threads(plan.threads)
    failed: dict[tuple[int, str], str] = {}
    for seed in arguments.seeds:
        names = (*CONTROLS, *arguments.recipes)
        failed |= {(seed, name): reason for name, reason in train(plan, names, seed=seed).items()}
        measure(plan, [name for name in names if (seed, name) not in failed], seed=seed)
        write_results(plan, arguments.results)
    for (seed, name), reason in failed.items():
        _log.error("seed %d, %s: %s", seed, name, reason)
    if failed:
        raise SystemExit(1)


def train(plan: Plan, names: Sequence[str], *, seed: int) -> dict[str, str]:
    """Let the teacher speak and train what is missing; what failed, and why."""
    failed = {}
    shared = _open(plan, together(plan, names, seed=seed), plan.root(seed, "shared"))
    with pipeline.driving(shared), pipeline.lazy_cluster(shared) as cluster:
        pipeline.compute_signals(shared, cluster)
    for number, name in enumerate(names, start=1):
        started = time.monotonic()
        try:
            run = _linked(plan, name, seed=seed)
            with pipeline.driving(run), pipeline.lazy_cluster(run) as cluster:
                pipeline.compute_signals(run, cluster)
                pipeline.build_vocabularies(run)
                pipeline.train(run, cluster.get)
        except Exception as error:  # the others can still be trained
            failed[name] = str(error)
            _log.error("seed %d, %d of %d: %s failed", seed, number, len(names), name, exc_info=error)
        else:
            seconds = time.monotonic() - started
            _log.info("seed %d, %d of %d: %s is trained, %.0f s", seed, number, len(names), name, seconds)
    return failed


def measure(plan: Plan, names: Sequence[str], *, seed: int) -> None:
    """Evaluate the students that have no row yet, all in one job, so that the teacher runs once."""
    waiting = [name for name in names if not _row_path(plan, name, seed).exists()]
    if not waiting:
        return
    started = time.monotonic()
    runs = {name: _linked(plan, name, seed=seed) for name in waiting}
    jobs = {name: evaluation_job(run, threads=plan.threads) for name, run in runs.items()}
    models: dict[str, EvaluatedModel] = {}
    for name, job in jobs.items():
        for model in job.models:
            own = model if model.role == "teacher" else replace(model, name=name)
            models.setdefault(own.name, own)
    job = replace(next(iter(jobs.values())), models=tuple(models.values()), systems={})
    rows = list(evaluate(job))
    _write_jsonl(plan.root(seed, "shared") / "metrics.jsonl", [asdict(row) for row in rows])
    _log.info("seed %d: %d students are measured, %.0f s", seed, len(waiting), time.monotonic() - started)
    for name, run in runs.items():
        _keep(plan, _row(plan, run, name, seed, [row for row in rows if row.model == name]))
    of_teacher = [row for row in rows if row.model == TEACHER]
    _keep(plan, Row(name="teacher", seed=seed, steps=0, **scores(of_teacher)))  # type: ignore[arg-type]


def write_results(plan: Plan, folder: Path) -> None:
    """The rows of all seeds so far, and their table."""
    rows = list(_rows(plan))
    _write_jsonl(folder / "recipes.jsonl", [asdict(row) for row in rows])
    (folder / "recipes.md").write_text(markdown(rows), encoding="utf-8")
    _log.info("%d rows in %s", len(rows), folder / "recipes.md")


def _row(plan: Plan, run: Run, name: str, seed: int, rows: Sequence[MetricRow]) -> Row:
    metrics = read_training(run.students_folder / "student" / "metrics.jsonl")
    trained = {} if name == "untrained" else {"terms": first_and_last(metrics), "tokens_per_second": speed(metrics)}
    return Row(
        name=name,
        seed=seed,
        steps=run.config.training.steps,
        signal_bytes_per_token=signal_bytes(run),
        **scores(rows),  # type: ignore[arg-type]
        **trained,  # type: ignore[arg-type]
    )


def _linked(plan: Plan, name: str, *, seed: int) -> Run:
    """A run of its own, whose corpus, signals and vocabularies are those of all runs of the seed."""
    root, shared = plan.root(seed, name), plan.root(seed, "shared")
    root.mkdir(parents=True, exist_ok=True)
    for part in COMMON:
        (shared / part).mkdir(parents=True, exist_ok=True)
        if not (root / part).is_symlink():
            (root / part).symlink_to(Path("..") / "shared" / part)
    return _open(plan, configuration(plan, name, seed=seed), root)


def _open(plan: Plan, tree: dict[str, object], root: Path) -> Run:
    root.mkdir(parents=True, exist_ok=True)
    path = root / "orch.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return open_run(path, address="in-process")


def _row_path(plan: Plan, name: str, seed: int) -> Path:
    return plan.root(seed, "rows") / f"{name}.json"


def _keep(plan: Plan, row: Row) -> None:
    path = _row_path(plan, row.name, row.seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(row), indent=1), encoding="utf-8")


def _rows(plan: Plan) -> Iterator[Row]:
    for path in sorted(plan.out.glob("seed-*/rows/*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        yield Row(**{**found, "terms": {name: (ends[0], ends[1]) for name, ends in found["terms"].items()}})


def _write_jsonl(path: Path, rows: Sequence[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")


def _log_to(path: Path) -> None:
    formatter = logging.Formatter("%(asctime)s %(message)s")
    for handler in (logging.FileHandler(path), logging.StreamHandler()):
        handler.setFormatter(formatter)
        _log.addHandler(handler)
    _log.setLevel(logging.INFO)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the runs go")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--tokens-per-batch", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--max-texts", type=int, help="training texts per language; default all")
    parser.add_argument("--max-pairs", type=int, default=200, help="pairs for retrieval")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where rows and table go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
