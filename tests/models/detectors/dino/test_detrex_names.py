"""Detrex's DINO: every name of its published network has a place, and what it computes differently, by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.models.detectors.dino.toys import SIZES, SMALL_SHAPE, images, mmdet_names, resnet18, small_network
from weaksam.config import UserError, fingerprint_of
from weaksam.models.backbones.settings import BackboneSettings
from weaksam.models.detectors.dino.build import build_dino
from weaksam.models.detectors.dino.names import is_detrex_dino, is_mmdet_dino, our_names
from weaksam.models.detectors.dino.network import DETAILS, DinoNetwork
from weaksam.models.detectors.dino.positions import PyramidAreas
from weaksam.models.detectors.dino.settings import DinoDetectorSettings, DinoShape
from weaksam.models.detectors.dino.starting import load_dino_weights
from weaksam.models.detectors.first_weights import FirstWeights
from weaksam.models.detectors.published import read_published
from weaksam.store.weights import load_into

DETREX = SMALL_SHAPE.model_copy(update={"implementation": "detrex"})


def both(*names: str) -> Iterator[str]:
    """Weight and bias of each."""
    for name in names:
        yield from (f"{name}.weight", f"{name}.bias")


def resnet50_names() -> Iterator[str]:
    """Names of detectron2's ResNet-50 (``detectron2/modeling/backbone/resnet.py``) with frozen batch-norm."""
    convolutions = ["stem.conv1"]
    for stage, num_blocks in zip((2, 3, 4, 5), (3, 4, 6, 3), strict=True):
        convolutions.append(f"res{stage}.0.shortcut")
        convolutions += [f"res{stage}.{block}.conv{conv}" for block in range(num_blocks) for conv in (1, 2, 3)]
    for convolution in convolutions:
        yield f"backbone.{convolution}.weight"
        yield from (f"backbone.{convolution}.norm.{part}" for part in ("weight", "bias", "running_mean", "running_var"))


def head_names(encoder_layers: int, decoder_layers: int, levels: int, maps: int) -> Iterator[str]:
    """Names behind the backbone, written down from detrex's modules (``projects/dino/modeling``, ``detrex/layers``)."""
    for level in range(levels):
        place = f"neck.convs.{level}" if level < maps else f"neck.extra_convs.{level - maps}"
        yield from both(f"{place}.conv", f"{place}.norm")
    sampled = ("sampling_offsets", "attention_weights", "value_proj", "output_proj")
    for layer in range(encoder_layers):
        place = f"transformer.encoder.layers.{layer}"
        yield from both(*(f"{place}.attentions.0.{part}" for part in sampled))
        yield from both(f"{place}.ffns.0.layers.0.0", f"{place}.ffns.0.layers.1")
        yield from both(*(f"{place}.norms.{number}" for number in range(2)))
    for layer in range(decoder_layers):
        place = f"transformer.decoder.layers.{layer}"
        yield from (f"{place}.attentions.0.attn.in_proj_{part}" for part in ("weight", "bias"))
        yield from both(f"{place}.attentions.0.attn.out_proj", *(f"{place}.attentions.1.{part}" for part in sampled))
        yield from both(f"{place}.ffns.0.layers.0.0", f"{place}.ffns.0.layers.1")
        yield from both(*(f"{place}.norms.{number}" for number in range(3)))
    yield from both(*(f"transformer.decoder.ref_point_head.layers.{number}" for number in range(2)))
    yield from both("transformer.decoder.norm", "transformer.enc_output", "transformer.enc_output_norm")
    yield from ("transformer.level_embeds", "transformer.tgt_embed.weight", "label_enc.weight")
    for owner in ("", "transformer.decoder."):
        for layer in range(decoder_layers + 1):
            yield from both(f"{owner}class_embed.{layer}")
            yield from both(*(f"{owner}bbox_embed.{layer}.layers.{number}" for number in range(3)))


