"""Works on whole trees: git, and the commands that copy, search and remove them."""

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from files import seconds
from rows import Context, Row, Times, Work
from sides import REPOSITORY, Floor, Side, quiet

MAKE_REPO = REPOSITORY / "scripts" / "acceptance.d" / "make-repo"
# A repository that depends on nobody's configuration.
AUTHOR = ("-c", "user.name=Bench", "-c", "user.email=bench@example.com")


def read_all(top: Path) -> None:
    """So that what is copied from comes out of memory on every side."""
    for directory, _, names in os.walk(top):
        for name in names:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                path.read_bytes()


def make_repository(context: Context) -> None:
    identity = {
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "Bench",
        "GIT_AUTHOR_EMAIL": "bench@example.com",
        "GIT_COMMITTER_NAME": "Bench",
        "GIT_COMMITTER_EMAIL": "bench@example.com",
    }
    made = [sys.executable, MAKE_REPO, context.scratch / "origin", str(context.scale.of(5000, 1000))]
    subprocess.run(made, check=True, env={**os.environ, **identity})
    quiet("git", "-C", context.scratch / "origin", "gc", "--quiet")


def edit(clone: Path, count: int) -> None:
    """Changes some files and adds as many, as a turn of an agent does."""
    listed = subprocess.run(["git", "-C", clone, "ls-files", "*.rs", "*.py", "*.md"], check=True, stdout=subprocess.PIPE)
    for name in listed.stdout.decode().splitlines()[:count]:
        with (clone / name).open("a") as file:
            file.write("a line\n")
    (clone / "added").mkdir()
    for i in range(count):
        (clone / "added" / f"file{i}.txt").write_text(f"added {i}\n" * 40)


def git(context: Context, side: Side, top: Path) -> Times:
    origin, clone = context.scratch / "origin", top / "clone"
    read_all(origin)

    def at(*arguments: str) -> None:
        quiet("git", *AUTHOR, "-C", clone, *arguments)

    times = {"clone": seconds(lambda: quiet("git", "clone", "--quiet", "--no-hardlinks", origin, clone))}
    side.settle()
    times["switch"] = seconds(lambda: at("switch", "--quiet", "feature"))
    edit(clone, context.scale.of(300, 100))
    side.settle()

    def commit() -> None:
        at("add", "--all")
        at("commit", "--quiet", "--message", "Work")

    times["commit"] = seconds(commit)
    if isinstance(side, Floor):
        return times
    side.settle()
    at("status")
    times["status-warm"] = seconds(lambda: at("status"))
    side.cold()
    times["status-cold"] = seconds(lambda: at("status"))
    return times


def make_archive(context: Context) -> None:
    """A source tree: sizes as they are in one, from empty to some hundred KiB."""
    tree, chance = context.scratch / "tree", random.Random(1)
    for i in range(context.scale.of(6000, 1500)):
        directory = tree / f"module{i % 37}" / f"part{i % 11}"
        directory.mkdir(parents=True, exist_ok=True)
        size = min(int(chance.lognormvariate(8, 1.3)), 400_000)
        (directory / f"source{i}.c").write_bytes(chance.randbytes(size // 8).hex().encode() * 4)
    quiet("tar", "-cf", context.scratch / "tree.tar", "-C", tree, ".")
    shutil.rmtree(tree)


def grep(tree: Path) -> None:
    done = subprocess.run(["grep", "-r", "not to be found", str(tree)], stdout=subprocess.DEVNULL)
    if done.returncode != 1:
        raise RuntimeError(f"grep -r {tree} ended with {done.returncode}")


def tree(context: Context, side: Side, top: Path) -> Times:
    archive, extracted, copy = context.scratch / "tree.tar", top / "tree", top / "copy"
    archive.read_bytes()
    extracted.mkdir()
    times = {"tar": seconds(lambda: quiet("tar", "-xf", archive, "-C", extracted))}
    side.settle()
    grep(extracted)
    times["cp"] = seconds(lambda: quiet("cp", "-r", extracted, copy))
    side.settle()
    grep(extracted)
    if not isinstance(side, Floor):
        times["grep-warm"] = seconds(lambda: grep(extracted))
    times["rm"] = seconds(lambda: quiet("rm", "-rf", copy))
    if not isinstance(side, Floor):
        side.settle()
        side.cold()
        times["grep-cold"] = seconds(lambda: grep(extracted))
    return times


WORKS = (
    Work(
        (
            Row("clone", "git clone, local, 5,000 files", ext4=0.95, floor=1.15),
            Row("switch", "git switch to another branch", ext4=1.1, floor=1.15),
            Row("commit", "git add + commit", ext4=0.8, floor=1.15),
            Row("status-warm", "git status, warm", ext4=1.0),
            Row("status-cold", "git status, cold after a resume", ext4=0.6),
        ),
        git,
        make_repository,
    ),
    Work(
        (
            Row("tar", "tar x of 6,000 files", ext4=1.8, floor=1.2),
            Row("cp", "cp -r of them", ext4=1.9, floor=1.2),
            Row("rm", "rm -rf of them", ext4=0.2, floor=1.15),
            Row("grep-warm", "grep -r, warm", ext4=1.05),
            Row("grep-cold", "grep -r, cold after a resume", ext4=0.4),
        ),
        tree,
        make_archive,
    ),
)
