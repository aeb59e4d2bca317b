"""Where a suite runs: a mounted session, or ext4 on a loop device as the baseline."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
HELPER = REPOSITORY / "packaging" / "mount.fuse.sessionfs"
INSTALLED = Path("/sbin/mount.fuse.sessionfs")
SIZE = "12G"


class Unusable(Exception):
    """A suite or a place that cannot be had here; the message says what to install or set."""


def run(*command, **options):
    """A command that must succeed; what it says is in the error when it does not."""
    options = {"check": True, "text": True, "capture_output": True} | options
    try:
        return subprocess.run([str(part) for part in command], **options)
    except subprocess.CalledProcessError as error:
        raise Unusable(f"{' '.join(map(str, command))}: {error.stderr or error}") from error


def user(uid):
    """What makes a command an ordinary user's."""
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]


class Place:
    """A mounted file system. `device` and `options` are what mount(8) takes, for suites that mount by themselves."""

    def __init__(self, work, name):
        self.name, self.work = name, work
        # Short: a socket's path has 108 bytes. Immutable: what is written while nothing is mounted must not be hidden later.
        self.point, self.other = work / "m", work / "n"
        for point in (self.point, self.other):
            point.mkdir()
            run("chattr", "+i", point)

    def mount(self, number=0, point=None):
        run("mount", *self.mount_arguments(number), point or self.point)

    def umount(self, point=None):
        run("umount", point or self.point)

    def restart(self):
        """Ends and comes back, with nothing left in the page cache."""
        self.umount()
        self.mount()

    def fresh(self, name):
        """An empty directory that everybody may use."""
        directory = self.point / name
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir()
        directory.chmod(0o1777)
        return directory

    def close(self):
        for point in (self.point, self.other):
            if os.path.ismount(point):
                subprocess.run(["umount", "-l", str(point)], check=False)
            subprocess.run(["chattr", "-i", str(point)], check=False)


class Mount(Place):
    """Two sessions: the first is mounted, the second is for suites that want a scratch file system."""

    def __init__(self, work, program):
        super().__init__(work, "sessionfs")
        os.environ["SESSIONFS"] = str(program)
        self.store = work / "store"
        self.store.mkdir()
        self.installed = not INSTALLED.exists()
        if self.installed:
            INSTALLED.symlink_to(HELPER)
        elif INSTALLED.resolve() != HELPER:
            raise Unusable(f"{INSTALLED} is another one than {HELPER}; take it away first")
        self.options = f"store={self.store},size={SIZE},allow_other,allow_suid,allow_dev"
        self.devices = [f"sessionfs:{part}-{os.getpid()}" for part in ("first", "second")]  # two runs at a time
        self.type = "fuse.sessionfs"
        self.mount()

    def mount_arguments(self, number):
        return ["-t", self.type, "-o", self.options, self.devices[number]]

    def close(self):
        # Not by umount(8), which returns before the servers have stopped.
        for device in self.devices:
            session = device.removeprefix("sessionfs:")
            if (self.store / session).exists():
                command = [os.environ["SESSIONFS"], "--quiet", "--store", self.store, "umount", "--lazy", session]
                subprocess.run(command, check=False)
        super().close()
        if self.installed:
            INSTALLED.unlink()


class Ext4(Place):
    """The baseline: two images on the disk under the work directory."""

    def __init__(self, work):
        super().__init__(work, "ext4")
        self.options, self.type, self.devices = "acl,user_xattr", "ext4", []
        for number in range(2):
            image = work / f"ext4-{number}.img"
            run("truncate", "-s", SIZE, image)
            run("mkfs.ext4", "-q", "-F", image)
            self.devices.append(run("losetup", "--find", "--show", image).stdout.strip())
        self.mount()

    def mount_arguments(self, number):
        return ["-t", self.type, "-o", self.options, self.devices[number]]

    def close(self):
        super().close()
        for device in self.devices:
            subprocess.run(["losetup", "-d", device], check=False)


def work_directory():
    return Path(tempfile.mkdtemp(prefix="sfs.", dir=os.environ.get("ACCEPT_TMP", "/var/tmp")))
