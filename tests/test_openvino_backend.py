"""OpenVINO gives the student's image, and INT8 nearly so."""

import ctypes
import dataclasses
import sys

import numpy as np
import pytest
import torch
from conftest import TINY_STUDENT, make_student, photo, tiled, whole

import main_sharpening_script as script
from sharpening import SharpeningError
from sharpening.image_pairs import demo_pairs, read_rgb
from sharpening.openvino_backend import OpenVinoNet, openvino_model, quantised
from sharpening.runtime import Runtime, thread_pool

pytest.importorskip("openvino", reason="needs openvino: pip install -r requirements-dev.txt")


@pytest.fixture(scope="module")
def student():
    return make_student(strength=0.1)  # as trained: it changes the image


@pytest.fixture(scope="module")
def model(student):
    return openvino_model(student)


@pytest.mark.parametrize("size", [(1, 1), (33, 47)])
def test_images_come_out_as_from_pytorch(student, model, runtime, size):
    net, image = OpenVinoNet(model, torch.float32), photo(*size)
    expected = whole(student, image)
    for static in (False, True):  # for any size, then compiled for this one
        sharpened = net.on_images([image])[0]
        assert sharpened.dtype == np.uint8
        np.testing.assert_allclose(sharpened.astype(int), expected.astype(int), atol=1)
        assert np.mean(sharpened == expected) > 0.99  # not shifted by a level: rounded, not cut
        used = list(net.compiled.values())[-1]
        assert used.input(0).get_partial_shape().is_static == static
    assert script.psnr(image, expected) < 50  # the student does something


class SignalStack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]


@pytest.mark.skipif(sys.platform != "linux", reason="asks the C library of Linux")
def test_the_main_thread_keeps_its_signal_stack(model):
    """OpenVINO gives one to the thread that calls it, frees it, and the next signal is fatal."""

    def used():
        stack = SignalStack()
        assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
        return stack.start

    before = used()
    net = OpenVinoNet(model, torch.float32)
    for side in (16, 16, 32, 32):
        net.on_images([photo(side, side)])
    assert used() == before


def test_a_window_narrower_than_the_image_comes_out_as_from_pytorch(runtime):
    torch.manual_seed(0)
    config = dataclasses.replace(TINY_STUDENT, pool_window=64)
    student = script.SEUNet(config).eval().requires_grad_(False)
    for parameter in student.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    net = OpenVinoNet(openvino_model(student), torch.float32)
    image = photo(150, 230)
    expected = whole(student, image).astype(int)
    unlimited = whole(script.with_pool_window(student, None), image)
    assert np.abs(unlimited - expected).max() > 3  # the window matters
    for _ in range(2):
        restored = net.on_images([image])[0]
        np.testing.assert_allclose(restored.astype(int), expected, atol=1)


def test_sixteen_bits_come_out_as_from_pytorch_within_a_level(student, model, runtime):
    net = OpenVinoNet(model, torch.float32)
    image = photo(60, 100).astype(np.uint16) * 257
    settings = {"tile": 48, "overlap": 16}
    restored = script.sharpen_tiled(net.on_images, image, runtime, **settings)
    expected = tiled(student, image, **settings)
    assert restored.dtype == np.uint16
    np.testing.assert_allclose(restored.astype(int), expected.astype(int), atol=1)


def test_batches_and_many_shapes(student, model, runtime):
    net = OpenVinoNet(model, torch.float32)
    for side in (16, 24, 32, 40, 16, 24, 32, 40):
        images = [photo(side, 20, seed) for seed in range(3)]
        for image, restored in zip(images, net.on_images(images), strict=True):
            expected = whole(student, image).astype(int)
            np.testing.assert_allclose(restored.astype(int), expected, atol=1)
    everything = ("bytes", torch.get_num_threads())
    assert list(net.compiled) == [everything]  # no shape came twice in a row: nothing compiled anew
    for side in (16, 24, 32, 40):
        for _ in range(2):
            net.on_images([photo(side, 20)])
    static = [key[3] for key in net.compiled if len(key) > 2]
    assert static == [24, 32, 40] and everything in net.compiled


