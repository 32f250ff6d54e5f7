"""What the word_space recipe's densities are compared with, on its test words.

    python recipes/word_space/baselines.py recipes/word_space/config.yaml
    python recipes/word_space/baselines.py recipes/word_space/config.yaml --update_results true

* Gaussian: one normal distribution with all covariances, as the training words have it;
* probabilistic PCA (Tipping and Bishop 1999) and ICA in its subspace: models of this package, heads of kind `ppca` and `ica`,
  fitted in closed form; their number of components is chosen on the validation words;
* mixture of Gaussians by expectation maximisation, scikit-learn's, on as many of the training words as `em_rows` says.

`--update_results true` puts them beside the model's own metrics in the recipe's results, which the training wrote.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

import numpy as np
import torch
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

import hf_genext
from hf_genext.conditions import stack_targets
from recipes.output_baselines import OutputComparison, run_output_baselines
from recipes.running import run_main

Scorer = Callable[[np.ndarray], np.ndarray]
"""Gives the log-density of rows, (rows, size) -> (rows,)."""


@dataclass
class BaselineSettings:
    """How to compare."""

    components: list[int] = field(
        default_factory=lambda: [10, 20, 30, 40], metadata={"help": "Components of PCA and ICA, of which the best are chosen."}
    )
    pieces: int = field(default=16, metadata={"help": "Pieces of the function that makes a source of ICA of a normal number."})
    em_components: int = field(
        default=32, metadata={"help": "Gaussians of expectation maximisation; as many as the recipe's mixture has."}
    )
    em_rows: int = field(default=100_000, metadata={"help": "Training words that it sees, drawn at random."})
    em_rounds: int = field(default=30, metadata={"help": "The most rounds of it."})


def fit_linear(kind: str, rows: np.ndarray, num_components: int, num_bins: int) -> Scorer:
    """A density of kind `"ppca"` or `"ica"`, fitted in float64.

    Args:
        kind: Which.
        rows: (rows, size).
        num_components: Dimensions of the subspace.
        num_bins: Pieces of each source's function.
    """
    head = {"kind": kind, "num_outputs": rows.shape[1], "num_components": num_components}
    if kind == "ica":
        head["num_bins"] = num_bins
    nothing = hf_genext.GenextNullConditionerConfig(hidden_size=1)
    model = hf_genext.GenextForPrediction.from_encoder_pretrained(nothing, head).double()
    model.fit([{"labels": part} for part in torch.from_numpy(rows).split(10_000)])

    @torch.no_grad()
    def score(some: np.ndarray) -> np.ndarray:
        return model.log_prob(torch.from_numpy(some)).numpy()

    return score


def fit_mixture(rows: np.ndarray, settings: BaselineSettings) -> Scorer:
    """A mixture of Gaussians with all covariances by expectation maximisation, on some of the rows (rows, size)."""
    generator = np.random.default_rng(0)
    some = rows[generator.choice(len(rows), size=min(settings.em_rows, len(rows)), replace=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # The rounds are what is given.
        peer = GaussianMixture(settings.em_components, max_iter=settings.em_rounds, reg_covar=1e-4, random_state=0).fit(some)
    return peer.score_samples


def _score(comparison: OutputComparison) -> Iterator[tuple[str, dict[str, float]]]:
    train, validation, test = map(stack_targets, (comparison.train, comparison.validation, comparison.test))
    own = comparison.own

    def measure(scorer: Scorer) -> dict[str, float]:
        return comparison.metrics(scorer(test), test)

    yield "one Gaussian with all covariances", measure(multivariate_normal(train.mean(axis=0), np.cov(train.T)).logpdf)
    for kind, name in (("ppca", "probabilistic PCA"), ("ica", "ICA")):
        tried = {count: fit_linear(kind, train, count, own.pieces) for count in own.components}
        best = max(tried, key=lambda count: tried[count](validation).mean())
        yield f"{name}, {best} components", measure(tried[best])
    yield f"{own.em_components} Gaussians by expectation maximisation", measure(fit_mixture(train, own))


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score the baselines and print them; see the top of the file."""
    return run_output_baselines(_score, BaselineSettings, argv, output="flow")


if __name__ == "__main__":
    run_main(main)
