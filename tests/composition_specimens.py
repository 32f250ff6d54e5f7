"""Small parts of every kind, and the cells that they are joined to: a condition, a decoder and a bottleneck each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from specimens import PHONEMES, WORDS, build_inputs, sharpen
from transformers import (
    BartConfig,
    BertConfig,
    CLIPVisionConfig,
    ConvNextConfig,
    ElectraConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MarianConfig,
    OPTConfig,
    PreTrainedConfig,
    Qwen3Config,
    ResNetConfig,
    RobertaConfig,
    SiglipVisionConfig,
    T5Config,
    ViTConfig,
    Wav2Vec2Config,
    WhisperConfig,
    pipeline,
)

from hf_genext import (
    ConditionalGenerationPipeline,
    GenextDecoderConfig,
    GenextForConditionalGeneration,
    GenextFusionConditionerConfig,
    GenextLabelConditionerConfig,
    GenextProcessor,
    GenextTextConditionerConfig,
    GenextVectorConditionerConfig,
    StaticEmbeddingConfig,
    train_tokenizer,
)

TARGET_VOCAB = 37
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT = {"vocab_size": 31, "num_hidden_layers": 2, "num_attention_heads": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass
class Condition:
    """A conditioner's configuration and three rows of its input."""

    config: Callable[[], PreTrainedConfig | None]
    inputs: dict[str, torch.Tensor]


@dataclass
class Cell:
    """A condition, a decoder and a bottleneck."""

    condition: str
    decoder: str
    num_latents: int | None
    bottleneck: dict[str, Any] | None = None
    """Fields of a bottleneck, of kinds that no number of slots stands for."""

    @property
    def name(self) -> str:
        pooled = "none" if self.num_latents is None else f"pooled{self.num_latents}"
        given = None if self.bottleneck is None else "_".join(map(str, self.bottleneck.values()))
        return f"{self.condition}-{self.decoder}-{given or pooled}"

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        return dict(CONDITIONS[self.condition].inputs)

    def build(self, *, sharp: bool = True, **arguments) -> GenextForConditionalGeneration:
        torch.manual_seed(0)
        model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(
            encoder=CONDITIONS[self.condition].config(),
            decoder=DECODERS[self.decoder](),
            bottleneck=self.bottleneck,
            num_latents=self.num_latents,
            **arguments,
        )
        model = sharpen(model) if sharp else model
        for module in model.modules():
            if hasattr(module, "create_weight"):  # A table of sines is a constant, which no folder holds.
                module.weight.data.copy_(module.create_weight())
        return model


def build_labels() -> torch.Tensor:
    """Three targets, one of them shorter."""
    labels = torch.randint(4, TARGET_VOCAB, (3, 6), generator=torch.Generator().manual_seed(5))
    labels[1, 4:] = -100
    return labels


