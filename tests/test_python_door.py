"""The names of ``import weaksam``: cheap to import, hidden by no submodule, and used as docs/python.md shows them."""

from __future__ import annotations

import ast
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
from weaksam.models.backbones.colours import CaffeColours
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.pipeline.door import overrides_of, settings_of
from weaksam.pipeline.settings import RunSettings
from weaksam.sam.build import SegmenterSettings, build_segmenter
from weaksam.stages.proposals import ProposalSettings, propose_encoded
from weaksam.stages.wsod import WsodSettings
from weaksam.stages.wsod.seeds.mist import MistSettings
from weaksam.structures.clue_points import CluePoints

NAMES = ("Dataset", "Instances", "UserError", "evaluate", "load_dataset", "propose", "run")


def examples(page: str) -> list[str]:
    """The Python blocks of a page of Markdown."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), flags=re.DOTALL)


def test_the_names_are_there_after_every_submodule_was_imported():
    for module in pkgutil.walk_packages(weaksam.__path__, "weaksam."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    assert set(weaksam.__all__) == {*NAMES, "__version__"}
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
    assert {alias.asname or alias.name for node in imports for alias in node.names} == set(NAMES)
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


def test_the_examples_of_the_page_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "example"}
    for block in examples("docs/python.md"):
        run_example(compile(block, "docs/python.md", "exec"), names)
    said = capsys.readouterr().out
    assert "found nothing there" in said and "scenes/tags.json" in said  # the error of the example
    assert [row["stage"] for row in names["metrics"]["stages"]] == ["clues", "proposals", "wsod", "pseudo_gt"]
    assert 0 < len(names["proposals"]) <= 20
    assert set(names["boxes"]) == set(names["dataset"].image_ids)
    assert "0.5" in names["figures"]["voc"]["mean"]


def test_readme_shows_names_that_are_there():
    used = {name for block in examples("README.md") for name in re.findall(r"weaksam\.(\w+)", block)}
    assert used and used <= set(NAMES)


def test_propose_is_the_function_of_the_stage():
    photo = np.zeros((48, 64, 3), np.uint8)
    photo[10:30, 20:40] = (200, 40, 40)
    segmenter = build_segmenter(SegmenterSettings(), torch.device("cpu"))
    proposals = weaksam.propose(photo, segmenter=segmenter, max_proposals=7)
    settings = ProposalSettings(max_proposals=7)
    wanted = propose_encoded(segmenter, segmenter.encode(photo), CluePoints.none(), settings)
    assert len(wanted) and torch.equal(proposals.boxes, wanted.boxes) and proposals.rles == wanted.rles
    assert torch.equal(weaksam.propose(photo, max_proposals=7).boxes, wanted.boxes)  # the offline default


@pytest.mark.parametrize(
    ("image", "settings", "said"),
    [
        (np.zeros((8, 8), np.uint8), {}, r"uint8 RGB of shape \(H, W, 3\), found uint8 of shape \(8, 8\)"),
        (np.zeros((8, 8, 3), np.float32), {}, "found float32"),
        ("nowhere.jpg", {}, "nowhere.jpg"),
        (np.zeros((32, 32, 3), np.uint8), {"max_proposal": 3}, "did you mean 'max_proposals'"),
        (np.zeros((32, 32, 3), np.uint8), {"segmenter": "nowhere.pth"}, "nowhere.pth"),
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
