//! The backends: one file each, one line here.

pub mod base;
pub mod docker;
mod locks;
pub mod process;

use actors::port::backend::{BackendError, InstanceSpec, Owner};

/// Refuses to make an instance for somebody else than the backend's own group.
fn check_owner(own: &Owner, spec: &InstanceSpec) -> Result<(), BackendError> {
    if spec.owner == *own {
        return Ok(());
    }
    Err(BackendError::Invalid(format!(
        "runner {} belongs to group {} of manager {}, but this backend serves group {} of manager {}",
        spec.runner, spec.owner.group, spec.owner.manager, own.group, own.manager
    )))
}
