"""The DINO network: pyramid, encoder, query selection and decoder; tensors in, logits and boxes of every layer out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from weaksam.models.backbones.features import FeatureExtractor
from weaksam.models.detectors.dino.denoising import Denoising, DenoisingQueries
from weaksam.models.detectors.dino.layers import DecoderLayer, EncoderLayer
from weaksam.models.detectors.dino.neck import ChannelMapper
from weaksam.models.detectors.dino.positions import CellWaves, PyramidAreas, box_waves, inverse_sigmoid
from weaksam.models.detectors.dino.settings import DinoShape
from weaksam.models.full_precision import full_precision
from weaksam.structures.devices import numbers_on

_PRIOR = 0.01
"""Score that every class has at first."""


class Details(NamedTuple):
    """In what published implementations of the same network differ."""

    cell_waves: CellWaves
    neck_bias: bool
    """Whether the pyramid's convolutions add a bias before their group-norm."""
    least: float
    """Least share that a predicted box starts from; those that place a query's points are 1e-3 at least in both."""


DETAILS = {
    "mmdet": Details(CellWaves(), neck_bias=False, least=1e-5),
    "detrex": Details(CellWaves(10000.0, 0.5), neck_bias=True, least=1e-3),
}
"""By `DinoShape.implementation`; those of mmdet 3.3 and of detrex's ``projects/dino``."""


@dataclass(frozen=True)
class DinoOutputs:
    """Predictions for B photos and C classes; boxes are centre x, y, width, height as shares of the photo."""

    logits: Tensor
    """``(layers, B, D + Q, C)``: D denoising queries, then Q matching ones."""
    boxes: Tensor
    """``(layers, B, D + Q, 4)``."""
    encoder_logits: Tensor
    """``(B, Q, C)`` of the cells that became queries."""
    encoder_boxes: Tensor
    """``(B, Q, 4)``."""
    num_denoising: int
    """D, 0 without denoising."""


class DinoEncoder(nn.Module):
    """Refines the cells of the pyramid."""

    def __init__(self, shape: DinoShape) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(shape) for _ in range(shape.encoder_layers))

    def forward(self, memory: Tensor, position: Tensor, areas: PyramidAreas) -> Tensor:
        """Refined cells ``(B, S, C)``."""
        references = areas.points[:, :, None] * areas.ratios[:, None]  # (B, S, L, 2)
        for layer in self.layers:
            memory = layer(memory, position, references, areas)
        return memory


class ReferenceHead(nn.Module):
    """Two linear layers that turn the waves of a reference box into its query's position."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2 * dims, dims), nn.Linear(dims, dims)])

    def forward(self, waves: Tensor) -> Tensor:
        """Position ``(B, Q, C)`` from waves ``(B, Q, 2 * C)``."""
        position: Tensor = self.layers[1](self.layers[0](waves).relu())
        return position


class DinoDecoder(nn.Module):
    """Refines queries and their boxes, layer by layer."""

    def __init__(self, shape: DinoShape) -> None:
        super().__init__()
        self.dims, self.least = shape.embed_dims, DETAILS[shape.implementation].least
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.decoder_layers))
        self.norm = nn.LayerNorm(shape.embed_dims)
        self.ref_point_head = ReferenceHead(shape.embed_dims)

    def forward(
        self,
        queries: Tensor,
        boxes: Tensor,
        memory: Tensor,
        areas: PyramidAreas,
        blocked: Tensor | None,
        head: PredictionHead,
    ) -> tuple[Tensor, Tensor]:
        """Logits ``(layers, B, N, C)`` and boxes ``(layers, B, N, 4)`` of ``queries`` (B, N, dims).

        ``boxes`` (B, N, 4) are where they start. A layer's boxes pass their gradient to the layer before, but not
        beyond (look forward twice).
        """
        ratios = areas.ratios.repeat(1, 1, 2)[:, None]  # (B, 1, L, 4)
        references, start = boxes.detach(), boxes
        logits, refined = [], []
        for layer, (of_classes, of_boxes) in zip(self.layers, head.branches(), strict=False):
            scaled = references[:, :, None] * ratios
            position = self.ref_point_head(box_waves(scaled[:, :, 0], self.dims).to(queries))
            queries = layer(queries, position, memory, scaled, areas, blocked)
            normed = self.norm(queries)
            logits.append(of_classes(normed))
            refined.append((full_precision(of_boxes(normed)) + inverse_sigmoid(start, self.least)).sigmoid())
            start = (full_precision(of_boxes(queries)) + inverse_sigmoid(references, 1e-3)).sigmoid()
            references = start.detach()
        return torch.stack(logits), torch.stack(refined)


class PredictionHead(nn.Module):
    """Predicts classes and boxes from queries, with branches of their own for every decoder layer and the encoder."""

    def __init__(self, shape: DinoShape, num_classes: int) -> None:
        super().__init__()
        dims, num = shape.embed_dims, shape.decoder_layers + 1
        self.cls_branches = nn.ModuleList(nn.Linear(dims, num_classes) for _ in range(num))
        self.reg_branches = nn.ModuleList(
            nn.Sequential(nn.Linear(dims, dims), nn.ReLU(), nn.Linear(dims, dims), nn.ReLU(), nn.Linear(dims, 4))
            for _ in range(num)
        )
        self.reset()

    def reset(self) -> None:
        """First weights: every class has the same low score, boxes stay where they start."""
        for of_classes, of_boxes in self.branches():
            nn.init.constant_(of_classes.bias, float(torch.logit(torch.tensor(_PRIOR))))
            nn.init.zeros_(of_boxes[-1].weight)
            nn.init.zeros_(of_boxes[-1].bias)

    def branches(self) -> list[tuple[nn.Linear, nn.Sequential]]:
        """The branches for classes and for boxes: of the decoder's layers in order, then of the encoder."""
        return list(zip(self.cls_branches, self.reg_branches, strict=True))


