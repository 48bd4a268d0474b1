"""Stages whose photos are decoded ahead on threads give the bytes of those that read each photo in its turn."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import toy_run
from weaksam import pipeline
from weaksam.config import load_settings
from weaksam.data import sample_photos
from weaksam.pipeline.settings import RunSettings
from weaksam.store.files import file_sha256


def stores_of(out: Path) -> dict[str, str]:
    """SHA-256 of every file of the stores, weights and manifests among them."""
    paths = (path for path in out.glob("*/store/**/*") if path.is_file())
    return {path.relative_to(out).as_posix(): file_sha256(path) for path in paths}


@pytest.mark.slow
def test_all_stages_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = [*toy_run(tmp_path / "scenes"), "clues.finetune_epochs=1", "retrain.detect_train=true"]
    taken: list[str] = []
    take = sample_photos._PhotosAhead.take

    def noted(self: sample_photos._PhotosAhead, sample: sample_photos.Sample) -> object:
        photo = take(self, sample)
        if self._photos is not None:
            taken.append(sample.image_id)
        return photo

    monkeypatch.setattr(sample_photos._PhotosAhead, "take", noted)
    pipeline.run(load_settings(RunSettings, None, [*arguments, f"out={tmp_path / 'ahead'}"]))
    monkeypatch.setattr(sample_photos._PhotosAhead, "take", lambda self, sample: sample_photos._read(sample))
    pipeline.run(load_settings(RunSettings, None, [*arguments, f"out={tmp_path / 'in_turn'}"]))
    stores = stores_of(tmp_path / "ahead")
    assert stores == stores_of(tmp_path / "in_turn")
    assert {path.partition("/")[0] for path in stores} >= {"clues", "wsod", "retrain", "wsis"}
    assert len(taken) > len(set(taken)) > 0
