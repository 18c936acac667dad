"""The student on OpenVINO in fp32, bf16 or INT8; tools/quantisation_loss.py says what INT8 costs.

    model = openvino_model(load_student(path))               # any size, float32
    OpenVinoSharpener(model, "bf16").sharpen(image)          # (H, W, 3) uint8 -> the same
    sharpen_image(OpenVinoNet(model, "bf16"), image, ...)    # inside the script's own tiling

Needs openvino, and nncf for INT8.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from main_sharpening_script import IMAGE_SUFFIXES, SharpeningError, read_rgb
from tools.export_onnx import need, onnx_bytes


def openvino_model(net: nn.Module) -> Any:
    """`net` as an OpenVINO model: float32 (batch, 3, height, width) -> the same, all sizes."""
    ov = need("openvino")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(onnx_bytes(net))
        return ov.Core().read_model(path).clone()


def quantised(model: Any, crops: list[np.ndarray], keep: Literal["ends", "none"] = "ends") -> Any:
    """`model` in INT8 by post-training quantisation; `crops` (H, W, 3) uint8 set its ranges.

    `keep="ends"` leaves in floating point the first and the last convolution and every addition:
    the last one adds the residual to the picture, which 256 levels would ruin.
    """
    nncf = need("nncf")
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
        ignored_scope=ends if keep == "ends" else None,
    )


def on_bytes(model: Any) -> Any:
    """`model` from (batch, height, width, 3) uint8 to the same: scaling and rounding inside."""
    ov = need("openvino")
    ops, prepost = ov.opset13, ov.preprocess.PrePostProcessor(model)
    prepost.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    prepost.input().model().set_layout(ov.Layout("NCHW"))
    prepost.input().preprocess().convert_element_type(ov.Type.f32).scale(255.0)

    def to_bytes(node: Any) -> Any:
        levels = ops.multiply(node, np.float32(255))
        levels = ops.round(ops.clamp(levels, 0.0, 255.0), "half_to_even")
        return ops.transpose(ops.convert(levels, "u8"), np.array([0, 2, 3, 1]))

    prepost.output().postprocess().custom(lambda output: to_bytes(output).output(0))
    return prepost.build()


def compile_for_cpu(model: Any, precision: Literal["fp32", "bf16"], threads: int | None) -> Any:
    """`model` compiled; `precision` is that of what is not INT8, `threads` None: one per core."""
    properties = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision]}
    properties |= {"PERFORMANCE_HINT": "LATENCY"}
    properties |= {"INFERENCE_NUM_THREADS": threads} if threads else {}
    return need("openvino").Core().compile_model(model, "CPU", properties)


class OpenVinoSharpener:
    """A student compiled for this CPU, from bytes to bytes.

    `precision` is `fp32`, `bf16`, or of an INT8 model that of what stays in floating point; `size`
    (height, width) fixes the shape, which is up to twice as fast; None takes any.
    """

    def __init__(
        self,
        model: Any,
        precision: Literal["fp32", "bf16"] = "fp32",
        size: tuple[int, int] | None = None,
        threads: int | None = None,
    ):
        model = on_bytes(model.clone())
        if size is not None:
            model.reshape([1, *size, 3])
        self.request = compile_for_cpu(model, precision, threads).create_infer_request()

    def sharpen(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> the same."""
        self.request.infer([np.ascontiguousarray(image)[None]], share_inputs=True)
        return self.request.get_output_tensor().data[0].copy()


class OpenVinoNet:
    """Called like the PyTorch student, (B, 3, H, W) float32 -> the same, so that tiling and file
    handling of the script serve it; compiled anew for each shape, of which the last is kept."""

    def __init__(
        self, model: Any, precision: Literal["fp32", "bf16"] = "fp32", threads: int | None = None
    ):
        self.model, self.precision, self.threads = model, precision, threads
        self.shape, self.request = None, None

    def __call__(self, blurry: Tensor) -> Tensor:
        if blurry.shape != self.shape:
            model = self.model.clone()
            model.reshape(list(blurry.shape))
            compiled = compile_for_cpu(model, self.precision, self.threads)
            self.shape, self.request = blurry.shape, compiled.create_infer_request()
        self.request.infer([blurry.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(self.request.get_output_tensor().data.copy())


def spread_crops(folder: Path, count: int, side: int) -> list[np.ndarray]:
    """Middle crops of `count` images spread evenly over the folder, for calibration."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise SharpeningError(f"no images in {folder}: --calibrate needs blurred photographs")
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, count).astype(int)]
    crops = [image_crop(read_rgb(path), side) for path in chosen]
    return [crop for crop in crops if crop.shape == (side, side, 3)]


def image_crop(image: np.ndarray, side: int) -> np.ndarray:
    """The middle `side` x `side` of an image."""
    top, left = (max(0, n - side) // 2 for n in image.shape[:2])
    return image[top : top + side, left : left + side]
