"""What the scripts of the digits recipe share: its images, and what judges drawn ones."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hf_genext.conditions import stack_targets
from hf_genext.training import GenextTrainingArguments
from recipes.arguments import SettingsError, parse_settings
from recipes.conditional_data import RowReader, find_data, load_data
from recipes.conditional_settings import DataSettings, ModelSettings, RunSettings
from recipes.image_metrics import ImageJudge


@dataclass
class DigitSettings:
    """How drawn images are judged."""

    num_drawn: int = field(default=4000, metadata={"help": "Images that are drawn to be judged."})
    num_levels: int = field(default=17, metadata={"help": "Values of a pixel."})


Settings = TypeVar("Settings", bound=DigitSettings)


@dataclass
class Images:
    """Images of a part of the data.

    Attributes:
        pixels: (rows, pixels).
        classes: What they show, (rows,).
        is_conditional: Whether models are told what to show.
    """

    pixels: np.ndarray
    classes: np.ndarray
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
    is_conditional = "label" in (data.conditions or {})
    data.conditions = {"label": "digit"}  # The judge knows what images show, whatever the model is told.
    files = find_data(data, Path(args.output_dir or "out") / "data", config_path)
    rows = load_data(data, RowReader(data, "image"), files)
    images = {
        name: Images(stack_targets(part), np.array([int(label["digit"]) for label in part["label"]]), is_conditional)
        for name, part in (("train", rows.train), ("validation", rows.validation), ("test", rows.test or rows.validation))
    }
    judge = ImageJudge(images["train"].pixels, images["train"].classes, settings.num_levels)
    bottleneck = model.bottleneck if isinstance(model.bottleneck, dict) else {}
    size = bottleneck.get("num_latents", 1) * bottleneck.get("latent_size", 16)
    return settings, run, size, images, judge, config_path, Path(model.model or "")


def draw_classes(images: Images, count: int) -> np.ndarray:
    """What drawn images shall show: the classes one after the other, (count,)."""
    return np.resize(np.unique(images.classes), count)


__all__ = ["DigitSettings", "Images", "draw_classes", "read_images"]
