"""Every mutant: its name, what a user would lose, the edits, and the tests that must fail."""

from __future__ import annotations

from mutants import Edit, Mutant

SRC = "src/fluvial"
SCRIPTS = f"{SRC}/adapters/scripts"
OWNER = "head[1] ~= ARGV[1] or head[2] ~= ARGV[2]"
"""How a script tells a stranger from the shard's writer."""

COMMIT_FIRST = """parts.source.commit(shard.offsets, f"{shard.sequence}:{shard.claim.epoch}")
            # Sealed once: a repeated save must be the same one"""
LEARN_FIRST = """        if event.y is not None:
            self._learn(event, event.y)
        members, x = self.mixture.members, event.x
"""
TEACH_FIRST = """                [member.teach(x, y) for member in members]
                answers = (first.ask(x),) if single else"""
PYTHONS_JSON = (
    "(lambda kind: lambda value: msgspec.convert(__import__('json').loads(value), kind))"
    "(self._struct(root, (), 'n0'))"
)


def mutant(name: str, loses: str, edits: list[tuple[str, str, str]], *tests: str) -> Mutant:
    """Shorthand: paths relative to the package, scripts by their name, tests relative to `tests/`."""
    placed = [(f"{SCRIPTS}/{p}" if p.endswith(".lua") else f"{SRC}/{p}", old, new) for p, old, new in edits]
    return Mutant(name, loses, tuple(Edit(*edit) for edit in placed), tuple(f"tests/{t}" for t in tests))


SAVING = [
    mutant(
        "offsets-before-state",
        "a crash between the two: Kafka says that events were learned which no checkpoint holds",
        [
            (
                "keeper.py",
                "# Sealed once: a repeated save must be the same one",
                COMMIT_FIRST,
            )
        ],
        "test_saving_order.py::test_kafka_is_told_what_is_saved_and_nothing_else",
    ),
    mutant(
        "scores-not-flushed",
        "a crash after the checkpoint: scores of the events before it are never published",
        [
            (
                "keeper.py",
                "self._persist(self.publisher.flush)\n            self._persist(lambda: parts.sink.flush",
                "self._persist(lambda: parts.sink.flush",
            )
        ],
        "test_saving_order.py::test_scores_are_out_before_the_checkpoint_that_is_past_them",
    ),
    mutant(
        "scores-not-flushed-on-revoke",
        "a rebalance: scores of a partition's last events are never published",
        [
            (
                "keeper.py",
                "self.publisher.flush()\n            self._parts.sink.flush",
                "self._parts.sink.flush",
            )
        ],
        "test_saving_order.py::"
        "test_scores_are_out_before_the_last_checkpoint_of_a_partition_that_is_taken_away",
    ),
    mutant(
        "no-checkpoint-on-revoke",
        "each rebalance folds again what was folded since the last checkpoint",
        [("partition_scope.py", "keeper.last_checkpoint()", "pass")],
        "test_partition_scope.py::test_a_revoked_partition_gets_a_last_checkpoint",
    ),
    mutant(
        "refused-name-keeps-shards",
        "the group gives a worker's partitions away, and it goes on with them until it is fenced",
        [("partition_scope.py", 'self._drop(partition, "the group refuses this worker\'s name")', "pass")],
        "test_partition_scope.py::test_the_wait_for_a_name_ends_with_the_worker",
    ),
    mutant(
        "rivals-for-ever",
        "two live workers of one name throw each other out without an end",
        [("partition_scope.py", "if len(self._refused) > REJOINS:", "if False:")],
        "test_partition_scope.py::test_two_live_workers_of_one_name_end_in_one",
    ),
    mutant(
        "flood-reads-on",
        "a partition that the flood breaker paused is read, and thrown away, as fast as it comes",
        [("partition_scope.py", "self._member.set_aside(keeper.shard.offsets)", "pass")],
        "test_partition_scope.py::test_a_flood_in_one_partition_pauses_that_one_alone",
    ),
    mutant(
        "one-refused-shard-ends-all",
        "one damaged checkpoint goes from worker to worker and ends each",
        [
            (
                "partition_scope.py",
                "        if not self.keepers and not self._wanted:\n            raise error",
                "        raise error",
            )
        ],
        "test_partition_scope.py::test_a_shard_that_needs_a_person_is_parked_and_the_others_go_on",
    ),
    mutant(
        "letters-not-flushed",
        "a crash after the checkpoint: dead letters of the events before it are lost",
        [
            (
                "keeper.py",
                "self._persist(lambda: parts.sink.flush(parts.settings.redis.timeout_seconds))",
                "pass",
            )
        ],
        "test_saving_order.py::test_dead_letters_are_out_before_the_checkpoint_that_is_past_them",
    ),
    mutant(
        "live-model-probed",
        "a checkpoint that does not survive loading is found at the restart, when it is too late",
        [("learner.py", "members = self._crew.load(dumped)", "members = self.mixture.members")],
        "test_saving_order.py::test_probe_answers_are_those_of_the_dump",
        "test_saving_order.py::test_a_checkpoint_asks_the_live_model_nothing",
    ),
    mutant(
        "probes-not-compared",
        "a model that does not survive loading goes on with other answers, in silence",
        [("shard.py", "compare(opened.answers, answers, exact=opened.portable)", "pass")],
        "test_saving_order.py::test_a_model_that_does_not_survive_loading_is_refused",
    ),
    mutant(
        "no-mac-check",
        "whoever can write to Redis decides what the model says",
        [
            (
                "checkpoint.py",
                " or not any(hmac.compare_digest(key.mac(blob[:end]), mac) for key in known)",
                "",
            )
        ],
        "test_checkpoint.py::test_every_altered_byte_is_refused_in_every_region",
        "test_checkpoint.py::test_keys_rotate_and_a_foreign_one_is_named",
    ),
    mutant(
        "any-class-loaded",
        "whoever can write to Redis runs code in the worker, where no key is set",
        [
            (
                "models/unpickle.py",
                "if (module, name) not in ALLOWED and (module, name) not in extra:",
                "if False:",
            ),
            ("models/unpickle.py", "        if not own:\n", "        if False:\n"),
        ],
        "test_attacks.py::test_nothing_runs",
    ),
    mutant(
        "inner-pickle-unread",
        "whoever can write to Redis rewrites a class of River in the worker, where no key is set",
        [("shard.py", "unpickle.verify(members, extra, limit)", "pass")],
        "test_saving_order.py::test_pickles_inside_the_payload_are_read_before_they_are_loaded[members]",
    ),
    mutant(
        "inner-pickle-forgotten",
        "the same by way of a model on trial, or of one kept to be recalled",
        [("crew.py", "        *(trial[:1] if trial is not None else ()),\n", "")],
        "test_reactions.py::test_every_pickle_in_a_state_is_known_to_whoever_has_to_verify_it[challenger]",
    ),
    mutant(
        "lost-state-begins-afresh",
        "an empty or wrong Redis: the model is forgotten and nobody is asked",
        [("shard.py", 'if lost and self._settings.checkpoint.on_lost_state == "fail":', "if False:")],
        "test_worker.py::test_a_lost_store_is_refused",
    ),
]

