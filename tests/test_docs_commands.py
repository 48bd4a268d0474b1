"""Every command of the README and the pages runs: on a finished toy run and its photos, or it is listed with a reason.

A page's commands run in their order, in a copy of one folder, as the page has them but for what `as_written_here` puts
in the place of a reader's own names. The recipes' commands run in tests/test_recipes.py and tests/test_dino_recipes.py.
"""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import pytest
import yaml

import weaksam
from tests.commands import invoke
from tests.helpers import ROOT, TOY_RUN, pickled
from weaksam import pipeline
from weaksam.config import load_settings
from weaksam.data.formats.voc import write_annotations
from weaksam.data.formats.voc_lists import write_split
from weaksam.data.formats.voc_results import write_results
from weaksam.data.images import read_image
from weaksam.pipeline.settings import RunSettings
from weaksam.scenes.synthetic import SceneSettings, write_dataset

pytestmark = pytest.mark.slow

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_RUN = {
    r"^make |^pip install|^\.venv/bin/": "sets up an environment or runs the tests: continuous integration does it",
    r"^tools/dist_train\.sh": "wants several GPUs: tests/pipeline/test_ranks.py runs the script with two processes",
    r"--launcher ": "starts processes on GPUs, Slurm or Ray: tests/engine/test_launchers.py and its siblings do",
    r"^tools/slurm_train\.sh": "wants a Slurm cluster: tests/test_recipes.py runs the script where there is none",
    r"facebook/|sam_vit_|sam-hq|--sam \.\.\.|dino_r50\.pth": "wants a download: tests/sam has toy models of each kind",
    r"^cd mmdet_data|^python train\.py": "wants mmdet, which no package index has for this Python",
    r"^weaksam review apply": "wants decisions made in the page: tests/pipeline/test_review.py makes and applies some",
    r"configs/(voc|coco|weaktr)": "a published recipe: tests/test_recipes.py and its siblings run each on toy data",
    r"^python benchmarks/|^OMP_NUM_THREADS=1 ": "measures for minutes: tests/ has a test of its own for each benchmark",
    r"roi-drop plot .*--stage wsis": "reads a longer training: tests/pipeline/test_roi_drop.py has it",
    r"^cd MODEL": "runs where weaksam is not installed: tests/prediction/test_onnx_runner.py has it",
    r"^weaksam convert-weights": "wants the published shape: tests/models/detectors/test_foreign_names.py has it",
    r"^weaksam data corrupt": "wants an extra: tests/data/test_corruptions.py has it",
    r"adapt-sam|segmenter\.lora": "wants masks of instances: tests/recipes/sam_adaptation adapts and measures",
    r"^weaksam concealed|^weaksam data camouflage": "trains a network: tests/recipes/concealed does it on four scenes",
    r"eval-maps": "wants a folder of maps: tests/evaluation/test_map_files.py runs it",
    r"weaksam panorama": "trains four times: tests/recipes/panorama does, on small streets and with small networks",
    r"\.\./shared/": "reads photos that are not in the repository",
    r"^weaksam: ": "is what a command says",
}
"""What does not run here, by the command's pattern, and why."""
FINDS = r"data check"
"""Commands that may end with 1, since so small a set has something to find."""
RUNS = ("run", "clues", "proposals", "wsod", "pseudo-gt", "retrain", "wsis", "plan")


def commands(text: str) -> Iterator[str]:
    """The command lines in the fenced blocks of a page but for Python's, continued lines joined, comments left out."""
    for language, block in re.findall(r"(?m)^```(\w*)\n(.*?)^```", text, flags=re.DOTALL):
        if language in ("", "bash"):
            for line in re.sub(r"\\\n\s*", " ", block).splitlines():
                line = re.sub(r"\s+#.*", "", line).strip()
                if re.match(r"(weaksam|python|pip|make|cd|tools/|OMP_|\.venv/)", line):
                    yield line


