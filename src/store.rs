//! Durable stores: the port [`actors::port::Store`] on a local disk.
//!
//! # What is guaranteed
//! - **Acknowledged is durable.** [`Store::record`](actors::port::Store::record) and
//!   [`Store::save`](actors::port::Store::save) answer after the operating system reported the write as flushed
//!   to the device. `kill -9` or a loss of power takes nothing that was answered with `Ok`.
//! - **Atomic.** Each operation happens as a whole or not at all, also when many share one flush.
//! - **Once.** A delivery id is recorded once until it is pruned, whatever comes concurrently.
//! - **In order.** Writes take effect in the order in which their futures were first polled. Dropping such a future
//!   afterwards does not take the write back.
//! - **Read your writes.** A read sees every write that was acknowledged before the read began.
//! - **One writer.** A save with a stale token changes nothing; a second process is refused the directory.
//! - **Nothing unreadable blocks.** An entry that cannot be read is moved to the table `set_aside`; a database file
//!   that cannot be read is renamed `state.db.corrupt-<time>` beside an empty new one. Both are logged as errors. An
//!   empty store says "nothing is known", never "nothing exists".
//! - **A full disk is survived.** Writes fail as [`StoreError::Unavailable`](actors::port::StoreError::Unavailable)
//!   and work again once there is room; reads go on.
//! - **Bounded.** So many writes may wait, in number and bytes; more are refused at once, as are all while the disk
//!   has not answered for long.
//! - **Versioned.** Snapshots carry their version, the file its schema's: newer releases read what older ones wrote, and an
//!   older release refuses a newer file instead of misreading it.

pub mod codec;
pub mod embedded;
pub mod redis;
pub mod replica_id;

pub use embedded::{Embedded, OpenError};
pub use redis::Redis;
