"""hf_genext: conditional encoder-decoders and vector spaces behind Transformers' own doors.

Importing the package registers its classes with the Auto classes and with `pipeline()`, which is Transformers' own and can be
imported from here too, so that one import does both.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from transformers import pipeline

from hf_genext import auto
from hf_genext.adapters import build_lora_config
from hf_genext.drawing import draw_alignment
from hf_genext.genext.configuration_bottlenecks_genext import GenextBottleneckConfig
from hf_genext.genext.configuration_conditioners_genext import (
    GenextFusionConditionerConfig,
    GenextLabelConditionerConfig,
    GenextNullConditionerConfig,
    GenextTextConditionerConfig,
    GenextVectorConditionerConfig,
)
from hf_genext.genext.configuration_generative_genext import GenextGenerativeConfig
from hf_genext.genext.configuration_genext import GenextConfig, GenextDecoderConfig
from hf_genext.genext.configuration_heads_genext import GenextHeadConfig
from hf_genext.genext.modeling_genext import GenextForConditionalGeneration, GenextModel
from hf_genext.genext.prediction_genext import GenextForPrediction
from hf_genext.genext.pretrained_genext import GenextPreTrainedModel
from hf_genext.genext.processing_genext import GenextProcessor
from hf_genext.genext.tokenization_genext import train_tokenizer
from hf_genext.pipelines import ConditionalGenerationPipeline
from hf_genext.static_embedding.configuration_static_embedding import StaticEmbeddingConfig
from hf_genext.static_embedding.modeling_static_embedding import StaticEmbeddingModel
from hf_genext.static_embedding.pretraining_static_embedding import StaticEmbeddingForPreTraining

if TYPE_CHECKING:
    from hf_genext.training import GenextTrainer, GenextTrainingArguments

__version__ = "0.1.0"

# Training pulls in Trainer, datasets and evaluate; whoever only loads a model should not wait for them.
_LAZY = {"GenextTrainer": "hf_genext.training", "GenextTrainingArguments": "hf_genext.training"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'hf_genext' has no attribute {name!r}")


auto.register()

__all__ = [
    "build_lora_config",
    "ConditionalGenerationPipeline",
    "draw_alignment",
    "GenextBottleneckConfig",
    "GenextConfig",
    "GenextDecoderConfig",
    "GenextForConditionalGeneration",
    "GenextForPrediction",
    "GenextFusionConditionerConfig",
    "GenextGenerativeConfig",
    "GenextHeadConfig",
    "GenextLabelConditionerConfig",
    "GenextModel",
    "GenextNullConditionerConfig",
    "GenextPreTrainedModel",
    "GenextProcessor",
    "GenextTextConditionerConfig",
    "GenextTrainer",
    "GenextTrainingArguments",
    "GenextVectorConditionerConfig",
    "pipeline",
    "StaticEmbeddingConfig",
    "StaticEmbeddingForPreTraining",
    "StaticEmbeddingModel",
    "train_tokenizer",
]
