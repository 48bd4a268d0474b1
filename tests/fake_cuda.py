"""Run a computation on a GPU that is not there: torch's fake tensors on ``cuda``, each with its values on the CPU."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from tests.fake_backward import backward
from tests.waits import INDEXING_OPERATORS, by_bools, location
from weaksam.store import weights

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
_aten = torch.ops.aten
_WAIT_INSIDE = {"multinomial"}
"""Operators whose shapes do not follow from values, but which check values on the device all the same."""


_OTHER_BUFFERS = {_aten.log_sigmoid_forward.default, _aten.native_batch_norm.default}
"""Operators that keep something else for the way back on a GPU."""


class FakeCuda(FakeTensorMode):
    """Torch's fake tensors, which raise where tensors of two devices meet, with the values that they have on the CPU.

    What follows from values (shapes of selections, numbers that are read) is taken from there, so that whole steps run
    as on a GPU. Plain tensors are tensors of the CPU. ``waits`` counts, by ``file:function: operator`` of the package,
    where a GPU would be waited for: copies to the host, and from memory of the host that is not pinned or not without
    blocking; numbers read; shapes that follow from values.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=False)
        self.waits: Counter[str] = Counter()
        self.pinned: set[int] = set()
        self.generators: dict[int, torch.device] = {}
        self._fakes = WeakTensorKeyDictionary()
        self._nested = False

    def dispatch(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Torch's own answer with its values; the answer follows from the values where torch has none without them."""
        if self._nested:
            return super().dispatch(func, types, args, kwargs or {})
        if func.namespace == "profiler":
            return func(*args, **(kwargs or {}))
        if func.namespace == "prim":  # such as the device of a tensor
            return super().dispatch(func, types, args, kwargs or {})
        args, kwargs = tree_map(self._as_fake, (args, dict(kwargs or {})))
        if _is_meta(args, kwargs):  # without values
            return super().dispatch(func, types, args, kwargs)
        if torch.is_inference_mode_enabled() and _is_composite(func):
            with self:  # outside inference mode it was taken apart before
                return func.decompose(*args, **kwargs)
        args = self._with_indices_moved(func, args)
        leaves = tree_leaves((args, kwargs))
        self._check_generators(func, leaves, kwargs)
        if func is _aten._pin_memory.default:
            return self._pinned(args[0])
        if func is _aten.is_pinned.default:
            return self._is_pinned(args[0])
        fakes: Any = None
        self._nested = True
        try:
            fakes = super().dispatch(func, types, args, kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            if _lies_on_cuda(leaves):
                self._record(func)
        finally:
            self._nested = False
        self._record_copies(func, args, kwargs)
        values = func(*tree_map(_values_of, args), **_on_cpu(kwargs))
        if fakes is None:  # which devices may meet is torch's rule here, too
            device, _ = FakeTensor._find_common_device(func, leaves)
            return tree_map(lambda value: self._new_fake(value, device) if isinstance(value, Tensor) else value, values)
        for fake, value in zip(tree_leaves(fakes), tree_leaves(values), strict=True):
            if isinstance(fake, FakeTensor):
                assert fake.shape == value.shape or func in _OTHER_BUFFERS, (func, fake.shape, value.shape)
                fake.values_of_fake = value
        return fakes

    def _as_fake(self, value: Any) -> Any:
        """A plain tensor as a fake one on the CPU that shares its values; anything else as it is."""
        if not isinstance(value, Tensor) or isinstance(value, FakeTensor):
            return value
        fake = self._fakes.get(value)
        if fake is None or fake.shape != value.shape:
            fake = self._fakes[value] = self._new_fake(value.detach(), CPU)
        return fake

    def _new_fake(self, values: Tensor, device: torch.device) -> FakeTensor:
        meta = torch.empty_strided(values.shape, values.stride(), dtype=values.dtype, device="meta")
        fake = FakeTensor(self, meta, device)
        fake.values_of_fake = values
        return fake

    def _with_indices_moved(self, func: Any, args: Sequence[Any]) -> Sequence[Any]:
        """Indices of the CPU into a tensor of a GPU, which torch copies there itself, and that waits."""
        if func.overloadpacket.__name__ not in INDEXING_OPERATORS or not _lies_on_cuda(args[0]):
            return args

        def moved(index: Any) -> Any:
            if not isinstance(index, FakeTensor) or index.device.type == "cuda":
                return index
            self.waits[f"{location()}: index from the host"] += 1
            return self._new_fake(index.values_of_fake, CUDA)

        return (args[0], [moved(index) for index in args[1]], *args[2:])

    def _pinned(self, tensor: FakeTensor) -> FakeTensor:
        assert tensor.device.type == "cpu", "cannot pin memory of a GPU"
        copy = tensor.values_of_fake.clone()
        self.pinned.add(_storage(copy))
        self._keep = getattr(self, "_keep", [])
        self._keep.append(copy)  # so that no other storage has its address
        return self._new_fake(copy, CPU)

    def _is_pinned(self, tensor: FakeTensor) -> bool:
        return _storage(tensor.values_of_fake) in self.pinned

    def _check_generators(self, func: Any, leaves: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A generator makes numbers on its own device alone, which torch's fake tensors do not check."""
        for leaf in leaves:
            if isinstance(leaf, torch.Generator):
                tensors = [tensor.device for tensor in leaves if isinstance(tensor, Tensor)]
                device = torch.device(kwargs.get("device") or (tensors[0] if tensors else CPU))
                made_for = self.generators.get(leaf._cdata, CPU)
                if device.type != made_for.type:
                    raise RuntimeError(f"{func}: wanted a generator of {device}, found one of {made_for}")

    def _record(self, func: Any) -> None:
        self.waits[f"{location()}: {func.overloadpacket.__name__}"] += 1

    def _record_copies(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Count what waits although its shapes follow from no values."""
        name = func.overloadpacket.__name__
        if name in ("_to_copy", "copy_"):
            source = args[0] if name == "_to_copy" else args[1]
            target = kwargs.get("device") or source.device if name == "_to_copy" else args[0].device
            without_blocking = kwargs.get("non_blocking", args[2] if name == "copy_" and len(args) > 2 else False)
            if torch.device(target).type == source.device.type:
                return
            if source.device.type == "cuda":
                self.waits[f"{location()}: to the host"] += 1
            elif not (without_blocking and self._is_pinned(source)):
                self.waits[f"{location()}: from the host"] += 1
        elif (name in _WAIT_INSIDE and _lies_on_cuda(args)) or (
            "index_put" in name and _lies_on_cuda(args[0]) and _waits_for_masks(args)
        ):
            self._record(func)


def _is_composite(func: Any) -> bool:
    """Whether torch takes this operator apart into others on every device."""
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _is_meta(args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether what is made or computed has no values on any device."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"]).type == "meta"
    return any(isinstance(leaf, Tensor) and leaf.device.type == "meta" for leaf in tree_leaves((args, kwargs)))


def _waits_for_masks(args: Sequence[Any]) -> bool:
    """Whether ``index_put_`` of these arguments wants shapes from masks; one that is a ``masked_fill`` does not."""
    indices, values = args[1], args[2]
    accumulates = len(args) > 3 and args[3]
    fills = not accumulates and values.numel() == 1 and sum(isinstance(index, Tensor) for index in indices) == 1
    return by_bools(indices) and not fills


def _storage(values: Tensor) -> int:
    return values.untyped_storage().data_ptr()


def _lies_on_cuda(leaves: Any) -> bool:
    return any(isinstance(leaf, Tensor) and leaf.device.type == "cuda" for leaf in tree_leaves(leaves))


def _values_of(leaf: Any) -> Any:
    if isinstance(leaf, FakeTensor):
        if leaf.device.type == "meta":
            return torch.empty_strided(leaf.shape, leaf.stride(), dtype=leaf.dtype, device="meta")
        return leaf.values_of_fake
    return CPU if isinstance(leaf, torch.device) else leaf


def _on_cpu(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the same call on the CPU."""
    named = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    if named.get("device") is not None:
        named["device"] = CPU
    return tree_map(_values_of, named)


# What torch does outside its dispatcher


def _host_values(tensor: Tensor) -> Tensor:
    """The values of a fake tensor of the CPU; a `TypeError` for one of a GPU, as torch has it."""
    if tensor.device.type != "cpu":
        raise TypeError(f"can't convert {tensor.device} device type tensor to numpy. Use Tensor.cpu() first.")
    return tensor.values_of_fake


def on_the_host(tensor: Tensor) -> Tensor:
    """The values of a tensor, fake or not, as a plain one of the CPU; nothing is recorded."""
    with unset_fake_temporarily():
        return tensor.values_of_fake.clone() if isinstance(tensor, FakeTensor) else tensor.detach().clone()


def _numpy(tensor: Tensor, *, force: bool = False) -> np.ndarray:
    if tensor.requires_grad and not force:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad. Use tensor.detach().numpy() instead.")
    values = _host_values(tensor.cpu() if force else tensor)
    with no_dispatch():
        return values.numpy()


def _array(tensor: Tensor, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return np.asarray(_numpy(tensor), dtype=dtype)


def _deepcopy(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    copy = tensor.detach().clone()
    copy = nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy
    memo[id(tensor)] = copy
    return copy


def _apply(module: nn.Module, fn: Any, recurse: bool = True) -> nn.Module:
    """``Module._apply`` that takes new parameters, as torch cannot exchange the content of fake ones."""
    for child in module.children() if recurse else ():
        child._apply(fn)
    with torch.no_grad():
        for name, parameter in module._parameters.items():
            if parameter is not None and (applied := fn(parameter)) is not parameter:
                module._parameters[name] = nn.Parameter(applied, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fn(buffer)
    return module


def _outside(function: Any) -> Any:
    """A function that makes tensors beside torch's dispatcher: it gives plain ones, of the CPU."""

    def called(*arguments: Any) -> Any:
        with unset_fake_temporarily():
            return function(*arguments)

    return called


def _forget() -> None:
    """Empty the caches of the package's functions, so that no fake tensor outlives its mode, and none is met in it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("weaksam"):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()


@contextlib.contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Inside, ``cuda`` is a device whose tensors are fake; yields the mode, which counts what a GPU is waited for."""
    mode = FakeCuda()

    def tolist(tensor: Tensor) -> Any:
        if tensor.device.type == "cuda":
            mode.waits[f"{location()}: tolist"] += 1
        with no_dispatch():
            return tensor.values_of_fake.tolist()

    def generator(device: Any = "cpu") -> torch.Generator:
        made = torch.Generator()
        mode.generators[made._cdata] = torch.device(device)
        kept.append(made)  # so that no other one has its address
        return made

    kept: list[torch.Generator] = []
    patches = [
        mock.patch.object(FakeTensor, "numpy", _numpy, create=True),
        mock.patch.object(FakeTensor, "__array__", _array, create=True),
        mock.patch.object(FakeTensor, "__deepcopy__", _deepcopy, create=True),
        mock.patch.object(FakeTensor, "tolist", tolist),
        mock.patch.object(Tensor, "backward", backward),
        mock.patch.object(nn.Module, "_apply", _apply),
        mock.patch.object(torch.cuda, "device", lambda device: contextlib.nullcontext()),
        mock.patch.object(torch.cuda, "is_bf16_supported", lambda: True),
        mock.patch.object(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
        mock.patch("weaksam.models.photo_draws.Generator", generator),
        mock.patch("weaksam.store.weights._read_safetensors", _outside(weights._read_safetensors)),
    ]
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", ".*create_unbacked_symint.*")
        # Kernels that exist on a GPU alone have no values on the CPU
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.callback(_forget)
        _forget()
        stack.enter_context(mode)
        yield mode
