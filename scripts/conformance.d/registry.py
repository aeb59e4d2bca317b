"""Suites that the package registries have. Each installs itself once into the tools directory."""

import itertools
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

from place import Unusable, run, user
from results import Result, tap

NOBODY = 65534
FSX_CONFIG = """
flen = 262144
[opsize]
max = 65536
[weights]
close_open = 1
invalidate = 1
mapread = 10
mapwrite = 10
read = 10
write = 10
truncate = 5
fsync = 0.1
fdatasync = 0.1
posix_fallocate = 3
punch_hole = 5
sendfile = 3
posix_fadvise = 1
copy_file_range = 8
"""
PJDFSTEST_CONFIG = """
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.01
allow_remount = true
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"""
# Modules of CPython's tests that are about files, directories, mappings, locks and processes.
CPYTHON = """
test_bufio test_bz2 test_compileall test_dbm test_dbm_dumb test_dbm_gnu test_dbm_ndbm test_fcntl test_file test_filecmp
test_fileinput test_fileio test_fnmatch test_genericpath test_glob test_gzip test_import test_importlib test_io
test_ioctl test_largefile test_linecache test_lzma test_mailbox test_memoryio test_mmap test_netrc test_openpty test_os
test_pathlib test_pickle test_pkgutil test_popen test_posix test_posixpath test_py_compile test_pyclbr test_runpy
test_select test_selectors test_shelve test_shutil test_signal test_site test_socket test_sqlite3 test_stat
test_subprocess test_tarfile test_tempfile test_unicode_file test_unicode_file_functions test_venv test_zipapp
test_zipfile test_zipfile64 test_zipimport
""".split()


def command(*parts, timeout, **options):
    """Runs to the end whatever comes out; a hang is an error of its own."""
    options = {"text": True, "errors": "replace", "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options
    try:
        return subprocess.run([str(part) for part in parts], timeout=timeout, check=False, **options)
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"")[-2000:]
        raise Unusable(f"no end after {timeout} s: {' '.join(map(str, parts))}\n{said}") from error


def cargo_install(tools, name, version):
    program = tools / "bin" / name
    if not program.exists():
        run("cargo", "install", "--quiet", "--root", tools, f"{name}@{version}")
    return program


def need(program, package):
    if not shutil.which(program):
        raise Unusable(f"no {program}: apt-get install {package}")


def pjdfstest(place, tools, _options):
    result, config = Result("0.2.2"), place.work / "pjdfstest.toml"
    program = cargo_install(tools, "pjdfstest", result.version)
    config.write_text(PJDFSTEST_CONFIG)
    directory, second = place.fresh("pjdfstest"), Path("/dev/shm") / f"pjdfstest.{os.getpid()}"
    second.mkdir(mode=0o777)
    second.chmod(0o777)

    def once(*names):
        arguments = ["-c", config, "-p", directory, "-s", second, *names]
        return command(program, *arguments, timeout=600, env=os.environ | {"RUST_BACKTRACE": "0"}).stdout

    try:
        text = once()
        lines = re.findall(r"^(\S+)\s+(ok|FAILED|skipped)\n((?:\t.*\n)?)", text, re.M)
        for name, verdict, said in lines:
            # The suite leaves deleted files open, so remounting read-only finds the mount in use (on ext4, too); each of
            # these tests passes or fails by itself in a process of its own.
            if verdict == "FAILED" and "mount point is busy" in said:
                verdict = "ok" if re.search(rf"^{name}\s+ok$", once(name), re.M) else verdict
            if verdict == "ok":
                result.passed += 1
            elif verdict == "skipped":
                result.skip(said)
            else:
                result.fail(name, said)
        if not lines:
            raise Unusable(text[-2000:])
    finally:
        shutil.rmtree(second)
    return result


# What fsx asks of posix_fallocate by mistake, and POSIX says is EINVAL.
NO_BYTES = re.compile(r"POSIX_FALLOCATE .*\(\s*0x0 bytes\)\s*$")


def fsx(place, tools, options):
    """Four seeds. Not in one process each: fsx never unmaps, so what truncates takes longer and longer."""
    return fsx_runs(place, from_registry(place, tools), options.operations, 20_000, resuming=False)


