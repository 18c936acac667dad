"""The student in OpenVINO on a CPU: fp32, bf16 or INT8.

net = OpenVinoNet(openvino_model(student), torch.float32)
restored = net(blurry)                          # (B, 3, H, W) float32
images = net.on_images([image, image])          # (H, W, 3) uint8, rounded inside the model
"""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sharpening.runtime import SIDE_BY_SIDE, require_package


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
    the other cores serve calls that come at the same time (`side_by_side`). A shape that comes
    twice in a row is compiled for itself, which takes a third of a second and is up to 1.7 times as
    fast.

    OpenVINO runs in threads of its own. It gives its caller a stack for signals and may free it too
    early; the next signal (Ctrl-C, the end of a child) would then end the process.
    """

    COMPILED = 3  # shapes that stay compiled, each with its memory

    def __init__(self, model: Any, dtype: torch.dtype):
        self.model, self.core = model, require_package("openvino").Core()
        self.precision = {torch.bfloat16: "bf16"}.get(dtype, "f32")
        self.cores, self.lock = torch.get_num_threads(), threading.Lock()
        self.threads = ThreadPoolExecutor(SIDE_BY_SIDE, "openvino")
        self.last: tuple = ()
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
            again, self.last = key == self.last, key
            if key not in self.compiled and not again:
                key = key[:2]
            if key not in self.compiled:
                self.compiled[key], self.idle[key] = self.compile(*key), []
            self.compiled[key] = self.compiled.pop(key)  # ordered by last use
            if len(static := [each for each in self.compiled if len(each) > 2]) > self.COMPILED:
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
