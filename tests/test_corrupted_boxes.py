"""`benchmarks/corrupted_boxes.py`: what becomes of a box, by hand, and a toy run that trains each way once."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch

from tests.helpers import ROOT, TOY_RUN, instances, toy_run
from weaksam import pipeline
from weaksam.config import UserError, load_settings
from weaksam.evaluation.roi_errors import wrong_boxes
from weaksam.pipeline.settings import RunSettings
from weaksam.structures.boxes import pairwise_iou
from weaksam.structures.instances import Instances


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("corrupted_boxes")


def many_truths(num: int) -> dict[str, Instances]:
    """Photos of 300 x 300 with three boxes of 30 x 60, of classes 0, 1 and 2, far from every edge."""
    boxes = [[100, 100, 130, 160], [150, 100, 180, 160], [100, 170, 130, 230]]
    return {f"{number}.jpg": instances(boxes, [0, 1, 2]) for number in range(num)}


def test_a_share_of_the_boxes_is_corrupted_by_thirds(benchmark: ModuleType) -> None:
    truths = many_truths(20)
    sizes = dict.fromkeys(truths, (300, 300))
    boxes, kinds = benchmark.corrupted(truths, sizes, 3, 0.3, seed=0)
    assert [kinds.count(kind) for kind in ("true", "class", "shift", "part")] == [42, 6, 6, 6]  # of 60
    joined, true = Instances.cat(list(boxes.values())), Instances.cat(list(truths.values()))
    for row, kind in enumerate(kinds):
        iou = float(pairwise_iou(joined.boxes[row : row + 1], true.boxes[row : row + 1]))
        same = int(joined.labels[row]) == int(true.labels[row])
        assert same == (kind != "class") and 0 <= int(joined.labels[row]) < 3
        # Moved by a third of both sides: (2/3)^2 = 4/9 in common of 14/9, and less when moved farther
        assert {"true": iou == 1, "class": iou == 1, "shift": 1 / 17 - 1e-6 <= iou <= 2 / 7 + 1e-6}.get(
            kind, iou == pytest.approx(0.25)
        )
    wrong = [bool(w) for image_id in truths for w in wrong_boxes(truths[image_id], boxes[image_id])]
    assert wrong == [kind != "true" for kind in kinds]
    again, _ = benchmark.corrupted(truths, sizes, 3, 0.3, seed=0)
    other, _ = benchmark.corrupted(truths, sizes, 3, 0.3, seed=1)
    assert all(torch.equal(again[image_id].boxes, boxes[image_id].boxes) for image_id in truths)
    assert any(not torch.equal(other[image_id].boxes, boxes[image_id].boxes) for image_id in truths)


def test_photos_without_an_object_and_no_share_stay_as_they_are(benchmark: ModuleType) -> None:
    truths = {**many_truths(1), "empty.jpg": instances([])}
    boxes, kinds = benchmark.corrupted(truths, dict.fromkeys(truths, (300, 300)), 3, 0.0, seed=0)
    assert kinds == ["true"] * 3 and len(boxes["empty.jpg"]) == 0
    assert boxes["0.jpg"].boxes.tolist() == truths["0.jpg"].boxes.tolist()


@pytest.mark.slow
def test_every_way_is_trained_once_and_tabled(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = toy_run(tmp_path)
    out = tmp_path / "out"
    settings = load_settings(RunSettings, None, [*toy, f"out={out}"])
    pipeline.run(settings, until="clues")
    monkeypatch.setattr("sys.argv", ["corrupted_boxes.py", str(out), "--gates", "independent"])
    capsys.readouterr()
    benchmark.main()
    text = capsys.readouterr().out
    rows = [line for line in text.split("\n\n")[-1].splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        "taught",
        "corrupted, all regions",
        "corrupted, RoI drop: independent, loss",
        "true boxes",
    ]
    weights = sorted(out.rglob("corrupted/*/retrain/store/weights-*/weights.safetensors"))
    assert {path.relative_to(out).parts[1] for path in weights} >= {"all_regions", "true_boxes"}
    assert (out / "corrupted" / "boxes.json").is_file() and (out / "corrupted" / "roi_drop.png").is_file()
    stamps = [path.stat().st_mtime_ns for path in weights]
    benchmark.main()
    assert [path.stat().st_mtime_ns for path in weights] == stamps
    tiny = ["embed_dims=16", "norm_groups=8", "ffn_dims=8", "encoder_layers=1", "decoder_layers=1", "num_queries=10"]
    tiny += ["num_epochs=1", "short_side=64", "long_side=64"]
    monkeypatch.setattr("sys.argv", ["corrupted_boxes.py", str(out), "--dino", *tiny, "--query-drop", "gate=class"])
    capsys.readouterr()
    benchmark.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0].strip("| ") for row in rows] == [
        "taught",
        "corrupted, DINO, all queries",
        "corrupted, DINO, query drop: gate=class",
        "true boxes, DINO",
    ]
    # The way is part of the weights' fingerprint: three trainings in three folders
    assert len({path.name for path in out.glob("corrupted/dino_*/retrain/store/weights-*")}) == 3
    blind = load_settings(RunSettings, None, [*toy[: len(TOY_RUN) + 2], f"out={tmp_path / 'blind'}"])
    pipeline.run(blind, until="clues")
    with pytest.raises(UserError, match="wanted true boxes of the training and the test photos"):
        benchmark.CorruptedRun(tmp_path / "blind", 0.3, 0.3)
