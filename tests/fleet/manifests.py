"""The files in extras/fleet: Kubernetes would take them, and their names and flags are those of the program."""

import pathlib
import re
import subprocess

import kubernetes_validate
import yaml

import server

EXTRAS = pathlib.Path(__file__).parent.parent.parent / "extras/fleet"
NAMES = pathlib.Path(__file__).parent.parent.parent / "crates/flux2-fleet/src/names.rs"


def main():
    documents = list(yaml.safe_load_all((EXTRAS / "kubernetes.yaml").read_text()))
    kinds = [document["kind"] for document in documents]
    assert kinds == ["Namespace", "Deployment", "Service", "PodDisruptionBudget", "Deployment", "ScaledObject"], kinds
    scaled = documents.pop()
    for document in documents:
        kubernetes_validate.validate(document, "1.37", strict=True)
    flags = 0
    for deployment in (document for document in documents if document["kind"] == "Deployment"):
        [container] = deployment["spec"]["template"]["spec"]["containers"]
        command, *given = container["args"]
        help_text = subprocess.run([server.PROGRAM, command, "--help"], capture_output=True, text=True).stdout
        help_text += subprocess.run([server.PROGRAM, command, "--help-all"], capture_output=True, text=True).stdout
        for flag in (flag.split("=")[0] for flag in given):
            assert f"{flag} " in help_text, f"{command} has no flag {flag}"
            flags += 1
    # KEDA's schema is not published as a package: what its documentation of the scaler names.
    spec = scaled["spec"]
    assert spec["scaleTargetRef"]["name"] == "worker" and len(spec["triggers"]) == 3
    stream = re.search(r'pub const JOBS: &str = "(\w+)"', NAMES.read_text())[1]
    wanted = {"natsServerMonitoringEndpoint", "account", "stream", "consumer", "lagThreshold", "activationLagThreshold"}
    for trigger, priority in zip(spec["triggers"], ("high", "normal", "low"), strict=True):
        metadata = trigger["metadata"]
        assert trigger["type"] == "nats-jetstream" and set(metadata) == wanted, trigger
        assert metadata["stream"] == stream and metadata["consumer"] == f"klein-4b_{priority}", metadata
        assert all(isinstance(value, str) for value in metadata.values()), metadata
    values = yaml.safe_load((EXTRAS / "nats-values.yaml").read_text())
    assert values["config"]["jetstream"]["merge"]["sync_interval"] == "always"
    return f"{len(documents)} objects, {flags} flags, {len(spec['triggers'])} triggers"
