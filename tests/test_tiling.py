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
def test_weights_sum_to_one_and_tiles_cover(length, tile, overlap):
    starts = script.tile_starts(length, tile, overlap)
    weights = script.blend_weights(length, tile, overlap)
    total = torch.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + len(weight)] += weight
    assert torch.allclose(total, torch.ones(length), atol=1e-6)
    assert starts[-1] + weights.shape[1] == length
    assert all(b - a <= tile - overlap for a, b in zip(starts, starts[1:], strict=False))


def test_blend_is_a_raised_cosine_over_the_overlap():
    weights = script.blend_weights(200 - 16, 100, 16)  # two tiles that share exactly 16
    expected = 0.5 + 0.5 * np.cos(np.pi * (np.arange(16) + 0.5) / 16)
    assert weights[0, :84].eq(1).all()
    assert np.allclose(weights[0, 84:], expected, atol=1e-6)


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


# --- streams


@pytest.fixture
def four_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_streams_share_the_cores_of_their_thread(four_cores, runtime):
    def cores():
        with script.streams(runtime) as inner:
            return torch.get_num_threads(), inner.submit(torch.get_num_threads).result()

    with script.streams(runtime) as pool:
        side_by_side = threading.Barrier(2, timeout=30)
        found = list(pool.map(lambda _: (side_by_side.wait(), cores())[1], range(2)))
        assert found == [(2, 1), (2, 1)] and torch.get_num_threads() == 4
    with script.streams(runtime, 1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 4
    with script.thread_pool(1) as later:  # what it finds is not what the streams left
        assert later.submit(torch.get_num_threads).result() == 4


def test_a_stream_keeps_its_cores_whatever_another_thread_takes(four_cores):
    with script.thread_pool(1, 2) as pool, script.thread_pool(1, 1) as other:
        for thread in (pool, other):
            thread.submit(int).result()  # each has begun, and set its cores
        assert pool.submit(torch.get_num_threads).result() == 2


def test_one_stream_feeds_a_gpu(four_cores):
    with script.streams(script.Runtime(torch.device("cuda"), torch.float32)) as pool:
        assert pool._max_workers == 1


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
