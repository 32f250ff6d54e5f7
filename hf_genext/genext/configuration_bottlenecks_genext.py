"""The configuration of the bottleneck between conditioner and decoder or head."""

# No `from __future__ import annotations` here: `@strict` would see only strings and check no type.
import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_conditioners_genext import refuse_mistyped_names

SLOT_FOR_EACH_STATE = ("none", "linear")
"""Bottlenecks whose memory is as long as the input."""

LATENT_KINDS = ("variational", "quantized")
"""Bottlenecks with a distribution over their memory, which is read from the target or drawn from a prior."""

_KINDS_OF_FIELD = {
    "num_latents": ("pooled", *LATENT_KINDS),
    "linear_kind": ("linear",),
    "is_fitted": ("linear",),
    "latent_size": LATENT_KINDS,
    "posterior_conditions": LATENT_KINDS,
    "prior": ("variational",),
    "num_components": ("variational",),
    "kl_weight": ("variational",),
    "kl_delay": ("variational",),
    "kl_warmup": ("variational",),
    "kl_cycles": ("variational",),
    "free_nats": ("variational",),
    "num_codes": ("quantized",),
    "code_decay": ("quantized",),
    "commitment_weight": ("quantized",),
    "num_prior_layers": ("quantized",),
}
"""Fields of a bottleneck that not every kind reads, and the kinds that do."""


