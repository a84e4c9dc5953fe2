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
ASSERTED = re.compile(r"device-side assert", re.IGNORECASE)
NO_ENGINE = re.compile(r"unable to find (?:an engine to execute|a valid cuDNN algorithm)", re.I)
LIBRARY = re.compile(
    r"\b(cuDNN|CUDA|CUDA NVRTC|cuFFT|cusolver|cusparse) (?:Frontend )?error: *(?:CUDNN_BACKEND_\w+: )?"
    r"((?:CUDNN|CUBLAS|CUFFT|NVRTC|CUSOLVER|CUSPARSE)_\w+)",
    re.I,
)
BROKEN = re.compile(r"^CUDA (?:driver )?error: ([^\n]+)", re.M)
MEMORY = re.compile(r"^CUDA (?:driver )?error: out of memory", re.M)


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
    if ASSERTED.search(text):
        return (
            "met an index out of range on the GPU (a target beyond the classes, a token beyond the "
            f"vocabulary); {WHERE}"
        )
    if NO_ENGINE.search(text):
        return (
            "failed in cuDNN, which has no algorithm that repeats its results for one of the layers, or not "
            f"the memory for one; {LESS}; else another layer, or 'compute.device: cpu'"
        )
    if found := LIBRARY.search(text):
        return (
            f"failed in {found[1]} with {found[2]}; if the GPU's memory is nearly full, {LESS}; else driver "
            "and torch may not fit one another (docs/gpu.md)"
        )
    if found := BROKEN.search(text):
        return f"failed on the GPU with '{found[1]}'; {WHERE}"
    return None


def _short_of_memory(error: BaseException) -> bool:
    """Whether torch's cache found no memory, or the runtime did not."""
    return isinstance(error, torch.OutOfMemoryError) or bool(MEMORY.search(str(error)))


def lost(error: BaseException | None) -> bool:
    """Whether the process that met an error can use its GPU no more: only memory can be freed."""
    while error is not None:
        text = str(error)
        if not _short_of_memory(error) and (ASSERTED.search(text) or BROKEN.search(text)):
            return True
        error = error.__cause__
    return False
