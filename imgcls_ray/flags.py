"""Options of a command from the fields of its configuration, where name, type, default and help are said once.

A command is declared with the name of its configuration. That is imported, and its fields become options, when the
command is called: listing all commands imports none of them.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import logging
import re
import types
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typer

from imgcls_ray.errors import ConfigError, UsageError
from imgcls_ray.usage import OneLineCommand, OneLineGroup, told_as_given

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydantic.fields import FieldInfo
    from typer.models import ArgumentInfo, OptionInfo

    from imgcls_ray.config import Plain, StrictModel

logger = logging.getLogger(__name__)

_SHORT = {"model": "-m", "output": "-o"}
_OFF = {"pretrained": "--scratch"}
"""How a key that is on by default is turned off, where ``--no-KEY`` says it badly."""
_TYPES = {int: "INT", float: "NUMBER", str: "TEXT"}
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_PAIR = re.compile(r"[A-Za-z_][\w.]*=")


class Given(NamedTuple):
    """What the command line says."""

    config: Path | None
    """A file of keys."""
    overrides: list[str]
    """Pairs ``key=value``."""
    flags: dict[str, Plain]
    """Values of options, by key."""


class Declared(NamedTuple):
    """A command whose configuration is not imported yet."""

    function: Callable[[Given], object]
    configuration: str
    """Where it is, e.g. ``predict:PredictConfig``."""
    argument: str | None
    """The key that is given without its name."""


class _FilledWhenCalled:
    """A command, or group of commands, that learns its options when it is called."""

    declared: Declared

    def make_context(
        self, info_name: str | None, args: list[str], parent: typer.Context | None = None, **extra: Any
    ) -> typer.Context:
        built = command_of(self.declared)
        self.params, self.callback = built.params, built.callback
        return super().make_context(info_name, args, parent, **extra)  # type: ignore[misc, no-any-return]


def command(
    app: typer.Typer, configuration: str, *, argument: str | None = None, name: str | None = None
) -> Callable[[Callable[[Given], object]], Declared]:
    """Add a command to a group.

    Args:
        app: the group.
        configuration: module and class in ``imgcls_ray.config``, e.g. ``predict:PredictConfig``.
        argument: the key that is given without its name.
        name: of the command, if it is not the function's.
    """

    def register(function: Callable[[Given], object]) -> Declared:
        declared = Declared(function, configuration, argument)
        kind = type("Command", (_FilledWhenCalled, OneLineCommand), {"declared": declared})
        app.command(name or function.__name__, cls=kind, help=inspect.getdoc(function))(_without_options)
        return declared

    return register


def group(app: typer.Typer, configuration: str) -> Callable[[Callable[[Given], object]], Declared]:
    """Let a group do something when it is called without one of its commands."""

    def register(function: Callable[[Given], object]) -> Declared:
        declared = Declared(function, configuration, None)
        kind = type("Group", (_FilledWhenCalled, OneLineGroup), {"declared": declared})
        app.callback(cls=kind, invoke_without_command=True, help=inspect.getdoc(function))(_without_options)
        return declared

    return register


def _without_options() -> None:
    """Holds the place of a command until it is called."""


def command_of(declared: Declared, *, as_job: bool = False) -> Any:
    """A command with its options; ``as_job`` takes pairs ``key=value`` as arguments, in place of one key's value."""
    module, _, class_name = declared.configuration.partition(":")
    kind: type[StrictModel] = getattr(importlib.import_module(f"imgcls_ray.config.{module}"), class_name)
    argument = None if as_job else declared.argument

    def call(context: typer.Context, **given: Any) -> None:
        if context.invoked_subcommand is not None:
            return
        config, overrides = given.pop("config"), [*(given.pop("set_") or ()), *(given.pop("pairs", None) or ())]
        flags = {key: value for key, value in given.items() if value not in (None, [])}
        outputs: list[str] = flags.pop("output", [])
        _check_output(outputs, context.command_path, has_output="output" in kind.model_fields)
        if outputs:
            flags["output"] = outputs[0]
        if argument is not None and (named := flags.pop(f"{argument}_", [])):
            unnamed = flags.get(argument, [])
            values = [*(unnamed if isinstance(unnamed, list) else [unnamed]), *named]
            flags[argument] = _argument_of(values, argument, context.command_path)
        for key in flags.keys() & kind.model_fields.keys():
            if _is_list(kind.model_fields[key]):
                flags[key] = [part.strip() for text in flags[key] for part in text.split(",") if part.strip()]
            elif isinstance(flags[key], list) and len(flags[key]) == 1:
                flags[key] = flags[key][0]
        try:
            declared.function(Given(config, overrides, flags))
        except ConfigError as error:
            overridden = {pair.partition("=")[0] for pair in overrides}
            raise told_as_given(
                error,
                config=None if error.key in overridden else config,
                flags=flags,
                argument=argument,
                metavar=_argument_name(kind.model_fields[argument], argument) if argument else "",
            ) from error.__cause__

    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *_parameters(kind, argument, as_job=as_job),
    ]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
    names = {"help_option_names": ["-h", "--help"]}
    app.command(cls=OneLineCommand, help=inspect.getdoc(declared.function), context_settings=names)(call)
    return typer.main.get_command(app)


