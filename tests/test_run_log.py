"""Run log: what a line holds, which lines a resumed run keeps, and who writes."""

import json

import numpy as np
import pytest
import torch
from conftest import save
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sharpening import run_log
from sharpening.run_log import RunLog


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def open_log(folder, runtime, step=0, every=2):
    return RunLog(folder, steps=5, step=step, every=every, crops=4, runtime=runtime)


def write(log, steps):
    """Two micro-batches in every step; their terms are the step and three times the step."""
    for step in steps:
        for factor in (1, 3):
            log.add({"loss": torch.tensor(float(factor * step)), "kl": torch.tensor(0.5)})
        log.step(step, learning_rate=step / 10)


def test_a_line_has_the_means_since_the_line_before(tmp_path, runtime):
    with open_log(tmp_path, runtime) as log:
        write(log, range(1, 6))
    logged = lines(tmp_path)
    assert [line["step"] for line in logged] == [2, 4, 5]  # every second one, and the last
    assert [line["loss"] for line in logged] == [3, 7, 10]  # twice the mean of 1 2, 3 4, 5
    assert [line["kl"] for line in logged] == [0.5] * 3
    assert [line["learning_rate"] for line in logged] == [0.2, 0.4, 0.5]


def test_rates_count_the_waiting_and_leave_out_what_is_paused(tmp_path, runtime, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run_log.time, "perf_counter", lambda: now[0])
    with open_log(tmp_path, runtime, every=1) as log:
        for context, seconds in ((log.waiting, 1), (log.paused, 100)):
            with context():
                now[0] += seconds
        now[0] += 3
        write(log, [1])
    (line,) = lines(tmp_path)
    assert line["waiting_for_data"] == pytest.approx(1 / 4)
    assert line["crops_per_second"] == pytest.approx(2 * 4 / 4)  # two micro-batches of four crops


def test_a_resumed_run_drops_lines_after_its_step_and_a_line_that_was_cut(tmp_path, runtime):
    with open_log(tmp_path, runtime, every=1) as log:
        write(log, range(1, 5))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    with open_log(tmp_path, runtime, step=2, every=1) as log:
        assert [line["step"] for line in lines(tmp_path)] == [1, 2]
        write(log, [3])
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
    with open_log(tmp_path, runtime) as log:  # a new run
        assert lines(tmp_path) == []


def test_only_the_first_process_writes(tmp_path, runtime):
    class Second(type(runtime)):
        def total(self, values):
            return list(values)

    second = Second(runtime.device, runtime.dtype, rank=1, world=2)
    with open_log(tmp_path / "run", second) as log:
        write(log, range(1, 6))
        log.scalars(5, {"test/psnr": 30.0})
        log.strips(5, [save(tmp_path / "a_strip.png", np.zeros((8, 24, 3), np.uint8))])
    assert not (tmp_path / "run").exists()


def test_means_are_over_all_processes(tmp_path, runtime):
    class FirstOfTwo(type(runtime)):
        def total(self, values):
            return [2 * value for value in values]  # as if the other one had the same

    with open_log(tmp_path, FirstOfTwo(runtime.device, runtime.dtype, world=2), every=1) as log:
        write(log, [1])
    assert lines(tmp_path)[0]["loss"] == 2


def test_scalars_and_strips_are_in_tensorboard_too(tmp_path, runtime):
    strip = save(tmp_path / "cat_strip.png", np.zeros((8, 24, 3), np.uint8))
    with open_log(tmp_path / "run", runtime) as log:
        log.scalars(3, {"test/psnr": 30.0})
        log.strips(3, [strip, tmp_path / "absent_strip.png"])
    assert lines(tmp_path / "run") == [{"step": 3, "test/psnr": 30.0}]
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("test/psnr")] == [(3, 30.0)]
    assert [image.step for image in events.Images("cat")] == [3]
