"""Texts that say nearly the same: signatures by MinHash, and an index of them in linear time and bounded memory.

    index = NearDuplicates(0.8, 262_144); index.seen(minhash(shingles(ids)))

Near-duplicate means: Jaccard similarity of the sets of 8-token shingles of at least 0.8. It is estimated by MinHash with
128 permutations (Broder 1997) and looked up in 16 bands of 8 (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets",
3.4): a pair of similarity s meets in a band with probability 1-(1-s^8)^16, and is then compared on all 128 values.
`jaccard` is the slow definition that the tests hold it against.

Written here because the library for it, datasketch 2.0, takes 4,800 bytes a unit instead of 512, six times as long to look
one up and twice as long to make a signature, and forgets nothing.
"""

import numpy as np

SHINGLE = 8  # tokens: about six English words
PERMUTATIONS, BANDS = 128, 16
PER_BAND = 8  # units remembered for one value of one band; a bound, so that lookups never turn quadratic
_RNG = np.random.Generator(np.random.PCG64(20_231_123))  # fixed: signatures must be the same on every machine
_MIX, _A, _B = (_RNG.integers(0, 1 << 64, n, dtype=np.uint64) for n in (SHINGLE, PERMUTATIONS, PERMUTATIONS))
_MIX, _A = _MIX | np.uint64(1), _A | np.uint64(1)


def shingles(ids: np.ndarray) -> np.ndarray:
    """Return a hash of every run of 8 tokens, [max(1, T-7)] uint64; one of all tokens when there are fewer."""
    ids_T = ids.astype(np.uint64) + np.uint64(1)
    if len(ids_T) < SHINGLE:
        ids_T = np.pad(ids_T, (0, SHINGLE - len(ids_T)))
    n = len(ids_T) - SHINGLE + 1
    hash_N = np.zeros(n, np.uint64)
    for j in range(SHINGLE):
        hash_N += ids_T[j : j + n] * _MIX[j]
        hash_N ^= hash_N >> np.uint64(29)
    return hash_N * np.uint64(0x9E3779B97F4A7C15)


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Return the similarity of two token sequences by its definition, over their sets of shingles. Slow: for tests."""
    first, second = ({tuple(ids[i : i + SHINGLE]) for i in range(max(1, len(ids) - SHINGLE + 1))} for ids in (a, b))
    return len(first & second) / len(first | second)


def minhash(hashes: np.ndarray) -> np.ndarray:
    """Return the signature of a set of shingles, [128] uint16: the low bits of the least value of each permutation."""
    hashes = np.unique(hashes)
    least = [int((hashes * a + b).min()) & 0xFFFF for a, b in zip(_A, _B, strict=True)]
    return np.array(least, np.uint16)


class _Generation:
    """Signatures of up to `units` units, and an open-addressed table from each band's value to those that have it."""

    def __init__(self, units: int) -> None:
        slots = 1 << (2 * BANDS * units - 1).bit_length()  # at most half full
        self.mask = slots - 1
        self.owner, self.tag = np.zeros(slots, np.uint32), np.zeros(slots, np.uint32)  # owner 0: empty
        self.signatures = np.zeros((units, PERMUTATIONS), np.uint16)
        self.count = 0

    def candidates(self, keys: list[int]) -> tuple[set[int], list[int]]:
        """Return units that share a band, and for each band the free slot behind them.

        A slot is -1 when `PER_BAND` units stand there.
        """
        units, free = set(), []
        for key in keys:
            slot, tag, same = key & self.mask, key >> 32, 0
            while (owner := int(self.owner[slot])) and same < PER_BAND:
                if self.tag[slot] == tag:
                    units.add(owner - 1)
                    same += 1
                slot = (slot + 1) & self.mask
            free.append(-1 if same == PER_BAND else slot)
        return units, free

    def add(self, signature: np.ndarray, keys: list[int]) -> None:
        """Store the signature of one more unit."""
        self.signatures[self.count] = signature
        self.count += 1
        for key in keys:
            (slot,) = self.candidates([key])[1]  # anew: the band before may have taken the slot
            if slot >= 0:
                self.owner[slot], self.tag[slot] = self.count, key >> 32


class NearDuplicates:
    """Remembers the signatures of at most the last `remember` units, and of at least half as many, in 512 bytes each.

    256 bytes hold the signature and as many the table, which is half full when the number of units is a power of two and
    less full otherwise. When one half of the memory is full, the older half is forgotten.
    """

    def __init__(self, threshold: float, remember: int) -> None:
        self.threshold = threshold
        self.units = max(1, remember // 2)
        self.generations = [_Generation(self.units)]

    def seen(self, signature: np.ndarray) -> bool:
        """Return True if a unit this similar is remembered. If not, remember this one and return False."""
        keys = self._keys(signature)
        for generation in self.generations:
            units = list(generation.candidates(keys)[0])
            if units and (generation.signatures[units] == signature).mean(1).max() >= self.threshold:
                return True
        self.add(signature, keys)
        return False

    def add(self, signature: np.ndarray, keys: list[int] | None = None) -> None:
        """Remember a unit's signature without looking for similar ones."""
        if self.generations[-1].count == self.units:
            self.generations = [self.generations[-1], _Generation(self.units)]
        self.generations[-1].add(signature, self._keys(signature) if keys is None else keys)

    @staticmethod
    def _keys(signature: np.ndarray) -> list[int]:
        """Return one 64-bit value for each band; bands differ in their constants, so they never meet one another."""
        values = signature.astype(np.uint64).reshape(BANDS, -1) + np.uint64(1)
        keys = np.arange(1, BANDS + 1, dtype=np.uint64) * np.uint64(0xD6E8FEB86659FD93)
        for j in range(values.shape[1]):
            keys = (keys ^ values[:, j]) * _MIX[j]
            keys ^= keys >> np.uint64(32)
        return [int(key) for key in keys]
