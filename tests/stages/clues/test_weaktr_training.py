"""WeakTr trains on tags alone: which photos, at which rate, in which precision, to which epoch, and exactly again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from weaksam.config import UserError
from weaksam.engine.log import RunLog
from weaksam.evaluation.tag_ap import tag_mean_average_precision
from weaksam.models.backbones.colours import IMAGENET
from weaksam.models.backbones.inputs import normalise
from weaksam.models.weaktr.build import build_weaktr
from weaksam.models.weaktr.checkpoints import save_weaktr
from weaksam.models.weaktr.losses import class_scores
from weaksam.models.weaktr.network import WeakTr, WeakTrSettings
from weaksam.stages.clues.weaktr_training import (
    WeakTrTrainingSettings,
    learning_rate,
    split_held_out,
    train_weaktr,
    weaktr_folder,
    weaktr_training_fingerprint,
)
from weaksam.stages.clues.weaktr_views import TaggedViews, WeakTrViewSettings, vary_photo, whole_photo
from weaksam.structures.dataset import Dataset, Sample
from weaksam.structures.instances import Instances

CPU = torch.device("cpu")
CLASSES = ("red", "green", "blue")
NETWORK = WeakTrSettings(width=32, depth=2, num_heads=2, patch_size=16, image_size=64, drop_path=0.1)
EASY = WeakTrViewSettings(smallest_crop=0.5, operations=0, erase=0.1)
SHORT = WeakTrTrainingSettings(
    num_epochs=3, batch_size=8, lr=0.6, warmup_epochs=1, weight_decay=0.01, image_size=64, held_out=0.25, views=EASY
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    """32 photos of 60 x 70 pixels with a square of each tagged class's colour on dark noise."""
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    samples = []
    for number in range(32):
        photo = draw.integers(0, 60, (60, 70, 3), dtype=np.uint8)
        tags = tuple(label for label in range(3) if number >> label & 1)
        for label in tags:
            y, x = draw.integers(0, 30, 2)
            photo[y : y + 28, x : x + 28] = 0
            photo[y : y + 28, x : x + 28, label] = 230
        path = folder / f"{number:02}.png"
        Image.fromarray(photo).save(path)
        samples.append(Sample(path.name, path, (60, 70), tags, None, number))
    return Dataset("train", CLASSES, (1, 2, 3), tuple(samples))


def train(dataset: Dataset, out: Path, training: WeakTrTrainingSettings = SHORT, seed: int = 0) -> WeakTr:
    return train_weaktr(dataset, NETWORK, training, out=out, seed=seed, device=CPU)


def folder_of(dataset: Dataset, out: Path, training: WeakTrTrainingSettings = SHORT) -> Path:
    return weaktr_folder(out, weaktr_training_fingerprint(dataset, NETWORK, training, 0))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Which photos


def test_held_out_photos_follow_from_the_seed_and_leave_every_class_a_photo():
    tags = torch.zeros(20, 3)
    tags[:10, 0], tags[10:18, 1], tags[18:, 2] = 1, 1, 1
    kept, held = split_held_out(tags, 0.5, seed=1)
    assert sorted(kept + held) == list(range(20)) and len(held) == 10
    assert (kept, held) == split_held_out(tags, 0.5, seed=1) != split_held_out(tags, 0.5, seed=2)
    assert bool((tags[kept].sum(dim=0) >= 1).all())
    rare = torch.eye(4)  # the last photo of each class may not go
    assert split_held_out(rare, 0.9, seed=0) == ([0, 1, 2, 3], [])
    assert split_held_out(tags, 0.0, seed=0)[1] == []
    assert len(split_held_out(torch.zeros(10, 2), 0.3, seed=0)[1]) == 3  # photos without tags may all go


# The rate


def test_learning_rate_by_hand():
    """Peak 0.8 * 64 / 512 = 0.1; a rise from 0.02 over 2 of 8 epochs, then the cosine of 8 epochs down to 0.04."""
    settings = WeakTrTrainingSettings(lr=0.8, num_epochs=8, warmup_epochs=2, warmup_lr=0.02, min_lr=0.04)
    assert [learning_rate(epoch, settings) for epoch in (0, 1, 4, 8)] == pytest.approx([0.02, 0.06, 0.07, 0.04])
    assert learning_rate(2, settings) == pytest.approx(0.04 + 0.06 * (1 + math.sqrt(0.5)) / 2)


