"""Write a student as an ordinary Hugging Face checkpoint, each file atomically."""

from __future__ import annotations

import tempfile
from pathlib import Path

from orchestrator.models.encoder import Encoder
from orchestrator.models.quiet import quiet_transformers
from orchestrator.storage import write_bytes


def export_student(encoder: Encoder, folder: Path) -> None:
    """Write config.json and safetensors so that `AutoModelForMaskedLM.from_pretrained(folder)` gives the same logits.

    A tied decoder is written once and tied again at loading; config.json is written last, so a folder that has one is
    whole. Raises StorageError when the disk refuses.
    """
    with tempfile.TemporaryDirectory() as scratch, quiet_transformers():
        encoder.model.save_pretrained(scratch)
        for file in sorted(Path(scratch).iterdir(), key=lambda file: (file.name == "config.json", file.name)):
            write_bytes(folder / file.name, file.read_bytes())
