"""The same objective as users of others run it: TextBrewer, and a loop as in DistilBERT's scripts; live teachers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec

import torch
from torch.nn.functional import cosine_embedding_loss, cross_entropy, kl_div, log_softmax, softmax
from transformers import AutoModelForMaskedLM, BertForMaskedLM

from orchestrator.teachers.batches import pad_rows
from tests.benchmarks.bars import Bar
from tests.benchmarks.pairs import ratios, seconds_of
from tests.benchmarks.scene import TEACHER, Scene, scene
from tests.benchmarks.step import Training

TOKENS = 2048
Batch = dict[str, torch.Tensor]


def bars(rounds: int) -> Iterator[Bar]:
    """A step of 2 048 tokens, padding included; seconds per token of text."""
    with scene({"big": ["de"]}) as here:
        here.fill("a")
        with closing(Training(here.jobs("a", "one-to-one")[0])) as training:
            tokens = [0]

            def ours() -> None:
                (taken,) = training.step(1).values()
                tokens[0] += taken.num_tokens

            peers = {
                "DistilBERT-style loop, float32": _distilbert(here, autocast=False),
                "DistilBERT-style loop, bfloat16": _distilbert(here, autocast=True),
            }
            if find_spec("textbrewer") is not None:  # `make bench` installs it
                peers["TextBrewer, float32"] = _textbrewer(here, autocast=False)
                peers["TextBrewer, bfloat16"] = _textbrewer(here, autocast=True)
            seconds = seconds_of(ours, *[step for step, _ in peers.values()], rounds=rounds)
            own_tokens = tokens[0] / (rounds + 1)
        for (name, (_, per_step)), own in zip(peers.items(), seconds[1:], strict=True):
            speed = [ratio * own_tokens / per_step for ratio in ratios(own, seconds[0])]
            wanted = 3.0 if name.endswith("float32") else None
            what = "distillation step from the store, per token of text"
            yield Bar(what, name, speed, "≥", wanted, note="" if wanted else "not how their users run it on a CPU")


def _batches(here: Scene) -> tuple[Callable[[], Batch], float]:
    """Rows in the order of the corpus, padded to the longest: input, mask, labels (−100 where nothing is masked)."""
    rows = here.rows("a", here.units["big"][0])
    width = int(rows.num_tokens.max())
    size = max(1, TOKENS // width)
    places = iter(range(10**9))

    def batch() -> Batch:
        first = next(places) * size % (len(rows) - size)
        chosen = torch.arange(first, first + size).numpy()
        padded = pad_rows(rows, chosen, pad_id=1)
        more = (0, width - padded.input_ids.shape[1])
        labels = torch.full(padded.input_ids.shape, -100)
        labels.view(-1)[torch.as_tensor(padded.masked_positions)] = torch.from_numpy(
            rows.label_id[padded.masked].astype("int64")
        )
        return {
            "input_ids": torch.nn.functional.pad(padded.input_ids, more, value=1),
            "attention_mask": torch.nn.functional.pad(padded.attention_mask, more).long(),
            "labels": torch.nn.functional.pad(labels, more, value=-100),
        }

    return batch, size * float(rows.num_tokens.mean())


def _models(*, autocast: bool) -> tuple[BertForMaskedLM, BertForMaskedLM]:
    """The teacher, and a student of four of its layers."""
    teacher = AutoModelForMaskedLM.from_pretrained(TEACHER, dtype=torch.bfloat16 if autocast else torch.float32).eval()
    config = teacher.config.__class__.from_dict(teacher.config.to_dict() | {"num_hidden_layers": 4})
    return teacher, BertForMaskedLM(config).train()


def _distilbert(here: Scene, *, autocast: bool) -> tuple[Callable[[], None], float]:
    """Logits of all positions, those of masked ones selected; KL at temperature 2, masked LM, cosine of last states."""
    batch, tokens = _batches(here)
    teacher, student = _models(autocast=autocast)
    optimiser = torch.optim.AdamW(student.parameters(), lr=5e-4)
    temperature = 2.0

    def step() -> None:
        inputs = batch()
        mask = inputs["labels"] >= 0
        ids, attention = inputs["input_ids"], inputs["attention_mask"]
        with torch.no_grad():
            told = teacher(input_ids=ids, attention_mask=attention, output_hidden_states=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            own = student(input_ids=ids, attention_mask=attention, output_hidden_states=True)
            own_logits, told_logits = own.logits[mask].float(), told.logits[mask].float()
            loss = kl_div(
                log_softmax(own_logits / temperature, -1), softmax(told_logits / temperature, -1), reduction="batchmean"
            )
            loss = loss * temperature**2 + cross_entropy(own_logits, inputs["labels"][mask])
            text = attention.bool()
            last, wanted = own.hidden_states[-1][text].float(), told.hidden_states[-1][text].float()
            loss = loss + cosine_embedding_loss(last, wanted, torch.ones(len(last)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step, tokens


def _textbrewer(here: Scene, *, autocast: bool) -> tuple[Callable[[], None], float]:
    """Its GeneralDistiller: logits of masked positions, hard labels, and the last hidden state."""
    from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig

    batch, tokens = _batches(here)
    teacher, student = _models(autocast=autocast)
    last = {"layer_T": 12, "layer_S": 4, "feature": "hidden", "loss": "cos", "weight": 1}
    distiller = GeneralDistiller(
        train_config=TrainingConfig(device="cpu", log_dir=None, output_dir=str(here.root / "textbrewer")),
        distill_config=DistillationConfig(
            temperature=2, kd_loss_weight=1, hard_label_weight=1, intermediate_matches=[last]
        ),
        model_T=teacher,
        model_S=student,
        adaptor_T=_adapted,
        adaptor_S=_adapted,
    )
    optimiser = torch.optim.AdamW(student.parameters(), lr=5e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss, _ = distiller.train_on_batch(batch(), {"output_hidden_states": True})
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return step, tokens


def _adapted(batch: Batch, output) -> dict[str, object]:  # type: ignore[no-untyped-def]
    return {
        "logits": (output.logits,),
        "logits_mask": ((batch["labels"] >= 0).long(),),
        "hidden": output.hidden_states,
        "inputs_mask": batch["attention_mask"],
        "losses": (output.loss,),
    }
