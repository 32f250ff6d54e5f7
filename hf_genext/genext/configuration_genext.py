"""Configurations of bottleneck, native decoder, and the whole that composes them with a conditioner."""

# No `from __future__ import annotations` here: `@strict` would see only strings and check no type.
import math
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_rope_utils import RopeParameters

from .configuration_conditioners_genext import (
    NATIVE_CONDITIONERS,
    GenextNullConditionerConfig,
    forget_remote_code,
    get_states_size,
    refuse_mistyped_names,
    validate_attention_sizes,
)
from .configuration_heads_genext import GenextHeadConfig

FORMAT_VERSION = 1
"""Version of the folder format that this package writes. It grows when an older package could not read a folder."""

SLOT_FOR_EACH_STATE = ("none", "linear")
"""Bottlenecks whose memory is as long as the input."""

LATENT_KINDS = ("variational", "quantized")
"""Bottlenecks with a distribution over their memory, which is read from the target or drawn from a prior."""

_KINDS_OF_FIELD = {
    "linear_kind": ("linear",),
    "is_fitted": ("linear",),
    "latent_size": LATENT_KINDS,
    "posterior_conditions": LATENT_KINDS,
    "prior": ("variational",),
    "num_components": ("variational",),
    "kl_weight": ("variational",),
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
        kl_warmup: Share of each cycle in which that factor rises from 0, in a straight line (Bowman et al. 2016).
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
        if not 0.0 <= self.kl_warmup <= 1.0:
            raise ValueError(f"kl_warmup is a share of the training, 0 to 1, got {self.kl_warmup}.")
        if self.kl_cycles > 1 and not self.kl_warmup:
            raise ValueError(f"kl_cycles={self.kl_cycles} are cycles of the warm-up; give kl_warmup too (0.5, for example).")
        for name, kinds in _KINDS_OF_FIELD.items():
            if self.kind not in kinds and getattr(self, name) != getattr(type(self), name):
                known = " or ".join(f'"{kind}"' for kind in kinds)
                raise ValueError(
                    f'{name} is for a bottleneck of kind {known}, not "{self.kind}"; choose that kind, or leave it out.'
                )


@strict
class GenextDecoderConfig(PreTrainedConfig):
    """Configuration of the native decoder: a causal pre-norm Transformer that reads a memory by cross-attention.

    Args:
        vocab_size: Number of target tokens.
        hidden_size: Width of the states.
        intermediate_size: Width inside the gated MLP.
        num_hidden_layers: Number of layers.
        num_attention_heads: Number of attention heads; `hidden_size` must be a multiple of twice this number.
        cross_attention_hidden_size: Width of the memory. Inside a [`GenextConfig`] it is filled in.
        hidden_act: Activation of the gated MLP.
        max_position_embeddings: The longest output in tokens.
        rms_norm_eps: Epsilon of the RMSNorm layers.
        dropout: Dropout after the embedding and after each block, one mask for all positions of a row.
        attention_dropout: Dropout on the attention weights.
        use_qk_norm: Whether to normalise queries and keys (Henry et al. 2020), which lets training take larger steps.
        initializer_range: Standard deviation of the initial weights. Left out, they are scaled to their width: 0.6 divided by
            the root of the number of inputs, 0.5 for embeddings (the root of their width where the token head shares them),
            and 0 for what is added to the states, so that a new model begins as the identity.
        rope_parameters: Rotary position settings as in Transformers, such as `{"rope_type": "default", "rope_theta": 10000.0}`.
        use_cache: Whether to return key and value states when not training.
        embedding_initializer_range: Standard deviation of the initial embedding, where `initializer_range` is left out.
            Inside a [`GenextConfig`] whose token head shares the embedding it is filled in.
        pad_token_id: Target padding id.
        bos_token_id: Target start id.
        eos_token_id: Target end id.
    """

    model_type = "genext_decoder"
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 256
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    cross_attention_hidden_size: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-6
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    use_qk_norm: bool = True
    initializer_range: float | None = None
    rope_parameters: RopeParameters | dict | None = None
    use_cache: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    is_decoder: bool = True
    add_cross_attention: bool = True
    embedding_initializer_range: float | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse mistyped names, then let Transformers do the rest."""
        refuse_mistyped_names(type(self), kwargs)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the sizes against each other (called by `@strict`)."""
        validate_attention_sizes(type(self).__name__, self.hidden_size, self.num_attention_heads)


class GenextPartSpec(SubConfigSpec):
    """How a part's configuration is found: native ones by name, all others among Transformers'.

    Not by what is registered: as a repository's code nothing is, or what another repository has brought.
    """

    def get_config_class(self, model_type: str | None = None) -> type[PreTrainedConfig]:
        """The class of a model type."""
        native = {**NATIVE_CONDITIONERS, GenextDecoderConfig.model_type: GenextDecoderConfig}
        return native.get(model_type or "") or super().get_config_class(model_type)


@strict
class GenextConfig(PreTrainedConfig):
    """Configuration of a conditional model: conditioner, bottleneck and decoder, and what the whole adds to them.

    Each part is a configuration, a dictionary with the part's fields, or left out (the defaults: a text conditioner, no
    bottleneck, the native decoder). Parts of other model types are Transformers' own: an `AutoModel` as conditioner, an
    `AutoModelForCausalLM` or the decoder half of an `AutoModelForSeq2SeqLM` as decoder. What depends on another part is filled
    in: the bottleneck's width, the decoder's `cross_attention_hidden_size`, and the token ids of the whole from the decoder.

    Args:
        conditioner: What turns the condition into states. Several conditions are a [`GenextFusionConditionerConfig`].
        bottleneck: What turns the states into the memory.
        head: What makes a single output of the memory, for [`GenextForPrediction`], which needs no decoder.
        decoder: What generates from the memory. A language model with `add_cross_attention` reads the memory by
            cross-attention, one without it as leading embeddings.
        freeze_encoder: Whether the pretrained models among the conditioners stay as they are, dropout switched off. What is
            fresh is trained in any case: bottleneck, projections, null states, native conditioners.
        tune_encoder_from_layer: Train the pretrained models among the conditioners from this layer on, counted from 0, and
            keep what stands before it as it is.
        tie_word_embeddings: Whether the token head shares the native decoder's embedding. A language model keeps its own head
            and its own tying.
        decoder_start_token_id: The id that every output starts from; if left out, the decoder's own, its `bos_token_id`, or
            its `eos_token_id`.
        pad_token_id: Target padding id; the decoder's if left out.
        bos_token_id: Target start id; the decoder's if left out.
        eos_token_id: Target end id; the decoder's if left out.
        reversed_start_token_id: The id that outputs start from which run from their last token to their first. A model that has
            one is trained in both directions, so that each can judge what the other wrote. Left out, it only writes forwards.
        initializer_range: Standard deviation of the head's initial weights where it is not tied; left out, 0.02.
        format_version: Version of the folder format; a version newer than the package is refused.

    Example:
        >>> from hf_genext import GenextConfig
        >>> config = GenextConfig(
        ...     conditioner={"vocab_size": 32, "hidden_size": 64},
        ...     bottleneck={"kind": "pooled", "num_latents": 4},
        ...     decoder={"vocab_size": 48, "hidden_size": 128},
        ... )
        >>> config.vocab_size, config.decoder.cross_attention_hidden_size
        (48, 64)
        >>> GenextConfig(bottelneck={"kind": "pooled"})
        Traceback (most recent call last):
        ValueError: GenextConfig has no field 'bottelneck'. Did you mean 'bottleneck'?
    """

    model_type = "genext"
    keys_to_ignore_at_inference = ["past_key_values", "losses", "latents"]
    sub_configs_defaults = {
        "conditioner": GenextPartSpec(config_class=AutoConfig, model_type="genext_text_conditioner"),
        "bottleneck": SubConfigSpec(config_class=GenextBottleneckConfig),
        "decoder": GenextPartSpec(config_class=AutoConfig, model_type="genext_decoder"),
        "head": SubConfigSpec(config_class=GenextHeadConfig, optional=True),
    }

    conditioner: PreTrainedConfig | dict[str, Any] | None = None
    bottleneck: PreTrainedConfig | dict[str, Any] | None = None
    decoder: PreTrainedConfig | dict[str, Any] | None = None
    head: PreTrainedConfig | dict[str, Any] | None = None
    freeze_encoder: bool = False
    tune_encoder_from_layer: int | None = None
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = False
    decoder_start_token_id: int | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    reversed_start_token_id: int | None = None
    initializer_range: float | None = None
    format_version: int = FORMAT_VERSION

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the parts and fill in what one part takes from another."""
        if self.format_version > FORMAT_VERSION:
            raise ValueError(
                f"This folder has format version {self.format_version}; the installed hf_genext reads versions up to "
                f"{FORMAT_VERSION}. Upgrade it: pip install --upgrade hf_genext"
            )
        for name in ("vocab_size", "hidden_size", "num_hidden_layers"):
            if name in kwargs:
                raise ValueError(
                    f"GenextConfig takes {name} from its parts, got {name}={kwargs[name]!r}. Set it in a part, such as "
                    f'decoder={{"{name}": {kwargs[name]!r}}}.'
                )
        refuse_mistyped_names(type(self), kwargs)
        forget_remote_code(kwargs)
        super().__post_init__(**kwargs)
        self._fit_bottleneck()
        if self.has_native_decoder:
            self._fit_native_decoder()
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(self.decoder.get_text_config(), name, None))
        if self.pad_token_id is None:
            # Padding stands behind the last label and is never looked at.
            self.pad_token_id = self.eos_token_id[0] if isinstance(self.eos_token_id, list) else self.eos_token_id
        if self.decoder_start_token_id is None:
            ends = self.eos_token_id if isinstance(self.eos_token_id, list) else [self.eos_token_id]
            starts = (getattr(self.decoder, "decoder_start_token_id", None), self.bos_token_id, ends[0])
            self.decoder_start_token_id = next((token for token in starts if token is not None), None)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a dictionary, parts included."""
        output = super().to_dict()
        for task in (output.get("custom_pipelines") or {}).values():
            # `pipeline()` puts classes in the place of their names, which no file can hold.
            task["pt"] = [getattr(door, "__name__", door) for door in task["pt"]]
        return output

    def validate_architecture(self) -> None:
        """Check what stands on its own (called by `@strict`)."""
        if self.tune_encoder_from_layer is not None and self.tune_encoder_from_layer < 0:
            raise ValueError(f"tune_encoder_from_layer must be 0 or more, got {self.tune_encoder_from_layer}.")
        if self.freeze_encoder and self.tune_encoder_from_layer is not None:
            raise ValueError(
                "freeze_encoder=True keeps all layers as they are, "
                f"tune_encoder_from_layer={self.tune_encoder_from_layer} only those before it; give one of them."
            )

    def _fit_bottleneck(self) -> None:
        bottleneck, states_size = self.bottleneck, get_states_size(self.conditioner)
        if bottleneck.kind == "none" and bottleneck.hidden_size not in (None, states_size):
            raise ValueError(
                f'A bottleneck of kind "none" keeps the conditioner\'s width of {states_size}, got '
                f'hidden_size={bottleneck.hidden_size}. Leave it out, or choose kind="pooled".'
            )
        if bottleneck.kind == "linear" and not 1 <= (bottleneck.hidden_size or states_size) <= states_size:
            raise ValueError(
                f'A bottleneck of kind "linear" gives 1 to {states_size} components of states of that width, got '
                f"hidden_size={bottleneck.hidden_size}."
            )
        if bottleneck.kind in LATENT_KINDS:
            self._check_latents()
        if bottleneck.hidden_size is None:
            reads_any_width = bottleneck.kind in SLOT_FOR_EACH_STATE or self.has_native_decoder
            bottleneck.hidden_size = states_size if reads_any_width else get_states_size(self.decoder)
        if bottleneck.num_attention_heads is None:
            heads = getattr(self.conditioner, "num_attention_heads", None)
            fits = isinstance(heads, int) and bottleneck.hidden_size % heads == 0
            bottleneck.num_attention_heads = heads if fits else _choose_num_heads(bottleneck.hidden_size)
        if bottleneck.kind == "quantized" and bottleneck.hidden_size % 2:
            raise ValueError(
                'A bottleneck of kind "quantized" needs an even hidden_size, for the decoder that is its prior; got '
                f"{bottleneck.hidden_size}."
            )
        if bottleneck.intermediate_size is None:
            bottleneck.intermediate_size = 3 * bottleneck.hidden_size
        bottleneck.validate_architecture()

    def _check_latents(self) -> None:
        """Raise unless the posterior has something to read, and a conditional prior has too."""
        bottleneck, names = self.bottleneck, getattr(self.conditioner, "conditioners", None)
        if isinstance(self.conditioner, GenextNullConditionerConfig):
            raise ValueError(
                f'A bottleneck of kind "{bottleneck.kind}" encodes the target, so the target must be a condition too: read the '
                "same column as condition and as target. Without any condition choose another kind."
            )
        chosen = bottleneck.posterior_conditions
        if chosen is not None and names is None:
            raise ValueError(
                f"posterior_conditions={chosen} chooses among several conditions, and this model has one; leave it out."
            )
        unknown = [name for name in chosen or [] if name not in (names or {})]
        if unknown or chosen == []:
            told = f"there is no {unknown[0]!r}" if unknown else "it names none"
            raise ValueError(
                f"posterior_conditions says which conditions hold the target, and {told}; known are {', '.join(names or {})}."
            )
        if getattr(self.conditioner, "condition_dropout", 0.0) and (chosen is None or len(set(chosen)) == len(names or {})):
            raise ValueError(
                "condition_dropout takes away conditions of the output, and here all hold the target, which only the posterior "
                "reads. Leave it out, or name those that hold the target in posterior_conditions."
            )
        if chosen is not None and len(set(chosen)) == len(names or {}):
            chosen = bottleneck.posterior_conditions = None  # All of them are what is left out means, too.
        if bottleneck.prior == "conditional" and chosen is None:
            raise ValueError(
                'A prior of kind "conditional" reads the conditions that the posterior has not for itself, and there are none: '
                "name those that hold the target in posterior_conditions, and give another one; or choose another prior."
            )

    def _fit_native_decoder(self) -> None:
        decoder, memory_size = self.decoder, self.bottleneck.hidden_size
        if decoder.cross_attention_hidden_size not in (None, memory_size):
            raise ValueError(
                f"The decoder's cross_attention_hidden_size is {decoder.cross_attention_hidden_size}, but the memory is "
                f"{memory_size} wide. Leave it out: it is filled in."
            )
        decoder.cross_attention_hidden_size = memory_size
        if self.tie_word_embeddings and decoder.embedding_initializer_range is None:
            decoder.embedding_initializer_range = decoder.hidden_size**-0.5

    @property
    def has_native_decoder(self) -> bool:
        """Whether the decoder is built here, and not a language model of Transformers'."""
        return isinstance(self.decoder, GenextDecoderConfig)

    @property
    def vocab_size(self) -> int:
        """Number of target tokens: the size of the distribution that the model gives."""
        return self.decoder.get_text_config().vocab_size

    @property
    def hidden_size(self) -> int:
        """Width of the memory."""
        return self.bottleneck.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Number of decoder layers."""
        return self.decoder.get_text_config().num_hidden_layers


def _choose_num_heads(hidden_size: int) -> int:
    """The most heads of 64 numbers or more that divide a width."""
    return max(heads for heads in range(1, max(1, hidden_size // 64) + 1) if hidden_size % heads == 0)


__all__ = [
    "FORMAT_VERSION",
    "LATENT_KINDS",
    "SLOT_FOR_EACH_STATE",
    "GenextBottleneckConfig",
    "GenextConfig",
    "GenextDecoderConfig",
]
