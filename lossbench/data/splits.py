"""Splits by content: a sample's side follows from its bytes alone, so it never changes when data grow."""

import hashlib
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from lossbench.data.samples import POOL, Array, Samples
from lossbench.errors import UserError
from lossbench.params import Splits


def position(content: str, salt: str) -> float:
    """Place a content hash on [0, 1), evenly and for ever.

    Args:
        content: SHA-256 of the sample's decoded content, hexadecimal.
        salt: shifts all samples at once; another salt is another division.

    """
    digest = hashlib.sha256(f"{salt}:{content}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def divide(hashes: Sequence[str], shares: Mapping[str, float], salt: str) -> dict[str, Array]:
    """Divide samples into the named shares; what is left over is "train".

    Args:
        hashes: content hash per sample.
        shares: split → share; must sum to less than 1.
        salt: see :func:`position`.

    Returns:
        split → sample indices, in the order given.

    """
    sides = np.array([side(one, shares, salt) for one in hashes])
    return {name: np.flatnonzero(sides == name) for name in (*shares, "train")}


def side(content: str, shares: Mapping[str, float], salt: str) -> str:
    """Say which of the named shares a content hash falls into; "train" is what is left over."""
    place, low = position(content, salt), 0.0
    for name, share in shares.items():
        if place < low + share:
            return name
        low += share
    return "train"


def divided(groups: Collection[str], splits: Splits) -> tuple[str, dict[str, float]]:
    """Name the group that is divided, and the shares that are carved out of it."""
    name = POOL if POOL in groups else "train"
    shares = {"test": splits.test, "validation": splits.validation, "reference": splits.reference}
    return name, {key: share for key, share in shares.items() if key not in groups}


def split(groups: Mapping[str, Samples], splits: Splits, dataset: str) -> dict[str, Samples]:
    """Complete the publisher's division: keep the splits given, carve the missing ones out by hash.

    A pool is divided into all four; a publisher's training set gives up a reference split, and a
    validation split where there is none; so does its test split where there is none.

    Raises:
        UserError: if a split that training needs comes out empty.

    """
    done = dict(groups)
    name, wanted = divided(groups, splits)
    rest = done.pop(name)
    done |= {key: rest.take(index) for key, index in divide(rest.hashes(), wanted, splits.salt).items()}
    for key in ("train", "validation", "test"):
        if not len(done[key]):
            raise UserError(
                f"datasets.{dataset}.splits: the {key} split is empty ({len(rest)} samples to divide); "
                "add data or raise its share"
            )
    return {key: done[key] for key in ("train", "validation", "test", "reference")}
