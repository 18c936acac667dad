"""Tiles and Sharpener: a pointwise net gives whole and tiled alike, no seam, memory, loading."""

import threading
import warnings

import numpy as np
import pytest
import torch
from conftest import Copy, Hungry, make_student, photo, tiled, whole

import main_sharpening_script as script
from sharpening.runtime import Runtime, whole_limit


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
def test_tiled_equals_whole_for_a_pointwise_net(size, dtype, batch):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (*size, 3), dtype)
    in_tiles = tiled(Pointwise(), image, 48, 16, batch=batch)
    assert in_tiles.dtype == dtype
    assert np.abs(in_tiles.astype(int) - (np.iinfo(dtype).max - image.astype(int))).max() <= 1
    assert np.array_equal(in_tiles, whole(Pointwise(), image))


def test_tiled_equals_whole_for_a_small_receptive_field(runtime):
    torch.manual_seed(0)
    net = torch.nn.Conv2d(3, 3, 5, padding=2, padding_mode="replicate").eval()
    image = photo(150, 170)
    at_once = whole(net, image)
    in_tiles = tiled(net, image, 64, 16)
    inner = np.abs(at_once.astype(int) - in_tiles.astype(int))
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


def test_a_read_only_image_is_taken_without_a_warning(runtime):
    image = photo(8, 9)
    image.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensor = script.to_tensor(image, runtime.device)
    np.testing.assert_array_equal(tensor[0].permute(1, 2, 0) * 255, image)


def test_out_of_memory_halves_the_tile(runtime):
    net = OutOfMemoryAbove(300)
    image = photo(400, 500)
    config = script.InferenceConfig(tile=512, overlap=16)
    assert np.array_equal(script.Sharpener(net, runtime, config)(image), image)
    assert 200 <= max(net.seen[1:]) <= 250  # 400 pixels in even tiles of at most 250


def test_out_of_memory_with_small_tiles_is_an_error(runtime):
    with pytest.raises(script.SharpeningError, match="memory"):
        script.Sharpener(OutOfMemoryAbove(8), runtime)(photo(300, 300))


def test_out_of_memory_on_the_cpu_halves_the_tile_once_per_size(runtime):
    net, image = Hungry(150 * 150), photo(200, 300)
    sharpen = script.Sharpener(net, runtime, script.InferenceConfig(overlap=16))
    assert sharpen.tile(image.shape) is None
    for _ in range(3):
        assert np.array_equal(sharpen(image), image)
    assert net.failures == 1 and sharpen.fitting == {(200, 300, 3): 150}
    assert sharpen.tile(image.shape) == 150
    assert np.array_equal(sharpen(photo(150, 150)), photo(150, 150))  # another size: whole
    assert net.failures == 1


def test_other_errors_of_the_net_are_not_taken_for_lack_of_memory(runtime):
    class Broken(torch.nn.Module):
        def forward(self, x):
            raise RuntimeError("size mismatch")

    with pytest.raises(RuntimeError, match="size mismatch"):
        script.Sharpener(Broken(), runtime)(photo(20, 20))


def test_large_images_and_large_batches_go_in_tiles(runtime):
    sharpen = script.Sharpener(Pointwise(), runtime)
    limit = int(whole_limit(runtime))
    assert sharpen.tile((1, limit, 3)) is None
    assert sharpen.tile((1, limit + 1, 3)) == sharpen.tile((1, limit, 3), 2) == script.LARGEST_TILE
    given = script.Sharpener(Pointwise(), runtime, script.InferenceConfig(tile=200))
    assert given.tile((200, 100, 3)) is None and given.tile((100, 201, 3)) == 200


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("tile_batch", [1, 3])
def test_a_sharpener_gives_the_same_whole_and_in_tiles(dtype, tile_batch, runtime):
    images = list(np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (2, 90, 131, 3), dtype))
    at_once = script.Sharpener(Pointwise(), runtime, script.InferenceConfig(refine="none"))
    config = script.InferenceConfig(tile=48, overlap=16, tile_batch=tile_batch, refine="none")
    in_tiles = script.Sharpener(Pointwise(), runtime, config)
    assert at_once.tile((90, 131, 3)) is None and in_tiles.tile((90, 131, 3)) == 48
    for image, one, other in zip(
        images, at_once.images(images), in_tiles.images(images), strict=True
    ):
        assert one.dtype == dtype and np.array_equal(one, np.iinfo(dtype).max - image)
        assert np.array_equal(one, other) and np.array_equal(one, at_once(image))


