"""Dense passes, eager and compiled, beside packed ones: layer by layer, as programs, as graphs; by share and dtype.

The command is `python -m benchmarks.packed shares`. Weights are channels-last for all, the ways take turns, and the
fastest dense way counts. A packed pass is the second of its context, which reads the recordings of the first; "new" is
the first one as a graph, which copies region and recordings.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

import sige
from benchmarks.harness import Row
from benchmarks.passes import FORECASTS, call, centred, edited, tensor_of
from sige.dtypes import named_dtype
from sige.profiling import Candidate, Subject, Timing, build, interleaved
from sige.programs.replay import CudaCapture

__all__ = ["DENSE", "PARTS", "Plan", "dense_table", "shares", "shown"]

PARTS = {"unet": "sdxl-base", "decoder": "vae-decoder"}
DENSE = ("eager", "compiled", "both")
MAKES_GRAPHS = ("reduce-overhead", "max-autotune")  # modes of torch.compile that capture by themselves
WARM_UP = 4  # rounds: layers, a trace, a capture, a replay
PACKED = ("layers", "program", "graph", "new")
SWITCHES = ("SIGE_PROGRAMS", "SIGE_GRAPH")
TINY: dict[str, dict[str, Any]] = {  # for dry runs: all kinds of layers, next to nothing to compute
    "unet": {
        "block_out_channels": (32, 32, 32),
        "attention_head_dim": (2, 2, 2),
        "transformer_layers_per_block": (1, 1, 1),
        "layers_per_block": 1,
        "cross_attention_dim": 32,
    },
    "decoder": {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1},
}


@dataclass(frozen=True)
class Plan:
    """What is measured, and how."""

    device: torch.device
    dense: str = "eager"
    modes: tuple[str, ...] = ("default", "reduce-overhead")  # of torch.compile
    backend: str = "inductor"
    parts: tuple[str, ...] = tuple(PARTS)
    recordings: tuple[int, ...] = (1,)
    dtypes: tuple[str, ...] = ("fp32",)
    shares: tuple[float, ...] = (1, 5, 10, 20, 40)  # % of the picture
    size: tuple[int, int] = (512, 1024)
    runs: int = 5
    cap: float = float("inf")  # seconds after which nothing new begins
    tiny: bool = False
    began: float = field(default_factory=perf_counter)

    @property
    def is_over(self) -> bool:
        """Says whether the time is up."""
        return perf_counter() - self.began > self.cap


def shares(plan: Plan, keep: Callable[[list[Row], list[str]], None]) -> tuple[list[Row], list[str]]:
    """The rows, and what is not among them and why. `keep` gets both after each row: a run may be stopped."""
    rows: list[Row] = []
    notes: list[str] = []
    for dtype in plan.dtypes:
        for part in plan.parts:
            if plan.is_over:
                notes.append(f"{part} {dtype}: left out, the time is up")
                continue
            for row in _part_rows(part, dtype, plan, notes):
                rows.append(row)
                keep(rows, notes)
    keep(rows, notes)
    return rows, notes


def _part_rows(part: str, dtype: str, plan: Plan, notes: list[str]) -> Iterator[Row]:
    subject = build(
        PARTS[part],
        plan.size,
        device=plan.device,
        dtype=named_dtype(dtype),
        changes=TINY[part] if plan.tiny else None,
    )
    with _switches(), sige.enable(subject.target) as handle:
        recordings = _record(subject, handle, max(plan.recordings))
        dense, facts = _dense_ways(subject, f"{part} {dtype}", plan, notes)
        for count in plan.recordings:
            for share in plan.shares:
                name = {"part": part, "dtype": dtype, "recordings": count, "share %": share}
                if plan.is_over:
                    notes.append(f"{part} {dtype}, {count} recordings, {share:g} %: left out, the time is up")
                    continue
                blend = list(zip(recordings, FORECASTS[count], strict=False))
                row = name | _measured(subject, handle, dense, blend, share, plan) | facts
                for what in ("program", "graph"):
                    if row[f"why no {what}"]:
                        notes.append(
                            f"{part} {dtype}, {count} recordings, {share:g} %: no {what}: {row[f'why no {what}']}"
                        )
                yield row
    torch._dynamo.reset()  # compiled code holds the weights


@contextmanager
def _switches() -> Iterator[None]:
    """Gives the environment its switches back."""
    before = {name: os.environ.get(name) for name in SWITCHES}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _record(subject: Subject, handle: sige.Handle, count: int) -> list[sige.Recording]:
    """Recordings of the subject's own sample and of samples near it."""
    made = []
    for k in range(count):
        with handle.record() as recording:
            call(subject, subject.sample + 0.1 * k * torch.randn_like(subject.sample))
        made.append(recording)
    return made


