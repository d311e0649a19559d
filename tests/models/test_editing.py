"""enable and disable, the two contexts, the recording and the text cache."""

from __future__ import annotations

import copy
import functools
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    UNet2DConditionModel,
)
from torch import Tensor, nn

import sige
from sige import Recording, RecordingError, Region, UnsupportedError
from sige.recording import ComponentRecording
from tests.models.test_properties import RELATIVE_ERROR, OpCounter, relative_error
from tests.models.tiny import CASES, TOKENS, Case, every_case, make_case, sd15, sdxl_base, sdxl_inpainting, vae

Strides = dict[str, tuple[int, ...]]


def fresh(case: str) -> Case:
    """A case whose model no other test shares: for tests that may leave it changed."""
    return make_case.__wrapped__(case)


def strides(model: nn.Module) -> Strides:
    return {name: parameter.stride() for name, parameter in model.named_parameters()}


def hooks(model: nn.Module) -> int:
    """Hooks of any kind on any module."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def wrapped(model: nn.Module) -> list[str]:
    """Modules whose forward is replaced."""
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


def tensors(recording: Recording) -> Iterator[Tensor]:
    for part in recording.components.values():
        yield from part.rows.values()
        yield from part.stats.values()
        if part.output is not None:
            yield part.output


def snapshot(recording: Recording) -> list[Tensor]:
    return [tensor.clone() for tensor in tensors(recording)]


def unchanged(recording: Recording, before: list[Tensor]) -> bool:
    after = list(tensors(recording))
    return len(after) == len(before) > 0 and all(map(torch.equal, after, before))


# ---- enable and disable ---------------------------------------------------------------------------------------------


def test_enabling_twice_is_enabling_once() -> None:
    made = fresh("sdxl-base")
    handle = sige.enable(made.model)
    forward = made.model.forward
    assert sige.enable(made.model) is handle
    assert made.model.forward is forward
    handle.disable()
    handle.disable()  # so is disabling
    assert wrapped(made.model) == []
    again = sige.enable(made.model)
    assert again is not handle and again.enabled and not handle.enabled
    again.disable()


@pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels last"])
@every_case
def test_disabling_restores_dense_outputs_and_layouts_bit_for_bit(case: str, channels_last: bool) -> None:
    made = fresh(case)
    if channels_last:
        made.model.to(memory_format=torch.channels_last)
    x, edited = made.input(1, 2), made.input(2, 2)
    before, layouts = made.call(x), strides(made.model)
    identities = [id(parameter) for parameter in made.model.parameters()]
    handle = sige.enable(made.model)
    assert relative_error(made.call(x), before) <= RELATIVE_ERROR  # outside the contexts: dense
    with handle.record():
        made.call(x)
    with handle.edit(made.rectangle(2, 3, 4, 4)):
        made.call(edited)
    handle.disable()
    assert torch.equal(made.call(x), before)
    assert strides(made.model) == layouts
    assert [id(parameter) for parameter in made.model.parameters()] == identities
    assert wrapped(made.model) == [] and hooks(made.model) == 0


@every_case
def test_a_recorded_pass_is_the_dense_pass(case: str) -> None:
    made = make_case(case)
    x = made.input(1, 2)
    with sige.enable(made.model) as handle:
        dense = made.call(x)
        with handle.record():
            recorded = made.call(x)
        assert hooks(made.model) == 0
    assert torch.equal(recorded, dense)


def test_leaving_the_handle_disables_even_with_an_exception() -> None:
    made = fresh("sdxl-base")
    layouts = strides(made.model)
    with pytest.raises(ZeroDivisionError), sige.enable(made.model) as handle, handle.record():
        made.call(made.input(1))
        raise ZeroDivisionError
    assert not handle.enabled
    assert wrapped(made.model) == [] and hooks(made.model) == 0 and strides(made.model) == layouts


def test_a_disabled_handle_says_so() -> None:
    made = fresh("sdxl-base")
    with sige.enable(made.model) as handle:
        pass
    for context in (handle.record, lambda: handle.edit(made.full())):
        with pytest.raises(RecordingError, match=r"disabled: call sige.enable\(\) again"), context():
            pass


def test_a_refused_model_is_left_as_it_was() -> None:
    model = sdxl_base()
    model.mid_block.resnets[0].nonlinearity = nn.GELU()
    layouts = strides(model)
    with pytest.raises(UnsupportedError):
        sige.enable(model)
    assert wrapped(model) == [] and strides(model) == layouts


def test_the_signature_of_forward_is_kept_for_who_asks() -> None:
    """Positional and keyword arguments, with and without return_dict, as diffusers' own forward takes them."""
    model = sd15()
    x, text = torch.randn(1, 4, 16, 16), torch.randn(1, TOKENS, 24)
    region = Region.full(128, 128)
    with torch.no_grad(), sige.enable(model) as handle:
        with handle.record():
            recorded = model(x, 5, text, return_dict=False)
        assert isinstance(recorded, tuple)
        with handle.edit(region):
            named = model(sample=x, timestep=torch.tensor(5), encoder_hidden_states=text).sample
            mixed = model(x, 5, encoder_hidden_states=text, return_dict=True)
            plain = model(x, torch.tensor([5]), text, None, None, None, None, None, None, None, None, None, False)
        assert isinstance(plain, tuple) and len(plain) == 1
        with handle.record() as recording:
            model(sample=x, timestep=5, encoder_hidden_states=text)
        assert list(recording.components) == ["unet"]
        with pytest.raises(TypeError, match="no_such_argument"), handle.edit(region):
            model(x, 5, text, no_such_argument=1)
    assert type(mixed).__name__ == "UNet2DConditionOutput"
    for out in (named, mixed.sample, plain[0]):
        assert relative_error(out, recorded[0]) <= RELATIVE_ERROR