@pytest.mark.parametrize("levels", [4, 5])
def test_every_name_of_the_published_network_has_a_place_and_the_other_way_round(levels: int) -> None:
    names = [*resnet50_names(), *head_names(6, 6, levels, maps=levels - 1)]
    assert len(names) == len(set(names))
    marked = {name: torch.full((), float(number)) for number, name in enumerate(names)}
    for layer in range(7):  # each tensor of the predictions stands in a file twice
        for part in ("weight", "bias"):
            for place in (f"class_embed.{layer}", *(f"bbox_embed.{layer}.layers.{number}" for number in range(3))):
                marked[f"transformer.decoder.{place}.{part}"] = marked[f"{place}.{part}"]
    assert is_detrex_dino(marked) and not is_mmdet_dino(marked)
    settings = DinoDetectorSettings(
        implementation="detrex", num_levels=levels, embed_dims=256, encoder_layers=6, decoder_layers=6
    )
    network = build_dino(BackboneSettings(name="resnet50", weights="none"), settings, 80)
    assert set(our_names(marked, "the file")) == set(network.state_dict())


def detrex_file(network: DinoNetwork, path: Path) -> Path:
    """A file as detrex's training writes it: detrex's names in ``model``, but for the backbone's, which is no R50."""
    own = network.state_dict()
    names = list(head_names(1, 2, 4, maps=3))
    place_of = {name: next(iter(our_names({name: torch.zeros(())} | MARKS, "x"))) for name in names}
    state = {name: own[place] for name, place in place_of.items()}
    for key, value in own.items():
        if key.startswith("backbone.body."):
            _, _, module, rest = key.split(".", 3)
            if module == "0":
                state[f"backbone.stem.conv1.{rest.removeprefix('0.').replace('1.', 'norm.', 1)}"] = value
            else:
                rest = rest.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
                rest = rest.replace("bn1.", "conv1.norm.").replace("bn2.", "conv2.norm.")
                state[f"backbone.res{int(module) - 2}.{rest}"] = value
    torch.save({"model": state, "iteration": 3}, path)
    return path


MARKS = {
    name: torch.zeros(())
    for name in ("label_enc.weight", "transformer.encoder.layers.0.attentions.0.value_proj.weight")
}
"""Names that tell detrex's files from mmdet's."""


def test_a_file_in_detrexs_names_gives_the_outputs_of_the_same_weights_in_mmdets(tmp_path: Path) -> None:
    source = small_network(3, shape=DETREX).eval()
    published = read_published(detrex_file(source, tmp_path / "dino.pth"), "the file")
    assert published.conventions is not None and published.conventions.stride_in == "3x3"
    network = DinoNetwork(resnet18(8), DETREX, 3).eval()
    assert load_dino_weights(network, FirstWeights(published.state, "retrain.init (dino.pth)", "retrain")) == []
    twin = DinoNetwork(resnet18(8), DETREX, 3).eval()
    load_into(twin, our_names(mmdet_names(source), "the twin"), "the twin")
    for outputs in (network.predictions(images(), SIZES), twin.predictions(images(), SIZES)):
        expected = source.predictions(images(), SIZES)
        assert torch.equal(outputs.logits, expected.logits) and torch.equal(outputs.boxes, expected.boxes)


def test_the_other_implementation_is_named_where_a_file_wants_it(tmp_path: Path) -> None:
    path = detrex_file(small_network(3, shape=DETREX), tmp_path / "dino.pth")
    first = FirstWeights(read_published(path, "the file").state, "retrain.init (dino.pth)", "retrain")
    with pytest.raises(UserError, match=r"found one of implementation=detrex: .* set retrain\.implementation=detrex$"):
        load_dino_weights(small_network(3), first)
    mmdets = FirstWeights(small_network(3).state_dict(), "retrain.init (x.pth)", "retrain")
    with pytest.raises(UserError, match=r"set retrain\.implementation=mmdet$"):
        load_dino_weights(small_network(3, shape=DETREX), mmdets)