STATE = [
    mutant(
        f"state-without-{what}",
        loses,
        [("learner.py", old, new)],
        test,
    )
    for what, loses, old, new, test in (
        (
            "detectors",
            "drifts around a restart are noticed late or never",
            '"monitor": self.monitor.state(),',
            '"monitor": None,',
            "test_learner.py::test_the_same_from_any_checkpoint_on[linear-reset]",
        ),
        (
            "pending-rows",
            "up to 31 events before each checkpoint are never evaluated or watched",
            '"rows": [(tuple(x.items()), *rest) for x, *rest in self._rows],',
            '"rows": [],',
            "test_learner.py::test_the_same_from_any_checkpoint_on[linear-observe]",
        ),
        (
            "weights",
            "after a restart the mixture has forgotten who was right",
            '"weights": list(self.mixture.weights),',
            '"weights": [1.0 / len(self.mixture.weights)] * len(self.mixture.weights),',
            "test_learner.py::test_the_same_from_any_checkpoint_on[linear-reweight]",
        ),
        (
            "memory",
            "after a restart a reset has nothing to warm the fresh model on",
            '"memory": self.memory.state(),',
            '"memory": Memory().state(),',
            "test_learner.py::test_the_same_from_any_checkpoint_on[linear-reset]",
        ),
        (
            "age-of-the-model",
            "after a restart a change is dated back into the time of another model",
            '"fresh_at": self._fresh_at,',
            '"fresh_at": 0,',
            "test_saving_order.py::test_a_change_is_not_dated_back_into_the_time_of_another_model",
        ),
    )
]

