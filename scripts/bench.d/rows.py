"""What a row is, and how its sides take turns."""

import os
import shutil
import statistics
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from sides import Ours, Side


@dataclass(frozen=True)
class Row:
    """One line of the table. A target is a ratio against ext4 or the floor, or a bound of our own figure."""

    key: str
    title: str
    unit: str = "s"
    ext4: float | None = None
    floor: float | None = None
    bound: float | None = None

    def targets(self) -> str:
        parts = [f"≤ {self.ext4:g} × ext4" if self.ext4 is not None else ""]
        parts += [f"≤ {self.floor:g} × floor" if self.floor is not None else ""]
        parts += [f"≤ {self.bound:g} {self.unit}".rstrip() if self.bound is not None else ""]
        return ", ".join(filter(None, parts)) or "stated"


@dataclass(frozen=True)
class Scale:
    """How much is done. A quick run shows that something is badly wrong; its figures are not those of the table."""

    quick: bool
    runs: int

    def of(self, full: int, quick: int) -> int:
        return quick if self.quick else full


@dataclass(frozen=True)
class Context:
    """What a work is given: where it may prepare what it needs, how much to do, and the prepared real inputs."""

    scratch: Path
    scale: Scale
    inputs: Path


Times = dict[str, float]


@dataclass(frozen=True)
class Work:
    """What gives one or several rows. `run` is called with a side and a fresh directory there."""

    rows: tuple[Row, ...]
    run: Callable[[Context, Side, Path], Times]
    prepare: Callable[[Context], None] = lambda _: None
    sides: tuple[str, ...] = ("ours", "ext4", "floor")
    # The real inputs without which it cannot run, as names of directories.
    needs: tuple[str, ...] = ()
    # Where a figure does not come from time, or the work prepares more than it measures, and does its own rounds.
    once: bool = False


@dataclass
class Result:
    row: Row
    values: dict[str, list[float]] = field(default_factory=dict)

    def median(self, side: str) -> float | None:
        return statistics.median(self.values[side]) if self.values.get(side) else None

    def quartiles(self, side: str) -> tuple[float, float]:
        values = self.values[side]
        if len(values) < 2:
            return values[0], values[0]
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return low, high

    def ratio(self, against: str) -> float | None:
        ours, other = self.median("ours"), self.median(against)
        return ours / other if ours is not None and other else None

    def verdicts(self) -> list[tuple[str, float, float]]:
        """Each target: what it is against, the ratio of what was measured to it, the target as such a ratio."""
        found = []
        for against, target in (("ext4", self.row.ext4), ("floor", self.row.floor)):
            if target is not None and (ratio := self.ratio(against)) is not None:
                found.append((against, ratio, target))
        ours = self.median("ours")
        if self.row.bound is not None and ours is not None:
            # Against a bound of nothing, one is as much too many as it says.
            found.append(("bound", ours / self.row.bound if self.row.bound else 1 + ours, 1.0))
        return found

    def met(self) -> bool | None:
        """None: there is no target, or nothing was measured against it."""
        verdicts = self.verdicts()
        return all(ratio <= target for _, ratio, target in verdicts) if verdicts else None


def measure(work: Work, context: Context, sides: list[Side]) -> dict[str, Result]:
    """Runs a work on all its sides in turns, the order alternating."""
    results = {row.key: Result(row) for row in work.rows}
    taking_part = [side for side in sides if side.name in work.sides or side.name not in ("ours", "ext4", "floor")]
    if work.sides == ("ours",):
        taking_part = [side for side in sides if isinstance(side, Ours)]
    with ExitStack() as ending:
        for side in taking_part:
            ending.callback(side.end)
            side.start()
        work.prepare(context)
        runs = 1 if work.once else context.scale.runs
        for run in range(runs):
            for side in taking_part if run % 2 == 0 else reversed(taking_part):
                print(f"  {work.rows[0].key}: {side.name}, {run + 1} of {runs}   ", end="\r", file=sys.stderr, flush=True)
                top = side.root / f"run{run}"
                top.mkdir()
                side.settle()
                for key, value in work.run(context, side, top).items():
                    results[key].values.setdefault(side.name, []).append(value)
                os.chdir("/")
                shutil.rmtree(top)
        print(" " * 60, end="\r", file=sys.stderr)
    return results
