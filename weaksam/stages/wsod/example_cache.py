"""Keep training examples with their IoU tables on the device of the step, within a bound of memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from weaksam.stages.wsod.examples import TrainingExample
from weaksam.stages.wsod.seeds.overlaps import Overlaps


@dataclass(frozen=True)
class _Entry:
    """An example as it came, itself on the device, and the bytes that takes with its table."""

    source: TrainingExample
    on_device: TrainingExample
    num_bytes: int


class ExampleCache:
    """Examples on ``device``, at most ``max_gib`` GiB of them with their IoU tables; the least recently used leave.

    So both passes of a step share a table, and a data set that fits computes each once. An example that is larger than
    all the room is made anew each time.
    """

    def __init__(self, device: torch.device, max_gib: float) -> None:
        self.device, self.max_bytes = device, int(max_gib * 2**30)
        self.num_bytes = 0
        """Bytes of the examples that are kept now, never more than ``max_bytes``."""
        self._entries: dict[str, _Entry] = {}  # the least recently used first

    def __len__(self) -> int:
        return len(self._entries)

    def on_device(self, example: TrainingExample) -> TrainingExample:
        """The example on the device; its ``overlaps`` live as long as it is kept here or held by the caller."""
        key = example.sample.image_id
        entry = self._entries.pop(key, None)
        if entry is not None and entry.source is not example:
            self.num_bytes -= entry.num_bytes
            entry = None
        if entry is None:
            # A copy on the CPU, too, so that the table leaves with it
            entry = _Entry(example, replace(example.on(self.device)), _num_bytes(example))
            if entry.num_bytes > self.max_bytes:
                return entry.on_device
            self._make_room(entry.num_bytes)
            self.num_bytes += entry.num_bytes
        self._entries[key] = entry
        return entry.on_device

    def clear(self) -> None:
        """Forget all."""
        self._entries.clear()
        self.num_bytes = 0

    def _make_room(self, num_bytes: int) -> None:
        while self.num_bytes + num_bytes > self.max_bytes:
            oldest = next(iter(self._entries))
            self.num_bytes -= self._entries.pop(oldest).num_bytes


def _num_bytes(example: TrainingExample) -> int:
    """Bytes of the example's tensors and of its table, whether it is computed yet or not."""
    tensors = [example.boxes, example.tags, example.present, *example.clue_seeds]
    if example.truth is not None:
        tensors += [example.truth.boxes, example.truth.labels]
    return sum(tensor.nbytes for tensor in tensors) + Overlaps.num_bytes(len(example.boxes))
