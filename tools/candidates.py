"""What `tools/benchmark.py` can time: students and other networks on several back ends."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from main_sharpening_script import (
    STUDENT_SIZES,
    OpenVinoNet,
    Runtime,
    SEUNet,
    SharpeningError,
    calibration_crops,
    load_student,
    need,
    openvino_model,
    quantised,
)
from tools.export_onnx import to_onnx

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_class(place: str) -> type[nn.Module]:
    """The network class at `package.module:Class`."""
    module, _, name = place.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SharpeningError(f"no network at {place} ({error}): package.module:Class") from error


def load_peer(place: str, arguments: str) -> nn.Module:
    """A network of the class at `place`, made with `arguments`, a JSON object."""
    try:
        return load_class(place)(**json.loads(arguments))
    except (ValueError, TypeError) as error:
        raise SharpeningError(f"{place} cannot be made with {arguments}: {error}") from error


def load_nets(models: tuple[str, ...], module: str | None, arguments: str) -> dict[str, nn.Module]:
    """Name -> network: checkpoints or names of student sizes, and a class by its import path."""
    torch.manual_seed(0)
    nets: dict[str, nn.Module] = {}
    for name in models:
        known = name in STUDENT_SIZES
        nets[name] = SEUNet(STUDENT_SIZES[name]) if known else load_student(Path(name))
    if module:
        nets[module.partition(":")[2]] = load_peer(module, arguments)
    return {name: net.eval().requires_grad_(False) for name, net in nets.items()}


def runner(net: nn.Module, backend: str, precision: str, device: str) -> Callable | str:
    """`net` as a callable on (B, 3, H, W) tensors, or why there is no such combination."""
    if backend in ("pytorch", "compiled"):
        if precision == "int8":
            return "int8 needs openvino"
        net = net.to(device, memory_format=torch.channels_last)
        if backend == "pytorch":
            return net
        torch._dynamo.config.recompile_limit = 256  # 8 for all students together; then not compiled
        try:
            return Runtime(torch.device(device), DTYPES[precision]).compiled(net, dynamic=False)
        except SharpeningError as error:
            return str(error)
    if device != "cpu":
        return f"{backend} is measured on the CPU"
    if backend == "onnxruntime":
        return onnxruntime_net(net) if precision == "fp32" else "onnxruntime computes in fp32 here"
    if precision == "fp16":
        return "openvino computes fp16 models in fp32 on a CPU"
    model = openvino_model(net) if isinstance(net, SEUNet) else fixed_model(net)
    if precision == "int8":
        model = quantised(model, calibration_crops())
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    return OpenVinoNet(model, dtype)


def fixed_model(net: nn.Module) -> Any:
    """Another network as an OpenVINO model for 512 x 512 alone: what pads to a multiple by Python's
    arithmetic cannot be converted for all sizes."""
    program = torch.export.export(net, (torch.rand(1, 3, 512, 512),))
    return need("openvino").convert_model(program)


def onnxruntime_net(net: nn.Module) -> Callable:
    """`net` in ONNX Runtime, with as many threads as PyTorch."""
    ort = need("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    model = to_onnx(net).SerializeToString()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(x: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(session.run(None, {"blurry": x.contiguous().numpy()})[0])

    return run
