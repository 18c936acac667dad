"""Configuration: the command line reaches every field, and impossible settings are refused."""

import ast
import dataclasses
import inspect
import itertools
import math
import re
import subprocess
import sys

import pytest
import torch

import main_sharpening_script as script
from sharpening import settings


def test_importing_does_nothing():
    code = (
        "import sys, random, torch; sys.argv = ['x', '--nonsense']; torch.manual_seed(5);"
        "a = torch.get_rng_state().sum(); import main_sharpening_script;"
        "assert torch.get_rng_state().sum() == a and not torch.cuda.is_initialized()"
    )
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, cwd=script.HERE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_field_has_a_flag_and_a_help_text(capsys, monkeypatch):
    monkeypatch.setattr(script, "__doc__", "")  # it names flags too
    with pytest.raises(SystemExit):
        script.read_config(["--help"])
    shown = capsys.readouterr().out
    defaults = script.Config()
    groups = [(f.name, getattr(defaults, f.name)) for f in dataclasses.fields(defaults)]
    groups = [(name, value) for name, value in groups if dataclasses.is_dataclass(value)]
    for prefix, group in [("", defaults), *((f"{name}.", value) for name, value in groups)]:
        told = set().union(*map(documented_fields, type(group).__mro__[:-1]))
        for field in dataclasses.fields(group):
            if field.name in dict(groups):
                continue
            name = f"{prefix}{field.name}".replace("_", "-")
            flags = f"--({re.escape(name)}|{re.escape(prefix)}no-{field.name})(?![\\w.-])"
            assert re.search(flags, shown), name
            assert field.name in told, f"{name} is not explained"


def documented_fields(cls: type) -> set[str]:
    """The fields of a dataclass with a string under them."""
    lines = ast.parse(inspect.getsource(cls)).body[0].body
    return {
        above.target.id
        for above, below in itertools.pairwise(lines)
        if isinstance(above, ast.AnnAssign)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
    }


def test_flags_reach_nested_fields():
    config = script.read_config(["--train.epochs", "3", "--loss.kl", "0", "--data.root", "here"])
    assert (config.train.epochs, config.loss.kl, config.data.root.name) == (3, 0.0, "here")


def test_demo_changes_defaults_and_flags_still_count():
    config = script.read_config(["--demo", "--train.epochs", "2"])
    assert config.demo
    assert config.train.epochs == 2
    assert config.train.folder.name == "demo"
    assert config.loss.perceptual == 0


def test_resume_takes_the_saved_settings_and_flags_still_count(config):
    saved = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=9))
    last = config.train.folder / "last.pth"
    script.save_checkpoint(last, {"config": settings.to_dict(saved)})
    flags = ["--resume", "--train.folder", str(config.train.folder), "--train.epochs", "7"]
    resumed = script.read_config(flags)
    assert resumed.resume
    assert (resumed.train.seed, resumed.train.epochs) == (9, 7)
    assert resumed.data == config.data


def test_a_copied_run_goes_on_where_it_lies(config, tmp_path):
    copied = tmp_path / "copied"
    script.save_checkpoint(copied / "last.pth", {"config": settings.to_dict(config)})
    resumed = script.read_config(["--resume", "--train.folder", str(copied)])
    assert resumed.train.folder == copied


def test_a_size_sets_the_student_and_flags_still_count():
    live = script.STUDENT_SIZES["live"]
    assert script.read_config(["--size", "live"]).student == live
    wider = script.read_config(["--demo", "--size", "live", "--student.width", "24"])
    assert wider.student == dataclasses.replace(live, width=24)
    assert wider.demo


