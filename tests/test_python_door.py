"""The names of ``import weaksam``: cheap to import, hidden by no submodule, and used as docs/python.md shows them."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import pkgutil
import re
import subprocess
import sys
from types import CodeType, FunctionType

import numpy as np
import pytest
import torch

import weaksam
from tests.helpers import ROOT
from weaksam.data.formats.coco import write_results
from weaksam.models.backbones.colours import CaffeColours
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.pipeline.door import overrides_of, settings_of
from weaksam.pipeline.settings import RunSettings
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.scenes.synthetic import SceneSettings, write_dataset
from weaksam.stages.proposals import ProposalSettings, propose_encoded
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.seeds.mist import MistSettings
from weaksam.structures.clue_points import CluePoints

NAMES = {
    *("Dataset", "Instances", "Prediction", "Predictor", "RunResult", "UserError"),
    *("evaluate", "load", "load_dataset", "propose", "run"),
}


def examples(page: str) -> list[str]:
    """The Python blocks of a page of Markdown."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def test_the_names_are_there_after_every_submodule_was_imported():
    for module in pkgutil.walk_packages(weaksam.__path__, "weaksam."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert set(weaksam.__all__) == NAMES | {"__version__"}
    assert all(callable(getattr(weaksam, name)) for name in NAMES)
    assert all(name in dir(weaksam) for name in NAMES)
    assert issubclass(weaksam.UserError, ValueError)
    with pytest.raises(AttributeError, match="no attribute 'predictt': it offers Dataset, Instances"):
        weaksam.predictt  # noqa: B018


def test_the_stub_for_type_checkers_names_the_same():
    imports = [
        node
        for node in ast.parse((ROOT / "weaksam" / "__init__.pyi").read_text()).body
        if isinstance(node, ast.ImportFrom)
    ]
    assert {alias.asname or alias.name for node in imports for alias in node.names} == NAMES
    for node in imports:
        for alias in node.names:
            assert getattr(importlib.import_module(node.module), alias.name) is getattr(
                weaksam, alias.asname or alias.name
            )


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'torch', 'torchvision', 'pyarrow', 'scipy', 'pydantic'}"
    code = f"import sys, weaksam; dir(weaksam); sys.exit(' '.join({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "\n")  # an empty message: none of them was imported


def run_example(code: CodeType, names: dict) -> None:
    """Run a block of the page in ``names``, as a notebook runs its cells."""
    FunctionType(code, names)()


@pytest.mark.slow
def test_the_examples_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "example"}
    for block in examples("docs/python.md"):
        run_example(compile(block, "docs/python.md", "exec"), names)
    said = capsys.readouterr().out
    assert "found nothing there" in said and "scenes/tags.json" in said  # the error of the example
    run, dataset = names["run"], names["dataset"]
    assert [row["stage"] for row in run.metrics["stages"]] == ["clues", "proposals", "wsod", "pseudo_gt", "retrain"]
    assert repr(run) == "RunResult(run: clues, proposals, wsod, pseudo_gt, retrain)"
    assert len(names["proposals"]) > 0 and all(0 < len(boxes) <= 20 for boxes in names["boxes"].values())
    assert set(names["boxes"]) == set(dataset.image_ids) == set(run.pseudo_gt) == set(run.detections["train"])
    assert run.classes == dataset.classes and run.report().is_file()
    assert run.model.architecture == "faster_rcnn" and run.model is run.model
    assert names["names"] == [f"test_0000{number}.jpg" for number in range(4)] and names["stream"].bad == {}
    assert len(names["entries"]) == len(names["prediction"]) and names["picture"].size == (64, 64)
    assert "0.5" in names["figures"]["voc"]["mean"]
    assert names["same"]["voc"]["mean"] == names["figures"]["voc"]["mean"]  # of the chosen detections, both ways
    assert names["in_memory"]["voc"]["num_detections"] != [] and names["peaks"].tolist() == [[30, 20]]
    assert len(names["masks"].rles) == len(names["believed"]) <= len(names["detections"])
    for missing in ("masks", "instance_detections"):
        with pytest.raises(weaksam.UserError, match="found that it ended with retrain: run it again until='wsis'"):
            getattr(run, missing)


def test_the_ten_lines_name_what_is_there():
    (block,) = re.findall(r"```\n(import weaksam.*?)```", (ROOT / "docs" / "python.md").read_text(), flags=re.DOTALL)
    attributes = {node.attr for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Attribute)}
    offered = {*dir(weaksam), *dir(weaksam.RunResult), *dir(weaksam.Prediction), *dir(weaksam.Predictor)}
    assert attributes - offered - {"name", "metrics", "tolist", "save"} == set()
    assert len([line for line in block.splitlines() if line.strip()]) <= 10


def test_readme_shows_names_that_are_there():
    used = {name for block in examples("README.md") for name in re.findall(r"weaksam\.(\w+)", block)}
    assert used and used <= NAMES


