"""Training: resumed equals unbroken, accumulated equals batched, the teacher stays as it is."""

import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import changed, photo, save, tiny_restormer, write_pairs

import main_sharpening_script as script
from sharpening import SharpeningError
from sharpening.image_pairs import add_teacher_results, read_rgb
from sharpening.media_files import MediaError
from sharpening.muon import MuonAndAdam
from sharpening.runtime import bf16_is_faster


def weights(path):
    return script.load_checkpoint(path)["params"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def not_yet_damaged(images, runtime):
    """Test images that are damaged only after the training has looked at them."""


@pytest.fixture
def run(runtime):
    def train(config):
        return script.train(config, runtime)

    return train


def test_a_run_writes_what_readme_promises(config, run):
    final = run(config)
    folder = config.train.folder
    assert final == folder / "student_model_ema_final_epoch_002.pth"
    assert {"last.pth", "best.pth", "metrics.jsonl", "tensorboard"} <= {
        path.name for path in folder.iterdir()
    }
    assert sorted(path.name for path in config.train.samples.iterdir()) == sorted(
        f"{index}{kind}.png" for index in range(3) for kind in ("", "_strip")
    )
    logged = [line for line in lines(folder) if "loss" in line]
    assert [line["step"] for line in logged] == [1, 2, 3, 4, 5, 6]
    assert {"recon", "feature", "kl", "ssim", "frequency", "waiting_for_data"} <= logged[0].keys()
    assert [line["step"] for line in lines(folder) if "test/psnr_restored" in line] == [3, 6]
    assert script.load_student(final).config == config.student


def test_the_shipped_weights_hold_no_projections_and_no_teacher(config, run):
    student = script.SEUNet(config.student).state_dict()
    assert weights(run(config)).keys() == student.keys()


def test_the_average_is_what_is_saved(config, run):
    final = weights(run(config))
    last = script.load_checkpoint(config.train.folder / "last.pth")
    assert same(final, last["ema"])
    assert not same(final, last["params"])


def test_projections_and_student_learn_the_teacher_does_not(config, runtime, run, monkeypatch):
    built, read = [], script.restormer_from_weights

    def note(path):
        built.append(read(path))
        return built[-1]

    monkeypatch.setattr(script, "restormer_from_weights", note)
    run(config)
    before = script.fresh_state(config, built[0], runtime).trainee.state_dict()
    last = script.load_checkpoint(config.train.folder / "last.pth")
    assert not same({k: v for k, v in before.items() if "net." not in k}, last["projections"])
    for name, value in last["projections"].items():
        assert not torch.equal(value, before[f"projections.{name}"]), name
    assert same(read(config.teacher.weights).state_dict(), built[0].state_dict())
    assert all(p.grad is None and not p.requires_grad for p in built[0].parameters())


def test_accumulating_four_times_one_equals_one_times_four(config, runtime):
    """Gradients of the same eight crops, however they are cut into micro-batches."""
    config = changed(config, data={"batch_size": 8}, loss=script.LossConfig(1, 0, 0, 0, 0, 0, 0))
    dataset = script.GoProSharpeningDataset(
        script.split_pairs(config, "train"), config.data, config.train.seed
    )
    blurry, sharp, _ = script.prepare_batch(
        next(script.training_batches(dataset, 0, runtime)), config.degradation, 0, runtime.device
    )
    gradients = []
    for parts in (1, 4):
        trainee = script.fresh_state(config, None, runtime).trainee
        for a, b in zip(blurry.chunk(parts), sharp.chunk(parts), strict=True):
            total, _ = script.distillation_loss(trainee(a)[0], b, config.loss)
            (total / parts).backward()
        gradients.append([p.grad for p in trainee.parameters()])
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-7)


def build_restormer(config):
    return tiny_restormer(seed=config.train.seed)


@pytest.mark.parametrize("build", [script.build_network, build_restormer])
def test_a_training_may_begin_with_given_weights(config, runtime, build):
    config = changed(config, loss={"feature": 0, "kl": 0})
    given = script.train(config, runtime, build)
    begun = changed(config, train={"initial_weights": given, "seed": 5})
    fresh = script.fresh_state(begun, None, runtime, build)
    assert same(fresh.trainee.net.state_dict(), weights(given))


