"""Compiled passes: dense and recorded passes go through torch.compile in one graph, and leave what they leave without.

These tests follow the passes with torch's own backend `eager`, which runs each graph as it was captured: it shows
breaks, recompilations and wrong reuse of code. test_compile_inductor.py generates code.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import sige
from sige import Recording, UnsupportedError
from sige.errors import ConfigError, RecordingError
from sige.passes import record_outer
from sige.recordings import Blend, is_tap
from tests.models.call import REGION, Call
from tests.models.small import small_unet
from tests.models.state import hooks
from tests.models.test_lora import LINEAR, add_lora
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import vae

either_way = pytest.mark.parametrize("regional", [False, True], ids=["whole", "regional"])


@pytest.fixture(autouse=True)
def no_code_of_other_tests() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def compile_(handle: sige.Handle, regional: bool = False) -> None:
    handle.compile(regional=regional, backend="eager")


def graphs() -> int:
    """The number of graphs that were captured since the test began; none of them with a break."""
    assert not counters["graph_break"], dict(counters["graph_break"])
    return counters["stats"]["unique_graphs"]


def assert_same(found: Recording, expected: Recording, error: float = RELATIVE_ERROR) -> None:
    """The same keys, shapes, dtypes and memory layout, and values within the error."""
    assert found.components.keys() == expected.components.keys()
    for name, part in found.components.items():
        other = expected.components[name]
        assert list(part.rows) == list(other.rows) and list(part.stats) == list(other.stats)
        assert part.input is not None and other.input is not None and part.input.shape == other.input.shape
        pairs = [(part.rows[key], other.rows[key]) for key in part.rows]
        pairs += [(part.stats[key], other.stats[key]) for key in part.stats] + [(part.output, other.output)]
        for ours, theirs in pairs:
            assert (ours.dtype, ours.stride(), ours.requires_grad) == (theirs.dtype, theirs.stride(), False)
            assert ours.untyped_storage().nbytes() <= theirs.untyped_storage().nbytes()
            assert relative_error(ours, theirs) <= error


def recorded(handle: sige.Handle, call: Any, x: Tensor, **extra: Any) -> tuple[Tensor, Recording]:
    with handle.record() as recording:
        out = call(x, **extra)
    return out, recording


# ---- the same recording, in one graph --------------------------------------------------------------------------------


@either_way
def test_a_compiled_recording_is_the_uncompiled_one(regional: bool) -> None:
    call = Call(small_unet())
    with sige.enable(call.unet) as handle:
        dense = call(call.x)
        _, expected = recorded(handle, call, call.x)
        with handle.edit(REGION):
            edited = call(call.edited)
        assert graphs() == 0
        compile_(handle, regional)
        assert relative_error(call(call.x), dense) <= RELATIVE_ERROR
        first = graphs()
        assert first > 0
        out, found = recorded(handle, call, call.x)
        second = graphs()
        assert relative_error(out, dense) <= RELATIVE_ERROR
        assert_same(found, expected)
        with handle.edit(REGION):
            assert relative_error(call(call.edited), edited) <= RELATIVE_ERROR
        call(call.edited)
        assert_same(recorded(handle, call, call.x)[1], expected)
        assert graphs() == second, "a second pass of each kind compiles nothing"
        assert (first, second) == (1, 2) if not regional else first < second
        assert handle.totals["unet"].dense == 6
    assert relative_error(call(call.x), dense) <= RELATIVE_ERROR
    assert hooks(call.unet) == 0 and not any(module._compiled_call_impl for module in call.unet.modules())


def test_blocks_of_one_kind_share_their_code() -> None:
    """The 18 residual and transformer blocks are of 8 kinds; they run 10 graphs, as a kind may have other inputs."""
    call = Call(small_unet(layers_per_block=2))
    with sige.enable(call.unet) as handle:
        compile_(handle, regional=True)
        blocks = handle.components["unet"].regions()
        kinds = {(type(block), *sorted(tuple(p.shape) for p in block.parameters())) for block in blocks}
        assert len(kinds) < len(blocks) - 5
        recorded(handle, call, call.x)
        assert graphs() <= len(kinds) + 2 < len(blocks)


@either_way
def test_the_vae_is_compiled(regional: bool) -> None:
    model, z, x = vae(block_out_channels=(8, 8), **kinds(2)), torch.randn(1, 4, 8, 8), torch.randn(1, 3, 16, 16)

    def passes(handle: sige.Handle) -> Recording:
        with torch.no_grad(), handle.record() as recording:
            model.encode(x)
            model.decode(z)
        return recording

    with sige.enable(model) as handle:
        expected = passes(handle)
        compile_(handle, regional)
        assert_same(passes(handle), expected)
        assert graphs() >= 2


def kinds(levels: int) -> dict[str, Any]:
    return {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}


@either_way
def test_residuals_of_a_controlnet_and_half_a_batch_are_compiled(regional: bool) -> None:
    call = Call(small_unet())
    shapes = [(8, 16), (8, 16), (8, 8), (16, 8)]
    down = tuple(torch.randn(2, channels, side, side) for channels, side in shapes)
    extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": torch.randn(2, 16, 8, 8)}

    def half(value: Any) -> Any:
        return tuple(map(half, value)) if isinstance(value, tuple) else value[:1]

    call.arguments["timestep"] = torch.tensor(5)
    with sige.enable(call.unet) as handle:
        whole = recorded(handle, call, call.x, **extra)
        compile_(handle, regional)
        found = recorded(handle, call, call.x, **extra)
        assert_same(found[1], whole[1])
        call.arguments["encoder_hidden_states"] = call.arguments["encoder_hidden_states"][:1]
        out, _ = recorded(handle, call, call.x[:1], **{name: half(value) for name, value in extra.items()})
        assert relative_error(out, whole[0][:1]) <= RELATIVE_ERROR
        graphs()


def test_a_timestep_and_a_prompt_compile_nothing_anew() -> None:
    call = Call(small_unet())
    with sige.enable(call.unet) as handle:
        compile_(handle)
        for step in (900.0, 500.0, 1.0):
            call.arguments["timestep"] = torch.tensor(step)
            call.arguments["encoder_hidden_states"] = torch.randn(2, 7, 24)
            call(call.x)
            recorded(handle, call, call.x)
        assert graphs() == 2


# ---- changes ---------------------------------------------------------------------------------------------------------


@either_way
@pytest.mark.parametrize("change", ["weights", "a LoRA", "a layer"])
def test_what_changes_after_compilation_is_used(regional: bool, change: str) -> None:
    """Outside contexts and inside; weights that are written in place compile nothing anew."""
    call = Call(small_unet())
    with sige.enable(call.unet) as handle:
        compile_(handle, regional)
        before = call(call.x), recorded(handle, call, call.x)[0]
        count = graphs()
        resnet: Any = call.unet.mid_block.resnets[0]
        if change == "weights":
            with torch.no_grad():
                resnet.conv1.weight.mul_(2)
        elif change == "a LoRA":
            add_lora(call.unet, LINEAR)
        else:
            resnet.conv1 = nn.Conv2d(16, 16, 3, padding=1)
        after = call(call.x)
        out, found = recorded(handle, call, call.x)
        assert (graphs() == count) == (change == "weights")
        handle.compile(None)
        count = graphs()
        dense, expected = recorded(handle, call, call.x)
        assert graphs() == count and relative_error(before[0], dense) > 100 * RELATIVE_ERROR
        assert relative_error(after, dense) <= RELATIVE_ERROR and relative_error(out, dense) <= RELATIVE_ERROR
        assert_same(found, expected)


def test_a_hook_that_comes_after_compilation_runs() -> None:
    """torch does not guard on hooks: code of before would leave it out. It cannot be recorded: it runs uncompiled."""
    call = Call(small_unet())
    with sige.enable(call.unet) as handle:
        compile_(handle)
        before, count = call(call.x), graphs()
        hook = call.unet.mid_block.resnets[0].conv1.register_forward_hook(lambda module, args, output: 2 * output)
        assert relative_error(call(call.x), before) > 100 * RELATIVE_ERROR and graphs() == count
        with pytest.raises(UnsupportedError, match=r"conv1 .*has a hook"), handle.record():
            call(call.x)
        hook.remove()
        assert relative_error(call(call.x), before) <= RELATIVE_ERROR
        assert graphs() == count + 1


def test_a_change_that_a_compiled_pass_has_seen_is_still_a_change_for_the_handle() -> None:
    call = Call(small_unet())
    with sige.enable(call.unet) as handle:
        compile_(handle)
        call(call.x)
        assert not handle.look()
        with torch.no_grad():
            call.unet.conv_in.weight.mul_(2)
        call(call.x)
        assert handle.look() and not handle.look()


# ---- what runs uncompiled, or is refused -----------------------------------------------------------------------------


@either_way
def test_merged_rows_are_refused_and_outside_contexts_they_run_uncompiled(regional: bool) -> None:
    call = Call(small_unet())
    with sige.enable(call.unet) as handle:
        sige.tome.apply(call.unet, max_downsample=2)
        merged = call(call.x)
        with pytest.raises(UnsupportedError, match=r"^unet: its rows merge, .*call sige\.tome\.remove\(\) first"):
            compile_(handle, regional)
        assert torch.equal(call(call.x), merged)
        sige.tome.remove(call.unet)
        compile_(handle, regional)
        call(call.x)
        sige.tome.apply(call.unet, max_downsample=2)
        count = graphs()
        assert relative_error(call(call.x), merged) <= RELATIVE_ERROR and graphs() == count
        with pytest.raises(UnsupportedError, match="^unet: its rows merge"), handle.record():
            call(call.x)
        handle.compile(None)
        assert torch.equal(recorded(handle, call, call.x)[0], merged)


@either_way
def test_a_pass_without_the_deepest_level_is_right(regional: bool) -> None:
    """It is not compiled as a whole; with regional, the blocks that run are."""
    call = Call(small_unet())
    with sige.enable(call.unet) as handle:
        _, whole = recorded(handle, call, call.x)
        forecast, taken = Blend.of([(whole, 1.0)]), Recording()
        compile_(handle, regional)
        recorded(handle, call, call.x)
        count = graphs()
        with handle._claimed("edit", handle.attachments, lambda one: record_outer(one, taken, forecast)):
            call(call.x)
        assert_same(sorted_like(taken, whole), whole)
        assert graphs() == count


def sorted_like(recording: Recording, order: Recording) -> Recording:
    for name, part in recording.components.items():
        part.rows = {key: part.rows[key] for key in order.components[name].rows}
        part.stats = {key: part.stats[key] for key in order.components[name].stats}
    return recording


def test_a_pass_that_breaks_the_graph_is_refused_in_a_sentence() -> None:
    call = Call(small_unet())
    hook = call.unet.time_embedding.register_forward_hook(lambda *_: torch._dynamo.graph_break())
    with sige.enable(call.unet) as handle:
        compile_(handle)
        with pytest.raises(
            UnsupportedError, match=r"^unet: torch\.compile cannot take .*: call handle\.compile\(None\)"
        ):
            call(call.x)
        handle.compile(None)
        call(call.x)
    hook.remove()


def test_a_model_that_its_user_has_compiled_is_told_what_to_call() -> None:
    unet = small_unet()
    unet.compile(backend="eager")
    with pytest.raises(UnsupportedError, match=r"compile\(\) was called on it.*call handle\.compile\(\)"):
        sige.enable(unet)
    with pytest.raises(UnsupportedError, match=r"torch\.compile has wrapped .*then call handle\.compile\(\)"):
        sige.enable(torch.compile(small_unet(), backend="eager"))


def test_modes_that_cannot_be_are_refused() -> None:
    call = Call(small_unet())
    with sige.enable(call.unet) as handle:
        with pytest.raises(ConfigError, match="^mode: got 'fast', expected default"):
            handle.compile("fast")
        for mode in ("reduce-overhead", "max-autotune"):
            with pytest.raises(ConfigError, match=f"^mode: got '{mode}' with regional, .*take 'default'"):
                handle.compile(mode, regional=True)
        with handle.record(), pytest.raises(RecordingError, match=r"^compile: already inside `with handle\.record"):
            handle.compile()
    with pytest.raises(RecordingError, match=r"^compile: the handle was disabled"):
        handle.compile()


def test_with_cuda_graphs_results_are_copies_and_recordings_are_made_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay writes to the memory of the one before; here the mode's name is all that there is of it."""
    call, modes, returned = Call(small_unet()), [], []

    def compiled(function: Any, *, mode: str, **_: Any) -> Any:
        modes.append(mode)
        return lambda *args, **kwargs: returned.append(function(*args, **kwargs)) or returned[-1]

    monkeypatch.setattr(torch, "compile", compiled)
    with sige.enable(call.unet) as handle:
        handle.compile("reduce-overhead")
        out = call(call.x)
        assert torch.equal(out, returned[0].sample) and out.data_ptr() != returned[0].sample.data_ptr()
    assert modes == ["reduce-overhead", "default"]


