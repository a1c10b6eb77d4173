"""One fleet over many processes: front ends, engine hosts, and one controller.

    front end    has the client's stream and its tokens so far; is the fence
    host         has device groups; computes, and holds what it was granted
    controller   has the placement machine and the owner records; no pages, no tokens

The three are pure state machines here (`Relay`, `Desk`, `Coordinator`): no clock, no
socket, no thread. They share one assumption about links: what is sent over one arrives
once and in order, however late, until the link is **cut**, which both ends hear.

**Every opening goes by the front end.** A copy of a request begins to run by `Start` or
`Commit`; the controller hands both to the front end that has the stream, which takes
tokens of that copy alone from then on, adds the tokens that it has, and passes the
opening on. So whatever an older copy says later is refused where the stream is, and a
request that starts again does so from exactly what its client got.

    controller          front end                host A (copy 7)        host B (copy 9)
        |--- Start 7 ------->| fence 7               |                       |
        |                    |--- + request, tokens ->| runs                  |
        |                    |<-- tokens of 7 --------|                       |
        |--- Reserve 9 ----->|----------------------------------------------->|
        |<------------------------------------------- Reserved 9 ------------|
        |--- Begin 7 -> 9 --------------------------->|--- Chunk ----------->|
        |<-- Stopped (n tokens) ----------------------|                       |
        |<------------------------------------------- Ready 9 ---------------|
        |--- Commit 9 ------>| 7 up to n, then 9      |                       |
        |                    |----------------------------------------------->| runs
        |--- Release 7 ------------------------------>|                       |

**Epochs.** A host is admitted under an epoch that is never used again, and so are its
device groups. One that was given up, and comes back, is another host: it begins empty.

**Numbers** of copies leap: a controller that begins gives out ids far above the highest
that anybody reports, since those who alone have heard of higher ones may be gone.

**Links.** A host that most front ends have lost their links to is given up. A front end
that is one of few has its own requests go elsewhere, and nothing of its is placed there
until it has a link again. Who says what is not its to say is hung up on.

**Pages.** A row asks before it needs a page, and gets some beforehand where much is
free, so that it asks less often; what it never fills comes back with its end.

**Without a controller** hosts compute on. Rows grow as long as pages are free; a front
end places new requests where most are, and drops what its streams want no more, which
a controller that is gone may not have had released. A controller that begins again asks
everybody what there is, keeps the answers up to date, and adopts it: the front end's
word says which copy of a request counts, the host's whether it is there. All other
copies are dropped, and what has none starts again. Of two links that say to be the same
host or front end one is hung up, as neither can be told to be the later.

**An operator** talks to the controller by a front end: `Wish`, and one answer to each.
Device groups that are set aside their hosts remember, by number, and report.

**Silence** is counted in beats of whoever listens, never timed: a process that was
stopped finds what was said to it meanwhile before it counts on.
"""