def _check_output(outputs: list[str], command_path: str, *, has_output: bool) -> None:
    """Refuse values of ``--output``.

    Raises:
        UsageError: it is a pair ``key=value``, as ``-o`` took it in earlier versions; or there are two.
    """
    for text in outputs:
        if _PAIR.match(text):
            place = f" (a place of that name is ./{_short(text)})" if has_output else ""
            raise UsageError(f"-o {_short(text)}: a key is set with -s: -s {_short(text)}{place}")
        if not has_output:
            raise UsageError(f"-o {_short(text)}: {command_path} has no --output")
    if len(outputs) > 1:
        raise UsageError(f"--output is given twice: {_short(outputs[0])} and {_short(outputs[1])}")


def _argument_of(values: list[str], argument: str, command_path: str) -> str:
    """Understand the argument where it is given as an option, and tell how it is written.

    Args:
        values: as an argument, if it is given so too, then as options.

    Raises:
        UsageError: it is given twice.
    """
    what = "the dataset" if argument == "data" else argument
    if len(values) > 1:
        raise UsageError(f"{what} is given twice: {_short(values[0])} and {_short(values[1])}")
    logger.warning("give %s as the argument: %s %s", what, command_path, _short(values[0]))
    return values[0]


def _short(text: str) -> str:
    from imgcls_ray.config import shown_text

    return shown_text(text)


def _parameters(kind: type[StrictModel], argument: str | None, *, as_job: bool) -> Iterator[inspect.Parameter]:
    """Arguments and options of typer, in the order of ``--help``."""
    fields = kind.model_fields
    sections = {name: section for name, section in _by_section(kind) if _is_option(fields[name])}
    first = list(_SHORT)
    rank = {name: first.index(name) if name in first else len(first) for name in sections}
    for name in sorted(sections, key=lambda name: (sections[name] is not None, rank[name])):
        field, key = fields[name], fields[name].alias or name
        metavar, about = _metavar(field), _help(field)
        flag = f"--{key.replace('_', '-')}"
        if name == argument:
            several = _takes_several(field)
            shown = _argument_name(field, key) + "..." * several
            yield _parameter(key, list[str] if several else str, typer.Argument(metavar=shown, help=about))
            # As earlier versions took a dataset, and as one guesses who knows the key.
            yield _parameter(f"{key}_", list[str], typer.Option(flag, hidden=True))
        elif _plain_type(field) is bool:
            off = _OFF.get(key, f"--no-{key.replace('_', '-')}")
            flag = f"{flag}/{off}" if field.default else flag
            yield _parameter(key, bool, typer.Option(flag, help=about, rich_help_panel=sections[name]))
        else:
            short = [_SHORT[key]] if key in _SHORT else []
            option = typer.Option(flag, *short, metavar=metavar, help=about, rich_help_panel=sections[name])
            # All that -o is given is looked at: earlier versions took pairs there. Lists may be given piece by piece.
            is_repeated = key == "output" or _is_list(field) or _takes_several(field)
            yield _parameter(key, list[str] if is_repeated else str, option)
    for old, new in kind.renamed_keys.items():
        if new in sections and new != argument:
            is_flag = _plain_type(fields[new]) is bool
            yield _parameter(old, bool if is_flag else str, typer.Option(f"--{old.replace('_', '-')}", hidden=True))
    if "output" not in fields:
        yield _parameter("output", list[str], typer.Option("-o", hidden=True))
    yield _parameter("config", Path, typer.Option("--config", "-c", metavar="FILE", help="YAML file with these keys."))
    help_ = "Set any key of the configuration." + (
        f" Keys in tables: {', '.join(inner)}." if (inner := _inner(kind)) else ""
    )
    yield _parameter("set_", list[str], typer.Option("--set", "-s", metavar="KEY=VALUE", help=help_))
    if as_job:
        yield _parameter("pairs", list[str], typer.Argument(metavar="KEY=VALUE", help="The same as --set KEY=VALUE."))


