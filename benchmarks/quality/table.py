"""Rows of scores as tables: on the terminal, and in Markdown for docs/quality.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.harness import Row, machine
from benchmarks.quality.edits import CLASSES, TEN_PERCENT, Edit
from benchmarks.quality.results import Results, Score

__all__ = ["Summary", "by_class", "markdown", "overview", "summarise"]


@dataclass(frozen=True)
class Summary:
    """Medians and percentiles of a row's scores, over all edits or over some."""

    edits: int
    psnr: float  # median, dB
    psnr_low: float  # 10th percentile
    psnr_worst: float
    ssim: float
    band_psnr: float
    band_psnr_low: float
    band_ssim: float
    equal_outside: float  # share of the edits
    work: float  # median share of the dense edit's multiply-accumulates
    time: float  # median share of its seconds


def summarise(scores: Iterable[Score]) -> Summary | None:
    """The summary of the scores; None where there are no scores."""
    scores = list(scores)
    if not scores:
        return None

    def middle(value: Callable[[Score], float]) -> float:
        return median(value(score) for score in scores)

    def low(value: Callable[[Score], float]) -> float:
        return float(np.percentile([value(score) for score in scores], 10))

    return Summary(
        edits=len(scores),
        psnr=middle(lambda score: score.psnr),
        psnr_low=low(lambda score: score.psnr),
        psnr_worst=min(score.psnr for score in scores),
        ssim=middle(lambda score: score.ssim),
        band_psnr=middle(lambda score: score.band_psnr),
        band_psnr_low=low(lambda score: score.band_psnr),
        band_ssim=middle(lambda score: score.band_ssim),
        equal_outside=sum(score.equal_outside for score in scores) / len(scores),
        work=middle(lambda score: score.work),
        time=middle(lambda score: score.seconds / score.dense_seconds),
    )


def overview(results: Results, names: Sequence[str]) -> list[Row]:
    """A line for each row; `at 10 %` is the median PSNR over the edits whose masks are close to that."""
    lines: list[Row] = []
    for name in names:
        scores = results.rows[name]
        all_, ten = summarise(scores), summarise(_within(scores, results.edits, TEN_PERCENT))
        assert all_ is not None
        lines.append(
            {
                "row": name,
                "PSNR": _decibels(all_.psnr),
                "10th pct": _decibels(all_.psnr_low),
                "worst": _decibels(all_.psnr_worst),
                "SSIM": f"{all_.ssim:.3f}",
                "band PSNR": _decibels(all_.band_psnr),
                "band 10th": _decibels(all_.band_psnr_low),
                "band SSIM": f"{all_.band_ssim:.3f}",
                "equal outside": f"{all_.equal_outside:.0%}",
                "MACs": f"{all_.work:.3f}",
                "seconds": f"{all_.time:.3f}",
                "PSNR at 10 %": _decibels(ten.psnr) if ten else "",
                "MACs at 10 %": f"{ten.work:.3f}" if ten else "",
            }
        )
    return lines


def by_class(results: Results, names: Sequence[str]) -> list[Row]:
    """A line for each row, with median PSNR, its 10th percentile and the work in each class of mask sizes."""
    lines: list[Row] = []
    for name in names:
        line: Row = {"row": name}
        for title, shares in CLASSES.items():
            found = summarise(_within(results.rows[name], results.edits, shares))
            line[f"{title}: PSNR"] = _decibels(found.psnr) if found else ""
            line[f"{title}: 10th pct"] = _decibels(found.psnr_low) if found else ""
            line[f"{title}: MACs"] = f"{found.work:.3f}" if found else ""
        lines.append(line)
    return lines


def markdown(results: Results, names: Sequence[str]) -> str:
    """Both tables in Markdown with the facts that a reader needs to judge them, to paste into docs/quality.md."""
    settings, facts = results.settings, machine()
    about = (
        f"{settings.edits} edits of {settings.side}x{settings.side} scenes that were never trained on, weights "
        f"{settings.weights} ({settings.weights_digest}), {settings.steps} {settings.scheduler} steps, guidance "
        f"{settings.scale:g}; torch {facts['torch']}, diffusers {facts['diffusers']}, {facts['cpu']}, "
        f"{facts['threads']} threads, commit {facts['commit']}."
    )
    counts = ", ".join(f"{sum(edit.is_within(shares) for edit in results.edits)} of {title}"
                       for title, shares in CLASSES.items())  # fmt: skip
    near = sum(edit.is_within(TEN_PERCENT) for edit in results.edits)
    return "\n".join(
        [
            about,
            "",
            _as_markdown(overview(results, names)),
            "",
            f'By the mask\'s share of the picture: {counts}; {near} from 7 to 13 %, which are what "at 10 %" means.',
            "",
            _as_markdown(by_class(results, names)),
            "",
        ]
    )


def _within(scores: Iterable[Score], edits: Sequence[Edit], shares: tuple[float, float]) -> list[Score]:
    chosen = {edit.number for edit in edits if edit.is_within(shares)}
    return [score for score in scores if score.edit in chosen]


def _decibels(value: float) -> str:
    return f"{value:.1f}"


def _as_markdown(lines: list[Row]) -> str:
    if not lines:
        return "(no rows)"
    shown = [list(lines[0]), ["---"] * len(lines[0]), *([str(cell) for cell in line.values()] for line in lines)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in shown)
