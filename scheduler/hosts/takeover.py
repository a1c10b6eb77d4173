"""A controller goes on where its predecessor has ended, once it knows what there is.

adopted: hosts, front ends, streams that run  ->  `take_over`  ->  roll, books, owners
                                                              '->  Retain to each host
"""

from mell_jax.scheduler.hosts import messages as words
from mell_jax.scheduler.hosts.adoption import Adopted
from mell_jax.scheduler.hosts.dispatcher import Dispatcher
from mell_jax.scheduler.hosts.outbox import Outbox
from mell_jax.scheduler.hosts.roll import HostEntry, PeerId, Roll


def take_over(
    adopted: Adopted, *, roll: Roll, dispatcher: Dispatcher, outbox: Outbox
) -> None:
    """Takes what was adopted into the books; hosts that are new are not part of it."""
    dispatcher.number_from(adopted.seen.copy_id)
    for enter, peer in adopted.fronts:
        roll.enter(enter.front, peer=peer)
    hosts = [
        (join, _admit(join, peer, roll=roll, dispatcher=dispatcher))
        for join, peer in adopted.hosts
    ]
    keep = words.Retain(copies=adopted.kept, horizon=dispatcher.controller.next_copy_id)
    for _, host in hosts:
        outbox.send(host.peer, keep)
    for stream in adopted.placed:
        dispatcher.adopt(stream)
    for enter, _ in adopted.fronts:
        roll.note_reached(enter.hosts, front=enter.front)
    for join, host in hosts:
        if join.is_leaving:
            host.is_leaving = True
            dispatcher.give_back(host.devices)
        dispatcher.give_back(host.aside)


def _admit(
    join: words.Join, peer: PeerId, *, roll: Roll, dispatcher: Dispatcher
) -> HostEntry:
    """Goes on with a host that a predecessor admitted."""
    assert join.epoch is not None, "it was admitted"
    devices = [group.device for group in join.groups]
    host = roll.admit(
        join.epoch,
        name=join.name,
        peer=peer,
        devices=devices,
        admitted=join.admitted,
    )
    host.is_serving = True
    host.aside |= {devices[number] for number in join.aside}
    for group in join.groups:
        dispatcher.take_over(
            group,
            prefill_tokens_per_s=join.prefill_tokens_per_s,
            is_aside=group.device in host.aside,
        )
    return host
