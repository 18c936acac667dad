"""Losses: each against an independent computation, and terms that are off cost nothing."""

import numpy as np
import pytest
import torch
import torchvision
from scipy.ndimage import uniform_filter
from skimage.metrics import structural_similarity

import main_sharpening_script as script


@pytest.fixture
def images():
    torch.manual_seed(0)
    return [torch.rand(2, 3, 24, 32) for _ in range(3)]


@pytest.fixture(scope="module")
def vgg_file(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(torchvision.models.vgg19(weights=None).state_dict(), path)
    return path


def test_kl_is_the_sum_over_channels_of_p_log_p_over_q(images):
    restored, taught, _ = images
    p = np.exp(taught.numpy() / 4)
    q = np.exp(restored.numpy() / 4)
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    expected = (p * np.log(p / q)).sum(1).mean() * 16
    assert script.kl_loss(restored, taught, 4.0).item() == pytest.approx(expected, rel=1e-4)
    assert script.kl_loss(restored, restored, 4.0).item() == pytest.approx(0, abs=1e-7)


def test_mean_ssim_is_that_of_scikit_image(images):
    restored, sharp, _ = images
    expected = np.mean(
        [
            structural_similarity(
                a.numpy(),
                b.numpy(),
                channel_axis=0,
                data_range=1.0,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
            for a, b in zip(restored, sharp, strict=True)
        ]
    )
    assert script.mean_ssim(restored, sharp, 1.0).item() == pytest.approx(expected, abs=1e-5)


def test_frequency_loss_is_the_l1_of_the_spectrum(images):
    restored, sharp, _ = images
    spectrum = np.fft.rfft2((restored - sharp).numpy(), norm="ortho")
    expected = (np.abs(spectrum.real).mean() + np.abs(spectrum.imag).mean()) / 2
    assert script.frequency_loss(restored, sharp).item() == pytest.approx(expected, rel=1e-4)


def test_taught_loss_takes_the_teacher_where_its_mean_error_is_smaller(images):
    restored, sharp, taught = images
    lead = ((restored - sharp).abs() - (taught - sharp).abs()).numpy().mean(1)
    nearer = uniform_filter(lead, (0, 15, 15), mode="constant")[:, None] > 0
    assert 0.2 < nearer.mean() < 0.8
    error = np.where(nearer, (restored - taught).numpy(), 0)
    spectrum = np.fft.rfft2(error, norm="ortho")
    expected = np.abs(error).mean()
    expected += (np.abs(spectrum.real).mean() + np.abs(spectrum.imag).mean()) / 2
    found = script.taught_loss(restored, taught, sharp).item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_teacher_that_is_further_from_sharp_teaches_nothing(images):
    sharp = images[0]
    restored = (sharp + 0.1).requires_grad_()
    script.taught_loss(restored, sharp - 0.2, sharp).backward()
    assert not restored.grad.any()
    script.taught_loss(restored, sharp - 0.05, sharp).backward()
    assert restored.grad.sum() > 0  # down, towards the teacher


def test_feature_loss_compares_taps_of_equal_resolution():
    ours = {"encoder_level2": torch.zeros(1, 2, 8, 8), "encoder_level3": torch.zeros(1, 2, 4, 4)}
    theirs = {
        "encoder_level2": torch.full((1, 2, 8, 8), 3.0),
        "encoder_level3": torch.full((1, 2, 4, 4), -1.0),
        "latent": torch.full((1, 2, 2, 2), 9.0),
    }
    assert script.feature_loss(ours, theirs).item() == 2.0


def test_feature_loss_survives_different_padding():
    ours = {"encoder_level2": torch.zeros(1, 2, 10, 8)}
    assert script.feature_loss(ours, {"encoder_level2": torch.ones(1, 2, 8, 12)}).item() == 1.0


def test_vgg_layers_are_torchvisions(vgg_file, images):
    reference = torchvision.models.vgg19(weights=None)
    reference.load_state_dict(torch.load(vgg_file))
    normal = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    features = script.VggFeatures(vgg_file, ("relu1_2", "relu3_4"))(images[0])
    for feature, end in zip(features, (4, 18), strict=True):
        expected = reference.features[:end](normal(images[0]))
        assert torch.allclose(feature, expected, atol=1e-5)


def test_perceptual_gradient_reaches_restored_only(vgg_file, images):
    vgg = script.VggFeatures(vgg_file)
    assert len(vgg(images[0])) == len(script.VGG_LAYERS)
    restored, taught = images[0].requires_grad_(), images[1].requires_grad_()
    script.perceptual_loss(vgg, restored, taught).backward()
    assert restored.grad.abs().sum() > 0
    assert taught.grad is None
    assert not any(p.requires_grad for p in vgg.parameters())


def test_missing_vgg_weights_say_what_to_do(tmp_path):
    with pytest.raises(script.SharpeningError, match=r"--loss.vgg-weights.*--loss.perceptual 0"):
        script.load_vgg(tmp_path / "absent.pth")


def test_foreign_vgg_weights_say_what_to_do(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "foreign.pth")
    with pytest.raises(script.SharpeningError, match="foreign.pth"):
        script.load_vgg(tmp_path / "foreign.pth")


def test_total_is_the_weighted_sum_of_its_terms(images):
    restored, sharp, taught = images
    taps = {"encoder_level2": torch.rand(2, 4, 12, 16)}
    theirs = {"encoder_level2": torch.rand(2, 4, 12, 16)}
    config = script.LossConfig(perceptual=0, frequency=0.5)
    total, terms = script.distillation_loss(restored, sharp, config, taught, taps, theirs)
    assert set(terms) == {"recon", "feature", "kl", "ssim", "frequency"}
    expected = sum(getattr(config, name) * value for name, value in terms.items())
    assert total.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_term_of_weight_zero_does_no_work(images):
    config = script.LossConfig(perceptual=0, feature=0, kl=0, ssim=0, frequency=0)

    def forbidden(*_):
        raise AssertionError("VGG must not run")

    total, terms = script.distillation_loss(images[0], images[1], config, vgg=forbidden)
    assert list(terms) == ["recon"]
    assert total.item() == pytest.approx((images[0] - images[1]).abs().mean().item())
