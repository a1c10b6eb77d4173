"""Which tests concern which module, the quickest first."""

from collections.abc import Sequence

UNIT = "tests/scheduler/"
BOOKS = "test_every_policy_keeps_within_capacity_and_the_books_balance"
EXACT = "test_every_stream_is_exact_and_nothing_leaks_in_any_schedule"
REPACKED = "test_a_repacking_fits_everywhere_and_uses_no_more_instances"
MACHINE = (
    UNIT + "placement/test_machine.py",
    UNIT + "placement/test_index.py",
    UNIT + "placement/test_ledger.py",
    UNIT + "placement/test_orders.py",
    UNIT + "placement/test_draft.py",
    UNIT + "placement/test_executor.py",
    UNIT + "placement/test_epochs.py",
    UNIT + "placement/test_model.py",
    UNIT + "placement/test_fairness.py",
    UNIT + "test_best_fit.py",
    UNIT + "test_worst_fit.py",
    UNIT + "test_reserve_peak.py",
    UNIT + "test_mell.py",
    UNIT + "placement/test_properties.py::" + BOOKS + "[consolidate]",
)
BATCH = (
    UNIT + "test_batching.py",
    UNIT + "test_reservations.py",
    UNIT + "test_exact_room.py",
    UNIT + "test_wanting.py",
    UNIT + "test_passing_over.py",
    UNIT + "test_distrust.py",
    UNIT + "test_batching_simulation.py",
)
MIGRATION = (
    UNIT + "migration/test_controller.py",
    UNIT + "migration/test_endpoint.py",
    UNIT + "migration/test_stream.py",
    UNIT + "migration/test_horizon.py",
    UNIT + "migration/test_late_chunks.py",
    UNIT + "migration/test_simulation.py::" + EXACT + "[0]",
)
MOVES = "tests/engine/fleet/test_moves.py"
TALLY = "tests/engine/fleet/test_tally.py"
SUMS = "tests/engine/fleet/test_tally_sums.py"
PATIENCE = "tests/engine/fleet/test_patience.py"
ARRIVALS = "tests/engine/fleet/test_arrivals.py"
CLOSED = "tests/engine/fleet/test_closed_targets.py"
FLEET = (
    "tests/engine/fleet/test_moved_requests.py",
    "tests/engine/fleet/test_late_pages.py",
    "tests/engine/fleet/test_fleet.py",
)

POLICIES = (
    UNIT + "policies/test_consolidate.py",
    UNIT + "test_four_thirds.py::" + REPACKED,
    UNIT + "placement/test_properties.py::" + BOOKS + "[consolidate]",
)
BASELINES = (
    UNIT + "test_best_fit.py",
    UNIT + "test_load_balance.py",
    UNIT + "test_llumnix_consolidation.py",
    UNIT + "test_reserve_peak.py",
    UNIT + "test_mell.py",
    UNIT + "test_policies.py",
)
MELL = (
    UNIT + "policies/test_mell_kinds.py",
    UNIT + "policies/test_mell_rules.py",
    UNIT + "test_mell.py",
    UNIT + "test_mell_items.py",
    UNIT + "test_policies.py",
    UNIT + f"placement/test_properties.py::{BOOKS}[mell]",
    UNIT + "test_mell_properties.py",
)
SIMULATED = (
    UNIT + "simulator/test_carriage.py",
    UNIT + "simulator/test_simulator.py",
    UNIT + "simulator/test_figures.py",
    UNIT + "simulator/test_results.py",
)
QUEUES = (
    UNIT + "placement/test_shares.py",
    UNIT + "test_fair_queue.py",
    UNIT + "placement/test_fairness.py",
    UNIT + "test_wanting.py",
    UNIT + "test_batching.py",
)

TESTS = {
    "scheduler/bounds.py": (UNIT + "test_bounds.py", UNIT + "test_packing.py"),
    "scheduler/fair_queue.py": QUEUES,
    "scheduler/placement/shares.py": QUEUES,
    "scheduler/placement/tenants.py": QUEUES,
    **{
        f"scheduler/policies/{name}.py": (
            f"{UNIT}policies/test_{name}.py",
            *POLICIES,
        )
        for name in ("budget", "closing", "exact", "guard", "relocate", "volume")
    },
    **{
        f"scheduler/policies/{name}.py": (
            f"{UNIT}test_{name}.py",
            UNIT + "test_policies.py",
            f"{UNIT}placement/test_properties.py::{BOOKS}[{name}]",
        )
        for name in (
            *("best_fit", "worst_fit", "reserve_peak"),
            *("load_balance", "llumnix_consolidation"),
        )
    },
    "scheduler/policies/mell.py": (UNIT + "policies/test_mell_epochs.py", *MELL),
    "scheduler/policies/consolidate.py": (
        UNIT + "policies/test_closing.py",
        *POLICIES,
    ),
    "scheduler/policies/parking.py": (UNIT + "policies/test_parking.py", *BASELINES),
    "scheduler/policies/rebalancing.py": BASELINES,
    "scheduler/policies/relief.py": (UNIT + "policies/test_relief.py", *BASELINES),
    **{
        f"scheduler/policies/{name}.py": MELL
        for name in ("mell_rules", "mell_kinds", "mell_items")
    },
    "scheduler/batching.py": BATCH,
    "scheduler/grants.py": BATCH,
    "scheduler/reservations.py": BATCH,
    "scheduler/sequences.py": BATCH,
    "scheduler/rows.py": BATCH,
    "scheduler/pages.py": (UNIT + "test_pages.py", UNIT + "test_prefix_cache.py"),
    "scheduler/prefix_cache.py": (
        UNIT + "test_prefix_cache.py",
        UNIT + "test_salts.py",
        *BATCH,
    ),
    "scheduler/move_queue.py": (
        UNIT + "test_transfer.py",
        UNIT + "test_exact_room.py",
        MOVES,
    ),
    "scheduler/transfer.py": (
        UNIT + "test_transfer.py",
        UNIT + "test_exact_room.py",
        MOVES,
    ),
    **{
        f"scheduler/placement/{name}.py": MACHINE
        for name in (
            *("admission", "draft", "fairness", "index", "ledger"),
            *("machine", "model", "plan_executor", "policy"),
        )
    },
    **{
        f"scheduler/migration/{name}.py": MIGRATION
        for name in (
            *("controller", "destination", "endpoint", "messages"),
            *("records", "source", "stream"),
        )
    },
    **{
        f"mell_jax/engine/fleet/{name}.py": FLEET
        for name in ("conductor", "fleet_instance")
    },
    **{
        f"scheduler/simulator/{name}.py": SIMULATED
        for name in (
            *("carriage", "check", "fleet", "measure", "record", "repack"),
            *("repack_live", "report", "settings", "workload"),
        )
    },
    "mell_jax/engine/fleet/arrivals.py": (ARRIVALS,),
    "mell_jax/engine/fleet/patience.py": (PATIENCE,),
    "mell_jax/engine/fleet/moves.py": (MOVES, CLOSED),
    "mell_jax/engine/fleet/tally.py": (TALLY, SUMS),
}


def need_conftest(tests: Sequence[str]) -> bool:
    """Its fixtures, for which it loads the whole engine."""
    return not all(
        name.startswith(UNIT) or name in {MOVES, TALLY, SUMS, CLOSED} for name in tests
    )