# ---- dense ----------------------------------------------------------------------------------------------------------

Way = Callable[[Tensor], Any]  # [B, C, h, w] -> what the model returns


def _dense_ways(subject: Subject, name: str, plan: Plan, notes: list[str]) -> tuple[dict[str, Way], dict[str, Any]]:
    """The dense ways that run, by name; for each that is compiled, the seconds that it took and its error."""
    forward, module, arguments = type(subject.module).forward, subject.module, subject.arguments

    def eager(sample: Tensor) -> Any:  # past the attachment, which torch.compile cannot read
        return forward(module, sample, **arguments)

    ways: dict[str, Way] = {"eager": eager} if plan.dense != "compiled" else {}
    facts: dict[str, Any] = {"compile s": {}, "compiled error": {}}
    for mode in plan.modes if plan.dense != "eager" else ():
        way = f"compiled {mode}"
        if plan.is_over:
            notes.append(f"{name}, {way}: left out, the time is up")
            continue
        begin = perf_counter()
        try:
            compiled = _compiled(eager, mode, plan.backend)
            found = tensor_of(compiled(subject.sample)).double()
        except Exception as error:  # a compiler fails in many ways, and none may cost the other rows
            notes.append(f"{name}, {way}: {_reason(error)}")
            continue
        facts["compile s"][way] = perf_counter() - begin
        expected = tensor_of(eager(subject.sample)).double()
        facts["compiled error"][way] = ((found - expected).norm() / expected.norm()).item()
        ways[way] = compiled
    ways = ways or {"eager": eager}
    if plan.device.type == "cuda":
        ways |= _graphs(ways, subject.sample, name, notes)
    return ways, facts


