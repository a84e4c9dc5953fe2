"""Numbers and names as people write them."""

import math

WORDS = {
    "iou": "IoU",
    "f1": "F1",
    "map": "mAP",
    "auroc": "AUROC",
    "nll": "NLL",
    "ece": "ECE",
    "mse": "MSE",
    "brier": "Brier",
}
MOST_PLACES = 6
"""Decimals beyond which a value is written with a power of ten: 2.3e-7, not 0.0000002."""
LEAST_POWER = 300
MOST_WRITTEN = 1e9
"""Values from which on a power of ten is shorter: a diverged perplexity has a hundred digits."""


def digits(value: float, spread: float) -> str:
    """Write a value to the digit that its uncertainty (the interval's half width) leaves meaningful."""
    return written(value, places_of(value, spread))


def with_bounds(value: float, low: float, high: float) -> str:
    """Write a value and its interval, which may be unknown, to the digits that it leaves meaningful."""
    half = (high - low) / 2
    said = digits(value, half)
    return f"{said} ({digits(low, half)} to {digits(high, half)})" if math.isfinite(half) else said


def p_value(p: float, level: float = 0.05) -> str:
    """Write a p-value, to as many places as it takes for one above ``level`` not to be rounded to it."""
    if math.isnan(p):
        return "no p"
    if p < 0.001:
        return "p < 0.001"
    places = 3
    while places < LEAST_POWER and float(f"{p:.{places}f}") <= level < p:
        places += 1
    return f"p = {p:.{places}f}"


def metric_name(metric: str) -> str:
    """Write a metric as people do: ``mean_iou`` is mean IoU."""
    return " ".join(WORDS.get(word, word) for word in metric.replace("_", " ").split())


def places_of(value: float, spread: float, *never_zero: float) -> int:
    """Decimal places for a value; where no spread is known its own size says how many, and none is lost."""
    places = decimals(spread, *never_zero)
    known = spread > 0 and math.isfinite(spread)
    return places if known else max(places, decimals(abs(value)))


def decimals(spread: float, *never_zero: float) -> int:
    """Decimal places: the half width's second digit where its first is 1 or 2, else the first.

    A bound on which a verdict rests is not to be rounded to 0; it gets as many places as that takes.
    """
    if not spread or not math.isfinite(spread):
        places = 3
    else:
        exponent = math.floor(math.log10(spread))
        leading = spread / 10.0**exponent
        places = (1 if leading < 3 else 0) - exponent
    places = max(0, min(LEAST_POWER, places))
    while places < LEAST_POWER and any(bound and float(f"{bound:.{places}f}") == 0 for bound in never_zero):
        places += 1
    return places


def written(value: float, places: int) -> str:
    """Write a number with so many decimals, or with a power of ten where it is far from one."""
    if not math.isfinite(value):
        return "–"
    if abs(value) >= MOST_WRITTEN:
        return _with_power(value, 2)
    text = f"{value:.{places}f}"
    if places > MOST_PLACES and float(text):
        after_first = max(0, places + math.floor(math.log10(abs(value))))
        text = _with_power(value, after_first)
    elif places > MOST_PLACES:
        text = "0"
    text = text.replace("-", "−")
    return text.removeprefix("−") if not text.strip("−0.") else text


def _with_power(value: float, places: int) -> str:
    mantissa, power = f"{value:.{places}e}".split("e")
    return f"{mantissa}e{int(power)}".replace("-", "−")