def test_a_student_is_loaded_by_name_path_or_text(tmp_path, runtime):
    image, path = photo(40, 50), tmp_path / "student.pth"
    script.save_checkpoint(path, script.network_payload(make_student(strength=0.1)))
    expected = script.Sharpener(make_student(strength=0.1), runtime)(image)
    for given in (path, str(path)):
        assert np.array_equal(script.Sharpener.load(given, runtime)(image), expected)
    shipped = {}
    for name, file in script.SHIPPED_STUDENTS.items():
        shipped[name] = script.Sharpener.load(name, runtime)(image)
        assert np.array_equal(shipped[name], script.Sharpener.load(file, runtime)(image))
    assert not np.array_equal(shipped["standard"], shipped["live"])
    assert np.array_equal(script.Sharpener.load(runtime=runtime)(image), shipped["standard"])
    with pytest.raises(script.SharpeningError, match="no checkpoint large"):
        script.Sharpener.load("large", runtime)


def test_a_sharpener_takes_its_pool_window_from_the_settings(runtime):
    net, image = make_lively_student(), photo(96, 128).astype(np.uint16) * 257
    for window, same_as in ((32, 32), (0, None)):
        settings = script.InferenceConfig(pool_window=window, refine="none")
        sharpen = script.Sharpener(net, runtime, settings)
        expected = whole(script.with_pool_window(net, same_as), image)
        np.testing.assert_allclose(sharpen(image).astype(int), expected, atol=8)
        other = whole(script.with_pool_window(net, 64), image)
        assert np.abs(other.astype(int) - expected).max() > 100


def test_a_description_names_device_back_end_precision_and_tiles(runtime):
    config = script.InferenceConfig(tile=300)
    told = script.Sharpener(Copy(), runtime, config).describe()
    assert "cpu" in told and "pytorch, float32" in told
    assert "up to 300 pixels a side whole, larger ones in tiles of 300 pixels" in told
    assert "2.1 megapixels whole" in script.Sharpener(Copy(), runtime).describe()


def test_what_is_not_finite_is_computed_again_in_float32_or_refused(monkeypatch):
    half = Runtime(torch.device("cpu"), torch.float16)
    image = np.full((8, 8, 3), 200, np.uint8)

    def overflowing(x):  # autocast runs matrix products in fp16, which ends at 65,504
        factor = torch.matmul(torch.full((1, 64), 300.0), torch.full((64, 1), 300.0))
        return x * factor / (64 * 300.0**2)

    with torch.autocast("cpu", torch.float16):
        assert not overflowing(torch.ones(1)).isfinite().all()
    assert np.array_equal(whole(overflowing, image, half), image)
    assert np.array_equal(tiled(overflowing, image, 6, 2, half), image)
    with pytest.raises(script.SharpeningError, match="not finite"):
        whole(lambda x: x * float("nan"), image, half)


def test_tiles_are_computed_side_by_side(four_cores, runtime):
    """Each call ends only once another is under way: one at a time would wait for ever."""
    both = threading.Barrier(2, timeout=30)
    image = photo(100, 100)

    def net(x):
        both.wait()
        return x

    assert np.array_equal(tiled(net, image, 60, 16), image)  # 2 x 2 tiles


def test_an_error_beside_another_call_reaches_the_caller(runtime):
    def net(x):
        raise script.SharpeningError("no")

    with pytest.raises(script.SharpeningError, match="no"):
        tiled(net, photo(100, 100), 60, 16)


# --- pixels


def make_lively_student() -> script.SEUNet:
    """Trained-like: what the blocks add and how squeeze-and-excitation weighs it matter."""
    student = make_student(strength=0.01)
    for module in student.modules():
        if isinstance(module, script.ResidualBlock):
            module.merge.weight *= 10
        if isinstance(module, script.SqueezeExcite):
            module.squeeze.weight *= 10
            module.excite.weight *= 10
    return student


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("tile", [None, 192])
def test_flat_colour_stays(dtype, tile):
    half_a_level = np.iinfo(dtype).max / 255 / 2
    net = make_student(script.StudentConfig(), strength=1e-4)
    for precision in (torch.float32, torch.bfloat16):
        runtime = Runtime(torch.device("cpu"), precision)
        sharpen = script.Sharpener(net, runtime, script.InferenceConfig(tile=tile))
        for colour in ((0, 128, 255), (7, 7, 7), (200, 90, 33)):
            flat = np.zeros((160, 210, 3), dtype) + np.array(colour, dtype) * (
                np.iinfo(dtype).max // 255
            )
            flat = flat.astype(dtype)
            result = sharpen(flat)
            shift = np.abs(result.mean((0, 1)) - flat.mean((0, 1)))
            assert shift.max() <= half_a_level


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (2, 3), (257, 255), (608, 320)])
def test_any_size_whole_and_tiled(size, runtime):
    image = np.tile(photo(512, 512), (2, 2, 1))[: size[0], : size[1]]
    net = make_student(strength=0.01)
    at_once = whole(net, image)
    in_tiles = tiled(net, image, 160, 32)
    assert at_once.shape == in_tiles.shape == image.shape
    assert at_once.flags.c_contiguous and in_tiles.flags.c_contiguous
    if size == (608, 320):  # else the tiles do not begin on the net's grid
        assert np.abs(at_once.astype(int) - in_tiles).mean() < 1


