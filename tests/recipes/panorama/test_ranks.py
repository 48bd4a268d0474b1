"""The panorama recipe in several processes: each training is that of one, kills leave no trace, the first reports."""

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers import Stopped
from tests.ranks import Trained, assert_same_training, on_ranks, trained
from tests.recipes.kills import killed_at
from tests.recipes.panorama.toys import SMALL, weights_in
from weaksam.config import UserError, load_settings
from weaksam.engine.training import Objective
from weaksam.models.ranks import ranks
from weaksam.models.semantic.network import VARIANTS
from weaksam.pipeline import panorama
from weaksam.recipes.panorama import PanoramaSettings, assistant
from weaksam.recipes.panorama.assistant import (
    ASSISTANT,
    RECTIFIED,
    PhotoCrops,
    Rectification,
    RectifiedBatch,
    build_assistant,
    label_loss_of,
)
from weaksam.recipes.panorama.recipe import PanoramaRun, loaded
from weaksam.recipes.panorama.student import STUDENT, Distillation, MomentaryTargets, PanoramaBatch
from weaksam.scenes.panoramas import StreetSettings, write_panoramas


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three panoramas and three photos: of two processes each has one in the first step, one none in the second."""
    folder = tmp_path_factory.mktemp("streets")
    write_panoramas(folder, StreetSettings(height=32, photo_size=32, rays=1), 3, 1, 3, seed=0)
    return folder


def settings(streets: Path, out: Path, *more: str) -> PanoramaSettings:
    return load_settings(PanoramaSettings, streets / "panorama.yaml", [f"out={out}", *SMALL.split(), *more])


def train_both(of: PanoramaRun, folder: Path) -> dict[str, Trained]:
    """One epoch of each training in float64, by plain descent and without dropout."""
    masks = of.masks(of.train, "train")
    assistant = build_assistant(of.settings, of.train.classes, of.device).double()
    crops = PhotoCrops(of.photos, of.settings.windows.size, 2, 0)
    rectification = Rectification(assistant, of.train, masks, crops, of.settings)
    distillation = Distillation(of.settings, of.train, assistant, MomentaryTargets(assistant, masks, of.settings))
    distillation.double()

    def objective(network: nn.Module, losses: object) -> Objective:
        return Objective(losses, torch.optim.SGD(network.parameters(), lr=0.05), lambda step, total: 1.0)

    def rectified(batch: PanoramaBatch) -> dict[str, torch.Tensor]:
        return rectification.losses(RectifiedBatch(batch.image_ids, batch.rows, batch.epoch, None, batch.counts))

    def labels(batch: object) -> dict[str, torch.Tensor]:
        return {"labels": label_loss_of(assistant, batch)}

    both = nn.ModuleDict({"distillation": distillation, "assistant": assistant})
    return {
        "photos": trained(folder / "photos", assistant, [objective(assistant, labels)], crops.batches, 2),
        "rectified": trained(
            folder / "rectified", assistant, [objective(assistant, rectification.losses)], rectification.batches, 3
        ),
        "joint": trained(
            folder / "joint",
            both,
            [objective(distillation, distillation.losses), objective(assistant, rectified)],
            distillation.batches,
            2,
        ),
    }


def _trained_on(streets: Path, out: Path) -> dict[str, Trained]:
    VARIANTS["nano"] = VARIANTS["nano"] | {"drop_path_rate": 0.0, "classifier_dropout_prob": 0.0}
    results: dict[str, Trained] = {}

    def instead(settings: PanoramaSettings, masks_of: object) -> dict[str, object]:
        results.update(train_both(loaded(settings, masks_of), settings.out))
        return {}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(panorama, "run_recipe", instead)
        panorama.run_panorama(settings(streets, out, "student.batch_size=2", "rectification.batch_size=1"))
    return results


@pytest.mark.slow
def test_two_processes_train_as_one_does(streets: Path, tmp_path: Path) -> None:
    """Losses, gradients, and the statistics of batch-norm over photos and over panoramas one by one."""
    (alone,) = on_ranks(1, tmp_path / "meet", _trained_on, streets, tmp_path / "one")
    both = on_ranks(2, tmp_path / "meet", _trained_on, streets, tmp_path / "two")
    assert set(alone["rectified"].losses) == {"consistency", "boundary", "photos"}
    assert set(alone["joint"].losses) == {"labels", "logits", "features", "consistency", "boundary"}
    for name, training in alone.items():
        for of_rank in both:
            assert_same_training(training, of_rank[name], 1e-8)
    stores = [sorted((tmp_path / folder / "proposals").rglob("part-*")) for folder in ("one", "two")]
    assert [path.read_bytes() for path in stores[0]] == [path.read_bytes() for path in stores[1]] and stores[0]


def _killed_and_resumed(streets: Path, out: Path) -> list[bool]:
    """Whether this process got figures, of each run to the end."""
    more = (
        "student.batch_size=2",
        f"data.test={{images: {streets / 'test/images'}, labels: {streets / 'test/labels'}}}",
    )
    reported = [bool(panorama.run_panorama(settings(streets, out / "whole", *more)))]
    for end in ((ASSISTANT, 4, 0), (RECTIFIED, 2, 0), (STUDENT, 3, 0)):
        with killed_at(assistant, end, 1), pytest.raises(Stopped):
            panorama.run_panorama(settings(streets, out / "killed", *more))
    return [*reported, bool(panorama.run_panorama(settings(streets, out / "killed", *more)))]


@pytest.mark.slow
def test_killed_processes_go_on_to_the_same_bytes_and_the_first_reports(streets: Path, tmp_path: Path) -> None:
    """With dropout, which each process draws."""
    results = on_ranks(2, tmp_path / "meet", _killed_and_resumed, streets, tmp_path)
    assert results == [[True, True], [False, False]]
    weights = weights_in(tmp_path / "whole")
    assert "student.safetensors" in weights and weights_in(tmp_path / "killed") == weights
    assert (tmp_path / "whole" / "metrics.json").is_file()


def _too_many(streets: Path, out: Path) -> str:
    with pytest.raises(UserError) as error:
        panorama.run_panorama(settings(streets, out / str(ranks().rank)))
    return str(error.value)


@pytest.mark.slow
def test_more_processes_than_panoramas_are_refused(streets: Path, tmp_path: Path) -> None:
    for sentence in on_ranks(4, tmp_path / "meet", _too_many, streets, tmp_path):
        assert "at most as many processes as panoramas that train, found 4 for 3" in sentence
