"""Pages are found by exactly the tokens they hold, and forgotten oldest first."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mell_jax.scheduler.ids import PageKey, Pages
from mell_jax.scheduler.pages import OutOfPagesError, PageCounts, PagePool
from mell_jax.scheduler.prefix_cache import (
    PrefixCache,
    next_key,
    page_keys,
    root_key,
)

SIZE = 2  # tokens per page
NUM_PAGES = 9


def tokens_of(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


def keys_of(*ids: int, salt: bytes = b"") -> list[PageKey]:
    return page_keys(tokens_of(*ids), page_tokens=SIZE, salt=salt)


def remember(cache: PrefixCache, *ids: int, salt: bytes = b"") -> list[int]:
    """Computes a prompt of full pages and finishes it."""
    keys = keys_of(*ids, salt=salt)
    pages = cache.allocate(len(keys))
    for key, page in zip(keys, pages.tolist(), strict=True):
        cache.insert(key, page)
    cache.release(pages)
    return pages.tolist()


def test_only_full_pages_have_keys() -> None:
    assert [len(keys_of(*range(n))) for n in range(6)] == [0, 0, 1, 1, 2, 2]


def test_a_key_stands_for_all_tokens_before_it_and_the_salt() -> None:
    assert keys_of(1, 2, 3, 4)[0] == keys_of(1, 2, 9, 9)[0]
    assert keys_of(1, 2, 3, 4)[1] != keys_of(9, 2, 3, 4)[1]
    assert keys_of(1, 2) != keys_of(2, 1)
    assert keys_of(1, 2) != keys_of(1, 2, salt=b"tenant")
    assert next_key(root_key(b""), tokens_of(1, 2)) == keys_of(1, 2)[0]


@pytest.mark.parametrize(
    "tokens",
    [
        pytest.param(np.array([1, 2, 3, 4], np.int64), id="wide"),
        pytest.param(np.array([1, 0, 2, 0, 3, 0, 4, 0], np.int32)[::2], id="strided"),
    ],
)
def test_the_type_of_the_token_array_does_not_matter(tokens: np.ndarray) -> None:
    assert page_keys(tokens, page_tokens=SIZE, salt=b"") == keys_of(1, 2, 3, 4)


def test_a_salt_cannot_pass_for_a_page_of_somebody_else() -> None:
    # Made from public values, so that its first page would be the victim's second.
    forged = root_key(b"victim") + tokens_of(1, 2).tobytes()
    victim = keys_of(1, 2, 3, 4, salt=b"victim")
    assert keys_of(3, 4, salt=forged)[0] != victim[1]


def test_a_finished_prompt_is_found_as_far_as_it_is_the_same() -> None:
    cache = PrefixCache(PagePool(NUM_PAGES))
    pages = remember(cache, 1, 2, 3, 4, 5, 6)
    assert cache.match(keys_of(1, 2, 3, 4, 5, 6)).tolist() == pages
    assert cache.match(keys_of(1, 2, 3, 4, 9, 9)).tolist() == pages[:2]
    assert cache.match(keys_of(9, 9, 3, 4, 5, 6)).tolist() == []
    assert cache.match(keys_of(1, 2, salt=b"x")).tolist() == []
    assert cache.counts == PageCounts(total=8, free=5, cached=3, used=0)


def test_the_end_of_the_least_recently_used_prompt_goes_first() -> None:
    cache = PrefixCache(PagePool(NUM_PAGES))
    first = remember(cache, 1, 1, 1, 1)
    second = remember(cache, 2, 2, 2, 2)
    again = cache.match(keys_of(1, 1, 1, 1))
    cache.acquire(again)
    cache.release(again)  # now the first prompt is the most recently used
    cache.allocate(4)
    order = [cache.allocate(1).tolist()[0] for _ in range(4)]
    assert order == [second[1], second[0], first[1], first[0]]
    assert cache.match(keys_of(1, 1)).tolist() == []


def test_a_page_in_use_is_never_forgotten() -> None:
    cache = PrefixCache(PagePool(NUM_PAGES))
    remember(cache, 1, 1, 1, 1)
    matched = cache.match(keys_of(1, 1))
    assert cache.count_idle(matched) == 1
    cache.acquire(matched)
    assert cache.count_idle(matched) == 0
    cache.allocate(7)
    with pytest.raises(OutOfPagesError, match="1 pages asked for, 0 free"):
        cache.allocate(1)
    assert cache.match(keys_of(1, 1, 1, 1)).tolist() == matched.tolist()


def test_allocating_too_much_forgets_nothing() -> None:
    cache = PrefixCache(PagePool(NUM_PAGES))
    pages = remember(cache, 1, 1, 1, 1)
    cache.allocate(3)
    with pytest.raises(OutOfPagesError):
        cache.allocate(6)
    assert cache.match(keys_of(1, 1, 1, 1)).tolist() == pages
    assert cache.counts == PageCounts(total=8, free=3, cached=2, used=3)


def test_the_first_page_of_a_key_stays_its_page() -> None:
    cache = PrefixCache(PagePool(NUM_PAGES))
    one, two = cache.allocate(2).tolist()
    (key,) = keys_of(1, 1)
    cache.insert(key, one)
    cache.insert(key, two)
    assert cache.match([key]).tolist() == [one]
    cache.release(np.array([one, two], np.int32))
    assert cache.counts == PageCounts(total=8, free=7, cached=1, used=0)


def test_forgotten_pages_become_free_with_their_last_reference() -> None:
    cache = PrefixCache(PagePool(NUM_PAGES))
    pages = remember(cache, 1, 1, 1, 1)
    matched = cache.match(keys_of(1, 1, 1, 1))
    cache.acquire(matched)
    cache.forget(matched)
    assert not cache.knows(keys_of(1, 1)[0])
    cache.release(matched)
    assert cache.counts == PageCounts(total=8, free=8, cached=0, used=0)
    assert sorted(pages) == sorted(matched.tolist())


def test_clearing_frees_idle_pages_only() -> None:
    cache = PrefixCache(PagePool(NUM_PAGES))
    remember(cache, 1, 1, 1, 1)
    cache.acquire(cache.match(keys_of(1, 1)))
    assert cache.clear() == 1
    assert cache.counts == PageCounts(total=8, free=7, cached=0, used=1)
    assert cache.clear() == 0


@dataclass
class Prompt:
    salt: bytes
    tokens: tuple[int, ...]
    pages: list[int]


PROMPTS = st.lists(st.integers(0, 1), min_size=1, max_size=8).map(tuple)
SALTS = st.sampled_from([b"", b"tenant"])


class PrefixCacheMachine(RuleBasedStateMachine):
    """Prompts come, are published and go; a model knows what each page holds."""

    cache_type = PrefixCache

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(NUM_PAGES)
        self.cache = self.cache_type(self.pool)
        self.prompts: list[Prompt] = []
        self.known: dict[tuple[bytes, tuple[int, ...]], int] = {}  # prefix -> page
        self.idle: list[int] = []  # oldest first

    @rule(tokens=PROMPTS, salt=SALTS)
    def start(self, tokens: tuple[int, ...], salt: bytes) -> None:
        keys = page_keys(tokens_of(*tokens), page_tokens=SIZE, salt=salt)
        matched = self.cache.match(keys)
        want = []
        for end in range(SIZE, len(tokens) + 1, SIZE):
            if (salt, tokens[:end]) not in self.known:
                break
            want.append(self.known[salt, tokens[:end]])
        assert matched.tolist() == want
        idle = [page for page in want if page in self.idle]
        assert self.cache.count_idle(matched) == len(idle)
        missing = -(-len(tokens) // SIZE) - len(want)
        if missing > self.cache.num_available - len(idle):
            return
        self.cache.acquire(matched)
        self.idle = [page for page in self.idle if page not in want]
        new = self.allocate(missing)
        self.prompts.append(Prompt(salt, tokens, want + new))

    @rule(count=st.integers(0, NUM_PAGES))
    def take(self, count: int) -> None:
        if count <= self.cache.num_available:
            self.prompts.append(Prompt(b"", (), self.allocate(count)))
            return
        before = self.cache.counts
        with pytest.raises(OutOfPagesError):
            self.cache.allocate(count)
        assert self.cache.counts == before  # `find_known` checks the rest

    def allocate(self, count: int) -> list[int]:
        free = set(self.pool.free_pages().tolist())
        evicted = self.idle[: max(count - len(free), 0)]
        pages = self.cache.allocate(count).tolist()
        assert len(set(pages)) == count and set(pages) <= free | set(evicted)
        self.idle = self.idle[len(evicted) :]
        self.known = {k: v for k, v in self.known.items() if v not in evicted}
        return pages

    @rule(data=st.data())
    def publish(self, data: st.DataObject) -> None:
        if not self.prompts:
            return
        prompt = data.draw(st.sampled_from(self.prompts))
        keys = page_keys(tokens_of(*prompt.tokens), page_tokens=SIZE, salt=prompt.salt)
        for index, key in enumerate(keys):
            page = prompt.pages[index]
            self.cache.insert(key, page)
            if page not in self.known.values():
                prefix = prompt.tokens[: (index + 1) * SIZE]
                self.known.setdefault((prompt.salt, prefix), page)

    @rule(data=st.data(), trusted=st.booleans())
    def finish(self, data: st.DataObject, trusted: bool) -> None:
        if not self.prompts:
            return
        prompt = self.prompts.pop(data.draw(st.integers(0, len(self.prompts) - 1)))
        pages = np.array(prompt.pages, np.int32)
        if not trusted:
            self.cache.forget(pages)
            bad = set(prompt.pages)
            self.known = {k: v for k, v in self.known.items() if v not in bad}
        self.cache.release(pages)
        held = {page for other in self.prompts for page in other.pages}
        self.idle += [
            page
            for page in reversed(prompt.pages)
            if page not in held and page in self.known.values()
        ]

    @rule()
    def clear(self) -> None:
        assert self.cache.clear() == len(self.idle)
        self.known = {k: v for k, v in self.known.items() if v not in self.idle}
        self.idle = []

    @invariant()
    def books_balance(self) -> None:
        references = np.zeros(NUM_PAGES, np.int32)
        for prompt in self.prompts:
            references[prompt.pages] += 1
        assert self.pool.references.tolist() == references.tolist()
        used, cached = int((references > 0).sum()), len(self.idle)
        free = NUM_PAGES - 1 - used - cached
        assert self.cache.counts == PageCounts(
            total=NUM_PAGES - 1, free=free, cached=cached, used=used
        )
        assert self.pool.num_free == free
        assert self.cache.num_available == free + cached

    @invariant()
    def find_known(self) -> None:
        for salt, prefix in self.known:
            key = keys_of(*prefix, salt=salt)[-1]
            assert self.cache.match([key]).tolist() == [self.known[salt, prefix]]


TestPrefixCache = PrefixCacheMachine.TestCase
TestPrefixCache.settings = settings(max_examples=60)


class LeakyCache(PrefixCache):
    """Forgets to release the first page of a longer prompt."""

    def release(self, pages: Pages) -> None:
        super().release(pages[1:] if len(pages) > 1 else pages)


class StaleCache(PrefixCache):
    """Answers with a page that it has already forgotten and handed out again."""

    def forget(self, pages: Pages) -> None:
        for page in pages.tolist():
            self._key_of.pop(page, None)


@pytest.mark.parametrize("broken", [LeakyCache, StaleCache])
def test_the_machine_notices_a_planted_fault(broken: type[PrefixCache]) -> None:
    class Broken(PrefixCacheMachine):
        cache_type = broken

    once = settings(database=None, phases=[Phase.generate], report_multiple_bugs=False)
    with pytest.raises((AssertionError, OutOfPagesError)):
        run_state_machine_as_test(Broken, settings=once)