def _parameter(name: str, annotation: type, about: ArgumentInfo | OptionInfo) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[annotation | None, about])


def _by_section(kind: type[StrictModel]) -> Iterator[tuple[str, str | None]]:
    """Fields with their heading in ``--help``: a command's own first, then what it shares with others."""
    seen = set()
    for owner in kind.__mro__:
        section = None
        for name in inspect.get_annotations(owner):
            section = owner.__dict__.get("help_sections", {}).get(name, section)
            if name in kind.model_fields and name not in seen:
                seen.add(name)
                yield name, section


def _kinds(field: FieldInfo) -> list[Any]:
    """The types of a field besides None, without their bounds."""
    is_union = get_origin(field.annotation) in (Union, types.UnionType)
    kinds = get_args(field.annotation) if is_union else (field.annotation,)
    plain = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]
    return [kind for kind in plain if kind is not type(None)]


def _plain_type(field: FieldInfo) -> Any:
    return _kinds(field)[0]


def _is_list(field: FieldInfo) -> bool:
    """Whether it is a list of texts, which an option takes with commas."""
    kind = _plain_type(field)
    return get_origin(kind) is tuple and (get_args(kind)[0] is str or issubclass(get_args(kind)[0], enum.Enum))


def _takes_several(field: FieldInfo) -> bool:
    """Whether it is one text or several: an argument may be given again and again."""
    return _plain_type(field) is str and any(get_origin(kind) is tuple for kind in _kinds(field))


def _is_option(field: FieldInfo) -> bool:
    """Tables are no options."""
    kind = _plain_type(field)
    return kind is bool or kind in _TYPES or get_origin(kind) is Literal or _is_list(field)


def _inner(kind: type[StrictModel]) -> list[str]:
    """Keys of tables, which have no option of their own."""
    tables = {name: getattr(_plain_type(field), "model_fields", ()) for name, field in kind.model_fields.items()}
    return [f"{name}.{key}" for name, keys in tables.items() for key in keys]


def _metavar(field: FieldInfo) -> str:
    if field.examples:
        return "|".join(field.examples)
    kind = _plain_type(field)
    if get_origin(kind) is Literal:
        return "|".join(get_args(kind))
    return "TEXT,..." if _is_list(field) else _TYPES.get(kind, "")


def _argument_name(field: FieldInfo, key: str) -> str:
    return field.examples[0] if field.examples else key.upper()


def _help(field: FieldInfo) -> str:
    """Description, bounds and default; brackets are markup to the library that prints it."""
    words = [" ".join((field.description or "").split()).replace("``", "'")]
    inner = [data for kind in get_args(field.annotation) for data in getattr(kind, "__metadata__", ())]
    bounds = {name: getattr(data, name) for data in [*field.metadata, *inner] for name in _SIGNS if hasattr(data, name)}
    if bounds not in ({}, {"gt": 0}):
        words.append(f"[{', '.join(f'{_SIGNS[name]} {bound}' for name, bound in bounds.items())}]")
    if not (field.is_required() or field.default in (None, False, (), "")):
        words.append(f"[default: {field.default}]")
    return " ".join(words).replace("[", "\\[")
