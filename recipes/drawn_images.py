"""What the scripts of recipes of images share: their images, and what judges drawn ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from hf_genext.conditions import stack_targets
from hf_genext.training import GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.conditional_data import RowReader, find_data, load_data
from recipes.conditional_settings import DataSettings, ModelSettings, RunSettings
from recipes.image_metrics import ImageJudge
from recipes.running import count_threads


@dataclass
class ImageSettings:
    """How drawn images are judged."""

    num_drawn: int = field(default=4000, metadata={"help": "Images that are drawn to be judged."})
    num_draws: int = field(default=5, metadata={"help": "How often; what they are worth is averaged."})
    num_judged: int = field(
        default=10_000, metadata={"help": "Images, at most, that the judge learns from, and that are scored."}
    )
    num_learned: int | None = field(
        default=None,
        metadata={"help": "Images, at most, that the baselines learn from, and that are no new ones; left out, all."},
    )


Settings = TypeVar("Settings", bound=ImageSettings)


@dataclass
class Images:
    """Images of a part of the data.

    Attributes:
        pixels: (rows, pixels).
        classes: The name of what they show, (rows,).
        num_levels: Values of a pixel.
        is_conditional: Whether models are told what to show.
    """

    pixels: np.ndarray
    classes: np.ndarray
    num_levels: int
    is_conditional: bool

    def select(self, name: Any) -> np.ndarray:
        """Which show something, (rows,); all for `None`."""
        return np.ones(len(self.classes), dtype=bool) if name is None else self.classes == name


def read_images(
    own: type[Settings], argv: list[str] | None, *, needs_model: bool = False
) -> tuple[Settings, RunSettings, int, dict[str, Images], ImageJudge, Path | None, Path]:
    """The settings of a script, the images of each part, and a judge that has learned from those to train on.

    Args:
        own: The dataclass of the script's own settings.
        argv: The command line without the program's name; that of this process if left out.
        needs_model: Whether the folder of a model has to be given.

    Returns:
        Its own settings, those of the run, how many latent numbers the model has, the images, the judge, the settings file, and
        the folder of the model.

    Raises:
        SettingsError: if no model is given where one is needed.
    """
    settings, model, data, run, args, config_path = parse_settings(
        [own, ModelSettings, DataSettings, RunSettings, GenextTrainingArguments], sys.argv[1:] if argv is None else argv
    )
    if needs_model and model.model is None:
        raise SettingsError("Give the folder of a trained model: --model out/digits.")
    torch.set_num_threads(count_threads(run.num_threads))
    is_conditional = "label" in (data.conditions or {})
    files = find_data(data, Path(args.output_dir or "out") / "data", config_path)
    # The judge knows what images show, whatever the model is told.
    column = (data.conditions or {}).get("label") or _find_class_column(files.train, data.target_column)
    data.conditions = {"label": column}
    rows = load_data(data, RowReader(data, "image"), files)
    images = {
        name: _build_images(part, column, model.head or {}, is_conditional, limit)
        for name, part, limit in (
            ("train", rows.train, settings.num_learned),
            ("validation", rows.validation, settings.num_judged),
            ("test", rows.test or rows.validation, settings.num_judged),
        )
    }
    train = images["train"]
    some = _spread(len(train.classes), settings.num_judged)
    judge = ImageJudge(train.pixels[some], train.classes[some], train.num_levels, known=train.pixels)
    bottleneck = model.bottleneck if isinstance(model.bottleneck, dict) else {}
    size = bottleneck.get("num_latents", 1)
    if bottleneck.get("kind") != "quantized":
        size *= bottleneck.get("latent_size", 16)
    return settings, run, size, images, judge, config_path, Path(model.model or "")


def judge_draws(
    judge: ImageJudge, draw: Callable[[np.ndarray, int], np.ndarray], images: dict[str, Images], settings: ImageSettings
) -> tuple[dict[str, float], np.ndarray]:
    """What drawn images are worth, the mean over several draws and as many classifiers that learn from them.

    Args:
        judge: Compares them with the test images.
        draw: Makes an image of each of some classes (count,) by a seed: (count, pixels).
        images: Those of each part.
        settings: How many to draw, and how often.

    Returns:
        The metrics, and the images of the first draw.
    """
    test, classes = images["test"], draw_classes(images["train"], settings.num_drawn)
    shown = classes if test.is_conditional else None
    draws = [draw(classes, seed) for seed in range(settings.num_draws)]
    found = [judge.judge(drawn, shown, test.pixels, test.classes, seed) for seed, drawn in enumerate(draws)]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}, draws[0]


def _find_class_column(file: Any, target_column: str) -> str:
    """The one column that is not that of the images."""
    import pyarrow.parquet as pq

    others = [name for name in pq.read_schema(file[0] if isinstance(file, list) else file).names if name != target_column]
    if len(others) != 1:
        raise SettingsError(f"The data need one column with the name of what an image shows; there are {', '.join(others)}.")
    return others[0]


def _spread(count: int, limit: int | None) -> np.ndarray:
    """Places of some of many, at even distances."""
    return np.unique(np.linspace(0, count - 1, min(limit or count, count)).astype(int))


def _build_images(rows: Any, column: str, head: dict[str, Any], is_conditional: bool, limit: int | None) -> Images:
    """The images of a part, of many rows some."""
    rows = rows.select(_spread(len(rows), limit))
    classes = np.array([str(label[column]) for label in rows["label"]])
    return Images(stack_targets(rows), classes, head.get("num_levels", 256), is_conditional)


def draw_classes(images: Images, count: int) -> np.ndarray:
    """What drawn images shall show: the classes one after the other, (count,)."""
    return np.resize(np.unique(images.classes), count)


__all__ = ["ImageSettings", "Images", "draw_classes", "judge_draws", "read_images"]
