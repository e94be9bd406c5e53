//! What every adapter of the Store port must keep: one test per promise, the same for all.
//!
//! An adapter's test file includes this as a module, implements [`Adapter`] and calls `store_contract!`.

use std::sync::Arc;

use actors::port::Store;

#[path = "store/deliveries.rs"]
pub mod deliveries;
#[path = "store/model.rs"]
pub mod model;
#[path = "store/samples.rs"]
pub mod samples;
#[path = "store/sealed.rs"]
pub mod sealed;
#[path = "store/snapshots.rs"]
pub mod snapshots;
#[path = "store/whole.rs"]
pub mod whole;

/// A place for one store that starts empty. Dropped, it takes everything with it.
pub trait Adapter: Send + Sync {
    /// A new, empty place.
    fn new() -> impl Future<Output = Self> + Send;
    /// Opens the store. After `close` of an earlier one, it holds what that one held.
    fn open(&self) -> impl Future<Output = Arc<dyn Store>> + Send;
}

/// Makes a test of each promise for one adapter.
#[macro_export]
macro_rules! store_contract {
    ($adapter:ty: $($part:ident { $($promise:ident)+ })+) => {$($(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $promise() {
            let adapter = <$adapter as $crate::store::Adapter>::new().await;
            $crate::store::$part::$promise(&adapter).await;
        }
    )+)+};
    ($adapter:ty) => {
        $crate::store_contract! {$adapter:
            deliveries {
                an_empty_store_knows_nothing_and_says_so_without_an_error
                a_recorded_delivery_is_in_the_inbox_of_its_group_as_it_came
                a_delivery_id_is_recorded_once
                a_job_stays_with_the_group_of_its_first_recorded_delivery
                a_saved_job_stays_with_its_group_even_if_no_delivery_came_first
                a_delivery_that_names_a_runner_of_another_group_is_in_both_inboxes
                a_delivery_for_a_runner_alone_is_not_assigned
                an_unmatched_job_is_kept_replaced_and_forgotten_once_routed
                an_unmatched_job_does_not_replace_an_assigned_one
                an_inbox_is_read_in_order_from_any_place_in_any_portion
                inboxes_of_different_groups_are_apart
                an_entry_knows_the_job_as_it_was_saved
                a_delivery_for_a_final_job_is_still_in_the_inbox
                saved_deliveries_leave_the_inbox_and_places_are_not_used_again
                a_save_without_a_snapshot_leaves_the_inbox_alone
            }
            snapshots {
                what_was_saved_is_what_is_loaded
                final_runners_and_jobs_are_kept_but_not_loaded
                each_owner_gets_a_greater_token
                a_stale_owner_s_save_changes_nothing
                a_save_without_an_owner_is_refused
                jobs_are_listed_newest_first_and_filtered
                runners_are_listed_by_name_and_filtered
                what_is_past_its_time_is_forgotten_and_nothing_else
                a_forgotten_delivery_id_is_new_again
                more_than_one_step_of_pruning_is_carried_through
            }
            sealed {
                what_is_kept_sealed_is_found_by_its_key_alone_and_as_it_was
                what_is_sealed_again_under_a_key_replaces_it
                what_is_sealed_for_a_runner_is_forgotten_together_and_nothing_else
                what_is_sealed_is_forgotten_after_its_time
                what_is_sealed_survives_a_restart_and_is_in_no_listing
                a_closed_store_keeps_and_finds_nothing_sealed
            }
            whole {
                concurrent_deliveries_are_each_recorded_once_in_one_order
                concurrent_saves_take_effect_in_the_order_of_their_calls
                concurrent_owners_all_get_different_tokens
                recovery_from_snapshot_and_inbox_equals_an_uninterrupted_run
                everything_is_still_there_when_opened_again
                numbers_and_texts_at_their_limits_come_back_unchanged
                a_probe_works_on_a_store_that_works
                a_closed_store_refuses_every_call
            }
        }

        #[test]
        fn any_sequence_of_operations_gives_what_a_simple_model_gives() {
            $crate::store::model::any_sequence_of_operations_gives_what_a_simple_model_gives::<$adapter>();
        }
    };
}