def build_numbers(*shape: int) -> torch.Tensor:
    """The same normal numbers each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def build_bert() -> BertConfig:
    return BertConfig(**TEXT, hidden_size=24, intermediate_size=28, max_position_embeddings=16, **NO_DROPOUT)


def build_text_and_labels() -> GenextFusionConditionerConfig:
    return GenextFusionConditionerConfig(
        conditioners={"text": build_bert(), "labels": GenextLabelConditionerConfig(label_counts=[3, 5], hidden_size=20)}
    )


TOKENS = build_inputs(with_labels=False)
LABELS = torch.tensor([[0, 4], [2, -1], [1, 0]])

CONDITIONS: dict[str, Condition] = {
    "bert": Condition(build_bert, TOKENS),
    "vit": Condition(
        lambda: ViTConfig(
            hidden_size=24, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
        ),
        {"pixel_values": build_numbers(3, 3, 8, 8)},
    ),
    "whisper": Condition(
        lambda: WhisperConfig(
            vocab_size=40,
            d_model=24,
            encoder_layers=2,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=28,
            decoder_ffn_dim=28,
            num_mel_bins=8,
            max_source_positions=10,
            dropout=0.0,
            decoder_start_token_id=1,
            **IDS,
        ),
        {"input_features": build_numbers(3, 8, 20)},
    ),
    "static": Condition(lambda: StaticEmbeddingConfig(vocab_size=31, hidden_size=18), TOKENS),
    "vectors": Condition(
        lambda: GenextVectorConditionerConfig(vector_size=9, hidden_size=20), {"condition_vectors": build_numbers(3, 2, 9)}
    ),
    "labels": Condition(
        lambda: GenextLabelConditionerConfig(label_counts=[3, 5], hidden_size=20), {"condition_labels": LABELS}
    ),
    "nothing": Condition(lambda: None, {"condition_mask": torch.zeros(3, 1, dtype=torch.long)}),
    "text_and_labels": Condition(
        build_text_and_labels,
        {**TOKENS, "condition_labels": LABELS, "condition_mask": torch.tensor([[1, 1], [0, 1], [1, 0]])},
    ),
}
"""The conditions of the matrix."""

MORE_CONDITIONS: dict[str, Condition] = {
    "target_and_labels": Condition(
        build_text_and_labels,
        {**TOKENS, "condition_labels": LABELS, "condition_mask": torch.tensor([[1, 1], [1, 1], [1, 0]])},
    ),
    "vectors_of_several_states": Condition(
        lambda: GenextVectorConditionerConfig(vector_size=9, hidden_size=20, num_states=3),
        {"condition_vectors": build_numbers(3, 2, 9)},
    ),
    "native_text": Condition(lambda: GenextTextConditionerConfig(**TEXT, hidden_size=24, intermediate_size=28), TOKENS),
    "t5": Condition(
        lambda: T5Config(vocab_size=31, d_model=24, d_kv=12, d_ff=28, num_layers=2, num_heads=2, dropout_rate=0.0), TOKENS
    ),
    "bart": Condition(
        lambda: BartConfig(
            vocab_size=31,
            d_model=24,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=28,
            decoder_ffn_dim=28,
            max_position_embeddings=16,
            dropout=0.0,
        ),
        TOKENS,
    ),
    "gpt2": Condition(lambda: GPT2Config(vocab_size=31, n_embd=24, n_layer=2, n_head=2, n_positions=16), TOKENS),
    "llama": Condition(lambda: LlamaConfig(**TEXT, hidden_size=24, intermediate_size=28, num_key_value_heads=1), TOKENS),
    "clip": Condition(
        lambda: CLIPVisionConfig(
            hidden_size=24, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
        ),
        {"pixel_values": build_numbers(3, 3, 8, 8)},
    ),
    "siglip": Condition(
        lambda: SiglipVisionConfig(
            hidden_size=24, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
        ),
        {"pixel_values": build_numbers(3, 3, 8, 8)},
    ),
    "convnext": Condition(
        lambda: ConvNextConfig(hidden_sizes=[8, 12], depths=[1, 1], num_stages=2), {"pixel_values": build_numbers(3, 3, 32, 32)}
    ),
    "electra": Condition(
        lambda: ElectraConfig(
            **TEXT, embedding_size=12, hidden_size=24, intermediate_size=28, max_position_embeddings=16, **NO_DROPOUT
        ),
        TOKENS,
    ),
    "resnet": Condition(
        lambda: ResNetConfig(embedding_size=12, hidden_sizes=[12, 18], depths=[1, 1], layer_type="basic"),
        {"pixel_values": build_numbers(3, 3, 32, 32)},
    ),
    "wav2vec2": Condition(
        lambda: Wav2Vec2Config(
            vocab_size=31,
            hidden_size=24,
            intermediate_size=28,
            num_hidden_layers=2,
            num_attention_heads=2,
            conv_dim=(16, 16),
            conv_kernel=(8, 4),
            conv_stride=(4, 2),
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            mask_time_prob=0.0,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            activation_dropout=0.0,
            feat_proj_dropout=0.0,
            layerdrop=0.0,
        ),
        {
            "input_values": build_numbers(3, 160) * (torch.arange(160) < torch.tensor([[160], [80], [120]])),
            "attention_mask": (torch.arange(160) < torch.tensor([[160], [80], [120]])).long(),
        },
    ),
}
"""Conditions that meet a decoder of each kind once."""
CONDITIONS |= MORE_CONDITIONS
MATRIX_CONDITIONS = [name for name in CONDITIONS if name not in MORE_CONDITIONS]

DECODERS: dict[str, Callable[[], PreTrainedConfig]] = {
    "gpt2": lambda: GPT2Config(vocab_size=TARGET_VOCAB, n_embd=32, n_layer=2, n_head=2, n_positions=64, **IDS),
    "llama": lambda: LlamaConfig(
        vocab_size=TARGET_VOCAB,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        **IDS,
    ),
    "qwen3": lambda: Qwen3Config(
        vocab_size=TARGET_VOCAB,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        tie_word_embeddings=True,
        **IDS,
    ),
    "opt": lambda: OPTConfig(
        vocab_size=TARGET_VOCAB,
        hidden_size=32,
        word_embed_proj_dim=16,
        ffn_dim=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        **IDS,
    ),
    "native": lambda: GenextDecoderConfig(
        vocab_size=TARGET_VOCAB, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=2
    ),
}
"""The decoders of the matrix."""

BARTS = {
    "vocab_size": TARGET_VOCAB,
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 28,
    "decoder_ffn_dim": 28,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "forced_eos_token_id": None,
    "decoder_start_token_id": 2,
    **IDS,
}
"""Sizes of BART and of what is built as it is."""

MORE_DECODERS: dict[str, Callable[[], PreTrainedConfig]] = {
    "bert": lambda: BertConfig(
        vocab_size=TARGET_VOCAB,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        **IDS,
        **NO_DROPOUT,
    ),
    "bart": lambda: BartConfig(**BARTS),
    "marian": lambda: MarianConfig(**BARTS),
    "t5": lambda: T5Config(
        vocab_size=TARGET_VOCAB,
        d_model=32,
        d_kv=16,
        d_ff=40,
        num_layers=2,
        num_heads=2,
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=2,
        decoder_start_token_id=0,
    ),
    "roberta": lambda: RobertaConfig(
        vocab_size=TARGET_VOCAB,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        **IDS,
        **NO_DROPOUT,
    ),
    "gemma2": lambda: Gemma2Config(
        vocab_size=TARGET_VOCAB,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        **IDS,
    ),
    "windowed": lambda: Qwen3Config(
        vocab_size=TARGET_VOCAB,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        use_sliding_window=True,
        sliding_window=4,
        max_window_layers=1,
        **IDS,
    ),
}
"""Decoders that meet a condition with padding, with and without a bottleneck."""
DECODERS |= MORE_DECODERS
MATRIX_DECODERS = [name for name in DECODERS if name not in MORE_DECODERS]

MATRIX = [
    Cell(condition, decoder, num_latents)
    for condition, decoder, num_latents in product(MATRIX_CONDITIONS, MATRIX_DECODERS, [None, 1, 5])
]
BESIDE_THE_MATRIX = [
    *(Cell(name, decoder, None) for name, decoder in product(MORE_CONDITIONS, ["gpt2", "llama", "native"])),
    *(Cell("bert", decoder, num_latents) for decoder, num_latents in product(MORE_DECODERS, [None, 5])),
]
LATENT_CELLS = [
    Cell("native_text", "native", None, {"kind": "variational", "num_latents": 2, "latent_size": 3}),
    Cell("bert", "llama", None, {"kind": "variational", "num_latents": 1, "latent_size": 5, "prior": "mixture"}),
    Cell("vit", "gpt2", None, {"kind": "variational", "num_latents": 3, "latent_size": 2}),
    Cell(
        "target_and_labels",
        "native",
        None,
        {"kind": "variational", "num_latents": 2, "latent_size": 3, "prior": "conditional", "posterior_conditions": ["text"]},
    ),
    Cell("native_text", "llama", None, {"kind": "quantized", "num_latents": 4, "latent_size": 6, "num_codes": 32}),
    Cell(
        "target_and_labels",
        "native",
        None,
        {"kind": "quantized", "num_latents": 2, "num_codes": 64, "posterior_conditions": ["text"]},
    ),
]
FAST_CELLS = [
    Cell("bert", "llama", None),
    Cell("vit", "qwen3", 1),
    Cell("whisper", "opt", 5),
    Cell("static", "gpt2", None),
    Cell("vectors", "native", 5),
    Cell("vectors_of_several_states", "native", None),
    Cell("labels", "gpt2", 1),
    Cell("nothing", "llama", 1),
    Cell("text_and_labels", "opt", None),
    Cell("t5", "t5", None),
    Cell("wav2vec2", "windowed", None),
    *LATENT_CELLS,
]
"""Each part of the matrix once, and each kind of part that stands beside it."""


def build_guidable_pipeline(decoder: str) -> ConditionalGenerationPipeline:
    """Letters to phonemes by random weights that can do without their condition."""
    processor = GenextProcessor(
        tokenizer=train_tokenizer(WORDS, unit="character", model_max_length=24),
        target_tokenizer=train_tokenizer(PHONEMES, unit="word", model_max_length=24),
    )
    encoder, written = build_bert(), DECODERS[decoder]()
    encoder.vocab_size, written.vocab_size = len(processor.tokenizer), len(processor.target_tokenizer)
    torch.manual_seed(0)
    model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(
        encoder=encoder, decoder=written, condition_dropout=0.1
    )
    model = sharpen(model)
    model.generation_config.max_new_tokens = 6
    return pipeline("conditional-generation", model=model, processor=processor)
