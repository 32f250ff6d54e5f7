"""pythae's variational autoencoder, which models of images are compared with: `pip install pythae`.

Legend: rows, pixels, levels (values of a pixel), units (latent numbers), samples.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp
from torch import nn

from recipes.image_baselines import PixelDistribution, score_binned

_LEAST_SHARE = 0.006
"""The least standard deviation of a pixel, as a share of its range, unless another is asked for."""


def is_there() -> bool:
    """Whether pythae is installed."""
    try:
        import pythae  # noqa: F401
    except ImportError:
        return False
    return True


def count_parameters(num_pixels: int, num_units: int, width: int) -> int:
    """The numbers that an autoencoder learns."""
    encoder = num_pixels * width + width + 2 * (width * num_units + num_units)
    return encoder + num_units * width + width + width * num_pixels + num_pixels


def choose_width(num_pixels: int, num_units: int, num_parameters: int) -> int:
    """The width of an autoencoder with about so many parameters.

    Example:
        >>> width = choose_width(64, 16, 91_232)
        >>> width, count_parameters(64, 16, width)
        (512, 91232)
    """
    each = count_parameters(num_pixels, num_units, 1) - count_parameters(num_pixels, num_units, 0)
    return max(1, round((num_parameters - count_parameters(num_pixels, num_units, 0)) / each))


class PythaeAutoencoder(PixelDistribution):
    """A variational autoencoder with a standard normal prior, and one hidden layer of encoder and decoder, as pythae's own.

    Trained by pythae's trainer. Its pixels are scored as whole numbers: normal around the decoder's mean, with the standard
    deviation that each pixel has on the images learned from, or a least one, integrated over the unit interval around each
    level; by the importance-weighted bound. Drawn images are the decoder's means, as pythae gives them.

    Args:
        images: To learn from, (rows, pixels).
        num_levels: Values of a pixel.
        num_units: Latent numbers.
        num_parameters: About how many numbers are learned.
        loss: pythae's reconstruction loss: `"bce"` or `"mse"`.
        num_epochs: Passes over the images.
        num_samples: Of the bound.
        seed: Of the initial weights and of training.
    """

    def __init__(
        self,
        images: np.ndarray,
        num_levels: int,
        num_units: int,
        num_parameters: int,
        *,
        loss: str = "bce",
        num_epochs: int = 200,
        num_samples: int = 100,
        seed: int = 0,
    ) -> None:
        from pythae.data.datasets import BaseDataset
        from pythae.models import VAE, VAEConfig
        from pythae.trainers import BaseTrainer, BaseTrainerConfig

        self.num_levels, self._num_samples, self._num_units = num_levels, num_samples, num_units
        width = choose_width(images.shape[1], num_units, num_parameters)
        self.num_parameters = count_parameters(images.shape[1], num_units, width)
        torch.manual_seed(seed)
        config = VAEConfig(input_dim=(images.shape[1],), latent_dim=num_units, reconstruction_loss=loss)
        encoder, decoder = build_networks(images.shape[1], num_units, width)
        self.model = VAE(config, encoder=encoder, decoder=decoder)
        data = BaseDataset(torch.tensor(images / (num_levels - 1), dtype=torch.float32), torch.zeros(len(images)))
        loggers = {name: logging.getLogger(name).level for name in ("pythae", "pythae.trainers")}
        with tempfile.TemporaryDirectory() as folder:
            settings = BaseTrainerConfig(
                output_dir=folder,
                num_epochs=num_epochs,
                learning_rate=1e-3,
                per_device_train_batch_size=64,
                seed=seed,
                no_cuda=True,
            )
            for name in loggers:
                logging.getLogger(name).setLevel(logging.WARNING)
            BaseTrainer(self.model, data, training_config=settings).train()
        for name, level in loggers.items():
            logging.getLogger(name).setLevel(level)
        self.model.eval()
        means, _ = self._encode(images)
        self._found_scale = np.sqrt(((images - self._decode(means)) ** 2).mean(axis=0))
        self._scale = np.maximum(self._found_scale, _LEAST_SHARE * (num_levels - 1))

    def limit_scale(self, least_scale: float) -> PythaeAutoencoder:
        """The same autoencoder with another least standard deviation of its pixels, in levels."""
        limited = copy.copy(self)
        limited._scale = np.maximum(self._found_scale, least_scale)
        return limited

    @torch.no_grad()
    def _encode(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = self.model.encoder(torch.tensor(images / (self.num_levels - 1), dtype=torch.float32))
        return found.embedding.double().numpy(), found.log_covariance.double().numpy()

    @torch.no_grad()
    def _decode(self, latents: np.ndarray) -> np.ndarray:
        """(rows, units) -> means in levels, (rows, pixels)."""
        drawn = self.model.decoder(torch.tensor(latents, dtype=torch.float32)).reconstruction
        return drawn.flatten(1).double().numpy() * (self.num_levels - 1)

    def log_prob(self, images: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """(rows, pixels) -> (rows,), a bound."""
        means, log_variances = self._encode(images)
        weights = []
        for _ in range(self._num_samples):
            noise = generator.standard_normal(means.shape)
            latents = means + np.exp(0.5 * log_variances) * noise
            ratio = 0.5 * (noise**2 + log_variances - latents**2).sum(axis=1)
            weights.append(ratio + score_binned(images, self._decode(latents), self._scale, self.num_levels))
        return logsumexp(weights, axis=0) - np.log(self._num_samples)

    def sample(self, count: int, generator: np.random.Generator) -> np.ndarray:
        """(count, pixels)."""
        drawn = self._decode(generator.standard_normal((count, self._num_units)))
        return np.clip(np.rint(drawn), 0, self.num_levels - 1)


def build_networks(num_pixels: int, num_units: int, width: int) -> tuple[Any, Any]:
    """Encoder and decoder like pythae's own, of a width of ours."""
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = nn.Sequential(nn.Linear(num_pixels, width), nn.ReLU())
            self.embedding = nn.Linear(width, num_units)
            self.log_var = nn.Linear(width, num_units)

        def forward(self, x: torch.Tensor) -> Any:
            states = self.hidden(x.reshape(len(x), -1))
            return ModelOutput(embedding=self.embedding(states), log_covariance=self.log_var(states))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            layers = (nn.Linear(num_units, width), nn.ReLU(), nn.Linear(width, num_pixels), nn.Sigmoid())
            self.layers = nn.Sequential(*layers)

        def forward(self, z: torch.Tensor) -> Any:
            return ModelOutput(reconstruction=self.layers(z))

    return Encoder(), Decoder()


__all__ = ["PythaeAutoencoder", "choose_width", "count_parameters", "is_there"]
