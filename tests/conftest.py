"""Nothing in the tests needs the network, and progress bars stay out of the logs."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# Tests run side by side: threads that wait shall not keep a processor busy.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import datasets
import pytest
import torch
import transformers

transformers.utils.logging.disable_progress_bar()
datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def _seed() -> None:
    transformers.set_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _threads() -> None:
    # Small tensors: more threads only wait for each other.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def debian_wordnet() -> None:
    """WordNet from Debian's package, which is fetched once; where it cannot be, what needs it is skipped."""
    from recipes.wordnet import bring_wordnet

    try:
        bring_wordnet()
    except (OSError, RuntimeError) as error:
        pytest.skip(f"needs Debian's wordnet-base: {error}")