# ---- pipelines, handles, copies --------------------------------------------------------------------------------------


def test_a_copy_of_a_compiled_model_is_plain() -> None:
    call = Call(small_unet())
    with sige.enable(call.unet) as handle:
        compile_(handle, regional=True)
        twin = copy.deepcopy(call.unet)
        assert hooks(twin) == 0 and not any(module._compiled_call_impl for module in twin.modules())
        assert any(module._compiled_call_impl for module in call.unet.modules())
        taps = [
            hook for m in call.unet.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())
        ]
        assert len(taps) == len(handle.components["unet"].probes()) and all(map(is_tap, taps))


def test_a_pipelines_edit_runs_compiled() -> None:
    """The plan has dense, recorded, half, packed and skipped steps; a VAE that works in tiles runs as it is."""
    from tests.models.job import Job

    job = Job("XLImg2Img")
    assert isinstance(job.pipe, diffusers.DiffusionPipeline)
    job.pipe.vae.enable_tiling()
    policy = sige.Temporal(dense_steps=(0, 1, 4), half_steps=(4,), skipped_steps=())
    with sige.enable(job.pipe) as handle:
        with handle.edit(job.mask, policy):
            expected = job()
        passes = handle.passes
        compile_(handle, regional=True)
        with handle.edit(job.mask, policy):
            out = job()
        assert handle.passes == passes and passes.packed and passes.dense
        assert graphs() > 0
    assert relative_error(out, expected) <= 100 * RELATIVE_ERROR  # over all steps
