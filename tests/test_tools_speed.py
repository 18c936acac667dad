"""The tools that time: every way is measured in turn, and what is counted is right."""

import dataclasses
import threading

import numpy as np
import pytest
import torch
from conftest import last_line

import main_sharpening_script as script
from sharpening import SharpeningError
from tools import benchmark, machine, networks, pipeline_rate, refine_cost
from tools.blocks import BLOCKS
from tools.machine import peak_memory, peak_resident, touch


class Scale(torch.nn.Module):
    """Another network: one number."""

    def __init__(self, start: float = 0.9):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(start))

    def forward(self, blurry):
        return self.factor * blurry


def test_benchmark_times_every_way_in_turn_and_another_network(student_file, capsys):
    settings = benchmark.BenchmarkConfig(
        models=(str(student_file),),
        network=f"{__name__}:Scale",
        precisions=("fp32",),
        sizes=("48x32",),
        batches=(1, 2),
        rounds=2,
        warm_up=1,
    )
    wide = dataclasses.replace(settings, sizes=("200x32",), tile=160, batches=(1,))
    benchmark.main(settings)
    rows = last_line(capsys)["rows"]
    assert {(row["way"], row["batch"]) for row in rows} == {("net", 1), ("image", 1), ("net", 2)}
    assert {row["model"] for row in rows} == {str(student_file), "Scale"}
    first = [row for row in rows if row["model"] == str(student_file)]
    assert all(row["ratio"] == 1 for row in first) and all(row["fps"] > 0 for row in rows)
    benchmark.main(wide)
    assert {row["way"] for row in last_line(capsys)["rows"]} == {"net", "image", "tiled"}


@pytest.mark.parametrize("tile, sides", [(None, []), (160, [160]), (400, [])])
def test_benchmark_tiles_frames_that_exceed_the_tile(student_file, monkeypatch, tile, sides):
    tiles = []
    monkeypatch.setattr(script, "sharpen_tiled", lambda *settings: tiles.append(settings[3]))
    settings = benchmark.BenchmarkConfig(sizes=("200x32",), tile=tile, rounds=1, warm_up=0)
    made = networks.with_backend(script.load_student(student_file), "pytorch", "fp32", "cpu")
    rows = benchmark.measure_all({("a", "pytorch", "fp32"): made}, settings)
    assert sorted(set(tiles)) == sides
    assert ("tiled" in {row["way"] for row in rows}) == bool(sides)


def test_benchmark_counts_the_frames_of_calls_side_by_side(monkeypatch, four_cores):
    """Two calls for each of two threads, 4 frames; the clock says how long they took."""
    monkeypatch.setattr(benchmark, "time_in_turn", lambda works, *_: dict.fromkeys(works, [0.5]))
    monkeypatch.setattr(benchmark, "peak_memory", lambda work, device: work())
    called = []

    def net(x):
        called.append(threading.get_ident())
        return x

    made = networks.Backend(net, None, script.Runtime(torch.device("cpu"), torch.float32))
    settings = benchmark.BenchmarkConfig(side_by_side=(1, 2), rounds=1)
    rows = benchmark.measure({("a", "pytorch", "fp32"): made}, "net", "64x32", 3, settings)
    assert [(row["side_by_side"], row["fps"]) for row in rows] == [(1, 6), (2, 24)]
    assert len(called) == 5 and called[0] == threading.get_ident() not in called[1:]


def test_benchmark_refuses_a_size_that_is_none():
    with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
        benchmark.BenchmarkConfig(sizes=("5by3",))


def test_benchmark_leaves_out_what_is_impossible_and_says_when_nothing_is_left(
    student_file, monkeypatch, capsys
):
    monkeypatch.setenv("CXX", "no-such-compiler")
    settings = {"backends": ("compiled", "pytorch"), "precisions": ("int8",), "sizes": ("32x32",)}
    with pytest.raises(SharpeningError, match="nothing is left to measure"):
        benchmark.main(benchmark.BenchmarkConfig((str(student_file),), **settings))
    settings |= {"precisions": ("fp32",), "rounds": 1, "warm_up": 0}
    benchmark.main(benchmark.BenchmarkConfig((str(student_file),), **settings))
    result = last_line(capsys)
    assert "the compiler no-such-compiler" in result["left_out"]["compiled fp32"]
    assert {row["backend"] for row in result["rows"]} == {"pytorch"}