def reason_not_to_run(command: str) -> str | None:
    return next((reason for pattern, reason in NOT_RUN.items() if re.search(pattern, command)), None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, their tags and truth, a finished toy run of them, and the files that pages name."""
    folder = tmp_path_factory.mktemp("commands")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_dataset(Path(), SceneSettings(size=64, num_classes=2, max_clutter=2, max_distractors=1), 5, 2, seed=1)
        settings = [*TOY_RUN, *(f"data.{split}.{kind}={path}" for split, kind, path in DATA), "out=work_dirs/custom"]
        write_config(Path("configs/custom.yaml"), settings)
        for section in ("retrain", "wsis"):
            others = [setting for setting in settings if not setting.startswith(f"{section}.")]
            write_config(Path(f"configs/without_{section}.yaml"), others)
        shutil.copy("configs/custom.yaml", "run.yaml")
        pipeline.run(load_settings(RunSettings, None, settings))
        write_what_pages_name()
    return folder


CHECKPOINT = "work_dirs/custom/retrain/checkpoint.safetensors"
DATA = [
    (split, kind, path.format(split))
    for split in ("train", "test")
    for kind, path in (("images", "{}"), ("tags", "tags_{}.json"), ("truth", "instances_{}.json"))
]


WORDS = (
    (r"OUT/(\S+?)-[0-9a-f]{4,}(\.\.\.)?", r"STORE/\1"),
    (r"\bOUT\b|\bwork_dirs/(DIR|photos)\b", "work_dirs/custom"),
    (r"--images DIR|--images IMAGES", "--images train"),
    (r"images=DIR", "images=train"),
    (r"\btruth=instances\.json", "truth=instances_test.json"),
    (r"\binit DIR", "init photos --force"),
    (r"\binit photos --config", "init photos --force --config"),
    (r"--out DIR", "--out made"),
    (r"\bout=DIR", "out=made"),
    (r"\bFILE\b", "tags_train.json"),
    (r"\bPHOTO\b|\bIMG_1\.jpg|\bIMG_0001\b", "train_00000.jpg"),
    (r"\bNEW\b", "test"),
    (r"\bCONFIG\b", "configs/custom.yaml"),
    (r"\bSOURCE\b", "labels.json"),
    (r"num_epochs=\d+", "num_epochs=1"),
    (r"--train 160 --test 60", "--train 3 --test 1"),
    (r"--size \d+x\d+", "--size 64x64"),
    (r"\s*\[[^\]]*\]|\s*>\s*\S+$", ""),
)
"""What a page writes for a reader's own names, and what it is here; trainings are cut to an epoch, scenes to four."""

QUERY_NETWORKS = {
    "dino": ("retrain", "embed_dims=32 norm_groups=8 ffn_dims=16 encoder_layers=1 decoder_layers=1 num_queries=10"),
    "mask2former": (
        "wsis",
        "crop_size=64 channels=32 encoder_layers=1 decoder_layers=1 encoder_width=16 decoder_width=16 num_queries=5 "
        "losses.num_points=64",
    ),
}
"""Sections of networks that are none of the toy run's, and their toy size."""


def as_written_here(command: str, folder: Path) -> list[str]:
    """The arguments of a page's command in ``folder``, behind ``weaksam`` or ``python``."""
    of_train = re.search(r"train-|_train|masks\.json|boxes\.json", command)
    command = re.sub(r"truth instances\.json", f"truth instances_{'train' if of_train else 'test'}.json", command)
    for pattern, word in WORDS:
        command = re.sub(pattern, word, command)
    arguments = shlex.split(command)[1:]
    for number, argument in enumerate(arguments):
        if "STORE/" in argument:  # of the run's stores the one that begins so
            before, begins = argument.split("STORE/")
            (store,) = (folder / "work_dirs" / "custom").glob(f"{begins}-*")
            arguments[number] = before + str(store.relative_to(folder))
    for kind, (section, small) in QUERY_NETWORKS.items():
        if re.search(rf"[=]{kind}", command):
            arguments = [f"configs/without_{section}.yaml" if a == "configs/custom.yaml" else a for a in arguments]
            sizes = f"{small} num_epochs=1 short_side=64 long_side=64 max_boxes=5 batch_size=8"
            arguments += [f"{section}.{setting}" for setting in sizes.split()]
    if (arguments[0] in RUNS and arguments[1] not in ("eval", "export")) or arguments[0].startswith("tools/"):
        if not any(argument.startswith("configs/") for argument in arguments):  # which hold these
            arguments += TOY_RUN
        elif any("=" in argument for argument in arguments) and not re.search(r"\bout=", command):
            arguments.append("out=work_dirs/other")  # of other settings: the finished run stays as it is
    return arguments


def write_what_pages_name() -> None:
    """Files of a reader and of other tools, in the working directory: labels, detections, proposals, photos."""
    run = Path("work_dirs/custom")
    for source, name in (
        ("instances_test.json", "instances.json"),
        ("instances_train.json", "labels.json"),
        (run / "wsis/detections_test.json", "results.json"),
        (run / "retrain/detections_test.json", "selective_search.json"),
        (run / "pseudo_gt/train.json", "boxes.json"),
        (run / "wsis/pseudo_masks_train.json", "masks.json"),
    ):
        shutil.copy(source, name)
    for split in ("train", "test"):
        shutil.copytree(split, Path("photos") / split)
    shutil.copytree("test", "new_photos")
    shutil.copytree(run, "work_dirs/other")
    shutil.copy("instances_test.json", "photos/instances_test.json")
    tags = json.loads(Path("tags_train.json").read_text())
    for path in ("tags.csv", "photos/tags.csv"):
        Path(path).write_text("".join(f"{name},{';'.join(of)}\n" for name, of in tags.items()))
    # VOC's layout of the test photos, and detections as its kit writes them
    test = weaksam.load_dataset("test", truth="instances_test.json", name="test")
    write_annotations(Path("VOC2007/Annotations"), test, {sample.image_id: sample.truth for sample in test})
    write_split(Path("VOC2007/ImageSets/Main"), "test", {}, [Path(name).stem for name in test.image_ids])
    detections = weaksam.load(CHECKPOINT).predict("test")
    write_results(
        Path("results"), test, {prediction.name: prediction.instances for prediction in detections}, split="test"
    )
    # Another tool's proposals: a pickle of boxes for the photos of a list, and two sets to compare
    names = sorted(path.stem for path in Path("train").glob("*.jpg"))
    boxes = [np.array([[2, 2, 40, 40], [10, 5, 50, 60]], np.float32) for _ in names]
    pickled(Path("voc_2007_trainval.pkl"), boxes)
    shutil.copytree("train", "JPEGImages")
    for path in (Path("ImageSets/Main/trainval.txt"), Path("trainval.txt")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names))
    (store,) = run.glob("proposals/store/test-*")
    for name in ("A", "B"):
        shutil.copytree(store, name)
    shutil.copytree("VOC2007/Annotations", "Annotations")
    shutil.copytree(store, "stores/test")


