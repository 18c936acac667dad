"""The small tools: each runs on tiny input, ends with its JSON line, and tells bad input apart."""

import dataclasses
import json
import shutil
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_STUDENT, changed, tiny_restormer, write_pairs
from PIL import Image

import main_sharpening_script as script
from tools import (
    ablation,
    before_after,
    benchmark,
    blocks,
    blur_sheet,
    candidates,
    common,
    left_out,
    pareto,
    pipeline_rate,
    pooling_table,
    quantisation_loss,
    train_peer,
)
from tools import validation_table as validation


@pytest.fixture
def student_file(tmp_path):
    torch.manual_seed(0)
    student = script.SEUNet(TINY_STUDENT)
    torch.nn.init.normal_(student.last.weight, std=0.01)
    path = tmp_path / "student.pth"
    script.save_checkpoint(path, script.network_payload(student))
    return path


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


class Scale(torch.nn.Module):
    """A peer: one number."""

    def __init__(self, start: float = 0.9):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(start))

    def forward(self, blurry):
        return self.factor * blurry


def test_a_tool_ends_with_a_status_and_a_line(capsys):
    def fails():
        raise script.SharpeningError("no such thing: make one")

    assert common.exit_status(fails) == 1
    assert capsys.readouterr().err == "error: no such thing: make one\n"
    assert [common.exit_status(lambda: None), common.exit_status(lambda: 2)] == [0, 2]


@pytest.mark.parametrize(
    "length, count, kept", [(9, 3, [0, 4, 8]), (4, 3, [0, 2, 3]), (2, 5, [0, 1])]
)
def test_spread_is_even_and_holds_both_ends(length, count, kept):
    assert common.spread(range(length), count) == kept


def test_spread_refuses_to_choose_none():
    with pytest.raises(script.SharpeningError, match="at least one"):
        common.spread([1, 2], 0)


def test_benchmark_times_every_way_in_turn_and_a_peer(student_file, capsys):
    settings = benchmark.BenchmarkConfig(
        models=(str(student_file),),
        module=f"{__name__}:Scale",
        precisions=("fp32",),
        sizes=("48x32",),
        batches=(1, 2),
        files=1,
        rounds=2,
        warm_up=1,
    )
    wide = dataclasses.replace(settings, sizes=("200x32",), tile=160, batches=(1,))
    benchmark.main(settings)
    rows = last_line(capsys)["rows"]
    assert {(row["way"], row["batch"]) for row in rows} >= {("net", 1), ("image", 1), ("net", 2)}
    assert {row["model"] for row in rows} == {str(student_file), "Scale"}
    first = [row for row in rows if row["model"] == str(student_file)]
    assert all(row["ratio"] == 1 for row in first) and all(row["fps"] > 0 for row in rows)
    benchmark.main(wide)
    assert {row["way"] for row in last_line(capsys)["rows"]} == {"net", "image", "tiled", "files"}


def test_benchmark_tiles_files_that_exceed_the_tile(student_file, monkeypatch):
    tiles = []

    def file_rate(net, frame, config, settings, runtime):
        tiles.append(settings.tile)
        return 1.0

    monkeypatch.setattr(script, "file_rate", file_rate)
    net = script.load_student(student_file)
    for tile in (None, 160, 400):
        settings = benchmark.BenchmarkConfig(files=1, tile=tile, rounds=1, warm_up=0)
        benchmark.measure({("a", "pytorch", "fp32"): net}, "200x32", 1, settings)
    assert tiles == [None, 160, None]


