"""SEUNet: any size, near identity when untrained, cost, windowed squeeze, layouts, gradients."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from main_sharpening_script import (
    STUDENT_SIZES,
    SEUNet,
    SqueezeExcite,
    StudentConfig,
    pad_to_multiple,
)

TINY = StudentConfig(width=8, max_width=16, encoder=(1, 1), middle=1, decoder=(1, 1))


def build(config=TINY):
    torch.manual_seed(0)
    return SEUNet(config)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2), (8, 8), (15, 33), (40, 24)])
@pytest.mark.parametrize("stem", [1, 2, 4])
def test_any_size_gives_a_near_copy_and_taps_of_the_padded_size(size, stem):
    config = dataclasses.replace(TINY, stem=stem, encoder=(1, 1, 1), decoder=(1, 1, 1))
    net, blurry = build(config).eval(), torch.rand(2, 3, *size)
    with torch.no_grad():
        restored, taps = net(blurry, return_taps=True)
    assert restored.shape == blurry.shape
    assert 0 < (restored - blurry).abs().max() < 0.05
    padded = [-(-n // config.multiple) * config.multiple for n in size]
    for name, factor in {"half": 2, "quarter": 4, "eighth": 8}.items():
        assert taps[name].shape == (
            2,
            net.tap_channels[name],
            padded[0] // factor,
            padded[1] // factor,
        )


@pytest.mark.parametrize("name, parameters, gmacs", [("standard", 2.59, 2.64), ("live", 0.93, 0.5)])
def test_sizes_cost_what_the_model_card_says(name, parameters, gmacs):
    with torch.device("meta"):
        net, image = SEUNet(STUDENT_SIZES[name]), torch.rand(1, 3, 256, 256)
    with FlopCounterMode(display=False) as flops, torch.no_grad():
        net(image)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(parameters, abs=0.005)
    assert flops.get_total_flops() / 2e9 == pytest.approx(gmacs, abs=0.005)


def test_padding_reflects_then_repeats():
    ramp = torch.arange(4.0).view(1, 1, 1, 4)
    assert pad_to_multiple(ramp, 6)[0, 0, 0].tolist() == [0, 1, 2, 3, 2, 1]
    assert pad_to_multiple(ramp, 11)[0, 0, 5].tolist() == [0, 1, 2, 3, 2, 1, 0, 0, 0, 0, 0]
    assert torch.equal(pad_to_multiple(ramp, 1), ramp)
    image = torch.rand(2, 3, 13, 21)
    reflected = torch.nn.functional.pad(image, (0, 3, 0, 3), mode="reflect")
    assert torch.equal(pad_to_multiple(image, 8), reflected)


@pytest.mark.parametrize("window", [4, 8, 12, 40])
def test_windowed_squeeze_equals_the_naive_one(window):
    """Means over windows half a window apart, cut at the edge, and bilinear between them."""
    torch.manual_seed(0)
    squeeze, x, half = SqueezeExcite(3, window).eval(), torch.rand(2, 3, 21, 13), window // 2
    nodes = [range(0, size + 1, half) for size in x.shape[2:]]
    means = torch.stack(
        [
            torch.stack(
                [
                    x[:, :, max(0, i - half) : i + half, max(0, j - half) : j + half].mean((2, 3))
                    for j in nodes[1]
                ],
                -1,
            )
            for i in nodes[0]
        ],
        -2,
    )
    with torch.no_grad():
        weights, restored = squeeze.weights(means).numpy(), squeeze(x)
    for axis, size in ((2, 21), (3, 13)):
        centres = np.arange(size) + 0.5
        between = lambda values, at, to: np.interp(to, at, values)  # noqa: E731
        weights = np.apply_along_axis(between, axis, weights, nodes[axis - 2], centres)
    assert np.allclose(restored.numpy(), x.numpy() * weights, atol=1e-6)


@pytest.mark.parametrize("window", [1, 2, 3, 5, 7])
def test_windowed_squeeze_takes_any_window_and_size(window):
    for size in ((1, 1), (1, 9), (5, 2), (17, 16)):
        x = torch.rand(1, 3, *size)
        assert SqueezeExcite(3, window).eval()(x).shape == x.shape


def test_windowed_squeeze_is_global_in_training_and_where_half_a_window_covers_the_image():
    net = build(dataclasses.replace(TINY, pool_window=None))
    local = SEUNet(dataclasses.replace(TINY, pool_window=64))
    local.load_state_dict(net.state_dict())
    with torch.no_grad():
        for parameter in local.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        net.load_state_dict(local.state_dict())
        inside, larger = torch.rand(1, 3, 32, 24), torch.rand(1, 3, 32, 96)
        assert torch.allclose(local.eval()(inside), net.eval()(inside), atol=1e-5)
        assert not torch.allclose(local(larger), net(larger), atol=1e-5)
        assert torch.equal(local.train()(larger), net(larger))


def test_channels_last_gives_the_same_image():
    net, blurry = build(STUDENT_SIZES["live"]).eval(), torch.rand(1, 3, 50, 70)
    with torch.no_grad():
        plain = net(blurry)
        net.to(memory_format=torch.channels_last)
        assert torch.allclose(
            net(blurry.contiguous(memory_format=torch.channels_last)), plain, atol=1e-5
        )


def test_bf16_autocast_stays_close_and_returns_float32():
    net, blurry = build(STUDENT_SIZES["live"]).eval(), torch.rand(1, 3, 40, 40)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = net(blurry)
    assert rounded.dtype == torch.float32
    assert torch.allclose(rounded, net(blurry), atol=2e-3)


@pytest.mark.parametrize("name", STUDENT_SIZES)
def test_gradients_reach_every_parameter(name):
    net = build(STUDENT_SIZES[name])
    (net(torch.rand(1, 3, 32, 32)) - torch.rand(1, 3, 32, 32)).abs().mean().backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


def test_a_deep_stack_trains_without_a_norm():
    net = build(dataclasses.replace(TINY, middle=12))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    sharp = torch.rand(4, 3, 6, 6).repeat_interleave(4, 2).repeat_interleave(4, 3)
    blurry = torch.nn.functional.avg_pool2d(sharp, 5, 1, 2)
    losses = []
    for _ in range(40):
        loss = (net(blurry) - sharp).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_one_exported_program_serves_every_size():
    net, dynamic = build().eval(), {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(
        net, (torch.rand(1, 3, 41, 37),), dynamic_shapes=(dynamic,)
    ).module()
    for size in [(16, 16), (9, 50), (33, 20)]:  # from two bottom pixels up
        blurry = torch.rand(1, 3, *size)
        assert torch.allclose(program(blurry), net(blurry), atol=1e-5)


def test_impossible_settings_raise():
    with pytest.raises(ValueError, match="one number per level"):
        StudentConfig(encoder=(1, 1), decoder=(1,))
    with pytest.raises(ValueError, match="1/8"):
        StudentConfig(encoder=(1,), decoder=(1,))
