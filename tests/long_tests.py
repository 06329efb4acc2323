"""What `make quick` leaves out: tests of one process that take a second or more of a core, by file and by name."""

from __future__ import annotations

LONG: dict[str, tuple[str, ...]] = {
    "serve/answering/test_fallback_chain.py": ("test_an_answer_is_the_asked_models_own_or_it_is_flagged",),
    "serve/features/test_record_and_table_agree.py": (),
    "serve/features/test_table.py": ("test_a_table_of_a_million_wrong_cells_is_refused_as_a_whole",),
    "serve/log/test_database.py": (
        "test_f14_rows_that_were_answered_for_outlive_a_killed_writer",
        "test_f21_four_workers_start_at_once_on_an_empty_home",
    ),
    "serve/log/test_reader.py": ("test_the_log_reads_like_a_plain_list",),
    "serve/log/test_segments.py": ("test_any_values_read_back_to_the_same_bits",),
    "serve/log/test_writer.py": (
        "test_f8_the_queue_is_bounded_and_what_does_not_fit_is_counted",
        "test_f8_nothing_is_lost_while_somebody_deletes_again_and_again",
        "test_the_wal_file_stays_small_under_load",
    ),
    "serve/model/test_prediction_sets.py": (
        "test_ranks_and_sets_equal_the_definition_in_rational_numbers",
        "test_prediction_is_in_every_set_that_is_not_empty",
        "test_single_row_path_is_bit_identical_to_the_array_path",
        "test_a_rows_answer_ignores_its_neighbours",
        "test_sets_only_grow_as_alpha_falls",
        "test_a_label_is_in_the_set_exactly_when_its_score_is_within_the_threshold",
    ),
    "serve/model/test_prediction_sets_agreement.py": (),
    "serve/rollout/test_changes_laws.py": (),
    "serve/rollout/test_rollout_store_races.py": (),
    "serve/running/test_circuit_breaker.py": ("test_behaviour[B19 100,000 refusals leave nothing behind]",),
    "serve/running/test_circuit_breaker_laws.py": (),
    "serve/running/test_circuit_breaker_threads.py": (),
    "serve/running/test_guard.py": ("test_whatever_a_model_gives_comes_back_as_probabilities_or_as_a_reason",),
}
"""Without names: the whole file."""


def is_long(file: str, name: str) -> bool:
    """Whether that test is left out.

    Parameters
    ----------
    file : below tests/
    name : with or without its parameters
    """
    names = LONG.get(file)
    return names is not None and (not names or name in names or name.partition("[")[0] in names)
