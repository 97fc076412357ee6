"""What the project promises, the tests that hold it, and what breaks each promise when it is taken out."""

from dataclasses import dataclass

__all__ = ["PROMISES", "Mutant", "Promise"]


@dataclass(frozen=True)
class Mutant:
    """A change of the source that takes a promise's mechanism out, and a test that must fail then.

    `before` stands exactly once in the file `path`.
    """

    path: str
    before: str
    after: str
    test: str


@dataclass(frozen=True)
class Promise:
    """One promise.

    Attributes:
        text: the promise.
        how: how it is tested.
        tests: files, or node ids without parameters; slow ones are run as well.
        mutants: what takes it out.
    """

    text: str
    how: str
    tests: tuple[str, ...]
    mutants: tuple[Mutant, ...]


PROMISES: tuple[Promise, ...] = (
    Promise(
        "A second signal ends a command at once; a step or a file is not torn by the first",
        "signals raised inside and outside of the blocks that must be whole",
        ("tests/test_interruptions.py",),
        (
            Mutant(
                "shards/command.py",
                "        for number in heard:\n            signal.raise_signal(number)\n",
                "",
                "tests/test_interruptions.py::test_a_signal_waits_until_the_block_that_must_be_whole_is_left",
            ),
        ),
    ),
)
