"""Networks by name or import path, and ready to compute in every back end."""

import importlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from main_sharpening_script import (
    STUDENT_SIZES,
    Compute,
    SEUNet,
    calibration_crops,
    load_student,
    run_pytorch,
)
from sharpening import SharpeningError
from sharpening.openvino_backend import OpenVinoNet, openvino_model, quantised
from sharpening.runtime import Runtime, require_package
from tools.blocks import BLOCKS, at_inference
from tools.export_onnx import to_onnx

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KNOWN = {
    "nafnet": "spandrel.architectures.NAFNet.__arch.NAFNet_arch:NAFNet",
    "restormer": "main_sharpening_script:Restormer",
}
"""Short names of classes."""


def load_class(place: str) -> type[nn.Module]:
    """The network class at `package.module:Class`, or one of `KNOWN`."""
    module, _, name = KNOWN.get(place, place).partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        known = ", ".join(KNOWN)
        raise SharpeningError(
            f"no network at {place} ({error}): give package.module:Class or one of {known}"
        ) from error


def other_network(place: str, arguments: str) -> nn.Module:
    """A network of the class at `place`, made with `arguments`, a JSON object."""
    try:
        return load_class(place)(**json.loads(arguments))
    except (ValueError, TypeError) as error:
        raise SharpeningError(f"{place} cannot be made with {arguments}: {error}") from error


def load_nets(models: tuple[str, ...], other: str | None, arguments: str) -> dict[str, nn.Module]:
    """Name -> network: checkpoints, names of student sizes or of tools/blocks.py, and another
    network."""
    torch.manual_seed(0)
    nets: dict[str, nn.Module] = {}
    for name in models:
        if name in STUDENT_SIZES:
            nets[name] = SEUNet(STUDENT_SIZES[name])
        else:
            nets[name] = at_inference(name) if name in BLOCKS else load_student(Path(name))
    if other:
        nets[load_class(other).__name__] = other_network(other, arguments)
    return {name: net.eval().requires_grad_(False) for name, net in nets.items()}


class Backend(NamedTuple):
    """A network that is ready to compute: (B, 3, H, W) tensors, or images as bytes."""

    net: Callable[[Tensor], Tensor]
    images: Compute
    runtime: Runtime


def with_backend(net: nn.Module, backend: str, precision: str, device: str) -> Backend:
    """`net` in a back end. Raises SharpeningError where there is no such combination."""
    runtime = Runtime(torch.device(device), DTYPES.get(precision, torch.float32))
    if backend in ("pytorch", "compiled"):
        if precision == "int8":
            raise SharpeningError("int8 needs openvino")
        net = net.to(device, memory_format=torch.channels_last)
        if backend == "compiled":
            torch._dynamo.config.recompile_limit = 256  # 8 for all students together
            net = runtime.compiled(net, dynamic=False)
        return Backend(net, partial(run_pytorch, net, runtime), runtime)
    if device != "cpu":
        raise SharpeningError(f"{backend} is measured on the CPU")
    plain = Runtime(runtime.device, torch.float32)  # these back ends have types of their own
    if backend == "onnxruntime":
        if precision != "fp32":
            raise SharpeningError("onnxruntime computes in fp32 here")
        call = onnxruntime_net(net)
        return Backend(call, partial(run_pytorch, call, plain), plain)
    if precision == "fp16":
        raise SharpeningError("openvino computes fp16 models in fp32 on a CPU")
    model = openvino_model(net) if isinstance(net, SEUNet) else fixed_model(net)
    if precision == "int8":
        model = quantised(model, calibration_crops())
    made = OpenVinoNet(model, torch.float32 if precision == "fp32" else torch.bfloat16)
    return Backend(made, made.on_images, plain)


def fixed_model(net: nn.Module) -> Any:
    """Another network as an OpenVINO model for 512 x 512 alone: what pads to a multiple by Python's
    arithmetic cannot be converted for all sizes."""
    program = torch.export.export(net, (torch.rand(1, 3, 512, 512),))
    return require_package("openvino").convert_model(program)


def onnxruntime_net(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """`net` in ONNX Runtime, with as many threads as PyTorch."""
    ort = require_package("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    model = to_onnx(net).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"blurry": x.contiguous().numpy()})[0])

    return run
