"""The tools that train or teach: variants are trained alike, rates and stored results are right."""

import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY_STUDENT, changed, last_line, make_student, tiny_restormer, write_pairs
from PIL import Image

import main_sharpening_script as script
from sharpening import SharpeningError
from sharpening.image_pairs import RESULTS_LOG, add_teacher_results, read_pair, read_rgb, stamp
from tools import ablation, common, teacher_cache, train_other, training_rate
from tools import validation_table as validation
from tools.blocks import BLOCKS, FoldableConv

TINY = (
    "--device cpu --data.crop 32 --data.batch-size 4 --data.crops-per-image 2 --data.workers 0 "
    "--student.width 4 --student.max-width 8 --student.encoder 1 1 --student.middle 1 "
    "--student.decoder 1 1 --train.accumulation 1 --train.precision fp32 --teacher.no-enabled"
)
TINY_FLAGS = TINY.split()


class Scale(torch.nn.Module):
    """Another network: one number."""

    def __init__(self, start: float = 0.9):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(start))

    def forward(self, blurry):
        return self.factor * blurry


# Ablation


@pytest.fixture
def small_demo(tmp_path, monkeypatch, teacher_file):
    """`script.DEMO` on two tiny pairs, with a tiny teacher."""
    for split in ("train", "test"):
        write_pairs(tmp_path / "data" / split, 2)
    small = changed(
        script.DEMO,
        demo=False,
        data={"root": tmp_path / "data", "batch_size": 4, "crops_per_image": 2},
        teacher={"weights": teacher_file},
    )
    monkeypatch.setattr(script, "DEMO", small)


def test_ablation_compares_seed_by_seed_and_repeats_nothing(
    small_demo, tmp_path, capsys, monkeypatch
):
    config = ablation.AblationConfig(
        folder=tmp_path / "runs", seeds=(0, 1), steps=2, crop=32, student=TINY_STUDENT, device="cpu"
    )
    ablation.main(config)
    rows = {row["variant"]: row for row in last_line(capsys)["rows"]}
    single, joined = (
        ["L1", "+ feature", "+ kl", "+ ssim", "+ frequency"],
        ["all", "ssim, frequency"],
    )
    assert [*single, *joined] == [name for name in rows if "0." not in name]
    assert rows["L1"]["gain"] == rows["L1"]["spread"] == 0
    monkeypatch.setattr(ablation, "train_and_measure", lambda *_: 1 / 0)
    ablation.main(config)
    assert {row["variant"]: row for row in last_line(capsys)["rows"]} == rows


def test_gains_are_paired_by_seed():
    def runs(*values):
        return [{"psnr_student": value, "ssim_student": 0.5} for value in values]

    _, row = ablation.summary({"L1": runs(20.0, 30.0), "all": runs(21.0, 32.0)})
    assert row["gain"] == 1.5 and row["spread"] == pytest.approx(0.5**0.5)


def test_blocks_are_trained_alike(small_demo, tmp_path, capsys):
    config = ablation.AblationConfig(
        "blocks", folder=tmp_path / "runs", seeds=(0,), steps=2, crop=32, device="cpu"
    )
    ablation.main(config)
    rows = {row["variant"]: row for row in last_line(capsys)["rows"]}
    assert list(rows) == list(BLOCKS)
    assert rows["live"]["gain"] == 0 and rows["depthwise"]["gain"] != 0
    stored = next((tmp_path / "runs").glob("depthwise*/student_model_ema_final*.pth"))
    assert any("depthwise" in name for name in script.load_checkpoint(stored)["params"])


def test_a_foldable_convolution_is_the_sum_of_both():
    torch.manual_seed(0)
    conv, x = FoldableConv(4), torch.rand(1, 4, 6, 6)
    apart = F.conv2d(x, conv.weight, conv.bias, padding=1) + F.conv2d(x, conv.point)
    assert torch.allclose(conv(x), apart, atol=1e-6)


# Other networks