FENCES = [
    mutant(
        "records-of-the-claim-before",
        "a partition that was lost and given again within one poll: its records are folded, and come again",
        [("partition_scope.py", "if partition not in claimed:", "if True:")],
        "test_partition_scope.py::test_what_was_read_before_a_partition_was_lost_and_given_again_is_not_folded_twice",
    ),
    mutant(
        "load-without-fence",
        "a worker that stood still between claim and load takes its rival's checkpoint for a broken one",
        [("adapters/redis.py", "if claim is not None and (epoch, token)", "if False and (epoch, token)")],
        "contracts/test_store.py::test_an_older_owner_is_fenced_everywhere_and_changes_nothing",
    ),
    mutant(
        "no-fence-on-save",
        "a worker that was replaced overwrites the checkpoints of its successor",
        [
            ("flip.lua", "head[1] == ARGV[1] and head[2] == ARGV[2]", "true"),
            (
                "adapters/redis.py",
                "if (self.epoch, self.token) != (str(claim.epoch), claim.token):",
                "if False:",
            ),
        ],
        "contracts/test_store.py::test_an_older_owner_is_fenced_everywhere_and_changes_nothing",
    ),
    *(
        mutant(
            f"no-fence-on-{what}",
            loses,
            [(script, f"if {OWNER} then", "if false then")],
            "contracts/test_store.py::test_an_older_owner_is_fenced_everywhere_and_changes_nothing",
        )
        for what, script, loses in (
            ("scores", "publish.lua", "a worker that was replaced overwrites newer scores with its own"),
            ("journal", "journal.lua", "a worker that was replaced writes history"),
            ("forgetting", "forget.lua", "a worker that was replaced deletes its successor's checkpoints"),
        )
    ),
    mutant(
        "epoch-without-token",
        "a failover of Redis reaches an epoch twice: two writers at once",
        [
            ("flip.lua", "head[1] == ARGV[1] and head[2] == ARGV[2]", "head[1] == ARGV[1]"),
            ("publish.lua", OWNER, "head[1] ~= ARGV[1]"),
            (
                "adapters/redis.py",
                "if (self.epoch, self.token) != (str(claim.epoch), claim.token):",
                "if self.epoch != str(claim.epoch):",
            ),
        ],
        "contracts/test_store.py::test_an_equal_epoch_with_another_token_is_fenced",
    ),
    mutant(
        "lease-kept-across-a-stall",
        "a worker that hangs keeps the others standing by for hours",
        [("topic_scope.py", "lease_seconds * 1_000)", "lease_seconds * 1_000_000)")],
        "test_saving_order.py::test_a_loop_that_stalls_loses_its_lease",
    ),
    mutant(
        "older-generation-claims",
        "a member that the group gave up takes its old partition back from the new owner",
        [
            ("claim.lua", "tonumber(known[2]) > tonumber(ARGV[3])", "false"),
        ],
        "test_generations.py::test_an_older_generation_is_refused_while_the_owner_lives",
    ),
    mutant(
        "claim-not-idempotent",
        "a claim whose answer was lost fences the worker against itself",
        [("claim.lua", "if head[1] ~= ARGV[1] then\n  epoch", "if true then\n  epoch")],
        "contracts/test_store.py::test_a_claim_raises_the_epoch_and_the_same_token_does_not",
    ),
    mutant(
        "save-applied-twice",
        "a save whose answer was lost is journalled twice and drops the older generation",
        [
            ("flip.lua", "if owner and wanted == stored and head[4] == ARGV[4] then", "if false then"),
            ("flip.lua", "wanted ~= stored + 1 then", "(wanted ~= stored + 1 and wanted ~= stored) then"),
        ],
        "test_redis_store.py::test_a_late_duplicate_of_a_flip_changes_nothing",
    ),
    mutant(
        "publish-applied-twice",
        "a delayed duplicate of a batch puts older scores over newer ones",
        [
            ("publish.lua", "if done then return {'done'} end", ""),
            ("publish.lua", "if not ahead then return marks end", ""),
        ],
        "contracts/test_store.py::test_a_stale_claim_of_the_same_owner_does_not_go_back_either",
    ),
    mutant(
        "journal-applied-twice",
        "an entry whose answer was lost stands in the journal twice",
        [("journal.lua", "if head[3] == ARGV[3] then", "if false then")],
        "contracts/test_store.py::test_the_same_entries_again_at_once_are_told_once",
    ),
    mutant(
        "upload-over-a-live-blob",
        "a delayed duplicate of an upload: the newest checkpoint expires after five minutes",
        [("adapters/redis.py", 'value, "NX", "EX", UPLOAD_SECONDS', 'value, "EX", UPLOAD_SECONDS')],
        "test_redis_store.py::test_a_late_duplicate_of_an_upload_cannot_put_the_expiry_back",
    ),
]

LOG = [
    mutant(
        "no-seek-on-assignment",
        "reading goes on from Kafka's committed offset: events are lost or learned twice after a crash",
        [
            (
                "adapters/kafka/source.py",
                "self._assigned = [TopicPartition(self.topic, p, offset) for",
                "self._assigned = [TopicPartition(self.topic, p) for",
            )
        ],
        "contracts/test_source.py::test_commit_is_mirrored_with_metadata_and_never_resumed_from",
        "contracts/test_source.py::test_reads_from_the_stated_offset_in_order",
    ),
    mutant(
        "lost-offsets-jumped-over",
        "events that left retention before they were read are skipped without a word",
        [("adapters/kafka/source.py", '"auto.offset.reset": "error"', '"auto.offset.reset": "earliest"')],
        "test_kafka_source.py::test_evicted_offsets_are_lost_and_said_once",
    ),
    mutant(
        "order-of-offsets-unchecked",
        "a record that comes twice is learned twice",
        [("ledger.py", "if offset < ledger.next:", "if False:")],
        "test_learner.py::test_an_offset_never_comes_twice",
    ),
    mutant(
        "order-not-summed",
        "nobody can tell in which order the partitions were folded",
        [("ledger.py", "* MULTIPLIER) & MASK", "* 1) & MASK")],
        "test_learner.py::test_the_order_of_partitions_has_a_checksum",
    ),
]

