"""Configurations of conditioners: text from scratch, vectors, labels, nothing, and several of any kind together."""

# No `from __future__ import annotations` here: `@strict` would see only strings and check no type.
import copy
import dataclasses
import difflib
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    PreTrainedConfig,
)
from transformers.modeling_rope_utils import RopeParameters
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME, logging

logger = logging.get_logger(__name__)

# What Transformers itself gives to any configuration, or finds in any, beside its fields.
_READ_BY_TRANSFORMERS = frozenset(
    (
        "attn_implementation",
        "auto_map",
        "custom_pipelines",
        "experts_implementation",
        "quantization_config",
        "tie_word_embeddings",
        "use_cache",  # Trainer writes it.
    )
)


def refuse_mistyped_names(config_class: type[PreTrainedConfig], names: dict[str, Any]) -> None:
    """Raise for a name that is nearly, but not quite, a field of the configuration, and warn of others that nothing reads.

    Transformers keeps unknown names as attributes, so `hiden_size=64` would leave the real field at its default. A name that is
    like no field may come from a later version of Transformers, or from another tool, and must not keep a folder from opening.

    Raises:
        ValueError: naming the field that was meant.
    """
    fields = [field.name for field in dataclasses.fields(config_class)]
    for name in names:
        meant = difflib.get_close_matches(name, fields, n=1, cutoff=0.85)
        if meant and not name.startswith("_"):
            raise ValueError(f"{config_class.__name__} has no field {name!r}. Did you mean {meant[0]!r}?")
        if not name.startswith("_") and name not in _READ_BY_TRANSFORMERS and not hasattr(PreTrainedConfig, name):
            inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
            own = ", ".join(field for field in fields if field not in inherited)
            logger.warning(
                "%s has no field %r, so nothing will read it. Its own fields are %s.",
                config_class.__name__,
                name,
                own or "none",
            )


def forget_remote_code(names: dict[str, Any]) -> None:
    """Take away what a pushed folder says of its own code, where this class is not that code.

    `pipeline()` would demand `trust_remote_code=True` of a folder with `custom_pipelines`, whatever is installed; and a folder
    that is saved from here has none of the files that both name. Pushing writes both again.
    """
    if not __name__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}."):
        names.pop("auto_map", None)
        names.pop("custom_pipelines", None)


def validate_attention_sizes(name: str, hidden_size: int, num_attention_heads: int) -> None:
    """Raise unless the heads divide the width into even parts (rotary positions turn pairs of numbers)."""
    if num_attention_heads < 1 or hidden_size % (2 * num_attention_heads) != 0:
        raise ValueError(
            f"{name}: hidden_size must be a multiple of 2 * num_attention_heads, got hidden_size={hidden_size} and "
            f"num_attention_heads={num_attention_heads}. Choose for example hidden_size={64 * max(1, num_attention_heads)}."
        )


def validate_positive(name: str, **sizes: int | None) -> None:
    """Raise unless every size is 1 or more."""
    for field, size in sizes.items():
        if size is None or size < 1:
            raise ValueError(f"{name}: {field} must be 1 or more, got {size}.")


@strict
class GenextTextConditionerConfig(PreTrainedConfig):
    """Configuration of a text conditioner that is built from scratch: a bidirectional pre-norm Transformer.

    Args:
        vocab_size: Number of source tokens.
        hidden_size: Width of the states.
        intermediate_size: Width inside the gated MLP.
        num_hidden_layers: Number of layers.
        num_attention_heads: Number of attention heads; `hidden_size` must be a multiple of twice this number.
        hidden_act: Activation of the gated MLP.
        max_position_embeddings: The longest input, in tokens, that the processor lets through.
        rms_norm_eps: Epsilon of the RMSNorm layers.
        dropout: Dropout after the embedding and after each block, one mask for all positions of a row.
        attention_dropout: Dropout on the attention weights.
        use_qk_norm: Whether to normalise queries and keys (Henry et al. 2020), which lets training take larger steps.
        initializer_range: Standard deviation of the initial weights. Left out, they are scaled to their width: 0.6 divided by
            the root of the number of inputs, 0.5 for embeddings (the root of their width where the token head shares them),
            and 0 for what is added to the states, so that a new model begins as the identity.
        rope_parameters: Rotary position settings as in Transformers, such as `{"rope_type": "default", "rope_theta": 10000.0}`.
        pad_token_id: Source padding id.
        bos_token_id: Source start id, if there is one.
        eos_token_id: Source end id, if there is one.
    """

    model_type = "genext_text_conditioner"

    vocab_size: int = 256
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 3
    num_attention_heads: int = 4
    hidden_act: str = "silu"
    max_position_embeddings: int = 512
    rms_norm_eps: float = 1e-6
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    use_qk_norm: bool = True
    initializer_range: float | None = None
    rope_parameters: RopeParameters | dict | None = None
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse mistyped names, then let Transformers do the rest."""
        refuse_mistyped_names(type(self), kwargs)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the sizes against each other (called by `@strict`)."""
        validate_attention_sizes(type(self).__name__, self.hidden_size, self.num_attention_heads)


