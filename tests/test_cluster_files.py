"""The examples in configs/cluster against the schemas of their readers; the commands that docs/cluster.md shows."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from orchestrator.cli.app import app
from orchestrator.config.loading import parse_config
from orchestrator.resources import configs_folder

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = configs_folder() / "cluster"

#: Fields of ray.io/v1 that the example may use, from the API reference of KubeRay 1.5.
JOB = {
    "entrypoint": str,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "backoffLimit": int,
    "runtimeEnvYAML": str,
    "submissionMode": str,
    "activeDeadlineSeconds": int,
    "rayClusterSpec": dict,
}
CLUSTER_SPEC = {
    "rayVersion": str,
    "authOptions": dict,
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": dict,
    "headGroupSpec": dict,
    "workerGroupSpecs": list,
}
HEAD = {"rayStartParams": dict, "template": dict, "serviceType": str}
GROUP = {
    "groupName": str,
    "replicas": int,
    "minReplicas": int,
    "maxReplicas": int,
    "rayStartParams": dict,
    "template": dict,
}


def load(name: str) -> dict[str, object]:
    found = yaml.safe_load((CLUSTER / name).read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def check(found: object, fields: dict[str, type]) -> None:
    """Every field is known and of its type."""
    assert isinstance(found, dict)
    for name, value in found.items():
        assert isinstance(value, fields[name]), name


def check_orch(words: list[str]) -> None:
    """`orch …`: the command exists, has these options, and the keys that are set are those of a configuration."""
    import typer

    command = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words[2:] if word.startswith("-")} <= known
    for key, _, value in (word.partition("=") for at, word in enumerate(words) if words[at - 1] == "--set"):
        section, _, name = key.partition(".")
        tree: dict[str, object] = {
            "corpus": {"languages": {"en": "en.txt"}},
            "teachers": {"t": {"model": "somewhere", "languages": ["en"]}},
            "objectives": [{"type": "masked-lm"}],
        }
        parse_config(tree | {section: {name: yaml.safe_load(value)}}, where="--set")


def test_ray_up_takes_the_file() -> None:
    import ray.autoscaler

    config = load("ray-up.yaml")
    schema = json.loads(Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text())
    jsonschema.validate(config, schema)
    types = config["available_node_types"]
    assert isinstance(types, dict)
    assert config["head_node_type"] in types
    assert sum(one.get("min_workers", 0) for one in types.values()) <= config["max_workers"]  # type: ignore[operator]
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        assert isinstance(commands, list)
        assert all("RAY_AUTH_MODE=token" in command for command in commands if "ray start" in command)


def test_kuberay_takes_the_file() -> None:
    job = load("kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert set(job) == {"apiVersion", "kind", "metadata", "spec"}
    spec = job["spec"]
    assert isinstance(spec, dict)
    check(spec, JOB)
    cluster = spec["rayClusterSpec"]
    check(cluster, CLUSTER_SPEC)
    assert cluster["authOptions"] == {"mode": "token"}
    check(cluster["headGroupSpec"], HEAD)
    groups = cluster["workerGroupSpecs"]
    for group in groups:
        check(group, GROUP)
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    for part in (cluster["headGroupSpec"], *groups):
        assert all(isinstance(value, str) for value in part["rayStartParams"].values())
        pod = part["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == volumes
        assert container["resources"]["requests"] == container["resources"]["limits"]
    check_orch(shlex.split(spec["entrypoint"], comments=True))


def shown() -> list[str]:
    """The commands of orch in the document and the examples."""
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "cluster.md", CLUSTER / "ray-up.yaml")]
    lines = [line.strip(" #") for text in texts for line in text.splitlines() if line.startswith(("    ", "#   "))]
    return [line[line.index("orch ") :].split("'")[0] for line in lines if "orch run" in line]


@pytest.mark.parametrize("command", shown())
def test_commands_that_are_shown_exist(command: str) -> None:
    check_orch(shlex.split(command))


def test_there_are_commands() -> None:
    assert len(shown()) >= 3
