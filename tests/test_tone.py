"""The tone of images that are not blurred: who keeps it, who does not, and how exactly."""

import numpy as np
import pytest
import torch
from conftest import photo

import main_sharpening_script as script
from sharpening.tone import BLOCK, LARGEST_SHIFT, hold_tone, seen_in_rows


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
    held = hold_tone(image, result)
    assert (held.shape, held.dtype) == (image.shape, image.dtype)
    assert seen_in_rows(image, result)[0] > 0.4
    assert shift(result, image) > 2
    assert shift(held, image) < 0.25 * shift(result, image)


def test_edges_stay_as_sharp_as_they_were_made():
    image = bright(160, 160)
    result = image.copy()
    result[80, 40:120] = 240  # a fine line in one part
    held = hold_tone(image, result).astype(int)
    assert abs(held - result).max() < 20
    assert (held[80, 60:100] - held[78, 60:100]).min() > 60


def test_a_blurred_image_may_change_its_tone():
    image = bright(128, 160)
    result = darker(image, 10)
    result = (1.5 * (result - 128.0) + 128).clip(0, 255).astype(np.uint8)  # all contrasts rise
    assert seen_in_rows(image, result)[0] == 0
    assert hold_tone(image, result) is result


def test_a_moved_object_is_no_change_of_tone():
    image = bright(256, 256)
    gone = darker(image, 2.5 * LARGEST_SHIFT, np.s_[64:160, 64:160])
    kept = hold_tone(image, gone)
    assert seen_in_rows(image, gone)[0] > 0.4
    assert shift(kept, image) > 0.8 * shift(gone, image)


def test_strength_does_not_change_the_decision():
    image = bright(128, 128, np.uint16)
    result = darker(image, 8, np.s_[:64, :64])
    result[64:, 64:] = (result[64:, 64:] * 1.02).astype(np.uint16)
    for strength in (0.25, 1.0):
        blend = (image + strength * (result.astype(float) - image)).round().astype(np.uint16)
        held = image + strength * (hold_tone(image, result).astype(float) - image)
        np.testing.assert_allclose(hold_tone(image, blend, strength), held, atol=2)


def test_an_image_smaller_than_a_block_is_left_to_the_student():
    image = bright(BLOCK - 1, 200)
    assert hold_tone(image, result := darker(image, 9)) is result


@pytest.mark.parametrize("backend", ["pytorch", "openvino"])
def test_the_sharpener_holds_the_tone_unless_told_otherwise(backend):
    net = script.SEUNet(script.StudentConfig(width=8))
    torch.nn.init.zeros_(net.last.weight)
    torch.nn.init.constant_(net.last.bias, -4 / 255)
    runtime = script.Runtime(torch.device("cpu"), torch.float32)
    image = bright(96, 128)
    for hold, expected in ((True, 0), (False, -4)):
        inference = script.InferenceConfig(backend=backend, hold_tone=hold, tile=64, overlap=16)
        result = script.Sharpener(net.eval(), runtime, inference)(image)
        assert np.mean(result.astype(int) - image) == pytest.approx(expected, abs=0.2)
