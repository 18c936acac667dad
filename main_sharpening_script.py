"""Image sharpening by knowledge distillation, in one script.

A large frozen Restormer (the teacher) trains a light SE-U-Net (the student) that sharpens blurred
photographs and video-call frames in real time.

    python main_sharpening_script.py --demo                    whole pipeline, offline, in minutes
    python main_sharpening_script.py                           train on GoPro_dataset/
    python main_sharpening_script.py --resume                  go on after an interruption
    python main_sharpening_script.py --evaluate                PSNR, SSIM, FPS
    python main_sharpening_script.py --infer --input DIR_OR_FILE --output DIR
    torchrun --nproc-per-node 4 main_sharpening_script.py      several GPUs

Every setting is a field of a dataclass below and a flag: `--help` lists them.

How data flows: path -> `GoProSharpeningDataset` -> `blurry, sharp` (B, 3, H, W) in [0, 1]
-> `student(blurry)` -> `restored` and its feature taps; `teacher(blurry)` -> `taught` and its taps
-> `distillation_loss` -> total and its terms. The four words name the same images everywhere.

Sections, in the order in which they run:
    Configuration                 Metrics
    Runtime                       EMA and schedule
    Data                          Checkpoints
    Synthetic blur                Back ends
    Student                       Tiled inference
    Teacher                       Evaluation
    Losses                        Inference on files
                                  Training, main
"""

import contextlib
import copy
import ctypes
import dataclasses
import errno
import functools
import hashlib
import importlib
import io
import itertools
import json
import math
import os
import pickle
import platform
import shlex
import shutil
import signal
import statistics
import struct
import sys
import tempfile
import threading
import time
import typing
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as futures_wait
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

if __name__ == "__main__":  # before PyTorch loads OpenMP, which would spin for its other threads:
    # beside a busy process that costs 1.5 times the time, on an idle machine this costs nothing
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
import torchvision
import tyro
from natsort import natsorted
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.tensorboard import SummaryWriter
from torchmetrics.functional.image import structural_similarity_index_measure
from tqdm import tqdm

import media_files
from media_files import MediaError

HERE = Path(__file__).resolve().parent


class SharpeningError(Exception):
    """What went wrong, with which file, and how to fix it: printed without a traceback."""


UNREADABLE = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What `torch.load` raises on a file that is damaged or something else."""


def reason(error: BaseException) -> str:
    """Why, in one line. PyTorch's own for a foreign file would advise to run the code in it."""
    if isinstance(error, pickle.UnpicklingError):
        return "it is no file of weights"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


# --------------------------------------------------------------------------------------------------
# Configuration
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataConfig:
    """Where the images are and how crops are cut from them."""

    root: Path = Path("GoPro_dataset")
    """Folder with train/ and test/; README shows the layouts that are understood."""
    blurred_names: tuple[str, ...] = ("blurred", "blur", "input", "blur_gamma")
    """Names of a folder of blurred images; the first that stands beside a sharp one is read.
    None at all: every sharp image is blurred synthetically."""
    sharp_names: tuple[str, ...] = ("sharp", "target")
    """Names of a folder of sharp images; one with no blurred beside it is blurred synthetically."""
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
    """Factor of that, its logarithm drawn uniformly. Above 1, as far as the image is large enough:
    other blur lengths, finer detail. Below 1: soft targets, which teach to leave images soft."""
    workers: int = 2
    """Processes that decode and crop; 0 does it in the training process."""
    cache_gb: float = 2.0
    """Decoded training images kept in memory, GB per process: a small set is decoded only once."""

    def __post_init__(self) -> None:
        if self.crop < 16 or self.crop % 16:
            raise ValueError(f"data.crop must be a multiple of 16, at least 16: {self.crop}")
        if min(self.crops_per_image, self.batch_size) < 1 or self.batch_size % self.crops_per_image:
            raise ValueError(
                f"data.batch_size ({self.batch_size}) must be a multiple of "
                f"data.crops_per_image ({self.crops_per_image})"
            )
        if min(self.workers, self.cache_gb) < 0:
            raise ValueError("data.workers and data.cache_gb must not be negative")
        for name in ("synthetic_share", "reduction_chance"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"data.{name} is a share, 0 to 1: {getattr(self, name)}")
        if not 0 < self.reduction[0] <= self.reduction[1] < math.inf:
            raise ValueError(f"data.reduction must be ordered and above 0: {self.reduction}")


