"""The configuration of the heads of models with a single output."""

# No `from __future__ import annotations` here: `@strict` would see only strings and check no type.
import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from .configuration_conditioners_genext import refuse_mistyped_names

DENSITY_KINDS = ("mixture", "flow", "ppca", "ica")
"""Heads that are densities over whole vectors."""

LINEAR_KINDS = ("ppca", "ica")
"""Those of them that are fitted in closed form."""

_KINDS_OF_FIELD: dict[str, tuple[str, ...]] = {
    "output_means": ("regression", *DENSITY_KINDS),
    "output_scales": ("regression", *DENSITY_KINDS),
    "least_scale": ("regression", "mixture"),
    "num_components": ("mixture", *LINEAR_KINDS, "image"),
    "covariance": ("mixture",),
    "num_transforms": ("flow",),
    "transform_size": ("flow",),
    "num_bins": ("flow", "ica"),
    "tail_bound": ("flow",),
    "output_shape": ("image",),
    "num_levels": ("image",),
    "pixel_distribution": ("image",),
    "context_size": ("image",),
    "context_reach": ("image",),
    "context_dropout": ("image",),
    "temperature": ("class", "labels", "regression"),
    "threshold": ("labels",),
}
"""Fields of a head that not every kind reads, and the kinds that do."""


