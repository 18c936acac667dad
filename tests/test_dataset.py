"""Dataset: draws are reproducible, kinds mix by their share, any workers give the same batches."""

import dataclasses

import numpy as np
import pytest
import torch
from conftest import photo, save, write_pairs

import main_sharpening_script as script
from sharpening.image_pairs import demo_pairs, find_pairs, read_rgb
from sharpening.synthetic_blur import DegradationConfig

DATA = script.DataConfig(crop=32, batch_size=4, crops_per_image=2, workers=0)


def pairs_below(folder):
    return find_pairs(folder, DATA.blurred_names, DATA.sharp_names)


def test_crops_are_reduced_as_often_as_asked(tmp_path):
    write_pairs(tmp_path, 2)
    config = dataclasses.replace(DATA, reduction_chance=0.25, reduction=(1.5, 3.0))
    dataset = script.GoProSharpeningDataset(pairs_below(tmp_path), config, 0)
    rng = np.random.default_rng(0)
    drawn = np.array([dataset.reduction(rng) for _ in range(4000)])
    assert np.mean(drawn == 1) == pytest.approx(0.75, abs=0.03)
    assert drawn[drawn > 1].min() >= 1.5 and drawn.max() <= 3
    assert np.log(drawn[drawn > 1]).mean() == pytest.approx(np.log(4.5) / 2, abs=0.03)
    always = dataclasses.replace(config, reduction_chance=1.0)
    reduced = script.GoProSharpeningDataset(dataset.real, always, 0)
    plain = script.GoProSharpeningDataset(dataset.real, DATA, 0)
    for draw in range(4):
        assert reduced[draw][1].shape == plain[draw][1].shape
        assert not torch.equal(reduced[draw][1], plain[draw][1])


def test_an_epoch_shows_every_image_once_and_epochs_differ(tmp_path):
    write_pairs(tmp_path, 9)
    dataset = script.GoProSharpeningDataset(pairs_below(tmp_path), DATA, seed=3)
    first = [dataset.pair(draw).name for draw in range(9)]
    second = [dataset.pair(draw).name for draw in range(9, 18)]
    assert sorted(first) == sorted(second) == sorted(str(i) for i in range(9))
    assert first != second


def test_real_and_synthetic_mix_by_their_share(tmp_path):
    write_pairs(tmp_path / "real", 3)
    for index in range(5):
        save(tmp_path / "photos" / "sharp" / f"{index}.png", photo(40, 40, index))
    config = dataclasses.replace(DATA, synthetic_share=0.25)
    dataset = script.GoProSharpeningDataset(pairs_below(tmp_path), config, 0)
    share = np.mean([dataset.pair(draw).blurry is None for draw in range(2000)])
    assert share == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize(("share", "kind"), [(0.0, "real"), (1.0, "synthetic")])
def test_what_is_never_drawn_is_neither_counted_nor_kept(tmp_path, share, kind):
    write_pairs(tmp_path / "real", 3)
    for index in range(5):
        save(tmp_path / "photos" / "sharp" / f"{index}.png", photo(40, 40, index))
    config = dataclasses.replace(DATA, synthetic_share=share)
    dataset = script.GoProSharpeningDataset(pairs_below(tmp_path), config, 0)
    assert len(dataset) == len(dataset.cached) == {"real": 3, "synthetic": 5}[kind]
    drawn = {dataset.pair(draw).blurry is None for draw in range(20)}
    assert drawn == {kind == "synthetic"}


@pytest.mark.parametrize("cache_gb", [0, 0.00002, 1])
def test_items_depend_on_the_draw_alone(tmp_path, cache_gb):
    write_pairs(tmp_path, 4)
    pairs = pairs_below(tmp_path)
    plain = script.GoProSharpeningDataset(pairs, dataclasses.replace(DATA, cache_gb=0), 1)
    cached = script.GoProSharpeningDataset(pairs, dataclasses.replace(DATA, cache_gb=cache_gb), 1)
    for draw in (5, 0, 5, 17):
        for a, b in zip(plain[draw], cached[draw], strict=True):
            assert torch.equal(a, b)


def test_workers_and_processes_share_out_the_same_draws(tmp_path, runtime):
    write_pairs(tmp_path, 5)
    pairs = pairs_below(tmp_path)
    double = dataclasses.replace(DATA, batch_size=8, workers=1)
    whole = script.training_batches(script.GoProSharpeningDataset(pairs, double, 0), 0, runtime)
    single = script.GoProSharpeningDataset(pairs, DATA, 0)
    ranks = [
        script.training_batches(single, 0, dataclasses.replace(runtime, rank=rank, world=2))
        for rank in range(2)
    ]
    for _ in range(3):
        parts = [next(rank) for rank in ranks]
        for expected, *found in zip(next(whole), *parts, strict=True):
            assert torch.equal(expected, torch.cat(found))


def test_batches_start_anywhere(tmp_path, runtime):
    write_pairs(tmp_path, 5)
    dataset = script.GoProSharpeningDataset(pairs_below(tmp_path), DATA, 0)
    running = script.training_batches(dataset, 0, runtime)
    for _ in range(3):
        next(running)
    resumed = script.training_batches(dataset, 3 * 2, runtime)  # draws: two a batch
    for a, b in zip(next(running), next(resumed), strict=True):
        assert torch.equal(a, b)


def test_prepare_batch_blurs_only_what_is_synthetic():
    sharp = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    blurry, blur_seeds = 255 - sharp, torch.tensor([-1, 7, -1, 8])
    motion = DegradationConfig(motion=1.0, video_call=0.0, length=(20.0, 20.0))

    def prepared(seed):
        batch = (blurry, sharp, blur_seeds)
        return script.prepare_batch(batch, motion, seed, torch.device("cpu"))

    ready, target, taught = prepared(0)
    assert taught is None
    assert torch.equal(target, sharp.float() / 255)
    assert torch.equal(ready[[0, 2]], blurry[[0, 2]].float() / 255)
    assert (ready[[1, 3]] - target[[1, 3]]).abs().mean() > 0.05
    again, *_ = prepared(0)
    assert torch.equal(ready, again)
    other, *_ = prepared(1)
    assert torch.equal(ready[[0, 2]], other[[0, 2]])
    assert not torch.equal(ready[[1, 3]], other[[1, 3]])


def test_prepare_batch_hands_over_stored_results():
    images = torch.randint(0, 256, (3, 2, 3, 16, 16), dtype=torch.uint8)
    batch = (*images, torch.tensor([-1, -1]))
    ready = script.prepare_batch(batch, DegradationConfig(), 0, torch.device("cpu"))
    for made, image in zip(ready, images, strict=True):
        assert torch.equal(made, image.float() / 255)


def test_evaluation_images_are_whole_and_their_blur_is_fixed(config):
    images = script.EvaluationImages(demo_pairs("test"), config.degradation)
    index, blurry, sharp = images[1]
    assert (index, blurry.shape) == (1, sharp.shape)
    assert np.array_equal(blurry, images[1][1])
    assert sharp.shape == read_rgb(demo_pairs("test")[1].sharp).shape
