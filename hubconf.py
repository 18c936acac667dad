"""Entry points of torch.hub: `torch.hub.load(".", "standard", source="local")`.

Each returns the student as a `torch.nn.Module` in eval mode: blurry (B, 3, H, W) float32 in [0, 1]
-> restored, the same shape. `main_sharpening_script.Sharpener` is the convenient way.
"""

from main_sharpening_script import SHIPPED_STUDENTS, SEUNet, load_student

dependencies = ["torch", "torchvision", "numpy", "PIL", "natsort", "tqdm", "skimage", "tyro"]
dependencies += ["torchmetrics", "tensorboard", "av", "tifffile", "imagecodecs", "simplejpeg"]


def standard() -> SEUNet:
    """The student for quality: 2.6 M parameters."""
    return load_student(SHIPPED_STUDENTS["standard"])


def live() -> SEUNet:
    """The student for speed: 0.9 M parameters."""
    return load_student(SHIPPED_STUDENTS["live"])
