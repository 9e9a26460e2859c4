"""The files in extras/fleet: Kubernetes would take them, and their names and flags are those of the program."""

import pathlib
import re
import subprocess
import tempfile

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
    check_accounts()
    return f"{len(documents)} objects, {flags} flags, {len(spec['triggers'])} triggers"


def check_accounts() -> None:
    """accounts.sh gives nsc the subjects of accounts.conf."""
    lists = re.findall(r"(?:publish|subscribe): \[([^\]]*)\]", (EXTRAS / "accounts.conf").read_text())
    expected = [re.findall(r'"([^"]+)"', one) for one in lists]
    assert len(expected) == 6 and all(expected), expected
    with tempfile.TemporaryDirectory() as folder:
        stub = pathlib.Path(folder) / "nsc"
        stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@" >>calls\n')
        stub.chmod(0o755)
        path = {"PATH": f"{folder}:/usr/bin:/bin"}
        subprocess.run(["sh", str(EXTRAS / "accounts.sh")], cwd=folder, env=path, check=True)
        calls = (pathlib.Path(folder) / "calls").read_text().splitlines()
    given = [calls[at + 1].split(",") for at, word in enumerate(calls) if word in ("--allow-pub", "--allow-sub")]
    assert given == expected, given
