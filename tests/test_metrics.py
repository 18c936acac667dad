"""Metrics: against their formulas and a second library."""

import numpy as np
import pytest
import torch
from conftest import blurred, photo

import main_sharpening_script as script


@pytest.mark.parametrize("size", [(64, 80), (33, 47), (11, 11)])
def test_psnr_and_ssim_are_those_of_the_formulas(size):
    sharp = photo(*size)
    image = blurred(sharp)
    error = np.mean((image.astype(float) - sharp.astype(float)) ** 2)
    assert script.psnr(image, sharp) == pytest.approx(10 * np.log10(255**2 / error))
    pair = [torch.from_numpy(a).permute(2, 0, 1)[None].double() for a in (image, sharp)]
    expected = script.mean_ssim(*pair, 255.0).item()  # torchmetrics, without its border
    assert script.ssim(image, sharp) == pytest.approx(expected, abs=1e-5)


def test_ssim_of_a_constant_shift_is_the_luminance_term():
    grey, lighter = np.full((32, 32, 3), 100, np.uint8), np.full((32, 32, 3), 120, np.uint8)
    c1 = (0.01 * 255) ** 2
    expected = (2 * 100 * 120 + c1) / (100**2 + 120**2 + c1)
    assert script.ssim(lighter, grey) == pytest.approx(expected, abs=1e-6)


def test_equal_images_are_perfect():
    sharp = photo(32, 32)
    assert script.psnr(sharp, sharp) == 100.0
    assert script.ssim(sharp, sharp) == pytest.approx(1.0)


def test_psnr_of_a_constant_error():
    black, grey = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 51, np.uint8)
    assert script.psnr(grey, black) == pytest.approx(20 * np.log10(5), abs=1e-5)


def test_gmacs_and_parameters_of_a_known_net():
    net = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert script.gmacs(net) == pytest.approx(3 * 8 * 9 * 256 * 256 / 1e9)
    assert script.parameters(net) == 3 * 8 * 9 + 8
