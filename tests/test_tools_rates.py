"""Rates: what the tools that time training report, and that they leave the script as it was."""

import json

import pytest
import torch
from conftest import changed

import main_sharpening_script as script
from tools import loader_rate
from tools.machine import peak_memory, peak_resident

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
    assert loader_rate.main([*flags, "--steps", "2", "--repeats", "2"]) == 0
    assert functions() == before
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    rates = [f"{kind}crops_per_second" for kind in ("", "loader_", "held_", "held_with_blur_")]
    assert all(result[name] > 0 for name in rates)
    assert 0 <= result["waiting_for_data"] < 1
    assert result["ratio_to_held"] == result["crops_per_second"] / result["held_crops_per_second"]
    assert [len(values) for values in result["rounds"].values()] == [2, 2, 2]
    assert (result["steps"], result["crop"], result["batch"]) == (2, 32, 4)
    assert result["peak_mib"] is None or result["peak_mib"] > 100  # PyTorch alone takes that


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
    held = peak_resident(lambda: torch.ones(2**24))  # 64 MiB
    if held is None:
        pytest.skip("this system does not tell")
    assert held[1] - held[0] > 60
    assert peak_memory(lambda: torch.ones(2**24), torch.device("cpu")) > 60
