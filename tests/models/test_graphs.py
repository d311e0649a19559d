"""Graphs: programs whose tensors stay where they are. Here a capture runs the same lines again on the same buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import sige
from sige import ConfigError, Recording, Region
from sige.packed.prompt import PromptKeys
from sige.passes import Packing
from sige.programs import shelf
from sige.programs.replay import Body, Capture, Replay
from sige.recordings import Blend, Patch
from tests.models.call import Call
from tests.models.devices import every_device, on_a_gpu
from tests.models.emulator import Emulator, by_padded_layers
from tests.models.state import fresh
from tests.models.test_programs import Weights, attachment, every_blend, every_choice, layer_by_layer, record
from tests.models.tiny import Case, every_case, sd15


def the_graph(case: Case) -> Replay:
    (graph,) = attachment(case).programs.graphs
    return graph


def addresses(graph: Replay) -> dict[int, int]:
    return {slot: buffer.data_ptr() for slot, buffer in graph.buffers.items()}


# ---- the same bits --------------------------------------------------------------------------------------------------


@every_device
@every_case
@every_blend
@every_choice
def test_a_graph_returns_what_the_layers_return_bit_for_bit(
    case: str, weights: Weights, exact: bool, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fresh(case)
    region, batch = made.rectangle(2, 3, 4, 3), 2
    with sige.enable(made.model) as handle:
        recordings = record(made, handle, (1, 2, 3), batch)
        blend = list(zip(recordings, weights, strict=False))
        with handle.edit(region, blend=blend, exact_statistics=exact):
            inputs = [made.input(seed, batch) for seed in (4, 5, 6, 7, 8)]
            expected = [by_padded_layers(monkeypatch, lambda x=x: made.call(x)) for x in inputs]  # type: ignore[misc]
            got = [made.call(x) for x in inputs]
        assert len(attachment(made).programs.graphs) == 1, attachment(made).programs.why_no_graph
    assert (emulator.captured, emulator.replayed) == (1, 3)
    assert all(map(torch.equal, got, expected))
    assert not torch.equal(got[3], got[4])


@on_a_gpu
@every_case
@every_blend
@every_choice
def test_a_cuda_graph_returns_what_the_layers_return_bit_for_bit(
    case: str, weights: Weights, exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGE_PROGRAMS", "1")
    made = fresh(case)
    batch, places = 2, (made.rectangle(2, 3, 4, 3), made.rectangle(2, 2, 4, 3))
    with sige.enable(made.model) as handle:
        recordings = record(made, handle, (1, 2, 3), batch)
        blend = list(zip(recordings, weights, strict=False))
        for region in places:
            with handle.edit(region, blend=blend, exact_statistics=exact):
                inputs = [made.input(seed, batch) for seed in (4, 5, 6, 7, 8)]
                expected = [by_padded_layers(monkeypatch, lambda x=x: made.call(x)) for x in inputs]  # type: ignore[misc]
                got = [made.call(x) for x in inputs]
            assert all(map(torch.equal, got, expected))
        assert attachment(made).programs.graphs, attachment(made).programs.why_no_graph


@every_device
def test_other_recordings_weights_and_regions_move_no_tensor(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fresh("sdxl-base")
    x = made.input(9)
    with sige.enable(made.model) as handle:
        first, second, third = record(made, handle, (1, 2, 3))

        def edit(region: Region, *terms: tuple[Recording, float]) -> Tensor:
            with handle.edit(region, blend=list(terms)):
                return made.call(x)

        here, there = made.rectangle(4, 4, 4, 4), made.rectangle(8, 4, 4, 4)
        for _ in range(3):
            edit(here, (first, 1.25), (second, -0.25))
        graph = the_graph(made)
        before = addresses(graph)
        cases: list[Any] = [
            (there, (first, 1.25), (second, -0.25)),
            (here, (third, 0.5), (second, 0.5)),
            (there, (second, 2.0), (second, -1.0)),  # one recording twice
        ]
        got = [edit(*case) for case in cases]
        assert the_graph(made) is graph
        assert addresses(graph) == before
        assert emulator.captured == 1
        expected = [by_padded_layers(monkeypatch, lambda case=case: edit(*case)) for case in cases]  # type: ignore[misc]
    assert all(map(torch.equal, got, expected))


def test_graphs_that_take_turns_on_one_arena_read_their_own_recordings(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy's passes read one recording, then two, then the first again, all in one context."""
    made = fresh("sd15")
    x = made.input(9)
    with sige.enable(made.model) as handle:
        first, second = record(made, handle, (1, 2))
        packing = Packing(made.rectangle(2, 3, 4, 3), True, PromptKeys())
        alone, both = Blend.of([(first, 1.0)]), Blend.of([(second, 1.25), (first, -0.25)])
        turns = [alone] * 3 + [both] * 3 + [alone, both, alone]
        read = iter([*turns, alone, both])
        with handle._claimed("edit", handle.attachments, lambda call: packing.packed(call, next(read))):
            got = [made.call(x) for _ in turns]
            assert len(attachment(made).programs.graphs) == 2
            expected = [by_padded_layers(monkeypatch, lambda: made.call(x)) for _ in (alone, both)]
    assert all(torch.equal(output, expected[blend is both]) for output, blend in zip(got, turns, strict=True))


