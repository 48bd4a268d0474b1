"""Import the scripts of ``tools/`` in tests."""

import importlib
import sys
from types import ModuleType

from tests.helpers import ROOT


def tool(name: str) -> ModuleType:
    """A script of ``tools/`` as a module, in every process that tests start."""
    folder = str(ROOT / "tools")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)
