"""Score every RoI by class and by location, and compute the loss of the tags (WSDDN)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def wsddn_scores(class_logits: Tensor, detection_logits: Tensor) -> Tensor:
    """RoI scores ``(R, C)`` in [0, 1] from two streams of logits ``(R, C)``.

    ``softmax over classes * softmax over RoIs`` (Bilen and Vedaldi, CVPR 2016, section 3.3). Without RoIs: ``(0, C)``.
    """
    if class_logits.shape[0] == 0:
        return class_logits
    return class_logits.softmax(dim=1) * detection_logits.softmax(dim=0)


def image_scores(roi_scores: Tensor) -> Tensor:
    """Image score of each class ``(C,)`` in [0, 1]: the sum of its RoI scores ``(R, C)``; zeros without RoIs."""
    return roi_scores.sum(dim=0).clamp(0.0, 1.0)


def wsddn_loss(
    roi_scores: Tensor, tags: Tensor, eps: float = 1e-6, *, reduction: Literal["sum", "mean"] = "sum"
) -> Tensor:
    """Binary cross-entropy of the image scores against the tags ``(C,)`` in {0, 1}, summed over classes, a scalar.

    MIST takes the ``"mean"`` over C + 1 columns, background in column 0 with tag 0, and ``eps = 1e-8``
    (``docs/method.md, MIST``). Image scores are clamped to ``[eps, 1 - eps]`` so that a class without evidence has a
    finite loss. Without RoIs the loss is 0: nothing in the image can be blamed. A score that is NaN makes the loss NaN,
    so that the training can say which image it was; the cross-entropy by itself would stop without telling.
    """
    if roi_scores.shape[0] == 0:
        return roi_scores.sum()
    phi = image_scores(roi_scores)
    # 1 - 1e-8 is 1 in float32, where the cross-entropy's gradient is 1e12: keep one step of the type below 1
    phi = phi.clamp(eps, 1.0 - max(eps, torch.finfo(phi.dtype).eps))
    loss = F.binary_cross_entropy(phi.nan_to_num(nan=eps), tags.to(phi.dtype), reduction=reduction)
    return loss + (phi - phi).detach().sum()  # adds 0 or NaN
