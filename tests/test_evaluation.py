"""Evaluation: what it measures, what it writes, and the JSON line that scripts read."""

import dataclasses
import json
import re
import time

import numpy as np
import pytest
import torch
from conftest import Copy, changed, evaluation_images, photo, save
from PIL import Image

import main_sharpening_script as script
from sharpening.image_pairs import read_pair
from sharpening.run_log import print_table
from sharpening.runtime import seconds_per_call, start_runtime
from sharpening.settings import to_dict


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
    assert all(re.search(rf"{size} +[\d.]+\n", shown) for size in sizes)


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


def evaluated_config(*flags):
    return script.read_config(["--evaluate", *map(str, flags)])


@pytest.mark.parametrize("name", ["best.pth", "last.pth", "student_model_ema_final_epoch_002.pth"])
def test_an_evaluation_takes_the_test_images_of_the_run(config, runtime, tmp_path, capsys, name):
    for split in ("train", "test"):
        (config.data.root / split / "blurred").rename(config.data.root / split / "soft")
    config = changed(config, data={"blurred_names": ("soft",)}, degradation={"motion": 0.5})
    script.train(config, runtime)
    capsys.readouterr()
    used = evaluated_config("--checkpoint", config.train.folder / name)
    shown = capsys.readouterr().out
    assert used.data.root == config.data.root and used.data.blurred_names == ("soft",)
    assert used.degradation == config.degradation
    assert name in shown and f"data.root {config.data.root}" in shown
    assert "degradation.motion 0.5" in shown and "from flags: none" in shown
    used = evaluated_config("--train.folder", config.train.folder, "--data.root", tmp_path)
    assert used.data.root == tmp_path and used.data.blurred_names == ("soft",)
    assert f"from flags: data.root {tmp_path}" in capsys.readouterr().out


def test_a_run_of_the_demo_is_evaluated_on_the_demo(config, tmp_path):
    demo = dataclasses.replace(config, demo=True)
    payload = script.network_payload(script.SEUNet(config.student), config=to_dict(demo))
    script.save_checkpoint(tmp_path / "demo.pth", payload)
    assert evaluated_config("--checkpoint", tmp_path / "demo.pth").demo


def test_a_checkpoint_without_settings_is_evaluated_by_the_flags(config, tmp_path, capsys):
    path = tmp_path / "student.pth"
    script.save_checkpoint(path, script.network_payload(script.SEUNet(config.student)))
    used = evaluated_config("--checkpoint", path, "--degradation.motion", 0.25)
    assert used.data == script.DataConfig() and used.degradation.motion == 0.25
    shown = capsys.readouterr().out
    assert "student.pth: none; from flags: degradation.motion 0.25" in shown


def test_evaluate_measures_what_the_training_logged(config, runtime):
    """The test images are the blurred ones of the run, not sharp ones blurred synthetically."""
    script.train(config, runtime)
    best = config.train.folder / "best.pth"
    used = evaluated_config("--checkpoint", best, "--train.samples", config.train.samples)
    used = changed(used, inference={"backend": "pytorch"})
    images = script.EvaluationImages(script.split_pairs(used, "test"), used.degradation)
    sharpen = script.Sharpener(script.load_student(best), runtime, used.inference)
    result = script.evaluate_quality({"restored": sharpen}, images, runtime)
    text = (config.train.folder / "metrics.jsonl").read_text()
    logged = [json.loads(line).get("test/psnr_restored", 0) for line in text.splitlines()]
    assert result["psnr_restored"] == pytest.approx(max(logged), abs=1e-9)


def test_images_that_are_not_blurred_are_counted_apart(config, runtime, capsys):
    folder = config.data.root / "test"
    images = script.EvaluationImages(script.split_pairs(config, "test"), config.degradation)
    sharpen = script.Sharpener(Darken(), runtime, script.InferenceConfig(backend="pytorch"))
    before = script.evaluate_quality({"darken": sharpen}, images, runtime)
    assert (before["images"], before["not_blurred"]) == (3, 0)
    for index in (7, 8):
        for side in ("sharp", "blurred"):
            save(folder / side / f"{index}.png", photo(40, 48, index))
    images = script.EvaluationImages(script.split_pairs(config, "test"), config.degradation)
    after = script.evaluate_quality({"darken": sharpen}, images, runtime)
    assert (after["images"], after["not_blurred"]) == (5, 2)
    for name in ("psnr_blurry", "psnr_darken", "ssim_darken", "worse_darken"):
        assert after[name] == pytest.approx(before[name])
    print_table(after, ("blurry", "darken"))
    assert "without 2 that are not blurred" in capsys.readouterr().out


def test_a_test_set_without_any_blur_shows_what_is_left_alone(config, runtime, copies):
    folder = config.data.root / "test"
    for path in (folder / "sharp").iterdir():
        (folder / "blurred" / path.name).write_bytes(path.read_bytes())
    both = copies | {"darken": script.Sharpener(Darken(), runtime)}
    result = script.evaluate_quality(both, evaluation_images(config), runtime)
    assert (result["images"], result["not_blurred"]) == (3, 3)
    assert result["psnr_copy"] == 100 > result["psnr_darken"]
    assert (result["worse_copy"], result["worse_darken"]) == (0, 1)