def test_given_weights_are_measured_before_the_first_step(config, run, tmp_path):
    given = tmp_path / "given.pth"
    script.save_checkpoint(given, script.network_payload(script.SEUNet(config.student)))
    run(changed(config, train={"initial_weights": given}))
    tested = [line["step"] for line in lines(config.train.folder) if "test/psnr_restored" in line]
    assert tested == [0, 3, 6]


def test_a_resumed_run_no_longer_needs_its_initial_weights(config, run, tmp_path):
    given = tmp_path / "given.pth"
    script.save_checkpoint(given, script.network_payload(script.SEUNet(config.student)))
    config = changed(config, train={"initial_weights": given, "epochs": 1})
    run(config)
    given.unlink()
    final = run(dataclasses.replace(changed(config, train={"epochs": 2}), resume=True))
    assert script.load_checkpoint(final)["step"] == 6


def test_initial_weights_of_other_sizes_are_named(config, runtime, tmp_path):
    given = tmp_path / "given.pth"
    script.save_checkpoint(given, {"params": {"first.weight": torch.zeros(1)}, "step": 3})
    with pytest.raises(script.SharpeningError, match=r"given.pth does not fit SEUNet"):
        script.fresh_state(changed(config, train={"initial_weights": given}), None, runtime)


@pytest.mark.parametrize(
    ("synthetic", "optimizer"), [(False, "adam"), (True, "adam"), (False, "muon")]
)
def test_interrupted_and_resumed_equals_unbroken(
    config, run, tmp_path, monkeypatch, synthetic, optimizer
):
    monkeypatch.setattr(MuonAndAdam, "NARROWEST", 4)
    config = changed(config, train={"optimizer": optimizer})
    if synthetic:
        for index in range(6):
            (config.data.root / "train" / "blurred" / f"{index}.png").unlink()
        (config.data.root / "train" / "blurred").rmdir()
    unbroken = weights(run(config))
    broken = changed(config, train={"folder": tmp_path / "broken"})
    update = script.update_ema

    def power_cut(*arguments):
        update(*arguments)
        if sum("loss" in line for line in lines(broken.train.folder)) >= 4:
            raise KeyboardInterrupt  # after step 4 was saved, in the middle of step 5

    monkeypatch.setattr(script, "update_ema", power_cut)
    with pytest.raises(KeyboardInterrupt):
        run(broken)
    monkeypatch.setattr(script, "update_ema", update)
    assert script.load_checkpoint(broken.train.folder / "last.pth")["step"] == 4
    resumed = run(changed(broken, resume=True))
    assert same(weights(resumed), unbroken)
    losses = [
        [line["loss"] for line in lines(folder) if "loss" in line]
        for folder in (config.train.folder, broken.train.folder)
    ]
    assert losses[0] == losses[1]


def test_workers_do_not_change_the_result(config, run, tmp_path):
    alone = weights(run(config))
    helped = changed(config, data={"workers": 1}, train={"folder": tmp_path / "helped"})
    assert same(weights(run(helped)), alone)


def test_an_older_training_is_not_overwritten(config, run):
    run(config)
    before = (config.train.folder / "last.pth").read_bytes()
    with pytest.raises(script.SharpeningError, match=r"--resume.*--overwrite"):
        run(config)
    assert (config.train.folder / "last.pth").read_bytes() == before
    run(changed(config, overwrite=True))


def test_a_non_finite_loss_names_its_step_and_keeps_what_was_saved(config, run, monkeypatch):
    loss, calls = script.distillation_loss, []

    def poisoned(*arguments):
        total, terms = loss(*arguments)
        calls.append(total)
        return (total * float("nan") if len(calls) == 7 else total), terms

    monkeypatch.setattr(script, "distillation_loss", poisoned)
    with pytest.raises(script.SharpeningError, match=r"loss is nan at step 4: .*--resume"):
        run(config)
    saved = script.load_checkpoint(config.train.folder / "last.pth")
    assert saved["step"] == 3
    assert all(value.isfinite().all() for value in saved["params"].values())


