"""Compiled passes: dense and recorded passes go through torch.compile in one graph, and leave what they leave without.

These tests follow the passes with torch's own backend `eager`, which runs each graph as it was captured: it shows
breaks, recompilations and wrong reuse of code. test_compile_inductor.py generates code. To capture takes seconds, so
the tests share two compiled models, and leave them as they found them; those that make torch capture anew come last.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

import sige
from sige import Recording, UnsupportedError
from sige import compiled as module
from sige.compiled import Compilation, Compiled
from sige.errors import ConfigError, RecordingError
from sige.passes import record_outer
from sige.recordings import Blend, is_tap
from tests.models.call import REGION, Call
from tests.models.small import one_level_unet, small_unet
from tests.models.state import hooks
from tests.models.test_lora import add_lora
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import vae

either_way = pytest.mark.parametrize("regional", [False, True], ids=["whole", "regional"])


@pytest.fixture(autouse=True, scope="module")
def no_code_of_other_files() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(autouse=True)
def count_from_here() -> None:
    counters.clear()


def compile_(handle: sige.Handle, regional: bool = False) -> None:
    handle.compile(regional=regional, backend="eager")


def graphs() -> int:
    """The number of graphs that were captured since the test began; none of them with a break."""
    assert not counters["graph_break"], dict(counters["graph_break"])
    return counters["stats"]["unique_graphs"]


def recorded(handle: sige.Handle, call: Any, x: Tensor, **extra: Any) -> tuple[Tensor, Recording]:
    with handle.record() as recording:
        out = call(x, **extra)
    return out, recording


def uncompiled(call: Call, **extra: Any) -> tuple[Tensor, Recording]:
    """What a plain copy of the model returns, and its recording."""
    twin = copy.copy(call)
    twin.unet = copy.deepcopy(call.unet)
    with sige.enable(twin.unet) as handle:
        return recorded(handle, twin, call.x, **extra)


@dataclass
class Shared:
    """A model that was compiled and has run, dense and recorded."""

    regional: bool
    call: Call
    handle: sige.Handle
    dense: Tensor  # of call.x, uncompiled
    recording: Recording  # the same
    graphs: tuple[int, int]  # captured by the first dense pass, and by the first recorded one, too

    def recorded(self, **extra: Any) -> tuple[Tensor, Recording]:
        return recorded(self.handle, self.call, self.call.x, **extra)


def shared(regional: bool) -> Iterator[Shared]:
    call = Call(one_level_unet())
    call.arguments["timestep"] = torch.tensor(5)
    with sige.enable(call.unet) as handle:
        dense, recording = recorded(handle, call, call.x)
        counters.clear()
        compile_(handle, regional)
        call(call.x)
        first = graphs()
        recorded(handle, call, call.x)
        second = graphs()
        counters.clear()
        yield Shared(regional, call, handle, dense, recording, (first, second))
    assert relative_error(call(call.x), dense) <= RELATIVE_ERROR
    assert hooks(call.unet) == 0 and not any(part._compiled_call_impl for part in call.unet.modules())


@pytest.fixture(scope="module")
def whole() -> Iterator[Shared]:
    yield from shared(False)


@pytest.fixture(scope="module")
def regional() -> Iterator[Shared]:
    yield from shared(True)


@pytest.fixture(params=["whole", "regional"])
def either(request: pytest.FixtureRequest) -> Shared:
    one: Shared = request.getfixturevalue(request.param)
    return one


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


# ---- the same recording, in one graph --------------------------------------------------------------------------------


def test_a_compiled_recording_is_the_uncompiled_one(either: Shared) -> None:
    """A second pass of each kind compiles nothing, nor does another timestep or prompt."""
    call, handle, before = either.call, either.handle, either.handle.totals["unet"].dense
    with handle.edit(REGION, blend=[(either.recording, 1.0)]):
        edited = call(call.edited)
    out, found = either.recorded()
    assert relative_error(out, either.dense) <= RELATIVE_ERROR and relative_error(call(call.x), out) <= RELATIVE_ERROR
    assert_same(found, either.recording)
    with handle.edit(REGION):
        assert relative_error(call(call.edited), edited) <= RELATIVE_ERROR
    assert relative_error(call(call.edited), edited) <= 10 * RELATIVE_ERROR, "everything is active"
    assert_same(either.recorded()[1], either.recording)
    kept = dict(call.arguments)
    for step in (900.0, 1.0):
        call.arguments["timestep"] = torch.tensor(int(step))
        call.arguments["encoder_hidden_states"] = torch.randn(2, 7, 24)
        assert relative_error(either.recorded()[0], either.dense) > 100 * RELATIVE_ERROR
    call.arguments = kept
    assert graphs() == 0 and handle.totals["unet"].dense == before + 6
    first, second = either.graphs
    assert 0 < first < second if either.regional else (first, second) == (1, 2)


def test_weights_that_are_written_in_place_are_read(either: Shared) -> None:
    """They compile nothing anew. What a compiled pass has seen of the change is still a change for the handle."""
    weight = either.call.unet.mid_block.resnets[0].conv1.weight
    either.handle.look()
    with torch.no_grad():
        weight.mul_(2)
    out = either.call(either.call.x)
    assert either.handle.look() and not either.handle.look()
    dense, expected = uncompiled(either.call)
    found = either.recorded()[1]
    with torch.no_grad():
        weight.div_(2)
    assert relative_error(dense, either.dense) > 100 * RELATIVE_ERROR >= RELATIVE_ERROR >= relative_error(out, dense)
    assert_same(found, expected)
    assert graphs() == 0


def test_a_copy_of_a_compiled_model_is_plain(regional: Shared) -> None:
    unet = regional.call.unet
    twin = copy.deepcopy(unet)
    assert hooks(twin) == 0 and not any(part._compiled_call_impl for part in twin.modules())
    assert any(part._compiled_call_impl for part in unet.modules())
    taps = [hook for m in unet.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert len(taps) == len(regional.handle.components["unet"].probes()) and all(map(is_tap, taps))


def test_residuals_of_a_controlnet_and_half_a_batch_are_compiled(either: Shared) -> None:
    down = tuple(torch.randn(2, 8, 16, 16) for _ in range(2))
    extra = {"down_block_additional_residuals": down, "mid_block_additional_residual": torch.randn(2, 8, 16, 16)}
    dense, expected = uncompiled(either.call, **extra)
    assert_same(either.recorded(**extra)[1], expected)
    call = copy.copy(either.call)
    call.arguments = {**call.arguments, "encoder_hidden_states": call.arguments["encoder_hidden_states"][:1]}
    halves = {"down_block_additional_residuals": tuple(one[:1] for one in down)}
    halves["mid_block_additional_residual"] = extra["mid_block_additional_residual"][:1]
    out, _ = recorded(either.handle, call, call.x[:1], **halves)
    assert relative_error(out, dense[:1]) <= RELATIVE_ERROR
    assert graphs() > 0


def test_blocks_of_one_kind_share_their_code() -> None:
    """The 8 residual and transformer blocks are of 3 kinds; they run 5 graphs, as a kind may have other inputs."""
    call = Call(one_level_unet(layers_per_block=2))
    with sige.enable(call.unet) as handle:
        compile_(handle, regional=True)
        blocks = handle.components["unet"].regions()
        kinds = {(type(block), *sorted(tuple(p.shape) for p in block.parameters())) for block in blocks}
        assert len(kinds) < len(blocks) - 3
        recorded(handle, call, call.x)
        assert graphs() <= len(kinds) + 2 < len(blocks)


@either_way
def test_the_vae_is_compiled(regional: bool) -> None:
    parts = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    model, z, x = vae(block_out_channels=(8,), **parts), torch.randn(1, 4, 8, 8), torch.randn(1, 3, 8, 8)

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


def test_a_function_may_have_many_kinds_of_inputs_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own limit is 8. Blocks that share their code come to it: whole and half batches, levels, heads."""
    compiled = Compiled("unet", lambda x: x + 1, (), Compilation(backend="eager"))
    for dimensions in range(1, 13):
        compiled.dense((torch.zeros((2,) * dimensions),), {})
    assert graphs() == 12
    monkeypatch.setattr(module, "MOST_GRAPHS", 2)
    limited = Compiled("unet", lambda x: x + 1, (), Compilation(backend="eager"))
    with pytest.raises(UnsupportedError, match=r"^unet: more than 2 kinds of inputs .*call handle\.compile\(\) again"):
        for dimensions in range(1, 5):
            limited.dense((torch.zeros((2,) * dimensions),), {})


