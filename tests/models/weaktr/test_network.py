"""WeakTr gives the reference's maps and logits, covers images of any size, and its parts are what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from weaksam.config import UserError
from weaksam.models.weaktr.build import build_weaktr
from weaksam.models.weaktr.fusion import FusionShape, fuse_attention
from weaksam.models.weaktr.losses import class_scores, weaktr_losses
from weaksam.models.weaktr.network import WeakTr, WeakTrOutput, WeakTrSettings, fine_maps, fit_to_patches
from weaksam.models.weaktr.vit import BlockOutput, VitShape, resize_positions, rotary_angles, rotate_patches

SHAPE = VitShape(width=24, depth=2, num_heads=3, patch_size=16, grid=3, mlp_width=48)
FUSIONS = ("feature_max", "feature_mean", "map_max", "map_mean")


def make(fusion: str = "feature_max", shape: VitShape = SHAPE, num_classes: int = 4, seed: int = 3) -> WeakTr:
    torch.manual_seed(seed)
    model = WeakTr(shape, num_classes, FusionShape.of(fusion, shape, 2, 2), drop_path=0.0).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if not name.startswith("norm"):
                tensor.add_(0.3 * torch.randn_like(tensor))  # far from the start, where every weight is near 1/2
    return model


GOLDEN = {
    "token_logits": lambda out: out.class_logits,
    "coarse_logits": lambda out: out.patch_logits,
    "fine_logits": lambda out: out.fused_logits,
    "cross_cam": lambda out: out.fused_cross,
    "patchcam_cam": lambda out: out.coarse,
    "fused_cam": lambda out: out.fused_cross * out.coarse,
    "patch_affinity": lambda out: out.affinity,
    "fine_cam": lambda out: out.fine,
}


@pytest.mark.parametrize(("name", "fusion"), [("weaktr_feat", "feature_max"), ("weaktr_max", "map_max")])
@pytest.mark.parametrize("image", ["square", "wide"])
def test_every_output_is_the_references(shared_data, tmp_path, name, fusion, image):
    tensors = load_file(shared_data / "golden" / f"{name}.safetensors")
    weights = {key.removeprefix("weights/"): one for key, one in tensors.items() if key.startswith("weights/")}
    save_file(weights, tmp_path / "weaktr.safetensors")
    settings = WeakTrSettings(weights=str(tmp_path / "weaktr.safetensors"), fusion=fusion)
    model = build_weaktr(settings, 4, trained=True).eval()
    assert set(model.state_dict()) == set(weights)
    with torch.no_grad():
        output = model(tensors[f"{image}/input"])
    for key, read in GOLDEN.items():
        torch.testing.assert_close(read(output), tensors[f"{image}/{key}"], atol=1e-4, rtol=0)


def test_shapes_of_a_wide_image():
    out = make()(torch.randn(2, 3, 40, 100))  # 2.5 and 6.25 patches: the nearest multiples are 3 and 6
    assert out.class_logits.shape == out.patch_logits.shape == out.fused_logits.shape == (2, 4)
    assert out.coarse.shape == out.fused_cross.shape == out.fine.shape == (2, 4, 3, 6)
    assert out.affinity.shape == (2, 18, 18)
    assert out.head_cross.shape == (2, 2, 3, 4, 3, 6)


def test_fit_to_patches_by_hand():
    assert fit_to_patches((375, 500), 16) == (368, 496)  # 23.4 and 31.25 patches
    assert fit_to_patches((16, 24), 16) == (16, 32)  # 1.5 goes up
    assert fit_to_patches((23, 39), 16) == (16, 32)
    assert fit_to_patches((20, 21), 14) == (14, 28)


def test_an_image_smaller_than_a_patch_is_one_sentence():
    with pytest.raises(UserError, match="at least one patch, 16 x 16 pixels, found 40 x 15: "):
        make()(torch.zeros(1, 3, 15, 40))


@pytest.mark.parametrize("fusion", FUSIONS)
def test_images_of_a_batch_do_not_touch_each_other(fusion):
    model, images = make(fusion), torch.randn(3, 3, 48, 64)
    together = model(images)
    for place in range(3):
        alone = model(images[place : place + 1])
        torch.testing.assert_close(together.fine[place], alone.fine[0], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(together.head_cross[place], alone.head_cross[0], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("fusion", "sees_image"), [("feature_max", 1), ("feature_mean", 1), ("map_max", 1), ("map_mean", 0)]
)
def test_only_the_average_of_maps_is_blind_to_the_image(fusion, sees_image):
    """Rows of attention sum to 1, so their mean is 1 / n of any image of n tokens: 4 classes and 9 patches, 1 / 13."""
    changes = []
    for seed in range(3, 7):  # some random networks have no living hidden unit in their fusion, and never change
        model, seen_weights, pooled = make(fusion, seed=seed), [], []
        fusion_layer = model.adaptive_attention_fusion
        fusion_layer.register_forward_hook(lambda module, args, weights, seen=seen_weights: seen.append(weights))
        fusion_layer.register_forward_pre_hook(
            lambda module, args, seen=pooled: seen.append(torch.stack([module._pool(block) for block in args[0]]))
        )
        model(torch.randn(1, 3, 48, 48))
        model(3 * torch.randn(1, 3, 48, 48))
        first, second = seen_weights
        assert first.shape == (1, 3, 2) and bool(((first > 0) & (first < 1)).all())
        changes.append((first - second).abs().max().item())
    assert (max(changes) > 1e-3) == (fusion != "map_mean")
    if fusion == "map_mean":
        torch.testing.assert_close(pooled[0], torch.full((2, 1, 3), 1 / 13))


def test_the_default_fusion_sees_the_image():
    assert WeakTrSettings().fusion == "feature_max"


def test_pooled_features_are_dealt_out_to_the_heads_in_turn():
    """Three heads, width 6: channels 0 and 3 are head 0's, 1 and 4 head 1's, 2 and 5 head 2's; maxima over 2 tokens."""
    shape = replace(SHAPE, width=6, depth=1)
    fusion = make("feature_max", shape).adaptive_attention_fusion
    gathered = torch.tensor([[[0.0, 1, 2, 3, 4, 5], [9.0, 0, 0, 0, 0, 7]]])
    block = BlockOutput(gathered, torch.zeros(1, 3, 2, 2), gathered)
    assert fusion._pool(block).tolist() == [[[9, 3], [1, 4], [2, 7]]]


