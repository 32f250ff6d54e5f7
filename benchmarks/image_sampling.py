"""How fast 10,000 digits are drawn in one call, beside pythae's variational autoencoder of as many parameters.

    pip install pythae
    python benchmarks/image_sampling.py

Untrained models of the sizes of recipes/digits, one thread, CPU seconds, rounds that take turns. Ours draw each image by the
name of its digit, from latent numbers, a whole number for each pixel: pixels that are independent given the memory, and pixels
that read those before them, one after the other. pythae's gives the mean of its decoder for each pixel.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, ROOT / "benchmarks"))]

import torch

from benchmarks.report import write_tables
from hf_genext import GenextConfig, GenextForPrediction
from hf_genext.devices import describe_device
from recipes.pythae_baselines import build_networks, choose_width, count_parameters

RESULTS = ROOT / "benchmarks" / "results" / "image_sampling.json"
NUM_IMAGES, NUM_PIXELS, NUM_UNITS = 10_000, 64, 16


def build_model(context_size: int) -> GenextForPrediction:
    """The digits recipe's model, untrained."""
    parts = {
        "vector": {"model_type": "genext_vector_conditioner", "vector_size": NUM_PIXELS, "hidden_size": 128, "num_states": 4},
        "label": {"model_type": "genext_label_conditioner", "label_counts": [10], "hidden_size": 128},
    }
    config = GenextConfig(
        conditioner={"model_type": "genext_fusion_conditioner", "conditioners": parts, "hidden_size": 128},
        bottleneck={
            "kind": "variational",
            "posterior_conditions": ["vector"],
            "prior": "conditional",
            "latent_size": NUM_UNITS,
            "intermediate_size": 256,
        },
        head={
            "kind": "image",
            "output_shape": [8, 8],
            "num_levels": 17,
            "pixel_distribution": "logistic",
            "num_components": 3,
            "context_size": context_size,
        },
    )
    torch.manual_seed(0)
    return GenextForPrediction(config).eval()


def build_peer(num_parameters: int) -> tuple[Any, int]:
    """Pythae's sampler of an autoencoder with about so many parameters, and how many it has."""
    from pythae.models import VAE, VAEConfig
    from pythae.samplers import NormalSampler

    width = choose_width(NUM_PIXELS, NUM_UNITS, num_parameters)
    encoder, decoder = build_networks(NUM_PIXELS, NUM_UNITS, width)
    model = VAE(VAEConfig(input_dim=(NUM_PIXELS,), latent_dim=NUM_UNITS), encoder=encoder, decoder=decoder).eval()
    return NormalSampler(model), count_parameters(NUM_PIXELS, NUM_UNITS, width)


def main() -> None:
    """Measure, and store the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = {"independent pixels": build_model(0), "pixels that read those before them": build_model(96)}
    sampler, num_parameters = build_peer(models["independent pixels"].num_parameters())
    labels = (torch.arange(NUM_IMAGES) % 10)[:, None]

    contenders: dict[str, Any] = {"pythae": lambda: sampler.sample(num_samples=NUM_IMAGES, batch_size=NUM_IMAGES)}
    for name, model in models.items():
        contenders[name] = lambda model=model: model.sample(condition_labels=labels, seed=1)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(options.num_rounds + 1):
        for name, draw in contenders.items():
            started = time.process_time()
            with torch.inference_mode():
                drawn = draw()
            if len(drawn) != NUM_IMAGES:
                raise RuntimeError(f"{name} gave {len(drawn):,} images.")
            if round_number:  # The first round warms up.
                times[name].append(time.process_time() - started)
    medians = {name: statistics.median(found) for name, found in times.items()}
    counts = {"pythae": num_parameters} | {name: model.num_parameters() for name, model in models.items()}
    results = {
        "hardware": describe_device(1),
        "images": NUM_IMAGES,
        "rows": {
            name: {
                "parameters": counts[name],
                "cpu_seconds": median,
                "images_per_second": NUM_IMAGES / median,
                "ratio": medians["pythae"] / median,
                "rounds": times[name],
            }
            for name, median in medians.items()
        },
    }
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    write_tables()
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
