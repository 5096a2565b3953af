/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KATA_TESTS_SUPPORT_VM_CONTRACT_H
#define KATA_TESTS_SUPPORT_VM_CONTRACT_H
/*
 * What every kind of VM must do, as one suite that is run for each: the mock, the QEMU driver on the stand-in, real
 * QEMU, a builder of somebody else's. A test file describes its kind and instantiates the cases:
 *
 *     static const struct vm_kind mock_kind = {...};
 *     #define CASE(name) Test(vm_mock, name, .timeout = 60) { vm_contract_##name(&mock_kind); }
 *     VM_CONTRACT_CASES(CASE)
 */
#include "support/fixture.h"

struct vm_kind {
	const char *name;
	/* A builder in the fixture's context. */
	kata_vm_builder *(*new_builder)(struct fixture *f);
	/* Kernel, initrd, memory: what this kind needs; strings may be kept in the fixture. */
	void (*configure)(struct fixture *f, kata_vm_config *config);
	/* Kills the machine behind the library's back. */
	void (*end)(kata_vm *vm);
	/* May: waits until the guest is up, so that it lets go of devices. */
	void (*await_guest)(struct fixture *f, kata_vm *vm);
	uint64_t patience_ms; /* for what takes no time but the machine's own */
	bool opens_files;     /* images and taps are opened and checked */
	bool is_warm;         /* the machine is there before the start (kata/factory.h) */
};

/* One fixture, builder and VM for a case. */
struct vm_world {
	struct fixture f;
	const struct vm_kind *kind;
	kata_vm_builder *builder;
	kata_vm *vm;
	kata_vm_config config;
	struct census *before; /* with the builder, without a VM */
	unsigned disks;
	kata_error *err;
};

/* A VM in CREATED; `device_slots` 0: the default. */
void world_open(struct vm_world *w, const struct vm_kind *kind, uint32_t device_slots);
void world_build(struct vm_world *w);
/* Starts, and waits for the guest where the kind has one. */
void world_start(struct vm_world *w);
/* Destroys what is left and asserts that the host is as before the VM. */
void world_destroy(struct vm_world *w);
void world_close(struct vm_world *w);
/* A new disk of 1 MiB, a new NIC; the caller unrefs. */
kata_storage *world_disk(struct vm_world *w, const char *id, kata_storage_driver driver);
kata_nic *world_nic(const char *id, const char *mac);
/* Rebuilds from a record into w->vm, which must be NULL. */
void world_rebuild(struct vm_world *w, const char *json);
/* Plugs or unplugs and asserts that it went well. */
void world_plug_disk(struct vm_world *w, const char *id, kata_storage_driver driver);
void world_plug_nic(struct vm_world *w, const char *id, const char *mac);

/* An operation under test. begin starts it on w->vm; `back` undoes a success, so that the next round begins alike. */
struct world_operation {
	int (*begin)(struct vm_world *w, kata_op **ret_op, kata_error **err);
	void (*back)(struct vm_world *w);
	void (*check_failed)(struct vm_world *w); /* the objects after a failure */
	const char *asks,
		*answered; /* of an unplug: the steps that ask the guest, and that have its answer; NULL: none */
};
/* Each step of it fails once before and once after it did its work; the host must be as before, and the same call then
 * succeeds. */
void world_fail_each_step(struct vm_world *w, const struct world_operation *o, bool check_census);

