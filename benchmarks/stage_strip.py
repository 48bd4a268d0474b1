"""Draw what a run made of one photo as a strip for a page: `python benchmarks/stage_strip.py RUN PHOTO PICTURE.png`.

The sheet of `weaksam show`, all drawings side by side, shrunk and with few colours, so that the file is small.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from weaksam import pipeline

WIDTH, COLOURS = 1440, 160


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run on rendered scenes or photos that may be shown")
    parser.add_argument("photo", help="a photo of the run, by its name")
    parser.add_argument("picture", type=Path, help="the .png to write")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        sheet = Path(folder) / "sheet.png"
        pipeline.show_photo(arguments.run, arguments.photo, sheet, columns=100)
        with Image.open(sheet) as whole:
            size = (WIDTH, round(whole.height * WIDTH / whole.width))
            strip = whole.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    strip.quantize(COLOURS, dither=Image.Dither.NONE).save(arguments.picture, optimize=True)
    print(f"{arguments.picture}: {size[0]} x {size[1]} pixels, {arguments.picture.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
