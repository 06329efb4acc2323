"""What `make quick` leaves out: tests of one process that take half a second or more of a core, by file and by name."""

from __future__ import annotations

LONG: dict[str, tuple[str, ...]] = {
    "cli/test_cmd_alarms.py": ("test_without_alarms_the_exit_status_is_zero",),
    "cli/test_cmd_models.py": ("test_the_card_is_printed_as_it_can_be_kept",),
    "cli/test_cmd_replay.py": (
        "test_a_stored_model_is_replayed_without_anything_that_trains",
        "test_an_edited_constant_of_the_feature_module_is_told_plainly",
    ),
    "cli/test_cmd_report.py": ("test_verify_finds_a_changed_row",),
    "cli/test_cmd_retrain.py": (
        "test_a_refusal_is_a_sound_no",
        "test_forced_by_the_environment_it_trains_and_the_summary_tells_it",
    ),
    "cli/test_cmd_score.py": (
        "test_killed_before_any_of_its_steps_it_goes_on_to_the_same_bytes",
        "test_killed_again_and_again_as_parts_appear_it_goes_on_to_the_same_bytes",
        "test_a_terminal_sees_a_bar_and_the_result_stays_clean",
        "test_csv_comes_in_by_a_pipe",
    ),
    "cli/test_cmd_sign.py": ("test_a_model_signed_by_its_tag_is_verified_here_and_by_the_tool",),
    "cli/test_hostile_files.py": (),
    "cli/test_cmd_recalibrate.py": ("test_dry_run_then_passed_then_refused",),
    "cli/test_many_classes.py": (),
    "cli/test_main_light_verbs.py": ("test_the_monitor_loads_statistics_and_nothing_that_trains",),
    "cli/test_model_verbs.py": (
        "test_the_road_from_table_to_bento_store",
        "test_a_foreign_model_comes_in_through_the_same_verb",
        "test_a_refusing_gate_exits_with_three_and_names_its_rules",
        "test_a_worse_challenger_exits_with_three",
        "test_a_worse_challenger_imported_last_does_not_answer",
        "test_promotion_by_run",
    ),
    "cli/test_runbook_full_disk.py": ("test_the_procedure_frees_room_and_loses_nothing_that_was_kept",),
    "lab/data/test_diabetes130.py": (
        "test_fetch_knows_the_published_table_in_its_csv_form",
        "test_the_real_table_is_clean_and_has_the_known_counts",
    ),
    "lab/data/test_feature_pipeline.py": ("test_the_same_rows_again_make_no_new_version_in_whatever_format",),
    "lab/data/test_feature_store_faults.py": (),
    "lab/data/test_table_blocks.py": ("test_every_row_is_in_one_block_from_whichever_on",),
    "lab/drift/test_current_stream.py": (
        "test_memory_does_not_grow_with_the_file",
        "test_any_numbers_end_in_the_same_state_in_a_stream",
        "test_spread_is_exact_and_w1_a_lower_bound_not_below_the_shift",
    ),
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
        "test_native_xgboost_models_need_no_trust",
        "test_what_cannot_become_one_of_ours_is_refused_in_one_line",
    ),
    "lab/journeys/test_recalibrate.py": (),
    "lab/journeys/test_weighted_roads.py": (),
    "lab/journeys/test_retrain.py": (
        "test_it_trains_on_what_became_known_and_starts_the_shadow",
        "test_the_promise_can_be_about_the_newest_rows_alone",
        "test_killed_before_the_end_the_same_call_ends_with_the_same_model",
        "test_a_refused_model_is_registered_and_said_to_be_refused",
        "test_drift_advises_it_and_the_gate_judges_what_was_trained",
        "test_drift_with_too_few_labels_is_held_back",
        "test_patients_as_ever_advise_nothing_and_nothing_is_trained",
    ),
    "lab/judging/test_deployment_gate.py": (
        "test_a_floor_no_honest_model_reaches_refuses",
        "test_a_leaked_test_split_is_refused",
        "test_a_marginal_guarantee_that_leaves_the_readmitted_uncovered_is_refused_for_them",
        "test_a_model_that_lies_about_its_split_is_refused",
        "test_a_weak_model_is_refused_for_its_auc",
        "test_an_honest_model_passes_every_rule",
        "test_metrics_that_flatter_are_refused",
        "test_the_report_is_kept_in_home_registry_and_journal",
        "test_the_same_greedy_model_without_the_leak_is_not_accused_of_one",
    ),
    "lab/judging/test_promoter.py": (
        "test_an_equal_challenger_is_refused",
        "test_a_better_challenger_takes_the_place",
        "test_an_alias_that_moved_meanwhile_stops_the_promotion",
        "test_promoting_the_champion_again_changes_nothing",
        "test_a_worse_challenger_is_refused_and_nothing_moves",
        "test_another_split_shares_no_test_patients",
        "test_a_dry_run_decides_and_changes_nothing",
        "test_a_promotion_that_died_half_way_is_completed_by_the_next",
        "test_too_few_rows_of_a_class_refuse",
        "test_without_a_champion_a_refusing_gate_refuses",
        "test_without_a_champion_the_gate_decides",
    ),
    "lab/judging/test_promotion_rules.py": ("test_an_equal_model_is_promoted_in_at_most_one_case_of_twenty",),
    "lab/log_care/test_chain_check.py": ("test_every_random_change_is_found_where_it_was_made",),
    "lab/log_care/test_erasure.py": (
        "test_indexes_of_a_live_file_keep_no_copies_on_pages_that_were_split",
        "test_no_byte_is_left_in_a_live_file_either",
        "test_no_byte_is_left_in_closed_files",
    ),
    "lab/measuring/test_cell_measures.py": ("test_a_valid_model_ends_outside_a_cells_band_as_seldom_as_it_says",),
    "lab/measuring/test_comparison.py": (
        "test_positive_and_negative_rows_of_one_patient_are_not_taken_for_independent",
        "test_standard_error_is_what_a_bootstrap_over_patients_finds",
    ),
    "lab/measuring/test_live_coverage.py": ("test_every_rank_is_on_the_side_that_exact_arithmetic_puts_it",),
    "lab/measuring/test_metric_ranges.py": (
        "test_intervals_hold_the_truth_as_often_as_they_say_even_when_patients_repeat",
    ),
    "lab/measuring/test_performance.py": ("test_the_interval_holds_the_true_area_in_about_95_of_100_draws",),
    "lab/measuring/test_reliability.py": ("test_the_intervals_hold_the_true_numbers_as_often_as_they_say",),
    "lab/past_answers/test_batch_scoring.py": ("test_the_size_of_blocks_changes_no_answer",),
    "lab/registry/test_importer.py": (
        "test_killed_at_any_point_the_next_import_makes_it_whole",
        "test_importing_twice_is_importing_once",
        "test_a_name_bentoml_cannot_take_is_refused_in_one_line",
    ),
    "lab/registry/test_labels_of_any_text.py": ("test_a_label_comes_back_from_everywhere",),
    "lab/registry/test_wandb_mirror.py": (),
    "lab/registry/test_mlflow_pyfunc.py": ("test_it_gives_the_predictors_answers_bit_for_bit",),
    "lab/registry/test_model_card.py": (),
    "lab/registry/test_model_registry.py": ("test_a_server_that_never_answers_is_given_up",),
    "lab/registry/test_model_signature.py": ("test_the_tool_reads_what_we_sign_and_we_read_what_it_signs",),
    "lab/report/test_collect.py": (
        "test_a_whole_ward_leaves_no_gap_and_is_told_on_a_page_that_can_be_mailed",
        "test_the_same_stores_and_moment_give_the_same_report",
        "test_the_alarms_that_are_on_are_told_with_their_promise",
        "test_what_cannot_be_read_is_told_and_the_rest_as_well",
    ),
    "lab/report/test_page.py": (
        "test_a_page_of_sixty_features_and_four_hundred_days_can_be_mailed",
        "test_no_text_changes_the_page_around_it",
        "test_empty_parts_say_why_and_what_would_fill_them",
        "test_pictures_are_described_and_tables_have_heads",
    ),
    "lab/report/test_page_in_browser.py": ("test_console_stays_silent",),
    "lab/report/test_svg.py": ("test_any_text_gives_a_picture_that_can_be_read",),
    "lab/training/test_what_an_artefact_tells.py": ("test_no_file_of_artefact_or_registry_holds_a_planted_value",),
    "lab/watching/test_canary_guards.py": ("test_one_more_bernoulli_value_of_mean_limit_keeps_the_expectation",),
    "lab/watching/test_canary_monitor.py": ("test_starts_are_bounded_and_their_parts_of_the_budget_too",),
    "lab/watching/test_due_outcomes.py": (
        "test_a_label_that_comes_only_for_one_kind_of_set_makes_answers_unverified",
        "test_outcomes_that_all_come_leave_answers_valid",
        "test_lost_coverage_is_still_an_alarm_where_some_outcomes_are_missing_by_chance",
        "test_a_hospital_that_never_sends_outcomes_is_told_and_not_alarmed",
    ),
    "lab/watching/test_health_figures.py": ("test_figures_by_group_are_those_of_the_command",),
    "lab/watching/test_health_monitor.py": (
        "test_a_monitor_that_is_killed_anywhere_and_started_again_counts_every_label_once",
    ),
    "lab/watching/test_health_monitor_life.py": (),
    "lab/watching/test_maturing.py": ("test_ten_thousand_labels_enter_in_one_look",),
    "scripts/docs/test_site.py": (
        "test_broken_link_or_lost_page_fails_the_build",
        "test_every_document_is_a_page",
    ),
    "serve/answering/test_fallback_chain.py": ("test_an_answer_is_the_asked_models_own_or_it_is_flagged",),
    "serve/features/test_record_and_table_agree.py": (),
    "serve/features/test_table.py": ("test_a_table_of_a_million_wrong_cells_is_refused_as_a_whole",),
    "serve/features/test_versions_transforms.py": ("test_rows_together_alone_and_shuffled_give_the_same_bits",),
    "serve/http/test_landing_page.py": ("test_a_key_that_is_typed_in_shows_what_it_opens",),
    "serve/log/test_database.py": (
        "test_f14_rows_that_were_answered_for_outlive_a_killed_writer",
        "test_f21_four_workers_start_at_once_on_an_empty_home",
    ),
    "serve/log/test_labels.py": ("test_a_damaged_page_is_damage_and_not_a_full_disk",),
    "serve/log/test_reader.py": ("test_the_log_reads_like_a_plain_list",),
    "serve/log/test_segments.py": ("test_any_values_read_back_to_the_same_bits",),
    "serve/log/test_writer.py": (
        "test_f8_the_queue_is_bounded_and_what_does_not_fit_is_counted",
        "test_f8_nothing_is_lost_while_somebody_deletes_again_and_again",
        "test_the_wal_file_stays_small_under_load",
        "test_f8_a_page_that_breaks_while_open_ends_the_use_of_the_file",
        "test_f8_callers_who_come_as_fast_as_they_can_are_slowed_before_rows_are_lost",
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
    "serve/running/test_runner.py": (
        "test_poisoned_rows_are_nan_and_the_others_keep_their_bits",
        "test_whatever_is_poisoned_an_answered_row_is_its_own_and_no_poisoned_row_is_answered",
    ),
    "serve/running/test_runner_guard.py": ("test_whatever_a_model_gives_comes_back_as_probabilities_or_as_a_reason",),
    "serve/model/test_groupings.py": (
        "test_sets_by_group_are_crepes_with_class_times_bin_on_a_million_tie_heavy_rows",
        "test_a_row_is_in_the_same_cells_as_a_record_and_in_a_table",
    ),
    "serve/http/test_arrow_batches.py": ("test_damaged_streams_are_answered_or_refused_with_one_error_object",),
    "serve/answering/test_shadow.py": ("test_a_share_of_the_requests_is_scored",),
    "serve/model/test_weighted_sets.py": ("test_one_row_gets_the_bits_that_it_gets_among_many",),
    "serve/answering/test_group_answers.py": ("test_the_pyfunc_answers_by_group_like_the_service",),
    "serve/answering/test_poisoned_rows.py": ("test_a_thousand_bad_records_move_no_circuit_and_call_nothing",),
    "serve/rollout/test_processes.py": ("test_processes_with_one_parent_are_of_one_server",),
    "test_schemas.py": (
        "test_data_fit_the_schema_of_their_feature_version",
        "test_the_openapi_document_is_openapi",
    ),
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
