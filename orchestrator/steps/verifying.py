"""Check everything that a run has on disk against its checksums."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from orchestrator.errors import OrchError
from orchestrator.run import Run
from orchestrator.signals.store import Store
from orchestrator.steps.exports import student_receipt
from orchestrator.storage import hash_file

#: Folders that a kill left before they had their name; the next start clears them away.
_UNFINISHED = re.compile(r"\.tmp-\d+-[0-9a-f]+$|\.partial$")


def verify_run(run: Run, on_progress: Callable[[str], None] | None = None) -> list[str]:
    """Every problem as one sentence; reads every file of corpus, signals, vocabularies, checkpoints and students."""
    problems: list[str] = []
    for folder, check in _checks(run):
        if on_progress is not None:
            on_progress(str(folder))
        try:
            problems += check(folder)
        except OrchError as error:
            problems.append(str(error))
    return problems


def _checks(run: Run) -> Iterator[tuple[Path, Callable[[Path], list[str]]]]:
    """Every folder of a run that has checksums, with what checks it."""
    shared = {"corpus/*": _corpus, "signals/*": _signals, "vocab/*": _vocabulary}
    rooms = [(run.stores, pattern, check) for pattern, check in shared.items()]
    for place, pattern, check in [*rooms, (run.root, "students/*/*", _student)]:
        for folder in sorted(place.glob(pattern)):
            if not _UNFINISHED.search(folder.name):
                yield folder, check


def _corpus(folder: Path) -> list[str]:
    from orchestrator.corpus.store import open_corpus

    corpus = open_corpus(folder)
    for language in corpus.languages:
        for split in ("train", "held_out"):
            corpus.texts(language, split, 0, corpus.info(language, split).num_texts)
    return []


def _signals(folder: Path) -> list[str]:
    """Without shards that are yet to be computed: a store covers more than one setup may need."""
    store = Store.open(folder)
    waiting = {f"{store.receipt_path(unit.index)} is missing;" for unit in store.units} - {
        f"{store.receipt_path(index)} is missing;" for index in store.listed_receipts
    }
    return [
        problem
        for problem in store.verify()
        if not problem.startswith(tuple(waiting)) and not _UNFINISHED.search(problem.partition(" ")[0])
    ]


def _vocabulary(folder: Path) -> list[str]:
    from vocab_tools.errors import VocabularyError
    from vocab_tools.mapping import open_vocabulary

    try:
        open_vocabulary(folder).verify()
    except VocabularyError as error:
        return [str(error)]
    return []


def _student(folder: Path) -> list[str]:
    from orchestrator.students import checkpoint

    problems = []
    for step in checkpoint.steps(folder / "checkpoints"):
        try:
            checkpoint.check(folder / "checkpoints", step)
        except OrchError as error:
            if step in checkpoint.steps(folder / "checkpoints"):  # and was not removed meanwhile, by who trains
                problems.append(str(error))
    receipt = student_receipt(folder)
    files = receipt.get("files") if receipt is not None else None
    again = f"remove {folder / 'final'} and run `orch train-students` to train this student again."
    if isinstance(files, dict):
        for name, expected in files.items():
            path = folder / "final" / name
            if not path.is_file():
                problems.append(f"{path} is missing; {again}")
            elif hash_file(path) != expected:
                problems.append(f"{path} was changed since it was exported; {again}")
    return problems
