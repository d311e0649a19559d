"""edit() and sdedit() on tiny pipelines: what changes, what stays, dense and sparse, with and without a refiner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import sige
from sdxl.edits.edit import edit, img2img, sdedit, text2img
from sdxl.edits.result import Result
from sdxl.errors import InputError, SdxlError
from sige import Lockstep, Policy, Temporal
from sige.passes import Packing
from tests.sdxl.edits import SIDE, drawn, load, picture, rectangle, sampling

POLICIES = {"dense": None, "temporal": Temporal(dense_steps=2), "lockstep": Lockstep()}
every_policy = pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
sparse = pytest.mark.parametrize("policy", [POLICIES["temporal"], POLICIES["lockstep"]], ids=["temporal", "lockstep"])


@pytest.fixture(scope="module")
def inpainting(project_folder: Path) -> Any:
    return load(project_folder, "inpainting")


@pytest.fixture(scope="module")
def from_picture(project_folder: Path) -> Any:
    return load(project_folder, "sdedit")


def pixels(image: Image.Image | Result) -> np.ndarray:
    return np.asarray(image.image if isinstance(image, Result) else image)


# ---- inpainting ------------------------------------------------------------------------------------------------------


@every_policy
def test_outside_the_mask_every_pixel_stays_and_inside_it_changes(inpainting: Any, policy: Policy | None) -> None:
    image, mask = picture(), rectangle()
    out = pixels(edit(inpainting, image, mask=mask, sampling=sampling(), policy=policy))
    assert np.array_equal(out[mask == 0], pixels(image)[mask == 0])
    assert (out[mask == 1] != pixels(image)[mask == 1]).mean() > 0.5
    assert sige.handle_of(inpainting) is None


@every_policy
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(inpainting: Any, policy: Policy | None) -> None:
    first, again, other = (
        edit(inpainting, picture(), mask=rectangle(), sampling=sampling(seed=seed), policy=policy).image.tobytes()
        for seed in (7, 7, 8)
    )
    assert first == again != other


@every_policy
def test_an_empty_mask_is_the_picture_without_a_single_call(inpainting: Any, policy: Policy | None) -> None:
    calls: list[int] = []
    hook = inpainting.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    out = edit(inpainting, picture(), mask=np.zeros((SIDE, SIDE)), sampling=sampling(), policy=policy)
    hook.remove()
    assert out.image.tobytes() == picture().tobytes() and not calls


@sparse
def test_a_full_mask_is_the_dense_result(inpainting: Any, policy: Policy) -> None:
    mask = np.ones((SIDE, SIDE))
    dense = edit(inpainting, picture(), mask=mask, sampling=sampling())
    assert (
        edit(inpainting, picture(), mask=mask, sampling=sampling(), policy=policy).image.tobytes()
        == dense.image.tobytes()
    )


def test_all_steps_dense_is_the_dense_result(inpainting: Any) -> None:
    dense = edit(inpainting, picture(), mask=rectangle(), sampling=sampling())
    out = edit(inpainting, picture(), mask=rectangle(), sampling=sampling(), policy=Temporal(dense_steps=99))
    assert np.abs(pixels(out).astype(int) - pixels(dense)).max() <= 1  # other memory formats, the same numbers


def test_a_mask_of_another_size_is_refused(inpainting: Any) -> None:
    with pytest.raises(InputError, match=r"^mask: got .*expected the size of the image"):
        edit(inpainting, picture(), mask=rectangle(72), sampling=sampling())


@every_policy
@pytest.mark.parametrize(("width", "height"), [(67, 58), (72, 49)])
def test_a_size_that_is_no_multiple_of_eight_comes_back_as_it_was(
    inpainting: Any, policy: Policy | None, width: int, height: int, caplog: pytest.LogCaptureFixture
) -> None:
    image, mask = picture(width, height), rectangle(width, height)
    out = edit(inpainting, image, mask=mask, sampling=sampling(steps=3), policy=policy)
    assert out.image.size == (width, height)
    assert f"{height}x{width} is worked on as" in caplog.text
    assert np.array_equal(pixels(out)[mask == 0], pixels(image)[mask == 0])


def test_a_stroke_one_pixel_thin_is_repainted(inpainting: Any) -> None:
    mask = np.zeros((SIDE, SIDE), dtype=np.float32)
    mask[61, 10:110] = 1
    out = pixels(edit(inpainting, picture(), mask=mask, sampling=sampling(), policy=POLICIES["temporal"]))
    changed = (out != pixels(picture())).any(axis=2)
    assert changed[61, 10:110].mean() > 0.5 and not changed[mask == 0].any()


def test_grey_blends(inpainting: Any) -> None:
    """A grey of one half lies between the picture and what white gives."""
    hard, image = rectangle(), pixels(picture()).astype(float)
    white = pixels(edit(inpainting, picture(), mask=hard, sampling=sampling())).astype(float)
    soft = Image.fromarray((hard * 128).astype(np.uint8))
    grey = pixels(edit(inpainting, picture(), mask=soft, sampling=sampling())).astype(float)
    share = 128 / 255
    assert np.abs(grey - (share * white + (1 - share) * image)).max() <= 1


@sparse
def test_sparse_is_near_dense_and_runs_packed(inpainting: Any, policy: Policy) -> None:
    mask = rectangle() == 1
    dense = pixels(edit(inpainting, picture(), mask=rectangle(), sampling=sampling())).astype(float)
    with sige.enable(inpainting) as handle:
        out = pixels(edit(inpainting, picture(), mask=rectangle(), sampling=sampling(), policy=policy)).astype(float)
        assert handle.enabled and sige.handle_of(inpainting) is handle, "what the caller had enabled stays as it was"
        assert handle.passes.packed > 0
    other = pixels(edit(inpainting, picture(), mask=rectangle(), sampling=sampling(seed=8))).astype(float)
    assert np.abs(out - dense)[mask].mean() < 0.7 * np.abs(other - dense)[mask].mean()


def test_lockstep_that_dilates_over_everything_is_the_dense_result(inpainting: Any, from_picture: Any) -> None:
    """No value is taken from the original: the noise, the latents and the decoder are the pipeline's own."""
    policy = Lockstep(dilation=SIDE)
    for run in (
        lambda policy: edit(inpainting, picture(), mask=rectangle(), sampling=sampling(), policy=policy),
        lambda policy: sdedit(from_picture, picture(), drawn(), sampling=sampling(), policy=policy, keep="nothing"),
    ):
        assert np.abs(pixels(run(policy)).astype(int) - pixels(run(None))).max() <= 1


