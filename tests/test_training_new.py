"""Training that meets trouble. (Goes into the files of the sections.)"""

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import traceback

import numpy as np
import pytest
import torch
from conftest import changed, photo, save, write_pairs

import main_sharpening_script as script
from sharpening import SharpeningError
from sharpening.runtime import Stopped, StopSignal
from sharpening.settings import to_dict


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


# --- test_checkpoints: checkpoints of others


def nested(path, value):
    for name in reversed(path):
        value = {name: value}
    return value


@pytest.mark.parametrize(
    ("entries", "prefix"),
    [
        (["model"], ""),
        (["net"], ""),
        (["generator"], ""),
        (["model_state_dict"], ""),
        (["state_dict"], "net."),
        (["params"], "_orig_mod."),
        (["params"], "module.module."),
        (["params"], "module._orig_mod."),
        (["model", "state_dict"], "module.generator."),
        ([], "model.net."),
        (["params_ema"], ""),
    ],
)
def test_weights_of_other_training_scripts_are_found(teacher_file, tmp_path, entries, prefix):
    weights = script.load_checkpoint(teacher_file)["params"]
    other = {f"{prefix}{name}": value for name, value in weights.items()}
    payload = nested(entries, other)
    path = tmp_path / "other.pth"
    torch.save(payload | {"epoch": 3, "optimizer": {"state": {0: torch.zeros(2)}}}, path)
    assert same(script.restormer_from_weights(path).state_dict(), weights)


def test_what_an_average_and_a_lightning_module_save_beside_the_weights_is_left_out(
    config, runtime, tmp_path
):
    student = script.SEUNet(config.student)
    weights = student.state_dict()
    average = torch.optim.swa_utils.AveragedModel(student).state_dict()
    assert "n_averaged" in average
    lightning = {f"net.{name}": value for name, value in weights.items()}
    lightning |= {"vgg.0.weight": torch.ones(3), "loss.scale": torch.ones(1)}
    for payload in ({"model": average}, {"state_dict": lightning}):
        torch.save(payload, tmp_path / "given.pth")
        begun = changed(config, train={"initial_weights": tmp_path / "given.pth"})
        assert same(script.fresh_state(begun, None, runtime).trainee.net.state_dict(), weights)


def test_a_network_whose_own_names_look_wrapped_keeps_them(tmp_path):
    class Peer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = torch.nn.Conv2d(3, 3, 1)

    one, other = Peer(), Peer()
    for prefix in ("", "module."):
        weights = {f"{prefix}{name}": value for name, value in one.state_dict().items()}
        script.load_strictly(other, weights, tmp_path / "peer.pth")
        assert same(other.state_dict(), one.state_dict())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"best": np.float64(31.5)}, "scalar"),
        ({"hyper_parameters": argparse.Namespace(width=3)}, "argparse.Namespace"),
    ],
)
def test_a_file_with_more_than_weights_is_not_called_cut_short(tmp_path, more, named, zipped):
    path = tmp_path / "more.pth"
    weights = {"state_dict": {"a": torch.zeros(2)}}
    torch.save(weights | more, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(SharpeningError, match=rf"more\.pth .*{named}.*save the weights") as caught:
        script.load_checkpoint(path)
    assert "cut short" not in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value))
    assert "weights_only" not in shown.replace("weights_only=True)", "")
    assert "likely succeed" not in shown


@pytest.mark.parametrize("channels", [1, 6])
def test_a_teacher_for_other_channels_is_named(teacher_file, tmp_path, channels):
    weights = script.load_checkpoint(teacher_file)["params"]
    first = "patch_embed.proj.weight"
    weights[first] = torch.zeros(len(weights[first]), channels, 3, 3)
    torch.save({"params": weights}, tmp_path / "grey.pth")
    wanted = rf"grey\.pth .*{channels} channels.*have 3.*--teacher\.weights"
    with pytest.raises(SharpeningError, match=wanted):
        script.restormer_from_weights(tmp_path / "grey.pth")


def test_initial_weights_of_other_sizes_name_the_flags(config, runtime, tmp_path):
    given = tmp_path / "given.pth"
    other = script.SEUNet(dataclasses.replace(config.student, width=8, max_width=16))
    script.save_checkpoint(given, script.network_payload(other))
    begun = changed(config, train={"initial_weights": given})
    with pytest.raises(SharpeningError, match=r"given\.pth does not fit.*--size and --student"):
        script.fresh_state(begun, None, runtime)


# --- test_configuration


def test_a_lowest_rate_above_the_highest_is_refused():
    with pytest.raises(ValueError, match="lowest_rate .* must not exceed train.learning_rate"):
        script.TrainConfig(learning_rate=1e-6, lowest_rate=1e-5)


