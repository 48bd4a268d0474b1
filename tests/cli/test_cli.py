"""The command line: quick help, the commands that need no training, and one sentence for every mistake."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from tests.helpers import ROOT
from weaksam import cli
from weaksam.cli import arguments, stages
from weaksam.config import UserError
from weaksam.stages import STAGE_NAMES
from weaksam.store.sealed import open_sealed


def invoke(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def photos(tmp_path):
    """Twelve photos of noise, half cats and half dogs by their tags, in ``tmp_path / photos`` and ``tags.json``."""
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0)
    for name in "abcdefghijkl":
        Image.fromarray(noise.integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(folder / f"{name}.jpg")
    tags = {f"{name}.jpg": ["cat" if name < "g" else "dog"] for name in "abcdefghijkl"}
    (tmp_path / "tags.json").write_text(json.dumps(tags))
    return folder


def test_help_does_not_import_torch():
    code = (
        "import sys\n"
        "from weaksam.cli import main\n"
        "sys.argv = ['weaksam', *sys.argv[1:]]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'scipy', 'pyarrow', 'PIL', 'yaml'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    for words in (["--help"], ["run", "--help"], ["data", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        assert "Usage: weaksam" in done.stdout


def test_help_tells_the_exit_codes():
    told = invoke("--help").stdout.split("Exit codes:")[1].splitlines()[1:]
    assert [int(line.split()[0]) for line in told if line.strip()] == [0, 1, 2, 130, 141, 143]


def test_help_lists_the_stages_as_the_data_flows():
    listed = [
        line.split()[0]
        for line in invoke("--help").stdout.split("Commands:")[1].split("Exit codes:")[0].splitlines()
        if line.strip()
    ]
    assert listed[:7] == ["run", *(name.replace("_", "-") for name in STAGE_NAMES)]


def test_split_arguments():
    assert arguments.split_arguments(None) == (None, [])
    assert arguments.split_arguments(["seed=1", "a/b.yaml", "out=x=y"]) == (Path("a/b.yaml"), ["seed=1", "out=x=y"])
    with pytest.raises(UserError, match=r"one config file .* 'seed' and '3'"):
        arguments.split_arguments(["seed", "3"])


def test_command_line_options_win_over_overrides():
    settings = arguments.load_run_settings(
        ["seed=1", "out=here"], images=Path("photos"), tags=None, out=Path("there"), seed=5
    )
    assert (settings.seed, settings.out, settings.data.train.images) == (5, Path("there"), Path("photos"))


def refused(*arguments: object) -> str:
    """The one sentence on stderr of a command that a user got wrong."""
    result = invoke(*arguments)
    assert result.exit_code == 2, (result.output, result.exception)
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("weaksam: "), result.stderr
    assert "Traceback" not in result.output
    return lines[0]


def test_missing_folder(tmp_path):
    missing = tmp_path / "no_such_photos"
    said = refused("run", "--images", missing, "--tags", tmp_path / "tags.csv", "--out", tmp_path / "out")
    assert str(missing) in said


def test_no_photos_named(tmp_path):
    assert "--images DIR" in refused("run", f"out={tmp_path}")


def test_missing_config_misspelt_key_and_wrong_type(tmp_path):
    assert "nowhere.yaml" in refused("run", tmp_path / "nowhere.yaml")
    assert "wsod.num_epochs" in refused("run", "wsod.num_epoch=3")
    assert "seed" in refused("run", "seed=many")


def test_proposals_want_nothing_but_photos(photos, tmp_path):
    for name in "abcdefghijkl":  # folders are no tags here
        folder = photos / ("first" if name < "e" else "second")
        folder.mkdir(exist_ok=True)
        (photos / f"{name}.jpg").rename(folder / f"{name}.jpg")
    (photos / "first" / "broken.jpg").write_bytes(b"\xff\xd8\xff not the rest of a photo")
    out = tmp_path / "out"
    result = invoke("proposals", "--images", photos, "--out", out)
    assert result.exit_code == 0, (result.output, result.exception)
    (store,) = out.glob("proposals/store/train-*")
    assert f"proposals of train: {store}" in result.stdout and "broken.jpg" in result.stdout
    opened = open_sealed(store)
    assert opened.image_ids == tuple(f"{'first' if name < 'e' else 'second'}/{name}.jpg" for name in "abcdefghijkl")
    assert all(len(row["boxes"]) > 0 and set(row["sources"].tolist()) == {0} for row in opened.rows())
    before = {path: path.stat().st_mtime_ns for path in store.iterdir()}
    assert invoke("proposals", "--images", photos, "--out", out).exit_code == 0
    shown = invoke("proposals", "--images", photos, "--out", out, "--quiet")
    assert (shown.stdout, shown.stderr) == (f"report: {out / 'report.html'}\n", "")
    shown = invoke("proposals", "--images", photos, "--out", out, "--json")
    assert json.loads(shown.stdout) == json.loads((out / "metrics.json").read_text())
    assert "(finished before)" in shown.stderr and "report: " in shown.stderr
    assert (out / "example.png").is_file() and "first picture" in result.stdout and "first picture" not in shown.stderr
    assert {path: path.stat().st_mtime_ns for path in store.iterdir()} == before
    assert invoke("report", out).exit_code == 0
    assert "prompted the segmenter tree" in json.loads((out / "metrics.json").read_text())["note"]
    said = refused("wsod", "--images", photos, "--out", out, "data.without_tags=true")
    assert "wanted tags" in said


def test_sam_option_names_the_segmenter(photos, tmp_path):
    (tmp_path / "page.pth").write_bytes(b"<!DOCTYPE html><html><body>Sign in</body></html>")
    said = refused("proposals", "--images", photos, "--out", tmp_path / "out", "--sam", tmp_path / "page.pth")
    assert "web page" in said and "page.pth" in said


def test_unknown_class_and_empty_tag_file(photos, tmp_path):
    (tmp_path / "typo.json").write_text(json.dumps({"a.jpg": ["cat"], "b.jpg": ["dgo"]}))
    command = ("run", "--images", photos, "--out", tmp_path / "out", "backbone.weights=none")
    said = refused(*command, "--tags", tmp_path / "typo.json", "data.classes=[cat, dog]")
    assert "dgo" in said and "dog" in said
    (tmp_path / "empty.csv").write_text("")
    assert "empty.csv" in refused(*command, "--tags", tmp_path / "empty.csv")


@pytest.mark.parametrize(
    "name, content, wanted",
    [
        ("page.pth", b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page"),
        ("short.safetensors", b"\x08\x00\x00", "short.safetensors"),
    ],
)
def test_weights_that_are_none(photos, tmp_path, name, content, wanted):
    (tmp_path / name).write_bytes(content)
    said = refused(
        *("run", "--images", photos, "--tags", tmp_path / "tags.json", "--out", tmp_path / "out"),
        f"backbone.weights={tmp_path / name}",
    )
    assert wanted in said


def test_weights_of_another_architecture(photos, tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "resnet.safetensors")
    said = refused(
        *("run", "--images", photos, "--tags", tmp_path / "tags.json", "--out", tmp_path / "out"),
        f"backbone.weights={tmp_path / 'resnet.safetensors'}",
    )
    assert "mobilenet_v2" in said


def test_unknown_stage_and_unfinished_stage(photos, tmp_path):
    command = ("run", "--images", photos, "--tags", tmp_path / "tags.json", "backbone.weights=none")
    assert "clues, proposals" in refused(*command, "--out", tmp_path / "out", "--until", "proposal")
    said = refused(*command, "--out", tmp_path / "out", "--from", "wsod")
    assert "clues" in said and "weaksam clues" in said


def test_tools_refuse_in_the_same_way(photos, tmp_path, monkeypatch, capsys):
    data = (f"data.train.images={photos}", f"data.train.tags={tmp_path / 'tags.json'}", f"out={tmp_path / 'out'}")
    monkeypatch.setattr(sys, "argv", ["train_wsod.py", *data, "backbone.weights=none"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / "tools" / "train_wsod.py"), run_name="__main__")
    said = capsys.readouterr().err
    assert end.value.code == 2 and "weaksam clues" in said and said.count("\n") == 1


def test_ctrl_c_says_how_to_resume(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "load_run_settings", interrupted)
    result = invoke("run")
    assert result.exit_code == 130 and "rerun the same command to resume" in result.stderr


def test_data_check_lists_and_changes_nothing(photos, tmp_path):
    command = ("data", "check", "--images", photos, "--tags", tmp_path / "tags.json")
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    (photos / "b.jpg").write_bytes(b"not a photo")
    before = {path.name: path.read_bytes() for path in photos.iterdir()}
    result = invoke(*command)
    assert result.exit_code == 1
    assert [line for line in result.stdout.splitlines() if "b.jpg" in line]
    shown = json.loads(invoke(*command, "--json").stdout)
    assert shown["read"] + shown["problems"] == result.stdout.splitlines()
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before


def test_data_synth_is_seeded(tmp_path):
    for out in ("one", "two"):
        result = invoke("data", "synth", tmp_path / out, "--train", 2, "--test", 1, "--seed", 3, "size=64")
        assert result.exit_code == 0, result.output
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert len(files) == 3 + 4
    assert all((tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in files)


@pytest.fixture
def results(tmp_path):
    """Truth of two images with one cat each and a dog, and detections that find one cat and miss the dog."""
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 100, "height": 100} for number in (1, 2)]
    boxes = [(1, 1, [0, 0, 10, 10]), (2, 1, [50, 50, 20, 20]), (2, 2, [0, 0, 30, 30])]
    annotations = [
        {"id": n, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for n, (image, category, box) in enumerate(boxes, start=1)
    ]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    (tmp_path / "truth.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    found = [
        {"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 10], "score": 0.9},
        {"image_id": 2, "category_id": 1, "bbox": [0, 50, 20, 20], "score": 0.8},
    ]
    (tmp_path / "found.json").write_text(json.dumps(found))
    return tmp_path


def test_eval_measures_files(results):
    command = ("eval", "--truth", results / "truth.json", "--detections", results / "found.json")
    figures = json.loads(invoke(*command, "--metrics", "voc,corloc,coco", "--json").stdout)
    # One of two cats found, ranked first: AP 0.5; no dog found: 0
    assert figures["voc"]["per_class"]["0.5"] == [0.5, 0.0]
    # The cat's best box is right in image 1 of two; the dog has no box in its one image
    assert figures["corloc"]["per_class"] == [0.5, 0.0]
    # COCO reads precision at 101 recalls 0, 0.01, ..: 51 of them lie at 0.5 or below
    assert figures["coco"]["per_class"] == pytest.approx([51 / 101, 0.0])
    text = invoke(*command).stdout
    assert "cat: 0.500" in text and text.count("protocol: ") == 3


def test_eval_refuses_unknown_metrics_and_absent_masks(results):
    command = ("eval", "--truth", results / "truth.json", "--detections", results / "found.json", "--metrics")
    assert "voc11" in refused(*command, "map50")
    assert "masks" in refused(*command, "mask")


def test_eval_filters_and_says_so(results):
    found = json.loads((results / "found.json").read_text())
    # A second, worse box on the cat of image 1, and a false one better than all: precision at the hits 1/2, 2/3
    found += [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 9], "score": 0.3}]
    found += [{"image_id": 2, "category_id": 1, "bbox": [80, 80, 10, 10], "score": 0.95}]
    (results / "found.json").write_text(json.dumps(found))
    command = ("eval", "--truth", results / "truth.json", "--detections", results / "found.json", "--json")

    def measured(*options):
        figures = json.loads(invoke(*command, *options).stdout)
        assert all(words in one["protocol"] for one in figures.values() for words in wanted), figures
        return figures["voc"]["per_class"]["0.5"][0], figures["voc"]["num_detections"][0]

    wanted = ["no further NMS", "all boxes of an image"]
    assert measured("--metrics", "voc") == (0.25, 4)  # one of two cats, second in rank: 1/2 of 1/2
    wanted = ["NMS at IoU 0.3 per class", "at most 1 boxes per image", "scores of at least 0.5"]
    assert measured("--nms", 0.3, "--max-boxes", 1, "--min-score", 0.5) == (0.25, 2)
    assert "IoU threshold" in refused(*command, "--nms", 1.5)
    wanted = []
    assert measured("--metrics", "voc", "--min-score", 0.96) == (0.0, 0)


def test_eval_of_inclusive_corners(results):
    found = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 10, 4.5], "score": 0.9}]
    (results / "found.json").write_text(json.dumps(found))
    command = ("eval", "--truth", results / "truth.json", "--detections", results / "found.json", "--metrics", "voc")
    # Half-open 10 x 4.5 in 10 x 10 is IoU 0.45; with the last pixel inside 11 x 5.5 in 11 x 11 is 0.5
    for options, ap in (((), 0.0), (("--pixel-inclusive",), 0.5)):
        figures = json.loads(invoke(*command, "--json", *options).stdout)
        assert figures["voc"]["per_class"]["0.5"][0] == ap
    said = refused("eval", "--truth", results, "--detections", results / "found.json", "--pixel-inclusive")
    assert "two COCO files" in said


def test_report_wants_the_folder_of_a_run(tmp_path):
    assert "run.json" in refused("report", tmp_path)


def test_an_error_nobody_foresaw_is_a_sentence_unless_debugging(monkeypatch, capsys):
    def command() -> None:
        raise RuntimeError("the\nlast part is missing")

    with pytest.raises(typer.Exit) as ended:
        arguments.guarded(command)()
    assert ended.value.exit_code == 1
    said = capsys.readouterr().err
    assert said == (
        "weaksam: an error nobody foresaw (RuntimeError: the last part is missing): set WEAKSAM_DEBUG=1 to see where\n"
    )
    monkeypatch.setenv("WEAKSAM_DEBUG", "1")
    with pytest.raises(RuntimeError):
        arguments.guarded(command)()
