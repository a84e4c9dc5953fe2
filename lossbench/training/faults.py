"""What a GPU or torch says when a training cannot go on, in a sentence each."""

import re

import torch

from lossbench.errors import GateError, UserError

LESS = (
    "lower 'recipe.batch_size', 'compute.members' of a population, or the number of trainings side by side "
    "on a GPU (--jobs)"
)
WHERE = "CUDA_LAUNCH_BLOCKING=1 makes torch tell the operation"
WANTED = re.compile(r"(?:Tried to allocate|Requested size:) ([\d.]+ \w+)")
FREE = re.compile(r"total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free", re.S)
PART = re.compile(r"([\d.]+ \w+) allowed;")
"""Of a process that has a part of the memory: what is free beside it is not its own."""
NO_DETERMINISTIC_FORM = re.compile(r"^(.+?) does not have a deterministic implementation", re.M)
NO_ENGINE = re.compile(r"unable to find (?:an engine to execute|a valid cuDNN algorithm)", re.I)
NAMED = r"^(?:[\w.]+Error: )?"
"""Where what torch says begins: a line, or one of an error that travelled in words."""
LIBRARY = re.compile(
    rf"{NAMED}(cuDNN|CUDA|CUDA NVRTC|cuFFT|cusolver|cusparse) (?:Frontend )?error: *(?:CUDNN_BACKEND_\w+: )?"
    r"((?:CUDNN|CUBLAS|CUFFT|NVRTC|CUSOLVER|CUSPARSE)_\w+)",
    re.I | re.M,
)
STATUSES = (
    (r"ALLOC_FAILED|NO_WORKSPACE|NVRTC_ERROR_OUT_OF_MEMORY", f"it found no memory; {LESS}"),
    (r"NOT_INITIALIZED", f"it could not start; if the GPU's memory is nearly full, {LESS}"),
    (
        r"ARCH_MISMATCH|NOT_SUPPORTED|NOT_IMPLEMENTED",
        "it has no such operation on this GPU; allowed: another layer or 'compute.precision', or "
        "'compute.device: cpu'",
    ),
    (
        r"VERSION_MISMATCH|SUBLIBRARY|RUNTIME_\w+|LICENSE|NVRTC|SETUP_FAILED",
        "it does not fit the driver or torch, of which one is to be updated (docs/gpu.md)",
    ),
    (r"INVALID|BAD_PARAM|ZERO_PIVOT", f"it refuses what a layer or loss asks of it, mostly a shape; {WHERE}"),
    (
        r"",
        f"a kernel before it may have failed: {WHERE}; else, if the GPU's memory is nearly full, {LESS}",
    ),
)
"""What a library's status means, and what to do: the first that is found in it."""
SAID = re.compile(rf"{NAMED}CUDA (?:driver )?error: ([^\n]+)|Cuda failure (?:\d+ )?'([^'\n]+)'", re.M)
"""What the runtime says to torch, or to NCCL."""
START = re.compile(
    rf"{NAMED}(The NVIDIA driver on your system is too old[^\n.]*|Found no NVIDIA driver on your system"
    r"|No CUDA GPUs are available|CUDA driver initialization failed[^\n.]*|CUDA unknown error[^\n.]*"
    r"|Unexpected error from cudaGetDeviceCount[^\n]*|GPU is lost[^\n]*"
    r"|[^\n]*GPU has fallen off the bus[^\n]*)",
    re.M,
)
"""What torch and the driver say that is no error of the runtime's."""
MEMORY = re.compile(
    rf"{NAMED}CUDA (?:driver )?error: out of memory|Cuda failure (?:\d+ )?'out of memory", re.M
)
CUDA: tuple[tuple[str, str], ...] = (
    (
        r"device-side assert",
        "met an index out of range on the GPU (a target beyond the classes, a token beyond the "
        f"vocabulary); {WHERE}",
    ),
    (
        r"driver version is insufficient|too old|newer driver|Driver is newer|in the installed CUDA driver"
        r"|driver combination|forward compatibility|stub library|unsupported toolchain",
        "meets a driver that does not fit torch's CUDA ('{}'): update the driver, or install a torch for an "
        "older CUDA",
    ),
    (
        r"no kernel image|kernel image is invalid|invalid device function|\bPTX\b",
        "finds no kernels for this GPU in the torch that is installed ('{}'): install one that is built for "
        "the GPU's compute capability (torch.cuda.get_arch_list() names them)",
    ),
    (
        r"busy or unavailable|already in use|\bMPS\b",
        "may not use the GPU ('{}'): another process holds it, its compute mode allows no second one, or MPS "
        "is not ready; nvidia-smi shows both; end that process, or use fewer workers (--jobs)",
    ),
    (
        r"ECC|NVLink|nvlink|hardware (?:error|stack)|fallen off the bus|GPU is lost",
        "met a fault of the GPU itself ('{}'), which no setting mends: see the kernel's log for NVIDIA's Xid "
        "(dmesg), then have the GPU reset or use another (--device)",
    ),
    (
        r"initiali[sz]|no CUDA-capable|invalid device (?:ordinal|context)|GPUs are available|no NVIDIA driver"
        r"|startup failure|Grid license|integrity|cudaGetDeviceCount|CUDA unknown error",
        "cannot start CUDA on the GPU ('{}'): see whether nvidia-smi shows it and CUDA_VISIBLE_DEVICES names "
        "it; if both are right, restart the driver or the machine",
    ),
    (
        r"illegal|launch failure|misaligned|program counter|address space"
        r"|invalid device pointer|invalid resource handle",
        f"had a kernel fail, which mostly read or wrote where it may not ('{{}}'); {WHERE}",
    ),
    (
        r"launch timed out",
        "ran a kernel for longer than the GPU that draws a screen allows ('{}'); " + LESS + ", or use a GPU "
        "without a screen",
    ),
    (
        r"captur",
        "does what cannot be recorded as a CUDA graph ('{}'); allowed: 'compute.graphs: false'",
    ),
    (
        r"too many (?:resources|blocks)|invalid configuration",
        "asks for more than a kernel of this GPU can do at once ('{}'), by the size of a batch or a layer; "
        + LESS,
    ),
    (r"", "failed on the GPU with '{}'; " + WHERE),
)
"""What the driver and the runtime say, and what it means: the first that is found in it."""
NCCL = re.compile(rf"{NAMED}(?:\[[^\n]*)?(?:NCCL error in:|NCCL communicator|Watchdog caught)[^\n]*", re.M)
GONE = re.compile(
    r"gloo/|Connection (?:closed|reset|refused)|Watchdog caught"
    r"|NCCL[^\n]*(?:remote process|was aborted|timeout|timed out)"
)
"""What torch says where another process has gone."""
LAST = re.compile(r"Last error:\s*\n?([^\n]+)")
NETWORKS: tuple[tuple[str, str], ...] = (
    (
        GONE.pattern,
        "waited for another of its processes, which has gone or hangs: what that one says comes first; run "
        "the same again",
    ),
    (
        r"unhandled system error",
        "had a call of the system refused to NCCL, mostly for want of shared memory or locked memory: see "
        "`df /dev/shm` and `ulimit -l`; NCCL_DEBUG=INFO tells the call",
    ),
    (
        r"[Dd]uplicate GPU|invalid (?:usage|argument)",
        "has two processes on one GPU, or GPUs that NCCL cannot use together: allowed is a GPU of its own "
        "for each of 'compute.processes'",
    ),
    (r"", "failed in NCCL, by which its processes speak; NCCL_DEBUG=INFO makes it tell more"),
)
"""What NCCL says, and what it means: the first that is found in it."""
KEEPS = re.compile(r"ALLOC_FAILED|NO_WORKSPACE|NOT_SUPPORTED|NOT_IMPLEMENTED|ARCH_MISMATCH|INVALID|BAD_PARAM")
"""Statuses of libraries after which the GPU can be used."""


