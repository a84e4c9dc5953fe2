"""Which GPUs are ours: by number, UUID or MIG instance, as ``CUDA_VISIBLE_DEVICES`` names them."""

import os
import re

from lossbench.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
NAME = re.compile(r"\d+|GPU-[0-9A-Za-z-]+|MIG-[0-9A-Za-z/-]+")
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
        chosen.append(_among(name, known, device))
    os.environ[VISIBLE] = ",".join(chosen)
    return kind


def keep_to_part(device: str, sharers: int) -> None:
    """Keep this process to its equal part of a GPU's memory; else the first to ask takes what others need."""
    if device == "cuda" and sharers > 1:
        import torch

        torch.cuda.set_per_process_memory_fraction(1 / sharers)


def named() -> list[str]:
    """The names in ``CUDA_VISIBLE_DEVICES``; nothing where it is not set."""
    return [one for one in os.environ.get(VISIBLE, "").split(",") if one]


def _among(name: str, known: list[str], device: str) -> str:
    if not known:
        return name
    if name.isdigit() and int(name) < len(known):
        return known[int(name)]
    found = next((one for one in known if not name.isdigit() and one.startswith(name)), None)
    if found is None:
        raise UserError(
            f"--device is '{device}', but {VISIBLE} leaves us {len(known)}: {', '.join(known)}; allowed: a "
            f"number below {len(known)}, or one of these names"
        )
    return found


def ours() -> list[str]:
    """Name the GPUs that we may use, each so that a process that sees it alone can be told."""
    names = named()
    if names and names[0].startswith("MIG-"):
        return names  # CUDA shows a process the first of them alone, so that counting finds one
    import torch

    count = torch.cuda.device_count()
    return names[:count] if names else [str(number) for number in range(count)]