def test_the_vae_returns_what_it_returns_without_return_dict() -> None:
    model, z = vae(), torch.randn(1, 4, 8, 8)
    with torch.no_grad(), sige.enable(model) as handle:
        with handle.record():
            recorded = model.decode(z, return_dict=False)
        with handle.edit(Region.full(64, 64)):
            out = model.decode(z, return_dict=False)
    assert isinstance(out, tuple) and relative_error(out[0], recorded[0]) <= RELATIVE_ERROR


@every_case
def test_inference_mode_works(case: str) -> None:
    made = fresh(case)
    x, edited = made.input(1), made.input(2)
    dense = made.call(edited)
    with sige.enable(made.model) as handle:
        with torch.inference_mode():
            with handle.record():
                made.call(x)
            with handle.edit(made.full()):
                out = made.call(edited)
        assert relative_error(out, dense) <= RELATIVE_ERROR
        with handle.edit(made.full()):  # recorded in inference mode, read outside
            assert relative_error(made.call(edited), dense) <= RELATIVE_ERROR


def test_a_packed_pass_with_gradients_on_gives_none() -> None:
    made = fresh("sd15")
    x = made.input(1).requires_grad_()
    with sige.enable(made.model) as handle:
        with handle.record() as recording:
            recorded = made.run(x, [0])
        assert recorded.requires_grad
        assert not any(tensor.requires_grad for tensor in tensors(recording))
        with handle.edit(made.full()):
            assert not made.run(x, [0]).requires_grad


def test_a_model_enabled_in_inference_mode_can_be_trained_afterwards() -> None:
    made = fresh("sd15")
    with torch.inference_mode():
        sige.enable(made.model).disable()
    made.run(made.input(1), [0]).sum().backward()


def test_a_model_that_is_no_longer_used_is_freed() -> None:
    model = sdxl_base()
    alive = weakref.ref(model)
    sige.enable(model).disable()
    del model
    gc.collect()
    assert alive() is None


def test_a_forward_that_another_library_has_replaced_comes_back() -> None:
    """As accelerate does to offload a model to the host."""
    model = sdxl_base()
    own = model.forward

    @functools.wraps(own)
    def offloading(*args: Any, **kwargs: Any) -> Any:
        return own(*args, **kwargs)

    model.forward = offloading
    sige.enable(model).disable()
    assert model.forward is offloading


def test_a_copy_of_an_enabled_model_is_its_own() -> None:
    made = fresh("sd15")
    with sige.enable(made.model):
        twin = copy.deepcopy(made.model)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
            out = twin(made.input(1), 5, torch.ones(1, TOKENS, 24)).sample
    assert out.abs().max() == 0