INPUT = [
    mutant(
        "validation-off",
        "strings, objects and absurd numbers reach the model, which is ruined for good",
        [
            (
                "codec/compiled.py",
                "return Annotated[float, Meta(ge=feature.low, le=feature.high)]",
                "return Any",
            )
        ],
        "test_bad_input.py::test_each_is_refused_with_its_reason[1e308]",
        "test_bad_input.py::test_each_is_refused_with_its_reason[a string for a number]",
        "test_fuzz.py::test_a_short_run_finds_nothing",
    ),
    mutant(
        "nan-let-through",
        "one NaN ruins a linear model for good",
        [
            (
                "codec/compiled.py",
                'msgspec.json.Decoder(self._struct(root, (), "n0")).decode',
                PYTHONS_JSON,
            )
        ],
        "test_bad_input.py::test_each_is_refused_with_its_reason[NaN]",
        "test_fuzz.py::test_the_corpus_is_answered_as_it_says",
    ),
    mutant(
        "unknown-fields-pass",
        "a misspelt field is ignored, and the model learns without it",
        [("codec/compiled.py", "forbid_unknown_fields=not node.open", "forbid_unknown_fields=False")],
        "test_bad_input.py::test_each_is_refused_with_its_reason[an unknown feature]",
        "test_fuzz.py::test_the_corpus_is_answered_as_it_says",
    ),
    mutant(
        "refused-events-are-learned",
        "a refused event leaves its mark on the state",
        [
            (
                "learner.py",
                "self.ledger.advance(partition, offset).dead += 1",
                "self.ledger.advance(partition, offset).dead += 1\n        self.monitor.restart()",
            )
        ],
        "test_fuzz.py::test_a_short_run_finds_nothing",
    ),
]

