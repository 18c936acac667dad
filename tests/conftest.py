"""What the tests share: tiny image sets, a tiny student and teacher, and configs that use them."""

import dataclasses
import functools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

# before torch is imported: its threads wait by spinning, which slows a busy machine down
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

import numpy as np
import pytest
import torch
from PIL import Image

import main_sharpening_script as script
from sharpening import openvino_backend
from sharpening.image_pairs import demo_frame
from sharpening.runtime import Runtime

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job: tests send Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


def once_per_network(convert: Callable) -> Callable:
    """`convert`, done once for equal networks: it takes four seconds."""
    results: dict[tuple, Any] = {}

    def shared(net: torch.nn.Module) -> Any:
        weights = [value.numpy().tobytes() for value in net.state_dict().values()]
        key = (repr(net), getattr(net, "config", None), *weights)
        if key not in results:
            results[key] = convert(net)
        return results[key]

    return shared


# before the tests and tools import it
openvino_backend.openvino_model = once_per_network(openvino_backend.openvino_model)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A real photograph's texture (H, W, 3) uint8, another part of it for every seed."""
    whole = demo_frame(512, 512)
    rng = np.random.default_rng(seed)
    y, x = rng.integers(0, 512 - height + 1), rng.integers(0, 512 - width + 1)
    return whole[y : y + height, x : x + width].copy()


def blurred(image: np.ndarray) -> np.ndarray:
    """`image` averaged over three pixels to the right: a small motion blur."""
    moved = [np.roll(image, shift, axis=1).astype(np.float32) for shift in (-1, 0, 1)]
    return np.mean(moved, axis=0).round().astype(np.uint8)


def save(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def write_pairs(folder: Path, count: int, size=(40, 48), names=("blurred", "sharp")) -> Path:
    for index in range(count):
        image = photo(*size, seed=index)
        save(folder / names[0] / f"{index}.png", blurred(image))
        save(folder / names[1] / f"{index}.png", image)
    return folder


TINY_STUDENT = script.StudentConfig(
    width=4, max_width=8, encoder=(1, 1), middle=1, decoder=(1, 1), stem=2
)


def tiny_restormer(seed: int = 0) -> script.Restormer:
    torch.manual_seed(seed)
    return script.Restormer(4, (1, 1, 1, 1), 1, (1, 1, 2, 2))


@pytest.fixture
def teacher_file(tmp_path) -> Path:
    path = tmp_path / "teacher.pth"
    torch.save({"params": tiny_restormer().state_dict()}, path)
    return path


@pytest.fixture
def config(tmp_path, teacher_file) -> script.Config:
    """Six training pairs of which the whole system trains in a second; every term but VGG."""
    write_pairs(tmp_path / "data" / "train", 6)
    write_pairs(tmp_path / "data" / "test", 3)
    return script.Config(
        device="cpu",
        data=script.DataConfig(
            root=tmp_path / "data", crop=32, batch_size=4, crops_per_image=2, workers=0
        ),
        student=TINY_STUDENT,
        teacher=script.TeacherConfig(weights=teacher_file),
        loss=script.LossConfig(perceptual=0, frequency=0.1),
        train=script.TrainConfig(
            epochs=2,
            steps_per_epoch=3,
            accumulation=2,
            evaluate_every=1,
            save_every=2,
            log_every=1,
            precision="fp32",
            folder=tmp_path / "run",
            samples=tmp_path / "samples",
        ),
    )


CPU = Runtime(torch.device("cpu"), torch.float32)


@pytest.fixture
def runtime() -> Runtime:
    return CPU


def evaluation_images(config: script.Config) -> script.EvaluationImages:
    return script.EvaluationImages(script.split_pairs(config, "test"), config.degradation)


def make_student(config=TINY_STUDENT, strength: float = 1e-3) -> script.SEUNet:
    """An untrained student; `strength` is the standard deviation of its last weights."""
    torch.manual_seed(0)
    student = script.SEUNet(config)
    torch.nn.init.normal_(student.last.weight, std=strength)
    return student.eval().requires_grad_(False)


def whole(net, image: np.ndarray, runtime: Runtime = CPU) -> np.ndarray:
    """`image` through `net` at once, by PyTorch."""
    return script.run_pytorch(net, runtime, [image])[0]


def tiled(net, image: np.ndarray, tile: int, overlap: int, runtime: Runtime = CPU, batch: int = 1):
    """`image` through `net` in tiles, by PyTorch."""
    compute = functools.partial(script.run_pytorch, net, runtime)
    return script.sharpen_tiled(compute, image, runtime, tile, overlap, batch)


class Copy(torch.nn.Module):
    """A network that changes nothing."""

    def forward(self, x):
        return x


def changed(config, **groups):
    """`config` with fields of its groups replaced: changed(config, train={"epochs": 1})."""
    for name, values in groups.items():
        if isinstance(values, dict):
            values = dataclasses.replace(getattr(config, name), **values)
        config = dataclasses.replace(config, **{name: values})
    return config


class Hungry(torch.nn.Module):
    """Has memory for so many pixels; fails as PyTorch's allocator on the CPU does."""

    def __init__(self, pixels: int):
        super().__init__()
        self.pixels, self.failures = pixels, 0

    def forward(self, x):
        if x.shape[2] * x.shape[3] > self.pixels:
            self.failures += 1
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to ...")
        return x


@pytest.fixture
def four_cores():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def student_file(tmp_path):
    path = tmp_path / "student.pth"
    script.save_checkpoint(path, script.network_payload(make_student(strength=0.01)))
    return path


def last_line(capsys) -> dict:
    """The JSON object with which every tool ends."""
    return json.loads(capsys.readouterr().out.splitlines()[-1])
