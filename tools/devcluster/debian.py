"""Debian packages that the tools need: installed when missing."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from .errors import DevclusterError

_updated = False


def missing(packages: Sequence[str]) -> list[str]:
    """Those of `packages` that dpkg does not know as installed."""
    if not packages or shutil.which("dpkg-query") is None:
        return []
    command = ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *packages]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    present = {line.split()[0] for line in answer.stdout.splitlines() if line.endswith(" installed")}
    return [name for name in packages if name not in present]


def ensure_programs(programs: dict[str, str]) -> None:
    """Have each program (key) on PATH, from the Debian package (value) if need be."""
    needed = sorted({package for program, package in programs.items() if not _which(program)})
    if needed:
        install(needed)
    absent = [f"{program} (package {package})" for program, package in programs.items() if not _which(program)]
    if absent:
        raise DevclusterError(f"still not on PATH: {', '.join(absent)}; install it by hand")


def _which(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def ensure(packages: Sequence[str]) -> None:
    """Install those of `packages` that are missing."""
    needed = missing(packages)
    if needed:
        install(needed)


def install(packages: Sequence[str]) -> None:
    """`apt-get install`, as root or through sudo.

    Raises DevclusterError naming the packages when that cannot be done here.
    """
    global _updated
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise DevclusterError(f"this needs the Debian packages {names} (or their like); install them and try again")
    prefix: list[str] = []
    if os.geteuid() != 0:
        if shutil.which("sudo") is None:
            raise DevclusterError(f"this needs the Debian packages {names}; as root: apt-get install {names}")
        prefix = ["sudo"]
    print(f"installing Debian packages: {names}", file=sys.stderr, flush=True)
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--yes", "--quiet=2"]
    lock = ["-o", "DPkg::Lock::Timeout=300"]
    if not _updated:
        subprocess.run([*apt, *lock, "update"], capture_output=True, timeout=600, check=False)
        _updated = True
    command = [*apt, *lock, "install", "--no-install-recommends", *packages]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    if answer.returncode != 0:
        tail = (answer.stdout + answer.stderr).strip()[-800:]
        raise DevclusterError(f"apt-get install {names} failed; install them by hand:\n{tail}")