def of_the_device(error: BaseException, whose: str = "the training") -> UserError | GateError | None:
    """Say what an error means: no memory, an index that a kernel refused, a library's, no deterministic form.

    Args:
        error: of torch.
        whose: how the sentence begins.

    Returns:
        a ``GateError`` where the device failed, a ``UserError`` where the model or loss cannot be trained so
        that its bits repeat; None where the error is none of these.

    """
    if not isinstance(error, RuntimeError):
        return None
    found = NO_DETERMINISTIC_FORM.search(str(error))
    if found and not isinstance(error, torch.OutOfMemoryError):
        return UserError(
            f"{whose} runs {found[1]}, which has no deterministic form on a GPU: its results would not "
            "repeat; allowed: a model and a loss without it, or 'compute.device: cpu'"
        )
    said = _no_memory(error) or _failure(str(error))
    return None if said is None else GateError(f"{whose} {said}")


def _no_memory(error: RuntimeError) -> str | None:
    if not _short_of_memory(error):
        return None
    return f"does not fit into the GPU's memory{_sizes(str(error))}; {LESS}; what was finished is kept"


def _sizes(text: str) -> str:
    wanted, free, part = WANTED.search(text), FREE.search(text), PART.search(text)
    if wanted is None:
        return ""
    there = ""
    if free is not None and part is not None:
        there = f", of the {part[1]} of {free[1]} that it may take"
    elif free is not None:
        there = f", {free[2]} of {free[1]} are free"
    return f" ({wanted[1]} more were wanted{there})"


def _failure(text: str) -> str | None:
    if NO_ENGINE.search(text):
        return (
            "failed in cuDNN, which has no algorithm that repeats its results for one of the layers, or not "
            f"the memory for one; {LESS}; else another layer, or 'compute.device: cpu'"
        )
    if found := LIBRARY.search(text):
        return f"failed in {found[1]} with {found[2]}: {_first(STATUSES, found[2])}"
    if found := SAID.search(text) or START.search(text):
        said = next(one for one in found.groups() if one)
        return _first(CUDA, said).format(said)
    if NCCL.search(text):
        last = LAST.search(text)
        return _first(NETWORKS, text) + (f" ('{last[1].strip()}')" if last else "")
    return None


def _first(table: tuple[tuple[str, str], ...], text: str) -> str:
    """Look up what is said of a text; the last row of a table is of every one."""
    return next(words for pattern, words in table if re.search(pattern, text))


def _short_of_memory(error: BaseException) -> bool:
    """Whether torch's cache found no memory, or the runtime did not."""
    return isinstance(error, torch.OutOfMemoryError) or bool(MEMORY.search(str(error)))


def lost(error: BaseException | None) -> bool:
    """Whether the process that met an error can use its GPU no more: only memory can be freed."""
    while error is not None:
        if isinstance(error, RuntimeError) and not _short_of_memory(error) and _breaks(str(error)):
            return True
        error = error.__cause__
    return False


def _breaks(text: str) -> bool:
    if found := LIBRARY.search(text):
        return KEEPS.search(found[2]) is None
    return any(pattern.search(text) for pattern in (SAID, START, NCCL))
