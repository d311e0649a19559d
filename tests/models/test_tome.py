"""Token merging in real UNets: what a merged pass computes, apply and remove, recordings, policies, work."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

import sige
from sige import ConfigError, Temporal, UnsupportedError
from sige.merging.destinations import destinations, generator
from sige.merging.hooks import Block
from sige.merging.matching import match
from sige.models.levels import transformers_of
from sige.profiling import build, count_macs
from tests.models.call import Call
from tests.models.job import Job
from tests.models.state import fresh, hooks
from tests.models.test_lora import LINEAR, add_lora
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import UNETS, Case, make_case, sd15, sdxl_base, vae

every_unet = pytest.mark.parametrize("case", list(UNETS))
FINEST = {"sd15": 1, "sd21": 1}  # the finest level with attention; the others have 2


def merged(made: Case, ratio: float = 0.5, **settings: Any) -> None:
    sige.tome.apply(made.model, ratio, **{"max_downsample": None, **settings})


def levels(made: Case) -> dict[str, int]:
    """The number of recorded rows of each self-attention's keys."""
    with sige.enable(made.model) as handle, handle.record() as recording:
        made.call(made.input(1))
    rows = recording.components["unet"].rows
    return {key: rows[key].shape[1] for key in rows if key.endswith(".key")}


# ---- apply and remove ------------------------------------------------------------------------------------------------


@every_unet
def test_ratio_0_is_the_plain_model_bit_for_bit(case: str) -> None:
    made = fresh(case)
    x = made.input(1, 2)
    plain = made.call(x)
    merged(made, 0.0, merge_mlp=True, merge_crossattn=True)
    assert torch.equal(made.call(x), plain)


@every_unet
def test_removing_restores_every_bit(case: str) -> None:
    made = fresh(case)
    x = made.input(1, 2)
    plain = made.call(x)
    merged(made, 0.5, merge_mlp=True, merge_crossattn=True)
    assert 1e-3 < relative_error(made.call(x), plain) < 1
    sige.tome.remove(made.model)
    sige.tome.remove(made.model)  # once more changes nothing
    assert torch.equal(made.call(x), plain)
    assert hooks(made.model) == 0 and sige.tome.applied(made.model) is None


def test_applying_twice_is_applying_once() -> None:
    made = fresh("sd15")
    x = made.input(1, 2)
    merged(made)
    once, count, state = made.call(x), hooks(made.model), vars(made.model)["_sige_tome"]
    merged(made)
    assert vars(made.model)["_sige_tome"] is state
    assert hooks(made.model) == count and torch.equal(made.call(x), once)


def test_other_settings_replace_those_before() -> None:
    made = fresh("sd15")
    x = made.input(1, 2)
    merged(made, 0.25)
    count, quarter = hooks(made.model), made.call(x)
    merged(made, 0.5)
    assert hooks(made.model) == count and not torch.equal(made.call(x), quarter)
    merged(made, 0.25)
    assert torch.equal(made.call(x), quarter)


def test_a_copy_has_a_merging_of_its_own() -> None:
    made = fresh("sd15")
    x = made.input(1)
    plain = made.call(x)
    merged(made)
    once = made.call(x)
    other = copy.deepcopy(made.model)
    sige.tome.remove(made.model)
    assert torch.equal(made.call(x), plain)
    arguments = {"timestep": torch.tensor([481.0]), "encoder_hidden_states": torch.zeros(1, 7, 24)}
    with torch.no_grad():
        of_copy = other(x, **arguments).sample
        merged(made)
        assert torch.equal(made.model(x, **arguments).sample, of_copy)
        sige.tome.remove(other)
        assert not torch.equal(other(x, **arguments).sample, of_copy)
    assert hooks(other) == 0 and torch.equal(made.call(x), once)


@every_unet
def test_the_default_level_is_the_finest_with_attention(case: str) -> None:
    made = fresh(case)
    finest = FINEST.get(case, 2)
    assert sige.tome.apply(made.model, max_downsample=None).max_downsample == finest
    if finest == 1:
        assert sige.tome.apply(made.model).max_downsample == 1
        return
    with pytest.raises(ConfigError, match="max_downsample: got 1.*no attention above level 2.*take 2 or more"):
        sige.tome.apply(made.model)
    assert sige.tome.applied(made.model) == sige.tome.Merging(max_downsample=2)  # that of before


