"""The command ``lightning-reg``."""

from __future__ import annotations

import argparse
import sys


def main() -> None:
    """Dispatches to a subcommand."""
    parser = argparse.ArgumentParser(prog="lightning-reg", description="Learning-based registration of 3D medical images.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("train", help="train a network; options as for train.py, see lightning-reg train --help", add_help=False)
    commands.add_parser("plugins", help="list every installed component, and what is wrong with those that cannot be used")
    arguments, rest = parser.parse_known_args()
    if arguments.command == "train":
        from lightning_reg.cli.train import main as train

        sys.argv = [sys.argv[0], *rest]
        train()
    else:
        if rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        from lightning_reg.cli.plugins import main as plugins

        sys.exit(plugins())


if __name__ == "__main__":
    main()
