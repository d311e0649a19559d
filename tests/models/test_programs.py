"""Programs: packed passes that are traced once and run again, bit for bit as the layers would."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sige
from sige import ConfigError, Recording, Region
from sige.attach import Attachment, attached
from sige.packed.conv import PackedConv
from sige.packed.features import PackedPass
from sige.packed.layout import Layout
from sige.programs import Program, Programs
from sige.programs.arguments import as_tensors
from sige.programs.shelf import PAYS_AFTER
from sige.recordings import BlendedComponent, ComponentRecording, Patch
from tests.models.call import Call
from tests.models.devices import every_device
from tests.models.state import fresh
from tests.models.test_properties import RELATIVE_ERROR, relative_error
from tests.models.tiny import TOKENS, Case, every_case, sd15

Weights = Sequence[float]
every_blend = pytest.mark.parametrize("weights", [(1.0,), (3.0, -3.0, 1.0)], ids=["one", "three"])
every_choice = pytest.mark.parametrize("exact", [True, False], ids=["exact", "frozen"])


@pytest.fixture(autouse=True)
def after_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traces the second pass of a kind, so that the third is a program."""
    monkeypatch.setenv("SIGE_PROGRAMS", "1")


def attachment(case: Case) -> Attachment:
    found = attached(case.module)
    assert found is not None
    return found


def record(case: Case, handle: sige.Handle, seeds: Sequence[int], batch: int = 1) -> list[Recording]:
    made = []
    for seed in seeds:
        with handle.record() as recording:
            case.call(case.input(seed, batch))
        made.append(recording)
    return made


def layer_by_layer(monkeypatch: pytest.MonkeyPatch, run: Callable[[], Tensor]) -> Tensor:
    """The result without programs."""
    with monkeypatch.context() as changed:
        changed.setenv("SIGE_PROGRAMS", "0")
        return run()


# ---- the same bits --------------------------------------------------------------------------------------------------


