"""Write the model files of the page: `python tools/export_web.py CHECKPOINT -o web/models`.

Two files of the student: `fp16` (weights stored in 16 bits, computed in 32; for WebGPU) and `int8`
(for WebAssembly; ranges from the demo's photographs; the first and the last convolution, the
additions and the squeeze stay in float). `manifest.json` names both with their SHA-256, the
checkpoint, and the PSNR of each on validation pairs: `--pairs DIR`, or the demo's test photographs.
Needs the packages onnx, onnxscript and onnxruntime.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from main_sharpening_script import (
    DEMO,
    DataConfig,
    SharpeningError,
    TestImages,
    calibration_crops,
    demo_pairs,
    load_student,
    need,
    psnr,
    read_pair,
)
from media_files import replaced_when_done
from tools.common import chosen_pairs, run_tool
from tools.export_onnx import to_onnx

LEAST_PSNR_TO_FP32 = {"fp16": 60.0, "int8": 40.0}
"""dB; files further from the fp32 network are not written."""

PRECISIONS = {
    "fp16": "weights stored as float16, computed in float32",
    "int8": "convolutions in 8 bits, the rest in float32",
}
"""The model files and what they compute in."""


@dataclass(frozen=True)
class WebExportConfig:
    checkpoint: tyro.conf.Positional[Path] = Path("model_checkpoints/student_live.pth")
    """Student checkpoint."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("web/models")
    """Folder to write the model files and their manifest to."""
    pairs: Path | None = None
    """Folder with `blurred/` and `sharp/` to validate on; None: the demo's test photographs."""
    images: int = 30
    """Pairs to validate on, spread evenly."""


def planes(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in [0, 1]."""
    return image.transpose(2, 0, 1)[None].astype(np.float32) / 255


def with_half_weights(model: Any) -> Any:
    """The model with its large weights stored as float16 and cast back to float32 when loaded."""
    onnx = need("onnx")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, casts = result.graph, []
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < 64:
            continue
        name, half = tensor.name, f"{tensor.name}.fp16"
        tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), half))
        casts.append(onnx.helper.make_node("Cast", [half], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(result, full_check=True)
    return result


def quantised(model: Any, crops: Sequence[np.ndarray]) -> Any:
    """The model in INT8 (quantise and dequantise nodes around convolutions), its ranges measured
    on `crops` (H, W, 3) uint8."""
    onnx, quantization = need("onnx"), need("onnxruntime.quantization")
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    squeeze = [node for node in convolutions if any(".weigh." in name for name in node.input)]
    kept = [node.name for node in (convolutions[0], convolutions[-1], *squeeze)]
    inputs = iter([{"blurry": planes(crop)} for crop in crops])

    class Crops(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(inputs, None)

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        quantization.quantize_static(
            source,
            target,
            Crops(),
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=kept,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )
        return onnx.load(target)


def validation_images(config: WebExportConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(blurry, sharp), each (H, W, 3) uint8."""
    if config.pairs is None:
        yield from (images[1:] for images in TestImages(demo_pairs("test"), DEMO))
    else:
        pairs = chosen_pairs(config.pairs, DataConfig(), config.images)
        yield from (read_pair(pair)[:2] for pair in pairs)


def restored_by(file: bytes, blurry: np.ndarray) -> np.ndarray:
    session = need("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"blurry": planes(blurry)})
    return np.rint(output[0].transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)


def measured(files: dict[str, bytes], config: WebExportConfig) -> tuple[dict, dict]:
    """Mean PSNR of the blurred images and of each file's results, and each file's to fp32's."""
    values: dict[str, list[float]] = {name: [] for name in ("blurry", *files)}
    nearness: dict[str, list[float]] = {name: [] for name in files}
    for blurry, sharp in validation_images(config):
        restored = {name: restored_by(file, blurry) for name, file in files.items()}
        values["blurry"].append(psnr(blurry, sharp))
        for name, image in restored.items():
            values[name].append(psnr(image, sharp))
            nearness[name].append(psnr(image, restored["fp32"]))
    means = {name: round(statistics.mean(found), 2) for name, found in values.items()}
    return means, {name: round(statistics.mean(found), 2) for name, found in nearness.items()}


def entry(name: str, file: bytes) -> dict[str, Any]:
    """What the page needs to know of a model file."""
    digest = hashlib.sha256(file).hexdigest()
    return {"file": f"student.{name}.onnx", "bytes": len(file), "sha256": digest}


def write_files(files: dict[str, bytes], config: WebExportConfig) -> dict[str, Any]:
    """Check and write the files, the manifest last -> the manifest."""
    psnr_to_sharp, psnr_to_fp32 = measured(files, config)
    for name, least in LEAST_PSNR_TO_FP32.items():
        if psnr_to_fp32[name] < least:
            raise SharpeningError(
                f"nothing was written: {name} is {psnr_to_fp32[name]} dB from fp32, not {least}"
            )
    manifest = {
        "checkpoint": config.checkpoint.name,
        "checkpoint_sha256": hashlib.sha256(config.checkpoint.read_bytes()).hexdigest(),
        "validation_set": config.pairs.name if config.pairs else "the demo's test photographs",
        "psnr_of_blurred": psnr_to_sharp["blurry"],
        "psnr_of_fp32": psnr_to_sharp["fp32"],
        "models": {
            name: entry(name, files[name])
            | {"precision": precision, "psnr": psnr_to_sharp[name]}
            | {"psnr_to_fp32": psnr_to_fp32[name]}
            for name, precision in PRECISIONS.items()
        },
    }
    written = {each["file"]: files[name] for name, each in manifest["models"].items()}
    written["manifest.json"] = f"{json.dumps(manifest, indent=2)}\n".encode()
    for name, data in written.items():
        with replaced_when_done(config.output / name) as temporary:
            temporary.write_bytes(data)
    return manifest


def main(config: WebExportConfig) -> None:
    net = load_student(config.checkpoint)
    model = to_onnx(net, description="Image sharpening student", checkpoint=config.checkpoint.name)
    models = {
        "fp32": model,
        "fp16": with_half_weights(model),
        "int8": quantised(model, calibration_crops()),
    }
    files = {name: each.SerializeToString() for name, each in models.items()}
    manifest = write_files(files, config)
    print("model   megabytes   PSNR dB   PSNR to fp32")
    for name, each in manifest["models"].items():
        size = each["bytes"] / 1e6
        print(f"{name:<7} {size:9.2f} {each['psnr']:9.2f} {each['psnr_to_fp32']:14.2f}")
    print(json.dumps(manifest))


if __name__ == "__main__":
    sys.exit(run_tool(main, WebExportConfig, __doc__))
