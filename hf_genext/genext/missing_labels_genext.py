"""Learning from rows whose class is missing: the class summed out of a generative model of what the classifier reads.

Model M2 of Kingma et al. 2014, "Semi-supervised learning with deep generative models": a classifier q(y|x) beside a conditional
variational autoencoder, p(x|y, z) with a prior p(y) p(z) or p(y) p(z|y). With L(x, y) for the negative evidence bound of
log p(x, y), a row with a class costs L(x, y) (their eq. 6) beside the cross-entropy of the classifier (eq. 9), and one without
it the bound of log p(x), sum over y of q(y|x) L(x, y), minus the entropy of q(y|x) (eq. 7).

Legend: batch, classes, size (numbers of a vector), units (latent numbers of a row), pairs (of a row and a class).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch

from .conditioners_genext import find_missing_rows
from .configuration_generative_genext import GenextGenerativeConfig

if TYPE_CHECKING:
    from .prediction_genext import GenextForPrediction


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
        ValueError: for several vectors of a row, or one with some numbers missing.
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
    present = ~find_missing_rows(vectors)
    if given is not None:
        present = present & given.bool()
    broken = present & ~vectors.isfinite().all(dim=1)
    if broken.any():
        row = int(broken.nonzero()[0, 0])
        raise ValueError(
            f"In row {row} of the batch {int((~vectors[row].isfinite()).sum())} of {vectors.shape[1]} numbers are not finite. "
            "Give whole vectors, or make all of the row NaN where there is none."
        )
    return vectors, present


def compute_generative_losses(
    model: GenextForPrediction,
    config: GenextGenerativeConfig,
    logits: torch.Tensor,
    labels: torch.Tensor,
    vectors: torch.Tensor | None,
    present: torch.Tensor,
    noise: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """The weighted parts of the generative loss of each row, all classes of rows without one in a single pass.

    Args:
        model: The generative half.
        config: Its configuration.
        logits: Of the classifier, (batch, classes).
        labels: (batch,), -100 where the class is missing.
        vectors: What the classifier reads, (batch, size), or `None`.
        present: Which rows have it, (batch,); the others cost nothing.
        noise: Standard normal numbers that decide which latent numbers are drawn, (batch, units + 1), the same for all classes
            of a row, so that these differ by nothing but the class; drawn if left out.

    Returns:
        `reconstruction`, `kl` (of the latent numbers), `label_prior` (the negative log-prior of the class), and `entropy` (the
        negative entropy of the classifier where the class is missing), in nats, each (batch,). They sum to the weighted bound.
    """
    num_rows, num_classes = logits.shape
    labelled, unlabelled = present & (labels != -100), present & (labels == -100)
    names = ("reconstruction", "kl", "label_prior", "entropy")
    losses = {name: logits.new_zeros(num_rows) for name in names}
    if vectors is None or not present.any():
        return losses
    progress = model.encoder.bottleneck.training_progress
    rising = 1.0 if config.warmup == 0 else min(1.0, progress / config.warmup)
    log_probs = logits[unlabelled].log_softmax(dim=-1)
    probs = log_probs.exp()
    rows = torch.cat([labelled.nonzero()[:, 0], unlabelled.nonzero()[:, 0].repeat_interleave(num_classes)])
    every = torch.arange(num_classes, device=logits.device)
    classes = torch.cat([labels[labelled], every.repeat(len(probs))])
    weights = torch.cat(
        [
            logits.new_full((int(labelled.sum()),), rising * config.labelled_weight),
            rising * config.unlabelled_weight * probs.flatten(),
        ]
    )
    if noise is None:
        noise = torch.randn(num_rows, model.encoder.bottleneck.num_noise, device=logits.device)
    reconstruction, kl = _score_pairs(model, vectors[rows], classes, noise[rows])
    if config.label_prior is None:
        log_prior = logits.new_full((num_classes,), -math.log(num_classes))
    else:
        log_prior = logits.new_tensor(config.label_prior).log()
    for name, values in (("reconstruction", -reconstruction), ("kl", kl), ("label_prior", -log_prior[classes])):
        losses[name] = losses[name].index_add(0, rows, weights * values.to(logits.dtype))
    negative_entropy = rising * config.unlabelled_weight * (probs * log_probs).sum(dim=1)
    losses["entropy"] = losses["entropy"].index_add(0, unlabelled.nonzero()[:, 0], negative_entropy)
    return losses


def _score_pairs(
    model: GenextForPrediction, vectors: torch.Tensor, classes: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of pairs of vector and class the log-likelihood given latent numbers of the posterior, and the divergence, (pairs,)."""
    outputs: Any = model.encoder(
        condition_vectors=vectors, condition_labels=classes[:, None], latent_noise=noise, sample_latents=True
    )
    parameters = model.read_head(outputs.last_hidden_state, outputs.memory_mask)
    return model.head.score(parameters, vectors.to(parameters.dtype)), outputs.losses["kl"]


__all__ = ["compute_generative_losses", "find_vectors"]