def test_coarser_levels_merge_too() -> None:
    made = fresh("sd15")
    widths = [width for _, width in transformers_of(made.model)]
    assert widths == [1, 1, 2, 2, 4, 4, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1]
    counts = []
    for level in (1, 2, 4, 8):
        merged(made, max_downsample=level)
        counts.append(sum(isinstance(owner, Block) for owner in owners(made.model)))
    assert counts == [4 * sum(width <= level for width in widths) for level in (1, 2, 4, 8)]


def owners(model: nn.Module) -> list[object]:
    found = [hook for module in model.modules() for hook in module._forward_hooks.values()]
    found += [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    return [getattr(hook, "__self__", None) for hook in found]


@pytest.mark.parametrize(
    "target",
    [lambda: nn.Linear(2, 2), vae, lambda: None, lambda: torch.compile(sd15())],
    ids=["linear", "vae", "None", "compiled"],
)
def test_what_has_no_unet_is_refused(target: Callable[[], Any]) -> None:
    for verb in (sige.tome.apply, sige.tome.remove):
        with pytest.raises(UnsupportedError, match="tome: (got|torch.compile)"):
            verb(target())


def test_a_unet_without_transformers_is_refused() -> None:
    plain = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "mid_block_type": None}
    unet = UNet2DConditionModel(**plain, block_out_channels=(8, 8), norm_num_groups=4)
    with pytest.raises(UnsupportedError, match="no transformer"):
        sige.tome.apply(unet)


def test_a_mask_over_positions_is_refused() -> None:
    made = fresh("sd15")
    merged(made)
    mask = {"attention_mask": torch.ones(1, 256)}
    with pytest.raises(UnsupportedError, match="attention_mask: merged rows"), torch.no_grad():
        made.model(made.input(1), 5, torch.zeros(1, 7, 24), **mask)