@pytest.mark.parametrize("exact", [True, False])
def test_lockstep_encodes_and_decodes_sparsely(inpainting: Any, monkeypatch: pytest.MonkeyPatch, exact: bool) -> None:
    packed: list[tuple[str, bool]] = []
    run = Packing.packed

    def spy(self: Any, call: Any, blend: Any, patch: Any = None) -> Any:
        packed.append((call.component.name, self.exact_statistics))
        return run(self, call, blend, patch)

    monkeypatch.setattr(Packing, "packed", spy)
    policy = Lockstep(exact_statistics=exact)
    edit(inpainting, picture(), mask=rectangle(), sampling=sampling(), policy=policy)
    assert packed == [(name, exact) for name in ["unet"] * 5 + ["vae.decoder"]]


@every_policy
def test_an_inpainting_unet_with_nine_channels(project_folder: Path, policy: Policy | None) -> None:
    pipe = load(project_folder, "inpainting")
    torch.manual_seed(0)
    pipe.register_modules(unet=type(pipe.unet).from_config({**pipe.unet.config, "in_channels": 9}).eval())
    image, mask = picture(), rectangle()
    out = pixels(edit(pipe, image, mask=mask, sampling=sampling(steps=3), policy=policy))
    assert np.array_equal(out[mask == 0], pixels(image)[mask == 0])
    assert (out[mask == 1] != pixels(image)[mask == 1]).mean() > 0.5


