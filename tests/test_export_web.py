"""The model files of the page: what the manifest says is true, and bad ones are not written."""

import functools
import hashlib
import json

import numpy as np
import pytest
import torch
from conftest import TINY_STUDENT, photo, write_pairs

import main_sharpening_script as script
from sharpening import SharpeningError
from tools import export_onnx, export_web

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason="needs the packages of requirements-dev.txt")


@pytest.fixture(scope="module")
def to_onnx_once():
    """The export, which takes five seconds, done once: all tests export one student."""
    return functools.cache(lambda **notes: export_onnx.to_onnx(tiny_student(), **notes))


def tiny_student():
    torch.manual_seed(0)
    student = script.SEUNet(TINY_STUDENT).eval()
    torch.nn.init.normal_(student.last.weight, std=0.02)
    return student


@pytest.fixture
def config(tmp_path, monkeypatch, to_onnx_once):
    """A tiny student and few images, so that it takes seconds."""
    path = tmp_path / "tiny.pth"
    script.save_checkpoint(path, script.network_payload(tiny_student()))
    monkeypatch.setattr(export_web, "to_onnx", lambda net, **notes: to_onnx_once(**notes))
    crops = [photo(64, 64, seed=seed) for seed in range(3)]
    monkeypatch.setattr(export_web, "calibration_crops", lambda: crops)
    pairs = write_pairs(tmp_path / "pairs", 3, size=(40, 56))
    return export_web.WebExportConfig(path, tmp_path / "models", pairs, images=2)


def test_manifest_says_what_was_written(config, capsys):
    import onnx

    export_web.main(config)
    manifest = json.loads((config.output / "manifest.json").read_text())
    assert manifest == json.loads(capsys.readouterr().out.splitlines()[-1])
    assert manifest["checkpoint"] == "tiny.pth" and manifest["validation_set"] == "pairs"
    digest = hashlib.sha256(config.checkpoint.read_bytes()).hexdigest()
    assert manifest["checkpoint_sha256"] == digest
    blurry, student = photo(33, 47), script.load_student(config.checkpoint)
    with torch.inference_mode():
        output = student(torch.from_numpy(export_web.planes(blurry)))[0].numpy()
    expected = np.rint(output.transpose(1, 2, 0).clip(0, 1) * 255)
    assert (expected != blurry).mean() > 0.2  # the network does something
    for name, least in (("fp16", 60), ("int8", 40)):
        each = manifest["models"][name]
        data = (config.output / each["file"]).read_bytes()
        assert each["sha256"] == hashlib.sha256(data).hexdigest() and each["bytes"] == len(data)
        restored = export_web.restored_by(data, blurry)
        assert script.psnr(restored, expected.astype(np.uint8)) > least
        assert each["psnr_to_fp32"] >= least
        assert str(script.HERE).encode() not in data
    eight = onnx.load(config.output / manifest["models"]["int8"]["file"])
    assert any(node.op_type == "QuantizeLinear" for node in eight.graph.node)


def test_files_far_from_fp32_are_not_written(config, monkeypatch):
    monkeypatch.setitem(export_web.PRECISIONS, "int8", ("8 bits", 99.0))
    with pytest.raises(SharpeningError, match="nothing was written: int8 is .* dB from fp32"):
        export_web.main(config)
    assert not config.output.exists()


def test_the_pages_models_are_those_of_the_shipped_live_student():
    models = script.HERE / "web" / "models"
    manifest = json.loads((models / "manifest.json").read_text())
    shipped = hashlib.sha256(script.SHIPPED_STUDENTS["live"].read_bytes()).hexdigest()
    assert manifest["checkpoint_sha256"] == shipped, "write them anew: python tools/export_web.py"
    for each in manifest["models"].values():
        digest = hashlib.sha256((models / each["file"]).read_bytes()).hexdigest()
        assert digest == each["sha256"]
