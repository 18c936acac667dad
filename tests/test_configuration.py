"""Configuration: the command line reaches every field, and impossible settings are refused."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import changed, write_pairs

import main_sharpening_script as script
from sharpening import command_line, settings


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
        script.read_config(["--help-all"])
    shown = capsys.readouterr().out
    defaults = script.Config()
    groups = [(f.name, getattr(defaults, f.name)) for f in dataclasses.fields(defaults)]
    groups = [(name, value) for name, value in groups if dataclasses.is_dataclass(value)]
    for prefix, group in [("", defaults), *((f"{name}.", value) for name, value in groups)]:
        told = command_line.field_texts(type(group))
        for field in dataclasses.fields(group):
            if field.name in dict(groups):
                continue
            name = f"{prefix}{field.name}".replace("_", "-")
            flags = f"--({re.escape(name)}|{re.escape(prefix)}no-{field.name})(?![\\w.-])"
            assert re.search(flags, shown), name
            assert field.name in told, f"{name} is not explained"


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
        (["--compare"], "--compare is for --infer"),
        (["--demo", "--preset", "published"], "at most one of --demo, --config and --preset"),
        (["--resume", "--config", "a.json"], "leave out --config"),
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
        script.LossConfig(**dict.fromkeys(script.LOSS_TERMS, 0))


def help_of(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as stopped:
        script.read_config(arguments)
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_help_shows_modes_and_what_people_use(capsys):
    shown = help_of(["--help"], capsys)
    assert len(shown.splitlines()) < 60 and max(map(len, shown.splitlines())) <= 100
    assert len(command_line.USUAL) == 20
    texts = command_line.field_texts(script.TrainConfig)
    assert f"{texts['epochs'].removesuffix('.')} (50)." in shown
    assert "--teacher.no-enabled" in shown and "--help-all" in shown


def test_help_of_infer_is_about_files_alone(capsys):
    shown = help_of(["--infer", "--help"], capsys)
    assert len(shown.splitlines()) < 50
    for field in dataclasses.fields(script.InferenceConfig):
        name = field.name.replace("_", "-")
        assert f"--inference.{'no-' if field.default is True else ''}{name}" in shown
    assert "--train.epochs" not in shown and "--strength" in shown


def test_an_unknown_flag_suggests_the_nearest(capsys):
    with pytest.raises(SystemExit) as stopped:
        script.read_config(["--tain.epochs", "3"])
    assert stopped.value.code == 2
    assert "--train.epochs" in "".join(capsys.readouterr())


def test_a_path_after_infer_is_the_input():
    config = script.read_config(["--infer", "../folder", "--strength", "0.5"])
    assert (config.input, config.strength) == (Path("../folder"), 0.5)
    with pytest.raises(script.SharpeningError, match="not 2: put them into a folder"):
        script.read_config(["--infer", "a.jpg", "b.jpg", "--output", "sharp"])


def test_settings_go_into_a_file_and_come_back(tmp_path, config):
    several = changed(config, data={"root": (tmp_path, tmp_path / "b"), "shares": (0.7, 0.3)})
    for index, each in enumerate((config, several, script.DEMO)):
        path = tmp_path / f"{index}.json"
        settings.write_settings(path, each)
        back = settings.read_settings(script.Config, path)
        assert back == dataclasses.replace(each, overwrite=False)
    assert json.loads((tmp_path / "0.json").read_text())["train"]["epochs"] == 2
    again = script.read_config(["--config", str(tmp_path / "1.json"), "--train.epochs", "9"])
    assert (again.data, again.train.epochs) == (several.data, 9)
    assert again.loss == several.loss


def test_a_file_that_holds_no_settings_is_refused(tmp_path):
    path = tmp_path / "config.json"
    for text, reason in (("{", "no file of settings"), ('{"tran": {}}', "has no setting tran")):
        path.write_text(text)
        with pytest.raises(script.SharpeningError, match=reason):
            script.read_config(["--config", str(path)])
    with pytest.raises(script.SharpeningError, match="check --config"):
        script.read_config(["--config", str(tmp_path / "none.json")])


def test_the_published_settings_are_a_preset():
    published = script.read_config(["--preset", "published", "--train.epochs", "3"])
    assert (published.loss.feature, published.loss.frequency) == (1, 0)
    assert (published.train.epochs, published.train.optimizer) == (3, "adam")


def test_a_folder_of_pairs_is_cut_into_training_and_test(tmp_path, capsys):
    write_pairs(tmp_path, 8)
    config = script.read_config(["--data.root", str(tmp_path), "--data.test-share", "0.25"])
    parts = [script.split_pairs(config, split) for split in ("train", "test")]
    assert [[pair.name for pair in part] for part in parts] == [list("012345"), list("67")]
    assert "no train/ and test/: 6 of 8 images are for train" in capsys.readouterr().out


def test_several_roots_are_drawn_by_their_shares(tmp_path):
    for name, count in (("a", 3), ("b", 9)):
        write_pairs(tmp_path / name / "train", count)
        write_pairs(tmp_path / name / "test", 1)
    flags = ["--data.root", str(tmp_path / "a"), str(tmp_path / "b"), "--data.shares", "0.7", "0.3"]
    config = script.read_config([*flags, "--data.cache-gb", "0"])
    pairs = script.split_pairs(config, "train")
    assert [pair.name for pair in pairs[:4]] == ["0_a/0", "0_a/1", "0_a/2", "1_b/0"]
    dataset = script.GoProSharpeningDataset(pairs, config.data, 0)
    drawn = [dataset.pair(draw).root for draw in range(2000)]
    assert drawn.count(0) / 2000 == pytest.approx(0.7, abs=0.04)
    plain = script.GoProSharpeningDataset(pairs, script.DataConfig(cache_gb=0), 0)
    assert sum(plain.pair(draw).root == 0 for draw in range(1200)) == 300
    wrong = script.read_config([*flags, "0.5"])
    with pytest.raises(script.SharpeningError, match="for each of the 2 folders"):
        script.split_pairs(wrong, "train")


def test_a_run_leaves_its_settings_for_another(config, runtime):
    short = changed(config, train={"epochs": 1, "steps_per_epoch": 1})
    script.train(short, runtime)
    path = config.train.folder / "config.json"
    again = script.read_config(["--config", str(path), "--train.folder", "elsewhere"])
    expected = changed(short, train={"folder": Path("elsewhere")})
    assert again == dataclasses.replace(expected, config=path)


def test_a_lowest_rate_above_the_highest_is_refused():
    with pytest.raises(ValueError, match="lowest_rate .* must not exceed train.learning_rate"):
        script.TrainConfig(learning_rate=1e-6, lowest_rate=1e-5)