@every_policy
def test_stable_diffusion_15(project_folder: Path, policy: Policy | None) -> None:
    pipe = load(project_folder, "inpainting", model="sd15")
    image, mask = picture(), rectangle()
    out = pixels(edit(pipe, image, mask=mask, sampling=sampling(steps=3), policy=policy))
    assert np.array_equal(out[mask == 0], pixels(image)[mask == 0])
    assert (out[mask == 1] != pixels(image)[mask == 1]).mean() > 0.5
    with pytest.raises(InputError, match="prompt_2 is SDXL's"):
        edit(pipe, image, mask=mask, sampling=sampling(prompt_2="a tree"))


# ---- SDEdit and the dense tasks --------------------------------------------------------------------------------------


@every_policy
def test_sdedit(from_picture: Any, policy: Policy | None) -> None:
    out = sdedit(from_picture, picture(), drawn(), sampling=sampling(), policy=policy)
    assert out.image.size == (SIDE, SIDE)
    again = sdedit(from_picture, picture(), drawn(), sampling=sampling(), policy=policy)
    assert out.image.tobytes() == again.image.tobytes()


def test_sdedit_temporal_is_near_dense(from_picture: Any) -> None:
    dense = pixels(sdedit(from_picture, picture(), drawn(), sampling=sampling(), keep="outside")).astype(float)
    out = pixels(sdedit(from_picture, picture(), drawn(), sampling=sampling(), policy=Temporal(dense_steps=3)))
    other = pixels(sdedit(from_picture, picture(), drawn(), sampling=sampling(seed=8), keep="outside")).astype(float)
    assert np.abs(out - dense).mean() < 0.5 * np.abs(other - dense).mean()


@sparse
def test_sdedit_of_equal_pictures_or_without_the_original_is_refused(from_picture: Any, policy: Policy) -> None:
    with pytest.raises(InputError, match="are the same: there is nothing to edit"):
        sdedit(from_picture, drawn(), drawn(), sampling=sampling(), policy=policy)
    with pytest.raises(InputError, match="needs the original picture"):
        sdedit(from_picture, None, drawn(), sampling=sampling(), policy=policy)
    with pytest.raises(InputError, match="expected the original's size"):
        sdedit(from_picture, picture(72), drawn(), sampling=sampling(), policy=policy)


def test_strength_says_how_many_steps_run(from_picture: Any) -> None:
    img2img(from_picture, picture(), sampling=sampling(steps=10, strength=0.5))
    assert from_picture.num_timesteps == 5
    with pytest.raises(InputError, match="strength 0.1 of 5 steps leaves none"):
        img2img(from_picture, picture(), sampling=sampling(strength=0.1))


def test_text_to_image(project_folder: Path) -> None:
    pipe = load(project_folder, "text2img")
    assert text2img(pipe, (96, SIDE), sampling=sampling()).image.size == (SIDE, 96)
    with pytest.raises(InputError, match="expected multiples of 8"):
        text2img(pipe, (100, SIDE), sampling=sampling())


STEPS_REFINED = {None: 10, 0.6: 7}  # by the split: the refiner takes 3 of them, of which 2 are dense


# ---- refiner ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def refiners(project_folder: Path) -> dict[str, Any]:
    return {task: load(project_folder, task, refiner=True) for task in ("inpainting", "sdedit")}


@every_policy
@pytest.mark.parametrize("split", [None, 0.6])
def test_a_refiner_runs_after_the_base_and_sparse_where_the_base_is(
    inpainting: Any, refiners: dict[str, Any], policy: Policy | None, split: float | None
) -> None:
    image, mask, asked = picture(), rectangle(), sampling(steps=STEPS_REFINED[split], denoising_split=split)
    base = edit(inpainting, image, mask=mask, sampling=sampling(steps=STEPS_REFINED[split]), policy=policy)
    with sige.enable(refiners["inpainting"]) as handle:
        out = edit(inpainting, image, mask=mask, sampling=asked, policy=policy, refiner=refiners["inpainting"])
        assert bool(handle.passes.packed) is (policy is not None)
    assert out.image.tobytes() != base.image.tobytes()
    assert np.array_equal(pixels(out)[mask == 0], pixels(image)[mask == 0])


@every_policy
def test_a_refiner_of_an_sdedit(from_picture: Any, refiners: dict[str, Any], policy: Policy | None) -> None:
    refiner = refiners["sdedit"]
    out = sdedit(from_picture, picture(), drawn(), sampling=sampling(), policy=policy, refiner=refiner)
    assert out.image.size == (SIDE, SIDE)


