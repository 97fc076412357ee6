"""The promises of the project, the tests of each, and the mechanisms that it depends on."""

import os
from dataclasses import dataclass

from tests.helpers import substitutes as sub
from tests.helpers.mechanisms import Mechanism

__all__ = ["MECHANISMS", "PROMISES", "Promise"]


@dataclass(frozen=True)
class Promise:
    """One promise.

    Attributes:
        text: the promise.
        how: how it is tested.
        tests: files, or node ids without parameters; slow tests are run as well.
        mechanisms: what the promise depends on. Without one of them, a test must fail.
    """

    text: str
    how: str
    tests: tuple[str, ...]
    mechanisms: tuple[Mechanism, ...]


KILLED_RUN = "tests/test_killed_runs.py::test_a_run_killed_after_any_step_resumes_exactly"
FLIPPED_BIT = "tests/attacks/test_detection.py::test_one_flipped_bit_at_any_byte_is_seen"
HOSTILE_FILE = "tests/attacks/test_attacks.py::test_any_content_of_a_file_is_refused_or_read_right"
KILLED_BAKE = "tests/test_kills.py::test_a_bake_killed_at_any_file_operation_can_be_resumed"
RANKS = "tests/test_world.py::test_several_processes_train_the_same_weights_as_one[small-2]"
TRAIN_INPUT = "tests/test_commands_train_input.py::test_bad_input_ends_with_its_exit_code_and_message"
LOCKED_RUN = "tests/test_commands_train_input.py::test_a_second_training_of_a_run_ends_and_names_the_first"
KILLED_WORKER = "tests/test_transform.py::test_a_killed_process_ends_the_bake_which_can_be_resumed"
FULL_DISK = "tests/test_full_disk.py::test_a_bake_on_a_full_disk_can_be_resumed[fork]"
WRITE_ORDER = "tests/test_writer.py::test_files_are_synced_before_and_after_they_are_named"

