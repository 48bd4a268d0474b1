"""Look at what a file of weights claims, in its header and its tensors, and refuse what no weights can be."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from weaksam.config import UserError
from weaksam.regular_files import open_regular

MOST_TENSORS = 20_000
"""Tensors of one file; the largest published segmenters have some two thousand."""
MOST_HEADER_BYTES = 16 << 20
"""Names and shapes of a safetensors file."""
SLACK_NUMBERS = 50_000_000
"""Numbers that a network may have beside four times those of its weights: parts that start at random."""
_END = b"PK\x05\x06"


def refuse_zip_bomb(path: Path) -> None:
    """`ValueError` for a zip file whose entries say to be larger than the file: torch leaves them uncompressed."""
    with open_regular(path) as file:
        num_bytes = os.fstat(file.fileno()).st_size
        file.seek(max(0, num_bytes - 65_557))
        tail = file.read()
        end = tail.rfind(_END)
        if end >= 0 and int.from_bytes(tail[end + 10 : end + 12], "little") > MOST_TENSORS:
            raise ValueError(f"it holds more than {MOST_TENSORS:,} entries")
        file.seek(0)
        with zipfile.ZipFile(file) as archive:
            total = sum(entry.file_size for entry in archive.infolist())
    if total > num_bytes:
        raise ValueError(f"it would unpack to {total:,} bytes, but torch leaves its {num_bytes:,} uncompressed")


def refuse_wild_header(path: Path) -> None:
    """`ValueError` for a safetensors file whose header is longer than the file, or lists more tensors than any."""
    with open_regular(path) as file:
        num_bytes = file.seek(0, io.SEEK_END)
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if length > max(num_bytes - 8, 0):
            raise ValueError(f"its header claims {length:,} bytes in a file of {num_bytes:,}")
        if length > MOST_HEADER_BYTES:
            raise ValueError(f"its header has {length:,} bytes, over the limit of {MOST_HEADER_BYTES:,}")
        num_tensors = file.read(length).count(b'"data_offsets"')
    if num_tensors > MOST_TENSORS:
        raise ValueError(f"it holds {num_tensors:,} tensors, over the limit of {MOST_TENSORS:,}")


def refuse_claims(state: Mapping[str, Tensor], num_bytes: int) -> None:
    """`ValueError` for a tensor that is no plain array of real numbers, or claims more of them than the file has."""
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
            raise ValueError(f"{name[:60]!r} is no plain array of real numbers")
        if tensor.numel() * tensor.element_size() > num_bytes:
            raise ValueError(f"{name[:60]!r} claims the shape {tuple(tensor.shape)} in a file of {num_bytes:,} bytes")


def described_numbers(build: Callable[[], nn.Module]) -> int:
    """Numbers in the parameters of the network that ``build`` makes, which gets no memory for them."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def refuse_larger_network(num_described: int, num_held: int, what: str, where: str) -> None:
    """`UserError` where a network has far more numbers than its weights: memory for them may not even be there.

    ``what`` names the network, ``where`` says what describes it.
    """
    if num_described > 4 * num_held + SLACK_NUMBERS:
        raise UserError(
            f"wanted weights of {what} with the {num_described:,} numbers that {where} asks for, found {num_held:,}: "
            "give weights and description of the same network"
        )
