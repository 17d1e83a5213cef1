"""Decoding one picture takes no more memory than the limits say, and only a little more than its pixels need."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls_ray.images.limits import PEAK_BYTES_PER_PIXEL

SIDE = 3000
# The highest size of this process alone: what the kernel tells of a child's resources holds its parent's peak too.
CODE = """
import re, sys
from pathlib import Path
from imgcls_ray.images.decoder import decode_careful

def read_peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

data = Path(sys.argv[1]).read_bytes()
decode_careful(Path(sys.argv[2]).read_bytes())
before = read_peak()
assert decode_careful(data).nbytes
print(read_peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's numbers")
@pytest.mark.parametrize(
    ("image_format", "mode", "most"),
    [("PNG", "RGBA", 10), ("PNG", "P", 8), ("JPEG", "CMYK", 10), ("TIFF", "RGB", 14), ("WEBP", "RGBA", 20)],
)
def test_a_picture_takes_few_bytes_a_pixel(tmp_path: Path, image_format: str, mode: str, most: int) -> None:
    image = Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).convert(mode)
    options = {"WEBP": {"method": 0}, "PNG": {"compress_level": 1}}.get(image_format, {})
    for name, part in (("large", image), ("small", image.crop((0, 0, 8, 8)))):
        part.save(tmp_path / name, image_format, **options)
    command = [sys.executable, "-c", CODE, str(tmp_path / "large"), str(tmp_path / "small")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) / SIDE**2 < most <= PEAK_BYTES_PER_PIXEL
