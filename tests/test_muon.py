"""Muon: what a step does to a kernel, and what is left to Adam."""

import math

import pytest
import torch

from sharpening.muon import MuonAndAdam


def stepped(kernel, gradient, steps=1):
    """What Muon makes of a copy of the kernel at a learning rate of 0.01."""
    kernel = torch.nn.Parameter(kernel.clone(memory_format=torch.preserve_format))
    optimizer = MuonAndAdam([kernel], 0.01)
    for _ in range(steps):
        kernel.grad = gradient.clone()
        optimizer.step()
    return kernel.detach()


def test_muon_moves_all_directions_of_a_kernel_alike():
    kernel = torch.randn(16, 32, 3, 3)
    scales = torch.logspace(0, -1.5, 16)[:, None, None, None]  # the last rows hardly matter
    moved = kernel - stepped(kernel, torch.randn(16, 32, 3, 3) * scales)
    values = torch.linalg.svdvals(moved.flatten(1)) / (0.01 * 0.2 * math.sqrt(32 * 9))
    assert values.min() > 0.6
    assert values.max() < 1.3
    size = moved.square().mean().sqrt()  # as the RMS of 0.2 that Adam's steps have
    assert size == pytest.approx(0.01 * 0.2, rel=0.2)


def test_muon_asks_for_the_direction_of_a_gradient_alone_and_not_for_its_memory():
    kernel, gradient = torch.randn(16, 32, 3, 3), torch.randn(16, 32, 3, 3)
    moved = stepped(kernel, gradient, 3)
    assert torch.equal(stepped(kernel, 64 * gradient, 3), moved)
    last = kernel.to(memory_format=torch.channels_last)
    assert torch.equal(stepped(last, gradient, 3), moved)


def test_muon_leaves_what_is_no_wide_kernel_to_adam():
    shapes = [(64,), (15, 64, 3, 3), (64, 3, 3, 3), (4, 4)]
    ours, oracle = ([torch.nn.Parameter(torch.ones(s)) for s in shapes] for _ in range(2))
    optimizers = MuonAndAdam(ours, 0.01), torch.optim.Adam(oracle, 0.01, (0.9, 0.99))
    optimizers[1].param_groups[0]["lr"] = optimizers[0].param_groups[0]["lr"] = 0.003
    for a, b in zip(ours, oracle, strict=True):
        a.grad = b.grad = torch.randn_like(a)
    for optimizer in optimizers:
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, oracle, strict=True))
