"""Build the WeakTr network that the settings describe, with the weights that they name."""

from __future__ import annotations

from weaksam.models.weaktr.checkpoints import load_weaktr
from weaksam.models.weaktr.fusion import FusionShape
from weaksam.models.weaktr.network import WeakTr, WeakTrSettings
from weaksam.models.weaktr.vit import VitShape


def build_weaktr(settings: WeakTrSettings, num_classes: int, *, trained: bool = False) -> WeakTr:
    """The network for ``num_classes`` classes with the weights that ``settings`` name; random where they name none.

    A WeakTr checkpoint fills all of it, any other the transformer only: its class token is repeated for every class
    and its own classifier left out. What stays random draws from torch's global random numbers; with ``trained``
    nothing may.

    Raises:
        UserError: the weights cannot be read, or are of another network, fusion or number of classes.
    """
    if settings.weights != "none" or trained:
        return load_weaktr(settings, num_classes, trained=trained)
    shape = random_shape(settings)
    fusion = FusionShape.of(settings.fusion, shape, settings.reduction, settings.feature_reduction)
    return WeakTr(shape, num_classes, fusion, settings.drop_path)


def random_shape(settings: WeakTrSettings) -> VitShape:
    """The shape that ``settings`` describe for a network without weights."""
    return VitShape(
        width=settings.width,
        depth=settings.depth,
        num_heads=settings.num_heads or max(1, settings.width // 64),
        patch_size=settings.patch_size,
        grid=max(1, settings.image_size // settings.patch_size),
        mlp_width=4 * settings.width,
    )
