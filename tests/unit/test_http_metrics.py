"""What is shown of the answers is what the library's own metrics would show of them."""

from __future__ import annotations

import random

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from config import names
from service.api.metrics import Answers


def test_answers_are_shown_as_the_librarys_own_metrics_show_them() -> None:
    registry, library = CollectorRegistry(), CollectorRegistry()
    requests, seconds = names.HTTP_REQUESTS, names.HTTP_SECONDS
    counter = Counter(requests.name, requests.help, requests.labels, registry=library)
    histogram = Histogram(seconds.name, seconds.help, seconds.labels, registry=library)
    answers = Answers()
    registry.register(answers)
    drawn = random.Random(7)
    taken = [*Histogram.DEFAULT_BUCKETS[:-1], 0.0, 11.0, *(drawn.expovariate(3) for _ in range(200))]
    for one in (*taken, None, None):
        method, route, status = (
            drawn.choice(["GET", "POST"]),
            drawn.choice(["/v1/jobs", 'a"b\\c']),
            drawn.choice([200, 404]),
        )
        answers.answered(method, route, status, one)
        counter.labels(method=method, route=route, status=str(status)).inc()
        if one is not None:
            histogram.labels(method=method, route=route).observe(one)

    def lines(shown: CollectorRegistry) -> list[str]:
        found = generate_latest(shown).decode().splitlines()
        return [line for line in found if "_created" not in line and "_sum" not in line]

    assert lines(registry) == lines(library)
    for method in ("GET", "POST"):
        labels = {"method": method, "route": "/v1/jobs"}
        sums = [one.get_sample_value(f"{seconds.name}_sum", labels) for one in (registry, library)]
        assert sums[0] is not None
        assert abs(sums[0] - (sums[1] or 0)) < 1e-9
