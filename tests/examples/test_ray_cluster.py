"""The manifest for KubeRay says what `mell-serve` and its example understand."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mell_jax.launch import given_by, make_config, make_flags

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(name="manifests")
def _manifests() -> Iterator[dict[str, Any]]:
    text = (EXAMPLES / "ray_cluster.yaml").read_text()
    yield {one["kind"]: one for one in yaml.safe_load_all(text)}


def application(manifests: dict[str, Any]) -> dict[str, Any]:
    told = yaml.safe_load(manifests["RayService"]["spec"]["serveConfigV2"])
    (found,) = told["applications"]
    return dict(found)


def test_hosts_fit_nodes_and_may_have_all_of_them(
    manifests: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "mell.toml"
    file.write_text(manifests["ConfigMap"]["data"]["mell.toml"])
    flags = application(manifests)["args"]["flags"]
    words = flags.replace("/etc/mell/mell.toml", str(file)).split()
    values = make_flags(has_hidden=False)
    assert values(["mell-serve", "--ray=auto", *words]) == ["mell-serve"]
    hosts = make_config(given_by(values)).hosts

    (group,) = manifests["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert hosts.ray_hosts == group["maxReplicas"]
    (container,) = group["template"]["spec"]["containers"]
    needs, node = hosts.node_resources(), container["resources"]
    assert needs["GPU"] == float(node["limits"]["nvidia.com/gpu"])
    assert needs["CPU"] <= float(node["requests"]["cpu"])


def test_the_front_end_is_that_of_the_example_and_stays_on_the_head(
    manifests: dict[str, Any],
) -> None:
    told = application(manifests)
    module, _, function = told["import_path"].partition(":")
    (deployment,) = told["deployments"]
    names = {
        node.name
        for node in ast.parse((EXAMPLES / f"{module}.py").read_text()).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    assert {function, deployment["name"]} <= names

    cluster = manifests["RayService"]["spec"]["rayClusterConfig"]
    (wanted,) = deployment["ray_actor_options"]["resources"]
    assert wanted in cluster["headGroupSpec"]["rayStartParams"]["resources"]
    assert cluster["workerGroupSpecs"][0]["rayStartParams"] == {}


def test_all_that_is_mounted_is_there(manifests: dict[str, Any]) -> None:
    cluster = manifests["RayService"]["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        mounts = {one["name"] for c in pod["containers"] for one in c["volumeMounts"]}
        assert mounts <= volumes
    (settings,) = (one for one in pod["volumes"] if "configMap" in one)
    assert settings["configMap"]["name"] == manifests["ConfigMap"]["metadata"]["name"]
