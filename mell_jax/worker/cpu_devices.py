"""Shows the CPU as several devices, on a machine that has none."""

import jax


def use_cpu_devices(count: int) -> None:
    """Makes jax see the CPU as `count` devices; to be called before jax is used.

    They share cores and memory, so they show how things work and not how fast.

    Raises:
      ValueError: jax is in use already, or it has found an accelerator.
    """
    if not (count >= 1):
        raise ValueError(f"cpu_devices must be at least 1, got {count}")
    try:
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError as error:
        raise ValueError(
            f"cpu_devices ({count}) must be chosen before jax is used, and it has been "
            f"used already, with {len(jax.devices())} devices; choose first"
        ) from error
    devices = jax.devices()
    if devices[0].platform != "cpu":
        raise ValueError(
            f"cpu_devices ({count}) is for a machine without accelerators, and this "
            f"one has {devices[0].device_kind}; leave it out, or hide the accelerators "
            "with JAX_PLATFORMS=cpu"
        )
    assert len(devices) == count, f"asked for {count} devices, got {devices}"
