"""Suites that exist only as repositories: run from a tree that somebody has built, named by an environment variable."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from place import Unusable, run, user
from registry import command, fsx_runs
from results import Result, tap

TESTER = 65533  # an ordinary user for git's tests, which skip some when they are root's
# LTP's tests of calls that take files, descriptors of files, directories, mappings of files, or mounts.
LTP_CALLS = re.compile(
    r"(access|chdir|chmod|chown|close|copy_file_range|creat|dup|execve|fadvise|faccessat|fallocate|fchdir|fchmod|fchown|"
    r"fcntl|fdatasync|fgetxattr|flistxattr|flock|fpathconf|fremovexattr|fsetxattr|fstat|fsync|ftruncate|futimesat|"
    r"getcwd|getdents|getxattr|inotify|ioctl0|lchown|lgetxattr|link|listxattr|llistxattr|llseek|lremovexattr|lseek|lstat|"
    r"mkdir|mkdirat|mkfifo|mknod|mknodat|mlock|mmap|mount|mprotect|mremap|msync|munmap|name_to_handle|open|openat|pathconf|"
    r"pipe|posix_fadvise|posix_fallocate|pread|preadv|pwrite|pwritev|read|readahead|readdir|readlink|readv|remap_file|"
    r"removexattr|rename|rmdir|sendfile|setxattr|splice|stat|statfs|statvfs|statx|symlink|sync|syncfs|tee|tempfile|truncate|"
    r"umask|unlink|utime|utimensat|utimes|ustat|vmsplice|write|writev|lgetxattr|creat|diotest|fs_)"
)

# Of its group `fs`: what reads or mounts other file systems.
LTP_ELSEWHERE = re.compile(r"read_all|proc01|isofs|quota|binfmt|squashfs")


def tree(variable, file):
    """The built tree that an environment variable names."""
    if not (named := os.environ.get(variable)):
        raise Unusable(f"set {variable} to a built tree")
    if not (Path(named) / file).exists():
        raise Unusable(f"{variable}={named}: no {file} there; is it built?")
    return Path(named).resolve()


def described(source):
    ended = run("git", "-C", source, "describe", "--always", "--tags", check=False)
    return ended.stdout.strip() or "unknown"


def pjdfstest_c(place, _tools, _options):
    source = tree("PJDFSTEST_C", "pjdfstest")
    result = Result(described(source))
    for script in sorted(source.glob("tests/*/*.t")):
        directory = place.fresh("pjdfstest-c")
        said = command("sh", script, timeout=600, cwd=directory).stdout
        tap(said.splitlines(), str(script.relative_to(source / "tests")), result)
    return result


def fsx_c(place, _tools, options):
    """Four seeds, in one process each."""
    return fsx_runs(place, from_xfstests(), options.operations, options.operations, resuming=False)


def fsx_c_resumed(place, _tools, options):
    return fsx_runs(place, from_xfstests(), options.operations, 10_000, resuming=True)


def from_xfstests():
    """The fsx of xfstests, whose mappings come and go, with fallocate in all its modes and copy_file_range."""
    source = tree("XFSTESTS", "ltp/fsx")
    options = ["-q", "-l", 262_144, "-o", 65_536]
    return described(source), lambda count, seed, file: [source / "ltp/fsx", *options, "-N", count, "-S", seed, file]


def git(place, _tools, options):
    """t0000 to t1999, as an ordinary user."""
    source = tree("GIT", "t/helper/test-tool")
    result, directory = Result(described(source)), place.fresh("git")
    output = place.work / f"git-{place.name}"
    output.mkdir(mode=0o777, exist_ok=True)
    os.chown(output, TESTER, TESTER)
    os.chown(directory, TESTER, TESTER)
    environment = os.environ | {"TEST_OUTPUT_DIRECTORY": str(output), "HOME": str(output), "GIT_SKIP_TESTS": ""}

    def one(script):
        arguments = ["sh", script.name, f"--root={directory}"]
        return script, command(*user(TESTER), *arguments, timeout=1800, cwd=source / "t", env=environment).stdout

    with ThreadPoolExecutor(options.jobs) as pool:
        for script, said in pool.map(one, sorted(source.glob("t/t[01][0-9][0-9][0-9]-*.sh"))):
            tap(said.splitlines(), script.stem, result)
    return result


def xfstests(place, _tools, options):
    """The generic tests of one group (quick, unless --group says otherwise)."""
    source = tree("XFSTESTS", "ltp/fsx")
    result = Result(described(source))
    place.umount()
    folder = place.work / f"xfstests-{place.name}"
    shim = folder / "bin"
    shim.mkdir(parents=True)
    # Its check of the type knows only "fuse", not "fuse.sessionfs".
    (shim / "df").write_text("#!/bin/sh\n/bin/df \"$@\" | sed 's/fuse\\.sessionfs/fuse/'\n")
    (shim / "df").chmod(0o755)
    kind, _, subtype = place.type.partition(".")
    (folder / "config").write_text(f"""
