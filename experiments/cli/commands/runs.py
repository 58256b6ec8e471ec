"""`fedsam runs`: list the runs of a database, choose among them, tag and delete them."""

from __future__ import annotations

import sqlite3
from typing import Annotated

import typer

from experiments.cli.options import RUNS_DIR, RunsDir
from experiments.cli.output import print_table
from fedsam.formatting import plural
from fedsam.wording import ConfigError

EXAMPLES = (
    "fedsam runs",
    "fedsam runs --where status=finished --where 'accuracy>0.5' --sort -accuracy",
    "fedsam runs --where 'method=sam*' --where client.optimizer.rho=0.1",
    "fedsam runs --tag 20260102-1530=paper,final",
    "fedsam runs --where tag=paper",
    "fedsam runs --delete 20260102-1530 --delete 20260103",
    "fedsam runs --forget 20260102-1530",
)

Where = Annotated[
    list[str] | None,
    typer.Option("--where", metavar="KEY=VALUE", help="Only runs of which this holds, also with !=, <, <=, > or >=; repeat for more."),
]
Sort = Annotated[str, typer.Option("--sort", metavar="KEY", help="Sort by a column or setting; -KEY: the highest first.")]
Delete = Annotated[list[str] | None, typer.Option("--delete", metavar="RUN", help="Delete a run and its files; repeat for more.")]
Tag = Annotated[
    list[str] | None, typer.Option("--tag", metavar="RUN=TAG,...", help="Give a run these tags in place of its own; RUN= takes them away.")
]
Forget = Annotated[
    str | None,
    typer.Option(
        "--forget",
        metavar="RUN",
        help="Record as interrupted a run that was killed on another machine; `resume` goes on with it.",
    ),
]


def command(
    runs_dir: RunsDir = RUNS_DIR,
    where: Where = None,
    sort: Sort = "",
    delete: Delete = None,
    tag: Tag = None,
    forget: Forget = None,
    trials: Annotated[bool, typer.Option("--trials", help="List the trials of tuning as well.")] = False,
) -> None:
    """List the runs of a results database, oldest first.

    Accuracy is the final one, as in reports. KEY is a column (run, method, dataset, clients, seed, rounds, accuracy, loss, status, tag,
    started) or a setting such as client.optimizer.rho. RUN is the id of a run, or how it begins.
    """
    from experiments.cli import console_tables
    from fedsam.results.listing import listed_runs
    from fedsam.results.store import Results

    tagged = [_tags(text) for text in tag or ()]
    with Results.open(runs_dir, create=False) as results:
        try:
            if forget is not None:
                results.forget(forget)
            for name, tags in tagged:
                results.set_tags(name, tags)
            for run in results.find_each(delete or ()):
                results.delete(run.id)
                typer.echo(f"deleted: {run.id}")
        except sqlite3.OperationalError as error:
            raise ConfigError(f"runs_dir: '{runs_dir}' is not allowed: must be a folder that can be written ({error})") from None
        print_table(console_tables.runs(listed_runs(results, where or (), sort, trials=trials)))
        hidden = 0 if trials else len(results.trial_runs())
    if hidden:
        typer.echo(f"{plural(hidden, 'trial')} of tuning left out; --trials lists them")


def _tags(text: str) -> tuple[str, list[str]]:
    run, equals, tags = text.partition("=")
    if not equals:
        raise ConfigError(f"tag: {text!r} is not allowed: must be RUN=TAG,...")
    return run, [tag.strip() for tag in tags.split(",") if tag.strip()]