def _reason(error: Exception) -> str:
    """The error in a line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _graphs(ways: dict[str, Way], sample: Tensor, name: str, notes: list[str]) -> dict[str, Way]:
    """The same ways as graphs, so that dense passes wait for Python as little as packed ones do."""
    found: dict[str, Way] = {}
    for way, function in ways.items():
        if way.endswith(MAKES_GRAPHS):
            continue
        try:
            found[f"{way}, graph"] = _captured(function, sample)
        except Exception as error:  # a library may refuse a capture, which may not cost the other rows
            notes.append(f"{name}, {way}, graph: {_reason(error)}")
    return found


def _captured(way: Way, sample: Tensor) -> Way:
    held = sample.clone(memory_format=torch.preserve_format)

    def body() -> list[Tensor]:
        return [tensor_of(way(held))]

    (result,), again = CudaCapture()(body)

    def run(sample: Tensor) -> Tensor:
        held.copy_(sample)
        again()
        return result

    return run


def _compiled(eager: Way, mode: str, backend: str) -> Way:
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, 64)
    compiled = torch.compile(eager, backend=backend, dynamic=False, mode=mode if backend == "inductor" else None)

    def run(sample: Tensor) -> Any:
        torch.compiler.cudagraph_mark_step_begin()  # the result of the call before is no longer read
        return compiled(sample)

    return run


# ---- packed ---------------------------------------------------------------------------------------------------------


@dataclass
class _Passes:
    """Packed passes of one region and blend, each way with its switches; at most one context is open."""

    subject: Subject
    handle: sige.Handle
    region: sige.Region
    blend: list[tuple[sige.Recording, float]]
    sample: Tensor  # [B, C, h, w]
    context: ExitStack = field(default_factory=ExitStack)

    def switch(self, programs: str, graph: str) -> None:
        os.environ.update(zip(SWITCHES, (programs, graph), strict=True))

    def open(self) -> None:
        self.context.close()
        self.context.enter_context(self.handle.edit(self.region, blend=self.blend))

    def run(self) -> Tensor:
        return call(self.subject, self.sample)

    def second(self, programs: str, graph: str) -> Candidate:
        """The second pass of a context."""

        def prepare() -> None:
            self.switch(programs, graph)
            self.open()
            self.run()

        return Candidate(self.run, prepare)

    def first(self, programs: str, graph: str) -> Candidate:
        """The first pass of a context, which opens it, too."""

        def prepare() -> None:
            self.context.close()
            self.switch(programs, graph)

        def opened() -> Tensor:
            self.open()
            return self.run()

        return Candidate(opened, prepare)

    def ways(self) -> dict[str, Candidate]:
        """The packed ways that this device has."""
        found = {"layers": self.second("0", "0"), "program": self.second("1", "0")}
        if self.sample.is_cuda:
            found |= {"graph": self.second("1", "auto"), "new": self.first("1", "auto")}
        return found

    def result(self, way: Candidate) -> Tensor:
        way.prepare()
        out = way.call()
        assert isinstance(out, Tensor)
        return out.clone()


def _measured(
    subject: Subject,
    handle: sige.Handle,
    dense: dict[str, Way],
    blend: list[tuple[sige.Recording, float]],
    share: float,
    plan: Plan,
) -> Row:
    mask = centred(share / 100, plan.size)
    region, sample = sige.Region.from_mask(mask, dilation=0), edited(subject, mask)
    passes = _Passes(subject, handle, region, blend, sample)
    packed = passes.ways()
    with passes.context:
        close = passes.context.close
        dense_calls = {name: Candidate(partial(way, sample), close) for name, way in dense.items()}
        times = interleaved(dense_calls | packed, plan.runs, plan.device, WARM_UP)
        expected = passes.result(packed["layers"])
        same = all(torch.equal(passes.result(way), expected) for way in packed.values())
    best = min(dense, key=lambda name: times[name].median)
    fastest = min((name for name in packed if name != "new"), key=lambda name: times[name].median)
    return {
        "active": region.ratio(*subject.levels[0]),
        "best dense": best,
        "dense ms": times[best],
        **{f"{name} ms": times[name] for name in packed},
        "best packed": fastest,
        "dense/packed": times[best].median / times[fastest].median,
        "same bits": same,
        "why no program": _first(one.why_not for one in handle.programs.values()),
        "why no graph": _first(one.why_no_graph for one in handle.programs.values()),
        "times": times,
    }


def _first(texts: Iterable[str]) -> str:
    """The first text that says something."""
    return next(filter(None, texts), "")


def shown(rows: list[Row]) -> list[Row]:
    """The columns of the table."""
    hidden = ("times", "compile s", "compiled error", "why no program", "why no graph")
    return [{key: value for key, value in row.items() if key not in hidden} for row in rows]


def dense_table(rows: list[Row]) -> list[Row]:
    """Every dense way of each part and dtype: the median over the rows' own medians, and what it took to compile."""
    found: list[Row] = []
    for part, dtype in dict.fromkeys((row["part"], row["dtype"]) for row in rows):
        mine = [row for row in rows if (row["part"], row["dtype"]) == (part, dtype)]
        for name in (name for name in mine[0]["times"] if name not in PACKED):
            timings: list[Timing] = [row["times"][name] for row in mine]
            found.append(
                {
                    "part": part,
                    "dtype": dtype,
                    "dense": name,
                    "ms": median(timing.median for timing in timings),
                    "compile s": mine[0]["compile s"].get(name, 0.0),
                    "error": mine[0]["compiled error"].get(name, 0.0),
                }
            )
    return found