@every_device
@every_case
@every_blend
@every_choice
def test_a_program_returns_what_the_layers_return_bit_for_bit(
    case: str, weights: Weights, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fresh(case)
    region, batch = made.rectangle(2, 3, 4, 3), 2
    with sige.enable(made.model) as handle:
        recordings = record(made, handle, (1, 2, 3), batch)
        blend = list(zip(recordings, weights, strict=False))
        with handle.edit(region, blend=blend, exact_statistics=exact):
            inputs = [made.input(seed, batch) for seed in (4, 5, 6, 7)]
            expected = [layer_by_layer(monkeypatch, lambda x=x: made.call(x)) for x in inputs]  # type: ignore[misc]
            assert not attachment(made).programs.programs
            got = [made.call(x) for x in inputs]
        programs = attachment(made).programs
        assert len(programs.programs) == 1, programs.why_not
    assert all(map(torch.equal, got, expected))
    assert not torch.equal(got[2], got[3])


@every_device
def test_a_program_serves_other_recordings_other_weights_of_a_blend_and_another_region_of_its_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = fresh("sdxl-base")
    x = made.input(9)
    with sige.enable(made.model) as handle:
        first, second, third = record(made, handle, (1, 2, 3))

        def edit(region: Region, *terms: tuple[Recording, float]) -> Tensor:
            with handle.edit(region, blend=list(terms)):
                return made.call(x)

        here, there = made.rectangle(4, 4, 4, 4), made.rectangle(8, 4, 4, 4)
        for _ in range(2):
            edit(here, (first, 1.25), (second, -0.25))
        (program,) = attachment(made).programs.programs
        monkeypatch.setattr(PackedConv, "__call__", None)  # a layer that is called fails
        cases: list[Any] = [
            (there, (first, 1.25), (second, -0.25)),
            (here, (third, 0.5), (second, 0.5)),
            (there, (second, 2.0), (second, -1.0)),  # one recording twice
        ]
        by_program = [edit(*case) for case in cases]
        assert attachment(made).programs.programs == [program]
        monkeypatch.undo()
        expected = [layer_by_layer(monkeypatch, lambda case=case: edit(*case)) for case in cases]  # type: ignore[misc]
    assert all(map(torch.equal, by_program, expected))


@every_device
def test_a_region_of_another_shape_gets_a_program_of_its_own_and_the_last_eight_are_kept() -> None:
    made = fresh("sd15")
    with sige.enable(made.model) as handle:
        record(made, handle, (1,))
        for height in range(1, 11):
            with handle.edit(made.rectangle(0, 0, height, 9)):
                outputs = [made.call(made.input(2)) for _ in range(3)]
            assert torch.equal(outputs[0], outputs[2])
        assert len(attachment(made).programs.programs) == 8


@every_device
def test_one_tensor_passed_as_two_arguments_is_two_arguments_of_the_program(device: str) -> None:
    made = Call(sd15())
    text = made.arguments["encoder_hidden_states"]

    def residuals(*values: Tensor) -> dict[str, Any]:
        return {"down_block_additional_residuals": list(values[:-1]), "mid_block_additional_residual": values[-1]}

    shapes = [(16, 16, 16)] * 3 + [(16, 8, 8)] + [(32, 8, 8)] * 2 + [(32, 4, 4)] * 3 + [(32, 2, 2)] * 3 + [(32, 2, 2)]
    same = {shape: torch.randn(2, *shape, device=device) for shape in shapes}
    region = Region.from_mask(torch.eye(128), dilation=0)
    with torch.no_grad(), sige.enable(made.unet) as handle:
        with handle.record():
            made.unet(made.x, 5, text)
        with handle.edit(region):
            for _ in range(3):
                made.unet(made.edited, 5, text, **residuals(*(same[shape] for shape in shapes)))
            values = [torch.randn(2, *shape, device=device) for shape in shapes]
            by_program = made.unet(made.edited, 5, text, **residuals(*values)).sample
        found = attached(made.unet)
        assert found is not None and len(found.programs.programs) == 1, found and found.programs.why_not
        found.programs.clear()
        with handle.edit(region):
            assert torch.equal(made.unet(made.edited, 5, text, **residuals(*values)).sample, by_program)


@every_device
def test_a_program_reads_the_time_of_the_call_also_where_it_is_a_number() -> None:
    made = Call(sd15())
    text = made.arguments["encoder_hidden_states"]
    with torch.no_grad(), sige.enable(made.unet) as handle:
        with handle.record():
            made.unet(made.x, 5, text)
        for kind in (int, float, torch.tensor):
            with handle.edit(Region.from_mask(torch.eye(128), dilation=0)):
                before = [made.unet(made.edited, kind(5), text).sample for _ in range(3)]
                later = made.unet(made.edited, kind(700), text).sample
            found = attached(made.unet)
            assert found is not None and found.programs.programs
            found.programs.clear()
            with handle.edit(Region.from_mask(torch.eye(128), dilation=0)):
                assert torch.equal(made.unet(made.edited, kind(700), text).sample, later)
            assert not torch.equal(before[2], later)


@every_device
def test_another_prompt_is_projected_anew(device: str) -> None:
    made = Call(sd15())
    texts = [torch.randn(2, TOKENS, 24, device=device) for _ in range(2)]
    region = Region.from_mask(torch.eye(128), dilation=0)
    with torch.no_grad(), sige.enable(made.unet) as handle:
        with handle.record():
            made.unet(made.x, 5, texts[0])
        with handle.edit(region):
            first = [made.unet(made.edited, 5, texts[0]).sample for _ in range(3)][-1]
            second = made.unet(made.edited, 5, texts[1]).sample
            texts[1].mul_(2)
            third = made.unet(made.edited, 5, texts[1]).sample
        found = attached(made.unet)
        assert found is not None and len(found.programs.programs) == 1
        found.programs.clear()
        with handle.edit(region):
            assert torch.equal(made.unet(made.edited, 5, texts[1]).sample, third)
    assert not torch.equal(first, second) and not torch.equal(second, third)


@every_device
def test_a_program_leaves_the_new_rows_of_every_layer_in_a_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fresh("sdxl-base")
    region, x = made.rectangle(4, 4, 4, 4), made.input(2)

    def patched() -> Patch:
        patch = Patch(region)
        with handle.edit(region, patch=patch):
            made.call(x)
        return patch

    with sige.enable(made.model) as handle:
        record(made, handle, (1,))
        expected = Patch(region)
        with monkeypatch.context() as changed:
            changed.setenv("SIGE_PROGRAMS", "0")
            expected = patched()
        traced, run = [patched() for _ in range(3)][1:]
        assert len(attachment(made).programs.programs) == 1
    for patch in (traced, run):
        assert patch.rows.keys() == expected.rows.keys()
        assert all(torch.equal(rows, expected.rows[key]) for key, rows in patch.rows.items())


# ---- what ends a program --------------------------------------------------------------------------------------------


def halve_in_place(unet: nn.Module) -> None:
    with torch.no_grad():
        unet.conv_in.weight.mul_(0.5)


def replace_parameter(unet: nn.Module) -> None:
    unet.conv_in.weight = nn.Parameter(unet.conv_in.weight.detach() * 0.5)


def replace_data(unet: nn.Module) -> None:
    unet.conv_in.weight.data = unet.conv_in.weight.data * 0.5


def write_to_data(unet: nn.Module) -> None:
    unet.conv_in.weight.data.mul_(0.5)


@every_device
@pytest.mark.parametrize("change", [halve_in_place, replace_parameter, replace_data, write_to_data])
def test_changed_weights_are_read(change: Callable[[nn.Module], None], monkeypatch: pytest.MonkeyPatch) -> None:
    made = fresh("sdxl-base")
    x = made.input(2)
    with sige.enable(made.model) as handle:
        record(made, handle, (1,))
        with handle.edit(made.rectangle(4, 4, 4, 4)):
            before = [made.call(x) for _ in range(3)][-1]
            change(made.module)
            after = [made.call(x) for _ in range(3)]
            expected = layer_by_layer(monkeypatch, lambda: made.call(x))
    assert all(torch.equal(one, expected) for one in after) and not torch.equal(before, expected)


def test_a_lora_that_comes_changes_its_weight_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.models.test_lora import add_lora  # needs peft, which the other tests here do not

    made = fresh("sdxl-base")
    x, results = made.input(2), []
    with sige.enable(made.model) as handle:
        record(made, handle, (1,))

        def check() -> None:
            with handle.edit(made.rectangle(4, 4, 4, 4)):
                got = [made.call(x) for _ in range(3)]
                expected = layer_by_layer(monkeypatch, lambda: made.call(x))
            assert all(torch.equal(one, expected) for one in got)
            assert len(attachment(made).programs.programs) == 1, attachment(made).programs.why_not
            results.append(expected)

        check()
        add_lora(made.model, ["to_q", "to_v"])
        check()
        made.model.set_adapters(["default"], [0.25])
        check()
        made.model.delete_adapters("default")
        check()
    assert relative_error(results[3], results[0]) <= RELATIVE_ERROR  # peft's own product, which rounds otherwise
    assert not torch.equal(results[0], results[1]) and not torch.equal(results[1], results[2])


def test_a_hook_runs_in_every_pass_and_the_reason_can_be_read() -> None:
    made, ran = fresh("sdxl-base"), []
    layer = next(module for name, module in made.module.named_modules() if name.endswith("attn1.to_q"))
    layer.register_forward_hook(lambda *_: ran.append(1))
    with sige.enable(made.model) as handle:
        record(made, handle, (1,))
        ran.clear()
        with handle.edit(made.rectangle(4, 4, 4, 4)):
            for _ in range(4):
                made.call(made.input(2))
        assert len(ran) == 4 and not attachment(made).programs.programs
        assert "hook" in handle.programs["unet"].why_not


class Layers(nn.Module):
    """Stands in for a component whose pass does what `act` does to the rows."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act
        self.weight = nn.Parameter(torch.ones(4))


def packed_pass() -> PackedPass:
    """A pass over nothing, for functions that read only their arguments."""
    empty = BlendedComponent("unet", ((ComponentRecording(), 1.0),))
    return PackedPass(Layout(Region.full(8, 8), torch.device("cpu")), empty)


HIDDEN = torch.ones(2)
ACTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "random": (lambda rows: rows + torch.rand_like(rows), "random"),
    "number": (lambda rows: rows * float(rows.sum()), "number"),
    "hidden": (lambda rows: rows + HIDDEN, "no argument, no weight"),
    "input": (lambda rows: rows.mul_(2), "writes to an input"),
    "returned": (lambda rows: rows, "returns one of its inputs"),
}


@pytest.mark.parametrize("name", ACTS)
def test_what_cannot_be_traced_runs_layer_by_layer_and_says_why(name: str) -> None:
    act, why = ACTS[name]
    programs, seen, sample = Programs(), packed_pass(), torch.ones(1, 4, 2, 2)
    for run in range(3):
        out = programs.run(lambda given, _: act(given["sample"]), Layers(act), {"sample": sample}, seen)
        assert isinstance(out, Tensor) and not programs.programs
        assert (why in programs.why_not) == (run > 0), programs.why_not
    programs.clear()
    assert programs.why_not == ""


def test_what_is_computed_from_a_weight_is_computed_at_each_run() -> None:
    programs, seen = Programs(), packed_pass()
    layers = Layers(lambda rows: rows)
    sample = torch.ones(1, 4, 2, 4)

    def packed(given: dict[str, Any], _: PackedPass) -> Tensor:
        return given["sample"] * (layers.weight.detach().t() * 2 + 1)

    for value in (1.0, 2.0, 3.0, 4.0):
        layers.weight.data.fill_(value)  # PyTorch does not count such a write
        out = programs.run(packed, layers, {"sample": sample}, seen)
        assert torch.equal(out, sample * (value * 2 + 1))
    assert len(programs.programs) == 1


# ---- memory and switches --------------------------------------------------------------------------------------------


def test_a_program_keeps_nothing_that_a_pass_computed() -> None:
    made = fresh("vae-decoder")
    with sige.enable(made.model) as handle:
        record(made, handle, (1,))
        with handle.edit(made.rectangle(2, 2, 3, 3)):
            outputs = [made.call(made.input(2)) for _ in range(3)]
            (program,) = attachment(made).programs.programs
        alive = [weakref.ref(output) for output in outputs]
        handle.last = None
        outputs.clear()
        assert not any(ref() is not None for ref in alive)
        own = {parameter.untyped_storage().data_ptr() for parameter in made.model.parameters()}
        held = [value for value in program.slots if isinstance(value, Tensor)]
        others = [value for value in held if value.untyped_storage().data_ptr() not in own]
        assert held and sum(value.nbytes for value in others) < 20_000
    lines = program.source.splitlines()
    assert len(lines) == len(program.lines) and "sige::sparse_conv2d(" in lines[-1] and "None" in lines[-1]
    filled, forgotten = ({slot for some in slots for slot in some} for slots in (
        [line.fills for line in program.lines], program.forgets))  # fmt: skip
    assert forgotten == filled - {program.returned}


def test_programs_can_be_switched_off_and_end_with_the_handle(monkeypatch: pytest.MonkeyPatch) -> None:
    made = fresh("sd15")
    monkeypatch.setenv("SIGE_PROGRAMS", "0")
    with sige.enable(made.model) as handle:
        record(made, handle, (1,))
        with handle.edit(made.full()):
            for _ in range(3):
                made.call(made.input(2))
        kept = attachment(made).programs
        assert not kept.programs and not kept.why_not
        monkeypatch.setenv("SIGE_PROGRAMS", "yes")
        with handle.edit(made.full()), pytest.raises(ConfigError, match="SIGE_PROGRAMS: got 'yes', expected auto, 0"):
            made.call(made.input(2))
        monkeypatch.delenv("SIGE_PROGRAMS")
        with handle.edit(made.full()):
            for run in range(PAYS_AFTER + 2):
                made.call(made.input(2))
                assert len(kept.programs) == (run >= PAYS_AFTER)
        assert [type(program) for program in kept.programs] == [Program]
    assert not kept.programs


@pytest.mark.parametrize("step", [5, 5.0, torch.tensor(5), torch.tensor([5.0, 6.0])])
def test_a_timestep_is_a_tensor_on_the_device_of_the_sample(step: Any) -> None:
    got = as_tensors({"sample": torch.zeros(1, device="meta"), "timestep": step})["timestep"]
    assert (got.device.type, got.dtype.is_floating_point) == ("meta", torch.as_tensor(step).is_floating_point())
