"""What was measured, as a table, as JSON, and as the table and the chart of docs/performance.md."""

import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from rows import Result, Row, Scale
from sides import Ours

CHART = "performance.svg"


def file_system(directory: Path) -> str:
    found = subprocess.run(["df", "--output=fstype", directory], check=True, stdout=subprocess.PIPE, text=True)
    return found.stdout.split()[-1]


def halt_polling() -> int | None:
    """Nanoseconds for which an idle processor of a KVM guest polls before it halts; None where it is not ours to say."""
    parameter = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
    driver = Path("/sys/devices/system/cpu/cpuidle/current_driver")
    if not driver.exists() or driver.read_text().strip() != "haltpoll":
        return None
    return int(parameter.read_text())


def machine(directory: Path, ours: Ours, scale: Scale) -> dict[str, Any]:
    """Mounts a session once, because only its log says which transport it got."""
    ours.start()
    transport = ours.transport_in_use()
    ours.end()
    version = subprocess.run([ours.program, "--version"], check=True, stdout=subprocess.PIPE, text=True)
    return {
        "version": version.stdout.strip(),
        "cores": os.cpu_count(),
        "kernel": os.uname().release,
        "file_system": file_system(directory),
        "transport": transport,
        "halt_poll_ns": halt_polling(),
        "load": round(os.getloadavg()[0], 2),
        "quick": scale.quick,
        "pairs": scale.runs,
    }


def setting(machine: dict[str, Any]) -> str:
    """Of whom and where the figures are."""
    halt_poll = machine["halt_poll_ns"]
    idle = "" if halt_poll is None else f", idle processors poll {halt_poll // 1000} µs before they halt"
    return (
        f"{machine['version']}, {machine['cores']} cores, kernel {machine['kernel']}, the store on {machine['file_system']},"
        f" requests by {machine['transport']}{idle}, load {machine['load']} at the start"
    )


def sentence(machine: dict[str, Any]) -> str:
    kind = "a quick run, whose amounts are smaller than the titles say; " if machine["quick"] else ""
    return f"{setting(machine)}; {kind}medians of {machine['pairs']} runs."


def number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def cell(result: Result, side: str) -> str:
    median = result.median(side)
    if median is None:
        return "–"
    low, high = result.quartiles(side)
    return f"{number(median)} ({number(low)}–{number(high)})"


def columns(results: list[Result]) -> list[str]:
    named = ["ours", "ext4", "floor"]
    peers = {side for result in results for side in result.values if side not in named}
    return named + sorted(peers)


def verdict(result: Result) -> str:
    return {True: "met", False: "NOT MET", None: "–"}[result.met()]


def cells(results: list[Result]) -> list[list[str]]:
    sides = columns(results)
    header = ["work", "unit", *sides, *(f"× {side}" for side in sides[1:]), "target", ""]
    lines = [header]
    for result in results:
        ratios = [result.ratio(side) for side in sides[1:]]
        shown = [f"{ratio:.2f}" if ratio is not None else "–" for ratio in ratios]
        row = result.row
        lines.append([row.title, row.unit, *(cell(result, side) for side in sides), *shown, row.targets(), verdict(result)])
    return lines


def table(results: list[Result]) -> str:
    lines = cells(results)
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in lines)


def to_json(results: list[Result], machine: dict[str, Any], left_out: dict[str, str]) -> str:
    rows = []
    for result in results:
        sides = {
            side: {"median": result.median(side), "quartiles": result.quartiles(side), "values": values}
            for side, values in result.values.items()
        }
        row = result.row
        targets = {"ext4": row.ext4, "floor": row.floor, "bound": row.bound}
        ratios = {side: result.ratio(side) for side in sides if side != "ours"}
        rows.append(
            {"key": row.key, "title": row.title, "unit": row.unit, "sides": sides, "ratios": ratios, "targets": targets, "met": result.met()}
        )
    return json.dumps({"machine": machine, "rows": rows, "left_out": left_out}, indent=2, ensure_ascii=False) + "\n"