def test_benchmark_counts_the_frames_of_streams(student_file, monkeypatch):
    """Two calls for each of two streams, 4 frames; the clock says how long they took."""
    monkeypatch.setattr(script.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(benchmark, "time_in_turn", lambda works, *_: dict.fromkeys(works, [0.5]))
    called = []
    monkeypatch.setattr(benchmark, "peak_memory", lambda work, device: work())
    monkeypatch.setattr(script, "run_net", lambda *_: called.append(threading.get_ident()))
    settings = benchmark.BenchmarkConfig(streams=(1, 2), rounds=1)
    net = script.load_student(student_file)
    rows = benchmark.measure({("a", "pytorch", "fp32"): net}, "64x32", 3, settings)
    assert [(row["streams"], row["fps"]) for row in rows] == [(1, 6), (2, 24)]
    assert len(called) == 5 and called[0] == threading.get_ident() not in called[1:]


def test_benchmark_refuses_a_size_that_is_none():
    with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
        benchmark.BenchmarkConfig(sizes=("5by3",))


def test_benchmark_leaves_out_what_is_impossible_and_says_when_nothing_is_left(
    student_file, monkeypatch, capsys
):
    monkeypatch.setenv("CXX", "no-such-compiler")
    settings = {"backends": ("compiled", "pytorch"), "precisions": ("int8",), "sizes": ("32x32",)}
    with pytest.raises(script.SharpeningError, match="nothing is left to measure"):
        benchmark.main(benchmark.BenchmarkConfig((str(student_file),), **settings))
    settings |= {"precisions": ("fp32",), "rounds": 1, "warm_up": 0}
    benchmark.main(benchmark.BenchmarkConfig((str(student_file),), **settings))
    result = last_line(capsys)
    assert "the compiler no-such-compiler" in result["left_out"]["compiled fp32"]
    assert {row["backend"] for row in result["rows"]} == {"pytorch"}


@pytest.mark.parametrize("place", ["no_such_module:Class", "json:NoSuchClass", "json"])
def test_a_wrong_import_path_is_named(place):
    with pytest.raises(script.SharpeningError, match="package.module:Class"):
        candidates.load_class(place)


def test_a_peer_is_trained_and_measured_like_the_student(
    config, student_file, tmp_path, capsys, monkeypatch
):
    flags = ["--device", "cpu", "--data.root", str(config.data.root), "--data.crop", "32"]
    flags += ["--data.batch-size", "4", "--data.crops-per-image", "2", "--data.workers", "0"]
    flags += ["--teacher.no-enabled", "--train.epochs", "1", "--train.steps-per-epoch", "3"]
    for term in script.LOSS_TERMS[1:]:
        flags += [f"--loss.{term}", "0"]
    folder = tmp_path / "peer"
    flags += ["--train.folder", str(folder), "--train.samples", str(tmp_path / "samples")]
    name = f"{__name__}:Scale"
    monkeypatch.setattr(script, "build_network", script.build_network)  # put back afterwards
    assert train_peer.main([name, '{"start": 0.5}', *flags]) == 0
    peer = next(folder.glob("*_final_*.pth"))
    assert script.load_checkpoint(peer)["params"]["factor"] > 0.5  # it learnt
    for wrong in ("no JSON", '{"no_such": 1}'):
        with pytest.raises(script.SharpeningError, match=f"Scale cannot be made with {wrong}"):
            train_peer.main([name, wrong, *flags])
    assert train_peer.main([name]) == 2
    validation.main(
        validation.TableConfig(
            checkpoints=(student_file,),
            pairs=(f"pairs={config.data.root}/test",),
            sharp=(f"photos={config.data.root}/test",),
            peer=peer,
            module=name,
            device="cpu",
        )
    )
    result = last_line(capsys)
    conditions = ("motion", "long motion", "defocus", "call", "as it is")
    assert result.keys() == {"pairs", *(f"photos {name}" for name in conditions)}
    assert result["pairs"]["psnr_peer"] < result["pairs"]["psnr_blurry"]
    assert result["pairs"]["worse_peer"] == 1


@pytest.fixture
def small_demo(tmp_path, monkeypatch):
    """`script.DEMO` on two tiny pairs, with a tiny teacher."""
    teacher = tmp_path / "teacher.pth"
    torch.save({"params": tiny_restormer().state_dict()}, teacher)
    for split in ("train", "test"):
        write_pairs(tmp_path / "data" / split, 2)
    small = changed(
        script.DEMO,
        demo=False,
        data={"root": tmp_path / "data", "batch_size": 4, "crops_per_image": 2},
        teacher={"weights": teacher},
    )
    monkeypatch.setattr(script, "DEMO", small)


def test_ablation_compares_seed_by_seed_and_repeats_nothing(
    small_demo, tmp_path, capsys, monkeypatch
):
    config = ablation.AblationConfig(
        folder=tmp_path / "runs", seeds=(0, 1), steps=2, crop=32, student=TINY_STUDENT, device="cpu"
    )
    ablation.main(config)
    rows = {row["loss"]: row for row in last_line(capsys)["rows"]}
    single, joined = (
        ["L1", "+ feature", "+ kl", "+ ssim", "+ frequency"],
        ["all", "ssim, frequency"],
    )
    assert [*single, *joined] == [name for name in rows if "0." not in name]
    assert rows["L1"]["gain"] == rows["L1"]["spread"] == 0
    monkeypatch.setattr(ablation, "train_and_measure", lambda *_: 1 / 0)
    ablation.main(config)
    assert {row["loss"]: row for row in last_line(capsys)["rows"]} == rows


def test_gains_are_paired_by_seed():
    def runs(*values):
        return [{"psnr_student": value, "ssim_student": 0.5} for value in values]

    _, row = ablation.summary({"L1": runs(20.0, 30.0), "all": runs(21.0, 32.0)})
    assert row["gain"] == 1.5 and row["spread"] == pytest.approx(0.5**0.5)


def test_pareto_keeps_what_nothing_beats(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="pip install -r requirements-dev.txt")
    measured = [("slow", 30, 100), ("beaten", 29, 110), ("fast", 28, 10)]
    lines = [json.dumps({"name": n, "psnr": p, "ms": ms}) for n, p, ms in measured]
    (tmp_path / "points.json").write_text("\n".join(lines))
    pareto.main(pareto.ParetoConfig(tmp_path / "points.json", tmp_path / "plot.png"))
    assert last_line(capsys)["unbeaten"] == ["fast", "slow"]
    assert (tmp_path / "plot.png").stat().st_size > 1000
    (tmp_path / "points.json").write_text('{"name": "no figures"}')
    with pytest.raises(script.SharpeningError, match="line 1: needs an object with name"):
        pareto.main(pareto.ParetoConfig(tmp_path / "points.json", tmp_path / "plot.png"))


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


@pytest.mark.parametrize(
    "settings, told",
    [
        ({"pairs": ("folder",)}, "some_name=folder"),
        ({"peer": "peer.pth"}, "--peer needs its --module"),
    ],
)
def test_validation_names_what_its_flags_lack(settings, told):
    with pytest.raises(script.SharpeningError, match=told):
        validation.main(validation.TableConfig(checkpoints=(), device="cpu", **settings))


def test_validation_loses_and_swaps_no_set(tmp_path):
    """Two sets of one name would be one, and sharp images no real pairs."""
    pairs = write_pairs(tmp_path, 1)
    named = f"a={pairs}"
    for settings in ({"pairs": (named, named)}, {"pairs": (named,), "sharp": (named,)}):
        with pytest.raises(script.SharpeningError, match="a name of its own"):
            validation.sets(validation.TableConfig(checkpoints=(), **settings))
    shutil.rmtree(pairs / "blurred")
    with pytest.raises(script.SharpeningError, match="no pairs of blurred and sharp"):
        validation.sets(validation.TableConfig(checkpoints=(), pairs=(named,)))


def test_before_after_shows_three_crops_a_row(student_file, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="pip install -r requirements-dev.txt")
    out = tmp_path / "sheet.png"
    settings = {"output": out, "blurs": ("short", "long"), "crop": 64}
    before_after.main(before_after.SheetConfig(student_file, photos=1, **settings))
    rows = last_line(capsys)["rows"]
    assert [row["blur"] for row in rows] == ["short", "long"]
    assert rows[0]["before"] > rows[1]["before"]  # the longer blur harms more
    assert all(row["before"] != row["after"] for row in rows)
    with Image.open(out) as sheet:
        assert sheet.size == (792, 550)
    with pytest.raises(script.SharpeningError, match="has 4 test photographs, not 5"):
        before_after.main(before_after.SheetConfig(student_file, photos=5, **settings))


def test_before_after_crops_no_more_than_there_is(runtime):
    pairs = script.demo_pairs("test")
    index = min(range(len(pairs)), key=lambda i: script.read_rgb(pairs[i].sharp).shape[0])
    sharp = script.read_rgb(pairs[index].sharp)
    crops = before_after.row(torch.nn.Identity(), "short", index, 224, runtime)
    assert sharp.shape[0] < 224
    assert [crop.shape for crop in crops] == [(sharp.shape[0], 224, 3)] * 3


def test_blur_sheet_holds_the_crops_and_the_real_pairs(tmp_path, capsys):
    pairs = write_pairs(tmp_path / "pairs", 2)
    config = blur_sheet.SheetConfig(
        pairs / "sharp", tmp_path / "out" / "sheet.png", pairs, rows=2, columns=3, crop=32
    )
    blur_sheet.main(config)
    low, middle, high = last_line(capsys)["psnr_quartiles"]
    assert 10 < low <= middle <= high
    sheet = np.asarray(Image.open(config.out))
    assert sheet.shape == (3 * 32, 4 * 32, 3)  # two photographs, and both pairs in one row
    cells = sheet.reshape(3, 32, 4, 32, 3).swapaxes(1, 2)
    for index in range(2):
        real = [blur_sheet.centre(pairs / n / f"{index}.png", 32) for n in ("sharp", "blurred")]
        assert np.array_equal(cells[index, 0], real[0])
        assert not any(np.array_equal(cells[index, k], real[0]) for k in (1, 2, 3))
        assert np.array_equal(cells[2, 2 * index : 2 * index + 2], real)


def test_blur_sheet_names_a_folder_without_images(tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(script.SharpeningError, match=f"no images in {folder}"):
            blur_sheet.main(blur_sheet.SheetConfig(folder))


def test_pooling_table_has_a_cell_for_every_tile_and_window(
    student_file, tmp_path, capsys, runtime
):
    pairs = write_pairs(tmp_path / "pairs", 3, size=(64, 96))
    pooling_table.main(
        pooling_table.TableConfig(
            student_file, pairs, count=2, windows=(0, 16), tiles=(0, 48), overlap=8, device="cpu"
        )
    )
    result = last_line(capsys)
    found = {(cell["tile"], cell["pool_window"]): cell["psnr"] for cell in result["cells"]}
    assert found.keys() == {(0, 0), (0, 16), (48, 0), (48, 16)}
    net = script.with_pool_window(script.load_student(student_file), 16)
    chosen = [script.find_pairs(pairs, script.DataConfig())[index] for index in (0, 2)]
    images = [script.read_pair(pair) for pair in chosen]
    assert result["blurry"] == pytest.approx(np.mean([script.psnr(*pair) for pair in images]))
    dtype = script.pick_dtype("auto", torch.device("cpu"))
    there = dataclasses.replace(runtime, dtype=dtype)
    whole = [script.psnr(script.sharpen_whole(net, b, there), s) for b, s in images]
    assert found[0, 16] == pytest.approx(np.mean(whole), abs=1e-3)


def test_leaving_out_a_block_costs_what_it_was_worth(tmp_path, capsys):
    """The only block that moves anything is one: without it nothing is done, without others all."""
    student = script.SEUNet(script.StudentConfig(width=4, max_width=8, stem=4, middle=1))
    for module in student.modules():
        if isinstance(module, script.ResidualBlock):
            torch.nn.init.zeros_(module.merge.weight)
    for module in (student.first, student.last, *student.down, *student.up):
        torch.nn.init.zeros_(module.bias)
    torch.nn.init.zeros_(student.first.weight)  # nothing but a bias of the block reaches the end
    torch.nn.init.constant_(student.decoder[0][0].merge.bias, 0.5)
    torch.nn.init.normal_(student.last.weight, std=0.1)
    path = tmp_path / "student.pth"
    script.save_checkpoint(path, script.network_payload(student))
    pairs = write_pairs(tmp_path / "pairs", 2, size=(48, 64))
    left_out.main(left_out.LeftOutConfig(path, pairs, count=2, device="cpu"))
    result = last_line(capsys)
    losses = result["losses"]
    images = [script.read_pair(pair) for pair in script.find_pairs(pairs, script.DataConfig())]
    blurry = np.mean([script.psnr(*pair) for pair in images])
    assert list(losses)[-4:] == ["decoder.0.0", "decoder.1.0", "decoder.2.0", "decoder.2.1"]
    assert result["psnr"] - losses.pop("decoder.0.0") == pytest.approx(blurry)
    assert result["psnr"] < blurry - 1
    assert set(losses.values()) == {0}


def test_the_loss_of_every_way_that_infer_computes(student_file, tmp_path, capsys, monkeypatch):
    pytest.importorskip("openvino", reason="pip install -r requirements-dev.txt")
    monkeypatch.setattr(quantisation_loss, "calibration_crops", list)  # tests/test_openvino.py
    monkeypatch.setattr(quantisation_loss, "quantised", lambda model, *_, **__: model)
    pairs = write_pairs(tmp_path / "pairs", 2)
    quantisation_loss.main(quantisation_loss.LossInQualityConfig(student_file, pairs))
    result = last_line(capsys)
    near, quality = result["psnr_to_fp32"], result["psnr"]
    assert quality.keys() - near.keys() == {"blurry"}
    assert near["fp32"] == near["pytorch fp32"] == 100
    assert 40 < near["pytorch bf16"] < 100
    for way in ("pytorch fp32", "pytorch bf16", "bf16"):
        assert quality[way] == pytest.approx(quality["fp32"], abs=0.02), way
        assert quality[way] != quality["blurry"]


def test_blocks_are_trained_alike_and_timed(small_demo, tmp_path, capsys):
    build = script.build_network
    config = blocks.BlocksConfig(
        folder=tmp_path / "runs", seeds=(0,), steps=2, crop=32, side=64, rounds=2, device="cpu"
    )
    blocks.main(dataclasses.replace(config, backends=("pytorch",)))
    rows = {row["block"]: row for row in last_line(capsys)["rows"]}
    assert list(rows) == list(blocks.CANDIDATES)
    assert rows["live"]["gain"] == 0 and rows["depthwise"]["gain"] != 0
    assert all(row["ms_pytorch"] > 0 for row in rows.values())
    assert script.build_network is build


def test_a_foldable_convolution_is_the_sum_of_both():
    torch.manual_seed(0)
    conv, x = blocks.FoldableConv(4), torch.rand(1, 4, 6, 6)
    apart = F.conv2d(x, conv.weight, conv.bias, padding=1) + F.conv2d(x, conv.point)
    assert torch.allclose(conv(x), apart, atol=1e-6)