export TEST_DEV={place.devices[0]} TEST_DIR={place.point}
export SCRATCH_DEV={place.devices[1]} SCRATCH_MNT={place.other}
export FSTYP={kind} FUSE_SUBTYP={"." + subtype if subtype else ""}
export MOUNT_OPTIONS="-o {place.options}" TEST_FS_MOUNT_OPTS="-o {place.options}"
""")
    environment = os.environ | {
        "HOST_OPTIONS": str(folder / "config"),
        "RESULT_BASE": str(folder / "results"),
        "PATH": f"{shim}:{os.environ['PATH']}",
    }
    said = command("./check", "-g", f"generic/{options.group}", timeout=7200, cwd=source, env=environment).stdout
    place.mount()
    for name, outcome in re.findall(r"^(generic/\d+)\s+(.*(?:\n    .*)*)", said, re.M):
        outcome = re.sub(r"^\d+s \.\.\.\s*", "", outcome)
        if found := re.match(r"\[(?:not run|expunged)\]\s*(.*)", outcome):
            result.skip(found[1])
        elif re.match(r"\d+s(\s|$)", outcome):
            result.passed += 1
        else:
            result.fail(name, outcome)
    if not result.run:
        raise Unusable(said[-2000:])
    return result


def ltp(place, _tools, options):
    """The system calls about files, and other groups, with TMPDIR at the place."""
    source = tree("LTP", "testcases/kernel/syscalls/open/open01")
    result, directory = Result(described(source)), place.fresh("ltp")
    programs = {path.name: path for path in (source / "testcases").rglob("*") if path.is_file() and os.access(path, os.X_OK)}
    folders = ":".join(sorted({str(path.parent) for path in programs.values()}))
    environment = os.environ | {
        "TMPDIR": str(directory),
        "LTPROOT": str(source),
        "PATH": f"{os.environ['PATH']}:{folders}",
        "LTP_COLORIZE_OUTPUT": "n",
        "LTP_TIMEOUT_MUL": "2",
        "KCONFIG_SKIP_CHECK": "1",
    }
    for name, line in ltp_tests(source, options.ltp.split(",")):
        program = programs.get(line.split()[0])
        if program is None:
            result.skip("not built here: its library or header is missing")
            continue
        if device_of_its_own(program):
            result.skip("mounts a device of its own")
            continue
        directory.chmod(0o1777)
        try:
            ended = command("sh", "-c", line, timeout=300, cwd=program.parent, env=environment)
        except Unusable as error:
            result.fail(name, str(error))
            continue
        said = re.findall(r"(?:TFAIL|TBROK)\W*:?\s*(.*)", ended.stdout)
        if ended.returncode == 0:
            result.passed += 1
        elif ended.returncode == 32:
            reason = re.findall(r"TCONF\W*:?\s*(.*)", ended.stdout)
            result.skip(reason[-1] if reason else "TCONF")
        else:
            result.fail(name, said[0] if said else f"status {ended.returncode}")
    return result


def ltp_tests(source, groups):
    """Name and command line of each test."""
    for group in groups:
        for line in (source / "runtest" / group).read_text().splitlines():
            name, _, rest = line.strip().partition(" ")
            if not rest or name.startswith("#"):
                continue
            if LTP_CALLS.match(name) if group == "syscalls" else not LTP_ELSEWHERE.match(name):
                yield name, rest.strip()


def device_of_its_own(program):
    """Whether a test formats a loop device, so that what TMPDIR is on does not matter."""
    sources = [program.with_name(re.sub(r"_(16|64)$", "", program.name) + ".c"), program]
    readable = (path for path in sources if path.suffix in (".c", ".sh") and path.exists())
    text = "".join(path.read_text(errors="replace") for path in readable)
    return bool(re.search(r"\.(needs_device|format_device|mount_device|all_filesystems|needs_rofs)\s*=\s*1|TST_FORMAT_DEVICE", text))
