"""The whole pipeline at toy scale: what it writes, that a killed run resumes byte for byte, who sees the truth."""

import dataclasses
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
import torch

import weaksam
from tests.helpers import PROCESSES, TOY_RUN
from weaksam import pipeline
from weaksam.config import UserError, load_settings
from weaksam.data.detection_stores import instances_of
from weaksam.data.images import read_image
from weaksam.engine.distributed import HELPER
from weaksam.evaluation.files import evaluate_files
from weaksam.evaluation.protocol import DetectionFilter
from weaksam.pipeline.plan import Stage, check_plan
from weaksam.pipeline.settings import RunSettings
from weaksam.pipeline.state import open_run, without_truth
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.stages import STAGE_NAMES
from weaksam.store.sealed import open_sealed
from weaksam.structures.proposals import Proposals

PLAIN_FILES = {
    "wsod/detections_train.json",
    "wsod/detections_test.json",
    "pseudo_gt/train.json",
    "retrain/detections_train.json",
    "retrain/detections_test.json",
    "retrain/network_detections_train.json",
    "retrain/network_detections_test.json",
    "wsis/pseudo_masks_train.json",
    "wsis/detections_test.json",
    "wsod/checkpoint.safetensors",
    "retrain/checkpoint.safetensors",
    "wsis/checkpoint.safetensors",
}
ABOUT_THE_RUN = {"metrics.json", "run.json", "log.jsonl", "report.html", "example.png", "set_aside_train.json"}
REMEMBERED = {"photos_train.parquet", "photos_test.parquet"}  # of photos that did not change just now


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """34 training scenes, so that a store has two parts, and 3 to test on; one file that is no photo among them."""
    folder = tmp_path_factory.mktemp("scenes")
    write_dataset(folder, SceneSettings(size=64, num_classes=2, max_clutter=4, max_distractors=1), 34, 3, seed=1)
    (folder / "train" / "broken.jpg").write_bytes(b"\xff\xd8\xff not the rest of a photo")
    tags = json.loads((folder / "tags_train.json").read_text())
    (folder / "tags_train.json").write_text(json.dumps({**tags, "broken.jpg": next(iter(tags.values()))}))
    return folder


def arguments(scenes: Path, out: Path, *, truth: bool = True) -> list[str]:
    """``key=value`` settings of the toy run; without ``truth`` there is no test split either."""
    train = [f"data.train.images={scenes / 'train'}", f"data.train.tags={scenes / 'tags_train.json'}", f"out={out}"]
    if not truth:
        return [*TOY_RUN, *train]
    test = [f"data.test.images={scenes / 'test'}", f"data.test.truth={scenes / 'instances_test.json'}"]
    return [*TOY_RUN, *train, f"data.train.truth={scenes / 'instances_train.json'}", *test]


def toy_settings(scenes: Path, out: Path, *more: str, truth: bool = True) -> RunSettings:
    return load_settings(RunSettings, None, [*arguments(scenes, out, truth=truth), *more])


def made_files(out: Path) -> dict[str, bytes]:
    """Every file that stages made below ``out``, by relative name."""
    files = (path for path in out.rglob("*") if path.is_file() and path.name != "done.json")
    named = {path.relative_to(out).as_posix(): path.read_bytes() for path in files}
    return {name: content for name, content in named.items() if name not in ABOUT_THE_RUN | REMEMBERED}


def measured(out: Path) -> dict:
    """``metrics.json`` without what differs from run to run: times, memory and the folder's name."""
    metrics = json.loads((out / "metrics.json").read_text())
    metrics["stages"] = [{**row, "seconds": None} for row in metrics["stages"]]
    return {**metrics, "peak_memory_mib": None, "name": None}