# fmt: off
PROMISES: tuple[Promise, ...] = (
    Promise(
        "A killed bake leaves no damaged file under a final name. The same command completes it with the same bytes, and rewrites no whole file",
        "SIGKILL before each file operation of a bake, of adding epochs, replacing, repairing and dropping; random kills of two workers",
        ("tests/test_kills.py", "tests/test_writer.py"),
        (
            Mechanism("prebake.storage.atomic:part_name", sub.final_name, f"{KILLED_BAKE}[bake-13]"),
            Mechanism("prebake.storage.atomic:_sync", sub.nothing, WRITE_ORDER),
            Mechanism("prebake.storage.atomic:os", sub.fsync_directories_only, WRITE_ORDER),
            Mechanism("prebake.storage.atomic:remove_shards", sub.remove_in_name_order, "tests/test_writer.py::test_indexes_are_removed_before_the_archives"),
            Mechanism("prebake.storage.atomic:os", sub.with_attributes(O_EXCL=os.O_TRUNC), "tests/test_writer.py::test_links_under_the_temporary_name_are_not_followed"),
            Mechanism("prebake.precompute.bake:is_begun", sub.returns(False), f"{KILLED_BAKE}[overwrite-13]"),
            Mechanism("prebake.precompute.drop:drop_epochs", sub.manifest_before_removal, f"{KILLED_BAKE}[drop-13]"),
        ),
    ),
    Promise(
        "If a process of a bake is killed, the bake ends with exit code 4 and a message. The next bake gives the same bytes",
        "SIGKILL of a process that computes a transform",
        (KILLED_WORKER,),
        (Mechanism("prebake.precompute.bake:timed_bake", sub.no_context, KILLED_WORKER),),
    ),
    Promise(
        "If a file operation of a bake fails, the bake ends with exit code 4 and names the path. No partial file stays, and the same command completes the bake",
        "each operation with ENOSPC, EIO and EACCES, once and permanently; every audited change of the disk is a counted operation",
        ("tests/test_faults.py",),
        (
            Mechanism("prebake.storage.atomic:remove", sub.nothing, "tests/test_writer.py::test_a_full_disk_leaves_no_part_of_a_shard"),
        ),
    ),
    Promise(
        "The message for a full disk differs from other errors, and names the bytes needed and free",
        "a tmpfs of 4 MiB that fills up, a full /dev/shm",
        ("tests/test_full_disk.py",),
        (
            Mechanism("prebake.precompute.plan:out_of_space", sub.plain_error, FULL_DISK),
            Mechanism("prebake.precompute.plan:check_space", sub.nothing, FULL_DISK),
        ),
    ),
    Promise(
        "Of two bakes in one directory, one proceeds. The other ends at once and names pid and host of the first",
        "two commands started together, a killed holder, other kinds of files in place of the lock",
        ("tests/test_lock.py",),
        (
            Mechanism("prebake.storage.lock:locked", sub.given(shared=True), "tests/test_lock.py::test_of_two_bakes_at_once_one_runs_and_the_other_names_it[1]"),
            Mechanism("prebake.storage.lock:os", sub.with_attributes(O_NOFOLLOW=0), "tests/test_lock.py::test_an_irregular_lock_file_is_refused_without_waiting[link]"),
            Mechanism("prebake.storage.lock:stat", sub.with_attributes(S_ISREG=lambda _mode: True), "tests/test_lock.py::test_an_irregular_lock_file_is_refused_without_waiting[fifo]"),
        ),
    ),
    Promise(
        "Ctrl-C and SIGTERM end a command with one line and exit code 130 or 143, and leave no process. A second signal ends it at once",
        "signals to real bakes, in threads and in processes, at fixed and at random moments; signals inside blocks that must be whole",
        ("tests/test_bake_signals.py", "tests/test_interruptions.py"),
        (
            Mechanism("prebake.signals:signal", sub.with_attributes(raise_signal=lambda _number: None), "tests/test_interruptions.py::test_a_deferred_signal_waits_for_the_end_of_the_block"),
            Mechanism("prebake.signals:os", sub.with_attributes(_exit=lambda _code: None), "tests/test_interruptions.py::test_a_second_signal_ends_at_once"),
            Mechanism("prebake.precompute.workers:signal", sub.with_attributes(pthread_sigmask=lambda *_: set()), "tests/test_bake_signals.py::test_a_signal_ends_a_bake_and_all_its_processes[processes that start]"),
        ),
    ),
    Promise(
        "`verify` reports every damage of a shard set, and training ends before a sample of a damaged record reaches the model",
        "one flipped bit at every byte, every truncation, exchanged, copied, appended, renamed and missing files, an index of another plan, a Git LFS pointer, an HTML page",
        ("tests/attacks/test_detection.py", "tests/attacks/test_archives.py", "tests/attacks/test_changes.py"),
        (
            Mechanism("prebake.loader.shard_reader:xxhash", sub.with_attributes(xxh3_64=sub.Hash), f"{FLIPPED_BIT}[train-e000-000.tar-a sample]"),
            Mechanism("prebake.loader.shard_reader:os", sub.with_attributes(pread=lambda *_: sub.AlwaysEqual()), f"{FLIPPED_BIT}[train-e000-000.tar-a sample]"),
            Mechanism("prebake.loader.shard_reader:os", sub.with_attributes(fstat=sub.size_of_any), "tests/attacks/test_detection.py::test_a_file_cut_at_any_length_or_going_on_is_seen[train-e000-000.tar-a sample]"),
            Mechanism("prebake.format.verify:xxhash", sub.with_attributes(xxh3_64_intdigest=lambda _data: sub.AlwaysEqual()), f"{FLIPPED_BIT}[train-e000-000.tar-a sample]"),
            Mechanism("prebake.format.verify:xxhash", sub.with_attributes(xxh3_128=sub.Hash), "tests/attacks/test_documents.py::test_a_false_checksum_of_an_archive_is_reported"),
            Mechanism("prebake.format.document:parse", sub.ignore_checksum, f"{FLIPPED_BIT}[manifest.json-a sample]"),
            Mechanism("prebake.format.index:Index.to_bytes", sub.index_bytes_equal_any, f"{FLIPPED_BIT}[train-e000-000.json-a sample]"),
            Mechanism("prebake.format.manifest:shlex", sub.with_attributes(quote=str), "tests/attacks/test_detection.py::test_verify_names_shard_record_and_repair_command"),
        ),
    ),
    Promise(
        "The command that a message names rebuilds damaged and missing files, and changes no others",
        "eleven kinds of damage; times and inodes of all other files",
        ("tests/test_repair.py", "tests/test_existing.py"),
        (
            Mechanism("prebake.precompute.provenance:differences", sub.returns([]), "tests/test_repair.py::test_repair_refuses_another_source"),
            Mechanism("prebake.cli.repair:parser", sub.without_named_shards, "tests/test_repair.py::test_repair_bakes_a_named_shard_again"),
            Mechanism("prebake.cli.repair:bake_source", sub.given(overwrite=True), "tests/test_repair.py::test_repair_bakes_missing_and_damaged_shards_only"),
            Mechanism("prebake.precompute.resume:damage", sub.nothing, "tests/test_existing.py::test_a_second_bake_repairs_damaged_shards_only[flip]"),
        ),
    ),
    Promise(
        "`audit` proves that the shards hold exactly the planned views of the source images",
        "forgeries of ten kinds with valid checksums, faults planted in draw, order, kernel and encoder, manifests that do not fit the source",
        ("tests/test_audit.py",),
        (
            Mechanism("prebake.precompute.recompute:_difference", sub.nothing, "tests/test_audit.py::test_a_mistake_in_baking_is_found"),
            Mechanism("prebake.precompute.recompute:_difference", sub.truncated_equals, "tests/test_audit.py::test_missing_and_truncated_archives_are_reported"),
            Mechanism("prebake.precompute.provenance:make_plan", sub.any_splits, "tests/test_audit.py::test_a_manifest_of_another_source_is_refused"),
            Mechanism("prebake.precompute.audit:order", sub.first_seed, "tests/test_audit.py::test_a_sample_finds_a_forgery_if_it_draws_it"),
        ),
    ),
    Promise(
        "A training run that is killed any number of times ends with the same weights, momentum and metrics, bit by bit, as one that was never killed (CPU)",
        "SIGKILL after each of 40 steps, chains of kills, random times, within each operation of writing a checkpoint; 20 random times of an MNIST run",
        (
            "tests/test_killed_runs.py",
            "tests/test_checkpoint.py",
            "tests/test_tensors.py",
            "tests/test_stream_start.py",
        ),
        (
            Mechanism("prebake.train.optim:Learner.restore", sub.without_momentum, KILLED_RUN),
            Mechanism("prebake.train.trainer:restore_random_state", sub.nothing, KILLED_RUN),
            Mechanism("prebake.loader.loader:Loader.load_state_dict", sub.epoch_start, KILLED_RUN),
            Mechanism("prebake.train.optim:Learner.restore", sub.without_schedule, KILLED_RUN),
            Mechanism("prebake.train.metrics:EpochMetrics.restore", sub.nothing, KILLED_RUN),
            Mechanism("prebake.train.tensors:xxhash", sub.with_attributes(xxh3_128=sub.FixedHash), "tests/test_tensors.py::test_a_flipped_bit_is_noticed"),
            Mechanism("prebake.train.checkpoint:Checkpoints.load", sub.newest_only, "tests/test_killed_runs.py::test_a_damaged_checkpoint_is_named_and_the_previous_used"),
            Mechanism("prebake.train.checkpoint:KEPT", sub.constant(1), "tests/test_checkpoint.py::test_the_last_two_are_kept_and_the_newest_is_read"),
            Mechanism("prebake.train.tensors:write_atomic", sub.plain_write, "tests/test_killed_runs.py::test_a_run_killed_during_a_checkpoint_uses_a_complete_one[rename]"),
        ),
    ),
    Promise(
        "SIGTERM and Ctrl-C leave a checkpoint between two steps, within 5 s if a step takes less, and name the command that resumes",
        "signals in a step, in evaluation, while compiling, while waiting for shards; DavidNet in a process of its own",
        ("tests/test_stopped_runs.py", "tests/test_resume.py"),
        (
            Mechanism("prebake.train.trainer:defer_signals", sub.no_context, "tests/test_stopped_runs.py::test_a_signal_waits_for_the_end_of_the_step"),
            Mechanism("prebake.train.session:_Session._save", sub.not_after("KeyboardInterrupt", "TerminatedError"), "tests/test_stopped_runs.py::test_a_signal_leaves_a_checkpoint_and_prints_how_to_resume[15-143-terminated]"),
            Mechanism("prebake.train.session:_Session._save", sub.not_after("DataError", "OSError"), "tests/test_killed_runs.py::test_a_run_resumes_after_its_damaged_shard_is_repaired"),
        ),
    ),
    Promise(
        "A loss that is not finite ends training with exit code 5, step, learning rate and images; the last good checkpoint stays",
        "losses, weights and statistics that become infinite or NaN at a step",
        ("tests/test_divergence.py",),
        (
            Mechanism("prebake.train.trainer:math", sub.with_attributes(isfinite=lambda _loss: True), "tests/test_divergence.py::test_the_first_bad_step_is_named_with_its_lr_and_images[nan-nan]"),
            Mechanism("prebake.train.trainer:not_finite", sub.returns([]), "tests/test_divergence.py::test_a_state_that_is_not_finite_is_never_saved[weight]"),
            Mechanism("prebake.train.trainer:Trainer.check_losses", sub.unchecked_losses, "tests/test_divergence.py::test_divergence_is_found_at_the_next_check_without_syncs"),
        ),
    ),
    Promise(
        "A full device memory ends training with exit code 4, batch size, precision, peak memory and advice",
        "errors of CUDA, MPS and the CPU; a real one under a limit",
        ("tests/test_memory.py",),
        (
            Mechanism("prebake.train.session:_out_of_memory", sub.plain_error, "tests/test_memory.py::test_memory_that_is_really_full_ends_so_too"),
        ),
    ),
    Promise(
        "Of two trainings in one run directory, the second ends at once and names the first",
        "two commands",
        (LOCKED_RUN,),
        (Mechanism("prebake.train.session:locked", sub.no_context, LOCKED_RUN),),
    ),
    Promise(
        "Several processes train a run as one process would with the same batches in slices: all have the same weights, a signal to one stops all at the same step, a dead one ends all within 30 s, and any number of processes can resume",
        "1, 2 and 4 processes over gloo, forked and under torchrun; signals, SIGKILL, a hang, a bad loss and a damaged shard in one of them; a restart by torchrun",
        ("tests/test_world.py", "tests/test_torchrun.py"),
        (
            Mechanism("prebake.loader.loader:Loader.__init__", sub.first_slice, "tests/test_world.py::test_global_batches_do_not_depend_on_the_process_count[4]"),
            Mechanism("prebake.train.optim:DistributedDataParallel", sub.plain_model, RANKS),
            Mechanism("prebake.train.optim:Learner.sync_buffers", sub.nothing, RANKS),
            Mechanism("prebake.train.metrics:EpochMetrics.losses", sub.rank_losses, RANKS),
            Mechanism("prebake.train.distributed:ProcessGroup.all_reduce_signal", sub.immediate_signal, "tests/test_world.py::test_a_signal_to_any_rank_stops_all_ranks_at_one_step[2-1-15-143-1]"),
            Mechanism("prebake.train.distributed:ProcessGroup.check", sub.nothing, "tests/test_world.py::test_all_ranks_refuse_bad_options_and_rank_0_prints"),
        ),
    ),
    Promise(
        "Shards from a stranger run no code and write no files. Time and memory stay bounded, and the errors are those of prebake",
        "a hostile file for each attack, through every command; numbered mutations in forks that end if anything is run or written, within 2 s and 256 MB",
        (
            "tests/attacks/test_attacks.py",
            "tests/attacks/test_documents.py",
            "tests/attacks/test_fuzz.py",
            "tests/test_forbidden.py",
            "tests/test_document.py",
        ),
        (
            Mechanism("prebake.format.record:value_trouble", sub.nothing, f"{HOSTILE_FILE}[label_negative]"),
            Mechanism("prebake.loader.shard_set:ShardSet.webdataset", sub.webdataset_reads_archives, "tests/attacks/test_attacks.py::test_webdataset_gets_checked_records_and_runs_nothing"),
            Mechanism("prebake.format.verify:os", sub.any_end, f"{HOSTILE_FILE}[behind_the_end]"),
            Mechanism("prebake.format.verify:_framed", sub.returns(True), f"{HOSTILE_FILE}[lying_npy_header]"),
            Mechanism("prebake.format.document:_object", sub.constant(dict), "tests/test_document.py::test_a_key_twice_in_an_object_is_refused"),
            Mechanism("prebake.format.document:_is_flat", sub.returns(True), "tests/test_document.py::test_sixteen_levels_are_read_and_seventeen_refused"),
            Mechanism("prebake.errors:quote", sub.unescaped, "tests/attacks/test_attacks.py::test_text_of_a_manifest_is_printed_escaped"),
            Mechanism("prebake.format.manifest:MAX_CLASSES", sub.constant(2**40), f"{HOSTILE_FILE}[many_classes]"),
            Mechanism("prebake.format.manifest:MAX_EPOCHS", sub.constant(2**40), f"{HOSTILE_FILE}[many_epochs]"),
            Mechanism("prebake.storage.files:read_bytes", sub.read_any_size, "tests/attacks/test_attacks.py::test_anything_instead_of_a_file_is_refused_or_read_right[huge-manifest.json]"),
            Mechanism("prebake.storage.files:os", sub.with_attributes(O_RDONLY=os.O_RDWR), "tests/attacks/test_fuzz.py::test_a_mutated_set_is_refused_or_read_right[a sample]"),
        ),
    ),
    Promise(
        "Every mistake of a user ends with its exit code and a message: what, where, expected and found, and what to do",
        "a table for each of the three commands: options, paths, locales, clocks, smallest sets, other shards, newer formats",
        (
            "tests/test_bad_input.py",
            "tests/test_commands_train_input.py",
            "tests/test_commands_precompute.py",
            "tests/test_commands_train_refusals.py",
        ),
        (
            Mechanism("prebake.precompute.sources.torchvision:READ_ERRORS", sub.constant((RuntimeError,)), "tests/test_bad_input.py::test_source_files_that_are_none_are_named"),
            Mechanism("prebake.format.manifest:VERSION", sub.constant(sub.EqualInt(2)), "tests/test_bad_input.py::test_a_newer_format_is_refused_with_both_versions"),
            Mechanism("prebake.cli.run:_escape_unencodable_output", sub.nothing, "tests/test_bad_input.py::test_other_letters_are_escaped_in_an_ascii_locale"),
            Mechanism("prebake.precompute.plan:MAX_EPOCHS", sub.constant(2**40), "tests/test_bad_input.py::test_wrong_precompute_options_exit_with_2_and_write_nothing"),
            Mechanism("prebake.train.jobs:_fixed", sub.any_identity, f"{TRAIN_INPUT}[another_augmentation]"),
            Mechanism("prebake.train.jobs:recipe_from", sub.any_type, f"{TRAIN_INPUT}[strange_settings]"),
        ),
    ),
)
# fmt: on
MECHANISMS = tuple(mechanism for promise in PROMISES for mechanism in promise.mechanisms)
