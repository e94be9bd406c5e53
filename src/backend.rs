//! The backends: one file each, one line here.

pub mod base;
pub mod docker;
pub mod external;
mod locks;
pub mod process;

use std::io::ErrorKind;
use std::path::Path;

use actors::port::backend::{BackendError, InstanceSpec, Owner};
use rustix::fs::{Access, access};

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

/// Whether a file can be run by this user; if not, why, to follow its path.
fn executable(path: &Path) -> Result<(), String> {
    match path.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => Err("does not exist".to_owned()),
        Err(error) => Err(format!("cannot be examined: {error}")),
        Ok(metadata) if !metadata.is_file() => Err("is not a file".to_owned()),
        Ok(_) => access(path, Access::EXEC_OK).map_err(|_| "is not executable for this user".to_owned()),
    }
}
