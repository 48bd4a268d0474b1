"""Set one thread per process, and define the fixtures that every test file may use."""

import os
from pathlib import Path

import pytest

# Before torch is imported: toy networks gain nothing from threads, and workers of pytest and processes that tests
# start must round alike.
os.environ["OMP_NUM_THREADS"] = "1"

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data beside the repository; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"real data are not at {SHARED_DATA}")
    return SHARED_DATA
