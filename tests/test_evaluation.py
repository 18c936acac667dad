"""Evaluation: what it measures, what it writes, and the JSON line that scripts read."""

import json
import re
import time

import numpy as np
import pytest
import torch
from conftest import Copy, changed, evaluation_images
from PIL import Image

import main_sharpening_script as script
from sharpening.image_pairs import read_pair
from sharpening.runtime import seconds_per_call, start_runtime


@pytest.fixture
def student_file(config, tmp_path):
    path = tmp_path / "student.pth"
    script.save_checkpoint(path, script.network_payload(script.SEUNet(config.student)))
    return path


@pytest.fixture
def copies(runtime):
    return {"copy": script.Sharpener(Copy(), runtime)}


def test_a_net_that_copies_scores_as_its_input(config, runtime, copies):
    result = script.evaluate_quality(copies, evaluation_images(config), runtime)
    assert result["psnr_copy"] == result["psnr_blurry"]
    assert result["ssim_copy"] == result["ssim_blurry"]


def test_figures_are_means_over_images_of_whole_native_images(config, runtime, copies):
    pairs = [read_pair(pair) for pair in script.split_pairs(config, "test")]
    result = script.evaluate_quality(copies, evaluation_images(config), runtime)
    assert result["images"] == len(pairs) == 3
    assert result["psnr_blurry"] == pytest.approx(np.mean([script.psnr(*p) for p in pairs]))
    assert result["ssim_blurry"] == pytest.approx(np.mean([script.ssim(*p) for p in pairs]))


class Darken(torch.nn.Module):
    def forward(self, x):
        return x * 0.9


def test_images_that_become_worse_are_counted(config, runtime, copies):
    both = copies | {"darken": script.Sharpener(Darken(), runtime)}
    result = script.evaluate_quality(both, evaluation_images(config), runtime)
    assert result["worse_copy"] == 0 and result["worse_darken"] == 1


def test_pictures_are_the_result_and_a_strip(config, runtime, copies, tmp_path):
    images = evaluation_images(config)
    script.evaluate_quality(copies, images, runtime, folder=tmp_path / "out")
    blurry, sharp = read_pair(script.split_pairs(config, "test")[0])
    result = np.asarray(Image.open(tmp_path / "out" / "0.png"))
    strip = np.asarray(Image.open(tmp_path / "out" / "0_strip.png"))
    assert np.array_equal(result, blurry)
    assert np.array_equal(strip, np.concatenate([blurry, result, sharp], axis=1))


def test_evaluate_prints_a_table_and_ends_with_json(config, student_file, capsys, monkeypatch):
    sizes = {"32x32": (32, 32, None), "200x150": (150, 200, 160)}
    monkeypatch.setattr(script, "SPEED_SIZES", sizes)
    small = changed(config, checkpoint=student_file, teacher_too=True, inference={"overlap": 16})
    with start_runtime("cpu", "fp32") as runtime:
        script.evaluate(small, runtime)
    shown = capsys.readouterr().out
    result = json.loads(shown.splitlines()[-1])
    assert {"psnr_blurry", "psnr_student", "psnr_teacher", "ssim_student"} <= result.keys()
    assert result["parameters"] == script.parameters(script.load_student(student_file))
    assert all(result[f"fps_{size}"] > 0 for size in sizes)
    assert result["dtype"] == "float32" and result["backend"] in ("openvino", "pytorch")
    assert "PSNR" in shown
    assert all(
        re.search(rf"{size} +{how} ", shown)
        for size, how in zip(sizes, ("whole", "tiled"), strict=True)
    )


def test_time_is_a_median_after_warm_up(runtime, monkeypatch):
    ticks = iter([100, 0.1, 0.1, 0.1, 0.4, 0.1, 0.2])
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def work():
        now[0] += next(ticks)

    measured = seconds_per_call(work, runtime, repeats=5, warm_up=2)
    assert measured == pytest.approx(0.1)


def test_workers_do_not_change_the_figures(config, runtime, copies):
    alone = script.evaluate_quality(copies, evaluation_images(config), runtime)
    helped = script.evaluate_quality(copies, evaluation_images(config), runtime, workers=1)
    assert helped == alone
