"""Counts the requests that the kernel sends to the server, which does not depend on time at all."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BLOCK = b"sessionfs " * 409 + b"bench "

# The most requests that each of these may cause. A directory in which something changed costs one GETATTR, because
# the kernel checks permissions; the kernel asks for `security.capability` before the first write to a new inode.
ALLOWED = {
    "a small file, created and written": {"LOOKUP": 1, "CREATE": 1, "GETXATTR": 1, "WRITE": 1, "GETATTR": 1},
    "a 4 KiB write to an open file": {"WRITE": 1},
    "open, read and close of a cached file": {},
    "stat of a known file": {},
    "stat of a missing name, again": {},
    "a listing with attributes, again": {},
    "a rename": {"LOOKUP": 1, "RENAME": 1, "RENAME2": 1, "GETATTR": 1},
    "an unlink": {"UNLINK": 1, "GETATTR": 1},
}


class Mount:
    """A throwaway session, mounted by a server that logs every request."""

    def __init__(self, program: str, work: Path, log: Path) -> None:
        self.program, self.point = program, work / "mnt"
        self.point.mkdir()
        self.store = ["--store", str(work / "store")]
        # fuser logs each request; the kernel sends the same ones by io_uring, where nothing does.
        options = ["--foreground", "--size", "8G", "--transport", "device"]
        mount = [program, *self.store, "mount", *options, "bench", str(self.point)]
        environment = {**os.environ, "SESSIONFS_LOG": "fuser::request=debug"}
        self.server = subprocess.Popen(mount, env=environment, stderr=log.open("w"), stdout=subprocess.DEVNULL)
        while not os.path.ismount(self.point):
            if self.server.poll() is not None:
                sys.exit(f"the server ended: {log.read_text()}")
            time.sleep(0.01)
        time.sleep(0.3)

    def __enter__(self) -> "Mount":
        return self

    def __exit__(self, *_: object) -> None:
        os.chdir("/")
        done = subprocess.run([self.program, *self.store, "umount", "bench"], stdout=subprocess.DEVNULL)
        if done.returncode != 0:
            subprocess.run(["umount", "-l", self.point])
        self.server.wait()


def requests(log: Path, work: Callable[[], object]) -> dict[str, int]:
    """What `work` causes, by kind. FORGET comes when it comes, and nobody waits for it."""
    time.sleep(0.2)
    before = log.stat().st_size
    work()
    time.sleep(0.2)
    with log.open("rb") as file:
        file.seek(before)
        text = file.read().decode(errors="replace")
    kinds: dict[str, int] = {}
    for kind in re.findall(r"FUSE\(\s*\d+\) ino \S+ (\w+)", text):
        if "FORGET" not in kind:
            kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def count_requests(program: str, work: Path) -> list[dict[str, Any]]:
    log, times = work / "log", 20
    with Mount(program, work, log) as mount:
        top = mount.point / "d"
        top.mkdir()
        names = [str(top / f"file{i}") for i in range(times)]

        def each(action: Callable[[str], object]) -> Callable[[], object]:
            return lambda: [action(name) for name in names]

        def new(name: str) -> None:
            file = os.open(name, os.O_CREAT | os.O_WRONLY, 0o644)
            os.write(file, BLOCK)
            os.close(file)

        def known(name: str) -> None:
            file = os.open(name, os.O_RDONLY)
            os.read(file, 4096)
            os.close(file)

        def missing(name: str) -> None:
            try:
                os.stat(name + ".missing")
            except FileNotFoundError:
                pass

        def listing() -> None:
            for entry in os.scandir(top):
                entry.stat()

        found = {"a small file, created and written": requests(log, each(new))}
        if not found["a small file, created and written"]:
            raise RuntimeError(f"{log} has no request at all: nothing can be counted by it")
        listing()
        file = os.open(names[0], os.O_WRONLY)
        os.pwrite(file, b"x", 0)
        found["a 4 KiB write to an open file"] = requests(log, each(lambda _: os.pwrite(file, BLOCK, 8192)))
        os.close(file)
        for name in names:
            known(name)
            missing(name)
        found["open, read and close of a cached file"] = requests(log, each(known))
        listing()
        found["stat of a known file"] = requests(log, each(os.stat))
        found["stat of a missing name, again"] = requests(log, each(missing))
        found["a listing with attributes, again"] = requests(log, listing)
        found["a rename"] = requests(log, each(lambda name: os.rename(name, name + ".renamed")))
        found["an unlink"] = requests(log, each(lambda name: os.unlink(name + ".renamed")))
    results = []
    for what, kinds in found.items():
        allowed = ALLOWED[what]
        # A request more in all, for what the first of them finds unknown.
        over = [kind for kind, n in kinds.items() if n > allowed.get(kind, 0) * times + 1]
        per = {kind: round(n / times, 2) for kind, n in kinds.items()}
        results.append({"work": what, "requests": round(sum(kinds.values()) / times, 2), "by_kind": per, "over": over})
    return results


def show(results: list[dict[str, Any]]) -> None:
    print(f"{'requests for':40} {'each':>6}  by kind")
    for result in results:
        kinds = ", ".join(f"{kind} {n:g}" for kind, n in result["by_kind"].items()) or "-"
        print(f"{result['work']:40} {result['requests']:6.2f}  {kinds}")