def test_the_defaults_are_the_published_recipe():
    settings = WeakTrTrainingSettings()
    assert learning_rate(settings.warmup_epochs - 1e-9, settings) == pytest.approx(5e-5)  # 4e-4 at 64 of 512 photos
    assert (settings.num_epochs, settings.batch_size, settings.weight_decay, settings.image_size) == (60, 64, 0.05, 224)
    assert (settings.warmup_epochs, settings.warmup_lr, settings.min_lr) == (5, 1e-6, 1e-5)
    views = settings.views
    assert (views.operations, views.magnitude, views.magnitude_spread, views.erase) == (2, 9, 0.5, 0.25)


# The views


def photos_of(dataset: Dataset, seed: int = 0, workers: int = 0) -> TaggedViews:
    return TaggedViews(list(dataset), dataset.tag_matrix(), 32, WeakTrViewSettings(), seed, workers)


def views_by_id(photos: TaggedViews, epoch: int, batch_size: int) -> dict[str, torch.Tensor]:
    return {
        image_id: pixels
        for batch in photos.varied(epoch, batch_size)
        for image_id, pixels in zip(batch.image_ids, batch.pixels, strict=True)
    }


def test_a_view_follows_from_seed_photo_and_epoch_alone(dataset):
    first = views_by_id(photos_of(dataset), epoch=3, batch_size=8)
    torch.rand(5)  # neither the global randomness nor batches nor processes matter
    for other in (photos_of(dataset), photos_of(dataset, workers=2)):
        again = views_by_id(other, epoch=3, batch_size=16)
        assert set(again) == set(first) and all(torch.equal(again[key], first[key]) for key in first)
    for other, epoch in ((photos_of(dataset), 4), (photos_of(dataset, seed=1), 3)):
        again = views_by_id(other, epoch, batch_size=8)
        assert not any(torch.equal(again[key], first[key]) for key in first)


def test_varying_photos_leaves_the_global_randomness_alone(dataset):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    views_by_id(photos_of(dataset), 0, 8)
    assert torch.equal(torch.rand(3), wanted)


def test_batches_carry_their_tags_and_leave_the_rest_over(dataset):
    photos = photos_of(dataset)
    batches = list(photos.varied(0, 12))
    assert [len(batch.image_ids) for batch in batches] == [12, 12] and photos.num_batches(12) == 2
    assert photos.num_batches(50) == 1 and len(next(photos.varied(0, 50)).image_ids) == 32
    for batch in batches:
        for image_id, tags in zip(batch.image_ids, batch.tags, strict=True):
            assert tuple(tags.nonzero()[:, 0].tolist()) == dataset.by_id[image_id].tags
    order = [image_id for batch in photos.varied(1, 32) for image_id in batch.image_ids]
    assert sorted(order) == list(dataset.image_ids) != order
    whole = [image_id for batch in photos.whole(5) for image_id in batch.image_ids]
    assert whole == list(dataset.image_ids)


def test_whole_photos_are_stretched_and_normalised():
    photo = torch.zeros(3, 8, 20, dtype=torch.uint8)
    photo[0] = 255
    view = whole_photo(photo, 16)
    assert view.shape == (3, 16, 16)
    torch.testing.assert_close(view[0], torch.full((16, 16), (1 - 0.485) / 0.229))
    torch.testing.assert_close(view[2], torch.full((16, 16), -0.406 / 0.225))


def test_each_change_happens_as_often_as_set():
    """On a square photo a crop of its whole area is the photo itself, so any difference is a change."""
    photo = torch.full((3, 32, 32), 128, dtype=torch.uint8)
    photo[:, :, :4] = 255
    calm = WeakTrViewSettings(smallest_crop=1, flip=False, operations=0, colour_jitter=0, erase=0)
    plain = normalise(photo, IMAGENET)

    def share(num_views: int, **changes) -> float:
        torch.manual_seed(0)
        settings = calm.model_copy(update=changes)
        changed = [(vary_photo(photo, 32, settings) - plain).abs().max() > 1e-3 for _ in range(num_views)]
        return sum(changed) / num_views

    assert share(20) == 0
    assert share(200, erase=0.25) == pytest.approx(0.25, abs=0.08)
    assert share(200, flip=True) == pytest.approx(0.5, abs=0.1)
    assert share(20, colour_jitter=0.4) == 1
    assert 0.2 < share(100, operations=1, magnitude=9) < 0.5  # half of them, and some change nothing here
    assert share(20, smallest_crop=0.08) == 1