def test_calls_side_by_side_share_the_cores(student, model, runtime, monkeypatch):
    """Two calls at a time, each on half of the cores."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    net = OpenVinoNet(model, torch.float32)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # as in a thread of side_by_side
    images = [photo(40, 40, seed) for seed in range(12)]
    with thread_pool(2) as pool:
        restored = list(pool.map(lambda image: net.on_images([image])[0], images))
    for image, result in zip(images, restored, strict=True):
        expected = whole(student, image).astype(int)
        np.testing.assert_allclose(result.astype(int), expected, atol=1)
    assert all(key[:2] == ("bytes", 1) for key in net.compiled)
    assert all(1 <= len(idle) <= 2 for idle in net.idle.values())  # kept for the next call
    for compiled in net.compiled.values():
        assert compiled.get_property("NUM_STREAMS") == 2
        assert compiled.get_property("INFERENCE_NUM_THREADS") == 2


def test_half_precision_does_not_round_the_picture(model):
    """A bf16 picture has 8 bits of mantissa: the residual must be added in float32."""
    blurry = torch.rand(1, 3, 32, 32)
    restored = OpenVinoNet(model, torch.bfloat16)(blurry)
    assert (restored.bfloat16().float() == restored).float().mean() < 0.1


def test_the_setting_chooses_what_computes(student, runtime):
    def pick(calls, device="cpu", **settings):
        where = Runtime(torch.device(device), torch.float32)
        return script.pick_backend(script.InferenceConfig(**settings), where, calls)

    assert pick(3) == "pytorch" and pick(100) == "openvino"
    assert pick(100, device="cuda") == "pytorch"
    assert pick(3, backend="openvino") == "openvino" and pick(100, backend="pytorch") == "pytorch"
    assert script.Sharpener(student, runtime, calls=16).backend == "openvino"
    config = script.InferenceConfig(backend="openvino")
    elsewhere = Runtime(torch.device("meta"), torch.float32)
    with pytest.raises(SharpeningError, match="--device cpu"):
        script.Sharpener(student, elsewhere, config)


def test_without_openvino_the_automatic_choice_is_pytorch(monkeypatch, student, runtime):
    monkeypatch.setattr(script, "find_spec", lambda name: None)
    assert script.pick_backend(script.InferenceConfig(), runtime, 100) == "pytorch"
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SharpeningError, match="needs the package openvino: pip install"):
        script.Sharpener(student, runtime, script.InferenceConfig(backend="openvino"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_back_ends_agree_behind_a_sharpener(student, runtime, dtype):
    image = photo(90, 130).astype(dtype) * (np.iinfo(dtype).max // 255)
    for tile in (None, 64):
        results = []
        for backend in ("pytorch", "openvino"):
            config = script.InferenceConfig(backend=backend, tile=tile, overlap=16)
            results.append(script.Sharpener(student, runtime, config)(image).astype(int))
        np.testing.assert_allclose(*results, atol=1)
        assert np.abs(results[0] - image).max() > 3  # the student does something


@pytest.mark.slow
def test_eight_bits_keep_the_picture_if_the_ends_stay_in_floating_point(student, model, runtime):
    pytest.importorskip("nncf", reason="INT8 needs nncf: pip install -r requirements-dev.txt")
    crops = [photo(64, 64, seed) for seed in range(8)]
    image, loss = photo(96, 96, seed=99), {}
    for keep_ends in (True, False):
        eight = quantised(model, crops, keep_ends)
        assert "FakeQuantize" in [node.get_type_name() for node in eight.get_ordered_ops()]
        restored = OpenVinoNet(eight, torch.float32).on_images([image])[0]
        loss[keep_ends] = script.psnr(restored, whole(student, image))
    assert loss[True] > 40 and loss[True] > loss[False] + 3


def test_calibration_crops_are_blurred_demo_photographs():
    crops = script.calibration_crops(64)
    assert len(crops) == 2 * len(demo_pairs("train"))
    assert {crop.shape for crop in crops} == {(64, 64, 3)}
    sharp = [read_rgb(pair.sharp) for pair in demo_pairs("train")]
    tops = [(image.shape[0] - 64) // 2 for image in sharp]
    rows = [image[top : top + 64] for image, top in zip(sharp, tops, strict=True)]
    originals = [crop for row in rows for crop in (row[:, :64], row[:, -64:])]
    near = [script.psnr(crop, whole) for crop, whole in zip(crops, originals, strict=True)]
    assert sum(value < 40 for value in near) > len(near) / 2
    assert min(near) > 10  # of the same places
