"""Every YAML of configs/ and benchmarks/configs/ is one experiment: it loads, and holds only what differs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import ROOT
from weaksam.config import Settings, UserError, load_settings
from weaksam.pipeline.settings import RunSettings

REAL = ROOT / "benchmarks" / "configs"
"""Experiments on the real sets, which lie beside the repository."""
CONFIGS = sorted([*ROOT.joinpath("configs").glob("*.yaml"), *REAL.glob("*.yaml")])
NAMES = [path.stem for path in CONFIGS]


def written_values(values: dict[str, Any], settings: Settings, prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (value in the YAML, default), for every leaf that a YAML writes."""
    found = {}
    for key, value in values.items():
        default = getattr(settings, key, None) if isinstance(settings, Settings) else None
        if isinstance(value, dict):
            found |= written_values(value, default, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = (value, default.as_posix() if isinstance(default, Path) else default)
    return found


def test_the_named_experiments_are_there():
    assert {"fruit3", "smoke5", "boards4", "demo", "custom"} <= set(NAMES)


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_loads_and_takes_overrides(path):
    settings = load_settings(RunSettings, path, ["seed=7", "out=elsewhere", "wsod.num_epochs=1"])
    assert (settings.seed, settings.out, settings.wsod.num_epochs) == (7, Path("elsewhere"), 1)
    assert settings.data.train.images is not None and settings.data.train.tags is not None


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_writes_no_default_again(path):
    of_its_kind = type(load_settings(RunSettings, path).retrain)()
    defaults = RunSettings().model_copy(update={"retrain": of_its_kind})
    written = written_values(yaml.safe_load(path.read_text()), defaults)
    written.pop("retrain.detector", None)  # chooses the kind
    repeated = [key for key, (value, default) in written.items() if value == default and value is not None]
    assert written and not repeated, f"{path.name} repeats defaults: {repeated}"


def test_what_ships_names_no_folder_beside_the_repository():
    assert [path for path in CONFIGS if path.parent != REAL and ".." in path.read_text().replace("...", "")] == []


@pytest.mark.parametrize("name", ["fruit3", "smoke5", "boards4"])
def test_real_data_are_where_the_config_says(name, shared_data, monkeypatch):
    monkeypatch.chdir(ROOT)
    settings = load_settings(RunSettings, REAL / f"{name}.yaml")
    splits = [settings.data.train, settings.data.test]
    paths = [path for split in splits for path in (split.images, split.tags, split.truth) if path is not None]
    assert [path for path in (*paths, Path(settings.backbone.weights)) if not path.exists()] == []


def test_a_misspelt_key_names_the_nearest():
    with pytest.raises(UserError, match="num_epochs"):
        load_settings(RunSettings, CONFIGS[0], ["wsod.num_epoch=1"])