def run_other(*arguments):
    return common.run_beside_script(train_other.main, train_other.OtherConfig, "", arguments)


def test_another_network_is_trained_and_measured_like_the_student(config, tmp_path, capsys):
    flags = [*TINY_FLAGS, "--data.root", str(config.data.root), "--loss.ssim", "0"]
    flags += ["--loss.frequency", "0", "--train.epochs", "1", "--train.steps-per-epoch", "3"]
    folder = tmp_path / "other"
    flags += ["--train.folder", str(folder), "--train.samples", str(tmp_path / "samples")]
    name = f"{__name__}:Scale"
    run_other("--network", name, "--arguments", '{"start": 0.5}', *flags)
    result = last_line(capsys)
    assert (result["network"], result["parameters"]) == (name, 1)
    assert script.load_checkpoint(folder / "last.pth")["params"]["factor"] > 0.5  # it learnt
    for wrong in ("no JSON", '{"no_such": 1}'):
        with pytest.raises(SharpeningError, match=f"Scale cannot be made with {wrong}"):
            run_other("--network", name, "--arguments", wrong, *flags)
    with pytest.raises(SharpeningError, match="leave out --infer"):
        run_other("--network", name, "--infer")
    student = tmp_path / "student.pth"
    script.save_checkpoint(student, script.network_payload(make_student()))
    validation.main(
        validation.TableConfig(
            checkpoints=(student,),
            pairs=(f"pairs={config.data.root}/test",),
            sharp=(f"photos={config.data.root}/test",),
            other=result["checkpoint"] and folder / "last.pth",
            network=name,
            device="cpu",
        )
    )
    result = last_line(capsys)
    conditions = ("motion", "long motion", "defocus", "call")
    assert result.keys() == {"pairs", *(f"photos {name}" for name in conditions)}
    assert result["pairs"]["psnr_other"] < result["pairs"]["psnr_blurry"]
    assert result["pairs"]["worse_other"] == 1


def test_a_restormer_of_given_sizes_becomes_a_teacher(config, tmp_path, capsys):
    sizes = {"dim": 8, "blocks": [1, 1, 1, 1], "refinement_blocks": 1}
    flags = [*TINY_FLAGS, "--data.root", str(config.data.root)]
    flags += ["--train.epochs", "1", "--train.steps-per-epoch", "1"]
    flags += ["--train.folder", str(tmp_path / "run"), "--train.samples", str(tmp_path / "samples")]
    run_other("--network", "restormer", "--arguments", json.dumps(sizes), *flags)
    teacher = script.restormer_from_weights(type(tmp_path)(last_line(capsys)["checkpoint"]))
    found = script.restormer_sizes(teacher.state_dict())
    assert {name: found[name] for name in sizes} == sizes


# Stored results of a teacher


@pytest.fixture
def cache(config, tmp_path):
    return teacher_cache.CacheConfig(
        tmp_path / "taught",
        config.data,
        config.teacher.weights,
        precision="fp32",
        device="cpu",
    )


def names_of(folder) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("*.png"))}


def test_results_are_the_teachers_under_the_names_of_the_data(cache, config, runtime, capsys):
    teacher_cache.main(cache)
    assert last_line(capsys)["made"] == 6
    teacher = script.restormer_from_weights(cache.weights)
    pairs = add_teacher_results(script.split_pairs(config, "train"), cache.results, 0.0)
    for pair in pairs:
        blurry, _, taught = read_pair(pair)
        assert np.array_equal(taught, script.run_pytorch(teacher, runtime, [blurry])[0])
    log = json.loads((cache.results / RESULTS_LOG).read_text())
    assert log["made_from"] == {pair.name: stamp(pair.blurry) for pair in pairs}
    assert len(log["weights"]) == 64 and log["precision"] == "float32"


