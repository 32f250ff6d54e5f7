"""What models that write texts are compared with, as far as recipes share it: copies, frequent words, shuffled conditions.

Legend: rows, size (of a vector).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import pipeline

from hf_genext.training import GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.conditional_data import RowReader, build_text_metrics, find_data, group_rows, load_data
from recipes.conditional_model import require_needed_models
from recipes.conditional_settings import DataSettings, ModelSettings, RunSettings
from recipes.results import add_baselines
from recipes.running import count_threads, find_results_to_join, set_up_logging

SEED = 0


@dataclass
class Comparison:
    """A recipe's rows and metrics, for baselines that are scored as its model is.

    Attributes:
        own: The settings of the script itself.
        model: Those of the model.
        run: Those of the run.
        args: Those of the training.
        config_path: The settings file.
        folder: Where the data was written.
        train: As [`hf_genext.conditions.group_conditions`] gives rows.
        test: Likewise, what is scored.
        metrics: What scores texts.
        results_path: The results that the baselines join, or `None`.
    """

    own: Any
    model: ModelSettings
    run: RunSettings
    args: GenextTrainingArguments
    config_path: Path | None
    folder: Path
    train: dict[str, list[Any]]
    test: dict[str, list[Any]]
    metrics: Callable[..., dict[str, float]]
    results_path: Path | None

    def score(self, answers: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
        """Score the answers of each baseline to the test rows, print, and store where the settings say so."""
        return self.report({label: self.metrics(list(texts), self.test["references"]) for label, texts in answers.items()})

    def report(self, scores: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        """Print metrics, and store them where the settings say so."""
        add_baselines(self.results_path, scores)
        return scores

    def open_model(self) -> Any:
        """The pipeline of the model that the settings name.

        Raises:
            SettingsError: if they name none.
        """
        if self.model.model is None:
            raise SettingsError("Give --model FOLDER, the model of this recipe.")
        return pipeline("conditional-generation", model=self.model.model)


def prepare_comparison(own: type, argv: list[str] | None, *, needs_model: bool = True) -> Comparison:
    """Read settings and rows, everything checked before the work.

    Args:
        own: The dataclass of the script's own settings.
        argv: The command line without the program's name; that of this process if left out.
        needs_model: Whether there must be a `model`.

    Raises:
        SettingsError: for settings that cannot be used.
    """
    settings, model, data, run, args, config_path = parse_settings(
        [own, ModelSettings, DataSettings, RunSettings, GenextTrainingArguments], sys.argv[1:] if argv is None else argv
    )
    set_up_logging()
    torch.set_num_threads(count_threads(run.num_threads))
    if needs_model and model.model is None:
        raise SettingsError("Give --model FOLDER, the model of this recipe.")
    results_path = find_results_to_join(config_path, wanted=run.update_results, name=run.results_file)
    require_needed_models(model, data.conditions)
    metrics = build_text_metrics(data, config_path)
    if metrics is None:
        raise SettingsError("The settings name no metrics to compare by.")
    folder = Path(args.output_dir or "out") / "data"
    rows = load_data(data, RowReader(data), find_data(data, folder, config_path))
    train, test = group_rows(rows.train), group_rows(rows.validation if rows.test is None else rows.test)
    return Comparison(settings, model, run, args, config_path, folder, train, test, metrics, results_path)


def find_nearest(known: Any, asked: Any) -> list[int]:
    """The place of the known vector that is nearest by cosine to each asked one, of equal ones the first.

    Args:
        known: (rows, size), an array or a sparse matrix.
        asked: Likewise.

    Example:
        >>> find_nearest(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[0.1, 0.2], [3.0, 0.0]]))
        [1, 0]
    """
    known, asked = _to_units(known).T, _to_units(asked)
    places: list[int] = []
    for start in range(0, asked.shape[0], 250):
        cosines = asked[start : start + 250] @ known
        places += np.asarray(cosines.argmax(axis=1)).ravel().tolist()
    return places


def _to_units(vectors: Any) -> Any:
    if isinstance(vectors, np.ndarray):
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    from sklearn.preprocessing import normalize

    return normalize(vectors).tocsr()


def copy_nearest_texts(train: dict[str, list[Any]], test: dict[str, list[Any]]) -> list[str]:
    """For each test row the text of the training row whose vector is nearest by cosine."""
    known, asked = (np.array([condition["vector"] for condition in rows["source"]], dtype=np.float32) for rows in (train, test))
    return [train["references"][place][0] for place in find_nearest(known, asked)]


def join_frequent_words(texts: list[str]) -> str:
    """The words that most texts hold, the most frequent first, as many as a text has in the median.

    Example:
        >>> join_frequent_words(["a small dog", "a cat", "a small bird"])
        'a small dog'
    """
    counts = Counter(word for text in texts for word in dict.fromkeys(text.split()))
    length = int(np.median([len(text.split()) for text in texts]))
    return " ".join(word for word, _ in counts.most_common(length))


def list_training_texts(train: dict[str, list[Any]]) -> list[str]:
    """Every text that is trained on."""
    return [text for texts in train["references"] for text in texts]


def shuffle_conditions(test: dict[str, list[Any]]) -> list[Any]:
    """The conditions of the test rows in an order in which none has its own."""
    order = np.random.default_rng(SEED).permutation(len(test["source"]))
    following = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))  # One cycle through all.
    return [test["source"][following[place]] for place in range(len(order))]


def generate_texts(generate: Any, conditions: Sequence[Any], batch_size: int) -> list[str]:
    """What a pipeline writes for each condition."""
    return [answer[0]["generated_text"] for answer in generate(list(conditions), batch_size=batch_size)]


__all__ = [
    "Comparison",
    "copy_nearest_texts",
    "find_nearest",
    "generate_texts",
    "join_frequent_words",
    "list_training_texts",
    "prepare_comparison",
    "shuffle_conditions",
]
