"""`fedsam watch`: a live page of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from experiments.cli.options import RUNS_DIR
from experiments.cli.output import graceful_shutdown, print_line, print_warning

EXAMPLES = (
    "fedsam watch",
    "fedsam watch /scratch/runs --open",
    "fedsam watch --port 0   # any port that is free",
)
LOOPBACK = ("127.0.0.1", "::1", "localhost")
PORT = 8421


def command(
    runs_dir: Annotated[Path, typer.Argument(metavar="[RUNS]", show_default=False)] = RUNS_DIR,
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port to listen at; 0: any that is free.")] = PORT,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen at; others than the default let other machines in.")
    ] = "127.0.0.1",
    open_page: Annotated[bool, typer.Option("--open/--no-browser", help="Open the page in a browser, or only print its address.")] = False,
) -> None:
    """Serve a live page of runs: their curves with intervals over seeds, progress and time left, failures, and the report at the end.

    RUNS is the folder of the results, by default runs. Start this in a second terminal, before, while or after others run and compare: it
    only reads, and what it shows follows the results by a second. Nobody but who has the printed address can open the page, which loads
    nothing from elsewhere. Ctrl-C ends it, and no run.

    From another machine: ssh -L 8421:127.0.0.1:8421 HOST, and the same address there.
    """
    from experiments.watching.serving import WatchServer

    server = WatchServer(runs_dir, host, port)
    if host not in LOOPBACK:
        print_warning("the page goes over the network as plain text: who can listen to it can read the results")

    def ready() -> None:
        print_line(f"watching {runs_dir}; Ctrl-C ends this")
        print_line(server.url)
        if open_page:
            import webbrowser

            webbrowser.open(server.url)

    with graceful_shutdown("the page is closed; runs that are at work go on"):
        server.run(ready)