def test_fused_attention_by_hand():
    """Two blocks of two heads on one token: (1 * 2 + 2 * 3 + 3 * 5 + 4 * 7) / 4 = 51 / 4."""
    blocks = [
        BlockOutput(torch.zeros(1, 1, 1), torch.tensor([[[[2.0]], [[5.0]]]]), torch.zeros(1, 1, 1)),
        BlockOutput(torch.zeros(1, 1, 1), torch.tensor([[[[3.0]], [[7.0]]]]), torch.zeros(1, 1, 1)),
    ]
    weights = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])  # (B, H, L)
    assert fuse_attention(blocks, weights).tolist() == [[[12.75]]]


def test_fine_map_by_hand():
    """Affinity rows (1, 2) and (0, 3) on products 5 * 2 = 10 and 1 * 7 = 7: 10 + 14 = 24 and 21."""
    affinity = torch.tensor([[[1.0, 2.0], [0.0, 3.0]]])
    cross, coarse = torch.tensor([[[[5.0, 1.0]]]]), torch.tensor([[[[2.0, 7.0]]]])
    assert fine_maps(affinity, cross, coarse).tolist() == [[[[24.0, 21.0]]]]


def test_outputs_hang_together():
    """Every map and logit once more, from the tokens and the class map on the way."""
    model, seen = make("map_max"), {}
    model.head.register_forward_hook(lambda module, args, raw: seen.update(raw=raw))
    model.blocks[1].register_forward_hook(lambda module, args, out: seen.update(last=out))
    out = model(torch.randn(2, 3, 48, 64))
    torch.testing.assert_close(out.coarse, seen["raw"].clamp(min=0))
    assert bool((seen["raw"] < 0).any())
    torch.testing.assert_close(out.patch_logits, seen["raw"].flatten(2).mean(dim=2))
    torch.testing.assert_close(out.class_logits, seen["last"].tokens[:, :4].mean(dim=2))
    torch.testing.assert_close(out.head_cross[:, 1].flatten(3), seen["last"].attention[:, :, :4, 4:])
    product = (out.fused_cross * out.coarse).reshape(2, 4, 12)
    wanted = torch.stack([torch.stack([out.affinity[b] @ product[b, c] for c in range(4)]) for b in range(2)])
    torch.testing.assert_close(out.fine.flatten(2), wanted)
    torch.testing.assert_close(out.fused_logits, wanted.mean(dim=2))