def fsx_resume(place, tools, options):
    """The same with a stop and a resume after every 10,000 operations, when the file must be what it was."""
    return fsx_runs(place, from_registry(place, tools), options.operations, 10_000, resuming=True)


def from_registry(place, tools):
    config = place.work / "fsx.toml"
    config.write_text(FSX_CONFIG)
    program = [cargo_install(tools, "fsx", "0.3.2"), "-f", config, "-P", place.work]
    return "0.3.2", lambda count, seed, file: [*program, "-N", count, "-S", seed, file]


def fsx_runs(place, program, operations, step, resuming):
    """Each step is a sequence of its own: fsx begins every run with an empty file."""
    (version, arguments), random = program, itertools.count(1)
    result = Result(version)
    for seed in (1, 2, 3, 4):
        file = place.fresh("fsx") / "file"
        for done in range(0, operations, step):
            while True:
                command_line = arguments(min(step, operations - done), seed * 1_000_000 + next(random), file)
                ended = command(*command_line, timeout=7200, cwd=place.work)
                if ended.returncode == 0 or not NO_BYTES.search(ended.stdout):
                    break
                result.skip("begun again with another seed: fsx asked posix_fallocate for no bytes")
            if ended.returncode != 0:
                result.fail(f"seed {seed} from operation {done}", ended.stdout[-200:])
                break
            if resuming:
                before = state(file, place)
                place.restart()
                if state(file, place) != before:
                    result.fail(f"seed {seed} at operation {done + step}", "the file is another one after the resume")
                    break
        else:
            result.passed += operations
    return result


def state(file, place):
    """What must come back. ext4 may allocate late, so that its blocks change."""
    stat = file.stat()
    blocks = stat.st_blocks if place.name == "sessionfs" else None
    return (file.read_bytes(), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_mode, blocks)


def stress_ng(place, _tools, _options):
    need("stress-ng", "stress-ng")
    result = Result(run("stress-ng", "--version").stdout.split()[2])
    directory = place.fresh("stress-ng")
    # `io` calls sync(2) without end and fails on ext4 as well.
    listed = run("stress-ng", "--class", "filesystem?", check=False)
    names = re.findall(r"[a-z0-9-]+", (listed.stdout + listed.stderr).split("stressors:")[-1])
    for name in (name for name in names if name != "io"):
        arguments = [f"--{name}", "2", "-t", "2", "--verify", "--temp-path", directory]
        ended = command("stress-ng", *arguments, timeout=300, cwd=directory)
        if re.search(r"skipped: [1-9]|No stress workers invoked", ended.stdout) or ended.returncode in (3, 4):
            said = re.search(rf"({name}: .*(?:skip|not implemented).*)", ended.stdout)
            result.skip(said[1] if said else f"{name}: no worker starts here")
        elif ended.returncode == 0:
            result.passed += 1
        else:
            said = re.findall(r"(?:fail|error):.*", ended.stdout)
            result.fail(name, said[0] if said else f"status {ended.returncode}")
    return result


def cpython(place, _tools, _options):
    if not Path("/usr/lib/python3.11/test/test_os.py").exists():
        raise Unusable("no CPython tests: apt-get install libpython3.11-testsuite python3.11")
    result = Result(run("/usr/bin/python3.11", "--version").stdout.split()[1])
    directory = place.fresh("cpython")
    report = directory / "report.xml"
    arguments = ["-m", "test", "--junit-xml", report, "--tempdir", directory, "-u", "largefile", "--timeout", "600"]
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(directory), "HOME": str(directory), "LC_ALL": "C.UTF-8"}
    ended = command(*user(NOBODY), "/usr/bin/python3.11", *arguments, *CPYTHON, timeout=3600, env=environment, cwd=directory)
    if not report.exists():
        raise Unusable(ended.stdout[-2000:])
    junit(report, result)
    return result


def junit(report, result):
    for case in xml.etree.ElementTree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '')}.{case.get('name')}".lstrip(".")
        bad = [part for part in case if part.tag in ("failure", "error")]
        skipped = case.find("skipped")
        if bad:
            result.fail(name, bad[0].get("message") or (bad[0].text or "")[-200:])
        elif skipped is not None:
            result.skip(skipped.get("message") or skipped.text or "skipped")
        elif case.get("result", "completed") == "completed":
            result.passed += 1


