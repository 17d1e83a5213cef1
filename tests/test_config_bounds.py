"""What a configuration costs is bounded, and what it may not hold is told in one line."""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from imgcls_ray.config import ModelsConfig, PredictConfig, load_config, make_config, nested, parse_overrides
from imgcls_ray.errors import ConfigError
from tests.timing import assert_within

IMGCLS = str(Path(sys.executable).with_name("imgcls"))


def laughing(first: str, again: str, levels: int) -> str:
    """Each line nine times the one before."""
    lines = [f"a: &a {first}"]
    for level in range(levels):
        before, name = (chr(ord("a") + number) for number in (level, level + 1))
        lines.append(f"{name}: &{name} {again.replace('*', '*' + before)}")
    return "\n".join(lines)


def deep(levels: int) -> str:
    return "".join(f"{' ' * level}a:\n" for level in range(levels))


KINDS: dict[str, tuple[str, str]] = {
    "no such month": ("a: 2026-13-45", "line 1: '2026-13-45' is no date; put quotes around what is a text"),
    "no such day": ("top_k: 1\na: 2026-02-30", "line 2: '2026-02-30' is no date"),
    "no such hour": ("a: 2026-01-01 77:00:00", "is no date"),
    "no such zone": ("a: 2001-01-01 00:00:00 +99:99", "is no date"),
    "a long integer": ("a: " + "7" * 5000, "a number of 5,000 characters"),
    "a long integer in base 16": ("a: 0x" + "f" * 100_000, "a number of 100,002 characters"),
    "a long integer in base 60": ("a: 1" + ":1" * 60_000, "a number of 120,001 characters"),
    "a long fraction in base 60": ("a: 1" + ":1" * 60_000 + ".5", "a number of 120,003 characters"),
    "an integer of no machine": ("a: 123456789012345678901", "is an integer of more than 64 bits; put quotes"),
    "brackets": ("a: " + "[" * 2000, "values lie more than 32 deep in each other"),
    "brackets and back": ("a: " + "[" * 2000 + "]" * 2000, "more than 32 deep"),
    "braces": ("a: " + "{a: " * 2000, "more than 32 deep"),
    "dashes": ("a:\n " + "- " * 2000 + "x", "more than 32 deep"),
    "tables": (deep(400), "more than 32 deep"),
    "questions": ("? " * 30_000, "more than 32 deep"),
    "lists that multiply": (
        laughing("[lol]", f"[{','.join('*' * 9)}]", 9),
        "holds more than 10,000 values, those that",
    ),
    "tables that multiply": (laughing("{x: 1}", "{p: *, q: *, r: *}", 14), "holds more than 10,000 values"),
    "merges that multiply": (laughing("{x: 1}", "{<<: [*, *, *]}", 14), "holds more than 10,000 values"),
    "a text that multiplies": (f"a: &a '{'x' * 60_000}'\nb: [{'*a,' * 9000}]", "holds more than 10,000 values"),
    "many values": ("a: [" + "1," * 60_000 + "]", "holds more than 10,000 values"),
    "many keys": ("".join(f"k{i}: 1\n" for i in range(13_000)), "holds more than 10,000 values"),
    "a list in itself": ("a: &a [*a]", r"\*a stands within itself"),
    "a table in itself": ("&a\nb: *a", r"\*a stands within itself"),
    "a merge in itself": ("&a\n<<: *a", r"\*a stands within itself"),
    "a key twice": ("top_k: 1\ninput: x\ntop_k: 2", "line 3: the key 'top_k' stands twice"),
    "a key twice in a table": ("split: {enable: true, 'enable': false}", "the key 'enable' stands twice"),
    "a number twice as key": ("a: {1: a, 0x1: b}", "the key '0x1' stands twice"),
    "a merge twice": ("a: &a {x: 1}\nb: {<<: *a, <<: *a}", "the key '<<' stands twice"),
    "no integer": ("a: !!int ''", "'' is no integer"),
    "no truth": ("a: !!bool perhaps", "'perhaps' is no truth value"),
    "no date at all": ("a: !!timestamp tomorrow", "'tomorrow' is no date"),
    "no number": ("a: !!float ''", "'' is no number"),
    "half a character": ('a: "\\ud800"', "a text holds a NUL or half a character"),
    "a NUL": ('a: "\\0"', "a text holds a NUL or half a character"),
    "no character": ('a: "\\Uffffffff"', "not plain YAML"),
    "a version without end": ("%YAML 1." + "1" * 100_000 + "\n---\na: 1", "not plain YAML"),
    "a word without end": ("!<" + "x" * 100_000 + "> a", "not plain YAML"),
    "a long file": ("#" * 2_000_000, "is longer than 524,288 characters, and no configuration"),
    "long lines": ("a: [\n" * 40_000, "not plain YAML"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_file_is_refused_in_one_line_and_at_once(tmp_path: Path, kind: str) -> None:
    content, message = KINDS[kind]
    (tmp_path / "c.yaml").write_text(content)

    def refuse() -> None:
        with pytest.raises(ConfigError, match=message) as refused:
            load_config(tmp_path / "c.yaml")
        assert str(refused.value).startswith(f"{tmp_path / 'c.yaml'}: ")
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 1200

    assert_within(1, refuse, time.thread_time)


@pytest.mark.parametrize("kind", [kind for kind, (content, _) in KINDS.items() if content.startswith("a: ")])
def test_a_hostile_override_is_refused_in_one_line(kind: str) -> None:
    value = KINDS[kind][0].removeprefix("a: ")
    with pytest.raises(ConfigError, match=r"x=.*: the value is (not plain YAML|longer)") as refused:
        parse_overrides([f"x={value}"])
    assert len(str(refused.value)) < 1600
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["lists that multiply", "merges that multiply", "many values", "a long file"])
def test_the_memory_of_a_hostile_file_is_bounded(tmp_path: Path, kind: str) -> None:
    (tmp_path / "c.yaml").write_text(KINDS[kind][0])
    tracemalloc.start()
    with pytest.raises(ConfigError):
        load_config(tmp_path / "c.yaml")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_a_device_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match="/dev/zero: is longer than"):
        load_config(Path("/dev/zero"))


