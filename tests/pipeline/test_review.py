"""A review of a real run at toy size: decisions train it again, there and back; what is no review of it is refused."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.commands import output, refused
from tests.helpers import change_record, toy_run
from weaksam import pipeline
from weaksam.config import load_settings
from weaksam.data.detection_stores import instances_of
from weaksam.pipeline.running import recorded_settings
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import open_run
from weaksam.store.sealed import open_sealed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A toy run up to its retraining, whose pseudo labels are the best detection of every tag."""
    folder = tmp_path_factory.mktemp("scenes")
    settings = [*toy_run(folder), f"out={folder / 'out'}", "pseudo_gt.rule=top1", "retrain.negatives.rule=tags"]
    pipeline.run(load_settings(RunSettings, None, settings), until="retrain")
    return folder / "out"


@pytest.fixture
def out(finished, tmp_path):
    """A copy of that run."""
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def data_of(out: Path) -> dict:
    page = (out / "report.html").read_text()
    return json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[0])


def write_decisions(path: Path, data: dict, verdicts: list[str]) -> list[dict]:
    """Decisions on the first boxes of the report's photos, as its script writes them."""
    labels = [(photo, box) for photo in data["photos"] for box in photo["layers"].get("pseudo labels", {"b": []})["b"]]
    rows = [
        {
            "image_id": photo["i"],
            "row": box[9],
            "box": box[:4],
            "label": data["classes"][box[4]],
            "decision": verdict,
            **({"to_box": [1, 2, 40, 50]} if verdict == "redraw" else {}),
        }
        for (photo, box), verdict in zip([pair for pair in labels if pair[1][9] >= 0], verdicts, strict=False)
    ]
    path.write_text(json.dumps({"format": "weaksam-review", "version": 1, "run": data["run"], "decisions": rows}))
    return rows


def pseudo_gt_of(out: Path) -> dict:
    """The pseudo ground truth of the run as its settings are now."""
    run = open_run(recorded_settings(out))
    entries = json.loads((out / "pseudo_gt" / "train.json").read_text())
    names = {image["id"]: image["file_name"] for image in entries["images"]}
    boxes: dict = {sample.image_id: [] for sample in run.context.train}
    for entry in entries["annotations"]:
        boxes[names[entry["image_id"]]].append(entry["bbox"])
    return boxes


def metrics_of(out: Path) -> dict:
    metrics = json.loads((out / "metrics.json").read_text())
    return {row["stage"]: row["figures"] for row in metrics["stages"]}


def test_decisions_train_the_run_again_there_and_back(out, tmp_path):
    before, labels = metrics_of(out), pseudo_gt_of(out)
    weights = {path: path.read_bytes() for path in (out / "retrain" / "store").glob("weights-*/*.safetensors")}
    data = data_of(out)
    rejected, redrawn, accepted = write_decisions(tmp_path / "d.json", data, ["reject", "redraw", "accept"])
    assert "review: accept 1, reject 1, relabel 0, redraw 1" in output("review", "apply", out, tmp_path / "d.json")
    after = pseudo_gt_of(out)
    assert sum(map(len, after.values())) == sum(map(len, labels.values())) - 1
    assert len(after[rejected["image_id"]]) == len(labels[rejected["image_id"]]) - 1
    assert [1, 2, 39, 48] in after[redrawn["image_id"]]
    assert after[accepted["image_id"]][accepted["row"]] == labels[accepted["image_id"]][accepted["row"]]
    assert len(list((out / "retrain" / "store").glob("weights-*"))) == 2
    (copy,) = (out / "review").iterdir()
    assert copy.name == f"decisions-{copy.stem[-12:]}.json" and "all as they were written" in output("verify", out)
    run = open_run(recorded_settings(out))
    assert run.settings.pseudo_gt.review == (copy,) and list(run.context.rejected) == [rejected["image_id"]]
    # The report is of the run with the review, and a second review is of its labels
    output("report", out)
    again = data_of(out)
    assert again["run"]["pseudo_gt"] != data["run"]["pseudo_gt"]
    assert "of another run or of other settings" in refused("review", "apply", out, tmp_path / "d.json")
    # And back: without the setting the labels and the network are those from before
    settings = recorded_settings(out)
    plain = settings.model_copy(update={"pseudo_gt": settings.pseudo_gt.model_copy(update={"review": ()})})
    pipeline.run(plain, until="retrain")
    assert metrics_of(out) == before and pseudo_gt_of(out) == labels
    assert {path: path.read_bytes() for path in weights} == weights


