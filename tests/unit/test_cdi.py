"""CDI specs: which files count, what their devices change in an OCI spec, what is refused and how."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from daemon.containers.spec import cdi
from storage.errors import Internal, InvalidArgument

NULL: dict[str, Any] = {"path": "/dev/null0", "hostPath": "/dev/null"}


def spec_file(**changes: Any) -> dict[str, Any]:
    device = {"name": "one", "containerEdits": {"deviceNodes": [NULL]}}
    return {"cdiVersion": "0.6.0", "kind": "vendor.com/class", "devices": [device], **changes}


def edits(**changes: Any) -> dict[str, Any]:
    return spec_file(devices=[{"name": "one", "containerEdits": changes}])


def oci() -> dict[str, Any]:
    return {
        "process": {"user": {"uid": 0, "gid": 0}, "env": ["PATH=/bin", "A=old"]},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"resources": {"devices": [{"allow": False, "access": "rwm"}]}},
    }


def write(directory: Path, name: str, content: Any) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(content if isinstance(content, str) else json.dumps(content))


def inject(directory: Path, *names: str) -> dict[str, Any]:
    spec = oci()
    cdi.inject(spec, names, cdi.catalogue([directory]))
    return spec


def test_a_device_node_takes_from_the_host_what_its_file_leaves_out(tmp_path: Path) -> None:
    write(tmp_path, "a.json", spec_file())
    linux = inject(tmp_path, "vendor.com/class=one")["linux"]
    assert linux["devices"] == [
        {"path": "/dev/null0", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666},
    ]
    assert linux["resources"]["devices"][-1] == {
        "allow": True,
        "access": "rwm",
        "type": "c",
        "major": 1,
        "minor": 3,
    }


def test_a_device_node_as_its_file_says(tmp_path: Path) -> None:
    node = {"path": "/dev/x", "type": "b", "major": 7, "minor": 9, "fileMode": 0o600, "uid": 5, "gid": 6}
    write(tmp_path, "a.json", edits(deviceNodes=[{**node, "permissions": "r"}]))
    linux = inject(tmp_path, "vendor.com/class=one")["linux"]
    assert linux["devices"] == [node]
    assert linux["resources"]["devices"][-1]["access"] == "r"


def test_mounts_environment_and_groups(tmp_path: Path) -> None:
    mounts = [{"hostPath": "/etc", "containerPath": "/proc", "options": ["ro"]}]
    mounts += [{"hostPath": "tmpfs", "containerPath": "/t", "type": "tmpfs"}]  # type: ignore[dict-item]
    write(tmp_path, "a.json", edits(env=["A=new", "B=1"], mounts=mounts, additionalGids=[0, 7, 7]))
    spec = inject(tmp_path, "vendor.com/class=one")
    assert spec["process"]["env"] == ["PATH=/bin", "A=new", "B=1"]
    assert spec["mounts"] == [
        {"destination": "/proc", "source": "/etc", "type": "bind", "options": ["rbind", "ro"]},
        {"destination": "/t", "source": "tmpfs", "type": "tmpfs", "options": []},
    ]
    assert set(spec["process"]["user"]["additionalGids"]) == {7}


def test_edits_of_the_file_apply_once(tmp_path: Path) -> None:
    two = [{"name": n, "containerEdits": {"env": [f"{n.upper()}=1"]}} for n in ("one", "two")]
    mount = {"hostPath": "/etc", "containerPath": "/vendor"}
    write(tmp_path, "a.json", spec_file(devices=two, containerEdits={"mounts": [mount], "env": ["ALL=1"]}))
    spec = inject(tmp_path, "vendor.com/class=one", "vendor.com/class=two")
    assert [m["destination"] for m in spec["mounts"]] == ["/proc", "/vendor"]
    assert spec["process"]["env"][2:] == ["ALL=1", "ONE=1", "TWO=1"]


def test_nodes_belong_to_the_containers_user(tmp_path: Path) -> None:
    write(tmp_path, "a.json", spec_file())
    spec = oci()
    spec["process"]["user"] = {"uid": 1000, "gid": 50}
    cdi.inject(spec, ["vendor.com/class=one"], cdi.catalogue([tmp_path]))
    assert (spec["linux"]["devices"][0]["uid"], spec["linux"]["devices"][0]["gid"]) == (1000, 50)


def test_yaml_files_count_and_others_do_not(tmp_path: Path) -> None:
    text = "cdiVersion: '0.8.0'\nkind: a.com/b\ndevices:\n- name: '0'\n  containerEdits: {env: [X=1]}\n"
    write(tmp_path, "a.yaml", text)
    write(tmp_path, "b.conf", text)
    assert list(cdi.catalogue([tmp_path, tmp_path / "none"])) == ["a.com/b=0"]


def test_a_later_directory_wins_and_a_clash_within_one_means_nothing(tmp_path: Path) -> None:
    for directory, value in (("etc", "1"), ("run", "2")):
        write(tmp_path / directory, "a.json", edits(env=[f"X={value}"]))
    found = cdi.catalogue([tmp_path / "etc", tmp_path / "run"])
    assert found["vendor.com/class=one"].own.env == ("X=2",)
    write(tmp_path / "run", "b.json", edits(env=["X=3"]))
    assert cdi.catalogue([tmp_path / "run"]) == {}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("{", "Expecting"),
        ([], "not an object"),
        (spec_file(cdiVersion="9.0.0"), "invalid version"),
        (spec_file(kind="vendor"), "invalid vendor/class"),
        (spec_file(kind="1vendor.com/class"), "invalid vendor/class"),
        (spec_file(devices=[]), "no devices"),
        (spec_file(surprise=1), "unknown field 'surprise'"),
        (spec_file(devices=[{"name": "-", "containerEdits": {"env": ["A=1"]}}]), "invalid device name"),
        (spec_file(devices=[{"name": "one", "containerEdits": {}}]), "empty device edits"),
        (spec_file(devices=[*spec_file()["devices"], *spec_file()["devices"]]), "multiple device"),
        (edits(env=["=x"]), "invalid environment variable"),
        (edits(env="A=1"), "not a list"),
        (edits(deviceNodes=[{"path": "dev"}]), "invalid device node"),
        (edits(deviceNodes=[{**NULL, "type": "q"}]), 'invalid type "q"'),
        (edits(deviceNodes=[{**NULL, "permissions": "x"}]), "invalid permissions"),
        (edits(deviceNodes=[{**NULL, "major": "1"}]), "invalid major"),
        (edits(mounts=[{"hostPath": "/x"}]), "empty containerPath"),
        (edits(additionalGids=["wheel"]), "invalid additionalGids"),
        (edits(other=[]), "unknown field 'other'"),
    ],
)
def test_a_bad_file_is_left_out_and_says_why(
    tmp_path: Path, content: Any, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "bad.json", content)
    write(tmp_path, "good.json", {**spec_file(), "kind": "other.com/class"})
    assert list(cdi.catalogue([tmp_path])) == ["other.com/class=one"]
    assert why in caplog.text and str(tmp_path / "bad.json") in caplog.text


@pytest.mark.parametrize("name", ["hooks", "intelRdt", "netDevices"])
def test_what_is_not_carried_out_is_refused_and_nothing_changed(tmp_path: Path, name: str) -> None:
    value: Any = {"closID": "x"} if name == "intelRdt" else [{"hookName": "prestart", "path": "/bin/true"}]
    write(tmp_path, "a.json", edits(deviceNodes=[NULL], **{name: value}))
    spec = oci()
    before = copy.deepcopy(spec)
    with pytest.raises(Internal, match=f"needs {name}, which this engine does not carry out"):
        cdi.inject(spec, ["vendor.com/class=one"], cdi.catalogue([tmp_path]))
    assert spec == before


def test_unknown_devices_and_missing_host_nodes(tmp_path: Path) -> None:
    write(tmp_path, "a.json", edits(deviceNodes=[{"path": "/dev/no-such"}]))
    with pytest.raises(Internal, match=r"unresolvable CDI devices a.com/b=1, a.com/b=2"):
        inject(tmp_path, "a.com/b=1", "vendor.com/class=one", "a.com/b=2")
    with pytest.raises(Internal, match='failed to stat CDI host device "/dev/no-such"'):
        inject(tmp_path, "vendor.com/class=one")
    os.mkfifo(tmp_path / "fifo")
    write(
        tmp_path, "a.json", edits(deviceNodes=[{"path": "/f", "hostPath": f"{tmp_path}/fifo", "type": "c"}])
    )
    with pytest.raises(Internal, match=r"host type mismatch"):
        inject(tmp_path, "vendor.com/class=one")
    write(tmp_path, "a.json", edits(deviceNodes=[{"path": "/f", "hostPath": f"{tmp_path}/fifo"}]))
    linux = inject(tmp_path, "vendor.com/class=one")["linux"]
    assert linux["devices"][0]["type"] == "p" and len(linux["resources"]["devices"]) == 1


def gpus(directory: Path, **request: Any) -> list[str]:
    spec = oci()
    cdi.apply_requests(spec, [{"Capabilities": [["gpu"]], **request}], [directory])  # type: ignore[typeddict-item]
    return [entry for entry in spec["process"]["env"] if entry.startswith("GPU")]


def test_gpus_are_cdi_devices_where_there_are_some(tmp_path: Path) -> None:
    names = ("0", "1", "all")
    devices = [{"name": n, "containerEdits": {"env": [f"GPU{n}=1"]}} for n in names]
    with pytest.raises(Internal, match=r'^could not select device driver "" with capabilities: \[\[gpu\]\]$'):
        gpus(tmp_path, Count=-1)
    write(tmp_path, "a.json", spec_file(kind="nvidia.com/gpu", devices=devices))
    assert gpus(tmp_path, Count=-1) == ["GPUall=1"]
    assert gpus(tmp_path, Count=1) == ["GPU0=1"]
    assert gpus(tmp_path, DeviceIDs=["1"]) == ["GPU1=1"]
    with pytest.raises(Internal, match=r"unresolvable CDI devices nvidia.com/gpu=2"):
        gpus(tmp_path, Count=3)
    with pytest.raises(Internal, match=r"\[\[tpu fast\]\]"):
        cdi.apply_requests(oci(), [{"Capabilities": [["tpu", "fast"]]}], [tmp_path])


def test_count_and_options_mean_nothing_to_cdi(tmp_path: Path) -> None:
    for request in ({"Driver": "cdi", "Count": 1}, {"Driver": "cdi", "Options": {"a": "b"}}):
        with pytest.raises(InvalidArgument, match=r"unexpected (count|options) in CDI device request"):
            cdi.apply_requests(oci(), [request], [tmp_path])  # type: ignore[list-item]
