"""Trainers have HTTP routes on an operators' port, by names of vLLM and SGLang.

    query or body --wire--> a call (pauses, weights) --controls--> the engine
                            JSON of either engine <--answers--

The names keep their parameters, defaults and answers where they mean something that
this engine does; the others answer 501 and name what to use.
"""
