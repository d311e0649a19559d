"""Results: the passes that ran, and their work against an independent count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sdxl
import sige
from sdxl.edits import work
from sdxl.edits.request import Request
from sdxl.edits.sparse import Passes
from sige import Lockstep, Policy, Temporal
from sige.profiling import build, count_macs, count_passes
from tests.sdxl.edits import SIDE, drawn, load, picture, rectangle, sampling

SPARSE = {"temporal": Temporal(dense_steps=2), "lockstep": Lockstep()}
LEAVES_OUT = Temporal(dense_steps=(0, 2), skipped_steps=(4,), half_steps=(2,))
POLICIES: dict[str, Policy | None] = {"dense": None, **SPARSE}
STEPS = 5


@pytest.fixture(scope="module")
def pipe(project_folder: Path) -> Any:
    return load(project_folder, "inpainting")


@pytest.fixture(scope="module")
def wide(project_folder: Path) -> Any:
    """A pipeline whose UNet reads the mask and the masked picture."""
    pipe = load(project_folder, "inpainting")
    torch.manual_seed(0)
    pipe.register_modules(unet=type(pipe.unet).from_config({**pipe.unet.config, "in_channels": 9}).eval())
    return pipe


def paint(pipe: Any, policy: Policy | None, **said: Any) -> sdxl.Result:
    return sdxl.edit(pipe, picture(), mask=rectangle(), sampling=sampling(steps=STEPS, **said), policy=policy)


# ---- passes ----------------------------------------------------------------------------------------------------------


def test_the_passes_are_those_that_ran(pipe: Any) -> None:
    encoded, decoded = Passes(dense=1), Passes(dense=1)
    assert paint(pipe, None).passes == {"unet": Passes(dense=5), "vae.encoder": encoded, "vae.decoder": decoded}
    assert paint(pipe, SPARSE["temporal"]).passes == {
        "unet": Passes(dense=2, packed=3),
        "vae.encoder": encoded,
        "vae.decoder": decoded,
    }
    assert paint(pipe, SPARSE["lockstep"]).passes == {
        "unet": Passes(dense=5, packed=5),
        "vae.encoder": encoded,  # the latents are the pipeline's too
        "vae.decoder": Passes(dense=1, packed=1),
    }
    nearly_all = paint(pipe, Temporal(dense_steps=2, dilation=9))
    assert nearly_all.passes["unet"] == Passes(dense=5) and nearly_all.work == 1


@pytest.mark.parametrize("strength", [1.0, 0.7])
@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("which", ["pipe", "wide"])
def test_coding_passes_are_counted_as_hooks_count_them(
    request: pytest.FixtureRequest, which: str, name: str, strength: float
) -> None:
    pipe = request.getfixturevalue(which)
    calls = {"encoder": 0, "decoder": 0}

    def count(coder: str) -> Any:
        return lambda *_: calls.__setitem__(coder, calls[coder] + 1)

    hooks = [getattr(pipe.vae, coder).register_forward_pre_hook(count(coder)) for coder in calls]
    result = paint(pipe, POLICIES[name], strength=strength)
    for hook in hooks:
        hook.remove()
    found = {coder: result.passes[f"vae.{coder}"] for coder in calls}
    assert {coder: passes.dense + passes.packed for coder, passes in found.items()} == calls
    dense = paint(pipe, None, strength=strength)
    assert dense.work == 1
    assert result.counted.dense_macs == dense.macs == dense.counted.dense_macs


def test_a_lockstep_sdedit_packs_its_second_encoding(project_folder: Path) -> None:
    pipe = load(project_folder, "sdedit")
    said = sampling(steps=STEPS)
    result = sdxl.sdedit(pipe, picture(), drawn(), sampling=said, policy=Lockstep())
    assert result.passes["vae.encoder"] == Passes(dense=1, packed=1)
    dense = sdxl.sdedit(pipe, picture(), drawn(), sampling=said)
    assert result.counted.dense_macs == dense.macs and dense.passes["vae.encoder"] == Passes(dense=1)


@pytest.mark.parametrize("name", POLICIES)
def test_a_refiner_counts_its_own_modules_and_shared_ones_once(project_folder: Path, pipe: Any, name: str) -> None:
    other = load(project_folder, "inpainting", refiner=True)
    shared = type(other)(**{**other.components, "vae": pipe.vae}, requires_aesthetics_score=True, add_watermarker=False)
    shared.set_progress_bar_config(disable=True)
    policy, said = POLICIES[name], sampling(steps=10)
    results = [
        sdxl.edit(pipe, picture(), mask=rectangle(), sampling=said, policy=policy, refiner=refiner)
        for refiner in (other, shared)
    ]
    own, together = (result.passes for result in results)
    assert own["unet"] == together["unet"] and own["refiner.unet"] == together["refiner.unet"]
    assert own["refiner.unet"].dense + own["refiner.unet"].packed == (6 if name == "lockstep" else 3)
    assert set(together) == {"unet", "refiner.unet", "vae.encoder", "vae.decoder"}
    decoder = "vae.decoder" if name == "lockstep" else "refiner.vae.decoder"
    assert own[decoder] == together["vae.decoder"]
    assert results[0].steps == results[1].steps == (10, 3)
    if name != "lockstep":  # the two VAEs have the same shape
        assert results[0].macs == results[1].macs and results[0].counted.dense_macs == results[1].counted.dense_macs


def test_an_empty_mask_runs_nothing(pipe: Any) -> None:
    result = sdxl.edit(pipe, picture(), mask=np.zeros((SIDE, SIDE)), sampling=sampling(), policy=Temporal())
    assert result.passes == {} and result.steps == () and result.work == result.macs == 0
    assert result.image.tobytes() == picture().tobytes() and result.region.ratio(8, 8) == 0


# ---- work ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SPARSE, "leaves out"])
def test_work_equals_an_independent_count(pipe: Any, name: str) -> None:
    """The UNet on real tensors, the coders by `sige.profiling`."""
    result = paint(pipe, SPARSE.get(name, LEAVES_OUT))
    size, region = (SIDE, SIDE), result.region
    coders = {
        coder: count_passes(build(f"vae-{coder}", size, changes=dict(pipe.vae.config)), region)
        for coder in ("encoder", "decoder")
    }
    dense, first, second = unet_counts(pipe.unet, region)
    passes = result.passes["unet"]
    expected = passes.dense * dense + passes.packed * second + (first - second)
    if name == "leaves out":  # a half step packs the other half, with keys and values of its own
        assert passes == Passes(dense=1, packed=2, half=1, skipped=1)
        expected += (dense + first) // 2
    expected += coders["encoder"].dense.all + coders["decoder"].dense.all
    expected += coders["decoder"].packed.all if name == "lockstep" else 0
    whole = STEPS * dense + coders["encoder"].dense.all + coders["decoder"].dense.all
    assert result.macs == expected and result.counted.dense_macs == whole
    assert result.work == expected / whole
    assert (result.work > 1) == (name == "lockstep")


@torch.no_grad()
def unet_counts(unet: Any, region: sige.Region) -> tuple[int, int, int]:
    """The work of a dense pass, of the first packed one and of another packed one."""
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    added = {"text_embeds": torch.randn(2, pooled), "time_ids": torch.ones(2, 6)}
    arguments = (torch.randn(2, 4, 8, 8), torch.tensor([500.0]), torch.randn(2, 77, config.cross_attention_dim))
    counts = []
    with sige.enable(unet) as handle:
        with handle.record() as recording, count_macs(unet):
            unet(*arguments, added_cond_kwargs=added)
        with count_macs(unet) as macs:
            unet(*arguments, added_cond_kwargs=added)
        counts.append(macs.all)
        with handle.edit(region, blend=[(recording, 1.0)]):
            for _ in range(2):
                with count_macs(unet) as macs:
                    unet(*arguments, added_cond_kwargs=added)
                counts.append(macs.all)
    return counts[0], counts[1], counts[2]


def test_work_is_counted_when_asked_and_kept(pipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    inner = work._built
    monkeypatch.setattr(work, "_built", lambda kind, config: built.append(kind.__name__) or inner(kind, config))
    work._counts_of.cache_clear()
    results = [paint(pipe, SPARSE["temporal"]) for _ in range(2)]
    assert built == []
    assert results[0].work == results[1].work < 1
    assert built == ["UNet2DConditionModel", "AutoencoderKL"]
    assert all(parameter.device.type == "cpu" for parameter in pipe.unet.parameters())


def test_merged_work_is_a_share_of_the_edit_in_which_nothing_merges(pipe: Any) -> None:
    plain, sparse = paint(pipe, None), paint(pipe, SPARSE["temporal"])
    sige.tome.apply(pipe, max_downsample=4)
    try:
        dense, merged = unet_counts(pipe.unet, plain.region)[0], paint(pipe, None)
        fewer = paint(pipe, SPARSE["temporal"])
    finally:
        sige.tome.remove(pipe)
    saved = unet_counts(pipe.unet, plain.region)[0] - dense
    assert saved > 0
    assert plain.macs - merged.macs == STEPS * saved
    assert sparse.macs - fewer.macs == 2 * saved  # of the two dense steps; packed ones are as they were
    assert {one.counted.dense_macs for one in (plain, sparse, merged, fewer)} == {plain.macs}


# ---- once ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POLICIES)
def test_region_and_handle_are_made_once(pipe: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    enabled: list[Any] = []
    regions: list[Any] = []
    enable, from_mask = sige.enable, sige.Region.from_mask.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(sige, "enable", lambda target: enabled.append(target) or enable(target))
    spy = classmethod(lambda cls, *args, **kwargs: regions.append(args) or from_mask(cls, *args, **kwargs))
    monkeypatch.setattr(sige.Region, "from_mask", spy)
    request = Request(sampling(), image=picture(), mask=rectangle(), policy=POLICIES[name])
    result = sdxl.run(pipe, request)
    assert result.region is request.region and len(regions) == 1
    assert enabled == ([] if name == "dense" else [pipe])
    assert sige.handle_of(pipe) is None


def test_a_request_and_its_refiner_come_together(pipe: Any) -> None:
    for request, refiner in (
        (Request(sampling(), image=picture(), mask=rectangle(), refined=True), None),
        (Request(sampling(), image=picture(), mask=rectangle()), pipe),
    ):
        with pytest.raises(sdxl.InputError, match="^refiner: got") as caught:
            sdxl.run(pipe, request, refiner=refiner)
        assert caught.value.field == "refiner"


def test_text_to_image_defaults_to_the_model_s_own_size(project_folder: Path) -> None:
    pipe = load(project_folder, "text2img")
    side = pipe.unet.config.sample_size * 8
    assert sdxl.text2img(pipe, sampling=sampling(steps=1)).image.size == (side, side)
