"""A page pool whose pages know what is in them; what was there before stays there."""

from collections.abc import Sequence

from tests.scheduler.migration.jobs import SIZE, Content, Job, ViolationError


class Pool:
    """Pages with references; full pages of a group's prompt can be found and shared."""

    def __init__(self, num_pages: int) -> None:
        self.free = list(range(num_pages))
        self.references = [0] * num_pages
        self.content: list[Content] = [("garbage", 0, 0)] * num_pages
        self._found: dict[Content, int] = {}

    def take(self, count: int) -> list[int] | None:
        """`count` pages with one reference each; None, and nothing taken, for lack."""
        if len(self.free) < count:
            return None
        pages = [self.free.pop() for _ in range(count)]
        for page in pages:
            self.references[page] = 1
        return pages

    def share(self, job: Job, *, known: int) -> list[int]:
        """Pages that hold a prefix of the job's `known` tokens, now pinned."""
        pages: list[int] = []
        for number in range(min(job.shared, known - 1) // SIZE):
            page = self._found.get(job.content(number))
            if page is None:
                break
            pages.append(page)
        self.pin(pages)
        return pages

    def pin(self, pages: Sequence[int]) -> None:
        for page in pages:
            self.references[page] += 1

    def drop(self, pages: Sequence[int]) -> None:
        for page in pages:
            self.references[page] -= 1
            if self.references[page] == 0:
                if self._found.get(self.content[page]) == page:
                    del self._found[self.content[page]]
                self.free.append(page)

    def publish(self, page: int) -> None:
        """Makes a full page of a group's prompt findable."""
        self._found.setdefault(self.content[page], page)

    def write(self, page: int, content: Content) -> None:
        if self.references[page] != 1:
            raise ViolationError(f"{self.references[page]} holders of a written page")
        self.content[page] = content

    def check(self, held: int) -> None:
        """Pages are conserved; `held` is what all holders list."""
        if self.references.count(0) != len(self.free):
            raise ViolationError("a page is neither free nor used, or both")
        if sum(self.references) != held:
            raise ViolationError(f"{sum(self.references)} references, {held} held")