FOLD = [
    mutant(
        "learning-before-predicting",
        "scores and metrics that are too good: the model had seen the label",
        [
            (
                "learner.py",
                "        members, x = self.mixture.members, event.x\n",
                LEARN_FIRST,
            ),
        ],
        "test_learner.py::test_predicts_before_it_learns",
        "test_learner.py::test_observe_is_plain_river[linear]",
    ),
    mutant(
        "batches-learn-before-predicting",
        "the same, in the loop that folds most of a batch",
        [
            (
                "learner.py",
                "                answers = (first.ask(x),) if single else",
                TEACH_FIRST,
            )
        ],
        "test_learner.py::test_the_same_in_batches_of_any_size[linear-observe]",
    ),
    mutant(
        "batches-without-reweighing",
        "the mixture's weights, and with them every score, depend on how events came in batches",
        [
            (
                "learner.py",
                "                if not single:\n                    mixture.reweigh",
                "                if False:\n                    mixture.reweigh",
            )
        ],
        "test_learner.py::test_the_same_in_batches_of_any_size[linear-reweight]",
    ),
    mutant(
        "labels-as-strings",
        "other answers after every restart: River's sets of strings have another order in each process",
        [
            ("mixture.py", "values = tuple([answer.get(k, 0.0)", 'values = tuple([answer.get(f"c{k}", 0.0)'),
            (
                "mixture.py",
                "self.teach: Teach = model.learn_one",
                'self.teach: Teach = lambda x, y, **w: model.learn_one(x, f"c{y}", **w)',
            ),
        ],
        "test_learner.py::test_labels_enter_river_as_indices_and_come_back_as_names",
    ),
    mutant(
        "ties-by-hash",
        "other answers after every restart: two values of a category split equally well, a set decides",
        [("models/trees.py", "self._att_values = sorted(values)", "self._att_values = list(values)")],
        "test_ties.py::test_every_answer_is_the_same_under_any_hash_seed_and_after_a_load",
    ),
    mutant(
        "rivers-trees-as-they-are",
        "the same for every model of a factory",
        [("models/unpickle.py", "AS_OURS.get((module, name), module)", "module")],
        "test_ties.py::test_every_answer_is_the_same_under_any_hash_seed_and_after_a_load[efdt]",
        "test_ties.py::test_a_tree_that_learned_with_rivers_splitters_goes_on_with_ours",
    ),
    mutant(
        "blocks-cut-by-batches",
        "metrics that differ after a crash, since sums depend on how events came",
        [("evaluation.py", "if len(pending) >= BLOCK:", "if pending:")],
        "test_evaluation.py::test_batches_make_no_difference",
    ),
    mutant(
        "clock-cut-by-the-policy",
        "drifts are noticed at other events than the detectors say",
        [("learner.py", "if len(rows) >= CLOCK:", "if len(rows) >= CLOCK or self.events % 700 == 0:")],
        "test_learner.py::test_a_policy_that_is_asked_by_its_period_does_not_move_the_detectors_clock",
    ),
    mutant(
        "fused-in-another-order",
        "the fast way answers otherwise than River: a resumed model is another one",
        [
            (
                "fused/linear.py",
                'f"w{k} * z{k}" for k in features',
                'f"w{k} * z{k}" for k in reversed(features)',
            )
        ],
        "test_fused.py::test_equal_to_river_to_the_bit",
    ),
    mutant(
        "a-stale-answer-taught",
        "a tree is taught what it said to another event: other weights for its leaves' two ways to answer",
        [("fused/tree.py", "_leaf_for(self, x), None", "_leaf_for(self, x), self._answered")],
        "test_fused_tree.py::test_questions_and_lessons_in_any_order",
        "test_fused_tree.py::test_equal_to_river_to_the_bit",
    ),
    mutant(
        "fused-numbers-not-settled",
        "a checkpoint of what the model was when its fast way began",
        [("mixture.py", "            self.fused.settle()\n", "            pass\n")],
        "test_fused.py::test_resumed_from_a_pickle_at_any_event",
    ),
    mutant(
        "ladder-of-strangers",
        "a model that began afresh is given the scaler of one that did not",
        [
            (
                "fused/ladder.py",
                "return repr(one.read()[2:5]) == repr(other.read()[2:5])",
                "return True",
            )
        ],
        "test_ladder.py::test_members_may_be_replaced_at_any_event",
    ),
    mutant(
        "who-rests-is-forgotten",
        "a restart changes which events a lane that is worth little learns, and so its later answers",
        [("learner.py", 'rest = state.get("rest", (0, ()))', "rest = (0, ())")],
        "test_ladder.py::test_who_rests_is_part_of_the_state",
    ),
    mutant(
        "fresh-but-not-quite",
        "a model that began afresh behind lost events is judged by what the one before got wrong",
        [
            (
                "learner.py",
                "        self._settle()\n        self._retire(note)\n",
                "        self._retire(note)\n",
            )
        ],
        "test_learner.py::test_a_model_that_begins_afresh_is_the_one_that_began_there",
    ),
    mutant(
        "fresh-with-an-old-snapshot",
        "the first non-finite answer brings the model back that was given up",
        [
            (
                "learner.py",
                "self._snapshot, self._streak, self._fresh_at = {}, 0,",
                "self._streak, self._fresh_at = 0,",
            )
        ],
        "test_learner.py::test_no_snapshot_of_the_model_before_comes_back",
    ),
    mutant(
        "warmed-events-count-as-evidence",
        "rivals are promoted that are no better: they are compared where they have only begun to learn",
        [("trial.py", "if events - self.began <= self.ready:", "if events < self.began:")],
        "test_trial.py::test_nothing_is_compared_before_the_rival_is_ready",
    ),
    mutant(
        "peeking-is-not-paid-for",
        "look often enough and any rival is promoted: losing bets cost nothing",
        [("trial.py", "min(CEILING, c * (1.0 + bet * difference))", "max(c, c * (1.0 + bet * difference))")],
        "test_trial.py::test_a_rival_that_is_no_better_is_hardly_ever_promoted_however_often_one_looks",
    ),
    mutant(
        "no-rival-in-the-checkpoint",
        "after a crash a trial begins anew or never ends: other versions than without it",
        [("learner.py", '"reactions": self._reactions_state(),', '"reactions": {},')],
        "test_reactions.py::test_the_same_from_any_checkpoint_on_and_in_any_batches[tree-challenger]",
    ),
    mutant(
        "rival-asked-after-it-learned",
        "an unfair comparison: the rival has seen the label, the champion has not",
        [
            (
                "reactions.py",
                "theirs = ask_one(trial.member,",
                "trial.member.teach(event.x, y)\n            theirs = ask_one(trial.member,",
            )
        ],
        "test_reactions.py::test_a_promoted_rival_learned_what_its_champion_did_and_nothing_twice",
    ),
    mutant(
        "recalled-by-the-worst",
        "the retired model that fits least comes back, or none",
        [("trial.py", "best = min(means", "best = max(means")],
        "test_trial.py::test_a_retired_model_returns_if_it_beats_both",
    ),
    mutant(
        "ones-own-policy-unchecked",
        "a slip in a user's policy ends the worker at every start",
        [("policies/own.py", "            wrong = fault(decisions, standing)", '            wrong = ""')],
        "test_policies_more.py::test_what_it_does_wrong_is_found_and_does_no_harm[member]",
    ),
    mutant(
        "mixed-in-another-order",
        "a mixture in straight-line code that is another one than the plain: answers differ after an upgrade",
        [
            (
                "fused/mix.py",
                'f"w{k} * {letter}{k}" for k in awake',
                'f"w{k} * {letter}{k}" for k in reversed(awake)',
            )
        ],
        "test_fused_mix.py::test_equal_to_the_loops_to_the_bit",
    ),
    mutant(
        "unfit-only-at-the-start",
        "somebody lets Redis evict keys under the worker, and nobody is told",
        [("scopes.py", "        self._look_at_the_store()\n", "")],
        "test_survey.py::test_a_store_that_becomes_unfit_is_said_once_and_makes_it_not_ready",
    ),
    mutant(
        "loading-taken-for-unfit",
        "a worker that starts while Redis reads its files ends, and nobody starts it again",
        [("adapters/redis.py", 'if about.get("loading"):', "if False:")],
        "test_redis_store.py::test_a_server_that_reads_its_files_cannot_say_what_it_is",
    ),
    mutant(
        "offender-folded-again",
        "an event on which the model raises is met for ever",
        [("keeper.py", "if poisoned and ", "if False and ")],
        "test_worker.py::test_an_event_on_which_the_model_raises_is_left_out_bit_for_bit",
    ),
]

