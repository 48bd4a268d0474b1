"""WeSAM on a few rendered scenes with sam_nano and a random SAM: what moves, what stays, figures, resume, files."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.helpers import CPU, random_sam
from tests.recipes.sam_adaptation.toys import adaptation, settings
from weaksam.config import UserError
from weaksam.engine.output_folder import owned
from weaksam.pipeline.adaptation_sheet import write_sheet
from weaksam.recipes.sam_adaptation import adapt, evaluate, export, text
from weaksam.recipes.sam_adaptation.anchor import packed_bits, unpacked
from weaksam.recipes.sam_adaptation.measuring import instance_scores
from weaksam.recipes.sam_adaptation.recipe import photos_of, training_photos
from weaksam.sam.build import SegmenterSettings, build_segmenter


def test_scores_of_instances_by_hand() -> None:
    masks, truth = torch.zeros(3, 2, 2, dtype=torch.bool), torch.zeros(3, 2, 2, dtype=torch.bool)
    masks[0, 0], truth[0, :, 0] = True, True  # one of three pixels
    truth[1, 0, 0] = True
    assert instance_scores(masks, truth).tolist() == [pytest.approx([1 / 3, 1 / 2]), [0.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize("prompt", ["box", "point", "coarse_box"])
def test_a_step_moves_the_updates_alone(scenes: Path, tmp_path: Path, prompt: str) -> None:
    ours = adaptation(settings(scenes, tmp_path, f"prompt={prompt}"))
    before = {name: value.clone() for name, value in ours.network.network.state_dict().items()}
    anchor = {name: value.clone() for name, value in ours.anchor.network.network.state_dict().items()}
    optimizer = torch.optim.Adam(ours.weights.parameters(), lr=1e-2)
    for batch in ours.batches(0):
        losses = ours.losses(batch)
        assert set(losses) == {"focal", "dice", "iou", "anchor", "contrast"}
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
    changed = {
        name for name, value in ours.network.network.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed and all(name.rpartition(".")[2] in ("a", "b") for name in changed)
    assert all(torch.equal(value, anchor[name]) for name, value in ours.anchor.network.network.state_dict().items())


def test_at_first_teacher_and_anchor_are_one(scenes: Path, tmp_path: Path) -> None:
    ours = adaptation(settings(scenes, tmp_path))
    photo = ours.photo(0, 0)
    with torch.no_grad():
        seen = ours.network.encode([photo.weak.pixels])
        anchored = ours.anchor.encoded(photo.weak.pixels, photo.key)
    assert torch.equal(ours.network.embedding(seen, 0), ours.network.embedding(anchored, 0))


@pytest.mark.parametrize("prompt", ["box", "point"])
def test_what_is_kept_of_the_anchor_changes_no_gradient(scenes: Path, tmp_path: Path, prompt: str) -> None:
    gradients = []
    for room in (1.0, 0.0):
        ours = adaptation(settings(scenes, tmp_path, f"max_cache_gib={room}", f"prompt={prompt}"))
        batch = next(iter(ours.batches(0)))
        for _ in range(2):  # the second time from what was kept
            ours.weights.zero_grad()
            torch.stack(list(ours.losses(batch).values())).sum().backward()
        assert (len(ours.anchor.answers if prompt == "box" else ours.anchor.features) > 0) == (room > 0)
        gradients.append([parameter.grad.clone() for parameter in ours.weights.parameters()])
    assert all(torch.equal(kept, plain) for kept, plain in zip(*gradients, strict=True))


def test_bits_are_packed_and_unpacked() -> None:
    masks = torch.rand(3, 32, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(unpacked(packed_bits(masks)), masks) and packed_bits(masks).shape == (3, 4)
    assert packed_bits(torch.tensor([[True, False, True] + [False] * 5])).tolist() == [[5]]


def test_switches_leave_losses_out(scenes: Path, tmp_path: Path) -> None:
    ours = adaptation(settings(scenes, tmp_path, "anchor=false", "contrast=false"))
    assert set(ours.losses(next(iter(ours.batches(0))))) == {"focal", "dice", "iou"}
    supervised = adaptation(settings(scenes, tmp_path, "targets=true"))
    assert set(supervised.losses(next(iter(supervised.batches(0))))) == {"focal", "dice", "iou"}


def test_a_run_writes_updates_that_the_segmenter_takes_and_resumes(scenes: Path, tmp_path: Path) -> None:
    wanted = settings(scenes, tmp_path / "out", "lr=0.01")
    figures = adapt(wanted)
    lora = tmp_path / "out" / "lora.safetensors"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["adapted"] == figures["adapted"]
    assert figures["direct"] != figures["adapted"] and 0 < figures["direct"]["box"]["iou"] <= 1
    assert figures["direct"]["box"]["num_photos"] == 2 and "logit 0.5" in figures["direct"]["box"]["protocol"]
    assert evaluate(wanted) == figures["direct"] and evaluate(wanted, lora) == figures["adapted"]
    assert "adapted IoU" in text(figures) and text({}).startswith("nothing was measured")
    plain = build_segmenter(SegmenterSettings(family="nano"), CPU)
    adapted = build_segmenter(SegmenterSettings(family="nano", lora=lora), CPU)
    assert adapted.fingerprint != plain.fingerprint
    sheet = write_sheet(wanted.model_copy(update={"pictures": 5}), lora)
    assert sheet == wanted.out / "compared.png"
    with Image.open(sheet) as drawn:  # both photos, three drawings of each
        assert drawn.width > 3 * 320 and 2 * 320 < drawn.height < 3 * 320
    assert write_sheet(wanted.model_copy(update={"pictures": 0}), lora) is None
    assert "in its weights" in export(wanted, lora, tmp_path / "merged.safetensors")
    again = wanted.segmenter.model_copy(update={"weights": tmp_path / "merged.safetensors"})
    assert evaluate(wanted.model_copy(update={"segmenter": again})) == figures["adapted"]
    written = lora.read_bytes()
    adapt(wanted)
    assert lora.read_bytes() == written
    with pytest.raises(UserError, match="adapt-sam"):
        adapt(settings(scenes, tmp_path / "out", "lr=0.02"))


def test_sam_itself_is_adapted(scenes: Path, tmp_path: Path) -> None:
    torch.save(random_sam(0).state_dict(), tmp_path / "sam.pth")
    more = ["segmenter.family=segment_anything", f"segmenter.weights={tmp_path / 'sam.pth'}", "prompt=point"]
    ours = adaptation(settings(scenes, tmp_path, *more))
    losses = ours.losses(next(iter(ours.batches(0))))
    torch.stack(list(losses.values())).sum().backward()
    assert all(name.endswith("qkv") for name in ours.layers)
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in ours.weights.parameters())


def test_pseudo_boxes_of_a_run_prompt_too(scenes: Path, tmp_path: Path) -> None:
    truth = photos_of(settings(scenes, tmp_path).data.train, "train")
    run = tmp_path / "run"
    (run / "pseudo_gt").mkdir(parents=True)
    (run / "pseudo_gt" / "train.json").write_text(_boxes_alone(scenes / "instances_train.json"))
    wanted = settings(scenes, tmp_path / "out", "prompts=pseudo_gt", f"run={run}")
    photos, source = training_photos(wanted)
    assert not photos.has_masks and "made from tags" in source and len(photos) == len(truth)
    view = photos.view(0, 64)
    assert view.masks.any(dim=2).any(dim=1).all()
    assert adapt(wanted)["prompts_from"] == source


def _boxes_alone(path: Path) -> str:
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation.pop("segmentation", None)
    return json.dumps(content)


def test_a_folder_in_use_is_refused(tmp_path: Path, scenes: Path) -> None:
    with owned(tmp_path / "out", "another run"), pytest.raises(UserError, match="for this run alone"):
        adapt(settings(scenes, tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


def test_what_cannot_be_used_is_one_sentence(scenes: Path, tmp_path: Path) -> None:
    for more, wanted in (
        (["segmenter.family=tree"], "found tree"),
        (["prompts=pseudo_gt"], "set run to its folder"),
        (["prompts=pseudo_gt", f"run={tmp_path}"], "wanted the pseudo boxes of a run"),
        (["prompts=pseudo_gt", f"run={tmp_path}", "targets=true"], "set prompts=given"),
        (["prompts=pseudo_gt", f"run={tmp_path}", "prompt=coarse_box"], "set prompt=box or point"),
        (["data.train.truth=null"], "set data.train.truth"),
        (["prompt=scribble"], "prompt"),
    ):
        with pytest.raises(UserError, match=wanted) as error:
            adapt(settings(scenes, tmp_path / "out", *more))
        assert "\n" not in str(error.value)
    (tmp_path / "boxes.json").write_text(_boxes_alone(scenes / "instances_train.json"))
    for more, wanted in (
        ([f"data.train.truth={tmp_path / 'boxes.json'}", "targets=true"], "for targets=true, found boxes"),
        (
            [f"data.test.truth={tmp_path / 'boxes.json'}", f"data.test.images={scenes / 'train'}"],
            "masks of the test photos",
        ),
    ):
        with pytest.raises(UserError, match=wanted):
            adapt(settings(scenes, tmp_path / "out", *more))


def test_a_photo_with_one_instance_has_no_contrast(scenes: Path, tmp_path: Path) -> None:
    ours = adaptation(settings(scenes, tmp_path, "most_masks=1"))
    losses = ours.losses(next(iter(ours.batches(0))))
    assert losses["contrast"].item() == 0.0