def exit_code(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """The exit code of a page's command, run in this process, and what it says or raises."""
    arguments = as_written_here(command, folder)
    if command.startswith("weaksam "):
        result = invoke(*arguments)
        return result.exit_code, f"{arguments}: {result.output[-800:]} {result.exception}"
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")
    return int(end.value.code or 0), str(arguments)


def nested(overrides: list[str]) -> dict[str, Any]:
    """``key=value`` settings as nested sections."""
    content: dict[str, Any] = {}
    for override in overrides:
        key, _, value = override.partition("=")
        *sections, name = key.split(".")
        section = content
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = yaml.safe_load(value)
    return content


def write_config(path: Path, overrides: list[str]) -> None:
    """The YAML file of ``key=value`` settings."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(nested(overrides)))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_commands_of_a_page_run(page: Path, finished: Path, tmp_path: Path, monkeypatch) -> None:
    runnable = [command for command in commands(page.read_text(encoding="utf-8")) if reason_not_to_run(command) is None]
    if not runnable:
        pytest.skip("no command that can run here")
    folder = tmp_path / "here"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    failed = {}
    for command in runnable:
        assert command.startswith(("weaksam ", "python tools/")), f"{command}: run it here, or list it in NOT_RUN"
        code, said = exit_code(command, folder, monkeypatch)
        if code != 0 and not (code == 1 and re.search(FINDS, command)):
            failed[command] = (code, said)
    assert failed == {}


def test_every_reason_is_that_of_a_command() -> None:
    every = [command for page in PAGES for command in commands(page.read_text(encoding="utf-8"))]
    assert len(every) > 100
    for pattern in (*NOT_RUN, FINDS):
        assert any(re.search(pattern, command) for command in every), f"{pattern}: no page has such a command"


PYTHON_ELSEWHERE = {
    "python.md": "tests/test_python_door.py runs it",
    "weaktr.md": "wants a download: tests/models/weaktr loads toy weights of each kind",
}


def python_of(page: Path) -> str:
    """The Python blocks of a page, one after the other."""
    return "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL))


@pytest.mark.parametrize("page", [page for page in PAGES if python_of(page)], ids=lambda path: path.name)
def test_the_python_of_a_page_runs(page: Path, finished: Path, tmp_path: Path, monkeypatch) -> None:
    if page.name in PYTHON_ELSEWHERE:
        pytest.skip(PYTHON_ELSEWHERE[page.name])
    folder = tmp_path / "here"
    shutil.copytree(finished, folder)
    monkeypatch.chdir(folder)
    text = python_of(page).replace('out="work_dirs/mine"', 'out="work_dirs/mine", **toy')
    test = weaksam.load_dataset("test", truth="instances_test.json", name="test")
    names = {
        "toy": nested(TOY_RUN),
        "image": read_image(test.samples[0].path),
        "test": test,
        "detections": {photo.name: photo.instances for photo in weaksam.load(CHECKPOINT).predict("test")},
        "__name__": "example",  # where dataclasses of a page look for their module
    }
    FunctionType(compile(text, str(page), "exec"), names)()
