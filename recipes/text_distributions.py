"""What recipes of distributions over texts share: log-probabilities of given texts, drawn texts, and what these are worth.

Legend: rows.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_genext.conditions import list_conditions
from hf_genext.genext.sampling_genext import list_neutral_settings
from hf_genext.genext.tokenization_genext import find_unknown_token
from hf_genext.pipeline_outputs import TargetWriter
from hf_genext.sample_metrics import Diversity, Novelty, SampleMetric
from hf_genext.sequence_metrics import SEQUENCE_METRICS, build_sequence_metrics, count_characters
from hf_genext.training import GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.conditional_data import RowReader, find_data, load_data
from recipes.conditional_settings import DataSettings, ModelSettings, RunSettings
from recipes.running import count_threads, set_up_logging

logger = logging.getLogger("recipes")


@dataclass
class Texts:
    """The texts of a side.

    Attributes:
        texts: The targets, (rows,).
        conditions: What belongs to each, as the pipeline takes it, (rows,).
    """

    texts: list[str]
    conditions: list[dict[str, Any]]


@dataclass
class TextRecipe:
    """A recipe's settings and texts, for scripts that score its models and baselines.

    Attributes:
        own: The settings of the script itself.
        run: Those of the run.
        model: The folder of the model that the settings name; empty for none.
        conditions: What the recipe's models are told, as the settings have it.
        config_path: The settings file.
        train: What is trained on.
        validation: What is chosen by.
        test: What is scored.
    """

    own: Any
    run: RunSettings
    model: Path
    conditions: dict[str, Any]
    config_path: Path | None
    train: Texts
    validation: Texts
    test: Texts


def read_text_recipe(own: type, argv: list[str] | None, conditions: dict[str, Any], *, needs_model: bool = False) -> TextRecipe:
    """Read settings and texts.

    Args:
        own: The dataclass of the script's own settings.
        argv: The command line without the program's name; that of this process if left out.
        conditions: The columns of what belongs to each text, whatever the models are told.
        needs_model: Whether the folder of a model has to be given.

    Raises:
        SettingsError: if no model is given where one is needed, or for settings that cannot be used.
    """
    settings, model, data, run, args, config_path = parse_settings(
        [own, ModelSettings, DataSettings, RunSettings, GenextTrainingArguments], sys.argv[1:] if argv is None else argv
    )
    set_up_logging()
    if needs_model and model.model is None:
        raise SettingsError("Give the folder of a trained model: --model FOLDER.")
    torch.set_num_threads(count_threads(run.num_threads))
    told, data.conditions = data.conditions or {}, conditions
    rows = load_data(data, RowReader(data), find_data(data, Path(args.output_dir or "out") / "data", config_path))
    sides = [
        Texts(list(side["target"]), list_conditions(side))
        for side in (rows.train, rows.validation, rows.test or rows.validation)
    ]
    return TextRecipe(settings, run, Path(model.model or ""), told, config_path, *sides)


def score_texts(
    pipe: Any,
    conditions: Sequence[Any],
    texts: Sequence[str],
    *,
    num_importance_samples: int = 64,
    batch_size: int = 100,
) -> np.ndarray:
    """The log-probability of each text given its condition, in nats, of a model with latent numbers the bound: (rows,).

    Args:
        pipe: The pipeline of a model that writes texts.
        conditions: As it takes them.
        texts: One for each.
        num_importance_samples: Draws of the latent numbers of each row, where there are some.
        batch_size: Texts that run at once, those of like length.
    """
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    scores = np.zeros(len(texts))
    with torch.inference_mode():
        # In one call, for texts have draws of their own by their places in it.
        found = pipe.score(
            [conditions[place] for place in order],
            [texts[place] for place in order],
            batch_size=batch_size,
            num_importance_samples=num_importance_samples,
        )
    scores[order] = [answer["score"] for answer in found]
    return scores


def measure_given(
    pipe: Any, conditions: Sequence[Any], texts: Sequence[str], names: Sequence[str] = (*SEQUENCE_METRICS,), **how: Any
) -> dict[str, float]:
    """The metrics of given texts, by a model.

    Args:
        pipe: The pipeline of a model that writes texts.
        conditions: As it takes them.
        texts: One for each.
        names: Which metrics of [`SEQUENCE_METRICS`].
        how: As [`score_texts`] takes it.
    """
    total = float(score_texts(pipe, conditions, texts, **how).sum())
    # As the pipeline writes them: the tokens that were scored, ends among them.
    writer = TargetWriter(pipe.model, pipe.processor, pipe.target_tokenizer)
    rows = [writer.write(text) for text in texts]
    unknown = find_unknown_token(pipe.target_tokenizer)
    num_unknown = 0 if unknown is None else sum(unknown in row for row in rows)
    if num_unknown:
        logger.warning(
            "%s of %s targets hold what the target vocabulary lacks, which is scored as %s whatever it is: perplexity and bits "
            "are too low.",
            f"{num_unknown:,}",
            f"{len(rows):,}",
            pipe.target_tokenizer.unk_token,
        )
    return build_sequence_metrics(names)(total, sum(map(len, rows)), count_characters(texts))


def draw_texts(pipe: Any, conditions: Sequence[Any], *, seed: int = 0, batch_size: int = 250, **arguments: Any) -> list[str]:
    """A text for each condition, drawn from the model's own distribution.

    Args:
        pipe: The pipeline of a model that writes texts.
        conditions: As it takes them; `{}` for none.
        seed: Of the draws.
        batch_size: Texts that are drawn at once.
        arguments: More that a call of the pipeline takes, such as `guidance_scale`.
    """
    arguments = {**list_neutral_settings(arguments), **arguments}
    with torch.inference_mode():
        answers = pipe(list(conditions), seed=seed, batch_size=batch_size, **arguments)
    return [answer[0]["generated_text"] for answer in answers]


def measure_samples(
    samples: Sequence[str], training_texts: Sequence[str], *metrics: SampleMetric, **how: Any
) -> dict[str, float]:
    """Novelty and diversity of drawn texts, and what more metrics of samples say.

    Args:
        samples: What was drawn.
        training_texts: What was trained on.
        metrics: More metrics.
        how: As [`Diversity`] takes it.
    """
    found: dict[str, float] = {}
    for metric in (Novelty(training_texts=training_texts), Diversity(**how), *metrics):
        found |= metric.compute(predictions=list(samples)) or {}
    return found


__all__ = ["TextRecipe", "Texts", "draw_texts", "measure_given", "measure_samples", "read_text_recipe", "score_texts"]
