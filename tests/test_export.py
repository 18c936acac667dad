"""ONNX export: one file for every size, equal to PyTorch, honest about what it is."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY_STUDENT

import main_sharpening_script as script
from sharpening import SharpeningError, settings
from sharpening.runtime import require_package
from tools import export_onnx

REASON = "export needs onnx, onnxscript and onnxruntime: pip install -r requirements-dev.txt"
for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=REASON)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny student whose last layer does something, so that parity is more than `0 = 0`."""
    torch.manual_seed(0)
    student = script.SEUNet(TINY_STUDENT)
    torch.nn.init.normal_(student.last.weight, std=0.1)
    path = tmp_path_factory.mktemp("export") / "tiny.pth"
    script.save_checkpoint(path, script.network_payload(student))
    return path


@pytest.fixture(scope="module")
def exported(checkpoint):
    config = export_onnx.ExportConfig(checkpoint, checkpoint.with_name("tiny.onnx"))
    return config.output, export_onnx.export(script.load_student(checkpoint), config)


def test_runtime_gives_pytorchs_image_at_sizes_the_export_never_saw(exported, checkpoint):
    import onnxruntime

    path, differences = exported
    assert max(differences.values()) < 1e-4
    net = script.load_student(checkpoint)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 2, 1), (1, 3, 47, 90), (2, 3, 200, 9)):
        blurry = torch.rand(shape)
        (restored,) = session.run(None, {"blurry": blurry.numpy()})
        np.testing.assert_allclose(restored, net(blurry).numpy(), atol=1e-4)
        assert np.abs(restored - blurry.numpy()).max() > 1e-2  # the net does something


def test_file_names_its_axes_checkpoint_and_settings_but_no_paths(exported, checkpoint):
    import onnx

    model = onnx.load(exported[0])
    axes = [dim.dim_param for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", "", "height", "width"]
    notes = {item.key: item.value for item in model.metadata_props}
    assert notes["checkpoint"] == "tiny.pth" and "[0, 1]" in notes["input"]
    stored = settings.to_dict(script.load_student(checkpoint).config)
    assert notes["student"] == json.dumps(stored)
    assert str(script.HERE).encode() not in exported[0].read_bytes()
    assert model.opset_import[0].version == 18


def test_a_file_that_differs_is_refused_and_the_old_one_stays(
    exported, checkpoint, tmp_path, monkeypatch
):
    import onnx

    monkeypatch.setattr(export_onnx, "to_onnx", lambda *_, **__: onnx.load(exported[0]))
    monkeypatch.setattr(export_onnx, "differences", lambda net, path: {"1x5x3": 2e-4})
    output = tmp_path / "student.onnx"
    output.write_bytes(b"the old one")
    with pytest.raises(SharpeningError, match="differs from PyTorch by 2.0e-04 at 1x5x3"):
        export_onnx.export(
            script.load_student(checkpoint), export_onnx.ExportConfig(checkpoint, output)
        )
    assert output.read_bytes() == b"the old one" and list(tmp_path.iterdir()) == [output]


def test_a_missing_package_is_named():
    with pytest.raises(SharpeningError, match="no_such_package: pip install"):
        require_package("no_such_package")
