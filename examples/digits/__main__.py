"""`python -m examples.digits`: the command, and what Ctrl-C does before and after the training itself."""

import sys

from gc_core.output import degrade


def main() -> None:
    degrade()
    try:
        try:
            from examples.digits.command import app
        except ModuleNotFoundError as error:
            sys.exit(f"error: {error.name} is not installed: pip install '.[examples]', in the folder of the project")
        try:
            app()
        except SystemExit as ended:  # Typer says nothing of a Ctrl-C before the command begins
            if isinstance(getattr(ended.__context__, "__cause__", None), KeyboardInterrupt):
                raise ended.__context__.__cause__ from None
            raise
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)


main()
