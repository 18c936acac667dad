"""Image sharpening by knowledge distillation, in one script.

A large frozen Restormer (the teacher) trains a light SE-U-Net (the student) that sharpens blurred
photographs and video-call frames in real time.

    python main_sharpening_script.py --demo                    whole pipeline, offline, in minutes
    python main_sharpening_script.py                           train on GoPro_dataset/
    python main_sharpening_script.py --resume                  go on after an interruption
    python main_sharpening_script.py --evaluate                PSNR, SSIM, FPS
    python main_sharpening_script.py --infer --input DIR_OR_FILE --output DIR
    python main_sharpening_script.py --live                    camera -> window or virtual camera
    torchrun --nproc-per-node 4 main_sharpening_script.py      several GPUs

Every setting is a field of a dataclass below and a flag: `--help-all` lists them.

How data flows: path -> `GoProSharpeningDataset` -> `blurry, sharp` (B, 3, H, W) in [0, 1]
-> `student(blurry)` -> `restored` and its feature taps; `teacher(blurry)` -> `taught` and its taps
-> `distillation_loss` -> total and its terms. The four words name the same images everywhere.
For use: `sharpen = Sharpener.load("standard"); image = sharpen(image, strength=1.0)`.

Sections, in the order in which they run:
    Configuration                 Metrics
    Dataset                       EMA and schedule
    Student                       Tiled inference and Sharpener
    Checkpoints                   Evaluation
    Teacher                       Training
    Losses                        Inference on files, demo, main

What the system stands on is in the package `sharpening`: devices and processes (runtime), folders
and crops (image_pairs), worker processes (loading), synthetic_blur, muon, run_log, files of weights
(checkpoints), how far a training is (progress), openvino_backend, what the whole image shows
(whole_image), pictures and videos as files (file_inference, media_files, metadata, video_files),
and live.
"""

import argparse
import contextlib
import copy
import dataclasses
import functools
import itertools
import json
import math
import os
import signal
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

if __name__ == "__main__":  # before PyTorch loads OpenMP, whose threads wait by spinning: beside
    # a busy process that costs 1.5 times the time; on an idle machine the setting costs nothing
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
import torch.nn.functional as F
import tyro
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from sharpening import SharpeningError
from sharpening.checkpoints import (
    UNREADABLE,
    load_checkpoint,
    load_strictly,
    network_weights,
    reason,
    save_checkpoint,
    unwrapped,
)
from sharpening.command_line import refuse_other_modes, sharpen_arguments, understood
from sharpening.compare_page import write_comparison
from sharpening.estimate import say_estimate, sizes_of
from sharpening.file_inference import FileSettings, plan_jobs, sharpen_files
from sharpening.image_arrays import to_rgb
from sharpening.image_pairs import (
    Pair,
    add_teacher_results,
    cache_images,
    demo_frame,
    demo_pairs,
    draw_groups,
    group_of,
    pairs_of_split,
    read_pair,
    same_crop,
    save_strip,
)
from sharpening.live import LiveConfig, fastest, make_output, run_live
from sharpening.loading import LoadedItems, item_or_error, make_loader
from sharpening.media_files import atomic_write
from sharpening.muon import MuonAndAdam
from sharpening.openvino_backend import Backend, fastest_backend, int8_backend
from sharpening.progress import Plan, Progress
from sharpening.run_log import RunLog, print_table
from sharpening.runtime import (
    SIDE_BY_SIDE,
    Runtime,
    StopSignal,
    default_runtime,
    prefetch,
    ran_out_of_memory,
    say,
    seconds_per_call,
    side_by_side,
    smaller_tile,
    start_runtime,
    thread_pool,
    whole_limit,
)
from sharpening.settings import (
    TEST_IMAGES,
    Limits,
    check_limits,
    differing,
    read_settings,
    stored_config,
    to_dict,
    write_settings,
)
from sharpening.synthetic_blur import DEMO_BLUR, DegradationConfig, degrade, generators_for
from sharpening.whole_image import refined

HERE = Path(__file__).resolve().parent
SHIPPED = HERE / "model_checkpoints"  # in a clone; in an installed package beside its modules
if not (SHIPPED / "student_pretrained.pth").is_file():
    SHIPPED = HERE / "sharpening" / "weights"

# --------------------------------------------------------------------------------------------------
# Configuration
# --------------------------------------------------------------------------------------------------

COUNT, NOT_NEGATIVE, POSITIVE, SHARE = (1, math.inf), (0, math.inf), (1e-12, math.inf), (0, 1)
LOSS_TERMS = ("recon", "perceptual", "feature", "kl", "taught", "ssim", "frequency")
LIMITS: dict[str, Limits] = {
    "data": dict.fromkeys(("batch_size", "crops_per_image"), COUNT)
    | dict.fromkeys(("workers", "cache_gb"), NOT_NEGATIVE)
    | dict.fromkeys(("synthetic_share", "reduction_chance"), SHARE)
    | {"crop": (16, math.inf), "reduction": (1e-3, 1e3), "test_share": (0.01, 0.9)},
    "student": dict.fromkeys(("width", "max_width", "pool_window"), COUNT)
    | dict.fromkeys(("encoder", "middle", "decoder"), NOT_NEGATIVE),
    "loss": dict.fromkeys(LOSS_TERMS, NOT_NEGATIVE) | {"temperature": POSITIVE},
    "train": dict.fromkeys(("epochs", "steps_per_epoch", "accumulation", "restart_cycles"), COUNT)
    | dict.fromkeys(("evaluate_every", "save_every", "log_every"), COUNT)
    | dict.fromkeys(("seed", "clip_norm", "lowest_rate", "warmup_steps"), NOT_NEGATIVE)
    | dict.fromkeys(("learning_rate", "cycle_growth"), POSITIVE)
    | {"ema_decay": (0, 1 - 1e-9)},
    "inference": {"tile": COUNT, "overlap": (0, 4096), "pool_window": NOT_NEGATIVE},
}
"""Settings that are numbers -> lowest and highest value."""


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how crops are cut from them."""

    root: Path | tuple[Path, ...] = Path("GoPro_dataset")
    """Folder with train/ and test/, or several. GoPro_dataset/README.md shows the layouts."""
    shares: tuple[float, ...] = ()
    """Share of the crops that each root gives; without it all images are shown equally often."""
    test_share: float = 0.1
    """Share of the pairs to test on, the last by name, where a root has no train/ and test/."""
    blurred_names: tuple[str, ...] = ("blurred", "blur", "input", "blur_gamma")
    """Names of a folder of blurred images; the first that stands beside a sharp one is read.
    With no name at all, every sharp image is blurred synthetically."""
    sharp_names: tuple[str, ...] = ("sharp", "target")
    """Names of a folder of sharp images; without a blurred one beside it, the blur is synthetic."""
    synthetic_share: float = 0.5
    """Share of synthetically blurred images, 0 to 1, where train/ holds both kinds."""
    crop: int = 256
    """Side of the square training crops, pixels, a multiple of 16."""
    batch_size: int = 8
    """Crops per process in one forward pass; times accumulation and processes is the real batch."""
    crops_per_image: int = 4
    """Crops cut from one decoded image, because decoding 720p PNG costs more than a crop's step."""
    reduction_chance: float = 0.0
    """Probability that a crop is cut larger and made smaller, or the opposite."""
    reduction: tuple[float, float] = (1.0, 3.0)
    """Factor of that; its logarithm is drawn uniformly. Above 1, as far as the image is large
    enough: other blur lengths, finer detail. Below 1: soft targets, which teach to leave images
    soft."""
    workers: int = 2
    """Processes that decode and crop; 0 does it in the training process."""
    cache_gb: float = 2.0
    """Decoded training images kept in memory, GB per process: a small set is decoded only once."""

    def __post_init__(self) -> None:
        check_limits(self, LIMITS["data"], "data.")
        if self.crop % 16:
            raise ValueError(f"data.crop must be a multiple of 16: {self.crop}")
        if self.batch_size % self.crops_per_image:
            raise ValueError(
                f"data.batch_size ({self.batch_size}) must be a multiple of "
                f"data.crops_per_image ({self.crops_per_image})"
            )
        if self.reduction[0] > self.reduction[1]:
            raise ValueError(f"data.reduction must be ordered: {self.reduction}")