def test_unknown_names_and_two_numbers_for_one_tensor_are_one_sentence() -> None:
    with pytest.raises(UserError, match=r"detrex's DINO with a ResNet, found the tensor 'transformer\.tgt\.weight'"):
        our_names(MARKS | {"transformer.tgt.weight": torch.zeros(1)}, "retrain.init (x.pth)")
    twice = {"class_embed.0.bias": torch.zeros(2), "transformer.decoder.class_embed.0.bias": torch.ones(2)}
    with pytest.raises(UserError, match=r"'transformer\.decoder\.class_embed\.0\.bias' to be the same under its secon"):
        our_names(MARKS | twice, "retrain.init (x.pth)")


@pytest.mark.parametrize(("implementation", "temperature", "offset"), [("mmdet", 20, 1.0), ("detrex", 10000, 0.5)])
def test_positions_of_cells_by_a_plain_loop(implementation: str, temperature: float, offset: float) -> None:
    # Two photos on one level of 2 x 3 cells of 8 pixels; of the second two columns are the photo's
    areas = PyramidAreas.of([(2, 3)], (16, 24), [(16, 24), (16, 16)], torch.device("cpu"))
    dims = 8
    embedding = areas.embedding(dims, DETAILS[implementation].cell_waves)
    for photo, columns in enumerate((3, 2)):
        for row in range(2):
            for column in range(columns):
                waves = []
                for share in ((row + offset) / (2 + 1e-6), (column + offset) / (columns + 1e-6)):
                    for number in range(dims // 2):
                        angle = 2 * math.pi * share / temperature ** (2 * (number // 2) / (dims // 2))
                        waves.append(math.cos(angle) if number % 2 else math.sin(angle))
                assert embedding[photo, row * 3 + column].tolist() == pytest.approx(waves, abs=1e-5)


def test_biases_of_the_pyramid_and_the_least_share_by_hand() -> None:
    network = small_network(3, shape=DETREX).eval()
    mapper = network.neck.convs[0]
    x = torch.randn(1, mapper.conv.in_channels, 4, 5, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mapper.conv.bias.copy_(torch.arange(32) / 8)
        sums = torch.einsum("kc,bchw->bkhw", mapper.conv.weight[:, :, 0, 0], x) + (torch.arange(32) / 8)[:, None, None]
        groups = sums.reshape(1, 8, -1)
        normed = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, unbiased=False, keepdim=True) + 1e-5).sqrt()
        expected = normed.view_as(sums) * mapper.gn.weight[:, None, None] + mapper.gn.bias[:, None, None]
    torch.testing.assert_close(mapper(x), expected, rtol=1e-4, atol=1e-5)
    # A box without sides is predicted from sides of 1e-3 by detrex, of 1e-5 by mmdet
    boxes = torch.tensor([[[0.5, 0.5, 0.0, 0.0]]])
    for shape, least in ((DETREX, 1e-3), (SMALL_SHAPE, 1e-5)):
        network = small_network(3, shape=shape).eval()
        with torch.no_grad():
            network.bbox_head.reset()  # boxes stay where they start
            levels = network.neck(network.backbone(images()[:1]))
            sizes = [(level.shape[2], level.shape[3]) for level in levels]
            areas = PyramidAreas.of(sizes, (80, 96), SIZES[:1], torch.device("cpu"))
            memory = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)
            _, refined = network.decoder(torch.zeros(1, 1, 32), boxes, memory, areas, None, network.bbox_head)
        assert refined[0, 0, 0].tolist() == pytest.approx([0.5, 0.5, least, least], rel=2e-3)


def test_the_fingerprint_of_mmdets_is_what_it_was() -> None:
    fields = {name: getattr(SMALL_SHAPE, name) for name in DinoShape.model_fields if name != "implementation"}
    assert fingerprint_of(SMALL_SHAPE) == fingerprint_of(fields) != fingerprint_of(DETREX)
