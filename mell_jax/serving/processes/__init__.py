"""Front ends run in processes of their own; this starts them and keeps them alive.

    front end process                         engine process
    Server -> RemoteEngine <== socketpair ==> FrontLink -> engine's mailbox
              (event loop)                    FrontEndPool <- engine's sink
    PeerClient -> what the others count, hold    SharedCounts: of all, dead ones too
                                              Supervisor: starts, watches, ends them

One message goes to each front end per engine step. Nothing here imports jax.
"""
