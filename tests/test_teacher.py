"""Teacher: our Restormer against the published one, and what its loader accepts and refuses."""

import statistics
import time

import pytest
import torch
from conftest import tiny_restormer
from spandrel_extra_arches.architectures.Restormer import RestormerArch
from torch import nn

import main_sharpening_script as script

OFFICIAL = {"dim": 48, "num_blocks": [4, 6, 6, 8], "num_refinement_blocks": 4}
SMALL = {"dim": 8, "num_blocks": [1, 2, 1, 1], "num_refinement_blocks": 2}


def published(sizes, norm="WithBias", bias=False):
    """The published architecture (spandrel's copy) with random weights, norms and temperatures."""
    torch.manual_seed(0)
    reference = type(RestormerArch().load(restormer_weights(sizes, norm, bias)).model)
    net = reference(**sizes, LayerNorm_type=norm, bias=bias)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "norm" in name or "temperature" in name:
                parameter.uniform_(0.5, 1.5) if "weight" in name else parameter.normal_(0, 0.1)
    return net.eval()


def restormer_weights(sizes, norm, bias):
    net = script.Restormer(
        sizes["dim"],
        sizes["num_blocks"],
        sizes["num_refinement_blocks"],
        bias=bias,
        norm_bias=norm == "WithBias",
    )
    return net.state_dict()


def load(weights, path):
    torch.save({"params": weights}, path)
    return script.restormer_from_weights(path)


@pytest.mark.parametrize(
    ("sizes", "norm", "bias"),
    [(OFFICIAL, "WithBias", False), (SMALL, "BiasFree", False), (SMALL, "WithBias", True)],
)
def test_keys_shapes_and_outputs_are_the_published_ones(tmp_path, sizes, norm, bias):
    reference = published(sizes, norm, bias)
    ours = load(reference.state_dict(), tmp_path / "r.pth")
    theirs = {name: value.shape for name, value in reference.state_dict().items()}
    assert {name: value.shape for name, value in ours.state_dict().items()} == theirs
    for shape in [(1, 3, 16, 24), (2, 3, 32, 16)]:
        x = torch.rand(shape)
        with torch.no_grad():
            expected, found = reference(x), ours(x)
        assert (expected - x).abs().mean() > 1e-3  # the net does something
        assert (expected - found).abs().max() < 1e-5


def test_the_official_size_has_26_million_parameters():
    with torch.device("meta"):
        assert script.parameters(script.Restormer()) == 26_126_644


