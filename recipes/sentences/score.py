"""Score a trained model of the sentences recipe on its test sentences, and show what it draws.

    python recipes/sentences/score.py recipes/sentences/config.yaml --model out/sentences
    python recipes/sentences/score.py recipes/sentences/config.yaml --model out/sentences --update_results true

Bits per character are the importance-weighted bound with `num_importance_samples` draws of the latent numbers, where training
reports that with one. The metrics go into the model's folder and onto its card, with samples, reconstructions and a way from
one sentence to another in `samples.md`, and with `--update_results true` into the recipe's folder.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:] = [str(ROOT), *(folder for folder in sys.path if Path(folder).resolve() not in (ROOT, Path(__file__).parent))]

import torch

from hf_genext import pipeline
from hf_genext.latent_metrics import describe_priors, measure_latents
from hf_genext.metrics import build_metrics
from hf_genext.pipeline_latents import has_latents
from recipes.running import find_recipe_results, run_main
from recipes.scored_models import require_results, store_scores
from recipes.sentences.glosses import SentenceSettings, judge_sentences
from recipes.text_distributions import draw_texts, measure_given, read_text_recipe

_SHOWN_LATENTS = ("active_units", "active_share", "informative_units", "kl", "mutual_information")
_ROWS_AT_ONCE = 250
_SHOWN = 6


@dataclass
class ScoreSettings(SentenceSettings):
    """How to score."""

    num_importance_samples: int = field(default=64, metadata={"help": "Draws of the latent numbers for the bound."})


def encode_texts(pipe: Any, texts: list[str]) -> dict[str, torch.Tensor]:
    """What the posterior and the prior say of texts, by the arguments of [`measure_latents`], each (rows, units)."""
    names = ("means", "log_variances", "kl", "prior_means", "prior_log_variances")
    found: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        inputs = pipe.processor(text=texts[start : start + _ROWS_AT_ONCE], padding=True, return_tensors="pt")
        latents = pipe.model.encoder(**inputs.to(pipe.device), sample_latents=False).latents
        parts = (latents.means, latents.log_variances, latents.kl, *describe_priors(latents))
        for name, part in zip(names, parts, strict=True):
            found[name].append(part.cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def reconstruct(pipe: Any, texts: list[str]) -> list[str]:
    """What the likeliest latent numbers of texts say, by greedy search."""
    answers = pipe([{"text": text} for text in texts], batch_size=_ROWS_AT_ONCE, num_beams=1, do_sample=False)
    return [answer[0]["generated_text"] for answer in answers]


def interpolate(pipe: Any, first: str, second: str, steps: int = 5) -> list[str]:
    """Sentences on the straight line between the latent numbers of two."""
    inputs = pipe.processor(text=[first, second], padding=True, return_tensors="pt").to(pipe.device)
    latents = pipe.model.encode_latents(**inputs)
    memory, mask = pipe.model.write_latents(pipe.model.interpolate(latents[0], latents[1], steps=steps))
    ids = pipe.model.decode(memory, memory_mask=mask, num_beams=1, do_sample=False)
    return pipe.target_tokenizer.batch_decode(ids, skip_special_tokens=True)


def score_model(pipe: Any, train: list[str], test: list[str], settings: ScoreSettings) -> tuple[dict[str, float], list[str]]:
    """The metrics of a model with latent numbers or without, and what it drew."""
    nothing: list[dict[str, Any]] = [{} for _ in test]
    given = measure_given(pipe, nothing, test, num_importance_samples=settings.num_importance_samples)
    scores = {name: given[name] for name in ("bits_per_character", "perplexity")}
    samples = draw_texts(pipe, [{} for _ in range(settings.num_drawn)])
    scores |= judge_sentences(samples, train)
    if has_latents(pipe.model):
        with torch.inference_mode():
            encoded = encode_texts(pipe, test)
            noise = torch.randn(encoded["means"].shape, generator=torch.Generator().manual_seed(0))
            latents = measure_latents(**encoded, noise=noise, free_nats=pipe.model.config.bottleneck.free_nats)
            compare = build_metrics(["token_f1", "exact_match"])(reconstruct(pipe, test), [[text] for text in test])
        scores |= {name: latents[name] for name in _SHOWN_LATENTS}
        scores |= {f"reconstruction_{name}": value for name, value in compare.items()}
    return scores, samples


def describe_model(pipe: Any, samples: list[str], test: list[str]) -> str:
    """Samples, reconstructions and a way between two sentences, as Markdown."""
    lines = ["Drawn out of nothing:", "", *(f"- {text}" for text in samples[:_SHOWN])]
    if has_latents(pipe.model):
        with torch.inference_mode():
            rebuilt = reconstruct(pipe, test[:_SHOWN])
            way = interpolate(pipe, *test[:2])
        pairs = zip(test[:_SHOWN], rebuilt, strict=True)
        lines += ["", f"Test sentences, and what comes out of their {pipe.model.encoder.bottleneck.num_units} numbers:", ""]
        lines += [f"- {text} → {again}" for text, again in pairs]
        lines += ["", "On the straight line from the first of them to the second:", "", *(f"- {text}" for text in way)]
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Score and print; see the top of the file."""
    recipe = read_text_recipe(ScoreSettings, argv, {}, needs_model=True)
    results = find_recipe_results(recipe.config_path, recipe.run.results_file) if recipe.run.update_results else None
    require_results(recipe.model)
    pipe = pipeline("conditional-generation", model=str(recipe.model))
    scores, samples = score_model(pipe, recipe.train.texts, recipe.test.texts, recipe.own)
    shown = recipe.model / "samples.md"
    shown.write_text(describe_model(pipe, samples, recipe.test.texts), encoding="utf-8")
    facts = {"drawn_sentences": recipe.own.num_drawn}
    if has_latents(pipe.model):
        facts["importance_samples"] = recipe.own.num_importance_samples
    store_scores(recipe.model, recipe.run, scores, facts, recipe_results=results)
    if results is not None:
        shutil.copy(shown, results.with_name(f"{results.stem.replace('results', 'samples', 1)}.md"))
    return scores


if __name__ == "__main__":
    run_main(main)
