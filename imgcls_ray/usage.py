"""What a command line is answered that cannot be understood: one line with what, where, what came and the way out."""

from __future__ import annotations

import difflib
import itertools
import re
import select
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from imgcls_ray.errors import ConfigError, MissingKeyError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# What typer raises for a command line: click's exception, or its copy in typer.
_NotUnderstood: type[Exception] = typer.BadParameter.__mro__[1]
_HELP = "NoArgsIsHelpError"
"""A group without a command shows its help."""


class _OneLine:
    """A command, or group of commands, whose refusals are errors of the program: one line on stderr."""

    params: list[Any]

    def make_context(
        self, info_name: str | None, args: list[str], parent: typer.Context | None = None, **extra: Any
    ) -> typer.Context:
        path = " ".join(filter(None, (parent.command_path if parent else "", info_name)))
        _refuse_single_dash(args, self.params)
        try:
            return super().make_context(info_name, args, parent, **extra)  # type: ignore[misc, no-any-return]
        except _NotUnderstood as error:
            if type(error).__name__ == _HELP:
                raise
            _refuse(error, path, self.params)

    def invoke(self, ctx: typer.Context) -> Any:
        try:
            return super().invoke(ctx)  # type: ignore[misc]
        except BrokenPipeError:
            # click would end the program with exit code 1. Whoever has read enough (`| head`) has what it wanted.
            if not _is_reader_gone():
                raise
            return None


class OneLineCommand(_OneLine, TyperCommand):  # type: ignore[misc]
    """A command of typer whose refusals are one line."""


class OneLineGroup(_OneLine, TyperGroup):  # type: ignore[misc]
    """A group of typer's commands whose refusals are one line."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except _NotUnderstood as error:
            near = difflib.get_close_matches(args[0].lower(), self.list_commands(ctx), n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(self.list_commands(ctx))}"
            raise UsageError(f"{args[0]}: {ctx.command_path} has no such command; {hint}") from error


def _is_reader_gone() -> bool:
    """Whether nobody reads standard output any more, as after ``| head``."""
    output = select.poll()
    output.register(1, 0)
    return any(event & select.POLLERR for _, event in output.poll(0))


def _refuse(error: Exception, path: str, params: Sequence[Any]) -> NoReturn:
    option, message = str(getattr(error, "option_name", "")), str(getattr(error, "message", ""))
    if hasattr(error, "possibilities"):
        raise UsageError(f"{option}: {path} has no such option; {_meant_option(option, path, params)}") from error
    if option and "does not take" in message:
        raise UsageError(f"{option}: takes no value; give {option} alone") from error
    if option:
        metavar = next((param.metavar for param in params if option in param.opts), None)
        raise UsageError(f"{option}: needs a value: {path} {option} {metavar or 'VALUE'}") from error
    if extra := re.search(r"unexpected extra arguments? \((.*)\)", message.replace("(s)", "s")):
        arguments = " ".join(_name_of(param) for param in params if param.param_type_name == "argument")
        takes = f"takes {arguments} only" if arguments else "takes no arguments"
        raise UsageError(
            f"{extra[1].split()[0]}: {path} {takes}; other values are given as options (`{path} --help`), and one with "
            "spaces in quotes"
        ) from error
    if missing := getattr(error, "param", None):
        names = "/".join(missing.opts)
        raise UsageError(f"{names} is missing. {missing.help or f'See `{path} --help`.'}") from error
    raise UsageError(f"{path}: {error}") from error


def _refuse_single_dash(args: Sequence[str], params: Sequence[Any]) -> None:
    """Refuse ``-model``, which would be read as ``-m odel``.

    Raises:
        UsageError: with the option that was meant.
    """
    names = {name for param in params for name in _long_names(param)}
    for arg in itertools.takewhile(lambda arg: arg != "--", args):
        option = arg.partition("=")[0]
        if f"-{option}" in names:
            raise UsageError(f"{option}: one dash is for options of one letter; did you mean -{option}?")


def _meant_option(option: str, path: str, params: Sequence[Any]) -> str:
    """The way out of an option that does not exist."""
    from imgcls_ray.config import meant_key

    options = {_key_of(name): name for param in params for name in _long_names(param) if not param.hidden}
    arguments = {param.name: param for param in params if param.param_type_name == "argument"}
    meant = meant_key(_key_of(option), [*arguments, *options])
    if meant in arguments:
        return f"{meant} is the argument: {path} {_name_of(arguments[meant])}"
    return f"did you mean {options[meant]}?" if meant else f"`{path} --help` lists them"


def _long_names(param: Any) -> list[str]:
    names = (*param.opts, *param.secondary_opts) if param.param_type_name == "option" else ()
    return [name for name in names if name.startswith("--")]


def _key_of(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


def _name_of(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def told_as_given(
    error: ConfigError, *, config: Path | None, flags: Mapping[str, object], argument: str | None, metavar: str
) -> ConfigError:
    """A problem with a key, told by the name that a person used: an option, the argument, a line of a file.

    Args:
        error: as the configuration raises it.
        config: a file of keys, if one was given.
        flags: keys that were given as options or as the argument.
        argument: the key that is given without its name.
        metavar: what the argument is called in ``--help``.
    """
    from imgcls_ray.config import key_line

    key = error.key
    name = metavar if key == argument else f"--{key.replace('_', '-')}"
    if isinstance(error, MissingKeyError):
        if "." in key:
            return error
        place = f" (or the key {key} of {config})" if config else ""
        return ConfigError(f"{name} is missing{place}. {error.meaning}", key=key)
    if key in flags:
        return ConfigError(f"{name}{str(error).removeprefix(key)}", key=key)
    if config is not None and key and (line := key_line(config, key)):
        return ConfigError(f"{config}:{line}: {error}", key=key)
    return error