# Training


def test_training_learns_is_sealed_and_only_loaded_again(dataset, tmp_path):
    longer = SHORT.model_copy(update={"num_epochs": 6})
    model = train(dataset, tmp_path, longer)
    folder = folder_of(dataset, tmp_path, longer)
    history = json.loads((folder / "manifest.json").read_text())["history"]
    assert set(history[0]) == {"token", "coarse", "fine"}
    assert history[-1]["coarse"] < 0.8 * history[0]["coarse"] and history[-1]["token"] < history[0]["token"]
    assert not model.training
    before = files_of(folder)
    assert set(before) == {"manifest.json", "weights.safetensors", "weaktr.safetensors", "selection.json"}
    again = train(dataset, tmp_path, longer)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
    assert files_of(folder) == before
    (folder / "weaktr.safetensors").unlink()
    with pytest.raises(UserError, match=r"wanted the chosen weights at .*weaktr\.safetensors, found nothing: delete"):
        train(dataset, tmp_path, longer)


@pytest.mark.parametrize("stop_at", [0, 2])
def test_an_interrupted_training_resumes_to_the_same_bytes(dataset, tmp_path, monkeypatch, stop_at):
    train(dataset, tmp_path / "unbroken")
    varied = TaggedViews.varied

    def interrupted(self, epoch, batch_size):
        for number, batch in enumerate(varied(self, epoch, batch_size)):
            if (epoch, number) == (stop_at, 1):
                raise KeyboardInterrupt
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(TaggedViews, "varied", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, tmp_path / "broken")
    assert not (folder_of(dataset, tmp_path / "broken") / "weaktr.safetensors").exists()
    torch.rand(7)
    train(dataset, tmp_path / "broken")
    assert files_of(folder_of(dataset, tmp_path / "broken")) == files_of(folder_of(dataset, tmp_path / "unbroken"))


def test_a_damaged_record_of_held_out_precision_is_one_sentence(dataset, tmp_path, monkeypatch):
    varied = TaggedViews.varied

    def interrupted(self, epoch, batch_size):
        if epoch == 2:
            raise KeyboardInterrupt
        return varied(self, epoch, batch_size)

    with monkeypatch.context() as patch:
        patch.setattr(TaggedViews, "varied", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(dataset, tmp_path)
    path = folder_of(dataset, tmp_path) / "selection.json"
    assert len(json.loads(path.read_text())["precision"]) == 2
    for content in ("", "{}", '{"precision": 3}', '{"precision": [0.5]}', '{"precision": ["x", 0.5]}'):
        path.write_text(content)
        with pytest.raises(UserError, match=r"held-out precision of 2 epochs in .*selection.json, found it missing or"):
            train(dataset, tmp_path)


def test_the_chosen_epoch_ranks_held_out_tags_best(dataset, tmp_path):
    """Measured once more by hand with the chosen network; a rate far too high makes the epochs differ."""
    wild = SHORT.model_copy(update={"lr": 6.0, "num_epochs": 5, "min_lr": 0.05})
    model = train(dataset, tmp_path, wild)
    seen = json.loads((folder_of(dataset, tmp_path, wild) / "selection.json").read_text())["precision"]
    tags = dataset.tag_matrix()
    _, held = split_held_out(tags, 0.25, seed=0)
    photos = TaggedViews([list(dataset)[i] for i in held], tags[held], 64, EASY, 0, 0)
    with torch.no_grad():
        scores = torch.cat([class_scores(model(batch.pixels)) for batch in photos.whole(8)])
    assert len(seen) == 5 and min(seen) < max(seen)
    assert tag_mean_average_precision(scores, tags[held]) == pytest.approx(max(seen))


def test_without_held_out_photos_the_last_epoch_is_kept(dataset, tmp_path):
    settings = SHORT.model_copy(update={"held_out": 0.0, "num_epochs": 1})
    train(dataset, tmp_path, settings)
    folder = folder_of(dataset, tmp_path, settings)
    last, chosen = load_file(folder / "weights.safetensors"), load_file(folder / "weaktr.safetensors")
    assert set(last) == set(chosen) and all(torch.equal(last[key], chosen[key]) for key in last)
    assert not (folder / "selection.json").exists()


def test_true_boxes_have_no_part_in_it(dataset, tmp_path):
    """The same photos with true boxes and without are the same training; other tags or seeds are another."""
    truth = Instances(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0]))
    boxed = Dataset(
        "train",
        CLASSES,
        (1, 2, 3),
        tuple(Sample(s.image_id, s.path, s.size, s.tags, truth, s.number) for s in dataset),
    )
    fewer = Dataset("train", CLASSES, (1, 2, 3), (*dataset.samples[:-1], boxed.samples[0]))
    key = weaktr_training_fingerprint(dataset, NETWORK, SHORT, 0)
    assert weaktr_training_fingerprint(boxed, NETWORK, SHORT, 0) == key
    assert weaktr_training_fingerprint(dataset, NETWORK, SHORT.model_copy(update={"workers": 3}), 0) == key
    changed = [
        weaktr_training_fingerprint(fewer, NETWORK, SHORT, 0),
        weaktr_training_fingerprint(dataset, NETWORK, SHORT, 1),
        weaktr_training_fingerprint(dataset, NETWORK, SHORT.model_copy(update={"lr": 0.1}), 0),
        weaktr_training_fingerprint(dataset, NETWORK.model_copy(update={"depth": 1}), SHORT, 0),
    ]
    assert len({key, *changed}) == 5


