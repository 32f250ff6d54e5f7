"""Training word vectors from plain text: a small loop over Accelerate, because a step is microseconds.

The text is read once and encoded on disk; each rank takes its share of the pieces of each epoch; every few pieces the ranks
bring together what they learned. Checkpoints are whole or passed over, and a run that goes on from one comes to the same
vectors, bit by bit where each rank has one thread.

Legend: words, size (of a vector), tokens (running words of the text).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from tqdm.auto import tqdm

from hf_genext.checkpoints import (
    begin_checkpoint,
    check_same_model,
    delete_old,
    find_damage,
    find_last_complete,
    mark_complete,
)
from hf_genext.corpora import SENTENCE_END, EncodedCorpus
from hf_genext.rank_exchange import RankExchange
from hf_genext.static_embedding.engines_static_embedding import CompiledEngine, Engine, TensorEngine, compute_keep_shares
from hf_genext.static_embedding.pretraining_static_embedding import StaticEmbeddingForPreTraining

logger = logging.getLogger(__name__)

STATE_NAME = "training_state.json"
DIVERGENCE_FACTOR = 3.0
"""The training stops when the loss is more than so many times that of vectors that know nothing."""


@dataclass
class EmbeddingTrainingArguments:
    """How to train word vectors.

    Args:
        output_dir: Where checkpoints go.
        objective: `"skip_gram"` (each neighbour predicts the word) or `"cbow"` (their mean does).
        hidden_size: Size of the vectors.
        window: The farthest neighbour in words; each word's window has a random reach up to it.
        num_negatives: Random words for each real one.
        noise_exponent: Random words are drawn in proportion to their counts to this power.
        subsample: Words that make a larger share of the text than this are left out at random; 0 for none.
        num_buckets: Rows for hashed character n-grams (2,000,000 in fastText); 0 for none.
        min_ngram: Shortest n-gram in characters.
        max_ngram: Longest n-gram in characters.
        num_train_epochs: How often to go through the text.
        learning_rate: At the beginning.
        min_learning_rate: At the end; in between it comes down evenly.
        seed: Decides the initial vectors and all that is drawn.
        num_threads: Threads of a rank; left out, the processor's cores divided by the ranks. With more than one the result
            differs from run to run, as in word2vec.
        engine: `"compiled"` (loops for a processor, needs numba), `"tensor"` (any device), or `"auto"`.
        batch_tokens: Tokens of a batch of the tensor engine; left out, 4,096 on a processor and 32,768 elsewhere.
        tokens_per_step: Tokens that a rank takes before the next check of what is due.
        tokens_per_sync: With several ranks: tokens of a rank after which they bring together what they learned of the most
            frequent words; twice as many words take part every two times as many tokens (Ji et al. 2016, section 3.3).
        num_checkpoints: Checkpoints over the whole run.
        save_total_limit: How many to keep.
        resume_from_checkpoint: A checkpoint, or `"auto"` for the newest complete one of the output folder, or for a new start
            where there is none.
        report_to: Names of Accelerate's trackers, or none.
        disable_tqdm: Whether to hide the progress bar.
    """

    output_dir: str = field(default="out/embedding", metadata={"help": "Where checkpoints and the space go."})
    objective: str = field(default="skip_gram", metadata={"help": "skip_gram or cbow."})
    hidden_size: int = field(default=100, metadata={"help": "Size of the vectors."})
    window: int = field(default=5, metadata={"help": "The farthest neighbour in words."})
    num_negatives: int = field(default=5, metadata={"help": "Random words for each real one."})
    noise_exponent: float = field(default=0.75, metadata={"help": "Random words are drawn by their counts to this power."})
    subsample: float = field(default=1e-3, metadata={"help": "Share of the text from which words are left out at random."})
    num_buckets: int = field(default=0, metadata={"help": "Rows for hashed character n-grams; 0 for none."})
    min_ngram: int = field(default=3, metadata={"help": "Shortest n-gram in characters."})
    max_ngram: int = field(default=6, metadata={"help": "Longest n-gram in characters."})
    num_train_epochs: int = field(default=5, metadata={"help": "How often to go through the text."})
    learning_rate: float = field(default=0.05, metadata={"help": "Learning rate at the beginning."})
    min_learning_rate: float = field(default=1e-4, metadata={"help": "Learning rate at the end."})
    seed: int = field(default=0, metadata={"help": "Decides the initial vectors and all that is drawn."})
    num_threads: int | None = field(default=None, metadata={"help": "Threads of a rank; else the cores by the ranks."})
    engine: str = field(default="auto", metadata={"help": "compiled (processor, numba), tensor (any device), or auto."})
    batch_tokens: int | None = field(default=None, metadata={"help": "Tokens of a batch of the tensor engine."})
    tokens_per_step: int = field(default=25_000, metadata={"help": "Tokens a rank takes between checks of what is due."})
    tokens_per_sync: int = field(default=25_000, metadata={"help": "Tokens of a rank between exchanges of frequent words."})
    num_checkpoints: int = field(default=4, metadata={"help": "Checkpoints over the whole run."})
    save_total_limit: int = field(default=1, metadata={"help": "How many checkpoints to keep."})
    resume_from_checkpoint: str | None = field(default=None, metadata={"help": "A checkpoint, or auto."})
    report_to: list[str] | None = field(default=None, metadata={"help": "Accelerate's trackers, such as tensorboard."})
    disable_tqdm: bool = field(default=False, metadata={"help": "Hide the progress bar."})

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: for a value that is out of range.
        """
        if self.objective not in ("skip_gram", "cbow"):
            raise ValueError(f'objective must be "skip_gram" or "cbow", got {self.objective!r}.')
        if self.engine not in ("auto", "compiled", "tensor"):
            raise ValueError(f'engine must be "auto", "compiled" or "tensor", got {self.engine!r}.')
        for name in ("hidden_size", "window", "num_train_epochs", "tokens_per_step", "tokens_per_sync", "save_total_limit"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")
        for name in ("num_threads", "batch_tokens"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")
        for name in ("num_negatives", "num_buckets", "subsample", "num_checkpoints", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}.")
        if not 0 <= self.min_learning_rate <= self.learning_rate < math.inf:
            raise ValueError(
                f"The learning rate must come down from learning_rate to min_learning_rate, which is 0 or more, got "
                f"{self.learning_rate} and {self.min_learning_rate}."
            )


@dataclass
class EmbeddingTrainOutput:
    """What a training came to.

    Attributes:
        loss: Nats per prediction over the last hundredth of the training.
        tokens_per_second: Running words per second of wall time, of all ranks together.
        minutes: Wall time, that of the runs this one goes on from included.
    """

    loss: float
    tokens_per_second: float
    minutes: float


class StaticEmbeddingTrainer:
    """Trains a [`StaticEmbeddingForPreTraining`] on an encoded text.

    Args:
        args: How to train.
        corpus: What to train on.
        model_settings: Further fields of [`StaticEmbeddingConfig`], such as `lowercase`.

    Attributes:
        model: What learns.
    """

    def __init__(self, args: EmbeddingTrainingArguments, corpus: EncodedCorpus, **model_settings: Any) -> None:
        self.args, self.corpus = args, corpus
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(), log_with=args.report_to, project_dir=args.output_dir
        )
        torch.manual_seed(args.seed)
        names = ("objective", "hidden_size", "window", "num_negatives", "num_buckets", "min_ngram", "max_ngram")
        settings = {name: getattr(args, name) for name in names} | model_settings
        self.model = StaticEmbeddingForPreTraining.from_words(
            corpus.words, corpus.counts, noise_exponent=args.noise_exponent, **settings
        )
        self._keep = compute_keep_shares(corpus.counts, args.subsample)
        self._step = 0
        self._seconds_before = 0.0
        self._losses: list[float] = []

    def train(self) -> EmbeddingTrainOutput:
        """Go through the text.

        Returns:
            Loss and speed.

        Raises:
            ValueError: if the checkpoint to go on from belongs to another training.
            RuntimeError: if the training diverges.
        """
        args = self.args
        steps_per_epoch, total = self._count_steps()
        if (checkpoint := self._find_checkpoint()) is not None:
            self._restore(checkpoint)
        self.model.to(self.accelerator.device)
        engine = self._build_engine()
        saves_at = {round(total * (place + 1) / (args.num_checkpoints + 1)) for place in range(args.num_checkpoints)} - {
            0,
            total,
        }
        exchange = self._build_exchange()
        started_at, tokens_done = time.monotonic(), 0
        if args.report_to:
            self.accelerator.init_trackers("hf_genext", config=dataclasses.asdict(args) | {"report_to": None})
        with self._build_bar(total) as bar, _use_threads(self._count_threads()):
            while self._step < total:
                ids = self._read_piece(self._step % steps_per_epoch)
                rate, end_rate = (self._compute_rate(step / total) for step in (self._step, self._step + 1))
                seed = ((args.seed * (total + 1) + self._step) << 16) + self.accelerator.process_index
                progress = engine.train(ids, rate, end_rate, seed)
                self._step += 1
                self._note_loss(progress.loss, progress.predictions)
                tokens_done += progress.tokens
                saves = self._step in saves_at
                if exchange is not None:
                    exchange.run(self._step, end_rate, everything=saves or self._step == total)
                if saves:
                    self._save(started_at)
                self._show(bar, progress.tokens, tokens_done / (time.monotonic() - started_at), end_rate)
        seconds = time.monotonic() - started_at
        for tracker in self.accelerator.trackers:
            tracker.finish()
        self.model.to("cpu")
        done = self.accelerator.reduce(torch.tensor(float(tokens_done), device=self.accelerator.device))
        return EmbeddingTrainOutput(
            loss=float(np.mean(self._losses[-max(1, total // 100) :])) if self._losses else 0.0,
            tokens_per_second=float(done) / max(seconds, 1e-9),
            minutes=(self._seconds_before + seconds) / 60.0,
        )

    # The text

    def _count_steps(self) -> tuple[int, int]:
        """Steps of an epoch, which are the same for all ranks, and of the whole training."""
        per_epoch = math.ceil(len(self.corpus.ids) / self.args.tokens_per_step / self.accelerator.num_processes)
        return per_epoch, per_epoch * self.args.num_train_epochs

    def _read_piece(self, step: int) -> np.ndarray:
        """This rank's piece of the text at a step of an epoch; ends of pieces are moved to the next end of a sentence."""
        piece = step * self.accelerator.num_processes + self.accelerator.process_index
        ids = np.array(self.corpus.ids[self._find_bound(piece) : self._find_bound(piece + 1)])
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.corpus.places):
            raise ValueError(f"Piece {piece:,} of the encoded text is damaged. Delete the folder it stands in and start again.")
        return ids

    def _find_bound(self, piece: int) -> int:
        ids, start = self.corpus.ids, min(piece * self.args.tokens_per_step, len(self.corpus.ids))
        if start == 0 or start == len(ids):
            return start
        ends = np.flatnonzero(
            self.corpus.places[ids[start - 1 : start - 1 + min(self.args.tokens_per_step, 10_000)]] == SENTENCE_END
        )
        return start + int(ends[0]) if len(ends) else start

    def _compute_rate(self, progress: float) -> float:
        return self.args.learning_rate + (self.args.min_learning_rate - self.args.learning_rate) * progress

    # The ranks

    def _build_engine(self) -> Engine:
        args, device = self.args, self.accelerator.device
        choice = args.engine
        if choice == "auto":
            choice = "compiled" if device.type == "cpu" and _has_numba() else "tensor"
            if choice == "tensor" and device.type == "cpu":
                logger.warning(
                    "Without numba the training of word vectors is several times slower: pip install 'hf_genext[embedding]'."
                )
        if choice == "compiled":
            if device.type != "cpu":
                raise ValueError(
                    f'engine="compiled" is for a processor, and this device is {device}. Choose "auto" or "tensor".'
                )
            return CompiledEngine(self.model, self.corpus.places, self._keep, self._count_threads())
        batch_tokens = args.batch_tokens or (4_096 if device.type == "cpu" else 32_768)
        return TensorEngine(self.model, self.corpus.places, self._keep, batch_tokens)

    def _count_threads(self) -> int:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return self.args.num_threads or max(1, cores // ranks)

    def _build_exchange(self) -> RankExchange | None:
        if self.accelerator.num_processes == 1:
            return None
        steps_per_sync = max(1, round(self.args.tokens_per_sync / self.args.tokens_per_step))
        shares = self.corpus.counts * self._keep / max(self.corpus.num_tokens, 1)
        return RankExchange(self.model, shares, self.accelerator, steps_per_sync, self.args.tokens_per_step, self._step)

    # Checkpoints

    def _save(self, started_at: float) -> None:
        if self.accelerator.is_main_process:
            folder = Path(self.args.output_dir) / f"checkpoint-{self._step}"
            begin_checkpoint(folder)
            self.model.save_pretrained(folder)
            state = {
                "step": self._step,
                "seconds": self._seconds_before + time.monotonic() - started_at,
                "losses": self._losses,
                "training": self._describe(),
            }
            (folder / STATE_NAME).write_text(json.dumps(state), encoding="utf-8")
            mark_complete(folder)
            delete_old(folder.parent, self.args.save_total_limit, None, folder)
        self.accelerator.wait_for_everyone()

    def _describe(self) -> dict[str, Any]:
        """What must be the same for a run to go on to the same result."""
        names = (
            "num_train_epochs",
            "learning_rate",
            "min_learning_rate",
            "subsample",
            "noise_exponent",
            "seed",
            "tokens_per_step",
        )
        return {name: getattr(self.args, name) for name in names} | {
            "num_processes": self.accelerator.num_processes,
            "num_tokens": self.corpus.num_tokens,
            "vocabulary": len(self.corpus.words),
        }

    def _find_checkpoint(self) -> Path | None:
        given = self.args.resume_from_checkpoint
        if given is None:
            return None
        if given != "auto":
            if not (Path(given) / STATE_NAME).is_file():
                raise ValueError(f"{given!r} is no checkpoint of word vectors: it has no {STATE_NAME}.")
            if (damage := find_damage(given)) is not None:
                raise ValueError(
                    f"The checkpoint {given!r} is damaged: {damage}. Go on from the newest whole one with "
                    "--resume_from_checkpoint auto."
                )
            return Path(given)
        found = find_last_complete(self.args.output_dir)
        logger.info("Going on from %s.", found) if found else logger.info("No complete checkpoint: a new start.")
        return found

    def _restore(self, checkpoint: Path) -> None:
        check_same_model(checkpoint, self.model.config.to_dict())
        state = json.loads((checkpoint / STATE_NAME).read_text(encoding="utf-8"))
        now = self._describe()
        if changed := [
            f"{name} was {state['training'].get(name)!r} and is {now[name]!r}"
            for name in now
            if state["training"].get(name) != now[name]
        ]:
            raise ValueError(
                f"{str(checkpoint)!r} is a checkpoint of another training: {'; '.join(changed)}. Train with the same settings "
                "and text, or start anew in another --output_dir."
            )
        opened = StaticEmbeddingForPreTraining.from_pretrained(checkpoint)
        if opened.vocabulary != self.model.vocabulary:
            raise ValueError(f"{str(checkpoint)!r} has another vocabulary than this text. Start anew in another --output_dir.")
        self.model.load_state_dict(opened.state_dict())
        self._step, self._seconds_before, self._losses = state["step"], state["seconds"], state["losses"]

    # What is shown

    def _note_loss(self, loss: float, predictions: float) -> None:
        if not predictions:
            return
        mean = loss / predictions
        # Vectors that know nothing lose ln(2) for each word of a prediction.
        begun = (1 + self.args.num_negatives) * math.log(2)
        if not mean < DIVERGENCE_FACTOR * begun:
            kept = find_last_complete(self.args.output_dir)
            raise RuntimeError(
                f"The training diverged at step {self._step}: the loss is {mean:.4g}, and {begun:.4g} is "
                f"what vectors lose that know nothing. Lower --learning_rate (now {self.args.learning_rate:g}). "
                + (f"The last checkpoint is {kept}." if kept else "No checkpoint was written yet.")
            )
        self._losses.append(mean)

    def _build_bar(self, total: int) -> tqdm:
        tokens = self.corpus.num_tokens * self.args.num_train_epochs
        return tqdm(
            total=tokens,
            initial=round(tokens * self._step / max(total, 1)),
            unit="word",
            unit_scale=True,
            desc="training",
            disable=self.args.disable_tqdm or not self.accelerator.is_main_process,
        )

    def _show(self, bar: tqdm, tokens: int, tokens_per_second: float, rate: float) -> None:
        loss = self._losses[-1] if self._losses else float("nan")
        bar.set_postfix_str(f"loss {loss:.3f}, rate {rate:.4f}", refresh=False)
        bar.update(tokens * self.accelerator.num_processes)
        if self.args.report_to:
            values = {
                "loss": loss,
                "learning_rate": rate,
                "words_per_second": tokens_per_second * self.accelerator.num_processes,
            }
            self.accelerator.log(values, step=self._step)


@contextmanager
def _use_threads(count: int) -> Iterator[None]:
    """PyTorch with so many threads; afterwards with as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _has_numba() -> bool:
    try:
        import numba  # noqa: F401
    except ImportError:
        return False
    return True


__all__ = ["EmbeddingTrainOutput", "EmbeddingTrainingArguments", "StaticEmbeddingTrainer"]