def test_a_candidate_is_timed_as_it_is_at_inference():
    nets = networks.load_nets(("live", *BLOCKS), None, "{}")
    assert list(nets) == list(BLOCKS)
    blocks = {name: {type(m).__name__ for m in net.modules()} for name, net in nets.items()}
    assert "FoldableConv" not in blocks["foldable 3x3"]
    assert "DepthwiseBlock" in blocks["depthwise"] and "GatedBlock" in blocks["gated (NAFNet)"]
    x = torch.rand(1, 3, 40, 24)
    assert all(net(x).shape == x.shape for net in nets.values())


def test_pipeline_rates_name_the_slowest_stage(student_file, capsys, monkeypatch):
    sizes = {(720, 1280): (36, 64), (3000, 4000): (60, 80)}
    real = pipeline_rate.write_images
    monkeypatch.setattr(
        pipeline_rate, "write_images", lambda f, n, size, s: real(f, n, sizes[size], s)
    )
    settings = {"png": 2, "jpeg": 2, "frames": 3, "rounds": 1, "backend": "pytorch"}
    pipeline_rate.main(pipeline_rate.PipelineConfig(student_file, **settings, device="cpu"))
    rows = last_line(capsys)["rows"]
    assert [row["kind"] for row in rows] == ["png", "jpeg", "video"]
    for row in rows:
        assert row["share"] == pytest.approx(row["all"] / row[row["slowest"]])


def test_a_file_that_fails_is_no_rate(student_file, tmp_path, runtime):
    folder = tmp_path / "in"
    pipeline_rate.write_images(folder, 2, (36, 64), ".png")
    (folder / "1.png").write_bytes(b"no picture")
    sharpen = script.Sharpener.load(student_file, runtime)
    with pytest.raises(SharpeningError, match=r"measurement of in failed: .*1\.png"):
        pipeline_rate.run_all(sharpen, pipeline_rate.plan_of(folder))


def test_the_spinning_of_openmp_is_among_the_conditions(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    assert machine.conditions("cpu")["environment"]["GOMP_SPINCOUNT"] == "10000"


def test_works_are_timed_in_turn_after_their_warm_up(runtime):
    order = []
    works = {name: lambda name=name: order.append(name) for name in ("a", "b")}
    seconds = machine.time_in_turn(works, runtime, rounds=2, warm_up=1)
    assert order == ["a", "b"] * 3
    assert [len(seconds[name]) for name in works] == [2, 2]


def test_peak_counts_what_is_freed_before_the_end():
    held = peak_resident(lambda: touch(64))
    if held is None:
        pytest.skip("this system does not tell")
    assert held[1] - held[0] > 60
    assert peak_memory(lambda: touch(64), torch.device("cpu")) > 60


def test_a_system_that_does_not_tell_is_no_figure(monkeypatch):
    done = []
    monkeypatch.setattr(machine, "memory_line", lambda name: 2.0**30)  # as if nothing was touched
    assert peak_resident(lambda: done.append(1)) is None
    assert done == [1]


def test_refine_cost_times_sharp_and_blurred_frames(student_file, monkeypatch, capsys):
    monkeypatch.setattr(script, "SPEED_SIZES", {"160x128": (128, 160, None)})
    students = (str(student_file),)
    refine_cost.main(refine_cost.RefineCostConfig(students, "pytorch", rounds=1, device="cpu"))
    rows = last_line(capsys)["rows"]
    assert [row["refine"] for row in rows] == [*refine_cost.CHOICES] * 2
    assert {row["frame"] for row in rows} == {"sharp", "blurred"}
    assert all(row["ratio"] == 1 for row in rows if row["refine"] == "none")
    frames = refine_cost.frames(128, 160)
    assert (
        np.diff(frames["blurred"].astype(int), axis=1).std()
        < 0.5 * np.diff(frames["sharp"].astype(int), axis=1).std()
    )
