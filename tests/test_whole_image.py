"""What the whole image adds: who keeps its tone, who does not, and long blur."""

import numpy as np
import pytest
import torch
from conftest import photo

import main_sharpening_script as script
from sharpening import whole_image
from sharpening.whole_image import BLOCK, LARGEST_SHIFT, REDUCTION, refined


@pytest.fixture(params=["as on a CPU", "as on a GPU"], autouse=True)
def everything_at_once(request, monkeypatch):
    """Each test twice: in parts, as on a CPU, and everything at once, as on a GPU."""
    if request.param == "as on a GPU":
        monkeypatch.setattr(whole_image, "on_cpu", lambda image: False)


def left_alone(image: np.ndarray, result: np.ndarray) -> float:
    """The share of the texture that `result` leaves alone."""
    return whole_image.sampled_change(torch.from_numpy(image), torch.from_numpy(result))[0]


def darker(image: np.ndarray, levels: float, part: tuple[slice, slice] = np.s_[:, :]) -> np.ndarray:
    """`image` with a smooth dark spot of so many levels in `part` of it."""
    peak = np.iinfo(image.dtype).max
    result = image.astype(np.float64)
    height, width, _ = result[part].shape
    rows, columns = (np.hanning(side + 2)[1:-1] for side in (height, width))
    result[part] -= levels * peak / 255 * np.outer(rows, columns)[..., None]
    return result.round().clip(0, peak).astype(image.dtype)


def shift(result: np.ndarray, image: np.ndarray) -> float:
    """The largest mean error of a window of BLOCK x BLOCK pixels, wherever it stands, in levels."""
    error = torch.from_numpy((result.astype(np.float32) - image).mean(2))[None]
    largest = torch.nn.functional.avg_pool2d(error, BLOCK, 1).abs().max().item()
    return largest * 255 / np.iinfo(image.dtype).max


