"""Write the model files of the page: `python tools/export_web.py [CHECKPOINT]`.

Two files of the student: `fp16` (weights stored in 16 bits, computed in 32; for WebGPU) and `int8`
(for WebAssembly). `manifest.json` names both with their SHA-256, the checkpoint, and their PSNR on
validation pairs: `--pairs DIR`, or the demo's test photographs. Needs the packages onnx, onnxscript
and onnxruntime.
"""

from __future__ import annotations

import hashlib
import json
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
    HERE,
    SHIPPED_STUDENTS,
    DataConfig,
    EvaluationImages,
    calibration_crops,
    load_student,
    psnr,
)
from sharpening import SharpeningError
from sharpening.image_pairs import demo_pairs, read_pair
from sharpening.media_files import atomic_write
from sharpening.runtime import require_package
from sharpening.synthetic_blur import DEMO_BLUR
from tools.common import chosen_pairs, run_tool
from tools.export_onnx import to_onnx

PRECISIONS = {  # name: (what it computes in, least PSNR in dB to the fp32 network's pictures)
    "fp16": ("weights stored as float16, computed in float32", 60.0),
    "int8": ("convolutions in 8 bits, the rest in float32", 40.0),
}


@dataclass(frozen=True)
class WebExportConfig:
    checkpoint: tyro.conf.Positional[Path] = SHIPPED_STUDENTS["live"]
    """Student checkpoint."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = HERE / "web" / "models"
    """Folder to write the model files and their manifest to."""
    pairs: Path | None = None
    """Folder with `blurred/` and `sharp/` to validate on; None: the demo's test photographs."""
    images: int = 30
    """Pairs to validate on, spread evenly."""


def planes(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (1, 3, H, W) float32 in [0, 1]."""
    return image.transpose(2, 0, 1)[None].astype(np.float32) / 255


def with_half_weights(model: Any) -> Any:
    """The model with its weights stored as float16 and cast back to float32 when it is loaded."""
    onnx = require_package("onnx")
    result = onnx.ModelProto()
    result.CopyFrom(model)
    nodes = list(result.graph.node)
    for tensor in result.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= 64:
            name, half = tensor.name, f"{tensor.name}.fp16"
            tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), half))
            cast = onnx.helper.make_node("Cast", [half], [name], to=onnx.TensorProto.FLOAT)
            nodes.insert(0, cast)
    del result.graph.node[:]
    result.graph.node.extend(nodes)
    onnx.checker.check_model(result, full_check=True)
    return result


def quantised(model: Any, crops: Sequence[np.ndarray]) -> Any:
    """The model in INT8, by nodes that quantise and dequantise around its convolutions; `crops`
    (H, W, 3) uint8 set the ranges. The first and the last convolution, the squeeze and the
    additions stay in float32: the last one adds to the picture, which 256 levels would ruin."""
    onnx, quantization = require_package("onnx"), require_package("onnxruntime.quantization")
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    squeeze = [node for node in convolutions if any(".weigh." in name for name in node.input)]
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
            nodes_to_exclude=[n.name for n in (convolutions[0], convolutions[-1], *squeeze)],
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
        )
        return onnx.load(target)


def validation_images(config: WebExportConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(blurry, sharp), each (H, W, 3) uint8."""
    if config.pairs is None:
        yield from (images[1:] for images in EvaluationImages(demo_pairs("test"), DEMO_BLUR))
    else:
        pairs = chosen_pairs(config.pairs, DataConfig(), config.images)
        yield from (read_pair(pair)[:2] for pair in pairs)


def restored_by(file: bytes, blurry: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> the same, by a model file in ONNX Runtime."""
    session = require_package("onnxruntime").InferenceSession(file)
    (output,) = session.run(None, {"blurry": planes(blurry)})
    return np.rint(output[0].transpose(1, 2, 0).clip(0, 1) * 255).astype(np.uint8)


def mean_psnr(files: dict[str, bytes], config: WebExportConfig) -> dict[str, dict[str, float]]:
    """File, and "blurry" -> {"psnr": to the sharp originals, "psnr_to_fp32"}, in dB."""
    rows = []
    for blurry, sharp in validation_images(config):
        images = {name: restored_by(file, blurry) for name, file in files.items()}
        images["blurry"] = blurry
        rows.append({n: (psnr(i, sharp), psnr(i, images["fp32"])) for n, i in images.items()})
    means = {n: np.mean([row[n] for row in rows], axis=0).round(2).tolist() for n in rows[0]}
    return {n: dict(zip(("psnr", "psnr_to_fp32"), pair, strict=True)) for n, pair in means.items()}


def entry(name: str, file: bytes) -> dict[str, Any]:
    """What the page needs to know of a model file."""
    digest = hashlib.sha256(file).hexdigest()
    return {"file": f"student.{name}.onnx", "bytes": len(file), "sha256": digest}


def export(config: WebExportConfig) -> dict[str, Any]:
    """Make, check and write the files, the manifest last -> the manifest."""
    net = load_student(config.checkpoint)
    model = to_onnx(net, description="Image sharpening student", checkpoint=config.checkpoint.name)
    models = {"fp32": model, "fp16": with_half_weights(model)}
    models["int8"] = quantised(model, calibration_crops())
    files = {name: each.SerializeToString() for name, each in models.items()}
    measured = mean_psnr(files, config)
    manifest = {
        "checkpoint": config.checkpoint.name,
        "checkpoint_sha256": hashlib.sha256(config.checkpoint.read_bytes()).hexdigest(),
        "validation_set": config.pairs.name if config.pairs else "the demo's test photographs",
        "psnr_of_blurred": measured["blurry"]["psnr"],
        "psnr_of_fp32": measured["fp32"]["psnr"],
        "models": {},
    }
    for name, (precision, least) in PRECISIONS.items():
        if (found := measured[name]["psnr_to_fp32"]) < least:
            raise SharpeningError(
                f"nothing was written: {name} is {found} dB from fp32, not {least}"
            )
        manifest["models"][name] = entry(name, files[name]) | {"precision": precision}
        manifest["models"][name] |= measured[name]
    written = {each["file"]: files[name] for name, each in manifest["models"].items()}
    written["manifest.json"] = f"{json.dumps(manifest, indent=2)}\n".encode()
    for name, data in written.items():
        with atomic_write(config.output / name) as temporary:
            temporary.write_bytes(data)
    return manifest


def main(config: WebExportConfig) -> None:
    manifest = export(config)
    print(f"{'model':<8} {'megabytes':>9} {'PSNR dB':>9} {'to fp32':>9}")
    print(f"{'blurred':<8} {'':>9} {manifest['psnr_of_blurred']:9.2f}")
    for name, each in manifest["models"].items():
        size = each["bytes"] / 1e6
        print(f"{name:<8} {size:9.2f} {each['psnr']:9.2f} {each['psnr_to_fp32']:9.2f}")
    print(json.dumps(manifest))


if __name__ == "__main__":
    sys.exit(run_tool(main, WebExportConfig, __doc__))
