"""A picture of what the word_space recipe's models draw, beside the vectors of words that they have not seen.

    python recipes/word_space/samples.py --models out/word_space-config-1 out/word_space-mixture-1

Each vector is a point: how far it lies along the first principal component of the words, and how long it is.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

import numpy as np
from transformers import pipeline

import hf_genext  # noqa: F401
from hf_genext.conditions import read_rows, stack_targets
from recipes.plots import draw_clouds
from recipes.running import run_main
from recipes.word_space.prepare_data import prepare_data

SEED = 7


def main(argv: list[str] | None = None) -> None:
    """Draw vectors, and the picture; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, help="Folders of trained models.")
    parser.add_argument("--data_dir", type=Path, default=Path("out/word_space/data"), help="Where the data may be written.")
    parser.add_argument("--picture", type=Path, default=Path(__file__).parent / "samples.png", help="The picture, a PNG.")
    options = parser.parse_args(argv)
    test_file = prepare_data(options.data_dir)["test_file"]
    words = stack_targets(read_rows(test_file, [], target_columns=["vector"], output="flow")[0])
    mean = words.mean(axis=0)
    axis = np.linalg.eigh(np.cov(words.T))[1][:, -1]

    def place(vectors: np.ndarray) -> np.ndarray:
        return np.stack([(vectors - mean) @ axis, np.linalg.norm(vectors, axis=1)], axis=1)

    clouds = {"words that no model has seen": place(words)}
    gaussian = np.random.default_rng(SEED).multivariate_normal(mean, np.cov(words.T), size=len(words))
    for folder in options.models:
        pipe = pipeline("conditional-generation", model=folder)
        drawn = np.array([answer["value"] for (answer,) in pipe(num_samples=len(words), seed=SEED)])
        clouds[f"drawn from the {pipe.model.config.head.kind}"] = place(drawn)
    clouds["drawn from one Gaussian"] = place(gaussian)
    draw_clouds(clouds, options.picture, x_label="along the first principal component", y_label="length of the vector")


if __name__ == "__main__":
    run_main(main)
