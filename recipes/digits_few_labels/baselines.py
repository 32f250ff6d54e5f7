"""What the digits_few_labels recipe's model is compared with, on its test images, with the same labels.

    python recipes/digits_few_labels/baselines.py recipes/digits_few_labels/config.yaml
    python recipes/digits_few_labels/baselines.py recipes/digits_few_labels/config.yaml --update_results true

* the labelled images alone: the same classifier without its generative half, by settings of its own (supervised.yaml);
* PCA of all training images, and a logistic regression of the components of the labelled ones.

Their settings were chosen on the validation images with other choices of labels (README.md). `--update_results true` puts
the means over the seeds beside the model's own in the recipe's results file, which run.py wrote.
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

import numpy as np

from recipes.digits_few_labels.choices import Choice, ChoiceSettings, list_choices, read_choice_settings, train_choice
from recipes.results import add_baselines
from recipes.running import find_results_to_join, run_main, set_up_logging

SUPERVISED = "the same classifier, labelled images alone"
LINEAR = "PCA of all images and logistic regression"


@dataclass
class BaselineSettings(ChoiceSettings):
    """How to compare."""

    num_components: int = field(default=40, metadata={"help": "Principal components."})
    strength: float = field(default=3.0, metadata={"help": "C of the logistic regression, of pixels of 0 to 1."})
    supervised_config: str = field(
        default="supervised.yaml", metadata={"help": "Settings of the classifier alone, beside the recipe's."}
    )


def _read_images(path: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of 0 to 1, (rows, pixels), and what they show, (rows,)."""
    import pyarrow.parquet as pq

    columns = pq.read_table(path).to_pydict()
    return np.array(columns["pixels"]) / 16.0, np.array(columns["digit"])


def score_linear(choice: Choice, num_components: int, strength: float) -> float:
    """The accuracy, in percent, of PCA of all training images and logistic regression of the labelled ones."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression

    everything = np.unique(_read_images(choice.files["train_file"])[0], axis=0)  # Labelled images stand there several times.
    pca = PCA(num_components, random_state=0).fit(everything)
    (pixels, names), (scored, truth) = (_read_images(choice.files[name]) for name in ("labelled_file", "scored_file"))
    regression = LogisticRegression(C=strength, max_iter=2000).fit(pca.transform(pixels), names)
    return 100.0 * float(regression.score(pca.transform(scored), truth))


def main(argv: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Score the baselines and print them; see the top of the file."""
    settings = read_choice_settings(BaselineSettings, argv)
    set_up_logging()
    own, run = settings.own, settings.run
    results_path = find_results_to_join(settings.config_path, wanted=run.update_results, name=run.results_file)
    supervised = settings.config_path.parent / own.supervised_config
    found: dict[str, dict[str, list[float]]] = {SUPERVISED: {}, LINEAR: {}}
    for choice in list_choices(settings):
        folder = settings.folder / f"supervised-{choice.count}-{choice.seed}"
        results = train_choice(supervised, choice, folder, choice.files["labelled_file"], [])
        found[SUPERVISED].setdefault(choice.metric, []).append(results["metrics"]["accuracy"])
        found[LINEAR].setdefault(choice.metric, []).append(score_linear(choice, own.num_components, own.strength))
    for label, scores in found.items():
        for name, values in scores.items():
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"{label}, {name}: {statistics.fmean(values):.2f} ± {spread:.2f}", flush=True)
    means = {label: {name: statistics.fmean(values) for name, values in scores.items()} for label, scores in found.items()}
    add_baselines(results_path, means)
    return means


if __name__ == "__main__":
    run_main(main)
