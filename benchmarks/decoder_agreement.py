"""Compare the decoder with other readers on generated files: equal, refused by a code, or wrong.

There is no third outcome: a wrong one is a bug. ``python -m benchmarks.decoder_agreement --files 20000``
"""

from __future__ import annotations

import argparse
import logging
from collections import Counter
from typing import NamedTuple

import numpy as np

from imgcls_ray.errors import ImageError
from imgcls_ray.images.cost import decode_cost
from imgcls_ray.images.decoder import decode_careful, decode_image
from imgcls_ray.images.measure import measure_image
from tests.images.drawn import GeneratedFile, upright_rgb
from tests.images.generated import generate

MAX_DIFFERENCE = 3
"""Of a sample, of 255."""


class Agreement(NamedTuple):
    """What became of the files."""

    equal: Counter[str]
    """Files by format."""
    refused: Counter[tuple[str, str]]
    """Files by format and code."""
    wrong: list[str]
    """A line for each."""


def compare(num_files: int, seed: int = 0) -> Agreement:
    """Decode generated files, JPEGs by both decoders; what is read is measured too, and its cost is known."""
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it warns of what is odd, and much is odd here
    agreement = Agreement(Counter(), Counter(), [])
    for index, file in enumerate(generate(num_files, seed)):
        try:
            outcomes = [decode_image(file.data)]
            if file.format == "JPEG":
                outcomes.append(decode_careful(file.data))
        except ImageError as exc:
            agreement.refused[file.format, str(exc.code)] += 1
            continue
        facts = measure_image(file.data)
        assert (facts.height, facts.width) == outcomes[0].shape[:2]
        assert decode_cost(file.data).pixels > 0
        difference = max(_difference(pixels, file) for pixels in outcomes)
        if difference <= MAX_DIFFERENCE:
            agreement.equal[file.format] += 1
        else:
            line = f"seed {seed}, file {index}: {file.format} {file.name}, orientation {file.orientation}"
            agreement.wrong.append(f"{line}: differs by {difference:.0f}")
    return agreement


def _difference(pixels: np.ndarray, file: GeneratedFile) -> float:
    expected = upright_rgb(file)
    if pixels.shape != expected.shape:
        return float("inf")
    return float(np.abs(pixels - expected).max())


def print_table(agreement: Agreement) -> None:
    formats = sorted({*agreement.equal, *(name for name, _ in agreement.refused)})
    print("| format | equal | refused |\n|---|--:|---|")
    for name in formats:
        codes = {code: number for (of, code), number in sorted(agreement.refused.items()) if of == name}
        told = ", ".join(f"{number} {code}" for code, number in codes.items()) or "0"
        print(f"| {name} | {agreement.equal[name]} | {told} |")
    total = agreement.equal.total(), agreement.refused.total(), len(agreement.wrong)
    print(f"{sum(total)} files: {total[0]} equal, {total[1]} refused, {total[2]} wrong")
    for line in agreement.wrong:
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000, help="how many")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    agreement = compare(options.files, options.seed)
    print_table(agreement)
    raise SystemExit(bool(agreement.wrong))


if __name__ == "__main__":
    main()