# ---- what is refused, or runs uncompiled -----------------------------------------------------------------------------


@either_way
def test_merged_rows_are_refused_and_outside_contexts_they_run_uncompiled(regional: bool) -> None:
    call = Call(one_level_unet())
    with sige.enable(call.unet) as handle:
        sige.tome.apply(call.unet)
        merged = call(call.x)
        with pytest.raises(UnsupportedError, match=r"^unet: its rows merge, .*call sige\.tome\.remove\(\) first"):
            compile_(handle, regional)
        assert torch.equal(call(call.x), merged)
        sige.tome.remove(call.unet)
        compile_(handle, regional)
        sige.tome.apply(call.unet)
        assert relative_error(call(call.x), merged) <= RELATIVE_ERROR and graphs() == 0
        with pytest.raises(UnsupportedError, match="^unet: its rows merge"), handle.record():
            call(call.x)
        handle.compile(None)
        assert torch.equal(recorded(handle, call, call.x)[0], merged)


@either_way
def test_a_pass_without_the_deepest_level_is_right(regional: bool) -> None:
    """It is not compiled as a whole; with regional, the blocks that run are."""
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    call = Call(small_unet(**blocks))
    with sige.enable(call.unet) as handle:
        whole = recorded(handle, call, call.x)[1]
        forecast, taken = Blend.of([(whole, 1.0)]), Recording()
        compile_(handle, regional)
        with handle._claimed("edit", handle.attachments, lambda one: record_outer(one, taken, forecast)):
            call(call.x)
        assert_same(sorted_like(taken, whole), whole)
        assert (graphs() > 0) == regional