def test_a_batch_of_frames_equals_single_frames(runtime):
    frames = [photo(50, 60, seed) for seed in range(3)]
    net = make_student(strength=0.01)
    together = script.Sharpener(net, runtime).images(frames)
    for frame, result in zip(frames, together, strict=True):
        alone = whole(net, frame)
        assert np.abs(result.astype(int) - alone).max() <= 1


def test_16_bits_are_not_cut_to_8(runtime):
    ramp = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64, 1).repeat(3, axis=2) + 30000
    result = whole(torch.nn.Identity(), ramp)
    assert np.array_equal(result, ramp)
    sharpened = whole(make_student(strength=1e-4), ramp)
    assert len(np.unique(sharpened)) > 1000


@pytest.mark.parametrize("length", [1, 100, 1024, 1025, 1080, 1920, 4000, 12_000])
@pytest.mark.parametrize("tile", [200, 512, 1024])
def test_even_tiles_cover_with_no_more_work(length, tile):
    side = script.even_tile(length, tile, 64)
    starts = script.tile_starts(length, side, 64)
    plain = script.tile_starts(length, tile, 64)
    assert starts[-1] + side == max(length, side) and side <= max(tile, 1)
    assert len(starts) <= len(plain) and len(starts) * side <= len(plain) * min(tile, length)
    if length > tile:  # what is computed twice is the overlap and the rounding to 16
        assert len(starts) * side <= length + (len(starts) - 1) * 64 + 16 * len(starts)


def steps(image: np.ndarray, at: list[int]) -> float:
    """Mean difference between the columns right and left of each position."""
    return float(np.mean([np.abs(image[:, x] - image[:, x - 1]).mean() for x in at]))


def seam(net, image, runtime, overlap: int) -> tuple[float, float]:
    """Mean step of the error of tiling (against whole) where tiles begin or end, and elsewhere."""
    at_once = whole(net, image).astype(np.float64)
    tile = script.even_tile(image.shape[1], 200, overlap)
    error = tiled(net, image, 200, overlap).astype(np.float64) - at_once
    starts = script.tile_starts(image.shape[1], tile, overlap)
    borders = [*starts[1:], *(start + tile for start in starts[:-1])]
    apart = [x for x in range(8, image.shape[1] - 8) if min(abs(x - b) for b in borders) > 4]
    return steps(error, borders), steps(error, apart)


@pytest.mark.parametrize("make", [make_student, make_lively_student])
def test_a_seam_cannot_be_seen(runtime, make):
    net = make()
    image = np.concatenate([photo(176, 512, seed) for seed in range(2)]).astype(np.uint16) * 257
    border, elsewhere = seam(net, image, runtime, 64)
    unseen = max(1.5 * elsewhere, 0.1)  # of 65,535 levels: what is below a tenth is rounding
    assert 0 < border < min(unseen, 257 / 4)  # a quarter of an 8-bit level
    border, elsewhere = seam(net, image, runtime, 0)
    assert border > 5 * elsewhere  # without overlap it shows: the measure can tell


@pytest.mark.parametrize("make", [make_student, make_lively_student])
def test_steps_of_the_picture_at_tile_borders_are_no_larger_than_elsewhere(runtime, make):
    """Of the 8-bit result, against the steps of the untiled result in the same columns; half a
    per cent is a fifteenth of a level here."""
    net, image = make(), np.concatenate([photo(176, 512, seed) for seed in range(2)])
    at_once = whole(net, image).astype(np.float64)
    in_tiles = tiled(net, image, 200, 64).astype(np.float64)
    side = script.even_tile(512, 200, 64)
    starts = script.tile_starts(512, side, 64)
    borders = [*starts[1:], *(start + side for start in starts[:-1])]
    apart = [x for x in range(8, 504) if min(abs(x - b) for b in borders) > 4]
    at_borders = steps(in_tiles, borders) / steps(at_once, borders)
    assert at_borders <= 1.005 * steps(in_tiles, apart) / steps(at_once, apart)


def test_pool_window_changes_only_what_pools_see(runtime):
    net = script.with_pool_window(make_lively_student(), None)
    image = photo(96, 128).astype(np.uint16) * 257
    at_once = whole(net, image)
    wide = whole(script.with_pool_window(net, 4096), image)
    assert np.abs(wide.astype(int) - at_once).max() <= 8
    narrow = whole(script.with_pool_window(net, 32), image)
    assert np.abs(narrow.astype(int) - at_once).max() > 100
    back = script.with_pool_window(script.with_pool_window(net, 32), None)
    assert np.array_equal(whole(back, image), at_once)
