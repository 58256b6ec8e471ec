"""`fedsam check`: check a component against the contract of its kind."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from experiments.cli.output import FAILED, graceful_shutdown
from fedsam.formatting import printable
from fedsam.overrides import assigned

if TYPE_CHECKING:
    from experiments.contracts import Finding

EXAMPLES = (
    "fedsam check mine:MyOptimizer",
    "fedsam check mine:MyOptimizer -o rho=0.1 --no-ray",
    "fedsam check mine:my_function --kind partition",
    "fedsam check mine:MyCorrection --with server.strategy=mine:MyRule",
    "fedsam check sam",
)
STYLES = {"ok": "green", "failed": "bold red", "not declared": "yellow", "left out": "yellow"}
INDENT = 14  # columns of the longest verdict and two spaces

Component = Annotated[str, typer.Argument(metavar="COMPONENT", show_default=False)]
Settings = Annotated[list[str] | None, typer.Option("-o", metavar="KEY=VALUE", help="A hyperparameter of it; repeat for more.")]
OtherSettings = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="KEY=VALUE", help="A setting of the small runs it is tried in, such as client.correction=dual."),
]
Kind = Annotated[str | None, typer.Option("--kind", metavar="KIND", help="What it is, where that cannot be told.")]
NoRay = Annotated[bool, typer.Option("--no-ray", help="Leave out the last check, which starts Ray.")]


def command(
    component: Component, settings: Settings = None, beside: OtherSettings = None, kind: Kind = None, no_ray: NoRay = False
) -> None:
    """Check that COMPONENT does what its kind promises, and print what was found, check by check.

    COMPONENT is module:attribute, the module here or installed, or a name that `fedsam list` shows. What kind it is of, its base class or
    its first parameters tell: optimizer, correction, strategy, partition, schedule, distribution, sampler, model or dataset.

    Exit code 1: a check failed; 2: there is no such component.
    """
    own, others = (dict(assigned(text) for text in given or ()) for given in (settings, beside))
    from experiments import contracts
    from fedsam import plugins

    plugins.search()
    found = contracts.find(component, kind, own, others)
    console = Console(highlight=False)
    console.print(Text.assemble((printable(found.name), "bold"), f", a {contracts.KINDS[found.kind].noun}"))
    verdicts: Counter[str] = Counter()
    with graceful_shutdown("interrupted; Ray is stopped"):
        for check in contracts.checks(found):
            if check.starts_ray and no_ray:
                finding = contracts.Finding("left out", "it starts Ray, and --no-ray is given")
            else:
                with console.status(check.title):
                    finding = contracts.examine(found, check)
            print_finding(console, check.title, finding)
            verdicts[finding.verdict] += 1
    console.print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()), style="bold")
    if verdicts["failed"]:
        raise typer.Exit(FAILED)


def print_finding(console: Console, title: str, finding: Finding) -> None:
    """Print verdict and title in a line, and below it the text of the finding."""
    console.print(Text.assemble((f"{finding.verdict:<{INDENT}}", STYLES[finding.verdict]), title))
    if finding.text:
        console.print(
            Padding(Text(printable(finding.text, lines=True), style="dim" if finding.verdict != "failed" else ""), (0, 0, 0, INDENT))
        )