def test_a_gradient_that_is_not_finite_spoils_nothing(config, run, monkeypatch):
    loss, calls = script.distillation_loss, []

    def poisoned(restored, *arguments):
        total, terms = loss(restored, *arguments)
        calls.append(total)
        root_of_zero = (restored * 0).abs().sqrt().sum()  # 0, with an infinite slope
        return (total + root_of_zero if len(calls) == 7 else total), terms

    monkeypatch.setattr(script, "distillation_loss", poisoned)
    unclipped = changed(config, train={"clip_norm": 0.0})
    with pytest.raises(script.SharpeningError, match="gradient is nan at step 4: "):
        run(unclipped)
    saved = script.load_checkpoint(config.train.folder / "last.pth")
    assert saved["step"] == 3
    for weights in (saved["params"], saved["ema"]):
        assert all(value.isfinite().all() for value in weights.values())


def test_a_damaged_training_image_is_named_before_anything_is_written(config, run):
    path = config.data.root / "train" / "sharp" / "2.png"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(MediaError, match=r"sharp.2\.png"):
        run(config)
    assert not (config.train.folder / "last.pth").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_damaged_image_met_by_a_worker_is_named_and_loses_nothing(
    config, run, monkeypatch, split
):
    monkeypatch.setattr(script.EvaluationImages, "check", not_yet_damaged)
    path = config.data.root / split / "sharp" / "2.png"
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(script.SharpeningError, match=r"sharp.2\.png") as caught:
        run(changed(config, data={"workers": 1, "cache_gb": 0}))
    assert "Traceback" not in str(caught.value)
    if split == "test":  # met by the evaluation after the first epoch
        assert script.load_checkpoint(config.train.folder / "last.pth")["step"] == 3


def test_an_evaluation_that_failed_is_made_up_for(config, run, tmp_path, monkeypatch):
    monkeypatch.setattr(script.EvaluationImages, "check", not_yet_damaged)
    unbroken = weights(run(config))
    broken = changed(config, train={"folder": tmp_path / "broken"})
    path = config.data.root / "test" / "sharp" / "2.png"
    whole = path.read_bytes()
    for damage in range(2):  # at the evaluation of step 3, then at that of step 6
        path.write_bytes(whole[:900])
        with pytest.raises(script.SharpeningError, match=r"sharp.2\.png"):
            run(changed(broken, resume=damage > 0, train={"epochs": 1 + damage}))
        path.write_bytes(whole)
        final = run(changed(broken, resume=True, train={"epochs": 1 + damage}))
    assert same(weights(final), unbroken)
    tested = [line["step"] for line in lines(broken.train.folder) if "test/psnr_restored" in line]
    assert tested == [3, 6]
    assert (broken.train.folder / "best.pth").is_file()


def test_a_reader_that_is_killed_is_an_error_that_ends_the_process(config, tmp_path):
    """As by Linux when memory is full: the other worker ignores signals and must end too."""
    flags = ["--train.steps-per-epoch", "100000", "--data.batch-size", 4, "--data.workers", 2]
    call = command(config, tmp_path, *flags, "--train.folder", tmp_path / "killed")
    process = subprocess.Popen(
        [sys.executable, *call], stderr=subprocess.PIPE, text=True, env=environment()
    )
    try:
        log = tmp_path / "killed" / "metrics.jsonl"
        while not (log.is_file() and '"loss"' in log.read_text()):  # the first step imports a lot
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        shown = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 1
    assert "error: a process that reads images ended" in shown
    assert "Traceback" not in shown


def test_switching_the_feature_term_at_resume_is_refused(config, run):
    run(config)
    with pytest.raises(script.SharpeningError, match="trained with the feature term"):
        run(changed(config, resume=True, loss={"feature": 0}))


def test_switching_the_optimizer_at_resume_is_refused(config, run):
    run(config)
    with pytest.raises(script.SharpeningError, match="another optimizer.*--train.initial-weights"):
        run(changed(config, resume=True, train={"optimizer": "muon"}))


def test_resuming_goes_on_with_the_log(config, run):
    run(config)
    log = config.train.folder / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 6, "lo')  # as a power cut leaves it
    run(changed(config, resume=True, train={"epochs": 3}))
    steps = [line["step"] for line in lines(config.train.folder) if "loss" in line]
    assert steps == list(range(1, 10))


def test_missing_teacher_weights_say_where_to_get_them(config, run, tmp_path):
    missing = changed(config, teacher={"weights": tmp_path / "absent.pth"})
    with pytest.raises(script.SharpeningError, match=r"absent\.pth.*releases.*--demo"):
        run(missing)


