"""The options of a command are the fields of its configuration, and old spellings are answered with the new ones."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import typer

from imgcls_ray import cli
from imgcls_ray.config import PredictConfig
from imgcls_ray.config.base import read_values
from imgcls_ray.flags import Declared, Given, command, command_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from imgcls_ray.config import StrictModel

DECLARED: dict[str, Declared] = {name: value for name, value in vars(cli).items() if isinstance(value, Declared)}
COMMANDS = {name: name.replace("models_", "models ").replace("store_", "store ").split() for name in DECLARED}
WITH_OUTPUT = {
    *("predict", "check", "report", "review", "train", "drift", "evaluate", "export", "demo"),
    *("models_new", "store_latest", "store_diff"),
}


def configuration_of(name: str) -> type[StrictModel]:
    module, _, kind = DECLARED[name].configuration.partition(":")
    return getattr(importlib.import_module(f"imgcls_ray.config.{module}"), kind)  # type: ignore[no-any-return]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, Given]:
    """What commands were given, none of which begins."""
    taken: dict[str, Given] = {}
    for name, declared in DECLARED.items():
        has_own_module = name == "store_diff"
        module = importlib.import_module(f"imgcls_ray.commands.{name if has_own_module else name.partition('_')[0]}")
        function = "run" if has_own_module else {"models": "show"}.get(name, name.partition("_")[2] or "run")

        def take(*words: Any, name: str = name) -> None:
            taken[name] = Given(*words)

        assert hasattr(module, function), declared
        monkeypatch.setattr(module, function, take)
    return taken


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Run the command in this process: exit code, and stdout with stderr."""
    monkeypatch.setenv("COLUMNS", "1000")

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["imgcls", *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        captured = capsys.readouterr()
        assert isinstance(left.value.code, int)
        return left.value.code, captured.out + captured.err

    return run


def test_the_declared_commands_are_those_of_the_program() -> None:
    program: Any = typer.main.get_command(cli.app)
    groups = {name: group for name, group in program.commands.items() if hasattr(group, "commands")}
    names = {*program.commands.keys()} - {"store", "run"}
    names |= {f"{name} {below}" for name, group in groups.items() for below in group.commands}
    assert {" ".join(words) for words in COMMANDS.values()} == names


@pytest.mark.parametrize("name", DECLARED)
def test_help_has_every_key_with_its_default(name: str, run: Callable[..., tuple[int, str]]) -> None:
    code, out = run(*COMMANDS[name], "--help")
    assert code == 0
    rows = {match[1]: match[0] for match in re.finditer(r"^│ +--([a-z0-9-]+) .*$", out, flags=re.MULTILINE)}
    shared = {"help", "config", "set"}
    tables = {"split", "golden", "canary", "shadow"} if name in ("check", "serve") else set()
    keys = {(field.alias or key).replace("_", "-"): field for key, field in configuration_of(name).model_fields.items()}
    assert rows.keys() == keys.keys() - tables - {DECLARED[name].argument} | shared
    for key, row in rows.items():
        default = keys[key].default if key in keys else None
        if isinstance(default, str | int | float) and default not in (False, ""):
            assert f"[default: {default}]" in row


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("check", "Keys in tables: split.test_percent, split.seed, "),
        ("serve", "canary.model, "),
        ("train", "configuration. "),
    ],
)
def test_help_names_the_keys_of_tables(name: str, keys: str, run: Callable[..., tuple[int, str]]) -> None:
    assert keys in run(name, "--help")[1]


@pytest.mark.parametrize("name", DECLARED)
def test_an_argument_is_a_key_of_the_configuration(name: str) -> None:
    argument = DECLARED[name].argument
    assert argument is None or configuration_of(name).model_fields[argument].is_required()


def test_a_flag_says_nothing_unless_it_is_given(given: dict[str, Given], run: Callable[..., tuple[int, str]]) -> None:
    assert run("predict")[0] == run("train")[0] == run("models")[0] == 0
    assert given == dict.fromkeys(("predict", "train", "models"), Given(None, [], {}))


def test_values_reach_the_command_as_they_were_typed(
    given: dict[str, Given], run: Callable[..., tuple[int, str]]
) -> None:
    words = ("--top-k", "many", "--logits", "--retry", "corrupt, truncated", "-s", "a=1", "--set", "b=2", "-c", "f")
    assert run("predict", "in", "-m", "m", "-o", "out", *words)[0] == 0
    config, overrides, flags = given["predict"]
    assert (str(config), overrides) == ("f", ["a=1", "b=2"])
    assert flags == {
        "input": "in",
        "model": "m",
        "output": "out",
        "top_k": "many",
        "logits": True,
        "retry": ["corrupt", "truncated"],
    }


def test_predict_takes_several_inputs_and_lists_piece_by_piece(
    given: dict[str, Given], run: Callable[..., tuple[int, str]]
) -> None:
    assert run("predict", "a.jpg", "b.jpg", "--exclude", "x/, y", "--exclude", "z", "--include", "*.jpg")[0] == 0
    assert given["predict"].flags == {"input": ["a.jpg", "b.jpg"], "exclude": ["x/", "y", "z"], "include": ["*.jpg"]}
    assert run("predict", "a.jpg", "--exclude", "")[0] == 0
    assert given["predict"].flags == {"input": "a.jpg", "exclude": []}


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (("--scratch",), {"pretrained": False}),
        (("--pretrained",), {"pretrained": True}),
        (("--seed", "3", "--flip", "0"), {"seed": "3", "flip": "0"}),
        (("--output", "a=b/c"), None),
        (("--output", "./a=b"), {"output": "./a=b"}),
        (("--output", "s3://bucket/run=3"), {"output": "s3://bucket/run=3"}),
        (("--output", "runs/a=b"), {"output": "runs/a=b"}),
        (("-o", "1=2"), {"output": "1=2"}),
    ],
)
def test_train_takes(
    words: tuple[str, ...],
    flags: dict[str, object] | None,
    given: dict[str, Given],
    run: Callable[..., tuple[int, str]],
) -> None:
    code, _ = run("train", "data", *words)
    if flags is None:
        assert code == 2
    else:
        assert given["train"].flags == {"data": "data", **flags}


