"""OpenVINO gives the student's image, and INT8 nearly so."""

import ctypes
import dataclasses
import math
import sys

import numpy as np
import pytest
import torch
from conftest import TINY_STUDENT, make_student, photo, tiled, whole

import main_sharpening_script as script
from sharpening import SharpeningError, openvino_backend
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
    sides = (16, 24, 32, 40, 48)
    for side in sides * 2:
        images = [photo(side, 20, seed) for seed in range(3)]
        for image, restored in zip(images, net.on_images(images), strict=True):
            expected = whole(student, image).astype(int)
            np.testing.assert_allclose(restored.astype(int), expected, atol=1)
    everything = ("bytes", torch.get_num_threads())
    assert list(net.compiled) == [everything]  # four others came between: nothing compiled anew
    for side in sides:
        for _ in range(2):
            net.on_images([photo(side, 20)])
    static = [key[3] for key in net.compiled if len(key) > 2]
    assert static == [24, 32, 40, 48] and everything in net.compiled


def test_shapes_that_take_turns_are_compiled_for_themselves(student, model, runtime):
    net = OpenVinoNet(model, torch.float32)
    for side in (40, 16) * 2:  # frames and their smaller images
        image = photo(side, side)
        restored = net.on_images([image])[0]
        np.testing.assert_allclose(restored.astype(int), whole(student, image), atol=1)
    assert {key[3] for key in net.compiled if len(key) > 2} == {40, 16}


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


def timed(monkeypatch, milliseconds: dict[tuple[str, str], float]) -> list[set]:
    """Timings as given, by (back end, type) -> the candidates of each timing."""
    asked = []

    def shortest_times(work, rounds):
        asked.append({name for name, _ in work})
        for call in work.values():
            call()  # each can compute
        names = {key: (key[0], str(key[1]).removeprefix("torch.")) for key in work}
        return {key: milliseconds[names[key]] / 1000 for key in work}

    monkeypatch.setattr(openvino_backend, "shortest_times", shortest_times)
    return asked


FREE = Runtime(torch.device("cpu"), torch.float32, dtype_is_given=False)


@pytest.mark.parametrize(
    ("pytorch", "fp32", "bf16", "chosen"),
    [
        (50, 40, 30, ("openvino", torch.bfloat16)),
        (50, 30, 40, ("openvino", torch.float32)),
        (20, 40, 30, ("pytorch", torch.float32)),
    ],
)
def test_the_fastest_one_computes(monkeypatch, student, pytorch, fp32, bf16, chosen):
    names = [("pytorch", "float32"), ("openvino", "float32"), ("openvino", "bfloat16")]
    both = [torch.float32, torch.bfloat16]
    monkeypatch.setattr(openvino_backend, "openvino_types", lambda runtime: both)
    asked = timed(monkeypatch, dict(zip(names, (pytorch, fp32, bf16), strict=True)))
    sharpen = script.Sharpener(student, FREE, megapixels=math.inf)
    assert (sharpen.backend, sharpen.runtime.dtype) == chosen
    assert asked == [{"pytorch"}, {"pytorch", "openvino"}]
    assert f"pytorch float32 {pytorch} ms, openvino float32 {fp32} ms" in sharpen.describe()
    image = photo(40, 30)
    np.testing.assert_allclose(sharpen(image).astype(int), whole(student, image), atol=2)


def test_openvino_is_prepared_for_long_work_alone(monkeypatch, student):
    asked = timed(monkeypatch, {("pytorch", "float32"): 65.536})  # a second per megapixel and core
    monkeypatch.setattr(openvino_backend, "openvino_model", lambda net: pytest.fail("in vain"))
    limit = openvino_backend.WORTH * torch.get_num_threads()
    assert script.Sharpener(student, FREE, megapixels=0.99 * limit).backend == "pytorch"
    assert asked == [{"pytorch"}]
    assert script.Sharpener(student, FREE).backend == "pytorch" and len(asked) == 1
    twice = script.InferenceConfig(self_ensemble=2)
    for config, megapixels in ((None, 1.01 * limit), (twice, 0.51 * limit)):
        with pytest.raises(pytest.fail.Exception, match="in vain"):
            script.Sharpener(student, FREE, config, megapixels)


def test_flags_fix_back_end_and_precision(monkeypatch, student, runtime):
    asked = timed(monkeypatch, {("openvino", "float32"): 4, ("openvino", "bfloat16"): 5})
    given = script.InferenceConfig(backend="openvino")
    assert script.Sharpener(student, runtime, given).backend == "openvino" and not asked
    half = dataclasses.replace(runtime, dtype=torch.bfloat16)
    assert script.Sharpener(student, half, given).runtime.dtype == torch.bfloat16 and not asked
    assert script.Sharpener(student, FREE, given).runtime.dtype == torch.float32
    plain = script.InferenceConfig(backend="pytorch")
    assert script.Sharpener(student, FREE, plain, math.inf).backend == "pytorch"
    elsewhere = Runtime(torch.device("meta"), torch.float32)
    assert script.build_backend(make_student(), "auto", elsewhere, math.inf).name == "pytorch"
    with pytest.raises(SharpeningError, match="--device cpu"):
        script.Sharpener(student, elsewhere, given)


def test_openvino_tries_bf16_where_the_processor_has_it(monkeypatch, runtime):
    class Core:
        def get_property(self, device, name):
            return able

    monkeypatch.setattr(sys.modules["openvino"], "Core", Core)
    able = ["FP32", "INT8"]
    assert openvino_backend.openvino_types(FREE) == [torch.float32]
    able = ["FP32", "BF16"]
    assert openvino_backend.openvino_types(FREE) == [torch.float32, torch.bfloat16]
    assert openvino_backend.openvino_types(runtime) == [torch.float32]


def test_without_openvino_the_automatic_choice_is_pytorch(monkeypatch, student, runtime):
    monkeypatch.setattr(openvino_backend, "find_spec", lambda name: None)
    assert script.Sharpener(student, FREE, megapixels=math.inf).backend == "pytorch"
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(SharpeningError, match="needs the package openvino: pip install"):
        script.Sharpener(student, runtime, script.InferenceConfig(backend="openvino"))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_back_ends_agree_behind_a_sharpener(student, runtime, dtype):
    image = photo(90, 130).astype(dtype) * (np.iinfo(dtype).max // 255)
    for tile in (None, 64):
        results = []
        for backend in ("pytorch", "openvino"):
            config = script.InferenceConfig(backend=backend, tile=tile, overlap=16, refine="none")
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