def test_no_epochs_take_a_trained_network_as_it_is(dataset, tmp_path):
    model = train(dataset, tmp_path, SHORT.model_copy(update={"num_epochs": 1}))
    save_weaktr(model, tmp_path / "weaktr.safetensors", "f" * 64)
    trained = WeakTrSettings(weights=str(tmp_path / "weaktr.safetensors"))
    none = WeakTrTrainingSettings(num_epochs=0)
    again = train_weaktr(dataset, trained, none, out=tmp_path / "other", seed=1, device=CPU)
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
    assert not again.training and not (tmp_path / "other").exists()
    with pytest.raises(UserError, match="wanted a trained WeakTr, found other weights in none"):
        train_weaktr(dataset, NETWORK, none, out=tmp_path / "other", seed=1, device=CPU)


def test_a_trained_network_is_trained_further_only_where_the_epochs_are_written(dataset, tmp_path, capsys):
    model = build_weaktr(NETWORK, len(dataset.classes))
    save_weaktr(model, tmp_path / "weaktr.safetensors", "f" * 64)
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "weaktr.pth")
    for name in ("weaktr.safetensors", "weaktr.pth"):
        trained = WeakTrSettings(weights=str(tmp_path / name), num_heads=NETWORK.num_heads)
        for training in (WeakTrTrainingSettings(), WeakTrTrainingSettings(lr=0.1)):
            with pytest.raises(UserError, match=rf"found a trained WeakTr in .*{name}: set .*num_epochs=0") as refused:
                train_weaktr(dataset, trained, training, out=tmp_path / "out", seed=0, device=CPU)
            assert "\n" not in str(refused.value)
    log = RunLog(tmp_path / "log.jsonl")
    further = SHORT.model_copy(update={"num_epochs": 1})
    train_weaktr(dataset, trained, further, out=tmp_path / "out", seed=0, device=CPU, log=log)
    assert "weaktr.pth is a trained WeakTr, trained 1 epochs further" in capsys.readouterr().err
    assert "trained 1 epochs further" in (tmp_path / "log.jsonl").read_text()
    train_weaktr(dataset, NETWORK, further, out=tmp_path / "out", seed=0, device=CPU, log=log)
    assert "further" not in capsys.readouterr().err


# Precision


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_sixteen_bits_train_to_finite_float32_weights(dataset, tmp_path, precision):
    settings = SHORT.model_copy(update={"precision": precision, "num_epochs": 1})
    model = train(dataset, tmp_path, settings)
    assert all(tensor.dtype is torch.float32 and bool(tensor.isfinite().all()) for tensor in model.parameters())
    plain = train(dataset, tmp_path, SHORT.model_copy(update={"num_epochs": 1}))
    assert not torch.equal(plain.head.weight, model.head.weight)
    torch.testing.assert_close(model.head.weight, plain.head.weight, atol=2e-2, rtol=0)
