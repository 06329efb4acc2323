"""What `make quick` leaves out: tests of one process that take a second or more of a core, by file and by name."""

from __future__ import annotations

LONG: dict[str, tuple[str, ...]] = {
    "cli/test_cmd_score.py": (
        "test_killed_before_any_of_its_steps_it_goes_on_to_the_same_bytes",
        "test_killed_again_and_again_as_parts_appear_it_goes_on_to_the_same_bytes",
    ),
    "cli/test_hostile_files.py": (),
    "cli/test_model_verbs.py": ("test_the_road_from_table_to_bento_store",),
    "lab/data/test_feature_store_faults.py": (),
    "lab/drift/test_current_stream.py": ("test_memory_does_not_grow_with_the_file",),
    "lab/drift/test_detect.py": (
        "test_decisions_are_the_formulas_on_thousands_of_cases",
        "test_ties_and_holes_do_not_change_the_formula",
    ),
    "lab/journeys/test_adopt.py": (
        "test_an_xgboost_classifier_is_converted_calibrated_gated_and_imported",
        "test_it_cannot_be_judged_without_rows",
        "test_a_model_the_gate_refuses_is_registered_but_not_imported",
        "test_it_answers_as_the_original_does_and_covers_every_class",
        "test_scikit_learn_models_are_loaded_only_when_trusted",
        "test_the_source_block_holds_the_hash_of_the_foreign_file",
    ),
    "lab/journeys/test_retrain.py": (
        "test_it_trains_on_what_became_known_and_starts_the_shadow",
        "test_the_promise_can_be_about_the_newest_rows_alone",
        "test_killed_before_the_end_the_same_call_ends_with_the_same_model",
    ),
    "lab/judging/test_promoter.py": (
        "test_an_equal_challenger_is_refused",
        "test_a_better_challenger_takes_the_place",
        "test_an_alias_that_moved_meanwhile_stops_the_promotion",
        "test_promoting_the_champion_again_changes_nothing",
        "test_a_worse_challenger_is_refused_and_nothing_moves",
        "test_another_split_shares_no_test_patients",
    ),
    "lab/registry/test_importer.py": (
        "test_killed_at_any_point_the_next_import_makes_it_whole",
        "test_importing_twice_is_importing_once",
    ),
    "lab/registry/test_model_card.py": (),
    "lab/registry/test_model_registry.py": ("test_a_server_that_never_answers_is_given_up",),
    "lab/report/test_collect.py": (
        "test_a_whole_ward_leaves_no_gap_and_is_told_on_a_page_that_can_be_mailed",
        "test_the_same_stores_and_moment_give_the_same_report",
    ),
    "lab/report/test_page.py": (
        "test_a_page_of_sixty_features_and_four_hundred_days_can_be_mailed",
        "test_no_text_changes_the_page_around_it",
    ),
    "lab/report/test_svg.py": ("test_any_text_gives_a_picture_that_can_be_read",),
    "lab/watching/test_health_monitor.py": (
        "test_a_monitor_that_is_killed_anywhere_and_started_again_counts_every_label_once",
    ),
    "lab/watching/test_health_monitor_life.py": (),
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
    "serve/running/test_runner_guard.py": ("test_whatever_a_model_gives_comes_back_as_probabilities_or_as_a_reason",),
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