def test_a_second_review_goes_on_from_the_first(out, tmp_path):
    write_decisions(tmp_path / "1.json", data_of(out), ["reject"])
    output("review", "apply", out, tmp_path / "1.json", "--until", "pseudo_gt")
    write_decisions(tmp_path / "2.json", data_of(out), ["reject"])
    output("review", "apply", out, tmp_path / "2.json", "--until", "pseudo_gt")
    run = open_run(recorded_settings(out))
    assert len(run.settings.pseudo_gt.review) == 2 and sum(map(len, run.context.rejected.values())) == 2
    # A folder that was moved keeps its reviews
    moved = out.rename(tmp_path / "moved")
    output("report", moved)
    assert data_of(moved)["run"]["pseudo_gt"] == run.key("pseudo_gt")


def test_a_rejected_box_is_a_certain_negative_of_the_training(out, tmp_path):
    data = data_of(out)
    (row,) = write_decisions(tmp_path / "d.json", data, ["reject"])
    output("review", "apply", out, tmp_path / "d.json", "--until", "pseudo_gt")
    run = open_run(recorded_settings(out))
    boxes = run.context.rejected[row["image_id"]]
    assert boxes.boxes[0].tolist() == pytest.approx(row["box"], abs=0.01)
    assert run.context.train.classes[int(boxes.labels[0])] == row["label"]
    (folder,) = [path for path in (out / "pseudo_gt" / "store").iterdir() if _lacks(path, row)]
    assert folder.name.startswith("train-")


def _lacks(folder: Path, row: dict) -> bool:
    boxes = instances_of(open_sealed(folder))[row["image_id"]].boxes
    return not any(torch.allclose(box, torch.tensor(row["box"]).float(), atol=0.01) for box in boxes)


def test_what_is_no_review_of_this_run_is_one_sentence(out, tmp_path):
    data, path = data_of(out), tmp_path / "d.json"
    (row,) = write_decisions(path, data, ["accept"])
    good = json.loads(path.read_text())

    def said(**changes) -> str:
        path.write_text(json.dumps({**good, **changes}))
        return refused("review", "apply", out, path)

    assert "of another run" in said(run={"name": "x", "pseudo_gt": "y"})
    assert "found none: decide on some boxes" in said(decisions=[])
    assert "found 'unknown.jpg'" in said(decisions=[{**row, "image_id": "unknown.jpg"}])
    assert "boxes of" in said(decisions=[{**row, "row": 99}])
    outside = {**row, "decision": "redraw", "to_box": [0, 0, 65, 10]}
    assert "inside its photo of 64 x 64" in said(decisions=[outside])
    assert not (out / "review").exists()
    assert "no run.json" in refused("review", "apply", tmp_path, path)


def test_reports_of_runs_that_cannot_be_shown_are_one_sentence(out):
    record = out / "run.json"
    settings = json.loads(record.read_text())["settings"]
    photo = sorted(Path(settings["data"]["train"]["images"]).iterdir())[0]
    kept = photo.rename(photo.with_suffix(".away"))
    try:
        assert "photos and tags of the run" in refused("report", out) or "train" in refused("report", out)
    finally:
        kept.rename(photo)
    versions = json.loads(record.read_text())["versions"]
    change_record(record, versions={**versions, "weaksam": "9.1.0"})
    assert "made by 9.1.0" in refused("report", out) and "made by 9.1.0" in refused("review", "apply", out, record)
    record.unlink()
    assert "under way or was stopped in retrain" in refused("report", out)


def test_a_half_done_run_has_a_page_of_what_is_there(out):
    shutil.rmtree(out / "retrain")
    (out / "pseudo_gt" / "done.json").unlink()
    output("report", out)
    data = data_of(out)
    assert data["labels"] is None and "WSOD" in data["stages"]
    page = (out / "report.html").read_text()
    assert 'id="review"' not in page and page.count("not run") >= 3
