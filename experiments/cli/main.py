"""The command `fedsam`, and its subcommands.

Commands import torch, Ray, Flower and numpy inside their functions, so that help and completion are fast.
Exit codes: 0 success; 1 a run failed; 2 wrong usage or configuration; 3 a run is left to another process;
4 a run diverged; 5 results or a model could not be written; 130 interrupted (Ctrl-C); 143 terminated, or its terminal
was closed.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sqlite3
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from experiments.cli.commands import (
    bench,
    check,
    cluster,
    compare,
    doctor,
    explain,
    export,
    flower,
    new,
    partition,
    report,
    resume,
    run,
    run_config,
    runs,
    watch,
)
from experiments.cli.commands import list as list_
from experiments.cli.output import FAILED, INTERRUPTED, STORAGE, TERMINATED, USAGE, print_error
from fedsam import plugins
from fedsam.grid.process import pause_collection, resume_collection
from fedsam.results.write_queue import StorageError
from fedsam.wording import ConfigError

COMMANDS = {
    "run": run,
    "compare": compare,
    "resume": resume,
    "list": list_,
    "explain": explain,
    "runs": runs,
    "report": report,
    "watch": watch,
    "partition": partition,
    "check": check,
    "new": new,
    "export": export,
    "flower": flower,
    "run-config": run_config,
    "doctor": doctor,
    "cluster": cluster,
    "bench": bench,
}
MAKE_RUNS = ("run", "compare", "resume")  # which collect garbage once they have imported what runs need


def _print_version(asked: bool) -> None:
    if asked:
        import fedsam

        typer.echo(f"fedsam {fedsam.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="fedsam",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Simulate federated learning with sharpness-aware local optimizers; compare accuracy, flatness and cost.",
    epilog="Begin with:  [bold]fedsam run quickstart[/bold]",
)


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)] = False,
) -> None:
    if context.invoked_subcommand not in MAKE_RUNS:
        resume_collection()
    if context.invoked_subcommand == "flower":  # which runs an app of others
        _end_as_python_does()


for name, module in COMMANDS.items():
    # typer joins the lines of a paragraph, so each example is a paragraph.
    app.command(name, epilog="\n\n".join(["[bold]Examples[/bold]", *(f"  {line}" for line in module.EXAMPLES)]))(module.command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line `arguments`, by default that of this process, and exit."""
    try:
        app(arguments, prog_name="fedsam")
    except ConfigError as error:
        print_error(str(error))
        sys.exit(USAGE)
    except StorageError as error:
        print_error(str(error))
        sys.exit(STORAGE)
    except sqlite3.DatabaseError as error:
        print_error(f"the results cannot be used ({error}): `fedsam doctor` checks the file of the runs")
        sys.exit(FAILED)
    sys.exit(0)


def program() -> NoReturn:
    """The entry point of the process `fedsam`: `main`, but the process exits without taking apart what torch and Ray have imported.

    That takes a second. Threads are waited for, and what is registered with `atexit` meanwhile is called, except after an interrupt. Where
    code of others has run, Python ends the process as it ends theirs: it writes what is left in files that nobody has closed.
    """
    pause_collection()
    code = [0]
    atexit.register(_exit_at_once, code)  # before all others, so that it is called after them
    try:
        main()
    except SystemExit as end:
        code[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code[0] in (INTERRUPTED, TERMINATED):
            # Everything is closed. A thread in which Ray was still starting would end the process a minute later with another exit code.
            _flush()
            os._exit(code[0])
        if plugins.have_run():
            _end_as_python_does()
        raise
    except BaseException:
        _end_as_python_does()
        raise


def _exit_at_once(code: Sequence[int]) -> None:
    logging.shutdown()  # which was registered before
    if _flush():
        os._exit(code[0])
    _end_as_python_does()


def _end_as_python_does() -> None:
    atexit.unregister(_exit_at_once)
    gc.unfreeze()  # what Python does not take apart, Triton's bindings report as leaks, in pages


def _flush() -> bool:
    """Write what is left of stdout and stderr; whether that was possible: Python reports it as it exits."""
    try:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
    except (OSError, ValueError):
        return False
    return True


if __name__ == "__main__":
    program()