def test_flipped_images_have_flipped_maps_even_beside_the_grid():
    """With mirrored patch kernels, positions and head, a mirrored image has mirrored maps."""
    model = make()
    with torch.no_grad():
        kernel = model.patch_embed.proj.weight
        kernel.copy_((kernel + kernel.flip(3)) / 2)
        model.head.weight.copy_((model.head.weight + model.head.weight.flip(3)) / 2)
        square = model.pos_embed[:, 4:].reshape(1, 3, 3, -1)
        model.pos_embed[:, 4:] = ((square + square.flip(2)) / 2).reshape(1, 9, -1)
    # Sides of 41 and 53 are brought to the positions' own grid, whose resizing, as published, is not quite symmetric
    image = torch.randn(1, 3, 41, 53)
    assert fit_to_patches((41, 53), 16) == (48, 48)
    plain, mirrored = model(image), model(image.flip(3))
    for name in ("fine", "coarse", "head_cross"):
        torch.testing.assert_close(getattr(mirrored, name).flip(-1), getattr(plain, name), atol=1e-5, rtol=1e-4)
    assert bool((plain.fine - plain.fine.flip(-1)).abs().max() > 1e-4)


def test_positions_of_the_same_grid_are_untouched_and_others_resized():
    positions = torch.randn(1, 9, 5)
    assert resize_positions(positions, (3, 3)) is positions
    flat = resize_positions(torch.full((1, 9, 5), 2.0), (4, 7))
    assert flat.shape == (1, 28, 5)
    torch.testing.assert_close(flat, torch.full((1, 28, 5), 2.0))
    # A ramp along x stays a ramp along x: rows equal, columns rising
    ramp = torch.arange(3.0).repeat(3)[None, :, None]
    wide = resize_positions(ramp, (2, 6)).reshape(2, 6)
    torch.testing.assert_close(wide[0], wide[1])
    assert bool((wide[0].diff() > 0).all())
    for side in range(1, 80):  # the 0.1 guard never loses a row
        assert resize_positions(positions, (side, 80 - side)).shape[1] == side * (80 - side)


def test_rotary_positions_by_hand():
    """Depth 4 has one frequency, 1; two patches in a row lie at x = -1/2 and 1/2, y = 0: angles 0 and -+pi."""
    cosines, sines = rotary_angles((1, 2), 4, 100.0, torch.device("cpu"))
    torch.testing.assert_close(cosines, torch.tensor([[1.0, -1, 1, -1], [1, -1, 1, -1]]))
    turned = rotate_patches(torch.tensor([[[[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]]]]), cosines, sines)
    torch.testing.assert_close(turned[0, 0, 0], torch.tensor([1.0, 2, 3, 4]))  # a class token stays
    torch.testing.assert_close(turned[0, 0, 1], torch.tensor([1.0, -2, 3, -4]))


