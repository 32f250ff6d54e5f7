"""A model of sequences as a distribution: draw from it, and say how likely given sequences are.

Legend: batch (conditions), samples (draws of each condition, beside each other), target (output positions), vocab.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessorList

from .heads_genext import require_tokens
from .latents_genext import ENCODER_INPUTS, check_number, check_temperature, count_conditions, repeat_conditions
from .outputs_genext import GenextEncoderOutput
from .seeding_genext import KeyedSampling, check_seed, make_keys, require_seeds

_LARGEST_LOGITS = 1 << 26
"""Numbers of logits that are held at once."""

_NEUTRAL: dict[str, Any] = {
    "num_beams": 1,
    "num_beam_groups": None,
    "num_return_sequences": 1,
    "guidance_scale": 1.0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "diversity_penalty": None,
    "exponential_decay_length_penalty": None,
    "penalty_alpha": None,
    "dola_layers": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "sequence_bias": None,
    "constraints": None,
    "force_words_ids": None,
    "watermarking_config": None,
    "forced_eos_token_id": None,
    "min_length": 0,
    "min_new_tokens": None,
}
"""Settings of `generate` that change what a model finds likely, each with the value that changes nothing.

Not among them are those that a model was trained with (the tokens that outputs start with, end with and are padded with), and
how long outputs may be.
"""

_NEUTRAL_DRAWS: dict[str, Any] = {
    "do_sample": True,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "top_h": None,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
"""Likewise, of sampling."""


def list_neutral_settings(asked: Mapping[str, Any], *, samples: bool = True) -> dict[str, Any]:
    """Arguments of `generate` by which it draws from a model's own distribution, whatever the model is saved with.

    Args:
        asked: What a call gives itself, which stays as it is: arguments of `generate`, a `generation_config` among them.
        samples: Whether tokens are drawn; else the likeliest are taken.

    Returns:
        The settings that are not asked for. Some are `None`, which counts as an argument; in a `generation_config` it would
        stand for what the model is saved with.

    Example:
        >>> list_neutral_settings({"top_k": 5})["top_p"], "top_k" in list_neutral_settings({"top_k": 5})
        (1.0, False)
    """
    config, known = asked.get("generation_config"), vars(GenerationConfig())
    neutral = {**_NEUTRAL, **(_NEUTRAL_DRAWS if samples else {"do_sample": False})}
    given = {name for name in neutral if name in asked or getattr(config, name, None) is not None}
    if "min_new_tokens" in given:
        given.add("min_length")  # Of the two it alone counts.
    return {name: value for name, value in neutral.items() if name in known and name not in given}


class SequenceSampling:
    """What a model with a sequence output is as a distribution."""

    config: Any
    encoder: Any
    generate: Any
    _prepare_generation_config: Any
    prepare_decoder_input_ids_from_labels: Any
    draw_latent_noise: Any
    _choose_latent_temperature: Any
    _estimate: Any

    @torch.no_grad()
    def sample(
        self,
        num_samples: int = 1,
        *,
        temperature: float = 1.0,
        latent_temperature: float | None = None,
        seed: int | Sequence[tuple[int, int]] | None = None,
        **arguments: Any,
    ) -> torch.Tensor:
        """Draw sequences: latent numbers from the prior, where the model has some, then tokens one after the other.

        With a temperature of 1 they are draws from the distribution of which [`log_prob`] gives the logarithm, whatever
        settings of generation the model is saved with; those that are longer than it writes (`max_new_tokens`) are cut.

        Args:
            num_samples: Draws, of each condition where some are given.
            temperature: What the standard deviations of latent numbers are multiplied by, and the logits divided by. 0 takes
                the middle of the prior and the likeliest tokens.
            latent_temperature: That of the latent numbers alone, which `temperature` then leaves as they are.
            seed: A number, or for each condition a seed and a place, so that a row draws the same alone and in any batch.
            arguments: Conditions, and what `generate` takes besides, which then changes the distribution.

        Returns:
            Ids (batch * samples, target), from the start token on.

        Raises:
            ValueError: for a temperature below 0, one of latent numbers that the model lacks, or fewer than one sample.
        """
        temperature = check_temperature("temperature", temperature)
        latent_temperature = self._choose_latent_temperature(temperature, latent_temperature)
        num_samples = check_number("num_samples", num_samples)
        if arguments.get("num_return_sequences") not in (None, 1):
            raise ValueError("How many are drawn of each condition is num_samples=; leave out num_return_sequences.")
        if seed is not None and (arguments.get("num_beams") or 1) > 1:
            raise ValueError("A seed is of what is drawn, and num_beams searches; leave one of them out.")
        inputs = {name: arguments.pop(name) for name in ENCODER_INPUTS if name in arguments}
        batch_size = count_conditions(inputs)
        inputs = {"num_samples": num_samples} if batch_size is None else repeat_conditions(inputs, num_samples)
        # Without any condition a sample is a row of its own, so that it does not depend on how many there are.
        rows, each = (num_samples, 1) if batch_size is None else (batch_size, num_samples)
        pairs = [(check_seed(seed), place) for place in range(rows)] if isinstance(seed, (int, Integral)) else seed
        require_seeds(pairs, rows)
        if self.encoder.has_latents:
            inputs["latent_noise"] = self.draw_latent_noise(rows, pairs, temperature=latent_temperature, num_samples=each)
            inputs["sample_latents"] = latent_temperature > 0.0
        samples = temperature > 0.0
        arguments = {"temperature": temperature, **arguments} if samples else arguments
        arguments = {**list_neutral_settings(arguments, samples=samples), **arguments}
        if not samples:
            return self.generate(**inputs, **arguments)
        if pairs is not None:
            config, _ = self._prepare_generation_config(
                arguments.get("generation_config"),
                **{name: value for name, value in arguments.items() if name not in ("generation_config", "logits_processor")},
            )
            given = arguments.get("logits_processor") or []
            keyed = KeyedSampling(make_keys(pairs, each), config)
            arguments["logits_processor"] = LogitsProcessorList([*given, keyed])
        return self.generate(**inputs, **arguments)

    def log_prob(
        self,
        labels: torch.Tensor,
        num_importance_samples: int = 64,
        *,
        seed: int | Sequence[tuple[int, int]] | None = None,
        **inputs: Any,
    ) -> torch.Tensor:
        """The log-probability of whole sequences, in nats.

        Exact where the model has no latent numbers. Where it has some it is a bound from below, by latent numbers drawn from
        the posterior and weighted (Burda et al. 2016, "Importance weighted autoencoders"), which rises with their number
        towards the log-probability itself. Give the target as the condition that the posterior reads, too; where a row lacks
        that, the latent numbers are drawn from the prior, which takes far more of them.

        Args:
            labels: (batch, target), -100 behind the end.
            num_importance_samples: Draws of the latent numbers of each row.
            seed: As [`sample`] takes it.
            inputs: The conditions, the target among them, as [`GenextEncoder.forward`] takes them.

        Returns:
            (batch,). Not a number (NaN) where a row has no target at all.

        Raises:
            ValueError: if there are not as many conditions as targets, or for a token that is none of the model's.
        """
        require_tokens(labels, self.config.vocab_size)
        self.encoder.require_known(inputs)
        if count_conditions(inputs) is None and self.encoder.can_be_unconditional:
            inputs["num_samples"] = len(labels)
        own = {"sample_latents": False} if self.encoder.has_latents else {}
        outputs = self.encoder(**inputs, **own)
        if len(outputs.last_hidden_state) != len(labels):
            raise ValueError(
                f"There are {len(outputs.last_hidden_state)} conditions and {len(labels)} targets; give one for each."
            )
        decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)

        def score(memory: torch.Tensor, mask: torch.Tensor | None, samples: int) -> torch.Tensor:
            encoded = GenextEncoderOutput(last_hidden_state=memory, memory_mask=mask)
            ids = decoder_input_ids.repeat_interleave(samples, dim=0)
            logits = self(encoder_outputs=encoded, decoder_input_ids=ids, use_cache=False).logits  # type: ignore[operator]
            logits = logits if logits.dtype == torch.float64 else logits.float()
            wanted = labels.repeat_interleave(samples, dim=0)
            return -nn.functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none").sum(dim=1)

        rows_at_once = max(1, _LARGEST_LOGITS // (labels.shape[1] * self.config.vocab_size))
        log_probs = self._estimate(outputs, score, num_importance_samples, seed, rows_at_once)
        return log_probs.masked_fill((labels == -100).all(dim=1), math.nan)


__all__ = ["SequenceSampling", "list_neutral_settings"]