def test_resuming_another_architecture_is_refused(config, run):
    run(config)
    other = changed(config, resume=True, student={"width": 8})
    with pytest.raises(script.SharpeningError, match=r"last\.pth does not fit"):
        run(other)


class OneConvolution(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.only = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, blurry):
        return blurry + self.only(blurry)


def test_what_is_handed_in_is_trained_and_is_what_the_final_checkpoint_holds(config, runtime):
    given, built = [], []

    def build(config):
        given.append(config)
        built.append(OneConvolution())
        return built[-1]

    alone = changed(config, loss=config.loss.without_teacher(), teacher={"enabled": False})
    final = script.load_checkpoint(script.train(alone, runtime, build))
    assert given == [alone]
    torch.manual_seed(config.train.seed)
    assert not same(built[0].state_dict(), OneConvolution().state_dict())
    last = script.load_checkpoint(config.train.folder / "last.pth")
    assert same(last["params"], built[0].state_dict())
    assert same(final["params"], last["ema"]) and "student" not in final
    resumed = changed(alone, resume=True, train={"epochs": 3})
    assert script.load_checkpoint(script.train(resumed, runtime, build))["step"] == 9


def test_a_restormer_trains_from_scratch_and_then_teaches(config, runtime, run, tmp_path):
    scratch = changed(config, loss=config.loss.without_teacher())
    path = script.train(scratch, runtime, build_restormer)
    assert same(script.restormer_from_weights(path).state_dict(), weights(path))
    assert not same(build_restormer(scratch).state_dict(), weights(path))
    run(
        changed(
            config, teacher={"weights": path}, train={"folder": tmp_path / "taught", "epochs": 1}
        )
    )


def test_training_lowers_the_loss(config, run):
    run(changed(config, train={"epochs": 12, "log_every": 6, "evaluate_every": 12}))
    losses = [line["recon"] for line in lines(config.train.folder) if "recon" in line]
    assert losses[-1] < losses[0]


def test_fewer_steps_than_an_epoch_and_plan(config):
    def length(config, processes):
        plan = script.make_plan(config, 6, processes)
        return plan.per_epoch, plan.steps

    assert length(config, 1) == (3, 6)
    free = changed(config, train={"steps_per_epoch": None})
    assert length(free, 1) == (2, 4)  # 6 images x 2 crops / (4 crops x 2 micro)
    assert length(free, 2) == (1, 2)


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


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(config, tmp_path, kind):
    folder = tmp_path / "stopped"
    flags = ["--train.folder", folder, "--train.steps-per-epoch", "100000", "--data.batch-size", 4]
    process = subprocess.Popen(
        [sys.executable, *command(config, tmp_path, *flags)],
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    deadline = time.monotonic() + 600  # as below, only against hanging
    try:
        while not (folder / "metrics.jsonl").is_file() or len(lines(folder)) < 3:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, kind)  # as a terminal does: the loader's workers get it too
        shown, _ = process.communicate(timeout=600)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 128 + kind
    assert "--resume" in shown
    assert script.load_checkpoint(folder / "last.pth")["step"] >= 3


def test_two_processes_give_the_losses_of_one(config, tmp_path):
    """The same global batch in this process and, by torchrun and gloo, in two."""
    common = ["--train.epochs", 1, "--train.steps-per-epoch", 3, "--train.accumulation", 2]
    one, two = (
        command(config, tmp_path, *common, "--data.batch-size", size, "--train.folder", folder)
        for size, folder in ((8, tmp_path / "one"), (4, tmp_path / "two"))
    )
    assert script.main(one[1:]) == 0
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [sys.executable, *torchrun, *two],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        for term in set(a) - {"crops_per_second", "waiting_for_data"}:
            assert a[term] == pytest.approx(b[term], rel=1e-5), (term, a["step"])


def test_ema_network_is_not_the_trained_one(config, runtime):
    state = script.fresh_state(config, None, runtime)
    assert same(state.ema.state_dict(), copy.deepcopy(state.trainee.net).state_dict())
    assert not any(p.requires_grad for p in state.ema.parameters())
    assert state.ema is not state.trainee.net


# --- a teacher's results