@pytest.fixture(scope="module")
def unbroken(scenes, tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    pipeline.run(toy_settings(scenes, out))
    return out


def test_writes_all_that_is_promised(unbroken):
    written = {path.relative_to(unbroken).as_posix() for path in unbroken.rglob("*") if path.is_file()}
    assert written >= PLAIN_FILES | ABOUT_THE_RUN
    assert {name for stage in pipeline.STAGES for name in stage.files} == PLAIN_FILES
    metrics = json.loads((unbroken / "metrics.json").read_text())
    assert [row["stage"] for row in metrics["stages"]] == [stage.name for stage in pipeline.STAGES]
    assert metrics["images"] == {"train": 34, "test": 3} and metrics["note"] is None
    assert [(row["split"], row["image_id"]) for row in metrics["bad"]] == [("train", "broken.jpg")]
    wanted = {"proposals": "train_recall", "wsod": "test_boxes", "retrain": "test_boxes", "wsis": "test_masks"}
    for stage, name in wanted.items():
        figures = next(row["figures"] for row in metrics["stages"] if row["stage"] == stage)
        assert figures[name]["protocol"], (stage, name)
    choice = next(row["figures"]["choice"] for row in metrics["stages"] if row["stage"] == "retrain")
    assert set(choice["candidates"]) == {"weak", "retrained", "merged"} and choice["lost"] >= 0
    record = json.loads((unbroken / "run.json").read_text())
    assert set(record["trained on"]) == {"network", "retrain", "wsis"}
    assert (unbroken / record["trained on"]["network"]).is_file()
    assert "pseudo_gt/train.json" in record["trained on"]["wsis"]
    assert {"settings", "versions", "hashes", "seeds", "device"} <= set(record)
    events = [json.loads(line)["event"] for line in (unbroken / "log.jsonl").read_text().splitlines()]
    assert events.count("stage begins") == events.count("stage ends") == 6


def test_pseudo_masks_are_measured_in_the_run_and_from_its_files(unbroken, scenes):
    metrics = json.loads((unbroken / "metrics.json").read_text())
    of_run = next(row["figures"] for row in metrics["stages"] if row["stage"] == "wsis")
    by_command = pipeline.measure_pseudo_gt(unbroken, masks=True).as_dict()["against_truth"]["masks"]
    assert by_command == {name: of_run[f"train_{name}"] for name in ("mask_iou", "miou", "pq")}
    assert 0.1 < by_command["mask_iou"]["mask_iou"] < 1 and by_command["mask_iou"]["num_masks"] > 0
    masks, truth = unbroken / "wsis" / "pseudo_masks_train.json", scenes / "instances_train.json"
    keep = DetectionFilter(min_score=0)
    by_file = evaluate_files(truth, masks, ["mask_iou", "miou", "pq"], keep=keep, images=scenes / "train")
    for name, values in by_command.items():
        assert by_file[name]["per_class"] == values["per_class"]
    assert "Pseudo masks on the training photos" in (unbroken / "report.html").read_text()


def test_checkpoints_detect_what_the_run_did(unbroken, scenes):
    """From the files alone, bit by bit; the weak detector on the run's proposals, which clue points prompted, too."""
    for stage, split in (("wsod", "detections_test"), ("retrain", "test"), ("wsis", "test")):
        predictor = weaksam.load(unbroken / stage / "checkpoint.safetensors", device="cpu")
        (folder,) = (unbroken / stage / "store").glob(f"{split}-*")
        (of_proposals,) = (unbroken / "proposals" / "store").glob("test-*")
        proposals = open_sealed(of_proposals)
        for image_id, wanted in instances_of(open_sealed(folder)).items():
            image = read_image(scenes / "test" / image_id)
            given = [Proposals.from_row(proposals[image_id])] if stage == "wsod" else None
            (detections,) = predictor.detect([image], given)
            assert torch.equal(detections.boxes, wanted.boxes) and torch.equal(detections.scores, wanted.scores)
            assert torch.equal(detections.labels, wanted.labels) and detections.masks == wanted.masks
        assert predictor.classes == tuple(json.loads((unbroken / "metrics.json").read_text())["classes"])


def test_report_stands_alone(unbroken):
    page = (unbroken / "report.html").read_text()
    addresses = re.findall(r"""(?:src|href)=["']([^"']*)""", page)
    inside = ("data:image/jpeg;base64,", "data:,", "#")
    assert len(addresses) > 20 and all(address.startswith(inside) for address in addresses)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")  # the name of SVG, which nothing asks for
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    photos = json.loads(data)["photos"]
    assert len(photos) == 37 and all(photo["u"].startswith("data:image/jpeg;base64,") for photo in photos)
    assert "broken.jpg" in page and "train_00000.jpg" in page
    for title in ("Proposal recall", "Pseudo ground truth", "Test AP per class", "Mask AP", "How it was measured"):
        assert title in page


def test_the_plan_is_in_order_and_its_stages_take_what_they_say():
    check_plan((*pipeline.STAGES, *pipeline.CEILINGS))
    assert tuple(stage.name for stage in pipeline.STAGES) == STAGE_NAMES
    assert all("true labels" not in stage.given for stage in pipeline.STAGES)
    clues, proposals, wsod = pipeline.STAGES[:3]
    with pytest.raises(ValueError, match=r"wsod reads \['proposals'\], which no stage before it makes"):
        check_plan((clues, wsod, proposals))
    with pytest.raises(ValueError, match=r"wsod says that it reads \('clues',\), its function takes"):
        check_plan((clues, dataclasses.replace(wsod, inputs=("clues",))))
    with pytest.raises(ValueError, match=r"clues wants \['test tags'\], which no run is given"):
        check_plan((dataclasses.replace(clues, given=("test tags",)),))


def test_a_stage_gets_its_inputs_and_keeps_its_outputs(scenes, tmp_path):
    run = open_run(toy_settings(scenes, tmp_path))
    run.results.update(first=2)
    two = {"given": (), "files": (), "inputs": ("first", "second"), "optional": frozenset({"second"})}
    Stage("both", outputs=("sum", "missing"), make=lambda run, first, second: (first + 1, second is None), **two).run(
        run
    )
    assert run.results == {"first": 2, "sum": 3, "missing": True}


@pytest.mark.parametrize("record", [True, False])
def test_a_folder_of_an_older_version_is_refused(scenes, tmp_path, record):
    old = {"run.json": {"settings": {}, "versions": {"weaksam": "0.1.0"}}} if record else {}
    for name, content in {**old, "log.jsonl": {"time": "2026-01-01T00:00:00Z", "event": "dataset"}}.items():
        (tmp_path / name).write_text(json.dumps(content) + "\n")
    with pytest.raises(UserError, match=rf"weaksam 0\.2 or newer, found {tmp_path}, made by 0\.1.*another out=DIR"):
        pipeline.run(toy_settings(scenes, tmp_path))
    if record:
        with pytest.raises(UserError, match=r"weaksam 0\.2 or newer"):
            pipeline.rewrite_report(tmp_path)


def kill_when(settings: RunSettings, pattern: str) -> None:
    """Start a run in a process of its own and kill it as soon as a file matching ``pattern`` is below ``out``."""
    process = PROCESSES.Process(target=pipeline.run, args=(settings,))
    process.start()
    while process.is_alive() and not any(settings.out.glob(pattern)):
        time.sleep(0.002)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"the run ended before {pattern} appeared"


@pytest.mark.slow
def test_killed_run_resumes_to_the_same_bytes(scenes, unbroken, tmp_path):
    out = tmp_path / "killed"
    settings = toy_settings(scenes, out)
    kill_when(settings, "proposals/store/train-*/part-00000-*.parquet")
    assert not list(out.glob("proposals/store/train-*/manifest.json"))
    kill_when(settings, "wsod/store/weights-*/state.safetensors")
    assert not list(out.glob("wsod/store/weights-*/manifest.json"))
    pipeline.run(settings)
    assert made_files(out) == made_files(unbroken)
    assert measured(out) == measured(unbroken)


def test_rerun_computes_nothing_and_keeps_the_times(scenes, unbroken):
    before, times = made_files(unbroken), json.loads((unbroken / "metrics.json").read_text())["stages"]
    stores = {path: path.stat().st_mtime_ns for path in unbroken.glob("*/store/*/*")}
    pipeline.rewrite_report(unbroken)
    assert made_files(unbroken) == before
    assert {path: path.stat().st_mtime_ns for path in unbroken.glob("*/store/*/*")} == stores
    assert json.loads((unbroken / "metrics.json").read_text())["stages"] == times


@pytest.mark.slow
def test_own_photos_without_truth_give_the_same_labels(scenes, unbroken, tmp_path, capsys):
    out = tmp_path / "own"
    pipeline.run(toy_settings(scenes, out, truth=False))
    labels = {name: content for name, content in made_files(unbroken).items() if name.endswith("_train.json")}
    own = made_files(out)
    # Category and image ids are 1, 2, .. in both: the truth file counts in the order of the sorted names
    assert {name: own[name] for name in labels} == labels
    assert not [name for name in own if "test" in name]
    said = capsys.readouterr().out
    assert "Nothing was evaluated" in said and "1 photos were set aside" in said
    figures = {row["stage"]: row["figures"] for row in json.loads((out / "metrics.json").read_text())["stages"]}
    choice = figures.pop("retrain").pop("choice")
    assert (
        all(row["signal"] > 0 for row in choice["candidates"].values())
        and choice["best"] is None
        and not any(figures.values())
    )


def test_no_stage_sees_the_truth(scenes, tmp_path):
    run = open_run(toy_settings(scenes, tmp_path))
    assert run.truths["train"] is not None and run.truths["test"] is not None
    assert all(sample.truth is None and sample.tags for sample in run.context.train)
    assert all(sample.truth is None and not sample.tags for sample in run.context.test)
    assert without_truth(run.true_train).fingerprint == run.true_train.fingerprint


def test_a_key_changes_with_what_matters(scenes, tmp_path):
    def keys(*more: str) -> list[str]:
        run = open_run(toy_settings(scenes, tmp_path, *more))
        return [run.key(stage.name) for stage in pipeline.STAGES]

    plain = keys()
    assert keys("device=auto", "evaluation.interpolation=11-point", f"out={tmp_path / 'other'}") == plain
    assert [new != old for new, old in zip(keys("seed=1"), plain, strict=True)] == [True] * 6
    changed = [new != old for new, old in zip(keys("wsod.hidden=17"), plain, strict=True)]
    assert changed == [False, False, True, True, True, True]


def test_from_a_stage_wants_the_ones_before(scenes, unbroken):
    with pytest.raises(UserError, match=r"stage proposals .* other settings.* 'weaksam proposals"):
        pipeline.run(toy_settings(scenes, unbroken, "proposals.max_proposals=7"), start="wsod", until="wsod")
    pipeline.run(toy_settings(scenes, unbroken), start="wsis", until="wsis")


def run_as_second(settings: RunSettings, until: str) -> None:
    os.environ[HELPER] = "1"
    pipeline.run(settings, until=until)


def files_up_to_proposals(out: Path) -> dict[str, bytes]:
    return {name: content for name, content in made_files(out).items() if name.startswith(("clues", "proposals"))}


def test_several_processes_share_the_proposals(scenes, unbroken, tmp_path):
    settings = toy_settings(scenes, tmp_path / "shared")
    second = PROCESSES.Process(target=run_as_second, args=(settings, "proposals"))
    second.start()
    pipeline.run(settings, until="proposals")
    second.join()
    assert second.exitcode == 0
    assert made_files(settings.out) == files_up_to_proposals(unbroken)


def test_a_rank_that_no_launcher_set_runs_alone_and_says_so(scenes, unbroken, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    pipeline.run(toy_settings(scenes, unbroken), until="clues")
    assert "this process runs on its own" in " ".join(capsys.readouterr().err.split())


def test_a_process_without_a_first_one_says_for_whom_it_waits_and_ends(scenes, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(HELPER, "1")
    monkeypatch.setattr("weaksam.pipeline.owning.SILENT_SECONDS", 0.0)
    monkeypatch.setattr("weaksam.pipeline.owning.JOIN_SECONDS", 0.3)
    with pytest.raises(UserError, match="wanted the first process of the run in"):
        pipeline.run(toy_settings(scenes, tmp_path / "nobody"), until="proposals")
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("waits for the first process of the run in") == 1


@pytest.mark.slow
def test_helpers_share_the_proposals_and_change_nothing(scenes, unbroken, tmp_path):
    settings = toy_settings(scenes, tmp_path / "helped", "workers=2")
    pipeline.run(settings, until="proposals")
    assert made_files(settings.out) == files_up_to_proposals(unbroken)


def test_workers_are_as_set_or_one_a_core_where_the_tree_has_many_photos(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("weaksam.pipeline.state.processors", lambda: 3)
    assert open_run(toy_settings(scenes, tmp_path, "workers=2")).num_workers == 2
    few = open_run(toy_settings(scenes, tmp_path))
    assert few.num_workers == 1
    monkeypatch.setattr("weaksam.pipeline.state.PHOTOS_WORTH_HELP", 2)
    assert few.num_workers == 3


def test_ceiling_needs_the_truth(scenes, tmp_path):
    settings = toy_settings(scenes, tmp_path / "ceiling", "ceiling=true", truth=False)
    with pytest.raises(UserError, match=r"ceiling=true.*data\.train\.truth"):
        pipeline.run(settings)


def test_seconds_of_a_killed_stage_are_not_lost(scenes, tmp_path):
    run = open_run(toy_settings(scenes, tmp_path))
    note = tmp_path / "clues" / "done.json"
    note.parent.mkdir()
    part = note.parent / "part"
    part.touch()
    os.utime(part, (1060.0, 1060.0))
    note.write_text(json.dumps({"key": run.key("clues"), "finished": False, "seconds": 5.0, "began": 1000.0}))
    os.utime(note, (1000.0, 1000.0))
    assert run.timed("clues", lambda: "made") == "made"
    assert 65.0 <= run.note("clues")["seconds"] < 66.0
    assert run.timed("clues", lambda: time.sleep(0.05)) is None
    assert run.note("clues")["seconds"] < 66.0 and run.finished("clues")


def test_without_truth_keeps_the_rest(scenes, tmp_path):
    train = open_run(toy_settings(scenes, tmp_path)).true_train
    blind = without_truth(train)
    assert [dataclasses.replace(s, truth=None) for s in train] == list(blind.samples) and blind.bad == train.bad