def test_only_what_was_made_from_something_else_is_made_again(cache, config, tmp_path, capsys):
    def made(settings) -> int:
        teacher_cache.main(settings)
        return last_line(capsys)["made"]

    assert made(cache) == 6
    before = names_of(cache.results)
    assert made(cache) == 0 and names_of(cache.results) == before
    blurred = config.data.root / "train" / "blurred"
    Image.fromarray(255 - read_rgb(blurred / "2.png")).save(blurred / "2.png")
    os.utime(blurred / "2.png", (0, 0))  # older than its result, and yet another image
    (cache.results / "4.png").unlink()
    assert made(cache) == 2
    again = names_of(cache.results)
    assert {name for name in before if before[name] != again[name]} == {"2.png", "4.png"}
    assert made(dataclasses.replace(cache, precision="bf16")) == 6
    torch.save({"params": tiny_restormer(seed=1).state_dict()}, cache.weights)
    assert made(dataclasses.replace(cache, precision="bf16")) == 6


def test_an_interruption_leaves_finished_results_alone(cache, config, monkeypatch, capsys):
    teacher_cache.main(cache)
    torch.save({"params": tiny_restormer(seed=1).state_dict()}, cache.weights)
    real, count = teacher_cache.make_result, []

    def fails(*arguments):
        if len(count) == 2:
            raise KeyboardInterrupt
        count.append(1)
        real(*arguments)

    monkeypatch.setattr(teacher_cache, "make_result", fails)
    with pytest.raises(KeyboardInterrupt):
        teacher_cache.main(cache)
    assert len(names_of(cache.results)) == 2  # none of the old weights is left
    with pytest.raises(SharpeningError, match="no results for 4 blurred images"):
        add_teacher_results(script.split_pairs(config, "train"), cache.results, 0.0)
    monkeypatch.setattr(teacher_cache, "make_result", real)
    capsys.readouterr()
    teacher_cache.main(cache)
    assert last_line(capsys)["made"] == 4


def test_each_process_makes_its_share(cache, runtime, monkeypatch):
    second = dataclasses.replace(runtime, rank=1, world=2)
    monkeypatch.setattr(type(second), "total", lambda self, values: list(values))
    monkeypatch.setattr(type(second), "on_main", lambda self, work: None)
    assert teacher_cache.fill(cache, second)["made"] == 3
    assert list(names_of(cache.results)) == ["1.png", "3.png", "5.png"]
    assert not (cache.results / RESULTS_LOG).exists()


def test_another_programs_results_are_not_overwritten(cache, config):
    theirs = shutil.copytree(config.data.root / "train" / "sharp", cache.results)
    before = names_of(theirs)
    with pytest.raises(SharpeningError, match=r"0\.png was made by another program"):
        teacher_cache.main(cache)
    assert names_of(theirs) == before


def test_there_is_nothing_to_teach_without_real_pairs(cache, config):
    shutil.rmtree(config.data.root / "train" / "blurred")
    with pytest.raises(SharpeningError, match="no pairs of blurred and sharp"):
        teacher_cache.main(cache)


# Rates of training


def rates(*arguments):
    return common.run_beside_script(training_rate.main, training_rate.RateConfig, "", arguments)


def test_rates_of_loading_are_reported_with_their_ratios(config, capsys):
    rates(*TINY_FLAGS, "--data.root", str(config.data.root), "--steps", "2", "--repeats", "2")
    result = last_line(capsys)
    names = [f"{kind}crops_per_second" for kind in ("", "loader_", "held_", "held_with_blur_")]
    assert all(result[name] > 0 for name in names)
    assert 0 <= result["waiting_for_data"] < 1
    assert result["ratio_to_held"] == result["crops_per_second"] / result["held_crops_per_second"]
    assert [len(values) for values in result["rounds"].values()] == [2, 2, 2]
    assert (result["steps"], result["crop"], result["batch"]) == (2, 32, 4)
    assert result["peak_mib"] is None or result["peak_mib"] > 100  # PyTorch alone takes that


def test_a_data_set_that_is_not_there_ends_in_a_line(tmp_path, capsys):
    flags = [*TINY_FLAGS, "--data.root", str(tmp_path)]
    assert common.exit_status(lambda: rates(*flags)) == 1
    assert "error: no images in" in capsys.readouterr().err