# ---- the contexts ---------------------------------------------------------------------------------------------------


def test_an_edit_before_a_recording_is_refused() -> None:
    made = fresh("sdxl-base")
    with (
        sige.enable(made.model) as handle,
        pytest.raises(RecordingError, match=r"nothing was recorded yet.*handle.record\(\)"),
        handle.edit(made.full()),
    ):
        pass


def test_a_cleared_recording_is_refused() -> None:
    made = make_case("sdxl-base")
    with sige.enable(made.model) as handle:
        with handle.record() as recording:
            made.call(made.input(1))
        recording.clear()
        assert recording.nbytes == 0
        with handle.edit(made.full()), pytest.raises(RecordingError, match="unet was not recorded.*was cleared"):
            made.call(made.input(1))


def test_a_component_that_was_not_recorded_is_refused() -> None:
    model = vae()
    with torch.no_grad(), sige.enable(model) as handle:
        with handle.record():
            model.decode(torch.randn(1, 4, 8, 8))
        with handle.edit(Region.full(64, 64)):
            model.decode(torch.randn(1, 4, 8, 8))
            with pytest.raises(
                RecordingError, match=r"vae.encoder was not recorded \(this recording holds vae.decoder"
            ):
                model.encode(torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize("other", ["batch", "resolution", "dtype"])
@every_case
def test_an_input_unlike_the_recorded_one_is_refused(case: str, other: str) -> None:
    made = fresh(case)
    x = made.input(1)
    with sige.enable(made.model) as handle:
        with handle.record():
            made.call(x)
        if other == "dtype":
            nn.Module.to(made.model, torch.float16)
        unlike = {"batch": made.input(1, 2), "resolution": made.input(1, 1, (24, 8)), "dtype": x.half()}[other]
        for region in (made.full(), Region.empty(*made.image_size)):
            with handle.edit(region), pytest.raises(RecordingError, match="expected what was recorded") as raised:
                made.call(unlike)
    assert made.component in str(raised.value) and str(list(x.shape)) in str(raised.value)


def test_contexts_do_not_nest() -> None:
    made = make_case("sdxl-base")
    x = made.input(1)
    with sige.enable(made.model) as handle:
        with handle.record() as recording:
            made.call(x)
            for context in (handle.record, lambda: handle.edit(made.full())):
                with pytest.raises(RecordingError, match=r"already inside `with handle.record"), context():
                    pass
            made.call(x)  # the outer context goes on
        with handle.edit(made.full()):
            for context in (handle.record, lambda: handle.edit(made.full())):
                with pytest.raises(RecordingError, match=r"already inside `with handle.edit"), context():
                    pass
            with OpCounter() as counter:
                made.call(x)
            assert counter.ran
        assert recording.nbytes > 0


class StopError(Exception):
    """What a user's code may raise."""


def test_an_exception_while_recording_leaves_nothing_behind() -> None:
    made = fresh("sdxl-base")
    x, edited = made.input(1), made.input(2)
    with sige.enable(made.model) as handle:
        with handle.record() as kept:
            made.call(x)
        with pytest.raises(StopError), handle.record() as failed:
            made.call(edited)
            raise StopError
        assert failed.nbytes == 0 and failed.components == {} and hooks(made.model) == 0
        assert handle.last is kept
        with handle.edit(Region.empty(*made.image_size)):
            out = made.call(edited)
        with handle.record():
            dense = made.call(edited)
        assert not torch.equal(out, dense)
        with handle.edit(made.full()):
            assert relative_error(made.call(x), kept.components["unet"].output) <= RELATIVE_ERROR


def test_an_exception_inside_the_dense_pass_leaves_nothing_behind() -> None:
    made = fresh("sdxl-base")
    x = made.input(1)

    def stop(*_: object) -> None:
        raise StopError

    with sige.enable(made.model) as handle:
        removable = made.model.mid_block.register_forward_pre_hook(stop)
        with pytest.raises(StopError), handle.record() as recording:
            made.call(x)
        removable.remove()
        assert recording.components == {} and hooks(made.model) == 0 and handle.last is None
        with handle.record() as recording:
            recorded = made.call(x)
        with handle.edit(made.full()):
            assert relative_error(made.call(x), recorded) <= RELATIVE_ERROR


def test_an_exception_while_editing_leaves_nothing_behind() -> None:
    made = fresh("sdxl-base")
    x, edited = made.input(1), made.input(2)
    with sige.enable(made.model) as handle:
        with handle.record() as recording:
            made.call(x)
        before = snapshot(recording)
        with pytest.raises(StopError), handle.edit(made.full()):
            made.call(edited)
            raise StopError
        with OpCounter() as counter:
            dense = made.call(edited)  # outside the context again
        assert counter.ran == []
        with pytest.raises(RecordingError), handle.edit(made.full()):
            made.call(made.input(1, 2))
        with handle.edit(made.full()):
            assert relative_error(made.call(edited), dense) <= RELATIVE_ERROR
        assert unchanged(recording, before)


def test_disabling_inside_a_context_ends_it() -> None:
    made = fresh("sdxl-base")
    x = made.input(1)
    dense = made.call(x)
    handle = sige.enable(made.model)
    with handle.record():
        made.call(x)
        handle.disable()
        assert torch.equal(made.call(x), dense)
    assert wrapped(made.model) == [] and hooks(made.model) == 0


# ---- recordings -----------------------------------------------------------------------------------------------------


class Reads(dict[str, Tensor]):
    """A dict that knows which of its values were asked for."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.read.add(key)
        return super().__getitem__(key)


@every_case
def test_a_recording_holds_what_a_packed_pass_reads_and_no_more(case: str) -> None:
    """Rows without gaps, sums in fp64, one output: each of them is read."""
    made = make_case(case)
    x = made.input(1)
    returned: list[Tensor] = []
    with sige.enable(made.model) as handle:
        removable = made.module.register_forward_hook(lambda *results: returned.append(results[-1]))
        with handle.record() as recording:
            made.call(x)
        removable.remove()
        part = recording.components[made.component]
        part.rows, part.stats = rows, stats = Reads(part.rows), Reads(part.stats)
        with handle.edit(made.full()):
            made.call(x)
    assert rows.read == set(rows) and stats.read == set(stats)
    for value in rows.values():
        assert value.dim() == 3 and value.shape[0] == 1 and value.is_contiguous() and not value.requires_grad
    assert all(value.dtype == torch.float64 for value in stats.values())
    assert 0 < len(stats) < len(rows) and stats.keys() < rows.keys()
    out = returned[0] if isinstance(returned[0], Tensor) else returned[0].sample
    assert part.output is not None and torch.equal(part.output, out) and part.output.data_ptr() != out.data_ptr()
    assert list(recording.components) == [made.component]
    assert not any("attn2" in key for key in rows), "keys of the prompt are not recorded"


@every_case
def test_nbytes_is_the_sum_of_the_tensors(case: str) -> None:
    made = make_case(case)
    with sige.enable(made.model) as handle, handle.record() as recording:
        made.call(made.input(1, 2))
    expected = sum(tensor.numel() * tensor.element_size() for tensor in tensors(recording))
    assert recording.nbytes == expected > 10_000
    assert f"{expected / 2**20:.1f} MiB" in repr(recording) and made.component in repr(recording)
    recording.clear()
    assert recording.nbytes == 0 and "empty" in repr(recording)


def test_a_recording_in_another_dtype_and_back() -> None:
    made = make_case("sdxl-base")
    x, edited = made.input(1), made.input(2)
    region = made.rectangle(2, 3, 8, 8, dilation=1)
    with sige.enable(made.model) as handle:
        with handle.record() as recording:
            made.call(x)
        before = snapshot(recording)
        half = recording.to(dtype=torch.bfloat16)
        assert {rows.dtype for rows in half.components["unet"].rows.values()} == {torch.bfloat16}
        stats = sum(tensor.nbytes for tensor in recording.components["unet"].stats.values())
        assert half.nbytes - stats == (recording.nbytes - stats) // 2
        with handle.edit(region, blend=[(half, 1.0)]), pytest.raises(RecordingError, match="bfloat16"):
            made.call(edited)
        back = half.to("cpu", torch.float32)
        assert unchanged(recording, before)
        with handle.edit(region):
            exact = made.call(edited)
        with handle.edit(region, blend=[(back, 1.0)]):
            rounded = made.call(edited)
        with handle.edit(region, blend=[(recording.to("cpu"), 1.0)]):
            assert torch.equal(made.call(edited), exact)
    assert 0 < relative_error(rounded, exact) < 2.0**-7  # bf16 keeps 8 bits
    half.clear()
    assert recording.nbytes > 0 and half.nbytes == 0


def test_an_edit_in_16_bits_can_read_a_recording_made_in_32() -> None:
    made, low = make_case("sdxl-base"), make_case("sdxl-base", torch.bfloat16)
    x, edited = made.input(1), made.input(2)
    with sige.enable(made.model) as handle, handle.record() as recording:
        made.call(x)
    with sige.enable(low.model) as handle:
        dense = low.call(edited.bfloat16())
        with handle.edit(low.full(), blend=[(recording.to(dtype=torch.bfloat16), 1.0)]):
            out = low.call(edited.bfloat16())
    exact = make_case("sdxl-base", torch.bfloat16, exact=True).call(edited.bfloat16().double())
    assert relative_error(out, exact) < 1.5 * relative_error(dense, exact)


def test_a_recording_moved_to_a_device_without_or_with_index_fits() -> None:
    made = make_case("sd15")
    x = made.input(1)
    with sige.enable(made.model) as handle:
        with handle.record() as recording:
            made.call(x)
        with handle.edit(made.full(), blend=[(recording.to("cpu:0"), 1.0)]):
            made.call(x)


@pytest.mark.gpu
def test_a_recording_goes_to_the_host_and_back() -> None:
    made = fresh("sdxl-base")
    made.model.to("cuda")
    x, edited = torch.randn(1, 4, 16, 16, device="cuda"), torch.randn(1, 4, 16, 16, device="cuda")
    text, added = torch.randn(1, TOKENS, 24, device="cuda"), {"text_embeds": torch.randn(1, 16, device="cuda")}
    added["time_ids"] = torch.rand(1, 6, device="cuda")
    with torch.no_grad(), sige.enable(made.model) as handle:
        dense = made.model(edited, 5, text, added_cond_kwargs=added).sample
        with handle.record() as recording:
            made.model(x, 5, text, added_cond_kwargs=added)
        host = recording.to("cpu")
        with handle.edit(made.full(), blend=[(host, 1.0)]), pytest.raises(RecordingError, match="on cpu"):
            made.model(edited, 5, text, added_cond_kwargs=added)
        with handle.edit(made.full(), blend=[(host.to("cuda"), 1.0)]):
            out = made.model(edited, 5, text, added_cond_kwargs=added).sample
    assert relative_error(out, dense) < 1e-3  # TF32


def test_recordings_live_on_their_own() -> None:
    """Each keeps what it recorded, whatever is recorded after it; they outlive the handle that made them."""
    made = fresh("sdxl-base")
    region = made.rectangle(2, 3, 8, 8, dilation=1)
    edited = made.input(3)
    handle = sige.enable(made.model)
    with handle.record() as first:
        made.call(made.input(1))
    before = snapshot(first)
    with handle.edit(region):
        expected = made.call(edited)
    with handle.record() as second:
        made.call(made.input(2))
    assert unchanged(first, before) and not unchanged(second, before)
    assert handle.last is second
    handle.disable()
    assert unchanged(first, before)
    with sige.enable(made.model) as handle:
        assert handle.last is None
        with handle.edit(region, blend=[(first, 1.0)]):
            assert torch.equal(made.call(edited), expected)


def test_a_component_called_twice_is_recorded_as_of_its_last_call() -> None:
    made = make_case("sdxl-base")
    with sige.enable(made.model) as handle:
        with handle.record() as recording:
            made.call(made.input(1))
            last = made.call(made.input(2))
        assert torch.equal(recording.components["unet"].output, last)
        with handle.edit(made.rectangle(2, 3, 8, 8)):
            assert relative_error(made.call(made.input(2)), last) <= RELATIVE_ERROR


def test_an_empty_recording_is_refused_when_it_is_read() -> None:
    made = make_case("sdxl-base")
    with sige.enable(made.model) as handle:
        with handle.record():
            pass
        with handle.edit(made.full()), pytest.raises(RecordingError, match="unet was not recorded"):
            made.call(made.input(1))


def mutate_after_recording(case: Case, layout: torch.memory_format) -> tuple[Recording, list[Tensor]]:
    """Writes into everything that the user holds: the input, the recorded pass's output, the packed pass's."""
    x = case.input(1, 2).contiguous(memory_format=layout)
    with sige.enable(case.model) as handle:
        with handle.record() as recording:
            returned = case.call(x)
        before = snapshot(recording)
        x.add_(1.0)
        returned.zero_()
        for region in (Region.empty(*case.image_size), case.rectangle(2, 3, 4, 4), case.full()):
            with handle.edit(region):
                case.call(case.input(2, 2)).zero_()
    return recording, before


@every_case
def test_writing_into_inputs_and_outputs_does_not_reach_the_recording(case: str) -> None:
    assert unchanged(*mutate_after_recording(make_case(case), torch.contiguous_format))


@pytest.mark.parametrize("case", [name for name in CASES if name != "vae-decoder"])  # decode() convolves it first
def test_writing_into_channels_last_inputs_does_not_reach_the_recording(case: str) -> None:
    assert unchanged(*mutate_after_recording(make_case(case), torch.channels_last))


# ---- the text cache -------------------------------------------------------------------------------------------------


@contextmanager
def projections(model: UNet2DConditionModel) -> Iterator[list[str]]:
    """The layers of cross-attention that project the prompt, as they run."""
    ran: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: ran.append(name)

    named = [(name, module) for name, module in model.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
    handles = [module.register_forward_hook(note(name)) for name, module in named]
    ran.append(str(len(named)))
    yield ran
    for handle in handles:
        handle.remove()


def test_keys_of_the_prompt_are_computed_once_while_the_prompt_stays() -> None:
    model = sd15()
    x, y = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
    text, other = torch.randn(1, TOKENS, 24), torch.randn(1, TOKENS, 24)
    region = Region.full(128, 128)
    with torch.no_grad(), sige.enable(model) as handle, projections(model) as ran:
        count = int(ran.pop())
        assert count >= 20

        def run(prompt: Tensor) -> tuple[Tensor, int]:
            ran.clear()
            with_keys = model(y, 5, prompt).sample
            assert len(set(ran)) == len(ran)
            return with_keys, len(ran)

        dense, dense_other = model(y, 5, text).sample, model(y, 5, other).sample
        with handle.record():
            model(x, 5, text)
        with handle.edit(region):
            assert run(text)[1] == count
            out, projected = run(text)
            assert projected == 0 and relative_error(out, dense) <= RELATIVE_ERROR
            out, projected = run(other)  # another prompt
            assert projected == count and relative_error(out, dense_other) <= RELATIVE_ERROR
            out, projected = run(text)  # and back
            assert projected == count and relative_error(out, dense) <= RELATIVE_ERROR
            text.copy_(other)  # the same tensor, another prompt in it
            out, projected = run(text)
            assert projected == count and relative_error(out, dense_other) <= RELATIVE_ERROR
        with handle.edit(region):
            assert run(text)[1] == 0  # another edit of the same recording
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        dense = model(y, 5, text).sample
        with handle.record():  # after which the weights may be others
            model(x, 5, text)
        with handle.edit(region):
            out, projected = run(text)
            assert projected == count and relative_error(out, dense) <= RELATIVE_ERROR


def test_a_prompt_made_in_inference_mode_is_never_taken_for_unchanged() -> None:
    """Its changes cannot be seen, so its keys are computed each time."""
    model = sd15()
    x = torch.randn(1, 4, 16, 16)
    with torch.inference_mode(), sige.enable(model) as handle:
        text, other = torch.randn(1, TOKENS, 24), torch.randn(1, TOKENS, 24)
        dense = model(x, 5, other).sample
        with handle.record():
            model(x, 5, text)
        with handle.edit(Region.full(128, 128)):
            model(x, 5, text)
            text.copy_(other)
            assert relative_error(model(x, 5, text).sample, dense) <= RELATIVE_ERROR


# ---- pipelines ------------------------------------------------------------------------------------------------------


def inpainting(unet: UNet2DConditionModel, coder: AutoencoderKL) -> tuple[Any, dict[str, Any]]:
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipe = StableDiffusionXLInpaintPipeline(vae=coder, unet=unet, scheduler=EulerDiscreteScheduler(), **parts)
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 30:90, 40:100] = 1
    return pipe, {"mask_image": mask, "height": 128, "width": 128}


def img2img(unet: UNet2DConditionModel, coder: AutoencoderKL) -> tuple[Any, dict[str, Any]]:
    parts = dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
    pipe = StableDiffusionXLImg2ImgPipeline(vae=coder, unet=unet, scheduler=EulerDiscreteScheduler(), **parts)
    return pipe, {}


def run_pipeline(pipe: Any, options: dict[str, Any], seed: int) -> Tensor:  # [1, 3, 128, 128]
    generator = torch.Generator().manual_seed(seed)
    embeds = {
        name: torch.randn(1, *shape, generator=generator)
        for name, shape in (
            ("prompt_embeds", (TOKENS, 24)),
            ("negative_prompt_embeds", (TOKENS, 24)),
            ("pooled_prompt_embeds", (16,)),
            ("negative_pooled_prompt_embeds", (16,)),
        )
    }
    image = torch.rand(1, 3, 128, 128, generator=generator)
    steps = {"num_inference_steps": 4, "strength": 0.5, "guidance_scale": 3.0}
    return pipe(image=image, **embeds, **options, **steps, generator=generator, output_type="pt").images


@pytest.mark.parametrize(
    ("build", "unet"), [(inpainting, sdxl_inpainting), (inpainting, sdxl_base), (img2img, sdxl_base)]
)
def test_a_whole_pipeline_with_everything_active_equals_the_dense_pipeline(
    build: Callable[..., tuple[Any, dict[str, Any]]], unet: Callable[[], UNet2DConditionModel]
) -> None:
    """Stock diffusers pipelines run unchanged: guidance, scheduler, encoder and decoder."""
    # The pipeline scales down by as many levels as the VAE has; SDXL's micro-conditioning is six numbers wide.
    pipe, options = build(unet(), vae())
    pipe.set_progress_bar_config(disable=True)
    dense = run_pipeline(pipe, options, 1)
    handle = sige.enable(pipe)
    assert sige.enable(pipe) is handle
    assert list(handle.components) == ["unet", "vae.encoder", "vae.decoder"]
    with handle.record() as recording:
        run_pipeline(pipe, options, 2)
    assert set(recording.components) == set(handle.components)
    with handle.edit(Region.full(128, 128)), OpCounter() as counter:
        out = run_pipeline(pipe, options, 1)
    assert counter.ran
    handle.disable()
    assert torch.equal(run_pipeline(pipe, options, 1), dense)
    # Pixels are clamped to 0 .. 1, and the errors of a few passes add up.
    assert (out - dense).abs().max() < 1e-4


def test_enabling_a_pipeline_and_then_its_unet_is_enabling_once() -> None:
    pipe, _ = img2img(sdxl_base(), vae())
    handle = sige.enable(pipe)
    try:
        assert sige.enable(pipe.unet).components["unet"] is handle.components["unet"]
        sige.enable(pipe.unet).disable()
        assert handle.enabled is bool(wrapped(pipe.unet)), "the pipeline's handle is enabled, its UNet is not"
    finally:
        handle.disable()


def test_a_part_of_a_recording_can_be_taken_to_another() -> None:
    """A recording is a plain container: components recorded at different times can be put together."""
    model = vae()
    z, image = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 64, 64)
    with torch.no_grad(), sige.enable(model) as handle:
        with handle.record() as decoded:
            model.decode(z)
        with handle.record() as encoded:
            model.encode(image)
        both = Recording({**decoded.components, **encoded.components})
        assert all(isinstance(part, ComponentRecording) for part in both.components.values())
        assert both.nbytes == decoded.nbytes + encoded.nbytes
        with handle.edit(Region.empty(64, 64), blend=[(both, 1.0)]):
            assert torch.equal(model.decode(z).sample, decoded.components["vae.decoder"].output)
            model.encode(image)
