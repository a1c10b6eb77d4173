"""The page shows a fleet: its devices, requests that move, and streams that go on.

    a running fleet    -> live --\\
                                  Moment -> JSON -> static/*.js in a browser
    a simulated fleet  -> film --/

`html` puts the page together; what it shows has nothing that a client has said.
"""
