"""Train a causal language model of any architecture that Transformers knows, from scratch, on plain text.

    accelerate launch recipes/train_language_model.py recipes/language_model/config.yaml
    accelerate launch recipes/train_language_model.py recipes/language_model/config.yaml --train_file mine.txt

A minute on a laptop:

    accelerate launch recipes/train_language_model.py recipes/language_model/smoke.yaml
"""

from __future__ import annotations

import time

STARTED_AT = time.monotonic()  # Before the slow imports: a time budget is for the whole run.

import contextlib
import logging
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(folder for folder in sys.path if Path(folder).resolve() not in (HERE, HERE.parent))]

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    default_data_collator,
    set_seed,
)

import hf_genext
from hf_genext.checkpoints import hold_folder
from hf_genext.devices import describe_device
from hf_genext.hub import render_model_card, write_results
from hf_genext.training import GenextTrainer, GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.ngrams import KneserNeyModel
from recipes.plots import draw_validation_curve
from recipes.results import build_results, summarize, update_recipe_results
from recipes.running import (
    count_threads,
    describe_versions,
    find_recipe_results,
    import_script,
    refuse_earlier_run,
    run_main,
    set_up_logging,
)

logger = logging.getLogger("recipes")

_WORD = re.compile(r"(?<![\w'])[^\W\d_]+(?:['-][^\W\d_]+)*(?!\w)")


@dataclass
class LanguageModelSettings:
    """What to train."""

    model: str | None = field(default=None, metadata={"help": "A folder or Hub id to go on from; else a new model."})
    model_type: str = field(default="gpt2", metadata={"help": "Architecture of a new model, as AutoConfig names it."})
    architecture: dict | None = field(default=None, metadata={"help": "Fields of its configuration."})
    vocab_size: int = field(default=8192, metadata={"help": "Tokens of the byte-level BPE that is learned from the text."})
    block_size: int = field(default=128, metadata={"help": "Tokens that the model sees at once."})


@dataclass
class TextSettings:
    """What to train and score on."""

    data_script: str | None = field(default=None, metadata={"help": "A script beside the settings file that brings the text."})
    train_file: str | None = field(default=None, metadata={"help": "A UTF-8 file, one text a line."})
    validation_file: str | None = field(default=None, metadata={"help": "As train_file; else a part of its lines."})
    validation_size: int = field(default=2000, metadata={"help": "Lines for validation."})
    validation_seed: int = field(default=0, metadata={"help": "Which lines: fixed, so that runs compare."})
    num_words: int = field(
        default=0, metadata={"help": "Write the most frequent so many words into words.tsv, for recipes/read_out.py."}
    )
    ngram_orders: list[int] | None = field(
        default=None, metadata={"help": "Score Kneser-Ney n-gram models of these lengths on the same tokens."}
    )


@dataclass
class LanguageModelRunSettings:
    """How to run, and what to leave behind."""

    title: str = field(default="Language model", metadata={"help": "Title of the model card."})
    task: str = field(default="", metadata={"help": "One line for the card: what goes in and what comes out."})
    example: str = field(default="The", metadata={"help": "An input for the card's code."})
    license: str = field(default="apache-2.0", metadata={"help": "Licence of the trained model."})
    deciding_metrics: dict | None = field(default=None, metadata={"help": "The metrics that decide: {name: higher | lower}."})
    num_threads: int | None = field(
        default=None, metadata={"help": "CPU threads of a rank; left out, the cores divided by the ranks."}
    )
    update_results: bool = field(default=False, metadata={"help": "Write the results into the recipe's results.json."})


