"""Decoys by the hundred: chains of other people, written and counted once, drawn from for every sample.

A haystack of 128k tokens may hold 512 decoy chains of 8 facts. Wording and tokenising four thousand sentences anew for
each sample would take half a second; drawing them from a bank takes two milliseconds. All people and values of a bank
differ from each other; a sample's own people are drawn apart from them (`linked.Draw.taken`).
"""

from random import Random

import numpy as np

from environments.haystack.facts import BY_KIND, RELATION, Entity, Fact, draw_entity, draw_value, state
from environments.haystack.filler.pool import Pool
from environments.haystack.tasks.linked_wordings import LINKS, sentence

CHAINS = 640  # a bank's chains: more than the 512 that a sample may ask for, so that samples differ
LINKS_LONG = 7  # links of a chain; with the value at its end, 8 facts


class Bank:
    """Decoy chains for one split and one pool."""

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
        texts = [
            [
                sentence(rng.choice(rng.choice(LINKS).told), e=a.told, v=b.told)
                for a, b in zip(chain, chain[1:], strict=False)
            ]
            for chain in self._people
        ]
        costs = np.array(pool.tokens.mid([text for chain in texts for text in chain]))
        self._links, self._link_costs = texts, costs.reshape(CHAINS, LINKS_LONG)
        self.mean_cost = float(costs.mean())  # tokens of a decoy
        self._ends: dict[tuple[str, int], tuple[list[str], np.ndarray, frozenset[str]]] = {}

    def _end(self, kind: str, hops: int) -> tuple[list[str], np.ndarray, frozenset[str]]:
        """What closes each chain after `hops` facts: the value of its last person; its cost; all the values."""
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
                state(Fact(people[hops - 1], RELATION[relation].name, value), False, rng)
                for people, value in zip(self._people, values, strict=True)
            ]
            self._ends[kind, hops] = texts, np.array(self._pool.tokens.mid(texts)), frozenset(values)
        return self._ends[kind, hops]

    def draw(
        self, n: int, kind: str, hops: int, forbidden: tuple[str, ...], rng: Random
    ) -> tuple[list[str], np.ndarray]:
        """The sentences of `n` chains of `hops` facts, and their tokens. No value is one of `forbidden`."""
        texts, costs, values = self._end(kind, hops)
        chosen = rng.sample(range(CHAINS), n)
        if not values.isdisjoint(forbidden):
            chosen = [i for i in chosen if not any(value in texts[i] for value in forbidden)]
        found = [text for i in chosen for text in self._links[i][: hops - 1]]
        found += [texts[i] for i in chosen]
        counted = np.concatenate([self._link_costs[chosen, : hops - 1].ravel(), costs[chosen]])
        return found, counted
