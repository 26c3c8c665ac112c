"""Adam against the formulas of its paper, for tensors of different magnitudes together."""

from __future__ import annotations

import torch

from ovround.quant.passes.optimizer import Adam, SignDescent


def gradients(shape: tuple[int, ...], count: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) + 0.5 for _ in range(count)]


def test_adam_is_that_of_the_paper() -> None:
    """arXiv 1412.6980, algorithm 1, with decays 0.9 and 0.95; what keeps it from dividing by 0 is far below each root."""
    shapes, sizes, rates = ((3, 4), (5,)), (1.0, 0.25), [0.1, 0.2, 0.05, 0.1]
    parameters = [torch.zeros(shape) for shape in shapes]
    given = [gradients(shape, len(rates), seed) for seed, shape in enumerate(shapes)]
    adam = Adam(parameters, sizes)
    for step, rate in enumerate(rates):
        for parameter, grads in zip(parameters, given, strict=True):
            parameter.grad = grads[step].clone()
        adam.step(rate)
        assert all(parameter.grad is None for parameter in parameters)
    for parameter, size, grads in zip(parameters, sizes, given, strict=True):
        mean, square, expected = (torch.zeros_like(parameter) for _ in range(3))
        for step, (rate, grad) in enumerate(zip(rates, grads, strict=True), 1):
            mean = 0.9 * mean + 0.1 * grad
            square = 0.95 * square + 0.05 * grad**2
            expected -= rate * size * (mean / (1 - 0.9**step)) / (square / (1 - 0.95**step)).sqrt()
        # 1/100 of the mean root is added to each root: a step is at most so much shorter where roots are near their mean
        torch.testing.assert_close(parameter, expected, rtol=0.1, atol=0.005 * size)


def test_adam_passes_over_what_has_no_gradient_or_an_empty_one() -> None:
    still, zero, moved = torch.ones(2), torch.ones(2), torch.ones(2)
    adam = Adam([still, zero, moved], [1.0, 1.0, 1.0])
    for _ in range(2):
        zero.grad, moved.grad = torch.zeros(2), torch.tensor([1.0, -1.0])
        adam.step(0.5)
    assert still.tolist() == zero.tolist() == [1, 1]
    # where all gradients agree a step has the rate's length, less a hundredth
    torch.testing.assert_close(moved, torch.tensor([0.0, 2.0]), rtol=0, atol=0.02)


def test_the_sign_moves_everything_equally_far() -> None:
    parameter = torch.zeros(3)
    parameter.grad = torch.tensor([1e-9, -5.0, 0.0])
    SignDescent([parameter], [2.0]).step(0.5)
    assert parameter.tolist() == [-1, 1, 0]
