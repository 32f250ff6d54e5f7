"""Score a trained model of images on its test images, and draw a picture of its samples.

    python recipes/score_images.py recipes/digits/config.yaml --model out/digits
    python recipes/score_images.py recipes/digits/config.yaml --model out/digits --update_results true

Bits per dimension are the importance-weighted bound with `num_importance_samples` draws of the latent numbers, where training
reports that with one. The metrics and `samples.png` go into the model's folder and onto its card, and with
`--update_results true` the metrics into the recipe's results file.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

import numpy as np
import torch

from hf_genext import pipeline
from recipes.drawn_images import Images, ImageSettings, judge_draws, read_images
from recipes.plots import draw_image_grid
from recipes.running import find_recipe_results, run_main, set_up_logging
from recipes.scored_models import require_results, store_scores

_ROWS_AT_ONCE = 100
_GRID = 10


@dataclass
class ScoreSettings(ImageSettings):
    """How to score."""

    num_importance_samples: int = field(default=1000, metadata={"help": "Draws of the latent numbers for the bound."})
    guidance_scale: float = field(
        default=1.0,
        metadata={"help": "How much the names count in drawing, of a model that was trained with condition_dropout."},
    )


def count_bits(pipe: object, images: Images, count: int) -> tuple[float, int]:
    """The bits that a pixel takes, by the importance-weighted bound, and the draws of the latents that it is of."""
    conditions = [_name(name, images) for name in images.classes]
    # In one call, for images have draws of their own by their places in it.
    scores = pipe.score(conditions, list(images.pixels), num_importance_samples=count, batch_size=_ROWS_AT_ONCE)  # type: ignore[attr-defined]
    total = sum(score["score"] for score in scores)
    taken = scores[0].get("num_importance_samples", 1)  # Of codes, which a target leaves no doubt about, one.
    return -total / images.pixels.size / np.log(2.0), taken


def draw(pipe: object, images: Images, classes: np.ndarray, seed: int, guidance_scale: float = 1.0) -> np.ndarray:
    """Images of some classes, (rows, pixels) of whole numbers."""
    model = pipe.model  # type: ignore[attr-defined]
    given = [_name(name, images) for name in classes]
    guidance = {} if guidance_scale == 1.0 else {"guidance_scale": guidance_scale}
    answers = pipe(given, seed=seed, batch_size=500, **guidance)  # type: ignore[operator]
    pictures = np.stack([np.asarray(answer[0]["generated_image"], dtype=np.float64) for answer in answers])
    return np.rint(pictures * ((model.config.head.num_levels - 1) / 255.0)).reshape(len(pictures), -1)


def _name(name: str, images: Images) -> dict[str, str]:
    return {"label": name} if images.is_conditional else {}


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Score and print; see the top of the file."""
    settings, run, _, images, judge, config_path, folder = read_images(ScoreSettings, argv, needs_model=True)
    set_up_logging()
    recipe_results = find_recipe_results(config_path, run.results_file) if run.update_results else None
    require_results(folder)
    pipe = pipeline("conditional-generation", model=str(folder))
    test = images["test"]
    with torch.inference_mode():
        found, drawn = judge_draws(
            judge, lambda classes, seed: draw(pipe, test, classes, seed, settings.guidance_scale), images, settings
        )
        bits, num_importance_samples = count_bits(pipe, test, settings.num_importance_samples)
    scores = {"bits_per_dimension": bits, **found}

    shape = pipe.model.config.head.output_shape
    draw_image_grid(drawn[: _GRID * _GRID].reshape(-1, *shape), folder / "samples.png", columns=_GRID)
    facts = {
        "importance_samples": num_importance_samples,
        "drawn_images": f"{settings.num_draws} x {settings.num_drawn}",
        **({} if settings.guidance_scale == 1.0 else {"guidance_scale": settings.guidance_scale}),
    }
    store_scores(folder, run, scores, facts, recipe_results=recipe_results, pictures={"Samples": "samples.png"})
    if recipe_results is not None and recipe_results.name == "results.json":
        shutil.copy(folder / "samples.png", recipe_results.parent)
    return scores


if __name__ == "__main__":
    run_main(main)
