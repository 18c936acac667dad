"""Growth: what the tool reports, and that its exponent is the one a power law has."""

import json
import os

import pytest
from conftest import TINY_STUDENT

import main_sharpening_script as script
from sharpening import SharpeningError
from tools import growth


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "tiny.pth"
    script.save_checkpoint(path, script.network_payload(script.SEUNet(TINY_STUDENT)))
    return path


@pytest.mark.parametrize("exponent", [0, 1, 1.7])
def test_slope_of_a_power_law_is_its_exponent(exponent):
    points = [(0.1, 100.0), *((size, 3 * size**exponent) for size in (1, 4, 16, 50))]
    assert growth.slope(points, 1) == pytest.approx(exponent, abs=1e-9)  # the first is below
    assert growth.slope(points, 50) is None


def test_table_plot_and_json(checkpoint, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib", reason="pip install -r requirements-dev.txt")
    monkeypatch.setattr(growth, "in_fresh_process", lambda work, *arguments: work(*arguments))
    monkeypatch.setattr(growth, "SLOPE_FROM", {"megapixels": 0, "names": 1000})
    out = tmp_path / "growth.png"
    growth.main(growth.GrowthConfig(checkpoint, (0.01, 0.04), (10, 100), out=out))
    assert out.read_bytes().startswith(b"\x89PNG")
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    areas = [row["megapixels"] for row in result["megapixels"]]
    assert areas == pytest.approx([0.01, 0.04], rel=0.01)
    assert areas[0] >= 0.01 and areas[1] >= 0.04  # else 1 would not count from 1 on
    assert [row["names"] for row in result["names"]] == [10, 100]
    rows = result["megapixels"] + result["names"]
    assert all(row["seconds"] > 0 and (row["peak_mib"] or 0) >= 0 for row in rows)
    assert isinstance(result["slopes"]["megapixels"], float)
    assert result["slopes"]["names"] is None
    assert {"checkpoint", "plot", "cpu", "threads", "versions"} <= result.keys()


def test_every_size_has_a_process_of_its_own():
    found = {growth.in_fresh_process(os.getpid) for _ in range(2)}
    assert len(found | {os.getpid()}) == 3


def test_a_process_that_is_killed_is_an_error_that_names_the_size():
    with pytest.raises(SharpeningError, match="measured 9 was killed"):
        growth.in_fresh_process(os._exit, 9)
