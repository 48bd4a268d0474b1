"""The tag classifier whose weights make class activation maps."""

import torch

from weaksam.models.cam.classifier import train_tag_classifier


def test_the_tag_classifier_separates_and_its_map_averages_to_its_logit() -> None:
    generator = torch.Generator().manual_seed(0)
    tags = (torch.arange(40) % 2).float()[:, None]
    pooled = torch.randn(40, 6, generator=generator) * 0.3
    pooled[:, 2] += 2.0 * tags[:, 0]
    classifier = train_tag_classifier(pooled, tags, weight_decay=0.01)
    assert ((classifier.logits(pooled) > 0).float() == tags).all()
    assert classifier.weight[0].abs().argmax() == 2
    features = torch.randn(6, 3, 5, generator=generator)
    logit = classifier.class_maps(features).mean(dim=(1, 2)) + classifier.bias
    torch.testing.assert_close(logit, classifier.logits(features.mean(dim=(1, 2))[None])[0])


def test_the_tag_classifier_is_the_minimum() -> None:
    generator = torch.Generator().manual_seed(1)
    pooled, tags = torch.randn(30, 4, generator=generator), (torch.rand(30, 2, generator=generator) > 0.5).float()
    classifier = train_tag_classifier(pooled, tags, weight_decay=0.1)
    weight = classifier.weight.clone().requires_grad_()
    logits = torch.nn.functional.linear((pooled - classifier.mean) / classifier.deviation, weight, classifier.bias)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, tags) + 0.05 * weight.square().sum()
    loss.backward()
    assert weight.grad is not None and weight.grad.abs().max() < 1e-3
