"""Summary: what became of all rows, and how fast, as a table and as facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from sdxl.batch.ledger import State
from sdxl.batch.perform import Outcome

__all__ = ["Summary", "summarize"]


@dataclass(frozen=True)
class Summary:
    """The counts are those of all starts; the times are those of this one."""

    out: Path
    counts: Mapping[State, int]
    made: Sequence[Outcome]  # by this start, done
    seconds: float  # that this start took
    errors: Sequence[tuple[str, str]]  # some rows and what was wrong with them

    @property
    def is_whole(self) -> bool:
        """Says whether every row is done."""
        return self.counts[State.DONE] == sum(self.counts.values())

    @property
    def facts(self) -> dict[str, Any]:
        """The summary as JSON can hold it."""
        facts: dict[str, Any] = {"out": str(self.out), "rows": sum(self.counts.values())}
        facts |= {state.replace(" ", "_"): self.counts[state] for state in State}
        facts |= {"made_now": len(self.made), "seconds": round(self.seconds, 1)}
        times = [one.seconds for one in self.made if one.seconds]
        shares = [one.figures["computed"] for one in self.made if "computed" in one.figures]
        if times:
            facts["seconds_per_picture"] = round(median(times), 3)
            facts["pictures_per_hour"] = round(len(self.made) / self.seconds * 3600)
        if shares:
            facts["computed"] = round(sum(shares) / len(shares), 4)
        return facts

    @property
    def table(self) -> str:
        """The summary in words."""
        facts, where = self.facts, {State.FAILED: self.out / "failed", State.SET_ASIDE: self.out / "deaths"}
        lines = [f"{'rows':<12}{facts['rows']:>9,}"]
        for state in State:
            count = self.counts[state]
            note = f"  {where[state]}" if count and state in where else ""
            note = f"  {facts['made_now']:,} of them now" if state is State.DONE else note
            lines.append(f"{state:<12}{count:>9,}{note}")
        lines.append(f"{'seconds':<12}{facts['seconds']:>9,.1f}")
        if "seconds_per_picture" in facts:
            rate = f"{facts['pictures_per_hour']:,} pictures an hour by all workers"
            lines.append(f"{'a picture':<12}{facts['seconds_per_picture']:>9,.2f}  seconds in the median; {rate}")
        if "computed" in facts:
            lines.append(f"{'work':<12}{facts['computed']:>9.0%}  of that of dense passes, about")
        lines += [f"  {name}: {error}" for name, error in self.errors]
        return "\n".join(lines)


def summarize(
    out: Path, states: Mapping[str, State], outcomes: Iterable[Outcome], seconds: float, told: int = 5
) -> Summary:
    """The summary of a start; it names the first few rows that went wrong in it."""
    outcomes = list(outcomes)
    counts = Counter(states.values())
    made = [one for one in outcomes if one.state is State.DONE]
    errors = [(one.id, one.error) for one in outcomes if one.error]
    return Summary(out, {state: counts[state] for state in State}, made, seconds, errors[:told])
