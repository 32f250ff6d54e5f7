"""Everything that `import hf_genext` registers with Transformers, and the only file that touches its registries."""

from __future__ import annotations

from typing import Any, NoReturn

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    AutoModelForPreTraining,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForSpeechSeq2Seq,
    AutoProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto import modeling_auto
from transformers.models.auto.auto_factory import _BaseAutoModelClass
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pipelines import PIPELINE_REGISTRY

from hf_genext.adapters import register_with_peft
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
from hf_genext.pipelines import ConditionalGenerationPipeline
from hf_genext.publishing import carry_along
from hf_genext.static_embedding.configuration_static_embedding import StaticEmbeddingConfig
from hf_genext.static_embedding.modeling_static_embedding import StaticEmbeddingModel
from hf_genext.static_embedding.pretraining_static_embedding import StaticEmbeddingForPreTraining

TASK = "conditional-generation"

CONFIGS: tuple[type[PreTrainedConfig], ...] = (
    GenextBottleneckConfig,
    GenextConfig,
    GenextDecoderConfig,
    GenextFusionConditionerConfig,
    GenextGenerativeConfig,
    GenextHeadConfig,
    GenextLabelConditionerConfig,
    GenextNullConditionerConfig,
    GenextTextConditionerConfig,
    GenextVectorConditionerConfig,
    StaticEmbeddingConfig,
)
MODELS: tuple[tuple[type[_BaseAutoModelClass], type[PreTrainedConfig], type[PreTrainedModel]], ...] = (
    (AutoModel, GenextConfig, GenextModel),
    (AutoModel, StaticEmbeddingConfig, StaticEmbeddingModel),
    (AutoModelForPreTraining, StaticEmbeddingConfig, StaticEmbeddingForPreTraining),
    (AutoModelForSeq2SeqLM, GenextConfig, GenextForConditionalGeneration),
    (AutoModelForSequenceClassification, GenextConfig, GenextForPrediction),
)
PROCESSORS: tuple[tuple[type[PreTrainedConfig], type[GenextProcessor]], ...] = ((GenextConfig, GenextProcessor),)
PIPELINES: tuple[tuple[str, type[ConditionalGenerationPipeline], tuple[type[_BaseAutoModelClass], ...]], ...] = (
    (
        TASK,
        ConditionalGenerationPipeline,
        (
            AutoModelForSeq2SeqLM,
            AutoModelForSequenceClassification,
            AutoModelForSpeechSeq2Seq,
            AutoModelForImageTextToText,
        ),
    ),
)


class _WrongDoor:
    """What an Auto class that does not fit is given, so that its error names the one that does."""

    config_class = GenextConfig

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse, naming the Auto class that opens the folder."""
        saved_as = ((kwargs.get("config") and kwargs["config"].architectures) or [GenextForConditionalGeneration.__name__])[0]
        door = GenextPreTrainedModel._auto_class_of.get(saved_as, saved_as)
        raise ValueError(
            f"{str(pretrained_model_name_or_path)!r} holds a {saved_as}, which this Auto class does not open. Use "
            f"{door}.from_pretrained({str(pretrained_model_name_or_path)!r})."
        )

    @classmethod
    def _from_config(cls, config: PreTrainedConfig, **kwargs: Any) -> NoReturn:
        """Refuse, naming the Auto classes that build such models."""
        doors = ", ".join(sorted(set(GenextPreTrainedModel._auto_class_of.values())))
        raise ValueError(f"This Auto class builds no model from a {type(config).__name__}. Use one of: {doors}.")


def _refuse_foreign(name: str, registered: type | None, ours: type) -> None:
    """Raise where a name is taken by another package; our own class, imported anew, replaces itself."""
    if registered is not None and registered.__module__.split(".")[0] != ours.__module__.split(".")[0]:
        raise ImportError(
            f"hf_genext cannot register {name!r}: {registered.__module__}.{registered.__qualname__} has taken the name. "
            "Two plugins with one name overwrite each other; import only one of them in a process."
        )


def register() -> None:
    """Register every class of the package with Transformers. Safe to call again.

    Raises:
        ImportError: if another package has taken one of the names.
    """
    for config_class in CONFIGS:
        _refuse_foreign(config_class.model_type, CONFIG_MAPPING._extra_content.get(config_class.model_type), config_class)
    for task, pipeline_class, _ in PIPELINES:
        _refuse_foreign(task, PIPELINE_REGISTRY.supported_tasks.get(task, {}).get("impl"), pipeline_class)

    for config_class in CONFIGS:
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
    for auto_class, config_class, model_class in MODELS:
        auto_class.register(config_class, model_class, exist_ok=True)
    fitting = {auto_class for auto_class, config_class, _ in MODELS if config_class is GenextConfig}
    for auto_class in vars(modeling_auto).values():
        if (
            isinstance(auto_class, type)
            and issubclass(auto_class, _BaseAutoModelClass)
            and auto_class.__name__.startswith("AutoModelFor")
            and auto_class not in fitting
        ):
            auto_class.register(GenextConfig, _WrongDoor, exist_ok=True)
    for config_class, processor_class in PROCESSORS:
        AutoProcessor.register(config_class, processor_class, exist_ok=True)
    for task, pipeline_class, auto_classes in PIPELINES:
        PIPELINE_REGISTRY.supported_tasks.pop(task, None)
        PIPELINE_REGISTRY.register_pipeline(task, pipeline_class, pt_model=auto_classes, type="multimodal")
    register_with_peft(GenextConfig.model_type)
    for publishable in (
        *(config_class for config_class in CONFIGS),
        *(model_class for _, _, model_class in MODELS),
        *(processor_class for _, processor_class in PROCESSORS),
        *(pipeline_class for _, pipeline_class, _ in PIPELINES),
    ):
        carry_along(publishable)


__all__ = ["CONFIGS", "MODELS", "PIPELINES", "PROCESSORS", "TASK", "register"]
