"""The number of threads: what the system and the quota of a container leave to the process."""

import ctypes
import os
import sys

import pytest

from charrnn.network import cores
from charrnn.network.cores import cpu_quotas, usable_cores


@pytest.mark.parametrize(
    "files, expected",
    [
        ({}, set()),
        ({"cpu.max": "200000 100000\n"}, {2}),
        ({"cpu.max": "max 100000\n"}, set()),
        ({"cpu.max": "5000 100000\n"}, {0.05}),
        ({"cpu.max": "150000 50000\n", "a/cpu.max": "max 1\n", "a/b/cpu.max": "3 2\n"}, {3, 1.5}),
        ({"cpu.max": "nonsense\n"}, set()),
        ({"cpu.max": "1 0\n"}, set()),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, {2.5}),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, set()),
        ({"cpu/v/cpu.cfs_quota_us": "7\n", "cpu/v/cpu.cfs_period_us": "2\n"}, {3.5}),
        ({"cpu/cpu.cfs_quota_us": "250000\n"}, set()),
        ({"other/cpu.max": "1 1\n", "cpu/other/cpu.max": "1 1\n"}, set()),
    ],
)
def test_quotas_of_the_own_control_groups_are_read(tmp_path, files, expected):
    own = tmp_path / "own"
    own.write_text("0::/a/b\n5:cpu,cpuacct:/v\n4:memory:/other\n3:cpuset:/other\n")
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert set(cpu_quotas(str(tmp_path), str(own))) == expected


@pytest.mark.parametrize("own", ["", "nonsense\n", "0::/../..\n"])
def test_container_that_sees_only_its_own_group_is_read_at_the_root(tmp_path, own):
    (tmp_path / "own").write_text(own)
    (tmp_path / "cpu.max").write_text("1 2")
    assert list(cpu_quotas(str(tmp_path), str(tmp_path / "own"))) == [0.5]
    assert list(cpu_quotas(str(tmp_path), str(tmp_path / "none"))) == [0.5]


@pytest.mark.parametrize(
    "quotas, expected", [([], 8), ([2], 2), ([1.01, 64], 2), ([0.05], 1), ([64], 8), ([8.5], 8)]
)
def test_usable_cores_are_the_smaller_of_affinity_and_quota(monkeypatch, quotas, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "cpu_quotas", lambda: iter(quotas))
    assert usable_cores() == expected


@pytest.mark.parametrize(("answer", "expected"), [(4, 4), (None, 10)])
def test_slow_cores_of_apple_silicon_are_not_used(monkeypatch, answer, expected):
    """An Intel Mac does not know the name that is asked for."""

    class Library:
        def sysctlbyname(self, name, value, size, *new):
            assert name == b"hw.perflevel0.logicalcpu" and size._obj.value == 4
            value._obj.value = answer or 0
            return -1 if answer is None else 0

    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 10)
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(cores, "cpu_quotas", lambda: iter([]))
    assert usable_cores() == expected
