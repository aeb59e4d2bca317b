"""What an operation costs as a session grows: in files, and in bytes. A cost that is not flat shows here first."""

import math
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from daemon import memory, resume
from files import MIB, PAGE, each, in_parallel, new_file, seconds, text
from report import number
from sides import DROP_CACHES, Ours

SAMPLES = 500
ENTERED = 20
PER_DIRECTORY = 1000
INODES_ONLY = "2"  # drop_caches(5): dentries and inodes, so that the next look at a name is a request


@dataclass(frozen=True)
class Stage:
    """A size of the session, and the median of each operation at it."""

    kind: str
    size: int
    costs: dict[str, float]


def median(calls: list[Callable[[], object]]) -> float:
    """Microseconds."""
    return statistics.median(each(calls)) * 1e6


def fill(top: Path, first: int, last: int) -> None:
    for i in range(first, last):
        directory = top / f"d{i // PER_DIRECTORY}"
        if i % PER_DIRECTORY == 0:
            directory.mkdir()
        file = os.open(directory / f"f{i}", os.O_CREAT | os.O_WRONLY, 0o644)
        os.write(file, PAGE[:100])
        os.close(file)


def grow(top: Path, first: int, last: int) -> None:
    middle = (first + last) // 2 // PER_DIRECTORY * PER_DIRECTORY
    in_parallel([(fill, (top, first, middle)), (fill, (top, middle, last))])


def commit(side: Ours, change: Callable[[], object]) -> float:
    """Microseconds from a small change to the end of its commit."""
    times = []
    for _ in range(7):
        change()
        times.append(seconds(lambda: side.call("-q", "sync", side.session)))
    return statistics.median(times) * 1e6


def life(side: Ours, change: Callable[[], object]) -> dict[str, float]:
    """What does not depend on which file it is done to."""
    return {
        "commit of a small change": commit(side, change),
        "resume to the first ls, ms": statistics.median(resume(side) for _ in range(3)),
    }


def at_files(side: Ours, top: Path, count: int) -> dict[str, float]:
    chance = random.Random(count)
    directories = count // PER_DIRECTORY
    # Of a few directories, so that most are in one that was entered before: entering one is a cost of its own, below.
    entered = chance.sample(range(directories), min(ENTERED, directories))
    picks = [chance.choice(entered) * PER_DIRECTORY + chance.randrange(PER_DIRECTORY) for _ in range(SAMPLES)]
    known = [top / f"d{i // PER_DIRECTORY}" / f"f{i}" for i in dict.fromkeys(picks)]
    work = side.root / f"at{count}"
    work.mkdir()
    new = [str(work / f"n{i}") for i in range(SAMPLES)]
    side.settle()
    DROP_CACHES.write_text(INODES_ONLY)
    costs = {"stat, first": median([lambda path=path: os.stat(path) for path in known])}
    side.cold()
    first = [top / f"d{i}" / "none" for i in entered]
    costs["first name looked up in a directory of 1,000, cold"] = median([lambda path=path: path.exists() for path in first])
    costs["open and read, cold"] = median([lambda path=path: path.read_bytes() for path in known])
    costs["create 4 KiB"] = median([lambda path=path: new_file(path) for path in new])
    costs["create 4 KiB and fsync"] = median([lambda i=i: new_file(str(work / f"s{i}"), True) for i in range(SAMPLES)])
    costs["rename"] = median([lambda path=path: os.rename(path, path + "-") for path in new])
    costs["unlink"] = median([lambda path=path: os.unlink(path + "-") for path in new])
    return costs | life(side, lambda: (work / "changed").write_bytes(PAGE))


def at_bytes(side: Ours, path: Path, mebibytes: int) -> dict[str, float]:
    chance = random.Random(mebibytes)
    places = [chance.randrange(mebibytes * 256) * 4096 for _ in range(SAMPLES)]
    side.settle()
    side.cold()
    file = os.open(path, os.O_RDWR)
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    costs = {"read 4 KiB, cold": median([lambda at=at: os.pread(file, 4096, at) for at in places])}
    costs["overwrite 4 KiB"] = median([lambda at=at: os.pwrite(file, PAGE, at) for at in places])
    costs["overwrite 4 KiB and fsync"] = median([lambda at=at: (os.pwrite(file, PAGE, at), os.fsync(file)) for at in places])
    os.close(file)

    def change() -> None:
        with open(path, "r+b") as changed:
            changed.write(PAGE)

    return costs | life(side, change)


