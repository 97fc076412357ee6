"""What the project promises, the tests that hold it, and what breaks each promise when it is taken out."""

from dataclasses import dataclass

__all__ = ["PROMISES", "Mutant", "Promise"]


@dataclass(frozen=True)
class Mutant:
    """A change of the source that takes a promise's mechanism out, and a test that must fail then.

    `before` stands exactly once in the file `path`.
    """

    path: str
    before: str
    after: str
    test: str


@dataclass(frozen=True)
class Promise:
    """One promise.

    Attributes:
        text: the promise.
        how: how it is tested.
        tests: files, or node ids without parameters; slow ones are run as well.
        mutants: what takes it out.
    """

    text: str
    how: str
    tests: tuple[str, ...]
    mutants: tuple[Mutant, ...]


PROMISES: tuple[Promise, ...] = (
    Promise(
        "A bake that is killed leaves no damaged file under a final name; the same command ends with the same bytes, and rewrites nothing that was whole",
        "SIGKILL before each file operation of a bake, of adding epochs, replacing, repairing and dropping; random kills of two workers",
        ("tests/test_kills.py", "tests/test_writer.py"),
        (
            Mutant(
                "shards/writer.py",
                "    part = path.with_name(part_name(path.name, token))\n",
                "    part = path\n",
                "tests/test_kills.py::test_killed_before_any_file_operation_it_is_gone_on_with[bake-13]",
            ),
            Mutant(
                "shards/writer.py",
                "            raise\n    _sync(path.parent)\n",
                "            raise\n",
                "tests/test_writer.py::test_bytes_then_name_then_the_name_s_own_way_to_the_disk_and_the_index_after_all_that",
            ),
            Mutant(
                "shards/writer.py",
                "                os.fsync(file)\n",
                "",
                "tests/test_writer.py::test_bytes_then_name_then_the_name_s_own_way_to_the_disk_and_the_index_after_all_that",
            ),
            Mutant(
                "shards/writer.py",
                'key=lambda path: (path.suffix == ".tar", path.name)',
                "key=lambda path: path.name",
                "tests/test_writer.py::test_indexes_are_gone_before_the_first_archive_goes",
            ),
            Mutant(
                "shards/writer.py",
                "os.O_CREAT | os.O_EXCL | os.O_CLOEXEC",
                "os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC",
                "tests/test_writer.py::test_what_lies_under_the_temporary_name_is_not_written_through",
            ),
            Mutant(
                "precompute/bake.py",
                "            if overwrite and not is_begun(plan, directory):\n",
                "            if overwrite:\n",
                "tests/test_kills.py::test_killed_before_any_file_operation_it_is_gone_on_with[overwrite-13]",
            ),
            Mutant(
                "shards/drop.py",
                "        freed = remove_shards(path for path, match in found if match and int(match[1]) >= first)\n        write_whole(data.path / MANIFEST, plan.with_epochs(min(first, plan.epochs)).to_bytes())\n",
                "        write_whole(data.path / MANIFEST, plan.with_epochs(min(first, plan.epochs)).to_bytes())\n        freed = remove_shards(path for path, match in found if match and int(match[1]) >= first)\n",
                "tests/test_kills.py::test_killed_before_any_file_operation_it_is_gone_on_with[drop-13]",
            ),
        ),
    ),
    Promise(
        "A process of a bake that is killed ends the bake with exit code 4 and a word; the next bake ends with the same bytes",
        "SIGKILL of a process that computes a transform",
        ("tests/test_transform.py::test_a_killed_process_ends_the_bake_and_the_next_one_goes_on_to_the_same_bytes",),
        (
            Mutant(
                "precompute/bake.py",
                "        with contextlib.suppress(OSError):\n            tidy()\n",
                "",
                "tests/test_transform.py::test_a_killed_process_ends_the_bake_and_the_next_one_goes_on_to_the_same_bytes",
            ),
        ),
    ),
    Promise(
        "A file operation of a bake that fails ends it with exit code 4 and the path; no half file stays; the same command completes",
        "each operation with ENOSPC, EIO and EACCES, once and for good; every audited change of the disk is a counted operation",
        ("tests/test_faults.py",),
        (
            Mutant(
                "shards/writer.py",
                "                remove(part)\n",
                "                pass\n",
                "tests/test_writer.py::test_nothing_is_left_of_a_shard_for_which_the_disk_is_too_small",
            ),
        ),
    ),
    Promise(
        "A full disk is told from other errors, with bytes needed and free",
        "a tmpfs of 4 MiB that fills up, a full /dev/shm",
        ("tests/test_full_disk.py",),
        (
            Mutant(
                "precompute/plan.py",
                "    if error.errno not in (errno.ENOSPC, errno.EDQUOT):\n",
                "    if True:\n",
                "tests/test_full_disk.py::test_a_full_disk_is_said_and_the_same_command_completes[fork]",
            ),
            Mutant(
                "precompute/plan.py",
                "    if needed > free:\n",
                "    if False:\n",
                "tests/test_full_disk.py::test_a_full_disk_is_said_and_the_same_command_completes[fork]",
            ),
        ),
    ),
    Promise(
        "Of two bakes in one directory one proceeds; the other ends at once and names pid and host of the first",
        "two commands started together, a killed holder, anything in the lock's place",
        ("tests/test_lock.py",),
        (
            Mutant(
                "shards/lock.py",
                "fcntl.LOCK_SH if shared else fcntl.LOCK_EX",
                "fcntl.LOCK_SH",
                "tests/test_lock.py::test_of_two_bakes_started_at_once_one_proceeds_and_the_other_names_it[1]",
            ),
            Mutant(
                "shards/lock.py",
                " | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644",
                " | os.O_NONBLOCK, 0o644",
                "tests/test_lock.py::test_what_is_no_plain_file_is_neither_waited_for_nor_written_to[link]",
            ),
            Mutant(
                "shards/lock.py",
                "    if not stat.S_ISREG(os.fstat(descriptor).st_mode):\n",
                "    if False:\n",
                "tests/test_lock.py::test_what_is_no_plain_file_is_neither_waited_for_nor_written_to[fifo]",
            ),
        ),
    ),
    Promise(
        "Ctrl-C and SIGTERM end a command with one line, exit code 130 or 143 and no process left; a second one ends it at once",
        "signals to real bakes, in threads and in processes, at fixed moments and at any time; signals inside of what must be whole",
        ("tests/test_bake_signals.py", "tests/test_interruptions.py"),
        (
            Mutant(
                "shards/command.py",
                "        for number in heard:\n            signal.raise_signal(number)\n",
                "",
                "tests/test_interruptions.py::test_a_signal_waits_until_the_block_that_must_be_whole_is_left",
            ),
            Mutant(
                "shards/command.py",
                "    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:\n        if _heard:\n",
                "    def interrupt(number: int, _frame: FrameType | None) -> NoReturn:\n        if False:\n",
                "tests/test_interruptions.py::test_a_second_signal_ends_at_once",
            ),
            Mutant(
                "precompute/workers.py",
                "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})",
                "signal.pthread_sigmask(signal.SIG_BLOCK, set())",
                "tests/test_bake_signals.py::test_a_signal_ends_a_bake_with_one_line_and_leaves_no_process[processes that start]",
            ),
        ),
    ),
    Promise(
        "Whatever is wrong with a set's files, `verify` reports it, and training ends before a sample of the damaged record reaches the model",
        "one flipped bit at every byte, every truncation, exchanged, copied, appended, renamed and missing files, an index of another plan, a Git LFS pointer, an HTML page",
        ("tests/attacks/test_detection.py", "tests/attacks/test_archives.py", "tests/attacks/test_changes.py"),
        (
            Mutant(
                "shards/opened.py",
                "        if digest.intdigest() != extent.xxh3:",
                "        if False:",
                "tests/attacks/test_detection.py::test_one_flipped_bit_at_any_byte_is_seen[train-e000-000.tar-a sample]",
            ),
            Mutant(
                "shards/opened.py",
                "        if os.pread(self.descriptor, len(zeros), expected - len(zeros)) != zeros:",
                "        if False:",
                "tests/attacks/test_detection.py::test_one_flipped_bit_at_any_byte_is_seen[train-e000-000.tar-a sample]",
            ),
            Mutant(
                "shards/opened.py",
                "        if found != expected:",
                "        if False:",
                "tests/attacks/test_detection.py::test_a_file_cut_at_any_length_or_going_on_is_seen[train-e000-000.tar-a sample]",
            ),
            Mutant(
                "shards/verify.py",
                "                if xxhash.xxh3_64_intdigest(view) != extent.xxh3:",
                "                if False:",
                "tests/attacks/test_detection.py::test_one_flipped_bit_at_any_byte_is_seen[train-e000-000.tar-a sample]",
            ),
            Mutant(
                "shards/verify.py",
                "    if whole.hexdigest() != index.xxh3:",
                "    if False:",
                "tests/attacks/test_documents.py::test_an_index_with_a_false_sum_over_the_archive_is_reported",
            ),
            Mutant(
                "shards/document.py",
                "    if data != expected:",
                "    if False:",
                "tests/attacks/test_detection.py::test_one_flipped_bit_at_any_byte_is_seen[manifest.json-a sample]",
            ),
            Mutant(
                "shards/index.py",
                "            if hashes and index.to_bytes() == data:",
                "            if hashes:",
                "tests/attacks/test_detection.py::test_one_flipped_bit_at_any_byte_is_seen[train-e000-000.json-a sample]",
            ),
            Mutant(
                "shards/plan.py",
                "shlex.quote(str(directory))",
                "directory",
                "tests/attacks/test_detection.py::test_the_command_names_shard_record_and_what_rebuilds_it",
            ),
        ),
    ),
    Promise(
        "What is damaged or missing is rebuilt by the command that the message names, and nothing else is touched",
        "eleven kinds of harm; times and inodes of all other files",
        ("tests/test_repair.py", "tests/test_existing.py"),
        (
            Mutant(
                "precompute/origin.py",
                "    found = differences(plan, anew)\n",
                "    found: list[str] = []\n",
                "tests/test_repair.py::test_a_source_that_is_not_the_one_is_refused_and_nothing_changes",
            ),
            Mutant(
                "precompute/repair.py",
                "                (data.path / planned[name].index).unlink(missing_ok=True)",
                "                pass",
                "tests/test_repair.py::test_a_shard_that_is_named_is_baked_anew_though_its_checksums_fit",
            ),
            Mutant(
                "precompute/repair.py",
                "workers=chosen.workers)",
                "workers=chosen.workers, overwrite=True)",
                "tests/test_repair.py::test_what_is_missing_or_damaged_is_baked_again_and_nothing_else_is_touched",
            ),
            Mutant(
                "precompute/existing.py",
                "            if trouble:\n",
                "            if False:\n",
                "tests/test_existing.py::test_a_second_bake_repairs_what_is_damaged_and_nothing_else[flip]",
            ),
        ),
    ),
    Promise(
        "`audit` proves that what is stored are the variants that the plan says, of these source images",
        "forgeries of ten kinds under checksums that fit, mistakes planted in draw, order, kernel and encoder, manifests that don't fit the source",
        ("tests/test_audit.py",),
        (
            Mutant(
                "precompute/derive.py",
                "    if stored == derived.extent:\n        return None\n",
                "    return None\n",
                "tests/test_audit.py::test_a_mistake_in_baking_is_found",
            ),
            Mutant(
                "precompute/derive.py",
                '    if len(stored) < len(derived.extent):\n        return "the archive ends before its end"\n',
                "",
                "tests/test_audit.py::test_missing_and_truncated_archives_are_said",
            ),
            Mutant(
                "precompute/origin.py",
                "        if plan.splits.get(split) != anew.splits.get(split)\n",
                "        if False\n",
                "tests/test_audit.py::test_a_manifest_that_does_not_fit_the_source_is_refused_with_what_differs",
            ),
            Mutant(
                "precompute/audit.py",
                "order(seed, 0, sum(counts))[:sample]",
                "order(0, 0, sum(counts))[:sample]",
                "tests/test_audit.py::test_a_sample_finds_a_forgery_as_often_as_it_draws_it_and_the_same_for_a_seed",
            ),
        ),
    ),
    Promise(
        "A training that was killed any number of times ends with the same weights, momentum and metrics, bit by bit, as one that was not (CPU)",
        "SIGKILL after every step of 40, chains of kills, random times, within each operation of writing a checkpoint; 20 random times of an MNIST run",
        (
            "tests/test_killed_runs.py",
            "tests/test_checkpoint.py",
            "tests/test_tensors.py",
            "tests/test_stream_start.py",
        ),
        (
            Mutant(
                "train/learner.py",
                '            if f"momentum.{name}" in tensors:',
                "            if False:",
                "tests/test_killed_runs.py::test_a_run_killed_after_any_step_goes_on_to_the_same_end",
            ),
            Mutant(
                "train/loop.py",
                "        restore_random_state(self.device, random)",
                "        pass",
                "tests/test_killed_runs.py::test_a_run_killed_after_any_step_goes_on_to_the_same_end",
            ),
            Mutant(
                "train/loop.py",
                "            start=state.step * batch_size,",
                "            start=0,",
                "tests/test_killed_runs.py::test_a_run_killed_after_any_step_goes_on_to_the_same_end",
            ),
            Mutant(
                "train/learner.py",
                '        self.scheduler.load_state_dict(values["scheduler"])',
                "        pass",
                "tests/test_killed_runs.py::test_a_run_killed_after_any_step_goes_on_to_the_same_end",
            ),
            Mutant(
                "train/tally.py",
                '        self._losses.copy_(tensors["losses"])',
                "        pass",
                "tests/test_killed_runs.py::test_a_run_killed_after_any_step_goes_on_to_the_same_end",
            ),
            Mutant(
                "train/tensors.py",
                "        if about.content.pop(field, None) != expected:",
                "        if about.content.pop(field, None) is None:",
                "tests/test_tensors.py::test_a_flipped_bit_is_noticed",
            ),
            Mutant(
                "train/checkpoint.py",
                "                damaged.append(str(error))\n                continue",
                "                raise error",
                "tests/test_killed_runs.py::test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken",
            ),
            Mutant(
                "train/checkpoint.py",
                "KEPT = 2",
                "KEPT = 1",
                "tests/test_checkpoint.py::test_the_last_two_are_kept_and_the_newest_is_read",
            ),
            Mutant(
                "train/tensors.py",
                '    write_whole(path, save(there, metadata={KEY: document.decode("ascii")}))',
                '    path.write_bytes(save(there, metadata={KEY: document.decode("ascii")}))',
                "tests/test_killed_runs.py::test_a_run_killed_while_a_checkpoint_is_written_goes_on_from_a_whole_one[rename]",
            ),
        ),
    ),
    Promise(
        "SIGTERM and Ctrl-C leave a checkpoint between two steps, within 5 s where a step takes less, and say how to go on",
        "signals in a step, in evaluation, while compiling, while waiting for shards; DavidNet in a process of its own",
        ("tests/test_stopped_runs.py", "tests/test_resume.py"),
        (
            Mutant(
                "train/loop.py",
                "            with undisturbed():\n                loss, right",
                "            with contextlib.nullcontext():\n                loss, right",
                "tests/test_stopped_runs.py::test_a_signal_waits_for_the_end_of_the_step",
            ),
            Mutant(
                "train/session.py",
                "        except (KeyboardInterrupt, TerminatedError, DataError, OSError) as error:",
                "        except (DataError, OSError) as error:",
                "tests/test_stopped_runs.py::test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on[15-143-terminated]",
            ),
            Mutant(
                "train/session.py",
                "        except (KeyboardInterrupt, TerminatedError, DataError, OSError) as error:",
                "        except (KeyboardInterrupt, TerminatedError) as error:",
                "tests/test_killed_runs.py::test_after_a_damaged_shard_is_repaired_the_run_goes_on_at_the_step_that_missed_it",
            ),
        ),
    ),
    Promise(
        "A loss that is no number ends training with exit code 5, step, learning rate and images; the last good checkpoint stays",
        "losses, weights and statistics made not finite at a step",
        ("tests/test_divergence.py",),
        (
            Mutant(
                "train/loop.py",
                "            if on_cpu and not math.isfinite(self.world.mean(loss).item()):",
                "            if False:",
                "tests/test_divergence.py::test_the_first_bad_step_is_named_with_its_rate_and_its_images[nan-nan]",
            ),
            Mutant(
                "train/loop.py",
                "        if bad := not_finite(tensors):",
                "        if bad := []:",
                "tests/test_divergence.py::test_a_state_that_is_not_finite_is_never_saved[weight]",
            ),
            Mutant(
                "train/loop.py",
                "        self._stop_clock()\n        losses = self.check_losses()",
                "        self._stop_clock()\n        losses = [0.0]",
                "tests/test_divergence.py::test_where_the_device_is_not_waited_for_it_is_seen_at_the_next_look",
            ),
        ),
    ),
    Promise(
        "A device out of memory ends training with exit code 4, batch size, precision, peak memory and what to try",
        "errors of CUDA, MPS and the CPU; a real one under a limit",
        ("tests/test_memory.py",),
        (
            Mutant(
                "train/session.py",
                "raise _full(job.settings, error) from error",
                "raise",
                "tests/test_memory.py::test_memory_that_is_really_full_ends_so_too",
            ),
        ),
    ),
    Promise(
        "Of two trainings into one run directory the second ends at once and names the first",
        "two commands",
        (
            "tests/test_commands_train_input.py::test_of_two_trainings_of_one_run_the_second_ends_at_once_and_names_the_first",
        ),
        (
            Mutant(
                "train/session.py",
                '    held.enter_context(locked(run.path, LOCK, "training"))\n',
                "",
                "tests/test_commands_train_input.py::test_of_two_trainings_of_one_run_the_second_ends_at_once_and_names_the_first",
            ),
        ),
    ),
    Promise(
        "Several processes train one run as one would from the same batches in slices: weights are the same in all; a signal to one stops all at one step, a dead one ends all within 30 s, and any number of processes goes on",
        "1, 2 and 4 processes over gloo, forked and under torchrun; signals, SIGKILL, a hang, a bad loss and a damaged shard in one of them; torchrun's restart",
        ("tests/test_world.py", "tests/test_torchrun.py"),
        (
            Mutant(
                "train/stream.py",
                "range(number * size, number * size + size)",
                "range(size)",
                "tests/test_world.py::test_the_sequence_of_global_batches_is_the_same_for_every_number_of_processes[4]",
            ),
            Mutant(
                "train/learner.py",
                "self.model if world.size == 1 else DistributedDataParallel(self.model)",
                "self.model",
                "tests/test_world.py::test_several_processes_learn_what_one_does_from_the_same_batches_in_slices[small-2]",
            ),
            Mutant(
                "train/learner.py",
                "        self._world.share(self.model.buffers())\n",
                "",
                "tests/test_world.py::test_several_processes_learn_what_one_does_from_the_same_batches_in_slices[small-2]",
            ),
            Mutant(
                "train/tally.py",
                "self._world.mean(self._losses).tolist()",
                "self._losses.tolist()",
                "tests/test_world.py::test_several_processes_learn_what_one_does_from_the_same_batches_in_slices[small-2]",
            ),
            Mutant(
                "train/world.py",
                "        answer = self.answer()\n",
                "        answer = word\n",
                "tests/test_world.py::test_a_signal_to_any_rank_stops_all_at_one_step_and_any_number_of_processes_goes_on[2-1-15-143-1]",
            ),
            Mutant(
                "train/world.py",
                "        if batch % self.size or batch < least:\n",
                "        if False:\n",
                "tests/test_world.py::test_what_several_processes_can_t_do_is_refused_by_all_and_said_by_one",
            ),
        ),
    ),
    Promise(
        "A stranger's shards run no code and write nothing; time and memory stay bounded, and the error is ours",
        "a maker of hostile files for each attack, through every command; numbered mutations in forks that end where anything is run or written, within 1 s and 256 MB",
        (
            "tests/attacks/test_attacks.py",
            "tests/attacks/test_documents.py",
            "tests/attacks/test_fuzz.py",
            "tests/test_forbidden.py",
            "tests/test_document.py",
        ),
        (
            Mutant(
                "shards/opened.py",
                "        if scratch.unsigned_labels.max() >= self._classes:",
                "        if scratch.labels.max() >= self._classes:",
                "tests/attacks/test_attacks.py::test_whatever_a_file_says_is_refused_or_read_right[label_negative]",
            ),
            Mutant(
                "shards/reader.py",
                "        source = webdataset.FluidWrapper(functools.partial(self._copied_records, split, epoch))\n",
                '        urls = [str(self.path / shard.tar) for shard in self.plan.shards(split, epoch)]\n        source = webdataset.WebDataset(urls, shardshuffle=False).decode().to_tuple("images.npy", "labels.npy")\n',
                "tests/attacks/test_attacks.py::test_webdataset_gets_checked_records_and_runs_nothing_of_the_archive_nor_of_its_path",
            ),
            Mutant(
                "shards/verify.py",
                "                if not _framed(view, key, frames[layout]):",
                "                if False:",
                "tests/attacks/test_attacks.py::test_whatever_a_file_says_is_refused_or_read_right[lying_npy_header]",
            ),
            Mutant(
                "shards/verify.py",
                "    if end != bytes(2 * BLOCK_BYTES):",
                "    if False:",
                "tests/attacks/test_attacks.py::test_whatever_a_file_says_is_refused_or_read_right[behind_the_end]",
            ),
            Mutant(
                "shards/document.py",
                "    if len(content) < len(pairs):",
                "    if False:",
                "tests/test_document.py::test_a_key_twice_in_an_object_is_refused",
            ),
            Mutant(
                "shards/document.py",
                "    if not _is_flat(content):",
                "    if False:",
                "tests/test_document.py::test_sixteen_levels_are_read_and_seventeen_refused",
            ),
            Mutant(
                "shards/errors.py",
                "    text = repr(value)",
                "    text = str(value)",
                "tests/attacks/test_attacks.py::test_strings_of_a_stranger_reach_the_terminal_escaped",
            ),
            Mutant(
                "shards/plan.py",
                '("classes", MOST_CLASSES,',
                '("classes", 2**40,',
                "tests/attacks/test_attacks.py::test_whatever_a_file_says_is_refused_or_read_right[many_classes]",
            ),
            Mutant(
                "shards/plan.py",
                '("epochs", MOST_EPOCHS,',
                '("epochs", 2**40,',
                "tests/attacks/test_attacks.py::test_whatever_a_file_says_is_refused_or_read_right[many_epochs]",
            ),
            Mutant(
                "shards/files.py",
                "    if size > most or not left:",
                "    if not left:",
                "tests/attacks/test_attacks.py::test_whatever_stands_in_a_file_s_place_is_refused_or_read_right[huge-manifest.json]",
            ),
            Mutant(
                "shards/files.py",
                "os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK",
                "os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK",
                "tests/attacks/test_fuzz.py::test_a_mutated_set_is_refused_or_read_right[a sample]",
            ),
        ),
    ),
    Promise(
        "Whatever a user gets wrong ends with its exit code and says what, where, expected and found, and what to do",
        "a table for each of the three commands: options, places, locales, clocks, smallest sets, other shards, newer formats",
        (
            "tests/test_bad_input.py",
            "tests/test_commands_train_input.py",
            "tests/test_commands_precompute.py",
            "tests/test_commands_train_refusals.py",
        ),
        (
            Mutant(
                "precompute/sources.py",
                "READ_ERRORS = (RuntimeError, ValueError, OSError, EOFError, AssertionError, KeyError, pickle.UnpicklingError)",
                "READ_ERRORS = (RuntimeError,)",
                "tests/test_bad_input.py::test_source_files_that_are_none_are_named",
            ),
            Mutant(
                "shards/plan.py",
                'fields.integer("version") != VERSION:',
                'fields.integer("version") == 99:',
                "tests/test_bad_input.py::test_a_manifest_of_a_newer_format_names_versions_and_the_way_out",
            ),
            Mutant(
                "shards/command.py",
                'sys.stdout.reconfigure(errors="backslashreplace")',
                "pass",
                "tests/test_bad_input.py::test_in_a_locale_that_knows_ascii_only_other_letters_are_escaped",
            ),
            Mutant(
                "precompute/plan.py",
                "    if epochs > MOST_EPOCHS:\n",
                "    if False:\n",
                "tests/test_bad_input.py::test_wrong_options_of_precompute_exit_with_2_and_write_nothing",
            ),
            Mutant(
                "train/jobs.py",
                '    if there["shards"] != run.settings.get("shards"):',
                "    if False:",
                "tests/test_commands_train_input.py::test_bad_input_ends_with_its_code_and_its_words[another_augmentation]",
            ),
            Mutant(
                "train/recipes.py",
                "        if not isinstance(value, kinds) or (isinstance(value, bool) and expected[name] is not bool):",
                "        if False:",
                "tests/test_commands_train_input.py::test_bad_input_ends_with_its_code_and_its_words[strange_settings]",
            ),
        ),
    ),
)
