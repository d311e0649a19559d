"""enable and disable: they can be repeated, disabling restores every bit, and other libraries' changes stay."""

from __future__ import annotations

import copy
import functools
import gc
import weakref
from typing import Any

import pytest
import torch
from torch import nn

import sige
from sige import RecordingError, Region, UnsupportedError
from tests.models.state import fresh, hooks, strides, tensors, wrapped
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import TOKENS, every_case, make_case, sd15, sdxl_base, vae


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
        taps = hooks(made.model)
        dense = made.call(x)
        with handle.record():
            recorded = made.call(x)
        assert hooks(made.model) == taps
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
    """The call takes positional and keyword arguments, with and without return_dict, as diffusers' own forward does."""
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
    """Accelerate replaces it to offload a model to the host."""
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
        assert hooks(twin) == 0 < hooks(made.model)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.zero_()
            out = twin(made.input(1), 5, torch.ones(1, TOKENS, 24)).sample
    assert out.abs().max() == 0


def test_a_forward_that_another_library_wraps_afterwards_stays_and_works() -> None:
    model, calls = sdxl_base(), []
    handle = sige.enable(model)
    ours = model.forward

    def counting(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return ours(*args, **kwargs)

    model.forward = counting
    handle.disable()
    assert model.forward is counting
    cond = {"text_embeds": torch.ones(1, 16), "time_ids": torch.ones(1, 6)}
    with torch.no_grad():
        out = model(torch.ones(1, 4, 16, 16), 5, torch.ones(1, TOKENS, 24), added_cond_kwargs=cond).sample
    assert calls and out.isfinite().all()