def lengthen(path: Path, first: int, last: int) -> None:
    source = memoryview(text(16 * MIB))
    with open(path, "ab", buffering=0) as file:
        for i in range(first, last):
            at = i * 1_048_583 % (len(source) - MIB)
            file.write(source[at : at + MIB])


def growth(side: Ours, quick: bool, say: Callable[[str], None]) -> list[Stage]:
    """Both series, each in a session of its own."""
    stages = []
    side.mount("--size", "64G", "--inodes", "4000000")
    many = side.root / "many"
    many.mkdir()
    before = 0
    for count in (1_000, 10_000) if quick else (1_000, 10_000, 100_000, 1_000_000):
        say(f"{count} files")
        # Below a directory of their own, so that the first ls lists as much at every size.
        grow(many, before, count)
        before = count
        costs = at_files(side, many, count)
        stages.append(Stage("files", count, costs | {"memory of the daemon, MiB": memory(side.pid(), "VmRSS")}))
    side.end()
    side.mount("--size", "64G")
    before = 0
    for mebibytes in (10, 256) if quick else (10, 1024, 20 * 1024):
        say(f"{mebibytes} MiB")
        lengthen(side.root / "big", before, mebibytes)
        before = mebibytes
        stages.append(Stage("MiB", mebibytes, at_bytes(side, side.root / "big", mebibytes)))
    side.end()
    time.sleep(1)
    return stages


def table(stages: list[Stage]) -> str:
    parts = []
    for kind in dict.fromkeys(stage.kind for stage in stages):
        series = [stage for stage in stages if stage.kind == kind]
        parts.append("| µs, median | " + " | ".join(f"{stage.size:,} {kind}" for stage in series) + " | last to first |")
        parts.append("|" + " --- |" * (len(series) + 2))
        for name in series[0].costs:
            values = [stage.costs[name] for stage in series]
            parts.append(f"| {name} | " + " | ".join(map(number, values)) + f" | {values[-1] / values[0]:.2f} |")
        parts.append("")
    return "\n".join(parts).rstrip()


# --- The chart: each cost beside what it was at the first size, one panel a series --------------------------------------

PANEL, HEIGHT, LEGEND, MOST = 420, 300, 18, 8.0
COLOURS = ("#2e7d5b", "#b3423a", "#3b6fb6", "#8a5fb0", "#b0803b", "#4aa3a3", "#7a8594", "#c45c9a", "#111111")


def panel(series: list[Stage], left: int) -> list[str]:
    sizes = [math.log10(stage.size) for stage in series]

    def point(size: float, ratio: float) -> str:
        across = (size - sizes[0]) / (sizes[-1] - sizes[0]) * (PANEL - 60)
        # A cost that doubles goes up as far as one that halves goes down.
        up = math.log2(min(max(ratio, 1 / MOST), MOST)) / math.log2(MOST) * HEIGHT / 2
        return f"{left + 40 + across:.1f},{30 + HEIGHT / 2 - up:.1f}"

    parts = []
    for ratio in (0.25, 0.5, 1, 2, 4):
        start, end = point(sizes[0], ratio), point(sizes[-1], ratio)
        parts.append(f'<path d="M{start}L{end}" stroke="#ccc"/>')
        x, y = start.split(",")
        parts.append(f'<text x="{float(x) - 8:.1f}" y="{float(y) + 4:.1f}" text-anchor="end">× {ratio:g}</text>')
    for stage, size in zip(series, sizes):
        x = point(size, 1).split(",")[0]
        parts.append(f'<text x="{x}" y="20" text-anchor="middle">{stage.size:,} {escape(stage.kind)}</text>')
    for number, name in enumerate(series[0].costs):
        colour = COLOURS[number % len(COLOURS)]
        first = series[0].costs[name]
        points = " ".join(point(size, stage.costs[name] / first) for stage, size in zip(series, sizes))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = 30 + HEIGHT + 24 + number * LEGEND
        parts.append(f'<path d="M{left + 40} {y - 4}h20" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 66}" y="{y}">{escape(name)}</text>')
    return parts


def chart(stages: list[Stage]) -> str:
    kinds = list(dict.fromkeys(stage.kind for stage in stages))
    panels = [[stage for stage in stages if stage.kind == kind] for kind in kinds]
    height = 30 + HEIGHT + 24 + max(len(series[0].costs) for series in panels) * LEGEND
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{PANEL * len(panels)}" height="{height}" font-family="sans-serif" font-size="11">'
    drawn = [part for number, series in enumerate(panels) for part in panel(series, number * PANEL)]
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *drawn, "</svg>"]) + "\n"
