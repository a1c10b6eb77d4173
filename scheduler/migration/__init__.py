"""Live migration hands a request to another instance while it decodes.

    step(event) -> effects          no clock, no I/O, no jax; a driver does the rest

    Controller    one per fleet     the owner record of every request; decides alone
    Endpoint      one per device    the copies that the device holds
      Outgoing    one per move      source end: copy in stages, stop the row, wait
      Incoming    one per move      destination end: reserve, receive, wait

To copy in stages while the row decodes is the idea of Llumnix (Sun et al., OSDI 2024,
arXiv 2406.03243); that one record says who owns a request is ours.

A **copy** is a request's pages on one device, from the reservation to the release. Its
name is a **copy id**: numbers that the controller gives out once and in rising order.
The owner record of a request is the id of one copy and its device; tokens of any
other copy are refused by the client's stream (`TokenStream`).

    controller          source (copy 7)               destination (copy 9)
        |--- Reserve 9 ---------------------------------->|  takes pages, pins prefix
        |<------------------------------- Reserved 9 -----|
        |--- Begin 7 -> 9 --->|                           |
        |                     |--- Chunk [0, 64) -------->|  the row decodes on
        |                     |<-- Received 64 -----------|
        |                     |--- Chunk [64, 68) ------->|  at most `max_stages`
        |                     |<-- Received 68 -----------|
        |                     x  few are left: the row leaves the batch
        |<-- Stopped (tail) --|--- Chunk [68, 71) last -->|
        |<------------------------------- Ready 71 -------|
        *  commit: the owner is 9                         |
        |--- Release 7 ------>|                           |
        |--- Commit 9 ----------------------------------->|  the row starts
        |<-- Released 7 ------|                           |
        |<------------------------------- Started 9 ------|

A chunk carries pages (`Mode.KV`) or token ids to prefill again (`Mode.TOKENS`); all
else is the same. What the destination has by prefix hash is not sent.

**One release path.** Finish, cancel, preemption, abort and device loss all end in
`Release`, repeated until `Released` or until its device is lost; nothing
else frees pages. A lost or preempted request starts again elsewhere from its prompt and
the tokens of its stream, but only once no older copy can decode.

**Silence means nothing.** A stopped source waits for `Resume` or `Release`. Whatever is
lost is said again at `Resend`, which the driver sends when it likes; all messages may
be late, doubled, lost or out of order. An opening (`Start`, `Reserve`) that comes again
after its copy has gone is told by its copy id: every message of the controller carries
a `horizon`, below which all openings for that device have been answered.

**A driver** carries effects out in order and passes `Send` on. In one process that is a
queue; nothing is lost, and `Resend` is never needed:

    for effect in controller.step(events.BeginMove(...)):  # a plan.Move
        match effect:
            case Send():    queue.append((effect.to, effect.message))
            case Report():  orders.append(placement.step(effect.event))
            ...
    endpoint.step(message)  ->  TakePages, WriteChunk, StopRow, StartRow, Free, ...

After each step of a device it reports `Computed` for the rows being watched, which are
the moving ones; no machine sees single tokens. A lost device is told to the controller
first and to the placement machine after, so that reports of moves that were true come
before the loss; orders that a report gives rise to are carried out after both, or they
could be refused and given again without end. A hung transfer is ended by `AbortMove`, a
hung device by `LoseDevice`.

States: a move is RESERVING, COPYING, then COMMITTED or ABORTING (`records.MovePhase`);
its source end COPYING, STOPPING, STOPPED or GIVEN_UP (`source.SourcePhase`); its
destination end RESERVING, RECEIVING, READY or FAILED (`destination.DestinationPhase`).
"""