@dataclass(frozen=True)
class StudentConfig:
    """Sizes of the student, `SEUNet`."""

    stem: Literal[1, 2, 4] = 2
    """Pixel-unshuffle factor: the first level works at 1/stem; full resolution is what costs."""
    width: int = 32
    """Channels of the first level; doubled at every level below it."""
    max_width: int = 160
    """Channels at which doubling stops: parameters grow with the square, and 5 M is the budget."""
    encoder: tuple[int, ...] = (0, 1, 2)
    """Blocks per encoder level, finest first."""
    middle: int = 2
    """Blocks at the bottom, where a pixel spans `multiple` pixels. Each of five was worth 0.16 dB
    at most, one at 1/4 or 1/8 half a decibel and more (docs/EXPERIMENTS.md)."""
    decoder: tuple[int, ...] = (1, 1, 2)
    """Blocks per decoder level, finest first like `encoder`."""
    pool_window: int | None = 256
    """Window that squeeze averages over at inference, pixels: about the training crop, the only
    size that the student knows; None: the whole image."""

    def __post_init__(self) -> None:
        check_limits(self, LIMITS["student"], "student.")
        if len(self.encoder) != len(self.decoder):
            raise ValueError(
                f"student.encoder {self.encoder} and student.decoder {self.decoder} need one "
                "number per level"
            )
        if self.multiple < 8:
            raise ValueError(
                f"student.stem {self.stem} with {len(self.encoder)} levels has no features at 1/8"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of every level, the middle last."""
        return tuple(min(self.width * 2**i, self.max_width) for i in range(len(self.encoder) + 1))

    @property
    def multiple(self) -> int:
        """Height and width are padded to a multiple of this many pixels."""
        return self.stem * 2 ** len(self.encoder)


STUDENT_SIZES = {
    "standard": StudentConfig(),
    "live": StudentConfig(width=16, max_width=96, encoder=(0, 0, 1), middle=4, decoder=(0, 1, 1)),
}


@dataclass(frozen=True)
class TeacherConfig:
    """The Restormer that teaches; its sizes are read from its weights."""

    enabled: bool = True
    """Distil from the teacher; off trains on the sharp images alone."""
    weights: Path = Path("Restormer/Motion_Deblurring/pretrained_models/motion_deblurring.pth")
    """Weights of a trained Restormer, the released ones or your own (tools/train_other.py)."""
    results: Path | None = None
    """Folder of a teacher's results on the whole blurred training images, under their names, by
    any program (tools/teacher_cache.py makes them with `weights`). They are cropped, flipped and
    turned like their images, and no teacher runs: the released one's passes take 92 % of a step.
    Not for the feature term, nor for synthetic blur, which is new each time."""


@dataclass(frozen=True)
class LossConfig:
    """Weight of each term of the loss; 0 switches a term off and skips its work."""

    recon: float = 1.0
    """L1 between restored and sharp."""
    perceptual: float = 0.01
    """L1 between VGG-19 features of restored and taught."""
    feature: float = 0.1
    """L1 between the student's projected taps and the teacher's. Published with 1, which costs a
    short run 0.06 dB among all terms and 0.75 beside L1 alone (docs/EXPERIMENTS.md)."""
    kl: float = 0.01
    """KL divergence over the colour channels between restored and taught."""
    taught: float = 0.0
    """L1 of pixels and of spectra between restored and taught, where taught is nearer to sharp."""
    ssim: float = 10.0
    """1 - SSIM between restored and sharp."""
    frequency: float = 1.0
    """L1 between the Fourier transforms of restored and sharp (arXiv 2108.05054). Not in the
    published formula; with SSIM the term that is worth most (docs/EXPERIMENTS.md)."""
    temperature: float = 4.0
    """Temperature of the softmax in the KL term; the term is multiplied by its square."""
    vgg_weights: Path | None = None
    """VGG-19 ImageNet weights (torchvision's vgg19-dcbb9e9d.pth); None downloads them once."""

    def __post_init__(self) -> None:
        check_limits(self, LIMITS["loss"], "loss.")
        if not any(getattr(self, name) for name in LOSS_TERMS):
            raise ValueError("every loss weight is 0: nothing would be trained")

    @property
    def teacher_terms(self) -> list[str]:
        """Names of the active terms that need a teacher."""
        return [name for name in ("perceptual", "feature", "kl", "taught") if getattr(self, name)]

    def without_teacher(self) -> "LossConfig":
        return dataclasses.replace(self, **dict.fromkeys(self.teacher_terms, 0.0))


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation, and what a run writes."""

    initial_weights: Path | None = None
    """Checkpoint to begin with, such as the shipped student to adapt to other pairs. A student's
    sizes come with it. None: random weights."""
    epochs: int = 50
    """Passes over the training images."""
    steps_per_epoch: int | None = None
    """Optimizer steps per epoch; None: as many as one pass over the training images takes, each
    giving `crops_per_image` crops."""
    optimizer: Literal["adam", "muon"] = "adam"
    """adam, as published, or muon: orthogonal updates for the convolutions, Adam for the rest,
    which gain 1.5 times as much in as many steps (docs/EXPERIMENTS.md)."""
    learning_rate: float = 5e-4
    """Highest learning rate."""
    lowest_rate: float = 1e-6
    """Learning rate at the end of every cosine cycle."""
    restart_cycles: int = 3
    """Cosine cycles; the last one ends with the last epoch."""
    cycle_growth: float = 2.0
    """Length of each cycle relative to the one before."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly at the very start."""
    accumulation: int = 4
    """Forward passes whose gradients are added up for one optimizer step."""
    ema_decay: float = 0.999
    """Decay of the moving average of the weights, reached gradually."""
    clip_norm: float = 0.3
    """Largest gradient norm; 0 does not clip."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type; auto: on a GPU bf16, or fp16 if it has none; on a CPU bf16 if a short timing
    finds it faster than fp32."""
    compile: bool = False
    """Run the network through torch.compile: for GPUs; a step on a CPU is no faster (bf16)."""
    evaluate_every: int = 5
    """Epochs between evaluations on the test set."""
    save_every: int = 500
    """Optimizer steps between saves of last.pth; it is saved after every epoch as well."""
    log_every: int = 20
    """Optimizer steps between lines in metrics.jsonl and TensorBoard."""
    folder: Path = Path("model_checkpoints")
    """Folder of the checkpoints, metrics.jsonl and TensorBoard files."""
    samples: Path = Path("inference_samples/sharpened_test_outputs")
    """Folder of the test images sharpened at each evaluation."""
    seed: int = 0
    """Seed of the initial weights, the crops and the synthetic blur."""

    def __post_init__(self) -> None:
        check_limits(self, LIMITS["train"], "train.")
        if self.lowest_rate > self.learning_rate:
            raise ValueError(
                f"train.lowest_rate ({self.lowest_rate:g}) must not exceed train.learning_rate "
                f"({self.learning_rate:g})"
            )


LARGEST_TILE = 1024
"""Side of the tiles, pixels, of images that are too large for the memory."""


@dataclass(frozen=True)
class InferenceConfig(FileSettings):
    """How images of any size go through the network, and how results are written."""

    tile: int | None = None
    """Largest side of a tile, pixels; None: the whole image where memory allows, else 1024."""
    overlap: int = 64
    """Pixels shared by neighbouring tiles, where they are blended by a raised cosine. 99 % of what
    a pixel depends on lies within 25 pixels of it (gradient of the standard student)."""
    pool_window: int | None = None
    """Window that squeeze averages over, pixels; 0: all of it; None: as the checkpoint says."""
    refine: Literal["auto", "all", "tone", "none"] = "auto"
    """What the whole image adds. tone: images that are not blurred keep their local means. all:
    blurred ones are computed smaller as well, for long blur. auto: all for the `standard` that
    ships, tone for its `live`, none for others, which may not know what to leave alone."""
    self_ensemble: Literal[1, 2, 4] = 1
    """Quarter turns whose results are averaged: 2 give blurred images 0.1 dB for twice the time."""
    backend: Literal["auto", "pytorch", "compiled", "openvino", "openvino-int8"] = "auto"
    """What computes the network. auto: on a CPU PyTorch for a few seconds of work, for more the
    faster one of PyTorch and OpenVINO by a short timing. compiled: PyTorch by torch.compile, 1.5
    times as fast after half a minute. openvino-int8 calculates in 8 bits, see MODEL_CARD."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_limits(self, LIMITS["inference"], "inference.")
        if (tile := LARGEST_TILE if self.tile is None else self.tile) <= 2 * self.overlap:
            raise ValueError(f"inference.tile {tile} must exceed twice the overlap {self.overlap}")

    def as_trained(self) -> "InferenceConfig":
        """The same for a network as it is: by PyTorch, with its own windows."""
        return dataclasses.replace(self, backend="pytorch", pool_window=None)


@dataclass(frozen=True)
class Config:
    """Image sharpening by knowledge distillation: without a mode flag, train on `--data.root`."""

    demo: bool = False
    """Train, evaluate and sharpen on photographs of scikit-image, offline, in minutes."""
    resume: bool = False
    """Go on from last.pth in `--train.folder`, with its settings unless others are given."""
    evaluate: bool = False
    """Measure PSNR, SSIM and FPS of a checkpoint on the test set."""
    infer: bool = False
    """Sharpen `--input` into `--output`."""
    live: bool = False
    """Sharpen a camera's picture for a window or a virtual camera, with the `live` student."""
    checkpoint: Path | None = None
    """Student to use; None: the newest final one in `--train.folder`, else the shipped one."""
    input: Path | None = None
    """Image, video or folder to sharpen; None: demo images."""
    output: Path | None = None
    """Folder for the results; None: inference_samples/."""
    strength: float = 1.0
    """How much of the result is blended into the image, 0 to 1; 0 gives the image back."""
    overwrite: bool = False
    """Sharpen again what is already in `--output`; start a training over an older one."""
    compare: bool = False
    """Write a page beside the results that shows before and after: compare.html."""
    teacher_too: bool = False
    """Let `--evaluate` measure the teacher as well."""
    config: Path | None = None
    """Begin with the settings of this file, such as the config.json of a run; flags count more."""
    preset: Literal["published"] | None = None
    """Begin with the published weights of the loss terms instead of ours; flags count more."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where the network is computed; auto: on a GPU if there is one. mps: Apple's, never tried."""
    size: Literal["standard", "live"] | None = None
    """Size of the student to train, or shipped student for --infer: quality or speed; None: as
    --student and --checkpoint say."""
    data: DataConfig = field(default_factory=DataConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    live_config: LiveConfig = field(default_factory=LiveConfig)

    def __post_init__(self) -> None:
        check_limits(self, {"strength": SHARE})
        if sum((self.evaluate, self.infer, self.live, self.resume)) > 1:
            raise ValueError("give at most one of --resume, --evaluate, --infer and --live")
        if not self.teacher.enabled and (terms := self.loss.teacher_terms):
            flags = " ".join(f"--loss.{name} 0" for name in terms)
            raise ValueError(f"without a teacher these loss terms are impossible, use: {flags}")
        if self.teacher.results and self.data.reduction_chance:
            raise ValueError("teacher.results are whole images: add --data.reduction-chance 0")
        if self.teacher.results and self.loss.feature:
            raise ValueError("teacher.results are images, not features: add --loss.feature 0")


DEMO = Config(
    demo=True,
    overwrite=True,
    degradation=DEMO_BLUR,
    data=DataConfig(crop=96, batch_size=8, crops_per_image=4, workers=0),
    teacher=TeacherConfig(weights=SHIPPED / "demo_teacher.pth"),
    loss=LossConfig(perceptual=0.0),
    train=TrainConfig(
        epochs=6,
        steps_per_epoch=50,
        evaluate_every=3,
        accumulation=1,
        learning_rate=8e-4,
        warmup_steps=30,
        restart_cycles=1,
        folder=Path("model_checkpoints/demo"),
        samples=Path("model_checkpoints/demo/sharpened_test_outputs"),
    ),
)


# --------------------------------------------------------------------------------------------------
# Dataset
# --------------------------------------------------------------------------------------------------


def split_pairs(config: Config, split: Literal["train", "test"]) -> list[Pair]:
    """The pairs of one split of the data set that `config` names."""
    if config.demo:
        return demo_pairs(split)
    return pairs_of_split(config.data, split)


class GoProSharpeningDataset(Dataset):
    """Endless random crops of pairs; item `draw` is a function of (seed, draw) and nothing else.

    Where all blur is real, or all synthetic, every run of len(pairs) draws shows each image once.
    Where both are mixed, images of a kind are shown equally often on average. An item is `(blurry,
    sharp, blur_seeds)`: uint8 crops (n, 3, crop, crop), and for each crop the seed of its synthetic
    blur, or -1 where the blur is real. With synthetic blur `blurry` is still sharp; `prepare_batch`
    blurs it on the device. With stored results of a teacher an item is `(blurry, sharp, taught,
    blur_seeds)`.
    """

    def __init__(self, pairs: Sequence[Pair], config: DataConfig, seed: int):
        self.config, self.seed = config, seed
        self.real = [pair for pair in pairs if pair.blurry is not None]
        self.synthetic = [pair for pair in pairs if pair.blurry is None]
        if self.real and self.synthetic:  # a kind that is never drawn is not counted, nor cached
            self.real = self.real if config.synthetic_share < 1 else []
            self.synthetic = self.synthetic if config.synthetic_share > 0 else []
        shares = config.synthetic_share, config.shares
        self.groups = draw_groups(self.synthetic, self.real, *shares)
        self.order: dict[tuple[int, int], np.ndarray] = {}
        self.cached = cache_images([*self.real, *self.synthetic], int(config.cache_gb * 1e9))

    def __len__(self) -> int:
        return len(self.real) + len(self.synthetic)

    def __getitem__(self, draw: int) -> tuple[Tensor, ...] | SharpeningError:
        return item_or_error(self.item, draw)

    def pair(self, draw: int) -> Pair:
        """The pair that item `draw` is cut from."""
        pairs = group_of(self.groups, np.random.default_rng([self.seed, draw, 1]).random())
        epoch, position = divmod(draw, len(pairs))
        if (key := (epoch, len(pairs))) not in self.order:
            self.order = {k: v for k, v in self.order.items() if k[0] >= epoch - 1}
            self.order[key] = np.random.default_rng([self.seed, epoch]).permutation(len(pairs))
        return pairs[self.order[key][position]]

    def reduction(self, rng: np.random.Generator) -> float:
        """The factor by which the next crop is made smaller."""
        if not self.config.reduction_chance or rng.random() >= self.config.reduction_chance:
            return 1.0
        return math.exp(rng.uniform(*np.log(self.config.reduction)))

    def item(self, draw: int) -> tuple[Tensor, ...]:
        pair = self.pair(draw)
        images = self.cached[pair] if pair in self.cached else read_pair(pair)
        rng, size = np.random.default_rng([self.seed, draw]), self.config.crop
        count = self.config.crops_per_image
        crops = [same_crop(images, size, rng, self.reduction(rng)) for _ in range(count)]
        sides = (torch.stack(side) for side in zip(*crops, strict=True))
        seeds = torch.arange(draw * count, (draw + 1) * count)
        return *sides, seeds if pair.blurry is None else torch.full_like(seeds, -1)


class EvaluationImages(Dataset):
    """Whole test images `(index, blurry, sharp)`, (H, W, 3) uint8; a synthetic blur is fixed."""

    def __init__(self, pairs: Sequence[Pair], degradation: DegradationConfig):
        self.pairs, self.degradation = pairs, degradation

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray, np.ndarray] | SharpeningError:
        return item_or_error(self.item, index)

    def read(self, index: int) -> tuple[np.ndarray, ...]:
        """Blurred and sharp image as the files have them."""
        blurry, sharp = read_pair(self.pairs[index])
        if min(sharp.shape[:2]) < 11:
            path = self.pairs[index].sharp
            raise SharpeningError(f"{path} is smaller than SSIM's window of 11 pixels: remove it")
        return blurry, sharp

    def check(self, runtime: Runtime) -> None:
        """Read each image once: one that cannot be read stops a training before it begins."""
        share = range(runtime.rank, len(self), runtime.world)
        with thread_pool(4) as pool:
            read = pool.map(lambda index: len(self.read(index)), share)  # the pixels go
            for _ in tqdm(read, "check test images", len(share), disable=not runtime.is_main):
                pass

    def item(self, index: int) -> tuple[int, np.ndarray, np.ndarray]:
        blurry, sharp = self.read(index)
        if self.pairs[index].blurry is None:
            image = torch.from_numpy(sharp).permute(2, 0, 1)[None].float() / 255
            images = degrade(image, generators_for(2**31, [index]), self.degradation)
            blurry, sharp = ((i[0] * 255).round().byte().permute(1, 2, 0).numpy() for i in images)
        return index, blurry, sharp


def micro_batches(images: int, start: int, runtime: Runtime) -> Iterator[range]:
    """Endless draws of this process from draw `start` on: the micro-batches that the processes load
    at the same time are together a run of draws."""
    for first in itertools.count(start + runtime.rank * images, runtime.world * images):
        yield range(first, first + images)


def join_items(items: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...] | SharpeningError:
    """Items of the dataset -> one batch of (B, 3, crop, crop) each, and (B,)."""
    errors = (item for item in items if isinstance(item, SharpeningError))
    return next(errors, None) or tuple(torch.cat(parts) for parts in zip(*items, strict=True))


def training_batches(
    dataset: GoProSharpeningDataset, start: int, runtime: Runtime
) -> Iterator[tuple[Tensor, ...]]:
    """Endless uint8 batches from draw `start` on, decoded in advance by the workers."""
    config = dataset.config
    images = config.batch_size // config.crops_per_image
    loader = make_loader(
        dataset,
        config.workers,
        batch_sampler=micro_batches(images, start, runtime),
        collate_fn=join_items,
        pin_memory=runtime.device.type == "cuda",
        prefetch_factor=4 if config.workers else None,
    )
    return LoadedItems(loader)


def prepare_batch(
    batch: tuple[Tensor, ...], degradation: DegradationConfig, seed: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    """uint8 batch -> `blurry, sharp, taught` (B, 3, H, W) float32 in [0, 1], blurred on the device.
    `taught` is None unless a teacher's results are stored."""
    *images, blur_seeds = batch
    blurry, sharp, *taught = (t.to(device, non_blocking=True).float() / 255 for t in images)
    if (which := (blur_seeds >= 0).nonzero()[:, 0]).numel():
        generators = generators_for(seed, blur_seeds[which].tolist())
        others = sharp.roll(len(sharp) // 2, dims=0)  # crops of other photographs
        which = which.to(device)
        blurry[which], sharp[which] = degrade(sharp[which], generators, degradation, others[which])
    blurry = blurry.contiguous(memory_format=torch.channels_last)
    return blurry, sharp, taught[0] if taught else None


# --------------------------------------------------------------------------------------------------
# Student: SE-U-Net
# --------------------------------------------------------------------------------------------------


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H', W'), grown at the bottom and right by reflection; where reflection
    ends, the last row or column repeats. Index arithmetic instead of F.pad has no branch on the
    size, so one exported graph serves every size."""
    for dim in (2, 3):
        size = image.shape[dim]
        i = torch.arange((size + multiple - 1) // multiple * multiple, device=image.device)
        image = image.index_select(dim, torch.where(i < size, i, (2 * (size - 1) - i).clamp(min=0)))
    return image


class SqueezeExcite(nn.Module):
    """Channel weights from the mean over the image (arXiv 1709.01507).

    With `window` (in pixels of this level), and at inference only, from means over windows of that
    size (TLC, arXiv 2112.04491). The windows are half a window apart and cut at the image's edge;
    between their centres the weights are bilinear. That adds a tenth to the time of the network. A
    window around each pixel, as in the paper, doubles it and is no better (within 0.003 dB).
    """

    def __init__(self, channels: int, window: int | None):
        super().__init__()
        self.window = window
        self.squeeze = nn.Conv2d(channels, max(8, channels // 4), 1)
        self.excite = nn.Conv2d(max(8, channels // 4), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.window is None or self.training:
            return x * self.weights(x.mean((2, 3), keepdim=True))
        H, W = x.shape[2:]
        window, half, step = self.window, self.window // 2, max(1, self.window // 2)
        rows = F.avg_pool2d(x, (window, 1), (step, 1), (half, 0), count_include_pad=False)
        means = F.avg_pool2d(rows, (1, window), (1, step), (0, half), count_include_pad=False)
        weights = F.pad(self.weights(means), (0, 1, 0, 1), mode="replicate").to(x.dtype)
        weights = F.interpolate(weights, scale_factor=step, mode="bilinear").to(x.dtype)
        first = step // 2
        return x * weights[:, :, first : first + H, first : first + W]

    def weights(self, means: Tensor) -> Tensor:
        return self.excite(F.relu(self.squeeze(means))).sigmoid()


class ResidualBlock(nn.Module):
    """x + SE(conv(relu(conv(x)))). The branch starts at a tenth of its usual size, so that deep
    stacks train without a norm."""

    def __init__(self, channels: int, window: int | None):
        super().__init__()
        self.widen = nn.Conv2d(channels, channels, 3, padding=1)
        self.merge = nn.Conv2d(channels, channels, 3, padding=1)
        self.weigh = SqueezeExcite(channels, window)
        nn.init.kaiming_normal_(self.merge.weight, a=10)
        nn.init.zeros_(self.merge.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weigh(self.merge(F.relu(self.widen(x))))


class SEUNet(nn.Module):
    """Encoder-decoder with skips and squeeze-and-excitation, residual to its input, no norm.

    forward: blurry (B, 3, H, W) in [0, 1], any H, W >= 1 -> restored (B, 3, H, W), not clamped;
    with `return_taps` also {"half", "quarter", "eighth"}: decoder features at 1/2, 1/4 and 1/8 of
    the padded image, `tap_channels` wide.
    """

    def __init__(self, config: StudentConfig = StudentConfig()):
        super().__init__()
        self.config = config
        widths, pixels = config.widths, 3 * config.stem**2

        def stage(level: int, blocks: int) -> nn.Sequential:
            window = config.pool_window and max(1, config.pool_window // (config.stem * 2**level))
            return nn.Sequential(*[ResidualBlock(widths[level], window) for _ in range(blocks)])

        self.first = nn.Conv2d(pixels, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(stage(i, n) for i, n in enumerate(config.encoder))
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in itertools.pairwise(widths))
        self.middle = stage(len(config.encoder), config.middle)
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(stage(i, n) for i, n in enumerate(config.decoder))
        self.last = nn.Conv2d(widths[0], pixels, 3, padding=1)
        nn.init.normal_(self.last.weight, std=1e-3)
        nn.init.zeros_(self.last.bias)

    @property
    def tap_channels(self) -> dict[str, int]:
        """Channels of each tap, for the projections of feature distillation."""
        at = {self.config.stem * 2**i: c for i, c in enumerate(self.config.widths)}
        # a stem of 4 has no level at 1/2: its 1/4 features, shuffled
        half = at.get(2, at.get(4, 0) // 4)
        return {"half": half, "quarter": at[4], "eighth": at[8]}

    def forward(
        self, blurry: Tensor, return_taps: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        H, W = blurry.shape[2:]
        stem, multiple = self.config.stem, self.config.multiple
        padded = pad_to_multiple(blurry, multiple)
        x = self.first(F.pixel_unshuffle(padded, stem))  # (B, width, H/stem, W/stem)
        skips = []
        for stage, down in zip(self.encoder, self.down, strict=True):
            skips.append(stage(x))
            x = down(skips[-1])  # (B, 2C, H/2, W/2)
        x = self.middle(x)
        features = {multiple: x}
        for i in reversed(range(len(skips))):
            x = self.decoder[i](F.pixel_shuffle(self.up[i](x), 2) + skips[i])  # (B, C/2, 2H, 2W)
            features[stem * 2**i] = x
        restored = padded + F.pixel_shuffle(self.last(x), stem)  # (B, 3, H', W')
        # index_select, not a slice, which makes torch.export treat multiples of the padding apart
        for dim, size in ((2, H), (3, W)):
            restored = restored.index_select(dim, torch.arange(size, device=restored.device))
        if not return_taps:
            return restored
        half = features[2] if 2 in features else F.pixel_shuffle(features[4], 2)
        return restored, {"half": half, "quarter": features[4], "eighth": features[8]}


# --------------------------------------------------------------------------------------------------
# Checkpoints
# --------------------------------------------------------------------------------------------------


SHIPPED_STUDENTS = {
    "standard": SHIPPED / "student_pretrained.pth",
    "live": SHIPPED / "student_live.pth",
}


def for_student(path: Path, config: InferenceConfig) -> InferenceConfig:
    """`config` with the `refine` that its "auto" means for the checkpoint `path`."""
    shipped = {SHIPPED_STUDENTS["standard"]: "all", SHIPPED_STUDENTS["live"]: "tone"}
    chosen = shipped.get(path.resolve(), "none") if config.refine == "auto" else config.refine
    return dataclasses.replace(config, refine=chosen)


def network_payload(net: nn.Module, **more: Any) -> dict[str, Any]:
    """What a checkpoint of a network holds: its weights, and a student's settings, which rebuild
    it."""
    settings = {"student": to_dict(net.config)} if isinstance(net, SEUNet) else {}
    return {**settings, "params": net.state_dict(), **more}


def load_student(path: Path) -> SEUNet:
    """The student of a checkpoint of this script, in eval mode; of last.pth the averaged one."""
    payload = load_checkpoint(path)
    if "student" not in payload or "params" not in payload:
        raise SharpeningError(
            f"{path} is not a student of this script (it holds: {', '.join(list(payload)[:5])}); "
            "train one, or give another with --checkpoint"
        )
    student = SEUNet(stored_config(StudentConfig, payload["student"], path))
    load_strictly(student, network_weights(payload), path)
    return student.eval().requires_grad_(False)


def default_checkpoint(config: Config) -> Path:
    """`--checkpoint`, else the shipped one of `--size` (`--live`: live), else the user's newest
    final student, else the shipped standard."""
    if config.checkpoint is not None:
        return config.checkpoint
    if config.size is not None or config.live:
        return SHIPPED_STUDENTS[config.size or "live"]
    finals = config.train.folder.glob("student_model_ema_final_epoch_*.pth")
    shipped = SHIPPED_STUDENTS["standard"]
    newest = max(finals, key=lambda path: path.stat().st_mtime, default=shipped)
    if not newest.is_file():
        raise SharpeningError("there is no student yet: train one, or give one with --checkpoint")
    return newest


# --------------------------------------------------------------------------------------------------
# Teacher: Restormer, frozen, with the parameter names of its released weights
# --------------------------------------------------------------------------------------------------


def named(name: str, module: nn.Module) -> nn.Sequential:
    """`module` with its parameters one level down, under `name`, as in the released weights."""
    return nn.Sequential(OrderedDict({name: module}))


def half_conv(conv: nn.Conv2d, x: Tensor, half: int) -> Tensor:
    """The first (0) or second (1) half of the output channels of a 1x1 or depthwise `conv`."""
    weight = conv.weight.chunk(2)[half]
    bias = None if conv.bias is None else conv.bias.chunk(2)[half]
    groups = 1 if conv.groups == 1 else len(weight)
    return F.conv2d(x, weight, bias, padding=conv.padding, groups=groups)


class PixelNorm(nn.Module):
    """Layer norm of each pixel over its channels; without bias it scales but does not centre."""

    def __init__(self, dim: int, with_bias: bool):
        super().__init__()
        self.body = nn.LayerNorm(dim, bias=with_bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)  # (B, H, W, C), no copy: activations are channels-last
        if self.body.bias is not None:
            x = self.body(x)
        else:
            variance = x.float().var(dim=-1, correction=0, keepdim=True)
            x = x * torch.rsqrt(variance + self.body.eps) * self.body.weight
        return x.permute(0, 3, 1, 2)


class ChannelAttention(nn.Module):
    """Multi-Dconv head transposed attention: channels attend to channels, so it is linear in HW."""

    def __init__(self, dim: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=3 * dim, bias=bias)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        B, C, H, W = x.shape
        qkv = self.qkv_dwconv(self.qkv(x)).permute(0, 2, 3, 1).reshape(B, H * W, 3 * C)
        v = qkv[..., 2 * C :]  # (B, HW, C)
        # The output projection is a matrix, and so is the attention: if they are multiplied first,
        # one pass over the pixels is enough.
        project_out = self.project_out.weight.view(C, self.heads, -1)
        mixing = torch.einsum("ohc,bhcd->bhdo", project_out, self.attention(qkv))
        out = v @ mixing.reshape(B, C, C).to(v.dtype)
        if self.project_out.bias is not None:
            out = out + self.project_out.bias
        return out.view(B, H, W, C).permute(0, 3, 1, 2)

    def attention(self, qkv: Tensor) -> Tensor:
        """(B, HW, 3C) -> (B, heads, C/heads, C/heads): the share of channel d in channel c."""
        q, k, _ = qkv.chunk(3, dim=-1)
        squares = qkv[..., : 2 * q.shape[-1]].float().square().sum(dim=1, keepdim=True)
        q_scale, k_scale = squares.clamp_min(1e-24).rsqrt().chunk(2, dim=-1)  # (B, 1, C)
        # k is normalised after the product, which is small; q before it, so that fp16 holds it.
        q = (q * q_scale).to(k.dtype)
        q, k, k_scale = (t.unflatten(-1, (self.heads, -1)) for t in (q, k, k_scale))
        cosine = torch.einsum("bnhc,bnhd->bhcd", q, k).float() * k_scale.transpose(1, 2)
        return (cosine * self.temperature).softmax(dim=-1)


class GatedFeedForward(nn.Module):
    """Gated-Dconv feed-forward: one half of the hidden channels, through GELU, gates the other."""

    def __init__(self, dim: int, expansion: float, bias: bool):
        super().__init__()
        hidden = int(dim * expansion)
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        # Each half by itself: on slices of one tensor GELU takes 2.5 times as long (CPU).
        gate, value = (half_conv(self.dwconv, half_conv(self.project_in, x, i), i) for i in (0, 1))
        return self.project_out(F.gelu(gate).mul_(value))


class TransformerBlock(nn.Module):
    """Channel attention, then the gated feed-forward, each normalised first and added to x."""

    def __init__(self, dim: int, heads: int, expansion: float, bias: bool, norm_bias: bool):
        super().__init__()
        self.norm1 = PixelNorm(dim, norm_bias)
        self.attn = ChannelAttention(dim, heads, bias)
        self.norm2 = PixelNorm(dim, norm_bias)
        self.ffn = GatedFeedForward(dim, expansion, bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Restormer(nn.Module):
    """Restormer (arXiv 2111.09881): four levels of transformer blocks, residual to the input.

    The defaults are the released models' sizes: 26.13 M parameters. `norm_bias` chooses the
    WithBias layer norm (deblurring, deraining) or BiasFree (denoising). Constructed directly it is
    random and trainable; a teacher comes from `restormer_from_weights`.
    """

    def __init__(
        self,
        dim: int = 48,
        blocks: Sequence[int] = (4, 6, 6, 8),
        refinement_blocks: int = 4,
        heads: Sequence[int] = (1, 2, 4, 8),
        expansion: float = 2.66,
        bias: bool = False,
        norm_bias: bool = True,
    ):
        super().__init__()

        def stage(width: int, count: int, heads: int) -> nn.Sequential:
            sizes = (width, heads, expansion, bias, norm_bias)
            return nn.Sequential(*(TransformerBlock(*sizes) for _ in range(count)))

        def resample(width_in: int, width_out: int, shuffle: nn.Module) -> nn.Sequential:
            conv = nn.Conv2d(width_in, width_out, 3, padding=1, bias=False)
            return named("body", nn.Sequential(conv, shuffle))

        w1, w2, w3, w4 = widths = [dim * 2**level for level in range(4)]
        stages = list(zip(widths, blocks, heads, strict=True))
        self.patch_embed = named("proj", nn.Conv2d(3, w1, 3, padding=1, bias=False))
        self.encoder_level1 = stage(*stages[0])
        self.down1_2 = resample(w1, w1 // 2, nn.PixelUnshuffle(2))
        self.encoder_level2 = stage(*stages[1])
        self.down2_3 = resample(w2, w2 // 2, nn.PixelUnshuffle(2))
        self.encoder_level3 = stage(*stages[2])
        self.down3_4 = resample(w3, w3 // 2, nn.PixelUnshuffle(2))
        self.latent = stage(*stages[3])
        self.up4_3 = resample(w4, w4 * 2, nn.PixelShuffle(2))
        self.reduce_chan_level3 = nn.Conv2d(2 * w3, w3, 1, bias=bias)
        self.decoder_level3 = stage(*stages[2])
        self.up3_2 = resample(w3, w3 * 2, nn.PixelShuffle(2))
        self.reduce_chan_level2 = nn.Conv2d(2 * w2, w2, 1, bias=bias)
        self.decoder_level2 = stage(*stages[1])
        self.up2_1 = resample(w2, w2 * 2, nn.PixelShuffle(2))
        self.decoder_level1 = stage(2 * w1, blocks[0], heads[0])
        self.refinement = stage(2 * w1, refinement_blocks, heads[0])
        self.output = nn.Conv2d(2 * w1, 3, 3, padding=1, bias=bias)
        self.tap_channels = {"encoder_level2": w2, "encoder_level3": w3, "latent": w4}

    def forward(
        self, blurry: Tensor, return_taps: bool = False
    ) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """(B, 3, H, W) in [0, 1], any H, W >= 1 -> `taught`, the same shape, not clipped.

        With `return_taps` -> `(taught, taps)`: the outputs of `encoder_level2` (2 dim channels),
        `encoder_level3` (4 dim) and `latent` (8 dim) at 1/2, 1/4 and 1/8 of the size of the input
        padded to multiples of 8 at the bottom and right.
        """

        def run(stage: nn.Module, x: Tensor) -> Tensor:
            return stage(x.contiguous(memory_format=torch.channels_last))

        H, W = blurry.shape[-2:]
        padded = pad_to_multiple(blurry, 8)
        level1 = run(self.encoder_level1, self.patch_embed(padded))
        level2 = run(self.encoder_level2, self.down1_2(level1))  # (B, 2 dim, H/2, W/2)
        level3 = run(self.encoder_level3, self.down2_3(level2))  # (B, 4 dim, H/4, W/4)
        latent = run(self.latent, self.down3_4(level3))  # (B, 8 dim, H/8, W/8)
        x = self.reduce_chan_level3(torch.cat([self.up4_3(latent), level3], dim=1))
        x = run(self.decoder_level3, x)  # (B, 4 dim, H/4, W/4)
        x = self.reduce_chan_level2(torch.cat([self.up3_2(x), level2], dim=1))
        x = run(self.decoder_level2, x)  # (B, 2 dim, H/2, W/2)
        x = run(self.decoder_level1, torch.cat([self.up2_1(x), level1], dim=1))
        taught = (self.output(self.refinement(x)) + padded)[..., :H, :W]  # (B, 3, H, W)
        taps = {"encoder_level2": level2, "encoder_level3": level3, "latent": latent}
        return (taught, taps) if return_taps else taught


def restormer_sizes(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Arguments of `Restormer` that fit a state dict; raises KeyError where it is none."""
    stages = [f"encoder_level{level}" for level in (1, 2, 3)] + ["latent"]

    def count(stage: str) -> int:
        return len({name.split(".")[1] for name in weights if name.startswith(f"{stage}.")})

    dim = weights["patch_embed.proj.weight"].shape[0]
    hidden = [weights[f"{stage}.0.ffn.project_out.weight"].shape[1] for stage in stages]
    # int(width * expansion) is known at every level, which bounds the expansion on both sides.
    bounds = [(h / (dim * 2**i), (h + 1) / (dim * 2**i)) for i, h in enumerate(hidden)]
    expansion = (max(low for low, _ in bounds) + min(high for _, high in bounds)) / 2
    return {
        "dim": dim,
        "blocks": [count(stage) for stage in stages],
        "refinement_blocks": count("refinement"),
        "heads": [weights[f"{stage}.0.attn.temperature"].shape[0] for stage in stages],
        "expansion": expansion,
        "bias": "latent.0.attn.qkv.bias" in weights,
        "norm_bias": "latent.0.norm1.body.bias" in weights,
    }


def restormer_from_weights(path: Path) -> Restormer:
    """The frozen teacher of a weights file, its sizes inferred from the weights.

    Reads a state dict with the released names, plain or as a training script saves it. Raises
    SharpeningError if the file is missing, unreadable or of another architecture.
    """
    if not path.is_file():
        raise SharpeningError(
            f"there are no teacher weights {path}: download motion_deblurring.pth from "
            "https://github.com/swz30/Restormer/releases and put it there, or give others with "
            "--teacher.weights; --demo runs with a small teacher that ships"
        )
    first = "patch_embed.proj.weight"
    weights = unwrapped(network_weights(load_checkpoint(path)), first)
    if first in weights and (channels := weights[first].shape[1]) != 3:
        raise SharpeningError(
            f"{path} is a Restormer for images of {channels} channels, and these have 3: give one "
            "for RGB as --teacher.weights, such as the released motion_deblurring.pth"
        )
    try:
        teacher = Restormer(**restormer_sizes(weights))
    except (KeyError, AttributeError, IndexError) as error:
        raise SharpeningError(
            f"{path} is no Restormer (it has no {error}; it holds: {', '.join(list(weights)[:4])}):"
            " give the released motion_deblurring.pth or one trained by tools/train_other.py"
        ) from error
    load_strictly(teacher, weights, path)
    teacher = teacher.to(memory_format=torch.channels_last)  # 1x1 convolutions 1.7 times as fast
    return teacher.eval().requires_grad_(False)


# --------------------------------------------------------------------------------------------------
# Losses
# --------------------------------------------------------------------------------------------------


TAPS = {"half": "encoder_level2", "quarter": "encoder_level3", "eighth": "latent"}
"""Student tap -> the teacher tap of the same resolution that it imitates."""
VGG_LAYERS = ("relu1_2", "relu2_2", "relu3_4", "relu4_4")
"""Layers of VGG-19 that the perceptual term compares."""


class VggFeatures(nn.Module):
    """Frozen VGG-19 (arXiv 1409.1556) on images in [0, 1], as a list of named activations."""

    def __init__(self, weights: Path | None = None, layers: Sequence[str] = VGG_LAYERS):
        super().__init__()
        self.net = load_vgg(weights)
        self.names = {}
        block, conv = 1, 0
        for index, layer in enumerate(self.net):
            if isinstance(layer, nn.Conv2d):
                conv += 1
            elif isinstance(layer, nn.ReLU):
                layer.inplace = False  # the activations that are returned must stay
                self.names[index] = f"relu{block}_{conv}"
            else:
                block, conv = block + 1, 0
        last = max(i for i, name in self.names.items() if name in layers)
        self.net, self.wanted = self.net[: last + 1], set(layers)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        x, found = (image - self.mean) / self.std, []
        for index, layer in enumerate(self.net):
            x = layer(x)
            if self.names.get(index) in self.wanted:
                found.append(x)
        return found


def load_vgg(path: Path | None) -> nn.Sequential:
    """Convolutional part of torchvision's VGG-19 with ImageNet weights from `path` or the web."""
    import torchvision  # here, as four below: half of the time that a start takes

    weights = torchvision.models.VGG19_Weights.IMAGENET1K_V1
    advice = (
        f"download {weights.url} and give its path as --loss.vgg-weights, or switch the term off "
        "with --loss.perceptual 0"
    )
    try:
        if path is None:
            return torchvision.models.vgg19(weights=weights).features
        net = torchvision.models.vgg19(weights=None)
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except UNREADABLE as error:
        what = f"the VGG-19 weights {path or 'of torchvision'} cannot be loaded"
        raise SharpeningError(f"{what} ({reason(error)}): {advice}") from error
    return net.features


def perceptual_loss(vgg: nn.Module, restored: Tensor, taught: Tensor) -> Tensor:
    """L1 between VGG features, mean over layers (arXiv 1603.08155)."""
    with torch.no_grad():
        aims = vgg(taught)
    return torch.stack([F.l1_loss(a, b) for a, b in zip(vgg(restored), aims, strict=True)]).mean()


def feature_loss(projected: dict[str, Tensor], taught_taps: dict[str, Tensor]) -> Tensor:
    """L1 between projected student taps and teacher taps of the same names, mean over the taps.

    Student and teacher may pad to different multiples; the area that both have is compared.
    """
    losses = []
    for name, tap in projected.items():
        aim = taught_taps[name]
        H, W = min(tap.shape[2], aim.shape[2]), min(tap.shape[3], aim.shape[3])
        losses.append(F.l1_loss(tap[..., :H, :W].float(), aim[..., :H, :W].float()))
    return torch.stack(losses).mean()


def kl_loss(restored: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """KL(taught || restored) of the softmax over channels, mean over pixels, times T^2
    (arXiv 1503.02531)."""
    student = F.log_softmax(restored / temperature, dim=1)
    teacher = F.log_softmax(taught / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    return divergence.mean() * temperature**2


def taught_loss(restored: Tensor, taught: Tensor, sharp: Tensor) -> Tensor:
    """L1 of pixels and of spectra between restored and taught, where taught is nearer to sharp in
    the mean of 15 x 15 pixels: value by value, L1 would pull the same way as with sharp."""
    own = restored.detach()
    lead = ((own - sharp).abs() - (taught - sharp).abs()).mean(1, keepdim=True)
    aim = torch.where(F.avg_pool2d(lead, 15, 1, 7) > 0, taught, own)
    return F.l1_loss(restored, aim) + frequency_loss(restored, aim)


def mean_ssim(a: Tensor, b: Tensor, peak: float) -> Tensor:
    """SSIM of two (B, 3, H, W) batches by the convention of the metric `ssim`."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    a, b = (t.contiguous(memory_format=torch.channels_last) for t in (a, b))  # 3 times as fast
    _, full = structural_similarity_index_measure(a, b, data_range=peak, return_full_image=True)
    return full[..., 5:-5, 5:-5].mean()  # torchmetrics adds windows over a mirrored border


def frequency_loss(restored: Tensor, sharp: Tensor) -> Tensor:
    """L1 between the orthonormal 2-D Fourier transforms, real and imaginary (arXiv 2108.05054)."""
    spectrum = torch.fft.rfft2(restored - sharp, norm="ortho")
    return torch.view_as_real(spectrum).abs().mean()


def distillation_loss(
    restored: Tensor,
    sharp: Tensor,
    config: LossConfig,
    taught: Tensor | None = None,
    projected: dict[str, Tensor] | None = None,
    taught_taps: dict[str, Tensor] | None = None,
    vgg: nn.Module | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of the active terms, and each term alone, unweighted and detached.

    Images are (B, 3, H, W) around [0, 1]; `taught`, the taps and `vgg` are needed only by terms
    whose weight is not 0.
    """
    restored = restored.float()
    work = {
        "recon": lambda: F.l1_loss(restored, sharp),
        "perceptual": lambda: perceptual_loss(vgg, restored, taught),
        "feature": lambda: feature_loss(projected, taught_taps),
        "kl": lambda: kl_loss(restored, taught, config.temperature),
        "taught": lambda: taught_loss(restored, taught, sharp),
        "ssim": lambda: 1 - mean_ssim(restored, sharp, 1.0),
        "frequency": lambda: frequency_loss(restored, sharp),
    }
    terms = {name: compute() for name, compute in work.items() if getattr(config, name)}
    total = sum(getattr(config, name) * term for name, term in terms.items())
    return total, {name: term.detach() for name, term in terms.items()}


# --------------------------------------------------------------------------------------------------
# Metrics
# --------------------------------------------------------------------------------------------------


def psnr(image: np.ndarray, sharp: np.ndarray) -> float:
    """PSNR in dB of two (H, W, 3) uint8 images over all RGB values, peak 255; 100 if equal."""
    from skimage.metrics import peak_signal_noise_ratio

    if np.array_equal(image, sharp):
        return 100.0
    return float(peak_signal_noise_ratio(sharp, image, data_range=255))


def ssim(image: np.ndarray, sharp: np.ndarray) -> float:
    """SSIM (Wang et al. 2004) of two (H, W, 3) uint8 images, H, W >= 11: Gaussian window of 11,
    sigma 1.5, population covariance, mean over RGB and all windows inside the image."""
    from skimage.metrics import structural_similarity

    pair = (image.astype(np.float32), sharp.astype(np.float32))  # twice as fast as float64
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(*pair, channel_axis=2, data_range=255, **window))


def gmacs(net: nn.Module, side: int = 256) -> float:
    """Billions of multiply-adds of one forward pass on a side x side image."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(net.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, side, side, device=device))
    return counter.get_total_flops() / 2e9


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# --------------------------------------------------------------------------------------------------
# EMA and schedule
# --------------------------------------------------------------------------------------------------


def ema_decay(step: int, decay: float) -> float:
    """Decay after optimizer step `step` (from 1): small at first, to forget the start."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def update_ema(ema: nn.Module, net: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * net for floats; integers are copied."""
    averages, values = ema.state_dict(), net.state_dict()
    floats = [name for name, value in values.items() if value.is_floating_point()]
    torch._foreach_lerp_([averages[n] for n in floats], [values[n] for n in floats], 1 - decay)
    for name in values.keys() - set(floats):
        averages[name].copy_(values[name])


def cycle_ends(steps: int, cycles: int, growth: float) -> list[int]:
    """Step at which each cosine cycle ends; each is `growth` times as long as the one before."""
    lengths = [growth**k for k in range(cycles)]
    return [round(steps * sum(lengths[: k + 1]) / sum(lengths)) for k in range(cycles)]


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Rate of optimizer step `step` (from 0) of `steps`: linear warm-up, then cosine annealing with
    warm restarts (arXiv 1608.03983) whose last cycle ends with the last step."""
    ends = cycle_ends(steps, config.restart_cycles, config.cycle_growth)
    cycle = next((k for k, end in enumerate(ends) if step < end), len(ends) - 1)
    start = ends[cycle - 1] if cycle else 0
    progress = (step - start) / max(1, ends[cycle] - start)
    span = config.learning_rate - config.lowest_rate
    rate = config.lowest_rate + span * (1 + math.cos(math.pi * min(progress, 1))) / 2
    return rate * min(1.0, (step + 1) / max(1, config.warmup_steps))


# --------------------------------------------------------------------------------------------------
# Tiled inference and Sharpener
# --------------------------------------------------------------------------------------------------

Compute = Callable[[Sequence[np.ndarray]], list[np.ndarray]]
"""Images of one size, (H, W, 3) uint8 or uint16, through a network at once -> the same. Back ends
take the strength as a second argument."""


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixel of each tile along one axis; neighbours share at least `overlap` pixels and the
    last tile ends at the edge."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def even_tile(length: int, tile: int, overlap: int) -> int:
    """The smallest side, a multiple of 16, of as many tiles as `tile` needs to cover `length`: 1100
    pixels take two tiles of 592 instead of two of 1024."""
    if length <= tile:
        return length
    count = len(tile_starts(length, tile, overlap))
    even = math.ceil((length + (count - 1) * overlap) / count)
    return min(tile, math.ceil(even / 16) * 16)


def paste(canvas: np.ndarray, patch: np.ndarray, start: int, overlap: int) -> None:
    """Put `patch` (h, W, 3) on `canvas` (H, W, 3) from row `start` on. Below the first row it is
    faded in by a raised cosine over `overlap` rows: the weights of old and new sum to 1."""
    faded, solid = np.split(patch, [overlap if start else 0])
    end = start + len(patch)
    canvas[end - len(solid) : end] = solid
    if len(faded):
        share = np.sin(np.pi / 2 * (np.arange(overlap, dtype=np.float32) + 0.5) / overlap) ** 2
        old = canvas[start : start + overlap].astype(np.float32)
        canvas[start : start + overlap] = np.rint(old + (faded - old) * share[:, None, None])


def sharpen_tiled(
    compute: Compute, image: np.ndarray, runtime: Runtime, tile: int, overlap: int, batch: int = 1
) -> np.ndarray:
    """`compute` on overlapping tiles of an image (H, W, 3), `batch` to a call -> the same shape and
    type. Only tiles are on the device. A row of tiles is blended first, then the rows."""
    H, W, _ = image.shape
    height, width = even_tile(H, tile, overlap), even_tile(W, tile, overlap)
    rows, columns = tile_starts(H, height, overlap), tile_starts(W, width, overlap)
    places = [(i, k) for i in range(len(rows)) for k in range(0, len(columns), batch)]

    def restore(place: tuple[int, int]) -> list[np.ndarray]:
        top, lefts = rows[place[0]], columns[place[1] : place[1] + batch]
        return compute([image[top : top + height, left : left + width] for left in lefts])

    result, band = np.empty_like(image), np.empty_like(image[:height])
    with side_by_side(runtime) as pool:
        for (i, first), tiles in prefetch(pool, restore, places, lambda: 2 * SIDE_BY_SIDE):
            for k, restored in enumerate(tiles.result(), first):
                paste(band.swapaxes(0, 1), restored.swapaxes(0, 1), columns[k], overlap)
            if first + batch >= len(columns):
                paste(result, band, rows[i], overlap)
    return result


def to_tensor(image: np.ndarray, device: torch.device) -> Tensor:
    """(H, W, 3) uint8 or uint16 -> (1, 3, H, W) float32 in [0, 1], channels-last."""
    peak = np.iinfo(image.dtype).max
    writable = np.require(image, requirements=["C", "W"])  # PyTorch warns of other arrays
    pixels = torch.from_numpy(writable).to(device).permute(2, 0, 1)[None]
    return pixels.float().div_(peak)


def to_image(tensor: Tensor, dtype: np.dtype) -> np.ndarray:
    """(3, H, W) around [0, 1] -> (H, W, 3) of an integer dtype, clipped and rounded; it is an
    integer before it leaves the device."""
    levels = tensor.float().clamp(0, 1).mul_(np.iinfo(dtype).max).round_()
    whole = levels.to(getattr(torch, np.dtype(dtype).name)).permute(1, 2, 0)
    return whole.contiguous().cpu().numpy()


@torch.inference_mode()
def run_net(net: nn.Module, blurry: Tensor, runtime: Runtime) -> Tensor:
    """`net` under autocast, and again in float32 if the result is not finite: fp16 ends at 65,504.
    Raises `SharpeningError` if that is not finite either."""
    with runtime.autocast():
        restored = net(blurry)
    if math.isfinite(restored.sum().item()):
        return restored
    if runtime.dtype != torch.float32:
        runtime.say(f"the result is not finite in {runtime.precision}: computed again in fp32")
        restored = net(blurry)
        if math.isfinite(restored.sum().item()):
            return restored
    raise SharpeningError(
        "the network gives values that are not finite: its weights are damaged or diverged in "
        "training; give another student with --checkpoint"
    )


def run_pytorch(
    net: nn.Module, runtime: Runtime, images: Sequence[np.ndarray], strength: float = 1.0
) -> list[np.ndarray]:
    """Images of one size by PyTorch: a blend of image and result, 0 to 1 of the result, rounded."""
    batch = torch.cat([to_tensor(image, runtime.device) for image in images])
    restored = run_net(net, batch, runtime)
    if strength != 1:
        restored = batch + strength * (restored - batch)
    return [to_image(each, images[0].dtype) for each in restored]


def with_pool_window(student: SEUNet, window: int | None) -> SEUNet:
    """The same weights, squeezing over windows of `window` pixels; None: over the whole image."""
    pooled = SEUNet(dataclasses.replace(student.config, pool_window=window))
    pooled.load_state_dict(student.state_dict())
    return pooled.eval().requires_grad_(False)


def calibration_crops(side: int = 256) -> list[np.ndarray]:
    """Blurred crops (side, side, 3) uint8 of the demo's training photographs, two of each."""
    crops = []
    blur = DegradationConfig(response_power=1.0)
    for _, blurry, _ in EvaluationImages(demo_pairs("train"), blur):
        top = (blurry.shape[0] - side) // 2
        crops += [blurry[top : top + side, :side], blurry[top : top + side, -side:]]
    return [crop for crop in crops if crop.shape == (side, side, 3)]


def build_backend(net: nn.Module, name: str, runtime: Runtime, megapixels: float = 0) -> Backend:
    """What computes images with `net`: `InferenceConfig.backend` says which names there are."""
    on_cpu = runtime.device.type == "cpu"
    if name in ("auto", "pytorch", "compiled"):
        net = net.to(runtime.device, memory_format=torch.channels_last)
        ready = runtime.compiled(net) if name == "compiled" else net
        compute = functools.partial(run_pytorch, ready, runtime)
        if name == "auto" and on_cpu:
            return fastest_backend(net, runtime, compute, megapixels)
        return Backend("compiled" if name == "compiled" else "pytorch", runtime, compute)
    if not on_cpu:
        raise SharpeningError(f"--inference.backend {name} computes on the CPU: --device cpu")
    if name == "openvino":
        return fastest_backend(net, runtime)
    return int8_backend(net, runtime, calibration_crops())


class Sharpener:
    """A trained network that sharpens images of any size, whole or in tiles, on any back end.

        sharpen = Sharpener.load("standard")        # or "live", or a checkpoint file
        image = sharpen(image, strength=1.0)        # an array or a PIL image comes back as it was
        images = sharpen.images([image, image])     # (H, W, 3) of one size, computed at once

    It may be called from several threads. `megapixels`: how many are expected; "auto" prepares
    OpenVINO only for many. `backend` is the back end in use. Raises SharpeningError for damaged
    weights, for images of another kind and for too little memory.
    """

    def __init__(
        self,
        net: nn.Module,
        runtime: Runtime,
        config: InferenceConfig | None = None,
        megapixels: float = 0,
    ):
        self.config = config or InferenceConfig()
        if self.config.pool_window is not None:
            net = with_pool_window(net, self.config.pool_window or None)
        megapixels *= self.config.self_ensemble
        made = build_backend(net, self.config.backend, runtime, megapixels)
        self.backend, self.runtime, self.compute, self.timing = made
        self.fitting: dict[tuple[int, ...], int] = {}  # image size -> tile that memory holds

    @classmethod
    def load(
        cls,
        student: str | Path = "standard",
        runtime: Runtime | None = None,
        config: InferenceConfig | None = None,
        megapixels: float = 0,
    ) -> "Sharpener":
        """The shipped student "standard" or "live", or that of a checkpoint file."""
        path = SHIPPED_STUDENTS.get(str(student), Path(student))
        config = for_student(path, config or InferenceConfig())
        return cls(load_student(path), runtime or default_runtime(), config, megapixels)

    def __call__(self, image: Any, strength: float = 1.0) -> Any:
        """One image of a kind that `image_arrays.to_rgb` understands -> the same kind and size.

        `strength` blends image and result: 0 gives the image, 1 the result.
        """
        rgb, give_back = to_rgb(image)
        return give_back(self.images([rgb], strength)[0])

    def images(self, images: Sequence[np.ndarray], strength: float = 1.0) -> list[np.ndarray]:
        """Images (H, W, 3) uint8 or uint16 of one size -> the same."""
        if not 0 <= strength <= 1:
            raise SharpeningError(f"strength must be from 0 to 1: {strength}")
        if strength == 0:
            return [image.copy() for image in images]
        results = self.ensemble(images, strength)
        if self.config.refine in ("auto", "none"):
            return results

        def again(small: np.ndarray) -> np.ndarray:
            return self.compute_all([small], strength)[0]

        more = (again if self.config.refine == "all" else None, strength, self.runtime.device)
        return [refined(*pair, *more) for pair in zip(images, results, strict=True)]

    def ensemble(self, images: Sequence[np.ndarray], strength: float) -> list[np.ndarray]:
        """The mean over the results of the turned images, turned back (arXiv 1707.02921)."""
        if self.config.self_ensemble == 1:
            return self.compute_all(images, strength)
        total = np.zeros((len(images), *images[0].shape), np.float32)
        for turns in range(self.config.self_ensemble):
            turned = [np.ascontiguousarray(np.rot90(image, turns)) for image in images]
            restored = np.stack(self.compute_all(turned, strength))
            total += np.rot90(restored, -turns, axes=(1, 2))
        return list(np.rint(total / self.config.self_ensemble).astype(images[0].dtype))

    def compute_all(self, images: Sequence[np.ndarray], strength: float) -> list[np.ndarray]:
        """The images through the network. When memory runs out, the tile is halved and the work
        repeated; the tile is remembered for later calls."""
        shape, compute = images[0].shape, functools.partial(self.compute, strength=strength)
        tile = self.tile(shape, len(images))
        while True:
            try:
                if tile is None:
                    return compute(images)
                settings = (tile, self.config.overlap, self.config.tile_batch)
                return [sharpen_tiled(compute, i, self.runtime, *settings) for i in images]
            except (RuntimeError, MemoryError) as error:
                if not ran_out_of_memory(error):
                    raise
            # after the handler, whose traceback keeps the tensors of the attempt alive
            tile = self.fitting[shape] = smaller_tile(tile or max(shape), self.config.overlap)
            torch.cuda.empty_cache()
            self.runtime.say(f"out of memory: going on in tiles of {tile} pixels")

    def tile(self, shape: tuple[int, ...], count: int = 1) -> int | None:
        """Side of the tiles of `count` images (H, W, ...); None: whole."""
        if shape in self.fitting:
            return self.fitting[shape]
        if self.config.tile is not None:
            return self.config.tile if max(shape[:2]) > self.config.tile else None
        whole = whole_limit(self.runtime) >= count * shape[0] * shape[1]
        return None if whole else LARGEST_TILE

    def describe(self) -> str:
        """Device, back end, precision, timings, and how images are cut, in two lines."""
        limit = f"{whole_limit(self.runtime) / 1e6:.1f} megapixels"
        if self.config.tile is not None:
            limit = f"{self.config.tile} pixels a side"
        return (
            f"{self.runtime.device_name}, {self.backend}, {self.runtime.precision}"
            f"{self.timing}\n"
            f"images up to {limit} whole, larger ones in tiles of "
            f"{self.config.tile or LARGEST_TILE} pixels that overlap by {self.config.overlap}"
        )


# --------------------------------------------------------------------------------------------------
# Evaluation: PSNR, SSIM, FPS
# --------------------------------------------------------------------------------------------------


def evaluate_quality(
    sharpeners: dict[str, Sharpener],
    images: EvaluationImages,
    runtime: Runtime,
    workers: int = 0,
    folder: Path | None = None,
) -> dict[str, float]:
    """Mean PSNR and SSIM over the test images, of the blurred input and of each result, and the
    share of images whose PSNR falls.

    RGB, rounded to uint8, whole images at native size, mean over images. If some test images are
    blurred and others equal their sharp image, which has an infinite PSNR, only the blurred ones
    are in the means, and the others are counted as `not_blurred`. The images are shared out over
    the processes; sums and counts are added up. The first sharpener's results and a strip
    `blurry | results | sharp` go to `folder`.
    """
    share = range(runtime.rank, len(images), runtime.world)
    loader = make_loader(images, min(2, workers), batch_size=None, sampler=share)
    measures = ("psnr", "ssim", "worse")
    names = ["images", *(f"{m}_{name}" for name in ("blurry", *sharpeners) for m in measures)]
    sums = {blurred: dict.fromkeys(names, 0.0) for blurred in (True, False)}
    with contextlib.closing(LoadedItems(loader)) as rows:
        bar = tqdm(rows, "evaluate", len(share), disable=not runtime.is_main, leave=False)
        for index, blurry, sharp in bar:
            blurry, sharp = blurry.numpy(), sharp.numpy()  # the loader hands over tensors
            shown = {"blurry": blurry, **{name: do(blurry) for name, do in sharpeners.items()}}
            if folder is not None:
                save_strip(folder / images.pairs[index].name, [*shown.values(), sharp])
            kind = sums[not np.array_equal(blurry, sharp)]
            kind["images"] += 1
            before = psnr(blurry, sharp)
            for name, image in shown.items():
                after = psnr(image, sharp)
                kind[f"psnr_{name}"] += after
                kind[f"ssim_{name}"] += ssim(image, sharp)
                kind[f"worse_{name}"] += after < before
    blurred, equal = (runtime.total(list(sums[kind].values())) for kind in (True, False))
    count, *totals = blurred if blurred[0] else equal
    made = sum(pair.blurry is None for pair in images.pairs)
    counts = {"images": len(images), "not_blurred": int(equal[0]), "blurred_synthetically": made}
    return counts | {n: t / count for n, t in zip(names[1:], totals, strict=True)}


SPEED_SIZES = {"512x512": (512, 512, None), "1920x1080": (1080, 1920, 1024)}
"""Frames that are timed: name -> height, width, and the largest tile side (None: whole)."""


def evaluate_speed(sharpen: Sharpener) -> dict[str, float]:
    """Frames per second at `SPEED_SIZES`, from a frame in memory to a frame in memory."""
    rates = {}
    for name, (H, W, tile) in SPEED_SIZES.items():
        timed = copy.copy(sharpen)
        timed.config = dataclasses.replace(sharpen.config, tile=tile)
        work = functools.partial(timed.images, [demo_frame(H, W)])
        rates[f"fps_{name}"] = 1 / seconds_per_call(work, sharpen.runtime)
    return rates


def evaluate(config: Config, runtime: Runtime) -> dict[str, Any]:
    """The `--evaluate` mode: quality and speed of a checkpoint, as a table and one JSON line."""
    path = default_checkpoint(config)
    student = load_student(path)
    inference = for_student(path, config.inference)
    sharpeners = {"student": Sharpener(student, runtime, inference, math.inf)}
    if config.teacher_too or (config.demo and config.loss.teacher_terms):
        teacher = restormer_from_weights(config.teacher.weights)
        sharpeners["teacher"] = Sharpener(teacher, runtime, config.inference.as_trained())
    images = EvaluationImages(split_pairs(config, "test"), config.degradation)
    folder, workers = config.train.samples, config.data.workers
    result: dict[str, Any] = {"checkpoint": str(path)}
    result |= evaluate_quality(sharpeners, images, runtime, workers, folder)
    if runtime.is_main:
        made = sharpeners["student"]
        result |= {"device": runtime.device_name, "dtype": made.runtime.precision}
        result |= {"backend": made.backend, "parameters": parameters(student)}
        result |= {"gmacs_256": gmacs(student)} | evaluate_speed(made)
        print_table(result, ("blurry", *sharpeners))
        print(json.dumps(result))
    return result


# --------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------


class Trainee(nn.Module):
    """All that the optimizer trains: the network, and 1x1 projections of its taps if it distils."""

    def __init__(self, net: nn.Module, teacher: Restormer | None):
        super().__init__()
        self.net = net
        self.projections = nn.ModuleDict()  # by the name of the teacher's tap
        if teacher is not None:
            for name, aim in TAPS.items():
                channels = net.tap_channels[name], teacher.tap_channels[aim]
                self.projections[aim] = nn.Conv2d(*channels, 1)

    def forward(self, blurry: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.projections:
            return self.net(blurry), {}
        restored, taps = self.net(blurry, return_taps=True)
        return restored, {aim: self.projections[aim](taps[name]) for name, aim in TAPS.items()}


def build_network(config: Config) -> nn.Module:
    """The student with random weights: what `train` trains unless it is given another function."""
    return SEUNet(config.student)


def build_optimizer(weights: Iterable[nn.Parameter], config: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer that `--train.optimizer` names."""
    if config.optimizer == "muon":
        return MuonAndAdam(weights, config.learning_rate)
    return torch.optim.Adam(weights, config.learning_rate, (0.9, 0.99))


def make_plan(config: Config, images: int, world: int) -> Plan:
    """The plan for a number of training images and of processes."""
    per_image, epochs = config.data.crops_per_image, config.train.epochs
    crops = config.data.batch_size * config.train.accumulation * world
    per_epoch = config.train.steps_per_epoch or math.ceil(images * per_image / crops)
    return Plan(images, crops // per_image, crops, per_epoch, epochs)


@dataclass
class TrainState(Progress):
    """All that changes during training, and so all that a resumed run needs."""

    trainee: Trainee
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def payload(self, config: Config) -> dict[str, Any]:
        """What last.pth holds; like every checkpoint also `student` and `params`."""
        return network_payload(
            self.trainee.net,
            ema=self.ema.state_dict(),
            projections=self.trainee.projections.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            config=to_dict(config),
            **self.done(),
        )

    def restore(self, path: Path) -> None:
        """Go back to what last.pth holds."""
        payload = load_checkpoint(path)
        needed = {"params", "ema", "projections", "optimizer", "scaler", *self.done()}
        if missing := needed - payload.keys():
            raise SharpeningError(
                f"{path} cannot be resumed, it lacks {', '.join(sorted(missing))}: give the folder "
                "of a last.pth that training wrote as --train.folder"
            )
        load_strictly(self.trainee.net, payload["params"], path)
        if bool(payload["projections"]) != bool(self.trainee.projections):
            raise SharpeningError(
                f"{path} was trained with{'' if payload['projections'] else 'out'} the feature "
                "term, which cannot be switched at resume: give --loss.feature as before, or start "
                "over in another --train.folder"
            )
        if payload["optimizer"].keys() != self.optimizer.state_dict().keys():
            raise SharpeningError(
                f"{path} was trained with another optimizer, which cannot be switched at resume: "
                "give --train.optimizer as before, or begin anew from its weights with "
                f"--train.initial-weights {path} in another --train.folder"
            )
        load_strictly(self.trainee.projections, payload["projections"], path)
        load_strictly(self.ema, payload["ema"], path)
        self.optimizer.load_state_dict(payload["optimizer"])
        if payload["scaler"]:  # empty if the run was not in fp16
            self.scaler.load_state_dict(payload["scaler"])
        self.go_back(payload)


def fresh_state(
    config: Config,
    teacher: Restormer | None,
    runtime: Runtime,
    build: Callable[[Config], nn.Module] = build_network,
) -> TrainState:
    """Random or `initial_weights`, equal on every process, and their optimizer."""
    torch.manual_seed(config.train.seed)
    net, given = build(config), config.train.initial_weights
    if given and not config.resume:
        advice = (
            "a student's sizes come with --train.initial-weights: leave out --size and --student; "
            "of a file without sizes give them"
        )
        load_strictly(net, network_weights(load_checkpoint(given)), given, advice)
    trainee = Trainee(net, teacher if config.loss.feature else None)
    trainee = trainee.to(runtime.device, memory_format=torch.channels_last)
    ema = copy.deepcopy(trainee.net).eval().requires_grad_(False)
    optimizer = build_optimizer(trainee.parameters(), config.train)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
    evaluated = -1 if given else 0  # given weights are measured before the first step
    return TrainState(trainee, ema, optimizer, scaler, evaluated=evaluated)


def prepare_training(
    config: Config, runtime: Runtime, build: Callable[[Config], nn.Module] = build_network
) -> tuple[
    GoProSharpeningDataset, EvaluationImages, Restormer | None, nn.Module | None, TrainState
]:
    """Data, teacher, VGG and a fresh or resumed state. Whatever is missing shows here."""
    last = config.train.folder / "last.pth"
    if last.exists() and not (config.resume or config.overwrite):
        raise SharpeningError(
            f"{last} belongs to an earlier training: go on with --resume --train.folder "
            f"{config.train.folder}, start over with --overwrite, or choose another folder"
        )
    images = EvaluationImages(split_pairs(config, "test"), config.degradation)
    pairs = split_pairs(config, "train")
    teacher = vgg = None
    if config.loss.teacher_terms and config.teacher.results:
        pairs = add_teacher_results(pairs, config.teacher.results, config.data.synthetic_share)
    elif config.loss.teacher_terms:
        teacher = restormer_from_weights(config.teacher.weights).to(runtime.device)
    if config.loss.perceptual:
        vgg = VggFeatures(config.loss.vgg_weights).to(runtime.device)
    images.check(runtime)
    dataset = GoProSharpeningDataset(pairs, config.data, config.train.seed)
    state = fresh_state(config, teacher, runtime, build)
    if config.resume:
        state.restore(last)
    runtime.on_main(lambda: write_settings(config.train.folder / "config.json", config))
    if change := state.follow(make_plan(config, len(dataset), runtime.world)):
        runtime.say(change)
    if state.plan.steps <= config.train.warmup_steps:
        runtime.say(
            f"the training ends in its warm-up: it has {state.plan.steps} steps, and the learning "
            f"rate rises for --train.warmup-steps {config.train.warmup_steps}"
        )
    return dataset, images, teacher, vgg, state


def teach(
    teacher: Restormer | None, blurry: Tensor, stored: Tensor | None, runtime: Runtime
) -> tuple[Tensor | None, dict[str, Tensor] | None]:
    """The teacher's image and taps for a batch, without gradients. Without a teacher: its stored
    result, if there is one, and no taps."""
    if teacher is None:
        return stored, None
    with torch.no_grad(), runtime.autocast():
        taught, taps = teacher(blurry, return_taps=True)
    return taught.float(), taps


def check_finite(losses: Sequence[Tensor], norm: Tensor, state: TrainState) -> None:
    """Raise SharpeningError before a step whose loss or gradient is not finite. In fp16 the scaler
    leaves out a step whose gradient is not."""
    *values, norm = torch.stack([*losses, norm]).tolist()  # the step's only wait for a GPU
    values = {"loss": sum(values)} | ({} if state.scaler.is_enabled() else {"gradient": norm})
    for what, value in values.items():
        if not math.isfinite(value):
            raise SharpeningError(
                f"the {what} is {value} at step {state.step + 1}: the training diverged. What was "
                "saved is sound: lower --train.learning-rate, then --resume with the same "
                "--train.folder"
            )


def train(
    config: Config,
    runtime: Runtime,
    build: Callable[[Config], nn.Module] = build_network,
    load: Callable[..., Iterator[tuple[Tensor, ...]]] = training_batches,
) -> Path:
    """The default mode: train the network that `build` makes on the batches that `load` gives
    -> path of the final checkpoint."""
    settings = config.train
    dataset, images, teacher, vgg, state = prepare_training(config, runtime, build)
    model = runtime.wrap(state.trainee, settings.compile)
    plan, last_step = state.plan, state.step + state.plan.steps - state.position
    runtime.say(
        f"{len(dataset.real)} real training pairs, {len(dataset.synthetic)} images blurred "
        f"synthetically, {plan.steps} steps in {settings.epochs} epochs, "
        f"{parameters(state.trainee.net) / 1e6:.2f} M parameters, {runtime.device_name}, "
        f"{runtime.precision}"
    )

    def save() -> None:
        state.unlogged = log.unwritten()
        last = settings.folder / "last.pth"
        runtime.on_main(lambda: save_checkpoint(last, state.payload(config)))

    def evaluate_when_due() -> None:
        if state.ends_epochs(settings.evaluate_every) and state.evaluated < state.step:
            with stop.interruptible():
                evaluate_training(state, images, config, runtime, log)
            save()

    def leave() -> None:
        save()
        runtime.say(
            f"stopped after step {state.step} of {last_step}; go on with --resume "
            f"--train.folder {settings.folder}"
        )

    log_settings = (settings.log_every, config.data.batch_size, runtime, state.unlogged)
    with (
        StopSignal(runtime) as stop,
        RunLog(settings.folder, last_step, state.step, *log_settings) as log,
        contextlib.closing(load(dataset, state.drawn, runtime)) as batches,
        stop.leaving(leave),
    ):
        evaluate_when_due()  # of given weights, or where the run was interrupted in an evaluation
        while state.position < plan.steps:
            rate = learning_rate(state.position, plan.steps, settings)
            for group in state.optimizer.param_groups:
                group["lr"] = rate

            losses = []
            for micro in range(settings.accumulation):
                with log.waiting(), stop.interruptible():
                    batch = next(batches)
                blurry, sharp, stored = prepare_batch(
                    batch, config.degradation, settings.seed, runtime.device
                )
                taught, taught_taps = teach(teacher, blurry, stored, runtime)
                with runtime.accumulating(model, micro + 1 < settings.accumulation):
                    with runtime.autocast():
                        restored, projected = model(blurry)
                    total, terms = distillation_loss(
                        restored, sharp, config.loss, taught, projected, taught_taps, vgg
                    )
                    state.scaler.scale(total / settings.accumulation).backward()
                losses.append(total.detach())
                log.add({"loss": losses[-1], **terms})

            state.scaler.unscale_(state.optimizer)
            norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm or math.inf)
            check_finite(losses, norm, state)
            state.scaler.step(state.optimizer)
            state.scaler.update()
            state.optimizer.zero_grad(set_to_none=True)
            state.advance()
            update_ema(state.ema, state.trainee.net, ema_decay(state.step, settings.ema_decay))

            log.step(state.step, rate)
            stop.check()
            with log.paused():
                if any(state.position % end == 0 for end in (settings.save_every, plan.per_epoch)):
                    save()  # before evaluating, which can be interrupted
                evaluate_when_due()

    final = settings.folder / f"student_model_ema_final_epoch_{settings.epochs:03d}.pth"
    payload = network_payload(state.ema, step=state.step, config=to_dict(config))
    runtime.on_main(lambda: save_checkpoint(final, payload))
    runtime.say(f"final weights: {final}")
    return final


def evaluate_training(
    state: TrainState, images: EvaluationImages, config: Config, runtime: Runtime, log: RunLog
) -> None:
    """The averaged network on the test set: metrics, pictures, and best.pth if it is the best."""
    samples = config.train.samples
    sharpen = Sharpener(state.ema, runtime, config.inference.as_trained())
    result = evaluate_quality({"restored": sharpen}, images, runtime, config.data.workers, samples)
    log.scalars(state.step, {f"test/{name}": value for name, value in result.items()})
    log.strips(state.step, [samples / f"{pair.name}_strip.png" for pair in images.pairs[:4]])
    runtime.say(
        f"step {state.step}: test PSNR {result['psnr_restored']:.2f} dB (blurry "
        f"{result['psnr_blurry']:.2f}), SSIM {result['ssim_restored']:.4f} "
        f"(blurry {result['ssim_blurry']:.4f})"
    )
    if (score := result["psnr_restored"]) > state.best:
        more = {"step": state.step, "psnr": score, "config": to_dict(config)}
        best = config.train.folder / "best.pth"
        runtime.on_main(lambda: save_checkpoint(best, network_payload(state.ema, **more)))
        state.best = score
    state.evaluated = state.step  # last, because Ctrl-C may come in between


# --------------------------------------------------------------------------------------------------
# Inference on files, demo, main
# --------------------------------------------------------------------------------------------------


def infer(config: Config, runtime: Runtime) -> int:
    """The `--infer` mode -> exit status: 0 only if every file succeeded, 130 if interrupted."""
    folder = Path("inference_samples")
    source, output = config.input, config.output or folder
    if source is None:
        source, output = write_demo_inputs(folder), config.output or folder / "demo_sharpened"
    path = default_checkpoint(config)
    plan = plan_jobs(source, output, format=config.inference.format, overwrite=config.overwrite)
    sizes = sizes_of(plan)
    megapixels = sum(size for *_, size in sizes)
    sharpen = Sharpener.load(path, runtime, config.inference, megapixels)
    runtime.say(f"student: {path}, on {sharpen.describe()}")
    say_estimate(sizes, sharpen.images, runtime, sharpen.backend, path.stem)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        failures = sharpen_files(
            plan,
            functools.partial(sharpen.images, strength=config.strength),
            runtime,
            config.inference,
            in_tiles=lambda shape: sharpen.tile(shape) is not None,
        )
    except KeyboardInterrupt:
        runtime.say("stopped; finished files are kept, the same command goes on with the rest")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    for failure in failures:
        runtime.say(f"failed: {failure}")
    if config.compare:
        write_comparison(plan, output / "compare.html", failures, runtime)
    runtime.say(f"results: {output}")
    return 1 if failures else 0


def live(config: Config, runtime: Runtime) -> int:
    """The `--live` mode, on `--inference.backend`; auto: the fastest that agrees with fp32."""
    path = default_checkpoint(config)
    load, inference = functools.partial(Sharpener.load, path), for_student(path, config.inference)
    if inference.refine == "all":  # long blur takes too long
        inference = dataclasses.replace(inference, refine="tone")
    output = make_output(config.live_config.output)  # a missing package is said before the timing
    sharpen = fastest(load, runtime, inference)
    run_live(sharpen, config.live_config, config.strength, output=output)
    return 0


def write_demo_inputs(folder: Path) -> Path:
    """The blurred test photographs of the demo as PNG files in `folder`/demo_inputs."""
    pairs, inputs = demo_pairs("test"), folder / "demo_inputs"
    for index, blurry, _ in EvaluationImages(pairs, DEMO_BLUR):
        with atomic_write(inputs / f"{pairs[index].name}.png") as temporary:
            Image.fromarray(blurry).save(temporary)
    return inputs


def run_demo(config: Config, runtime: Runtime) -> None:
    """Train, then measure student and teacher, and point to the pictures."""
    final = train(config, runtime)
    evaluate(dataclasses.replace(config, checkpoint=final), runtime)
    runtime.say(f"before/after pictures: {config.train.samples}/*_strip.png")


MODES = {
    "input": (["--infer"], "add it"),
    "output": (["--infer"], "add it"),
    "strength": (["--infer", "--live"], "add it"),
    "compare": (["--infer"], "add it"),
    "checkpoint": (["--infer", "--evaluate", "--live"], "add it"),
    "teacher_too": (["--evaluate"], "add it"),
    "size": (["training", "--infer", "--live"], "choose a student with --checkpoint"),
}
"""Flag -> the modes that it is for, and what to do about it in another."""

PRESETS = {"published": Config(preset="published", loss=LossConfig(feature=1.0, frequency=0.0))}


def with_test_images_of(path: Path, default: Config) -> Config:
    """`default` with the test images of the training that wrote the checkpoint `path`."""
    stored = load_checkpoint(path).get("config")
    if stored is None:
        return default
    run = stored_config(Config, stored, path)
    default = DEMO if run.demo else default
    names = {name: getattr(run.data, name) for name in TEST_IMAGES}
    data = dataclasses.replace(default.data, **names)
    return dataclasses.replace(default, data=data, degradation=run.degradation)


def default_config(arguments: Sequence[str]) -> Config:
    """The defaults of a command line: --demo, --resume, --evaluate, --size,
    --train.initial-weights and --teacher.no-enabled change those of the other flags."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("--demo", "--resume", "--evaluate"):
        parser.add_argument(flag, action="store_true")
    named = ("config", "preset", "size", "checkpoint", "train.folder", "train.initial-weights")
    for flag in (f"--{name}" for name in named):
        parser.add_argument(flag, flag.replace("-w", "_w"), dest=flag)
    parser.add_argument("--teacher.no-enabled", dest="untaught", action="store_true")
    given = vars(parser.parse_known_args(arguments)[0])
    default = DEMO if given["demo"] else PRESETS.get(given["--preset"], Config())
    weights = given["--train.initial-weights"]
    if sum(bool(given[name]) for name in ("demo", "--config", "--preset")) > 1:
        raise SharpeningError("give at most one of --demo, --config and --preset")
    if (path := given["--config"]) and not given["resume"]:
        default = read_settings(Config, Path(path))
    folder = Path(given["--train.folder"] or default.train.folder)
    if given["resume"]:
        for flag in ("--train.initial-weights", "--config", "--preset"):
            if given[flag]:
                raise SharpeningError(f"--resume goes on from last.pth: leave out {flag}")
        stored = load_checkpoint(folder / "last.pth").get("config", {})
        default = stored_config(Config, stored, folder / "last.pth")
        train = dataclasses.replace(default.train, folder=folder)  # it may have been copied
        default = dataclasses.replace(default, train=train)
    elif given["evaluate"] and not given["demo"]:
        train = dataclasses.replace(default.train, folder=folder)
        wanted = given["--checkpoint"] and Path(given["--checkpoint"])
        path = default_checkpoint(dataclasses.replace(default, checkpoint=wanted, train=train))
        default = with_test_images_of(path, default)
    elif weights and "student" in (payload := load_checkpoint(Path(weights))):
        student = stored_config(StudentConfig, payload["student"], Path(weights))
        default = dataclasses.replace(default, student=student)
    if size := STUDENT_SIZES.get(given["--size"]):
        default = dataclasses.replace(default, student=size)
    if given["untaught"] and default.loss.teacher_terms:
        say(f"without a teacher: no loss terms {', '.join(default.loss.teacher_terms)}")
        default = dataclasses.replace(default, loss=default.loss.without_teacher())
    return default


def read_config(arguments: Sequence[str] | None = None) -> Config:
    """The command line as a Config."""
    arguments = understood(sys.argv[1:] if arguments is None else arguments, Config())
    default = default_config(arguments)
    config = tyro.cli(Config, args=arguments, default=default, description=__doc__)
    if config.evaluate:
        stored, flags = differing(default, Config()) or "none", differing(config, default) or "none"
        path = default_checkpoint(config)
        say(f"settings of the test images: from {path}: {stored}; from flags: {flags}")
    mode = next((f"--{m}" for m in ("infer", "evaluate", "live") if getattr(config, m)), "training")
    refuse_other_modes(config, MODES, mode)
    return config


def sharpen_command() -> int:
    """The installed command `sharpen INPUT -o OUTPUT`: `--infer`, with all its flags."""
    return main(sharpen_arguments())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mode that the command line names -> exit status."""
    try:
        config = read_config(arguments)
        with start_runtime(config.device, config.train.precision, config.train.seed) as runtime:
            config = dataclasses.replace(config, train=runtime.in_this_precision(config.train))
            if config.infer or config.live:
                return (infer if config.infer else live)(config, runtime)
            if config.evaluate:
                evaluate(config, runtime)
            elif config.demo:
                run_demo(config, runtime)
            else:
                train(config, runtime)
    except SharpeningError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error}: check that path and the disk's free space", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except torch.OutOfMemoryError as error:
        advice = "use a smaller --data.batch-size and more --train.accumulation, or --data.crop"
        print(f"error: {error}\nThe GPU's memory is full: {advice}", file=sys.stderr)
        return 1
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):  # raised wherever the death is noticed
            raise
        advice = "if memory ran out, use fewer --data.workers or a smaller --data.cache-gb"
        print(f"error: a process that reads images ended: {error}: {advice}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