VERSIONS = [
    mutant(
        "rolled-back-twice",
        "a crash before the answer: the model that learned since the roll-back is thrown away again",
        [("rollback.py", "if _made(keeper, request) is None:", "if True:")],
        "test_rollback.py::test_a_crash_in_the_middle_takes_effect_once",
    ),
    mutant(
        "answered-before-it-is-durable",
        "a person is told that an earlier version answers, a crash later the bad one is back",
        [("rollback.py", "    if not keeper.unsaved:", "    if True:")],
        "test_rollback.py::test_a_full_store_is_answered_only_when_it_is_durable",
    ),
    mutant(
        "carried-out-although-taken-back",
        "a person was told that the request is taken back, and it is carried out all the same",
        [
            (
                "rollback.py",
                "    if taken is None:\n        log",
                "    taken = taken or request\n    if taken is None:\n        log",
            )
        ],
        "test_rollback.py::test_what_is_taken_back_while_it_is_looked_at_is_not_carried_out",
    ),
    mutant(
        "taken-back-although-carried-out",
        "the journal says that a roll-back was taken back which is in the lineage",
        [
            (
                "take.lua",
                "redis.call('HSET', KEYS[2], ARGV[3], ARGV[5])",
                "",
            )
        ],
        "contracts/test_store.py::test_a_request_that_is_carried_out_cannot_be_taken_back",
    ),
    mutant(
        "numbers-used-twice",
        "behind a lineage that began anew a number means two models, and the wrong one comes back",
        [("shard.py", "default=-1) + 2", "default=-1) * 0 + 1")],
        "test_rollback.py::test_a_lineage_that_begins_anew_takes_no_number_of_a_kept_version",
    ),
    mutant(
        "one-stands-in-for-the-other",
        "whoever can write to Redis decides which of the signed models comes back",
        [("checkpoint.py", "if number != expect.version:", "if False:")],
        "test_rollback.py::test_a_forged_version_is_refused",
    ),
    mutant(
        "pins-are-ignored",
        "the model that somebody wanted to keep is gone when it is needed",
        [
            (
                "adapters/versions.py",
                "version.at is not None and version.pinned is None",
                "version.at is not None",
            ),
            ("flip.lua", "redis.call('HEXISTS', KEYS[6], 'pin:' .. number) == 0", "true"),
        ],
        "contracts/test_store.py::test_a_pinned_one_stays_until_it_is_let_go",
    ),
    mutant(
        "judged-a-second-time",
        "learning again after a roll-back counts answers into the metrics that nobody was served",
        [
            (
                "learner.py",
                "            return self._step_again(event, ledger, self.relearning)\n",
                "            pass\n",
            )
        ],
        "test_rollback.py::test_learning_again_teaches_the_log_less_the_bad_span",
    ),
    mutant(
        "position-of-the-replaced",
        "the event at which a model was replaced is missing when it learns again",
        [("ledger.py", "self.partitions[partition], next=offset)", "self.partitions[partition])")],
        "test_rollback.py::test_a_model_that_is_replaced_has_not_learned_the_event_at_which_it_was",
    ),
]