# ---- what a merged pass computes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("around", [("attn",), ("attn", "crossattn", "mlp"), ("mlp",), ("crossattn",)], ids=str)
def test_a_merged_block_is_the_definition(around: tuple[str, ...]) -> None:
    """The block's own layers, called by hand with merged rows."""
    made = fresh("sd15")
    switches = {f"merge_{name}": name in around for name in ("attn", "crossattn", "mlp")}
    merged(made, 0.5, **switches)
    block = made.model.up_blocks[-1].attentions[0].transformer_blocks[0]
    seen: dict[str, Any] = {}
    block.register_forward_pre_hook(lambda _, args, kwargs: seen.update(rows=args[0], **kwargs), with_kwargs=True)
    block.register_forward_hook(lambda _, args, output: seen.update(output=output))
    made.call(made.input(1, 2))
    number = sum(width == 1 for _, width in transformers_of(made.model)[:-3])  # blocks that merge before this one
    sige.tome.remove(made.model)
    rows, text = seen["rows"], seen["encoder_hidden_states"]
    found = match(rows, destinations((16, 16), 2, 2, generator(481.0, number)), rows.shape[1] // 2)

    def through(name: str, rows: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        return found.unmerge(layer(found.merge(rows))) if name in around else layer(rows)

    with torch.no_grad():
        x = rows + through("attn", block.norm1(rows), block.attn1)
        x = x + through("crossattn", block.norm2(x), lambda some: block.attn2(some, encoder_hidden_states=text))
        x = x + through("mlp", block.norm3(x), block.ff)
    assert torch.equal(x, seen["output"])


def test_a_pass_is_the_same_each_time_and_another_at_another_step() -> None:
    made = fresh("sd15")
    merged(made)
    x = made.input(1)
    state = torch.get_rng_state()
    first, again, elsewhere = made.call(x), made.call(x), made.call(x, [1])
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again) and not torch.equal(first, elsewhere)
    merged(made, use_rand=False)
    assert not torch.equal(made.call(x), first)


@pytest.mark.parametrize("size", [(15, 13), (1, 3), (16, 16)])
def test_odd_sizes_work(size: tuple[int, int]) -> None:
    made = fresh("sd15")
    x = made.input(1, 2, size)
    plain = made.call(x)
    merged(made, 0.75, max_downsample=8)
    assert 0 < relative_error(made.call(x), plain) < 1


def test_the_same_seed_gives_the_same_picture_and_the_pipelines_generator_is_left_alone() -> None:
    job = Job("Inpaint")
    drawn: list[Tensor] = []

    def callback(pipe: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        drawn.append(values["latents"])
        return values

    plain = job()
    sige.tome.apply(job.pipe)
    pictures = [job(), job()]
    assert torch.equal(*pictures) and not torch.equal(pictures[0], plain)
    generator = torch.Generator().manual_seed(4)
    before = torch.Generator().manual_seed(4)
    options = {"image": job.image, "num_inference_steps": 2, "strength": 1.0, "output_type": "latent"}
    with torch.no_grad():
        job.pipe(**options, **job.options, generator=generator)
        sige.tome.remove(job.pipe)
        job.pipe(**options, **job.options, generator=before)
    assert torch.equal(generator.get_state(), before.get_state())


def test_sliced_attention_merges_alike() -> None:
    made = fresh("sd15")
    merged(made)
    x = made.input(1, 2)
    whole = made.call(x)
    made.model.set_attention_slice("max")
    assert relative_error(made.call(x), whole) <= RELATIVE_ERROR


def test_a_lora_and_merging_go_together() -> None:
    call = Call(sd15())
    sige.tome.apply(call.unet)
    merged_alone = call(call.x)
    add_lora(call.unet, LINEAR)
    adapted = call(call.x)
    call.unet.disable_lora()
    assert torch.equal(call(call.x), merged_alone) and not torch.equal(adapted, merged_alone)
    sige.tome.remove(call.unet)
    assert not torch.equal(call(call.x), merged_alone)


# ---- with the engine -------------------------------------------------------------------------------------------------


@every_unet
def test_a_recorded_pass_is_the_merged_pass_and_keeps_a_row_for_every_position(case: str) -> None:
    made = fresh(case)
    whole = levels(made)
    merged(made, max_downsample=8)
    x = made.input(1, 2)
    with sige.enable(made.model) as handle:
        dense = made.call(x)
        with handle.record() as recording:
            recorded = made.call(x)
        assert torch.equal(recorded, dense)
        copies = [len(rows[0]) - len(rows[0].unique(dim=0)) for key, rows in keys_of(recording)]
    assert levels(made) == whole
    assert all(count >= rows // 2 for count, rows in zip(copies, whole.values(), strict=True) if rows > 1)


def keys_of(recording: sige.Recording) -> list[tuple[str, Tensor]]:
    return [(key, rows) for key, rows in recording.components["unet"].rows.items() if key.endswith(".key")]


@every_unet
def test_with_everything_active_a_packed_pass_is_the_plain_pass(case: str) -> None:
    made = fresh(case)
    x, edited = made.input(1, 2), made.input(2, 2)
    plain = made.call(edited)
    merged(made)
    with sige.enable(made.model) as handle:
        with handle.record():
            made.call(x)
        with handle.edit(made.full()):
            assert relative_error(made.call(edited), plain) <= RELATIVE_ERROR
    assert relative_error(made.call(edited), plain) > 1e-3  # the dense pass merges


def test_outside_the_region_the_output_is_the_recorded_one() -> None:
    made = fresh("sdxl-base")
    merged(made, max_downsample=4)
    x, edited = made.input(1), made.input(2)
    region = made.rectangle(2, 3, 4, 4)
    inside = torch.tensor(region.active(16, 16))
    with sige.enable(made.model) as handle:
        with handle.record():
            recorded = made.call(x)
        with handle.edit(region):
            out = made.call(edited)
    assert torch.equal(out[..., ~inside], recorded[..., ~inside])
    assert not torch.equal(out[..., inside], recorded[..., inside])


def test_merging_applied_in_an_open_edit_is_noticed() -> None:
    made = fresh("sd15")
    x = made.input(1)
    whole = levels(made)
    with sige.enable(made.model) as handle, handle.record() as recording:
        made.call(x)
        merged(made)
        made.call(x)
        assert {key: rows.shape[1] for key, rows in keys_of(recording)} == whole
        sige.tome.remove(made.model)
        plain = made.call(x)
    assert torch.equal(plain, made_plain(x))


def made_plain(x: Tensor) -> Tensor:
    with sige.enable(make_case("sd15").model):  # channels-last weights, as above
        return make_case("sd15").call(x)


@pytest.mark.parametrize("path", ["transformer_blocks.0", "transformer_blocks.0.attn1", "transformer_blocks.0.ff", ""])
def test_a_hook_of_somebody_else_is_still_refused(path: str) -> None:
    made = fresh("sd15")
    merged(made, merge_mlp=True)
    with sige.enable(made.model) as handle:
        with handle.record():
            made.call(made.input(1))
        transformer = made.model.up_blocks[-1].attentions[-1]
        remove = transformer.get_submodule(path).register_forward_hook(lambda *_: None).remove
        with pytest.raises(UnsupportedError, match="has a hook"), handle.edit(made.full()):
            pass
        remove()
        with handle.edit(made.full()):
            made.call(made.input(1))


DENSE = Temporal("plain", dense_steps=tuple(range(8)))
SPARSE = Temporal(dense_steps=(0, 1, 4), skipped_steps=(6,), half_steps=(4,))


@pytest.mark.parametrize("kind", ["Inpaint", "XLInpaint"])
def test_a_policys_dense_steps_merge(kind: str) -> None:
    job = Job(kind)
    sige.tome.apply(job.pipe, max_downsample=None)
    with sige.enable(job.pipe) as handle:
        dense = job()
        with handle.edit(job.mask, DENSE):
            assert torch.equal(job(), dense)
        with handle.edit(job.mask, SPARSE):
            sparse = job()
            assert torch.equal(job(), sparse)
        assert handle.passes.describe() == "2 dense, 1 half dense, 4 packed, 1 skipped"
        sige.tome.remove(job.pipe)
        with handle.edit(job.mask, SPARSE):
            plain = job()
    assert not torch.equal(sparse, plain) and sparse.isfinite().all()


def test_outer_steps_merge_too() -> None:
    job = Job("XLInpaint", unet=sdxl_base(layers_per_block=1))
    sige.tome.apply(job.pipe, max_downsample=4)
    policy = Temporal(dense_steps=(0, 1, 4), skipped_steps=(), outer_steps=(4,))
    with sige.enable(job.pipe) as handle, handle.edit(job.mask, policy):
        assert torch.equal(job(), job())
        assert handle.passes.outer == 1


# ---- work ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_merged_work_is_what_the_shapes_say(device: str, ratio: float) -> None:
    narrow = {"block_out_channels": [32, 64, 64, 64], "attention_head_dim": 2, "cross_attention_dim": 32}
    subject = build("sd15", (64, 96), device=device, changes=narrow)
    with torch.no_grad(), count_macs(subject.module) as plain:
        subject()
    sige.tome.apply(subject.target, ratio, merge_mlp=True)
    with torch.no_grad(), count_macs(subject.module) as merging:
        subject()
    batch, n, c, blocks = 2, 8 * 12, 32, 5
    m, destinations = n - int(n * ratio), n // 4
    attention = 2 * (m * m - n * n) * c + (n - destinations) * destinations * c  # the matching is attention's
    linear = (m - n) * (4 * c * c + c * 8 * c + 4 * c * c)  # four layers; the gated one and the one after it
    gate = (m - n) * 4 * c  # the gate's multiplication
    kinds = {kind: merging.kinds()[kind] - plain.kinds()[kind] for kind in merging.kinds()}
    assert kinds.pop("self-attention") == batch * blocks * attention
    assert kinds.pop("linear") == batch * blocks * linear
    assert kinds.pop("elementwise") == batch * blocks * gate
    assert set(kinds.values()) == {0}
