//! The system's clock and its randomness.

use actors::port::Clock;
use jiff::Timestamp;

/// Wall-clock time, and chance from the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn entropy(&self) -> u64 {
        rand::random()
    }
}