def test_propose_is_the_function_of_the_stage():
    photo = np.zeros((48, 64, 3), np.uint8)
    photo[10:30, 20:40] = (200, 40, 40)
    segmenter = build_segmenter(SegmenterSettings(), torch.device("cpu"))
    proposals = weaksam.propose(photo, sam=segmenter, max_proposals=7)
    settings = ProposalSettings(max_proposals=7)
    wanted = propose_encoded(segmenter, segmenter.encode(photo), CluePoints.none(), settings)
    assert len(wanted) and torch.equal(proposals.boxes, wanted.boxes) and proposals.rles == wanted.rles
    assert torch.equal(weaksam.propose(photo, max_proposals=7).boxes, wanted.boxes)  # the offline default
    several = weaksam.propose([photo, photo[:20]], sam=segmenter, max_proposals=7)
    assert len(several) == 2 and torch.equal(several[0].boxes, wanted.boxes)
    ((name, streamed),) = weaksam.propose(iter([photo]), sam=segmenter, max_proposals=7)
    assert name == "photo 0" and torch.equal(streamed.boxes, wanted.boxes)
    with pytest.raises(weaksam.UserError, match="wanted a single photo for clue points"):
        weaksam.propose([photo], clues=CluePoints.none())


@pytest.mark.parametrize(
    ("image", "settings", "said"),
    [
        (np.zeros((8, 8), np.uint8), {}, r"uint8 RGB of shape \(H, W, 3\), found uint8 of shape \(8, 8\)"),
        (np.zeros((8, 8, 3), np.float32), {}, "found float32"),
        ("nowhere.jpg", {}, "nowhere.jpg"),
        (np.zeros((32, 32, 3), np.uint8), {"max_proposal": 3}, "did you mean 'max_proposals'"),
        (np.zeros((32, 32, 3), np.uint8), {"sam": "nowhere.pth"}, "nowhere.pth"),
    ],
)
def test_propose_refuses_in_one_sentence(image, settings, said):
    with pytest.raises(weaksam.UserError, match=said):
        weaksam.propose(image, **settings)


def test_settings_are_nested_mappings_or_dotted_keys(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("wsod: {num_epochs: 3, hidden: 16}\nseed: 4\n")
    settings = settings_of(config, {"wsod": {"num_epochs": 5}, "out": "2024", "evaluation.ious": [0.5]})
    assert (settings.wsod.num_epochs, settings.wsod.hidden, settings.seed) == (5, 16, 4)
    assert (str(settings.out), settings.evaluation.ious) == ("2024", (0.5,))
    again = settings_of(settings, {"seed": 9})
    assert (again.seed, again.wsod, again.out) == (9, settings.wsod, settings.out)
    assert settings_of(None, {}) == RunSettings()
    assert overrides_of({"clues": {}, "seed": 1}) == ["seed=1"]
    with pytest.raises(weaksam.UserError, match="num_epochs"):
        settings_of(None, {"wsod": {"num_epoch": 1}})


def test_settings_keep_the_kind_of_a_tagged_section() -> None:
    """A section made in Python says its kind by its class alone."""
    wsod = WsodSettings(seeds=MistSettings(share=0.2))
    given = RunSettings(wsod=wsod, backbone=BackboneSettings(colours=CaffeColours(mean=(1, 2, 3))))
    settings = settings_of(given, {"wsod.lr": 0.5})
    assert settings.wsod.seeds == wsod.seeds and settings.backbone == given.backbone and settings.wsod.lr == 0.5
    assert settings_of(None, {"wsod": wsod}).wsod == wsod


def test_detections_in_memory_are_measured_as_their_files_are(tmp_path):
    """Against a split that was read; what does not fit together is refused."""
    write_dataset(tmp_path, SceneSettings(size=64, num_classes=2), num_train=1, num_test=3, seed=0)
    test = weaksam.load_dataset(tmp_path / "test", truth=tmp_path / "instances_test.json", name="test")
    rng = np.random.default_rng(0)
    detections = {
        image_id: objects.replace(scores=torch.from_numpy(rng.random(len(objects)).astype(np.float32)))
        for image_id, objects in list(test.truths.items())[1:]
    }
    write_results(tmp_path / "detections.json", test, detections)
    truth = tmp_path / "instances_test.json"
    from_files = weaksam.evaluate(tmp_path / "detections.json", truth, ["voc", "coco", "mask", "corloc"])
    in_memory = weaksam.evaluate(detections, test, ["voc", "coco", "mask", "corloc"])
    for name in ("voc", "coco", "mask", "corloc"):
        without = {"protocol": ""}
        assert in_memory[name] | without == from_files[name] | without
    assert 0 < in_memory["voc"]["mean"]["0.5"] < 1  # a photo has none
    for arguments, said in [
        ((detections, truth), "wanted two files, or detections and a split that was read, found one of each"),
        (({"no.jpg": next(iter(detections.values()))}, test), r"found 1 other photos \(no\.jpg\)"),
        ((detections, dataclasses.replace(test, samples=())), "wanted the true objects of test, found none"),
        ((detections, test, ["ap"]), "wanted metrics among"),
    ]:
        with pytest.raises(weaksam.UserError, match=said):
            weaksam.evaluate(*arguments)