def get_states_size(config: PreTrainedConfig) -> int:
    """The width of the states that a model of this configuration gives, and of the embeddings that it takes.

    Raises:
        ValueError: for a model without one width, such as one of several towers.
    """
    candidates = [config]
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING or type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        candidates.append(config.get_text_config())
    for candidate in candidates:
        for name in ("word_embed_proj_dim", "output_hidden_size", "hidden_size", "hidden_sizes"):
            size = getattr(candidate, name, None)
            # Wav2Vec2 has an output_hidden_size always, but gives states of that width only with an adapter.
            if size is not None and (name != "output_hidden_size" or getattr(candidate, "add_adapter", False)):
                return size[-1] if isinstance(size, (list, tuple)) else size
    raise ValueError(
        f"A model of type {config.model_type!r} has no hidden states of one width (its configuration has neither hidden_size "
        "nor hidden_sizes). Of a model with several towers give the one that reads the condition, such as model.vision_model, "
        "or a folder that it alone was saved to."
    )


@strict
class GenextVectorConditionerConfig(PreTrainedConfig):
    """Configuration of a conditioner for raw vectors: one state for each vector, or several.

    Args:
        vector_size: Numbers in a vector.
        hidden_size: Width of the states; `vector_size` if left out, and then the vectors are the states.
        num_states: States that each vector becomes, each by a projection of its own: what a decoder can attend to in turns.
        initializer_range: Standard deviation of the initial weights; left out, 0.6 divided by the root of `vector_size`.

    Example:
        >>> from hf_genext import GenextConfig
        >>> config = GenextConfig(conditioner={"model_type": "genext_vector_conditioner", "vector_size": 50})
        >>> config.conditioner.hidden_size
        50
    """

    model_type = "genext_vector_conditioner"

    vector_size: int = 64
    hidden_size: int | None = None
    num_states: int = 1
    initializer_range: float | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse mistyped names, fill in the width, then let Transformers do the rest."""
        refuse_mistyped_names(type(self), kwargs)
        self.hidden_size = self.vector_size if self.hidden_size is None else self.hidden_size
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the sizes (called by `@strict`)."""
        sizes = {"vector_size": self.vector_size, "hidden_size": self.hidden_size, "num_states": self.num_states}
        validate_positive(type(self).__name__, **sizes)


@strict
class GenextLabelConditionerConfig(PreTrainedConfig):
    """Configuration of a conditioner for labels: one or several categorical fields, one state for each.

    A field that is missing in a row has the label -1; it has a learned state of its own.

    Args:
        label_counts: Number of labels of each field.
        hidden_size: Width of the states.
        initializer_range: Standard deviation of the initial weights; left out, 0.5.
    """

    model_type = "genext_label_conditioner"

    label_counts: list[int] | tuple[int, ...] = (2,)
    hidden_size: int = 256
    initializer_range: float | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse mistyped names, then let Transformers do the rest."""
        refuse_mistyped_names(type(self), kwargs)
        self.label_counts = list(self.label_counts)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the sizes (called by `@strict`)."""
        validate_positive(type(self).__name__, hidden_size=self.hidden_size)
        if not self.label_counts or min(self.label_counts) < 1:
            raise ValueError(
                f"label_counts names how many labels each field has, 1 or more of each; got {self.label_counts}. For one field "
                "of ten labels give [10]."
            )


@strict
class GenextNullConditionerConfig(PreTrainedConfig):
    """Configuration of the conditioner of models that are given nothing: one learned state for every row.

    Args:
        hidden_size: Width of the state.
        initializer_range: Standard deviation of the initial state; left out, 0.5.
    """

    model_type = "genext_null_conditioner"

    hidden_size: int = 256
    initializer_range: float | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse mistyped names, then let Transformers do the rest."""
        refuse_mistyped_names(type(self), kwargs)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the sizes (called by `@strict`)."""
        validate_positive(type(self).__name__, hidden_size=self.hidden_size)


