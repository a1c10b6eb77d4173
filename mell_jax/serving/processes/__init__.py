"""Front ends in processes of their own, and what keeps them alive.

    front end process                         engine process
    Server -> RemoteEngine <== socketpair ==> FrontLink -> engine's mailbox
              (event loop)                    Crew        <- engine's sink
    Company -> what the others count, hold    Books: of all front ends, dead ones too
                                              Supervisor: starts, watches, ends them

One message goes to each front end per engine step. Nothing here imports jax.
"""
