//! What the brain needs from the world: small traits, idempotent where they say so.

pub mod backend;
pub mod boot;
pub mod clock;
pub mod github;
pub mod observer;
pub mod replicas;
pub mod store;

pub use backend::{Backend, BackendError};
pub use boot::{Boot, BootError};
pub use clock::Clock;
pub use github::{GitHub, GitHubError};
pub use observer::{Observation, Observer};
pub use replicas::Replicas;
pub use store::{Store, StoreError};
