"""The places that are measured: a session of ours, a directory on the store's own disk, the floor, and a peer's mount."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
# What a cold row runs: its program itself is not what is to be read from the disk.
TOOLS = ("git", "grep", "ls")


def quiet(*command: str | Path, cwd: Path | None = None) -> None:
    """Runs a command that has to succeed; what it said shows only when it does not."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}: {said}")


def drop_caches() -> None:
    os.sync()
    DROP_CACHES.write_text("3")
    for tool in TOOLS:
        quiet(tool, "--version")


class Plain:
    """A directory, on the disk of the store or on a peer's mount."""

    def __init__(self, name: str, base: Path) -> None:
        self.name, self.root = name, base / f"bench-{os.getpid()}"

    def start(self) -> None:
        self.root.mkdir()

    def end(self) -> None:
        shutil.rmtree(self.root)

    def settle(self) -> None:
        """What the step before left to be written is not the next one's to pay for."""
        os.sync()

    def cold(self) -> None:
        drop_caches()


class Ours:
    """A new session for each work, so that no row depends on those before it."""

    name = "ours"

    def __init__(self, program: str, work: Path, transport: str | None) -> None:
        self.program, self.root, self.session = program, work / "mnt", "bench"
        self.store = work / "store"
        self.transport = ["--transport", transport] if transport else []
        self.root.mkdir()

    def call(self, *arguments: str) -> str:
        command = [self.program, "--store", str(self.store), *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def mount(self, *options: str) -> None:
        # Not quiet: the log then says which transport it got.
        self.call("mount", *self.transport, *options, self.session, str(self.root))

    def umount(self) -> None:
        self.call("-q", "umount", self.session)

    def start(self) -> None:
        self.mount("--size", "8G")

    def end(self) -> None:
        os.chdir("/")
        if os.path.ismount(self.root):
            try:
                self.umount()
            except RuntimeError as error:
                print(f"detaching {self.root}: {error}", file=sys.stderr)
                quiet("umount", "-l", self.root)
                return
        self.call("-q", "rm", self.session)

    def settle(self) -> None:
        self.call("-q", "sync", self.session)
        os.sync()

    def stop_cold(self) -> None:
        self.umount()
        drop_caches()
        self.call("--version")

    def cold(self) -> None:
        self.stop_cold()
        self.mount("--existing")

    def pid(self) -> int:
        return int(json.loads(self.call("--json", "status", self.session))["pid"])

    def cpu(self) -> float:
        """Seconds of processor time that the server has used."""
        fields = Path(f"/proc/{self.pid()}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def idle(self, most: float = 300) -> tuple[float, float]:
        """Waits until the server has packed again what is cold: until it has used no processor time for longer than
        it takes to begin (COLD_AFTER_MS). Returns the seconds until then, and those of the processor."""
        began, before = time.monotonic(), self.cpu()
        last, since = before, began
        while (now := time.monotonic()) - since < 8:
            if now - began > most:
                raise RuntimeError(f"the server is not idle after {most:.0f} s")
            time.sleep(0.5)
            # What asking costs the server is less than a tick or two.
            if (used := self.cpu()) - last > 0.02:
                last, since = used, time.monotonic()
        return since - began, last - before

    def stored_bytes(self) -> int:
        """All that the stopped session holds on the disk, not only its database."""
        return sum(path.stat().st_size for path in (self.store / self.session).iterdir() if path.is_file())

    def log(self) -> str:
        return (self.store / self.session / "daemon.log").read_text()

    def transport_in_use(self) -> str:
        found = re.search(r"serves at .*, (io_uring|/dev/fuse)\)", self.log())
        return found.group(1) if found else "a transport that its log does not name"


class Floor:
    """The same mount with a journal that keeps nothing: what FUSE itself costs."""

    name = "floor"

    def __init__(self, program: str, work: Path, transport: str | None) -> None:
        self.program, self.root, self.directory = program, work / "floor", work / "floor.d"
        self.environment = {**os.environ, **({"SESSIONFS_TRANSPORT": transport} if transport else {})}
        self.serving: subprocess.Popen[bytes] | None = None
        self.root.mkdir()

    def start(self) -> None:
        self.directory.mkdir()
        self.serving = subprocess.Popen(
            [self.program, self.directory, self.root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
            # An interrupt is for us, who end it when nothing works in it any more.
            start_new_session=True,
        )
        assert self.serving.stdout
        if self.serving.stdout.readline() != b"mounted\n":
            raise RuntimeError("the floor could not be mounted")

    def end(self) -> None:
        if self.serving and self.serving.stdin:
            self.serving.stdin.close()
            self.serving.wait()
        if os.path.ismount(self.root):
            quiet("umount", "-l", self.root)
        shutil.rmtree(self.directory, ignore_errors=True)

    def settle(self) -> None:
        os.sync()
        time.sleep(0.1)

    def cold(self) -> None:
        raise AssertionError("the floor keeps nothing that could be resumed")


Side = Plain | Ours | Floor


def release_binary() -> str:
    """The environment's SESSIONFS, or a release build."""
    if named := os.environ.get("SESSIONFS"):
        return named
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=REPOSITORY, check=True)
    return str(Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target")) / "release" / "sessionfs")


def floor_binary() -> str:
    """The environment's FLOOR, or a release build of benches/floor.rs."""
    if named := os.environ.get("FLOOR"):
        return named
    command = ["cargo", "build", "--release", "--quiet", "--bench", "floor", "--message-format", "json"]
    made = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE)
    for line in made.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == "floor":
            return str(message["executable"])
    raise RuntimeError("cargo did not say where it put the floor")
