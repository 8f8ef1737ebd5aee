"""The `farfield` command: one module a command group, imported only when its command runs."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from farfield import __version__
from farfield.errors import FarfieldError

# command -> (module that defines it, one-line help); the help stands here so that `farfield --help` imports no command
_COMMANDS = {
    "doctor": ("farfield.cli.doctor", "Versions, optional extras, threads and device."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are run, not when they are listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0])
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="farfield")
def cli() -> None:
    """Extrapolation you can check: forecast, extend, gap, solve, check."""


def main(argv: list[str] | None = None) -> Any:
    """Run the command line; exit code 0 done, 1 the answer is "no", 2 bad input or usage."""
    try:
        return cli.main(args=argv, prog_name="farfield")
    except FarfieldError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        # the reader of our output went away (`farfield ... | head`): not an error of ours
        sys.stderr.close()
        sys.exit(0)