def sorted_like(recording: Recording, order: Recording) -> Recording:
    for name, part in recording.components.items():
        part.rows = {key: part.rows[key] for key in order.components[name].rows}
        part.stats = {key: part.stats[key] for key in order.components[name].stats}
    return recording


def test_a_pass_that_breaks_the_graph_is_refused_in_a_sentence() -> None:
    call = Call(one_level_unet())
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


def test_a_backend_that_cannot_compile_is_told_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """As inductor without a C++ compiler."""

    def broken(*_: Any) -> Any:
        raise RuntimeError("there is no compiler\nand more lines")

    compiled = Compiled("unet", lambda x: x + 1, (), Compilation(backend="eager"))
    monkeypatch.setattr(compiled, "_dense", torch.compile(lambda x: x + 1, backend=broken))
    with pytest.raises(UnsupportedError, match=r"^unet: .*RuntimeError: there is no compiler\): call [^\n]*$"):
        compiled.dense((torch.zeros(2),), {})


def test_a_model_that_its_user_has_compiled_is_told_what_to_call() -> None:
    unet = one_level_unet()
    unet.compile(backend="eager")
    with pytest.raises(UnsupportedError, match=r"compile\(\) was called on it.*call handle\.compile\(\)"):
        sige.enable(unet)
    with pytest.raises(UnsupportedError, match=r"torch\.compile has wrapped .*then call handle\.compile\(\)"):
        sige.enable(torch.compile(one_level_unet(), backend="eager"))


