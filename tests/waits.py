"""Record where a computation looks at the values of tensors: there a GPU would be waited for."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers import ROOT

_WAITING_OPERATORS = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "repeat_interleave",
}  # fmt: skip
INDEXING_OPERATORS = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"}
_TO_THE_HOST = {"tolist", "numpy", "__array__", "cpu"}
_FROM_THE_HOST = {"tensor", "new_tensor", "as_tensor", "from_numpy"}
_HERE = Path(__file__).resolve()


class _OperatorRecorder(TorchDispatchMode):
    """Records operators whose result, or its shape, needs values on the host."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _WAITING_OPERATORS or (name in INDEXING_OPERATORS and by_bools(args[1])):
            self.waits[f"{location()}: {name}"] += 1
        return func(*args, **(kwargs or {}))


class _FunctionRecorder(TorchFunctionMode):
    """Records calls that copy values to the host or from it, which no operator shows on the CPU."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in _TO_THE_HOST or name in _FROM_THE_HOST:
            self.waits[f"{location()}: {name}"] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def recorded_waits() -> Iterator[Counter[str]]:
    """What waits inside, by ``file:function: operator`` of the package, and how often.

    ``(torchvision)`` or ``(torch.optim)`` after it: the call stands in their code, called from there.
    """
    waits: Counter[str] = Counter()
    with _FunctionRecorder(waits), _OperatorRecorder(waits):
        yield waits


def by_bools(indices: Any) -> bool:
    """Whether one of these indices is a mask."""
    return any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in indices)


def location() -> str:
    """The innermost function of the package that is being run, and whose code called for it.

    What moves tensors for others (`weaksam.structures.devices`) is passed over.
    """
    frame: FrameType | None = sys._getframe(1)
    through = ""
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if path.startswith(str(ROOT / "weaksam")):
            if not path.endswith("structures/devices.py") and not name.startswith("<"):
                return f"{Path(path).relative_to(ROOT / 'weaksam')}:{name}{through}"
        elif "/torchvision/" in path:
            through = " (torchvision)"
        elif "/torch/optim/" in path and not through:
            through = " (torch.optim)"
        frame = frame.f_back
    return "outside the package"
