"""Concealed objects from tags alone: the missing stages of the run whose boxes prompt, resume, ranks, and errors."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from tests.helpers import Stopped, toy_run, write_photo
from tests.ranks import on_ranks
from weaksam.config import UserError, load_settings
from weaksam.pipeline import plan
from weaksam.pipeline.concealed import run_concealed
from weaksam.pipeline.concealed_boxes import finish_boxes
from weaksam.pipeline.running import run_stages
from weaksam.pipeline.settings import RunSettings
from weaksam.recipes.concealed import ConcealedSettings
from weaksam.recipes.concealed.fused_labels import PSEUDO_GT, boxes_of_run

TOY = (
    "backbone.name=mobilenet_v2 backbone.weights=none network.channels=16 training.side=48 training.num_epochs=1 "
    "training.batch_size=2 labels.prompt=boxes labels.views=0 labels.select=false segmenter.family=nano device=cpu"
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with five tagged photos (train) and config.yaml, which makes boxes of them."""
    folder = tmp_path_factory.mktemp("scenes")
    write_config(folder / "config.yaml", toy_run(folder))
    return folder


def write_config(path: Path, overrides: Sequence[str]) -> None:
    values = load_settings(RunSettings, None, overrides).model_dump(mode="json", exclude_unset=True)
    path.write_text(yaml.safe_dump(values))


def settings(scenes: Path, out: Path, *more: str) -> ConcealedSettings:
    given = [f"data.train.images={scenes / 'train'}", f"out={out}", *TOY.split(), *more]
    return load_settings(ConcealedSettings, None, given)


def files_of(folder: Path) -> dict[str, bytes]:
    """What must not depend on a kill: the boxes, the labels and the network."""
    paths = [folder / "boxes" / PSEUDO_GT, folder / "model.safetensors", *sorted((folder / "labels").rglob("part-*"))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def whole(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unbroken run from tags."""
    out = tmp_path_factory.mktemp("whole") / "out"
    assert run_concealed(settings(scenes, out, f"labels.config={scenes / 'config.yaml'}")) is not None
    return out


@pytest.mark.slow
def test_a_config_with_tags_makes_boxes_that_prompt(whole: Path, scenes: Path) -> None:
    assert not (whole / "boxes" / "retrain").exists()  # no stage more than boxes need
    boxes = boxes_of_run(whole / "boxes", scenes / "train")
    assert sum(map(len, boxes.values())) > 0
    before = {path: path.stat().st_mtime_ns for path in (whole / "boxes").rglob("*.json")}
    run_concealed(settings(scenes, whole, f"labels.config={scenes / 'config.yaml'}"))
    run_concealed(settings(scenes, whole, f"labels.run={whole / 'boxes'}"))  # the same folder, named
    assert {path: path.stat().st_mtime_ns for path in before} == before  # finished: only read


@pytest.mark.slow
@pytest.mark.parametrize("name", ["wsod", "pseudo_gt"])
def test_a_killed_run_goes_on_to_the_same_bytes(whole: Path, scenes: Path, tmp_path: Path, monkeypatch, name) -> None:
    wanted = settings(scenes, tmp_path / "out", f"labels.config={scenes / 'config.yaml'}")

    def stop(*_: object, **__: object) -> None:
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(plan.wsod if name == "wsod" else plan.pseudo_gt_stage, "run", stop)
        with pytest.raises(Stopped):
            run_concealed(wanted)
    assert not (tmp_path / "out" / "labels").exists()
    run_concealed(wanted)
    assert files_of(tmp_path / "out") == files_of(whole)


@pytest.mark.slow
def test_an_unfinished_run_is_finished_by_its_record(whole: Path, scenes: Path, tmp_path: Path) -> None:
    of_run = load_settings(RunSettings, scenes / "config.yaml", [f"out={tmp_path / 'run'}"])
    run_stages(of_run, None, "proposals")
    finish_boxes(settings(scenes, tmp_path / "out", f"labels.run={tmp_path / 'run'}"))
    assert (tmp_path / "run" / PSEUDO_GT).read_bytes() == (whole / "boxes" / PSEUDO_GT).read_bytes()
    # Boxes of other settings, of which the record knows no more, are made anew
    run_stages(of_run.model_copy(update={"seed": 1}), None, "proposals")
    finish_boxes(settings(scenes, tmp_path / "out", f"labels.run={tmp_path / 'run'}"))
    assert (tmp_path / "run" / PSEUDO_GT).read_bytes() != (whole / "boxes" / PSEUDO_GT).read_bytes()


def _on_rank(scenes: Path, out: Path) -> bool:
    return run_concealed(settings(scenes, out, f"labels.config={scenes / 'config.yaml'}")) is not None


@pytest.mark.slow
def test_two_processes_make_the_boxes_together(scenes: Path, tmp_path: Path) -> None:
    assert on_ranks(2, tmp_path / "meet", _on_rank, scenes, tmp_path / "out") == [True, False]
    assert len(boxes_of_run(tmp_path / "out" / "boxes", scenes / "train")) == 5
    assert (tmp_path / "out" / "report.html").is_file()


def test_what_cannot_make_boxes_is_one_sentence(scenes: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for number in range(2):
        write_photo(photos / f"{number}.png", number, (24, 32))
    (tmp_path / "bare.yaml").write_text("seed: 1\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    config = f"labels.config={scenes / 'config.yaml'}"
    for more, wanted in (
        ([f"labels.run={tmp_path}"], "or the run.json of one that made some of its stages, found neither"),
        ([config, f"labels.run={tmp_path / 'out'}"], "wanted a folder of its own for the run that makes boxes"),
        ([f"labels.config={tmp_path / 'none.yaml'}"], "wanted a YAML file at"),
        ([f"labels.config={tmp_path / 'list.yaml'}"], "wanted a mapping of settings"),
        (
            [f"labels.config={tmp_path / 'bare.yaml'}"],
            r"wanted tags .* found none in .*bare\.yaml: set data\.train\.tags",
        ),
        ([config, f"data.train.images={photos}"], r"found 2 that are not in its .*0\.png"),
        ([config, f"data.train.images={tmp_path / 'nothing'}"], "wanted"),
    ):
        with pytest.raises(UserError, match=wanted) as error:
            finish_boxes(settings(scenes, tmp_path / "out", *more))
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()
    finish_boxes(settings(scenes, tmp_path / "out", "targets=true"))  # which no boxes prompt
