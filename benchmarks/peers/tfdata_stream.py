"""tf.data over TFRecords of the images in DIRECTORY; run by its own interpreter, which needs tensorflow.

A line on stdin asks for `EPOCHS` epochs in batches of 512 (batched parse, AUTOTUNE, CRC32C of every record
checked by TFRecordDataset itself); a line on stdout answers with the number of images.
"""

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf

EPOCHS = 25


def main() -> None:
    """Write the data set as TFRecords, then read it on demand."""
    directory = Path(sys.argv[1])
    images, labels = np.load(directory / "images.npy"), np.load(directory / "labels.npy")
    shape = images.shape[1:]
    path = str(directory / "images.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for image, label in zip(images, labels, strict=True):
            feature = {
                "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[image.tobytes()])),
                "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[int(label)])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    keys = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parse(examples: Any) -> tuple[Any, Any]:  # tensorflow's types are not at hand where this is checked
        fields = tf.io.parse_example(examples, keys)
        return tf.reshape(tf.io.decode_raw(fields["image"], tf.uint8), (-1, *shape)), fields["label"]

    batches = (
        tf.data.TFRecordDataset(path)
        .batch(512)
        .map(parse, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )
    print("ready", tf.__version__, flush=True)
    for _ in sys.stdin:
        print(sum(len(labels) for _ in range(EPOCHS) for _, labels in batches), flush=True)


if __name__ == "__main__":
    main()
