"""`lossbench params`: every key of params.yaml, or the JSON schema by which an editor completes them."""

import argparse
import json
from pathlib import Path

from lossbench.system import write_atomically


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what it takes."""
    parser.add_argument("key", nargs="?", default="", help="print only keys that begin so, or have this part")
    parser.add_argument("--schema", type=Path, metavar="FILE", help="write a JSON schema there instead")


def main(chosen: argparse.Namespace) -> None:
    """Print the keys, or write the schema."""
    from lossbench.errors import UserError
    from lossbench.reference import knobs, schema

    if chosen.schema is not None:
        write_atomically(chosen.schema, json.dumps(schema(), indent=2) + "\n", durable=True)
        return
    shown = [one for one in knobs() if chosen.key in one.key]
    if not shown:
        raise UserError(f"params.yaml has no key with '{chosen.key}'; `lossbench params` prints all")
    for one in shown:
        default = "required" if one.default is None else f"default {one.default}"
        print(f"{one.key}  [{default}]\n    {one.told}\n    Allowed: {one.allowed}.")
