"""What a plan costs: counts by hand and by what a run really does, machines, and what does not fit."""

from __future__ import annotations

import json
import logging
from collections import namedtuple
from pathlib import Path

import pytest
from torch import nn

from vismech.config.choices import Code, Gpu, Method
from vismech.costs.coding import coding
from vismech.costs.cost import ON_DEVICE, PER_IMAGE, Amount, Cost, Kind
from vismech.costs.counts import ROWS, count
from vismech.costs.fitting import fitting
from vismech.costs.machines import BANDWIDTH, DEFAULTS, EFFICIENCY, GPUS, LAUNCH, PORTION, Machine, keep, machine_of
from vismech.errors import UserError
from vismech.stages import planned
from vismech.stages.planned import check_room

Disk = namedtuple("Disk", "total used free")


def test_counts_are_the_formulas() -> None:
    """A convolution's FLOPs are 2 · kernel · positions, there and back; a ReLU reads one number and writes one."""
    convolution = nn.Sequential(nn.Conv2d(3, 5, 3, 1, 1, bias=False), nn.ReLU()).requires_grad_(False)
    found = count(convolution, (3, 8, 6))
    assert found.flops == found.back_flops == 2 * 3 * 5 * 9 * 48
    # In and out of the convolution, in and out of the ReLU, into the sum that makes one number of it.
    assert found.traffic == 4 * (3 * 48 + 5 * 48 + 2 * 5 * 48 + 5 * 48)
    assert found.launches == 3
    linear = count(nn.Linear(10, 4).requires_grad_(False), (10,))
    assert linear.flops == linear.back_flops == 2 * 10 * 4


