"""Learning from rows whose class is missing: the class summed out of a generative model of what the classifier reads.

Model M2 of Kingma et al. 2014, "Semi-supervised learning with deep generative models": a classifier q(y|x) beside a conditional
variational autoencoder, p(x|y, z) with a prior p(y) p(z) or p(y) p(z|y). With L(x, y) for the negative evidence bound of
log p(x, y), a row with a class costs L(x, y) (their eq. 6) beside the cross-entropy of the classifier (eq. 9), and one without
it the bound of log p(x), sum over y of q(y|x) L(x, y), minus the entropy of q(y|x) (eq. 7).

Legend: batch, classes, size (numbers of a vector), units (latent numbers of a row), pairs (of a row and a class).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .conditioners_genext import find_missing_rows, require_whole_vectors
from .configuration_generative_genext import GenextGenerativeConfig
from .layers_genext import GenextDropout


def find_vectors(
    vectors: torch.Tensor | None, given: torch.Tensor | None, batch_size: int
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """The vectors that are there to be learned from.

    Args:
        vectors: The condition, (batch, size) or (batch, 1, size); `None` where no row has it.
        given: What a mask of conditions says of it, (batch,).
        batch_size: Rows.

    Returns:
        (batch, size), and which rows have one, (batch,).

    Raises:
        ValueError: for several vectors of a row, or one with some numbers missing or infinite.
    """
    if vectors is None:
        return None, torch.zeros(batch_size, dtype=torch.bool, device=None if given is None else given.device)
    if vectors.dim() == 3:
        if vectors.shape[1] != 1:
            raise ValueError(
                f"A generative half is a model of one vector for each row, got {vectors.shape[1]}. Give them one behind the "
                "other as a single vector."
            )
        vectors = vectors[:, 0]
    require_whole_vectors(vectors, None if given is None else given.bool())
    present = ~find_missing_rows(vectors)
    if given is not None:
        present = present & given.bool()
    return vectors, present


def compute_generative_losses(
    model: Any,
    config: GenextGenerativeConfig,
    logits: torch.Tensor,
    labels: torch.Tensor,
    vectors: torch.Tensor | None,
    present: torch.Tensor,
    noise: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """The weighted parts of the generative loss of each row, all classes of rows without one in a single pass.

    Args:
        model: The generative half, a [`GenextForPrediction`].
        config: Its configuration.
        logits: Of the classifier, (batch, classes).
        labels: (batch,), -100 where the class is missing.
        vectors: What the classifier reads, (batch, size), or `None`.
        present: Which rows have it, (batch,); the others cost nothing.
        noise: Standard normal numbers that decide which latent numbers are drawn, (batch, units + 1), the same for all classes
            of a row, so that these differ by nothing but the class; drawn if left out.

    Returns:
        `reconstruction`, `kl` (of the latent numbers), `label_prior` (the negative log-prior of the class), and `entropy` (the
        negative entropy of a missing class), which sum to the weighted bound; and `agreement`, the divergence of the classifier
        from the probabilities by which the class is summed out, where these are not its own. In nats, each (batch,).
    """
    is_exact = config.label_posterior == "bound"
    names = ("reconstruction", "kl", "label_prior", "entropy", *(("agreement",) if is_exact else ()))
    losses = {name: logits.new_zeros(len(labels)) for name in names}
    if vectors is None or not present.any():
        return losses
    labelled, unlabelled = (present & known for known in (labels != -100, labels == -100))
    num_classes = logits.shape[1]
    classes = torch.arange(num_classes, device=logits.device).repeat(int(unlabelled.sum()))
    classes = torch.cat([labels[labelled], classes])
    places = (labelled.nonzero()[:, 0], unlabelled.nonzero()[:, 0])
    rows = torch.cat([places[0], places[1].repeat_interleave(num_classes)])
    if noise is None:
        noise = torch.randn(len(labels), model.encoder.bottleneck.num_noise, device=logits.device)
    prior = [1.0 / num_classes] * num_classes if config.label_prior is None else config.label_prior
    log_prior = logits.new_tensor(prior).log()
    parts, divergences = _score_pairs(model, log_prior, vectors[rows], classes, noise[rows])
    schedule = plan_generative_losses(config, model.encoder.bottleneck.training_progress)
    log_posterior = log_probs = logits[unlabelled].log_softmax(dim=-1)
    if is_exact:
        # By the divergence itself, whatever weight it has in the loss, and by nothing that chance tells classes apart by.
        missing = slice(len(places[0]), None)
        exact = {name: values[missing] for name, values in (parts | {"kl": divergences}).items()}
        if _drops(model):
            with _without_dropout(model), torch.no_grad():
                given = (vectors[rows[missing]], classes[missing], noise[rows[missing]])
                exact, _ = _score_pairs(model, log_prior, *given)
        bounds = -sum(exact.values()).detach().view(-1, num_classes)
        share = schedule["bound_share"]
        log_posterior = ((1.0 - share) * log_probs.detach() + share * bounds.to(logits.dtype)).log_softmax(dim=-1)
    posterior = log_posterior.exp()
    rising = schedule["generative_weight"]
    weight = rising * config.unlabelled_weight
    weights = torch.cat([logits.new_full((len(places[0]),), rising * config.labelled_weight), weight * posterior.flatten()])
    for name, values in parts.items():
        losses[name] = losses[name].index_add(0, rows, weights * values.to(logits.dtype))
    losses["entropy"] = losses["entropy"].index_add(0, places[1], weight * (posterior * log_posterior).sum(dim=1))
    if is_exact:
        agreement = (posterior * (log_posterior - log_probs)).sum(dim=1)
        losses["agreement"] = losses["agreement"].index_add(0, places[1], weight * agreement)
    return losses


def plan_generative_losses(config: GenextGenerativeConfig, progress: float) -> dict[str, float]:
    """What stands in the loss after a share of the training.

    Returns:
        `generative_weight`, how much of the weights of the generative losses counts; with `label_posterior="bound"` also
        `bound_share`, that of the bounds in the probabilities by which a missing class is summed out, beside the classifier's.
    """
    planned = {"generative_weight": _rise(progress, 0.0, config.warmup)}
    if config.label_posterior == "bound":
        planned["bound_share"] = _rise(progress, *config.posterior_warmup)
    return planned


def _rise(progress: float, begin: float, end: float) -> float:
    """From 0 to 1 between two shares of the training, in a straight line."""
    if progress <= begin or progress >= end:
        return float(progress >= end)
    return (progress - begin) / (end - begin)


def _score_pairs(
    model: Any,
    log_prior: torch.Tensor,
    vectors: torch.Tensor,
    classes: torch.Tensor,
    noise: torch.Tensor,
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The parts of the loss of pairs of a vector and a class, each (pairs,), and the divergence as it is in the bound."""
    outputs = model.encoder(
        condition_vectors=vectors, condition_labels=classes[:, None], latent_noise=noise, sample_latents=True
    )
    parameters = model.read_head(outputs.last_hidden_state, outputs.memory_mask)
    reconstruction = -model.head.score(parameters, vectors.to(parameters.dtype))
    parts = {"reconstruction": reconstruction, "kl": outputs.losses["kl"], "label_prior": -log_prior[classes]}
    return parts, outputs.latents.kl.sum(dim=1)


def _drops(model: nn.Module) -> bool:
    """Whether anything of a model in training is dropped by chance."""
    if not model.training:
        return False
    for part in model.modules():
        config = getattr(part, "config", None)
        shares = [getattr(config, name, 0.0) for name in ("attention_dropout", "condition_dropout", "context_dropout")]
        if any(shares) or (isinstance(part, (GenextDropout, nn.Dropout)) and part.p > 0):
            return True
    return False


@contextlib.contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode, each part of it as it was afterwards."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


__all__ = ["compute_generative_losses", "find_vectors", "plan_generative_losses"]