def with_earlier(file: Path, rows: list[Row], results: list[Result]) -> tuple[list[Result], str]:
    """Takes the rows that were not measured now from what an earlier run wrote down. All of them in their order, and which are
    whose."""
    said = json.loads(file.read_text())
    found = {row["key"]: {side: kept["values"] for side, kept in row["sides"].items()} for row in said["rows"]}
    now = {result.row.key: result for result in results}
    old = [row for row in rows if row.key in found and row.key not in now]
    all_of_them = [now[row.key] if row.key in now else Result(row, found[row.key]) for row in rows if row in old or row.key in now]
    return all_of_them, f"Of an earlier run ({sentence(said['machine'])[:-1]}): {'; '.join(row.title for row in old)}."


def markdown(results: list[Result], machine: dict[str, Any], left_out: dict[str, str], charted: bool, earlier: str) -> str:
    header, *lines = cells(results)
    text = [sentence(machine), *([earlier] if earlier else []), ""]
    if charted:
        text += [f"![Each row's ratio beside its target]({CHART})", ""]
    text += ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    text += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    if left_out:
        text += ["", "Left out: " + "; ".join(f"{title} ({why})" for title, why in left_out.items()) + "."]
    return "\n".join(text)


def put(page: Path, what: str, text: str) -> None:
    """Puts a text between the page's markers of that name."""
    begin, end = f"<!-- {what}: begin -->", f"<!-- {what}: end -->"
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise RuntimeError(f"{page} has no {begin} before {end}: put them where it is to be")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def write_markdown(page: Path, results: list[Result], machine: dict[str, Any], left_out: dict[str, str], earlier: str) -> None:
    """Puts the table between the markers of the page, and the chart beside it. Where idle processors halt at once, the table
    has a place of its own: what it shows is mostly that."""
    halting = machine["halt_poll_ns"] == 0
    put(page, "halting" if halting else "measured", markdown(results, machine, left_out, not halting, earlier))
    if not halting:
        page.with_name(CHART).write_text(chart(results))


# --- The chart ----------------------------------------------------------------------------------------------------------

LEFT, WIDTH, HEIGHT, SMALLEST, LARGEST = 400, 480, 20, 0.05, 10.0


def place(ratio: float) -> float:
    """Where a ratio is on the logarithmic axis."""
    within = min(max(ratio, SMALLEST), LARGEST)
    return LEFT + WIDTH * math.log(within / SMALLEST) / math.log(LARGEST / SMALLEST)


def bar(y: int, title: str, ratio: float, target: float | None) -> list[str]:
    end, one = place(ratio), place(1.0)
    colour = "#7a8594" if target is None else "#2e7d5b" if ratio <= target else "#b3423a"
    parts = [
        f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(title)}</text>',
        f'<rect x="{min(end, one):.1f}" y="{y + 4}" width="{max(abs(end - one), 1):.1f}" height="{HEIGHT - 8}" fill="{colour}"/>',
        f'<text x="{LEFT + WIDTH + 8}" y="{y + 14}">{ratio:.2f}</text>',
    ]
    if target is not None:
        tick = place(target)
        parts.append(f'<path d="M{tick:.1f} {y + 1}v{HEIGHT - 2}" stroke="#111" stroke-width="2"/>')
    return parts


def chart(results: list[Result]) -> str:
    """One bar a row: its ratio to ext4, or to its bound; the tick is the target."""
    bars: list[str] = []
    y = 30
    for result in results:
        bound = [(ratio, target) for against, ratio, target in result.verdicts() if against == "bound"]
        ratio, target = (result.ratio("ext4"), result.row.ext4) if not bound else bound[0]
        if ratio is None:
            continue
        title = result.row.title + (" (to its bound)" if bound else "")
        bars += bar(y, title, ratio, target)
        y += HEIGHT
    axis = []
    for mark in (0.1, 0.2, 0.5, 1, 2, 5):
        axis.append(f'<path d="M{place(mark):.1f} 24V{y}" stroke="#ccc"/>')
        axis.append(f'<text x="{place(mark):.1f}" y="18" text-anchor="middle">{mark:g}</text>')
    size = f'width="{LEFT + WIDTH + 60}" height="{y + 10}"'
    style = 'font-family="sans-serif" font-size="12" fill="#111"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#fff"/>', *axis, *bars, "</svg>"]) + "\n"