class TokenBlocks(Dataset):
    """A text as blocks in which every token but the very first is predicted once.

    Each block begins with the last token of the block before, which is read and not predicted.

    Args:
        tokens: The text, (tokens,).
        block_size: Tokens of a block.
        pad_to_full: Whether a shorter last block is kept, its rest not predicted; else it is left out.
    """

    def __init__(self, tokens: np.ndarray, block_size: int, *, pad_to_full: bool = False) -> None:
        step = block_size - 1
        predicted = len(tokens) - 1
        count = -(-predicted // step) if pad_to_full else predicted // step
        if count < 1:
            raise ValueError(f"A block needs {block_size} tokens, the text has {len(tokens)}.")
        self._tokens, self._block_size, self._count = tokens, block_size, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        """One block: `input_ids` and `labels`, (block_size,)."""
        if not 0 <= index < self._count:
            raise IndexError(f"Block {index} of {self._count}.")
        start = index * (self._block_size - 1)
        tokens = self._tokens[start : start + self._block_size].astype(np.int64)
        labels = tokens.copy()
        labels[0] = -100
        rest = (0, self._block_size - len(tokens))
        return {"input_ids": np.pad(tokens, rest, mode="edge"), "labels": np.pad(labels, rest, constant_values=-100)}


class LanguageModelTrainer(GenextTrainer):
    """Adds what language models are compared by: perplexity, and bits for a character of the text.

    Args:
        characters_per_token: Of the validation text.
        args, kwargs: As [`GenextTrainer`] takes them.
    """

    def __init__(self, *args: Any, characters_per_token: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._characters_per_token = characters_per_token

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """As [`GenextTrainer.evaluation_loop`]."""
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        scores = score_loss(output.metrics[f"{prefix}_loss"], self._characters_per_token)
        output.metrics.update({f"{prefix}_{name}": value for name, value in scores.items()})
        return output


def score_loss(loss: float, characters_per_token: float) -> dict[str, float]:
    """Perplexity of a token, and bits for a character, of a loss in nats for a token."""
    return {"bits_per_character": loss / math.log(2) / characters_per_token, "perplexity": math.exp(loss)}


def main(argv: list[str] | None = None) -> None:
    """Run the recipe; see the top of the file."""
    *settings, args, config_path = parse_settings(
        [LanguageModelSettings, TextSettings, LanguageModelRunSettings, GenextTrainingArguments],
        sys.argv[1:] if argv is None else argv,
    )
    set_up_logging(is_main_process=args.process_index == 0)
    if args.device.type == "cpu":
        torch.set_num_threads(count_threads(settings[2].num_threads))
    set_seed(args.seed)
    output_dir = Path(args.output_dir)
    is_main = args.process_index == 0
    if is_main and args.resume_from_checkpoint is None:
        refuse_earlier_run(output_dir)
    with hold_folder(output_dir) if is_main else contextlib.nullcontext():
        _run(*settings, args, config_path)


def _run(
    model_settings: LanguageModelSettings,
    text_settings: TextSettings,
    run_settings: LanguageModelRunSettings,
    args: GenextTrainingArguments,
    config_path: Path | None,
) -> None:
    output_dir = Path(args.output_dir)
    recipe_results = find_recipe_results(config_path) if run_settings.update_results else None
    with args.main_process_first(desc="reading the text"):
        train, validation, facts = _load_text(text_settings, args, config_path)
        model, tokenizer = load_model(model_settings, train)
        train_tokens, validation_tokens = (encode_lines(lines, tokenizer) for lines in (train, validation))
    characters = sum(len(line) + 1 for line in validation)  # The end of a line is a token too.
    characters_per_token = characters / (len(validation_tokens) - 1)
    logger.info("%s training tokens, %s validation tokens", f"{len(train_tokens):,}", f"{len(validation_tokens):,}")
    trainer = LanguageModelTrainer(
        model=model,
        args=args,
        train_dataset=TokenBlocks(train_tokens, model_settings.block_size),
        eval_dataset=TokenBlocks(validation_tokens, model_settings.block_size, pad_to_full=True),
        processing_class=tokenizer,
        data_collator=default_data_collator,
        started_at=STARTED_AT,
        characters_per_token=characters_per_token,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    evaluated = trainer.evaluate()
    trainer.save_model(str(output_dir))
    if not args.should_save:
        return
    trainer.state.save_to_json(str(output_dir / "trainer_state.json"))
    if text_settings.num_words:
        counted = "".join(f"{word}\t{count}\n" for word, count in count_words(train).most_common(text_settings.num_words))
        (output_dir / "words.tsv").write_text(counted, encoding="utf-8")
    seen = trainer.state.global_step * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    baselines = {
        "unigrams" if order == 1 else f"{order}-grams, modified Kneser-Ney": score_loss(
            -float(KneserNeyModel(train_tokens, order=order, vocab_size=len(tokenizer)).score(validation_tokens)[1:].mean()),
            characters_per_token,
        )
        for order in text_settings.ngram_orders or []
    }
    results = build_results(
        kind="text-generation",
        metrics={name: evaluated[f"eval_{name}"] for name in ("bits_per_character", "perplexity")},
        seed=args.seed,
        minutes=trainer.elapsed_minutes,
        deciding=run_settings.deciding_metrics or {},
        baselines=baselines,
        data={
            **facts,
            "training_tokens": len(train_tokens),
            "tokens_seen": seen * (model_settings.block_size - 1),
            "validation_lines": len(validation),
            "parameters": model.num_parameters(),
        },
        hardware=describe_device(torch.get_num_threads() * args.world_size),
        versions=describe_versions(),
    )
    write_results(output_dir / "results.json", results)
    draw_validation_curve(trainer.state.log_history, output_dir / "validation_curve.png", list(results["better"]))
    card = render_model_card(
        results,
        title=run_settings.title,
        task=run_settings.task,
        example=run_settings.example,
        license=run_settings.license,
        pictures={"Validation": "validation_curve.png"},
    )
    (output_dir / "README.md").write_text(card, encoding="utf-8")
    if recipe_results is not None:
        update_recipe_results(recipe_results, results)
    print(f"\n{summarize(results)}\nThe model is in {output_dir}. Use it:\n")
    print("  from transformers import pipeline\n")
    print(f'  pipe = pipeline("text-generation", model="{output_dir}")\n  pipe({run_settings.example!r}, do_sample=True)')


def _load_text(
    settings: TextSettings, args: GenextTrainingArguments, config_path: Path | None
) -> tuple[list[str], list[str], dict[str, Any]]:
    """Training lines, validation lines, and facts about them."""
    facts: dict[str, Any] = {}
    train_file = settings.train_file
    if train_file is None and settings.data_script is not None:
        prepared = import_script(config_path, "data_script", settings.data_script).prepare_data(Path(args.output_dir) / "data")
        train_file, facts = prepared["train_file"], prepared["facts"]
    if train_file is None:
        raise SettingsError("There is no text to train on: set train_file (a UTF-8 file, one text a line).")
    facts.setdefault("name", Path(train_file).name)
    lines = read_lines(train_file)
    if settings.validation_file is not None:
        return lines, read_lines(settings.validation_file), facts
    if not 0 < settings.validation_size < len(lines):
        raise SettingsError(
            f"validation_size={settings.validation_size} of the {len(lines):,} lines of {train_file!r}: both sides need some."
        )
    chosen = np.random.default_rng(settings.validation_seed).choice(len(lines), settings.validation_size, replace=False)
    held_out = np.zeros(len(lines), dtype=bool)
    held_out[chosen] = True
    sides = [[line for line, is_held_out in zip(lines, held_out, strict=True) if is_held_out == side] for side in (False, True)]
    return sides[0], sides[1], facts


def read_lines(path: str) -> list[str]:
    """The lines of a UTF-8 file that are not empty.

    Raises:
        ValueError: if it is no UTF-8, or has no such line.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").split("\n")]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path!r} is not UTF-8 (offset {error.start}). Convert it, for example with iconv.") from error
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError(f"{path!r} holds no text.")
    return lines


def load_model(settings: LanguageModelSettings, lines: Sequence[str]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An existing model and its tokenizer, or new ones, the tokenizer learned from the lines."""
    if settings.model is not None:
        return AutoModelForCausalLM.from_pretrained(settings.model), AutoTokenizer.from_pretrained(settings.model)
    tokenizer = hf_genext.train_tokenizer(
        lines, unit="subword", vocab_size=settings.vocab_size, model_max_length=settings.block_size
    )
    tokens = {
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = AutoConfig.for_model(
        settings.model_type,
        **{
            "max_position_embeddings": settings.block_size,
            **(settings.architecture or {}),
            "vocab_size": len(tokenizer),
            **tokens,
        },
    )
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.update(**tokens, max_length=settings.block_size)
    return model, tokenizer


def encode_lines(lines: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """Lines as one row of tokens, the end token before, between and after them: (tokens,)."""
    end = tokenizer.eos_token_id
    pieces = [np.array([end], dtype=np.int32)]
    for start in range(0, len(lines), 10_000):
        encoded = tokenizer(list(lines[start : start + 10_000]), add_special_tokens=False, verbose=False)["input_ids"]
        pieces.append(np.fromiter((token for row in encoded for token in (*row, end)), dtype=np.int32))
    return np.concatenate(pieces)


def count_words(lines: Sequence[str]) -> Counter[str]:
    """How often each word comes, as it is written, marks around it left out.

    Example:
        >>> count_words(["The dog's bark.", "the dog's"]).most_common(1)
        [("dog's", 2)]
    """
    return Counter(word for line in lines for word in _WORD.findall(line))


if __name__ == "__main__":
    run_main(main)
