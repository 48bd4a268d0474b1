"""weaksam: image tags in; boxes, masks and trained detectors out, by prompting a frozen Segment Anything model.

The public names are imported when they are first used, so that ``import weaksam`` itself is cheap; see docs/python.md.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_HOME = {
    "run": "weaksam.pipeline.door",
    "propose": "weaksam.pipeline.door",
    "evaluate": "weaksam.pipeline.door",
    "load_dataset": "weaksam.pipeline.door",
    "Dataset": "weaksam.structures.dataset",
    "Instances": "weaksam.structures.instances",
    "UserError": "weaksam.config",
}
"""The module that holds each public name."""
__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    """A public name, imported now (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'weaksam' has no attribute {name!r}: it offers {', '.join(_HOME)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