def test_aliases_and_merges_are_read_and_a_table_wins_over_what_it_merges(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {<<: [*a, *a], z: 4}\nd: [*a, *a]\n")
    assert load_config(tmp_path / "c.yaml") == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"x": 1, "y": 2, "z": 4},
        "d": [{"x": 1, "y": 2}] * 2,
    }


def shared_list(levels: int) -> list[Any]:
    value: list[Any] = ["lol"]
    for _ in range(levels):
        value = [value] * 9
    return value


def in_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def nested_list(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [shared_list(60), in_itself(), nested_list(100_000), 10**5000, "x" * 10**6, {"k" * 10**6: 1}, ["x" * 10**6] * 50],
    ids=["shared", "recursive", "deep", "integer", "text", "key", "texts"],
)
@pytest.mark.parametrize("key", ["model", "canary", "golden", "revision", "fingerprint", "none"])
def test_what_a_service_is_given_is_shown_in_part(key: str, value: Any) -> None:
    """A ``user_config`` comes from Ray Serve, which reads YAML itself."""
    if (key, type(value)) in (("model", str), ("revision", str)):
        return

    def refuse() -> None:
        with pytest.raises(ConfigError) as refused:
            make_config(ModelsConfig, {"model": "m", key: value})
        assert len(str(refused.value)) <= 1000
        assert "\n" not in str(refused.value)
        assert len("".join(traceback.format_exception(refused.value))) < 5000

    assert_within(1, refuse, time.thread_time)


def test_a_key_of_many_tables_is_refused() -> None:
    with pytest.raises(ConfigError, match="lies more than 32 tables deep") as refused:
        nested({"a." * 100_000 + "b": 1})
    assert len(str(refused.value)) < 400


def test_a_key_without_end_is_shown_in_part() -> None:
    with pytest.raises(ConfigError, match="no such key") as refused:
        make_config(PredictConfig, {"input": "i", "model": "m", "output": "o", "k" * 100_000: 1})
    assert len(str(refused.value)) <= 1000


@pytest.mark.parametrize(
    "arguments",
    [
        ("predict", "in", "--model", "m", "--output", "o", "--config", "FILE"),
        ("predict", "in", "--model", "m", "--output", "o", "--set", "OVERRIDE"),
        ("run", "-c", "FILE"),
        ("run", "-c", "PP-LCNet_x1_0.yaml", "-o", "OVERRIDE"),
        ("serve", "--config", "FILE"),
    ],
    ids=" ".join,
)
def test_each_command_refuses_it_with_one_line_and_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "c.yaml").write_text("Global:\n  model: " + "[" * 2000)
    words = {"FILE": "c.yaml", "OVERRIDE": "top_k=2026-13-45"}
    done = subprocess.run(
        [IMGCLS, *(words.get(word, word) for word in arguments)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "not plain YAML" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr) < 500