class Calls(TorchDispatchMode):
    """Each op that is called, with the arguments that a CUDA graph would keep: all that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kept = [_kept(value) for value in (*args, *(kwargs or {}).values())]
        self.calls.append(f"{func}({', '.join(kept)})")
        return func(*args, **(kwargs or {}))


def _kept(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype}{tuple(value.shape)}{value.stride()}"
    return str([_kept(one) for one in value]) if isinstance(value, list) else repr(value)


@every_device
@every_blend
def test_two_steps_call_the_same_ops_with_the_same_numbers(
    weights: Weights, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A CUDA graph keeps every number that the host passes to a kernel, so no number may differ from step to step."""
    made = fresh("sdxl-base")
    steps: list[list[str]] = []

    def logged(body: Body) -> tuple[list[Tensor], Callable[[], None]]:
        results, again = emulator(body)

        def again_logged() -> None:
            with Calls() as calls:
                again()
            steps.append(calls.calls)

        return results, again_logged

    monkeypatch.setattr(shelf, "captures", lambda sample: lambda: logged)
    with sige.enable(made.model) as handle:
        recordings = record(made, handle, (1, 2, 3))
        regions = made.rectangle(4, 4, 4, 4), made.rectangle(8, 4, 4, 4)
        others = (1.0,) if len(weights) == 1 else (0.5, 0.25, 0.25)
        for k, blend in enumerate((weights, weights, weights, others)):
            with handle.edit(regions[k % 2], blend=list(zip(recordings, blend, strict=False))):
                made.call(made.input(k))
    assert len(steps) == 2
    assert len(steps[0]) > 100
    assert steps[0] == steps[1]


# ---- what a graph reads ---------------------------------------------------------------------------------------------


