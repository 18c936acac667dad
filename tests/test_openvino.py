"""OpenVINO gives the student's image, and INT8 nearly so."""

import numpy as np
import pytest
import torch
from conftest import TINY_STUDENT, photo

import main_sharpening_script as script
from tools import openvino_backend as backend

for package in ("onnx", "onnxscript", "openvino"):
    pytest.importorskip(package, reason="needs openvino: pip install -r requirements-dev.txt")


@pytest.fixture(scope="module")
def student():
    torch.manual_seed(0)
    student = script.SEUNet(TINY_STUDENT).eval().requires_grad_(False)
    torch.nn.init.normal_(student.last.weight, std=0.1)  # as trained: it changes the image
    return student


@pytest.fixture(scope="module")
def model(student):
    return backend.openvino_model(student)


def whole(student, image):
    runtime = script.Runtime(torch.device("cpu"), torch.float32)
    return script.sharpen_whole(student, image, runtime)


@pytest.mark.parametrize("size", [None, (33, 47)])
def test_bytes_come_out_as_from_pytorch(student, model, size):
    image = photo(33, 47)
    sharpened = backend.OpenVinoSharpener(model, "fp32", size, threads=1).sharpen(image)
    expected = whole(student, image)
    assert sharpened.dtype == np.uint8
    np.testing.assert_allclose(sharpened.astype(int), expected.astype(int), atol=1)
    assert np.mean(sharpened == expected) > 0.99  # not shifted by a level: rounded, not cut
    assert script.psnr(image, expected) < 50  # the student does something


def test_net_serves_the_scripts_tiling(student, model, runtime):
    net = backend.OpenVinoNet(model, threads=1)
    settings = {"tile": 48, "overlap": 16}
    tiled = script.sharpen_tiled(net, photo(60, 100), runtime, **settings)
    expected = script.sharpen_tiled(student, photo(60, 100), runtime, **settings)
    np.testing.assert_allclose(tiled.astype(int), expected.astype(int), atol=1)


def test_eight_bits_keep_the_picture_if_the_ends_stay_in_floating_point(student, model):
    pytest.importorskip("nncf", reason="INT8 needs nncf: pip install -r requirements-dev.txt")
    crops = [photo(64, 64, seed) for seed in range(8)]
    image = photo(96, 96, seed=99)
    loss = {}
    for keep in ("ends", "none"):
        eight = backend.quantised(model, crops, keep)
        kinds = [node.get_type_name() for node in eight.get_ordered_ops()]
        assert "FakeQuantize" in kinds
        out = backend.OpenVinoSharpener(eight, "fp32", threads=1).sharpen(image)
        loss[keep] = script.psnr(out, whole(student, image))
    assert loss["ends"] > 40 and loss["ends"] > loss["none"] + 3
