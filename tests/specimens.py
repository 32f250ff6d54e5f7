"""A small specimen of every registered class, for the contract checks. A class without one fails the tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Pipeline, PreTrainedModel

from hf_genext import (
    ConditionalGenerationPipeline,
    GenextBottleneckConfig,
    GenextConfig,
    GenextDecoderConfig,
    GenextForConditionalGeneration,
    GenextForPrediction,
    GenextFusionConditionerConfig,
    GenextGenerativeConfig,
    GenextHeadConfig,
    GenextLabelConditionerConfig,
    GenextModel,
    GenextNullConditionerConfig,
    GenextProcessor,
    GenextTextConditionerConfig,
    GenextVectorConditionerConfig,
    StaticEmbeddingConfig,
    StaticEmbeddingForPreTraining,
    StaticEmbeddingModel,
    train_tokenizer,
)
from hf_genext.genext.configuration_heads_genext import DENSITY_KINDS, LINEAR_KINDS
from hf_genext.genext.outputs_genext import GaussianOutput
from hf_genext.genext.quantized_genext import Codebook

WORDS = ["cat", "violin", "violins", "at", "tacit", "a", "civil", "vital"]
PHONEMES = ["K AE T", "V AY AH L IH N", "V AY AH L IH N Z", "AE T", "T AE S IH T", "AH", "S IH V AH L", "V AY T AH L"]


@dataclass
class ModelSpecimen:
    """A model builder and the inputs that it takes."""

    name: str
    build: Callable[[], PreTrainedModel]
    inputs: dict[str, torch.Tensor]
    """`input_ids` with padding on the right, `attention_mask`; `labels` where the model is trained with them."""
    is_as_long_as_input: bool = False
    """Whether the main output has a position for each input position."""
    attends: bool = True
    """Whether the model has layers of attention."""


@dataclass
class PipelineSpecimen:
    """A task, a builder of its pipeline, and inputs that it takes, of unequal length and with unequal answers."""

    task: str
    build: Callable[[], Pipeline]
    inputs: list[Any]


def build_config(kind: str = "none", *, tie: bool = True, dropout: float = 0.0) -> GenextConfig:
    """A configuration with small, odd and unequal sizes."""
    bottleneck: dict[str, Any] = {"kind": "none"}
    if kind == "linear":
        bottleneck = {"kind": "linear", "hidden_size": 30, "is_fitted": True}
    if kind == "pooled":
        bottleneck = {"kind": "pooled", "num_latents": 5, "hidden_size": 40, "num_attention_heads": 2}
    if kind == "variational":
        sizes = {"num_latents": 3, "latent_size": 4, "hidden_size": 40, "num_attention_heads": 2}
        bottleneck = {"kind": "variational", "prior": "mixture", "num_components": 5, **sizes}
    if kind == "quantized":
        sizes = {"num_latents": 3, "latent_size": 4, "hidden_size": 40, "num_attention_heads": 2}
        bottleneck = {"kind": "quantized", "num_codes": 7, "num_prior_layers": 1, **sizes}
    return GenextConfig(
        conditioner={
            "vocab_size": 31,
            "hidden_size": 48,
            "intermediate_size": 56,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "dropout": dropout,
        },
        bottleneck=bottleneck,
        decoder={
            "vocab_size": 37,
            "hidden_size": 32,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "dropout": dropout,
        },
        tie_word_embeddings=tie,
        initializer_range=0.2,  # Of the head
    )


def sharpen(model: PreTrainedModel) -> PreTrainedModel:
    """Spread the initial weights, so that the model's outputs depend on its inputs visibly."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.25, generator=generator)
        for module in model.modules():
            if isinstance(module, Codebook):
                module.vectors.normal_(std=1.0, generator=generator)
    return model.eval()


def build_native_model(processor: GenextProcessor, *, tie_word_embeddings: bool) -> GenextForConditionalGeneration:
    """A native model for a processor's two vocabularies, with random weights that answer differently to each word."""
    sides = {
        name: {
            "vocab_size": len(tokenizer),
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            **{key: getattr(tokenizer, key) for key in ("pad_token_id", "bos_token_id", "eos_token_id")},
        }
        for name, tokenizer in (("conditioner", processor.tokenizer), ("decoder", processor.target_tokenizer))
    }
    torch.manual_seed(4)
    return sharpen(GenextForConditionalGeneration(GenextConfig(**sides, tie_word_embeddings=tie_word_embeddings)))


