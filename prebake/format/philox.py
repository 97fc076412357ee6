"""Counter-based random words: a pure function of (seed, operation, epoch, index).

Philox4x64-10: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011. NumPy guarantees a stable raw
stream, but not the results of its `Generator`. So callers map the words to ranges themselves, in integers.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["random_words"]

WORDS_PER_BLOCK = 4


def random_words(seed: int, operation: int, epoch: int, count: int, start: int = 0) -> NDArray[np.uint64]:
    """Return (count,) words of 64 random bits, one for each index from `start` on.

    A range of indices gets the same words as each index alone.

    Args:
        seed: 0 to 2^63 - 1.
        operation: the purpose of the words. The numbers are part of the format: never change them.
        epoch: of the words.
        count: number of words.
        start: the first index.
    """
    block, skip = divmod(start, WORDS_PER_BLOCK)
    generator = np.random.Philox(
        key=np.array([seed, operation], np.uint64), counter=np.array([block, 0, epoch, 0], np.uint64)
    )
    words: NDArray[np.uint64] = generator.random_raw(skip + count)[skip:]
    return words