def bright(height: int, width: int, dtype: type = np.uint8) -> np.ndarray:
    """A photograph without values near 0 or white, where a result would be clipped."""
    image = 100 + photo(height, width).astype(dtype) // 4
    return image * dtype(257) if dtype == np.uint16 else image


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("height", "width"), [(160, 192), (131, 77), (33, 500), (500, 32)])
def test_a_sharp_image_keeps_its_local_means(height, width, dtype):
    image = bright(height, width, dtype)
    spot = np.s_[: height // 2, : width // 2]
    result = darker(image, 12, spot)
    held = refined(image, result, None)
    assert (held.shape, held.dtype) == (image.shape, image.dtype)
    assert left_alone(image, result) > 0.4
    assert shift(result, image) > 2
    assert shift(held, image) < 0.25 * shift(result, image)


def test_a_spot_of_two_windows_keeps_nearly_its_mean():
    image = bright(256, 256)
    result = darker(image, 9, np.s_[64:128, 64:128])
    assert shift(result, image) > 6
    assert shift(refined(image, result, None), image) < 0.12 * shift(result, image)


def test_edges_stay_as_sharp_as_they_were_made():
    image = bright(160, 160)
    result = image.copy()
    result[80, 40:120] = 240  # a fine line in one part
    held = refined(image, result, None).astype(int)
    assert abs(held - result).max() < 20
    assert (held[80, 60:100] - held[78, 60:100]).min() > 60


def test_a_blurred_image_may_change_its_tone():
    image = bright(128, 160)
    result = darker(image, 10)
    result = (1.5 * (result - 128.0) + 128).clip(0, 255).astype(np.uint8)  # all contrasts rise
    assert left_alone(image, result) == 0
    assert refined(image, result, None) is result


def test_a_moved_object_is_no_change_of_tone():
    image = bright(256, 256)
    gone = darker(image, 2.5 * LARGEST_SHIFT, np.s_[64:160, 64:160])
    kept = refined(image, gone, None)
    assert left_alone(image, gone) > 0.4
    assert shift(kept, image) > 0.8 * shift(gone, image)


def test_strength_does_not_change_the_decision():
    image = bright(128, 128, np.uint16)
    result = darker(image, 8, np.s_[:64, :64])
    result[64:, 64:] = (result[64:, 64:] * 1.02).astype(np.uint16)
    for strength in (0.25, 1.0):
        blend = (image + strength * (result.astype(float) - image)).round().astype(np.uint16)
        held = image + strength * (refined(image, result, None).astype(float) - image)
        np.testing.assert_allclose(refined(image, blend, None, strength), held, atol=2)


def test_an_image_smaller_than_a_block_is_left_to_the_student():
    image = bright(BLOCK - 1, 200)
    assert refined(image, result := darker(image, 9), None) is result


def mild(image: np.ndarray, amount: float = 1.3) -> np.ndarray:
    """`image` with all contrasts higher: the result of a network that sees no long blur."""
    middle, peak = image.astype(np.float64).mean(), np.iinfo(image.dtype).max
    return (middle + amount * (image - middle)).round().clip(0, peak).astype(image.dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize(("height", "width"), [(160, 192), (201, 333)])
def test_long_blur_is_restored_by_what_the_smaller_image_gives(height, width, dtype):
    image = bright(height, width, dtype)
    result = mild(image)
    sizes = []

    def sharpen(small):
        sizes.append(small.shape)
        return darker(mild(small), 60)  # far more than the network did at full size

    restored = refined(image, result, sharpen)
    assert sizes == [(round(height / REDUCTION), round(width / REDUCTION), 3)]
    assert (restored.shape, restored.dtype) == (image.shape, image.dtype)
    expected = darker(result, 60).astype(float)
    levels = np.iinfo(dtype).max / 255
    assert np.abs(restored - expected).mean() < 2.5 * levels
    assert np.abs(restored - expected).mean() < 0.2 * np.abs(result - expected).mean()


def test_nothing_is_added_where_the_smaller_image_changes_no_more():
    image = bright(160, 192)
    result = mild(image)
    np.testing.assert_array_equal(refined(image, result, lambda small: small), result)
    again = refined(image, result, mild).astype(int)
    assert abs(again - result).mean() < 0.3  # what resizing leaves


def test_an_image_that_is_not_blurred_is_not_computed_again():
    def never(small):
        raise AssertionError("computed again")

    for image in (bright(160, 192), bright(60, 90), bright(20, 300)):
        result = image.copy()
        result[:16, :16] += 30
        refined(image, result, never)
    with pytest.raises(AssertionError, match="computed again"):
        refined(image := bright(160, 192), mild(image), never)


class Shift(torch.nn.Module):
    """Every value 4 levels lower."""

    def forward(self, x):
        return x - 4 / 255


class Contrast(torch.nn.Module):
    """All contrasts higher; in small images much more."""

    def forward(self, x):
        middle = x.mean(dim=(2, 3), keepdim=True)
        return middle + (1.3 if x.shape[-1] > 100 else 3.0) * (x - middle)


def sharpener(net: torch.nn.Module, **settings) -> script.Sharpener:
    runtime = script.Runtime(torch.device("cpu"), torch.float32)
    inference = script.InferenceConfig(backend="pytorch", **settings)
    return script.Sharpener(net.eval(), runtime, inference)


@pytest.mark.parametrize("tile", [None, 64])
@pytest.mark.parametrize(("refine", "expected"), [("all", 0), ("tone", 0), ("none", -4)])
def test_the_sharpener_holds_the_tone(refine, expected, tile):
    image = bright(96, 128)
    result = sharpener(Shift(), refine=refine, tile=tile, overlap=16)(image)
    assert np.mean(result.astype(int) - image) == pytest.approx(expected, abs=0.2)


def test_the_sharpener_looks_for_long_blur():
    image = bright(160, 192)
    results = {each: sharpener(Contrast(), refine=each)(image) for each in ("all", "tone", "none")}
    np.testing.assert_array_equal(results["tone"], results["none"])
    assert results["all"].std() > 1.5 * results["none"].std()
    half = sharpener(Contrast(), refine="all")(image, strength=0.5).astype(int)
    np.testing.assert_allclose(half, (image + results["all"].astype(float)) / 2, atol=8)


def test_what_is_added_depends_on_the_student(tmp_path):
    runtime = script.Runtime(torch.device("cpu"), torch.float32)
    copy = tmp_path / "mine.pth"
    copy.write_bytes(script.SHIPPED_STUDENTS["standard"].read_bytes())
    students = {"standard": "all", "live": "tone", script.SHIPPED_STUDENTS["live"]: "tone"}
    for student, expected in (students | {copy: "none"}).items():
        assert script.Sharpener.load(student, runtime).config.refine == expected
        settings = script.InferenceConfig(refine="tone")
        assert script.Sharpener.load(student, runtime, settings).config.refine == "tone"


def test_another_network_is_left_as_it_is():
    image = bright(160, 192)
    alone = sharpener(Contrast(), refine="none")(image)
    np.testing.assert_array_equal(sharpener(Contrast())(image), alone)


def test_each_image_of_a_batch_is_refined_by_itself():
    images = [bright(160, 192), np.full((160, 192, 3), 90, np.uint8)]
    sharpen = sharpener(Contrast(), refine="all")
    for one, image in zip(sharpen.images(images), images, strict=True):
        np.testing.assert_array_equal(one, sharpen(image))
