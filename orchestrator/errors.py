"""Every error that orch raises on purpose.

    OrchError                      one sentence for a person: what is wrong, where, what was expected, what to do
    ├── ConfigError                the YAML, an override or a setup cannot be satisfied
    ├── DataError                  a corpus, tokenizer or checkpoint cannot be used as asked
    ├── StoreError                 a signal store, shard, receipt or map is missing, damaged or of another run
    ├── StorageError               the disk or the object store refused (full, read-only, I/O error)
    ├── ClusterError               Ray cannot be reached, or a worker was lost too often
    └── UnitError                  a unit of work failed by its own fault; names the unit

Anything else that escapes is a defect of orch and keeps its traceback.
"""

from orchestrator.credentials import without_credentials


class OrchError(Exception):
    """A failure that a person can mend; its text is shown without a traceback, and holds no credentials."""

    def __str__(self) -> str:
        """The sentence, wherever it goes: terminals, logs, lists of what was given up."""
        return without_credentials(super().__str__())

    def __reduce__(self) -> tuple[type["OrchError"], tuple[str]]:
        """Travel between processes as the class and its one sentence."""
        return type(self), (str(self),)


class ConfigError(OrchError):
    """The configuration is wrong, or asks for what cannot be had."""


class DataError(OrchError):
    """Text, a tokenizer or a checkpoint is missing or does not fit."""


class StoreError(OrchError):
    """A file of a run is missing, damaged, or belongs to other inputs."""


class StorageError(OrchError):
    """A read or write was refused by the storage below."""


class ClusterError(OrchError):
    """Workers cannot be started or reached, or were lost too often."""


class UnitError(OrchError):
    """One unit of work failed by its own fault and was not retried."""
