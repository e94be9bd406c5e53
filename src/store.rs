//! Durable stores: the port [`actors::port::Store`] on a local disk ([`embedded`]) and in Redis ([`redis`]), which also
//! is where replicas meet ([`actors::port::replicas::Replicas`]).
//!
//! # What both guarantee
//! - **Atomic.** Each operation happens as a whole or not at all, also when many share one flush or one round trip.
//! - **Once.** A delivery id is recorded once until it is pruned, whatever comes concurrently.
//! - **In order.** Writes take effect in the order in which their futures were first polled.
//! - **Read your writes.** A read sees every write that was acknowledged before the read began.
//! - **One writer.** A save with a stale token changes nothing.
//! - **Nothing unreadable blocks.** An entry that cannot be read is moved to `set_aside`, and logged as an error. An empty
//!   store says "nothing is known", never "nothing exists".
//! - **A full disk or memory is survived.** Writes fail as
//!   [`StoreError::Unavailable`](actors::port::StoreError::Unavailable) and work again once there is room; reads go on.
//! - **Bounded.** So many writes may wait, in number and bytes; more are refused at once.
//! - **Versioned.** Snapshots carry their version, the file or the keys their schema's: newer releases read what older ones
//!   wrote, and an older release refuses newer data instead of misreading it.
//!
//! # On a local disk
//! - **Acknowledged is durable.** [`Store::record`](actors::port::Store::record) and
//!   [`Store::save`](actors::port::Store::save) answer after the operating system reported the write as flushed
//!   to the device. `kill -9` or a loss of power takes nothing that was answered with `Ok`.
//! - A future that is dropped after its first poll does not take the write back.
//! - A second process is refused the directory. A database file that cannot be read is renamed
//!   `state.db.corrupt-<time>` beside an empty new one.
//! - While the disk has not answered for long, writes are refused at once.
//!
//! # In Redis
//! How long an acknowledged write lives is Redis's affair, by its settings:
//!
//! | Redis | may be lost of what was acknowledged |
//! |---|---|
//! | `appendonly yes`, `appendfsync always` | nothing, as long as its disk lives |
//! | `appendonly yes`, `appendfsync everysec` (its default) | nothing when the process ends; the last second or two when the machine does |
//! | `appendonly no` | all since its last snapshot (a warning says so) |
//! | a fail-over to a replica | what the replica did not have yet; with `redis_wait_replicas: n`, nothing as long as Sentinel or the cluster chooses one of the replicas that have most |
//! | `maxmemory-policy allkeys-…` | refused: Redis would throw state away |
//!
//! What is lost is noticed: the owner of a group is told [`StoreError::Forgotten`](actors::port::StoreError::Forgotten)
//! with its next save, and saves all it knows again. Places and tokens come from the clock of the server, so that new ones
//! are greater than those that were lost. Deliveries that were lost are found again by health checks.
//!
//! - **In time.** Each operation ends within a time, also when the server does not answer; whether a write took effect is
//!   then unknown. One that is carried out late changes nothing that was saved after it.
//! - **It heals.** A server that was restarted, failed over, or was not there yet is used as soon as it can be. A write
//!   whose connection was cut is sent again, so that a delivery may be told to be a duplicate of itself.

pub mod codec;
pub mod embedded;
pub mod redis;
pub mod replica_id;

pub use embedded::{DirState, Embedded, OpenError};
pub use redis::Redis;
