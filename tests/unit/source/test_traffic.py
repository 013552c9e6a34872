"""How values fall into buckets. That requests are counted at all is in test_client.py."""

from kproxy.source.traffic import Distribution, Distributions


def test_a_value_counts_under_the_first_bound_that_it_does_not_exceed() -> None:
    distribution = Distribution((1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 3.0):
        distribution.observe(value)
    assert (distribution.counts, distribution.sum) == ([2, 1, 1], 6.0)


def test_there_is_one_for_each_key() -> None:
    distributions = Distributions((1.0,))
    distributions["a", "GET"].observe(1.0)
    distributions["a", "GET"].observe(1.0)
    distributions["b", "GET"].observe(1.0)
    assert {key: sum(each.counts) for key, each in distributions.items()} == {("a", "GET"): 2, ("b", "GET"): 1}
