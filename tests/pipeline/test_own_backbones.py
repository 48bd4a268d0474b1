"""A detector's own backbone and first weights in a run: their bytes decide its stage and no stage before it."""

import json
from pathlib import Path

import pytest
import torch
from torchvision.models import mobilenet_v2

from tests.helpers import TOY_RUN
from weaksam import pipeline
from weaksam.config import UserError, load_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import open_run
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.store.weights import save_weights

STAGES = ("clues", "proposals", "wsod", "pseudo_gt", "retrain", "wsis")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, SceneSettings(size=64, num_classes=2, max_clutter=4), 6, 2, seed=1)
    return folder


def toy_settings(scenes: Path, out: Path, *more: str) -> RunSettings:
    train = [f"data.train.images={scenes / 'train'}", f"data.train.tags={scenes / 'tags_train.json'}", f"out={out}"]
    test = [f"data.test.images={scenes / 'test'}", f"data.test.truth={scenes / 'instances_test.json'}"]
    return load_settings(RunSettings, None, [*TOY_RUN, *train, *test, *more])


def keys(settings: RunSettings) -> dict[str, str]:
    run = open_run(settings)
    return {stage: run.key(stage) for stage in STAGES}


def test_bytes_of_backbone_and_first_weights_decide_the_stages_that_read_them(scenes, tmp_path):
    torch.manual_seed(0)
    weights = tmp_path / "mobilenet.safetensors"
    save_weights(weights, mobilenet_v2().state_dict())
    own = ["retrain.backbone.name=mobilenet_v2", f"retrain.backbone.weights={weights}"]
    plain, before = keys(toy_settings(scenes, tmp_path / "out")), keys(toy_settings(scenes, tmp_path / "out", *own))
    assert [stage for stage in STAGES if plain[stage] != before[stage]] == ["retrain", "wsis"]
    torch.manual_seed(1)
    save_weights(weights, mobilenet_v2().state_dict())
    after = keys(toy_settings(scenes, tmp_path / "out", *own))
    assert [stage for stage in STAGES if after[stage] != before[stage]] == ["retrain", "wsis"]
    moved = weights.rename(tmp_path / "moved.safetensors")
    assert keys(toy_settings(scenes, tmp_path / "out", own[0], f"retrain.backbone.weights={moved}")) == after
    init = [keys(toy_settings(scenes, tmp_path / "out", f"wsis.init={path}")) for path in (moved, tmp_path / "absent")]
    assert [stage for stage in STAGES if init[0][stage] != init[1][stage]] == ["wsis"]


def test_mask_rcnn_has_the_backbone_of_the_detector_that_it_starts_from(scenes, tmp_path):
    """With another one its weights would not fit: the toy run ends only where it follows."""
    own = ["retrain.backbone.name=sam_nano", "retrain.pyramid=full", "wsis.pyramid=full"]
    pipeline.run(toy_settings(scenes, tmp_path / "out", *own))
    assert (tmp_path / "out" / "wsis" / "detections_test.json").is_file()


def test_a_detector_that_does_not_fit_keeps_the_work_of_the_run(scenes, tmp_path):
    """The stages before stay finished, and the mended run only goes on."""
    given = tmp_path / "other.safetensors"
    save_weights(given, {"layer1.0.conv1.weight": torch.zeros(1)})
    settings = toy_settings(scenes, tmp_path / "out", f"retrain.init={given}")
    with pytest.raises(UserError, match=r"found a classifier, which can be retrain\.backbone\.weights") as caught:
        pipeline.run(settings, until="retrain")
    assert "\n" not in str(caught.value)
    mended = toy_settings(scenes, tmp_path / "out")
    run = open_run(mended)
    assert [stage for stage in STAGES if run.finished(stage)] == list(STAGES[:4])
    pipeline.run(mended, start="retrain", until="retrain")


def test_pseudo_ground_truth_without_a_box_or_against_the_tags_keeps_the_work_of_the_run(scenes, tmp_path):
    path, out = tmp_path / "given.json", tmp_path / "out"
    truth = json.loads((scenes / "instances_train.json").read_text())
    given = ["pseudo_gt.rule=given", f"pseudo_gt.path={path}"]
    path.write_text(json.dumps({**truth, "annotations": []}))
    with pytest.raises(UserError, match="retrain wants at least one box to train on, found none on 6 photos"):
        pipeline.run(toy_settings(scenes, out, *given))
    finished = open_run(toy_settings(scenes, out, *given)).finished
    assert [stage for stage in STAGES if finished(stage)] == list(STAGES[:4])
    # Every box on one photo: some are of classes that it is not tagged with
    first = min(image["id"] for image in truth["images"])
    path.write_text(json.dumps({**truth, "annotations": [{**a, "image_id": first} for a in truth["annotations"]]}))
    tags = json.loads((scenes / "tags_train.json").read_text())
    assert any(len(names) < 2 for names in tags.values()) and len(truth["categories"]) == 2
    with pytest.raises(UserError, match=r"wanted boxes of their photos' tags alone in .*: mend the tags or the file"):
        open_run(toy_settings(scenes, out, *given))
    path.write_text(json.dumps({**truth, "categories": [{**c, "name": f"{c['name']}s"} for c in truth["categories"]]}))
    with pytest.raises(UserError, match=r"found others .* rename them there, or name all classes"):
        open_run(toy_settings(scenes, out, *given))
    finished = open_run(toy_settings(scenes, out)).finished  # back to the run's own
    assert [stage for stage in STAGES if finished(stage)] == list(STAGES[:3])


def test_guessed_colours_of_a_detectors_backbone_are_said(scenes, tmp_path, capsys):
    weights = tmp_path / "r50.pth"
    torch.save({"conv1.weight": torch.zeros(1)}, weights)
    open_run(toy_settings(scenes, tmp_path / "out", "wsis.backbone.name=resnet50", f"wsis.backbone.weights={weights}"))
    assert "weights that come from Caffe want wsis.backbone.colours=caffe" in capsys.readouterr().err
