"""Turn image tags into boxes, masks and trained detectors by prompting a frozen Segment Anything model.

The public names are imported when they are first used, so that ``import weaksam`` itself is cheap; see docs/python.md.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_HOME = {
    "run": ("weaksam.pipeline.door", "run"),
    "propose": ("weaksam.pipeline.door", "propose"),
    "load": ("weaksam.prediction.predictor", "load"),
    "load_dataset": ("weaksam.pipeline.door", "load_dataset"),
    "evaluate": ("weaksam.pipeline.door", "evaluate"),
    "Dataset": ("weaksam.structures.dataset", "Dataset"),
    "Instances": ("weaksam.structures.instances", "Instances"),
    "Prediction": ("weaksam.prediction.result", "Prediction"),
    "Predictor": ("weaksam.prediction.predictor", "Predictor"),
    "RunResult": ("weaksam.pipeline.result", "RunResult"),
    "UserError": ("weaksam.config", "UserError"),
}
"""The module of each public name, and what it is called there."""
__all__ = [
    "Dataset",
    "Instances",
    "Prediction",
    "Predictor",
    "RunResult",
    "UserError",
    "__version__",
    "evaluate",
    "load",
    "load_dataset",
    "propose",
    "run",
]


def __getattr__(name: str) -> Any:
    """A public name, imported now (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'weaksam' has no attribute {name!r}: it offers {', '.join(sorted(_HOME))}")
    module, name_there = _HOME[name]
    globals()[name] = value = getattr(import_module(module), name_there)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