@dataclass(frozen=True)
class DegradationConfig:
    """Ranges of the synthetic blur: (lowest, highest), drawn uniformly if not said otherwise.

    `motion=1, video_call=0` is the blur of GoPro and REDS alone; calls alone are the opposite.
    """

    motion: float = 0.75
    """Probability that an image gets camera and object motion alone, as in GoPro and REDS."""
    video_call: float = 0.20
    """Probability of a video call: lens blur, motion, noise, scaling, JPEG, each by its chance."""
    moving_object: float = 0.0
    """Probability of an object, cut from another image, that moves in front of a background at
    rest. What motion, video_call and moving_object leave stays as it is."""
    length: tuple[float, float] = (0.0, 24.0)
    """Length of a motion path, pixels. Up to 40 is seen in 1280 x 720 frames, but a student that is
    shown as much learns to leave images alone (a fifth of the gain, see MODEL_CARD)."""
    length_power: float = 1.3
    """Lengths follow a uniform number to this power: above 1 short paths are more frequent."""
    bend: float = 1.5
    """Largest curvature and jitter of a path relative to its straight part; the draw is a cube, so
    most paths are nearly straight."""
    swing: float = 0.3
    """Largest displacement by roll, zoom and tilt at the image corner, as a share of the length."""
    spacing: tuple[float, float] = (0.8, 4.0)
    """Pixels between averaged frames: 1 is smooth as REDS (1920 fps), 4 ghosts as GoPro (240)."""
    object_chance: float = 0.25
    """Probability, given motion, of an object: a soft random mask with a path of its own."""
    response: tuple[float, float] = (0.0, 6.5)
    """Camera response k in light = expm1(k * value) / expm1(k). The k that keeps the mean of blocks
    of real pairs is 0 for GoPro `blur` and 5 to 6 for REDS; 2.2 stands for gamma 2.2."""
    response_power: float = 3.0
    """Responses follow a uniform number to this power. With 1 hardly any are GoPro's: a student
    that never saw GoPro gains nothing on it, with 3 it gains 0.14 dB (MODEL_CARD)."""
    highlight: tuple[float, float] = (0.0, 3.0)
    """By how much clipped white exceeded white (1): above 0, lights draw saturated streaks."""
    highlight_power: float = 10.0
    """Highlights follow a uniform number to this power. Frames that are averaged, as in GoPro and
    REDS, are clipped before; with 1 a student learns to darken skies sooner than to move edges."""
    faint_noise: tuple[float, float] = (0.0, 0.006)
    """Standard deviation of noise after motion alone, 1 is white: averaging leaves hardly any."""
    call_motion_chance: float = 0.4
    """Probability of motion in a video call image."""
    call_length: tuple[float, float] = (0.0, 14.0)
    """Length of a path in a video call, pixels: webcams are mounted, hands and heads move."""
    lens_chance: float = 0.5
    """Probability of lens blur in a video call: fixed-focus cameras, faces out of focus."""
    lens_radius: tuple[float, float] = (0.4, 4.0)
    """Radius of the lens blur, pixels: a disk, or a Gaussian of half that standard deviation."""
    noise_chance: float = 0.6
    """Probability of sensor noise in a video call."""
    noise: tuple[float, float] = (0.003, 0.04)
    """Standard deviation of the noise, 1 is white; a drawn part of it fades in the dark."""
    rescale_chance: float = 0.6
    """Probability that a video call image is sent smaller and shown at full size."""
    rescale: tuple[float, float] = (1.2, 4.0)
    """Factor of the reduction: 4 shows 320 x 180 at 1280 x 720."""
    jpeg_chance: float = 0.7
    """Probability of compression in a video call."""
    jpeg_quality: tuple[int, int] = (30, 95)
    """JPEG quality, 1 to 100: below 30 the blocks hide what could be restored."""
    rest_chance: float = 0.25
    """Probability that a moving object rests after all: a portrait that needs no change."""
    background_chance: float = 0.5
    """Probability that the background of a moving object is out of focus. It stays so in the
    target, because such a blur is intended."""
    soft_chance: float = 0.0
    """Probability that any other image is softened, in its target as well: parts that are out of
    focus beside sharp ones, or all of it slightly, half of them compressed."""
    soft_radius: tuple[float, float] = (1.0, 8.0)
    """Radius of the lens blur that stays in the target, pixels."""
    soft_quality: tuple[int, int] = (60, 95)
    """JPEG quality of a soft target, 1 to 100: high, because its artefacts are not removed."""

    def __post_init__(self) -> None:
        for setting in dataclasses.fields(self):
            value = getattr(self, setting.name)
            low, high = value if isinstance(value, tuple) else (value, value)
            if not (math.isfinite(low) and math.isfinite(high) and 0 <= low <= high):
                raise ValueError(
                    f"{setting.name} must be finite, ordered and not negative: {value}"
                )
            if setting.name.endswith("chance") and high > 1:
                raise ValueError(f"{setting.name} is a probability, at most 1: {value}")
        if (share := self.motion + self.video_call + self.moving_object) > 1 + 1e-9:
            raise ValueError(f"motion + video_call + moving_object must not exceed 1: {share}")
        above = "spacing length_power response_power highlight_power lens_radius soft_radius"
        for name in above.split():
            if np.min(getattr(self, name)) <= 0:
                raise ValueError(f"{name} must be above 0: {getattr(self, name)}")
        if self.rescale[0] < 1:
            raise ValueError(f"rescale reduces, so its factors are at least 1: {self.rescale}")
        for name in ("jpeg_quality", "soft_quality"):
            if not 1 <= getattr(self, name)[0] <= getattr(self, name)[1] <= 100:
                raise ValueError(f"{name} must lie within 1 and 100: {getattr(self, name)}")


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
    at most, one at 1/4 or 1/8 half a decibel and more (MODEL_CARD)."""
    decoder: tuple[int, ...] = (1, 1, 2)
    """Blocks per decoder level, finest first like `encoder`."""
    pool_window: int | None = 256
    """Window that squeeze averages over at inference, pixels: about the training crop, the only
    size it knows; None: the image."""

    def __post_init__(self):
        blocks = (*self.encoder, self.middle, *self.decoder)
        if min(self.width, self.max_width) < 1 or min(blocks) < 0:
            raise ValueError("student widths must be at least 1, its numbers of blocks at least 0")
        if len(self.encoder) != len(self.decoder):
            raise ValueError(
                f"encoder {self.encoder} and decoder {self.decoder} need one number per level"
            )
        if self.stem * 2 ** len(self.encoder) < 8:
            raise ValueError(
                f"stem {self.stem} with {len(self.encoder)} levels never reaches the 1/8 tap"
            )
        if self.pool_window is not None and self.pool_window < 1:
            raise ValueError(f"pool_window must be at least 1, or None: {self.pool_window}")

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
    """The Restormer that teaches; its sizes are read off its weights."""

    enabled: bool = True
    """Distil from the teacher; off trains on the sharp images alone."""
    weights: Path = Path("Restormer/Motion_Deblurring/pretrained_models/motion_deblurring.pth")
    """Weights of a trained Restormer, the released ones or those of `--train.network restormer`."""
    dim: int = 16
    """Channels at full resolution of a Restormer trained from scratch (the released one: 48)."""
    blocks: tuple[int, int, int, int] = (1, 2, 2, 4)
    """Its transformer blocks per level (released: 4 6 6 8)."""
    refinement_blocks: int = 1
    """Its blocks after the decoder (released: 4)."""
    heads: tuple[int, int, int, int] = (1, 2, 4, 8)
    """Its attention heads per level (released: 1 2 4 8)."""
    cache: Path | None = None
    """Folder that keeps the teacher's results on the whole training images, to be cropped like
    them: the released teacher's passes over crops are 92 % of a step. Not for the feature term,
    whose taps would take 90 MB an image, nor for synthetic blur, which is new each time."""

    def __post_init__(self) -> None:
        counts = (self.dim, *self.blocks, *self.heads)
        if min(counts) < 1 or self.refinement_blocks < 0 or self.dim % 2:
            raise ValueError("teacher.dim must be even, its blocks and heads at least 1 each")
        if any(self.dim * 2**level % heads for level, heads in enumerate(self.heads)):
            raise ValueError(
                f"teacher.heads {self.heads} must divide the channels of each level, "
                f"{self.dim} at the first and twice as many at each below"
            )


@dataclass(frozen=True)
class LossConfig:
    """Weight of each term of the loss; 0 switches a term off and skips its work."""

    recon: float = 1.0
    """L1 between restored and sharp."""
    perceptual: float = 0.01
    """L1 between VGG-19 features of restored and taught."""
    feature: float = 0.1
    """L1 between the student's projected taps and the teacher's. Published with 1, which costs a
    short run 0.06 dB among all terms and 0.75 beside L1 alone (MODEL_CARD)."""
    kl: float = 0.01
    """KL divergence over the colour channels between restored and taught."""
    ssim: float = 10.0
    """1 - SSIM between restored and sharp."""
    frequency: float = 1.0
    """L1 between the Fourier transforms of restored and sharp (arXiv 2108.05054). Not in the
    published formula; with SSIM the term that is worth most (MODEL_CARD)."""
    temperature: float = 4.0
    """Temperature of the softmax in the KL term; the term is multiplied by its square."""
    vgg_layers: tuple[str, ...] = ("relu1_2", "relu2_2", "relu3_4", "relu4_4")
    """Layers of VGG-19 that the perceptual term compares."""
    vgg_weights: Path | None = None
    """VGG-19 ImageNet weights (torchvision's vgg19-dcbb9e9d.pth); None downloads them once."""

    def __post_init__(self) -> None:
        if negative := [name for name in LOSS_TERMS if getattr(self, name) < 0]:
            raise ValueError(f"loss weights must not be negative: {', '.join(negative)}")
        if not any(getattr(self, name) for name in LOSS_TERMS):
            raise ValueError("every loss weight is 0: nothing would be trained")
        if self.temperature <= 0:
            raise ValueError(f"loss.temperature must be above 0: {self.temperature}")

    @property
    def teacher_terms(self) -> list[str]:
        """Names of the active terms that need a teacher."""
        return [name for name in ("perceptual", "feature", "kl") if getattr(self, name)]


LOSS_TERMS = ("recon", "perceptual", "feature", "kl", "ssim", "frequency")


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation, and what a run writes."""

    network: Literal["student", "restormer"] = "student"
    """What is trained: the student, or a Restormer from scratch that can teach later."""
    initial_weights: Path | None = None
    """Checkpoint to begin with, such as the shipped student to adapt to other pairs. A student's
    settings come with it, a Restormer's sizes are those under --teacher. None: random weights."""
    epochs: int = 50
    """Passes over the training images."""
    steps_per_epoch: int | None = None
    """Optimizer steps per epoch; None: as many as one pass over the training images takes, each
    giving `crops_per_image` crops."""
    optimizer: Literal["adam", "muon"] = "adam"
    """adam, as published, or muon: orthogonal updates for the convolutions, Adam for the rest. In
    as many steps from the same weights it gained half as much again on new frames (MODEL_CARD)."""
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
    """Autocast type; auto: bf16 where the hardware has it, else fp16 on a GPU and fp32 on a CPU."""
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
        counts = (
            "epochs steps_per_epoch accumulation restart_cycles evaluate_every save_every log_every"
        )
        for name in counts.split():
            if (count := getattr(self, name)) is not None and count < 1:
                raise ValueError(f"train.{name} must be at least 1: {count}")
        for name in ("seed", "clip_norm", "lowest_rate", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"train.{name} must not be negative: {getattr(self, name)}")
        for name in ("learning_rate", "cycle_growth"):
            if getattr(self, name) <= 0:
                raise ValueError(f"train.{name} must be above 0: {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"train.ema_decay must be in [0, 1): {self.ema_decay}")


LARGEST_TILE = 1024
"""Side of the tiles, pixels, of images that memory does not hold whole."""


@dataclass(frozen=True)
class InferConfig:
    """How images of any size go through the network, and how results are written."""

    tile: int | None = None
    """Largest side of a tile, pixels; None: the image whole where memory allows, else 1024, halved
    on need."""
    overlap: int = 64
    """Pixels shared by neighbouring tiles, where they are blended by a raised cosine. 99 % of what
    a pixel depends on lies within 25 pixels of it (gradient of the standard student)."""
    tile_batch: int = 1
    """Tiles, or frames of a video, computed at once."""
    pool_window: int | None = None
    """Window that squeeze averages over, pixels: the training crop, or 0 for the whole image or
    tile; None: as the checkpoint says."""
    format: str | None = None
    """File format of the results, such as png; None: that of the source."""
    quality: int = 95
    """Quality of JPEG, AVIF and lossy WebP results, 1 to 100."""
    crf: int = 18
    """Constant rate factor of H.264 video results, 0 (lossless) to 51."""
    backend: Literal["auto", "pytorch", "compiled", "openvino", "openvino-int8"] = "auto"
    """What computes the network. auto: on a CPU that has OpenVINO installed, OpenVINO for a video
    or at least 16 images, else PyTorch. compiled: PyTorch through torch.compile, 1.5 times as fast
    after half a minute of compiling, and twice that for further sizes. openvino-int8 calculates in
    8 bits, see MODEL_CARD."""
    allow_huge: bool = False
    """Read images of more pixels than a decompression bomb may have."""

    def __post_init__(self) -> None:
        if (tile := LARGEST_TILE if self.tile is None else self.tile) <= 2 * self.overlap:
            raise ValueError(
                f"infer_config.tile ({tile}) must exceed twice the overlap ({self.overlap})"
            )
        ranges = {"overlap": (0, 4096), "tile_batch": (1, 4096), "quality": (1, 100)}
        ranges |= {"crf": (0, 51), "pool_window": (0, math.inf)}
        for name, (low, high) in ranges.items():
            if not low <= (getattr(self, name) or 0) <= high:
                value = getattr(self, name)
                raise ValueError(f"infer_config.{name} must lie in {low} to {high}: {value}")
        if self.format is not None:
            media_files.format_name(self.format)


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
    checkpoint: Path | None = None
    """Student to use; None: the newest final one in `--train.folder`, else the shipped one."""
    input: Path | None = None
    """Image, video or folder to sharpen; None: demo images."""
    output: Path | None = None
    """Folder for the results; None: inference_samples/."""
    overwrite: bool = False
    """Sharpen again what is already in `--output`; start a training over an older one."""
    teacher_too: bool = False
    """Let `--evaluate` measure the teacher as well."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network is computed; auto: on a GPU if there is one."""
    size: Literal["standard", "live"] | None = None
    """Sizes of the student to train, one of STUDENT_SIZES: quality or speed; None: as --student."""
    data: DataConfig = field(default_factory=DataConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    infer_config: InferConfig = field(default_factory=InferConfig)

    def __post_init__(self) -> None:
        if sum((self.evaluate, self.infer, self.resume)) > 1:
            raise ValueError("give at most one of --resume, --evaluate and --infer")
        if self.demo and self.train.network != "student":
            raise ValueError("the demo trains a student: leave out --demo or --train.network")
        untaught = not self.teacher.enabled or self.train.network == "restormer"
        if untaught and self.loss.teacher_terms:
            flags = " ".join(f"--loss.{name} 0" for name in self.loss.teacher_terms)
            raise ValueError(f"without a teacher these loss terms are impossible, add: {flags}")
        if self.teacher.cache and self.data.reduction_chance:
            raise ValueError("teacher.cache keeps whole images: add --data.reduction-chance 0")
        if self.teacher.cache and self.loss.feature:
            raise ValueError("teacher.cache keeps images, not features: add --loss.feature 0")


DEMO_BLUR = DegradationConfig(
    motion=0.0,
    video_call=1.0,
    response=(0.0, 2.2),
    response_power=1.0,
    highlight=(0.0, 0.0),
    lens_chance=1.0,
    lens_radius=(1.2, 2.8),
    call_motion_chance=0.4,
    call_length=(0.0, 8.0),
    noise_chance=0.3,
    noise=(0.001, 0.006),
    rescale_chance=0.2,
    rescale=(1.2, 1.8),
    jpeg_chance=0.3,
    jpeg_quality=(80, 95),
)
"""A camera slightly out of focus and moved a little: blur that a few minutes suffice to learn."""

DEMO = Config(
    demo=True,
    overwrite=True,
    degradation=DEMO_BLUR,
    data=DataConfig(crop=96, batch_size=8, crops_per_image=4, workers=0),
    teacher=TeacherConfig(weights=HERE / "model_checkpoints" / "demo_teacher.pth"),
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


def config_from_dict(cls: type, values: dict[str, Any]) -> Any:
    """The dataclass `cls` from what `config_to_dict` made of one; ValueError if it does not fit."""
    kinds = typing.get_type_hints(cls)
    if unknown := values.keys() - kinds.keys():
        raise ValueError(f"{cls.__name__} has no setting {', '.join(sorted(unknown))}")

    def restore(kind: Any, value: Any) -> Any:
        if dataclasses.is_dataclass(kind):
            return config_from_dict(kind, value)
        value = tuple(value) if isinstance(value, list) else value  # JSON knows no tuples
        return Path(value) if isinstance(value, str) and kind in (Path, Path | None) else value

    return cls(**{name: restore(kinds[name], value) for name, value in values.items()})


def stored_config(cls: type, values: dict[str, Any], path: Path) -> Any:
    """`config_from_dict` of what the checkpoint `path` holds."""
    try:
        return config_from_dict(cls, values)
    except (ValueError, TypeError, AttributeError) as error:
        raise SharpeningError(
            f"the settings in {path} do not fit this version of the script ({error}): use the "
            "version that wrote it, or train anew"
        ) from error


def config_to_dict(config: Any) -> dict[str, Any]:
    """`dataclasses.asdict` with paths as strings, so that `weights_only` checkpoints hold it."""

    def plain(items: list[tuple[str, Any]]) -> dict[str, Any]:
        return {name: str(value) if isinstance(value, Path) else value for name, value in items}

    return dataclasses.asdict(config, dict_factory=plain)


# --------------------------------------------------------------------------------------------------
# Runtime: seed, device, processes, autocast, threads
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Runtime:
    """Where tensors live and how they are computed; everything distributed or mixed-precision."""

    device: torch.device
    dtype: torch.dtype
    rank: int = 0
    world: int = 1

    @property
    def precision(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def autocast(self) -> torch.autocast:
        enabled = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=enabled)

    def compiled(self, module: nn.Module, **settings: Any) -> nn.Module:
        """`module` through torch.compile: for the first size it meets, from the second on for all.
        Raises `SharpeningError` where the compiler is missing that this takes: of C++ for a CPU, of
        C for a GPU."""
        on_cpu, have = self.device.type == "cpu", os.environ.get
        names = [have("CXX") or "g++"] if on_cpu else [have("CC") or "gcc", "clang"]
        if not any(shutil.which(shlex.split(name)[0]) for name in names):
            raise SharpeningError(
                f"torch.compile needs the compiler {names[0]}, which is not installed: install it, "
                "or leave out --train.compile and --infer-config.backend compiled"
            )
        return torch.compile(module, **settings)

    def wrap(self, module: nn.Module, compiled: bool) -> nn.Module:
        """`module`, compiled if asked, averaging its gradients over the processes if several."""
        module = self.compiled(module) if compiled else module
        return nn.parallel.DistributedDataParallel(module) if self.world > 1 else module

    def total(self, values: Sequence[float]) -> list[float]:
        """Sum of each value over the processes."""
        if self.world == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(summed)
        return summed.tolist()

    def synchronize(self) -> None:
        """Wait until the device has done what was asked of it, so that a clock tells the truth."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def accumulating(self, model: nn.Module, more: bool) -> contextlib.AbstractContextManager:
        """Where `more` backward passes follow before the step, gradients are not averaged yet."""
        return model.no_sync() if self.world > 1 and more else contextlib.nullcontext()

    def save(self, path: Path, payload: dict[str, Any]) -> None:
        """Write a checkpoint once, whatever the number of processes; then all find it."""
        if self.is_main:
            save_checkpoint(path, payload)
        if self.world > 1:
            dist.barrier()

    def say(self, text: str) -> None:
        if self.is_main:
            tqdm.write(text)


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Autocast type for `precision`, see `TrainConfig.precision`."""
    if precision != "auto":
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    onednn = torch.backends.mkldnn.is_available()
    native = onednn and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def keep_memory() -> None:
    """Let malloc keep up to 128 MiB that was freed, in blocks of up to 32 MiB (its limit): it hands
    activations back to Linux after each layer and has them cleared again for the next, which costs
    up to 1.18 times the time in all. One arena for all threads, or each would keep its own: 0.6 GB
    for 100 megapixels. Variables MALLOC_... in the environment prevail."""
    if platform.libc_ver()[0] != "glibc" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    trim_threshold, mmap_threshold, arena_max = -1, -3, -8  # their numbers in malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(trim_threshold, 128 * 2**20)
    libc.mallopt(mmap_threshold, 32 * 2**20)
    libc.mallopt(arena_max, 1)


@contextlib.contextmanager
def start_runtime(config: Config) -> Iterator[Runtime]:
    """Device, process group (under torchrun) and seeds; the group is closed on leaving."""
    keep_memory()
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise SharpeningError("PyTorch finds no GPU (or is its CPU build): use --device cpu")
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(name)
    device = torch.device(name)
    torch.manual_seed(config.train.seed)
    torch.backends.cudnn.deterministic = True  # a resumed run equals an unbroken one
    torch.backends.cudnn.allow_tf32 = False  # SSIM subtracts squares: 10 bits are too few
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Runtime(device, pick_dtype(config.train.precision, device), rank, world)
    finally:
        if world > 1:
            dist.destroy_process_group()


STREAMS = 2
"""Pictures, tiles or frames computed side by side on a CPU, each on its share of the cores: in
PyTorch 1.27 times as fast as one after the other on all of them, which wait for each other in every
layer, and in OpenVINO 1.05 to 1.2 times."""


def take_cores(count: int) -> None:
    """Let the calling thread compute on so many cores, whatever other threads take later."""
    torch.get_num_threads()  # a thread's first question resets it to what any thread took last
    torch.set_num_threads(count)


@contextlib.contextmanager
def thread_pool(threads: int, cores: int | None = None) -> Iterator[ThreadPoolExecutor]:
    """Threads that on leaving, for whatever reason, end what they began and begin nothing more;
    each computes on `cores` (None: PyTorch's choice)."""
    begin = functools.partial(take_cores, cores) if cores else None
    pool = ThreadPoolExecutor(threads, initializer=begin)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def streams(runtime: Runtime, wanted: int = STREAMS) -> Iterator[ThreadPoolExecutor]:
    """Threads that call a network side by side, each on its share of the cores that the caller's
    own thread has: `wanted`, or fewer where there are fewer cores, and one for a GPU."""
    cores = torch.get_num_threads()
    count = min(wanted, cores) if runtime.device.type == "cpu" else 1
    try:
        with thread_pool(count, cores // count) as pool:
            yield pool
    finally:
        torch.set_num_threads(cores)  # the last one set is where PyTorch begins in a new thread


def ahead(
    pool: ThreadPoolExecutor,
    work: Callable[[Any], Any],
    items: Iterable[Any],
    depth: Callable[[], int],
) -> Iterator[tuple[Any, Future]]:
    """Each item with the finished future of work(item), in order; `depth()` later ones are under
    way while the caller uses it."""
    items, under_way = iter(items), deque()

    def begin(count: int) -> None:
        missing = max(0, count - len(under_way))
        under_way.extend((i, pool.submit(work, i)) for i in itertools.islice(items, missing))

    begin(max(1, depth()))
    while under_way:
        item, future = under_way.popleft()
        futures_wait([future])
        begin(depth())
        yield item, future
        begin(1)


# --------------------------------------------------------------------------------------------------
# Data: pairs, crops, the demo set
# --------------------------------------------------------------------------------------------------

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
DEMO_TRAIN = [
    "astronaut.png",
    "camera.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "page.png",
    "coins.png",
    "moon.png",
    "brick.png",
    "grass.png",
    "gravel.png",
    "color.png",
    "ihc.png",
]
DEMO_TEST = ["chelsea.png", "coffee.png", "motorcycle_left.png", "text.png"]


@dataclass(frozen=True)
class Pair:
    """A sharp image and its blurred one; `blurry` None: it is blurred synthetically."""

    name: str
    sharp: Path
    blurry: Path | None = None
    taught: Path | None = None
    """What the teacher makes of the blurred one, where that is kept."""


def find_pairs(folder: Path, config: DataConfig) -> list[Pair]:
    """All pairs below `folder`, in natural order, in time linear in their number.

    Understood: any tree in which folders named as in `DataConfig.sharp_names` hold images, beside
    folders named as in `blurred_names` or alone. Raises SharpeningError if there is no image, a
    name has no partner, two images share a name, or images would be passed over: those beside a
    lonely sharp folder, which may be its blurred ones, and those in folders below.
    """
    pairs, seen = [], set()
    for parent, children, _ in os.walk(folder, followlinks=True):
        here = Path(parent)
        if here.resolve() in seen:  # a symbolic link that leads back
            children.clear()
            continue
        seen.add(here.resolve())
        sharp = next((name for name in config.sharp_names if name in children), None)
        if sharp is not None:
            blurred = next((name for name in config.blurred_names if name in children), None)
            others = {*children} - {sharp} if config.blurred_names and not blurred else ()
            if unread := first_with_images(here, others):
                raise SharpeningError(
                    f"{unread} lies beside {here / sharp} but is not read: if it holds the blurred "
                    f"images, give --data.blurred-names {unread.name}, else move it away"
                )
            pairs += match_pairs(here / sharp, blurred and here / blurred, here.relative_to(folder))
            read = {*config.sharp_names, *config.blurred_names}
            children[:] = [name for name in children if name not in read]
    if not pairs:
        raise SharpeningError(
            f"no images in {folder}: it needs a folder {' or '.join(config.sharp_names)} with "
            f"images, best beside one of {', '.join(config.blurred_names)} (README, 'Data'); "
            "to try the script without data, run it with --demo"
        )
    return natsorted(pairs, key=lambda pair: pair.name)


def match_pairs(sharp: Path, blurred: Path | None, prefix: Path) -> list[Pair]:
    """Pairs of equal names in two folders."""
    sharps = images_by_name(sharp)
    if blurred is None:
        return [Pair((prefix / name).as_posix(), path) for name, path in sharps.items()]
    blurs = images_by_name(blurred)
    if lonely := natsorted(sharps.keys() ^ blurs.keys()):
        shown = ", ".join(lonely[:5]) + (" ..." if len(lonely) > 5 else "")
        raise SharpeningError(
            f"{len(lonely)} images in {sharp} and {blurred} have no partner in the other folder: "
            f"{shown}; names must be equal but for _blurred, _blur or _sharp"
        )
    return [Pair((prefix / n).as_posix(), path, blurs[n]) for n, path in sharps.items()]


def is_image(name: str) -> bool:
    return Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith(".")


def first_with_images(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of the folders `names` in `folder` that holds images, hidden ones left alone."""
    shown = (folder / name for name in natsorted(names) if not name.startswith("."))
    return next((path for path in shown if any(is_image(p.name) for p in path.iterdir())), None)


def images_by_name(folder: Path) -> dict[str, Path]:
    """Name without `_blurred`, `_blur`, `_sharp` and suffix -> path, of the images in `folder`."""
    found: dict[str, Path] = {}
    entries = list(os.scandir(folder))
    if unread := first_with_images(folder, [entry.name for entry in entries if entry.is_dir()]):
        raise SharpeningError(
            f"{unread} is not read, as it lies in {folder.name}: let each scene hold its own, as "
            f"in {folder.parent / unread.name / folder.name}"
        )
    for path in (Path(entry.path) for entry in entries if is_image(entry.name)):
        name = path.stem.removesuffix("_blurred").removesuffix("_blur").removesuffix("_sharp")
        if name in found:
            raise SharpeningError(f"{found[name]} and {path} share a name: remove one")
        found[name] = path
    return found


def demo_pairs(split: Literal["train", "test"]) -> list[Pair]:
    """Photographs inside the scikit-image wheel: people, animals, things, text, textures, sky."""
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    names = DEMO_TRAIN if split == "train" else DEMO_TEST
    return [Pair(Path(name).stem, folder / name) for name in names]


def split_pairs(config: Config, split: Literal["train", "test"]) -> list[Pair]:
    """The pairs of one split of the data set that `config` names."""
    return demo_pairs(split) if config.demo else find_pairs(config.data.root / split, config.data)


def read_rgb(path: Path) -> np.ndarray:
    """An image file as (H, W, 3) uint8, upright."""
    rgb = media_files.read_picture(path).rgb
    return rgb if rgb.dtype == np.uint8 else (rgb >> 8).astype(np.uint8)


def read_pair(pair: Pair) -> tuple[np.ndarray, ...]:
    """(blurry, sharp) or (blurry, sharp, taught), each (H, W, 3) uint8; the same array twice if the
    blur is synthetic."""
    sharp = read_rgb(pair.sharp)
    if pair.blurry is None:
        return sharp, sharp
    blurry, *taught = (read_rgb(path) for path in (pair.blurry, pair.taught) if path)
    for path, image in zip((pair.blurry, pair.taught), (blurry, *taught), strict=False):
        if image.shape != sharp.shape:
            (h, w), (h2, w2) = image.shape[:2], sharp.shape[:2]
            raise SharpeningError(
                f"{path} is {w} x {h} pixels but {pair.sharp} is {w2} x {h2}: a pair must have one "
                "size; remove the pair or replace the file"
            )
    return blurry, sharp, *taught


def same_crop(
    images: Sequence[np.ndarray], size: int, rng: np.random.Generator, reduction: float = 1.0
) -> list[Tensor]:
    """One random square, flip and quarter turn of all (H, W, 3) images -> (3, size, size) tensors.

    The square has `reduction` times that side, as far as it fits, and is resized; images smaller
    than the crop are continued by reflection instead.
    """
    H, W, _ = images[0].shape
    side = min(round(size * reduction), max(size, min(H, W)))
    y, x = rng.integers(0, max(H - side, 0) + 1), rng.integers(0, max(W - side, 0) + 1)
    flip, turns = rng.integers(0, 2), rng.integers(0, 4)
    crops = []
    for image in images:
        crop = image[y : y + side, x : x + side]
        short = [(0, side - length) for length in crop.shape[:2]]
        crop = np.pad(crop, [*short, (0, 0)], mode="symmetric") if side > min(H, W) else crop
        if side != size:
            crop = np.asarray(Image.fromarray(crop).resize((size, size), Image.Resampling.BICUBIC))
        crop = np.rot90(crop[:, ::-1] if flip else crop, turns)
        crops.append(torch.from_numpy(crop.transpose(2, 0, 1).copy()))
    return crops


class GoProSharpeningDataset(Dataset):
    """Endless random crops of pairs; item `draw` is a function of (seed, draw) and nothing else.

    Where all blur is real, or all synthetic, every run of len(pairs) draws shows each image once;
    where both are mixed, images of a kind are shown equally often on average. An item is `(blurry,
    sharp, keys)`: uint8 crops (n, 3, crop, crop), and for each crop the seed of its synthetic blur,
    or -1 where the blur is real; with synthetic blur `blurry` is still sharp, `prepare_batch` blurs
    it on the device. Where the teacher's results are kept, it is `(blurry, sharp, taught, keys)`.
    """

    def __init__(self, pairs: Sequence[Pair], config: DataConfig, seed: int):
        self.config, self.seed = config, seed
        self.real = [pair for pair in pairs if pair.blurry is not None]
        self.synthetic = [pair for pair in pairs if pair.blurry is None]
        if self.real and self.synthetic:  # what is never drawn is neither counted nor kept
            self.real = self.real if config.synthetic_share < 1 else []
            self.synthetic = self.synthetic if config.synthetic_share > 0 else []
        self.order: dict[tuple[int, int], np.ndarray] = {}
        self.cache = fill_cache([*self.real, *self.synthetic], int(config.cache_gb * 1e9))

    def __len__(self) -> int:
        return len(self.real) + len(self.synthetic)

    def pair(self, draw: int) -> Pair:
        """The pair that item `draw` is cut from."""
        share = self.config.synthetic_share if self.real else 1.0
        coin = np.random.default_rng([self.seed, draw, 1]).random()
        pairs = self.synthetic if self.synthetic and coin < share else self.real
        epoch, position = divmod(draw, len(pairs))
        if (key := (epoch, len(pairs))) not in self.order:
            self.order = {k: v for k, v in self.order.items() if k[0] >= epoch - 1}
            self.order[key] = np.random.default_rng([self.seed, epoch]).permutation(len(pairs))
        return pairs[self.order[key][position]]

    def __getitem__(self, draw: int) -> tuple[Tensor, ...] | SharpeningError:
        try:
            return self.item(draw)
        except (SharpeningError, MediaError) as error:
            return SharpeningError(str(error))  # raised by a worker it would come as a traceback

    def reduction(self, rng: np.random.Generator) -> float:
        """The factor by which the next crop is made smaller."""
        if not self.config.reduction_chance or rng.random() >= self.config.reduction_chance:
            return 1.0
        return math.exp(rng.uniform(*np.log(self.config.reduction)))

    def item(self, draw: int) -> tuple[Tensor, ...]:
        pair = self.pair(draw)
        images = self.cache[pair] if pair in self.cache else read_pair(pair)
        rng, size = np.random.default_rng([self.seed, draw]), self.config.crop
        count = self.config.crops_per_image
        crops = [same_crop(images, size, rng, self.reduction(rng)) for _ in range(count)]
        sides = (torch.stack(side) for side in zip(*crops, strict=True))
        keys = torch.arange(draw * count, (draw + 1) * count)
        return *sides, keys if pair.blurry is None else torch.full_like(keys, -1)


def fill_cache(pairs: Sequence[Pair], budget: int) -> dict[Pair, tuple[np.ndarray, ...]]:
    """The first pairs, decoded, as many as fit into `budget` bytes."""
    cache, used = {}, 0
    if budget <= 0:
        return cache
    with ThreadPoolExecutor(4) as pool:
        for start in range(0, len(pairs), 16):  # in portions, so that little is decoded in vain
            part = pairs[start : start + 16]
            for pair, images in zip(part, pool.map(read_pair, part), strict=True):
                used += sum(image.nbytes for image in {id(i): i for i in images}.values())
                if used > budget:
                    return cache
                cache[pair] = images
    return cache


@dataclass(frozen=True)
class MicroBatches:
    """Endless lists of draws: micro-batch m of all processes together covers consecutive draws."""

    images: int
    start: int
    rank: int
    world: int

    def draws(self, micro: int) -> range:
        first = (micro * self.world + self.rank) * self.images
        return range(first, first + self.images)

    def __iter__(self) -> Iterator[range]:
        return map(self.draws, itertools.count(self.start))


def join_items(items: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...] | SharpeningError:
    """Items of the dataset -> one batch of (B, 3, crop, crop) each, and (B,)."""
    errors = (item for item in items if isinstance(item, SharpeningError))
    return next(errors, None) or tuple(torch.cat(parts) for parts in zip(*items, strict=True))


def raise_errors(loader: DataLoader) -> Iterator[Any]:
    """What a loader gives, with the errors that its workers handed over raised.

    To be closed: that ends the workers, for which the process would wait for ever at its end, since
    they ignore signals and any traceback may keep them.
    """
    items = iter(loader)
    try:
        for each in items:
            if isinstance(each, SharpeningError):
                raise SharpeningError(str(each))
            yield each
    finally:
        if loader.num_workers:
            items._shutdown_workers()


START_METHOD = "fork"
"""How workers begin: sharing the decoded images instead of each with a copy, as from Python 3.14 on
by default."""


def training_batches(
    dataset: GoProSharpeningDataset, start: int, runtime: Runtime
) -> Iterator[tuple[Tensor, ...]]:
    """Endless uint8 batches from micro-batch `start` on, decoded ahead by the workers."""
    config = dataset.config
    images = config.batch_size // config.crops_per_image
    loader = DataLoader(
        dataset,
        batch_sampler=MicroBatches(images, start, runtime.rank, runtime.world),
        collate_fn=join_items,
        num_workers=config.workers,
        multiprocessing_context=START_METHOD if config.workers else None,
        pin_memory=runtime.device.type == "cuda",
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=leave_signals_to_parent,
    )
    return raise_errors(loader)


def leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C reaches the workers too: they go on, so the training can end its step and save."""
    for kind in (signal.SIGINT, signal.SIGTERM):
        signal.signal(kind, signal.SIG_IGN)


def prepare_batch(
    batch: tuple[Tensor, ...], config: Config, device: torch.device
) -> tuple[Tensor, Tensor, Tensor | None]:
    """uint8 batch -> `blurry, sharp, taught` (B, 3, H, W) float32 in [0, 1], blurred on the device;
    `taught` is None where it is not kept."""
    *images, keys = batch
    blurry, sharp, *taught = (t.to(device, non_blocking=True).float() / 255 for t in images)
    if (which := (keys >= 0).nonzero()[:, 0]).numel():
        generators = generators_for(config.train.seed, keys[which].tolist())
        others = sharp.roll(config.data.crops_per_image, dims=0)  # of another photograph
        which = which.to(device)
        blurry[which], sharp[which] = degrade(
            sharp[which], generators, config.degradation, others[which]
        )
    blurry = blurry.contiguous(memory_format=torch.channels_last)
    return blurry, sharp, taught[0] if taught else None


class TestImages(Dataset):
    """Whole test images `(index, blurry, sharp)`, (H, W, 3) uint8; a synthetic blur is fixed."""

    __test__ = False  # not a test class for pytest

    def __init__(self, pairs: Sequence[Pair], config: Config):
        self.pairs, self.config = pairs, config

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[int, np.ndarray, np.ndarray] | SharpeningError:
        try:
            blurry, sharp = read_pair(self.pairs[index])
        except (SharpeningError, MediaError) as error:
            return SharpeningError(str(error))
        if min(sharp.shape[:2]) < 11:
            path = self.pairs[index].sharp
            return SharpeningError(f"{path} is smaller than SSIM's window of 11 pixels: remove it")
        if self.pairs[index].blurry is None:
            image = torch.from_numpy(sharp).permute(2, 0, 1)[None].float() / 255
            images = degrade(image, generators_for(2**31, [index]), self.config.degradation)
            blurry, sharp = ((i[0] * 255).round().byte().permute(1, 2, 0).numpy() for i in images)
        return index, blurry, sharp


# --------------------------------------------------------------------------------------------------
# Synthetic blur
# --------------------------------------------------------------------------------------------------


def generators_for(seed: int, indices: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per index: a function of (seed, index) alone, so equal on every process."""
    states = (np.random.SeedSequence((seed, int(i))).generate_state(1) for i in indices)
    return [torch.Generator().manual_seed(int(state[0])) for state in states]


@dataclass(frozen=True)
class Dice:
    """Numbers drawn from one image's generator, as Python floats or small CPU tensors."""

    generator: torch.Generator

    def uniform(self, low: float = 0.0, high: float = 1.0, power: float = 1.0) -> float:
        """Between low and high; a power above 1 makes what is near low more frequent."""
        return low + (high - low) * torch.rand((), generator=self.generator).item() ** power

    def chance(self, probability: float) -> bool:
        return self.uniform() < probability

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def noise_like(self, image: Tensor) -> Tensor:
        """Normal numbers made on the image's device from a drawn seed: CPU and GPU noise differ."""
        seed = int(torch.randint(2**31, (), generator=self.generator))
        generator = torch.Generator(image.device).manual_seed(seed)
        return torch.randn(image.shape, generator=generator, device=image.device)


def to_light(values: Tensor, response: float) -> Tensor:
    """Stored values in [0, 1] -> linear light in [0, 1]; `response` 0 is the identity."""
    return torch.expm1(values * response) / math.expm1(response) if response else values


def to_values(light: Tensor, response: float) -> Tensor:
    """Inverse of `to_light`."""
    return torch.log1p(light * math.expm1(response)) / response if response else light


def camera_path(dice: Dice, frames: int, length: float, config: DegradationConfig) -> Tensor:
    """Poses (T, 6): shift x, y in pixels, then roll, zoom, tilt x, y in pixels at the corner.

    The middle one of the odd T frames is at rest, because the sharp target is the middle frame. The
    path of the shift is `length` pixels long.
    """
    half = frames // 2
    time = torch.arange(-half, half + 1) / half  # -1 .. 1 over the exposure
    bend = config.bend * dice.uniform() ** 3
    tremor = torch.sin(dice.uniform(2, 8) * time)
    basis = torch.stack([time, bend * time**2, bend * time**3, 0.3 * bend * tremor], dim=1)
    pose = basis @ dice.normal(4, 6)
    pose[:, :2] *= length / pose[:, :2].diff(dim=0).norm(dim=1).sum().clamp(min=1e-6)
    swing = length * config.swing * dice.uniform() / 2  # to either side
    pose[:, 2:] *= swing / pose[:, 2:].abs().amax().clamp(min=1e-6)
    return pose


def homographies(pose: Tensor, radius: float) -> Tensor:
    """Poses (T, 6) -> matrices (T, 3, 3) for pixel coordinates from the image centre."""
    shift, (roll, zoom, tilt_x, tilt_y) = pose[:, :2], (pose[:, 2:] / radius).unbind(1)
    one = torch.ones_like(roll)
    rows = [
        torch.stack([one + zoom, -roll, shift[:, 0]], dim=1),
        torch.stack([roll, one + zoom, shift[:, 1]], dim=1),
        torch.stack([tilt_x / radius, tilt_y / radius, one], dim=1),
    ]
    return torch.stack(rows, dim=1)


def warp(image: Tensor, matrices: Tensor) -> Tensor:
    """`image` (C, H, W) through each homography (T, 3, 3) -> (T, C, H, W); the border reflects."""
    _, H, W = image.shape
    x = torch.arange(W, device=image.device) - (W - 1) / 2
    y = torch.arange(H, device=image.device)[:, None] - (H - 1) / 2
    m = matrices.to(image.device)[..., None, None]
    u, v, w = (m[:, i, 0] * x + m[:, i, 1] * y + m[:, i, 2] for i in range(3))  # no matmul: TF32
    grid = torch.stack([u / w * (2 / W), v / w * (2 / H)], dim=-1)  # (T, H, W, 2)
    frames = image.expand(len(matrices), -1, -1, -1)
    return F.grid_sample(frames, grid, padding_mode="reflection", align_corners=False)


def soft_mask(dice: Dice, H: int, W: int) -> Tensor:
    """Random blobs (1, H, W) in [0, 1], a few per image, with edges some pixels wide."""
    rows = columns = 3 + int(dice.uniform(0, 4))
    field = dice.normal(1, 1, rows, columns)
    field = F.interpolate(field, (H, W), mode="bicubic", align_corners=False)[0]
    return torch.sigmoid((field - dice.uniform(-0.3, 0.8)) * dice.uniform(8, 40))


def frame_count(length: float, dice: Dice, config: DegradationConfig) -> int:
    """Frames that are averaged over a path of `length` pixels: odd, at least GoPro's 7."""
    half = math.ceil(length / dice.uniform(*config.spacing) / 2)
    return 2 * min(max(half, 3), 24) + 1


def move(
    light: Tensor, dice: Dice, lengths: tuple[float, float], config: DegradationConfig
) -> Tensor:
    """Exposure of the linear-light image (3, H, W) while the camera, or an object too, moves."""
    _, H, W = light.shape
    with_object = dice.chance(config.object_chance)
    drawn = [dice.uniform(*lengths, config.length_power) for _ in range(2)]
    frames = frame_count(max(drawn[: 1 + with_object]), dice, config)
    radius = max(128.0, math.hypot(H, W) / 2)
    camera, thing = (
        homographies(camera_path(dice, frames, length, config), radius) for length in drawn
    )
    layer = torch.cat([light, soft_mask(dice, H, W).to(light.device)]) if with_object else None
    total = torch.zeros_like(light)
    for there, here in zip(camera.split(8), thing.split(8), strict=True):  # bounds the memory
        seen = warp(light, there)
        if layer is not None:
            front = warp(layer, here)
            seen = torch.lerp(seen, front[:, :3], front[:, 3:])
        total += seen.sum(dim=0)
    return total / frames


def move_in_front(
    background: Tensor, layer: Tensor, dice: Dice, config: DegradationConfig
) -> Tensor:
    """Exposure of the linear-light `background` (3, H, W), at rest, while an object moves in front
    of it. `layer` (4, H, W) is the object's light and opacity."""
    length = 0.0 if dice.chance(config.rest_chance) else dice.uniform(*config.length)
    frames = frame_count(length, dice, config)
    path = camera_path(dice, frames, length, config)
    matrices = homographies(path, max(128.0, math.hypot(*background.shape[1:]) / 2))
    total = torch.zeros_like(background)
    for part in matrices.split(8):  # bounds the memory
        front = warp(layer, part)
        total += torch.lerp(background, front[:, :3], front[:, 3:]).sum(dim=0)
    return total / frames


def soften(image: Tensor, dice: Dice, config: DegradationConfig) -> Tensor:
    """`image` (3, H, W) out of focus in parts, or slightly in all of it; half are compressed.

    What students used to change most in sharp photographs were their slightly soft parts.
    """
    everywhere, (low, high) = dice.chance(0.4), config.soft_radius
    radius = low * dice.uniform(0.5, 1.5) if everywhere else dice.uniform(low, high, 2.0)
    soft = lens_blur(image, radius, gaussian=dice.chance(0.5))
    mask = soft_mask(dice, *image.shape[1:]).to(image.device)
    image = soft if everywhere else torch.lerp(image, soft, mask)
    quality = round(dice.uniform(*config.soft_quality))
    return jpeg(image, quality) if dice.chance(0.5) else image


def lens_blur(image: Tensor, radius: float, gaussian: bool) -> Tensor:
    """`image` (C, H, W) under a disk of `radius` pixels, or a Gaussian of half that deviation."""
    reach = math.ceil(1.5 * radius + 0.5) if gaussian else math.ceil(radius)
    offsets = torch.arange(-reach, reach + 1.0)
    distance = torch.hypot(*torch.meshgrid(offsets, offsets, indexing="ij"))
    kernel = (-2 * (distance / radius) ** 2).exp() if gaussian else radius + 0.5 - distance
    kernel = kernel.clamp(0, 1).to(image)
    H, W = image.shape[-2:]
    rows, columns = (mirror(size, reach, image.device) for size in (H, W))
    padded = image[:, rows][:, :, columns]
    return F.conv2d(padded[:, None], kernel[None, None] / kernel.sum())[:, 0]


def mirror(size: int, reach: int, device: torch.device) -> Tensor:
    """Indices -reach .. size + reach - 1 folded into the image, however small it is."""
    index = torch.arange(-reach, size + reach, device=device) % (2 * size)
    return torch.minimum(index, 2 * size - 1 - index)


def transmit(image: Tensor, dice: Dice, config: DegradationConfig) -> Tensor:
    """A video call's way: made smaller, compressed as JPEG, shown at full size."""
    H, W = image.shape[-2:]
    small = image[None]
    rescale = dice.chance(config.rescale_chance)
    if rescale:
        factor = dice.uniform(*config.rescale)
        size = (max(1, round(H / factor)), max(1, round(W / factor)))
        down, up = ("bicubic" if dice.chance(0.5) else "bilinear" for _ in range(2))
        small = F.interpolate(small, size, mode=down, antialias=dice.chance(0.8))
    if dice.chance(config.jpeg_chance):
        low, high = config.jpeg_quality
        small = jpeg(small[0], round(dice.uniform(low, high)))[None]
    return F.interpolate(small, (H, W), mode=up)[0] if rescale else small[0]


def jpeg(image: Tensor, quality: int) -> Tensor:
    """`image` (3, H, W) after JPEG on the CPU; torchvision 0.29 announces the end of its codec."""
    levels = to_levels(image).to("cpu", torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "JPEG", quality=quality)
    stored = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    return stored.to(image.device).float() / 255


def to_levels(image: Tensor) -> Tensor:
    """[0, 1] -> the whole numbers 0 .. 255 that an image file stores, still float."""
    return (image * 255).round().clamp(0, 255)


def degrade_image(
    sharp: Tensor, other: Tensor, dice: Dice, config: DegradationConfig
) -> tuple[Tensor, Tensor]:
    """`degrade` for one image (3, H, W): lens, motion, exposure, noise, then the transmission."""
    kind = dice.uniform()
    in_front = 0 <= kind - config.motion - config.video_call < config.moving_object
    if config.soft_chance and not in_front and dice.chance(config.soft_chance):
        sharp = soften(sharp, dice, config)
    if kind >= config.motion + config.video_call and not in_front:
        return sharp, sharp
    call = kind >= config.motion and not in_front
    response = dice.uniform(*config.response, config.response_power)
    brightest = dice.uniform(*config.highlight, config.highlight_power)
    light = to_clipped_light(sharp, response, brightest)
    if call and dice.chance(config.lens_chance):
        light = lens_blur(light, dice.uniform(*config.lens_radius), gaussian=dice.chance(0.5))
    if in_front:
        if dice.chance(config.background_chance):
            radius = dice.uniform(*config.soft_radius)
            light = lens_blur(light, radius, gaussian=dice.chance(0.5))
        mask = soft_mask(dice, *sharp.shape[1:]).to(light.device)
        front = to_clipped_light(other, response, brightest)
        sharp = to_values(torch.lerp(light, front, mask).clamp(0, 1), response)
        light = move_in_front(light, torch.cat([front, mask]), dice, config)
    elif dice.chance(config.call_motion_chance if call else 1.0):
        light = move(light, dice, config.call_length if call else config.length, config)
    image = to_values(light.clamp(0, 1), response)
    deviation = dice.uniform(*(config.noise if call else config.faint_noise))
    if deviation and dice.chance(config.noise_chance if call else 1.0):
        shot = dice.uniform()
        image = image + dice.noise_like(image) * deviation * (1 - shot + shot * image).sqrt()
    return (transmit(image.clamp(0, 1), dice, config) if call else image), sharp


def to_clipped_light(sharp: Tensor, response: float, brightest: float) -> Tensor:
    """Stored values -> light, with what was clipped `brightest` above white (1)."""
    clipped = ((sharp - 0.96) / 0.04).clamp(0, 1)  # 0.96: only what the camera may have clipped
    return to_light(sharp, response) * (1 + clipped * brightest)


@torch.no_grad()
def degrade(
    sharp: Tensor,
    generators: Sequence[torch.Generator],
    config: DegradationConfig,
    others: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(blurry, sharp), made from `sharp` (B, 3, H, W) in [0, 1]: float32, rounded to 8-bit levels.

    The returned sharp image differs from the given one where an object of `others` (B, 3, H, W;
    None: the images themselves, mirrored) stands in front of it, and where it was softened. Image i
    depends on sharp[i], others[i], generators[i] and config alone, so a batch may be split over
    processes at will. The frames of one exposure are rendered together on the device of `sharp`;
    parameters are drawn on the CPU, and only JPEG waits for the device. Call it outside autocast.
    """
    if len(generators) != len(sharp):
        raise ValueError(f"{len(sharp)} images need as many generators, got {len(generators)}")
    others = sharp.flip(3) if others is None else others
    pairs = [
        degrade_image(image, other, Dice(generator), config)
        for image, other, generator in zip(sharp, others, generators, strict=True)
    ]
    blurry, sharp = (to_levels(torch.stack(images)) / 255 for images in zip(*pairs, strict=True))
    return blurry, sharp


# --------------------------------------------------------------------------------------------------
# Student: SE-U-Net
# --------------------------------------------------------------------------------------------------


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) -> (B, C, H', W'), grown at the bottom and right by reflection; what reflection
    cannot reach repeats the far edge.  Index arithmetic instead of F.pad: without a branch on the
    size, one exported graph serves every size."""
    for dim in (2, 3):
        size = image.shape[dim]
        i = torch.arange((size + multiple - 1) // multiple * multiple, device=image.device)
        image = image.index_select(dim, torch.where(i < size, i, (2 * (size - 1) - i).clamp(min=0)))
    return image


class SqueezeExcite(nn.Module):
    """Channel weights from the mean over the image (arXiv 1709.01507).

    With `window` (in pixels of this level), and at inference only, from means over windows of that
    size (TLC, arXiv 2112.04491), half a window apart and cut at the image's edge; bilinear between
    their centres. A window around each pixel, as in the paper, is no better (within 0.003 dB on
    real pairs) and doubles the time of the network; so it adds a tenth.
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
    """x + SE(conv(relu(conv(x)))).  The branch starts at a tenth of its usual size, so that deep
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
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 2, stride=2) for a, b in itertools.pairwise(widths)
        )
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
# Teacher: Restormer, frozen, under the parameter names of its released weights
# --------------------------------------------------------------------------------------------------


def named(name: str, module: nn.Module) -> nn.Sequential:
    """`module` with its parameters one level down under `name`, as released weights have them."""
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
        # The output projection is a matrix, and so is the attention: multiplied first, they pass
        # over the pixels once instead of twice.
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
        # Each half is made by itself: on slices of one tensor GELU takes 2.5 times as long (CPU).
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

    dim, channels = weights["patch_embed.proj.weight"].shape[:2]
    if channels != 3:
        raise KeyError(f"RGB input, but {channels} channels")
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


def check_teacher(path: Path) -> None:
    """Raises SharpeningError that says where to get it, if there is no such weights file."""
    if not path.is_file():
        raise SharpeningError(
            f"there are no teacher weights {path}: download motion_deblurring.pth from "
            "https://github.com/swz30/Restormer/releases and put it there, or give others with "
            "--teacher.weights; --demo runs with a small teacher that ships"
        )


def restormer_from_weights(path: Path) -> Restormer:
    """The frozen teacher of a weights file, its sizes inferred from them.

    Reads a state dict in the released names, plain or under the first there is of ema, params_ema,
    params and state_dict. Raises SharpeningError if the file is missing, unreadable or of another
    architecture.
    """
    check_teacher(path)
    weights = network_weights(load_checkpoint(path))
    try:
        teacher = Restormer(**restormer_sizes(weights))
    except (KeyError, AttributeError, IndexError) as error:
        raise SharpeningError(
            f"{path} is no Restormer (it has no {error}; it holds: {', '.join(list(weights)[:4])}):"
            " give the released motion_deblurring.pth or one trained by --train.network restormer"
        ) from error
    load_strictly(teacher, weights, path)
    teacher = teacher.to(memory_format=torch.channels_last)  # 1x1 convolutions 1.7 times as fast
    return teacher.eval().requires_grad_(False)


# --------------------------------------------------------------------------------------------------
# Losses
# --------------------------------------------------------------------------------------------------

TAPS = {"half": "encoder_level2", "quarter": "encoder_level3", "eighth": "latent"}
"""Student tap -> the teacher tap of the same resolution that it imitates."""


class VggFeatures(nn.Module):
    """Frozen VGG-19 (arXiv 1409.1556) on images in [0, 1], as a list of named activations."""

    def __init__(self, config: LossConfig):
        super().__init__()
        self.net = load_vgg(config.vgg_weights)
        self.names = {}
        block, conv = 1, 0
        for index, layer in enumerate(self.net):
            if isinstance(layer, nn.Conv2d):
                conv += 1
            elif isinstance(layer, nn.ReLU):
                layer.inplace = False  # keeps the activations that are returned
                self.names[index] = f"relu{block}_{conv}"
            else:
                block, conv = block + 1, 0
        if unknown := set(config.vgg_layers) - set(self.names.values()):
            raise SharpeningError(f"VGG-19 has no layer {', '.join(sorted(unknown))}")
        last = max(i for i, name in self.names.items() if name in config.vgg_layers)
        self.net, self.wanted = self.net[: last + 1], set(config.vgg_layers)
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
        what = f"the VGG-19 weights {path or 'of torchvision'} cannot be had"
        raise SharpeningError(f"{what} ({reason(error)}): {advice}") from error
    return net.features


def perceptual_loss(vgg: nn.Module, restored: Tensor, taught: Tensor) -> Tensor:
    """L1 between VGG features, mean over layers (arXiv 1603.08155)."""
    with torch.no_grad():
        aims = vgg(taught)
    return torch.stack([F.l1_loss(a, b) for a, b in zip(vgg(restored), aims, strict=True)]).mean()


def feature_loss(projected: dict[str, Tensor], taught_taps: dict[str, Tensor]) -> Tensor:
    """L1 between projected student taps and teacher taps of the same names, mean over the taps.

    Student and teacher may pad to different multiples: what both have is compared.
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


def ssim_loss(restored: Tensor, sharp: Tensor) -> Tensor:
    """1 - SSIM of two (B, 3, H, W) batches in [0, 1], by the convention of `mean_ssim`."""
    return 1 - mean_ssim(restored, sharp, 1.0)


def mean_ssim(a: Tensor, b: Tensor, peak: float) -> Tensor:
    """SSIM of two (B, 3, H, W) batches by the convention of the metric `ssim`."""
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
        "ssim": lambda: ssim_loss(restored, sharp),
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
    if np.array_equal(image, sharp):
        return 100.0
    return float(peak_signal_noise_ratio(sharp, image, data_range=255))


def ssim(image: np.ndarray, sharp: np.ndarray) -> float:
    """SSIM (Wang et al. 2004) of two (H, W, 3) uint8 images, H, W >= 11: Gaussian window of 11,
    sigma 1.5, population covariance, mean over RGB and all windows inside the image."""
    pair = (image.astype(np.float32), sharp.astype(np.float32))  # twice as fast as float64
    return float(
        structural_similarity(
            *pair,
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


def gmacs(net: nn.Module, side: int = 256) -> float:
    """Billions of multiply-adds of one forward pass on a side x side image."""
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
    """Decay after optimizer step `step` (from 1): small at first, so the start is forgotten."""
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
# Checkpoints
# --------------------------------------------------------------------------------------------------


def save_checkpoint(path: Path, payload: dict[str, Any]) -> None:
    """`torch.save` under a temporary name, then a rename: an interruption leaves the old file.
    Raises `MediaError` if the file system refuses."""
    whole = io.BytesIO()  # what torch.save raises on a full disk is no OSError
    torch.save(payload, whole)
    with media_files.replaced_when_done(path) as temporary:
        temporary.write_bytes(whole.getvalue())  # getbuffer in a traceback ends Python 3.12


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint, on the CPU, without running code that it may hold."""
    if not path.is_file():
        raise SharpeningError(f"there is no checkpoint {path}: check the path, or train first")
    try:
        payload = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise SharpeningError(
            f"{path} is no readable checkpoint ({reason(error)}): it may be cut short; download or "
            "copy it again, or give another"
        ) from error
    if not isinstance(payload, dict):
        raise SharpeningError(f"{path} holds a {type(payload).__name__}, not a checkpoint")
    return payload


def network_weights(payload: dict[str, Any]) -> dict[str, Tensor]:
    """The state dict in what a checkpoint of this or another training script holds: the averaged
    weights where there are any."""
    kept = ("ema", "params_ema", "params", "state_dict")
    weights = next((payload[key] for key in kept if isinstance(payload.get(key), dict)), payload)
    tensors = ((name, value) for name, value in weights.items() if isinstance(value, Tensor))
    return {name.removeprefix("module."): value for name, value in tensors}


def network_payload(net: nn.Module, **more: Any) -> dict[str, Any]:
    """What a shipped network holds: its weights, and a student's settings, which rebuild it."""
    settings = {"student": config_to_dict(net.config)} if isinstance(net, SEUNet) else {}
    return {**settings, "params": net.state_dict(), **more}


def load_student(path: Path) -> "SEUNet":
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


def load_strictly(net: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """`load_state_dict`, whose failure names the file and the first differing keys, or those that
    are not finite: a back end in 8 bits would make them black pictures."""
    own = {name: value.shape for name, value in net.state_dict().items()}
    theirs = {name: value.shape for name, value in weights.items()}
    if differing := [n for n in own.keys() | theirs.keys() if own.get(n) != theirs.get(n)]:
        shown = ", ".join(sorted(differing)[:4])
        raise SharpeningError(
            f"{path} does not fit {type(net).__name__}: {len(differing)} entries differ, such as "
            f"{shown}; it belongs to another architecture or other sizes"
        )
    if broken := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise SharpeningError(
            f"{path} is spoilt: {len(broken)} of its weights are not finite, such as {broken[0]}; "
            "take an earlier checkpoint"
        )
    net.load_state_dict(weights)


def default_checkpoint(config: Config) -> Path:
    """`--checkpoint`, else the user's newest final student, else the one that ships."""
    if config.checkpoint is not None:
        return config.checkpoint
    finals = config.train.folder.glob("student_model_ema_final_epoch_*.pth")
    shipped = HERE / "model_checkpoints" / "student_pretrained.pth"
    newest = max(finals, key=lambda path: path.stat().st_mtime, default=shipped)
    if not newest.is_file():
        raise SharpeningError("there is no student yet: train one, or give one with --checkpoint")
    return newest


# --------------------------------------------------------------------------------------------------
# Back ends: what computes a trained student
# --------------------------------------------------------------------------------------------------


Net = Callable[[Tensor], Tensor]
"""A network, or what computes it: (B, 3, H, W) -> the same."""


def need(package: str) -> Any:
    """An optional package, or an error that says how to get it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise SharpeningError(
            f"this needs the package {error.name}: pip install -r requirements-dev.txt"
        ) from error


def openvino_model(net: nn.Module) -> Any:
    """`net` as an OpenVINO model: float32 (batch, 3, height, width) -> the same, all sizes."""
    ov, free = need("openvino"), torch.export.Dim.AUTO
    example = torch.rand(2, 3, 67, 45)  # no common factor, so that no size is taken as fixed
    sizes = ({0: free, 2: free, 3: free},)
    return ov.convert_model(torch.export.export(net, (example,), dynamic_shapes=sizes))


def calibration_crops(side: int = 256) -> list[np.ndarray]:
    """Blurred crops (side, side, 3) uint8 of the demo's training photographs, two of each."""
    crops = []
    blur = DegradationConfig(response_power=1.0)
    for _, blurry, _ in TestImages(demo_pairs("train"), Config(degradation=blur)):
        top = (blurry.shape[0] - side) // 2
        crops += [blurry[top : top + side, :side], blurry[top : top + side, -side:]]
    return [crop for crop in crops if crop.shape == (side, side, 3)]


def quantised(model: Any, crops: Sequence[np.ndarray], keep_ends: bool = True) -> Any:
    """An OpenVINO model in INT8 by post-training quantisation; `crops` (H, W, 3) uint8 set its
    ranges.

    With `keep_ends` the first and the last convolution and every addition stay in floating point:
    the last one adds the residual to the picture, which 256 levels would ruin.
    """
    nncf = need("nncf")
    nodes = model.get_ordered_ops()
    convolutions = [n.get_friendly_name() for n in nodes if n.get_type_name() == "Convolution"]
    ends = nncf.IgnoredScope(names=[convolutions[0], convolutions[-1]], types=["Add"])
    inputs = [crop.transpose(2, 0, 1)[None].astype(np.float32) / 255 for crop in crops]
    return nncf.quantize(
        model,
        nncf.Dataset(inputs),
        subset_size=len(inputs),
        preset=nncf.QuantizationPreset.MIXED,
        fast_bias_correction=False,
        ignored_scope=ends if keep_ends else None,
    )


def on_bytes(model: Any) -> Any:
    """An OpenVINO model from (batch, height, width, 3) uint8 to the same: it scales and rounds."""
    ov = need("openvino")
    ops, wrapper = ov.opset13, ov.preprocess.PrePostProcessor(model)
    wrapper.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
    wrapper.input().model().set_layout(ov.Layout("NCHW"))
    wrapper.input().preprocess().convert_element_type(ov.Type.f32).scale(255.0)

    def to_bytes(output: Any) -> Any:
        levels = ops.multiply(output, np.float32(255))
        levels = ops.round(ops.clamp(levels, 0.0, 255.0), "half_to_even")
        return ops.transpose(ops.convert(levels, "u8"), np.array([0, 2, 3, 1])).output(0)

    wrapper.output().postprocess().custom(to_bytes)
    return wrapper.build()


class OpenVinoNet:
    """A student compiled for this CPU, called like it: (B, 3, H, W) float32 -> the same.

    `dtype` is that of what is not INT8. A call uses as many cores as PyTorch would in its thread,
    and what they leave serves further calls at the same time (`streams`). A shape that comes twice
    in a row is compiled for itself, which is up to 1.7 times as fast but takes a third of a second.

    OpenVINO is called in threads of its own: it gives its caller a stack for signals and may free
    it too early, so that the next signal (Ctrl-C, the end of a child) would end the process.
    """

    COMPILED = 3  # shapes kept, each with its memory

    def __init__(self, model: Any, dtype: torch.dtype):
        self.model, self.core = model, need("openvino").Core()
        self.precision = {torch.bfloat16: "bf16"}.get(dtype, "f32")
        self.cores, self.lock = torch.get_num_threads(), threading.Lock()
        self.threads = ThreadPoolExecutor(STREAMS, "openvino")
        self.last: tuple = ()
        self.compiled: dict[tuple, Any] = {}  # (kind, cores) for all sizes, (..., *shape) for one
        self.idle: dict[tuple, list] = {}  # their requests: new ones slow two streams by a quarter

    def compile(self, kind: str, cores: int, *shape: int) -> Any:
        """The model for a `shape`, or without one for all."""
        count = max(1, self.cores // cores)
        model = on_bytes(self.model.clone()) if kind == "bytes" else self.model.clone()
        if shape:
            model.reshape(list(shape))
        properties = {"INFERENCE_PRECISION_HINT": self.precision, "PERFORMANCE_HINT": "LATENCY"}
        properties |= {"NUM_STREAMS": count, "INFERENCE_NUM_THREADS": count * cores}
        return self.core.compile_model(model, "CPU", properties)

    def request(self, kind: str, cores: int, shape: tuple[int, ...]) -> tuple[Any, list]:
        """What computes a `shape` of "bytes" or "floats", compiled if need be, and the list that
        takes it back."""
        with self.lock:
            key: tuple = (kind, cores, *shape)
            again, self.last = key == self.last, key
            if key not in self.compiled and not again:
                key = key[:2]
            if key not in self.compiled:
                self.compiled[key], self.idle[key] = self.compile(*key), []
            self.compiled[key] = self.compiled.pop(key)  # the last one used is the last
            if len(static := [each for each in self.compiled if len(each) > 2]) > self.COMPILED:
                del self.compiled[static[0]], self.idle[static[0]]
            idle = self.idle[key]
            return idle.pop() if idle else self.compiled[key].create_infer_request(), idle

    def run(self, array: np.ndarray, kind: str) -> np.ndarray:
        """`array` through the model for `kind` "bytes" or "floats"."""

        def infer(cores: int) -> np.ndarray:
            request, idle = self.request(kind, cores, array.shape)
            request.infer([array], share_inputs=True)
            result = request.get_output_tensor().data.copy()
            idle.append(request)
            return result

        return self.threads.submit(infer, torch.get_num_threads()).result()

    def __call__(self, blurry: Tensor) -> Tensor:
        return torch.from_numpy(self.run(blurry.float().contiguous().numpy(), "floats"))

    def on_images(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Images (H, W, 3) uint8 of one size -> the same, rounded inside the model."""
        return list(self.run(np.stack(images), "bytes"))


def with_pool_window(student: SEUNet, window: int | None) -> SEUNet:
    """The same weights, squeezing over windows of `window` pixels; None: over the whole image."""
    pooled = SEUNet(dataclasses.replace(student.config, pool_window=window))
    pooled.load_state_dict(student.state_dict())
    return pooled.eval().requires_grad_(False)


def pick_backend(config: InferConfig, runtime: Runtime, calls: float = math.inf) -> str:
    """`config.backend`, and for "auto" the fastest for so many calls of the network."""
    if config.backend != "auto":
        return config.backend
    worth = runtime.device.type == "cpu" and calls >= 16 and find_spec("openvino")
    return "openvino" if worth else "pytorch"


def deployed(
    student: SEUNet, config: InferConfig, runtime: Runtime, calls: float = math.inf
) -> Net:
    """What computes `student` at inference, by the settings `backend` and `pool_window`."""
    if config.pool_window is not None:
        student = with_pool_window(student, config.pool_window or None)
    backend = pick_backend(config, runtime, calls)
    if backend in ("pytorch", "compiled"):
        student = student.to(runtime.device, memory_format=torch.channels_last)
        return runtime.compiled(student) if backend == "compiled" else student
    if runtime.device.type != "cpu":
        raise SharpeningError(f"--infer-config.backend {backend} computes on the CPU: --device cpu")
    model = openvino_model(student)
    if backend == "openvino-int8":
        model = quantised(model, calibration_crops())
    return OpenVinoNet(model, runtime.dtype)


# --------------------------------------------------------------------------------------------------
# Tiled inference
# --------------------------------------------------------------------------------------------------


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """First pixel of each tile along one axis; neighbours share at least `overlap` pixels and the
    last tile is flush with the edge."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def paste(canvas: np.ndarray, patch: np.ndarray, start: int, overlap: int) -> None:
    """Put `patch` (h, W, 3) on `canvas` (H, W, 3) from row `start` on, below the first row faded in
    by a raised cosine over `overlap` rows: the weights of old and new sum to 1 at every pixel."""
    faded, solid = np.split(patch, [overlap if start else 0])
    end = start + len(patch)
    canvas[end - len(solid) : end] = solid
    if len(faded):
        share = np.sin(np.pi / 2 * (np.arange(overlap, dtype=np.float32) + 0.5) / overlap) ** 2
        old = canvas[start : start + overlap].astype(np.float32)
        canvas[start : start + overlap] = np.rint(old + (faded - old) * share[:, None, None])


def even_tile(length: int, tile: int, overlap: int) -> int:
    """The smallest side, a multiple of 16, of as many tiles as `tile` needs to cover `length`: 1100
    pixels take two tiles of 592 instead of two of 1024."""
    if length <= tile:
        return length
    count = len(tile_starts(length, tile, overlap))
    even = math.ceil((length + (count - 1) * overlap) / count)
    return min(tile, math.ceil(even / 16) * 16)


def to_tensor(image: np.ndarray, device: torch.device) -> Tensor:
    """(H, W, 3) uint8 or uint16 -> (1, 3, H, W) float32 in [0, 1], channels-last."""
    peak = np.iinfo(image.dtype).max
    pixels = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None]
    return pixels.float().div_(peak)


def to_image(tensor: Tensor, dtype: np.dtype) -> np.ndarray:
    """(3, H, W) around [0, 1] -> (H, W, 3) of an integer dtype, clipped and rounded; integer before
    it leaves the device."""
    levels = tensor.float().clamp(0, 1).mul_(np.iinfo(dtype).max).round_()
    whole = levels.to(getattr(torch, np.dtype(dtype).name)).permute(1, 2, 0)
    return whole.contiguous().cpu().numpy()


@torch.inference_mode()
def run_net(net: Net, blurry: Tensor, runtime: Runtime) -> Tensor:
    """`net` under autocast; once more in float32 if the result is not finite, as it may be where
    fp16 ends at 65,504. Raises `SharpeningError` if that is not finite either."""
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


@torch.inference_mode()
def sharpen_batch(net: Net, images: Sequence[np.ndarray], runtime: Runtime) -> list[np.ndarray]:
    """`net` applied at once to whole images (H, W, 3) of one size, uint8 or uint16 -> the same."""
    if isinstance(net, OpenVinoNet) and images[0].dtype == np.uint8:
        return net.on_images(images)
    batch = torch.cat([to_tensor(image, runtime.device) for image in images])
    restored = run_net(net, batch, runtime)
    return [to_image(each, images[0].dtype) for each in restored]


def sharpen_whole(net: Net, image: np.ndarray, runtime: Runtime) -> np.ndarray:
    """`net` applied to a whole image (H, W, 3) uint8 or uint16 -> the same shape and dtype."""
    return sharpen_batch(net, [image], runtime)[0]


def sharpen_tiled(
    net: Net, image: np.ndarray, runtime: Runtime, tile: int, overlap: int, batch: int = 1
) -> np.ndarray:
    """As `sharpen_whole`, in overlapping tiles, `batch` to a call of the network. Only tiles are on
    the device; a band of them side by side is blended first, then the bands."""
    H, W, _ = image.shape
    height, width = even_tile(H, tile, overlap), even_tile(W, tile, overlap)
    rows, columns = tile_starts(H, height, overlap), tile_starts(W, width, overlap)
    places = [(i, k) for i in range(len(rows)) for k in range(0, len(columns), batch)]

    def restore(place: tuple[int, int]) -> list[np.ndarray]:
        top, lefts = rows[place[0]], columns[place[1] : place[1] + batch]
        tiles = [image[top : top + height, left : left + width] for left in lefts]
        return sharpen_batch(net, tiles, runtime)

    result, band = np.empty_like(image), np.empty_like(image[:height])
    with streams(runtime) as pool:
        for (i, first), tiles in ahead(pool, restore, places, lambda: 2 * STREAMS):
            for k, restored in enumerate(tiles.result(), first):
                paste(band.swapaxes(0, 1), restored.swapaxes(0, 1), columns[k], overlap)
            if first + batch >= len(columns):
                paste(result, band, rows[i], overlap)
    return result


def whole_limit(runtime: Runtime) -> float:
    """Pixels that are computed at once. A float32 pixel needs 330 bytes of activations."""
    if runtime.device.type == "cuda":
        cached = torch.cuda.memory_reserved(runtime.device)  # by earlier images, free for later
        used = torch.cuda.memory_allocated(runtime.device)
        return (torch.cuda.mem_get_info(runtime.device)[0] + cached - used) / 1000
    return 2.1e6  # a frame of 1080p; 1.4 GB for two side by side


def pick_tile(
    shape: tuple[int, ...], config: InferConfig, runtime: Runtime, count: int = 1
) -> int | None:
    """Tile side for `count` images (H, W, ...), None: whole; as `config` says, else by memory."""
    H, W = shape[:2]
    if config.tile is not None:
        return config.tile if max(H, W) > config.tile else None
    return None if whole_limit(runtime) >= count * H * W else LARGEST_TILE


def tiling_rule(config: InferConfig, runtime: Runtime) -> str:
    """What `pick_tile` does, in words."""
    limit = f"{whole_limit(runtime) / 1e6:.1f} megapixels"
    if config.tile is not None:
        limit = f"{config.tile} pixels a side"
    return (
        f"images up to {limit} whole, larger ones in tiles of {config.tile or LARGEST_TILE} pixels "
        f"that overlap by {config.overlap}"
    )


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of PyTorch or NumPy means that; of some only the text tells."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    texts = ("can't allocate memory", "out of memory", "ALLOC_FAILED")
    return isinstance(error, kinds) or any(text in str(error) for text in texts)


def smaller_tile(side: int, overlap: int) -> int:
    """Half of `side`; raises `SharpeningError` where tiles would be all overlap."""
    if side // 2 <= 2 * overlap:
        advice = "close other programs, or use --device cpu or a smaller --infer-config.overlap"
        raise SharpeningError(f"memory runs out even with tiles of {side} pixels: {advice}")
    return side // 2


def sharpen_images(
    net: Net,
    images: Sequence[np.ndarray],
    runtime: Runtime,
    config: InferConfig,
    fitting: dict[tuple[int, ...], int] | None = None,
) -> list[np.ndarray]:
    """Images (H, W, 3) uint8 or uint16 of one size through `net`, whole or tiled, to the same shape
    and dtype. When memory runs out the tile is halved and the work repeated; `fitting` remembers
    the tile by image size, so that later calls need not fail first."""
    shape, fitting = images[0].shape, {} if fitting is None else fitting
    tile = fitting.get(shape) or pick_tile(shape, config, runtime, len(images))
    while True:
        try:
            if tile is None:
                return sharpen_batch(net, images, runtime)
            settings = (tile, config.overlap, config.tile_batch)
            return [sharpen_tiled(net, image, runtime, *settings) for image in images]
        except (RuntimeError, MemoryError) as error:
            if not ran_out_of_memory(error):
                raise
        # past the handler, whose traceback keeps the tensors of the attempt alive
        tile = fitting[shape] = smaller_tile(tile or max(shape), config.overlap)
        torch.cuda.empty_cache()
        runtime.say(f"out of memory: going on in tiles of {tile} pixels")


def sharpen_image(net: Net, image: np.ndarray, runtime: Runtime, config: InferConfig) -> np.ndarray:
    """One image (H, W, 3) as `sharpen_images` does several."""
    return sharpen_images(net, [image], runtime, config)[0]


# --------------------------------------------------------------------------------------------------
# Evaluation: PSNR, SSIM, FPS
# --------------------------------------------------------------------------------------------------


def evaluate_quality(
    nets: dict[str, Net],
    images: TestImages,
    runtime: Runtime,
    folder: Path | None = None,
) -> dict[str, float]:
    """Mean PSNR and SSIM over the test images, of the blurred input and of each net's result, and
    the share of images whose PSNR falls.

    RGB, rounded to uint8, whole images at native size, mean over images. The images are shared out
    over the processes; sums and counts are added up. The first net's results and a strip
    `blurry | results | sharp` go to `folder`.
    """
    config = images.config
    share = range(runtime.rank, len(images), runtime.world)
    workers = min(2, config.data.workers)
    loader = DataLoader(
        images,
        batch_size=None,
        sampler=share,
        num_workers=workers,
        multiprocessing_context=START_METHOD if workers else None,
        worker_init_fn=leave_signals_to_parent,
    )
    measures, fitting = ("psnr", "ssim", "worse"), {name: {} for name in nets}
    sums = dict.fromkeys((f"{m}_{name}" for name in ("blurry", *nets) for m in measures), 0.0)
    with contextlib.closing(raise_errors(loader)) as rows:
        bar = tqdm(rows, "evaluate", len(share), disable=not runtime.is_main, leave=False)
        for index, blurry, sharp in bar:
            blurry, sharp = blurry.numpy(), sharp.numpy()  # the loader hands over tensors
            shown = {"blurry": blurry}
            for name, net in nets.items():
                settings, known = config.infer_config, fitting[name]
                shown[name] = sharpen_images(net, [blurry], runtime, settings, known)[0]
            before = psnr(blurry, sharp)
            for name, image in shown.items():
                after = psnr(image, sharp)
                sums[f"psnr_{name}"] += after
                sums[f"ssim_{name}"] += ssim(image, sharp)
                sums[f"worse_{name}"] += after < before
            if folder is not None:
                save_strip(folder / images.pairs[index].name, [*shown.values(), sharp])
    count, *totals = runtime.total([len(share), *sums.values()])
    made = sum(pair.blurry is None for pair in images.pairs)
    counts = {"images": int(count), "blurred_synthetically": made}
    return counts | {n: t / count for n, t in zip(sums, totals, strict=True)}


def save_strip(stem: Path, images: Sequence[np.ndarray]) -> None:
    """The second image as `stem`.png, and all of them side by side as `stem`_strip.png."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for suffix, image in (("", images[1]), ("_strip", np.concatenate(images, axis=1))):
        Image.fromarray(image).save(f"{stem}{suffix}.png", compress_level=1)


def seconds_per_call(
    work: Callable[[], Any], runtime: Runtime, repeats: int = 7, warm_up: int = 2
) -> float:
    """Median wall time of `work`, warmed up and synchronised."""
    times = []
    for _ in range(warm_up + repeats):
        runtime.synchronize()
        start = time.perf_counter()
        work()
        runtime.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm_up:])


SPEED_SIZES = {"512x512": (512, 512, None), "1920x1080": (1080, 1920, 1024)}
"""Frames that are timed: name -> height, width, and the largest tile side (None: whole)."""


def evaluate_speed(net: Net, config: Config, runtime: Runtime) -> dict[str, float]:
    """Frames per second at `SPEED_SIZES`, of the net alone and from PNG file to PNG file."""
    rates = {}
    for name, (H, W, tile) in SPEED_SIZES.items():
        frame = demo_frame(H, W)
        settings = dataclasses.replace(config.infer_config, tile=tile, overlap=InferConfig.overlap)
        if tile is None:
            work = functools.partial(run_net, net, to_tensor(frame, runtime.device), runtime)
        else:
            work = functools.partial(sharpen_image, net, frame, runtime, settings)
        rates[f"fps_{name}"] = 1 / seconds_per_call(work, runtime)
        rates[f"fps_{name}_files"] = file_rate(net, frame, config, settings, runtime)
    return rates


def demo_frame(H: int, W: int) -> np.ndarray:
    """A photograph repeated to (H, W, 3) uint8: real texture, for timing."""
    photo = read_rgb(demo_pairs("test")[1].sharp)
    return np.tile(photo, (-(-H // photo.shape[0]), -(-W // photo.shape[1]), 1))[:H, :W].copy()


def file_rate(
    net: Net, frame: np.ndarray, config: Config, settings: InferConfig, runtime: Runtime
) -> float:
    """Images per second of `sharpen_files` over a folder of equal PNG files."""
    count = 8
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        folder.mkdir()
        for index in range(count):
            Image.fromarray(frame).save(folder / f"{index}.png", compress_level=1)
        job = dataclasses.replace(
            config, input=folder, output=Path(name) / "out", infer_config=settings
        )
        start = time.perf_counter()
        if problems := sharpen_files(net, plan_files(job), settings, runtime, quiet=True):
            raise SharpeningError(f"timing from file to file failed: {problems[0]}")
        return count / (time.perf_counter() - start)


def evaluate(config: Config, runtime: Runtime) -> dict[str, Any]:
    """The `--evaluate` mode: quality and speed of a checkpoint, as a table and one JSON line."""
    path = default_checkpoint(config)
    student = load_student(path)
    net = deployed(student, config.infer_config, runtime)
    nets: dict[str, Net] = {"student": net}
    if config.teacher_too or (config.demo and config.loss.teacher_terms):
        nets["teacher"] = restormer_from_weights(config.teacher.weights).to(runtime.device)
    result: dict[str, Any] = {"checkpoint": str(path)}
    images = TestImages(split_pairs(config, "test"), config)
    result |= evaluate_quality(nets, images, runtime, config.train.samples)
    if runtime.is_main:
        result |= {"device": device_name(runtime), "dtype": runtime.precision}
        result |= {"backend": pick_backend(config.infer_config, runtime)}
        result |= {"parameters": parameters(student), "gmacs_256": gmacs(student)}
        result |= evaluate_speed(net, config, runtime)
        print_table(result, ("blurry", *nets))
        print(json.dumps(result))
    return result


def device_name(runtime: Runtime) -> str:
    """The GPU's name, or the number of CPU threads in use."""
    if runtime.device.type == "cuda":
        return torch.cuda.get_device_name(runtime.device)
    return f"cpu, {torch.get_num_threads()} threads"


def print_table(result: dict[str, Any], names: Sequence[str]) -> None:
    """The figures of `evaluate` for people."""
    print(f"\n{result['images']} test images      PSNR dB     SSIM  worse than blurry")
    for name in names:
        print(f"  {name:<18} {result[f'psnr_{name}']:8.2f} {result[f'ssim_{name}']:8.4f}", end="")
        print("" if name == "blurry" else f"{100 * result[f'worse_{name}']:7.0f} %")
    if "parameters" in result:
        print(f"\nstudent: {result['parameters'] / 1e6:.2f} M parameters, ", end="")
        print(f"{result['gmacs_256']:.2f} GMACs at 256 x 256")
        print(f"frames per second on {result['device']}, ", end="")
        print(f"{result['backend']}, {result['dtype']}:")
        for size, (_, _, tile) in SPEED_SIZES.items():
            how = "tiled" if tile else "whole"
            alone, files = result[f"fps_{size}"], result[f"fps_{size}_files"]
            print(f"  {size:<10} {how:<6} {alone:8.2f} net alone {files:8.2f} file to file")


# --------------------------------------------------------------------------------------------------
# Inference on files
# --------------------------------------------------------------------------------------------------


MEGAPIXELS_WAITING = 32  # read ahead of the net, and as many behind it; 3 to 12 bytes a pixel
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class FileRun:
    """A run over files: what its parts share, and what has failed."""

    net: Net
    runtime: Runtime
    settings: InferConfig
    quiet: bool = False
    """Without progress bars."""
    failures: list[str] = field(default_factory=list)
    ended: int = 0
    """Files that were done or have failed."""
    disk_full: bool = False
    """Ends the run, since every further file would fail alike."""
    fitting: dict[tuple[int, ...], int] = field(default_factory=dict)
    """Image size -> tile that memory was found to hold."""
    largest: float = 0
    """Megapixels of the largest picture so far."""
    threads: int = field(default_factory=lambda: min(8, os.cpu_count() or 1))
    """Threads that read, and as many that write."""

    def depth(self) -> int:
        """Pictures that may wait on either side of the net: fewer the larger they are, and none
        before the first is known."""
        return min(self.threads, int(MEGAPIXELS_WAITING / self.largest)) if self.largest else 0

    def attempt(self, job: media_files.Job, work: Callable[..., Any], *arguments: Any) -> Any:
        """work(*arguments), or None where it fails for a reason that is its file's own."""
        try:
            return work(*arguments)
        except (MediaError, MemoryError, SharpeningError) as error:
            self.disk_full |= getattr(error.__cause__, "errno", None) in FULL_DISK
            reason = str(error) or "memory runs out: close other programs"
            known = error if isinstance(error, MediaError) else MediaError(job.source, reason)
            self.failures.append(str(known))

    def note(self, job: media_files.Job, notes: Iterable[str]) -> None:
        for note in notes:
            self.runtime.say(f"warning: {MediaError(job.source, note)}")

    def read(self, job: media_files.Job) -> media_files.Picture:
        picture = media_files.read_picture(job.source, allow_huge=self.settings.allow_huge)
        media_files.written_layout(picture, job.target, format=self.settings.format)
        self.largest = max(self.largest, picture.rgb.size / 3e6)
        return picture

    def compute(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return sharpen_images(self.net, images, self.runtime, self.settings, self.fitting)

    def write(
        self,
        job: media_files.Job,
        picture: media_files.Picture,
        restored: Callable[[], Sequence[np.ndarray]],
    ) -> None:
        settings = {"format": self.settings.format, "quality": self.settings.quality}
        media_files.write_picture(picture, restored()[0], job.target, **settings)

    def begin_writing(
        self,
        job: media_files.Job,
        reading: Future,
        computers: ThreadPoolExecutor,
        writers: ThreadPoolExecutor,
    ) -> Future | None:
        """Have sharpened what was read, and hand it to the writers; None if either failed. A large
        picture is sharpened here, its tiles side by side."""
        if (picture := self.attempt(job, reading.result)) is None:
            return None
        self.note(job, picture.warnings)
        tile = self.fitting.get(picture.rgb.shape)
        if tile or pick_tile(picture.rgb.shape, self.settings, self.runtime):
            if (restored := self.attempt(job, self.compute, [picture.rgb])) is None:
                return None
            return writers.submit(self.write, job, picture, lambda: restored)
        computing = computers.submit(self.compute, [picture.rgb])
        return writers.submit(self.write, job, picture, computing.result)

    def pictures(self, jobs: Sequence[media_files.Job]) -> None:
        """Sharpen image files; reading, computing and writing overlap."""
        writing: deque[tuple[media_files.Job, Future]] = deque()
        bar = tqdm(total=len(jobs), desc="sharpen", unit="image", disable=self.quiet or not jobs)

        def end(count: int) -> None:
            while len(writing) > count:
                job, future = writing.popleft()
                self.attempt(job, future.result)
                self.ended += 1
                bar.update()

        with (
            bar,
            thread_pool(self.threads) as readers,
            streams(self.runtime, min(STREAMS, len(jobs) or 1)) as computers,
            thread_pool(self.threads) as writers,
        ):
            for job, reading in ahead(readers, self.read, jobs, self.depth):
                future = self.begin_writing(job, reading, computers, writers)
                if future is not None:
                    writing.append((job, future))
                else:
                    self.ended += 1
                    bar.update()
                end(2 * self.depth())  # half of them computed, half written
                if self.disk_full:
                    break
            end(0)

    def frames(
        self, pool: ThreadPoolExecutor, frames: Iterator[np.ndarray]
    ) -> Iterator[np.ndarray]:
        """Frames sharpened in `pool`, in order, while the caller decodes and encodes others."""
        batches = iter(lambda: list(itertools.islice(frames, self.settings.tile_batch)), [])
        for _, restored in ahead(pool, self.compute, batches, lambda: 3):
            yield from restored.result()

    def video(self, job: media_files.Job) -> None:
        """Sharpen one video; a few batches of frames are in memory at a time."""
        total = media_files.frame_count_hint(job.source)
        name = job.source.name.encode("utf-8", "replace").decode()[:40]
        bar = tqdm(total=total, desc=name, unit="frame", disable=self.quiet)
        with streams(self.runtime) as pool, bar:
            report = media_files.transform_video(
                job.source,
                job.target,
                functools.partial(self.frames, pool),
                crf=self.settings.crf,
                progress=bar.update,
            )
        self.note(job, report.notes)

    def summary(self, plan: media_files.Plan) -> str:
        """How many files came to which end."""
        failed = len(self.failures)
        counts = {
            "sharpened": self.ended - failed + len(plan.problems),
            "failed": failed,
            "not begun, since the disk is full": len(plan.jobs) - self.ended,
            "already finished (--overwrite does them again)": len(plan.finished),
            "neither image nor video": len(plan.ignored),
        }
        return ", ".join(f"{n} {what}" for what, n in counts.items() if n or what == "sharpened")


def plan_files(config: Config) -> media_files.Plan:
    """What `config.input` holds and where it goes. Raises `MediaError` for an impossible input or
    output, `SharpeningError` for one without images."""
    plan = media_files.plan_jobs(
        config.input,
        config.output,
        format=config.infer_config.format,
        overwrite=config.overwrite,
    )
    if not (plan.jobs or plan.finished or plan.problems):
        raise SharpeningError(f"{config.input} holds no images or videos: check the path")
    return plan


def sharpen_files(
    net: Net,
    plan: media_files.Plan,
    settings: InferConfig,
    runtime: Runtime,
    quiet: bool = False,
) -> list[str]:
    """Sharpen the images and videos of `plan` -> the failures, each with its file and reason: one
    file's failure does not end the run, a full disk does."""
    run = FileRun(net, runtime, settings, quiet, [str(problem) for problem in plan.problems])
    run.pictures([job for job in plan.jobs if job.kind == "image"])
    for job in plan.jobs:
        if job.kind == "video" and not run.disk_full:
            run.attempt(job, run.video, job)
            run.ended += 1
    if not quiet:
        runtime.say(run.summary(plan))
    return run.failures


def infer(config: Config, runtime: Runtime) -> int:
    """The `--infer` mode -> exit status: 0 only if every file succeeded, 130 if interrupted."""
    if runtime.world > 1:
        raise SharpeningError("--infer runs in one process: start it without torchrun")
    if config.input is None:
        config = demo_inference(config)
    config = dataclasses.replace(config, output=config.output or Path("inference_samples"))
    path = default_checkpoint(config)
    plan = plan_files(config)
    calls = math.inf if any(job.kind == "video" for job in plan.jobs) else len(plan.jobs)
    net = deployed(load_student(path), config.infer_config, runtime, calls)
    backend = pick_backend(config.infer_config, runtime, calls)
    runtime.say(f"student: {path}, on {device_name(runtime)}, {backend}, {runtime.precision}")
    runtime.say(tiling_rule(config.infer_config, runtime))
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        failures = sharpen_files(net, plan, config.infer_config, runtime)
    except KeyboardInterrupt:
        runtime.say("stopped; finished files are kept, the same command goes on with the rest")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    for failure in failures:
        runtime.say(f"failed: {failure}")
    runtime.say(f"results: {config.output}")
    return 1 if failures else 0


def demo_inference(config: Config) -> Config:
    """What a bare `--infer` does: the demo's blurred photographs, and their results beside."""
    folder = Path("inference_samples")
    inputs = write_demo_inputs(folder / "demo_inputs")
    return dataclasses.replace(
        config, input=inputs, output=config.output or folder / "demo_sharpened"
    )


def write_demo_inputs(folder: Path) -> Path:
    """The blurred test photographs of the demo as PNG files in `folder`."""
    pairs = demo_pairs("test")
    for index, blurry, _ in TestImages(pairs, DEMO):
        with media_files.replaced_when_done(folder / f"{pairs[index].name}.png") as temporary:
            Image.fromarray(blurry).save(temporary)
    return folder


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
    """The network that `--train.network` names, with random or `initial_weights`."""
    if config.train.network == "student":
        net = SEUNet(config.student)
    else:
        t = config.teacher
        net = Restormer(t.dim, t.blocks, t.refinement_blocks, t.heads)
    if config.train.initial_weights and not config.resume:
        path = config.train.initial_weights
        load_strictly(net, network_weights(load_checkpoint(path)), path)
    return net


class MuonAndAdam(torch.optim.Optimizer):
    """Muon (arXiv 2502.16982) for the convolutions, Adam for all else, at one learning rate.

    Muon makes the step of a matrix orthogonal: all directions of its gradient count alike, and none
    waits until the largest are learnt. The kernels (O, I, k, k) are matrices of O rows to it; those
    with less than `NARROWEST` inputs or outputs, where colours come and go, are left to Adam. Steps
    are as large as Adam's (root mean square 0.2), so that both can share a learning rate.
    """

    NARROWEST = 16

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float):
        parameters = list(parameters)
        super().__init__(parameters, {"lr": learning_rate})
        wide = [p.ndim == 4 and min(p.shape[:2]) >= self.NARROWEST for p in parameters]
        self.kernels = list(itertools.compress(parameters, wide))
        self.matrices = [self.matrix(kernel.detach()).clone() for kernel in self.kernels]
        rest = [p for p, is_wide in zip(parameters, wide, strict=True) if not is_wide]
        self.parts: dict[str, torch.optim.Optimizer] = {}
        if self.matrices:
            self.parts["muon"] = torch.optim.Muon(
                self.matrices, learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
            )
        if rest:
            self.parts["adam"] = torch.optim.Adam(rest, learning_rate, (0.9, 0.99))

    @staticmethod
    def matrix(kernel: Tensor) -> Tensor:
        """(O, I, k, k) -> (O, k * k * I), which channels-last memory gives without a copy."""
        return kernel.permute(0, 2, 3, 1).flatten(1)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            matrix.copy_(self.matrix(kernel))
            matrix.grad = None if kernel.grad is None else self.matrix(kernel.grad)
        for part in self.parts.values():
            part.param_groups[0]["lr"] = self.param_groups[0]["lr"]
            part.step()
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            outputs, inputs, *side = kernel.shape
            kernel.copy_(matrix.view(outputs, *side, inputs).permute(0, 3, 1, 2))

    def state_dict(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def build_optimizer(
    parameters: Iterable[nn.Parameter], config: TrainConfig
) -> torch.optim.Optimizer:
    """The optimizer that `--train.optimizer` names."""
    if config.optimizer == "muon":
        return MuonAndAdam(parameters, config.learning_rate)
    return torch.optim.Adam(parameters, config.learning_rate, (0.9, 0.99))


@dataclass
class TrainState:
    """All that changes during training, and so all that a resumed run needs."""

    trainee: Trainee
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    evaluated: int = 0
    """The last step after which the network was evaluated."""
    best: float = -math.inf

    def payload(self, config: Config) -> dict[str, Any]:
        """What last.pth holds; like every checkpoint also `student` and `params`."""
        return network_payload(
            self.trainee.net,
            ema=self.ema.state_dict(),
            projections=self.trainee.projections.state_dict(),
            optimizer=self.optimizer.state_dict(),
            scaler=self.scaler.state_dict(),
            step=self.step,
            evaluated=self.evaluated,
            best=self.best,
            config=config_to_dict(config),
        )

    def restore(self, path: Path) -> None:
        """Go back to what last.pth holds."""
        payload = load_checkpoint(path)
        needed = {"params", "ema", "projections", "optimizer", "scaler", "step", "best"}
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
        self.step, self.best = payload["step"], payload["best"]
        self.evaluated = payload.get("evaluated", self.step)  # older files do not tell


def fresh_state(config: Config, teacher: Restormer | None, runtime: Runtime) -> TrainState:
    """Untrained weights, equal on every process, and their optimizer."""
    torch.manual_seed(config.train.seed)
    distils = teacher is not None and config.loss.feature > 0
    trainee = Trainee(build_network(config), teacher if distils else None)
    trainee = trainee.to(runtime.device, memory_format=torch.channels_last)
    ema = copy.deepcopy(trainee.net).eval().requires_grad_(False)
    optimizer = build_optimizer(trainee.parameters(), config.train)
    scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.dtype == torch.float16)
    evaluated = -1 if config.train.initial_weights else 0  # given weights are measured first
    return TrainState(trainee, ema, optimizer, scaler, evaluated=evaluated)


class StopSignal:
    """Turns Ctrl-C and SIGTERM into a question that the loop asks between steps."""

    def __init__(self, runtime: Runtime):
        self.runtime, self.number = runtime, 0

    def __enter__(self) -> "StopSignal":
        kinds = (signal.SIGINT, signal.SIGTERM)
        self.previous = {kind: signal.signal(kind, self.note) for kind in kinds}
        return self

    def note(self, number: int, frame: Any) -> None:
        self.number = number

    def __exit__(self, *error: Any) -> None:
        for kind, handler in self.previous.items():
            signal.signal(kind, handler)

    def wanted(self) -> bool:
        """Whether any process was told to stop: all answer alike, none is left waiting."""
        return self.runtime.total([self.number])[0] > 0


def logged_step(line: str) -> float:
    """The step of a line of metrics.jsonl; infinity if a power cut left half of it."""
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return math.inf


class RunLog:
    """Progress bar, metrics.jsonl and TensorBoard of a training; only the main process shows it."""

    def __init__(self, config: Config, steps: int, step: int, runtime: Runtime):
        self.settings, self.runtime, self.micro = config.train, runtime, 0
        self.crops = config.data.batch_size * runtime.world
        self.sums: dict[str, Tensor] = {}
        self.waited, self.since = 0.0, time.perf_counter()
        self.bar = tqdm(total=steps, initial=step, unit="step", disable=not runtime.is_main)
        self.path = config.train.folder / "metrics.jsonl"
        if runtime.is_main:
            kept = self.path.read_text().splitlines() if step and self.path.is_file() else []
            kept = [line for line in kept if logged_step(line) <= step]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("".join(f"{line}\n" for line in kept))
            self.board = SummaryWriter(config.train.folder / "tensorboard", purge_step=step + 1)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error: Any) -> None:
        self.bar.close()
        if self.runtime.is_main:
            self.board.close()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time within as waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time within out of the rates."""
        start = time.perf_counter()
        yield
        self.since += time.perf_counter() - start

    def add(self, terms: dict[str, Tensor]) -> None:
        """Terms of one micro-batch; they stay on the device until they are shown."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.micro += 1

    def step(self, state: TrainState) -> None:
        """Advance the bar; now and then show and write the means since the last time."""
        self.bar.update()
        if state.step % self.settings.log_every and state.step != self.bar.total:
            return
        sums = self.runtime.total([float(value) for value in self.sums.values()])
        count = self.micro * self.runtime.world
        means = {name: value / count for name, value in zip(self.sums, sums, strict=True)}
        self.bar.set_postfix({name: f"{value:.4f}" for name, value in means.items()})
        passed = time.perf_counter() - self.since
        rates = {"crops_per_second": self.micro * self.crops / passed}
        rates["waiting_for_data"] = self.waited / passed
        rates["learning_rate"] = state.optimizer.param_groups[0]["lr"]
        self.scalars(state.step, means | rates)
        self.sums, self.micro = {}, 0
        self.waited, self.since = 0.0, time.perf_counter()

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """One line of metrics.jsonl, and the same in TensorBoard."""
        if not self.runtime.is_main:
            return
        for name, value in values.items():
            self.board.add_scalar(name, value, step)
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def strips(self, step: int, paths: Sequence[Path]) -> None:
        """Evaluation strips, `blurry | restored | sharp`, as TensorBoard images."""
        for path in filter(Path.is_file, paths) if self.runtime.is_main else ():  # of this node
            strip = np.asarray(Image.open(path))
            self.board.add_image(path.stem.removesuffix("_strip"), strip, step, dataformats="HWC")


def check_finite(
    losses: Sequence[Tensor],
    norm: Tensor,
    numbers: Sequence[int],
    state: TrainState,
    dataset: GoProSharpeningDataset,
    runtime: Runtime,
) -> None:
    """Raise, naming the step and the images, if the loss of a micro-batch is not finite or, but in
    fp16, where the scaler leaves out such a step, the norm of the gradient of all."""
    *values, norm = torch.stack([*losses, norm]).tolist()  # the step's only wait for a GPU
    found = [("loss", v, [n]) for v, n in zip(values, numbers, strict=True)]
    if not state.scaler.is_enabled():
        found.append(("gradient", norm, numbers))
    for what, value, micros in found:
        if math.isfinite(value):
            continue
        images = dataset.config.batch_size // dataset.config.crops_per_image
        share = MicroBatches(images, 0, runtime.rank, runtime.world)
        draws = itertools.chain.from_iterable(map(share.draws, micros))
        names = sorted({str(dataset.pair(draw).sharp) for draw in draws})
        raise SharpeningError(
            f"the {what} is {value} at step {state.step + 1} in a batch of {', '.join(names)}; "
            "what was saved stays: look at these images, or lower --train.learning-rate, then "
            "--resume with the same --train.folder"
        )


def prepare_training(
    config: Config, runtime: Runtime
) -> tuple[GoProSharpeningDataset, TestImages, Restormer | None, nn.Module | None, TrainState]:
    """Data, teacher, VGG and a fresh or resumed state; whatever is missing shows here."""
    last = config.train.folder / "last.pth"
    if last.exists() and not (config.resume or config.overwrite):
        raise SharpeningError(
            f"{last} belongs to an earlier training: go on with --resume --train.folder "
            f"{config.train.folder}, start over with --overwrite, or choose another folder"
        )
    images = TestImages(split_pairs(config, "test"), config)
    pairs = split_pairs(config, "train")
    teacher = vgg = None
    if config.loss.teacher_terms and config.teacher.cache:
        pairs = keep_taught(pairs, config, runtime)
    elif config.loss.teacher_terms:
        teacher = restormer_from_weights(config.teacher.weights).to(runtime.device)
    if config.loss.perceptual:
        vgg = VggFeatures(config.loss).to(runtime.device)
    dataset = GoProSharpeningDataset(pairs, config.data, config.train.seed)
    state = fresh_state(config, teacher, runtime)
    if config.resume:
        state.restore(last)
    return dataset, images, teacher, vgg, state


def is_kept(pair: Pair) -> bool:
    """Whether the teacher's result is there and no older than the image it was made from."""
    taught = pair.taught
    return taught.exists() and taught.stat().st_mtime >= pair.blurry.stat().st_mtime


def taught_path(pair: Pair, folder: Path) -> Path:
    """Where the teacher's result is kept: apart for images of one name in other data sets."""
    place = hashlib.sha256(os.fsencode(pair.blurry.resolve())).hexdigest()[:8]
    return folder / f"{pair.name}_{place}.png"


def keep_taught(pairs: Sequence[Pair], config: Config, runtime: Runtime) -> list[Pair]:
    """The real pairs with the teacher's results on their whole images, as PNG files below
    `teacher.cache` in a folder for these weights; each process computes its share of what is
    missing or older than its image."""
    real = [pair for pair in pairs if pair.blurry]
    if not real or (len(real) < len(pairs) and config.data.synthetic_share):
        raise SharpeningError(
            "--teacher.cache cannot keep results on synthetic blur, which is new each time: train "
            "on real pairs, with --data.synthetic-share 0 if there are other images"
        )
    weights, cache = config.teacher.weights, config.teacher.cache
    check_teacher(weights)
    folder = cache / hashlib.sha256(weights.read_bytes()).hexdigest()[:12]
    real = [dataclasses.replace(pair, taught=taught_path(pair, folder)) for pair in real]
    missing = [pair for pair in real[runtime.rank :: runtime.world] if not is_kept(pair)]
    if missing:
        teacher = restormer_from_weights(weights).to(runtime.device)
        for pair in tqdm(missing, "teach", disable=not runtime.is_main):
            taught = sharpen_image(teacher, read_rgb(pair.blurry), runtime, config.infer_config)
            with media_files.replaced_when_done(pair.taught) as temporary:
                Image.fromarray(taught).save(temporary, "PNG", compress_level=1)
    runtime.total([0])  # none reads what another has yet to write
    return real


def plan_steps(config: Config, images: int, world: int) -> tuple[int, int]:
    """(optimizer steps per epoch, of the whole training) for a number of training images."""
    crops = config.data.batch_size * config.train.accumulation * world
    per_epoch = config.train.steps_per_epoch
    per_epoch = per_epoch or math.ceil(images * config.data.crops_per_image / crops)
    return per_epoch, per_epoch * config.train.epochs


def train(config: Config, runtime: Runtime) -> Path:
    """The default mode: train `--train.network` -> path of the final checkpoint."""
    settings = config.train
    dataset, images, teacher, vgg, state = prepare_training(config, runtime)
    model = runtime.wrap(state.trainee, settings.compile)
    steps_per_epoch, steps = plan_steps(config, len(dataset), runtime.world)
    first_micro = state.step * settings.accumulation
    runtime.say(
        f"{len(dataset.real)} real training pairs, {len(dataset.synthetic)} images blurred "
        f"synthetically, {steps} steps in {settings.epochs} epochs, "
        f"{parameters(state.trainee.net) / 1e6:.2f} M parameters, {device_name(runtime)}, "
        f"{runtime.precision}"
    )

    def save() -> None:
        runtime.save(settings.folder / "last.pth", state.payload(config))

    def evaluate_when_due() -> None:
        due = state.step % (settings.evaluate_every * steps_per_epoch) == 0 or state.step == steps
        if due and state.evaluated < state.step:
            evaluate_training(state, images, runtime, log)
            save()

    with (
        StopSignal(runtime) as stop,
        RunLog(config, steps, state.step, runtime) as log,
        contextlib.closing(training_batches(dataset, first_micro, runtime)) as loaded,
    ):
        batches = enumerate(loaded, first_micro)
        evaluate_when_due()  # of given weights, or where the run was interrupted in an evaluation
        while state.step < steps:
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(state.step, steps, settings)

            losses, numbers = [], []
            for micro in range(settings.accumulation):
                with log.waiting():
                    number, batch = next(batches)
                blurry, sharp, kept = prepare_batch(batch, config, runtime.device)
                taught, taught_taps = teach(teacher, blurry, kept, runtime)
                with runtime.accumulating(model, micro + 1 < settings.accumulation):
                    with runtime.autocast():
                        restored, projected = model(blurry)
                    total, terms = distillation_loss(
                        restored, sharp, config.loss, taught, projected, taught_taps, vgg
                    )
                    state.scaler.scale(total / settings.accumulation).backward()
                log.add({"loss": total.detach(), **terms})
                losses.append(total.detach())
                numbers.append(number)

            state.scaler.unscale_(state.optimizer)
            norm = nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm or math.inf)
            check_finite(losses, norm, numbers, state, dataset, runtime)
            state.scaler.step(state.optimizer)
            state.scaler.update()
            state.optimizer.zero_grad(set_to_none=True)
            state.step += 1
            update_ema(state.ema, state.trainee.net, ema_decay(state.step, settings.ema_decay))

            log.step(state)
            leaving = stop.wanted()
            with log.paused():
                ends = (settings.save_every, steps_per_epoch)
                if leaving or any(state.step % end == 0 for end in ends):
                    save()  # before evaluating, lest a test image that cannot be read costs steps
                if not leaving:
                    evaluate_when_due()
            if leaving:
                runtime.say(
                    f"stopped after step {state.step} of {steps}; go on with --resume "
                    f"--train.folder {settings.folder}"
                )
                raise SystemExit(128 + (stop.number or signal.SIGTERM))

    kind = "student_model" if settings.network == "student" else "restormer"
    final = settings.folder / f"{kind}_ema_final_epoch_{settings.epochs:03d}.pth"
    runtime.save(final, network_payload(state.ema, step=state.step))
    runtime.say(f"final weights: {final}")
    return final


def teach(
    teacher: Restormer | None, blurry: Tensor, kept: Tensor | None, runtime: Runtime
) -> tuple[Tensor | None, dict[str, Tensor] | None]:
    """The teacher's image and taps for a batch, without gradients; without a teacher the image that
    was `kept`, if any, and no taps."""
    if teacher is None:
        return kept, None
    with torch.no_grad(), runtime.autocast():
        taught, taps = teacher(blurry, return_taps=True)
    return taught.float(), taps


def evaluate_training(state: TrainState, images: TestImages, runtime: Runtime, log: RunLog) -> None:
    """The averaged network on the test set: metrics, pictures, and best.pth if it is the best."""
    settings, samples = images.config.train, images.config.train.samples
    result = evaluate_quality({"restored": state.ema}, images, runtime, samples)
    log.scalars(state.step, {f"test/{name}": value for name, value in result.items()})
    log.strips(state.step, [samples / f"{pair.name}_strip.png" for pair in images.pairs[:4]])
    runtime.say(
        f"step {state.step}: test PSNR {result['psnr_restored']:.2f} dB (blurry "
        f"{result['psnr_blurry']:.2f}), SSIM {result['ssim_restored']:.4f} "
        f"(blurry {result['ssim_blurry']:.4f})"
    )
    state.evaluated = state.step
    if result["psnr_restored"] > state.best:
        state.best = result["psnr_restored"]
        payload = network_payload(state.ema, step=state.step, psnr=state.best)
        runtime.save(settings.folder / "best.pth", payload)


# --------------------------------------------------------------------------------------------------
# Main
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EarlierRun:
    """The fields of `TrainConfig` that say where weights and settings lie to go on from."""

    folder: Path | None = None
    initial_weights: Path | None = None


@dataclass(frozen=True)
class FirstLook:
    """The flags that decide which defaults all other flags have."""

    demo: bool = False
    resume: bool = False
    size: Literal["standard", "live"] | None = None
    train: EarlierRun = field(default_factory=EarlierRun)


MODES = {
    "input": (["--infer"], "add it"),
    "output": (["--infer"], "add it"),
    "checkpoint": (["--infer", "--evaluate"], "add it"),
    "teacher_too": (["--evaluate"], "add it"),
    "size": (
        ["training"],
        "choose a student with --checkpoint, such as model_checkpoints/student_live.pth",
    ),
}
"""Flag -> the modes that it is for, and what to do about it in another."""


def read_config(arguments: Sequence[str] | None = None) -> Config:
    """The command line as a Config; --demo, --resume, --size and the settings that stand beside
    --train.initial-weights change the defaults of all else."""
    look, _ = tyro.cli(FirstLook, args=arguments, return_unknown_args=True, add_help=False)
    default = DEMO if look.demo else Config()
    if look.resume:
        if look.train.initial_weights:
            raise SharpeningError(
                "--resume goes on from last.pth: leave out --train.initial-weights"
            )
        folder = look.train.folder or default.train.folder
        stored = load_checkpoint(folder / "last.pth").get("config", {})
        default = stored_config(Config, stored, folder / "last.pth")
        train = dataclasses.replace(default.train, folder=folder)  # it may have been copied
        default = dataclasses.replace(default, train=train)
    elif (path := look.train.initial_weights) and "student" in (payload := load_checkpoint(path)):
        student = stored_config(StudentConfig, payload["student"], path)
        default = dataclasses.replace(default, student=student)
    if look.size:
        default = dataclasses.replace(default, student=STUDENT_SIZES[look.size])
    config = tyro.cli(Config, args=arguments, default=default, description=__doc__)
    mode = "--infer" if config.infer else "--evaluate" if config.evaluate else "training"
    for flag, (modes, advice) in MODES.items():
        if getattr(config, flag) and mode not in modes:
            wanted = " or ".join(modes)
            raise SharpeningError(f"--{flag.replace('_', '-')} is for {wanted}: {advice}")
    return config


def run_demo(config: Config, runtime: Runtime) -> None:
    """Train, then measure student and teacher, and point to the pictures."""
    final = train(config, runtime)
    evaluate(dataclasses.replace(config, checkpoint=final), runtime)
    runtime.say(f"before/after pictures: {config.train.samples}/*_strip.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mode that the command line names -> exit status."""
    try:
        config = read_config(arguments)
        with start_runtime(config) as runtime:
            if config.infer:
                return infer(config, runtime)
            if config.evaluate:
                evaluate(config, runtime)
            elif config.demo:
                run_demo(config, runtime)
            else:
                train(config, runtime)
    except (SharpeningError, MediaError) as error:
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
