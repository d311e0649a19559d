"""record() and edit(): the calls that they refuse, and the state after an exception."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import sige
from sige import RecordingError, Region, RegionError
from tests.models.state import fresh, hooks, snapshot, unchanged, wrapped
from tests.models.test_properties import RELATIVE_ERROR, OpCounter, relative_error
from tests.models.tiny import every_case, make_case, vae


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
    """An exception of the user's code."""


def test_an_exception_while_recording_leaves_nothing_behind() -> None:
    made = fresh("sdxl-base")
    x, edited = made.input(1), made.input(2)
    with sige.enable(made.model) as handle:
        taps = hooks(made.model)
        with handle.record() as kept:
            made.call(x)
        with pytest.raises(StopError), handle.record() as failed:
            made.call(edited)
            raise StopError
        assert failed.nbytes == 0 and failed.components == {} and hooks(made.model) == taps
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
        taps = hooks(made.model)
        removable = made.model.mid_block.resnets[1].time_emb_proj.register_forward_pre_hook(stop)
        with pytest.raises(StopError), handle.record() as recording:
            made.call(x)
        removable.remove()
        assert recording.components == {} and hooks(made.model) == taps and handle.last is None
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
    assert handle.last is None
    assert wrapped(made.model) == [] and hooks(made.model) == 0


@pytest.mark.parametrize("mask", [torch.ones(128, 128), "everything", None], ids=["tensor", "text", "none"])
def test_what_is_no_region_is_refused(mask: Any) -> None:
    made = make_case("sdxl-base")
    with sige.enable(made.model) as handle:
        with handle.record():
            made.call(made.input(1))
        with pytest.raises(RegionError, match=r"edit: got .*, expected a sige.Region: make one with"):
            with handle.edit(mask):
                pass
        with handle.edit(made.full()):  # the handle still works
            made.call(made.input(1))


@every_case
def test_a_region_of_an_image_of_another_shape_is_refused(case: str) -> None:
    made = make_case(case)
    height, width = made.image_size
    with sige.enable(made.model) as handle:
        with handle.record():
            made.call(made.input(1))
        for other in (Region.full(height, 2 * width), Region.empty(2 * height, width)):
            with handle.edit(other), pytest.raises(RegionError, match="which is of another shape"):
                made.call(made.input(1))
        for same in (Region.full(2 * height, 2 * width), Region.full(height, width), Region.full(*made.size)):
            with handle.edit(same):
                made.call(made.input(1))