def build_inputs(*, with_labels: bool) -> dict[str, torch.Tensor]:
    """Three rows of unequal length."""
    generator = torch.Generator().manual_seed(3)
    lengths = [7, 3, 5]
    input_ids = torch.zeros(3, 7, dtype=torch.long)
    attention_mask = torch.zeros(3, 7, dtype=torch.long)
    for row, length in enumerate(lengths):
        input_ids[row, :length] = torch.randint(4, 31, (length,), generator=generator)
        attention_mask[row, :length] = 1
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
    if with_labels:
        labels = torch.randint(4, 37, (3, 6), generator=generator)
        labels[1, 4:] = -100
        inputs["labels"] = labels
    return inputs


def build_word_inputs() -> dict[str, torch.Tensor]:
    """Three rows of unequal length, in which every word is to be predicted."""
    inputs = build_inputs(with_labels=False)
    return {**inputs, "labels": inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)}


def build_pretraining(**settings) -> StaticEmbeddingForPreTraining:
    """A space of 31 words that learns."""
    words = [f"word{index}" for index in range(31)]
    return StaticEmbeddingForPreTraining.from_words(words, range(31, 0, -1), hidden_size=7, window=2, **settings)


def build_processor() -> GenextProcessor:
    """Letters on one side, phonemes on the other."""
    return GenextProcessor(
        tokenizer=train_tokenizer(WORDS, unit="character", lowercase=True, model_max_length=24),
        target_tokenizer=train_tokenizer(PHONEMES, unit="word", model_max_length=24),
    )


def build_pipeline(**arguments: Any) -> ConditionalGenerationPipeline:
    """A model with random weights that answers differently to each word."""
    processor = build_processor()
    config = build_config()
    config.conditioner.vocab_size, config.decoder.vocab_size = len(processor.tokenizer), len(processor.target_tokenizer)
    model = sharpen(GenextForConditionalGeneration(config))
    model.generation_config.max_new_tokens = 7
    return ConditionalGenerationPipeline(model=model, processor=processor, tokenizer=processor.tokenizer, **arguments)


PREDICTION_LABELS = {
    "class": torch.tensor([0, 4, 2]),
    "labels": torch.tensor([[0, 1, 1], [1, 0, -100], [0, 0, 1]]),
    "regression": torch.tensor([[0.5, -1.0], [2.0, float("nan")], [0.0, 1.0]]),
    **dict.fromkeys(DENSITY_KINDS, torch.tensor([[0.5, -1.0], [float("nan"), float("nan")], [0.0, 1.0]])),
    "image": torch.tensor([[0.0, 4.0, 2.0, 1.0, 3.0, 0.0], [float("nan")] * 6, [1.0, 1.0, 0.0, 4.0, 2.0, 2.0]]),
}


def build_prediction(kind: str, bottleneck: str = "none", **fields) -> GenextForPrediction:
    """A model with a single output of five classes, three labels, or two numbers by themselves or together."""
    config = build_config(bottleneck)
    if kind == "flow":
        fields = {"num_transforms": 2, "transform_size": 8, "num_bins": 4, **fields}
    if kind in LINEAR_KINDS:
        fields = {"num_components": 1, **({"num_bins": 4} if kind == "ica" else {}), **fields}
    if kind == "image":
        fields = {"output_shape": [2, 3], "num_levels": 5, "pixel_distribution": "logistic", "num_components": 3, **fields}
        # Each of the ways in which pixels may read each other, beside one of the bottlenecks.
        fields |= {"quantized": {"context_size": 6}, "variational": {"context_size": 6, "context_reach": 1}}.get(bottleneck, {})
    config.head = GenextHeadConfig(kind=kind, num_outputs={"class": 5, "labels": 3, "image": 6}.get(kind, 2), **fields)
    return GenextForPrediction(config)


def build_latents(components: int, rows: int = 4, units: int = 3) -> GaussianOutput:
    """Posteriors of rows and a prior of several components for each, in float64."""
    generator = torch.Generator().manual_seed(components)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return GaussianOutput(
        means=draw(rows, units),
        log_variances=0.5 * draw(rows, units) - 1.0,
        is_encoded=torch.ones(rows, dtype=torch.bool),
        prior_log_weights=draw(rows, components).log_softmax(dim=1),
        prior_means=2.0 * draw(rows, components, units),
        prior_log_variances=0.5 * draw(rows, components, units),
    )


