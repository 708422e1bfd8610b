"""A machine of the test's own with the real systemd as PID 1: systemd-nspawn on an overlay of this machine's `/`.

What is written there goes into a tmpfs and is gone with it. It has no network but its own loopback. Needs root.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.programs import leave_out, program

BOOT_LIMIT_S = 30.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# enough of a machine for services to be started in; nothing of what this machine would start
TARGET = """[Unit]
Requires=basic.target
After=basic.target
AllowIsolate=yes
"""


class Machine:
    """`root`: its file system, as it is seen from here; `run` runs a script in it as root and gives what it printed."""

    def __init__(self, root: Path, pid: int) -> None:
        self.root, self.pid = root, pid

    def ask(self, script: str, limit_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a script with bash in /root."""
        enter = ["nsenter", "-t", str(self.pid), "-m", "-p", "-u", "-i", "-n"]
        clean = ["env", "-i", f"PATH={PATH}", "HOME=/root", "LANG=C.UTF-8"]
        return subprocess.run(
            [*enter, *clean, "bash", "-euo", "pipefail", "-c", f"cd /root\n{script}"],
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )

    def run(self, script: str, limit_s: float = 120.0) -> str:
        """The same; AssertionError with all that was said where it fails."""
        ended = self.ask(script, limit_s)
        assert ended.returncode == 0, f"{script}\n-> {ended.returncode}\n{ended.stdout}{ended.stderr}"
        return ended.stdout

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        lines = self.run(f"systemctl show {unit} -p {','.join(properties)}").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def wait_until(self, script: str, limit_s: float = 30.0) -> str:
        """Ask again until the script succeeds; what it printed then."""
        deadline_s = time.monotonic() + limit_s
        while (ended := self.ask(script)).returncode != 0:
            assert time.monotonic() < deadline_s, f"{script}\nnot within {limit_s} s: {ended.stdout}{ended.stderr}"
            time.sleep(0.25)
        return ended.stdout


@contextmanager
def machine(name: str) -> Iterator[Machine]:
    """Boot one; skips (or fails, where all must run) with the reason where this cannot be done here."""
    nspawn, _ = program("systemd-nspawn", "systemd-container"), program("nsenter", "util-linux")
    if os.geteuid() != 0:
        leave_out("a machine with systemd of its own needs root")
    folder = Path(tempfile.mkdtemp(prefix="pellucid-machine-"))
    layers, root = folder / "layers", folder / name
    layers.mkdir()
    root.mkdir()
    _mount(layers, root)
    process = None
    try:
        (root / "etc/machine-id").write_text("")
        (root / "etc/systemd/system/test.target").write_text(TARGET)
        command = [nspawn, "--quiet", "--directory", str(root), "--machine", name, "--register=no", "--keep-unit"]
        command += ["--private-network", "--console=pipe", "--boot", "--", "--unit=test.target"]
        with (folder / "console").open("wb") as console:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT)
        yield Machine(root, _booted(process, folder / "console"))
    finally:
        if process is not None:
            _end(process)
        subprocess.run(["umount", "--lazy", str(root), str(layers)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _mount(layers: Path, root: Path) -> None:
    """An overlay's upper layer has to lie on a file system that is none itself: a tmpfs."""
    upper, work = layers / "upper", layers / "work"
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(layers)], check=True, capture_output=True, text=True)
        upper.mkdir()
        work.mkdir()
        options = f"lowerdir=/,upperdir={upper},workdir={work}"
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, str(root)], check=True, capture_output=True, text=True
        )
    except subprocess.CalledProcessError as fault:
        subprocess.run(["umount", "--lazy", str(layers)], check=False, capture_output=True)
        leave_out(f"no overlay can be mounted here: {fault.stderr.strip()}")


def _booted(process: subprocess.Popen[bytes], console: Path) -> int:
    """The pid of its PID 1, once it has come up."""
    deadline_s = time.monotonic() + BOOT_LIMIT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        children = _children(process.pid)
        if children:
            asked = ["nsenter", "-t", str(children[0]), "-m", "-p", "-u", "-i", "-n", "systemctl", "is-system-running"]
            state = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
            if state in ("running", "degraded"):
                return children[0]
        time.sleep(0.1)
    leave_out(f"systemd does not come up in a container here: {console.read_text(errors='replace')[-600:]}")
    raise AssertionError


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _end(process: subprocess.Popen[bytes]) -> None:
    """As a power cut: with its PID 1 the kernel ends all that runs in it. Without nspawn it would live on."""
    if process.poll() is None:
        for first in _children(process.pid):
            os.kill(first, signal.SIGKILL)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