@every_device
def test_another_prompt_another_time_and_other_residuals_are_read(
    device: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Call(sd15())
    shapes = [(16, 16, 16)] * 3 + [(16, 8, 8)] + [(32, 8, 8)] * 2 + [(32, 4, 4)] * 3 + [(32, 2, 2)] * 3 + [(32, 2, 2)]
    region = Region.from_mask(torch.eye(128), dilation=0)

    def run(step: int, seed: int) -> Tensor:
        torch.manual_seed(seed)
        text = torch.randn_like(made.arguments["encoder_hidden_states"])
        residuals = [torch.randn(2, *shape, device=device) for shape in shapes]
        controls = {"down_block_additional_residuals": residuals[:-1], "mid_block_additional_residual": residuals[-1]}
        return made.unet(made.x, step, text, **controls).sample  # type: ignore[no-any-return]

    with torch.no_grad(), sige.enable(made.unet) as handle:
        with handle.record():
            made.unet(made.x, 5, made.arguments["encoder_hidden_states"])
        with handle.edit(region):
            cases = [(5, 1), (5, 1), (5, 1), (700, 2), (30, 3)]
            got = [run(*case) for case in cases]
            assert emulator.replayed == 3
            expected = [by_padded_layers(monkeypatch, lambda case=case: run(*case)) for case in cases]  # type: ignore[misc]
    assert all(map(torch.equal, got, expected))
    assert not torch.equal(got[3], got[4])


@every_device
def test_new_rows_of_a_patch_are_the_callers_own(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    made = fresh("sd15")
    region = made.rectangle(2, 3, 4, 3)
    with sige.enable(made.model) as handle:
        record(made, handle, (1,))

        def run(seed: int) -> Patch:
            patch = Patch(region)
            with handle.edit(region, patch=patch):
                made.call(made.input(seed))
            return patch

        got = [run(seed) for seed in (2, 3, 4, 5)]
        assert emulator.replayed == 2
        expected = [layer_by_layer(monkeypatch, lambda seed=seed: run(seed)) for seed in (2, 3, 4, 5)]  # type: ignore[misc]
    for ours, theirs in zip(got, expected, strict=True):
        assert ours.rows.keys() == theirs.rows.keys()
        assert all(torch.equal(rows, theirs.rows[key]) for key, rows in ours.rows.items())


@every_device
def test_a_recording_that_was_written_to_between_edits_is_read_anew(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fresh("sd15")
    region, x = made.rectangle(2, 3, 4, 3), made.input(2)
    with sige.enable(made.model) as handle:
        (recording,) = record(made, handle, (1,))

        def edit() -> Tensor:
            with handle.edit(region):
                return made.call(x)

        before = [edit() for _ in range(3)][-1]
        for rows in recording.components["unet"].rows.values():
            rows.mul_(1.25)
        after = edit()
        assert emulator.replayed == 2
        assert torch.equal(after, by_padded_layers(monkeypatch, edit))
    assert not torch.equal(before, after)


def test_what_cannot_be_captured_runs_as_a_program_and_says_why(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(body: Body) -> tuple[list[Tensor], Callable[[], None]]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(shelf, "captures", lambda sample: lambda: refuse)
    made = fresh("sd15")
    with sige.enable(made.model) as handle:
        record(made, handle, (1,))
        with handle.edit(made.rectangle(2, 3, 4, 3)):
            outputs = [made.call(made.input(2)) for _ in range(4)]
            programs = attachment(made).programs
            assert "not permitted" in programs.why_no_graph
            assert (len(programs.programs), programs.graphs) == (1, [])
            padded = by_padded_layers(monkeypatch, lambda: made.call(made.input(2)))
            plain = layer_by_layer(monkeypatch, lambda: made.call(made.input(2)))
    expected = [padded, padded, padded, plain]  # padding ends with the hope for a graph
    assert all(map(torch.equal, outputs, expected))


def test_changed_modules_end_a_graph_and_free_what_it_held(emulator: Emulator) -> None:
    made = fresh("sd15")
    with sige.enable(made.model) as handle:
        record(made, handle, (1,))
        with handle.edit(made.rectangle(2, 3, 4, 3)):
            for _ in range(3):
                made.call(made.input(2))
            programs = attachment(made).programs
            assert programs.nbytes > 0
            made.module.conv_out.register_forward_hook(lambda *_: None)
            with pytest.raises(sige.UnsupportedError):
                made.call(made.input(2))
            assert (programs.graphs, programs.nbytes) == ([], 0)


@every_device
def test_the_last_eight_graphs_are_kept_and_regions_share_what_was_recorded(emulator: Emulator) -> None:
    made = fresh("sd15")
    sizes: list[int] = []
    with sige.enable(made.model) as handle:
        record(made, handle, (1,))
        programs = attachment(made).programs
        for height in range(1, 11):
            with handle.edit(made.rectangle(0, 0, height, 9)):
                outputs = [made.call(made.input(2)) for _ in range(4)]
            assert torch.equal(outputs[0], outputs[3])
            sizes.append(programs.nbytes)
        assert len(programs.graphs) == 8
    assert set(sizes) == {sizes[0]}


def test_all_graphs_of_a_component_share_one_capture_and_its_memory(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_captures: list[int] = []

    def new_capture() -> Capture:
        made_captures.append(emulator.captured)
        return emulator

    monkeypatch.setattr(shelf, "captures", lambda sample: new_capture)
    made = fresh("sd15")
    with sige.enable(made.model) as handle:
        record(made, handle, (1,))
        for height in (2, 9):
            with handle.edit(made.rectangle(0, 0, height, 9)):
                for _ in range(3):
                    made.call(made.input(2))
        assert (emulator.captured, made_captures) == (2, [0])
        attachment(made).programs.forget_graphs()
        with handle.edit(made.rectangle(0, 0, 2, 9)):
            made.call(made.input(2))
    assert made_captures == [0, 2]


def test_a_wrong_setting_costs_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGE_GRAPH", "yes")
    with pytest.raises(ConfigError, match="SIGE_GRAPH: got 'yes', expected auto, or 0 for never"):
        shelf.captures(torch.zeros(1))


def test_nothing_is_captured_on_the_cpu() -> None:
    assert shelf.captures(torch.zeros(1)) is None
