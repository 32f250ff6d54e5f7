"""The base class of every model of the conditional family: initialisation, capabilities, and safe opening of folders."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from .configuration_genext import GenextConfig
from .layers_genext import GenextResidualLinear

_HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class GenextPreTrainedModel(PreTrainedModel):
    """Base class: declares what the native blocks support and refuses folders that hold another kind of model."""

    config_class = GenextConfig
    base_model_prefix = "genext"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GenextEncoderLayer", "GenextDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _keep_in_fp32_modules_strict = {"codebook"}

    _auto_class_of: ClassVar[dict[str, str]] = {
        "GenextModel": "AutoModel",
        "GenextForConditionalGeneration": "AutoModelForSeq2SeqLM",
        "GenextForPrediction": "AutoModelForSequenceClassification",
    }
    """Which Auto class opens a folder that holds the architecture."""

    _opens_folders_of: ClassVar[tuple[str, ...]] = ()
    """Architectures, besides the class itself, whose folders hold all that the class needs."""

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        """Models with experts may stand inside; they check their own choice."""
        return True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # Configurations of other families have another name for it, or their own rules; Transformers knows them.
        is_given = getattr(self.config, "initializer_range", 0.02) is not None
        if is_given or isinstance(self.config, GenextConfig):
            super()._init_weights(module)
        elif isinstance(module, GenextResidualLinear):
            init.zeros_(module.weight)
        elif isinstance(module, nn.Linear):
            init.normal_(module.weight, std=0.6 * module.in_features**-0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=getattr(self.config, "embedding_initializer_range", None) or 0.5)
        else:
            super()._init_weights(module)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *model_args: Any, **kwargs: Any
    ) -> Self:
        """Open a folder or a Hub repository as Transformers does, but never with a part left random.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            model_args: As in Transformers.
            kwargs: As in Transformers.

        Returns:
            The model in evaluation mode; with `output_loading_info=True` also what was read.

        Raises:
            ValueError: if the folder holds another kind of model (the error names the class that opens it), lacks weights, or
                holds a file of them that is damaged.
        """
        wants_loading_info = kwargs.pop("output_loading_info", False)
        config = kwargs.get("config")
        if isinstance(config, PreTrainedConfig) or pretrained_model_name_or_path is None:
            architectures = getattr(config, "architectures", None)
        else:
            hub_kwargs = {name: kwargs[name] for name in _HUB_KWARGS if name in kwargs}
            architectures = cls.config_class.get_config_dict(pretrained_model_name_or_path, **hub_kwargs)[0].get(
                "architectures"
            )
        saved_as = (architectures or [cls.__name__])[0]
        if saved_as != cls.__name__ and saved_as not in cls._opens_folders_of:
            opener = cls._auto_class_of.get(saved_as, saved_as)
            raise ValueError(
                f"{str(pretrained_model_name_or_path)!r} holds a {saved_as}, not a {cls.__name__}. Open it with "
                f"{opener}.from_pretrained({str(pretrained_model_name_or_path)!r})."
            )
        try:
            model, loading_info = super().from_pretrained(
                pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
            )
        except SafetensorError as error:
            raise ValueError(
                f"The weights in {str(pretrained_model_name_or_path)!r} are damaged, or half of them were written: {error}. "
                "Save or download the model again; of a training that was stopped take a checkpoint."
            ) from error
        if missing := sorted(loading_info["missing_keys"]):
            raise ValueError(
                f"{str(pretrained_model_name_or_path)!r} lacks {len(missing)} of the weights of {cls.__name__}, such as "
                f"{missing[0]!r}; they would be random. The folder is incomplete, or its config.json belongs to "
                "another model: save the model again with save_pretrained."
            )
        for module in model.modules():
            # Opened weights are all trainable at first.
            if hasattr(module, "freeze_as_configured"):
                module.freeze_as_configured()
        opened: Any = (model, loading_info) if wants_loading_info else model
        return opened

    def load_adapter(self, peft_model_id: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """Put an adapter into the model as Transformers does, but never one that was made for another.

        Args:
            peft_model_id: Folder or Hub id of the adapter.
            args: As in Transformers.
            kwargs: As in Transformers.

        Returns:
            What was read.

        Raises:
            ValueError: if the adapter does not fit.
        """
        try:
            info = super().load_adapter(peft_model_id, *args, **kwargs)
        except (RuntimeError, ValueError) as error:
            raise ValueError(self._explain_adapter(peft_model_id, str(error))) from error
        for names, where in ((info.missing_keys, "the adapter lacks"), (info.unexpected_keys, "the model lacks")):
            if names:
                raise ValueError(self._explain_adapter(peft_model_id, f"{where} {min(names)!r} and {len(names) - 1} more."))
        return info

    def _explain_adapter(self, name: Any, cause: str) -> str:
        return (
            f"The adapter {str(name)!r} cannot be put into this {type(self).__name__}: {cause} If it was made for another "
            "base, give that folder as base_model_name_or_path in its adapter_config.json, or train an adapter for this one."
        )


__all__ = ["GenextPreTrainedModel"]
