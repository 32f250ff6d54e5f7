"""What models of images are compared with, on their test images.

    python recipes/compare_images.py recipes/digits/config.yaml
    python recipes/compare_images.py recipes/digits/config.yaml --update_results true

* class-wise Gaussian: independent normal pixels, integrated over the bin of each value; and one with a full covariance;
* PCA and ICA of as many dimensions as the model has latent numbers;
* pythae's variational autoencoder of as many latent numbers and, all together, as many parameters as the model, where
  that package is installed and the model given (`--model`) or counted (`--num_parameters`).

Where the model draws by a name there is one of each for each name. What they leave open (least standard
deviations, shrinkage) is chosen on the validation images. `--update_results true` puts them beside the model's own metrics in
the recipe's results file, which score_images.py wrote.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

import numpy as np
from transformers import AutoModelForSequenceClassification

import hf_genext  # noqa: F401  (registers the models)
from recipes.drawn_images import Images, ImageSettings, judge_draws, read_images
from recipes.image_baselines import (
    BinnedGaussian,
    FullGaussian,
    IndependentComponents,
    PixelDistribution,
    PrincipalComponents,
)
from recipes.pythae_baselines import PythaeAutoencoder, is_there
from recipes.results import add_baselines
from recipes.running import find_results_to_join, run_main, set_up_logging


@dataclass
class BaselineSettings(ImageSettings):
    """How to compare."""

    least_scales: list[float] = field(
        default_factory=lambda: [0.0005, 0.002, 0.006, 0.012, 0.03, 0.06],
        metadata={"help": "Least standard deviations of a pixel, as shares of its range."},
    )
    shrinkages: list[float] = field(
        default_factory=lambda: [0.01, 0.05, 0.2, 0.5], metadata={"help": "Shares of the diagonal of a full covariance."}
    )
    num_parameters: int | None = field(
        default=None, metadata={"help": "Of pythae's autoencoders together, about; those of the model in --model if left out."}
    )
    num_epochs: int = field(default=200, metadata={"help": "Passes over the images of pythae's autoencoders."})


class ByClass:
    """One distribution for each class, or one for all.

    Args:
        images: What to learn from.
        learn: From images (rows, pixels) to a distribution.
    """

    def __init__(self, images: Images, learn: Callable[[np.ndarray], PixelDistribution]) -> None:
        classes = np.unique(images.classes) if images.is_conditional else [None]
        self.parts = {name: learn(images.pixels[images.select(name)]) for name in classes}

    def change(self, change: Callable[[PixelDistribution], PixelDistribution]) -> ByClass:
        """The same with something changed in each distribution."""
        changed = copy.copy(self)
        changed.parts = {name: change(part) for name, part in self.parts.items()}
        return changed

    def count_bits(self, images: Images, seed: int = 0) -> float:
        """The bits that a pixel takes."""
        generator = np.random.default_rng(seed)
        total = sum(part.log_prob(images.pixels[images.select(name)], generator).sum() for name, part in self.parts.items())
        return -float(total) / images.pixels.size / np.log(2.0)

    def sample(self, classes: np.ndarray, seed: int = 0) -> np.ndarray:
        """An image for each of some classes, (rows, pixels)."""
        generator = np.random.default_rng(seed)
        first = next(iter(self.parts.values()))
        if None in self.parts:
            return first.sample(len(classes), generator)
        drawn = {name: iter(part.sample(int((classes == name).sum()), generator)) for name, part in self.parts.items()}
        return np.stack([next(drawn[name]) for name in classes])


def _list_baselines(settings: BaselineSettings, images: dict[str, Images], size: int) -> dict[str, ByClass]:
    train = images["train"]
    levels = train.num_levels
    least_scales = [share * (levels - 1) for share in settings.least_scales]
    binned = [ByClass(train, lambda rows, scale=scale: BinnedGaussian(rows, levels, scale)) for scale in least_scales]
    full = [ByClass(train, lambda rows, share=share: FullGaussian(rows, levels, share)) for share in settings.shrinkages]
    each = "class-wise " if train.is_conditional else ""

    def choose(candidates: list[ByClass]) -> ByClass:
        return min(candidates, key=lambda one: one.count_bits(images["validation"]))

    baselines = {
        f"{each}Gaussian": choose(binned),
        f"{each}Gaussian, full covariance": choose(full),
        f"{each}PCA, {size} dimensions": ByClass(train, lambda rows: PrincipalComponents(rows, levels, size)),
        f"{each}ICA, {size} dimensions": ByClass(train, lambda rows: IndependentComponents(rows, levels, size)),
    }
    if is_there() and settings.num_parameters is not None:
        parameters = settings.num_parameters // (len(np.unique(train.classes)) if train.is_conditional else 1)

        def train_autoencoder(rows: np.ndarray, loss: str) -> PixelDistribution:
            return PythaeAutoencoder(rows, levels, size, parameters, loss=loss, num_epochs=settings.num_epochs)

        trained = [ByClass(train, lambda rows, loss=loss: train_autoencoder(rows, loss)) for loss in ("bce", "mse")]
        scaled = [one.change(lambda part, scale=scale: part.limit_scale(scale)) for one in trained for scale in least_scales]
        baselines[f"{each}VAE of pythae, {size} dimensions"] = choose(scaled)
    return baselines


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score the baselines and print them; see the top of the file."""
    settings, run, size, images, judge, config_path, folder = read_images(BaselineSettings, argv)
    set_up_logging()
    if settings.num_parameters is None and (folder / "config.json").is_file():
        settings.num_parameters = AutoModelForSequenceClassification.from_pretrained(folder).num_parameters()
    results_path = find_results_to_join(config_path, wanted=run.update_results, name=run.results_file)
    scores = {}
    for label, baseline in _list_baselines(settings, images, size).items():
        found, _ = judge_draws(judge, baseline.sample, images, settings)
        scores[label] = {"bits_per_dimension": baseline.count_bits(images["test"]), **found}
    add_baselines(results_path, scores)
    return scores


if __name__ == "__main__":
    run_main(main)