#define VM_CONTRACT_CASES(X)                                                                                           \
	X(a_new_vm_is_created_and_has_an_identity)                                                                     \
	X(an_id_that_is_in_use_is_refused)                                                                             \
	X(a_machine_runs_until_it_is_destroyed)                                                                        \
	X(destroying_twice_does_nothing_the_second_time)                                                               \
	X(the_last_unref_of_a_live_machine_destroys_it)                                                                \
	X(pausing_what_is_paused_and_resuming_what_runs_succeed)                                                       \
	X(a_machine_that_ends_by_itself_is_noticed)                                                                    \
	X(waiting_for_a_running_machine_times_out)                                                                     \
	X(a_call_in_a_forbidden_state_says_current_and_required)                                                       \
	X(a_context_with_live_objects_is_not_freed)                                                                    \
	X(stats_count_devices_and_slots)                                                                               \
	X(cold_and_hot_plug_give_the_same_kind_of_result)                                                              \
	X(a_plugged_id_is_refused)                                                                                     \
	X(a_plugged_file_is_refused)                                                                                   \
	X(a_backing_file_and_a_disk_that_writes_to_it_exclude_each_other)                                              \
	X(a_storage_is_plugged_into_one_machine_at_a_time)                                                             \
	X(two_nics_with_one_mac_are_refused)                                                                           \
	X(exhausted_slots_say_how_many_there_are)                                                                      \
	X(scsi_disks_take_no_device_slot)                                                                              \
	X(an_unknown_device_cannot_be_removed)                                                                         \
	X(a_slot_is_free_again_after_the_unplug)                                                                       \
	X(a_removed_device_can_be_plugged_again)                                                                       \
	X(devices_are_listed_in_order_and_found_by_id)                                                                 \
	X(a_batch_plugs_all_its_devices)                                                                               \
	X(a_batch_that_does_not_fit_touches_nothing)                                                                   \
	X(a_batch_with_two_items_of_one_id_touches_nothing)                                                            \
	X(an_all_or_nothing_batch_undoes_what_succeeded)                                                               \
	X(a_batch_keeps_what_succeeded_unless_told_otherwise)                                                          \
	X(release_refuses_while_an_operation_is_at_work)                                                               \
	X(destroy_cancels_operations_under_way)                                                                        \
	X(a_released_machine_is_rebuilt_with_its_devices)                                                              \
	X(a_paused_machine_is_rebuilt_paused)                                                                          \
	X(a_cut_or_changed_record_is_refused)                                                                          \
	X(the_record_of_a_destroyed_machine_is_refused)                                                                \
	X(a_step_that_hangs_ends_by_the_deadline)                                                                      \
	X(a_cancelled_operation_leaves_the_host_as_before)                                                             \
	X(a_failed_start_leaves_the_host_as_before)                                                                    \
	X(a_failed_plug_of_a_disk_leaves_the_host_as_before)                                                           \
	X(a_failed_plug_of_a_scsi_disk_leaves_the_host_as_before)                                                      \
	X(a_failed_plug_of_a_nic_leaves_the_host_as_before)                                                            \
	X(a_failed_plug_or_unplug_of_a_tap_leaves_no_link)                                                             \
	X(a_failed_cold_plug_leaves_the_host_as_before)                                                                \
	X(a_failed_unplug_of_a_disk_leaves_it_there_or_diverged)                                                       \
	X(a_failed_unplug_of_a_nic_leaves_it_there_or_diverged)                                                        \
	X(a_failed_pause_leaves_the_machine_running)                                                                   \
	X(a_failed_resume_leaves_the_machine_paused)                                                                   \
	X(a_failed_release_leaves_the_machine_ours)                                                                    \
	X(a_failed_rebuild_can_be_tried_again)                                                                         \
	X(a_failed_destroy_can_be_called_again)                                                                        \
	X(a_saved_machine_runs_on_and_is_restored_with_its_devices)                                                    \
	X(a_saved_machine_has_the_shape_it_was_saved_with)                                                             \
	X(a_machine_saved_while_paused_stays_paused)                                                                   \
	X(a_restore_can_end_paused)                                                                                    \
	X(a_machine_is_restored_side_by_side)                                                                          \
	X(devices_added_before_a_restore_are_plugged_behind_the_load)                                                  \
	X(what_came_with_a_snapshot_is_removed_only_after_the_start)                                                   \
	X(saving_refuses_while_an_operation_is_at_work)                                                                \
	X(a_save_that_is_cancelled_leaves_the_machine_running)                                                         \
	X(a_failed_save_leaves_the_machine_running)                                                                    \
	X(a_failed_save_of_a_paused_machine_leaves_it_paused)                                                          \
	X(a_failed_save_of_shared_memory_leaves_the_machine_running)                                                   \
	X(a_machine_saved_with_shared_memory_can_only_be_destroyed)                                                    \
	X(a_failed_restore_leaves_the_host_as_before)

#define VM_CONTRACT_DECLARE(name) void vm_contract_##name(const struct vm_kind *kind);
VM_CONTRACT_CASES(VM_CONTRACT_DECLARE)
#endif
