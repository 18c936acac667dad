"""Metrics: against scikit-image, the reference for the stated conventions."""

import numpy as np
import pytest
from conftest import blurred, photo
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import main_sharpening_script as script


@pytest.mark.parametrize("size", [(64, 80), (33, 47), (11, 11)])
def test_psnr_and_ssim_equal_scikit_image(size):
    sharp = photo(*size)
    image = blurred(sharp)
    assert script.psnr(image, sharp) == pytest.approx(
        peak_signal_noise_ratio(sharp, image, data_range=255), abs=1e-4
    )
    expected = structural_similarity(
        image,
        sharp,
        channel_axis=2,
        data_range=255,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert script.ssim(image, sharp) == pytest.approx(expected, abs=1e-6)


def test_equal_images_are_perfect():
    sharp = photo(32, 32)
    assert script.psnr(sharp, sharp) == 100.0
    assert script.ssim(sharp, sharp) == pytest.approx(1.0)


def test_psnr_of_a_constant_error():
    black, grey = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 51, np.uint8)
    assert script.psnr(grey, black) == pytest.approx(20 * np.log10(5), abs=1e-5)


def test_gmacs_and_parameters_of_a_known_net():
    import torch

    net = torch.nn.Conv2d(3, 8, 3, padding=1)
    assert script.gmacs(net) == pytest.approx(3 * 8 * 9 * 256 * 256 / 1e9)
    assert script.parameters(net) == 3 * 8 * 9 + 8
