"""The short form of benchmarks/faults.py: a few hundred flips, none of them silent."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.faults import (
    flip_bits,
    half_filled_store,
    rows_after_filling,
    rows_of,
    store_of,
    table,
    target_in_run,
    targets_of,
)
from weaksam.engine.training_state import STATES
from weaksam.store.sealed import open_sealed
from weaksam.store.weights import save_weights


def test_no_flip_in_a_store_a_record_or_a_state_is_silent(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sealed = half_filled_store(out / "clues" / "store" / "train-1")
    save_weights(sealed.folder / "classifier.safetensors", {"weight": torch.arange(600.0)}, {"fingerprint": "f"})
    store_of(sealed.folder).fill(lambda image_id: {"boxes": [], "labels": [], "scores": [], "rles": [], "note": ""})
    targets = targets_of(out, tmp_path / "beside")
    kinds = {target.kind for target in targets}
    assert kinds == {"part, sealed", "weights", "manifest", "part, not sealed", "state of a training"}
    assert {target.path.name for target in targets if target.kind == "state of a training"} == set(STATES)
    outcomes = flip_bits(targets, 150, seed=1)
    assert {kind: counts.total() for kind, counts in outcomes.items()} == dict.fromkeys(kinds, 30)
    assert all(set(counts) <= {"seen", "harmless"} for counts in outcomes.values()), table(outcomes)
    for kind in ("part, sealed", "weights", "manifest", "state of a training"):
        assert outcomes[kind]["seen"] > 20, table(outcomes)
    assert outcomes["part, not sealed"]["harmless"] == 30  # made again


def test_the_harness_sees_what_is_silent(tmp_path: Path) -> None:
    """A reader that compares nothing: flips in the numbers of a weight file are silent, and counted so."""
    path = tmp_path / "plain.txt"
    path.write_bytes(bytes(range(200)) * 5)
    target = target_in_run(tmp_path, path)._replace(kind="plain", read=path.read_bytes)
    assert flip_bits([target], 20, seed=0)["plain"] == {"silent": 20}
    store = half_filled_store(tmp_path / "half")
    rows = rows_after_filling(store.folder)
    assert len(rows) == 24 + 4 and rows[:24] == rows_of(open_sealed(tmp_path / "copy"))
