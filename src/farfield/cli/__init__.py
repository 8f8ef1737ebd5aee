"""The `farfield` command: one module a command group, imported only when its command runs."""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

import click

from farfield import __version__
from farfield.errors import FarfieldError, InputError, unknown_name

# command -> (module that defines it as `command`, one-line help); the help stands here so that `farfield --help` imports none
_COMMANDS = {
    "runs": ("farfield.cli.runs", "Read training logs: what is in them, and one metric as one table."),
    "forecast": ("farfield.cli.forecast", "Where every run will end, with intervals, and which to continue."),
    "watch": ("farfield.cli.watch", "Follow runs while they train: which to stop, said or done once."),
    "backtest": ("farfield.cli.backtest", "How the forecasts do where the far end is hidden."),
    "stop": ("farfield.cli.stop", "Which runs of a sweep to stop, what that saves and risks, and what to run next."),
    "pfn": ("farfield.cli.pfn", "Networks that extrapolate learning curves: list, score, train."),
    "limit": ("farfield.cli.limit", "FID or Inception Score with infinitely many samples, with intervals."),
    "scale": ("farfield.cli.scale", "Scaling laws of a sweep: what a budget buys, how sure, how far it carries."),
    "gap": ("farfield.cli.gap", "How much worse a model is beyond what it saw, and why."),
    "papers": ("farfield.cli.papers", "The catalogue: list, show and search 103 papers."),
    "doctor": ("farfield.cli.doctor", "Versions, optional extras, threads and device."),
    "claims": ("farfield.cli.claims", "Run the papers' claims and see their verdicts."),
    "weights": (
        "farfield.cli.weights",
        "Checkpoints: verify, compare, extrapolate and merge, exactly rounded, in constant memory.",
    ),
    "intrinsic-dim": ("farfield.cli.intrinsic", "How many random directions of the weights training needs."),
    "new": ("farfield.cli.new", "Write the files of a new paper, in a checkout."),
}


class Group(click.Group):
    """A group of commands that answers an unknown one with the nearest three."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.list_commands(ctx) and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(str(unknown_name("command", args[0], self.list_commands(ctx))), ctx)
        return super().resolve_command(ctx, args)


class LazyGroup(Group):
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

    def invoke(self, ctx: click.Context) -> object:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # whoever read our output went away (`farfield ... | head`): not an error of ours, and nothing is left to say
            _discard_stdout()
            return 0
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO) or error.filename is not None:
                raise
            _discard_stdout()
            raise InputError(f"cannot write to standard output: {os.strerror(error.errno).lower()}") from error
        return result


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="farfield")
def cli() -> None:
    """Extrapolation you can check: forecast, extend, gap, solve, check."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line on `argv` (default: that of the process) and return its exit code.

    0 done, 1 the answer is "no", 2 bad input or usage, 130 interrupted. What is raised beyond that is a defect of farfield and
    keeps its traceback.
    """
    try:
        result = cli.main(args=argv, prog_name="farfield", standalone_mode=False)
    except FarfieldError as error:
        click.echo(f"error: {error}", err=True)
        return 2
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        click.echo(f"error: {error.format_message()}", err=True)
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(f"try: {error.ctx.command_path} --help", err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
    return result if type(result) is int else 0


def _discard_stdout() -> None:
    """Send what is still buffered nowhere, so that the interpreter does not fail on it at its end."""
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
