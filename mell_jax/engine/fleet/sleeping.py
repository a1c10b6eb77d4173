"""A sleeping engine has given back its pools of KV pages, and its weights if asked to.

All instances are parked and their devices withdrawn from the fleet, as if they were
lost and came back: the books say so, and requests keep their tokens.
"""

from typing import final

from mell_jax.engine.admin import Sleep
from mell_jax.engine.fleet.conductor import Conductor
from mell_jax.engine.fleet.config import Parking
from mell_jax.engine.fleet.instance_pool import InstancePool
from mell_jax.scheduler.placement.operator import NotPossibleError
from mell_jax.worker.held_weights import HeldWeights, NoHostMemoryError, bytes_of


@final
class Sleeping:
    """This knows what one fleet has given back; its thread calls it.

    Args:
      conductor: of the fleet; nothing is computing when it is put to sleep.
      instance_pool: has the weights.
      parking: what a parked instance gives back.
    """

    def __init__(
        self, conductor: Conductor, *, instance_pool: InstancePool, parking: Parking
    ) -> None:
        self.level = 0  # awake
        self._awake_bytes = 0  # on the devices, before it slept
        self._conductor = conductor
        self._instance_pool = instance_pool
        self._parking = parking

    @property
    def freed_bytes(self) -> int:
        """Returns what a sleep has given back, but for weights given anew since."""
        return self._awake_bytes - self._count_bytes() if self.level else 0

    def check(self, command: Sleep) -> None:
        """Checks that a sleep is possible.

        Raises:
          NotPossibleError: the weights have no place to wait.
        """
        if command.level == 1 or command.keeps == "drop":
            return
        try:
            for each in self._held():
                each.check_host_memory()
        except NoHostMemoryError as error:
            raise NotPossibleError(f"{error}; drop the weights instead") from error

    def begin(self, command: Sleep) -> None:
        """Gives back what a command says, beside what is given back already."""
        if not self.level:
            self._awake_bytes = self._count_bytes()
            self._conductor.withdraw()
        if command.level > 1:
            for each in self._held():
                if command.keeps == "drop":
                    each.drop()
                elif not each.is_dropped:
                    each.put_away()
                    each.wait_ready()  # or nothing is given back yet
        self.level = max(self.level, int(command.level))

    def check_wake(self) -> None:
        """Checks that there are weights to wake with.

        Raises:
          NotPossibleError: they were dropped.
        """
        if any(each.is_dropped for each in self._held()):
            raise NotPossibleError(
                "weights were dropped or deleted: give new ones by an update, then wake"
            )

    def end(self) -> None:
        """Takes the devices again; weights are on their way, pools come with use."""
        self.level = 0
        if self._parking == "pool":
            for each in self._held():
                each.fetch()
        self._conductor.readmit()

    def _held(self) -> list[HeldWeights]:
        """Returns all weights, but on devices that are lost."""
        lost = self._conductor.roster.lost
        found = {
            id(held): held
            for model in self._conductor.machine.ledger.models
            for device, held in self._instance_pool.held(model).items()
            if device not in lost
        }
        return list(found.values())

    def _count_bytes(self) -> int:
        """Returns what pools and weights take on the devices."""
        pools = [each.inner.worker.pool for each in self._conductor.instances.values()]
        return bytes_of(pools) + sum(held.device_nbytes for held in self._held())
