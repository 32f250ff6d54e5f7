"""The configuration of the generative half, by which a classifier learns from rows whose labels are missing."""

# No `from __future__ import annotations` here: `@strict` would see only strings and check no type.
import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .configuration_bottlenecks_genext import GenextBottleneckConfig
from .configuration_conditioners_genext import refuse_mistyped_names, validate_positive
from .configuration_heads_genext import DENSITY_KINDS, LINEAR_KINDS, GenextHeadConfig

GENERATED_KINDS = ("image", "regression", *(kind for kind in DENSITY_KINDS if kind not in LINEAR_KINDS))
"""Heads that can generate a classifier's vector."""


@strict
class GenextGenerativeConfig(PreTrainedConfig):
    """Configuration of the generative half of a classifier: a model of the vector that it reads, given the class.

    With it a classifier learns from rows without labels, too: the class of such a row is a latent variable, summed out by the
    classifier's own probabilities (model M2 of Kingma et al. 2014, "Semi-supervised learning with deep generative models").
    The half is a conditional variational autoencoder, which training alone runs.

    Args:
        head: What is generated: the vector condition of the classifier, as an `"image"` of whole numbers, numbers of a
            `"regression"`, or a `"mixture"` or `"flow"`. A [`GenextHeadConfig`] or its fields.
        bottleneck: The latent numbers that say what the class does not: fields of a [`GenextBottleneckConfig`] of kind
            `"variational"`. Its posterior reads the vector and the class. Unless the head has `num_hidden_layers` (images have
            2 by default), what class and latent numbers say is added up before it, so that with the standard prior classes
            differ in place and width alone. That keeps the latent numbers from telling classes apart by themselves, and helps
            where labels are few; where classes differ in form, give the head layers, or choose `prior: conditional`.
        hidden_size: Width of the states of vector and class.
        num_states: States that the vector becomes, each by a projection of its own.
        supervised_weight: What the classifier's cross-entropy counts for each row with a label. Kingma et al. take a tenth of
            the number of all rows, divided by that of the rows with labels, beside generative losses of weight 1.
        labelled_weight: What the evidence bound of a row with a label counts.
        unlabelled_weight: What that of a row without one counts.
        warmup: Share of the training in which the latter two rise from 0, in a straight line.
        label_posterior: By which probabilities a missing class is summed out. `"classifier"` takes those of the classifier,
            which learns through them (Kingma et al. 2014); where it is sure of itself early, it learns no more. `"bound"` takes
            those that the evidence bounds of all classes give by the rule of Bayes, the best ones; the classifier learns to
            agree with them.
        posterior_warmup: Shares of the training at which the latter begin to move from the probabilities of the classifier, and
            have reached those of the bounds, in the logarithm and in a straight line. A generative half that does not know the
            classes yet would find others of its own.
        label_prior: The probability of each class before anything is seen; left out, all are alike.
        initializer_range: Standard deviation of initial weights that read vector and class; left out, scaled to their width.

    Example:
        >>> from hf_genext import GenextConfig
        >>> config = GenextConfig(
        ...     conditioner={"model_type": "genext_vector_conditioner", "vector_size": 4, "hidden_size": 16},
        ...     head={"kind": "class", "output_names": ["cat", "dog"]},
        ...     generative={"head": {"kind": "regression", "num_outputs": 4}, "bottleneck": {"latent_size": 2}},
        ... )
        >>> config.generative.bottleneck.kind
        'variational'
    """

    model_type = "genext_generative"
    sub_configs_defaults = {
        "head": SubConfigSpec(config_class=GenextHeadConfig, optional=True),
        "bottleneck": SubConfigSpec(config_class=GenextBottleneckConfig),
    }

    head: PreTrainedConfig | dict[str, Any] | None = None
    bottleneck: PreTrainedConfig | dict[str, Any] | None = None
    hidden_size: int = 128
    num_states: int = 1
    supervised_weight: float | int = 1.0
    labelled_weight: float | int = 1.0
    unlabelled_weight: float | int = 1.0
    warmup: float | int = 0.0
    label_posterior: Literal["classifier", "bound"] = "classifier"
    posterior_warmup: list[float | int] | tuple[float | int, ...] = (0.0, 0.0)
    label_prior: list[float | int] | None = None
    initializer_range: float | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse mistyped names, choose the kind of bottleneck, then let Transformers do the rest."""
        refuse_mistyped_names(type(self), kwargs)
        self.posterior_warmup = list(self.posterior_warmup)
        if self.bottleneck is None or isinstance(self.bottleneck, dict):
            self.bottleneck = {"kind": "variational", **(self.bottleneck or {})}
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check what stands on its own (called by `@strict`)."""
        if self.head is not None and self.head.kind not in GENERATED_KINDS:
            raise ValueError(
                "The head of a generative half makes the vector that the classifier reads, so it is of kind "
                f"{', '.join(map(repr, GENERATED_KINDS))}; got {self.head.kind!r}."
            )
        if self.bottleneck.kind != "variational":
            raise ValueError(
                f'The bottleneck of a generative half is of kind "variational", got "{self.bottleneck.kind}"; leave kind out.'
            )
        if self.bottleneck.posterior_conditions is not None or self.bottleneck.hidden_size not in (None, self.hidden_size):
            raise ValueError(
                "A generative half knows what its posterior reads, and is hidden_size wide throughout; leave "
                "posterior_conditions and hidden_size out of its bottleneck."
            )
        validate_positive(type(self).__name__, hidden_size=self.hidden_size, num_states=self.num_states)
        for name in ("supervised_weight", "labelled_weight", "unlabelled_weight"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be a finite number of 0 or more, got {getattr(self, name)}.")
        if not 0.0 <= self.warmup <= 1.0:
            raise ValueError(f"warmup is a share of the training, 0 to 1, got {self.warmup}.")
        shares = self.posterior_warmup
        if len(shares) != 2 or not 0.0 <= shares[0] <= shares[1] <= 1.0:
            raise ValueError(f"posterior_warmup is where it begins and ends, two shares of the training, got {list(shares)}.")
        if shares[1] and self.label_posterior != "bound":
            raise ValueError('posterior_warmup is for label_posterior="bound"; choose that, or leave it out.')
        if self.label_prior is not None and not (
            min(self.label_prior, default=0.0) > 0.0 and math.isclose(sum(self.label_prior), 1.0, abs_tol=1e-6)
        ):
            raise ValueError(f"label_prior must be probabilities above 0 that sum to 1, got {self.label_prior}.")


__all__ = ["GENERATED_KINDS", "GenextGenerativeConfig"]
