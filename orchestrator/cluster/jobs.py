"""What `ray job submit` does to the process that it starts, as far as it matters here."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from pathlib import Path

from orchestrator.errors import ClusterError

#: Ray hands a job its runtime environment so.
_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
#: Ray unpacks `--working-dir` in a folder below one of this name, on each machine that works for the job.
_COPIES = "working_dir_files"


def submitted_files() -> Path | None:
    """This machine's copy of the files that a job was submitted with, if this process is in it."""
    here = Path.cwd()
    return next((folder for folder in (here, *here.parents) if folder.parent.name == _COPIES), None)


def given_by_job() -> Collection[str]:
    """Parts of the runtime environment that a job was submitted with; Ray refuses those that are given twice."""
    config = json.loads(os.environ.get(_JOB_CONFIG) or "{}")
    return frozenset(config.get("runtime_env") or {})


def check_lasting(folder: str, *, key: str) -> None:
    """Refuse a folder for results that goes with the job; `key` names it in the message.

    Raises:
        ClusterError: it lies among the files that the job was submitted with.
    """
    copy = submitted_files()
    if copy is not None and "://" not in folder and Path(folder).absolute().is_relative_to(copy):
        raise ClusterError(
            f"{key} '{folder}' lies among the files that this job was submitted with, of which every machine has a "
            "copy that Ray removes; name a folder that all machines share, as in --set run.root=/shared/runs/mine"
        )
