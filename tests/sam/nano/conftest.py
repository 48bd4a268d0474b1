"""Define the bundled model and the photo that the tests of sam_nano share."""

import numpy as np
import pytest

from tests.helpers import FRESH_SCENE
from weaksam.sam.nano.segmenter import SamNano
from weaksam.scenes.part_scenes import render_part_scene


@pytest.fixture(scope="package")
def bundled() -> SamNano:
    return SamNano.load()


@pytest.fixture(scope="package")
def photo() -> np.ndarray:
    return render_part_scene(FRESH_SCENE, 256).image[:192]  # 192 x 256: not square
