"""Encode and decode the masks of Label Studio's brush: runs of bits over the four channels of a picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from weaksam.structures.masks import Rle, mask_from_rle, rle_from_mask

_RUN_BITS = (3, 4, 8, 16)
"""Bits of the lengths that a run may be written with, minus 1, chosen by two bits before it."""
_VALUE_BITS = 8
_CHANNELS = 4
"""Red, green, blue and opacity, all of one value here."""


def encode_brush(rle: Rle) -> list[int]:
    """The bytes of a brush that covers a mask, as Label Studio's ``value.rle``.

    Four bytes count the values, 21 bits name the sizes; then each run is a 1, two bits that choose a size, the length
    minus 1 in so many bits, and the value in eight.
    """
    mask = mask_from_rle(rle).numpy().reshape(-1)
    header = f"{_CHANNELS * mask.size:032b}{_VALUE_BITS - 1:05b}" + "".join(f"{bits - 1:04b}" for bits in _RUN_BITS)
    changes = np.flatnonzero(mask[1:] != mask[:-1]) + 1
    bounds = np.concatenate([[0], changes, [mask.size]])
    lengths = (_CHANNELS * np.diff(bounds)).tolist()
    pieces, covered = [header], bool(mask[0]) if mask.size else False
    for length in lengths:
        value = "1" * _VALUE_BITS if covered else "0" * _VALUE_BITS
        pieces += [_run(part) + value for part in _parts(length)]
        covered = not covered
    bits = "".join(pieces)
    bits += "0" * (-len(bits) % 8)
    return list(int(bits, 2).to_bytes(len(bits) // 8, "big")) if bits else []


def _parts(length: int) -> list[int]:
    """A run's length in pieces that can be written."""
    longest = 1 << _RUN_BITS[-1]
    return [longest] * (length // longest) + ([length % longest] if length % longest else [])


def _run(length: int) -> str:
    """The bits before the value of a run."""
    choice = next(number for number, bits in enumerate(_RUN_BITS) if length <= 1 << bits)
    return f"1{choice:02b}{length - 1:0{_RUN_BITS[choice]}b}"


def decode_brush(data: Sequence[int], size: tuple[int, int]) -> Rle:
    """The mask of ``size`` (H, W) of what a brush covers (an opacity above 0).

    Raises ``ValueError``, a phrase that says what was found, for bytes that do not fill such a picture.
    """
    height, width = size
    bits = "".join(f"{byte:08b}" for byte in bytes(data))
    reader = _BitReader(bits)
    num_values = reader.read(32)
    if num_values != _CHANNELS * height * width:
        raise ValueError(f"a brush of {num_values} values for {width} x {height} pixels of {_CHANNELS}")
    value_bits = reader.read(5) + 1
    run_bits = [reader.read(4) + 1 for _ in range(4)]
    values = np.zeros(num_values, np.uint8)
    place = 0
    while place < num_values:
        repeated = reader.read(1)
        end = place + reader.read(run_bits[reader.read(2)]) + 1
        if end > num_values:
            raise ValueError("a brush with more values than its picture has")
        if repeated:
            values[place:end] = min(reader.read(value_bits), 255)
        else:
            values[place:end] = [min(reader.read(value_bits), 255) for _ in range(end - place)]
        place = end
    opaque = values.reshape(height, width, _CHANNELS)[..., _CHANNELS - 1] > 0
    return rle_from_mask(torch.from_numpy(opaque))


class _BitReader:
    """Takes numbers off the front of a text of bits; ``ValueError`` at its end."""

    def __init__(self, bits: str) -> None:
        self._bits, self._place = bits, 0

    def read(self, count: int) -> int:
        """The number in the next ``count`` bits."""
        end = self._place + count
        if end > len(self._bits):
            raise ValueError("a brush that ends before its picture is full")
        number = int(self._bits[self._place : end], 2)
        self._place = end
        return number