class DinoNetwork(nn.Module):
    """The network; names of its weights are mmdet's, but for the backbone's, which are ``backbone.body.*``."""

    def __init__(self, backbone: FeatureExtractor, shape: DinoShape, num_classes: int) -> None:
        super().__init__()
        dims = shape.embed_dims
        self.shape, self.details = shape, DETAILS[shape.implementation]
        self.backbone = backbone
        channels = list(backbone.channels.values())
        self.neck = ChannelMapper(channels, dims, shape.norm_groups, shape.num_levels, bias=self.details.neck_bias)
        self.encoder = DinoEncoder(shape)
        self.decoder = DinoDecoder(shape)
        self.level_embed = nn.Parameter(torch.randn(shape.num_levels, dims))
        self.memory_trans_fc = nn.Linear(dims, dims)
        self.memory_trans_norm = nn.LayerNorm(dims)
        self.query_embedding = nn.Embedding(shape.num_queries, dims)
        self.dn_query_generator = DenoisingQueries(shape, num_classes)
        self.bbox_head = PredictionHead(shape, num_classes)
        self._reset()

    def _reset(self) -> None:
        """First weights of the hidden layers; those of deformable attention and predictions are their own."""
        for module in [*self.encoder.modules(), *self.decoder.modules()]:
            for linear in _hidden_layers(module):
                nn.init.xavier_uniform_(linear.weight)
        nn.init.xavier_uniform_(self.memory_trans_fc.weight)

    def predictions(
        self, images: Tensor, photo_sizes: Sequence[tuple[int, int]], denoising: Denoising | None = None
    ) -> DinoOutputs:
        """Predictions for normalised ``images`` (B, 3, H, W), padded on the right and below from ``photo_sizes``."""
        return self.decode(self.neck(self.backbone(images)), images.shape[-2:], photo_sizes, denoising)

    def decode(
        self,
        levels: Sequence[Tensor],
        padded_size: Sequence[int],
        photo_sizes: Sequence[tuple[int, int]],
        denoising: Denoising | None = None,
    ) -> DinoOutputs:
        """Predictions from the pyramid's ``levels`` (B, dims, h, w) of photos padded to ``padded_size`` (H, W)."""
        sizes = [(level.shape[2], level.shape[3]) for level in levels]
        areas = PyramidAreas.of(sizes, (padded_size[0], padded_size[1]), photo_sizes, levels[0].device)
        return self.decode_areas(levels, areas, denoising)

    def decode_areas(
        self, levels: Sequence[Tensor], areas: PyramidAreas, denoising: Denoising | None = None
    ) -> DinoOutputs:
        """`decode` where the photos take ``areas`` of the levels."""
        cells = torch.cat([level.flatten(2).transpose(1, 2) for level in levels], dim=1)  # (B, S, dims)
        memory = self.encoder(cells, self._position(areas).to(cells), areas)
        encoder_logits, starts = self._select(memory, areas)
        num = starts.shape[1]
        queries = self.query_embedding.weight[:num].expand(memory.shape[0], -1, -1)
        boxes, blocked = starts.detach(), None
        if denoising is not None:
            queries = torch.cat([self.dn_query_generator.embed(denoising), queries], dim=1)
            boxes = torch.cat([denoising.boxes, boxes], dim=1)
            blocked = denoising.blocked(num)
        logits, refined = self.decoder(queries, boxes.sigmoid(), memory, areas, blocked, self.bbox_head)
        return DinoOutputs(logits, refined, encoder_logits, starts.sigmoid(), queries.shape[1] - num)

    def _position(self, areas: PyramidAreas) -> Tensor:
        """Embedding ``(B, S, dims)`` of every cell's place and level."""
        num_cells = [h * w for h, w in areas.sizes]
        repeats = numbers_on(self.level_embed.device, num_cells, torch.int64)
        of_levels = self.level_embed.repeat_interleave(repeats, dim=0, output_size=sum(num_cells))
        return areas.embedding(self.shape.embed_dims, self.details.cell_waves) + of_levels

    def _select(self, memory: Tensor, areas: PyramidAreas) -> tuple[Tensor, Tensor]:
        """Class logits ``(B, Q, C)`` and box logits ``(B, Q, 4)`` of the cells that any class scores highest.

        All cells are scored without gradient; the chosen ones once more with it, as the others get none.
        """
        of_classes, of_boxes = self.bbox_head.branches()[-1]
        proposals, proposing = areas.proposals()
        memory = memory.masked_fill(~proposing[..., None], 0.0)
        with torch.no_grad():
            scores = of_classes(self.memory_trans_norm(self.memory_trans_fc(memory))).amax(-1)  # (B, S)
        num = min(self.shape.num_queries, scores.shape[1])
        chosen = scores.topk(num, dim=1).indices[..., None]  # (B, Q, 1)
        rows = memory.gather(1, chosen.expand(-1, -1, memory.shape[-1]))
        rows = self.memory_trans_norm(self.memory_trans_fc(rows))
        starts = proposals.gather(1, chosen.expand(-1, -1, 4))
        return of_classes(rows), full_precision(of_boxes(rows)) + starts


def _hidden_layers(module: nn.Module) -> list[nn.Linear]:
    """Linear layers that a module of the transformer holds itself, but for those of deformable attention."""
    if isinstance(module, (nn.Sequential, nn.ModuleList)):
        return [child for child in module if isinstance(child, nn.Linear)]
    return []
