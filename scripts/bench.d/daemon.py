"""Works that only a session has: its resume, its stop, its daemon's memory and wake-ups."""

import multiprocessing
import os
import time
from pathlib import Path

from files import MIB, create, directories, in_parallel, p99, seconds, stat, write_big
from rows import Context, Row, Times, Work
from sides import Ours, Side, quiet


def threads_switches(pid: int) -> int:
    """How often the daemon's threads have slept and been woken."""
    count = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        fields = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines())
        count += int(fields["voluntary_ctxt_switches"])
    return count


def memory(pid: int, what: str) -> float:
    """MiB of the daemon, what it maps of files included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/{pid}/status says nothing of {what}")


def resume(side: Ours) -> float:
    """Milliseconds from the start of the mount to the end of the first `ls`."""
    side.stop_cold()

    def first_ls() -> None:
        side.mount("--existing")
        quiet("ls", side.root)

    return seconds(first_ls) * 1000


def resumes(context: Context, side: Side, top: Path) -> Times:
    assert isinstance(side, Ours)
    few, many, rounds = 100, context.scale.of(100_000, 20_000), context.scale.runs
    directories(top, few)
    create(top, few)
    small = sorted(resume(side) for _ in range(rounds))[rounds // 2]
    directories(top / "more", many)
    create(top / "more", many)
    large = sorted(resume(side) for _ in range(rounds))[rounds // 2]
    stat(top / "more", many)
    side.settle()
    side.idle()
    pid = side.pid()
    before = threads_switches(pid)
    time.sleep(10)
    woken = threads_switches(pid) - before
    return {
        "resume": large,
        "resume-few": small,
        "resume-flat": large / small,
        "memory-idle": memory(pid, "VmRSS"),
        "wake-ups": float(woken),
    }


def full_load(context: Context, side: Side, top: Path) -> Times:
    assert isinstance(side, Ours)
    mebibytes, count = context.scale.of(1024, 256), context.scale.of(20_000, 4_000)
    directories(top / "small", count)
    # The highest so far begins again with what it has now.
    Path(f"/proc/{side.pid()}/clear_refs").write_text("5")
    noise = os.urandom(16 * MIB)
    in_parallel([(write_big, (top / "big", noise, mebibytes)), (create, (top / "small", count))])
    highest = memory(side.pid(), "VmHWM")
    side.settle()
    side.idle()
    return {"memory-load": highest, "memory-after": memory(side.pid(), "VmRSS")}


def beside(context: Context, side: Side, top: Path) -> Times:
    """Every stat is of a name that the kernel has not asked for yet: a known one would be no request at all."""
    noise, mebibytes = os.urandom(16 * MIB), context.scale.of(500, 200)
    creates: list[float] = []
    stats: list[float] = []
    writer = multiprocessing.Process(target=write_big, args=(top / "big", noise, mebibytes), daemon=True)
    writer.start()
    try:
        while writer.is_alive():
            name = str(top / f"beside{len(creates)}")
            creates.append(seconds(lambda: os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o644))))
            stats.append(seconds(lambda: os.path.exists(name + ".missing")))
            time.sleep(0.001)
    finally:
        writer.kill()
        writer.join()
    if writer.exitcode != 0:
        raise RuntimeError("the writer of the large file failed")
    return {"beside-create": p99(creates) * 1000, "beside-stat": p99(stats) * 1000}


def stop(_: Context, side: Side, top: Path) -> Times:
    """What a timer has committed meanwhile is not uncommitted any more: the stop follows at once."""
    assert isinstance(side, Ours)
    noise = os.urandom(16 * MIB)
    file = os.open(top / "big", os.O_CREAT | os.O_WRONLY, 0o644)
    for i in range(200):
        at = i * 1_048_583 % (len(noise) - MIB)
        os.write(file, memoryview(noise)[at : at + MIB])
    os.close(file)
    took = seconds(side.umount)
    side.mount("--existing")
    return {"stop": took}


WORKS = (
    Work(
        (
            Row("resume", "resume of 100,000 files to the first ls", "ms", bound=30),
            Row("resume-few", "the same of 100 files", "ms", bound=30),
            Row("resume-flat", "the first of these to the second", "", bound=2),
            Row("memory-idle", "the daemon's memory, idle, 100,000 files known", "MiB", bound=80),
            Row("wake-ups", "its wake-ups in 10 s of idleness", "", bound=0),
        ),
        resumes,
        sides=("ours",),
        once=True,
    ),
    Work(
        (
            Row("memory-load", "its memory under full write load, the highest", "MiB", bound=256),
            Row("memory-after", "its memory afterwards, idle", "MiB", bound=80),
        ),
        full_load,
        sides=("ours",),
    ),
    Work(
        (
            Row("beside-create", "a small create while 500 MB is being written, p99", "ms", bound=5),
            Row("beside-stat", "a stat meanwhile, p99", "ms", bound=5),
        ),
        beside,
        sides=("ours", "ext4"),
    ),
    Work((Row("stop", "stop with 200 MB uncommitted", bound=1.5),), stop, sides=("ours",)),
)
