"""The head's outputs by shape, and that box layers change no other layer."""

import torch

from weaksam.models.wsod.head import WsodHead, mean_class_probabilities


def test_the_head_scores_rois_and_no_roi() -> None:
    torch.manual_seed(0)
    head = WsodHead(12, 8, 3, num_branches=2, roi_size=2, hidden=16).eval()
    rois = torch.randn(5, 8 * 4)
    (output,) = head(rois[:2])
    assert output.scores.shape == (2, 3)
    assert [tuple(logits.shape) for logits in output.refine] == [(2, 4), (2, 4)]
    assert mean_class_probabilities(output.refine).sum(dim=1).le(1).all()
    assert head(rois[:0])[0].scores.shape == (0, 3)
    first, none, rest = head(rois, [2, 0, 3])  # photo by photo
    torch.testing.assert_close(first.scores, output.scores)
    torch.testing.assert_close(rest.scores, head(rois[2:])[0].scores)
    assert len(none.scores) == 0


def test_box_layers_leave_the_other_layers_as_they_were() -> None:
    heads = []
    for box_regression in (False, True):
        torch.manual_seed(3)
        heads.append(WsodHead(6, 4, 3, num_branches=2, roi_size=1, hidden=8, box_regression=box_regression).eval())
    plain, more = (head.state_dict() for head in heads)
    assert all(torch.equal(value, more[name]) for name, value in plain.items())
    (output,) = heads[1](torch.randn(2, 4))
    assert [tuple(one.shape) for one in output.deltas] == [(2, 4, 4)] * 2
    assert heads[0](torch.zeros(0, 4))[0].deltas == ()
