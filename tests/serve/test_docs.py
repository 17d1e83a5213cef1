"""What the documentation tells people to type gets an answer."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imgcls_ray.config import ServeConfig
from imgcls_ray.serve.errors import ErrorCode
from tests.serve.conftest import picture

if TYPE_CHECKING:
    from tests.serve.conftest import Live

ROOT = Path(__file__).parent.parent.parent
PAGES = [(ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/serving.md")]
CURLS = sorted({line for page in PAGES for line in page.splitlines() if line.startswith("curl ")})
BASE = "http://127.0.0.1:8000"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(picture(0))
    (tmp_path / "other.png").write_bytes(picture(1))


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("command", CURLS)
def test_curl_lines_get_labels(live: Live, command: str) -> None:
    host, port = live.listen()
    typed = command.replace(BASE, f"http://{host}:{port}")
    done = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, timeout=60, check=True)
    results = json.loads(done.stdout)["results"]
    assert [result["status"] for result in results] == ["ok"] * len(results)


@pytest.mark.usefixtures("workplace")
def test_the_python_lines_print_a_label(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGES[1], re.DOTALL)
    host, port = live.listen()
    exec(compile(code.replace(BASE, f"http://{host}:{port}"), "serving.md", "exec"), {})
    label, score = capsys.readouterr().out.split()
    assert label in live.service.choose().model.class_names
    assert 0 < float(score) <= 1


def test_every_code_and_every_key_that_the_page_names_exists() -> None:
    for code in ErrorCode:
        assert f"`{code.value}`" in PAGES[1], code
    for key in re.findall(r"`((?:max_|url_)[a-z_]+|[a-z]+_(?:timeout_s|port))`", PAGES[1]):
        assert key in ServeConfig.model_fields, key
