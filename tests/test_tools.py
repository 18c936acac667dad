"""The small tools: each runs on tiny input, ends with its JSON line, and tells bad input apart."""

import dataclasses
import json

import pytest
import torch
from conftest import TINY_STUDENT, changed, tiny_restormer, write_pairs

import main_sharpening_script as script
from tools import ablation, benchmark, candidates, pareto, pipeline_rate, train_peer
from tools import validation_table as validation


@pytest.fixture
def student_file(tmp_path):
    torch.manual_seed(0)
    student = script.SEUNet(TINY_STUDENT)
    torch.nn.init.normal_(student.last.weight, std=0.01)
    path = tmp_path / "student.pth"
    script.save_checkpoint(path, script.network_payload(student))
    return path


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


class Scale(torch.nn.Module):
    """A peer: one number."""

    def __init__(self, start: float = 0.9):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(start))

    def forward(self, blurry):
        return self.factor * blurry


def test_benchmark_times_every_way_in_turn_and_a_peer(student_file, capsys):
    settings = benchmark.BenchmarkConfig(
        models=(str(student_file),),
        module=f"{__name__}:Scale",
        precisions=("fp32",),
        sizes=("48x32",),
        batches=(1, 2),
        files=1,
        rounds=2,
        warm_up=1,
    )
    wide = dataclasses.replace(settings, sizes=("200x32",), tile=160, batches=(1,))
    benchmark.main(settings)
    rows = last_line(capsys)["rows"]
    assert {(row["way"], row["batch"]) for row in rows} >= {("net", 1), ("image", 1), ("net", 2)}
    assert {row["model"] for row in rows} == {str(student_file), "Scale"}
    first = [row for row in rows if row["model"] == str(student_file)]
    assert all(row["ratio"] == 1 for row in first) and all(row["fps"] > 0 for row in rows)
    benchmark.main(wide)
    assert {row["way"] for row in last_line(capsys)["rows"]} == {"net", "image", "tiled", "files"}


def test_benchmark_refuses_a_size_that_is_none():
    with pytest.raises(ValueError, match="WIDTHxHEIGHT"):
        benchmark.BenchmarkConfig(sizes=("5by3",))


@pytest.mark.parametrize("place", ["no_such_module:Class", "json:NoSuchClass", "json"])
def test_a_wrong_import_path_is_named(place):
    with pytest.raises(script.SharpeningError, match="package.module:Class"):
        candidates.load_class(place)


def test_a_peer_is_trained_and_measured_like_the_student(
    config, student_file, tmp_path, capsys, monkeypatch
):
    flags = ["--device", "cpu", "--data.root", str(config.data.root), "--data.crop", "32"]
    flags += ["--data.batch-size", "4", "--data.crops-per-image", "2", "--data.workers", "0"]
    flags += ["--teacher.no-enabled", "--train.epochs", "1", "--train.steps-per-epoch", "3"]
    for term in script.LOSS_TERMS[1:]:
        flags += [f"--loss.{term}", "0"]
    folder = tmp_path / "peer"
    flags += ["--train.folder", str(folder), "--train.samples", str(tmp_path / "samples")]
    name = f"{__name__}:Scale"
    monkeypatch.setattr(script, "build_network", script.build_network)  # put back afterwards
    assert train_peer.main([name, '{"start": 0.5}', *flags]) == 0
    peer = next(folder.glob("*_final_*.pth"))
    assert script.load_checkpoint(peer)["params"]["factor"] > 0.5  # it learnt
    assert train_peer.main([name, "no JSON", *flags]) == 1
    assert train_peer.main([name]) == 2
    validation.main(
        validation.TableConfig(
            checkpoints=(student_file,),
            pairs=(f"pairs={config.data.root}/test",),
            sharp=(f"photos={config.data.root}/test",),
            peer=peer,
            module=name,
            device="cpu",
        )
    )
    result = last_line(capsys)
    assert {"pairs", "photos motion", "photos call", "photos as it is"} == result.keys()
    assert result["pairs"]["psnr_peer"] < result["pairs"]["psnr_blurry"]
    assert result["pairs"]["worse_peer"] == 1


def test_ablation_compares_seed_by_seed_and_repeats_nothing(tmp_path, capsys, monkeypatch):
    teacher = tmp_path / "teacher.pth"
    torch.save({"params": tiny_restormer().state_dict()}, teacher)
    for split in ("train", "test"):
        write_pairs(tmp_path / "data" / split, 2)
    small = changed(
        script.DEMO,
        demo=False,
        data={"root": tmp_path / "data", "batch_size": 4, "crops_per_image": 2},
        teacher={"weights": teacher},
    )
    monkeypatch.setattr(script, "DEMO", small)
    config = ablation.AblationConfig(
        folder=tmp_path / "runs", seeds=(0, 1), steps=2, crop=32, student=TINY_STUDENT, device="cpu"
    )
    ablation.main(config)
    rows = {row["loss"]: row for row in last_line(capsys)["rows"]}
    single, joined = (
        ["L1", "+ feature", "+ kl", "+ ssim", "+ frequency"],
        ["all", "ssim, frequency"],
    )
    assert [*single, *joined] == [name for name in rows if "0." not in name]
    assert rows["L1"]["gain"] == rows["L1"]["spread"] == 0
    monkeypatch.setattr(ablation, "train_and_measure", None)  # would fail if called
    ablation.main(config)
    assert {row["loss"]: row for row in last_line(capsys)["rows"]} == rows


def test_gains_are_paired_by_seed():
    def runs(*values):
        return [{"psnr_student": value, "ssim_student": 0.5} for value in values]

    _, row = ablation.summary({"L1": runs(20.0, 30.0), "all": runs(21.0, 32.0)})
    assert row["gain"] == 1.5 and row["spread"] == pytest.approx(0.5**0.5)


def test_pareto_keeps_what_nothing_beats(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="pip install -r requirements-dev.txt")
    measured = [("slow", 30, 100), ("beaten", 29, 110), ("fast", 28, 10)]
    lines = [json.dumps({"name": n, "psnr": p, "ms": ms}) for n, p, ms in measured]
    (tmp_path / "points.json").write_text("\n".join(lines))
    pareto.main(pareto.ParetoConfig(tmp_path / "points.json", tmp_path / "plot.png"))
    assert last_line(capsys)["unbeaten"] == ["fast", "slow"]
    assert (tmp_path / "plot.png").stat().st_size > 1000
    (tmp_path / "points.json").write_text('{"name": "no figures"}')
    with pytest.raises(script.SharpeningError, match="line 1: needs an object with name"):
        pareto.main(pareto.ParetoConfig(tmp_path / "points.json", tmp_path / "plot.png"))


def test_pipeline_rates_name_the_slowest_stage(student_file, capsys, monkeypatch):
    sizes = {(720, 1280): (36, 64), (3000, 4000): (60, 80)}
    real = pipeline_rate.write_images
    monkeypatch.setattr(
        pipeline_rate, "write_images", lambda f, n, size, s: real(f, n, sizes[size], s)
    )
    settings = {"png": 2, "jpeg": 2, "frames": 3, "rounds": 1, "backend": "pytorch"}
    pipeline_rate.main(pipeline_rate.PipelineConfig(student_file, **settings, device="cpu"))
    rows = last_line(capsys)["rows"]
    assert [row["kind"] for row in rows] == ["png", "jpeg", "video"]
    for row in rows:
        assert row["share"] == pytest.approx(row["all"] / row[row["slowest"]])
