"""Muon for the matrices inside the network, AdamW for everything else, as one optimizer.

Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest orthogonal matrix, found by a few Newton-Schulz
steps; the steps' coefficients are those of Polar Express (Amsel et al. 2025). Matrices of one shape are orthogonalised in one
batch, and a matrix that fuses several (queries, keys and values) is taken apart first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw
from transformers.pytorch_utils import Conv1D

from hf_genext.genext.heads_genext import PredictionHead
from hf_genext.genext.quantized_genext import CodePrior

_POLAR_EXPRESS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)


def orthogonalize(matrices: torch.Tensor, num_steps: int = 4) -> torch.Tensor:
    """The orthogonal factor of each matrix, roughly: singular values go to about 1, singular vectors stay.

    Args:
        matrices: (count, rows, columns) with rows >= columns, in the dtype to compute in.
        num_steps: Newton-Schulz steps, 1 to 5.

    Returns:
        (count, rows, columns).
    """
    norms = matrices.float().norm(dim=(1, 2), keepdim=True)
    result = matrices / (1.01 * norms + 1e-7).to(matrices.dtype)
    for linear, cubic, quintic in _POLAR_EXPRESS[:num_steps]:
        gram = torch.bmm(result.mT, result)
        polynomial = torch.baddbmm(gram, gram, gram, beta=cubic, alpha=quintic)
        result = torch.baddbmm(result, result, polynomial, beta=linear)
    return result


class Muon(Optimizer):
    """Muon and AdamW by parameter group.

    A group with `num_blocks` is trained by Muon: its parameters are matrices that stack so many independent ones, of shape
    (outputs, inputs), or (inputs, outputs) where the group says `is_transposed`. Any other group is trained by AdamW.
    Learning-rate schedulers see one optimizer with groups.

    Args:
        params: Parameter groups.
        lr: Learning rate of groups that name none.
        momentum: Muon's momentum (Nesterov).
        betas: AdamW's.
        eps: AdamW's.
        weight_decay: Decoupled weight decay of groups that name none.
        num_steps: Newton-Schulz steps.
        dtype: What the Newton-Schulz steps are computed in; bfloat16 where the device has fast units for it.
    """

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        lr: float = 1e-3,
        *,
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.98),
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        num_steps: int = 4,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not 1 <= num_steps <= len(_POLAR_EXPRESS):
            raise ValueError(f"num_steps must be 1 to {len(_POLAR_EXPRESS)}, got {num_steps}.")
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "num_blocks": 0,
                "is_transposed": False,
            },
        )
        self._num_steps = num_steps
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step_muon([group for group in self.param_groups if group["num_blocks"]])
        for group in self.param_groups:
            if not group["num_blocks"]:
                self._step_adamw(group)
        return loss

    def _step_muon(self, groups: list[dict[str, Any]]) -> None:
        by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, dict[str, Any], torch.Tensor]]] = {}
        for group in groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            for parameter in parameters:
                if "momentum_buffer" not in self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            gradients = [parameter.grad for parameter in parameters]
            buffers = [self.state[parameter]["momentum_buffer"] for parameter in parameters]
            torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, buffers, group["momentum"])
            for parameter, update in zip(parameters, updates, strict=True):
                blocks = _take_apart(update, group)
                blocks = blocks if blocks.shape[1] >= blocks.shape[2] else blocks.mT
                by_shape.setdefault(tuple(blocks.shape[1:]), []).append((parameter, group, blocks))
        for entries in by_shape.values():
            stacked = torch.cat([blocks for _, _, blocks in entries]).to(self._dtype)
            pieces = orthogonalize(stacked, self._num_steps).split([len(blocks) for _, _, blocks in entries])
            for (parameter, group, _), piece in zip(entries, pieces, strict=True):
                blocks = _take_apart(parameter, group)
                rows, columns = blocks.shape[1:]
                update = piece if rows >= columns else piece.mT
                if group["weight_decay"]:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                # The root makes a unit change of the input change the output by the rate, whatever the shape.
                blocks.add_(update.to(parameter.dtype), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def _step_adamw(self, group: dict[str, Any]) -> None:
        parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
        if not parameters:
            return
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=all(parameter.device.type in ("cpu", "cuda") for parameter in parameters),
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _take_apart(matrix: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """A view of the independent matrices of one, (blocks, outputs, inputs)."""
    if group.get("is_transposed"):  # Checkpoints of earlier versions do not say it.
        return matrix.unflatten(1, (group["num_blocks"], -1)).permute(1, 2, 0)
    return matrix.unflatten(0, (group["num_blocks"], -1))


def build_muon_groups(
    model: nn.Module, *, learning_rate: float, muon_learning_rate: float, weight_decay: float
) -> list[dict[str, Any]]:
    """Sort a model's trainable parameters: weights of linear layers inside the network to Muon, the rest to AdamW.

    Embeddings, the layer that gives logits or numbers, norms and biases stay with AdamW. A linear layer that stacks several
    matrices says so by an attribute `num_blocks`; GPT-2's `Conv1D`, which holds its matrix transposed, by the name `c_attn`.

    Args:
        model: The model.
        learning_rate: AdamW's.
        muon_learning_rate: Muon's: about the share of a weight matrix's spectral norm that one step changes.
        weight_decay: For matrices under Muon and for embeddings; norms and biases have none.

    Returns:
        Parameter groups for [`Muon`].
    """
    heads = [module.projection for module in model.modules() if isinstance(module, (PredictionHead, CodePrior))]
    heads += [model.get_output_embeddings()] if hasattr(model, "get_output_embeddings") else []
    by_kind: dict[tuple[int, bool], list[nn.Parameter]] = {}
    taken: set[int] = set()
    for name, module in model.named_modules():
        is_inner = isinstance(module, (nn.Linear, Conv1D)) and all(module is not head for head in heads)
        if not is_inner or not module.weight.requires_grad:
            continue
        is_transposed = isinstance(module, Conv1D)
        stacked = module.nf // module.nx if is_transposed and name.endswith("c_attn") else 1
        by_kind.setdefault((getattr(module, "num_blocks", stacked), is_transposed), []).append(module.weight)
        taken.add(id(module.weight))
    rest = [parameter for parameter in model.parameters() if parameter.requires_grad and id(parameter) not in taken]
    groups: list[dict[str, Any]] = [
        {
            "params": weights,
            "num_blocks": blocks,
            "is_transposed": is_transposed,
            "lr": muon_learning_rate,
            "weight_decay": weight_decay,
        }
        for (blocks, is_transposed), weights in sorted(by_kind.items())
    ]
    for is_matrix in (True, False):
        chosen = [parameter for parameter in rest if (parameter.dim() > 1) == is_matrix]
        if chosen:
            groups.append({"params": chosen, "lr": learning_rate, "weight_decay": weight_decay if is_matrix else 0.0})
    return groups


def build_muon(model: nn.Module, args: Any, dtype: torch.dtype) -> Muon:
    """The optimizer that the arguments of a training ask for.

    Args:
        model: What is trained.
        args: [`hf_genext.training_arguments.GenextTrainingArguments`] with a `muon_learning_rate`.
        dtype: What [`Muon`] computes in.
    """
    groups = build_muon_groups(
        model,
        learning_rate=args.learning_rate,
        muon_learning_rate=args.muon_learning_rate,
        weight_decay=args.weight_decay,
    )
    return Muon(groups, betas=(args.adam_beta1, args.adam_beta2), eps=args.adam_epsilon, dtype=dtype)


def build_rate_groups(
    model: nn.Module,
    fresh: Iterable[nn.Module],
    *,
    learning_rate: float,
    pretrained_learning_rate: float,
    weight_decay: float,
    decayed: Iterable[str],
) -> list[dict[str, Any]]:
    """Sort a model's trainable parameters by whether they are fresh, and whether they decay.

    Args:
        model: The model.
        fresh: The modules that pretraining has not seen.
        learning_rate: Rate of the fresh parameters.
        pretrained_learning_rate: Rate of the others, of adapters of pretrained layers too.
        weight_decay: For parameters that decay.
        decayed: Their names.

    Returns:
        Parameter groups for an optimizer.

    Raises:
        ValueError: if all that is trained is fresh, or nothing is, so that one of the rates would say nothing.
    """
    new, decays = {id(parameter) for module in fresh for parameter in module.parameters()}, set(decayed)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if {id(parameter) in new for _, parameter in named} != {True, False}:
        raise ValueError(
            "pretrained_learning_rate is given, but no pretrained part is trained beside a fresh one: the others are "
            "frozen, or there are none. Leave it out, and give learning_rate alone."
        )
    groups = [
        {
            "params": [p for name, p in named if (id(p) in new) == is_new and (name in decays) == is_decayed],
            "lr": learning_rate if is_new else pretrained_learning_rate,
            "weight_decay": weight_decay if is_decayed else 0.0,
        }
        for is_new in (True, False)
        for is_decayed in (True, False)
    ]
    return [group for group in groups if group["params"]]


__all__ = ["Muon", "build_muon", "build_muon_groups", "build_rate_groups", "orthogonalize"]
