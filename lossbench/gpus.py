"""Which GPUs are ours: by number, UUID or MIG instance, as ``CUDA_VISIBLE_DEVICES`` names them."""

import os
import re
from itertools import takewhile

from lossbench.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
NAME = re.compile(r"[0-9]+|GPU-[0-9A-Za-z-]+|MIG-[0-9A-Za-z/-]+")
ALLOWED = "cpu, cuda, or cuda: and the number or the name of one of them, as in cuda:1 or cuda:GPU-8932f937"


def choose(device: str) -> str:
    """Take ``--device``: let this process and its children see the GPUs that it names.

    Which GPU computes is no part of a result and so of no params; its model is part of a result's key.

    Args:
        device: ``cpu``, ``cuda``, or ``cuda:`` and numbers or names, with commas between; a number counts
            among those that are visible already, a MIG instance or UUID is one of them by its name.

    Returns:
        ``cpu`` or ``cuda``, what ``compute.device`` is to be.

    Raises:
        UserError: for anything else.

    """
    kind, colon, names = device.partition(":")
    if kind not in ("cpu", "cuda") or (colon and kind == "cpu"):
        raise UserError(f"--device is '{device}'; allowed: {ALLOWED}")
    if not colon:
        return kind
    known, chosen = named(), []
    for name in names.split(","):
        if not NAME.fullmatch(name):
            raise UserError(f"--device is '{device}', where '{name}' is no GPU; allowed: {ALLOWED}")
        chosen.append(name if known is None else _among(name, known, device))
    if len({(one.partition("-")[0] if "-" in one else "") for one in chosen}) > 1:
        raise UserError(
            f"--device is '{device}', which names GPUs in several ways, of which CUDA reads the first alone; "
            "allowed: numbers, or names that begin alike (GPU-…, MIG-…)"
        )
    if len(set(chosen)) < len(chosen):
        raise UserError(f"--device is '{device}', which names a GPU twice; allowed: each once")
    os.environ[VISIBLE] = ",".join(chosen)
    return kind


def keep_to_part(device: str, sharers: int) -> None:
    """Keep this process to its equal part of a GPU's memory; else the first to ask takes what others need."""
    if device == "cuda" and sharers > 1:
        import torch

        torch.cuda.set_per_process_memory_fraction(1 / sharers)


def named() -> list[str] | None:
    """The names in ``CUDA_VISIBLE_DEVICES``, as CUDA reads them: up to the first that is none.

    None where it is not set; an empty list, as of ``-1`` or of nothing, where it hides all GPUs.
    """
    text = os.environ.get(VISIBLE)
    return None if text is None else list(takewhile(NAME.fullmatch, map(str.strip, text.split(","))))


def _among(name: str, known: list[str], device: str) -> str:
    if name.isdigit() and int(name) < len(known):
        return known[int(name)]
    found = [one for one in known if not name.isdigit() and one.startswith(name)]
    if name in found or len(found) == 1:
        return name if name in found else found[0]
    if found:
        raise UserError(
            f"--device is '{device}', but '{name}' begins several of {VISIBLE}'s names: {', '.join(found)}; "
            "allowed: more of one name"
        )
    if not known:
        raise UserError(
            f"--device is '{device}', but {VISIBLE} is '{os.environ[VISIBLE]}', which hides all GPUs; "
            "allowed: cpu, or that variable unset"
        )
    raise UserError(
        f"--device is '{device}', but {VISIBLE} leaves us {len(known)}: {', '.join(known)}; allowed: a "
        f"number below {len(known)}, or one of these names"
    )


def ours() -> list[str]:
    """Name the GPUs that we may use, each so that a process that sees it alone can be told."""
    names = named()
    if names and names[0].startswith("MIG-"):
        return names  # CUDA shows a process the first of them alone, so that counting finds one
    import torch

    count = torch.cuda.device_count()
    return [str(number) for number in range(count)] if names is None else names[:count]
