//! The brain of runner-manager: what is true (`model`), what follows (`machine`), what is needed (`port`), and the
//! actors that carry it out (`actor`). No HTTP, no SDK, no database.

pub mod actor;
pub mod id;
pub mod machine;
pub mod model;
pub mod port;
