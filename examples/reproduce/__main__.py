"""`python -m examples.reproduce`: run a recipe, list what there is, or print the table."""

import sys

from gc_core.output import degrade


def main() -> None:
    degrade()
    try:
        from examples.reproduce.command import app
    except ModuleNotFoundError as error:
        sys.exit(
            f"error: {error.name} is not installed: {sys.executable} -m pip install --editable '.[torch,examples]'"
        )
    try:
        app()
    except KeyboardInterrupt:
        sys.exit("Stopped.")


main()
