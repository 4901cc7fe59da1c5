"""What gateways use, read from their pages of metrics wherever they run: nobody is missed, nobody counted twice."""

from __future__ import annotations

from tasks.checklist.live import Usage, resource_usage
from tasks.checklist.resources import Sampler, parse
from tests.bentos.gateway_process import wait_until
from tests.servers.monitoring import Page

MEGABYTE = 1e6


def page(**workers: tuple[float, float, int]) -> str:
    """A page of metrics with other families around those of the workers."""
    told = [
        "# HELP rl_worker_memory_bytes Resident memory",
        "# TYPE rl_worker_memory_bytes gauge",
        "rl_episodes_total 3.0",
    ]
    for name, (memory, cpu, files) in workers.items():
        told.append(f'rl_worker_memory_bytes{{worker="{name}"}} {memory * MEGABYTE}')
        told.append(f'rl_worker_cpu_seconds{{worker="{name}"}} {cpu}')
        told.append(f'rl_worker_open_files{{worker="{name}"}} {files}')
    return "\n".join(told) + "\n"


def sampled(pages: list[str]) -> list[Usage]:
    """What is made of these pages, of which the last one stays."""
    told: list[str] = []

    def turn() -> str:
        told.append(pages[min(len(told), len(pages) - 1)])
        return told[-1]

    with Page(turn) as gateway, Sampler(f"http://{gateway.address}") as now:
        wait_until(lambda: len(told) > len(pages), "all were read")  # each before the next is asked for
    return now.samples


def test_gateways_that_answer_in_turn_are_added_up_and_their_growth_with_them() -> None:
    one, other = page(a=(100, 1.0, 10), b=(50, 0.5, 10)), page(c=(200, 2.0, 20))
    grown = page(a=(170, 3.0, 12), b=(50, 0.5, 10))
    found = sampled([one, other, one, other, grown])
    assert found[0] == Usage(350.0, 3.5, 40), "whoever answers later was there from the beginning"
    assert found[-1] == Usage(420.0, 5.5, 42)
    assert resource_usage(found, 1_000).status == "fail"


def test_a_worker_that_came_or_went_meanwhile_is_no_growth() -> None:
    steady = page(a=(100, 1.0, 10))
    found = sampled([page(a=(100, 1.0, 10), gone=(900, 1.0, 10)), steady, steady])
    assert {usage.rss_mb for usage in found} == {100.0}
    assert resource_usage(found, 1_000).status == "pass"


def test_pages_that_tell_nothing_of_workers_are_no_samples() -> None:
    assert sampled(["rl_episodes_total 3.0\n"]) == []
    assert parse('rl_worker_memory_bytes{worker="half"} 1.0\n') == {}
    assert resource_usage([], 1_000).status == "inconclusive"
