"""`meshnode`: parse, act, and end with the right exit code.

0 ok · 1 failed · 2 usage · 3 cannot reach the agent · 4 refused by policy. An error is one line and a hint on stderr,
or one JSON object on stdout with --json; tracebacks only with --debug.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import click
import typer

from meshnode import config
from meshnode.cli import context, mesh, models, running
from meshnode.errors import AgentUnavailable, ConfigError, InvalidInput, MeshError
from meshnode.version import __version__

EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE, EXIT_POLICY = 1, 2, 3, 4

app = typer.Typer(
    name="meshnode",
    help="A peer-to-peer compute mesh: ONNX inference on whichever machine will finish it first.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
mesh.add_to(app)
models.add_to(app)
running.add_to(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"meshnode {__version__}")
        raise typer.Exit


@app.callback()
def settings(
    home: Annotated[
        Path | None, typer.Option(help="The agent's home folder (default: MESHNODE_HOME, or the user data folder).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options of every command."""
    context.current.home = home.expanduser().absolute() if home is not None else config.default_home()
    context.current.json = context.current.json or json
    context.current.debug = debug


def main() -> None:
    """The entry point of the installed command."""
    # --json may stand anywhere: people write `status --json`, and it is one option of all commands.
    arguments = sys.argv[1:]
    passed = arguments.index("--") if "--" in arguments else len(arguments)
    if "--json" in arguments[:passed]:
        context.current.json = True
        arguments = [a for i, a in enumerate(arguments) if a != "--json" or i >= passed]
    try:
        code = app(arguments, standalone_mode=False, prog_name="meshnode")
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        if context.current.json:
            context.fail(InvalidInput(error.format_message()))
        else:
            error.show()
        code = EXIT_USAGE
    except MeshError as error:
        if context.current.debug:
            raise
        context.fail(error)
        code = exit_code(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = 130
    except Exception as error:
        if context.current.debug:
            raise
        context.fail(MeshError(f"{type(error).__name__}: {error}", hint="run it again with --debug to see where"))
        code = EXIT_FAILED
    sys.exit(code if isinstance(code, int) else 0)


def exit_code(error: MeshError) -> int:
    """The exit code of an error."""
    if isinstance(error, AgentUnavailable):
        return EXIT_UNREACHABLE
    if isinstance(error, ConfigError):
        return EXIT_USAGE
    return EXIT_POLICY if error.fault == "policy" else EXIT_FAILED


if __name__ == "__main__":
    main()
