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


SPREAD = ("test_composition_matrix.py", "test_contracts.py")
"""Files of many tests that share nothing; those of each other file stay in one process, as they share what they build."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Say what stays together where the tests run in several processes (`--dist loadgroup`)."""
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            if item.path.name not in SPREAD:
                item.add_marker(pytest.mark.xdist_group(str(item.path)))


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
