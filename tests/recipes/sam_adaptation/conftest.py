"""Rendered scenes that adaptations are tried on."""

from pathlib import Path

import pytest

from weaksam.scenes.synthetic import SceneSettings, write_dataset


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photos to adapt to and two to measure on, 64 pixels a side."""
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, SceneSettings(size=64, num_classes=2, max_clutter=2, max_distractors=1), 4, 2, seed=1)
    return folder