MODEL_SPECIMENS = (
    [
        ModelSpecimen(
            f"{model_class.__name__}-{label}",
            build,
            build_inputs(with_labels=generates),
            is_as_long_as_input=not generates and label not in ("pooled", "variational", "quantized"),
        )
        for model_class, generates in ((GenextModel, False), (GenextForConditionalGeneration, True))
        for label, build in (
            ("none", lambda model_class=model_class: sharpen(model_class(build_config("none")))),
            ("pooled", lambda model_class=model_class: sharpen(model_class(build_config("pooled")))),
            ("linear", lambda model_class=model_class: sharpen(model_class(build_config("linear")))),
            ("variational", lambda model_class=model_class: sharpen(model_class(build_config("variational")))),
            ("quantized", lambda model_class=model_class: sharpen(model_class(build_config("quantized")))),
            ("untied", lambda model_class=model_class: sharpen(model_class(build_config("none", tie=False)))),
        )
    ]
    + [
        ModelSpecimen(
            f"GenextForPrediction-{kind}-{bottleneck}",
            lambda kind=kind, bottleneck=bottleneck: sharpen(build_prediction(kind, bottleneck)),
            {**build_inputs(with_labels=False), "labels": PREDICTION_LABELS[kind]},
        )
        for kind, bottleneck in (
            ("class", "none"),
            ("labels", "pooled"),
            ("regression", "none"),
            ("mixture", "pooled"),
            ("flow", "none"),
            ("ppca", "none"),
            ("ica", "pooled"),
            ("class", "variational"),
            ("image", "variational"),
            ("image", "quantized"),
        )
    ]
    + [
        ModelSpecimen(
            f"StaticEmbeddingModel-{label}",
            lambda settings=settings: sharpen(
                StaticEmbeddingModel(StaticEmbeddingConfig(vocab_size=31, hidden_size=7, **settings))
            ),
            build_inputs(with_labels=False),
            attends=False,
        )
        for label, settings in (("mean", {}), ("sif", {"pooling": "sif", "normalize": True}))
    ]
    + [
        ModelSpecimen(
            f"StaticEmbeddingForPreTraining-{label}",
            lambda settings=settings: sharpen(build_pretraining(**settings)),
            build_word_inputs(),
            is_as_long_as_input=True,
            attends=False,
        )
        for label, settings in (("skip_gram", {}), ("cbow", {"objective": "cbow", "num_buckets": 13}))
    ]
)
CONFIG_SPECIMENS = [
    build_config("pooled"),
    GenextTextConditionerConfig(vocab_size=9),
    GenextVectorConditionerConfig(vector_size=9, hidden_size=11, num_states=2),
    GenextGenerativeConfig(head={"kind": "image", "output_shape": [2, 3]}, bottleneck={"latent_size": 3}, warmup=0.25),
    GenextHeadConfig(kind="labels", output_names=["noun", "verb", "adverb"], dropout=0.25),
    GenextLabelConditionerConfig(label_counts=[3, 5], hidden_size=7),
    GenextNullConditionerConfig(hidden_size=9),
    GenextFusionConditionerConfig(
        conditioners={
            "text": {"model_type": "bert", "vocab_size": 9, "hidden_size": 24, "num_attention_heads": 2},
            "labels": {"model_type": "genext_label_conditioner", "label_counts": [3, 5], "hidden_size": 7},
        },
        condition_dropout=0.25,
    ),
    GenextBottleneckConfig(kind="pooled", num_latents=3),
    GenextBottleneckConfig(kind="linear", hidden_size=5, linear_kind="ica", is_fitted=True),
    GenextBottleneckConfig(kind="variational", num_latents=3, latent_size=5, prior="mixture", free_nats=0.25),
    GenextBottleneckConfig(kind="quantized", num_latents=3, latent_size=5, num_codes=9, code_decay=0.9),
    GenextDecoderConfig(vocab_size=11),
    StaticEmbeddingConfig(vocab_size=9, hidden_size=5, num_buckets=4),
]
PIPELINE_SPECIMENS = [PipelineSpecimen("conditional-generation", build_pipeline, WORDS)]