def test_initial_weights_bring_their_sizes(tmp_path):
    live = script.STUDENT_SIZES["live"]
    path = tmp_path / "student.pth"
    script.save_checkpoint(path, script.network_payload(script.SEUNet(live)))
    config = script.read_config(["--train.initial-weights", str(path), "--train.epochs", "2"])
    assert config.student == live
    assert (config.train.initial_weights, config.train.epochs) == (path, 2)


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--data.crop", "100"], "multiple of 16"),
        (["--data.batch-size", "3"], "multiple of"),
        (["--data.synthetic-share", "2"], "data.synthetic_share must be from 0 to 1: 2"),
        (["--loss.recon", "-1"], "loss.recon must be at least 0: -1"),
        (["--train.epochs", "0"], "train.epochs must be at least 1: 0"),
        (["--train.ema-decay", "1"], "ema_decay"),
        (["--inference.tile", "64"], "twice the overlap"),
        (["--teacher.no-enabled", "--loss.kl", "0.1"], "impossible, use: --loss.kl 0"),
        (["--demo", "--teacher.no-enabled", "--loss.feature", "1"], "use: --loss.feature 0"),
        (["--teacher.results", "taught"], "--loss.feature 0"),
        (["--train.log-every", "0"], "at least 1"),
        (["--train.steps-per-epoch", "-1"], "at least 1"),
        (["--data.batch-size", "0"], "data.batch_size must be at least 1: 0"),
        (["--student.pool-window", "0"], "at least 1"),
        (["--inference.overlap", "600"], "twice the overlap"),
        (["--device", "gpu"], "cuda"),
        (["--evaluate", "--infer"], "at most one"),
        (["--inference.tile", "0"], "inference.tile must be at least 1: 0"),
        (["--train.clip-norm", "-1"], "train.clip_norm must be at least 0: -1"),
        (["--train.seed", "-1"], "train.seed must be at least 0: -1"),
        (["--train.cycle-growth", "-1"], "train.cycle_growth must be at least"),
        (["--data.workers", "-1"], "data.workers must be at least 0: -1"),
        (["--student.width", "0"], "at least 1"),
        (["--input", "photo.jpg"], "--input is for --infer"),
        (["--demo", "--output", "here"], "--output is for --infer"),
        (["--resume", "--train.initial-weights", "a.pth"], "leave out --train.initial-weights"),
        (["--checkpoint", "a.pth"], "--checkpoint is for --infer or --evaluate"),
        (["--infer", "--teacher-too"], "--teacher-too is for --evaluate"),
        (["--evaluate", "--size", "live"], "--size is for training or --infer"),
        (["--strength", "0.5"], "--strength is for --infer"),
        (["--infer", "--strength", "1.5"], "strength must be from 0 to 1: 1.5"),
    ],
)
def test_impossible_settings_say_why(flags, reason, capsys):
    status = None
    try:
        status = script.main(flags)
    except SystemExit as stopped:
        status = stopped.code
    assert status not in (0, None)
    shown = capsys.readouterr()
    text = " ".join((shown.out + shown.err).replace("│", " ").split())
    assert reason in text
    assert "Traceback" not in text


def test_a_folder_that_cannot_be_made_is_one_line(config, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    flags = ["--demo", "--train.folder", str(tmp_path / "file" / "run")]
    assert script.main(flags) == 1
    shown = capsys.readouterr().err
    assert "file" in shown
    assert "Traceback" not in shown


def test_ctrl_c_is_no_traceback(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(script, "evaluate", interrupted)
    assert script.main(["--evaluate", "--device", "cpu"]) == 130
    assert capsys.readouterr().err == "stopped\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_an_error_with_advice(capsys):
    assert script.main(["--device", "cuda", "--infer"]) == 1
    assert "--device cpu" in capsys.readouterr().err


@pytest.mark.parametrize("group", script.LIMITS)
def test_every_limit_holds_and_names_its_setting(group):
    default = getattr(script.Config(), group)
    for name, (low, high) in script.LIMITS[group].items():
        value = getattr(default, name)
        for beyond in (low - 1, high + 1)[: 1 if high == math.inf else 2]:
            wrong = (beyond,) * len(value) if isinstance(value, tuple) else beyond
            with pytest.raises(ValueError, match=f"{group}.{name} must be"):
                dataclasses.replace(default, **{name: wrong})


def test_without_a_teacher_its_terms_are_left_out_and_one_line_says_so(capsys):
    config = script.read_config(["--teacher.no-enabled", "--loss.ssim", "3"])
    assert capsys.readouterr().out.splitlines() == [
        "without a teacher: no loss terms perceptual, feature, kl"
    ]
    usual = script.LossConfig(ssim=3.0)
    assert config.loss == dataclasses.replace(usual, perceptual=0.0, feature=0.0, kl=0.0)
    assert config.loss == usual.without_teacher() and config.loss.teacher_terms == []
    assert not config.teacher.enabled
    assert script.read_config(["--demo", "--teacher.no-enabled"]).loss.teacher_terms == []
    assert capsys.readouterr().out == "without a teacher: no loss terms feature, kl\n"


def test_a_config_without_a_teacher_may_not_ask_for_its_terms():
    alone = script.TeacherConfig(enabled=False)
    with pytest.raises(ValueError, match="--loss.perceptual 0 --loss.feature 0 --loss.kl 0"):
        script.Config(teacher=alone)
    script.Config(teacher=alone, loss=script.LossConfig().without_teacher())


def test_stored_results_ask_for_what_goes_with_them(tmp_path):
    stored = script.TeacherConfig(results=tmp_path)
    images = script.LossConfig(feature=0)
    with pytest.raises(ValueError, match="--loss.feature 0"):
        script.Config(teacher=stored)
    with pytest.raises(ValueError, match="--data.reduction-chance 0"):
        script.Config(teacher=stored, loss=images, data=script.DataConfig(reduction_chance=0.5))
    script.Config(teacher=stored, loss=images)


def test_all_weights_zero_is_refused():
    with pytest.raises(ValueError, match="nothing would be trained"):
        script.LossConfig(0, 0, 0, 0, 0, 0)


def test_a_lowest_rate_above_the_highest_is_refused():
    with pytest.raises(ValueError, match="lowest_rate .* must not exceed train.learning_rate"):
        script.TrainConfig(learning_rate=1e-6, lowest_rate=1e-5)
