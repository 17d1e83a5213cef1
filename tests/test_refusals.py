"""What the system refuses a command is one line and an exit code, not a stack."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.commands.refusals import as_refusal
from imgcls_ray.errors import InputError, LabelStoreError, ResourceError, StorageError, UsageError
from imgcls_ray.inputs.checks import check_input
from imgcls_ray.storage import DEFAULT_STORAGE, open_directory, open_file
from imgcls_ray.store.opening import is_store
from tests.storage.test_local import as_nobody

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that everybody may enter; pytest's own are for their owner."""
    with tempfile.TemporaryDirectory(prefix="imgcls-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def command(line: str, *, cwd: Path | None = None) -> tuple[int, list[str]]:
    """Run ``imgcls`` within a line of the shell; its exit code and stderr."""
    script = f'python() {{ "{sys.executable}" "$@"; }}; imgcls() {{ python -m imgcls_ray.cli "$@"; }}; {line}'
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, cwd=cwd, env=env)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize("arguments", ["models", "--help", "--version"])
def test_a_full_stdout_is_one_line(arguments: str) -> None:
    code, [line] = command(f"imgcls {arguments} > /dev/full")
    assert code == 3
    assert line.startswith("imgcls: standard output")
    assert line.endswith("cannot be written: No space left on device")


def test_a_reader_that_has_enough_is_no_error() -> None:
    assert command("imgcls models | true; exit ${PIPESTATUS[0]}") == (0, [])


@pytest.mark.parametrize(("tell", "goes_on"), [("StdoutConsole().print('x')", True), ("print('x', flush=True)", False)])
def test_a_reader_that_is_gone_is_no_failure_of_a_command(tell: str, goes_on: bool, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "from imgcls_ray import cli\n"
        "from imgcls_ray.commands.stdout import StdoutConsole\n"
        "@cli.app.command('tell', cls=cli.OneLineCommand)\n"
        "def tell():\n"
        f"    {tell}\n"
        "    open('export', 'w')\n"
        "cli.main()\n"
    )
    assert command("python job.py tell | true; exit ${PIPESTATUS[0]}", cwd=tmp_path) == (0, [])
    # The summary of a job comes before its exports; who only prints has nothing more to do.
    assert (tmp_path / "export").exists() == goes_on


@pytest.mark.parametrize("nowhere", ["2> /dev/full", "2>&1 | true"])
def test_a_log_that_nobody_can_read_ends_no_command(nowhere: str, tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import logging\n"
        "from imgcls_ray import cli\n"
        "from imgcls_ray.commands.terminal import native_stderr_aside\n"
        "def job():\n"
        "    cli.log_to_stderr()\n"
        "    with native_stderr_aside():\n"
        "        logging.getLogger('imgcls_ray').info('working')\n"
        "    logging.getLogger('imgcls_ray').info('done')\n"
        "cli.leave_with(job)\n"
    )
    code, lines = command("python job.py", cwd=tmp_path)
    assert (code, [line.split()[-1] for line in lines]) == (0, ["working", "done"])
    assert command(f"python job.py {nowhere}; exit ${{PIPESTATUS[0]}}", cwd=tmp_path) == (0, [])


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
def test_a_closed_stream_is_no_error(closed: str) -> None:
    assert command(f"imgcls models {closed}") == (0, [])


def test_a_folder_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as caught:
        open_directory("labels")
    refusal = as_refusal(caught.value)
    assert isinstance(refusal, UsageError)
    assert str(refusal) == "the current folder was removed; change to an existing one"


def test_a_command_in_a_folder_that_is_gone_begins_nothing(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    imgcls = Path(sys.executable).with_name("imgcls")
    script = f"cd {tmp_path}/gone && rmdir {tmp_path}/gone && {imgcls} predict {tmp_path} -m {tmp_path} -o {tmp_path}/s"
    ended = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "imgcls: the current folder was removed; change to an existing one\n"


def test_refusals_are_told_and_other_errors_keep_their_stack(tmp_path: Path) -> None:
    denied = as_refusal(PermissionError(errno.EACCES, "Permission denied", "/some/file"))
    assert str(denied) == "/some/file: Permission denied"
    assert isinstance(denied, StorageError)
    assert as_refusal(FileNotFoundError(errno.ENOENT, "No such file", "/some/file")) is None
    assert as_refusal(OSError("no number")) is None


def test_a_limit_on_processes_is_told() -> None:
    for error in (
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        RuntimeError("can't start new thread"),
    ):
        refusal = as_refusal(error)
        assert isinstance(refusal, ResourceError)
        assert f"({error.args[-1]}); raise the limit of its user (`ulimit -u`) or container" in str(refusal)
    assert as_refusal(RuntimeError("some mistake")) is None


def test_a_command_that_may_start_no_thread_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import threading\n"
        "from imgcls_ray import cli\n"
        "def refuse(*args, **kwargs):\n"
        '    raise RuntimeError("can\'t start new thread")\n'
        "threading._start_new_thread = threading._start_joinable_thread = refuse\n"
        "cli.leave_with(threading.Thread(target=print).start)\n"
    )
    code, [line] = command("python job.py", cwd=tmp_path)
    assert (code, line.partition(";")[0]) == (
        2,
        "imgcls: the system starts no more processes or threads for this command (can't start new thread)",
    )


def test_arrows_errors_are_told() -> None:
    words = "[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"
    assert str(as_refusal(OSError(errno.ENOSPC, words[11:]))) == words


def test_an_output_below_a_closed_folder_is_refused(public_folder: Path) -> None:
    (public_folder / "closed").mkdir(mode=0o700)
    directory = open_directory(f"{public_folder}/closed/labels")
    refused = as_nobody(lambda: is_store(directory))
    assert isinstance(refused, LabelStoreError)
    assert str(refused) == f"{directory.uri}: cannot be looked into (Permission denied); give --output a directory"


def test_an_output_under_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("file", "file/labels"):
        with pytest.raises(
            LabelStoreError, match=r"cannot be looked into \(Not a directory\); give --output a directory"
        ):
            is_store(open_directory(f"{tmp_path}/{name}"))


def test_an_input_below_a_closed_folder_is_told_from_one_that_is_not_there(public_folder: Path) -> None:
    (public_folder / "closed" / "in").mkdir(parents=True)
    (public_folder / "closed").chmod(0o700)
    refused = as_nobody(lambda: check_input(f"{public_folder}/closed/in"))
    assert isinstance(refused, InputError)
    assert str(refused) == f"{public_folder}/closed/in: cannot be looked at: Permission denied"


def test_a_folder_of_the_store_that_may_not_be_listed_is_a_storage_error(public_folder: Path) -> None:
    (public_folder / "plans").mkdir(mode=0o700)
    directory = open_directory(str(public_folder))
    refused = as_nobody(lambda: list(directory.entries("plans")))
    assert str(refused) == f"{public_folder}/plans: cannot be listed: Permission denied"
    assert isinstance(as_nobody(lambda: directory.exists("plans/0001.json")), StorageError)


def test_a_pipe_is_no_list(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.txt")
    with pytest.raises(InputError, match=r"list.txt: cannot be read: it is a pipe, socket or device, not a file"):
        open_file(str(tmp_path / "list.txt"), DEFAULT_STORAGE)
