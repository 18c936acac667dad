"""Write a student as ONNX: `python tools/export_onnx.py CHECKPOINT -o student.onnx`.

One file serves every batch, height and width from 1 x 1. ONNX Runtime must give PyTorch's result
within the tolerance at several sizes, odd ones included, or no file is left behind. Needs the
packages onnx, onnxscript and onnxruntime.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from main_sharpening_script import load_student, parameters
from sharpening import SharpeningError
from sharpening.media_files import atomic_write
from sharpening.runtime import require_package
from sharpening.settings import to_dict
from tools.common import run_tool

# (batch, height, width): a pixel, a line, less than the padding, a multiple of it, odd, several.
SIZES = ((1, 1, 1), (1, 1, 37), (1, 5, 3), (1, 64, 96), (1, 101, 203), (2, 33, 65), (3, 128, 64))


@dataclass(frozen=True)
class ExportConfig:
    checkpoint: tyro.conf.Positional[Path]
    """Student checkpoint."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("student.onnx")
    """The ONNX file to write."""
    opset: int = 18
    """ONNX operator set; 18 is read by ONNX Runtime since 1.14 and by OpenVINO."""
    tolerance: float = 1e-4
    """Largest difference from PyTorch at any pixel, float32; 1 is white."""


def without_traces(graph: Any) -> None:
    """Remove the exporter's notes from every node: stack traces with paths of this machine."""
    graph.ClearField("metadata_props")
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


def to_onnx(net: nn.Module, opset: int = 18, **notes: str) -> Any:
    """An ONNX model of `net`: blurry (batch, 3, height, width) -> restored, all three free."""
    onnx = require_package("onnx")
    require_package("onnxscript")
    program = torch.onnx.export(
        net,
        (
            torch.rand(2, 3, 67, 45),
        ),  # sizes without a common factor, so that none is taken as fixed
        dynamo=True,
        opset_version=opset,
        input_names=["blurry"],
        output_names=["restored"],
        dynamic_shapes={"blurry": {0: "batch", 2: "height", 3: "width"}},
        verbose=False,
    )
    model = program.model_proto
    without_traces(model.graph)
    model.doc_string = notes.get("description", "")
    onnx.helper.set_model_props(model, notes)
    onnx.checker.check_model(model, full_check=True)
    return model


def differences(net: nn.Module, path: Path) -> dict[str, float]:
    """Largest difference of ONNX Runtime from PyTorch at each of SIZES, on noise."""
    session = require_package("onnxruntime").InferenceSession(
        path, providers=["CPUExecutionProvider"]
    )
    found = {}
    for batch, H, W in SIZES:
        blurry = torch.rand(batch, 3, H, W, generator=torch.Generator().manual_seed(H * W))
        with torch.inference_mode():
            expected = net(blurry).numpy()
        (restored,) = session.run(None, {"blurry": blurry.numpy()})
        if restored.shape != expected.shape:
            raise SharpeningError(f"{W} x {H} pixels came back as {restored.shape}: not exported")
        found[f"{batch}x{H}x{W}"] = float(np.abs(restored - expected).max())
    return found


def export(net: nn.Module, config: ExportConfig) -> dict[str, float]:
    """Write and check `config.output` -> differences by size; raises and leaves no file if one
    exceeds the tolerance."""
    notes = {
        "description": "Image sharpening: SE-U-Net student distilled from Restormer",
        "input": "blurry: float32 (batch, 3, height, width), RGB in [0, 1], any size from 1 x 1",
        "output": "restored: the same shape, around [0, 1], to be clipped",
        "checkpoint": config.checkpoint.name,
        "student": json.dumps(to_dict(net.config)),
    }
    model = to_onnx(net, config.opset, **notes)
    with atomic_write(config.output) as temporary:
        temporary.write_bytes(model.SerializeToString())
        found = differences(net, temporary)
        size, worst = max(found.items(), key=lambda item: item[1])
        if not worst <= config.tolerance:  # also false for NaN
            raise SharpeningError(
                f"{config.output} was not written: ONNX Runtime differs from PyTorch by "
                f"{worst:.1e} at {size}, more than {config.tolerance:.1e}; try another --opset "
                "or other versions of onnxruntime and onnxscript"
            )
    return found


def main(config: ExportConfig) -> None:
    net = load_student(config.checkpoint)
    found = export(net, config)
    print("batch x height x width   largest difference")
    for size, difference in found.items():
        print(f"{size:<24} {difference:.1e}")
    result = {"onnx": str(config.output), "megabytes": config.output.stat().st_size / 1e6}
    result |= {"opset": config.opset, "parameters": parameters(net)}
    print(json.dumps(result | {"max_difference": max(found.values())}))


if __name__ == "__main__":
    sys.exit(run_tool(main, ExportConfig, __doc__))
