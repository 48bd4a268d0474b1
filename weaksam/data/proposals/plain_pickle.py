"""Read a pickle that holds numpy arrays and plain containers, without letting it run anything.

A pickle is a program: it may call any function that the reader can import. Here it may name the five functions
and types with which numpy writes arrays (module names of numpy 1 and 2) and the two for bytes in older protocols, and
even those are answered by stand-ins of this file, which check what they are given and build arrays of numbers from
bytes. Every other name is refused before anything is imported.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weaksam.config import UserError

_NUMBERS = re.compile(r"[<>=|]?([biufO])([1248]?|16)")
"""Types of numbers (and ``O``, whose content is plain itself) by numpy's short names."""
_MAX_DEPTH = 8


def read_plain_pickle(path: Path, wanted: str) -> Any:
    """The numbers, texts, lists, tuples, dictionaries and numeric arrays pickled in ``path``, by Python 2 or 3.

    Object arrays become lists. ``wanted`` names what the caller looks for in the error. Raises `UserError` where the
    file is missing, cut short, no pickle, or names anything but numpy's arrays; that name is in the message.
    """
    if not path.is_file():
        raise UserError(f"wanted {wanted} at {path}, found nothing there: check the path")
    with path.open("rb") as file:
        head = file.read(256)
        file.seek(0)
        if re.match(rb"\s*<(!doctype|html|\?xml|head|body)", head, re.IGNORECASE):
            raise UserError(f"wanted {wanted} at {path}, found a web page: download the file again")
        reader = _PlainUnpickler(file, encoding="latin1")  # Python 2 wrote bytes as text of this code
        try:
            return _plain(reader.load(), {}, 0)
        except _Refused as error:
            raise UserError(
                f"wanted {wanted} of numpy arrays and plain containers at {path}, found {error}: "
                "nothing of it was run; write the file again with arrays, lists and dictionaries only"
            ) from None
        except MemoryError:
            raise UserError(f"wanted {wanted} at {path}, found more than fits into memory: split the file") from None
        except Exception as error:  # a program that is no pickle fails in every possible way
            reason = (str(error).splitlines() or [type(error).__name__])[0][:120] or type(error).__name__
            raise UserError(
                f"wanted {wanted} at {path}, found a file that is cut short or no pickle ({reason}): fetch it again"
            ) from None


class _Refused(ValueError):
    """Something in a pickle that is neither a plain value nor an array of numbers; the message names it."""


class _PlainUnpickler(pickle._Unpickler):  # its twin in C makes room for any number that a file claims to need
    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of one of numpy's names; nothing is ever imported."""
        try:
            return _STAND_INS[f"{module.replace('numpy._core.', 'numpy.core.')}.{name}"]
        except KeyError:
            raise _Refused(f"the global {module}.{name}, which could run code") from None

    def persistent_load(self, pid: Any) -> Any:
        """References to other files are refused."""
        raise _Refused("a reference to another file")


class _StandIn:
    """A callable that pickled instructions can call but not change."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("an instruction that changes a function")


class _Type:
    """What stands for ``numpy.dtype``: a type of numbers, or ``O``."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        if not isinstance(text, str) or not _NUMBERS.fullmatch(text):
            raise _Refused(f"an array of type {str(text)[:40]!r}, which does not hold numbers")
        self.text = text

    def __setstate__(self, state: tuple) -> None:
        """Take numpy's ``(version, byte order, subtype, names, fields, size, alignment, flags[, metadata])``."""
        order, inside = state[1], state[2:5]
        if order not in ("<", ">", "=", "|") or inside != (None, None, None) or any(state[8:]):
            raise _Refused("an array of a composed type, which does not hold numbers")
        self.text = order + self.text.lstrip("<>=|")

    def dtype(self) -> np.dtype:
        """The numpy type; asserts that it holds numbers."""
        if "O" in self.text:
            raise _Refused("an array of objects in the form of bytes")
        return np.dtype(self.text)


class _Array:
    """What stands for an array while it is read; ``value`` is the array, or the list of an object array."""

    __slots__ = ("value",)

    def __init__(self, value: Any = None) -> None:
        self.value = value

    def __setstate__(self, state: tuple) -> None:
        """Take numpy's ``(version, shape, type, in Fortran's order, content)``."""
        shape, kind, fortran, content = state[-4:]
        if isinstance(content, list):
            if not isinstance(kind, _Type) or "O" not in kind.text:
                raise _Refused("an array of numbers in the form of a list")
            self.value = content
        else:
            self.value = _array(content, kind, shape, "F" if fortran else "C")


def _array(content: Any, kind: Any, shape: Any, order: str) -> np.ndarray:
    """The array of ``shape`` that raw bytes hold (text, where Python 2 wrote them)."""
    raw = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(kind, _Type) or not isinstance(raw, (bytes, bytearray)) or not _is_shape(shape):
        raise _Refused("an array that numpy did not write")
    flat = np.frombuffer(raw, dtype=kind.dtype()) if raw else np.empty(0, kind.dtype())
    if len(flat) != math.prod(shape):
        raise _Refused(f"an array of {len(flat)} numbers that claims the shape {tuple(shape)}")
    return flat.reshape(shape, order="F" if order == "F" else "C").copy()


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, (tuple, list)) and len(shape) <= 32 and all(isinstance(n, int) and n >= 0 for n in shape)


def _from_buffer(content: Any, kind: Any, shape: Any, order: str, axes: Sequence[int] | None = None) -> _Array:
    """Protocol 5's way to write an array; ``axes`` turns one that is neither in C's nor in Fortran's order."""
    array = _array(content, kind, shape, order)
    return _Array(array if axes is None else array.transpose([int(axis) for axis in axes]))


def _scalar(kind: Any, content: Any) -> int | float | bool:
    return _array(content, kind, (), "C").item()


def _bytes_of(text: str, encoding: str) -> bytes:
    """``bytes`` in the older protocols."""
    if encoding != "latin1" or not isinstance(text, str):
        raise _Refused(f"text to be written as {str(encoding)[:40]!r}")
    return text.encode("latin1")


def _plain(value: Any, seen: dict[int, Any], depth: int) -> Any:
    """``value`` with the arrays in the place of what stood for them; shared parts stay shared, circles are refused."""
    if depth > _MAX_DEPTH:
        raise _Refused(f"containers nested more than {_MAX_DEPTH} deep")
    if isinstance(value, (_Type, _StandIn, type)):
        raise _Refused("a type or a function as a value")
    if not isinstance(value, (_Array, list, tuple, dict)):
        return value
    if id(value) not in seen:
        if isinstance(value, _Array):
            plain = _plain(value.value, seen, depth + 1)
        elif isinstance(value, dict):
            plain = {key: _plain(item, seen, depth + 1) for key, item in value.items()}
        else:
            plain = type(value)(_plain(item, seen, depth + 1) for item in value)
        seen[id(value)] = plain
    return seen[id(value)]


_ARRAY_TYPE = _StandIn(lambda *_: _Array())
_STAND_INS: dict[str, Any] = {
    "numpy.core.multiarray._reconstruct": _StandIn(lambda kind, shape, code: _Array()),
    "numpy.core.multiarray.scalar": _StandIn(_scalar),
    "numpy.core.numeric._frombuffer": _StandIn(_from_buffer),
    "numpy.ndarray": _ARRAY_TYPE,
    "numpy.dtype": _StandIn(lambda text, *_: _Type(text)),
    "_codecs.encode": _StandIn(_bytes_of),
    "__builtin__.bytes": _StandIn(lambda: b""),
}
"""Everything a pickle may name: numpy's five, and the two by which the older protocols write bytes."""