def sqlite(place, tools, _options):
    """SQLite's own quick tests, as an ordinary user. Built from Debian's source, which has them."""
    fixture = sqlite_fixture(tools)
    source = fixture.parent
    result = Result(re.search(r"sqlite3-([\d.]+)", str(source))[1])
    directory = place.fresh("sqlite")
    os.chown(directory, NOBODY, NOBODY)
    ended = command(*user(NOBODY), fixture, source / "test" / "veryquick.test", timeout=5400, cwd=directory)
    counted = re.search(r"(\d+) errors out of (\d+) tests", ended.stdout)
    if not counted:
        raise Unusable(ended.stdout[-2000:])
    names = re.search(r"!?Failures on these tests: (.*)", ended.stdout)
    for name in names[1].split() if names else []:
        result.fail(name)
    result.passed = int(counted[2]) - int(counted[1])
    omitted = re.search(r"Omitted test cases:\n((?:  .*\n)+)", ended.stdout) or re.search(r"^(\. .*\n)+", ended.stdout)
    for line in omitted[0].splitlines()[1:] if omitted else []:
        result.skip(line.strip().lstrip(". ").split(maxsplit=1)[-1])
    return result


def sqlite_fixture(tools):
    folder = tools / "sqlite"
    if not (found := list(folder.glob("*/testfixture"))):
        folder.mkdir(exist_ok=True)
        need("dpkg-source", "dpkg-dev tcl-dev and a deb-src line for apt")
        run("apt-get", "source", "--quiet", "sqlite3", cwd=folder)
        source = next(path for path in folder.iterdir() if path.is_dir())
        run("./configure", "--quiet", cwd=source)
        run("make", "testfixture", cwd=source)
        found = [source / "testfixture"]
    return found[0]


def python_project(name, version, needs, tests):
    """The tests of an sdist, in a venv and a tree on the place itself."""

    def suite(place, _tools, _options):
        result, directory = Result(version), place.fresh(f"python-{name}")
        pip = ["pip", "--quiet", "--disable-pip-version-check"]
        run(sys.executable, "-m", *pip, "download", "--no-deps", "--no-binary", name, f"{name}=={version}", cwd=directory)
        run("tar", "xf", next(directory.glob("*.tar.gz")), "--strip-components=1", cwd=directory)
        run(sys.executable, "-m", "venv", "venv", cwd=directory)
        run("venv/bin/python", "-m", *pip, "install", "pytest", *needs, ".", cwd=directory)
        temporary = directory / "tmp"
        temporary.mkdir()
        environment = os.environ | {"TMPDIR": str(temporary), "HOME": str(temporary)}
        arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--junit-xml", "report.xml", *tests]
        ended = command("venv/bin/python", *arguments, timeout=1800, cwd=directory, env=environment)
        if not (directory / "report.xml").exists():
            raise Unusable(ended.stdout[-2000:])
        junit(directory / "report.xml", result)
        return result

    return suite


def npm_project(name, version, needs, script):
    """The tests that a package ships, with its runner, installed and run on the place itself. They speak TAP."""

    def suite(place, _tools, _options):
        result, directory = Result(version), place.fresh(f"npm-{name}")
        run("npm", "pack", "--silent", f"{name}@{version}", cwd=directory)
        run("tar", "xf", next(directory.glob("*.tgz")), "--strip-components=1", cwd=directory)
        quiet = ["--no-audit", "--no-fund", "--silent", "--ignore-scripts"]
        # What its developers use besides is not needed, and does not always resolve any more.
        run("npm", "pkg", "delete", "devDependencies", cwd=directory)
        run("npm", "install", *quiet, cwd=directory)
        run("npm", "install", *quiet, "--no-save", *needs, cwd=directory)
        temporary = directory / "tmp"
        temporary.mkdir()
        environment = os.environ | {"TMPDIR": str(temporary), "HOME": str(temporary)}
        ended = command("sh", "-c", script, timeout=900, cwd=directory, env=environment)
        tap(ended.stdout.splitlines(), name, result)
        return result

    return suite
