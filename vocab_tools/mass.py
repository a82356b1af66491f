"""How much of a teacher's own distribution falls on ids that a student vocabulary lacks, measured on real text.

B rows, L tokens, M masked positions, V_t ids of the teacher. torch and transformers are imported when it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vocab_tools.errors import VocabularyError
from vocab_tools.files import parse_json, read_bytes
from vocab_tools.read import TeacherTokenizer
from vocab_tools.union import Int32

if TYPE_CHECKING:
    from transformers.modeling_outputs import BaseModelOutput

_MOST_TEXTS = 200
_BATCH = 16
_LENGTH = 128
_MASKED_SHARE = 0.15
_MAX_CONFIG_BYTES = 1 << 26


def has_model(path: Path | str) -> bool:
    """Whether a folder holds, beside its tokenizer, a checkpoint with a masked-language-model head."""
    config, folder = Path(path) / "config.json", Path(path)
    if not config.is_file() or not any(folder.glob("*.safetensors")):
        return False
    try:
        document = parse_json(read_bytes(config, max_bytes=_MAX_CONFIG_BYTES))
    except ValueError:
        return False
    classes = document.get("architectures") if isinstance(document, dict) else None
    return isinstance(classes, list) and any(
        str(one).endswith(("ForMaskedLM", "BertForPreTraining")) for one in classes
    )


def teacher_mass_outside(
    model: Path | str, teacher: TeacherTokenizer, texts: Sequence[str], table: Int32, *, seed: int = 0
) -> float:
    """Mean probability that a masked language model gives to ids with map -1, over masked positions of `texts`.

    15 % of the ordinary tokens are masked, drawn by `seed`; the first 200 texts, cut at 128 tokens; temperature 1,
    float32. `table` is int32 [V_t]; rows of the head beyond it count as outside.
    """
    try:
        import torch
    except ImportError as error:
        raise VocabularyError("asking a model for masses needs torch; install it") from error
    from transformers import AutoModelForMaskedLM
    from transformers.utils import logging as transformers_logging

    if "mask" not in teacher.roles:
        raise VocabularyError(f"tokenizer '{teacher.name}' has no mask token, so its model cannot be asked for masses")
    shows_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        encoder = AutoModelForMaskedLM.from_pretrained(
            model,
            dtype=torch.float32,
            local_files_only=Path(model).exists(),
            trust_remote_code=False,
            use_safetensors=True,
        ).eval()
    except Exception as error:  # whatever transformers meets in a damaged or foreign checkpoint
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise VocabularyError(f"the model in {model} cannot be opened to ask for masses ({reason})") from error
    finally:
        if shows_bars:
            transformers_logging.enable_progress_bar()
    generator = np.random.default_rng(seed)
    chosen = torch.zeros(0, dtype=torch.bool)

    def keep_chosen(_module: torch.nn.Module, _inputs: object, output: BaseModelOutput) -> BaseModelOutput:
        assert output.last_hidden_state is not None
        output.last_hidden_state = output.last_hidden_state[chosen][None]  # the head runs where it is needed: [1, M, D]
        return output

    encoder.base_model.register_forward_hook(keep_chosen)
    total, count = 0.0, 0
    with torch.inference_mode():
        for ids, attention in _batches(teacher, texts):
            ordinary = attention & ~np.isin(ids, list(teacher.roles.values()))
            masked = ordinary & (generator.random(ids.shape) < _MASKED_SHARE)
            if not masked.any():
                continue
            ids[masked] = teacher.roles["mask"]
            chosen = torch.from_numpy(masked)
            output = encoder(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(attention).long())
            probabilities = output.logits[0].softmax(-1)  # [M, V_t]
            inside = np.zeros(probabilities.shape[-1], dtype=np.float32)
            inside[: len(table)] = table[: len(inside)] >= 0
            total += float((1.0 - probabilities @ torch.from_numpy(inside)).clamp(0.0, 1.0).sum())
            count += int(masked.sum())
    return total / max(1, count)


def _batches(
    teacher: TeacherTokenizer, texts: Sequence[str]
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
    """Ids and where they are no padding, both [B, L], shortest texts first."""
    backend = teacher.backend()
    backend.no_padding()
    backend.enable_truncation(_LENGTH)
    rows = sorted((encoding.ids for encoding in backend.encode_batch(list(texts[:_MOST_TEXTS]))), key=len)
    for start in range(0, len(rows), _BATCH):
        batch = rows[start : start + _BATCH]
        lengths = np.array([len(row) for row in batch])
        attention = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(attention.shape, teacher.roles.get("pad", 0), dtype=np.int64)
        ids[attention] = np.concatenate([np.array(row, dtype=np.int64) for row in batch])
        yield ids, attention