@strict
class GenextBottleneckConfig(PreTrainedConfig):
    """Configuration of the bottleneck, which turns states of any length into the memory that the decoder reads.

    Args:
        kind: `"none"` hands the states on as they are. `"pooled"` reads them with `num_latents` learned queries, so that
            the memory has a fixed number of slots whatever the input's length. `"linear"` gives of each state its first
            `hidden_size` principal components, or independent ones, each of variance 1; the model's `fit` finds them before
            training, and they stay. `"variational"` draws a memory of a fixed number of slots at random: each slot is made of
            `latent_size` normal numbers, whose means and variances are read from the condition (Kingma and Welling 2014), and
            kept near a prior from which new ones are drawn. `"quantized"` has a code of a codebook for each slot (van den Oord
            et al. 2017), and a prior that writes codes one after the other.
        num_latents: Number of slots of a pooled, variational or quantised memory.
        hidden_size: Width of the memory. Left out, the conditioner's width, or that of the language model that decodes.
            `"none"` takes no other width than the conditioner's, `"linear"` no more.
        linear_kind: `"pca"` or `"ica"`, of a linear bottleneck.
        is_fitted: Whether a linear bottleneck has its components; `fit` sets it.
        num_attention_heads: Heads of the pooling attention; if left out, the conditioner's number where it divides the width,
            else as many as divide it into heads of 64 or a little more.
        intermediate_size: Width inside the gated MLP that follows the pooling; three times `hidden_size` if left out.
        hidden_act: Activation of that MLP.
        rms_norm_eps: Epsilon of the RMSNorm layers.
        dropout: Dropout after each block, one mask for all slots of a row.
        attention_dropout: Dropout on the attention weights.
        use_qk_norm: Whether to normalise queries and keys.
        initializer_range: Standard deviation of the initial weights; left out, scaled to their width.
        latent_size: Of a variational memory the numbers that make a slot; of a quantised one those of a code.
        posterior_conditions: Of several conditions the names of those that only the posterior reads: they hold the target
            itself, as an autoencoder reads it. The others are conditions of the output (Sohn et al. 2015, "Learning structured
            output representation"): posterior, conditional prior and decoder all read them. Left out, all conditions are the
            posterior's, and nothing is left that the output depends on but the latent numbers. Where a row lacks what the
            posterior alone reads, its latent numbers are drawn from the prior.
        prior: `"standard"` is the standard normal distribution. `"conditional"` is normal with means and variances that a
            network reads from the conditions that are not in `posterior_conditions`. `"mixture"` is a mixture of normal
            distributions whose weights, means and variances are learned (as VampPrior, Tomczak and Welling 2018, without its
            pseudo-inputs); its divergence is bounded from above in closed form (Hershey and Olsen 2007).
        num_components: Normal distributions of a mixture.
        kl_weight: Factor of the divergence from the prior in the training loss (beta, Higgins et al. 2017). The losses of
            evaluation have 1.
        kl_delay: Share of each cycle in which that factor is 0: an autoencoder is trained first, so that the decoder reads
            the latent numbers before they cost anything (Li et al. 2019, "A surprisingly effective fix for deep latent
            variable modeling of text"; they then begin the decoder anew).
        kl_warmup: Share of each cycle in which it then rises from 0, in a straight line (Bowman et al. 2016).
        kl_cycles: Cycles of a training, each of which begins at 0 again (Fu et al. 2019, "Cyclical annealing schedule"; they
            take 4 with a `kl_warmup` of 0.5).
        free_nats: Divergence of each latent number that training does not press down further ("free bits", Kingma et al. 2016,
            here in nats), counted for each row by itself.
        num_codes: Of a quantised memory the codes of its codebook.
        code_decay: What a step of training leaves of the running means that codes are.
        commitment_weight: Factor of the squared distance between what is read of a target and its codes, in the training loss.
        num_prior_layers: Layers of the decoder that is the prior of codes.
    """

    model_type = "genext_bottleneck"

    kind: Literal["none", "pooled", "linear", "variational", "quantized"] = "none"
    num_latents: int = 1
    hidden_size: int | None = None
    linear_kind: Literal["pca", "ica"] = "pca"
    is_fitted: bool = False
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    use_qk_norm: bool = True
    initializer_range: float | None = None
    latent_size: int = 16
    posterior_conditions: list[str] | None = None
    prior: Literal["standard", "conditional", "mixture"] = "standard"
    num_components: int = 16
    kl_weight: float | int = 1.0
    kl_delay: float | int = 0.0
    kl_warmup: float | int = 0.0
    kl_cycles: int = 1
    free_nats: float | int = 0.0
    num_codes: int = 256
    code_decay: float | int = 0.99
    commitment_weight: float | int = 0.25
    num_prior_layers: int = 2

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse mistyped names, then let Transformers do the rest."""
        refuse_mistyped_names(type(self), kwargs)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the sizes against each other (called by `@strict`)."""
        if self.num_latents < 1:
            raise ValueError(
                f'num_latents must be 1 or more, got {self.num_latents}. For a memory as long as the input choose kind="none".'
            )
        self._validate_latents()
        if self.kind not in ("pooled", *LATENT_KINDS) or self.hidden_size is None or self.num_attention_heads is None:
            return
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"{type(self).__name__}: hidden_size must be a multiple of num_attention_heads, got "
                f"hidden_size={self.hidden_size} and num_attention_heads={self.num_attention_heads}. Leave "
                "num_attention_heads out: it is filled in."
            )

    def _validate_latents(self) -> None:
        for name in ("latent_size", "num_components", "kl_cycles", "num_prior_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")
        if self.num_codes < 2:
            raise ValueError(f"num_codes must be 2 or more, got {self.num_codes}.")
        if not 0.0 <= self.code_decay < 1.0:
            raise ValueError(f"code_decay must be at least 0 and below 1, got {self.code_decay}.")
        for name in ("kl_weight", "free_nats", "commitment_weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be a finite number of 0 or more, got {getattr(self, name)}.")
        for name in ("kl_delay", "kl_warmup"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a share of the training, 0 to 1, got {getattr(self, name)}.")
        if self.kl_delay + self.kl_warmup > 1.0:
            raise ValueError(
                f"kl_delay and kl_warmup are shares of one training and 1 at most together, got {self.kl_delay} and "
                f"{self.kl_warmup}."
            )
        if self.kl_cycles > 1 and not self.kl_warmup:
            raise ValueError(f"kl_cycles={self.kl_cycles} are cycles of the warm-up; give kl_warmup too (0.5, for example).")
        for name, kinds in _KINDS_OF_FIELD.items():
            if self.kind not in kinds and getattr(self, name) != getattr(type(self), name):
                known = " or ".join(f'"{kind}"' for kind in kinds)
                raise ValueError(
                    f'{name} is for a bottleneck of kind {known}, not "{self.kind}"; choose that kind, or leave it out.'
                )
        if self.prior != "mixture" and self.num_components != type(self).num_components:
            raise ValueError(f'num_components is for prior="mixture", not "{self.prior}"; choose that prior, or leave it out.')


__all__ = ["LATENT_KINDS", "SLOT_FOR_EACH_STATE", "GenextBottleneckConfig"]
