"""The recipes for containers: no engine runs in the tests, so what it would read is checked, and the agent is run as
the recipes would have it run: not as root, on a root that cannot be written, without capabilities."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.mesh.rig import COMMAND, wait_for

ROOT = Path(__file__).parent.parent.parent
CONTAINERFILE = ROOT / "deploy" / "Containerfile"
KUBERNETES = ROOT / "deploy" / "kubernetes.yaml"
UID = 7433

# What the API allows at these places (Kubernetes 1.31), as far as the manifest could want it: a typing error is none.
POD = {
    "hostNetwork",
    "dnsPolicy",
    "automountServiceAccountToken",
    "enableServiceLinks",
    "terminationGracePeriodSeconds",
    "nodeSelector",
    "tolerations",
    "securityContext",
    "initContainers",
    "containers",
    "volumes",
    "serviceAccountName",
    "priorityClassName",
}
CONTAINER = {
    "name",
    "image",
    "command",
    "args",
    "env",
    "ports",
    "securityContext",
    "startupProbe",
    "livenessProbe",
    "readinessProbe",
    "resources",
    "volumeMounts",
    "imagePullPolicy",
    "lifecycle",
}
POD_SECURITY = {"runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup", "seccompProfile", "supplementalGroups"}
SECURITY = {
    "runAsNonRoot",
    "runAsUser",
    "allowPrivilegeEscalation",
    "readOnlyRootFilesystem",
    "capabilities",
    "privileged",
}
PROBE = {"exec", "periodSeconds", "timeoutSeconds", "failureThreshold", "initialDelaySeconds", "successThreshold"}


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(KUBERNETES.read_text()))


def pod() -> dict[str, Any]:
    template: dict[str, Any] = documents()[1]["spec"]["template"]
    return dict(template["spec"])


def test_the_manifest_is_a_namespace_and_a_daemonset_as_the_api_has_them() -> None:
    """Required fields, no unknown ones, and a selector that finds what the template makes."""
    space, daemons = documents()
    assert ("v1", "Namespace") == (space["apiVersion"], space["kind"])
    assert ("apps/v1", "DaemonSet") == (daemons["apiVersion"], daemons["kind"])
    assert space["metadata"]["name"] == daemons["metadata"]["namespace"]
    assert {"apiVersion", "kind", "metadata", "spec"} == set(daemons)
    assert {"selector", "updateStrategy", "template"} == set(daemons["spec"])
    labels = daemons["spec"]["template"]["metadata"]["labels"]
    assert daemons["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert set() == set(pod()) - POD
    assert set() == set(pod()["securityContext"]) - POD_SECURITY
    for container in (*pod()["containers"], *pod()["initContainers"]):
        assert re.fullmatch(r"[a-z0-9-]+", container["name"])
        assert set() == set(container) - CONTAINER
        assert set() == set(container["securityContext"]) - SECURITY
        for probe in (container.get("startupProbe"), container.get("livenessProbe")):
            assert set() == set(probe or {}) - PROBE


def test_what_is_mounted_is_there() -> None:
    """Each mount has its volume, each volume is mounted, and each kind of it says what it must."""
    volumes = {it["name"]: it for it in pod()["volumes"]}
    containers = (*pod()["containers"], *pod()["initContainers"])
    assert set(volumes) == {mount["name"] for it in containers for mount in it["volumeMounts"]}
    assert "meshnode-token" == volumes["token"]["secret"]["secretName"]
    assert 0o440 == volumes["token"]["secret"]["defaultMode"]
    assert "DirectoryOrCreate" == volumes["home"]["hostPath"]["type"]
    assert "mesh1-" not in KUBERNETES.read_text()


def test_the_agent_has_no_rights_that_it_does_not_need() -> None:
    """Not root, no capabilities, a root that cannot be written; on the host's network the ports are the host's."""
    (agent,) = pod()["containers"]
    assert {"drop": ["ALL"]} == agent["securityContext"]["capabilities"]
    assert (False, True) == (
        agent["securityContext"]["allowPrivilegeEscalation"],
        agent["securityContext"]["readOnlyRootFilesystem"],
    )
    assert (True, UID) == (pod()["securityContext"]["runAsNonRoot"], pod()["securityContext"]["runAsUser"])
    assert {("TCP", 7433, 7433), ("UDP", 7433, 7433)} == {
        (it["protocol"], it["containerPort"], it["hostPort"]) for it in agent["ports"]
    }
    assert agent["livenessProbe"]["periodSeconds"] * agent["livenessProbe"]["failureThreshold"] >= 60
    assert pod()["terminationGracePeriodSeconds"] >= 15


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", CONTAINERFILE.read_text()))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def test_the_image_is_built_of_what_is_here() -> None:
    """Each file that is copied exists, and all that the wheel is made of is copied."""
    known = [
        "FROM",
        "WORKDIR",
        "COPY",
        "RUN",
        "ENV",
        "USER",
        "VOLUME",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    ]
    assert set() == {word for word, _ in instructions()} - set(known)
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    names = {name for row in copied for name in row}
    assert all((ROOT / name).exists() for name in names)
    assert {"pyproject.toml", "README.md", "LICENSE", "meshnode", "models/digits"} == names


def test_the_image_is_a_users_with_a_volume_and_a_check() -> None:
    """The same user, home and commands as in the manifest."""
    last = dict(instructions())
    assert f"{UID}:{UID}" == last["USER"]
    home = last["VOLUME"]
    assert {home} == {it["mountPath"] for it in pod()["containers"][0]["volumeMounts"] if it["name"] == "home"}
    assert f"MESHNODE_HOME={home}" in last["ENV"].split()
    assert pod()["containers"][0]["livenessProbe"]["exec"]["command"] == json.loads(
        last["HEALTHCHECK"].partition("CMD ")[2]
    )
    assert (["meshnode"], ["up"]) == (json.loads(last["ENTRYPOINT"]), json.loads(last["CMD"]))


AS_IN_A_CONTAINER = """
set -e
mount -t tmpfs -o uid={uid},gid={uid},mode=0700 none {home}
mount -o remount,bind,ro /
export MESHNODE_HOME={home} PYTHONDONTWRITEBYTECODE=1
exec setpriv --reuid {uid} --regid {uid} --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all {command}
"""


def test_an_agent_runs_on_a_root_that_cannot_be_written() -> None:
    """As the image's user, without a capability, with nothing but its home to write: it is up, healthy, and ends."""
    if os.geteuid() != 0 or any(shutil.which(it) is None for it in ("unshare", "nsenter", "setpriv")):
        pytest.skip("needs root and util-linux: the file system is made read-only in a mount namespace")
    home = Path("/srv")  # a file system of its own there, in the namespace only
    command = " ".join([*COMMAND, "--json", "up", "--listen", "127.0.0.1:0", "--no-mdns"])
    script = AS_IN_A_CONTAINER.format(uid=UID, home=home, command=command)
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/"
    ) as agent:
        assert agent.stdout is not None
        assert agent.stderr is not None
        try:
            line = agent.stdout.readline()
            said = "" if line else agent.stderr.read()
            if "Permission denied" in said or "shared libraries" in said:
                pytest.skip(f"user {UID} cannot read this checkout, or its Python: {said[-200:]}")
            assert "ready" == json.loads(line)["event"]

            def healthy() -> bool:
                words = ["nsenter", f"--mount=/proc/{agent.pid}/ns/mnt", "setpriv", "--reuid", str(UID)]
                words += ["--clear-groups", *COMMAND, "--home", str(home), "status"]
                return 0 == subprocess.run(words, capture_output=True, cwd="/").returncode

            wait_for(healthy, within_s=30, why="its check is content")
            inside = Path(f"/proc/{agent.pid}/status").read_text()
            assert re.search(rf"Uid:\s+{UID}\b", inside)
            assert re.search(r"CapEff:\s+0+\n", inside)
        finally:
            agent.terminate()
            code = agent.wait(20)
    assert 0 == code
