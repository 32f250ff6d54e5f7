"""Models with a single output: one class, several labels, or numbers with their uncertainty.

Legend: batch, slots (memory positions), hidden, outputs (classes, labels or numbers).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils.generic import can_return_tuple

from .composition_genext import Part, compose_prediction
from .conditioners_genext import GenextFusionConditioner
from .configuration_genext import GenextConfig
from .configuration_heads_genext import DENSITY_KINDS
from .encoders_genext import GenextEncoder
from .field_conditioners_genext import GenextNullConditioner
from .fitting_genext import ClosedFormFitting
from .guidance_genext import check_guidance_scale, double_memory
from .heads_genext import add_losses, build_prediction_head, divide_losses
from .latents_genext import check_number, check_temperature, count_conditions, move_inputs, repeat_conditions
from .memory_genext import MemoryEncoding, average_slots
from .missing_labels_genext import compute_generative_losses, find_vectors
from .noise_genext import Noise
from .outputs_genext import GenextEncoderOutput, GenextPredictionOutput
from .pretrained_genext import GenextPreTrainedModel
from .seeding_genext import KeyedNoise, check_seed, make_keys

_ROWS_AT_ONCE = 4096
"""Draws of latent numbers that are scored at once."""

_LEAST_TEMPERATURE = 1e-30
"""What stands for 0, by which nothing can be divided: at both the likeliest is drawn."""


class GenextForPrediction(MemoryEncoding, ClosedFormFitting, GenextPreTrainedModel):
    """A conditional model with a single output: encoder and head. The head reads the mean of the memory's real slots.

    Attributes:
        generative: With a `generative` part in the configuration, the model of the vector that a classifier reads, given the
            class. Training alone runs it; `generative.sample(condition_labels=...)` draws vectors, and
            `generative.log_prob(vectors, condition_vectors=vectors, condition_labels=...)` scores them.

    Args:
        config: The configuration of the whole, with a `head`.
        encoder_models: A pretrained model for the conditioner, for a fusion one for each name; else they are built.

    Raises:
        ValueError: if the configuration has no head.

    Example:
        >>> import torch
        >>> from hf_genext import GenextConfig, GenextForPrediction
        >>> config = GenextConfig(conditioner={"vocab_size": 32}, head={"kind": "class", "output_names": ["noun", "verb"]})
        >>> model = GenextForPrediction(config).eval()
        >>> model(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([1])).logits.shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        config: GenextConfig,
        encoder_models: PreTrainedModel | Mapping[str, PreTrainedModel | None] | None = None,
    ) -> None:
        super().__init__(config)
        if config.head is None:
            raise ValueError(
                'A GenextForPrediction needs to know what it predicts: give the configuration a head, such as head={"kind": '
                '"class", "num_outputs": 5}.'
            )
        self.encoder = GenextEncoder(config, encoder_models)
        self.head = build_prediction_head(config.head, config.hidden_size)  # type: ignore[arg-type]
        self.generative = None if config.generative is None else GenextForPrediction(config.build_generative_config())
        # Transformers' own Trainer would count labels, and here rows without one are learned from, too: not told any number,
        # the loss is the mean over rows.
        self.accepts_loss_kwargs = self.generative is None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The embedding of the source tokens."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding of the source tokens."""
        self.encoder.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        input_features: torch.FloatTensor | None = None,
        input_values: torch.FloatTensor | None = None,
        feature_attention_mask: torch.Tensor | None = None,
        condition_vectors: torch.FloatTensor | None = None,
        condition_vectors_mask: torch.Tensor | None = None,
        condition_labels: torch.LongTensor | None = None,
        condition_mask: torch.Tensor | None = None,
        num_samples: int | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        condition_states: torch.FloatTensor | Mapping[str, torch.FloatTensor] | None = None,
        condition_states_mask: torch.Tensor | Mapping[str, torch.Tensor] | None = None,
        latent_noise: torch.Tensor | None = None,
        sample_latents: bool | None = None,
        **kwargs: Any,
    ) -> GenextPredictionOutput:
        """Run the model, and compute the loss where labels are given.

        Args:
            input_ids: See [`GenextEncoder.forward`] for all conditions.
            attention_mask: 1 where a source token is real, (batch, length).
            labels: What is to be predicted: a class (batch,), labels of 0 and 1 (batch, outputs), or numbers (batch, outputs),
                of one (batch,); of a density a vector (batch, outputs). -100, or for numbers NaN, where nothing is known. With
                a generative half training learns from rows whose class is missing, too.
            inputs_embeds: Instead of `input_ids`, (batch, length, hidden).
            pixel_values: Images.
            input_features: Features of audio.
            input_values: Waveforms.
            feature_attention_mask: 1 where audio is real.
            condition_vectors: (batch, size) or (batch, count, size).
            condition_vectors_mask: 1 where a vector is real, (batch, count).
            condition_labels: (batch, fields), -1 where a label is missing.
            condition_mask: 1 where a condition is given, (batch, conditions).
            condition_states: What frozen conditioners gave before, (batch, length, hidden), in place of a condition, or of
                several fused ones by their names.
            condition_states_mask: 1 where such a state is real, (batch, length), or likewise by names.
            num_samples: The number of rows where no condition is given at all; that of the labels if left out.
            num_items_in_batch: Known labels of the whole optimizer step, by which the loss is divided; with a generative half
                all its rows.
            latent_noise: See [`GenextEncoder.forward`], as what follows; in training with a generative half it is of that.
            sample_latents: Whether a variational or quantised bottleneck draws.
            kwargs: `output_attentions`, `output_hidden_states`, `return_dict`, and what a pretrained encoder takes besides.

        Returns:
            The loss (nats for each known label; in training with a generative half, for each row), logits or means (batch,
            outputs), and standard deviations of a regression.
            Of a density the logits are a point that stands for it, in evaluation mode.
        """
        conditions = {
            "input_ids": input_ids,
            "inputs_embeds": inputs_embeds,
            "pixel_values": pixel_values,
            "input_features": input_features,
            "input_values": input_values,
            "condition_vectors": condition_vectors,
            "condition_labels": condition_labels,
            "condition_mask": condition_mask,
            "condition_states": condition_states,
        }
        learns_generation = self.generative is not None and self.training
        outputs = self.encoder(
            attention_mask=attention_mask,
            feature_attention_mask=feature_attention_mask,
            condition_vectors_mask=condition_vectors_mask,
            condition_states_mask=condition_states_mask,
            latent_noise=None if learns_generation else latent_noise,
            sample_latents=None if learns_generation else sample_latents,
            **self._count_rows(labels, {"num_samples": num_samples, **conditions}),
            **kwargs,
        )
        memory = outputs.last_hidden_state
        if labels is not None:
            self._require_targets(memory, labels)
        parameters = self.read_head(memory, outputs.memory_mask)
        loss = log_probs = losses = None
        if labels is not None and learns_generation:
            parts = self._compute_parts(parameters, labels, condition_vectors, condition_mask, latent_noise)
            losses = divide_losses(parts, len(labels) if num_items_in_batch is None else num_items_in_batch)
            loss, losses = sum(losses.values()), {name: part.detach() for name, part in losses.items()}
        elif labels is not None:
            log_probs = self.head.score(parameters, labels)
            loss = self.head.compute_loss(log_probs, labels, num_items_in_batch)
            count = self.head.is_given(labels).sum() if num_items_in_batch is None else num_items_in_batch
            loss, losses = add_losses(loss, outputs.losses, count)
        logits, scale = self._describe(parameters, len(memory), labels is not None)
        return GenextPredictionOutput(
            loss=loss,
            logits=logits.to(memory.dtype) if logits is not None and logits.is_floating_point() else logits,
            scale=scale,
            log_probs=self._bound(log_probs, outputs) if self._gives_whole_vectors else None,
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            losses=losses,
            latents=outputs.latents,
        )

    def _compute_parts(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        vectors: torch.Tensor | None,
        mask: torch.Tensor | None,
        noise: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """The named parts of the loss of classifier and generative half, in nats of each row, each (batch,)."""
        config, conditioner = self.config.generative, self.encoder.conditioner
        given = None
        if mask is not None and isinstance(conditioner, GenextFusionConditioner):
            reads = ["condition_vectors" in part.input_names for part in conditioner.conditioners.values()]
            given = mask[:, reads.index(True)]
        vectors, present = find_vectors(vectors, given, len(labels))
        return {
            "supervised": -config.supervised_weight * self.head.score(logits, labels),
            **compute_generative_losses(self.generative, config, logits, labels, vectors, present.to(labels.device), noise),
        }

    @property
    def _gives_whole_vectors(self) -> bool:
        """Whether the output is a vector or an image with one probability. The head itself may be wrapped in an adapter."""
        return self.config.head.kind in (*DENSITY_KINDS, "image")

    @property
    def _has_one_density(self) -> bool:
        """Whether nothing is a condition of a density, so that the parameters of one row are those of all."""
        return self._gives_whole_vectors and isinstance(self.encoder.conditioner, GenextNullConditioner)

    @staticmethod
    def _bound(log_probs: torch.Tensor | None, outputs: GenextEncoderOutput) -> torch.Tensor | None:
        """The log-probabilities of the targets, (batch,); with latent numbers the bound of those that were drawn."""
        if log_probs is None or outputs.latents is None:
            return log_probs
        return log_probs - outputs.latents.kl.sum(dim=1)

    def _count_rows(self, labels: torch.Tensor | None, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs, with as many rows as there are labels where nothing else says how many."""
        is_empty = all(value is None or (isinstance(value, Mapping) and not value) for value in inputs.values())
        if labels is not None and is_empty and self.encoder.can_be_unconditional:
            return {**inputs, "num_samples": len(labels)}
        return inputs

    def read_memory(self, labels: torch.Tensor | None, inputs: dict[str, Any]) -> torch.Tensor:
        """What the head reads for a batch of conditions.

        Args:
            labels: As many as there are rows, where there are no conditions.
            inputs: As [`GenextEncoder.forward`] takes them.

        Returns:
            (batch, hidden); of a density without any condition, which is one for all rows, (1, hidden).
        """
        return self._average(*self.encode(return_mask=True, **self._count_rows(labels, inputs)))

    def read_head(self, memory: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The parameters that the head makes of memories: (batch, slots, hidden), (batch, slots) -> (batch, parameters)."""
        return self.head(self._average(memory, mask))

    def _average(self, memory: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The mean of a memory's real slots, of one row for all where nothing is a condition of a density."""
        vectors = average_slots(memory, mask)
        return vectors[:1] if self._has_one_density else vectors

    def _describe(
        self, parameters: torch.Tensor, batch_size: int, is_scored: bool
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Logits, or numbers and their standard deviations; nothing of an image to score that is drawn pixel by pixel."""
        if self.config.head.kind == "regression":
            return self.head.split(parameters)
        if self._gives_whole_vectors:
            is_slow = is_scored and getattr(self.head, "context", None) is not None
            return None if self.training or is_slow else _expand(self.head.locate(parameters), batch_size), None
        return parameters, None

    def log_prob(
        self,
        labels: torch.Tensor,
        num_importance_samples: int = 64,
        *,
        seed: int | Sequence[tuple[int, int]] | None = None,
        **inputs: Any,
    ) -> torch.Tensor:
        """The log-probability of outputs, in nats, that of several labels or numbers of a row together.

        With a variational bottleneck it is the importance-weighted bound, as [`GenextForConditionalGeneration.log_prob`] gives
        it; the target is then a condition, too.

        Args:
            labels: As [`GenextForPrediction.forward`] takes them.
            num_importance_samples: Draws of the latent numbers of each row, where there are any.
            seed: Of those draws, a number, or for each row a seed and a place.
            inputs: As [`GenextEncoder.forward`] takes them; none for a model without conditions.

        Returns:
            (batch,). Not a number (NaN) where nothing of a row's output is known; where some of it is, that is what is scored.

        Raises:
            ValueError: if there are not as many conditions as labels, or labels that are none of the head's.
        """
        self.encoder.require_known(inputs)
        own = {"sample_latents": False} if self.encoder.has_latents else {}
        outputs = self.encoder(**self._count_rows(labels, inputs), **own)
        self._require_targets(outputs.last_hidden_state, labels)

        def score(memory: torch.Tensor, mask: torch.Tensor | None, samples: int) -> torch.Tensor:
            return self.head.score(self.read_head(memory, mask), labels.repeat_interleave(samples, dim=0))

        log_probs = self._estimate(outputs, score, num_importance_samples, seed, _ROWS_AT_ONCE)
        given = self.head.is_given(labels)
        is_known = given if given.dim() == 1 else given.flatten(1).any(dim=1)
        return log_probs.masked_fill(~is_known, math.nan)

    def _require_targets(self, memory: torch.Tensor, labels: torch.Tensor) -> None:
        """Raise unless there are as many memories as labels, or no condition and so one density for all labels."""
        if len(memory) != len(labels) and not self._has_one_density:
            raise ValueError(f"There are {len(memory)} conditions and {len(labels)} labels; give one for each.")

    @torch.no_grad()
    def sample(
        self,
        *,
        num_return_sequences: int = 1,
        temperature: float = 1.0,
        latent_temperature: float | None = None,
        generator: torch.Generator | None = None,
        noise: Noise | None = None,
        seed: int | None = None,
        guidance_scale: float | None = None,
        **inputs: Any,
    ) -> torch.Tensor:
        """Draw outputs for each condition, with a variational bottleneck each from latent numbers of its own.

        Args:
            num_return_sequences: Outputs of each condition.
            temperature: What logits are divided by, and the standard deviations of numbers multiplied by: below 1 the outputs
                are likelier, and more alike; 0 draws the likeliest.
            latent_temperature: Factor of the standard deviations of latent numbers, or what logits of codes are divided by,
                where that is not to be the temperature of the outputs. With 1 and a temperature of 0 pixels have no noise of
                their own, and images differ by their latent numbers; 0 takes the middle of the prior.
            generator: Where the randomness comes from.
            noise: In place of it, that of each output; [`KeyedNoise`] draws the same for a row in any batch.
            seed: In place of both: rows differ by their places, and each is the same in any batch that it stands at its place.
            guidance_scale: Above 1 the condition counts for more, 0 is without it (Ho and Salimans 2022, "Classifier-free
                diffusion guidance"); of a model that was trained with `condition_dropout`.
            inputs: As [`GenextEncoder.forward`] takes them; `num_samples` where there is no condition. `latent_noise` is that
                of each output, (rows * num_return_sequences, units + 1), in place of what is drawn; `sample_latents=False`
                takes means.

        Returns:
            Classes (rows,), labels of 0 and 1 (rows, outputs), or numbers (rows, outputs), the outputs of one condition beside
            each other.

        Raises:
            ValueError: for a temperature below 0, or one of latent numbers that the model lacks, fewer than one output of each
                condition, or guidance of a model that has none.
        """
        temperature = check_temperature("temperature", temperature)
        latent_temperature = self._choose_latent_temperature(temperature, latent_temperature)
        temperature = max(temperature, _LEAST_TEMPERATURE)
        num_return_sequences = check_number("num_return_sequences", num_return_sequences)
        self.encoder.require_known(inputs)
        if inputs.get("num_samples") is not None:
            inputs["num_samples"] = check_number("num_samples", inputs["num_samples"])
        asked: dict[str, Any] = {name: inputs.pop(name) for name in ("latent_noise", "sample_latents") if name in inputs}
        count = count_conditions(inputs)
        num_rows = 1 if count is None else count
        if seed is not None:
            pairs = [(check_seed(seed), place) for place in range(num_rows)]
            noise = KeyedNoise(make_keys(pairs, num_return_sequences).to(self.device))
        if noise is None:
            noise = Noise(num_rows * num_return_sequences, self.device, generator)
        if self.encoder.has_latents:
            inputs = repeat_conditions(inputs or {"num_samples": 1}, num_return_sequences)
            drawn = noise.normal(self.encoder.bottleneck.num_noise).to(self.device, torch.float32)
            drawn = self.encoder.bottleneck.shape_noise(drawn, latent_temperature)
            given = {name: value for name, value in asked.items() if value is not None}
            draws = latent_temperature > 0.0 or "latent_noise" in given
            inputs = {**inputs, "latent_noise": drawn, "sample_latents": draws, **given}
        elif asked:
            inputs = {**inputs, **asked}  # The encoder says why it takes none.
        # At 1 there is nothing to mix.
        if guidance_scale is not None and check_guidance_scale(guidance_scale) != 1.0:
            doubled = double_memory(self, inputs)
            memory, mask = doubled.last_hidden_state, doubled.memory_mask
            halves = self.head(self._average(memory, mask)).chunk(2)
            each = 1 if self.encoder.has_latents else num_return_sequences
            conditional, null = (half.repeat_interleave(each, dim=0) for half in halves)
            return self.head.draw_guided(conditional, null, guidance_scale, noise, temperature)
        memory, mask = self.encode(return_mask=True, **inputs)
        parameters = self.read_head(memory, mask)
        if len(parameters) == len(memory) == num_rows:
            parameters = parameters.repeat_interleave(num_return_sequences, dim=0)
        return self.head.draw(parameters, noise, temperature)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[Mapping[str, Any]]) -> float | list[float]:
        """Make the probabilities, or of numbers the uncertainties, right on rows that the model was not trained on.

        No prediction changes, only how sure it is: one temperature for classes, one for each label or number (Guo et al. 2017;
        Levi et al. 2022). It is kept as `config.head.temperature` and saved with the model. A threshold of labels that was
        chosen before is one of other probabilities, so it is chosen anew on these rows.

        Args:
            batches: Inputs as [`GenextForPrediction.forward`] takes them, with `labels`; a `DataLoader`, for example.

        Returns:
            The temperature: above 1 where the model was too sure of itself.

        Raises:
            ValueError: if there are no rows, or none whose output is known.

        Example:
            >>> import torch
            >>> from hf_genext import GenextConfig, GenextForPrediction
            >>> config = GenextConfig(conditioner={"vocab_size": 32}, head={"kind": "class", "num_outputs": 3})
            >>> model = GenextForPrediction(config)
            >>> batch = {"input_ids": torch.tensor([[5, 6, 7], [6, 5, 7]]), "labels": torch.tensor([1, 2])}
            >>> model.calibrate([batch]) == model.config.head.temperature
            True
        """
        self.head.calibrate(*self._predict(batches))
        # An adapter trains a copy of the head, which has a configuration of its own.
        self.config.head.temperature = self.head.config.temperature
        self.config.head.threshold = self.head.config.threshold
        return self.config.head.temperature

    @torch.no_grad()
    def choose_threshold(self, batches: Iterable[Mapping[str, Any]]) -> float:
        """Choose from which probability on a label is predicted, for the highest F1 over all labels of all rows together.

        A half is best for the share of labels that are right, not for F1. It is kept as `config.head.threshold`, saved with the
        model, and what the pipeline's `labels` are chosen by. Calibrate before, for the temperature changes probabilities.

        Args:
            batches: Inputs as [`GenextForPrediction.forward`] takes them, with `labels`, of rows that the model was not trained
                on.

        Returns:
            The threshold.

        Raises:
            ValueError: for a head that predicts no labels, if there are no rows, or none that has a label.
        """
        self.head.choose_threshold(*self._predict(batches))
        self.config.head.threshold = self.head.config.threshold
        return self.config.head.threshold

    def _predict(self, batches: Iterable[Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        """What the head gives for all rows, (rows, parameters), and what it should have given."""
        was_training = self.training
        self.eval()
        parameters, targets = [], []
        try:
            for batch in batches:
                inputs = move_inputs(batch, self.device)
                if inputs.get("labels") is None:
                    raise ValueError("Calibration needs the labels of every batch; give them as labels.")
                targets.append(inputs.pop("labels"))
                parameters.append(self.head(self.read_memory(targets[-1], inputs)))
        finally:
            self.train(was_training)
        if not targets:
            raise ValueError("Calibration needs rows whose targets are known; there are none. Give labelled rows.")
        return torch.cat(parameters), torch.cat(targets)

    @classmethod
    def from_encoder_pretrained(
        cls,
        encoder: Part | Mapping[str, Part],
        head: PreTrainedConfig | dict[str, Any],
        *,
        bottleneck: str | dict[str, Any] | PreTrainedConfig | None = None,
        num_latents: int | None = None,
        freeze_encoder: bool = False,
        tune_encoder_from_layer: int | None = None,
        condition_dropout: float | None = None,
        dtype: torch.dtype | str | None = None,
        device_map: Any = None,
        **config: Any,
    ) -> Self:
        """Put a head on an encoder that exists already.

        Args:
            encoder: As `GenextForConditionalGeneration.from_encoder_decoder_pretrained` takes it.
            head: A [`GenextHeadConfig`] or its fields.
            bottleneck: Likewise as there, as all that follows.
            num_latents: Slots of a pooled memory.
            freeze_encoder: See [`GenextConfig`].
            tune_encoder_from_layer: See [`GenextConfig`].
            condition_dropout: In training, the share of rows in which a condition is taken away.
            dtype: Kind of number.
            device_map: Where the encoder goes.
            config: More fields of [`GenextConfig`].

        Returns:
            The model in evaluation mode.
        """
        return compose_prediction(
            cls,
            encoder,
            head,
            bottleneck=bottleneck,
            num_latents=num_latents,
            condition_dropout=condition_dropout,
            loading={"dtype": dtype, "device_map": device_map},
            config={"freeze_encoder": freeze_encoder, "tune_encoder_from_layer": tune_encoder_from_layer, **config},
        )


def _expand(rows: torch.Tensor, batch_size: int) -> torch.Tensor:
    """One row that stands for all as so many."""
    return rows.expand(batch_size, *rows.shape[1:])


__all__ = ["GenextForPrediction"]
