"""The examples for clusters: prebake accepts their commands, Slurm, Kubernetes and SkyPilot their files."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import prebake.cli.precompute
import prebake.cli.train
from prebake.precompute.task import Task

EXAMPLES = Path(__file__).parent.parent / "examples"
PAGE = EXAMPLES.parent / "docs" / "distributed.md"
PARSERS = {"precompute": prebake.cli.precompute.parser, "train": prebake.cli.train.parser}
COUNT = 8
SKY = os.environ.get("PREBAKE_SKY")


def commands(text: str, **variables: object) -> list[tuple[str, Any]]:
    """Return the name and the parsed options of each prebake command in a text, its variables replaced."""
    found = []
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        for command, options in re.findall(r"prebake (precompute|train) (--[^`]*)", line):
            for name, value in {"HOME": "/home/me", **variables}.items():
                options = options.replace(f"${name}", str(value))
            words = shlex.split(options)
            assert not any("$" in word for word in words), words
            found.append((command, PARSERS[command]().parse_args(words)))
    return found


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((EXAMPLES / name).read_text()))


def shares(tasks: list[str]) -> list[int]:
    """Return the numbers of these tasks, which all belong to one bake."""
    parsed = [Task.parse(text) for text in tasks]
    assert {task.count for task in parsed} == {len(tasks)}
    return [task.number for task in parsed]


def test_the_slurm_array_runs_every_task_once() -> None:
    text = (EXAMPLES / "slurm.sh").read_text()
    first, last = map(int, re.findall(r"^#SBATCH --array=(\d+)-(\d+)$", text, re.M)[0])
    tasks = []
    for number in range(first, last + 1):
        given = {
            "SLURM_ARRAY_TASK_ID": number,
            "SLURM_ARRAY_TASK_COUNT": last - first + 1,
            "SLURM_CPUS_PER_TASK": re.findall(r"--cpus-per-task=(\d+)", text)[0],
        }
        dry, bake = (options for _, options in commands(text, **given))
        tasks.append(bake.task)
        assert dry.dry_run
        assert (dry.out, dry.data_dir, dry.epochs) == (bake.out, bake.data_dir, bake.epochs)
    assert shares(tasks) == list(range(COUNT))
    assert subprocess.run(["/bin/bash", "-n", EXAMPLES / "slurm.sh"], check=False).returncode == 0


def test_the_kubernetes_job_runs_every_task_once() -> None:
    (job,) = documents("kubernetes.yaml")
    spec = job["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert container["command"] == ["prebake", "precompute"]
    tasks = []
    for number in range(spec["completions"]):
        arguments = [text.replace("$(JOB_COMPLETION_INDEX)", str(number)) for text in container["args"]]
        tasks.append(PARSERS["precompute"]().parse_args(arguments).task)
    assert shares(tasks) == list(range(COUNT))
    assert spec["completionMode"] == "Indexed"
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2, 3]
    (mount,) = container["volumeMounts"]
    (volume,) = spec["template"]["spec"]["volumes"]
    assert mount["name"] == volume["name"]
    (dry,) = (options for _, options in commands((EXAMPLES / "kubernetes.yaml").read_text()))
    assert all(path.is_relative_to(mount["mountPath"]) for path in (dry.out, dry.data_dir))


def test_skypilot_trains_from_the_bucket_that_it_baked_to() -> None:
    _, bake, train_ = documents("skypilot.yaml")
    ((_, baking),) = commands(bake["run"])
    ((_, training),) = commands(train_["run"])
    assert baking.out / "cifar10" == Path(training.shards)
    (bucket,) = bake["file_mounts"]
    assert bake["file_mounts"] == train_["file_mounts"]
    assert all(Path(path).is_relative_to(bucket) for path in (baking.out, training.shards, training.out))
    assert training.resume == "auto"
    assert train_["resources"]["use_spot"]
    assert train_["resources"]["accelerators"]


def test_the_page_on_clusters_shows_every_example() -> None:
    text = PAGE.read_text()
    task, dask = (options for _, options in commands(text.split("\n## Train ")[0]))
    assert str(Task.parse(task.task)) == "3/8"
    assert dask.dask == "tcp://HOST:8786"
    for path in {*EXAMPLES.glob("*.sh"), *EXAMPLES.glob("*.yaml")}:
        assert f'--8<-- "examples/{path.name}"' in text


@pytest.mark.slow
@pytest.mark.skipif(
    not SKY,
    reason="PREBAKE_SKY names no Python that has skypilot and kubernetes-validate",
)
@pytest.mark.parametrize(
    ("code", "name", "expected"),
    [
        (
            "from sky.utils import dag_utils\n"
            "tasks = dag_utils.load_chain_dag_from_yaml(sys.argv[1]).tasks\n"
            "print([(t.name, [r.use_spot for r in t.resources], sorted(t.storage_mounts)) for t in tasks])",
            "skypilot.yaml",
            "[('bake', [True], ['/bucket']), ('train', [True], ['/bucket'])]",
        ),
        (
            "import yaml, kubernetes_validate\n"
            "print(kubernetes_validate.validate(yaml.safe_load(open(sys.argv[1])), '1.31', strict=True))",
            "kubernetes.yaml",
            "1.31",
        ),
    ],
    ids=["SkyPilot's parser", "Kubernetes' schema"],
)
def test_the_cluster_accepts_the_file(code: str, name: str, expected: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(SKY), "-c", f"import sys\n{code}", str(EXAMPLES / name)],
        env={**os.environ, "HOME": str(tmp_path)},
        cwd=EXAMPLES.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(expected)
