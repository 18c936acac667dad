"""Rates: what the tools that time training report, and that they leave the script as it was."""

import json

import pytest
import torch
from conftest import changed

import main_sharpening_script as script
from tools import common, loader_rate, machine, scaling, teacher_pass
from tools.machine import peak_memory, peak_resident, touch

TINY_FLAGS = (
    "--device cpu --data.crop 32 --data.batch-size 4 --data.crops-per-image 2 --data.workers 0 "
    "--student.width 4 --student.max-width 8 --student.encoder 1 1 --student.middle 1 "
    "--student.decoder 1 1 --train.accumulation 1 --train.precision fp32 "
    "--teacher.no-enabled --loss.perceptual 0 --loss.feature 0 --loss.kl 0"
)


def functions() -> dict:
    return {name: value for name, value in vars(script).items() if callable(value)}


def test_loader_rate_reports_ratios_and_restores_the_script(config, capsys):
    before = functions()
    flags = [*TINY_FLAGS.split(), "--data.root", str(config.data.root)]
    loader_rate.main([*flags, "--steps", "2", "--repeats", "2"])
    assert functions() == before
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    rates = [f"{kind}crops_per_second" for kind in ("", "loader_", "held_", "held_with_blur_")]
    assert all(result[name] > 0 for name in rates)
    assert 0 <= result["waiting_for_data"] < 1
    assert result["ratio_to_held"] == result["crops_per_second"] / result["held_crops_per_second"]
    assert [len(values) for values in result["rounds"].values()] == [2, 2, 2]
    assert (result["steps"], result["crop"], result["batch"]) == (2, 32, 4)
    assert result["peak_mib"] is None or result["peak_mib"] > 100  # PyTorch alone takes that


def test_scaling_falls_with_processes_and_with_slower_links(config, capsys, monkeypatch):
    monkeypatch.setattr(scaling, "STEPS", 2)
    scaling.main([*TINY_FLAGS.split(), "--data.root", str(config.data.root)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    read = script.read_config(TINY_FLAGS.split())
    assert result["gradient_bytes"] == 4 * script.parameters(script.build_network(read))
    table = [list(row.values()) for row in result["share_of_linear"].values()]
    assert len(table) == len(scaling.LINKS)
    for values in (*table, *zip(*table, strict=True)):  # along the processes, then the links
        assert values[0] < 1 and values[-1] > 0
        assert all(a > b for a, b in zip(values, values[1:], strict=False))
    seconds, gradients = result["step_seconds"], result["gradient_bytes"]
    slowest = seconds / (seconds + 1.5 * gradients / 1e9)  # four processes send 3/4 twice
    assert result["share_of_linear"]["10 Gbit/s"]["4"] == pytest.approx(slowest)


def test_a_data_set_that_is_not_there_ends_in_a_line(tmp_path, capsys):
    flags = [*TINY_FLAGS.split(), "--data.root", str(tmp_path)]
    for tool in (scaling, loader_rate):
        assert common.exit_status(lambda tool=tool: tool.main(flags)) == 1
        assert "error: no images in" in capsys.readouterr().err


def test_the_spinning_of_openmp_is_among_the_conditions(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    assert machine.conditions("cpu")["environment"]["GOMP_SPINCOUNT"] == "10000"


def test_a_held_batch_is_neither_loaded_nor_blurred(config, runtime, monkeypatch):
    config = changed(config, data={"blurred_names": ()})  # all blur is synthetic
    dataset = script.GoProSharpeningDataset(script.split_pairs(config, "train"), config.data, 0)
    kinds = loader_rate.sources(dataset, config, runtime)
    work = {"__getitem__": 0, "degrade": 0}

    def counted(owner, name):
        real = getattr(owner, name)

        def count(*arguments):
            work[name] += 1
            return real(*arguments)

        monkeypatch.setattr(owner, name, count)

    counted(script.GoProSharpeningDataset, "__getitem__")
    counted(script, "degrade")
    done = {}
    for kind, replaced in kinds.items():
        work.update(dict.fromkeys(work, 0))
        loader_rate.training_rate(config, runtime, 1, replaced)
        done[kind] = dict(work)
    micro = 2 * config.train.accumulation  # of two steps, each of two images
    assert done["loop"] == {"__getitem__": 2 * micro, "degrade": micro}
    assert done["held"] == {"__getitem__": 0, "degrade": 0}
    assert done["held_with_blur"] == {"__getitem__": 0, "degrade": micro}


def test_a_failed_run_restores_the_script(config, runtime):
    def fail(*_):
        raise script.SharpeningError("no batch")

    before = functions()
    with pytest.raises(script.SharpeningError, match="no batch"):
        loader_rate.training_rate(config, runtime, 1, {"training_batches": fail})
    assert functions() == before


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


TINY_PASS = teacher_pass.PassConfig(
    16, 1, dim=8, blocks=(1, 2, 1, 1), refinement_blocks=1, compile=False, rounds=2
)


def test_published_and_our_teacher_compute_the_same():
    pytest.importorskip("spandrel_extra_arches", reason="pip install -r requirements-dev.txt")
    published, ours = teacher_pass.teachers(TINY_PASS)
    assert type(published) is not type(ours)
    x = torch.rand(1, 3, 16, 24)
    assert torch.allclose(published(x), ours(x), atol=1e-5)
    assert not any(p.requires_grad for net in (published, ours) for p in net.parameters())


def test_teacher_pass_reports_ratios_and_the_share_of_a_step(capsys):
    pytest.importorskip("spandrel_extra_arches", reason="pip install -r requirements-dev.txt")
    teacher_pass.main(TINY_PASS)
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    ms = result["ms"]
    assert ms.keys() == {"published", "ours", "ours_bf16", "student_step", "student_step_bf16"}
    assert all(value > 0 for value in ms.values())
    assert result["ratio_to_published"]["ours"] == ms["published"] / ms["ours"]
    assert result["teacher_share"] == ms["ours"] / (ms["ours"] + ms["student_step"])
    assert (result["dim"], result["crop"], result["device"]) == (8, 16, "cpu")


def test_only_the_student_is_timed_with_gradients(runtime):
    for training in (True, False):
        net, seen = script.SEUNet(script.STUDENT_SIZES["live"]), []
        for parameter in net.parameters():
            parameter.register_hook(seen.append)
        teacher_pass.run(net, torch.rand(1, 3, 16, 16), runtime, training)
        assert len(seen) == (len(list(net.parameters())) if training else 0)
