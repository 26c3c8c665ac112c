"""The loss of a block's output, with and without the largest errors."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ovround.quant.passes.signround import OUTLIERS, _stride, _trimmed_error


def outputs(features: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return tuple(torch.randn(16, 512, features, generator=draw) for _ in range(2))  # type: ignore[return-value]


def test_without_trimming_it_is_the_mean_squared_error() -> None:
    output, target = outputs()
    ours, theirs = (output.clone().requires_grad_() for _ in range(2))
    actual, expected = _trimmed_error(ours, target, False), F.mse_loss(theirs, target)
    (actual * 1000).backward()
    (expected * 1000).backward()
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_feature_of_huge_errors_is_left_out() -> None:
    """The threshold depends only on a sample of the batch's errors, which contains every feature."""
    output, target = outputs()
    rows = torch.arange(0, 512, 32)
    output[:, rows, 5] += 1000  # 256 errors of 393,216; 393 are to be left out, as one in seven tells
    output.requires_grad_()
    loss = _trimmed_error(output, target, True)
    assert float(loss.detach()) < 2.2  # of two independent normal variables: 2
    loss.backward()
    assert output.grad is not None
    assert not output.grad[:, rows, 5].any()
    left_out = float((output.grad == 0).sum()) / output.numel()
    # by the 56 largest of a sample, some 20 of them not huge, give or take 6, each of which stands for seven
    assert 0.5 * OUTLIERS < left_out < 1.5 * OUTLIERS


def test_a_sample_contains_every_feature() -> None:
    for features in (48, 192, 256, 4096):
        stride = _stride(2048 * features, features)
        assert len({number * stride % features for number in range(features)}) == features
    assert _stride(100, 10) == 1
