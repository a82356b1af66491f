"""Keep the Hugging Face libraries from writing to the terminal: it belongs to the command line layer."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_hub() -> Iterator[None]:
    """No progress bars and no warnings of huggingface_hub inside the block; afterwards all is as it was."""
    from huggingface_hub import utils as hub

    logger = logging.getLogger("huggingface_hub")
    level, progress = logger.level, not hub.are_progress_bars_disabled()  # type: ignore[attr-defined]
    logger.setLevel(logging.ERROR)
    hub.disable_progress_bars()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        logger.setLevel(level)
        if progress:
            hub.enable_progress_bars()  # type: ignore[attr-defined]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """The same for transformers and what it fetches."""
    from transformers.utils import logging as console

    with quiet_hub():
        verbosity, progress = console.get_verbosity(), console.is_progress_bar_enabled()
        console.set_verbosity_error()
        console.disable_progress_bar()
        try:
            yield
        finally:
            console.set_verbosity(verbosity)
            if progress:
                console.enable_progress_bar()
