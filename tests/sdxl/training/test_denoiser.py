"""The loss of a UNet with its text encoders, and of the VAE."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from sdxl.checkpoint.load import load
from sdxl.checkpoint.tiny import tiny_weights
from sdxl.scenes.draw import thing_box
from sdxl.scenes.numbered import scene_at
from sdxl.training.autoencoder import Autoencoder, Pixels, corner_of, normalise, scene_crops
from sdxl.training.batches import Batch, make_batch
from sdxl.training.denoiser import Denoiser
from sdxl.training.latents import Draws, Latents, kept_latents
from sdxl.training.pictures import ScenePictures
from sdxl.training.weighting import Weighting

ALPHAS = torch.linspace(0.999, 0.005, 1000)


def make(kind: str, **options: Any) -> Denoiser:
    parts = load(tiny_weights(kind), progress=False)
    models = {name: model for name, model in parts.models().items() if name != "vae"}
    tokenizers = {name: getattr(parts, name.replace("text_encoder", "tokenizer")) for name in models if "text" in name}
    return Denoiser(models, tokenizers, ALPHAS, **options).requires_grad_(True)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Latents:
    path = tmp_path_factory.mktemp("latents") / "latents.safetensors"
    vae = load(tiny_weights("sdxl-base"), progress=False).vae
    kept = kept_latents(vae, ScenePictures(6, 64), path, Draws(masks=True), progress=False)
    kept.scaling_factor = 0.5  # random weights: about unit spread
    return kept


def batch(scenes: Latents, **options: Any) -> Batch:
    return make_batch(scenes, **{"seed": 0, "step": 0, "batch": 4, "drop": 0.0, "timesteps": (0, 1000), **options})


@pytest.mark.parametrize("kind", ["sdxl-base", "sdxl-inpaint", "sd15", "sd15-inpaint"])
def test_everything_that_is_to_learn_gets_a_gradient(kind: str, scenes: Latents) -> None:
    denoiser = make(kind)
    loss = denoiser(batch(scenes))
    loss.backward()
    assert loss.isfinite() and loss > 0
    idle = [name for name, value in denoiser.named_parameters() if value.grad is None or not value.grad.any()]
    # SDXL reads the layer before the last: the first encoder's last layer and norm never learn.
    last = ("encoder.layers.1", "final_layer_norm", "position_embedding", "token_embedding")
    assert all(any(part in name for part in last) and "text_encoder." in name for name in idle), idle


def test_a_dropped_caption_is_not_read(scenes: Latents) -> None:
    denoiser, first = make("sdxl-base"), batch(scenes, drop=1.0)
    other = Batch(**{**vars(first), "captions": ["a tower"] * 4})
    with torch.no_grad():
        assert torch.equal(denoiser.predict(first.latents, first), denoiser.predict(first.latents, other))
        kept = Batch(**{**vars(first), "dropped": torch.zeros(4, dtype=torch.bool)})
        assert not torch.equal(denoiser.predict(first.latents, first), denoiser.predict(first.latents, kept))


def test_noise_grows_with_the_timestep(scenes: Latents) -> None:
    denoiser, one = make("sdxl-base"), batch(scenes)
    early, late = (Batch(**{**vars(one), "timesteps": torch.full((4,), step)}) for step in (0, 999))
    assert (denoiser.noised(early) - one.latents).norm() < 0.2 * one.latents.norm()
    assert (denoiser.noised(late) - one.noise).norm() < 0.2 * one.noise.norm()


def test_the_last_timesteps_can_begin_with_pure_noise(scenes: Latents) -> None:
    """The UNet then sees noise alone, and is right where it leads to the picture."""
    denoiser, one = make("sdxl-base", pure_from=950), batch(scenes)
    one = Batch(**{**vars(one), "timesteps": torch.tensor([0, 949, 950, 999])})
    begun = denoiser.begun(one)
    assert torch.equal(begun.noise[:2], one.noise[:2])
    torch.testing.assert_close(denoiser.noised(begun)[2:], one.noise[2:])
    alpha = ALPHAS[one.timesteps][:, None, None, None]
    picture = (denoiser.noised(begun) - (1 - alpha).sqrt() * begun.noise) / alpha.sqrt()
    torch.testing.assert_close(picture, one.latents, atol=1e-4, rtol=1e-4)
    plain = make("sdxl-base")
    with torch.no_grad():
        assert torch.equal(plain.begun(one).noise, one.noise) and not torch.equal(denoiser(one), plain(one))


def test_min_snr_calms_the_steps_with_little_noise() -> None:
    weights = Weighting(min_snr=5.0).of_timesteps(ALPHAS[[0, 500, 999]])
    assert weights[0] < 0.01 and weights[2] == 1


def test_velocity_weighs_the_error_of_the_noise_as_that_of_the_velocity(scenes: Latents) -> None:
    plain, weighted, one = make("sdxl-base"), make("sdxl-base", weighting=Weighting(velocity=True)), batch(scenes)
    alpha = ALPHAS[one.timesteps][:, None, None, None]
    with torch.no_grad():
        noise = plain.predict(plain.noised(one), one)
        picture = (plain.noised(one) - (1 - alpha).sqrt() * noise) / alpha.sqrt()
        velocity = alpha.sqrt() * one.noise - (1 - alpha).sqrt() * one.latents
        predicted = alpha.sqrt() * noise - (1 - alpha).sqrt() * picture
        torch.testing.assert_close(weighted(one), (velocity - predicted).square().mean())


def test_what_lies_under_the_mask_can_count_more(scenes: Latents) -> None:
    one = batch(scenes)
    assert one.mask is not None
    plain, weighted = make("sdxl-inpaint"), make("sdxl-inpaint", weighting=Weighting(masked=4.0))
    with torch.no_grad():
        errors = (plain.predict(plain.noised(one), one) - one.noise).square()
        weights = torch.where(one.mask > 0, 4.0, 1.0).expand_as(errors)
        wanted = [(error * weight).sum() / weight.sum() for error, weight in zip(errors, weights, strict=True)]
        torch.testing.assert_close(weighted(one), torch.stack(wanted).mean())
        assert not torch.equal(weighted(one), plain(one))


def test_the_vae_learns() -> None:
    torch.manual_seed(0)
    model = Autoencoder(load(tiny_weights("sdxl-base"), progress=False).vae).requires_grad_(True)
    crops = scene_crops(0, (0, 1), seed=0, count=10, batch=2, side=64, crop=32)
    assert crops.values.shape == (2, 3, 32, 32) and crops.values.abs().max() <= 1
    halves = [scene_crops(0, (rank, 2), seed=0, count=10, batch=2, side=64, crop=32).values for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), crops.values)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        losses.append(model(Pixels(crops.values, torch.zeros_like(crops.noise))))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_half_of_the_crops_are_of_the_thing_which_is_small() -> None:
    shares: dict[int, float] = {}
    for crop in (32, 64):
        inside = 0
        for number in range(200):
            scene = scene_at(number)
            left, top, right, bottom = thing_box(scene, 64)
            row, column = corner_of(scene, 64, crop, np.random.default_rng(number))
            assert row % 8 == column % 8 == 0 and 0 <= min(row, column) and max(row, column) + crop <= 64
            middle = ((top + bottom) / 2 - row, (left + right) / 2 - column)
            inside += all(0 <= place <= crop for place in middle)
        shares[crop] = inside / 200
    assert shares[64] == 1 and 0.7 < shares[32] < 0.95


@torch.no_grad()
def test_normalised_latents_have_unit_spread_and_the_vae_paints_as_before(scenes: Latents) -> None:
    vae = load(tiny_weights("sdxl-base"), progress=False).vae
    pixels = scene_crops(0, (0, 1), seed=0, count=10, batch=4, side=64, crop=64).values
    before = vae.encode(pixels).latent_dist
    painted = vae.decode(before.mean).sample
    normalise(vae, before.mean)
    after = vae.encode(pixels).latent_dist
    torch.testing.assert_close(after.mean.mean(dim=(0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(after.mean.std(dim=(0, 2, 3)), torch.ones(4), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        after.std / before.std,
        (1 / before.mean.std(dim=(0, 2, 3)))[None, :, None, None].expand_as(after.std),
        rtol=1e-3,
        atol=1e-4,
    )
    torch.testing.assert_close(vae.decode(after.mean).sample, painted, rtol=1e-3, atol=1e-3)
