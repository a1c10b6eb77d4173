"""Settings: fields of frozen configurations that carry their help.

    max_rows: int | None = setting(None, is_flag=True, help="Bounds the sequences ...")

    command line -> flags  \
    --config=FILE -> toml  -> {name: value} -> build(EngineConfig(), given=...)

No module here knows a configuration; `launch.py` says which ones a program has.
"""
