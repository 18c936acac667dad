"""The table of what a student changes that was right."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY_STUDENT, photo, write_pairs

import main_sharpening_script as script
from tools import harm_table


def test_tone_is_the_largest_mean_error_of_a_window():
    sharp = np.full((70, 100, 3), 100, np.uint8)
    image = sharp.copy()
    image[32:64, 64:96] -= 7  # one window
    image[:32, :32, 0] += 12  # a third of this counts, as it is one of three channels
    assert harm_table.tone_shift(image, sharp) == pytest.approx(7)
    assert harm_table.tone_shift(image[:9, :9], sharp[:9, :9]) == pytest.approx(4)


def test_soft_image_is_blurred_and_its_input_compressed_too():
    sharp = photo(48, 40)
    compressed, soft = harm_table.soft_and_compressed(sharp)
    assert soft.shape == compressed.shape == sharp.shape
    assert np.diff(soft.astype(int), axis=1).std() < 0.9 * np.diff(sharp.astype(int), axis=1).std()
    assert 0 < np.abs(compressed.astype(int) - soft).mean() < 10


def test_table_of_a_student_that_shifts_the_tone(tmp_path, capsys):
    student = script.SEUNet(TINY_STUDENT)
    torch.nn.init.zeros_(student.last.weight)
    torch.nn.init.constant_(student.last.bias, 4 / 255)
    path = tmp_path / "student.pth"
    script.save_checkpoint(path, script.network_payload(student))
    folder = write_pairs(tmp_path / "pairs", 2)
    names = {"pairs": (f"talk={folder}",), "sharp": (f"photos={folder}",)}
    harm_table.main(harm_table.HarmConfig((path,), device="cpu", refine="none", **names))
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result.keys() == {"talk", "photos", "photos, soft and compressed"}
    as_it_is = result["photos"]
    assert as_it_is["blurry"]["psnr"] == harm_table.MOST_DB and as_it_is["blurry"]["tone"] == 0
    row = as_it_is[str(path)]
    assert row["images"] == 2 and row["worse"] == 1
    assert row["tone"] == pytest.approx(4, abs=0.2)
    assert row["lowest"] == pytest.approx(20 * np.log10(255 / 4), abs=0.5)
    assert result["talk"]["blurry"]["worse"] == 0 and result["talk"]["blurry"]["least_gain"] == 0
