"""Samples the machine's load between epochs, under the names MLflow's system-metrics page knows.

No thread: training forks its workers, and a sample costs a tenth of a millisecond.
"""

import sys
import time

import psutil

EVERY = 10.0
"""Seconds between samples."""
FIRST = 0.5
"""Seconds before the first one, so that a short arm has one too."""
MEGABYTE = 1e6


class Sampler:
    """Gives a sample every ``every`` seconds at most; processor load is the mean since the last one."""

    def __init__(self, every: float = EVERY) -> None:
        self._every = every
        self._next = time.monotonic() + min(FIRST, every)
        psutil.cpu_percent()  # its first value is meaningless

    def due(self) -> dict[str, float] | None:
        """Take a sample if it is time for one."""
        now = time.monotonic()
        if now < self._next:
            return None
        self._next = now + self._every
        return {**_machine(), **_gpu()}


def _machine() -> dict[str, float]:
    memory = psutil.virtual_memory()
    disk = psutil.disk_usage(".")
    return {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": round(memory.used / MEGABYTE, 1),
        "system_memory_usage_percentage": memory.percent,
        "disk_usage_percentage": disk.percent,
        "disk_available_megabytes": round(disk.free / MEGABYTE, 1),
    }


def _gpu() -> dict[str, float]:
    """Read the GPU that torch uses, where one is in use."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "gpu_0_memory_usage_megabytes": round((total - free) / MEGABYTE, 1),
        "gpu_0_memory_usage_percentage": round(100 * (1 - free / total), 1),
    }
