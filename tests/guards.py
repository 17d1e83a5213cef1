"""The promises that hold today and must go on holding, each with the tests that hold it.

A change that breaks one of them is wrong, whatever else it brings. Where a promise needs hours or other software, or is
a figure of an idle machine, the benchmark that shows it stands beside its tests.
"""

from __future__ import annotations

from typing import NamedTuple


class Promise(NamedTuple):
    """What users may rely on."""

    text: str
    tests: tuple[str, ...]
    """As pytest names them, below ``tests/``; parameters left out."""
    benchmarks: tuple[str, ...] = ()
    """Arguments of ``python -m``."""


_COMPATIBILITY = "compatibility/test_compatibility.py::"
_PROMISES = "test_promises.py::"

GUARDS: dict[str, tuple[Promise, ...]] = {
    "earlier versions": (
        Promise(
            "label stores of earlier versions are read, verified and gone on with",
            (
                _COMPATIBILITY + "test_the_newest_rows_of_a_store_are_those_of_the_version_that_made_it",
                _COMPATIBILITY + "test_a_finished_store_of_an_earlier_version_is_sound",
                _COMPATIBILITY + "test_the_next_run_on_a_store_labels_only_what_is_new_or_changed",
                _COMPATIBILITY + "test_a_store_of_an_earlier_version_is_upgraded_and_merged_with_the_same_rows",
                _COMPATIBILITY + "test_an_open_run_of_an_earlier_version_is_finished_with_no_row_lost_or_doubled",
                _COMPATIBILITY + "test_the_lease_of_a_command_that_was_killed_does_not_hold_a_store_for_ever",
            ),
        ),
        Promise(
            "model folders of earlier versions keep their fingerprint and their answers",
            (_COMPATIBILITY + "test_a_model_folder_says_what_it_said",),
        ),
        Promise(
            "jobs/*.yaml, serve_config.yaml and documented command lines of earlier versions are understood",
            (
                _COMPATIBILITY + "test_a_jobs_yaml_of_an_earlier_version_is_accepted",
                _COMPATIBILITY + "test_the_serve_config_of_an_earlier_version_is_accepted",
                _COMPATIBILITY + "test_a_documented_command_line_is_understood",
                _COMPATIBILITY + "test_a_documented_pair_after_o_is_answered_with_the_new_option",
                _COMPATIBILITY + "test_a_jobs_yaml_that_says_dataset_works_and_names_the_new_key",
                _COMPATIBILITY + "test_a_documented_job_is_understood",
            ),
        ),
    ),
    "bulk": (
        Promise("one row per input", ("predict/test_predict.py::test_every_input_has_one_row_with_its_own_label",)),
        Promise(
            "what an evaluation fits changes no label and no score, and a store goes on with what it began with",
            ("predict/test_trust.py::test_a_store_goes_on_with_what_it_began_with",),
        ),
        Promise(
            "accepted labels have the wanted precision, but for one of twenty evaluations",
            ("evaluate/test_thresholds.py::test_the_promise_is_broken_in_at_most_one_of_twenty_samples",),
            ("benchmarks.trust",),
        ),
        Promise(
            "a run costs what is new: no run reads a file for each earlier one, and readers never notice a merge",
            (
                "store/test_status.py::test_runs_in_the_log_are_not_read",
                "store/test_compact.py::test_a_run_with_nothing_new_reads_no_earlier_run",
                "store/test_compact.py::test_merged_files_hold_the_same_rows",
                "store/test_delta_log.py::test_another_hand_reads_every_row_once",
                "predict/test_schedules.py::test_no_schedule_loses_or_doubles_a_row",
            ),
            ("benchmarks.history",),
        ),
        Promise(
            "an input that is gone keeps its row and is told as not present; what no complete listing looked for stays",
            (
                "store/test_presence.py::test_an_input_that_is_gone_keeps_its_row_and_is_told_as_not_present",
                "store/test_presence.py::test_a_list_tells_nothing_of_what_it_does_not_name",
                "store/test_presence.py::test_a_listing_that_ends_at_a_limit_tells_nothing",
                "store/test_presence.py::test_what_patterns_leave_out_does_not_vanish",
                "store/test_presence.py::test_what_a_folder_holds_that_cannot_be_listed_does_not_vanish",
                "predict/test_day.py::test_six_hourly_runs_leave_what_one_big_run_leaves",
            ),
        ),
        Promise(
            "a worker that dies costs at most two units done again",
            (
                "benchmarks/test_kills.py::test_a_worker_that_dies_costs_at_most_two_units_done_again",
                "workers/test_cluster_recovery.py::test_after_a_death_only_blocks_that_have_not_come_back_are_run_again",
                "workers/test_local_pool.py::test_a_death_costs_what_the_worker_had_in_hand_and_no_image",
                "jobs/test_node_loss.py::test_a_lost_node_costs_no_input_its_row_and_none_two",
            ),
            ("benchmarks.kills",),
        ),
        Promise(
            "predict, evaluate and check survive lost workers and nodes, and images that end their worker",
            (
                "workers/test_survival.py::test_a_worker_that_is_killed_costs_no_image",
                "workers/test_survival.py::test_images_that_end_their_worker_cost_themselves_alone",
                "workers/test_survival.py::test_a_stop_is_one_line_and_leaves_no_process",
                "workers/test_ray_survival.py::test_an_actor_that_is_killed_costs_no_image",
                "workers/test_ray_survival.py::test_images_that_end_their_actor_cost_themselves_alone",
                "jobs/test_node_loss.py::test_a_lost_node_costs_no_input_its_row_and_none_two",
            ),
            ("benchmarks.kills",),
        ),
        Promise(
            "a job follows the nodes that join and leave, and its end waits for no slow worker",
            (
                "jobs/test_elastic.py::"
                "test_a_node_that_joins_is_used_within_seconds_and_costs_two_blocks_when_it_leaves",
                "jobs/test_elastic.py::test_a_stop_while_the_pool_grows_ends_soon_and_loses_nothing_in_hand",
                "jobs/test_elastic.py::test_the_end_of_a_run_does_not_wait_for_a_block_that_hangs",
                "predict/test_straggler.py::test_rows_of_a_unit_that_hangs_are_neither_lost_nor_doubled",
            ),
        ),
        Promise(
            "grace_s: a stop finishes what is in hand, for so long and no longer",
            (
                "workers/test_stopping.py::test_units_in_hand_are_finished_and_no_more_are_begun",
                "workers/test_stopping.py::test_the_end_of_the_grace_raises_whatever_the_main_thread_waits_for",
                "workers/test_stopping.py::test_without_grace_nothing_is_waited_for_and_no_process_left",
            ),
        ),
        Promise(
            "exit codes 0, 1, 2, 3, 75 and 130 keep their meaning",
            (
                _PROMISES + "test_exit_codes_mean_what_they_always_meant",
                "test_cli.py::test_a_request_that_cannot_be_carried_out_is_one_line_and_exit_code_2",
                "test_cli.py::test_verify_finds_a_removed_part_and_exits_1",
                "test_cli.py::test_the_second_run_on_a_store_in_use_is_told_who_holds_it",
                "predict/test_predict_s3.py::test_a_bucket_that_disappears_is_told_in_one_line_and_exit_code_3",
                "workers/test_stopping.py::test_a_stop_before_the_first_unit_says_how_to_go_on",
            ),
        ),
        Promise(
            "no process outlives its command, however that ends",
            (
                "workers/test_local_pool.py::test_nothing_is_left_of_a_pool",
                "workers/test_local_pool.py::test_a_killed_command_leaves_no_process",
                "workers/test_survival.py::test_a_stop_is_one_line_and_leaves_no_process",
            ),
        ),
        Promise(
            "without GPUs, no process that labels imports torch; without a cluster, none imports Ray",
            (
                "test_floors.py::test_a_command_that_labels_on_this_machine_imports_neither_ray_nor_torch",
                "workers/test_lean.py::test_a_job_on_cpus_needs_no_torch",
                "workers/test_lean.py::test_one_image_needs_no_torch",
            ),
        ),
        Promise(
            "one image on the command line starts no Ray",
            (
                "test_cli.py::test_one_image_is_labelled_without_ray_or_store",
                "test_cli.py::test_one_image_goes_into_a_store_without_ray",
            ),
        ),
        Promise(
            "a decoder stuck in C is ended (decode_timeout)",
            (
                "predict/test_poison.py::test_only_the_poisonous_images_fail_and_each_with_its_code",
                "workers/test_survival.py::test_images_that_end_their_worker_cost_themselves_alone",
                "workers/test_ray_survival.py::test_images_that_end_their_actor_cost_themselves_alone",
            ),
        ),
        Promise(
            "a worker that wakes up late changes nothing",
            (
                "predict/test_late_writer.py::test_a_late_worker_changes_nothing_in_a_local_store",
                "predict/test_late_writer.py::test_a_late_worker_changes_nothing_in_a_store_on_s3",
            ),
        ),
        Promise(
            "the driver takes 10 bytes of memory an input",
            ("store/test_plan.py::test_planning_takes_no_more_memory_for_ten_times_the_inputs",),
            ("benchmarks.planning", "benchmarks.memory"),
        ),
    ),
    "same numbers": (
        Promise(
            "a row does not depend on what stands beside the image",
            (
                "models/test_classifier.py::test_the_place_in_a_batch_does_not_matter",
                "models/test_classifier.py::test_errors_come_out_in_place_and_neighbours_keep_their_exact_numbers",
            ),
        ),
        Promise(
            "a row does not depend on where its converted network was, in the model folder or on this machine",
            (
                "models/test_bundle.py::"
                "test_a_network_from_the_folder_runs_without_a_conversion_and_gives_the_numbers_of_one",
            ),
        ),
        Promise(
            "a row does not depend on the number of workers, on what schedules them, or on retries",
            (
                _PROMISES + "test_rows_do_not_depend_on_workers_their_cores_or_what_schedules_them",
                "predict/test_predict.py::test_an_open_run_is_finished_and_only_its_missing_units_are_done_again",
            ),
        ),
        Promise(
            "a run computes in one precision on any processors, and each part tells in which",
            (
                "jobs/test_mixed_nodes.py::test_nodes_that_would_choose_differently_compute_alike",
                "predict/test_predict.py::test_what_was_begun_in_fp32_is_finished_in_it_on_any_processor",
                "predict/test_predict.py::test_each_part_and_the_record_tell_the_precision",
            ),
        ),
        Promise(
            "batches have one fixed shape in bulk", (_PROMISES + "test_batches_of_the_bulk_job_have_one_fixed_shape",)
        ),
    ),
    "zoo": (
        Promise(
            "PaddleClas' logits with PaddleClas' weights for all 80 networks, within 4e-5 of the largest logit",
            (
                "models/test_weights.py::test_paddles_weights_give_paddles_logits",
                "models/test_weights.py::test_every_family_has_paddles_logits_to_compare_with",
            ),
            ("benchmarks.paddle_parity",),
        ),
        Promise(
            "parameter counts of the published networks",
            ("models/test_zoo.py::test_a_network_has_exactly_its_parameters_and_an_output_per_class_at_its_size",),
        ),
    ),
    "one preprocessing": (
        Promise(
            "train, evaluate, predict, serve and export see the same pixels",
            (
                "images/test_preprocess.py::test_pixels_equal_torchvisions",
                "images/test_resize.py::test_pixels_are_those_of_torch_at_any_size_and_in_any_box",
                "train/test_run.py::test_it_learns_what_pictures_show_and_leaves_a_model_that_knows_it",
                "evaluate/test_evaluate.py::test_bulk_labelling_and_python_give_every_image_the_same_label",
                "serve/test_classify.py::test_a_png_is_labelled_as_the_same_pixels_are_in_python",
                "serve/test_deployment.py::test_both_replicas_label_as_everything_else_does",
                "export/test_export.py::test_the_classifier_gives_the_labels_of_the_original",
            ),
        ),
        Promise(
            "what changes a folder's pixels is in its preprocess, and so in its fingerprint",
            (
                _PROMISES + "test_every_part_of_preprocess_is_in_the_fingerprint",
                "models/test_folder.py::test_an_edited_description_is_refused",
                "models/test_folder.py::test_a_folder_of_whole_decoding_is_written_as_before_there_was_another",
                "images/test_scaled_decode.py::test_the_picture_is_upright_and_has_its_true_size",
                "train/test_loading.py::test_val_images_are_what_the_classifier_sees",
            ),
        ),
    ),
    "training": (
        Promise(
            "a run that goes on sees the same batches, and on CPUs ends with the same weights to the bit",
            (
                "train/test_run.py::test_stopped_anywhere_it_goes_on_as_if_it_had_not_been",
                "train/test_order.py::test_the_middle_of_an_epoch_is_its_end_and_nothing_else",
                "train/test_order.py::test_batches_are_the_same_however_they_are_shared_out",
                "train/test_local.py::test_a_killed_worker_is_replaced_and_the_weights_are_bit_equal",
                "train/test_workers.py::test_a_lost_worker_is_replaced_and_the_run_is_what_it_would_have_been",
            ),
            ("benchmarks.training",),
        ),
        Promise(
            "one training worker on CPUs runs on this machine, and none of its processes imports Ray",
            ("train/test_local.py::test_no_process_of_a_run_imports_ray_or_pandas",),
            ("benchmarks.training",),
        ),
        Promise(
            "the epoch with the best metric is kept",
            ("train/test_run.py::test_the_epoch_with_the_best_metric_is_kept",),
        ),
        Promise(
            "bad images are counted, never replaced",
            (
                "train/test_run.py::test_images_that_cannot_be_read_are_left_out_and_told_of",
                "train/test_learner.py::test_an_image_that_could_not_be_read_adds_nothing_and_takes_nothing",
            ),
        ),
        Promise(
            "train_result.json keeps PaddleX's keys",
            (
                "train/test_run.py::test_the_result_has_paddlexs_keys",
                "test_paddlex.py::test_a_failure_is_written_where_paddlex_writes_it",
            ),
        ),
    ),
    "export": (
        Promise(
            "8 bits are exported only within the limits of accuracy and speed; else nothing is left",
            (
                "export/test_gate.py::test_half_a_point_may_be_lost_and_no_more",
                "export/test_gate.py::test_without_labels_the_confident_ones_decide",
                "export/test_gate.py::test_8_bits_that_are_no_faster_are_refused_on_any_processor",
                "export/test_export_command.py::"
                "test_a_network_that_8_bits_spoil_is_refused_with_the_numbers_and_nothing_stays",
                "export/test_export_command.py::test_8_bits_that_do_not_pay_are_refused_and_nothing_stays",
            ),
        ),
    ),
    "check and split": (
        Promise(
            "nothing of the original lists is lost (.bak)",
            (
                "datasets/test_split.py::test_originals_are_kept_through_three_splits",
                "datasets/test_split.py::test_a_backup_of_someone_else_is_not_written_over",
                "datasets/test_split.py::test_many_runs_at_once_lose_no_original",
            ),
        ),
        Promise(
            "lists are written in one step",
            (
                "datasets/test_split.py::test_a_failure_before_the_first_list_leaves_all_as_they_were",
                "datasets/test_split.py::test_after_a_crash_half_way_nothing_is_split_until_the_originals_are_back",
            ),
        ),
        Promise(
            "no false near-duplicate",
            (
                "datasets/test_check.py::test_a_clean_dataset_passes_without_any_finding",
                "datasets/test_duplicates.py::test_every_pair_of_at_most_seven_bits_is_found_and_no_other",
                "images/test_measure.py::test_the_hashes_of_strangers_differ_in_many_bits",
            ),
        ),
    ),
    "serving": (
        Promise(
            "a model change that is refused keeps the old model answering",
            (
                "serve/test_fleet.py::test_a_model_that_is_refused_leaves_the_old_one_serving",
                "serve/test_fleet.py::test_models_are_replaced_all_or_none",
                "serve/test_late_replica.py::test_a_replica_that_answers_keeps_its_model_when_a_change_is_refused",
            ),
        ),
        Promise(
            "golden pictures",
            (
                "serve/test_model.py::test_a_model_that_knows_its_golden_picture_is_loaded",
                "serve/test_model.py::test_a_model_that_takes_a_golden_picture_for_another_is_refused",
            ),
        ),
        Promise(
            "a replica that starts later takes the models that others accepted",
            (
                "serve/test_late_replica.py::test_a_late_replica_takes_what_its_siblings_accepted",
                "serve/test_last_good.py::test_a_replica_that_starts_later_finds_the_models_that_others_accepted",
                "serve/test_deployment.py::test_models_change_under_load_and_a_broken_one_is_refused",
            ),
        ),
        Promise(
            "no request of a roll-out fails",
            (
                "serve/test_fleet.py::test_models_change_while_requests_run_and_each_is_answered_by_one_of_them",
                "serve/test_deployment.py::test_models_change_under_load_and_a_broken_one_is_refused",
                "serve/test_deployment.py::test_replicas_go_and_come_with_the_requests_and_none_of_those_fails",
            ),
            ("benchmarks.serving",),
        ),
        Promise(
            "canary and shadow",
            (
                "serve/test_fleet.py::test_a_canary_answers_its_share",
                "serve/test_fleet.py::test_a_shadow_sees_its_share_and_no_bad_images",
                "serve/test_fleet.py::test_a_shadow_that_fails_harms_nobody",
            ),
        ),
        Promise(
            "bad images never reach a batch",
            (
                "serve/test_bad_images.py::test_whatever_is_damaged_the_neighbours_are_labelled_as_ever",
                "serve/test_bad_images.py::test_a_request_of_bad_images_alone_is_answered",
            ),
        ),
        Promise(
            "503 with Retry-After before the body is read",
            (
                "serve/test_pipeline.py::test_a_full_service_turns_requests_away_at_once_and_unread",
                "serve/test_proxy.py::test_what_there_is_no_room_for_is_refused_unread",
                "serve/test_haproxy.py::test_haproxy_refuses_before_the_body_and_the_connection_stays",
            ),
            ("benchmarks.serving",),
        ),
        Promise(
            "no request holds up the event loop that answers everybody",
            ("serve/test_event_loop.py::test_no_request_holds_up_the_event_loop",),
        ),
        Promise(
            "addresses are read of allowed hosts only, every address public, checked on each redirect",
            (
                "serve/test_urls.py::test_addresses_are_refused_unless_hosts_are_named",
                "serve/test_urls.py::test_no_other_address_is_asked",
                "serve/test_urls.py::test_a_name_that_is_allowed_but_leads_inside_is_refused",
                "serve/test_urls.py::test_a_redirect_leads_to_no_host_that_is_not_named",
                "storage/test_http.py::test_one_private_address_among_public_ones_is_enough",
                "storage/test_http.py::test_a_redirect_from_a_public_host_inside_is_refused",
                "storage/test_http.py::test_the_address_that_was_checked_is_the_one_connected_to",
            ),
        ),
    ),
    "trust": (
        Promise(
            "a converted network that is not that of the model folder's weights does not run",
            (
                "models/test_bundle.py::test_one_that_says_something_else_than_the_network_does_not_run",
                "models/test_bundle.py::test_a_damaged_one_is_left_aside_with_a_warning",
                "serve/test_model.py::test_a_model_that_is_named_by_its_fingerprint_runs_nothing_that_it_does_not_cover",
            ),
        ),
        Promise(
            "a Ray that a command starts is reached by its user alone, and one started with a token by who has it",
            (
                "test_own_ray.py::test_a_service_shows_the_network_its_one_port_and_other_users_nothing",
                "test_own_ray.py::test_a_job_shows_the_network_and_other_users_nothing",
                "serve/test_haproxy.py::test_only_what_is_asked_for_is_open",
                "serve/test_token_cluster.py::test_who_has_the_token_deploys_and_submits_and_who_has_not_does_not",
            ),
        ),
        Promise(
            "slow callers keep nobody else out",
            (
                "serve/test_haproxy.py::test_connections_are_bounded_in_all_and_for_one_address",
                "serve/test_slow_callers.py::test_the_oldest_of_too_many_slow_bodies_is_told_so_and_ends",
                "serve/test_slow_callers.py::test_the_oldest_of_too_many_slow_readers_ends",
            ),
        ),
        Promise(
            "nothing in weights, images, configurations or addresses runs code",
            (
                "models/test_weights.py::test_a_hostile_pickle_runs_nothing",
                "models/test_weights.py::test_what_a_checkpoint_names_beside_its_weights_runs_nothing",
                "models/test_pdparams.py::test_a_hostile_file_runs_nothing_and_is_refused",
                "train/test_state.py::test_a_state_runs_no_code",
                "images/test_decoder_hostile.py::test_eps_starts_nothing",
                "test_config.py::test_a_file_that_is_no_plain_mapping_is_refused",
                "test_paddlex.py::test_no_value_is_ever_run",
                "storage/test_http.py::test_other_schemes_reach_no_host",
            ),
        ),
        Promise(
            "what weights, model folders and configurations cost is bounded by their size",
            (
                "models/test_pdparams_bounds.py::test_it_is_refused_in_a_second_and_in_memory_of_its_size",
                "models/test_torch_file_bounds.py::test_a_pickle_that_costs_is_refused_in_an_archive_and_alone",
                "models/test_folder_bounds.py::test_a_head_of_a_million_classes_is_refused_before_it_is_built",
                "models/test_folder_bounds.py::test_a_description_that_costs_is_refused_in_a_line",
                "test_config_bounds.py::test_a_hostile_file_is_refused_in_one_line_and_at_once",
                "test_config_bounds.py::test_what_a_service_is_given_is_shown_in_part",
            ),
        ),
        Promise(
            "nothing that is kept on a machine takes another's place, and nothing damaged is read",
            (
                "models/test_remote.py::test_another_folder_with_the_same_fingerprint_does_not_change_the_copy",
                "models/test_remote.py::test_a_damaged_copy_is_fetched_again",
                "models/test_engine_cache.py::test_what_is_not_what_was_kept_is_converted_again",
            ),
        ),
        Promise(
            "a service whose keys are set but empty does not start",
            ("serve/test_auth.py::test_a_variable_without_a_key_is_refused_not_taken_for_none",),
        ),
        Promise(
            "an exported .pt2 is read only where this user made it or its hash is named (IMGCLS_TRUSTED_PT2)",
            (
                "export/test_export.py::test_a_pt2_is_read_only_where_it_was_exported_or_its_hash_is_named",
                "export/test_export.py::test_nothing_in_a_pt2_from_others_is_run",
            ),
        ),
        Promise(
            "credentials are in no log, plan, task or record",
            (
                "predict/test_predict_s3.py::test_the_secret_is_in_nothing_that_the_job_leaves_or_says",
                "storage/test_s3_requests.py::test_options_hold_no_credentials",
                "storage/test_every_storage.py::test_wrong_credentials_end_the_command_and_are_not_told",
                "storage/test_s3_requests.py::test_errors_and_logs_hold_no_credentials",
                "storage/test_hub.py::test_a_token_is_sent_to_the_hub_alone",
                "predict/test_predict_hub.py::test_a_job_labels_a_dataset_of_the_hub_with_a_model_of_the_hub",
                "serve/test_auth.py::test_a_key_is_in_no_answer_and_no_line",
                "serve/test_answers.py::test_credentials_are_in_no_log_and_in_no_answer",
            ),
        ),
        Promise(
            "no network is needed once a model folder is local",
            (
                _PROMISES + "test_a_local_model_folder_labels_without_a_network",
                _PROMISES + "test_converting_and_quantizing_report_to_nobody",
                "models/test_pretrained.py::test_weights_are_downloaded_once_and_found_again_without_a_network",
                "serve/test_page.py::test_documentation_describes_requests_without_a_network",
            ),
        ),
    ),
    "storage": (
        Promise(
            "create-only writes are proven before a storage is used",
            (
                "storage/test_s3_directory.py::test_a_server_without_conditional_writes_is_named",
                "storage/test_every_storage.py::test_create_only_is_proven",
                "storage/test_local.py::test_of_many_processes_exactly_one_creates",
                "storage/test_s3_directory.py::test_of_eight_that_race_one_creates_though_answers_are_lost",
            ),
        ),
        Promise(
            "S3 inventories are read",
            (
                "inputs/test_lists.py::test_an_inventory_gives_objects_with_their_versions",
                "inputs/test_lists.py::test_the_files_of_an_inventory_are_one_sorted_stream",
            ),
        ),
        Promise(
            "the rate from S3 with 50 ms added is at least 0.92 of the local one",
            ("workers/test_fetching.py::test_one_slow_address_holds_up_no_other",),
            ("benchmarks.remote",),
        ),
        Promise(
            "14 faults of the storage end with no row lost and none doubled",
            (
                _PROMISES + "test_the_benchmark_of_faults_has_at_least_fourteen",
                "storage/test_every_storage.py::test_a_fault_costs_no_input_and_doubles_no_file",
                "storage/test_s3_directory.py::test_every_kind_of_write_goes_through_what_passes",
                "predict/test_predict_s3.py::test_a_bucket_that_disappears_costs_nothing_that_is_labelled_and_no_input_its_row",
            ),
            ("benchmarks.faults",),
        ),
    ),
    "PaddleX's door": (
        Promise(
            "every command of the tutorial works with only the program's name changed",
            (
                "test_paddlex.py::test_the_tutorials_commands_work_one_after_the_other",
                "test_paddlex.py::test_every_command_of_the_tutorial_is_one_of_ours",
                "test_paddlex.py::test_the_tutorials_python_lines_work",
            ),
        ),
    ),
    "README": (
        Promise(
            "every command runs",
            (
                "test_readme.py::test_labelling_and_reading_labels_work_in_the_readmes_order",
                "test_readme.py::test_making_a_model_works",
                "test_readme.py::test_checking_and_splitting_a_dataset_work",
                "test_readme.py::test_training_evaluating_and_exporting_work",
                "test_readme.py::test_the_python_lines_work",
            ),
        ),
        Promise(
            "every figure has the command that repeats it",
            (_PROMISES + "test_every_command_that_repeats_a_figure_is_there",),
        ),
    ),
}
