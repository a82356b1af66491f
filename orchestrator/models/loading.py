"""Load an encoder from a folder or the hub, or say in one sentence why it cannot be."""

from __future__ import annotations

from transformers import AutoModelForMaskedLM

from orchestrator.errors import DataError
from orchestrator.models.architectures import ARCHITECTURES
from orchestrator.models.checkpoints import describe_checkpoint, weights_folder
from orchestrator.models.devices import Device, DtypeName, torch_dtype
from orchestrator.models.encoder import Encoder
from orchestrator.models.quiet import quiet_transformers


def load_encoder(
    path: str,
    *,
    revision: str | None = None,
    dtype: DtypeName = "float32",
    device: Device = "cpu",
    need_head: bool,
) -> Encoder:
    """Load a checkpoint for inference (evaluation mode, parameters as they come; see `freeze`).

    Args:
        path: a folder with config.json and safetensors, or a name on the hub.
        revision: branch, tag or commit on the hub.
        dtype: number format of the weights.
        device: where they go.
        need_head: whether a checkpoint without masked-language-model head is an error; else it becomes an encoder
            with `has_head` false.

    Raises:
        DataError: the checkpoint is not there, damaged, not supported, has no safetensors, or lacks a needed part.
    """
    info = describe_checkpoint(path, revision=revision)
    folder = weights_folder(path, revision=revision)
    try:
        with quiet_transformers():
            model, loading = AutoModelForMaskedLM.from_pretrained(
                str(folder),
                dtype=torch_dtype(dtype),
                attn_implementation="sdpa",
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # whatever a damaged checkpoint makes transformers, torch or safetensors raise
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise DataError(f"{path}: the checkpoint cannot be loaded: {reason}") from error
    architecture = ARCHITECTURES[info.architecture]
    missing = sorted(loading["missing_keys"])
    without_head = [key for key in missing if key.startswith(f"{architecture.base_path}.")]
    if without_head:
        raise DataError(
            f"{path}: the checkpoint lacks {len(without_head)} weight(s) of its encoder, such as '{without_head[0]}';"
            " fetch or export it again"
        )
    if missing and need_head:
        raise DataError(
            f"{path}: the checkpoint has no masked-language-model head (it lacks '{missing[0]}'), but its distribution"
            " is asked for; take a ...ForMaskedLM checkpoint, or objectives on hidden states alone"
        )
    encoder = Encoder(model if not missing else model.get_submodule(architecture.base_path))
    return encoder.to(device).eval()
