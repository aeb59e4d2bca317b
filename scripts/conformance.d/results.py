"""What came out, and how it is shown."""

import json
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import tomllib

HERE = Path(__file__).resolve().parent
LIMITS = HERE / "limits.toml"
JSON = HERE / "results.json"
PAGE = HERE.parent.parent / "docs" / "conformance.md"
PLACES = ["sessionfs", "ext4"]


def one_line(said):
    """Without the folders in which it ran: they are another machine's."""
    return re.sub(r"\s+", " ", re.sub(r"(?<![\w.])(/[^\s/:'\"]+)+/", "", said)).strip()


@dataclass
class Result:
    """Of one suite at one place. `passed` is a number; each failure has its name, each test that did not apply a reason."""

    version: str
    passed: int = 0
    failed: dict = field(default_factory=dict)  # name: what it said, in a line
    skipped: dict = field(default_factory=dict)  # reason: how many

    def skip(self, reason, count=1):
        reason = one_line(reason)[:100] or "no reason given"
        self.skipped[reason] = self.skipped.get(reason, 0) + count

    def fail(self, name, said=""):
        self.failed[name] = one_line(said)[:200]

    @property
    def run(self):
        return self.passed + len(self.failed)


def tap(lines, name, result):
    """Adds what a test script said in TAP."""
    plan, seen = None, 0
    for line in lines:
        if found := re.match(r"1\.\.(\d+)(?:\s*#\s*(?:skip|SKIP)\w*:?\s*(.*))?", line):
            plan = int(found[1])
            if plan == 0:
                result.skip(found[2] or "all of a script")
        found = re.match(r"(not )?ok (\d+)(?: - )?\s*(.*)", line)
        if not found:
            continue
        seen += 1
        title, _, directive = found[3].partition("# ")
        if directive.lower().startswith("skip"):
            result.skip(re.sub(r"(?i)^skip\S*\s*", "", directive).strip("() ") or "skipped")
        elif directive.lower().startswith("todo"):
            result.skip("known breakage of the suite's own project")
        elif found[1]:
            result.fail(f"{name} {found[2]}", title)
        else:
            result.passed += 1
    if plan is None or (plan != seen and plan > 0):
        result.fail(f"{name} plan", f"{seen} of {plan} tests reported")


def read():
    return json.loads(JSON.read_text()) if JSON.exists() else {}


class Board:
    """All results, the causes of failures that are known, and the two places where they are written down."""

    def __init__(self):
        self.limits = tomllib.loads(LIMITS.read_text())["limit"]
        self.results = read()

    def add(self, suite, place, result, seconds):
        entry = asdict(result) | {"seconds": round(seconds)}
        self.results.setdefault(suite, {})[place] = entry

    def cause(self, suite, test):
        """Why a test fails: the limit that names it, or that the baseline fails too; None when nobody knows."""
        for limit in self.limits:
            if any(re.fullmatch(pattern, f"{suite}: {test}") for pattern in limit["tests"]):
                return limit["id"]
        if test in self.results[suite].get("ext4", {}).get("failed", {}):
            return "ext4 fails it too"
        return None

    def not_offered(self, suite, place):
        """Failures of tests that ask for what no session has, each with its limit: they do not apply."""
        absent = {limit["id"] for limit in self.limits if limit["kind"] == "not offered"}
        failed = self.results[suite].get(place, {}).get("failed", {}) if place == "sessionfs" else {}
        return {test: cause for test in failed if (cause := self.cause(suite, test)) in absent}

    def unexplained(self, suite):
        failed = self.results[suite].get("sessionfs", {}).get("failed", {})
        return {test: said for test, said in failed.items() if self.cause(suite, test) is None}

    def write(self, suite, place):
        """Writes down one result; the others are as they are on the disk, where another run may have written since."""
        entry, self.results = self.results[suite][place], read()
        self.results.setdefault(suite, {})[place] = entry
        JSON.write_text(json.dumps(self.results, indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        page = PAGE.read_text()
        for name, text in (("scoreboard", self.scoreboard()), ("skipped", self.skips()), ("limits", self.limit_table())):
            begin, end = f"<!-- {name}: made by scripts/conformance -->", f"<!-- /{name} -->"
            head, _, rest = page.partition(begin)
            tail = rest.partition(end)[2]
            page = f"{head}{begin}\n{text}\n{end}{tail}"
        PAGE.write_text(page)

    def scoreboard(self):
        lines = [
            "| suite | version | run | passed | failed | not applicable | ext4: run | passed | failed | not applicable |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for suite, places in sorted(self.results.items()):
            cells = [suite, next(iter(places.values()))["version"]]
            for place in PLACES:
                entry = places.get(place)
                if entry is None:
                    cells += ["–"] * 4
                    continue
                absent = len(self.not_offered(suite, place))
                failed = len(entry["failed"]) - absent
                skipped = sum(entry["skipped"].values()) + absent
                cells += [entry["passed"] + failed, entry["passed"], failed, skipped]
            lines.append("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in cells) + " |")
        return "\n".join(lines)

    def skips(self):
        lines = ["| suite | not applicable, on a session | tests |", "| --- | --- | --- |"]
        for suite, places in sorted(self.results.items()):
            absent = Counter(f"not offered: {cause}" for cause in self.not_offered(suite, "sessionfs").values())
            skipped = places.get("sessionfs", {}).get("skipped", {}) | absent
            # Always shown: what sessions lack; of the others the most frequent.
            most = sorted(skipped.items(), key=lambda pair: (pair[0] not in absent, -pair[1]))
            for reason, count in most[:8]:
                lines.append(f"| {suite} | {reason.replace('|', '/')} | {count} |")
            if most[8:]:
                lines.append(f"| {suite} | {len(most[8:])} other reasons | {sum(count for _, count in most[8:])} |")
        return "\n".join(lines)

    def limit_table(self):
        known, tests = Counter(), {}
        for suite, places in sorted(self.results.items()):
            for test in places.get("sessionfs", {}).get("failed", {}):
                cause = self.cause(suite, test) or "not explained"
                known[cause] += 1
                tests.setdefault(cause, []).append(f"{suite} {test}")
        causes = {limit["id"]: limit for limit in self.limits}
        lines = ["| limit | whose | tests that meet it | cause | proof |", "| --- | --- | --- | --- | --- |"]
        for cause, count in known.most_common():
            limit = causes.get(cause, {"kind": "suite or machine", "cause": cause, "proof": "the columns of ext4 above"})
            names = ", ".join(tests[cause][:12]) + (f" and {count - 12} more" if count > 12 else "")
            cells = [cause, limit["kind"], f"{count}: {names}", limit["cause"], limit["proof"]]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)
