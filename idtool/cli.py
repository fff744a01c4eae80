"""The command line. `idtool --help` imports typer and nothing else of weight; each command imports what it needs."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer

from idtool.commands import curate, evaluate, generate, inspect, models, nightly, prefer, recipes, setup
from idtool.commands.errors import Commands
from idtool.commands.shared import Verbosity
from idtool.errors import Interrupted

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Curate, generate and evaluate for identity-preserving image generators.",
    epilog="Exit codes: 0 done, 1 the run failed, 2 bad usage or configuration, 3 a quality gate was not met, "
    "4 something needed is missing, 130 interrupted. "
    "Most options are also environment variables (IDTOOL_…), as the help of each says.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from idtool import __version__

        typer.echo(f"idtool {__version__}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    verbose: Annotated[
        int,
        typer.Option("--verbose", "-v", count=True, envvar="IDTOOL_VERBOSE", help="More; twice: with tracebacks."),
    ] = 0,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", envvar="IDTOOL_QUIET", help="No progress, only warnings and results.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of every command, given before its name."""
    ctx.obj = Verbosity(verbose, quiet)
    if verbose:
        import logging

        logging.basicConfig(level=logging.DEBUG if verbose > 1 else logging.INFO, format="%(name)s: %(message)s")


app.command("init")(setup.init)
app.command("doctor")(setup.doctor)
app.add_typer(models.app, name="models")
app.add_typer(recipes.app, name="recipes")
app.add_typer(generate.app, name="methods")
app.add_typer(evaluate.metrics_app, name="metrics")
app.add_typer(evaluate.suites_app, name="suites")
app.command("plan")(curate.plan)
app.command("curate")(curate.curate)
app.command("generate")(generate.generate)
app.command("evaluate")(evaluate.evaluate)
app.command("bench")(evaluate.bench)
app.command("compare")(evaluate.compare)
app.command("audit")(evaluate.audit)
app.command("prefer")(prefer.prefer)
app.command("review")(prefer.review)
app.command("nightly")(nightly.nightly)
app.command("tune")(inspect.tune)
app.command("explain")(inspect.explain)
app.command("report")(inspect.report)
app.command("export")(inspect.export)


def main() -> None:
    """The console script `idtool`."""
    # A file name or a tick that the terminal's encoding lacks must not end a run.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="idtool")
    except SystemExit as end:
        if end.code != Interrupted.exit_code:
            raise
        # Worker threads would go on to the end of their shards first. What they have not committed is not lost: it
        # is done again, and commits are atomic.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(Interrupted.exit_code)