@pytest.mark.parametrize(
    ("mode", "options", "message"),
    [
        ("fast", {}, r"mode: got 'fast', expected default"),
        (["default"], {}, r"mode: got \['default'\], expected default"),
        ("reduce-overhead", {"regional": True}, r"mode: got 'reduce-overhead' with regional, .*take 'default'"),
        ("max-autotune", {"regional": True}, r"mode: got 'max-autotune' with regional, .*take 'default'"),
        ("max-autotune", {"backend": "eager"}, r"mode: got 'max-autotune' with backend 'eager', expected 'default'"),
        ("default", {"regional": "blocks"}, r"regional: got 'blocks', expected True or False"),
        ("default", {"backend": "induktor"}, r"backend: got 'induktor', expected one of torch\.compile: .*inductor"),
    ],
)
def test_settings_that_cannot_be_are_refused(mode: Any, options: dict[str, Any], message: str, whole: Shared) -> None:
    with pytest.raises(ConfigError, match=f"^{message}[^\n]*$"):
        whole.handle.compile(mode, **options)
    assert relative_error(whole.call(whole.call.x), whole.dense) <= RELATIVE_ERROR
    assert graphs() == 0, "what was compiled stays"


def test_compile_is_refused_inside_contexts_and_when_disabled() -> None:
    with sige.enable(one_level_unet()) as handle:
        with handle.record(), pytest.raises(RecordingError, match=r"^compile: already inside `with handle\.record"):
            handle.compile()
    with pytest.raises(RecordingError, match=r"^compile: the handle was disabled"):
        handle.compile()


def test_with_cuda_graphs_results_are_copies_and_recordings_are_made_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay writes to the memory of the one before; here the mode's name is all that there is of it."""
    call, modes, returned = Call(one_level_unet()), [], []

    def compiled(function: Any, *, mode: str, **_: Any) -> Any:
        modes.append(mode)
        return lambda *args, **kwargs: returned.append(function(*args, **kwargs)) or returned[-1]

    monkeypatch.setattr(torch, "compile", compiled)
    with sige.enable(call.unet) as handle:
        handle.compile("reduce-overhead")
        out = call(call.x)
        assert torch.equal(out, returned[0].sample) and out.data_ptr() != returned[0].sample.data_ptr()
    assert modes == ["reduce-overhead", "default"]


def test_a_pipelines_edit_runs_compiled() -> None:
    """The plan has dense, recorded, half, packed and skipped steps; a VAE that works in tiles runs as it is."""
    from tests.models.job import Job

    job = Job("Img2Img", unet=one_level_unet(sample_size=16))
    job.pipe.vae.enable_tiling()
    policy = sige.Temporal(dense_steps=(0, 1, 4), half_steps=(4,), outer_steps=(), skipped_steps=(3,))
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


# ---- changes, which are captured anew --------------------------------------------------------------------------------


def test_a_hook_that_comes_after_compilation_runs(whole: Shared) -> None:
    """torch does not guard on hooks: code of before would leave it out. It cannot be recorded: it runs uncompiled."""
    call, dense = whole.call, whole.dense
    hook = call.unet.mid_block.resnets[0].conv1.register_forward_hook(lambda module, args, output: 2 * output)
    assert relative_error(call(call.x), dense) > 100 * RELATIVE_ERROR and graphs() == 0
    with pytest.raises(UnsupportedError, match=r"conv1 .*has a hook"), whole.handle.record():
        call(call.x)
    hook.remove()
    assert relative_error(call(call.x), dense) <= RELATIVE_ERROR
    assert graphs() == 1


def test_what_changes_after_compilation_is_used(either: Shared) -> None:
    """A LoRA comes, a layer is replaced, both go: outside contexts and inside."""
    call, resnet = either.call, either.call.unet.mid_block.resnets[0]
    conv = resnet.conv1
    assert_captured_anew(either, lambda: add_lora(call.unet, ["attn1.to_q"]))
    assert_captured_anew(either, lambda: setattr(resnet, "conv1", nn.Conv2d(8, 8, 3, padding=1)))
    resnet.conv1 = conv
    call.unet.unload_lora()


def assert_captured_anew(shared: Shared, change: Callable[[], None]) -> None:
    before, count = uncompiled(shared.call)[0], graphs()
    change()
    dense, expected = uncompiled(shared.call)
    assert relative_error(before, dense) > 100 * RELATIVE_ERROR
    out, found = shared.recorded()
    assert graphs() > count and relative_error(out, dense) <= RELATIVE_ERROR
    assert_same(found, expected)
    assert relative_error(shared.call(shared.call.x), dense) <= RELATIVE_ERROR
