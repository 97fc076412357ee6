"""scikit-learn's handwritten digits, which need no download."""

from pathlib import Path

import numpy as np

from prebake.optional import import_optional
from prebake.precompute.augment import held_out_order
from prebake.precompute.images import Images, SourceData
from prebake.precompute.sources.registry import Decoding, Source, register

TRAIN = 1500


def read_digits(_argument: str, _data_dir: Path, _how: Decoding) -> SourceData:
    """Read 1,797 handwritten digits, 8x8, 0 to 16 (UCI, Alpaydin and Kaynak, 1998).

    A fixed permutation deals 1,500 to train and 297 to test, since the file is sorted by writer.
    """
    bunch = import_optional("sklearn.datasets", "demo", "digits").load_digits()
    images_NHWC = np.minimum(bunch.images * 16, 255).astype(np.uint8)[..., None]
    labels_N = bunch.target.astype(np.int64)
    order = held_out_order(len(labels_N))
    parts = {"train": order[:TRAIN], "test": order[TRAIN:]}
    splits = {split: Images(images_NHWC[index_N], labels_N[index_N]) for split, index_N in parts.items()}
    return SourceData("digits", tuple(str(digit) for digit in range(10)), splits, mirror=False, recipe="digits")


register(Source("digits", read_digits, "1,500 + 297 handwritten digits, 8x8x1, which come with scikit-learn"))
