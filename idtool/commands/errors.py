"""The exit codes of the tool (DESIGN §9): clean sentences on standard error, no traceback unless asked for."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import typer
from typer.core import TyperGroup

from idtool.commands.shared import Verbosity
from idtool.errors import IdtoolError, Interrupted, RunFailed


class Commands(TyperGroup):
    """The group of all commands: turns what they raise into an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except IdtoolError as error:
            _tell(error, error, ctx.obj)
        except KeyboardInterrupt as error:
            _tell(Interrupted("Stopped.", "The same command goes on where it stopped."), error, ctx.obj)
        except BrokenPipeError:  # whoever read our output went away; the parser's own handling ends the program
            raise
        except OSError as error:
            # A file, a disk or a network that cannot be used, met where no better sentence was at hand.
            what = error.strerror or str(error) or type(error).__name__
            where = "" if error.filename is None else f"{error.filename}: "
            _tell(RunFailed(f"{where}{what}."), error, ctx.obj)


def _tell(shown: IdtoolError, cause: BaseException, verbosity: Verbosity | None) -> None:
    if verbosity is not None and verbosity.verbose > 1:
        traceback.print_exception(cause, file=sys.stderr)
    sys.stderr.write(f"idtool: {shown.message}\n")
    if shown.hint:
        sys.stderr.write(f"  {shown.hint}\n")
    sys.stderr.flush()
    raise typer.Exit(shown.exit_code)
