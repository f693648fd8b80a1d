"""`meshnode`: parse, act, and end with the right exit code.

0 ok · 1 failed · 2 usage · 3 cannot reach the agent · 4 refused by policy. An error is one line and a hint on stderr,
or one JSON object on stdout with --json; tracebacks only with --debug.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from meshnode import collecting, config
from meshnode.cli import context, parts
from meshnode.errors import AgentUnavailable, ConfigError, MeshError
from meshnode.version import __version__

EXIT_FAILED, EXIT_USAGE, EXIT_UNREACHABLE, EXIT_POLICY = 1, 2, 3, 4
EXIT_INTERRUPTED = 130
"""What a shell says of a program that Ctrl-C ended."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"meshnode {__version__}")
        raise typer.Exit


def settings(
    home: Annotated[
        Path | None, typer.Option(help="The agent's home folder (default: MESHNODE_HOME, or the user data folder).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of every command."""
    context.current.home = home.expanduser().absolute() if home is not None else config.default_home()
    context.current.json = json
    context.current.debug = debug


def application(some: Sequence[str] = tuple(parts.COMMANDS)) -> typer.Typer:
    """The parser, of all commands or of those that some modules have."""
    app = typer.Typer(
        name="meshnode",
        help="A peer-to-peer compute mesh: ONNX inference on whichever machine will finish it first.",
        epilog="--home, --json and --debug may stand anywhere on the line. "
        "Exit codes: 0 ok, 1 failed, 2 usage, 3 cannot reach the agent, 4 refused by policy.",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(settings)
    for part in some:
        import_module(f"meshnode.cli.{part}").add_to(app)
    return app


def main() -> None:
    """The entry point of the installed command."""
    logging.raiseExceptions = False  # a log that cannot be written is no reason for a traceback
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever called
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the life of the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line; returns its exit code."""
    words = globals_first(arguments)
    context.current = context.Context(json="--json" in words, debug="--debug" in words)
    try:
        with collecting.loading():
            app = application(parts.needed(words))
        code = app(words, standalone_mode=False, prog_name="meshnode")
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except MeshError as error:
        if context.current.debug:
            raise
        context.fail(error)
        return exit_code(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        return EXIT_INTERRUPTED
    except Exception as error:
        if _is_usage(error):
            return _usage(error)
        if context.current.debug:
            raise
        hint = "" if isinstance(error, OSError) else "run it again with --debug to see where"
        context.fail(MeshError(f"{type(error).__name__}: {error}", hint=hint))
        return EXIT_FAILED


def globals_first(arguments: Sequence[str]) -> list[str]:
    """The words with the global options in front: people write `status --json` as well as `--json status`."""
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    first: list[str] = []
    rest: list[str] = []
    i = 0
    while i < end:
        if words[i] == "--home" and i + 1 < end:
            first += words[i : i + 2]
            i += 2
            continue
        is_global = words[i] in ("--json", "--debug") or words[i].startswith("--home=")
        (first if is_global else rest).append(words[i])
        i += 1
    return [*first, *rest, *words[end:]]


def exit_code(error: MeshError) -> int:
    """The exit code of an error."""
    if isinstance(error, AgentUnavailable):
        return EXIT_UNREACHABLE
    if isinstance(error, ConfigError):
        return EXIT_USAGE
    return EXIT_POLICY if error.fault == "policy" else EXIT_FAILED


def _is_usage(error: Exception) -> bool:
    """The parser's own errors: typer brings its parser along or imports it, depending on its version."""
    return hasattr(error, "format_message") and hasattr(error, "exit_code")


def _usage(error: Exception) -> int:
    message = str(error.format_message())  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(message)
        return EXIT_USAGE
    command = getattr(getattr(error, "ctx", None), "command_path", "meshnode")
    context.fail_with("usage", message, f"`{command} --help` shows how it is used")
    return EXIT_USAGE


if __name__ == "__main__":
    main()