@pytest.mark.parametrize("name", DECLARED)
@pytest.mark.parametrize("words", [("-o", "top_k=3"), ("-otop_k=3",), ("-o", "top_k=3", "-o", "place")], ids=" ".join)
def test_a_pair_after_o_is_refused_with_the_way_out(
    name: str, words: tuple[str, ...], given: dict[str, Given], run: Callable[..., tuple[int, str]]
) -> None:
    argument = ["x"] if DECLARED[name].argument else []
    code, said = run(*COMMANDS[name], *argument, *words)
    assert (code, given) == (2, {})
    place = " (a place of that name is ./top_k=3)" if name in WITH_OUTPUT else ""
    assert said == f"imgcls: -o top_k=3: a key is set with -s: -s top_k=3{place}\n"


def test_a_pair_after_o_is_found_behind_a_place(given: dict[str, Given], run: Callable[..., tuple[int, str]]) -> None:
    code, said = run("train", "data", "-o", "place", "-o", "epochs=5")
    assert (code, given) == (2, {})
    assert "-s epochs=5" in said


def test_two_outputs_and_an_output_that_nothing_is_written_to_are_refused(
    given: dict[str, Given], run: Callable[..., tuple[int, str]]
) -> None:
    assert run("train", "d", "-o", "a", "--output", "b") == (2, "imgcls: --output is given twice: a and b\n")
    assert run("serve", "-o", "a") == (2, "imgcls: -o a: imgcls serve has no --output\n")
    assert given == {}


@pytest.mark.parametrize("name", [name for name, declared in DECLARED.items() if declared.argument])
def test_an_argument_given_as_an_option_is_understood_and_told(
    name: str, given: dict[str, Given], run: Callable[..., tuple[int, str]], caplog: pytest.LogCaptureFixture
) -> None:
    argument = DECLARED[name].argument
    assert run(*COMMANDS[name], f"--{argument}", "D")[0] == 0
    assert given[name].flags == {argument: "D"}
    what = "the dataset" if argument == "data" else argument
    assert caplog.messages == [f"give {what} as the argument: imgcls {' '.join(COMMANDS[name])} D"]


@pytest.mark.parametrize("words", [("D", "--data", "E"), ("--data", "D", "--data", "E")])
def test_an_argument_given_twice_is_refused(
    words: tuple[str, ...], given: dict[str, Given], run: Callable[..., tuple[int, str]]
) -> None:
    assert run("train", *words) == (2, "imgcls: the dataset is given twice: D and E\n")
    assert given == {}


def test_a_list_of_models_is_not_begun_by_a_command_below_it(
    given: dict[str, Given], run: Callable[..., tuple[int, str]]
) -> None:
    assert run("models", "new", "N", "-o", "m")[0] == 0
    assert given.keys() == {"models_new"}


@pytest.mark.parametrize("job", ["predict", "check_dataset", "evaluate", "export", "train"])
def test_a_job_takes_pairs_as_arguments_and_the_options_too(
    job: str, given: dict[str, Given], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "argv", [f"{job}.py", "seed=1", "--config", "f.yaml", "output=s3://b/x=y", "-s", "a=2", "--output", "o"]
    )
    with pytest.raises(SystemExit) as left:
        cli.run_job(job)
    assert left.value.code == 0
    [(config, overrides, flags)] = given.values()
    assert (str(config), overrides, flags) == ("f.yaml", ["a=2", "seed=1", "output=s3://b/x=y"], {"output": "o"})


def test_help_imports_no_configuration_and_a_commands_help_nothing_heavy() -> None:
    heavy = {"torch", "ray", "timm", "openvino", "pyarrow", "PIL", "numpy"}
    for words, unwanted in ((["--help"], {*heavy, "pydantic", "yaml"}), (["train", "--help"], heavy)):
        code = (
            "import sys, imgcls_ray.cli as cli\n"
            f"sys.argv = ['imgcls', *{words}]\n"
            "try: cli.main()\n"
            f"except SystemExit: print({unwanted} & set(sys.modules), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stderr.strip() == "set()"


def test_a_command_may_have_another_name_than_its_function() -> None:
    app = typer.Typer()

    @command(app, "demo:DemoConfig", name="other")
    def something(given: Given) -> None:
        """Do it."""

    @command(app, "demo:DemoConfig")
    def second(given: Given) -> None:
        """Do it again."""

    program: Any = typer.main.get_command(app)
    assert set(program.commands) == {"other", "second"}
    assert program.commands["other"].help == "Do it."
    assert [param.name for param in command_of(something).params if not getattr(param, "hidden", False)] == [
        "output",
        "config",
        "set_",
    ]


def test_options_of_object_storage_are_taken_by_their_earlier_names(
    run: Callable[..., tuple[int, str]], given: dict[str, Given]
) -> None:
    words = ("predict", "in", "--model", "m", "--output", "o", "--s3-endpoint-url", "http://host", "--s3-anonymous")
    run(*words)
    values = read_values(PredictConfig, None, (), given["predict"].flags)
    assert (values["endpoint_url"], values["anonymous"]) == ("http://host", True)
