"""The recipe on a few rendered streets with small networks: targets, turns, both phases, resume, prediction, errors."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.commands import invoke
from tests.helpers import CPU
from weaksam.config import UserError, load_settings
from weaksam.engine.output_folder import owned
from weaksam.models.semantic.network import build_segformer
from weaksam.pipeline.panorama import run_panorama
from weaksam.recipes.panorama import PanoramaSettings, load_student, predict, text
from weaksam.recipes.panorama.assistant import stitched_logits
from weaksam.recipes.panorama.fusion import FusionSettings, fuse
from weaksam.recipes.panorama.pseudo_maps import as_row, ensemble_on_grid, from_row
from weaksam.recipes.panorama.student import turned
from weaksam.scenes.panoramas import StreetSettings, write_panoramas
from weaksam.structures.mask_runs import MaskRuns
from weaksam.structures.masks import rle_from_mask
from weaksam.structures.panorama_windows import PanoramaWindows

SHORT = (
    "assistant.variant=nano",
    "student.variant=nano",
    "assistant.steps=2",
    "rectification.steps=2",
    "threads=1",
    "windows.size=[32,64]",
)


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streets")
    write_panoramas(folder, StreetSettings(height=32, photo_size=32, rays=1), 2, 1, 3, seed=0)
    return folder


def settings(streets: Path, out: Path, *more: str) -> PanoramaSettings:
    given = [f"out={out}", *SHORT, "student.steps=3", "student.batch_size=1", *more]
    return load_settings(PanoramaSettings, streets / "panorama.yaml", given)


def test_stitched_logits_are_those_of_each_window() -> None:
    network = build_segformer("nano", 3, seed=0).eval()
    panorama = torch.randint(0, 256, (3, 32, 64), dtype=torch.uint8)
    windows = PanoramaWindows((32, 32), (32, 16))
    stitched = stitched_logits(network, panorama, windows)
    with torch.no_grad():
        each = [network(panorama.roll(-left, 2)[None, :, :, :32]).logits[0] for left in (0, 16, 32, 48)]
    wanted = torch.zeros(3, 8, 16)
    for number, logits in enumerate(each):
        for column in range(8):
            wanted[:, :, (4 * number + column) % 16] += logits[:, :, column] / 2
    assert torch.allclose(stitched, wanted, atol=1e-5)


def test_fusions_there_and_back() -> None:
    logits = torch.randn(3, 8, 12) * 4
    masks = torch.rand(6, 8, 12) < torch.rand(6, 1, 1)
    runs = MaskRuns.of_rles([rle_from_mask(mask) for mask in masks], (8, 12))
    fusion = fuse(logits, runs, FusionSettings(part_share=0.1, whole_share=0.2))
    back = from_row(as_row(fusion, 3), (8, 12))
    assert torch.equal(back.labels, fusion.labels) and torch.equal(back.writer >= 0, fusion.writer >= 0)
    assert torch.equal(back.ensemble(logits), fusion.ensemble(logits))
    small = torch.randn(3, 2, 3)
    on_grid = ensemble_on_grid(small, back)
    writer, changed = fusion.writer[2::4, 2::4], (on_grid != small).any(dim=0)
    assert torch.equal(changed, writer >= 0)


def test_labels_turn_with_the_panorama() -> None:
    panorama, labels = torch.rand(3, 8, 16), torch.arange(16).expand(8, 16)
    for columns, mirrored in ((4, False), (12, True)):
        shown, told_classes = turned(panorama, columns, mirrored), turned(labels, columns, mirrored)
        assert torch.equal(shown, panorama[:, :, told_classes[0]])
    assert turned(torch.arange(4), 1, False).tolist() == [3, 0, 1, 2]
    assert turned(torch.arange(4), 1, True).tolist() == [2, 1, 0, 3]


@pytest.mark.slow
def test_a_run_makes_a_student_and_resumes_to_the_same_bytes(streets: Path, tmp_path: Path) -> None:
    wanted = settings(streets, tmp_path / "out", "measure_ensemble=true")
    figures = run_panorama(wanted)
    student = tmp_path / "out" / "student.safetensors"
    measured = ("assistant_whole", "assistant_windows", "rectified_windows", "ensemble", "student")
    assert all(0 <= figures[name]["mean_iou"] <= 1 for name in measured)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["student"] == figures["student"]
    assert "rectified windows" in text(figures) and text({}).startswith("nothing was measured")
    assert figures["assistant_windows"] != figures["rectified_windows"]
    written = student.read_bytes()
    events = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    losses = {event["label"]: set(event["losses"]) for event in events if event["event"] == "epoch"}
    assert losses["panorama student"] == {"labels", "logits", "features"}
    assert losses["panorama rectification"] == {"consistency", "boundary", "photos"}
    run_panorama(wanted)  # all of it is there
    assert student.read_bytes() == written
    student.unlink()
    for name in ("manifest.json", "weights.safetensors"):
        (tmp_path / "out" / "student" / name).unlink()
    run_panorama(wanted)  # the student once more
    assert student.read_bytes() == written
    with pytest.raises(UserError, match="panorama student trained with other settings"):
        run_panorama(settings(streets, tmp_path / "out", "student.lr=0.5"))

    shutil.move(tmp_path / "out" / "student", tmp_path / "kept")
    upper_bound = run_panorama(settings(streets, tmp_path / "out", "student.targets=true"))  # beside what is there
    assert "rectified_windows" not in upper_bound and student.read_bytes() != written
    student.write_bytes(written)

    photo = streets / "test" / "images" / "00000.png"
    result = invoke("panorama", "predict", str(student), str(photo), "--out", str(tmp_path / "maps"), "--device", "cpu")
    assert "1 panoramas" in result.output and "7 car" in result.output
    loaded = load_student(student, CPU)
    image = np.array(Image.open(photo))
    labels = np.array(Image.open(tmp_path / "maps" / "00000.png"))
    assert np.array_equal(labels, loaded.segment(image)) and labels.shape == (32, 128)
    assert np.array(Image.open(tmp_path / "maps" / "00000_picture.jpg")).shape == (32, 128, 3)
    truth = np.array(Image.open(streets / "test" / "labels" / "00000.png"))
    assert (labels == truth).mean() == pytest.approx(figures["student"]["accuracy"])
    Image.fromarray(image[:, :100]).save(tmp_path / "narrow.png")
    with pytest.raises(UserError, match="as the student was trained on"):
        predict(loaded, [tmp_path / "narrow.png"], tmp_path / "maps")
    with pytest.raises(UserError, match="different names"):
        predict(loaded, [photo, photo], tmp_path / "maps")
    with pytest.raises(UserError, match="another file"):
        load_student(tmp_path / "out" / "student" / "weights.safetensors", CPU)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "losses"),
    [
        (("student.targets=true",), {"labels"}),  # which no assistant teaches: nothing is rectified
        (("student.targets=assistant", "rectification.steps=0", "student.feature_weight=0"), {"labels", "logits"}),
        (("student.windows=0", "student.logit_weight=0", "rectification.steps=0"), {"labels"}),
        (("phases=joint",), {"labels", "logits", "features", "consistency", "boundary"}),
    ],
)
def test_targets_and_phases(streets: Path, tmp_path: Path, more: tuple[str, ...], losses: set[str]) -> None:
    figures = run_panorama(settings(streets, tmp_path, *more))
    events = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    seen = [set(event["losses"]) for event in events if event.get("label") == "panorama student"]
    assert seen[0] == losses and "student" in figures
    masks = (tmp_path / "windows").exists()
    assert masks == (not any("targets=" in setting for setting in more))


@pytest.mark.slow
def test_a_student_may_start_from_the_assistant(streets: Path, tmp_path: Path) -> None:
    more = ("student.start=assistant", "student.steps=0", "rectification.steps=2")
    figures = run_panorama(settings(streets, tmp_path, *more))
    assert figures["student"]["confusion"] == figures["assistant_whole"]["confusion"]  # not the rectified one
    with pytest.raises(UserError, match=r"found SegFormer-NANO and student\.variant=b0: set both"):
        run_panorama(settings(streets, tmp_path / "other", "student.start=assistant", "student.variant=b0"))


@pytest.mark.slow
def test_a_student_keeps_the_colours_that_it_began_with(streets: Path, tmp_path: Path) -> None:
    build_segformer("nano", 8, seed=0).network.save_pretrained(tmp_path / "grey")
    colours = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.6, 0.5, 0.4]}
    (tmp_path / "grey" / "preprocessor_config.json").write_text(json.dumps(colours))
    given = f"weights={tmp_path / 'grey'}"
    for name, more in (("given", (f"student.{given}",)), ("copied", (f"assistant.{given}", "student.start=assistant"))):
        out = tmp_path / name
        figures = run_panorama(settings(streets, out, "student.steps=0", "rectification.steps=0", *more))
        student = load_student(out / "student.safetensors", CPU)
        assert student.network.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
        image, truth = (np.array(Image.open(streets / "test" / kind / "00000.png")) for kind in ("images", "labels"))
        assert (student.segment(image) == truth).mean() == pytest.approx(figures["student"]["accuracy"])


def test_a_folder_in_use_is_refused(tmp_path: Path, streets: Path) -> None:
    with owned(tmp_path / "out", "another run"), pytest.raises(UserError, match="for this run alone"):
        run_panorama(settings(streets, tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


def test_what_cannot_be_used_is_one_sentence(streets: Path, tmp_path: Path) -> None:
    build_segformer("nano", 5, seed=0).network.save_pretrained(tmp_path / "five")
    for more, wanted in (
        (("data.photos=null",), "set one of assistant.weights and data.photos"),
        ((f"assistant.weights={tmp_path / 'five'}",), "8 classes of the labels, found 5"),
        ((f"student.weights={tmp_path / 'five'}", "rectification.steps=0"), "a student of 8 classes, found 5"),
        (("data.vertical_degrees=180",), r"set data\.vertical_degrees to what its height covers \(90"),
        (("windows.size=[30,32]",), "multiples of 4"),
        (("windows.stride=[32,68]",), "lower the stride"),
        (("phases=joint", "student.targets=true"), "set student.targets=ensemble"),
        (("student.start=assistant", "student.weights=x"), "leave one out"),
        (("data.classes=null",), "set data.classes"),
    ):
        with pytest.raises(UserError, match=wanted) as error:
            run_panorama(settings(streets, tmp_path / "out", *more))
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_an_assistant_of_transformers_is_used_as_it_is(streets: Path, tmp_path: Path) -> None:
    build_segformer("nano", 8, seed=0).network.save_pretrained(tmp_path / "eight")
    more = (f"assistant.weights={tmp_path / 'eight'}", "data.photos=null", "rectification.steps=0", "max_masks=1")
    figures = run_panorama(settings(streets, tmp_path / "out", *more))
    assert "rectified_windows" not in figures and not (tmp_path / "out" / "assistant").exists()
