"""Works on single files: small ones by the thousand, large ones, and those that are synced. One call is one to three
system calls in Python, which costs 1-2 us on every side."""

import multiprocessing
import os
import random
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from rows import Context, Row, Times, Work
from sides import Side

PAGE = os.urandom(4096)
MIB = 1 << 20
PER_DIRECTORY = 100
WORDS = "return match file error value index buffer length session block offset handle string result option".split()


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def each(calls: Iterable[Callable[[], object]]) -> list[float]:
    return [seconds(call) for call in calls]


def p99(times: list[float]) -> float:
    return sorted(times)[len(times) * 99 // 100]


# --- Small files --------------------------------------------------------------------------------------------------------


def paths(top: Path, count: int) -> list[str]:
    return [str(top / f"d{i // PER_DIRECTORY}" / f"file{i}") for i in range(count)]


def directories(top: Path, count: int) -> None:
    for i in range(-(-count // PER_DIRECTORY)):
        (top / f"d{i}").mkdir(parents=True)


def new_file(path: str, sync: bool = False) -> None:
    file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    os.write(file, PAGE)
    if sync:
        os.fsync(file)
    os.close(file)


def create(top: Path, count: int) -> None:
    for path in paths(top, count):
        new_file(path)


def stat(top: Path, count: int) -> None:
    for path in paths(top, count):
        os.stat(path)


def read_small(top: Path, count: int) -> None:
    for path in paths(top, count):
        file = os.open(path, os.O_RDONLY)
        os.read(file, 4096)
        os.close(file)


def walk(top: Path) -> None:
    for directory in os.scandir(top):
        for entry in os.scandir(directory):
            entry.stat(follow_symlinks=False)


def in_parallel(calls: list[tuple[Callable[..., object], tuple[object, ...]]]) -> None:
    """One process for each call; a process that fails fails the work."""
    processes = [multiprocessing.Process(target=call, args=arguments, daemon=True) for call, arguments in calls]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join()
            if process.exitcode != 0:
                raise RuntimeError(f"a process of the work ended with {process.exitcode}")
    finally:
        # Only after a failure or an interrupt is one of them still there, and in the way of unmounting.
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()


def small(context: Context, side: Side, top: Path) -> Times:
    count = context.scale.of(20_000, 2_000)
    one, four = top / "one", [top / f"four{n}" for n in range(4)]
    for directory, share in [(one, count), *((directory, count // 4) for directory in four)]:
        directories(directory, share)
    side.settle()
    times = {"create": seconds(lambda: create(one, count))}
    side.settle()
    times["create-four"] = seconds(lambda: in_parallel([(create, (directory, count // 4)) for directory in four]))
    side.settle()
    walk(one)
    read_small(one, count)
    micros = 1e6 / count
    times["stat"] = seconds(lambda: stat(one, count)) * micros
    times["read-small"] = seconds(lambda: read_small(one, count)) * micros
    times["walk"] = seconds(lambda: walk(one)) * micros
    return times


# --- Large files --------------------------------------------------------------------------------------------------------


def text(size: int) -> bytes:
    """Compresses like source code, and no two blocks of it are the same."""
    chance = random.Random(1)
    return " ".join(chance.choices(WORDS, k=size // 6)).encode()[:size]


def write_big(path: Path, source: bytes, mebibytes: int) -> None:
    file = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    view = memoryview(source)
    for i in range(mebibytes):
        # Odd places, so that what comes round again does not come in the same blocks.
        at = i * 1_048_583 % (len(source) - MIB)
        os.write(file, view[at : at + MIB])
    os.fsync(file)
    os.close(file)


def read_big(path: Path) -> None:
    buffer = bytearray(MIB)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass


def big(context: Context, side: Side, top: Path) -> Times:
    mebibytes = context.scale.of(1024, 128)
    compressible, noise = text(16 * MIB), random.Random(2).randbytes(16 * MIB)
    times = {"write-text": seconds(lambda: write_big(top / "text", compressible, mebibytes))}
    side.settle()
    times["write-random"] = seconds(lambda: write_big(top / "random", noise, mebibytes))
    (top / "random").unlink()
    side.settle()
    read_big(top / "text")
    times["read-warm"] = seconds(lambda: read_big(top / "text"))
    side.cold()
    times["read-cold"] = seconds(lambda: read_big(top / "text"))
    return times


# --- Single writes, synced and not --------------------------------------------------------------------------------------


def prepared(path: Path, mebibytes: int) -> int:
    file = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    for _ in range(mebibytes):
        os.write(file, PAGE * 256)
    os.fsync(file)
    return file


def appends(context: Context, side: Side, top: Path) -> Times:
    count = context.scale.of(20_000, 3_000)
    log, pages = prepared(top / "log", 0), prepared(top / "pages", 16)
    os.lseek(log, 0, os.SEEK_END)
    side.settle()
    appended = each(lambda: os.write(log, PAGE[:100]) for _ in range(count))
    side.settle()
    order = [random.Random(3).randrange(4096) * 4096 for _ in range(count)]
    overwritten = each(lambda at=at: os.pwrite(pages, PAGE, at) for at in order)
    os.close(log)
    os.close(pages)
    return {"append": statistics.median(appended) * 1e6, "overwrite": statistics.median(overwritten) * 1e6}


def synced(path: Path, count: int) -> list[float]:
    """Writes and syncs pages of a file that is there, of 1 MiB."""
    file = os.open(path, os.O_RDWR)

    def call(i: int) -> None:
        os.pwrite(file, PAGE, i * 37 % 256 * 4096)
        os.fsync(file)

    times = each(lambda i=i: call(i) for i in range(count))
    os.close(file)
    return times


def synced_new(prefix: str, count: int) -> list[float]:
    return each(lambda i=i: new_file(f"{prefix}-{i}", True) for i in range(count))


def fsync(context: Context, side: Side, top: Path) -> Times:
    count = context.scale.of(2000, 200)
    pages = [top / f"page{n}" for n in range(8)]
    for page in (top / "page", *pages):
        os.close(prepared(page, 1))
    side.settle()
    single = synced(top / "page", count)
    side.settle()
    new = synced_new(str(top / "new"), count)
    side.settle()
    new_eight = seconds(lambda: in_parallel([(synced_new, (str(top / f"new{n}"), count // 8)) for n in range(8)]))
    side.settle()
    eight = seconds(lambda: in_parallel([(synced, (page, count // 8)) for page in pages]))
    return {
        "fsync-p50": statistics.median(single) * 1e6,
        "fsync-p99": p99(single) * 1e6,
        "fsync-new": statistics.median(new) * 1e6,
        "fsync-new-p99": p99(new) * 1e6,
        "fsync-new-eight": new_eight / (count // 8 * 8) * 1e6,
        "fsync-eight": eight / (count // 8 * 8) * 1e6,
    }


def transactions(path: Path, mode: str, count: int) -> float:
    base = sqlite3.connect(path, isolation_level=None)
    base.execute(f"PRAGMA journal_mode={mode}")
    base.execute("PRAGMA synchronous=FULL")
    base.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")
    took = sum(each(lambda i=i: base.execute("INSERT INTO t VALUES (?, ?)", (i, PAGE[:200])) for i in range(count)))
    base.close()
    return took


def sqlite(context: Context, side: Side, top: Path) -> Times:
    count = context.scale.of(1000, 200)
    times = {"sqlite-rollback": transactions(top / "rollback.db", "DELETE", count)}
    side.settle()
    times["sqlite-wal"] = transactions(top / "wal.db", "WAL", count)
    return times


WORKS = (
    Work(
        (
            Row("create", "create + write 4 KiB × 20,000", ext4=1.0, floor=1.2),
            Row("create-four", "the same by four processes", ext4=1.0, floor=1.2),
            Row("stat", "stat of a known file", "µs"),
            Row("read-small", "open + read + close of a cached file", "µs"),
            Row("walk", "readdir + stat, again, an entry", "µs"),
        ),
        small,
    ),
    Work(
        (
            Row("write-text", "sequential write of 1 GiB to fsync, compressible", ext4=1.3),
            Row("write-random", "the same, random bytes", ext4=1.6),
            Row("read-warm", "sequential read of it, warm", ext4=1.0),
            Row("read-cold", "the same, cold after a resume", ext4=1.0),
        ),
        big,
        sides=("ours", "ext4"),
    ),
    Work(
        (
            Row("append", "append of 100 bytes, p50", "µs", bound=4),
            Row("overwrite", "random 4 KiB overwrite, p50", "µs", bound=11),
        ),
        appends,
    ),
    Work(
        (
            Row("fsync-p50", "4 KiB write + fsync, p50", "µs", ext4=0.8),
            Row("fsync-p99", "the same, p99", "µs", ext4=1.0),
            Row("fsync-new", "create, write 4 KiB, fsync, p50", "µs", ext4=1.0),
            Row("fsync-new-p99", "the same, p99", "µs", ext4=1.0),
            Row("fsync-new-eight", "the same by eight writers, mean", "µs", ext4=1.0),
            Row("fsync-eight", "4 KiB write + fsync by eight writers, mean", "µs", ext4=0.5),
        ),
        fsync,
        sides=("ours", "ext4"),
    ),
    Work(
        (
            Row("sqlite-rollback", "SQLite, 1,000 durable transactions, rollback journal", ext4=0.8),
            Row("sqlite-wal", "the same, WAL", ext4=1.0),
        ),
        sqlite,
        sides=("ours", "ext4"),
    ),
)
