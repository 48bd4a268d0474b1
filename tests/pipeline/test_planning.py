"""Planning a run: which photos are tried, what is scaled, and that nothing is left behind."""

import json
from pathlib import Path

import pytest

from tests.helpers import TOY_RUN
from weaksam.config import UserError, load_settings
from weaksam.pipeline.planning import Plan, StagePlan, _disk_mib, _trained_seconds, plan_run, tried_photos
from weaksam.pipeline.settings import RunSettings
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.structures.dataset import Dataset, Sample


def dataset(*tags: tuple[int, ...]) -> Dataset:
    samples = [Sample(f"{n}.png", Path("x"), (8, 8), of_photo, None, n) for n, of_photo in enumerate(tags)]
    return Dataset("train", ("a", "b", "c"), (1, 2, 3), tuple(samples))


def names(samples: list[Sample]) -> list[str]:
    return [sample.image_id[0] for sample in samples]


def test_every_class_is_tried_and_the_rest_is_spread() -> None:
    assert names(tried_photos(dataset((0,), (0,), (1, 2), (0,)))) == ["0", "1", "2"]
    assert names(tried_photos(dataset((0,), (1,), (2,), (0,)), num=1)) == ["0", "1", "2"]
    assert names(tried_photos(dataset((), (), (), (), ()), num=2)) == ["0", "2"]
    assert names(tried_photos(dataset((0,)))) == ["0"] and tried_photos(dataset()) == []


def test_disk_scales_with_the_photos_but_for_weights(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"x" * 2**20)
    (tmp_path / "part.bin").write_bytes(b"x" * 2**19)
    assert _disk_mib(tmp_path, 10.0) == 6.0 and _disk_mib(tmp_path / "none", 10.0) == 0.0


def test_seconds_of_epochs_are_read_from_the_log(tmp_path: Path) -> None:
    events = [{"event": "epoch", "label": "wsod", "seconds": 2.0}, {"event": "epoch", "label": "x", "seconds": 9.0}]
    (tmp_path / "log").write_text("\n".join(map(json.dumps, [*events, {"event": "run ends"}])))
    assert _trained_seconds(tmp_path / "log", "wsod") == 2.0


def test_a_plan_in_words() -> None:
    plan = Plan(10, 4, 3, "tree", "cpu", [StagePlan("clues", 30, 1), StagePlan("wsis", 7200, 5)], 800, 99, ["few"])
    lines = plan.text().splitlines()
    assert lines[0] == "10 training and 4 test photos; segmenter tree; on cpu"
    assert lines[2].split() == ["clues", "30", "s", "1", "MiB"] and lines[3].split()[:3] == ["wsis", "2.0", "h"]
    assert lines[4].split()[:4] == ["in", "all", "2.0", "h"] and lines[-1] == "note: few"


def test_a_run_is_planned_and_leaves_nothing(tmp_path: Path) -> None:
    write_dataset(tmp_path, SceneSettings(size=64, num_classes=2, max_clutter=4), 6, 2, seed=1)
    data = [
        f"data.{split}.{kind}={tmp_path / name}"
        for split in ("train", "test")
        for kind, name in (("images", split), ("truth", f"instances_{split}.json"))
    ]
    out = tmp_path / "out"
    plan = plan_run(load_settings(RunSettings, None, [*TOY_RUN, *data, f"out={out}"]))
    assert [stage.stage for stage in plan.stages] == ["clues", "proposals", "wsod", "pseudo_gt", "retrain", "wsis"]
    assert (plan.num_train, plan.num_test, plan.num_tried) == (6, 2, 3)
    assert plan.seconds > 0 and plan.mib > 0 and plan.peak_memory_mib > 0 and not out.exists()
    assert any("few photos of" in note for note in plan.notes)
    with pytest.raises(UserError, match="wanted a stage"):
        plan_run(load_settings(RunSettings, None, [*TOY_RUN, *data]), until="masks")
