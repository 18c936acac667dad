"""What other systems need, as far as Linux can try it: spawned workers, Apple's device, /proc."""

import dataclasses
import itertools
import signal
import sys
import time

import pytest
import torch

import main_sharpening_script as script
from sharpening import SharpeningError, loading
from sharpening.runtime import Runtime, Stopped, StopSignal, pick_device, pick_dtype
from tools import machine


def batches(config, runtime, workers: int) -> list:
    data = dataclasses.replace(config.data, workers=workers)
    pairs = script.split_pairs(config, "train")
    loader = script.training_batches(script.GoProSharpeningDataset(pairs, data, 0), 0, runtime)
    found = list(itertools.islice(loader, 4))
    loader.close()
    return found


def test_spawned_workers_give_what_one_process_gives(config, runtime, monkeypatch):
    monkeypatch.setattr(loading, "start_method", lambda: "spawn")
    expected = batches(config, runtime, 0)
    for batch, alike in zip(batches(config, runtime, 2), expected, strict=True):
        for part, same in zip(batch, alike, strict=True):
            torch.testing.assert_close(part, same, rtol=0, atol=0)


def test_a_spawned_worker_hands_its_error_over(config, runtime, monkeypatch):
    monkeypatch.setattr(loading, "start_method", lambda: "spawn")
    data = dataclasses.replace(config, data=dataclasses.replace(config.data, cache_gb=0))
    (config.data.root / "train" / "sharp" / "2.png").write_text("broken")
    with pytest.raises(SharpeningError, match="2.png"):
        batches(data, runtime, 1)


def test_fork_is_for_linux_alone():
    assert [loading.start_method(name) for name in ("linux", "win32", "darwin")] == [
        "fork",
        "spawn",
        "spawn",
    ]


def test_apples_gpu_computes_in_fp32_unless_told_otherwise():
    place = torch.device("mps")
    assert pick_dtype("auto", place) == torch.float32
    assert pick_dtype("fp16", place) == torch.float16
    runtime = Runtime(place, torch.float32)
    assert runtime.device_name == "Apple's GPU"
    with runtime.autocast():
        assert torch.ones(2).dtype == torch.float32


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this is a Mac with a GPU")
def test_without_apples_gpu_the_flag_says_so():
    with pytest.raises(SharpeningError, match="use --device cpu"):
        pick_device("mps")


def test_the_processor_has_a_name():
    assert machine.processor_name().strip()
    assert machine.conditions("cpu")["cores"] >= 1


def test_without_proc_memory_is_not_reported_and_the_work_is_done(monkeypatch):
    done = []

    def missing(name: str) -> float:
        raise FileNotFoundError(name)

    monkeypatch.setattr(machine, "memory_line", missing)
    assert machine.peak_resident(lambda: done.append(sys.platform)) is None
    assert done == [sys.platform]


def test_a_stop_signal_is_raised_after_the_patience_without_a_timer_of_signals(
    runtime, monkeypatch
):
    for name in ("setitimer", "SIGALRM"):  # as on Windows
        monkeypatch.delattr(signal, name)
    monkeypatch.setattr(StopSignal, "PATIENCE", 0.3)
    before = signal.getsignal(signal.SIGINT)
    with StopSignal(runtime) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.number == signal.SIGINT
        start = time.monotonic()
        with pytest.raises(Stopped), stop.interruptible():
            while time.monotonic() - start < 20:
                time.sleep(0.01)
        assert 0.25 < time.monotonic() - start < 10
        with pytest.raises(Stopped):
            stop.check()
    assert not stop.reminder.is_alive() and signal.getsignal(signal.SIGINT) is before


def test_without_a_timer_of_signals_a_loop_that_checks_is_not_interrupted(runtime, monkeypatch):
    for name in ("setitimer", "SIGALRM"):
        monkeypatch.delattr(signal, name)
    monkeypatch.setattr(StopSignal, "PATIENCE", 0.05)
    with StopSignal(runtime) as stop:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.3)  # reminders come, and nothing may be raised here
        assert stop.number == signal.SIGTERM
        with pytest.raises(Stopped):
            stop.check()
    with StopSignal(runtime) as stop:  # no signal: no thread was started
        stop.check()