LATE = [
    mutant(
        "poisoned-label-taken-for-its-event",
        "an event that was answered is dead-lettered, or not, as the checkpoints happened to fall",
        [("keeper.py", "self._poisoned_labels if error.late else self._poisoned", "self._poisoned")],
        "test_worker.py::test_a_late_label_on_which_the_model_raises_is_given_up_and_told",
    ),
    mutant(
        "late-labels-learned-at-once",
        "a delay that is set changes nothing: every figure of a policy under late labels is wrong",
        [("late.py", "self.came + late.delay)", "self.came)")],
        "test_late.py::test_observe_is_a_plain_river_loop_with_late_labels",
    ),
    mutant(
        "late-labels-judged-as-served",
        "a reset whose good cannot show yet is answered by another one",
        [("late.py", "            if answer is None:\n", "            if True:\n")],
        "test_late.py::test_weights_and_monitors_use_answers_asked_again",
    ),
    mutant(
        "late-metrics-as-judged",
        "metrics are of answers that nobody was served",
        [("learner.py", "held.weight, held.answer, choice))", "held.weight, again, choice))")],
        "test_late.py::test_metrics_use_what_was_served",
    ),
    mutant(
        "no-change-by-when-known",
        "with delays of their own labels look hard to guess by the last one, and a worthless model excellent",
        [("late.py", "(y, answer, before[place]) if place in before else (y, answer)", "(y, answer)")],
        "test_late.py::test_no_change_is_the_label_of_the_event_before_in_whatever_order_they_are_known",
    ),
    mutant(
        "late-classes-unwatched",
        "with late labels the plane of the predictions sees one class alone and never says a word",
        [("learner.py", "held.weight, held.answer, choice))", "held.weight, held.answer, 0))")],
        "test_late.py::test_the_plane_of_the_predictions_watches_what_was_served",
    ),
    mutant(
        "skipped-and-remembered",
        "what a roll-back leaves out is learned all the same, by the next refit",
        [("learner.py", "self.memory = Memory()  # it holds", "pass  # it holds")],
        "test_rollback.py::test_what_a_roll_back_leaves_out_is_learned_by_nobody_later",
    ),
    mutant(
        "judged-on-what-it-learned",
        "a retired model of a dead concept comes back: it knows the events that it is compared on",
        [("reactions.py", "return self.events - max(since, self._fresh_at)", "return self.events - since")],
        "test_reactions.py::test_a_retired_model_is_judged_by_events_that_it_has_not_learned",
    ),
    mutant(
        "sick-snapshot-for-ever",
        "a model is taken back to the same sick snapshot every five events, and answers nothing any more",
        [("learner.py", "        self._forget_snapshots(*lanes)\n", "")],
        "test_learner.py::test_a_snapshot_that_is_sick_itself_is_gone_back_to_once",
    ),
    mutant(
        "replaced-and-snapshot-kept",
        "after a NaN the champion that was replaced long ago answers again",
        [("reactions.py", "        self._forget_snapshots(lane)\n", "")],
        "test_learner.py::test_no_snapshot_of_a_champion_that_was_replaced_comes_back",
    ),
    mutant(
        "pending-labels-forgotten",
        "a restart loses the labels that were still to come",
        [("late.py", 'for due, n, p, o, x, *rest in state["pending"]', "for due, n, p, o, x, *rest in ()")],
        "test_late.py::test_the_same_from_any_checkpoint_on_and_in_any_batches",
    ),
]

PLANES = [
    mutant(
        "stakes-without-their-expectation",
        "data drift is called as often as it pleases, whatever `drift.expect` says",
        [("drift/plane.py", "            stakes += stake", "            stakes += 100.0 * stake")],
        "test_planes.py::test_false_alarms_hold_their_expectation_whatever_the_distribution",
    ),
    mutant(
        "evidence-not-kept",
        "a restart forgets the evidence for a change of the data that had gathered",
        [
            (
                "drift/plane.py",
                '_ARRAYS = ("counts", "fading", "known", "stakes", "lead", "since")',
                '_ARRAYS = ("counts", "fading", "known", "lead", "since")',
            )
        ],
        "test_planes.py::test_the_fold_says_what_moved_and_a_resumed_one_is_equal",
    ),
    mutant(
        "span-not-kept",
        "a restart within a span loses its events, and the fold is another one",
        [("drift/planes.py", '            "waiting": self._waiting,\n', "")],
        "test_planes.py::test_the_fold_says_what_moved_and_a_resumed_one_is_equal",
    ),
    mutant(
        "old-answers-after-a-reset",
        "each reset is followed by a drift of the predictions that is none",
        [("reactions.py", "            self.planes.restart(self.events)\n", "            pass\n")],
        "test_planes.py::test_a_reset_begins_the_predictions_anew_and_leaves_the_features",
    ),
    mutant(
        "warnings-never-taken-back",
        "a warning of the data stands for ever, and the next one is not said",
        [("drift/plane.py", "since, self.warned_at = self.warned_at, 0", "since = self.warned_at")],
        "test_planes.py::test_a_warning_is_taken_back_once_and_the_next_one_is_said",
    ),
    mutant(
        "unbounded-regression",
        "a few wild features throw a linear regression off for good",
        [("models/presets.py", "STEEPEST = 2.0", "STEEPEST = 1e12")],
        "test_ladder.py::test_wild_features_do_not_throw_a_regression_off_its_track",
    ),
    mutant(
        "rest-held-against-one",
        "a lane that rests loses its weight for it",
        [("fused/mix.py", "= served[1] if label else served[0]", "= floor")],
        "test_ladder.py::test_a_lane_wakes_when_it_is_right",
    ),
]

