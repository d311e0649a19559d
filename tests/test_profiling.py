"""Profiling: the counter against torchprofile and the published figures, the measurements, the command line."""

from __future__ import annotations

import doctest
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchprofile import profile_macs
from torchprofile.handlers import HANDLER_MAP

import sige
from sige import Region
from sige.ops import registry
from sige.profiling import (
    COUNTED,
    Candidate,
    ProfilingError,
    Subject,
    build,
    count_macs,
    count_passes,
    interleaved,
    latency,
    measure_latency,
    measure_macs,
    peak_bytes,
)
from sige.profiling import compare as measure_module
from sige.profiling import macs as macs_module
from sige.profiling.__main__ import main

SIZE = (64, 96)
NARROW_UNET = {"block_out_channels": [32, 64, 64], "attention_head_dim": [2, 4, 4], "cross_attention_dim": 32}
NARROW: dict[str, dict[str, Any]] = {
    "sdxl-base": NARROW_UNET | {"transformer_layers_per_block": [1, 1, 2]},
    "vae-encoder": {"block_out_channels": [32, 32, 64, 64]},
    "vae-decoder": {"block_out_channels": [32, 32, 64, 64]},
}
PUBLISHED = {"sdxl-base": 3015.82, "sdxl-refiner": 3058.80, "vae-encoder": 1083.27, "vae-decoder": 2481.99}
WITH_ATTENTION = {"sdxl-base": 3218.98, "sdxl-refiner": 3363.03, "vae-encoder": 1151.02, "vae-decoder": 2548.88}
RECTANGLE = ["--rect", "280", "590", "190", "320"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Sets one thread: more do not help small layers, and cost much on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def narrow(name: str, device: str = "cpu") -> Subject:
    return build(name, SIZE, device=device, changes=NARROW[name])


def rectangle(top: int, left: int, height: int, width: int, size: tuple[int, int] = SIZE) -> Region:
    mask = np.zeros(size, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return Region.from_mask(mask)


# ---- the counter ---------------------------------------------------------------------------------------------------


class Positional(nn.Module):
    """The model with positional arguments and a tensor as output: torchprofile traces nothing else."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.subject, self.module = subject, subject.module

    def forward(self, sample: Tensor) -> Tensor:
        output = self.module(sample, **self.subject.arguments)
        return output if isinstance(output, Tensor) else output.sample


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NARROW)
def test_dense_counts_are_those_of_torchprofile(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HANDLER_MAP, "aten::silu", lambda node: prod(node.outputs[0].shape))
    subject = narrow(name)
    with torch.no_grad():
        nodes = profile_macs(Positional(subject), subject.sample, reduction=None)
        with count_macs(subject.module) as macs:
            subject()
    attention = sum(count for node, count in nodes.items() if node.operator == "aten::scaled_dot_product_attention")
    assert macs.all - macs.published == attention > 0
    # The trace also multiplies shapes: a few scalars.
    assert macs.published == pytest.approx(sum(nodes.values()) - attention, abs=50)


@pytest.mark.parametrize("name", NARROW)
def test_meta_counts_are_those_of_real_tensors(name: str) -> None:
    region = rectangle(20, 30, 30, 40)
    real, meta = (count_passes(narrow(name, device), region) for device in ("cpu", "meta"))
    assert meta == real


def test_inference_mode_counts_alike() -> None:
    subject = narrow("sdxl-base")
    with torch.no_grad(), count_macs(subject.module) as usual:
        subject()
    with torch.inference_mode(), count_macs(subject.module) as inference:
        subject()
    assert inference == usual


@pytest.mark.parametrize("name", PUBLISHED)
def test_dense_counts_are_the_published_ones(name: str) -> None:
    measured = measure_macs(name, (512, 1024), Region.empty(512, 1024))
    assert measured["dense"]["macs_published_g"] == pytest.approx(PUBLISHED[name], rel=1e-3)
    assert measured["dense"]["macs_all_g"] == pytest.approx(WITH_ATTENTION[name], rel=1e-3)
    assert measured["packed"]["macs_all_g"] == 0


@pytest.mark.parametrize("name", ["sdxl-base", "sd15", "vae-encoder", "vae-decoder"])  # a model of each layout
def test_packed_with_everything_active_counts_as_dense(name: str) -> None:
    """Products and norms are equal, statistics read the rows twice more, and the prompt is counted by itself."""
    passes = count_passes(build(name, (128, 128)), Region.full(128, 128))
    dense, packed = passes.dense.kinds(), passes.packed.kinds()
    for kind in ("convolution", "self-attention", "norm"):
        assert packed[kind] == dense[kind] > 0
    assert packed.get("cross-attention") == dense.get("cross-attention")
    assert packed["linear"] + passes.text == dense["linear"]
    assert packed["elementwise"] == pytest.approx(dense["elementwise"], rel=0.03)  # scales and shifts on the way
    assert 0 < packed["statistics"] <= 2 * dense["norm"]
    assert (passes.text > 0) == name.startswith("sd")


def test_counts_grow_with_the_region_and_fall_on_modules() -> None:
    size = (128, 192)
    subject = build("sdxl-base", size, changes=NARROW["sdxl-base"])
    passes = [count_passes(subject, rectangle(40, 40, side, side, size)) for side in (8, 32, 64)]
    assert passes[0].packed.all < passes[1].packed.all < passes[2].packed.all < passes[2].dense.all
    for count in (passes[1].dense, passes[1].packed):
        assert sum(count.modules(1).values()) == sum(count.modules(2).values()) == count.all
        assert sum(count.kinds().values()) == count.all
        assert {"conv_in", "down_blocks.1", "mid_block", "up_blocks.0", "conv_out"} <= set(count.modules(1))
        assert "down_blocks.1.attentions.0" in count.modules(2)
    smaller = {name for name, macs in passes[1].packed.modules(2).items() if macs < passes[1].dense.modules(2)[name]}
    assert {name for name in passes[1].dense.modules(2) if "resnets" in name or "attentions" in name} <= smaller


def test_every_op_of_ours_has_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {f"sige::{name}" for name in registry.OPS} <= set(COUNTED)
    monkeypatch.delitem(COUNTED, "sige::group_stats")
    with pytest.raises(ProfilingError, match="sige::group_stats: no rule"), count_macs(nn.Identity()):
        sige.ops.group_stats(torch.ones(1, 4, 4), 2)


def test_a_block_mask_hides_pairs_from_the_count() -> None:
    query = torch.ones(1, 100, 16)
    nothing = query[:, :0]
    index = torch.arange(70, dtype=torch.int32)
    mask = torch.tensor([[True, False], [True, True]])
    with count_macs(nn.Identity()) as macs:
        sige.ops.block_attention(query, query, query, nothing, nothing, index, 2, mask)
    assert macs.all == 2 * 2 * 8 * (64 * 64 + 36 * 70)
    assert macs.published == 0


def test_gather_counts_only_what_it_computes() -> None:
    packed, recorded = torch.ones(2, 3, 4), torch.ones(2, 5, 4)
    index = torch.zeros(7, 9, dtype=torch.int32)
    scale = torch.ones(2, 4)
    with count_macs(nn.Identity()) as moved:
        sige.ops.gather(packed, recorded, index)
    with count_macs(nn.Identity()) as computed:
        sige.ops.gather(packed, recorded, index, scale, scale, "silu")
    assert (moved.all, computed.all) == (0, 2 * (2 * 7 * 9 * 4))


def test_a_sparse_convolution_counts_its_products_and_the_rows_that_it_activates() -> None:
    packed, halo = torch.ones(2, 3, 4), torch.ones(2, 5, 4)
    index = torch.zeros(3, 9, dtype=torch.int32)
    weight, scale = torch.ones(6, 9 * 4), torch.ones(2, 4)
    with count_macs(nn.Identity()) as macs:
        sige.ops.sparse_conv2d(packed, halo, index, weight, None, scale, scale, "silu")
    rows = 2 * (3 + 5) * 4
    assert macs.kinds() == {"convolution": 2 * 3 * 9 * 4 * 6, "norm": rows, "elementwise": rows}


def test_a_norm_in_one_op_counts_for_the_norm_and_a_blend_for_each_of_its_terms() -> None:
    model = nn.Sequential(nn.GroupNorm(2, 4))
    rows, packed = torch.ones(2, 5, 4), torch.ones(2, 3, 4)
    index, weights = torch.zeros(3, dtype=torch.int32), torch.tensor([3.0, -3.0, 1.0]).double()
    stats = sige.ops.group_stats(rows, 2)
    with torch.no_grad(), count_macs(model) as macs:
        sige.ops.norm_affine([stats] * 3, [rows] * 3, weights, index, packed, model[0].weight, model[0].bias)
        sige.ops.blend_rows([rows] * 3, weights, index)
    assert macs.kinds() == {"statistics": 3 * 2 * 24, "elementwise": 2 * 8 + 3 * 24}
    assert macs.modules(1) == {"0": macs.all}


def test_the_examples_in_the_docstrings_run() -> None:
    for module in (macs_module, measure_module):
        found = doctest.testmod(module)
        assert (found.attempted > 0, found.failed) == (True, 0)


# ---- time and memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sdxl-base", "vae-decoder"])
def test_a_timed_run_measures_both_sides_and_leaves_the_model_as_it_was(name: str) -> None:
    subject = narrow(name)
    with torch.no_grad():
        before = subject.dense(subject.sample)[0]
        measured = measure_latency(subject, rectangle(30, 40, 20, 20), runs=2)
        after = subject.module(subject.sample, **subject.arguments)[0]
    assert torch.equal(before, after)
    assert "forward" not in vars(subject.module)
    for side in ("dense", "packed"):
        timing = measured[side]["latency_ms"]
        assert 0 < timing["min"] <= timing["median"] <= timing["max"]
        assert timing["runs"] == 2
        assert measured[side]["peak_bytes"] > 0
    assert measured["dense"]["layout"] in ("contiguous", "channels_last")
    assert measured["recording"]["bytes"] > 0


def test_candidates_are_timed_in_turn_without_their_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only calls move: each of A's four calls takes another time, preparing takes a second."""
    now, calls = 0.0, []
    takes = {"a": [9.0, 0.005, 0.001, 0.003], "b": [9.0, 0.020, 0.080, 0.040]}  # the first warms up

    def pass_time(seconds: float) -> None:
        nonlocal now
        now += seconds

    def call(name: str) -> None:
        pass_time(takes[name][calls.count(name)])
        calls.append(name)

    monkeypatch.setattr(latency, "perf_counter", lambda: now)
    candidates = {name: Candidate(partial(call, name), lambda: pass_time(1.0)) for name in takes}
    timings = interleaved(candidates, 3, torch.device("cpu"), warm_up=1)
    assert calls == ["a", "b"] * 4
    for name, (median, least, most) in {"a": (3.0, 1.0, 5.0), "b": (40.0, 20.0, 80.0)}.items():
        timing = timings[name]
        assert (timing.median, timing.min, timing.max) == pytest.approx((median, least, most))
        assert timing.runs == 3


def test_the_median_of_an_even_number_of_runs_lies_between_the_two_in_the_middle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    times = iter([4.0, 1.0, 2.0, 8.0])
    monkeypatch.setattr(latency, "_timed", lambda call, device: next(times))
    timing = interleaved({"a": Candidate(lambda: None)}, 4, torch.device("cpu"), warm_up=0)["a"]
    assert (timing.median, timing.min, timing.max) == (3.0, 1.0, 8.0)


def test_peak_memory_sees_what_was_freed_meanwhile() -> None:
    device = torch.device("cpu")
    idle = peak_bytes(lambda: None, device)
    busy = peak_bytes(lambda: torch.ones(2**26), device)  # 256 MiB
    assert busy - idle > 200 * 2**20


# ---- models --------------------------------------------------------------------------------------------------------


def test_weights_and_inputs_are_made_in_the_dtype_and_repeat() -> None:
    state = torch.get_rng_state()
    one, two = (
        build("vae-decoder", SIZE, device="cpu", dtype=torch.bfloat16, changes=NARROW["vae-decoder"]) for _ in "ab"
    )
    assert {tensor.dtype for tensor in (*one.module.state_dict().values(), one.sample)} == {torch.bfloat16}
    assert torch.equal(one.sample, two.sample)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize(
    ("name", "size", "batch", "message"),
    [
        ("sdxl", (64, 64), None, "model: got 'sdxl', expected one of sdxl-base"),
        ("sdxl-base", (60, 64), None, "size: got 60x64, expected multiples of 8"),
        ("sdxl-base", (64, 64), 0, "batch: got 0"),
    ],
)
def test_a_model_that_cannot_be_built_is_an_error(
    name: str, size: tuple[int, int], batch: int | None, message: str
) -> None:
    with pytest.raises(ProfilingError, match=message):
        build(name, size, batch)


def test_a_region_of_another_size_is_an_error() -> None:
    with pytest.raises(ProfilingError, match="region: got an image of 64x64, expected 64x96"):
        count_passes(narrow("vae-encoder", "meta"), Region.full(64, 64))


# ---- the command line ----------------------------------------------------------------------------------------------


def test_macs_only_writes_the_table_the_json_and_the_chart_in_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    json_file, chart = tmp_path / "new" / "out.json", tmp_path / "chart.png"
    flags = ["--model", "sd15", "--size", "512x1024", *RECTANGLE, "--macs-only"]
    begin = time.perf_counter()
    assert main([*flags, "--json", str(json_file), "--chart", str(chart)]) == 0
    assert time.perf_counter() - begin < 60  # 5 s on two cores
    assert "published convention" in capsys.readouterr().out
    profile = json.loads(json_file.read_text())
    assert {"dense", "packed", "active", "settings"} <= set(profile)
    assert set(profile["dense"]) == {"macs_published_g", "macs_all_g"}
    assert set(profile["packed"]) == {"macs_published_g", "macs_all_g", "macs_text_g"}
    assert profile["packed"]["macs_all_g"] < 0.25 * profile["dense"]["macs_all_g"]
    assert set(profile["active"]) == {"64x128", "32x64", "16x32", "8x16"}
    assert 0.116 < profile["active"]["64x128"] < 0.15
    assert {"model", "size", "dtype", "device", "torch", "diffusers", "machine"} <= set(profile["settings"])
    with Image.open(chart) as picture:
        assert picture.format == "PNG"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_timed_run_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build_narrow(*args: Any, **kwargs: Any) -> Subject:
        return build(*args, **kwargs, changes=NARROW["vae-encoder"])

    monkeypatch.setattr("sige.profiling.__main__.build", build_narrow)
    out = tmp_path / "out.json"
    flags = ["--model", "vae-encoder", "--size", "64x64", "--rect", "8", "8", "16", "16", "--dtype", "bf16"]
    assert main([*flags, "--runs", "2", "--json", str(out)]) == 0
    profile = json.loads(out.read_text())
    for side in ("dense", "packed"):
        assert set(profile[side]["latency_ms"]) == {"median", "min", "max", "runs"}
        assert profile[side]["peak_bytes"] > 0


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files that all describe one region: rows 8 to 15, columns 16 to 31 of 64x64."""
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[8:16, 16:32] = 255
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask).convert("RGBA").save(tmp_path / "mask.webp", lossless=True)
    Image.fromarray(mask).save(tmp_path / "picture.gif")
    image = np.random.default_rng(0).integers(0, 200, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    Image.fromarray(image + (mask[:, :, None] > 0).astype(np.uint8) * 9).save(tmp_path / "b.png")
    (tmp_path / "junk.png").write_bytes(b"no picture")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:500])
    return tmp_path


def run(files: Path, flags: Sequence[str]) -> int:
    given = [str(files / flag) if flag.endswith((".npy", ".png", ".webp", ".gif")) else flag for flag in flags]
    defaults = {"--model": "vae-encoder", "--size": "64x64"}
    filled = [part for flag, value in defaults.items() if flag not in flags for part in (flag, value)]
    return main([*filled, "--macs-only", *given])


def test_every_way_to_say_the_region_counts_the_same(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counted = []
    ways = (["--rect", "8", "16", "8", "16"], ["--mask", "mask.npy"], ["--mask", "mask.png"], ["--mask", "mask.webp"])
    for way in (*ways, ["--original", "a.png", "--edited", "b.png", "--threshold", "0.01"]):
        assert run(files, way) == 0
        counted.append(capsys.readouterr().out.splitlines()[1:])
    assert all(lines == counted[0] for lines in counted)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--mask", "none.npy"], "none.npy: cannot be read"),
        (["--mask", "none.png"], "none.png: cannot be read"),
        (["--mask", "junk.png"], "junk.png: is no picture of a known kind"),
        (["--mask", "cut.png"], "cut.png: cannot be read"),
        (["--mask", "picture.gif"], "picture.gif: is no picture of a known kind"),
        (["--mask", "pickle.npy"], "pickle.npy: is not an array"),
        (["--mask", "mask.npy", "--size", "64x128"], "has shape 64x64, expected 64x128"),
        (["--original", "a.png", "--edited", "b.png", "--size", "64x128"], "is 64x64, expected 64x128"),
        (["--original", "a.png"], "--original and --edited go together"),
        (["--original", "a.png", "--edited", "b.png", "--threshold", "-1"], "threshold: got -1.0"),
        (["--rect", "60", "0", "8", "8"], "--rect: got top 60"),
        (["--rect", "-1", "0", "8", "8"], "--rect: got top -1"),
        (["--rect", "0", "0", "0", "8"], "--rect: got top 0"),
        (["--rect", "0", "0", "8", "8", "--dilation", "-1"], "dilation: got -1"),
        (["--rect", "0", "0", "8", "8", "--model", "sdxl"], "--model: got 'sdxl'"),
        (["--rect", "0", "0", "8", "8", "--size", "64"], "argument --size: got '64'"),
        (["--rect", "0", "0", "8", "8", "--size", "60x60"], "size: got 60x60"),
        (["--rect", "0", "0", "8", "8", "--batch", "0"], "batch: got 0"),
        (["--rect", "0", "0", "8", "8", "--dtype", "fp8"], "--dtype: got 'fp8'"),
        (["--rect", "0", "0", "8", "8", "--device", "tpu"], "--device: got 'tpu'"),
        (["--rect", "0", "0", "8", "8", "--device", "cuda"], "--device cuda: torch sees no GPU"),
        (["--rect", "0", "0", "8", "8", "--runs", "0"], "--runs: got 0"),
        (["--rect", "0", "0", "8", "8", "--json", "/dev/null/out.json"], "/dev/null"),
        (["--rect", "0", "0", "8", "8", "--json", "/"], "--json: / is a folder"),
        (["--rect", "0", "0", "8", "--macs-only"], "argument --rect"),
        (["--rect", "0", "0", "8", "8", "--mask", "mask.png"], "not allowed with"),
        ([], "one of the arguments --mask --rect --original is required"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    flags: list[str],
    message: str,
    files: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run(files, flags) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert message in lines[0]
