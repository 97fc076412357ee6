"""FFCV's loader over the images in DIRECTORY; run by its own interpreter, which needs ffcv, torch and numpy.

A line on stdin asks for `EPOCHS` epochs in batches of 512, one thread, the page cache warm; a line on
stdout answers with the number of images.
"""

import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from ffcv.fields import IntField, NDArrayField
from ffcv.fields.decoders import IntDecoder, NDArrayDecoder
from ffcv.loader import Loader, OrderOption
from ffcv.transforms import ToTensor
from ffcv.writer import DatasetWriter
from numpy.typing import NDArray

EPOCHS = 25


class Rows:
    """What FFCV's writer indexes."""

    def __init__(self, directory: Path) -> None:
        self.images = np.load(directory / "images.npy")
        self.labels = np.load(directory / "labels.npy")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[NDArray[np.uint8], int]:
        return self.images[i], int(self.labels[i])


def main() -> None:
    """Write the data set as FFCV has it, then read it on demand."""
    directory = Path(sys.argv[1])
    rows = Rows(directory)
    path = directory / "ffcv.beton"
    fields = {"image": NDArrayField(rows.images.dtype, rows.images.shape[1:]), "label": IntField()}
    DatasetWriter(str(path), fields, num_workers=1).from_indexed_dataset(rows)
    loader = Loader(
        str(path),
        batch_size=512,
        num_workers=1,
        os_cache=True,
        order=OrderOption.SEQUENTIAL,
        drop_last=False,
        pipelines={"image": [NDArrayDecoder(), ToTensor()], "label": [IntDecoder(), ToTensor()]},
    )
    print("ready", version("ffcv"), flush=True)
    for _ in sys.stdin:
        print(sum(len(labels) for _ in range(EPOCHS) for _, labels in loader), flush=True)


if __name__ == "__main__":
    main()
