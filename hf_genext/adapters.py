"""Low-rank adapters (Hu et al. 2022) for compositions: what they adapt, and what is trained and saved along with them."""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from peft import LoraConfig

_MAPPING_MODULE = "peft.utils.constants"


def build_lora_config(model: PreTrainedModel, **fields: Any) -> LoraConfig:
    """The configuration of a low-rank adapter that fits a composition.

    Adapted are the linear layers of the pretrained parts, or of native ones, that are not frozen, and neither shared nor the
    head. What is fresh in a composition is trained whole, and saved with the adapter: bottleneck, projections, conditioners
    without a model, null states, and cross-attention that a language model did not have before.

    Args:
        model: A [`GenextForConditionalGeneration`] or [`GenextForPrediction`].
        fields: Fields of PEFT's `LoraConfig`, such as `r`, which go before what is found.

    Returns:
        The configuration, for `peft.get_peft_model`.

    Raises:
        ValueError: if everything is frozen or fresh, so that nothing is left to adapt.

    Example:
        >>> import peft
        >>> from transformers import BertConfig, LlamaConfig
        >>> from hf_genext import GenextForConditionalGeneration, build_lora_config
        >>> small = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> model = GenextForConditionalGeneration.from_encoder_decoder_pretrained(
        ...     encoder=BertConfig(**small),
        ...     decoder=LlamaConfig(**small, intermediate_size=16),
        ...     num_latents=2,
        ...     freeze_encoder=True,
        ... )
        >>> config = build_lora_config(model, r=4)
        >>> sorted(config.modules_to_save)
        ['encoder.bottleneck']
        >>> all("decoder.language_model" in name for name in config.target_modules)
        True
    """
    from peft import LoraConfig

    fresh = find_fresh_modules(model)
    targets = find_adaptable_modules(model, fresh)
    if not targets and model.config.has_native_decoder:
        # The pretrained part has no linear layers that are trained, so the native ones are what there is to adapt.
        fresh, targets = [], find_adaptable_modules(model)
    if not targets and "target_modules" not in fields:
        raise ValueError(
            "There is nothing to adapt: every pretrained linear layer is frozen. Build the model without freeze_encoder=True, "
            "or train it without an adapter."
        )
    # Of a model with a single output PEFT's own classes would want to generate.
    task_type = "SEQ_2_SEQ_LM" if model.can_generate() else None
    return LoraConfig(**{"task_type": task_type, "target_modules": targets, "modules_to_save": fresh or None, **fields})


def find_fresh_modules(model: PreTrainedModel) -> list[str]:
    """Names of the modules that pretraining has not seen, each the largest that can be saved as one."""
    has_pretrained = any(hasattr(module, "language_model") or hasattr(module, "is_frozen") for module in model.modules())
    if not has_pretrained:
        return []
    inside = {id(module) for part in _find_pretrained(model) for module in part.modules()}
    fresh: list[str] = []
    for name, module in model.named_modules():
        style = getattr(model.get_decoder(), "style", None)
        is_new_attention = style == "cross_attention" and name.rsplit(".", 1)[-1] in ("crossattention", "ln_cross_attn")
        if not name or any(name.startswith(f"{known}.") for known in fresh) or not any(True for _ in module.parameters()):
            continue
        holds_pretrained = any(id(below) in inside for below in module.modules())
        is_container = isinstance(module, (nn.ModuleList, nn.ModuleDict))
        if is_new_attention or (not holds_pretrained and not is_container and id(module) not in inside):
            fresh.append(name)
    return fresh


def find_adaptable_modules(model: PreTrainedModel, fresh: Sequence[str] = ()) -> list[str]:
    """Names of the linear layers that an adapter can add to: trained, not fresh, not shared, not the head."""
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
        and module is not head
        and module.weight.requires_grad
        and uses[id(module.weight)] == 1
        and not any(name == known or name.startswith(f"{known}.") for known in fresh)
    ]


def _find_pretrained(model: PreTrainedModel) -> list[nn.Module]:
    parts = [module.model for module in model.modules() if hasattr(module, "is_frozen")]
    parts += [module.language_model for module in model.modules() if hasattr(module, "language_model")]
    return parts


class _WhenImported(importlib.abc.MetaPathFinder):
    """Calls a function with a module as soon as that is imported, and is then gone."""

    def __init__(self, name: str, function: Callable[[ModuleType], None]) -> None:
        self.name, self.function = name, function

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The module's own specification, whose loader then calls the function."""
        if fullname != self.name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute, function = spec.loader.exec_module, self.function

        def execute_and_call(module: ModuleType) -> None:
            execute(module)
            function(module)

        spec.loader.exec_module = execute_and_call  # type: ignore[method-assign]
        return spec


def register_with_peft(model_type: str) -> None:
    """Have PEFT adapt all linear layers of a model type where no target is named, now or when it is imported."""

    def add(constants: ModuleType) -> None:
        constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.setdefault(model_type, "all-linear")

    if _MAPPING_MODULE in sys.modules:
        add(sys.modules[_MAPPING_MODULE])
    elif not any(isinstance(finder, _WhenImported) for finder in sys.meta_path):
        sys.meta_path.insert(0, _WhenImported(_MAPPING_MODULE, add))


__all__ = ["build_lora_config", "find_adaptable_modules", "find_fresh_modules", "register_with_peft"]