@sparse
@pytest.mark.parametrize("split", [None, 0.6])
def test_a_refined_edit_is_the_same_whether_or_not_the_base_is_enabled(
    project_folder: Path, policy: Policy, split: float | None
) -> None:
    """The refiner has its base's VAE, as pipelines that follow diffusers' documentation do."""
    base, refiner = load(project_folder, "inpainting"), load(project_folder, "inpainting", refiner=True)
    refiner.register_modules(vae=base.vae)
    options = {"mask": rectangle(), "sampling": sampling(steps=STEPS_REFINED[split], denoising_split=split)}
    options |= {"policy": policy}
    plain = edit(base, picture(), **options, refiner=refiner)
    with sige.enable(base) as handle:
        enabled = edit(base, picture(), **options, refiner=refiner)
        assert handle.enabled and sige.handle_of(refiner) is None
    assert enabled.image.tobytes() == plain.image.tobytes()
    assert enabled.passes == plain.passes and plain.passes["refiner.unet"].packed > 0
    assert sige.handle_of(base) is None


def test_a_split_needs_a_refiner(inpainting: Any) -> None:
    with pytest.raises(InputError, match="there is no refiner"):
        edit(inpainting, picture(), mask=rectangle(), sampling=sampling(denoising_split=0.8))


@pytest.mark.parametrize("split", [0.0, 0.05, 0.95, 1.0])
def test_a_split_that_leaves_one_side_without_steps_is_refused(
    inpainting: Any, refiners: dict[str, Any], split: float
) -> None:
    asked = sampling(denoising_split=split)
    with pytest.raises(InputError, match=r"denoising_split .* leaves none"):
        edit(inpainting, picture(), mask=rectangle(), sampling=asked, refiner=refiners["inpainting"])


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_weights_that_overflow_end_in_a_sentence_and_not_in_black(project_folder: Path) -> None:
    pipe = load(project_folder, "inpainting")
    with torch.no_grad():
        pipe.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(SdxlError, match=r"step 1: the latents are no longer finite"):
        edit(pipe, picture(), mask=rectangle(), sampling=sampling())


def test_eta_has_its_effect_or_is_refused(project_folder: Path, inpainting: Any) -> None:
    from sdxl.pipelines.schedulers import make_scheduler

    plain, stochastic = (
        edit(inpainting, picture(), mask=rectangle(), sampling=sampling(eta=eta)).image.tobytes() for eta in (0.0, 1.0)
    )
    assert plain != stochastic
    pipe = load(project_folder, "inpainting")
    pipe.scheduler = make_scheduler("euler", "sdxl-base", dict(pipe.scheduler.config))
    with pytest.raises(InputError, match="eta has no effect on EulerDiscreteScheduler"):
        edit(pipe, picture(), mask=rectangle(), sampling=sampling(eta=0.5))


@pytest.mark.parametrize(
    "bad", [{"steps": 0}, {"strength": 1.5}, {"eta": -1}, {"denoising_split": 2}], ids=lambda bad: next(iter(bad))
)
def test_numbers_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=rf"{next(iter(bad))}: got .*, expected"):
        sampling(**bad)


CONDITIONING: dict[str, Any] = {
    "negative_prompt": "blurred",
    "prompt_2": "a tree",
    "negative_prompt_2": "rain",
    "original_size": (96, 96),
    "target_size": (96, 96),
    "crops_coords_top_left": (32, 32),
    "negative_original_size": (96, 96),
    "negative_target_size": (96, 96),
    "negative_crops_coords_top_left": (32, 32),
}


@pytest.fixture(scope="module")
def plain(inpainting: Any) -> bytes:
    """The result without any conditioning beside the prompt."""
    return edit(inpainting, picture(), mask=rectangle(), sampling=sampling()).image.tobytes()


@pytest.mark.parametrize("name", CONDITIONING)
def test_each_conditioning_has_its_effect(inpainting: Any, plain: bytes, name: str) -> None:
    asked = sampling(**{name: CONDITIONING[name]})
    assert edit(inpainting, picture(), mask=rectangle(), sampling=asked).image.tobytes() != plain