def test_a_held_batch_is_neither_loaded_nor_blurred(config, runtime, monkeypatch):
    config = changed(config, data={"blurred_names": ()})  # all blur is synthetic
    _, loaded, ready = training_rate.loader_alone(config, runtime, 1)
    work = {"item": 0, "degrade": 0}

    def counted(owner, name):
        real = getattr(owner, name)

        def count(*arguments):
            work[name] += 1
            return real(*arguments)

        monkeypatch.setattr(owner, name, count)

    counted(script.GoProSharpeningDataset, "item")
    counted(script, "degrade")
    done = {}
    for kind, held in {"loop": None, "held": [ready], "held_with_blur": loaded}.items():
        work.update(dict.fromkeys(work, 0))
        training_rate.training_rate(config, runtime, 1, held)
        done[kind] = dict(work)
    micro = 2 * config.train.accumulation  # of two steps, each of two images
    assert done["loop"] == {"item": 2 * micro, "degrade": micro}
    assert done["held"] == {"item": 0, "degrade": 0}
    assert done["held_with_blur"] == {"item": 0, "degrade": micro}


def test_a_held_batch_holds_the_blurred_crops(config, runtime):
    config = changed(config, data={"blurred_names": ()})
    _, loaded, ready = training_rate.loader_alone(config, runtime, 1)
    settings = (config.degradation, config.train.seed, runtime.device)
    expected, given = (script.prepare_batch(batch, *settings) for batch in (loaded[0], ready))
    assert (expected[0] - given[0]).abs().max() <= 0.51 / 255
    assert torch.equal(expected[1], given[1]) and not torch.equal(given[0], given[1])


def test_a_timed_training_neither_saves_nor_evaluates(config, runtime, monkeypatch):
    for name in ("evaluate_training", "save_checkpoint"):
        monkeypatch.setattr(script, name, lambda *_: 1 / 0)
    assert training_rate.training_rate(config, runtime, 1)["crops_per_second"] > 0


TINY_TEACHER = '{"dim": 8, "blocks": [1, 2, 1, 1], "refinement_blocks": 1}'


def test_published_and_our_teacher_compute_the_same():
    pytest.importorskip("spandrel_extra_arches", reason="pip install -r requirements-dev.txt")
    published, ours = training_rate.teachers(TINY_TEACHER, torch.device("cpu"))
    assert type(published) is not type(ours)
    x = torch.rand(1, 3, 16, 24)
    assert torch.allclose(published(x), ours(x), atol=1e-5)
    assert not any(p.requires_grad for net in (published, ours) for p in net.parameters())


def test_the_teachers_pass_is_reported_with_ratios_and_its_share_of_a_step(capsys):
    pytest.importorskip("spandrel_extra_arches", reason="pip install -r requirements-dev.txt")
    own = ["--measure", "teacher", "--teacher", TINY_TEACHER, "--no-compiled", "--rounds", "2"]
    rates(*TINY_FLAGS, *own, "--data.crop", "16")
    result = last_line(capsys)
    ms = result["ms"]
    assert ms.keys() == {"published", "ours", "ours_bf16", "student_step", "student_step_bf16"}
    assert all(value > 0 for value in ms.values())
    assert result["ratio_to_published"]["ours"] == ms["published"] / ms["ours"]
    assert result["teacher_share"] == ms["ours"] / (ms["ours"] + ms["student_step"])
    assert (result["teacher"]["dim"], result["crop"], result["batch"]) == (8, 16, 4)


def test_only_the_student_is_timed_with_gradients(runtime):
    for training in (True, False):
        net, seen = script.SEUNet(script.STUDENT_SIZES["live"]), []
        for parameter in net.parameters():
            parameter.register_hook(seen.append)
        training_rate.run_once(net, torch.rand(1, 3, 16, 16), runtime, training)
        assert len(seen) == (len(list(net.parameters())) if training else 0)