@pytest.fixture
def with_results(config, tmp_path):
    """Results of a program that inverts, and no teacher that could be read."""
    for pair in script.split_pairs(config, "train"):
        save(tmp_path / "taught" / f"{pair.name}.png", 255 - read_rgb(pair.blurry))
    teacher = {"results": tmp_path / "taught", "weights": tmp_path / "absent.pth"}
    return changed(config, loss={"feature": 0}, teacher=teacher)


def test_results_are_cropped_flipped_and_turned_like_their_images(with_results):
    pairs = script.split_pairs(with_results, "train")
    stored = add_teacher_results(pairs, with_results.teacher.results, 0.5)
    dataset = script.GoProSharpeningDataset(stored, with_results.data, seed=3)
    plain = script.GoProSharpeningDataset(pairs, with_results.data, seed=3)
    for draw in range(40):
        blurry, sharp, taught, blur_seeds = dataset[draw]
        assert torch.equal(taught, 255 - blurry) and not torch.equal(taught, sharp)
        for one, other in zip((blurry, sharp, blur_seeds), plain[draw], strict=True):
            assert torch.equal(one, other)


def test_a_run_learns_from_stored_results_and_needs_no_teacher(with_results, run):
    """Its KL term is that of the files: others give other weights, the same ones the same."""
    again, other = (
        changed(with_results, train={"folder": with_results.train.folder.with_name(name)})
        for name in ("again", "other")
    )
    run(with_results)
    run(again)
    for path in sorted(with_results.teacher.results.glob("*.png"))[:3]:
        save(path, 255 - read_rgb(path))
    run(other)
    first, same_files, other_files = (
        weights(each.train.folder / "last.pth") for each in (with_results, again, other)
    )
    assert same(first, same_files) and not same(first, other_files)
    assert all("kl" in line for line in lines(again.train.folder) if "loss" in line)


def test_a_run_with_results_that_do_not_fit_is_refused_before_anything_is_written(
    with_results, run
):
    (with_results.teacher.results / "3.png").unlink()
    with pytest.raises(script.SharpeningError, match="taught has no results for 1 .*such as 3: "):
        run(with_results)
    assert not with_results.train.folder.exists()


# --- stopping, and going on with another plan


def evaluated_steps(folder):
    return [line["step"] for line in lines(folder) if "test/psnr_restored" in line]


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


def stuck_at(number):
    """A loader whose batch of this number never comes, and a signal meanwhile."""

    def load(*given):
        for index, batch in enumerate(script.training_batches(*given)):
            if index == number:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(60)
            yield batch

    return load


def test_a_signal_while_a_batch_does_not_come_saves_the_last_whole_step(
    config, run, runtime, tmp_path, capsys
):
    config = changed(config, train={"save_every": 100, "log_every": 6})
    unbroken = weights(run(config))
    broken = changed(config, train={"folder": tmp_path / "broken"})
    start = time.monotonic()
    with pytest.raises(SystemExit) as stopped:
        script.train(broken, runtime, load=stuck_at(3))  # the second of step 2
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


@pytest.mark.slow
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


def test_a_training_that_ends_in_its_warm_up_says_so(config, run, capsys):
    run(config)
    assert (
        "it has 6 steps" in (shown := capsys.readouterr().out)
        and "--train.warmup-steps 100" in shown
    )
    run(changed(config, overwrite=True, train={"warmup_steps": 2}))
    assert "warm-up" not in capsys.readouterr().out


def test_initial_weights_of_other_sizes_name_the_flags(config, runtime, tmp_path):
    given = tmp_path / "given.pth"
    other = script.SEUNet(dataclasses.replace(config.student, width=8, max_width=16))
    script.save_checkpoint(given, script.network_payload(other))
    begun = changed(config, train={"initial_weights": given})
    with pytest.raises(SharpeningError, match=r"given\.pth does not fit.*--size and --student"):
        script.fresh_state(begun, None, runtime)


def test_a_resumed_run_keeps_the_precision_that_auto_chose(config, tmp_path):
    short = ["--train.folder", config.train.folder, "--train.epochs", "1"]
    short += ["--train.steps-per-epoch", "1", "--train.precision", "auto"]
    assert script.main(command(config, tmp_path, *short)[1:]) == 0
    stored = script.load_checkpoint(config.train.folder / "last.pth")["config"]["train"]
    assert stored["precision"] == ("bf16" if bf16_is_faster() else "fp32")
