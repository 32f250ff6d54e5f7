"""A model of sequences as a distribution: draw from it, and say how likely given sequences are.

Legend: batch (conditions), samples (draws of each condition, beside each other), target (output positions), vocab.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import LogitsProcessorList

from .latents_genext import ENCODER_INPUTS, count_conditions, repeat_conditions
from .outputs_genext import GenextEncoderOutput
from .seeding_genext import KeyedSampling, check_seed, make_keys

_LARGEST_LOGITS = 1 << 26
"""Numbers of logits that are held at once."""


class SequenceSampling:
    """What a model with a sequence output is as a distribution."""

    config: Any
    encoder: Any
    generate: Any
    _prepare_generation_config: Any
    prepare_decoder_input_ids_from_labels: Any
    draw_latent_noise: Any
    _estimate: Any

    @torch.no_grad()
    def sample(
        self,
        num_samples: int = 1,
        *,
        temperature: float = 1.0,
        seed: int | Sequence[tuple[int, int]] | None = None,
        **arguments: Any,
    ) -> torch.Tensor:
        """Draw sequences: latent numbers from the prior, where the model has some, then tokens one after the other.

        With a temperature of 1 they are draws from the distribution of which [`log_prob`] gives the logarithm.

        Args:
            num_samples: Draws, of each condition where some are given.
            temperature: What the standard deviations of latent numbers are multiplied by, and the logits divided by. 0 takes
                the middle of the prior and the likeliest tokens.
            seed: A number, or for each condition a seed and a place, so that a row draws the same alone and in any batch.
            arguments: Conditions, and what `generate` takes besides.

        Returns:
            Ids (batch * samples, target), from the start token on.

        Raises:
            ValueError: for a temperature below 0, or fewer than one sample.
        """
        if not 0.0 <= temperature < math.inf:
            raise ValueError(f"temperature must be a finite number of 0 or more, got {temperature!r}.")
        if not isinstance(num_samples, int) or num_samples < 1:
            raise ValueError(f"num_samples must be a whole number of 1 or more, got {num_samples!r}.")
        inputs = {name: arguments.pop(name) for name in ENCODER_INPUTS if name in arguments}
        batch_size = count_conditions(inputs)
        inputs = {"num_samples": num_samples} if batch_size is None else repeat_conditions(inputs, num_samples)
        # Without any condition a sample is a row of its own, so that it does not depend on how many there are.
        rows, each = (num_samples, 1) if batch_size is None else (batch_size, num_samples)
        pairs = [(check_seed(seed), place) for place in range(rows)] if isinstance(seed, int) else seed
        if self.encoder.has_latents:
            inputs["latent_noise"] = self.draw_latent_noise(rows, pairs, temperature=temperature, num_samples=each)
            inputs["sample_latents"] = temperature > 0.0
        # The distribution that log_prob gives is the model's own, whatever it is saved with.
        arguments = {"guidance_scale": 1.0, **arguments}
        if temperature == 0.0:
            return self.generate(**inputs, **{"do_sample": False, "num_beams": 1, **arguments})
        arguments = {"do_sample": True, "num_beams": 1, "top_k": 0, "top_p": 1.0, "temperature": temperature, **arguments}
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
            (batch,).

        Raises:
            ValueError: if there are not as many conditions as targets.
        """
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
        return self._estimate(outputs, score, num_importance_samples, seed, rows_at_once)


__all__ = ["SequenceSampling"]
