"""Say which results were computed with another number of threads: sums are rounded differently then."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from weaksam.engine.detectors.result import DetectorResult
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.pipeline.plan import Stage
from weaksam.pipeline.state import Run
from weaksam.store.records import read_record
from weaksam.store.store import Store


def thread_notes(run: Run, stage: Stage) -> list[str]:
    """One sentence for each number of threads, other than this run's, that results of ``stage`` were made with."""
    now = torch.get_num_threads()
    share = max(1, now // run.num_workers) if stage.shared else now  # of each process where several share the work
    folders: dict[int, list[str]] = {}
    for name in stage.outputs:
        for folder in sorted(set(_sealed_folders(run.results[name]))):
            threads = (read_record(folder / "manifest.json") or {}).get("threads", now)
            if threads not in (now, share):
                folders.setdefault(threads, []).append(folder.name)
    return [
        f"{stage.name}: {', '.join(names)} made with threads={threads}, this run has {now}: figures in the last digits "
        f"may differ from those of a run with {now} throughout; set threads={threads} to go on as it began."
        for threads, names in folders.items()
    ]


def _sealed_folders(result: Any) -> Iterator[Path]:
    """The folders of the stores and weights in a result of a stage."""
    if isinstance(result, Store):
        yield result.folder
    elif isinstance(result, DetectorResult):
        yield result.weights.parent
        for store in result.stores.values():
            yield store.folder
        if isinstance(masks := getattr(result, "pseudo_masks", None), Store):
            yield masks.folder
    elif isinstance(result, BackboneSettings) and result.adapted is not None:
        yield result.adapted.parent
    elif isinstance(result, Mapping):
        for value in result.values():
            if isinstance(value, Store):
                yield value.folder
