"""Tiled inference: weights sum to one, a pointwise net is unchanged, nothing is cut or shifted."""

import threading

import numpy as np
import pytest
import torch
from conftest import photo

import main_sharpening_script as script


class Pointwise(torch.nn.Module):
    def forward(self, x):
        return 1 - x


@pytest.mark.parametrize(
    ("length", "tile", "overlap"),
    [(1, 32, 8), (32, 32, 8), (33, 32, 8), (200, 48, 16), (97, 40, 0)],
)
def test_tiles_cover_and_overlap(length, tile, overlap):
    starts = script.tile_starts(length, tile, overlap)
    assert starts[-1] + min(tile, length) == length
    assert all(b - a <= tile - overlap for a, b in zip(starts, starts[1:], strict=False))


def test_blend_is_a_raised_cosine_over_the_overlap():
    canvas = np.zeros((100, 1, 3), np.uint16)
    for start, level in ((0, 60_000), (40, 10_000), (50, 20_000)):  # the last one covers most
        script.paste(canvas, np.full((50, 1, 3), level, np.uint16), start, 10)
    fall = 0.5 + 0.5 * np.cos(np.pi * (np.arange(10) + 0.5) / 10)
    assert (canvas[:40] == 60_000).all() and (canvas[60:] == 20_000).all()
    assert np.abs(canvas[40:50, 0, 0] - (10_000 + 50_000 * fall)).max() <= 0.5
    assert np.abs(canvas[50:60, 0, 0] - (20_000 - 10_000 * fall)).max() <= 0.5


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (64, 64), (131, 77)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("batch", [1, 3])
def test_tiled_equals_whole_for_a_pointwise_net(size, dtype, batch, runtime):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (*size, 3), dtype)
    tiled = script.sharpen_tiled(Pointwise(), image, runtime, 48, 16, batch)
    assert tiled.dtype == dtype
    assert np.abs(tiled.astype(int) - (np.iinfo(dtype).max - image.astype(int))).max() <= 1
    assert np.array_equal(tiled, script.sharpen_whole(Pointwise(), image, runtime))


def test_tiled_equals_whole_for_a_small_receptive_field(runtime):
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 3, 5, padding=2, padding_mode="replicate").eval()
    image = photo(150, 170)
    whole = script.sharpen_whole(net, image, runtime)
    tiled = script.sharpen_tiled(net, image, runtime, 64, 16)
    inner = np.abs(whole.astype(int) - tiled.astype(int))
    assert inner.max() <= 12  # only where a tile's edge is blended in with a weight near 0
    assert inner.mean() < 0.1


class OutOfMemoryAbove(torch.nn.Module):
    """A net that has memory for tiles of so many pixels a side."""

    def __init__(self, side):
        super().__init__()
        self.side, self.seen = side, []

    def forward(self, x):
        self.seen.append(x.shape[2])
        if x.shape[2] > self.side:
            raise torch.OutOfMemoryError("no memory")
        return x


def test_out_of_memory_halves_the_tile(runtime):
    net = OutOfMemoryAbove(300)
    image = photo(400, 500)
    config = script.InferConfig(tile=512, overlap=16)
    assert np.array_equal(script.sharpen_image(net, image, runtime, config), image)
    assert 200 <= max(net.seen[1:]) <= 250  # 400 pixels in even tiles of at most 250


def test_out_of_memory_with_small_tiles_is_an_error(runtime):
    with pytest.raises(script.SharpeningError, match="memory"):
        script.sharpen_image(OutOfMemoryAbove(8), photo(300, 300), runtime, script.InferConfig())


def test_what_is_not_finite_is_computed_again_in_float32_or_refused(monkeypatch):
    half = script.Runtime(torch.device("cpu"), torch.float16)
    image = np.full((8, 8, 3), 200, np.uint8)

    def overflowing(x):  # autocast runs matrix products in fp16, which ends at 65,504
        factor = torch.matmul(torch.full((1, 64), 300.0), torch.full((64, 1), 300.0))
        return x * factor / (64 * 300.0**2)

    with torch.autocast("cpu", torch.float16):
        assert not overflowing(torch.ones(1)).isfinite().all()
    assert np.array_equal(script.sharpen_whole(overflowing, image, half), image)
    assert np.array_equal(script.sharpen_tiled(overflowing, image, half, 6, 2), image)
    with pytest.raises(script.SharpeningError, match="not finite"):
        script.sharpen_whole(lambda x: x * float("nan"), image, half)


def test_tiles_are_computed_side_by_side(four_cores, runtime):
    """Each call ends only once another is under way: one at a time would wait for ever."""
    side_by_side = threading.Barrier(2, timeout=30)
    image = photo(100, 100)

    def net(x):
        side_by_side.wait()
        return x

    assert np.array_equal(script.sharpen_tiled(net, image, runtime, 60, 16), image)  # 2 x 2 tiles


def test_an_error_in_a_stream_reaches_the_caller(runtime):
    def net(x):
        raise script.SharpeningError("no")

    with pytest.raises(script.SharpeningError, match="no"):
        script.sharpen_tiled(net, photo(100, 100), runtime, 60, 16)