@strict
class GenextFusionConditionerConfig(PreTrainedConfig):
    """Configuration of several conditions together, or of one that may be missing.

    The states of all conditions stand one behind the other, each with its condition's type embedding. Where a condition is
    missing in a row, a learned null state stands in.

    Args:
        conditioners: For each name a conditioner's configuration, or a dictionary with its `model_type` and fields. No two may
            read the same input.
        condition_names: The order of the conditions, which is that of the columns of `condition_mask`; as `conditioners` has
            them if left out. (A saved configuration has its keys in the order of the alphabet.)
        hidden_size: Width of the states; that of the widest condition if left out. Others are projected.
        condition_dropout: In training, the share of rows in which each condition is taken away, so that the null states learn
            (Ho and Salimans 2022).
        initializer_range: Standard deviation of the initial weights; left out, scaled to their width.

    Example:
        >>> from hf_genext import GenextFusionConditionerConfig
        >>> config = GenextFusionConditionerConfig(
        ...     conditioners={
        ...         "numbers": {"model_type": "genext_vector_conditioner", "vector_size": 8},
        ...         "labels": {"model_type": "genext_label_conditioner", "label_counts": [3, 5], "hidden_size": 32},
        ...     },
        ...     condition_dropout=0.1,
        ... )
        >>> config.hidden_size
        32
    """

    model_type = "genext_fusion_conditioner"

    conditioners: dict[str, Any] | None = None
    condition_names: list[str] | None = None
    hidden_size: int | None = None
    condition_dropout: float | int = 0.0
    initializer_range: float | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Build the parts, then let Transformers do the rest."""
        refuse_mistyped_names(type(self), kwargs)
        parts = {"text": GenextTextConditionerConfig()} if self.conditioners is None else self.conditioners
        if not parts:
            raise ValueError("conditioners is empty; name one condition at least.")
        self.condition_names = list(parts) if self.condition_names is None else self.condition_names
        if sorted(self.condition_names) != sorted(parts):
            raise ValueError(
                f"condition_names must name each of the conditions {', '.join(sorted(parts))} once, got {self.condition_names}."
            )
        self.conditioners = {name: build_part_config(f"conditioners[{name!r}]", parts[name]) for name in self.condition_names}
        if self.hidden_size is None:
            self.hidden_size = max(get_states_size(part) for part in self.conditioners.values())
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the numbers (called by `@strict`)."""
        validate_positive(type(self).__name__, hidden_size=self.hidden_size)
        if not 0.0 <= self.condition_dropout < 1.0:
            raise ValueError(f"condition_dropout must be at least 0 and below 1, got {self.condition_dropout}.")

    def to_dict(self) -> dict[str, Any]:
        """The configuration as a dictionary, parts included."""
        without = copy.copy(self)
        without.__dict__["conditioners"] = None
        output = PreTrainedConfig.to_dict(without)
        output["conditioners"] = {name: part.to_dict() for name, part in self.conditioners.items()}
        for part in output["conditioners"].values():
            part.pop("transformers_version", None)
        return output

    @property
    def _attn_implementation(self) -> str | None:
        return self._attn_implementation_internal

    @_attn_implementation.setter
    def _attn_implementation(self, value: str | dict[str, str] | None) -> None:
        value = value.get("", None) if isinstance(value, dict) else value
        self._attn_implementation_internal = value
        for part in (self.conditioners or {}).values():
            if isinstance(part, PreTrainedConfig):
                part._attn_implementation = value


def build_part_config(place: str, part: PreTrainedConfig | dict[str, Any]) -> PreTrainedConfig:
    """The configuration of a part from what a user gives.

    Raises:
        TypeError: for neither a configuration nor a dictionary.
        ValueError: for a dictionary without a known `model_type`.
    """
    if isinstance(part, PreTrainedConfig):
        return part
    if not isinstance(part, dict):
        raise TypeError(f"{place} must be a configuration or a dictionary with its fields, got {type(part).__name__}.")
    model_type = part.get("model_type")
    if model_type in NATIVE_CONDITIONERS:
        # By name, and not by what is registered: as a repository's code nothing is, or what another repository brought.
        return NATIVE_CONDITIONERS[model_type](**part)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"{place} has the model_type {model_type!r}, which Transformers does not know. Native ones are "
            f"{', '.join(NATIVE_CONDITIONERS)}."
        )
    return CONFIG_MAPPING[model_type](**part)


NATIVE_CONDITIONERS = {
    config_class.model_type: config_class
    for config_class in (
        GenextFusionConditionerConfig,
        GenextLabelConditionerConfig,
        GenextNullConditionerConfig,
        GenextTextConditionerConfig,
        GenextVectorConditionerConfig,
    )
}
"""Configurations of the conditioners that are built here, by model type; any other model type is an `AutoModel`."""

__all__ = [
    "NATIVE_CONDITIONERS",
    "GenextFusionConditionerConfig",
    "GenextLabelConditionerConfig",
    "GenextNullConditionerConfig",
    "GenextTextConditionerConfig",
    "GenextVectorConditionerConfig",
    "forget_remote_code",
    "get_states_size",
    "refuse_mistyped_names",
    "validate_attention_sizes",
    "validate_positive",
]