def evaluated_config(*flags):
    return script.read_config(["--evaluate", *map(str, flags)])


@pytest.mark.parametrize("name", ["best.pth", "last.pth", "student_model_ema_final_epoch_002.pth"])
def test_an_evaluation_takes_the_test_images_of_the_run(config, run, tmp_path, capsys, name):
    for split in ("train", "test"):
        (config.data.root / split / "blurred").rename(config.data.root / split / "soft")
    config = changed(config, data={"blurred_names": ("soft",)}, degradation={"motion": 0.5})
    run(config)
    capsys.readouterr()
    used = evaluated_config("--checkpoint", config.train.folder / name)
    shown = capsys.readouterr().out
    assert used.data.root == config.data.root and used.data.blurred_names == ("soft",)
    assert used.degradation == config.degradation
    assert name in shown and f"data.root {config.data.root}" in shown
    assert "degradation.motion 0.5" in shown and "from flags: none" in shown
    used = evaluated_config("--train.folder", config.train.folder, "--data.root", tmp_path)
    assert used.data.root == tmp_path and used.data.blurred_names == ("soft",)
    assert f"from flags: data.root {tmp_path}" in capsys.readouterr().out


def test_a_run_of_the_demo_is_evaluated_on_the_demo(config, tmp_path):
    demo = dataclasses.replace(config, demo=True)
    payload = script.network_payload(script.SEUNet(config.student), config=to_dict(demo))
    script.save_checkpoint(tmp_path / "demo.pth", payload)
    assert evaluated_config("--checkpoint", tmp_path / "demo.pth").demo


def test_a_checkpoint_without_settings_is_evaluated_by_the_flags(config, tmp_path, capsys):
    path = tmp_path / "student.pth"
    script.save_checkpoint(path, script.network_payload(script.SEUNet(config.student)))
    used = evaluated_config("--checkpoint", path, "--degradation.motion", 0.25)
    assert used.data == script.DataConfig() and used.degradation.motion == 0.25
    shown = capsys.readouterr().out
    assert "student.pth: none; from flags: degradation.motion 0.25" in shown


def test_evaluate_measures_what_the_training_logged(config, run, runtime, capsys):
    """The test images are the blurred ones of the run, not sharp ones blurred synthetically."""
    run(config)
    best = config.train.folder / "best.pth"
    used = evaluated_config("--checkpoint", best, "--train.samples", config.train.samples)
    used = changed(used, inference={"backend": "pytorch"})
    images = script.EvaluationImages(script.split_pairs(used, "test"), used.degradation)
    sharpen = script.Sharpener(script.load_student(best), runtime, used.inference)
    result = script.evaluate_quality({"restored": sharpen}, images, runtime)
    logged = [
        line["test/psnr_restored"] for line in lines(config.train.folder) if "test/images" in line
    ]
    assert result["psnr_restored"] == pytest.approx(max(logged), abs=1e-9)


# --- test_evaluation


def test_images_that_are_not_blurred_are_counted_apart(config, runtime, capsys):
    folder = config.data.root / "test"
    images = script.EvaluationImages(script.split_pairs(config, "test"), config.degradation)
    sharpen = script.Sharpener(Darken(), runtime, script.InferenceConfig(backend="pytorch"))
    before = script.evaluate_quality({"darken": sharpen}, images, runtime)
    assert (before["images"], before["not_blurred"]) == (3, 0)
    for index in (7, 8):
        for side in ("sharp", "blurred"):
            save(folder / side / f"{index}.png", photo(40, 48, index))
    images = script.EvaluationImages(script.split_pairs(config, "test"), config.degradation)
    after = script.evaluate_quality({"darken": sharpen}, images, runtime)
    assert (after["images"], after["not_blurred"]) == (5, 2)
    for name in ("psnr_blurry", "psnr_darken", "ssim_darken", "worse_darken"):
        assert after[name] == pytest.approx(before[name])
    script.print_table(after, ("blurry", "darken"))
    assert "without 2 that are not blurred" in capsys.readouterr().out


def test_a_test_set_without_blur_cannot_be_measured(config, runtime):
    folder = config.data.root / "test"
    for path in (folder / "sharp").iterdir():
        (folder / "blurred" / path.name).write_bytes(path.read_bytes())
    images = script.EvaluationImages(script.split_pairs(config, "test"), config.degradation)
    with pytest.raises(SharpeningError, match="equals its blurred one"):
        script.evaluate_quality({}, images, runtime)


class Darken(torch.nn.Module):
    def forward(self, x):
        return x * 0.9
