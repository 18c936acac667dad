"""The student in OpenVINO on a CPU: fp32, bf16 or INT8.

net = OpenVinoNet(openvino_model(student), torch.float32)
restored = net(blurry)                          # (B, 3, H, W) float32
images = net.on_images([image, image])          # (H, W, 3) uint8, rounded inside the model
"""

import dataclasses
import functools
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from sharpening.runtime import SIDE_BY_SIDE, Runtime, require_package, shortest_times


def openvino_model(net: nn.Module) -> Any:
    """`net` as an OpenVINO model: float32 (batch, 3, height, width) -> the same, all sizes."""
    ov, free = require_package("openvino"), torch.export.Dim.AUTO
    example = torch.rand(2, 3, 67, 45)  # no common factor, so that no size is taken as fixed
    sizes = ({0: free, 2: free, 3: free},)
    return ov.convert_model(torch.export.export(net, (example,), dynamic_shapes=sizes))


def quantised(model: Any, crops: Sequence[np.ndarray], keep_ends: bool = True) -> Any:
    """An OpenVINO model in INT8 by post-training quantisation; `crops` (H, W, 3) uint8 set its
    ranges.

    With `keep_ends` the first and the last convolution and every addition stay in floating point:
    the last one adds the residual to the picture, which 256 levels would ruin.
    """
    nncf = require_package("nncf")
    nodes = model.get_ordered_ops()
    convolutions = [n.get_friendly_name() for n in nodes if n.get_type_name() == "Convolution"]
    ends = nncf.IgnoredScope(names=[convolutions[0], convolutions[-1]], types=["Add"])
    inputs = [crop.transpose(2, 0, 1)[None].astype(np.float32) / 255 for crop in crops]
    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        preset=nncf.QuantizationPreset.MIXED,
        fast_bias_correction=False,
        ignored_scope=ends if keep_ends else None,
    )


def on_bytes(model: Any) -> Any:
    """An OpenVINO model from (batch, height, width, 3) uint8 to the same: it scales and rounds."""
    ov = require_package("openvino")
    ops, wrapper = ov.opset13, ov.preprocess.PrePostProcessor(model)
    wrapper.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    wrapper.input().model().set_layout(ov.Layout("NCHW"))
    wrapper.input().preprocess().convert_element_type(ov.Type.f32).scale(255.0)

    def to_bytes(output: Any) -> Any:
        levels = ops.multiply(output, np.float32(255))
        levels = ops.round(ops.clamp(levels, 0.0, 255.0), "half_to_even")
        return ops.transpose(ops.convert(levels, "u8"), np.array([0, 2, 3, 1])).output(0)

    wrapper.output().postprocess().custom(to_bytes)
    return wrapper.build()


class OpenVinoNet:
    """A student compiled for this CPU, called like it: (B, 3, H, W) float32 -> the same.

    `dtype` is that of what is not INT8. A call uses as many cores as PyTorch would in its thread;
    the other cores serve calls that come at the same time (`side_by_side`). A shape that was among
    the last `RECENT` calls is compiled for itself, which takes a third of a second and is up to 1.7
    times as fast: of blurred frames every second call is their smaller image.

    OpenVINO runs in threads of its own. It gives its caller a stack for signals and may free it too
    early; the next signal (Ctrl-C, the end of a child) would then end the process.
    """

    RECENT = 4  # as many shapes stay compiled, each with its memory

    def __init__(self, model: Any, dtype: torch.dtype, first: tuple = ()):
        """`first`: (kind, cores, *shape) of the first call, whose shape is compiled for itself."""
        self.model, self.core = model, require_package("openvino").Core()
        self.precision = {torch.bfloat16: "bf16"}.get(dtype, "f32")
        self.cores, self.lock = torch.get_num_threads(), threading.Lock()
        self.threads = ThreadPoolExecutor(SIDE_BY_SIDE, "openvino")
        self.recent = deque([first], maxlen=self.RECENT)
        self.compiled: dict[tuple, Any] = {}  # (kind, cores) for all shapes, (..., *shape) for one
        self.idle: dict[tuple, list] = {}  # reused: new requests slow two threads by 1/4

    def compile(self, kind: str, cores: int, *shape: int) -> Any:
        """The model for one `shape`, or for all shapes."""
        count = max(1, self.cores // cores)
        model = on_bytes(self.model.clone()) if kind == "bytes" else self.model.clone()
        if shape:
            model.reshape(list(shape))
        properties = {"INFERENCE_PRECISION_HINT": self.precision, "PERFORMANCE_HINT": "LATENCY"}
        properties |= {"NUM_STREAMS": count, "INFERENCE_NUM_THREADS": count * cores}
        return self.core.compile_model(model, "CPU", properties)

    def request(self, kind: str, cores: int, shape: tuple[int, ...]) -> tuple[Any, list]:
        """A request for `shape` and the list to return it to; compiles the model if necessary."""
        with self.lock:
            key: tuple = (kind, cores, *shape)
            again = key in self.recent
            self.recent.append(key)
            if key not in self.compiled and not again:
                key = key[:2]
            if key not in self.compiled:
                self.compiled[key], self.idle[key] = self.compile(*key), []
            self.compiled[key] = self.compiled.pop(key)  # ordered by last use
            if len(static := [each for each in self.compiled if len(each) > 2]) > self.RECENT:
                del self.compiled[static[0]], self.idle[static[0]]
            idle = self.idle[key]
            return idle.pop() if idle else self.compiled[key].create_infer_request(), idle

    def run(self, array: np.ndarray, kind: str) -> np.ndarray:
        """`array` through the model. `kind` is "bytes" or "floats"."""

        def infer(cores: int) -> np.ndarray:
            request, idle = self.request(kind, cores, array.shape)
            request.infer([array], share_inputs=True)
            result = request.get_output_tensor().data.copy()
            idle.append(request)
            return result

        return self.threads.submit(infer, torch.get_num_threads()).result()

    def __call__(self, blurry: Tensor) -> Tensor:
        return torch.from_numpy(self.run(blurry.float().contiguous().numpy(), "floats"))

    def on_images(self, images: Sequence[np.ndarray], strength: float = 1.0) -> list[np.ndarray]:
        """Images (H, W, 3) uint8 or uint16 of one size -> the same: a blend of image and result, 0
        to 1 of the result, rounded."""
        dtype = images[0].dtype
        if dtype == np.uint8 and strength == 1:
            return list(self.run(np.stack(images), "bytes"))
        peak = np.iinfo(dtype).max
        batch = np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) / peak
        restored = self.run(np.ascontiguousarray(batch), "floats")
        blend = np.clip(batch + strength * (restored - batch), 0, 1)
        return list(np.rint(blend * peak).astype(dtype).transpose(0, 2, 3, 1))


