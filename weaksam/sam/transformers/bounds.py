"""Refuse the config.json of a model whose network could not be of the weights beside it, before it is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weaksam.config import UserError
from weaksam.sam.transformers.files import ModelSource
from weaksam.store.weight_headers import described_numbers, refuse_larger_network

MOST_LAYERS = 1000
"""Blocks of one kind, or stages; the deepest published segmenter has 48."""
MOST_SIZE = 1 << 20
"""Any whole number in config.json; frequencies of rotary positions (``theta``) may be larger."""
_DEPTHS = ("layers", "depth", "depths", "blocks", "stage", "stages", "blocks_per_stage")


def refuse_wild_config(config: dict[str, Any], source: ModelSource) -> None:
    """`UserError` for numbers that no network has: they would take hours to build, or more memory than there is."""
    for name, number in _numbers(config, ""):
        most = MOST_LAYERS if name.endswith(_DEPTHS) else MOST_SIZE
        if abs(number) > most and "theta" not in name:
            raise UserError(
                f"A network of at most {most:,} was wanted for '{name}' in config.json of {source.name}, found "
                f"{str(number)[:30]}: download it again."
            )


def refuse_larger_config(
    network_class: Any, source: ModelSource, paths: Sequence[Path], what: str, **options: Any
) -> None:
    """`UserError` where the network that config.json describes has more numbers than the weight files have bytes.

    A config.json of which no network can be made is left to the reading of it, which says why.
    """
    try:
        config = network_class.config_class.from_pretrained(source.folder, local_files_only=True)
        num_described = described_numbers(lambda: network_class(config, **options))
    except Exception:  # each of transformers' checks fails in its own way
        return
    num_bytes = sum(path.stat().st_size for path in paths)
    refuse_larger_network(num_described, num_bytes // 4, what, f"config.json of {source.name}")


def _numbers(value: Any, name: str) -> Iterator[tuple[str, int]]:
    """Key and value of every whole number in a config, those in lists under the list's key; a list is one, too."""
    if isinstance(value, dict):
        for key, inside in value.items():
            yield from _numbers(inside, str(key))
    elif isinstance(value, list):
        yield name, len(value)
        for inside in value:
            yield from _numbers(inside, name)
    elif isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
        yield name, value  # type: ignore[misc]  # 1e9 counts as whole, and infinity as too large
