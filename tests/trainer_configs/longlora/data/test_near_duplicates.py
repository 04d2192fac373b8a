"""Near-duplicates against the slow definition, and what the index costs."""

from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer_configs.longlora.data.near_duplicates import (
    PER_BAND,
    SHINGLE,
    NearDuplicates,
    jaccard,
    minhash,
    shingles,
)


@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(0, 3), max_size=60))
@settings(deadline=None)
def test_shingles_are_those_of_the_definition(a, b):
    first, second = np.array(a, np.int32), np.array(b, np.int32)
    if min(len(a), len(b)) >= SHINGLE:
        one, two = set(shingles(first).tolist()), set(shingles(second).tolist())
        assert len(one & two) / len(one | two) == jaccard(first, second)


def altered(ids: np.ndarray, edits: int, rng: Random) -> np.ndarray:
    """`ids` with so many single tokens replaced, each of which changes up to 8 shingles."""
    ids = ids.copy()
    for place in rng.sample(range(len(ids)), edits):
        ids[place] = rng.randrange(50_000, 60_000)
    return ids


def test_recall_and_false_positives_against_exact_jaccard():
    """Of 600 pairs of 1000 tokens. Beside the estimate's spread (0.035 at 0.8) the answer is that of the definition."""
    rng, count = Random(0), {"near": [0, 0], "edge": [0, 0], "far": [0, 0]}
    for _ in range(600):
        base = np.array([rng.randrange(50_000) for _ in range(1000)], np.int32)
        other = altered(base, rng.randrange(0, 50), rng)
        index = NearDuplicates(0.8, 64)
        assert not index.seen(minhash(shingles(base)))
        exact = jaccard(base, other)
        kind = "near" if exact >= 0.9 else "edge" if exact >= 0.7 else "far"
        count[kind][0] += 1
        count[kind][1] += index.seen(minhash(shingles(other)))
    shares = {kind: found / total for kind, (total, found) in count.items()}
    print(f"share called near-duplicate, by exact similarity: {count}")
    assert all(total >= 60 for total, _ in count.values())
    assert shares["near"] >= 0.99  # recall at 0.9 and more
    assert shares["far"] <= 0.01  # false positives below 0.7


def test_index_agrees_with_all_pairs_in_a_stream():
    """The fast path beside the slow one: 120 documents, each compared with every one before that was kept."""
    rng, index = Random(1), NearDuplicates(0.8, 1024)
    bases = [np.array([rng.randrange(50_000) for _ in range(400)], np.int32) for _ in range(30)]
    kept: list[np.ndarray] = []
    for _ in range(120):
        ids = altered(rng.choice(bases), rng.choice([0, 1, 60]), rng)
        slow = any(jaccard(ids, other) >= 0.8 for other in kept)
        assert index.seen(minhash(shingles(ids))) == slow
        if not slow:
            kept.append(ids)
    assert 30 <= len(kept) < 90


def test_index_forgets_the_oldest_and_stays_small():
    index = NearDuplicates(0.8, 64)
    signatures = [minhash(shingles(np.arange(n * 1000, n * 1000 + 50))) for n in range(200)]
    assert not any(index.seen(signature) for signature in signatures)
    assert all(index.seen(signature) for signature in signatures[-32:])
    assert not index.seen(signatures[0])
    assert len(index.generations) == 2


def test_an_index_costs_512_bytes_a_unit():
    index = NearDuplicates(0.8, 1 << 16)
    index.add(np.zeros(128, np.uint16))
    (one,) = index.generations
    assert (one.owner.nbytes + one.tag.nbytes + one.signatures.nbytes) / index.units == 512


def test_many_units_with_one_band_in_common_cost_no_more():
    """Signatures that share a band but nothing else: at most 8 of them are ever looked at."""
    rng, index = np.random.default_rng(0), NearDuplicates(0.8, 4096)
    for _ in range(200):
        signature = rng.integers(0, 1 << 16, 128, dtype=np.uint16)
        signature[:8] = 7
        assert not index.seen(signature)
    found, _ = index.generations[0].candidates(index._keys(signature))
    assert len(found) <= PER_BAND + 1
