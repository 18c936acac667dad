"""What only a GPU can show; the same on the CPU, where there is none, with nothing compiled."""

import json

import numpy as np
import pytest
import torch
from conftest import changed, photo

import main_sharpening_script as script
from sharpening.runtime import start_runtime
from sharpening.synthetic_blur import DegradationConfig, degrade, generators_for
from sharpening.whole_image import refined

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
on_a_gpu = pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU")


def logged(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@on_a_gpu
def test_blur_on_the_gpu_equals_that_on_the_cpu():
    """But for noise, which differs, and JPEG, which makes much of little."""
    sharp = torch.rand(16, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    config = DegradationConfig(
        motion=0.5, video_call=0.2, moving_object=0.2, noise_chance=0, jpeg_chance=0
    )
    there = degrade(sharp.cuda(), generators_for(0, range(16)), config)
    here = degrade(sharp, generators_for(0, range(16)), config)
    for ours, expected in zip(there, here, strict=True):
        assert ours.is_cuda
        assert (ours.cpu() - expected).abs().mean() < 0.01


@on_a_gpu
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("contrast", [1.0, 1.3])
def test_the_whole_image_adds_the_same_on_the_gpu(dtype, contrast):
    """A sharp image whose tone is held, and a blurred one that is computed again."""
    levels = np.iinfo(dtype).max // 255
    image = 60 + photo(201, 333).astype(dtype) // 2
    result = 60 + contrast * (image - 60.0) - (np.linspace(0, 20, 333)[:, None] % 19)

    def darker(small: np.ndarray) -> np.ndarray:
        return small - small // 4

    given = (image * dtype(levels), (result * levels).clip(0, 255 * levels).astype(dtype), darker)
    here, there = (refined(*given, device=device).astype(float) for device in ("cpu", "cuda"))
    assert abs(here - given[1]).mean() > levels
    assert abs(there - here).mean() < 0.5 * levels  # images are reduced in another way


@pytest.mark.parametrize(
    ("precision", "compiled"),
    [
        pytest.param("fp32", False, marks=on_a_gpu),  # on a CPU: test_training.py, to the bit
        ("bf16", False),
        pytest.param("fp16", False, marks=on_a_gpu),
        pytest.param("bf16", True, marks=on_a_gpu),
    ],
)
def test_training_in_any_precision_loses_no_step_when_interrupted(
    config, tmp_path, precision, compiled
):
    """The losses of a resumed run are those of an unbroken one, but for rounding."""
    config = changed(config, device=DEVICE, train={"precision": precision, "compile": compiled})
    config = changed(config, degradation=DegradationConfig(moving_object=0.05, soft_chance=0.2))
    whole = changed(config, train={"folder": tmp_path / "whole"})
    first = changed(config, train={"epochs": 1})
    with start_runtime(DEVICE, precision) as runtime:
        script.train(whole, runtime)
        script.train(first, runtime)
        script.train(changed(config, resume=True), runtime)
    expected = logged(tmp_path / "whole")
    assert logged(config.train.folder)[3:] == pytest.approx(expected[3:], rel=0.05)
    assert all(0 < loss < 10 for loss in expected)
