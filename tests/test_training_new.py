"""Training that meets trouble. (Goes into the files of the sections.)"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import changed, photo, save, write_pairs

import main_sharpening_script as script
from sharpening import SharpeningError
from sharpening.runtime import Stopped, StopSignal


def weights(path):
    return script.load_checkpoint(path)["params"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def evaluated_steps(folder):
    return [line["step"] for line in lines(folder) if "test/psnr_restored" in line]


@pytest.fixture
def run(runtime):
    def train(config):
        return script.train(config, runtime)

    return train


def stopped_after(config, run, monkeypatch, step):
    """Train until Ctrl-C comes in optimizer step `step`."""
    update = script.update_ema

    def interrupt(*arguments):
        update(*arguments)
        if len(called) == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
        called.append(1)

    called = []
    with monkeypatch.context() as patch:
        patch.setattr(script, "update_ema", interrupt)
        with pytest.raises(SystemExit) as stopped:
            run(config)
    assert stopped.value.code == 130
    return script.load_checkpoint(config.train.folder / "last.pth")


# --- 15 and 20: stopping


class Stuck:
    """Batches of which the one with this number never comes."""

    def __init__(self, number):
        self.number, self.load = number, script.training_batches

    def __call__(self, *given):
        for number, batch in enumerate(self.load(*given)):
            if number == self.number:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            yield batch


def test_a_signal_while_a_batch_does_not_come_saves_the_last_whole_step(
    config, run, tmp_path, monkeypatch, capsys
):
    config = changed(config, train={"save_every": 100, "log_every": 6})
    unbroken = weights(run(config))
    broken = changed(config, train={"folder": tmp_path / "broken"})
    with monkeypatch.context() as patch:
        patch.setattr(script, "training_batches", Stuck(3))  # the second of step 2
        start = time.monotonic()
        with pytest.raises(SystemExit) as stopped:
            run(broken)
    assert time.monotonic() - start < 15
    assert stopped.value.code == 128 + signal.SIGTERM
    assert "stopped after step 1 of 6" in capsys.readouterr().out
    assert script.load_checkpoint(broken.train.folder / "last.pth")["step"] == 1
    assert same(weights(run(changed(broken, resume=True))), unbroken)
    one, other = (
        [line["loss"] for line in lines(c.train.folder) if "loss" in line] for c in (config, broken)
    )
    assert one == other and len(one) == 1


def test_ctrl_c_during_an_evaluation_does_not_wait_for_its_end(config, run, tmp_path, monkeypatch):
    unbroken = weights(run(config))
    broken = changed(config, train={"folder": tmp_path / "broken"})
    measure = script.psnr

    def slow(*images):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
        return measure(*images)

    start = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(script, "psnr", slow)
        with pytest.raises(SystemExit) as stopped:
            run(broken)
    assert time.monotonic() - start < 20
    assert stopped.value.code == 130
    last = script.load_checkpoint(broken.train.folder / "last.pth")
    assert (last["step"], last["evaluated"]) == (3, 0)
    assert same(weights(run(changed(broken, resume=True))), unbroken)
    assert evaluated_steps(broken.train.folder) == [3, 6]
    best = [script.load_checkpoint(c.train.folder / "best.pth") for c in (config, broken)]
    assert best[0]["psnr"] == best[1]["psnr"] and same(best[0]["params"], best[1]["params"])


def test_a_signal_between_two_steps_is_no_matter_of_patience(runtime):
    with StopSignal(runtime) as stop:
        stop.check()
        os.kill(os.getpid(), signal.SIGINT)
        start = time.monotonic()
        with stop.interruptible():
            pass
        with pytest.raises(Stopped):
            stop.check()
    assert time.monotonic() - start < 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_a_worker_that_is_stuck_in_a_file_does_not_keep_a_stopped_training(config, tmp_path):
    """The second image of every draw hangs, as on a network drive that is gone."""
    code = (
        "import sys, time, main_sharpening_script as s\n"
        "item = s.GoProSharpeningDataset.item\n"
        "def hang(self, draw):\n"
        "    if draw == 9: time.sleep(1000)\n"
        "    return item(self, draw)\n"
        "s.GoProSharpeningDataset.item = hang\n"
        "sys.exit(s.main(sys.argv[1:]))\n"
    )
    folder = tmp_path / "stuck"
    call = command(config, tmp_path, "--train.folder", folder, "--data.batch-size", 4)
    flags = ["--train.steps-per-epoch", "100", "--train.accumulation", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *call[1:], *flags],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=script.HERE,
    )
    try:
        deadline = time.monotonic() + 120
        while not (folder / "metrics.jsonl").is_file() or len(lines(folder)) < 4:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        shown = process.communicate(timeout=40)[0]
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped after step 4 of" in shown
    assert script.load_checkpoint(folder / "last.pth")["step"] == 4


def command(config, tmp_path, *more):
    """The script as a user would call it, with the settings of `config`."""
    flags = ["--device", "cpu", "--data.root", config.data.root, "--data.crop", "32"]
    flags += ["--data.crops-per-image", "2", "--data.workers", "1", "--train.precision", "fp32"]
    flags += ["--teacher.weights", config.teacher.weights, "--loss.perceptual", "0"]
    flags += ["--student.width", "4", "--student.max-width", "8", "--student.encoder", "1", "1"]
    flags += ["--student.middle", "1", "--student.decoder", "1", "1", "--train.log-every", "1"]
    flags += ["--train.samples", tmp_path / "samples", *more]
    return [script.__file__, *map(str, flags)]


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.parametrize("damage", ["cut", "small"])
def test_test_images_are_looked_at_before_the_training_begins(config, run, damage):
    path = config.data.root / "test" / "sharp" / "2.png"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:900])
    else:
        for side in ("sharp", "blurred"):
            save(config.data.root / "test" / side / "2.png", photo(8, 40))
    with pytest.raises(SharpeningError, match=r"sharp.2\.png"):
        run(config)
    assert not (config.train.folder / "last.pth").exists()


# --- 16: another plan at a resume


def drawn(dataset_draws, monkeypatch):
    """Notes every draw of a training."""
    item = script.GoProSharpeningDataset.item

    def note(self, draw):
        dataset_draws.append(draw)
        return item(self, draw)

    monkeypatch.setattr(script.GoProSharpeningDataset, "item", note)


@pytest.mark.parametrize(
    ("change", "said", "done", "total"),
    [
        ({"data": {"batch_size": 8}}, "16 crops a step instead of 8, 2 steps an epoch", 1, 6),
        ({"train": {"accumulation": 1}}, "4 crops a step instead of 8, 6 steps an epoch", 4, 18),
    ],
)
def test_resumed_with_another_batch_it_goes_on_where_it_was(
    config, run, tmp_path, monkeypatch, capsys, change, said, done, total
):
    """12 images give 24 crops an epoch, 3 steps of 8 crops. After 2 of 9 steps it changes."""
    write_pairs(config.data.root / "train", 12)
    config = changed(config, train={"steps_per_epoch": None, "epochs": 3, "save_every": 100})
    last = stopped_after(config, run, monkeypatch, 2)
    assert (last["step"], last["position"], last["drawn"]) == (2, 2, 8)
    draws = []
    drawn(draws, monkeypatch)
    capsys.readouterr()
    final = run(changed(changed(config, **change), resume=True))
    shown = capsys.readouterr().out
    assert said in shown and "learning rate" in shown
    assert script.load_checkpoint(final)["step"] == 2 + total - done
    assert draws[0] == 8 and draws == list(range(8, 8 + len(draws)))
    first = next(line for line in lines(config.train.folder) if line["step"] == 3)
    assert first["learning_rate"] == script.learning_rate(done, total, config.train)
    assert len(evaluated_steps(config.train.folder)) == 3  # after every epoch, as planned


def test_a_resume_with_more_images_goes_on_at_the_same_epoch(config, run, monkeypatch, capsys):
    config = changed(config, train={"steps_per_epoch": None, "epochs": 4, "accumulation": 1})
    stopped_after(config, run, monkeypatch, 6)  # of 12: 6 images are 3 steps
    write_pairs(config.data.root / "train", 10)
    final = run(changed(config, resume=True))
    shown = capsys.readouterr().out
    assert "10 training images instead of 6, 5 steps an epoch instead of 3: 2.00 of 4" in shown
    assert script.load_checkpoint(final)["step"] == 6 + 2 * 5


def test_steps_per_epoch_that_are_given_stay(config, run, monkeypatch, capsys):
    stopped_after(config, run, monkeypatch, 4)
    final = run(changed(config, resume=True, data={"batch_size": 8}))
    assert "16 crops a step instead of 8: 1.33 of 2 epochs" in capsys.readouterr().out
    assert script.load_checkpoint(final)["step"] == 6


def test_a_finished_training_with_another_batch_stays_finished(config, run):
    config = changed(config, train={"steps_per_epoch": None})
    step = script.load_checkpoint(run(config))["step"]
    final = run(changed(config, resume=True, data={"batch_size": 8}))
    assert script.load_checkpoint(final)["step"] == step
    longer = run(changed(config, resume=True, train={"epochs": 3}))
    assert script.load_checkpoint(longer)["step"] > step


def test_an_equal_resume_says_nothing_of_a_plan(config, run, monkeypatch, capsys):
    stopped_after(config, run, monkeypatch, 4)
    run(changed(config, resume=True))
    assert "instead of" not in capsys.readouterr().out


# --- 22: the log


@pytest.mark.parametrize("workers", [0, 1])
def test_the_log_of_a_resumed_run_is_that_of_an_unbroken_one(
    config, run, tmp_path, monkeypatch, workers
):
    config = changed(config, data={"workers": workers}, train={"log_every": 3, "save_every": 100})
    run(config)
    broken = changed(config, train={"folder": tmp_path / "broken"})
    stopped_after(broken, run, monkeypatch, 2)
    run(changed(broken, resume=True))
    untimed = [
        [{k: v for k, v in line.items() if k not in RATES} for line in lines(c.train.folder)]
        for c in (config, broken)
    ]
    assert untimed[0] == untimed[1]
    assert [line["step"] for line in untimed[0] if "loss" in line] == [3, 6]


RATES = {"crops_per_second", "waiting_for_data"}


# --- 21: settings that contradict


def test_a_training_that_ends_in_its_warm_up_says_so(config, run, capsys):
    run(config)
    assert (
        "it has 6 steps" in (shown := capsys.readouterr().out)
        and "--train.warmup-steps 100" in shown
    )
    run(changed(config, overwrite=True, train={"warmup_steps": 2}))
    assert "warm-up" not in capsys.readouterr().out