@pytest.mark.parametrize(
    "sizes",
    [
        {"dim": 8, "blocks": [1, 2, 1, 3], "refinement_blocks": 2, "heads": [1, 2, 4, 8]},
        {"dim": 12, "blocks": [1, 1, 1, 1], "heads": [2, 2, 3, 4], "expansion": 2.0},
        {"dim": 10, "blocks": [1, 1, 1, 1], "heads": [1, 1, 1, 1], "expansion": 3.14159},
        {"dim": 8, "bias": True, "norm_bias": False, "blocks": [1, 1, 1, 1]},
    ],
)
@pytest.mark.parametrize("wrap", ["params", "params_ema", "state_dict", None])
def test_sizes_are_read_off_the_weights(tmp_path, sizes, wrap):
    net = script.Restormer(**sizes)
    weights = {f"module.{name}": value for name, value in net.state_dict().items()}
    torch.save({wrap: weights} if wrap else weights, tmp_path / "r.pth")
    loaded = script.restormer_from_weights(tmp_path / "r.pth")
    assert all(torch.equal(loaded.state_dict()[n], v) for n, v in net.state_dict().items())
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(loaded(x), net(x), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 5), (8, 8), (17, 30)])
def test_any_size_and_tap_shapes(size):
    net = tiny_restormer().eval()
    x = torch.rand(1, 3, *size)
    with torch.no_grad():
        taught, taps = net(x, return_taps=True)
    assert taught.shape == x.shape
    H, W = (-(-side // 8) * 8 for side in size)
    for (name, tap), factor in zip(taps.items(), (2, 4, 8), strict=True):
        assert tap.shape == (1, net.tap_channels[name], H // factor, W // factor)


def test_padding_does_not_change_what_needs_none():
    net = tiny_restormer().eval()
    x = torch.rand(1, 3, 13, 16)
    padded = script.pad_to_multiple(x, 8)
    with torch.no_grad():
        assert torch.allclose(net(x), net(padded)[:, :, :13], atol=1e-6)


def test_attention_against_a_plain_computation():
    torch.manual_seed(0)
    block = script.ChannelAttention(8, heads=2, bias=True)
    nn.init.uniform_(block.temperature, 0.5, 2.0)
    x = torch.randn(2, 8, 5, 6)
    q, k, v = (t.reshape(2, 2, 4, 30) for t in block.qkv_dwconv(block.qkv(x)).chunk(3, dim=1))
    q, k = (t / t.norm(dim=-1, keepdim=True) for t in (q, k))
    attention = torch.softmax(q @ k.transpose(2, 3) * block.temperature, dim=-1)
    expected = block.project_out((attention @ v).reshape(2, 8, 5, 6))
    found = block(x.contiguous(memory_format=torch.channels_last))
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_teacher_is_frozen_and_a_fresh_one_trains(teacher_file):
    teacher = script.restormer_from_weights(teacher_file)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    fresh = tiny_restormer()
    fresh(torch.rand(1, 3, 16, 16)).square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in fresh.parameters())


def test_bfloat16_is_close_to_float32():
    net, x = tiny_restormer().eval(), torch.rand(1, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = net(x)
    assert (low - net(x)).abs().max() < 0.02


def test_errors_name_the_file_and_the_way_out(tmp_path):
    with pytest.raises(script.SharpeningError, match=r"none\.pth.*releases.*--demo"):
        script.restormer_from_weights(tmp_path / "none.pth")
    (tmp_path / "garbage.pth").write_bytes(b"\x80garbage")
    with pytest.raises(script.SharpeningError, match=r"garbage\.pth"):
        script.restormer_from_weights(tmp_path / "garbage.pth")
    torch.save({"params": {"conv.weight": torch.zeros(3)}}, tmp_path / "other.pth")
    with pytest.raises(script.SharpeningError, match=r"other\.pth is no Restormer.*conv\.weight"):
        script.restormer_from_weights(tmp_path / "other.pth")
    torch.save({"params": torch.zeros(3)}, tmp_path / "one.pth")
    with pytest.raises(script.SharpeningError, match=r"one\.pth is no Restormer"):
        script.restormer_from_weights(tmp_path / "one.pth")
    weights = tiny_restormer().state_dict()
    weights["output.weight"] = torch.zeros(4, 8, 3, 3)
    torch.save({"params": weights}, tmp_path / "four.pth")
    with pytest.raises(script.SharpeningError, match=r"four\.pth does not fit.*output\.weight"):
        script.restormer_from_weights(tmp_path / "four.pth")


@pytest.mark.slow
def test_ours_is_at_least_1_7_times_as_fast(tmp_path):
    """fp32 forward, CPU, 128 x 128, in turn in one run; recipes/teacher_speed.sh."""
    reference = published(OFFICIAL)
    ours = load(reference.state_dict(), tmp_path / "r.pth")
    x, times = torch.rand(1, 3, 128, 128), {"ours": [], "published": []}
    with torch.inference_mode():
        for _ in range(15):
            for name, net in (("ours", ours), ("published", reference)):
                start = time.perf_counter()
                net(x)
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values[2:]) for name, values in times.items()}
    ratio = medians["published"] / medians["ours"]
    print(f"\nseconds {medians}, ratio {ratio:.2f}, {torch.get_num_threads()} threads")
    assert ratio >= 1.7
