"""The recipe on a few scenes: what a run makes, resume to the same bytes, ranks, choice, switches, commands, errors."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from tests.commands import output, refused
from tests.helpers import CPU, ROOT, Stopped
from tests.ranks import on_ranks
from tests.recipes.kills import killed_at
from weaksam.config import UserError, load_settings
from weaksam.engine.output_folder import owned
from weaksam.evaluation.map_files import measure_folders
from weaksam.models.concealed.network import build_concealed_network
from weaksam.pipeline.concealed import run_concealed
from weaksam.recipes.concealed import ConcealedSettings, run, training
from weaksam.recipes.concealed.choosing import recorded_scores
from weaksam.recipes.concealed.photos import load_concealed
from weaksam.recipes.concealed.predicting import MapPredictor
from weaksam.recipes.concealed.training import ConcealedTraining, lr_factor
from weaksam.scenes.camouflage import CamouflageSettings, write_camouflage


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_camouflage(folder, CamouflageSettings(size=64, difference=1.0), 4, 2, 2, seed=1)
    return folder


TOY = (
    "backbone.name=mobilenet_v2 backbone.weights=none network.channels=16 training.side=48 training.num_epochs=2 "
    "training.batch_size=2 training.lr=0.001 labels.views=2 labels.select=false segmenter.family=nano threads=1"
)


def settings(scenes: Path, out: Path, *more: str) -> ConcealedSettings:
    roots = [f"data.{split}.root={scenes / split}" for split in ("train", "validation", "test")]
    return load_settings(ConcealedSettings, None, [*roots, f"out={out}", *TOY.split(), *more])


@pytest.fixture(scope="module")
def finished(scenes: Path, tmp_path_factory: pytest.TempPathFactory):
    """A run with its report, made once."""
    result = run_concealed(settings(scenes, tmp_path_factory.mktemp("run") / "out"))
    assert result is not None
    return result


def test_a_run_makes_maps_figures_and_a_page(finished, scenes: Path) -> None:
    out = finished.settings.out
    figures = json.loads((out / "metrics.json").read_text())
    assert figures["labels"]["kept"] == 4 and 0 <= figures["labels"]["kept_iou"] <= 1
    assert figures["epoch"] in (1, 2) and "validation" in figures["chosen_on"]
    assert "levels as they are" in figures["maps"]["protocol"]
    assert "stretched to 0..1" in figures["maps_min_max"]["protocol"]
    for folder, stretch in (("maps", False), ("maps_min_max", True)):
        again = measure_folders(out / folder, scenes / "test" / "GT", stretch=stretch)
        assert again.figures.as_dict() == {key: figures[folder][key] for key in again.figures.as_dict()}
    with Image.open(out / "maps_min_max" / "test_00000.png") as picture:
        levels = np.asarray(picture)
    assert levels.shape == (64, 64) and levels.min() == 0 and levels.max() == 255
    page = (out / "report.html").read_text()
    for part in (
        "F weighted",
        "Labels of training photos",
        "absolute uncertainty",
        "Maps of test photos",
        "num_epochs",
    ):
        assert part in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # nothing from elsewhere
    assert "F weighted" in finished.text()


def test_the_saved_network_draws_the_same_maps(finished, scenes: Path, tmp_path: Path) -> None:
    out = finished.settings.out
    text = output("concealed", "predict", out / "model.safetensors", scenes / "test" / "Imgs", tmp_path, "--device=cpu")
    assert text.startswith("2 maps")
    for name in ("maps/test_00000.png", "maps_min_max/test_00001.png"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    other = out / "training" / "weights.safetensors"
    assert "wanted a network of 'weaksam concealed run'" in refused("concealed", "predict", other, scenes, tmp_path)


def test_a_second_call_changes_nothing_and_other_settings_are_refused(finished, scenes: Path) -> None:
    out = finished.settings.out
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.name != "log.jsonl"}
    run(finished.settings)
    assert {path: path.read_bytes() for path in before} == before
    with pytest.raises(UserError, match="concealed"):
        run(settings(scenes, out, "training.lr=0.002"))


def _stop_at(calls: int):
    """A target that fails at its n-th call, as if the process was killed there."""
    counted = iter(range(1000))

    def target(photos, image_id):
        if next(counted) >= calls:
            raise Stopped
        mask = photos.mask(image_id).float()
        return mask, torch.ones_like(mask)

    return target


@pytest.mark.slow
@pytest.mark.parametrize("calls", [3, 5, 7])  # within the first epoch, in the second, at its end
def test_a_killed_run_resumes_to_the_same_bytes(scenes: Path, tmp_path: Path, monkeypatch, calls: int) -> None:
    from weaksam.recipes.concealed import recipe

    more = ("targets=true", "data.test=null")
    run(settings(scenes, tmp_path / "whole", *more))
    with monkeypatch.context() as patched:
        patched.setattr(recipe, "_true_target", _stop_at(calls))
        with pytest.raises(Stopped):
            run(settings(scenes, tmp_path / "killed", *more))
    run(settings(scenes, tmp_path / "killed", *more))
    for name in ("model.safetensors", "validation/best.safetensors", "validation/scores.json"):
        whole, resumed = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "killed"))
        assert whole == resumed, name


def _on_rank(scenes: Path, out: Path) -> dict[str, np.ndarray]:
    run(settings(scenes, out, "training.num_epochs=1", "network.grouping=false", "device=cpu"))
    predictor = MapPredictor.load(out / "model.safetensors", CPU)
    return {name: value.numpy().copy() for name, value in predictor.network.state_dict().items()}


@pytest.mark.slow
def test_two_processes_train_as_one_does(scenes: Path, tmp_path: Path) -> None:
    """Labels, batch-norm, losses and the choice of the epoch; dropout alone draws on each process by itself."""
    (alone,) = on_ranks(1, tmp_path / "one", _on_rank, scenes, tmp_path / "one")
    both = on_ranks(2, tmp_path / "two", _on_rank, scenes, tmp_path / "two")
    assert all(np.array_equal(both[0][name], both[1][name]) for name in alone)
    stores = [sorted((tmp_path / folder / "labels").rglob("part-*")) for folder in ("one", "two")]
    assert [path.read_bytes() for path in stores[0]] == [path.read_bytes() for path in stores[1]]
    moved = [name for name in alone if name.startswith(("stages", "fusions")) and name.endswith("weight")]
    assert moved and all(np.abs(alone[name] - both[0][name]).max() < 0.02 for name in moved)


def _killed_on_rank(scenes: Path, out: Path) -> None:
    more = ("training.batch_size=3", "device=cpu", "data.test=null", "labels.views=0")  # a part of one and one of two
    run(settings(scenes, out / "whole", *more))
    with killed_at(training, (training.LABEL, 3, 0), save_every_steps=1), pytest.raises(Stopped):
        run(settings(scenes, out / "killed", *more))
    run(settings(scenes, out / "killed", *more))


@pytest.mark.slow
def test_two_killed_processes_go_on_to_the_same_bytes(scenes: Path, tmp_path: Path) -> None:
    """Within an epoch, with dropout, which each process draws."""
    on_ranks(2, tmp_path / "meet", _killed_on_rank, scenes, tmp_path)
    for name in ("model.safetensors", "training/weights.safetensors"):
        whole, resumed = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "killed"))
        assert whole == resumed, name


def _reported(scenes: Path, out: Path) -> bool:
    more = ("training.num_epochs=1", "targets=true", "data.validation=null", "device=cpu")
    return run_concealed(settings(scenes, out, *more)) is not None


@pytest.mark.slow
def test_the_first_of_several_processes_reports(scenes: Path, tmp_path: Path) -> None:
    assert on_ranks(2, tmp_path, _reported, scenes, tmp_path) == [True, False]
    assert (tmp_path / "report.html").is_file() and (tmp_path / "maps" / "test_00000.png").is_file()


def of_training(wanted: ConcealedSettings) -> ConcealedTraining:
    photos = load_concealed(wanted.data.train, "train")
    torch.manual_seed(0)
    network = build_concealed_network(wanted.backbone, wanted.network)

    def target(image_id: str):
        mask = photos.mask(image_id).float()
        return mask, torch.ones_like(mask)

    return ConcealedTraining(network, photos, target, wanted)


def test_switches_leave_losses_out_and_the_schedule_restarts(scenes: Path, tmp_path: Path) -> None:
    ours = of_training(settings(scenes, tmp_path))
    batch = next(iter(ours.batches(0)))
    assert set(ours.losses(batch)) == {"structure", "partial", "uncertainty"} and len(batch.views) == 2
    assert ours.losses(batch)["uncertainty"].item() == 0.0  # at the start of an epoch
    ours.begin_step(3, 4)  # the second of two steps of the second epoch
    assert ours._share_done == 0.5 and ours.losses(batch)["uncertainty"].item() > 0
    over_all = of_training(settings(scenes, tmp_path, "training.uncertainty=training"))
    over_all.begin_step(3, 4)
    assert over_all._share_done == 0.75
    bare = of_training(settings(scenes, tmp_path, "training.uncertainty=off", "training.partial=false"))
    assert set(bare.losses(next(iter(bare.batches(0))))) == {"structure"}


def test_an_epoch_shows_every_photo_once_and_another_view_each_time(scenes: Path, tmp_path: Path) -> None:
    ours = of_training(settings(scenes, tmp_path, "training.batch_size=3"))
    epochs = [[batch.image_ids for batch in ours.batches(epoch)] for epoch in range(2)]
    assert [len(ids) for ids in epochs[0]] == [3, 1] and ours.batches_per_epoch == 2
    assert sorted(sum(epochs[0], ())) == list(ours.photos.image_ids)
    first, second, again = (ours.view(ours.photos.image_ids[0], epoch).pixels for epoch in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, second)
    plain = of_training(settings(scenes, tmp_path, "training.augment=false"))
    assert torch.equal(plain.view(ours.photos.image_ids[0], 0).pixels, plain.view(ours.photos.image_ids[0], 1).pixels)


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"[" * 100_000])
def test_damaged_scores_of_epochs_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scores.json").write_bytes(content)
    assert recorded_scores(tmp_path) == {}


def test_learning_rates_by_hand() -> None:
    cyclic, steps, cosine = (
        training.ConcealedTrainingSettings(schedule=name, lr=1e-4, num_epochs=160)
        for name in ("cyclic", "steps", "cosine")
    )
    values = [lr_factor(cyclic, epoch) for epoch in (0, 20, 40, 80)]
    assert values == pytest.approx([1.0, 0.505, 0.01, 1.0])
    assert [lr_factor(steps, epoch) for epoch in (0, 79, 80, 159)] == pytest.approx([1.0, 1.0, 0.1, 0.1])
    assert [lr_factor(cosine, epoch) for epoch in (0, 80)] == pytest.approx([1.0, 0.5])


def test_what_cannot_be_used_is_one_sentence(scenes: Path, tmp_path: Path) -> None:
    for more, wanted in (
        (["data.train.root=null"], r"set data\.train\.root"),
        (["labels.select=true", "labels.max_absolute=0.000001", "labels.views=3"], "found none of 4 .the most certain"),
        (["labels.prompt=boxes"], r"set labels\.run to its folder, or labels\.config"),
        (["labels.prompt=boxes", f"labels.run={tmp_path}"], "wanted the pseudo boxes of a run"),
        (["targets=true", f"data.train.truth={scenes}"], "a true mask of every photo"),
        ([f"data.validation.root={scenes / 'train' / 'none'}"], "none"),
        (["training.sides=3"], "side"),
    ):
        with pytest.raises(UserError, match=wanted) as error:
            run(settings(scenes, tmp_path / "out", *more))
        assert "\n" not in str(error.value)
    roots = [f"data.{split}={{images: {scenes / split / 'Imgs'}}}" for split in ("train", "validation")]
    for given, wanted in (
        ([roots[0], "targets=true"], r"set data\.train\.truth"),
        ([roots[0]], "wanted scribbles of the training photos"),
        ([roots[1], "targets=true"], r"set data\.validation\.truth"),
    ):
        with pytest.raises(UserError, match=wanted):
            run(settings(scenes, tmp_path / "out", *given))


def test_a_folder_in_use_is_refused(tmp_path: Path, scenes: Path) -> None:
    with owned(tmp_path / "out", "another run"), pytest.raises(UserError, match="for this run alone"):
        run_concealed(settings(scenes, tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_the_command_prints_the_figures(scenes: Path, tmp_path: Path) -> None:
    roots = [f"data.{split}.root={scenes / split}" for split in ("train", "test")]
    toy = [*roots, *TOY.split(), f"out={tmp_path}", "training.num_epochs=1", "targets=true"]
    text = output("concealed", "run", *toy)
    assert "M (mean absolute error)" in text and "levels as they are" in text
    figures = json.loads(output("concealed", "run", *toy, "--json"))
    assert figures["chosen_on"] == "the last epoch" and figures["labels"] == {}
    assert "did you mean" in refused("concealed", "run", *toy, "lables.views=3").lower()


@pytest.mark.parametrize("name", ["cod", "scenes", "tags"])
def test_the_configs_load_and_write_no_default_again(name: str) -> None:
    path = ROOT / "configs" / "concealed" / f"{name}.yaml"
    loaded, defaults = load_settings(ConcealedSettings, path), ConcealedSettings().model_dump(mode="json")
    assert loaded.data.test is not None
    assert (loaded.data.validation is None) == loaded.prompted_by_boxes  # of which no masks are known

    def repeated(written: dict[str, Any], default: dict[str, Any]) -> list[str]:
        names = []
        for key, value in written.items():
            if isinstance(value, dict) and isinstance(default.get(key), dict):
                names += repeated(value, default[key])
            elif value == default.get(key):
                names.append(key)
        return names

    assert repeated(yaml.safe_load(path.read_text()), defaults) == []


def test_the_published_config_is_the_default_training() -> None:
    """What the paper or its released code states."""
    loaded = load_settings(ConcealedSettings, ROOT / "configs" / "concealed" / "cod.yaml")
    of_training = loaded.training
    assert (of_training.num_epochs, of_training.batch_size, of_training.lr, of_training.side) == (160, 36, 1e-4, 384)
    assert (of_training.schedule, of_training.clip_value, of_training.uncertainty) == ("cyclic", 0.5, "epoch")
    assert (loaded.labels.views, loaded.labels.weights, loaded.labels.relative_to) == (12, "soft", "foreground")
    assert (loaded.labels.max_absolute, loaded.labels.max_relative) == (0.1, 0.5)
    assert (loaded.backbone.name, loaded.network.channels, loaded.network.grouping) == ("resnet50", 128, True)
