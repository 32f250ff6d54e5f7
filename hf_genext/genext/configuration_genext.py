"""Configurations of the native decoder, and of the whole that composes it with conditioner and bottleneck."""

# No `from __future__ import annotations` here: `@strict` would see only strings and check no type.
import copy
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_rope_utils import RopeParameters

from .configuration_bottlenecks_genext import LATENT_KINDS, SLOT_FOR_EACH_STATE, GenextBottleneckConfig
from .configuration_conditioners_genext import (
    NATIVE_CONDITIONERS,
    GenextFusionConditionerConfig,
    GenextLabelConditionerConfig,
    GenextNullConditionerConfig,
    GenextVectorConditionerConfig,
    forget_remote_code,
    get_states_size,
    refuse_mistyped_names,
    validate_attention_sizes,
)
from .configuration_generative_genext import GenextGenerativeConfig
from .configuration_heads_genext import GenextHeadConfig

FORMAT_VERSION = 1
"""Version of the folder format that this package writes. It grows when an older package could not read a folder."""


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
        token_dropout: In training, the share of target tokens that the decoder does not see (Bowman et al. 2016, section 3.1):
            their embedding is 0. What they said has to come from the memory. The first position is always seen.
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
    token_dropout: float | int = 0.0
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
        if not 0.0 <= self.token_dropout < 1.0:
            raise ValueError(f"token_dropout must be at least 0 and below 1, got {self.token_dropout}.")


class GenextPartSpec(SubConfigSpec):
    """How a part's configuration is found: native ones by name, all others among Transformers'.

    Not by what is registered: as a repository's code nothing is, or what another repository has brought.
    """

    def get_config_class(self, model_type: str | None = None) -> type[PreTrainedConfig]:
        """The class of a model type."""
        native = {**NATIVE_CONDITIONERS, GenextDecoderConfig.model_type: GenextDecoderConfig}
        return native.get(model_type or "") or super().get_config_class(model_type)


_PROBLEM_TYPES = {
    "class": "single_label_classification",
    "labels": "multi_label_classification",
    "regression": "regression",
}
"""What Transformers calls single outputs, by the kind of the head."""


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
        generative: With a head of kind `"class"`, a model of what the classifier reads, by which it learns from rows without
            labels, too: a [`GenextGenerativeConfig`].
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
        "generative": SubConfigSpec(config_class=GenextGenerativeConfig, optional=True),
    }

    conditioner: PreTrainedConfig | dict[str, Any] | None = None
    bottleneck: PreTrainedConfig | dict[str, Any] | None = None
    decoder: PreTrainedConfig | dict[str, Any] | None = None
    head: PreTrainedConfig | dict[str, Any] | None = None
    generative: PreTrainedConfig | dict[str, Any] | None = None
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
        if self.head is not None and self.head.num_hidden_layers is None:
            reads_latents = self.bottleneck.kind in LATENT_KINDS and self.head.kind in ("regression", "mixture", "flow")
            self.head.num_hidden_layers = 2 if reads_latents else 0
        if self.head is not None and self.head.kind in _PROBLEM_TYPES:
            self._describe_outputs()
        if self.generative is not None:
            self._check_generative()
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

    def _describe_outputs(self) -> None:
        """Tell Transformers' own pipelines what a single output is called, and how it is scored."""
        names = self.head.output_names or [f"LABEL_{place}" for place in range(self.head.num_outputs)]
        self.id2label = dict(enumerate(names))
        self.label2id = {name: place for place, name in enumerate(names)}
        self.problem_type = _PROBLEM_TYPES[self.head.kind]

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

    def _check_generative(self) -> None:
        """Raise unless there is a class to sum out, and a vector to generate of the size that the generative head has."""
        generative, head = self.generative, self.head
        if head is None or head.kind != "class":
            raise ValueError(
                'generative is for a head of kind "class", whose labels it sums out where they are missing; got '
                f"{'no head' if head is None else repr(head.kind)}. Leave generative out, or predict a class."
            )
        if self.bottleneck.kind in LATENT_KINDS:
            raise ValueError(
                "A classifier with a generative half draws nothing itself, got a bottleneck of kind "
                f'"{self.bottleneck.kind}". Put latent numbers into generative={{"bottleneck": ...}}.'
            )
        if generative.head is None:
            raise ValueError(
                'A generative half needs a head that says what it generates, such as generative={"head": '
                '{"kind": "regression", "num_outputs": 64}}.'
            )
        vector = self.get_vector_condition()
        if vector is None:
            raise ValueError(
                "generative is a model of the vector that the classifier reads, and it reads none. Give it a vector as a "
                "condition, or leave generative out."
            )
        if generative.head.num_outputs != vector.vector_size:
            raise ValueError(
                f"The generative head gives {generative.head.num_outputs} numbers, but the condition has {vector.vector_size}. "
                "Set its num_outputs, or of an image its output_shape, to that."
            )
        if generative.label_prior is not None and len(generative.label_prior) != head.num_outputs:
            raise ValueError(
                f"label_prior must have a probability for each of the {head.num_outputs} classes, got "
                f"{len(generative.label_prior)}."
            )

    def get_vector_condition(self) -> GenextVectorConditionerConfig | None:
        """The condition that is a vector, or `None` where there is none."""
        fused = isinstance(self.conditioner, GenextFusionConditionerConfig)
        parts = list(self.conditioner.conditioners.values()) if fused else [self.conditioner]
        return next((part for part in parts if isinstance(part, GenextVectorConditionerConfig)), None)

    def build_generative_config(self) -> "GenextConfig":
        """The configuration of the generative half by itself: a model that gives the vector for a class, by latent numbers.

        Its conditions are `vector`, which the posterior alone reads, and `label`, a field of all classes.
        """
        generative, vector = self.generative, self.get_vector_condition()
        width = {"hidden_size": generative.hidden_size, "initializer_range": generative.initializer_range}
        conditioners = {
            "vector": GenextVectorConditionerConfig(
                vector_size=vector.vector_size,
                num_states=generative.num_states,
                **width,
            ),
            "label": GenextLabelConditionerConfig(label_counts=[self.head.num_outputs], **width),
        }
        bottleneck = {**generative.bottleneck.to_dict(), "posterior_conditions": ["vector"]}
        head = copy.deepcopy(generative.head)
        if head.num_hidden_layers is None:
            head.num_hidden_layers = 0
        return GenextConfig(
            conditioner=GenextFusionConditionerConfig(conditioners=conditioners, **width), bottleneck=bottleneck, head=head
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
    "GenextConfig",
    "GenextDecoderConfig",
]
