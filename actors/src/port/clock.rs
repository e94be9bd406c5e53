//! Time and chance, so that tests can decide both.

use jiff::Timestamp;

/// The source of time and of randomness.
pub trait Clock: Send + Sync + 'static {
    /// The time now, UTC.
    fn now(&self) -> Timestamp;

    /// 64 bits that no other call returned, not even in another process.
    fn entropy(&self) -> u64;
}
