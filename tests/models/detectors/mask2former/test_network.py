"""Mask2Former's network: transformers' own numbers with less work, every backbone, frozen stages."""

from __future__ import annotations

import pytest
import torch

from weaksam.engine.detectors.mask2former import mask2former_objective
from weaksam.models.backbones.colours import IMAGENET
from weaksam.models.backbones.inputs import normalise
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.mask2former.losses import PhotoObjects, mask2former_losses
from weaksam.models.detectors.mask2former.network import build_mask2former
from weaksam.models.detectors.mask2former.settings import Mask2FormerSettings, MaskLossSettings
from weaksam.stages.wsis import Mask2FormerWsisSettings

SMALL = {
    "channels": 32, "encoder_layers": 1, "decoder_layers": 4, "encoder_width": 16, "decoder_width": 16, "num_heads": 4,
    "num_queries": 5, "losses": MaskLossSettings(num_points=64),
}  # fmt: skip
TINY = Mask2FormerSettings(**SMALL)
PHOTOS = [(64, 90), (70, 64)]


def backbone(name: str = "mobilenet_v2") -> BackboneSettings:
    return BackboneSettings(name=name, weights="none")


def photos(seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.rand(3, *size, generator=draw) for size in PHOTOS]


@pytest.fixture(scope="module")
def twins():
    """The network, and the one of transformers' own modules with the same weights."""
    torch.manual_seed(0)
    fast = build_mask2former(backbone(), TINY, 3)
    plain = build_mask2former(backbone(), TINY, 3, plain=True)
    for layer in fast.decoder.pixel_decoder.encoder.layers:
        # The first offsets are whole cells, where the gradient jumps
        bias = layer.self_attn.sampling_offsets.bias.data
        bias.add_(0.1 + 0.3 * torch.rand(bias.shape))
    torch.nn.init.uniform_(fast.decoder.pixel_decoder.mask_projection.bias, -1, 1)
    plain.load_state_dict(fast.state_dict())
    return fast.train(), plain.train()