def test_nothing_is_computed(monkeypatch) -> None:
    """What is counted with tensors without numbers is what is counted with zeros."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(64, 3)).requires_grad_(False)
    seen: list[type] = []
    module[1].register_forward_hook(lambda _, inputs, __: seen.append(type(inputs[0])))
    found = count(module, (3, 6, 6))
    monkeypatch.setattr("vismech.costs.counts.FakeTensorMode", None)  # refuses to be called
    assert count(module, (3, 6, 6)) == found
    assert [kind.__name__ for kind in seen] == ["FakeTensor", "Tensor"] and ROWS > 1


def test_amounts_grow_with_rows_and_calls() -> None:
    one = Amount(5.0, 1.0, 20.0, 3.0)
    assert one.times(10, 2) == Amount(50.0, 10.0, 200.0, 6.0)
    both = Cost(4, 2, forward=3, held=7, work={Kind.forward: one}) + Cost(6, 1, backward=1, held=5, exact=True)
    assert (both.images, both.vectors, both.forward, both.backward, both.held) == (6, 3, 3, 1, 7)
    assert both.flops == 6 and both.launches == 3 and not both.exact


@pytest.mark.parametrize("code", [code for code in Code if code is not Code.custom])
def test_every_code_costs_more_for_more(code) -> None:
    def flops(n: float, k: int, c: int) -> float:
        return Cost(work=coding(code, n, k, c, 4, n / 16)).flops

    assert flops(200, 64, 8) >= 2 * flops(100, 64, 8) * 0.99 > 0
    assert flops(100, 128, 8) > flops(100, 64, 8) and flops(100, 64, 16) > flops(100, 64, 8)


@pytest.mark.parametrize("method", [method for method in Method if method not in (Method.custom, Method.saved)])
def test_every_method_has_a_cost(method) -> None:
    options = {"iterations": 10, "steps": 100, "batch_size": 32}
    found = fitting(method, 1000, 64, 16, options)
    assert Machine.seconds(DEFAULTS, Cost(work=found)) > 0


def machine(launch: float = 0.5) -> Machine:
    return Machine(dict.fromkeys(Kind, 100.0), bandwidth=1000.0, launch=launch, store=10.0)


def test_seconds_of_this_machine_are_a_sum() -> None:
    work = {Kind.forward: Amount(300.0, traffic=2000.0, launches=4.0), Kind.splits: Amount(50.0)}
    cost = Cost(written=20.0, work=work)
    assert machine().seconds(cost) == pytest.approx(2.0 + 3.0 + 2.0 + 2.0 + 0.5)
    assert machine().seconds(cost, processes=2) == pytest.approx(2.0 + 3.5 + 0.5)  # splits are no pass
    at_once = 7.0 / (2 * (1 + 3 * PORTION))
    assert machine().seconds(cost, processes=2, portions=4) == pytest.approx(2.0 + at_once + 0.5)
    assert machine().seconds(cost, but=ON_DEVICE) == pytest.approx(2.5) and {Kind.search} == ON_DEVICE - PER_IMAGE


def test_a_gpu_waits_for_launches_or_for_the_work() -> None:
    gpu, host = GPUS[Gpu.h100], machine()
    busy = 1e15 / (gpu.float32 * EFFICIENCY) + 1e12 / (gpu.bandwidth * BANDWIDTH)
    heavy = Cost(work={Kind.forward: Amount(1e15, traffic=1e12, launches=10)})
    assert gpu.seconds(heavy, host) == pytest.approx(busy)
    assert gpu.seconds(heavy, host, tf32=True) < gpu.seconds(heavy, host)
    light = Cost(work={Kind.forward: Amount(1e6, launches=1e6)})
    assert gpu.seconds(light, host) == pytest.approx(1e6 * LAUNCH)
    assert gpu.seconds(light, host, devices=8) == pytest.approx(1e6 * LAUNCH / 8)
    assert gpu.seconds(Cost(work={Kind.bisecting: Amount(500.0)}), host) == pytest.approx(5.0)  # the host's
    neighbours = Cost(work={Kind.search: Amount(1e15, traffic=1e12, launches=10)})
    assert gpu.seconds(neighbours, host, devices=8, tf32=True) == pytest.approx(busy)  # of one GPU, and never rounded
    assert gpu.seconds(heavy + neighbours, host, devices=8) == pytest.approx(busy * 9 / 8)
    assert set(GPUS) == set(Gpu)


def test_constants_are_kept_by_host_and_doubtful_ones_are_not_believed(tmp_path, monkeypatch) -> None:
    assert machine_of(tmp_path) is DEFAULTS
    file = keep(tmp_path / "store", machine())
    assert machine_of(tmp_path / "store") == machine()
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    assert machine_of(tmp_path / "store") is DEFAULTS
    keep(tmp_path / "store", machine(launch=0.25))
    content = json.loads(file.read_text())
    assert len(content) == 2 and machine_of(tmp_path / "store").launch == 0.25
    for damage in ("", "[]", '{"elsewhere cpu": {}}', json.dumps({**content, "elsewhere cpu": {"rates": 3}})):
        file.write_text(damage)
        assert machine_of(tmp_path / "store") is DEFAULTS
    older = json.loads(json.dumps(content))
    del older["elsewhere cpu"]["rates"][Kind.host.value]
    file.write_text(json.dumps(older))
    assert machine_of(tmp_path / "store").rates == {**machine().rates, Kind.host: DEFAULTS.rates[Kind.host]}
    content["elsewhere cpu"]["store"] = 0
    file.write_text(json.dumps(content))
    assert machine_of(tmp_path / "store") is DEFAULTS


def test_what_no_disk_can_hold_is_refused_and_what_may_not_fit_is_told(monkeypatch, caplog) -> None:
    monkeypatch.setattr(planned.shutil, "disk_usage", lambda _: Disk(100e9, 80e9, 20e9))
    monkeypatch.setattr(planned, "memory_bytes", lambda: 8e9)
    with pytest.raises(UserError, match=r"writes 101\.0 GB of vectors, .* has 100\.0 GB: set store\.root"):
        check_room([Cost(written=51e9, exact=True), Cost(written=50e9, exact=True)], Path("store"), None)
    with caplog.at_level(logging.WARNING):
        check_room([Cost(written=19e9, exact=True, held=7e9)], Path("store"), 8e9)
        assert not caplog.records
        check_room([Cost(written=101e9)], Path("store"), None)  # no more than an estimate
        check_room([Cost(held=9e9)], Path("store"), 10e9)
        check_room([Cost(held=7e9)], Path("store"), 6e9)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 3
    assert "101.0 GB" in told[0] and "store.root" in told[0]
    assert "9.0 GB" in told[1] and "runtime.batch_size" in told[1]
    assert "the GPU has 6 GB" in told[2]


def test_memory_of_this_machine_is_known() -> None:
    found = planned.memory_bytes()
    assert found is None or 1e8 < found < 1e16