def test_the_three_losses_by_hand():
    """Logit 0 costs ln 2 whatever the tag; logit ln 3 is probability 3/4: ln(4/3) if tagged, ln 4 if not."""
    zeros, maps = torch.zeros(1, 2), torch.zeros(1, 2, 1, 1)
    three = torch.full((1, 2), 3.0).log()
    out = WeakTrOutput(zeros, three, three, maps, maps, maps, torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, 2, 1, 1))
    tags = torch.tensor([[1.0, 0.0]])
    losses = weaktr_losses(out, tags)
    assert losses["token"].item() == pytest.approx(0.693147, abs=1e-5)
    assert losses["coarse"].item() == pytest.approx((0.287682 + 1.386294) / 2, abs=1e-5)
    assert losses["fine"].item() == pytest.approx(F.multilabel_soft_margin_loss(three, tags).item())
    # The mean of 0 and ln 3 is half of ln 3: sqrt(3) / (1 + sqrt(3))
    assert class_scores(out)[0].tolist() == pytest.approx([0.633975, 0.633975], abs=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_the_fine_loss_trains_the_fusion_and_the_others_all_else(fusion):
    model, tags = make(fusion).train(), torch.tensor([[1.0, 0, 1, 0]])
    losses = weaktr_losses(model(torch.randn(1, 3, 48, 48)), tags)
    losses["fine"].backward(retain_graph=True)
    of_fusion = {name for name, tensor in model.named_parameters() if tensor.grad is not None}
    assert of_fusion == {name for name, _ in model.named_parameters() if name.startswith("adaptive_attention_fusion.")}
    model.zero_grad(set_to_none=True)
    (losses["token"] + losses["coarse"]).backward()
    without = {name for name, tensor in model.named_parameters() if tensor.grad is None}
    assert without == of_fusion | {"norm.weight", "norm.bias"}


def test_maps_carry_no_gradient():
    out = make().train()(torch.randn(1, 3, 48, 48))
    maps = (out.coarse, out.fused_cross, out.fine, out.affinity, out.head_cross)
    assert not any(tensor.requires_grad for tensor in maps)
    assert out.class_logits.requires_grad and out.patch_logits.requires_grad and out.fused_logits.requires_grad


def test_dropped_paths_keep_the_expected_branch():
    """A branch of ones is dropped or doubled at drop rate 1/2; in eval mode it stays as it is."""
    model = WeakTr(replace(SHAPE, depth=1), 4, FusionShape("map_max", 2), drop_path=0.5)
    assert model.blocks[0].drop_path == 0  # linear from 0, and the first block is also the last
    deep = WeakTr(replace(SHAPE, depth=3), 4, FusionShape("map_max", 2), drop_path=0.5)
    assert [block.drop_path for block in deep.blocks] == [0, 0.25, 0.5]
    torch.manual_seed(0)
    branch = torch.ones(1000, 1, 1)
    kept = deep.blocks[2].train()._maybe_drop(branch)
    assert set(kept.flatten().tolist()) == {0.0, 2.0} and 0.9 < kept.mean().item() < 1.1
    assert torch.equal(deep.blocks[2].eval()._maybe_drop(branch), branch)


def test_settings_give_deit_small_and_tiny():
    with torch.device("meta"):
        small, tiny = build_weaktr(WeakTrSettings(), 20), build_weaktr(WeakTrSettings(width=192), 20)
    assert (small.shape.num_heads, len(small.blocks), small.pos_embed.shape) == (6, 12, (1, 216, 384))
    assert small.cls_token.shape == (1, 20, 384) and small.head.weight.shape == (20, 384, 3, 3)
    assert small.adaptive_attention_fusion.attn_head_ffn[0].weight.shape == (9, 72)
    assert small.adaptive_attention_fusion.attn_feat_ffn[0].weight.shape == (8, 64)
    assert (tiny.shape.num_heads, tiny.shape.mlp_width) == (3, 768)


def test_heads_must_share_the_width():
    with pytest.raises(UserError, match="width that 5 heads can share, found 384"):
        build_weaktr(WeakTrSettings(num_heads=5), 2)


def test_the_same_seed_builds_the_same_network():
    torch.manual_seed(1)
    first = build_weaktr(WeakTrSettings(width=64, depth=1, image_size=32), 3).state_dict()
    torch.manual_seed(1)
    again = build_weaktr(WeakTrSettings(width=64, depth=1, image_size=32), 3).state_dict()
    assert all(torch.equal(again[key], value) for key, value in first.items())
