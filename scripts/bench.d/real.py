"""Works with what the package registries serve, fetched once and used offline from then on."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from files import seconds
from rows import Context, Row, Times, Work
from sides import REPOSITORY, Ours, Side, quiet

HELPERS = REPOSITORY / "scripts" / "acceptance.d"
ENVIRONMENT = {"CI": "1", "npm_config_update_notifier": "false", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
# git packs by itself, behind the back of who measures.
ENVIRONMENT |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "gc.auto", "GIT_CONFIG_VALUE_0": "0"}
MIN_PACKAGES, MIN_WHEELS, MIN_CRATES = 300, 10, 50


def fetch_web(at: Path) -> None:
    shutil.copytree(HELPERS / "web", at / "web")
    options = ("--no-audit", "--no-fund", "--cache", at / "cache")
    # From an empty directory, so that the lock file has the packages of other platforms, without which `npm ci` refuses it.
    # For the same reason package.json pins rollup: registries that mirror with a delay lack the newest for some platform.
    quiet("npm", "install", "--package-lock-only", *options, cwd=at / "web")
    quiet("npm", "ci", *options, cwd=at / "web")
    quiet("npm", "ci", "--offline", *options, cwd=at / "web")
    packages = (at / "web" / "package-lock.json").read_text().count('"node_modules/')
    if packages < MIN_PACKAGES:
        raise RuntimeError(f"only {packages} packages, not {MIN_PACKAGES}")


def fetch_python(at: Path) -> None:
    shutil.copytree(HELPERS / "python", at / "python")
    quiet("python3", "-m", "pip", "download", "--dest", at / "wheels", "--requirement", at / "python" / "requirements.txt")
    wheels = len(list((at / "wheels").iterdir()))
    if wheels < MIN_WHEELS:
        raise RuntimeError(f"only {wheels} packages, not {MIN_WHEELS}")


def fetch_crate(at: Path) -> None:
    shutil.copytree(HELPERS / "crate", at / "crate")
    quiet("cargo", "vendor", "--quiet", at / "vendor", cwd=at / "crate")
    crates = len(list((at / "vendor").iterdir()))
    if crates < MIN_CRATES:
        raise RuntimeError(f"only {crates} crates, not {MIN_CRATES}")
    shutil.copytree(at / "crate", at / "built")
    build(at, at / "built")


FETCH = {"web": fetch_web, "python": fetch_python, "crate": fetch_crate}


def fetch(inputs: Path, name: str) -> str | None:
    """Makes an input; what went wrong, if it cannot be had. A half of one never takes its name."""
    part = inputs / f"{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        FETCH[name](part)
    except (RuntimeError, OSError) as error:
        shutil.rmtree(part)
        return str(error)
    part.rename(inputs / name)
    return None


def npm_ci(context: Context, _: Side, top: Path) -> Times:
    web = context.inputs / "web"
    for name in ("package.json", "package-lock.json"):
        shutil.copy(web / "web" / name, top)
    command = ("npm", "ci", "--offline", "--no-audit", "--no-fund", "--cache", web / "cache")
    return {"npm": seconds(lambda: quiet(*command, cwd=top))}


def pip_install(context: Context, side: Side, top: Path) -> Times:
    python = context.inputs / "python"
    quiet("python3", "-m", "venv", top / "venv")
    side.settle()
    options = ("--no-index", "--no-cache-dir", "--find-links", python / "wheels")
    requirements = python / "python" / "requirements.txt"
    command = (top / "venv" / "bin" / "pip", "install", *options, "--requirement", requirements)
    return {"pip": seconds(lambda: quiet(*command))}


def build(inputs: Path, crate: Path) -> None:
    """With the crates that were vendored, wherever the inputs are, and in the crate's own target directory."""
    settings = ("--config", 'source.crates-io.replace-with="vendored"')
    settings += ("--config", f'source.vendored.directory="{inputs / "vendor"}"')
    quiet("cargo", "build", "--offline", "--quiet", "--target-dir", crate / "target", *settings, cwd=crate)


def cargo_build(context: Context, side: Side, top: Path) -> Times:
    inputs, crate = context.inputs / "crate", top / "crate"
    shutil.copytree(inputs / "crate", crate)
    times = {"cargo": seconds(lambda: build(inputs, crate))}
    side.settle()
    times["cargo-again"] = seconds(lambda: build(inputs, crate))
    return times


def tar_bytes(tree: Path) -> int:
    tar = subprocess.Popen(["tar", "--sort=name", "-C", tree, "-c", "."], stdout=subprocess.PIPE)
    zstd = subprocess.Popen(["zstd", "-3", "-q", "-c"], stdin=tar.stdout, stdout=subprocess.PIPE)
    assert tar.stdout and zstd.stdout
    tar.stdout.close()
    size = 0
    while block := zstd.stdout.read(1 << 20):
        size += len(block)
    if tar.wait() != 0 or zstd.wait() != 0:
        raise RuntimeError(f"tar or zstd failed on {tree}")
    return size


def size_of(key: str, *path: str) -> Work:
    title = {"vendor": "sources", "node_modules": "node_modules", "target": "a target directory"}[path[-1]]

    def work(context: Context, side: Side, top: Path) -> Times:
        assert isinstance(side, Ours)
        tree = context.inputs.joinpath(*path)
        quiet("cp", "-a", f"{tree}/.", top)
        side.settle()
        waited, cpu = side.idle()
        side.umount()
        stored = side.stored_bytes()
        side.mount("--existing")
        size = tar_bytes(tree)
        told = f"{stored:,} bytes to {size:,}; idle after {waited:.0f} s and {cpu:.1f} s of processor"
        print(f"{key}: {told}", file=sys.stderr, flush=True)
        return {key: stored / size}

    row = Row(key, f"bytes on disk to tar | zstd -3: {title}", "", bound=1.1)
    return Work((row,), work, sides=("ours",), needs=(path[0],), once=True)


def clean_environment() -> None:
    os.environ.update(ENVIRONMENT)
    for name in ("CARGO_BUILD_TARGET_DIR", "CARGO_TARGET_DIR"):
        os.environ.pop(name, None)


WORKS = (
    Work((Row("npm", "npm ci of 300 packages or more", ext4=1.0, floor=1.1),), npm_ci, needs=("web",)),
    Work((Row("pip", "pip install of ten packages", ext4=1.0, floor=1.05),), pip_install, needs=("python",)),
    Work(
        (
            Row("cargo", "cargo build of 50 crates or more", ext4=1.0, floor=1.05),
            Row("cargo-again", "cargo build again, of nothing", ext4=1.05, floor=1.05),
        ),
        cargo_build,
        needs=("crate",),
    ),
)
SIZES = (
    size_of("size-sources", "crate", "vendor"),
    size_of("size-node", "web", "web", "node_modules"),
    size_of("size-target", "crate", "built", "target"),
)