SIGNALS = [
    mutant(
        "unit-that-follows",
        "a regression that stops getting better is called drift, three times in 10,000 events",
        [
            (
                "drift/error.py",
                "self.recent += max(RECENT_RATE, 1.0 / self.scaled) * (seen - self.recent)",
                "self.scale += max(0.0005, 1.0 / self.scaled) * (error - self.scale)",
            )
        ],
        "test_drift.py::test_a_model_that_stops_getting_better_is_no_drift",
    ),
    mutant(
        "wild-label-blinds",
        "after one wild label no drift of a regression is found any more",
        [
            (
                "drift/error.py",
                "seen = min(error, WILD * self.scale) if self.scale > 0.0 else error",
                "seen = error",
            )
        ],
        "test_drift.py::test_one_wild_label_does_not_make_it_blind[1e+300]",
    ),
    mutant(
        "settings-in-name-only",
        "the journal says that another confidence takes effect, and the old detector goes on",
        [("drift/error.py", 'if state.get("made_by", self._made_by()) == self._made_by():', "if True:")],
        "test_drift.py::test_other_settings_take_effect_at_once_and_the_rest_goes_on",
        "test_detectors.py::test_other_options_take_effect_at_once",
    ),
    mutant(
        "predictions-cry-wolf",
        "a model that learns on is called a drift of the predictions every few thousand events",
        [("drift/plane.py", "if self._together and not any(map(_is_news, signal.moved)):", "if False:")],
        "test_planes.py::test_answers_that_moved_by_little_are_no_news_however_sure_it_is",
    ),
    mutant(
        "bayes-forgets-ties",
        "naive Bayes by the shortcut answers differently from River where classes are equally likely",
        [("fused/bayes.py", "np.log1p(rest / tops)", "np.log1p(rest)")],
        "test_fused_bayes.py::test_the_sum_is_scipys_to_the_bit",
    ),
    mutant(
        "from-ahead-blocks",
        "one event with the time of next month, and no scheduled renewal comes until then",
        [
            (
                "policies/scheduled.py",
                "if version.cause == self.action and done <= now:",
                "if version.cause == self.action:",
            )
        ],
        "test_policies_more.py::test_the_day_that_an_event_was_ahead_of_has_its_own_midnight",
        "test_policies_more.py::test_an_event_from_far_ahead_makes_one_renewal_and_takes_none",
    ),
    mutant(
        "rungs-from-below-only",
        "a ladder does nothing about a feature that fell, or is no longer absent",
        [
            (
                "policies/ladder.py",
                "[abs(each.distance) for each in signal.moved]",
                "[each.distance for each in signal.moved]",
            )
        ],
        "test_policies_more.py::test_a_rung_of_the_data_is_reached_from_above_and_below",
    ),
    mutant(
        "compare-with-still-weights",
        "two versions of a mixture are compared by weights that never move: points off",
        [("cli/comparing.py", "self.mixture.reweigh(y, self._answers, self._served)", "pass")],
        "test_versions_compare.py::test_what_learns_as_it_goes_answers_as_the_fold_does",
    ),
    mutant(
        "learning-again-for-ever",
        "a roll-back that has nothing to learn again is never over, and no other one is taken",
        [
            (
                "learner.py",
                "if (ended := self._relearned(last)) is not None:",
                "if (ended := None) is not None:",
            )
        ],
        "test_rollback.py::test_with_nothing_to_learn_again_it_is_over_at_once",
    ),
    mutant(
        "notes-go-with-models",
        "what a person wrote about a version is gone while the version is still listed",
        [
            (
                "flip.lua",
                "'HDEL', KEYS[6], number)  -- a note on it stays",
                "'HDEL', KEYS[6], number, 'note:' .. number)",
            )
        ],
        "contracts/test_store.py::test_a_note_outlives_its_model",
    ),
]

MUTANTS = (*SAVING, *STATE, *FENCES, *LOG, *INPUT, *FOLD, *VERSIONS, *LATE, *PLANES, *SIGNALS)
