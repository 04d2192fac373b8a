"""Decoys by the hundred: chains of other people, written and counted once, drawn from for every sample.

A haystack of 128k tokens may hold 512 decoy chains of 8 facts. Wording and tokenising four thousand sentences anew for
each sample would take half a second; drawing them from a bank takes two milliseconds. All people and values of a bank
differ from each other; a sample's own people are drawn apart from them (`Draw.taken`).
"""

from random import Random
from typing import NamedTuple

import numpy as np

from environments.haystack.facts import BY_KIND, Entity, Fact, draw_entity, draw_value, state
from environments.haystack.filler.pool import Pool
from environments.haystack.tasks.linked_wordings import LINKS
from environments.haystack.wording import sentence

CHAINS = 640  # a bank's chains: more than the 512 that a sample may ask for, so that samples differ
LINKS_LONG = 7  # links of a chain; with the value at its end, 8 facts


class _Ends(NamedTuple):
    """What closes each chain: the value of its last person as a sentence, its tokens (int64, (CHAINS,)), all values."""

    texts: list[str]
    costs: np.ndarray
    values: frozenset[str]


class Bank:
    """Chains of facts about other people for one split and one pool of filler, from which samples draw their decoys."""

    def __init__(self, pool: Pool, split: str, lexical_gap: bool, number: int):
        self._pool, self._split, self._name = pool, split, f"{split} {lexical_gap} {number}"
        rng = Random(f"bank {self._name}")
        people: dict[str, Entity] = {}
        while len(people) < CHAINS * (LINKS_LONG + 1):
            person = draw_entity(split, lexical_gap, rng)
            people.setdefault(person.told, person)
        everyone = list(people.values())
        self.names = frozenset(people)
        self._people = [everyone[i::CHAINS] for i in range(CHAINS)]
        self._links = [
            [
                sentence(rng.choice(rng.choice(LINKS).told), e=a.told, v=b.told)
                for a, b in zip(chain, chain[1:], strict=False)
            ]
            for chain in self._people
        ]
        costs = np.array(pool.tokens.mid([text for chain in self._links for text in chain]))
        self._link_costs = costs.reshape(CHAINS, LINKS_LONG)
        self.mean_cost = float(costs.mean())  # tokens of a decoy
        self._ends: dict[tuple[str, int], _Ends] = {}

    def _end(self, kind: str, hops: int) -> _Ends:
        """Return the last sentences of all chains when each has `hops` facts and ends in a value of that kind."""
        if (kind, hops) not in self._ends:
            # A generator of its own, so that a bank's sentences do not depend on the order in which they are asked for.
            rng = Random(f"ends {self._name} {kind} {hops}")
            values: dict[str, None] = {}
            while len(values) < CHAINS:
                value = draw_value(kind, self._split, rng)
                if not self._pool.contains(value):
                    values.setdefault(value)
            relation = BY_KIND[kind].name
            texts = [
                state(Fact(people[hops - 1], relation, value), False, rng)
                for people, value in zip(self._people, values, strict=True)
            ]
            self._ends[kind, hops] = _Ends(texts, np.array(self._pool.tokens.mid(texts)), frozenset(values))
        return self._ends[kind, hops]

    def draw(
        self, n: int, kind: str, hops: int, forbidden: tuple[str, ...], rng: Random
    ) -> tuple[list[str], np.ndarray]:
        """Return the sentences of `n` random chains of `hops` facts, and the tokens of each (int64): fewer where a
        chain's value is one of `forbidden`. All links stand first, then all values."""
        ends = self._end(kind, hops)
        chosen = rng.sample(range(CHAINS), n)
        if not ends.values.isdisjoint(forbidden):
            chosen = [i for i in chosen if not any(value in ends.texts[i] for value in forbidden)]
        texts = [text for i in chosen for text in self._links[i][: hops - 1]] + [ends.texts[i] for i in chosen]
        return texts, np.concatenate([self._link_costs[chosen, : hops - 1].ravel(), ends.costs[chosen]])