@strict
class GenextHeadConfig(PreTrainedConfig):
    """Configuration of the head of a model with a single output.

    Args:
        kind: `"class"` is one of several classes, `"labels"` any number of several labels, `"regression"` one or several
            numbers, each with its uncertainty. `"mixture"` and `"flow"` are densities over a whole vector, whose numbers may
            depend on each other: a mixture of Gaussians, and a normalising flow. `"ppca"` and `"ica"` are densities, too, but
            linear ones, which [`GenextForPrediction.fit`] fits in closed form: probabilistic PCA (Tipping and Bishop 1999), and
            the same with independent sources, each of a distribution of its own, in place of normal ones; before that they are
            densities that tell nothing of the data, and can be trained as the others are. `"image"` is an image of whole
            numbers.
        num_outputs: Number of classes, labels or numbers.
        output_names: Their names.
        output_means: Of numbers the mean of each in the data. With `output_scales` the head learns numbers of mean 0 and
            standard deviation 1, whatever their unit; what it takes and gives is in the unit. Left out, 0.
        output_scales: Of numbers the standard deviation of each in the data. Left out, 1.
        least_scale: Of a regression or a mixture how certain the head can be at most: the least standard deviation that it
            gives, in units of `output_scales`, before it is calibrated. A larger one keeps a training calm, for an error
            costs as much as the square of its ratio to it.
        num_components: Of a mixture its Gaussians; of a linear density its components.
        covariance: Of a mixture `"full"`, or `"diagonal"` for numbers that are independent within a Gaussian.
        num_transforms: Of a flow its steps.
        transform_size: Of a flow the width of the networks in its steps.
        num_bins: Of a flow the pieces of its splines; of ICA those of the function that makes a source of a normal number.
        tail_bound: Of a flow where its splines end, on either side of 0, in units of `output_scales`; beyond, it is linear.
        output_shape: Of an image its height and width, and its channels where it has several.
        num_levels: Of an image the values of a pixel, which are whole numbers from 0 on.
        pixel_distribution: Of an image the distribution of each pixel: `"categorical"` over its values, `"logistic"`, a mixture
            of `num_components` discretised logistic distributions, or `"bernoulli"` where there are two values.
        num_hidden_layers: Residual layers between the memory and the distribution, by which what stands in several slots acts
            together; without them it is added up. Left out, 2 of an image, and 2 of a regression, a mixture or a flow whose
            memory holds latent numbers or codes ([`GenextConfig`] fills it in), but not in the generative half of a classifier;
            else none.
        context_size: Of an image the units of a masked network by which each pixel reads those before it (Germain et al. 2015,
            "MADE"); 0 for pixels that are independent, given the memory.
        context_reach: How many rows above, and columns to either side, a pixel then reads, by one network for all pixels (van
            den Oord et al. 2016); all if left out. Latent numbers have to tell what agrees across a longer way, where with all
            they may tell nothing (Chen et al. 2017, "Variational lossy autoencoder").
        context_dropout: In training, the share of images whose pixels read no others (all that they read is 0), so that the
            memory has to tell more (Bowman et al. 2016, "Generating sentences from a continuous space", section 3.1, drop words
            so).
        dropout: Dropout before the projection.
        initializer_range: Standard deviation of the initial weights; left out, scaled to their width.
        temperature: What logits are divided by, and the standard deviations of numbers multiplied by, one for all outputs or
            one for each; [`GenextForPrediction.calibrate`] sets it (Guo et al. 2017).
        threshold: Of labels the probability from which on one is predicted; [`GenextForPrediction.choose_threshold`] sets it.

    Example:
        >>> from hf_genext import GenextHeadConfig
        >>> GenextHeadConfig(kind="class", output_names=["noun", "verb"]).num_outputs
        2
    """

    model_type = "genext_head"

    kind: Literal["class", "labels", "regression", "mixture", "flow", "ppca", "ica", "image"] = "class"
    num_outputs: int | None = None
    output_names: list[str] | None = None
    output_means: list[float | int] | None = None
    output_scales: list[float | int] | None = None
    least_scale: float | int = 1e-3
    num_components: int = 8
    covariance: Literal["full", "diagonal"] = "full"
    num_transforms: int = 6
    transform_size: int = 128
    num_bins: int = 8
    tail_bound: float | int = 4.0
    output_shape: list[int] | None = None
    num_levels: int = 256
    pixel_distribution: Literal["bernoulli", "categorical", "logistic"] = "categorical"
    num_hidden_layers: int | None = None
    context_size: int = 0
    context_reach: int | None = None
    context_dropout: float | int = 0.0
    dropout: float | int = 0.0
    initializer_range: float | None = None
    temperature: float | int | list[float] = 1.0
    threshold: float | int = 0.5

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse mistyped names, count the outputs, then let Transformers do the rest."""
        refuse_mistyped_names(type(self), kwargs)
        if self.num_hidden_layers is None and self.kind == "image":
            self.num_hidden_layers = 2
        if self.num_outputs is None and self.kind == "image":
            self.num_outputs = math.prod(self.output_shape or [0])
        if self.num_outputs is None:
            least = 2 if self.kind == "class" else 1
            self.num_outputs = least if self.output_names is None else len(self.output_names)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the sizes (called by `@strict`)."""
        for name, kinds in _KINDS_OF_FIELD.items():
            if self.kind not in kinds and getattr(self, name) != getattr(type(self), name):
                known = " or ".join(f'"{kind}"' for kind in kinds)
                raise ValueError(f'{name} is for a head of kind {known}, not "{self.kind}"; leave it out.')
        self._validate_image()
        least = 2 if self.kind == "class" else 1
        if self.num_outputs is None or self.num_outputs < least:
            raise ValueError(f'A head of kind "{self.kind}" needs num_outputs of {least} or more, got {self.num_outputs}.')
        if self.output_names is not None and len(self.output_names) != self.num_outputs:
            raise ValueError(
                f"num_outputs is {self.num_outputs}, but output_names has {len(self.output_names)} names. Leave one of them "
                "out."
            )
        if self.output_names is not None and len(set(self.output_names)) != len(self.output_names):
            twice = next(name for name in self.output_names if self.output_names.count(name) > 1)
            raise ValueError(f"output_names has {twice!r} twice; each output needs a name of its own.")
        for name, numbers in (("output_means", self.output_means), ("output_scales", self.output_scales)):
            if numbers is None:
                continue
            if len(numbers) != self.num_outputs:
                raise ValueError(f"{name} must have a number for each of the {self.num_outputs} outputs, got {len(numbers)}.")
            if not all(math.isfinite(number) and (number > 0 or name == "output_means") for number in numbers):
                allowed = "finite numbers" if name == "output_means" else "finite numbers above 0"
                raise ValueError(f"{name} must be {allowed}, got {numbers}.")
        if not (math.isfinite(self.least_scale) and self.least_scale > 0):
            raise ValueError(f"least_scale must be a finite number above 0, got {self.least_scale}.")
        for name in ("num_components", "num_transforms", "transform_size", "num_bins"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}.")
        if self.kind in LINEAR_KINDS and self.num_components > self.num_outputs:
            raise ValueError(
                f'A head of kind "{self.kind}" has at most as many components as a vector has numbers, {self.num_outputs}; got '
                f"num_components={self.num_components}."
            )
        if (self.num_hidden_layers or 0) < 0:
            raise ValueError(f"num_hidden_layers must be 0 or more, got {self.num_hidden_layers}.")
        if self.num_hidden_layers and self.kind in LINEAR_KINDS:
            raise ValueError(
                f'A head of kind "{self.kind}" is linear and fitted in closed form, so it has no num_hidden_layers, got '
                f"{self.num_hidden_layers}; leave it out."
            )
        if self.num_bins > 100:
            raise ValueError(
                f"num_bins must be 100 or less, got {self.num_bins}; a spline has 8 pieces, and seldom needs more."
            )
        if not (math.isfinite(self.tail_bound) and self.tail_bound > 0):
            raise ValueError(f"tail_bound must be a finite number above 0, got {self.tail_bound}.")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be at least 0 and below 1, got {self.dropout}.")
        temperatures = self.temperature if isinstance(self.temperature, list) else [self.temperature]
        if isinstance(self.temperature, list) and len(temperatures) != self.num_outputs:
            raise ValueError(
                f"temperature has {len(temperatures)} numbers; give one, or {self.num_outputs}, one for each output."
            )
        if not all(0.0 < temperature < math.inf for temperature in temperatures):
            raise ValueError(f"A temperature must be above 0, got {self.temperature}.")
        if not 0.0 < self.threshold < 1.0:
            raise ValueError(f"threshold must be a probability above 0 and below 1, got {self.threshold}.")

    def _validate_image(self) -> None:
        if self.kind != "image":
            return
        shape = self.output_shape or []
        if len(shape) not in (2, 3) or min(shape) < 1 or math.prod(shape) != self.num_outputs:
            raise ValueError(
                'A head of kind "image" needs output_shape, height and width and, of several, the number of channels, such as '
                f"[8, 8] or [32, 32, 3]; got {self.output_shape} and num_outputs={self.num_outputs}, which is best left out."
            )
        if self.num_levels < 2 or (self.num_levels != 2 and self.pixel_distribution == "bernoulli"):
            raise ValueError(
                'A pixel has 2 values or more, and with pixel_distribution="bernoulli" just 2; got '
                f"num_levels={self.num_levels}."
            )
        if self.pixel_distribution != "logistic" and self.num_components != type(self).num_components:
            raise ValueError(
                f'num_components is for pixel_distribution="logistic", not "{self.pixel_distribution}"; leave it out.'
            )
        if self.context_size < 0:
            raise ValueError(f"context_size must be 0 or more, got {self.context_size}.")
        farthest = max(shape[:2]) - 1
        if self.context_reach is not None and (not 1 <= self.context_reach <= max(farthest, 1) or self.context_size == 0):
            raise ValueError(
                f"context_reach must be 1 or more, up to {farthest} in an image of {shape[0]}x{shape[1]}, with a context_size, "
                f"whose units read so far; got context_reach={self.context_reach} and context_size={self.context_size}."
            )
        if not 0.0 <= self.context_dropout < 1.0 or (self.context_dropout and self.context_size == 0):
            raise ValueError(
                "context_dropout must be at least 0 and below 1, and is for pixels that read others by a context_size; got "
                f"context_dropout={self.context_dropout} and context_size={self.context_size}."
            )


__all__ = ["DENSITY_KINDS", "LINEAR_KINDS", "GenextHeadConfig"]
