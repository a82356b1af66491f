"""The demo: the whole job on text that ships with orch, from two teachers to students of them in three setups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Protocol

from orchestrator.errors import ConfigError
from orchestrator.pipeline import Stage, build_vocabularies, compute_signals, driving, lazy_cluster, run_all, train
from orchestrator.resources import configs_folder
from orchestrator.run import Run, open_run
from orchestrator.storage import write_bytes


class Saved(Protocol):
    """A tokenizer of the tokenizers library."""

    def to_str(self) -> str:
        """Its tokenizer.json."""


LANGUAGES = ("en", "de", "fi")
SETUPS = ("one-to-one", "many-to-one", "one-to-many")


def run_demo(folder: Path, *, address: str | None, stage: Stage) -> tuple[Run, Path]:
    """Prepare `folder`, make two teachers, then students of them in three setups; returns the last run and the report.

    What is done is not done again.
    """
    prepare(folder)
    teachers = open_run(folder / "teachers.yaml", address=address)
    with lazy_cluster(teachers) as cluster:
        with driving(teachers):
            compute_signals(teachers, cluster, stage=stage)
            with stage("vocabulary", teachers):
                build_vocabularies(teachers)
            with stage("train", teachers):
                train(teachers, cluster.get)
        for setup in SETUPS:
            run = open_run(folder / "orch.yaml", setup=setup, address=address)
            with driving(run):
                page = run_all(run, cluster, stage=stage)
    return run, page


def prepare(folder: Path) -> None:
    """Text, tokenizers and the two configurations, where they are not there yet."""
    source = configs_folder() / "demo"
    if any(character in str(folder) for character in "{}\"'\n"):
        raise ConfigError(f"The demo's folder {folder} holds quotes or braces; choose a plain name.")
    for name in (*(f"{language}.txt" for language in LANGUAGES), "held_out.jsonl"):
        if not (folder / "text" / name).exists():
            write_bytes(folder / "text" / name, (source / "text" / name).read_bytes())
    for name, target in (("teachers.yaml", "teachers.yaml"), ("students.yaml", "orch.yaml")):
        text = (source / name).read_text(encoding="utf-8").replace("{folder}", str(folder))
        if not (folder / target).exists():
            write_bytes(folder / target, text.encode())
    _unigram(folder / "tokenizers" / "multilingual", [folder / "text" / f"{lang}.txt" for lang in LANGUAGES], size=3000)
    _wordpiece(folder / "tokenizers" / "english", [folder / "text" / "en.txt"], size=2500)


def _unigram(folder: Path, files: list[Path], *, size: int) -> None:
    """A SentencePiece-like tokenizer (Kudo 2018), as multilingual encoders have."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    if (folder / "tokenizer_config.json").exists():
        return
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train([str(file) for file in files], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    _save(tokenizer, folder, cls="<s>", pad="<pad>", sep="</s>", unk="<unk>", mask="<mask>")


def _wordpiece(folder: Path, files: list[Path], *, size: int) -> None:
    """A WordPiece tokenizer (Wu et al. 2016), as BERT has."""
    from tokenizers import BertWordPieceTokenizer

    if (folder / "tokenizer_config.json").exists():
        return
    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train([str(file) for file in files], vocab_size=size, show_progress=False)
    _save(tokenizer, folder, cls="[CLS]", pad="[PAD]", sep="[SEP]", unk="[UNK]", mask="[MASK]")


def _save(tokenizer: Saved, folder: Path, *, cls: str, pad: str, sep: str, unk: str, mask: str) -> None:
    """As `AutoTokenizer.from_pretrained` opens it; the configuration last, so that it says that all is there."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "cls_token": cls,
        "pad_token": pad,
        "sep_token": sep,
        "unk_token": unk,
        "mask_token": mask,
        "model_max_length": 512,
    }
    write_bytes(folder / "tokenizer.json", tokenizer.to_str().encode())
    write_bytes(folder / "tokenizer_config.json", json.dumps(config, indent=1).encode())
