"""Recordings: their content, the devices and dtypes they can go to, and that no other code can write into them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sige
from sige import Recording, RecordingError, Region
from tests.models.devices import every_device
from tests.models.state import fresh, snapshot, tensors, unchanged
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import CASES, TOKENS, Case, every_case, make_case


class Reads(dict[str, Tensor]):
    """A dict that keeps the keys that were read."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Tensor:
        self.read.add(key)
        return super().__getitem__(key)


@every_device
@every_case
def test_a_recording_holds_what_a_packed_pass_reads_and_no_more(case: str) -> None:
    """It holds rows without gaps, sums in fp64 and one output, and a packed pass reads each of them."""
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


@every_device
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


@every_device
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


@every_device
def test_recordings_live_on_their_own() -> None:
    """Later recordings do not change earlier ones, and all outlive the handle that made them."""
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


@every_device
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
    """Writes into every tensor that the user holds: the input, the outputs of the recorded and of the packed pass."""
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


@every_device
@every_case
def test_writing_into_inputs_and_outputs_does_not_reach_the_recording(case: str) -> None:
    assert unchanged(*mutate_after_recording(make_case(case), torch.contiguous_format))


@every_device
@pytest.mark.parametrize("case", [name for name in CASES if name != "vae-decoder"])  # decode() convolves it first
def test_writing_into_channels_last_inputs_does_not_reach_the_recording(case: str) -> None:
    assert unchanged(*mutate_after_recording(make_case(case), torch.channels_last))
