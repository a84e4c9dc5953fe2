"""`lossbench seeds`: how many seeds a comparison needs, said before any training."""

import argparse
import json
import math
from typing import Any

from lossbench.errors import UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.description = "Say how many seeds it takes to see a difference of the margin's size, and a tie."
    spread = parser.add_mutually_exclusive_group(required=True)
    spread.add_argument(
        "--sd", type=float, help="standard deviation of the paired differences between two losses"
    )
    spread.add_argument("--sd-scores", type=float, help="or: of one loss's scores over seeds")
    parser.add_argument("--correlation", type=float, help="of the pairs, with --sd-scores (0)")
    parser.add_argument(
        "--margin", type=float, required=True, help="largest difference that does not matter to you"
    )
    parser.add_argument("--arms", type=int, default=2, help="losses, the baseline among them (2)")
    parser.add_argument("--all-pairs", action="store_true", help="each is compared with each")
    parser.add_argument("--level", type=float, default=0.05)
    parser.add_argument("--power", type=float, default=0.8)
    parser.add_argument("--format", choices=("text", "json"), default="text")


def main(chosen: argparse.Namespace) -> None:
    """Print the numbers."""
    sd, correlation = chosen.sd, chosen.correlation or 0.0
    if sd is None:
        _expect(-1 <= correlation < 1, f"--correlation must be from -1 to below 1, found {correlation:g}")
        _expect(chosen.sd_scores > 0, f"--sd-scores must be a number above 0, found {chosen.sd_scores:g}")
        sd = chosen.sd_scores * math.sqrt(2 * (1 - correlation))
    else:
        _expect(
            chosen.correlation is None,
            "--correlation goes with --sd-scores; --sd is of the differences, which hold it already",
        )
    found = plan(sd, chosen.margin, chosen.arms, chosen.level, chosen.power, chosen.all_pairs)
    print(json.dumps(found, indent=1) if chosen.format == "json" else said(found))


def plan(
    sd: float, margin: float, arms: int = 2, level: float = 0.05, power: float = 0.8, all_pairs: bool = False
) -> dict[str, Any]:
    """How many seeds a comparison needs.

    Args:
        sd: standard deviation of the paired differences between two arms.
        margin: in the metric's unit.
        arms: losses, the baseline among them.
        level: family-wise.
        power: wanted.
        all_pairs: whether each is compared with each.

    Raises:
        UserError: for a number out of its range.

    """
    from lossbench.statistics.equivalence import seeds_for_tie
    from lossbench.statistics.family import floor_seeds, seeds_for
    from lossbench.statistics.verdict import FEWEST_FOR_TIE

    _expect(sd > 0 and math.isfinite(sd), f"--sd must be a number above 0, found {sd:g}")
    _expect(margin > 0 and math.isfinite(margin), f"--margin must be a number above 0, found {margin:g}")
    _expect(
        0 < margin / sd < math.inf,
        f"--margin of {margin:g} and a standard deviation of {sd:g} are too far apart to compute with",
    )
    _expect(arms >= 2, f"--arms must be 2 or more, found {arms}")
    _expect(0 < level < 0.5, f"--level must lie between 0 and 0.5, found {level:g}")
    _expect(0 < power < 1, f"--power must lie between 0 and 1, found {power:g}")
    contrasts = math.comb(arms, 2) if all_pairs else arms - 1
    return {
        "sd": sd,
        "margin": margin,
        "contrasts": contrasts,
        "level": level,
        "power": power,
        "seeds_at_least": floor_seeds(contrasts, level),
        "seeds_for_difference": seeds_for(margin / sd, contrasts, level, power),
        "seeds_for_tie": seeds_for_tie(margin / sd, level / contrasts, power, FEWEST_FOR_TIE),
    }


def said(found: dict[str, Any]) -> str:
    """Write the plan in sentences."""
    many, power = found["contrasts"], 100 * found["power"]
    contrasts = f"{many} contrast{'s' * (many > 1)}"
    return (
        f"{_count(found['seeds_for_difference'])} to find a true difference of {found['margin']:g} with a "
        f"probability of {power:g} % ({contrasts}, level {found['level']:g}, differences of standard "
        f"deviation {found['sd']:.3g}).\n{_count(found['seeds_for_tie'])} to show a tie within ± "
        f"{found['margin']:g} where there is no difference.\n{found['seeds_at_least']} seeds at least: with "
        "fewer no difference can be shown, however large.\nThe standard deviation is of differences between "
        "two losses on the same seed. Of one loss's scores: --sd-scores, which counts pairs as uncorrelated "
        "unless you say --correlation."
    )


def _count(seeds: int | None) -> str:
    return "More than 100 000 seeds" if seeds is None else f"{seeds} seeds"


def _expect(holds: bool, sentence: str) -> None:
    if not holds:
        raise UserError(sentence)