def test_predictions_are_those_of_transformers_modules(twins):
    fast, plain = twins
    told, theirs = fast(photos()), plain(photos())
    assert told.frame == (96, 96) and told.classes.shape == (5, 2, 5, 4)
    masks = torch.stack([told.masks(photo) for photo in range(2)], dim=1)
    assert masks.detach().abs().max() > 0.1 and (masks > 0).float().mean() > 0.05
    torch.testing.assert_close(masks, theirs.embeddings, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(told.classes, theirs.classes, rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_whole_masks(twins):
    """The loss of sampled masks sends back what the loss of the whole masks of all queries does."""
    fast, _ = twins
    points = torch.rand(1, 40, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    values = []
    for network in twins:
        network.zero_grad()
        told = network(photos())
        masks = told.masks(0) if network is fast else told.embeddings[:, 0]  # the plain twin gives masks
        sampled = torch.nn.functional.grid_sample(
            masks[:, [1, 3]], points.expand(5, -1, -1)[:, :, None], align_corners=False
        )
        sampled.sigmoid().sum().backward()
        values.append({name: value.grad for name, value in network.named_parameters() if value.grad is not None})
    assert values[0].keys() == values[1].keys()
    for name, gradient in values[0].items():
        apart = (gradient - values[1][name]).norm()  # as a whole: at a kink of ReLU6 single values may differ
        assert apart <= 1e-3 * values[1][name].norm() + 1e-4, name


def test_a_batch_equals_photos_alone_in_the_same_frame(twins):
    fast, _ = twins
    together = fast(photos())
    for number, photo in enumerate(photos()):
        alone = fast([photo], (96, 96))
        torch.testing.assert_close(together.classes[:, number], alone.classes[:, 0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.features[number], alone.features[0], rtol=1e-4, atol=1e-5)


def test_photos_are_normalised_once_and_padded_with_zeros(twins):
    fast, _ = twins
    batch = fast._batch(photos(), (128, 128))
    assert batch.shape == (2, 3, 128, 128)
    torch.testing.assert_close(batch[0, :, :64, :90], normalise(photos()[0], IMAGENET))
    assert batch[0, :, 64:].abs().sum() == 0 and batch[0, :, :, 90:].abs().sum() == 0
    whole = (photos()[0] * 255).to(torch.uint8)
    torch.testing.assert_close(fast._batch([whole], (0, 0))[0, :, :64, :90], normalise(whole, IMAGENET))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50", "vgg16", "sam_nano"])
def test_every_backbone_gives_maps_of_four_strides(name):
    torch.manual_seed(0)
    network = build_mask2former(backbone(name), TINY, 2)
    maps = network.backbone(torch.rand(1, 3, 64, 96))
    assert [level.shape[-2:] for level in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert [level.shape[1] for level in maps] == network.backbone.channels
    told = network([torch.rand(3, 64, 96)])
    assert told.classes.isfinite().all() and told.features.shape == (1, 32, 16, 24)


def test_swin_gives_its_maps():
    torch.manual_seed(0)
    network = build_mask2former(backbone(), TINY.model_copy(update={"body": "swin_tiny", "trainable_layers": 0}), 2)
    assert network.backbone.channels == [96, 192, 384, 768]
    told = network([torch.rand(3, 64, 64)])
    assert told.features.shape == (1, 32, 16, 16)
    assert not any(value.requires_grad for value in network.backbone.parameters())


def test_frozen_stages_and_batch_norm_stay_as_they_are():
    torch.manual_seed(0)
    settings = Mask2FormerWsisSettings(**SMALL, trainable_layers=2)
    network = build_mask2former(backbone(), settings, 2).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    objective = mask2former_objective(network, settings, torch.device("cpu"))
    told = network(photos())
    truth = [PhotoObjects(torch.tensor([1]), torch.ones(1, *size), size) for size in PHOTOS]
    sum(mask2former_losses(told, truth, settings.losses).values()).backward()
    objective.optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    of_body = {int(name.split(".")[2]) for name in changed if name.startswith("backbone.")}
    assert min(of_body) == 11 and len(of_body) > 3  # the last two stages of MobileNetV2 begin at module 11
    assert not any("running" in name for name in changed)
    assert any(name.startswith("decoder.pixel_decoder.") for name in changed)


def test_rates_and_decay_of_the_groups():
    settings = Mask2FormerWsisSettings(**SMALL)
    network = build_mask2former(backbone(), settings, 2)
    optimizer = mask2former_objective(network, settings, torch.device("cpu")).optimizer
    name_of = {id(value): name for name, value in network.named_parameters()}
    groups = {name_of[id(value)]: group for group in optimizer.param_groups for value in group["params"]}
    assert len(groups) == sum(value.requires_grad for value in network.parameters())
    wanted = {
        "backbone.body.17.conv.2.weight": (1e-5, 0.05),
        "decoder.class_predictor.weight": (1e-4, 0.05),
        "decoder.transformer_module.queries_features.weight": (1e-4, 0),
        "decoder.transformer_module.decoder.layernorm.weight": (1e-4, 0),
        "decoder.pixel_decoder.input_projections.0.1.bias": (1e-4, 0),
        "decoder.pixel_decoder.input_projections.0.0.bias": (1e-4, 0.05),
    }
    for name, (lr, decay) in wanted.items():
        assert (groups[name]["lr"], groups[name]["weight_decay"]) == (pytest.approx(lr), decay), name


def test_bfloat16_is_near_float32(twins):
    fast, _ = twins
    exact = fast(photos())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = fast(photos())
    assert rough.features.dtype == torch.float32
    assert (rough.classes.float() - exact.classes).abs().mean() < 0.1


def test_first_weights_give_masks_and_look_around():
    torch.manual_seed(0)
    network = build_mask2former(backbone(), Mask2FormerSettings(), 3)
    with torch.no_grad():
        told = network(photos()[:1])
    masks = told.masks(0)
    assert 0.2 < masks.std() < 2 and 0.2 < (masks > 0).float().mean() < 0.8
    attention = network.decoder.pixel_decoder.encoder.layers[0].self_attn
    offsets = attention.sampling_offsets.bias.view(8, 3, 4, 2)
    # The first of eight heads looks right, the third down, one to four cells far
    assert offsets[0, 1].tolist() == [[1, 0], [2, 0], [3, 0], [4, 0]]
    torch.testing.assert_close(offsets[2, 0, 3], torch.tensor([0.0, 4.0]), atol=1e-6, rtol=0)
