"""Configurations of the conditional family: one for each part, and the one that composes them."""

# No `from __future__ import annotations` here: `@strict` would see only strings and check no type.
import dataclasses
import difflib
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_rope_utils import RopeParameters

FORMAT_VERSION = 1
"""Version of the folder format that this package writes. It grows when an older package could not read a folder."""


def _refuse_mistyped_names(config_class: type[PreTrainedConfig], names: dict[str, Any]) -> None:
    """Raise for a name that is nearly, but not quite, a field of the configuration.

    Transformers keeps unknown names as attributes, so `hiden_size=64` would leave the real field at its default.

    Raises:
        ValueError: naming the field that was meant.
    """
    fields = [field.name for field in dataclasses.fields(config_class)]
    for name in names:
        meant = difflib.get_close_matches(name, fields, n=1, cutoff=0.85)
        if meant and not name.startswith("_"):
            raise ValueError(f"{config_class.__name__} has no field {name!r}. Did you mean {meant[0]!r}?")


def _validate_attention_sizes(name: str, hidden_size: int, num_attention_heads: int) -> None:
    """Raise unless the heads divide the width into even parts (rotary positions turn pairs of numbers)."""
    if num_attention_heads < 1 or hidden_size % (2 * num_attention_heads) != 0:
        raise ValueError(
            f"{name}: hidden_size must be a multiple of 2 * num_attention_heads, got hidden_size={hidden_size} and "
            f"num_attention_heads={num_attention_heads}. Choose for example hidden_size={64 * max(1, num_attention_heads)}."
        )


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
        _refuse_mistyped_names(type(self), kwargs)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the sizes against each other (called by `@strict`)."""
        _validate_attention_sizes(type(self).__name__, self.hidden_size, self.num_attention_heads)


@strict
class GenextBottleneckConfig(PreTrainedConfig):
    """Configuration of the bottleneck, which turns states of any length into the memory that the decoder reads.

    Args:
        kind: `"none"` hands the states on as they are. `"pooled"` reads them with `num_latents` learned queries, so that
            the memory has a fixed number of slots whatever the input's length.
        num_latents: Number of slots of a pooled memory.
        hidden_size: Width of the memory; the conditioner's width if left out. `"none"` takes no other width.
        num_attention_heads: Heads of the pooling attention; the conditioner's number if left out.
        intermediate_size: Width inside the gated MLP that follows the pooling; three times `hidden_size` if left out.
        hidden_act: Activation of that MLP.
        rms_norm_eps: Epsilon of the RMSNorm layers.
        dropout: Dropout after each block, one mask for all slots of a row.
        attention_dropout: Dropout on the attention weights.
        use_qk_norm: Whether to normalise queries and keys.
        initializer_range: Standard deviation of the initial weights; left out, scaled to their width.
    """

    model_type = "genext_bottleneck"

    kind: Literal["none", "pooled"] = "none"
    num_latents: int = 1
    hidden_size: int | None = None
    num_attention_heads: int | None = None
    intermediate_size: int | None = None
    hidden_act: str = "silu"
    rms_norm_eps: float = 1e-6
    dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    use_qk_norm: bool = True
    initializer_range: float | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse mistyped names, then let Transformers do the rest."""
        _refuse_mistyped_names(type(self), kwargs)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the sizes against each other (called by `@strict`)."""
        if self.num_latents < 1:
            raise ValueError(
                f'num_latents must be 1 or more, got {self.num_latents}. For a memory as long as the input choose kind="none".'
            )
        if self.kind == "pooled" and self.hidden_size is not None and self.num_attention_heads is not None:
            _validate_attention_sizes(type(self).__name__, self.hidden_size, self.num_attention_heads)


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
        _refuse_mistyped_names(type(self), kwargs)
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Check the sizes against each other (called by `@strict`)."""
        _validate_attention_sizes(type(self).__name__, self.hidden_size, self.num_attention_heads)


@strict
class GenextConfig(PreTrainedConfig):
    """Configuration of a conditional model: conditioner, bottleneck and decoder, and what the whole adds to them.

    Each part is a configuration, a dictionary with the part's fields, or left out (the defaults). What depends on another
    part is filled in: the bottleneck's width from the conditioner, the decoder's `cross_attention_hidden_size` from the
    memory, and the token ids of the whole from the decoder.

    Args:
        conditioner: What turns the condition into states.
        bottleneck: What turns the states into the memory.
        decoder: What generates from the memory.
        tie_word_embeddings: Whether the token head shares the decoder's embedding.
        decoder_start_token_id: The id that every output starts from; the decoder's `bos_token_id` if left out.
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
    keys_to_ignore_at_inference = ["past_key_values"]
    sub_configs_defaults = {
        "conditioner": SubConfigSpec(config_class=AutoConfig, model_type="genext_text_conditioner"),
        "bottleneck": SubConfigSpec(config_class=GenextBottleneckConfig),
        "decoder": SubConfigSpec(config_class=AutoConfig, model_type="genext_decoder"),
    }

    conditioner: PreTrainedConfig | dict[str, Any] | None = None
    bottleneck: PreTrainedConfig | dict[str, Any] | None = None
    decoder: PreTrainedConfig | dict[str, Any] | None = None
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
        _refuse_mistyped_names(type(self), kwargs)
        super().__post_init__(**kwargs)
        bottleneck, conditioner, decoder = self.bottleneck, self.conditioner, self.decoder
        if bottleneck.kind == "none" and bottleneck.hidden_size not in (None, conditioner.hidden_size):
            raise ValueError(
                f'A bottleneck of kind "none" keeps the conditioner\'s width of {conditioner.hidden_size}, got '
                f'hidden_size={bottleneck.hidden_size}. Leave it out, or choose kind="pooled".'
            )
        if bottleneck.hidden_size is None:
            bottleneck.hidden_size = conditioner.hidden_size
        if bottleneck.num_attention_heads is None:
            bottleneck.num_attention_heads = conditioner.num_attention_heads
        if bottleneck.intermediate_size is None:
            bottleneck.intermediate_size = 3 * bottleneck.hidden_size
        bottleneck.validate_architecture()
        if decoder.cross_attention_hidden_size not in (None, bottleneck.hidden_size):
            raise ValueError(
                f"The decoder's cross_attention_hidden_size is {decoder.cross_attention_hidden_size}, but the memory is "
                f"{bottleneck.hidden_size} wide. Leave it out: it is filled in."
            )
        decoder.cross_attention_hidden_size = bottleneck.hidden_size
        if self.tie_word_embeddings and getattr(decoder, "embedding_initializer_range", 0.0) is None:
            decoder.embedding_initializer_range = decoder.hidden_size**-0.5
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(decoder, name))
        if self.decoder_start_token_id is None:
            self.decoder_start_token_id = self.bos_token_id

    @property
    def vocab_size(self) -> int:
        """Number of target tokens: the size of the distribution that the model gives."""
        return self.decoder.vocab_size

    @property
    def hidden_size(self) -> int:
        """Width of the memory."""
        return self.bottleneck.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Number of decoder layers."""
        return self.decoder.num_hidden_layers


__all__ = ["FORMAT_VERSION", "GenextBottleneckConfig", "GenextConfig", "GenextDecoderConfig", "GenextTextConditionerConfig"]