# --------------------------------------------------------------------------------------------------
# Choosing what computes
# --------------------------------------------------------------------------------------------------

WORTH = 30.0
"""Seconds of work in PyTorch from which OpenVINO is prepared. That takes ten seconds and then
saves about a third of the time (docs/SPEED.md)."""
SIDE = 256
"""Side of the frame that is timed, pixels."""


class Backend(NamedTuple):
    """What computes images, in which precision, and the timings that chose it."""

    name: str
    runtime: Runtime
    on_images: Callable
    timing: str = ""


def fastest_backend(
    net: nn.Module, runtime: Runtime, pytorch: Callable | None = None, megapixels: float = 0
) -> Backend:
    """The fastest one of OpenVINO with `net`, in bf16 or fp32, and of `pytorch`, if it is given.

    The precision is not chosen where the user gave one. Beside `pytorch`, OpenVINO is only prepared
    if `megapixels` are so many that PyTorch would need `WORTH` seconds. All processes choose alike.
    """
    frame = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    found, seconds = {}, {}

    def time_all() -> None:
        calls = {key: functools.partial(work, [frame]) for key, work in found.items()}
        seconds.update(runtime.from_main(shortest_times(calls, 4)))

    if pytorch:
        key = "pytorch", runtime.dtype
        found[key] = pytorch
        if not (megapixels and find_spec("openvino")):
            return Backend("pytorch", runtime, pytorch)
        time_all()
        rate = seconds[key] / (frame.size / 3e6) / torch.get_num_threads()
        if megapixels * rate / runtime.world < WORTH:
            return Backend("pytorch", runtime, pytorch, ", too little work to prepare OpenVINO")
    model = openvino_model(net)
    for dtype in openvino_types(runtime):
        made = OpenVinoNet(model, dtype, ("bytes", 1, 1, *frame.shape))
        found["openvino", dtype] = made.on_images
    if len(found) > 1:
        time_all()
    name, dtype = best = min(found, key=lambda key: seconds.get(key, 0))
    names = {key: f"{key[0]} {str(key[1]).removeprefix('torch.')}" for key in seconds}
    shown = [f"{names[key]} {1000 * passed:.0f} ms" for key, passed in seconds.items()]
    timing = f" ({', '.join(shown)} for {SIDE} x {SIDE} on one core)" if seconds else ""
    return Backend(name, dataclasses.replace(runtime, dtype=dtype), found[best], timing)


def int8_backend(net: nn.Module, runtime: Runtime, crops: Sequence[np.ndarray]) -> Backend:
    """OpenVINO with `net` in INT8; `crops` as in `quantised`."""
    made = OpenVinoNet(quantised(openvino_model(net), crops), runtime.dtype)
    return Backend("openvino-int8", runtime, made.on_images)


def openvino_types(runtime: Runtime) -> list[torch.dtype]:
    """Types that OpenVINO can compute in here, or the one that the user gave."""
    if runtime.dtype_is_given:
        return [runtime.dtype]
    able = require_package("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return [torch.float32, *([torch.bfloat16] if "BF16" in able else [])]
